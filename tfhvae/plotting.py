"""Figures of images, training and latents: NumPy arrays in, `matplotlib.figure.Figure` out.

Every function is pure and uses no pyplot state, so figures may be drawn in any thread and without a
display. Images are `[N, H, W, C]` in [0, 1] with C = 1 (grey) or 3 (RGB); densities and KL
divergences are in nats. A figure becomes a TensorBoard image by `to_rgb_array`, and a file by
`save`; the same data give the same bytes.
"""

import math
import pathlib
import textwrap
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, LogNorm, PowerNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from tfhvae import files

DPI = 120

# Petroff 2021, "Accessible color sequences for data visualization".
COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
MARKERS = ("o", "^", "s", "D", "v")
BLUE, AMBER, RED, PURPLE, SLATE = COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[4], COLOURS[8]

KL_FLOOR = 1e-4  # nats; heat maps of log KL end here
ACTIVE_KL = 0.01  # nats; a unit with more is active (Sønderby et al. 2016a, Table 2)
MAX_HEAT_MAP_COLUMNS = 400
VARIANCE_FLOOR = 1e-6  # float32 moments resolve no smaller variance
MAX_LABELLED_PSEUDO_INPUTS = 100
MAX_COUNTED_CLASSES = 25  # a larger confusion matrix has colours only
_LARGEST_SIDE = 30  # inches, of a confusion matrix of very many classes
MAX_COLOURED_CLASSES = 20  # with more, only the most frequent ones are told apart

_OTHERS, _OTHERS_COLOUR = -1, "0.85"  # classes without a look of their own

_TITLE_SIZE, _TEXT_SIZE, _SMALL_SIZE = 11, 9, 7.5
_SHEET_SIDE = 840  # pixels, what a sheet of images aims at
_SMALLEST_TILE, _SMALLEST_LABELLED_TILE, _LARGEST_TILE = 40, 60, 160  # pixels
_NARROWEST_SHEET = 420  # pixels, so that a title fits above one image
_MARGIN, _LABEL_HEIGHT = 14, 18  # pixels
_NODE_RADIUS = 12  # points, of a variable in a graph
_ARROW = {"arrowstyle": "-|>", "mutation_scale": 9, "color": "0.3"}

# What is drawn together in one panel of training curves: prefix of the columns -> (name, colour,
# line style).
_PARTS = {
    "": ("training", BLUE, "-"),
    "val_": ("validation", RED, "--"),
    "test_": ("test", PURPLE, "-."),
}


def image_grid(images, columns=None, title=None, labels=None):
    """A sheet of images, row by row.

    Args:
      images: `[N, H, W, C]` in [0, 1].
      columns: images per row; by default the sheet is near-square.
      title: line above the sheet.
      labels: N names or numbers, one below each image.

    Returns:
      A `Figure`; every image pixel is a whole number of its pixels.
    """
    images = _checked_images(images, "images", "[N, H, W, C]")
    count = len(images)
    if columns is None:
        columns = math.ceil(math.sqrt(count))
    if columns < 1:
        raise ValueError(f"expected columns >= 1, received: columns={columns}")
    columns = min(columns, count)
    if labels is not None and len(labels) != count:
        raise ValueError(f"expected one label per image, {count}, received: {len(labels)} labels")
    rows = math.ceil(count / columns)
    space = 0 if labels is None else _LABEL_HEIGHT
    sheet = _draw_sheet(
        _tiles(images, rows, columns),
        title,
        spaces=[space] * (rows - 1),
        bottom=space,
        smallest_tile=_SMALLEST_TILE if labels is None else _SMALLEST_LABELLED_TILE,
    )
    if labels is not None:
        height, width = images.shape[1:3]
        for index, label in enumerate(labels):
            row, column = divmod(index, columns)
            sheet.axes.annotate(
                _shortened(str(label), sheet.scale * width, _SMALL_SIZE),
                (sheet.lefts[column] + width / 2 - 0.5, sheet.tops[row] + height - 0.5),
                xytext=(0, -1.5),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=_SMALL_SIZE,
            )
    return sheet.figure


def reconstructions(originals, reconstructed, title="Reconstructions"):
    """Originals above their reconstructions, in rows of at most ten pairs.

    Args:
      originals, reconstructed: `[N, H, W, C]` in [0, 1].
    """
    originals = _checked_images(originals, "originals", "[N, H, W, C]")
    reconstructed = _checked_images(reconstructed, "reconstructed", "[N, H, W, C]")
    if originals.shape != reconstructed.shape:
        raise ValueError(
            f"expected originals and reconstructed of one shape, "
            f"received: {originals.shape} and {reconstructed.shape}"
        )
    pair_rows = math.ceil(len(originals) / 10)
    columns = math.ceil(len(originals) / pair_rows)
    pairs = (_tiles(originals, pair_rows, columns), _tiles(reconstructed, pair_rows, columns))
    tiles = np.stack(pairs, 1).reshape(2 * pair_rows, columns, *originals.shape[1:])
    sheet = _draw_sheet(
        tiles, title, spaces=([0, 24] * pair_rows)[:-1], left=132, smallest_tile=_SMALLEST_TILE
    )
    _label_rows(sheet, ["original", "reconstruction"] * pair_rows, originals.shape[1])
    return sheet.figure


def labelled_rows(images, labels, title=None, num_headers=0):
    """Rows of images with a name at the left of each.

    Args:
      images: `[R, C, H, W, Ch]` in [0, 1].
      labels: R names.
      num_headers: rows at the top that are set apart from the others.
    """
    images = _checked_images(images, "images", "[R, C, H, W, Ch]")
    rows = len(images)
    if len(labels) != rows:
        raise ValueError(f"expected one label per row, {rows}, received: {len(labels)} labels")
    longest = max(len(str(label)) for label in labels)
    sheet = _draw_sheet(
        images,
        title,
        spaces=[28 if row == num_headers else 0 for row in range(1, rows)],
        left=_MARGIN + math.ceil(8.5 * longest),
        smallest_tile=_SMALLEST_LABELLED_TILE,
    )
    _label_rows(sheet, labels, images.shape[2])
    return sheet.figure


def interpolations(images, title="Interpolations"):
    """Rows of interpolations, their two ends framed.

    Args:
      images: `[R, C, H, W, Ch]` in [0, 1]; a row runs from its start to its end, so C >= 2.
    """
    images = _checked_images(images, "images", "[R, C, H, W, Ch]")
    rows, columns, height, width, _ = images.shape
    if columns < 2:
        raise ValueError(f"expected at least 2 images per row, received: shape {images.shape}")
    frame = 4  # pixels, the gap that the frames lie in
    sheet = _draw_sheet(
        images,
        title,
        spaces=[2 * frame] * (rows - 1),
        column_space=2 * frame,
        top=_LABEL_HEIGHT,
        bottom=frame,
        smallest_tile=_SMALLEST_TILE,
    )
    for row in range(rows):
        for column in (0, columns - 1):
            _frame(sheet, row, column, height, width, frame)
    _label_columns(sheet, {0: "start", columns - 1: "end"}, width, color=COLOURS[6])
    return sheet.figure


def class_conditional(images, class_names=None, title="One draw per row, one class per column"):
    """Generated images, a column per class; what is not the class is the same along a row (Maaløe's
    thesis, Fig. 4.2).

    Args:
      images: `[R, Y, H, W, C]` in [0, 1].
      class_names: Y names; by default the classes are numbered from 0.
    """
    images = _checked_images(images, "images", "[R, Y, H, W, C]")
    rows, columns, _, width, _ = images.shape
    names = _checked_names(class_names, columns)
    sheet = _draw_sheet(
        images,
        title,
        spaces=[0] * (rows - 1),
        top=_LABEL_HEIGHT,
        smallest_tile=_SMALLEST_LABELLED_TILE,
    )
    _label_columns(sheet, dict(enumerate(names)), width)
    return sheet.figure


def analogies(originals, images, predictions=None, class_names=None, title="Analogies"):
    """Images, and beside each of them what it would be in every class (Maaløe et al. 2016, Fig. 3a).

    Args:
      originals: `[R, H, W, C]` in [0, 1], the left column.
      images: `[R, Y, H, W, C]` in [0, 1].
      predictions: `[R]`, the classes of the originals as the model sees them; these are framed.
      class_names: Y names; by default the classes are numbered from 0.
    """
    originals = _checked_images(originals, "originals", "[R, H, W, C]")
    images = _checked_images(images, "images", "[R, Y, H, W, C]")
    rows, columns, height, width, _ = images.shape
    if originals.shape != (rows, *images.shape[2:]):
        raise ValueError(
            f"expected one original per row of images, "
            f"received: {originals.shape} and {images.shape}"
        )
    names = _checked_names(class_names, columns)
    frame = 4  # pixels, the gap that the frames lie in
    sheet = _draw_sheet(
        np.concatenate([originals[:, np.newaxis], images], 1),
        title,
        spaces=[2 * frame] * (rows - 1),
        column_space=[28, *[2 * frame] * (columns - 1)],
        top=_LABEL_HEIGHT,
        bottom=frame,
        smallest_tile=_SMALLEST_LABELLED_TILE,
    )
    _label_columns(sheet, dict(enumerate(["image", *names])), width)
    if predictions is not None:
        predictions = _checked_classes(predictions, "predictions", rows, columns)
        for row, prediction in enumerate(predictions):
            _frame(sheet, row, 1 + prediction, height, width, frame)
    return sheet.figure


def pseudo_inputs(images, weights=None, title="Pseudo-inputs"):
    """A sheet of the pseudo-inputs of a mixture prior, heaviest component first.

    Args:
      images: `[N, H, W, C]` in [0, 1].
      weights: `[N]`, mixture weights; without them the images keep their order. Each weight stands
        below its image, up to `MAX_LABELLED_PSEUDO_INPUTS` images.
    """
    if weights is None:
        return image_grid(images, title=title)
    weights = _checked_finite(weights, "weights", "[N]")
    if len(weights) != len(images):
        raise ValueError(
            f"expected one weight per image, {len(images)}, received: {len(weights)} weights"
        )
    order = np.argsort(-weights, kind="stable")
    labels = None
    if len(weights) <= MAX_LABELLED_PSEUDO_INPUTS:
        labels = [f"{weight:.2g}" for weight in weights[order]]
    return image_grid(
        np.asarray(images)[order], title=f"{title}, by decreasing weight", labels=labels
    )


