"""The record of what was measured: copies of runs under `results/`, their table published | ours,
and a depth study of every data set on which models of several depths were trained; and runs side by
side.

    python -m tfhvae.results add RUN_FOLDER [results]
    python -m tfhvae.results table [results]
    python -m tfhvae.results compare RUN_FOLDER RUN_FOLDER --out=comparison.png
"""

import argparse
import collections
import csv
import json
import os
import shutil
import sys
import zipfile
from typing import NamedTuple

import numpy as np

from tfhvae import configuration, files, plotting, startup
from tfhvae.errors import RunError
from tfhvae.reporting import mean_and_error

RECORD = ("summary.json", "config.json", "metrics.csv")
_PER_IMAGE = "per_image.npz"  # of a record
_OF_EVERY_SUMMARY = {
    "model",
    "dataset",
    "seed",
    "epochs",
    "status",
    "commit",
    "test/elbo",
    "test/log_likelihood",
    "test/log_likelihood_stderr",
    "published/log_likelihood",
}
_HEADER = """# Results

Test log-likelihoods are means in nats over the whole test set, by importance sampling with S samples;
± is the standard error over test images. Where S names a number of images, importance samples were
drawn for a fixed part of them only: a value that says "corrected" is an estimate for all, by their
ELBO; another is the mean over the part, which of MNIST is easier by 0.4 to 0.7 nats. Protocols
differ by up to 3.5 nats: compare only within one. Where pixels were dropped, those that hardly ever
differ, log-likelihoods are of the others, and higher. Each row is a folder beside this page, with its
configuration, curve and figures; the command that repeats it stands below the table. Active units
have KL(q‖p) > 0.01 nats; where the prior has no KL of single units, a posterior mean whose variance
over the test images is above 0.01; neither says whether an auxiliary variable (a1, a2; a of the
ADGM) is in use. `python -m tfhvae.results compare` sets runs side by side and, where folders have
a `per_image.npz`, gives their difference image by image, with the smaller error of pairs. This page is
generated: `python -m tfhvae.results table`.

| model | data | ours | S | ELBO | published | source | epochs | seed | commit |
|---|---|---|---|---|---|---|---|---|---|
"""

# The models of a depth study, and their names in it.
_FAMILIES = {"deep_vae": "VAE", "ladder_vae": "Ladder VAE", "prob_ladder": "prob. ladder"}

# Sønderby et al. 2016a, Table 2: active units of z1 ... z5 on MNIST, latents 64-32-16-8-4.
_PUBLISHED_ACTIVE_UNITS = {
    "VAE": (20, 1, 0, 0, 0),
    "VAE+BN": (20, 9, 3, 3, 2),
    "VAE+BN+WU": (34, 18, 6, 2, 1),
    "prob. ladder+BN+WU": (46, 22, 8, 3, 2),
}
_PUBLISHED_LATENTS = (64, 32, 16, 8, 4)

# Variants that look the same in the figures of every depth study.
_IN_FIGURES = (
    "VAE",
    "VAE+BN",
    "VAE+BN+WU",
    "Ladder VAE+BN+WU",
    "prob. ladder+BN+WU",
    "VAE+WU",
)


class _Run(NamedTuple):
    """A run in a depth study."""

    name: str  # of its folder
    variant: tuple  # what differs besides the latents, in the order that variants are listed in
    latents: tuple  # units of z1 ... zL
    summary: dict

    @property
    def is_drawn(self):
        """Whether it has its place in the figures: other settings stand in the tables alone."""
        return not any(self.variant[4:])

    @property
    def label(self):
        family, has_normalization, has_warmup, *rest = self.variant
        parts = (list(_FAMILIES.values())[family], has_normalization * "BN", has_warmup * "WU")
        return ", ".join(["+".join(part for part in parts if part), *filter(None, rest)])


def add(run_folder, results):
    """Copies a run's record and figures to `results/NAME`, NAME being the run folder's, and of its
    evaluation what `compare` needs, `per_image.npz`: `elbo` `[N]` and `log_likelihood` `[n]`.

    Raises:
      RunError: if the run was not evaluated, or the record there is another experiment's.
    """
    if _summary_of(run_folder) is None:
        raise RunError(f"{run_folder} has no summary.json: evaluate it first, with --mode=evaluate")
    target = os.path.join(results, os.path.basename(os.path.abspath(run_folder)))
    if os.path.exists(os.path.join(target, "config.json")):
        theirs, ours = (
            _experiment(_configuration(*os.path.split(os.path.abspath(folder))))
            for folder in (target, run_folder)
        )
        different = configuration.differences(ours, theirs)
        if different:
            raise RunError(
                f"{target} is the record of another experiment ({'; '.join(different)}): rename the "
                "run's folder, or remove that record"
            )
    os.makedirs(target, exist_ok=True)
    for name in RECORD:
        shutil.copy(os.path.join(run_folder, name), target)
    evaluation = _evaluation_of(run_folder)
    if evaluation is not None:
        single = {name: values.astype(np.float32) for name, values in evaluation.items()}
        files.write_arrays(os.path.join(target, _PER_IMAGE), **single)
    path = os.path.join(target, "config.json")
    config = configuration.from_json(path)
    if config.training.initial_run:  # as the summary's command has it: not the way there
        name = os.path.basename(os.path.normpath(config.training.initial_run))
        config.training.initial_run = f"runs/{name}"
        files.write_text(path, configuration.to_json(config))
    figures = os.path.join(run_folder, "figures")
    if os.path.isdir(figures):
        kept = os.path.join(target, "figures")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(figures, kept, ignore=shutil.ignore_patterns(".*"))
    return target


