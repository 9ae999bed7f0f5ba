"""The model side of plant monitoring: learning, the three studies, fit, score, update, report."""

import html.parser
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

pd = pytest.importorskip("pandas", reason="needs the extra [pv]")
pytest.importorskip("pyarrow", reason="needs the extra [pv]")

from sklearn.neural_network import MLPClassifier  # noqa: E402

from tfhvae import configuration, data, files  # noqa: E402
from tfhvae.errors import RunError  # noqa: E402
from tfhvae.monitoring import __main__ as commands  # noqa: E402
from tfhvae.monitoring import charts, learning, plant, report, samples, studies  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAMES = ("PS7", "RS4", "PS50")
CENTRES = {"PS7": (1.0, 100.0), "RS4": (3.0, 200.0), "PS50": (1.0, 300.0), "N": (8.0, 600.0)}


def small_config(epochs=12):
    config = configuration.photovoltaic()
    config.model.hidden_units, config.model.latent_dim, config.model.auxiliary_dim = (16,), 2, 2
    config.training.epochs, config.training.batch_size = epochs, 50
    config.objective.warmup_epochs = 2
    config.optimizer.learning_rate = 1e-2
    return config


def clouds(count=240, names=NAMES, seed=0, start="2024-01-01T08:00Z"):
    """Measurements I, V, G in one cloud per condition, the conditions taking turns."""
    rng = np.random.default_rng(seed)
    codes = np.arange(count) % len(names)
    centre = np.array([CENTRES[name] for name in names])[codes]
    values = centre + rng.normal(size=(count, 2)) * (0.2, 10.0)
    frame = pd.DataFrame(values, columns=["I", "V"])
    frame["G"] = 500.0 + rng.normal(size=count)
    frame.index = pd.date_range(start, periods=count, freq="1min", name="time")
    frame["condition"] = pd.Categorical.from_codes(codes, list(names))
    return frame


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A monitor that knows three conditions, every other row labelled."""
    folder = tmp_path_factory.mktemp("fitted") / "monitor"
    frame = clouds(600)
    frame["condition"] = frame["condition"].where(np.arange(600) % 4 < 2)
    summary = plant.fit(frame, str(folder), small_config(), columns=("I", "V"), jit_compile=False)
    return str(folder), frame, summary


# Rows ------------------------------------------------------------------------------------------


def test_standardisation_is_undone_and_survives_json():
    values = np.random.default_rng(0).normal(5.0, 3.0, (200, 3)) * (1, 10, 0) + (0, 0, 7)
    scale = samples.Standardisation.of(values, ("I", "V", "G"))
    x = scale(values)
    assert x.shape == (200, 3, 1, 1) and x.dtype == np.float32
    np.testing.assert_allclose(x[:, :2, 0, 0].mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(x[:, :2, 0, 0].std(0), 1.0, atol=1e-5)
    np.testing.assert_array_equal(x[:, 2, 0, 0], 0.0)  # does not vary
    np.testing.assert_allclose(scale.undo(x), values, rtol=1e-5, atol=1e-5)
    again = samples.Standardisation.from_json(json.loads(json.dumps(scale.to_json())))
    np.testing.assert_array_equal(again(values), x)
    with pytest.raises(RunError, match="at least one complete row"):
        samples.Standardisation.of(np.zeros([0, 2]), ("I", "V"))


def test_held_out_rows_depend_on_their_time_alone():
    times = clouds(20_000).index
    held_out = samples.is_held_out(times)
    # 20,000 draws at 0.1: more than five standard deviations of the mean from it is an error.
    assert abs(held_out.mean() - 0.1) < 5 * np.sqrt(0.09 / 20_000)
    np.testing.assert_array_equal(samples.is_held_out(times[37:99]), held_out[37:99])
    np.testing.assert_array_equal(samples.is_held_out(times.as_unit("s")), held_out)
    neighbours = np.corrcoef(held_out[1:], held_out[:-1])[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(20_000)


def test_splits_are_disjoint_complete_and_differ_by_fold():
    train, test = samples.monte_carlo_split(101, 3, 0)
    assert sorted([*train, *test]) == list(range(101)) and len(test) == 20
    assert (samples.monte_carlo_split(101, 3, 0)[1] == test).all()
    assert set(samples.monte_carlo_split(101, 3, 1)[1]) != set(test)
    rest, part = samples.random_part(train, 0.1, [3, 0])
    assert sorted([*rest, *part]) == sorted(train) and len(part) == 8


def test_conditions_are_introduced_with_labels_and_others_with_one_row():
    y = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [900, 40, 700]))
    there, labelled = samples.introduced(y, 2, np.random.default_rng(1))
    assert np.bincount(y[there]).tolist() == [900, 40, 1]
    assert np.bincount(y[labelled]).tolist() == [500, 40, 1]
    assert not (labelled & ~there).any()


def test_data_set_with_two_conditions_known():
    dataset = data.load("pv_simulated", split="known_2")
    whole = data.load("pv_simulated")
    counts = np.bincount(dataset.train.labels)
    assert counts[2:].tolist() == [1] * 8
    np.testing.assert_array_equal(counts[:2], np.bincount(whole.train.labels)[:2])
    marked = np.bincount(dataset.train.labels[dataset.marked])
    assert marked.tolist() == [500, 500] + [1] * 8
    assert set(dataset.validation.labels) == {0, 1}
    # The same test rows, standardised by the training rows there are.
    np.testing.assert_array_equal(dataset.test.labels, whole.test.labels)
    for column, there in zip(dataset.test.images.T[0, 0], whole.test.images.T[0, 0]):
        assert np.corrcoef(column, there)[0, 1] > 0.99999
    own = dataset.train.images[..., 0, 0]
    np.testing.assert_allclose(own.mean(0), 0.0, atol=1e-4)
    np.testing.assert_allclose(own.std(0), 1.0, atol=1e-4)
    assert "2 conditions known" in dataset.protocol and whole.marked is None


def test_names_have_the_papers_order_and_labels_their_codes():
    frame = clouds(6, ("PS50", "PS7", "RS4"))
    frame["condition"] = frame["condition"].where(np.arange(6) != 1)
    assert samples.names_of(frame) == ["PS7", "RS4", "PS50"]
    assert samples.codes_of(frame, ["PS7", "RS4", "PS50"]).tolist() == [2, -1, 1, 2, 0, 1]
    with pytest.raises(RunError, match="expected conditions among PS7, RS4. Received: PS50"):
        samples.codes_of(frame, ["PS7", "RS4"])
    with pytest.raises(RunError, match="without W"):
        samples.check_columns(frame, ("I", "W"))


# Learning --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learner():
    """`(learner, x, y)`: one that is compiled once, and three clouds."""
    frame = clouds(600)
    values = frame[["I", "V"]].to_numpy()
    x = samples.Standardisation.of(values, ("I", "V"))(values)
    learner = learning.Learner(small_config(), 2, NAMES, steps=10, jit_compile=False)
    return learner, x, samples.codes_of(frame, NAMES)


def test_learner_tells_clouds_apart_from_few_labels_and_repeats_itself(learner):
    learner, x, y = learner
    few = np.where(np.arange(600) < 30, y, samples.UNKNOWN)
    state = learner.fit(x[:500], few[:500], x[500:], seed=1)
    assert state.history[-1]["val_bound"] > state.history[0]["val_bound"] + 1.0
    probabilities, bound = learner.score(x)
    np.testing.assert_allclose(probabilities.sum(1), 1.0, rtol=1e-5)
    assert np.mean(probabilities.argmax(1) == y) > 0.97
    # The same learner, trained on something else in between, gives the same numbers again.
    learner.fit(x[:500], y[:500], x[500:], seed=2)
    assert not np.allclose(learner.score(x)[1], bound)
    learner.fit(x[:500], few[:500], x[500:], seed=1)
    np.testing.assert_allclose(learner.score(x)[1], bound, rtol=1e-5, atol=1e-5)
    assert float(learner._alpha) == pytest.approx(2.0 * 500 / 30)


def test_training_stops_when_the_validation_saturates_and_keeps_the_best_weights(
    learner, monkeypatch
):
    learner, x, y = learner
    monkeypatch.setitem(learner.config.training, "patience", 2)
    # Rows unlike those that are fitted to: the better it knows these, the worse it explains them.
    state = learner.fit(x[:500], y[:500], 4 * x[500:], seed=1)
    assert state.stopped_early and state.best_epoch < state.epoch < 12
    assert state.epoch == max(state.best_epoch, 2) + 2  # none is waited for in the warm-up
    for weights, best in zip(learner.model.get_weights(), state.best_weights, strict=True):
        np.testing.assert_array_equal(weights, best)


def test_score_of_a_row_depends_on_nothing_but_the_row(fitted):
    monitor = plant.Monitor.load(fitted[0], jit_compile=False)
    frame = clouds(learning.CHUNK + 50, seed=3)
    _, probabilities, bound = monitor.score(frame)
    part = slice(learning.CHUNK - 7, learning.CHUNK + 20)
    _, few, few_bounds = monitor.score(frame.iloc[part])
    np.testing.assert_allclose(few, probabilities[part], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(few_bounds, bound[part], rtol=1e-4, atol=1e-4)


def test_scored_bound_is_that_of_the_model(fitted):
    """Against many independent draws, within five standard errors of the few that a score has."""
    import tensorflow as tf

    from tfhvae import bounds

    monitor = plant.Monitor.load(fitted[0], jit_compile=False)
    x = monitor.scale(clouds(4, seed=5)[["I", "V"]].to_numpy())
    _, bound = learning.Scorer(monitor.model, 50, jit_compile=False)(x)
    repeated = tf.repeat(tf.constant(x), 2000, 0)  # one draw each
    trace = monitor.model.trace(repeated, noise=monitor.model.noise(9, 8000))
    draws = bounds.importance_weighted(trace).numpy().reshape(4, 2000)
    assert (np.abs(bound - draws.mean(1)) < 5 * draws.std(1) / np.sqrt(50)).all()
    assert (5 * draws.std(1) / np.sqrt(50) < 1.5).all()  # nats: sharp enough to see an error


def test_baselines_agree_with_those_of_scikit_learn():
    """On clouds that overlap: the MLP within three points of scikit-learn's."""
    rng = np.random.default_rng(0)
    y = (np.arange(1500) % 3).astype(np.int32)
    x = rng.normal(size=(1500, 2)) + np.array([[0, 0], [2, 0], [0, 2]])[y]
    x = x.astype(np.float32)[:, :, None, None]
    known = np.where(np.arange(1500) < 800, y, samples.UNKNOWN)
    perceptron = learning.Perceptron(2, 3, epochs=30)
    perceptron.fit(x[:900], known[:900], (x[900:1000], y[900:1000]), seed=0)
    guesses = perceptron.predict(x[1000:])
    reference = MLPClassifier((50, 50), random_state=0, early_stopping=True)
    reference.fit(x[:800, :, 0, 0], y[:800])
    expected = np.mean(reference.predict(x[1000:, :, 0, 0]) == y[1000:])
    assert abs(np.mean(guesses == y[1000:]) - expected) < 0.03
    perceptron.fit(x[:900], known[:900], (x[900:1000], y[900:1000]), seed=1)
    perceptron.fit(x[:900], known[:900], (x[900:1000], y[900:1000]), seed=0)
    np.testing.assert_array_equal(perceptron.predict(x[1000:]), guesses)
    linear = learning.LogisticRegression()
    linear.fit(x[:900], known[:900])
    assert abs(np.mean(linear.predict(x[1000:]) == y[1000:]) - expected) < 0.03


