"""Which device computes, and how: chosen once, before TensorFlow touches a device."""

import dataclasses
import json
import os

import keras
import tensorflow as tf

from tfhvae.errors import RunError

DISTRIBUTIONS = ("none", "mirrored", "multi_worker")


@dataclasses.dataclass(frozen=True)
class Hardware:
    """How a run is computed; it changes speed, and rounding, but not the experiment.

    Args:
      device: "cpu", "gpu", "gpu:1", or "" for a GPU where there is one.
      jit_compile: compile with XLA; None decides by model (dense networks gain, convolutions on a
        CPU lose).
      deterministic: only operations with reproducible results.
      distribute: "none", "mirrored" (all visible GPUs of this machine) or "multi_worker" (as
        TF_CONFIG says).
    """

    device: str = ""
    jit_compile: bool | None = None
    deterministic: bool = False
    distribute: str = "none"


def set_up(hardware, mixed_precision=False):
    """Configures TensorFlow and Keras and returns the `tf.distribute` strategy.

    Raises:
      RunError: if the device does not exist, or TF_CONFIG is missing or wrong.
    """
    _select_device(hardware.device)
    if hardware.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy("mixed_bfloat16" if mixed_precision else "float32")
    if hardware.distribute == "mirrored":
        return tf.distribute.MirroredStrategy()
    if hardware.distribute == "multi_worker":
        return _multi_worker_strategy()
    if hardware.distribute != "none":
        raise RunError(
            f"expected distribute to be one of: {', '.join(DISTRIBUTIONS)}. Received: {hardware.distribute!r}"
        )
    return tf.distribute.get_strategy()


def is_chief(strategy):
    """Whether this process writes the run's files."""
    resolver = strategy.cluster_resolver
    return (
        resolver is None
        or not resolver.task_type
        or (resolver.task_type in ("chief", "worker") and resolver.task_id == 0)
    )


def _select_device(device):
    if not device:
        return
    kind, _, index = device.partition(":")
    gpus = tf.config.list_physical_devices("GPU")
    known = ["cpu", *(["gpu"] if gpus else []), *(f"gpu:{i}" for i in range(len(gpus)))]
    if device not in known:
        raise RunError(f"expected a device among: {', '.join(known)}. Received: {device!r}")
    tf.config.set_visible_devices(
        [] if kind == "cpu" else [gpus[int(index)]] if index else gpus, "GPU"
    )


def _multi_worker_strategy():
    try:
        cluster = json.loads(os.environ["TF_CONFIG"])
        cluster["cluster"]["worker"], cluster["task"]["index"]
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(
            'multi_worker needs the environment variable TF_CONFIG, such as {"cluster": {"worker": ["host1:12345", "host2:12345"]}, '
            f'"task": {{"type": "worker", "index": 0}}}}. Received: {os.environ.get("TF_CONFIG")!r} ({error!r})'
        ) from error
    return tf.distribute.MultiWorkerMirroredStrategy()
