"""One page that a person can read, from a file of scores: figures are inside the page, nothing is
loaded from elsewhere."""

import base64
import html
import io
import os

import numpy as np

from tfhvae import files, plotting
from tfhvae.errors import RunError
from tfhvae.monitoring import charts
from tfhvae.monitoring.logs import UNREADABLE
from tfhvae.monitoring.plant import STATES
from tfhvae.progress import bar

MOST_POINTS = 8_000  # in the plane of irradiance and power
MOST_BINS = 150  # of the time line
MOST_MINUTES = 200_000  # that are kept one by one
MOST_EPISODES = 15  # rows of the list of anomalies
LEAST_EPISODE = 3  # rows; a single one below the threshold is expected now and then
CHUNK = 200_000  # rows in memory
_WIDTHS = (1, 5, 15, 60, 180, 720, 1440, 7 * 1440, 28 * 1440)  # minutes, of bins of time

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62em; margin: 2em auto;
       padding: 0 1em; }
h1 { font-size: 1.6em; margin-bottom: 0; } h2 { font-size: 1.15em; margin: 2em 0 .3em; }
p.note { color: #666; margin: .2em 0 .8em; } img { max-width: 100%; height: auto; }
table { border-collapse: collapse; margin: .5em 0; } th, td { padding: .2em .8em; text-align: right;
        border-bottom: 1px solid #ddd; } th:first-child, td:first-child { text-align: left; }
.cards { display: flex; flex-wrap: wrap; gap: 1em; margin: 1.2em 0; } .card { border: 1px solid
#ddd; border-radius: 6px; padding: .5em 1em; min-width: 8em; } .card b { display: block;
font-size: 1.4em; } .alarm b { color: #bd1f01; }
"""


def write(scores, out, names, threshold, title="Condition monitoring", details=None):
    """Writes the page.

    Args:
      scores: a file as from `plant.score_log`, .csv or .parquet; read in pieces.
      out: ends in .html.
      names: of the conditions, in the model's order.
      threshold: nats.
      details: `{name: text}` for the foot of the page.

    Returns:
      `{"rows", "anomalies"}`.

    Raises:
      RunError: if `scores` cannot be read, is of another model, or `out` cannot be written.
    """
    if not out.lower().endswith((".html", ".htm")):
        raise RunError(f"expected an --out ending in .html. Received: {out}")
    summary = _Summary(scores, names, threshold)
    page = _page(summary, names, threshold, title, details or {})
    try:
        files.write_text(out, page)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from error
    return {"rows": summary.rows, "anomalies": int(summary.anomalies.sum())}


class _Summary:
    """What the page needs of a file of any length."""

    def __init__(self, path, names, threshold):
        self.names, self.threshold = list(names), threshold
        self.rows = 0
        self.states = dict.fromkeys(STATES, 0)
        self.edges, self.centres = charts.squeezed_bins()
        self.bounds = np.zeros(len(self.centres), np.int64)
        self.by_minute = {}  # minute, or where bins have been merged their first -> rows of every
        # condition, anomalies
        self.first, self.last = None, None  # minutes
        self.counts = np.zeros(len(names), np.int64)
        self.anomalies = np.zeros(len(names), np.int64)
        self.labels, self.confusion = [], {}  # (label, condition) -> rows
        self.points, self.stride, self._seen = [], 1, 0
        self.power = None
        self.episodes = _Episodes()
        progress = bar(None, "reading scores", "row")
        for chunk in _chunks(path):
            self._add(chunk)
            progress.update(len(chunk))
        progress.close()
        if not self.rows:
            raise RunError(f"expected rows in {path}. Received: none")

    def _add(self, chunk):
        import pandas as pd

        missing = {"time", "state", "condition", "bound", "is_anomaly"} - set(chunk.columns)
        if missing:
            raise RunError(
                f"expected scores as from `score`. Received: no column {', '.join(sorted(missing))}"
            )
        conditions = [name[2:] for name in chunk.columns if name.startswith("p_")]
        if conditions != self.names:
            raise RunError(
                f"expected probabilities of the model's conditions, {', '.join(self.names)}. "
                f"Received: {', '.join(conditions) or 'none'}; the scores are of another model"
            )
        self.rows += len(chunk)
        for name, count in chunk["state"].value_counts().items():
            self.states[name] = self.states.get(name, 0) + int(count)
        chunk = chunk[chunk["state"] == "ok"]
        if not len(chunk):
            return
        codes = chunk["condition"].map({name: code for code, name in enumerate(self.names)})
        if codes.isna().any():
            strange = sorted(set(chunk["condition"][codes.isna()].astype(str)))
            raise RunError(
                f"expected conditions of the model, {', '.join(self.names)}. Received: "
                f"{', '.join(strange)}; the scores are of another model"
            )
        codes = codes.to_numpy(np.int64)
        anomaly = chunk["is_anomaly"].astype(bool).to_numpy()
        bound = chunk["bound"].to_numpy(np.float64)
        is_near = np.abs(bound - self.threshold) < 0.002  # a file has three decimals
        if ((bound < self.threshold) != anomaly)[~is_near].any():
            raise RunError(
                f"expected as anomalies the rows with a bound below {self.threshold:.2f} nats, this "
                "model's threshold. Received: other ones; the scores are of another version, or "
                "another model: score the log again"
            )
        times = pd.DatetimeIndex(chunk["time"])
        self.bounds += np.histogram(bound, self.edges)[0]
        self.counts += np.bincount(codes, minlength=len(self.names))
        self.anomalies += np.bincount(codes[anomaly], minlength=len(self.names))
        self._add_times(times, codes, anomaly)
        if "label" in chunk.columns:
            labels = chunk["label"]
            pairs = pd.DataFrame({"label": labels, "condition": chunk["condition"]}).dropna()
            for pair, count in pairs.value_counts().items():
                self.confusion[pair] = self.confusion.get(pair, 0) + int(count)
        if {"I", "V", "G"} <= set(chunk.columns):
            self._add_points(chunk, codes, anomaly)
        self.episodes.add(times, chunk["condition"].to_numpy(), anomaly, bound)

    def _add_times(self, times, codes, anomaly):
        minutes = times.as_unit("s").asi8 // 60
        ends = [int(minutes.min()), int(minutes.max())]
        if self.first is not None:
            ends += [self.first, self.last]
        self.first, self.last = min(ends), max(ends)
        hours, place = np.unique(minutes, return_inverse=True)
        counts = np.zeros([len(hours), len(self.names) + 1], np.int64)
        np.add.at(counts, (place, codes), 1)
        np.add.at(counts, (place[anomaly], -1), 1)
        for minute, row in zip(hours.tolist(), counts):
            known = self.by_minute.get(minute)
            self.by_minute[minute] = row if known is None else known + row
        width = self._width()
        if width > 1 and len(self.by_minute) > MOST_MINUTES:  # a year of them is too fine to keep
            merged = {}
            for minute, row in self.by_minute.items():
                key = minute // width * width
                merged[key] = merged[key] + row if key in merged else row
            self.by_minute = merged

    def _width(self):
        span = max(self.by_minute) - min(self.by_minute) + 1
        return next((w for w in _WIDTHS if span <= w * MOST_BINS), _WIDTHS[-1])

    def time_bins(self):
        """`(starts datetime64 [T], width in days, counts [T, Y], share of anomalies [T])`."""
        width, bins = self._width(), {}
        for minute in sorted(self.by_minute):
            key = minute // width * width
            bins[key] = bins.get(key, 0) + self.by_minute[minute]
        table = np.stack(list(bins.values()))
        counts = table[:, :-1]
        starts = (np.array(list(bins), np.int64) * 60).astype("datetime64[s]")
        return starts, width / 1440, counts, table[:, -1] / np.maximum(counts.sum(1), 1)

    def _add_points(self, chunk, codes, anomaly):
        """Keeps every `stride`-th row, and doubles the stride where there are too many."""
        places = np.arange(self._seen, self._seen + len(chunk))
        self._seen += len(chunk)
        kept = places % self.stride == 0
        power = (chunk["I"] * chunk["V"]).to_numpy(np.float64)
        columns = (places, chunk["G"].to_numpy(np.float64), power, codes, anomaly)
        self.points.append(np.stack([column[kept] for column in columns], 1))
        points = np.concatenate(self.points)
        while len(points) > MOST_POINTS:
            self.stride *= 2
            points = points[points[:, 0] % self.stride == 0]
        self.points = [points]


class _Episodes:
    """Stretches of anomalies without an ordinary row between them."""

    def __init__(self):
        self.found, self._open = [], None

    def add(self, times, conditions, anomaly, bound):
        edges = np.flatnonzero(np.diff(anomaly.astype(np.int8))) + 1
        for part in np.split(np.arange(len(anomaly)), edges):
            if not len(part):
                continue
            if not anomaly[part[0]]:
                self._close()
                continue
            if self._open is None:
                self._open = {"start": times[part[0]], "rows": 0, "lowest": np.inf, "of": {}}
            self._open["end"] = times[part[-1]]
            self._open["rows"] += len(part)
            self._open["lowest"] = min(self._open["lowest"], float(bound[part].min()))
            for name in conditions[part]:
                self._open["of"][name] = self._open["of"].get(name, 0) + 1
            if len(self.found) > 20 * MOST_EPISODES:
                self.found = self._longest()

    def _close(self):
        if self._open is not None and self._open["rows"] >= LEAST_EPISODE:
            self.found.append(self._open)
        self._open = None

    def _longest(self):
        return sorted(self.found, key=lambda e: -e["rows"])[:MOST_EPISODES]

    def longest(self):
        self._close()
        return sorted(self._longest(), key=lambda episode: episode["start"])


def _chunks(path):
    """Frames of a file of scores."""
    import pandas as pd

    try:
        if path.lower().endswith(".parquet"):
            import pyarrow.parquet

            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(CHUNK):
                    yield batch.to_pandas()
            return
        words = {name: "string" for name in ("state", "condition", "label")}
        options = {"parse_dates": ["time"], "keep_default_na": False, "na_values": [""]}
        with pd.read_csv(path, chunksize=CHUNK, dtype=words, **options) as reader:
            yield from reader
    except UNREADABLE as error:
        raise RunError(f"cannot read {path}: {str(error).splitlines()[0]}") from error


def _page(summary, names, threshold, title, details):
    ok, anomalies = int(summary.counts.sum()), int(summary.anomalies.sum())
    bins = summary.time_bins() if ok else None
    period = ""
    if ok:
        period = " to ".join(
            str(np.datetime64(minute * 60, "s")).replace("T", " ")[:16]
            for minute in (summary.first, summary.last)
        )
    used = np.flatnonzero(summary.counts)
    cards = [
        ("rows", f"{summary.rows:,}", ""),
        ("scored", f"{ok:,}", ""),
        *((f"left out: {name}", f"{n:,}", "") for name, n in summary.states.items()
          if n and name != "ok"),
        ("anomalies", f"{anomalies:,} ({100 * anomalies / max(ok, 1):.2f} %)", "alarm"),
    ]  # fmt: skip
    if len(used):
        most = used[summary.counts[used].argmax()]
        cards.append(("most frequent", str(names[most]), ""))
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="note">{html.escape(period)} UTC</p>',
        '<div class="cards">',
        *(
            f'<div class="card {kind}"><b>{html.escape(value)}</b>{html.escape(name)}</div>'
            for name, value, kind in cards
        ),
        "</div>",
    ]

    def section(heading, note, *content):
        parts.extend([f"<h2>{html.escape(heading)}</h2>", f'<p class="note">{note}</p>', *content])

    if ok:
        section(
            "Time line",
            "Above, the most probable condition of every row; below, the share of rows that no "
            f"known condition explains. Bars are {_span(bins[1])} wide.",
            _picture(charts.time_line(*bins, names), "time line"),
        )
        section(
            "Rows per condition",
            "Anomalies are counted a second time, in the condition that they are least unlike.",
            _picture(charts.shares(summary.counts, anomalies, names), "rows per condition"),
        )
        episodes = summary.episodes.longest()
        if episodes:
            section(
                "Longest anomalies",
                f"Stretches of {LEAST_EPISODE} rows or more, the {MOST_EPISODES} longest. Have them "
                "looked at, label the rows, and fit again with <code>fit --update</code>.",
                _table(
                    ["from", "to", "rows", "lowest bound, nats", "least unlike"],
                    [
                        [
                            f"{e['start']:%Y-%m-%d %H:%M}",
                            f"{e['end']:%Y-%m-%d %H:%M}",
                            f"{e['rows']:,}",
                            f"{e['lowest']:.1f}",
                            max(e["of"], key=e["of"].get),
                        ]
                        for e in episodes
                    ],
                ),
            )
        if summary.points:
            points = summary.points[0]
            section(
                "Power against irradiance",
                f"{len(points):,} of {ok:,} rows. A ring is an anomaly.",
                _picture(
                    charts.power_against_irradiance(
                        points[:, 1], points[:, 2], points[:, 3].astype(int),
                        points[:, 4].astype(bool), names,
                    ),
                    "power against irradiance",
                ),
            )  # fmt: skip
        section(
            "Bound",
            "How well the model explains a row, in nats; logarithmic far from zero. Rows below "
            "the threshold are anomalies.",
            _picture(charts.bound_histogram(summary.centres, summary.bounds, threshold), "bound"),
        )
    if summary.confusion:
        section("Against the labels", *_confusion(summary.confusion, names))
    if details:
        section("Model", "", _table(None, [[name, str(text)] for name, text in details.items()]))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _confusion(pairs, names):
    """A note and a picture: labels that the model does not know have rows of their own."""
    strange = sorted({label for label, _ in pairs} - set(names))
    all_names = [*names, *strange]
    place = {name: code for code, name in enumerate(all_names)}
    labels = np.concatenate([np.full(n, place[label]) for (label, _), n in pairs.items()])
    guesses = np.concatenate([np.full(n, place[guess]) for (_, guess), n in pairs.items()])
    accuracy = 100 * float(np.mean(labels == guesses))
    note = f"{len(labels):,} rows have a label; {accuracy:.2f} % of them are right."
    if strange:
        note += f" The model does not know: {html.escape(', '.join(strange))}."
    figure = plotting.confusion_matrix(labels, guesses, all_names, "labels against conditions")
    return note, _picture(figure, "confusion matrix")


def _picture(figure, text):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{encoded}">'


def _table(head, rows):
    lines = ["<table>"]
    if head:
        lines.append("<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in head) + "</tr>")
    for row in rows:
        cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row)
        lines.append(f"<tr>{cells}</tr>")
    return "\n".join([*lines, "</table>"])


def _span(days):
    minutes = round(days * 1440)
    for unit, size in (("day", 1440), ("hour", 60), ("minute", 1)):
        if minutes % size == 0:
            count = minutes // size
            return f"{count} {unit}{'s' if count > 1 else ''}"
    raise AssertionError(minutes)


def details_of(folder, settings):
    """What the foot of the page says of a monitor with these settings.

    Raises:
      RunError: if the summary of the version in use cannot be read.
    """
    from tfhvae.monitoring import plant

    version = plant.version_folder(folder)
    path = os.path.join(version, "summary.json")
    try:
        summary = files.read_json(path)
        accuracy = summary["held_out/accuracy"]
        accuracy = "no labels" if accuracy is None else f"{accuracy:.2f} %"
        rows = f"{summary['rows']:,} rows, {sum(summary['labels'].values()):,} with a label"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is not the summary of a fitted monitor: {error!r}") from error
    return {
        "version": os.path.basename(version),
        "inputs": ", ".join(settings["columns"]),
        "fitted to": rows,
        "held-out accuracy": accuracy,
        "threshold": f"{settings['threshold']:.2f} nats, for false alarms on "
        f"{100 * settings['false_alarm_rate']:g} % of ordinary rows",
    }
