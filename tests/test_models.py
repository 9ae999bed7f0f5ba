"""What every model has to do: one list of models, and properties that hold for each of them.

Golden numbers are regenerated with `python tests/test_models.py`, after a change that is meant to
alter densities.
"""

import functools
from typing import NamedTuple

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tfhvae import bounds, configuration, models
from tfhvae.objectives import Objective
from tfhvae.traces import Trace

BATCH = 3


class Case(NamedTuple):
    make: type
    settings: dict
    configurations: tuple = ()  # names in `configuration.MODELS` that build this model
    event_shape: tuple = (8, 8, 1)


_VAE = {"latent_dim": 3, "hidden_units": (8, 6)}
_HVAE = {"latent_dims": (4, 3), "hidden_units": 8}
_CONV = {**_HVAE, "width": 0.1, "decoder_convolutions": 2}
_MIXTURE = {"prior": "mixture", "num_components": 5}
_VAMP = {"prior": "vampprior", "num_components": 5, "pseudo_input_init": (0.5, 0.1)}
_GREY = {"likelihood": "discretized_logistic"}
_LIMIT = {"logit_limit": 11.512915}

# The one list of models. Each property below holds for every line.
CASES = {
    "vae": Case(models.VAE, _VAE, ("vae",)),
    "vae grey": Case(models.VAE, {**_VAE, **_GREY}, event_shape=(6, 5, 3)),
    "vae dense": Case(models.VAE, {**_VAE, "gated": False, "activation": "tanh"}, ("iwae",)),
    "vae mixture": Case(models.VAE, {**_VAE, **_MIXTURE}),
    "vae vampprior": Case(models.VAE, {**_VAE, **_VAMP, **_LIMIT}, ("vampprior",)),
    "vae vampprior grey": Case(models.VAE, {**_VAE, **_VAMP, **_GREY}),
    "hvae": Case(models.HVAE, {**_HVAE, **_LIMIT}, ("hvae",), event_shape=(6, 5, 2)),
    "hvae vampprior": Case(models.HVAE, {**_HVAE, **_VAMP}, ("hvae_vampprior",)),
    "conv hvae": Case(models.ConvHVAE, _CONV, ("conv_hvae",), event_shape=(8, 6, 2)),
    "conv hvae vampprior grey": Case(models.ConvHVAE, {**_CONV, **_VAMP, **_GREY}),
}
each_model = pytest.mark.parametrize("name", CASES)


def new_model(name):
    keras.utils.set_random_seed(0)
    case = CASES[name]
    return case.make(case.event_shape, **case.settings)


model_of = functools.cache(new_model)  # for tests that leave the weights alone


def images(name, batch=BATCH):
    rng, case = np.random.default_rng(1), CASES[name]
    levels = 256 if "likelihood" in case.settings else 2
    x = rng.integers(0, levels, (batch, *case.event_shape))
    return tf.constant((x + 0.5) / 256 if levels == 256 else x, tf.float32)


def densities(trace):
    """Everything `[S, B]` in a trace, by name."""
    result = {"log_px": trace.log_px}
    for name, site in trace.sites.items():
        result |= {f"{name}/log_q": site.log_q, f"{name}/log_p": site.log_p}
    return result


def assert_same_trace(a: Trace, b: Trace, **tolerance):
    assert list(a.sites) == list(b.sites)
    for x, y in zip(tf.nest.flatten(a.sites), tf.nest.flatten(b.sites)):
        np.testing.assert_allclose(x, y, **tolerance)
    np.testing.assert_allclose(a.log_px, b.log_px, **tolerance)


# The list
# -------------------------------------------------------------------------------------------------


def test_the_list_covers_every_model():
    assert {case.make for case in CASES.values()} == set(models.MODELS)
    for model in models.MODELS:
        assert getattr(models, model.__name__) is model


def test_the_list_covers_every_configuration():
    named = {name: case for case in CASES.values() for name in case.configurations}
    assert named.keys() == configuration.MODELS.keys()
    for name, case in named.items():
        entry = configuration.MODELS[name]
        assert entry.class_name == case.make.__name__
        assert entry.fields["prior"] == case.settings.get("prior", "standard")
        # every field of the configuration is an argument of the model, or handled by the experiment
        arguments = case.make(case.event_shape, **case.settings).get_config()
        assert set(entry.fields) - {"pseudo_inputs"} <= arguments.keys()


@each_model
def test_likelihoods_and_priors_are_checked(name):
    case = CASES[name]
    for setting in ("prior", "likelihood"):
        with pytest.raises(ValueError, match=f"{setting}='gaussian'"):
            case.make(case.event_shape, **{**case.settings, setting: "gaussian"})