def table(results):
    """Writes `results/README.md` from the summaries below `results`, and returns its text."""
    records, potentials = [], []
    for name in sorted(os.listdir(results)):
        folder = os.path.join(results, name)
        if "one_gaussian" in (_json_of(folder) or ()):
            potentials.append((name, _json_of(folder)))
            continue
        summary = _summary_of(folder)
        if summary is not None:
            records.append((name, summary))
    if not records:
        raise RunError(f"there is no run below {results}: add one with 'add RUN_FOLDER'")
    rows = [_row(results, name, summary) for name, summary in records]
    text = _HEADER + "\n".join(rows) + "\n\n"
    text += _comparison(results, records)
    studies = _depth_studies(results, records)
    sections, have_curves = _depth_sections(results, studies)
    text += _bounds(results, [record for record in records if record[0] not in have_curves])
    text += _few_labels(results, records)
    text += _bounds_by_labels(results, records)
    text += sections
    text += _other_hierarchies(results, records, {run.name for _, runs in studies for run in runs})
    text += "".join(_potential(*record) for record in potentials)
    text += "\n".join(_details(results, *record) for record in records)
    notes = os.path.join(results, "NOTES.md")
    if os.path.exists(notes):
        with open(notes, encoding="utf-8") as file:
            text += "\n" + file.read()
    files.write_text(os.path.join(results, "README.md"), text)
    return text


def compare(folders, out=None):
    """Runs side by side: in what their configurations differ, what came of them, and, of runs that
    were evaluated on the same test images, the mean difference per image to the first. Its standard
    error is that of pairs, much smaller than those of two log-likelihoods.

    Args:
      folders: of runs, two or more, finished or not, or of records of runs.
      out: file for a figure of their bounds over epochs; None for none.

    Returns:
      `(names, rows)`, rows being `(what, [cell of every run])`.

    Raises:
      RunError: for fewer than two runs, or what is not the folder of one.
    """
    if len(folders) < 2:
        raise RunError(f"expected two runs or more. Received: {len(folders)}")
    if out is not None and not out.endswith(".png"):
        raise RunError(f"expected a file for the figure that ends in .png. Received: {out}")
    folders = [os.path.normpath(folder) for folder in folders]
    names = [os.path.basename(os.path.abspath(folder)) for folder in folders]
    if len(set(names)) < len(names):
        names = folders
    configs = [_configuration(*os.path.split(folder)) for folder in folders]
    summaries = [_summary_of(folder) for folder in folders]
    settings = [configuration.flatten(configuration.comparable(config)) for config in configs]
    fields = list(dict.fromkeys(field for values in settings for field in values))
    rows = []
    for field in fields:
        values = [_setting(values[field]) if field in values else "–" for values in settings]
        if len(set(values)) > 1:
            rows.append((field, values))
    first, *others = (
        (folder, config, summary or {})
        for folder, config, summary in zip(folders, configs, summaries)
    )
    pairs = [_paired_differences(first, other) for other in others]
    for what, cells in _outcomes(summaries):
        differences = [pair.get(what, "–") for pair in pairs]
        for title, values in ((what, cells), ("… minus the first", ["", *differences])):
            if set(values) - {"–", ""}:
                rows.append((title, values))
    if out is not None:
        curves = {
            name: _curve(*os.path.split(folder), summary or {}, "bound")
            for name, folder, summary in zip(names, folders, summaries)
        }
        without = [name for name, curve in curves.items() if not len(curve)]
        if without:
            raise RunError(
                f"expected runs with a held-out bound in their metrics.csv. Received: "
                f"{', '.join(without)} without one"
            )
        plotting.save(plotting.bound_comparison(curves, "ELBO over epochs, held-out images"), out)
    return names, rows


def _summary_of(folder):
    """The summary of a run or of its record; None where it is not evaluated yet."""
    summary = _json_of(folder)
    if summary is None:
        return None
    missing = _OF_EVERY_SUMMARY - set(summary if isinstance(summary, dict) else ())
    if missing:
        path = os.path.join(folder, "summary.json")
        raise RunError(f"{path} is not the summary of a run: it lacks {', '.join(sorted(missing))}")
    return summary


def _json_of(folder):
    path = os.path.join(folder, "summary.json")
    try:
        return files.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise RunError(f"{path} is not readable: {error}") from error


def _setting(value):
    return _joined(value) if isinstance(value, (list, tuple)) else str(value)


