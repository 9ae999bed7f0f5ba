"""The data set `arrays`: images of one's own."""

import numpy as np
import pytest

from tfhvae import configuration, data, experiments, hardware
from tfhvae.data.arrays import load_arrays
from tfhvae.errors import RunError

SHAPE = (4, 5)
COUNTS = {"train": 40, "validation": 7, "test": 9}


def images_of(part, dtype=np.uint8):
    levels = np.random.default_rng(len(part)).integers(0, 256, (COUNTS[part], *SHAPE), np.uint8)
    levels.flat[:2] = 0, 255  # the ends of the range
    if np.dtype(dtype).kind == "b":
        return levels > 127
    return levels if dtype == np.uint8 else (levels / 255).astype(dtype)


def labels_of(part):
    return np.arange(COUNTS[part]) % 3


def folder_of(tmp_path, **arrays):
    """A folder of uint8 images with labels, where `arrays` replaces files, or leaves out (None)."""
    files = {f"{part}_images": images_of(part) for part in COUNTS}
    files |= {f"{part}_labels": labels_of(part) for part in COUNTS}
    for name, array in (files | arrays).items():
        if array is not None:
            np.save(tmp_path / f"{name}.npy", array)
    return str(tmp_path)


WITHOUT_LABELS = {f"{part}_labels": None for part in COUNTS}
WITHOUT_VALIDATION = {"validation_images": None, "validation_labels": None}


@pytest.mark.parametrize(
    "dtype, options, likelihood, said, values",
    [
        (bool, {}, "bernoulli", "binary", lambda x: x),
        (np.uint8, {}, "discretized_logistic", "(x+0.5)/256", lambda x: (x + 0.5) / 256),
        (np.uint8, {"dequantization": "none"}, "gaussian", "x/255, no", lambda x: x / 255),
        (np.float64, {}, "gaussian", "as they are", lambda x: x),
    ],
)
def test_type_of_images_decides_what_they_are(tmp_path, dtype, options, likelihood, said, values):
    parts = {part: images_of(part, dtype) for part in COUNTS}
    folder = folder_of(tmp_path, **{f"{part}_images": parts[part] for part in parts})
    dataset = data.load("arrays", data_dir=folder, **options)
    assert (dataset.likelihood, dataset.binarization) == (likelihood, None)
    assert said in dataset.protocol and "40/7/9" in dataset.protocol
    assert dataset.checksum in dataset.protocol and dataset.marked is None
    assert dataset.class_names == ("0", "1", "2")
    for part, images in parts.items():
        split = getattr(dataset, part)
        assert (split.images.dtype, split.labels.dtype) == (np.float32, np.int32)
        np.testing.assert_allclose(split.images, values(images)[..., None], rtol=1e-6)
        np.testing.assert_array_equal(split.labels, labels_of(part))


def test_noise_is_one_grey_level_wide(tmp_path):
    folder = folder_of(tmp_path)
    first, again, other = (
        data.load("arrays", data_dir=folder, dequantization="uniform", seed=seed)
        for seed in (0, 0, 1)
    )
    assert first.likelihood == "gaussian"
    for part in COUNTS:
        images = getattr(first, part).images
        np.testing.assert_array_equal(np.floor(images[..., 0] * 256), images_of(part))
        np.testing.assert_array_equal(images, getattr(again, part).images)
        assert (images != getattr(other, part).images).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_intensities_may_be_means(tmp_path, dtype):
    parts = {part: images_of(part, dtype) for part in COUNTS}
    folder = folder_of(tmp_path, **{f"{part}_images": parts[part] for part in parts})
    dataset = data.load("arrays", data_dir=folder, binarization="per_batch", seed=3)
    assert (dataset.likelihood, dataset.binarization) == ("bernoulli", "per_batch")
    means = {part: images_of(part, np.float32)[..., None] for part in COUNTS}
    np.testing.assert_allclose(dataset.train.images, means["train"], rtol=1e-6)
    for part in ("validation", "test"):
        np.testing.assert_array_equal(
            getattr(dataset, part).images, data.binarize(means[part], 3, part)
        )


def test_colours_and_names_are_kept(tmp_path):
    colours = {f"{p}_images": np.repeat(images_of(p)[..., None], 3, -1) for p in COUNTS}
    (tmp_path / "class_names.txt").write_text("Katze\n\n Hund \nMaus\nEsel\n", encoding="utf-8")
    dataset = data.load("arrays", data_dir=folder_of(tmp_path, **colours))
    assert dataset.image_shape == (*SHAPE, 3)
    assert dataset.class_names == ("Katze", "Hund", "Maus", "Esel")


def test_labels_and_validation_may_be_missing(tmp_path):
    folder = folder_of(tmp_path, **WITHOUT_LABELS | WITHOUT_VALIDATION)
    dataset = data.load("arrays", data_dir=folder)
    assert dataset.validation is None and dataset.class_names is None
    assert dataset.train.labels is None and dataset.test.labels is None
    assert "40/–/9" in dataset.protocol