# The record
# -------------------------------------------------------------------------------------------------


@each_model
@pytest.mark.parametrize("samples", [1, 5])
def test_shapes(name, samples):
    model, x = model_of(name), images(name)
    trace = model.trace(x, num_samples=samples)
    assert trace.label is None and trace.log_px.shape == [samples, BATCH]
    assert list(trace.sites) == list(model.noise_shapes)
    for site_name, site in trace.sites.items():
        event = model.noise_shapes[site_name]
        assert site.value.shape == site.q_mean.shape == [samples, BATCH, *event]
        assert site.log_q.shape == site.log_p.shape == [samples, BATCH]
        analytic = site_name == "z1" if "z2" in trace.sites else True
        if CASES[name].settings.get("prior", "standard") == "standard" or (
            analytic and "z2" in trace.sites
        ):
            assert site.kl.shape == [samples, BATCH, *event]
            assert np.all(site.kl > -1e-6)
        else:
            assert site.kl.shape == [samples, BATCH, 1]
            np.testing.assert_allclose(site.kl[..., 0], site.log_q - site.log_p, rtol=1e-6)
    for value in tf.nest.flatten((trace.sites, trace.log_px)):
        assert value.dtype == tf.float32 and np.isfinite(value).all()


@each_model
def test_samples_are_what_single_samples_are(name):
    """S samples at once equal S traces of one sample each: nothing mixes along S."""
    model, x = model_of(name), images(name)
    noise = model.noise(4, BATCH, 3)
    together = model.trace(x, noise=noise)
    for s in range(3):
        alone = model.trace(x, noise={site: value[s : s + 1] for site, value in noise.items()})
        for key, value in densities(alone).items():
            np.testing.assert_allclose(densities(together)[key][s], value[0], rtol=1e-5, atol=1e-4)


@each_model
def test_noise_is_a_function_of_the_seed(name):
    model = model_of(name)
    a, b, c = model.noise(4, BATCH, 2), model.noise(4, BATCH, 2), model.noise(5, BATCH, 2)
    for site in model.noise_shapes:
        np.testing.assert_array_equal(a[site], b[site])
        assert np.abs(a[site] - c[site]).min() > 0
    x = images(name)
    assert_same_trace(model.trace(x, noise=a), model.trace(x, noise=b), rtol=0)
    assert np.abs(model.trace(x).log_px - model.trace(x).log_px).min() > 0  # its own stream


@each_model
def test_examples_do_not_leak(name):
    """Densities of an example have no gradient with respect to the others."""
    model, x = model_of(name), images(name)
    noise = model.noise(4, BATCH, 2)
    for i in range(BATCH):
        with tf.GradientTape() as tape:
            tape.watch(x)
            trace = model.trace(x, noise=noise)
            total = tf.add_n([tf.reduce_sum(value[:, i]) for value in densities(trace).values()])
            total += sum(tf.reduce_sum(site.kl[:, i]) for site in trace.sites.values())
        gradient = tape.gradient(total, x).numpy()
        assert np.abs(gradient[i]).max() > 0
        assert np.abs(np.delete(gradient, i, 0)).max() == 0


@each_model
def test_permuting_examples_permutes_the_trace(name):
    model, x = model_of(name), images(name)
    noise, order = model.noise(4, BATCH, 2), [2, 0, 1]
    trace = model.trace(x, noise=noise)
    shuffled = {site: tf.gather(value, order, axis=1) for site, value in noise.items()}
    permuted = model.trace(tf.gather(x, order), noise=shuffled)
    for key, value in densities(trace).items():
        np.testing.assert_allclose(
            densities(permuted)[key], tf.gather(value, order, axis=1), rtol=1e-5, atol=1e-4
        )


@each_model
def test_given_values_are_evaluated(name):
    """log q at given latents equals SciPy's normal; the drawn ones give the drawn trace again."""
    model, x = model_of(name), images(name)
    noise = model.noise(4, BATCH, 2)
    drawn = model.trace(x, noise=noise)
    rng, values = np.random.default_rng(2), {}
    for site_name, event in model.noise_shapes.items():
        partly = model.trace(x, noise=noise, values=values).sites[site_name]
        scale = ((partly.value - partly.q_mean) / noise[site_name]).numpy().astype(np.float64)
        given = rng.normal(size=(2, BATCH, *event)).astype(np.float32)
        values[site_name] = tf.constant(given)
        site = model.trace(x, noise=noise, values=values).sites[site_name]
        np.testing.assert_array_equal(site.value, given)
        expected = scipy.stats.norm.logpdf(given, np.float64(site.q_mean), scale).sum(-1)
        np.testing.assert_allclose(site.log_q, expected, rtol=1e-3, atol=1e-3)
    values = {site_name: site.value for site_name, site in drawn.sites.items()}
    again = model.trace(x, noise=model.noise(9, BATCH, 2), values=values)
    assert_same_trace(drawn, again, rtol=1e-4, atol=1e-3)


