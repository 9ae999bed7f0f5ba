"""Masked convolutions, blocks of them, and the PixelCNN stack.

Pixels are in raster order, and the colours of a pixel one after the other. Every
layer here is a function of an image whose output at a pixel depends on nothing
that comes later in that order, so that a stack of them is one step of

```none
p(x) = prod_i p(x_i | x_1 .. x_{i-1})
```

for all i at once. `PixelCNN.sample` runs the same stack pixel by pixel.
"""

import keras
import numpy as np
from keras import activations, initializers, ops

from tfhvae.layers.folding import fold_leading_axes, positive_integer, unfold_leading_axes
from tfhvae.layers.normalization import BatchNormalization

MASKS = ("A", "B")
BLOCKS = ("residual", "gated")


@keras.saving.register_keras_serializable(package="tfhvae")
class MaskedConv2D(keras.layers.Layer):
    """Convolution that sees, at each pixel, the pixels before it in raster order.

    Channel i belongs to colour `i % colors`, in the input and in the output: a map of
    colour c sees the maps of colours 0 .. c-1 of its own pixel, and with mask "B" those
    of c, too. The size of the image does not change.

    The weights of rows below the pixel would be masked, so there are none; a kernel
    k×k is held as `k // 2 + 1` rows.

    Args:
        filters: F, the number of output channels.
        kernel_size: k, odd.
        mask: "A" hides the pixel itself (its own colour and later ones), for the
            layer that takes the image; "B" does not, for the layers after it.
        colors: number of channels of the image.
        context_channels: number of channels, the last ones of the input, that are not
            part of the image but known beforehand. They are not masked: each pixel
            sees all that lies in the kernel's rows.
        use_bias: whether there is a bias.
        kernel_initializer: for the kernel, `[k // 2 + 1, k, C, F]`. None, the default,
            stands for N(0, 2 / n), n the number of inputs that are not masked.
        bias_initializer: for the bias, `[F]`.

    Input shape: `[..., H, W, C]`, with at least one leading axis.

    Output shape: `[..., H, W, F]`.

    References:
        van den Oord et al., Pixel recurrent neural networks, 2016, section 3.4.
    """

    def __init__(
        self,
        filters,
        kernel_size=3,
        mask="B",
        colors=1,
        context_channels=0,
        use_bias=True,
        kernel_initializer=None,
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = positive_integer(filters, "filters")
        self.kernel_size = positive_integer(kernel_size, "kernel_size")
        if kernel_size % 2 == 0:
            raise ValueError(
                f"expected kernel_size to be odd. Received: kernel_size={kernel_size!r}"
            )
        if mask not in MASKS:
            raise ValueError(f"expected mask to be 'A' or 'B'. Received: mask={mask!r}")
        self.mask = mask
        self.colors = positive_integer(colors, "colors")
        if context_channels < 0 or context_channels != int(context_channels):
            raise ValueError(
                "expected context_channels to be an integer of at least 0. "
                f"Received: context_channels={context_channels!r}"
            )
        self.context_channels = int(context_channels)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = (
            None if kernel_initializer is None else initializers.get(kernel_initializer)
        )
        self.bias_initializer = initializers.get(bias_initializer)

    @property
    def rows(self):
        """Rows of the kernel: the pixel's own and those above."""
        return self.kernel_size // 2 + 1

    def kernel_mask(self, channels):
        """`[rows, k, C, F]`, 1 where a weight counts and 0 where it would see too much."""
        middle = self.kernel_size // 2
        mask = np.ones((self.rows, self.kernel_size, channels, self.filters), np.float32)
        image_channels = channels - self.context_channels
        mask[-1, middle + 1 :, :image_channels] = 0.0
        of_input = np.arange(image_channels)[:, np.newaxis] % self.colors
        of_output = np.arange(self.filters)[np.newaxis] % self.colors
        seen = of_input < of_output if self.mask == "A" else of_input <= of_output
        mask[-1, middle, :image_channels] = seen
        return mask

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels <= self.context_channels:
            raise ValueError(
                f"expected more than context_channels={self.context_channels} input channels. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        mask = self.kernel_mask(channels)
        initializer = self.kernel_initializer
        if initializer is None:
            deviation = float(np.sqrt(2.0 / max(1.0, mask.sum() / self.filters)))
            initializer = initializers.RandomNormal(0.0, deviation)
        self.kernel = self.add_weight(name="kernel", shape=mask.shape, initializer=initializer)
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(self.filters,), initializer=self.bias_initializer
            )
        self._mask = mask
        self.input_spec = keras.InputSpec(min_ndim=4, axes={-1: channels})

    def call(self, inputs):
        images, leading = fold_leading_axes(inputs, event_rank=3)
        above, beside = self.rows - 1, self.kernel_size // 2
        if beside:
            images = ops.pad(images, ((0, 0), (above, 0), (beside, beside), (0, 0)))
        outputs = ops.conv(
            images, self._masked_kernel(), padding="valid", data_format="channels_last"
        )
        return unfold_leading_axes(self._with_bias(outputs), leading)

    def at_pixel(self, window):
        """The output at one pixel.

        Args:
            window: `[N, rows, k, C]`, the input around that pixel, zeros beyond the image.

        Returns:
            `[N, F]`.
        """
        kernel = ops.reshape(self._masked_kernel(), (-1, self.filters))
        flat = ops.cast(ops.reshape(window, (-1, kernel.shape[0])), kernel.dtype)
        return self._with_bias(ops.matmul(flat, kernel))

    def _masked_kernel(self):
        kernel = ops.convert_to_tensor(self.kernel)
        return kernel * ops.cast(self._mask, kernel.dtype)

    def _with_bias(self, outputs):
        return outputs + self.bias if self.use_bias else outputs

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "mask": self.mask,
            "colors": self.colors,
            "context_channels": self.context_channels,
            "use_bias": self.use_bias,
            "kernel_initializer": self.kernel_initializer
            and initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
        }


