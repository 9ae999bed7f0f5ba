"""Every layer keeps the Keras contract, and computes what its formula says."""

import ast
import json
import pathlib
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

import tfhvae.layers
from tfhvae.layers import (
    MLP,
    BatchNormalization,
    Fold,
    GatedConv2D,
    GatedDense,
    GaussianHead,
    JointDense,
    MaskedBlock,
    MaskedConv2D,
    PixelCNN,
    PrecisionWeightedMerge,
)

VECTORS = (5, 2, 3, 4)  # [S, Y, B, D]
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
IMAGES = (2, 3, 6, 5, 2)  # [S, B, H, W, C]
JOINT = [(5, 1, 3, 4), (3, 6), (2, 1, 2)]  # [S, 1, B, A], [B, D], [Y, 1, C]
PAIRS = (((3, 4), (3, 4)), ((5, 1, 4), (5, 1, 4)))  # (loc, scale), (loc, scale)


class Case(NamedTuple):
    make: Callable  # keyword arguments of keras.layers.Layer -> the layer
    shapes: object  # of the inputs, nested as the layer takes them


# The one list of layers. Each property below holds for every line.
LAYERS = {
    "GatedDense": Case(lambda **kw: GatedDense(3, **kw), (3, 4)),
    "GatedDense tanh": Case(
        lambda **kw: GatedDense(3, "tanh", "hard_sigmoid", "he_normal", "random_normal", **kw),
        VECTORS,
    ),
    "MLP": Case(lambda **kw: MLP([7, 3], **kw), VECTORS),
    "MLP batch": Case(lambda **kw: MLP([7, 3], "tanh", "batch", **kw), VECTORS),
    "MLP layer": Case(
        lambda **kw: MLP([7, 3], keras.layers.LeakyReLU(0.1), "layer", **kw), VECTORS
    ),
    "MLP gated": Case(
        lambda **kw: MLP([7, 3], None, gated=True, kernel_initializer="he_normal", **kw), VECTORS
    ),
    "JointDense": Case(lambda **kw: JointDense(3, **kw), JOINT),
    "JointDense gated": Case(lambda **kw: JointDense(3, "tanh", gated=True, **kw), JOINT),
    "JointDense without bias": Case(lambda **kw: JointDense(3, use_bias=False, **kw), JOINT[:1]),
    "GaussianHead softplus": Case(lambda **kw: GaussianHead(3, **kw), VECTORS),
    "GaussianHead batch": Case(lambda **kw: GaussianHead(3, normalization="batch", **kw), VECTORS),
    "GaussianHead clipped": Case(
        lambda **kw: GaussianHead(3, "clipped_log_variance", (-3, 3), **kw), VECTORS
    ),
    "PrecisionWeightedMerge": Case(PrecisionWeightedMerge, PAIRS),
    "PrecisionWeightedMerge flat": Case(PrecisionWeightedMerge, ((3, 4),) * 4),
    "GatedConv2D": Case(lambda **kw: GatedConv2D(3, 3, **kw), IMAGES),
    "GatedConv2D valid": Case(
        lambda **kw: GatedConv2D(3, (3, 2), strides=2, padding="valid", activation="elu", **kw),
        IMAGES[1:],
    ),
    "MaskedConv2D": Case(lambda **kw: MaskedConv2D(3, 3, "A", 2, **kw), IMAGES),
    "MaskedConv2D context": Case(
        lambda **kw: MaskedConv2D(3, 5, context_channels=1, use_bias=False, **kw), IMAGES[1:]
    ),
    "MaskedBlock": Case(lambda **kw: MaskedBlock(2, **kw), IMAGES),
    "MaskedBlock gated": Case(
        lambda **kw: MaskedBlock(2, 5, "gated", normalization=None, colors=2, **kw), IMAGES[1:]
    ),
    "PixelCNN": Case(lambda **kw: PixelCNN(2, 4, 3, 1, colors=2, **kw), IMAGES),
    "PixelCNN gated": Case(
        lambda **kw: PixelCNN(
            3, 4, 3, 1, kind="gated", plain_kernel_sizes=(), context_channels=1, **kw
        ),
        IMAGES[1:],
    ),
    "Fold Conv2D": Case(
        lambda **kw: Fold(keras.layers.Conv2D(3, 3, strides=2, **kw), event_rank=3, **kw), IMAGES
    ),
    "Fold GaussianHead": Case(
        lambda **kw: Fold(GaussianHead(3, **kw), event_rank=1, **kw), VECTORS
    ),
    "BatchNormalization": Case(BatchNormalization, VECTORS),
    "BatchNormalization fused": Case(lambda **kw: BatchNormalization(fused=True, **kw), IMAGES),
    "BatchNormalization without scale": Case(
        lambda **kw: BatchNormalization(0.9, 1e-4, scale=False, **kw), (3, 4)
    ),
    "Fold BatchNormalization": Case(
        lambda **kw: Fold(keras.layers.BatchNormalization(**kw), event_rank=1, **kw), VECTORS
    ),
}

