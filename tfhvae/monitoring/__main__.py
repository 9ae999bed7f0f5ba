"""Condition monitoring of photovoltaic plants.

    python -m tfhvae.monitoring simulate --out=plant.csv --labels_per_condition=50
    python -m tfhvae.monitoring fit plant.csv --out=monitor
    python -m tfhvae.monitoring score new.csv --model=monitor --out=scores.csv
    python -m tfhvae.monitoring report scores.csv --model=monitor --out=report.html
    python -m tfhvae.monitoring fit plant.csv new.csv --update=monitor
    python -m tfhvae.monitoring experiment supervised --out=runs/pv_supervised

`COMMAND --help` says the rest. What was stopped goes on when the same command is typed again.
"""

import argparse
import contextlib
import os
import subprocess
import sys

from tfhvae import configuration, files, startup
from tfhvae.data import DataError
from tfhvae.errors import RunError
from tfhvae.monitoring import plant, samples

_STUDIES = ("supervised", "labels", "progressive")
_EXTRA = "expected the extra [pv]: pip install 'tfhvae[pv]'. Received: no package {}"


class _Parser(argparse.ArgumentParser):
    """Errors of one line."""

    def error(self, message):
        raise RunError(f"{message}; see `{self.prog} --help`")


def main(arguments=None):
    """Does what the command line says.

    Raises:
      RunError, DataError: one line for the person who typed it.
    """
    options = _parser().parse_args(arguments)
    options.typed = sys.argv[1:] if arguments is None else list(arguments)
    try:
        options.command(options)
    except ModuleNotFoundError as error:
        if "[pv]" in str(error):
            raise RunError(str(error)) from error
        if (error.name or "").partition(".")[0] in ("pandas", "pvlib", "pyarrow"):
            raise RunError(_EXTRA.format(error.name)) from error
        raise


