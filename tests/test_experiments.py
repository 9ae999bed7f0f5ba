"""Experiments as people run them: the run folder, going on after any stop, mistakes."""

import copy
import csv
import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import run_experiment
from tfhvae import (
    configuration,
    data,
    evaluation,
    experiments,
    figures,
    files,
    hardware,
    reporting,
    results,
    training,
)
from tfhvae.errors import RunError
from tfhvae.objectives import Objective, SemiSupervisedObjective

ROOT = pathlib.Path(__file__).resolve().parent.parent
GRAPH = hardware.Hardware(jit_compile=False)


def small_config(model="vae", epochs=2):
    """An experiment of seconds on the embedded data."""
    config = configuration.load(str(ROOT / "configs" / f"{model}.py"))
    for field, value in (
        ("hidden_units", 16), ("latent_dim", 4), ("num_components", 5), ("auxiliary_dim", 4),
    ):  # fmt: skip
        if field in config.model:
            is_tuple = isinstance(config.model[field], tuple)
            config.model[field] = (value,) if is_tuple else value
    if "latent_dims" in config.model:
        config.model.latent_dims = (4, 3)
        if "auxiliary_dims" in config.model:
            config.model.auxiliary_dims = (4, 3)
        if isinstance(config.model.get("hidden_units"), tuple):
            config.model.hidden_units = (16, 8)  # one for each latent variable
    config.objective.num_importance = min(config.objective.num_importance, 2)
    config.objective.warmup_epochs = 0
    config.training.epochs = config.training.m1_epochs = epochs
    config.training.batch_size = 400
    config.training.patience = 0
    config.training.checkpoint_seconds = 0.0
    config.evaluation.num_samples = config.evaluation.classifier_samples = 3
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder and summary of a run that trained, was evaluated and drawn."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run = experiments.Run(small_config("vampprior", 3), str(folder), hardware_options=GRAPH)
    run.train()
    summary = run.evaluate()
    run.draw()
    return folder, summary


# The run folder ------------------------------------------------------------------------------


def test_run_folder_has_everything(finished):
    folder, _ = finished
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "config.json",
        "command.txt",
        "metrics.csv",
        "model.keras",
        "evaluation.npz",
        "summary.json",
    } <= names
    assert {"checkpoints/epoch-00003.npz", "checkpoints/epoch-00002.npz"} <= names
    assert "checkpoints/epoch-00001.npz" not in names
    figures = {pathlib.Path(n).stem for n in names if n.startswith("figures/")}
    assert figures == {
        "samples", "reconstructions", "interpolations", "training_curves", "kl_per_unit",
        "pseudo_inputs", "pseudo_input_samples", "latent_pca", "active_units", "log_likelihood",
        "bound_decomposition", "graph",
    }  # fmt: skip
    assert not [n for n in names if n.endswith(".part") or "/." in n]


def test_summary_keeps_its_contract(finished):
    folder, summary = finished
    assert summary == json.loads((folder / "summary.json").read_text())
    contract = {
        "model", "dataset", "protocol", "seed", "epochs", "train_images_per_second",
        "test/log_likelihood", "test/log_likelihood_stderr", "test/eval_samples", "test/elbo",
        "test/log_px", "test/kl/z1", "test/active_units/z1",
    }  # fmt: skip
    assert contract <= set(summary)
    assert (summary["model"], summary["dataset"], summary["epochs"]) == ("vampprior", "digits", 3)
    assert summary["test/elbo"] == pytest.approx(
        summary["test/log_px"] - summary["test/kl/z1"], abs=1e-4
    )
    with np.load(folder / "evaluation.npz") as arrays:
        values = arrays["log_likelihood"]
    assert len(values) == summary["test/images"] == 300
    assert summary["test/log_likelihood"] == pytest.approx(values.mean())
    assert summary["test/log_likelihood_stderr"] == pytest.approx(values.std(ddof=1) / np.sqrt(300))


def test_both_classifiers_of_cagem_are_evaluated(tmp_path, capsys):
    config = small_config("cagem", 3)
    run = experiments.Run(config, str(tmp_path / "run"), hardware_options=GRAPH)
    run.train()
    summary = run.evaluate()
    test, seed = run.dataset.test, config.seed + experiments._TEST_STREAM
    p, q = (
        evaluation.classify(run.model, test.images, 3, seed, classifier=classifier)
        for classifier in ("p", "q")
    )
    errors = [100.0 * np.mean(np.argmax(each, -1) != test.labels) for each in (p, q)]
    assert errors[0] != errors[1]
    assert summary["test/error_percent"] == pytest.approx(errors[0])
    assert summary["test/error_percent_q"] == pytest.approx(errors[1])
    reporting.print_summary(summary)
    assert f"{summary['test/error_percent_q']:.2f}" in capsys.readouterr().out


@pytest.mark.parametrize(("model", "steps"), [("m1_svm", 3), ("m2", 2)])
def test_disjoint_labels_shorten_epochs_only_where_they_take_part_in_training(
    model, steps, tmp_path
):
    config = small_config(model, 1)
    config.labels.num_labels, config.labels.disjoint = 100, True
    run = experiments.Run(config, str(tmp_path / "run"), hardware_options=GRAPH)
    assert len(run.dataset.train.images) == 1297 and run.steps == steps  # of 400 images


def test_another_classifier_on_the_latents_is_another_evaluation(tmp_path):
    config, found = small_config("m1_svm", 1), []
    for classifier in ("svm", "label_spreading"):
        config.evaluation.latent_classifier = classifier
        run = experiments.Run(config, str(tmp_path / "run"), hardware_options=GRAPH)
        assert run.finished_summary is None
        if not run.has_trained:
            run.train()
        found.append(run.evaluate())
        assert run.finished_summary == found[-1]
    assert [s["test/classifier"] for s in found] == ["inductive svm", "label spreading"]
    assert found[0]["test/error_percent"] != found[1]["test/error_percent"]


def test_metrics_have_a_row_per_epoch_and_no_clock(finished):
    folder, _ = finished
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for name in ("bound", "log_px", "kl/z1", "beta", "learning_rate", "gradient_norm"):
        assert all(np.isfinite(float(row[name])) and float(row[name]) != 0 for row in rows), name
    assert "active_units/z1" in rows[0] and not [name for name in rows[0] if "second" in name]
    for row in rows:  # training means are those of training, not of validation
        assert float(row["bound"]) == pytest.approx(
            float(row["log_px"]) - float(row["kl/z1"]), abs=1e-3
        )


def test_saved_model_has_the_weights_that_were_evaluated(finished):
    folder, _ = finished
    model = keras.models.load_model(folder / "model.keras")
    run = experiments.Run(small_config("vampprior", 3), str(folder), hardware_options=GRAPH)
    x = run.dataset.test.images[:20]
    expected = evaluation.log_likelihood(run.model, x, 4, seed=1, jit_compile=False)
    np.testing.assert_array_equal(
        evaluation.log_likelihood(model, x, 4, seed=1, jit_compile=False), expected
    )


