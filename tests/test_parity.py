"""Log-weights equal the authors' equations, written out in NumPy float64 with the model's weights,
and a joint distribution of TFP.

References: Tomczak & Welling, VAE with a VampPrior, 2018, Eqs. 9, 13-18, and the authors' code.
"""

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from tfhvae import bounds
from tfhvae.distributions import DiscretizedLogistic
from tfhvae.models import HVAE, VAE

tfd = tfp.distributions

EVENT = (28, 28, 1)
BATCH, SAMPLES, COMPONENTS, LATENT = 5, 3, 20, 40
LIMIT = 11.512915  # logit of 1 - 1e-5


# The authors' equations
# -------------------------------------------------------------------------------------------------


def weights_of(layer):
    return [np.asarray(w, np.float64) for w in layer.weights]


def gated_dense(x, kernel, bias):
    """h * sigmoid(g), without activation on h."""
    h, g = np.split(x @ kernel + bias, 2, axis=-1)
    return h * scipy.special.expit(g)


def two_gated_layers(x, mlp):
    for layer in mlp.linear_layers:
        x = gated_dense(x, *weights_of(layer))
    return x


def gaussian_head(x, head):
    """Mean, and log-variance clipped to [-6, 2], as `(loc, scale)`."""
    kernel, bias = weights_of(head)
    loc, log_variance = np.split(x @ kernel + bias, 2, axis=-1)
    return loc, np.exp(0.5 * np.clip(log_variance, -6.0, 2.0))


def log_normal(z, loc, scale):
    return scipy.stats.norm.logpdf(z, loc, scale).sum(-1)


def log_mixture(z, loc, scale):
    """log 1/C sum_c N(z; loc_c, scale_c²), z `[S, B, D]`."""
    components = log_normal(z[:, :, np.newaxis], loc, scale)  # [S, B, C]
    return scipy.special.logsumexp(components, axis=-1) - np.log(len(loc))


def log_bernoulli(x, logits):
    mean = np.clip(scipy.special.expit(logits), 1e-5, 1 - 1e-5)
    return (x * np.log(mean) + (1 - x) * np.log(1 - mean)).sum(-1)


def log_logistic(x, outputs, authors=False):
    """256 bins of width 1/256 at floor(256 x)/256; `outputs` `[..., 2 * pixels]`, mean and log-scale
    of a pixel side by side. The authors' masses are without tails, plus 1e-7."""
    outputs = outputs.reshape(*outputs.shape[:-1], -1, 2)
    mean = np.clip(scipy.special.expit(outputs[..., 0]), 1 / 512, 1 - 1 / 512)
    scale = np.exp(np.clip(outputs[..., 1], -4.5, 0.0))
    left = np.floor(x * 256) / 256
    upper = scipy.special.expit((left + 1 / 256 - mean) / scale)
    lower = scipy.special.expit((left - mean) / scale)
    if authors:
        return np.log(upper - lower + 1e-7).sum(-1)
    # above the mean from the other side, where float64 does not cancel; open tails
    above = scipy.special.expit((mean - left) / scale)
    beyond = scipy.special.expit((mean - left - 1 / 256) / scale)
    mass = np.where(left > mean, above - beyond, upper - lower)
    mass = np.where(left == 255 / 256, above, np.where(left == 0.0, upper, mass))
    return np.log(mass).sum(-1)


def log_image(model, x, h, **kwargs):
    kernel, bias = weights_of(model.pixels)
    log_prob = log_bernoulli if model.likelihood == "bernoulli" else log_logistic
    return log_prob(x, h @ kernel + bias, **kwargs)


def log_top_prior(model, z, encode):
    if model.prior.kind == "standard":
        return log_normal(z, 0.0, 1.0)
    pseudo_inputs = np.clip(np.float64(model.prior.raw_pseudo_inputs), 0.0, 1.0)
    return log_mixture(z, *encode(pseudo_inputs.reshape(len(pseudo_inputs), -1)))


def vae_densities(model, x, noise, **kwargs):
    """`(log_px, {site: log q}, {site: log p})`, each `[S, B]`, x `[B, pixels]`."""

    def encode(u):
        return gaussian_head(two_gated_layers(u, model.encoder), model.posterior)

    loc, scale = encode(x)
    z = loc + scale * noise["z1"]
    log_px = log_image(model, x, two_gated_layers(z, model.decoder), **kwargs)
    return log_px, {"z1": log_normal(z, loc, scale)}, {"z1": log_top_prior(model, z, encode)}


