"""Pictures of a model: what it generates, reconstructs and has learned, ready for a file or for
TensorBoard.

Where a function takes `to_pictures`, that is what turns images of the data set, `[..., *event]`,
into pictures `[..., H, W, C]`: `DataSet.to_pictures`. Without it they are the same. Models that
infer a class are shown at the most probable one where the data do not tell it.
"""

import numpy as np
import tensorflow as tf

from tfhvae import diagnostics, plotting
from tfhvae import evaluation as estimates
from tfhvae.models.base import stateless_seed
from tfhvae.models.cluster_aware import CaGeM
from tfhvae.models.feature_map import FAME
from tfhvae.models.gaussian_hierarchy import GaussianHVAE
from tfhvae.models.parts import check_choice
from tfhvae.models.semi_supervised import SemiSupervisedModel
from tfhvae.models.variational_ladder import VLAE
from tfhvae.traces import mean_over_classes

_SHEET = 64  # images on a sheet
_MOST_CLASSES = 20  # columns of a sheet with one column per class
_PLANE = (1, 2, 1)  # event shape of points of the plane
OF_EVALUATION = (  # figures that show an evaluation of the weights
    "active_units",
    "bound_decomposition",
    "confusion_matrix",
    "kl_per_layer",
    "latent_pca",
    "log_likelihood",
)


def samples(model, seed, to_pictures=None):
    """A sheet of means of p(x|z), z drawn from the prior; of draws, where pixels depend on each
    other."""
    return plotting.image_grid(
        _shown(picture(model, model.generate(_SHEET, seed=stateless_seed(seed, 0))), to_pictures),
        title=f"samples from the prior ({'draws' if model.is_autoregressive else 'means'})",
    )


def picture(model, generation):
    """What one shows of a `Generation`: the mean of p(x|.), or the draw where p is autoregressive
    and has no mean of whole images."""
    return generation.sample if model.is_autoregressive else generation.mean


def column_samples(model, dataset, seed, count=2000):
    """Of a table: histograms of every column, of test rows and of rows drawn from the model."""
    drawn = model.generate(count, seed=stateless_seed(seed, 0)).sample.numpy()
    test = dataset.test.images
    return plotting.column_histograms(
        {"test rows": test[..., 0, 0], "drawn from the model": drawn[..., 0, 0]},
        dataset.column_names,
        title="columns, standardised",
    )


def reconstructions(
    model, x, seed, count=30, title="test images and their reconstructions", to_pictures=None
):
    """Images above their reconstructions: means of p(x|z); draws from it where it is
    autoregressive; where there are no latent variables either, what the model says of each pixel
    given those before it. `x`: `[N, *event]`."""
    x = np.asarray(x[:count])
    noise = model.noise(stateless_seed(seed, 5), len(x))
    if model.is_autoregressive and model.noise_shapes:
        sites = model.trace(x, noise=noise).sites
        images = _generate(
            model, {name: site.value[0] for name, site in sites.items()}, stateless_seed(seed, 13)
        )
    else:
        images = model.reconstruct(x, noise)
    if not model.noise_shapes:
        title = "test images, and the mean of each pixel given those before it"
    return plotting.reconstructions(
        _shown(x, to_pictures), _shown(images, to_pictures), title=title
    )


def reconstructions_by_layer(model, x, seed, count=10, to_pictures=None):
    """Test images; below, for every layer from the top down, images generated from draws of q at
    that layer and those above it, the layers below drawn from p. The last row is the usual
    reconstruction. `x`: `[N, *event]`."""
    x = np.asarray(x[:count])
    noise = model.noise(stateless_seed(seed, 6), len(x))
    y = _predicted_classes(model, x, noise)
    trace = _trace(model, x, noise, y)
    rows, latents = [x], {}
    for index, site in enumerate(model.generation_order):
        latents[site] = trace.sites[site].value[0]
        rows.append(_generate(model, latents, stateless_seed(seed, 7, index), y))
    return plotting.labelled_rows(
        np.stack([_shown(row, to_pictures) for row in rows]),
        ["test images", *(f"from {site}" for site in model.generation_order)],
        title="reconstructions from each layer down",
        num_headers=1,
    )