def _outcomes(summaries):
    """Rows of what summaries say, a dash where one does not."""

    def row(what, text):
        return what, ["–" if summary is None else text(summary) for summary in summaries]

    def number(key, unit="", form="{:.2f}"):
        return lambda s: "–" if s.get(key) is None else form.format(s[key]) + unit

    keys = list(dict.fromkeys(key for summary in summaries if summary for key in summary))
    sites = [key.removeprefix("test/kl/") for key in keys if key.startswith("test/kl/")]
    errors = {"test/error_percent": "error", "test/error_percent_q": "error of q(y|x)"}
    return [
        row("log-likelihood", lambda s: f"{with_error(s)} nats (L_{_samples(s)})"),
        row("ELBO", number("test/elbo", " nats")),
        row("log p(x|z)", number("test/log_px", " nats")),
        *(row(f"KL {site}", number(f"test/kl/{site}", " nats")) for site in sites),
        *(
            row(
                f"active units {site}",
                lambda s, site=site: (
                    "–" if _active_units(s, site) is None else f"{_active_units(s, site)}"
                ),
            )
            for site in sites
        ),
        *(
            row(
                title,
                lambda s, key=key: mean_and_error(s, key, " %") if key in s else "–",
            )
            for key, title in errors.items()
        ),
        row("status", lambda s: f"{s['status']} ({s['epochs']}), weights of {s['best_epoch']}"),
        row("training", lambda s: f"{s['train_seconds'] / 60:.0f} minutes"),
        row("speed", number("train_images_per_second", " images/s", "{:,.0f}")),
        row("commit", lambda s: str(s["commit"])),
    ]


def _paired_differences(first, other):
    """What to say of the mean differences in nats of two runs `(folder, configuration, summary)`:
    nothing, unless both have their evaluations and the same test images."""
    (folder, config, summary), (other_folder, other_config, other_summary) = first, other
    arrays, others = _evaluation_of(folder), _evaluation_of(other_folder)
    if arrays is None or others is None or config["dataset"] != other_config["dataset"]:
        return {}
    startup.import_tensorflow()
    from tfhvae import evaluation

    said = {}
    if len(arrays["elbo"]) == len(others["elbo"]):
        gap = others["elbo"] - arrays["elbo"]
        said["ELBO"] = "{:+.2f} ± {:.2f} nats".format(*evaluation.mean_and_standard_error(gap))
        same = [s.get("test/eval_samples") for s in (summary, other_summary)]
        likelihoods = [a["log_likelihood"] for a in (others, arrays)]
        if same[0] == same[1] and len(likelihoods[0]) == len(likelihoods[1]):
            mean_and_error = evaluation.mean_log_likelihood(gap, np.subtract(*likelihoods))
            said["log-likelihood"] = "{:+.2f} ± {:.2f} nats".format(*mean_and_error)
    return said


def _evaluation_of(folder):
    """`{"elbo": [N], "log_likelihood": [n]}`, in nats, of the folder of a run or of a record; None
    where there are none."""
    for path in (os.path.join(folder, name) for name in ("evaluation.npz", _PER_IMAGE)):
        try:
            with np.load(path, allow_pickle=False) as archive:
                names = ("elbo", "log_likelihood")
                return {name: archive[name].astype(np.float64) for name in names}
        except FileNotFoundError:
            continue
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise RunError(f"{path} is not readable: {error}") from error
    return None


def _configuration(results, name):
    """A record's configuration as a dictionary; fields that are newer have their defaults."""
    config = configuration.from_json(os.path.join(results, name, "config.json"))
    return json.loads(configuration.to_json(config))


def _experiment(values):
    """The fields that runs of one experiment share, whatever their length."""
    flat = configuration.flatten(configuration.comparable(values))
    del flat["training.epochs"]
    return flat


def _comparison(results, records):
    """A figure of all runs whose published number is one of the same kind, `published.png`."""
    runs = {
        name: (
            summary["test/log_likelihood"],
            summary["test/log_likelihood_stderr"],
            summary["published/log_likelihood"],
        )
        for name, summary in records
        if summary["published/log_likelihood"] is not None
        and configuration.is_comparable(summary["published/protocol"])
    }
    if not runs:
        return ""
    plotting.save(plotting.against_published(runs), os.path.join(results, "published.png"))
    return "![ours against the published numbers](published.png)\n\n"


def _bounds(results, records):
    """A figure, `bounds_DATASET.png`, of the bounds over epochs of every two or more runs without
    labels of one protocol; those of a depth study have figures of their own."""
    studies = {}
    for name, summary in records:
        if "test/error_percent" not in summary:
            curve = _curve(results, name, summary, "bound")
            if len(curve):
                key = (summary["dataset"], summary["protocol"])
                studies.setdefault(key, {})[name] = curve
    text, drawn = "", {}  # data set -> number of its figures so far
    for (dataset, protocol), runs in studies.items():
        if len(runs) > 1:
            drawn[dataset] = drawn.get(dataset, 0) + 1
            path = f"bounds_{dataset}{_suffix(drawn[dataset])}.png"
            figure = plotting.bound_comparison(runs, f"{dataset}: ELBO over epochs")
            plotting.save(figure, os.path.join(results, path))
            text += f"![bounds over epochs, {dataset}]({path})\n\nProtocol: {protocol}.\n\n"
    intro = "ELBO of the validation images or, where the protocol has none, of the test images."
    return text and f"## Bounds over epochs\n\n{intro}\n\n{text}"