every_layer = pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())


def is_shape(shapes):
    return all(isinstance(size, (int, type(None))) for size in shapes)


def map_shapes(function, shapes):
    """Applies `function` to every shape, and keeps the nesting."""
    if is_shape(shapes):
        return function(shapes)
    return type(shapes)(map_shapes(function, shape) for shape in shapes)


def random_inputs(shapes, seed=1):
    """Positive numbers, so that any of them may be a scale."""
    rng = np.random.default_rng(seed)
    return map_shapes(lambda s: rng.gamma(2.0, 0.5, s).astype("float32"), shapes)


def built(case, **kwargs):
    keras.utils.set_random_seed(0)
    layer = case.make(**kwargs)
    layer.build(case.shapes)
    return layer


def functional_model(case):
    """The layer in a functional model with leading axes of unknown length."""
    inputs = map_shapes(lambda s: keras.Input(batch_shape=unknown_batch(s)), case.shapes)
    return keras.Model(inputs, case.make()(inputs))


def unknown_batch(shape):
    """The shape with an unknown size wherever the size does not broadcast."""
    event_rank = 3 if shape in (IMAGES, IMAGES[1:]) else 1
    leading = tuple(None if size > 1 else 1 for size in shape[:-event_rank])
    return leading + tuple(shape[-event_rank:])


def flat(outputs):
    return [np.asarray(x) for x in keras.tree.flatten(outputs)]


def assert_close(actual, expected, **tolerance):
    actual, expected = flat(actual), flat(expected)
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        assert a.shape == e.shape
        np.testing.assert_allclose(a.astype("float32"), e, **tolerance)


def test_list_of_layers_is_complete():
    listed = {type(case.make()).__name__ for case in LAYERS.values()}
    assert listed == set(tfhvae.layers.__all__)


@every_layer
def test_shapes(case):
    layer = built(case)
    outputs = layer(random_inputs(case.shapes))
    shapes = [tuple(x.shape) for x in keras.tree.flatten(outputs)]
    computed = layer.compute_output_shape(case.shapes)
    assert shapes == ([computed] if is_shape(computed) else list(computed))


@every_layer
def test_symbolic_shapes_and_dtypes(case):
    model = functional_model(case)
    outputs = model(random_inputs(case.shapes))
    symbolic = keras.tree.flatten(model.output)
    for actual, spec in zip(keras.tree.flatten(outputs), symbolic, strict=True):
        assert len(actual.shape) == len(spec.shape)
        assert all(s in (a, None) for a, s in zip(actual.shape, spec.shape))
        assert keras.backend.standardize_dtype(actual.dtype) == spec.dtype


@every_layer
def test_config_round_trip(case):
    layer = case.make(name="a_name")
    config = keras.saving.serialize_keras_object(layer)
    restored = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
    assert type(restored) is type(layer)
    assert keras.saving.serialize_keras_object(restored) == config


@every_layer
def test_saved_model_gives_equal_outputs(case, tmp_path):
    model = functional_model(case)
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    x = random_inputs(case.shapes)
    assert_close(restored(x), flat(model(x)), rtol=0)


@every_layer
def test_gradients_reach_every_weight_and_input(case):
    layer = built(case)
    x = keras.tree.map_structure(tf.constant, random_inputs(case.shapes))
    rng = np.random.default_rng(2)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = keras.tree.flatten(layer(x, training=True))
        loss = sum(tf.reduce_sum(tf.cast(y, "float32") * rng.normal(size=y.shape)) for y in outputs)
    sources = [w.value for w in layer.trainable_weights] + keras.tree.flatten(x)
    for gradient in tape.gradient(loss, sources):
        assert gradient is not None
        assert np.all(np.isfinite(gradient))
        assert np.any(gradient != 0)


