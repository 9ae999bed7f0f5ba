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
from tfhvae.diagnostics import dependencies
from tfhvae.layers import BatchNormalization
from tfhvae.models.deep import DenseHierarchy, GaussianHierarchy
from tfhvae.models.parts import ConditionalGaussian
from tfhvae.objectives import Objective, SemiSupervisedObjective
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
_DEEP = {"latent_dims": (4, 3, 2), "hidden_units": (8, 7, 6)}
_TWO = {"latent_dims": (4, 3), "hidden_units": (8, 6)}
_SEMI = {"latent_dim": 3, "hidden_units": (8, 6), "num_classes": 4}
_M1M2 = {"m1_latent_dim": 4, "m1_hidden_units": (8, 6), "latent_dim": 3, "hidden_units": (8,)}
_PIXELS = {"pixel_filters": 6, "first_kernel_size": 3, "blocks": 1}
_PIXEL_HVAE = {**_HVAE, "width": 0.1, "pixel_filters": 6, "masked_convolutions": 1}
_FAME = {**_TWO, **_PIXELS, "filters": (4, 5), "context_channels": 2}
_VLAE = {"latent_dims": (2, 3), "filters": (8, 12, 16)}
_FIXED = {"likelihood": "gaussian", "output_scale": 0.5}
_ALL, _HIDDEN, _NONE = ({"batch_normalization": where} for where in ("all", "hidden", "none"))

# The one list of models. Each property below holds for every line.
CASES = {
    "vae": Case(models.VAE, _VAE, ("vae",)),
    "vae grey": Case(models.VAE, {**_VAE, **_GREY}, event_shape=(6, 5, 3)),
    "vae dense": Case(
        models.VAE, {**_VAE, "gated": False, "activation": "tanh"}, ("iwae", "m1_svm")
    ),
    "vae mixture": Case(models.VAE, {**_VAE, **_MIXTURE}),
    "vae vampprior": Case(models.VAE, {**_VAE, **_VAMP, **_LIMIT}, ("vampprior",)),
    "vae vampprior grey": Case(models.VAE, {**_VAE, **_VAMP, **_GREY}),
    "hvae": Case(models.HVAE, {**_HVAE, **_LIMIT}, ("hvae",), event_shape=(6, 5, 2)),
    "hvae vampprior": Case(models.HVAE, {**_HVAE, **_VAMP}, ("hvae_vampprior",)),
    "conv hvae": Case(models.ConvHVAE, _CONV, ("conv_hvae",), event_shape=(8, 6, 2)),
    "conv hvae vampprior grey": Case(models.ConvHVAE, {**_CONV, **_VAMP, **_GREY}),
    "deep vae": Case(models.DeepVAE, {**_DEEP, **_NONE}),
    "deep vae bn": Case(models.DeepVAE, {**_TWO, **_ALL}, ("deep_vae",), event_shape=(5, 4, 3)),
    "prob ladder": Case(models.ProbabilisticLadder, {**_TWO, **_NONE}, ("prob_ladder",)),
    "prob ladder shared": Case(
        models.ProbabilisticLadder, {**_TWO, **_HIDDEN, "top_down": "shared"}
    ),
    "ladder vae": Case(models.LadderVAE, {**_DEEP, **_HIDDEN}),
    "ladder vae bn": Case(models.LadderVAE, {**_TWO, **_ALL}, ("ladder_vae",)),
    "ladder vae one layer": Case(
        models.LadderVAE, {"latent_dims": (3,), "hidden_units": (8,), **_ALL}
    ),
    "ladder vae gaussian": Case(
        models.LadderVAE, {**_TWO, **_NONE, "likelihood": "gaussian", "activation": "tanh"}
    ),
    "avae": Case(models.AVAE, {**_TWO, **_NONE, "auxiliary_dims": (3, 2)}, ("avae",)),
    "m2": Case(models.M2, {**_SEMI, **_NONE}, ("m2",)),
    "m1 m2": Case(models.M1M2, {**_M1M2, "num_classes": 4}, ("m1_m2",)),
    "adgm": Case(models.ADGM, {**_SEMI, **_ALL, "auxiliary_dim": 2}, ("adgm",)),
    "adgm given x": Case(
        models.ADGM, {**_SEMI, **_NONE, "auxiliary_dim": 2, "auxiliary_given_x": True}
    ),
    "sdgm": Case(models.SDGM, {**_SEMI, **_HIDDEN, "auxiliary_dim": 2}, ("sdgm",)),
    "pixel hvae": Case(models.PixelHVAE, {**_PIXEL_HVAE, **_LIMIT}, ("pixel_hvae",)),
    "pixel hvae vampprior grey": Case(
        models.PixelHVAE, {**_PIXEL_HVAE, **_VAMP, **_GREY}, event_shape=(5, 6, 2)
    ),
    "pixel cnn": Case(models.PixelCNNModel, {**_PIXELS, **_HIDDEN}, ("pixel_cnn",)),
    "pixel cnn gated": Case(
        models.PixelCNNModel, {**_PIXELS, **_NONE, **_GREY, "kind": "gated"}, event_shape=(5, 4, 3)
    ),
    "fame": Case(models.FAME, {**_FAME, **_HIDDEN}, ("fame",)),
    "fame no concatenation": Case(
        models.FAME, {**_FAME, **_ALL, "concatenate": False}, ("fame_no_concat",)
    ),
    "fame independent": Case(
        models.FAME, {**_FAME, **_NONE, **_GREY, "decoder": "independent"}, event_shape=(5, 6, 3)
    ),
    "sdgm table": Case(
        models.SDGM,
        {**_SEMI, **_NONE, "auxiliary_dim": 2, "likelihood": "gaussian"},
        ("pv_sdgm",),
        event_shape=(6, 1, 1),
    ),
    "cagem": Case(models.CaGeM, {**_TWO, **_HIDDEN, "num_classes": 4}, ("cagem",)),
    "vlae": Case(models.VLAE, {**_VLAE, **_NONE}, ("vlae",)),
    "vlae gated": Case(
        models.VLAE,
        {**_VLAE, **_NONE, **_FIXED, "merge": "gated", "ladders": "own"},
        event_shape=(8, 4, 2),
    ),
    "vlae medium": Case(
        models.VLAE, {**_VLAE, **_NONE, "trunk": "conv_medium", "latent_dims": (2, 3, 2)}
    ),
    "vlae dense": Case(
        models.VLAE,
        {**_VLAE, **_HIDDEN, **_FIXED, "trunk": "dense", "filters": (7, 6), "density": "laplace"},
        event_shape=(5, 4, 1),
    ),
    "gaussian hvae": Case(
        models.GaussianHVAE, {**_DEEP, **_NONE, "filters": (4, 6)}, ("gaussian_hvae",)
    ),
    "gaussian hvae dense": Case(
        models.GaussianHVAE,
        {**_TWO, **_HIDDEN, **_FIXED, "trunk": "dense", "train_output_scale": True},
    ),
}
each_model = pytest.mark.parametrize("name", CASES)
one_of_each_class = pytest.mark.parametrize(
    "name", {case.make: name for name, case in CASES.items()}.values()
)
SEMI_SUPERVISED = [n for n, c in CASES.items() if issubclass(c.make, models.SemiSupervisedModel)]
SEVERAL_SITES = [
    name
    for name, case in CASES.items()
    if len(case.settings.get("latent_dims", ())) > 1
    and name not in SEMI_SUPERVISED
    and case.make is not models.VLAE  # whose layers are independent
]
DEEP = [name for name, case in CASES.items() if issubclass(case.make, DenseHierarchy)]
CHAINS = [name for name, case in CASES.items() if issubclass(case.make, GaussianHierarchy)]
# Sites whose KL is taken from the draws: p is known only after a later draw.
SAMPLED_KL = {
    "deep vae": ("z1", "z2"),
    "deep vae bn": ("z1",),
    "avae": ("a1", "z1", "a2"),
    "m1 m2": ("z1",),
    "adgm": ("a",),
    "adgm given x": ("a",),
    "sdgm": ("a",),
    "sdgm table": ("a",),
    "cagem": ("z1",),
    "gaussian hvae": ("z1", "z2"),
    "gaussian hvae dense": ("z1",),
}
NORMALIZED = [name for name in DEEP if CASES[name].settings["batch_normalization"] != "none"]


