"""The data sets: protocols on the real files, formats and errors on small ones.

Tests of real data read the folder named by TFHVAE_DATA, else ../shared/data
beside the repository, and are skipped without it. All other files are written
by the tests, in the true formats and with few images.
"""

import dataclasses
import gzip
import hashlib
import io
import os
import pathlib
import pickle
import re
import struct
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest

from tfhvae import data
from tfhvae.data import datasets, generated, sources

ROOT = pathlib.Path(__file__).resolve().parents[1]
REAL = pathlib.Path(os.environ.get("TFHVAE_DATA", ROOT.parent / "shared" / "data"))


def real(*names):
    """Mark that skips a test unless all named real files are there."""
    missing = [name for name in names if not (REAL / name).is_file()]
    return pytest.mark.skipif(
        bool(missing),
        reason=f"no {', '.join(missing)} in {REAL}; set TFHVAE_DATA to the data",
    )


def real_idx(family):
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3")
    return real(*(f"{family}/{name}-ubyte.gz" for name in names))


REAL_AMAT = real(
    *(f"binarized_mnist/binarized_mnist_{part}.amat.gz" for part in ("train", "valid", "test"))
)
REAL_FREY = real("frey_faces/frey_rawface.mat")
REAL_OMNIGLOT = real("omniglot/omniglot105.npz")


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def error(name, **kwargs):
    """The message of the DataError that `load` raises; always one line."""
    with pytest.raises(data.DataError) as info:
        data.load(name, **kwargs)
    message = str(info.value)
    assert "\n" not in message
    assert message.startswith("expected ") and "received" in message
    return message


def check(dataset, counts, image_shape, labels=True, unit=True):
    """What holds for every data set; `unit` where its values lie in [0, 1]."""
    splits = (dataset.train, dataset.validation, dataset.test)
    assert dataset.image_shape == image_shape
    assert dataset.num_classes == (len(dataset.class_names) if labels else None)
    assert "\n" not in dataset.protocol
    assert dataset.likelihood in ("bernoulli", "discretized_logistic", "gaussian")
    for split, count in zip(splits, counts, strict=True):
        if count is None:
            assert split is None
            continue
        assert split.images.shape == (count, *image_shape)
        assert split.images.dtype == np.float32
        assert np.isfinite(split.images).all()
        if unit:
            assert 0 <= split.images.min() and split.images.max() <= 1
        if labels:
            assert split.labels.shape == (count,) and split.labels.dtype == np.int32
            assert 0 <= split.labels.min() and split.labels.max() < dataset.num_classes
        else:
            assert split.labels is None
    if dataset.likelihood == "bernoulli":
        for split in splits[1:]:
            assert split is None or set(np.unique(split.images)) == {0, 1}
    else:
        assert dataset.binarization is None
    if dataset.likelihood == "discretized_logistic":  # centres of 256 bins
        levels = dataset.test.images * 256 - 0.5
        np.testing.assert_array_equal(levels, np.round(levels))


# Requests ---------------------------------------------------------------------


def test_import_is_cheap():
    # An empty parent package, as the real one may import TensorFlow.
    code = (
        "import sys, types; parent = types.ModuleType('tfhvae');"
        " parent.__path__ = ['tfhvae']; sys.modules['tfhvae'] = parent;"
        " import tfhvae.data.datasets; print([m for m in ('tensorflow', 'scipy',"
        " 'sklearn', 'tensorflow_datasets') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_names_and_descriptions():
    assert list(data.DATASETS) == [
      "digits", "dynamic_mnist", "static_mnist", "threshold_mnist", "mnist",
      "fashion_mnist", "frey_faces", "omniglot", "omniglot_resized", "small_norb", "svhn",
      "celeba", "half_moons", "pv_simulated", "pv_simulated_iv", "arrays",
  ]  # fmt: skip
    assert all(text and "\n" not in text for text in data.DATASETS.values())


def test_every_data_set_is_documented():
    text = (ROOT / "docs/data.md").read_text()
    assert [n for n in data.DATASETS if f"| `{n}` |" not in text] == []


@pytest.mark.parametrize(
    "name, kwargs, expected",
    [
        ("cifar", {}, "expected a data set out of digits, dynamic_mnist"),
        ("static_mnist", {"split": "60k_10k"}, "its options are: none"),
        ("static_mnist", {"binarization": "per_batch"}, "options are: none"),
        ("digits", {"split": "60k_10k"}, r"binarization \(per_batch, per_epoch"),
        ("mnist", {"binarization": "per_batch"}, r"split \(50k_10k_10k, 60k"),
        ("digits", {"binarization": "once"}, "per_batch or per_epoch, received"),
        ("dynamic_mnist", {"split": "55k"}, "50k_10k_10k or 60k_10k, received"),
        ("small_norb", {"split": "60k_10k"}, "24k_24k or 22k_2k_24k, received"),
        ("small_norb", {"binarization": "per_batch"}, r"split \(24k_24k, 22k_2k"),
        ("small_norb", {"cameras": "right"}, "left or both, received 'right'"),
        ("small_norb", {"dequantization": "normal"}, "uniform or none or bins, received"),
        ("svhn", {"split": "60k_10k"}, "73k_26k or 604k_26k, received"),
        ("svhn", {"cameras": "both"}, r"expected no cameras for svhn.*options are: split \(73k"),
        ("svhn", {"dequantization": "normal"}, "uniform or none or bins, received 'normal'"),
        ("celeba", {"split": "60k_10k"}, r"expected no split for celeba.*crop \(140, 108\)"),
        ("celeba", {"crop": "178"}, "crop of celeba to be 140 or 108, received '178'"),
        ("celeba", {"colours": "hsv"}, "rgb or grey, received 'hsv'"),
        ("digits", {"dequantization": "none"}, "expected no dequantization for digits"),
        ("half_moons", {"split": "10k_10k"}, "its options are: none"),
        ("digits", {"min_pixel_std": -0.1}, "min_pixel_std to be a number >= 0, received -0.1"),
        ("digits", {"min_pixel_std": True}, "min_pixel_std to be a number >= 0, received True"),
        ("digits", {"min_pixel_std": "0.1"}, "a number >= 0, received '0.1'"),
        ("digits", {"min_pixel_std": float("nan")}, "a number >= 0, received nan"),
        ("digits", {"min_pixel_std": float("inf")}, "a number >= 0, received inf"),
        ("digits", {"seed": -1}, "seed to be an integer >= 0, received -1"),
        ("digits", {"seed": 0.5}, "seed to be an integer >= 0, received 0.5"),
        ("digits", {"seed": True}, "seed to be an integer >= 0, received True"),
    ],
)
def test_unknown_request(name, kwargs, expected):
    assert re.search(expected, error(name, **kwargs))


# Binarisation and resizing ----------------------------------------------------


def test_binarize_is_a_function_of_seed_and_split():
    means = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    first = data.binarize(means, 3, "test")
    np.testing.assert_array_equal(first, data.binarize(means, 3, "test"))
    assert (first != data.binarize(means, 4, "test")).any()
    assert (first != data.binarize(means, 3, "validation")).any()
    # Golden: a change here changes every published result on dynamic sets.
    assert sha256(np.packbits(first.astype(bool))).startswith("834cebdf75d73e8e")


def test_binarize_follows_the_means():
    means = np.random.default_rng(0).random((1000, 100), np.float32)
    drawn = data.binarize(means, 0, "test")
    # 5 standard errors: fails by chance once in 1.7 million seeds, and finds an
    # error of 0.0065 in the mean.
    for part in (means < 0.3, means >= 0.3):
        sigma = np.sqrt((means * (1 - means))[part].sum())
        assert abs((drawn - means)[part].sum()) < 5 * sigma
    extremes = np.array([0, 1], np.float32)[:, None].repeat(10_000, 1)
    np.testing.assert_array_equal(data.binarize(extremes, 0, "test"), extremes)


def test_area_resize_is_the_mean_of_equal_cells():
    ink = np.random.default_rng(0).integers(0, 2, (3, 105, 105), np.uint8)
    fine = ink.repeat(4, axis=1).repeat(4, axis=2)  # 420 = 28 x 15
    cells = fine.reshape(3, 28, 15, 28, 15).sum(axis=(2, 4), dtype=np.int64)
    expected = cells.astype(np.float32) / np.float32(225)
    np.testing.assert_array_equal(datasets.area_resize(ink, 28), expected)
    np.testing.assert_array_equal(datasets.area_resize(ink, 105), ink)


def test_block_mean_equals_a_loop():
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12), np.uint8)
    images[0], images[1, :3, :3] = 255, 0
    expected = np.empty((3, 4, 4))
    for n, i, j in np.ndindex(3, 4, 4):
        cell = [int(images[n, 3 * i + k, 3 * j + m]) for k in range(3) for m in range(3)]
        expected[n, i, j] = sum(cell) / 9 / 255
    means = datasets.block_mean(images, 4)
    assert means.dtype == np.float32
    np.testing.assert_array_equal(means, expected.astype(np.float32))
    assert (means[0] == 1).all() and means[1, 0, 0] == 0
    # The largest block whose sum still fits into 16 bits.
    assert datasets.block_mean(np.full((1, 32, 32), 255, np.uint8), 2).tolist() == [[[1, 1]] * 2]
    levels = datasets.block_mean(images, 4, unit=1)
    np.testing.assert_allclose(levels, 255 * expected, rtol=1e-6)


def test_dequantize_is_a_function_of_seed_and_stream():
    levels = np.random.default_rng(0).integers(0, 256, (50, 40), np.uint8)
    first = datasets.dequantize(levels, 1, 3, "a")
    assert first.dtype == np.float32
    np.testing.assert_array_equal(np.floor(first), levels)
    np.testing.assert_array_equal(first, datasets.dequantize(levels, 1, 3, "a"))
    assert (first != datasets.dequantize(levels, 1, 4, "a")).mean() > 0.99
    assert (first != datasets.dequantize(levels, 1, 3, "b")).mean() > 0.99
    scale = np.linspace(1, 2, 40)
    np.testing.assert_allclose(datasets.dequantize(levels, scale, 3, "a"), first / scale, rtol=1e-6)
    # Uniform: 5 standard errors fail by chance once in 1.7 million seeds, and find an error of
    # 0.033 in the mean and of 0.010 in the variance of the noise.
    noise = first.astype(np.float64) - levels
    assert abs(noise.mean() - 1 / 2) < 5 / np.sqrt(12 * noise.size)
    assert abs(noise.var() - 1 / 12) < 5 / np.sqrt(180 * noise.size)
    # Golden: a change here changes every published result on dequantised sets.
    assert sha256(first).startswith("9c9d90d181564b70")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pixel_moments(dtype):
    images = np.random.default_rng(0).integers(0, 256, (23, 3, 2, 2)).astype(dtype)
    for chunk in (1, 5, 23, 100):
        mean, square = datasets.pixel_moments(images, chunk)
        np.testing.assert_allclose(mean, images.mean(axis=0, dtype=np.float64), rtol=1e-13)
        np.testing.assert_allclose(square, (images.astype(float) ** 2).mean(axis=0), rtol=1e-13)


