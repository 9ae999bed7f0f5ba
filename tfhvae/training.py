"""Training on top of Keras' `fit`: optimisers, the state of a run, checkpoints, early stopping,
batch statistics, logs."""

import contextlib
import csv
import io
import json
import math
import os
import re
import sys
import time
import zipfile
import zlib

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfhvae import diagnostics, files, hardware
from tfhvae.data import pipeline
from tfhvae.errors import RunError
from tfhvae.models import parts
from tfhvae.models.base import stateless_seed
from tfhvae.progress import bar

# What NumPy raises for a file that is not a whole .npz.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,  # of archives that say to be encrypted, or of a later version
    zipfile.BadZipFile,
    zlib.error,
)
HELD_OUT = {"validation": "val", "test": "test"}  # what a column of the bound on it begins with


@keras.saving.register_keras_serializable(package="tfhvae")
class NormalizedGradientAdam(keras.optimizers.Adam):
    """Adam on gradients of unit length: each variable's gradient is divided by its L2 norm first
    (Tomczak & Welling's code)."""

    def update_step(self, gradient, variable, learning_rate):
        norm = tf.norm(gradient)
        super().update_step(gradient / tf.maximum(norm, 1e-12), variable, learning_rate)


@keras.saving.register_keras_serializable(package="tfhvae")
class ClippedAdam(keras.optimizers.Adam):
    """Adam on gradients whose every element is limited to ±`element_clip`, after the limit of
    their norm, where there is one (Sønderby et al.'s code: `global_clipnorm` 4, then 0.9).

    Raises:
      ValueError: unless `element_clip` is positive.
    """

    def __init__(self, learning_rate=0.001, element_clip=0.9, **kwargs):
        super().__init__(learning_rate, **kwargs)
        if not element_clip > 0.0:
            raise ValueError(f"expected a positive element_clip, received: {element_clip}")
        self.element_clip = float(element_clip)

    def update_step(self, gradient, variable, learning_rate):
        limit = self.element_clip
        super().update_step(tf.clip_by_value(gradient, -limit, limit), variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "element_clip": self.element_clip}


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
    options = {
        "beta_1": config.beta_1,
        "beta_2": config.beta_2,
        "epsilon": config.epsilon,
        "global_clipnorm": config.global_clipnorm,
    }
    if config.element_clip is not None:
        return ClippedAdam(rate, config.element_clip, **options)
    adam = NormalizedGradientAdam if config.normalize_gradients else keras.optimizers.Adam
    return adam(rate, **options)


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
        self.initial_epochs = 0  # that the weights were trained for before this run

    _numbers = (
        "epoch",
        "best_epoch",
        "best_bound",
        "waited",
        "train_seconds",
        "stopped_early",
        "initial_epochs",
    )

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
            setattr(state, name, values.get(name, getattr(state, name)))
        state.best_bound = -np.inf if state.best_bound is None else state.best_bound
        state.history = values["history"]
        state.unit_kl = {site: arrays[f"unit_kl/{site}"] for site in values["sites"]}
        count = sum(name.startswith("best/") for name in arrays)
        state.best_weights = [arrays[f"best/{i}"] for i in range(count)] or None
        return state

    def columns(self):
        """The history by column; NaN where an epoch has no such number."""
        return {
            name: np.array([row.get(name, np.nan) for row in self.history])
            for name in _column_names(self.history)
        }


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
            if re.fullmatch(r"epoch-\d+\.npz", name)
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
        # Unreadable ones of later epochs, which the run has passed over, are not the newest.
        written = self.paths().index(path)
        for old in self.paths()[:written] + self.paths()[written + self.keep :]:
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

    def state(self):
        """The `RunState` of the newest readable checkpoint, or None where there is none."""
        return next((state for _, _, state in self._readable()), None)

    def _readable(self):
        """`(path, arrays, state)` of every readable checkpoint, newest first."""
        for path in self.paths():
            try:
                with np.load(path, allow_pickle=False) as archive:
                    arrays = {name: archive[name] for name in archive.files}
                yield path, arrays, RunState.from_parts(arrays["state"].tobytes().decode(), arrays)
            except UNREADABLE as error:
                instead = (
                    "trying the one before it" if path != self.paths()[-1] else "starting over"
                )
                self.warn(f"{path} is not readable ({error}); {instead}")

    def _restore(self, model):
        for path, arrays, state in self._readable():
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
      patience: epochs to wait for a better validation bound, counted from the first one at beta =
        1; 0 waits for ever and keeps the last weights.
      warmup_epochs: length of the warm-up; it is the next epoch that has beta = 1.
      checkpoint_seconds: least time between two checkpoints.
      is_chief: whether this process writes files; the others only keep the same state, so that
        all of them stop after the same epoch.
      held_out: what the bound is taken of after each epoch, a name in `HELD_OUT`. Only
        "validation" stops a run or chooses its weights.
      left_out: names of quantities that held-out examples do not have: those of labels, where
        theirs are not known.
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
        held_out="validation",
        left_out=(),
    ):
        super().__init__()
        self.is_chief, self.held_out, self.left_out = is_chief, held_out, ("beta", *left_out)
        self.state, self.checkpoints, self.csv_path = state, checkpoints, csv_path
        self.patience, self.warmup_epochs, self.checkpoint_seconds = (
            patience,
            warmup_epochs,
            checkpoint_seconds,
        )
        self._saved_at = time.monotonic()

    def on_train_begin(self, logs=None):
        if self.is_chief:
            self._write_history()

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
            elsewhere = " in another --workdir" if newest else ""
            # Normalised gradients need no limit, and `configuration.check` takes none beside them.
            is_normalized = isinstance(self.model.optimizer, NormalizedGradientAdam)
            limit = "" if is_normalized else ", or --config.optimizer.global_clipnorm"
            raise RunError(
                f"training diverged at step {step} (epoch {self.state.epoch + 1}): not finite: {terms}; {last}. "
                f"Try a lower --config.optimizer.learning_rate{limit}{elsewhere}."
            )

    def on_epoch_end(self, epoch, logs=None):
        state, model = self.state, self.model
        state.train_seconds += self._trained_until - self._began
        state.epoch = epoch + 1
        row = {"epoch": epoch + 1} | {
            name: float(value) for name, value in model.train_means.scalars().items()
        }
        if not model.test_means.is_empty:
            prefix = HELD_OUT[self.held_out]
            row |= {
                f"{prefix}_{name}": float(value)
                for name, value in model.test_means.scalars().items()
                if name not in self.left_out
            }
            of_test = "test_" if self.held_out == "test" else ""
            row |= {
                f"{of_test}active_units/{site}": count
                for site, count in model.posterior_moments.active_units().items()
            }
            bound = row[f"{prefix}_bound"]
            if not np.isfinite(bound):
                raise RunError(
                    f"the {self.held_out} bound of epoch {epoch + 1} is {bound}; the last checkpoint is that of epoch {self.checkpoints.newest_epoch()}"
                )
        state.history.append(row)
        _append_unit_kl(state.unit_kl, model.train_means)
        if "val_bound" in row and self.patience:
            self._look_ahead(row["val_bound"])
        if self.is_chief:
            self._write(row)

    def _write(self, row):
        state = self.state
        if row.keys() <= set(self._columns):
            with open(self.csv_path, "a", encoding="utf-8", newline="") as file:
                file.write(_to_csv([row], self._columns))
        else:
            self._write_history()
        last = self.model.stop_training or state.epoch == self.params["epochs"]
        if last or time.monotonic() - self._saved_at >= self.checkpoint_seconds:
            self.checkpoints.save(self.model, state)
            self._saved_at = time.monotonic()

    def _write_history(self):
        self._columns = _column_names(self.state.history)
        header = ",".join(self._columns) + "\n" if self._columns else ""
        files.write_text(self.csv_path, header + _to_csv(self.state.history, self._columns))

    def _look_ahead(self, bound):
        state = self.state
        if bound > state.best_bound:
            state.best_bound, state.best_epoch, state.waited = bound, state.epoch, 0
            state.best_weights = _values(self.model.weights)
        else:
            state.waited = state.waited + 1 if state.epoch > self.warmup_epochs else 0
        if state.waited >= self.patience:
            state.stopped_early = True
            self.model.stop_training = True


