"""Finding, checking and reading the files of the data sets.

Every `load_*` function returns the published arrays in their published order,
read from a folder of original files (`data_dir`) or, where `data_dir` is None
and tensorflow-datasets has the set, from there. Content is checked before it is
used, and everything wrong with it is a `DataError` of one line. Nothing is ever
unpickled.
"""

import dataclasses
import gzip
import hashlib
import io
import math
import pathlib
import re
import struct
import zipfile
import zlib

import numpy as np


class DataError(ValueError):
    """Bad data or a bad request for data; one line: expected, received, remedy."""

    def __init__(self, message):
        super().__init__(" ".join(message.split()))


@dataclasses.dataclass(frozen=True)
class Family:
    """Files that come together; the family's key is also its sub-folder's name."""

    title: str
    files: str  # what a user has to get
    homepage: str
    tfds: str | None = None  # the name in tensorflow-datasets

    @property
    def remedy(self):
        return f"get {self.files} from {self.homepage}"


_IDX_FILES = (
    "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte"
    " and t10k-labels-idx1-ubyte (plain or .gz)"
)
FAMILIES = {
    "mnist": Family("MNIST", _IDX_FILES, "http://yann.lecun.com/exdb/mnist/", "mnist"),
    "fashion_mnist": Family(
        "Fashion-MNIST",
        _IDX_FILES,
        "https://github.com/zalandoresearch/fashion-mnist",
        "fashion_mnist",
    ),
    "binarized_mnist": Family(
        "Larochelle's binarised MNIST",
        "binarized_mnist_train.amat, binarized_mnist_valid.amat and"
        " binarized_mnist_test.amat (plain or .gz)",
        "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
        "binarized_mnist",
    ),
    "frey_faces": Family(
        "Frey faces",
        "frey_rawface.mat (Roweis; variable ff, uint8 (560, 1965))",
        "https://cs.nyu.edu/~roweis/data.html",
    ),
    "omniglot": Family(
        "OMNIGLOT",
        "images_background.zip and images_evaluation.zip",
        "https://github.com/brendenlake/omniglot",
        "omniglot",
    ),
    "chardata": Family(
        "Burda's 28x28 OMNIGLOT",
        "chardata.mat (Burda; data (784, 24345), testdata (784, 8070))",
        "https://github.com/yburda/iwae",
    ),
    "small_norb": Family(
        "small NORB",
        "smallnorb-5x46789x9x18x6x2x96x96-training-dat.mat and -training-cat.mat,"
        " smallnorb-5x01235x9x18x6x2x96x96-testing-dat.mat and -testing-cat.mat"
        " (plain or .gz)",
        "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/",
        "smallnorb",
    ),
    "svhn": Family(
        "SVHN",
        "train_32x32.mat, test_32x32.mat and, for the split 604k_26k, extra_32x32.mat",
        "http://ufldl.stanford.edu/housenumbers/",
        "svhn_cropped",
    ),
    "celeba": Family(
        "CelebA",
        "img_align_celeba.zip (aligned and cropped images, 1.4 GB)",
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        "celeb_a",
    ),
}
# chardata.mat lies beside the other OMNIGLOT files.
_FOLDERS = {"chardata": "omniglot"}

IDX_COUNTS = {"train": 60_000, "t10k": 10_000}
# md5 of the whole uncompressed IDX file, header included.
IDX_MD5 = {
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}

AMAT_COUNTS = {"train": 50_000, "valid": 10_000, "test": 10_000}
# sha256 of the pixels packed eight to a byte, np.packbits of (N, 784), because
# the white space of the text may vary.
AMAT_SHA256 = {
    "train": "727146c35424b019f3e350e1e69faa05644a0abaf787e3f4e1a9632220a13906",
    "valid": "a256ac44ae26be720fad8616a05ed6ecfd1619930d9a208379bb2a4405df5b6d",
    "test": "9fcd8da6f0fdf09b2ba30fe63a0bb784042a0de82563172530229b983e294ff2",
}

FREY_COUNT = 1965
# sha256 of the faces as uint8 (1965, 560) in C order, one face per row.
FREY_SHA256 = "2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78"

CHARDATA_COUNTS = {"data": 24_345, "testdata": 8_070}
CHARDATA_ALPHABETS = 50

OMNIGLOT_SIZE = 105
OMNIGLOT_DRAWERS = 20
OMNIGLOT_ALPHABETS = 50
OMNIGLOT_CHARACTERS = {"background": 964, "evaluation": 659}
# sha256 of all images, characters and then drawers in ascending order, each
# packed by np.packbits to 1379 bytes with 1 = paper.
OMNIGLOT_SHA256 = "15ef2705730a477de180a518e97d8e8423a4f57257a21b62bf412d79286f9a48"

