"""The named data sets: images, splits, scaling and binarisation.

A `DataSet` is a protocol: results on two protocols of the same images cannot be
compared. Validation and test images are ready for evaluation; of the training
images, `DataSet.binarization` says what the input pipeline still has to do.
"""

import dataclasses
import importlib
import math
import numbers
import zlib
from collections.abc import Callable

import numpy as np

from tfhvae.data import arrays, generated, sources
from tfhvae.data.sources import DataError

MNIST_VALIDATION = 10_000
DIGITS_COUNTS = (1297, 200, 300)
FREY_COUNTS = (1565, 200, 200)
CHARDATA_VALIDATION = 1345
OMNIGLOT_RESIZED_COUNTS = (23_000, 1345, 8115)
NORB_VALIDATION = 2300
HALF_MOONS_COUNTS = (10_000, 10_000)
HALF_MOONS_NOISE = 0.1

_DIGIT_NAMES = tuple("0123456789")
_FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt",
    "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_MOON_NAMES = ("top", "bottom")
_NORB_NAMES = ("animal", "human", "airplane", "truck", "car")


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and, where the set has them, labels.

    Attributes:
      images: float32 (N, H, W, C), in [0, 1] unless the protocol says otherwise.
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
      likelihood: "bernoulli", "discretized_logistic" (256 bins) or "gaussian" (a
        density of real-valued pixels, in nats, which may be positive).
      binarization: what training does with the intensities of `train`:
        "per_batch" and "per_epoch" draw from them anew, None uses them as they
        are.
      train: for training.
      validation: for model selection, or None.
      test: for the reported result.
      class_names: the name of each label, or None.
      pixel_mask: bool (H, W, C), the pixels that were kept where `load` dropped some,
        or None. The P kept ones are then a column: images are (N, P, 1, 1).
      pixel_means: float32 (H, W, C), the means of the training images, beside a
        `pixel_mask`.
      picture_scale: float32 (C,), by which images are multiplied to be shown between 0 and 1; None
        where they lie there.
      marked: int64 (M,), indices of the training images that are labelled where few are, or None
        where the set names none.
      column_names: of a table, whose rows (D columns) are images (N, D, 1, 1); None of images.
      checksum: of files that are a user's own, or None.
    """

    name: str
    protocol: str
    likelihood: str
    binarization: str | None
    train: Split
    validation: Split | None
    test: Split
    class_names: tuple[str, ...] | None = None
    pixel_mask: np.ndarray | None = None
    pixel_means: np.ndarray | None = None
    picture_scale: np.ndarray | None = None
    column_names: tuple[str, ...] | None = None
    marked: np.ndarray | None = None
    checksum: str | None = None

    @property
    def image_shape(self):
        """(H, W, C), or (P, 1, 1) with a `pixel_mask`: what a model sees."""
        return self.train.images.shape[1:]

    @property
    def picture_shape(self):
        """(H, W, C): what a person sees."""
        return self.image_shape if self.pixel_mask is None else self.pixel_mask.shape

    @property
    def num_classes(self):
        """Number of labels, or None without labels."""
        return None if self.class_names is None else len(self.class_names)

    def to_pictures(self, images):
        """Images as a person sees them: dropped pixels are put back, each as its mean over the
        training images, and intensities lie between 0 and 1.

        Args:
          images: (..., *image_shape).

        Returns:
          (..., *picture_shape); `images` themselves where nothing was dropped or scaled.
        """
        pictures = self._with_dropped_pixels(images)
        return pictures if self.picture_scale is None else pictures * self.picture_scale

    def _with_dropped_pixels(self, images):
        if self.pixel_mask is None:
            return images
        images = np.asarray(images)
        if images.shape[-3:] != self.image_shape:
            raise DataError(
                f"expected images of shape (..., {', '.join(map(str, self.image_shape))}),"
                f" received {images.shape}"
            )
        leading = images.shape[:-3]
        pictures = np.broadcast_to(self.pixel_means, (*leading, *self.picture_shape)).copy()
        pictures[..., self.pixel_mask] = images[..., 0, 0]
        return pictures


def load(
    name,
    *,
    data_dir=None,
    seed=0,
    binarization=None,
    split=None,
    cameras=None,
    dequantization=None,
    crop=None,
    colours=None,
    min_pixel_std=None,
    checksum=None,
):
    """Loads a data set.

    Args:
      name: a key of `DATASETS`.
      data_dir: folder that holds the original files, or one sub-folder of them
        per family (mnist, fashion_mnist, binarized_mnist, frey_faces, omniglot,
        small_norb, svhn, celeba).
        None uses tensorflow-datasets, which downloads what it does not find.
        `digits` comes with scikit-learn, `half_moons` and `pv_simulated` are computed; they
        need neither. Of `arrays`, the folder that `arrays.load_arrays` describes.
      seed: of what is drawn once: the binarisation of validation and test images,
        the noise of dequantisation, the points of `half_moons`, the weather and split of
        `pv_simulated`. Other splits are the same for every seed.
      binarization: None for the default, or "per_batch" or "per_epoch", of `arrays` "none"
        (default) as well.
      split: None for the default, or "50k_10k_10k" or "60k_10k", for `small_norb`
        "24k_24k" or "22k_2k_24k", for `svhn` "73k_26k" or "604k_26k", for
        `pv_simulated` "all" or "known_1" to "known_6": so many conditions known, for `arrays`
        "files" or "train_90_10": a random tenth of the training images is for validation.
      cameras: of `small_norb`, "left" (default) or "both", side by side.
      dequantization: of `small_norb`, `svhn` and `celeba`, "uniform" (default), "none", or "bins":
        grey levels stay discrete, with a discretised logistic likelihood; of `arrays` of uint8 that
        are not binarised, with "bins" as default.
      crop: of `celeba`, side of the square in the middle, "140" (default) or "108".
      colours: of `celeba`, "rgb" (default) or "grey".
      min_pixel_std: drops the pixels whose standard deviation over the training
        images, before any binarisation, is smaller; None drops none.
      checksum: that the files of `arrays` must have; None takes any.

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
    if min_pixel_std is not None and (
        not isinstance(min_pixel_std, numbers.Real)
        or isinstance(min_pixel_std, bool)
        or not 0 <= min_pixel_std < math.inf
    ):
        raise DataError(f"expected min_pixel_std to be a number >= 0, received {min_pixel_std!r}")
    recipe = _RECIPES[name]
    chosen = {}
    options = {
        "binarization": binarization,
        "split": split,
        "cameras": cameras,
        "dequantization": dequantization,
        "crop": crop,
        "colours": colours,
    }
    for option, value in options.items():
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
    dataset = recipe.build(name, data_dir, int(seed), **chosen)
    if checksum not in (None, dataset.checksum):
        raise DataError(
            f"expected data with the checksum {checksum}, received {name} with"
            f" {dataset.checksum or 'none of its own'}"
        )
    return dataset if min_pixel_std is None else drop_pixels(dataset, min_pixel_std)


