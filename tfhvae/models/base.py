"""What every model shares: the training step, the test step, noise, saving. A model adds `trace`
and `generate`."""

import abc
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfhvae import diagnostics
from tfhvae.distributions import Autoregressive
from tfhvae.traces import Trace

_VALIDATION_STREAM = 0x7E57  # keeps validation noise apart from training noise of the same seed
_SUM = tf.distribute.ReduceOp.SUM


class Generation(NamedTuple):
    """Images drawn from the generative model, with the latent variables behind them."""

    mean: (
        tf.Tensor
    )  # [N, *event]  mean of p(x|.); of each pixel given those before it, if it is autoregressive
    sample: tf.Tensor  # [N, *event]  a draw from p(x|.)
    latents: dict[str, tf.Tensor]  # site -> [N, units], in `generation_order`
    y: tf.Tensor | None = None  # [N]  classes, of models that have them


def stateless_seed(seed, *stream):
    """A stateless seed `[2]` (int32) from an integer or `[2]` seed and a path of integers: another
    path, an independent stream."""
    seed = tf.convert_to_tensor(seed)
    seed = tf.cast(
        tf.stack([seed, tf.zeros_like(seed)]) if seed.shape.rank == 0 else seed, tf.int32
    )
    for index in stream:
        seed = tf.random.experimental.stateless_fold_in(seed, tf.cast(index, tf.int32))
    return seed


