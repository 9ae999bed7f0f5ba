"""Batch normalisation, written out or by TensorFlow's fused kernel: faster than the stock layer."""

import keras
from keras import ops

from tfhvae.layers.folding import fold_leading_axes, unfold_leading_axes

FUSED_DTYPES = ("float16", "bfloat16", "float32")  # of images; the kernel's weights are float32


@keras.saving.register_keras_serializable(package="tfhvae")
class BatchNormalization(keras.layers.Layer):
    """Normalises each feature over all other axes.

    ```none
    output = gamma (x - mean) / sqrt(variance + epsilon) + beta
    ```

    In training, mean and variance (the biased one) are those of the batch, and
    running averages of both follow them; otherwise, and in a layer that is not
    `trainable`, the running averages take their place. Where a batch holds S samples of each of its examples, `[S, B, D]`,
    the statistics are taken over all S * B rows: an example counts with all its
    samples, and the mean over samples is one over draws of the same
    distribution, so that S changes the noise of the statistics, not what they
    estimate.

    Statistics and output are computed in float32 under mixed precision; the
    output is then cast to the compute dtype.

    Args:
        momentum: share of the running averages that stays, per update.
        epsilon: added to the variance.
        scale: whether there is a gamma.
        fused: whether TensorFlow's fused kernel normalises images, inputs of four axes or more:
            outside XLA, that and its gradient take a third of the time or less. Vectors, weights
            of another dtype than float32, which the kernel does not know, and other backends of
            Keras are written out all the same.

    Input shape: `[..., D]`.

    Output shape: `[..., D]`.

    References:
        Ioffe & Szegedy, Batch normalization, 2015, algorithms 1 and 2.
        Sønderby et al. 2016a, section 2.3: essential for more than two layers of
            latent variables.
    """

    def __init__(self, momentum=0.99, epsilon=1e-3, scale=True, fused=False, **kwargs):
        super().__init__(**kwargs)
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"expected 0 <= momentum < 1. Received: momentum={momentum!r}")
        if not epsilon > 0.0:
            raise ValueError(f"expected epsilon to be positive. Received: epsilon={epsilon!r}")
        self.momentum = momentum
        self.epsilon = float(epsilon)
        self.scale = bool(scale)
        self.fused = bool(fused)

    def build(self, input_shape):
        width = input_shape[-1]
        options = {"shape": (width,), "autocast": False}
        # Not aggregated: within a compiled step, replicas cannot wait for each other.
        statistics = {"trainable": False, "aggregation": "none"}
        if self.scale:
            self.gamma = self.add_weight(name="gamma", initializer="ones", **options)
        self.beta = self.add_weight(name="beta", initializer="zeros", **options)
        self.moving_mean = self.add_weight(
            name="moving_mean", initializer="zeros", **options, **statistics
        )
        self.moving_variance = self.add_weight(
            name="moving_variance", initializer="ones", **options, **statistics
        )
        self.input_spec = keras.InputSpec(min_ndim=2, axes={-1: width})

    def call(self, inputs, training=None):
        training = bool(training) and self.trainable
        has_kernel = (
            keras.backend.backend() == "tensorflow"
            and self.compute_dtype in FUSED_DTYPES
            and self.variable_dtype == "float32"
        )
        if self.fused and has_kernel and len(inputs.shape) >= 4:
            return self._normalize_images(inputs, training)
        x = ops.cast(inputs, self.moving_mean.dtype)
        if training:
            axes = list(range(x.ndim - 1))
            mean = ops.mean(x, axes)
            variance = ops.mean(ops.square(x - mean), axes)
            self._follow(self.moving_mean, mean)
            self._follow(self.moving_variance, variance)
        else:
            mean, variance = self.moving_mean, self.moving_variance
        factor = ops.rsqrt(variance + self.epsilon)
        if self.scale:
            factor = factor * self.gamma
        return ops.cast(x * factor + (self.beta - mean * factor), self.compute_dtype)

    def _normalize_images(self, inputs, training):
        import tensorflow as tf  # which only this backend has

        x, leading = fold_leading_axes(ops.cast(inputs, self.compute_dtype), event_rank=3)
        none = tf.zeros([0])
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=self.gamma if self.scale else tf.ones_like(self.beta),
            offset=self.beta,
            mean=none if training else self.moving_mean,
            variance=none if training else self.moving_variance,
            epsilon=self.epsilon,
            is_training=training,
        )
        if training:
            rows = tf.cast(tf.size(x) // x.shape[-1], variance.dtype)
            self._follow(self.moving_mean, mean)
            # The kernel's variance is the unbiased one.
            self._follow(self.moving_variance, variance * (rows - 1.0) / rows)
        return unfold_leading_axes(y, leading)

    def _follow(self, average, value):
        value = ops.stop_gradient(value)
        average.assign(average * self.momentum + value * (1.0 - self.momentum))

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "scale": self.scale,
            "fused": self.fused,
        }
