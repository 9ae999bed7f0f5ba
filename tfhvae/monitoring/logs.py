"""Logs of real plants, read into the form that `simulate` gives.

`read_log` reads a CSV or Parquet file, `iter_log` one that is larger than memory. What cannot be
believed is refused with the row named, or dropped and counted in a `Report`; nothing is guessed.
"""

import codecs
import contextlib
import dataclasses
import os
import re
import zipfile
import zlib

import numpy as np

from tfhvae.errors import RunError
from tfhvae.monitoring.simulate import COLUMNS, CONDITIONS, DAYLIGHT, _pandas, _required

try:
    from pytz import InvalidTimeError

    _CLOCK_ERRORS = (ValueError, InvalidTimeError)  # the latter from pandas 2
except ModuleNotFoundError:
    _CLOCK_ERRORS = (ValueError,)

UNITS = {"I": "A", "V": "V", "G": "W/m^2", "TExt": "degC", "TMod": "degC", "W": "m/s"}

# Unit of a file -> (factor, offset) to that of UNITS, by quantity.
_TEMPERATURE = {"degC": (1.0, 0.0), "K": (1.0, -273.15), "degF": (5 / 9, -160 / 9)}
CONVERSIONS = {
    "I": {"A": (1.0, 0.0), "mA": (1e-3, 0.0)},
    "V": {"V": (1.0, 0.0), "mV": (1e-3, 0.0), "kV": (1e3, 0.0)},
    "G": {"W/m^2": (1.0, 0.0), "kW/m^2": (1e3, 0.0)},
    "TExt": _TEMPERATURE,
    "TMod": _TEMPERATURE,
    "W": {"m/s": (1.0, 0.0), "km/h": (1 / 3.6, 0.0), "mph": (0.44704, 0.0), "kn": (0.514444, 0.0)},
}

# What a plant may show. 1500 V is the end of low voltage for direct current.
LIMITS = {
    "I": (-1.0, 1000.0), "V": (-5.0, 1500.0), "G": (-20.0, 1800.0), "TExt": (-60.0, 60.0),
    "TMod": (-60.0, 110.0), "W": (0.0, 75.0),
}  # fmt: skip

# Equal readings in a row, by daylight, after which a sensor counts as stuck. Air may be still, and
# a thermometer coarse, for hours.
STUCK = {"I": 60, "V": 60, "G": 60, "TExt": 600, "TMod": 120, "W": 600}

POWER = 20.0  # W above which a plant is at work

COLUMN_ROWS = 10  # so many rows, most of them out of range, show that a whole column is wrong

_TIME_NAMES = ("time", "Time", "timestamp", "Timestamp", "datetime", "date", "")
_MISSING = {"", "nan", "na", "n/a", "#n/a", "null", "none", "-", "nat", "<na>"}
_YEAR_2100 = 4_102_444_800
# What pandas raises of a file that is none, or damaged.
UNREADABLE = (ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile)
_OFFSET = re.compile(r"(?:Z|[+-]\d\d(?::?\d\d)?)$")


@dataclasses.dataclass
class Report:
    """What reading a log left out, and why.

    rows: rows of the file that were read.
    kept: rows given back.
    dropped: {reason: rows}.
    first: {reason: place of the first such row}.
    moved: rows put into the order of time.
    """

    rows: int = 0
    kept: int = 0
    dropped: dict = dataclasses.field(default_factory=dict)
    first: dict = dataclasses.field(default_factory=dict)
    moved: int = 0

    def add(self, reason, count, place):
        self.dropped[reason] = self.dropped.get(reason, 0) + count
        self.first.setdefault(reason, place)

    def __str__(self):
        lines = [f"{self.kept:,} of {self.rows:,} rows kept"]
        for reason, count in self.dropped.items():
            lines.append(f"{count:,} dropped: {reason}, first at {self.first[reason]}")
        if self.moved:
            lines.append(f"{self.moved:,} rows put into the order of time")
        return "\n".join(lines)


