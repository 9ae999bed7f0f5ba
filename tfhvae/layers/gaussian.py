"""Diagonal Gaussians as `(loc, scale)`; scale is always the standard deviation."""

import keras
from keras import initializers, ops

from tfhvae.layers.dense import broadcast_shape
from tfhvae.layers.folding import folded_matmul, positive_integer
from tfhvae.layers.normalization import BatchNormalization


@keras.saving.register_keras_serializable(package="tfhvae")
class GaussianHead(keras.layers.Layer):
    """Linear maps to the mean and the standard deviation of a Gaussian.

    One product gives `loc` and an unconstrained `a`, and

    ```none
    scale = sqrt(softplus(a) + min_variance)         "softplus_variance"
    scale = exp(clip(a, low, high) / 2)              "clipped_log_variance"
    scale = sigmoid(a) + sqrt(min_variance)          "sigmoid"
    ```

    In the second form no gradient flows through `scale` where `a` lies outside
    the limits. Under mixed precision the product is taken in the compute dtype;
    everything after it, and both outputs, are float32.

    Args:
        units: U, the dimension of the Gaussian.
        scale: "softplus_variance" (Sønderby et al. 2016a, Eq. 15),
            "clipped_log_variance" (the code of Tomczak & Welling 2018) or "sigmoid"
            (Zhao et al. 2017, B.1; no scale is then above 1 + sqrt(min_variance)).
        log_variance_limits: `(low, high)`, for the clipped form.
        min_variance: for the softplus form. The default, 1e-6, is invisible next
            to any variance worth modelling; without it the gradient of the
            square root is not finite once softplus(a) underflows. For the sigmoid
            form it is the 0.001 that Zhao et al.'s code adds.
        normalization: None or "batch": whether `loc` and `a` are batch-normalised,
            each unit by itself; the bias is then that of the normalisation.
        kernel_initializer: for the kernel, `[D, 2U]`, the mean's columns first. D
            is the fan-in of both halves; an initializer which looks at the
            fan-out sees 2U. The default keeps the variance of the inputs.
        bias_initializer: for the bias, `[2U]`.

    Input shape: `[..., D]`, at least two axes.

    Output shape: `(loc, scale)`, both `[..., U]`.
    """

    def __init__(
        self,
        units,
        scale="softplus_variance",
        log_variance_limits=(-6.0, 2.0),
        min_variance=1e-6,
        normalization=None,
        kernel_initializer="lecun_normal",
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if scale not in ("softplus_variance", "clipped_log_variance", "sigmoid"):
            raise ValueError(
                "expected scale to be 'softplus_variance', 'clipped_log_variance' or 'sigmoid'. "
                f"Received: scale={scale!r}"
            )
        if len(log_variance_limits) != 2 or not log_variance_limits[0] < log_variance_limits[1]:
            raise ValueError(
                "expected log_variance_limits to be (low, high) with low < high. "
                f"Received: log_variance_limits={log_variance_limits!r}"
            )
        if not min_variance > 0:
            raise ValueError(
                f"expected min_variance to be positive. Received: min_variance={min_variance!r}"
            )
        if normalization not in (None, "batch"):
            raise ValueError(
                "expected normalization to be None or 'batch'. "
                f"Received: normalization={normalization!r}"
            )
        self.units = positive_integer(units, "units")
        self.scale = scale
        self.log_variance_limits = tuple(float(limit) for limit in log_variance_limits)
        self.min_variance = float(min_variance)
        self.normalization = normalization
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)

    def build(self, input_shape):
        width = input_shape[-1]
        self.kernel = self.add_weight(
            name="kernel", shape=(width, 2 * self.units), initializer=self.kernel_initializer
        )
        if self.normalization == "batch":
            # The outputs stay in full precision.
            self.normalization_layer = BatchNormalization(dtype=_output_dtype(self))
            self.normalization_layer.build((None, 2 * self.units))
        else:
            self.bias = self.add_weight(
                name="bias",
                shape=(2 * self.units,),
                initializer=self.bias_initializer,
                autocast=False,
            )
        self.input_spec = keras.InputSpec(min_ndim=2, axes={-1: width})

    def call(self, inputs, training=None):
        product = ops.cast(folded_matmul(inputs, self.kernel), _output_dtype(self))
        if self.normalization == "batch":
            product = self.normalization_layer(product, training=training)
        else:
            product = product + ops.cast(self.bias, _output_dtype(self))
        loc, a = ops.split(product, 2, axis=-1)
        if self.scale == "softplus_variance":
            return loc, ops.sqrt(ops.softplus(a) + self.min_variance)
        if self.scale == "sigmoid":
            return loc, ops.sigmoid(a) + self.min_variance**0.5
        return loc, ops.exp(0.5 * ops.clip(a, *self.log_variance_limits))

    def compute_output_shape(self, input_shape):
        shape = (*input_shape[:-1], self.units)
        return shape, shape

    def compute_output_spec(self, inputs, training=None):
        return _output_spec(self, inputs.shape)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "scale": self.scale,
            "log_variance_limits": list(self.log_variance_limits),
            "min_variance": self.min_variance,
            "normalization": self.normalization,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
        }


