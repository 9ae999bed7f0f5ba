"""The three experiments of Maaløe et al. 2018 (appendix D of the thesis), beside their published
numbers.

    supervised    accuracy where every row has a label, Monte Carlo cross-validation
    labels        accuracy against the number of labels
    progressive   conditions become known one after the other: accuracy, bound, anomalies

Every trained model leaves a file in the folder's `parts`; a study that was stopped goes on with the
parts that are missing, and processes that run the same study share them.
"""

import csv
import fcntl
import io
import json
import os
import time
import zlib

import numpy as np

from tfhvae import configuration, data, files, plotting, training
from tfhvae.errors import RunError
from tfhvae.monitoring import charts, learning
from tfhvae.monitoring.samples import (
    INPUTS,
    LABEL,
    UNKNOWN,
    VALIDATION_SHARE,
    Standardisation,
    check_columns,
    codes_of,
    introduced,
    is_complete,
    monte_carlo_split,
    names_of,
    random_part,
)
from tfhvae.progress import bar

STUDIES = ("supervised", "labels", "progressive")
MODELS = ("mlr", "mlp", "sdgm")
LABEL_COUNTS = (100, 300, 500, 700, 900, 1100, 1300, 1500)
PROGRESSIVE_CLASSES = 6
REMARK = (
    "the paper's measurements were never published; ours are of a simulated plant, so that the "
    "order of the models can be compared, and the numbers cannot"
)
SOURCE = "Maaløe et al. 2018, table III, section IV"
PUBLISHED_SUPERVISED = {  # accuracy in percent
    ("mlr", "iv"): 51.62, ("mlr", "all"): 77.33,
    ("mlp", "iv"): 77.81, ("mlp", "all"): 89.11,
    ("sdgm", "iv"): 79.06, ("sdgm", "all"): 92.47,
}  # fmt: skip
PUBLISHED_LABELS = {  # as the text says it; the rest is only drawn
    ("mlr", "iv", 100): "35 to 45", ("mlp", "iv", 100): "35 to 45",
    ("sdgm", "iv", 100): "55 to 60", ("sdgm", "all", 1500): "93.12",
}  # fmt: skip
PUBLISHED_THRESHOLD = -60.0  # nats, in the units of their standardisation