def injected_samples(model, seed, count=10, to_pictures=None):
    """For every layer from the top down, images generated from z ~ N(0, I) in place of z ~ p(z|.)
    at that layer, the layers below drawn from p (Sønderby et al. 2016a, Fig. 6b)."""
    rows = []
    for index, site in enumerate(model.generation_order):
        z = model.noise(stateless_seed(seed, 8, index), count)[site][0]
        rows.append(_generate(model, {site: z}, stateless_seed(seed, 9, index)))
    return plotting.labelled_rows(
        np.stack([_shown(row, to_pictures) for row in rows]),
        [f"{site} ~ N(0, I)" for site in model.generation_order],
        title="samples with one layer injected",
    )


def pseudo_inputs(model, to_pictures=None):
    """The learned pseudo-inputs of a VampPrior."""
    return plotting.pseudo_inputs(
        _shown(model.prior.pseudo_inputs.numpy()[:100], to_pictures), title="pseudo-inputs"
    )


def pseudo_input_samples(model, seed, count=8, to_pictures=None):
    """For some pseudo-inputs, images generated from q(z|u): each row is one pseudo-input and draws
    from it."""
    u = model.prior.pseudo_inputs[:count]
    top = model.generation_order[0]
    draws = model.trace(u, noise=model.noise(stateless_seed(seed, 1), count, 9)).sites[top].value
    z = tf.reshape(tf.transpose(draws, [1, 0, 2]), [count * 9, -1])
    images = _generate(model, {top: z}, stateless_seed(seed, 2))
    rows = tf.concat([u[:, tf.newaxis], tf.reshape(images, [count, 9, *model.event_shape])], 1)
    return plotting.image_grid(
        _shown(tf.reshape(rows, [-1, *model.event_shape]), to_pictures),
        columns=10,
        title="pseudo-inputs (left) and samples from each",
    )


def masked_reconstructions(model, x, seed, count=10, to_pictures=None):
    """What a FAME's PixelCNN makes of the image alone, and of the latent variables alone (Maaløe &
    Winther 2018, Fig. 3). `x`: `[N, *event]`."""
    x = tf.constant(np.asarray(x[:count]), tf.float32)
    masked = model.masked_reconstructions(x, model.noise(stateless_seed(seed, 14), len(x)))
    rows = {"test images": x, "from pixels before": masked["image"], "from z": masked["latents"]}
    return plotting.labelled_rows(
        np.stack([_shown(row, to_pictures) for row in rows.values()]),
        list(rows),
        title="reconstructions with one input of the PixelCNN masked out",
        num_headers=1,
    )


def interpolations(model, x, seed, rows=6, steps=9, to_pictures=None):
    """Decoded straight lines between the posterior means of pairs of test images, at the top layer;
    along a row the layers below have the same noise, and the class is that of the left end."""
    top = model.generation_order[0]
    x = np.asarray(x[: 2 * rows])
    noise = model.noise(stateless_seed(seed, 3), len(x))
    trace = model.evaluation_trace(x, noise)
    ends = mean_over_classes(trace, trace.sites[top].q_mean)[0]
    y = _predicted_classes(model, x, noise)
    rows = len(ends) // 2
    starts, ends = ends[0 : 2 * rows : 2], ends[1 : 2 * rows : 2]
    y = None if y is None else y[0 : 2 * rows : 2]
    images = [
        _generate(model, {top: (1.0 - weight) * starts + weight * ends}, stateless_seed(seed, 4), y)
        for weight in np.linspace(0.0, 1.0, steps, dtype=np.float32)
    ]
    return plotting.interpolations(
        _shown(np.stack(images, 1), to_pictures),
        title=f"interpolations between test images in {top}",
    )


def class_conditional(
    model, seed, rows=10, class_names=None, to_pictures=None, one_of_them="class"
):
    """A row for every draw of the top latent variable, a column for every class; the layers below
    have the same noise along a row (Maaløe's thesis, Fig. 4.2)."""
    top = model.generation_order[0]
    z = model.noise(stateless_seed(seed, 11), rows)[top][0]
    return plotting.class_conditional(
        _shown(_in_every_class(model, {top: z}, stateless_seed(seed, 12)), to_pictures),
        _names_shown(model, class_names),
        title=f"one draw of {top} per row, one {one_of_them} per column (means)",
    )