@every_layer
@pytest.mark.parametrize("policy, error", [("mixed_bfloat16", 0.03), ("mixed_float16", 0.004)])
def test_mixed_precision(case, policy, error):
    x = random_inputs(case.shapes)
    single = built(case)
    mixed = built(case, dtype=keras.DTypePolicy(policy))
    mixed.set_weights(single.get_weights())
    outputs = mixed(x)
    assert_close(outputs, flat(single(x)), rtol=error, atol=error)
    assert all(w.dtype == "float32" for w in mixed.weights)
    specs = keras.tree.flatten(
        mixed(map_shapes(lambda s: keras.KerasTensor(s, dtype="float32"), case.shapes))
    )
    for y, spec in zip(keras.tree.flatten(outputs), specs):
        assert keras.backend.standardize_dtype(y.dtype) == spec.dtype


@every_layer
def test_eager_graph_and_xla_agree(case):
    layer = built(case)
    x = keras.tree.map_structure(tf.constant, random_inputs(case.shapes))
    eager = flat(layer(x))
    assert_close(tf.function(layer)(x), eager, rtol=1e-5, atol=1e-6)
    assert_close(tf.function(layer, jit_compile=True)(x), eager, rtol=1e-5, atol=1e-6)


def test_layers_import_neither_tfp_nor_the_rest_of_the_package():
    script = "import sys, tfhvae.layers; print([*sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    modules = ast.literal_eval(result.stdout.splitlines()[-1])
    assert not [m for m in modules if m.split(".")[0] in ("tensorflow_probability", "tf_keras")]
    own = [m for m in modules if m.startswith("tfhvae.")]
    assert own and all(m.startswith("tfhvae.layers") for m in own)


def test_documented_example_runs(tmp_path, monkeypatch):
    page = pathlib.Path(__file__).parent.parent / "docs" / "importing-layers.md"
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    (tmp_path / "page.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    try:
        runpy.run_path("page.py")
    finally:
        keras.config.set_dtype_policy("float32")


# What each layer computes.


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def weights(*shapes, seed=3):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


def test_gated_dense_formula():
    layer = GatedDense(3, activation="tanh")
    layer.build((None, 4))
    kernel, bias = weights((4, 6), (6,))
    layer.set_weights([kernel, bias])
    (x,) = weights(VECTORS, seed=4)
    h = x @ kernel[:, :3] + bias[:3]
    g = x @ kernel[:, 3:] + bias[3:]
    assert_close(layer(x), np.tanh(h) * sigmoid(g), rtol=1e-4, atol=1e-5)


# The sample standard deviation of n normal draws is off by a relative error of
# sqrt(1 / 2n): with the 100,000 and more drawn here 5 % is 22 times that.
@pytest.mark.parametrize("dense", [GatedDense, lambda n: MLP([n], None, gated=True)])
def test_gated_dense_draws_weights_by_the_fan_in_of_one_unit(dense):
    layer = dense(500)
    layer.build((None, 100))
    assert np.std(layer.get_weights()[0]) == pytest.approx(np.sqrt(2 / 100), rel=0.05)


@pytest.mark.parametrize("gated, variance", [(True, 2 / 100), (False, 2 / (100 + 1000))])
def test_joint_dense_draws_weights_by_the_fan_in_of_all_inputs(gated, variance):
    layer = JointDense(1000, gated=gated)
    layer.build([(None, 70), (None, 20), (None, 10)])
    assert np.std(layer.get_weights()[0]) == pytest.approx(np.sqrt(variance), rel=0.05)


def operations(layer, inputs):
    """Operations in the graph of `layer(inputs)`, with their ranks."""
    inputs = keras.tree.map_structure(tf.constant, inputs)
    graph = tf.function(layer).get_concrete_function(inputs).graph
    return [(op.type, op.outputs[0].shape.rank) for op in graph.get_operations() if op.outputs]


@pytest.mark.parametrize(
    "layer, products",
    [
        (GatedDense(3), 1),
        (GaussianHead(3), 1),
        (MLP([3, 3, 3]), 3),
        (MLP([3], None, None, True), 1),
    ],
)
def test_products_are_two_dimensional(layer, products):
    types = operations(layer, random_inputs(VECTORS))
    assert types.count(("MatMul", 2)) == products
    assert not [t for t, _ in types if t.startswith("BatchMatMul")]


def test_joint_dense_neither_tiles_nor_concatenates():
    found = operations(JointDense(3, gated=True), random_inputs(JOINT))
    assert found.count(("MatMul", 2)) == 3
    of_tensors = {type_ for type_, rank in found if rank and rank > 1}
    assert not {"Tile", "BroadcastTo", "ConcatV2", "BatchMatMulV2"} & of_tensors


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shapes", [JOINT, JOINT[::-1], JOINT[:2], [(3, 4), (3, 2)]])
def test_joint_dense_is_dense_on_the_tiled_concatenation(gated, shapes):
    inputs = random_inputs(shapes)
    joint = JointDense(3, activation="tanh", gated=gated, bias_initializer="random_normal")
    outputs = joint(inputs)

    leading = np.broadcast_shapes(*(s[:-1] for s in shapes))
    tiled = np.concatenate([np.broadcast_to(x, (*leading, x.shape[-1])) for x in inputs], -1)
    dense = GatedDense(3, "tanh") if gated else keras.layers.Dense(3, "tanh")
    dense.build(tiled.shape)
    dense.set_weights(joint.get_weights())
    assert_close(outputs, flat(dense(tiled)), rtol=1e-4, atol=1e-5)


def test_mlp_is_the_stack_of_its_levels():
    x = random_inputs(VECTORS)
    mlp = MLP([7, 3], activation=keras.layers.LeakyReLU(0.1))
    y = mlp(x)
    kernel_1, bias_1, kernel_2, bias_2 = mlp.get_weights()
    h = x @ kernel_1 + bias_1
    h = np.maximum(h, 0.1 * h) @ kernel_2 + bias_2
    assert_close(y, np.maximum(h, 0.1 * h), rtol=1e-4, atol=1e-5)


def test_mlp_batch_statistics_are_taken_over_all_leading_axes():
    x = random_inputs(VECTORS)
    mlp = MLP([3], activation=None, normalization="batch")
    y = flat(mlp(x, training=True))[0]
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    h = x @ mlp.get_weights()[0]
    expected = (h - h.mean((0, 1, 2))) / np.sqrt(h.var((0, 1, 2)) + 1e-3)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4)
    assert not np.allclose(y, flat(mlp(x, training=False))[0])