# Densities
# -------------------------------------------------------------------------------------------------


@each_model
def test_analytic_and_sampled_kl_agree(name):
    """Mean of analytic KL - (log q - log p) within 5 standard errors of zero, 3 examples per site:
    false alarm 4e-6 over all models."""
    model, x = new_model(name), images(name)
    for weight in model.weights:
        weight.assign(0.5 * weight)  # scales near one: a small standard error
    samples = 3000
    trace = model.trace(x, noise=model.noise(6, BATCH, samples))
    for site in trace.sites.values():
        if site.kl.shape[-1] > 1:
            difference = np.float64(tf.reduce_sum(site.kl, -1) - (site.log_q - site.log_p))
            error = difference.std(0, ddof=1) / np.sqrt(samples)
            assert error.max() < 0.1
            np.testing.assert_array_less(np.abs(difference.mean(0)), 5 * error + 1e-5)


@each_model
def test_more_importance_samples_give_a_tighter_bound(name):
    """E[L_1] <= E[L_5] <= E[L_50], from the same draws. The gaps are above zero by many of their
    standard errors; 3 are asked for, and a correct model fails with probability below 1e-6."""
    model, repeats = model_of(name), 100
    x = tf.repeat(images(name, 1), repeats, axis=0)
    trace = model.trace(x, noise=model.noise(7, repeats, 50))
    l_1, l_5, l_50 = (bounds.importance_weighted(trace, k).numpy() for k in (1, 5, 50))
    for looser, tighter in [(l_1, l_5), (l_5, l_50)]:
        gap = tighter - looser
        assert gap.mean() > 3 * gap.std(ddof=1) / np.sqrt(repeats)


@each_model
def test_every_weight_gets_a_gradient(name):
    model, x = model_of(name), images(name)
    objective = Objective(num_importance=2)
    with tf.GradientTape() as tape:
        loss = objective(model, x, model.noise(4, BATCH, 2), 0)[0]
    assert model.trainable_variables
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients):
        assert gradient is not None, variable.path
        gradient = gradient.numpy()
        assert np.isfinite(gradient).all(), variable.path
        assert np.abs(gradient).max() > 0, variable.path


def test_pseudo_inputs_that_are_not_trained():
    model = models.VAE((8, 8, 1), **_VAE, **_VAMP, train_pseudo_inputs=False)
    assert not any("pseudo_inputs" in w.path for w in model.trainable_variables)
    new = np.linspace(-0.5, 1.5, 5 * 64).reshape(5, 8, 8, 1)
    model.prior.set_pseudo_inputs(new)
    np.testing.assert_allclose(model.prior.pseudo_inputs, np.clip(new, 0, 1), rtol=1e-6)
    with pytest.raises(ValueError, match=r"shape=\(4, 8, 8, 1\)"):
        model.prior.set_pseudo_inputs(new[:4])
    with pytest.raises(ValueError, match="prior='standard'"):
        model_of("vae").prior.set_pseudo_inputs(new)


def test_vampprior_is_the_mixture_of_posteriors_at_its_pseudo_inputs():
    """log p(z) = log 1/C sum_c q(z|u_c), by the trace's own log q at given z."""
    for name, site in [("vae vampprior", "z1"), ("hvae vampprior", "z2")]:
        model, x = model_of(name), images(name, 1)
        trace = model.trace(x, noise=model.noise(4, 1, 1))
        values = {key: tf.repeat(s.value, 5, axis=1) for key, s in trace.sites.items()}
        u = model.prior.pseudo_inputs
        log_q = model.trace(u, noise=model.noise(4, 5, 1), values=values).sites[site].log_q
        expected = tf.reduce_logsumexp(log_q) - np.log(5)
        np.testing.assert_allclose(trace.sites[site].log_p[0, 0], expected, rtol=1e-4, atol=1e-4)


# Keras
# -------------------------------------------------------------------------------------------------


