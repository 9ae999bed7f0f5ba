"""Training and use of the SDGM on measurements, and of the two classifiers it is compared with.

The SDGM is trained by the `fit` of every other model. What is here makes it ready: batches, the
weight of the labels, warm-up, early stopping; and lets one compiled model be trained many times.
"""

import os

import keras
import numpy as np
import tensorflow as tf

from tfhvae import bounds, experiments, training
from tfhvae.data import DataSet, Split, pipeline
from tfhvae.errors import RunError
from tfhvae.models.base import stateless_seed
from tfhvae.monitoring.samples import UNKNOWN
from tfhvae.traces import mean_over_classes

_SCORE_STREAM = 0x5C0
CHUNK = 2048  # rows in one call of a scorer: they and what is computed of them stay in the cache


class Learner:
    """The SDGM of a configuration, which can be trained again on other rows without being compiled
    again.

    Args:
      config: as from `configuration.photovoltaic`.
      num_columns: D.
      class_names: of the conditions.
      steps: updates in an epoch.
      jit_compile: whether training is compiled by XLA.
    """

    def __init__(self, config, num_columns, class_names, steps, jit_compile=True):
        if len(class_names) < 2:
            raise RunError(
                "expected labels of at least two conditions. Received: "
                f"{', '.join(class_names) or 'none'}"
            )
        self.config, self.steps, self.class_names = config, steps, tuple(class_names)
        empty = Split(np.zeros([0, num_columns, 1, 1], np.float32), np.zeros([0], np.int32))
        self._shape = DataSet(
            config.dataset.name, "", "gaussian", None, empty, None, empty, self.class_names
        )
        self.model = self._new_model(config.seed)
        # Variables, so that another value needs no other graph.
        self._alpha = tf.Variable(0.0, trainable=False)
        self._seed = tf.Variable(0, trainable=False)
        self.model.compile(
            training.make_optimizer(config.optimizer, steps, config.training.epochs),
            experiments.make_objective(
                config.objective, steps, steps * config.training.batch_size, self._alpha
            ),
            seed=self._seed,
            jit_compile=jit_compile,
            steps_per_execution=pipeline.steps_per_execution(steps),
        )
        self._new_optimizer = [v.numpy() for v in self.model.optimizer.variables]
        self.jit_compile, self._score = jit_compile, None

    def _new_model(self, seed):
        keras.utils.set_random_seed(seed)
        return experiments.build_model(self.config, self._shape)

    def fit(self, x, y, validation, seed, workdir=None):
        """Trains from new initial weights until the bound of the validation rows saturates, and
        puts the best weights in.

        Args:
          x: `[N, D, 1, 1]`, the unlabelled and the labelled rows.
          y: integers `[N]`, `UNKNOWN` without a label.
          validation: rows `[V, D, 1, 1]`, which need no labels.
          seed: of initial weights, batches and noise.
          workdir: folder for metrics.csv and checkpoints, from which an interrupted training goes
            on; None keeps nothing.

        Returns:
          The `training.RunState`.

        Raises:
          RunError: without labels, or if training diverges.
        """
        config, model = self.config, self.model
        labelled = np.flatnonzero(y != UNKNOWN)
        if not len(labelled):
            raise RunError("expected rows with a label. Received: none")
        model.set_weights(self._new_model(seed).get_weights())
        for variable, value in zip(model.optimizer.variables, self._new_optimizer, strict=True):
            variable.assign(value)
        model.stop_training = False
        self._seed.assign(seed)
        self._alpha.assign(config.labels.weight * len(x) / len(labelled))
        checkpoints = training.Checkpoints(os.path.join(workdir or "", "checkpoints"))
        state = (workdir and checkpoints.restore(model)) or training.RunState()
        # `Recorder` also keeps the best weights and stops; without a folder it writes nothing.
        callbacks = [
            training.Recorder(
                state,
                checkpoints,
                os.path.join(workdir or "", "metrics.csv"),
                config.training.patience,
                experiments.warmup_epochs(config.objective, self.steps),
                config.training.checkpoint_seconds,
                is_chief=workdir is not None,
                left_out=("bound_labelled", "cross_entropy", "error_percent"),
            )
        ]
        if workdir is not None:
            callbacks.append(
                training.Progress(
                    config.training.epochs, self.steps, config.training.batch_size, state.epoch
                )
            )
        is_over = state.stopped_early or state.epoch >= config.training.epochs
        if not is_over:
            no_labels = np.zeros(len(validation), np.int32)  # what they decide is left out
            held_out = pipeline.evaluation_batches(validation, 2000, labels=no_labels)
            model.fit(
                pipeline.semi_supervised_batches(
                    x,
                    np.maximum(y, 0),
                    labelled,
                    min(config.training.batch_size, len(x)),
                    config.labels.batch_size,
                    seed,
                    first_epoch=state.epoch,
                ),
                epochs=config.training.epochs,
                initial_epoch=state.epoch,
                steps_per_epoch=self.steps,
                validation_data=held_out,
                callbacks=callbacks,
                verbose=0,
                shuffle=False,
            )
        training.restore_best_weights(model, state)
        return state

    def score(self, x, num_samples=4):
        """See `Scorer`."""
        if self._score is None or self._score.num_samples != num_samples:
            self._score = Scorer(self.model, num_samples, self.jit_compile)
        return self._score(x)