def restore_best_weights(model, state):
    """Puts the best weights of a run with early stopping back, where there are any."""
    if state.best_weights is not None:
        for variable, value in zip(model.weights, state.best_weights):
            variable.assign(value)


def batch_statistics(model):
    """The running means and variances of a model's `BatchNormalization` layers, variables `[D]`."""
    return [
        variable
        for layer in parts.normalizations(model)
        for variable in (layer.moving_mean, layer.moving_variance)
    ]


def recalibrate(model, images, batch_size=1000, seed=0, binarization=None):
    """Replaces running batch statistics, which lag behind the weights, by their mean over the
    batches of one pass over the training images (Sønderby et al.'s code).

    Latents are drawn from q as in training, one sample per image. Order, binarisation and draws
    are functions of `seed`. Every other weight is left as it is; a model without
    `BatchNormalization` layers is not run at all. A layer should be called once per trace; of
    several calls, the later ones count more.

    Args:
      images: `[N, *event]` in [0, 1].
      batch_size: of the pass, at most; its batches are equally large but for one image.
      binarization: of the training images, see `data.pipeline.training_batches`; None for none.

    Raises:
      ValueError: unless there are images, and batch_size is positive.
    """
    if not len(images) or batch_size < 1:
        raise ValueError(
            f"expected images and batch_size >= 1, received: {len(images)} images, {batch_size=}"
        )
    layers = parts.normalizations(model)
    if not layers:
        return

    @tf.function(
        input_signature=[tf.TensorSpec([None, *model.event_shape]), tf.TensorSpec([])],
        autograph=False,
    )
    def follow(x, t):
        if binarization is not None:
            x = pipeline.binarize(x, stateless_seed(seed, t, 0))
        noise = model.noise(stateless_seed(seed, t, 1), tf.shape(x)[0])
        with parts.momentum(layers, t / (t + 1.0)):  # the mean of t + 1 batches; the first replaces
            model.trace(x, noise=noise, training=True)

    order = np.random.default_rng(seed).permutation(len(images))
    with _late_bar(len(images), "batch statistics", "img") as progress:
        for t, part in enumerate(np.array_split(order, math.ceil(len(images) / batch_size))):
            follow(tf.constant(images[part], tf.float32), tf.constant(t, tf.float32))
            progress(len(part))


