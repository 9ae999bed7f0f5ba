"""Parts that models share: the two ends of a generative model, prior and likelihood, and their batch
normalisation."""

import contextlib

import keras
import tensorflow as tf
import tensorflow_probability as tfp
from keras import ops

from tfhvae.distributions import Autoregressive, Bernoulli, DiscretizedLogistic, GaussianMixture
from tfhvae.layers import MLP, BatchNormalization, GaussianHead, PixelCNN
from tfhvae.traces import STANDARD_NORMAL

tfd = tfp.distributions

PRIORS = ("standard", "mixture", "vampprior")
NUM_PARAMETERS = {"bernoulli": 1, "discretized_logistic": 2, "gaussian": 2}  # per pixel, channel
LIKELIHOODS = tuple(NUM_PARAMETERS)
AUTOREGRESSIVE_LIKELIHOODS = ("bernoulli", "discretized_logistic")
SAMPLED_TOGETHER = (16, 64)  # images that an autoregressive decoder draws at once
BATCH_NORMALIZATION = ("none", "hidden", "all")
LOG_VARIANCE_LIMITS = (-10.0, 10.0)  # wide: they stop overflow, not learning
MIN_GAUSSIAN_VARIANCE = 1e-5  # as in the code of Sønderby et al.
FIXED_DENSITIES = ("gaussian", "laplace")
OUTPUT_MEANS = ("sigmoid", "linear")


@keras.saving.register_keras_serializable(package="tfhvae")
def leaky_rectifier(x):
    """max(x, 0.1 x)."""
    return ops.maximum(x, 0.1 * x)


def activation_function(name):
    """What `MLP` takes for "leaky_rectifier", max(x, 0.1 x), or the name of a Keras activation."""
    return leaky_rectifier if name == "leaky_rectifier" else name


