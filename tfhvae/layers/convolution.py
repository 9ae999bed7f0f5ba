"""Gated convolution."""

import keras
from keras import activations, initializers, ops

from tfhvae.layers.dense import gate, he_normal
from tfhvae.layers.folding import fold_leading_axes, positive_integer, unfold_leading_axes


@keras.saving.register_keras_serializable(package="tfhvae")
class GatedConv2D(keras.layers.Layer):
    """Two-dimensional convolution whose outputs are gated: `h * sigmoid(g)`.

    ```none
    h = x * W_h + b_h,    g = x * W_g + b_g,    output = activation(h) . sigmoid(g)
    ```

    where `*` is the convolution. Both halves come from one convolution with the
    kernel `[W_h, W_g]`. Images are channels-last.

    Args:
        filters: F, the number of output channels.
        kernel_size: an integer, or `(height, width)`.
        strides: an integer, or `(vertical, horizontal)`.
        padding: "same" or "valid".
        activation: applied to `h`. None, the default, leaves it linear.
        gate_activation: applied to `g`.
        kernel_initializer: for the kernel, `[height, width, C, 2F]`. None, the
            default, stands for N(0, 2 / fan_in), fan_in = height * width * C.
        bias_initializer: for the bias, `[2F]`.

    Input shape: `[..., H, W, C]`, with at least one leading axis.

    Output shape: `[..., H', W', F]`.

    References:
        Dauphin et al., Language modeling with gated convolutional networks,
            2017, Eq. (1).
        Tomczak & Welling, VAE with a VampPrior, 2018, section 5 (convHVAE).
    """

    def __init__(
        self,
        filters,
        kernel_size,
        strides=1,
        padding="same",
        activation=None,
        gate_activation="sigmoid",
        kernel_initializer=None,
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if padding not in ("same", "valid"):
            raise ValueError(
                f"expected padding to be 'same' or 'valid'. Received: padding={padding!r}"
            )
        self.filters = positive_integer(filters, "filters")
        self.kernel_size = _pair(kernel_size, "kernel_size")
        self.strides = _pair(strides, "strides")
        self.padding = padding
        self.activation = activations.get(activation)
        self.gate_activation = activations.get(gate_activation)
        if kernel_initializer is None:
            kernel_initializer = he_normal()
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)

    def build(self, input_shape):
        channels = input_shape[-1]
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.kernel_size, channels, 2 * self.filters),
            initializer=self.kernel_initializer,
        )
        self.bias = self.add_weight(
            name="bias", shape=(2 * self.filters,), initializer=self.bias_initializer
        )
        self.input_spec = keras.InputSpec(min_ndim=4, axes={-1: channels})

    def call(self, inputs):
        images, leading = fold_leading_axes(inputs, event_rank=3)
        pre_activations = self._convolve(images, self.kernel) + self.bias
        outputs = gate(pre_activations, self.activation, self.gate_activation)
        return unfold_leading_axes(outputs, leading)

    def _convolve(self, images, kernel):
        return ops.conv(
            images,
            kernel,
            strides=self.strides,
            padding=self.padding,
            data_format="channels_last",
        )

    def compute_output_shape(self, input_shape):
        *leading, height, width, channels = input_shape
        image = keras.KerasTensor((None, height, width, channels))
        kernel = keras.KerasTensor((*self.kernel_size, channels, self.filters))
        return (*leading, *self._convolve(image, kernel).shape[1:])

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": list(self.kernel_size),
            "strides": list(self.strides),
            "padding": self.padding,
            "activation": activations.serialize(self.activation),
            "gate_activation": activations.serialize(self.gate_activation),
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
        }


def _pair(value, name):
    """`(value, value)` for an integer, or the pair itself."""
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(pair) != 2:
        raise ValueError(
            f"expected {name} to be an integer or a pair of them. Received: {name}={value!r}"
        )
    return tuple(positive_integer(element, name) for element in pair)
