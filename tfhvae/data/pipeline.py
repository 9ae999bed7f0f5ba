"""Batches for training and validation, as functions of (seed, epoch, step): a resumed run sees
what an uninterrupted one would have seen."""

import tensorflow as tf

_PERMUTATION, _BINARIZATION = 0, 1  # streams of the data seed
_MAX_STEPS_PER_EXECUTION = 50


def steps_per_epoch(num_examples, batch_size):
    """Full batches in an epoch; the rest of a permutation is left out, and another one next time.

    Raises:
      ValueError: if the batch is larger than the data.
    """
    if batch_size > num_examples:
        raise ValueError(
            f"expected a batch_size of at most {num_examples}, the number of training images. Received: batch_size={batch_size}"
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
    num_examples = len(images)
    steps = steps_per_epoch(num_examples, batch_size)
    images = tf.constant(images, tf.float32)

    def epoch_of(epoch):
        epoch_seed = tf.random.experimental.stateless_fold_in(
            [seed, _PERMUTATION], tf.cast(epoch, tf.int32)
        )
        order = tf.random.experimental.stateless_shuffle(tf.range(num_examples), epoch_seed)
        indices = tf.reshape(order[: steps * batch_size], [steps, batch_size])
        step = tf.range(epoch * steps, (epoch + 1) * steps)
        return tf.data.Dataset.from_tensor_slices((tf.fill([steps], epoch), step, indices))

    def batch(epoch, step, indices):
        x = tf.gather(images, indices)
        if binarization is None:
            return x
        stream = tf.random.experimental.stateless_fold_in(
            [seed, _BINARIZATION], tf.cast(step if binarization == "per_batch" else epoch, tf.int32)
        )
        return binarize(x, stream, None if binarization == "per_batch" else indices)

    dataset = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(epoch_of)
    return dataset.map(batch, num_parallel_calls=1, deterministic=True).prefetch(8)


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


def evaluation_batches(images, batch_size):
    """The images in order, once; the last batch may be smaller."""
    return tf.data.Dataset.from_tensor_slices(tf.constant(images, tf.float32)).batch(batch_size)
