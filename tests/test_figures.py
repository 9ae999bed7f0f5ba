"""Figures of a model show what the model was asked for, and the depth study what runs recorded."""

import json
import os
import pathlib
import shutil
import types

import keras
import matplotlib.image
import numpy as np
import pytest
import scipy.stats

from tfhvae import configuration, evaluation, figures, plotting, results
from tfhvae.data import datasets
from tfhvae.errors import RunError
from tfhvae.models import ADGM, AVAE, HVAE, M2, SDGM, VAE, CaGeM, DeepVAE, LadderVAE
from tfhvae.traces import mean_over_classes

EVENT = (4, 4, 1)


def make(kind, likelihood="bernoulli"):
    keras.utils.set_random_seed(0)
    if kind == "vae":
        return VAE(EVENT, likelihood=likelihood, latent_dim=3, hidden_units=(5,))
    if kind == "hvae":
        return HVAE(EVENT, likelihood=likelihood, latent_dims=(3, 2), hidden_units=5)
    if kind in ("m2", "adgm", "sdgm", "cagem"):
        return of_classes(kind, EVENT, likelihood=likelihood)
    if kind == "avae":
        return AVAE(EVENT, (3, 2), likelihood=likelihood, latent_dims=(4, 2), hidden_units=(6, 5))
    kind = {"deep_vae": DeepVAE, "ladder_vae": LadderVAE}[kind]
    return kind(EVENT, likelihood=likelihood, latent_dims=(4, 3, 2), hidden_units=(6, 5, 4))


def of_classes(kind, event_shape, **options):
    """A model of three classes; the scale of its weights is one that lets the class be seen."""
    dims = {"latent_dims": (4, 2)} if kind == "cagem" else {"latent_dim": 3}
    if kind in ("adgm", "sdgm"):
        dims["auxiliary_dim"] = 4
    model = {"m2": M2, "adgm": ADGM, "sdgm": SDGM, "cagem": CaGeM}[kind](
        event_shape, num_classes=3, hidden_units=(6,), **dims, **options
    )
    for weight in model.trainable_variables:
        weight.assign(1.5 * weight)
    return model


def test_images(count=12, seed=0):
    return np.random.default_rng(seed).integers(0, 2, (count, *EVENT)).astype(np.float32)


test_images.__test__ = False


@pytest.fixture
def generated(monkeypatch):
    """`watch(model)`: a list that collects (latents asked for, `Generation`) of every generation."""

    def watch(model):
        calls, generate = [], type(model).generate

        def recording(self, num_samples=1, latents=None, seed=None, **y):
            result = generate(self, num_samples, latents, seed, **y)
            calls.append((dict(latents or {}), result))
            return result

        monkeypatch.setattr(type(model), "generate", recording)
        return calls

    return watch


def rows_of(figure, rows, columns):
    """Images of a sheet, `[rows, columns, H, W]`. Gaps are one pixel, or wider below the first
    row."""
    sheet = np.asarray(figure.axes[0].images[0].get_array())
    tops = [0, *(len(sheet) - 5 * (rows - row) + 1 for row in range(1, rows))]
    return np.array(
        [[sheet[top : top + 4, 5 * c : 5 * c + 4] for c in range(columns)] for top in tops]
    )


def noise_below(model, latents):
    """Standardised latents below the top layer, `[N, units]`."""
    if isinstance(model, HVAE):
        loc, scale = model.prior_z1(latents["z2"])
        return ((latents["z1"] - loc) / scale).numpy()
    loc, scale = model.prior(1, latents["z3"])
    return ((latents["z2"] - loc) / scale).numpy()


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


# Layers
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hvae", "deep_vae", "ladder_vae"])
def test_every_layer_is_injected_with_standard_normal_draws(kind, generated):
    model = make(kind)
    calls = generated(model)
    figure = figures.injected_samples(model, seed=3)
    order = model.generation_order
    assert [list(latents) for latents, _ in calls] == [[site] for site in order]
    assert texts(figure) == [f"{site} ~ N(0, I)" for site in order]
    shown = rows_of(figure, len(order), 10)
    for row, site, (latents, generation) in zip(shown, order, calls, strict=True):
        np.testing.assert_array_equal(latents[site], generation.latents[site])
        assert latents[site].shape == (10, *model.noise_shapes[site])
        means = model.decode(generation.latents).mean().numpy()[..., 0]
        np.testing.assert_allclose(row, means, atol=1e-6)
    drawn = np.concatenate([np.ravel(latents[site]) for site, (latents, _) in zip(order, calls)])
    assert len(np.unique(drawn)) == len(drawn)


def test_what_is_injected_is_standard_normal(generated):
    """A Kolmogorov-Smirnov test of 7000 draws; false alarm once in 1e5, if the seed were not
    fixed."""
    model = make("deep_vae")
    calls = generated(model)
    figures.injected_samples(model, seed=0, count=1000)
    for site, (latents, _) in zip(model.generation_order, calls, strict=True):
        assert scipy.stats.kstest(np.ravel(latents[site]), "norm").pvalue > 1e-5


@pytest.mark.parametrize("kind", ["vae", "hvae", "deep_vae", "ladder_vae"])
def test_reconstructions_by_layer_clamp_draws_of_q_from_the_top_down(kind, generated):
    model, x = make(kind), test_images()
    calls = generated(model)
    figure = figures.reconstructions_by_layer(model, x, seed=3, count=7)
    order = model.generation_order
    assert texts(figure) == ["test images", *(f"from {site}" for site in order)]
    assert [list(latents) for latents, _ in calls] == [order[: i + 1] for i in range(len(order))]
    shown = rows_of(figure, 1 + len(order), 7)
    np.testing.assert_array_equal(shown[0], x[:7, ..., 0])
    for row, (_, generation) in zip(shown[1:], calls, strict=True):
        np.testing.assert_allclose(row, generation.mean.numpy()[..., 0], atol=1e-6)
    draws, _ = calls[-1]
    for latents, generation in calls:
        for site, values in latents.items():
            np.testing.assert_array_equal(values, draws[site])
            np.testing.assert_array_equal(values, generation.latents[site])
    # the last row is the usual reconstruction, from draws of q alone
    np.testing.assert_allclose(shown[-1], model.decode(draws).mean().numpy()[..., 0], atol=1e-6)
    trace = model.trace(x[:7], values={site: value[np.newaxis] for site, value in draws.items()})
    for name, site in trace.sites.items():
        standardised = (draws[name] - site.q_mean[0]) / site.q_scale[0]
        assert np.abs(standardised).max() < 5 and np.std(standardised) > 0.3


@pytest.mark.parametrize("kind", ["hvae", "deep_vae", "ladder_vae"])
def test_interpolations_are_straight_lines_at_the_top_with_one_noise_below(kind, generated):
    model, x = make(kind), test_images(6)
    calls = generated(model)
    figure = figures.interpolations(model, x, seed=1, rows=3, steps=5)
    top = model.generation_order[0]
    assert len(calls) == 5 and all(list(latents) == [top] for latents, _ in calls)
    z = np.stack([latents[top] for latents, _ in calls])  # [steps, rows, units]
    assert z.shape == (5, 3, 2)
    line = z[0] + np.linspace(0.0, 1.0, 5)[:, np.newaxis, np.newaxis] * (z[4] - z[0])
    np.testing.assert_allclose(z, line, atol=1e-6)
    assert len(np.unique(z[0], axis=0)) == 3
    sheet = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(sheet[:4, :4], calls[0][1].mean[0, ..., 0], atol=1e-6)
    np.testing.assert_allclose(sheet[-4:, -4:], calls[4][1].mean[2, ..., 0], atol=1e-6)
    # the layers below have one noise along a row: standardised by p(z|z above), they are equal
    noises = [noise_below(model, generation.latents) for _, generation in calls]
    for noise in noises[1:]:
        np.testing.assert_allclose(noise, noises[0], atol=1e-3)
    assert np.std(noises[0], axis=0).min() > 0  # and another noise in the next row


def test_pseudo_input_samples_are_drawn_at_the_top(generated):
    keras.utils.set_random_seed(0)
    model = HVAE(EVENT, latent_dims=(3, 2), hidden_units=4, prior="vampprior", num_components=4)
    calls = generated(model)
    figure = figures.pseudo_input_samples(model, seed=0, count=2)
    ((latents, generation),) = calls
    assert {site: z.shape for site, z in latents.items()} == {"z2": (18, 2)}
    shown = rows_of(figure, 2, 10)
    np.testing.assert_allclose(shown[:, 0], model.prior.pseudo_inputs[:2, ..., 0], atol=1e-6)
    expected = generation.mean.numpy()[..., 0].reshape(2, 9, 4, 4)
    np.testing.assert_allclose(shown[:, 1:], expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["deep_vae", "ladder_vae"])
