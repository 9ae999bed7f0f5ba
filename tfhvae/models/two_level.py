"""The two-level hierarchical VAE of Tomczak & Welling 2018.

    p(x, z1, z2) = p(x|z1, z2) p(z1|z2) p(z2)        q(z1, z2|x) = q(z1|x, z2) q(z2|x)

The VampPrior, where used, is on z2: p(z2) = 1/C sum_c q(z2|u_c). `HVAE` has dense networks,
`ConvHVAE` convolutional ones, and `PixelHVAE` an autoregressive decoder.
"""

import keras
import tensorflow as tf

from tfhvae.layers import MLP, Fold, GatedConv2D, GatedDense, GaussianHead, JointDense
from tfhvae.layers.dense import he_normal
from tfhvae.models import parts
from tfhvae.models.base import Generation, LatentVariableModel, stateless_seed
from tfhvae.traces import Trace, draw


class TwoLevelModel(LatentVariableModel):
    """What the two-level models share: the record, and generation. Subclasses make networks and
    define four maps.

    Args: see `HVAE`.

    Sites, in drawing order: `z2` `[S, B, latent_dims[1]]`, `z1` `[S, B, latent_dims[0]]`.
    """

    def __init__(
        self,
        event_shape,
        likelihood,
        latent_dims,
        prior,
        num_components,
        pseudo_input_init,
        train_pseudo_inputs,
        log_variance_limits,
        logit_limit,
        **kwargs,
    ):
        super().__init__(event_shape, **kwargs)
        if len(latent_dims) != 2:
            raise ValueError(
                f"expected latent_dims to be (units of z1, units of z2). Received: latent_dims={latent_dims!r}"
            )
        self.config = {
            "likelihood": parts.check_choice("likelihood", likelihood, parts.LIKELIHOODS),
            "latent_dims": list(latent_dims),
            "prior": prior,
            "num_components": num_components,
            "pseudo_input_init": list(pseudo_input_init),
            "train_pseudo_inputs": train_pseudo_inputs,
            "log_variance_limits": list(log_variance_limits),
            "logit_limit": logit_limit,
        }
        self.likelihood = likelihood
        self.latent_dims = tuple(latent_dims)
        self.logit_limit = logit_limit
        self.prior = parts.Prior(
            prior,
            latent_dims[1],
            self.event_shape,
            num_components,
            pseudo_input_init,
            train_pseudo_inputs,
            name="prior",
        )

        def head(units, name):
            return GaussianHead(
                units,
                "clipped_log_variance",
                log_variance_limits,
                kernel_initializer=he_normal(),
                name=name,
            )

        self.q_z1_head = head(latent_dims[0], "q_z1")
        self.q_z2_head = head(latent_dims[1], "q_z2")
        self.p_z1_head = head(latent_dims[0], "p_z1")

    @property
    def noise_shapes(self):
        return {"z2": (self.latent_dims[1],), "z1": (self.latent_dims[0],)}

    def encode_z2(self, x, training=False):
        """`(loc, scale)` of q(z2|x), each `[B, units]`."""
        raise NotImplementedError(f"{type(self).__name__} defines no q(z2|x)")

    def encode_z1(self, x, z2, training=False):
        """`(loc, scale)` of q(z1|x, z2), each `[S, B, units]`, for x `[B, *event]` and z2 `[S, B,
        units]`."""
        raise NotImplementedError(f"{type(self).__name__} defines no q(z1|x, z2)")

    def prior_z1(self, z2, training=False):
        """`(loc, scale)` of p(z1|z2), each `[..., units]`."""
        raise NotImplementedError(f"{type(self).__name__} defines no p(z1|z2)")

    def trace(self, x, num_samples=1, noise=None, values=None, training=False):
        x, noise = self.images_and_noise(x, noise, num_samples)
        values = values or {}
        prior = self.prior.distribution(lambda u: self.encode_z2(u, training))
        z2 = draw(self.encode_z2(x, training), prior, noise["z2"], values.get("z2"))
        z1 = draw(
            self.encode_z1(x, z2.value, training),
            self.prior_z1(z2.value, training),
            noise["z1"],
            values.get("z1"),
        )
        p_x = self.decode({"z2": z2.value, "z1": z1.value}, training)
        return Trace({"z2": z2, "z1": z1}, log_px=p_x.log_prob(x))

    def generate(self, num_samples=1, latents=None, seed=None):
        seed = self.next_seed() if seed is None else seed
        given, num_samples = self.given_latents(latents, num_samples)
        z2 = given.get("z2")
        if z2 is None:
            z2 = self.prior.sample(
                num_samples, self.latent_dims[1], self.encode_z2, stateless_seed(seed, 0)
            )
        z1 = given.get("z1")
        if z1 is None:
            loc, scale = self.prior_z1(z2)
            z1 = loc + scale * tf.random.stateless_normal(tf.shape(loc), stateless_seed(seed, 1))
        latents = {"z2": z2, "z1": z1}
        p = self.decode(latents)
        return Generation(*parts.mean_and_draw(p, stateless_seed(seed, 2)), latents)


