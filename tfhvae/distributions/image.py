"""Distributions of images, with independent pixels given their parameters."""

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


class _IndependentPixels(tfd.Distribution):
    """What pixel distributions share: the last `event_rank` axes of the parameters are one
    event."""

    def __init__(self, parameter, event_rank, validate_args, parameters, name):
        if event_rank < 0 or event_rank > parameter.shape.rank:
            raise ValueError(
                f"expected 0 <= event_rank <= {parameter.shape.rank}, the rank of the parameters. Received: event_rank={event_rank}"
            )
        self._parameter = parameter
        self._event_rank = event_rank
        super().__init__(
            dtype=parameter.dtype,
            reparameterization_type=tfd.NOT_REPARAMETERIZED,
            validate_args=validate_args,
            allow_nan_stats=False,
            parameters=parameters,
            name=name,
        )

    def _event_shape(self):
        return self._parameter.shape[self._parameter.shape.rank - self._event_rank :]

    def _event_shape_tensor(self):
        return tf.shape(self._parameter)[self._parameter.shape.rank - self._event_rank :]

    def _batch_shape(self):
        return self._parameter.shape[: self._parameter.shape.rank - self._event_rank]

    def _batch_shape_tensor(self):
        return tf.shape(self._parameter)[: self._parameter.shape.rank - self._event_rank]

    def _sum_event(self, per_pixel):
        return tf.reduce_sum(per_pixel, list(range(-self._event_rank, 0)))

    def _fold_event(self, x):
        """`[..., *event]` to `[..., pixels]`; axes of known length stay known."""
        event_start = x.shape.rank - self._event_rank
        pixels = x.shape[event_start:].num_elements()
        return tf.reshape(x, tf.concat([tf.shape(x)[:event_start], [pixels]], 0))


class Bernoulli(_IndependentPixels):
    """Binary pixels. Values between 0 and 1 are accepted and give the cross-entropy.

    `log p(x) = sum_d x_d l_d - softplus(l_d)` with logits l. `logit_limit` clips the logits, as
    authors do who clip means: a mean in [1e-5, 1 - 1e-5] is a logit within 11.51.

    Raises:
      ValueError: unless `logit_limit` is positive or None.
    """

    def __init__(
        self, logits, event_rank=1, logit_limit=None, validate_args=False, name="Bernoulli"
    ):
        parameters = dict(locals())
        if logit_limit is not None and logit_limit <= 0:
            raise ValueError(f"expected a positive logit_limit. Received: {logit_limit!r}")
        logits = tf.convert_to_tensor(logits)
        self._logits = (
            logits if logit_limit is None else tf.clip_by_value(logits, -logit_limit, logit_limit)
        )
        super().__init__(self._logits, event_rank, validate_args, parameters, name)

    @property
    def logits(self):
        return self._logits

    def _log_prob(self, x):
        # XLA is twice as fast on one axis of pixels as on height, width and channels.
        x, logits = self._fold_event(x), self._fold_event(self._logits)
        return tf.reduce_sum(x * logits - tf.nn.softplus(logits), -1)

    def _mean(self):
        return tf.sigmoid(self._logits)

    def _mode(self):
        return tf.cast(self._logits > 0.0, self.dtype)

    def _sample_n(self, n, seed=None):
        shape = tf.concat([[n], tf.shape(self._logits)], 0)
        seed = tfp.random.sanitize_seed(seed)
        return self.from_uniform(tf.random.stateless_uniform(shape, seed, dtype=self.dtype))

    def from_uniform(self, uniform):
        """The draw that uniform numbers in [0, 1), one for each pixel, stand for."""
        return tf.cast(uniform < self._mean(), self.dtype)


class DiscretizedLogistic(_IndependentPixels):
    """A logistic distribution of pixel intensities, discretised into 256 bins `[k/256, (k+1)/256)`.

    Values are in [0, 1) and count by the bin that they fall in (`floor(256 x)`), so (k + 0.5)/256
    is safe for grey level k.

    #### Mathematical details

    With a = (k/256 - mu)/s and b = ((k+1)/256 - mu)/s, a bin has mass sigmoid(b) - sigmoid(a) =
    sigmoid(b) sigmoid(-a) (1 - exp(a - b)), which is summed as logarithms and stays finite however
    far the value lies from the mean.

    Args:
      loc: mu, `[..., *event]`, between 0 and 1.
      log_scale: log s, `[..., *event]`; it and loc broadcast.
      open_tails: whether the bins 0 and 255 extend to infinity, so that the 256 masses sum to one.
      offset: added to each mass before the logarithm. Tomczak & Welling's code has
        `open_tails=False, offset=1e-7`; it is not normalised.

    #### References

    Kingma et al., Improving variational inference with inverse autoregressive flow, 2016,
    appendix; Salimans et al., PixelCNN++, 2017.
    """

    num_bins = 256

    def __init__(
        self,
        loc,
        log_scale,
        event_rank=1,
        open_tails=True,
        offset=0.0,
        validate_args=False,
        name="DiscretizedLogistic",
    ):
        parameters = dict(locals())
        self._loc = tf.convert_to_tensor(loc)
        self._log_scale = tf.convert_to_tensor(log_scale)
        if self._loc.shape != self._log_scale.shape:
            shapes = tf.shape(self._loc), tf.shape(self._log_scale)
            self._loc = tf.broadcast_to(self._loc, tf.broadcast_dynamic_shape(*shapes))
        self._open_tails = open_tails
        self._offset = offset
        super().__init__(self._loc, event_rank, validate_args, parameters, name)

    def _log_prob(self, x):
        level = tf.clip_by_value(tf.floor(x * self.num_bins), 0.0, self.num_bins - 1.0)
        inverse_scale = tf.exp(-self._log_scale)
        lower = (level / self.num_bins - self._loc) * inverse_scale
        upper = lower + inverse_scale / self.num_bins
        log_below_upper = -tf.nn.softplus(-upper)  # log sigmoid(b)
        log_above_lower = -tf.nn.softplus(lower)  # log sigmoid(-a)
        log_mass = (
            log_below_upper
            + log_above_lower
            + tf.math.log(-tf.math.expm1(-inverse_scale / self.num_bins))
        )
        if self._open_tails:
            log_mass = tf.where(
                level == 0.0,
                log_below_upper,
                tf.where(level == self.num_bins - 1.0, log_above_lower, log_mass),
            )
        if self._offset:
            log_mass = tf.math.log(tf.exp(log_mass) + self._offset)
        return self._sum_event(log_mass)

    def _mean(self):
        """The location of the underlying logistic distribution, which pictures show."""
        return self._loc + tf.zeros_like(self._log_scale)

    def _sample_n(self, n, seed=None):
        shape = tf.concat([[n], tf.shape(self._loc)], 0)
        seed = tfp.random.sanitize_seed(seed)
        return self.from_uniform(tf.random.stateless_uniform(shape, seed, dtype=self.dtype))

    def from_uniform(self, uniform):
        """The draw that uniform numbers in [0, 1), one for each pixel, stand for."""
        uniform = 1e-6 + (1.0 - 2e-6) * uniform
        continuous = self._loc + tf.exp(self._log_scale) * (
            tf.math.log(uniform) - tf.math.log1p(-uniform)
        )
        level = tf.clip_by_value(tf.floor(continuous * self.num_bins), 0.0, self.num_bins - 1.0)
        return (level + 0.5) / self.num_bins