def analogies(model, x, seed, count=10, class_names=None, to_pictures=None, one_of_them="class"):
    """Test images, and images generated in every class from draws of q at the top layer, given the
    predicted class; the layers below are drawn from p, with the same noise along a row (Maaløe et
    al. 2016, Fig. 3a). `x`: `[N, *event]`."""
    x = np.asarray(x[:count])
    noise = model.noise(stateless_seed(seed, 13), len(x))
    y = _predicted_classes(model, x, noise)
    top = model.generation_order[0]
    z = _trace(model, x, noise, y).sites[top].value[0]
    names = _names_shown(model, class_names)
    return plotting.analogies(
        _shown(x, to_pictures),
        _shown(_in_every_class(model, {top: z}, stateless_seed(seed, 14)), to_pictures),
        y if model.num_classes == len(names) else None,
        names,
        title=f"test images (left) and their {top} in every {one_of_them}, the predicted one framed",
    )


def latent_mesh(
    model, x, seed, labels=None, class_names=None, side=12, count=5000, to_pictures=None
):
    """Images generated over the plane of a two-dimensional z2, with y drawn from p(y|z2) and with
    the most probable y, and posterior means of test images in that plane (Maaløe et al. 2017,
    Fig. 3). z1 is drawn. `x`: `[N, *event]`."""
    limits = (-3.0, 3.0)
    ticks = np.linspace(*limits, side, dtype=np.float32)
    z2 = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)  # the second latent first
    y = np.argmax(model.p_y_logits(model.p_y([z2])), -1)
    random_images, conditional_images = (
        _shown(_generate(model, {"z2": z2}, stateless_seed(seed, 15), classes), to_pictures)
        for classes in (None, y)
    )

    @tf.function(autograph=False, reduce_retracing=True)
    def means(x, seed):
        trace = model.evaluation_trace(x, model.noise(seed, tf.shape(x)[0]))
        return mean_over_classes(trace, trace.sites["z2"].q_mean)[0]

    return plotting.latent_mesh(
        random_images.reshape(side, side, *random_images.shape[1:]),
        conditional_images.reshape(side, side, *conditional_images.shape[1:]),
        np.concatenate(_by_batch(means, x[:count], stateless_seed(seed, 16))),
        None if labels is None else labels[:count],
        class_names,
        limits,
        title="images over the plane of z2",
    )