@keras.saving.register_keras_serializable(package="tfhvae")
class HVAE(TwoLevelModel):
    """Two-level HVAE with gated dense networks.

    Args:
      event_shape: `(height, width, channels)`.
      likelihood: "bernoulli", "gaussian" or "discretized_logistic".
      latent_dims: `(units of z1, units of z2)`.
      hidden_units: width of every hidden layer.
      prior: of z2: "standard", "mixture" or "vampprior".
      num_components, pseudo_input_init, train_pseudo_inputs: of the prior, see `parts.Prior`.
      log_variance_limits: of q(z2|x), q(z1|x, z2) and p(z1|z2).
      logit_limit: clips Bernoulli logits; None does not.
    """

    def __init__(
        self,
        event_shape,
        likelihood="bernoulli",
        latent_dims=(40, 40),
        hidden_units=300,
        prior="standard",
        num_components=500,
        pseudo_input_init=(0.05, 0.01),
        train_pseudo_inputs=True,
        log_variance_limits=(-6.0, 2.0),
        logit_limit=None,
        name="hvae",
        **kwargs,
    ):
        super().__init__(
            event_shape,
            likelihood,
            latent_dims,
            prior,
            num_components,
            pseudo_input_init,
            train_pseudo_inputs,
            log_variance_limits,
            logit_limit,
            name=name,
            **kwargs,
        )
        self.config["hidden_units"] = hidden_units
        width = hidden_units
        pixels = self.event_shape[0] * self.event_shape[1] * self.event_shape[2]
        self.q_z2_x = MLP((width, width), activation=None, gated=True, name="q_z2_x")
        self.q_z1_x = GatedDense(width, name="q_z1_x")
        self.q_z1_z2 = GatedDense(width, name="q_z1_z2")
        self.q_z1_joint = JointDense(
            width, gated=True, kernel_initializer=he_normal(), name="q_z1_joint"
        )
        self.p_z1_z2 = MLP((width, width), activation=None, gated=True, name="p_z1_z2")
        self.p_x_z1 = GatedDense(width, name="p_x_z1")
        self.p_x_z2 = GatedDense(width, name="p_x_z2")
        self.p_x_joint = JointDense(
            width, gated=True, kernel_initializer=he_normal(), name="p_x_joint"
        )
        self.pixels = keras.layers.Dense(
            pixels * parts.NUM_PARAMETERS[likelihood],
            kernel_initializer=he_normal(),
            dtype=self.dtype_policy,
            name="pixels",
        )
        self.build_from_event_shape()

    def encode_z2(self, x, training=False):
        return self.q_z2_head(self.q_z2_x(parts.flatten_event(x), training=training))

    def encode_z1(self, x, z2, training=False):
        return self.q_z1_head(
            self.q_z1_joint([self.q_z1_x(parts.flatten_event(x)), self.q_z1_z2(z2)])
        )

    def prior_z1(self, z2, training=False):
        return self.p_z1_head(self.p_z1_z2(z2, training=training))

    def decode(self, latents, training=False):
        h = self.p_x_joint([self.p_x_z1(latents["z1"]), self.p_x_z2(latents["z2"])])
        return parts.image_distribution(
            parts.unflatten_event(self.pixels(h), self.event_shape, self.likelihood),
            self.likelihood,
            self.logit_limit,
        )