def _few_labels(results, records):
    """A table of the classification errors, where runs that differ in their seeds, or in precision,
    share a row, and for every data set and number of labels that several models were trained with,
    their errors over epochs, `errors_DATASET_LABELS.png`."""
    groups = {}
    for name, summary in records:
        if "test/error_percent" in summary:
            config = _configuration(results, name)
            seeds = config.pop("seed"), config["labels"].pop("seed")
            del config["evaluation"]
            config["training"].pop("mixed_precision", None)
            budget = config["training"].pop("epochs")
            key = json.dumps(config, sort_keys=True), summary["test/classifier"]
            groups.setdefault(key, []).append((name, summary, seeds, budget))
    if not groups:
        return ""
    rows = []
    studies = {}  # data set and number of labels -> groups of runs
    for (key, classifier), group in groups.items():
        first, model = group[0][1], _variant(json.loads(key)["model"])
        published = first.get("published/error_percent")
        if not configuration.is_comparable(first["published/protocol"]):
            published = None
        budgets = {}
        for name, summary, _, budget in group:
            budgets.setdefault(budget, []).append((name, summary))
        for field, by, theirs in (
            ("test/error_percent", classifier, published),
            ("test/error_percent_q", "q(y|x)", None),  # of CaGeM
        ):
            for budget in sorted(budgets):
                runs = budgets[budget]
                errors = [(name, summary[field]) for name, summary in runs if field in summary]
                epochs = _joined(sorted({summary["epochs"] for _, summary in runs}), ", ")
                if errors:
                    rows.append(_error_row(model, first, by, errors, theirs, epochs))
        curves = {
            name: _curve(results, name, summary, "error_percent", ("test_", "val_"))
            for name, summary, *_ in group
        }
        curves = {name: curve for name, curve in curves.items() if len(curve)}
        if len(budgets) > 1:
            epoch, errors = _at_common_epoch(group, curves)
            if len(errors) > 1:
                by = f"{classifier}, one draw"
                rows.append(_error_row(model, first, by, errors, published, epoch))
        if curves:
            epochs = _joined(sorted({summary["epochs"] for _, summary, *_ in group}), ", ")
            study = studies.setdefault((first["dataset"], first["num_labels"]), [])
            evaluated = [
                (summary["best_epoch"], summary["test/error_percent"])
                for name, summary, *_ in group
                if name in curves
            ]
            label = f"{model}, {epochs} epochs"
            study.append((model, label, list(curves.values()), evaluated, published))
    rows.sort(key=lambda row: row[:3])
    head = ("model", "data", "labels", "classifier", "error, %", "published, %", "epochs", "runs")
    pictures = "".join(
        _error_figure(results, *key, study) for key, study in studies.items() if len(study) > 1
    )
    return (
        "## Few labels\n\nErrors of the classifier on the test images, of runs that differ in their "
        "seeds or in precision the mean and the standard deviation over runs. Where such runs were "
        "not trained for equally many epochs, a row of its own (one draw) has their errors after the "
        "last epoch that all have, as measured during training, like the curves: on the test images "
        "or, where the protocol has validation images, on these.\n\n"
        + _markdown([head, *rows])
        + "\n"
        + pictures
    )


def _error_row(model, summary, classifier, errors, published, epochs):
    values = [error for _, error in errors]
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return (
        model,
        summary["dataset"],
        summary["num_labels"],
        classifier,
        f"{np.mean(values):.2f}{spread}",
        _with_protocol(published, summary),
        epochs,
        ", ".join(f"[{error:.2f}]({name})" for name, error in errors),
    )


def _at_common_epoch(group, curves):
    """The last epoch that runs of all seeds have, and pairs of the run and its error then; of runs
    with the same seeds the longest."""
    longest = {}
    for name, _, seeds, _ in group:
        if name in curves and len(curves[name]) > len(longest.get(seeds, ("", ()))[1]):
            longest[seeds] = name, dict(curves[name])
    common = set.intersection(*(set(curve) for _, curve in longest.values())) if longest else set()
    if not common:
        return None, []
    epoch = max(common)
    return int(epoch), [(name, curve[epoch]) for name, curve in longest.values()]


def _bounds_by_labels(results, records):
    """A figure, `labels_MODEL_DATASET.png`, of every two or more runs that differ in the number of
    their labels, none among them, in seeds and in precision only."""
    studies = {}
    for name, summary in records:
        if "test/importance_weighted" not in summary:
            continue
        config = _configuration(results, name)
        num_labels = config["labels"]["num_labels"]
        config["labels"] |= {"num_labels": None, "seed": None}
        config |= {"seed": None, "published": None, "evaluation": None}
        config["training"] |= {"epochs": summary["epochs"], "mixed_precision": None}
        samples = summary["test/importance_samples"], summary["test/eval_samples"]
        key = summary["model"], summary["dataset"], *samples, json.dumps(config, sort_keys=True)
        studies.setdefault(key, []).append((num_labels, summary))
    text, drawn = "", {}  # stem of the file name -> number of its figures so far
    for (model, dataset, few, many, _), runs in studies.items():
        if len({num_labels for num_labels, _ in runs}) > 1:
            epochs = runs[0][1]["epochs"]
            bounds = {
                f"$L_{{{samples}}}$": [(num_labels, summary[field]) for num_labels, summary in runs]
                for samples, field in (
                    (1, "test/elbo"),
                    (few, "test/importance_weighted"),
                    (many, "test/log_likelihood"),
                )
            }
            stem = f"labels_{model}_{dataset}"
            drawn[stem] = drawn.get(stem, 0) + 1
            path = f"{stem}{_suffix(drawn[stem])}.png"
            title = f"{model} on {dataset}: bounds by number of labels ({epochs} epochs)"
            plotting.save(plotting.bounds_by_labels(bounds, title), os.path.join(results, path))
            text += f"![bounds by number of labels, {model} on {dataset}]({path})\n\n"
    return text and f"## Bounds by number of labels\n\n{text}"


