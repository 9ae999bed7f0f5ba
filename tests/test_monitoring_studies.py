"""What studies, fits and commands of plant monitoring hand to the learners, which here take notes
instead of being trained: which rows, which labels, in which scale."""

import contextlib
import functools
import json
import pathlib
import shutil
import types

import numpy as np
import pytest

pd = pytest.importorskip("pandas", reason="needs the extra [pv]")
pytest.importorskip("pyarrow", reason="needs the extra [pv]")

from tfhvae import configuration, files, training  # noqa: E402
from tfhvae.errors import RunError  # noqa: E402
from tfhvae.monitoring import __main__ as commands  # noqa: E402
from tfhvae.monitoring import learning, logs, plant, samples, simulate, studies  # noqa: E402

NAMES = ("PS7", "RS4", "PS50", "N")
SEED = 3


def tiny_config():
    config = configuration.photovoltaic()
    config.model.hidden_units, config.model.latent_dim, config.model.auxiliary_dim = (4,), 2, 2
    config.training.batch_size = 50
    return config


def numbered(count=200, names=NAMES):
    """Measurements whose I is the number of the row, the conditions taking turns."""
    numbers = np.arange(count)
    values = {"I": 1.0 * numbers, "V": 10.0 + numbers / 2, "G": 500.0 + numbers % 7}
    times = pd.date_range("2024-01-01T08:00Z", periods=count, freq="1min", name="time")
    frame = pd.DataFrame(values, index=times)
    frame["condition"] = pd.Categorical.from_codes(numbers % len(names), list(names))
    return frame


def rows_of(x, scale):
    """Numbers of the rows `x` of `numbered`, which only the right scale gives back."""
    numbers = scale.undo(x)[:, 0]
    rows = np.rint(numbers).astype(int)
    np.testing.assert_allclose(numbers, rows, atol=1e-3)
    return rows


class Notes:
    """What the learners were given.

    Attributes:
      fits: in order, each with `model`, `learner`, `x`, `y`, `validation` and `seed`.
      scored: the rows that were classified, in order.
      answer: `(model, x) -> (classes [N], bound [N])`, of an SDGM.
    """

    def __init__(self):
        self.fits, self.scored = [], []
        self.answer = lambda model, x: (np.zeros(len(x), int), np.zeros(len(x)))


@contextlib.contextmanager
def untrained_learners():
    notes = Notes()

    def fit_of(name):
        def fit(learner, x, y, validation=None, seed=0, workdir=None):
            if isinstance(validation, tuple):  # with labels
                validation = validation[0]
            notes.fits.append(
                types.SimpleNamespace(
                    model=name, learner=learner, x=x, y=y, validation=validation, seed=seed
                )
            )
            return training.RunState()

        return fit

    def score(scorer, x):
        notes.scored.append(x)
        classes, bound = notes.answer(scorer.model, x)
        return np.eye(scorer.model.num_classes, dtype=np.float32)[classes], bound

    def predict(learner, x):
        notes.scored.append(x)
        return np.zeros(len(x), int)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning.Learner, "fit", fit_of("sdgm"))
        patch.setattr(learning.Scorer, "__call__", score)
        patch.setattr(learning, "latents", lambda model, x: x[:, :2, 0, 0])
        for name, kind in (("mlp", learning.Perceptron), ("mlr", learning.LogisticRegression)):
            patch.setattr(kind, "fit", fit_of(name))
            patch.setattr(kind, "predict", predict)
        yield notes


@pytest.fixture
def untrained():
    with untrained_learners() as notes:
        yield notes


def study_of(tmp_path, kind):
    settings = {"data": "numbers", "seed": SEED, "inputs": ["iv"]}
    return studies.Study(
        numbered(), str(tmp_path / kind), kind, settings, tiny_config(), jit_compile=False
    )


def fold_of(study, fold):
    """`(train, test, scale)`: numbers of the rows, and the scale of those for training."""
    train, test = samples.monte_carlo_split(len(study.y), SEED, fold)
    values = study.frame[["I", "V"]].to_numpy()
    return train, test, samples.Standardisation.of(values[train], ("I", "V"))


