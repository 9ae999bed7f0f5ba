"""Monitoring in use: a model in a folder, fitted to logs, put to new logs, fitted again when new
conditions have labels.

    FOLDER/current.json                 which version is in use, and which was before
    FOLDER/versions/0001/model.keras    the SDGM
                        /monitor.json   columns, standardisation, conditions, threshold
                        /summary.json   what it was fitted to, and how well
                        /metrics.csv    the training, epoch by epoch
    FOLDER/candidate-1f0c23ab/          a fit that has not ended yet; the same one goes on with it
    FOLDER/rejected/0002/               a candidate that did not pass
    FOLDER/lock                         held while a fit runs
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import shutil
import time
import zipfile
from typing import NamedTuple

import numpy as np

from tfhvae import configuration, files
from tfhvae.errors import RunError
from tfhvae.monitoring.samples import (
    COLUMNS,
    LABEL,
    MIN_STD,
    UNKNOWN,
    VALIDATION_SHARE,
    Standardisation,
    check_columns,
    codes_of,
    is_complete,
    is_held_out,
    names_of,
)
from tfhvae.progress import bar

NUM_SAMPLES = 4  # draws behind a bound and a probability
STATES = ("ok", "incomplete")
# A new version must pass, on held-out rows that neither version was fitted to:
ACCURACY_MARGIN = 2.0  # points below the old version, on the conditions that it knows
LEAST_RECALL = 0.5  # of a condition that is new
LEAST_ROWS = 5  # held-out rows of a condition below which its recall says nothing
FALSE_ALARM_RATE = 0.01  # of the fitted rows, unless another is wanted
FALSE_ALARM_FACTOR = 3.0  # times the wanted rate; more is accepted where it may be chance:
FALSE_ALARM_CHANCE = 0.01  # of so many false alarms or more, at the wanted rate


class Monitor:
    """A fitted model and what belongs to it.

    Attributes:
      model: the SDGM.
      settings: of `monitor.json`.
      version: its name in the folder that it comes from, or None.
    """

    def __init__(self, model, settings, jit_compile=True, version=None):
        from tfhvae.monitoring.learning import Scorer

        self.model, self.settings, self.version = model, settings, version
        self.scale = Standardisation.from_json(settings["standardisation"])
        self.columns = self.scale.columns
        self.names = settings["conditions"]
        self.threshold = settings["threshold"]
        self._scorer = Scorer(model, settings["num_samples"], jit_compile)

    @classmethod
    def load(cls, folder, jit_compile=True):
        """That of the version in use.

        Raises:
          RunError: if there is none, or it cannot be read.
        """
        import keras

        from tfhvae import models  # noqa: F401  registers the class

        path = version_folder(folder)
        try:
            settings = files.read_json(os.path.join(path, "monitor.json"))
            model = keras.models.load_model(os.path.join(path, "model.keras"), compile=False)
        except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
            raise RunError(f"{path} is not readable: {str(error).splitlines()[0]}") from error
        return cls(model, settings, jit_compile, os.path.basename(path))

    def score(self, frame):
        """Of a frame of N rows: `(states [N], probabilities [N, Y], bound [N] in nats)`. States are
        places in `STATES`; probabilities and bound are NaN where a row is not "ok"."""
        check_columns(frame, self.columns)
        values = frame[list(self.columns)].to_numpy(np.float64)
        states = np.where(is_complete(values), 0, 1)
        probabilities = np.full([len(frame), len(self.names)], np.nan, np.float32)
        bound = np.full([len(frame)], np.nan, np.float32)
        is_ok = states == 0
        probabilities[is_ok], bound[is_ok] = self._scorer(self.scale(values[is_ok]))
        return states, probabilities, bound


# The folder ------------------------------------------------------------------------------------


def current(folder):
    """`current.json`, or None in a folder without a version.

    Raises:
      RunError: if it cannot be read.
    """
    path = os.path.join(folder, "current.json")
    if not os.path.exists(path):
        return None
    try:
        return files.read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is not readable: {error}") from error


def version_folder(folder):
    """Where the version in use lies.

    Raises:
      RunError: if there is none.
    """
    state = current(folder)
    if state is None:
        raise RunError(
            f"{folder} holds no fitted monitor: expected the folder that "
            "`python -m tfhvae.monitoring fit --out=FOLDER` wrote"
        )
    return os.path.join(folder, "versions", state["version"])


def roll_back(folder):
    """Puts the version before into use again, and returns its name. A second call undoes the
    first.

    Raises:
      RunError: if there is none.
    """
    version_folder(folder)
    state = current(folder)
    if not state["previous"]:
        raise RunError(f"{folder} has no version before {state['version']}")
    files.write_json(
        os.path.join(folder, "current.json"),
        {"version": state["previous"], "previous": state["version"]},
    )
    return state["previous"]


def _next_version(folder):
    numbers = [0]
    for part in ("versions", "rejected"):
        path = os.path.join(folder, part)
        if os.path.isdir(path):
            numbers += [int(name) for name in os.listdir(path) if name.isdigit()]
    return f"{max(numbers) + 1:04d}"


# Fitting ---------------------------------------------------------------------------------------


def joined(frames):
    """Frames one after the other, their conditions together. What two frames have of the same time,
    with the same measurements, is one row, with the label that one of them has.

    Raises:
      RunError: if both have one, and not the same.
    """
    import pandas as pd

    names = list(dict.fromkeys(name for frame in frames for name in names_of(frame)))
    parts = []
    for frame in frames:
        labels = frame[LABEL].astype(object) if LABEL in frame.columns else None
        labels = [None] * len(frame) if labels is None else labels
        labels = [str(label) if isinstance(label, str) else None for label in labels]
        parts.append(frame.assign(**{LABEL: pd.Categorical(labels, names)}))
    if len(parts) == 1:
        return parts[0]
    rows = pd.concat(parts).reset_index()
    values = [name for name in rows.columns if name != LABEL]
    again = rows.duplicated(values, keep=False)
    labelled = rows[again & rows[LABEL].notna()].drop_duplicates([*values, LABEL])
    unlike = labelled[labelled.duplicated(values, keep=False)]
    if len(unlike):
        time = unlike["time"].iloc[0]
        found = unlike[LABEL][unlike["time"] == time]
        raise RunError(f"expected one label of {time}. Received: {', '.join(map(str, found))}")
    first = rows[LABEL].isna().sort_values(kind="stable").index  # those with a label
    kept = rows.loc[first].drop_duplicates(values).sort_index()
    return kept.set_index("time")


def fit(
    frame,
    folder,
    config,
    columns=None,
    false_alarm_rate=None,
    max_rows=200_000,
    update=False,
    log=None,
    jit_compile=True,
):
    """Fits a model to logs and puts it into use.

    One row in ten, chosen by its time stamp, is held out: no version of the model is ever fitted to
    it; the bound of these rows, without their labels, stops the training. An update replaces the
    version in use only if, on held-out rows, it is right about the conditions that the old one
    knows as often as that (to `ACCURACY_MARGIN` points), recalls every new condition at least by
    `LEAST_RECALL`, and does not raise more than `FALSE_ALARM_FACTOR` times the wanted false alarms,
    nor more than chance explains. The version in use has to be the same at the end as at the
    beginning. A fit that was stopped goes on when called again with the same data.

    Args:
      frame: measurements, labels where known; as from `joined`. For an update, with the columns of
        the old version, whether or not they are among `columns`.
      folder: see the head of this file.
      config: as from `configuration.photovoltaic`.
      columns: inputs; None for those of `COLUMNS` that the frame has, or of the old version.
      false_alarm_rate: share of fitted rows whose bound is below the threshold; None for that of the
        old version, or `FALSE_ALARM_RATE`.
      max_rows: rows without label beyond it are left out at random, and as large a share of the
        held-out ones does not stop the training; those are examined all the same.
      update: whether `folder` holds a version that this one shall replace.
      log: how the logs were read, `{option of read_log: value}`, kept for scoring.
      jit_compile: whether training and scoring are compiled by XLA.

    Returns:
      The summary.

    Raises:
      RunError: for what a person can mend, and for a candidate that does not pass.
    """
    if update:
        version_folder(folder)  # which there has to be
    with _alone(folder):
        old = Monitor.load(folder, jit_compile) if update else None
        if not update and current(folder) is not None:
            raise RunError(
                f"{folder} holds a fitted monitor: expected --update={folder}, or another --out"
            )
        settings, rows = _checked(frame, folder, config, columns, false_alarm_rate, max_rows, old)
        settings["log"] = log or {}
        return _replace(folder, settings, config, rows, old, jit_compile)


def _checked(frame, folder, config, columns, false_alarm_rate, max_rows, old):
    """`(settings, rows)` of a fit, see `fit`."""
    if old is not None:
        missing = [name for name in old.columns if name not in frame.columns]
        if missing:
            raise RunError(
                f"expected the columns of the version in use, {', '.join(old.columns)}, to compare "
                f"it with the new one. Received: logs without {', '.join(missing)}; fit a monitor "
                "of its own (--out) to these"
            )
        columns = old.columns if columns is None else columns
        if false_alarm_rate is None:
            false_alarm_rate = old.settings["false_alarm_rate"]
    if false_alarm_rate is None:
        false_alarm_rate = FALSE_ALARM_RATE
    columns = tuple(columns or [name for name in COLUMNS if name in frame.columns])
    if not columns:
        raise RunError(f"expected some of the columns {', '.join(COLUMNS)}. Received: none of them")
    check_columns(frame, columns)
    names = names_of(frame)
    if old is not None:
        missing = [name for name in old.names if name not in names]
        if missing:
            raise RunError(
                f"expected labelled rows of every condition that {folder} knows: an update is "
                f"fitted to old and new logs together. Received: none of {', '.join(missing)}"
            )
        names = [*old.names, *(name for name in names if name not in old.names)]
    values = frame[list(columns)].to_numpy(np.float64)
    usable = is_complete(values)
    num_left_out = int((~usable).sum())
    frame, values = frame[usable], values[usable]
    y = codes_of(frame, names)
    held_out = is_held_out(frame.index)
    rows = np.flatnonzero(~held_out)
    unlabelled, labelled = rows[y[rows] == UNKNOWN], rows[y[rows] != UNKNOWN]
    if len(unlabelled) > max_rows:
        num_left_out += len(unlabelled) - max_rows
        unlabelled = np.random.default_rng(config.seed).choice(unlabelled, max_rows, False)
    rows = np.sort(np.concatenate([labelled, unlabelled]))
    if len(rows) < 50 or held_out.sum() < 5:
        raise RunError(
            "expected at least 50 complete rows to fit to and 5 to hold out. Received: "
            f"{len(rows)} and {int(held_out.sum())}"
        )
    without = [name for code, name in enumerate(names) if not (y[labelled] == code).any()]
    if without:
        raise RunError(
            f"expected labelled rows of every condition. Received: all labelled rows of "
            f"{', '.join(without)} are held out or incomplete; label more"
        )
    stopping = np.flatnonzero(held_out & (y != UNKNOWN))
    unlabelled = np.flatnonzero(held_out & (y == UNKNOWN))
    most = max(5, round(max_rows * VALIDATION_SHARE / (1.0 - VALIDATION_SHARE)))
    if len(unlabelled) > most:
        unlabelled = np.random.default_rng([config.seed, 1]).choice(unlabelled, most, False)
    stopping = np.sort(np.concatenate([stopping, unlabelled]))

    spread = values[rows].std(0)
    constant = [name for name, std in zip(columns, spread, strict=True) if not std > MIN_STD]
    if constant:
        others = ",".join(name for name in columns if name not in constant)
        raise RunError(
            f"expected measurements that vary. Received: {', '.join(constant)} with the same value "
            f"in all rows; leave out what says nothing: --inputs={others}"
        )
    settings = {
        "columns": list(columns),
        "conditions": names,
        "false_alarm_rate": false_alarm_rate,
        "num_samples": NUM_SAMPLES,
    }
    return settings, _Rows(frame, values, y, rows, held_out, stopping, num_left_out)


class _Rows(NamedTuple):
    """What a version is fitted to and examined on: N complete rows."""

    frame: "pandas.DataFrame"  # noqa: F821  loaded where it is needed
    values: np.ndarray  # [N, D]
    y: np.ndarray  # [N], UNKNOWN without a label
    fitted: np.ndarray  # places of the rows that are fitted to
    held_out: np.ndarray  # [N], booleans
    stopping: np.ndarray  # places of the held-out rows whose bound stops the training
    num_left_out: int  # rows besides, not complete or too many


def _replace(folder, settings, config, rows, old, jit_compile):
    """Trains a candidate, examines it, and puts it into use."""
    used = np.concatenate([rows.fitted, np.flatnonzero(rows.held_out)])
    candidate = _claimed(folder, settings, config, rows.values[used], rows.y[used])
    monitor, summary = _train(candidate, settings, config, rows, jit_compile)
    reasons = [] if old is None else _objections(summary, old, monitor, rows)
    summary["objections"] = reasons
    state = current(folder)
    if old is not None and state["version"] != old.version:
        raise RunError(
            f"version {state['version']} of {folder} is in use by now, not {old.version}, with which "
            "the new one was compared: the same command again compares it with that one"
        )
    files.write_json(os.path.join(candidate, "monitor.json"), monitor.settings)
    files.write_json(os.path.join(candidate, "summary.json"), summary)
    name = _next_version(folder)
    place = os.path.join(folder, "rejected" if reasons else "versions", name)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    shutil.rmtree(os.path.join(candidate, "checkpoints"), ignore_errors=True)
    os.rename(candidate, place)
    if reasons:
        raise RunError(
            f"the new version does not pass and the old one stays in use: {'; '.join(reasons)}; "
            f"the candidate lies in {place}"
        )
    files.write_json(
        os.path.join(folder, "current.json"),
        {"version": name, "previous": state["version"] if state else None},
    )
    for unfinished in glob.glob(os.path.join(glob.escape(folder), "candidate-*")):
        shutil.rmtree(unfinished)
    return {**summary, "version": name}


@contextlib.contextmanager
def _alone(folder):
    """Holds the folder's lock, which goes with the process, however that ends.

    Raises:
      RunError: if another process fits there.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        lock = open(os.path.join(folder, "lock"), "w")
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another process fits in {folder}: wait for it") from error
        yield