NORB_COUNTS = {"train": 24_300, "test": 24_300}
NORB_PAIR = (2, 96, 96)  # left and right camera
NORB_CLASSES = 5
NORB_FILES = {
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}
# md5 of the whole uncompressed file, header included; the labels of both parts
# are the same, 0 to 4 in turn.
NORB_MD5 = {
    "train": {
        "dat": "8138a0902307b32dfa0025a36dfa45ec",
        "cat": "fd5120d3f770ad57ebe620eb61a0b633",
    },
    "test": {
        "dat": "e9920b7f7b2869a8f1a12e945b2c166c",
        "cat": "fd5120d3f770ad57ebe620eb61a0b633",
    },
}
_NORB_TYPES = {  # dtype: (magic number, what it stands for)
    np.dtype("u1"): (0x1E3D4C55, "bytes"),
    np.dtype("<i4"): (0x1E3D4C54, "int32"),
}

SVHN_COUNTS = {"train": 73_257, "extra": 531_131, "test": 26_032}
# sha256 of the whole file, which is compressed inside.
SVHN_SHA256 = {
    "train": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    "extra": "a133a4beb38a00fcdda90c9489e0c04f900b660ce8a316a5e854838379a71eb3",
    "test": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
}

# Numbers of the first and of the last image of each part, as in list_eval_partition.txt.
CELEBA_NUMBERS = {
    "train": (1, 162_770),
    "validation": (162_771, 182_637),
    "test": (182_638, 202_599),
}
CELEBA_IMAGE = (218, 178, 3)
# sha256 of img_align_celeba.zip.
CELEBA_SHA256 = "46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74"


# Files ------------------------------------------------------------------------


def find_file(data_dir, family, name):
    """Path of `name` or `name`.gz in `data_dir`/family or in `data_dir` itself.

    Raises:
      DataError: if `data_dir` is not a folder or holds neither.
    """
    path = _search(data_dir, family, name)
    if path is None:
        raise DataError(
            f"expected {name} or {name}.gz in {data_dir} or its sub-folder"
            f" {_FOLDERS.get(family, family)}, received neither;"
            f" {FAMILIES[family].remedy}"
        )
    return path


def _search(data_dir, family, name):
    root = pathlib.Path(data_dir).expanduser()
    if not root.is_dir():
        raise DataError(
            f"expected data_dir to be a folder, received {data_dir}, which is not"
            f" one; {FAMILIES[family].remedy} and name the folder they are in"
        )
    for folder in (root / _FOLDERS.get(family, family), root):
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    return None


def read_file(path):
    """The bytes of a file, unpacked if they are gzip, whatever the file's name.

    Raises:
      DataError: if the file is unreadable, empty, damaged gzip or an HTML page.
    """
    try:
        content = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"expected a readable file, received {error}") from error
    _check_not_a_page(content, path)
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise _damaged_gzip(path, error) from error
        _check_not_a_page(content, path)
    return content


def _damaged_gzip(path, error):
    return DataError(
        f"expected complete gzip data in {path}, received a truncated or"
        f" damaged file ({error}); download it again"
    )


def _check_not_a_page(content, path):
    if not content:
        raise DataError(f"expected data in {path}, received an empty file; download it again")
    if re.match(rb"\s*<(!doctype|html|head|\?xml)", content[:512], re.IGNORECASE):
        raise DataError(
            f"expected data in {path}, received an HTML page, probably the server's"
            " error message; download the file again and look at the page"
        )


def _check_digest(content, expected, path, family, algorithm="sha256", header=b""):
    digest = hashlib.new(algorithm, header)
    digest.update(content)
    received = digest.hexdigest()
    if received != expected:
        raise DataError(
            f"expected {algorithm} {expected} of the content of {path}, received"
            f" {received}: {_whose(received)}; {FAMILIES[family].remedy}"
        )


def _whose(digest):
    for family, digests in IDX_MD5.items():
        if digest in digests.values():
            return f"these are {FAMILIES[family].title}'s files"
    return "the file is damaged or not the original one"


# tensorflow-datasets ----------------------------------------------------------


