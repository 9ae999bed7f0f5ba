"""Data and densities that are computed, not measured: the toy studies of the papers."""

import numpy as np


def half_moons(count, noise, rng):
    """Two half-moons with Gaussian noise (Maaløe et al. 2016, section 4.2).

        top = (cos t, sin t),  bottom = (1 - cos t, 1 - sin t - 0.5),  t ~ Uniform(0, pi)

    Args:
      count: number of points; the two moons take turns.
      noise: standard deviation of the noise on each coordinate; the paper names none.
      rng: a `numpy.random.Generator`.

    Returns:
      (points float32 (count, 2), labels int32 (count,), 0 for top and 1 for bottom).
    """
    labels = np.arange(count, dtype=np.int32) % 2
    t = rng.uniform(0, np.pi, count)
    top = np.stack([np.cos(t), np.sin(t)], axis=1)
    points = np.where(labels[:, None] == 0, top, [1, 0.5] - top)
    return (points + noise * rng.standard_normal((count, 2))).astype(np.float32), labels


def half_moon_anchors():
    """Both ends and the middle of each moon, without noise: `(points (6, 2), labels (6,))`. The
    authors' code of Maaløe et al. 2016 labels six points there, set by hand."""
    t = np.array([0.0, np.pi / 2, np.pi])
    top = np.stack([np.cos(t), np.sin(t)], axis=1)
    points = np.concatenate([top, [1, 0.5] - top])
    return points.astype(np.float32), np.repeat(np.arange(2, dtype=np.int32), 3)


def two_mode_potential(z):
    """U(z) of a density in the plane with two equal modes, p(z) = exp(-U(z)) / Z.

        U(z) = 1/2 ((|z| - 2) / 0.4)^2 - log(exp(-1/2 ((z_2 - 2) / 0.6)^2)
                                             + exp(-1/2 ((z_2 + 2) / 0.6)^2))

    (Rezende and Mohamed 2015; Maaløe's thesis, Eq. 4.18, where |z| is printed as |z_1| and the
    density as exp(U). With |z_1| there would be four modes.)

    Args:
      z: `[..., 2]`.

    Returns:
      `[...]`, in nats.
    """
    import tensorflow as tf

    z = tf.convert_to_tensor(z)
    ring = tf.square((tf.norm(z, axis=-1) - 2) / 0.4) / 2
    caps = -tf.square((z[..., 1:] + tf.constant([-2, 2], z.dtype)) / 0.6) / 2
    return ring - tf.reduce_logsumexp(caps, axis=-1)
