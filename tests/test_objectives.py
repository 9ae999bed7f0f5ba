"""Objectives: settings that are refused, warm-up as published, and gradient estimates that agree.

Statistical tests use fixed seeds; the stated probabilities are those of a false alarm under
another seed.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfhvae.models import HVAE, VAE, DeepVAE
from tfhvae.objectives import LinearWarmup, Objective

pytestmark = pytest.mark.usefixtures("seeded")

EVENT = (3, 3, 1)
SMALL = {"hidden_units": 4, "num_components": 3, "pseudo_input_init": (0.5, 0.1)}
MODELS = {
    "vae": lambda: VAE(EVENT, latent_dim=2, hidden_units=(4,)),
    "vampprior": lambda: VAE(
        EVENT, latent_dim=2, **{**SMALL, "hidden_units": (4,), "prior": "vampprior"}
    ),
    "hvae": lambda: HVAE(EVENT, latent_dims=(3, 2), **SMALL),
    "hvae_vampprior": lambda: HVAE(EVENT, latent_dims=(3, 2), prior="vampprior", **SMALL),
}


def images(batch, distinct=4):
    x = np.random.default_rng(0).integers(0, 2, (distinct, *EVENT))
    return tf.constant(np.resize(x, (batch, *EVENT)), tf.float32)


# Settings
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_samples": 0}, "num_samples >= 1"),
        ({"num_importance": 0}, "num_importance >= 1"),
        ({"kl": "exact"}, "kl='exact'"),
        ({"gradient": "score"}, "gradient='score'"),
        ({"free_bits": -1.0, "kl": "analytic"}, "free_bits=-1.0"),
        ({"free_bits": 0.1}, "kl='sampled'"),
        ({"weight_decay": -0.1}, "weight_decay=?.*-0.1"),
        ({"kl": "analytic", "num_importance": 5}, "num_importance=5"),
        ({"kl": "analytic", "gradient": "sticking_the_landing"}, "sticking_the_landing"),
        ({"gradient": "sticking_the_landing", "num_importance": 5}, "doubly_reparameterized"),
    ],
)
def test_meaningless_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Objective(**settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 5, 0.0, "batch"), "per='batch'"),
        ((-1, 5), "epochs=-1"),
        ((10, 0), "steps_per_epoch=0"),
        ((10, 5, 1.5), "start=1.5"),
    ],
)
def test_meaningless_warmup_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LinearWarmup(*arguments)


def test_samples_per_example():
    assert Objective(num_samples=3, num_importance=4).samples_per_example == 12


# Warm-up
# -------------------------------------------------------------------------------------------------


def warmup_by_epoch(schedule, epochs, steps_per_epoch):
    """beta in the first and in the last step of each of `epochs`, counted from 1: `[2, epochs]`."""
    first = np.arange(epochs) * steps_per_epoch
    return np.array([[schedule(tf.constant(s, tf.int64)) for s in first + i] for i in (0, 6)])


def test_warmup_of_tomczak_and_welling():
    """beta = min(1, epoch / 100), epochs counted from 1, constant within an epoch."""
    beta = warmup_by_epoch(LinearWarmup(99, 7, start=0.01), 130, 7)
    expected = np.minimum(1.0, np.arange(1, 131) / 100)
    np.testing.assert_allclose(beta, [expected, expected], rtol=1e-6)


def test_warmup_of_ladder_networks():
    """Temperature 0 in epoch 1 and 1 from epoch 201."""
    beta = warmup_by_epoch(LinearWarmup(200, 7), 230, 7)
    assert np.all(beta[:, 0] == 0.0) and np.all(beta[:, 200:] == 1.0) and np.all(beta[:, 199] < 1.0)
    np.testing.assert_allclose(beta[0, :201], np.arange(201) / 200, rtol=1e-6)


def test_warmup_per_step():
    schedule = LinearWarmup(3, 5, start=0.4, per="step")
    beta = [float(schedule(step)) for step in range(25)]
    np.testing.assert_allclose(beta, np.minimum(1.0, 0.4 + 0.6 * np.arange(25) / 15), rtol=1e-6)


def test_no_warmup_is_one_throughout():
    assert [float(LinearWarmup(0, 5)(step)) for step in (0, 1, 100)] == [1.0, 1.0, 1.0]


def test_warmup_survives_serialisation():
    schedule = LinearWarmup(7, 3, start=0.2, per="step")
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert restored.get_config() == schedule.get_config()
    assert float(restored(5)) == float(schedule(5))


# What is reported
# -------------------------------------------------------------------------------------------------


def test_beta_of_the_step_weighs_the_latent_terms():
    model, x = MODELS["hvae"](), images(4)
    noise = model.noise(1, 4, 1)
    objective = Objective(beta=LinearWarmup(4, 10))
    for step, beta in [(0, 0.0), (10, 0.25), (45, 1.0)]:
        loss, scalars, _ = objective(model, x, noise, tf.constant(step, tf.int64))
        trace = model.trace(x, noise=noise)
        latent = sum(site.log_p - site.log_q for site in trace.sites.values())
        expected = np.mean(trace.log_px + beta * latent)
        np.testing.assert_allclose(scalars["beta"], beta)
        np.testing.assert_allclose(scalars["bound"], expected, rtol=1e-5)
        np.testing.assert_allclose(loss, -expected, rtol=1e-5)


def test_free_bits_count_in_place_of_a_smaller_kl():
    model, x = MODELS["hvae"](), images(4)
    noise = model.noise(1, 4, 1)
    scalars = Objective(kl="analytic", free_bits=100.0)(model, x, noise, 0)[1]
    assert max(scalars["kl/z1"], scalars["kl/z2"]) < 25.0  # of 4 images, so each is below 100
    np.testing.assert_allclose(scalars["bound"], scalars["log_px"] - 2 * 100.0, rtol=1e-5)


def test_weight_decay_is_a_normal_prior_on_kernels():
    """For N images, N times the loss is minus the log-posterior of the weights, up to a constant:
    its gradient has w / std² more."""
    x, num_images, std = images(4), 50, 0.5
    gradients = []
    for decay in (0.0, 1.0 / (num_images * std**2)):
        keras.utils.set_random_seed(1)
        model = MODELS["vae"]()
        model.compile(keras.optimizers.Adam(), Objective(weight_decay=decay), jit_compile=False)
        gradients.append(model._gradients(x, model.noise(0, 4))[0])
    for variable, without, with_prior in zip(model.trainable_variables, *gradients):
        expected = variable / std**2 if len(variable.shape) > 1 else tf.zeros_like(variable)
        actual = num_images * (with_prior - without)
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=2e-3)
    assert any(len(v.shape) > 1 for v in model.trainable_variables)


def test_weight_decay_leaves_alone_what_a_prior_has_learned():
    model = MODELS["vampprior"]()
    with tf.GradientTape() as tape:
        penalty = Objective(weight_decay=1.0).penalty(model.trainable_variables)
    gradients = tape.gradient(penalty, model.trainable_variables)
    reached = {v.name for v, g in zip(model.trainable_variables, gradients) if g is not None}
    assert {v.name for v in model.trainable_variables} > {"pseudo_inputs", "kernel"}
    assert reached == {"kernel"}


def test_scalars_have_the_announced_names():
    model, x = MODELS["hvae"](), images(4)
    objective = Objective(num_importance=2)
    _, scalars, unit_kl = objective(model, x, model.noise(1, 4, 2), 0)
    assert list(scalars) == objective.metric_names(model)
    scalars, unit_kl, q_means = objective.evaluate(model, x, model.noise(1, 4, 1))
    assert list(scalars) == objective.metric_names(model)
    assert {name: kl.shape for name, kl in unit_kl.items()} == {"z2": (2,), "z1": (3,)}
    assert {name: mean.shape for name, mean in q_means.items()} == {"z2": (4, 2), "z1": (4, 3)}
    for name, kl in unit_kl.items():
        np.testing.assert_allclose(scalars[f"kl/{name}"], np.sum(kl), rtol=1e-6)


def test_evaluation_is_at_beta_one():
    model, x = MODELS["hvae"](), images(4)
    noise = model.noise(1, 4, 1)
    scalars, _, _ = Objective(beta=0.0).evaluate(model, x, noise)
    expected = Objective()(model, x, noise, 0)[1]
    assert float(scalars["beta"]) == 1.0
    np.testing.assert_allclose(scalars["bound"], expected["bound"], rtol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_gradient_option_leaves_bound_and_loss_unchanged(name):
    model, x = MODELS[name](), images(4)
    for m, k, gradients in [
        (3, 1, ("standard", "sticking_the_landing", "doubly_reparameterized")),
        (2, 4, ("standard", "doubly_reparameterized")),
    ]:
        noise = model.noise(1, 4, m * k)
        losses, bounds = [], []
        for gradient in gradients:
            objective = Objective(m, k, gradient=gradient, beta=0.7)
            loss, scalars, _ = objective(model, x, noise, 0)
            losses.append(float(loss))
            bounds.append(float(scalars["bound"]))
        assert bounds == [bounds[0]] * len(bounds)
        np.testing.assert_allclose(losses, -bounds[0], rtol=1e-6)


def test_doubly_reparameterized_gradient_of_a_normalised_model_is_refused():
    """Of one importance sample it is sticking the landing, which has no weights to get wrong."""
    model = DeepVAE(EVENT, latent_dims=(3, 2), hidden_units=(6, 5))
    with pytest.raises(ValueError, match="batch normalisation.*Received: 'doubly_repar"):
        model.compile("sgd", Objective(num_importance=2, gradient="doubly_reparameterized"))
    model.compile("sgd", Objective(gradient="doubly_reparameterized"), jit_compile=False)
    plain = DeepVAE(EVENT, latent_dims=(2,), hidden_units=(5,), batch_normalization="none")
    plain.compile("sgd", Objective(num_importance=2, gradient="doubly_reparameterized"))


def test_running_averages_follow_a_batch_once_whatever_the_gradient():
    after = []
    for gradient in ("standard", "sticking_the_landing"):
        keras.utils.set_random_seed(0)
        model = DeepVAE(EVENT, latent_dims=(3, 2), hidden_units=(6, 5))
        before = model.non_trainable_weights[0].numpy()
        Objective(gradient=gradient)(model, images(8), model.noise(0, 8), 0, training=True)
        after.append([w.numpy() for w in model.non_trainable_weights])
        assert np.abs(after[-1][0] - before).max() > 0
    for standard, other in zip(*after):
        np.testing.assert_array_equal(standard, other)


# Gradients
# -------------------------------------------------------------------------------------------------


def gradient_sampler(model, objectives, x):
    """`(repeats, beta) -> [objective][weight] -> [repeats, size]`: gradients of the loss under the
    same noise. The objectives take beta as their step."""

    @tf.function
    def gradients(seed, beta):
        noise = model.noise(seed, x.shape[0], objectives[0].samples_per_example)
        results = []
        for objective in objectives:
            with tf.GradientTape() as tape:
                loss = objective(model, x, noise, beta)[0]
            results.append(tape.gradient(loss, model.trainable_variables))
        return results

    def sample(repeats, beta):
        draws = [gradients(tf.constant([i, 17]), tf.constant(beta)) for i in range(repeats)]
        weights = range(len(model.trainable_variables))
        return [
            [np.stack([np.ravel(draw[i][w]) for draw in draws]) for w in weights]
            for i in range(len(objectives))
        ]

    return sample


def two_objectives(gradient, **settings):
    """The plain one and the one under test; beta is the step."""
    return (
        Objective(beta=lambda step: step, **settings),
        Objective(beta=lambda step: step, gradient=gradient, **settings),
    )


def check_same_expectation(model, objectives, batch=400, repeats=60, betas=(1.0, 0.3)):
    """Paired differences of the two estimates vanish on average, in every entry of every weight.

    Up to 200 entries, 59 degrees of freedom: |t| > 6.5 somewhere with probability below 1e-5.
    The differences are resolved: the standard error is below 4 % of the largest entry of the
    model's gradient.
    """
    sample = gradient_sampler(model, objectives, images(batch))
    for beta in betas:
        a, b = sample(repeats, beta)
        largest = max(np.abs(g.mean(0)).max() for g in a)
        for variable, standard_gradient, other_gradient in zip(model.trainable_variables, a, b):
            difference = other_gradient - standard_gradient
            error = difference.std(0, ddof=1) / np.sqrt(repeats)
            assert np.abs(standard_gradient).max() > 0, variable.path
            assert error.max() < 0.04 * largest, variable.path
            rounding = 1e-5 * largest
            excess = np.max(np.abs(difference.mean(0)) / (6.5 * error + rounding))
            assert excess < 1.0, f"{variable.path}, beta={beta}: {excess:.2f}"


@pytest.mark.parametrize("name", MODELS)
def test_doubly_reparameterized_gradient_is_unbiased(name):
    objectives = two_objectives("doubly_reparameterized", num_importance=4)
    check_same_expectation(MODELS[name](), objectives)


def test_doubly_reparameterized_gradient_averages_over_groups():
    objectives = two_objectives("doubly_reparameterized", num_samples=3, num_importance=2)
    check_same_expectation(MODELS["hvae_vampprior"](), objectives, betas=(1.0,))


@pytest.mark.parametrize("name", MODELS)
def test_sticking_the_landing_is_unbiased(name):
    objectives = two_objectives("sticking_the_landing", num_samples=2)
    check_same_expectation(MODELS[name](), objectives)


@pytest.mark.parametrize(
    ("gradient", "k"), [("sticking_the_landing", 1), ("doubly_reparameterized", 4)]
)
def test_no_variance_at_the_posterior(linear_gaussian, gradient, k):
    """Where q is the posterior every log-weight is flat along its path: q's gradient is zero in
    every draw, and that of the plain estimate is not."""
    model = linear_gaussian()
    x = tf.constant(np.random.default_rng(1).normal(size=(1, *model.event_shape)), tf.float32)
    sample = gradient_sampler(model, two_objectives(gradient, num_importance=k), x)
    standard, path = sample(repeats=20, beta=1.0)
    q_weights = [i for i, w in enumerate(model.trainable_variables) if w.name.startswith("q_")]
    assert len(q_weights) == 5
    for i in q_weights:
        assert np.abs(path[i]).max() < 1e-4
        assert standard[i].std(0).min() > 1e-2


@pytest.mark.parametrize("name", ["vae", "hvae", "hvae_vampprior"])
def test_analytic_and_sampled_kl_agree_on_average(name):
    """Mean difference of the two bounds within 5 standard errors of zero: false alarm 6e-7.

    Weights are scaled down, so that a standard error is below 0.03 nats.
    """
    model, batch = MODELS[name](), 20_000
    for weight in model.weights:
        weight.assign(0.4 * weight)
    trace = model.trace(images(batch), noise=model.noise(3, batch, 1))
    difference = Objective(kl="analytic").bound(trace) - Objective().bound(trace)
    error = np.std(difference) / np.sqrt(batch)
    assert 1e-4 < error < 0.03
    assert abs(np.mean(difference)) < 5 * error
