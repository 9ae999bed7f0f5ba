"""An experiment from its configuration to its summary: train, evaluate, draw; begin anywhere, go
on anywhere."""

import contextlib
import fcntl
import glob
import hashlib
import json
import math
import os
import subprocess
import time
import zipfile

import keras
import numpy as np
import tensorflow as tf

from tfhvae import (
    configuration,
    data,
    diagnostics,
    evaluation,
    figures,
    files,
    hardware,
    models,
    plotting,
    training,
)
from tfhvae.data import pipeline
from tfhvae.errors import RunError
from tfhvae.objectives import (
    ExponentialWarmup,
    LinearWarmup,
    Objective,
    SemiSupervisedObjective,
)
from tfhvae.progress import bar

_TEST_STREAM = 0x7E5  # keeps evaluation noise apart from training noise of the same seed
_STATISTICS_STREAM = 0xBA7C
_STATISTICS = "batch_statistics.npz"  # recalibrated
_EVALUATION = "evaluation.npz"
_PARTIAL = "evaluation.{}.partial.npz"  # done, with so many samples, of what is not over
_LEAST_SPREAD = 0.1  # of the posterior means of a unit of M1 that M2 sees, a standard deviation
_LAST_FIGURE = "training_curves"  # to be drawn


class Run:
    """One experiment in one folder.

    The folder holds `config.json`, `command.txt`, `metrics.csv`, `tensorboard/`, `checkpoints/`,
    `model.keras`, `evaluation.npz`, `figures/*.png` and `summary.json`; of a model with batch
    normalisation, `batch_statistics.npz`.

    Args:
      config: as from `configuration.base_config`.
      workdir: the run's folder; made if it does not exist.
      data_dir: folder with a data set's original files; None downloads what can be downloaded.
      hardware_options: a `hardware.Hardware`; None for its defaults.
      command: the command line that repeats the run, for its summary.
      dataset: the data set, where it is loaded already.

    Raises:
      RunError, DataError: for everything that a person can mend, in one line, before anything is
        lost.
    """

    def __init__(
        self, config, workdir, data_dir=None, hardware_options=None, command=None, dataset=None
    ):
        configuration.check(config)
        self.config = config
        self.workdir = workdir
        self.command = command
        self.hardware = hardware_options or hardware.Hardware()
        self.checkpoints = training.Checkpoints(self.path("checkpoints"))
        self._check_initial_run()
        self._check_workdir()
        self.strategy = hardware.set_up(self.hardware, config.training.mixed_precision)
        self.is_chief = hardware.is_chief(self.strategy)
        self.dataset = dataset or data.load(
            config.dataset.name,
            data_dir=data_dir,
            seed=config.seed,
            **{name: value for name, value in config.dataset.items() if name != "name"},
        )
        if config.dataset.checksum != self.dataset.checksum:
            config.dataset.checksum = self.dataset.checksum
            self._check_initial_run()
            self._check_workdir()
        self.labelled = self._labelled_images()
        self._check_replicas()
        with _one_line_errors():
            self.steps = pipeline.steps_per_epoch(
                len(self.dataset.train.images),
                config.training.batch_size,
                self._num_left_out,
            )
        if config.training.patience and self.dataset.validation is None:
            raise RunError(
                f"early stopping needs validation images, and {config.dataset.name} with split {config.dataset.split!r} has none: "
                "expected --config.training.patience=0, or another split"
            )
        _check_data(config, self.dataset)
        keras.utils.set_random_seed(config.seed)
        with self.strategy.scope(), _one_line_errors():
            self.model = build_model(config, self.dataset)
            self.model.compile(
                training.make_optimizer(config.optimizer, self.steps, config.training.epochs),
                make_objective(
                    config.objective,
                    self.steps,
                    len(self.dataset.train.images),
                    self._label_weight(),
                ),
                seed=config.seed,
                jit_compile=self._jit_compile(),
                steps_per_execution=pipeline.steps_per_execution(self.steps),
            )
        per_batch = min(len(self.labelled), config.labels.batch_size)
        if self._trains_with_labels and per_batch < 2 and training.batch_statistics(self.model):
            raise RunError(
                "expected two labelled images or more in a batch (labels.batch_size), as batch "
                f"normalisation leaves nothing of one. Received: {per_batch}"
            )
        if config.training.batch_size < 2 and training.batch_statistics(self.model):
            raise RunError(
                "expected two images or more in a batch (training.batch_size), as batch "
                f"normalisation leaves nothing of one. Received: {config.training.batch_size}"
            )
        _initialize_pseudo_inputs(self.model, config, self.dataset)
        self.state = self.checkpoints.restore(self.model) or self._begin()
        self._last_weights = None  # where the best ones stand in their place before the end
        self._statistics = {}  # "running" and "recalibrated" -> arrays, for the weights of now

    def require_checkpoint(self):
        """Raises RunError where nothing was trained yet, so that there is nothing to show, or where
        the checkpoints are gone."""
        self._check_not_lost()
        if not self.state.epoch:
            raise RunError(
                f"{self.workdir} has no checkpoint yet: train first, with the same command and "
                "without --mode"
            )

    def path(self, *names):
        return os.path.join(self.workdir, *names)

    def _glob(self, *pattern):
        return glob.glob(os.path.join(glob.escape(self.workdir), *pattern))

    # The stages of a run ---------------------------------------------------------------------

    def train(self):
        """Trains to the end, from the newest checkpoint if there is one; then puts the best
        weights in and saves `model.keras`.

        Raises:
          RunError: if another process trains in the same folder, the run has ended and lost its
            checkpoints, or nothing can be written to the folder.
        """
        try:
            os.makedirs(self.workdir, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot write to the workdir {self.workdir}: {error}") from error
        with self._alone():
            self._check_workdir()  # once more: another process may just have left it
            self._check_not_lost()
            self._claim_workdir()
            self._train()

    def _train(self):
        config = self.config.training
        has_first_stage = isinstance(self.model, models.M1M2) and not config.initial_run
        if has_first_stage and not self.state.epoch:
            self._train_first_stage()
        if not self.has_trained:
            for path in self._glob(_PARTIAL.format("*")):  # of weights that go
                os.remove(path)
            self._fit(config)
        self._use_final_weights()
        if self.is_chief:
            with files.atomic_path(self.path("model.keras")) as temporary:
                self.model.save(temporary)

    def evaluate(self):
        """Evaluates on the test set, writes `evaluation.npz` and `summary.json`, and returns the
        summary."""
        self._use_final_weights()
        config, x = self.config.evaluation, self.dataset.test.images
        seed = self.config.seed + _TEST_STREAM
        with contextlib.closing(bar(len(x), "terms of the bound", "img")) as progress:
            arrays = evaluation.bound_terms(
                self.model, x, config.active_unit_samples, seed, progress=progress.update
            )
        if len(self.labelled):
            arrays["class_probabilities"] = self._classify(x, seed)
            if self.model_class is models.CaGeM:
                arrays["class_probabilities_q"] = self._classify(x, seed, classifier="q")
        x = x[evaluation.fixed_part(len(x), self._likelihood_images)]
        arrays["log_likelihood"] = self._log_likelihood(x, seed)
        _check_evaluation(arrays)
        summary = self._summarize(arrays)
        if self.is_chief:
            files.write_arrays(self.path(_EVALUATION), key=self._weights_digest(), **arrays)
            files.write_json(self.path("summary.json"), summary)
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._partial_path)
        return summary

    def draw(self):
        """Draws every figure of the run into `figures/` and returns their paths; of several
        workers, the chief does."""
        if not self.is_chief:
            return []
        self._use_final_weights()
        arrays = _kept(self.path(_EVALUATION), self._weights_digest(), "drawing without it")
        if arrays is None:
            print(
                "these weights have not been evaluated: some figures are left out, "
                "until --mode=evaluate and --mode=figures"
            )
            for name in figures.OF_EVALUATION:  # those of other weights
                with contextlib.suppress(FileNotFoundError):
                    os.remove(self.path("figures", f"{name}.png"))
        published = self.config.published
        is_comparable = configuration.is_comparable(published.protocol)
        drawn = figures.all_figures(
            self.model,
            self.dataset,
            self.state,
            self.config.seed,
            arrays,
            published.log_likelihood if is_comparable else None,
            labelled=self.labelled if len(self.labelled) else None,
            published_error=published.error_percent if is_comparable else None,
        )
        names = sorted(drawn, key=_LAST_FIGURE.__eq__)  # whose presence says that all are there
        return [self._save_figure(name, drawn[name]) for name in names]

    def sample(self, count=64):
        """Draws `count` images from the model into `samples.npz` and a sheet into
        `figures/samples.png`, or histograms of the columns of a table; returns both paths."""
        if not self.is_chief:
            return []
        self._use_final_weights()
        generation = self.model.generate(count, seed=self.config.seed)
        files.write_arrays(
            self.path("samples.npz"),
            mean=generation.mean.numpy(),
            sample=generation.sample.numpy(),
            **generation.latents,
            **({} if generation.y is None else {"y": generation.y.numpy()}),
        )
        if self.dataset.column_names is not None:
            sheet = figures.column_samples(self.model, self.dataset, self.config.seed)
        else:
            images = figures.picture(self.model, generation).numpy()
            kind = "draws" if self.model.is_autoregressive else "means"
            sheet = plotting.image_grid(self.dataset.to_pictures(images), title=f"samples ({kind})")
        return [self.path("samples.npz"), self._save_figure("samples", sheet)]

    # What a run knows of itself --------------------------------------------------------------

    @property
    def has_trained(self):
        return self.state.stopped_early or self.state.epoch >= self.config.training.epochs

    @property
    def finished_summary(self):
        """The summary, if the run has trained to its end and was evaluated as its configuration
        says; else None."""
        path = self.path("summary.json")
        if not (self.has_trained and os.path.exists(path)):
            return None
        try:
            summary = files.read_json(path)
            found = {name: summary[name] for name in self._evaluated_as()}
        except (ValueError, KeyError, TypeError) as error:
            print(f"{path} is not the summary of a run ({error!r}); evaluating anew")
            return None
        return summary | self._published() if found == self._evaluated_as() else None

    @property
    def has_figures(self):
        """Whether all figures were drawn of the newest evaluation."""
        evaluated, drawn = self.path("summary.json"), self.path("figures", f"{_LAST_FIGURE}.png")
        return os.path.exists(drawn) and os.path.getmtime(drawn) >= os.path.getmtime(evaluated)

    @property
    def _eval_samples(self):
        """1 where nothing is drawn, and log p(x) known."""
        return self.config.evaluation.num_samples if self.model.noise_shapes else 1

    @property
    def _likelihood_images(self):
        """Test images of which log p(x) is estimated."""
        count = len(self.dataset.test.images)
        return min(count, self.config.evaluation.likelihood_images or count)

    @property
    def _partial_path(self):
        return self.path(_PARTIAL.format(self.config.evaluation.num_samples))

    def _evaluated_as(self):
        """What the summary of an evaluation of now says of how it was made."""
        return {
            "epochs": self.state.epoch,
            "test/eval_samples": self._eval_samples,
            "test/likelihood_images": self._likelihood_images,
            "test/importance_samples": self.config.evaluation.active_unit_samples,
            "test/batch_statistics": self._batch_statistics(),
            **(self._classifier() if len(self.labelled) else {}),
        }

    def _begin(self):
        """The state of a run before its first epoch; its weights are put in, where it starts from
        another run's."""
        state = training.RunState()
        if self.config.training.initial_run:
            state.initial_epochs = load_initial_weights(
                self.model, self.config.training.initial_run
            )
        return state

    def _weights_digest(self):
        """Of the weights of now: names what was computed with them."""
        return _digest(*self.model.get_weights())

    def _batch_statistics(self):
        """What `test/batch_statistics` says of an evaluation of now."""
        if not training.batch_statistics(self.model):
            return None
        return self.config.evaluation.batch_statistics

    def _use_final_weights(self):
        """Puts in what is evaluated, drawn and saved: the best weights, and the batch statistics
        that `config.evaluation` names. Training goes on with what was there before."""
        if self.state.best_weights is not None and self._last_weights is None:
            self._last_weights = self.model.get_weights()
        training.restore_best_weights(self.model, self.state)
        wanted = self._batch_statistics()
        if wanted is None:
            return
        variables, known = training.batch_statistics(self.model), self._statistics
        known.setdefault("running", [variable.numpy() for variable in variables])
        if wanted not in known:
            known[wanted] = self._recalibrated(variables)
        self._put_statistics(wanted)

    def _recalibrated(self, variables):
        """Batch statistics of all training images, without the labelled ones where training leaves
        those out of the unlabelled ones. They take a pass, so the folder keeps them."""
        path, seed = self.path(_STATISTICS), [self.config.seed, _STATISTICS_STREAM]
        self._put_statistics("running")
        key = _digest(seed, *self.model.get_weights())
        kept = _kept(path, key, "recalibrating")
        if kept is None:
            images = self.dataset.train.images
            if self._num_left_out:
                images = np.delete(images, self.labelled, axis=0)
            training.recalibrate(
                self.model,
                images,
                seed=seed,
                binarization=self.dataset.binarization,
            )
            kept = {str(i): variable.numpy() for i, variable in enumerate(variables)}
            if self.is_chief:
                files.write_arrays(path, key=key, **kept)
        return [kept[str(i)] for i in range(len(variables))]

    def _put_statistics(self, name):
        for variable, value in zip(
            training.batch_statistics(self.model), self._statistics.get(name, ())
        ):
            variable.assign(value)

    def _fit(self, config):
        self._put_statistics("running")
        self._statistics.clear()
        if self._last_weights is not None:
            self.model.set_weights(self._last_weights)
            self._last_weights = None
        state, dataset = self.state, self.dataset
        batches = self._training_batches(config)
        held_out, part = "validation", dataset.validation
        if part is None and config.test_curve:
            held_out, part = "test", dataset.test
        validation = validation_steps = None
        if part is not None:
            validation = pipeline.evaluation_batches(
                part.images,
                max(config.batch_size, 500),
                labels=part.labels if self._trains_with_labels else None,
            )
        callbacks = [
            training.Recorder(
                state,
                self.checkpoints,
                self.path("metrics.csv"),
                config.patience,
                warmup_epochs(self.config.objective, self.steps),
                config.checkpoint_seconds,
                self.is_chief,
                held_out,
            )
        ]
        if self.is_chief:
            monitor = training.CollapseMonitor(state)
            callbacks += [
                monitor,
                training.TensorBoardLog(
                    self.path("tensorboard"),
                    self._training_pictures(),
                    config.histograms,
                    held_out,
                    monitor.scalars,
                ),
                training.Progress(
                    config.epochs, self.steps, config.batch_size, state.epoch, held_out
                ),
            ]
        if validation is not None:
            validation_steps = int(validation.cardinality())
            validation = hardware.for_replicas(self.strategy, validation)
        try:
            self.model.fit(
                hardware.for_replicas(self.strategy, batches, endless=True),
                epochs=config.epochs,
                initial_epoch=state.epoch,
                steps_per_epoch=self.steps,
                validation_data=validation,
                validation_steps=validation_steps,
                callbacks=callbacks,
                verbose=0,
                shuffle=False,
            )
        except tf.errors.UnavailableError as error:
            raise RunError(
                "another worker has stopped; start all of them again with the same command"
            ) from error

    def _training_pictures(self):
        """What `TensorBoardLog` draws: nothing of a table."""
        dataset = self.dataset
        if dataset.column_names is not None:
            return None
        preview = (dataset.validation or dataset.test).images[:30]
        return lambda model: figures.training_pictures(
            model, preview, self.config.seed, dataset.to_pictures
        )

    def _training_batches(self, config):
        images, labels = self.dataset.train.images, self.config.labels
        common = {
            "seed": self.config.seed,
            "first_epoch": self.state.epoch,
            "binarization": self.dataset.binarization,
        }
        if not self._trains_with_labels:
            return pipeline.training_batches(images, config.batch_size, **common)
        return pipeline.semi_supervised_batches(
            images,
            self.dataset.train.labels,
            self.labelled,
            config.batch_size,
            labels.batch_size,
            disjoint=labels.disjoint,
            num_classes=self.model.num_classes,
            **common,
        )

    def _labelled_images(self):
        """Indices of the labelled training images; none of an unsupervised run."""
        config, dataset = self.config, self.dataset
        count = config.labels.num_labels
        has_classes = issubclass(self.model_class, models.SemiSupervisedModel)
        if count and not (has_classes or self._entry.classifies_latents):
            raise RunError(
                f"expected num_labels=0 for {config.model.name}, which has no classes. "
                f"Received: {count}"
            )
        if has_classes and config.model.num_classes is None and dataset.num_classes is None:
            raise RunError(
                f"{dataset.name} has no classes: expected --config.model.num_classes, the number "
                "of clusters"
            )
        if not count:
            return np.zeros([0], np.int64)
        if dataset.train.labels is None:
            raise RunError(f"expected num_labels=0 for {dataset.name}, which has no labels")
        if has_classes and config.model.num_classes not in (None, dataset.num_classes):
            raise RunError(
                f"expected model.num_classes of {dataset.num_classes}, the classes of "
                f"{dataset.name}, where there are labels. Received: {config.model.num_classes}"
            )
        if config.labels.choice == "marked":
            marked = dataset.marked
            if marked is None or count not in (-1, len(marked)):
                raise RunError(
                    f"expected num_labels of {0 if marked is None else len(marked)}, as many "
                    f"images as {dataset.name} marks. Received: {count}"
                )
            return marked
        labelled = np.flatnonzero(dataset.train.labels >= 0)  # the others are unknown for good
        if count > 0:
            labels, seed = dataset.train.labels[labelled], config.labels.seed
            labelled = labelled[data.labelled_subset(labels, count, seed, dataset.num_classes)]
        is_svm = self._entry.classifies_latents and config.evaluation.latent_classifier == "svm"
        per_class = np.bincount(dataset.train.labels[labelled], minlength=dataset.num_classes)
        if is_svm and per_class.min() < 2:
            raise RunError(
                f"expected num_labels of at least {2 * dataset.num_classes}, two of every class of "
                f"{dataset.name}, for the cross-validation of a support vector machine, or "
                f"--config.evaluation.latent_classifier=label_spreading. Received: {len(labelled)}"
            )
        return labelled

    def _check_replicas(self):
        """Refuses batches with labels that the replicas cannot share evenly: labelled images weigh
        as much as they do on one device only if each has the same part of both."""
        replicas = self.strategy.num_replicas_in_sync
        if replicas == 1 or not self._trains_with_labels:
            return
        labelled = min(len(self.labelled), self.config.labels.batch_size)
        if labelled % replicas or self.config.training.batch_size % replicas:
            raise RunError(
                f"expected multiples of {replicas}, the number of replicas. Received: "
                f"{self.config.training.batch_size} unlabelled and {labelled} labelled images in "
                "a batch (training.batch_size, labels.batch_size)"
            )

    @property
    def _num_left_out(self):
        """Labelled images that are not among the unlabelled ones."""
        is_disjoint = self.config.labels.disjoint and self._trains_with_labels
        return len(self.labelled) if is_disjoint else 0

    @property
    def _trains_with_labels(self):
        """Whether labels take part in training, and not only in what is fitted afterwards."""
        return bool(len(self.labelled)) and not self._entry.classifies_latents

    def _classify(self, x, seed, **options):
        """Class probabilities `[N, Y]` of images `[N, *event]`."""
        config = self.config.evaluation
        if not self._entry.classifies_latents:
            return evaluation.classify(self.model, x, config.classifier_samples, seed, **options)
        train = self.dataset.train
        with _one_line_errors():
            return evaluation.classify_latents(
                self.model,
                train.images,
                self.labelled,
                train.labels[self.labelled],
                x,
                self.dataset.num_classes,
                config.latent_classifier,
                self.dataset.binarization,
                seed,
            )

    def _log_likelihood(self, x, seed):
        """`evaluation.log_likelihood` of images. What is done is kept, so that a killed process
        goes on with the rest."""
        num_samples, path = self.config.evaluation.num_samples, self._partial_path
        key = _digest(num_samples, seed, x, *self.model.get_weights())
        kept = _kept(path, key, "evaluating from the first image")
        done = np.zeros([0]) if kept is None else kept["log_likelihood"]
        parts, last_kept = [done], time.monotonic()
        with contextlib.closing(
            bar(len(x), f"log-likelihood with {num_samples} samples", "img", len(done))
        ) as progress:
            for part in evaluation.log_likelihood_parts(
                self.model, x, num_samples, seed, self._jit_compile(), start=len(done)
            ):
                parts.append(part)
                progress.update(len(part))
                is_due = time.monotonic() - last_kept >= self.config.training.checkpoint_seconds
                if self.is_chief and is_due:
                    files.write_arrays(path, key=key, log_likelihood=np.concatenate(parts))
                    last_kept = time.monotonic()
        return np.concatenate(parts)

    def _train_first_stage(self):
        """Trains M1 in the folder `m1`, or goes on with it, puts its weights in, and keeps M2 to
        the units whose posterior means differ between images, as the authors' code does."""
        stage = Run(
            configuration.first_stage(self.config),
            self.path("m1"),
            hardware_options=self.hardware,
            dataset=self.dataset,
        )
        stage.train()
        self.model.m1.set_weights(stage.model.get_weights())
        means = evaluation.posterior_means(
            stage.model, self.dataset.train.images, self.dataset.binarization, self.config.seed
        )
        kept = means.std(0) > _LEAST_SPREAD
        if not kept.any():
            raise RunError(
                f"expected posterior means of M1 that differ between images, by {_LEAST_SPREAD} at "
                f"least. Received: {means.std(0).max():.3f} at most; train it longer "
                "(training.m1_epochs)"
            )
        if self.is_chief:
            print(f"M2 sees {kept.sum()} of {len(kept)} units of M1: the others carry nothing")
        self.model.keep_units(kept)

    def _label_weight(self):
        """alpha of `SemiSupervisedObjective`; None for an unsupervised run."""
        if not self._trains_with_labels:
            return None
        return self.config.labels.weight * len(self.dataset.train.images) / len(self.labelled)

    def _jit_compile(self):
        if self.hardware.jit_compile is not None:
            return self.hardware.jit_compile
        return not self.model.uses_convolutions

    @property
    def _entry(self):
        return configuration.MODELS[self.config.model.name]

    @property
    def model_class(self):
        return getattr(models, self._entry.class_name)

    def _check_initial_run(self):
        """Refuses, before anything is done, a run to start from that cannot be one. A run that has
        a checkpoint does not need it any more."""
        folder = self.config.training.initial_run
        if not folder:
            return
        if os.path.realpath(folder) == os.path.realpath(self.workdir):
            raise RunError(
                f"expected an initial_run other than the workdir, received: {folder} for both"
            )
        if not self.checkpoints.paths():
            check_initial_run(folder, self.config)

    def _check_workdir(self):
        """Refuses a folder that belongs to another experiment, before anything is done. One that
        only asks for more epochs, or for fewer than planned but no fewer than done, goes on."""
        path, self._has_other_length = self.path("config.json"), False
        results = map(self.path, ("model.keras", "summary.json", "m1"))
        self._is_claimed = os.path.exists(path) and (
            bool(self.checkpoints.paths()) or any(map(os.path.exists, results))
        )
        if not self._is_claimed:  # where nothing came of an experiment, another one may begin
            return
        # Fields that are newer than the folder have their defaults there.
        ours, theirs = (
            configuration.flatten(
                configuration.comparable(json.loads(configuration.to_json(config)))
            )
            for config in (self.config, configuration.from_json(path))
        )
        if ours["dataset.checksum"] is None:  # the data are not read yet
            ours["dataset.checksum"] = theirs["dataset.checksum"]
        if (
            ours["optimizer.schedule"] != "cosine"  # which depends on the number of epochs
            and ours["training.epochs"] != theirs["training.epochs"]
            and (ours["training.epochs"] > theirs["training.epochs"] or self._may_be_shorter())
        ):
            self._has_other_length = True
            theirs["training.epochs"] = ours["training.epochs"]
        different = configuration.differences(ours, theirs)
        if different:
            raise RunError(
                f"{self.workdir} belongs to another experiment ({'; '.join(different)}): "
                "choose another --workdir"
            )

    def _check_not_lost(self):
        """Refuses to begin anew in the folder of a run that has ended."""
        if not self.state.epoch and os.path.exists(self.path("model.keras")):
            raise RunError(
                f"{self.workdir} has a model.keras, but no readable checkpoint, which training, "
                "evaluation and figures go on from: put its checkpoints back, or choose another "
                "--workdir"
            )

    def _may_be_shorter(self):
        """Whether fewer epochs would undo nothing: the run has not ended, and has no more of them."""
        has_ended = os.path.exists(self.path("model.keras"))
        return not has_ended and self.checkpoints.newest_epoch() <= self.config.training.epochs

    def _claim_workdir(self):
        """Makes the folder this experiment's, once everything else is known to be right."""
        path = self.path("config.json")
        try:
            if self.is_chief and (self._has_other_length or not self._is_claimed):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(self.path("model.keras"))  # of another number of epochs
                if os.path.exists(path) and not self._is_claimed:
                    # Curves of an experiment of which nothing came.
                    for events in self._glob("tensorboard", "events.out.tfevents.*"):
                        os.remove(events)
                files.write_text(path, configuration.to_json(self.config))
                files.write_text(self.path("command.txt"), f"{self.command or ''}\n")
        except OSError as error:
            raise RunError(f"cannot write to the workdir {self.workdir}: {error}") from error

    def _summarize(self, arrays):
        config, state = self.config, self.state
        states = {
            site: diagnostics.unit_states(kl)
            for site, kl in state.unit_kl.items()
            if site not in self.model.auxiliary_sites
        }
        layers = diagnostics.layer_states(states)
        unit_kl = {site: arrays.get(f"unit_kl/{site}") for site in self.model.noise_shapes}
        mean, error = evaluation.mean_log_likelihood(arrays["elbo"], arrays["log_likelihood"])
        sites = list(self.model.noise_shapes)
        images = state.epoch * self.steps * config.training.batch_size
        return {
            "model": config.model.name,
            "dataset": config.dataset.name,
            "protocol": self.dataset.protocol + _density(config.model, self.dataset),
            "seed": config.seed,
            **self._evaluated_as(),
            "train_images_per_second": round(images / state.train_seconds, 1)
            if state.train_seconds
            else None,
            "test/log_likelihood": mean,
            "test/log_likelihood_stderr": None if np.isnan(error) else error,
            "test/log_likelihood_of_part": float(arrays["log_likelihood"].mean()),
            "test/elbo": float(arrays["elbo"].mean()),
            "test/importance_weighted": float(arrays["importance_weighted"].mean()),
            "test/log_px": float(arrays["log_px"].mean()),
            **{f"test/kl/{site}": float(arrays[f"kl/{site}"].mean()) for site in sites},
            **{
                f"test/information/{site}": float(arrays[f"information/{site}"].mean())
                for site in sites
            },
            **({"test/kl/y": float(arrays["kl/y"].mean())} if "kl/y" in arrays else {}),
            **{
                f"test/active_units/{site}": int(
                    (evaluation.variance_of_means(arrays, site) > 0.01).sum()
                )
                for site in sites
            },
            **{
                f"test/active_units_kl/{site}": self._count(
                    site, None if kl is None else kl > diagnostics.ACTIVE_UNIT_KL
                )
                for site, kl in unit_kl.items()
            },
            **{
                f"collapse/{site}/{name}": self._count(
                    site, getattr(states[site], name) if site in states else None
                )
                for site in sites
                for name in ("died", "never_woke")
            },
            "collapse/dead_layers": layers["died"] + layers["never_woke"],
            "collapse/never_woke_layers": layers["never_woke"],
            **self._classification(arrays),
            "test/images": len(arrays["elbo"]),
            "train_images": len(self.dataset.train.images),
            "best_epoch": state.best_epoch or state.epoch,
            "initial_run": configuration.run_name(config.training.initial_run),
            "initial_epochs": state.initial_epochs,
            "status": "stopped early"
            if state.stopped_early
            else "trained to the last epoch"
            if self.has_trained
            else f"stopped after {state.epoch} of {config.training.epochs} epochs",
            "train_seconds": round(state.train_seconds, 1),
            **self._published(),
            "command": self._training_command(),
            "commit": commit(),
        }

    def _published(self):
        return {f"published/{name}": value for name, value in self.config.published.items()}

    def _classification(self, arrays):
        """What a run with labels adds to its summary."""
        if not len(self.labelled):
            return {}

        def error_percent(suffix=""):
            wrong = arrays[f"class_probabilities{suffix}"].argmax(-1) != self.dataset.test.labels
            mean, error = evaluation.mean_and_standard_error(100.0 * wrong)
            return {
                f"test/error_percent{suffix}": mean,
                f"test/error_percent{suffix}_stderr": None if np.isnan(error) else error,
            }

        return {
            **error_percent(),
            **(error_percent("_q") if "class_probabilities_q" in arrays else {}),
            "num_labels": len(self.labelled),
            "label_seed": self.config.labels.seed,
            "label_weight_alpha": self._label_weight(),
        }

    def _classifier(self):
        config = self.config.evaluation
        if self._entry.classifies_latents:
            names = {"svm": "inductive svm", "label_spreading": "label spreading"}
            return {
                "test/classifier_samples": None,
                "test/classifier": names[config.latent_classifier],
            }
        draws = self.model_class is not models.M1M2  # which takes the mean of q(z1|x)
        return {
            "test/classifier_samples": config.classifier_samples if draws else None,
            "test/classifier": "p(y|x)" if self.model_class is models.CaGeM else "q(y|x)",
        }

    def _count(self, site, units):
        """How many of a site's `units`, `[units]` booleans, are true; None where they are not known
        one by one (a mixture prior), or not at all."""
        if units is None or len(units) != np.prod(self.model.noise_shapes[site]):
            return None
        return int(units.sum())

    @contextlib.contextmanager
    def _alone(self):
        """Holds the folder's lock, which goes with the process, however that ends."""
        if not self.is_chief:
            yield
            return
        try:
            lock = open(self.path("lock"), "w")
        except OSError as error:
            raise RunError(f"cannot write to the workdir {self.workdir}: {error}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(
                    f"another process is training in {self.workdir}: wait for it, or choose "
                    "another --workdir"
                ) from error
            for folder in (self.workdir, self.path("checkpoints"), self.path("figures")):
                if os.path.isdir(folder):
                    files.remove_leftovers(folder)
            yield

    def _training_command(self):
        """The command that began the run, also where another one evaluates it."""
        try:
            with open(self.path("command.txt"), encoding="utf-8") as file:
                return file.read().strip() or None
        except FileNotFoundError:
            return self.command

    def _save_figure(self, name, figure):
        path = self.path("figures", f"{name}.png")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        plotting.save(figure, path)
        return path