@contextlib.contextmanager
def _late_bar(total, description, unit, seconds=3.0):
    """A function that is told what was done, and shows a bar if it takes more than `seconds`."""
    began, done, shown = time.monotonic(), 0, None

    def progress(count):
        nonlocal done, shown
        done += count
        if shown is not None:
            shown.update(count)
        elif done < total and time.monotonic() - began > seconds:
            shown = bar(total, description, unit, initial=done)

    try:
        yield progress
    finally:
        if shown is not None:
            shown.close()


def _column_names(rows):
    return list(dict.fromkeys(name for row in rows for name in row))


def _to_csv(rows, columns):
    text = io.StringIO()
    csv.DictWriter(text, fieldnames=columns, lineterminator="\n").writerows(rows)
    return text.getvalue()


class CollapseMonitor(keras.callbacks.Callback):
    """Watches which units carry information, and says when a whole layer has collapsed.

    After every epoch, `logs` get `collapse/<site>/active`, `/died` and `/never_woke`, numbers of
    units as in `diagnostics.unit_states`, and `collapse/layers/active` and so on, numbers of
    layers as in `diagnostics.layer_states`; Keras' history and callbacks after this one see them. A
    site whose KL is known as one number (a mixture prior) counts as one unit. That a layer has
    died is said when it happens, once; that it never woke, when training ends. Auxiliary sites are
    left out: their KL does not tell.

    Args:
      state: the `RunState` that a `Recorder` before this callback keeps up to date; None where
        there is none, in a `fit` of your own.
      threshold: in nats; a unit is active after an epoch with a mean KL(q||p) above it.
    """

    def __init__(self, state=None, threshold=diagnostics.ACTIVE_UNIT_KL):
        super().__init__()
        self.threshold = threshold
        self.is_recorded = state is not None
        self.unit_kl = state.unit_kl if self.is_recorded else {}  # site -> [epochs, units], nats

    def states(self):
        """`{site: diagnostics.UnitStates}` after the epochs so far."""
        return {
            site: diagnostics.unit_states(kl, self.threshold)
            for site, kl in self.unit_kl.items()
            if site not in getattr(self.model, "auxiliary_sites", ())
        }

    def scalars(self):
        """`{"collapse/<site>/active", "/died", "/never_woke": number of units}`, and for the site
        `layers` the number of layers."""
        states = self.states()
        return {
            **{
                f"collapse/{site}/{name}": int(units.sum())
                for site, of_site in states.items()
                for name, units in of_site._asdict().items()
            },
            **{
                f"collapse/layers/{name}": len(sites)
                for name, sites in diagnostics.layer_states(states).items()
            },
        }

    def on_train_begin(self, logs=None):
        self._said = set()
        for site, kl in self.unit_kl.items():
            is_alive = (kl > self.threshold).any(1)
            if (is_alive[:-1] & ~is_alive[1:]).any():  # before a stop
                self._said.add(site)

    def on_epoch_end(self, epoch, logs=None):
        if not self.is_recorded:
            _append_unit_kl(self.unit_kl, self.model.train_means)
        for site, states in self.states().items():
            if site not in self._said and states.died.any() and not states.active.any():
                self._said.add(site)
                _say(
                    f"layer {site} has died in epoch {epoch + 1}: no unit has a KL(q||p) above "
                    f"{self.threshold} nats any more"
                )
        if logs is not None:
            logs.update(self.scalars())

    def on_train_end(self, logs=None):
        for site, states in self.states().items():
            if states.never_woke.all():
                _say(
                    f"layer {site} never woke: no unit had a KL(q||p) above {self.threshold} nats "
                    "in any epoch"
                )