def new_model(name):
    keras.utils.set_random_seed(0)
    case = CASES[name]
    return with_known_class(case.make(case.event_shape, **case.settings))


def with_known_class(model):
    """A semi-supervised model as the properties below see it: all images are of class 1. What
    holds where the class is unknown is in test_semi_supervised.py."""
    if isinstance(model, models.SemiSupervisedModel):
        trace = model.trace
        model.trace = lambda x, **options: trace(
            x, **{"y": tf.ones([tf.shape(x)[0]], tf.int32), **options}
        )
    return model


model_of = functools.cache(new_model)  # for tests that leave the weights alone


def objective_and_batch(name, x, **settings):
    """What trains a model: an objective, and a batch of the images `x` for it."""
    if name in SEMI_SUPERVISED:
        return SemiSupervisedObjective(**settings), ((x, tf.range(BATCH)), x)
    return Objective(**settings), x


def likelihood(name):
    return CASES[name].settings.get("likelihood", "bernoulli")


def normalizations(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, BatchNormalization)]


def images(name, batch=BATCH):
    rng = np.random.default_rng(1)
    levels = 2 if likelihood(name) == "bernoulli" else 256
    x = rng.integers(0, levels, (batch, *CASES[name].event_shape))
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
        # every field of the configuration is an argument of the model, or handled by the experiment
        arguments = case.make(case.event_shape, **case.settings).get_config()
        for setting in ("prior", "top_down", "upward"):
            assert entry.fields.get(setting) == arguments.get(setting)
        assert set(entry.fields) - {"pseudo_inputs"} <= arguments.keys()


@each_model
def test_settings_are_checked(name):
    case = CASES[name]
    choices = {
        "prior", "batch_normalization", "top_down", "upward", "label_inference", "trunk", "density",
        "output_mean", "merge", "ladders",
    }  # fmt: skip
    known = choices & model_of(name).get_config().keys()
    assert known
    for setting in ("likelihood", *known):
        with pytest.raises(ValueError, match=f"{setting}='poisson'"):
            case.make(case.event_shape, **{**case.settings, setting: "poisson"})


def test_widths_of_every_layer_are_asked_for():
    for latent_dims in ((), (4, 3, 2)):
        with pytest.raises(ValueError, match=r"hidden_units=\(8, 7\)"):
            models.DeepVAE((8, 8, 1), latent_dims=latent_dims, hidden_units=(8, 7))


