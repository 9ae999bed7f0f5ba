"""Autoregressive images: what each pixel sees, that probabilities sum to one, and that drawing
pixel by pixel from kept activations equals drawing with a full pass for each."""

import itertools

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tfhvae import configuration, evaluation, figures, models
from tfhvae.distributions import Autoregressive
from tfhvae.layers import MaskedBlock, MaskedConv2D, PixelCNN
from tfhvae.models.parts import AutoregressiveDecoder

SIZE = 9  # of the images on which reach is measured
HERE = 4  # the pixel in their middle


def shaken(layer, input_shape=None, seed=0):
    """The layer with weights that are all different from zero and from each other."""
    if input_shape is not None:
        layer.build(input_shape)
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        value = rng.normal(0.0, 0.4, weight.shape)
        weight.assign(np.abs(value) + 0.3 if "variance" in weight.path else value)
    return layer


def seen_by_convolution(kernel_size, mask):
    """Offsets `(row, column)` that one masked convolution lets a pixel see."""
    reach = range(-(kernel_size // 2), kernel_size // 2 + 1)
    offsets = {(i, j) for i in reach for j in reach if (i, j) < (0, 0)}
    return offsets | ({(0, 0)} if mask == "B" else set())


def seen_by_stack(layers):
    """Offsets that a stack lets a pixel see, by following every path."""
    seen = {(0, 0)}
    for kernel_size, mask in layers:
        step = seen_by_convolution(kernel_size, mask)
        seen = {(a + c, b + d) for a, b in seen for c, d in step}
    return seen


STACKS = {
    "A": (lambda: MaskedConv2D(4, 5, "A"), [(5, "A")], 1),
    "B": (lambda: MaskedConv2D(4, 3, "B"), [(3, "B")], 1),
    "residual": (lambda: MaskedBlock(4, activation="softplus"), [(3, "B")] * 2, 4),
    "gated": (lambda: MaskedBlock(4, 5, "gated", normalization=None), [(5, "B")], 4),
    "PixelCNN": (
        lambda: PixelCNN(2, 4, 5, 1, activation="softplus", plain_kernel_sizes=(3, 1)),
        [(5, "A"), (3, "B"), (3, "B"), (3, "B")],
        1,
    ),
    "PixelCNN gated": (
        lambda: PixelCNN(
            1, 4, 3, 2, kind="gated", activation="tanh", normalization=None, plain_kernel_sizes=()
        ),
        [(3, "A"), (3, "B"), (3, "B")],
        1,
    ),
}


@pytest.mark.parametrize("name", STACKS)
def test_a_pixel_sees_what_it_may_and_all_of_it(name):
    """The gradient of the middle pixel's output is zero outside of what every path through the
    masks reaches, and nowhere within."""
    make, layers, channels = STACKS[name]
    layer = shaken(make(), (None, SIZE, SIZE, channels))
    x = tf.random.stateless_normal([1, SIZE, SIZE, channels], [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = tf.reduce_sum(tf.square(layer(x)[0, HERE, HERE]))
    gradient = np.abs(tape.gradient(output, x).numpy()[0]).max(-1)
    expected = np.zeros((SIZE, SIZE), bool)
    for i, j in seen_by_stack(layers):
        if 0 <= HERE + i < SIZE and 0 <= HERE + j < SIZE:
            expected[HERE + i, HERE + j] = True
    np.testing.assert_array_equal(gradient != 0, expected)


@pytest.mark.parametrize("mask", ["A", "B"])
def test_colours_come_one_after_the_other(mask):
    """Within a pixel, a map of colour c sees colours before c, and its own with mask B; of the
    pixels before it, all colours; of the context, all that lies in the kernel's rows."""
    colors, context = 3, 2
    layer = shaken(MaskedConv2D(7, 3, mask, colors, context), (None, 5, 5, colors + context))
    x = tf.random.stateless_normal([1, 5, 5, colors + context], [1, 2])
    for channel in range(7):
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = layer(x)[0, 2, 2, channel]
        seen = tape.gradient(output, x).numpy()[0] != 0
        color = channel % colors
        visible = [c < color if mask == "A" else c <= color for c in range(colors)]
        np.testing.assert_array_equal(seen[2, 2, :colors], visible)
        assert seen[1, 1:4].all() and seen[2, 1].all()
        assert not seen[2, 3, :colors].any() and not seen[3:].any()
        assert seen[2, 2:4, colors:].all() and not seen[:, [0, 4]].any()


def test_masked_convolution_is_a_convolution_with_zeros():
    layer = shaken(MaskedConv2D(3, 5, "B", colors=2), (None, 6, 7, 2))
    full = keras.layers.Conv2D(3, 5, padding="same")
    full.build((None, 6, 7, 2))
    kernel = np.zeros(full.kernel.shape, np.float32)
    kernel[: layer.rows] = layer.kernel * layer.kernel_mask(2)
    full.kernel.assign(kernel)
    full.bias.assign(layer.bias)
    x = tf.random.stateless_normal([2, 3, 6, 7, 2], [1, 2])
    expected = tf.reshape(full(tf.reshape(x, [6, 6, 7, 2])), [2, 3, 6, 7, 3])
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaskedConv2D(4, 4), "kernel_size to be odd. Received: kernel_size=4"),
        (lambda: MaskedConv2D(4, 3, "C"), "mask to be 'A' or 'B'. Received: mask='C'"),
        (lambda: MaskedConv2D(4, 3, context_channels=-1), "Received: context_channels=-1"),
        (lambda: MaskedConv2D(4, 3, context_channels=1.5), "Received: context_channels=1.5"),
        (lambda: MaskedConv2D(4, 3, context_channels=2).build((None, 3, 3, 2)), "more than"),
        (lambda: MaskedBlock(4, kind="dense"), "Received: kind='dense'"),
        (lambda: MaskedBlock(4, kind="gated", colors=3), "multiple of colors. Received: filters=4"),
        (lambda: MaskedBlock(4, normalization="layer"), "Received: normalization='layer'"),
        (lambda: MaskedBlock(4).build((None, 3, 3, 5)), "expected inputs with 4 channels"),
        (lambda: PixelCNN(2, colors=3), "Received: outputs=2, colors=3"),
        (lambda: PixelCNN(1, first_kernel_size=1), "Received: first_kernel_size=1"),
        (lambda: PixelCNN(1, first_kernel_size=4), "Received: first_kernel_size=4"),
        (lambda: PixelCNN(1, plain_kernel_sizes=(1, 2)), "Received: plain_kernel_sizes=.1, 2."),
        (lambda: PixelCNN(1).build((None, 3, 3, 2)), "expected 1 input channels"),
        (lambda: AutoregressiveDecoder((3, 3, 1), "gaussian"), "Received: likelihood='gaussian'"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Probabilities
# -------------------------------------------------------------------------------------------------


def binary_images(height, width, colors=1):
    pixels = height * width * colors
    values = list(itertools.product([0.0, 1.0], repeat=pixels))
    return np.asarray(values, np.float32).reshape(-1, height, width, colors)


def decoder(shape, likelihood="bernoulli", context_channels=0, **settings):
    keras.utils.set_random_seed(0)
    settings = {"filters": 6, "first_kernel_size": 3, "blocks": 1, **settings}
    return shaken(
        AutoregressiveDecoder(shape, likelihood, context_channels=context_channels, **settings)
    )


def context_of(layer, count, seed=3):
    if not layer.context_channels:
        return None
    shape = [count, *layer.event_shape[:2], layer.context_channels]
    return tf.random.stateless_normal(shape, [seed, 0])


@pytest.mark.parametrize("context_channels", [0, 2])
@pytest.mark.parametrize("kind", ["residual", "gated"])
@pytest.mark.parametrize("shape", [(2, 2, 1), (3, 3, 1), (2, 2, 2)])
def test_probabilities_of_all_images_sum_to_one(shape, kind, context_channels):
    layer, x = decoder(shape, context_channels=context_channels, kind=kind), binary_images(*shape)
    p = layer.distribution(context_of(layer, 1))
    log_p = np.float64(p.log_prob(x))
    assert log_p.std() > 0.05  # no uniform distribution
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-5)


def test_probabilities_of_grey_images_sum_to_one():
    layer = decoder((1, 2, 1), "discretized_logistic")
    levels = (np.arange(256) + 0.5) / 256
    x = np.stack(np.meshgrid(levels, levels), -1).reshape(-1, 1, 2, 1).astype(np.float32)
    assert np.exp(np.float64(layer.distribution().log_prob(x))).sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["pixel_hvae", "fame"])
def test_probabilities_given_latents_sum_to_one(name):
    settings = {
        "pixel_hvae": {"latent_dims": (3, 2), "hidden_units": 5, "width": 0.1, "pixel_filters": 4},
        "fame": {
            "latent_dims": (3, 2), "hidden_units": (5, 4), "filters": (4, 4), "pixel_filters": 4,
            "first_kernel_size": 3,
        },
    }[name]  # fmt: skip
    class_name = configuration.MODELS[name].class_name
    model = shaken(getattr(models, class_name)((3, 3, 1), **settings))
    latents = model.generate(2, seed=1).latents
    p = model.decode({site: z[:, np.newaxis] for site, z in latents.items()})
    log_p = np.float64(p.log_prob(binary_images(3, 3)[np.newaxis].repeat(2, 0)))
    assert log_p.shape == (2, 512)
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1.0, atol=1e-5)


# Draws
# -------------------------------------------------------------------------------------------------


def drawn_with_a_full_pass_each(layer, context, uniform):
    """The sampler that runs the whole network once for every value."""
    x = np.zeros_like(uniform)
    for index in itertools.product(*map(range, layer.event_shape)):
        p = layer.distribution(context).conditional(x)
        x[(slice(None), *index)] = p.from_uniform(uniform).numpy()[(slice(None), *index)]
    return x


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("shape", "likelihood", "context_channels", "settings"),
    [
        ((5, 4, 1), "bernoulli", 0, {}),
        ((4, 5, 1), "bernoulli", 2, {"first_kernel_size": 7, "plain_kernel_sizes": (3, 3)}),
        ((4, 3, 3), "bernoulli", 1, {"kind": "gated", "blocks": 2}),
        ((3, 4, 2), "discretized_logistic", 1, {"normalization": None}),
    ],
)
def test_kept_activations_give_the_same_images(
    shape, likelihood, context_channels, settings, compiled
):
    layer = decoder(shape, likelihood, context_channels, **settings)
    context, uniform = context_of(layer, 6), np.random.default_rng(1).random((6, *shape), "f")
    expected = drawn_with_a_full_pass_each(layer, context, uniform)
    draw = layer._sample if compiled else layer._sample_images
    x, parameters = draw(context, tf.constant(uniform))
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_allclose(parameters, layer.parameters(x, context), atol=1e-4)
    assert len(np.unique(x)) > 1