def hvae_densities(model, x, noise, **kwargs):
    def joint(parts, layer):
        """A gated layer on the concatenation of its inputs."""
        lead = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
        parts = [np.broadcast_to(part, (*lead, part.shape[-1])) for part in parts]
        return gated_dense(np.concatenate(parts, -1), *weights_of(layer))

    def encode_z2(u):
        return gaussian_head(two_gated_layers(u, model.q_z2_x), model.q_z2_head)

    loc_2, scale_2 = encode_z2(x)
    z2 = loc_2 + scale_2 * noise["z2"]
    features = [
        gated_dense(x, *weights_of(model.q_z1_x)),
        gated_dense(z2, *weights_of(model.q_z1_z2)),
    ]
    loc_1, scale_1 = gaussian_head(joint(features, model.q_z1_joint), model.q_z1_head)
    z1 = loc_1 + scale_1 * noise["z1"]
    p_z1 = gaussian_head(two_gated_layers(z2, model.p_z1_z2), model.p_z1_head)
    features = [
        gated_dense(z1, *weights_of(model.p_x_z1)),
        gated_dense(z2, *weights_of(model.p_x_z2)),
    ]
    log_px = log_image(model, x, joint(features, model.p_x_joint), **kwargs)
    log_q = {"z2": log_normal(z2, loc_2, scale_2), "z1": log_normal(z1, loc_1, scale_1)}
    log_p = {"z2": log_top_prior(model, z2, encode_z2), "z1": log_normal(z1, *p_z1)}
    return log_px, log_q, log_p


# Models and data
# -------------------------------------------------------------------------------------------------


def make(name, prior, likelihood="bernoulli", event_shape=EVENT):
    """A model with weights away from their initial values: no bias is zero, some log-variances and
    pseudo-inputs lie beyond their limits."""
    keras.utils.set_random_seed(0)
    settings = {
        "prior": prior,
        "num_components": COMPONENTS,
        "pseudo_input_init": (0.3, 0.3),
        "likelihood": likelihood,
        "logit_limit": LIMIT if likelihood == "bernoulli" else None,
    }
    if name == "vae":
        model = VAE(event_shape, latent_dim=LATENT, hidden_units=(300, 300), **settings)
    else:
        model = HVAE(event_shape, latent_dims=(LATENT, LATENT), hidden_units=300, **settings)
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if weight.path.endswith("bias"):
            weight.assign(rng.normal(size=weight.shape) * 0.3)
    # densities of a few hundred nats at most, where float32 resolves 1e-4
    heads = (
        [model.posterior] if name == "vae" else [model.q_z2_head, model.q_z1_head, model.p_z1_head]
    )
    for layer in (*heads, model.pixels):
        layer.kernel.assign(0.3 * layer.kernel)
    for head in heads:
        bias = head.bias.numpy()
        bias[LATENT] = 5.0  # a log-variance above its limit
        bias[LATENT + 1] -= 9.0 * (head is heads[0])  # and one below
        head.bias.assign(bias)
    bias = model.pixels.bias.numpy()
    bias[::100], bias[1::100] = 20.0, -20.0
    model.pixels.bias.assign(bias)
    return model


def images(likelihood):
    rng = np.random.default_rng(2)
    x = rng.integers(0, 256, (BATCH, *EVENT)) + 0.5
    x[:, :2], x[:, -2:] = 0.5, 255.5  # the two tails
    x = (x > 128).astype(float) if likelihood == "bernoulli" else x / 256
    return x.astype(np.float32)


CASES = [
    ("vae", "vampprior", "bernoulli"),
    ("vae", "vampprior", "discretized_logistic"),
    ("vae", "standard", "bernoulli"),
    ("hvae", "standard", "bernoulli"),
    ("hvae", "vampprior", "bernoulli"),
    ("hvae", "vampprior", "discretized_logistic"),
]


