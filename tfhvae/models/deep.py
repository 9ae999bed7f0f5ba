"""Deep hierarchies of latent variables (Sønderby et al. 2016a, b).

    p(x, z_1..z_L) = p(x|z_1) p(z_1|z_2) ... p(z_{L-1}|z_L) N(z_L; 0, I)

is the generative model of all three; they differ in the direction of inference:

    deep VAE               q(z_1|x) q(z_2|z_1) ... q(z_L|z_{L-1})                bottom-up
    probabilistic ladder   q(z_L|x) q(z_{L-1}|z_L, x) ... q(z_1|z_2, x)          top-down
    Ladder VAE             the same, with the generative model as its top-down half
"""

import keras
import tensorflow as tf

from tfhvae.layers import MLP, PrecisionWeightedMerge
from tfhvae.models import parts
from tfhvae.models.base import Generation, LatentVariableModel, stateless_seed
from tfhvae.traces import STANDARD_NORMAL, Trace, draw

TOP_DOWN = ("own", "shared")
UPWARD = ("means", "hidden")


class GaussianHierarchy(LatentVariableModel):
    """The generative model p(x|z1) p(z1|z2) ... N(zL; 0, I) of this family. Subclasses make its
    networks: `p_z`, for each but the top layer of latent variables, and `decode`.

    Args:
      event_shape: `(height, width, channels)`.
      likelihood: "bernoulli", "gaussian" or "discretized_logistic".
      latent_dims: units of z1 ... zL, from the bottom to the top; L is their number.
      hidden_units: of the dense layers between x and z1, z1 and z2, ...: at least L numbers, of
        which the first L count. A shallower model drops latent variables from the top.
      activation: "leaky_rectifier", max(x, 0.1 x), or the name of a Keras activation.
      batch_normalization: "none", of the "hidden" layers, or of "all": also of every mu and sigma².
        The output layer has none.
      more_config: arguments of a subclass, for its `get_config` and `make_output`.

    Sites: `z1` ... `zL`, `[S, B, latent_dims[i]]`.
    """

    def __init__(
        self,
        event_shape,
        likelihood="bernoulli",
        latent_dims=(64, 32, 16, 8, 4),
        hidden_units=(512, 256, 128, 64, 32),
        activation="leaky_rectifier",
        batch_normalization="all",
        name=None,
        more_config=None,
        **kwargs,
    ):
        super().__init__(event_shape, name=name, **kwargs)
        if not latent_dims or len(hidden_units) < len(latent_dims):
            raise ValueError(
                "expected one or more latent_dims, and hidden_units for each of them. "
                f"Received: latent_dims={tuple(latent_dims)}, hidden_units={tuple(hidden_units)}"
            )
        parts.check_choice("batch_normalization", batch_normalization, parts.BATCH_NORMALIZATION)
        self.config = {
            "likelihood": parts.check_choice("likelihood", likelihood, parts.LIKELIHOODS),
            "latent_dims": list(latent_dims),
            "hidden_units": list(hidden_units),
            "activation": activation,
            "batch_normalization": batch_normalization,
            **(more_config or {}),
        }
        self.likelihood = likelihood
        self.latent_dims = tuple(latent_dims)
        self.site_names = [f"z{i}" for i in range(1, len(latent_dims) + 1)]

    @property
    def generation_order(self):
        return self.site_names[::-1]

    def prior(self, level, above, training=False):
        """p(z_level | z above it): `(loc, scale)`, for `draw`. `above`: `[..., units]`, None at the
        top."""
        if above is None:
            return STANDARD_NORMAL
        return self.p_z[level](above, training=training)[0]

    def generate(self, num_samples=1, latents=None, seed=None):
        seed = self.next_seed() if seed is None else seed
        given, num_samples = self.given_latents(latents, num_samples)
        latents, above = {}, None
        for level in reversed(range(len(self.latent_dims))):
            site, units = self.site_names[level], self.latent_dims[level]
            if site in given:
                latents[site] = given[site]
            else:
                loc, scale = self.prior(level, above)
                noise = tf.random.stateless_normal(
                    [num_samples, units], stateless_seed(seed, level + 1)
                )
                latents[site] = loc + scale * noise
            above = latents[site]
        p = self.decode(latents)
        return Generation(*parts.mean_and_draw(p, stateless_seed(seed, 0)), latents)