def _digest(*values):
    """Of numbers and arrays: differs where one of them does."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(repr(np.shape(value)).encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _kept(path, key, instead):
    """The arrays by name that were written to `path` with this key, or None. What is not readable
    is named, and what is done instead."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            if str(archive["key"]) == key:
                return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        pass
    except training.UNREADABLE as error:
        print(f"{path} is not readable ({error}); {instead}")
    return None


def _check_evaluation(arrays):
    """Raises RunError unless all numbers of an evaluation are finite."""
    for name, values in arrays.items():
        wrong = ~np.isfinite(values)
        if wrong.any():
            raise RunError(
                f"the evaluation gave {name} that is not finite, {wrong.sum():,} of {wrong.size:,} "
                "numbers: the weights, or some test image, are beyond what the model can compute"
            )


def check_initial_run(folder, config):
    """Checks that a run with this configuration can start from the weights of the run in `folder`.

    Raises:
      RunError: unless that is a run, has trained to its end, and has the same model and data set.
    """
    theirs = configuration.from_json(os.path.join(folder, "config.json"))
    if not os.path.exists(os.path.join(folder, "model.keras")):
        raise RunError(f"{folder} has not finished training: it has no model.keras to start from")
    state = training.Checkpoints(os.path.join(folder, "checkpoints")).state()
    if state and not state.stopped_early and state.epoch < theirs.training.epochs:
        raise RunError(
            f"{folder} has not finished training: {state.epoch} of {theirs.training.epochs} epochs "
            "are done, and its model.keras is older"
        )
    ours, theirs = (
        configuration.flatten({part: c[part].to_dict() for part in ("model", "dataset")})
        for c in (config, theirs)
    )
    if ours["dataset.checksum"] is None:  # the data are not read yet
        ours["dataset.checksum"] = theirs["dataset.checksum"]
    different = configuration.differences(ours, theirs)
    if different:
        raise RunError(
            f"expected the model and data set of {folder}, received other ones: "
            f"{'; '.join(different)}"
        )