def test_latents_are_drawn_from_q_and_shown_from_the_bottom_to_the_top(kind, monkeypatch):
    model, x = make(kind), test_images(12)
    seen = {}
    monkeypatch.setattr(plotting, "latent_pca", lambda latents, *args, **kw: seen.update(latents))
    figures.latent_pca(model, x, seed=2, batch_size=5)
    assert {site: z.shape for site, z in seen.items()} == {
        "z1": (12, 4),
        "z2": (12, 3),
        "z3": (12, 2),
    }
    assert list(seen) == ["z1", "z2", "z3"]
    site = model.trace(x, values={name: z[np.newaxis] for name, z in seen.items()}).sites
    for name, z in seen.items():
        standardised = (z - site[name].q_mean[0]) / site[name].q_scale[0]
        assert len(np.unique(standardised.numpy())) == z.size  # no batch repeats another's noise
        assert np.abs(standardised).max() < 5 and 0.5 < np.std(standardised) < 1.6


def test_means_of_a_gaussian_are_clipped_for_display(generated):
    model = make("deep_vae", "gaussian")
    model.pixels.bias.assign(np.tile([3.0, -2.0], 16).astype(np.float32))
    x = test_images(12)
    calls = generated(model)
    for figure in (
        figures.samples(model, 0),
        figures.reconstructions(model, x, 0),
        figures.injected_samples(model, 0),
        figures.reconstructions_by_layer(model, x, 0),
        figures.interpolations(model, x, 0, rows=2),
    ):
        sheet = np.asarray(figure.axes[0].images[0].get_array())
        assert sheet.min() >= 0.0 and sheet.max() <= 1.0
    mean = calls[0][1].mean.numpy()
    assert mean.min() < 0.0 or mean.max() > 1.0
    first = rows_of(figures.samples(model, 0), 8, 8)[0, 0]
    np.testing.assert_allclose(first, np.clip(mean[0, ..., 0], 0.0, 1.0), atol=1e-6)


# Classes
# -------------------------------------------------------------------------------------------------

OF_CLASSES = ("m2", "adgm", "sdgm", "cagem")


@pytest.mark.parametrize("kind", OF_CLASSES)
def test_rows_share_a_draw_and_columns_are_classes(kind, generated):
    model = make(kind)
    calls = generated(model)
    figure = figures.class_conditional(model, seed=2, rows=5, class_names=["a", "b", "c"])
    top = model.generation_order[0]
    assert texts(figure) == ["a", "b", "c"]
    assert [list(latents) for latents, _ in calls] == [[top]] * 3
    shown = rows_of(figure, 5, 3)
    for column, (latents, generation) in enumerate(calls):
        np.testing.assert_array_equal(latents[top], calls[0][0][top])
        np.testing.assert_array_equal(generation.y, [column] * 5)
        y = model.one_hot(generation.y)
        means = model.decode({**generation.latents, "y": y}).mean().numpy()[..., 0]
        np.testing.assert_allclose(shown[:, column], means, atol=1e-6)
    assert len(np.unique(calls[0][0][top], axis=0)) == 5
    if kind == "sdgm":  # a has one noise along a row
        noises = []
        for column, (_, generation) in enumerate(calls):
            loc, scale = model.prior_a(calls[0][0]["z"], model.one_hot([column] * 5), None)
            noises.append(((generation.latents["a"] - loc) / scale).numpy())
        np.testing.assert_allclose(noises, [noises[0]] * 3, atol=1e-3)


@pytest.mark.parametrize("kind", OF_CLASSES)
def test_analogies_keep_what_was_inferred_given_the_predicted_class(kind, generated):
    model, x = make(kind), test_images()
    calls = generated(model)
    figure = figures.analogies(model, x, seed=2, count=4)
    top = model.generation_order[0]
    assert texts(figure) == ["image", "0", "1", "2"] and len(calls) == 3
    sheet = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_array_equal(sheet[:4, :4], x[0, ..., 0])
    np.testing.assert_array_equal(sheet[-4:, :4], x[3, ..., 0])
    np.testing.assert_allclose(sheet[-4:, -4:], calls[2][1].mean[3, ..., 0], atol=1e-6)
    z = calls[0][0][top]
    noise = model.noise(figures.stateless_seed(2, 13), 4)
    y = np.argmax(model.class_log_probs(x[:4], noise)[0], -1)
    expected = model.trace(x[:4], noise=noise, y=y).sites[top].value[0]
    for column, (latents, generation) in enumerate(calls):
        np.testing.assert_array_equal(latents[top], z)
        np.testing.assert_allclose(z, expected, atol=1e-5)
        np.testing.assert_array_equal(generation.y, [column] * 4)
    frames = sorted(figure.axes[0].patches, key=lambda patch: patch.get_y())
    lefts = [text.xy[0] - 2 for text in figure.axes[0].texts]
    for patch, label in zip(frames, y, strict=True):
        assert patch.get_x() < lefts[1 + label] < patch.get_x() + 2


def test_many_classes_are_cut_off():
    keras.utils.set_random_seed(0)
    model = M2(EVENT, num_classes=23, latent_dim=2, hidden_units=(3,))
    names = [f"c{i}" for i in range(23)]
    assert texts(figures.class_conditional(model, 0, rows=1, class_names=names)) == names[:20]
    assert len(texts(figures.analogies(model, test_images(), 0, count=2, class_names=names))) == 21


@pytest.mark.parametrize("kind", OF_CLASSES)
def test_interpolations_have_the_class_of_the_left_end(kind, generated):
    model, x = make(kind), test_images(6)
    calls = generated(model)
    figures.interpolations(model, x, seed=1, rows=3, steps=4)
    noise = model.noise(figures.stateless_seed(1, 3), 6)
    y = np.argmax(model.class_log_probs(x, noise)[0], -1)
    top = model.generation_order[0]
    trace = model.trace(x, noise=noise)
    means = mean_over_classes(trace, trace.sites[top].q_mean)[0].numpy()
    for (latents, generation), weight in zip(calls, np.linspace(0, 1, 4), strict=True):
        np.testing.assert_array_equal(generation.y, y[::2])
        expected = (1 - weight) * means[::2] + weight * means[1::2]
        np.testing.assert_allclose(latents[top], expected, atol=1e-5)


@pytest.mark.parametrize("kind", [*OF_CLASSES, "avae"])
def test_the_last_layer_is_the_usual_reconstruction(kind):
    model, x = make(kind), test_images()
    figure = figures.reconstructions_by_layer(model, x, seed=3, count=7)
    order = model.generation_order
    assert texts(figure) == ["test images", *(f"from {site}" for site in order)]
    shown = rows_of(figure, 1 + len(order), 7)
    expected = model.reconstruct(x[:7], model.noise(figures.stateless_seed(3, 6), 7))
    np.testing.assert_allclose(shown[-1], expected[..., 0], atol=1e-5)


@pytest.mark.parametrize("kind", OF_CLASSES)
def test_reconstructions_are_those_of_the_model(kind):
    model, x = make(kind), test_images()
    shown = rows_of(figures.reconstructions(model, x, seed=3, count=7), 2, 7)
    np.testing.assert_array_equal(shown[0], x[:7, ..., 0])
    expected = model.reconstruct(x[:7], model.noise(figures.stateless_seed(3, 5), 7))
    np.testing.assert_allclose(shown[1], expected[..., 0], atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "sites"),
    [
        ("m2", {"z": 3}),
        ("adgm", {"a": 4, "z": 3}),
        ("sdgm", {"a": 4, "z": 3}),
        ("cagem", {"z1": 4, "z2": 2}),
        ("avae", {"a1": 3, "z1": 4, "a2": 2, "z2": 2}),
    ],
)
def test_auxiliary_latents_are_shown_beside_the_others(kind, sites, monkeypatch):
    model, x = make(kind), test_images(12)
    seen = {}
    monkeypatch.setattr(plotting, "latent_pca", lambda latents, *args, **kw: seen.update(latents))
    figures.latent_pca(model, x, seed=2, batch_size=5)
    assert [(site, z.shape) for site, z in seen.items()] == [
        (site, (12, units)) for site, units in sites.items()
    ]
    assert all(len(np.unique(z)) == z.size for z in seen.values())


