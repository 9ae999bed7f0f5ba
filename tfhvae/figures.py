"""Pictures of a model: what it generates, reconstructs and has learned, ready for a file or for
TensorBoard."""

import numpy as np
import tensorflow as tf

from tfhvae import plotting
from tfhvae.models.base import stateless_seed

_SHEET = 64  # images on a sheet


def samples(model, seed):
    """A sheet of means of p(x|z), z drawn from the prior."""
    return plotting.image_grid(
        model.generate(_SHEET, seed=stateless_seed(seed, 0)).mean.numpy(),
        title="samples from the prior (means)",
    )


def reconstructions(model, x, seed, count=30, title="test images and their reconstructions"):
    """Images above their reconstructions. `x`: `[N, *event]`."""
    x = x[:count]
    return plotting.reconstructions(x, _reconstruct(model, x, seed).numpy(), title=title)


def pseudo_inputs(model):
    """The learned pseudo-inputs of a VampPrior."""
    return plotting.pseudo_inputs(model.prior.pseudo_inputs.numpy()[:100], title="pseudo-inputs")


def pseudo_input_samples(model, seed, count=8):
    """For some pseudo-inputs, images generated from q(z|u): each row is one pseudo-input and draws
    from it."""
    u = model.prior.pseudo_inputs[:count]
    top = next(iter(model.noise_shapes))
    draws = model.trace(u, noise=model.noise(stateless_seed(seed, 1), count, 9)).sites[top].value
    z = tf.reshape(tf.transpose(draws, [1, 0, 2]), [count * 9, -1])
    images = model.generate(latents={top: z}, seed=stateless_seed(seed, 2)).mean
    rows = tf.concat([u[:, tf.newaxis], tf.reshape(images, [count, 9, *model.event_shape])], 1)
    return plotting.image_grid(
        tf.reshape(rows, [-1, *model.event_shape]).numpy(),
        columns=10,
        title="pseudo-inputs (left) and samples from each",
    )


def interpolations(model, x, seed, rows=6, steps=9):
    """Decoded straight lines between the posterior means of pairs of test images."""
    top = next(iter(model.noise_shapes))
    trace = model.trace(
        x[: 2 * rows], noise=model.noise(stateless_seed(seed, 3), min(len(x), 2 * rows))
    )
    ends = trace.sites[top].q_mean[0]
    rows = len(ends) // 2
    weight = tf.reshape(tf.linspace(0.0, 1.0, steps), [1, steps, 1])
    z = (1.0 - weight) * ends[0 : 2 * rows : 2, tf.newaxis] + weight * ends[
        1 : 2 * rows : 2, tf.newaxis
    ]
    images = model.generate(
        latents={top: tf.reshape(z, [rows * steps, -1])}, seed=stateless_seed(seed, 4)
    ).mean
    return plotting.interpolations(
        tf.reshape(images, [rows, steps, *model.event_shape]).numpy(),
        title=f"interpolations between test images in {top}",
    )


def training_pictures(model, x, seed):
    """`{name: [H, W, 3] uint8}` for TensorBoard: the same seed every time, so that one sees the
    same draws improve."""
    figures = {
        "samples": samples(model, seed),
        "reconstructions": reconstructions(
            model, x, seed, title="held-out images and their reconstructions"
        ),
    }
    if _has_pseudo_inputs(model):
        figures["pseudo_inputs"] = pseudo_inputs(model)
    return {name: plotting.to_rgb_array(figure) for name, figure in figures.items()}


def all_figures(model, dataset, state, seed, evaluation=None, published=None):
    """`{file name: Figure}`, every figure of a run.

    Args:
      state: the run's `RunState`.
      evaluation: arrays as written by an evaluation, or None where there was none.
      published: log-likelihood to mark beside ours, or None.
    """
    test = dataset.test.images
    figures = {
        "samples": samples(model, seed),
        "reconstructions": reconstructions(model, test, seed),
        "interpolations": interpolations(model, test, seed),
        "training_curves": plotting.training_curves(
            state.columns(), title=f"{model.name} on {dataset.name}"
        ),
        "kl_per_unit": plotting.unit_kl_over_time(state.unit_kl),
    }
    if _has_pseudo_inputs(model):
        figures["pseudo_inputs"] = pseudo_inputs(model)
        figures["pseudo_input_samples"] = pseudo_input_samples(
            model, seed, count=min(8, model.prior.pseudo_inputs.shape[0])
        )
    if evaluation is not None:
        sites = [name.removeprefix("q_mean/") for name in evaluation if name.startswith("q_mean/")]
        figures["latent_pca"] = plotting.latent_pca(
            {site: evaluation[f"q_mean/{site}"] for site in sites},
            dataset.test.labels,
            dataset.class_names,
        )
        figures["active_units"] = plotting.active_units(
            {site: evaluation[f"q_mean/{site}"].var(0) for site in sites}
        )
        figures["log_likelihood"] = plotting.log_likelihood_histogram(
            evaluation["log_likelihood"], reference=published
        )
        figures["bound_decomposition"] = plotting.bound_decomposition(
            float(evaluation["log_px"].mean()),
            {site: float(evaluation[f"kl/{site}"].mean()) for site in sites},
            float(evaluation["log_likelihood"].mean()),
        )
    return figures


def _has_pseudo_inputs(model):
    return getattr(getattr(model, "prior", None), "kind", None) == "vampprior"


def _reconstruct(model, x, seed):
    x = np.asarray(x)
    trace = model.trace(x, noise=model.noise(stateless_seed(seed, 5), len(x)))
    return model.decode({name: site.value[0] for name, site in trace.sites.items()}).mean()