def read_log(path, columns=None, time_column=None, timezone=None, label_column=None, **options):
    """Reads a log as `simulate` gives one.

    Args:
      path: `.csv`, `.csv.gz` or `.parquet` file.
      columns: the file's name of each quantity, a dict {"I": "Ia", …} or text "I=Ia,V=Va"; by
        default I, V, G, TExt, TMod, W as far as the file has them. I and V are needed.
      time_column: by default "time", "timestamp", "datetime", "date" or a first column without a
        name.
      timezone: such as "Europe/Copenhagen", for times without an offset. Times with one, which may
        differ from row to row, need none.
      label_column: by default "condition" if the file has it. Empty labels are allowed.
      **options:
        inputs: quantities to read, such as ("I", "V"), these two among them; by default all there
          are. G tells night from day also where it is not among them.
        units: where they differ from `UNITS`, a dict or text "V:mV,TMod:K"; see `CONVERSIONS`.
        labels: the file's label of each condition, a dict {"0.0": "N"} or text "0.0=N,3.1=PS50".
        conditions: names of the conditions, by default `CONDITIONS`.
        time_format: of times that are not ISO 8601, such as "%d.%m.%Y %H:%M", or "unix" for
          seconds since 1970, up to 2100.
        separator, decimal, encoding: of a CSV file, by default ",", "." and UTF-8.
        daylight: least G (W/m^2) of a row that is kept. Without G, rows are dropped where I is
          zero and V is zero or empty.
        limits, stuck: what differs from `LIMITS` and `STUCK`, dicts or text "V=-5:1000" and
          "I=120,W=0"; 0 for no such test.
        needs_labels: whether `label_column`, if named, has to be there (True).
        allow_missing: whether rows with a missing measurement are kept, with NaN (False).
        on_error: "raise", or "drop" to leave out the rows that cannot be used.
        report: a `Report` to be filled.

    Returns:
      `pandas.DataFrame` in the order of time. Index "time", UTC; float columns, and `condition`,
      a categorical of `conditions` with NaN where there is no label, if there is a label column.

    Raises:
      RunError: if the file or a row of it cannot be used.
      ValueError: for an option without a meaning.
    """
    source = _Source(path, columns, time_column, label_column, options)
    cleaner = _Cleaner(source, timezone, options, streaming=False)
    pd = _pandas()
    return cleaner.clean(pd.concat(list(source.chunks(1_000_000))))


def iter_log(
    path, chunk_rows=100_000, columns=None, time_column=None, timezone=None, label_column=None,
    **options,
):  # fmt: skip
    """Frames of at most `chunk_rows` rows, one after the other, of a log of any size.

    Arguments as of `read_log`. Rows are put into order within a chunk; under `on_error="drop"` one
    that is earlier than the chunk before it is dropped. Where a chunk would end within the hour that
    comes twice in autumn, its rows of that hour are in the next one, which has so many more.
    """
    if isinstance(chunk_rows, bool) or not isinstance(chunk_rows, int) or chunk_rows < 1:
        raise ValueError(f"expected chunk_rows to be an integer >= 1. Received: {chunk_rows!r}")
    source = _Source(path, columns, time_column, label_column, options)
    cleaner = _Cleaner(source, timezone, options, streaming=True)

    def frames():
        for chunk in cleaner.beside_clock_changes(source.chunks(chunk_rows)):
            frame = cleaner.clean(chunk)
            if len(frame):
                yield frame

    return frames()


def parse_mapping(text, separator="="):
    """The dict of a flag such as "I=Ia,V=Va"; a dict is given back as it is."""
    if text is None or isinstance(text, dict):
        return dict(text or {})
    pairs = [part.split(separator, 1) for part in text.split(",")]
    if any(len(pair) != 2 or not pair[0].strip() or not pair[1].strip() for pair in pairs):
        raise RunError(f'expected "NAME{separator}VALUE,…". Received: {text!r}')
    mapping = {key.strip(): value.strip() for key, value in pairs}
    if len(mapping) != len(pairs):
        raise RunError(f"expected every name once. Received: {text!r}")
    return mapping


def _numbers_of(option, given, count):
    """`{quantity: number}`, or of `(low, high)`, from a dict or text "V=-5:1000"."""
    known = {}
    for name, value in parse_mapping(given).items():
        if isinstance(value, str):
            try:
                value = tuple(float(part) for part in value.split(":"))
            except ValueError:
                value = ()
            value = value[0] if count == 1 and len(value) == 1 else value
        if name not in COLUMNS or np.size(value) != count:
            form = "I=120" if count == 1 else "V=-5:1000"
            raise RunError(f"expected {option} such as {form}. Received: {name}={value}")
        known[name] = value
    return known