def read_tfds(family, splits, encode=lambda images: images, features=None):
    """Reads splits from tensorflow-datasets, which downloads them if need be.

    Args:
      family: a key of `FAMILIES`.
      splits: names of splits.
      encode: maps a batch of uint8 images (B, H, W, C) to what is kept of it.
      features: names of those to read; None for all, which are then arrays.

    Returns:
      ({split: {feature: array (N, ...)}}, the features), in *stored* order.

    Raises:
      DataError: if tensorflow-datasets cannot provide the set.
    """
    family_ = FAMILIES[family]
    try:
        import tensorflow_datasets as tfds

        # One file at a time, so that the stored order is the order of reading.
        datasets, info = tfds.load(
            family_.tfds,
            split=list(splits),
            shuffle_files=False,
            read_config=tfds.ReadConfig(interleave_cycle_length=1),
            with_info=True,
        )
        arrays = {}
        for split, dataset in zip(splits, datasets):
            batches = [
                {
                    **{key: batch[key] for key in features or batch},
                    "image": encode(batch["image"]),
                }
                for batch in tfds.as_numpy(dataset.batch(1000))
            ]
            arrays[split] = {
                key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]
            }
        return arrays, info.features
    # Network, disk, checksum and installation errors share no narrower class.
    except Exception as error:
        raise DataError(
            f"expected {family_.title} from tensorflow-datasets, received"
            f" {type(error).__name__}: {error}; without it, {family_.remedy} and"
            " name their folder in data_dir (--data_dir)"
        ) from error


def restore_order(stored, keys, split, family):
    """Undoes the shuffle that tensorflow-datasets applies when it writes a split.

    It stores examples by ascending md5 of the split's name followed by the key,
    so that "the last 10,000" would be other images than in the original file.

    Args:
      stored: array (N, ...) in stored order.
      keys: the N keys in the original order.
      split: the split's name.
      family: a key of `FAMILIES`.

    Returns:
      The array in the original order.

    Raises:
      DataError: if there is not one key for each example.
    """
    if len(stored) != len(keys):
        raise DataError(
            f"expected {len(keys)} examples in split {split!r} of"
            f" tensorflow-datasets' {FAMILIES[family].tfds}, received"
            f" {len(stored)}; {FAMILIES[family].remedy}, and name their folder in"
            " data_dir"
        )
    digests = [hashlib.md5(f"{split}{key}".encode()).digest() for key in keys]
    original = np.empty_like(stored)
    original[sorted(range(len(keys)), key=digests.__getitem__)] = stored
    return original


def _tfds_place(family, split):
    return f"tensorflow-datasets' {FAMILIES[family].tfds}, split {split!r}"


# MNIST and Fashion-MNIST ------------------------------------------------------


def load_idx(family, data_dir=None):
    """MNIST or Fashion-MNIST.

    Args:
      family: "mnist" or "fashion_mnist".
      data_dir: folder of the four IDX files; None for tensorflow-datasets.

    Returns:
      ((train images uint8 (60000, 28, 28), labels uint8 (60000,)),
       (test images uint8 (10000, 28, 28), labels uint8 (10000,))).

    Raises:
      DataError: if a file is missing, damaged or another one.
    """
    if data_dir is None:
        return _tfds_idx(family)
    parts = []
    for part, count in IDX_COUNTS.items():
        for name, shape in _idx_files(part, count).items():
            path = find_file(data_dir, family, name)
            content = read_file(path)
            parts.append(parse_idx(content, shape, path))
            _check_digest(content, IDX_MD5[family][name], path, family, "md5")
    return tuple(parts[:2]), tuple(parts[2:])


def _idx_files(part, count):
    return {
        f"{part}-images-idx3-ubyte": (count, 28, 28),
        f"{part}-labels-idx1-ubyte": (count,),
    }


def _idx_header(shape):
    return struct.pack(f">{1 + len(shape)}I", 0x0800 | len(shape), *shape)


def parse_idx(content, shape, path):
    """The uint8 array of `shape` in the content of an IDX file.

    Raises:
      DataError: if magic number, shape or length differ; `path` is named.
    """
    header = _idx_header(shape)
    if content[:4] != header[:4]:
        raise DataError(
            f"expected the IDX magic number 0x{header[:4].hex()} in {path}, received"
            f" 0x{content[:4].hex()}; this is another kind of file, download it again"
        )
    if content[4 : len(header)] != header[4:]:
        received = tuple(
            int.from_bytes(content[i : i + 4], "big") for i in range(4, len(header), 4)
        )
        raise DataError(
            f"expected shape {shape} in {path}, received {received}; this is not the"
            " original file, download it again"
        )
    if len(content) != len(header) + np.prod(shape):
        raise DataError(
            f"expected {len(header) + np.prod(shape)} bytes for shape {shape} in"
            f" {path}, received {len(content)}; download it again"
        )
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def _tfds_idx(family):
    splits = {"train": "train", "test": "t10k"}
    arrays, _ = read_tfds(family, splits, encode=lambda images: images[..., 0])
    results = []
    for split, part in splits.items():
        keys = range(IDX_COUNTS[part])
        stored = (arrays[split]["image"], arrays[split]["label"].astype(np.uint8))
        restored = [restore_order(a, keys, split, family) for a in stored]
        for name, array in zip(_idx_files(part, len(keys)), restored):
            _check_digest(
                _idx_header(array.shape) + array.tobytes(),
                IDX_MD5[family][name],
                _tfds_place(family, split),
                family,
                "md5",
            )
        results.append(tuple(restored))
    return tuple(results)