def _rng(seed, stream):
    """Generator of a named stream of a seed."""
    return np.random.default_rng(np.random.SeedSequence((seed, zlib.crc32(stream.encode()))))


def binarize(intensities, seed, split_name):
    """Draws each pixel once from a Bernoulli with its intensity as the mean.

    Args:
      intensities: float32 array in [0, 1].
      seed: integer >= 0.
      split_name: draws for different splits are independent.

    Returns:
      float32 array of zeros and ones, the same for the same arguments.
    """
    uniform = _rng(seed, split_name).random(intensities.shape, dtype=np.float32)
    return (uniform < intensities).astype(np.float32)


def dequantize(levels, scale, seed, stream):
    """(levels + u) / scale with u uniform in [0, 1), drawn once.

    Args:
      levels: array of grey levels, uint8 or float32.
      scale: number, or array that broadcasts against `levels`.
      seed: integer >= 0.
      stream: draws for different names are independent.

    Returns:
      float32 array of the shape of `levels`, the same for the same arguments.
    """
    images = _rng(seed, stream).random(levels.shape, dtype=np.float32)
    # In place: SVHN with its extra images takes 7.4 GB.
    images += levels
    images /= np.asarray(scale, np.float32)
    return images


def pixel_moments(images, chunk=2000):
    """Mean and mean square of every pixel, float64 (H, W, C) each.

    Args:
      images: (N, H, W, C) of any number type; `chunk` of them at a time are float64.
    """
    mean, square = np.zeros((2, *images.shape[1:]))
    for start in range(0, len(images), chunk):
        x = images[start : start + chunk].astype(np.float64)
        mean += x.sum(axis=0) / len(images)
        square += (x * x).sum(axis=0) / len(images)
    return mean, square


