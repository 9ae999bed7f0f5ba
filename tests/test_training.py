"""Training: clipped gradients, batch statistics, the curve of the test images, collapsed layers,
and a run that starts from another one."""

import csv
import dataclasses
import json
import os
import pathlib
import shutil
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import run_experiment
from tfhvae import (
    configuration,
    diagnostics,
    evaluation,
    experiments,
    hardware,
    models,
    objectives,
    training,
)
from tfhvae.data import pipeline
from tfhvae.errors import RunError
from tfhvae.models import parts

ROOT = pathlib.Path(__file__).resolve().parent.parent
GRAPH = hardware.Hardware(jit_compile=False)


def ladder_config(epochs=2, model="ladder_vae"):
    """An experiment of seconds with batch normalisation, on the embedded data."""
    config = configuration.load(str(ROOT / "configs" / f"{model}.py"))
    if "latent_dims" in config.model:
        config.model.latent_dims, config.model.hidden_units = (4, 3), (8, 6)
    else:
        config.model.latent_dim, config.model.hidden_units = 4, (8,)
    config.objective.warmup_epochs = 0
    config.training.epochs = epochs
    config.training.batch_size = 400
    config.training.patience = 0
    config.training.checkpoint_seconds = 0.0
    config.evaluation.num_samples = 2
    config.evaluation.active_unit_samples = 1
    return config


def run_of(config, folder):
    return experiments.Run(config, str(folder), hardware_options=GRAPH)


# Optimisers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule, rates",
    [
        ("constant", {0: 0.1, 40: 0.1}),
        ("step", {0: 0.1, 19: 0.1, 20: 0.05, 39: 0.05, 40: 0.025}),
        ("cosine", {0: 0.1, 20: 0.05, 39: 0.05 * (1.0 + np.cos(np.pi * 39 / 40)), 40: 0.0}),
    ],
    ids=["constant", "step", "cosine"],
)
def test_learning_rate_follows_its_schedule(schedule, rates):
    """`rates` by update, in 4 epochs of 10."""
    config = configuration.base_config("vae", "digits").optimizer
    config.learning_rate, config.schedule = 0.1, schedule
    config.decay_epochs, config.decay_factor = 2, 0.5
    optimizer = training.make_optimizer(config, steps_per_epoch=10, epochs=4)
    found = []
    for step in rates:
        optimizer.iterations.assign(step)
        found.append(float(optimizer.learning_rate))
    np.testing.assert_allclose(found, list(rates.values()), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    "field, value, kind",
    [
        ("normalize_gradients", False, keras.optimizers.Adam),
        ("normalize_gradients", True, training.NormalizedGradientAdam),
        ("element_clip", 0.3, training.ClippedAdam),
    ],
)
def test_optimizer_has_the_settings_of_the_configuration(field, value, kind):
    config = configuration.base_config("vae", "digits").optimizer
    options = {"beta_1": 0.5, "beta_2": 0.7, "epsilon": 0.01, "global_clipnorm": 2.0}
    config.update({**options, field: value})
    optimizer = training.make_optimizer(config, steps_per_epoch=10, epochs=4)
    assert type(optimizer) is kind
    assert {name: getattr(optimizer, name) for name in options} == options
    assert getattr(optimizer, "element_clip", None) == config.element_clip


# Clipping ----------------------------------------------------------------------------------------


def test_norm_is_limited_first_and_then_every_element():
    """Two steps of Adam on several variables, written in NumPy."""
    config = configuration.load(str(ROOT / "configs" / "vae.py")).optimizer
    config.learning_rate, config.global_clipnorm, config.element_clip = 0.1, 4.0, 0.9
    optimizer = training.make_optimizer(config, steps_per_epoch=1, epochs=1)
    rng = np.random.default_rng(0)
    start = [rng.normal(size=shape).astype(np.float32) for shape in ((3, 2), (4,))]
    variables = [keras.Variable(value) for value in start]
    expected, m, v = ([np.array(a, np.float64) * s for a in start] for s in (1.0, 0.0, 0.0))
    limited = []
    for step in (1, 2):
        gradients = [3.0 * rng.normal(size=a.shape).astype(np.float32) for a in start]
        optimizer.apply(gradients, variables)
        norm = np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in gradients))
        assert norm > 4.0
        for i, gradient in enumerate(gradients):
            scaled = gradient * 4.0 / norm
            clipped = np.clip(scaled, -0.9, 0.9)
            limited.append(np.any(clipped != scaled))
            m[i] += 0.1 * (clipped - m[i])
            v[i] += 0.001 * (clipped**2 - v[i])
            rate = 0.1 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            expected[i] -= rate * m[i] / (np.sqrt(v[i]) + 1e-8)
    assert any(limited)
    for variable, value in zip(variables, expected):
        np.testing.assert_allclose(variable.numpy(), value, rtol=2e-5)


