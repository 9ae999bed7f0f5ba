"""Semi-supervised models: a class y that is known for some images and latent for the others.

    M2      p(y) p(z) p(x|y,z)                         q(y|x) q(z|x,y)             (Kingma et al. 2014)
    M1+M2   p(y) p(z2) p(z1|y,z2) p(x|z1)              q(z1|x) q(y|z1) q(z2|z1,y), x and z1 first
    ADGM    p(y) p(z) p(a|x,y,z) p(x|y,z)              q(a|x) q(y|a,x) q(z|a,y,x)
    SDGM    p(y) p(z) p(a|x,y,z) p(x|a,y,z)            as the ADGM                 (Maaløe et al. 2016)

Where y is unknown it is enumerated: one axis of the trace, the sum over it exact. Noise is shared by
the classes, so that the enumerated trace at row y is the trace of the label y.
"""

import abc
import math

import keras
import numpy as np
import tensorflow as tf

from tfhvae.layers import MLP
from tfhvae.models import parts
from tfhvae.models.base import Generation, LatentVariableModel, stateless_seed
from tfhvae.models.vae import VAE
from tfhvae.traces import (
    STANDARD_NORMAL,
    EnumeratedLabel,
    ObservedLabel,
    RelaxedLabel,
    SampledLabel,
    Trace,
    draw,
)

LABEL_INFERENCE = ("enumerated", "sum_and_sample", "gumbel")
_GUMBEL_STREAM = 0x6B