def drop_pixels(dataset, min_std):
    """The data set without the pixels that hardly vary over its training images.

    Args:
      dataset: a `DataSet` that has all its pixels.
      min_std: pixels with a smaller standard deviation are dropped.

    Returns:
      A `DataSet` of images (N, P, 1, 1), with `pixel_mask` and `pixel_means`.

    Raises:
      DataError: if no pixel is left.
    """
    mean, square = pixel_moments(dataset.train.images)
    std = np.sqrt(np.maximum(square - mean * mean, 0))
    mask = std >= min_std
    if not mask.any():
        raise DataError(
            f"expected min_pixel_std of at most {std.max():.4g}, the largest standard deviation"
            f" of a pixel of {dataset.name}, received {min_std}"
        )

    def kept(split):
        if split is None:
            return None
        return dataclasses.replace(split, images=split.images[:, mask][..., None, None])

    return dataclasses.replace(
        dataset,
        protocol=(
            f"{dataset.protocol}, {mask.sum()} of {mask.size} pixels (standard deviation over the"
            f" training images at least {min_std:g})"
        ),
        train=kept(dataset.train),
        validation=kept(dataset.validation),
        test=kept(dataset.test),
        pixel_mask=mask,
        pixel_means=mean.astype(np.float32),
    )


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


def block_mean(images, size, unit=255):
    """Mean grey level of each block of equal size, exact but for one rounding.

    Args:
      images: uint8 (N, H, H), 0 to 255.
      size: new height and width, a divisor of H; blocks are at most 16 wide.
      unit: the grey level that becomes 1.

    Returns:
      float32 (N, size, size).
    """
    count, width, _ = images.shape
    block = width // size
    # Sums of up to 16 * 16 * 255 fit into 16 bits.
    sums = images.reshape(count, size, block, size, block).sum(axis=(2, 4), dtype=np.uint16)
    return sums / np.float32(block * block * unit)


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
    # The file numbers the alphabets and does not name them.
    names = tuple(f"alphabet {i}" for i in range(sources.CHARDATA_ALPHABETS))
    return _dynamic(name, binarization, seed, layout, splits, names)


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


_NORB_LAYOUT = {
    "24k_24k": "24,300/24,300 (no validation)",
    "22k_2k_24k": "22,000/2,300/24,300 (validation: last of the training file, permuted)",
}


_NORB_CAMERAS = {"left": (0,), "both": (0, 1)}
_NORB_SCALING = {
    "uniform": "greyscale in [0,1]: (x+u)/256, uniform noise u one grey level wide drawn once",
    "none": "greyscale in [0,1]: x/255, no noise added (densities have no upper bound)",
    "bins": "greyscale, probabilities of 256 levels: (x+0.5)/256, x rounded",
}


def _likelihood(dequantization):
    """Of grey levels: a density, unless they stay the discrete numbers that they are."""
    return "discretized_logistic" if dequantization == "bins" else "gaussian"


def _middles(levels):
    """The middles of 256 bins in [0, 1]."""
    return (np.rint(np.asarray(levels, np.float32)) + np.float32(0.5)) / np.float32(256)


def _small_norb(name, data_dir, seed, split, cameras, dequantization):
    parts = []
    for part in ("train", "test"):
        pairs, labels = sources.load_small_norb(part, data_dir)
        views = []
        for camera in _NORB_CAMERAS[cameras]:
            if dequantization == "none":
                views.append(block_mean(pairs[:, camera], 32))
            else:
                levels = block_mean(pairs[:, camera], 32, unit=1)
                if dequantization == "bins":
                    views.append(_middles(levels))
                else:
                    views.append(dequantize(levels, 256, seed, f"noise {part} {camera}"))
        parts.append((np.concatenate(views, axis=2), labels))
        del pairs  # the next part's 448 MB take its place
    (images, labels), test = parts
    if split == "24k_24k":
        train, validation = _split(images, labels), None
    else:
        order = _fixed_order(len(images))
        counts = (len(images) - NORB_VALIDATION, NORB_VALIDATION)
        train, validation = _cut(images[order], labels[order], counts)
    drawn = f" (seed {seed})" if dequantization == "uniform" else ""
    view = "left camera" if cameras == "left" else "both cameras side by side"
    return DataSet(
        name,
        f"{_NORB_SCALING[dequantization]}{drawn}, 96x96 averaged over 3x3 blocks to 32x32, {view},"
        f" {_NORB_LAYOUT[split]}",
        _likelihood(dequantization),
        None,
        train,
        validation,
        _split(*test),
        _NORB_NAMES,
    )


