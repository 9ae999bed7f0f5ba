"""Training on top of Keras' `fit`: optimisers, the state of a run, checkpoints, early stopping,
logs."""

import csv
import io
import json
import os
import time
import zipfile
import zlib

import keras
import numpy as np
import tensorflow as tf

from tfhvae import files, hardware
from tfhvae.errors import RunError


@keras.saving.register_keras_serializable(package="tfhvae")
class NormalizedGradientAdam(keras.optimizers.Adam):
    """Adam on gradients of unit length: each variable's gradient is divided by its L2 norm first
    (Tomczak & Welling's code)."""

    def update_step(self, gradient, variable, learning_rate):
        norm = tf.norm(gradient)
        super().update_step(gradient / tf.maximum(norm, 1e-12), variable, learning_rate)


def make_optimizer(config, steps_per_epoch, epochs):
    """The Keras optimiser of `config.optimizer`."""
    schedules = keras.optimizers.schedules
    rate = config.learning_rate
    if config.schedule == "step":
        rate = schedules.ExponentialDecay(
            rate, config.decay_epochs * steps_per_epoch, config.decay_factor, staircase=True
        )
    elif config.schedule == "cosine":
        rate = schedules.CosineDecay(rate, epochs * steps_per_epoch)
    adam = NormalizedGradientAdam if config.normalize_gradients else keras.optimizers.Adam
    return adam(
        rate,
        beta_1=config.beta_1,
        beta_2=config.beta_2,
        epsilon=config.epsilon,
        global_clipnorm=config.global_clipnorm,
    )


class RunState:
    """Everything of a run besides the weights: what was measured so far, and the best weights."""

    def __init__(self):
        self.epoch = 0  # finished epochs
        self.history = []  # one {column: number} per epoch
        self.unit_kl = {}  # site -> [epochs, units], nats
        self.best_epoch = 0
        self.best_bound = -np.inf
        self.best_weights = None  # arrays in the order of model.weights
        self.waited = 0  # epochs since the best one, after warm-up
        self.train_seconds = 0.0
        self.stopped_early = False

    _numbers = ("epoch", "best_epoch", "best_bound", "waited", "train_seconds", "stopped_early")

    def to_json(self):
        numbers = {name: getattr(self, name) for name in self._numbers}
        numbers["best_bound"] = None if np.isinf(self.best_bound) else self.best_bound
        return json.dumps({**numbers, "history": self.history, "sites": list(self.unit_kl)})

    def to_arrays(self):
        arrays = {f"unit_kl/{site}": values for site, values in self.unit_kl.items()}
        return arrays | {f"best/{i}": value for i, value in enumerate(self.best_weights or [])}

    @classmethod
    def from_parts(cls, text, arrays):
        values = json.loads(text)
        state = cls()
        for name in cls._numbers:
            setattr(state, name, values[name])
        state.best_bound = -np.inf if state.best_bound is None else state.best_bound
        state.history = values["history"]
        state.unit_kl = {site: arrays[f"unit_kl/{site}"] for site in values["sites"]}
        count = sum(name.startswith("best/") for name in arrays)
        state.best_weights = [arrays[f"best/{i}"] for i in range(count)] or None
        return state

    def columns(self):
        """The history by column."""
        return (
            {name: np.array([row[name] for row in self.history]) for name in self.history[0]}
            if self.history
            else {}
        )