def test_tensorboard_has_scalars_and_pictures(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = finished
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {
        "bound/train", "bound/validation", "log_px/train", "kl/z1/train", "kl/z1/validation",
        "training/beta", "training/learning_rate", "training/gradient_norm", "active_units/z1",
        "samples", "reconstructions", "pseudo_inputs",
    } <= tags  # fmt: skip
    assert [event.step for event in events.Tensors("bound/train")] == [1, 2, 3]


def test_finished_run_is_known(finished):
    folder, summary = finished
    run = experiments.Run(small_config("vampprior", 3), str(folder), hardware_options=GRAPH)
    assert run.has_trained and run.finished_summary == summary
    for field in ("num_samples", "active_unit_samples", "likelihood_images"):
        with run.config.unlocked():
            before, run.config.evaluation[field] = run.config.evaluation[field], 7
        assert run.finished_summary is None, field
        run.config.evaluation[field] = before
    assert run.finished_summary == summary


def test_figures_of_a_finished_run_come_with_its_table(finished, monkeypatch, capsys):
    monkeypatch.setattr(experiments.Run, "draw", lambda run: ["a.png"])
    run_experiment.main(["x", "--mode=figures", f"--workdir={finished[0]}"])
    printed = capsys.readouterr().out
    assert printed.startswith("a.png\n") and "active units" in printed


def test_log_likelihood_of_a_part_is_an_estimate_for_all(finished, tmp_path):
    folder, whole = finished
    shutil.copytree(folder, tmp_path / "run")
    config = small_config("vampprior", 3)
    config.evaluation.likelihood_images = 50
    summary = experiments.Run(config, str(tmp_path / "run"), hardware_options=GRAPH).evaluate()
    with np.load(tmp_path / "run" / "evaluation.npz") as arrays:
        part = evaluation.fixed_part(300, 50)
        gap = arrays["log_likelihood"] - arrays["elbo"][part]
        assert summary["test/log_likelihood_of_part"] == pytest.approx(
            arrays["log_likelihood"].mean()
        )
    assert summary["test/likelihood_images"] == 50 and summary["test/images"] == 300
    assert summary["test/elbo"] == whole["test/elbo"]
    assert summary["test/log_likelihood"] == pytest.approx(summary["test/elbo"] + gap.mean())


def test_training_goes_on_after_an_evaluation_as_without_one(tmp_path):
    """The best weights, which an evaluation puts in, are not those of the last epoch."""

    def run_of(name, epochs):
        config = small_config("vae", epochs)
        config.training.patience, config.training.m1_epochs = 50, 1
        config.optimizer.learning_rate = 1.0
        return experiments.Run(config, str(tmp_path / name), hardware_options=GRAPH)

    whole = run_of("whole", 12)
    whole.train()
    bounds = [row["val_bound"] for row in whole.state.history]
    stop = next(n for n in range(2, 12) if max(bounds[:n]) > bounds[n - 1])
    run_of("stopped", stop).train()
    rest = run_of("stopped", 12)
    assert rest.state.best_epoch < rest.state.epoch == stop
    rest.evaluate()
    rest.evaluate()
    rest.train()
    assert rest.state.history == whole.state.history


def test_workdir_of_another_experiment_is_refused(finished):
    folder, _ = finished
    before = (folder / "config.json").read_bytes()
    config = small_config("vampprior", 3)
    config.optimizer.learning_rate = 0.5
    with pytest.raises(RunError, match=r"another experiment .*optimizer.learning_rate=0.001 there"):
        experiments.Run(config, str(folder), hardware_options=GRAPH)
    assert (folder / "config.json").read_bytes() == before


def test_a_folder_where_nothing_came_of_an_experiment_takes_another_one(tmp_path):
    config = small_config("vae", 1)
    config.optimizer.learning_rate = 1e38
    with pytest.raises(RunError, match="diverged .*--config.optimizer.global_clipnorm.$"):
        experiments.Run(config, str(tmp_path), hardware_options=GRAPH, command="first").train()
    assert configuration.from_json(str(tmp_path / "config.json")) == config
    of_the_first = set((tmp_path / "tensorboard").rglob("events*"))
    lower = small_config("vae", 1)
    experiments.Run(lower, str(tmp_path), hardware_options=GRAPH, command="second").train()
    assert configuration.from_json(str(tmp_path / "config.json")) == lower
    assert (tmp_path / "command.txt").read_text() == "second\n"
    events = set((tmp_path / "tensorboard").rglob("events*"))
    assert of_the_first and events and not events & of_the_first
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 2
    with pytest.raises(RunError, match="belongs to another experiment"):
        experiments.Run(config, str(tmp_path), hardware_options=GRAPH)


def test_published_numbers_are_those_of_now(finished, capsys):
    config = small_config("vampprior", 3)
    config.published.log_likelihood, config.published.source = -1.25, "Someone 2001"
    config.published.protocol = "3 samples: not comparable"
    run = experiments.Run(config, str(finished[0]), hardware_options=GRAPH)
    summary = run.finished_summary
    assert summary["published/log_likelihood"] == -1.25
    reporting.print_summary(summary)
    printed = "".join(capsys.readouterr().out.replace("│", "").split())
    assert "published(Someone2001)-1.25nats;3samples:notcomparable" in printed


def test_commit_is_that_of_a_checkout_alone(monkeypatch, tmp_path):
    assert experiments.commit()
    for command in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q",
                                     "--allow-empty", "-m", "a"]):  # fmt: skip
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    installed = tmp_path / "site-packages" / "experiments.py"
    installed.parent.mkdir()
    installed.touch()
    monkeypatch.setattr(experiments, "__file__", str(installed))
    assert experiments.commit() is None


@pytest.mark.parametrize("content", ["", "{}", "[1]"])
def test_a_run_to_start_from_has_a_summary(content, tmp_path):
    config = small_config("vae", 1)
    run = experiments.Run(config, str(tmp_path), hardware_options=GRAPH)
    run.train()
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(RunError, match="summary.json is not the summary of a run"):
        experiments.load_initial_weights(run.model, str(tmp_path))


@pytest.mark.parametrize("model", configuration.MODELS)
def test_every_model_runs(model, tmp_path):
    run = experiments.Run(small_config(model, 1), str(tmp_path / "run"), hardware_options=GRAPH)
    run.train()
    summary = run.evaluate()
    assert -100.0 < summary["test/elbo"] < summary["test/log_likelihood"] + 1.0 < 0.0
    assert run.draw()
    assert all(os.path.getsize(path) > 1000 for path in run.sample(4))


@pytest.mark.parametrize("model", ["m2", "m1_m2", "adgm", "sdgm", "cagem"])
def test_models_with_classes_train_without_labels(model, tmp_path):
    config = small_config(model, 1)
    config.labels.num_labels = 0
    run = experiments.Run(config, str(tmp_path / "run"), hardware_options=GRAPH)
    run.train()
    (row,) = run.state.history
    assert "cross_entropy" not in row and "error_percent" not in row
    terms = row["log_px"] - sum(value for name, value in row.items() if name.startswith("kl/"))
    assert -1e-3 < terms - row["bound"] < np.log(10.0)  # KL of y, of ten clusters
    summary = run.evaluate()
    assert -100.0 < summary["test/elbo"] < summary["test/log_likelihood"] + 1.0 < 0.0
    assert "test/error_percent" not in summary