def _variant(model):
    """Name of a model with few labels, and the fields without which runs would be taken for
    others."""
    details = [
        ("deterministic a", not model.get("stochastic_auxiliary", True)),
        ("sum and sample", model.get("label_inference") == "sum_and_sample"),
        ("two units in z2", model["name"] == "cagem" and model["latent_dims"][-1] == 2),
    ]
    return ", ".join([model["name"], *(detail for detail, is_so in details if is_so)])


def _curve(results, name, summary, quantity, parts=("val_", "test_")):
    """Pairs `[N, 2]` of an epoch, counted from the start of the run that it went on from, and a
    quantity on the images of the first of the parts that the run has; none where it has no such
    column."""
    before = summary.get("initial_epochs", 0)
    path = os.path.join(results, name, "metrics.csv")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for column in (f"{part}{quantity}" for part in parts):
        if rows and column in rows[0]:
            pairs = [(row["epoch"], row[column]) for row in rows if row[column]]
            return np.array(pairs, float).reshape(-1, 2) + [before, 0]
    return np.zeros([0, 2])


def _error_figure(results, dataset, num_labels, study):
    study.sort(key=lambda entry: entry[0])  # variants beside their model
    models = [model for model, *_ in study]
    # Only runs of one model with different settings need more than its name.
    labels = [model if models.count(model) == 1 else label for model, label, *_ in study]
    if len(set(labels)) < len(labels):
        labels = [f"{label} ({index})" for index, label in enumerate(labels, start=1)]
    published = {}  # once for all runs of a model
    for label, (model, *_, error) in zip(labels, study):
        if error is not None:
            published.setdefault((model.partition(",")[0], error), label)
    figure = plotting.error_comparison(
        {label: curves for label, (_, _, curves, *_) in zip(labels, study)},
        {label: error for (_, error), label in published.items()},
        f"{dataset} with {num_labels} labels: error on held-out data, curves of one draw each",
        {label: evaluated for label, (*_, evaluated, _) in zip(labels, study)},
    )
    path = f"errors_{dataset}_{num_labels}.png"
    plotting.save(figure, os.path.join(results, path))
    return f"![error over epochs, {dataset}, {num_labels} labels]({path})\n\n"


def _depth_studies(results, records):
    """`[((dataset, -epochs, protocol), runs), ...]`, the studies: two or more deep hierarchies of
    one data set, protocol and number of epochs."""
    studies = {}
    for name, summary in records:
        config = _hierarchy(results, name)
        if config is not None and not config["training"].get("initial_run"):
            # A run that was cut has the budget that it used.
            stopped_early = summary["status"] == "stopped early"
            epochs = config["training"]["epochs"] if stopped_early else summary["epochs"]
            key = (summary["dataset"], -epochs, summary["protocol"])
            studies.setdefault(key, []).append((name, config, summary))
    return [(key, _runs(members)) for key, members in sorted(studies.items()) if len(members) > 1]


def _hierarchy(results, name):
    """The configuration of a record, if it has one and is of a deep hierarchy; else None."""
    if not os.path.exists(os.path.join(results, name, "config.json")):
        return None
    config = _configuration(results, name)
    return config if config["model"]["name"] in _FAMILIES else None


def _runs(members):
    """The `_Run` of every `(name, configuration, summary)`, in the order of a study."""
    usual = _most_common([_training_settings(*member[1:]) for member in members])
    runs = [_run(*member, usual) for member in members]
    return sorted(runs, key=lambda run: (run.variant, len(run.latents), run.latents, run.name))


def _depth_sections(results, studies):
    """The text of a section for every study, and the names of the runs whose curves it shows. Where
    the runs of a study have different numbers of layers, it has two figures, `depth_DATASET.png` and
    `curves_DATASET.png`; those of a second study of the data set, of fewer epochs say, are
    `..._DATASET_2.png`."""
    text, drawn, have_curves = "", {}, set()  # drawn: data set -> number of its studies so far
    for (dataset, epochs, protocol), runs in studies:
        heading, pictures = f"Depth study: {dataset} ({-epochs} epochs)", ""
        of_figures = [run for run in runs if run.is_drawn]
        if len({len(run.latents) for run in of_figures}) > 1:
            drawn[dataset] = drawn.get(dataset, 0) + 1
            path = f"depth_{dataset}{_suffix(drawn[dataset])}.png"
            plotting.save(_depth_figure(results, of_figures, heading), os.path.join(results, path))
            pictures = f"![bounds by depth]({path})\n\n"
            curves = [(run, _elbo_curves(results, run)) for run in of_figures]
            curves = [(run, pair) for run, pair in curves if all(map(len, pair))]
            if curves:
                path = path.replace("depth_", "curves_", 1)
                figure = _curves_figure(results, curves, heading)
                plotting.save(figure, os.path.join(results, path))
                pictures += f"![ELBO over epochs by depth]({path})\n\n"
                have_curves |= {run.name for run, _ in curves}
        text += (
            f"## {heading}\n\nProtocol: {protocol}. Cells: test log-likelihood L_K (K importance "
            "samples) / ELBO L_1, means in nats. BN: batch normalisation; WU: warm-up.\n\n"
            f"{_bounds_table(runs)}\n{pictures}"
            f"{_active_units_table(runs, 'mnist' in dataset and 'fashion' not in dataset)}"
        )
    return text, have_curves