def load_initial_weights(model, folder):
    """Puts the final weights of the run in `folder` into `model`, and returns for how many epochs
    they were trained, in that run and in those that it started from.

    Raises:
      RunError: if they cannot be read, or are another model's.
    """
    path = os.path.join(folder, "model.keras")
    try:
        weights = [w.numpy() for w in keras.models.load_model(path, compile=False).weights]
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise RunError(f"{path} is not readable: {str(error).splitlines()[0]}") from error
    if [w.shape for w in weights] != [tuple(w.shape) for w in model.weights]:
        raise RunError(f"{path} holds weights of another model")
    for variable, value in zip(model.weights, weights):
        variable.assign(value)
    state = training.Checkpoints(os.path.join(folder, "checkpoints")).state()
    if state is not None:
        return (state.best_epoch or state.epoch) + state.initial_epochs
    try:
        summary = files.read_json(os.path.join(folder, "summary.json"))
        return summary.get("best_epoch", summary["epochs"]) + summary.get("initial_epochs", 0)
    except FileNotFoundError as error:
        raise RunError(
            f"{folder} has neither checkpoints nor a summary.json, which say how long it trained"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{folder}/summary.json is not the summary of a run, which says how long it trained: "
            f"{error!r}"
        ) from error


def build_model(config, dataset):
    """The model of `config.model` for the images of `dataset`."""
    arguments = dict(config.model)
    class_name = configuration.MODELS[arguments.pop("name")].class_name
    arguments.pop("pseudo_inputs", None)  # how they begin, which is not the model's concern
    if "num_classes" in arguments and arguments["num_classes"] is None:
        arguments["num_classes"] = dataset.num_classes
    return getattr(models, class_name)(
        event_shape=dataset.image_shape,
        likelihood=dataset.likelihood,
        name=config.model.name,
        **arguments,
    )