class Checkpoints:
    """Checkpoints of a run: `FOLDER/epoch-00012.npz`, each written atomically and checked on
    reading; the newest two are kept.

    A checkpoint holds model, optimiser and `RunState`. An unreadable one is passed over with a
    warning and the one before it used.
    """

    def __init__(self, folder, keep=2, warn=print):
        self.folder = folder
        self.keep = keep
        self.warn = warn

    def paths(self):
        """Existing checkpoints, newest first."""
        names = os.listdir(self.folder) if os.path.isdir(self.folder) else []
        return [
            os.path.join(self.folder, name)
            for name in sorted(names, reverse=True)
            if name.startswith("epoch-") and name.endswith(".npz")
        ]

    def newest_epoch(self):
        paths = self.paths()
        return int(os.path.basename(paths[0])[len("epoch-") : -len(".npz")]) if paths else 0

    def save(self, model, state):
        """Writes a checkpoint.

        Raises:
          RunError: if it cannot be written, a full disk say. Older checkpoints are untouched.
        """
        arrays = {
            f"variable/{i}": value for i, value in enumerate(_values(_variables(model)))
        } | state.to_arrays()
        arrays["state"] = np.frombuffer(state.to_json().encode(), np.uint8)
        path = os.path.join(self.folder, f"epoch-{state.epoch:05d}.npz")
        try:
            os.makedirs(self.folder, exist_ok=True)
            with files.atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, **arrays)
        except OSError as error:
            last = (
                f"the checkpoint of epoch {self.newest_epoch()} is whole"
                if self.paths()
                else "there is no earlier checkpoint"
            )
            raise RunError(
                f"could not write {path}: {error.strerror or error}; {last}. Make room or the folder writable, then type the same command again."
            ) from error
        for old in self.paths()[self.keep :]:
            os.remove(old)

    def restore(self, model):
        """Puts the newest readable checkpoint into `model` and returns its `RunState`, or None
        where there is none. Workers of one run call it together.

        Raises:
          RunError: if it is of another model, or workers find different ones.
        """
        state = self._restore(model)
        hardware.check_agreement(model.distribute_strategy, state.epoch if state else 0)
        return state

    def _restore(self, model):
        for path in self.paths():
            try:
                with np.load(path, allow_pickle=False) as archive:
                    arrays = {name: archive[name] for name in archive.files}
                state = RunState.from_parts(arrays["state"].tobytes().decode(), arrays)
            except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
                self.warn(f"{path} is not readable ({error}); trying the one before it")
                continue
            variables = _variables(model)
            stored = [
                arrays[f"variable/{i}"]
                for i in range(sum(name.startswith("variable/") for name in arrays))
            ]
            if [v.shape for v in stored] != [tuple(v.shape) for v in variables]:
                raise RunError(
                    f"{path} holds weights of another model: expected {len(variables)} arrays of this model's shapes, received {len(stored)}"
                )
            for variable, value in zip(variables, stored):
                variable.assign(value)
            return state
        return None


def _variables(model):
    """Everything that decides how training goes on, in a fixed order."""
    return [*model.weights, *model.optimizer.variables]


def _values(variables):
    return [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables]


class Recorder(keras.callbacks.Callback):
    """After every epoch: history and metrics.csv, best weights, early stopping, checkpoint.

    Args:
      state: the `RunState`, which is kept up to date.
      checkpoints: a `Checkpoints`.
      csv_path: of metrics.csv, which holds no clock times, so that equal runs have equal files.
      patience: epochs to wait for a better validation bound, counted after warm-up; 0 waits for
        ever and keeps the last weights.
      warmup_epochs: length of the warm-up.
      checkpoint_seconds: least time between two checkpoints.
      is_chief: whether this process writes files; the others only keep the same state, so that
        all of them stop after the same epoch.
    """

    def __init__(
        self,
        state,
        checkpoints,
        csv_path,
        patience=0,
        warmup_epochs=0,
        checkpoint_seconds=30.0,
        is_chief=True,
    ):
        super().__init__()
        self.is_chief = is_chief
        self.state, self.checkpoints, self.csv_path = state, checkpoints, csv_path
        self.patience, self.warmup_epochs, self.checkpoint_seconds = (
            patience,
            warmup_epochs,
            checkpoint_seconds,
        )
        self._saved_at = time.monotonic()

    def on_train_begin(self, logs=None):
        if self.is_chief:
            files.write_text(self.csv_path, _to_csv(self.state.history))

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        self._trained_until = time.monotonic()
        step = int(self.model.train_means.first_bad_step.numpy())
        if step >= 0:
            terms = ", ".join(self.model.train_means.bad_terms()) or "KL per unit"
            newest = self.checkpoints.newest_epoch()
            last = (
                f"the last good checkpoint is that of epoch {newest}"
                if newest
                else "there is no checkpoint yet"
            )
            raise RunError(
                f"training diverged at step {step} (epoch {self.state.epoch + 1}): not finite: {terms}; {last}. "
                "Try a lower --config.optimizer.learning_rate or --config.optimizer.global_clipnorm."
            )

    def on_epoch_end(self, epoch, logs=None):
        state, model = self.state, self.model
        state.train_seconds += self._trained_until - self._began
        state.epoch = epoch + 1
        row = {"epoch": epoch + 1} | {
            name: float(value) for name, value in model.train_means.scalars().items()
        }
        if not model.test_means.is_empty:
            row |= {
                f"val_{name}": float(value)
                for name, value in model.test_means.scalars().items()
                if name != "beta"
            }
            row |= {
                f"active_units/{site}": count
                for site, count in model.posterior_moments.active_units().items()
            }
            if not np.isfinite(row["val_bound"]):
                raise RunError(
                    f"the validation bound of epoch {epoch + 1} is {row['val_bound']}; the last checkpoint is that of epoch {self.checkpoints.newest_epoch()}"
                )
        state.history.append(row)
        for site, kl in model.train_means.unit_kl().items():
            state.unit_kl[site] = np.concatenate(
                [
                    state.unit_kl.get(site, np.zeros([0, len(kl)], np.float32)),
                    kl.numpy()[np.newaxis],
                ]
            )
        if "val_bound" in row and self.patience:
            self._look_ahead(row["val_bound"])
        if self.is_chief:
            self._write(row)

    def _write(self, row):
        state = self.state
        with open(self.csv_path, "a", encoding="utf-8", newline="") as file:
            file.write(_to_csv([row], header=len(state.history) == 1))
        last = self.model.stop_training or state.epoch == self.params["epochs"]
        if last or time.monotonic() - self._saved_at >= self.checkpoint_seconds:
            self.checkpoints.save(self.model, state)
            self._saved_at = time.monotonic()

    def _look_ahead(self, bound):
        state = self.state
        if bound > state.best_bound:
            state.best_bound, state.best_epoch, state.waited = bound, state.epoch, 0
            state.best_weights = _values(self.model.weights)
        else:
            state.waited = state.waited + 1 if state.epoch >= self.warmup_epochs else 0
        if state.waited >= self.patience:
            state.stopped_early = True
            self.model.stop_training = True