def test_mesh_has_the_classes_of_its_places(generated, monkeypatch):
    model, x = make("cagem"), test_images()
    calls, seen = generated(model), []
    monkeypatch.setattr(plotting, "latent_mesh", lambda *args, **kw: seen.append(args))
    figures.latent_mesh(model, x, 0, np.arange(12) % 3, "abc", side=5)
    ((random_images, conditional_images, points, labels, names, limits),) = seen
    (latents, drawn), (_, fixed) = calls
    mesh = latents["z2"].reshape(5, 5, 2)
    np.testing.assert_array_equal(mesh[2, :, 0], np.linspace(-3, 3, 5))
    np.testing.assert_array_equal(mesh[:, 2, 1], np.linspace(-3, 3, 5))
    assert limits == (-3.0, 3.0) and points.shape == (12, 2) and len(labels) == 12
    for images, generation in ((random_images, drawn), (conditional_images, fixed)):
        np.testing.assert_array_equal(generation.latents["z2"], latents["z2"])
        np.testing.assert_allclose(images.reshape(25, *EVENT), generation.mean, atol=1e-6)
    # what the model itself draws most often there
    counts = np.zeros((25, 3))
    for seed in range(60):
        y = model.generate(latents={"z2": latents["z2"]}, seed=seed).y
        counts[np.arange(25), y] += 1
    share = counts[np.arange(25), fixed.y].mean() / 60
    assert share >= np.max(counts.mean(0)) / 60 and (counts.max(1) / 60).mean() - share < 0.08


def test_dropped_pixels_are_put_back(generated):
    """Every sheet of a model that sees a column of pixels is one of whole pictures."""
    rng = np.random.default_rng(0)
    mask = rng.random((5, 6, 1)) < 0.5
    x = rng.integers(0, 2, (12, mask.sum(), 1, 1)).astype(np.float32)
    split = datasets.Split(x, np.arange(12) % 3)
    dataset = datasets.DataSet(
        "toy", "", "bernoulli", None, split, None, split, tuple("abc"), mask,
        np.full(mask.shape, 0.25, np.float32),
    )  # fmt: skip
    keras.utils.set_random_seed(0)
    model = of_classes("cagem", x.shape[1:])
    to_pictures = dataset.to_pictures
    for figure in (
        figures.samples(model, 0, to_pictures),
        figures.reconstructions(model, x, 0, to_pictures=to_pictures),
        figures.reconstructions_by_layer(model, x, 0, to_pictures=to_pictures),
        figures.injected_samples(model, 0, to_pictures=to_pictures),
        figures.interpolations(model, x, 0, to_pictures=to_pictures),
        figures.class_conditional(model, 0, to_pictures=to_pictures),
        figures.analogies(model, x, 0, to_pictures=to_pictures),
    ):
        sheet = np.asarray(figure.axes[0].images[0].get_array())
        assert (sheet[:5, :6][~mask[..., 0]] == 0.25).all()
        assert (sheet[-5:, :6][~mask[..., 0]] == 0.25).all()
        assert not (sheet[:5, :6][mask[..., 0]] == 0.25).any()
    original = np.asarray(
        figures.analogies(model, x, 0, to_pictures=to_pictures).axes[0].images[0].get_array()
    )[:5, :6]
    np.testing.assert_array_equal(original[mask[..., 0]], x[0, :, 0, 0])
    vae = VAE(x.shape[1:], latent_dim=2, hidden_units=(3,), prior="vampprior", num_components=4)
    for figure in (
        figures.pseudo_inputs(vae, to_pictures),
        figures.pseudo_input_samples(vae, 0, 2, to_pictures),
    ):
        sheet = np.asarray(figure.axes[0].images[0].get_array())
        assert (sheet[:5, :6][~mask[..., 0]] == 0.25).all()
    pictures = figures.training_pictures(model, x, 0, to_pictures)
    assert pictures.keys() == {"samples", "reconstructions", "class_conditional"}


# Points of the plane
# -------------------------------------------------------------------------------------------------


def moons(count=300):
    points, labels = datasets.generated.half_moons(count, 0.1, np.random.default_rng(0))
    return points.reshape(count, 1, 2, 1), labels


@pytest.mark.parametrize("kind", ["m2", "cagem"])
def test_half_moons_show_the_classifier(kind, monkeypatch):
    keras.utils.set_random_seed(0)
    model, (x, labels) = of_classes(kind, (1, 2, 1), likelihood="gaussian"), moons()
    seen = {}
    monkeypatch.setattr(plotting, "half_moons", lambda *args, **kw: seen.update(kw, points=args))
    figures.half_moons(model, x, 0, labels, labelled=x[:6], class_names="abc", count=200)
    points, samples = seen["points"]
    np.testing.assert_array_equal(points, x[:200].reshape(-1, 2))
    assert samples.shape == (200, 2) and seen["sample_classes"].shape == (200,)
    np.testing.assert_array_equal(seen["labelled"], x[:6].reshape(-1, 2))
    predictions = np.argmax(model.classify(x, 100, seed=1), -1)
    assert (seen["predictions"] != predictions[:200]).mean() < 0.1
    assert abs(seen["error_percent"] - 100 * (predictions != labels).mean()) < 10
    horizontal, vertical, probabilities = seen["grid"]
    assert probabilities.shape == (len(vertical), len(horizontal), 3)
    for place, column, row in ((points.min(0), 0, 0), (points.max(0), -1, -1)):
        assert (place > [horizontal[0], vertical[0]]).all()
        assert (place < [horizontal[-1], vertical[-1]]).all()
        point = np.array([horizontal[column], vertical[row]], np.float32).reshape(1, 1, 2, 1)
        expected = model.classify(point, 100, seed=2)[0]
        np.testing.assert_allclose(probabilities[row, column], expected, atol=0.15)


def test_known_class_probabilities_are_used(monkeypatch):
    keras.utils.set_random_seed(0)
    model, (x, labels) = of_classes("m2", (1, 2, 1), likelihood="gaussian"), moons(20)
    seen = {}
    monkeypatch.setattr(plotting, "half_moons", lambda *args, **kw: seen.update(kw))
    figures.half_moons(model, x, 0, labels, np.eye(3)[1 - labels])
    np.testing.assert_array_equal(seen["predictions"], 1 - labels)
    assert seen["error_percent"] == 100.0


def test_points_of_a_model_without_classes_have_one_colour():
    keras.utils.set_random_seed(0)
    model, (x, _) = VAE((1, 2, 1), "gaussian", latent_dim=2, hidden_units=(3,)), moons(20)
    figure = figures.half_moons(model, x, 0)
    assert not figure.legends and len(figure.axes[0].collections[0].get_offsets()) == 20
    assert figures.training_pictures(model, x, 0).keys() == {"half_moons"}


# All figures of a run
# -------------------------------------------------------------------------------------------------

ALWAYS = {"samples", "reconstructions", "interpolations", "training_curves", "kl_per_unit", "graph"}
EVALUATED = {"latent_pca", "active_units", "log_likelihood", "bound_decomposition"}
OF_LAYERS = {"injected_samples", "reconstructions_by_layer"}


def run_of(kind):
    """Model, data set and state as of a run of two epochs."""
    model = make(kind)
    units = {site: shape[0] for site, shape in model.noise_shapes.items()}
    split = datasets.Split(test_images(), np.arange(12) % 3)
    dataset = datasets.DataSet(
        "toy", "", "bernoulli", None, split, None, split, class_names=("a", "b", "c")
    )
    history = {"bound": [-3.0, -2.0], "test_bound": [-4.0, -3.0]}
    history |= {f"kl/{site}": [1.0, 2.0] for site in model.noise_shapes}
    state = types.SimpleNamespace(
        epoch=2,
        best_epoch=0,
        columns=lambda: {name: np.array(column) for name, column in history.items()},
        unit_kl={site: np.full((2, count), 0.5) for site, count in units.items()},
    )
    return model, dataset, state


def evaluated(model, x):
    arrays = evaluation.bound_terms(model, x, num_samples=3)
    return arrays | {"log_likelihood": arrays["elbo"] + 1.0}


@pytest.mark.parametrize("kind", ["vae", "hvae", "deep_vae", "ladder_vae"])
def test_figures_of_a_run(kind):
    model, dataset, state = run_of(kind)
    layers = OF_LAYERS if kind != "vae" else set()
    assert figures.all_figures(model, dataset, state, 0).keys() == ALWAYS | layers
    drawn = figures.all_figures(
        model, dataset, state, 0, evaluated(model, dataset.test.images), published=-5.0
    )
    of_evaluation = EVALUATED | ({"kl_per_layer"} if layers else set())
    assert drawn.keys() == ALWAYS | layers | of_evaluation


