"""Bounds equal log p(x) where q is exact, and brute-force loops everywhere else."""

import itertools

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from tfhvae import bounds
from tfhvae.traces import EnumeratedLabel, ObservedLabel, SampledLabel, Site, Trace

SAMPLES, CLASSES, BATCH, UNITS = 6, 3, 4, 2
GROUPINGS = [(6, 1), (3, 2), (2, 3), (1, 6)]  # (M, K)


def make_trace(label=None, seed=0):
    """Two sites with random densities; `label` is None, "observed" or "enumerated"."""
    rng = np.random.default_rng(seed)
    lead = (SAMPLES, CLASSES, BATCH) if label == "enumerated" else (SAMPLES, BATCH)

    def site():
        value, log_q, log_p = rng.normal(size=(*lead, UNITS)), *rng.normal(size=(2, *lead)) * 2
        kl = rng.gamma(1.0, 0.5, size=(*lead, UNITS))
        return Site(
            *(
                tf.constant(v, tf.float32)
                for v in (value, log_q, log_p, kl, value, np.ones_like(value))
            )
        )

    log_y = np.log(rng.dirichlet(np.ones(CLASSES), size=(2, SAMPLES, BATCH)))
    log_qy, log_py = np.moveaxis(log_y, -1, 2).astype(np.float32)  # [S, Y, B]
    labels = {
        None: None,
        "observed": ObservedLabel(*(tf.constant(v[:, 0]) for v in (log_qy, log_py))),
        "enumerated": EnumeratedLabel(tf.constant(log_qy), tf.constant(log_py)),
    }
    sites = {"z2": site(), "z1": site()}
    return Trace(sites, tf.constant(rng.normal(size=lead) * 3, tf.float32), labels[label])


def as_numpy(trace):
    return tf.nest.map_structure(
        lambda t: None if t is None else t.numpy().astype(np.float64), trace
    )


def log_weight(trace, index, beta):
    """log w of one sample, from its definition, without an unknown class."""
    latent = sum(site.log_p[index] - site.log_q[index] for site in trace.sites.values())
    label = trace.label.log_p[index] if isinstance(trace.label, ObservedLabel) else 0.0
    return trace.log_px[index] + beta * latent + label