# Experiments of the paper ----------------------------------------------------------------------


def test_supervised_study_fits_to_training_rows_alone(tmp_path, untrained):
    study = study_of(tmp_path, "supervised")
    table = studies.supervised(study, folds=1)["rows"]
    train, test, scale = fold_of(study, 0)
    mlr, mlp, sdgm = untrained.fits
    assert [fit.model for fit in untrained.fits] == ["mlr", "mlp", "sdgm"]
    for fit in (mlr, mlp, sdgm):
        rows = rows_of(fit.x, scale)
        np.testing.assert_array_equal(rows, rows_of(sdgm.x, scale))
        np.testing.assert_array_equal(fit.y, study.y[rows])
        assert len(rows) == 144 and set(rows) < set(train)
    for fit in (mlp, sdgm):  # what stops them is the rest of the training rows
        there = [*rows_of(fit.x, scale), *rows_of(fit.validation, scale)]
        assert sorted(there) == list(train)
    assert len(untrained.scored) == 3
    for x in untrained.scored:
        np.testing.assert_array_equal(rows_of(x, scale), test)
    accuracy = 100 * np.mean(study.y[test] == 0)  # of the answer "0"
    assert all(row["accuracy"] == pytest.approx(accuracy) for row in table)


def test_label_study_gives_so_many_labels_and_the_sdgm_all_rows(tmp_path, untrained):
    study = study_of(tmp_path, "labels")
    table = studies.labels(study, draws=2, counts=(42,))["rows"]
    chosen, accuracies = [], []
    for draw in range(2):
        train, test, scale = fold_of(study, draw)
        mlr, mlp, sdgm = untrained.fits[3 * draw : 3 * draw + 3]
        labelled = []
        for fit in (mlr, mlp, sdgm):
            rows, known = rows_of(fit.x, scale), fit.y != samples.UNKNOWN
            assert set(rows) < set(train)
            np.testing.assert_array_equal(fit.y[known], study.y[rows[known]])
            labelled.append(set(rows[known]))
        # The MLP keeps two labelled rows of each condition back, to stop by.
        stop = set(rows_of(mlp.validation, scale))
        assert len(stop) == 8 and not stop & labelled[1]
        assert labelled[0] == labelled[1] | stop == labelled[2]
        assert np.bincount(study.y[sorted(labelled[0])]).tolist() == [11, 11, 10, 10]
        # The SDGM sees every training row, but for those that stop it.
        seen = rows_of(sdgm.x, scale)
        assert len(seen) == 144
        assert sorted([*seen, *rows_of(sdgm.validation, scale)]) == list(train)
        for x in untrained.scored[3 * draw : 3 * draw + 3]:
            np.testing.assert_array_equal(rows_of(x, scale), test)
        chosen.append(labelled[0])
        accuracies.append(100 * np.mean(study.y[test] == 0))
    assert chosen[0] != chosen[1] and untrained.fits[2].seed != untrained.fits[5].seed
    for row in table:
        assert row["accuracy"] == pytest.approx(np.mean(accuracies))
        assert row["std"] == pytest.approx(np.std(accuracies, ddof=1)) and row["std"] > 0