@pytest.mark.parametrize("kind", [*OF_CLASSES, "avae"])
def test_figures_of_a_run_with_classes_or_auxiliary_latents(kind):
    model, dataset, state = run_of(kind)
    layers = OF_LAYERS if len(model.generation_order) > 1 else set()
    classes = {"class_conditional", "analogies"} if kind != "avae" else set()
    mesh = {"latent_mesh"} if kind == "cagem" else set()
    evaluated_ones = EVALUATED | ({"kl_per_layer"} if kind != "m2" else set())
    arrays = evaluated(model, dataset.test.images)
    drawn = figures.all_figures(model, dataset, state, 0, arrays)
    assert drawn.keys() == ALWAYS | layers | classes | mesh | evaluated_ones
    bars = [label.get_text() for label in drawn["bound_decomposition"].axes[0].get_yticklabels()]
    sites = list(model.noise_shapes)
    latent = [*(["y"] if classes else []), *sites[::-1]]
    assert bars == ["log p(x|z)", *(f"− KL {name}" for name in latent), "ELBO", "$L_K$"]
    steps = [patch.get_width() for patch in drawn["bound_decomposition"].axes[0].patches]
    np.testing.assert_allclose(sum(steps[:-2]), arrays["elbo"].mean(), rtol=1e-6)
    heat_maps = [ax.get_title(loc="left").split(":")[0] for ax in drawn["kl_per_unit"].axes]
    assert heat_maps[: len(sites)] == sites
    if classes:  # without labels, classes are clusters that have no names
        assert texts(drawn["class_conditional"]) == ["c0", "c1", "c2"]
        assert texts(drawn["analogies"]) == ["image", "c0", "c1", "c2"]
        for name in ("class_conditional", "analogies"):
            (title,) = (text.get_text() for text in drawn[name].texts)
            assert "unnamed cluster" in " ".join(title.split())


@pytest.mark.parametrize("kind", ["adgm", "cagem"])
def test_figures_of_a_run_with_labels(kind):
    model, dataset, state = run_of(kind)
    columns = state.columns()
    columns |= {
        "error_percent": np.array([50.0, 0.0]),
        "test_error_percent": np.array([66.0, 50.0]),
    }
    state.columns = lambda: dict(columns)
    probabilities = np.eye(3)[np.arange(12) % 2]  # 0 1 0 1 ..., of the labels 0 1 2 0 1 2 ...
    drawn = figures.all_figures(
        model,
        dataset,
        state,
        0,
        class_probabilities=probabilities,
        labelled=np.array([0, 1, 2]),
        published_error=0.96,
    )
    assert {"error_curve", "confusion_matrix", "class_conditional", "analogies"} < drawn.keys()
    assert "latent_pca" not in drawn
    assert texts(drawn["class_conditional"]) == ["a", "b", "c"]
    assert "66.67 % (8 of 12)" in drawn["confusion_matrix"].get_suptitle()
    legend = drawn["error_curve"].axes[0].get_legend().get_texts()
    assert [text.get_text() for text in legend] == [
        "training (labelled), last 0.00 %", "test, last 50.00 %", "evaluation 66.67 %",
        "published 0.96 %",
    ]  # fmt: skip
    arrays = evaluated(model, dataset.test.images) | {"class_probabilities": probabilities}
    drawn = figures.all_figures(model, dataset, state, 0, arrays)
    assert {"error_curve", "confusion_matrix", "latent_pca"} < drawn.keys()


def test_figures_of_a_run_in_the_plane():
    """No image sheets, the half-moons in their place."""
    _, _, state = run_of("adgm")
    keras.utils.set_random_seed(0)
    model, (x, labels) = of_classes("adgm", (1, 2, 1), likelihood="gaussian"), moons(60)
    split = datasets.Split(x, labels)
    dataset = datasets.DataSet(
        "moons", "", "gaussian", None, split, None, split, class_names=("top", "bottom", "none")
    )
    drawn = figures.all_figures(model, dataset, state, 0, labelled=np.arange(6))
    assert drawn.keys() == {"training_curves", "kl_per_unit", "graph", "half_moons"}
    names = [text.get_text() for text in drawn["half_moons"].legends[0].get_texts()]
    assert names == ["top", "bottom", "none", "labelled"]
    assert "error" in drawn["half_moons"].axes[0].get_title(loc="left")
    unlabelled = figures.all_figures(model, dataset, state, 0, labelled=np.zeros(0, int))
    assert unlabelled["half_moons"].axes[0].get_title(loc="left").endswith("predicted class")


def test_inactive_units_are_left_out_of_the_principal_components(monkeypatch):
    model, x, seen = make("deep_vae"), test_images(12), []
    monkeypatch.setattr(plotting, "latent_pca", lambda *args, **kw: seen.append((args[0], kw)))
    figures.latent_pca(model, x, seed=2)
    unit_kl = {"z1": [0.0, 0.5, 0.0, 0.02], "z2": [0.0, 0.001, 0.0], "z3": [1.0, 1.0]}
    figures.latent_pca(model, x, seed=2, unit_kl=unit_kl)
    (everything, plain), (latents, options) = seen
    np.testing.assert_array_equal(latents["z1"], everything["z1"][:, [1, 3]])
    for site in ("z2", "z3"):
        np.testing.assert_array_equal(latents[site], everything[site])
    assert plain["headings"] == {}
    assert options["headings"] == {
        "z1": "z1: 2 of 4 units active",
        "z2": "z2: none of 3 units active",
    }
    figures.latent_pca(model, x, seed=2, unit_kl={"z1": [0.3]})  # of a mixture prior
    assert seen[2][0]["z1"].shape == (12, 4) and seen[2][1]["headings"] == {}


def test_figures_list_layers_from_the_bottom_to_the_top():
    model, dataset, state = run_of("ladder_vae")  # which draws z3 first
    arrays = evaluated(model, dataset.test.images)
    drawn = figures.all_figures(model, dataset, state, 0, arrays)
    sites = ["z1", "z2", "z3"]
    heat_maps, pca = drawn["kl_per_unit"].axes[:3], drawn["latent_pca"].axes
    assert [ax.get_title(loc="left")[:2] for ax in heat_maps] == sites
    assert [ax.get_title(loc="left")[:2] for ax in pca] == sites
    divergences = drawn["kl_per_layer"].axes
    for ax, name in zip(divergences, ("kl", "kl_standard"), strict=True):
        assert [label.get_text() for label in ax.get_yticklabels()] == sites
        np.testing.assert_allclose(
            [bar.get_width() for bar in ax.patches],
            [arrays[f"{name}/{site}"].mean() for site in sites],
        )
    _, by_kl, by_variance = drawn["active_units"].axes[1].containers
    counts = [[bar.get_width() for bar in bars] for bars in (by_kl, by_variance)]
    assert counts[0] == [(arrays[f"unit_kl/{site}"] > 0.01).sum() for site in sites]
    assert counts[1] == [(arrays[f"q_mean/{site}"].var(0) > 0.01).sum() for site in sites]
    legend = drawn["training_curves"].axes[1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == sites


def test_figures_of_an_older_evaluation():
    model, dataset, state = run_of("hvae")
    arrays = evaluated(model, dataset.test.images)
    old = {n: a for n, a in arrays.items() if not n.startswith(("kl_standard", "unit_kl"))}
    drawn = figures.all_figures(model, dataset, state, 0, old)
    assert len(drawn["kl_per_layer"].axes) == len(drawn["active_units"].axes) == 1


# The depth study
# -------------------------------------------------------------------------------------------------

LATENTS = (64, 32, 16, 8, 4)


def record(folder, name, model="deep_vae", depth=1, **options):
    """Writes a run's record as `results add` leaves it."""
    options = {
        "dataset": "dynamic_mnist", "epochs": 200, "budget": 200, "bn": "all", "warmup": 100,
        "bounds": (-85.0, -88.0), "active": None, "status": "trained to the last epoch",
        "protocol": "dynamic", "initial_run": None, "latents": LATENTS[:depth], "importance": 1,
        "samples": 5000, "published": None, "published_protocol": "", "seeds": (0, 0), "error": None,
        "stochastic": True, "curve": "epoch,bound\n1,-90.0\n", "num_labels": 100, "few": None,
        "options": {}, "optimizer": {"learning_rate": 1e-3, "epsilon": 1e-8},
    } | options  # fmt: skip
    log_likelihood, elbo = options["bounds"]
    config = json.loads(configuration.to_json(configuration.base_config(model, options["dataset"])))
    of_model = {
        "latent_dims": list(options["latents"]),
        "batch_normalization": options["bn"],
        "stochastic_auxiliary": options["stochastic"],
    }
    if model in ("deep_vae", "prob_ladder", "ladder_vae"):
        of_model["hidden_units"] = config["model"]["hidden_units"][: len(options["latents"])]
    config["model"] |= {
        field: of_model[field] for field in of_model.keys() & config["model"].keys()
    }
    config["model"] |= options["options"]
    config["objective"] |= {
        "warmup_epochs": options["warmup"],
        "num_importance": options["importance"],
    }
    config["optimizer"] |= options["optimizer"]
    config["training"] |= {"epochs": options["budget"], "initial_run": options["initial_run"]}
    config["seed"], config["labels"]["seed"] = options["seeds"]
    config["labels"]["num_labels"] = options["num_labels"]
    config["evaluation"]["num_samples"] = options["samples"]
    sites = [f"z{i + 1}" for i in range(len(options["latents"]))]
    summary = {
        "model": model, "dataset": options["dataset"], "protocol": options["protocol"], "seed": 0,
        "epochs": options["epochs"], "train_images_per_second": 100.0,
        "test/log_likelihood": log_likelihood, "test/log_likelihood_stderr": 0.2,
        "test/eval_samples": options["samples"], "test/elbo": elbo, "test/log_px": -60.0,
        "initial_run": options["initial_run"],
        "initial_epochs": 2000 if options["initial_run"] else 0,
        "best_epoch": options["epochs"], "status": options["status"], "train_seconds": 60.0,
        "published/log_likelihood": options["published"], "published/source": "",
        "published/protocol": options["published_protocol"], "command": "python run_experiment.py", "commit": "abc",
    }  # fmt: skip
    for site, active in zip(sites, options["active"] or [None] * len(sites), strict=True):
        summary |= {f"test/kl/{site}": 1.0, f"test/active_units/{site}": 2}
        if options["active"]:
            summary[f"test/active_units_kl/{site}"] = active
    if options["error"] is not None:
        summary |= {
            "test/error_percent": options["error"], "test/error_percent_stderr": 0.1,
            "num_labels": options["num_labels"], "published/error_percent": 0.96,
            "test/classifier": "svm",
        }  # fmt: skip
    if options["few"] is not None:
        summary |= {"test/importance_weighted": options["few"], "test/importance_samples": 10}
    run = folder / name
    run.mkdir()
    (run / "config.json").write_text(json.dumps(config))
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "metrics.csv").write_text(options["curve"])