class SemiSupervisedModel(LatentVariableModel):
    """A model p(x, y, z) whose class y may be given.

    Subclasses define what `LatentVariableModel` asks for, with `y` in `trace` and `generate`, and
    `class_log_probs`.

    Args:
      event_shape: `(height, width, channels)`.
      num_classes: Y.
      label_inference: of an unknown y, "enumerated" (the sum over classes is exact and costs Y
        times as much); "sum_and_sample": the sum over the most probable classes, and one draw for
        all others, unbiased (Liu et al. 2019); or "gumbel": one relaxed one-hot draw (Jang et al.
        2017; Maddison et al. 2017), whose bound is one of the relaxed model: biased, the less so
        the lower the temperature. Test sets are evaluated with the exact sum all the same.
      temperature: of the relaxation.
      summed_classes: how many classes "sum_and_sample" sums over, from 1 to Y - 1.
    """

    has_labelled_bound = True  # whether the objective has a bound on log p(x, y) of labelled images

    def __init__(
        self,
        event_shape,
        num_classes,
        label_inference="enumerated",
        temperature=0.5,
        summed_classes=1,
        **kwargs,
    ):
        super().__init__(event_shape, **kwargs)
        if num_classes < 2:
            raise ValueError(f"expected num_classes >= 2. Received: num_classes={num_classes}")
        if not temperature > 0.0:
            raise ValueError(f"expected a positive temperature. Received: {temperature}")
        if not 1 <= summed_classes < num_classes:
            raise ValueError(
                f"expected summed_classes from 1 to num_classes - 1 = {num_classes - 1}. "
                f"Received: {summed_classes=}"
            )
        self.num_classes = num_classes
        self.label_inference = parts.check_choice(
            "label_inference", label_inference, LABEL_INFERENCE
        )
        self.temperature = temperature
        self.summed_classes = summed_classes

    def _perceptron(self, name):
        """A network of the hidden units of `config` over inputs that are joined."""
        config = self.config
        return MLP(
            config["hidden_units"],
            parts.activation_function(config["activation"]),
            None if config["batch_normalization"] == "none" else "batch",
            joint=True,
            name=name,
        )

    def _gaussian(self, units, name):
        """A Gaussian of `units` on such a network."""
        config = self.config
        return parts.ConditionalGaussian(
            units,
            config["hidden_units"],
            config["activation"],
            config["batch_normalization"],
            scale="clipped_log_variance",
            joint=True,
            name=name,
        )

    def _image_distribution(self, inputs, training):
        """p(x|inputs), of the network `p_x` and the layer `pixels`."""
        h = self.pixels(self.p_x(inputs, training=training))
        return parts.image_distribution(
            parts.unflatten_event(h, self.event_shape, self.likelihood), self.likelihood
        )

    @abc.abstractmethod
    def class_log_probs(self, x, noise=None, num_samples=1, training=False):
        """log q(y|x, what is drawn before y): `[S, B, Y]`."""

    def classify(self, x, num_samples=1, seed=None, noise=None):
        """q(y|x), averaged over what is drawn before y: probabilities `[B, Y]`. `noise`, as from
        `self.noise`, takes the place of `num_samples` and `seed`."""
        x = self.checked_images(x)
        if noise is None:
            seed = self.next_seed() if seed is None else seed
            noise = self.noise(seed, tf.shape(x)[0], num_samples)
        return tf.reduce_mean(tf.exp(self.class_log_probs(x, noise)), 0)

    def labelled_terms(self, x, y, noise, training=False):
        """What labelled images contribute to training: their trace, the cross-entropy -log q(y|.)
        `[B]`, averaged over what is drawn before y (Maaløe et al. 2016, Eq. 12), and the
        probabilities of the classes `[B, Y]`.

        In training, batch normalisation takes the statistics of the labelled images themselves.
        Its running averages stay with the unlabelled ones, as in evaluation no class is known."""
        with parts.momentum(parts.normalizations(self), 1.0):
            trace = self.trace(x, y=y, noise=noise, training=training)
            log_probs = self.class_log_probs(x, noise, training=training)
        probabilities = tf.reduce_mean(tf.exp(log_probs), 0)
        return trace, -tf.reduce_mean(trace.label.log_q, 0), probabilities

    def evaluation_trace(self, x, noise):
        trained_with, self.label_inference = self.label_inference, "enumerated"
        try:
            return self.trace(x, noise=noise)
        finally:
            self.label_inference = trained_with

    def noise(self, seed, batch_size, num_samples=1):
        noise = super().noise(seed, batch_size, num_samples)
        if self.label_inference != "enumerated":
            uniform = tf.random.stateless_uniform(
                [num_samples, batch_size, self.num_classes],
                stateless_seed(seed, _GUMBEL_STREAM),
                minval=1e-7,
                maxval=1.0 - 1e-7,
            )
            noise["y"] = -tf.math.log(-tf.math.log(uniform))
        return noise

    def reconstruct(self, x, noise, training=False):
        """The mean of p(x|y, z), y the most probable class."""
        y = tf.argmax(self.class_log_probs(x, noise, training=training)[0], -1)
        trace = self.trace(x, y=y, noise=noise, training=training)
        latents = {name: site.value[0] for name, site in trace.sites.items()}
        return self.decode({**latents, "y": self.one_hot(y)}, training).mean()

    def one_hot(self, y):
        """`[N]` classes as vectors `[N, Y]`. In a graph, where values are not known, one that is
        out of range is a vector of zeros."""
        y = tf.convert_to_tensor(y)
        if y.shape.rank != 1 or not y.dtype.is_integer:
            raise ValueError(
                f"expected integer classes [N]. Received: {y.dtype.name}, shape {y.shape}"
            )
        known = tf.get_static_value(y)
        if (
            known is not None
            and known.size
            and not 0 <= known.min() <= known.max() < self.num_classes
        ):
            raise ValueError(
                f"expected classes from 0 to {self.num_classes - 1}. "
                f"Received: {known.min()} to {known.max()}"
            )
        return tf.one_hot(tf.cast(y, tf.int32), self.num_classes)

    def infer_class(self, log_q, y, noise):
        """How a trace goes on after q(y|.).

        Args:
          log_q: `[S, B, Y]`.
          y: `[B]` integers, or None where unknown.

        Returns:
          The class as vectors, `[B, Y]` (known), `[Y, 1, Y]` (enumerated), `[S, C, B, Y]` (summed
          over in part) or `[S, B, Y]` (relaxed); and log q of each: `[S, B]`, `[S, Y, B]`,
          `[S, C, B]` or, for the mean, `[S, B]`.
        """
        if y is not None:
            vectors = self.one_hot(y)
            return vectors, tf.reduce_sum(vectors * log_q, -1)
        if self.label_inference == "enumerated":
            return tf.eye(self.num_classes)[:, tf.newaxis], tf.transpose(log_q, [0, 2, 1])
        if self.label_inference == "sum_and_sample":
            vectors = self._sum_and_sample(log_q, noise["y"])
            return vectors, tf.reduce_sum(vectors * log_q[:, tf.newaxis], -1)
        vectors = tf.nn.softmax((log_q + noise["y"]) / self.temperature)
        return vectors, tf.reduce_sum(tf.exp(log_q) * log_q, -1)

    def _sum_and_sample(self, log_q, gumbel):
        """The most probable classes, and one of the others drawn from q(y|.): `[S, C, B, Y]`."""
        indices = tf.math.top_k(log_q, self.summed_classes).indices  # [S, B, C - 1]
        summed = tf.transpose(tf.one_hot(indices, self.num_classes), [0, 2, 1, 3])
        others = 1.0 - tf.reduce_sum(summed, 1)  # [S, B, Y]
        scores = tf.where(others > 0.0, log_q + gumbel, -math.inf)
        drawn = tf.one_hot(tf.argmax(scores, -1), self.num_classes)
        return tf.concat([summed, drawn[:, tf.newaxis]], 1)

    def label(self, log_q, log_p, y):
        """The record of the class. `log_p` broadcasts against `log_q` of `infer_class`."""
        log_p = tf.broadcast_to(log_p, tf.shape(log_q))
        if y is not None:
            return ObservedLabel(log_q, log_p)
        if self.label_inference == "enumerated":
            return EnumeratedLabel(log_q, log_p)
        if self.label_inference == "sum_and_sample":
            return SampledLabel(log_q, log_p)
        return RelaxedLabel(log_q, log_p)

    def lift(self, tensor, y):
        """`[S, B, ...]` to `[S, 1, B, ...]` where y is enumerated, all of it or in part."""
        has_axis = y is None and self.label_inference != "gumbel"
        return tensor[:, tf.newaxis] if has_axis and tensor is not None else tensor

    def lift_value(self, value, y):
        """A given value `[S, B, units]`, or None, as that of every class: `[S, Y, B, units]` where
        y is enumerated."""
        value = self.lift(value, y)
        if value is None or value.shape.rank == 3:
            return value
        is_whole = self.label_inference == "enumerated"
        rows = self.num_classes if is_whole else self.summed_classes + 1
        return tf.tile(value, [1, rows, 1, 1])

    def given_latents(self, latents, num_samples, y=None):
        """As of `LatentVariableModel`, with one image for each class in `y`, where it is given.

        Raises:
          ValueError: also where `latents` and `y` have different lengths.
        """
        if y is None:
            return super().given_latents(latents, num_samples)
        classes = len(self.one_hot(y))
        if not classes:
            raise ValueError(f"expected one class or more in y. Received: {y!r}")
        latents, count = super().given_latents(latents, classes)
        rows = tf.get_static_value(count)
        if rows not in (None, classes):
            raise ValueError(
                f"expected as many rows in latents as classes. Received: {rows} and {classes}"
            )
        return latents, count

    def classes(self, num_samples, y, seed):
        """`[N]` classes: those given, or draws from the uniform p(y)."""
        if y is not None:
            return tf.cast(y, tf.int32)
        return tf.random.stateless_uniform(
            [num_samples], seed, maxval=self.num_classes, dtype=tf.int32
        )


