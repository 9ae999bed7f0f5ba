"""Estimates equal their direct computation, and diagnostics equal NumPy."""

import types

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.datasets
import tensorflow as tf
import tensorflow_probability as tfp

from tfhvae import bounds, evaluation
from tfhvae.diagnostics import PosteriorMoments, StepMeans
from tfhvae.models import HVAE, M2, VAE, LadderVAE
from tfhvae.models.base import stateless_seed

EVENT = (3, 3, 1)


def model_and_images(n=7):
    keras.utils.set_random_seed(0)
    model = HVAE(EVENT, latent_dims=(3, 2), hidden_units=4)
    x = np.random.default_rng(0).integers(0, 2, (n, *EVENT)).astype(np.float32)
    return model, x


def recorded_noise(model, monkeypatch):
    """A list that collects every noise that `model` draws, in order, as NumPy arrays."""
    drawn, noise = [], type(model).noise

    def recording(self, seed, batch_size, num_samples=1):
        result = noise(self, seed, batch_size, num_samples)
        names = list(result)

        def keep(*values):
            drawn.append({name: value.copy() for name, value in zip(names, values)})

        with tf.control_dependencies([tf.numpy_function(keep, list(result.values()), [])]):
            return tf.nest.map_structure(tf.identity, result)

    monkeypatch.setattr(type(model), "noise", recording)
    return drawn