@keras.saving.register_keras_serializable(package="tfhvae")
class PrecisionWeightedMerge(keras.layers.Layer):
    """Product of two Gaussian densities, normalised.

    ```none
    N(z; m, s^2) = N(z; m_1, s_1^2) N(z; m_2, s_2^2) / Z
    1 / s^2 = 1 / s_1^2 + 1 / s_2^2
    m       = s^2 (m_1 / s_1^2 + m_2 / s_2^2)
    ```

    Sønderby et al. 2016a, Eq. (21). The Ladder VAE paper, Sønderby et al. 2016b,
    prints this variance as the standard deviation in its Eq. (17).

    It is computed from the ratio of the smaller to the larger scale, which lies
    between 0 and 1, so that neither values nor gradients overflow however far
    apart the scales are:

    ```none
    r = s_1 / s_2 <= 1
    m = m_1 + r^2 / (1 + r^2) (m_2 - m_1),    s = s_1 / sqrt(1 + r^2)
    ```

    The arithmetic and the outputs are float32 under every mixed-precision policy.

    Input shape: `((loc_1, scale_1), (loc_2, scale_2))` or the same four tensors
        in one flat tuple. Their shapes broadcast against each other. The scales
        are standard deviations and positive.

    Output shape: `(loc, scale)`, both of the shape of the broadcast.

    Example:

    >>> loc, scale = np.zeros([5, 2]), np.ones([5, 2])
    >>> merged = PrecisionWeightedMerge()(((loc, scale), (loc + 2, scale)))
    >>> # loc is 1.0 everywhere, scale is sqrt(1 / 2)
    """

    def __init__(self, **kwargs):
        # Casting the inputs to half precision would turn a scale of 1e-6 into
        # a denormal or zero.
        super().__init__(autocast=False, **kwargs)

    def call(self, inputs):
        loc_1, scale_1, loc_2, scale_2 = (ops.cast(x, _output_dtype(self)) for x in _four(inputs))
        swap = scale_2 < scale_1
        sharp_loc, flat_loc = ops.where(swap, loc_2, loc_1), ops.where(swap, loc_1, loc_2)
        sharp_scale = ops.where(swap, scale_2, scale_1)
        flat_scale = ops.where(swap, scale_1, scale_2)
        squared_ratio = ops.square(sharp_scale / flat_scale)
        loc = sharp_loc + squared_ratio / (1.0 + squared_ratio) * (flat_loc - sharp_loc)
        scale = sharp_scale * ops.rsqrt(1.0 + squared_ratio)
        return loc, ops.broadcast_to(scale, ops.shape(loc))

    def compute_output_shape(self, input_shape):
        shapes = [tuple(shape) for shape in _four(input_shape, is_shape=True)]
        shape = broadcast_shape(*shapes)
        return shape, shape

    def compute_output_spec(self, inputs):
        return _output_spec(self, [x.shape for x in _four(inputs)])


def _four(inputs, is_shape=False):
    """The leaves `[loc_1, scale_1, loc_2, scale_2]` of a flat or nested input."""
    if is_shape:
        leaves = []
        keras.tree.map_shape_structure(leaves.append, inputs)
    else:
        leaves = keras.tree.flatten(inputs)
    if len(leaves) != 4:
        raise ValueError(
            f"expected ((loc_1, scale_1), (loc_2, scale_2)). Received: {len(leaves)} tensors"
        )
    return leaves


def _output_dtype(layer):
    """float32, or float64 where the layer's weights are."""
    return keras.backend.result_type(layer.variable_dtype, "float32")


def _output_spec(layer, input_shape):
    return tuple(
        keras.KerasTensor(shape, dtype=_output_dtype(layer))
        for shape in layer.compute_output_shape(input_shape)
    )