def test_frequencies_of_draws_are_their_probabilities():
    """Chi-squared over the 16 images of 2×2 pixels, in two contexts: false alarm 1e-4 each."""
    layer, x, count = decoder((2, 2, 1), context_channels=1), binary_images(2, 2), 20_000
    for seed in (3, 4):
        context = context_of(layer, 1, seed)
        p = layer.distribution(tf.repeat(context, count, 0))
        assert isinstance(p, Autoregressive) and p.batch_shape == [count]
        draws = p.sample(seed=[seed, 7]).numpy().reshape(count, 4)
        counts = np.bincount((draws @ [8, 4, 2, 1]).astype(int), minlength=16)
        probabilities = np.exp(np.float64(layer.distribution(context).log_prob(x)))
        expected = count * probabilities / probabilities.sum()
        assert expected.min() > 5
        assert scipy.stats.chisquare(counts, expected).pvalue > 1e-4


def test_draws_do_not_depend_on_how_many_are_drawn_together():
    """Groups have a fixed size, so that the loop is compiled once; the rest is thrown away."""
    layer = decoder((3, 4, 1), context_channels=1)
    context, uniform = context_of(layer, 70), np.random.default_rng(1).random((70, 3, 4, 1), "f")

    def draws(part):
        return layer._sample_in_groups(tf.constant(uniform[part]), context[part])[0]

    together = draws(slice(None))
    for part in (slice(0, 3), slice(60, 70)):
        np.testing.assert_array_equal(draws(part), together[part])