def _parser():
    parser = _Parser(
        "python -m tfhvae.monitoring",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name, function, text, detail=""):
        own = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}. {detail}",
            allow_abbrev=False,
        )
        own.set_defaults(command=function)
        return own

    own = command(
        "simulate", _simulate, "write a log of the simulated plant",
        "Ten conditions, one row a minute, in the columns that `fit` and `score` read.",
    )  # fmt: skip
    own.add_argument("--out", required=True, help="file to write, .csv or .parquet")
    own.add_argument("--days", type=_positive, default=61, help="length (default: 61)")
    own.add_argument("--seed", type=int, default=0, help="of weather and noise (default: 0)")
    own.add_argument(
        "--labels_per_condition", type=_count, metavar="N",
        help="keep N labels of every condition, drawn at random (default: all)",
    )  # fmt: skip
    own.add_argument(
        "--conditions", type=_names, metavar="A,B", help="only rows of these conditions"
    )

    own = command(
        "fit", _fit, "fit a monitor to logs, some rows of which have labels",
        "A new version of an existing monitor (--update) comes into use only when it has passed "
        "on rows that were held out; until then, and if not, the old one stays.",
    )  # fmt: skip
    own.add_argument("logs", nargs="+", help="files of measurements, .csv or .parquet")
    place = own.add_mutually_exclusive_group(required=True)
    place.add_argument("--out", help="folder of a new monitor")
    place.add_argument("--update", metavar="FOLDER", help="folder of the monitor to replace")
    _add_log_options(own)
    own.add_argument(
        "--inputs", type=_names, metavar="I,V",
        help="columns that the model sees (default: those of I,V,G,TExt,TMod,W that the logs have)",
    )  # fmt: skip
    own.add_argument(
        "--false_alarm_rate", type=_share, metavar="SHARE",
        help="of ordinary rows below the threshold (default: 0.01, or as the monitor to replace)",
    )  # fmt: skip
    own.add_argument(
        "--max_rows", type=_positive, default=200_000, metavar="N",
        help="rows without label beyond N are left out at random (default: 200000)",
    )  # fmt: skip
    _add_training_options(own)

    own = command("score", _score, "put a monitor to a log of any length", _SCORES)
    own.add_argument("log", help="file of measurements, .csv or .parquet")
    own.add_argument("--model", required=True, metavar="FOLDER", help="the monitor's folder")
    own.add_argument("--out", required=True, help="file to write, .csv or .parquet")
    _add_log_options(own)
    own.add_argument(
        "--chunk_rows", type=_positive, default=100_000, metavar="N",
        help="rows in memory (default: 100000)",
    )  # fmt: skip
    own.add_argument("--threads", type=_count, default=0, help="CPU threads (default: all)")

    own = command("report", _report, "write one HTML page about a file of scores")
    own.add_argument("scores", help="what `score` wrote")
    own.add_argument("--model", required=True, metavar="FOLDER", help="the monitor's folder")
    own.add_argument("--out", required=True, help="file to write, .html")
    own.add_argument("--title", default="Condition monitoring", help="heading of the page")

    own = command(
        "rollback", _rollback, "put the version before into use again",
        "A second rollback undoes the first.",
    )  # fmt: skip
    own.add_argument("--model", required=True, metavar="FOLDER", help="the monitor's folder")

    own = command(
        "experiment", _experiment, "repeat an experiment of the paper, beside its numbers",
        "Writes summary.json, table.csv and figures; goes on with the parts that are missing.",
    )  # fmt: skip
    own.add_argument("study", choices=_STUDIES, help="which one")
    own.add_argument("--out", required=True, help="the study's folder")
    own.add_argument(
        "--log", action="append", help="measurements with labels (default: the simulated plant)"
    )
    _add_log_options(own)
    own.add_argument("--days", type=_positive, default=61, help="of the simulation (default: 61)")
    own.add_argument(
        "--inputs", choices=(*samples.INPUTS, "both"), default=None,
        help="iv, all six, or both (default: both; progressive: all)",
    )  # fmt: skip
    own.add_argument("--folds", type=_positive, default=5, help="of supervised (default: 5)")
    own.add_argument(
        "--draws", type=_positive,
        help="draws of the labelled rows (default: 10 of labels, 1 of progressive)",
    )  # fmt: skip
    own.add_argument(
        "--counts",
        type=_counts,
        metavar="N,M",
        help="numbers of labels (default: 100,300,...,1500)",
    )
    own.add_argument(
        "--false_alarm_rate", type=_share, default=0.01, metavar="SHARE",
        help="of progressive, behind its threshold (default: 0.01)",
    )  # fmt: skip
    own.add_argument(
        "--processes", type=_positive, default=1, metavar="N",
        help="train N models at a time, on their share of the threads (default: 1)",
    )  # fmt: skip
    _add_training_options(own)
    return parser


_SCORES = (
    "Columns of the output: time, the measurements, label (if the log has some), state (ok "
    "or incomplete), condition, its probability, bound (nats), is_anomaly, and the "
    "probability of every condition."
)


_LOG_OPTIONS = (
    ("columns", "I=Ia,V=Va", "what the logs call I, V, G, TExt, TMod, W (default: the same)"),
    ("units", "V:mV,TMod:K", "where they are not A, V, W/m^2, degC, m/s"),
    ("time_column", "NAME", "column of the time (default: time, timestamp, datetime or date)"),
    (
        "time_format",
        "FORMAT",
        "of times that are not ISO 8601, such as '%%d.%%m.%%Y %%H:%%M', or unix",
    ),
    ("timezone", "ZONE", "of times without an offset, such as Europe/Copenhagen"),
    ("label_column", "NAME", "column of the conditions (default: condition)"),
    ("labels", "0.0=N,3.1=PS50", "the condition behind each label of the logs"),
    ("conditions", "A,B", "names of the conditions (default: the ten of the paper)"),
    ("separator", "CHAR", "of a CSV file (default: ,)"),
    ("decimal", "CHAR", "of a CSV file (default: .)"),
    ("encoding", "NAME", "of a CSV file, such as cp1252 or utf-16 (default: utf-8)"),
    ("daylight", "W/M2", "least G of a row that is used (default: 50)"),
    ("limits", "V=-5:1000", "what a measurement may be (default: see docs/monitoring-data.md)"),
    (
        "stuck",
        "I=120,W=0",
        "equal readings in a row of a stuck sensor; 0: no test (default: I=60, …)",
    ),
    (
        "on_error",
        "raise|drop",
        "refuse a log with unusable rows, or leave these out (default: raise)",
    ),
)
_LOG_TYPES = {"conditions": "names", "daylight": float, "on_error": ("raise", "drop")}


