"""Images of one's own, with or without labels, in NumPy's `.npy` files."""

import dataclasses
import hashlib
import pathlib

import numpy as np

from tfhvae.data.sources import DataError

PARTS = ("train", "validation", "test")
UNKNOWN = -1  # the label of a training image that has none


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
    """What a folder holds.

    Attributes:
      parts: `{part: (images (N, H, W, C), int32 labels (N,) or None)}`, images bool, uint8 or
        floating in [0, 1]; without "validation" where there is none.
      class_names: the name of each label, or None without labels.
      checksum: 16 hexadecimal digits of the sha256 of all arrays and names.
    """

    parts: dict
    class_names: tuple[str, ...] | None
    checksum: str


def load_arrays(data_dir=None):
    """Reads the images, labels and class names of a folder.

    Args:
      data_dir: folder of `train_images.npy` and `test_images.npy`, (N, H, W) or (N, H, W, C), and,
        where there are any, `validation_images.npy`, `train_labels.npy`, `validation_labels.npy`,
        `test_labels.npy` (N,) and `class_names.txt`, a name on each line.

    Returns:
      An `Arrays`.

    Raises:
      DataError: if a file is missing, unreadable or not what it should be.
    """
    if data_dir is None:
        raise DataError(
            "expected data_dir (--data_dir), the folder of train_images.npy and test_images.npy,"
            " received None"
        )
    folder = pathlib.Path(data_dir).expanduser()
    if not folder.is_dir():
        raise DataError(f"expected data_dir to be a folder, received {data_dir}, which is not one")
    images = {part: _images(folder / f"{part}_images.npy") for part in PARTS}
    for part in ("train", "test"):
        if images[part] is None:
            raise DataError(f"expected {part}_images.npy in {folder}, received none")
    _check_alike(images, folder)
    labels = {part: _labels(folder, part, images[part]) for part in PARTS}
    with_images = [part for part in PARTS if images[part] is not None]
    labelled = [part for part in with_images if labels[part] is not None]
    if labelled and labelled != with_images:
        missing = ", ".join(f"{part}_labels.npy" for part in with_images if part not in labelled)
        raise DataError(
            f"expected labels of all parts in {folder}, {UNKNOWN} for training images without one, "
            f"or of none; received no {missing}"
        )
    class_names = _class_names(folder, [labels[part] for part in labelled])
    return Arrays(
        {part: (images[part], labels[part]) for part in with_images},
        class_names,
        _checksum(images, labels, class_names),
    )


def _read(path):
    """The array of a file, or None where there is no file."""
    if not path.exists():
        return None
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"expected an array in {path}, as numpy.save writes it, received"
            f" {' '.join(str(error).split())}"
        ) from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"expected one array in {path}, received an archive of several")
    return array


def _images(path):
    images = _read(path)
    if images is None:
        return None
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise DataError(
            f"expected images (N, H, W) or (N, H, W, C) in {path}, received shape {images.shape}"
        )
    kind = images.dtype.kind
    if kind not in "bf" and images.dtype != np.uint8:
        raise DataError(
            f"expected images in {path} to be bool, uint8 from 0 to 255, or floating from 0 to 1, "
            f"received {images.dtype}"
        )
    low, high = (0, 1) if kind != "f" else (images.min(), images.max())
    if not (low >= 0 and high <= 1):  # so that NaN is refused, too
        raise DataError(f"expected floating images from 0 to 1 in {path}, received {low} to {high}")
    return images if images.ndim == 4 else images[..., np.newaxis]


def _check_alike(images, folder):
    """Refuses parts of several shapes or types."""
    kinds = {
        f"{part}_images.npy": (array.shape[1:], array.dtype)
        for part, array in images.items()
        if array is not None
    }
    if len(set(kinds.values())) > 1:
        received = "; ".join(
            f"{name} has {' x '.join(map(str, shape))} of {dtype}"
            for name, (shape, dtype) in kinds.items()
        )
        raise DataError(f"expected images of one shape and type in {folder}, received: {received}")


def _labels(folder, part, images):
    path = folder / f"{part}_labels.npy"
    labels = _read(path)
    if labels is None:
        return None
    if images is None:
        raise DataError(f"expected {part}_images.npy beside {path}, received none")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"expected {len(images)} integers in {path}, one label for each image, received shape"
            f" {labels.shape} of {labels.dtype}"
        )
    least = UNKNOWN if part == "train" else 0
    if labels.min() < least or labels.max() >= 2**31:
        raise DataError(
            f"expected labels of at least {least} in {path}, received {labels.min()} to"
            f" {labels.max()}"
        )
    if labels.max() == UNKNOWN:
        raise DataError(f"expected the label of an image or more in {path}, received none but -1")
    return labels.astype(np.int32)


def _class_names(folder, labels):
    path = folder / "class_names.txt"
    names = None
    if path.exists():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"expected UTF-8 text in {path}, received {error}") from error
        names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not labels:
        if names is not None:
            raise DataError(f"expected train_labels.npy beside {path}, received none")
        return None
    num_classes = 1 + max(int(array.max()) for array in labels)
    if names is None:
        return tuple(map(str, range(num_classes)))
    if len(names) < num_classes or len(set(names)) < len(names):
        raise DataError(
            f"expected at least {num_classes} different names in {path}, for the labels 0 to"
            f" {num_classes - 1}, received {len(set(names))}"
        )
    return names


def _checksum(images, labels, class_names):
    digest = hashlib.sha256(repr(class_names).encode())
    for part in PARTS:
        for array in (images[part], labels[part]):
            if array is None:
                digest.update(b"none")
            else:
                digest.update(f"{array.dtype.str} {array.shape}".encode())
                digest.update(memoryview(np.ascontiguousarray(array)).cast("B"))
    return digest.hexdigest()[:16]