def section(text, heading):
    """The part of a page below a heading, up to the next."""
    assert f"## {heading}\n" in text
    return text.split(f"## {heading}\n")[1].split("\n## ")[0]


def cells(text, first):
    """Cells of the table rows whose first cell is `first`."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return [row for row in rows if row[0] == first]


@pytest.fixture
def study(tmp_path):
    """Results of seven runs that belong to one study."""
    record(tmp_path, "vae1", bn="none", warmup=0, bounds=(-86.5, -90.25))
    record(tmp_path, "vae1_s1", bn="none", warmup=0, bounds=(-86.7, -90.5))
    record(tmp_path, "vae5", depth=5, bn="none", warmup=0, bounds=(-87.0, -91.0),
           active=(21, 2, 0, 0, 0))  # fmt: skip
    record(tmp_path, "bn2", depth=2, warmup=0, bounds=(-85.5, -89.0), active=(22, 9))
    record(tmp_path, "wu2", depth=2, bounds=(-84.0, -88.0))
    record(tmp_path, "ladder5", "ladder_vae", 5, bounds=(-82.0, -85.0), samples=1000,
           active=(40, 20, 8, None, 2))  # fmt: skip
    record(tmp_path, "prob5", "prob_ladder", 5, bounds=(-81.5, -84.5), active=(46, 20, 8, 3, 2))
    return tmp_path


def test_depth_study_has_a_row_per_latents_and_a_column_per_variant(study):
    text = section(results.table(study), "Depth study: dynamic_mnist (200 epochs)")
    assert (study / "README.md").read_text().count("## Depth study") == 1
    assert "Protocol: dynamic." in text and "![bounds by depth](depth_dynamic_mnist.png)" in text
    bounds = text.split("![")[0]
    assert cells(bounds, "latents") == [
        ["latents", "VAE", "VAE+BN", "VAE+BN+WU", "Ladder VAE+BN+WU", "prob. ladder+BN+WU"]
    ]
    assert cells(bounds, "64") == [
        [
            "64",
            "[-86.50](vae1) (5000) / -90.25; [-86.70](vae1_s1) (5000) / -90.50",
            *"––––",
        ]
    ]
    assert cells(bounds, "64-32") == [
        ["64-32", "–", "[-85.50](bn2) (5000) / -89.00", "[-84.00](wu2) (5000) / -88.00", *"––"]
    ]
    assert cells(bounds, "64-32-16-8-4") == [
        [
            "64-32-16-8-4", "[-87.00](vae5) (5000) / -91.00", *"––",
            "[-82.00](ladder5) (1000) / -85.00", "[-81.50](prob5) (5000) / -84.50",
        ]
    ]  # fmt: skip
    order = [cells(bounds, latents) for latents in ("64", "64-32", "64-32-16-8-4")]
    lines = [bounds.index("| " + row[0][0] + " |") for row in order]
    assert lines == sorted(lines)


def test_active_units_stand_beside_the_published_ones(study):
    text = section(results.table(study), "Depth study: dynamic_mnist (200 epochs)")
    table = text.split("![")[1]
    assert "KL > 0.01 nats" in table
    head = ["variant", "latents", "z1", "z2", "z3", "z4", "z5", "total"]
    assert cells(table, "variant") == [[*head, "Sønderby et al. 2016a, Table 2"]]
    assert cells(table, "[VAE+BN](bn2)") == [
        ["[VAE+BN](bn2)", "64-32", "22", "9", "–", "–", "–", "31", "–"]
    ]
    assert cells(table, "[VAE](vae5)") == [
        ["[VAE](vae5)", "64-32-16-8-4", "21", "2", "0", "0", "0", "23", "20 1 0 0 0: 21"]
    ]
    assert cells(table, "[prob. ladder+BN+WU](prob5)")[0][-2:] == ["79", "46 22 8 3 2: 81"]
    assert "ladder5" not in table and "vae1" not in table  # these have not counted them


def test_depth_study_names_what_few_of_its_runs_were_trained_with(study):
    record(study, "wu2_epsilon", depth=2, optimizer={"learning_rate": 1e-3, "epsilon": 1e-4})
    text = section(results.table(study), "Depth study: dynamic_mnist (200 epochs)")
    (header,) = cells(text, "latents")
    assert header.index("VAE+BN+WU, epsilon=0.0001") > header.index("VAE+BN+WU")
    assert not any("learning_rate" in cell for cell in header)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("objective", "warmup_epochs", 30),
        ("objective", "kl", "analytic"),
        ("objective", "weight_prior_std", 1.0),
        ("training", "batch_size", 20),
        ("training", "mixed_precision", True),
        ("summary", "batch_statistics", "running"),
    ],
)
def test_depth_study_tells_trainings_apart(study, part, field, value):
    record(study, "wu2_other", depth=2)
    path = study / "wu2_other" / ("summary.json" if part == "summary" else "config.json")
    values = json.loads(path.read_text())
    if part == "summary":
        for name in ("wu2", "prob5"):
            of_most = study / name / "summary.json"
            known = {**json.loads(of_most.read_text()), "test/batch_statistics": "recalibrated"}
            of_most.write_text(json.dumps(known))
        values["test/batch_statistics"] = value
    else:
        values[part][field] = value
    path.write_text(json.dumps(values))
    text = section(results.table(study), "Depth study: dynamic_mnist (200 epochs)")
    (header,) = cells(text, "latents")
    assert header[1:5] == ["VAE", "VAE+BN", "VAE+BN+WU", f"VAE+BN+WU, {field}={value}"]
    assert len(header) == 7


def test_depth_study_is_drawn(study, monkeypatch):
    seen = []
    draw = plotting.depth_study
    monkeypatch.setattr(plotting, "depth_study", lambda *args: seen.append(args) or draw(*args))
    record(study, "bn2_other", depth=2, warmup=0, optimizer={"learning_rate": 1e-3, "epsilon": 1})
    for run in study.iterdir():  # the weights are those of epoch 200
        (run / "metrics.csv").write_text("epoch,bound\n199,-86.0\n200,-85.0\n201,-84.0\n")
    text = section(results.table(study), "Depth study: dynamic_mnist (200 epochs)")
    assert "(bn2_other)" in text
    ((bounds, title, order),) = seen
    assert set(bounds["$L_1$, test images"]) < set(order)  # of other settings, none is drawn
    assert list(bounds) == ["$L_1$, training images", "$L_1$, test images", "$L_{K}$, test images"]
    training, elbo, log_likelihood = bounds.values()
    assert list(training) == list(elbo) == list(log_likelihood) == [
        "VAE", "VAE+BN", "VAE+BN+WU", "Ladder VAE+BN+WU", "prob. ladder+BN+WU",
    ]  # fmt: skip
    np.testing.assert_array_equal(elbo["VAE"], [[1, -90.25], [1, -90.5], [5, -91.0]])
    np.testing.assert_array_equal(log_likelihood["VAE"], [[1, -86.5], [1, -86.7], [5, -87.0]])
    np.testing.assert_array_equal(elbo["Ladder VAE+BN+WU"], [[5, -85.0]])
    np.testing.assert_array_equal(training["VAE"], [[1, -85.0], [1, -85.0], [5, -85.0]])
    assert "200 epochs" in title  # and 1000 or 5000 samples
    picture = matplotlib.image.imread(study / "depth_dynamic_mnist.png")
    assert picture.shape[1] > picture.shape[0] > 300


def test_budgets_protocols_and_data_sets_are_not_mixed(tmp_path):
    for depth in (1, 2):
        record(tmp_path, f"long{depth}", depth=depth, epochs=2000, budget=2000)
        record(tmp_path, f"short{depth}", depth=depth, epochs=150, budget=2000,
               status="stopped after 150 of 2000 epochs")  # fmt: skip
        record(tmp_path, f"other{depth}", depth=depth, epochs=150, budget=150, protocol="fixed")
        record(tmp_path, f"omniglot{depth}", depth=depth, dataset="omniglot", active=(9,) * depth)
    record(tmp_path, "early", depth=3, epochs=700, budget=2000, status="stopped early")
    record(tmp_path, "alone", depth=1, epochs=77)
    text = results.table(tmp_path)
    headings = [line for line in text.splitlines() if line.startswith("## Depth study")]
    assert headings == [
        "## Depth study: dynamic_mnist (2000 epochs)",
        "## Depth study: dynamic_mnist (150 epochs)",
        "## Depth study: dynamic_mnist (150 epochs)",
        "## Depth study: omniglot (200 epochs)",
    ]
    studies = [part.split("\n## ")[0] for part in text.split("\n## Depth study: ")[1:]]
    members = [
        {
            name
            for name in ("long", "short", "other", "omniglot", "early", "alone")
            if f"]({name}" in s
        }
        for s in studies
    ]
    assert members == [{"long", "early"}, {"short"}, {"other"}, {"omniglot"}]
    pictures = [path.name for path in sorted(tmp_path.glob("*.png"))]
    assert pictures == [
        "depth_dynamic_mnist.png", "depth_dynamic_mnist_2.png", "depth_dynamic_mnist_3.png",
        "depth_omniglot.png",
    ]  # fmt: skip
    assert all(f"({picture})" in study for picture, study in zip(pictures, studies, strict=True))
    assert "KL > 0.01" in studies[3] and "Table 2" not in studies[3]  # which is of MNIST


def test_variants_name_what_differs(tmp_path):
    record(tmp_path, "a", bn="none")
    record(tmp_path, "b", depth=2, importance=10)
    record(tmp_path, "c", bn="hidden", warmup=0)
    record(tmp_path, "d", "prob_ladder", options={"top_down": "shared"})
    text = results.table(tmp_path)
    assert cells(text, "latents") == [
        [
            "latents", "VAE+WU", "VAE+BN, batch_normalization=hidden", "VAE+BN+WU, IW 10",
            "prob. ladder+BN+WU, top_down=shared",
        ]
    ]  # fmt: skip


def test_a_record_does_not_say_where_on_the_machine_runs_were(tmp_path):
    record(tmp_path, "b", "ladder_vae", depth=2)
    run, kept, name = tmp_path / "b", str(tmp_path / "results"), "config.json"
    target = pathlib.Path(results.add(str(run), kept))
    assert (target / name).read_text() == (run / name).read_text()
    shutil.rmtree(target)
    config = configuration.base_config("ladder_vae", "digits")
    config.training.initial_run = str(tmp_path / "a") + "/"
    (run / name).write_text(configuration.to_json(config))
    for _ in range(2):
        results.add(str(run), kept)
        config.training.initial_run = "runs/a"
        assert (target / name).read_text() == configuration.to_json(config)


def test_a_fine_tuned_run_says_what_it_started_from(tmp_path):
    record(tmp_path, "a", "ladder_vae", depth=2)
    record(tmp_path, "b", "ladder_vae", depth=2, importance=10, initial_run="a")
    text = results.table(tmp_path)
    (row,) = cells(text, "[ladder_vae](b), IW 10")
    assert row[7].startswith("2000 of a, then 200, trained to the last epoch")
    assert "IW" not in cells(text, "[ladder_vae](a)")[0][0]


def test_every_figure_of_a_run_is_shown(tmp_path):
    record(tmp_path, "a", active=(7,))
    figures_of_a = tmp_path / "a" / "figures"
    figures_of_a.mkdir()
    for name in ("samples", "kl_per_unit", "latent_pca"):
        (figures_of_a / f"{name}.png").write_bytes(b"")
    text = section(results.table(tmp_path), "a")
    for name in ("samples", "kl_per_unit", "latent_pca"):
        assert f'<a href="a/figures/{name}.png"><img src="a/figures/{name}.png"' in text
    assert "KL z1 1.00 nats, 7 active units" in text  # by KL, not the 2 by variance


@pytest.mark.parametrize(
    "second",
    [{"depth": 2, "initial_run": "runs/a"}, {"depth": 2, "model": "hvae"}],
    ids=["fine-tuned", "another family"],
)
def test_no_study_of_one_run(tmp_path, second):
    record(tmp_path, "a")
    record(tmp_path, "b", **second)
    (tmp_path / "b" / "figures").mkdir()
    text = results.table(tmp_path)
    assert "Depth study" not in text and "## b\n" in text
    assert not list(tmp_path.glob("*.png"))


def test_a_study_of_one_depth_has_tables_and_no_figure(tmp_path):
    record(tmp_path, "a", bn="none")
    record(tmp_path, "b", warmup=5)
    text = results.table(tmp_path)
    assert "Depth study" in text and "bounds by depth" not in text
    assert cells(text, "latents")[0][0] == "latents" and not list(tmp_path.glob("*.png"))


def test_runs_that_can_be_compared_are_drawn_beside_the_published_numbers(tmp_path, monkeypatch):
    seen = []
    draw = plotting.against_published
    monkeypatch.setattr(plotting, "against_published", lambda runs: seen.append(runs) or draw(runs))
    record(tmp_path, "a", published=-84.0)
    record(tmp_path, "b", published=-2000.0, published_protocol="other formulas: not comparable")
    record(tmp_path, "c", depth=2)
    assert "](published.png)" in results.table(tmp_path)
    assert seen == [{"a": (-85.0, 0.2, -84.0)}] and (tmp_path / "published.png").exists()


def test_bounds_over_epochs_are_drawn_for_every_protocol_with_several_runs(tmp_path, monkeypatch):
    seen, draw = [], plotting.bound_comparison

    def watch(runs, title):
        seen.append({name: curve.tolist() for name, curve in runs.items()})
        return draw(runs, title)

    monkeypatch.setattr(plotting, "bound_comparison", watch)
    curve = "epoch,bound,{}_bound\n1,-99.0,-98.0\n2,-90.0,\n3,-90.0,{}\n"
    record(tmp_path, "a", curve=curve.format("val", -91.0))
    record(tmp_path, "labels", "adgm", error=9.0, curve=curve.format("val", -94.0))
    record(tmp_path, "test", protocol="60k", curve=curve.format("test", -95.0))
    record(tmp_path, "without")  # has neither
    assert "Bounds over epochs" not in results.table(tmp_path)
    record(tmp_path, "b", curve=curve.format("val", -92.0))
    record(tmp_path, "test2", protocol="60k", curve=curve.format("test", -96.0))
    record(tmp_path, "tuned", protocol="60k", initial_run="a", curve=curve.format("test", -94.0))
    text = section(results.table(tmp_path), "Bounds over epochs")
    for name in ("bounds_dynamic_mnist.png", "bounds_dynamic_mnist_2.png"):
        assert f"]({name})" in text and (tmp_path / name).exists()
    assert seen == [
        {"a": [[1.0, -98.0], [3.0, -91.0]], "b": [[1.0, -98.0], [3.0, -92.0]]},
        {
            "test": [[1.0, -98.0], [3.0, -95.0]], "test2": [[1.0, -98.0], [3.0, -96.0]],
            "tuned": [[2001.0, -98.0], [2003.0, -94.0]],  # after the epochs of its first stage
        },
    ]  # fmt: skip


def test_commands_add_a_record_and_write_the_page(tmp_path, capsys):
    kept = tmp_path / "kept"
    record(tmp_path, "one")
    # `add` reads the configuration as a whole, so it has to be one.
    path = tmp_path / "one" / "config.json"
    path.write_text(configuration.to_json(configuration.base_config("vae", "digits")))
    results.main(["add", str(tmp_path / "one"), str(kept)])
    results.main(["table", str(kept)])
    assert capsys.readouterr().out.split() == [str(kept / "one"), str(kept / "README.md")]
    assert "[deep_vae](one)" in (kept / "README.md").read_text()
    with pytest.raises(SystemExit, match="0"):
        results.main(["--help"])
    assert "published | ours" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        results.main(["tabel"])
    with pytest.raises(RunError, match="evaluate it first"):
        results.main(["add", str(tmp_path), str(kept)])


def test_errors_of_runs_that_differ_in_their_seeds_share_a_row(tmp_path):
    record(tmp_path, "adgm_0", "adgm", error=1.0)
    record(tmp_path, "adgm_1", "adgm", error=1.5, seeds=(0, 1))
    record(tmp_path, "adgm_2", "adgm", error=2.0, seeds=(3, 2), samples=7)
    record(tmp_path, "short", "adgm", error=9.0, budget=3, epochs=3)
    text = section(results.table(tmp_path), "Few labels")
    assert cells(text, "adgm") == [
        ["adgm", "dynamic_mnist", "100", "svm", "9.00", "0.96", "3", "[9.00](short)"],
        ["adgm", "dynamic_mnist", "100", "svm", "1.50 ± 0.50", "0.96", "200",
         "[1.00](adgm_0), [1.50](adgm_1), [2.00](adgm_2)"],
    ]  # fmt: skip


def test_errors_of_runs_of_unequal_length_meet_at_the_last_epoch_that_all_have(tmp_path):
    curve = "epoch,test_error_percent\n1,20.0\n2,{}\n3,{}\n"
    record(tmp_path, "long", "adgm", error=1.0, budget=3, epochs=3, curve=curve.format(8.0, 1.1))
    record(tmp_path, "short", "adgm", error=5.0, budget=2, epochs=2, seeds=(0, 1),
           curve=curve.format(6.0, ""))  # fmt: skip
    record(
        tmp_path, "same_seeds", "adgm", error=7.0, budget=2, epochs=2, curve=curve.format(7.0, "")
    )
    text = section(results.table(tmp_path), "Few labels")
    assert [row[3:5] + row[6:] for row in cells(text, "adgm")] == [
        ["svm", "6.00 ± 1.41", "2", "[7.00](same_seeds), [5.00](short)"],
        ["svm", "1.00", "3", "[1.00](long)"],
        ["svm, one draw", "7.00 ± 1.41", "2", "[8.00](long), [6.00](short)"],
    ]


def test_bounds_by_number_of_labels_are_drawn_of_runs_that_differ_in_it(tmp_path, monkeypatch):
    seen, draw = [], plotting.bounds_by_labels
    monkeypatch.setattr(
        plotting, "bounds_by_labels", lambda *args: seen.append(args) or draw(*args)
    )
    record(tmp_path, "c100", "cagem", error=1.0, few=-86.5)
    record(tmp_path, "c100_1", "cagem", error=1.5, seeds=(3, 2), few=-86.0, bounds=(-85, -87))
    record(tmp_path, "deeper", "cagem", num_labels=20, depth=2, few=-86.0)
    assert "Bounds by number" not in results.table(tmp_path)
    record(tmp_path, "c0", "cagem", num_labels=0, few=-88.0, bounds=(-86.0, -90.0))
    text = section(results.table(tmp_path), "Bounds by number of labels")
    assert "](labels_cagem_dynamic_mnist.png)" in text
    assert (tmp_path / "labels_cagem_dynamic_mnist.png").exists()
    ((bounds, title),) = seen
    assert bounds == {
        "$L_{1}$": [(0, -90.0), (100, -88.0), (100, -87)],
        "$L_{10}$": [(0, -88.0), (100, -86.5), (100, -86.0)],
        "$L_{5000}$": [(0, -86.0), (100, -85.0), (100, -85)],
    }
    assert "cagem on dynamic_mnist" in title and "200 epochs" in title


def test_runs_from_before_a_field_belong_to_those_that_have_its_default(tmp_path):
    for name, error in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        record(tmp_path, name, "cagem", error=error)
        path = tmp_path / name / "config.json"
        config = json.loads(path.read_text())
        if name == "a":
            del config["objective"]["class_warmup"]
        config["objective"] |= {"class_warmup": True} if name == "c" else {}
        path.write_text(json.dumps(config))
    text = section(results.table(tmp_path), "Few labels")
    assert [row[-1] for row in cells(text, "cagem")] == ["[1.00](a), [2.00](b)", "[3.00](c)"]


def test_both_classifiers_of_cagem_have_a_row_and_fewer_labels_come_first(tmp_path):
    for name, error in (("a", 1.0), ("b", 2.0)):
        record(tmp_path, name, "cagem", error=error)
        path = tmp_path / name / "summary.json"
        summary = json.loads(path.read_text())
        of_q = {"test/error_percent_q": error + 5.0, "test/error_percent_q_stderr": 0.1}
        path.write_text(json.dumps(summary | of_q))
    record(tmp_path, "c", "cagem", error=3.0, num_labels=20)
    text = section(results.table(tmp_path), "Few labels")
    rows = [
        row[2:6] + row[7:] for row in cells(text.replace("\\|", "|").replace("y|x", "y,x"), "cagem")
    ]
    assert rows == [
        ["20", "svm", "3.00", "0.96", "[3.00](c)"],
        ["100", "svm", "1.50 ± 0.71", "0.96", "[1.00](a), [2.00](b)"],
        ["100", "q(y,x)", "6.50 ± 0.71", "–", "[6.00](a), [7.00](b)"],
    ]


def test_errors_over_epochs_are_drawn_where_there_are_several_models(tmp_path, monkeypatch):
    seen, draw = [], plotting.error_comparison

    def watch(runs, published, title, evaluated):
        curves = {name: [curve.tolist() for curve in of_it] for name, of_it in runs.items()}
        seen.append((curves, published, evaluated))
        return draw(runs, published, title, evaluated)

    monkeypatch.setattr(plotting, "error_comparison", watch)
    curve = "epoch,test_error_percent\n1,20.0\n2,\n3,{}\n"
    record(tmp_path, "adgm_0", "adgm", error=1.0, curve=curve.format(5.0))
    record(tmp_path, "adgm_1", "adgm", error=1.5, seeds=(0, 1), curve=curve.format(6.0))
    assert "errors_" not in results.table(tmp_path)
    record(tmp_path, "fixed", "adgm", error=4.0, stochastic=False, curve=curve.format(7.0))
    record(tmp_path, "short", "adgm", error=9.0, budget=3, epochs=3, curve=curve.format(8.0))
    wide = {"latent_dim": 300}
    record(tmp_path, "wide", "adgm", error=8.0, options=wide, curve=curve.format(9.0))
    drawn = {"label_inference": "sum_and_sample"}
    record(tmp_path, "drawn", "adgm", error=7.0, options=drawn, curve=curve.format(4.0))
    record(tmp_path, "without", "m2", error=9.0)  # measured no error in training
    text = section(results.table(tmp_path), "Few labels")
    assert "](errors_dynamic_mnist_100.png)" in text
    assert (tmp_path / "errors_dynamic_mnist_100.png").exists()
    assert cells(text, "adgm, deterministic a")[0][4] == "4.00"
    ((runs, published, evaluated),) = seen
    assert evaluated["adgm, 3, 200 epochs"] == [(200, 1.0), (200, 1.5), (3, 9.0)]
    assert evaluated["adgm, sum and sample"] == [(200, 7.0)]
    assert runs == {
        "adgm, 3, 200 epochs": [
            [[1.0, 20.0], [3.0, 5.0]],
            [[1.0, 20.0], [3.0, 6.0]],
            [[1.0, 20.0], [3.0, 8.0]],
        ],
        "adgm, 200 epochs": [[[1.0, 20.0], [3.0, 9.0]]],
        "adgm, deterministic a": [[[1.0, 20.0], [3.0, 7.0]]],
        "adgm, sum and sample": [[[1.0, 20.0], [3.0, 4.0]]],
    }
    assert published == {"adgm, 3, 200 epochs": 0.96}


def test_depth_study_has_curves_of_training_and_test_images(study, monkeypatch):
    seen = []
    draw = plotting.training_and_test_curves
    watch = lambda *args: seen.append(args) or draw(*args)  # noqa: E731
    monkeypatch.setattr(plotting, "training_and_test_curves", watch)
    compared, seen_bounds = plotting.bound_comparison, []
    monkeypatch.setattr(
        plotting, "bound_comparison", lambda *a: seen_bounds.append(set(a[0])) or compared(*a)
    )
    assert "![ELBO" not in results.table(study) and not seen  # no run has them
    for run in study.iterdir():
        if run.is_dir():
            head = "epoch,bound,log_px,kl/z1,kl/z2,test_bound"
            rows = "1,-60.0,-60.0,30.0,5.0,-97.0\n2,-90.0,-60.0,28.0,4.0,-95.0"
            (run / "metrics.csv").write_text(f"{head}\n{rows}\n")
    text = results.table(study)
    assert "![ELBO over epochs by depth](curves_dynamic_mnist.png)" in text
    assert (study / "curves_dynamic_mnist.png").exists()
    ((depths, *_, held_out),) = seen
    assert held_out == "test images"
    assert list(depths) == ["1 layer", "2 layers"]  # the deepest lack their other terms
    assert list(depths["2 layers"]) == ["VAE+BN", "VAE+BN+WU"] and len(depths["1 layer"]) == 1
    (training, test), _ = depths["1 layer"]["VAE"]
    np.testing.assert_array_equal(training, [[1, -90.0], [2, -88.0]])  # at beta = 1
    np.testing.assert_array_equal(test, [[1, -97.0], [2, -95.0]])
    assert seen_bounds == [{"vae5", "ladder5", "prob5"}]


def test_longer_and_fine_tuned_hierarchies_have_a_table(study):
    record(
        study, "long", "ladder_vae", 2, epochs=2000, budget=2000, active=(20, 9), published=-82.1
    )
    record(study, "tuned", "ladder_vae", 2, epochs=10, initial_run="long", warmup=0, importance=10)
    text = section(results.table(study), "Deep hierarchies: longer runs, and fine-tuning")
    assert cells(text, "run")[0][-3:] == ["z1", "z2", "total"]
    assert cells(text, "[Ladder VAE+BN+WU](long)") == [
        ["[Ladder VAE+BN+WU](long)", "dynamic_mnist", "2000", "-85.00 (5000) / -88.00", "-82.10",
         "20", "9", "29"]
    ]  # fmt: skip
    (tuned,) = cells(text, "[Ladder VAE+BN+WU, IW 10](tuned)")  # its first stage had a warm-up
    assert tuned[2] == "2000 of long + 10" and tuned[-3:] == ["–"] * 3
    assert "ladder5" not in text


def test_a_record_without_configuration_is_left_out_of_the_study(study):
    (study / "ladder5" / "config.json").unlink()
    text = results.table(study)
    assert "Ladder VAE" not in text and "| [ladder_vae](ladder5) |" in text


def test_runs_are_compared_image_by_image(tmp_path, capsys):
    curve = "epoch,test_bound\n1,-99.0\n2,-88.0\n"
    record(tmp_path, "a", bounds=(-85.0, -88.0), curve=curve)
    record(tmp_path, "b", bounds=(-84.0, -86.0), curve=curve, depth=2)
    record(tmp_path, "c", curve=curve, samples=10)
    record(tmp_path, "d")
    (tmp_path / "d" / "summary.json").unlink()  # still training
    rng = np.random.default_rng(0)
    hard = rng.normal(-88.0, 20.0, 400)  # some images are harder than others, for every model
    gap = rng.normal(2.0, 0.1, 400)
    for name, elbo in (("a", hard), ("b", hard + gap), ("c", hard - 1.0)):
        np.savez(tmp_path / name / "evaluation.npz", elbo=elbo, log_likelihood=elbo + 3.0)
    folders = [str(tmp_path / name) for name in "abcd"]
    names, rows = results.compare(folders)
    assert names == list("abcd")
    said, titles = dict(rows), [title for title, _ in rows]
    assert said["model.latent_dims"] == ["64", "64-32", "64", "64"]
    assert not any(title.startswith(("optimizer", "evaluation")) for title in titles)
    assert said["log-likelihood"][::3] == ["-85.00 ± 0.20 nats (L_5000)", "–"]
    error = gap.std(ddof=1) / 20
    paired = f"{gap.mean():+.2f} ± {error:.2f} nats"
    differences = {rows[i - 1][0]: row for i, (title, row) in enumerate(rows) if "minus" in title}
    assert differences == {
        "log-likelihood": ["", paired, "–", "–"],  # c has another number of samples
        "ELBO": ["", paired, "-1.00 ± 0.00 nats", "–"],
    }
    assert error < 0.01

    out = tmp_path / "comparison.png"
    results.main(["compare", *folders[:3], f"--out={out}"])
    assert matplotlib.image.imread(out).ndim == 3
    assert "minus the first" in capsys.readouterr().out
    with pytest.raises(RunError, match="ends in .png. Received: comparison.pdf"):
        results.compare(folders, "comparison.pdf")
    with pytest.raises(RunError, match="held-out bound .*Received: d without one"):
        results.compare(folders, str(out))
    with pytest.raises(RunError, match="two runs or more. Received: 1"):
        results.compare(folders[:1])
    with pytest.raises(RunError, match="is not the folder of a run"):
        results.compare([folders[0], str(tmp_path)])
    kept = results.add(folders[1], str(tmp_path / "results"))
    assert ["", paired] in dict(results.compare([folders[0], kept])[1]).values()
    (tmp_path / "b" / "evaluation.npz").write_bytes(b"PK")
    with pytest.raises(RunError, match="evaluation.npz is not readable"):
        results.compare(folders[:2])


def test_a_record_is_of_one_experiment(tmp_path, monkeypatch):
    kept = tmp_path / "results"
    record(tmp_path, "a")
    (tmp_path / "a" / "figures").mkdir()
    (tmp_path / "a" / "figures" / "old.png").touch()
    monkeypatch.chdir(tmp_path / "a")
    target = pathlib.Path(results.add(".", str(kept)))  # has the name of the folder
    assert target == kept / "a" and (target / "figures" / "old.png").exists()
    shutil.rmtree(tmp_path / "a")
    record(tmp_path, "a", budget=400)  # of the same experiment, longer
    (tmp_path / "a" / "figures").mkdir()
    (tmp_path / "a" / "figures" / "new.png").touch()
    monkeypatch.chdir(tmp_path)
    results.add("a", str(kept))
    assert os.listdir(target / "figures") == ["new.png"]
    shutil.rmtree(tmp_path / "a")
    record(tmp_path, "a", warmup=0)
    with pytest.raises(RunError, match="record of another experiment .objective.warmup_epochs="):
        results.add("a", str(kept))


def test_the_potential_has_a_section(tmp_path):
    record(tmp_path, "a")
    fit = {"bound": 1.7, "bound_stderr": 0.01, "log_z": 1.88, "upper_mode": 0.5}
    fits = {name: fit | {"total_variation": 0.2} for name in ("auxiliary", "one_gaussian")}
    (tmp_path / "two_modes").mkdir()
    summary = {"command": "python -m tfhvae.potential --seed=7", "commit": "abc", **fits}
    (tmp_path / "two_modes" / "summary.json").write_text(json.dumps(summary))
    text = section(results.table(tmp_path), "two_modes")
    assert "    python -m tfhvae.potential --seed=7\n" in text and "two_modes/auxiliary.png" in text
    assert cells(text, "one Gaussian")[0][1:] == ["1.700 ± 0.010", "1.880", "50 %", "0.20"]


@pytest.mark.parametrize(
    "content, expected", [("{", "is not readable"), ('{"epochs": 1}', "it lacks commit, dataset")]
)
def test_a_summary_that_is_none_is_named(content, expected, tmp_path):
    record(tmp_path, "a")
    (tmp_path / "a" / "summary.json").write_text(content)
    with pytest.raises(RunError, match=f"a/summary.json .*{expected}"):
        results.table(str(tmp_path))


def test_runs_of_other_test_images_have_no_paired_difference(tmp_path):
    record(tmp_path, "a")
    record(tmp_path, "b", dataset="omniglot")
    for name in "ab":
        values = np.zeros(5)
        np.savez(tmp_path / name / "evaluation.npz", elbo=values, log_likelihood=values)
    _, rows = results.compare([str(tmp_path / name) for name in "ab"])
    assert dict(rows)["dataset.name"] == ["dynamic_mnist", "omniglot"]
    assert not any("minus" in title for title, _ in rows)