def gibbs_samples(model, x, seed, side=8, num_steps=50, to_pictures=None):
    """Images after `num_steps` steps of Gibbs chains that begin at test images, beside ancestral
    samples, as means of p(x|.) (Zhao et al. 2017, Fig. 2). Of real-valued images the chain
    passes the means on, see `evaluation.gibbs_chain`. `x`: `[N, *event]`."""
    x = np.asarray(x[: side * side])
    pass_means = model.likelihood != "bernoulli" and not model.is_autoregressive
    chain = estimates.gibbs_chain(model, x, num_steps, stateless_seed(seed, 20), pass_means)
    ancestral = model.generate(len(x), seed=stateless_seed(seed, 21)).mean
    rows = max(1, len(x) // side)
    columns = len(x) // rows
    sheets = {f"Gibbs chain, step {num_steps}": chain.mean[-1], "ancestral samples": ancestral}
    for heading, images in sheets.items():
        images = _shown(images, to_pictures)[: rows * columns]
        sheets[heading] = images.reshape(rows, columns, *images.shape[1:])
    return plotting.image_sheets(
        sheets,
        title="one step of the chain draws z from q(z|x) and "
        + ("takes the mean of p(x|z)" if pass_means else "x from p(x|z)"),
    )


def layer_resampling(model, seed, side=8, to_pictures=None):
    """For every layer, images from draws of its noise eps_l, that of the other layers fixed (Zhao
    et al. 2017, Figs. 3, 6 and 7): z_l = mu_l + sigma_l eps_l, with mu_l and sigma_l from the layer
    above, or 0 and 1 where the layers are independent."""
    count, order = side * side, model.generation_order
    fixed = model.noise(stateless_seed(seed, 22), 1)
    fresh = model.noise(stateless_seed(seed, 23), count)
    sheets = {}
    for resampled in order[::-1]:
        latents, above = {}, None
        for site in order:
            noise = fresh[site][0] if site == resampled else tf.tile(fixed[site][0], [count, 1])
            loc, scale = model.prior(int(site[1:]) - 1, above)
            above = latents[site] = loc + scale * noise
        images = _shown(_generate(model, latents, stateless_seed(seed, 24)), to_pictures)
        sheets[f"noise of {resampled} drawn"] = images.reshape(side, side, *images.shape[1:])
    return plotting.image_sheets(sheets, title="one layer drawn, the others fixed (means)")


def traversals(model, x, seed, others="random", side=None, count=2000, to_pictures=None):
    """For every layer of a VLAE, images over the plane of two of its units, from -2 to 2; of more
    than two units the most active ones, and the rest of the layer as the other layers (Zhao et al.
    2017, Fig. 5).

    Args:
      x: `[N, *event]`, of which `count` tell how active the units are.
      others: "random", the other layers drawn for every image, or "fixed", one draw for all.
      side: images along a unit; by default 20, or 12 where they are wider than 32 pixels.
    """
    check_choice("others", others, ("random", "fixed"))
    limits, order = (-2.0, 2.0), model.generation_order
    side = side or (20 if max(model.event_shape[:2]) <= 32 else 12)
    ticks = np.linspace(*limits, side, dtype=np.float32)
    plane = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)  # the second unit first
    drawn = model.noise(stateless_seed(seed, 25), 1 if others == "fixed" else len(plane))
    means = tf.function(
        lambda batch, seed: [loc for loc, _ in model.encode(batch)], autograph=False
    )
    by_batch = _by_batch(means, x[:count], seed)
    sheets, labels = {}, {}
    for level, site in enumerate(order[::-1]):
        activity = np.concatenate([locs[level] for locs in by_batch]).var(0)
        units = np.sort(np.argsort(-activity, kind="stable")[:2])
        latents = {
            name: np.broadcast_to(z[0], [len(plane), z.shape[-1]]) for name, z in drawn.items()
        }
        latents[site] = np.array(latents[site])
        latents[site][:, units] = plane[:, : len(units)]
        images = _shown(_generate(model, latents, stateless_seed(seed, 26)), to_pictures)
        sheets[site] = images.reshape(side, side, *images.shape[1:])
        names = [f"{site}[{unit}]" for unit in units]
        labels[site] = (names[0], names[1] if len(names) > 1 else "")
    return plotting.image_sheets(
        sheets,
        f"traversal of one layer, the others {others} (means)",
        limits,
        labels,
    )


def graph(model, x):
    """The graphs of p and q, found in the model: see `diagnostics.dependencies`.
    `x`: `[N, *event]`, a few images."""
    p, q = diagnostics.dependencies(model, x)
    return plotting.graphs(p, q, loops=["x"] if model.is_autoregressive else [], title=model.name)


def half_moons(
    model,
    x,
    seed,
    labels=None,
    class_probabilities=None,
    labelled=None,
    class_names=None,
    count=2000,
):
    """Points of the plane by predicted class, with the decision boundary, and as many generated
    ones (Maaløe et al. 2016, Fig. 2c). A model without classes has points of one colour.

    Args:
      x: `[N, 1, 2, 1]`, of which `count` are shown.
      labels: `[N]`; with them the error is stated, that of all points.
      class_probabilities: `[N, Y]`, as from `evaluation.classify`, where they are known.
      labelled: `[L, 1, 2, 1]`, to be marked.
    """
    x = np.asarray(x)
    generation = model.generate(min(count, len(x)), seed=stateless_seed(seed, 17))
    options = {}
    if isinstance(model, SemiSupervisedModel):
        if class_probabilities is None:
            class_probabilities = estimates.classify(
                model, x, num_samples=10, seed=stateless_seed(seed, 18), batch_size=2000
            )
        predictions = np.argmax(class_probabilities, -1)
        options = {
            "predictions": predictions[:count],
            "sample_classes": np.asarray(generation.y),
            "grid": _class_grid(model, x, stateless_seed(seed, 19)),
            "class_names": class_names,
        }
        if labels is not None:
            options["error_percent"] = 100.0 * np.mean(predictions != labels)
    return plotting.half_moons(
        x[:count].reshape(-1, 2),
        np.reshape(generation.sample, [-1, 2]),
        labelled=None if labelled is None else np.reshape(labelled, [-1, 2]),
        title="half-moons",
        **options,
    )