def test_without_the_image_one_pass_draws():
    """ "No concatenation": pixels are independent given the context, and what the decoder says is
    what one that sees the image says of an image of zeros."""
    settings = {"context_channels": 2, "joins_image": False}
    layer, twin = decoder((4, 3, 1), **settings), decoder((4, 3, 1), context_channels=2)
    context = context_of(layer, 5)
    p = layer.distribution(context)
    assert not isinstance(p, Autoregressive)
    zeros = tf.zeros([5, 4, 3, 1])
    np.testing.assert_allclose(p.mean(), twin.distribution(context).conditional(zeros).mean())


def test_mixed_precision_keeps_logits_in_float32():
    keras.utils.set_random_seed(0)
    layer = PixelCNN(1, 8, 3, 1, context_channels=1, dtype="mixed_bfloat16")
    layer.build((None, 4, 4, 2))
    x = tf.random.stateless_uniform([2, 4, 4, 2], [1, 2])
    assert layer(x).dtype == tf.float32
    same = PixelCNN(1, 8, 3, 1, context_channels=1)
    same.build((None, 4, 4, 2))
    for weight, value in zip(same.weights, layer.weights):
        weight.assign(value)
    np.testing.assert_allclose(layer(x), same(x), atol=0.05)
    uniform = tf.random.stateless_uniform([2, 4, 4, 1], [3, 4])

    def to_pixel(p, u):
        return tf.cast(u < tf.sigmoid(p), tf.float32)

    draws, _ = layer.sample(x[..., 1:], uniform, to_pixel)  # in full precision
    np.testing.assert_array_equal(draws, same.sample(x[..., 1:], uniform, to_pixel)[0])


# Models
# -------------------------------------------------------------------------------------------------


