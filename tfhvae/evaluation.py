"""Estimates on a test set: log p(x) by importance sampling, the terms of the bound, active units.
All in nats, per example."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfhvae import bounds
from tfhvae.data import pipeline
from tfhvae.layers.folding import positive_integer
from tfhvae.models.base import stateless_seed
from tfhvae.models.parts import check_choice, mean_and_draw
from tfhvae.traces import STANDARD_NORMAL, gaussian_kl, mean_over_classes


def log_likelihood(model, x, num_samples=5000, seed=0, jit_compile=True, progress=None):
    """The importance-weighted estimate L_K of log p(x) of every example.

    Samples are streamed, so that memory does not grow with their number.

    Args:
      x: `[N, *event]`.
      num_samples: K.
      seed: of the samples.
      progress: called after each group of examples, with their number.

    Returns:
      `[N]` float64 array.

    Raises:
      ValueError: if `num_samples` is not a positive integer, or for no images, or other ones than
        the model takes.
    """
    parts = []
    for part in log_likelihood_parts(model, x, num_samples, seed, jit_compile):
        parts.append(part)
        if progress is not None:
            progress(len(part))
    return np.concatenate(parts)


def log_likelihood_parts(model, x, num_samples=5000, seed=0, jit_compile=True, start=0):
    """Yields what `log_likelihood` returns, a group of examples at a time: `[G]` float64 arrays.

    Args:
      start: examples in the groups that are known already; those after them are estimated as if
        all had been. A sum of lengths of the first groups.
    """
    num_samples = positive_integer(num_samples, "num_samples")
    x = _checked_images(model, x)
    if not model.noise_shapes:  # nothing is drawn, and log p(x) known
        num_samples = 1
    per_call = max(1, min(num_samples, model.rows_at_once // 4))
    group = max(1, model.rows_at_once // per_call)
    estimate = _streaming_estimate(model, num_samples, per_call, jit_compile)
    for first in range(start, len(x), group):
        batch = tf.constant(x[first : first + group], tf.float32)
        missing = group - len(batch)
        padded = tf.pad(
            batch, [[0, missing]] + [[0, 0]] * (batch.shape.rank - 1)
        )  # one shape, one compilation
        estimates = estimate(padded, stateless_seed(seed, first)).numpy()[: len(batch)]
        yield estimates.astype(np.float64)


def _checked_images(model, x):
    """Images as a NumPy array. Raises ValueError for none, or other ones than the model takes."""
    x = np.asarray(x)
    if not len(x):
        raise ValueError("expected one image or more. Received: none")
    model.checked_images(x[:1])
    model.check_range(x)
    return x


_SEED = tf.TensorSpec([2], tf.int32)


def _batch_of(x):
    """Of any number of images: the last batch, often smaller, needs no graph of its own."""
    return tf.TensorSpec([None, *np.shape(x)[1:]], tf.float32)


def fixed_part(count, size):
    """Indices `[size]` of a fixed part of a test set of `count` examples, the same in every run."""
    return np.sort(np.random.default_rng(0).permutation(count)[:size])


def mean_log_likelihood(elbo, log_likelihood):
    """Mean of log p(x) over N examples, where L_K is known of `fixed_part(N, n)` only, and its
    standard error over examples.

    A part of a test set is easier or harder than all of it, for the ELBO as for L_K. So the ELBO,
    known of all, takes that out (a difference estimator):

        mean over N of L_1  +  mean over the n of (L_K - L_1)

    Of all examples, n = N, this is the mean of L_K itself.

    Args:
      elbo: L_1, `[N]`.
      log_likelihood: L_K, `[n]`.

    Returns:
      Two floats, the second NaN where n is 1.
    """
    part = elbo[fixed_part(len(elbo), len(log_likelihood))]
    gap = log_likelihood - part
    mean = float(elbo.mean() + gap.mean())
    if len(gap) == 1:
        return mean, float("nan")
    covariance = np.cov(part, gap)
    variance = (elbo.var(ddof=1) + 2.0 * covariance[0, 1]) / len(elbo)
    variance += covariance[1, 1] / len(gap)
    return mean, float(np.sqrt(variance))


def _streaming_estimate(model, num_samples, per_call, jit_compile):
    """`(x [B, *event], seed) -> [B]`: log-mean-exp over `num_samples` weights, `per_call` at a
    time."""

    # Random numbers stay outside of XLA, whose generator is slow on a CPU.
    @tf.function(autograph=False, jit_compile=jit_compile)
    def log_sum_of_weights(x, noise):
        trace = model.evaluation_trace(x, noise)
        log_w = bounds.sum_over_classes(trace, bounds.log_weights(trace))
        return tf.reduce_logsumexp(log_w, 0)

    calls, rest = divmod(num_samples, per_call)

    @tf.function
    def estimate(x, seed):
        total = tf.fill([tf.shape(x)[0]], -np.inf)
        for call in tf.range(calls):
            noise = model.noise(stateless_seed(seed, call), tf.shape(x)[0], per_call)
            total = _log_add_exp(total, tf.ensure_shape(log_sum_of_weights(x, noise), total.shape))
        if rest:
            noise = model.noise(stateless_seed(seed, calls), tf.shape(x)[0], rest)
            total = _log_add_exp(total, log_sum_of_weights(x, noise))
        return total - np.log(num_samples).astype(np.float32)

    return estimate


def _log_add_exp(a, b):
    return tf.reduce_logsumexp(tf.stack([a, b]), 0)


def bound_terms(model, x, num_samples=10, seed=0, batch_size=None, progress=None):
    """The terms of the bound at beta = 1, averaged over `num_samples` draws, for every example.

    Args:
      x: `[N, *event]`.
      batch_size: of the images; by default, such that images times samples fit the model's
        `rows_at_once`, and 200 at most.
      progress: called after each batch, with its number of examples.

    Returns:
      float64 arrays, averaged over draws, in nats:
        "elbo", "log_px", "kl/<site>": `[N]`; "kl/y" too, of models with classes.
        "importance_weighted": `[N]`, L_K of the same draws, K = `num_samples`; classes are summed
          inside its logarithm.
        "kl_standard/<site>": `[N]`, KL(q(z|.) || N(0, I)) of the posterior Gaussian (Sønderby et
          al. 2016a, Fig. 6a).
        "unit_kl/<site>": `[units]`, KL(q || p) per unit, also averaged over examples.
        "q_mean/<site>": `[N, units]`.
        "q_mean_noise/<site>": `[units]`, the variance that q_mean has from the draws of the layers
          it depends on, averaged over examples; 0 of one draw, which does not tell.
        "information/<site>": `[N]`, an upper bound on the mutual information I(z; v|x) of z and
          what q draws before it, v (other layers, an auxiliary variable, the class): z of the same
          mean and variance per unit, if it were Gaussian, would have that much. Of one draw of v,
          which does not tell, 0 but for the class.

    Raises:
      ValueError: if `num_samples` is not a positive integer, or for no images, or other ones than
        the model takes.
    """
    num_samples = positive_integer(num_samples, "num_samples")
    x = _checked_images(model, x)
    batch_size = batch_size or max(1, min(200, model.rows_at_once // num_samples))

    @tf.function(autograph=False, input_signature=[_batch_of(x), _SEED])
    def terms(x, seed):
        trace = model.evaluation_trace(x, model.noise(seed, tf.shape(x)[0], num_samples))

        def mean(values):  # over q(y|.), where there is a class, and over samples
            return tf.reduce_mean(mean_over_classes(trace, values), 0)

        log_w = bounds.sum_over_classes(trace, bounds.log_weights(trace))
        result = {
            "log_px": mean(trace.log_px),
            "importance_weighted": bounds.log_mean_exp(log_w, axis=0),
        }
        for name, site in trace.sites.items():
            result[f"kl/{name}"] = mean(tf.reduce_sum(site.kl, -1))
            kl_standard = gaussian_kl((site.q_mean, site.q_scale), STANDARD_NORMAL)
            result[f"kl_standard/{name}"] = mean(tf.reduce_sum(kl_standard, -1))
            result[f"unit_kl/{name}"] = tf.reduce_sum(mean(site.kl), 0)
            result[f"q_mean/{name}"] = mean(site.q_mean)
            by_draw = tf.math.reduce_variance(mean_over_classes(trace, site.q_mean), 0)
            noise = by_draw / max(num_samples - 1, 1)  # unbiased, of the mean
            result[f"q_mean_noise/{name}"] = tf.reduce_sum(noise, 0)
            within = tf.square(site.q_scale)
            between = tf.square(site.q_mean - result[f"q_mean/{name}"])  # and `noise`: unbiased
            log_ratio = tf.math.log(mean(within + between) + noise) - mean(tf.math.log(within))
            result[f"information/{name}"] = 0.5 * tf.reduce_sum(log_ratio, -1)
        latent = list(trace.sites)
        if trace.label is not None:
            result["kl/y"] = mean(trace.label.log_q - trace.label.log_p)
            latent.append("y")
        # defined as the sum of its terms, so that the decomposition adds up where the KL is
        # analytic
        result["elbo"] = result["log_px"] - sum(result[f"kl/{name}"] for name in latent)
        return result

    parts = []
    for i in range(0, len(x), batch_size):
        batch = tf.constant(x[i : i + batch_size], tf.float32)
        tensors = terms(batch, stateless_seed(seed, i))
        parts.append({name: t.numpy().astype(np.float64) for name, t in tensors.items()})
        if progress is not None:
            progress(len(batch))

    def joined(name):
        values = [part[name] for part in parts]
        is_sum = name.startswith(("unit_kl/", "q_mean_noise/"))
        return sum(values) / len(x) if is_sum else np.concatenate(values)

    return {name: joined(name) for name in parts[0]}


def variance_of_means(terms, site):
    """Var_x E_q[z|x] of every unit of a site, `[units]`, by which Burda et al. 2016 (section 5)
    count active ones; from `bound_terms`, without what their finite number of draws adds."""
    return terms[f"q_mean/{site}"].var(0) - terms.get(f"q_mean_noise/{site}", 0.0)


def classify(model, x, num_samples=100, seed=0, batch_size=None, **options):
    """Class probabilities of every image, averaged over `num_samples` draws of what the classifier
    draws: `[N, Y]` float64 array. `options` go to `model.classify`.

    Args:
      batch_size: of the images; by default, such that images times samples times classes fit the
        model's `rows_at_once`, and 200 at most.

    Raises:
      ValueError: if `num_samples` is not a positive integer, or for no images, or other ones than
        the model takes, or a model without classes.
    """
    num_samples = positive_integer(num_samples, "num_samples")
    if not hasattr(model, "classify"):
        raise ValueError(f"expected a model with classes. Received: {type(model).__name__}")
    x = _checked_images(model, x)
    rows = num_samples * model.num_classes
    batch_size = batch_size or max(1, min(200, model.rows_at_once // rows))

    @tf.function(autograph=False, input_signature=[_batch_of(x), _SEED])
    def probabilities(x, seed):
        return model.classify(x, num_samples, seed, **options)

    return np.concatenate(
        [
            probabilities(tf.constant(x[i : i + batch_size], tf.float32), stateless_seed(seed, i))
            .numpy()
            .astype(np.float64)
            for i in range(0, len(x), batch_size)
        ]
    )


def posterior_means(model, images, binarization=None, seed=0):
    """Means of q, of all sites of a model side by side, given one draw of what q draws before; where
    there are classes, averaged over q(y|.).

    Args:
      images: `[N, *event]`.
      binarization: None, or of the images, whose pixels are then drawn once.
      seed: of these draws.

    Returns:
      `[N, units]`.
    """

    @tf.function(autograph=False, input_signature=[_batch_of(images)])
    def means(batch):
        trace = model.evaluation_trace(batch, model.noise(0, tf.shape(batch)[0]))
        return tf.concat(
            [mean_over_classes(trace, site.q_mean)[0] for site in trace.sites.values()], -1
        )

    parts = []
    for i in range(0, len(images), 1000):
        batch = tf.constant(images[i : i + 1000], tf.float32)
        if binarization is not None:
            batch = pipeline.binarize(batch, stateless_seed(seed, i))
        parts.append(means(batch).numpy())
    return np.concatenate(parts)


def classify_latents(
    model, x_train, labelled, y, x, num_classes, classifier="svm", binarization=None, seed=0
):
    """Classifies images by their posterior means, as M1 does (Kingma et al. 2014).

    The means are taken as they are: the prior gives all units one scale, and to standardise
    inactive ones would make noise of them.

    Args:
      x_train: `[N_train, *event]`.
      labelled: integers `[L]`, which of them are labelled.
      y: integers `[L]`, their classes.
      x: `[N, *event]`, the images to classify.
      classifier: "svm", a support vector machine with a Gaussian kernel, which sees labelled images
        only (at least two of every class) and has C and the kernel's width from cross-validation
        within them; or "label_spreading" (Zhou et al., Learning with local and global consistency,
        2004) with alpha = 0.99, over scikit-learn's graph of the 7 nearest neighbours of all
        training images, each its own nearest one.
      binarization: None, or of the training images, whose pixels are then drawn once, as those of
        `x` were.
      seed: of these draws.

    Returns:
      `[N, num_classes]`: ones and zeros, or probabilities.
    """
    check_choice("classifier", classifier, ("svm", "label_spreading"))

    z = posterior_means(model, x)
    if classifier == "label_spreading":
        z_train = posterior_means(model, x_train, binarization, seed)
        return _spread_labels(z_train, labelled, y, z, num_classes)
    z_labelled = posterior_means(model, x_train[labelled], binarization, seed)
    return np.eye(num_classes)[_fit_svm(z_labelled, y).predict(z)]


def _spread_labels(z_train, labelled, y, z, num_classes):
    from sklearn.semi_supervised import LabelSpreading

    targets = np.full(len(z_train), -1)
    targets[labelled] = y
    neighbours = min(7, len(z_train))
    spreading = LabelSpreading("knn", n_neighbors=neighbours, alpha=0.99, max_iter=2000)
    with np.errstate(invalid="ignore"):  # 0 / 0 where no label has come, which is mended below
        spreading.fit(z_train, targets)
        probabilities = np.zeros([len(z), num_classes])
        probabilities[:, spreading.classes_] = spreading.predict_proba(z)
    unreached = ~np.isfinite(probabilities).all(-1)
    probabilities[unreached] = 1.0 / num_classes
    return probabilities


def _fit_svm(z, y):
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    folds = min(5, np.unique(y, return_counts=True)[1].min())
    if folds < 2:
        raise ValueError(
            "expected at least two labelled images of every class for cross-validation"
        )
    grid = {"C": np.logspace(-1, 3, 5), "gamma": np.logspace(-4, 0, 9)}
    return GridSearchCV(SVC(), grid, cv=int(folds)).fit(z, y)


class GibbsChain(NamedTuple):
    """Images of Gibbs chains, the state after every step."""

    sample: np.ndarray  # [T, N, *event]  x ~ p(x|z), the states unless means are passed on
    mean: np.ndarray  # [T, N, *event]  means of p(x|z), which pictures show


def gibbs_chain(model, x, num_steps=100, seed=0, pass_means=False):
    """Runs N Gibbs chains on the image and what it is generated from,

        z^(t) ~ q(z|x^(t)),    x^(t+1) ~ p(x|z^(t))

    (Zhao et al. 2017, Eq. 6). In a hierarchy where p(x|z1) needs only z1 the chain lives on the
    bottom layer alone, whatever lies above it; where x depends on all layers, it is that of their
    Eq. 16. With the exact posterior as q, its stationary distribution is the model's p(x).

    Args:
      model: any without classes.
      x: `[N, *event]`, where the chains begin.
      num_steps: T.
      seed: of every draw.
      pass_means: whether the next step starts from the mean of p(x|z^(t)) in place of a draw. This
        is no Gibbs chain of the model; but draws of a Gaussian p(x|z) have noise in all pixels,
        which no image of the data has and no q was trained on.

    Returns:
      A `GibbsChain` of T steps; the state before the first one is not in it.

    Raises:
      ValueError: for a model with classes or without latent variables, without a step, or to pass
        on the means of an autoregressive p(x|z).
    """
    if hasattr(model, "class_log_probs"):
        raise ValueError(
            f"expected a model without classes for a Gibbs chain. Received: {type(model).__name__}"
        )
    if not model.noise_shapes:
        raise ValueError(
            "expected a model with latent variables for a Gibbs chain. Received: "
            f"{type(model).__name__}"
        )
    if pass_means and model.is_autoregressive:
        raise ValueError(
            "expected pass_means=False: the pixels of an autoregressive p(x|z) have no means "
            "without those before them"
        )
    if num_steps < 1:
        raise ValueError(f"expected num_steps >= 1. Received: num_steps={num_steps}")

    @tf.function(autograph=False)
    def step(x, seed):
        trace = model.trace(x, noise=model.noise(stateless_seed(seed, 0), tf.shape(x)[0]))
        p = model.decode({name: site.value[0] for name, site in trace.sites.items()})
        mean, draw = mean_and_draw(p, stateless_seed(seed, 1))
        return draw, mean

    x, states = tf.constant(x, tf.float32), []
    for t in range(num_steps):
        x, mean = step(x, stateless_seed(seed, tf.constant(t)))
        states.append((x.numpy(), mean.numpy()))
        x = mean if pass_means else x
    return GibbsChain(*(np.stack(values) for values in zip(*states)))


def mean_and_standard_error(values):
    """Mean and its standard error over examples."""
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return float(values.mean()), float(error)