class DenseHierarchy(GaussianHierarchy):
    """The hierarchy with perceptrons of two layers everywhere.

    Args: as of `GaussianHierarchy`.
    """

    scale = "softplus_variance"  # the form of every sigma, see `GaussianHead`

    def __init__(self, event_shape, **kwargs):
        super().__init__(event_shape, **kwargs)
        self.p_z = [
            self.conditional_gaussian(level, f"p_z{level + 1}")
            for level in range(len(self.latent_dims) - 1)
        ]
        self.make_output()

    def make_output(self):
        """Makes `p_x` and `pixels`, the network between z1 and the image."""
        pixels = self.event_shape[0] * self.event_shape[1] * self.event_shape[2]
        self.p_x = MLP(
            [self.config["hidden_units"][0]] * 2,
            parts.activation_function(self.config["activation"]),
            None if self.config["batch_normalization"] == "none" else "batch",
            name="p_x",
        )
        self.pixels = keras.layers.Dense(
            pixels * parts.NUM_PARAMETERS[self.likelihood], dtype=self.dtype_policy, name="pixels"
        )

    def conditional_gaussian(self, level, name, width_of=None):
        """A Gaussian over z of `level` (0 is z1). Its perceptron connects that level with the one
        above; `width_of=level` connects it with the one below."""
        width = self.config["hidden_units"][level + 1 if width_of is None else width_of]
        return parts.ConditionalGaussian(
            self.latent_dims[level],
            [width] * 2,
            self.config["activation"],
            self.config["batch_normalization"],
            self.scale,
            name=name,
        )

    def decode(self, latents, training=False):
        h = self.pixels(self.p_x(latents["z1"], training=training))
        return parts.image_distribution(
            parts.unflatten_event(h, self.event_shape, self.likelihood), self.likelihood
        )


@keras.saving.register_keras_serializable(package="tfhvae")
class DeepVAE(DenseHierarchy):
    """VAE with L layers of latent variables and inference from the bottom up (Sønderby et al.
    2016a, Eqs. 3 to 6).

    Args: as of `GaussianHierarchy`.
    """

    def __init__(self, event_shape, name="deep_vae", **kwargs):
        super().__init__(event_shape, name=name, **kwargs)
        self.q_z = [self.make_posterior(level) for level in range(len(self.latent_dims))]
        self.build_from_event_shape()

    def make_posterior(self, level):
        """q(z_level | z below it); of the bottom layer, given flattened images."""
        return self.conditional_gaussian(level, f"q_z{level + 1}", width_of=level)

    @property
    def noise_shapes(self):
        return {site: (units,) for site, units in zip(self.site_names, self.latent_dims)}

    def trace(self, x, num_samples=1, noise=None, values=None, training=False):
        x, noise = self.images_and_noise(x, noise, num_samples)
        q, drawn, below = [], dict(values or {}), parts.flatten_event(x)
        for level, site in enumerate(self.site_names):
            loc, scale = self.q_z[level](below, training=training)[0]
            q.append((loc, scale))
            below = drawn.setdefault(site, loc + scale * noise[site])
        sites = {}
        for level, site in enumerate(self.site_names):
            above = drawn[self.site_names[level + 1]] if level + 1 < len(q) else None
            p = self.prior(level, above, training)
            value = (values or {}).get(site)
            sites[site] = draw(q[level], p, noise[site], value, closed_form_kl=above is None)
        return Trace(sites, log_px=self.decode(drawn, training).log_prob(x))