# Larochelle's binarised MNIST -------------------------------------------------


def load_binarized_mnist(data_dir=None):
    """Larochelle's fixed binarisation of MNIST, in his order, without labels.

    Returns:
      {"train": uint8 (50000, 28, 28), "valid": (10000, 28, 28), "test": (10000,
      28, 28)} of zeros and ones.

    Raises:
      DataError: if a file is missing, damaged or another one.
    """
    family = "binarized_mnist"
    splits = {"train": "train", "valid": "validation", "test": "test"}
    if data_dir is None:
        arrays, _ = read_tfds(family, splits.values())
    images = {}
    for part, count in AMAT_COUNTS.items():
        if data_dir is None:
            place = _tfds_place(family, splits[part])
            pixels = restore_order(
                arrays[splits[part]]["image"], range(count), splits[part], family
            ).reshape(count, 784)
        else:
            place = find_file(data_dir, family, f"binarized_mnist_{part}.amat")
            pixels = parse_amat(read_file(place), count, place)
        packed = np.packbits(pixels, axis=1).tobytes()
        _check_digest(packed, AMAT_SHA256[part], place, family)
        images[part] = pixels.reshape(count, 28, 28)
    return images


_AMAT_TEXT = np.zeros(256, bool)
_AMAT_TEXT[list(b"01. \t\r\n")] = True


def parse_amat(content, count, path):
    """The uint8 (count, 784) zeros and ones of a text of such digits.

    Raises:
      DataError: if there is other text, or another number of digits.
    """
    text = np.frombuffer(content, np.uint8)
    known = _AMAT_TEXT[text]
    if not known.all():
        place = int(np.argmin(known))
        raise DataError(
            f"expected only 0 and 1, dots, blanks and line ends in {path}, received"
            f" {bytes(text[place : place + 1])!r} at byte {place}; download it again"
        )
    digits = text[(text == ord("0")) | (text == ord("1"))]
    if digits.size != count * 784:
        raise DataError(
            f"expected {count} x 784 = {count * 784} digits in {path}, received"
            f" {digits.size}; download it again"
        )
    return (digits - ord("0")).reshape(count, 784)


# Frey faces -------------------------------------------------------------------


def load_frey_faces(data_dir=None):
    """The Frey faces in the order of the film, uint8 (1965, 28, 20).

    Raises:
      DataError: if frey_rawface.mat is missing, damaged or another file.
    """
    family = "frey_faces"
    _need_folder(data_dir, family)
    path = _search(data_dir, family, "frey_rawface.mat")
    if path is None:
        pickled = _search(data_dir, family, "freyfaces.pkl")
        if pickled is not None:
            raise DataError(
                f"expected frey_rawface.mat, received {pickled}; pickles are never"
                f" loaded, as they can run code; {FAMILIES[family].remedy}"
            )
    path = find_file(data_dir, family, "frey_rawface.mat")
    faces = _read_mat(path, ("ff",))["ff"]
    _check_array(faces, (560, FREY_COUNT), "u", f"variable ff of {path}", family)
    faces = np.ascontiguousarray(faces.T.astype(np.uint8))
    _check_digest(faces.tobytes(), FREY_SHA256, path, family)
    return faces.reshape(-1, 28, 20)


def _need_folder(data_dir, family):
    if data_dir is None:
        raise DataError(
            f"expected data_dir (--data_dir) for {FAMILIES[family].title}, which"
            " tensorflow-datasets does not have, received None;"
            f" {FAMILIES[family].remedy} and name its folder"
        )


def _read_mat(path, names):
    return _parse_mat(read_file(path), path, names)


def _parse_mat(content, path, names):
    import scipy.io

    try:
        arrays = scipy.io.loadmat(io.BytesIO(content), variable_names=list(names))
    # scipy's parser meets damaged files with errors of many classes.
    except Exception as error:
        raise DataError(
            f"expected a MATLAB 5 file in {path}, received {type(error).__name__}:"
            f" {error}; download it again"
        ) from error
    for name in names:
        if name not in arrays:
            raise DataError(
                f"expected the variable {name} in {path}, received a file without it;"
                " this is not the original file"
            )
    return arrays


def _check_array(array, shape, kinds, place, family):
    if array.shape != shape or array.dtype.kind not in kinds:
        raise DataError(
            f"expected shape {shape} of kind {'/'.join(kinds)} in {place}, received"
            f" {array.shape} of {array.dtype}; {FAMILIES[family].remedy}"
        )


