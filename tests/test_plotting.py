"""Figures show the numbers they were given, at the pixels they promise, and refuse the rest."""

import ast
import concurrent.futures
import pathlib

import matplotlib.image
import numpy as np
import pytest
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.text import Text

from tfhvae import plotting

EPOCHS = np.arange(1.0, 41.0)


def images(*shape, seed=0):
    return np.random.default_rng(seed).random(shape)


def history(epochs=EPOCHS):
    """Columns of a run that begins far from where it ends, validated every tenth epoch."""
    bound = -90.0 - 1000.0 * np.exp(-epochs) + 0.01 * epochs
    is_validated = epochs % 10 == 0
    return {
        "epoch": epochs,
        "bound": bound,
        "val_bound": np.where(is_validated, bound - 1.0, np.nan),
        "log_px": bound + 25.0,
        "val_log_px": np.where(is_validated, bound + 24.0, np.nan),
        "kl/z2": np.full_like(epochs, 3.0),
        "val_kl/z2": np.where(is_validated, 3.1, np.nan),
        "kl/z1": 22.0 + 0.01 * epochs,
        "beta": np.minimum(1.0, epochs / 20),
        "learning_rate": 1e-3 * 0.5 ** (epochs / 5),
        "gradient_norm": np.full_like(epochs, np.nan),
        "seconds": epochs,
    }


def ring_potential(z):
    return 2.0 * (np.linalg.norm(z, axis=-1) - 2.0) ** 2


def grid(num_classes=2):
    """Probabilities of classes that lie side by side along x."""
    x, y = np.linspace(-1.0, 2.0, 31), np.linspace(-1.0, 1.0, 11)
    distances = np.abs(x[:, np.newaxis] - np.linspace(-0.5, 1.5, num_classes))  # [W, Y]
    likely = np.exp(-5.0 * distances)
    return x, y, np.tile(likely / likely.sum(-1, keepdims=True), (11, 1, 1))


# The one list of functions, each with the smallest and an ordinary input.
LADDER = (
    {"z3": [], "z2": ["z3"], "z1": ["z2"], "x": ["z1"]},
    {"z3": ["x"], "z2": ["z3", "x"], "z1": ["z2", "x"]},
)
CALLS = {
    "image_grid/one": lambda: plotting.image_grid(images(1, 8, 8, 1), title="One", labels=[3]),
    "image_grid/grey": lambda: plotting.image_grid(images(7, 28, 28, 1)),
    "image_grid/colour": lambda: plotting.image_grid(images(5, 32, 32, 3), columns=2),
    "image_grid/column": lambda: plotting.image_grid(images(2, 6, 5, 1), labels=["a", "b"]),
    "reconstructions/one": lambda: plotting.reconstructions(
        images(1, 28, 28, 1), images(1, 28, 28, 1)
    ),
    "reconstructions/rows": lambda: plotting.reconstructions(
        images(13, 8, 8, 3), images(13, 8, 8, 3)
    ),
    "labelled_rows/one": lambda: plotting.labelled_rows(images(1, 1, 8, 8, 1), ["a"]),
    "labelled_rows/colour": lambda: plotting.labelled_rows(
        images(3, 4, 32, 32, 3), ["originals", "a name of some length", "b"], "Rows", num_headers=1
    ),
    "interpolations/pair": lambda: plotting.interpolations(images(1, 2, 8, 8, 1)),
    "interpolations/colour": lambda: plotting.interpolations(images(3, 5, 32, 32, 3), "Walks"),
    "class_conditional/one": lambda: plotting.class_conditional(images(1, 1, 8, 8, 1)),
    "class_conditional/named": lambda: plotting.class_conditional(
        images(3, 4, 28, 28, 3), ["a", "a name of some length", "b", "c"]
    ),
    "analogies/one": lambda: plotting.analogies(images(1, 8, 8, 1), images(1, 2, 8, 8, 1)),
    "analogies/predicted": lambda: plotting.analogies(
        images(3, 8, 8, 3), images(3, 4, 8, 8, 3), [3, 0, 1], ["a", "b", "c", "d"]
    ),
    "pseudo_inputs/plain": lambda: plotting.pseudo_inputs(images(4, 28, 28, 1)),
    "pseudo_inputs/weights": lambda: plotting.pseudo_inputs(images(3, 8, 8, 1), [0.2, 0.5, 0.3]),
    "training_curves/all": lambda: plotting.training_curves(history()),
    "training_curves/test": lambda: plotting.training_curves(
        {name.replace("val_", "test_"): column for name, column in history().items()}
    ),
    "training_curves/one_epoch": lambda: plotting.training_curves({"bound": [-90.0]}),
    "error_curve/one_epoch": lambda: plotting.error_curve({"error_percent": [0.0]}),
    "error_curve/published": lambda: plotting.error_curve(
        {
            "epoch": EPOCHS,
            "error_percent": 60.0 * np.exp(-EPOCHS),
            "test_error_percent": np.where(EPOCHS % 10 == 0, 100.0 / EPOCHS, np.nan),
        },
        0.96,
        evaluated=(40, 1.8),
    ),
    "training_and_test_curves/one": lambda: plotting.training_and_test_curves(
        {"1 layer": {"VAE": [([[1, -90.0]], [[1, -91.0]])]}}
    ),
    "training_and_test_curves/several": lambda: plotting.training_and_test_curves(
        {
            f"{layers} layers": {
                name: [
                    [np.stack([EPOCHS, level - layers - 50.0 / EPOCHS], 1) for level in (-85, -86)]
                ]
                for name in ("VAE", "VAE+BN, and more", "VAE+BN+WU")[: layers - 1]
            }
            for layers in (2, 3, 4, 5)
        },
        "Curves",
        ("VAE", "VAE+BN+WU", "not there"),
    ),
    "error_comparison/one": lambda: plotting.error_comparison({"m2": [[[1, 9.0]]]}),
    "error_comparison/several": lambda: plotting.error_comparison(
        {"adgm": [[[1, 20.0], [2, 2.0]], [[1, 22.0], [3, 1.5]]], "m2": [[[1, 21.0], [2, 15.0]]]},
        {"adgm": 0.96},
        evaluated={"adgm": [[2, 1.1], [3, 1.0]]},
    ),
    "bound_comparison/one": lambda: plotting.bound_comparison({"a run": [[3, -90.0]]}),
    "bound_comparison/several": lambda: plotting.bound_comparison(
        {
            "the lower run": np.stack([EPOCHS, -90.0 - 50.0 / EPOCHS], 1),
            "the upper run, whose name is long": [[1, -99.0], [20, -88.5]],
        },
        "ELBO over epochs",
    ),
    "bound_comparison/many": lambda: plotting.bound_comparison(
        {
            f"_run {i}-optimizer.learning_rate=0.001-model.prior=$x^$": [[1, -90.0 - i]]
            for i in range(24)
        }
    ),
    "unit_kl_over_time/one_epoch": lambda: plotting.unit_kl_over_time({"z": np.ones((1, 2))}),
    "unit_kl_over_time/one_unit": lambda: plotting.unit_kl_over_time({"z": np.ones((3, 1))}),
    "unit_kl_over_time/two": lambda: plotting.unit_kl_over_time(
        {"z2": images(4, 3), "z1": images(4, 1)}, epochs=[1, 2, 5, 10]
    ),
    "unit_kl_over_time/five": lambda: plotting.unit_kl_over_time(
        {f"z{i}": images(9, units) for i, units in enumerate((64, 32, 16, 8, 4), start=1)}
    ),
    "graphs/one": lambda: plotting.graphs({"z": [], "x": ["z"]}, {"z": ["x"]}),
    "graphs/loop": lambda: plotting.graphs({"x": []}, {}, loops=["x"]),
    "graphs/chain": lambda: plotting.graphs(*LADDER),
    "graphs/class": lambda: plotting.graphs(
        {"z": [], "y": [], "a": ["z", "y"], "x": ["a", "z", "y"]},
        {"a": ["x"], "y": ["a", "x"], "z": ["a", "y", "x"]},
    ),
    "kl_per_layer/one": lambda: plotting.kl_per_layer({"z": 0.0}),
    "kl_per_layer/five": lambda: plotting.kl_per_layer(
        {f"z{i}": 20.0 / i for i in range(1, 6)}, {f"z{i}": 200.0 / i for i in range(1, 6)}
    ),
    "latent_pca/unlabelled": lambda: plotting.latent_pca({"z": images(20, 5)}),
    "latent_pca/collapsed": lambda: plotting.latent_pca({"z": np.ones((4, 3))}),
    "latent_pca/one_unit": lambda: plotting.latent_pca({"z": images(1, 1)}, [4]),
    "latent_pca/named": lambda: plotting.latent_pca(
        {"z2": images(6, 2), "z1": images(6, 4)}, [0, 1, 1, 0, 2, 2], ["a", "b", "c"]
    ),
    "latent_pca/many_classes": lambda: plotting.latent_pca(
        {"z": images(90, 3), "one unit": images(90, 1)}, np.arange(90) % 20
    ),
    "latent_pca/too_many_classes": lambda: plotting.latent_pca(
        {"z": images(90, 2), "one unit": images(90, 1)}, np.arange(90) % 40
    ),
    "column_histograms/one": lambda: plotting.column_histograms({"a": [[1.0]]}, ["x"]),
    "column_histograms/two": lambda: plotting.column_histograms(
        {
            "test rows": np.random.default_rng(0).normal(size=(500, 6)),
            "drawn from the model": np.random.default_rng(1).normal(size=(300, 6)),
        },
        ["I", "V", "G", "TExt", "TMod", "W"],
        "columns, standardised",
    ),
    "image_sheets/one": lambda: plotting.image_sheets({"a": images(1, 1, 8, 8, 1)}),
    "image_sheets/traversal": lambda: plotting.image_sheets(
        {"z1": images(3, 4, 8, 6, 3), "z2": images(3, 4, 8, 6, 3)},
        "one layer traversed, the others fixed",
        (-2.0, 2.0),
        {"z1": ("z1[0]", "z1[1]"), "z2": ("z2[3]", "z2[5]")},
    ),
    "latent_mesh/unlabelled": lambda: plotting.latent_mesh(
        images(2, 2, 8, 8, 1), images(2, 2, 8, 8, 1), images(1, 2)
    ),
    "latent_mesh/named": lambda: plotting.latent_mesh(
        images(4, 4, 8, 6, 3), images(4, 4, 8, 6, 3), 3.0 * images(9, 2), np.arange(9) % 3, "abc"
    ),
    "half_moons/plain": lambda: plotting.half_moons(images(4, 2), images(1, 2)),
    "half_moons/two": lambda: plotting.half_moons(
        images(40, 2),
        9.0 * images(30, 2, seed=1),
        np.arange(40) % 2,
        np.arange(30) % 2,
        grid(),
        images(6, 2, seed=2),
        1.25,
        ["top", "bottom"],
    ),
    "half_moons/three": lambda: plotting.half_moons(
        images(6, 2), images(6, 2), np.arange(6) % 3, np.arange(6) % 3, grid(3)
    ),
    "density_2d/one": lambda: plotting.density_2d(ring_potential, [[9.0, 9.0]]),
    "density_2d/many": lambda: plotting.density_2d(
        ring_potential, 4.0 * images(500, 2) - 2.0, (-2.5, 2.5), 20
    ),
    "confusion_matrix/one": lambda: plotting.confusion_matrix([0], [0]),
    "confusion_matrix/named": lambda: plotting.confusion_matrix(
        [0, 2, 2], [0, 1, 2], ["top", "a name of some length", "bottom"]
    ),
    "confusion_matrix/many": lambda: plotting.confusion_matrix(np.arange(50), np.arange(50) % 30),
    "log_likelihood_histogram/one": lambda: plotting.log_likelihood_histogram([-90.0]),
    "log_likelihood_histogram/reference": lambda: plotting.log_likelihood_histogram(
        -80.0 - images(50), reference=-82.9
    ),
    "bound_decomposition/one": lambda: plotting.bound_decomposition(-60.0, {"z": 25.0}),
    "bound_decomposition/zero": lambda: plotting.bound_decomposition(0.0, {"z": 0.0}),
    "bound_decomposition/positive": lambda: plotting.bound_decomposition(
        900.0, {"z2": 0.1, "z1": 40.0}, log_likelihood=870.0
    ),
    "active_units/one": lambda: plotting.active_units({"z": [0.0]}),
    "active_units/both": lambda: plotting.active_units(
        {"z1": images(6), "z2": images(4)}, {"z1": images(6), "z2": [3.0]}
    ),
    "depth_study/one": lambda: plotting.depth_study({"$L_1$": {"VAE": [[1, -90.0]]}}),
    "depth_study/many": lambda: plotting.depth_study(
        {
            f"$L_{{{k}}}$, test images": {
                f"variant {i} of a model": [[1, k / 500 - i], [5, k / 500]] for i in range(7)
            }
            for k in (1, 50, 5000)
        }
    ),
    "bounds_by_labels/one": lambda: plotting.bounds_by_labels({"$L_1$": [[0, -90.0]]}),
    "bounds_by_labels/many": lambda: plotting.bounds_by_labels(
        {
            f"$L_{{{k}}}$": [[labels, -90.0 + k / 500 + labels / 50] for labels in (0, 20, 50, 100)]
            for k in (1, 10, 5000)
        }
    ),
    "against_published/one": lambda: plotting.against_published({"a": (-85.0, None, -84.0)}),
    "against_published/many": lambda: plotting.against_published(
        {f"model_{i}_on_some_data": (-85.0 + i, 0.2, -83.0) for i in range(12)}
    ),
    "active_units/many": lambda: plotting.active_units(
        {f"z{i}": images(9, seed=i) for i in range(12)}
    ),
}