# Studies ---------------------------------------------------------------------------------------


def study_of(tmp_path, kind, **settings):
    frame = clouds(400, ("PS7", "RS4", "PS50", "N"))
    common = {"data": "clouds", "seed": 0, "inputs": ["iv"]}
    return studies.Study(
        frame, str(tmp_path / kind), kind, common | settings, small_config(8), jit_compile=False
    )


def test_supervised_study_goes_on_with_the_missing_parts(tmp_path):
    summary = studies.supervised(study_of(tmp_path, "supervised"), folds=2)
    assert [row["model"] for row in summary["rows"]] == ["mlr", "mlp", "sdgm"]
    assert all(row["accuracy"] > 90 and row["folds"] == 2 for row in summary["rows"])
    assert [row["paper"] for row in summary["rows"]] == [51.62, 77.81, 79.06]
    folder = tmp_path / "supervised"
    names = {"confusion_mlr_iv", "confusion_mlp_iv", "confusion_sdgm_iv", "latent_pca_iv"}
    assert {path.stem for path in folder.glob("*.png")} == names
    # What exists is read, not trained again: a changed part changes the table.
    part = folder / "parts" / "mlr-iv-fold0.json"
    part.write_text(json.dumps({**json.loads(part.read_text()), "accuracy": 0.0}))
    (folder / "parts" / "mlr-iv-fold1.json").unlink()
    # A field that is newer than the folder has its default there.
    settings = json.loads((folder / "settings.json").read_text())
    del settings["model"]["labels.choice"]
    (folder / "settings.json").write_text(json.dumps(settings))
    again = studies.supervised(study_of(tmp_path, "supervised"), folds=2)
    assert again["rows"][0]["accuracy"] == pytest.approx(summary["rows"][0]["accuracy"] / 2, abs=2)
    assert (folder / "table.csv").read_text().startswith("model,inputs,paper,accuracy,std,folds")
    kept = folder / "parts" / "sdgm-iv-fold0.npz"
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(RunError, match="sdgm-iv-fold0.npz is not readable .*: remove .*json"):
        studies.supervised(study_of(tmp_path, "supervised"), folds=2)
    with pytest.raises(RunError, match="belongs to another study .*seed=0 there, 1 here"):
        study_of(tmp_path, "supervised", seed=1)