# OMNIGLOT ---------------------------------------------------------------------


def load_chardata(data_dir=None):
    """Burda's 28x28 OMNIGLOT from chardata.mat.

    The file is checked by shape and range only, as no published checksum of its
    arrays is known.

    Returns:
      ((train images float32 (24345, 28, 28) in [0, 1], alphabets int32 (24345,)),
       (test images (8070, 28, 28), alphabets (8070,))), upright, 1 = ink.

    Raises:
      DataError: if the file is missing, damaged or another one.
    """
    family = "chardata"
    _need_folder(data_dir, family)
    path = find_file(data_dir, family, "chardata.mat")
    targets = {"data": "target", "testdata": "testtarget"}
    arrays = _read_mat(path, (*targets, *targets.values()))
    parts = []
    for name, count in CHARDATA_COUNTS.items():
        pixels, one_hot = arrays[name], arrays[targets[name]]
        place = f"variable {name} of {path}"
        _check_array(pixels, (784, count), "fub", place, family)
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise DataError(
                f"expected values in [0, 1] in {place}, received [{pixels.min()},"
                f" {pixels.max()}]; {FAMILIES[family].remedy}"
            )
        place = f"variable {targets[name]} of {path}"
        _check_array(one_hot, (CHARDATA_ALPHABETS, count), "fubi", place, family)
        if not (np.isin(one_hot, (0, 1)).all() and (one_hot.sum(axis=0) == 1).all()):
            raise DataError(
                f"expected one-hot columns in {place}, received others; {FAMILIES[family].remedy}"
            )
        # Each column is an image in Fortran order.
        images = pixels.T.reshape(count, 28, 28).transpose(0, 2, 1)
        labels = one_hot.argmax(axis=0).astype(np.int32)
        parts.append((np.ascontiguousarray(images, np.float32), labels))
    return tuple(parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Omniglot105:
    """The original OMNIGLOT images.

    Attributes:
      image_bits: uint8 (1623, 20, 1379), character, drawer, packed 105x105 image
        with 1 = paper; characters are numbered as in the names of the PNG files.
      alphabet: int32 (1623,), index into `alphabet_names`.
      alphabet_names: 50 names, ordered by their first character's number.
    """

    image_bits: np.ndarray
    alphabet: np.ndarray
    alphabet_names: tuple[str, ...]


def load_omniglot105(data_dir=None):
    """All 32,460 images as an `Omniglot105`.

    Args:
      data_dir: folder of omniglot105.npz, or of the two official zip files; None
        for tensorflow-datasets. All three give the same arrays.

    Raises:
      DataError: if a file is missing, damaged or another one.
    """
    family = "omniglot"
    if data_dir is None:
        characters, place = _tfds_omniglot(), f"tensorflow-datasets' {family}"
    elif (place := _search(data_dir, family, "omniglot105.npz")) is not None:
        characters = _read_omniglot_npz(place)
    else:
        characters, place = {}, data_dir
        first = 1
        for part, count in OMNIGLOT_CHARACTERS.items():
            path = find_file(data_dir, family, f"images_{part}.zip")
            characters.update(read_omniglot_zip(path, range(first, first + count)))
            first += count
    names = list(dict.fromkeys(name for name, _ in characters.values()))
    bits = np.stack([images for _, images in characters.values()])
    _check_digest(bits.tobytes(), OMNIGLOT_SHA256, place, family)
    alphabet = np.array([names.index(name) for name, _ in characters.values()], np.int32)
    in_order = not (np.diff(alphabet) < 0).any()
    if len(names) != OMNIGLOT_ALPHABETS or not in_order:
        raise DataError(
            f"expected {OMNIGLOT_ALPHABETS} alphabets, the characters of each one after the other, in"
            f" {place}, received {len(names)}{'' if in_order else ', mixed'};"
            f" {FAMILIES[family].remedy}"
        )
    return Omniglot105(image_bits=bits, alphabet=alphabet, alphabet_names=tuple(names))


def _read_omniglot_npz(path):
    """{character number: (alphabet, packed images uint8 (20, 1379))}."""
    count = sum(OMNIGLOT_CHARACTERS.values())
    packed = (OMNIGLOT_SIZE**2 + 7) // 8
    content = read_file(path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            bits, alphabet, names = (
                arrays[key] for key in ("image_bits", "alphabet", "alphabet_names")
            )
    # numpy's and zipfile's parsers meet damaged files with errors of many classes.
    except Exception as error:
        raise DataError(
            f"expected an .npz of image_bits, alphabet and alphabet_names in {path},"
            f" received {type(error).__name__}: {error}; get it again, or"
            f" {FAMILIES['omniglot'].remedy}"
        ) from error
    for key, array, shape, kinds in (
        ("image_bits", bits, (count, OMNIGLOT_DRAWERS, packed), "u"),
        ("alphabet", alphabet, (count,), "ui"),
        ("alphabet_names", names, (OMNIGLOT_ALPHABETS,), "U"),
    ):
        _check_array(array, shape, kinds, f"array {key} of {path}", "omniglot")
    if alphabet.min() < 0 or alphabet.max() >= len(names):
        raise DataError(
            f"expected alphabet indices below {len(names)} in {path}, received"
            f" {alphabet.min()} to {alphabet.max()}; {FAMILIES['omniglot'].remedy}"
        )
    return {
        number: (str(names[alphabet[i]]), bits[i]) for i, number in enumerate(range(1, count + 1))
    }


_OMNIGLOT_PNG = re.compile(
    r"[^/]+/(?P<alphabet>[^/]+)/character\d\d/(?P<number>\d{4})_(?P<drawer>\d\d)"
    r"\.png"
)


def read_omniglot_zip(path, numbers):
    """Reads an official zip file of PNG images.

    Args:
      path: the file.
      numbers: the character numbers that it must hold, each by 20 drawers.

    Returns:
      {character number: (alphabet, packed images uint8 (20, 1379))}.

    Raises:
      DataError: if the zip file or a PNG is damaged, or others are in it.
    """
    import tensorflow as tf

    pages, alphabets = {}, {}
    try:
        with zipfile.ZipFile(io.BytesIO(read_file(path))) as archive:
            for name in archive.namelist():
                match = _OMNIGLOT_PNG.fullmatch(name)
                if match:
                    number, drawer = int(match["number"]), int(match["drawer"])
                    page = tf.io.decode_png(archive.read(name), channels=1).numpy()
                    pages[number, drawer] = page[..., 0] > 127
                    alphabets[number] = match["alphabet"]
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        ValueError,  # of a directory with offsets outside the file
        NotImplementedError,
        RuntimeError,  # an encrypted member
        tf.errors.InvalidArgumentError,
    ) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"expected a zip file of PNG images in {path}, received"
            f" {type(error).__name__}: {error}; download it again"
        ) from error
    drawers = range(1, OMNIGLOT_DRAWERS + 1)
    wanted = {(number, drawer) for number in numbers for drawer in drawers}
    if set(pages) != wanted:
        raise DataError(
            f"expected the {len(wanted)} images of characters {numbers[0]} to"
            f" {numbers[-1]} in {path}, received {len(wanted & set(pages))} of them"
            f" and {len(set(pages) - wanted)} others; {FAMILIES['omniglot'].remedy}"
        )
    sizes = {page.shape for page in pages.values()}
    if sizes != {(OMNIGLOT_SIZE, OMNIGLOT_SIZE)}:
        raise DataError(
            f"expected images of {OMNIGLOT_SIZE}x{OMNIGLOT_SIZE} in {path}, received"
            f" {sorted(sizes)}; {FAMILIES['omniglot'].remedy}"
        )
    return {
        number: (
            alphabets[number],
            np.stack([np.packbits(pages[number, drawer]) for drawer in drawers]),
        )
        for number in numbers
    }