@pytest.fixture(scope="module")
def figures():
    return {name: call() for name, call in CALLS.items()}


def sheet(figure):
    """The composed sheet and figure pixels per sheet pixel."""
    array = np.asarray(figure.axes[0].images[0].get_array())
    width = figure.axes[0].get_window_extent().width
    return array, round(width / array.shape[1])


def tiles(array, side, rows, columns, gap=1):
    """Images of a sheet with even gaps, `[rows * columns, side, side, ...]`."""
    step = side + gap
    return np.stack(
        [
            array[r * step : r * step + side, c * step : c * step + side]
            for r in range(rows)
            for c in range(columns)
        ]
    )


def legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def visible_texts(figure):
    """Every text of a drawn figure with its extent in pixels."""
    renderer = figure.canvas.get_renderer()
    texts = [text for text in figure.findobj(Text) if text.get_visible()]
    return [(t.get_text(), t.get_window_extent(renderer)) for t in texts if t.get_text().strip()]


def test_every_public_function_is_in_the_list():
    tree = ast.parse(pathlib.Path(plotting.__file__).read_text(encoding="utf-8"))
    public = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    assert {name.split("/")[0] for name in CALLS} | {"save", "to_rgb_array"} == public


def test_importing_needs_neither_tensorflow_nor_pyplot_nor_scikit_learn():
    tree = ast.parse(pathlib.Path(plotting.__file__).read_text(encoding="utf-8"))
    modules = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    assert "numpy" in modules
    assert "matplotlib.pyplot" not in modules
    assert not {module.split(".")[0] for module in modules} & {"tensorflow", "keras", "sklearn"}


@pytest.mark.parametrize("name", CALLS)
def test_figures_are_drawn_with_every_title_inside(figures, name):
    figure = figures[name]
    assert isinstance(figure, Figure)
    pixels = plotting.to_rgb_array(figure)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert len(np.unique(pixels)) > 1
    height, width, _ = pixels.shape
    headings = [figure.get_suptitle(), *(ax.get_title(loc="left") for ax in figure.axes)]
    for text, box in visible_texts(figure):
        is_label = any(text in (ax.get_xlabel(), ax.get_ylabel()) for ax in figure.axes)
        if is_label or text in headings or text in ("original", "reconstruction", "start", "end"):
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text