def training_curves(history, title="Training"):
    """Bound, reconstruction, KL per site, beta, learning rate and gradient norm over epochs.

    The limits of the first three panels follow the later epochs; how many values lie outside is
    written above the panel. A column that is missing or nowhere finite is not drawn, and the line
    of a column with gaps joins its finite values.

    Args:
      history: `{column: [epochs]}`: "epoch" (else epochs count from 1), "bound", "log_px",
        "kl/<site>", each also with the prefix "val_" or "test_", "beta", "learning_rate",
        "gradient_norm". Other columns are ignored.
    """
    curves = _curves(history, _is_curve)
    sites = list(dict.fromkeys(name.split("kl/", 1)[1] for name in curves if "kl/" in name))
    site_colours = dict(zip(sites, _colours(len(sites)), strict=True))
    panels = {
        "Bound": [f"{prefix}bound" for prefix in _PARTS],
        "Reconstruction, log p(x|z)": [f"{prefix}log_px" for prefix in _PARTS],
        "KL per site": [f"{prefix}kl/{site}" for site in sites for prefix in _PARTS],
        "Beta": ["beta"],
        "Learning rate": ["learning_rate"],
        "Gradient norm": ["gradient_norm"],
    }
    panels = {
        heading: drawn
        for heading, names in panels.items()
        if (drawn := [name for name in names if name in curves])
    }
    figure, axes = _panels(len(panels), title)
    for ax, (heading, names) in zip(axes, panels.items(), strict=True):
        _set_heading(ax, heading, x="epoch")
        ax.xaxis.set_major_locator(_whole_numbers())
        is_nats = heading in ("Bound", "Reconstruction, log p(x|z)", "KL per site")
        for name in names:
            part, colour, style = _PARTS[_part_of(name)]
            label = part
            if heading == "KL per site":
                colour = site_colours[name.split("kl/", 1)[1]]
            if heading == "Bound":  # in training of more samples, maybe, and at another beta
                label += ", $L_1$" if _part_of(name) else ", as maximised"
            ax.plot(
                *curves[name],
                color=colour,
                linestyle=style,
                linewidth=1.5,
                marker="o" if len(curves[name][0]) == 1 else None,
                markersize=4,
                label=label,
            )
        if is_nats:
            ax.set_ylabel("nats per example", fontsize=_TEXT_SIZE)
            _limit_to_later_epochs(ax, [curves[name][1] for name in names])
        if heading == "KL per site":
            handles = [Line2D([], [], color=c, label=site) for site, c in site_colours.items()]
            drawn_parts = {_part_of(name) for name in names}
            if len(drawn_parts) > 1:
                handles += [
                    Line2D([], [], color=SLATE, linestyle=style, label=part)
                    for prefix, (part, _, style) in _PARTS.items()
                    if prefix in drawn_parts
                ]
            _legend_beside(ax, handles=handles, ncols=1 + (len(handles) - 1) // 16)
        elif is_nats:
            ax.legend(loc="best", fontsize=8, framealpha=0.8, edgecolor="none")
        elif heading == "Beta":
            ax.set_ylim(-0.05, 1.05 * max(1.0, curves["beta"][1].max()))
        else:
            _log_scale_where_it_helps(ax, curves[names[0]][1])
            if heading == "Learning rate" and ax.get_yscale() == "linear":
                # from 0, so that the last digits of a constant rate are not blown up to a curve
                ax.set_ylim(0.0, 1.1 * max(1e-12, np.nanmax(curves["learning_rate"][1])))
    return _laid_out(figure)


def error_curve(history, published=None, title="Classification error", evaluated=None):
    """Classification error in percent over epochs (Maaløe et al. 2016, Fig. 5). The limits follow
    the later epochs, as those of `training_curves`.

    Args:
      history: `{column: [epochs]}`: "epoch" (else epochs count from 1), "error_percent" of the
        labelled training images, "val_error_percent" and "test_error_percent". Other columns are
        ignored.
      published: an error to compare with, in percent.
      evaluated: `(epoch, error)` of the evaluation at the end, in percent: a diamond.
    """
    if published is not None and not (np.ndim(published) == 0 and 0 <= published <= 100):
        raise ValueError(f"expected published to be in [0, 100], received: {published}")
    curves = _curves(
        history,
        lambda name: name == "epoch" or name.removeprefix(_part_of(name)) == "error_percent",
    )
    figure, (ax,) = _panels(1, title, width=8.0, height=3.6)
    _set_heading(ax, None, x="epoch", y="error (%)")
    ax.xaxis.set_major_locator(_whole_numbers())
    for prefix, (part, colour, style) in _PARTS.items():
        if f"{prefix}error_percent" not in curves:
            continue
        epochs, errors = curves[f"{prefix}error_percent"]
        ax.plot(
            epochs,
            errors,
            color=colour,
            linestyle=style,
            linewidth=1.5,
            marker="o" if len(epochs) == 1 else None,
            markersize=4,
            label=f"{part or 'training'}{'' if prefix else ' (labelled)'}, "
            f"last {_decimal(errors[-1])} %",
        )
    _limit_to_later_epochs(ax, [errors for _, errors in curves.values()])
    high = max(ax.get_ylim()[1], 1.0)
    if evaluated is not None:
        evaluated = _checked_finite(evaluated, "evaluated", "[2]")
        label = f"evaluation {_decimal(evaluated[1])} %"
        ax.plot(*evaluated, "D", color=PURPLE, markersize=6, clip_on=False, label=label)
        high = max(high, 1.15 * evaluated[1])
    if published is not None:
        ax.axhline(
            published,
            color="0.3",
            linestyle=(0, (6, 3)),
            linewidth=1,
            label=f"published {_decimal(published)} %",
        )
        high = max(high, 1.15 * published)
    ax.set_ylim(-0.02 * high, high)
    _legend_beside(ax)
    return _laid_out(figure)


def error_comparison(runs, published=None, title="Classification error", evaluated=None):
    """Classification error over epochs of several models, a line per run (Maaløe et al. 2016,
    Fig. 5). Models have a colour each, and variants of one, "NAME, VARIANT", dashes.

    Args:
      runs: `{model: [[N, 2], ...]}`, of each run pairs of an epoch and an error in percent.
      published: `{model: error}` in percent, for some of them: dotted lines.
      evaluated: `{model: [R, 2]}`, for some of them, the same pairs of evaluations: diamonds.
    """
    _check_not_empty(runs, "runs")
    published, evaluated = published or {}, evaluated or {}
    for name, of_models in (("published", published), ("evaluated", evaluated)):
        if not set(of_models) <= set(runs):
            raise ValueError(f"expected {name} errors of {list(runs)}, received: {list(of_models)}")
    figure, (ax,) = _panels(1, title, width=8.0, height=3.8)
    _set_heading(ax, None, x="epoch", y="error (%)")
    ax.xaxis.set_major_locator(_whole_numbers())
    drawn, variants = list(published.values()), {}  # model -> its variants so far
    for model, curves in runs.items():
        _check_not_empty(curves, f"runs[{model!r}]")
        base = model.partition(",")[0]
        variants.setdefault(base, []).append(model)
        index = list(variants).index(base)
        colour = _class_colour(index)
        style = ("-", "--", "-.")[(len(variants[base]) - 1 + index // len(COLOURS)) % 3]
        for curve in curves:
            curve = _checked_finite(curve, f"runs[{model!r}]", "[N, 2]")
            ax.plot(*curve.T, style, color=colour, linewidth=1.3, alpha=1.0 if len(curves) == 1 else 0.7,
                    marker="o" if len(curve) == 1 else None, markersize=4)  # fmt: skip
            drawn.extend(curve[:, 1])
        ax.lines[-1].set_label(model)
        if model in evaluated:
            points = _checked_finite(evaluated[model], f"evaluated[{model!r}]", "[N, 2]")
            ax.plot(*points.T, "D", color=colour, markersize=5, clip_on=False, zorder=3)
            drawn.extend(points[:, 1])
        if model in published:
            options = {"color": colour, "linestyle": (0, (1, 2)), "linewidth": 1.2}
            label = f"{model}, published {_decimal(published[model])} %"
            ax.axhline(published[model], label=label, **options)
    _log_scale_where_it_helps(ax, np.array(drawn))
    if ax.get_yscale() == "log":
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    handles, _ = ax.get_legend_handles_labels()
    if evaluated:
        diamond = {"color": "0.3", "marker": "D", "markersize": 5, "linestyle": ""}
        handles.append(Line2D([], [], label="at the end: evaluation", **diamond))
    _legend_beside(ax, handles=handles)
    return _laid_out(figure)


def bound_comparison(runs, title="Bound over epochs"):
    """Bounds over epochs of several runs of one protocol, a colour each, the best on top of the
    legend. The limits follow the later epochs: warm-up is mostly off scale. Where one run is more
    than ten times as long as another, epochs are on a logarithmic scale.

    Args:
      runs: `{name: [N, 2]}`, pairs of an epoch and a bound in nats.
    """
    _check_not_empty(runs, "runs")
    runs = {name: _checked_finite(run, f"runs[{name!r}]", "[N, 2]") for name, run in runs.items()}
    # The legend grows with the runs and their names; the curves keep their place.
    width = 8.0 + 0.065 * max(0, max(map(len, runs)) - 40)
    height = max(3.8, 0.8 + 0.18 * len(runs))
    figure, (ax,) = _panels(1, title, width=width, height=height)
    _set_heading(ax, None, x="epoch", y="nats")
    ax.xaxis.set_major_locator(_whole_numbers())
    by_last = sorted(runs.items(), key=lambda item: -item[1][-1, 1])
    handles = []
    for index, (name, curve) in enumerate(by_last):
        label = f"{name}, last {_decimal(curve[-1, 1])}".replace("$", r"\$")
        handles += ax.plot(*curve.T, _dashes(index), color=_class_colour(index), linewidth=1.3,
                           label=label, marker="o" if len(curve) == 1 else None,
                           markersize=4)  # fmt: skip
    lengths = [curve[-1, 0] for curve in runs.values()]
    if max(lengths) > 10 * min(lengths) and all(curve[0, 0] >= 1 for curve in runs.values()):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_locator(NullLocator())
    _limit_to_later_epochs(ax, [curve[:, 1] for curve in runs.values()], skipped=0.3)
    _legend_beside(ax, handles=handles)  # also of names that begin with "_"
    return _laid_out(figure)


def unit_kl_over_time(kl, epochs=None, title="KL(q||p) per unit during training"):
    """Heat maps of log KL per unit over epochs (Sønderby et al. 2016a, Fig. 5), one per site, the
    first at the bottom.

    Units are sorted by their last KL, the most informative on top, and counted where it exceeds
    `ACTIVE_KL`; low KL is light. More than `MAX_HEAT_MAP_COLUMNS` epochs are averaged in groups.
    The KL of a site that has only one unit is drawn as a line.

    Args:
      kl: `{site: [epochs, units]}` in nats; values below `KL_FLOOR` take its colour, NaN is grey.
      epochs: `[epochs]`, increasing; by default they count from 1.
    """
    kl = {site: _checked_array(v, f"kl[{site!r}]", "[epochs, units]") for site, v in kl.items()}
    _check_not_empty(kl, "kl")
    for site, values in kl.items():
        if not np.isfinite(values).any():
            raise ValueError(f"expected finite values in kl[{site!r}], received: none")
    lengths = {site: len(values) for site, values in kl.items()}
    count = next(iter(lengths.values()))
    epochs = np.arange(1.0, count + 1.0) if epochs is None else epochs
    epochs = _checked_finite(epochs, "epochs", "[epochs]")
    if set(lengths.values()) != {len(epochs)}:
        raise ValueError(f"expected {len(epochs)} epochs per site, received: {lengths}")
    if (np.diff(epochs) <= 0).any():
        raise ValueError(f"expected increasing epochs, received: {epochs}")

    maps = {site: values for site, values in kl.items() if values.shape[1] > 1}
    # Heights grow with the root of the number of units: four units beside 64 still can be read.
    heights = [
        0.55 + 0.22 * math.sqrt(values.shape[1]) if site in maps else 1.4
        for site, values in kl.items()
    ]
    figure, axes = _stacked_panels(np.maximum(heights, 3.0 / len(kl)), title, width=8.2)
    if maps:
        finite = np.concatenate([values[np.isfinite(values)] for values in maps.values()])
        low = max(finite.min(), KL_FLOOR)
        norm = LogNorm(low, max(finite.max(), 1.001 * low))
    colour_map = matplotlib.colormaps["magma_r"].with_extremes(bad="0.8")
    for ax, (site, values) in zip(axes, kl.items(), strict=True):
        ax.xaxis.set_major_locator(_whole_numbers())
        if site not in maps:
            _set_heading(ax, site, y="KL (nats)")
            is_finite = np.isfinite(values[:, 0])
            marker = "o" if is_finite.sum() == 1 else None
            ax.plot(epochs[is_finite], values[is_finite, 0], color=BLUE, marker=marker)
            _limit_to_later_epochs(ax, [values[is_finite, 0]])
            continue
        last = values[np.isfinite(values).any(1)][-1]
        active = int((last > ACTIVE_KL).sum())
        _set_heading(
            ax,
            f"{site}: {active} of {len(last)} units above {ACTIVE_KL:g} nats",
            y=None if len(maps) == len(kl) else "unit, by last KL",
        )
        order = np.argsort(-np.nan_to_num(last, nan=-np.inf), kind="stable")
        means, edges = _in_groups(values[:, order], _edges(epochs), MAX_HEAT_MAP_COLUMNS)
        heat_map = ax.pcolorfast(
            edges,
            np.arange(values.shape[1] + 1) + 0.5,
            np.ma.masked_invalid(np.maximum(means.T, KL_FLOOR)),
            cmap=colour_map,
            norm=norm,
        )
        ax.grid(False)
        ax.invert_yaxis()
        ax.yaxis.set_major_locator(_whole_numbers(nbins=min(6, 1 + len(last) // 4)))
    axes[0].set_xlabel("epoch", fontsize=_TEXT_SIZE)
    if maps:
        if len(maps) == len(kl):
            figure.supylabel("unit, by decreasing last KL", fontsize=_TEXT_SIZE)
        bar = figure.colorbar(
            heat_map,
            ax=[ax for ax, site in zip(axes, kl, strict=True) if site in maps],
            extend="min" if finite.min() < KL_FLOOR else "neither",
            aspect=30,
        )
        bar.set_label("KL per unit (nats)", fontsize=_TEXT_SIZE)
        bar.ax.tick_params(which="both", labelsize=8)
    return _laid_out(figure)


def graphs(p, q, observed=("x",), partly_observed=("y",), loops=(), title="Graphical model"):
    """The generative and the inference model as directed graphs, as papers draw them: what depends
    on nothing at the top, both with the same places.

    Args:
      p, q: `{variable: [its parents]}`.
      observed: variables on grey.
      partly_observed: variables on a lighter grey, such as a class that few images have.
      loops: variables of p with an arrow to themselves, such as pixels that depend on one another.
    """
    _check_not_empty(p, "p")
    for name, model in (("p", p), ("q", q)):
        unknown = {*model, *(parent for parents in model.values() for parent in parents)} - {*p}
        if unknown:
            raise ValueError(f"expected {name} of the variables {list(p)}, received: {unknown}")
    rows = _rows_of_graph(p)
    height = max(2.2, 0.5 + 0.8 * len(rows))
    figure, axes = _panels(2, title, width=max(2.6, 0.6 + 0.9 * max(map(len, rows))), height=height)
    width = max(1.5, 0.5 * (max(map(len, rows)) + 0.6))
    places = {
        name: (index - (len(row) - 1) / 2, -float(depth))
        for depth, row in enumerate(rows)
        for index, name in enumerate(row)
    }
    for ax, heading, parents in zip(axes, ("generative model p", "inference model q"), (p, q)):
        _set_heading(ax, heading)
        ax.set_axis_off()
        ax.set_xlim(-width, width)
        ax.set_ylim(0.5 - len(rows), 0.5)
        ax.set_aspect("equal")
        edges = [(parent, name) for name in parents for parent in parents[name]]
        for edge, bend in zip(edges, _bends(edges, places), strict=True):
            ax.add_patch(
                FancyArrowPatch(
                    *(places[name] for name in edge),
                    connectionstyle=f"arc3,rad={bend}",
                    shrinkA=_NODE_RADIUS,
                    shrinkB=_NODE_RADIUS + 1,
                    **_ARROW,
                )
            )
        for name in p:
            grey = "0.75" if name in observed else "0.9" if name in partly_observed else "white"
            _draw_node(ax, name, places[name], grey)
    for x, y in (places[name] for name in loops):
        ends = (x + 0.16, y + 0.16), (x + 0.16, y - 0.16)
        axes[0].add_patch(FancyArrowPatch(*ends, connectionstyle="arc3,rad=-2.2", **_ARROW))
    return _laid_out(figure)


def kl_per_layer(kl, kl_standard=None, title="KL per layer"):
    """KL(q||p) of every layer, and beside it KL(q||N(0,I)) (Sønderby et al. 2016a, Fig. 6a; 2016b,
    Fig. 5). Each panel has its own axis.

    Args:
      kl: `{site: mean KL(q||p)}` in nats, summed over units; the first site is at the bottom.
      kl_standard: `{site: mean KL(q||N(0,I))}` likewise, for the same sites.
    """
    _check_not_empty(kl, "kl")
    panels = {"KL(q||p)": ("kl", kl, AMBER)}
    if kl_standard is not None:
        if kl_standard.keys() != kl.keys():
            raise ValueError(
                f"expected kl_standard of the sites {list(kl)}, received: {list(kl_standard)}"
            )
        panels["KL(q||N(0, I))"] = ("kl_standard", kl_standard, PURPLE)
    for name, values, _ in panels.values():
        for site, value in values.items():
            if np.ndim(value) or not np.isfinite(value):
                raise ValueError(
                    f"expected {name}[{site!r}] to be one finite number, received: {value}"
                )
    figure, axes = _panels(len(panels), title, width=4.6, height=1.0 + 0.36 * len(kl))
    for ax, (heading, (_, values, colour)) in zip(axes, panels.items(), strict=True):
        numbers = np.array([float(values[site]) for site in kl])
        _set_heading(ax, f"{heading}, {_decimal(numbers.sum())} in all", x="nats per example")
        _horizontal_bars(ax, numbers, [_decimal(value) for value in numbers], color=colour)
        ax.set_yticks(range(len(kl)), list(kl), fontsize=_TEXT_SIZE)
    return _laid_out(figure)


def latent_pca(latents, labels=None, class_names=None, title="Latent space", headings=None):
    """Latents of every site in the plane of their first two principal components, by class.

    Two-dimensional sites are drawn as they are, one-dimensional ones as stacked histograms.

    Args:
      latents: `{site: [N, D]}`, means or draws.
      labels: `[N]`, integer classes. Of more than 20 that occur, the ten most frequent have a
        colour, and the others are grey.
      class_names: names, indexed by class.
      headings: `{site: text}`, of panels that need more than the site's name.
    """
    latents = {
        site: _checked_finite(v, f"latents[{site!r}]", "[N, D]") for site, v in latents.items()
    }
    _check_not_empty(latents, "latents")
    counts = {site: len(values) for site, values in latents.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"expected the same examples at every site, received: {counts}")
    count = next(iter(counts.values()))
    codes, names, others = _most_frequent(*_coded(labels, class_names, count))
    looks = {code: _class_colour(code) for code in range(max(1, len(names)))}
    if others:
        looks = {_OTHERS: _OTHERS_COLOUR} | looks
    figure, axes = _panels(len(latents), title)
    for ax, (site, values) in zip(axes, latents.items(), strict=True):
        heading = (headings or {}).get(site, site)
        if values.shape[1] == 1:
            _set_heading(ax, heading, x=site, y="examples")
            ax.hist(
                [values[codes == code, 0] for code in looks],
                bins=np.histogram_bin_edges(values[:, 0], min(60, max(10, int(count**0.5)))),
                stacked=True,
                histtype="stepfilled",
                color=list(looks.values()),
            )
            ax.yaxis.set_major_locator(_whole_numbers())
            continue
        # Of a site without some of its units, indices are those of what is left.
        points, axis_names = _plane(values, site if heading == site else f"active {site}")
        _set_heading(ax, heading, *axis_names)
        ax.set_aspect("equal", adjustable="datalim")
        _scatter(ax, points, codes)
    _class_legend(figure, names, others)
    return _laid_out(figure)


def column_histograms(tables, names, title="Columns"):
    """Histograms of the columns of tables over one another, one panel per column. What lies far
    outside the first table is left out of the pictures, and its share said.

    Args:
      tables: `{name: [N, D]}`.
      names: D names.
    """
    tables = {
        name: _checked_finite(values, f"tables[{name!r}]", "[N, D]")
        for name, values in tables.items()
    }
    _check_not_empty(tables, "tables")
    widths = {name: values.shape[1] for name, values in tables.items()}
    if set(widths.values()) != {len(names)}:
        raise ValueError(f"expected {len(names)} columns in every table, received: {widths}")
    figure, axes = _panels(len(names), title, height=2.6)
    first = next(iter(tables.values()))
    for index, (ax, heading) in enumerate(zip(axes, names, strict=True)):
        low, high = np.quantile(first[:, index], [0.001, 0.999])
        margin = 0.15 * (high - low) + 1e-6
        edges = np.linspace(low - margin, high + margin, 61)
        num_outside = 0
        for (name, values), colour in zip(tables.items(), _colours(len(tables)), strict=True):
            column = values[:, index]
            num_outside += int(((column < edges[0]) | (column > edges[-1])).sum())
            weights = np.full(len(column), 1 / len(column))
            ax.hist(column, edges, weights=weights, color=colour, alpha=0.55, label=name)
        _set_heading(ax, heading, y="share" if index % 3 == 0 else None)
        _note_outside(ax, num_outside, "row", "rows")
    axes[0].legend(fontsize=_SMALL_SIZE, frameon=False)
    return _laid_out(figure)


def latent_mesh(
    random_images,
    conditional_images,
    points,
    labels=None,
    class_names=None,
    limits=(-3.0, 3.0),
    site="z2",
    title="Mesh over the latent plane",
):
    """What a plane of latents generates, beside where images lie in it: left with classes drawn
    from p(y|.), right with the most probable class, in the middle posterior means, the plane of the
    mesh framed (Maaløe et al. 2017, Fig. 3).

    Args:
      random_images, conditional_images: `[G, G, H, W, C]` in [0, 1], G >= 2; the first index counts
        along the second latent, upwards, the second one along the first latent.
      points: `[N, 2]`.
      labels: `[N]`, integer classes of the points.
      class_names: names, indexed by class.
      limits: centres of the first and of the last image, along both latents.
    """
    sheets = {
        "y drawn from p(y|.)": _checked_images(random_images, "random_images", "[G, G, H, W, C]"),
        "most probable y": _checked_images(
            conditional_images, "conditional_images", "[G, G, H, W, C]"
        ),
    }
    shapes = [images.shape for images in sheets.values()]
    count = shapes[0][0]
    if shapes[0] != shapes[1] or shapes[0][1] != count or count < 2:
        raise ValueError(
            f"expected two square sheets of at least 2 by 2 images, "
            f"received: {shapes[0]} and {shapes[1]}"
        )
    points = _checked_finite(points, "points", "[N, 2]")
    codes, names = _coded(labels, class_names, len(points))

    half = (limits[1] - limits[0]) / (count - 1) / 2
    edges = (limits[0] - half, limits[1] + half)
    figure, (left, middle, right) = _panels(3, title, width=5.2, height=5.2)
    for ax, (heading, images) in zip((left, right), sheets.items(), strict=True):
        gap = max(1, round(max(images.shape[2:4]) / 20))
        images = np.pad(images, [(0, 0), (0, 0), (0, gap), (0, gap), (0, 0)], constant_values=1.0)
        _, _, height, width, channels = images.shape
        sheet = images[::-1].transpose(0, 2, 1, 3, 4).reshape(count * height, count * width, -1)
        ax.imshow(
            sheet[..., 0] if channels == 1 else sheet,
            extent=(*edges, *edges),
            cmap="gray",
            vmin=0,
            vmax=1,
            aspect=height / width,
        )
        ax.grid(False)
        _set_heading(ax, heading, f"{site}[0]", f"{site}[1]")
    _scatter(middle, points, codes)
    middle.add_patch(
        Rectangle((edges[0],) * 2, edges[1] - edges[0], edges[1] - edges[0], fill=False)
    )
    middle.set_aspect("equal", adjustable="datalim")
    _set_heading(middle, "posterior means", f"{site}[0]", f"{site}[1]")
    _class_legend(figure, names)
    return _laid_out(figure)


def image_sheets(sheets, title=None, limits=None, axes_labels=None):
    """Sheets of images side by side, each under its heading.

    Args:
      sheets: `{heading: [R, C, H, W, Ch]}` in [0, 1], rows from the top; all of one shape.
      title: line above them.
      limits: `(low, high)` where rows and columns are equal steps along two axes: the centres of
        the first and of the last image. Rows then run upwards, and the axes have ticks.
      axes_labels: with `limits`, `{heading: (name of the columns' axis, of the rows' axis)}`.
    """
    checked = {
        heading: _checked_images(images, heading, "[R, C, H, W, Ch]")
        for heading, images in sheets.items()
    }
    shapes = {images.shape for images in checked.values()}
    if len(shapes) != 1:
        raise ValueError(f"expected one or more sheets of one shape, received: {sorted(shapes)}")
    rows, columns, height, width, channels = shapes.pop()
    if limits is not None and min(rows, columns) < 2:
        raise ValueError(f"expected at least 2 by 2 images, received: {rows} by {columns}")
    gap = max(1, round(max(height, width) / 20))
    pixels = max(rows * (height + gap), columns * (width + gap))
    # As wide as the images are, if that is reasonable.
    side = min(max(pixels * max(1, round(500 / pixels)), 400), 900) / DPI
    ratio = rows * (height + gap) / (columns * (width + gap))
    figure, all_axes = _panels(
        len(checked), title, width=side + 0.8, height=side * ratio + (0.9 if limits else 0.5)
    )
    for ax, (heading, images) in zip(all_axes, checked.items(), strict=True):
        images = np.pad(images, [(0, 0), (0, 0), (0, gap), (0, gap), (0, 0)], constant_values=1.0)
        if limits is not None:
            images = images[::-1]
        sheet = images.transpose(0, 2, 1, 3, 4).reshape(rows * (height + gap), -1, channels)
        extent = None
        if limits is not None:
            half_x, half_y = ((limits[1] - limits[0]) / (n - 1) / 2 for n in (columns, rows))
            extent = (
                limits[0] - half_x,
                limits[1] + half_x,
                limits[0] - half_y,
                limits[1] + half_y,
            )
        ax.imshow(
            sheet[..., 0] if channels == 1 else sheet,
            extent=extent,
            cmap="gray",
            vmin=0,
            vmax=1,
            aspect="auto",
        )
        ax.set_box_aspect(ratio)
        ax.grid(False)
        _set_heading(ax, heading, *((axes_labels or {}).get(heading, ())))
        if limits is None:
            ax.set_axis_off()
    return _laid_out(figure)


def half_moons(
    points,
    samples,
    predictions=None,
    sample_classes=None,
    grid=None,
    labelled=None,
    error_percent=None,
    class_names=None,
    title="Half-moons",
):
    """Points of the plane by predicted class with the decision boundary and the labelled points in
    black (Maaløe et al. 2016, Fig. 2c), beside generated points.

    Args:
      points, samples: `[N, 2]`, data and generated.
      predictions, sample_classes: `[N]`, their classes.
      grid: `(x [W], y [H], probabilities [H, W, Y])`, from which the boundary is drawn; it also
        sets the limits of both panels.
      labelled: `[L, 2]`.
      error_percent: of the predictions.
      class_names: names, indexed by class.
    """
    points = _checked_finite(points, "points", "[N, 2]")
    samples = _checked_finite(samples, "samples", "[N, 2]")
    if labelled is not None:
        labelled = _checked_finite(labelled, "labelled", "[L, 2]")
    num_classes = None if class_names is None else len(class_names)
    codes = [
        np.zeros(len(values), int)
        if classes is None
        else _checked_classes(classes, name, len(values), num_classes)
        for name, classes, values in (
            ("predictions", predictions, points),
            ("sample_classes", sample_classes, samples),
        )
    ]
    used = 1 + max(values.max() for values in codes)
    names = _checked_names(class_names, used) if class_names is None else list(class_names)
    if predictions is None and sample_classes is None:
        names = []

    figure, (left, right) = _panels(2, title, width=4.6, height=3.4)
    heading = "test points" if predictions is None else "test points by predicted class"
    if error_percent is not None:
        heading += f", error {_decimal(error_percent)} %"
    low, high = points.min(0), points.max(0)
    low, high = low - 0.1 * (high - low) - 1e-3, high + 0.1 * (high - low) + 1e-3
    if grid is not None:
        x, y, probabilities = (
            _checked_finite(values, name, axes)
            for values, name, axes in zip(
                grid,
                ("grid[0]", "grid[1]", "grid[2]"),
                ("[W]", "[H]", "[H, W, Y]"),
                strict=True,
            )
        )
        if probabilities.shape[:2] != (len(y), len(x)) or probabilities.shape[2] < 2:
            raise ValueError(
                f"expected probabilities [{len(y)}, {len(x)}, Y], Y >= 2, "
                f"received: shape {probabilities.shape}"
            )
        low, high = np.array([x[0], y[0]]), np.array([x[-1], y[-1]])
        _draw_boundaries(left, x, y, probabilities)
    _set_heading(left, heading, "$x_1$", "$x_2$")
    _set_heading(right, "generated", "$x_1$", "$x_2$")
    _scatter(left, points, codes[0])
    _scatter(right, samples, codes[1])
    if labelled is not None:
        left.scatter(*labelled.T, c="black", s=36, linewidths=0, zorder=3)
    for ax in (left, right):
        ax.set_aspect("equal", adjustable="box")
        ax.set_xlim(low[0], high[0])
        ax.set_ylim(low[1], high[1])
    _note_outside(right, ((samples < low) | (samples > high)).any(1).sum(), "point", "points")
    extra = []
    if labelled is not None:
        extra = [Line2D([], [], linestyle="", marker="o", color="black", label="labelled")]
    _class_legend(figure, names, extra)
    return _laid_out(figure)


def density_2d(
    potential, samples, limits=(-4.0, 4.0), cells=80, title="A density and samples of its model"
):
    """The density exp(-U(z)) / Z in a square, beside a histogram of samples (Maaløe et al. 2016,
    Fig. 2a and b), in one colour scale.

    Args:
      potential: U, a function from `[..., 2]` to `[...]`, in nats.
      samples: `[N, 2]`.
      limits: of the square, along both axes; Z is the integral over it.
      cells: of the grid and of the histogram, along each axis.
    """
    samples = _checked_finite(samples, "samples", "[N, 2]")
    if samples.shape[1] != 2:
        raise ValueError(f"expected samples [N, 2], received: shape {samples.shape}")
    edges = np.linspace(*limits, cells + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    plane = np.stack(np.meshgrid(centres, centres), -1)
    u = np.asarray(potential(plane), np.float64)
    if u.shape != (cells, cells) or np.isnan(u).any():
        raise ValueError(
            f"expected potential to return [{cells}, {cells}] without NaN, "
            f"received: shape {u.shape}"
        )
    density = np.exp(u.min() - u)
    area = (edges[1] - edges[0]) ** 2
    density /= density.sum() * area
    counts, _, _ = np.histogram2d(samples[:, 1], samples[:, 0], bins=(edges, edges))
    histogram = counts / (len(samples) * area)

    figure, axes = _panels(2, title, width=4.3, height=3.9)
    headings = ("exp(\N{MINUS SIGN}U(z)) / Z", f"{len(samples)} samples")
    for ax, heading, values in zip(axes, headings, (density, histogram), strict=True):
        _set_heading(ax, heading, "$z_1$", "$z_2$")
        drawn = ax.imshow(
            values,
            extent=(*limits, *limits),
            origin="lower",
            cmap="magma_r",
            vmin=0.0,
            vmax=1.25 * density.max(),
        )
        ax.grid(False)
    _note_outside(axes[1], len(samples) - int(counts.sum()), "sample", "samples")
    bar = figure.colorbar(
        drawn, ax=axes, extend="max" if histogram.max() > drawn.get_clim()[1] else "neither"
    )
    bar.set_label("density", fontsize=_TEXT_SIZE)
    bar.ax.tick_params(labelsize=8)
    return _laid_out(figure)


def confusion_matrix(labels, predictions, class_names=None, title="Confusion matrix"):
    """How many examples of each class (rows) were taken for which (columns), coloured by their
    share of the class; the error is in the title. Cells without number are empty.

    Args:
      labels, predictions: `[N]`, classes counted from 0.
      class_names: names, indexed by class; by default there are as many classes as occur.
    """
    count = np.size(labels)
    num_classes = None if class_names is None else len(class_names)
    labels = _checked_classes(labels, "labels", count, num_classes)
    predictions = _checked_classes(predictions, "predictions", count, num_classes)
    num_classes = num_classes or 1 + int(max(labels.max(), predictions.max()))
    names = [_shortened(name, 300, 8) for name in _checked_names(class_names, num_classes)]
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, (labels, predictions), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    wrong = int((labels != predictions).sum())
    is_counted = num_classes <= MAX_COUNTED_CLASSES

    side = min(max(num_classes * (0.45 if is_counted else 0.16), 2.0), _LARGEST_SIDE)
    widest = 0.07 * max(len(name) for name in names)
    figure, (ax,) = _panels(
        1,
        f"{title}: error {_decimal(100 * wrong / count)} % ({wrong} of {count})",
        width=max(side + widest + 0.9, 4.4),
        height=side + widest + 0.6,
    )
    # The root of the share: one error in a hundred can still be seen.
    ax.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0.0, 1.0))
    if is_counted:
        for row, column in zip(*np.nonzero(counts), strict=True):
            ax.text(
                column,
                row,
                str(counts[row, column]),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if shares[row, column] > 0.4 else "black",
            )
    ax.grid(False)
    size = 8 if is_counted else 5
    ax.set_xticks(
        range(num_classes),
        names,
        fontsize=size,
        rotation=0 if widest < 0.9 * side / num_classes else 90,
    )
    ax.set_yticks(range(num_classes), names, fontsize=size)
    ax.set_xlabel("predicted class", fontsize=_TEXT_SIZE)
    ax.set_ylabel("class", fontsize=_TEXT_SIZE)
    return _laid_out(figure)


def log_likelihood_histogram(values, title="Log-likelihood per example", reference=None):
    """Histogram over examples, with their mean and its standard error.

    Args:
      values: `[N]`, log p(x) or a bound on it, in nats.
      reference: a published mean to compare with, in nats.
    """
    values = _checked_finite(values, "values", "[N]")
    if reference is not None and not math.isfinite(reference):
        raise ValueError(f"expected a finite reference, received: {reference}")
    count = len(values)
    figure, (ax,) = _panels(1, title, width=6.2, height=3.8)
    _set_heading(ax, None, x="log p(x) (nats)", y="examples")
    ax.hist(values, bins=min(80, max(10, int(count**0.5))), color=BLUE, alpha=0.6)
    mean = f"mean {_decimal(values.mean())}"
    if count > 1:
        mean += f" ± {values.std(ddof=1) / math.sqrt(count):.2f} (standard error)"
    ax.axvline(values.mean(), color=SLATE, label=f"{mean}, N = {count}")
    if reference is not None:
        ax.axvline(reference, color=RED, linestyle="--", label=f"published {_decimal(reference)}")
    ax.yaxis.set_major_locator(_whole_numbers())
    # Above the panel, where no bar can be.
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=_TEXT_SIZE)
    return _laid_out(figure)


def bound_decomposition(log_px, kl, log_likelihood=None, title="What the bound is made of"):
    """Steps from the reconstruction term to the bound: ELBO = log p(x|z) - sum of KL.

    Args:
      log_px: mean reconstruction term, in nats.
      kl: `{site: mean KL}`, in nats.
      log_likelihood: mean importance-weighted bound L_K, drawn beside the ELBO.
    """
    _check_not_empty(kl, "kl")
    numbers = {"log_px": log_px, **{f"kl[{site!r}]": value for site, value in kl.items()}}
    if log_likelihood is not None:
        numbers["log_likelihood"] = log_likelihood
    for name, value in numbers.items():
        if np.ndim(value) or not np.isfinite(value):
            raise ValueError(f"expected {name} to be one finite number, received: {value}")

    bars = [("log p(x|z)", 0.0, float(log_px), BLUE)]  # (name, from, change, colour)
    level = float(log_px)
    for site, value in kl.items():
        bars.append((f"\N{MINUS SIGN} KL {site}", level, -float(value), AMBER))
        level -= float(value)
    bars.append(("ELBO", 0.0, level, SLATE))
    if log_likelihood is not None:
        bars.append(("$L_K$", 0.0, float(log_likelihood), PURPLE))

    figure, (ax,) = _panels(1, title, width=6.5, height=1.2 + 0.38 * len(bars))
    starts = np.array([start for _, start, _, _ in bars])
    ends = np.array([start + change for _, start, change, _ in bars])
    ends_below_zero = max(ends.min(), ends.max(), key=abs) < 0
    span = ends.max() - ends.min()
    # Far from zero the KL bars would be slivers: there the axis shows the steps only.
    is_cut = 0 < span < 0.15 * np.abs(ends).min()
    if is_cut:
        low, high = ends.min() - 0.3 * span, ends.max() + 0.3 * span
    else:
        low, high = min(ends.min(), 0.0), max(ends.max(), 0.0)
        room = 0.16 * ((high - low) or 1.0)
        low, high = low - room * (low < 0), high + room * (high > 0 or high == low)
    ax.barh(range(len(bars)), ends - starts, left=starts, color=[bar[3] for bar in bars])
    for row, (_, start, change, _) in enumerate(bars):
        edge = min(start, start + change) if ends_below_zero else max(start, start + change)
        ax.annotate(
            _decimal(change),
            (edge, row),
            xytext=(-4 if ends_below_zero else 4, 0),
            textcoords="offset points",
            ha="right" if ends_below_zero else "left",
            va="center",
            fontsize=8,
        )
    for row, end in enumerate(ends[: len(kl) + 1]):
        ax.plot([end, end], [row, row + 1], color="0.4", linewidth=0.8, linestyle=":")
    ax.set_xlim(low, high)
    _set_heading(
        ax, None, x="nats per example" + (" (the axis does not begin at 0)" if is_cut else "")
    )
    ax.set_yticks(range(len(bars)), [bar[0] for bar in bars], fontsize=_TEXT_SIZE)
    ax.grid(False, axis="y")
    ax.invert_yaxis()
    return _laid_out(figure)


def active_units(
    variances, unit_kl=None, threshold=0.01, kl_threshold=ACTIVE_KL, title="Active units"
):
    """Var_x E_q[u|x] of every unit, sorted, with the threshold for counting a unit as active; with
    `unit_kl` also how many units of each layer are active by either definition.

    Args:
      variances: `{site: [D]}`; values below `VARIANCE_FLOOR` are drawn there.
      unit_kl: `{site: [D]}`, mean KL(q||p) per unit in nats, for the same sites. A site whose KL
        is not known per unit, `[1]` where D > 1, is not counted by it.
      threshold: a unit is active where its variance exceeds this (Burda et al. 2016, section 5).
      kl_threshold: a unit is active where its KL exceeds this, in nats (Sønderby et al. 2016a,
        Table 2).
    """
    variances = {
        site: _checked_finite(v, f"variances[{site!r}]", "[D]") for site, v in variances.items()
    }
    _check_not_empty(variances, "variances")
    if not threshold > 0:
        raise ValueError(f"expected threshold > 0, received: {threshold}")
    if unit_kl is not None:
        if unit_kl.keys() != variances.keys():
            raise ValueError(
                f"expected unit_kl of the sites {list(variances)}, received: {list(unit_kl)}"
            )
        unit_kl = {
            site: _checked_finite(v, f"unit_kl[{site!r}]", "[D]") for site, v in unit_kl.items()
        }
    size = (6.2, 4.0) if unit_kl is None else (5.2, max(3.6, 1.4 + 0.5 * len(variances)))
    figure, axes = _panels(1 if unit_kl is None else 2, title, *size)
    ax = axes[0]
    _set_heading(ax, None, x="unit, by decreasing variance", y="Var$_x$ E$_q$[u|x]")
    colours = _colours(len(variances))
    for index, ((site, variance), colour) in enumerate(
        zip(variances.items(), colours, strict=True)
    ):
        ax.plot(
            np.arange(1, len(variance) + 1),
            np.maximum(np.sort(variance)[::-1], VARIANCE_FLOOR),
            color=colour,
            marker=MARKERS[index % len(MARKERS)],
            markersize=4,
            linewidth=1.2,
            label=f"{site}: {int((variance > threshold).sum())} of {len(variance)} active",
        )
    ax.axhline(
        threshold, color="0.3", linestyle="--", linewidth=1, label=f"threshold {threshold:g}"
    )
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(_whole_numbers())
    _legend_beside(ax)
    if unit_kl is not None:
        _count_active_units(axes[1], variances, unit_kl, threshold, kl_threshold)
    return _laid_out(figure)


def _count_active_units(ax, variances, unit_kl, threshold, kl_threshold):
    """Two bars per layer, the first layer at the bottom."""
    definitions = (
        (f"KL(q||p) > {kl_threshold:g} nats", unit_kl, kl_threshold, AMBER),
        (f"variance > {threshold:g}", variances, threshold, BLUE),
    )
    places = np.arange(len(variances))
    units = np.array([len(variance) for variance in variances.values()])
    ax.barh(places, units, height=0.8, color="0.93")
    handles = []
    for (label, values, limit, colour), shift in zip(definitions, (0.2, -0.2), strict=True):
        is_known = np.array([len(values[site]) for site in variances]) == units
        counts = np.array([(values[site] > limit).sum() for site in variances]) * is_known
        texts = [
            f"{count} of {number}" if known else "not known per unit"
            for count, number, known in zip(counts, units, is_known, strict=True)
        ]
        _horizontal_bars(ax, counts, texts, places + shift, height=0.36, color=colour)
        handles.append(Patch(color=colour, label=f"{label}: {counts.sum()}"))
    ax.set_xlim(0, 1.25 * units.max())
    _set_heading(ax, None, x="active units")
    ax.xaxis.set_major_locator(_whole_numbers())
    ax.set_yticks(places, list(variances), fontsize=_TEXT_SIZE)
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2,
        frameon=False,
        fontsize=8,
    )


def training_and_test_curves(
    depths, title="Training and test bounds", order=(), held_out="test images"
):
    """Bounds over epochs of the training images, full lines, and of held-out images, dashed, a
    panel per number of layers and a colour per variant (Sønderby et al. 2016a, Fig. 4, and 2016b,
    Fig. 2). Panels share their limits, which follow the later epochs.

    Args:
      depths: `{heading: {variant: [(training, held out), ...]}}`, of each run `[N, 2]` pairs of an
        epoch and a bound in nats per image.
      order: names of variants that have a colour of their own whether they are there or not.
      held_out: what the held-out images are.
    """
    _check_not_empty(depths, "depths")
    variants = list(dict.fromkeys(name for runs in depths.values() for name in runs))
    places = _places(variants, order)
    figure, axes = _panels(len(depths), title, width=3.2, height=3.9)
    drawn = []
    for ax, (heading, of_variants) in zip(axes, depths.items(), strict=True):
        _check_not_empty(of_variants, f"depths[{heading!r}]")
        _set_heading(ax, heading, x="epoch", y="nats per image")
        ax.xaxis.set_major_locator(_whole_numbers(5))
        for name, runs in of_variants.items():
            for pair in runs:
                for curve, style in zip(pair, ("-", (0, (4, 1.5))), strict=True):
                    curve = _checked_finite(curve, f"depths[{heading!r}][{name!r}]", "[N, 2]")
                    options = {"color": _class_colour(places[name]), "linewidth": 1.2}
                    ax.plot(*curve.T, linestyle=style, **options)
                    drawn.append(curve[:, 1])
    _limit_to_later_epochs(axes[-1], drawn, skipped=0.3)
    axes[-1].set_title("", loc="right")  # of values off scale, those of every panel
    for ax in axes:
        ax.set_ylim(axes[-1].get_ylim())
    lines = [Line2D([], [], color=_class_colour(places[name]), label=name) for name in variants]
    parts = [("training images", "-"), (held_out, (0, (4, 1.5)))]
    lines += [Line2D([], [], color="0.3", linestyle=style, label=name) for name, style in parts]
    _legend_below(figure, lines)
    return _laid_out(figure)


def depth_study(bounds, title="Depth study", order=()):
    """Bounds by number of layers of latent variables, a panel per bound and in it a line per variant
    through the means of its runs (Sønderby et al. 2016a and b, Fig. 3).

    Args:
      bounds: `{bound: {variant: [N, 2]}}`, pairs of a number of layers and the bound in nats per
        image, one pair per run; the same variants in each. A bound is named "$L_1$, test images",
        say.
      order: names of variants that have a look of their own whether they are there or not.
    """
    _check_not_empty(bounds, "bounds")
    first = next(iter(bounds.values()))
    _check_not_empty(first, f"bounds[{next(iter(bounds))!r}]")
    for name, of_variants in bounds.items():
        if of_variants.keys() != first.keys():
            raise ValueError(
                f"expected bounds[{name!r}] of the variants {list(first)}, received: "
                f"{list(of_variants)}"
            )
    figure, axes = _panels(len(bounds), title, width=3.9, height=3.7)
    places = _places(first, order)
    for ax, (name, of_variants) in zip(axes, bounds.items(), strict=True):
        _set_heading(ax, name, x="layers of latent variables", y="nats per image")
        ax.xaxis.set_major_locator(_whole_numbers())
        ax.margins(x=0.08, y=0.08)
        for variant, runs in of_variants.items():
            runs = _checked_finite(runs, f"bounds[{name!r}][{variant!r}]", "[N, 2]")
            _line_through_means(ax, runs, variant, places[variant])
    _legend_below(figure, axes[0].get_legend_handles_labels()[0])
    return _laid_out(figure)


def bounds_by_labels(bounds, title="Bounds by number of labels"):
    """Test bounds by number of labels, a line per bound through the means of its runs (Maaløe et
    al. 2017, Fig. 4).

    Args:
      bounds: `{name: [N, 2]}`, pairs of a number of labels and a bound in nats, one per run; named
        "$L_1$", say.
    """
    _check_not_empty(bounds, "bounds")
    figure, (ax,) = _panels(1, title, width=5.6, height=3.7)
    _set_heading(ax, "", x="labels", y="nats per test image")
    ax.margins(x=0.08, y=0.08)
    for index, (name, runs) in enumerate(bounds.items()):
        runs = _checked_finite(runs, f"bounds[{name!r}]", "[N, 2]")
        _line_through_means(ax, runs, name, index)
        ax.set_xticks(np.union1d(ax.get_xticks() if index else [], runs[:, 0]))
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return _laid_out(figure)


def _line_through_means(ax, runs, label, index):
    """Runs `[N, 2]` as points, and a line through the means of those with the same x."""
    x = np.unique(runs[:, 0])
    means = [runs[runs[:, 0] == value, 1].mean() for value in x]
    marker = MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]  # another one in every round
    style = {"color": _class_colour(index), "marker": marker}
    ax.plot(x, means, linewidth=1.5, markersize=5, label=label, **style)
    ax.plot(*runs.T, linestyle="", markersize=3, alpha=0.6, **style)


def against_published(runs, title="Ours against the published numbers"):
    """How far runs are from the published log-likelihoods, a line per run.

    Args:
      runs: `{name: (ours, standard error, published)}`, test log-likelihoods in nats; a standard
        error may be None.
    """
    _check_not_empty(runs, "runs")
    values = np.array([[ours, error or 0.0, theirs] for ours, error, theirs in runs.values()])
    _checked_finite(values, "runs", "[N, 3]")
    gaps = values[:, 0] - values[:, 2]
    order = np.argsort(gaps)  # the best above
    figure, (ax,) = _panels(1, title, width=7.5, height=1.2 + 0.3 * len(runs))
    ax.axvline(0.0, color=SLATE, linewidth=1.2)
    places = np.arange(len(runs))
    ax.hlines(places, np.minimum(gaps[order], 0.0), np.maximum(gaps[order], 0.0), color="0.8")
    options = {"fmt": "o", "color": BLUE, "markersize": 5, "zorder": 3}
    ax.errorbar(gaps[order], places, xerr=values[order, 1], **options)
    for place, index in zip(places, order):
        ax.annotate(
            f"{_decimal(values[index, 0])} ({_decimal(values[index, 2])})",
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
        )
    ax.margins(x=0.08, y=0.5 / len(runs))
    ax.set_yticks(places, [list(runs)[index] for index in order], fontsize=_TEXT_SIZE)
    _set_heading(ax, None, x="nats above the published number; beside it: ours (published)")
    return _laid_out(figure)


def to_rgb_array(figure):
    """The figure's pixels, uint8 `[H, W, 3]`."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def save(figure, path, dpi=DPI):
    """Writes a PNG that is either complete or absent, and holds nothing but the picture.

    Args:
      path: file name ending in ".png", in a folder that exists.
      dpi: pixels per inch; sheets of images are sharpest at the default.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f'expected a path ending in ".png", received: {path}')
    FigureCanvasAgg(figure)
    with files.atomic_path(str(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})


class _Sheet(NamedTuple):
    figure: Figure
    axes: Axes  # data coordinates are pixels of the composed sheet
    tops: np.ndarray  # [R], first pixel row of each row of images
    lefts: np.ndarray  # [C]
    scale: int  # figure pixels per image pixel


def _draw_sheet(tiles, title, spaces, smallest_tile, column_space=0, left=_MARGIN, top=0, bottom=0):
    """Composes tiles `[R, C, H, W, Ch]` into one array on white, at whole pixels of the figure.

    Args:
      spaces: R - 1 distances between rows, in figure pixels; never less than the thin gap.
      smallest_tile: least side of a tile, in figure pixels.
      column_space: distance between columns, one or C - 1 numbers, in figure pixels.
      left, top, bottom: margins besides those for the title, in figure pixels.
    """
    rows, columns, height, width, channels = tiles.shape
    gap = max(1, round(max(height, width) / 20))
    side = max(rows * (height + gap), columns * (width + gap))
    largest = max(1, _LARGEST_TILE // max(height, width))
    smallest = math.ceil(smallest_tile / width)
    scale = max(min(_SHEET_SIDE // side, largest), smallest, 1)
    row_gaps = [max(gap, math.ceil(space / scale)) for space in spaces]
    column_gaps = np.maximum(gap, np.ceil(np.divide(column_space, scale)).astype(int))

    tops = np.concatenate([[0], np.cumsum(height + np.array(row_gaps, int))]).astype(int)
    steps = width + np.broadcast_to(column_gaps, columns - 1)
    lefts = np.concatenate([[0], np.cumsum(steps)]).astype(int)
    sheet = np.ones((tops[-1] + height, lefts[-1] + width, channels), np.float32)
    for row, y in enumerate(tops):
        for column, x in enumerate(lefts):
            sheet[y : y + height, x : x + width] = tiles[row, column]

    sheet_width, sheet_height = scale * sheet.shape[1], scale * sheet.shape[0]
    figure_width = max(sheet_width + left + _MARGIN, _NARROWEST_SHEET)
    left += (figure_width - sheet_width - left - _MARGIN) // 2
    heading = _wrapped(title, figure_width - 2 * _MARGIN)
    title_height = (_MARGIN + 22 * (heading.count("\n") + 1)) if heading else _MARGIN
    bottom += _MARGIN
    figure_height = sheet_height + title_height + top + bottom
    figure = _figure(figure_width / DPI, figure_height / DPI)
    axes = figure.add_axes(
        (
            left / figure_width,
            bottom / figure_height,
            sheet_width / figure_width,
            sheet_height / figure_height,
        )
    )
    axes.set_axis_off()
    axes.imshow(
        sheet[..., 0] if channels == 1 else sheet,
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        aspect="auto",
    )
    if heading:
        figure.text(
            0.5, 1 - 8 / figure_height, heading, ha="center", va="top", fontsize=_TITLE_SIZE
        )
    return _Sheet(figure, axes, tops, lefts, scale)


def _label_rows(sheet, labels, height):
    """Writes a name at the left of each row of images, which are `height` pixels high."""
    for label, top in zip(labels, sheet.tops, strict=True):
        sheet.axes.annotate(
            str(label),
            (-0.5, top + height / 2 - 0.5),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=_TEXT_SIZE,
        )


def _label_columns(sheet, labels, width, **style):
    """Writes `{column: name}` above the columns of images, which are `width` pixels wide."""
    width_shown = sheet.scale * width
    longest = max(len(str(label)) for label in labels.values())
    size = _TEXT_SIZE if longest <= _characters(width_shown, _TEXT_SIZE) else _SMALL_SIZE
    for column, label in labels.items():
        sheet.axes.annotate(
            _shortened(str(label), width_shown, size),
            (sheet.lefts[column] - 0.5 + width / 2, -0.5),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=size,
            **style,
        )


def _frame(sheet, row, column, height, width, pixels):
    """Draws a frame into the gap around an image, `pixels` of the figure wide with its distance."""
    reach = pixels / 2 / sheet.scale
    sheet.axes.add_patch(
        Rectangle(
            (sheet.lefts[column] - 0.5 - reach, sheet.tops[row] - 0.5 - reach),
            width + 2 * reach,
            height + 2 * reach,
            fill=False,
            edgecolor=COLOURS[6],
            linewidth=pixels * 72 / DPI / 1.5,
            clip_on=False,
        )
    )


def _tiles(images, rows, columns):
    """`[R, C, H, W, Ch]`, white where images run out."""
    blank = np.ones((rows * columns - len(images), *images.shape[1:]), images.dtype)
    return np.concatenate([images, blank]).reshape(rows, columns, *images.shape[1:])


def _figure(width, height):
    """An empty figure of so many inches, rounded to whole pixels."""
    # The renderer truncates to pixels: 721 / 120 * 120 may come out below 721.
    size = [(round(side * DPI) + 1e-3) / DPI for side in (width, height)]
    figure = Figure(figsize=size, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _panels(count, title, width=4.1, height=3.3):
    """A figure of `count` axes, at most three per row, `width` by `height` inches each."""
    columns = 2 if count == 4 else min(count, 3)
    rows = math.ceil(count / columns)
    figure = _figure(width * columns, height * rows + 0.3)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(count)]
    _set_style(figure, axes, title)
    return figure, axes


def _stacked_panels(heights, title, width):
    """A figure of axes over one another, so many inches high, with one x-axis; the first at the
    bottom."""
    figure = _figure(width, sum(heights) + 0.8)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.04)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=list(heights)[::-1])
    axes = []
    for row in reversed(range(len(heights))):
        axes.append(figure.add_subplot(grid[row], sharex=axes[0] if axes else None))
    _set_style(figure, axes, title)
    for ax in axes[1:]:
        ax.tick_params(labelbottom=False)
    return figure, axes


def _set_style(figure, axes, title):
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="0.9", linewidth=0.7)
        ax.set_axisbelow(True)
        ax.tick_params(which="both", labelsize=8)
    if title:
        heading = _wrapped(title, 0.95 * DPI * figure.get_figwidth())
        figure.suptitle(heading, fontsize=_TITLE_SIZE)


def _horizontal_bars(ax, values, texts, places=None, **options):
    """Bars from 0, their values written at their ends; room is left for them."""
    places = np.arange(len(values)) if places is None else places
    ax.barh(places, values, **options)
    for place, value, text in zip(places, values, texts, strict=True):
        ax.annotate(
            text,
            (max(value, 0.0), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    ax.set_xlim(min(0.0, 1.1 * values.min()), 1.2 * values.max() if values.max() > 0 else 1.0)
    ax.grid(False, axis="y")


def _laid_out(figure):
    """The figure with its layout computed and kept."""
    # A constrained layout moves a little each time it is drawn, and the bytes with it.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def _rows_of_graph(parents):
    """Variables by the length of the longest path that leads to them, from the top down."""
    rows, left = [], dict(parents)
    while left:
        row = sorted(name for name, above in left.items() if not left.keys() & {*above})
        if not row:
            raise ValueError(f"expected p without a cycle, received: {parents}")
        rows.append(row)
        for name in row:
            del left[name]
    return rows


def _bends(edges, places):
    """How far each edge curves: not at all, but around a node that lies on its way. In a chain,
    where both sides are free, edges turn right and left by turns."""
    bends, side = [], 1
    for edge in edges:
        start, end = (np.array(places[name]) for name in edge)
        way = end - start
        on_the_way = [
            place - start
            for name, place in places.items()
            if name not in edge and 0 < np.dot(place - start, way) < np.dot(way, way)
        ]
        distances = [(way[0] * y - way[1] * x) / np.hypot(*way) for x, y in on_the_way]
        beside = [distance for distance in distances if abs(distance) < 0.3]
        if beside and not any(beside):
            bends.append(0.35 * side)
            side = -side
        else:
            bends.append(0.35 * float(np.sign(sum(beside))))
    return bends


def _draw_node(ax, name, place, colour):
    circle = {"marker": "o", "markersize": 2 * _NODE_RADIUS, "markeredgecolor": "0.2"}
    ax.plot(*place, color=colour, **circle)
    ax.annotate(name, place, ha="center", va="center", fontsize=_TEXT_SIZE)


def _set_heading(ax, heading, x=None, y=None):
    if heading:
        ax.set_title(heading, loc="left", fontsize=_TEXT_SIZE + 1)
    ax.set_xlabel(x or "", fontsize=_TEXT_SIZE)
    ax.set_ylabel(y or "", fontsize=_TEXT_SIZE)


def _whole_numbers(nbins=6):
    return MaxNLocator(nbins=nbins, integer=True, min_n_ticks=1)


def _legend_beside(ax, **options):
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8, **options)


def _limit_to_later_epochs(ax, series, skipped=0.1):
    """y-limits that the first part of each series and rare spikes do not set; last values do."""
    late = [values[max(int(skipped * len(values)), int(len(values) >= 4)) :] for values in series]
    # Per series: among many sites, the lowest one is no outlier.
    quantiles = [np.quantile(values, [0.02, 0.98]) for values in late]
    kept = np.concatenate([*quantiles, [values[-1] for values in series]])
    everything = np.concatenate(series)
    pad = 0.15 * np.ptp(kept) or max(0.05 * abs(kept[0]), 1e-3)
    low = max(kept.min() - pad, min(everything.min(), kept.min()) - 0.3 * pad)
    high = min(kept.max() + pad, max(everything.max(), kept.max()) + 0.3 * pad)
    ax.set_ylim(low, high)
    outside = int(((everything < low) | (everything > high)).sum())
    if outside:
        noun = "value" if outside == 1 else "values"
        ax.set_title(f"{outside} {noun} off scale", loc="right", fontsize=_SMALL_SIZE, color="0.4")


def _log_scale_where_it_helps(ax, values):
    if values.min() > 0 and values.max() > 10 * values.min():
        ax.set_yscale("log")


def _plane(values, site):
    """Points `[N, 2]` of a site `[N, D]`, D >= 2, and names of the two axes."""
    if values.shape[1] == 2:
        return values, (f"{site}[0]", f"{site}[1]")
    if len(values) < 2:
        raise ValueError(
            f"expected at least 2 examples for principal components, received: {len(values)}"
        )
    from sklearn.decomposition import PCA

    centred = values - values.mean(0)
    total = np.square(centred).sum()
    points = PCA(2, svd_solver="full").fit_transform(centred) if total else centred[:, :2]
    shares = np.square(points).sum(0) / (total or 1.0)
    return points, tuple(
        f"component {i + 1} ({100 * share:.0f} % of variance)" for i, share in enumerate(shares)
    )


def _edges(centres):
    """Edges `[N + 1]` halfway between increasing centres `[N]`."""
    if len(centres) == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middles = (centres[1:] + centres[:-1]) / 2
    first, last = 2 * centres[0] - middles[0], 2 * centres[-1] - middles[-1]
    return np.concatenate([[first], middles, [last]])


def _in_groups(values, edges, most):
    """Means over groups of consecutive rows of `[N, D]`, at most so many of one size, and their
    edges. NaN is left out; a group of nothing else is NaN."""
    starts = np.arange(0, len(values), math.ceil(len(values) / most))
    is_finite = np.isfinite(values)
    counts = np.add.reduceat(is_finite.astype(int), starts)
    sums = np.add.reduceat(np.where(is_finite, values, 0.0), starts)
    return np.where(counts, sums / np.maximum(counts, 1), np.nan), edges[[*starts, len(values)]]


def _curves(history, is_wanted):
    """`{column: (epochs, values)}`, the finite values of the columns that `is_wanted` names;
    "epoch" must be one of them where there is one."""
    columns = {name: _checked_array(v, f"history[{name!r}]", "[epochs]")
               for name, v in history.items() if is_wanted(name)}  # fmt: skip
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"expected columns of one length, received: {lengths}")
    epochs = columns.pop("epoch", None)
    if epochs is None:
        epochs = np.arange(1.0, 1.0 + max(lengths.values(), default=0))
    if not np.isfinite(epochs).all():
        raise ValueError('expected finite values in history["epoch"], received: NaN or infinity')
    curves = {
        name: (epochs[np.isfinite(column)], column[np.isfinite(column)])
        for name, column in columns.items()
        if np.isfinite(column).any()
    }
    if not curves:
        raise ValueError(f"expected at least one column to draw, received: {sorted(history)}")
    return curves


def _part_of(name):
    """The prefix in `_PARTS` of a column."""
    return next((prefix for prefix in _PARTS if prefix and name.startswith(prefix)), "")


def _is_curve(name):
    quantity = name.removeprefix(_part_of(name))
    return name in ("epoch", "beta", "learning_rate", "gradient_norm") or (
        quantity in ("bound", "log_px") or quantity.startswith("kl/")
    )


def _colours(count):
    """One colour for each of `count` lines; of a sequential map where the palette is too short."""
    if count <= len(COLOURS):
        return COLOURS[:count]
    return [
        to_hex(colour) for colour in matplotlib.colormaps["viridis"](np.linspace(0, 0.95, count))
    ]


def _coded(labels, class_names, count):
    """Codes `[count]` of the labels, 0 for the first class that occurs, and the names of the
    classes that occur: none without labels."""
    if labels is None:
        if class_names is not None:
            raise ValueError(
                f"expected labels in [0, {len(class_names)}) for class_names, received: no labels"
            )
        return np.zeros(count, int), []
    classes, codes = np.unique(_checked_labels(labels, "labels", count), return_inverse=True)
    if class_names is None:
        return codes, [str(value) for value in classes]
    if classes[0] < 0 or classes[-1] >= len(class_names):
        raise ValueError(
            f"expected labels in [0, {len(class_names)}) for class_names, "
            f"received: labels up to {classes[-1]}"
        )
    return codes, [str(class_names[int(value)]) for value in classes]


def _most_frequent(codes, names):
    """Codes and names as of `_coded`, but of more than `MAX_COLOURED_CLASSES` only the most frequent
    ones, as many as there are colours, with `_OTHERS` for the rest; and the rest's handles in a
    legend."""
    if len(names) <= MAX_COLOURED_CLASSES:
        return codes, names, []
    counts = np.bincount(codes)
    kept = np.sort(np.argsort(-counts, kind="stable")[: len(COLOURS)])
    places = np.full(len(names), _OTHERS)
    places[kept] = np.arange(len(kept))
    label = f"{len(names) - len(kept)} others"
    handle = Line2D([], [], linestyle="", marker=_marker(0), color=_OTHERS_COLOUR, label=label)
    return places[codes], [names[code] for code in kept], [handle]


def _scatter(ax, points, codes):
    """Points `[N, 2]` in the look of their classes, over those of `_OTHERS`."""
    size = float(np.clip(20_000 / len(points), 5, 30))
    if (codes == _OTHERS).any():
        of_others = points[codes == _OTHERS].T
        ax.scatter(*of_others, color=_OTHERS_COLOUR, marker=_marker(0), s=size, linewidths=0)
    # One fixed shuffle, so that no class lies on top of the others.
    order = np.random.default_rng(0).permutation(len(points))
    for first in range(0, codes.max() + 1, len(COLOURS)):
        of_marker = order[codes[order] // len(COLOURS) == first // len(COLOURS)]
        ax.scatter(
            *points[of_marker].T,
            c=[_class_colour(code) for code in codes[of_marker]],
            marker=_marker(first),
            s=size,
            alpha=0.7,
            linewidths=0,
        )


def _class_legend(figure, names, extra=()):
    """A legend of the classes, and of further handles, at the right; the figure grows by it."""
    handles = [
        Line2D([], [], linestyle="", marker=_marker(i), color=_class_colour(i), label=name)
        for i, name in enumerate(names)
    ]
    handles += extra
    if not handles:
        return
    columns = math.ceil(len(handles) / 16)
    widest = max(len(handle.get_label()) for handle in handles)
    figure.set_figwidth(figure.get_figwidth() + columns * (0.5 + 0.07 * widest))
    figure.legend(
        handles=handles,
        loc="outside right upper",
        ncols=columns,
        fontsize=8,
        frameon=False,
        title="class" if names else None,
        title_fontsize=_TEXT_SIZE,
    )


def _draw_boundaries(ax, x, y, probabilities):
    """Regions of the most probable class in its colour, and lines between them."""
    num_classes = probabilities.shape[2]
    ax.pcolormesh(
        x,
        y,
        probabilities.argmax(-1),
        cmap=ListedColormap([_class_colour(index) for index in range(num_classes)]),
        vmin=-0.5,
        vmax=num_classes - 0.5,
        alpha=0.12,
        shading="nearest",
        linewidth=0,
        rasterized=True,
    )
    for index in range(num_classes if num_classes > 2 else 1):
        others = np.delete(probabilities, index, -1).max(-1)
        margin = probabilities[..., index] - others
        if margin.min() < 0 < margin.max():
            ax.contour(x, y, margin, levels=[0.0], colors="0.3", linewidths=1.2)


def _note_outside(ax, count, singular, plural):
    if count:
        text = f"{count} {singular if count == 1 else plural} outside"
        ax.set_title(text, loc="right", fontsize=_SMALL_SIZE, color="0.4")


def _places(names, order):
    """`{name: index}` of a colour: those in `order` have theirs there, others the next ones."""
    others = [name for name in names if name not in order]
    return {name: index for index, name in enumerate([*order, *others]) if name in names}


def _legend_below(figure, handles):
    options = {"loc": "outside lower center", "fontsize": 8, "frameon": False}
    figure.legend(handles=handles, ncols=min(4, len(handles)), **options)


def _class_colour(index):
    return COLOURS[index % len(COLOURS)]


def _dashes(index):
    """One style of lines for every round through the colours."""
    return ("-", "--", ":", "-.")[index // len(COLOURS) % 4]


def _marker(index):
    """One marker for every round through the colours."""
    return MARKERS[index // len(COLOURS) % len(MARKERS)]


def _decimal(value):
    """Two decimals, with the minus sign of the axes."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")


def _characters(pixels, font_size):
    """How many characters of common text fit, at 0.56 of the font size each."""
    return max(int(pixels / (0.56 * font_size * DPI / 72)), 1)


def _wrapped(text, pixels):
    return textwrap.fill(str(text), _characters(pixels, _TITLE_SIZE)) if text else ""


def _shortened(text, pixels, font_size):
    limit = _characters(pixels, font_size)
    return text if len(text) <= limit else text[: max(limit - 1, 1)] + "…"


def _checked_array(values, name, axes):
    """`values` as floats, when they have the rank of `axes`, "[N, D]" say, and the sizes that are
    numbers there, as in "[N, 2]", and are not empty."""
    values = np.asarray(values, dtype=np.float64)
    sizes = axes.strip("[]").split(", ")
    fits = values.ndim == len(sizes) and all(
        not size.isdigit() or int(size) == length for size, length in zip(sizes, values.shape)
    )
    if not fits or not values.size:
        raise ValueError(f"expected {name} {axes}, not empty, received: shape {values.shape}")
    return values


def _checked_finite(values, name, axes):
    values = _checked_array(values, name, axes)
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ValueError(f"expected finite {name}, received: {count} not finite of {values.size}")
    return values


def _checked_images(images, name, axes):
    images = _checked_finite(images, name, axes)
    if images.shape[-1] not in (1, 3):
        raise ValueError(f"expected {name} of 1 or 3 channels, received: shape {images.shape}")
    if images.min() < -1e-3 or images.max() > 1 + 1e-3:
        raise ValueError(
            f"expected {name} in [0, 1], received: [{images.min():.4g}, {images.max():.4g}]"
        )
    return np.clip(images, 0.0, 1.0).astype(np.float32)


def _checked_labels(labels, name, count):
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iub":
        raise ValueError(
            f"expected integer {name} [{count}], received: {labels.dtype} {labels.shape}"
        )
    return labels


def _checked_classes(classes, name, count, num_classes=None):
    """`[count]` integers in [0, num_classes), one at least."""
    classes = _checked_labels(classes, name, count).astype(int)
    if not count:
        raise ValueError(f"expected {name} [N], not empty, received: shape {classes.shape}")
    if classes.min() < 0 or (num_classes is not None and classes.max() >= num_classes):
        raise ValueError(
            f"expected {name} in [0, {'Y' if num_classes is None else num_classes}), "
            f"received: {classes.min()} to {classes.max()}"
        )
    return classes


def _checked_names(class_names, num_classes):
    if class_names is None:
        return [str(index) for index in range(num_classes)]
    if len(class_names) != num_classes:
        raise ValueError(
            f"expected one name per class, {num_classes}, received: {len(class_names)} names"
        )
    return [str(name) for name in class_names]


def _check_not_empty(values, name):
    if not values:
        raise ValueError(f"expected at least one site in {name}, received: none")