class _Source:
    """A file, and which of its columns are wanted."""

    def __init__(self, path, columns, time_column, label_column, options):
        self.path = os.fspath(path)
        name = self.path.lower()
        if not os.path.isfile(self.path):
            raise RunError(f"expected a log file. Received: {self.path}, which is not there")
        if not name.endswith((".csv", ".csv.gz", ".parquet")):
            raise RunError(f"expected a .csv, .csv.gz or .parquet file. Received: {self.path}")
        self.is_csv = not name.endswith(".parquet")
        self.separator = options.pop("separator", ",")
        self.decimal = options.pop("decimal", ".")
        self.encoding = options.pop("encoding", "utf-8-sig")
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            raise RunError(
                f"expected the name of an encoding, such as cp1252. Received: {self.encoding!r}"
            ) from error
        self.names = self._header()
        self.wanted, self.quantities = self._choose(
            parse_mapping(columns), options.pop("inputs", None)
        )
        if options.get("daylight") is not None and "G" not in self.quantities:
            raise RunError(
                f"{self.path}: expected a column of G, to compare with daylight. Received:"
                f" {self._listed()}"
            )
        self.time_column = self._find("time", time_column, _TIME_NAMES)
        if label_column is None and {"state", "bound", "is_anomaly"} <= set(self.names):
            raise RunError(
                f"expected a log. Received: {self.path}, scores whose conditions are predictions; "
                "name the column of its labels, --label_column=label say, to take those"
            )
        is_needed = options.pop("needs_labels", True) and label_column is not None
        is_there = self._has("condition" if label_column is None else label_column)
        self.label_column = None
        if is_there or is_needed:
            self.label_column = self._find("label", label_column, ["condition"])

    def _header(self):
        try:
            if self.is_csv:
                frame = self._read_csv(nrows=0)
                names = [str(name) for name in frame.columns]
                # pandas names what has no name, and what stands twice
                self.nameless = names[0] if names and names[0] == "Unnamed: 0" else None
                written = self._read_csv(nrows=1, header=None).iloc[0].tolist()
            else:
                names = written = _required("pyarrow.parquet").read_schema(self.path).names
                self.nameless = "__index_level_0__"
        except UNREADABLE as error:
            raise self._unreadable(error) from error
        self.repeated = {name for name in written if name and written.count(name) > 1}
        return ["" if name == self.nameless else name for name in names]

    def _choose(self, mapping, inputs):
        for name in [*mapping, *(inputs or ())]:
            if name not in COLUMNS:
                raise RunError(f"expected quantities of {', '.join(COLUMNS)}. Received: {name!r}")
        wanted = {name: mapping.get(name, name) for name in COLUMNS}
        needed = set(inputs or ("I", "V")) | set(mapping) if inputs is None else set(inputs)
        missing = [
            wanted[name] for name in COLUMNS if name in needed and not self._has(wanted[name])
        ]
        if missing:
            raise RunError(
                f"{self.path}: expected columns {', '.join(missing)}. Received: {self._listed()}; name"
                ' others as "I=Ia,V=Va"'
            )
        if not {"I", "V"} <= needed:
            raise RunError(f"expected inputs with I and V. Received: {sorted(needed)}")
        chosen = {
            name: column
            for name, column in wanted.items()
            if name in needed or (inputs is None and self._has(column))
        }
        if len(set(chosen.values())) < len(chosen):
            raise RunError(f"expected a column for each quantity. Received: {chosen}")
        light = {"G": wanted["G"]} if self._has(wanted["G"]) else {}
        for column in (chosen | light).values():
            self._check_once(column)
        return list(chosen), chosen | light

    def _check_once(self, column):
        if column in self.repeated:
            raise RunError(
                f"{self.path}: expected one column {column}. Received: several of that name"
            )

    def _unreadable(self, error):
        hint = "; a file of another encoding needs its name, such as encoding=cp1252 or utf-16"
        is_encoded = isinstance(error, UnicodeError)
        return RunError(
            f"{self.path} cannot be read: {_one_line(error)}{hint if is_encoded else ''}"
        )

    def _has(self, column):
        return column in self.names

    def _listed(self):
        return ", ".join(name or "(no name)" for name in self.names)

    def _find(self, what, column, candidates):
        if column is not None and not self._has(column):
            raise RunError(
                f"{self.path}: expected the {what} column {column!r}. Received: {self._listed()}"
            )
        found = [name for name in candidates if self._has(name)] if column is None else [column]
        if not found:
            raise RunError(
                f"{self.path}: expected a {what} column, named by {what}_column. Received:"
                f" {self._listed()}"
            )
        self._check_once(found[0])
        return found[0]

    def _read_csv(self, **options):
        return _pandas().read_csv(
            self.path, sep=self.separator, dtype=str, keep_default_na=False, skip_blank_lines=False,
            encoding=self.encoding, **options,
        )  # fmt: skip

    def chunks(self, rows):
        """Raw columns under the names of the package: text of a CSV file, with the line in the
        file as index."""
        chosen = {"time": self.time_column, **self.quantities}
        if self.label_column is not None:
            chosen["condition"] = self.label_column
        stored = {
            name: self.nameless if column == "" else column for name, column in chosen.items()
        }
        # A column may serve twice, though that is odd: select after reading.
        use = list(dict.fromkeys(stored.values()))
        number, empty = 2 if self.is_csv else 1, True
        try:
            for raw in self._raw(use, rows):
                frame = _pandas().DataFrame({name: raw[column] for name, column in stored.items()})
                frame.index = np.arange(number, number + len(frame))
                number += len(frame)
                empty &= not len(frame)
                yield frame
        except UNREADABLE as error:
            raise self._unreadable(error) from error
        if empty:
            raise RunError(f"{self.path}: expected rows below the names. Received: none")

    def _raw(self, use, rows):
        if self.is_csv:
            # All columns, as pandas would shorten a row with too many cells to those wanted.
            with self._read_csv(chunksize=rows) as reader:
                for raw in reader:
                    if not isinstance(raw.index, _pandas().RangeIndex):
                        raise ValueError("expected as many cells in a row as names. Received: more")
                    yield raw
        else:
            file = _required("pyarrow.parquet").ParquetFile(self.path)
            for batch in file.iter_batches(batch_size=rows, columns=use):
                yield batch.to_pandas(ignore_metadata=True)