class TestSheets:
    @pytest.mark.parametrize(("side", "channels", "gap"), [(8, 1, 1), (28, 1, 1), (32, 3, 2)])
    def test_sheet_holds_the_images_in_order(self, side, channels, gap):
        data = images(6, side, side, channels)
        array, _ = sheet(plotting.image_grid(data, columns=3))
        assert array.shape[:2] == (2 * side + gap, 3 * side + 2 * gap)
        shown = tiles(array, side, 2, 3, gap).reshape(data.shape)
        np.testing.assert_array_equal(shown, data.astype(np.float32))

    @pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (5, 2, 3), (16, 4, 4)])
    def test_default_is_near_square_and_white_where_images_run_out(self, count, rows, columns):
        array, _ = sheet(plotting.image_grid(np.zeros((count, 8, 8, 1))))
        assert array.shape == (9 * rows - 1, 9 * columns - 1)
        shown = tiles(array, 8, rows, columns)
        assert (shown[:count] == 0).all() and (shown[count:] == 1).all()

    @pytest.mark.parametrize("shape", [(10, 8, 8, 1), (7, 28, 28, 1), (5, 32, 32, 3), (1, 9, 9, 1)])
    def test_drawn_pixels_are_the_sheet_enlarged_by_a_whole_number(self, shape):
        levels = np.random.default_rng(0).integers(0, 256, shape) / 255
        figure = plotting.image_grid(levels, title="Samples")
        array, scale = sheet(figure)
        pixels = plotting.to_rgb_array(figure)
        box = figure.axes[0].get_window_extent()
        left, top = round(box.x0), pixels.shape[0] - round(box.y1)
        drawn = pixels[top : top + scale * array.shape[0], left : left + scale * array.shape[1]]
        expected = array if array.ndim == 3 else np.repeat(array[..., np.newaxis], 3, -1)
        # Matplotlib before 3.11 moves the edges of enlarged pixels by one: look at their centres.
        centres = drawn[scale // 2 :: scale, scale // 2 :: scale]
        assert scale >= 3
        assert np.abs(centres - 255 * expected).max() <= 1

    def test_grey_levels_are_not_stretched(self):
        image = plotting.image_grid(np.full((1, 8, 8, 1), 0.5)).axes[0].images[0]
        assert image.get_clim() == (0, 1)
        assert image.get_cmap().name == "gray" and image.get_interpolation() == "nearest"

    def test_labels_stand_below_their_images_and_are_shortened_to_them(self):
        figure = plotting.image_grid(images(3, 28, 28, 1), 2, labels=[7, "b", "x" * 99])
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert texts[:2] == ["7", "b"] and texts[2].endswith("…") and len(texts[2]) < 40
        positions = [text.xy for text in figure.axes[0].texts]
        assert positions[0][1] == positions[1][1] < positions[2][1]
        assert positions[0][0] == positions[2][0] < positions[1][0]

    def test_labels_do_not_touch_the_next_row(self):
        figure = plotting.image_grid(images(4, 8, 8, 1), labels=["gy"] * 4)
        plotting.to_rgb_array(figure)
        ax = figure.axes[0]
        below = ax.texts[0].get_window_extent()
        _, second_row = ax.transData.transform((0, ax.texts[2].xy[1] - 8))
        assert below.y0 >= second_row

    def test_reconstructions_stand_below_their_originals(self):
        originals, reconstructed = images(12, 8, 8, 1), images(12, 8, 8, 1, seed=1)
        figure = plotting.reconstructions(originals, reconstructed)
        array, scale = sheet(figure)
        assert array.shape[1] == 6 * 8 + 5  # two rows of six pairs
        between = array.shape[0] - 4 * 8 - 2  # two thin gaps, one wide gap
        assert between > 1
        second = 2 * 8 + 1 + between
        for pair_row, top in enumerate((0, second)):
            rows = array[top : top + 17]
            shown = tiles(rows, 8, 2, 6)
            chosen = slice(6 * pair_row, 6 * pair_row + 6)
            np.testing.assert_allclose(shown[:6], originals[chosen, ..., 0], atol=1e-7)
            np.testing.assert_allclose(shown[6:], reconstructed[chosen, ..., 0], atol=1e-7)
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert texts == ["original", "reconstruction"] * 2

    def test_rows_stand_beside_their_labels_and_headers_apart(self):
        data = images(3, 4, 8, 8, 1)
        figure = plotting.labelled_rows(data, ["head", "a", "b"], "Rows", num_headers=1)
        array, _ = sheet(figure)
        tops = [0, array.shape[0] - 17, array.shape[0] - 8]  # a wide gap, then a thin one
        assert tops[1] > 9
        for top, row, text in zip(tops, data, figure.axes[0].texts, strict=True):
            np.testing.assert_allclose(tiles(array[top : top + 8], 8, 1, 4), row[..., 0], atol=1e-7)
            assert text.xy == (-0.5, top + 3.5)
        assert [text.get_text() for text in figure.axes[0].texts] == ["head", "a", "b"]

    @pytest.mark.parametrize("name", ["labelled_rows/one", "labelled_rows/colour"])
    def test_labels_of_rows_are_inside(self, figures, name):
        width = plotting.to_rgb_array(figures[name]).shape[1]
        for _, box in visible_texts(figures[name]):
            assert box.x0 >= 0 and box.x1 <= width

    def test_interpolations_frame_both_ends_of_every_row(self):
        data = images(2, 4, 8, 8, 1)
        figure = plotting.interpolations(data)
        array, _ = sheet(figure)
        ax = figure.axes[0]
        frames = sorted((p.get_x(), p.get_y()) for p in ax.patches)
        assert len(frames) == 4
        assert [text.get_text() for text in ax.texts] == ["start", "end"]
        np.testing.assert_allclose(array[:8, :8], data[0, 0, ..., 0], atol=1e-7)
        np.testing.assert_allclose(array[-8:, -8:], data[1, -1, ..., 0], atol=1e-7)
        for patch in ax.patches:  # each lies around an end, not over it
            is_start = patch.get_x() < 0
            inner = -0.5 if is_start else array.shape[1] - 8.5
            assert patch.get_x() < inner and patch.get_x() + patch.get_width() > inner + 8

    def test_pseudo_inputs_are_sorted_by_weight(self):
        data = np.array([0.1, 0.9, 0.5, 0.3])[:, None, None, None] * np.ones((1, 8, 8, 1))
        figure = plotting.pseudo_inputs(data, [0.1, 0.2, 0.4, 0.3])
        shown = tiles(sheet(figure)[0][:8], 8, 1, 2)
        np.testing.assert_allclose(shown[:, 0, 0], [0.5, 0.3], atol=1e-7)
        assert [text.get_text() for text in figure.axes[0].texts] == ["0.4", "0.3", "0.2", "0.1"]
        assert "weight" in figure.texts[0].get_text()

    def test_many_pseudo_inputs_are_sorted_without_labels(self):
        count = plotting.MAX_LABELLED_PSEUDO_INPUTS + 1
        figure = plotting.pseudo_inputs(images(count, 4, 4, 1), np.full(count, 1 / count))
        assert not figure.axes[0].texts


class TestTrainingCurves:
    def test_panels_are_those_with_values(self):
        headings = [ax.get_title(loc="left") for ax in plotting.training_curves(history()).axes]
        assert headings == [
            "Bound", "Reconstruction, log p(x|z)", "KL per site", "Beta", "Learning rate",
        ]  # fmt: skip

    def test_lines_join_the_finite_values(self):
        training, validation = plotting.training_curves(history()).axes[0].lines
        np.testing.assert_array_equal(training.get_xdata(), EPOCHS)
        np.testing.assert_array_equal(validation.get_xdata(), [10, 20, 30, 40])
        np.testing.assert_array_equal(validation.get_ydata(), history()["val_bound"][9::10])

    def test_first_epochs_do_not_flatten_the_rest(self):
        ax = plotting.training_curves(history()).axes[0]
        low, high = ax.get_ylim()
        assert history()["bound"][0] < low and -102.0 < low and high < -88.0
        assert all(low < line.get_ydata()[-1] < high for line in ax.lines)
        outside = (history()["bound"] < low).sum()
        assert ax.get_title(loc="right") == f"{outside} values off scale"

    def test_every_value_of_a_straight_line_is_in_sight(self):
        ax = plotting.training_curves({"bound": np.linspace(-100.0, -90.0, 500)}).axes[0]
        low, high = ax.get_ylim()
        assert low < -100.0 and high > -90.0 and not ax.get_title(loc="right")

    def test_no_site_is_an_outlier(self):
        kl = {f"kl/z{i}": np.full(50, 10.0**i) for i in range(4)}
        low, high = plotting.training_curves(kl).axes[0].get_ylim()
        assert low < 1.0 and high > 1000.0

    def test_sites_are_in_the_legend_once(self):
        ax = plotting.training_curves(history()).axes[2]
        assert legend_texts(ax) == ["z2", "z1", "training", "validation"]

    def test_test_columns_stand_beside_those_of_training(self, figures):
        bound, log_px, kl, *_ = figures["training_curves/test"].axes
        assert legend_texts(bound) == ["training, as maximised", "test, $L_1$"]
        assert legend_texts(log_px) == ["training", "test"]
        assert legend_texts(kl) == ["z2", "z1", "training", "test"]
        np.testing.assert_array_equal(bound.lines[1].get_xdata(), [10, 20, 30, 40])
        np.testing.assert_array_equal(bound.lines[1].get_ydata(), history()["val_bound"][9::10])
        z2, z2_test, z1 = kl.lines
        assert z2.get_color() == z2_test.get_color() != z1.get_color()
        assert z2.get_linestyle() != z2_test.get_linestyle()

    def test_validation_and_test_differ(self):
        ax = plotting.training_curves(
            {"bound": [-3.0, -2.0], "test_bound": [-4.0, -3.0], "val_bound": [-5.0, -4.0]}
        ).axes[0]
        assert legend_texts(ax) == ["training, as maximised", "validation, $L_1$", "test, $L_1$"]
        assert [line.get_ydata()[0] for line in ax.lines] == [-3.0, -5.0, -4.0]
        assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 3

    def test_epochs_count_from_one_and_unknown_columns_are_ignored(self):
        figure = plotting.training_curves({"bound": [-3.0, -2.0], "note": ["a"], "kl": [1.0]})
        (ax,) = figure.axes
        np.testing.assert_array_equal(ax.lines[0].get_xdata(), [1, 2])

    def test_one_epoch_has_one_tick(self, figures):
        (ax,) = figures["training_curves/one_epoch"].axes
        low, high = ax.get_xlim()
        assert [tick for tick in ax.get_xticks() if low <= tick <= high] == [1.0]

    def test_learning_rate_over_decades_is_logarithmic_and_constant_is_not(self):
        figure = plotting.training_curves(
            {"learning_rate": 10.0 ** -np.arange(5), "gradient_norm": np.zeros(5)}
        )
        assert [ax.get_yscale() for ax in figure.axes] == ["log", "linear"]


class TestUnitKL:
    def test_units_are_sorted_by_last_finite_kl(self):
        kl = np.array([[5.0, 1.0, 1.0], [0.1, 2.0, 0.5], [np.nan] * 3])
        image = plotting.unit_kl_over_time({"z": kl}).axes[0].images[0]
        shown = image.get_array()
        np.testing.assert_allclose(shown[:, :2], kl[:2, [1, 2, 0]].T)
        assert shown.mask[:, 2].all() and not shown.mask[:, :2].any()

    def test_most_informative_unit_is_on_top(self):
        low, high = plotting.unit_kl_over_time({"z": images(4, 3)}).axes[0].get_ylim()
        assert low > high

    def test_low_kl_is_light_and_the_scale_logarithmic(self):
        image = plotting.unit_kl_over_time({"z": [[1.0, 0.1, 1e-3]]}).axes[0].images[0]
        lightness = image.to_rgba(np.array([1e-3, 0.1, 1.0]))[:, :3].mean(1)
        assert lightness[0] > 0.8 and (np.diff(lightness) < 0).all()
        np.testing.assert_allclose(image.norm(np.array([1e-3, 0.1, 1.0])), [0.0, 2 / 3, 1.0])

    def test_kl_below_the_floor_takes_its_colour(self):
        figure = plotting.unit_kl_over_time({"z": np.array([[1.0, 0.0], [1.0, -0.5]])})
        image = figure.axes[0].images[0]
        np.testing.assert_allclose(image.get_array()[1], plotting.KL_FLOOR)
        np.testing.assert_allclose(image.get_clim(), (plotting.KL_FLOOR, 1.0))
        assert figure.axes[1].get_ylabel() == "KL per unit (nats)"

    def test_panels_share_one_colour_scale(self):
        figure = plotting.unit_kl_over_time({"a": np.full((3, 2), 0.1), "b": np.full((3, 2), 7.0)})
        limits = [ax.images[0].get_clim() for ax in figure.axes[:2]]
        np.testing.assert_allclose(limits, [[0.1, 7.0]] * 2)

    def test_first_site_is_at_the_bottom_and_each_says_how_many_units_are_active(self):
        kl = {"z1": [[9.0] * 4, [0.011, 5.0, 0.009, 0.0]], "z2": [[9.0, 0.0], [0.0, 0.0]]}
        z1, z2 = plotting.unit_kl_over_time(kl).axes[:2]
        assert z1.get_position().y1 < z2.get_position().y0
        assert z1.get_title(loc="left") == "z1: 2 of 4 units above 0.01 nats"
        assert z2.get_title(loc="left") == "z2: 0 of 2 units above 0.01 nats"
        assert z1.get_xlabel() == "epoch" and z1.get_xlim() == z2.get_xlim()

    def test_layers_of_few_units_are_high_enough_to_be_read(self, figures):
        heights = [
            ax.get_window_extent().height for ax in figures["unit_kl_over_time/five"].axes[:5]
        ]
        assert (np.diff(heights) < 0).all() and heights[4] > 4 * 15

    def test_many_epochs_are_averaged_in_groups(self):
        count = 2 * plotting.MAX_HEAT_MAP_COLUMNS + 1  # groups of three, the last of two
        kl = images(count, 2) + [[1.0, 0.0]]
        kl[6:9] = np.nan
        kl[9, 0] = np.nan
        image = plotting.unit_kl_over_time({"z": kl}).axes[0].images[0]
        shown = image.get_array()
        order = [0, 1] if kl[-1, 0] > kl[-1, 1] else [1, 0]
        assert shown.shape == (2, -(-count // 3)) and shown.mask[:, 2].all()
        np.testing.assert_allclose(shown[:, 0], kl[:3, order].mean(0))
        np.testing.assert_allclose(shown[order.index(0), 3], kl[10:12, 0].mean())
        np.testing.assert_allclose(shown[:, -1], kl[-(count % 3 or 3) :, order].mean(0))
        assert image.axes.get_xlim() == (0.5, count + 0.5)

    def test_a_site_of_one_unit_is_a_line(self):
        kl = np.array([[1.0], [np.nan], [-0.5]])
        (ax,) = plotting.unit_kl_over_time({"z": kl}, epochs=[1, 5, 9]).axes
        np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[1, 1], [9, -0.5]])
        assert not ax.images and "nats" in ax.get_ylabel()

    def test_uneven_epochs_keep_their_places(self):
        figure = plotting.unit_kl_over_time({"z": images(3, 2)}, epochs=[1, 2, 10])
        assert figure.axes[0].get_xlim() == (0.5, 14.0)


class TestLatentPCA:
    def test_plane_has_the_variance_of_the_leading_eigenvectors(self):
        latents = images(200, 6) * [5, 4, 1, 1, 1, 1]
        ax = plotting.latent_pca({"z": latents}).axes[0]
        points = np.asarray(ax.collections[0].get_offsets())
        eigenvalues = np.linalg.eigvalsh(np.cov(latents.T))[::-1]
        np.testing.assert_allclose(np.cov(points.T), np.diag(eigenvalues[:2]), atol=1e-9)
        share = 100 * eigenvalues[0] / eigenvalues.sum()
        assert ax.get_xlabel() == f"component 1 ({share:.0f} % of variance)"

    def test_two_units_are_drawn_as_they_are_in_the_colours_of_their_classes(self):
        latents, labels = images(30, 2), np.arange(30) % 3 + 5
        figure = plotting.latent_pca({"z": latents}, labels)
        drawn = figure.axes[0].collections[0]
        points = np.asarray(drawn.get_offsets())
        order = np.lexsort(points.T)
        expected_order = np.lexsort(latents.T)
        np.testing.assert_array_equal(points[order], latents[expected_order])
        colours = drawn.get_facecolors()[order]
        classes = labels[expected_order]
        assert all(len(np.unique(colours[classes == c], axis=0)) == 1 for c in (5, 6, 7))
        assert len(np.unique(colours, axis=0)) == 3
        assert [t.get_text() for t in figure.legends[0].get_texts()] == ["5", "6", "7"]

    def test_one_unit_becomes_a_histogram_of_all_examples(self):
        figure = plotting.latent_pca({"z": images(40, 1)}, np.arange(40) % 2, ["even", "odd"])
        assert len(figure.axes[0].patches) == 2
        top = max(patch.get_xy()[:, 1].max() for patch in figure.axes[0].patches)
        counts, _ = np.histogram(images(40, 1), bins=10)
        assert top == counts.max()

    def test_every_class_has_its_own_look(self, figures):
        handles = figures["latent_pca/many_classes"].legends[0].legend_handles
        assert len({(h.get_color(), h.get_marker()) for h in handles}) == 20

    def test_of_too_many_classes_the_most_frequent_ones_have_a_colour(self, figures):
        figure = figures["latent_pca/too_many_classes"]  # 0 to 9 occur three times, 10 to 39 twice
        legend = [text.get_text() for text in figure.legends[0].get_texts()]
        assert legend == [*map(str, range(10)), "30 others"]
        others, coloured = figure.axes[0].collections
        latents, labels = images(90, 2), np.arange(90) % 40
        np.testing.assert_array_equal(others.get_offsets(), latents[labels >= 10])
        assert sorted(map(tuple, coloured.get_offsets())) == sorted(
            map(tuple, latents[labels < 10])
        )
        assert len(np.unique(others.get_facecolors(), axis=0)) == 1
        assert len(np.unique(coloured.get_facecolors(), axis=0)) == 10
        top = max(patch.get_xy()[:, 1].max() for patch in figure.axes[1].patches)
        assert top == np.histogram(images(90, 1), bins=10)[0].max()  # nobody is left out


class TestClasses:
    @pytest.mark.parametrize("name", ["class_conditional/named", "analogies/predicted"])
    def test_names_stand_above_their_columns_inside_the_figure(self, figures, name):
        height, width, _ = plotting.to_rgb_array(figures[name]).shape
        places = [text.xy for text in figures[name].axes[0].texts]
        assert len({y for _, y in places}) == 1 and places == sorted(places)
        boxes = [box for _, box in visible_texts(figures[name])]
        assert all(0 <= b.x0 <= b.x1 <= width and 0 <= b.y0 <= b.y1 <= height for b in boxes)
        *names, title = sorted(boxes, key=lambda box: box.y1)
        assert title.y0 > max(box.y1 for box in names)

    def test_columns_are_classes(self):
        data = images(2, 3, 8, 8, 1)
        figure = plotting.class_conditional(data)
        shown = tiles(sheet(figure)[0], 8, 2, 3)
        np.testing.assert_allclose(shown, data.reshape(6, 8, 8), atol=1e-7)
        assert [text.get_text() for text in figure.axes[0].texts] == ["0", "1", "2"]

    def test_analogies_stand_apart_from_the_originals_and_the_prediction_is_framed(self):
        originals, data = images(2, 8, 8, 1), images(2, 3, 8, 8, 1, seed=1)
        figure = plotting.analogies(originals, data, [2, 0], ["a", "b", "c"])
        array, _ = sheet(figure)
        ax = figure.axes[0]
        lefts = [round(text.xy[0] - 3.5) for text in ax.texts]
        assert [text.get_text() for text in ax.texts] == ["image", "a", "b", "c"]
        assert np.diff(lefts)[0] > np.diff(lefts)[1] == np.diff(lefts)[2] > 8
        for row, top in enumerate((0, len(array) - 8)):
            drawn = [array[top : top + 8, left : left + 8] for left in lefts]
            expected = np.concatenate([originals[row : row + 1], data[row]])[..., 0]
            np.testing.assert_allclose(drawn, expected, atol=1e-7)
        centres = [(p.get_x() + p.get_width() / 2, p.get_y() + p.get_height() / 2)
                   for p in ax.patches]  # fmt: skip
        np.testing.assert_allclose(
            centres, [(lefts[3] + 3.5, 3.5), (lefts[1] + 3.5, len(array) - 4.5)]
        )

    def test_confusions_are_counted(self):
        labels = np.repeat([0, 1, 2], [5, 3, 2])
        predictions = [0, 0, 0, 0, 2, 1, 1, 0, 2, 2]
        figure = plotting.confusion_matrix(labels, predictions, ["a", "b", "c"])
        (ax,) = figure.axes
        cells = {text.get_position()[::-1]: text.get_text() for text in ax.texts}
        assert cells == {(0, 0): "4", (0, 2): "1", (1, 0): "1", (1, 1): "2", (2, 2): "2"}
        shares = ax.images[0].get_array()
        np.testing.assert_allclose(shares, [[0.8, 0, 0.2], [1 / 3, 2 / 3, 0], [0, 0, 1]])
        assert figure.get_suptitle() == "Confusion matrix: error 20.00 % (2 of 10)"
        assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
        assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first class is on top

    def test_many_classes_have_colours_only(self, figures):
        (ax,) = figures["confusion_matrix/many"].axes
        assert not ax.texts and ax.images[0].get_array().shape == (50, 50)

    def test_errors_join_the_finite_values_and_stand_in_the_legend(self, figures):
        (ax,) = figures["error_curve/published"].axes
        training, test, evaluated, published = ax.lines
        assert evaluated.get_xydata().tolist() == [[40.0, 1.8]]
        np.testing.assert_array_equal(training.get_xdata(), EPOCHS)
        np.testing.assert_array_equal(
            test.get_xydata(), [[10, 10], [20, 5], [30, 10 / 3], [40, 2.5]]
        )
        assert set(published.get_ydata()) == {0.96} and published.is_dashed()
        assert legend_texts(ax) == [
            "training (labelled), last 0.00 %", "test, last 2.50 %", "evaluation 1.80 %",
            "published 0.96 %",
        ]  # fmt: skip
        assert ax.get_ylim()[0] < 0 < ax.get_ylim()[1] < 60

    def test_a_published_error_above_ours_is_in_sight(self):
        (ax,) = plotting.error_curve({"val_error_percent": [2.0, 1.0]}, 50.0).axes
        assert ax.get_ylim()[1] > 50

    def test_runs_of_one_model_share_a_colour_and_a_line_in_the_legend(self, figures):
        (ax,) = figures["error_comparison/several"].axes
        first, second, evaluated, published, other = ax.lines
        assert evaluated.get_xydata().tolist() == [[2, 1.1], [3, 1.0]]
        np.testing.assert_array_equal(second.get_xydata(), [[1, 22], [3, 1.5]])
        assert first.get_color() == second.get_color() == published.get_color()
        assert other.get_color() != first.get_color()
        assert set(published.get_ydata()) == {0.96} and published.is_dashed()
        assert legend_texts(ax) == [
            "adgm", "adgm, published 0.96 %", "m2", "at the end: evaluation",
        ]  # fmt: skip
        assert ax.get_yscale() == "log"

    def test_variants_of_a_model_have_its_colour_and_dashes_of_their_own(self):
        runs = {name: [[[1, 9.0], [2, 8.0]]] for name in ("m2", "adgm", "adgm, deterministic a")}
        m2, adgm, variant = plotting.error_comparison(runs).axes[0].lines
        assert adgm.get_color() == variant.get_color() != m2.get_color()
        assert adgm.get_linestyle() != variant.get_linestyle()

    def test_variants_keep_their_colours_from_study_to_study(self, figures):
        order = ("VAE", "VAE+BN+WU", "not there")
        panels = figures["training_and_test_curves/several"].axes
        assert [len(ax.lines) for ax in panels] == [2, 4, 6, 6]
        training, test = panels[0].lines
        assert training.get_color() == test.get_color() and test.is_dashed()
        assert not training.is_dashed()
        third = plotting.training_and_test_curves(
            {"2 layers": {"VAE+BN+WU": [([[1, -90.0]], [[1, -91.0]])]}}, order=order
        )
        assert third.axes[0].lines[0].get_color() == panels[2].lines[4].get_color()
        points = {"VAE+BN+WU": [[1, -90.0]], "other": [[1, -91.0]]}
        (ax,) = plotting.depth_study({"L": points}, order=order).axes
        colours = [line.get_color() for line in ax.lines[::2]]
        assert colours == [plotting.COLOURS[1], plotting.COLOURS[3]]
        assert len({ax.get_ylim() for ax in panels}) == 1

    def test_bounds_are_named_in_the_order_of_their_last_values(self, figures):
        (ax,) = figures["bound_comparison/several"].axes
        best, other = ax.lines
        np.testing.assert_array_equal(best.get_xydata(), [[1, -99.0], [20, -88.5]])
        assert legend_texts(ax) == [
            "the upper run, whose name is long, last −88.50", "the lower run, last −91.25",
        ]  # fmt: skip
        low, high = ax.get_ylim()
        assert -105 < low < -91.25 and -88.5 < high < -80  # the first epochs are off scale

    def test_bounds_of_many_runs_with_any_names(self, figures):
        figure = figures["bound_comparison/many"]
        (ax,) = figure.axes
        assert len(legend_texts(ax)) == 24 and legend_texts(ax)[0].startswith("_run 0-")
        looks = {(line.get_color(), line.get_linestyle()) for line in ax.lines}
        assert len(looks) == 24
        box = ax.get_legend().get_window_extent().transformed(figure.transFigure.inverted())
        assert box.x0 > 0.2 and 0 <= box.y0 and box.x1 <= 1 and box.y1 <= 1

    @pytest.mark.parametrize("longest, scale", [(100, "linear"), (101, "log")])
    def test_a_run_that_is_much_longer_does_not_squeeze_the_others(self, longest, scale):
        runs = {"short": [[1, -99.0], [10, -90.0]], "long": [[1, -99.0], [longest, -85.0]]}
        (ax,) = plotting.bound_comparison(runs).axes
        assert ax.get_xscale() == scale

    def test_a_confusion_matrix_of_very_many_classes_with_long_names(self):
        classes = np.arange(400)
        names = [f"{'a long name ' * 20}{i}" for i in classes]
        figure = plotting.confusion_matrix(classes, classes, names)
        assert max(figure.get_size_inches()) < 35

    def test_eleven_lines_differ(self):
        bounds = {f"L_{i}": [[1, -i], [2, -i]] for i in range(11)}
        for figure in (plotting.depth_study({"L": bounds}), plotting.bounds_by_labels(bounds)):
            lines = [line for line in figure.axes[0].lines if line.get_linestyle() == "-"]
            assert len({(line.get_color(), line.get_marker()) for line in lines}) == 11
        runs = {f"model {i}": [[[1, 2.0 + i], [2, 1.0 + i]]] for i in range(11)}
        lines = plotting.error_comparison(runs).axes[0].lines
        assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 11

    def test_mesh_is_drawn_upwards_where_its_latents_are(self):
        data = np.arange(4).reshape(2, 2, 1, 1, 1) / 4 * np.ones((1, 1, 8, 8, 1))
        points = images(20, 2)
        left, middle, right = plotting.latent_mesh(data, 1 - data, points, limits=(-2, 2)).axes
        for ax, expected in ((left, data), (right, 1 - data)):
            shown = np.asarray(ax.images[0].get_array())
            assert shown.shape == (18, 18)  # with a thin gap
            for row, column in np.ndindex(2, 2):  # row 0 at the bottom
                tile = shown[9 - 9 * row : 17 - 9 * row, 9 * column : 9 * column + 8]
                np.testing.assert_allclose(tile, expected[row, column, ..., 0])
            assert ax.images[0].get_extent() == [-4, 4, -4, 4]  # centres at -2 and 2
        (frame,) = middle.patches
        assert (frame.get_x(), frame.get_width()) == (-4, 8)
        drawn = np.asarray(middle.collections[0].get_offsets())
        np.testing.assert_array_equal(np.sort(drawn, 0), np.sort(points, 0))

    def test_boundary_lies_where_two_classes_are_equally_likely(self, figures):
        figure = figures["half_moons/two"]
        left, right = figure.axes
        (lines,) = (drawn for drawn in left.collections if isinstance(drawn, ContourSet))
        np.testing.assert_allclose(lines.get_paths()[0].vertices[:, 0], 0.5, atol=1e-6)
        assert left.get_title(loc="left") == "test points by predicted class, error 1.25 %"
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert names == ["top", "bottom", "labelled"]
        black = [c for c in left.collections if len(c.get_offsets()) == 6]
        assert len(black) == 1 and (black[0].get_facecolors() == [0, 0, 0, 1]).all()
        assert left.get_xlim() == right.get_xlim() == (-1.0, 2.0)
        samples = 9.0 * images(30, 2, seed=1)
        outside = ((samples > [2.0, 1.0]) | (samples < [-1.0, -1.0])).any(1).sum()
        assert right.get_title(loc="right") == f"{outside} points outside"

    def test_every_class_has_its_region(self, figures):
        left = figures["half_moons/three"].axes[0]
        regions = left.collections[0].get_array()
        assert set(np.unique(regions)) == {0, 1, 2}
        assert sum(isinstance(drawn, ContourSet) for drawn in left.collections) == 3

    def test_densities_are_normalised_and_of_one_scale(self, figures):
        ax, samples = figures["density_2d/many"].axes[:2]
        area = 0.25**2
        for image in (ax.images[0], samples.images[0]):
            np.testing.assert_allclose(image.get_array().sum() * area, 1.0)
        assert ax.images[0].get_clim() == samples.images[0].get_clim()
        shown = ax.images[0].get_array()
        assert shown[10, 2] > 5 * shown[10, 10]  # a ring
        assert not samples.get_title(loc="right")
        outside = figures["density_2d/one"].axes[1]
        assert outside.get_title(loc="right") == "1 sample outside"

    def test_samples_are_counted_where_they_lie(self):
        figure = plotting.density_2d(ring_potential, [[1.9, -1.9]] * 3, (-2.0, 2.0), 4)
        counts = figure.axes[1].images[0]
        assert counts.origin == "lower"
        row, column = np.unravel_index(counts.get_array().argmax(), (4, 4))
        assert (row, column) == (0, 3)


class TestNumbers:
    def test_mean_and_standard_error_of_the_histogram(self):
        values = np.array([-80.0, -90.0, -100.0, -90.0])
        (ax,) = plotting.log_likelihood_histogram(values, reference=-85.0).axes
        assert legend_texts(ax) == [
            "mean −90.00 ± 4.08 (standard error), N = 4",
            "published −85.00",
        ]
        assert [line.get_xdata()[0] for line in ax.lines] == [-90.0, -85.0]
        assert sum(patch.get_height() for patch in ax.patches) == 4

    def test_one_example_has_no_standard_error(self):
        assert legend_texts(plotting.log_likelihood_histogram([-3.0]).axes[0]) == [
            "mean −3.00, N = 1"
        ]

    def test_bars_step_from_the_reconstruction_to_the_elbo(self):
        (ax,) = plotting.bound_decomposition(-60.0, {"z2": 3.0, "z1": 22.0}, -82.5).axes
        ends = [bar.get_x() + bar.get_width() for bar in ax.patches]
        np.testing.assert_allclose(ends, [-60.0, -63.0, -85.0, -85.0, -82.5])
        names = [label.get_text() for label in ax.get_yticklabels()]
        assert names == ["log p(x|z)", "− KL z2", "− KL z1", "ELBO", "$L_K$"]
        assert [t.get_text() for t in ax.texts][:4] == ["−60.00", "−3.00", "−22.00", "−85.00"]

    def test_nothing_is_written_as_minus_zero(self, figures):
        texts = figures["bound_decomposition/zero"].axes[0].texts
        assert [text.get_text() for text in texts] == ["0.00"] * 3

    def test_an_axis_that_does_not_begin_at_zero_says_so(self):
        near = plotting.bound_decomposition(-60.0, {"z": 25.0}).axes[0]
        far = plotting.bound_decomposition(-9000.0, {"z": 25.0}).axes[0]
        assert near.get_xlim()[1] == 0 and "begin" not in near.get_xlabel()
        assert far.get_xlim()[1] < -8000 and "does not begin at 0" in far.get_xlabel()

    def test_active_units_are_sorted_and_counted(self):
        figure = plotting.active_units({"z": np.array([0.0, 2.0, 0.01, 0.5])})
        ax = figure.axes[0]
        np.testing.assert_array_equal(
            ax.lines[0].get_ydata(), [2.0, 0.5, 0.01, plotting.VARIANCE_FLOOR]
        )
        assert legend_texts(ax) == ["z: 2 of 4 active", "threshold 0.01"]
        assert ax.get_yscale() == "log"

    def test_active_units_are_counted_by_both_definitions(self):
        figure = plotting.active_units(
            {"z1": [0.0, 2.0, 0.01, 0.5], "z2": [1.0, 0.0]},
            {"z1": [0.011, 0.02, 3.0, 0.01], "z2": [5.0]},
        )
        ax = figure.axes[1]
        background, by_kl, by_variance = (
            [bar.get_width() for bar in bars] for bars in ax.containers
        )
        assert (background, by_kl, by_variance) == ([4, 2], [3, 0], [2, 1])
        assert [text.get_text() for text in ax.texts] == [
            "3 of 4", "not known per unit", "2 of 4", "1 of 2",
        ]  # fmt: skip
        assert legend_texts(ax) == ["KL(q||p) > 0.01 nats: 3", "variance > 0.01: 3"]
        assert [label.get_text() for label in ax.get_yticklabels()] == ["z1", "z2"]
        assert ax.get_ylim()[0] < ax.get_ylim()[1]  # the first site is at the bottom
        colours = [patch.get_facecolor() for patch in ax.get_legend().get_patches()]
        assert colours == [bars[0].get_facecolor() for bars in ax.containers[1:]]

    def test_layers_have_a_bar_for_each_divergence(self):
        figure = plotting.kl_per_layer({"z1": 18.0, "z2": 0.5}, {"z2": 0.5, "z1": 181.234})
        ours, standard = figure.axes
        assert [bar.get_width() for bar in ours.patches] == [18.0, 0.5]
        assert [bar.get_width() for bar in standard.patches] == [181.234, 0.5]
        assert [text.get_text() for text in standard.texts] == ["181.23", "0.50"]
        assert ours.get_title(loc="left") == "KL(q||p), 18.50 in all"
        for ax in figure.axes:
            assert [label.get_text() for label in ax.get_yticklabels()] == ["z1", "z2"]
            assert ax.get_ylim()[0] < ax.get_ylim()[1]
        assert ours.get_xlim()[1] < 30 < 150 < standard.get_xlim()[1]

    @pytest.mark.parametrize("name", ["kl_per_layer/five", "active_units/both"])
    def test_numbers_at_the_bars_are_inside(self, figures, name):
        height, width, _ = plotting.to_rgb_array(figures[name]).shape
        for ax in figures[name].axes:
            for text in ax.texts:
                box = text.get_window_extent()
                assert box.x1 <= ax.get_window_extent().x1 <= width, text.get_text()

    def test_depth_study_draws_lines_through_the_means_of_runs(self):
        elbo = {"VAE": [[2, -91.0], [1, -92.0], [2, -93.0]], "VAE+BN": [[5, -88.0]]}
        log_likelihood = {name: np.add(runs, [0.0, 4.0]) for name, runs in elbo.items()}
        figure = plotting.depth_study({"$L_1$": elbo, "$L_{5000}$": log_likelihood})
        left, right = figure.axes
        np.testing.assert_array_equal(left.lines[0].get_xydata(), [[1, -92.0], [2, -92.0]])
        np.testing.assert_array_equal(left.lines[1].get_xydata(), elbo["VAE"])
        np.testing.assert_array_equal(right.lines[0].get_xydata(), [[1, -88.0], [2, -88.0]])
        assert left.lines[0].get_color() == right.lines[0].get_color() != left.lines[2].get_color()
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["VAE", "VAE+BN"]
        headings = [ax.get_title(loc="left") for ax in figure.axes]
        assert headings == ["$L_1$", "$L_{5000}$"]

    def test_bounds_by_labels_are_lines_through_the_means_of_runs(self):
        runs = [[100, -80.0], [0, -84.0], [100, -81.0]]
        figure = plotting.bounds_by_labels({"$L_1$": runs, "$L_{10}$": [[20, -83.0]]})
        (ax,) = figure.axes
        np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[0, -84.0], [100, -80.5]])
        np.testing.assert_array_equal(ax.lines[1].get_xydata(), runs)
        np.testing.assert_array_equal(ax.get_xticks(), [0, 20, 100])
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        assert texts == ["$L_1$", "$L_{10}$"]

    def test_more_sites_than_the_palette_still_differ(self, figures):
        lines = figures["active_units/many"].axes[0].lines[:12]
        assert len({line.get_color() for line in lines}) == 12