def make_objective(config, steps, num_images, alpha=None):
    """The `Objective` of `config.objective` for so many updates an epoch and training images; with
    `alpha`, the semi-supervised one."""
    beta = 1.0
    if config.warmup_epochs and config.exponential_warmup_steps:
        raise ValueError(
            "expected at most one of objective.warmup_epochs and "
            "objective.exponential_warmup_steps. Received: "
            f"{config.warmup_epochs} and {config.exponential_warmup_steps}"
        )
    if config.warmup_epochs:
        beta = LinearWarmup(config.warmup_epochs, steps, config.warmup_start, config.warmup_per)
    if config.exponential_warmup_steps:
        beta = ExponentialWarmup(config.exponential_warmup_steps)
    std = config.weight_prior_std
    if std is not None and not std > 0.0:
        raise ValueError(f"expected a positive objective.weight_prior_std. Received: {std}")
    settings = (
        config.num_samples,
        config.num_importance,
        config.kl,
        beta,
        config.free_bits,
        config.gradient,
        0.0 if std is None else 1.0 / (num_images * std**2),
        config.class_warmup,
    )
    return Objective(*settings) if alpha is None else SemiSupervisedObjective(*settings, alpha)


def warmup_epochs(config, steps):
    """How many epochs of so many updates the warm-up of `config.objective` takes; an exponential one
    until beta is 0.99."""
    return config.warmup_epochs or math.ceil(
        math.log(100.0) * config.exponential_warmup_steps / steps
    )