def test_clipping_optimizer_survives_serialisation():
    optimizer = training.ClippedAdam(0.1, element_clip=0.5, global_clipnorm=4.0)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(again, training.ClippedAdam)
    assert (again.element_clip, again.global_clipnorm) == (0.5, 4.0)
    with pytest.raises(ValueError, match="expected a positive element_clip, received: 0.0"):
        training.ClippedAdam(element_clip=0.0)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"optimizer.element_clip": -1.0}, "expected a positive optimizer.element_clip"),
        (
            {"optimizer.element_clip": 0.9, "optimizer.normalize_gradients": True},
            "at most one of optimizer.element_clip and optimizer.normalize_gradients",
        ),
        ({"evaluation.batch_statistics": "batch"}, "among: running, recalibrated"),
    ],
)
def test_fields_that_no_run_could_use(fields, message):
    config = ladder_config()
    config.update_from_flattened_dict(fields)
    with pytest.raises(RunError, match=message):
        configuration.check(config)


# Batch statistics --------------------------------------------------------------------------------


def ladder():
    keras.utils.set_random_seed(0)
    return models.LadderVAE((4, 4, 1), latent_dims=(3, 2), hidden_units=(6, 5))


def images(count=23):
    return np.random.default_rng(1).uniform(size=(count, 4, 4, 1)).astype(np.float32)


