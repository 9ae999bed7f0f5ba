"""Distributions equal TFP's and SciPy's, in float32 against float64."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from tfhvae.distributions import Bernoulli, DiscretizedLogistic, GaussianMixture
from tfhvae.models.parts import image_distribution

tfd = tfp.distributions


def mixture_twin(loc, scale, logits=None):
    """TFP's mixture with the same components, in float64."""
    loc, scale = np.float64(loc), np.float64(scale)
    logits = np.zeros(len(loc)) if logits is None else np.float64(logits)
    return tfd.MixtureSameFamily(
        tfd.Categorical(logits=logits), tfd.MultivariateNormalDiag(loc, scale)
    )


# Gaussian mixture
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("lead", [(), (7,), (3, 7)])
def test_mixture_log_prob(weighted, lead):
    rng = np.random.default_rng(0)
    loc, scale = rng.normal(size=(5, 4)), rng.uniform(0.3, 2.0, (5, 4))
    logits = rng.normal(size=5) if weighted else None
    value = rng.normal(size=(*lead, 4)) * 2
    ours = GaussianMixture(
        *(None if v is None else tf.constant(v, tf.float32) for v in (loc, scale, logits))
    )
    log_prob = ours.log_prob(tf.constant(value, tf.float32))
    assert log_prob.shape == lead
    expected = mixture_twin(loc, scale, logits).log_prob(value)
    np.testing.assert_allclose(log_prob, expected, atol=5e-5)
    components = tf.reduce_logsumexp(ours.component_log_prob(tf.constant(value, tf.float32)), -1)
    np.testing.assert_allclose(components, expected, atol=5e-5)


def test_mixture_in_the_regime_of_a_trained_vampprior():
    """40 units, 500 components, means within 3, scales down to exp(-3), values drawn from it.

    The expanded square is off by at most 1e-3 nats of float64 (found), and by 6e-6 on average,
    which is what a bound over a data set sees.
    """
    rng = np.random.default_rng(0)
    loc = rng.normal(size=(500, 40)).astype(np.float32)
    scale = np.exp(rng.uniform(-3.0, 0.0, (500, 40))).astype(np.float32)
    component = rng.integers(0, 500, 300)
    value = (loc[component] + scale[component] * rng.normal(size=(300, 40))).astype(np.float32)
    log_prob = GaussianMixture(loc, scale).log_prob(value).numpy()
    error = log_prob - mixture_twin(loc, scale).log_prob(np.float64(value)).numpy()
    assert np.abs(error).max() < 3e-3
    assert abs(error.mean()) < 1e-4