class TestFiles:
    @pytest.mark.parametrize(
        "name", ["image_grid/colour", "training_curves/all", "latent_pca/named"]
    )
    def test_same_data_give_the_same_bytes(self, tmp_path, name):
        first, second = tmp_path / "first.png", tmp_path / "second.png"
        figure = CALLS[name]()
        plotting.save(figure, first)
        plotting.to_rgb_array(figure)
        plotting.save(figure, first)
        plotting.save(CALLS[name](), second)
        assert first.read_bytes() == second.read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["first.png", "second.png"]
        for chunk in (b"tEXt", b"iTXt", b"tIME"):
            assert chunk not in first.read_bytes()

    def test_file_holds_the_pixels_that_tensorboard_gets(self, tmp_path):
        figure = plotting.image_grid(images(4, 8, 8, 1), title="Samples")
        plotting.save(figure, tmp_path / "sheet.png")
        read = matplotlib.image.imread(tmp_path / "sheet.png")
        np.testing.assert_array_equal((255 * read[..., :3]).round(), plotting.to_rgb_array(figure))

    def test_dpi_scales_the_picture(self, tmp_path):
        figure = plotting.log_likelihood_histogram([-3.0, -2.0])
        plotting.save(figure, tmp_path / "small.png", dpi=60)
        height, width, _ = plotting.to_rgb_array(figure).shape
        small = matplotlib.image.imread(tmp_path / "small.png").shape
        np.testing.assert_allclose(small[:2], [height / 2, width / 2], atol=1)

    def test_a_failed_save_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "figure.png"
        path.write_bytes(b"old")

        def fail(*args, **kwargs):
            pathlib.Path(args[0]).write_bytes(b"half")
            raise OSError("disk full")

        figure = plotting.image_grid(images(1, 8, 8, 1))
        monkeypatch.setattr(figure, "savefig", fail)
        with pytest.raises(OSError, match="disk full"):
            plotting.save(figure, path)
        assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]

    def test_threads_draw_what_one_thread_draws(self):
        names = ["image_grid/one", "bound_decomposition/one", "unit_kl_over_time/two"] * 2
        alone = [plotting.to_rgb_array(CALLS[name]()) for name in names[:3]] * 2
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            together = list(pool.map(lambda name: plotting.to_rgb_array(CALLS[name]()), names))
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one, other)


