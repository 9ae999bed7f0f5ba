"""Semi-supervised data: which images keep their label, and the batches of both parts."""

import numpy as np
import pytest

from tfhvae import data
from tfhvae.data import pipeline

LABELS = np.random.default_rng(0).integers(0, 4, 200)


# The labelled subset ----------------------------------------------------------


@pytest.mark.parametrize(
    "num_labels, counts",
    [
        (4, [1, 1, 1, 1]),
        (5, [2, 1, 1, 1]),
        (7, [2, 2, 2, 1]),
        (8, [2, 2, 2, 2]),
        (102, [26, 26, 25, 25]),
    ],
)
def test_classes_are_balanced(num_labels, counts):
    chosen = data.labelled_subset(LABELS, num_labels, 0, 4)
    assert chosen.shape == (num_labels,) and chosen.dtype == np.int64
    assert (np.diff(chosen) > 0).all()
    assert np.bincount(LABELS[chosen]).tolist() == counts


def test_no_labels_are_an_empty_subset():
    for labels in (LABELS, None):
        chosen = data.labelled_subset(labels, 0, 0, 4)
        assert chosen.shape == (0,) and chosen.dtype == np.int64


def test_all_labels_of_a_balanced_set():
    labels = np.tile(np.arange(3), 5).astype(np.uint8)
    np.testing.assert_array_equal(data.labelled_subset(labels, 15, 0, 3), np.arange(15))


def test_subset_is_a_function_of_its_seed():
    first = data.labelled_subset(LABELS, 20, 1, 4)
    np.random.seed(5)
    np.testing.assert_array_equal(first, data.labelled_subset(LABELS, 20, 1, 4))
    np.testing.assert_array_equal(first, data.labelled_subset(LABELS.tolist(), 20, np.int32(1), 4))
    assert (first != data.labelled_subset(LABELS, 20, 2, 4)).any()
    # Golden: a change here changes which images every published result had labels of.
    labels = np.arange(1000) % 10
    golden = [
        17,
        118,
        200,
        204,
        247,
        285,
        318,
        385,
        391,
        619,
        664,
        692,
        710,
        741,
        773,
        809,
        826,
        836,
        892,
        903,
    ]
    assert data.labelled_subset(labels, 20, 1, 10).tolist() == golden


def test_subsets_of_one_seed_are_nested():
    smaller = np.zeros(0, np.int64)
    for num_labels in range(4, 120, 3):
        larger = data.labelled_subset(LABELS, num_labels, 3, 4)
        assert set(smaller) < set(larger)
        smaller = larger


def test_every_image_of_a_class_may_be_chosen():
    """Each of 5 images of either class has the chance 2/5."""
    labels = np.repeat([0, 1], 5)
    chosen = np.concatenate([data.labelled_subset(labels, 4, seed, 2) for seed in range(1000)])
    counts = np.bincount(chosen, minlength=10)
    # 5 standard errors, fixed seeds: finds a chance that is wrong by 0.08.
    assert np.abs(counts - 400).max() < 5 * np.sqrt(1000 * 0.4 * 0.6)


@pytest.mark.parametrize(
    "labels, num_labels, seed, num_classes, expected",
    [
        (LABELS, 3, 0, 4, "num_labels to be 0 or at least 4, one of each class, received 3"),
        (LABELS, -1, 0, 4, "num_labels to be an integer >= 0, received -1"),
        (LABELS, 8.0, 0, 4, "num_labels to be an integer >= 0, received 8.0"),
        (LABELS, True, 0, 4, "num_labels to be an integer >= 0, received True"),
        (LABELS, 8, -1, 4, "seed to be an integer >= 0, received -1"),
        (LABELS, 8, None, 4, "seed to be an integer >= 0, received None"),
        (LABELS, 8, 0, 3, "labels from 0 to 2, received 0 to 3"),
        (LABELS - 1, 8, 0, 4, "labels from 0 to 3, received -1 to 2"),
        (LABELS, 8, 0, 5, "at least 1 images of class 4 for 8 labels, received 0"),
        ([0, 1, 1, 1], 4, 0, 2, "at least 2 images of class 0 for 4 labels, received 1"),
        ([0, 1, 1], 4, 0, 2, "at least 2 images of class 0 for 4 labels, received 1"),
        ([], 2, 0, 2, r"one integer label per image, received shape \(0,\)"),
        ([0.0, 1.0], 2, 0, 2, "per image, received shape .* of float64"),
        ([[0], [1]], 2, 0, 2, r"received shape \(2, 1\) of int64"),
        (None, 8, 0, 4, "a data set with labels, received one without"),
    ],
)
def test_subsets_that_do_not_exist(labels, num_labels, seed, num_classes, expected):
    with pytest.raises(data.DataError, match=expected) as info:
        data.labelled_subset(labels, num_labels, seed, num_classes)
    assert str(info.value).startswith("expected ") and "\n" not in str(info.value)