# log p(x)
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [1, 9, 10, 23])
def test_streaming_equals_the_direct_computation(num_samples, monkeypatch):
    """Chunks of 10 samples, groups of 4 examples, 7 examples, 23 samples: nothing divides."""
    model, x = model_and_images(7)
    monkeypatch.setattr(type(model), "rows_at_once", 40)
    drawn = recorded_noise(model, monkeypatch)
    done = []
    streamed = evaluation.log_likelihood(model, x, num_samples, seed=5, progress=done.append)
    assert streamed.shape == (7,) and streamed.dtype == np.float64 and sum(done) == 7
    per_call = min(num_samples, 10)
    group = 40 // per_call
    calls = -(-num_samples // per_call)
    assert len(drawn) == calls * -(-7 // group)
    log_w = []
    for i, start in enumerate(range(0, 7, group)):
        chunks = drawn[i * calls : (i + 1) * calls]
        noise = {name: np.concatenate([c[name] for c in chunks]) for name in chunks[0]}
        batch = x[start : start + group]
        noise = {name: value[:, : len(batch)] for name, value in noise.items()}
        log_w.append(bounds.log_weights(model.trace(batch, noise=noise)).numpy())
    log_w = np.concatenate(log_w, axis=1).astype(np.float64)
    assert log_w.shape == (num_samples, 7)
    direct = scipy.special.logsumexp(log_w, axis=0) - np.log(num_samples)
    np.testing.assert_allclose(streamed, direct, atol=1e-4)
    # no two draws are equal: neither over samples, nor over examples, nor over groups
    values = np.concatenate([np.ravel(chunk["z1"]) for chunk in drawn])
    assert len(np.unique(values)) > 0.99 * len(values)


def test_log_likelihood_is_log_px_when_q_is_the_posterior(linear_gaussian):
    model = linear_gaussian()
    x = np.random.default_rng(1).normal(size=(6, *model.event_shape)).astype(np.float32)
    for num_samples in (1, 700):
        estimate = evaluation.log_likelihood(model, x, num_samples)
        np.testing.assert_allclose(estimate, model.exact_log_px(x), rtol=2e-5)


def test_log_likelihood_approaches_log_px(linear_gaussian):
    """With q off the posterior: below on average at K = 1, within 0.1 nats at K = 5000 (its standard
    error is below 0.02)."""
    model = linear_gaussian(q_error=0.15)
    x = np.random.default_rng(1).normal(size=(40, *model.event_shape)).astype(np.float32)
    exact = model.exact_log_px(x)
    assert (evaluation.log_likelihood(model, x, 1) - exact).mean() < -0.05
    np.testing.assert_allclose(evaluation.log_likelihood(model, x, 5000), exact, atol=0.1)


@pytest.mark.parametrize("num_samples", [0, -1, 2.5, True])
@pytest.mark.parametrize(
    "estimate", [evaluation.log_likelihood, evaluation.bound_terms, evaluation.classify]
)
def test_number_of_samples_is_a_positive_integer(estimate, num_samples):
    with pytest.raises(ValueError, match="expected num_samples to be a positive integer"):
        estimate(*model_and_images(2), num_samples)


@pytest.mark.parametrize("estimate", [evaluation.log_likelihood, evaluation.bound_terms])
def test_images_that_a_model_does_not_take_are_refused(estimate):
    model, x = model_and_images(2)
    for images, message in (
        (x[:0], "one image or more"),
        ((255 * x).astype(np.uint8), "floating point numbers. Received: uint8"),
        (x[:, :2], "images of shape"),
    ):
        with pytest.raises(ValueError, match=message):
            estimate(model, images, 2)


def test_classes_are_inferred_a_few_images_at_a_time(monkeypatch):
    """Memory is that of `rows_at_once`, whatever the number of samples and classes."""
    model, rows = M2(EVENT, num_classes=5, latent_dim=2, hidden_units=(4, 4)), []
    monkeypatch.setattr(type(model), "rows_at_once", 60)
    classify = model.classify

    def recording(x, num_samples, *args):
        rows.append((x.shape[0], num_samples))
        return classify(x, num_samples, *args)

    monkeypatch.setattr(model, "classify", recording)
    x = model_and_images(9)[1]
    assert evaluation.classify(model, x, 3).shape == (9, 5)
    assert rows and all(images in (4, None) and samples == 3 for images, samples in rows)
    rows.clear()
    evaluation.classify(model, x, 1000)
    assert {images for images, _ in rows} <= {1, None}


def test_log_likelihood_is_reproducible():
    model, x = model_and_images()
    first = evaluation.log_likelihood(model, x, 30, seed=1)
    np.testing.assert_array_equal(first, evaluation.log_likelihood(model, x, 30, seed=1))
    assert np.abs(first - evaluation.log_likelihood(model, x, 30, seed=2)).min() > 0
    eager = evaluation.log_likelihood(model, x, 30, seed=1, jit_compile=False)
    np.testing.assert_allclose(first, eager, atol=1e-4)


def shapes_in(graph):
    """Shapes of every tensor in a graph and in the functions that it calls."""
    for operation in graph.get_operations():
        yield from (output.shape for output in operation.outputs)
    for name in graph._functions:
        function = graph._get_function(name)
        inner = getattr(function, "graph", None)
        if inner is not None:
            yield from shapes_in(inner)


def test_memory_does_not_grow_with_the_number_of_samples(monkeypatch):
    """Noise is asked for in chunks, whatever K: at most `rows_at_once` rows of images and samples."""
    asked = []
    model, x = model_and_images(3)
    noise = type(model).noise

    def recording(self, seed, batch_size, num_samples=1):
        asked.append(num_samples)
        return noise(self, seed, batch_size, num_samples)

    monkeypatch.setattr(type(model), "noise", recording)
    largest = {}
    for num_samples in (1000, 20_011):
        asked.clear()
        estimate = evaluation._streaming_estimate(model, num_samples, 500, jit_compile=False)
        graph = estimate.get_concrete_function(
            tf.TensorSpec([4, *EVENT]), tf.TensorSpec([2], tf.int32)
        ).graph
        assert set(asked) <= {500, num_samples % 500} and 1 <= len(asked) <= 2
        sizes = [shape.num_elements() or 0 for shape in shapes_in(graph) if shape.rank is not None]
        assert len(sizes) > 50
        largest[num_samples] = max(sizes)
    assert largest[1000] == largest[20_011] <= 500 * 4 * 9 * 2


def test_default_chunks_are_bounded(monkeypatch):
    rows, original = [], evaluation._streaming_estimate

    def recording(model, num_samples, per_call, jit_compile):
        estimate = original(model, num_samples, per_call, jit_compile)

        def run(x, seed):
            rows.append(len(x) * per_call)
            return estimate(x, seed)

        return run

    monkeypatch.setattr(evaluation, "_streaming_estimate", recording)
    model, x = model_and_images(5)
    for num_samples in (1, 300, 3000):
        evaluation.log_likelihood(model, x, num_samples, jit_compile=False)
    assert max(rows) <= model.rows_at_once


# Classifiers on latents
# -------------------------------------------------------------------------------------------------


class Identity:
    """A model whose posterior means are its images."""

    def noise(self, seed, batch_size):
        return {}

    def evaluation_trace(self, x, noise):
        means = tf.reshape(x, [1, tf.shape(x)[0], -1])
        return types.SimpleNamespace(sites={"z1": types.SimpleNamespace(q_mean=means)}, label=None)


def moons(count, seed):
    """Points `[N, 1, 1, 2]` of two half-moons that do not overlap, their classes, and the indices
    of two labelled ones of each."""
    points, y = sklearn.datasets.make_moons(count, noise=0.05, random_state=seed)
    labelled = np.concatenate([np.flatnonzero(y == 0)[:2], np.flatnonzero(y == 1)[:2]])
    return points.reshape(-1, 1, 1, 2).astype(np.float32), y, labelled


def test_label_spreading_follows_the_unlabelled_images_and_a_machine_cannot():
    x, y, labelled = moons(1500, 0)
    test, truth, _ = moons(300, 1)
    errors = {}
    for classifier in ("svm", "label_spreading"):
        probabilities = evaluation.classify_latents(
            Identity(), x, labelled, y[labelled], test, 3, classifier
        )
        assert probabilities.shape == (300, 3)
        np.testing.assert_allclose(probabilities.sum(-1), 1.0, rtol=1e-6)
        errors[classifier] = np.mean(probabilities.argmax(-1) != truth)
    assert errors["label_spreading"] < 0.02 and errors["svm"] > 0.05


@pytest.mark.parametrize("classifier", ["svm", "label_spreading"])
def test_an_inactive_unit_does_not_disturb_a_classifier_on_latents(classifier):
    x, y, labelled = moons(200, 0)
    noise = np.random.default_rng(0).normal(0.0, 0.01, [200, 1, 1, 20]).astype(np.float32)
    with_noise = np.concatenate([x, noise], -1)
    plain, disturbed = (
        evaluation.classify_latents(
            Identity(), images, labelled, y[labelled], images, 2, classifier
        ).argmax(-1)
        for images in (x, with_noise)
    )
    assert np.mean(plain != disturbed) <= 0.02


def test_images_that_no_label_reaches_are_undecided():
    x = np.zeros([20, 1, 1, 2], np.float32)
    x[10:] = 9.0  # two heaps without a path between them
    labelled = np.array([0, 1])
    p = evaluation.classify_latents(
        Identity(), x, labelled, np.array([1, 0]), x, 2, "label_spreading"
    )
    np.testing.assert_array_equal(p[10:], 0.5)
    assert np.isfinite(p).all()


def test_a_machine_needs_two_images_of_every_class():
    x, y, labelled = moons(50, 0)
    few = labelled[:3]
    with pytest.raises(ValueError, match="at least two labelled images of every class"):
        evaluation.classify_latents(Identity(), x, few, y[few], x, 2)
    with pytest.raises(ValueError, match="classifier='knn'"):
        evaluation.classify_latents(Identity(), x, labelled, y[labelled], x, 2, "knn")


def test_labelled_images_are_binarised_as_the_test_images_are():
    """Half-moons as grey levels: their draws are other images, binary ones their own draws."""
    x, y, labelled = moons(300, 0)
    grey = (x - x.min()) / (x.max() - x.min())

    def classes(images, **options):
        arguments = Identity(), images, labelled, y[labelled], grey, 2, "label_spreading"
        return evaluation.classify_latents(*arguments, **options)

    as_they_are = classes(grey)
    drawn = classes(grey, binarization="per_batch", seed=1)
    assert np.abs(drawn - as_they_are).max() > 0.1
    np.testing.assert_array_equal(drawn, classes(grey, binarization="per_batch", seed=1))
    assert np.abs(drawn - classes(grey, binarization="per_batch", seed=2)).max() > 0
    binary = np.round(grey)
    np.testing.assert_array_equal(classes(binary), classes(binary, binarization="per_batch"))


# Terms of the bound
# -------------------------------------------------------------------------------------------------


def test_bound_terms_add_up():
    model, x = model_and_images(7)
    terms = evaluation.bound_terms(model, x, num_samples=6, seed=2, batch_size=3)
    per_site = {"kl": (7,), "kl_standard": (7,), "information": (7,)}
    per_site |= {"unit_kl": (), "q_mean": (7,), "q_mean_noise": ()}
    by_unit = ("unit_kl", "q_mean", "q_mean_noise")
    assert {name: value.shape for name, value in terms.items()} == {
        "elbo": (7,),
        "log_px": (7,),
        "importance_weighted": (7,),
        **{
            f"{name}/{site}": shape + ((units,) if name in by_unit else ())
            for name, shape in per_site.items()
            for site, units in (("z1", 3), ("z2", 2))
        },
    }
    assert all(value.dtype == np.float64 for value in terms.values())
    np.testing.assert_allclose(
        terms["elbo"], terms["log_px"] - terms["kl/z2"] - terms["kl/z1"], rtol=1e-5
    )
    for start in (0, 3, 6):
        batch = x[start : start + 3]
        noise = model.noise(stateless_seed(2, start), len(batch), 6)
        trace, rows = model.trace(batch, noise=noise), slice(start, start + 3)
        np.testing.assert_allclose(terms["elbo"][rows], bounds.elbo(trace), rtol=1e-4)
        few = bounds.importance_weighted(trace, 6, classes="inside")
        np.testing.assert_allclose(terms["importance_weighted"][rows], few, rtol=1e-4)
        for name, site in trace.sites.items():
            kl = np.sum(site.kl, -1).mean(0)
            np.testing.assert_allclose(terms[f"kl/{name}"][rows], kl, rtol=1e-4, atol=1e-5)
            mean = np.mean(site.q_mean, 0)
            np.testing.assert_allclose(terms[f"q_mean/{name}"][rows], mean, rtol=1e-4, atol=1e-5)
    traces = (
        model.trace(x[i : i + 3], noise=model.noise(stateless_seed(2, i), len(x[i : i + 3]), 6))
        for i in (0, 3, 6)
    )
    means = np.concatenate([trace.sites["z1"].q_mean for trace in traces], 1)
    noise = means.var(0, ddof=1).mean(0) / 6
    np.testing.assert_allclose(terms["q_mean_noise/z1"], noise, rtol=1e-3)


def test_divergences_equal_those_of_the_distributions():
    """Against TFP, with q and p recomputed from the model's networks at the draws of the trace;
    groups of 3, 3 and 1 images."""
    tfd = tfp.distributions
    model, x = model_and_images(7)
    terms = evaluation.bound_terms(model, x, num_samples=6, seed=2, batch_size=3)
    unit_kl = {"z1": [], "z2": []}
    for start in (0, 3, 6):
        batch, rows = x[start : start + 3], slice(start, start + 3)
        noise = model.noise(stateless_seed(2, start), len(batch), 6)
        z2 = model.trace(batch, noise=noise).sites["z2"].value
        q_p = {
            "z2": (tfd.Normal(*model.encode_z2(batch)), tfd.Normal(0.0, 1.0)),
            "z1": (tfd.Normal(*model.encode_z1(batch, z2)), tfd.Normal(*model.prior_z1(z2))),
        }
        for site, (q, p) in q_p.items():
            standard = np.broadcast_to(
                q.kl_divergence(tfd.Normal(0.0, 1.0)),
                (6, len(batch), len(terms[f"unit_kl/{site}"])),
            )
            np.testing.assert_allclose(
                terms[f"kl_standard/{site}"][rows], standard.sum(-1).mean(0), rtol=1e-4
            )
            per_unit = np.broadcast_to(q.kl_divergence(p), standard.shape)
            unit_kl[site] += list(per_unit.mean(0))
    for site, values in unit_kl.items():
        np.testing.assert_allclose(
            terms[f"unit_kl/{site}"], np.mean(values, 0), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(terms[f"unit_kl/{site}"].sum(), terms[f"kl/{site}"].mean())


def test_divergence_from_the_standard_normal_is_that_of_the_integral(linear_gaussian):
    """KL(q || N(0, I)) by quadrature over each unit of q(z2|x); there it is KL(q||p) as well."""
    model = linear_gaussian()
    x = np.random.default_rng(1).normal(size=(3, *model.event_shape)).astype(np.float32)
    terms = evaluation.bound_terms(model, x, num_samples=2)
    site = model.trace(x).sites["z2"]
    expected = np.zeros(3)
    for index, (loc, scale) in enumerate(zip(site.q_mean[0].numpy(), site.q_scale[0].numpy())):
        for unit in range(3):
            q = scipy.stats.norm(float(loc[unit]), float(scale[unit]))
            expected[index] += q.expect(lambda z, q=q: q.logpdf(z) - scipy.stats.norm.logpdf(z))
    np.testing.assert_allclose(terms["kl_standard/z2"], expected, rtol=1e-4)
    np.testing.assert_allclose(terms["kl/z2"], terms["kl_standard/z2"], rtol=1e-5)
    assert np.abs(terms["kl/z1"] - terms["kl_standard/z1"]).min() > 0.01


def test_kl_that_is_not_known_per_unit_is_one_unit():
    keras.utils.set_random_seed(0)
    model = HVAE(EVENT, latent_dims=(3, 2), hidden_units=4, prior="vampprior", num_components=4)
    x = np.random.default_rng(0).integers(0, 2, (4, *EVENT)).astype(np.float32)
    terms = evaluation.bound_terms(model, x, num_samples=5)
    assert terms["unit_kl/z2"].shape == (1,) and terms["unit_kl/z1"].shape == (3,)
    np.testing.assert_allclose(terms["unit_kl/z2"][0], terms["kl/z2"].mean())
    assert terms["q_mean/z2"].shape == (4, 2) and (terms["kl_standard/z2"] > 0).all()


def test_bound_terms_equal_the_sampled_bound_on_average(linear_gaussian):
    """E[log p(x|z) - KL] = log p(x) at the posterior; 5 standard errors, false alarm 1e-5."""
    model = linear_gaussian()
    x = np.random.default_rng(1).normal(size=(20, *model.event_shape)).astype(np.float32)
    terms = evaluation.bound_terms(model, x, num_samples=2000)
    difference = terms["elbo"] - model.exact_log_px(x)
    trace = model.trace(x, num_samples=2000)
    kl = sum(np.sum(site.kl, -1) for site in trace.sites.values())
    error = np.std(trace.log_px - kl, axis=0) / np.sqrt(2000)
    np.testing.assert_array_less(np.abs(difference), 5 * error)


def test_information_of_a_layer_above(linear_gaussian):
    """q(z1|x) is Gaussian in the linear model, where the bound is the mutual information itself:
    1/2 log(1 + v/s²), s² of q(z1|z2, x), and v what z2 moves its mean by."""
    model = linear_gaussian(q_error=0.1)
    x = np.random.default_rng(1).normal(size=(50, *model.event_shape)).astype(np.float32)
    terms = evaluation.bound_terms(model, x, num_samples=4000)
    v = {name: value.numpy() for name, value in model.named.items()}
    moved = (v["q_z1_z2"] * np.exp(v["q_z2_log_scale"])) ** 2
    exact = 0.5 * np.log1p(moved / np.exp(2 * v["q_z1_log_scale"])).sum()
    assert exact > 0.1
    np.testing.assert_allclose(terms["information/z1"].mean(), exact, rtol=0.01)
    np.testing.assert_allclose(terms["information/z2"], 0.0, atol=1e-4)
    of_one = evaluation.bound_terms(model, x, num_samples=1)
    np.testing.assert_allclose(of_one["information/z1"], 0.0, atol=1e-5)


def test_information_of_the_class():
    """z of an M2 owes to y alone: the bound is above the exact information of a mixture of
    Gaussians, and equals the direct computation from its moments."""
    model = M2(EVENT, num_classes=3, latent_dim=1, hidden_units=(4, 4))
    rng = np.random.default_rng(3)
    for variable in model.trainable_variables:
        variable.assign(0.7 * rng.normal(size=variable.shape))
    x = model_and_images(6)[1]
    trace = model.trace(x, noise=model.noise(0, 6))
    share = np.exp(trace.label.log_q[0].numpy())[..., np.newaxis]  # [Y, B, 1]
    mean, variance = trace.sites["z"].q_mean[0].numpy(), trace.sites["z"].q_scale[0].numpy() ** 2
    total = (share * (variance + mean**2)).sum(0) - (share * mean).sum(0) ** 2
    expected = 0.5 * (np.log(total) - (share * np.log(variance)).sum(0)).sum(-1)
    information = evaluation.bound_terms(model, x, num_samples=1)["information/z"]
    np.testing.assert_allclose(information, expected, rtol=1e-3, atol=1e-4)
    grid = np.linspace(-60.0, 60.0, 200_001)[:, np.newaxis, np.newaxis]
    density = scipy.stats.norm(mean[..., 0], np.sqrt(variance[..., 0])).pdf(grid)  # [grid, Y, B]
    mixture = (share[..., 0] * density).sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.nan_to_num(share[..., 0] * density * np.log(density / mixture))
    exact = terms.sum((0, 1)) * (grid[1] - grid[0]).item()
    assert exact.max() > 0.05
    assert (information > exact - 1e-3).all()


def test_mean_log_likelihood_of_all_images_is_their_mean():
    rng = np.random.default_rng(0)
    elbo, log_likelihood = rng.normal(size=(2, 50))
    expected = evaluation.mean_and_standard_error(log_likelihood)
    np.testing.assert_allclose(evaluation.mean_log_likelihood(elbo, log_likelihood), expected)
    mean, error = evaluation.mean_log_likelihood(elbo, log_likelihood[:1])
    assert np.isfinite(mean) and np.isnan(error)


def test_mean_log_likelihood_of_a_part_allows_for_how_easy_it_is():
    """Over test sets drawn anew the estimate has the mean of L_K and the standard error that it
    says, which is far below that of the part alone."""
    rng, estimates, errors, plain = np.random.default_rng(0), [], [], []
    for _ in range(1000):
        elbo = rng.normal(-90.0, 20.0, 400)
        log_likelihood = elbo + 4.0 - 0.02 * (elbo + 90.0) + rng.normal(size=400)
        part = evaluation.fixed_part(400, 40)
        mean, error = evaluation.mean_log_likelihood(elbo, log_likelihood[part])
        estimates.append(mean)
        errors.append(error)
        plain.append(log_likelihood[part].mean())
    spread = np.std(estimates)
    assert abs(np.mean(estimates) - -86.0) < 5 * spread / np.sqrt(1000)
    np.testing.assert_allclose(np.mean(errors), spread, rtol=0.1)
    assert spread < 0.5 * np.std(plain)


def test_mean_and_standard_error():
    values = np.random.default_rng(0).normal(size=50)
    mean, error = evaluation.mean_and_standard_error(values)
    np.testing.assert_allclose([mean, error], [values.mean(), values.std(ddof=1) / np.sqrt(50)])
    mean, error = evaluation.mean_and_standard_error([3.0])
    assert mean == 3.0 and np.isnan(error)


# Active units
# -------------------------------------------------------------------------------------------------


def test_posterior_moments_equal_numpy():
    rng = np.random.default_rng(0)
    means = {"z2": rng.normal(2.0, 0.5, (500, 3)), "z1": rng.normal(-1.0, 2.0, (500, 4))}
    moments = PosteriorMoments({"z2": 3, "z1": 4})
    for _ in range(2):  # the second time after a reset
        moments.reset_state()
        for rows in (slice(0, 100), slice(100, 101), slice(101, 500)):  # unequal batches
            moments.update_state({k: tf.constant(v[rows], tf.float32) for k, v in means.items()})
        for name, variance in moments.variance().items():
            np.testing.assert_allclose(variance, means[name].var(0), rtol=1e-4)


def test_active_units_are_those_above_the_threshold():
    """Standard deviations 0, 0.09, 0.11 and 3 of the posterior mean: variance 0.01 lies between.
    A constant mean far from zero is not active."""
    sign = np.resize([1.0, -1.0], 1000)[:, np.newaxis]
    z = sign * np.array([0.0, 0.09, 0.11, 3.0]) + np.array([5.0, 0.0, 1.0, -2.0])
    moments = PosteriorMoments({"z": 4, "unused": 2})
    for rows in np.split(np.arange(1000), 10):
        moments.update_state({"z": tf.constant(z[rows], tf.float32), "unused": tf.ones([100, 2])})
    assert moments.active_units() == {"z": 2, "unused": 0}


def test_active_units_of_means_far_from_zero():
    """In float32 the difference of the two moments would be noise of 0.01 and more."""
    rng = np.random.default_rng(0)
    z = (300.0 + rng.normal(0.0, [[0.03], [0.2]], [2, 5000]).T).astype(np.float32)
    moments = PosteriorMoments({"z": 2})
    for rows in np.split(np.arange(5000), 10):
        moments.update_state({"z": tf.constant(z[rows])})
    np.testing.assert_allclose(moments.variance()["z"], z.astype(np.float64).var(0), rtol=1e-6)
    assert moments.active_units() == {"z": 1}


def test_active_units_of_a_model():
    """Units whose posterior mean does not depend on x are not active."""
    keras.utils.set_random_seed(0)
    model = VAE(EVENT, latent_dim=5, hidden_units=(6,))
    kernel = model.posterior.kernel.numpy()
    kernel[:, 2:5] = 0.0  # the means of units 2, 3 and 4
    model.posterior.kernel.assign(kernel)
    x = np.random.default_rng(0).integers(0, 2, (300, *EVENT)).astype(np.float32)
    q_mean = evaluation.bound_terms(model, x, num_samples=2)["q_mean/z1"]
    assert ((q_mean.var(0) > 0.01) == [True, True, False, False, False]).all()
    moments = PosteriorMoments({"z1": 5})
    moments.update_state({"z1": tf.constant(q_mean, tf.float32)})
    assert moments.active_units() == {"z1": 2}


def test_draws_of_the_layers_above_make_no_unit_active():
    """q(z1|z2) of a ladder moves with z2 although no q depends on x."""
    keras.utils.set_random_seed(0)
    model = LadderVAE(EVENT, latent_dims=(4, 3), hidden_units=(8, 6), batch_normalization="none")
    for weight in model.p_z[0].weights:
        weight.assign(2.5 * weight)
    upward = model.infer_upward
    model.infer_upward = lambda x, training=False: upward(tf.zeros_like(x), training)
    x = np.random.default_rng(0).integers(0, 2, (300, *EVENT)).astype(np.float32)
    terms = evaluation.bound_terms(model, x, num_samples=10)
    assert (evaluation.variance_of_means(terms, "z2") < 0.01).all()
    between = terms["q_mean/z1"].var(0)
    assert between.max() > 0.01
    found = np.abs(evaluation.variance_of_means(terms, "z1"))
    np.testing.assert_array_less(found, 0.4 * between)
    np.testing.assert_array_equal(terms["q_mean_noise/z2"], 0.0)


# Means over steps
# -------------------------------------------------------------------------------------------------


def step_means():
    means = StepMeans(["bound", "beta"], {"z2": 2, "z1": 1})

    def update(bound, beta, z2, z1, step, **kwargs):
        scalars = {"beta": tf.constant(beta), "bound": tf.constant(bound)}
        unit_kl = {"z1": tf.constant(z1), "z2": tf.constant(z2)}
        means.update_state(means.pack(scalars, unit_kl), step, **kwargs)

    return means, update


def test_step_means():
    means, update = step_means()
    update(1.0, 0.1, [2.0, 3.0], [4.0], 0)
    update(2.0, 0.3, [4.0, 9.0], [0.0], 1)
    assert {k: float(v) for k, v in means.scalars().items()} == pytest.approx(
        {"bound": 1.5, "beta": 0.2}
    )
    assert means.result().keys() == {"bound", "beta"}
    np.testing.assert_allclose(means.unit_kl()["z2"], [3.0, 6.0])
    np.testing.assert_allclose(means.unit_kl()["z1"], [2.0])
    assert int(means.count) == 2 and int(means.first_bad_step) == -1 and means.bad_terms() == []


def test_posterior_means_are_those_of_the_bound():
    """Of a model with classes too, averaged over q(y|x); the last batch is smaller."""
    keras.utils.set_random_seed(1)
    x = np.random.default_rng(0).integers(0, 2, [1003, 2, 3, 1]).astype(np.float32)
    options = {"latent_dim": 2, "hidden_units": (5,)}
    in_part = {"label_inference": "sum_and_sample", "num_classes": 3}
    for model in (
        VAE((2, 3, 1), **options),
        M2((2, 3, 1), num_classes=3, **options),
        M2((2, 3, 1), **in_part, **options),
    ):
        (site,) = model.noise_shapes
        expected = evaluation.bound_terms(model, x, num_samples=2)[f"q_mean/{site}"]
        np.testing.assert_allclose(
            evaluation.posterior_means(model, x), expected, rtol=1e-4, atol=1e-5
        )


def test_step_means_are_weighted():
    means, update = step_means()
    update(1.0, 0.0, [0.0, 0.0], [0.0], 0, weight=3.0)
    update(5.0, 1.0, [4.0, 8.0], [1.0], 1, weight=1.0)
    assert float(means.scalars()["bound"]) == 2.0
    np.testing.assert_allclose(means.unit_kl()["z2"], [1.0, 2.0])


def test_mean_of_a_constant_is_that_constant():
    means, update = step_means()
    for step in range(1000):
        update(1.0, 0.1, [0.0, 0.0], [0.0], step)
    assert float(means.scalars()["beta"]) == np.float32(0.1)


def test_first_step_that_is_not_finite_is_remembered():
    means, update = step_means()
    update(1.0, 0.1, [2.0, 3.0], [4.0], 40)
    update(float("nan"), 0.1, [2.0, 3.0], [4.0], 41)
    update(1.0, float("inf"), [2.0, 3.0], [4.0], 42)
    assert int(means.first_bad_step) == 41 and means.bad_terms() == ["bound"]
    np.testing.assert_allclose(means.bad_values[1:], [0.1, 2.0, 3.0, 4.0])
    means.reset_state()
    assert int(means.first_bad_step) == -1 and means.bad_terms() == [] and int(means.count) == 0
    update(1.0, 0.1, [2.0, float("inf")], [4.0], 0)
    assert int(means.first_bad_step) == 0 and means.bad_terms() == []  # a KL, not a scalar
    means.reset_state()
    update(7.0, 0.1, [2.0, 3.0], [4.0], 1)
    assert float(means.scalars()["bound"]) == 7.0