def restore_best_weights(model, state):
    """Puts the best weights of a run with early stopping back, where there are any."""
    if state.best_weights is not None:
        for variable, value in zip(model.weights, state.best_weights):
            variable.assign(value)


def _to_csv(rows, header=True):
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class TensorBoardLog(keras.callbacks.Callback):
    """Scalars after every epoch, pictures after epochs 1, 2, 5, 10, 20, 50, ..., histograms of the
    weights on request.

    Args:
      folder: for the event files.
      figures: a function `model -> {name: [H, W, C] uint8}`; None shows no pictures.
    """

    def __init__(self, folder, figures=None, histograms=False):
        super().__init__()
        self.folder, self.figures, self.histograms = folder, figures, histograms

    def on_train_begin(self, logs=None):
        self.writer = tf.summary.create_file_writer(self.folder)

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        model, epoch = self.model, epoch + 1
        with self.writer.as_default(step=epoch):
            for name, value in model.train_means.scalars().items():
                tf.summary.scalar(_board_name("train", name), value)
            if not model.test_means.is_empty:
                for name, value in model.test_means.scalars().items():
                    if name != "beta":
                        tf.summary.scalar(_board_name("validation", name), value)
                for site, count in model.posterior_moments.active_units().items():
                    tf.summary.scalar(f"active_units/{site}", count)
            tf.summary.scalar("training/seconds_per_epoch", time.monotonic() - self._began)
            if self.figures is not None and (
                is_picture_epoch(epoch) or epoch == self.params["epochs"]
            ):
                for name, image in self.figures(model).items():
                    tf.summary.image(name, image[np.newaxis])
            if self.histograms:
                for variable in model.trainable_variables:
                    tf.summary.histogram(f"weights/{variable.path}", variable)
                for site, kl in model.train_means.unit_kl().items():
                    tf.summary.histogram(f"kl_per_unit/{site}", kl)
        self.writer.flush()

    def on_train_end(self, logs=None):
        self.writer.close()


def _board_name(side, name):
    """Groups a scalar's training and validation curves under one heading."""
    if name in ("beta", "learning_rate", "gradient_norm"):
        return f"training/{name}"
    return f"{name}/{side}"


def is_picture_epoch(epoch):
    """1, 2, 5, 10, 20, 50, 100, ..."""
    while epoch % 10 == 0:
        epoch //= 10
    return epoch in (1, 2, 5)


class Progress(keras.callbacks.Callback):
    """A progress bar over all images of a run, with the bound so far."""

    def __init__(self, epochs, steps, batch_size, first_epoch=0):
        super().__init__()
        self.epochs, self.steps, self.batch_size, self.first_epoch = (
            epochs,
            steps,
            batch_size,
            first_epoch,
        )

    def on_train_begin(self, logs=None):
        from tfhvae.progress import bar

        self.bar = bar(
            total=self.epochs * self.steps * self.batch_size,
            initial=self.first_epoch * self.steps * self.batch_size,
            description="training",
            unit="img",
        )
        self.done = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.done = 0
        self.epoch = epoch + 1

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update((batch + 1 - self.done) * self.batch_size)
        self.done = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        means, validation = self.model.train_means, self.model.test_means
        shown = {"epoch": f"{epoch + 1}/{self.epochs}"}
        shown["bound"] = f"{float(means.scalars()['bound']):.2f}"
        if not validation.is_empty:
            shown["val"] = f"{float(validation.scalars()['bound']):.2f}"
        self.bar.set_postfix(shown, refresh=False)

    def on_train_end(self, logs=None):
        self.bar.close()
