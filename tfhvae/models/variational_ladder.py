"""The Variational Ladder Autoencoder, VLAE (Zhao, Song & Ermon 2017).

    p(x, z_1..z_L) = p(x|z_1..z_L) N(z_1; 0, I) ... N(z_L; 0, I)
    q(z_1..z_L|x)  = q(z_1|x) ... q(z_L|x)

There is no hierarchy among the latent variables; they differ in the depth of the network between
them and the image, z_1 being the shallow one. Not the lossy autoencoder of Chen et al.
"""

import math

import keras
import tensorflow as tf

from tfhvae.layers import MLP, GaussianHead
from tfhvae.models import parts
from tfhvae.models.base import Generation, LatentVariableModel, stateless_seed
from tfhvae.models.convolutions import ConvolutionStack, reduced_size
from tfhvae.traces import STANDARD_NORMAL, Trace, draw

TRUNKS = ("dense", "conv_small", "conv_medium")
MERGES = ("concatenate", "gated")
LADDERS = ("shared", "own")


@keras.saving.register_keras_serializable(package="tfhvae")
class VLAE(LatentVariableModel):
    """Variational Ladder Autoencoder (Zhao et al. 2017, Eqs. 8 to 14).

        z~_L = f_L(z_L),   z~_l = u_l([z~_{l+1}; v_l(z_l)]),   x ~ p(x | f_0(z~_1))
        h_0 = x,           h_l = g_l(h_{l-1}),                 q(z_l|x) = N(mu_l(h_l), sigma_l(h_l)²)

    Trunks, with w_1 ... w_n the `filters`:

        "dense"        level l has two layers of w_l units, n = L
        "conv_small"   level 1 has n - 1 convolutions of stride 2, the others two layers of w_n units
        "conv_medium"  level l < L has two convolutions of w_l channels, the first of stride 2, and
                       level L two layers of w_n units, n = L

    and the generative network mirrors them with transposed convolutions.

    Args:
      event_shape: `(height, width, channels)`; convolutional trunks take sizes that their strides
        divide.
      likelihood: of the data set. "bernoulli" for binary images; of real-valued ones,
        "discretized_logistic" or "gaussian", p(x|.) is the `density` below.
      density: "gaussian", N(mu, output_scale²), the paper's; or "laplace", Laplace(mu,
        output_scale), the authors' L1 loss with the weight 1 / output_scale.
      output_scale: standard deviation of the one, scale of the other, in units of the pixels.
      output_mean: "sigmoid", for pixels in [0, 1], or "linear"; of real-valued images.
      latent_dims: units of z1 ... zL, from the shallow to the deep one.
      trunk, filters: see above.
      merge: [.;.] of two tensors of one shape, "concatenate" as in the paper, or "gated",
        z~_{l+1} + gate * v_l(z_l) with a learned gate per unit, as in the authors' code for MNIST.
      gate_init: what the gates begin with.
      ladders: whether mu_l and sigma_l are linear in the h_l that g_{l+1} continues from, "shared",
        or in features of a copy of g_l with weights of its "own", as in the authors' code.
      scale: the form of sigma_l, see `GaussianHead`.
      activation: "leaky_rectifier" or the name of a Keras activation.
      batch_normalization: "none", of the "hidden" layers, or of "all": also of mu_l and sigma_l.

    Sites: `z1` ... `zL`, `[S, B, latent_dims[i]]`, independent given x, and of each other a priori.
    """

    def __init__(
        self,
        event_shape,
        likelihood="bernoulli",
        density="gaussian",
        output_scale=0.354,
        output_mean="sigmoid",
        latent_dims=(2, 2, 2),
        trunk="conv_small",
        filters=(64, 128, 1024),
        merge="concatenate",
        gate_init=0.1,
        ladders="shared",
        scale="sigmoid",
        activation="leaky_rectifier",
        batch_normalization="hidden",
        name="vlae",
        **kwargs,
    ):
        super().__init__(event_shape, name=name, **kwargs)
        parts.check_choice("likelihood", likelihood, parts.LIKELIHOODS)
        parts.check_choice("density", density, parts.FIXED_DENSITIES)
        parts.check_choice("output_mean", output_mean, parts.OUTPUT_MEANS)
        parts.check_choice("trunk", trunk, TRUNKS)
        parts.check_choice("merge", merge, MERGES)
        parts.check_choice("ladders", ladders, LADDERS)
        parts.check_choice("batch_normalization", batch_normalization, parts.BATCH_NORMALIZATION)
        parts.check_output_scale(output_scale)
        _check_sizes(trunk, latent_dims, filters)
        self.config = {
            "likelihood": likelihood,
            "density": density,
            "output_scale": output_scale,
            "output_mean": output_mean,
            "latent_dims": list(latent_dims),
            "trunk": trunk,
            "filters": list(filters),
            "merge": merge,
            "gate_init": gate_init,
            "ladders": ladders,
            "scale": scale,
            "activation": activation,
            "batch_normalization": batch_normalization,
        }
        self.likelihood = likelihood
        self.latent_dims = tuple(latent_dims)
        self.filters = tuple(filters)
        self.site_names = [f"z{i}" for i in range(1, len(latent_dims) + 1)]
        self.uses_convolutions = trunk != "dense"
        if self.uses_convolutions:
            reduced_size(self.event_shape, len(self.filters) - 1)  # or a clear error
        self._make_inference_network()
        self._make_generative_network()
        self.build_from_event_shape()

    # Networks ------------------------------------------------------------------------------------

    @property
    def _kinds(self):
        """For every level, the shallow one first, whether it is convolutional."""
        levels, trunk = len(self.latent_dims), self.config["trunk"]
        convolutional = {"dense": 0, "conv_small": 1, "conv_medium": levels - 1}[trunk]
        return [level < convolutional for level in range(levels)]

    def _channels(self, level):
        """Channels of the stride-2 convolutions of a convolutional level, outermost first."""
        if self.config["trunk"] == "conv_small":
            return self.filters[:-1]
        return self.filters[level : level + 1]

    def _width(self, level):
        """Units of the layers of a dense level."""
        return self.filters[level if self.config["trunk"] == "dense" else -1]

    def _dense(self, units, name):
        normalization = None if self.config["batch_normalization"] == "none" else "batch"
        activation = parts.activation_function(self.config["activation"])
        return MLP(units, activation, normalization, dtype=self.dtype_policy, name=name)

    def _convolutions(self, filters, strides, name, transposed=False):
        return ConvolutionStack(
            filters,
            strides,
            self.config["activation"],
            self.config["batch_normalization"] != "none",
            transposed,
            dtype=self.dtype_policy,
            name=name,
        )

    def _encoding_block(self, level, name):
        if not self._kinds[level]:
            return self._dense([self._width(level)] * 2, name)
        channels = self._channels(level)
        if self.config["trunk"] == "conv_small":
            return self._convolutions(channels, [2] * len(channels), name)
        return self._convolutions([*channels, *channels], [2, 1], name)

    def _make_inference_network(self):
        levels, is_own = range(len(self.latent_dims)), self.config["ladders"] == "own"
        # The last block of a trunk of its own would lead nowhere.
        self.q_blocks = [
            self._encoding_block(level, f"q_block{level + 1}")
            for level in (levels[:-1] if is_own else levels)
        ]
        self.q_ladders = [
            self._encoding_block(level, f"q_ladder{level + 1}") for level in levels if is_own
        ]
        self.q_heads = [
            GaussianHead(
                self.latent_dims[level],
                self.config["scale"],
                parts.LOG_VARIANCE_LIMITS,
                normalization="batch" if self.config["batch_normalization"] == "all" else None,
                dtype=self.dtype_policy,
                name=f"q_z{level + 1}",
            )
            for level in levels
        ]

    def _make_generative_network(self):
        """`p_ladders[l]` is v_{l+1} and `p_blocks[l]` u_{l+1}; at the top there is no v, and u is
        f_L. Where dense features meet convolutions, `p_planes` turns them into an image."""
        levels, kinds = len(self.latent_dims), self._kinds
        blocks, self.p_planes, shape = [], {}, None
        self._plane_shapes, self._state_shapes = {}, [None] * levels  # of what comes from above
        for level in reversed(range(levels)):
            self._state_shapes[level] = shape
            if kinds[level]:
                block, shape = self._decoding_convolutions(level, shape)
            else:
                shape = (self._width(level),)
                block = self._dense(shape * 2, f"p_block{level + 1}")
            blocks.append(block)
        # Only now: Keras does not notice what is put into a list later.
        self.p_blocks = blocks[::-1]
        self.p_ladders = [
            self._dense([math.prod(shape)], f"p_ladder{level + 1}")
            for level, shape in enumerate(self._state_shapes[:-1])
        ]
        self.p_gates = [
            self.add_weight(
                shape=shape,
                initializer=keras.initializers.Constant(self.config["gate_init"]),
                name=f"gate{level + 1}",
            )
            for level, shape in enumerate(self._state_shapes[:-1])
            if self.config["merge"] == "gated"
        ]
        channels, dtype = self.event_shape[-1], self.dtype_policy
        if kinds[0]:
            stride = 2 if self.config["trunk"] == "conv_small" else 1
            self.pixels = ConvolutionStack(
                [channels], [stride], None, False, transposed=True, dtype=dtype, name="pixels"
            )
        else:
            self.pixels = keras.layers.Dense(
                math.prod(self.event_shape), dtype=dtype, name="pixels"
            )

    def _decoding_convolutions(self, level, shape):
        """The transposed convolutions of a level that takes features of `shape`, and the shape of
        what they give; None for the mirror of a single convolution, which is the output layer."""
        channels = self._channels(level)
        if self.config["trunk"] == "conv_small":
            halvings, filters = len(channels), channels[-2::-1]
            strides = [2] * len(filters)
        else:
            halvings, filters = level + 1, [channels[0], *self.filters[max(level - 1, 0) : level]]
            strides = [2, 1][: len(filters)]
        if shape is None or len(shape) == 1:
            shape = (*reduced_size(self.event_shape, halvings), channels[-1])
            plane = self._dense([math.prod(shape)], f"p_plane{level + 1}")
            self.p_planes[str(level)], self._plane_shapes[level] = plane, shape
        if not filters:
            return None, shape
        block = self._convolutions(filters, strides, f"p_block{level + 1}", transposed=True)
        factor = 2 ** strides.count(2)
        return block, (factor * shape[0], factor * shape[1], filters[-1])

    # Inference -----------------------------------------------------------------------------------

    @property
    def noise_shapes(self):
        return {site: (units,) for site, units in zip(self.site_names, self.latent_dims)}

    @property
    def generation_order(self):
        """From the deep to the shallow one, though each is drawn by itself."""
        return self.site_names[::-1]

    def encode(self, x, training=False):
        """`(loc, scale)` of q(z_l|x) for every level, z1 first; each `[B, units]`."""
        gaussians, h = [], x
        for level, (head, is_convolutional) in enumerate(zip(self.q_heads, self._kinds)):
            if not is_convolutional:
                h = _flat(h)
            features = None
            if self.q_ladders:
                features = self.q_ladders[level](h, training=training)
            if level < len(self.q_blocks):
                h = self.q_blocks[level](h, training=training)
            features = h if features is None else features
            gaussians.append(head(_flat(features), training=training))
        return gaussians

    def prior(self, level, above=None, training=False):
        """p(z) of a level, `(loc, scale)`: N(0, I), whatever lies above it."""
        return STANDARD_NORMAL

    def trace(self, x, num_samples=1, noise=None, values=None, training=False):
        (x, noise), values = self.images_and_noise(x, noise, num_samples), values or {}
        sites = {
            site: draw(q, STANDARD_NORMAL, noise[site], values.get(site))
            for site, q in zip(self.site_names, self.encode(x, training))
        }
        p_x = self.decode({site: record.value for site, record in sites.items()}, training)
        return Trace(sites, log_px=p_x.log_prob(x))

    # Generation ----------------------------------------------------------------------------------

    def decode(self, latents, training=False):
        top = latents[self.site_names[-1]]
        leading = tf.shape(top)[:-1]
        state = None
        for level in reversed(range(len(self.latent_dims))):
            z = tf.reshape(latents[self.site_names[level]], [-1, self.latent_dims[level]])
            state = z if state is None else self._merge(level, state, z, training)
            if level in self._plane_shapes:
                state = self.p_planes[str(level)](state, training=training)
                state = tf.reshape(state, [-1, *self._plane_shapes[level]])
            if self.p_blocks[level] is not None:
                state = self.p_blocks[level](state, training=training)
        parameters = tf.reshape(self.pixels(state), tf.concat([leading, self.event_shape], 0))
        if self.likelihood == "bernoulli":
            return parts.image_distribution(parameters, "bernoulli")
        return parts.fixed_density(
            parameters,
            self.config["density"],
            self.config["output_scale"],
            self.config["output_mean"],
        )

    def _merge(self, level, state, z, training):
        """[z~_{l+1}; v_l(z_l)], `[N, *shape]`."""
        shape = self._state_shapes[level]
        v = tf.reshape(self.p_ladders[level](z, training=training), [-1, *shape])
        if self.config["merge"] == "gated":
            return state + tf.cast(self.p_gates[level], v.dtype) * v
        return tf.concat([state, v], -1)

    def generate(self, num_samples=1, latents=None, seed=None):
        seed = self.next_seed() if seed is None else seed
        given, num_samples = self.given_latents(latents, num_samples)
        latents = {}
        for level in reversed(range(len(self.latent_dims))):
            site = self.site_names[level]
            latents[site] = given.get(site)
            if latents[site] is None:
                latents[site] = tf.random.stateless_normal(
                    [num_samples, self.latent_dims[level]], stateless_seed(seed, level + 1)
                )
        p = self.decode(latents)
        return Generation(*parts.mean_and_draw(p, stateless_seed(seed, 0)), latents)


def _flat(h):
    """`[N, ...]` to `[N, units]`."""
    return tf.reshape(h, [-1, math.prod(h.shape[1:])])


def _check_sizes(trunk, latent_dims, filters):
    levels, widths = len(latent_dims), len(filters)
    is_right = levels >= 1 and (widths >= 2 if trunk == "conv_small" else widths == levels)
    if trunk == "conv_medium":
        is_right = is_right and levels >= 2
    if not is_right:
        expected = {
            "dense": "one or more latent_dims, and as many filters",
            "conv_small": "one or more latent_dims, and two or more filters",
            "conv_medium": "two or more latent_dims, and as many filters",
        }[trunk]
        raise ValueError(
            f'expected {expected} for trunk="{trunk}". '
            f"Received: latent_dims={tuple(latent_dims)}, filters={tuple(filters)}"
        )
