"""Batches for training and validation, as functions of (seed, epoch, step): a resumed run sees
what an uninterrupted one would have seen."""

import numpy as np
import tensorflow as tf

# Streams of the data seed.
_PERMUTATION, _BINARIZATION, _LABELLED_PERMUTATION, _LABELLED_BINARIZATION = range(4)
_MAX_STEPS_PER_EXECUTION = 50


def steps_per_epoch(num_examples, batch_size, num_left_out=0):
    """Full batches in an epoch; the rest of a permutation is left out, and another one next time.

    Args:
      num_examples: number of training images.
      batch_size: of the unlabelled images in semi-supervised learning.
      num_left_out: training images in no batch: the labelled ones of disjoint batches.

    Raises:
      ValueError: for a batch without images, or with more than there are.
    """
    num_examples -= num_left_out
    if batch_size < 1:
        raise ValueError(f"expected batch_size >= 1. Received: batch_size={batch_size}")
    if batch_size > num_examples:
        rest = " without a label" if num_left_out else ""
        raise ValueError(
            f"expected a batch_size of at most {num_examples}, the number of training images{rest}. Received: batch_size={batch_size}"
        )
    return num_examples // batch_size


def steps_per_execution(steps):
    """The largest divisor of `steps` that is at most 50: so many updates run in one call."""
    return max(n for n in range(1, min(steps, _MAX_STEPS_PER_EXECUTION) + 1) if steps % n == 0)


def training_batches(images, batch_size, seed, first_epoch=0, binarization=None):
    """Endless batches `[B, H, W, C]`, beginning with epoch `first_epoch`.

    Every epoch is a new permutation of the images, cut into full batches.

    Args:
      images: `[N, H, W, C]` in [0, 1].
      binarization: None, "per_batch" (pixels are drawn anew for every batch) or "per_epoch" (an
        image looks the same wherever it occurs within an epoch).
    """
    _check_binarization(binarization)
    steps = steps_per_epoch(len(images), batch_size)
    images = tf.constant(images, tf.float32)

    def batch(epoch, step, indices):
        return _draw(images, indices, binarization, [seed, _BINARIZATION], epoch, step)

    epochs = _epochs(first_epoch, steps, _permutation_of(seed, len(images), steps, batch_size))
    return epochs.map(batch, num_parallel_calls=1, deterministic=True).prefetch(8)


def semi_supervised_batches(
    images,
    labels,
    labelled,
    unlabelled_batch,
    labelled_batch,
    seed,
    first_epoch=0,
    binarization=None,
    disjoint=False,
    num_classes=None,
):
    """Endless batches `((x_l [L, H, W, C], y_l [L]), x_u [B, H, W, C])`.

    An epoch is a new permutation of the unlabelled images, cut into full batches, as in
    `training_batches`; without `disjoint` they are the same batches. Beside each are all labelled
    images where they are at most `labelled_batch`; otherwise a slice of a permutation of them, and
    a new permutation when no full slice is left. The two parts are binarised independently, also
    where an image occurs in both.

    Args:
      images: `[N, H, W, C]`.
      labels: integers `[N]`, of which only those of `labelled` are read.
      labelled: indices of the labelled images, at least one, as from `labelled_subset`.
      unlabelled_batch: B.
      labelled_batch: the most labelled images in a batch; L is this or their number.
      binarization: as of `training_batches`, of both parts.
      disjoint: whether the unlabelled images are only those that are not labelled; otherwise they
        are all images, as in the authors' code.
      num_classes: Y, if known; labels of 0 to Y - 1 are right then, without it none below 0.

    Raises:
      ValueError: for indices or labels that are out of range, or labels that are no integers.
    """
    _check_binarization(binarization)
    labelled = np.asarray(labelled, np.int64)
    if labelled.ndim != 1 or not len(labelled) or len(np.unique(labelled)) != len(labelled):
        raise ValueError(
            f"expected distinct indices of at least one labelled image. Received: shape {labelled.shape}, {len(np.unique(labelled))} distinct"
        )
    if labelled.min() < 0 or labelled.max() >= len(images):
        raise ValueError(
            f"expected indices from 0 to {len(images) - 1}. Received: {labelled.min()} to {labelled.max()}"
        )
    if labelled_batch < 1:
        raise ValueError(f"expected labelled_batch >= 1. Received: {labelled_batch}")
    unlabelled = np.arange(len(images))
    if disjoint:
        unlabelled = np.setdiff1d(unlabelled, labelled)
    steps = steps_per_epoch(len(images), unlabelled_batch, len(images) - len(unlabelled))
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise ValueError(
            f"expected {len(images)} integer labels. Received: shape {labels.shape} of "
            f"{labels.dtype}"
        )
    y = labels[labelled]
    if y.min() < 0 or (num_classes is not None and y.max() >= num_classes):
        most = "" if num_classes is None else f" to {num_classes - 1}"
        raise ValueError(f"expected labels from 0{most}. Received: {y.min()} to {y.max()}")
    y = tf.constant(y, tf.int32)
    images, labelled = tf.constant(images, tf.float32), tf.constant(labelled)
    unlabelled = tf.constant(unlabelled)

    def batch(epoch, step, indices, slices):
        x = _draw(
            images,
            tf.gather(unlabelled, indices),
            binarization,
            [seed, _BINARIZATION],
            epoch,
            step,
        )
        x_labelled = _draw(
            images,
            tf.gather(labelled, slices),
            binarization,
            [seed, _LABELLED_BINARIZATION],
            epoch,
            step,
        )
        return (x_labelled, tf.gather(y, slices)), x

    epochs = _epochs(
        first_epoch,
        steps,
        _permutation_of(seed, len(unlabelled), steps, unlabelled_batch),
        _labelled_slices_of(seed, len(labelled), steps, labelled_batch),
    )
    return epochs.map(batch, num_parallel_calls=1, deterministic=True).prefetch(8)