def test_mlp_normalization_and_biases():
    def names(normalization):
        mlp = MLP([3], normalization=normalization)
        mlp.build((None, 4))
        return [w.name for w in mlp.weights]

    assert names(None) == ["kernel", "bias"]
    assert names("layer") == ["kernel", "bias", "gamma", "beta"]
    assert names("batch") == ["kernel", "gamma", "beta", "moving_mean", "moving_variance"]


@pytest.mark.parametrize("initializer", [None, keras.initializers.HeNormal()])
def test_mlp_levels_of_equal_shape_have_their_own_weights(initializer):
    mlp = MLP([4, 4], kernel_initializer=initializer)
    mlp.build((None, 4))
    assert not np.array_equal(mlp.get_weights()[0], mlp.get_weights()[2])


def head_with_pre_activations(a, scale, **kwargs):
    """A head's `(loc, scale)` where its bias is `(1, a)` and its kernel zero."""
    bias = np.stack([np.ones_like(a), a]).reshape(-1)
    head = GaussianHead(len(a), scale, kernel_initializer="zeros", **kwargs)
    x = np.ones((1, 2), "float32")
    head.build(x.shape)
    head.bias.assign(bias)
    with tf.GradientTape() as tape:
        loc, scale = head(x)
    np.testing.assert_array_equal(loc, np.ones((1, len(a))))
    return scale[0], tape.gradient(scale, head.bias.value)[len(a) :]


def test_gaussian_head_softplus():
    a = np.array([-1000, -100, -20, -1, 0, 1, 20, 1000], "float32")
    scale, gradient = head_with_pre_activations(a, "softplus_variance", min_variance=1e-5)
    variance = np.logaddexp(0, a.astype("float64")) + 1e-5
    np.testing.assert_allclose(scale, np.sqrt(variance), rtol=1e-5)
    expected = 0.5 / np.sqrt(variance) * np.exp(-np.logaddexp(0, -a.astype("float64")))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-30)


def test_gaussian_head_clipped():
    a = np.array([-1000, -6.5, -6, -5.9, 0, 1.9, 2, 2.1, 1000], "float32")
    scale, gradient = head_with_pre_activations(a, "clipped_log_variance")
    expected = np.exp(0.5 * np.clip(a, -6, 2))
    np.testing.assert_allclose(scale, expected, rtol=1e-6)
    inside = np.abs(a + 2) <= 4
    np.testing.assert_allclose(gradient, np.where(inside, 0.5 * expected, 0), rtol=1e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(6, 4), VECTORS])
