"""Plain convolutional stacks, which dense latents are read from or turned into."""

import keras

from tfhvae.layers import BatchNormalization
from tfhvae.layers.dense import activate
from tfhvae.models import parts

KERNEL_SIZE = 4  # of every convolution, as in the code of Zhao et al.


@keras.saving.register_keras_serializable(package="tfhvae")
class ConvolutionStack(keras.layers.Layer):
    """4×4 convolutions, or transposed ones, each followed by batch normalisation and activation.

    Padding is "same": a stride of s divides height and width by s, and a transposed one multiplies
    them.

    Args:
      filters: output channels of each convolution, first convolution first.
      strides: of each of them.
      activation: "leaky_rectifier" or the name of a Keras activation; None for the last layer of a
        decoder, say.
      batch_normalization: whether there is any.
      transposed: whether the convolutions are transposed.

    Input shape: `[N, H, W, C]`.

    Output shape: `[N, H', W', filters[-1]]`.
    """

    def __init__(
        self,
        filters,
        strides,
        activation="leaky_rectifier",
        batch_normalization=True,
        transposed=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not filters or len(filters) != len(strides):
            raise ValueError(
                "expected one or more filters, and a stride for each of them. "
                f"Received: filters={tuple(filters)}, strides={tuple(strides)}"
            )
        self.settings = {
            "filters": list(filters),
            "strides": list(strides),
            "activation": activation,
            "batch_normalization": batch_normalization,
            "transposed": transposed,
        }
        kind = keras.layers.Conv2DTranspose if transposed else keras.layers.Conv2D
        self.convolutions = [
            kind(
                channels,
                KERNEL_SIZE,
                stride,
                padding="same",
                use_bias=not batch_normalization,
                dtype=self.dtype_policy,
            )
            for channels, stride in zip(filters, strides)
        ]
        self.normalizations = [
            BatchNormalization(fused=True, dtype=self.dtype_policy)
            for _ in filters
            if batch_normalization
        ]
        self.activation = keras.activations.get(parts.activation_function(activation))

    def build(self, input_shape):
        shape = tuple(input_shape)
        for index, convolution in enumerate(self.convolutions):
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
            if self.normalizations:
                self.normalizations[index].build(shape)

    def call(self, x, training=None):
        for index, convolution in enumerate(self.convolutions):
            x = convolution(x)
            if self.normalizations:
                x = self.normalizations[index](x, training=training)
            x = activate(x, self.activation)
        return x

    def compute_output_shape(self, input_shape):
        shape = tuple(input_shape)
        for convolution in self.convolutions:
            shape = convolution.compute_output_shape(shape)
        return shape

    def get_config(self):
        return {**super().get_config(), **self.settings}


def reduced_size(event_shape, halvings):
    """Height and width after `halvings` convolutions of stride 2.

    Raises:
      ValueError: if they cannot be halved so often without a rest.
    """
    height, width, _ = event_shape
    factor = 2**halvings
    if height % factor or width % factor:
        raise ValueError(
            f"expected images whose height and width are multiples of {factor}, for {halvings} "
            f"convolutions of stride 2. Received: event_shape={tuple(event_shape)}"
        )
    return height // factor, width // factor