def test_progressive_study_takes_its_threshold_from_known_rows_that_are_not_for_the_test(
    tmp_path, untrained, monkeypatch
):
    monkeypatch.setattr(samples, "PROGRESSIVE_LABELS", 10)
    study = study_of(tmp_path, "progressive")
    train, test, scale = fold_of(study, 0)
    stage = 1
    values = study.frame[["I", "V"]].to_numpy()
    standardise = study.standardised

    def noted(inputs, fitted):
        nonlocal scale
        scale = samples.Standardisation.of(values[fitted], ("I", "V"))
        return standardise(inputs, fitted)

    monkeypatch.setattr(study, "standardised", noted)

    def answer(model, x):
        """Bounds about 1 of known training rows, 2 of known test rows, -1000 of unseen ones."""
        rows = rows_of(x, scale)
        bound = np.where(np.isin(rows, test), 2.0, 1.0 + rows / 1000)
        return study.y[rows], np.where(study.y[rows] < stage, bound, -1000.0)

    untrained.answer = answer
    (row,) = studies.progressive(study, 1, false_alarm_rate=0.05, num_classes=stage)["rows"]
    assert 1.0 <= row["threshold"] < 1.2
    assert (row["false_alarm_rate"], row["detection_rate"]) == (0.0, 1.0)
    assert (row["bound_included"], row["bound_unseen"]) == (2.0, -1000.0)
    assert (row["roc_auc"], row["sdgm_accuracy"]) == (1.0, 100.0)
    np.testing.assert_array_equal(rows_of(untrained.scored[-1], scale), test)

    sdgm, mlp = untrained.fits
    rows, stop = rows_of(sdgm.x, scale), rows_of(sdgm.validation, scale)
    is_known = study.y[rows] < stage
    assert len(stop) and (study.y[stop] < stage).all()
    assert sorted([*rows[is_known], *stop]) == list(train[study.y[train] < stage])
    assert set(rows) < set(train) and np.bincount(study.y[rows]).tolist()[1:] == [1, 1, 1]
    known = sdgm.y != samples.UNKNOWN
    np.testing.assert_array_equal(sdgm.y[known], study.y[rows[known]])
    assert np.bincount(sdgm.y[known]).tolist() == [10, 1, 1, 1]
    # The MLP has the same labels, but for a fifth of those of the known condition, which stop it.
    np.testing.assert_array_equal(rows_of(mlp.x, scale), rows)
    learns, stops = mlp.y != samples.UNKNOWN, set(rows_of(mlp.validation, scale))
    assert set(rows[learns]) == set(rows[known]) - stops and stops < set(rows[known])
    np.testing.assert_array_equal(mlp.y[learns], sdgm.y[learns])
    assert np.bincount(mlp.y[learns]).tolist() == [8, 1, 1, 1]
    # Rows that are not there yet have no part in the standardisation either.
    assert scale == samples.Standardisation.of(values[np.sort(rows)], ("I", "V"))
    np.testing.assert_allclose(sdgm.x.mean(0), 0.0, atol=1e-4)


def test_multilayer_perceptron_drops_half_of_its_units(tmp_path):
    layers = study_of(tmp_path, "labels").perceptron("iv").model.layers
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Dense", "Dropout", "Dense"]
    assert layers[1].rate == 0.5


def test_data_set_of_the_simulation_has_three_disjoint_parts(monkeypatch):
    frame = numbered(400, simulate.CONDITIONS)
    monkeypatch.setattr(samples, "simulate", lambda seed: frame)
    for split in ("all", "known_2"):
        dataset = samples.simulated("pv_simulated_iv", None, SEED, split)
        parts = (dataset.train, dataset.validation, dataset.test)
        numbers = np.concatenate([part.images[:, 0, 0, 0] for part in parts])
        assert len(np.unique(numbers)) == len(numbers)
        if split == "all":
            labels = np.concatenate([part.labels for part in parts])
            np.testing.assert_array_equal(labels[np.argsort(numbers)], np.arange(400) % 10)
            assert [len(part.images) for part in parts] == [288, 32, 80]
        own = dataset.train.images[:, 0, 0, 0]
        assert abs(own.mean()) < 1e-5 and abs(own.std() - 1) < 1e-5


# Safety of a plant -----------------------------------------------------------------------------


