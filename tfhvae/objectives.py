"""Training objectives: which bound is maximised, with how many samples, and how its gradient is
estimated."""

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from tfhvae import bounds
from tfhvae.models import parts
from tfhvae.traces import SampledLabel, mean_over_classes

GRADIENTS = ("standard", "sticking_the_landing", "doubly_reparameterized")
KL_ESTIMATES = ("sampled", "analytic")


@keras.saving.register_keras_serializable(package="tfhvae")
class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """beta rising linearly from `start` to 1 over `epochs` epochs, in steps of one epoch or of one
    update.

    Sønderby et al.'s ladder networks use start 0 over 200 epochs. Tomczak & Welling's min(1,
    epoch/100), counted from 1, is `start=0.01, epochs=99`.
    """

    def __init__(self, epochs, steps_per_epoch, start=0.0, per="epoch"):
        if per not in ("epoch", "step"):
            raise ValueError(f'expected per="epoch" or "step". Received: per={per!r}')
        if epochs < 0 or steps_per_epoch < 1 or not 0.0 <= start <= 1.0:
            raise ValueError(
                f"expected epochs >= 0, steps_per_epoch >= 1 and 0 <= start <= 1. Received: {epochs=}, {steps_per_epoch=}, {start=}"
            )
        self.epochs, self.steps_per_epoch, self.start, self.per = (
            epochs,
            steps_per_epoch,
            start,
            per,
        )

    def __call__(self, step):
        epoch = tf.cast(step // self.steps_per_epoch if self.per == "epoch" else step, tf.float32)
        length = self.epochs if self.per == "epoch" else self.epochs * self.steps_per_epoch
        return (
            tf.minimum(1.0, self.start + (1.0 - self.start) * epoch / max(length, 1))
            if length
            else tf.ones_like(epoch)
        )

    def get_config(self):
        return {
            "epochs": self.epochs,
            "steps_per_epoch": self.steps_per_epoch,
            "start": self.start,
            "per": self.per,
        }


@keras.saving.register_keras_serializable(package="tfhvae")
class ExponentialWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """beta = 1 - exp(-n / steps) in the n-th update, counted from 1, as in Zhao et al.'s code with
    `steps=2000`."""

    def __init__(self, steps):
        if not steps > 0:
            raise ValueError(f"expected a positive number of steps. Received: {steps=}")
        self.steps = steps

    def __call__(self, step):
        return -tf.math.expm1(-(tf.cast(step, tf.float32) + 1.0) / self.steps)

    def get_config(self):
        return {"steps": self.steps}


@dataclasses.dataclass(frozen=True)
class Objective:
    """Maximises a bound on log p(x), averaged over the batch.

    Args:
      num_samples: M, Monte Carlo samples outside the logarithm.
      num_importance: K, importance samples inside the logarithm.
      kl: "sampled" (log q - log p at the draw) or "analytic" (per unit, where a site has it).
      beta: weight of the latent terms: a number, or a schedule called with the step.
      free_bits: nats per site below which its KL is not reduced further; only on the analytic path.
      gradient: "standard", "sticking_the_landing" (Roeder et al. 2017; K = 1) or
        "doubly_reparameterized" (Tucker et al. 2019; for K > 1, of models without batch
        normalisation). The bound is the same; only its gradient estimate changes.
      weight_decay: lambda; training minimises lambda / 2 times the squared kernels as well: not
        biases, nor what a prior has learned. With 1 / (N std²), N training images, that is a prior
        N(0, std²) on the weights. It is no part of the bound that is reported.
      class_warmup: whether beta weighs log p(y) - log q(y) of an unknown class too.

    Raises:
      ValueError: for combinations that have no meaning.
    """

    num_samples: int = 1
    num_importance: int = 1
    kl: str = "sampled"
    beta: Any = 1.0
    free_bits: float = 0.0
    gradient: str = "standard"
    weight_decay: float = 0.0
    class_warmup: bool = False

    def __post_init__(self):
        if not self.weight_decay >= 0.0:
            raise ValueError(f"expected weight_decay >= 0. Received: {self.weight_decay}")
        if self.num_samples < 1 or self.num_importance < 1:
            raise ValueError(
                f"expected num_samples >= 1 and num_importance >= 1. Received: {self.num_samples}, {self.num_importance}"
            )
        if self.kl not in KL_ESTIMATES:
            raise ValueError(f"expected kl to be one of {KL_ESTIMATES}. Received: kl={self.kl!r}")
        if self.gradient not in GRADIENTS:
            raise ValueError(
                f"expected gradient to be one of {GRADIENTS}. Received: gradient={self.gradient!r}"
            )
        if self.free_bits < 0.0 or (self.free_bits and self.kl != "analytic"):
            raise ValueError(
                f'expected free_bits >= 0, and kl="analytic" where it is used. Received: free_bits={self.free_bits}, kl={self.kl!r}'
            )
        if self.kl == "analytic" and (self.num_importance > 1 or self.gradient != "standard"):
            raise ValueError(
                f'kl="analytic" has no importance weights: expected num_importance=1 and gradient="standard", or kl="sampled". '
                f"Received: num_importance={self.num_importance}, gradient={self.gradient!r}"
            )
        if self.gradient == "sticking_the_landing" and self.num_importance > 1:
            raise ValueError(
                f'sticking the landing is biased for num_importance > 1; expected gradient="doubly_reparameterized". '
                f"Received: num_importance={self.num_importance}"
            )

    @property
    def samples_per_example(self):
        """S = M * K."""
        return self.num_samples * self.num_importance

    def metric_names(self, model):
        """Names of the scalars that `__call__` and `evaluate` return."""
        return ["bound", "log_px", *(f"kl/{site}" for site in model.noise_shapes), "beta"]

    def checked(self, model, data, training=True):
        """A batch as `__call__` takes it, or without `training` as `evaluate` does, with images in
        float32.

        Raises:
          ValueError: for anything else, and where `model.checked_images` does.
        """
        if not tf.is_tensor(data):
            raise ValueError(
                "expected batches of images alone, as labels take a SemiSupervisedObjective. "
                f"Received: {_structure(data)}"
            )
        return model.checked_images(data)

    def check_model(self, model, trace):
        """Checks that the bound of this model, of which `trace` is one, can be maximised so.

        Raises:
          ValueError: for K > 1 where classes are summed over in part; for a path gradient of a
            model with classes; and, with K > 1, of one with batch normalisation. There the weight
            of one draw depends on all others of the batch, through its moments, and the estimate
            would be biased.
        """
        if self.num_importance > 1 and isinstance(trace.label, SampledLabel):
            raise ValueError(
                'expected num_importance=1 with label_inference="sum_and_sample", an estimate that '
                f"is biased inside a logarithm. Received: num_importance={self.num_importance}"
            )
        if self.gradient != "standard" and trace.label is not None:
            raise ValueError(
                f'expected gradient="standard" of a model with classes. Received: {self.gradient!r}'
            )
        if self.gradient != "standard" and self.num_importance > 1 and parts.normalizations(model):
            raise ValueError(
                'expected gradient="standard" of a model with batch normalisation, where that '
                f"estimate is biased. Received: {self.gradient!r}"
            )

    def noise(self, model, seed, x):
        """Noise for one training batch, as `__call__` takes it."""
        return model.noise(seed, tf.shape(x)[0], self.samples_per_example)

    def penalty(self, variables):
        """What `weight_decay` adds to the loss, `[]`."""
        kernels = [v for v in variables if v.name == "kernel"]
        if not self.weight_decay or not kernels:
            return tf.constant(0.0)
        return self.weight_decay * tf.add_n(
            [tf.nn.l2_loss(tf.convert_to_tensor(k)) for k in kernels]
        )

    def bound(self, trace, beta=1.0):
        """The bound of one trace, `[B]` in nats."""
        class_beta = beta if self.class_warmup else 1.0
        if self.kl == "analytic":
            return bounds.elbo(trace, beta, self.free_bits, class_beta)
        return bounds.importance_weighted(trace, self.num_importance, beta, class_beta=class_beta)

    def __call__(self, model, x, noise, step, training=True):
        """Loss `[]` (minus the mean bound, in nats per example), scalars `{name: []}` and KL
        `{site: [units]}`.

        Args:
          x: `[B, *event]`.
          noise: as from `self.noise`, with S = M * K samples.
          step: the optimiser's iteration, which sets beta.
        """
        beta = self._beta(step)
        trace = model.trace(x, noise=noise, training=training)
        bound = self.bound(trace, beta)
        maximised = bound
        if self.gradient != "standard":
            self.check_model(model, trace)
            surrogate = self._path_gradient_surrogate(model, x, noise, trace, beta, training)
            maximised = surrogate + tf.stop_gradient(bound - surrogate)  # value of the bound
        return -tf.reduce_mean(maximised), *_record(trace, bound, beta)

    def evaluate(self, model, x, noise):
        """Scalars, KL per unit and posterior means `{site: [B, units]}` of one sample per example,
        at beta = 1."""
        trace = model.trace(x, noise=noise, training=False)
        bound = self._elbo(trace)
        q_means = {
            name: tf.reduce_mean(mean_over_classes(trace, site.q_mean), 0)
            for name, site in trace.sites.items()
        }
        return *_record(trace, bound, tf.constant(1.0)), q_means

    def _elbo(self, trace):
        """At beta = 1, with the KL that this objective takes: `[B]`."""
        return bounds.elbo(trace) if self.kl == "analytic" else bounds.importance_weighted(trace)

    def _beta(self, step):
        return tf.cast(self.beta(step) if callable(self.beta) else self.beta, tf.float32)

    def _path_gradient_surrogate(self, model, x, noise, trace, beta, training):
        """A tensor `[B]` whose gradient is the doubly reparameterised estimate; its value means
        nothing.

        The draws z depend on the weights along a path, z = z(noise, weights); log w also depends
        on them directly. The score terms of log q cancel in expectation, which leaves (Tucker et
        al. 2019, Eq. 8, for any number of sites and for weights shared by p and q)

            sum_k v_k d log p(x, z_k)|direct + v_k² (d log w_k / d z_k) (d z_k)|path,    v_k the
            normalised weights.

        With beta inside the weight, the score terms are multiplied by beta, and v_k² becomes
        (1 - beta) v_k + beta v_k². For K = 1, v_k = 1, and this is sticking the landing.
        """
        values = {name: tf.stop_gradient(site.value) for name, site in trace.sites.items()}
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            # Running averages of batch normalisation have followed this batch already.
            with parts.momentum(parts.normalizations(model), 1.0):
                fixed = model.trace(x, noise=noise, values=values, training=training)
            log_w = bounds.log_weights(fixed, beta)  # [S, B]
        along_path = tape.gradient(log_w, values)
        v = tf.stop_gradient(bounds.normalized_weights(log_w, self.num_importance))
        direct = fixed.log_px + beta * sum(site.log_p for site in fixed.sites.values())
        path_weight = v * (1.0 - beta) + beta * tf.square(v)
        surrogate = v * direct
        for name, site in trace.sites.items():
            coefficient = tf.stop_gradient(path_weight[..., tf.newaxis] * along_path[name])
            surrogate += tf.reduce_sum(coefficient * site.value, -1)
        return tf.reduce_sum(surrogate, 0) / self.num_samples


@dataclasses.dataclass(frozen=True)
class SemiSupervisedObjective(Objective):
    """Maximises, over the labelled and the B unlabelled images of a batch,

        1/B [ sum U(x_u) + sum (L(x_l, y_l) - alpha (-log q(y_l|x_l))) ]

    (Maaløe et al. 2016, Eqs. 12 and 13). Batches are `((x_l, y_l), x_u)` of any two sizes: as many
    labelled images as the pipeline puts beside the B others, so that they occur much more often.
    CaGeM has no L; its cross-entropies come from the model.

    Args:
      alpha: weight of the cross-entropy; the papers' beta (N_l + N_u) / N_l.
    """

    alpha: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.gradient != "standard":
            raise ValueError(
                f'expected gradient="standard" of a semi-supervised model. Received: {self.gradient!r}'
            )
        if not self.alpha >= 0.0:
            raise ValueError(f"expected alpha >= 0. Received: alpha={self.alpha}")

    def metric_names(self, model):
        labelled = ["bound_labelled"] if model.has_labelled_bound else []
        return [*super().metric_names(model), *labelled, "cross_entropy", "error_percent"]

    def check_model(self, model, trace):
        super().check_model(model, trace)
        if trace.label is None:
            raise ValueError(
                "expected a model with classes for a SemiSupervisedObjective. "
                f"Received: {type(model).__name__}"
            )

    def checked(self, model, data, training=True):
        expected = ((0, 0), 0) if training else (0, 0)
        try:
            tf.nest.assert_same_structure(expected, data, check_types=False)
        except (TypeError, ValueError):
            names = "((labelled images, labels), images)" if training else "(images, labels)"
            raise ValueError(f"expected batches of {names}. Received: {_structure(data)}") from None
        if not training:
            return model.checked_images(data[0]), data[1]
        (x_labelled, y), x = data
        return (model.checked_images(x_labelled), y), model.checked_images(x)

    def noise(self, model, seed, data):
        (x_labelled, _), x = data
        labelled_seed = tf.random.experimental.stateless_fold_in(seed, 1)
        return super().noise(model, labelled_seed, x_labelled), super().noise(model, seed, x)

    def __call__(self, model, data, noise, step, training=True):
        """As of `Objective`; the KL per site is that of the unlabelled images, `error_percent`
        that of the labelled ones of the batch."""
        (x_labelled, y), x = data
        noise_labelled, noise = noise
        beta = self._beta(step)
        trace = model.trace(x, noise=noise, training=training)
        bound = self.bound(trace, beta)
        labelled, cross_entropy, probabilities = model.labelled_terms(
            x_labelled, y, noise_labelled, training
        )
        share = tf.cast(tf.shape(y)[0] / tf.shape(x)[0], tf.float32)  # labelled per unlabelled
        loss = share * self.alpha * tf.reduce_mean(cross_entropy) - tf.reduce_mean(bound)
        scalars, unit_kl = _record(trace, bound, beta)
        scalars["error_percent"] = _error_percent(probabilities, y)
        scalars["cross_entropy"] = tf.reduce_mean(cross_entropy)
        if model.has_labelled_bound:
            scalars["bound_labelled"] = tf.reduce_mean(self.bound(labelled, beta))
            loss -= share * scalars["bound_labelled"]
        return loss, scalars, unit_kl

    def evaluate(self, model, data, noise):
        """As of `Objective`, on `(x, y)`: the bound without the label, and the classifier's error."""
        x, y = data
        scalars, unit_kl, q_means = super().evaluate(model, x, noise)
        labelled, cross_entropy, probabilities = model.labelled_terms(x, y, noise)
        scalars["error_percent"] = _error_percent(probabilities, y)
        scalars["cross_entropy"] = tf.reduce_mean(cross_entropy)
        if model.has_labelled_bound:
            scalars["bound_labelled"] = tf.reduce_mean(self._elbo(labelled))
        return scalars, unit_kl, q_means


def _error_percent(probabilities, y):
    wrong = tf.argmax(probabilities, -1) != tf.cast(y, tf.int64)
    return 100.0 * tf.reduce_mean(tf.cast(wrong, tf.float32))


def _structure(data):
    """A batch, its tensors by their shapes."""
    return tf.nest.map_structure(lambda t: str(getattr(t, "shape", type(t).__name__)), data)


def _record(trace, bound, beta):
    unit_kl = {
        name: tf.reduce_mean(mean_over_classes(trace, site.kl), [0, 1])
        for name, site in trace.sites.items()
    }
    scalars = {
        "bound": tf.reduce_mean(bound),
        "log_px": tf.reduce_mean(mean_over_classes(trace, trace.log_px)),
        **{f"kl/{name}": tf.reduce_sum(kl) for name, kl in unit_kl.items()},
        "beta": beta,
    }
    return scalars, unit_kl