def test_part_that_another_process_does_is_left_to_it(tmp_path):
    study, done = study_of(tmp_path, "supervised"), []
    claim = (
        "import sys; from tfhvae.monitoring import studies; lock = open(sys.argv[1], 'w');"
        "print(studies._claim(lock, 'first'), flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", claim, tmp_path / "supervised" / "lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert other.stdout.readline() == "True\n"

    def first():
        done.append("first")
        return {"number": 1}, {"x": np.arange(3)}

    def second():
        done.append("second")
        other.kill()  # which gives back what it has claimed
        other.wait()
        return {"number": 2}, {}

    records = study.run({"first": first, "second": second}, "part")
    assert done == ["second", "first"]
    assert records == {"first": {"number": 1}, "second": {"number": 2}}
    np.testing.assert_array_equal(study.arrays("first")["x"], np.arange(3))
    assert study.run({"second": first, "first": first}, "part") == records and len(done) == 2


def test_label_study_has_a_row_for_every_count(tmp_path):
    summary = studies.labels(study_of(tmp_path, "labels"), draws=2, counts=(20, 40))
    cells = [(row["model"], row["labels"], row["draws"]) for row in summary["rows"]]
    assert cells == [(m, n, 2) for m in ("mlr", "mlp", "sdgm") for n in (20, 40)]
    for row in summary["rows"]:
        parts = (tmp_path / "labels" / "parts").glob(
            f"{row['model']}-iv-{row['labels']}-draw*.json"
        )
        accuracies = [json.loads(part.read_text())["accuracy"] for part in parts]
        assert row["accuracy"] == pytest.approx(np.mean(accuracies)) and row["accuracy"] > 50
        assert row["std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert (tmp_path / "labels" / "accuracy_against_labels.png").stat().st_size > 5000


def test_progressive_study_finds_conditions_that_it_has_not_seen(tmp_path):
    study = study_of(tmp_path, "progressive")
    study.config.training.epochs, study.config.training.batch_size = 20, 10
    summary = studies.progressive(study, draws=1, false_alarm_rate=0.05, num_classes=2)
    first, second = summary["rows"]
    assert (first["added"], second["added"]) == ("PS7", "RS4")
    for row in summary["rows"]:
        assert row["roc_auc"] > 0.9 and row["bound_included"] > row["bound_unseen"]
        assert row["false_alarm_rate"] < 0.25
    assert set(summary["detection_by_condition"]["2/0"]) == {"PS50", "N"}
    part = json.loads((tmp_path / "progressive" / "parts" / "stage2-draw0.json").read_text())
    arrays = study.arrays("stage2-draw0")
    is_known = arrays["labels"] < 2
    alarms = arrays["bound"] < part["threshold"]
    assert part["false_alarm_rate"] == pytest.approx(alarms[is_known].mean())
    assert part["detection_rate"] == pytest.approx(alarms[~is_known].mean())
    pairs = arrays["bound"][is_known][:, None] - arrays["bound"][~is_known]  # Mann-Whitney
    assert part["roc_auc"] == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))