def test_a_tenth_of_the_training_images_may_be_for_validation(tmp_path):
    numbered = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None], (40, *SHAPE))
    folder = folder_of(
        tmp_path, train_images=numbered, train_labels=np.arange(40) % 3, **WITHOUT_VALIDATION
    )
    dataset = data.load("arrays", data_dir=folder, split="train_90_10", dequantization="none")
    parts = [
        np.rint(getattr(dataset, part).images[:, 0, 0, 0] * 255).astype(int)
        for part in ("train", "validation")
    ]
    assert [len(part) for part in parts] == [36, 4]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(40))
    np.testing.assert_array_equal(dataset.validation.labels, parts[1] % 3)
    np.testing.assert_array_equal(dataset.train.labels, parts[0] % 3)
    assert "36/4/9 (validation: a random tenth of the training images)" in dataset.protocol


def test_of_partly_labelled_images_a_tenth_of_those_with_a_label_is_for_validation(tmp_path):
    numbered = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None], (40, *SHAPE))
    labels = np.where(np.arange(40) < 30, np.arange(40) % 3, -1)
    folder = folder_of(tmp_path, train_images=numbered, train_labels=labels, **WITHOUT_VALIDATION)
    dataset = data.load("arrays", data_dir=folder, split="train_90_10", dequantization="none")
    train, validation = (
        np.rint(part.images[:, 0, 0, 0] * 255).astype(int)
        for part in (dataset.train, dataset.validation)
    )
    assert len(validation) == 3 and (validation < 30).all()
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(40))
    np.testing.assert_array_equal(dataset.train.labels, labels[train])
    np.testing.assert_array_equal(dataset.validation.labels, labels[validation])
    np.testing.assert_array_equal(dataset.marked, np.flatnonzero(train < 30))
    assert "37/3/9 (validation: a random tenth of the training images with a label)" in (
        dataset.protocol
    )


@pytest.mark.parametrize(
    "arrays, options, expected",
    [
        ({"train_images": None}, {}, "train_images.npy in"),
        ({"test_images": None, "test_labels": None}, {}, "test_images.npy in"),
        ({"train_images": np.zeros([40, 20])}, {}, "(N, H, W) or (N, H, W, C)"),
        ({"train_images": np.zeros([0, 4, 5])}, {}, "received shape (0, 4, 5)"),
        ({"train_images": np.zeros([40, 4, 5], np.int64)}, {}, "received int64"),
        ({"train_images": np.full([40, 4, 5], 1.5)}, {}, "received 1.5 to 1.5"),
        ({"train_images": np.full([40, 4, 5], np.nan)}, {}, "received nan to nan"),
        ({"test_images": np.zeros([9, 5, 4], np.uint8)}, {}, "test_images.npy has 5 x 4 x 1 of"),
        ({"test_images": images_of("test", bool)}, {}, "test_images.npy has 4 x 5 x 1 of bool"),
        ({"train_labels": np.arange(39)}, {}, "expected 40 integers"),
        ({"train_labels": np.arange(40) / 2}, {}, "of float64"),
        ({"train_labels": np.arange(40) - 2}, {}, "at least -1"),
        ({"train_labels": np.full(40, -1)}, {}, "none but -1"),
        ({"test_labels": np.full(9, -1)}, {}, "at least 0"),
        ({"test_labels": None, "validation_labels": None}, {}, "validation_labels.npy, test_lab"),
        ({"validation_images": None}, {}, "validation_images.npy beside"),
        ({"train_labels": np.array([{}] * 40)}, {}, "as numpy.save writes it"),
        ({}, {"split": "train_90_10"}, "validation_images.npy, received train_90_10"),
        (
            WITHOUT_VALIDATION | {"train_labels": np.where(np.arange(40) < 9, 0, -1)},
            {"split": "train_90_10"},
            "ten training images with a label or more for train_90_10, received 9",
        ),
        (
            {f"{part}_images": images_of(part, bool) for part in COUNTS},
            {"binarization": "per_epoch"},
            "binarization=none of bool",
        ),
        (
            {f"{part}_images": images_of(part, np.float32) for part in COUNTS},
            {"dequantization": "uniform"},
            "of uint8 images only",
        ),
        ({}, {"cameras": "left"}, "expected no cameras for arrays"),
        ({}, {"checksum": "0" * 16}, "the checksum 0000000000000000, received arrays with"),
    ],
)
def test_bad_arrays_are_refused_in_one_line(tmp_path, arrays, options, expected):
    with pytest.raises(data.DataError) as info:
        data.load("arrays", data_dir=folder_of(tmp_path, **arrays), **options)
    message = str(info.value)
    assert expected in message and message.startswith("expected ") and "\n" not in message


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(data.DataError, match="data_dir .--data_dir., the folder of train_images"):
        data.load("arrays")
    with pytest.raises(data.DataError, match="expected data_dir to be a folder"):
        data.load("arrays", data_dir=str(tmp_path / "nowhere"))
    folder = folder_of(tmp_path)
    content = (tmp_path / "train_images.npy").read_bytes()
    for damaged in (b"", b"<html>", content[:-5]):
        (tmp_path / "train_images.npy").write_bytes(damaged)
        with pytest.raises(data.DataError, match="as numpy.save writes it"):
            data.load("arrays", data_dir=folder)
    np.savez(tmp_path / "all.npz", images_of("train"))
    (tmp_path / "all.npz").replace(tmp_path / "train_images.npy")
    with pytest.raises(data.DataError, match="an archive of several"):
        data.load("arrays", data_dir=folder)
    np.save(tmp_path / "train_images.npy", images_of("train"))
    for text in ("a\nb\n", "a\nb\nb\n"):
        (tmp_path / "class_names.txt").write_text(text)
        with pytest.raises(data.DataError, match="at least 3 different names"):
            data.load("arrays", data_dir=folder)
    with pytest.raises(data.DataError, match="none of its own"):
        data.load("digits", checksum="0" * 16)