def _whole_image(layer, h):
    return layer(h)


class _MaskedStack(keras.layers.Layer):
    """What blocks and stacks of masked convolutions share. `transform` says what they compute,
    with `convolve(layer, h)` for each masked convolution: of whole images, or of one pixel."""

    def _convolution(self, filters, kernel_size, mask="B", context_channels=0, **kwargs):
        return MaskedConv2D(
            filters,
            kernel_size,
            mask,
            self.colors,
            context_channels,
            **{"dtype": self.dtype_policy, **kwargs},
        )

    def _normalization(self, name):
        return (
            BatchNormalization(fused=True, dtype=self.dtype_policy, name=name)
            if self.normalization == "batch"
            else keras.layers.Identity(dtype=self.dtype_policy, name=name)
        )

    def transform(self, h, convolve, training=None):
        raise NotImplementedError(f"{type(self).__name__} defines no transform")

    def call(self, inputs, training=None):
        return self.transform(inputs, _whole_image, training)


def _check_normalization(normalization):
    if normalization not in (None, "batch"):
        raise ValueError(
            "expected normalization to be None or 'batch'. "
            f"Received: normalization={normalization!r}"
        )
    return normalization


@keras.saving.register_keras_serializable(package="tfhvae")
class MaskedBlock(_MaskedStack):
    """A block of masked convolutions (mask "B") whose result is added to its input.

    ```none
    residual    x + conv(act(norm(conv(act(norm(x))))))
    gated       x + conv_1x1(tanh(a) . sigmoid(b)),      [a, b] = conv(norm(x))
    ```

    Args:
        filters: F; the input has as many channels.
        kernel_size: of the convolutions, odd.
        kind: "residual" or "gated".
        activation: of a residual block.
        normalization: None or "batch".
        colors: number of channels of the image, see `MaskedConv2D`.

    Input shape: `[..., H, W, F]`.

    Output shape: the same.

    References:
        van den Oord et al., Pixel recurrent neural networks, 2016, figure 5; Conditional
            image generation with PixelCNN decoders, 2016, Eq. (2).
    """

    def __init__(
        self,
        filters,
        kernel_size=3,
        kind="residual",
        activation="relu",
        normalization="batch",
        colors=1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if kind not in BLOCKS:
            raise ValueError(f"expected kind to be one of {BLOCKS}. Received: kind={kind!r}")
        self.filters = positive_integer(filters, "filters")
        self.kernel_size = kernel_size
        self.kind = kind
        self.activation = activations.get(activation)
        self.normalization = _check_normalization(normalization)
        self.colors = positive_integer(colors, "colors")
        if kind == "gated" and colors > 1 and filters % colors:
            raise ValueError(
                "expected the filters of a gated block to be a multiple of colors. "
                f"Received: filters={filters!r}, colors={colors!r}"
            )
        is_gated = kind == "gated"
        # A bias before batch normalisation would be taken out again.
        first_bias = is_gated or normalization is None
        self.normalize_first = self._normalization("normalize_first")
        self.first = self._convolution(
            (1 + is_gated) * filters, kernel_size, use_bias=first_bias, name="first"
        )
        self.normalize_second = None if is_gated else self._normalization("normalize_second")
        self.second = self._convolution(filters, 1 if is_gated else kernel_size, name="second")

    @property
    def convolutions(self):
        return [self.first, self.second]

    def build(self, input_shape):
        if input_shape[-1] != self.filters:
            raise ValueError(
                f"expected inputs with {self.filters} channels, as many as filters. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        self.normalize_first.build(input_shape)
        self.first.build(input_shape)
        if self.normalize_second is not None:
            self.normalize_second.build(input_shape)
        self.second.build(input_shape)

    def transform(self, h, convolve, training=None):
        x = self.normalize_first(h, training=training)
        if self.kind == "gated":
            a, b = ops.split(convolve(self.first, x), 2, axis=-1)
            return h + convolve(self.second, ops.tanh(a) * ops.sigmoid(b))
        x = convolve(self.first, self.activation(x))
        x = self.activation(self.normalize_second(x, training=training))
        return h + convolve(self.second, x)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "kind": self.kind,
            "activation": activations.serialize(self.activation),
            "normalization": self.normalization,
            "colors": self.colors,
        }


@keras.saving.register_keras_serializable(package="tfhvae")
class PixelCNN(_MaskedStack):
    """The parameters of every pixel, given the pixels before it and a context.

    ```none
    h = conv_A([x, context])
    h = block(h)                           for each block
    h = conv_B(act(norm(h)))               for each plain layer
    output = conv_B, 1x1 (act(norm(h)))
    ```

    The stack sees what its kernels reach: with 3×3 kernels, pixels to the right in the row
    above are reached one per row (the blind spot of van den Oord et al. 2016b).

    Args:
        outputs: number of output channels. Channel i holds a parameter of colour
            `i % colors`.
        filters: of every convolution but the last.
        first_kernel_size: of the convolution with mask "A".
        blocks: number of blocks.
        block_kernel_size: of their convolutions.
        kind: of the blocks, see `MaskedBlock`.
        plain_kernel_sizes: of the layers between the blocks and the last one.
        activation: between layers.
        normalization: None or "batch".
        colors: channels of the image x. Of the input, these are the first.
        context_channels: channels of the context, which follow; may be 0.

    Input shape: `[..., H, W, colors + context_channels]`.

    Output shape: `[..., H, W, outputs]`.

    References:
        van den Oord et al., Pixel recurrent neural networks, 2016, table 1.
    """

    def __init__(
        self,
        outputs,
        filters=64,
        first_kernel_size=7,
        blocks=4,
        block_kernel_size=3,
        kind="residual",
        plain_kernel_sizes=(1, 1),
        activation="relu",
        normalization="batch",
        colors=1,
        context_channels=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.outputs = positive_integer(outputs, "outputs")
        if blocks < 0:
            raise ValueError(f"expected blocks >= 0. Received: blocks={blocks}")
        self.colors = positive_integer(colors, "colors")
        if first_kernel_size < 3 or first_kernel_size % 2 == 0:
            raise ValueError(
                "expected first_kernel_size to be odd and at least 3. "
                f"Received: first_kernel_size={first_kernel_size!r}"
            )
        if any(size % 2 != 1 for size in plain_kernel_sizes):
            raise ValueError(
                "expected plain_kernel_sizes to be odd. "
                f"Received: plain_kernel_sizes={plain_kernel_sizes!r}"
            )
        if outputs % colors:
            raise ValueError(
                "expected outputs to be a multiple of colors. "
                f"Received: outputs={outputs!r}, colors={colors!r}"
            )
        self.normalization = _check_normalization(normalization)
        self.activation = activations.get(activation)
        self.context_channels = context_channels
        self.settings = {
            "outputs": outputs,
            "filters": filters,
            "first_kernel_size": first_kernel_size,
            "blocks": blocks,
            "block_kernel_size": block_kernel_size,
            "kind": kind,
            "plain_kernel_sizes": list(plain_kernel_sizes),
            "activation": activations.serialize(self.activation),
            "normalization": normalization,
            "colors": colors,
            "context_channels": context_channels,
        }
        self.first = self._convolution(
            filters, first_kernel_size, "A", context_channels, name="first"
        )
        self.blocks = [
            MaskedBlock(
                filters,
                block_kernel_size,
                kind,
                self.activation,
                normalization,
                colors,
                dtype=self.dtype_policy,
                name=f"block_{i}",
            )
            for i in range(blocks)
        ]
        self.normalizations = [
            self._normalization(f"normalization_{i}") for i in range(len(plain_kernel_sizes) + 1)
        ]
        self.plain = [
            self._convolution(filters, size, use_bias=normalization is None, name=f"plain_{i}")
            for i, size in enumerate(plain_kernel_sizes)
        ]
        self.last = self._convolution(
            outputs,
            1,
            kernel_initializer="glorot_uniform",
            dtype=self.variable_dtype,  # logits in full precision
            name="last",
        )

    @property
    def convolutions(self):
        """Every masked convolution, in the order of the data."""
        inner = [layer for block in self.blocks for layer in block.convolutions]
        return [self.first, *inner, *self.plain, self.last]

    def build(self, input_shape):
        expected = self.colors + self.context_channels
        if input_shape[-1] != expected:
            raise ValueError(
                f"expected {expected} input channels, colors + context_channels. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        hidden = (*input_shape[:-1], self.first.filters)
        self.first.build(input_shape)
        for layer in (*self.blocks, *self.normalizations, *self.plain, self.last):
            layer.build(hidden)

    def transform(self, h, convolve, training=None):
        h = convolve(self.first, h)
        for block in self.blocks:
            h = block.transform(h, convolve, training)
        for normalization, layer in zip(self.normalizations, (*self.plain, self.last)):
            h = convolve(layer, self.activation(normalization(h, training=training)))
        return h

    def sample(self, context, noise, to_pixel):
        """Draws images, pixel by pixel, at about the cost of one pass for all pixels together:
        at each pixel the stack is evaluated there alone, and what every convolution has been
        given so far is kept.

        To be compiled (`tf.function(jit_compile=True)`): the loop is slow otherwise.

        Args:
            context: `[N, H, W, context_channels]`, or None where there is none.
            noise: `[N, H, W, colors]`, whatever `to_pixel` turns into a pixel.
            to_pixel: `(parameters [N, outputs], noise [N, colors]) -> [N, colors]`; the
                value of a colour may depend on its own parameters and noise alone.

        Returns:
            `(x [N, H, W, colors], parameters [N, H, W, outputs])`, the parameters that each
            pixel was drawn from.
        """
        count, height, width, _ = ops.shape(noise)
        wide = [layer for layer in self.convolutions if layer.kernel_size > 1]
        image = ops.zeros_like(ops.cast(noise, self.variable_dtype))
        inputs = image
        if context is not None:
            inputs = ops.concatenate([image, ops.cast(context, image.dtype)], -1)

        def with_margins(layer, h):
            beside = layer.kernel_size // 2
            return ops.pad(h, ((0, 0), (beside, 0), (beside, beside), (0, 0)))

        def nothing(layer):
            return ops.zeros((count, height, width, layer.kernel.shape[2]), image.dtype)

        # What each wide convolution has been given at the pixels so far.
        given = [with_margins(wide[0], inputs)]
        given += [with_margins(layer, nothing(layer)) for layer in wide[1:]]

        def draw_pixel(pixel, state):
            x, parameters, *given = state
            i, j = pixel // width, pixel % width

            def write(images, value, margin=0):
                start = (0, i + margin, j + margin, 0)
                value = ops.cast(value, images.dtype)
                return ops.slice_update(images, start, value[:, np.newaxis, np.newaxis])

            def convolve(layer, h):
                if layer.kernel_size == 1:
                    return layer.at_pixel(h)
                index = wide.index(layer)
                given[index] = write(given[index], h, layer.kernel_size // 2)
                size = (count, layer.rows, layer.kernel_size, h.shape[-1])
                return layer.at_pixel(ops.slice(given[index], (0, i, j, 0), size))

            def read(images):
                return ops.slice(images, (0, i, j, 0), (count, 1, 1, images.shape[-1]))[:, 0, 0]

            noise_here, here = read(noise), read(inputs)
            for color in range(self.colors):
                p = self.transform(here, convolve)
                value = ops.cast(to_pixel(p, noise_here), here.dtype)
                is_drawn = np.arange(here.shape[-1]) == color
                padding = ((0, 0), (0, self.context_channels))
                here = ops.where(is_drawn, ops.pad(value, padding), here)
            given[0] = write(given[0], here, self.first.kernel_size // 2)
            x = write(x, ops.cast(here[:, : self.colors], x.dtype))
            return (x, write(parameters, p), *given)

        parameters = ops.zeros((count, height, width, self.outputs), image.dtype)
        state = (ops.zeros_like(noise), parameters, *given)
        x, parameters, *_ = ops.fori_loop(0, height * width, draw_pixel, state)
        return x, parameters

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.outputs)

    def compute_output_spec(self, inputs, training=None):
        shape = self.compute_output_shape(inputs.shape)
        return keras.KerasTensor(shape, dtype=self.last.compute_dtype)

    def get_config(self):
        return {**super().get_config(), **self.settings}