def test_study_without_labels_is_refused(tmp_path):
    settings = {"data": "clouds", "seed": 0, "inputs": ["iv"]}
    frame = clouds(50).drop(columns="condition")
    with pytest.raises(RunError, match="expected measurements with labels"):
        studies.Study(frame, str(tmp_path), "labels", settings, small_config())


# In a plant ------------------------------------------------------------------------------------


def test_fit_leaves_a_folder_that_scores(fitted, tmp_path):
    folder, frame, summary = fitted
    version = pathlib.Path(folder) / "versions" / "0001"
    files_there = {path.name for path in version.iterdir()}
    assert {"model.keras", "monitor.json", "summary.json", "metrics.csv"} <= files_there
    assert summary["held_out/accuracy"] > 95 and summary["version"] == "0001"
    monitor = plant.Monitor.load(folder, jit_compile=False)
    fitted_rows = ~samples.is_held_out(frame.index)
    bound = monitor.score(frame[fitted_rows])[2]
    assert abs(np.mean(bound < monitor.threshold) - 0.01) < 0.005
    with pytest.raises(RunError, match="holds a fitted monitor"):
        plant.fit(frame, folder, small_config())


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_scores_of_pieces_are_those_of_the_whole(fitted, tmp_path, ending):
    monitor = plant.Monitor.load(fitted[0], jit_compile=False)
    frame = clouds(300, (*NAMES, "N"), seed=7)
    frame.iloc[5, 0] = np.nan
    out = tmp_path / f"scores.{ending}"
    counts = plant.score_log(monitor, [frame[:110], frame[110:]], str(out), has_labels=True)
    scores = pd.concat(report._chunks(str(out))).reset_index(drop=True)
    assert counts["rows"] == len(scores) == 300 and counts["ok"] == 299
    assert list(pd.DatetimeIndex(scores["time"])) == list(frame.index)
    _, probabilities, bound = monitor.score(frame)
    np.testing.assert_allclose(scores["bound"].astype(float), bound, atol=2e-3)
    np.testing.assert_allclose(scores["p_RS4"].astype(float), probabilities[:, 1], atol=2e-4)
    assert scores["state"][5] == "incomplete" and pd.isna(scores["condition"][5])
    assert list(scores["label"].astype(str)) == list(frame["condition"].astype(str))
    is_new = (frame["condition"] == "N").to_numpy()
    anomaly = scores["is_anomaly"].astype(bool).to_numpy()
    assert anomaly[is_new].all() and anomaly[~is_new].mean() < 0.1
    assert counts["anomalies"] == anomaly.sum()


def test_failed_scoring_leaves_the_old_file(fitted, tmp_path):
    monitor = plant.Monitor.load(fitted[0], jit_compile=False)
    out = tmp_path / "scores.csv"
    out.write_text("old")

    def frames():
        yield clouds(50)
        raise RunError("a bad row")

    with pytest.raises(RunError, match="a bad row"):
        plant.score_log(monitor, frames(), str(out))
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]
    with pytest.raises(RunError, match="ending in .csv or .parquet"):
        plant.score_log(monitor, [clouds(5)], str(tmp_path / "scores.xlsx"))


