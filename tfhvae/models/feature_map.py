"""The feature map VAE, FAME (Maaløe & Winther 2018; Maaløe's thesis, section 5.2 and appendix E)."""

import keras
import tensorflow as tf
from keras import ops

from tfhvae.layers import (
    BatchNormalization,
    Fold,
    GaussianHead,
    PrecisionWeightedMerge,
)
from tfhvae.models import parts
from tfhvae.models.deep import GaussianHierarchy, TopDownInference

DECODERS = ("pixel_cnn", "independent")


@keras.saving.register_keras_serializable(package="tfhvae")
class FeatureMaps(keras.layers.Layer):
    """Two convolutions of one level, each followed by normalisation and activation.

    Args:
      filters: of both.
      kernel_size: of both.
      direction: "up", where the first has stride 2; "down", where it is the transposed convolution
        with stride 2, cut to `size`.
      size: `(height, width)` of the output.
      activation: after each.
      normalization: None or "batch".

    Input shape: `[..., H, W, C]`.

    Output shape: `[..., *size, filters]`.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        direction,
        size,
        activation="relu",
        normalization="batch",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.settings = {
            "filters": filters,
            "kernel_size": kernel_size,
            "direction": parts.check_choice("direction", direction, ("up", "down")),
            "size": list(size),
            "activation": activation,
            "normalization": normalization,
        }
        self.size = tuple(size)
        convolution = keras.layers.Conv2D if direction == "up" else keras.layers.Conv2DTranspose
        options = {
            "padding": "same",
            "use_bias": normalization is None,
            "kernel_initializer": "he_normal",
            "dtype": self.dtype_policy,
        }
        self.first = convolution(filters, kernel_size, strides=2, name="first", **options)
        self.second = keras.layers.Conv2D(filters, kernel_size, name="second", **options)
        self.normalizations = [
            BatchNormalization(fused=True, dtype=self.dtype_policy, name=f"normalization_{i}")
            for i in range(2)
            if normalization == "batch"
        ]
        self.activation = keras.activations.get(parts.activation_function(activation))

    def build(self, input_shape):
        self.first.build((None, *input_shape[-3:]))
        hidden = (None, *self.size, self.settings["filters"])
        self.second.build(hidden)
        for normalization in self.normalizations:
            normalization.build(hidden)

    def call(self, inputs, training=None):
        leading = ops.shape(inputs)[:-3]
        h = ops.reshape(inputs, (-1, *inputs.shape[-3:]))
        h = self.first(h)[:, : self.size[0], : self.size[1]]
        h = self._activate(h, 0, training)
        h = self._activate(self.second(h), 1, training)
        return ops.reshape(h, (*leading, *h.shape[1:]))

    def _activate(self, h, index, training):
        if self.normalizations:
            h = self.normalizations[index](h, training=training)
        return self.activation(h)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-3], *self.size, self.settings["filters"])

    def get_config(self):
        return {**super().get_config(), **self.settings}


@keras.saving.register_keras_serializable(package="tfhvae")
class FAME(TopDownInference, GaussianHierarchy):
    """Feature map VAE: a Ladder VAE with convolutions between its dense latent variables, and a
    PixelCNN that draws the image.

    With H_0 the image's size and H_l = ceil(H_{l-1} / 2), level l has maps of size H_l:

    ```none
    upward      d_l = FeatureMaps_up(d_{l-1}),  d_0 = x;    (mu_l, sigma_l) from Dense(d_l)
    downward    e_l = FeatureMaps_down(Dense(z_{l+1}));     p(z_l|z_{l+1}) from Dense(e_l)
    image       c   = FeatureMaps_down(Dense(z_1));         p(x|z_1) = PixelCNN([x, c])
    ```

    Args:
      event_shape: `(height, width, channels)`.
      likelihood: of a pixel, "bernoulli" or "discretized_logistic".
      latent_dims: units of z1 ... zL.
      hidden_units: of the dense layer before q's Gaussian of each level, at least L numbers; before
        p(z_l|z_{l+1}), which mirrors the level above, the number of level l + 1.
      filters: of the convolutions of each level, at least L numbers.
      activation: of all of them; hidden layers of the PixelCNN are rectified.
      batch_normalization: "none", of the "hidden" layers, or of "all": also of every mu and sigma².
      decoder: "pixel_cnn", or "independent": pixels given z1 are independent, their parameters a
        1×1 convolution of c. That is a Ladder VAE with convolutions.
      concatenate: whether the PixelCNN sees the image. False is the paper's variant "No
        Concatenation", which draws an image in one pass.
      context_channels: of c.
      pixel_filters, first_kernel_size, blocks: of the PixelCNN, see `tfhvae.layers.PixelCNN`.

    Sites, in drawing order: `zL` ... `z1`.

    References: Maaløe & Winther 2018 (thesis, appendix E). Its table of layers is lost; the page
    docs/models/fame.md has ours.
    """

    uses_convolutions = True

    def __init__(
        self,
        event_shape,
        likelihood="bernoulli",
        latent_dims=(64, 32, 16, 8, 4),
        hidden_units=(512, 256, 128, 64, 32),
        filters=(32, 64, 64, 64, 64),
        activation="relu",
        batch_normalization="hidden",
        decoder="pixel_cnn",
        concatenate=True,
        context_channels=8,
        pixel_filters=64,
        first_kernel_size=7,
        blocks=4,
        name="fame",
        **kwargs,
    ):
        super().__init__(
            event_shape,
            likelihood,
            latent_dims,
            hidden_units,
            activation,
            batch_normalization,
            name=name,
            **kwargs,
        )
        if len(filters) < len(latent_dims):
            raise ValueError(
                "expected filters for each of the latent_dims. "
                f"Received: latent_dims={tuple(latent_dims)}, filters={tuple(filters)}"
            )
        self.config |= {
            "filters": list(filters),
            "decoder": parts.check_choice("decoder", decoder, DECODERS),
            "concatenate": concatenate,
            "context_channels": context_channels,
            "pixel_filters": pixel_filters,
            "first_kernel_size": first_kernel_size,
            "blocks": blocks,
        }
        levels = range(len(latent_dims))
        self.maps = [(*self.event_shape[:2], context_channels)]
        for level in levels:
            height, width, _ = self.maps[-1]
            self.maps.append((-(-height // 2), -(-width // 2), filters[level]))
        normalization = None if batch_normalization == "none" else "batch"

        def feature_maps(direction, level, name):
            *size, channels = self.maps[level]
            return FeatureMaps(channels, 3, direction, size, activation, normalization, name=name)

        def dense(units, name):
            return parts.MLP(
                [units], parts.activation_function(activation), normalization, name=name
            )

        def head(level, name):
            return GaussianHead(
                latent_dims[level],
                normalization="batch" if batch_normalization == "all" else None,
                name=name,
            )

        self.q_maps = [feature_maps("up", i + 1, f"q_maps{i + 1}") for i in levels]
        self.q_dense = [dense(hidden_units[i], f"q_dense{i + 1}") for i in levels]
        self.q_head = [head(i, f"q_z{i + 1}") for i in levels]
        self.p_plane = [
            dense(self.maps[i + 1][0] * self.maps[i + 1][1] * self.maps[i + 1][2], f"p_plane{i}")
            for i in levels
        ]
        self.p_maps = [feature_maps("down", i, f"p_maps{i}") for i in levels]
        self.p_dense = [None, *(dense(hidden_units[i], f"p_dense{i}") for i in levels[1:])]
        self.p_head = [None, *(head(i - 1, f"p_z{i}") for i in levels[1:])]
        self.merge = PrecisionWeightedMerge(name="merge")
        if decoder == "pixel_cnn":
            self.p_x = parts.AutoregressiveDecoder(
                self.event_shape,
                likelihood,
                context_channels=context_channels,
                joins_image=concatenate,
                filters=pixel_filters,
                first_kernel_size=first_kernel_size,
                blocks=blocks,
                normalization=normalization,
                name="p_x",
            )
        else:
            self.pixels = Fold(
                keras.layers.Conv2D(
                    self.event_shape[2] * parts.NUM_PARAMETERS[likelihood],
                    1,
                    dtype=self.dtype_policy,
                ),
                event_rank=3,
                name="pixels",
            )
        self.build_from_event_shape()

    @property
    def is_autoregressive(self):
        return self.config["decoder"] == "pixel_cnn" and self.config["concatenate"]

    def infer_upward(self, x, training=False):
        gaussians, maps = [], x
        for to_maps, to_dense, head in zip(self.q_maps, self.q_dense, self.q_head):
            maps = to_maps(maps, training=training)
            h = to_dense(parts.flatten_event(maps), training=training)
            gaussians.append(head(h, training=training))
        return gaussians

    def maps_below(self, level, z, training=False):
        """The maps that z of `level` (0 is z1) gives the level below, or the image: `[..., H, W,
        C]`."""
        h = self.p_plane[level](z, training=training)
        h = parts.unflatten_image(h, self.maps[level + 1])
        return self.p_maps[level](h, training=training)

    def prior(self, level, above, training=False):
        if above is None:
            return super().prior(level, above, training)
        maps = self.maps_below(level + 1, above, training)
        h = self.p_dense[level + 1](parts.flatten_event(maps), training=training)
        return self.p_head[level + 1](h, training=training)

    def decode(self, latents, training=False):
        return self.image_distribution(self.maps_below(0, latents["z1"], training), training)

    def image_distribution(self, maps, training=False):
        """p(x|z1) from the maps that z1 gives, `[..., H, W, context_channels]`."""
        if self.config["decoder"] == "pixel_cnn":
            return self.p_x.distribution(maps, training)
        return parts.image_distribution(self.pixels(maps), self.likelihood)

    def masked_reconstructions(self, x, noise):
        """What the PixelCNN makes of one of its two inputs alone (paper's figure 3).

        Args:
          x: `[B, *event]`.
          noise: as from `self.noise`, of one sample.

        Returns:
          `{"image": , "latents": }`, what it was left with, and the mean of each pixel, `[B,
          *event]`.

        Raises:
          ValueError: if the model has no PixelCNN that sees the image.
        """
        if not self.is_autoregressive:
            raise ValueError(
                'expected decoder="pixel_cnn" and concatenate=True, whose inputs can be masked. '
                f"Received: {self.config['decoder']!r} and {self.config['concatenate']}"
            )
        z1 = self.trace(x, noise=noise).sites["z1"].value[0]
        maps = self.maps_below(0, z1)
        return {
            "image": self.image_distribution(tf.zeros_like(maps)).conditional(x).mean(),
            "latents": self.image_distribution(maps).conditional(tf.zeros_like(x)).mean(),
        }