def brute_force(trace, num_importance, beta, classes, class_beta=1.0):
    """`importance_weighted` by loops over examples, M, K and classes, in float64."""
    trace, result = as_numpy(trace), np.zeros(BATCH)
    for b in range(BATCH):
        for m in range(SAMPLES // num_importance):
            total = 0.0
            for k in range(num_importance):
                s = m * num_importance + k
                if not isinstance(trace.label, EnumeratedLabel):
                    total += np.exp(log_weight(trace, (s, b), beta))
                    continue
                log_w = np.array([log_weight(trace, (s, y, b), beta) for y in range(CLASSES)])
                log_q, log_p = trace.label.log_q[s, :, b], trace.label.log_p[s, :, b]
                log_w += class_beta * (log_p - log_q)
                if classes == "inside":
                    total += (np.exp(log_q) * np.exp(log_w)).sum()
                else:
                    total += np.exp((np.exp(log_q) * log_w).sum())
            result[b] += np.log(total / num_importance) / (SAMPLES // num_importance)
    return result


def exact_inputs(model):
    return tf.constant(np.random.default_rng(1).normal(size=(5, *model.event_shape)), tf.float32)


# The exact posterior
# -------------------------------------------------------------------------------------------------


def test_every_log_weight_is_log_px_when_q_is_the_posterior(linear_gaussian):
    model = linear_gaussian()
    x = exact_inputs(model)
    log_w = bounds.log_weights(model.trace(x, noise=model.noise(3, 5, 40)))
    assert log_w.shape == (40, 5)
    exact = np.broadcast_to(model.exact_log_px(x), log_w.shape)
    np.testing.assert_allclose(log_w, exact, rtol=2e-5)


@pytest.mark.parametrize(("m", "k"), [(1, 1), (1, 12), (12, 1), (3, 4), (4, 3)])
def test_every_bound_is_log_px_when_q_is_the_posterior(linear_gaussian, m, k):
    model = linear_gaussian()
    x = exact_inputs(model)
    trace = model.trace(x, noise=model.noise(m, 5, m * k))
    bound = bounds.importance_weighted(trace, num_importance=k)
    assert bound.shape == (5,)
    np.testing.assert_allclose(bound, model.exact_log_px(x), rtol=1e-5)


def test_oracle_is_not_trivial(linear_gaussian):
    """With q off the posterior, log-weights differ from log p(x) and the ELBO lies below it."""
    model = linear_gaussian(q_error=0.3)
    x = exact_inputs(model)
    trace = model.trace(x, noise=model.noise(3, 5, 4000))
    assert np.ptp(bounds.log_weights(trace), axis=0).min() > 0.1
    assert np.all(bounds.importance_weighted(trace) < model.exact_log_px(x) - 0.05)


def test_analytic_elbo_is_log_px_on_average_when_q_is_the_posterior(linear_gaussian):
    """log p(x|z) - KL is unbiased for log p(x). 5 standard errors, 5 examples: false alarm 3e-6."""
    model = linear_gaussian()
    x = exact_inputs(model)
    trace = model.trace(x, noise=model.noise(3, 5, 4000))
    kl = tf.add_n([tf.reduce_sum(site.kl, -1) for site in trace.sites.values()])
    error = np.std(trace.log_px - kl, axis=0) / np.sqrt(4000)
    np.testing.assert_array_less(np.abs(bounds.elbo(trace) - model.exact_log_px(x)), 5 * error)


def test_more_importance_samples_give_a_tighter_bound(linear_gaussian):
    """E[L_1] <= E[L_5] <= E[L_50] <= log p(x), from the same draws of 400 repetitions.

    Each gap is above zero by more than 10 of its standard errors, and 4 are asked for: a
    correct bound fails with probability below 1e-8.
    """
    model = linear_gaussian(q_error=0.3)
    x = tf.tile(exact_inputs(model)[:1], [400, 1, 1, 1])
    trace = model.trace(x, noise=model.noise(5, 400, 50))
    l_1, l_5, l_50 = (bounds.importance_weighted(trace, k).numpy() for k in (1, 5, 50))
    for looser, tighter in [(l_1, l_5), (l_5, l_50)]:
        gap = tighter - looser
        assert gap.mean() > 4 * gap.std(ddof=1) / np.sqrt(len(gap))
    error = l_50.std(ddof=1) / np.sqrt(len(l_50))
    assert l_50.mean() < model.exact_log_px(x[:1])[0] + 4 * error


# The axis algebra
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize(("m", "k"), GROUPINGS)
@pytest.mark.parametrize(
    ("label", "classes", "class_beta"),
    [
        (None, "outside", 1.0),
        ("observed", "outside", 1.0),
        ("observed", "outside", 0.6),  # a class that is known is not weighed
        ("enumerated", "outside", 1.0),
        ("enumerated", "outside", 0.6),
        ("enumerated", "inside", 1.0),
        ("enumerated", "inside", 0.6),
    ],
)
def test_bound_equals_loops(label, classes, class_beta, m, k, beta):
    trace = make_trace(label)
    bound = bounds.importance_weighted(trace, k, beta, classes, class_beta)
    assert bound.shape == (BATCH,)
    expected = brute_force(trace, k, beta, classes, class_beta)
    np.testing.assert_allclose(bound, expected, rtol=1e-5, atol=1e-5)


def test_the_choices_are_different_bounds():
    """Otherwise the comparison with loops could not tell them apart."""
    trace = make_trace("enumerated")
    results = [
        brute_force(trace, k, beta, classes, class_beta)
        for (_, k), beta, classes, class_beta in itertools.product(
            GROUPINGS, [1.0, 0.3], ["outside", "inside"], [1.0, 0.6]
        )
    ]
    for a, b in itertools.combinations(results, 2):
        assert np.abs(a - b).max() > 1e-2


def test_observed_label_adds_its_prior_only():
    trace = make_trace("observed")
    unlabelled = bounds.log_weights(trace._replace(label=None))
    np.testing.assert_allclose(
        bounds.log_weights(trace), unlabelled + trace.label.log_p, rtol=1e-6, atol=1e-6
    )


def test_beta_zero_leaves_the_reconstruction():
    trace = make_trace()
    expected = scipy.special.logsumexp(trace.log_px, axis=0) - np.log(SAMPLES)
    bound = bounds.importance_weighted(trace, SAMPLES, beta=0.0)
    np.testing.assert_allclose(bound, expected, rtol=1e-5)


def test_bounds_compile():
    """Eager, graph and XLA agree on a trace that crosses `tf.function`."""
    trace = make_trace("enumerated")
    for jit_compile in (False, True):
        compiled = tf.function(bounds.importance_weighted, jit_compile=jit_compile)
        np.testing.assert_allclose(
            compiled(trace, 3, 0.7, "inside"),
            bounds.importance_weighted(trace, 3, 0.7, "inside"),
            rtol=1e-5,
        )


# The analytic bound
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("free_bits", [0.0, 0.5, 1.3])
@pytest.mark.parametrize("beta", [1.0, 0.4])
@pytest.mark.parametrize(
    ("label", "class_beta"),
    [(None, 1.0), ("observed", 0.6), ("enumerated", 1.0), ("enumerated", 0.6)],
)
def test_elbo_equals_its_formula(label, class_beta, beta, free_bits):
    trace = make_trace(label)
    t = as_numpy(trace)
    kl = [site.kl.sum(-1) for site in t.sites.values()]
    if free_bits:
        assert any((k < free_bits).any() for k in kl) and any((k > free_bits).any() for k in kl)
    per_sample = t.log_px - beta * sum(np.maximum(free_bits, k) for k in kl)
    if label == "observed":
        per_sample = per_sample + t.label.log_p
    if label == "enumerated":
        per_sample = per_sample + class_beta * (t.label.log_p - t.label.log_q)
        per_sample = (np.exp(t.label.log_q) * per_sample).sum(1)
    bound = bounds.elbo(trace, beta, free_bits, class_beta)
    assert bound.shape == (BATCH,)
    np.testing.assert_allclose(bound, per_sample.mean(0), rtol=1e-5, atol=1e-5)


def test_free_bits_stop_the_gradient_of_a_small_kl():
    trace = make_trace()
    trace = trace._replace(
        sites={name: site._replace(kl=tf.ones_like(site.kl)) for name, site in trace.sites.items()}
    )
    kl = {name: site.kl for name, site in trace.sites.items()}
    for free_bits, expected in [(2.5, 0.0), (1.5, -1.0)]:  # each site's KL is 2 nats
        with tf.GradientTape() as tape:
            tape.watch(kl)
            sites = {name: site._replace(kl=kl[name]) for name, site in trace.sites.items()}
            bound = bounds.elbo(trace._replace(sites=sites), free_bits=free_bits)
        for gradient in tape.gradient(bound, kl).values():
            np.testing.assert_allclose(gradient, expected / SAMPLES)


# Parts and errors
# -------------------------------------------------------------------------------------------------


def test_num_importance_has_to_divide_the_samples():
    for k in (0, -1, 2.0):
        with pytest.raises(ValueError, match=f"positive integer. Received: num_importance={k}"):
            bounds.importance_weighted(make_trace(), num_importance=k)
    with pytest.raises(ValueError, match="samples=6, num_importance=4"):
        bounds.importance_weighted(make_trace(), 4)


def test_unknown_treatment_of_classes():
    with pytest.raises(ValueError, match="classes='sideways'"):
        bounds.importance_weighted(make_trace("enumerated"), classes="sideways")


def test_log_mean_exp_is_stable():
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    expected = np.log(np.exp(values.astype(np.float64)).mean(1))
    for shift in (0.0, -1000.0, 1000.0):
        result = bounds.log_mean_exp(tf.constant(values + np.float32(shift)), axis=1)
        np.testing.assert_allclose(result - shift, expected, atol=2e-4)


@pytest.mark.parametrize(("m", "k"), GROUPINGS)
def test_normalized_weights_sum_to_one_in_each_group(m, k):
    log_w = make_trace().log_px - 500.0  # far below what exp can represent
    weights = bounds.normalized_weights(log_w, k).numpy()
    assert weights.shape == (SAMPLES, BATCH)
    np.testing.assert_allclose(weights.reshape(m, k, BATCH).sum(1), 1.0, rtol=1e-6)
    grouped = log_w.numpy().astype(np.float64).reshape(m, k, BATCH)
    expected = scipy.special.softmax(grouped, axis=1).reshape(SAMPLES, BATCH)
    np.testing.assert_allclose(weights, expected, rtol=1e-4)


def test_gradient_of_the_bound_is_the_weighted_gradient():
    """d IWAE / d log w = normalised weights, so the two agree."""
    log_w = make_trace().log_px
    with tf.GradientTape() as tape:
        tape.watch(log_w)
        bound = bounds.log_mean_exp(log_w, axis=0)
    weights = bounds.normalized_weights(log_w, SAMPLES)
    np.testing.assert_allclose(tape.gradient(bound, log_w), weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_class_of_no_probability_counts_nothing(jit_compile):
    """With q(y|.) = 1 for the second class, the bound is that of the second class alone."""
    trace = make_trace("enumerated")
    log_q = tf.constant(np.where([[0], [1], [0]], 0.0, -np.inf), tf.float32)  # [Y, 1]
    label = trace.label._replace(log_q=tf.broadcast_to(log_q, trace.label.log_q.shape))
    trace = trace._replace(label=label)
    second = tf.nest.map_structure(
        lambda t: None if t is None else t[:, 1], trace._replace(label=None)
    )
    log_p = tf.reduce_mean(trace.label.log_p[:, 1], 0)
    for bound in (bounds.elbo, bounds.importance_weighted):
        compiled = tf.function(bound, jit_compile=jit_compile, autograph=False)
        np.testing.assert_allclose(compiled(trace), bound(second) + log_p, rtol=1e-5)
    inside = bounds.importance_weighted(trace, classes="inside")
    expected = bounds.importance_weighted(make_trace("enumerated"), classes="inside")
    np.testing.assert_allclose(inside, expected, rtol=1e-6)


@pytest.mark.parametrize("class_beta", [0.0, 0.3, 1.0])
def test_a_drawn_class_adds_no_noise_where_all_classes_are_equally_good(class_beta):
    """f_y = log w_y + class_beta (log p(y) - log q(y)) is one number for all y where p(y) is q(y),
    so that no draw tells q(y) to change."""
    log_q = tf.math.log([[[0.5], [0.3]]])  # the third class has the other 0.2
    with tf.GradientTape() as tape:
        tape.watch(log_q)
        label = SampledLabel(log_q, tf.stop_gradient(log_q))
        trace = Trace({}, tf.zeros([1, 2, 1]), label)
        bound = bounds.importance_weighted(trace, class_beta=class_beta)
    np.testing.assert_allclose(bound, [0.0], atol=1e-6)
    np.testing.assert_allclose(tape.gradient(bound, log_q), np.zeros([1, 2, 1]), atol=1e-6)


def test_log_mean_exp_of_an_axis_known_later():
    values = np.random.default_rng(0).normal(size=[5, 3]).astype(np.float32)
    spec = [tf.TensorSpec([None, 3], tf.float32)]
    found = tf.function(lambda v: bounds.log_mean_exp(v, 0), input_signature=spec)(values)
    np.testing.assert_allclose(found, np.log(np.exp(values).mean(0)), rtol=1e-5)