def _tfds_omniglot():
    """{character number: (alphabet, packed images uint8 (20, 1379))}."""
    family, splits = "omniglot", ("train", "test")
    arrays, features = read_tfds(
        family,
        splits,
        encode=lambda images: np.packbits(images[..., 0].reshape(len(images), -1) > 127, axis=1),
    )
    characters = {}
    for split in splits:
        examples = arrays[split]
        _, firsts = np.unique(examples["label"], return_index=True)
        names = {
            int(examples["label"][i]) + 1: (
                features["alphabet"].int2str(int(examples["alphabet"][i])),
                int(examples["alphabet_char_id"][i]),
            )
            for i in firsts
        }
        keys = [
            f"{alphabet}_{character}_{number:04d}_{drawer:02d}.png"
            for number, (alphabet, character) in names.items()
            for drawer in range(1, OMNIGLOT_DRAWERS + 1)
        ]
        bits = restore_order(examples["image"], keys, split, family)
        bits = bits.reshape(len(names), OMNIGLOT_DRAWERS, -1)
        characters.update(
            (number, (alphabet, images))
            for (number, (alphabet, _)), images in zip(names.items(), bits)
        )
    return characters


# small NORB -------------------------------------------------------------------


def load_small_norb(part, data_dir=None):
    """The image pairs of one part of small NORB.

    One part at a time, because the image pairs of one take 448 MB.

    Args:
      part: "train" or "test".
      data_dir: folder of the part's two files; None for tensorflow-datasets. Both
        give the same arrays.

    Returns:
      (images uint8 (24300, 2, 96, 96), left and right camera, labels int32
      (24300,) of 0 to 4).

    Raises:
      DataError: if a file is missing, damaged or another one.
    """
    family = "small_norb"
    if data_dir is None:
        arrays = _tfds_norb(part)
        places = dict.fromkeys(arrays, _tfds_place(family, part))
    else:
        names = {kind: f"{NORB_FILES[part]}-{kind}.mat" for kind in NORB_MD5[part]}
        places = {kind: find_file(data_dir, family, name) for kind, name in names.items()}
        count = NORB_COUNTS[part]
        arrays = {
            "dat": read_norb(places["dat"], "u1", (count, *NORB_PAIR)),
            "cat": read_norb(places["cat"], "<i4", (count,)),
        }
    pairs, labels = arrays["dat"], arrays["cat"]
    if labels.min() < 0 or labels.max() >= NORB_CLASSES:
        raise DataError(
            f"expected labels from 0 to {NORB_CLASSES - 1} in {places['cat']}, received"
            f" {labels.min()} to {labels.max()}; {FAMILIES[family].remedy}"
        )
    for kind, array in arrays.items():
        header = norb_header(array.dtype, array.shape)
        expected = NORB_MD5[part][kind]
        _check_digest(array.reshape(-1), expected, places[kind], family, "md5", header)
    return pairs, labels.astype(np.int32, copy=False)