@each_model
def test_saved_model_gives_the_same_trace(name, tmp_path):
    model, x = new_model(name), images(name)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(weight + 0.1 * rng.normal(size=weight.shape))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model) and loaded.get_config() == model.get_config()
    for a, b in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    noise = model.noise(4, BATCH, 2)
    assert_same_trace(model.trace(x, noise=noise), loaded.trace(x, noise=noise), rtol=0)


@each_model
def test_eager_graph_and_xla_agree(name):
    model, x = model_of(name), images(name)
    noise = model.noise(4, BATCH, 2)

    def run(x, noise):
        return model.trace(x, noise=noise)

    eager, graph = run(x, noise), tf.function(run)
    xla = tf.function(lambda x, noise: graph(x, noise), jit_compile=True)  # traced once for both
    for compiled in (graph, xla):
        assert_same_trace(eager, compiled(x, noise), rtol=1e-4, atol=1e-3)


@each_model
def test_a_few_steps_raise_the_bound(name):
    """Ten updates on one batch; the bound is measured with 50 samples of the same noise.

    One model is compiled by XLA; the others run eagerly, which is faster for ten steps.
    """
    model, x = new_model(name), images(name)
    is_compiled = name == "vae"
    model.compile(keras.optimizers.Adam(3e-3), Objective(), run_eagerly=not is_compiled)

    def bound():
        trace = model.trace(x, noise=model.noise(8, BATCH, 50))
        return float(tf.reduce_mean(bounds.importance_weighted(trace)))

    before = bound()
    data = tf.data.Dataset.from_tensors(x).repeat(10)
    history = model.fit(data, epochs=1, verbose=0).history
    assert int(model.optimizer.iterations) == 10
    assert np.isfinite(history["bound"]).all()
    assert bound() > before + 0.3


@each_model
def test_call_reconstructs(name):
    """`model(x)` is the mean of p(x|z) with z from q(z|x), drawn from the model's stream."""
    model, x = model_of(name), images(name)
    state = model._seeds.state.numpy()
    reconstruction = model(x)
    assert reconstruction.shape == x.shape
    assert np.all(reconstruction >= 0) and np.all(reconstruction <= 1)
    model._seeds.state.assign(state)
    trace = model.trace(x)
    p = model.decode({site: record.value for site, record in trace.sites.items()})
    np.testing.assert_allclose(reconstruction, p.mean()[0], rtol=1e-5)
    np.testing.assert_allclose(p.log_prob(x), trace.log_px, rtol=1e-5)


# Generation
# -------------------------------------------------------------------------------------------------


@each_model
def test_generate(name):
    model, case = model_of(name), CASES[name]
    drawn = model.generate(7, seed=3)
    assert drawn.mean.shape == drawn.sample.shape == [7, *case.event_shape]
    assert {site: z.shape[1:] for site, z in drawn.latents.items()} == model.noise_shapes
    assert np.all(drawn.mean >= 0) and np.all(drawn.mean <= 1)
    levels = drawn.sample.numpy() * 256 - 0.5 if "likelihood" in case.settings else drawn.sample
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    assert np.min(drawn.sample) >= 0 and np.max(drawn.sample) <= 1
    assert len(np.unique(drawn.sample)) > 1
    for a, b in zip(tf.nest.flatten(drawn), tf.nest.flatten(model.generate(7, seed=3))):
        np.testing.assert_array_equal(a, b)
    for seed in (4, None):
        assert np.abs(drawn.mean - model.generate(7, seed=seed).mean).max() > 1e-4


@each_model
def test_generate_keeps_clamped_latents(name):
    model = model_of(name)
    drawn = model.generate(4, seed=3)
    for site, value in drawn.latents.items():
        clamped = model.generate(latents={site: value}, seed=5)
        np.testing.assert_array_equal(clamped.latents[site], value)
        assert clamped.mean.shape == drawn.mean.shape
        for other in drawn.latents.keys() - {site}:
            assert np.abs(clamped.latents[other] - drawn.latents[other]).min() > 0
    everything = model.generate(latents=drawn.latents, seed=5)
    np.testing.assert_allclose(everything.mean, drawn.mean, rtol=1e-6)
    assert np.abs(everything.sample - drawn.sample).max() > 0