def latent_pca(model, x, labels=None, class_names=None, seed=0, batch_size=500, unit_kl=None):
    """One draw of q for every test image in the plane of its principal components, site by site
    from the bottom to the top (Sønderby et al. 2016a, Fig. 7; of auxiliary variables Maaløe et al.
    2016, Figs. 2d and 4b).

    Args:
      x: `[N, *event]`.
      unit_kl: `{site: [units]}`, where it is known: then inactive units, whose draws are noise, are
        left out of the sites that have active ones.
    """

    @tf.function(autograph=False, reduce_retracing=True)
    def draws(x, seed):
        noise = model.noise(seed, tf.shape(x)[0])
        trace = _trace(model, x, noise, _predicted_classes(model, x, noise))
        return {site: trace.sites[site].value[0] for site in _bottom_to_top(model)}

    parts = _by_batch(draws, x, stateless_seed(seed, 10), batch_size)
    latents = {site: np.concatenate([part[site] for part in parts]) for site in parts[0]}
    headings = {}
    for site, kl in (unit_kl or {}).items():
        units = latents[site].shape[1]
        active = np.asarray(kl) > diagnostics.ACTIVE_UNIT_KL
        if len(active) == units and not active.all():  # a mixture prior has one KL of all
            headings[site] = f"{site}: {active.sum() or 'none'} of {units} units active"
            if active.any():
                latents[site] = latents[site][:, active]
    return plotting.latent_pca(
        latents,
        labels,
        class_names,
        title="draws from q, one per test image",
        headings=headings,
    )


def training_pictures(model, x, seed, to_pictures=None):
    """`{name: [H, W, 3] uint8}` for TensorBoard: the same seed every time, so that one sees the
    same draws improve."""
    if _is_plane(model):
        figures = {"half_moons": half_moons(model, x, seed)}
    else:
        figures = {
            "samples": samples(model, seed, to_pictures),
            "reconstructions": reconstructions(
                model,
                x,
                seed,
                title="held-out images and their reconstructions",
                to_pictures=to_pictures,
            ),
        }
        if isinstance(model, SemiSupervisedModel):
            figures["class_conditional"] = class_conditional(model, seed, to_pictures=to_pictures)
        if _has_pseudo_inputs(model):
            figures["pseudo_inputs"] = pseudo_inputs(model, to_pictures)
    return {name: plotting.to_rgb_array(figure) for name, figure in figures.items()}


def all_figures(
    model,
    dataset,
    state,
    seed,
    evaluation=None,
    published=None,
    class_probabilities=None,
    labelled=None,
    published_error=None,
):
    """`{file name: Figure}`, every figure of a run.

    Args:
      state: the run's `RunState`.
      evaluation: arrays as written by an evaluation, or None where there was none.
      published: log-likelihood to mark beside ours, or None.
      class_probabilities: `[N, Y]` of the test images; by default those of `evaluation`, if any.
      labelled: indices of the labelled training images, or None.
      published_error: classification error in percent to mark beside ours, or None.
    """
    sites, columns = _bottom_to_top(model), state.columns()
    kl_columns = {name: columns[name] for site in sites if (name := f"kl/{site}") in columns}
    if class_probabilities is None and evaluation is not None:
        class_probabilities = evaluation.get("class_probabilities")
    errors = {name for name in columns if name.endswith("error_percent")}
    errors = {name for name in errors if np.isfinite(columns[name]).any()}
    labelled = None if labelled is None or not len(labelled) else labelled
    # Of clusters that no label has shaped, none has a name.
    has_labels = class_probabilities is not None or labelled is not None or bool(errors)
    class_names = dataset.class_names if has_labels else None
    figures = {
        "training_curves": plotting.training_curves(
            kl_columns | columns, title=f"{model.name} on {dataset.name}"
        ),
    }
    if sites:
        figures["kl_per_unit"] = plotting.unit_kl_over_time(
            {site: state.unit_kl[site] for site in sites}
        )
        figures["graph"] = graph(model, dataset.test.images[:4])
    if dataset.column_names is not None:
        figures["samples"] = column_samples(model, dataset, seed)
    elif _is_plane(model):
        figures["half_moons"] = half_moons(
            model,
            dataset.test.images,
            seed,
            dataset.test.labels if has_labels else None,
            class_probabilities,
            None if labelled is None else dataset.train.images[labelled],
            class_names,
        )
    else:
        figures |= _image_sheets(model, dataset, seed, class_names)
    if errors:
        figures["error_curve"] = plotting.error_curve(
            columns,
            published_error,
            f"classification error on {dataset.name}, curves of one draw",
            _evaluated_error(state, dataset.test.labels, class_probabilities),
        )
    if class_probabilities is not None:
        figures["confusion_matrix"] = plotting.confusion_matrix(
            dataset.test.labels, np.argmax(class_probabilities, -1), class_names
        )
    if evaluation is not None:
        figures |= _figures_of_evaluation(model, dataset, seed, evaluation, published)
    return figures