def norb_header(dtype, shape):
    """Head of a file in NORB's binary-matrix format, which is not MATLAB's.

    All its numbers are little-endian int32: a magic number for the dtype, the
    number of dimensions and their sizes, with ones up to the third.
    """
    magic, _ = _NORB_TYPES[np.dtype(dtype)]
    sizes = (*shape, *(1,) * (3 - len(shape)))
    return struct.pack(f"<{2 + len(sizes)}i", magic, len(shape), *sizes)


def read_norb(path, dtype, shape):
    """The array in a file of NORB's binary-matrix format, plain or gzip.

    Memory holds the content once, whether packed or not.

    Args:
      path: the file.
      dtype: "u1" or "<i4".
      shape: the shape that the array must have.

    Returns:
      array of `dtype` and `shape`.

    Raises:
      DataError: if magic number, sizes or length differ; `path` is named.
    """
    dtype = np.dtype(dtype)
    header = norb_header(dtype, shape)
    content = np.empty(len(header) + dtype.itemsize * math.prod(shape), np.uint8)
    length = _read_into(content, path)
    start = content[: min(length, len(header))].tobytes()
    if start[:4] != header[:4]:
        magic, kind = _NORB_TYPES[dtype]
        raise DataError(
            f"expected NORB's magic number 0x{magic:08x} ({kind}) in {path}, received"
            f" 0x{start[:4][::-1].hex()}; this is another kind of file, download it again"
        )
    if start[:8] != header[:8]:
        raise DataError(
            f"expected {len(shape)} dimensions in {path}, received"
            f" {int.from_bytes(start[4:8], 'little', signed=True)}; this is not the"
            " original file, download it again"
        )
    if start != header:
        received, expected = (
            tuple(int.from_bytes(x[i : i + 4], "little", signed=True) for i in range(8, len(x), 4))
            for x in (start, header)
        )
        raise DataError(
            f"expected sizes {expected} in {path}, received {received}; this is not the"
            " original file, download it again"
        )
    if length != len(content):
        raise DataError(
            f"expected {len(content)} bytes for shape {shape} in {path}, received"
            f" {length}; download it again"
        )
    return content[len(header) :].view(dtype).reshape(shape)


def _read_into(content, path):
    """Reads a file, unpacked if it is gzip, as far as it fits into `content`.

    Returns:
      Length of the whole file in bytes, unpacked.

    Raises:
      DataError: if the file is unreadable, empty, damaged gzip or an HTML page.
    """
    length = 0
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream = gzip.GzipFile(fileobj=file) if packed else file
            while chunk := stream.read(2**20):
                room = content[length : length + len(chunk)]
                room[:] = np.frombuffer(chunk, np.uint8, len(room))
                length += len(chunk)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged_gzip(path, error) from error
    except OSError as error:
        raise DataError(f"expected a readable file, received {error}") from error
    _check_not_a_page(content[: min(length, 512)].tobytes(), path)
    return length