def test_checksum_is_of_all_there_is(tmp_path):
    checksums = {load_arrays(folder_of(tmp_path)).checksum}
    again = load_arrays(folder_of(tmp_path)).checksum
    assert checksums == {again}
    changed = images_of("train")
    changed[-1, -1, -1] ^= 1
    for name, array in (
        ("train_images", changed),
        ("test_labels", 2 - labels_of("test")),
        ("validation_images", images_of("validation")[..., ::-1]),
    ):
        checksums.add(load_arrays(folder_of(tmp_path, **{name: array})).checksum)
    folder_of(tmp_path)
    (tmp_path / "class_names.txt").write_text("a\nb\nc\n")
    checksums.add(load_arrays(str(tmp_path)).checksum)
    assert len(checksums) == 5


# In experiments --------------------------------------------------------------------------------


def run_of(tmp_path, folder, model="vae", **fields):
    config = configuration.base_config(model, "arrays")
    values = {"training.batch_size": 10, "training.epochs": 1, "evaluation.num_samples": 2}
    values |= {"model.hidden_units": (8,), "model.latent_dim": 2} | fields
    if "auxiliary_dim" in config.model:
        values["model.auxiliary_dim"] = 2
    config.update_from_flattened_dict(values)
    options = hardware.Hardware(jit_compile=False)
    return experiments.Run(config, str(tmp_path / "run"), folder, options)


def test_training_does_not_go_on_with_other_images(tmp_path):
    folder = folder_of(tmp_path)
    run = run_of(tmp_path, folder)
    run.train()
    again = run_of(tmp_path, folder)
    assert again.has_trained
    assert again.config.dataset.checksum == data.load("arrays", data_dir=folder).checksum
    run_of(tmp_path, folder, **{"dataset.checksum": again.config.dataset.checksum})
    folder_of(tmp_path, train_images=255 - images_of("train"))
    with pytest.raises(RunError, match="belongs to another experiment .dataset.checksum="):
        run_of(tmp_path, folder)


def test_a_run_starts_from_one_of_the_same_images_alone(tmp_path):
    folder = folder_of(tmp_path)
    run_of(tmp_path / "first", folder).train()
    start = {"training.initial_run": str(tmp_path / "first" / "run")}
    assert run_of(tmp_path / "second", folder, **start).state.initial_epochs == 1
    folder_of(tmp_path, train_images=255 - images_of("train"))
    with pytest.raises(RunError, match="expected the model and data set of .*dataset.checksum="):
        run_of(tmp_path / "second", folder, **start)


@pytest.mark.parametrize("num_labels, expected", [(-1, 12), (6, 6)])
def test_images_without_a_label_are_used_without(tmp_path, num_labels, expected):
    labels = np.where(np.arange(40) % 10 < 3, labels_of("train"), -1)
    assert np.bincount(labels + 1).tolist() == [28, 4, 4, 4]
    folder = folder_of(tmp_path, train_labels=labels)
    run = run_of(tmp_path, folder, "adgm", **{"labels.num_labels": num_labels})
    assert len(run.labelled) == expected and (labels[run.labelled] >= 0).all()
    assert len(np.unique(labels[run.labelled])) == 3
    np.testing.assert_array_equal(run.dataset.marked, np.flatnonzero(labels >= 0))
    run.train()
    summary = run.evaluate()
    assert summary["num_labels"] == expected and np.isfinite(summary["test/elbo"])
    assert 0 <= summary["test/error_percent"] <= 100


def test_more_labels_than_there_are_is_refused(tmp_path):
    labels = np.where(np.arange(40) % 10 < 3, labels_of("train"), -1)
    folder = folder_of(tmp_path, train_labels=labels)
    with pytest.raises(data.DataError, match="expected at least 5 images of class 0"):
        run_of(tmp_path, folder, "adgm", **{"labels.num_labels": 15})
