"""An autoregressive model of images without latent variables (van den Oord et al. 2016), beside
which the models with latent variables and the same decoder stand."""

import keras
import tensorflow as tf

from tfhvae.models import parts
from tfhvae.models.base import Generation, LatentVariableModel, stateless_seed
from tfhvae.traces import Trace


@keras.saving.register_keras_serializable(package="tfhvae")
class PixelCNNModel(LatentVariableModel):
    """p(x) = prod_i p(x_i | x_1 .. x_{i-1}). It has no sites: the bound is log p(x) itself.

    Args:
      event_shape: `(height, width, channels)`.
      likelihood: of a pixel, "bernoulli" or "discretized_logistic".
      pixel_filters, first_kernel_size, blocks, kind: of the network, see `tfhvae.layers.PixelCNN`.
      batch_normalization: "none", or of the "hidden" layers.
    """

    uses_convolutions = True
    is_autoregressive = True

    def __init__(
        self,
        event_shape,
        likelihood="bernoulli",
        pixel_filters=64,
        first_kernel_size=7,
        blocks=4,
        kind="residual",
        batch_normalization="hidden",
        name="pixel_cnn",
        **kwargs,
    ):
        super().__init__(event_shape, name=name, **kwargs)
        parts.check_choice("batch_normalization", batch_normalization, ("none", "hidden"))
        self.config = {
            "likelihood": likelihood,
            "pixel_filters": pixel_filters,
            "first_kernel_size": first_kernel_size,
            "blocks": blocks,
            "kind": kind,
            "batch_normalization": batch_normalization,
        }
        self.likelihood = likelihood
        self.p_x = parts.AutoregressiveDecoder(
            self.event_shape,
            likelihood,
            filters=pixel_filters,
            first_kernel_size=first_kernel_size,
            blocks=blocks,
            kind=kind,
            normalization=None if batch_normalization == "none" else "batch",
            name="p_x",
        )
        self.build_from_event_shape()

    @property
    def noise_shapes(self):
        return {}

    def noise(self, seed, batch_size, num_samples=1):
        """No numbers, in a tensor `[S, B, 0]` that tells how many samples are asked for."""
        return {"nothing": tf.zeros([num_samples, batch_size, 0])}

    def trace(self, x, num_samples=1, noise=None, values=None, training=False):
        """As of every model; log p(x) is the same in each of the samples."""
        x, noise = self.images_and_noise(x, noise, num_samples)
        log_px = self.decode({}, training).log_prob(x)
        return Trace({}, log_px=tf.repeat(log_px[tf.newaxis], noise["nothing"].shape[0], 0))

    def decode(self, latents, training=False):
        return self.p_x.distribution(training=training)

    def generate(self, num_samples=1, latents=None, seed=None):
        seed = self.next_seed() if seed is None else seed
        num_samples = self.given_latents(latents, num_samples)[1]
        shape = [num_samples, *self.event_shape]
        uniform = tf.random.stateless_uniform(shape, stateless_seed(seed, 0))
        return Generation(*self.decode({}).from_uniform(uniform), {})