class _DenseSemiSupervisedModel(SemiSupervisedModel):
    """What M2, ADGM and SDGM share: z and y a priori independent, p(y) uniform, dense networks."""

    def __init__(
        self,
        event_shape,
        likelihood="bernoulli",
        num_classes=10,
        latent_dim=100,
        hidden_units=(500, 500),
        activation="relu",
        batch_normalization="none",
        label_inference="enumerated",
        temperature=0.5,
        summed_classes=1,
        **kwargs,
    ):
        super().__init__(
            event_shape, num_classes, label_inference, temperature, summed_classes, **kwargs
        )
        parts.check_choice("batch_normalization", batch_normalization, parts.BATCH_NORMALIZATION)
        self.config = {
            "likelihood": parts.check_choice("likelihood", likelihood, parts.LIKELIHOODS),
            "num_classes": num_classes,
            "latent_dim": latent_dim,
            "hidden_units": list(hidden_units),
            "activation": activation,
            "batch_normalization": batch_normalization,
            "label_inference": label_inference,
            "temperature": temperature,
            "summed_classes": summed_classes,
        }
        self.likelihood = likelihood
        self.latent_dim = latent_dim
        self.q_y = self._perceptron("q_y")
        self.q_y_logits = keras.layers.Dense(num_classes, dtype="float32", name="q_y_logits")
        self.q_z = self._gaussian(latent_dim, "q_z")
        self.p_x = self._perceptron("p_x")
        pixels = self.event_shape[0] * self.event_shape[1] * self.event_shape[2]
        self.pixels = keras.layers.Dense(
            pixels * parts.NUM_PARAMETERS[likelihood], dtype=self.dtype_policy, name="pixels"
        )

    @property
    def _log_prior(self):
        return -math.log(self.num_classes)

    def _class_log_probs(self, inputs, training):
        return tf.nn.log_softmax(self.q_y_logits(self.q_y(inputs, training=training)))