# Going on after a stop -------------------------------------------------------------------------


def command(folder, *extra):
    return [
        sys.executable, str(ROOT / "run_experiment.py"), "--model=vampprior", f"--workdir={folder}",
        "--epochs=12", "--eval_samples=5", "--deterministic", "--config.training.patience=3",
        "--config.objective.warmup_epochs=4", "--config.training.checkpoint_seconds=0",
        "--config.model.num_components=10", *extra,
    ]  # fmt: skip


def test_killed_run_ends_as_an_uninterrupted_one(killed_and_continued):
    """kill -9 in the middle of training, then the same command: equal in every bit."""
    killed, *_ = killed_and_continued(command, 12)
    figures = {path.name for path in (killed / "figures").iterdir()}
    shutil.rmtree(killed / "figures")  # as if it had been killed before it drew them
    finished = subprocess.run(
        command(killed), check=True, capture_output=True, text=True, timeout=600
    )
    assert "This run is finished" in finished.stdout
    assert {path.name for path in (killed / "figures").iterdir()} == figures


def test_half_finished_run_can_be_evaluated_and_then_goes_on(tmp_path):
    folder = str(tmp_path / "run")

    class StopAfterTwo(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    run = experiments.Run(small_config("vae", 4), folder, hardware_options=GRAPH)
    fit = run.model.fit
    run.model.fit = lambda *a, callbacks, **k: fit(*a, callbacks=[*callbacks, StopAfterTwo()], **k)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    half = experiments.Run(small_config("vae", 4), folder, hardware_options=GRAPH)
    summary = half.evaluate()
    assert summary["epochs"] == 2 and summary["status"] == "stopped after 2 of 4 epochs"
    assert half.finished_summary is None
    rest = experiments.Run(small_config("vae", 4), folder, hardware_options=GRAPH)
    rest.train()
    assert rest.state.epoch == 4 and len(rest.state.history) == 4
    assert rest.finished_summary is None  # the summary is that of epoch 2
    assert rest.evaluate()["epochs"] == 4


def test_interrupted_evaluation_goes_on(tmp_path, monkeypatch, capsys):
    """No image is evaluated twice, whatever else is evaluated meanwhile, and the estimates are equal
    in every bit."""
    partial, whole = (tmp_path / name for name in ("evaluation.3.partial.npz", "evaluation.npz"))

    def make(num_samples=3):
        config = small_config("vae", 1)
        config.evaluation.num_samples = num_samples
        config.training.checkpoint_seconds = 0.0
        run = experiments.Run(config, str(tmp_path), hardware_options=GRAPH)
        monkeypatch.setattr(type(run.model), "rows_at_once", 60 * num_samples)  # 60 images a part
        return run

    run = make()
    run.train()
    run.evaluate()
    expected = dict(np.load(whole))
    assert len(expected["log_likelihood"]) == 300

    parts, started = evaluation.log_likelihood_parts, []

    def stopped_in_the_third(*arguments, start):
        started.append(start)
        for count, part in enumerate(parts(*arguments, start=start)):
            if count == 2:
                raise KeyboardInterrupt
            yield part

    monkeypatch.setattr(evaluation, "log_likelihood_parts", stopped_in_the_third)
    for num_samples in (3, 2, 3):  # of other numbers of samples, nothing is known
        with pytest.raises(KeyboardInterrupt):
            make(num_samples).evaluate()
    assert started == [0, 0, 120]
    with monkeypatch.context() as patch:
        patch.setattr(
            evaluation,
            "log_likelihood_parts",
            lambda *a, start: started.append(start) or parts(*a, start=start),
        )
        make(1).evaluate()  # a quick look
        whole.unlink()
        make().evaluate()
    assert started[3:] == [0, 240] and not partial.exists()
    for name, values in np.load(whole).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)

    with pytest.raises(KeyboardInterrupt):
        make().evaluate()
    partial.write_bytes(partial.read_bytes()[:-30])
    with pytest.raises(KeyboardInterrupt):
        make().evaluate()
    assert started[5:] == [0, 0]
    assert "evaluation.3.partial.npz is not readable" in capsys.readouterr().out
    config = small_config("vae", 1)
    config.training.epochs = 2
    experiments.Run(config, str(tmp_path), hardware_options=GRAPH).train()
    assert not list(tmp_path.glob("*.partial.npz"))  # of weights that are gone


def test_an_evaluation_that_is_not_finite_is_told(tmp_path):
    run = experiments.Run(small_config("vae", 1), str(tmp_path), hardware_options=GRAPH)
    run.train()
    run.model.set_weights([np.full_like(weight, np.nan) for weight in run.model.get_weights()])
    with pytest.raises(RunError, match="gave .* that is not finite, 300 of 300 numbers"):
        run.evaluate()
    assert not (tmp_path / "summary.json").exists()


def test_a_finished_run_without_checkpoints_is_not_begun_anew(tmp_path):
    config = small_config("vae", 1)
    experiments.Run(config, str(tmp_path), hardware_options=GRAPH).train()
    metrics = (tmp_path / "metrics.csv").read_bytes()
    shutil.rmtree(tmp_path / "checkpoints")
    run = experiments.Run(config, str(tmp_path), hardware_options=GRAPH)
    for action in (run.train, run.require_checkpoint):
        with pytest.raises(RunError, match="has a model.keras, but no readable checkpoint"):
            action()
    assert (tmp_path / "metrics.csv").read_bytes() == metrics


def test_figures_are_of_one_state(tmp_path, monkeypatch, capsys):
    """A kill between two figures is mended, and an evaluation of older weights is not shown."""
    config = small_config("vae", 1)
    run = experiments.Run(config, str(tmp_path), hardware_options=GRAPH)
    run.train()
    run.evaluate()
    save, saved = experiments.plotting.save, []

    def stopped_after_two(figure, path):
        if len(saved) == 2:
            raise KeyboardInterrupt
        save(figure, path)
        saved.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(experiments.plotting, "save", stopped_after_two)
        with pytest.raises(KeyboardInterrupt):
            run.draw()
    assert not run.has_figures
    whole = run.draw()
    assert run.has_figures and len(whole) > 2 and "log_likelihood.png" in " ".join(whole)
    assert "have not been evaluated" not in capsys.readouterr().out
    config.training.epochs = 2
    longer = experiments.Run(config, str(tmp_path), hardware_options=GRAPH)
    longer.train()
    names = [os.path.basename(path)[:-4] for path in longer.draw()]
    assert "these weights have not been evaluated" in capsys.readouterr().out
    of_evaluation = {os.path.basename(path)[:-4] for path in whole} - set(names)
    assert "log_likelihood" in of_evaluation <= set(figures.OF_EVALUATION)
    assert sorted(os.listdir(tmp_path / "figures")) == sorted(f"{name}.png" for name in names)


def test_looking_at_a_run_leaves_its_configuration_alone(tmp_path):
    run = experiments.Run(small_config("vae", 1), str(tmp_path), hardware_options=GRAPH)
    run.train()
    before = {name: (tmp_path / name).read_text() for name in ("config.json", "command.txt")}
    config = small_config("vae", 1)
    config.training.epochs = 7
    experiments.Run(config, str(tmp_path), hardware_options=GRAPH, command="another").evaluate()
    for name, text in before.items():
        assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize("content", ["{", "{}", "[1]"])