def test_update_learns_a_new_condition_and_can_be_taken_back(fitted, tmp_path):
    folder = str(tmp_path / "monitor")
    subprocess.run(["cp", "-r", fitted[0], folder], check=True)
    new = clouds(400, (*NAMES, "N"), seed=8, start="2024-02-01T08:00Z")
    both = plant.joined([fitted[1], new])
    assert len(both) == 1000 and samples.names_of(both) == [*NAMES, "N"]
    with pytest.raises(RunError, match="labelled rows of every condition .* none of PS7"):
        plant.fit(
            new[new["condition"] != "PS7"], folder, small_config(), update=True, jit_compile=False
        )
    summary = plant.fit(both, folder, small_config(), update=True, jit_compile=False)
    assert summary["version"] == "0002" and summary["objections"] == []
    assert plant.current(folder) == {"version": "0002", "previous": "0001"}
    monitor = plant.Monitor.load(folder, jit_compile=False)
    assert monitor.names == [*NAMES, "N"]
    is_new = (new["condition"] == "N").to_numpy()
    assert np.mean(monitor.score(new)[1].argmax(1)[is_new] == 3) > 0.9
    assert plant.roll_back(folder) == "0001"
    assert plant.Monitor.load(folder, jit_compile=False).names == list(NAMES)


def test_update_that_does_not_pass_leaves_the_old_version(fitted, tmp_path):
    folder = str(tmp_path / "monitor")
    subprocess.run(["cp", "-r", fitted[0], folder], check=True)
    frame = clouds(600)
    rng = np.random.default_rng(0)  # labels that somebody mixed up, but for those held out
    mixed = frame["condition"].to_numpy().copy()
    fitted_rows = np.flatnonzero(~samples.is_held_out(frame.index))
    mixed[fitted_rows] = rng.permutation(mixed[fitted_rows])
    frame["condition"] = mixed
    with pytest.raises(RunError, match="the old one stays in use: right about"):
        plant.fit(frame, folder, small_config(6), update=True, jit_compile=False)
    assert plant.current(folder) == {"version": "0001", "previous": None}
    assert (pathlib.Path(folder) / "rejected" / "0002" / "model.keras").exists()
    assert plant.Monitor.load(folder, jit_compile=False).names == list(NAMES)


def test_interrupted_fit_goes_on(tmp_path, monkeypatch):
    from tfhvae import training

    frame, folder = clouds(300), str(tmp_path / "monitor")
    config = small_config(4)
    config.training.checkpoint_seconds = 0.0
    whole = plant.fit(frame, str(tmp_path / "whole"), config, columns=("I", "V"), jit_compile=False)
    end = training.Recorder.on_epoch_end

    def stop_after_two(recorder, epoch, logs=None):
        end(recorder, epoch, logs)
        if epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Recorder, "on_epoch_end", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        plant.fit(frame, folder, config, columns=("I", "V"), jit_compile=False)
    assert plant.current(folder) is None
    longer = small_config(9)
    longer.training.checkpoint_seconds = 0.0
    with pytest.raises(KeyboardInterrupt):
        plant.fit(frame, folder, longer, columns=("I", "V"), jit_compile=False)
    monkeypatch.setattr(training.Recorder, "on_epoch_end", end)
    begun = sorted(pathlib.Path(folder).glob("candidate-*"))
    assert len(begun) == 2 and all(any((path / "checkpoints").iterdir()) for path in begun)
    resumed = plant.fit(frame, folder, config, columns=("I", "V"), jit_compile=False)
    assert resumed["threshold"] == pytest.approx(whole["threshold"], abs=1e-4)
    lines = (pathlib.Path(folder) / "versions" / "0001" / "metrics.csv").read_text().splitlines()
    assert len(lines) == 5
    columns = lines[0].split(",")
    assert {"error_percent", "val_bound", "val_kl/z"} <= set(columns)
    labels = ("error_percent", "cross_entropy", "bound_labelled")  # held-out rows are without
    assert not {f"val_{name}" for name in labels} & set(columns)
    assert not list(pathlib.Path(folder).glob("candidate-*"))


@pytest.mark.parametrize("content", ["", "[]", '{"rows": 3}', '{"held_out/accuracy": "high"}'])
def test_report_names_a_summary_that_is_none(content, fitted, tmp_path):
    folder = tmp_path / "plant"
    shutil.copytree(fitted[0], folder)
    settings = plant.Monitor.load(fitted[0], jit_compile=False).settings
    (folder / "versions" / "0001" / "summary.json").write_text(content)
    with pytest.raises(RunError, match=r"0001/summary.json is not the summary of a fitted monitor"):
        report.details_of(str(folder), settings)


