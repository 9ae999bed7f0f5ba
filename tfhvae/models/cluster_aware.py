"""Cluster-aware generative model, CaGeM (Maaløe et al. 2017; thesis, Eqs. 4.24 to 4.33).

p(x, y, z1, z2) = p(z2) p(y|z2) p(z1|y, z2) p(x|y, z1)
q(y, z1, z2|x)  = q(z1|x) q(y|z1, x) q(z2|x, y, z1)
"""

import keras
import tensorflow as tf

from tfhvae.models import parts
from tfhvae.models.base import Generation, stateless_seed
from tfhvae.models.semi_supervised import SemiSupervisedModel
from tfhvae.traces import STANDARD_NORMAL, Trace, draw


@keras.saving.register_keras_serializable(package="tfhvae")
class CaGeM(SemiSupervisedModel):
    """CaGeM: clusters y that the topmost latent variable has to explain.

    Labels enter through two cross-entropies only, of q(y|x) and of p(y|x), whose gradients reach
    nothing but the weights of q(y|z1, x) and p(y|z2). Running averages of batch statistics are
    those of unlabelled images: labelled ones are normalised by their own statistics in training,
    and leave no trace in them.

    Args:
      event_shape: `(height, width, channels)`.
      likelihood: "bernoulli", "gaussian" or "discretized_logistic".
      num_classes: K, clusters; as many as there are classes where there are labels.
      latent_dims: units of z1 and z2.
      hidden_units: of every network.
      activation, batch_normalization: as in `GaussianHierarchy`.
      label_inference, temperature, summed_classes: as in `SemiSupervisedModel`.
      cascade_weight: of the cross-entropy of p(y|x) against that of q(y|x); 1 in the paper.

    Raises:
      ValueError: for a negative cascade_weight, and as `SemiSupervisedModel` does.

    Sites, in drawing order: `z1` `[S, (Y,) B, latent_dims[0]]`, `z2` `[S, (Y,) B, latent_dims[1]]`.
    """

    has_labelled_bound = False

    def __init__(
        self,
        event_shape,
        likelihood="bernoulli",
        num_classes=10,
        latent_dims=(64, 32),
        hidden_units=(1024, 512),
        activation="relu",
        batch_normalization="hidden",
        label_inference="enumerated",
        temperature=0.5,
        summed_classes=1,
        cascade_weight=1.0,
        name="cagem",
        **kwargs,
    ):
        super().__init__(
            event_shape,
            num_classes,
            label_inference,
            temperature,
            summed_classes,
            name=name,
            **kwargs,
        )
        if len(latent_dims) != 2:
            raise ValueError(
                "expected latent_dims to be (units of z1, units of z2). "
                f"Received: latent_dims={latent_dims!r}"
            )
        parts.check_choice("batch_normalization", batch_normalization, parts.BATCH_NORMALIZATION)
        self.config = {
            "likelihood": parts.check_choice("likelihood", likelihood, parts.LIKELIHOODS),
            "num_classes": num_classes,
            "latent_dims": list(latent_dims),
            "hidden_units": list(hidden_units),
            "activation": activation,
            "batch_normalization": batch_normalization,
            "label_inference": label_inference,
            "temperature": temperature,
            "summed_classes": summed_classes,
            "cascade_weight": cascade_weight,
        }
        if not cascade_weight >= 0.0:
            raise ValueError(f"expected cascade_weight >= 0. Received: {cascade_weight}")
        self.cascade_weight = cascade_weight
        self.likelihood = likelihood
        self.latent_dims = tuple(latent_dims)
        self.q_z1 = self._gaussian(latent_dims[0], "q_z1")
        self.q_z2 = self._gaussian(latent_dims[1], "q_z2")
        self.p_z1 = self._gaussian(latent_dims[0], "p_z1")
        self.q_y = self._perceptron("q_y")
        self.p_y = self._perceptron("p_y")
        self.p_x = self._perceptron("p_x")
        self.q_y_logits = keras.layers.Dense(num_classes, dtype="float32", name="q_y_logits")
        self.p_y_logits = keras.layers.Dense(num_classes, dtype="float32", name="p_y_logits")
        pixels = self.event_shape[0] * self.event_shape[1] * self.event_shape[2]
        self.pixels = keras.layers.Dense(
            pixels * parts.NUM_PARAMETERS[likelihood], dtype=self.dtype_policy, name="pixels"
        )
        self.build_from_event_shape()

    @property
    def noise_shapes(self):
        return {"z1": (self.latent_dims[0],), "z2": (self.latent_dims[1],)}

    @property
    def generation_order(self):
        return ["z2", "z1"]

    @property
    def classifier_weights(self):
        """The weights that labels train: those of q(y|z1, x) and of p(y|z2)."""
        layers = (self.q_y, self.q_y_logits, self.p_y, self.p_y_logits)
        return [weight for layer in layers for weight in layer.trainable_variables]

    def _log_q_y(self, z1, image, training):
        return tf.nn.log_softmax(self.q_y_logits(self.q_y([z1, image], training=training)))

    def _log_p_y(self, z2, training):
        """log p(y|z2) for every y: `[..., Y]`."""
        return tf.nn.log_softmax(self.p_y_logits(self.p_y([z2], training=training)))

    def _infer_z1(self, image, noise, value, training):
        loc, scale = self.q_z1([image], training=training)[0]
        return (loc, scale), loc + scale * noise["z1"] if value is None else value

    def class_log_probs(self, x, noise=None, num_samples=1, training=False):
        x, noise = self.images_and_noise(x, noise, num_samples)
        image = parts.flatten_event(x)
        return self._log_q_y(self._infer_z1(image, noise, None, training)[1], image, training)

    def cascade_log_probs(self, x, noise=None, num_samples=1, training=False):
        """log p(y|x), `[S, B, Y]`, through the cascade sum_c q(c|z1, x) p(y|z2), z2 drawn from
        q(z2|x, c, z1) (thesis, Eq. 4.32). Only the two classifiers' weights get a gradient."""
        x, noise = self.images_and_noise(x, noise, num_samples)
        return self._classifiers(parts.flatten_event(x), noise, training)[1]

    def _classifiers(self, image, noise, training):
        """log q(y|z1, x), and the cascade's log p(y|x): each `[S, B, Y]`."""
        z1 = tf.stop_gradient(self._infer_z1(image, noise, None, training)[1])  # [S, B, Z1]
        log_q_y = self._log_q_y(z1, image, training)
        log_q = tf.transpose(log_q_y, [0, 2, 1])  # [S, C, B]
        clusters = tf.eye(self.num_classes)[:, tf.newaxis]
        loc, scale = self.q_z2([z1[:, tf.newaxis], image, clusters], training=training)[0]
        z2 = tf.stop_gradient(loc + scale * noise["z2"][:, tf.newaxis])  # [S, C, B, Z2]
        log_p = self._log_p_y(z2, training)  # [S, C, B, Y]
        return log_q_y, tf.reduce_logsumexp(log_q[..., tf.newaxis] + log_p, 1)

    def classify(self, x, num_samples=1, seed=None, noise=None, classifier="p"):
        """Probabilities `[B, Y]` of p(y|x), or with `classifier="q"` of q(y|x)."""
        x = self.checked_images(x)
        if noise is None:
            seed = self.next_seed() if seed is None else seed
            noise = self.noise(seed, tf.shape(x)[0], num_samples)
        parts.check_choice("classifier", classifier, ("p", "q"))
        log_probs = self.cascade_log_probs if classifier == "p" else self.class_log_probs
        return tf.reduce_mean(tf.exp(log_probs(x, noise)), 0)

    def labelled_terms(self, x, y, noise, training=False):
        """No trace, the cross-entropies cascade_weight H_p + H_q `[B]` of Eq. 4.33, and p(y|x)
        `[B, Y]`."""
        image, labels = parts.flatten_event(x), self.one_hot(y)
        with parts.momentum(parts.normalizations(self), 1.0):
            log_q, log_p = self._classifiers(image, noise, training)

        num_samples = tf.cast(tf.shape(log_q)[0], tf.float32)
        log_q, log_p = (
            tf.reduce_logsumexp(log_probs, 0) - tf.math.log(num_samples)
            for log_probs in (log_q, log_p)
        )  # [B, Y]
        log_likelihood = log_q + self.cascade_weight * log_p
        return None, -tf.reduce_sum(labels * log_likelihood, -1), tf.exp(log_p)

    def decode(self, latents, training=False):
        return self._image_distribution([latents["z1"], latents["y"]], training)

    def trace(self, x, num_samples=1, noise=None, values=None, training=False, y=None):
        x, noise = self.images_and_noise(x, noise, num_samples)
        values, image = values or {}, parts.flatten_event(x)
        q_z1, z1 = self._infer_z1(image, noise, values.get("z1"), training)
        log_q_y = self._log_q_y(z1, image, training)
        vectors, log_q = self.infer_class(log_q_y, y, noise)
        q_z2 = self.q_z2([self.lift(z1, y), image, vectors], training=training)[0]
        value = self.lift_value(values.get("z2"), y)
        z2 = draw(q_z2, STANDARD_NORMAL, self.lift(noise["z2"], y), value)
        p_z1 = self.p_z1([vectors, z2.value], training=training)[0]
        noise_z1, value_z1 = self.lift(noise["z1"], y), self.lift(values.get("z1"), y)
        sites = {
            "z1": draw(q_z1, p_z1, noise_z1, value_z1, closed_form_kl=False),
            "z2": z2,
        }
        log_p_y = self._log_p_y(z2.value, training)
        if y is None and self.label_inference == "gumbel":
            weights = tf.exp(log_q_y)
        else:
            weights = vectors
        log_px = self.decode({"z1": self.lift(z1, y), "y": vectors}, training).log_prob(x)
        return Trace(sites, log_px, self.label(log_q, tf.reduce_sum(weights * log_p_y, -1), y))

    def generate(self, num_samples=1, latents=None, seed=None, y=None):
        seed = self.next_seed() if seed is None else seed
        given, count = self.given_latents(latents, num_samples, y)
        z2 = given.get("z2")
        if z2 is None:
            z2 = tf.random.stateless_normal([count, self.latent_dims[1]], stateless_seed(seed, 0))
        if y is None:
            log_p = self._log_p_y(z2, False)
            y = tf.random.stateless_categorical(log_p, 1, stateless_seed(seed, 2))[:, 0]
        y = tf.cast(y, tf.int32)
        z1 = given.get("z1")
        if z1 is None:
            loc, scale = self.p_z1([self.one_hot(y), z2])[0]
            z1 = loc + scale * tf.random.stateless_normal(tf.shape(loc), stateless_seed(seed, 3))
        p = self.decode({"z1": z1, "y": self.one_hot(y)})
        drawn = {"z2": z2, "z1": z1}
        return Generation(*parts.mean_and_draw(p, stateless_seed(seed, 1)), drawn, y)