def _add_log_options(parser):
    group = parser.add_argument_group(
        "how logs are read",
        "`score` and `fit --update` read logs as `fit` did, where nothing is said.",
    )
    for name, metavar, text in _LOG_OPTIONS:
        kind = _LOG_TYPES.get(name, str)
        if isinstance(kind, tuple):
            group.add_argument(f"--{name}", choices=kind, help=text)
        else:
            kind = _names if kind == "names" else kind
            group.add_argument(f"--{name}", metavar=metavar, type=kind, help=text)


def _add_training_options(parser):
    parser.add_argument("--epochs", type=_positive, help="passes over the rows, at most")
    parser.add_argument("--seed", type=_count, default=0, help="of every draw (default: 0)")
    parser.add_argument("--threads", type=_count, default=0, help="CPU threads (default: all)")


def _number(text, kind, is_right, expected):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not is_right(value):
        raise argparse.ArgumentTypeError(f"expected {expected}. Received: {text!r}")
    return value


def _positive(text):
    return _number(text, int, lambda value: value > 0, "a whole number above 0")


def _count(text):
    return _number(text, int, lambda value: 0 <= value < 2**31, "a whole number, 0 or above")


def _share(text):
    return _number(text, float, lambda value: 0.0 < value < 1.0, "a number between 0 and 1")


def _names(text):
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _counts(text):
    return tuple(_positive(part) for part in text.split(","))


def _start(options):
    """Loads TensorFlow, only now, so that --help and mistakes are answered at once."""
    startup.import_tensorflow()
    import tensorflow as tf

    if options.threads:
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
        tf.config.threading.set_inter_op_parallelism_threads(options.threads)


def _config(options, dataset="pv_simulated"):
    config = configuration.photovoltaic(dataset)
    config.seed = options.seed
    if options.epochs:
        config.training.epochs = options.epochs
    configuration.check(config)
    return config


def _read(paths, log, inputs=None):
    """The logs, read as `log` says, together; what was left out is printed. Labels may be missing in
    some, measurements not."""
    from tfhvae.monitoring import logs

    frames = []
    for path in paths:
        report = logs.Report()
        try:
            frame = logs.read_log(path, **log, inputs=inputs, needs_labels=False, report=report)
        except ValueError as error:  # an option of the command line
            raise RunError(str(error)) from error
        print(f"{path}: {report}".replace("\n", "\n  "))
        frames.append(frame)
    column = log.get("label_column")
    if column is not None and not any(samples.LABEL in frame for frame in frames):
        raise RunError(f"expected the label column {column!r} in one log at least. Received: none")
    measured = [[name for name in frame if name != samples.LABEL] for frame in frames]
    for path, names in zip(paths, measured, strict=True):
        if names != measured[0]:
            raise RunError(
                "expected the same measurements in all logs, or --inputs of those that they share."
                f" Received: {', '.join(measured[0])} in {paths[0]}, {', '.join(names)} in {path}"
            )
    frame = plant.joined(frames)
    if repeated := sum(map(len, frames)) - len(frame):
        print(f"{repeated:,} rows of two logs taken once")
    return frame


def _log_arguments(options, stored=None):
    """Arguments of `read_log`: what was said, else what `fit` was told."""
    given = {name: getattr(options, name) for name, _, _ in _LOG_OPTIONS}
    return {**(stored or {}), **{name: v for name, v in given.items() if v is not None}}


def _settings(folder):
    """`monitor.json` of the version in use."""
    path = os.path.join(plant.version_folder(folder), "monitor.json")
    try:
        return files.read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is not readable: {error}") from error


