"""What several files of tests share."""

import json
import os
import pathlib
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:  # one process for each core: more threads would only wait
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")


@pytest.fixture(scope="session")
def data_dir():
    """Folder of the real data sets: TFHVAE_DATA, else ../shared/data beside the repository."""
    return pathlib.Path(os.environ.get("TFHVAE_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def seeded():
    """Equal initial weights in every run of a test."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture
def killed_and_continued(tmp_path):
    """`run(command, last_epoch, between=None) -> (folder, output, summary)`: the command line
    `command(folder)` in one folder without an interruption; in another one killed (-9) after its
    first checkpoint and, after a call of `between`, started once more. Asserts that both come to
    the same, bit by bit; returns the second folder, what the run without an interruption printed,
    and the summary without its clock times."""
    import numpy as np

    def run(command, last_epoch, between=None):
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        options = {"check": True, "capture_output": True, "text": True, "timeout": 900}
        first = subprocess.run(command(whole), **options)
        process = subprocess.Popen(
            command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 600
        while not list(killed.glob("checkpoints/epoch-*.npz")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        last = f"checkpoints/epoch-{last_epoch:05}.npz"
        assert not (killed / last).exists(), "the run ended before it was killed"
        if between is not None:
            between()
        again = subprocess.run(command(killed), **options)
        assert "going on after epoch" in again.stdout

        assert (whole / "metrics.csv").read_bytes() == (killed / "metrics.csv").read_bytes()
        for name in ("evaluation.npz", last):
            with np.load(whole / name) as expected, np.load(killed / name) as actual:
                assert expected.files == actual.files
                for key in expected.files:
                    if key != "state":  # holds clock times
                        np.testing.assert_array_equal(actual[key], expected[key], err_msg=key)
        clocks = ("train_seconds", "train_images_per_second")
        summaries = [
            {
                name: value
                for name, value in json.loads((folder / "summary.json").read_text()).items()
                if name not in clocks
            }
            for folder in (whole, killed)
        ]
        assert summaries[0] == summaries[1]
        return killed, first.stdout, summaries[1]

    return run


@pytest.fixture
def linear_gaussian():
    """`make(q_error=0.0, seed=0) -> model`, a two-level linear-Gaussian model whose q is the exact
    posterior, moved away from it by `q_error`.

        z2 ~ N(0, I),   z1 ~ N(a z2, t² I),   x ~ N(U (w z1) + b, s² I),    U with orthonormal
        columns

    so every posterior factorises, and every importance weight equals p(x) where `q_error` is 0.
    The model has `event_shape` (1, 4, 1), D = 3 units in z2 and z1, and
    `exact_log_px(x) -> [B]` in float64.
    """
    import numpy as np
    import scipy.stats
    import tensorflow as tf
    import tensorflow_probability as tfp

    from tfhvae.models import LatentVariableModel
    from tfhvae.traces import STANDARD_NORMAL, Trace, draw

    tfd = tfp.distributions

    class LinearGaussian(LatentVariableModel):
        def __init__(self, q_error, seed):
            super().__init__((1, 4, 1), name="linear_gaussian")
            rng = np.random.default_rng(seed)
            u = np.linalg.qr(rng.normal(size=(4, 3)))[0]
            b, a, w = rng.normal(size=4), rng.uniform(0.5, 1.5, 3), rng.uniform(0.5, 2.0, 3)
            t, s = 0.8, 0.6
            precision_z1 = 1 / t**2 + w**2 / s**2
            marginal = w**2 * t**2 + s**2  # variance of U'x given z2
            precision_z2 = 1 + w**2 * a**2 / marginal
            values = {
                "u": u,
                "b": b,
                "a": a,
                "w": w,
                "log_t": np.log(t),
                "log_s": np.log(s),
                "q_z2_x": w * a / marginal / precision_z2 + q_error,
                "q_z2_log_scale": -0.5 * np.log(precision_z2) - q_error,
                "q_z1_x": w / s**2 / precision_z1 - q_error,
                "q_z1_z2": a / t**2 / precision_z1 + q_error,
                "q_z1_log_scale": -0.5 * np.log(precision_z1) + q_error,
            }
            self.named = {
                name: self.add_weight(
                    shape=np.shape(value),
                    initializer=lambda shape, dtype=None, value=value: tf.constant(value, dtype),
                    name=name,
                )
                for name, value in values.items()
            }
            covariance = (u * (w**2 * (a**2 + t**2))) @ u.T + s**2 * np.eye(4)
            self._marginal = scipy.stats.multivariate_normal(b, covariance)
            self.build_from_event_shape()

        @property
        def noise_shapes(self):
            return {"z2": (3,), "z1": (3,)}

        def exact_log_px(self, x):
            return np.atleast_1d(self._marginal.logpdf(np.reshape(x, [-1, 4]).astype(np.float64)))

        def decode(self, latents, training=False):
            v = self.named
            loc = tf.matmul(latents["z1"] * v["w"], v["u"], transpose_b=True) + v["b"]
            loc = tf.reshape(loc, tf.concat([tf.shape(loc)[:-1], [1, 4, 1]], 0))
            return tfd.Independent(tfd.Normal(loc, tf.exp(v["log_s"])), 3)

        def trace(self, x, num_samples=1, noise=None, values=None, training=False):
            v, values = self.named, values or {}
            x, noise = self.images_and_noise(x, noise, num_samples)
            y = tf.matmul(tf.reshape(x, [-1, 4]) - v["b"], v["u"])  # [B, 3]
            q_z2 = (v["q_z2_x"] * y, tf.exp(v["q_z2_log_scale"]))
            z2 = draw(q_z2, STANDARD_NORMAL, noise["z2"], values.get("z2"))
            q_z1 = (v["q_z1_x"] * y + v["q_z1_z2"] * z2.value, tf.exp(v["q_z1_log_scale"]))
            p_z1 = (v["a"] * z2.value, tf.exp(v["log_t"]))
            z1 = draw(q_z1, p_z1, noise["z1"], values.get("z1"))
            log_px = self.decode({"z1": z1.value}).log_prob(x)
            return Trace({"z2": z2, "z1": z1}, log_px)

    return lambda q_error=0.0, seed=0: LinearGaussian(q_error, seed)