def test_report_is_one_file_with_every_figure(fitted, tmp_path):
    monitor = plant.Monitor.load(fitted[0], jit_compile=False)
    frame = clouds(400, (*NAMES, "N"), seed=9)
    frame = pd.concat([frame[frame["condition"] != "N"], frame[frame["condition"] == "N"]])
    frame.index = pd.date_range("2024-03-01", periods=400, freq="1min", tz="UTC", name="time")
    scores, out = str(tmp_path / "scores.csv"), str(tmp_path / "report.html")
    frame["G"] = 500.0
    counts = plant.score_log(monitor, [frame], scores, has_labels=True)
    details = report.details_of(fitted[0], monitor.settings)
    made = report.write(scores, out, monitor.names, monitor.threshold, "<Plant 1>", details)
    assert made == {"rows": 400, "anomalies": counts["anomalies"]}
    page = pathlib.Path(out).read_text()

    class Reader(html.parser.HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.pictures = [], []

        def handle_starttag(self, tag, attributes):
            if tag == "img":
                self.pictures.append(dict(attributes))
            elif tag != "meta":
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    names = [picture["alt"] for picture in reader.pictures]
    assert names == ["time line", "rows per condition", "bound", "confusion matrix"]
    assert all(p["src"].startswith("data:image/png;base64,iVBOR") for p in reader.pictures)
    assert "&lt;Plant 1&gt;" in page and "http" not in page.replace("http-equiv", "")
    assert "2024-03-01 05:00</td><td>2024-03-01 06:39</td><td>100</td>" in page  # the new condition
    assert "does not know: N" in page
    with pytest.raises(RunError, match="scores are of another model"):
        report.write(scores, out, ["PS7"], 0.0)
    with pytest.raises(RunError, match="scores are of another model"):
        report.write(scores, out, [*monitor.names, "Q"], monitor.threshold)
    for threshold in (monitor.threshold - 1.0, monitor.threshold + 1.0):
        with pytest.raises(RunError, match="scores are of another version"):
            report.write(scores, out, monitor.names, threshold)
    with pytest.raises(RunError, match="ending in .html"):
        report.write(scores, str(tmp_path / "report.pdf"), monitor.names, 0.0)


@pytest.mark.parametrize("chunk", [1, 100])
@pytest.mark.filterwarnings("error:constrained_layout")  # no picture is squeezed out
def test_report_of_scores_of_which_some_stretches_or_all_are_incomplete(
    chunk, tmp_path, monkeypatch
):
    monkeypatch.setattr(report, "CHUNK", chunk)
    head = "time,I,V,G,state,condition,probability,bound,is_anomaly,p_A,p_B\n"
    nothing = "2024-03-01 10:02:10Z,,250,900,incomplete,,,,false,,\n"
    row = "2024-03-01 10:02:20Z,1,280,300,ok,B,0.9,4.25,false,0.1,0.9\n"
    scores, out = tmp_path / "scores.csv", tmp_path / "report.html"
    for text, scored in ((nothing * 3, 0), (nothing + row + nothing, 1)):
        scores.write_text(head + text)
        assert report.write(str(scores), str(out), ["A", "B"], -20.0) == {"rows": 3, "anomalies": 0}
        page = out.read_text(encoding="utf-8")
        assert f"{3 - scored}</" in page and "incomplete" in page


def test_report_draws_what_the_scores_say(tmp_path, monkeypatch):
    scores, drawn = tmp_path / "scores.csv", {}
    rows = [  # of three minutes; one is incomplete
        "2024-03-01 10:00:00Z,2,300,500,A,ok,A,0.9,4.5,false,0.9,0.1",
        "2024-03-01 10:00:20Z,3,200,700,B,ok,A,0.6,-3.25,false,0.6,0.4",
        "2024-03-01 10:01:00Z,4,100,800,B,ok,B,0.8,-40,true,0.2,0.8",
        "2024-03-01 10:02:00Z,5,250,900,,ok,B,0.7,-9000,true,0.3,0.7",
        "2024-03-01 10:02:10Z,,250,900,A,incomplete,,,,false,,",
        "2024-03-01 10:02:20Z,1,280,300,B,ok,B,0.9,4.25,false,0.1,0.9",
    ]
    head = "time,I,V,G,label,state,condition,probability,bound,is_anomaly,p_A,p_B"
    scores.write_text("\n".join([head, *rows]) + "\n")

    def draw(name, chart):
        def drawing(*arguments):
            drawn[name] = arguments
            return chart(*arguments)

        return drawing

    for name in ("time_line", "shares", "power_against_irradiance", "bound_histogram"):
        monkeypatch.setattr(charts, name, draw(name, getattr(charts, name)))
    out = tmp_path / "report.html"
    assert report.write(str(scores), str(out), ["A", "B"], -20.0) == {"rows": 6, "anomalies": 2}

    irradiance, power, codes, is_anomaly, names = drawn["power_against_irradiance"]
    assert irradiance.tolist() == [500, 700, 800, 900, 300]
    assert power.tolist() == [600, 600, 400, 1250, 280] and names == ["A", "B"]
    assert codes.tolist() == [0, 0, 1, 1, 1]
    assert is_anomaly.tolist() == [False, False, True, True, False]
    centres, counts, threshold = drawn["bound_histogram"]
    assert counts.sum() == 5 and threshold == -20.0
    shown = 5 * np.sinh(np.repeat(centres, counts))  # back to nats, as fine as the bins are
    np.testing.assert_allclose(shown, [-9000, -40, -3.25, 4.25, 4.5], rtol=0.03, atol=0.2)
    starts, width, counts, share, _ = drawn["time_line"]
    assert [str(start)[11:16] for start in starts] == ["10:00", "10:01", "10:02"]
    assert width == pytest.approx(1 / 1440) and counts.tolist() == [[2, 0], [0, 1], [0, 2]]
    assert share.tolist() == [0.0, 1.0, 0.5]
    counts, num_anomalies, _ = drawn["shares"]
    assert counts.tolist() == [2, 3] and num_anomalies == 2
    page = out.read_text()
    assert "4 rows have a label; 75.00 % of them are right." in page
    assert "2024-03-01 10:00 to 2024-03-01 10:02 UTC" in page
    for value, name in (
        ("6", "rows"),
        ("5", "scored"),
        ("2 (40.00 %)", "anomalies"),
        ("B", "most"),
    ):
        assert f"<b>{value}</b>{name}" in page
    assert "<b>1</b>left out: incomplete" in page


def test_commands_from_log_to_report(fitted, tmp_path, capsys):
    log, scores, page = (str(tmp_path / name) for name in ("log.csv", "scores.csv", "r.html"))
    clouds(300, seed=4).to_csv(log)
    commands.main(["score", log, f"--model={fitted[0]}", f"--out={scores}"])
    commands.main(["report", scores, f"--model={fitted[0]}", f"--out={page}"])
    printed = capsys.readouterr().out
    assert "300, 300 scored" in printed and os.path.getsize(page) > 20_000
    assert "label" in pd.read_csv(scores).columns
    # nothing is written over what is read, and predictions are not taken for labels
    before = pathlib.Path(log).read_bytes()
    with pytest.raises(RunError, match="--out other than what is read"):
        commands.main(["score", log, f"--model={fitted[0]}", f"--out={log}"])
    assert pathlib.Path(log).read_bytes() == before
    with pytest.raises(RunError, match="--out other than what is read"):
        commands.main(["report", scores, f"--model={fitted[0]}", f"--out={scores}"])
    with pytest.raises(RunError, match="whose conditions are predictions.*--label_column=label"):
        commands.main(["fit", scores, f"--out={tmp_path / 'new'}"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["fit", "log.csv"], "one of the arguments --out --update is required"),
        (["fit", "none.csv", "--out=new"], "none.csv"),
        (["simulate", "--out=p.csv", "--days=6"], "expected days enough for"),
        (
            ["score", "none.csv", "--model=nowhere", "--out=s.csv"],
            "nowhere holds no fitted monitor",
        ),
        (["report", "none.csv", "--model=nowhere", "--out=r.html"], "holds no fitted monitor"),
        (["experiment", "all", "--out=x"], "invalid choice: 'all'"),
        (["fit", "a.csv", "--out=x", "--false_alarm_rate=2"], "a number between 0 and 1"),
        (["simulate", "--out=plant.txt"], "ending in .csv or .parquet"),
        ([], "COMMAND"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError) as error:
        commands.main(arguments)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_log_to_score_may_lack_labels_and_single_measurements(fitted, tmp_path):
    """As `fit` was told where the labels of its logs are, which others do not have."""
    folder, log, scores = tmp_path / "monitor", tmp_path / "log.csv", tmp_path / "scores.csv"
    shutil.copytree(fitted[0], folder)
    settings = folder / "versions" / "0001" / "monitor.json"
    told = json.loads(settings.read_text())
    told["log"]["label_column"] = "Fault"
    settings.write_text(json.dumps(told))
    frame = clouds(300, seed=4).drop(columns="condition")
    frame.iloc[7, 0] = np.nan
    frame.iloc[50:60, 2] = 3.0  # night, though the model does not see G
    frame.iloc[50:60, :2] = 0.0
    frame.to_csv(log)
    command = ["score", str(log), f"--model={folder}", f"--out={scores}"]
    commands.main(command)
    found = pd.read_csv(scores)
    assert len(found) == 290 and "label" not in found.columns
    assert found["state"].value_counts().to_dict() == {"ok": 289, "incomplete": 1}
    assert found["state"][7] == "incomplete"
    with pytest.raises(RunError, match="the label column 'Other'"):
        commands.main([*command, "--label_column=Other"])


def test_logs_that_do_not_fit_together_are_refused(tmp_path, monkeypatch, capsys):
    """Measurements that one lacks would leave out all of its rows."""
    first, second = (str(tmp_path / name) for name in ("a.csv", "b.csv"))
    clouds(200).to_csv(first)
    clouds(200, start="2024-02-01T08:00Z").drop(columns=["G", "condition"]).to_csv(second)
    got = []

    def fit(frame, folder, config, columns, *_):
        got.append((frame, columns))
        raise RunError("enough")

    monkeypatch.setattr(plant, "fit", fit)
    command = ["fit", first, second, f"--out={tmp_path / 'monitor'}"]
    with pytest.raises(RunError, match="same measurements in all logs.*I, V, G in .*I, V in"):
        commands.main(command)
    with pytest.raises(RunError, match="enough"):
        commands.main([*command, "--inputs=I,V"])
    frame, columns = got.pop()
    assert columns == ("I", "V") and list(frame) == ["I", "V", "condition"]
    assert frame["condition"].notna().tolist() == [True] * 200 + [False] * 200
    with pytest.raises(RunError, match="label column 'Fault' in one log at least"):
        commands.main([*command, "--inputs=I,V", "--label_column=Fault"])
    capsys.readouterr()
    with pytest.raises(RunError, match="enough"):
        commands.main(["fit", first, first, f"--out={tmp_path / 'monitor'}"])
    assert "200 rows of two logs taken once" in capsys.readouterr().out
    assert len(got.pop()[0]) == 200


def test_rows_of_two_logs_are_one_row_with_one_label():
    whole = clouds(60)
    early, late = whole[:40].copy(), whole[20:].copy()
    early["condition"] = early["condition"].where(np.arange(40) < 30)
    pd.testing.assert_frame_equal(plant.joined([early, late]), whole, check_freq=False)
    pd.testing.assert_frame_equal(plant.joined([late, early]).sort_index(), whole, check_freq=False)
    late.loc[late.index[3], "condition"] = "PS7" if late["condition"].iloc[3] != "PS7" else "PS50"
    with pytest.raises(RunError, match="expected one label of 2024-01-01 08:23"):
        plant.joined([early, late])
    late["I"] += 1.0  # another string of the plant, at the same times
    assert len(plant.joined([early, late])) == 80


def test_a_measurement_that_never_varies_is_refused(tmp_path):
    frame = clouds(600).assign(G=0.1)  # which is not a sum of powers of two
    with pytest.raises(RunError, match="that vary. Received: G with.*--inputs=I,V$"):
        plant.fit(frame, str(tmp_path), small_config(), jit_compile=False)


def test_an_alarm_of_few_rows_may_be_chance(fitted):
    """One false alarm in 20 rows is five times a wanted 1 %, and has a chance of 18 %; four have one
    of 4e-5."""
    old = plant.Monitor.load(fitted[0], jit_compile=False)
    frame = fitted[1][:20].drop(columns="condition")
    y, held_out = np.full(20, samples.UNKNOWN), np.ones(20, bool)
    rows = plant._Rows(frame, None, y, None, held_out, None, 0)
    for alarms, reasons in ((1, 0), (4, 1)):
        summary = {"held_out/false_alarm_rate": alarms / 20, "held_out/recall": {}}
        assert len(plant._objections(summary, old, old, rows)) == reasons


def test_few_labels_leave_one_of_every_class_to_stop_by(tmp_path):
    study = study_of(tmp_path, "labels")
    with pytest.raises(RunError, match="labels of at least 8, two of every condition.*: 4"):
        studies.labels(study, draws=1, counts=(4, 40))
    x = np.random.default_rng(0).normal(size=(8, 2, 1, 1)).astype("float32")
    classifier = study.train_baseline("mlp", "iv", x, np.repeat(np.arange(4), 2), seed=0)
    assert classifier.predict(x).shape == (8,)


def test_period_of_the_report_is_that_of_the_scores(fitted, tmp_path, monkeypatch):
    """Also where minutes have been merged into bins, which begin before the first one."""
    monkeypatch.setattr(report, "MOST_MINUTES", 50)
    monitor = plant.Monitor.load(fitted[0], jit_compile=False)
    frame = clouds(3000, seed=2, start="2024-01-01T08:07Z")
    scores, page = str(tmp_path / "scores.csv"), tmp_path / "report.html"
    plant.score_log(monitor, [frame[:1500], frame[1500:]], scores)
    report.write(scores, str(page), monitor.names, monitor.threshold)
    assert "2024-01-01 08:07 to 2024-01-03 10:06 UTC" in page.read_text()


def test_help_is_quick():
    code = (
        "import sys\nfrom tfhvae.monitoring import __main__ as m\n"
        "try: m.main(['score', '--help'])\nexcept SystemExit: pass\n"
        "assert not {'tensorflow', 'keras', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "--chunk_rows" in done.stdout and "is_anomaly" in done.stdout


def test_monitor_of_another_version_is_named(fitted, tmp_path):
    folder = str(tmp_path / "monitor")
    subprocess.run(["cp", "-r", fitted[0], folder], check=True)
    (pathlib.Path(folder) / "versions" / "0001" / "model.keras").write_bytes(b"broken")
    with pytest.raises(RunError, match="0001 is not readable"):
        plant.Monitor.load(folder, jit_compile=False)
    files.write_text(os.path.join(folder, "current.json"), "{")
    with pytest.raises(RunError, match="current.json is not readable"):
        plant.Monitor.load(folder, jit_compile=False)