@keras.saving.register_keras_serializable(package="tfhvae")
class ConditionalGaussian(keras.layers.Layer):
    """p(z|h) = N(z; mu(h), sigma²(h)): a multilayer perceptron with a Gaussian head.

    Args:
      latent_dim: units of z.
      hidden_units: of the perceptron, first layer first.
      activation: of its layers.
      batch_normalization: "none", of the "hidden" layers, or of "all": also of mu and of sigma²
        before its softplus.
      scale: the form of sigma, see `GaussianHead`.
      joint: whether h is a list of tensors that broadcast against each other.
    """

    def __init__(
        self,
        latent_dim,
        hidden_units,
        activation,
        batch_normalization="none",
        scale="softplus_variance",
        joint=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.settings = {
            "latent_dim": latent_dim,
            "hidden_units": list(hidden_units),
            "activation": activation,
            "batch_normalization": batch_normalization,
            "scale": scale,
            "joint": joint,
        }
        self.mlp = MLP(
            hidden_units,
            activation_function(activation),
            None if batch_normalization == "none" else "batch",
            joint=joint,
            dtype=self.dtype_policy,
            name="mlp",
        )
        self.head = GaussianHead(
            latent_dim,
            scale,
            LOG_VARIANCE_LIMITS,
            normalization="batch" if batch_normalization == "all" else None,
            dtype=self.dtype_policy,
            name="head",
        )

    def build(self, input_shape):
        self.mlp.build(input_shape)
        self.head.build((None, self.mlp.units[-1]))

    def call(self, h, training=None):
        """`((loc, scale), hidden)`: the Gaussian, and the perceptron's last layer behind it."""
        hidden = self.mlp(h, training=training)
        return self.head(hidden, training=training), hidden

    def get_config(self):
        return {**super().get_config(), **self.settings}


def normalizations(model):
    """The `BatchNormalization` layers of a model."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, BatchNormalization)]


@contextlib.contextmanager
def momentum(layers, value):
    """Gives `BatchNormalization` layers another momentum while they are traced; at 1 their running
    averages stay as they are."""
    before = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.momentum = value
        yield
    finally:
        for layer, own in zip(layers, before):
            layer.momentum = own


def check_choice(name, value, choices):
    """Returns `value`, or raises ValueError with the list of what exists."""
    if value not in choices:
        raise ValueError(
            f"expected {name} to be one of {', '.join(map(repr, choices))}. Received: {name}={value!r}"
        )
    return value


class Prior(keras.layers.Layer):
    """The prior of the topmost latent variable, with the weights that it has.

    "standard": N(0, I). "mixture": C Gaussians with learned means and variances. "vampprior": C
    Gaussians q(z|u_c) that the inference model gives for learned pseudo-inputs u_c (Tomczak &
    Welling 2018, Eq. 9).

    Args:
      kind: one of `PRIORS`.
      units: D, of the latent variable.
      event_shape: of the images, which is the shape of a pseudo-input.
      num_components: C.
      pseudo_input_init: `(mean, standard deviation)` of the pseudo-inputs' initial pixels.
      train_pseudo_inputs: whether pseudo-inputs are learned; otherwise they stay as initialised or
        set by `set_pseudo_inputs`.
    """

    def __init__(
        self,
        kind,
        units,
        event_shape,
        num_components=500,
        pseudo_input_init=(0.05, 0.01),
        train_pseudo_inputs=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.kind = check_choice("prior", kind, PRIORS)
        if num_components < 1:
            raise ValueError(
                f"expected num_components >= 1. Received: num_components={num_components}"
            )
        if len(pseudo_input_init) != 2:
            raise ValueError(
                "expected pseudo_input_init of a mean and a standard deviation. "
                f"Received: {tuple(pseudo_input_init)}"
            )
        if kind == "mixture":
            self.loc = self.add_weight(
                shape=(num_components, units),
                initializer=keras.initializers.RandomNormal(0.0, 1.0),
                name="loc",
            )
            self.log_scale = self.add_weight(
                shape=(num_components, units), initializer="zeros", name="log_scale"
            )
        if kind == "vampprior":
            self.raw_pseudo_inputs = self.add_weight(
                shape=(num_components, *event_shape),
                initializer=keras.initializers.RandomNormal(*pseudo_input_init),
                trainable=train_pseudo_inputs,
                name="pseudo_inputs",
            )
        self.built = True

    @property
    def pseudo_inputs(self):
        """`[C, *event]`, between 0 and 1; None for other kinds."""
        return (
            tf.clip_by_value(tf.convert_to_tensor(self.raw_pseudo_inputs), 0.0, 1.0)
            if self.kind == "vampprior"
            else None
        )

    def set_pseudo_inputs(self, images):
        """Sets the pseudo-inputs to `images` `[C, *event]`.

        Raises:
          ValueError: if the prior has none, or their shape is another.
        """
        if self.kind != "vampprior":
            raise ValueError(
                f'expected a "vampprior" prior, which has pseudo-inputs. Received: prior={self.kind!r}'
            )
        if tuple(images.shape) != tuple(self.raw_pseudo_inputs.shape):
            raise ValueError(
                f"expected pseudo-inputs of shape {tuple(self.raw_pseudo_inputs.shape)}. Received: shape={tuple(images.shape)}"
            )
        self.raw_pseudo_inputs.assign(images)

    def distribution(self, encode):
        """What `traces.draw` takes for p. `encode` maps images to `(loc, scale)` of q."""
        if self.kind == "standard":
            return STANDARD_NORMAL
        if self.kind == "mixture":
            return GaussianMixture(tf.convert_to_tensor(self.loc), tf.exp(self.log_scale))
        return GaussianMixture(*encode(self.pseudo_inputs))

    def sample(self, num_samples, units, encode, seed):
        """`[num_samples, units]`."""
        p = self.distribution(encode)
        return (
            tf.random.stateless_normal([num_samples, units], seed)
            if p is STANDARD_NORMAL
            else p.sample(num_samples, seed=seed)
        )


def image_distribution(parameters, likelihood, logit_limit=None):
    """p(x|.) from a decoder's outputs.

    Args:
      parameters: `[..., H, W, P * C]`, P parameters per pixel and channel (`NUM_PARAMETERS`), any
        real number.
      likelihood: one of `LIKELIHOODS`. For "discretized_logistic" the mean is a sigmoid clipped to
        [1/512, 1 - 1/512] and the log-scale is clipped to [-4.5, 0], as in Tomczak & Welling's
        code. For "gaussian" the mean is linear and the variance a softplus (Sønderby et al. 2016a,
        section 3), at least `MIN_GAUSSIAN_VARIANCE`.
      logit_limit: clips Bernoulli logits; see `Bernoulli`.
    """
    parameters = tf.cast(parameters, tf.float32)
    if likelihood == "bernoulli":
        return Bernoulli(parameters, event_rank=3, logit_limit=logit_limit)
    loc, a = tf.split(parameters, 2, axis=-1)
    if likelihood == "gaussian":
        scale = tf.sqrt(tf.nn.softplus(a) + MIN_GAUSSIAN_VARIANCE)
        return tfd.Independent(tfd.Normal(loc, scale), reinterpreted_batch_ndims=3)
    loc = tf.clip_by_value(tf.sigmoid(loc), 1.0 / 512.0, 1.0 - 1.0 / 512.0)
    return DiscretizedLogistic(loc, tf.clip_by_value(a, -4.5, 0.0), event_rank=3)


def mean_and_draw(p, seed):
    """The mean of p(x|.) and a draw from it, both `[..., *event]`: what `Generation` shows. Of an
    autoregressive p, each pixel's mean given the pixels drawn before it."""
    if isinstance(p, Autoregressive):
        return p.mean_and_draw(seed)
    return p.mean(), p.sample(seed=seed)


@keras.saving.register_keras_serializable(package="tfhvae")
class AutoregressiveDecoder(keras.layers.Layer):
    """p(x|c) = prod_i p(x_i | x_1 .. x_{i-1}, c): a PixelCNN over the image, joined with a context
    c that latent variables give.

    Args:
      event_shape: `(height, width, channels)`.
      likelihood: of a pixel, "bernoulli" or "discretized_logistic".
      logit_limit: clips Bernoulli logits; see `Bernoulli`.
      context_channels: of c; 0 where there is none.
      joins_image: whether the network sees the image. Without it, pixels are independent given c,
        and an image is drawn in one pass.
      **settings: of `tfhvae.layers.PixelCNN`.
    """

    def __init__(
        self,
        event_shape,
        likelihood="bernoulli",
        logit_limit=None,
        context_channels=0,
        joins_image=True,
        name=None,
        dtype=None,
        **settings,
    ):
        super().__init__(name=name, dtype=dtype)
        check_choice("likelihood", likelihood, AUTOREGRESSIVE_LIKELIHOODS)
        self.event_shape = tuple(event_shape)
        self.likelihood = likelihood
        self.logit_limit = logit_limit
        self.context_channels = context_channels
        self.joins_image = joins_image
        self.settings = settings
        channels = self.event_shape[-1]
        self.network = PixelCNN(
            channels * NUM_PARAMETERS[likelihood],
            colors=channels,
            context_channels=context_channels,
            dtype=self.dtype_policy,
            name="network",
            **settings,
        )
        self.network.build((None, *self.event_shape[:2], channels + context_channels))
        self.built = True
        self._sample = tf.function(self._sample_images, autograph=False, jit_compile=True)

    def distribution(self, context=None, training=False):
        """p(x|context). `context`: `[..., H, W, context_channels]`, or None."""

        def conditional(x):
            return self._conditional(self.parameters(x, context, training))

        if not self.joins_image:
            return conditional(tf.zeros(tf.concat([tf.shape(context)[:-3], self.event_shape], 0)))
        batch = () if context is None else context.shape[:-3]
        if not tf.TensorShape(batch).is_fully_defined():
            batch = tf.shape(context)[:-3]

        def sample(uniform):
            x, parameters = self._sample_in_groups(uniform, context)
            return x, self._conditional(parameters)

        return Autoregressive(conditional, sample, self.event_shape, batch)

    def parameters(self, x, context=None, training=False):
        """What the network says of every pixel of x, given those before it: `[..., H, W, P * C]`.
        Leading axes of `x` and `context` broadcast."""
        if context is not None:
            x, context = _broadcast_leading(tf.cast(x, context.dtype), context)
            x = tf.concat([x, context], -1)
        return self.network(x, training=training)

    def _conditional(self, parameters):
        return image_distribution(parameters, self.likelihood, self.logit_limit)

    def _sample_images(self, context, uniform):
        def to_pixel(parameters, uniform):
            p = self._conditional(parameters[:, tf.newaxis, tf.newaxis])
            return p.from_uniform(uniform[:, tf.newaxis, tf.newaxis])[:, 0, 0]

        return self.network.sample(context, uniform, to_pixel)

    def _sample_in_groups(self, uniform, context):
        """Images in groups of two sizes, so that the loop over pixels is compiled twice at most."""
        if context is not None:
            uniform, context = _broadcast_leading(uniform, context)
            context = tf.reshape(context, [-1, *context.shape[-3:]])
        leading = tf.shape(uniform)[:-3]
        uniform = tf.reshape(uniform, [-1, *self.event_shape])
        count = tf.shape(uniform)[0]
        if tf.executing_eagerly():
            size = SAMPLED_TOGETHER[int(count) > SAMPLED_TOGETHER[0]]
            padding = [[0, -int(count) % size], [0, 0], [0, 0], [0, 0]]
            uniform, context = (
                tensor if tensor is None else tf.pad(tensor, padding)
                for tensor in (uniform, context)
            )
            parts = [
                self._sample(
                    None if context is None else context[i : i + size], uniform[i : i + size]
                )
                for i in range(0, uniform.shape[0], size)
            ]
            x, parameters = (tf.concat(part, 0)[:count] for part in zip(*parts))
        else:
            x, parameters = self._sample(context, uniform)
        return tuple(
            tf.reshape(t, tf.concat([leading, tf.shape(t)[1:]], 0)) for t in (x, parameters)
        )

    def get_config(self):
        return {
            **super().get_config(),
            "event_shape": list(self.event_shape),
            "likelihood": self.likelihood,
            "logit_limit": self.logit_limit,
            "context_channels": self.context_channels,
            "joins_image": self.joins_image,
            **self.settings,
        }


def _broadcast_leading(a, b):
    """`[..., H, W, A]` and `[..., H, W, B]` with the same leading axes."""
    leading = tf.broadcast_dynamic_shape(tf.shape(a)[:-3], tf.shape(b)[:-3])

    def broadcast(t):
        shape = tf.broadcast_static_shape(a.shape[:-3], b.shape[:-3])
        t = tf.broadcast_to(t, tf.concat([leading, tf.shape(t)[-3:]], 0))
        return tf.ensure_shape(t, [*shape, *t.shape[-3:]])

    return broadcast(a), broadcast(b)


def fixed_density(parameters, density, scale, mean):
    """p(x|.) of real-valued pixels, all of one fixed scale.

    A "laplace" density is the L1 loss of Zhao et al.'s code made into a bound: -log p(x|.) = sum
    |x - mu| / scale + D log(2 scale) for D pixels and channels.

    Args:
      parameters: `[..., H, W, C]`, any real number.
      density: "gaussian", of standard deviation `scale`, or "laplace".
      scale: a number or a tensor `[]`.
      mean: "sigmoid" or "linear" in the parameters; both densities are centred there.
    """
    loc = tf.cast(parameters, tf.float32)
    loc = tf.sigmoid(loc) if mean == "sigmoid" else loc
    kind = {"gaussian": tfd.Normal, "laplace": tfd.Laplace}[density]
    return tfd.Independent(kind(loc, scale), reinterpreted_batch_ndims=3)


def check_output_scale(value):
    """Raises ValueError unless `value` can be the scale of a density."""
    if not 0.0 < value < float("inf"):
        raise ValueError(f"expected a positive output_scale. Received: output_scale={value!r}")


def flatten_event(x):
    """`[..., H, W, C]` to `[..., H * W * C]`."""
    return tf.reshape(
        x, tf.concat([tf.shape(x)[:-3], [x.shape[-3] * x.shape[-2] * x.shape[-1]]], 0)
    )


def unflatten_event(parameters, event_shape, likelihood):
    """`[..., P * H * W * C]` to `[..., H, W, P * C]`."""
    height, width, channels = event_shape
    return unflatten_image(parameters, (height, width, NUM_PARAMETERS[likelihood] * channels))


def unflatten_image(features, shape):
    """`[..., H * W * C]` to `[..., H, W, C]`, the shape `(H, W, C)`."""
    return tf.reshape(features, tf.concat([tf.shape(features)[:-1], shape], 0))