def test_no_version_is_fitted_to_rows_that_are_held_out(tmp_path, untrained):
    frame, folder = numbered(600), str(tmp_path / "monitor")
    has_label = np.arange(600) % 3 == 0
    frame["condition"] = frame["condition"].where(has_label)
    held_out = samples.is_held_out(frame.index)
    values = frame[["I", "V"]].to_numpy()
    for update in (False, True):
        plant.fit(
            frame, folder, tiny_config(), columns=("I", "V"), max_rows=100, update=update,
            jit_compile=False,
        )  # fmt: skip
        fit, scale = untrained.fits[-1], plant.Monitor.load(folder, jit_compile=False).scale
        rows = rows_of(fit.x, scale)
        assert not held_out[rows].any()
        stop = rows_of(fit.validation, scale)  # a ninth of max_rows without a label, at most
        assert held_out[stop].all() and np.sum(held_out & ~has_label) > 11
        assert np.sum(~has_label[stop]) == 11
        np.testing.assert_array_equal(stop[has_label[stop]], np.flatnonzero(held_out & has_label))
        known = fit.y != samples.UNKNOWN
        np.testing.assert_array_equal(rows[known], np.flatnonzero(has_label & ~held_out))
        np.testing.assert_array_equal(fit.y[known], rows[known] % 4)
        assert np.sum(~known) == 100
        np.testing.assert_allclose(scale.mean, values[rows].mean(0))
        np.testing.assert_allclose(scale.std, values[rows].std(0))


@pytest.fixture
def offered(tmp_path, untrained, monkeypatch):
    """`offered(known_wrong, new_wrong, alarms)` offers a version that knows N besides, with these
    shares of mistakes on held-out rows: of the conditions before, of N, and of false alarms.

    What the old version says of a row stands in its column I, what the new one says in V, and the
    bound in G.
    """
    codes = np.arange(4000) % 4
    frame = numbered(4000).assign(I=codes, V=codes, G=1.0)
    held_out = samples.is_held_out(frame.index)
    frame.iloc[np.flatnonzero(~held_out)[0], frame.columns.get_loc("G")] = 2.0  # as it has to vary
    places = {
        "known_wrong": np.flatnonzero(held_out & (codes < 3)),
        "new_wrong": np.flatnonzero(held_out & (codes == 3)),
        "alarms": np.flatnonzero(held_out),
    }
    changes = {"known_wrong": ("V", 3), "new_wrong": ("V", 0), "alarms": ("G", 0.0)}
    monkeypatch.setattr(
        samples.Standardisation,
        "of",
        classmethod(lambda cls, values, columns: cls(tuple(columns), (0.0,) * 3, (1.0,) * 3)),
    )

    def answer(model, x):
        old, new, bound = x[..., 0, 0].T
        return (old if model.num_classes == 3 else new).astype(int), bound

    untrained.answer = answer
    fit = functools.partial(
        plant.fit, config=tiny_config(), columns=("I", "V", "G"), jit_compile=False
    )
    fit(frame[codes < 3], str(tmp_path / "base"))

    def offered(**shares):
        folder = str(tmp_path / "monitor")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "base", folder)
        changed = frame.copy()
        for name, share in shares.items():
            column, value = changes[name]
            chosen = places[name][: round(share * len(places[name]))]
            changed.iloc[chosen, changed.columns.get_loc(column)] = value
        try:
            return fit(changed, folder, update=True)["version"]
        except RunError:
            assert plant.current(folder) == {"version": "0001", "previous": None}
            raise

    return offered


def test_update_must_be_as_right_about_the_conditions_before(offered):
    assert offered(known_wrong=0.015) == "0002"
    only = r"stays in use: right about 97\.\d % of [^;]*, the old version about 100\.0 %; the cand"
    with pytest.raises(RunError, match=only):
        offered(known_wrong=0.025)


def test_update_must_recall_half_of_a_new_condition(offered):
    assert offered(new_wrong=0.45) == "0002"
    with pytest.raises(RunError, match=r"stays in use: recalls 4\d\.\d % of .* N; the cand"):
        offered(new_wrong=0.55)


def test_update_must_not_raise_three_times_the_wanted_false_alarms(offered):
    assert offered(alarms=0.025) == "0002"
    only = r"stays in use: false alarms on 3\.\d % of held-out rows, at most 3\.0 % [^;]*; the cand"
    with pytest.raises(RunError, match=only):
        offered(alarms=0.035)