def _append_unit_kl(unit_kl, means):
    """Appends an epoch's KL per unit to `{site: [epochs, units]}`."""
    for site, kl in means.unit_kl().items():
        before = unit_kl.get(site, np.zeros([0, len(kl)], np.float32))
        unit_kl[site] = np.concatenate([before, kl.numpy()[np.newaxis]])


def _say(text):
    """Writes a line above the progress bars."""
    tqdm.write(text, file=sys.stderr)


class TensorBoardLog(keras.callbacks.Callback):
    """Scalars after every epoch, pictures after epochs 1, 2, 5, 10, 20, 50, ..., histograms of the
    weights on request.

    Args:
      folder: for the event files.
      figures: a function `model -> {name: [H, W, C] uint8}`; None shows no pictures.
      held_out: what the bound is taken of after each epoch, a name in `HELD_OUT`.
      scalars: a function `-> {tag: number}` of further scalars; None for none.
    """

    def __init__(self, folder, figures=None, histograms=False, held_out="validation", scalars=None):
        super().__init__()
        self.folder, self.figures, self.histograms = folder, figures, histograms
        self.held_out, self.scalars = held_out, scalars or dict

    def on_train_begin(self, logs=None):
        with self._writing():
            self.writer = tf.summary.create_file_writer(self.folder)
            self.writer.init()

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        model, epoch = self.model, epoch + 1
        pictures = {}
        if self.figures is not None and (is_picture_epoch(epoch) or epoch == self.params["epochs"]):
            pictures = self.figures(model)
        with self._writing(), self.writer.as_default(step=epoch):
            for name, value in model.train_means.scalars().items():
                tf.summary.scalar(_board_name("train", name), value)
            if not model.test_means.is_empty:
                for name, value in model.test_means.scalars().items():
                    if name != "beta":
                        tf.summary.scalar(_board_name(self.held_out, name), value)
                of_test = "/test" if self.held_out == "test" else ""
                for site, count in model.posterior_moments.active_units().items():
                    tf.summary.scalar(f"active_units/{site}{of_test}", count)
            for name, value in self.scalars().items():
                tf.summary.scalar(name, value)
            tf.summary.scalar("training/seconds_per_epoch", time.monotonic() - self._began)
            for name, image in pictures.items():
                tf.summary.image(name, image[np.newaxis])
            if self.histograms:
                for variable in model.trainable_variables:
                    tf.summary.histogram(f"weights/{variable.path}", variable)
                for site, kl in model.train_means.unit_kl().items():
                    tf.summary.histogram(f"kl_per_unit/{site}", kl)
            self.writer.flush()

    def on_train_end(self, logs=None):
        with self._writing():
            self.writer.close()

    @contextlib.contextmanager
    def _writing(self):
        """A folder that cannot be written to, or a full disk, is for a person to mend."""
        try:
            yield
        except tf.errors.OpError as error:
            raise RunError(f"cannot write to {self.folder}: {error.message}") from error


def _board_name(side, name):
    """Groups a scalar's training and held-out curves under one heading."""
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

    def __init__(self, epochs, steps, batch_size, first_epoch=0, held_out="validation"):
        super().__init__()
        self.held_out = held_out
        self.epochs, self.steps, self.batch_size, self.first_epoch = (
            epochs,
            steps,
            batch_size,
            first_epoch,
        )

    def on_train_begin(self, logs=None):
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
        means, held_out = self.model.train_means, self.model.test_means
        shown = {"epoch": f"{epoch + 1}/{self.epochs}"}
        shown["bound"] = f"{float(means.scalars()['bound']):.2f}"
        if not held_out.is_empty:
            shown[HELD_OUT[self.held_out]] = f"{float(held_out.scalars()['bound']):.2f}"
        self.bar.set_postfix(shown, refresh=False)

    def on_train_end(self, logs=None):
        self.bar.close()