GREY = np.zeros((2, 8, 8, 1))
REFUSED = {
    "rank": (lambda: plotting.image_grid(GREY[0]), r"\[N, H, W, C\].*\(8, 8, 1\)"),
    "no images": (lambda: plotting.image_grid(GREY[:0]), r"not empty.*\(0, 8, 8, 1\)"),
    "channels": (lambda: plotting.image_grid(np.zeros((1, 8, 8, 2))), "1 or 3 channels"),
    "bytes": (lambda: plotting.image_grid(GREY + 255), r"in \[0, 1\].*255"),
    "nan": (lambda: plotting.image_grid(GREY * np.nan), "finite images.*128 not finite"),
    "columns": (lambda: plotting.image_grid(GREY, columns=0), "columns >= 1.*columns=0"),
    "labels": (lambda: plotting.image_grid(GREY, labels=["a"]), "2, received: 1 labels"),
    "pairs": (lambda: plotting.reconstructions(GREY, GREY[:1]), "of one shape"),
    "row labels": (
        lambda: plotting.labelled_rows(GREY[None], ["a", "b"]),
        "one label per row, 1, received: 2",
    ),
    "steps": (lambda: plotting.interpolations(GREY[:, None]), "at least 2 images per row"),
    "rows": (lambda: plotting.interpolations(GREY), r"\[R, C, H, W, Ch\]"),
    "weights": (lambda: plotting.pseudo_inputs(GREY, [1.0]), "2, received: 1 weights"),
    "nan weight": (lambda: plotting.pseudo_inputs(GREY, [1.0, np.nan]), "finite weights"),
    "columns differ": (
        lambda: plotting.training_curves({"bound": [1.0], "beta": [1.0, 2.0]}),
        "one length.*'bound': 1, 'beta': 2",
    ),
    "nothing known": (lambda: plotting.training_curves({"loss": [1.0]}), "received: .'loss'"),
    "nothing finite": (
        lambda: plotting.training_curves({"bound": [np.nan]}),
        "at least one column",
    ),
    "nan epoch": (
        lambda: plotting.training_curves({"epoch": [np.nan], "bound": [1.0]}),
        "finite values in history",
    ),
    "column rank": (lambda: plotting.training_curves({"bound": [[1.0]]}), r"\[epochs\]"),
    "no sites": (lambda: plotting.unit_kl_over_time({}), "at least one site in kl"),
    "kl rank": (lambda: plotting.unit_kl_over_time({"z": [1.0]}), r"\[epochs, units\]"),
    "kl nan": (lambda: plotting.unit_kl_over_time({"z": [[np.nan] * 2]}), "received: none"),
    "kl epochs": (
        lambda: plotting.unit_kl_over_time({"z": [[1.0, 2.0]]}, [1, 2]),
        "2 epochs per site, received: {'z': 1}",
    ),
    "falling epochs": (
        lambda: plotting.unit_kl_over_time({"z": [[1.0], [2.0]]}, [2, 1]),
        "increasing epochs",
    ),
    "examples": (
        lambda: plotting.latent_pca({"a": images(3, 2), "b": images(4, 2)}),
        "same examples.*'a': 3, 'b': 4",
    ),
    "float labels": (lambda: plotting.latent_pca({"a": images(2, 2)}, [0.5, 1]), "integer labels"),
    "label count": (lambda: plotting.latent_pca({"a": images(2, 2)}, [1]), r"\[2\].*\(1,\)"),
    "names": (lambda: plotting.latent_pca({"a": images(2, 2)}, [0, 2], "ab"), "labels up to 2"),
    "names only": (
        lambda: plotting.latent_pca({"a": images(2, 2)}, class_names="ab"),
        "received: no labels",
    ),
    "one point": (lambda: plotting.latent_pca({"a": images(1, 3)}), "at least 2 examples"),
    "infinite": (lambda: plotting.log_likelihood_histogram([-np.inf, 1.0]), "1 not finite of 2"),
    "reference": (
        lambda: plotting.log_likelihood_histogram([1.0], reference=np.nan),
        "finite reference",
    ),
    "vector": (lambda: plotting.bound_decomposition([1.0], {"z": 1.0}), "log_px to be one"),
    "nan kl": (lambda: plotting.bound_decomposition(1.0, {"z": np.nan}), r"kl\['z'\]"),
    "graph of nothing": (lambda: plotting.graphs({}, {}), "at least one .* in p"),
    "a variable of q alone": (
        lambda: plotting.graphs({"x": []}, {"z": ["x"]}),
        r"q of the variables \['x'\], received: {'z'}",
    ),
    "a cycle": (
        lambda: plotting.graphs({"z": ["x"], "x": ["z"]}, {"z": ["x"]}),
        "p without a cycle",
    ),
    "kl of no site": (lambda: plotting.kl_per_layer({}), "at least one site in kl"),
    "kl of other sites": (
        lambda: plotting.kl_per_layer({"z1": 1.0}, {"z2": 1.0}),
        r"sites \['z1'\], received: \['z2'\]",
    ),
    "kl vector": (lambda: plotting.kl_per_layer({"z": [1.0]}), r"kl\['z'\] to be one finite"),
    "unit kl of other sites": (
        lambda: plotting.active_units({"z1": [1.0]}, {"z2": [1.0]}),
        r"sites \['z1'\], received: \['z2'\]",
    ),
    "variants": (
        lambda: plotting.depth_study({"L": {"a": [[1, 2.0]]}, "M": {"b": [[1, 2.0]]}}),
        r"bounds\['M'\] of the variants \['a'\], received: \['b'\]",
    ),
    "depths": (
        lambda: plotting.depth_study({"L": {"a": [[1, 2.0]]}, "M": {"a": [[1, np.nan]]}}),
        r"finite bounds\['M'\]\['a'\]",
    ),
    "bounds by labels": (
        lambda: plotting.bounds_by_labels({"a": [[1, np.inf]]}),
        r"finite bounds\['a'\]",
    ),
    "class names": (
        lambda: plotting.class_conditional(GREY[None], ["a"]),
        "one name per class, 2, received: 1",
    ),
    "originals": (
        lambda: plotting.analogies(GREY[:1], GREY[:, None]),
        "one original per row",
    ),
    "framed class": (
        lambda: plotting.analogies(GREY, GREY[:, None], [0, 1]),
        r"predictions in \[0, 1\), received: 0 to 1",
    ),
    "counts": (
        lambda: plotting.confusion_matrix([0, 1], [0]),
        r"integer predictions \[2\].*\(1,\)",
    ),
    "no labels": (lambda: plotting.confusion_matrix([], []), "labels"),
    "negative": (lambda: plotting.confusion_matrix([-1], [0]), "labels in .*received: -1"),
    "error": (
        lambda: plotting.error_curve({"error_percent": [1.0]}, 101.0),
        r"published to be in \[0, 100\]",
    ),
    "bounds of nothing": (lambda: plotting.bound_comparison({}), "runs"),
    "bounds without epochs": (
        lambda: plotting.bound_comparison({"a": [[-90.0]]}),
        r"runs\['a'\] \[N, 2\], not empty, received: shape \(1, 1\)",
    ),
    "errors of nothing": (lambda: plotting.error_comparison({}), "runs"),
    "no curve": (lambda: plotting.error_comparison({"m2": []}), "runs.'m2'"),
    "published of another": (
        lambda: plotting.error_comparison({"m2": [[[1, 9.0]]]}, {"adgm": 1.0}),
        r"published errors of \['m2'\], received: \['adgm'\]",
    ),
    "no error": (lambda: plotting.error_curve({"bound": [1.0]}), "received: .'bound'"),
    "mesh": (
        lambda: plotting.latent_mesh(images(2, 3, 8, 8, 1), images(2, 3, 8, 8, 1), images(1, 2)),
        "two square sheets",
    ),
    "mesh points": (
        lambda: plotting.latent_mesh(images(2, 2, 8, 8, 1), images(2, 2, 8, 8, 1), images(1, 3)),
        r"points \[N, 2\], not empty, received: shape \(1, 3\)",
    ),
    "space": (lambda: plotting.half_moons(images(2, 3), images(2, 2)), r"points \[N, 2\]"),
    "grid": (
        lambda: plotting.half_moons(images(2, 2), images(2, 2), grid=(*grid()[1::-1], grid()[2])),
        r"probabilities \[31, 11, Y\]",
    ),
    "potential": (
        lambda: plotting.density_2d(lambda z: z, images(2, 2)),
        r"potential to return \[80, 80\]",
    ),
    "solid": (lambda: plotting.density_2d(ring_potential, images(2, 3)), r"samples \[N, 2\]"),
    "threshold": (lambda: plotting.active_units({"z": [1.0]}, threshold=0.0), "threshold > 0"),
    "suffix": (lambda: plotting.save(Figure(), "figure.jpg"), r'"\.png".*figure\.jpg'),
}


@pytest.mark.parametrize("name", REFUSED)
def test_says_what_was_expected_and_received(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert str(error.value).startswith("expected ") and "received: " in str(error.value)