# (filters, kernel size, stride) of the encoders' gated convolutions
_Z2_CONVOLUTIONS = ((32, 7, 1), (32, 3, 2), (64, 5, 1), (64, 3, 2), (6, 3, 1))
_Z1_CONVOLUTIONS = ((32, 3, 1), (32, 3, 2), (64, 3, 1), (64, 3, 2), (6, 3, 1))


class ConvolutionalTwoLevelModel(TwoLevelModel):
    """Both encoders are five gated convolutions, two of them with stride 2; p(z1|z2) is dense.
    Subclasses make the decoder.

    Args: as `HVAE`, and
      width: factor on the number of filters of the hidden convolutions (1.0 is the paper's
        network).
    """

    uses_convolutions = True

    def __init__(
        self,
        event_shape,
        likelihood="bernoulli",
        latent_dims=(40, 40),
        hidden_units=300,
        width=1.0,
        prior="standard",
        num_components=500,
        pseudo_input_init=(0.05, 0.01),
        train_pseudo_inputs=True,
        log_variance_limits=(-6.0, 2.0),
        logit_limit=None,
        **kwargs,
    ):
        super().__init__(
            event_shape,
            likelihood,
            latent_dims,
            prior,
            num_components,
            pseudo_input_init,
            train_pseudo_inputs,
            log_variance_limits,
            logit_limit,
            **kwargs,
        )
        if not width > 0.0:
            raise ValueError(f"expected a positive width. Received: width={width}")
        self.config |= {"hidden_units": hidden_units, "width": width}
        height, image_width, _ = self.event_shape

        def encoder(convolutions, name):
            *hidden, (filters, kernel, stride) = convolutions
            layers = [
                GatedConv2D(max(1, round(width * f)), k, s, name=f"{name}_{i}")
                for i, (f, k, s) in enumerate(hidden)
            ]
            return [*layers, GatedConv2D(filters, kernel, stride, name=f"{name}_{len(hidden)}")]

        self.q_z2_convolutions = encoder(_Z2_CONVOLUTIONS, "q_z2_conv")
        self.q_z1_convolutions = encoder(_Z1_CONVOLUTIONS, "q_z1_conv")
        features = (
            6 * -(-height // 4) * -(-image_width // 4)
        )  # what the last encoder convolution gives, flattened
        self.q_z1_z2 = GatedDense(features, name="q_z1_z2")
        self.q_z1_joint = JointDense(
            hidden_units, gated=True, kernel_initializer=he_normal(), name="q_z1_joint"
        )
        self.p_z1_z2 = MLP(
            (hidden_units, hidden_units), activation=None, gated=True, name="p_z1_z2"
        )

    def encode_z2(self, x, training=False):
        return self.q_z2_head(_convolved(x, self.q_z2_convolutions))

    def encode_z1(self, x, z2, training=False):
        return self.q_z1_head(
            self.q_z1_joint([_convolved(x, self.q_z1_convolutions), self.q_z1_z2(z2)])
        )

    def prior_z1(self, z2, training=False):
        return self.p_z1_head(self.p_z1_z2(z2, training=training))


@keras.saving.register_keras_serializable(package="tfhvae")
class ConvHVAE(ConvolutionalTwoLevelModel):
    """Two-level HVAE with gated convolutions.

    The decoder is a gated dense layer to one image plane, gated 3×3 convolutions and a 1×1
    convolution to the pixels' parameters.

    Args: as `HVAE`, and
      width: factor on the number of filters of the hidden convolutions (1.0 is the paper's
        network).
      decoder_convolutions: number of gated 3×3 convolutions of 64 filters in the decoder.
    """

    def __init__(self, event_shape, decoder_convolutions=4, name="conv_hvae", **kwargs):
        super().__init__(event_shape, name=name, **kwargs)
        self.config["decoder_convolutions"] = decoder_convolutions
        hidden_units, width = self.config["hidden_units"], self.config["width"]
        height, image_width, channels = self.event_shape
        self.p_x_z1 = GatedDense(hidden_units, name="p_x_z1")
        self.p_x_z2 = GatedDense(hidden_units, name="p_x_z2")
        self.p_x_plane = JointDense(
            height * image_width * channels,
            gated=True,
            kernel_initializer=he_normal(),
            name="p_x_plane",
        )
        self.p_x_convolutions = [
            GatedConv2D(max(1, round(width * 64)), 3, name=f"p_x_conv_{i}")
            for i in range(decoder_convolutions)
        ]
        self.pixels = Fold(
            keras.layers.Conv2D(
                channels * parts.NUM_PARAMETERS[self.likelihood],
                1,
                kernel_initializer=he_normal(),
                dtype=self.dtype_policy,
            ),
            event_rank=3,
            name="pixels",
        )
        self.build_from_event_shape()

    def decode(self, latents, training=False):
        h = self.p_x_plane([self.p_x_z1(latents["z1"]), self.p_x_z2(latents["z2"])])
        h = tf.reshape(h, tf.concat([tf.shape(h)[:-1], self.event_shape], 0))
        for convolution in self.p_x_convolutions:
            h = convolution(h)
        return parts.image_distribution(self.pixels(h), self.likelihood, self.logit_limit)


@keras.saving.register_keras_serializable(package="tfhvae")
class PixelHVAE(ConvolutionalTwoLevelModel):
    """Two-level HVAE with a PixelCNN as its decoder.

    z1 and z2 are each mapped, by a gated dense layer, to planes of the image's size; these and
    the image are what the PixelCNN sees: a masked 3×3 convolution "A", seven of "B" and a 1×1
    convolution, with batch normalisation and rectifiers.

    Args: as `ConvHVAE`, without its decoder and with a likelihood of pixels, "bernoulli" or
    "discretized_logistic", and
      pixel_filters: of the masked convolutions.
      masked_convolutions: number of those with mask "B".
      first_kernel_size: of the one with mask "A".
    """

    is_autoregressive = True

    def __init__(
        self,
        event_shape,
        pixel_filters=64,
        masked_convolutions=7,
        first_kernel_size=3,
        name="pixel_hvae",
        **kwargs,
    ):
        super().__init__(event_shape, name=name, **kwargs)
        self.config |= {
            "pixel_filters": pixel_filters,
            "masked_convolutions": masked_convolutions,
            "first_kernel_size": first_kernel_size,
        }
        if masked_convolutions < 0:
            raise ValueError(
                "expected masked_convolutions >= 0. "
                f"Received: masked_convolutions={masked_convolutions}"
            )
        height, image_width, channels = self.event_shape
        plane = height * image_width * channels
        self.p_x_z1 = GatedDense(plane, name="p_x_z1")
        self.p_x_z2 = GatedDense(plane, name="p_x_z2")
        self.p_x = parts.AutoregressiveDecoder(
            self.event_shape,
            self.likelihood,
            self.logit_limit,
            context_channels=2 * channels,
            filters=pixel_filters,
            first_kernel_size=first_kernel_size,
            blocks=0,
            plain_kernel_sizes=(3,) * masked_convolutions,
            name="p_x",
        )
        self.build_from_event_shape()

    def decode(self, latents, training=False):
        planes = [
            parts.unflatten_image(layer(latents[site]), self.event_shape)
            for site, layer in (("z1", self.p_x_z1), ("z2", self.p_x_z2))
        ]
        return self.p_x.distribution(tf.concat(planes, -1), training)


def _convolved(x, convolutions):
    for convolution in convolutions:
        x = convolution(x)
    return parts.flatten_event(x)