# Batches ----------------------------------------------------------------------

COUNT = 37
GREY = np.full((COUNT, 3, 2, 1), 0.5, np.float32)
# An image shows its index in every pixel.
NUMBERED = np.broadcast_to(
    np.arange(COUNT, dtype=np.float32)[:, None, None, None], (COUNT, 3, 2, 1)
)
CLASSES = np.arange(COUNT) % 3
LABELLED = np.array([2, 3, 5, 7, 11, 13, 17])


def semi_supervised(
    images=NUMBERED, labelled=LABELLED, batch=10, labelled_batch=4, labels=CLASSES, **kwargs
):
    return pipeline.semi_supervised_batches(
        images, labels, labelled, batch, labelled_batch, **({"seed": 0} | kwargs)
    )


def take(batches, count):
    """[(x_labelled, y, x_unlabelled)] of the first batches."""
    return [(x_l, y, x) for (x_l, y), x in batches.take(count).as_numpy_iterator()]


def indices(images):
    assert (images == images[:, :1, :1]).all()
    return images[:, 0, 0, 0].astype(int)


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_shapes_of_both_parts():
    batches = semi_supervised()
    (x_l, y), x = batches.element_spec
    assert (x_l.shape, y.shape, x.shape) == ((4, 3, 2, 1), (4,), (10, 3, 2, 1))
    assert (x_l.dtype, y.dtype, x.dtype) == ("float32", "int32", "float32")
    for x_l, y, _ in take(batches, 7):
        np.testing.assert_array_equal(y, CLASSES[indices(x_l)])


@pytest.mark.parametrize("binarization", [None, "per_batch", "per_epoch"])
def test_unlabelled_batches_are_those_of_unsupervised_training(binarization):
    images = NUMBERED / COUNT
    expected = pipeline.training_batches(images, 10, 5, 2, binarization).take(7)
    received = take(semi_supervised(images, seed=5, first_epoch=2, binarization=binarization), 7)
    for x, (_, _, unlabelled) in zip(expected.as_numpy_iterator(), received, strict=True):
        np.testing.assert_array_equal(x, unlabelled)


def test_unlabelled_epochs_are_permutations():
    epochs = np.array([indices(x) for _, _, x in take(semi_supervised(), 15)]).reshape(5, 30)
    for epoch in epochs:
        assert len(set(epoch)) == 30
    assert set(epochs.ravel()) == set(range(COUNT))
    assert (epochs[0] != epochs[1]).any()


def test_disjoint_parts():
    received = take(semi_supervised(disjoint=True), 12)
    epochs = np.array([indices(x) for _, _, x in received]).reshape(4, 30)
    for epoch in epochs:  # 30 images are left, three full batches
        assert set(epoch) == set(range(COUNT)) - set(LABELLED)
    assert set(np.concatenate([indices(x_l) for x_l, _, _ in received])) == set(LABELLED)
    assert pipeline.steps_per_epoch(COUNT, 10, len(LABELLED)) == 3
    assert pipeline.steps_per_epoch(COUNT, 10) == 3
    with pytest.raises(ValueError, match="at most 30, the number of training images without a l"):
        semi_supervised(batch=31, disjoint=True)
    with pytest.raises(ValueError, match="at most 37, the number of training images. Received"):
        semi_supervised(batch=38)
    with pytest.raises(ValueError, match="at most 0, "):
        semi_supervised(labelled=np.arange(COUNT), disjoint=True)


