"""The named data sets: images, splits, scaling and binarisation.

A `DataSet` is a protocol: results on two protocols of the same images cannot be
compared. Validation and test images are ready for evaluation; of the training
images, `DataSet.binarization` says what the input pipeline still has to do.
"""

import dataclasses
import math
import numbers
import zlib
from collections.abc import Callable

import numpy as np

from tfhvae.data import sources
from tfhvae.data.sources import DataError

MNIST_VALIDATION = 10_000
DIGITS_COUNTS = (1297, 200, 300)
FREY_COUNTS = (1565, 200, 200)
CHARDATA_VALIDATION = 1345
OMNIGLOT_RESIZED_COUNTS = (23_000, 1345, 8115)

_DIGIT_NAMES = tuple("0123456789")
_FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt",
    "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and, where the set has them, labels.

    Attributes:
      images: float32 (N, H, W, C) in [0, 1].
      labels: int32 (N,) or None.
    """

    images: np.ndarray
    labels: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class DataSet:
    """A data set under one protocol.

    Attributes:
      name: a key of `DATASETS`.
      protocol: one line that names binarisation, split and scaling.
      likelihood: "bernoulli" or "discretized_logistic" (256 bins).
      binarization: what training does with the intensities of `train`:
        "per_batch" and "per_epoch" draw from them anew, None uses them as they
        are.
      train: for training.
      validation: for model selection, or None.
      test: for the reported result.
      class_names: the name of each label, or None.
    """

    name: str
    protocol: str
    likelihood: str
    binarization: str | None
    train: Split
    validation: Split | None
    test: Split
    class_names: tuple[str, ...] | None = None

    @property
    def image_shape(self):
        """(H, W, C)."""
        return self.train.images.shape[1:]


def load(name, *, data_dir=None, seed=0, binarization=None, split=None):
    """Loads a data set.

    Args:
      name: a key of `DATASETS`.
      data_dir: folder that holds the original files, or one sub-folder of them
        per family (mnist, fashion_mnist, binarized_mnist, frey_faces, omniglot).
        None uses tensorflow-datasets, which downloads what it does not find.
        `digits` comes with scikit-learn and needs neither.
      seed: of the binarisation of validation and test images, and of nothing
        else: splits are the same for every seed.
      binarization: None for the default, or "per_batch" or "per_epoch".
      split: None for the default, or "50k_10k_10k" or "60k_10k".

    Returns:
      A `DataSet`.

    Raises:
      DataError: if an argument is unknown to the data set, or the data cannot be
        had or is not what it should be.
    """
    if name not in _RECIPES:
        raise DataError(f"expected a data set out of {', '.join(_RECIPES)}, received {name!r}")
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or seed < 0:
        raise DataError(f"expected seed to be an integer >= 0, received {seed!r}")
    recipe = _RECIPES[name]
    chosen = {}
    for option, value in (("binarization", binarization), ("split", split)):
        values = recipe.options.get(option)
        if values is None and value is not None:
            has = "; ".join(f"{k} ({', '.join(v)})" for k, v in recipe.options.items())
            raise DataError(
                f"expected no {option} for {name}, received {value!r}; its options are:"
                f" {has or 'none'}"
            )
        if values is not None:
            chosen[option] = values[0] if value is None else value
            if chosen[option] not in values:
                raise DataError(
                    f"expected {option} of {name} to be {' or '.join(values)}, received {value!r}"
                )
    return recipe.build(name, data_dir, int(seed), **chosen)


def binarize(intensities, seed, split_name):
    """Draws each pixel once from a Bernoulli with its intensity as the mean.

    Args:
      intensities: float32 array in [0, 1].
      seed: integer >= 0.
      split_name: draws for different splits are independent.

    Returns:
      float32 array of zeros and ones, the same for the same arguments.
    """
    entropy = (seed, zlib.crc32(split_name.encode()))
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    uniform = rng.random(intensities.shape, dtype=np.float32)
    return (uniform < intensities).astype(np.float32)


def area_weights(source, target):
    """Overlaps of `target` equal cells with `source` equal pixels on one line.

    The unit of length divides both cells and pixels, so that all overlaps are
    integers: for 105 to 28, a pixel is 4 and a cell 15 units long.

    Returns:
      float32 (target, source); every row sums to source / gcd(source, target).
    """
    divisor = math.gcd(source, target)
    pixel, cell = target // divisor, source // divisor
    starts = np.arange(target)[:, None] * cell
    pixels = np.arange(source) * pixel
    overlap = np.minimum(starts + cell, pixels + pixel) - np.maximum(starts, pixels)
    return np.maximum(overlap, 0).astype(np.float32)


def area_resize(images, size):
    """Mean of each of size x size equal cells, exact for images of zeros and ones.

    Args:
      images: (N, H, H), 0 or 1.
      size: new height and width.

    Returns:
      float32 (N, size, size).
    """
    weights = area_weights(images.shape[-1], size)
    # Sums of small integers are exact in float32, whatever their order, so the
    # result does not depend on the machine.
    return (weights @ images.astype(np.float32) @ weights.T) / weights[0].sum() ** 2


# Recipes ----------------------------------------------------------------------


def _split(images, labels=None):
    """`Split` of images (N, H, W), one channel."""
    labels = None if labels is None else labels.astype(np.int32)
    return Split(images.astype(np.float32, copy=False)[..., None], labels)


def _cut(images, labels, counts):
    """Consecutive `Split`s of the given sizes."""
    if sum(counts) != len(images):
        raise DataError(f"expected {' + '.join(map(str, counts))} images, received {len(images)}")
    ends = np.cumsum(counts)
    return tuple(
        _split(images[end - n : end], None if labels is None else labels[end - n : end])
        for n, end in zip(counts, ends)
    )


def _fixed_order(count):
    # RandomState's stream is frozen for good, that of default_rng is not.
    return np.random.RandomState(0).permutation(count)


_DRAWN = {
    "per_batch": "dynamic binarisation (re-drawn per batch)",
    "per_epoch": "dynamic binarisation (re-drawn per epoch)",
}


def _dynamic(name, binarization, seed, layout, splits, class_names):
    """`DataSet` of intensities that are Bernoulli means."""
    train, validation, test = splits

    def drawn(split, split_name):
        images = binarize(split.images, seed, split_name)
        return dataclasses.replace(split, images=images)

    held_out = "test" if validation is None else "validation and test"
    return DataSet(
        name=name,
        protocol=(f"{_DRAWN[binarization]}, {layout}, {held_out} binarised once (seed {seed})"),
        likelihood="bernoulli",
        binarization=binarization,
        train=train,
        validation=None if validation is None else drawn(validation, "validation"),
        test=drawn(test, "test"),
        class_names=class_names,
    )


def _digits(name, data_dir, seed, binarization):
    del data_dir  # comes with scikit-learn
    from sklearn.datasets import load_digits

    data = load_digits()
    order = _stratified_order(data.target)
    splits = _cut(data.images[order].astype(np.float32) / 16, data.target[order], DIGITS_COUNTS)
    layout = "1297/200/300 (fixed stratified split), means x/16"
    return _dynamic(name, binarization, seed, layout, splits, _DIGIT_NAMES)


def _stratified_order(labels):
    """A fixed permutation with every class spread evenly over its length."""
    shuffled = _fixed_order(len(labels))
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((labels, position))


_MNIST_LAYOUT = {
    "50k_10k_10k": "50k/10k/10k (validation: last of the training file)",
    "60k_10k": "60k/10k (no validation)",
}


def _mnist_splits(family, data_dir, split, scale):
    """(train, validation or None, test) of `scale`(uint8 images)."""
    (images, labels), test = sources.load_idx(family, data_dir)
    images = scale(images)
    test = _split(scale(test[0]), test[1])
    if split == "60k_10k":
        return _split(images, labels), None, test
    counts = (len(images) - MNIST_VALIDATION, MNIST_VALIDATION)
    return *_cut(images, labels, counts), test


def _dynamic_mnist(name, data_dir, seed, binarization, split):
    splits = _mnist_splits("mnist", data_dir, split, lambda x: x / np.float32(255))
    layout = f"{_MNIST_LAYOUT[split]}, means x/255"
    return _dynamic(name, binarization, seed, layout, splits, _DIGIT_NAMES)


def _threshold_mnist(name, data_dir, seed, split):
    del seed
    # More than half of the maximum, 255.
    splits = _mnist_splits("mnist", data_dir, split, lambda x: x > 127)
    protocol = f"binarised by threshold (x/255 > 0.5), {_MNIST_LAYOUT[split]}"
    return DataSet(name, protocol, "bernoulli", None, *splits, _DIGIT_NAMES)


def _static_mnist(name, data_dir, seed):
    del seed
    images = sources.load_binarized_mnist(data_dir)
    splits = (_split(images[part]) for part in ("train", "valid", "test"))
    protocol = "static binarisation (Larochelle's files), 50k/10k/10k, no labels"
    return DataSet(name, protocol, "bernoulli", None, *splits)


def _scale_256(images):
    """uint8 to the centres of 256 bins of [0, 1]."""
    return (images + np.float32(0.5)) / 256


def _real_mnist(name, data_dir, seed, split):
    del seed
    splits = _mnist_splits(name, data_dir, split, _scale_256)
    return DataSet(
        name,
        f"real-valued (x+0.5)/256, {_MNIST_LAYOUT[split]}",
        "discretized_logistic",
        None,
        *splits,
        _DIGIT_NAMES if name == "mnist" else _FASHION_NAMES,
    )


def _frey_faces(name, data_dir, seed):
    del seed
    faces = sources.load_frey_faces(data_dir)
    splits = _cut(_scale_256(faces[_fixed_order(len(faces))]), None, FREY_COUNTS)
    protocol = "real-valued (x+0.5)/256, 1565/200/200 (fixed permutation)"
    return DataSet(name, protocol, "discretized_logistic", None, *splits)


def _omniglot(name, data_dir, seed, binarization):
    (images, labels), test = sources.load_chardata(data_dir)
    counts = (len(images) - CHARDATA_VALIDATION, CHARDATA_VALIDATION)
    splits = (*_cut(images, labels, counts), _split(*test))
    layout = "23,000/1,345/8,070 (Burda's 28x28 images; validation: last of the training set)"
    return _dynamic(name, binarization, seed, layout, splits, None)


def _omniglot_resized(name, data_dir, seed, binarization):
    data = sources.load_omniglot105(data_dir)
    size = sources.OMNIGLOT_SIZE
    images = []
    for packed in data.image_bits:  # a character at a time: 360 MB unpacked in all
        paper = np.unpackbits(packed, axis=1, count=size * size)
        images.append(area_resize(1 - paper.reshape(-1, size, size), 28))
    images = np.concatenate(images)
    labels = np.repeat(data.alphabet, sources.OMNIGLOT_DRAWERS)
    order = _fixed_order(len(images))
    splits = _cut(images[order], labels[order], OMNIGLOT_RESIZED_COUNTS)
    layout = (
        "23,000/1,345/8,115 (fixed permutation), means are ink areas of the 105x105"
        " images at 28x28 (not Burda's files)"
    )
    return _dynamic(name, binarization, seed, layout, splits, data.alphabet_names)


@dataclasses.dataclass(frozen=True)
class _Recipe:
    """How to build a data set, and its options, each with the default first."""

    description: str
    build: Callable[..., DataSet]
    options: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


_REDRAW = {"binarization": tuple(_DRAWN)}
_MNIST_SPLIT = {"split": tuple(_MNIST_LAYOUT)}

_RECIPES = {
    "digits": _Recipe(
        "scikit-learn's 8x8 digits, dynamically binarised; needs no download",
        _digits,
        _REDRAW,
    ),
    "dynamic_mnist": _Recipe(
        "MNIST 28x28, binarised anew per batch or epoch",
        _dynamic_mnist,
        _REDRAW | _MNIST_SPLIT,
    ),
    "static_mnist": _Recipe(
        "MNIST 28x28 in Larochelle's fixed binarisation, without labels",
        _static_mnist,
    ),
    "threshold_mnist": _Recipe(
        "MNIST 28x28, binarised at half of the maximum",
        _threshold_mnist,
        _MNIST_SPLIT,
    ),
    "mnist": _Recipe("MNIST 28x28, 256 grey levels", _real_mnist, _MNIST_SPLIT),
    "fashion_mnist": _Recipe("Fashion-MNIST 28x28, 256 grey levels", _real_mnist, _MNIST_SPLIT),
    "frey_faces": _Recipe("Frey's 1,965 faces 28x20, 256 grey levels, without labels", _frey_faces),
    "omniglot": _Recipe(
        "OMNIGLOT 28x28 in Burda's version (chardata.mat), dynamically binarised",
        _omniglot,
        _REDRAW,
    ),
    "omniglot_resized": _Recipe(
        "OMNIGLOT 105x105 averaged to 28x28, dynamically binarised",
        _omniglot_resized,
        _REDRAW,
    ),
}

DATASETS = {name: recipe.description for name, recipe in _RECIPES.items()}