# Dropped pixels ---------------------------------------------------------------


def test_without_dropped_pixels():
    digits = data.load("digits")
    assert digits.pixel_mask is None and digits.pixel_means is None
    assert digits.picture_shape == (8, 8, 1)
    assert digits.to_pictures(digits.test.images) is digits.test.images


def test_dropped_pixels():
    complete, digits = data.load("digits"), data.load("digits", min_pixel_std=0.2)
    std = complete.train.images.std(axis=0, dtype=np.float64)
    mask = std >= 0.2
    assert 1 < mask.sum() < 64
    check(digits, (1297, 200, 300), (mask.sum(), 1, 1))
    assert digits.picture_shape == (8, 8, 1) and digits.pixel_mask.dtype == bool
    assert digits.binarization == "per_batch"
    np.testing.assert_array_equal(digits.pixel_mask, mask)
    for words in (complete.protocol, f"{mask.sum()} of 64 pixels", "at least 0.2"):
        assert words in digits.protocol
    means = complete.train.images.mean(axis=0, dtype=np.float64)
    for part in ("train", "validation", "test"):
        a, b = getattr(complete, part), getattr(digits, part)
        np.testing.assert_array_equal(a.labels, b.labels)
        pictures = digits.to_pictures(b.images)
        assert pictures.dtype == np.float32
        np.testing.assert_array_equal(pictures[:, mask], a.images[:, mask])
        np.testing.assert_allclose(
            pictures[:, ~mask], np.broadcast_to(means[~mask], (len(pictures), 64 - mask.sum())),
            rtol=1e-6,
        )  # fmt: skip
    grid = digits.test.images[:6].reshape(2, 3, -1, 1, 1)
    np.testing.assert_array_equal(
        digits.to_pictures(grid).reshape(6, 8, 8, 1), digits.to_pictures(digits.test.images[:6])
    )
    assert digits.to_pictures(digits.test.images[0]).shape == (8, 8, 1)


def test_dropped_pixels_of_the_training_images_alone(small_idx):
    """The mask neither knows the test images nor depends on binarisation or seed."""
    masks = [
        data.load("dynamic_mnist", data_dir=small_idx.folder, min_pixel_std=0.3, **kwargs)
        for kwargs in ({}, {"seed": 5}, {"binarization": "per_epoch"})
    ]
    for dataset in masks[1:]:
        np.testing.assert_array_equal(dataset.pixel_mask, masks[0].pixel_mask)
    x = small_idx.arrays["mnist"]["train-images-idx3-ubyte"][:20] / 255
    np.testing.assert_array_equal(masks[0].pixel_mask[..., 0], x.std(axis=0) >= 0.3)


def test_limits_of_dropping_pixels():
    assert data.load("digits", min_pixel_std=0).image_shape == (64, 1, 1)
    message = error("digits", min_pixel_std=1)
    assert "expected min_pixel_std of at most 0.4" in message and "digits, received 1" in message
    digits = data.load("digits", min_pixel_std=0.2)
    with pytest.raises(data.DataError, match=r"received \(3, 8, 8, 1\)"):
        digits.to_pictures(np.zeros((3, 8, 8, 1)))


@real_idx("mnist")
def test_dropped_pixels_of_real_mnist():
    """Maaløe et al. (2016) have 444 of 784 pixels left."""
    dynamic = data.load("dynamic_mnist", data_dir=REAL, split="60k_10k", min_pixel_std=0.1)
    check(dynamic, (60_000, None, 10_000), (444, 1, 1))
    assert "444 of 784" in dynamic.protocol
    assert dynamic.to_pictures(dynamic.test.images[:3]).shape == (3, 28, 28, 1)


# Digits -----------------------------------------------------------------------


def test_digits():
    digits = data.load("digits")
    check(digits, (1297, 200, 300), (8, 8, 1))
    assert digits.binarization == "per_batch"
    assert digits.class_names == tuple("0123456789")
    np.testing.assert_array_equal(digits.train.images * 16 % 1, 0)
    for split in (digits.train, digits.validation, digits.test):
        share = np.bincount(split.labels, minlength=10) / len(split.labels)
        assert share.min() > 0.09 and share.max() < 0.11
    # Golden: the split never changes.
    assert sha256(digits.train.images).startswith("5bf235fbbad9c6c4")


def test_seed_changes_held_out_draws_and_nothing_else():
    first, again = data.load("digits"), data.load("digits", seed=0)
    other = data.load("digits", seed=1, binarization="per_epoch")
    for part in ("train", "validation", "test"):
        a, b, c = (getattr(d, part) for d in (first, again, other))
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, c.labels)
        assert (a.images == c.images).all() == (part == "train")
    assert other.binarization == "per_epoch"
    assert "per epoch" in other.protocol and "seed 1" in other.protocol


def test_another_number_of_digits_is_refused(monkeypatch):
    monkeypatch.setattr(datasets, "DIGITS_COUNTS", (1, 2, 3))
    assert "expected 1 + 2 + 3 images, received 1797" in error("digits")


# MNIST and Fashion-MNIST ------------------------------------------------------


def idx(array):
    header = bytes([0, 0, 8, array.ndim])
    return header + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.fixture
def small_idx(tmp_path, monkeypatch):
    """Folder of two families of small IDX files, with their arrays."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(sources, "IDX_COUNTS", {"train": 30, "t10k": 12})
    monkeypatch.setattr(datasets, "MNIST_VALIDATION", 10)
    arrays, digests = {}, {}
    for family in ("mnist", "fashion_mnist"):
        (tmp_path / family).mkdir()
        arrays[family], digests[family] = {}, {}
        for part, count in sources.IDX_COUNTS.items():
            for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", count)):
                name = f"{part}-{kind}-ubyte"
                high = 10 if "labels" in name else 256
                array = rng.integers(0, high, shape, np.uint8)
                (tmp_path / family / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
                arrays[family][name] = array
                digests[family][name] = hashlib.md5(idx(array)).hexdigest()
    monkeypatch.setattr(sources, "IDX_MD5", digests)
    return types.SimpleNamespace(folder=tmp_path, arrays=arrays)


def test_mnist_splits_and_scaling(small_idx):
    x = small_idx.arrays["mnist"]["train-images-idx3-ubyte"][..., None]
    y = small_idx.arrays["mnist"]["train-labels-idx1-ubyte"]
    test = small_idx.arrays["mnist"]["t10k-images-idx3-ubyte"][..., None]

    mnist = data.load("mnist", data_dir=small_idx.folder)
    check(mnist, (20, 10, 12), (28, 28, 1))
    np.testing.assert_array_equal(mnist.train.images, (x[:20] + 0.5) / 256)
    np.testing.assert_array_equal(mnist.validation.images, (x[20:] + 0.5) / 256)
    np.testing.assert_array_equal(mnist.validation.labels, y[20:])

    threshold = data.load("threshold_mnist", data_dir=small_idx.folder)
    check(threshold, (20, 10, 12), (28, 28, 1))
    np.testing.assert_array_equal(threshold.test.images, test / 255 > 0.5)

    dynamic = data.load("dynamic_mnist", data_dir=small_idx.folder, seed=5)
    check(dynamic, (20, 10, 12), (28, 28, 1))
    np.testing.assert_allclose(dynamic.train.images, x[:20] / 255, rtol=1e-6)
    np.testing.assert_array_equal(
        dynamic.test.images,
        data.binarize((test / 255).astype(np.float32), 5, "test"),
    )

    complete = data.load("dynamic_mnist", data_dir=small_idx.folder, split="60k_10k")
    check(complete, (30, None, 12), (28, 28, 1))
    np.testing.assert_array_equal(complete.train.labels, y)
    assert "validation" not in complete.protocol.replace("no validation", "")


def test_plain_files_in_one_folder(small_idx):
    for path in (small_idx.folder / "fashion_mnist").glob("*.gz"):
        plain = small_idx.folder / path.stem
        plain.write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    fashion = data.load("fashion_mnist", data_dir=str(small_idx.folder))
    check(fashion, (20, 10, 12), (28, 28, 1))
    assert fashion.class_names[9] == "Ankle boot"


def test_the_other_family_is_named(small_idx):
    message = error("mnist", data_dir=small_idx.folder / "fashion_mnist")
    assert "these are Fashion-MNIST's files" in message
    message = error("fashion_mnist", data_dir=small_idx.folder / "mnist")
    assert "these are MNIST's files" in message


PAGE = b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>"


@pytest.mark.parametrize(
    "damage, expected",
    [
        (lambda content: b"", "received an empty file"),
        (lambda content: gzip.compress(b""), "received an empty file"),
        (lambda content: gzip.compress(content)[:-20], "truncated or damaged"),
        (lambda content: b"\x1f\x8b" + bytes(50), "truncated or damaged"),
        (lambda content: PAGE, "received an HTML page"),
        (lambda content: gzip.compress(PAGE), "received an HTML page"),
        (lambda content: b"\0\0\x08\x01" + content[4:], "received 0x00000801"),
        (lambda content: b"junk" + content[4:], "received 0x6a756e6b"),
        (
            lambda content: idx(np.zeros((7, 28, 28), np.uint8)),
            r"expected shape (30, 28, 28) in",
        ),
        (lambda content: content[:-1], "bytes for shape (30, 28, 28)"),
        (lambda content: content + b"\0", "bytes for shape (30, 28, 28)"),
        (
            lambda content: content[:-1] + bytes([content[-1] ^ 1]),
            "the file is damaged or not the original one",
        ),
    ],
)
def test_damaged_idx_file(small_idx, damage, expected):
    path = small_idx.folder / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(gzip.decompress(path.read_bytes())))
    message = error("mnist", data_dir=small_idx.folder)
    assert expected in message and str(path) in message


def test_missing_files(small_idx, tmp_path):
    message = error("mnist", data_dir=tmp_path / "nowhere")
    assert "expected data_dir to be a folder" in message
    (small_idx.folder / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    message = error("mnist", data_dir=small_idx.folder)
    assert "expected t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz" in message
    assert "yann.lecun.com" in message


def test_unreadable_file(tmp_path):
    with pytest.raises(data.DataError, match="expected a readable file"):
        sources.read_file(tmp_path)


@real_idx("mnist")
def test_real_mnist():
    dynamic = data.load("dynamic_mnist", data_dir=REAL)
    check(dynamic, (50_000, 10_000, 10_000), (28, 28, 1))
    assert dynamic.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert dynamic.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    mnist = data.load("mnist", data_dir=REAL, split="60k_10k")
    check(mnist, (60_000, None, 10_000), (28, 28, 1))
    mean = mnist.train.images.mean(dtype=np.float64) * 256 - 0.5
    assert abs(mean - 33.318421) < 1e-6  # grey level, as published
    means = (mnist.test.images * 256 - 0.5) / 255
    # 5 standard errors: fails by chance once in 1.7 million seeds.
    sigma = np.sqrt((means * (1 - means)).sum(dtype=np.float64))
    surplus = dynamic.test.images.sum(dtype=np.float64) - means.sum(dtype=np.float64)
    assert abs(surplus) < 5 * sigma
    assert not dynamic.test.images[means == 0].any()
    other = data.load("dynamic_mnist", data_dir=REAL / "mnist", seed=1)
    assert 0.01 < (other.test.images != dynamic.test.images).mean() < 0.1


@real_idx("fashion_mnist")
def test_real_fashion_mnist():
    fashion = data.load("fashion_mnist", data_dir=REAL)
    check(fashion, (50_000, 10_000, 10_000), (28, 28, 1))
    assert fashion.train.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    message = error("mnist", data_dir=REAL / "fashion_mnist")
    assert "these are Fashion-MNIST's files" in message


# tensorflow-datasets ----------------------------------------------------------


class Stored:
    """Stands in for a tf.data.Dataset of numpy examples."""

    def __init__(self, **arrays):
        self.arrays = arrays

    def batch(self, size):
        count = len(self.arrays["image"])
        return [
            {key: array[i : i + size] for key, array in self.arrays.items()}
            for i in range(0, count, size)
        ]


def tfds_shuffle(array, keys, split):
    """tensorflow-datasets' order of storage."""

    def digest(i):
        return hashlib.md5(f"{split}{keys[i]}".encode()).hexdigest()

    return array[sorted(range(len(array)), key=digest)]