class Study:
    """What the three studies share: the rows, a folder, and models that are compiled once.

    Args:
      frame: measurements with the column `condition`; rows without label or with missing values
        are left out.
      out: the study's folder.
      kind: a name in `STUDIES`.
      settings: everything else that decides the numbers, for the folder's `settings.json`.
      config: as from `configuration.photovoltaic`.
      jit_compile: whether the SDGM is compiled by XLA.

    Raises:
      RunError: if the folder belongs to another study, or the frame has no labels.
    """

    def __init__(self, frame, out, kind, settings, config, jit_compile=True):
        if LABEL not in frame.columns:
            raise RunError("expected measurements with labels. Received: a log without them")
        self.names = names_of(frame)
        if len(self.names) < 2:
            raise RunError(
                f"expected labels of at least two conditions. Received: {', '.join(self.names)}"
            )
        self.seed, self.config, self.kind, self.out = settings["seed"], config, kind, out
        columns = sorted({name for name in settings["inputs"] for name in INPUTS[name]})
        check_columns(frame, columns)
        usable = (codes_of(frame, self.names) != UNKNOWN) & is_complete(frame[columns])
        self.frame = frame[usable]
        self.y = codes_of(self.frame, self.names)
        self.settings = {
            "study": kind,
            **settings,
            "model": configuration.flatten(config.to_dict()),
            "rows": len(self.frame),
            "conditions": self.names,
            "sum_of_values": float(f"{self.frame[columns].to_numpy(np.float64).sum():.9g}"),
        }
        defaults = configuration.base_config(config.model.name, config.dataset.name)
        self._defaults = configuration.flatten(json.loads(configuration.to_json(defaults)))
        self._claim()
        self._learners, self._perceptrons, self._jit_compile = {}, {}, jit_compile

    def _claim(self):
        """Makes the folder this study's, or refuses that of another."""
        path = os.path.join(self.out, "settings.json")
        plain = json.loads(json.dumps(self.settings))
        if os.path.exists(path):
            theirs = files.read_json(path)
            # Fields that are newer than the folder have their defaults there.
            theirs["model"] = {**self._defaults, **theirs["model"]}
            theirs = configuration.flatten(theirs)
            ours = configuration.flatten(plain)
            different = configuration.differences(ours, theirs)
            if different:
                raise RunError(
                    f"{self.out} belongs to another study ({'; '.join(different[:3])}): choose "
                    "another --out"
                )
        try:
            os.makedirs(os.path.join(self.out, "parts"), exist_ok=True)
            files.write_json(path, plain)
        except OSError as error:
            raise RunError(f"cannot write to {self.out}: {error}") from error

    def split(self, fold):
        """`(train, test)`: numbers of the rows."""
        return monte_carlo_split(len(self.y), self.seed, fold)

    def standardised(self, inputs, fitted):
        """All rows, by the mean and standard deviation of the rows `fitted`: `[N, D, 1, 1]`."""
        values = self.frame[list(INPUTS[inputs])].to_numpy()
        return Standardisation.of(values[fitted], INPUTS[inputs])(values)

    def learner(self, inputs, num_rows):
        steps = max(1, num_rows // self.config.training.batch_size)
        key = inputs, steps
        if key not in self._learners:
            self._learners.clear()  # one at a time is needed
            self._learners[key] = learning.Learner(
                self.config, len(INPUTS[inputs]), self.names, steps, self._jit_compile
            )
        return self._learners[key]

    def perceptron(self, inputs):
        if inputs not in self._perceptrons:
            self._perceptrons[inputs] = learning.Perceptron(
                len(INPUTS[inputs]),
                len(self.names),
                self.config.model.hidden_units,
                epochs=5 * self.config.training.epochs,  # its updates are cheaper, it may need more
            )
        return self._perceptrons[inputs]

    def train_baseline(self, model, inputs, x, y, seed, validation=None):
        """A trained MLP or MLR. Without `validation`, a fifth of the labelled rows of every class
        stops the MLP, which then learns from the others; a class of one row has none to spare."""
        if model == "mlr":
            classifier = learning.LogisticRegression()
            classifier.fit(x, y)
            return classifier
        if validation is None:
            rng, held_out = np.random.default_rng([seed, 0x3A1]), []
            for code in np.unique(y[y != UNKNOWN]):
                members = rng.permutation(np.flatnonzero(y == code))
                held_out.append(members[: max(len(members) > 1, len(members) // 5)])
            held_out = np.concatenate(held_out)
            validation, y = (x[held_out], y[held_out]), y.copy()
            y[held_out] = UNKNOWN
        classifier = self.perceptron(inputs)
        classifier.fit(x, y, validation, seed)
        return classifier

    def run(self, jobs, unit):
        """The records of all `{name: function -> (record, arrays)}`, from files where there are
        some. Processes with the same folder share the work: each does what no other is doing."""
        records, progress = {}, bar(len(jobs), self.kind, unit)
        with open(os.path.join(self.out, "lock"), "w") as lock:
            while True:
                for name in jobs:
                    if name not in records and os.path.exists(self._path(name)):
                        records[name] = files.read_json(self._path(name))
                        progress.update(1)
                missing = [name for name in jobs if name not in records]
                if not missing:
                    break
                name = next((name for name in missing if _claim(lock, name)), None)
                if name is None:  # others are doing all that is missing
                    time.sleep(1.0)
                    continue
                try:
                    if not os.path.exists(self._path(name)):
                        progress.set_postfix_str(name)
                        self._write(name, *jobs[name]())
                finally:
                    _give_back(lock, name)
        progress.close()
        return {name: records[name] for name in jobs}

    def _path(self, name):
        return os.path.join(self.out, "parts", f"{name}.json")

    def _write(self, name, record, arrays):
        if arrays:
            path = os.path.join(self.out, "parts", f"{name}.npz")
            with files.atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.savez_compressed(file, **arrays)
        files.write_json(self._path(name), record)

    def arrays(self, name):
        """What the part of this name has kept for figures.

        Raises:
          RunError: if it cannot be read.
        """
        path = os.path.join(self.out, "parts", f"{name}.npz")
        try:
            with np.load(path, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        except training.UNREADABLE as error:
            raise RunError(
                f"{path} is not readable ({error}): remove {self._path(name)}, and the same "
                "command computes that part anew"
            ) from error

    def finish(self, rows, figures, extra=None):
        """Writes summary.json, table.csv and the figures, and returns the summary."""
        summary = {
            "study": self.kind,
            "rows": rows,
            **(extra or {}),
            "source": SOURCE,
            "remark": REMARK if self.settings["data"].startswith("simulated") else "",
            "settings": self.settings,
        }
        table = io.StringIO()
        writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        files.write_text(os.path.join(self.out, "table.csv"), table.getvalue())
        for name, figure in figures.items():
            plotting.save(figure, os.path.join(self.out, f"{name}.png"))
        files.write_json(os.path.join(self.out, "summary.json"), summary)
        return summary


def supervised(study, folds):
    """Experiment (i): every training row is labelled."""

    def job(model, inputs, fold):
        def train():
            train, test = study.split(fold)
            x = study.standardised(inputs, train)
            rest, validation = random_part(train, VALIDATION_SHARE, [study.seed, fold])
            y, seed, arrays = study.y, study.seed + fold, {}
            if model == "sdgm":
                learner = study.learner(inputs, len(rest))
                state = learner.fit(x[rest], y[rest], x[validation], seed)
                predictions = learner.score(x[test])[0].argmax(-1)
                if fold == 0:
                    arrays["z1"] = learning.latents(learner.model, x[test])
                    arrays["labels"] = y[test]
                epochs = {"epochs": state.epoch, "best_epoch": state.best_epoch}
            else:
                validation = (x[validation], y[validation])
                classifier = study.train_baseline(model, inputs, x[rest], y[rest], seed, validation)
                predictions, epochs = classifier.predict(x[test]), {}
            record = {
                "model": model, "inputs": inputs, "fold": fold, **epochs,
                "accuracy": _accuracy(predictions, y[test]),
                "confusion": _confusion(predictions, y[test], len(study.names)),
            }  # fmt: skip
            return record, arrays

        return train

    cells = [(model, inputs) for inputs in study.settings["inputs"] for model in MODELS]
    jobs = {
        f"{model}-{inputs}-fold{fold}": job(model, inputs, fold)
        for model, inputs in cells
        for fold in range(folds)
    }
    records = study.run(jobs, "model")
    rows, figures = [], {}
    for model, inputs in cells:
        own = [r for r in records.values() if (r["model"], r["inputs"]) == (model, inputs)]
        mean, std = _mean_and_std([record["accuracy"] for record in own])
        rows.append(
            {
                "model": model,
                "inputs": ", ".join(INPUTS[inputs]),
                "paper": PUBLISHED_SUPERVISED[model, inputs],
                "accuracy": mean,
                "std": std,
                "folds": len(own),
            }
        )
        counts = np.sum([record["confusion"] for record in own], 0)
        labels, predictions = np.indices(counts.shape).reshape(2, -1)
        figures[f"confusion_{model}_{inputs}"] = plotting.confusion_matrix(
            np.repeat(labels, counts.ravel()),
            np.repeat(predictions, counts.ravel()),
            study.names,
            f"{model.upper()}, {', '.join(INPUTS[inputs])}, {len(own)} folds",
        )
        if model == "sdgm":
            arrays = study.arrays(f"sdgm-{inputs}-fold0")
            figures[f"latent_pca_{inputs}"] = plotting.latent_pca(
                {"z1": arrays["z1"]},
                arrays["labels"],
                study.names,
                f"z1 of test rows, {', '.join(INPUTS[inputs])}",
            )
    return study.finish(rows, figures)


def labels(study, draws, counts=LABEL_COUNTS):
    """Experiment (ii): so many labels, evenly over the conditions; the SDGM also sees the rows
    without."""

    least = 2 * len(study.names)  # one to learn from and one to stop by, of the MLP
    if min(counts) < least:
        raise RunError(
            f"expected numbers of labels of at least {least}, two of every condition. Received: "
            f"{min(counts)}"
        )

    def job(model, inputs, count, draw):
        def train():
            train, test = study.split(draw)
            x = study.standardised(inputs, train)
            rest, validation = random_part(train, VALIDATION_SHARE, [study.seed, draw])
            chosen = data.labelled_subset(study.y[rest], count, study.seed + draw, len(study.names))
            y = np.full(len(rest), UNKNOWN, np.int32)
            y[chosen] = study.y[rest][chosen]
            seed = study.seed + draw
            if model == "sdgm":
                learner = study.learner(inputs, len(rest))
                learner.fit(x[rest], y, x[validation], seed)
                predictions = learner.score(x[test])[0].argmax(-1)
            else:
                predictions = study.train_baseline(model, inputs, x[rest], y, seed).predict(x[test])
            record = {
                "model": model, "inputs": inputs, "labels": count, "draw": draw,
                "accuracy": _accuracy(predictions, study.y[test]),
            }  # fmt: skip
            return record, {}

        return train

    cells = [
        (model, inputs, count)
        for inputs in study.settings["inputs"]
        for model in MODELS
        for count in counts
    ]
    # Draws outside: a study that was stopped early has all counts.
    jobs = {
        f"{model}-{inputs}-{count}-draw{draw}": job(model, inputs, count, draw)
        for inputs in study.settings["inputs"]
        for draw in range(draws)
        for model, own, count in cells
        if own == inputs
    }
    records = study.run(jobs, "model")
    rows = []
    for model, inputs, count in cells:
        own = [
            record["accuracy"]
            for record in records.values()
            if (record["model"], record["inputs"], record["labels"]) == (model, inputs, count)
        ]
        mean, std = _mean_and_std(own)
        rows.append(
            {
                "model": model,
                "inputs": ", ".join(INPUTS[inputs]),
                "labels": count,
                "paper": PUBLISHED_LABELS.get((model, inputs, count), ""),
                "accuracy": mean,
                "std": std,
                "draws": len(own),
            }
        )
    panels = {
        ", ".join(INPUTS[inputs]): {
            model.upper(): [
                (row["labels"], row["accuracy"], row["std"])
                for row in rows
                if row["model"] == model and row["inputs"] == ", ".join(INPUTS[inputs])
            ]
            for model in MODELS
        }
        for inputs in study.settings["inputs"]
    }
    return study.finish(rows, {"accuracy_against_labels": charts.accuracy_against_labels(panels)})


def progressive(study, draws, false_alarm_rate, num_classes=PROGRESSIVE_CLASSES):
    """Experiment (iii): one labelled row of every condition; then, condition by condition, 500
    labelled rows (or what there is) and all others without label."""
    inputs = study.settings["inputs"][0]
    num_classes = min(num_classes, len(study.names) - 1)

    def job(stage, draw):
        def train():
            train, test = study.split(draw)
            rng = np.random.default_rng([study.seed, 0x9206, draw])
            rest, validation = random_part(train, VALIDATION_SHARE, [study.seed, draw])
            there, labelled = introduced(study.y[rest], stage, rng)
            pool = rest[there]
            x = study.standardised(inputs, pool)
            y = np.where(labelled[there], study.y[pool], UNKNOWN)
            validation = validation[np.isin(study.y[validation], np.arange(stage))]
            learner = study.learner(inputs, len(pool))
            seed = study.seed + draw
            state = learner.fit(x[pool], y, x[validation], seed)
            included_rows = pool[np.isin(study.y[pool], np.arange(stage))]
            threshold = float(np.quantile(learner.score(x[included_rows])[1], false_alarm_rate))
            probabilities, bound = learner.score(x[test])
            mlp = study.train_baseline("mlp", inputs, x[pool], y, seed).predict(x[test])
            is_included = study.y[test] < stage
            detection = {
                study.names[code]: float(np.mean(bound[study.y[test] == code] < threshold))
                for code in range(stage, len(study.names))
                if (study.y[test] == code).any()
            }
            record = {
                "stage": stage,
                "draw": draw,
                "included": study.names[:stage],
                "labels": int((y != UNKNOWN).sum()),
                "training_rows": len(pool),
                "epochs": state.epoch,
                **_accuracies("sdgm", probabilities.argmax(-1), study.y[test], is_included),
                **_accuracies("mlp", mlp, study.y[test], is_included),
                "bound_included": float(bound[is_included].mean()),
                "bound_unseen": float(bound[~is_included].mean()),
                "median_bound_included": float(np.median(bound[is_included])),
                "median_bound_unseen": float(np.median(bound[~is_included])),
                "threshold": threshold,
                "roc_auc": _roc_auc(~is_included, -bound),
                "false_alarm_rate": float(np.mean(bound[is_included] < threshold)),
                "detection_rate": float(np.mean(bound[~is_included] < threshold)),
                "detection_by_condition": detection,
            }
            return record, {"bound": bound, "labels": study.y[test]}

        return train

    jobs = {
        f"stage{stage}-draw{draw}": job(stage, draw)
        for draw in range(draws)
        for stage in range(1, num_classes + 1)
    }
    records = study.run(jobs, "stage")
    scalars = (
        "sdgm_accuracy", "mlp_accuracy", "sdgm_accuracy_included", "mlp_accuracy_included",
        "bound_included", "bound_unseen", "median_bound_included", "median_bound_unseen",
        "threshold", "roc_auc", "false_alarm_rate", "detection_rate",
    )  # fmt: skip
    rows = []
    for stage in range(1, num_classes + 1):
        own = [record for record in records.values() if record["stage"] == stage]
        means = {name: _mean_and_std([record[name] for record in own]) for name in scalars}
        rows.append(
            {
                "stage": stage,
                "added": study.names[stage - 1],
                "draws": len(own),
                **{name: mean for name, (mean, _) in means.items()},
                **{f"{name}_std": std for name, (_, std) in means.items()},
            }
        )
    detection = {
        f"{record['stage']}/{record['draw']}": record["detection_by_condition"]
        for record in records.values()
    }
    bounds = {stage: study.arrays(f"stage{stage}-draw0") for stage in range(1, num_classes + 1)}
    figures = {
        "progressive": charts.progressive(rows, PUBLISHED_THRESHOLD),
        "bounds": charts.bounds_by_stage(bounds, [row["threshold"] for row in rows], study.names),
    }
    extra = {
        "inputs": ", ".join(INPUTS[inputs]),
        "wanted_false_alarm_rate": false_alarm_rate,
        "detection_by_condition": detection,
        "paper_threshold": PUBLISHED_THRESHOLD,
    }
    return study.finish(rows, figures, extra)


def _claim(lock, name):
    """Whether this process may do a part; a process that ends, however it does, gives back what it
    has claimed."""
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, zlib.crc32(name.encode()))
    except (BlockingIOError, PermissionError):  # as systems have it
        return False
    return True


def _give_back(lock, name):
    fcntl.lockf(lock, fcntl.LOCK_UN, 1, zlib.crc32(name.encode()))


def _accuracy(predictions, y):
    return 100.0 * float(np.mean(predictions == y))


def _accuracies(model, predictions, y, is_included):
    return {
        f"{model}_accuracy": _accuracy(predictions, y),
        f"{model}_accuracy_included": _accuracy(predictions[is_included], y[is_included]),
    }


def _confusion(predictions, y, num_classes):
    counts = np.zeros([num_classes, num_classes], int)
    np.add.at(counts, (y, predictions), 1)
    return counts.tolist()


def _mean_and_std(values):
    """Mean and sample standard deviation, None of a single value."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), std


def _roc_auc(is_anomaly, score):
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(is_anomaly, score))
