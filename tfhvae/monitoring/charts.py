"""Figures of studies and reports: arrays in, `matplotlib.figure.Figure` out, as in
`tfhvae.plotting`."""

import matplotlib.dates
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tfhvae.plotting import BLUE, COLOURS, DPI, RED, SLATE

_MODEL_STYLE = {"MLR": (SLATE, "s"), "MLP": (COLOURS[1], "^"), "SDGM": (BLUE, "o")}
_MARKERS = "o^sDvP"
ANOMALY = "black"


def colour_of(index):
    """Of a condition, by its place."""
    return COLOURS[index % len(COLOURS)]


def accuracy_against_labels(panels):
    """Accuracy with one standard deviation against the number of labels (appendix D, Fig. 7).

    Args:
      panels: `{title: {model: [(labels, mean, std or None)]}}`, in percent.
    """
    figure, axes = _panels(len(panels), "Accuracy on test rows against the number of labels")
    for ax, (title, models) in zip(axes, panels.items(), strict=True):
        for model, points in models.items():
            colour, marker = _MODEL_STYLE[model]
            count, mean, std = (
                np.array([np.nan if value is None else value for value in column], float)
                for column in zip(*points, strict=True)
            )
            ax.plot(count, mean, marker=marker, markersize=4, color=colour, label=model)
            if np.isfinite(std).all():
                ax.fill_between(count, mean - std, mean + std, color=colour, alpha=0.2, lw=0)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("labels")
        ax.set_ylabel("accuracy, %")
        ax.set_ylim(top=100)
    axes[-1].legend(frameon=False, fontsize=8)
    return figure


def progressive(rows, paper_threshold):
    """Accuracy, and the bound of known and of unseen conditions, against the conditions that are
    known (appendix D, Fig. 8).

    Args:
      rows: one `{name: number}` per stage, as in the study's table.
      paper_threshold: nats, named in the heading only: its scale is another.
    """
    figure, axes = _panels(3, "Conditions become known one after the other")
    stage = np.arange(1, len(rows) + 1)

    def values(name):
        return np.array([np.nan if row[name] is None else row[name] for row in rows], float)

    def curve(ax, name, label, colour, style="-", marker="o", place=np.asarray):
        y = place(values(name))
        ax.plot(stage, y, style, marker=marker, ms=4, color=colour, label=label)
        std = values(f"{name}_std")
        if np.isfinite(std).all():
            low, high = place(values(name) - std), place(values(name) + std)
            ax.fill_between(stage, low, high, color=colour, alpha=0.2, lw=0)

    for model in ("sdgm", "mlp"):
        colour, marker = _MODEL_STYLE[model.upper()]
        curve(axes[0], f"{model}_accuracy", f"{model.upper()}, all", colour, "-", marker)
        name = f"{model}_accuracy_included"
        curve(axes[0], name, f"{model.upper()}, known ones", colour, ":", marker)
    axes[0].set_ylabel("accuracy, %")
    axes[0].set_ylim(0, 102)
    curve(axes[1], "median_bound_included", "known conditions", BLUE, place=_squeezed)
    curve(axes[1], "median_bound_unseen", "unseen conditions", RED, "-", "s", _squeezed)
    curve(axes[1], "threshold", "threshold", "black", "--", "", _squeezed)
    names = ("median_bound_included", "median_bound_unseen", "threshold")
    shown = _squeezed(np.concatenate([values(name) for name in names]))
    room = 0.45 * np.ptp(shown)  # for the legend
    _squeezed_axis(axes[1], [*shown, shown.max() + room], "y")
    axes[1].set_ylabel("median bound, nats")
    axes[1].set_title(f"the paper's threshold: {_nats(paper_threshold)} nats", fontsize=8)
    curve(axes[2], "roc_auc", "ROC-AUC", BLUE)
    curve(axes[2], "detection_rate", "detected unseen rows", RED, "-", "s")
    curve(axes[2], "false_alarm_rate", "false alarms", "black", "--", "^")
    axes[2].set_ylim(-0.02, 1.02)
    axes[2].set_ylabel("share")
    names = [f"{row['stage']}: +{row['added']}" for row in rows]
    for ax in axes:
        ax.set_xticks(stage, names, rotation=40, ha="right", fontsize=8)
        ax.legend(frameon=False, fontsize=7.5)
    return figure