@keras.saving.register_keras_serializable(package="tfhvae")
class M2(_DenseSemiSupervisedModel):
    """M2 (Kingma et al. 2014; Maaløe's thesis, Eqs. 4.2 to 4.11).

    Args:
      event_shape: `(height, width, channels)`.
      likelihood: "bernoulli", "gaussian" or "discretized_logistic".
      num_classes: Y.
      latent_dim: units of z.
      hidden_units: of each network.
      activation, batch_normalization: as in `GaussianHierarchy`.
      label_inference, temperature, summed_classes: as in `SemiSupervisedModel`.

    Sites: `z` `[S, (Y,) B, latent_dim]`.
    """

    def __init__(self, event_shape, name="m2", **kwargs):
        super().__init__(event_shape, name=name, **kwargs)
        self.build_from_event_shape()

    @property
    def noise_shapes(self):
        return {"z": (self.latent_dim,)}

    def class_log_probs(self, x, noise=None, num_samples=1, training=False):
        num_samples = num_samples if noise is None else tf.shape(noise["z"])[0]
        image = parts.flatten_event(self.checked_images(x))
        log_q = self._class_log_probs([image], training)  # [B, Y]
        return tf.tile(log_q[tf.newaxis], [num_samples, 1, 1])

    def decode(self, latents, training=False):
        return self._image_distribution([latents["z"], latents["y"]], training)

    def trace(self, x, num_samples=1, noise=None, values=None, training=False, y=None):
        x, noise = self.images_and_noise(x, noise, num_samples)
        value, image = (values or {}).get("z"), parts.flatten_event(x)
        vectors, log_q = self.infer_class(
            self.class_log_probs(x, noise, training=training), y, noise
        )
        q_z = self.q_z([image, vectors], training=training)[0]
        z = draw(q_z, STANDARD_NORMAL, self.lift(noise["z"], y), self.lift_value(value, y))
        p_x = self.decode({"z": z.value, "y": vectors}, training)
        return Trace({"z": z}, p_x.log_prob(x), self.label(log_q, self._log_prior, y))

    def generate(self, num_samples=1, latents=None, seed=None, y=None):
        seed = self.next_seed() if seed is None else seed
        latents, count = self.given_latents(latents, num_samples, y)
        if "z" not in latents:
            latents["z"] = tf.random.stateless_normal(
                [count, self.latent_dim], stateless_seed(seed, 0)
            )
        y = self.classes(tf.shape(latents["z"])[0], y, stateless_seed(seed, 2))
        p = self.decode({**latents, "y": self.one_hot(y)})
        return Generation(*parts.mean_and_draw(p, stateless_seed(seed, 1)), latents, y)