@pytest.mark.parametrize("name", ["vae", "vae mixture", "vae vampprior", "hvae vampprior"])
def test_generated_latents_come_from_the_prior(name):
    """The mean of log p over generated latents equals its value by importance sampling from a wide
    normal: E_p[log p] by two routes, within 5 standard errors; false alarm 5e-6."""
    model, n = new_model(name), 20_000
    top = list(model.noise_shapes)[0]
    units = model.noise_shapes[top][0]
    p = model.prior.distribution(getattr(model, "encode_z2", None) or model.encode)

    def log_p(z):
        return np.float64(
            tf.reduce_sum(-0.5 * (tf.square(z) + np.log(2 * np.pi)), -1)
            if isinstance(p, tuple)
            else p.log_prob(z)
        )

    encode = getattr(model, "encode_z2", None) or model.encode
    drawn = log_p(model.prior.sample(n, units, encode, tf.constant([1, 2])))
    width = 4.0
    z = (width * np.random.default_rng(0).standard_t(4, size=(20 * n, units))).astype(np.float32)
    weights = np.exp(
        log_p(z) - (scipy.stats.t.logpdf(np.float64(z) / width, 4) - np.log(width)).sum(-1)
    )
    # p is normalised, and its mean log density is that of the draws
    terms = weights * log_p(z)
    for values, expected, extra in [
        (weights, 1.0, 0.0),
        (terms, drawn.mean(), drawn.std() / np.sqrt(n)),
    ]:
        error = np.hypot(values.std() / np.sqrt(len(values)), extra)
        assert error < 0.1
        assert abs(values.mean() - expected) < 5 * error


# Golden numbers
# -------------------------------------------------------------------------------------------------


def golden(name):
    """Mean densities at weights, images and noise that are written formulas, not draws."""
    model = new_model(name)
    for i, weight in enumerate(model.weights):
        index = np.arange(np.prod(weight.shape)).reshape(weight.shape)
        value = np.sin(1.7 * index + i)
        weight.assign(0.5 + 0.4 * value if "pseudo_inputs" in weight.path else 0.3 * value)
    shape = CASES[name].event_shape
    wave = 0.5 + 0.49 * np.cos(0.9 * np.arange(BATCH * np.prod(shape))).reshape(BATCH, *shape)
    grey = "likelihood" in CASES[name].settings
    x = (np.floor(wave * 256) + 0.5) / 256 if grey else np.round(wave)
    noise = {
        site: np.sin(2.3 * np.arange(2 * BATCH * units) + units).reshape(2, BATCH, units)
        for site, (units,) in model.noise_shapes.items()
    }
    noise = {site: tf.constant(value, tf.float32) for site, value in noise.items()}
    trace = model.trace(tf.constant(x, tf.float32), noise=noise)
    return {key: round(float(np.mean(value)), 4) for key, value in densities(trace).items()}


GOLDEN = {
    "vae": {"log_px": -45.0212, "z1/log_q": -3.4238, "z1/log_p": -3.7822},
    "vae grey": {"log_px": -613.2133, "z1/log_q": -3.4232, "z1/log_p": -3.7737},
    "vae dense": {"log_px": -45.1054, "z1/log_q": -3.4028, "z1/log_p": -3.9309},
    "vae mixture": {"log_px": -45.0212, "z1/log_q": -3.4238, "z1/log_p": -3.8368},
    "vae vampprior": {"log_px": -45.0212, "z1/log_q": -3.4238, "z1/log_p": -3.4137},
    "vae vampprior grey": {"log_px": -440.6434, "z1/log_q": -3.42, "z1/log_p": -3.4174},
    "hvae": {
        "log_px": -43.69,
        "z2/log_q": -3.5035,
        "z2/log_p": -3.415,
        "z1/log_q": -4.6949,
        "z1/log_p": -4.8268,
    },
    "hvae vampprior": {
        "log_px": -45.4003,
        "z2/log_q": -3.4092,
        "z2/log_p": -3.4058,
        "z1/log_q": -4.7056,
        "z1/log_p": -5.053,
    },
    "conv hvae": {
        "log_px": -66.5507,
        "z2/log_q": -3.4845,
        "z2/log_p": -3.4572,
        "z1/log_q": -4.7035,
        "z1/log_p": -4.8936,
    },
    "conv hvae vampprior grey": {
        "log_px": -435.4919,
        "z2/log_q": -3.4126,
        "z2/log_p": -3.397,
        "z1/log_q": -4.7115,
        "z1/log_p": -5.1155,
    },
}


@each_model
def test_golden_trace(name):
    assert GOLDEN.keys() == CASES.keys()
    found = golden(name)
    assert found.keys() == GOLDEN[name].keys()
    for key, value in GOLDEN[name].items():
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=2e-3, err_msg=key)


if __name__ == "__main__":
    for case_name in CASES:
        print(f'    "{case_name}": {golden(case_name)},'.replace("'", '"'))