# The record
# -------------------------------------------------------------------------------------------------


@each_model
@pytest.mark.parametrize("samples", [1, 5])
def test_shapes(name, samples):
    model, x = model_of(name), images(name)
    trace = model.trace(x, num_samples=samples)
    assert trace.log_px.shape == [samples, BATCH]
    assert (trace.label is None) == (name not in SEMI_SUPERVISED)
    assert list(trace.sites) == list(model.noise_shapes)
    assert set(model.generation_order) <= set(trace.sites)
    for site_name, site in trace.sites.items():
        event = model.noise_shapes[site_name]
        for field in (site.value, site.q_mean, site.q_scale):
            assert field.shape == [samples, BATCH, *event]
        assert site.log_q.shape == site.log_p.shape == [samples, BATCH]
        analytic = site_name == "z1" if "z2" in trace.sites else True
        if CASES[name].settings.get("prior", "standard") == "standard" or (
            analytic and "z2" in trace.sites
        ):
            assert site.kl.shape == [samples, BATCH, *event]
            if site_name in SAMPLED_KL.get(name, ()):
                difference = site.log_q - site.log_p
                np.testing.assert_allclose(np.sum(site.kl, -1), difference, rtol=1e-4, atol=1e-5)
            else:
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
    if model.noise_shapes:
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
    false alarm 5e-5 over all models."""
    model, x = new_model(name), images(name)
    for weight in model.weights:
        # scales near one: a small standard error; of layers that depend on each other
        weight.assign(weight if name in DEEP else 0.5 * weight)
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
        if not model.noise_shapes:  # the bound is log p(x)
            np.testing.assert_allclose(gap, 0.0, atol=1e-3)
            continue
        assert gap.mean() > 3 * gap.std(ddof=1) / np.sqrt(repeats)


@each_model
def test_every_weight_gets_a_gradient(name):
    model, x = new_model(name), images(name)  # batch statistics follow
    objective, data = objective_and_batch(name, x, num_importance=2)
    with tf.GradientTape() as tape:
        loss = objective(model, data, objective.noise(model, tf.constant([4, 0]), data), 0)[0]
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


# Batch normalisation
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEEP)
def test_examples_mix_in_training_through_batch_statistics_alone(name):
    """In training, densities depend on the other examples, and the running averages move, where a
    model is normalised; with averages that have followed the batch at once, inference gives the
    training trace."""
    model, x = new_model(name), images(name)
    noise = model.noise(4, BATCH, 2)
    layers = normalizations(model)
    assert bool(layers) == (name in NORMALIZED)
    with tf.GradientTape() as tape:
        tape.watch(x)
        trained = model.trace(x, noise=noise, training=True)
        total = tf.add_n([tf.reduce_sum(value[:, 0]) for value in densities(trained).values()])
    gradient = np.abs(tape.gradient(total, x))
    assert gradient[0].max() > 0
    for example in (1, 2):
        assert (gradient[example].max() > 0) == (name in NORMALIZED)
    for layer in layers:
        assert np.abs(layer.moving_variance - 1.0).min() > 0
        layer.momentum = 0.0
    again = model.trace(x, noise=noise, training=True)
    assert_same_trace(again, model.trace(x, noise=noise, training=False), rtol=1e-4, atol=1e-4)
    assert_same_trace(again, trained, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NORMALIZED)
def test_inference_leaves_the_running_averages_alone(name):
    model, x = model_of(name), images(name)
    before = [weight.numpy() for weight in model.non_trainable_variables]
    model.trace(x, noise=model.noise(4, BATCH, 2))
    model.generate(2, seed=1)
    model.reconstruct(x, model.noise(4, BATCH, 1))
    for weight, value in zip(model.non_trainable_variables, before):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize("name", NORMALIZED)
def test_what_is_normalised(name):
    """All hidden layers, with "all" also every mu and sigma²; never the output layer."""
    model, everywhere = model_of(name), CASES[name].settings["batch_normalization"] == "all"
    hidden, heads = model.p_x.normalization_layers, []
    for layer in model._flatten_layers():
        if isinstance(layer, ConditionalGaussian):
            hidden = hidden + layer.mlp.normalization_layers
            heads += [layer.head.normalization_layer] if everywhere else []
            assert hasattr(layer.head, "bias") != everywhere
    levels = len(model.latent_dims)
    downward = levels - 1 if getattr(model, "top_down", None) == "own" else 0
    assert len(hidden) == 2 * (2 * levels + downward)
    assert {id(layer) for layer in normalizations(model)} == {id(n) for n in hidden + heads}
    assert model.pixels.bias is not None


# Keras
# -------------------------------------------------------------------------------------------------


@each_model
def test_saved_model_gives_the_same_trace(name, tmp_path):
    model, x = new_model(name), images(name)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(weight + 0.1 * np.abs(rng.normal(size=weight.shape)))
    model.save(tmp_path / "model.keras")
    loaded = with_known_class(keras.saving.load_model(tmp_path / "model.keras"))
    assert type(loaded) is type(model) and loaded.get_config() == model.get_config()
    for a, b in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    noise = model.noise(4, BATCH, 2)
    assert_same_trace(model.trace(x, noise=noise), loaded.trace(x, noise=noise), rtol=0)


@pytest.mark.parametrize("name", ["ladder vae bn", "sdgm", "pixel cnn", "fame"])
def test_an_exported_model_reconstructs_batches_of_any_size(name, tmp_path):
    model, x = new_model(name), images(name)
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    assert served.serve(x).shape == x.shape
    first, again = served.serve(x[:1]), served.serve(x[:1])
    assert first.shape == (1, *x.shape[1:]) and np.isfinite(first).all()
    assert np.array_equal(first, again) == (not model.noise_shapes)  # z is drawn anew


@one_of_each_class
def test_mixed_precision_is_kept_by_a_saved_model(name, tmp_path):
    """Models are called and traced with layers in bfloat16; loaded under another policy, they keep
    theirs, and leave that of others alone."""
    x, before = images(name), keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = new_model(name)
        shape = model(x).shape
        model.save(tmp_path / "model.keras")
    finally:
        keras.config.set_dtype_policy(before)
    assert shape == x.shape
    loaded = with_known_class(keras.saving.load_model(tmp_path / "model.keras"))
    assert keras.config.dtype_policy() == before
    noise = model.noise(4, BATCH, 1)
    trace, again = model.trace(x, noise=noise), loaded.trace(x, noise=noise)
    assert_same_trace(trace, again, rtol=0)
    assert trace.log_px.dtype == tf.float32
    with pytest.raises(ValueError, match="Received: dtype=mixed_bfloat16"):
        case = CASES[name]
        case.make(case.event_shape, **case.settings, dtype="mixed_bfloat16")


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
    """Four updates on one batch; the bound is measured with 50 samples of the same noise; that of
    the feature map VAE with the statistics of the batch, as its many averages follow slowly.

    Two models are compiled by XLA; the others run eagerly, which is faster for so few.
    """
    model, x = new_model(name), images(name)
    is_compiled = name in ("vae", "ladder vae one layer")
    objective, batch = objective_and_batch(name, x)
    model.compile(keras.optimizers.Adam(1e-2), objective, run_eagerly=not is_compiled)

    def bound():
        trace = model.trace(x, noise=model.noise(8, BATCH, 50), training="fame" in name)
        return float(tf.reduce_mean(bounds.importance_weighted(trace)))

    before = bound()
    data = tf.data.Dataset.from_tensors(batch).repeat(4)
    history = model.fit(data, epochs=1, verbose=0).history
    assert int(model.optimizer.iterations) == 4
    assert np.isfinite(history["bound"]).all()
    assert bound() > before + 0.3
    for layer in normalizations(model):
        assert np.abs(layer.moving_variance - 1.0).min() > 0


@pytest.mark.parametrize("name", [name for name in CASES if name not in SEMI_SUPERVISED])
def test_call_reconstructs(name):
    """`model(x)` is the mean of p(x|z) with z from q(z|x), drawn from the model's stream; of an
    autoregressive p, the mean of each pixel given those before it."""
    model, x = model_of(name), images(name)
    state = model._seeds.state.numpy()
    reconstruction = model(x)
    assert reconstruction.shape == x.shape
    if likelihood(name) != "gaussian":
        assert np.all(reconstruction >= 0) and np.all(reconstruction <= 1)
    model._seeds.state.assign(state)
    trace = model.trace(x)
    p = model.decode({site: record.value for site, record in trace.sites.items()})
    mean = p.conditional(x).mean() if model.is_autoregressive else p.mean()
    np.testing.assert_allclose(reconstruction, mean.numpy().reshape(x.shape), rtol=1e-5)
    log_px = tf.broadcast_to(p.log_prob(x), trace.log_px.shape)
    np.testing.assert_allclose(log_px, trace.log_px, rtol=1e-5)


# Generation
# -------------------------------------------------------------------------------------------------


@each_model
def test_generate(name):
    model, case = model_of(name), CASES[name]
    drawn = model.generate(7, seed=3)
    assert drawn.mean.shape == drawn.sample.shape == [7, *case.event_shape]
    assert list(drawn.latents) == model.generation_order
    for site, z in drawn.latents.items():
        assert z.shape == [7, *model.noise_shapes[site]]
    if likelihood(name) == "gaussian":
        assert np.min(drawn.sample) < 0 and np.max(drawn.sample) > 1  # any real number
    else:
        levels = drawn.sample.numpy()
        levels = levels if likelihood(name) == "bernoulli" else levels * 256 - 0.5
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
        assert np.all(drawn.mean >= 0) and np.all(drawn.mean <= 1)
        assert np.min(drawn.sample) >= 0 and np.max(drawn.sample) <= 1
    assert len(np.unique(drawn.sample)) > 1
    for a, b in zip(tf.nest.flatten(drawn), tf.nest.flatten(model.generate(7, seed=3))):
        np.testing.assert_array_equal(a, b)
    for seed in (4, None):
        assert np.abs(drawn.mean - model.generate(7, seed=seed).mean).max() > 1e-4
    with pytest.raises(ValueError, match="expected num_samples >= 1. Received: num_samples=0"):
        model.generate(0)


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
    if not drawn.latents:
        return
    classes = {} if drawn.y is None else {"y": drawn.y}
    everything = model.generate(latents=drawn.latents, seed=5, **classes)
    if model.is_autoregressive:  # each pixel's mean given those drawn before it: the first's
        first = (slice(None), 0, 0, 0)
        np.testing.assert_allclose(everything.mean[first], drawn.mean[first], rtol=1e-6)
    else:
        np.testing.assert_allclose(everything.mean, drawn.mean, rtol=1e-6)
    assert np.abs(everything.sample - drawn.sample).max() > 0


@each_model
def test_latents_to_generate_from_are_checked(name):
    model = model_of(name)
    with pytest.raises(ValueError, match="expected latents among .*. Received: z9"):
        model.generate(3, latents={"z9": tf.zeros([3, 4])})
    for site in model.generation_order:
        shape = [3, *model.noise_shapes[site]]
        with pytest.raises(ValueError, match=f"expected {site} of shape"):
            model.generate(latents={site: tf.zeros([*shape[:-1], shape[-1] + 1])})
    if len(model.generation_order) > 1:
        first, second = model.generation_order[:2]
        latents = {first: tf.zeros([3, *model.noise_shapes[first]])}
        latents[second] = tf.zeros([5, *model.noise_shapes[second]])
        with pytest.raises(ValueError, match="expected as many rows in all latents"):
            model.generate(latents=latents)


@one_of_each_class
def test_generation_in_a_graph_of_any_number(name):
    model = model_of(name)
    number = tf.TensorSpec([], tf.int32)
    generate = tf.function(
        lambda n: model.generate(n, seed=1).sample, autograph=False, input_signature=[number]
    )
    for n in (2, 3):
        assert generate(n).shape == [n, *CASES[name].event_shape]


@pytest.mark.parametrize("name", SEVERAL_SITES)
def test_generation_runs_downward(name):
    """A clamped latent moves what lies below it and nothing above. In the deep models it also cuts
    the image off from what lies above; in the others p(x|z1, z2) sees both."""
    model = model_of(name)
    order, drawn = model.generation_order, model.generate(4, seed=3)
    moved = {site: value + 1.0 for site, value in drawn.latents.items()}
    for position, site in enumerate(order):
        above, below = order[:position], order[position + 1 :]
        clamped = model.generate(latents={site: moved[site]}, seed=3)
        for other in above:
            np.testing.assert_array_equal(clamped.latents[other], drawn.latents[other])
        for other in below:
            assert np.abs(clamped.latents[other] - drawn.latents[other]).max() > 0
        assert np.abs(clamped.mean - drawn.mean).max() > 0

        everything = model.generate(latents={**drawn.latents, site: moved[site]}, seed=3)
        changed = np.any(everything.mean != drawn.mean)
        assert changed == (name not in CHAINS or site == "z1")
        for other in above:
            both = {site: drawn.latents[site], other: moved[other]}
            changed = np.any(model.generate(latents=both, seed=3).mean != drawn.mean)
            assert changed == (name not in CHAINS)


@pytest.mark.parametrize("name", DEEP)
def test_layers_are_drawn_from_those_above(name):
    """(z_i - mu_i) / sigma_i of generated latents is standard normal, each unit by itself: p-values
    of Kolmogorov and Smirnov above 1e-7; false alarm 6e-6 over all units and models."""
    model = model_of(name)
    latents, above = model.generate(4000, seed=3).latents, None
    for site in model.generation_order:
        loc, scale = model.prior(int(site[1:]) - 1, above)
        standardised = np.float64((latents[site] - loc) / scale)
        assert np.min(scipy.stats.kstest(standardised, "norm", axis=0).pvalue) > 1e-7
        above = latents[site]


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
        is_positive = any(part in weight.path for part in ("pseudo_inputs", "moving_variance"))
        weight.assign(0.5 + 0.4 * value if is_positive else 0.3 * value)
    shape = CASES[name].event_shape
    wave = 0.5 + 0.49 * np.cos(0.9 * np.arange(BATCH * np.prod(shape))).reshape(BATCH, *shape)
    grey = likelihood(name) != "bernoulli"
    x = (np.floor(wave * 256) + 0.5) / 256 if grey else np.round(wave)
    noise = {
        site: np.sin(2.3 * np.arange(2 * BATCH * units) + units).reshape(2, BATCH, units)
        for site, (units,) in model.noise_shapes.items()
    }
    noise = {site: tf.constant(value, tf.float32) for site, value in noise.items()}
    noise = model.noise(0, BATCH, 2) | noise
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
    "deep vae": {
        "log_px": -45.1031,
        "z1/log_q": -3.8862,
        "z1/log_p": -4.0951,
        "z2/log_q": -2.8958,
        "z2/log_p": -2.7587,
        "z3/log_q": -2.1725,
        "z3/log_p": -2.3177,
    },
    "deep vae bn": {
        "log_px": -41.871,
        "z1/log_q": -4.0042,
        "z1/log_p": -4.4628,
        "z2/log_q": -2.9826,
        "z2/log_p": -3.3822,
    },
    "prob ladder": {
        "log_px": -44.9381,
        "z2/log_q": -2.8872,
        "z2/log_p": -3.4112,
        "z1/log_q": -2.4988,
        "z1/log_p": -3.5212,
    },
    "prob ladder shared": {
        "log_px": -44.6212,
        "z2/log_q": -2.9051,
        "z2/log_p": -3.2764,
        "z1/log_q": -2.4981,
        "z1/log_p": -3.399,
    },
    "ladder vae": {
        "log_px": -44.5089,
        "z3/log_q": -1.9827,
        "z3/log_p": -2.3632,
        "z2/log_q": -1.8821,
        "z2/log_p": -2.4469,
        "z1/log_q": -2.5027,
        "z1/log_p": -3.4384,
    },
    "ladder vae bn": {
        "log_px": -44.9809,
        "z2/log_q": -2.9822,
        "z2/log_p": -3.3817,
        "z1/log_q": -2.5771,
        "z1/log_p": -3.5798,
    },
    "ladder vae one layer": {"log_px": -44.71, "z1/log_q": -2.9394, "z1/log_p": -3.5807},
    "ladder vae gaussian": {
        "log_px": -66.1957,
        "z2/log_q": -2.8967,
        "z2/log_p": -3.375,
        "z1/log_q": -2.4987,
        "z1/log_p": -3.4188,
    },
    "avae": {
        "log_px": -44.9094,
        "a1/log_q": -2.8822,
        "a1/log_p": -3.0293,
        "z1/log_q": -3.9246,
        "z1/log_p": -4.3354,
        "a2/log_q": -2.1455,
        "a2/log_p": -2.1628,
        "z2/log_q": -2.9368,
        "z2/log_p": -3.2396,
    },
    "m2": {"log_px": -44.8318, "z/log_q": -3.4032, "z/log_p": -3.7845},
    "adgm": {
        "log_px": -44.8666,
        "a/log_q": -2.2151,
        "a/log_p": -2.5965,
        "z/log_q": -3.4789,
        "z/log_p": -3.847,
    },
    "adgm given x": {
        "log_px": -44.8299,
        "a/log_q": -2.5909,
        "a/log_p": -2.6125,
        "z/log_q": -3.4076,
        "z/log_p": -3.7904,
    },
    "sdgm": {
        "log_px": -44.5398,
        "a/log_q": -2.6208,
        "a/log_p": -2.5627,
        "z/log_q": -3.4124,
        "z/log_p": -3.7005,
    },
    "cagem": {
        "log_px": -45.2121,
        "z1/log_q": -4.6067,
        "z1/log_p": -4.726,
        "z2/log_q": -3.4138,
        "z2/log_p": -3.7056,
    },
    "m1 m2": {
        "log_px": -44.7926,
        "z1/log_q": -4.6518,
        "z1/log_p": -4.8265,
        "z2/log_q": -3.6419,
        "z2/log_p": -3.5445,
    },
    "pixel hvae": {
        "log_px": -44.5982,
        "z2/log_q": -3.5364,
        "z2/log_p": -3.4338,
        "z1/log_q": -4.7043,
        "z1/log_p": -4.9012,
    },
    "pixel hvae vampprior grey": {
        "log_px": -404.6679,
        "z2/log_q": -3.4082,
        "z2/log_p": -3.4068,
        "z1/log_q": -4.7114,
        "z1/log_p": -5.1141,
    },
    "pixel cnn": {"log_px": -44.5315},
    "pixel cnn gated": {"log_px": -411.6184},
    "fame": {
        "log_px": -45.2155,
        "z2/log_q": -3.0403,
        "z2/log_p": -3.2416,
        "z1/log_q": -2.5086,
        "z1/log_p": -3.5989,
    },
    "fame no concatenation": {
        "log_px": -45.2728,
        "z2/log_q": -2.9416,
        "z2/log_p": -3.5371,
        "z1/log_q": -2.6224,
        "z1/log_p": -3.5238,
    },
    "fame independent": {
        "log_px": -621.6116,
        "z2/log_q": -2.9768,
        "z2/log_p": -3.172,
        "z1/log_q": -2.5314,
        "z1/log_p": -3.4256,
    },
    "vlae": {
        "log_px": -53.0316,
        "z1/log_q": -0.805,
        "z1/log_p": -2.181,
        "z2/log_q": -1.3286,
        "z2/log_p": -3.1559,
    },
    "vlae gated": {
        "log_px": -30.1616,
        "z1/log_q": -0.6178,
        "z1/log_p": -2.036,
        "z2/log_q": -1.3293,
        "z2/log_p": -3.0299,
    },
    "vlae medium": {
        "log_px": -52.644,
        "z1/log_q": -0.8063,
        "z1/log_p": -1.9994,
        "z2/log_q": -1.3548,
        "z2/log_p": -2.9545,
        "z3/log_q": -1.1006,
        "z3/log_p": -2.0083,
    },
    "vlae dense": {
        "log_px": -12.5184,
        "z1/log_q": -1.0084,
        "z1/log_p": -2.138,
        "z2/log_q": -1.2793,
        "z2/log_p": -3.1694,
    },
    "gaussian hvae": {
        "log_px": -45.2977,
        "z1/log_q": -1.873,
        "z1/log_p": -2.031,
        "z2/log_q": -1.3353,
        "z2/log_p": -1.1728,
        "z3/log_q": -1.2188,
        "z3/log_p": -2.0613,
    },
    "gaussian hvae dense": {
        "log_px": -62.8952,
        "z1/log_q": -1.8144,
        "z1/log_p": -2.4113,
        "z2/log_q": -1.3184,
        "z2/log_p": -3.099,
    },
    "sdgm table": {
        "log_px": -6.383,
        "a/log_q": -2.5672,
        "a/log_p": -2.5995,
        "z/log_q": -3.3981,
        "z/log_p": -3.7637,
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


# The factors of p and of q as the papers write them.
_VAE_GRAPH = "z1 x|z1", "z1|x"
_HVAE_GRAPH = "z2 z1|z2 x|z1,z2", "z2|x z1|x,z2"
_DEEP_GRAPHS = {
    2: ("z2 z1|z2 x|z1", "z1|x z2|z1"),
    3: ("z3 z2|z3 z1|z2 x|z1", "z1|x z2|z1 z3|z2"),
}
_LADDER_GRAPHS = {
    1: _VAE_GRAPH,
    2: ("z2 z1|z2 x|z1", "z2|x z1|x,z2"),
    3: ("z3 z2|z3 z1|z2 x|z1", "z3|x z2|x,z3 z1|x,z2"),
}
GRAPHS = {
    models.VAE: _VAE_GRAPH,
    models.HVAE: _HVAE_GRAPH,
    models.ConvHVAE: _HVAE_GRAPH,
    models.PixelHVAE: _HVAE_GRAPH,
    models.DeepVAE: _DEEP_GRAPHS,
    models.GaussianHVAE: _DEEP_GRAPHS,
    models.LadderVAE: _LADDER_GRAPHS,
    models.ProbabilisticLadder: _LADDER_GRAPHS,
    models.FAME: _LADDER_GRAPHS,
    models.AVAE: ("z2 z1|z2 x|z1 a1|z1,z2 a2|z2", "a1|x z1|a1,x a2|a1,x z2|a2,z1"),  # Eqs. 19, 20
    models.M2: ("y z x|y,z", "y|x z|x,y"),
    models.M1M2: ("y z2 z1|y,z2 x|z1", "z1|x y|z1 z2|y,z1"),
    models.ADGM: ("y z x|y,z a|y,z", "a|x y|a,x z|a,x,y"),
    "adgm given x": ("y z x|y,z a|x,y,z", "a|x y|a,x z|a,x,y"),
    models.SDGM: ("y z a|y,z x|a,y,z", "a|x y|a,x z|a,x,y"),
    models.CaGeM: ("z2 y|z2 z1|y,z2 x|y,z1", "z1|x y|x,z1 z2|x,y,z1"),
    models.VLAE: {
        2: ("z1 z2 x|z1,z2", "z1|x z2|x"),
        3: ("z1 z2 z3 x|z1,z2,z3", "z1|x z2|x z3|x"),
    },
    models.PixelCNNModel: ("x", ""),
}


@each_model
def test_the_factors_of_p_and_q_are_those_of_the_papers(name):
    """Read off the densities, not off the code; with the weights that a model begins with."""
    case = CASES[name]
    expected = GRAPHS.get(name, GRAPHS[case.make])
    if isinstance(expected, dict):
        expected = expected[len(case.settings["latent_dims"])]
    for found, factors in zip(dependencies(new_model(name), images(name)), expected, strict=True):
        written = {"|".join([v, ",".join(sorted(given))]).strip("|") for v, given in found.items()}
        assert written == set(factors.split())


@each_model
def test_every_model_knows_the_range_of_its_pixels(name):
    model, grey = model_of(name), 255.0 * images(name).numpy()
    assert grey.max() > 1
    if likelihood(name) == "gaussian":
        return model.check_range(grey)
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\]. Received: from"):
        model.check_range(grey)


def test_images_in_grey_levels_are_refused():
    model = models.VAE((4, 4, 1), latent_dim=2, hidden_units=(8,))
    model.compile(objective=Objective(), jit_compile=False)
    grey = np.full([6, 4, 4, 1], 255.0, np.float32)
    for images, low in ((grey, "255"), (tf.constant(grey), "255"), (grey * np.nan, "nan")):
        for method in (model.fit, model.evaluate):
            with pytest.raises(ValueError, match=rf"pixels in \[0, 1\]. Received: from {low}"):
                method(images, verbose=0)
    assert np.isfinite(model.fit(grey / 255, verbose=0).history["bound"]).all()


def test_an_activation_of_gated_layers_is_refused():
    with pytest.raises(ValueError, match="expected gated=False .* activation='tanh'"):
        models.VAE((4, 4, 1), activation="tanh")
    assert models.VAE((4, 4, 1), activation="tanh", gated=False).config["activation"] == "tanh"


@pytest.mark.parametrize("make", models.MODELS)
def test_event_shapes_have_three_numbers(make):
    with pytest.raises(ValueError, match=r"\(height, width, channels\). Received: event_shape=\("):
        make((784,))


def test_single_batches_as_keras_gives_them():
    rng = np.random.default_rng(0)
    x = (rng.random((32, 4, 4, 1)) > 0.5).astype(np.float32)
    model = models.VAE((4, 4, 1), latent_dim=3, hidden_units=(8,))
    model.compile(objective=Objective(), jit_compile=False)
    assert np.isfinite(model.train_on_batch(x, return_dict=True)["bound"])
    assert np.isfinite(model.test_on_batch(x, return_dict=True)["bound"])
    model = models.M2((4, 4, 1), latent_dim=2, hidden_units=(8,))
    model.compile(objective=SemiSupervisedObjective(), jit_compile=False)
    y = np.arange(32) % 10
    logs = model.test_on_batch(x, y, return_dict=True)
    wrong = 100 * np.mean(np.argmax(model.classify(x), -1) != y)
    assert np.isfinite(logs["bound"]) and logs["error_percent"] == pytest.approx(wrong)


def small_vae(**kwargs):
    model = models.VAE((4, 4, 1), latent_dim=3, hidden_units=(8,), **kwargs)
    model.compile(objective=Objective(), jit_compile=False)
    return model


def binary_images(count):
    return (np.random.default_rng(0).random((count, 4, 4, 1)) > 0.5).astype(np.float32)


def test_inputs_in_a_tuple_as_generators_yield_them():
    x = binary_images(32)

    def batches():
        while True:
            yield (x[:8],)

    history = small_vae().fit(
        batches(), steps_per_epoch=2, validation_data=batches(), validation_steps=1, verbose=0
    )
    assert np.isfinite(history.history["val_bound"]).all()
    model = models.M2((4, 4, 1), latent_dim=2, hidden_units=(8,))
    model.compile(objective=SemiSupervisedObjective(), jit_compile=False)
    history = model.fit(((x, np.arange(32) % 10), x), verbose=0)
    assert np.isfinite(history.history["bound"]).all()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_losses_of_layers_are_minimised_with_the_bound(jit_compile, seeded):
    x, weight = binary_images(8), 3.0
    model = models.VAE((4, 4, 1), latent_dim=3, hidden_units=(8,))
    noise, kernel = model.noise(0, 8), model.pixels.kernel

    def gradient(regularizer):
        kernel.regularizer = regularizer
        model.compile(objective=Objective(), jit_compile=jit_compile)
        gradients, _ = model._compiled_gradients(tf.constant(x), noise)
        return next(g for g, v in zip(gradients, model.trainable_variables) if v is kernel).numpy()

    difference = gradient(keras.regularizers.L2(weight)) - gradient(None)
    np.testing.assert_allclose(difference, 2.0 * weight * kernel.numpy(), rtol=1e-4, atol=1e-5)


def test_metrics_of_a_subclass_are_reset_and_named():
    class Counting(models.VAE):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.batches = keras.metrics.Sum("batches")

        def train_step(self, x):
            logs = super().train_step(x)
            self.batches.update_state(1.0)
            return {**logs, "batches": self.batches.result()}

        def test_step(self, x):
            logs = super().test_step(x)
            self.batches.update_state(1.0)
            return {**logs, "batches": self.batches.result()}

    model = Counting((4, 4, 1), latent_dim=3, hidden_units=(8,))
    for _ in range(2):
        model.compile(objective=Objective(), jit_compile=False)
    x = binary_images(32)
    assert model.fit(x, epochs=2, batch_size=16, verbose=0).history["batches"] == [2.0, 2.0]
    named = dict(zip(model.metrics_names, model.evaluate(x, verbose=0), strict=True))
    assert named == model.evaluate(x, verbose=0, return_dict=True) and named["batches"] == 1.0


def test_what_fit_cannot_do_is_refused():
    x, model = binary_images(8), small_vae()
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="expected no sample_weight"):
            method(x, sample_weight=np.ones(8), verbose=0)
    with pytest.raises(ValueError, match="expected no class_weight"):
        model.fit(x, class_weight={0: 2.0}, verbose=0)
    model.trainable = False
    model.compile(objective=Objective(), jit_compile=False)
    assert np.isfinite(model.evaluate(x, verbose=0)).all()
    with pytest.raises(ValueError, match="expected trainable weights"):
        model.fit(x, verbose=0)


@pytest.mark.parametrize("policy", ["float64", "bfloat16"])
def test_policies_without_weights_in_float32_are_refused(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        with pytest.raises(ValueError, match=f"weights in float32.*Received: {policy}"):
            models.VAE((4, 4, 1), latent_dim=3, hidden_units=(8,))
    finally:
        keras.config.set_dtype_policy(before)


@one_of_each_class
def test_images_of_a_trace_are_checked(name):
    model, x = new_model(name), images(name)
    noise = model.noise(0, BATCH)
    for wrong in (x[:, 1:], tf.reshape(x, [BATCH, -1])):
        with pytest.raises(ValueError, match="expected images of shape"):
            model.trace(wrong, noise=noise)
    with pytest.raises(ValueError, match="floating point"):
        model.trace(tf.cast(x, tf.int32), noise=noise)
    double = model.trace(tf.cast(x, tf.float64), noise=noise)
    assert_same_trace(model.trace(x, noise=noise), double, rtol=0)
    if isinstance(model, models.SemiSupervisedModel):
        with pytest.raises(ValueError, match="expected images of shape"):
            model.classify(x[:, 1:])


def test_gradient_norm_is_that_of_the_loss_under_a_loss_scale():
    norms = []
    x = (np.random.default_rng(0).random((32, 4, 4, 1)) > 0.5).astype(np.float32)
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        try:
            keras.utils.set_random_seed(0)
            model = models.VAE((4, 4, 1), latent_dim=3, hidden_units=(8,))
            model.compile(keras.optimizers.SGD(1e-6), Objective(), jit_compile=False)
            history = model.fit(x, batch_size=32, epochs=3, shuffle=False, verbose=0).history
        finally:
            keras.config.set_dtype_policy("float32")
        assert np.isfinite(history["gradient_norm"]).all()
        norms.append(history["gradient_norm"][-1])
    assert norms[1] == pytest.approx(norms[0], rel=0.1) and norms[0] > 0
