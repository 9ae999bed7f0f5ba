"""Mixtures of factorised Gaussians, evaluated as matrix products."""

import math

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


class GaussianMixture(tfd.Distribution):
    """An equally weighted (or weighted) mixture of C factorised Gaussians over D units.

    #### Mathematical details

        log p(z) = log sum_c pi_c prod_d N(z_d; mu_cd, sigma_cd²)

    Expanding the square turns the exponents of all components into one product, `[z², z] @ [-1/(2
    sigma²); mu/sigma²]`, plus a constant per
    component: no `[..., C, D]` tensor is formed. With the components q(z|u_c) of an encoder at
      pseudo-inputs u_c this is the VampPrior.
    Expansion costs accuracy where |mu|/sigma is large: about 1e-7 of the largest exponent, in
    float32.

    #### References

    Tomczak & Welling, VAE with a VampPrior, AISTATS 2018, Eq. 9.
    """

    def __init__(self, loc, scale, logits=None, validate_args=False, name="GaussianMixture"):
        """Args:
        loc: `[C, D]`.
        scale: `[C, D]`, standard deviations.
        logits: `[C]`, unnormalised log-weights; equal weights when None.

        Raises:
          ValueError: if `loc` and `scale` are not matrices of one shape.
        """
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            self._loc = tf.convert_to_tensor(loc)
            self._scale = tf.convert_to_tensor(scale)
            self._logits = None if logits is None else tf.convert_to_tensor(logits)
            if self._loc.shape.rank != 2 or not self._loc.shape.is_compatible_with(
                self._scale.shape
            ):
                raise ValueError(
                    f"expected loc and scale of one shape [components, units]. Received: loc={self._loc.shape}, scale={self._scale.shape}"
                )
            super().__init__(
                dtype=self._loc.dtype,
                reparameterization_type=tfd.NOT_REPARAMETERIZED,
                validate_args=validate_args,
                allow_nan_stats=False,
                parameters=parameters,
                name=name,
            )

    @property
    def num_components(self):
        return self._loc.shape[0]

    def _batch_shape(self):
        return tf.TensorShape([])

    def _batch_shape_tensor(self):
        return tf.constant([], tf.int32)

    def _event_shape(self):
        return self._loc.shape[1:]

    def _event_shape_tensor(self):
        return tf.shape(self._loc)[1:]

    def _log_weights(self):
        if self._logits is None:
            return -math.log(self.num_components) * tf.ones([self.num_components], self.dtype)
        return tf.nn.log_softmax(self._logits)

    def component_log_prob(self, value):
        """log pi_c + log N(value; mu_c, sigma_c²) of every component: `[..., D]` to `[..., C]`."""
        units = self._loc.shape[1]
        precision = 1.0 / tf.square(self._scale)
        constant = (
            self._log_weights()
            - tf.reduce_sum(0.5 * tf.square(self._loc) * precision + tf.math.log(self._scale), -1)
            - 0.5 * units * math.log(2.0 * math.pi)
        )
        flat = tf.reshape(value, [-1, units])
        exponents = tf.matmul(
            tf.concat([tf.square(flat), flat], -1),
            tf.concat([-0.5 * precision, self._loc * precision], -1),
            transpose_b=True,
        )
        return tf.reshape(
            exponents + constant, tf.concat([tf.shape(value)[:-1], [self.num_components]], 0)
        )

    def _log_prob(self, value):
        return tf.reduce_logsumexp(self.component_log_prob(value), -1)

    def _mean(self):
        return tf.linalg.matvec(self._loc, tf.exp(self._log_weights()), transpose_a=True)

    def _sample_n(self, n, seed=None):
        component_seed, noise_seed = tfp.random.split_seed(seed, n=2)
        component = tf.random.stateless_categorical(
            self._log_weights()[tf.newaxis], n, component_seed
        )[0]
        noise = tf.random.stateless_normal([n, self._loc.shape[1]], noise_seed, dtype=self.dtype)
        return tf.gather(self._loc, component) + tf.gather(self._scale, component) * noise