@keras.saving.register_keras_serializable(package="tfhvae")
class M1M2(SemiSupervisedModel):
    """M1+M2 (Kingma et al. 2014): M2 on the latents of a VAE, M1, that was trained before and stays
    as it is.

    Training sees draws of q(z1|x), a new one in every step; `classify` takes the mean of q(z1|x).
    M2 may be kept to a part of z1: see `keep_units`.

    Args:
      event_shape: `(height, width, channels)`.
      likelihood: "bernoulli", "gaussian" or "discretized_logistic".
      num_classes: Y.
      m1_latent_dim, m1_hidden_units: units of z1, and of M1's encoder (the decoder's in reverse).
      latent_dim: units of z2.
      hidden_units: of each network of M2.
      activation: of every network.
      label_inference, temperature, summed_classes: as in `SemiSupervisedModel`.

    Sites, in drawing order: `z1` `[S, (Y,) B, m1_latent_dim]`, `z2` `[S, (Y,) B, latent_dim]`.
    """

    def __init__(
        self,
        event_shape,
        likelihood="bernoulli",
        num_classes=10,
        m1_latent_dim=50,
        m1_hidden_units=(500, 500),
        latent_dim=50,
        hidden_units=(300,),
        activation="softplus",
        label_inference="enumerated",
        temperature=0.5,
        summed_classes=1,
        name="m1_m2",
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
        self.config = {
            "likelihood": likelihood,
            "num_classes": num_classes,
            "m1_latent_dim": m1_latent_dim,
            "m1_hidden_units": list(m1_hidden_units),
            "latent_dim": latent_dim,
            "hidden_units": list(hidden_units),
            "activation": activation,
            "label_inference": label_inference,
            "temperature": temperature,
            "summed_classes": summed_classes,
        }
        self.m1_latent_dim, self.latent_dim = m1_latent_dim, latent_dim
        self.m1 = VAE(
            event_shape,
            likelihood,
            m1_latent_dim,
            m1_hidden_units,
            gated=False,
            activation=activation,
            name="m1",
        )
        self.m1.trainable = False
        self.likelihood = likelihood
        self.units_kept = self.add_weight(
            name="units_kept",
            shape=(m1_latent_dim,),
            initializer="ones",
            trainable=False,
            autocast=False,
        )

        def gaussian(units, name):
            return parts.ConditionalGaussian(
                units,
                hidden_units,
                activation,
                scale="clipped_log_variance",
                joint=True,
                name=name,
            )

        self.q_y = MLP(hidden_units, parts.activation_function(activation), name="q_y")
        self.q_y_logits = keras.layers.Dense(num_classes, dtype="float32", name="q_y_logits")
        self.q_z2, self.p_z1 = gaussian(latent_dim, "q_z2"), gaussian(m1_latent_dim, "p_z1")
        self.build_from_event_shape()

    @property
    def noise_shapes(self):
        return {"z1": (self.m1_latent_dim,), "z2": (self.latent_dim,)}

    @property
    def generation_order(self):
        return ["z2", "z1"]

    def keep_units(self, kept):
        """Keeps M2 to units of z1, booleans `[m1_latent_dim]`. The others, which carry nothing of
        an image, are noise: q(y|z1) and q(z2|z1,y) see zeros, and their p is M1's N(0, 1)."""
        self.units_kept.assign(np.asarray(kept, np.float32))

    def _seen(self, z1):
        return z1 * tf.convert_to_tensor(self.units_kept)

    def _log_q_y(self, z1, training=False):
        return tf.nn.log_softmax(self.q_y_logits(self.q_y(self._seen(z1), training=training)))

    def _p_z1(self, vectors, z2, training=False):
        loc, scale = self.p_z1([vectors, z2], training=training)[0]
        kept = tf.convert_to_tensor(self.units_kept)
        return loc * kept, scale * kept + (1.0 - kept)

    def class_log_probs(self, x, noise=None, num_samples=1, training=False):
        x, noise = self.images_and_noise(x, noise, num_samples)
        loc, scale = self.m1.encode(x)
        return self._log_q_y(loc + scale * noise["z1"], training)

    def classify(self, x, num_samples=1, seed=None, noise=None):
        """q(y|z1) at the mean of q(z1|x): probabilities `[B, Y]`, without draws."""
        return tf.exp(self._log_q_y(self.m1.encode(self.checked_images(x))[0]))

    def decode(self, latents, training=False):
        return self.m1.decode({"z1": latents["z1"]})

    def trace(self, x, num_samples=1, noise=None, values=None, training=False, y=None):
        x, noise = self.images_and_noise(x, noise, num_samples)
        values = values or {}
        loc, scale = self.m1.encode(x)
        z1 = loc + scale * noise["z1"] if values.get("z1") is None else values["z1"]
        vectors, log_q = self.infer_class(self._log_q_y(z1, training), y, noise)
        q_z2 = self.q_z2([self.lift(self._seen(z1), y), vectors], training=training)[0]
        value = self.lift_value(values.get("z2"), y)
        z2 = draw(q_z2, STANDARD_NORMAL, self.lift(noise["z2"], y), value)
        p_z1 = self._p_z1(vectors, z2.value, training)
        noise_z1, value_z1 = self.lift(noise["z1"], y), self.lift(values.get("z1"), y)
        sites = {
            "z1": draw((loc, scale), p_z1, noise_z1, value_z1, closed_form_kl=False),
            "z2": z2,
        }
        # p(x|z1) knows no class: it is computed once, and broadcast.
        log_px = self.lift(self.decode({"z1": z1}).log_prob(x), y)
        log_px = tf.broadcast_to(log_px, tf.shape(z2.log_q))
        return Trace(sites, log_px, self.label(log_q, -math.log(self.num_classes), y))

    def generate(self, num_samples=1, latents=None, seed=None, y=None):
        seed = self.next_seed() if seed is None else seed
        given, count = self.given_latents(latents, num_samples, y)
        z2, z1 = given.get("z2"), given.get("z1")
        if z2 is None:
            z2 = tf.random.stateless_normal([count, self.latent_dim], stateless_seed(seed, 0))
        y = self.classes(count, y, stateless_seed(seed, 2))
        if z1 is None:
            loc, scale = self._p_z1(self.one_hot(y), z2)
            z1 = loc + scale * tf.random.stateless_normal(tf.shape(loc), stateless_seed(seed, 3))
        p = self.decode({"z1": z1})
        drawn = {"z2": z2, "z1": z1}
        return Generation(*parts.mean_and_draw(p, stateless_seed(seed, 1)), drawn, y)


@keras.saving.register_keras_serializable(package="tfhvae")
class ADGM(_DenseSemiSupervisedModel):
    """Auxiliary deep generative model (Maaløe et al. 2016, Eqs. 3 to 13 and 24).

    Args:
      event_shape: `(height, width, channels)`.
      auxiliary_dim: units of a.
      auxiliary_given_x: whether p(a|.) sees the image, as in the paper's Eq. 24; its experiments
        (section 3) have p(a|y, z).
      stochastic_auxiliary: whether a is drawn; otherwise it is its mean, a deterministic layer
        (the comparison of the paper's figure 5).
      **kwargs: as of `M2`.

    Sites: `a` `[S, (Y,) B, auxiliary_dim]`, `z` `[S, (Y,) B, latent_dim]`.
    """

    is_skip = False  # whether p(x|.) sees a

    def __init__(
        self,
        event_shape,
        auxiliary_dim=100,
        auxiliary_given_x=False,
        stochastic_auxiliary=True,
        name="adgm",
        **kwargs,
    ):
        if auxiliary_given_x and not stochastic_auxiliary:
            raise ValueError(
                "expected auxiliary_given_x=False where a is deterministic and has no p(a|.). "
                f"Received: {auxiliary_given_x=}, {stochastic_auxiliary=}"
            )
        super().__init__(event_shape, name=name, **kwargs)
        self.config |= {
            "auxiliary_dim": auxiliary_dim,
            "auxiliary_given_x": auxiliary_given_x,
            "stochastic_auxiliary": stochastic_auxiliary,
        }
        self.auxiliary_dim = auxiliary_dim
        self.auxiliary_given_x = auxiliary_given_x
        self.stochastic_auxiliary = stochastic_auxiliary
        self.q_a = self._gaussian(auxiliary_dim, "q_a")
        if stochastic_auxiliary:
            self.p_a = self._gaussian(auxiliary_dim, "p_a")
        self.build_from_event_shape()

    @property
    def noise_shapes(self):
        a = {"a": (self.auxiliary_dim,)} if self.stochastic_auxiliary else {}
        return {**a, "z": (self.latent_dim,)}

    @property
    def generation_order(self):
        return ["z", "a"] if self.is_skip else ["z"]

    def _infer_auxiliary(self, image, noise, value, training):
        """`(loc, scale)` of q(a|x) `[B, A]`, and the draw `[S, B, A]`."""
        loc, scale = self.q_a([image], training=training)[0]
        if not self.stochastic_auxiliary:
            return (loc, scale), tf.tile(loc[tf.newaxis], [tf.shape(noise["z"])[0], 1, 1])
        return (loc, scale), loc + scale * noise["a"] if value is None else value

    def class_log_probs(self, x, noise=None, num_samples=1, training=False):
        x, noise = self.images_and_noise(x, noise, num_samples)
        image = parts.flatten_event(x)
        a = self._infer_auxiliary(image, noise, None, training)[1]
        return self._class_log_probs([a, image], training)

    def decode(self, latents, training=False):
        inputs = [latents["z"], latents["y"]]
        return self._image_distribution(
            [latents["a"], *inputs] if self.is_skip else inputs, training
        )

    def prior_a(self, z, vectors, image, training=False):
        """`(loc, scale)` of p(a|y, z) or p(a|x, y, z)."""
        inputs = [z, vectors, image] if self.auxiliary_given_x else [z, vectors]
        return self.p_a(inputs, training=training)[0]

    def trace(self, x, num_samples=1, noise=None, values=None, training=False, y=None):
        x, noise = self.images_and_noise(x, noise, num_samples)
        values, image = values or {}, parts.flatten_event(x)
        q_a, a = self._infer_auxiliary(image, noise, values.get("a"), training)
        log_q_y = self._class_log_probs([a, image], training)  # [S, B, Y]
        vectors, log_q = self.infer_class(log_q_y, y, noise)
        q_z = self.q_z([self.lift(a, y), image, vectors], training=training)[0]
        value = self.lift_value(values.get("z"), y)
        z = draw(q_z, STANDARD_NORMAL, self.lift(noise["z"], y), value)
        sites, latents = {}, {"a": self.lift(a, y), "z": z.value, "y": vectors}
        if self.stochastic_auxiliary:
            p_a = self.prior_a(z.value, vectors, image, training)
            noise_a, value_a = self.lift(noise["a"], y), self.lift(values.get("a"), y)
            sites["a"] = draw(q_a, p_a, noise_a, value_a, closed_form_kl=False)
        sites["z"] = z
        log_px = self.decode(latents, training).log_prob(x)
        return Trace(sites, log_px, self.label(log_q, self._log_prior, y))

    def generate(self, num_samples=1, latents=None, seed=None, y=None):
        seed = self.next_seed() if seed is None else seed
        given, count = self.given_latents(latents, num_samples, y)
        z = given.get("z")
        if z is None:
            z = tf.random.stateless_normal([count, self.latent_dim], stateless_seed(seed, 0))
        y = self.classes(count, y, stateless_seed(seed, 2))
        drawn = {"z": z}
        if self.is_skip:
            drawn["a"] = given.get("a")
            if drawn["a"] is None:
                loc, scale = self.prior_a(z, self.one_hot(y), None)
                noise = tf.random.stateless_normal(tf.shape(loc), stateless_seed(seed, 3))
                drawn["a"] = loc + scale * noise
        p = self.decode({**drawn, "y": self.one_hot(y)})
        return Generation(*parts.mean_and_draw(p, stateless_seed(seed, 1)), drawn, y)


@keras.saving.register_keras_serializable(package="tfhvae")
class SDGM(ADGM):
    """Skip deep generative model (Maaløe et al. 2016, section 2.4): a is part of the generative
    model, p(x|a, y, z) p(a|y, z). Eq. 25 has p(a|x, y, z), from which no image can be generated.

    Args: as of `ADGM`; without x in p(a|.) and with a drawn, or nothing could be generated.
    """

    is_skip = True

    def __init__(self, event_shape, name="sdgm", **kwargs):
        if kwargs.get("auxiliary_given_x") or not kwargs.get("stochastic_auxiliary", True):
            raise ValueError(
                "expected an SDGM whose a is drawn from p(a|y, z). Received: "
                f"auxiliary_given_x={kwargs.get('auxiliary_given_x', False)}, "
                f"stochastic_auxiliary={kwargs.get('stochastic_auxiliary', True)}"
            )
        super().__init__(event_shape, name=name, **kwargs)
