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
        _shown(model.generate(_SHEET, seed=stateless_seed(seed, 0)).mean),
        title="samples from the prior (means)",
    )


def reconstructions(model, x, seed, count=30, title="test images and their reconstructions"):
    """Images above their reconstructions. `x`: `[N, *event]`."""
    x = x[:count]
    return plotting.reconstructions(_shown(x), _shown(_reconstruct(model, x, seed)), title=title)


def reconstructions_by_layer(model, x, seed, count=10):
    """Test images; below, for every layer from the top down, images generated from draws of q at
    that layer and those above it, the layers below drawn from p. The last row is the usual
    reconstruction. `x`: `[N, *event]`."""
    x = np.asarray(x[:count])
    trace = model.trace(x, noise=model.noise(stateless_seed(seed, 6), len(x)))
    rows, latents = [x], {}
    for index, site in enumerate(model.generation_order):
        latents[site] = trace.sites[site].value[0]
        rows.append(model.generate(latents=latents, seed=stateless_seed(seed, 7, index)).mean)
    return plotting.labelled_rows(
        np.stack([_shown(row) for row in rows]),
        ["test images", *(f"from {site}" for site in model.generation_order)],
        title="reconstructions from each layer down",
        num_headers=1,
    )


def injected_samples(model, seed, count=10):
    """For every layer from the top down, images generated from z ~ N(0, I) in place of z ~ p(z|.)
    at that layer, the layers below drawn from p (Sønderby et al. 2016a, Fig. 6b)."""
    rows = []
    for index, site in enumerate(model.generation_order):
        z = model.noise(stateless_seed(seed, 8, index), count)[site][0]
        rows.append(model.generate(latents={site: z}, seed=stateless_seed(seed, 9, index)).mean)
    return plotting.labelled_rows(
        np.stack([_shown(row) for row in rows]),
        [f"{site} ~ N(0, I)" for site in model.generation_order],
        title="samples with one layer injected",
    )


def pseudo_inputs(model):
    """The learned pseudo-inputs of a VampPrior."""
    return plotting.pseudo_inputs(model.prior.pseudo_inputs.numpy()[:100], title="pseudo-inputs")


def pseudo_input_samples(model, seed, count=8):
    """For some pseudo-inputs, images generated from q(z|u): each row is one pseudo-input and draws
    from it."""
    u = model.prior.pseudo_inputs[:count]
    top = model.generation_order[0]
    draws = model.trace(u, noise=model.noise(stateless_seed(seed, 1), count, 9)).sites[top].value
    z = tf.reshape(tf.transpose(draws, [1, 0, 2]), [count * 9, -1])
    images = model.generate(latents={top: z}, seed=stateless_seed(seed, 2)).mean
    rows = tf.concat([u[:, tf.newaxis], tf.reshape(images, [count, 9, *model.event_shape])], 1)
    return plotting.image_grid(
        _shown(tf.reshape(rows, [-1, *model.event_shape])),
        columns=10,
        title="pseudo-inputs (left) and samples from each",
    )


def interpolations(model, x, seed, rows=6, steps=9):
    """Decoded straight lines between the posterior means of pairs of test images, at the top layer;
    along a row the layers below have the same noise."""
    top = model.generation_order[0]
    trace = model.trace(
        x[: 2 * rows], noise=model.noise(stateless_seed(seed, 3), min(len(x), 2 * rows))
    )
    ends = trace.sites[top].q_mean[0]
    rows = len(ends) // 2
    starts, ends = ends[0 : 2 * rows : 2], ends[1 : 2 * rows : 2]
    images = [
        model.generate(
            latents={top: (1.0 - weight) * starts + weight * ends}, seed=stateless_seed(seed, 4)
        ).mean
        for weight in np.linspace(0.0, 1.0, steps, dtype=np.float32)
    ]
    return plotting.interpolations(
        _shown(np.stack(images, 1)), title=f"interpolations between test images in {top}"
    )


def latent_pca(model, x, labels=None, class_names=None, seed=0, batch_size=500):
    """One draw of q for every test image in the plane of its principal components, layer by layer
    from the bottom to the top (Sønderby et al. 2016a, Fig. 7). `x`: `[N, *event]`."""

    @tf.function(reduce_retracing=True)
    def draws(x, seed):
        trace = model.trace(x, noise=model.noise(seed, tf.shape(x)[0]))
        return {site: trace.sites[site].value[0] for site in _bottom_to_top(model)}

    parts = [
        draws(tf.constant(x[i : i + batch_size], tf.float32), stateless_seed(seed, 10, i))
        for i in range(0, len(x), batch_size)
    ]
    return plotting.latent_pca(
        {site: np.concatenate([part[site] for part in parts]) for site in _bottom_to_top(model)},
        labels,
        class_names,
        title="draws from q, one per test image",
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
    test, sites = dataset.test.images, _bottom_to_top(model)
    columns = state.columns()
    kl_columns = {name: columns[name] for site in sites if (name := f"kl/{site}") in columns}
    figures = {
        "samples": samples(model, seed),
        "reconstructions": reconstructions(model, test, seed),
        "interpolations": interpolations(model, test, seed),
        "training_curves": plotting.training_curves(
            kl_columns | columns, title=f"{model.name} on {dataset.name}"
        ),
        "kl_per_unit": plotting.unit_kl_over_time({site: state.unit_kl[site] for site in sites}),
    }
    if len(sites) > 1:
        figures["injected_samples"] = injected_samples(model, seed)
        figures["reconstructions_by_layer"] = reconstructions_by_layer(model, test, seed)
    if _has_pseudo_inputs(model):
        figures["pseudo_inputs"] = pseudo_inputs(model)
        figures["pseudo_input_samples"] = pseudo_input_samples(
            model, seed, count=min(8, model.prior.pseudo_inputs.shape[0])
        )
    if evaluation is not None:
        # An evaluation of an older version lacks these.
        kl_standard, unit_kl = (
            {site: evaluation[f"{name}/{site}"] for site in sites}
            if f"{name}/{sites[0]}" in evaluation
            else None
            for name in ("kl_standard", "unit_kl")
        )
        kl = {site: float(evaluation[f"kl/{site}"].mean()) for site in sites}
        figures["latent_pca"] = latent_pca(
            model, test, dataset.test.labels, dataset.class_names, seed
        )
        figures["active_units"] = plotting.active_units(
            {site: evaluation[f"q_mean/{site}"].var(0) for site in sites}, unit_kl
        )
        if len(sites) > 1:
            figures["kl_per_layer"] = plotting.kl_per_layer(
                kl, kl_standard and {site: float(v.mean()) for site, v in kl_standard.items()}
            )
        figures["log_likelihood"] = plotting.log_likelihood_histogram(
            evaluation["log_likelihood"], reference=published
        )
        figures["bound_decomposition"] = plotting.bound_decomposition(
            float(evaluation["log_px"].mean()),
            {site: kl[site] for site in model.generation_order},
            float(evaluation["log_likelihood"].mean()),
        )
    return figures


def _bottom_to_top(model):
    """Sites z1 ... zL."""
    return model.generation_order[::-1]


def _shown(images):
    """As an array in [0, 1]: means of a Gaussian p(x|.) may lie outside."""
    return np.clip(images, 0.0, 1.0)


def _has_pseudo_inputs(model):
    return getattr(getattr(model, "prior", None), "kind", None) == "vampprior"


def _reconstruct(model, x, seed):
    x = np.asarray(x)
    trace = model.trace(x, noise=model.noise(stateless_seed(seed, 5), len(x)))
    return model.decode({name: site.value[0] for name, site in trace.sites.items()}).mean()