class Scorer:
    """Class probabilities and bounds of rows.

    The noise is the same for all rows: what a row gets does not depend on its place in a file, or
    on its neighbours.

    Args:
      model: an SDGM.
      num_samples: S, draws of the latent variables.
    """

    def __init__(self, model, num_samples=4, jit_compile=True):
        self.model, self.num_samples = model, num_samples
        noise = model.noise(stateless_seed(0, _SCORE_STREAM), 1, num_samples)  # [S, 1, units]

        def score(x):
            rows = tf.shape(x)[0]
            own = {site: tf.tile(values, [1, rows, 1]) for site, values in noise.items()}
            trace = model.evaluation_trace(x, own)
            probabilities = tf.reduce_mean(tf.exp(trace.label.log_q), 0)  # [Y, B]
            return tf.transpose(probabilities), bounds.importance_weighted(trace)

        shape = tf.TensorSpec([CHUNK, *model.event_shape])
        self._score = tf.function(
            score, input_signature=[shape], autograph=False, jit_compile=jit_compile
        )

    def __call__(self, x):
        """Of `x` `[N, D, 1, 1]`: q(y|x) `[N, Y]`, and the bound on log p(x) (appendix D, Eq. 7)
        `[N]` in nats, both averaged over the draws."""
        probabilities = np.zeros([len(x), self.model.num_classes], np.float32)
        bound = np.zeros([len(x)], np.float32)
        for start in range(0, len(x), CHUNK):
            part = x[start : start + CHUNK]
            padded = np.pad(part, [(0, CHUNK - len(part)), (0, 0), (0, 0), (0, 0)])
            results = self._score(tf.constant(padded, tf.float32))
            for whole, values in zip((probabilities, bound), results):
                whole[start : start + len(part)] = values[: len(part)]
        return probabilities, bound


def latents(model, x):
    """Means of q(z1|x) `[N, units]`; z1 of the paper is the site "a"."""

    @tf.function(autograph=False, reduce_retracing=True)
    def means(batch):
        trace = model.evaluation_trace(batch, model.noise(0, tf.shape(batch)[0]))
        return mean_over_classes(trace, trace.sites["a"].q_mean)[0]

    return np.concatenate(
        [means(tf.constant(x[i : i + 2000], tf.float32)).numpy() for i in range(0, len(x), 2000)]
    )


class Perceptron:
    """The MLP of the paper: as large as q(y|z1, x), dropout 0.5, stopped when the cross-entropy of
    the validation rows saturates.

    Args:
      num_columns: D.
      num_classes: Y.
      hidden_units: of its layers.
      rate: dropout.
      epochs: at most.
      patience: epochs without a better validation.
    """

    def __init__(
        self, num_columns, num_classes, hidden_units=(50, 50), rate=0.5, epochs=300, patience=10
    ):
        self.epochs, self.patience = epochs, patience
        layers = [keras.Input([num_columns])]
        for units in hidden_units:
            layers += [keras.layers.Dense(units, "relu"), keras.layers.Dropout(rate, seed=0)]
        self.model = keras.Sequential([*layers, keras.layers.Dense(num_classes)], name="mlp")
        self.model.compile(
            keras.optimizers.Adam(1e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            steps_per_execution=10,
            jit_compile=False,  # compiles anew for every size of a last batch
        )
        self.model.optimizer.build(self.model.trainable_variables)
        self._new_optimizer = [v.numpy() for v in self.model.optimizer.variables]

    def fit(self, x, y, validation, seed):
        """Trains from new initial weights.

        Args:
          x: `[N, D, 1, 1]`, of which the labelled rows are used.
          y: integers `[N]`, `UNKNOWN` without a label.
          validation: `(x, y)`.
          seed: of weights, batches and dropout.
        """
        known = y != UNKNOWN
        x, y = _rows(x[known]), y[known]
        for index, layer in enumerate(self.model.layers):
            if isinstance(layer, keras.layers.Dense):
                initial = keras.initializers.GlorotUniform(seed=1000 * seed + index)
                layer.kernel.assign(initial(layer.kernel.shape))
                layer.bias.assign(tf.zeros_like(layer.bias))
            else:
                layer.seed_generator.state.assign([seed, index])
        for variable, value in zip(
            self.model.optimizer.variables, self._new_optimizer, strict=True
        ):
            variable.assign(value)
        batch = min(100, len(x))
        batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=seed).repeat()
        stop = keras.callbacks.EarlyStopping(patience=self.patience, restore_best_weights=True)
        self.model.fit(
            batches.batch(batch, drop_remainder=True).prefetch(4),
            epochs=self.epochs,
            steps_per_epoch=len(x) // batch,
            validation_data=(_rows(validation[0]), validation[1]),
            validation_batch_size=2000,
            callbacks=[stop],
            verbose=0,
            shuffle=False,
        )

    def predict(self, x):
        """Classes `[N]`."""
        return np.argmax(self.model(tf.constant(_rows(x))).numpy(), -1)


class LogisticRegression:
    """The MLR of the paper: linear, with an L2 penalty of strength 1/C."""

    def __init__(self, c=1.0):
        self.c = c

    def fit(self, x, y, validation=None, seed=0):
        """As `Perceptron.fit`; the solution is unique, so that it needs neither of the last two."""
        from sklearn.linear_model import LogisticRegression as Linear

        del validation, seed
        known = y != UNKNOWN
        self.model = Linear(C=self.c, max_iter=2000).fit(_rows(x[known]), y[known])

    def predict(self, x):
        """Classes `[N]`."""
        return self.model.predict(_rows(x))


def _rows(x):
    return np.reshape(x, [len(x), -1])