def test_a_summary_that_is_not_one_is_written_anew(content, tmp_path, capsys):
    run = experiments.Run(small_config("vae", 1), str(tmp_path), hardware_options=GRAPH)
    run.train()
    (tmp_path / "summary.json").write_text(content)
    assert run.finished_summary is None
    assert "summary.json is not the summary of a run" in capsys.readouterr().out


def test_more_epochs_go_on_with_a_finished_run(tmp_path):
    folder = str(tmp_path / "run")

    def make(epochs, folder=folder, schedule="constant"):
        config = small_config("vae", epochs)
        config.optimizer.schedule, config.training.m1_epochs = schedule, 2
        return experiments.Run(config, folder, hardware_options=GRAPH)

    run = make(2)
    run.train()
    run.evaluate()
    with pytest.raises(RunError, match="training.epochs=2 there, 1 here"):
        make(1)
    longer = make(4)
    assert longer.state.epoch == 2 and not longer.has_trained
    longer.train()
    assert longer.evaluate()["status"] == "trained to the last epoch"
    assert make(4).finished_summary["epochs"] == 4
    at_once = make(4, str(tmp_path / "at_once"))
    at_once.train()
    for ours, theirs in zip(longer.model.get_weights(), at_once.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    make(2, str(tmp_path / "cosine"), "cosine").train()
    with pytest.raises(RunError, match="training.epochs=2 there, 4 here"):
        make(4, str(tmp_path / "cosine"), "cosine")


def test_fewer_epochs_than_planned_go_on_with_an_unfinished_run(tmp_path, monkeypatch):
    def make(epochs, folder="run"):
        config = small_config("vae", 1)
        config.training.epochs = epochs
        return experiments.Run(config, str(tmp_path / folder), hardware_options=GRAPH)

    make(1).train()
    killed = make(4)

    def kill(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(killed.model), "fit", kill)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    monkeypatch.undo()
    shorter = make(2)
    assert shorter.state.epoch == 1 and not shorter.has_trained
    shorter.train()
    assert shorter.has_trained and make(2).has_trained
    at_once = make(2, "at_once")
    at_once.train()
    for ours, theirs in zip(shorter.model.get_weights(), at_once.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    with pytest.raises(RunError, match="training.epochs=2 there, 1 here"):
        make(1)
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # what has ended stays
    with pytest.raises(RunError, match="training.epochs=2 there, 1 here"):
        make(1)


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    config = small_config("vae", 1)
    run = experiments.Run(config, str(tmp_path), hardware_options=GRAPH)
    theirs = configuration.to_json(small_config("hvae", 1))
    (tmp_path / "config.json").write_text(theirs)  # of a process without a checkpoint yet
    with open(tmp_path / "lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process is training in"):
            run.train()
    assert (tmp_path / "config.json").read_text() == theirs
    run.train()
    assert (tmp_path / "config.json").read_text() == configuration.to_json(config)
    assert run.has_trained


def test_what_a_kill_left_half_written_goes(tmp_path):
    run = experiments.Run(small_config("vae", 1), str(tmp_path), hardware_options=GRAPH)
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.out.tfevents.1").touch()  # of no experiment of ours
    (tmp_path / "checkpoints").mkdir()
    left = [tmp_path / ".0123abcd.model.keras", tmp_path / "checkpoints/.89abcdef.epoch-00001.npz"]
    kept = [tmp_path / ".gitignore", tmp_path / "mine.0123abcd.txt"]
    for path in (*left, *kept):
        path.write_text("half")
        os.utime(path, (0, 0))
    being_written = tmp_path / ".76543210.evaluation.partial.npz"  # by another process
    being_written.write_text("half")
    run.train()
    assert being_written.exists() and (tmp_path / "tensorboard" / "events.out.tfevents.1").exists()
    assert not any(path.exists() for path in left) and all(path.exists() for path in kept)


def test_a_half_written_figure_is_no_part_of_a_record(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    (run / "figures" / ".0123abcd.samples.png").write_text("half")
    target = pathlib.Path(results.add(str(run), str(tmp_path / "results")))
    names = {path.name for path in (target / "figures").iterdir()}
    assert "samples.png" in names and ".0123abcd.samples.png" not in names


def test_a_longer_run_has_no_model_of_fewer_epochs(tmp_path, monkeypatch):
    first = str(tmp_path / "first")
    experiments.Run(small_config(epochs=1), first, hardware_options=GRAPH).train()
    two_epochs = small_config(epochs=1)
    two_epochs.training.epochs = 2
    longer = experiments.Run(two_epochs, first, hardware_options=GRAPH)

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(longer.model), "save", killed)
    with pytest.raises(KeyboardInterrupt):
        longer.train()
    monkeypatch.undo()
    config = small_config(epochs=1)
    config.training.initial_run = first
    with pytest.raises(RunError, match="no model.keras"):
        experiments.Run(config, str(tmp_path / "second"), hardware_options=GRAPH)
    experiments.Run(two_epochs, first, hardware_options=GRAPH).train()
    second = experiments.Run(config, str(tmp_path / "second"), hardware_options=GRAPH)
    for theirs, ours in zip(longer.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(theirs, ours)


def test_a_test_set_of_one_image_has_no_standard_error(tmp_path):
    digits = data.load("digits")
    one = data.Split(digits.test.images[:1], digits.test.labels[:1])
    config = small_config("m2", 1)
    config.labels.num_labels = 20
    dataset = dataclasses.replace(digits, test=one)
    run = experiments.Run(config, str(tmp_path), hardware_options=GRAPH, dataset=dataset)
    run.train()
    summary = run.evaluate()
    assert summary["test/error_percent_stderr"] is None
    assert summary["test/log_likelihood_stderr"] is None
    reporting.print_summary(summary)
    assert {"samples", "analogies"} <= {pathlib.Path(path).stem for path in run.draw()}
    with np.load(run.sample(4)[0]) as archive:
        assert archive["y"].shape == (4,)


def test_a_batch_of_one_image_is_refused_of_a_normalised_model(tmp_path):
    config = small_config("deep_vae")
    config.model.batch_normalization, config.training.batch_size = "all", 1
    with pytest.raises(RunError, match="two images or more in a batch .training.batch_size."):
        experiments.Run(config, str(tmp_path), hardware_options=GRAPH)


def test_unreadable_checkpoint_is_passed_over(tmp_path):
    folder = tmp_path / "run"
    run = experiments.Run(small_config("vae", 3), str(folder), hardware_options=GRAPH)
    run.train()
    newest = folder / "checkpoints" / "epoch-00003.npz"
    newest.write_bytes(newest.read_bytes()[:-5000])
    warnings = []
    state = training.Checkpoints(str(folder / "checkpoints"), warn=warnings.append).restore(
        run.model
    )
    assert state.epoch == 2 and "epoch-00003.npz is not readable" in warnings[0]


def test_every_damaged_bit_is_found(tmp_path):
    """Whatever bit of the archive's directory is flipped, the checkpoint is read or passed over."""
    run = experiments.Run(small_config("vae", 1), str(tmp_path), hardware_options=GRAPH)
    run.train()
    checkpoints = training.Checkpoints(str(tmp_path / "checkpoints"), warn=lambda text: None)
    path = pathlib.Path(checkpoints.paths()[0])
    content = path.read_bytes()
    directory = content.index(b"PK\x01\x02")  # of the first array
    found = set()
    for bit in range(8 * 46):
        damaged = bytearray(content)
        damaged[directory + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        state = checkpoints.state()
        found.add(None if state is None else state.epoch)
    assert found == {None, 1}


@pytest.mark.parametrize("kept_bytes", [0, 5000])
def test_a_run_without_a_readable_checkpoint_keeps_those_that_it_writes(tmp_path, kept_bytes):
    folder, warnings = tmp_path / "run", []
    run = experiments.Run(small_config("vae", 3), str(folder), hardware_options=GRAPH)
    run.train()
    checkpoints = training.Checkpoints(str(folder / "checkpoints"), warn=warnings.append)
    for path in checkpoints.paths():
        pathlib.Path(path).write_bytes(pathlib.Path(path).read_bytes()[:kept_bytes])
    assert checkpoints.restore(run.model) is None
    assert "trying the one before it" in warnings[0] and "starting over" in warnings[1]
    state = training.RunState()
    state.epoch = 1
    checkpoints.save(run.model, state)
    assert [os.path.basename(path) for path in checkpoints.paths()][0] == "epoch-00001.npz"
    assert checkpoints.restore(run.model).epoch == 1


def test_other_files_beside_checkpoints_are_left_alone(tmp_path):
    run = experiments.Run(small_config("vae", 1), str(tmp_path), hardware_options=GRAPH)
    run.train()
    backup = tmp_path / "checkpoints" / "epoch-00001-best.npz"
    backup.write_text("mine")
    checkpoints = training.Checkpoints(str(tmp_path / "checkpoints"))
    assert checkpoints.newest_epoch() == 1 and checkpoints.state().epoch == 1
    for run.state.epoch in (2, 3, 4):
        checkpoints.save(run.model, run.state)
    assert backup.read_text() == "mine" and len(checkpoints.paths()) == 2


def test_disk_that_fills_up_during_a_checkpoint_loses_nothing(tmp_path):
    """A real write that stops in the middle: the kernel refuses files above a size."""
    run = experiments.Run(small_config("vae", 1), str(tmp_path / "run"), hardware_options=GRAPH)
    run.train()
    checkpoints = run.checkpoints
    before = {path: pathlib.Path(path).read_bytes() for path in checkpoints.paths()}
    run.state.epoch = 2
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(RunError, match="could not write .*the checkpoint of epoch 1 is whole"):
            checkpoints.save(run.model, run.state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {path: pathlib.Path(path).read_bytes() for path in checkpoints.paths()} == before
    assert os.listdir(checkpoints.folder) == [os.path.basename(path) for path in before]
    assert checkpoints.restore(run.model).epoch == 1
    checkpoints.save(run.model, run.state)
    assert checkpoints.newest_epoch() == 2


def test_full_disk_is_named(tmp_path, monkeypatch):
    run = experiments.Run(small_config("vae", 1), str(tmp_path / "run"), hardware_options=GRAPH)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(RunError, match="No space left on device; there is no earlier checkpoint"):
        run.train()


def test_a_full_disk_has_a_path(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*samples.npz'"):
        with files.atomic_path(tmp_path / "samples.npz"):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert not os.listdir(tmp_path)


def test_full_disk_of_event_files_is_one_line(tmp_path, monkeypatch):
    run = experiments.Run(small_config("vae", 1), str(tmp_path / "run"), hardware_options=GRAPH)

    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.summary, "scalar", full)
    with pytest.raises(RunError, match="cannot write to .*tensorboard: No space left on device"):
        run.train()
    assert run.checkpoints.restore(run.model).epoch == 1


# Training --------------------------------------------------------------------------------------


def test_divergence_names_step_term_and_checkpoint(tmp_path):
    config = small_config("vae", 5)
    config.optimizer.learning_rate = 1e38
    run = experiments.Run(config, str(tmp_path / "run"), hardware_options=GRAPH)
    with pytest.raises(
        RunError, match=r"diverged at step 1 \(epoch 1\): not finite: .*bound.*no checkpoint yet"
    ):
        run.train()
    assert not run.checkpoints.paths()
    config.optimizer.normalize_gradients = True  # beside which no limit of the norm is taken
    run = experiments.Run(config, str(tmp_path / "normalized"), hardware_options=GRAPH)
    with pytest.raises(RunError, match="Try a lower --config.optimizer.learning_rate.$"):
        run.train()


def test_early_stopping_counts_after_warm_up_and_keeps_the_best():
    class Weights:
        weights = []
        stop_training = False

    recorder = training.Recorder(training.RunState(), None, "", patience=2, warmup_epochs=4)
    recorder.set_model(Weights())
    stops = []
    bounds = (-5.0, -6.0, -6.0, -6.0, -6.0, -4.0, -4.5, -4.6, -4.7)
    for epoch, bound in enumerate(bounds, start=1):
        recorder.state.epoch = epoch
        Weights.weights = [np.float32(epoch)]
        recorder._look_ahead(bound)
        stops.append(recorder.model.stop_training)
    # worse in epochs 2 to 4, within the warm-up: no count; 5, the first at beta = 1, is; 6 is
    # better; 7 and 8
    assert stops.index(True) == 7
    assert recorder.state.best_epoch == 6 and recorder.state.best_weights == [6.0]


def test_exponential_warm_up_counts_until_beta_is_nearly_one():
    config = configuration.base_config("vae", "digits").objective
    assert experiments.warmup_epochs(config, steps=10) == 0
    config.exponential_warmup_steps = 200
    epochs = experiments.warmup_epochs(config, steps=10)
    beta = experiments.make_objective(config, steps=10, num_images=100).beta
    assert [bool(beta(10 * n - 1) >= 0.99) for n in (epochs - 1, epochs)] == [False, True]
    config.exponential_warmup_steps, config.warmup_epochs = 0, 7
    assert experiments.warmup_epochs(config, steps=10) == 7


def digits_by_row():
    """The digits with other images: only the first row of pixels has ink in training, only the
    second in validation, only the third in the test set."""
    digits, rng = data.load("digits"), np.random.default_rng(0)

    def inked(part, row):
        images = np.zeros_like(part.images)
        images[:, row] = rng.uniform(size=images[:, row].shape)
        return dataclasses.replace(part, images=images)

    return dataclasses.replace(
        digits,
        train=inked(digits.train, 0),
        validation=inked(digits.validation, 1),
        test=inked(digits.test, 2),
    )


@pytest.mark.parametrize(("model", "disjoint"), [("vae", False), ("adgm", False), ("adgm", True)])
def test_training_sees_the_training_images_and_is_judged_by_the_validation_images(
    model, disjoint, tmp_path, monkeypatch
):
    config, dataset = small_config(model), digits_by_row()
    config.labels.disjoint = disjoint
    config.training.patience, config.objective.warmup_epochs = 7, 5
    run = experiments.Run(config, str(tmp_path / "run"), hardware_options=GRAPH, dataset=dataset)
    fitted, recalibrated = {}, []
    monkeypatch.setattr(run.model, "fit", lambda x, **options: fitted.update(options, x=x))
    monkeypatch.setattr(
        training,
        "recalibrate",
        lambda model, images, binarization, **_: recalibrated.append((images, binarization)),
    )
    run.train()

    for batch in fitted["x"].take(2 * run.steps):
        if model == "adgm":
            (labelled, y), x = batch
            np.testing.assert_array_equal(y, dataset.train.labels[run.labelled])
        else:
            labelled = x = batch
        for images in (labelled.numpy(), x.numpy()):
            assert set(np.unique(images)) == {0.0, 1.0}  # binarised
            assert np.flatnonzero(images.any((0, 2, 3))).tolist() == [0]
    held_out = list(fitted["validation_data"])
    if model == "adgm":
        np.testing.assert_array_equal(
            np.concatenate([labels for _, labels in held_out]), dataset.validation.labels
        )
        held_out = [images for images, _ in held_out]
    np.testing.assert_array_equal(np.concatenate(held_out), dataset.validation.images)
    recorder = fitted["callbacks"][0]
    assert (recorder.held_out, recorder.patience, recorder.warmup_epochs) == ("validation", 7, 5)
    assert len(recalibrated) == (model == "adgm")  # which has batch normalisation
    for images, binarization in recalibrated:
        left_out = run.labelled if disjoint else []
        np.testing.assert_array_equal(images, np.delete(dataset.train.images, left_out, 0))
        assert binarization == dataset.binarization == "per_batch"


def test_weights_of_the_best_epoch_are_used_and_saved(tmp_path):
    config = small_config("vae", 50)
    config.training.patience = 2
    config.optimizer.learning_rate = 1.0  # the validation bound soon falls
    run = experiments.Run(config, str(tmp_path), hardware_options=GRAPH)
    fit, after = run.model.fit, []  # weights after each epoch

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            after.append(self.model.get_weights())

    run.model.fit = lambda *a, callbacks, **k: fit(*a, callbacks=[*callbacks, Keep()], **k)
    run.train()
    assert run.state.stopped_early and run.state.best_epoch == len(after) - 2
    best, last = after[run.state.best_epoch - 1], after[-1]
    assert all(np.any(a != b) for a, b in zip(best, last))
    saved = keras.models.load_model(tmp_path / "model.keras")
    for found in (run.model.get_weights(), saved.get_weights()):
        for value, expected in zip(found, best, strict=True):
            np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_samples": 3, "num_importance": 2},
        {"kl": "analytic", "free_bits": 0.5},
        {"class_warmup": True},
        {"weight_prior_std": 0.5},
        {"gradient": "sticking_the_landing"},
        {"gradient": "doubly_reparameterized", "num_importance": 2},
    ],
    ids=lambda settings: "-".join(settings) or "defaults",
)
def test_objective_has_the_settings_of_the_configuration(settings):
    config = configuration.base_config("m2", "digits").objective
    config.update(settings)
    expected = dict(settings)
    if expected.pop("weight_prior_std", None):
        expected["weight_decay"] = 0.04  # 1 / (100 images 0.5²)
    assert experiments.make_objective(config, 10, num_images=100) == Objective(**expected)
    if "gradient" not in settings:
        found = experiments.make_objective(config, 10, num_images=100, alpha=3.0)
        assert found == SemiSupervisedObjective(**expected, alpha=3.0)


@pytest.mark.parametrize(
    "settings, betas",
    [
        ({"warmup_epochs": 4}, {0: 0.0, 9: 0.0, 10: 0.25, 39: 0.75, 40: 1.0}),
        ({"warmup_epochs": 4, "warmup_start": 0.2}, {0: 0.2, 10: 0.4, 40: 1.0}),
        ({"warmup_epochs": 4, "warmup_per": "step"}, {0: 0.0, 1: 0.025, 40: 1.0}),
        ({"exponential_warmup_steps": 5}, {0: 1.0 - np.exp(-0.2), 4: 1.0 - np.exp(-1.0)}),
    ],
    ids=["by epoch", "from 0.2", "by step", "exponential"],
)
def test_beta_follows_the_warm_up_of_the_configuration(settings, betas):
    """`betas` by update, 10 of them an epoch."""
    config = configuration.base_config("vae", "digits").objective
    config.update(settings)
    beta = experiments.make_objective(config, 10, num_images=100).beta
    found = [float(beta(tf.constant(step, tf.int64))) for step in betas]
    np.testing.assert_allclose(found, list(betas.values()), rtol=1e-6)


def test_objective_and_optimizer_know_the_images_and_updates_of_the_run(tmp_path):
    config = small_config("m2", epochs=2)
    config.labels.num_labels, config.labels.weight = 50, 0.3
    config.objective.weight_prior_std, config.objective.warmup_epochs = 2.0, 4
    config.optimizer.schedule, config.optimizer.learning_rate = "cosine", 0.1
    run = experiments.Run(config, str(tmp_path), hardware_options=GRAPH)
    objective, optimizer = run.model.objective, run.model.optimizer
    assert objective.alpha == pytest.approx(0.3 * 1297 / 50)
    assert objective.weight_decay == pytest.approx(1.0 / (1297 * 2.0**2))
    assert [float(objective.beta(step)) for step in (2, 3, 12)] == [0.0, 0.25, 1.0]
    rates = []
    for step in (0, 3, 6):  # 3 updates an epoch
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    np.testing.assert_allclose(rates, [0.1, 0.05, 0.0], atol=1e-7)


@pytest.mark.parametrize("start", configuration.PSEUDO_INPUTS)
def test_pseudo_inputs_begin_as_the_configuration_says(start, tmp_path):
    config = small_config("vampprior")
    config.model.pseudo_inputs, config.model.pseudo_input_init = start, (0.3, 0.02)
    run = experiments.Run(config, str(tmp_path), hardware_options=GRAPH)
    pseudo_inputs = run.model.prior.raw_pseudo_inputs.numpy()
    if start == "random":
        assert pseudo_inputs.mean() == pytest.approx(0.3, abs=0.01)
        assert pseudo_inputs.std() == pytest.approx(0.02, rel=0.3)
    else:
        distances = np.abs(pseudo_inputs[:, np.newaxis] - run.dataset.train.images).max((2, 3, 4))
        assert np.all(distances.min(1) > 0.0) and np.all(distances.min(1) < 0.06)  # noise of 0.01
        assert len(set(distances.argmin(1))) == config.model.num_components


def test_normalized_gradients_ignore_their_length():
    weights = [keras.Variable(np.ones(3, np.float32)) for _ in range(2)]
    for variable, factor in zip(weights, (1.0, 1000.0)):
        optimizer = training.NormalizedGradientAdam(0.1)
        for gradient in ([3.0, 0.0, 4.0], [0.0, 1.0, 0.0]):
            optimizer.apply([factor * np.array(gradient, np.float32)], [variable])
    np.testing.assert_allclose(weights[0].numpy(), weights[1].numpy(), rtol=1e-5)
    plain, unit = (keras.Variable(np.ones(3, np.float32)) for _ in range(2))
    adam = keras.optimizers.Adam(0.1)
    adam.apply([np.array([0.6, 0.0, 0.8], np.float32)], [plain])
    training.NormalizedGradientAdam(0.1).apply([np.array([3.0, 0.0, 4.0], np.float32)], [unit])
    np.testing.assert_allclose(plain.numpy(), unit.numpy(), rtol=1e-6)


def test_pictures_are_drawn_ever_more_rarely():
    epochs = [e for e in range(1, 1001) if training.is_picture_epoch(e)]
    assert epochs == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]


# Mistakes on the command line --------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model=vea"], "expected a model among: vae, iwae, vampprior"),
        (["--dataset=minst"], "expected a dataset among: digits, dynamic_mnist"),
        (["--config.objective.num_importanc=3"], "there is no field config.objective.num_imp"),
        (["--config.optimiser.learning_rate=3"], "there is no field config.optimiser"),
        (["--config.objective.num_importance=x"], "invalid literal for int"),
        (["--config.objective.gradient=dreg"], "'doubly_reparameterized'"),
        (["--config.model.prior=vamp"], "'vampprior'"),
        (["--config.optimizer.schedule=linear"], "expected a schedule among: constant, step"),
        (["--config=configs/paper/vea.py"], "there is no configuration configs/paper/vea.py"),
        (["--config=configs/vae.py", "--model=hvae"], "is for the model 'vae'"),
        (["--mode=draw"], "value should be one of <train|evaluate|figures|sample>"),
        (["--epoch=3"], "Unknown command line flag 'epoch'"),
        (["vae"], "expected flags such as --model=vae. Received: vae"),
        (["-config.training.patienc=0"], "there is no field config.training.patienc"),
        (["--noconfig.training.histogram"], "there is no field config.training.histogram"),
        (["--config.model.hidden_units[0]=3"], "there is no field config.model.hidden_units[0]"),
        (["--config.seed=1", "--config.seed=2"], "expected config.seed once. Received: 2 times"),
        (["--seed=1", "--config.seed=2"], "expected either --seed or --config.seed, received bo"),
        (["--label_seed=3"], "expected --num_labels beside --label_seed=3"),
        (["--num_images=0"], "expected --num_images of at least 1"),
        (["--config=README.md"], "expected README.md to be a Python file"),
        (["--config.optimizer.beta_1=1.5"], "expected optimizer.beta_1 from 0 to 1"),
        (["--config.optimizer.global_clipnorm=-1"], "expected a positive optimizer.global_clip"),
        (["--config.evaluation.likelihood_images=0"], "a positive evaluation.likelihood_images"),
        (["--config.model.pseudo_input_init=(0.0, 1.0, 2.0)"], "a mean and a standard deviation"),
        (
            ["--dataset=half_moons", "--config.training.patience=0"],
            "data between 0 and 1, as the p",
        ),
        (["--epochs=0"], "expected training.epochs to be at least 1"),
        (["--batch_size=100000"], "expected a batch_size of at most 1297"),
        (["--eval_samples=0"], "expected evaluation.num_samples to be at least 1"),
        (["--seed=-1"], "expected a seed from 0"),
        (["--config.model.num_components=2000"], "expected model.num_components of at most 1297"),
        (["--device=gpu:7"], "expected a device among: cpu"),
        (["--distribute=multi_worker"], "TF_CONFIG"),
        (["--dataset=frey_faces"], "frey_rawface.mat"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    workdir = tmp_path / "run"
    with pytest.raises((RunError, run_experiment.DataError)) as caught:
        run_experiment.main(["run_experiment.py", f"--workdir={workdir}", *arguments])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value).strip()
    assert not workdir.exists()


def test_unwritable_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    run = experiments.Run(small_config(), str(tmp_path / "file" / "run"), hardware_options=GRAPH)
    with pytest.raises(RunError, match="cannot write to the workdir"):
        run.train()


def test_nothing_to_show_before_training(tmp_path):
    with pytest.raises(RunError, match="is not the folder of a run"):
        run_experiment.main(["x", "--mode=evaluate", f"--workdir={tmp_path}"])
    (tmp_path / "config.json").write_text(configuration.to_json(small_config()))
    with pytest.raises(RunError, match="has no checkpoint yet"):
        run_experiment.main(["x", "--mode=figures", f"--workdir={tmp_path}"])


def test_early_stopping_needs_validation_images(data_dir, tmp_path):
    config = small_config()
    config.dataset.name = "dynamic_mnist"
    config.dataset.split = "60k_10k"
    config.training.patience = 5
    with pytest.raises(RunError, match="early stopping needs validation images"):
        experiments.Run(config, str(tmp_path), str(data_dir), GRAPH)


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("m1_svm", {"num_labels": 10}, "num_labels of at least 20, two of every class.*spreading"),
        ("adgm", {"batch_size": 1}, r"two labelled images or more.*labels.batch_size.*ceived: 1"),
    ],
)
def test_labels_that_nothing_can_be_learned_from_are_refused(model, settings, message, tmp_path):
    config = small_config(model)
    for field, value in settings.items():
        config.labels[field] = value
    with pytest.raises(RunError, match=message):
        experiments.Run(config, str(tmp_path / "run"), hardware_options=GRAPH)
    assert not (tmp_path / "run").exists()