class LatentVariableModel(keras.Model):
    """A generative model p(x, z) with an inference model q(z|x).

    Subclasses define `noise_shapes`, `trace`, `decode` and `generate`, make their layers in
    `__init__` and end it with `self.build_from_event_shape()`. To be saved, they keep the other
    arguments of `__init__` in `self.config`.

    Args:
      event_shape: shape of one image, `(height, width, channels)`.

    Raises:
      ValueError: for a `dtype` other than Keras' global policy, which is that of every layer.
    """

    uses_convolutions = False  # which gain nothing from XLA on a CPU
    is_autoregressive = False  # whether a pixel depends on those before it, given the latents

    def __init__(self, event_shape, **kwargs):
        # Densities take x in full precision, whatever the layers compute in.
        super().__init__(autocast=False, **kwargs)
        policy = keras.config.dtype_policy()
        if policy.variable_dtype != "float32":
            raise ValueError(
                "expected a global policy with weights in float32: float32, mixed_bfloat16 or "
                f"mixed_float16. Received: {policy.name}"
            )
        if self.dtype_policy.name != policy.name:
            raise ValueError(
                f"expected the dtype of Keras' global policy, {policy.name}; another one is set by "
                "keras.config.set_dtype_policy before the model is made. "
                f"Received: dtype={self.dtype_policy.name}"
            )
        self.event_shape = tuple(event_shape)
        if len(self.event_shape) != 3:
            raise ValueError(
                "expected event_shape to be (height, width, channels). "
                f"Received: event_shape={self.event_shape}"
            )
        self.likelihood = None  # of the pixels, where the model has a word for it
        self.objective = None
        self._is_evaluating = False
        self._seeds = keras.random.SeedGenerator(seed=0)

    # What a model says of itself -----------------------------------------------------------------

    @property
    def rows_at_once(self):
        """Rows of the decoder, images times samples, in one call of an evaluation: enough that what
        is encoded anew in every call (the pseudo-inputs of a VampPrior) is a tenth of the work, few
        enough to stay in the cache."""
        return 200 if self.uses_convolutions else 4000

    @property
    @abc.abstractmethod
    def noise_shapes(self):
        """`{site: event shape of its standard normal noise}`, in drawing order."""

    @property
    def generation_order(self):
        """Sites from the top of the generative model down, each drawn given those before it."""
        return list(self.noise_shapes)

    @abc.abstractmethod
    def trace(self, x, num_samples=1, noise=None, values=None, training=False) -> Trace:
        """Runs inference and generative model on a batch.

        Args:
          x: `[B, *event]`.
          num_samples: S, samples of the latent variables for each example; ignored when `noise` is
            given.
          noise: `{site: [S, B, units]}` as from `self.noise`; drawn from the model's own stream
            when None.
          values: `{site: [S, B, units]}` of latent variables that are evaluated instead of drawn.
          training: whether normalisation and dropout layers are in training mode.
        """

    def evaluation_trace(self, x, noise):
        """The trace whose weights estimate log p(x): where training approximates a sum, exact."""
        return self.trace(x, noise=noise)

    @abc.abstractmethod
    def decode(self, latents, training=False):
        """p(x | latents), a distribution over images. `latents`: `{site: [..., units]}`; of models
        with classes also "y", `[..., Y]`, one-hot."""

    @abc.abstractmethod
    def generate(self, num_samples=1, latents=None, seed=None) -> Generation:
        """Draws images. Sites named in `latents` (`{site: [N, units]}`) are clamped, the others
        drawn from p; then N replaces `num_samples`."""

    def given_latents(self, latents, num_samples):
        """What `generate` was given: `({site: [N, units]}, N)`, N being `num_samples` where that is
        nothing.

        Raises:
          ValueError: for no image, a site that the model does not have, another shape, or
            different N.
        """
        if isinstance(num_samples, int) and num_samples < 1:
            raise ValueError(f"expected num_samples >= 1. Received: {num_samples=}")
        latents, sites = dict(latents or {}), self.generation_order
        shapes = {name: tf.TensorShape(value.shape) for name, value in latents.items()}
        expected = tf.TensorShape([None])
        for name, shape in shapes.items():
            if name not in sites:
                raise ValueError(
                    f"expected latents among {', '.join(sites) or 'none'}. Received: {name}"
                )
            size = expected.concatenate(self.noise_shapes[name])
            if not shape.is_compatible_with(size):
                raise ValueError(f"expected {name} of shape {size}. Received: {shape}")
        if len({shape[0] for shape in shapes.values() if shape[0] is not None}) > 1:
            given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(f"expected as many rows in all latents. Received: {given}")
        for value in latents.values():
            num_samples = tf.shape(value)[0]
        return latents, num_samples

    @property
    def auxiliary_sites(self):
        """Sites of q alone, from which nothing is generated. Their KL does not say whether they are
        in use: log q(a|x) - log p(a|z) has the mean KL(q(a|z, x) || p(a|z)) - I(a; z|x), which may
        be zero, or less, of an `a` on which z depends."""
        return [site for site in self.noise_shapes if site not in self.generation_order]

    # Noise ---------------------------------------------------------------------------------------

    def noise(self, seed, batch_size, num_samples=1):
        """Standard normal noise `{site: [S, B, units]}` for one trace: a function of the seed
        alone."""
        return {
            site: tf.random.stateless_normal(
                [num_samples, batch_size, *shape], stateless_seed(seed, index)
            )
            for index, (site, shape) in enumerate(self.noise_shapes.items())
        }

    def next_seed(self):
        """The next seed `[2]` of the model's own stream, for calls that name none."""
        return tf.cast(self._seeds.next(), tf.int32)

    def images_and_noise(self, x, noise, num_samples):
        """What a trace begins with: `checked_images`, and `noise` or a fresh draw where it is
        None."""
        x = self.checked_images(x)
        if noise is None:
            noise = self.noise(self.next_seed(), tf.shape(x)[0], num_samples)
        return x, noise

    # Keras ---------------------------------------------------------------------------------------

    def checked_images(self, x):
        """A batch of images as float32 `[B, *event]`.

        Raises:
          ValueError: for another shape, or for integers: pixels of Bernoulli distributions are
            floats in [0, 1] too.
        """
        x = tf.convert_to_tensor(x)
        expected = tf.TensorShape([None, *self.event_shape])
        if not x.shape.is_compatible_with(expected):
            raise ValueError(f"expected images of shape {expected}. Received: {x.shape}")
        if not x.dtype.is_floating:
            raise ValueError(f"expected images as floating point numbers. Received: {x.dtype.name}")
        return tf.cast(tf.ensure_shape(x, expected), tf.float32)

    def build_from_event_shape(self):
        """Makes every weight now, so that saving, loading and resuming never meet a model without
        weights."""
        x = tf.zeros([2, *self.event_shape])
        self.trace(x, noise=self.noise(0, 2))
        self.built = True

    def build(self, input_shape=None):
        """Nothing is left to build after `__init__`."""
        self.built = True

    def call(self, x, training=False):
        """The mean of p(x | z), z drawn from q(z|x): a reconstruction `[B, *event]`."""
        x = self.checked_images(x)
        return self.reconstruct(x, self.noise(self.next_seed(), tf.shape(x)[0]), training)

    def reconstruct(self, x, noise, training=False):
        """`call` with given noise, as from `self.noise`, of one sample. Of an autoregressive
        p(x|z): the mean of each pixel given z and the pixels of x before it."""
        trace = self.trace(x, noise=noise, training=training)
        latents = {name: site.value[0] for name, site in trace.sites.items()}
        p = self.decode(latents, training)
        return (p.conditional(x) if isinstance(p, Autoregressive) else p).mean()

    def compile(
        self,
        optimizer="adam",
        objective=None,
        seed=0,
        jit_compile=True,
        steps_per_execution=1,
        run_eagerly=False,
    ):
        """Sets up training with `fit`.

        Args:
          objective: a `tfhvae.objectives.Objective`.
          seed: of the noise, which is a function of (seed, step): a resumed run draws what an
            uninterrupted one would have drawn.
          jit_compile: whether forward pass, backward pass and update are compiled by XLA; random
            numbers stay outside, where they are faster.

        Raises:
          ValueError: without an objective, or for one that this model's traces cannot have.
        """
        if not hasattr(objective, "metric_names"):
            raise ValueError(
                "expected an objective, tfhvae.objectives.Objective() for the ELBO. "
                f"Received: objective={objective!r}"
            )
        with self.distribute_strategy.scope():
            self._is_distributed = tf.distribute.has_strategy()
        super().compile(
            optimizer=optimizer,
            jit_compile=False,
            # TensorFlow 2.21 cannot run Keras' loop over steps on several replicas.
            steps_per_execution=1 if self._is_distributed else steps_per_execution,
            run_eagerly=run_eagerly,
        )
        self.objective = objective
        self.training_seed = seed
        probe = self.trace(tf.zeros([1, *self.event_shape]), noise=self.noise(0, 1))
        objective.check_model(self, probe)
        units = {name: site.kl.shape[-1] for name, site in probe.sites.items()}
        with self.distribute_strategy.scope():
            self.train_means = diagnostics.StepMeans(
                [*objective.metric_names(self), "learning_rate", "gradient_norm"],
                units,
                name="train_means",
            )
            self.test_means = diagnostics.StepMeans(
                objective.metric_names(self), units, name="test_means"
            )
            self.posterior_moments = diagnostics.PosteriorMoments(
                {name: site.q_mean.shape[-1] for name, site in probe.sites.items()},
                name="posterior_moments",
            )

        def compiled(function):
            if run_eagerly:
                return function
            return tf.function(function, autograph=False, jit_compile=jit_compile)

        self._compiled_update = compiled(self._update)
        self._compiled_gradients = compiled(self._gradients)
        self._compiled_test = compiled(self._test)
        if self._is_distributed:
            # The step itself sums over replicas, so that a limit of the gradient's norm is one of
            # the whole gradient; Keras would limit each replica's part.
            self.optimizer._all_reduce_sum_gradients = list
        with self.distribute_strategy.scope():  # or the first step would be traced twice
            self.optimizer.build(self.trainable_variables)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing is left to build. Under a strategy, Keras would take a batch for it, also from a
        validation set that was just read to its end."""

    def get_config(self):
        return {
            "event_shape": list(self.event_shape),
            **self.config,
            "name": self.name,
            "dtype": self.dtype_policy.name,
        }

    @classmethod
    def from_config(cls, config):
        """The model under the dtype policy that it had, which stays without effect on others."""
        config, policy = dict(config), keras.config.dtype_policy()
        keras.config.set_dtype_policy(config.pop("dtype", policy))
        try:
            return cls(**config)
        finally:
            keras.config.set_dtype_policy(policy)

    def export(
        self,
        filepath,
        format="tf_saved_model",
        verbose=None,
        input_signature=None,
        **kwargs,
    ):
        """As in Keras, of `call`: a reconstruction of each image, in batches of any size. Needs no
        call before."""
        if input_signature is None:
            input_signature = [keras.InputSpec(dtype="float32", shape=(None, *self.event_shape))]
        super().export(filepath, format, verbose, input_signature, **kwargs)

    def get_compile_config(self):
        """Saved models hold weights and architecture; how they were trained stands in the
        experiment's configuration."""
        return None

    @property
    def metrics(self):
        """The model's own, and those that a subclass has added."""
        if self.objective is None:
            return []
        own = [self.train_means, self.test_means, self.posterior_moments]
        return own + self._added_metrics()

    @property
    def metrics_names(self):
        """Names of what `evaluate` returns, in its order."""
        if self.objective is None:
            return []
        added = [metric.name for metric in self._added_metrics()]
        return added + sorted(self.test_means.scalar_names)

    def _added_metrics(self):
        own = diagnostics.StepMeans, diagnostics.PosteriorMoments  # also those of earlier compiles
        return [metric for metric in self._metrics if not isinstance(metric, own)]

    def reset_metrics(self):
        for metric in self.metrics:
            if not (self._is_evaluating and metric is self.train_means):
                metric.reset_state()

    def fit(self, x=None, *args, **kwargs):
        """As in Keras. What callbacks watch is `bound` and `val_bound`, with `mode="max"`.

        Raises:
          ValueError: for arrays with pixels outside [0, 1], such as grey levels from 0 to 255, of a
            model whose p(x|z) is not Gaussian. Of a `tf.data.Dataset` they are not looked at. For
            weights of samples or classes, and where there is nothing to train.
        """
        self.check_range(x)
        _check_unweighted(kwargs)
        if not self.trainable_variables:
            raise ValueError("expected trainable weights. Received: none, as trainable is False")
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        """As in Keras, but the means of the training epoch that a validation ends are kept for
        callbacks to read. Raises ValueError where `fit` does."""
        self.check_range(x)
        _check_unweighted(kwargs)
        self._is_evaluating = True
        try:
            return super().evaluate(x, *args, **kwargs)
        finally:
            self._is_evaluating = False

    def check_range(self, x):
        """Raises ValueError for arrays with pixels outside [0, 1] of a model whose p(x|z) is not
        Gaussian. `x`: arrays or tensors, in any structure; what holds no pixels is passed over."""
        if self.likelihood in (None, "gaussian"):
            return
        for part in keras.tree.flatten(x):
            values = part.numpy() if isinstance(part, tf.Tensor) else part
            if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or not values.size:
                continue
            low, high = float(values.min()), float(values.max())
            if not (0.0 <= low and high <= 1.0):
                raise ValueError(
                    f"expected pixels in [0, 1]. Received: from {low:.4g} to {high:.4g}; grey levels "
                    "are divided by 255"
                )

    def train_step(self, x):
        """One update. `x`: a batch as the objective takes it: images, or of semi-supervised models
        `((x_labelled, y), x)`."""
        x = self.objective.checked(self, _without_targets(x))
        step = tf.identity(self.optimizer.iterations)  # before the update counts on
        noise = self.objective.noise(self, self._step_seed(step), x)
        update = self._update_of_replicas if self._is_distributed else self._compiled_update
        self.train_means.update_state(update(x, noise), step)
        return self._logs(self.train_means)

    def test_step(self, x):
        """The bound of a batch, as `Objective.evaluate` takes it: images, or of semi-supervised
        models `(x, y)`."""
        x = self.objective.checked(self, _without_targets(x), training=False)
        step = tf.identity(self.test_means.count)  # before `update_state` counts on
        count = _batch_size(x)
        noise = self.noise(self._step_seed(step, _VALIDATION_STREAM), count, 1)
        means, q_means = self._compiled_test(x, noise)
        examples = tf.cast(count, tf.float32)
        moments = self.posterior_moments.sums(q_means)
        if self._is_distributed:
            means = tf.math.multiply_no_nan(means, examples)  # a replica may have no examples
            means, examples = _sum_over_replicas([means, examples])
            moments = _sum_over_replicas(moments)
            means /= examples
        self.test_means.update_state(means, step, weight=examples)
        self.posterior_moments.add(*moments, examples)
        return self._logs(self.test_means)

    def _step_seed(self, step, *stream):
        replica = (
            tf.distribute.get_replica_context().replica_id_in_sync_group
            if self._is_distributed
            else 0
        )
        return stateless_seed(self.training_seed, step, replica, *stream)

    def _logs(self, means):
        """What Keras shows and hands to callbacks."""
        scalars = means.scalars()
        strategy = self.distribute_strategy
        if (
            isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
            and strategy.num_replicas_in_sync > 1
        ):
            # Keras takes the mean over workers once more, of each entry along its first axis: so
            # it is given one entry, with an axis.
            return {"bound": scalars["bound"][tf.newaxis]}
        return scalars

    def _gradients(self, x, noise):
        with tf.GradientTape() as tape:
            loss, scalars, unit_kl = self.objective(
                self, x, noise, self.optimizer.iterations, training=True
            )
            loss += self.objective.penalty(self.trainable_variables)
            for added in self.losses:  # by regularisers and `add_loss`
                loss += added
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        scalars["learning_rate"] = tf.cast(self.optimizer.learning_rate, tf.float32)
        scalars["gradient_norm"] = self._unscaled_norm(gradients)
        return gradients, self.train_means.pack(scalars, unit_kl)

    def _update(self, x, noise):
        gradients, means = self._gradients(x, noise)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        return means

    def _update_of_replicas(self, x, noise):
        """`_update` where x is one replica's part of the batch. Sums over replicas cannot be
        compiled by XLA; forward and backward pass still are."""
        gradients, means = self._compiled_gradients(x, noise)
        gradients, variables = zip(
            *(
                (tf.ensure_shape(gradient, variable.shape), variable)
                for gradient, variable in zip(gradients, self.trainable_variables)
                if gradient is not None
            )
        )
        examples = tf.cast(_batch_size(x), tf.float32)
        # Running averages of batch normalisation, which each replica took from its own part.
        followers = self.non_trainable_weights
        parts = (means, *gradients, *(tf.convert_to_tensor(value) for value in followers))
        *sums, examples = _sum_over_replicas(
            [*(tf.math.multiply_no_nan(t, examples) for t in parts), examples]
        )
        means, *rest = (total / examples for total in sums)
        gradients, averages = rest[: len(gradients)], rest[len(gradients) :]
        for variable, average in zip(followers, averages):
            variable.assign(average)
        norm = self._unscaled_norm(gradients)  # before the loss scale may change
        self.optimizer.apply_gradients(zip(gradients, variables))
        return self.train_means.replace(means, "gradient_norm", norm)

    def _unscaled_norm(self, gradients):
        """Of the gradients of the loss itself. A loss scale (mixed_float16) is divided out; steps
        that overflow, which the optimiser leaves out to lower it, count as 0."""
        scale = getattr(self.optimizer, "dynamic_scale", None)
        norm = tf.linalg.global_norm(gradients)
        if scale is None:
            return norm
        return tf.where(tf.math.is_finite(norm), norm / tf.convert_to_tensor(scale), 0.0)

    def _test(self, x, noise):
        scalars, unit_kl, q_means = self.objective.evaluate(self, x, noise)
        return self.test_means.pack(scalars, unit_kl), q_means


def _without_targets(data):
    """A batch without the tuple that Keras makes of inputs alone, and without the Nones that
    `train_on_batch` and `test_on_batch` put in the place of targets and weights."""
    if isinstance(data, tuple) and len(data) == 3 and data[-1] is None:
        return data[0] if data[1] is None else data[:2]
    if isinstance(data, tuple) and len(data) == 1:  # Keras' form of inputs alone
        return data[0]
    return data


def _check_unweighted(options):
    """Raises ValueError for arguments of `fit` and `evaluate` that would have no effect."""
    for name in ("sample_weight", "class_weight"):
        if options.get(name) is not None:
            raise ValueError(f"expected no {name}, as every image counts the same. Received: one")


def _batch_size(data):
    """Of images, of images with classes `(x, y)`, or of the unlabelled part of a batch."""
    return tf.shape(tf.nest.flatten(data)[-1])[0]


def _sum_over_replicas(tensors):
    """Sums of tensors of one dtype over all replicas, in one operation."""
    flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)
    total = tf.distribute.get_replica_context().all_reduce(_SUM, flat)
    parts = tf.split(total, [tensor.shape.num_elements() for tensor in tensors])
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors)]