@pytest.mark.parametrize("labelled_batch", [7, 8, 100])
def test_few_labelled_images_are_in_every_batch(labelled_batch):
    for x_l, y, _ in take(semi_supervised(labelled_batch=labelled_batch), 5):
        np.testing.assert_array_equal(indices(x_l), LABELLED)
        np.testing.assert_array_equal(y, CLASSES[LABELLED])


def test_many_labelled_images_take_turns():
    """Slices of permutations: 9 labelled images in batches of 3, 12 batches of 3 in an epoch."""
    labelled = np.arange(0, 36, 4)
    received = take(semi_supervised(labelled=labelled, batch=3, labelled_batch=3), 24)
    passes = np.array([indices(x_l) for x_l, _, _ in received]).reshape(8, 9)
    for order in passes:
        assert sorted(order) == labelled.tolist()
    assert len({tuple(order) for order in passes}) == 8


def test_rest_of_a_permutation_of_labelled_images_is_left_out():
    """7 labelled images in batches of 4: no image twice in a batch, each as often as another."""
    counts = np.zeros(COUNT)
    for x_l, _, _ in take(semi_supervised(batch=1), 740):
        assert len(set(indices(x_l))) == 4
        counts[indices(x_l)] += 1
    # 5 standard errors at a fixed seed: finds a chance of 4/7 that is wrong by 0.09.
    assert np.abs(counts[LABELLED] - 740 * 4 / 7).max() < 5 * np.sqrt(740 * 12 / 49)
    assert counts.sum() == counts[LABELLED].sum()


def test_labelled_slices_restart_with_the_epoch():
    """An epoch shorter than a pass over the labelled images does not always see the same ones."""
    received = take(semi_supervised(batch=37, labelled=np.arange(20), labelled_batch=5), 30)
    seen = [tuple(indices(x_l)) for x_l, _, _ in received]
    assert len(set(seen)) == 30
    assert set(np.concatenate(seen)) == set(range(20))


@pytest.mark.parametrize("disjoint", [False, True])
@pytest.mark.parametrize("binarization", [None, "per_batch", "per_epoch"])
@pytest.mark.parametrize("labelled_batch", [4, 7])
def test_resumed_batches_equal_uninterrupted_ones(labelled_batch, binarization, disjoint):
    kwargs = dict(binarization=binarization, disjoint=disjoint, labelled_batch=labelled_batch)
    images = NUMBERED / COUNT
    complete = take(semi_supervised(images, **kwargs), 12)
    assert_same(complete, take(semi_supervised(images, **kwargs), 12))
    for epoch in (1, 3):
        resumed = take(semi_supervised(images, first_epoch=epoch, **kwargs), 12 - 3 * epoch)
        assert_same(complete[3 * epoch :], resumed)
    other = take(semi_supervised(images, **kwargs, seed=1), 12)
    assert any((a[2] != b[2]).any() for a, b in zip(complete, other))


@pytest.mark.parametrize("binarization", ["per_batch", "per_epoch"])
def test_both_parts_are_binarised_independently(binarization):
    """Of grey images, equal draws of one image in both parts are coincidences."""
    images = np.full((6, 10, 10, 1), 0.5, np.float32)
    batches = pipeline.semi_supervised_batches(
        images, np.zeros(6, int), np.arange(6), 6, 6, 0, binarization=binarization
    )
    received = take(batches, 20)
    agreements = []
    for x_l, _, x in received:
        assert set(np.unique(x_l)) == set(np.unique(x)) == {0, 1}
        agreements += [(a == b).mean() for a in x_l for b in x]
    # At most 6 x 6 x 20 comparisons of 100 pixels: 7 standard errors of 0.05 never.
    assert max(agreements) < 0.85 and min(agreements) > 0.15
    first, second = received[0][0], received[1][0]
    assert (first != second).any()