def test_changed_rows_do_not_go_on_with_the_fit_of_others(tmp_path, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(learning.Learner, "fit", stop)
    frame, folder = numbered(), tmp_path / "monitor"
    fitted = np.flatnonzero(~samples.is_held_out(frame.index))
    value, label, judged = frame.copy(), frame.copy(), frame.copy()
    value.iloc[fitted[0], 0] += 0.5
    judged.iloc[np.flatnonzero(samples.is_held_out(frame.index))[0], 0] += 0.5
    label.iloc[fitted[0], -1] = NAMES[1]
    begun = []
    for rows in (frame, value, label, judged, frame):
        with pytest.raises(KeyboardInterrupt):
            plant.fit(rows, str(folder), tiny_config(), columns=("I", "V"), jit_compile=False)
        begun.append(len(list(folder.glob("candidate-*"))))
    assert begun == [1, 2, 3, 4, 4]


def test_update_to_fewer_columns_is_compared_with_the_version_that_has_them_all(
    tmp_path, untrained
):
    frame, folder = numbered(600), str(tmp_path / "monitor")
    fit = functools.partial(plant.fit, folder=folder, config=tiny_config(), jit_compile=False)
    fit(frame, columns=("I", "V", "G"))
    count = len(untrained.fits)
    with pytest.raises(RunError, match="columns of the version in use, I, V, G.* without G"):
        fit(frame.drop(columns="G"), columns=("I", "V"), update=True)
    assert len(untrained.fits) == count  # refused before anything is trained
    assert fit(frame, columns=("I", "V"), update=True)["columns"] == ["I", "V"]


def test_update_is_put_into_use_only_after_the_version_that_it_was_compared_with(
    tmp_path, untrained, monkeypatch
):
    folder = str(tmp_path / "monitor")
    fit = functools.partial(
        plant.fit, numbered(), folder, tiny_config(), columns=("I", "V"), jit_compile=False
    )
    fit()
    fit(update=True)
    train = learning.Learner.fit

    def meanwhile(*arguments, **options):
        plant.roll_back(folder)
        return train(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(learning.Learner, "fit", meanwhile)
        with pytest.raises(RunError, match="version 0001 of .* is in use by now, not 0002"):
            fit(update=True)
    assert plant.current(folder) == {"version": "0001", "previous": "0002"}
    assert fit(update=True)["version"] == "0003"
    assert plant.current(folder) == {"version": "0003", "previous": "0001"}


def test_two_fits_at_once_are_refused(tmp_path, monkeypatch):
    frame, folder, errors = numbered(), str(tmp_path / "monitor"), []

    def fit():
        return plant.fit(frame, folder, tiny_config(), columns=("I", "V"), jit_compile=False)

    def while_another_begins(*arguments, **options):
        assert not errors, "the other one has begun"
        with pytest.raises(RunError) as error:
            errors.append(error)
            fit()
        return training.RunState()

    monkeypatch.setattr(learning.Learner, "fit", while_another_begins)
    assert fit()["version"] == "0001"
    assert "another process fits in" in str(errors[0].value)


# Command line ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """`(log, folder, fit)`: a log in names and units of its own, and what was fitted to it."""
    path = tmp_path_factory.mktemp("typed")
    log, folder = str(path / "log.csv"), str(path / "monitor")
    frame = numbered(600)
    frame["condition"] = frame["condition"].where(np.arange(600) % 3 == 0)
    frame["V"] *= 1000
    frame.rename(columns={"I": "Ia", "V": "Va", "G": "Ga", "condition": "Fault"}).to_csv(log)
    with untrained_learners() as notes:
        notes.answer = lambda model, x: (np.zeros(len(x), int), x[:, 0, 0, 0])
        commands.main(
            [
                "fit", log, f"--out={folder}", "--columns=I=Ia,V=Va,G=Ga", "--units=V:mV",
                "--label_column=Fault", "--inputs=I,V", "--false_alarm_rate=0.25", "--max_rows=50",
                "--epochs=7", "--seed=5",
            ]
        )  # fmt: skip
    return log, folder, notes.fits[0]


def version_of(folder):
    """`(monitor.json, summary.json)` of the version in use."""
    path = pathlib.Path(plant.version_folder(folder))
    return files.read_json(path / "monitor.json"), files.read_json(path / "summary.json")


def test_typed_fit_does_as_it_is_told(typed):
    log, folder, fit = typed
    settings, summary = version_of(folder)
    assert settings["columns"] == summary["columns"] == ["I", "V"]
    assert settings["conditions"] == list(NAMES) and settings["false_alarm_rate"] == 0.25
    assert fit.seed == 5 and fit.learner.config.training.epochs == 7
    rows = rows_of(fit.x, samples.Standardisation.from_json(settings["standardisation"]))
    known = fit.y != samples.UNKNOWN
    np.testing.assert_array_equal(fit.y[known], rows[known] % 4)
    assert (rows[known] % 3 == 0).all() and np.sum(~known) == 50
    assert summary["rows"] == len(rows) and sum(summary["labels"].values()) == known.sum()
    assert np.mean(fit.x[:, 0, 0, 0] < settings["threshold"]) == pytest.approx(0.25, abs=0.01)
    mean = settings["standardisation"]["mean"]
    assert mean[1] == pytest.approx(10 + mean[0] / 2)  # volts


def test_typed_score_and_report_read_logs_as_the_fit_did(typed, untrained, tmp_path, capsys):
    log, folder, _ = typed
    untrained.answer = lambda model, x: (np.full(len(x), 2), x[:, 0, 0, 0])
    scores, page = str(tmp_path / "scores.csv"), tmp_path / "page.html"
    commands.main(["score", log, f"--model={folder}", f"--out={scores}", "--chunk_rows=250"])
    assert [len(x) for x in untrained.scored] == [250, 250, 100]
    table, threshold = pd.read_csv(scores), version_of(folder)[0]["threshold"]
    np.testing.assert_array_equal(table["I"], np.arange(600))
    np.testing.assert_allclose(table["V"], 10 + np.arange(600) / 2)
    assert table["label"][:6].fillna("").tolist() == ["PS7", "", "", "N", "", ""]
    assert set(table["condition"]) == {"PS50"} and "G" not in table
    np.testing.assert_array_equal(table["is_anomaly"], table["bound"] < threshold)
    assert 0.2 < table["is_anomaly"].mean() < 0.3

    commands.main(["report", scores, f"--model={folder}", f"--out={page}", "--title=Roof 7"])
    text = page.read_text()
    assert "<h1>Roof 7</h1>" in text and "for false alarms on 25 % of ordinary rows" in text
    assert "<td>version</td><td>0001</td>" in text and "<td>inputs</td><td>I, V</td>" in text
    assert str(page) in capsys.readouterr().out

    # What is said anew comes before what is remembered.
    plain = tmp_path / "plain.csv"
    numbered(60).drop(columns="condition").assign(condition="N").to_csv(plain)
    said = ["--columns=I=I,V=V,G=G", "--units=V:V", "--label_column=condition"]
    commands.main(["score", str(plain), f"--model={folder}", f"--out={scores}", *said])
    np.testing.assert_allclose(pd.read_csv(scores)["V"], 10 + np.arange(60) / 2)
    with pytest.raises(RunError, match="expected columns Ia, Va"):
        commands.main(["score", str(plain), f"--model={folder}", f"--out={scores}"])


def test_typed_update_reads_logs_as_the_fit_did_and_is_rolled_back(
    typed, untrained, tmp_path, capsys
):
    log, folder = typed[0], str(tmp_path / "monitor")
    shutil.copytree(typed[1], folder)
    commands.main(["fit", log, f"--update={folder}", "--max_rows=20"])
    assert plant.current(folder) == {"version": "0002", "previous": "0001"}
    settings, summary = version_of(folder)
    assert settings["columns"] == ["I", "V"] and settings["false_alarm_rate"] == 0.25
    assert settings["log"] == version_of(typed[1])[0]["log"]
    assert summary["rows"] == sum(summary["labels"].values()) + 20
    capsys.readouterr()
    for version, previous in (("0001", "0002"), ("0002", "0001")):
        commands.main(["rollback", f"--model={folder}"])
        assert plant.current(folder) == {"version": version, "previous": previous}
        assert capsys.readouterr().out == f"version {version} is in use\n"
    commands.main(["fit", log, f"--update={folder}", "--max_rows=20", "--inputs=I"])
    assert version_of(folder)[0]["columns"] == ["I"]  # compared with one that has I and V
    with pytest.raises(RunError, match="has no version before 0001"):
        commands.main(["rollback", f"--model={typed[1]}"])


def test_typed_simulation_keeps_labels_and_conditions_as_it_is_told(tmp_path, monkeypatch, capsys):
    small = functools.cache(functools.partial(simulate.simulate, samples=300, progress=False))
    monkeypatch.setattr(simulate, "simulate", small)
    whole = small(days=20, seed=3)

    def simulated(name, *options):
        out = tmp_path / name
        commands.main(["simulate", f"--out={out}", "--days=20", "--seed=3", *options])
        return logs.read_log(out)

    frame = simulated("a.csv")
    np.testing.assert_array_equal(frame.index, whole.index)
    np.testing.assert_allclose(frame.iloc[:, :6], whole.iloc[:, :6], atol=1e-4)
    assert frame["condition"].tolist() == whole["condition"].tolist()
    assert "300 rows, 300 with a label" in capsys.readouterr().out

    frame = simulated("b.parquet", "--labels_per_condition=5")
    assert len(frame) == 300
    assert frame["condition"].value_counts().to_dict() == dict.fromkeys(simulate.CONDITIONS, 5)
    labelled = frame["condition"].dropna()
    assert labelled.tolist() == whole["condition"][labelled.index].tolist()
    assert "300 rows, 50 with a label" in capsys.readouterr().out

    frame = simulated("c.csv", "--conditions=N,PS50")
    expected = whole[whole["condition"].isin(["N", "PS50"])]
    assert frame["condition"].tolist() == expected["condition"].tolist()
    with pytest.raises(RunError, match="expected conditions among PS7, .* Received: Q"):
        simulated("d.csv", "--conditions=N,Q")


@pytest.mark.parametrize(
    "study, options, parts",
    [
        ("supervised", ["--folds=2"], {"mlr-iv-fold1", "mlp-iv-fold1", "sdgm-iv-fold1"}),
        ("labels", ["--draws=1", "--counts=8,12"], {"mlr-iv-8-draw0", "sdgm-iv-12-draw0"}),
        ("progressive", ["--draws=2", "--false_alarm_rate=0.2"], {"stage1-draw1", "stage3-draw0"}),
    ],
)
def test_typed_experiment_has_the_parts_that_were_asked_for(
    typed, untrained, tmp_path, capsys, study, options, parts
):
    untrained.answer = lambda model, x: (np.zeros(len(x), int), x[:, 0, 0, 0])
    out = tmp_path / study
    commands.main(
        [
            "experiment", study, f"--log={typed[0]}", f"--out={out}", "--inputs=iv", "--epochs=7",
            "--columns=I=Ia,V=Va,G=Ga", "--units=V:mV", "--label_column=Fault", "--seed=5", *options,
        ]
    )  # fmt: skip
    assert {path.stem for path in out.glob("parts/*.json")} >= parts
    assert len(list(out.glob("parts/*.json"))) == 6
    summary = json.loads((out / "summary.json").read_text())
    settings = summary["settings"]
    assert (summary["study"], settings["data"], settings["inputs"]) == (study, "log.csv", ["iv"])
    assert (settings["seed"], settings["rows"], settings["conditions"]) == (5, 200, list(NAMES))
    assert settings["model"]["training.epochs"] == 7
    if study == "progressive":
        assert settings["false_alarm_rate"] == summary["wanted_false_alarm_rate"] == 0.2
    lines = (out / "table.csv").read_text().splitlines()
    assert len(lines) == 1 + len(summary["rows"])
    *_, end = printed = capsys.readouterr().out.splitlines()
    assert end == f"study's folder: {out}"
    names = [name for name in summary["rows"][0] if not name.endswith("_std")]
    assert printed[-2 - len(summary["rows"])].split() == names  # the table that follows