def _evaluated_error(state, labels, class_probabilities):
    """`(epoch of the weights, error in percent)`; None without an evaluation."""
    if class_probabilities is None:
        return None
    epoch = state.best_epoch or state.epoch
    return epoch, 100.0 * np.mean(np.argmax(class_probabilities, -1) != labels)


def _image_sheets(model, dataset, seed, class_names):
    """Everything that shows images."""
    test, to_pictures = dataset.test.images, dataset.to_pictures
    figures = {
        "samples": samples(model, seed, to_pictures),
        "reconstructions": reconstructions(model, test, seed, to_pictures=to_pictures),
    }
    if model.noise_shapes and len(test) > 1:
        figures["interpolations"] = interpolations(model, test, seed, to_pictures=to_pictures)
    if isinstance(model, FAME) and model.is_autoregressive:
        figures["masked_reconstructions"] = masked_reconstructions(
            model, test, seed, to_pictures=to_pictures
        )
    if len(model.generation_order) > 1:
        if not isinstance(model, VLAE):  # whose layers have this prior anyway
            figures["injected_samples"] = injected_samples(model, seed, to_pictures=to_pictures)
        figures["reconstructions_by_layer"] = reconstructions_by_layer(
            model, test, seed, to_pictures=to_pictures
        )
    if isinstance(model, (VLAE, GaussianHVAE)):
        figures["layer_resampling"] = layer_resampling(model, seed, to_pictures=to_pictures)
    if isinstance(model, GaussianHVAE):
        figures["gibbs_samples"] = gibbs_samples(model, test, seed, to_pictures=to_pictures)
    if isinstance(model, VLAE):
        for others in ("random", "fixed"):
            figures[f"traversals_{others}"] = traversals(
                model, test, seed, others, to_pictures=to_pictures
            )
    if _has_pseudo_inputs(model):
        figures["pseudo_inputs"] = pseudo_inputs(model, to_pictures)
        figures["pseudo_input_samples"] = pseudo_input_samples(
            model, seed, min(8, model.prior.pseudo_inputs.shape[0]), to_pictures
        )
    if isinstance(model, SemiSupervisedModel):
        named = {"class_names": class_names, "to_pictures": to_pictures}
        if class_names is None:  # no label has given any cluster its name
            clusters = [f"c{index}" for index in range(model.num_classes)]
            named |= {"class_names": clusters, "one_of_them": "unnamed cluster"}
        figures["class_conditional"] = class_conditional(model, seed, **named)
        figures["analogies"] = analogies(model, test, seed, **named)
    if isinstance(model, CaGeM) and model.latent_dims[1] == 2:
        figures["latent_mesh"] = latent_mesh(
            model,
            test,
            seed,
            dataset.test.labels,
            dataset.class_names,
            to_pictures=to_pictures,
        )
    return figures