def test_binarisation_per_epoch_keeps_labelled_images_within_an_epoch():
    received = take(semi_supervised(GREY, labelled_batch=7, binarization="per_epoch"), 6)
    for epoch in (received[:3], received[3:]):
        for x_l, _, _ in epoch:
            np.testing.assert_array_equal(x_l, epoch[0][0])
    assert (received[0][0] != received[3][0]).any()
    # In slices, an image is known by its label when no two share one.
    batches = pipeline.semi_supervised_batches(
        GREY, np.arange(COUNT), LABELLED, 4, 4, 0, binarization="per_epoch"
    )
    for epoch in (take(batches, 18)[:9], take(batches, 18)[9:]):
        looks = {}
        for x_l, y, _ in epoch:
            for image, label in zip(x_l, y):
                np.testing.assert_array_equal(image, looks.setdefault(label, image))
        assert sorted(looks) == LABELLED.tolist()


def test_binarisation_follows_the_means():
    images = np.zeros((4, 2, 1, 1), np.float32)
    images[:, 1] = 1
    batches = pipeline.semi_supervised_batches(
        images, np.zeros(4, int), [1, 2], 3, 2, 0, binarization="per_batch"
    )
    for x_l, _, x in take(batches, 3):
        np.testing.assert_array_equal(x_l, images[:2])
        np.testing.assert_array_equal(x, images[:3])


@pytest.mark.parametrize(
    "kwargs, expected",
    [
        ({"labelled": []}, r"at least one labelled image. Received: shape \(0,\), 0 distinct"),
        ({"labelled": [[1]]}, r"distinct indices .* Received: shape \(1, 1\)"),
        ({"labelled": [1, 1]}, r"distinct indices .* Received: shape \(2,\), 1 distinct"),
        ({"labelled": [0, COUNT]}, "indices from 0 to 36. Received: 0 to 37"),
        ({"labelled": [-1, 3]}, "Received: -1 to 3"),
        ({"labelled_batch": 0}, "labelled_batch >= 1. Received: 0"),
        ({"num_classes": 2}, "labels from 0 to 1. Received: 0 to 2"),
        ({"labels": CLASSES - 1}, "labels from 0. Received: -1 to 1"),
    ],
)
def test_impossible_batches(kwargs, expected):
    with pytest.raises(ValueError, match=expected):
        semi_supervised(**kwargs)


def test_golden_batches():
    """A change here is another training for every seed."""
    x_l, y, x = take(semi_supervised(batch=6), 2)[1]
    assert (indices(x_l).tolist(), indices(x).tolist()) == ([13, 11, 5, 3], [3, 23, 16, 0, 15, 4])
    drawn = next(pipeline.training_batches(GREY, 3, 0, 1, "per_batch").as_numpy_iterator())
    assert np.packbits(drawn.astype(bool)).tolist() == [91, 126, 64]


def test_evaluation_batches_with_labels():
    batches = pipeline.evaluation_batches(NUMBERED, 15, CLASSES)
    assert int(batches.cardinality()) == 3
    received = list(batches.as_numpy_iterator())
    assert [len(x) for x, _ in received] == [len(y) for _, y in received] == [15, 15, 7]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in received]), NUMBERED)
    np.testing.assert_array_equal(np.concatenate([y for _, y in received]), CLASSES)
    assert received[0][1].dtype == np.int32
    plain = list(pipeline.evaluation_batches(NUMBERED, 15).as_numpy_iterator())
    for x, (labelled, _) in zip(plain, received, strict=True):
        np.testing.assert_array_equal(x, labelled)


def test_an_unknown_binarisation_is_refused():
    options = {"seed": 0, "binarization": "per_Batch"}
    with pytest.raises(ValueError, match='"per_batch" or "per_epoch". Received: .per_Batch.'):
        pipeline.training_batches(GREY, 3, **options)
    labels, labelled = np.zeros(len(GREY), np.int32), np.array([0])
    with pytest.raises(ValueError, match='"per_batch" or "per_epoch". Received: .per_Batch.'):
        pipeline.semi_supervised_batches(GREY, labels, labelled, 3, 1, **options)


@pytest.mark.parametrize("num_classes", [None, 0, 2.5])
def test_a_number_of_classes_that_is_none_is_refused(num_classes):
    with pytest.raises(data.DataError, match="num_classes to be a positive integer, received"):
        data.labelled_subset(LABELS, 8, 0, num_classes)