_SVHN_LAYOUT = {
    "73k_26k": "73,257/26,032 (no validation, without the extra images)",
    "604k_26k": "604,388/26,032 (no validation, 73,257 + 531,131 extra images)",
}


_SVHN_SCALING = {
    "uniform": None,  # its protocol names the standard deviations
    "none": "colours in [0,1]: x/255, no noise added (densities have no upper bound)",
    "bins": "colours, probabilities of 256 levels: (x+0.5)/256",
}


def _svhn(name, data_dir, seed, split, dequantization):
    parts = ("train",) if split == "73k_26k" else ("train", "extra")
    images, labels = map(list, zip(*(sources.load_svhn(part, data_dir) for part in parts)))
    images = images[0] if len(images) == 1 else np.concatenate(images)
    if dequantization != "uniform":
        scaled = _middles if dequantization == "bins" else lambda levels: levels / np.float32(255)
        test_images, test_labels = sources.load_svhn("test", data_dir)
        return DataSet(
            name,
            f"{_SVHN_SCALING[dequantization]}, {_SVHN_LAYOUT[split]}",
            _likelihood(dequantization),
            None,
            Split(scaled(images), np.concatenate(labels)),
            None,
            Split(scaled(test_images), test_labels),
            _DIGIT_NAMES,
        )
    mean, square = (moment.mean(axis=(0, 1)) for moment in pixel_moments(images))
    # Of the grey levels without the noise, so that all seeds share one unit of length.
    std = np.sqrt(square - mean * mean)
    test_images, test_labels = sources.load_svhn("test", data_dir)
    return DataSet(
        name,
        f"(x+u)/s, uniform noise u one grey level wide drawn once (seed {seed}), s the standard"
        f" deviation of each colour over the training images ({', '.join(f'{v:.4f}' for v in std)}"
        f" grey levels), {_SVHN_LAYOUT[split]}",
        "gaussian",
        None,
        Split(dequantize(images, std, seed, "noise train"), np.concatenate(labels)),
        None,
        Split(dequantize(test_images, std, seed, "noise test"), test_labels),
        _DIGIT_NAMES,
        picture_scale=np.float32(std / 256.0),
    )


_CELEBA_CROPS = {"140": 140, "108": 108}
_CELEBA_SIZE = 64
_CELEBA_SCALING = {
    "uniform": "(x+u)/256, uniform noise u one grey level wide drawn once",
    "none": "x/255, no noise added (densities have no upper bound)",
    "bins": "probabilities of 256 levels, (x+0.5)/256",
}