def bounds_by_stage(stages, thresholds, names):
    """Histograms of the bound of test rows at every stage, known conditions above unseen ones.

    Args:
      stages: `{stage: {"bound": [N], "labels": [N]}}`.
      thresholds: nats, one per stage.
    """
    figure, axes = _panels(len(stages), "Bound of test rows: known and unseen conditions")
    for ax, (stage, arrays), threshold in zip(axes, stages.items(), thresholds, strict=True):
        is_known = arrays["labels"] < stage
        shown = _squeezed(arrays["bound"])
        bins = np.histogram_bin_edges(shown, 60)
        for rows, colour, label in ((is_known, BLUE, "known"), (~is_known, RED, "unseen")):
            ax.hist(shown[rows], bins, color=colour, alpha=0.6, label=label)
        ax.axvline(_squeezed(threshold), color="black", ls="--", lw=1, label="threshold")
        _squeezed_axis(ax, shown)
        ax.set_title(f"known: {', '.join(names[:stage])}", fontsize=8)
        ax.set_yscale("log")
        ax.set_ylabel("rows")
    axes[0].legend(frameon=False, fontsize=7.5)
    return figure


def time_line(starts, width_days, counts, anomaly_share, names):
    """Shares of the conditions, and of anomalies, over time.

    Args:
      starts: `datetime64` `[T]`, of time bins with rows, in order.
      width_days: width of a bin.
      counts: `[T, Y]` rows of each condition.
      anomaly_share: `[T]`.
    """
    figure, (top, bottom) = _stack((2.6, 1.3))
    x = matplotlib.dates.date2num(starts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    below = np.zeros(len(x))
    for index in range(len(names)):
        top.bar(
            x,
            shares[:, index],
            width_days,
            bottom=below,
            align="edge",
            color=colour_of(index),
            lw=0,
        )
        below = below + shares[:, index]
    top.set_ylim(0, 1)
    top.set_ylabel("share of rows")
    _legend(figure, names)
    bottom.bar(x, anomaly_share, width_days, align="edge", color=ANOMALY, lw=0)
    bottom.set_ylim(0, max(0.05, 1.1 * float(anomaly_share.max(initial=0))))
    bottom.set_ylabel("anomalies, share")
    locator = matplotlib.dates.AutoDateLocator(maxticks=10)
    bottom.xaxis.set_major_locator(locator)
    bottom.xaxis.set_major_formatter(matplotlib.dates.ConciseDateFormatter(locator))
    bottom.set_xlim(x[0], x[-1] + width_days)
    return figure


def power_against_irradiance(irradiance, power, codes, is_anomaly, names):
    """Rows in the plane of irradiance and power, coloured by condition; anomalies have a ring."""
    figure, (ax,) = _panels(1, None, width=8.2, height=4.6)
    order = np.random.default_rng(0).permutation(len(codes))  # no condition on top of the others
    size = float(np.clip(40_000 / max(len(codes), 1), 3, 20))
    colours = np.array([colour_of(code) for code in codes], dtype=object)
    ax.scatter(irradiance[order], power[order], s=size, c=list(colours[order]), alpha=0.6, lw=0)
    ax.scatter(
        irradiance[is_anomaly], power[is_anomaly], s=3 * size + 4, facecolors="none",
        edgecolors=ANOMALY, linewidths=0.5, alpha=0.7,
    )  # fmt: skip
    ax.set_xlabel("irradiance G, W/m²")
    ax.set_ylabel("power I·V, W")
    ring = Line2D(
        [], [], linestyle="", marker="o", mfc="none", mec=ANOMALY, label="anomaly", markersize=6
    )
    _legend(figure, names, [ring])
    return figure


def shares(counts, num_anomalies, names):
    """Rows of every condition, and of anomalies, as bars."""
    figure, (ax,) = _panels(1, None, width=6.4, height=0.32 * (len(names) + 1) + 0.9)
    total = max(int(np.sum(counts)), 1)
    values = [*counts, num_anomalies]
    colours = [*(colour_of(index) for index in range(len(names))), ANOMALY]
    ax.barh(range(len(values)), values, color=colours)
    for place, value in enumerate(values):
        ax.annotate(
            f"{value:,} ({100 * value / total:.1f} %)", (value, place), (4, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    ax.set_yticks(range(len(values)), [*names, "anomalies"])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.25 * max(max(values), 1))
    ax.set_xlabel("rows")
    ax.grid(False, axis="y")
    return figure


def bound_histogram(centres, counts, threshold):
    """Histogram of the bound with the threshold.

    Args:
      centres: `[H]`, of equal bins on the squeezed axis, as from `squeezed_bins`.
      counts: `[H]`.
      threshold: nats.
    """
    figure, (ax,) = _panels(1, None, width=6.4, height=2.8)
    width = centres[1] - centres[0]
    place = float(_squeezed(threshold))
    ax.bar(centres, counts, width, color=np.where(centres < place, RED, BLUE))
    ax.axvline(place, color="black", ls="--", lw=1)
    filled = centres[counts > 0]
    _squeezed_axis(ax, [*(filled if len(filled) else centres), place])
    low, high = ax.get_xlim()
    is_left = place < low + 0.3 * (high - low)  # the words go where there is room for them
    ax.annotate(
        f"threshold {threshold:.2f} nats".replace("-", "\N{MINUS SIGN}"), (place, 1),
        (4 if is_left else -4, -4), va="top", ha="left" if is_left else "right",
        xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8,
    )  # fmt: skip
    ax.set_yscale("symlog", linthresh=1)
    ax.set_ylabel("rows")
    return figure


def squeezed_bins(num=400):
    """`(edges [num + 1] in nats, centres [num] on the squeezed axis)` that every bound lies in."""
    edges = np.linspace(-15.0, 6.0, num + 1)
    inner = _unsqueezed(edges)
    inner[0], inner[-1] = -np.inf, np.inf
    return inner, (edges[1:] + edges[:-1]) / 2


_KNEE = 5.0  # nats; the axis is linear within, logarithmic outside


def _squeezed(values):
    """Nats on an axis that shows ordinary rows and anomalies a million nats below."""
    values = np.asarray(values, float)
    return np.arcsinh(values / _KNEE)


def _unsqueezed(values):
    return _KNEE * np.sinh(values)


def _squeezed_axis(ax, shown, which="x"):
    low, high = float(np.min(shown)), float(np.max(shown))
    margin = 0.03 * (high - low) + 0.05
    ax.set(**{f"{which}lim": (low - margin, high + margin)})
    for steps in ((1, 2, 5), (1, 3), (1,)):  # as many ticks as have room
        positive = np.outer(10.0 ** np.arange(8), steps).ravel()
        ticks = np.array([*-positive[::-1], 0.0, *positive])
        ticks = ticks[(np.abs(ticks) >= 2) | (ticks == 0)]
        places = _squeezed(ticks)
        is_inside = (places >= low - margin) & (places <= high + margin)
        if is_inside.sum() <= 10:
            break
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_ticks(places[is_inside], [_nats(value) for value in ticks[is_inside]])
    axis.set_label_text("bound, nats")


def _nats(value):
    if abs(value) < 1e4:
        return f"{value:g}".replace("-", "\N{MINUS SIGN}")
    power = int(np.floor(np.log10(abs(value)) + 1e-9))
    factor = round(abs(value) / 10**power)
    sign = "-" if value < 0 else ""
    return rf"${sign}10^{{{power}}}$" if factor == 1 else rf"${sign}{factor}\cdot10^{{{power}}}$"


def _panels(count, title, width=4.1, height=3.2):
    columns = 2 if count == 4 else min(count, 3)
    rows = -(-count // columns)
    figure = Figure(
        figsize=(width * columns, height * rows + (0.3 if title else 0)), dpi=DPI, facecolor="white"
    )
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(count)]
    _set_style(axes)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, axes


def _stack(heights, width=9.0):
    figure = Figure(figsize=(width, sum(heights) + 0.3), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.04)
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _set_style(axes)
    return figure, list(axes)


def _set_style(axes):
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="0.9", linewidth=0.7)
        ax.set_axisbelow(True)
        ax.tick_params(which="both", labelsize=8)


def _legend(figure, names, extra=()):
    patches = [Patch(color=colour_of(index), label=name) for index, name in enumerate(names)]
    figure.legend(handles=[*patches, *extra], loc="outside right upper", fontsize=8, frameon=False)
