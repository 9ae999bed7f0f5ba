"""The record that connects models to everything else.

A model turns a batch into a `Trace`: for every latent variable what was drawn from the inference
model q, with its log-densities under q and under the generative model p, and log p(x | everything
drawn). Bounds are pure functions of a trace.

Axes, in this order: `S` samples drawn from q, `Y` classes (present only where y is enumerated, all
of it or in part), `B` batch, then the event. All densities are in nats.
"""

import math
from typing import NamedTuple

import tensorflow as tf

STANDARD_NORMAL = (0.0, 1.0)
_LOG_2PI = math.log(2.0 * math.pi)


class Site(NamedTuple):
    """One latent variable: what was drawn, and how likely it was."""

    value: tf.Tensor  # [S, (Y,) B, *E]
    log_q: tf.Tensor  # [S, (Y,) B]      inference model
    log_p: tf.Tensor  # [S, (Y,) B]      generative model
    kl: tf.Tensor  # [S, (Y,) B, units]  per unit where q and p factorise, else one unit; see `draw`
    q_mean: tf.Tensor  # [S, (Y,) B, *E]
    q_scale: tf.Tensor  # [S, (Y,) B, *E]  standard deviation


class ObservedLabel(NamedTuple):
    """The class is known: its log-probabilities under q(y|.) and p(y|.)."""

    log_q: tf.Tensor  # [S, B]
    log_p: tf.Tensor  # [S, B]


class EnumeratedLabel(NamedTuple):
    """The class is summed over: log-probabilities of every class."""

    log_q: tf.Tensor  # [S, Y, B]
    log_p: tf.Tensor  # [S, Y, B]


class SampledLabel(NamedTuple):
    """The class is summed over in part: the most probable classes, and last one drawn from q(y|.)
    among the others; `C` of them, in place of `Y`, and other ones for every image."""

    log_q: tf.Tensor  # [S, C, B]
    log_p: tf.Tensor  # [S, C, B]

    @property
    def weights(self):
        """`[S, C, B]` with which a sum over them is, in expectation, the mean over q(y|.): q(y), and
        for the class that was drawn the probability of all that are not summed. Constants."""
        summed = tf.exp(self.log_q[:, :-1])
        rest = tf.maximum(0.0, 1.0 - tf.reduce_sum(summed, 1, keepdims=True))
        return tf.stop_gradient(tf.concat([summed, rest], 1))


class RelaxedLabel(NamedTuple):
    """The class is drawn as a relaxed one-hot vector (Gumbel-softmax); its two log-densities are
    replaced by their means under q(y|.), so that log_p - log_q is minus their KL divergence."""

    log_q: tf.Tensor  # [S, B]  sum_y q(y) log q(y)
    log_p: tf.Tensor  # [S, B]  sum_y q(y) log p(y)


class Trace(NamedTuple):
    """Everything that was drawn for one batch, in drawing order."""

    sites: dict[str, Site]
    log_px: tf.Tensor  # [S, (Y,) B]  log p(x | everything drawn)
    label: ObservedLabel | EnumeratedLabel | SampledLabel | RelaxedLabel | None = None


def gaussian_log_prob(value, loc, scale):
    """log N(value; loc, scale²), per unit, in nats."""
    standardised = (value - loc) / scale
    return -0.5 * (tf.square(standardised) + _LOG_2PI) - tf.math.log(scale)


def gaussian_kl(q, p):
    """KL(q || p) of two factorised Gaussians `(loc, scale)`, per unit, in nats."""
    (q_loc, q_scale), (p_loc, p_scale) = q, p
    variance_ratio = tf.square(q_scale / p_scale)
    return 0.5 * (
        variance_ratio + tf.square((q_loc - p_loc) / p_scale) - 1.0 - tf.math.log(variance_ratio)
    )


def draw(q, p, noise, value=None, closed_form_kl=True):
    """Draws one latent variable from q and records it.

    Args:
      q: `(loc, scale)` of a factorised Gaussian, each broadcasting against `noise`.
      p: `(loc, scale)` likewise, or a distribution with `log_prob` over the last axis (a mixture
        prior, say).
      noise: standard normal `[S, (Y,) B, units]`; the draw is `loc + scale * noise`.
      value: `[S, (Y,) B, units]`, evaluated instead of drawn when given.
      closed_form_kl: False where p depends on a later draw that depends on this one, as in
        bottom-up inference: KL(q || p) at that draw is then not a term of the bound, and the
        difference log q - log p of each unit takes its place.

    Returns:
      A `Site` whose fields all begin with the same `[S, (Y,) B]`.
    """
    q_loc, q_scale = q
    if value is None:
        value = q_loc + q_scale * noise
        # noise is already (value - loc) / scale
        log_q_units = -0.5 * (tf.square(noise) + _LOG_2PI) - tf.math.log(q_scale)
    else:
        log_q_units = gaussian_log_prob(value, q_loc, q_scale)
    if not isinstance(p, tuple):
        shape = tf.shape(value)
        log_q = tf.reduce_sum(tf.broadcast_to(log_q_units, shape), -1)
        log_p = p.log_prob(value)
        kl = (log_q - log_p)[..., tf.newaxis]
    else:
        log_p_units = gaussian_log_prob(value, *p)
        shape = tf.shape(log_p_units)  # p may know the class where q does not yet
        log_q = tf.reduce_sum(tf.broadcast_to(log_q_units, shape), -1)
        log_p = tf.reduce_sum(log_p_units, -1)
        kl = gaussian_kl(q, p) if closed_form_kl else log_q_units - log_p_units
        kl = tf.broadcast_to(kl, shape)
    value, q_loc, q_scale = (tf.broadcast_to(t, shape) for t in (value, q_loc, q_scale))
    return Site(value, log_q, log_p, kl, q_loc, q_scale)


def mean_over_classes(trace, values):
    """`values` `[S, (Y,) B, ...]` of a trace, averaged over q(y|.) where y is enumerated:
    `[S, B, ...]`. Where it is summed over in part, an unbiased estimate of that mean."""
    if isinstance(trace.label, SampledLabel):
        weights = trace.label.weights
    elif isinstance(trace.label, EnumeratedLabel):
        weights = tf.exp(trace.label.log_q)  # [S, Y, B]
    else:
        return values
    extra = values.shape.rank - weights.shape.rank
    weights = tf.reshape(weights, tf.concat([tf.shape(weights), [1] * extra], 0))
    return tf.reduce_sum(weights * values, 1)
