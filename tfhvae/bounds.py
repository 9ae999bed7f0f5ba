"""Lower bounds on log p(x), as pure functions of a `Trace`. Bounds return `[B]`, in nats per
example.

One formula serves every bound. With log w = log p(x|.) + beta * sum over sites of (log p - log q),
a bound is the choice, axis by axis, of averaging inside or outside the logarithm, reduced in the
order Y (classes), K (importance samples), M (Monte Carlo samples), S = M * K:

    ELBO                      M outside
    IWAE-K                    K inside
    MC x IW                   K inside, M outside
    labelled                  log p(y) added to log w
    unlabelled, training      Y outside: sum_y q(y) [log w + class_beta (log p(y) - log q(y))]
    unlabelled, likelihood    Y inside: log sum_y w p(y) (q(y) cancels)
    unlabelled, y in part     as in training: an unbiased estimate, see `SampledLabel`
    unlabelled, y relaxed     class_beta (log p(y) - log q(y)), averaged over q(y), added to log w

References: Kingma & Welling 2014; Burda et al. 2016, Eq. 8; Maaløe 2018, Eq. 3.31; Liu et al. 2019,
"Rao-Blackwellized stochastic gradients for discrete distributions".
"""

import math
import numbers

import tensorflow as tf

from tfhvae.traces import EnumeratedLabel, RelaxedLabel, SampledLabel, Trace


def log_weights(trace: Trace, beta=1.0, class_beta=1.0):
    """Log importance weights `[S, (Y,) B]`: log p(x, y, z) - log q(z), with the latent terms
    scaled by `beta`, and log p(y) - log q(y) of an unknown class by `class_beta`."""
    log_w = trace.log_px
    if trace.sites:
        log_w += beta * tf.add_n([site.log_p - site.log_q for site in trace.sites.values()])
    return _with_label(trace, log_w, class_beta)


