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
    """Configures TensorFlow and Keras, float32 without TensorFloat-32, and returns the
    `tf.distribute` strategy.

    Raises:
      RunError: if the device does not exist, or TF_CONFIG is missing or wrong.
    """
    _select_device(hardware.device)
    # Of GPUs that have it, TensorFlow would take it for float32: products with 10 bits of mantissa
    # instead of 23, which move a log-density of a mixture by tenths of a nat.
    tf.config.experimental.enable_tensor_float_32_execution(False)
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
    if resolver is None or not resolver.task_type:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return (resolver.task_type, resolver.task_id) == ("chief" if has_chief else "worker", 0)


def check_agreement(strategy, epoch):
    """Checks that all workers go on from the same epoch; all of them must call it.

    Raises:
      RunError: on every worker, if they do not: they would wait for each other for ever.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return

    @tf.function
    def everywhere():
        return strategy.gather(strategy.run(lambda: tf.constant([epoch])), axis=0)

    epochs = sorted(set(everywhere().numpy().tolist()))
    if len(epochs) > 1:
        raise RunError(
            f"the workers would go on from different epochs: {epochs}; "
            "expected one --workdir that all of them share"
        )


def for_replicas(strategy, batches, endless=False):
    """The batches of a run as Keras' `fit` needs them under a strategy: every replica gets its
    part of every batch, whatever process it is in, and all together get the batch once.

    The parts are as equal as possible, in the order of the replicas. Each process makes the whole
    batch and takes what is its own, so that the images and their binarisation are those of a run
    on one device.

    Args:
      batches: a `tf.data.Dataset` of tensors `[B, ...]`, or nested tuples of them, equal in every
        process.
      endless: whether there is no last batch, which saves asking for it at every step.

    Returns:
      `batches` itself where there is no strategy.
    """
    with strategy.scope():
        if not tf.distribute.has_strategy():
            return batches

    def of_process(context):
        replicas = context.num_replicas_in_sync
        local = replicas // context.num_input_pipelines
        first = context.input_pipeline_id * local

        def part(x, replica):
            size = tf.shape(x, tf.int64)[0]
            own = x[replica * size // replicas : (replica + 1) * size // replicas]
            if x.shape[0] is not None and x.shape[0] % replicas == 0:
                own = tf.ensure_shape(own, [x.shape[0] // replicas, *x.shape[1:]])
            return own

        def parts(*batch):
            batch = batch[0] if len(batch) == 1 else batch
            own = tf.data.Dataset.range(first, first + local)
            return own.map(lambda r: tf.nest.map_structure(lambda x: part(x, r), batch))

        divided = batches.flat_map(parts)
        if endless:
            divided = divided.apply(
                tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
            )
        return divided.prefetch(2 * local)

    return strategy.distribute_datasets_from_function(of_process)


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
    text = os.environ.get("TF_CONFIG")
    try:
        values = json.loads(text or "")
        cluster, task = values["cluster"], values["task"]
        if task["index"] not in range(len(cluster[task["type"]])) or not cluster["worker"]:
            raise IndexError("task is none of cluster")
    except (LookupError, ValueError, TypeError) as error:
        raise RunError(
            "multi_worker needs the environment variable TF_CONFIG, such as "
            '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, '
            f'"task": {{"type": "worker", "index": 0}}}}. Received: {text!r} ({error!r})'
        ) from error
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"the workers of TF_CONFIG do not come together: {reason}") from error