class TopDownInference:
    """What ladders share: a deterministic pass upward gives a Gaussian for every layer; the pass
    downward merges it, by precision, with what the layer above says.

    A `GaussianHierarchy` with `infer_upward` and a layer `merge`.
    """

    @property
    def noise_shapes(self):
        return {
            site: (units,) for site, units in zip(self.site_names[::-1], self.latent_dims[::-1])
        }

    def infer_upward(self, x, training=False):
        """`(loc, scale)` of every layer from the deterministic pass, z1 first; each
        `[B, units]`."""
        raise NotImplementedError(f"{type(self).__name__} defines no upward pass")

    def infer_downward(self, level, above, p, training=False):
        """`(loc, scale)` of what the layer above says of z of `level`: p(z|above) itself."""
        return p

    def trace(self, x, num_samples=1, noise=None, values=None, training=False):
        x, noise = self.images_and_noise(x, noise, num_samples)
        upward = self.infer_upward(x, training)
        sites, drawn, above = {}, {}, None
        for level in reversed(range(len(upward))):
            site, p, q = self.site_names[level], self.prior(level, above, training), upward[level]
            if above is not None:
                q = self.merge((q, self.infer_downward(level, above, p, training)))
            sites[site] = draw(q, p, noise[site], (values or {}).get(site))
            above = drawn[site] = sites[site].value
        return Trace(sites, log_px=self.decode(drawn, training).log_prob(x))


@keras.saving.register_keras_serializable(package="tfhvae")
class LadderVAE(TopDownInference, DenseHierarchy):
    """Ladder VAE (Sønderby et al. 2016b; Maaløe's thesis, appendix B, Eqs. 13 to 19).

    A deterministic pass upward gives a Gaussian for every layer; the pass downward merges it, by
    precision, with what the layer above says:

        q(z_i|z_{i+1}, x) = N(mu_i, sigma_i²) N(mu_t(z_{i+1}), sigma_t²(z_{i+1})) / Z

    Args:
      top_down: "shared", where the second factor is the generative model's p(z_i|z_{i+1}), so that
        one pass gives both; "own", where it has perceptrons of its own.
      upward: "hidden", where each perceptron takes the hidden layer of the one below; "means",
        where it takes its mean mu_{i-1}.
      **kwargs: as of `GaussianHierarchy`.

    Sites, in drawing order: `zL` ... `z1`.
    """

    def __init__(
        self, event_shape, top_down="shared", upward="hidden", name="ladder_vae", **kwargs
    ):
        super().__init__(event_shape, name=name, **kwargs)
        self.config |= {
            "top_down": parts.check_choice("top_down", top_down, TOP_DOWN),
            "upward": parts.check_choice("upward", upward, UPWARD),
        }
        self.top_down, self.upward = top_down, upward
        levels = range(len(self.latent_dims))
        self.q_upward = [
            self.conditional_gaussian(level, f"q_upward{level + 1}", width_of=level)
            for level in levels
        ]
        self.q_downward = [
            self.conditional_gaussian(level, f"q_downward{level + 1}")
            for level in levels[:-1]
            if top_down == "own"
        ]
        self.merge = PrecisionWeightedMerge(name="merge")
        self.build_from_event_shape()

    def infer_upward(self, x, training=False):
        gaussians, h = [], parts.flatten_event(x)
        for layer in self.q_upward:
            gaussian, hidden = layer(h, training=training)
            gaussians.append(gaussian)
            h = gaussian[0] if self.upward == "means" else hidden
        return gaussians

    def infer_downward(self, level, above, p, training=False):
        return (
            p if self.top_down == "shared" else self.q_downward[level](above, training=training)[0]
        )


@keras.saving.register_keras_serializable(package="tfhvae")
class ProbabilisticLadder(LadderVAE):
    """Probabilistic ladder network (Sønderby et al. 2016a, Eqs. 13 to 21): the pass upward runs
    through the means, and the pass downward has perceptrons of its own.

    Args: as of `LadderVAE`; `top_down="shared"` gives the variant without weights of its own.
    """

    def __init__(self, event_shape, top_down="own", upward="means", name="prob_ladder", **kwargs):
        super().__init__(event_shape, top_down=top_down, upward=upward, name=name, **kwargs)
