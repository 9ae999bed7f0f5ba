"""Images whose pixels depend on those before them."""

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


class Autoregressive(tfd.Distribution):
    """p(x) = prod_i p(x_i | x_1 .. x_{i-1}), pixels in raster order.

    The density of an image is one pass of a network. A draw needs the pixels one after the other,
    and is left to who knows how the network can do that without a full pass each.

    Args:
      conditional: `x [..., *event] -> ` a distribution of images whose pixels are independent; its
        parameters at a pixel depend on the pixels of x before it.
      sample: `uniform [n, *batch, *event] -> (x, conditional(x))`, the images that uniform numbers
        in [0, 1) stand for.
      event_shape: `(height, width, channels)`.
      batch_shape: of the parameters; a tensor where it is known when the graph runs only.

    There is no mean in closed form; `conditional(x).mean()` has the mean of each pixel given those
    before it.

    References: van den Oord et al., Pixel recurrent neural networks, 2016, Eq. (1).
    """

    def __init__(self, conditional, sample, event_shape, batch_shape=(), name="Autoregressive"):
        parameters = dict(locals())
        self._conditional = conditional
        self._sample_with_conditional = sample
        self._shape = tf.TensorShape(event_shape)
        self._parameter_shape = batch_shape
        super().__init__(
            dtype=tf.float32,
            reparameterization_type=tfd.NOT_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=False,
            parameters=parameters,
            name=name,
        )

    def conditional(self, x):
        """The distribution of every pixel given the pixels of x before it."""
        return self._conditional(x)

    def mean_and_draw(self, seed):
        """`from_uniform` of random numbers, `[*batch, *event]` each."""
        return self.from_uniform(self._uniform([], seed))

    def from_uniform(self, uniform):
        """The draw that uniform numbers in [0, 1), one for each pixel, stand for.

        Returns:
          `(mean, x)`: the mean that each pixel was drawn from, and the draw, both of the shape of
          `uniform`.
        """
        x, conditional = self._sample_with_conditional(uniform)
        return conditional.mean(), x

    def _uniform(self, shape, seed):
        parts = (shape, self._batch_shape_tensor(), self._shape)
        shape = tf.concat([tf.convert_to_tensor(part, tf.int32) for part in parts], 0)
        return tf.random.stateless_uniform(shape, tfp.random.sanitize_seed(seed))

    def _sample_n(self, n, seed=None):
        return self._sample_with_conditional(self._uniform([n], seed))[0]

    def _log_prob(self, x):
        return self._conditional(x).log_prob(x)

    def _event_shape(self):
        return self._shape

    def _event_shape_tensor(self):
        return tf.constant(self._shape.as_list(), tf.int32)

    def _batch_shape(self):
        return tf.TensorShape(tf.get_static_value(self._batch_shape_tensor(), partial=True))

    def _batch_shape_tensor(self):
        return tf.convert_to_tensor(self._parameter_shape, tf.int32)