def _epochs(first_epoch, steps, *indices_of):
    """Endless `(epoch, step, *indices [B])`; every `indices_of` maps an epoch to `[steps, B]`."""

    def epoch_of(epoch):
        step = tf.range(epoch * steps, (epoch + 1) * steps)
        indices = (function(epoch) for function in indices_of)
        return tf.data.Dataset.from_tensor_slices((tf.fill([steps], epoch), step, *indices))

    return tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(epoch_of)


def _fold_in(seed, number):
    return tf.random.experimental.stateless_fold_in(seed, tf.cast(number, tf.int32))


def _permutation_of(seed, num_examples, steps, batch_size):
    def indices(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(num_examples), _fold_in([seed, _PERMUTATION], epoch)
        )
        return tf.reshape(order[: steps * batch_size], [steps, batch_size])

    return indices


def _labelled_slices_of(seed, num_labelled, steps, batch_size):
    if num_labelled <= batch_size:
        return lambda epoch: tf.tile(tf.range(num_labelled)[None], [steps, 1])
    full = num_labelled // batch_size
    passes = -(-steps // full)

    def indices(epoch):
        # A permutation per row, as the order of random numbers.
        keys = tf.random.stateless_uniform(
            [passes, num_labelled],
            _fold_in([seed, _LABELLED_PERMUTATION], epoch),
            minval=None,
            maxval=None,
            dtype=tf.int32,
        )
        orders = tf.argsort(keys)[:, : full * batch_size]
        return tf.reshape(orders, [passes * full, batch_size])[:steps]

    return indices


def _check_binarization(binarization):
    if binarization not in (None, "per_batch", "per_epoch"):
        raise ValueError(
            'expected binarization to be None, "per_batch" or "per_epoch". '
            f"Received: {binarization!r}"
        )


def _draw(images, indices, binarization, seed, epoch, step):
    x = tf.gather(images, indices)
    if binarization is None:
        return x
    per_batch = binarization == "per_batch"
    stream = _fold_in(seed, step if per_batch else epoch)
    return binarize(x, stream, None if per_batch else indices)


def binarize(means, seed, identities=None):
    """Draws pixels from Bernoulli distributions with the given means.

    Args:
      means: `[B, H, W, C]`.
      seed: `[2]`.
      identities: `[B]` integers; then an image's draw depends on (seed, identity) and not on its
        place in the batch.
    """
    if identities is None:
        uniform = tf.random.stateless_uniform(tf.shape(means), seed)
    else:
        seeds = tf.map_fn(
            lambda i: tf.random.experimental.stateless_fold_in(seed, i),
            tf.cast(identities, tf.int32),
        )
        uniform = tf.map_fn(
            lambda s: tf.random.stateless_uniform(tf.shape(means)[1:], s),
            seeds,
            fn_output_signature=tf.float32,
        )
    return tf.cast(uniform < means, tf.float32)


def evaluation_batches(images, batch_size, labels=None):
    """The images in order, once, or `(images, labels)`; the last batch may be smaller."""
    tensors = tf.constant(images, tf.float32)
    if labels is not None:
        tensors = tensors, tf.constant(labels, tf.int32)
    return tf.data.Dataset.from_tensor_slices(tensors).batch(batch_size)