def test_mixture_log_prob_is_exact_in_float64():
    rng = np.random.default_rng(0)
    loc, scale = rng.normal(size=(50, 40)), np.exp(rng.uniform(-3.0, 0.0, (50, 40)))
    value = loc[:20] + scale[:20] * rng.normal(size=(20, 40))
    ours = GaussianMixture(loc, scale)
    np.testing.assert_allclose(
        ours.log_prob(value), mixture_twin(loc, scale).log_prob(value), rtol=1e-9
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_mixture_samples(weighted):
    """Frequencies and moments of 40,000 draws within 5 standard errors; 14 comparisons, false alarm
    8e-6."""
    rng, n = np.random.default_rng(1), 40_000
    # three components that do not overlap
    loc = np.array([[-20.0, 0.0], [0.0, 1.0], [20.0, -2.0]], np.float32)
    scale = rng.uniform(0.5, 2.0, (3, 2)).astype(np.float32)
    logits = np.array([0.5, -0.5, 0.0], np.float32) if weighted else None
    ours = GaussianMixture(loc, scale, logits)
    x = ours.sample(n, seed=[3, 4]).numpy()
    assert x.shape == (n, 2)
    np.testing.assert_array_equal(x, ours.sample(n, seed=[3, 4]))
    member = np.abs(x[:, :1] - loc[:, 0]).argmin(1)
    weights = scipy.special.softmax(np.zeros(3) if logits is None else logits)
    frequency_error = np.sqrt(weights * (1 - weights) / n)
    frequencies = np.bincount(member, minlength=3) / n
    np.testing.assert_array_less(np.abs(frequencies - weights), 5 * frequency_error)
    for c in range(3):
        mine = (x[member == c] - loc[c]) / scale[c]
        np.testing.assert_array_less(np.abs(mine.mean(0)), 5 / np.sqrt(len(mine)))
        np.testing.assert_array_less(np.abs(mine.var(0) - 1), 5 * np.sqrt(2 / len(mine)))
    np.testing.assert_allclose(ours.mean(), weights @ loc, rtol=1e-5, atol=1e-5)


def test_mixture_shapes():
    ours = GaussianMixture(tf.zeros([5, 4]), tf.ones([5, 4]))
    assert ours.batch_shape == [] and ours.event_shape == [4] and ours.num_components == 5
    assert ours.sample(seed=0).shape == [4]
    assert ours.sample([2, 3], seed=0).shape == [2, 3, 4]


@pytest.mark.parametrize(("loc", "scale"), [((4,), (4,)), ((5, 4), (5, 3)), ((2, 5, 4), (2, 5, 4))])
def test_mixture_refuses_other_shapes(loc, scale):
    with pytest.raises(ValueError, match="one shape"):
        GaussianMixture(tf.zeros(loc), tf.ones(scale))


# Pixels
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event_rank", [0, 1, 2, 3])
def test_pixel_shapes(event_rank):
    parameter = tf.zeros([3, 2, 4])
    batch, event = parameter.shape[: 3 - event_rank], parameter.shape[3 - event_rank :]
    for p in (
        Bernoulli(parameter, event_rank=event_rank),
        DiscretizedLogistic(parameter, parameter, event_rank=event_rank),
    ):
        assert p.batch_shape == batch and p.event_shape == event
        assert p.log_prob(parameter).shape == batch
        assert p.log_prob(tf.zeros([6, 3, 2, 4])).shape == [6, *batch]
        assert p.sample([5, 6], seed=0).shape == [5, 6, 3, 2, 4]
        assert p.mean().shape == [3, 2, 4]


@pytest.mark.parametrize("event_rank", [-1, 3])
def test_event_rank_is_checked(event_rank):
    for make in (Bernoulli, lambda p, **kw: DiscretizedLogistic(p, p, **kw)):
        with pytest.raises(ValueError, match=f"event_rank={event_rank}"):
            make(tf.zeros([2, 4]), event_rank=event_rank)


def test_bernoulli_log_prob():
    rng = np.random.default_rng(0)
    logits = tf.constant(rng.normal(size=(6, 20)) * 5, tf.float32)
    x = tf.constant(rng.integers(0, 2, (6, 20)), tf.float32)
    twin = tfd.Independent(tfd.Bernoulli(logits=tf.cast(logits, tf.float64), dtype=tf.float64), 1)
    ours = Bernoulli(logits)
    np.testing.assert_allclose(ours.log_prob(x), twin.log_prob(tf.cast(x, tf.float64)), rtol=2e-5)
    np.testing.assert_allclose(ours.mean(), twin.mean(), rtol=1e-5)
    np.testing.assert_array_equal(ours.mode(), twin.mode())


def test_bernoulli_of_grey_values_is_the_cross_entropy():
    rng = np.random.default_rng(0)
    logits, x = rng.normal(size=(6, 20)) * 3, rng.uniform(size=(6, 20))
    mean = scipy.special.expit(logits)
    expected = (x * np.log(mean) + (1 - x) * np.log1p(-mean)).sum(-1)
    ours = Bernoulli(tf.constant(logits, tf.float32)).log_prob(tf.constant(x, tf.float32))
    np.testing.assert_allclose(ours, expected, rtol=2e-5)


def test_bernoulli_with_clipped_means():
    """A limit of 11.512915 on the logits is a mean in [1e-5, 1 - 1e-5], as the authors clip it."""
    logits = np.array([-80.0, -12.0, -3.0, 0.0, 11.0, 12.0, 80.0])[:, np.newaxis]
    mean = np.clip(scipy.special.expit(logits), 1e-5, 1 - 1e-5)
    for x in (0.0, 1.0):
        ours = Bernoulli(tf.constant(logits, tf.float32), logit_limit=11.512915)
        expected = x * np.log(mean) + (1 - x) * np.log1p(-mean)
        np.testing.assert_allclose(
            ours.log_prob(tf.fill([7, 1], x)), expected[:, 0], rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(ours.mean(), mean, rtol=1e-5)
    unlimited = Bernoulli(tf.constant(logits, tf.float32)).log_prob(tf.ones([7, 1]))
    np.testing.assert_allclose(unlimited[0], -80.0, rtol=1e-6)
    for limit in (0.0, -1.0):
        with pytest.raises(ValueError, match=f"a positive logit_limit. Received: {limit}"):
            Bernoulli([0.0], logit_limit=limit)


def test_bernoulli_samples():
    """Frequencies of 40,000 draws within 5 standard errors: 4 comparisons, false alarm 2e-6."""
    logits = tf.constant([-2.0, -0.5, 0.3, 3.0])
    x = Bernoulli(logits).sample(40_000, seed=[1, 2]).numpy()
    mean = scipy.special.expit(np.float64(logits))
    assert set(np.unique(x)) == {0.0, 1.0}
    error = np.sqrt(mean * (1 - mean) / len(x))
    np.testing.assert_array_less(np.abs(x.mean(0) - mean), 5 * error)
    # pixels are independent of each other
    correlation = np.corrcoef(x.T)[np.triu_indices(4, 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(len(x))


# Discretised logistic
# -------------------------------------------------------------------------------------------------

LEVELS = (np.arange(256) + 0.5) / 256  # a value inside each bin
LOCATIONS = np.array([1 / 512, 0.1, 0.5, 0.77, 1 - 1 / 512])
LOG_SCALES = np.array([-4.5, -3.0, -1.0, 0.0])


def all_bins(loc, log_scale, **kwargs):
    """log mass of every bin, `[256, *loc.shape]`."""
    p = DiscretizedLogistic(
        tf.constant(loc, tf.float32), tf.constant(log_scale, tf.float32), event_rank=0, **kwargs
    )
    x = np.broadcast_to(LEVELS.reshape([-1] + [1] * np.ndim(loc)), (256, *np.shape(loc)))
    return p.log_prob(tf.constant(x, tf.float32)).numpy()


def grid():
    return np.meshgrid(np.float32(LOCATIONS).astype(np.float64), LOG_SCALES)


def test_logistic_masses_sum_to_one():
    loc, log_scale = grid()
    mass = np.exp(all_bins(loc, log_scale).astype(np.float64))
    np.testing.assert_allclose(mass.sum(0), 1.0, atol=2e-5)


def test_logistic_masses_are_differences_of_the_distribution_function():
    loc, log_scale = grid()
    logistic = scipy.stats.logistic(loc, np.exp(log_scale))
    edges = np.arange(257).reshape(-1, 1, 1) / 256
    lower, upper = logistic.cdf(edges[:-1]), logistic.cdf(edges[1:])
    # from the side where the mass is, or float64 cancels too
    mass = np.where(
        edges[:-1] > loc, logistic.sf(edges[:-1]) - logistic.sf(edges[1:]), upper - lower
    )
    np.testing.assert_allclose(
        all_bins(loc, log_scale, open_tails=False), np.log(mass), rtol=2e-5, atol=2e-4
    )
    mass[0], mass[-1] = upper[0], logistic.sf(255 / 256)
    np.testing.assert_allclose(all_bins(loc, log_scale), np.log(mass), rtol=2e-5, atol=2e-4)


def test_logistic_of_the_authors():
    """log(sigmoid((x + 1/256 - mu)/s) - sigmoid((x - mu)/s) + 1e-7), x snapped to floor(256 x)/256."""
    rng = np.random.default_rng(0)
    x = np.float32(rng.uniform(0.0, 255.9 / 256, (50, 30))).astype(np.float64)
    loc = np.float32(rng.uniform(1 / 512, 1 - 1 / 512, (50, 30))).astype(np.float64)
    log_scale = rng.uniform(-4.5, 0.0, (50, 30))
    snapped, scale = np.floor(x * 256) / 256, np.exp(log_scale)
    mass = scipy.special.expit((snapped + 1 / 256 - loc) / scale) - scipy.special.expit(
        (snapped - loc) / scale
    )
    arguments = (tf.constant(v, tf.float32) for v in (loc, log_scale))
    ours = DiscretizedLogistic(*arguments, open_tails=False, offset=1e-7)
    np.testing.assert_allclose(
        ours.log_prob(tf.constant(x, tf.float32)), np.log(mass + 1e-7).sum(-1), rtol=1e-5
    )


def test_logistic_counts_values_by_their_bin():
    p = DiscretizedLogistic(tf.fill([1], 0.4), tf.fill([1], -3.0))
    for low, inside in [(0.0, 0.9 / 256), (100 / 256, 100.99 / 256), (255 / 256, 1.0)]:
        assert float(p.log_prob([low])) == float(p.log_prob([inside]))
    assert float(p.log_prob([100 / 256])) != float(p.log_prob([101 / 256]))


@pytest.mark.parametrize(
    "kwargs", [{}, {"open_tails": False}, {"open_tails": False, "offset": 1e-7}]
)
def test_logistic_stays_finite(kwargs):
    """Far from the mean and at the sharpest scale, value and gradients are finite."""
    loc, log_scale = tf.meshgrid([-50.0, -1.0, 0.0, 0.5, 1.0, 3.0, 50.0], [-4.5, -2.0, 0.0, 3.0])
    for x in (0.0, 0.5, 1.0):
        with tf.GradientTape() as tape:
            tape.watch((loc, log_scale))
            p = DiscretizedLogistic(loc, log_scale, event_rank=0, **kwargs)
            log_prob = p.log_prob(tf.fill(loc.shape, x))
        for value in (log_prob, *tape.gradient(log_prob, (loc, log_scale))):
            assert np.isfinite(value).all()
    # far away the log-mass falls by 1/s per unit, without saturating
    if not kwargs:
        far = DiscretizedLogistic(tf.constant([-50.0, -51.0]), tf.fill([2], -4.5), event_rank=0)
        log_mass = far.log_prob([0.5, 0.5])
        np.testing.assert_allclose(log_mass[0] - log_mass[1], np.exp(4.5), rtol=1e-4)


def test_logistic_samples():
    """Chi-squared over 16 groups of bins, three parameters, p-value above 1e-6 in each."""
    loc, log_scale = np.array([0.02, 0.5, 0.9]), np.array([-3.0, -2.0, -2.5])
    p = DiscretizedLogistic(tf.constant(loc, tf.float32), tf.constant(log_scale, tf.float32))
    x = p.sample(20_000, seed=[5, 6]).numpy()
    np.testing.assert_allclose(x * 256 - 0.5, np.round(x * 256 - 0.5), atol=1e-4)
    assert x.min() > 0 and x.max() < 1
    level = np.floor(x * 256).astype(int)
    mass = np.exp(all_bins(loc, log_scale).astype(np.float64))
    for i in range(3):
        # groups of about equal mass, each with hundreds of draws; tails are not interpolated
        edges = np.searchsorted(np.cumsum(mass[:, i]), np.linspace(0, 1, 17)[1:-1])
        group = np.searchsorted(edges, np.arange(256), side="left")
        expected = np.bincount(group, mass[:, i]) * len(x)
        observed = np.bincount(group[level[:, i]], minlength=len(expected))
        keep = expected > 0
        assert expected[keep].min() > 100
        expected = expected[keep] * len(x) / expected[keep].sum()
        assert scipy.stats.chisquare(observed[keep], expected).pvalue > 1e-6


# Gaussian pixels
# -------------------------------------------------------------------------------------------------


def test_gaussian_pixels_are_those_of_scipy():
    """Mean linear, variance softplus + 1e-5; a density, summed over an image's pixels and colours."""
    rng = np.random.default_rng(3)
    x, parameters = rng.uniform(size=(4, 3, 2, 3)), 3 * rng.normal(size=(5, 4, 3, 2, 6))
    p = image_distribution(tf.constant(parameters, tf.float32), "gaussian")
    loc, a = np.split(np.float32(parameters).astype(np.float64), 2, axis=-1)
    scale = np.sqrt(np.logaddexp(0, a) + 1e-5)
    expected = scipy.stats.norm.logpdf(np.float32(x), loc, scale).sum((-3, -2, -1))
    assert p.event_shape == [3, 2, 3] and p.batch_shape == [5, 4]
    np.testing.assert_allclose(p.log_prob(tf.constant(x, tf.float32)), expected, rtol=1e-5)
    np.testing.assert_allclose(p.mean(), loc, rtol=1e-6)
    np.testing.assert_allclose(p.stddev(), scale, rtol=1e-5)


@pytest.mark.parametrize("grey_value", [0.0, 0.5, 1.0])
def test_gaussian_pixels_of_constant_images(grey_value):
    """A mean that equals every pixel drives the variance to its least value: density and gradients
    stay finite there, and the density is that of a scale of sqrt(1e-5)."""
    a = np.array([-1000, -100, -20, 0, 1000], np.float32)
    for distance in (0.0, 1e-3, 10.0):
        loc = np.full_like(a, grey_value + distance)
        parameters = tf.constant(np.stack([loc, a], -1).reshape(1, 5, 1, 2))
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            log_prob = image_distribution(parameters, "gaussian").log_prob(
                tf.fill([1, 5, 1, 1], grey_value)
            )
        gradient = tape.gradient(log_prob, parameters)
        assert np.isfinite(log_prob).all() and np.isfinite(gradient).all()
    narrow = image_distribution(tf.constant([[[grey_value, -1000.0]]]), "gaussian")
    expected = scipy.stats.norm.logpdf(0.0, 0.0, np.sqrt(1e-5))
    np.testing.assert_allclose(narrow.log_prob(tf.fill([1, 1, 1], grey_value)), expected, rtol=1e-6)


def test_discretized_logistic_broadcasts_its_parameters():
    loc, log_scale = tf.constant([0.2, 0.5, 0.7]), tf.reshape(tf.linspace(-4.0, -2.0, 6), [2, 3])
    p = DiscretizedLogistic(loc, log_scale)
    assert p.batch_shape == (2,) and p.sample(4, seed=0).shape == (4, 2, 3)
    x = p.sample(seed=1)
    whole = DiscretizedLogistic(tf.broadcast_to(loc, [2, 3]), log_scale)
    np.testing.assert_array_equal(p.log_prob(x), whole.log_prob(x))
    turned = DiscretizedLogistic(log_scale, loc)  # the other way round
    assert turned.batch_shape == (2,) and turned.log_prob(x).shape == (2,)