def _tfds_norb(part):
    """{"dat": uint8 (24300, 2, 96, 96), "cat": int32 (24300,)} in the files' order."""
    family, keys = "small_norb", range(NORB_COUNTS[part])
    stored, _ = read_tfds(family, (part,), encode=lambda images: images[..., 0])
    stored = stored[part]
    labels = restore_order(stored["label_category"], keys, part, family)
    pairs = np.empty((len(keys), *NORB_PAIR), np.uint8)
    for camera, key in enumerate(("image", "image2")):
        images = restore_order(stored.pop(key), keys, part, family)
        pairs[:, camera] = images.reshape(len(keys), *NORB_PAIR[1:])
    return {"dat": pairs, "cat": labels.astype("<i4")}


# SVHN -------------------------------------------------------------------------


def load_svhn(part, data_dir=None):
    """One part of SVHN's cropped digits.

    Args:
      part: "train", "extra" (1.6 GB) or "test".
      data_dir: folder of the part's file; None for tensorflow-datasets. Both give
        the same arrays.

    Returns:
      (images uint8 (N, 32, 32, 3), labels int32 (N,), the digits 0 to 9).

    Raises:
      DataError: if the file is missing, damaged or another one.
    """
    family, count = "svhn", SVHN_COUNTS[part]
    if data_dir is None:
        place, first = _tfds_place(family, part), 0
        stored = read_tfds(family, (part,))[0][part]
        images, labels = (
            restore_order(stored.pop(key), range(count), part, family) for key in ("image", "label")
        )
        _check_array(images, (count, 32, 32, 3), "u", place, family)
    else:
        place, first = find_file(data_dir, family, f"{part}_32x32.mat"), 1  # 10 is the digit 0
        content = read_file(place)
        arrays = _parse_mat(content, place, ("X", "y"))
        _check_array(arrays["X"], (32, 32, 3, count), "u", f"variable X of {place}", family)
        _check_array(arrays["y"], (count, 1), "u", f"variable y of {place}", family)
        _check_digest(content, SVHN_SHA256[part], place, family)
        images, labels = arrays["X"].transpose(3, 0, 1, 2), arrays["y"][:, 0]
    if labels.min() < first or labels.max() > first + 9:
        raise DataError(
            f"expected labels from {first} to {first + 9} in {place}, received"
            f" {labels.min()} to {labels.max()}; {FAMILIES[family].remedy}"
        )
    return np.ascontiguousarray(images, np.uint8), (labels % 10).astype(np.int32)


# CelebA -----------------------------------------------------------------------


def load_celeba(part, encode, data_dir=None):
    """One part of CelebA's aligned and cropped faces.

    Args:
      part: "train", "validation" or "test".
      encode: maps images uint8 (B, 218, 178, 3) to what is kept of them, uint8 (B, ...); the
        complete images of the training part would take 19 GB.
      data_dir: folder of img_align_celeba.zip; None for tensorflow-datasets. Both give the same
        arrays.

    Returns:
      uint8 (N, ...), in the order of the images' numbers.

    Raises:
      DataError: if the file is missing, damaged or another one.
    """
    family = "celeba"
    first, last = CELEBA_NUMBERS[part]
    names = [f"{number:06d}.jpg" for number in range(first, last + 1)]
    if data_dir is None:
        place = _tfds_place(family, part)

        def checked(images):
            _check_array(images, (len(images), *CELEBA_IMAGE), "u", place, family)
            return encode(images)

        stored = read_tfds(family, (part,), checked, ("image",))[0][part]["image"]
        return restore_order(stored, names, part, family)
    path = find_file(data_dir, family, "img_align_celeba.zip")
    _check_file_digest(path, CELEBA_SHA256, family)
    import tensorflow as tf  # only now, as reading other sets does without

    parts = []
    try:
        with zipfile.ZipFile(path) as archive:
            for start in range(0, len(names), 1000):
                images = [
                    tf.io.decode_jpeg(archive.read(f"img_align_celeba/{name}"), 3).numpy()
                    for name in names[start : start + 1000]
                ]
                parts.append(encode(np.stack(images)))
    except (zipfile.BadZipFile, KeyError, ValueError, tf.errors.OpError) as error:
        raise DataError(
            f"expected a zip file of JPEG images in {path}, received {type(error).__name__}:"
            f" {error}; {FAMILIES[family].remedy}"
        ) from error
    return np.concatenate(parts)


def _check_file_digest(path, expected, family):
    """As `_check_digest`, of a file that need not fit into memory."""
    try:
        with open(path, "rb") as file:
            _check_not_a_page(file.read(512), path)
            file.seek(0)
            digest = hashlib.sha256()
            while chunk := file.read(2**20):
                digest.update(chunk)
    except OSError as error:
        raise DataError(f"expected a readable file, received {error}") from error
    received = digest.hexdigest()
    if received != expected:
        raise DataError(
            f"expected sha256 {expected} of the content of {path}, received {received}: the file"
            f" is damaged or not the original one; {FAMILIES[family].remedy}"
        )