@pytest.mark.parametrize(("name", "prior", "likelihood"), CASES)
def test_log_weights_equal_the_equations(name, prior, likelihood):
    """Within 1e-4 nats for the latent terms and the log-weight of a Bernoulli; within 1e-6 of
    log p(x|z), which is about -5000 nats, for the discretised logistic."""
    model, x = make(name, prior, likelihood), images(likelihood)
    noise = model.noise(3, BATCH, SAMPLES)
    trace = model.trace(x, noise=noise)
    densities = vae_densities if name == "vae" else hvae_densities
    noise = {site: np.float64(value) for site, value in noise.items()}
    log_px, log_q, log_p = densities(model, np.float64(x).reshape(BATCH, -1), noise)
    for site, record in trace.sites.items():
        np.testing.assert_allclose(record.log_q, log_q[site], rtol=0, atol=1e-4)
        np.testing.assert_allclose(record.log_p, log_p[site], rtol=0, atol=1e-4)
    log_w = log_px + sum(log_p[site] - log_q[site] for site in log_q)
    tolerance = 1e-4 if likelihood == "bernoulli" else 1e-6 * np.abs(log_px).max()
    np.testing.assert_allclose(trace.log_px, log_px, rtol=0, atol=tolerance)
    np.testing.assert_allclose(bounds.log_weights(trace), log_w, rtol=0, atol=tolerance)


def test_the_limits_are_reached():
    """The parity above covers clipped log-variances, logits and pseudo-inputs."""
    model, x = make("hvae", "vampprior"), images("bernoulli")
    trace = model.trace(x, noise=model.noise(3, BATCH, SAMPLES))
    raw = np.asarray(model.prior.raw_pseudo_inputs)
    assert (raw < 0).any() and (raw > 1).any()
    scale = model.encode_z2(x)[1].numpy()
    np.testing.assert_allclose([scale.min(), scale.max()], np.exp([-3.0, 1.0]), rtol=1e-5)
    logits = model.decode({name: site.value for name, site in trace.sites.items()}).logits
    np.testing.assert_allclose([np.min(logits), np.max(logits)], [-LIMIT, LIMIT], rtol=1e-6)


@pytest.mark.parametrize("name", ["vae", "hvae"])
def test_discretized_logistic_of_the_authors(name):
    """The model's means and scales in the authors' masses, `open_tails=False, offset=1e-7`."""
    model, x = make(name, "standard", "discretized_logistic"), images("discretized_logistic")
    noise = model.noise(3, BATCH, SAMPLES)
    trace = model.trace(x, noise=noise)
    p = model.decode({site: record.value for site, record in trace.sites.items()}).parameters
    ours = DiscretizedLogistic(
        p["loc"], p["log_scale"], event_rank=3, open_tails=False, offset=1e-7
    ).log_prob(x)
    densities = vae_densities if name == "vae" else hvae_densities
    noise = {site: np.float64(value) for site, value in noise.items()}
    expected, _, _ = densities(model, np.float64(x).reshape(BATCH, -1), noise, authors=True)
    np.testing.assert_allclose(ours, expected, rtol=2e-6)
    assert np.abs(ours - trace.log_px).min() > 0.1  # not the model's own masses


# The joint distribution
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["standard", "vampprior"])
def test_two_level_model_as_a_joint_distribution(prior):
    """log p(x, z1, z2) of a `JointDistributionCoroutine` made of TFP's own distributions."""
    model, x = make("hvae", prior), images("bernoulli")
    trace = model.trace(x, noise=model.noise(3, BATCH, 1))
    z2, z1 = (trace.sites[name].value[0] for name in ("z2", "z1"))

    def coroutine():
        if prior == "standard":
            p_z2 = tfd.MultivariateNormalDiag(tf.zeros(LATENT), tf.ones(LATENT))
        else:
            components = tfd.MultivariateNormalDiag(*model.encode_z2(model.prior.pseudo_inputs))
            p_z2 = tfd.MixtureSameFamily(tfd.Categorical(tf.zeros(COMPONENTS)), components)
        z2 = yield tfd.JointDistributionCoroutine.Root(tfd.BatchBroadcast(p_z2, [BATCH]))
        z1 = yield tfd.MultivariateNormalDiag(*model.prior_z1(z2))
        yield tfd.Independent(tfd.Bernoulli(model.decode({"z2": z2, "z1": z1}).logits), 3)

    joint = tfd.JointDistributionCoroutine(coroutine)
    ours = trace.log_px + sum(site.log_p for site in trace.sites.values())
    np.testing.assert_allclose(ours[0], joint.log_prob([z2, z1, x]), rtol=0, atol=5e-4)
