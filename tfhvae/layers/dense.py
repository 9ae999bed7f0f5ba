"""Dense layers: gated, stacked, and joint over inputs that broadcast."""

import math

import keras
from keras import activations, initializers, ops

from tfhvae.layers.folding import (
    fold_leading_axes,
    folded_matmul,
    positive_integer,
    unfold_leading_axes,
)
from tfhvae.layers.normalization import BatchNormalization


def he_normal():
    """N(0, 2 / fan_in), not truncated: the initial weights of Tomczak & Welling."""
    return initializers.VarianceScaling(scale=2.0, mode="fan_in", distribution="untruncated_normal")


def activate(x, activation):
    """`activation(x)`, in the dtype of `x`.

    A Keras layer as activation would answer in a dtype of its own.
    """
    return ops.cast(activation(x), x.dtype)


def gate(pre_activations, activation, gate_activation):
    """Splits `[..., 2U]` into (h, g) and returns `activation(h) * gate_activation(g)`."""
    h, g = ops.split(pre_activations, 2, axis=-1)
    return activate(h, activation) * activate(g, gate_activation)


@keras.saving.register_keras_serializable(package="tfhvae")
class GatedDense(keras.layers.Layer):
    """Dense layer whose outputs are gated: `h * sigmoid(g)`.

    ```none
    h = x W_h + b_h,    g = x W_g + b_g,    output = activation(h) * sigmoid(g)
    ```

    Both halves come from one product with the kernel `[W_h, W_g]`.

    Args:
        units: U, the number of outputs.
        activation: applied to `h`. None, the default, leaves it linear.
        gate_activation: applied to `g`.
        kernel_initializer: for the kernel, `[D, 2U]`. None, the default, stands
            for N(0, 2 / D), as in the authors' code. D is the fan-in of every
            unit; an initializer which looks at the fan-out sees 2U.
        bias_initializer: for the bias, `[2U]`.

    Input shape: `[..., D]`, at least two axes.

    Output shape: `[..., U]`.

    References:
        Dauphin et al., Language modeling with gated convolutional networks,
            2017, Eq. (1).
        Tomczak & Welling, VAE with a VampPrior, 2018, section 5.
    """

    def __init__(
        self,
        units,
        activation=None,
        gate_activation="sigmoid",
        kernel_initializer=None,
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.units = positive_integer(units, "units")
        self.activation = activations.get(activation)
        self.gate_activation = activations.get(gate_activation)
        if kernel_initializer is None:
            kernel_initializer = he_normal()
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)

    def build(self, input_shape):
        width = input_shape[-1]
        self.kernel = self.add_weight(
            name="kernel", shape=(width, 2 * self.units), initializer=self.kernel_initializer
        )
        self.bias = self.add_weight(
            name="bias", shape=(2 * self.units,), initializer=self.bias_initializer
        )
        self.input_spec = keras.InputSpec(min_ndim=2, axes={-1: width})

    def call(self, inputs):
        pre_activations = folded_matmul(inputs, self.kernel) + self.bias
        return gate(pre_activations, self.activation, self.gate_activation)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "activation": activations.serialize(self.activation),
            "gate_activation": activations.serialize(self.gate_activation),
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
        }