def _figures_of_evaluation(model, dataset, seed, evaluation, published):
    sites = _bottom_to_top(model)
    # An evaluation of an older version lacks these.
    kl_standard, unit_kl = (
        {site: evaluation[f"{name}/{site}"] for site in sites}
        if sites and f"{name}/{sites[0]}" in evaluation
        else None
        for name in ("kl_standard", "unit_kl")
    )
    kl = {site: float(evaluation[f"kl/{site}"].mean()) for site in sites}
    of_class = {"y": float(evaluation["kl/y"].mean())} if "kl/y" in evaluation else {}
    figures = {
        "log_likelihood": plotting.log_likelihood_histogram(
            evaluation["log_likelihood"], reference=published
        ),
    }
    if not sites:
        return figures
    figures |= {
        "active_units": plotting.active_units(
            {site: estimates.variance_of_means(evaluation, site) for site in sites}, unit_kl
        ),
        "bound_decomposition": plotting.bound_decomposition(
            float(evaluation["log_px"].mean()),
            {**of_class, **{site: kl[site] for site in sites[::-1]}},
            estimates.mean_log_likelihood(evaluation["elbo"], evaluation["log_likelihood"])[0],
        ),
    }
    if len(dataset.test.images) > 1:
        figures["latent_pca"] = latent_pca(
            model,
            dataset.test.images,
            dataset.test.labels,
            dataset.class_names,
            seed,
            unit_kl=unit_kl,
        )
    if len(sites) > 1:
        figures["kl_per_layer"] = plotting.kl_per_layer(
            kl, kl_standard and {site: float(v.mean()) for site, v in kl_standard.items()}
        )
    return figures


def _bottom_to_top(model):
    """Sites z1 ... zL; with auxiliary ones, which nothing needs to be generated from, in drawing
    order: a1, z1, a2, z2, ..."""
    sites = model.generation_order[::-1]
    return sites if len(sites) == len(model.noise_shapes) else list(model.noise_shapes)


def _is_plane(model):
    return tuple(model.event_shape) == _PLANE


def _has_pseudo_inputs(model):
    return getattr(getattr(model, "prior", None), "kind", None) == "vampprior"


def _shown(images, to_pictures=None):
    """As an array in [0, 1]: means of a Gaussian p(x|.) may lie outside."""
    images = np.asarray(images)
    return np.clip(images if to_pictures is None else to_pictures(images), 0.0, 1.0)


def _predicted_classes(model, x, noise):
    """The most probable classes `[B]` under q(y|.) of one sample, on which its q of the sites
    drawn after y depends; None of a model without classes."""
    if not isinstance(model, SemiSupervisedModel):
        return None
    return tf.argmax(model.class_log_probs(x, noise)[0], -1, output_type=tf.int32)


def _trace(model, x, noise, y):
    """A trace of class y, which is None for models without classes."""
    return model.trace(x, noise=noise, **({} if y is None else {"y": y}))


def _generate(model, latents, seed, y=None):
    """Pictures of p(x|.), `[N, *event]`."""
    generation = model.generate(latents=latents, seed=seed, **({} if y is None else {"y": y}))
    return picture(model, generation)


def _in_every_class(model, latents, seed):
    """Means of p(x|.) `[N, Y, *event]`, with the same noise in every class; Y is at most
    `_MOST_CLASSES`."""
    count = len(next(iter(latents.values())))
    return np.stack(
        [
            _generate(model, latents, seed, np.full(count, y, np.int32))
            for y in range(min(model.num_classes, _MOST_CLASSES))
        ],
        1,
    )


def _names_shown(model, class_names):
    names = range(model.num_classes) if class_names is None else class_names
    return list(names)[:_MOST_CLASSES]


def _by_batch(function, x, seed, batch_size=500):
    """`function(x, seed)` of batches, a list."""
    return [
        function(tf.constant(x[i : i + batch_size], tf.float32), stateless_seed(seed, i))
        for i in range(0, len(x), batch_size)
    ]


def _class_grid(model, x, seed, cells=100, num_samples=50):
    """`(x [W], y [H], probabilities [H, W, Y])` over a rectangle somewhat larger than the points.
    All points have the same noise, so that the boundary between classes is smooth."""
    points = np.reshape(x, [-1, 2])
    low, high = points.min(0), points.max(0)
    margin = 0.1 * (high - low) + 1e-3
    axes = np.linspace(low - margin, high + margin, cells, dtype=np.float32).T
    plane = np.stack(np.meshgrid(*axes), -1).reshape(cells, cells, *_PLANE)
    one = model.noise(seed, 1, num_samples)
    noise = {site: tf.tile(values, [1, cells, 1]) for site, values in one.items()}
    classify = tf.function(lambda row: model.classify(row, noise=noise), autograph=False)
    return *axes, np.stack([classify(row) for row in plane])