@pytest.fixture
def fake_tfds(monkeypatch):
    """Lets `tfds.load` return given splits; yields the dict to fill with them."""
    tfds = pytest.importorskip("tensorflow_datasets")
    provided = {}

    def load(name, split, shuffle_files, read_config, with_info):
        assert not shuffle_files and with_info
        assert read_config.interleave_cycle_length == 1
        splits, features = provided[name]
        return [splits[s] for s in split], types.SimpleNamespace(features=features)

    monkeypatch.setattr(tfds, "load", load)
    monkeypatch.setattr(tfds, "as_numpy", lambda dataset: dataset)
    return provided


def test_mnist_from_tfds_equals_the_files(small_idx, fake_tfds):
    arrays = small_idx.arrays["mnist"]
    stored = {}
    for split, part in (("train", "train"), ("test", "t10k")):
        images = arrays[f"{part}-images-idx3-ubyte"][..., None]
        labels = arrays[f"{part}-labels-idx1-ubyte"].astype(np.int64)
        keys = range(len(labels))
        stored[split] = Stored(
            image=tfds_shuffle(images, keys, split),
            label=tfds_shuffle(labels, keys, split),
        )
    fake_tfds["mnist"] = stored, None
    from_tfds = data.load("mnist")
    from_files = data.load("mnist", data_dir=small_idx.folder)
    for part in ("train", "validation", "test"):
        a, b = getattr(from_tfds, part), getattr(from_files, part)
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)

    train = stored["train"].arrays
    train["image"] = train["image"][::-1]
    message = error("mnist")
    assert "md5" in message and "tensorflow-datasets' mnist, split 'train'" in message
    stored["train"] = Stored(image=train["image"][:-1], label=train["label"][:-1])
    assert "expected 30 examples" in error("mnist")


def test_order_of_tfds_is_undone(tmp_path):
    """With a set that the installed tensorflow-datasets has really written."""
    pytest.importorskip("importlib_resources")  # tfds needs it without saying so
    tfds = pytest.importorskip("tensorflow_datasets")

    class Numbers(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Tensor(shape=(), dtype=np.int64)}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(50):
                yield i, {"image": i}

    builder = Numbers(data_dir=tmp_path)
    builder.download_and_prepare()
    dataset = builder.as_dataset(split="train", shuffle_files=False)
    stored = np.array([int(e["image"]) for e in tfds.as_numpy(dataset)])
    assert (stored != np.arange(50)).any()
    restored = sources.restore_order(stored, range(50), "train", "mnist")
    np.testing.assert_array_equal(restored, np.arange(50))


@real_idx("mnist")
def test_order_of_tfds_for_mnist():
    """The first labels of tensorflow-datasets' mnist 3.0.1, as it shows them."""
    (_, labels), (_, test_labels) = sources.load_idx("mnist", REAL)
    train = tfds_shuffle(labels, range(60_000), "train")
    test = tfds_shuffle(test_labels, range(10_000), "test")
    assert train[:10].tolist() == [4, 1, 0, 7, 8, 1, 2, 7, 1, 6]
    assert test[:10].tolist() == [2, 0, 4, 8, 7, 6, 0, 6, 3, 1]


@pytest.mark.parametrize(
    "name, files",
    [
        ("mnist", "t10k-labels-idx1-ubyte"),
        ("fashion_mnist", "t10k-labels-idx1-ubyte"),
        ("static_mnist", "binarized_mnist_valid.amat"),
        ("omniglot_resized", "images_evaluation.zip"),
        ("small_norb", "smallnorb-5x01235x9x18x6x2x96x96-testing-dat.mat"),
        ("svhn", "extra_32x32.mat"),
        ("celeba", "img_align_celeba.zip"),
    ],
)
def test_tfds_without_network(monkeypatch, name, files):
    tfds = pytest.importorskip("tensorflow_datasets")

    def load(*args, **kwargs):
        raise ConnectionError("Failed to resolve host\n(name unknown)")

    monkeypatch.setattr(tfds, "load", load)
    message = error(name)
    assert "ConnectionError: Failed to resolve host" in message
    assert files in message and "--data_dir" in message


def test_tfds_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert "train-images-idx3-ubyte" in error("mnist")


@pytest.mark.parametrize(
    "name, files",
    [("frey_faces", "frey_rawface.mat"), ("omniglot", "chardata.mat")],
)
def test_sets_that_tfds_does_not_have(name, files):
    message = error(name)
    assert files in message and "--data_dir" in message


# Larochelle's binarised MNIST -------------------------------------------------


@pytest.fixture
def small_amat(tmp_path, monkeypatch):
    counts = {"train": 5, "valid": 3, "test": 2}
    rng = np.random.default_rng(0)
    images = {k: rng.integers(0, 2, (n, 784), np.uint8) for k, n in counts.items()}
    monkeypatch.setattr(sources, "AMAT_COUNTS", counts)
    monkeypatch.setattr(
        sources,
        "AMAT_SHA256",
        {k: sha256(np.packbits(a, axis=1)) for k, a in images.items()},
    )
    for part, rows in images.items():
        text = "".join(" ".join(map(str, row)) + " \r\n" for row in rows.tolist())
        (tmp_path / f"binarized_mnist_{part}.amat").write_text(text, newline="")
    return types.SimpleNamespace(folder=tmp_path, images=images)


def test_static_mnist(small_amat):
    static = data.load("static_mnist", data_dir=small_amat.folder)
    check(static, (5, 3, 2), (28, 28, 1), labels=False)
    assert static.binarization is None and static.class_names is None
    expected = small_amat.images["valid"].reshape(3, 28, 28, 1)
    np.testing.assert_array_equal(static.validation.images, expected)


def test_static_mnist_from_tfds(small_amat, fake_tfds):
    splits = {"train": "train", "valid": "validation", "test": "test"}
    fake_tfds["binarized_mnist"] = (
        {
            split: Stored(
                image=tfds_shuffle(
                    small_amat.images[part].reshape(-1, 28, 28, 1),
                    range(len(small_amat.images[part])),
                    split,
                )
            )
            for part, split in splits.items()
        },
        None,
    )
    static = data.load("static_mnist")
    expected = small_amat.images["train"].reshape(5, 28, 28, 1)
    np.testing.assert_array_equal(static.train.images, expected)


@pytest.mark.parametrize(
    "damage, expected",
    [
        (lambda text: text.replace("1", "2", 1), "received b'2' at byte"),
        (lambda text: text[:-100], "digits in"),
        (lambda text: text + "0 1\n", "expected 3 x 784 = 2352 digits"),
        (lambda text: text[::-1], "sha256"),
    ],
)
def test_damaged_amat(small_amat, damage, expected):
    path = small_amat.folder / "binarized_mnist_valid.amat"
    path.write_text(damage(path.read_text()))
    message = error("static_mnist", data_dir=small_amat.folder)
    assert expected in message and str(path) in message


@REAL_AMAT
def test_real_static_mnist():
    static = data.load("static_mnist", data_dir=REAL)
    check(static, (50_000, 10_000, 10_000), (28, 28, 1), labels=False)
    means = [
        float(split.images.mean(dtype=np.float64))
        for split in (static.train, static.validation, static.test)
    ]
    np.testing.assert_allclose(means, [0.13056227, 0.13112704, 0.13251224], atol=1e-8)


# Frey faces -------------------------------------------------------------------


def write_mat(path, **arrays):
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(path, arrays, do_compression=True)


@pytest.fixture
def small_frey(tmp_path, monkeypatch):
    faces = np.random.default_rng(0).integers(0, 256, (12, 560), np.uint8)
    monkeypatch.setattr(sources, "FREY_COUNT", 12)
    monkeypatch.setattr(sources, "FREY_SHA256", sha256(faces))
    monkeypatch.setattr(datasets, "FREY_COUNTS", (6, 2, 4))
    (tmp_path / "frey_faces").mkdir()
    path = tmp_path / "frey_faces" / "frey_rawface.mat"
    write_mat(path, ff=faces.T)
    return types.SimpleNamespace(folder=tmp_path, path=path, faces=faces)