def _other_hierarchies(results, records, names):
    """The text of a section for deep hierarchies that are in no study: longer runs, and what was
    fine-tuned."""
    members = [
        (name, config, summary)
        for name, summary in records
        for config in [_hierarchy(results, name)]
        if config is not None and name not in names
    ]
    if not members:
        return ""
    most = max((_sites(run) for run in _runs(members)), key=len)
    rows = [["run", "data", "epochs", "L_K (K) / L_1", "published", *most, "total"]]
    for name, config, summary in members:
        first, published = summary.get("initial_run"), summary["published/log_likelihood"]
        before = _hierarchy(results, first) if first else None
        if before is not None:  # fine-tuning has no warm-up, its first stage may have had one
            config["objective"]["warmup_epochs"] = before["objective"]["warmup_epochs"]
        run = _run(name, config, summary, _training_settings(config, summary))
        counts = [summary.get(f"test/active_units_kl/{site}") for site in _sites(run)]
        cells = [*counts, *[None] * (len(most) - len(counts))]
        total = None if None in counts else sum(counts)
        rows.append(
            [
                f"[{run.label}]({name})",
                summary["dataset"],
                (f"{summary['initial_epochs']} of {first} + " if first else "")
                + str(summary["epochs"]),
                f"{summary['test/log_likelihood']:.2f} ({summary['test/eval_samples']}) / "
                f"{summary['test/elbo']:.2f}",
                "–" if published is None else f"{published:.2f}",
                *("–" if cell is None else cell for cell in (*cells, total)),
            ]
        )
    return (
        "## Deep hierarchies: longer runs, and fine-tuning\n\nMC and IW: samples in training, as in "
        "Sønderby et al. 2016a, Table 1; one where none are named. Published: L_5000. The last "
        f"columns are active units (KL > 0.01 nats) on the test set.\n\n{_markdown(rows)}\n"
    )


def _suffix(count):
    return f"_{count}" if count > 1 else ""


def _most_common(settings):
    """The most common value of every field of several dictionaries, of those that have it."""
    values = collections.defaultdict(collections.Counter)
    for setting in settings:
        for field, value in setting.items():
            values[field][value] += 1
    return {field: counter.most_common(1)[0][0] for field, counter in values.items()}


def _training_settings(config, summary):
    """How a run was trained and evaluated, `{field: value}`, but for its budget and what a depth
    study has names for: samples, and whether there is a warm-up and batch normalisation at all."""
    named = ["num_samples", "num_importance"]
    if not _has_warmup(config["objective"]):
        named += [field for field in config["objective"] if "warmup" in field]
    statistics = summary.get("test/batch_statistics")
    return {
        **config["optimizer"],
        **{field: value for field, value in config["objective"].items() if field not in named},
        **{field: config["training"][field] for field in ("batch_size", "mixed_precision")},
        **({"batch_statistics": statistics} if statistics else {}),
    }


def _has_warmup(objective):
    return objective["warmup_epochs"] > 0 or objective["exponential_warmup_steps"] > 0


def _run(name, config, summary, usual_training):
    model, objective = config["model"], config["objective"]
    has_normalization = model.get("batch_normalization", "none") != "none"
    usual = configuration.MODELS[model["name"]].fields
    usual = {**usual, "batch_normalization": "all" if has_normalization else "none"}
    layers = len(model["latent_dims"])
    usual["hidden_units"] = usual["hidden_units"][:layers]
    variant = (
        list(_FAMILIES).index(model["name"]),
        has_normalization,
        _has_warmup(objective),
        _sampling(objective),
        # Runs that differ in anything else, from the papers' model or from how most of the study
        # were trained, are columns of their own.
        *(
            f"{field}={_joined(value) if isinstance(value, list) else value}"
            for field, value in model.items()
            if field in usual
            and field != "latent_dims"
            and value != (list(usual[field]) if isinstance(usual[field], tuple) else usual[field])
        ),
        *(
            f"{field}={value}"
            for field, value in _training_settings(config, summary).items()
            if value != usual_training[field]
        ),
    )
    return _Run(name, variant, tuple(model["latent_dims"]), summary)


def _sampling(objective):
    """Training with several samples, which is named as in the papers; "" for one."""
    names = (("MC", "num_samples"), ("IW", "num_importance"))
    several = (f"{short} {objective[f]}" for short, f in names if objective.get(f, 1) > 1)
    return ", ".join(several)


def _depth_figure(results, runs, title):
    samples = {run.summary["test/eval_samples"] for run in runs}

    def training_bound(run):  # of the epoch that the weights are from, as its batches had it
        curve = _curve(results, run.name, run.summary, "bound", parts=("",))
        return curve[curve[:, 0] == run.summary["best_epoch"], 1]

    def points(value):
        found = collections.defaultdict(list)
        for run in runs:
            found[run.label] += [(len(run.latents), bound) for bound in np.ravel(value(run))]
        return {label: np.reshape(pairs, [-1, 2]) for label, pairs in found.items()}

    many = str(samples.pop()) if len(samples) == 1 else "K"
    panels = {
        "$L_1$, training images": points(training_bound),
        "$L_1$, test images": points(lambda run: run.summary["test/elbo"]),
        f"$L_{{{many}}}$, test images": points(lambda run: run.summary["test/log_likelihood"]),
    }
    # A record may come without the row of its weights' epoch.
    known = {name: bounds for name, bounds in panels.items() if all(map(len, bounds.values()))}
    return plotting.depth_study(known, title, _IN_FIGURES)