def commit():
    """The commit of the code, with "+" where files were changed since; None outside of a git
    checkout."""
    here = os.path.dirname(os.path.abspath(__file__))

    def git(*arguments):
        return subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # not installed into another project's
        head, changed = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain", here)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def _density(model, dataset):
    """What the protocol says of a model that has a density of its own for real-valued pixels, in
    place of the data set's likelihood."""
    if "density" not in model or dataset.likelihood == "bernoulli":
        return ""
    is_learned = model.get("train_output_scale")
    scale = "learned scale" if is_learned else f"scale {model.output_scale:.4g}"
    return f"; a {model.density} density of {scale}"


def _check_data(config, dataset):
    """Refuses models whose images lie in [0, 1], with data that do not, and a PixelCNN of
    densities."""
    model = config.model.to_dict()
    has_pixel_cnn = "pixel_filters" in model and model.get("decoder", "pixel_cnn") == "pixel_cnn"
    if has_pixel_cnn and dataset.likelihood == "gaussian":
        raise RunError(
            f"expected binary pixels or grey levels, as the PixelCNN of {config.model.name} draws. "
            f"Received: {dataset.name}, a density; of images, --config.dataset.dequantization=bins"
        )
    if model.get("prior") == "vampprior":
        what, field = "pseudo-inputs", "model.prior=standard"
    elif model.get("output_mean") == "sigmoid" and dataset.likelihood != "bernoulli":
        what, field = "means", "model.output_mean=linear"
    else:
        return
    low, high = float(dataset.train.images.min()), float(dataset.train.images.max())
    if low < 0.0 or high > 1.0:
        raise RunError(
            f"expected data between 0 and 1, as the {what} of this {config.model.name} are. "
            f"Received: {dataset.name}, from {low:.3g} to {high:.3g}; --config.{field}, or, of "
            "images, --config.dataset.dequantization=none"
        )


def _initialize_pseudo_inputs(model, config, dataset):
    """Sets pseudo-inputs to training images with a little noise, as in the authors' code, where
    the configuration asks for it."""
    model_fields = config.model.to_dict()
    if (model_fields.get("prior"), model_fields.get("pseudo_inputs")) != (
        "vampprior",
        "training_images",
    ):
        return
    count, images = config.model.num_components, dataset.train.images
    if count > len(images):
        raise RunError(
            f"expected model.num_components of at most {len(images)}, the number of training images. Received: {count}"
        )
    rng = np.random.default_rng([config.seed, 1])
    chosen = images[rng.permutation(len(images))[:count]]
    model.prior.set_pseudo_inputs(chosen + rng.normal(0.0, 0.01, chosen.shape).astype(np.float32))


@contextlib.contextmanager
def _one_line_errors():
    """Values that a model or an objective refuses are mistakes of the configuration."""
    try:
        yield
    except ValueError as error:
        raise RunError(str(error).splitlines()[0]) from error