def test_frey_faces(small_frey):
    frey = data.load("frey_faces", data_dir=small_frey.folder)
    check(frey, (6, 2, 4), (28, 20, 1), labels=False)
    rows = np.concatenate([s.images for s in (frey.train, frey.validation, frey.test)]).reshape(
        12, 560
    )
    levels = np.round(rows * 256 - 0.5).astype(np.uint8)
    assert sorted(map(bytes, levels)) == sorted(map(bytes, small_frey.faces))


def test_pickles_are_refused(small_frey):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(small_frey.folder / "unpickled"),)

    small_frey.path.with_name("freyfaces.pkl").write_bytes(pickle.dumps(Bomb()))
    data.load("frey_faces", data_dir=small_frey.folder)  # the .mat is there
    small_frey.path.unlink()
    message = error("frey_faces", data_dir=small_frey.folder)
    assert "pickles are never loaded" in message and "frey_rawface.mat" in message
    small_frey.path.with_name("freyfaces.pkl").unlink()
    assert "expected frey_rawface.mat or" in error("frey_faces", data_dir=small_frey.folder)
    assert not (small_frey.folder / "unpickled").exists()


@pytest.mark.parametrize(
    "arrays, expected",
    [
        ({"faces": np.zeros((560, 12), np.uint8)}, "expected the variable ff in"),
        ({"ff": np.zeros((12, 560), np.uint8)}, "expected shape (560, 12)"),
        ({"ff": np.zeros((560, 12))}, "of float64"),
        ({"ff": np.zeros((560, 12), np.uint8)}, "sha256"),
        (None, "expected a MATLAB 5 file in"),
    ],
)
def test_damaged_frey_faces(small_frey, arrays, expected):
    if arrays is None:
        small_frey.path.write_bytes(small_frey.path.read_bytes()[:-200])
    else:
        write_mat(small_frey.path, **arrays)
    message = error("frey_faces", data_dir=small_frey.folder)
    assert expected in message and str(small_frey.path) in message


@REAL_FREY
def test_real_frey_faces():
    frey = data.load("frey_faces", data_dir=REAL)
    check(frey, (1565, 200, 200), (28, 20, 1), labels=False)
    faces = sources.load_frey_faces(REAL)
    assert (faces.min(), faces.max()) == (8, 238)
    # The film's frames are in order, so neighbours resemble each other.
    steps = np.abs(np.diff(faces.astype(float), axis=0)).mean()
    assert abs(steps - 12.1) < 0.05
    # Golden: the permutation never changes.
    assert sha256(frey.test.images).startswith("879849efbe409d45")


# OMNIGLOT ---------------------------------------------------------------------


@pytest.fixture
def small_chardata(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    counts = {"data": 9, "testdata": 4}
    monkeypatch.setattr(sources, "CHARDATA_COUNTS", counts)
    monkeypatch.setattr(datasets, "CHARDATA_VALIDATION", 3)
    labels = {k: rng.integers(0, 50, n) for k, n in counts.items()}
    upright = {k: rng.random((n, 28, 28)) for k, n in counts.items()}
    arrays = {
        "data": np.stack([x.ravel("F") for x in upright["data"]], axis=1),
        "testdata": np.stack([x.ravel("F") for x in upright["testdata"]], axis=1),
        "target": np.eye(50)[:, labels["data"]],
        "testtarget": np.eye(50)[:, labels["testdata"]],
        "targetchar": np.ones((1, 9)),
    }
    (tmp_path / "omniglot").mkdir()
    path = tmp_path / "omniglot" / "chardata.mat"
    write_mat(path, **arrays)
    return types.SimpleNamespace(
        folder=tmp_path, path=path, arrays=arrays, upright=upright, labels=labels
    )


def test_omniglot(small_chardata):
    omniglot = data.load("omniglot", data_dir=small_chardata.folder, seed=2)
    check(omniglot, (6, 3, 4), (28, 28, 1))
    upright = small_chardata.upright["data"].astype(np.float32)[..., None]
    np.testing.assert_array_equal(omniglot.train.images, upright[:6])
    np.testing.assert_array_equal(
        omniglot.validation.images, data.binarize(upright[6:], 2, "validation")
    )
    np.testing.assert_array_equal(omniglot.test.labels, small_chardata.labels["testdata"])
    assert omniglot.binarization == "per_batch"
    assert omniglot.num_classes == 50 and omniglot.class_names[49] == "alphabet 49"


def test_small_chardata_is_refused(small_chardata, monkeypatch):
    monkeypatch.setattr(sources, "CHARDATA_COUNTS", {"data": 24_345, "testdata": 8_070})
    message = error("omniglot", data_dir=small_chardata.folder)
    assert "expected shape (784, 24345)" in message and "(784, 9)" in message


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"data": np.full((784, 9), 2.0)}, "expected values in [0, 1]"),
        ({"data": np.full((784, 9), np.nan)}, "expected values in [0, 1]"),
        ({"testdata": np.zeros((784, 5))}, "expected shape (784, 4)"),
        ({"target": np.ones((50, 9))}, "expected one-hot columns"),
        ({"testtarget": np.zeros((49, 4))}, "expected shape (50, 4)"),
        ({"testtarget": None}, "expected the variable testtarget"),
    ],
)
def test_damaged_chardata(small_chardata, change, expected):
    arrays = small_chardata.arrays | change
    kept = {key: array for key, array in arrays.items() if array is not None}
    write_mat(small_chardata.path, **kept)
    message = error("omniglot", data_dir=small_chardata.folder)
    assert expected in message and str(small_chardata.path) in message


@pytest.fixture
def small_omniglot(tmp_path, monkeypatch):
    """Three background and two evaluation characters of three alphabets."""
    parts = {"background": 3, "evaluation": 2}
    alphabets = ("Zulu", "Zulu", "Alpha", "Mid", "Mid")
    pages = np.random.default_rng(0).integers(0, 2, (5, 20, 105, 105), np.uint8)
    bits = np.packbits(pages.reshape(5, 20, -1), axis=2)
    monkeypatch.setattr(sources, "OMNIGLOT_CHARACTERS", parts)
    monkeypatch.setattr(sources, "OMNIGLOT_ALPHABETS", 3)
    monkeypatch.setattr(sources, "OMNIGLOT_SHA256", sha256(bits))
    monkeypatch.setattr(datasets, "OMNIGLOT_RESIZED_COUNTS", (70, 10, 20))
    return types.SimpleNamespace(folder=tmp_path, alphabets=alphabets, pages=pages, bits=bits)


def write_npz(small_omniglot, **change):
    arrays = {
        "image_bits": small_omniglot.bits,
        "alphabet": np.array([0, 0, 1, 2, 2], np.uint8),
        "alphabet_names": np.array(["Zulu", "Alpha", "Mid"]),
    } | change
    path = small_omniglot.folder / "omniglot105.npz"
    np.savez_compressed(path, **arrays)
    return path


def png(page):
    import tensorflow as tf

    return tf.io.encode_png(page[..., None] * np.uint8(255)).numpy()


def write_zips(small_omniglot):
    """The two zip files in the official layout; returns their paths."""
    paths, first = [], 0
    for part, count in sources.OMNIGLOT_CHARACTERS.items():
        paths.append(small_omniglot.folder / f"images_{part}.zip")
        with zipfile.ZipFile(paths[-1], "w") as archive:
            archive.writestr(f"images_{part}/", b"")
            # Alphabetical, so that characters do not come in the order of numbers.
            for i in sorted(range(first, first + count), key=small_omniglot.alphabets.__getitem__):
                character = small_omniglot.alphabets[:i].count(small_omniglot.alphabets[i])
                for drawer in range(20):
                    archive.writestr(
                        f"images_{part}/{small_omniglot.alphabets[i]}/"
                        f"character{character + 1:02d}/{i + 1:04d}_{drawer + 1:02d}.png",
                        png(small_omniglot.pages[i, drawer]),
                    )
        first += count
    return paths


def test_omniglot_resized_from_npz(small_omniglot):
    write_npz(small_omniglot)
    resized = data.load("omniglot_resized", data_dir=small_omniglot.folder)
    check(resized, (70, 10, 20), (28, 28, 1))
    assert resized.class_names == ("Zulu", "Alpha", "Mid")
    assert resized.binarization == "per_batch"
    order = np.random.RandomState(0).permutation(100)
    ink = 1 - small_omniglot.pages.reshape(100, 105, 105)[order[:70]]
    expected = datasets.area_resize(ink, 28)[..., None]
    np.testing.assert_array_equal(resized.train.images, expected)
    labels = np.repeat([0, 0, 1, 2, 2], 20)[order]
    np.testing.assert_array_equal(resized.test.labels, labels[80:])


def test_omniglot_sources_agree(small_omniglot, fake_tfds):
    write_npz(small_omniglot)
    reference = sources.load_omniglot105(small_omniglot.folder)
    (small_omniglot.folder / "omniglot105.npz").unlink()
    write_zips(small_omniglot)

    splits, first = {}, 0
    for split, count in zip(("train", "test"), sources.OMNIGLOT_CHARACTERS.values()):
        index = np.arange(first, first + count).repeat(20)
        drawer = np.tile(np.arange(20), count)
        alphabets = small_omniglot.alphabets
        character = [alphabets[:i].count(alphabets[i]) for i in range(len(alphabets))]
        keys = [
            f"{alphabets[i]}_{character[i]}_{i + 1:04d}_{d + 1:02d}.png"
            for i, d in zip(index, drawer)
        ]
        pages = small_omniglot.pages[index, drawer][..., None] * np.uint8(255)
        fields = {
            "image": pages.repeat(3, axis=-1),
            "label": index,
            "alphabet": np.array([sorted(set(alphabets)).index(alphabets[i]) for i in index]),
            "alphabet_char_id": np.array(character)[index],
        }
        splits[split] = Stored(
            **{key: tfds_shuffle(array, keys, split) for key, array in fields.items()}
        )
        first += count
    names = types.SimpleNamespace(int2str=lambda i: sorted(set(alphabets))[i])
    fake_tfds["omniglot"] = splits, {"alphabet": names}

    for folder in (small_omniglot.folder, None):
        other = sources.load_omniglot105(folder)
        for field in dataclasses.fields(reference):
            np.testing.assert_array_equal(
                getattr(other, field.name), getattr(reference, field.name)
            )


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"image_bits": np.zeros((5, 20, 98), np.uint8)}, "array image_bits of"),
        ({"image_bits": np.zeros((5, 20, 1379), np.uint8)}, "sha256"),
        ({"alphabet": np.zeros(4, np.uint8)}, "array alphabet of"),
        ({"alphabet": np.full(5, 3, np.uint8)}, "indices below 3 in"),
        ({"alphabet": np.array([0, 1, 0, 2, 2], np.uint8)}, "received 3, mixed;"),
        ({"alphabet": np.zeros(5, np.uint8)}, "received 1;"),
        ({"alphabet_names": np.array(["a", "b"])}, "array alphabet_names of"),
        # An object array would have to be unpickled.
        ({"alphabet_names": np.array([{}, 1, 2], object)}, "allow_pickle=False"),
    ],
)
def test_damaged_omniglot_npz(small_omniglot, change, expected):
    path = write_npz(small_omniglot, **change)
    message = error("omniglot_resized", data_dir=small_omniglot.folder)
    assert expected in message and str(path) in message