class _Cleaner:
    """Raw chunks of one file to frames; remembers where the chunk before ended."""

    def __init__(self, source, timezone, options, streaming):
        self.source, self.timezone, self.streaming = source, timezone, streaming
        self.units = parse_mapping(options.pop("units", None), ":")
        self.labels = parse_mapping(options.pop("labels", None))
        self.conditions = tuple(options.pop("conditions", None) or CONDITIONS)
        self.time_format = options.pop("time_format", None)
        daylight = options.pop("daylight", None)
        self.daylight = DAYLIGHT if daylight is None else daylight
        self.limits = {**LIMITS, **_numbers_of("limits", options.pop("limits", None), 2)}
        self.stuck = {**STUCK, **_numbers_of("stuck", options.pop("stuck", None), 1)}
        self.allow_missing = options.pop("allow_missing", False)
        self.on_error = options.pop("on_error", "raise")
        report = options.pop("report", None)
        self.report = Report() if report is None else report
        if options:
            raise ValueError(f"expected options of read_log. Received: {', '.join(options)}")
        if self.on_error not in ("raise", "drop"):
            raise ValueError(f'expected on_error "raise" or "drop". Received: {self.on_error!r}')
        for name, unit in self.units.items():
            if unit not in CONVERSIONS.get(name, {}):
                known = "; ".join(
                    f"{key}: {', '.join(units)}" for key, units in CONVERSIONS.items()
                )
                raise RunError(f"expected units of {known}. Received: {name}:{unit}")
        unknown = sorted(set(self.labels.values()) - set(self.conditions))
        if unknown:
            raise RunError(
                f"expected labels to name conditions of {', '.join(self.conditions)}. Received:"
                f" {', '.join(unknown)}"
            )
        self.last_time, self.has_offsets = None, False
        self.runs = {}  # quantity -> (value, how often in a row) at the end of the chunk before
        self.watts = None  # power of the plant over G, by daylight, as far as it is known

    def beside_clock_changes(self, chunks):
        """The same rows in chunks that do not end within an hour that comes twice: which of the two
        it is only the order of all of its rows can tell."""
        held = None
        for chunk in chunks:
            if held is not None and len(held):
                chunk = _pandas().concat([held, chunk])
            end = len(chunk) - self._ambiguous_at_end(chunk["time"])
            held = chunk.iloc[end:]
            if end:
                yield chunk.iloc[:end]
        if len(held):
            yield held

    def _ambiguous_at_end(self, column):
        """How many of the last rows have a time that comes twice."""
        if not self._is_ambiguous(column.iloc[-1:]).any():  # as nearly always
            return 0
        return int(self._is_ambiguous(column)[::-1].cumprod().sum())

    def _is_ambiguous(self, column):
        """Whether a time comes twice, `[rows]`; False where that cannot be said, which `clean`
        does."""
        pd, no = _pandas(), np.zeros(len(column), bool)
        if self.timezone is None or "%z" in (self.time_format or ""):
            return no
        if pd.api.types.is_datetime64_dtype(column):
            naive = column
        elif isinstance(column.dtype, pd.DatetimeTZDtype) or self.time_format == "unix":
            return no
        else:
            text = _text(column)
            text = text.mask(_has_offset(text))
            naive = pd.to_datetime(text, format=self.time_format or "ISO8601", errors="coerce")
        try:
            local = naive.dt.tz_localize(
                self.timezone, ambiguous="NaT", nonexistent="shift_forward"
            )
        except (LookupError, ValueError):  # an unknown zone
            return no
        return (naive.notna() & local.isna()).to_numpy()

    def clean(self, raw):
        self.report.rows += len(raw)
        names = self.source.wanted
        if self.source.is_csv:
            raw = self._leave_out(raw, (raw.isna() | (raw == "")).all(axis=1), "empty line")
        frame, text = raw.copy(), {}
        for name in self.source.quantities:
            frame[name], text[name] = self._numbers(raw[name])
            if name in self.units:
                factor, offset = CONVERSIONS[name][self.units[name]]
                frame[name] = factor * frame[name] + offset
        if "G" in frame:
            frame = self._check_irradiance(frame)
        frame = self._drop_night(frame, raw)
        if "G" not in names:
            frame = frame.drop(columns="G", errors="ignore")
        for name in names:
            frame = self._refuse(
                frame, text[name].reindex(frame.index), f"{name} is not a number", "a number",
                raw[name],
            )  # fmt: skip
        for name in () if self.allow_missing else names:
            frame = self._refuse(
                frame, frame[name].isna(), f"{name} is missing", "a value", raw[name]
            )
        for name in names:
            frame = self._check_range(frame, name)
        frame = self._set_times(frame)
        frame = self._order(frame)
        for name in names:
            frame = self._check_stuck(frame, name)
        if "condition" in frame:
            frame = self._set_conditions(frame)
        self.report.kept += len(frame)
        frame = frame.set_index(frame.pop("utc").rename("time"))
        return frame.drop(columns="time")

    def _numbers(self, column):
        """Floats, NaN where there is none, and where something stands that is no number."""
        pd = _pandas()
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            values = column.astype(float)
            return values, pd.Series(np.isinf(values), column.index)
        if self.source.decimal != ".":  # a point would be one of thousands, or of another format
            has_point = column.str.contains(".", regex=False)
            column = column.str.replace(self.source.decimal, ".", regex=False)
            column = column.mask(has_point, "?")
        values = pd.to_numeric(column, errors="coerce").astype(float)
        odd = ~np.isfinite(values.to_numpy())
        text = _text(column[odd])
        values[odd] = pd.to_numeric(text, errors="coerce").astype(float)
        is_missing = text.str.lower().isin(_MISSING).to_numpy(bool)
        wrong = np.zeros(len(column), bool)
        wrong[odd] = ~np.isfinite(values[odd].to_numpy()) & ~is_missing
        return values.where(~wrong), pd.Series(wrong, column.index)

    def _place(self, line, raw_time):
        word = "line" if self.source.is_csv else "row"
        return f"{word} {line} ({raw_time})"

    def _refuse(self, frame, wrong, reason, expected, received, hint=""):
        """`frame` without its rows in `wrong`, which are errors."""
        wrong = wrong.to_numpy(dtype=bool)
        if not wrong.any():
            return frame
        line = frame.index[wrong][0]
        place = self._place(line, frame.at[line, "time"])
        if self.on_error == "raise":
            value = received.loc[line]
            shown = repr(value) if isinstance(value, str) else f"{value}"
            raise RunError(
                f"{self.source.path}, {place}: {reason}. Expected {expected}. Received: {shown}{hint}."
                ' on_error="drop" leaves such rows out'
            )
        self.report.add(reason, int(wrong.sum()), place)
        return frame[~wrong]

    def _drop_night(self, frame, raw):
        if "G" in frame:
            dark, reason = frame["G"] < self.daylight, f"night, G below {self.daylight:g} W/m^2"
        else:
            blank = _text(raw["V"]).str.lower().isin(_MISSING)
            dark = (frame["I"] == 0) & ((frame["V"] == 0) | blank)
            reason = "night, I zero and V zero or empty"
        return self._leave_out(frame, dark, reason)

    def _leave_out(self, frame, rows, reason):
        """`frame` without `rows`, which are no errors."""
        if rows.any():
            line = frame.index[rows][0]
            self.report.add(reason, int(rows.sum()), self._place(line, frame.at[line, "time"]))
        return frame[~rows]

    def _check_irradiance(self, frame):
        """Refuses a G that says darkness while the plant gives power."""
        frame = self._check_range(frame, "G")
        power, light = frame["I"] * frame["V"], frame["G"]
        works = (power > POWER) & light.notna()
        if self.watts is None and works.any() and light[works].max() <= 2:
            raise RunError(
                f"{self.source.path}: expected G in W/m^2. Received: at most {light.max():g} while the"
                " plant gives power; for kW/m^2 give the unit G:kW/m^2"
            )
        bright = works & (light >= max(self.daylight, 2))
        if bright.any():
            self.watts = (power / light)[bright].median()
        if self.watts is None:
            return frame
        lit = works & (power > 2 * self.daylight * self.watts)  # as under twice the daylight
        return self._refuse(
            frame, lit & (light < self.daylight), "power without light",
            f"a G of {self.daylight:g} W/m^2 or more", light,
        )  # fmt: skip

    def _check_range(self, frame, name):
        low, high = self.limits[name]
        values = frame[name]
        wrong = (values < low) | (values > high)
        if not wrong.any():
            return frame
        known = values.dropna()
        other = [
            unit
            for unit, (factor, offset) in CONVERSIONS[name].items()
            if unit != UNITS[name]
            and name not in self.units
            and (factor * known + offset).between(low, high).all()
        ]
        hint = (
            f"; if the column is in {' or '.join(other)}, give the unit {name}:{other[0]}"
            if other
            else ""
        )
        if wrong.mean() > 0.5 and len(frame) >= COLUMN_ROWS:  # not some rows but the column
            raise RunError(
                f"{self.source.path}: expected {name} from {low:g} to {high:g} {UNITS[name]}. Received:"
                f" {values.min():g} to {values.max():g}{hint}"
            )
        return self._refuse(
            frame,
            wrong,
            f"{name} is out of range",
            f"{low:g} to {high:g} {UNITS[name]}",
            values,
            hint,
        )

    def _set_times(self, frame):
        """Adds "utc", and refuses rows without a time."""
        pd = _pandas()
        column = frame["time"]
        if isinstance(column.dtype, pd.DatetimeTZDtype):
            utc = column.dt.tz_convert("UTC")
            return self._refuse(
                frame.assign(utc=utc.dt.as_unit("us")),
                utc.isna(),
                "time is missing",
                "a time",
                column,
            )
        if pd.api.types.is_datetime64_dtype(column):
            naive = column
        else:
            text = _text(column)
            if self.time_format == "unix":
                seconds = pd.to_numeric(text, errors="coerce")
                seconds = seconds.where(seconds.between(0, _YEAR_2100))  # milliseconds are not
                utc = pd.to_datetime(seconds, unit="s", utc=True)
                return self._with_times(frame, utc, "seconds since 1970, up to 2100")
            number = pd.to_numeric(text, errors="coerce").notna() & text.str.fullmatch(r"[\d.]{9,}")
            if self.time_format is None and len(text) and number.all():
                raise RunError(
                    f"{self.source.path}: expected times such as 2017-03-01 10:00. Received:"
                    f' {text.iloc[0]}; time_format="unix" for seconds'
                )
            form = self.time_format or "ISO8601"
            offset = _has_offset(text)
            if self.time_format is not None:
                offset[:] = "%z" in self.time_format
            self.has_offsets |= bool(offset.any())
            if self.has_offsets and not offset.all():
                valid = ~text.str.lower().isin(_MISSING)
                frame = self._refuse(
                    frame,
                    ~offset & valid,
                    "time has no offset",
                    "an offset as other rows have",
                    column,
                )
                text = text.loc[frame.index]
            if self.has_offsets:
                utc = pd.to_datetime(text, format=form, utc=True, errors="coerce")
                return self._with_times(frame, utc, "a time in ISO 8601, or as time_format says")
            naive = pd.to_datetime(text, format=form, errors="coerce")
        frame = self._refuse(
            frame, naive.isna(), "time cannot be read",
            "a time in ISO 8601, or as time_format says", column,
        )  # fmt: skip
        if self.timezone is None and len(frame):
            raise RunError(
                f"{self.source.path}: expected times with an offset, or timezone= such as"
                f" Europe/Copenhagen. Received: {frame['time'].iloc[0]}"
            )
        return self._localise(frame, naive.loc[frame.index])

    def _with_times(self, frame, utc, expected):
        frame = frame.assign(utc=utc.dt.as_unit("us"))
        return self._refuse(frame, utc.isna(), "time cannot be read", expected, frame["time"])

    def _localise(self, frame, naive):
        zone = self.timezone or "UTC"
        try:
            local = naive.dt.tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
        except (KeyError, LookupError, ValueError) as error:
            raise RunError(f"expected a time zone. Received: {zone!r}") from error
        if local.isna().any():
            # The hour that comes twice in autumn is settled by the order of the rows, if it can be.
            with contextlib.suppress(*_CLOCK_ERRORS):  # what stays NaT is refused below
                local = naive.dt.tz_localize(zone, ambiguous="infer", nonexistent="NaT")
        frame = frame.assign(utc=local.dt.tz_convert("UTC").dt.as_unit("us"))
        return self._refuse(
            frame, local.isna(), f"time does not exist or comes twice in {zone}",
            "a time that the clock change leaves plain", frame["time"],
        )  # fmt: skip

    def _order(self, frame):
        before = frame["utc"].cummax().shift()
        if self.last_time is not None:
            before = before.fillna(self.last_time)
            before = before.where(before > self.last_time, self.last_time)
        early = frame["utc"] < before
        if self.on_error == "raise":
            frame = self._refuse(
                frame, early, "time goes back", "times that grow", frame["time"],
                "; read_log sorts under on_error=\"drop\"",
            )  # fmt: skip
        elif self.streaming and self.last_time is not None:
            frame = self._refuse(
                frame,
                frame["utc"] < self.last_time,
                "time before the chunk before",
                "",
                frame["time"],
            )
        self.report.moved += int(early.loc[frame.index].sum())
        frame = frame.sort_values("utc", kind="stable")
        again = frame["utc"].duplicated()
        if self.last_time is not None:
            again |= frame["utc"] == self.last_time
        frame = self._refuse(frame, again, "time comes twice", "every time once", frame["time"])
        if len(frame):
            self.last_time = frame["utc"].iloc[-1]
        return frame

    def _check_stuck(self, frame, name):
        limit = self.stuck[name]
        if not limit or not len(frame):
            return frame
        values = frame[name].to_numpy()
        value, before = self.runs.get(name, (None, 0))
        starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
        lengths = np.diff(np.append(starts, len(values)))
        known = lengths.copy()
        known[0] += before if values[0] == value else 0
        self.runs[name] = (values[-1], int(known[-1]))
        wrong = _pandas().Series(np.repeat(known >= limit, lengths), frame.index)
        if name in ("I", "V"):  # an outage is no fault of the sensor
            wrong &= (frame["I"] != 0) | (frame[name] != 0)
        return self._refuse(
            frame,
            wrong,
            f"{name} is stuck",
            f"fewer than {limit} equal readings in a row",
            frame[name],
        )

    def _set_conditions(self, frame):
        pd = _pandas()
        raw = frame["condition"]
        text = _text(raw)
        empty = text.str.lower().isin(_MISSING) & ~text.isin([*self.labels, *self.conditions])
        names = text.map(lambda label: self.labels.get(label, label))
        frame = self._refuse(
            frame, ~names.isin(self.conditions) & ~empty, "label is unknown",
            f"one of {', '.join(dict.fromkeys([*self.labels, *self.conditions]))}, or none", raw,
        )  # fmt: skip
        names = names.where(~empty).loc[frame.index]
        return frame.assign(condition=pd.Categorical(names, categories=list(self.conditions)))


def _has_offset(text):
    """Whether times in ISO 8601 name their offset from UTC; a date alone may end like one."""
    return text.str.contains(_OFFSET) & text.str.contains(":")


def _text(column):
    """The cells as text without blanks about it, "" where there is nothing."""
    return column.astype(str).fillna("").str.strip()


def _one_line(error):
    return " ".join(str(error).split())