def _claimed(folder, settings, config, values, y):
    """The folder of the candidate of this very fit, where there may be its beginning already. What
    other fits have begun, with other settings or rows, stays until a version is put into use."""
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes() + y.tobytes()).hexdigest()
    fit = {"settings": settings, "config": configuration.to_json(config), "data": digest}
    text = json.dumps(fit, indent=2, sort_keys=True) + "\n"
    name = f"candidate-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    candidate = os.path.join(folder, name)
    try:
        os.makedirs(candidate, exist_ok=True)
        files.write_text(os.path.join(candidate, "fit.json"), text)
    except OSError as error:
        raise RunError(f"cannot write to {candidate}: {error}") from error
    return candidate


def _train(candidate, settings, config, rows, jit_compile):
    """The fitted `Monitor` and its summary."""
    from tfhvae import experiments
    from tfhvae.monitoring.learning import Learner

    began = time.monotonic()
    names, columns = settings["conditions"], tuple(settings["columns"])
    _, values, y, fitted, held_out, stopping, num_left_out = rows
    scale = Standardisation.of(values[fitted], columns)
    x = scale(values)
    steps = max(1, len(fitted) // config.training.batch_size)
    learner = Learner(config, len(columns), names, steps, jit_compile)
    state = learner.fit(x[fitted], y[fitted], x[stopping], config.seed, candidate)
    bound = learner.score(x[fitted], settings["num_samples"])[1]
    settings = {
        **settings,
        "standardisation": scale.to_json(),
        "threshold": float(np.quantile(bound, settings["false_alarm_rate"])),
    }
    with files.atomic_path(os.path.join(candidate, "model.keras")) as temporary:
        learner.model.save(temporary)
    monitor = Monitor(learner.model, settings, jit_compile)
    probabilities, bound = learner.score(x[held_out], settings["num_samples"])
    summary = {
        "rows": len(fitted),
        "rows_left_out": num_left_out,
        "labels": {name: int((y[fitted] == code).sum()) for code, name in enumerate(names)},
        "columns": list(columns),
        "epochs": state.epoch,
        "best_epoch": state.best_epoch or state.epoch,
        "stopped_early": state.stopped_early,
        "threshold": settings["threshold"],
        "held_out/rows": int(held_out.sum()),
        "held_out/bound": float(bound.mean()),
        "held_out/false_alarm_rate": float(np.mean(bound < settings["threshold"])),
        **_labelled_accuracy(probabilities.argmax(-1), y[held_out], names),
        "seconds": round(time.monotonic() - began, 1),
        "seed": config.seed,
        "commit": experiments.commit(),
    }
    return monitor, summary


def _labelled_accuracy(predictions, y, names):
    known = y != UNKNOWN
    return {
        "held_out/labels": int(known.sum()),
        "held_out/accuracy": _percent(predictions[known] == y[known]),
        "held_out/recall": {
            name: _percent(predictions[y == code] == code) for code, name in enumerate(names)
        },
    }


def _percent(is_right):
    """None without rows."""
    return float(100.0 * np.mean(is_right)) if len(is_right) else None


def _objections(summary, old, new, rows):
    """Why a candidate must not take the old version's place: nothing, or sentences."""
    from scipy.stats import binom

    frame, y = rows.frame[rows.held_out], rows.y[rows.held_out]
    reasons = []
    of_old = (y != UNKNOWN) & (y < len(old.names))
    if of_old.any():
        accuracy = {}
        for which, monitor in (("old", old), ("new", new)):
            states, probabilities, _ = monitor.score(frame[of_old])
            guesses = np.where(states == 0, np.nan_to_num(probabilities).argmax(-1), UNKNOWN)
            accuracy[which] = _percent(guesses == y[of_old])
        summary["held_out/accuracy_on_old_conditions"] = accuracy
        if accuracy["new"] < accuracy["old"] - ACCURACY_MARGIN:
            reasons.append(
                f"right about {accuracy['new']:.1f} % of the held-out rows of known conditions, "
                f"the old version about {accuracy['old']:.1f} %"
            )
    for code in range(len(old.names), len(new.names)):
        name, count = new.names[code], int((y == code).sum())
        recall = summary["held_out/recall"][name]
        if count >= LEAST_ROWS and recall < 100 * LEAST_RECALL:
            reasons.append(f"recalls {recall:.1f} % of the new condition {name}")
    limit = FALSE_ALARM_FACTOR * new.settings["false_alarm_rate"]
    rate = summary["held_out/false_alarm_rate"]
    alarms = round(rate * len(y))
    by_chance = binom.sf(alarms - 1, len(y), new.settings["false_alarm_rate"])
    if rate > limit and by_chance < FALSE_ALARM_CHANCE:  # of few rows, one may be a large share
        reasons.append(f"false alarms on {100 * rate:.1f} % of held-out rows, at most "
                       f"{100 * limit:.1f} % are accepted")  # fmt: skip
    return reasons


# Scoring ---------------------------------------------------------------------------------------


def score_log(monitor, frames, out, has_labels=False):
    """Scores frames, one after the other, into a CSV or Parquet file that appears when it is whole.

    Columns: time, the measurements, `label` (if there are labels), state, condition (the most
    probable one), probability, bound (nats), is_anomaly, and `p_NAME` of every condition. Rows
    that are not "ok" have no condition.

    Args:
      frames: an iterable of data frames.
      out: ends in .csv or .parquet.

    Returns:
      `{"rows", "ok", "anomalies", "seconds"}`.

    Raises:
      RunError: for another ending, or a folder that cannot be written to.
    """
    ending = os.path.splitext(out)[1].lower()
    if ending not in (".csv", ".parquet"):
        raise RunError(f"expected an --out ending in .csv or .parquet. Received: {out}")
    counts = {"rows": 0, "ok": 0, "anomalies": 0}
    began, writer = time.monotonic(), None
    progress = bar(None, "scoring", "row")
    try:
        with files.atomic_path(out) as temporary:
            for frame in frames:
                table, ok, anomalies = _scored(monitor, frame, has_labels)
                writer = _writer(temporary, ending, table.schema) if writer is None else writer
                writer.write_table(table)
                for name, count in (("rows", len(frame)), ("ok", ok), ("anomalies", anomalies)):
                    counts[name] += count
                progress.update(len(frame))
            if writer is None:
                raise RunError("expected a log with rows. Received: an empty one")
            writer.close()
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        progress.close()
    return {**counts, "seconds": round(time.monotonic() - began, 2)}


def _writer(path, ending, schema):
    if ending == ".csv":
        import pyarrow.csv

        return pyarrow.csv.CSVWriter(
            path, schema, write_options=pyarrow.csv.WriteOptions(quoting_style="needed")
        )
    import pyarrow.parquet

    return pyarrow.parquet.ParquetWriter(path, schema)


def _scored(monitor, frame, has_labels):
    """One chunk as a `pyarrow.Table`, its rows that are "ok", and its anomalies."""
    import pyarrow as pa

    states, probabilities, bound = monitor.score(frame)
    is_ok = states == 0
    is_anomaly = is_ok & (bound < monitor.threshold)
    best = np.nan_to_num(probabilities).argmax(-1)

    def numbers(values, decimals):
        values = np.round(np.asarray(values, np.float64), decimals)
        return pa.array(values, mask=~np.isfinite(values))

    def words(codes, names, known=None):
        mask = None if known is None else ~known
        codes = pa.array(codes.astype(np.int32), mask=mask)
        return pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string())).cast(pa.string())

    times = frame.index.tz_convert("UTC").as_unit("s").asi8
    table = {"time": pa.array(times, pa.timestamp("s", "UTC"))}
    for name in monitor.columns:
        table[name] = numbers(frame[name], 4)
    if has_labels:
        names = names_of(frame) or [""]
        codes = codes_of(frame, names)
        table["label"] = words(np.maximum(codes, 0), names, codes != UNKNOWN)
    table |= {
        "state": words(states, STATES),
        "condition": words(best, monitor.names, is_ok),
        "probability": numbers(probabilities[np.arange(len(best)), best], 4),
        "bound": numbers(bound, 3),
        "is_anomaly": pa.array(is_anomaly),
    }
    for code, name in enumerate(monitor.names):
        table[f"p_{name}"] = numbers(probabilities[:, code], 4)
    return pa.table(table), int(is_ok.sum()), int(is_anomaly.sum())