def importance_weighted(
    trace: Trace, num_importance=1, beta=1.0, classes="outside", class_beta=1.0
):
    """Mean over M of log (1/K) sum_k w_k, with S = M * K.

    Args:
      trace: with S samples.
      num_importance: K; must divide S. `K = 1` is the ELBO by sampling, `K = S` is IWAE.
      beta: weight of the latent terms, inside the importance weight.
      classes: of an enumerated label, "outside" the logarithm (a training bound) or "inside" (a
        likelihood estimate).
      class_beta: weight of log p(y) - log q(y) of an unknown class.

    Raises:
      ValueError: if K is no positive integer that divides S, or `classes` is unknown; and where y is
        summed over in part, for K > 1 and for "inside": an estimate inside a logarithm is biased.
    """
    if isinstance(trace.label, SampledLabel) and num_importance > 1:
        raise ValueError(
            f"expected num_importance=1 where classes are drawn. Received: {num_importance=}"
        )
    if not isinstance(num_importance, numbers.Integral) or num_importance < 1:
        raise ValueError(f"expected a positive integer. Received: {num_importance=}")
    per_sample = _reduce_classes(trace, log_weights(trace, beta, class_beta), classes)
    samples = per_sample.shape[0]
    if samples is None or samples % num_importance:
        raise ValueError(
            f"expected a number of samples that num_importance divides. Received: samples={samples}, num_importance={num_importance}"
        )
    grouped = tf.reshape(per_sample, [samples // num_importance, num_importance, -1])  # [M, K, B]
    return tf.reduce_mean(log_mean_exp(grouped, axis=1), 0)


def elbo(trace: Trace, beta=1.0, free_bits=0.0, class_beta=1.0):
    """The evidence lower bound with per-unit KL terms (analytic where the site has them), averaged
    over S.

    Args:
      free_bits: nats; each site's KL, per example, counts as max(free_bits, KL) (after Kingma et
        al. 2016, who take the maximum of batch means).
    """
    per_sample = trace.log_px
    for site in trace.sites.values():
        kl = tf.reduce_sum(site.kl, -1)
        per_sample -= beta * (tf.maximum(kl, free_bits) if free_bits else kl)
    per_sample = _with_label(trace, per_sample, class_beta)
    return tf.reduce_mean(_reduce_classes(trace, per_sample, "outside"), 0)


def log_mean_exp(values, axis):
    """log of the mean of exp(values) along `axis`."""
    count = values.shape[axis]
    if count is None:  # known only when the graph runs
        log_count = tf.math.log(tf.cast(tf.shape(values)[axis], values.dtype))
    else:
        log_count = math.log(count)
    return tf.reduce_logsumexp(values, axis) - log_count


def normalized_weights(log_w, num_importance):
    """Self-normalised importance weights of `[S, B]` log-weights, normalised within each group of
    K: `[S, B]`."""
    grouped = tf.reshape(log_w, [-1, num_importance, tf.shape(log_w)[-1]])
    return tf.reshape(tf.nn.softmax(grouped, axis=1), tf.shape(log_w))


def _with_label(trace, log_w, class_beta):
    label = trace.label
    if label is None:
        return log_w
    if isinstance(label, RelaxedLabel):
        return log_w + class_beta * (label.log_p - label.log_q)
    if isinstance(label, (EnumeratedLabel, SampledLabel)):
        log_w += class_beta * label.log_p  # the sum over classes takes log q(y) off again
        if isinstance(class_beta, float) and class_beta == 1.0:  # else 0 * log 0 is met
            return log_w
        log_q = label.log_q
        if isinstance(label, SampledLabel):  # its gradient is 0 on average: see `_sum_and_sample`
            log_q = tf.stop_gradient(log_q)
        return log_w + (1.0 - class_beta) * log_q
    return log_w + label.log_p


def sum_over_classes(trace, log_w):
    """log sum_y w of log-weights `[S, (Y,) B]`: `[S, B]`, log p(x, z)/q(z) without the class.

    Raises:
      ValueError: where only some of the classes are in the trace.
    """
    if isinstance(trace.label, SampledLabel):
        raise ValueError("expected a trace of all classes. Received: one in which a class is drawn")
    return tf.reduce_logsumexp(log_w, 1) if isinstance(trace.label, EnumeratedLabel) else log_w


def _reduce_classes(trace, log_w, classes):
    if classes not in ("outside", "inside"):
        raise ValueError(f'expected classes="outside" or "inside". Received: classes={classes!r}')
    if classes == "inside":
        return sum_over_classes(trace, log_w)
    if isinstance(trace.label, SampledLabel):
        return _sum_and_sample(trace.label, log_w)
    if not isinstance(trace.label, EnumeratedLabel):
        return log_w
    log_q = trace.label.log_q
    # q log q is 0 where q is.
    return tf.reduce_sum(tf.math.multiply_no_nan(log_w - log_q, tf.exp(log_q)), 1)


def _sum_and_sample(label, log_w):
    """An estimate `[S, B]` of sum_y q(y) f_y, f_y = log w_y - log q(y), unbiased like its gradient
    (Liu et al. 2019).

    The gradient is sum_y q(y) df_y + sum_y f_y dq(y). Both sums are taken over the classes at hand,
    with their weights; in the second dq(y) = q(y) dlog q(y). As dq(y) sums to 0, f of the most
    probable class, which is no draw, is taken off all f_y there: a baseline. For the same reason
    log q(y) adds nothing to the first sum, and its gradient, noise, is left out.
    """
    weights, terms = label.weights, log_w - tf.stop_gradient(label.log_q)
    estimate = tf.reduce_sum(tf.math.multiply_no_nan(terms, weights), 1)
    advantage = tf.math.multiply_no_nan(terms - terms[:, :1], weights)
    score = tf.stop_gradient(advantage) * (label.log_q - tf.stop_gradient(label.log_q))  # 0
    return estimate + tf.reduce_sum(score, 1)