def test_npz_that_is_none(small_omniglot):
    path = write_npz(small_omniglot)
    for content in (path.read_bytes()[:-300], b"nothing", pickle.dumps({})):
        path.write_bytes(content)
        message = error("omniglot_resized", data_dir=small_omniglot.folder)
        assert "expected an .npz of image_bits" in message and str(path) in message


def rewrite(path, edit):
    """Rewrites a zip file with `edit`(name, content) -> content, None to drop."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if (content := edit(name, content)) is not None:
                archive.writestr(name, content)


@pytest.mark.parametrize(
    "target, replacement, expected",
    [
        ("0002_07.png", lambda: None, "received 59 of them and 0 others"),
        ("0002_07.png", lambda: b"no image", "expected a zip file of PNG images"),
        ("0002_07.png", lambda: png(np.zeros((50, 50), np.uint8)), "(50, 50)"),
        ("0002_07.png", lambda: png(np.zeros((105, 105), np.uint8)), "sha256"),
    ],
)
def test_damaged_omniglot_zip(small_omniglot, target, replacement, expected):
    path, _ = write_zips(small_omniglot)
    new = replacement()
    rewrite(path, lambda name, old: new if name.endswith(target) else old)
    message = error("omniglot_resized", data_dir=small_omniglot.folder)
    assert expected in message and str(path.parent) in message


def test_missing_and_truncated_omniglot_zip(small_omniglot):
    background, evaluation = write_zips(small_omniglot)
    complete = background.read_bytes()
    background.write_bytes(complete[: len(complete) // 2])
    message = error("omniglot_resized", data_dir=small_omniglot.folder)
    assert "BadZipFile" in message and str(background) in message
    background.write_bytes(evaluation.read_bytes())
    message = error("omniglot_resized", data_dir=small_omniglot.folder)
    assert "received 0 of them and 40 others" in message
    background.write_bytes(complete)
    evaluation.unlink()
    message = error("omniglot_resized", data_dir=small_omniglot.folder)
    assert "expected images_evaluation.zip" in message
    background.unlink()
    assert "expected images_background.zip" in error(
        "omniglot_resized", data_dir=small_omniglot.folder
    )


@REAL_OMNIGLOT
def test_real_omniglot_resized():
    resized = data.load("omniglot_resized", data_dir=REAL)
    check(resized, (23_000, 1345, 8115), (28, 28, 1))
    assert len(resized.class_names) == 50 and resized.class_names[0] == "Arcadian"
    assert set(np.unique(resized.train.labels)) == set(range(50))
    assert abs(resized.train.images.mean() - 0.0805) < 0.001
    levels = np.round(resized.train.images[:1000] * 225).astype(np.uint8)
    # Golden: neither the permutation nor the resizing ever changes.
    assert sha256(levels).startswith("7583cb82aa1667b6")


@REAL_OMNIGLOT
def test_labels_of_real_omniglot_are_alphabets():
    """30 alphabets in the background set, 20 others in the evaluation set."""
    packed = sources.load_omniglot105(REAL)
    assert set(packed.alphabet[:964]) == set(range(30))
    assert set(packed.alphabet[964:]) == set(range(30, 50))
    assert packed.alphabet_names[28:32] == ("Tagalog", "Tifinagh", "Angelic", "Atemayar_Qelisayer")
    counts = np.bincount(packed.alphabet)
    assert (counts.min(), counts.max()) == (14, 55)  # characters in an alphabet
    resized = data.load("omniglot_resized", data_dir=REAL)
    splits = (resized.train, resized.validation, resized.test)
    labels = np.concatenate([split.labels for split in splits])
    np.testing.assert_array_equal(np.bincount(labels), 20 * counts)


@real("omniglot/omniglot105.npz", "omniglot/images_background_small1.zip")
def test_real_omniglot_zip_agrees_with_npz():
    path = REAL / "omniglot" / "images_background_small1.zip"
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        names = [n for n in archive.namelist() if n.endswith(".png")]
    numbers = sorted({int(name[-11:-7]) for name in names})
    characters = sources.read_omniglot_zip(path, numbers)
    packed = sources.load_omniglot105(REAL)
    assert len(characters) == 136
    for number, (alphabet, images) in characters.items():
        np.testing.assert_array_equal(images, packed.image_bits[number - 1])
        index = packed.alphabet[number - 1]
        assert alphabet == packed.alphabet_names[index]


# small NORB -------------------------------------------------------------------


def norb(array, magic=None, ndim=None, sizes=None):
    """Content of a file in NORB's format, `sizes` with the ones up to the third."""
    magic = magic or {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54}[array.dtype.name]
    ndim = array.ndim if ndim is None else ndim
    sizes = sizes or array.shape + (1,) * (3 - array.ndim)
    return struct.pack(f"<{2 + len(sizes)}i", magic, ndim, *sizes) + array.tobytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 1, 3), (2, 2, 3, 1), (2, 1, 1, 1, 2)])
@pytest.mark.parametrize("dtype", ["u1", "<i4"])
def test_norb_format(tmp_path, dtype, shape, pack):
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    (tmp_path / "matrix").write_bytes(pack(norb(array)))
    read = sources.read_norb(tmp_path / "matrix", dtype, shape)
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


