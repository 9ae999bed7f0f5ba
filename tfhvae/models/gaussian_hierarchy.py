"""The three-layer Gaussian HVAE on which Zhao, Song & Ermon (2017) show the limits of hierarchies.

    p(x, z_1..z_L) = p(x|z_1) p(z_1|z_2) ... N(z_L; 0, I),     q(z_1|x) q(z_2|z_1) ... q(z_L|z_{L-1})

It is the deep VAE of Sønderby et al. with sigmoid scales, an image with one scale for all pixels,
and convolutions between z_1 and the image.
"""

import math

import keras
import tensorflow as tf

from tfhvae.layers import MLP, GaussianHead
from tfhvae.models import parts
from tfhvae.models.convolutions import ConvolutionStack, reduced_size
from tfhvae.models.deep import DeepVAE

TRUNKS = ("dense", "conv")


@keras.saving.register_keras_serializable(package="tfhvae")
class GaussianHVAE(DeepVAE):
    """Gaussian HVAE (Zhao et al. 2017, Eq. 4 and appendix B.1).

        z_l ~ N(W_1 f_l(z_{l+1}), sigmoid(W_2 f_l(z_{l+1}))²),    x ~ N(f_0(z_1), sigma² I)

    f_l are networks of two layers, and inference, from the bottom up, has the same architecture.

    Args:
      event_shape: `(height, width, channels)`; with convolutions, multiples of 4.
      likelihood: of the data set. "bernoulli" for binary images; "discretized_logistic" and
        "gaussian" images have the `density`.
      density, output_mean: see `VLAE`.
      output_scale: sigma.
      train_output_scale: whether sigma is learned, beginning at `output_scale`.
      latent_dims, hidden_units: as of `GaussianHierarchy`; `hidden_units[0]` counts with a dense
        trunk only.
      trunk: between x and z1, two "dense" layers, or two convolutions ("conv") of stride 2.
      filters: channels of the two convolutions.
      **kwargs: as of `GaussianHierarchy`.

    Sites, in drawing order: `z1` ... `zL`.
    """

    scale = "sigmoid"

    def __init__(
        self,
        event_shape,
        likelihood="bernoulli",
        density="gaussian",
        output_scale=0.354,
        train_output_scale=False,
        output_mean="sigmoid",
        latent_dims=(32, 16, 8),
        hidden_units=(512, 256, 128),
        trunk="conv",
        filters=(64, 128),
        activation="leaky_rectifier",
        batch_normalization="none",
        name="gaussian_hvae",
        **kwargs,
    ):
        if len(filters) != 2:
            raise ValueError(f"expected two filters. Received: filters={tuple(filters)}")
        parts.check_output_scale(output_scale)
        own = {
            "density": parts.check_choice("density", density, parts.FIXED_DENSITIES),
            "output_scale": output_scale,
            "train_output_scale": train_output_scale,
            "output_mean": parts.check_choice("output_mean", output_mean, parts.OUTPUT_MEANS),
            "trunk": parts.check_choice("trunk", trunk, TRUNKS),
            "filters": list(filters),
        }
        super().__init__(
            event_shape,
            name=name,
            likelihood=likelihood,
            latent_dims=latent_dims,
            hidden_units=hidden_units,
            activation=activation,
            batch_normalization=batch_normalization,
            more_config=own,
            **kwargs,
        )

    @property
    def uses_convolutions(self):
        return self.config["trunk"] == "conv"

    def make_output(self):
        config = self.config
        if config["train_output_scale"] and self.likelihood != "bernoulli":
            self.log_output_scale = self.add_weight(
                shape=(),
                initializer=keras.initializers.Constant(math.log(config["output_scale"])),
                name="log_output_scale",
            )
        dtype, channels = self.dtype_policy, self.event_shape[-1]
        normalization = None if config["batch_normalization"] == "none" else "batch"
        activation = parts.activation_function(config["activation"])
        units = [config["hidden_units"][0]] * 2
        if self.uses_convolutions:
            smallest = reduced_size(self.event_shape, 2)
            self._plane_shape = (*smallest, config["filters"][1])
            units = [math.prod(self._plane_shape)]
            self.p_convolution = self._convolutions(config["filters"][:1], "p_convolution", True)
        self.p_x = MLP(units, activation, normalization, dtype=dtype, name="p_x")
        self.pixels = (
            ConvolutionStack(
                [channels], [2], None, False, transposed=True, dtype=dtype, name="pixels"
            )
            if self.uses_convolutions
            else keras.layers.Dense(math.prod(self.event_shape), dtype=dtype, name="pixels")
        )

    def make_posterior(self, level):
        if level or not self.uses_convolutions:
            return super().make_posterior(level)
        normalization = "batch" if self.config["batch_normalization"] == "all" else None
        return _ConvolutionalGaussian(
            self._convolutions(self.config["filters"], "convolutions"),
            GaussianHead(
                self.latent_dims[0],
                self.scale,
                normalization=normalization,
                dtype=self.dtype_policy,
                name="head",
            ),
            self.event_shape,
            name="q_z1",
        )

    def _convolutions(self, filters, name, transposed=False):
        return ConvolutionStack(
            filters,
            [2] * len(filters),
            self.config["activation"],
            self.config["batch_normalization"] != "none",
            transposed,
            dtype=self.dtype_policy,
            name=name,
        )

    @property
    def output_scale(self):
        """sigma, a number, or a tensor `[]` where it is learned."""
        if hasattr(self, "log_output_scale"):
            return tf.exp(tf.cast(self.log_output_scale, tf.float32))
        return self.config["output_scale"]

    def decode(self, latents, training=False):
        z1 = latents["z1"]
        h = self.p_x(tf.reshape(z1, [-1, self.latent_dims[0]]), training=training)
        if self.uses_convolutions:
            h = tf.reshape(h, [-1, *self._plane_shape])
            h = self.p_convolution(h, training=training)
        shape = tf.concat([tf.shape(z1)[:-1], self.event_shape], 0)
        parameters = tf.reshape(self.pixels(h), shape)
        if self.likelihood == "bernoulli":
            return parts.image_distribution(parameters, "bernoulli")
        return parts.fixed_density(
            parameters, self.config["density"], self.output_scale, self.config["output_mean"]
        )


class _ConvolutionalGaussian(keras.layers.Layer):
    """q(z1|x) with the interface of `ConditionalGaussian`: flattened images `[B, H * W * C]` in,
    `((loc, scale), hidden)` out."""

    def __init__(self, convolutions, head, event_shape, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.convolutions, self.head, self.event_shape = convolutions, head, tuple(event_shape)

    def build(self, input_shape):
        self.convolutions.build((None, *self.event_shape))
        shape = self.convolutions.compute_output_shape((None, *self.event_shape))
        self.head.build((None, math.prod(shape[1:])))

    def call(self, x, training=None):
        h = self.convolutions(tf.reshape(x, [-1, *self.event_shape]), training=training)
        h = tf.reshape(h, [-1, math.prod(h.shape[1:])])
        return self.head(h, training=training), h