def crop_and_shrink(images, crop, size, is_grey):
    """The middle of images, averaged over equal cells.

    Args:
      images: uint8 (N, H, W, 3).
      crop: side of the square in the middle that is kept; the spare row or column, if any, is below
        or on the right.
      size: new height and width.
      is_grey: whether the three colours become their luminance, 0.299 R + 0.587 G + 0.114 B.

    Returns:
      uint8 (N, size, size, 3) or (N, size, size, 1), rounded.
    """
    top, left = ((side - crop) // 2 for side in images.shape[1:3])
    images = images[:, top : top + crop, left : left + crop].astype(np.float32)
    if is_grey:
        images = images @ np.float32([[0.299], [0.587], [0.114]])
    weights = area_weights(crop, size)
    weights /= weights[0].sum()
    # Rows, then columns, each as one product.
    images = np.einsum("ih,nhwc->niwc", weights, images, optimize=True)
    images = np.einsum("jw,niwc->nijc", weights, images, optimize=True)
    return np.rint(images).astype(np.uint8)


def _celeba(name, data_dir, seed, crop, colours, dequantization):
    splits = []
    for part in ("train", "validation", "test"):
        images = sources.load_celeba(
            part,
            lambda batch: crop_and_shrink(
                batch, _CELEBA_CROPS[crop], _CELEBA_SIZE, colours == "grey"
            ),
            data_dir,
        )
        if dequantization == "none":
            images = images / np.float32(255)
        elif dequantization == "bins":
            images = _middles(images)
        else:
            images = dequantize(images, 256, seed, f"noise {part}")
        splits.append(Split(images))
    drawn = f" (seed {seed})" if dequantization == "uniform" else ""
    counts = "/".join(f"{last - first + 1:,}" for first, last in sources.CELEBA_NUMBERS.values())
    return DataSet(
        name,
        f"{_CELEBA_SCALING[dequantization]}{drawn}, the middle {crop}x{crop} of aligned faces"
        f" averaged to {_CELEBA_SIZE}x{_CELEBA_SIZE},"
        f" {'luminance' if colours == 'grey' else 'colour'}, {counts} (official partition)",
        _likelihood(dequantization),
        None,
        *splits,
    )


def _half_moons(name, data_dir, seed):
    del data_dir  # computed
    train, test = (
        Split(points[:, None, :, None], labels)
        for points, labels in (
            generated.half_moons(count, HALF_MOONS_NOISE, _rng(seed, f"half moons {part}"))
            for part, count in zip(("train", "test"), HALF_MOONS_COUNTS)
        )
    )
    return DataSet(
        name,
        f"points of the plane, Gaussian noise with standard deviation {HALF_MOONS_NOISE:g},"
        f" {len(train.images):,}/{len(test.images):,} (no validation), drawn once (seed {seed})",
        "gaussian",
        None,
        train,
        None,
        test,
        _MOON_NAMES,
        marked=_nearest(train, *generated.half_moon_anchors()),
    )


def _nearest(split, points, labels):
    """For each of some points (M, 2), the index of the nearest one of its class; ascending."""
    chosen = []
    for point, label in zip(points, labels):
        members = np.flatnonzero(split.labels == label)
        distances = np.linalg.norm(split.images[members, 0, :, 0] - point, axis=1)
        chosen.append(members[np.argmin(distances)])
    return np.unique(chosen).astype(np.int64)


def _pv_simulated(name, data_dir, seed, split):
    # By name, and only when asked for: the monitoring of plants stands above all other parts.
    return importlib.import_module("tfhvae.monitoring.samples").simulated(
        name, data_dir, seed, split
    )


_ARRAYS_SPLIT = ("files", "train_90_10")


def _arrays(name, data_dir, seed, binarization, dequantization, split):
    own = arrays.load_arrays(data_dir)
    parts = {part: Split(images, labels) for part, (images, labels) in own.parts.items()}
    is_unknown = own.class_names is not None and (parts["train"].labels < 0).any()
    layout = "/".join(f"{len(parts[p].images):,}" if p in parts else "–" for p in arrays.PARTS)
    if split == "train_90_10":
        layout = _hold_out(parts, is_unknown, data_dir)
    layout = f"own images (checksum {own.checksum}), {layout}"
    dtype = parts["train"].images.dtype
    if binarization != "none":
        if dtype.kind == "b":
            raise DataError(f"expected binarization=none of bool images, received {binarization}")
        unit = np.float32(255 if dtype == np.uint8 else 1)
        parts = _mapped(parts, lambda images, _: images.astype(np.float32) / unit)
        layout += ", means x/255" if dtype == np.uint8 else ", means as they are"
        splits = parts["train"], parts.get("validation"), parts["test"]
        dataset = _dynamic(name, binarization, seed, layout, splits, own.class_names)
    else:
        scaling, likelihood, scale = _own_scaling(dtype, dequantization, seed)
        parts = _mapped(parts, scale)
        dataset = DataSet(
            name,
            f"{scaling}, {layout}",
            likelihood,
            None,
            parts["train"],
            parts.get("validation"),
            parts["test"],
            own.class_names,
        )
    return dataclasses.replace(
        dataset,
        marked=np.flatnonzero(dataset.train.labels >= 0) if is_unknown else None,
        checksum=own.checksum,
    )


def _mapped(parts, function):
    """`parts` with the images `function(images, part)`."""
    return {
        part: dataclasses.replace(split, images=function(split.images, part))
        for part, split in parts.items()
    }


def _hold_out(parts, is_unknown, data_dir):
    """Takes a tenth of the training images for validation; returns what to say of it."""
    if "validation" in parts:
        raise DataError(
            f"expected split=files, as {data_dir} has validation_images.npy, received train_90_10"
        )
    images, labels = parts["train"].images, parts["train"].labels
    order = _fixed_order(len(images))
    eligible = order[labels[order] >= 0] if is_unknown else order
    what = "training images" + (" with a label" if is_unknown else "")
    if len(eligible) < 10:
        raise DataError(f"expected ten {what} or more for train_90_10, received {len(eligible)}")
    held_out = eligible[-(len(eligible) // 10) :]
    rest = order[~np.isin(order, held_out)]
    for part, chosen in (("validation", held_out), ("train", rest)):
        own = None if labels is None else labels[chosen]
        parts[part] = Split(images[chosen], own)
    counts = "/".join(f"{len(parts[part].images):,}" for part in arrays.PARTS)
    return f"{counts} (validation: a random tenth of the {what})"


def _own_scaling(dtype, dequantization, seed):
    """`(what to say, likelihood, function of images and part)` for images that are not binarised."""
    if dtype != np.uint8:
        if dequantization == "uniform":
            raise DataError(f"expected dequantization of uint8 images only, received {dtype}")
        kind = "binary" if dtype.kind == "b" else "real-valued, as they are, no noise added"
        likelihood = "bernoulli" if dtype.kind == "b" else "gaussian"
        return kind, likelihood, lambda images, _: images.astype(np.float32)
    likelihood = _likelihood(dequantization)
    if dequantization == "bins":
        return "probabilities of 256 levels: (x+0.5)/256", likelihood, lambda x, _: _scale_256(x)
    if dequantization == "none":
        said = "x/255, no noise added (densities have no upper bound)"
        return said, likelihood, lambda x, _: x / np.float32(255)
    said = f"(x+u)/256, uniform noise u one grey level wide drawn once (seed {seed})"
    return said, likelihood, lambda x, part: dequantize(x, 256, seed, f"noise {part}")


@dataclasses.dataclass(frozen=True)
class _Recipe:
    """How to build a data set, and its options, each with the default first."""

    description: str
    build: Callable[..., DataSet]
    options: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


_REDRAW = {"binarization": tuple(_DRAWN)}
_MNIST_SPLIT = {"split": tuple(_MNIST_LAYOUT)}
_PV_SPLIT = {"split": ("all", *(f"known_{number}" for number in range(1, 7)))}

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
    "small_norb": _Recipe(
        "small NORB's toys 96x96, averaged to 32x32, one camera or both, real-valued density",
        _small_norb,
        {
            "split": tuple(_NORB_LAYOUT),
            "cameras": tuple(_NORB_CAMERAS),
            "dequantization": tuple(_NORB_SCALING),
        },
    ),
    "svhn": _Recipe(
        "SVHN's cropped digits 32x32 in colour, real-valued density",
        _svhn,
        {"split": tuple(_SVHN_LAYOUT), "dequantization": tuple(_SVHN_SCALING)},
    ),
    "celeba": _Recipe(
        "CelebA's aligned faces, their middle averaged to 64x64, colour or grey, without labels",
        _celeba,
        {
            "crop": tuple(_CELEBA_CROPS),
            "colours": ("rgb", "grey"),
            "dequantization": tuple(_CELEBA_SCALING),
        },
    ),
    "half_moons": _Recipe(
        "two half-moons, points of the plane in two classes; needs no download",
        _half_moons,
    ),
    "pv_simulated": _Recipe(
        "a photovoltaic plant in ten conditions, simulated, six columns; needs the extra [pv]",
        _pv_simulated,
        _PV_SPLIT,
    ),
    "pv_simulated_iv": _Recipe(
        "the same plant, current and voltage only; needs the extra [pv]",
        _pv_simulated,
        _PV_SPLIT,
    ),
    "arrays": _Recipe(
        "images of your own, in NumPy's .npy files, with or without labels; needs data_dir",
        _arrays,
        {
            "binarization": ("none", *_DRAWN),
            "dequantization": ("bins", "uniform", "none"),
            "split": _ARRAYS_SPLIT,
        },
    ),
}

DATASETS = {name: recipe.description for name, recipe in _RECIPES.items()}
OPTIONS = {name: recipe.options for name, recipe in _RECIPES.items()}  # values, the default first
