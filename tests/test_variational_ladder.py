"""The models of Zhao et al. 2017 beside NumPy, their Gibbs chain, and their figures."""

import keras
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import tensorflow as tf

from tfhvae import bounds, configuration, evaluation, experiments, figures, plotting
from tfhvae.errors import RunError
from tfhvae.layers import BatchNormalization, GaussianHead
from tfhvae.models import M2, VAE, VLAE, GaussianHVAE, PixelCNNModel, PixelHVAE, parts
from tfhvae.models.convolutions import ConvolutionStack
from tfhvae.objectives import ExponentialWarmup

CONFIGS = "configs/paper/vlae.py"


def with_random_weights(model, seed=0):
    """Weights of a size at which every part of the network counts."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        value = 0.4 * rng.normal(size=weight.shape)
        is_positive = "variance" in weight.path or "gamma" in weight.path
        weight.assign(0.5 + np.abs(value) if is_positive else value)
    return model


def random_images(shape, count=3, seed=1):
    return np.random.default_rng(seed).random((count, *shape)).astype(np.float32)


# The models written out
# -------------------------------------------------------------------------------------------------


def activated(h):
    return np.maximum(h, 0.1 * h)


def normalised(h, layer):
    mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    return layer.gamma.numpy() * (h - mean) / np.sqrt(variance + 1e-3) + layer.beta.numpy()


def dense_layers(h, mlp):
    for index, layer in enumerate(mlp.linear_layers):
        h = h @ layer.kernel.numpy().astype(np.float64)
        h = normalised(h, mlp.normalization_layers[index]) if mlp.normalization else h + layer.bias
        h = activated(h)
    return h


def convolution(x, kernel, stride):
    """Each output is a sum over a 4x4 window that begins one pixel above and left of it."""
    n, height, width, _ = x.shape
    padded = np.pad(x, [(0, 0), (1, 2), (1, 2), (0, 0)])
    out = np.zeros((n, height // stride, width // stride, kernel.shape[-1]))
    for i, j in np.ndindex(out.shape[1:3]):
        window = padded[:, stride * i : stride * i + 4, stride * j : stride * j + 4]
        out[:, i, j] = np.einsum("nabc,abco->no", window, kernel)
    return out


def transposed_convolution(x, kernel, stride):
    """Each input pixel adds a 4x4 patch, likewise placed; what falls outside is cut off."""
    n, height, width, _ = x.shape
    out = np.zeros((n, stride * height + 4, stride * width + 4, kernel.shape[2]))
    for i, j in np.ndindex(height, width):
        patch = np.einsum("nc,aboc->nabo", x[:, i, j], kernel)
        out[:, stride * i : stride * i + 4, stride * j : stride * j + 4] += patch
    return out[:, 1 : 1 + stride * height, 1 : 1 + stride * width]


def convolved(x, stack):
    for index, layer in enumerate(stack.convolutions):
        apply = transposed_convolution if stack.settings["transposed"] else convolution
        x = apply(x, layer.kernel.numpy().astype(np.float64), layer.strides[0])
        if stack.normalizations:
            x = normalised(x, stack.normalizations[index])
        else:
            x = x + layer.bias.numpy()
        x = x if stack.settings["activation"] is None else activated(x)
    return x


def flat(h):
    return h.reshape(len(h), -1)


def gaussian(h, head):
    loc, a = np.split(flat(h) @ head.kernel.numpy().astype(np.float64) + head.bias, 2, -1)
    return loc, 1.0 / (1.0 + np.exp(-a)) + 0.001


def merged(state, z, model, level):
    v = dense_layers(z, model.p_ladders[level]).reshape(state.shape)
    if model.config["merge"] == "gated":
        return state + model.p_gates[level].numpy() * v
    return np.concatenate([state, v], -1)


def small(model, x, z):
    """`conv_small` with two levels: (q of z1, q of z2), parameters of the image."""
    h1 = convolved(x, model.q_blocks[0])
    h2 = dense_layers(flat(h1), model.q_blocks[1])
    q = [gaussian(h, head) for h, head in zip((h1, h2), model.q_heads)]
    state = merged(dense_layers(z[1], model.p_blocks[1]), z[0], model, 0)
    channels = model.filters[1]
    plane = dense_layers(state, model.p_planes["0"])
    plane = plane.reshape(len(x), x.shape[1] // 4, x.shape[2] // 4, channels)
    return q, convolved(convolved(plane, model.p_blocks[0]), model.pixels)


def medium(model, x, z):
    """`conv_medium` with three levels and ladders of their own."""
    h1 = convolved(x, model.q_blocks[0])
    h2 = convolved(h1, model.q_blocks[1])
    features = (
        convolved(x, model.q_ladders[0]),
        convolved(h1, model.q_ladders[1]),
        dense_layers(flat(h2), model.q_ladders[2]),
    )
    q = [gaussian(h, head) for h, head in zip(features, model.q_heads)]
    state = merged(dense_layers(z[2], model.p_blocks[2]), z[1], model, 1)
    plane = dense_layers(state, model.p_planes["1"])
    plane = plane.reshape(len(x), x.shape[1] // 4, x.shape[2] // 4, model.filters[1])
    state = merged(convolved(plane, model.p_blocks[1]), z[0], model, 0)
    return q, convolved(convolved(state, model.p_blocks[0]), model.pixels)


def all_dense(model, x, z):
    h, q = flat(x), []
    for block, head in zip(model.q_blocks, model.q_heads):
        h = dense_layers(h, block)
        q.append(gaussian(h, head))
    state = dense_layers(z[2], model.p_blocks[2])
    for level in (1, 0):
        state = dense_layers(merged(state, z[level], model, level), model.p_blocks[level])
    pixels = state @ model.pixels.kernel.numpy().astype(np.float64) + model.pixels.bias
    return q, pixels.reshape(x.shape)


WRITTEN_OUT = {
    "small": (small, (8, 4, 2), {"latent_dims": (2, 3), "filters": (3, 4, 5), "merge": "gated"}),
    "medium": (
        medium,
        (8, 8, 1),
        {
            "trunk": "conv_medium",
            "latent_dims": (2, 3, 2),
            "filters": (2, 3, 4),
            "ladders": "own",
            "batch_normalization": "none",
        },
    ),
    "dense": (all_dense, (3, 2, 1), {"trunk": "dense", "filters": (5, 4, 3)}),
}


def sigmoid(a):
    return 1.0 / (1.0 + np.exp(-a))


@pytest.mark.parametrize("output", ["bernoulli", "gaussian", "laplace"])
@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_vlae_is_its_equations(name, output, seeded):
    write_out, shape, settings = WRITTEN_OUT[name]
    if output == "bernoulli":
        options = {"likelihood": "bernoulli"}
    else:
        options = {"likelihood": "discretized_logistic", "density": output, "output_scale": 0.3}
    model = with_random_weights(VLAE(shape, **options, **settings))
    x = np.round(random_images(shape)) if output == "bernoulli" else random_images(shape)
    noise = model.noise(5, len(x), 2)
    trace = model.trace(x, noise=noise)
    for s in range(2):
        z = [np.float64(site.value[s]) for site in trace.sites.values()]
        q, parameters = write_out(model, np.float64(x), z)
        for (loc, scale), site, e in zip(q, trace.sites.values(), noise.values(), strict=True):
            drawn = loc + scale * e[s].numpy()
            np.testing.assert_allclose(site.value[s], drawn, rtol=1e-4, atol=1e-4)
            log_q = scipy.stats.norm.logpdf(drawn, loc, scale).sum(-1)
            log_p = scipy.stats.norm.logpdf(drawn).sum(-1)
            np.testing.assert_allclose(site.log_q[s], log_q, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(site.log_p[s], log_p, rtol=1e-4, atol=1e-4)
            kl = 0.5 * (scale**2 + loc**2 - 1.0) - np.log(scale)
            np.testing.assert_allclose(site.kl[s], kl, rtol=1e-3, atol=1e-4)
        mean = sigmoid(parameters)
        log_px = {
            "bernoulli": np.log(np.where(x > 0.5, mean, 1.0 - mean)),
            "gaussian": scipy.stats.norm.logpdf(x, mean, 0.3),
            "laplace": scipy.stats.laplace.logpdf(x, mean, 0.3),
        }[output]
        np.testing.assert_allclose(trace.log_px[s], log_px.sum((1, 2, 3)), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("trunk", ["conv", "dense"])
def test_gaussian_hvae_is_its_equations(trunk, seeded):
    """Appendix B.1, two layers; the image has sigma² I with a learned sigma."""
    shape, dims = (8, 4, 2), {"latent_dims": (3, 2), "hidden_units": (5, 4), "filters": (2, 3)}
    model = GaussianHVAE(
        shape, "gaussian", trunk=trunk, train_output_scale=True, output_mean="linear", **dims
    )
    with_random_weights(model)
    x = random_images(shape)
    trace = model.trace(x, noise=model.noise(5, 3))
    z1, z2 = (np.float64(trace.sites[site].value[0]) for site in ("z1", "z2"))
    if trunk == "conv":
        q_z1 = gaussian(convolved(np.float64(x), model.q_z[0].convolutions), model.q_z[0].head)
        plane = dense_layers(z1, model.p_x).reshape(3, 2, 1, 3)
        mean = convolved(convolved(plane, model.p_convolution), model.pixels)
    else:
        q_z1 = gaussian(dense_layers(flat(np.float64(x)), model.q_z[0].mlp), model.q_z[0].head)
        mean = dense_layers(z1, model.p_x) @ model.pixels.kernel.numpy() + model.pixels.bias
        mean = mean.reshape(x.shape)
    q_z2 = gaussian(dense_layers(z1, model.q_z[1].mlp), model.q_z[1].head)
    p_z1 = gaussian(dense_layers(z2, model.p_z[0].mlp), model.p_z[0].head)
    sigma = np.exp(float(model.log_output_scale))
    expected = {
        "z1/log_q": scipy.stats.norm.logpdf(z1, *q_z1).sum(-1),
        "z2/log_q": scipy.stats.norm.logpdf(z2, *q_z2).sum(-1),
        "z1/log_p": scipy.stats.norm.logpdf(z1, *p_z1).sum(-1),
        "z2/log_p": scipy.stats.norm.logpdf(z2).sum(-1),
        "log_px": scipy.stats.norm.logpdf(x, mean, sigma).sum((1, 2, 3)),
    }
    for name, value in expected.items():
        site, _, field = name.partition("/")
        found = getattr(trace.sites[site], field) if field else trace.log_px
        np.testing.assert_allclose(found[0], value, rtol=1e-4, atol=1e-3, err_msg=name)


def test_sigma_that_is_not_learned_is_no_weight():
    model = GaussianHVAE((4, 4, 1), "gaussian", output_scale=0.2, filters=(2, 2))
    assert model.output_scale == 0.2
    assert not [w for w in model.weights if "output_scale" in w.path]
    binary = GaussianHVAE((4, 4, 1), train_output_scale=True, filters=(2, 2))
    assert not [w for w in binary.weights if "output_scale" in w.path]


def test_shallow_latents_do_not_see_the_deep_network(seeded):
    """q(z_l|x) depends on g_1 ... g_l alone."""
    model = with_random_weights(VLAE((3, 2, 1), trunk="dense", filters=(5, 4, 3)))
    x = random_images((3, 2, 1))
    before = model.encode(x)
    for level in (2, 1, 0):
        for weight in model.q_blocks[level].weights:
            weight.assign(weight + 0.3)
        for other, (old, new) in enumerate(zip(before, model.encode(x))):
            assert np.allclose(old[0], new[0]) == (other < level)


def test_batch_normalization_of_a_vlae(seeded):
    shape, settings = (4, 4, 1), {"latent_dims": (2, 2), "filters": (2, 3, 4)}
    counts = {}
    for where in parts.BATCH_NORMALIZATION:
        model = VLAE(shape, batch_normalization=where, **settings)
        layers = [m for m in model._flatten_layers() if isinstance(m, BatchNormalization)]
        counts[where] = len(layers)
        model.trace(random_images(shape), training=True)
        assert all(np.any(layer.moving_variance != 1.0) for layer in layers)
        model.generate(2, seed=0)
        assert (model.pixels.normalizations, model.pixels.convolutions[0].use_bias) == ([], True)
    # 2 + 2 in q; 2 of f_2, v_1, the plane and one transposed convolution in p; 2 heads
    assert counts == {"none": 0, "hidden": 9, "all": 11}


def test_layers_of_a_vlae_are_drawn_apart():
    model = VLAE((4, 4, 1), latent_dims=(2, 3), filters=(2, 3))
    drawn = model.generate(4000, seed=3)
    z = np.concatenate([drawn.latents[site] for site in ("z1", "z2")], -1)
    assert scipy.stats.kstest(z, "norm", axis=0).pvalue.min() > 1e-6
    # 5 standard errors of a correlation
    assert np.abs(np.corrcoef(z.T) - np.eye(5)).max() < 5 / np.sqrt(4000)
    for site, other in (("z1", "z2"), ("z2", "z1")):
        moved = model.generate(latents={site: drawn.latents[site] + 1.0}, seed=3)
        np.testing.assert_array_equal(moved.latents[other], drawn.latents[other])
        assert np.abs(moved.mean - drawn.mean).max() > 0


# Densities, scales, warm-up
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", parts.FIXED_DENSITIES)
@pytest.mark.parametrize("mean", parts.OUTPUT_MEANS)
def test_fixed_densities_integrate_to_one(density, mean):
    p = parts.fixed_density(tf.constant([[[0.7]]]), density, 0.125, mean)
    centre = float(p.mean()[0, 0, 0])
    assert centre == pytest.approx(sigmoid(0.7) if mean == "sigmoid" else 0.7, rel=1e-6)

    def value(x):
        return float(tf.exp(p.log_prob(tf.fill([1, 1, 1], np.float32(x)))))

    halves = ((centre - 3.0, centre), (centre, centre + 3.0))
    total = sum(scipy.integrate.quad(value, *limits, limit=100)[0] for limits in halves)
    assert total == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("ratio", [8.0, 0.5])
def test_laplace_bound_is_the_loss_of_the_authors_up_to_a_constant(ratio, seeded):
    """-bound = ratio * D * mean |x - mu| + KL + D log(2 / ratio)."""
    shape = (4, 6, 2)
    model = VLAE(
        shape, "gaussian", "laplace", 1.0 / ratio, trunk="dense", filters=(5, 4), latent_dims=(2, 2)
    )
    x = random_images(shape)
    trace = model.trace(x, noise=model.noise(5, 3))
    latents = {site: record.value[0] for site, record in trace.sites.items()}
    error = np.abs(x - model.decode(latents).mean()).mean((1, 2, 3))
    kl = 0.0
    for site in trace.sites.values():
        loc, scale = np.float64(site.q_mean[0]), np.float64(site.q_scale[0])
        kl += (-np.log(scale) + 0.5 * scale**2 + 0.5 * loc**2 - 0.5).sum(-1)
    loss = ratio * 48 * error + kl
    np.testing.assert_allclose(-bounds.elbo(trace) - loss, 48 * np.log(2 / ratio), rtol=1e-4)


def test_sigmoid_scale():
    head = GaussianHead(2, "sigmoid")
    head.build((None, 1))
    head.kernel.assign([[0.0, 0.0, 1.0, -1.0]])
    a = np.float32([[-200.0], [-3.0], [0.0], [200.0]])
    expected = 1.0 / (1.0 + np.exp(-np.float64(a) * [1.0, -1.0])) + 0.001
    np.testing.assert_allclose(head(a)[1], expected, rtol=1e-5)


def test_exponential_warmup():
    schedule = ExponentialWarmup(2000)
    steps = np.array([0, 1, 1999, 30_000])
    found = [float(schedule(tf.constant(step, tf.int64))) for step in steps]
    np.testing.assert_allclose(found, 1.0 - np.exp(-(steps + 1) / 2000), rtol=1e-5)
    again = ExponentialWarmup.from_config(schedule.get_config())
    assert float(again(7)) == float(schedule(7))
    with pytest.raises(ValueError, match="positive number of steps. Received: steps=0"):
        ExponentialWarmup(0)


def test_one_warmup_at_a_time():
    config = configuration.base_config("vlae", "digits")
    config.objective.exponential_warmup_steps = 100
    objective = experiments.make_objective(config.objective, 10, 100)
    assert isinstance(objective.beta, ExponentialWarmup) and objective.beta.steps == 100
    config.objective.warmup_epochs = 5
    with pytest.raises(ValueError, match="at most one of .* Received: 5 and 100"):
        experiments.make_objective(config.objective, 10, 100)


# The Gibbs chain
# -------------------------------------------------------------------------------------------------


def test_gibbs_chain_converges_to_the_marginal(linear_gaussian):
    """With the exact posterior, from far away: mean and covariance of p(x) within 5 standard errors
    of 4000 chains. A chain that forgot to draw would keep the start."""
    model, count = linear_gaussian(), 4000
    start = np.full((count, 1, 4, 1), 6.0, np.float32)
    chain = evaluation.gibbs_chain(model, start, num_steps=80, seed=3)
    assert chain.sample.shape == chain.mean.shape == (80, count, 1, 4, 1)
    x = chain.sample[-1].reshape(count, 4).astype(np.float64)
    mean, covariance = model._marginal.mean, model._marginal.cov_object.covariance
    variance = np.diag(covariance)
    assert np.all(np.abs(x.mean(0) - mean) < 5 * np.sqrt(variance / count))
    error = np.sqrt((covariance**2 + np.outer(variance, variance)) / count)
    assert np.all(np.abs(np.cov(x.T) - covariance) < 5 * error)
    first = chain.sample[0].reshape(count, 4).mean(0)
    assert np.abs(first - mean).max() > 1.0  # not there yet


def test_gibbs_chain_is_a_function_of_its_seed(seeded):
    model = GaussianHVAE((4, 4, 1), "gaussian", latent_dims=(3, 2), filters=(2, 2))
    x = random_images((4, 4, 1))
    a, b, c = (evaluation.gibbs_chain(model, x, 3, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.sample, b.sample)
    assert np.abs(a.sample - c.sample).min() > 0
    longer = evaluation.gibbs_chain(model, x, 5, 1)
    np.testing.assert_array_equal(longer.sample[:3], a.sample)
    # a step is one draw of q at the last state, and one of p at that draw
    later = evaluation.gibbs_chain(model, a.sample[0], 1, 1)
    assert np.abs(later.sample[0] - a.sample[1]).min() > 0  # with other noise
    noise = (a.sample - a.mean) / 0.354
    assert abs(noise.std() - 1.0) < 0.35 and abs(noise.mean()) < 0.4


def test_means_are_passed_on_where_asked_for(seeded):
    """The next state is made from the mean: a model with other pixel noise has the same means."""
    x, chains = random_images((4, 4, 1)), {}
    for scale in (0.2, 0.5):
        keras.utils.set_random_seed(0)
        model = with_random_weights(
            GaussianHVAE(
                (4, 4, 1), "gaussian", output_scale=scale, latent_dims=(3,), filters=(2, 2)
            )
        )
        chains[scale] = [evaluation.gibbs_chain(model, x, 3, 1, how).mean for how in (True, False)]
    (passed, drawn), (passed_noisy, drawn_noisy) = chains.values()
    np.testing.assert_allclose(passed, passed_noisy, atol=1e-6)
    np.testing.assert_allclose(drawn[0], passed[0], atol=1e-6)
    assert np.abs(drawn[1:] - drawn_noisy[1:]).max() > 1e-4


def test_gibbs_chain_uses_the_bottom_layer_alone(seeded, monkeypatch):
    """Other weights above z1 leave it as it is (Proposition 1)."""
    model = GaussianHVAE((4, 4, 1), "gaussian", latent_dims=(3, 2), filters=(2, 2))
    x = random_images((4, 4, 1))
    before = evaluation.gibbs_chain(model, x, 3, 1)
    for layer in (*model.p_z, *model.q_z[1:]):
        for weight in layer.weights:
            weight.assign(weight + 0.5)
    after = evaluation.gibbs_chain(model, x, 3, 1)
    np.testing.assert_array_equal(before.sample, after.sample)


def test_gibbs_chain_of_layers_that_all_make_the_image(seeded):
    for model in (
        VLAE((4, 4, 1), latent_dims=(2, 2), filters=(2, 3)),
        VAE((4, 4, 1), latent_dim=2, hidden_units=(3,)),
    ):
        chain = evaluation.gibbs_chain(model, random_images((4, 4, 1)), 2)
        assert set(np.unique(chain.sample)) == {0.0, 1.0}


def test_gibbs_chain_refuses_a_model_that_draws_nothing():
    model = PixelCNNModel((4, 4, 1), pixel_filters=4)
    with pytest.raises(ValueError, match="latent variables for a Gibbs chain. Received: PixelCNNM"):
        evaluation.gibbs_chain(model, np.zeros([2, 4, 4, 1], np.float32), 2)


def test_gibbs_chain_refuses():
    model = M2((4, 4, 1), num_classes=3, latent_dim=2, hidden_units=(4,))
    with pytest.raises(ValueError, match="model without classes .* Received: M2"):
        evaluation.gibbs_chain(model, random_images((4, 4, 1)))
    model = VAE((4, 4, 1), latent_dim=2, hidden_units=(3,))
    with pytest.raises(ValueError, match="num_steps >= 1. Received: num_steps=0"):
        evaluation.gibbs_chain(model, random_images((4, 4, 1)), 0)


def test_gibbs_chain_of_a_pixel_cnn(seeded):
    """Its pixels are drawn one by one, and have no means to pass on."""
    model = PixelHVAE((4, 4, 1), latent_dims=(2, 2), hidden_units=4, width=0.05, pixel_filters=4)
    x = np.round(random_images((4, 4, 1)))
    chain = evaluation.gibbs_chain(model, x, 2, 1)
    assert chain.sample.shape == (2, *x.shape) and set(np.unique(chain.sample)) == {0.0, 1.0}
    np.testing.assert_array_equal(chain.sample, evaluation.gibbs_chain(model, x, 2, 1).sample)
    with pytest.raises(ValueError, match="expected pass_means=False"):
        evaluation.gibbs_chain(model, x, 2, 1, pass_means=True)


# Figures
# -------------------------------------------------------------------------------------------------


@pytest.fixture
def generated(monkeypatch):
    """`watch(model)`: a list that collects the latents of every generation."""

    def watch(model):
        calls, generate = [], type(model).generate

        def recording(self, *args, **options):
            result = generate(self, *args, **options)
            calls.append({site: np.array(z) for site, z in result.latents.items()})
            return result

        monkeypatch.setattr(type(model), "generate", recording)
        return calls

    return watch


def headings(figure):
    return [ax.get_title(loc="left") for ax in figure.axes]


@pytest.mark.parametrize("others", ["random", "fixed"])
def test_traversals(others, generated, seeded):
    model = with_random_weights(VLAE((4, 4, 1), latent_dims=(2, 4), filters=(2, 3)))
    head = model.q_heads[1]
    kernel = head.kernel.numpy()
    kernel[:, [0, 2]] *= 1e-3  # units 1 and 3 of z2 are the active ones
    head.kernel.assign(kernel)
    calls = generated(model)
    figure = figures.traversals(model, random_images((4, 4, 1), 50), 3, others, side=5)
    assert headings(figure) == ["z1", "z2"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["z1[0]", "z2[1]"]
    assert [ax.get_ylabel() for ax in figure.axes] == ["z1[1]", "z2[3]"]
    ticks = np.linspace(-2.0, 2.0, 5)
    for call, site, other, units in (
        (calls[0], "z1", "z2", [0, 1]),
        (calls[1], "z2", "z1", [1, 3]),
    ):
        plane = call[site][:, units].reshape(5, 5, 2)
        np.testing.assert_allclose(plane[0, :, 0], ticks)
        np.testing.assert_allclose(plane[:, 0, 1], ticks)
        assert np.all(plane[:, :, 0] == plane[:1, :, 0])
        assert (len(np.unique(call[other], axis=0)) == 1) == (others == "fixed")
    rest = calls[1]["z2"][:, [0, 2]]
    assert (len(np.unique(rest, axis=0)) == 1) == (others == "fixed")


def test_one_unit_is_traversed_too(seeded):
    model = VLAE((4, 4, 1), latent_dims=(1, 2), filters=(2, 3))
    figure = figures.traversals(model, random_images((4, 4, 1), 5), 3, "fixed", side=3)
    assert [ax.get_ylabel() for ax in figure.axes] == ["", "z2[1]"]


@pytest.mark.parametrize("kind", [VLAE, GaussianHVAE])
def test_one_layer_is_resampled(kind, generated, seeded):
    """Noise of one layer differs from image to image, that of the others is one for all."""
    model = with_random_weights(kind((4, 4, 1), latent_dims=(2, 3, 2), filters=(2, 3)))
    calls = generated(model)
    figure = figures.layer_resampling(model, 3, side=4)
    assert headings(figure) == [f"noise of z{i} drawn" for i in (1, 2, 3)]
    assert len(calls) == 3
    fixed = {}
    for drawn, call in zip(("z1", "z2", "z3"), calls):
        above = None
        for site in ("z3", "z2", "z1"):
            loc, scale = model.prior(int(site[1:]) - 1, above)
            noise, above = np.array((call[site] - loc) / scale), call[site]
            if site == drawn:
                assert noise.std(0).min() > 0.3
            else:
                np.testing.assert_allclose(noise, noise[:1] + 0 * noise, atol=5e-3)
                np.testing.assert_allclose(noise[0], fixed.setdefault(site, noise[0]), atol=5e-3)


def test_gibbs_samples_beside_ancestral_ones(seeded):
    model = GaussianHVAE((4, 4, 1), latent_dims=(2, 2), filters=(2, 3))
    x = random_images((4, 4, 1), 10)
    figure = figures.gibbs_samples(model, x, 3, side=3, num_steps=4)
    assert headings(figure) == ["Gibbs chain, step 4", "ancestral samples"]
    again = figures.gibbs_samples(model, x, 3, side=3, num_steps=4)
    sheets = [np.asarray(ax.images[0].get_array()) for ax in (*figure.axes, *again.axes)]
    assert sheets[0].shape == sheets[1].shape == (15, 15)
    np.testing.assert_array_equal(sheets[0], sheets[2])
    np.testing.assert_array_equal(sheets[1], sheets[3])
    chain = evaluation.gibbs_chain(model, x[:9], 4, figures.stateless_seed(3, 20)).mean[-1]
    np.testing.assert_allclose(sheets[0][5:9, 10:14], chain[5, ..., 0], atol=1e-6)


def test_image_sheets(seeded):
    images = random_images((3, 2, 1), 12).reshape(4, 3, 3, 2, 1)
    figure = plotting.image_sheets(
        {"a": images, "b": images}, "two", (-1.0, 1.0), {"a": ("u", "v")}
    )
    left, right = figure.axes
    np.testing.assert_array_equal(left.images[0].get_array()[:3, :2], images[3, 0, ..., 0])
    assert (left.get_xlabel(), left.get_ylabel(), right.get_xlabel()) == ("u", "v", "")
    np.testing.assert_allclose(left.images[0].get_extent(), [-1.5, 1.5, -4 / 3, 4 / 3])
    figure = plotting.image_sheets({"a": np.repeat(images, 3, -1)})
    np.testing.assert_array_equal(
        figure.axes[0].images[0].get_array()[:3, :2, 0], images[0, 0, ..., 0]
    )
    with pytest.raises(ValueError, match=r"sheets of one shape, received: \[\]"):
        plotting.image_sheets({})
    with pytest.raises(ValueError, match="sheets of one shape"):
        plotting.image_sheets({"a": images, "b": images[1:]})
    with pytest.raises(ValueError, match="2 by 2 images, received: 4 by 1"):
        plotting.image_sheets({"a": images[:, :1]}, limits=(-1, 1))


# Mistakes and configurations
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: VLAE((8, 8, 1), latent_dims=()), r"one or more latent_dims.*latent_dims=\(\)"),
        (lambda: VLAE((8, 8, 1), filters=(4,)), r"two or more filters.*filters=\(4,\)"),
        (
            lambda: VLAE((8, 8, 1), trunk="dense", filters=(4, 5)),
            r'as many filters for trunk="dense". Received: latent_dims=\(2, 2, 2\), filters=\(4, 5\)',
        ),
        (
            lambda: VLAE((8, 8, 1), trunk="conv_medium", latent_dims=(2,), filters=(4,)),
            "two or more latent_dims, and as many filters",
        ),
        (
            lambda: VLAE((8, 6, 1)),
            r"multiples of 4, for 2 convolutions of stride 2. Received: event_shape=\(8, 6, 1\)",
        ),
        (
            lambda: VLAE((12, 8, 1), trunk="conv_medium", latent_dims=(2,) * 4, filters=(2,) * 4),
            "multiples of 8, for 3 convolutions",
        ),
        (lambda: GaussianHVAE((8, 6, 1)), "multiples of 4"),
        (lambda: GaussianHVAE((8, 8, 1), filters=(4,)), r"two filters. Received: filters=\(4,\)"),
        (lambda: VLAE((8, 8, 1), output_scale=0.0), "positive output_scale. .*output_scale=0.0"),
        (lambda: GaussianHVAE((8, 8, 1), output_scale=-1.0), "output_scale=-1.0"),
        (lambda: VLAE((8, 8, 1), scale="exp"), "scale='exp'"),
        (lambda: ConvolutionStack((), ()), r"Received: filters=\(\), strides=\(\)"),
        (lambda: ConvolutionStack((2, 3), (2,)), r"filters=\(2, 3\), strides=\(2,\)"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_convolution_stack_of_any_size_and_saving():
    stack = ConvolutionStack((3, 2), (2, 1))
    assert stack.compute_output_shape((None, 6, 8, 1)) == (None, 3, 4, 2)
    x = random_images((6, 8, 1))
    assert stack(x).shape == (3, 3, 4, 2)
    clone = ConvolutionStack.from_config(stack.get_config())
    clone.build(x.shape)
    clone.set_weights(stack.get_weights())
    np.testing.assert_array_equal(clone(x), stack(x))
    up = ConvolutionStack((3,), (2,), None, False, True)
    assert up(stack(x)).shape == (3, 6, 8, 3)


def test_paper_variants(seeded):
    """Weights of the two losses per pixel: 1 / (2 sigma²) and 1 / scale."""
    weights = {
        "mnist": (4, 8), "fashion_mnist": (4, 8), "svhn": (16, 8), "celeba": (64, 1)
    }  # fmt: skip
    for name, (squared, absolute) in weights.items():
        config = configuration.load(f"{CONFIGS}:{name}")
        configuration.check(config)
        assert config.dataset.name == name and config.model.density == "gaussian"
        assert 0.5 / config.model.output_scale**2 == pytest.approx(squared)
        other = configuration.load(f"{CONFIGS}:{name}-l1")
        assert other.model.density == "laplace"
        assert 1.0 / other.model.output_scale == pytest.approx(absolute)
        assert len(config.model.latent_dims) == (3 if "mnist" in name else 4)
    with pytest.raises(RunError, match="variant among: mnist, mnist-l1, .* Received: 'lsun'"):
        configuration.load(f"{CONFIGS}:lsun")


def test_training_keeps_the_seed(seeded):
    """Two short trainings from one seed end in the same weights."""
    from tfhvae.objectives import Objective

    ends = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        model = VLAE((4, 4, 1), "gaussian", latent_dims=(2, 2), filters=(2, 3))
        objective = Objective(kl="analytic", beta=ExponentialWarmup(2))
        model.compile(keras.optimizers.Adam(1e-2), objective, seed=4, run_eagerly=True)
        data = tf.data.Dataset.from_tensors(random_images((4, 4, 1))).repeat(2)
        history = model.fit(data, verbose=0).history
        ends.append(model.get_weights())
    for a, b in zip(*ends):
        np.testing.assert_array_equal(a, b)
    assert 0.0 < history["beta"][0] < 1.0
