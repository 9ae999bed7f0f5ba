"""Measurements as a model takes them: rows of standardised columns, held-out rows, data sets."""

import dataclasses

import numpy as np

from tfhvae.data import DataError, DataSet, Split
from tfhvae.errors import RunError
from tfhvae.monitoring.simulate import COLUMNS, CONDITIONS, simulate

INPUTS = {"iv": ("I", "V"), "all": COLUMNS}  # the paper's simple and complex monitoring
LABEL = "condition"
UNKNOWN = -1  # the class of a row without a label
PROGRESSIVE_LABELS = 500  # of a condition once it is known
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1  # of all rows, and of those that are not for the test
MIN_STD = 1e-6  # of a column that varies, in its unit


@dataclasses.dataclass(frozen=True)
class Standardisation:
    """Shift and scale of every column, `x = (value - mean) / std`.

    Attributes:
      columns: names, in the model's order.
      mean, std: one number per column, in the column's unit.
    """

    columns: tuple
    mean: tuple
    std: tuple

    @classmethod
    def of(cls, values, columns):
        """That of `values` `[N, D]`. A column that does not vary keeps its unit.

        Raises:
          RunError: without rows.
        """
        values = np.asarray(values, np.float64)
        if not len(values):
            raise RunError("expected at least one complete row of measurements. Received: none")
        std = values.std(0)
        std = np.where(std > MIN_STD, std, 1.0)
        return cls(tuple(columns), tuple(values.mean(0).tolist()), tuple(std.tolist()))

    def __call__(self, values):
        """`[N, D]` to float32 `[N, D, 1, 1]`, a column of pixels for each row."""
        x = (np.asarray(values, np.float64) - self.mean) / self.std
        return x.astype(np.float32)[..., np.newaxis, np.newaxis]

    def undo(self, x):
        """`[N, D, 1, 1]` to `[N, D]` in the columns' units."""
        return np.asarray(x, np.float64)[..., 0, 0] * self.std + self.mean

    def to_json(self):
        return {"columns": list(self.columns), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, values):
        return cls(*(tuple(values[name]) for name in ("columns", "mean", "std")))


def check_columns(frame, columns):
    """Raises RunError unless `frame` has all of `columns`."""
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise RunError(
            f"expected the columns {', '.join(columns)}. Received: a log without "
            f"{', '.join(missing)}; --columns says what they are called, as in I=Ia,V=Va"
        )


def codes_of(frame, names):
    """Classes `[N]` int32: places in `names`, `UNKNOWN` without a label.

    Raises:
      RunError: for a label that is not among `names`.
    """
    if LABEL not in frame.columns:
        return np.full(len(frame), UNKNOWN, np.int32)
    labels = frame[LABEL].astype(object)
    known = labels.notna().to_numpy()
    codes = np.full(len(frame), UNKNOWN, np.int32)
    place = {name: code for code, name in enumerate(names)}
    strange = sorted({str(label) for label in labels[known]} - place.keys())
    if strange:
        raise RunError(
            f"expected conditions among {', '.join(names)}. Received: {', '.join(strange)}"
        )
    codes[known] = [place[str(label)] for label in labels[known]]
    return codes


def names_of(frame):
    """Names of the conditions that occur in a frame: those of the paper in its order, then others
    by their names."""
    if LABEL not in frame.columns:
        return []
    occurring = {str(label) for label in frame[LABEL].dropna().unique()}
    known = [name for name in CONDITIONS if name in occurring]
    return known + sorted(occurring - set(known))


def is_complete(values):
    """Rows `[N]` of `values` `[N, D]` in which every number is finite."""
    return np.isfinite(np.asarray(values, np.float64)).all(1)


def is_held_out(times, share=VALIDATION_SHARE):
    """A share of rows `[N]` chosen by their time stamps alone, so that a row is held out of every
    fit or of none, whatever else is in the logs.

    Args:
      times: a `pandas.DatetimeIndex` in UTC.
    """
    # The finaliser of SplitMix64: time stamps a minute apart become unrelated numbers.
    bits = times.as_unit("ns").asi8.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(11)).astype(np.float64) / 2.0**53 < share


def monte_carlo_split(count, seed, fold, share=TEST_SHARE):
    """`(train, test)`, indices of a random split of `count` rows: one fold of a Monte Carlo
    cross-validation. Another fold, another split."""
    order = np.random.default_rng([seed, 0x5917, fold]).permutation(count)
    num_test = round(share * count)
    return np.sort(order[num_test:]), np.sort(order[:num_test])


def random_part(indices, share, seed):
    """`(rest, part)` of `indices`, `share` of them in the part."""
    order = np.random.default_rng(seed).permutation(indices)
    num = round(share * len(order))
    return np.sort(order[num:]), np.sort(order[:num])


def introduced(y, num_known, rng):
    """Which training rows there are once the first `num_known` conditions are known, and which of
    them have a label: masks `[N]`, `[N]` (Maaløe et al. 2018, experiment (iii)).

    There are all rows of the known conditions, `PROGRESSIVE_LABELS` of each with a label (all, where
    there are fewer), and of every other condition one row with its label.

    Args:
      y: classes `[N]`.
      num_known: how many.
      rng: NumPy generator that chooses the rows.
    """
    is_there = y < num_known
    labelled = np.zeros(len(y), bool)
    for code in range(y.max() + 1):
        members = rng.permutation(np.flatnonzero(y == code))
        labelled[members[: PROGRESSIVE_LABELS if code < num_known else 1]] = True
    return is_there | labelled, labelled


def simulated(name, data_dir, seed, split):
    """The data sets "pv_simulated" and "pv_simulated_iv": two months of a simulated plant, split at
    random into 72/8/20 %.

    Args:
      split: "all", or "known_N": training rows as of `introduced`, which `DataSet.marked` names
        where they have a label, and validation rows of the first N conditions. Test rows are of all.
        It is the training rows there are that standardise all.

    Raises:
      DataError: without the extra [pv].
    """
    del data_dir  # computed
    columns = INPUTS["iv" if name.endswith("_iv") else "all"]
    try:
        frame = simulate(seed=seed)
    except ModuleNotFoundError as error:
        raise DataError(str(error)) from error
    values, y = frame[list(columns)].to_numpy(), codes_of(frame, CONDITIONS)
    train, test = monte_carlo_split(len(frame), seed, 0)
    train, validation = random_part(train, VALIDATION_SHARE, [seed, 0])
    marked = None
    if split != "all":
        num_known = int(split.removeprefix("known_"))
        there, labelled = introduced(y[train], num_known, np.random.default_rng([seed, 0x9206, 0]))
        train, marked = train[there], np.flatnonzero(labelled[there])
        validation = validation[y[validation] < num_known]
    scale = Standardisation.of(values[train], columns)
    parts = (Split(scale(values[part]), y[part]) for part in (train, validation, test))
    return DataSet(
        name,
        f"simulated plant, {', '.join(columns)} standardised, "
        f"{len(train):,}/{len(validation):,}/{len(test):,} (random split"
        f"{'' if split == 'all' else f', {num_known} conditions known'}), drawn once (seed {seed})",
        "gaussian",
        None,
        *parts,
        tuple(CONDITIONS),
        column_names=columns,
        marked=marked,
    )