def small_fame(**settings):
    keras.utils.set_random_seed(0)
    return models.FAME(
        (7, 6, 1),
        **{
            "latent_dims": (4, 3, 2), "hidden_units": (6, 5, 4), "filters": (3, 4, 5),
            "pixel_filters": 4, "first_kernel_size": 3, "blocks": 1, **settings,
        },
    )  # fmt: skip


def test_fame_without_its_pixel_cnn_is_a_ladder_vae():
    """Its record, from the Gaussians that its networks give, written out for a ladder: Sønderby et
    al. 2016b, Eqs. 13 to 19."""
    model = shaken(small_fame(decoder="independent"))
    x = tf.cast(tf.random.stateless_uniform([3, 7, 6, 1], [1, 2]) < 0.5, tf.float32)
    noise = model.noise(4, 3, 2)
    trace = model.trace(x, noise=noise)
    upward = [[np.float64(t) for t in gaussian] for gaussian in model.infer_upward(x)]
    p, above = (np.zeros(2), np.ones(2)), None
    for level in (2, 1, 0):
        site = f"z{level + 1}"
        loc, scale = upward[level]
        if above is not None:
            p = [np.float64(t) for t in model.prior(level, tf.constant(above, tf.float32))]
            precision, p_precision = scale**-2.0, p[1] ** -2.0
            loc = (loc * precision + p[0] * p_precision) / (precision + p_precision)
            scale = (precision + p_precision) ** -0.5
        above = loc + scale * noise[site].numpy()
        record = trace.sites[site]
        np.testing.assert_allclose(record.value, above, rtol=1e-4, atol=1e-4)
        log_q = scipy.stats.norm.logpdf(above, loc, scale).sum(-1)
        log_p = scipy.stats.norm.logpdf(above, *p).sum(-1)
        np.testing.assert_allclose(record.log_q, log_q, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(record.log_p, log_p, rtol=1e-3, atol=1e-3)
    maps = model.maps_below(0, tf.constant(above, tf.float32))
    logits = np.float64(model.pixels(maps))
    expected = np.sum(x * logits - np.logaddexp(0.0, logits), axis=(-3, -2, -1))
    np.testing.assert_allclose(trace.log_px, expected, rtol=1e-4)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (8, 8, 1), (20, 28, 1), (5, 3, 1)])
def test_fame_takes_any_size(shape):
    model = models.FAME(
        shape, hidden_units=(4,) * 5, filters=(2,) * 5, pixel_filters=2, first_kernel_size=3
    )
    sizes = [maps[:2] for maps in model.maps]
    for below, above in zip(sizes, sizes[1:]):
        assert above == tuple(-(-side // 2) for side in below)
    assert model.trace(tf.zeros([2, *shape])).log_px.shape == [1, 2]


def test_masked_reconstructions_leave_one_path():
    """Without the image's path the picture does not depend on the image's pixels but through z;
    without z's path, not on z."""
    model = small_fame()
    x = tf.cast(tf.random.stateless_uniform([3, 7, 6, 1], [1, 2]) < 0.5, tf.float32)
    a, b = (model.masked_reconstructions(x, model.noise(seed, 3)) for seed in (4, 5))
    np.testing.assert_array_equal(a["image"], b["image"])
    assert np.abs(a["latents"] - b["latents"]).max() > 1e-3
    assert np.abs(a["image"][0] - a["image"][1]).max() > 1e-3
    for settings in ({"concatenate": False}, {"decoder": "independent"}):
        with pytest.raises(ValueError, match="whose inputs can be masked"):
            small_fame(**settings).masked_reconstructions(x, model.noise(4, 3))
    assert len(figures.masked_reconstructions(model, x, 0, count=10).axes) > 0  # of fewer images


def test_fame_checks_its_widths():
    with pytest.raises(ValueError, match=r"filters for each .* filters=\(4, 5\)"):
        small_fame(filters=(4, 5))


def test_the_likelihood_without_latents_is_exact():
    """However many samples are asked for, one pass gives log p(x)."""
    keras.utils.set_random_seed(0)
    model = shaken(models.PixelCNNModel((2, 3, 1), pixel_filters=4, first_kernel_size=3, blocks=1))
    x = binary_images(2, 3)
    estimate = evaluation.log_likelihood(model, x, 5000, jit_compile=False)
    np.testing.assert_allclose(estimate, model.decode({}).log_prob(x), rtol=1e-5)
    assert np.exp(estimate).sum() == pytest.approx(1.0, abs=1e-5)
    terms = evaluation.bound_terms(model, x, num_samples=3)
    assert terms.keys() == {"log_px", "importance_weighted", "elbo"}
    for bound in terms.values():
        np.testing.assert_allclose(bound, estimate, rtol=1e-5)