def _simulated(options):
    from tfhvae.monitoring.simulate import simulate

    try:
        return simulate(days=options.days, seed=options.seed)
    except ValueError as error:  # --days
        raise RunError(str(error)) from error


def _simulate(options):
    import numpy as np

    ending = os.path.splitext(options.out)[1].lower()
    if ending not in (".csv", ".parquet"):
        raise RunError(f"expected an --out ending in .csv or .parquet. Received: {options.out}")
    frame = _simulated(options)
    if options.conditions:
        samples.codes_of(frame, known := list(frame[samples.LABEL].cat.categories))
        strange = [name for name in options.conditions if name not in known]
        if strange:
            raise RunError(
                f"expected conditions among {', '.join(known)}. Received: {', '.join(strange)}"
            )
        frame = frame[frame[samples.LABEL].isin(options.conditions)]
    if options.labels_per_condition is not None:
        rng = np.random.default_rng([options.seed, 0x1AB])
        kept = np.zeros(len(frame), bool)
        codes = frame[samples.LABEL].cat.codes.to_numpy()
        for code in np.unique(codes):
            members = rng.permutation(np.flatnonzero(codes == code))
            kept[members[: options.labels_per_condition]] = True
        frame = frame.assign(**{samples.LABEL: frame[samples.LABEL].where(kept)})
    try:
        with files.atomic_path(options.out) as temporary:
            if ending == ".csv":
                frame.round(4).to_csv(temporary)
            else:
                frame.to_parquet(temporary)
    except OSError as error:
        raise RunError(f"cannot write {options.out}: {error.strerror or error}") from error
    print(f"{len(frame):,} rows, {int(frame[samples.LABEL].notna().sum()):,} with a label")
    print(options.out)


def _fit(options):
    config = _config(options)
    folder = options.update or options.out
    log = _log_arguments(options, _settings(folder)["log"] if options.update else None)
    if not options.update and plant.current(folder) is not None:
        raise RunError(
            f"{folder} holds a fitted monitor: expected --update={folder}, or another --out"
        )
    inputs = options.inputs
    if options.update:  # the version in use is compared with the new one on the same rows
        inputs = list(dict.fromkeys([*(inputs or []), *_settings(folder)["columns"]]))
    frame = _read(options.logs, log, inputs)
    _start(options)
    summary = plant.fit(
        frame,
        folder,
        config,
        options.inputs,
        options.false_alarm_rate,
        options.max_rows,
        bool(options.update),
        log,
    )
    accuracy = summary["held_out/accuracy"]
    _print(
        {
            "version": summary["version"],
            "inputs": ", ".join(summary["columns"]),
            "rows": f"{summary['rows']:,}, {summary['rows_left_out']:,} left out",
            "labels": ", ".join(f"{name} {n}" for name, n in summary["labels"].items()),
            "epochs": f"{summary['epochs']}, the best is {summary['best_epoch']}",
            "held-out accuracy": "no labels" if accuracy is None else f"{accuracy:.2f} %",
            "held-out false alarms": f"{100 * summary['held_out/false_alarm_rate']:.2f} %",
            "threshold": f"{summary['threshold']:.2f} nats",
            "folder": folder,
        }
    )


def _check_out(out, read):
    """Refuses to write over what is read."""
    if os.path.realpath(out) == os.path.realpath(read):
        raise RunError(f"expected an --out other than what is read. Received: {out} for both")