@keras.saving.register_keras_serializable(package="tfhvae")
class MLP(keras.layers.Layer):
    """Multilayer perceptron, for inputs of any rank.

    Each level computes `activation(normalization(x W + b))`. Under batch
    normalization there is no `b`: the normalization brings its own. With
    `gated=True` each level is a `GatedDense` layer instead.

    The leading axes are folded into one before the first level and restored
    after the last: each product is two-dimensional, and batch statistics are
    taken over all leading axes.

    Args:
        units: the number of outputs of each level, first level first.
        activation: of every level. A name, a function or a Keras layer without
            weights, such as `keras.layers.LeakyReLU(0.1)`. Has to be None when
            `gated` is true.
        normalization: None, "batch" or "layer", between the linear map and the
            activation. Has to be None when `gated` is true.
        gated: whether the levels are `GatedDense` layers.
        joint: whether the input is a list of tensors that broadcast against each
            other; the first level is then a `JointDense`.
        kernel_initializer: of every level. None, the default, stands for
            "glorot_uniform", or for the default of `GatedDense`. An initializer
            with a seed of its own gives equal weights to levels of equal shape.

    Input shape: `[..., D]`, at least two axes; with `joint`, a list of `[..., D_i]`.

    Output shape: `[..., units[-1]]`.
    """

    def __init__(
        self,
        units,
        activation="relu",
        normalization=None,
        gated=False,
        joint=False,
        kernel_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not isinstance(units, (list, tuple)) or not units:
            raise ValueError(
                f"expected units to be a non-empty list or tuple. Received: units={units!r}"
            )
        if normalization not in (None, "batch", "layer"):
            raise ValueError(
                "expected normalization to be None, 'batch' or 'layer'. "
                f"Received: normalization={normalization!r}"
            )
        if gated and activation is not None:
            raise ValueError(
                "expected activation=None when gated=True: the gate is the nonlinearity. "
                f"Received: activation={activation!r}"
            )
        if gated and normalization is not None:
            raise ValueError(
                "expected normalization=None when gated=True. "
                f"Received: normalization={normalization!r}"
            )
        self.units = tuple(positive_integer(width, "units") for width in units)
        self.activation = activations.get(activation)
        self.normalization = normalization
        self.gated = bool(gated)
        self.joint = bool(joint)
        self.kernel_initializer = kernel_initializer and initializers.get(kernel_initializer)
        self.linear_layers = [
            self._linear_layer(width, is_joint=self.joint and level == 0)
            for level, width in enumerate(self.units)
        ]
        self.normalization_layers = [
            self._normalization_layer() for _ in self.units if normalization is not None
        ]

    def _linear_layer(self, units, is_joint):
        # An initializer draws the same values each time it is called; a clone draws
        # its own, unless it was given a seed.
        initializer = self.kernel_initializer
        if isinstance(initializer, initializers.Initializer):
            initializer = initializer.clone()
        if is_joint:
            return JointDense(
                units,
                gated=self.gated,
                use_bias=self.normalization != "batch",
                kernel_initializer=initializer,
                dtype=self.dtype_policy,
            )
        if self.gated:
            return GatedDense(units, kernel_initializer=initializer, dtype=self.dtype_policy)
        return keras.layers.Dense(
            units,
            use_bias=self.normalization != "batch",
            kernel_initializer=initializer or "glorot_uniform",
            dtype=self.dtype_policy,
        )

    def _normalization_layer(self):
        if self.normalization == "batch":
            return BatchNormalization(dtype=self.dtype_policy)
        return keras.layers.LayerNormalization(dtype=self.dtype_policy)

    def build(self, input_shape):
        if self.joint:
            _check_is_sequence_of_shapes(input_shape)
        else:
            self.input_spec = keras.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
            input_shape = (None, input_shape[-1])
        width = None
        for level, units in enumerate(self.units):
            self.linear_layers[level].build((None, width) if level else input_shape)
            if self.normalization_layers:
                self.normalization_layers[level].build((None, units))
            width = units

    def call(self, inputs, training=None):
        if self.joint:  # the sum of the products is of full shape, from then on it is folded
            inputs = self.linear_layers[0](inputs)
        x, leading = fold_leading_axes(inputs, event_rank=1)
        for level, linear in enumerate(self.linear_layers):
            x = x if self.joint and level == 0 else linear(x)
            if self.normalization_layers:
                x = self.normalization_layers[level](x, training=training)
            x = activate(x, self.activation)
        return unfold_leading_axes(x, leading)

    def compute_output_shape(self, input_shape):
        if self.joint:
            input_shape = self.linear_layers[0].compute_output_shape(input_shape)
        return (*input_shape[:-1], self.units[-1])

    def get_config(self):
        return {
            **super().get_config(),
            "units": list(self.units),
            "activation": None if self.gated else activations.serialize(self.activation),
            "normalization": self.normalization,
            "gated": self.gated,
            "joint": self.joint,
            "kernel_initializer": self.kernel_initializer
            and initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="tfhvae")
class JointDense(keras.layers.Layer):
    """Dense layer of several inputs whose leading axes broadcast.

    ```none
    output = activation(sum_i x_i W_i + b)
    ```

    This is a dense layer on the concatenation of the inputs, without the
    concatenation: each product is taken on its own small input, and only the
    products are broadcast. Samples `[S, 1, B, A]`, observations `[B, D]` and an
    enumeration of classes `[Y, 1, C]` combine to `[S, Y, B, U]` and nothing is
    tiled.

    The kernel is the one that a dense layer on the concatenation would have,
    `[D_1 + ... + D_n, U]`, so an initializer sees the fan-in of all inputs
    together.

    Args:
        units: U, the number of outputs.
        activation: of the sum; with `gated=True`, of its ungated half.
        gated: whether the sum has twice the width and is split into `(h, g)` to
            give `activation(h) * sigmoid(g)`, as in `GatedDense`.
        use_bias: whether there is a `b`; set it to False when batch
            normalization follows.
        kernel_initializer: None, the default, stands for "glorot_uniform", or
            with `gated=True` for the default of `GatedDense`.
        bias_initializer: for the bias.

    Input shape: a list or tuple of `[..., D_i]`, of at least two axes each, whose
        leading axes broadcast to `[...]`.

    Output shape: `[..., U]`.
    """

    def __init__(
        self,
        units,
        activation=None,
        gated=False,
        use_bias=True,
        kernel_initializer=None,
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.units = positive_integer(units, "units")
        self.activation = activations.get(activation)
        self.gated = bool(gated)
        self.use_bias = bool(use_bias)
        if kernel_initializer is None:
            kernel_initializer = he_normal() if self.gated else "glorot_uniform"
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)

    def build(self, input_shapes):
        _check_is_sequence_of_shapes(input_shapes)
        self._widths = [shape[-1] for shape in input_shapes]
        outputs = 2 * self.units if self.gated else self.units
        self.kernel = self.add_weight(
            name="kernel", shape=(sum(self._widths), outputs), initializer=self.kernel_initializer
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(outputs,), initializer=self.bias_initializer
            )
        self.input_spec = [keras.InputSpec(min_ndim=2, axes={-1: width}) for width in self._widths]

    def call(self, inputs):
        ends = [sum(self._widths[: i + 1]) for i in range(len(inputs) - 1)]
        kernels = ops.split(self.kernel, ends, axis=0) if ends else [self.kernel]
        products = [folded_matmul(x, kernel) for x, kernel in zip(inputs, kernels)]
        # From small to large, so that few additions run over the full shape.
        total, *larger = sorted(products, key=lambda product: _extent(product.shape[:-1]))
        if self.use_bias:
            total = total + self.bias
        for product in larger:
            total = total + product
        if self.gated:
            return gate(total, self.activation, ops.sigmoid)
        return activate(total, self.activation)

    def compute_output_shape(self, input_shapes):
        _check_is_sequence_of_shapes(input_shapes)
        return (*broadcast_shape(*(shape[:-1] for shape in input_shapes)), self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "activation": activations.serialize(self.activation),
            "gated": self.gated,
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
        }


def _check_is_sequence_of_shapes(shapes):
    if not shapes or not all(isinstance(shape, (list, tuple)) for shape in shapes):
        raise ValueError(
            "expected a list or tuple of one or more inputs. "
            f"Received: a single input of shape {shapes}"
        )


def _extent(shape):
    """Sort key for the size of a shape, in which an unknown axis counts as long."""
    known = [size for size in shape if size is not None]
    return len(shape) - len(known), math.prod(known)


def broadcast_shape(*shapes):
    """Shape to which `shapes` broadcast; None is an axis of unknown length."""
    rank = max(len(shape) for shape in shapes)
    aligned = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    result = []
    for sizes in zip(*aligned):
        known = {size for size in sizes if size not in (None, 1)}
        if len(known) > 1:
            raise ValueError(f"expected shapes that broadcast. Received: {shapes}")
        result.append(known.pop() if known else None if None in sizes else 1)
    return tuple(result)