def _curves_figure(results, curves, title):
    """ELBOs over epochs of runs, `[(run, _elbo_curves), ...]`, a panel per number of layers."""
    depths = {}
    for run, pair in sorted(curves, key=lambda entry: len(entry[0].latents)):
        heading = f"{len(run.latents)} layer{'s' * (len(run.latents) > 1)}"
        depths.setdefault(heading, {}).setdefault(run.label, []).append(pair)
    run, _ = curves[0]
    has_validation = len(_curve(results, run.name, run.summary, "bound", ("val_",)))
    held_out = "validation images" if has_validation else "test images"
    return plotting.training_and_test_curves(depths, title, _IN_FIGURES, held_out)


def _elbo_curves(results, run):
    """Pairs `[N, 2]` of an epoch and the ELBO, beta = 1 also during warm-up, of the training images,
    and those of held-out images; none where a record does not have them."""
    log_px, *kls = (
        _curve(results, run.name, run.summary, column, ("",))
        for column in ("log_px", *(f"kl/{site}" for site in _sites(run)))
    )
    if any(len(kl) != len(log_px) for kl in kls):
        log_px, kls = np.zeros([0, 2]), []
    training = np.stack([log_px[:, 0], log_px[:, 1] - sum(kl[:, 1] for kl in kls)], 1)
    return training, _curve(results, run.name, run.summary, "bound")


def _bounds_table(runs):
    """A row per latents, a column per variant; several runs in one cell stand one by one."""
    labels = list(dict.fromkeys(run.label for run in runs))
    rows = [["latents", *labels]]
    for latents in _by_depth(runs):
        cells = [
            "; ".join(
                f"[{run.summary['test/log_likelihood']:.2f}]({run.name}) "
                f"({run.summary['test/eval_samples']}) / {run.summary['test/elbo']:.2f}"
                for run in runs
                if (run.label, run.latents) == (label, latents)
            )
            for label in labels
        ]
        rows.append([_joined(latents), *(cell or "–" for cell in cells)])
    return _markdown(rows)


def _active_units_table(runs, has_published):
    """Units with KL(q||p) > 0.01 nats, z1 first; empty where no run has counted them."""
    counted = {
        run.name: [run.summary.get(f"test/active_units_kl/{site}") for site in _sites(run)]
        for run in runs
    }
    runs = [run for run in runs if None not in counted[run.name]]
    if not runs:
        return ""
    most = max((_sites(run) for run in runs), key=len)
    rows = [["variant", "latents", *most, "total"]]
    if has_published:
        rows[0].append("Sønderby et al. 2016a, Table 2")
    for latents in _by_depth(runs):
        for run in runs:
            if run.latents != latents:
                continue
            counts = counted[run.name]
            missing = ["–"] * (len(most) - len(counts))
            row = [f"[{run.label}]({run.name})", _joined(latents), *counts, *missing, sum(counts)]
            published = _PUBLISHED_ACTIVE_UNITS.get(run.label)
            if has_published:
                is_theirs = published and latents == _PUBLISHED_LATENTS
                row.append(f"{_joined(published, ' ')}: {sum(published)}" if is_theirs else "–")
            rows.append(row)
    return f"Active units by layer (KL > 0.01 nats), on the test set:\n\n{_markdown(rows)}\n"


def _by_depth(runs):
    return sorted({run.latents for run in runs}, key=lambda latents: (len(latents), latents))


def _sites(run):
    return [f"z{i}" for i in range(1, len(run.latents) + 1)]


def _joined(numbers, separator="-"):
    return separator.join(str(number) for number in numbers)


def _markdown(rows):
    """A table; the first row is its head."""
    texts = ([str(cell).replace("|", "\\|") for cell in row] for row in rows)
    head, *body = ["| " + " | ".join(text) + " |" for text in texts]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body]) + "\n"


def _with_protocol(error, summary, unit=""):
    """A published error, and what is said of its protocol."""
    protocol = summary["published/protocol"]
    if error is None:
        return "–"
    return f"{error:.2f}{unit}" + (f" ({protocol})" if protocol else "")