def test_normalised_gaussian_head_is_product_normalisation_and_softplus(training, shape):
    head = GaussianHead(3, normalization="batch", min_variance=1e-3)
    head.build(shape)
    assert [w.name for w in head.trainable_weights] == ["kernel", "gamma", "beta"]
    kernel, gamma, beta, mean = weights((4, 6), (6,), (6,), (6,))
    variance = np.linspace(0.5, 2.0, 6, dtype="float32")
    head.set_weights([kernel, gamma, beta, mean, variance])
    (x,) = weights(shape, seed=4)
    loc, scale = head(x, training=training)

    y = np.float64(x) @ kernel
    rows = y.reshape(-1, 6)
    moments = (rows.mean(0), rows.var(0)) if training else (mean, variance)
    y = gamma * (y - moments[0]) / np.sqrt(moments[1] + 1e-3) + beta
    assert_close(loc, y[..., :3], rtol=1e-4, atol=1e-4)
    assert_close(scale, np.sqrt(np.logaddexp(0, y[..., 3:]) + 1e-3), rtol=1e-4)
    followed = 0.99 * variance + 0.01 * rows.var(0) if training else variance
    np.testing.assert_allclose(head.normalization_layer.moving_variance, followed, rtol=1e-5)


def test_gaussian_head_halves_are_one_product():
    head = GaussianHead(3, "clipped_log_variance")
    head.build((None, 4))
    kernel, bias = weights((4, 6), (6,))
    head.set_weights([kernel, bias])
    (x,) = weights(VECTORS, seed=4)
    loc, scale = head(x)
    assert_close(loc, x @ kernel[:, :3] + bias[:3], rtol=1e-4, atol=1e-5)
    log_variance = np.clip(x @ kernel[:, 3:] + bias[3:], -6, 2)
    assert_close(scale, np.exp(0.5 * log_variance), rtol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("layer", [GaussianHead, PrecisionWeightedMerge])
def test_gaussian_parameters_are_single_precision(layer, policy):
    if layer is GaussianHead:
        outputs = GaussianHead(3, dtype=policy)(random_inputs(VECTORS))
    else:
        outputs = PrecisionWeightedMerge(dtype=policy)(random_inputs(PAIRS))
    assert [x.dtype for x in outputs] == [tf.float32, tf.float32]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_gaussian_head_adds_its_bias_in_single_precision(policy):
    a = np.array([0.1234567], "float32")
    expected = np.sqrt(np.logaddexp(0, a) + 1e-6)
    scale, _ = head_with_pre_activations(a, "softplus_variance", dtype=policy)
    np.testing.assert_allclose(scale, expected, rtol=1e-6)


def extreme_gaussians():
    """Pairs of Gaussians whose variances lie between 1e-12 and 1e12, in both orders, equal ones
    included."""
    scales = 10.0 ** np.arange(-6, 7)
    grid = np.meshgrid([-3.0, 0.5], scales, [-1.0, 2.0], scales, indexing="ij")
    return [x.reshape(-1).astype("float32") for x in grid]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_merge_of_extreme_scales(policy, jit_compile):
    merge = PrecisionWeightedMerge(dtype=policy)
    arguments = [tf.constant(x) for x in extreme_gaussians()]

    @tf.function(jit_compile=jit_compile)
    def outputs_and_gradients(arguments):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(arguments)
            loc, scale = merge(arguments)
        return loc, scale, tape.gradient(loc, arguments), tape.gradient(scale, arguments)

    loc, scale, d_loc, d_scale = outputs_and_gradients(arguments)

    m1, s1, m2, s2 = (x.astype("float64") for x in extreme_gaussians())
    w1, w2 = s2**2 / (s1**2 + s2**2), s1**2 / (s1**2 + s2**2)
    s = np.sqrt(1 / (1 / s1**2 + 1 / s2**2))
    np.testing.assert_allclose(scale, s, rtol=1e-6)
    np.testing.assert_allclose(loc, w1 * m1 + w2 * m2, rtol=1e-6, atol=1e-6)
    tolerance = {"rtol": 1e-5, "atol": 1e-30}
    np.testing.assert_allclose(d_scale[1], (s / s1) ** 3, **tolerance)
    np.testing.assert_allclose(d_scale[3], (s / s2) ** 3, **tolerance)
    np.testing.assert_allclose(d_loc[0], w1, **tolerance)
    np.testing.assert_allclose(d_loc[2], w2, **tolerance)
    np.testing.assert_allclose(d_loc[1], 2 * w1 * w2 * (m2 - m1) / s1, **tolerance)
    np.testing.assert_allclose(d_loc[3], 2 * w1 * w2 * (m1 - m2) / s2, **tolerance)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("sharp_first", [True, False])
def test_merge_with_a_gaussian_that_knows_nothing_is_the_other_one(policy, sharp_first):
    """To the last bit: at this ratio of variances even a mean 1000 away adds nothing."""
    sharp = (tf.constant([0.7, -2.0]), tf.constant([1e-6, 0.3]))
    flat_one = (tf.constant([1000.7, -2.0]), tf.constant([1e6, 1e6]))
    pair = (sharp, flat_one) if sharp_first else (flat_one, sharp)
    merged = PrecisionWeightedMerge(dtype=policy)(pair)
    assert_close(merged, sharp, rtol=0)
    twice = PrecisionWeightedMerge(dtype=policy)((sharp, sharp))
    assert_close(twice, (sharp[0], sharp[1] / np.sqrt(2)), rtol=1e-6)


def test_merge_is_the_normalised_product_of_densities():
    rng = np.random.default_rng(5)
    m1, m2 = rng.normal(size=(2, 20))
    s1, s2 = rng.gamma(2.0, 0.5, size=(2, 20)) + 0.1
    m, s = flat(PrecisionWeightedMerge(dtype="float64")(((m1, s1), (m2, s2))))
    z = np.linspace(-3, 3, 50)[:, None]
    log_pdf = scipy.stats.norm.logpdf
    log_constant = log_pdf(z, m1, s1) + log_pdf(z, m2, s2) - log_pdf(z, m, s)
    # The constant is N(m1; m2, s1^2 + s2^2), whatever z is.
    expected = np.broadcast_to(log_pdf(m1, m2, np.hypot(s1, s2)), log_constant.shape)
    np.testing.assert_allclose(log_constant, expected, rtol=1e-9, atol=1e-9)


def twins(shape, momentum=0.9, epsilon=1e-2, fused=False):
    """Our batch normalisation and Keras', with the same weights."""
    ours = BatchNormalization(momentum, epsilon, fused=fused)
    theirs = keras.layers.BatchNormalization(momentum=momentum, epsilon=epsilon)
    values = [*weights((shape[-1],), (shape[-1],), (shape[-1],)), np.full(shape[-1], 1.5)]
    for layer in (ours, theirs):
        layer.build(shape)
        layer.set_weights(values)
    return ours, theirs


def outputs_and_gradients(layer, x, training):
    (direction,) = weights(x.shape, seed=8)
    with tf.GradientTape() as tape:
        x = tf.constant(x)
        tape.watch(x)
        y = layer(x, training=training)
        total = tf.reduce_sum(y * direction)
    return [y, *tape.gradient(total, [x, layer.gamma.value, layer.beta.value])]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(  # [B, D], [S, B, D], [B, H, W, D], [S, B, H, W, D]
    "shape", [(7, 4), (5, 3, 4), (3, 2, 5, 4), (2, 3, 2, 5, 4)]
)
def test_batch_normalization_is_that_of_keras(shape, fused, training):
    """Outputs, gradients and running averages, over three updates."""
    ours, theirs = twins(shape, fused=fused)
    assert [w.name for w in ours.weights] == [w.name for w in theirs.weights]
    for seed in range(3):
        (x,) = weights(shape, seed=seed)
        expected = outputs_and_gradients(theirs, 2 * x + 1, training)
        assert_close(outputs_and_gradients(ours, 2 * x + 1, training), expected, atol=1e-5)
    assert_close(ours.get_weights(), theirs.get_weights(), rtol=1e-5, atol=1e-6)
    assert (np.abs(ours.moving_variance - 1.5).min() > 0) == training


@pytest.mark.parametrize("fused", [False, True])
def test_frozen_batch_normalization_stays_as_it_is(fused):
    """As Keras' layer: one that is not trainable normalises by its running averages."""
    ours, theirs = twins(IMAGES, fused=fused)
    ours.trainable = theirs.trainable = False
    before = ours.get_weights()
    (x,) = weights(IMAGES)
    assert_close([ours(2 * x + 1, training=True)], [theirs(2 * x + 1, training=True)], atol=1e-5)
    for value, old in zip(ours.get_weights(), before):
        np.testing.assert_array_equal(value, old)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_fused_batch_normalization_with_weights_of_half_precision(dtype):
    (x,) = weights(IMAGES)
    ours, written_out = (BatchNormalization(fused=fused, dtype=dtype) for fused in (True, False))
    for training in (False, True):
        values = [layer(x, training=training) for layer in (ours, written_out)]
        assert values[0].dtype == dtype
        assert_close(*([tf.cast(value, "float32")] for value in values), atol=0.0)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("policy", POLICIES[:2])
def test_fused_batch_normalization_compiles(policy, training):
    (x,) = weights(IMAGES)
    layer = BatchNormalization(fused=True, dtype=policy)
    eager = layer(x, training=training)
    compiled = tf.function(lambda x: layer(x, training=training), jit_compile=True)(x)
    tolerance = 1e-5 if policy == "float32" else 2e-2
    assert_close([tf.cast(compiled, "float32")], [tf.cast(eager, "float32")], atol=tolerance)


def test_fused_batch_normalization_is_written_out_on_other_backends(monkeypatch):
    (x,) = weights(IMAGES)
    (fused, _), (written_out, _) = twins(IMAGES, fused=True), twins(IMAGES)
    monkeypatch.setattr(keras.backend, "backend", lambda: "another")
    assert_close([fused(x, training=True)], [written_out(x, training=True)], rtol=0, atol=0)


def test_batch_statistics_of_samples_are_those_of_the_folded_rows():
    (x,) = weights((5, 3, 4))
    (folded, _), (unfolded, _) = twins((15, 4)), twins((5, 3, 4))
    expected = folded(x.reshape(15, 4), training=True)
    assert_close(flat(unfolded(x, training=True))[0].reshape(15, 4), expected, rtol=1e-5, atol=1e-6)
    assert_close(unfolded.get_weights(), folded.get_weights(), rtol=1e-6)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("policy", POLICIES[1:])
def test_batch_statistics_are_single_precision(policy, fused):
    """Averages within 1e-5 of those of float32, which half precision cannot hold."""
    (x,) = weights(IMAGES if fused else VECTORS)
    x = np.asarray(tf.cast(x, policy.removeprefix("mixed_")), "float32")  # as the layer sees it
    mixed, single = BatchNormalization(fused=fused, dtype=policy), BatchNormalization()
    for _ in range(3):
        assert mixed(x, training=True).dtype == policy.removeprefix("mixed_")
        single(x, training=True)
    assert [w.dtype for w in mixed.weights] == ["float32"] * 4
    assert_close(mixed.get_weights(), single.get_weights(), rtol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_batch_normalization_has_no_gamma_without_scale(fused):
    x = random_inputs(VECTORS)
    layer = BatchNormalization(scale=False, fused=fused)
    y = flat(layer(x, training=True))[0]
    assert [w.name for w in layer.trainable_weights] == ["beta"]
    expected = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-3)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_gated_convolution_is_two_convolutions(padding):
    (x,) = weights(IMAGES[1:])
    gated = GatedConv2D(3, (3, 2), 2, padding, "tanh", bias_initializer="random_normal")
    y = gated(x)
    kernel, bias = gated.get_weights()
    h = keras.layers.Conv2D(3, (3, 2), 2, padding, activation="tanh")
    g = keras.layers.Conv2D(3, (3, 2), 2, padding, activation="sigmoid")
    for half, columns in ((h, slice(0, 3)), (g, slice(3, 6))):
        half.build(x.shape)
        half.set_weights([kernel[..., columns], bias[columns]])
    assert_close(y, flat(h(x) * g(x)), rtol=1e-4, atol=1e-5)


def test_gated_convolution_draws_weights_by_the_fan_in_of_one_unit():
    layer = GatedConv2D(200, 5)
    layer.build((None, 8, 8, 10))
    assert np.std(layer.get_weights()[0]) == pytest.approx(np.sqrt(2 / 250), rel=0.05)


def test_fold_is_a_loop_over_the_leading_axis():
    (x,) = weights(IMAGES)
    convolution = keras.layers.Conv2D(3, 3)
    fold = Fold(convolution, event_rank=3)
    looped = np.stack([flat(convolution(images))[0] for images in x])
    assert_close(fold(x), looped, rtol=1e-5, atol=1e-5)
    assert_close(fold(x[0]), looped[0], rtol=1e-5, atol=1e-5)


def test_fold_passes_training_on():
    x = random_inputs(VECTORS)
    fold = Fold(keras.layers.BatchNormalization(), event_rank=1)
    np.testing.assert_allclose(flat(fold(x, training=True))[0].mean((0, 1, 2)), 0, atol=1e-5)
    assert flat(fold(x, training=False))[0].mean() > 0.1
    # A layer without the argument is not given it.
    assert Fold(keras.layers.Dense(2), event_rank=1)(x, training=True).shape == (5, 2, 3, 2)


def test_fold_leaves_casting_to_its_layer():
    (x,) = weights(VECTORS)
    head = GaussianHead(3, dtype="float32")
    folded = Fold(head, event_rank=1, dtype="mixed_bfloat16")(x)
    assert_close(folded, flat(head(x)), rtol=1e-6)


# Bad arguments.


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: GatedDense(0), "expected units to be a positive integer. Received: units=0"),
        (lambda: GatedDense(2.5), "expected units to be a positive integer. Received: units=2.5"),
        (lambda: GatedDense(True), "expected units to be a positive integer"),
        (lambda: GatedDense(3, activation="nothing"), "nothing"),
        (lambda: MLP(3), "expected units to be a non-empty list or tuple. Received: units=3"),
        (lambda: MLP([]), "expected units to be a non-empty list or tuple"),
        (lambda: MLP([3, -1]), "expected units to be a positive integer. Received: units=-1"),
        (lambda: MLP([3], normalization="group"), "expected normalization to be None, 'batch'"),
        (lambda: MLP([3], gated=True), "expected activation=None when gated=True"),
        (lambda: MLP([3], None, "batch", gated=True), "expected normalization=None when gated"),
        (lambda: JointDense("3"), "expected units to be a positive integer. Received: units='3'"),
        (lambda: GaussianHead(0), "expected units to be a positive integer. Received: units=0"),
        (
            lambda: GaussianHead(3, "exp"),
            "expected scale to be 'softplus_variance', 'clipped_log_variance' or",
        ),
        (
            lambda: GaussianHead(3, log_variance_limits=(2, -6)),
            "expected log_variance_limits to be (low, high)",
        ),
        (lambda: GaussianHead(3, min_variance=0.0), "expected min_variance to be positive"),
        (lambda: GaussianHead(3, normalization="layer"), "expected normalization to be None or"),
        (lambda: BatchNormalization(1.0), "expected 0 <= momentum < 1. Received: momentum=1.0"),
        (lambda: BatchNormalization(epsilon=0.0), "expected epsilon to be positive. Received:"),
        (lambda: GatedConv2D(0, 3), "expected filters to be a positive integer"),
        (lambda: GatedConv2D(3, (3, 3, 3)), "expected kernel_size to be an integer or a pair"),
        (lambda: GatedConv2D(3, 3, strides=0), "expected strides to be a positive integer"),
        (lambda: GatedConv2D(3, 3, padding="full"), "expected padding to be 'same' or 'valid'"),
        (lambda: Fold(3, 1), "expected layer to be a Keras layer. Received: layer=3"),
        (
            lambda: Fold(keras.layers.Dense(3), 0),
            "expected event_rank to be a positive integer. Received: event_rank=0",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises((TypeError, ValueError)) as error:
        make()
    assert message in str(error.value)


@pytest.mark.parametrize(
    "layer, shapes, message",
    [
        (JointDense(3), (3, 4), "expected a list or tuple of one or more inputs"),
        (JointDense(3), [(3, 4), (2, 4)], "expected shapes that broadcast"),
        (PrecisionWeightedMerge(), ((3, 4), (3, 4)), "expected ((loc_1, scale_1), (loc_2"),
        (Fold(keras.layers.Conv2D(3, 3), 3), (8, 8, 1), "expected an input with at least one"),
    ],
)
def test_bad_inputs(layer, shapes, message):
    inputs = map_shapes(lambda s: keras.Input(batch_shape=s), shapes)
    with pytest.raises(ValueError) as error:
        layer(inputs)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "layer, good, bad",
    [
        (GatedDense(3), (3, 4), (3, 5)),
        (MLP([3]), (3, 4), (3, 5)),
        (JointDense(3), [(3, 4), (3, 2)], [(3, 4), (3, 3)]),
        (JointDense(3), [(3, 4), (3, 2)], [(3, 4)]),
        (GaussianHead(3), (3, 4), (3, 5)),
        (BatchNormalization(), (3, 4), (3, 5)),
        (GatedConv2D(3, 3), (1, 8, 8, 2), (1, 8, 8, 3)),
    ],
)
def test_inputs_of_another_width_than_built_for(layer, good, bad):
    layer(random_inputs(good))
    with pytest.raises(ValueError, match="expect"):
        layer(random_inputs(bad))