def test_float32_is_not_tensorfloat(tmp_path):
    tf.config.experimental.enable_tensor_float_32_execution(True)
    experiments.Run(small_config(), str(tmp_path / "run"), hardware_options=GRAPH)
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_mistake_at_the_shell_is_one_line():
    result = subprocess.run(
        [sys.executable, str(ROOT / "run_experiment.py"), "--model=vea"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_help_is_quick_and_complete():
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "run_experiment.py"), "--help"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert time.monotonic() - started < 10.0  # 0.3 s on an idle machine
    assert "tensorflow" not in result.stderr
    for name in (*configuration.MODELS, "dynamic_mnist", "--eval_samples", "--config.seed=0"):
        assert name in result.stdout


def test_help_names_the_choices_that_the_code_takes():
    from tfhvae import objectives
    from tfhvae.layers import autoregressive
    from tfhvae.models import (
        deep,
        feature_map,
        gaussian_hierarchy,
        parts,
        semi_supervised,
        variational_ladder,
    )

    choices = configuration.CHOICES
    for field, values in {
        "model.prior": parts.PRIORS,
        "model.batch_normalization": parts.BATCH_NORMALIZATION,
        "model.label_inference": semi_supervised.LABEL_INFERENCE,
        "model.density": parts.FIXED_DENSITIES,
        "model.output_mean": parts.OUTPUT_MEANS,
        "model.top_down": deep.TOP_DOWN,
        "model.upward": deep.UPWARD,
        "model.merge": variational_ladder.MERGES,
        "model.ladders": variational_ladder.LADDERS,
        "model.decoder": feature_map.DECODERS,
        "model.kind": autoregressive.BLOCKS,
        "objective.kl": objectives.KL_ESTIMATES,
        "objective.gradient": objectives.GRADIENTS,
    }.items():
        assert choices[field] == values
    config = configuration.base_config("vae", "digits")
    assert "--config.objective.kl=sampled    (one of: sampled, analytic)" in (
        run_experiment.help_text(config)
    )
    for model, module in (("vlae", variational_ladder), ("gaussian_hvae", gaussian_hierarchy)):
        config = configuration.base_config(model, "small_norb")
        choices = configuration.choices(config)
        assert choices["model.trunk"] == module.TRUNKS
        assert choices["dataset.cameras"] == ("left", "both")
        assert "--config.dataset.split=None    (one of: 24k_24k, 22k_2k_24k)" in (
            run_experiment.help_text(config)
        )


def test_command_that_repeats_a_run_has_no_folders_of_this_machine():
    typed = "x --mode=train --model=vae --data_dir=/a --workdir /b --seed 3 --jit_compile".split()
    assert (
        run_experiment.repeat(typed)
        == "python run_experiment.py --model=vae --data_dir=DIR --seed 3 --jit_compile"
    )


def test_shorthands_and_overrides_reach_the_configuration():
    config, argv = run_experiment.configuration_of(
        ["x", "--model", "hvae", "--epochs=7", "--config.model.latent_dims=(5, 6)", "--seed=3"]
    )
    run_experiment.parse(argv, config)
    assert (config.model.name, config.training.epochs, config.seed) == ("hvae", 7, 3)
    assert config.model.latent_dims == (5, 6)


def test_every_experiment_has_a_folder_of_its_own(finished):
    def folder(*arguments):
        typed = ["x", *arguments]
        config, argv = run_experiment.configuration_of(typed)
        base = copy.deepcopy(config)
        run_experiment.parse(argv, config)
        return run_experiment.default_workdir(typed, config, base)

    paper = f"--config={ROOT}/configs/paper/deep_mnist.py:ladder_vae-5"
    assert folder("--model=hvae", "--seed=3") == "runs/hvae-digits-seed3"
    assert folder("--model=hvae") == folder("--model=hvae", "--epochs=7", "--eval_samples=9")
    assert folder("--model=hvae", "--dataset=dynamic_mnist") == "runs/hvae-dynamic_mnist-seed0"
    assert folder("--model=hvae", "--config.model.latent_dims=(5, 6)", "--batch_size=9") == (
        "runs/hvae-digits-seed0-model.latent_dims=5-6-training.batch_size=9"
    )
    assert folder(paper) == "runs/deep_mnist-ladder_vae-5-seed0"
    assert folder(paper, "--dataset=omniglot").endswith("5-seed0-dataset.name=omniglot")
    initial = str(finished[0])
    tuned = folder(f"--initial_run={initial}", "--config.objective.num_importance=2")
    assert tuned == "runs/run-finetuned-objective.num_importance=2"
    assert folder(f"--initial_run={initial}", "--model=vae") == "runs/vae-digits-seed0-finetuned"
    many = [f"--config.published.source={'a/' * 90}", f"--config.dataset.split={'b/' * 120}"]
    assert "/" not in folder("--model=hvae", *many)[5:] and len(folder("--model=hvae", *many)) < 200


def test_a_flag_without_a_value_is_told():
    for arguments in (["--config"], ["--workdir="], ["--model", "--epochs=3"]):
        with pytest.raises(RunError, match=r"expected a value, --\w+=VALUE"):
            run_experiment.configuration_of(["x", *arguments])
    with pytest.raises(RunError, match="expected a folder, --data_dir=DIR"):
        run_experiment.main(["x", "--model=vae", "--data_dir="])


def test_a_published_number_is_of_the_data_it_was_published_for():
    def published(*arguments):
        config, argv = run_experiment.configuration_of(
            ["x", f"--config={ROOT}/configs/paper/vae_static_mnist.py", *arguments]
        )
        run_experiment.parse(argv, config)
        return config.published.log_likelihood, config.published.source

    theirs = (-88.56, "Tomczak & Welling 2018")
    assert published() == published("--epochs=3", "--config.model.latent_dim=8") == theirs
    assert published("--dataset=frey_faces") == published("--config.dataset.split=60k_10k")
    assert published("--dataset=frey_faces") == (None, "")
    assert published("--config.model.prior=mixture") == (None, "")
    named = ["--dataset=dynamic_mnist", "--config.published.log_likelihood=-84.5"]
    assert published(*named) == (-84.5, "Tomczak & Welling 2018")


def test_fields_that_may_be_none_can_be_set_to_it():
    config, argv = run_experiment.configuration_of(
        ["x", f"--config={ROOT}/configs/paper/vae_dynamic_mnist.py"]
        + ["--config.model.logit_limit=None", "--noconfig.training.test_curve"]
    )
    assert config.model.logit_limit > 0
    run_experiment.parse(argv, config)
    assert config.model.logit_limit is None and config.training.test_curve is False


def test_a_command_line_can_be_pasted():
    typed = ["x", "--config.model.hidden_units=(200, 200)"]
    assert shlex.split(run_experiment.repeat(typed))[2:] == typed[1:]


def test_marked_labels_are_those_of_the_data_set(tmp_path):
    config = configuration.load(str(ROOT / "configs/paper/half_moons.py"))
    run = experiments.Run(config, str(tmp_path / "a"))
    np.testing.assert_array_equal(run.labelled, run.dataset.marked)
    config.labels.num_labels = 8
    with pytest.raises(RunError, match="num_labels of 6, .* half_moons marks. Received: 8"):
        experiments.Run(config, str(tmp_path / "b"))
    config.labels.choice = "nearest"
    with pytest.raises(RunError, match="labels.choice among: random, marked"):
        configuration.check(config)
    config = configuration.base_config("m2", "digits")
    config.labels.update(num_labels=10, choice="marked")
    with pytest.raises(RunError, match="num_labels of 0, .* digits marks. Received: 10"):
        experiments.Run(config, str(tmp_path / "c"))


# Configurations --------------------------------------------------------------------------------


def config_paths():
    return sorted((ROOT / "configs").glob("*.py")) + sorted((ROOT / "configs/paper").glob("*.py"))


@pytest.mark.parametrize("path", config_paths(), ids=lambda path: path.stem)
def test_configurations_are_valid_and_say_how_to_run_them(path):
    config = configuration.load(str(path))
    configuration.check(config)
    text = path.read_text()
    if path.parent.name == "paper":
        assert f"--config=configs/paper/{path.name}" in text
        assert "two cores" in text
        is_density = config.dataset.name == "small_norb"  # of real-valued pixels
        if config.published.log_likelihood is not None:
            assert (config.published.log_likelihood > 0) == is_density
        elif config.published.error_percent is not None:
            assert config.published.error_percent >= 0
        else:
            assert "no number" in config.published.protocol
        assert config.published.source
    else:
        assert f"--model={path.stem}" in text and config.model.name == path.stem


def test_every_model_has_a_configuration():
    assert {p.stem for p in (ROOT / "configs").glob("*.py")} == set(configuration.MODELS)


def test_configuration_survives_json(tmp_path):
    config = configuration.load(str(ROOT / "configs/paper/hvae_vampprior_dynamic_mnist.py"))
    (tmp_path / "config.json").write_text(configuration.to_json(config))
    assert configuration.from_json(str(tmp_path / "config.json")).to_dict() == config.to_dict()