def _score(options):
    from tfhvae.monitoring import logs

    _check_out(options.out, options.log)
    settings, report = _settings(options.model), logs.Report()
    log = {
        **_log_arguments(options, settings["log"]),
        "inputs": settings["columns"],
        "needs_labels": options.label_column is not None,
        "allow_missing": True,
    }
    try:
        frames = iter(
            logs.iter_log(options.log, chunk_rows=options.chunk_rows, **log, report=report)
        )
        first = next(frames, None)
    except ValueError as error:  # an option of the command line
        raise RunError(str(error)) from error
    if first is None:
        raise RunError(
            f"expected usable rows in {options.log}. Received: {report}".replace("\n", "; ")
        )
    _start(options)
    monitor = plant.Monitor.load(options.model)
    has_labels = samples.LABEL in first.columns

    def chunks():
        yield first
        yield from frames

    counts = plant.score_log(monitor, chunks(), options.out, has_labels)
    print(report)
    share = 100 * counts["anomalies"] / max(counts["ok"], 1)
    _print(
        {
            "rows": f"{counts['rows']:,}, {counts['ok']:,} scored",
            "anomalies": f"{counts['anomalies']:,} ({share:.2f} %)",
            "speed": f"{counts['rows'] / max(counts['seconds'], 0.01):,.0f} rows/s",
            "scores": options.out,
        }
    )


def _report(options):
    from tfhvae.monitoring import report

    _check_out(options.out, options.scores)
    settings = _settings(options.model)
    report.write(
        options.scores,
        options.out,
        settings["conditions"],
        settings["threshold"],
        options.title,
        report.details_of(options.model, settings),
    )
    print(options.out)


def _rollback(options):
    print(f"version {plant.roll_back(options.model)} is in use")


def _experiment(options):
    config = _config(options)
    if options.log:
        frame = _read(options.log, _log_arguments(options))
        source = ", ".join(os.path.basename(path) for path in options.log)
    else:
        frame = _simulated(options)
        source = f"simulated, {options.days} days, seed {options.seed}"
    if options.processes > 1 and not options.threads:
        options.threads = max(1, (os.cpu_count() or 1) // options.processes)
    _start(options)
    from tfhvae.monitoring import studies

    inputs = options.inputs or ("all" if options.study == "progressive" else "both")
    if options.study == "progressive" and inputs == "both":
        raise RunError("expected --inputs=iv or --inputs=all of progressive. Received: both")
    settings = {
        "data": source,
        "seed": options.seed,
        "inputs": list(samples.INPUTS) if inputs == "both" else [inputs],
    }
    if options.study == "progressive":
        settings["false_alarm_rate"] = options.false_alarm_rate
        settings["standardised_by"] = "the training rows of the stage"
    study = studies.Study(frame, options.out, options.study, settings, config)
    with _helpers(options):
        if options.study == "supervised":
            summary = studies.supervised(study, options.folds)
        elif options.study == "labels":
            counts = options.counts or studies.LABEL_COUNTS
            summary = studies.labels(study, options.draws or 10, counts)
        else:
            summary = studies.progressive(study, options.draws or 1, options.false_alarm_rate)
    _print_table(summary)
    print(f"study's folder: {options.out}")


@contextlib.contextmanager
def _helpers(options):
    """Processes that do the same study beside this one, as if typed in other terminals."""
    command = [sys.executable, "-m", "tfhvae.monitoring", *options.typed]
    command += ["--processes=1", f"--threads={options.threads}"]
    log = os.path.join(options.out, "helper-{}.log")
    helpers = []
    try:
        for number in range(1, options.processes):
            with open(log.format(number), "w") as file:
                helpers.append(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT))
        yield
    finally:
        for number, helper in enumerate(helpers, 1):
            if helper.poll():
                print(f"a process ended early, see {log.format(number)}", file=sys.stderr)
            helper.terminate()
            helper.wait()


def _print(values):
    width = max(map(len, values)) + 2
    for name, value in values.items():
        print(f"{name:{width}s}{value}")


def _print_table(summary):
    names = [name for name in summary["rows"][0] if not name.endswith("_std")]
    rows = [[_cell(row[name]) for name in names] for row in summary["rows"]]
    widths = [max(map(len, column)) for column in zip(names, *rows)]
    for row in (names, *rows):
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths)))
    if summary["remark"]:
        print(f"paper: {summary['source']}; {summary['remark']}")


def _cell(value):
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    try:
        main()
    except (RunError, DataError) as mistake:
        sys.exit(f"error: {str(mistake).strip().splitlines()[0]}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on from there")