def test_norb_header_of_the_labels():
    """The labels are known: 0 to 4 in turn, so that their checksum can be verified."""
    labels = np.tile(np.arange(5, dtype="<i4"), 24_300 // 5)
    content = sources.norb_header("<i4", labels.shape) + labels.tobytes()
    assert content == norb(labels)
    for part in ("train", "test"):
        assert sources.NORB_COUNTS[part] == len(labels)
        assert sources.NORB_MD5[part]["cat"] == hashlib.md5(content).hexdigest()


@pytest.fixture
def small_norb(tmp_path, monkeypatch):
    """Folder of four small files in NORB's format, with their arrays."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(sources, "NORB_COUNTS", {"train": 23, "test": 12})
    monkeypatch.setattr(datasets, "NORB_VALIDATION", 5)
    arrays, digests, paths = {}, {}, {}
    (tmp_path / "small_norb").mkdir()
    for part, count in sources.NORB_COUNTS.items():
        arrays[part] = {
            "dat": rng.integers(0, 256, (count, 2, 96, 96), np.uint8),
            "cat": rng.integers(0, 5, count).astype("<i4"),
        }
        for kind, array in arrays[part].items():
            name = f"{sources.NORB_FILES[part]}-{kind}.mat"
            paths[part, kind] = tmp_path / "small_norb" / name
            paths[part, kind].write_bytes(norb(array))
        digests[part] = {k: hashlib.md5(norb(a)).hexdigest() for k, a in arrays[part].items()}
    monkeypatch.setattr(sources, "NORB_MD5", digests)
    return types.SimpleNamespace(folder=tmp_path, paths=paths, arrays=arrays)


def test_small_norb(small_norb):
    train, test = small_norb.arrays["train"], small_norb.arrays["test"]
    dataset = data.load("small_norb", data_dir=small_norb.folder)
    check(dataset, (23, None, 12), (32, 32, 1))
    assert dataset.likelihood == "gaussian"
    assert dataset.class_names == ("animal", "human", "airplane", "truck", "car")
    for words in (
        "[0,1]", "(x+u)/256", "one grey level wide drawn once (seed 0)", "3x3 blocks", "32x32",
        "left camera", "24,300/24,300", "no validation",
    ):  # fmt: skip
        assert words in dataset.protocol
    for part, split, arrays in (("train", dataset.train, train), ("test", dataset.test, test)):
        left = datasets.block_mean(arrays["dat"][:, 0], 32, unit=1)
        expected = datasets.dequantize(left, 256, 0, f"noise {part} 0")
        np.testing.assert_array_equal(split.images[..., 0], expected)
        np.testing.assert_array_equal(split.labels, arrays["cat"])
        noise = split.images[..., 0].astype(np.float64) * 256 - left
        # 5 standard errors: fails by chance once in 1.7 million seeds.
        assert abs(noise.mean() - 1 / 2) < 5 / np.sqrt(12 * noise.size)
        assert -1e-4 < noise.min() < 0.01 and 0.99 < noise.max() < 1 + 1e-4


def test_small_norb_without_noise(small_norb):
    noisy = data.load("small_norb", data_dir=small_norb.folder)
    dataset = data.load("small_norb", data_dir=small_norb.folder, dequantization="none", seed=7)
    check(dataset, (23, None, 12), (32, 32, 1))
    assert "x/255, no noise added (densities have no upper bound)" in dataset.protocol
    assert "seed" not in dataset.protocol
    left = datasets.block_mean(small_norb.arrays["test"]["dat"][:, 0], 32)
    np.testing.assert_array_equal(dataset.test.images[..., 0], left)
    np.testing.assert_allclose(dataset.test.images, noisy.test.images, atol=1 / 256)
    levels = dataset.test.images * (9 * 255)
    np.testing.assert_allclose(levels, np.round(levels), rtol=1e-6)


def test_seed_of_small_norb_changes_the_noise_and_nothing_else(small_norb):
    first, again, other = (
        data.load("small_norb", data_dir=small_norb.folder, seed=seed) for seed in (0, 0, 1)
    )
    for part in ("train", "test"):
        a, b, c = (getattr(d, part) for d in (first, again, other))
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, c.labels)
        assert (a.images != c.images).mean() > 0.99
        np.testing.assert_allclose(a.images, c.images, atol=1 / 256)
    assert "seed 1" in other.protocol


@pytest.mark.parametrize("dequantization", ["uniform", "none"])
def test_pairs_of_small_norb(small_norb, dequantization):
    """Left beside right, each as it is alone, with its own noise."""
    kwargs = {"data_dir": small_norb.folder, "dequantization": dequantization, "seed": 2}
    left = data.load("small_norb", **kwargs)
    pairs = data.load("small_norb", cameras="both", split="22k_2k_24k", **kwargs)
    check(pairs, (18, 5, 12), (32, 64, 1))
    assert "both cameras side by side" in pairs.protocol and "left" not in pairs.protocol
    np.testing.assert_array_equal(pairs.test.images[:, :, :32], left.test.images)
    right = small_norb.arrays["test"]["dat"][:, 1]
    if dequantization == "none":
        expected = datasets.block_mean(right, 32)
    else:
        levels = datasets.block_mean(right, 32, unit=1)
        expected = datasets.dequantize(levels, 256, 2, "noise test 1")
    np.testing.assert_array_equal(pairs.test.images[:, :, 32:, 0], expected)


def test_small_norb_with_validation(small_norb):
    complete = data.load("small_norb", data_dir=small_norb.folder, seed=3)
    dataset = data.load("small_norb", data_dir=small_norb.folder, split="22k_2k_24k", seed=3)
    check(dataset, (18, 5, 12), (32, 32, 1))
    order = np.random.RandomState(0).permutation(23)
    for split, members in ((dataset.train, order[:18]), (dataset.validation, order[18:])):
        np.testing.assert_array_equal(split.images, complete.train.images[members])
        np.testing.assert_array_equal(split.labels, complete.train.labels[members])
    np.testing.assert_array_equal(dataset.test.images, complete.test.images)
    assert "22,000/2,300/24,300" in dataset.protocol


def test_small_norb_splits_add_up():
    assert 24_300 - datasets.NORB_VALIDATION == 22_000


def test_small_norb_gzip_in_one_folder(small_norb):
    plain = data.load("small_norb", data_dir=small_norb.folder)
    for path in small_norb.paths.values():
        packed = small_norb.folder / f"{path.name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    unpacked = data.load("small_norb", data_dir=str(small_norb.folder))
    for part in ("train", "test"):
        a, b = getattr(plain, part), getattr(unpacked, part)
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)


def test_small_norb_from_tfds_equals_the_files(small_norb, fake_tfds):
    stored = {}
    for part, arrays in small_norb.arrays.items():
        fields = {
            "image": arrays["dat"][:, 0, ..., None],
            "image2": arrays["dat"][:, 1, ..., None],
            "label_category": arrays["cat"].astype(np.int64),
            "label_azimuth": np.zeros(len(arrays["cat"]), np.int64),
        }
        keys = range(len(arrays["cat"]))
        stored[part] = Stored(**{k: tfds_shuffle(a, keys, part) for k, a in fields.items()})
    fake_tfds["smallnorb"] = stored, None
    for part in ("train", "test"):
        from_files = sources.load_small_norb(part, small_norb.folder)
        for a, b in zip(sources.load_small_norb(part), from_files, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    from_tfds = data.load("small_norb", split="22k_2k_24k")
    from_files = data.load("small_norb", data_dir=small_norb.folder, split="22k_2k_24k")
    for part in ("train", "validation", "test"):
        a, b = getattr(from_tfds, part), getattr(from_files, part)
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)

    arrays = stored["test"].arrays
    arrays["image"], arrays["image2"] = arrays["image2"], arrays["image"]
    message = error("small_norb")
    assert "md5" in message and "tensorflow-datasets' smallnorb, split 'test'" in message
    stored["test"] = Stored(**{key: array[:-1] for key, array in arrays.items()})
    assert "expected 12 examples in split 'test'" in error("small_norb")


def test_tfds_small_norb_has_the_features_that_are_read(tmp_path):
    pytest.importorskip("importlib_resources")  # tfds needs it without saying so
    tfds = pytest.importorskip("tensorflow_datasets")
    features = tfds.builder("smallnorb", data_dir=tmp_path).info.features
    assert features["image"].shape == features["image2"].shape == (96, 96, 1)
    assert features["label_category"].num_classes == sources.NORB_CLASSES


DAT, CAT = np.zeros((12, 2, 96, 96), np.uint8), np.zeros(12, np.int32)


@pytest.mark.parametrize(
    "kind, damage, expected",
    [
        ("dat", lambda old: b"", "received an empty file"),
        ("dat", lambda old: gzip.compress(b""), "received an empty file"),
        ("dat", lambda old: PAGE, "received an HTML page"),
        ("cat", lambda old: gzip.compress(PAGE), "received an HTML page"),
        ("dat", lambda old: gzip.compress(old)[:-20], "truncated or damaged"),
        ("dat", lambda old: gzip.compress(old)[:-8] + bytes(8), "truncated or damaged"),
        ("dat", lambda old: b"\x1f\x8b" + bytes(50), "truncated or damaged"),
        ("dat", lambda old: b"MATLAB 5.0 MAT-file" + old, "received 0x4c54414d"),
        ("dat", lambda old: norb(DAT, magic=0x1E3D4C54), "0x1e3d4c55 (bytes)"),
        ("cat", lambda old: norb(CAT, magic=0x1E3D4C55), "0x1e3d4c54 (int32)"),
        ("dat", lambda old: old[::-1], "expected NORB's magic number 0x1e3d4c55"),
        ("dat", lambda old: old[:3], "received 0x3d4c55"),
        ("dat", lambda old: old[:4], "expected 4 dimensions"),
        ("dat", lambda old: norb(DAT[:, 0]), "expected 4 dimensions"),
        ("dat", lambda old: norb(DAT, ndim=-1), "received -1"),
        ("cat", lambda old: norb(CAT[:, None]), "expected 1 dimensions"),
        ("dat", lambda old: norb(DAT[1:]), "received (11, 2, 96, 96)"),
        ("dat", lambda old: norb(DAT[:, :1]), "expected sizes (12, 2, 96, 96)"),
        ("dat", lambda old: norb(DAT[..., 1:]), "received (12, 2, 96, 95)"),
        ("dat", lambda old: old[:20], "received (12, 2, 96)"),
        ("cat", lambda old: norb(CAT, sizes=(12, 1, 2)), "received (12, 1, 2)"),
        ("cat", lambda old: norb(CAT[:5]), "expected sizes (12, 1, 1)"),
        ("dat", lambda old: old[:24], "received 24;"),
        ("dat", lambda old: old[:-1], "expected 221208 bytes"),
        ("dat", lambda old: old + b"\0", "received 221209"),
        ("dat", lambda old: gzip.compress(old + bytes(3_000_000)), "received 3221208"),
        ("cat", lambda old: old[:-1], "expected 68 bytes for shape (12,)"),
        ("cat", lambda old: old + bytes(4), "received 72"),
        ("cat", lambda old: norb(CAT - 1), "received -1 to -1"),
        ("cat", lambda old: norb(CAT + 5), "expected labels from 0 to 4"),
        ("cat", lambda old: norb(CAT), "the file is damaged or not the original one"),
        ("dat", lambda old: old[:-1] + bytes([old[-1] ^ 1]), "expected md5"),
    ],
)
def test_damaged_small_norb(small_norb, kind, damage, expected):
    path = small_norb.paths["test", kind]
    path.write_bytes(damage(path.read_bytes()))
    message = error("small_norb", data_dir=small_norb.folder)
    assert expected in message and str(path) in message


def test_small_norb_of_another_size_is_refused(small_norb, monkeypatch):
    monkeypatch.setattr(sources, "NORB_COUNTS", {"train": 24_300, "test": 24_300})
    message = error("small_norb", data_dir=small_norb.folder)
    assert "expected sizes (24300, 2, 96, 96)" in message and "(23, 2, 96, 96)" in message


def test_missing_and_unreadable_small_norb(small_norb, tmp_path):
    path = small_norb.paths["test", "cat"]
    path.unlink()
    message = error("small_norb", data_dir=small_norb.folder)
    assert f"expected {path.name} or {path.name}.gz" in message and "cs.nyu.edu" in message
    with pytest.raises(data.DataError, match="expected a readable file"):
        sources.read_norb(tmp_path, "u1", (1,))


# SVHN -------------------------------------------------------------------------


@pytest.fixture
def small_svhn(tmp_path, monkeypatch):
    """Folder of three small MATLAB files of cropped digits, with their arrays."""
    rng = np.random.default_rng(0)
    counts = {"train": 13, "extra": 8, "test": 6}
    monkeypatch.setattr(sources, "SVHN_COUNTS", counts)
    images = {
        part: (rng.random((n, 32, 32, 3)) * [256, 100, 30]).astype(np.uint8)
        for part, n in counts.items()
    }
    labels = {part: rng.integers(1, 11, n).astype(np.uint8) for part, n in counts.items()}
    labels["train"][:2] = 10, 1
    folder = tmp_path / "svhn"
    folder.mkdir()
    small = types.SimpleNamespace(
        folder=tmp_path,
        images=images,
        labels=labels,
        paths={part: folder / f"{part}_32x32.mat" for part in counts},
    )
    for part, path in small.paths.items():
        write_mat(path, X=images[part].transpose(1, 2, 3, 0), y=labels[part][:, None])
    digests = {k: hashlib.sha256(p.read_bytes()).hexdigest() for k, p in small.paths.items()}
    monkeypatch.setattr(sources, "SVHN_SHA256", digests)
    return small


def test_svhn_sources_are_the_published_ones():
    assert sum(sources.SVHN_COUNTS[part] for part in ("train", "extra")) == 604_388
    tfds = pytest.importorskip("tensorflow_datasets")
    table = pathlib.Path(tfds.__file__).parent / "datasets" / "svhn_cropped" / "checksums.tsv"
    if table.is_file():
        for part, digest in sources.SVHN_SHA256.items():
            assert f"{digest}\t{part}_32x32.mat" in table.read_text()


@pytest.mark.parametrize("split, parts", [("73k_26k", "train"), ("604k_26k", "train extra")])
def test_svhn(small_svhn, split, parts):
    parts = parts.split()
    svhn = data.load("svhn", data_dir=small_svhn.folder, split=split, seed=4)
    levels = np.concatenate([small_svhn.images[part] for part in parts])
    labels = np.concatenate([small_svhn.labels[part] for part in parts])
    check(svhn, (len(levels), None, 6), (32, 32, 3), unit=False)
    assert svhn.likelihood == "gaussian" and svhn.class_names == tuple("0123456789")
    np.testing.assert_array_equal(svhn.train.labels, labels % 10)
    np.testing.assert_array_equal(svhn.test.labels, small_svhn.labels["test"] % 10)
    assert svhn.train.labels[:2].tolist() == [0, 1]
    # Test images are scaled as the training images are.
    std = levels.reshape(-1, 3).std(axis=0, dtype=np.float64)
    for split_, x in ((svhn.train, levels), (svhn.test, small_svhn.images["test"])):
        noise = split_.images.astype(np.float64) * std - x
        assert -1e-4 < noise.min() < 0.01 and 0.99 < noise.max() < 1 + 1e-4
        # 5 standard errors: fails by chance once in 1.7 million seeds.
        assert abs(noise.mean() - 1 / 2) < 5 / np.sqrt(12 * noise.size)
    np.testing.assert_allclose(
        svhn.train.images.reshape(-1, 3).std(axis=0), np.sqrt(1 + 1 / 12 / std**2), rtol=1e-3
    )
    layout = {"73k_26k": "73,257/26,032", "604k_26k": "604,388/26,032"}[split]
    for words in (layout, "(x+u)/s", "drawn once (seed 4)", f"{std[0]:.4f}", f"{std[2]:.4f}"):
        assert words in svhn.protocol
    first, second = (
        s.images[:6].astype(np.float64) * std - x[:6]
        for s, x in ((svhn.train, levels), (svhn.test, small_svhn.images["test"]))
    )
    # 18,432 pixels: 5 standard errors of a correlation, once in 1.7 million seeds.
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 5 / np.sqrt(first.size)
    again = data.load("svhn", data_dir=small_svhn.folder, split=split, seed=4)
    np.testing.assert_array_equal(svhn.train.images, again.train.images)
    other = data.load("svhn", data_dir=small_svhn.folder, split=split, seed=5)
    assert (svhn.test.images != other.test.images).mean() > 0.99


def test_svhn_is_small_by_default(small_svhn):
    small_svhn.paths["extra"].unlink()
    svhn = data.load("svhn", data_dir=small_svhn.folder)
    check(svhn, (13, None, 6), (32, 32, 3), unit=False)
    message = error("svhn", data_dir=small_svhn.folder, split="604k_26k")
    assert "expected extra_32x32.mat or extra_32x32.mat.gz" in message


def test_svhn_in_one_folder_and_gzip(small_svhn):
    plain = data.load("svhn", data_dir=small_svhn.folder)
    for path in small_svhn.paths.values():
        packed = small_svhn.folder / f"{path.name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    unpacked = data.load("svhn", data_dir=str(small_svhn.folder))
    for part in ("train", "test"):
        a, b = getattr(plain, part), getattr(unpacked, part)
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)


def test_svhn_from_tfds_equals_the_files(small_svhn, fake_tfds):
    stored = {}
    for part, images in small_svhn.images.items():
        fields = {"image": images, "label": small_svhn.labels[part].astype(np.int64) % 10}
        keys = range(len(images))
        stored[part] = Stored(**{k: tfds_shuffle(a, keys, part) for k, a in fields.items()})
    fake_tfds["svhn_cropped"] = stored, None
    from_tfds = data.load("svhn", split="604k_26k")
    from_files = data.load("svhn", data_dir=small_svhn.folder, split="604k_26k")
    assert from_tfds.protocol == from_files.protocol
    for part in ("train", "test"):
        a, b = getattr(from_tfds, part), getattr(from_files, part)
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)

    arrays = stored["test"].arrays
    stored["test"] = Stored(**arrays | {"label": arrays["label"] + 5})
    message = error("svhn")
    assert "expected labels from 0 to 9 in tensorflow-datasets' svhn_cropped" in message
    stored["test"] = Stored(**arrays | {"image": arrays["image"][..., :1]})
    assert "expected shape (6, 32, 32, 3)" in error("svhn")
    stored["test"] = Stored(**{key: array[:-1] for key, array in arrays.items()})
    assert "expected 6 examples in split 'test'" in error("svhn")


def test_tfds_svhn_has_the_features_that_are_read(tmp_path):
    pytest.importorskip("importlib_resources")  # tfds needs it without saying so
    tfds = pytest.importorskip("tensorflow_datasets")
    features = tfds.builder("svhn_cropped", data_dir=tmp_path).info.features
    assert features["image"].shape == (32, 32, 3)
    assert features["label"].num_classes == 10


X, Y = np.zeros((32, 32, 3, 6), np.uint8), np.ones((6, 1), np.uint8)


@pytest.mark.parametrize(
    "arrays, expected",
    [
        ({"X": X}, "expected the variable y in"),
        ({"y": Y}, "expected the variable X in"),
        ({"X": X[..., 1:], "y": Y}, "expected shape (32, 32, 3, 6)"),
        ({"X": X.transpose(3, 0, 1, 2), "y": Y}, "received (6, 32, 32, 3) of uint8"),
        ({"X": X.astype(float), "y": Y}, "of float64"),
        ({"X": X, "y": Y[1:]}, "expected shape (6, 1)"),
        ({"X": X, "y": Y.astype(float)}, "variable y of"),
        ({"X": X, "y": Y}, "sha256"),
        (lambda old: old[:-200], "expected a MATLAB 5 file in"),
        (lambda old: old[:-1], "expected a MATLAB 5 file in"),
        (lambda old: pickle.dumps({"X": X, "y": Y}), "expected a MATLAB 5 file in"),
        (lambda old: old + bytes(8), "sha256"),
        (lambda old: b"", "received an empty file"),
        (lambda old: PAGE, "received an HTML page"),
        (lambda old: gzip.compress(old)[:-20], "truncated or damaged"),
    ],
)
def test_damaged_svhn(small_svhn, arrays, expected):
    path = small_svhn.paths["test"]
    if callable(arrays):
        path.write_bytes(arrays(path.read_bytes()))
    else:
        write_mat(path, **arrays)
    message = error("svhn", data_dir=small_svhn.folder)
    assert expected in message and str(path) in message


@pytest.mark.parametrize("wrong", [0, 11])
def test_labels_of_svhn_out_of_range(small_svhn, monkeypatch, wrong):
    path = small_svhn.paths["test"]
    write_mat(path, X=X, y=np.full((6, 1), wrong, np.uint8))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(sources, "SVHN_SHA256", sources.SVHN_SHA256 | {"test": digest})
    message = error("svhn", data_dir=small_svhn.folder)
    assert f"expected labels from 1 to 10 in {path}, received {wrong} to {wrong}" in message


def test_svhn_without_noise(small_svhn):
    svhn = data.load(
        "svhn", data_dir=small_svhn.folder, split="604k_26k", dequantization="none", seed=7
    )
    check(svhn, (21, None, 6), (32, 32, 3))
    levels = np.concatenate([small_svhn.images[part] for part in ("train", "extra")])
    np.testing.assert_array_equal(svhn.train.images, levels / np.float32(255))
    np.testing.assert_array_equal(svhn.test.images, small_svhn.images["test"] / np.float32(255))
    np.testing.assert_array_equal(svhn.test.labels, small_svhn.labels["test"] % 10)
    assert "x/255, no noise" in svhn.protocol and "604,388/26,032" in svhn.protocol


def test_svhn_is_shown_in_its_colours(small_svhn):
    svhn = data.load("svhn", data_dir=small_svhn.folder)
    shown = svhn.to_pictures(svhn.test.images)
    levels = 256 * shown.astype(np.float64) - small_svhn.images["test"]
    assert -1e-4 < levels.min() and levels.max() < 1 + 1e-4  # the noise
    fewer = data.load("svhn", data_dir=small_svhn.folder, min_pixel_std=0.1)
    assert fewer.to_pictures(fewer.test.images).max() <= 1.0


# CelebA -----------------------------------------------------------------------


def jpeg(image):
    import tensorflow as tf

    return tf.io.encode_jpeg(image, quality=95).numpy()


@pytest.fixture
def small_celeba(tmp_path, monkeypatch):
    """Folder of a zip file of twelve faces in the original's names, and what is in them."""
    import tensorflow as tf

    numbers = {"train": (1, 7), "validation": (8, 9), "test": (10, 12)}
    monkeypatch.setattr(sources, "CELEBA_NUMBERS", numbers)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 8, 8, 3)).astype(np.float32)
    faces = tf.image.resize(coarse, (218, 178)).numpy().astype(np.uint8)
    content = [jpeg(face) for face in faces]
    path = tmp_path / "celeba" / "img_align_celeba.zip"
    path.parent.mkdir()

    def write(content=content, folder="img_align_celeba"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{folder}/", "")
            for i in reversed(range(len(content))):  # the order within the file does not matter
                archive.writestr(f"{folder}/{i + 1:06d}.jpg", content[i])
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(sources, "CELEBA_SHA256", digest)

    write()
    images = np.stack([tf.io.decode_jpeg(data_, 3).numpy() for data_ in content])
    return types.SimpleNamespace(
        folder=tmp_path, path=path, write=write, content=content, images=images, numbers=numbers
    )


def cells_by_hand(image, crop):
    """Mean over 64 by 64 equal cells of the middle, from repeated pixels."""
    top, left = (218 - crop) // 2, (178 - crop) // 2
    middle = image[top : top + crop, left : left + crop].astype(np.float64)
    fine = middle.repeat(16, 0)  # a cell is crop / 4 of these rows high
    fine = fine.reshape(64, crop // 4, crop, -1).mean(1).repeat(16, 1)
    return fine.reshape(64, 64, crop // 4, -1).mean(2)


@pytest.mark.parametrize("crop", [140, 108])
@pytest.mark.parametrize("colours", ["rgb", "grey"])
def test_celeba(small_celeba, crop, colours):
    options = {"data_dir": small_celeba.folder, "crop": str(crop), "colours": colours}
    faces = data.load("celeba", dequantization="none", **options)
    check(faces, (7, 2, 3), (64, 64, 3 if colours == "rgb" else 1), labels=False)
    assert faces.likelihood == "gaussian"
    for words in (f"{crop}x{crop}", "7/2/3", "x/255, no noise"):
        assert words in faces.protocol
    for split, part in ((faces.train, "train"), (faces.test, "test")):
        first, last = small_celeba.numbers[part]
        for image, face in zip(split.images, small_celeba.images[first - 1 : last], strict=True):
            expected = cells_by_hand(face, crop)
            if colours == "grey":
                expected = expected @ [[0.299], [0.587], [0.114]]
            assert np.abs(255 * image - expected).max() < 0.501
    noisy = data.load("celeba", seed=3, **options)
    noise = noisy.train.images.astype(np.float64) * 256 - np.rint(faces.train.images * 255)
    assert -1e-4 < noise.min() < 0.01 and 0.99 < noise.max() < 1 + 1e-4
    assert "drawn once (seed 3)" in noisy.protocol
    again = data.load("celeba", seed=3, **options)
    np.testing.assert_array_equal(noisy.test.images, again.test.images)


@pytest.mark.parametrize("name", ["small_norb", "svhn", "celeba"])
def test_grey_levels_in_bins(name, request):
    """As they are with "none", rounded, and with the likelihood of 256 levels."""
    small = request.getfixturevalue("small_norb" if name == "small_norb" else f"small_{name}")
    discrete, real = (
        data.load(name, data_dir=small.folder, dequantization=kind) for kind in ("bins", "none")
    )
    assert discrete.likelihood == "discretized_logistic" and real.likelihood == "gaussian"
    assert "256 levels" in discrete.protocol and "seed" not in discrete.protocol
    for part in ("train", "test"):
        levels = 256 * getattr(discrete, part).images.astype(np.float64) - 0.5
        np.testing.assert_array_equal(levels, np.rint(255 * getattr(real, part).images))


def test_celeba_from_a_builder_of_the_true_format(small_celeba, monkeypatch):
    """With a set that the installed tensorflow-datasets has really written, with the features and
    the keys of its celeb_a."""
    pytest.importorskip("importlib_resources")  # tfds needs it without saying so
    tfds = pytest.importorskip("tensorflow_datasets")
    original = tfds.builder_cls("celeb_a")
    attribute = "Smiling"

    class SmallFaces(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("2.1.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(218, 178, 3), encoding_format="jpeg"),
                "attributes": {attribute: np.bool_},
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {
                part: self._generate_examples(*numbers)
                for part, numbers in small_celeba.numbers.items()
            }

        def _generate_examples(self, first, last):
            for number in range(first, last + 1):
                image = io.BytesIO(small_celeba.content[number - 1])
                yield f"{number:06d}.jpg", {"image": image, "attributes": {attribute: True}}

    features = original(data_dir=small_celeba.folder / "tfds").info.features
    assert features["image"].shape == sources.CELEBA_IMAGE and attribute in features["attributes"]
    builder = SmallFaces(data_dir=small_celeba.folder / "tfds")
    builder.download_and_prepare()

    def load(name, split, shuffle_files, read_config, with_info):
        assert name == "celeb_a" and not shuffle_files and with_info
        datasets_ = [builder.as_dataset(s, read_config=read_config) for s in split]
        return datasets_, builder.info

    monkeypatch.setattr(tfds, "load", load)
    from_tfds = data.load("celeba", dequantization="none")
    from_files = data.load("celeba", data_dir=small_celeba.folder, dequantization="none")
    assert from_tfds.protocol == from_files.protocol
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(
            getattr(from_tfds, part).images, getattr(from_files, part).images
        )
    monkeypatch.setattr(sources, "CELEBA_IMAGE", (218, 180, 3))
    assert "expected shape (7, 218, 180, 3)" in error("celeba")


@pytest.mark.parametrize(
    "damage, expected",
    [
        (lambda small: small.path.unlink(), "expected img_align_celeba.zip or"),
        (lambda small: small.path.write_bytes(PAGE), "received an HTML page"),
        (lambda small: small.path.write_bytes(b""), "received an empty file"),
        (lambda small: small.path.write_bytes(small.path.read_bytes()[:-9]), "sha256"),
        (lambda small: small.write(small.content[:-1]), "000012.jpg"),
        (lambda small: small.write(folder="images"), "img_align_celeba/000001.jpg"),
        (lambda small: small.write([b"no image"] * 12), "zip file of JPEG images"),
    ],
)
def test_damaged_celeba(small_celeba, damage, expected):
    damage(small_celeba)
    message = error("celeba", data_dir=small_celeba.folder)
    assert expected in message and str(small_celeba.folder) in message


def test_celeba_counts_and_checksum_are_the_published_ones():
    counts = [last - first + 1 for first, last in sources.CELEBA_NUMBERS.values()]
    assert counts == [162_770, 19_867, 19_962] and sum(counts) == 202_599
    tfds = pytest.importorskip("tensorflow_datasets")
    table = pathlib.Path(tfds.__file__).parent / "datasets" / "celeb_a" / "checksums.tsv"
    if table.is_file():
        assert f"{sources.CELEBA_SHA256}\timg_align_celeba.zip" in table.read_text()


# Generated data ---------------------------------------------------------------


def test_half_moons():
    moons = data.load("half_moons", seed=3)
    check(moons, (10_000, None, 10_000), (1, 2, 1), unit=False)
    assert moons.likelihood == "gaussian" and moons.class_names == ("top", "bottom")
    for words in ("standard deviation 0.1", "10,000/10,000", "no validation", "seed 3"):
        assert words in moons.protocol
    for split in (moons.train, moons.test):
        assert np.bincount(split.labels).tolist() == [5000, 5000]
        x, y = split.images[:, 0, :, 0].astype(np.float64).T
        top = split.labels == 0
        # Both moons lie on the unit circle, seen from their own centres; bottom is upside down.
        u, v = np.where(top, x, 1 - x), np.where(top, y, 0.5 - y)
        radius = np.hypot(u, v)
        # E r is 1 + s^2 / 2 and its deviation s to second order in s = 0.1; 5 standard errors of
        # 10,000 points are 0.005 and 0.0035: they fail by chance once in 1.7 million seeds.
        assert abs(radius.mean() - 1.005) < 0.005
        assert abs(radius.std() - 0.1) < 0.0045
        assert v.min() > -0.6 and (v > 0).mean() > 0.95
        angle = np.arctan2(v, u)[np.abs(np.arctan2(v, u) - np.pi / 2) < 1]
        assert abs(len(angle) / len(u) - 2 / np.pi) < 5 * np.sqrt(0.25 / len(u)) + 0.002


def test_seeds_of_half_moons():
    first, again, other = (data.load("half_moons", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train.images, again.train.images)
    assert (first.train.images != other.train.images).all()
    assert (first.train.images != first.test.images).all()
    # Golden to 1e-3: sines may differ in the last digit between machines.
    levels = np.round(first.train.images.astype(np.float64).sum(axis=0).ravel(), 3)
    np.testing.assert_allclose(levels, [5005.529, 2528.575], atol=2e-3)


def test_marked_points_of_half_moons():
    """Six points, three of each class, next to both ends and the middle of each moon: within three
    standard deviations of the noise, of which 10,000 points leave less than one in between."""
    moons = data.load("half_moons", seed=3)
    assert len(moons.marked) == 6 and np.all(np.diff(moons.marked) > 0)
    points, labels = moons.train.images[moons.marked, 0, :, 0], moons.train.labels[moons.marked]
    assert np.bincount(labels).tolist() == [3, 3]
    anchors = {0: [(1, 0), (0, 1), (-1, 0)], 1: [(0, 0.5), (1, -0.5), (2, 0.5)]}
    for label, places in anchors.items():
        distance = np.linalg.norm(
            points[labels == label] - np.array(places)[:, np.newaxis], axis=-1
        )
        assert sorted(distance.argmin(1)) == [0, 1, 2] and distance.min(1).max() < 0.05
    assert data.load("digits").marked is None


def test_points_of_half_moons_without_noise():
    points, labels = generated.half_moons(7, 0, np.random.default_rng(0))
    assert points.dtype == np.float32 and labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    u, v = np.where(labels[:, None] == 0, points, [1, 0.5] - points).T
    np.testing.assert_allclose(np.hypot(u, v), 1, rtol=1e-6)
    assert (v >= 0).all()


def potential(z):
    return generated.two_mode_potential(np.asarray(z, np.float64)).numpy()


def test_two_mode_potential_by_hand():
    z = np.random.default_rng(0).uniform(-4, 4, (2, 50, 2))
    expected = np.empty((2, 50))
    for i, j in np.ndindex(2, 50):
        a, b = z[i, j]
        caps = np.exp(-(((b - 2) / 0.6) ** 2) / 2) + np.exp(-(((b + 2) / 0.6) ** 2) / 2)
        expected[i, j] = (((a * a + b * b) ** 0.5 - 2) / 0.4) ** 2 / 2 - np.log(caps)
    np.testing.assert_allclose(potential(z), expected, rtol=1e-12)
    assert generated.two_mode_potential(np.zeros((3, 2), np.float32)).dtype == "float32"
    # Far away, where the exponentials underflow.
    assert np.isfinite(generated.two_mode_potential(np.float32([[100, 100], [0, -80]]))).all()


def test_two_mode_potential_is_a_density_with_two_equal_modes():
    line = np.linspace(-6, 6, 1201)
    z = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1)
    density = np.exp(-potential(z))
    area = (line[1] - line[0]) ** 2
    # Sums over a smooth function that vanishes at the border converge at once: the sum over
    # every second point is the same.
    constant = density.sum() * area
    np.testing.assert_allclose(density[::2, ::2].sum() * 4 * area, constant, rtol=1e-10)
    # The same in polar coordinates.
    r, angle = np.linspace(0, 6, 2401), np.arange(2400) * (2 * np.pi / 2400)
    polar = r[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    ring = np.exp(-potential(polar)).mean(axis=1) * 2 * np.pi * r
    np.testing.assert_allclose(np.trapezoid(ring, r), constant, rtol=1e-6)
    np.testing.assert_allclose(constant, 6.537152192800593, rtol=1e-6)

    np.testing.assert_allclose(density, density[::-1], rtol=1e-12)
    np.testing.assert_allclose(density, density[:, ::-1], rtol=1e-12)
    minimize = pytest.importorskip("scipy.optimize").minimize
    found = {1: 0, -1: 0}
    for start in np.random.default_rng(0).normal(0, 2, (10, 2)):
        mode = minimize(potential, start, tol=1e-7).x
        # Across, U is of the fourth order at the modes: 0.02 there is 2e-8 in U.
        np.testing.assert_allclose(mode, [0, 2 * np.sign(mode[1])], atol=0.02)
        np.testing.assert_allclose(potential(mode), 0, atol=1e-6)
        found[np.sign(mode[1])] += 1
    assert min(found.values()) >= 3


def test_two_mode_potential_has_gradients():
    import tensorflow as tf

    z = tf.constant(np.random.default_rng(0).normal(0, 2, (20, 2)))
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = tf.reduce_sum(generated.two_mode_potential(z))
    gradient = tape.gradient(value, z).numpy()
    for i in range(2):
        step = 1e-6 * np.eye(2)[i]
        numeric = (potential(z + step) - potential(z - step)) / 2e-6
        np.testing.assert_allclose(gradient[:, i], numeric, atol=1e-6)
