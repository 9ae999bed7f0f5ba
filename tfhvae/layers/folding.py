"""Folding of leading axes: `[S, Y, B, *E]` seen as one long batch `[N, *E]`."""

import math
import numbers

import keras
from keras import ops


def fold_leading_axes(x, event_rank):
    """Reshapes `[*leading, *event]` to `[N, *event]`; returns it and `leading`."""
    shape = ops.shape(x)
    leading, event = shape[:-event_rank], shape[-event_rank:]
    if len(leading) == 1:
        return x, leading
    return ops.reshape(x, (-1, *event)), leading


def unfold_leading_axes(x, leading):
    """Reshapes `[N, *event]` back to `[*leading, *event]`."""
    if len(leading) == 1:
        return x
    return ops.reshape(x, (*leading, *ops.shape(x)[1:]))


def folded_matmul(x, kernel):
    """`x @ kernel` as one two-dimensional product, `[..., D] @ [D, U] -> [..., U]`.

    A batched product with a broadcast kernel is several times slower under XLA.
    """
    x, leading = fold_leading_axes(x, event_rank=1)
    return unfold_leading_axes(ops.matmul(x, kernel), leading)


def positive_integer(value, name):
    """Returns `value` as an int, or raises if it is not a positive integer."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < 1:
        raise ValueError(f"expected {name} to be a positive integer. Received: {name}={value!r}")
    return int(value)


@keras.saving.register_keras_serializable(package="tfhvae")
class Fold(keras.layers.Wrapper):
    """Applies a layer which wants one batch axis under any number of them.

    All leading axes are folded into one, the layer is applied, and the axes are
    restored. `Conv2D`, for example, takes `[N, H, W, C]` and refuses the
    `[S, B, H, W, C]` of several samples per image; `Fold(Conv2D(...),
    event_rank=3)` takes both. The wrapped layer sees the elements of the leading
    axes as independent examples: batch statistics are taken over all of them.

    Args:
        layer: the `keras.layers.Layer` to apply. It may return nested outputs.
        event_rank: the number of trailing axes which belong to one example.

    Input shape: `[*leading, *event]`, `event_rank` axes in `event`.

    Output shape: `[*leading, *output_event]`, for each output of the layer.

    Example:

    >>> layer = Fold(keras.layers.Conv2D(8, 3), event_rank=3)
    >>> layer(keras.random.normal((5, 2, 28, 28, 1))).shape
    TensorShape([5, 2, 26, 26, 8])
    """

    def __init__(self, layer, event_rank, **kwargs):
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(f"expected layer to be a Keras layer. Received: layer={layer!r}")
        # The wrapped layer casts its own inputs, by its own dtype policy.
        super().__init__(layer, autocast=False, **kwargs)
        self.event_rank = positive_integer(event_rank, "event_rank")

    def build(self, input_shape):
        if len(input_shape) <= self.event_rank:
            raise ValueError(
                f"expected an input with at least one axis before its last {self.event_rank}. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        super().build(self._folded_shape(input_shape))

    def call(self, inputs, training=None):
        folded, leading = fold_leading_axes(inputs, self.event_rank)
        outputs = self.layer(folded, training=training)
        return keras.tree.map_structure(lambda x: unfold_leading_axes(x, leading), outputs)

    def compute_output_shape(self, input_shape):
        leading = tuple(input_shape[: -self.event_rank])
        return keras.tree.map_shape_structure(
            lambda shape: leading + tuple(shape[1:]),
            self.layer.compute_output_shape(self._folded_shape(input_shape)),
        )

    def compute_output_spec(self, inputs, training=None):
        leading = tuple(inputs.shape[: -self.event_rank])
        folded = keras.KerasTensor(self._folded_shape(inputs.shape), dtype=inputs.dtype)
        return keras.tree.map_structure(
            lambda spec: keras.KerasTensor(leading + tuple(spec.shape[1:]), dtype=spec.dtype),
            self.layer.compute_output_spec(folded),
        )

    def _folded_shape(self, input_shape):
        leading, event = input_shape[: -self.event_rank], input_shape[-self.event_rank :]
        size = None if None in leading else math.prod(leading)
        return (size, *event)

    def get_config(self):
        return {**super().get_config(), "event_rank": self.event_rank}
