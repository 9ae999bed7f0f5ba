"""Which images of a data set keep their label in semi-supervised learning."""

import numbers
import zlib

import numpy as np

from tfhvae.data.sources import DataError

_STREAM = zlib.crc32(b"labelled")


def labelled_subset(labels, num_labels, seed, num_classes):
    """A random subset of the images with equally many of every class.

    Where `num_labels` is no multiple of `num_classes`, the classes with the lowest labels have one
    more. The subset of fewer labels of the same seed is contained in that of more.

    Args:
      labels: integers `[N]`, 0 to `num_classes` - 1.
      num_labels: size of the subset; 0 for an empty one, otherwise at least `num_classes`.
      seed: integer >= 0, of the subset and nothing else: not the seed of the training.
      num_classes: number of classes.

    Returns:
      int64 `[num_labels]`, indices in ascending order.

    Raises:
      DataError: if there is no such subset.
    """
    for name, value in (("num_labels", num_labels), ("seed", seed)):
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 0:
            raise DataError(f"expected {name} to be an integer >= 0, received {value!r}")
    if not isinstance(num_classes, numbers.Integral) or num_classes < 1:
        raise DataError(f"expected num_classes to be a positive integer, received {num_classes!r}")
    if num_labels == 0:
        return np.zeros(0, np.int64)
    if labels is None:
        raise DataError("expected a data set with labels, received one without")
    labels = np.asarray(labels)
    if num_labels < num_classes:
        raise DataError(
            f"expected num_labels to be 0 or at least {num_classes}, one of each class, received"
            f" {num_labels}"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size:
        raise DataError(
            f"expected one integer label per image, received shape {labels.shape} of {labels.dtype}"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise DataError(
            f"expected labels from 0 to {num_classes - 1}, received {labels.min()} to"
            f" {labels.max()}"
        )
    # RandomState's stream is frozen for good, that of default_rng is not.
    bits = np.random.MT19937(np.random.SeedSequence((int(seed), _STREAM)))
    rng = np.random.RandomState(bits)
    chosen = []
    for label in range(num_classes):
        wanted = num_labels // num_classes + (label < num_labels % num_classes)
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < wanted:
            raise DataError(
                f"expected at least {wanted} images of class {label} for {num_labels} labels,"
                f" received {len(members)}"
            )
        chosen.append(members[:wanted])
    return np.sort(np.concatenate(chosen)).astype(np.int64)