def batch_moments(model, x, batch_size, seed):
    """`[layers, 2 arrays [D]]`: means over batches of the batch mean and variance of what enters
    each layer, in NumPy, from the inputs that the layers are called with."""
    layers = [
        layer for layer in model._flatten_layers() if type(layer).__name__ == "BatchNormalization"
    ]
    seen = {id(layer): [] for layer in layers}
    calls = {id(layer): layer.call for layer in layers}
    for layer in layers:

        def call(inputs, training=None, layer=layer):
            assert training
            seen[id(layer)].append(np.asarray(inputs, np.float64).reshape(-1, inputs.shape[-1]))
            return calls[id(layer)](inputs, training=training)

        layer.call = call
    order = np.random.default_rng(seed).permutation(len(x))
    for t, part in enumerate(np.array_split(order, -(-len(x) // batch_size))):
        noise = model.noise(models.base.stateless_seed(seed, t, 1), len(part))
        model.trace(tf.constant(x[part]), noise=noise, training=True)
    for layer in layers:
        layer.call = calls[id(layer)]
    assert all(len(parts) == -(-len(x) // batch_size) for parts in seen.values())
    return [
        moment
        for layer in layers
        for moment in (
            np.mean([part.mean(0) for part in seen[id(layer)]], 0),
            np.mean([part.var(0) for part in seen[id(layer)]], 0),
        )
    ]


def values(variables):
    return [variable.numpy() for variable in variables]


def test_recalibrated_statistics_are_means_over_batches():
    model, x = ladder(), images()
    before = values(model.weights)
    statistics = training.batch_statistics(model)
    assert len(statistics) > 10
    expected = batch_moments(model, x, batch_size=8, seed=3)
    for variable, value in zip(model.weights, before):
        variable.assign(value)

    training.recalibrate(model, x, batch_size=8, seed=3)
    for actual, value in zip(values(statistics), expected):
        np.testing.assert_allclose(actual, value, rtol=1e-4, atol=1e-6)
    paths = {variable.path for variable in statistics}
    for variable, value in zip(model.weights, before):
        if variable.path not in paths:
            np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)
    normalizations = parts.normalizations(model)
    assert {layer.momentum for layer in normalizations} == {0.99}


def test_recalibration_depends_on_its_seed_alone():
    model, x = ladder(), images()
    found = []
    for seed in (5, 5, 6):
        training.recalibrate(model, x, batch_size=8, seed=seed, binarization="per_batch")
        found.append(values(training.batch_statistics(model)))
    for first, second in zip(*found[:2]):
        np.testing.assert_array_equal(first, second)
    assert any(np.any(a != b) for a, b in zip(found[0], found[2]))
    assert all(np.isfinite(a).all() for a in found[0])


def test_recalibration_leaves_other_models_alone(monkeypatch):
    model = models.VAE((4, 4, 1), latent_dim=2, hidden_units=(4,))
    monkeypatch.setattr(model, "trace", None)  # no pass
    training.recalibrate(model, images())
    with pytest.raises(ValueError, match="expected images and batch_size >= 1, received: 0 images"):
        training.recalibrate(model, images(0))


def test_run_is_evaluated_with_the_statistics_that_it_names(tmp_path, monkeypatch):
    config = ladder_config()
    config.evaluation.batch_statistics = "running"
    run = run_of(config, tmp_path / "run")
    run.train()
    running = values(training.batch_statistics(run.model))
    summary = run.evaluate()
    assert summary["test/batch_statistics"] == "running"
    assert run.finished_summary == summary

    config = ladder_config()
    config.evaluation.batch_statistics = "recalibrated"
    again = run_of(config, tmp_path / "run")
    assert again.finished_summary is None
    again.train()
    recalibrated = values(training.batch_statistics(again.model))
    assert max(np.abs(a - b).max() for a, b in zip(running, recalibrated)) > 0.1
    summary_again = again.evaluate()
    assert summary_again["test/batch_statistics"] == "recalibrated"
    trained = run.state.history[-1]["bound"]  # with the statistics of each batch
    distances = [abs(s["test/elbo"] - trained) for s in (summary, summary_again)]
    assert distances[1] < 1.0 < distances[0]  # running ones have just begun
    assert again.finished_summary == summary_again

    saved = keras.models.load_model(tmp_path / "run" / "model.keras")
    for a, b in zip(values(training.batch_statistics(saved)), recalibrated):
        np.testing.assert_array_equal(a, b)
    restored = run_of(config, tmp_path / "run")  # checkpoints hold the running ones
    for a, b in zip(values(training.batch_statistics(restored.model)), running):
        np.testing.assert_array_equal(a, b)

    again.config.evaluation.batch_statistics = "running"
    assert again.evaluate()["test/elbo"] == summary["test/elbo"]

    # The pass over the training set is not repeated for the weights of before, and is for others.
    config.evaluation.batch_statistics = "recalibrated"
    passes, recalibrate = [], training.recalibrate
    monkeypatch.setattr(
        training, "recalibrate", lambda *a, **k: passes.append(a) or recalibrate(*a, **k)
    )
    assert restored.evaluate()["test/elbo"] == summary_again["test/elbo"] and not passes
    restored.config.training.epochs += 1
    restored.train()
    assert len(passes) == 1


# The curve of the test images --------------------------------------------------------------------


@pytest.fixture
def no_validation(monkeypatch):
    """The digits without their validation part."""
    load = experiments.data.load
    monkeypatch.setattr(
        experiments.data,
        "load",
        lambda *a, **k: dataclasses.replace(load(*a, **k), validation=None),
    )


def metrics(folder):
    with open(folder / "metrics.csv") as file:
        return list(csv.DictReader(file))


def test_without_validation_images_the_test_bound_is_recorded_by_name(
    no_validation, tmp_path, capfd
):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = run_of(ladder_config(3, "vae"), tmp_path / "run")
    run.train()
    rows = metrics(tmp_path / "run")
    assert {"test_bound", "test_log_px", "test_kl/z1", "test_active_units/z1"} <= set(rows[0])
    assert not [n for n in rows[0] if n.startswith("val_") or n.startswith("active_units")]
    assert all(np.isfinite(float(row["test_bound"])) for row in rows)
    assert run.state.best_weights is None and run.state.best_epoch == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"tensors": 0})
    tags = set(events.Reload().Tags()["tensors"])
    assert {"bound/train", "bound/test", "kl/z1/test", "active_units/z1/test"} <= tags
    assert not [tag for tag in tags if "validation" in tag]
    run.evaluate()
    assert any("training_curves" in path for path in run.draw())
    error = capfd.readouterr().err
    assert "test=" in error and "val=" not in error


def test_test_curve_can_be_turned_off_and_on_between_two_halves_of_a_run(no_validation, tmp_path):
    config = ladder_config(4, "vae")
    config.training.test_curve = False
    run = run_of(config, tmp_path / "run")
    stop_after(run, 2)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert "test_bound" not in metrics(tmp_path / "run")[0]
    config.training.test_curve = True
    rest = run_of(config, tmp_path / "run")
    rest.train()
    assert [row["epoch"] for row in metrics(tmp_path / "run")] == ["1", "2", "3", "4"]
    curve = rest.state.columns()["test_bound"]
    assert np.isnan(curve).tolist() == [True, True, False, False]
    rest.evaluate()
    assert rest.draw()


def stop_after(run, epochs):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch + 1 == epochs:
                raise KeyboardInterrupt

    fit = run.model.fit
    run.model.fit = lambda *a, callbacks, **k: fit(*a, callbacks=[*callbacks, Stop()], **k)


# Collapsed layers --------------------------------------------------------------------------------


def test_units_are_active_have_died_or_never_woke():
    kl = np.array([[0.5, 0.5, 0.0, 0.005, 0.0], [0.5, 0.0, 0.0, 0.002, 0.5]])
    states = diagnostics.unit_states(kl)
    assert states.active.tolist() == [True, False, False, False, True]
    assert states.died.tolist() == [False, True, False, False, False]
    assert states.never_woke.tolist() == [False, False, True, True, False]
    assert diagnostics.unit_states(kl, threshold=0.001).active.tolist() == [1, 0, 0, 1, 1]
    np.testing.assert_array_equal(np.sum(states, 0), 1)  # each is one of three
    layers = {"z1": states, "z2": diagnostics.unit_states(kl[:, 1:4]),
              "z3": diagnostics.unit_states(kl[:, 2:4])}  # fmt: skip
    assert diagnostics.layer_states(layers) == {
        "active": ["z1"], "died": ["z2"], "never_woke": ["z3"]
    }  # fmt: skip
    with pytest.raises(ValueError, match="at least one epoch, received: \\(0, 5\\)"):
        diagnostics.unit_states(kl[:0])


def small_vae():
    model = models.VAE((4, 4, 1), latent_dim=2, hidden_units=(3,))
    model.compile("sgd", objectives.Objective(), jit_compile=False)
    return model


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_images_of_any_precision_give_the_same_bound(dtype):
    images = np.random.default_rng(0).integers(0, 2, [6, 4, 4, 1])
    model = small_vae()
    bounds = [
        model.evaluate(tf.data.Dataset.from_tensors(tf.constant(images, d)), verbose=0)
        for d in ("float32", dtype)
    ]
    assert bounds[0] == bounds[1]
    assert model(tf.constant(images, dtype)).dtype == tf.float32


IMAGES = np.zeros([6, 4, 4, 1], np.float32)
LABELS = np.zeros([6], np.int32)


@pytest.mark.parametrize(
    "batch, message",
    [
        (IMAGES.astype(np.uint8), "expected images as floating point numbers. Received: uint8"),
        (IMAGES[:, 1:], r"images of shape \(None, 4, 4, 1\). Received: \(6, 3, 4, 1\)"),
        (IMAGES[..., 0], r"images of shape \(None, 4, 4, 1\). Received: \(6, 4, 4\)"),
        ((IMAGES, LABELS), r"images alone, .* Received: \('\(6, 4, 4, 1\)', '\(6,\)'\)"),
    ],
    ids=["integers", "height", "channels", "labels"],
)
def test_a_batch_that_is_none_of_the_model_says_so(batch, message):
    dataset = tf.data.Dataset.from_tensors(batch)
    for method in ("fit", "evaluate"):
        with pytest.raises(ValueError, match=message):
            getattr(small_vae(), method)(dataset, verbose=0)
    if not isinstance(batch, tuple):
        with pytest.raises(ValueError, match=message):
            small_vae()(batch)


def test_a_model_with_labels_says_which_batches_it_takes():
    model = models.M2((4, 4, 1), num_classes=3, latent_dim=2, hidden_units=(3,))
    model.compile("sgd", objectives.SemiSupervisedObjective(), jit_compile=False)
    for batch in (IMAGES, (IMAGES, LABELS), ((IMAGES,), IMAGES)):
        with pytest.raises(ValueError, match=r"\(\(labelled images, labels\), images\)"):
            model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    with pytest.raises(ValueError, match=r"\(images, labels\). Received: \(6, 4, 4, 1\)"):
        model.evaluate(tf.data.Dataset.from_tensors(IMAGES), verbose=0)
    model.fit(tf.data.Dataset.from_tensors(((IMAGES, LABELS), IMAGES)), verbose=0)
    model.evaluate(tf.data.Dataset.from_tensors((IMAGES, LABELS)), verbose=0)


@pytest.mark.parametrize("objective", [None, "elbo"])
def test_training_needs_an_objective(objective):
    with pytest.raises(ValueError, match=f"objectives.Objective.* objective={objective!r}"):
        models.VAE((4, 4, 1), latent_dim=2, hidden_units=(3,)).compile("adam", objective)


def test_monitor_works_in_a_fit_without_a_run():
    model = ladder()
    model.compile(keras.optimizers.Adam(0.01), objectives.Objective(), jit_compile=False)
    monitor = training.CollapseMonitor()
    batches = pipeline.evaluation_batches(images(), 8)
    history = model.fit(batches, epochs=2, verbose=0, callbacks=[monitor]).history
    model.fit(batches, epochs=1, verbose=0, callbacks=[monitor])
    assert {site: kl.shape for site, kl in monitor.unit_kl.items()} == {"z2": (3, 2), "z1": (3, 3)}
    counts = [history[f"collapse/z1/{name}"] for name in ("active", "died", "never_woke")]
    assert np.sum(counts, 0).tolist() == [3, 3]
    counts = [history[f"collapse/layers/{name}"] for name in ("active", "died", "never_woke")]
    assert np.sum(counts, 0).tolist() == [2, 2]


def test_a_layer_that_collapses_is_named_once(capfd):
    state = training.RunState()
    monitor = training.CollapseMonitor(state)
    epochs = [(0.5, 0.5, 0.0), (0.5, 0.0, 0.0), (0.5, 0.0, 0.0), (0.5, 0.5, 0.0), (0.5, 0.0, 0.0)]

    def pass_through(epochs, first):
        monitor.on_train_begin()
        for index, (a, b, c) in enumerate(epochs, start=first):
            for site, kl in {"z1": [a, 0.0], "z2": [0.0, b], "z3": [c]}.items():
                before = state.unit_kl.get(site, np.zeros([0, len(kl)]))
                state.unit_kl[site] = np.concatenate([before, [kl]])
            monitor.on_epoch_end(index)

    pass_through(epochs[:3], 0)
    text = capfd.readouterr().err
    assert text == (
        "layer z2 has died in epoch 2: no unit has a KL(q||p) above 0.01 nats any more\n"
    )
    monitor = training.CollapseMonitor(state)  # after a stop
    pass_through(epochs[3:], 3)
    monitor.on_train_end()
    text = capfd.readouterr().err
    assert "z2" not in text and text.startswith("layer z3 never woke") and text.count("\n") == 1
    scalars = monitor.scalars()
    assert scalars["collapse/z2/died"] == 1
    assert {n: v for n, v in scalars.items() if "/layers/" in n} == {
        "collapse/layers/active": 1, "collapse/layers/died": 1, "collapse/layers/never_woke": 1
    }  # fmt: skip


def test_kl_of_an_auxiliary_variable_is_no_sign_of_death():
    model = models.AVAE((4, 4, 1), latent_dims=(3, 2), auxiliary_dims=(3, 2), hidden_units=(6, 5))
    state = training.RunState()
    state.unit_kl = {site: np.zeros([2, *shape]) for site, shape in model.noise_shapes.items()}
    monitor = training.CollapseMonitor(state)
    assert set(monitor.states()) == {"a1", "z1", "a2", "z2"}  # of a model that is not known
    monitor.set_model(model)
    assert set(monitor.states()) == {"z1", "z2"}


def test_run_reports_collapsed_layers(tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from tfhvae import reporting

    run = run_of(ladder_config(), tmp_path / "run")
    run.train()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"tensors": 0})
    tags = set(events.Reload().Tags()["tensors"])
    assert {f"collapse/z2/{name}" for name in ("active", "died", "never_woke")} <= tags
    run.state.unit_kl["z2"][:] = 0.0
    run.state.unit_kl["z1"][-1] = (0.5, 0.0, 0.0, 0.0)
    summary = run.evaluate()
    with np.load(tmp_path / "run" / "evaluation.npz") as arrays:
        for site in ("z1", "z2"):
            active = int((arrays[f"unit_kl/{site}"] > 0.01).sum())
            assert summary[f"test/active_units_kl/{site}"] == active
    assert summary["collapse/dead_layers"] == summary["collapse/never_woke_layers"] == ["z2"]
    assert (summary["collapse/z2/died"], summary["collapse/z2/never_woke"]) == (0, 3)
    assert summary["collapse/z1/died"] == (run.state.unit_kl["z1"][0, 1:] > 0.01).sum()
    reporting.print_summary(summary)
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "collapsed z2 never woke: no active unit at the end of training" in shown
    del summary["collapse/never_woke_layers"]  # of an earlier version
    reporting.print_summary(summary)
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "collapsed z2: no active unit at the end of training" in shown
    assert f"{summary['test/active_units_kl/z1']} by KL" in shown


def test_units_of_a_mixture_prior_are_not_known_one_by_one(tmp_path):
    config = ladder_config(1, "vampprior")
    config.model.num_components = 5
    run = run_of(config, tmp_path / "run")
    run.train()
    summary = run.evaluate()
    assert summary["collapse/z1/died"] is None and summary["test/active_units_kl/z1"] is None
    assert summary["collapse/dead_layers"] == [] and summary["test/batch_statistics"] is None


# A run that starts from another one --------------------------------------------------------------


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("first") / "ladder"
    run = run_of(ladder_config(), folder)
    run.train()
    return folder


def second_config(folder, epochs=3):
    config = run_experiment.configuration_to_go_on_from(str(folder), None)
    config.training.initial_run = str(folder)
    config.training.epochs = epochs
    return config


def test_second_run_starts_from_the_weights_of_the_first(first, tmp_path):
    config = second_config(first)
    run = run_of(config, tmp_path / "second")
    saved = keras.models.load_model(first / "model.keras")
    assert len(run.model.weights) == len(saved.weights)
    for a, b in zip(run.model.weights, saved.weights):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
    x, noise = run.dataset.test.images[:5], saved.noise(0, 5)
    np.testing.assert_array_equal(
        run.model.trace(x, noise=noise).log_px, saved.trace(x, noise=noise).log_px
    )
    assert int(run.model.optimizer.iterations) == 0
    assert not any(np.any(v.numpy()) for v in run.model.optimizer._momentums)
    assert run.state.epoch == 0 and run.state.initial_epochs == 2

    run.train()
    summary = run.evaluate()
    assert (summary["initial_run"], summary["initial_epochs"], summary["epochs"]) == (
        "ladder", 2, 3,
    )  # fmt: skip
    assert summary["published/log_likelihood"] is None
    assert float(metrics(tmp_path / "second")[0]["beta"]) == 1.0

    third = run_of(second_config(tmp_path / "second", 1), tmp_path / "third")
    assert third.state.initial_epochs == 5
    shutil.rmtree(tmp_path / "second" / "checkpoints")
    fourth = run_of(second_config(tmp_path / "second", 1), tmp_path / "fourth")
    assert fourth.state.initial_epochs == 5  # from the summary


def test_a_second_run_of_two_stages_keeps_the_first_stage(tmp_path):
    config = configuration.load(str(ROOT / "configs" / "m1_m2.py"))
    config.model.m1_latent_dim, config.model.latent_dim = 4, 3
    config.model.m1_hidden_units = config.model.hidden_units = (8,)
    config.training.epochs = config.training.m1_epochs = 1
    config.training.batch_size = 400
    first = run_of(config, tmp_path / "first")
    first.train()
    digits = first.dataset.train.images
    drawn = first.dataset.binarization
    means = evaluation.posterior_means(first.model.m1, digits, drawn, config.seed)
    kept = first.model.units_kept.numpy()
    np.testing.assert_array_equal(kept, means.std(0) > 0.1)
    assert kept.any()
    config.training.initial_run = str(tmp_path / "first")
    second = run_of(config, tmp_path / "second")
    np.testing.assert_array_equal(second.model.units_kept.numpy(), kept)
    before = second.model.m1.get_weights()
    second.train()
    assert not (tmp_path / "second" / "m1").exists()
    for a, b in zip(before, second.model.m1.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_m1_that_carries_nothing_is_not_built_upon(tmp_path, monkeypatch):
    config = configuration.load(str(ROOT / "configs" / "m1_m2.py"))
    config.model.m1_hidden_units = config.model.hidden_units = (8,)
    config.training.epochs = config.training.m1_epochs = 1
    monkeypatch.setattr(experiments, "_LEAST_SPREAD", 1e3)
    with pytest.raises(RunError, match="posterior means of M1 that differ.*m1_epochs"):
        run_of(config, tmp_path).train()


def test_path_of_the_first_run_may_be_written_otherwise(first, tmp_path, monkeypatch):
    run_of(second_config(first), tmp_path / "second").train()
    monkeypatch.chdir(first.parent)
    config = second_config(first)
    config.training.initial_run = "./ladder/"
    run_of(config, tmp_path / "second")
    config.training.initial_run = None
    with pytest.raises(RunError, match="training.initial_run='ladder' there, None here"):
        run_of(config, tmp_path / "second")


def test_runs_that_one_cannot_start_from(first, tmp_path):
    def refused(config, message, workdir="second"):
        with pytest.raises(RunError, match=message) as caught:
            run_of(config, tmp_path / workdir)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "second").exists()

    config = second_config(first)
    config.model.latent_dims = (5, 3)
    refused(config, r"model.latent_dims=\(4, 3\) there, \(5, 3\) here")
    config = second_config(first)
    config.dataset.split = "other"
    refused(config, "dataset.split=None there, 'other' here")
    config = second_config(first)
    config.training.initial_run = str(tmp_path / "nothing")
    refused(config, "nothing is not the folder of a run: it has no config.json")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(first / "config.json", unfinished)
    config.training.initial_run = str(unfinished)
    refused(config, "unfinished has not finished training: it has no model.keras")
    refused(config, "expected an initial_run other than the workdir", "unfinished/../unfinished")
    (unfinished / "model.keras").write_text("nothing")
    refused(config, "model.keras is not readable")
    longer = tmp_path / "longer"
    shutil.copytree(first, longer)
    values = json.loads((longer / "config.json").read_text())
    values["training"]["epochs"] = 9
    (longer / "config.json").write_text(json.dumps(values))
    config.training.initial_run = str(longer)
    refused(config, "longer has not finished training: 2 of 9 epochs are done")


def test_command_line_of_a_second_run(first, tmp_path):
    typed = ["x", f"--initial_run={first}", "--workdir=W", "--epochs=7"]
    config, argv = run_experiment.configuration_of([*typed, "--config.optimizer.schedule=step"])
    run_experiment.parse(argv, config)
    assert config.model.latent_dims == (4, 3) and config.objective.warmup_epochs == 0
    assert (config.training.epochs, config.optimizer.schedule) == (7, "step")
    assert config.training.initial_run == str(first)
    assert (
        run_experiment.repeat(typed)
        == "python run_experiment.py --initial_run=runs/ladder --epochs=7"
    )
    assert run_experiment.repeat(["x", "--initial_run", "/a/b/"]).endswith(" --initial_run=runs/b")
    config, _ = run_experiment.configuration_of(["x", f"--initial_run={first}", "--model=vae"])
    assert config.model.name == "vae"
    with pytest.raises(RunError, match="is not the folder of a run"):
        run_experiment.configuration_of(["x", f"--initial_run={tmp_path}"])


def test_killed_second_run_ends_as_an_uninterrupted_one(first, killed_and_continued, tmp_path):
    """kill -9 in the middle, the first run's folder gone, the same command: equal in every bit."""
    source = tmp_path / "ladder"
    shutil.copytree(first, source)

    def command(folder):
        return [
            sys.executable, str(ROOT / "run_experiment.py"), f"--initial_run={source}",
            f"--workdir={folder}", "--epochs=12", "--eval_samples=2", "--deterministic",
            "--nojit_compile", "--config.optimizer.schedule=step",
            "--config.optimizer.decay_epochs=3", "--config.evaluation.batch_statistics=recalibrated",
        ]  # fmt: skip

    killed, output, summary = killed_and_continued(
        command, 12, between=lambda: shutil.rmtree(source)
    )
    assert "trained for 2 epochs" in output
    assert summary["initial_epochs"] == 2 and os.path.exists(killed / "model.keras")
    rates = {row["learning_rate"] for row in metrics(killed)}
    assert len(rates) == 4  # 0.75 every 3 epochs