def _row(results, name, summary):
    published = summary["published/log_likelihood"]
    path = os.path.join(results, name, "config.json")
    config = files.read_json(path) if os.path.exists(path) else None
    sampling = _sampling(config["objective"]) if config else ""
    least = config["dataset"].get("min_pixel_std") if config else None
    first = summary.get("initial_run")
    cells = (
        f"[{summary['model']}]({name})" + (f", {sampling}" if sampling else ""),
        summary["dataset"] + (f", pixels of std ≥ {least}" if least is not None else ""),
        with_error(summary),
        _samples(summary),
        f"{summary['test/elbo']:.2f}",
        "–" if published is None else f"{published:.2f}",
        summary["published/source"]
        + (f" ({summary['published/protocol']})" if summary["published/protocol"] else ""),
        (f"{summary['initial_epochs']} of {first}, then " if first else "")
        + f"{summary['epochs']}, {summary['status']}; weights of epoch {summary['best_epoch']}",
        summary["seed"],
        summary["commit"],
    )
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _samples(summary):
    """S, and the number of test images where it is not all of them."""
    images, all_images = (summary.get(f"test/{kind}") for kind in ("likelihood_images", "images"))
    if images in (None, all_images):
        return str(summary["test/eval_samples"])
    corrected = ", corrected" if "test/log_likelihood_of_part" in summary else ""
    return f"{summary['test/eval_samples']} ({images:,} images{corrected})"


def _potential(name, summary):
    """The section of a record of `python -m tfhvae.potential`."""
    rows = [["q", "bound on log Z", "log Z", "draws in the upper mode", "total variation"]]
    titles = {"auxiliary": "with an auxiliary variable", "one_gaussian": "one Gaussian"}
    for fit, title in titles.items():
        values = summary[fit]
        rows.append(
            [
                title,
                f"{values['bound']:.3f} ± {values['bound_stderr']:.3f}",
                f"{values['log_z']:.3f}",
                f"{100 * values['upper_mode']:.0f} %",
                f"{values['total_variation']:.2f}",
            ]
        )
    pictures = "\n".join(_thumbnail(f"{name}/{fit}.png") for fit in titles)
    return (
        f"## {name}\n\n    {summary['command']}\n\nA density with two modes in the plane "
        f"(Maaløe et al. 2016, figure 2), fitted without data; nats. Commit {summary['commit']}."
        f"\n\n{_markdown(rows)}\n{pictures}\n\n"
    )


def _details(results, name, summary):
    sites = [key.removeprefix("test/kl/") for key in summary if key.startswith("test/kl/")]
    latent = "; ".join(
        f"KL {site} {summary[f'test/kl/{site}']:.2f} nats"
        + (f", {active} active units" if active is not None else "")
        for site in sites
        for active in [_active_units(summary, site)]
    )
    if "test/error_percent" in summary:
        published = summary.get("published/error_percent")
        latent += (
            f". Classification error with {summary['num_labels']} labels "
            + mean_and_error(summary, "test/error_percent", " %")
            + (
                f", published {_with_protocol(published, summary, ' %')}"
                if published is not None
                else ""
            )
        )
        if "test/error_percent_q" in summary:
            latent += "; of q(y|x) " + mean_and_error(summary, "test/error_percent_q", " %")
    folder = os.path.join(results, name, "figures")
    pictures = os.listdir(folder) if os.path.isdir(folder) else []
    pictures.sort(key=lambda name: (name != "samples.png", name))
    statistics = summary.get("test/batch_statistics")
    return (
        f"## {name}\n\n"
        f"    {summary['command']}\n\n"
        f"Protocol: {summary['protocol']}. "
        + (f"Batch statistics {statistics}. " if statistics else "")
        + f"log p(x|z) {summary['test/log_px']:.2f} nats; {latent}. "
        f"Trained for {summary['train_seconds'] / 60:.0f} minutes "
        f"({summary['train_images_per_second']:,.0f} images/s).\n\n"
        + "\n".join(_thumbnail(f"{name}/figures/{picture}") for picture in pictures)
        + "\n"
    )


def _active_units(summary, site):
    """By KL where units have one, else by the variance of the posterior mean; None of y."""
    by_kl = summary.get(f"test/active_units_kl/{site}")
    return summary.get(f"test/active_units/{site}") if by_kl is None else by_kl


def _thumbnail(path):
    """A small picture that leads to the whole one."""
    name = os.path.basename(path).removesuffix(".png")
    return f'<a href="{path}"><img src="{path}" alt="{name}" title="{name}" height="180"></a>'


def with_error(summary):
    """Log-likelihood ± standard error, for people."""
    error = summary["test/log_likelihood_stderr"]
    return f"{summary['test/log_likelihood']:.2f}" + (
        f" ± {error:.2f}" if error is not None else ""
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m tfhvae.results",
        description="Keeps the records of runs in a folder, and writes a page over all of them.",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    adding = actions.add_parser("add", help="copy the record and the figures of an evaluated run")
    adding.add_argument("run_folder", help="such as runs/vampprior-digits-seed0")
    tabling = actions.add_parser("table", help="write README.md: published | ours, and figures")
    for action in (adding, tabling):
        action.add_argument("results", nargs="?", default="results", help="folder of the records")
    comparing = actions.add_parser(
        "compare", help="print runs side by side, and draw their bounds over epochs"
    )
    comparing.add_argument("run_folders", nargs="+", help="two or more; the first is compared with")
    comparing.add_argument("--out", help="file for the figure, such as comparison.png")
    options = parser.parse_args(arguments)
    if options.action == "compare":
        from tfhvae import reporting

        reporting.print_comparison(*compare(options.run_folders, options.out))
        if options.out:
            print(options.out)
    elif options.action == "add":
        print(add(options.run_folder, options.results))
    else:
        table(options.results)
        print(os.path.join(options.results, "README.md"))


if __name__ == "__main__":
    try:
        main()
    except (RunError, OSError) as mistake:
        sys.exit(f"error: {mistake}")
