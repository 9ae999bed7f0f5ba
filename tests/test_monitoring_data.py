"""The simulated plant against pvlib solved slowly, and logs in every bad form."""

import gzip
import sys

import numpy as np
import pytest
import scipy.optimize

WITHOUT = "plant monitoring needs the extra [pv]: pip install tfhvae[pv]"
pd = pytest.importorskip("pandas", reason=WITHOUT)
pvlib = pytest.importorskip("pvlib", reason=WITHOUT)
pytest.importorskip("pyarrow", reason=WITHOUT)

from tfhvae.errors import RunError  # noqa: E402
from tfhvae.monitoring import logs, simulate  # noqa: E402

STRAY, HALF, QUARTER = 0.1, 0.1 + 0.9 * 0.5, 0.1 + 0.9 * 0.25
LOWER = 0.1 + 0.9 * 0.7


def submodules(condition):
    """The light on each of the 18 cells of each of the 32 submodules, written out."""
    lit = [1.0] * 18
    half_shaded = [1.0] * 9 + [STRAY] * 9
    return {
        "PS7": [[1.0] * 17 + [LOWER], [1.0] * 16 + [LOWER] * 2] * 16,
        "PS50": [lit] * 31 + [half_shaded],
        "PSRS": [lit] * 31 + [half_shaded],
        "PS75": [lit] * 30 + [half_shaded, [1.0] * 13 + [STRAY] * 4 + [HALF]],
        "IV": [lit] * 26 + [[QUARTER] * 18] * 6,
        "S": [lit] * 20 + [[0.2] * 18] * 12,
    }.get(condition, [lit] * 32)


def exact_voltage(condition, current, irradiance, temperature):
    """Voltage of the string (V) at one current (A): every cell solved by bisection."""
    module = simulate.module_parameters()
    solved = {}

    def cell(openness):
        if openness not in solved:
            il, io, rs, rsh, nvth = pvlib.pvsystem.calcparams_desoto(
                0.9375 * openness * irradiance, temperature, module["alpha_sc"], module["a_ref"],
                module["I_L_ref"], module["I_o_ref"], module["R_sh_ref"], module["R_s"],
            )  # fmt: skip

            def excess(diode_voltage):
                return (
                    pvlib.singlediode.bishop88(
                        diode_voltage, il, io, rs / 72, rsh / 72, nvth / 72,
                        breakdown_factor=2e-3, breakdown_voltage=-15.0, breakdown_exp=3.0,
                    )[0] - current
                )  # fmt: skip

            root = scipy.optimize.brentq(excess, -14.9, 0.9, xtol=1e-12)
            solved[openness] = root - current * rs / 72
        return solved[openness]

    total = sum(max(sum(cell(c) for c in cells), -0.5) for cells in submodules(condition))
    string = 8 * module["R_s"] + 0.3
    added = {"RS4": 0.5, "PSRS": 0.5, "RS8": 1.0}.get(condition, 0.0) * string
    return total - current * (0.3 + added)


def maximum(condition, irradiance, temperature, covered=0, snow=1.0):
    values = (np.array([v]) for v in (irradiance, temperature, covered, snow))
    current, voltage = simulate.maximum_power(condition, *values)
    return current[0], voltage[0]


def test_module_is_that_of_the_library():
    row = pvlib.pvsystem.retrieve_sam("SandiaMod")["BP_Solar_MSX120__2003__E__"]
    sheet = simulate.DATASHEET
    assert (row.Vmpo, row.Impo, row.Voco, row.Isco) == tuple(
        sheet[name] for name in ("v_mp", "i_mp", "v_oc", "i_sc")
    )
    assert row.Cells_in_Series == 72 == simulate.SUBMODULES * simulate.CELLS
    assert (row.Bvoco, row.Aisc * row.Isco) == (sheet["beta_voc"], sheet["alpha_sc"])
    assert simulate.THERMAL == {"a": row.A, "b": row.B, "deltaT": row.DTC}


def test_fitted_module_has_the_values_of_its_datasheet():
    p = simulate.module_parameters()
    point = pvlib.pvsystem.singlediode(
        p["I_L_ref"], p["I_o_ref"], p["R_s"], p["R_sh_ref"], p["a_ref"]
    )
    for name in ("v_mp", "i_mp", "v_oc", "i_sc"):
        assert point[name] == pytest.approx(simulate.DATASHEET[name], rel=2e-3), name


def test_string_is_of_900_watts():
    current, voltage = maximum("N", 1000.0, 25.0)
    assert current * voltage == pytest.approx(900, rel=0.01)
    i, v = simulate.string_curve("N")
    sheet = simulate.DATASHEET
    assert v[0] == pytest.approx(8 * sheet["v_oc"], rel=0.01)  # a little less light
    assert i[-1] == pytest.approx(0.9375 * sheet["i_sc"], rel=0.005)
    nominal = sheet["v_mp"] * sheet["i_mp"] / sheet["v_oc"] / sheet["i_sc"]
    assert current * voltage / i[-1] / v[0] == pytest.approx(nominal, rel=0.02)
    assert np.all(np.diff(v) < 0) and v[-1] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("condition", simulate.CONDITIONS)
@pytest.mark.parametrize("irradiance, temperature", [(900.0, 45.0), (120.0, 3.0)])
def test_curve_and_maximum_are_exact(condition, irradiance, temperature):
    covered, snow = (3, 0.2) if condition == "S" else (0, 1.0)
    current, voltage = simulate.string_curve(condition, irradiance, temperature, 3, 0.2, points=41)
    for i, v in list(zip(current, voltage))[::5]:
        assert v == pytest.approx(exact_voltage(condition, i, irradiance, temperature), abs=0.1)

    # brute force: the whole range coarsely, then finely about the best
    grid = np.linspace(0.01, 1, 100) * current[-1]
    for _ in range(2):
        exact = [exact_voltage(condition, i, irradiance, temperature) for i in grid]
        power = grid * exact
        best = np.argmax(power)
        grid = grid[best] + np.linspace(-1.5, 1.5, 61) * (grid[1] - grid[0])
    i, v = maximum(condition, irradiance, temperature, covered, snow)
    assert i * v == pytest.approx(power[best], rel=2e-4)
    assert v == pytest.approx(exact_voltage(condition, i, irradiance, temperature), abs=0.05)


def test_series_resistance_lowers_the_voltage_in_proportion_to_the_current():
    resistance = simulate.string_resistance()
    for condition, part in (("RS4", 0.5), ("RS8", 1.0)):
        current, voltage = simulate.string_curve("N", 700.0, 30.0, points=200)
        i, v = simulate.string_curve(condition, 700.0, 30.0, points=400)
        held = np.interp(current[:150], i, v)
        np.testing.assert_allclose(
            voltage[:150] - held, part * resistance * current[:150], atol=0.05
        )
    sound, faulty = maximum("N", 700.0, 30.0), maximum("RS4", 700.0, 30.0)
    # at the maxima the current gives way a little too
    assert sound[1] - faulty[1] == pytest.approx(0.5 * resistance * sound[0], rel=0.25)


def test_bypassed_submodule_costs_a_quarter_of_a_module():
    sound = maximum("N", 800.0, 25.0)[1]
    for condition, count in (("PS50", 1), ("PS75", 2), ("IV", 6)):
        lost = sound - maximum(condition, 800.0, 25.0)[1]
        assert lost == pytest.approx(count * (sound / 32 + 0.5), rel=0.05), condition


def test_power_grows_with_light_and_falls_with_heat():
    n = 40
    light, warm = np.linspace(30, 1100, n), np.full(n, 25.0)
    for condition in simulate.CONDITIONS:
        covered, snow = np.full(n, 2), np.full(n, 0.3)
        i, v = simulate.maximum_power(condition, light, warm, covered, snow)
        assert np.all(np.diff(i * v) > 0), condition
        i, v = simulate.maximum_power(
            condition, np.full(n, 800.0), np.linspace(-10, 60, n), covered, snow
        )
        assert np.all(np.diff(i * v) < 0), condition


def test_covered_modules_are_bypassed_or_hold_back_the_string():
    free, one, all_eight = (maximum("S", 500.0, 0.0, n, 0.1) for n in (0, 1, 8))
    assert free == pytest.approx(maximum("N", 500.0, 0.0))
    assert one[1] == pytest.approx(free[1] * 7 / 8, rel=0.03) and one[0] > 0.95 * free[0]
    assert all_eight[0] < 0.15 * free[0]


def test_shares():
    assert tuple(simulate.SHARES) == simulate.CONDITIONS and len(simulate.CONDITIONS) == 10
    assert sum(simulate.SHARES.values()) == pytest.approx(100, abs=0.05)
    assert set(simulate.SCHEDULE) == set(simulate.CONDITIONS)
    for samples in (50, 777, 15_000):
        counts = simulate.condition_counts(samples)
        assert sum(counts.values()) == samples
        for name, count in counts.items():
            assert abs(count - simulate.SHARES[name] * samples / 100.02) < 1


@pytest.fixture(scope="module")
def plant():
    return simulate.simulate(days=30, seed=3, samples=2000, progress=False)


def test_simulated_frame(plant):
    assert list(plant.columns) == [*simulate.COLUMNS, "condition"]
    assert plant.index.name == "time" and str(plant.index.tz) == "UTC"
    assert plant.index.is_monotonic_increasing and plant.index.is_unique
    assert (plant.index[0].date() - pd.Timestamp("2017-03-01").date()).days >= 0
    assert plant.index[-1] < pd.Timestamp("2017-03-31", tz="UTC")
    assert tuple(plant.condition.cat.categories) == simulate.CONDITIONS
    assert plant.condition.value_counts().to_dict() == simulate.condition_counts(2000)
    assert not plant.isna().any().any() and set(plant.dtypes[:6]) == {np.dtype(float)}
    blocks = plant.condition[plant.condition != plant.condition.shift()]
    assert tuple(blocks) == simulate.SCHEDULE
    for name, (low, high) in logs.LIMITS.items():
        assert plant[name].between(low, high).all(), name
    assert (plant.G > simulate.DAYLIGHT).all()


def test_simulated_plant_behaves(plant):
    by = {name: rows for name, rows in plant.groupby("condition", observed=False)}
    efficiency = plant.I * plant.V / plant.G / 0.9  # 1 at the nominal power
    assert np.median(efficiency[by["N"].index]) == pytest.approx(0.95, abs=0.08)
    for name in ("PS7", "PSRS", "PS75", "IV", "S"):
        assert efficiency[by[name].index].median() < efficiency[by["N"].index].median() - 0.03, name
    assert by["IV"].V.median() < by["PS75"].V.median() < by["N"].V.median() < by["PS7"].V.median()
    assert by["S"].TMod.median() < 5 and by["C"].G.median() < 0.5 * by["N"].G.median()
    for name in ("N", "IV", "PS7"):
        assert np.corrcoef(by[name].I, by[name].G)[0, 1] > 0.97, name
    assert (plant.TMod - plant.TExt)[plant.G > 700].median() > 8
    assert (plant.W >= 0).all()


def test_seed_decides_everything(plant):
    again = simulate.simulate(days=30, seed=3, samples=2000, progress=False)
    pd.testing.assert_frame_equal(plant, again)
    other = simulate.simulate(days=30, seed=4, samples=2000, progress=False)
    assert not np.array_equal(plant.I, other.I)


def test_simulate_refuses():
    for options in (
        {"days": 0}, {"days": 2.5}, {"seed": -1}, {"days": True}, {"samples": 3},
        {"start": "2017-03-01 07:00"}, {"days": 3, "samples": 5000},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected .* Received"):
            simulate.simulate(progress=False, **{"days": 20, **options})
    with pytest.raises(ValueError, match="PS7, RS4"):
        simulate.string_curve("PS8")
    with pytest.raises(ValueError, match="irradiance > 0"):
        simulate.string_curve("N", irradiance=0.0)


def test_days_without_light_are_passed_over():
    with pytest.raises(ValueError, match="Received: days=13, used up"):
        simulate.simulate(13, start="2016-12-15", samples=5000, progress=False)
    dark = simulate.simulate(26, start="2016-12-15", samples=300, progress=False)
    assert len(dark) == 300 and dark.G.max() < 700


def test_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pvlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"pvlib.*pip install tfhvae\[pv\]"):
        simulate._pvlib()


def test_figure_of_the_curves():
    figure = simulate.draw_curves()
    left, right = figure.axes
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert set(", ".join(labels).split(", ")) == set(simulate.CONDITIONS)
    assert len(right.lines) == 2 * len(labels)


HEADER = "time,I,V,G,TExt,TMod,W"
ROWS = [
    "2017-03-01 10:00:00+00:00,1.5,270,500,5,20,3",
    "2017-03-01 10:01:00+00:00,1.6,271,510,5.1,20.5,3.5",
    "2017-03-01 10:02:00+00:00,1.7,272,520,5.2,20.9,2.5",
    "2017-03-01 10:03:00+00:00,1.8,273,530,5.3,21.1,0",
]


@pytest.fixture
def write(tmp_path):
    def write(rows=ROWS, header=HEADER, name="log.csv"):
        path = tmp_path / name
        path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return path

    return write


def changed(row, column, value):
    """ROWS with one cell replaced."""
    cells = [line.split(",") for line in ROWS]
    cells[row][HEADER.split(",").index(column)] = value
    return [",".join(line) for line in cells]


def test_good_log(write):
    report = logs.Report()
    frame = logs.read_log(write(), report=report)
    assert list(frame.columns) == list(simulate.COLUMNS)
    assert frame.index.name == "time" and str(frame.index.tz) == "UTC"
    np.testing.assert_array_equal(frame.V, [270, 271, 272, 273])
    assert (report.rows, report.kept, report.dropped) == (4, 4, {})
    assert str(report) == "4 of 4 rows kept"


def test_simulation_and_log_have_one_form(plant, tmp_path):
    csv, packed, parquet = (tmp_path / name for name in ("a.csv", "a.csv.gz", "a.parquet"))
    plant.to_csv(csv)
    packed.write_bytes(gzip.compress(csv.read_bytes()))
    plant.to_parquet(parquet)
    for path in (csv, packed, parquet):
        pd.testing.assert_frame_equal(
            logs.read_log(path), plant, check_freq=False, check_index_type=False
        )
        parts = list(logs.iter_log(path, 300))
        assert [len(part) for part in parts] == [300] * 6 + [200]
        pd.testing.assert_frame_equal(
            pd.concat(parts), plant, check_freq=False, check_index_type=False
        )


def test_columns_by_name(write):
    path = write(header="when,Ia,Va,GTI,TA,TPV,wind", name="named.csv")
    for columns in ("I=Ia, V=Va,G=GTI", {"I": "Ia", "V": "Va", "G": "GTI"}):
        frame = logs.read_log(path, columns, time_column="when")
        assert list(frame.columns) == ["I", "V", "G"]
    frame = logs.read_log(write(), inputs=("I", "V"))
    assert list(frame.columns) == ["I", "V"]
    no_wind = write([row.rsplit(",", 1)[0] for row in ROWS], HEADER[:-2], "no_wind.csv")
    assert list(logs.read_log(no_wind).columns) == ["I", "V", "G", "TExt", "TMod"]
    for columns, message in (
        ("I=Ia,V=Vb", "expected columns Vb. Received: when, Ia, Va, GTI, TA, TPV, wind"),
        (None, "expected columns I, V. Received: when"),
        ("I=Ia,X=Va", "I, V, G, TExt, TMod, W. Received: 'X'"),
        ("I=Ia,V", "NAME=VALUE"),
        ("I=Ia,V=Ia", "a column for each"),
    ):
        with pytest.raises(RunError, match=message):
            logs.read_log(path, columns, time_column="when")
    with pytest.raises(RunError, match="expected a time column.*Received: when, Ia"):
        logs.read_log(path, "I=Ia,V=Va")
    with pytest.raises(RunError, match="'now'"):
        logs.read_log(path, "I=Ia,V=Va", time_column="now")
    with pytest.raises(RunError, match="with I and V"):
        logs.read_log(write(), inputs=("I",))
    with pytest.raises(RunError, match="expected columns W"):
        logs.read_log(no_wind, inputs=simulate.COLUMNS)


@pytest.mark.parametrize(
    "column, cell, reason",
    [
        ("I", "", "I is missing. Expected a value. Received: ''"),
        ("W", "NaN", "W is missing"),
        ("V", "fault", "V is not a number. Expected a number. Received: 'fault'"),
        ("V", "inf", "V is not a number"),
        ("V", "1;5", "V is not a number"),
        ("V", "270000", "V is out of range. Expected -5 to 1500 V. Received: 270000.0"),
        ("TMod", "293.1", "TMod is out of range"),
        ("I", "-3", "I is out of range"),
        ("time", "", "time has no offset|time cannot be read"),
        ("time", "noon", "time has no offset|time cannot be read"),
        ("time", "2017-03-01 10:02", "time has no offset"),
        ("time", "2017-03-01 10:01:00+00:00", "time comes twice"),
        ("time", "2017-03-01 09:00:00+00:00", "time goes back"),
    ],
)
def test_bad_row_is_named_or_dropped(write, column, cell, reason):
    path = write(changed(2, column, cell))
    with pytest.raises(RunError, match=rf"log.csv, line 4 \(.*\): ({reason})"):
        logs.read_log(path)
    report = logs.Report()
    frame = logs.read_log(path, on_error="drop", report=report)
    if reason == "time goes back":
        assert report.moved and len(frame) == 4 and frame.index.is_monotonic_increasing
        return
    assert len(frame) == 3 == report.kept and report.rows == 4
    ((why, count),) = report.dropped.items()
    assert count == 1 and f"1 dropped: {why}, first at line 4" in str(report)
    parts = list(logs.iter_log(path, 1, on_error="drop"))
    assert sum(map(len, parts)) == 3


def test_time_before_the_chunk_before(write):
    path = write([*ROWS[1:], ROWS[0]])
    report = logs.Report()
    frame = pd.concat(logs.iter_log(path, 2, on_error="drop", report=report))
    assert len(frame) == 3 and "time before the chunk before" in report.dropped
    with pytest.raises(RunError, match="line 5 .*time goes back"):
        list(logs.iter_log(path, 2))
    assert len(logs.read_log(path, on_error="drop")) == 4


def test_night_is_dropped_and_counted(write):
    night = [f"2017-03-01 0{hour}:00:00+00:00,0,0,0,1,1,2" for hour in range(4)]
    path = write([*night, *ROWS])
    report = logs.Report()
    assert len(logs.read_log(path, report=report)) == 4
    assert report.dropped == {"night, G below 50 W/m^2": 4}
    assert [len(part) for part in logs.iter_log(path, 3)] == [2, 2]  # the first chunk is dark
    assert len(logs.read_log(path, daylight=505)) == 3
    empty = [row.replace(",0,0,0,", ",0,,0,") for row in night]
    report = logs.Report()
    frame = logs.read_log(write([*empty, *ROWS]), inputs=("I", "V"), report=report)
    assert list(frame) == ["I", "V"]  # G tells night from day all the same
    assert len(frame) == 4 and report.dropped == {"night, G below 50 W/m^2": 4}
    report = logs.Report()
    lightless = [",".join(row.split(",")[:3]) for row in [*empty, *ROWS]]
    path = write(lightless, "time,I,V")
    assert len(logs.read_log(path, report=report)) == 4
    assert report.dropped == {"night, I zero and V zero or empty": 4}
    with pytest.raises(RunError, match="a column of G, to compare with daylight"):
        logs.read_log(path, daylight=30.0)


def test_empty_lines_are_counted(write):
    report = logs.Report()
    assert len(logs.read_log(write([*ROWS[:2], "", *ROWS[2:], "", ""]), report=report)) == 4
    assert report.dropped == {"empty line": 3} and "line 4" in report.first["empty line"]


def test_local_times(write):
    naive = [row.replace("+00:00", "") for row in ROWS]
    with pytest.raises(RunError, match="timezone="):
        logs.read_log(write(naive))
    frame = logs.read_log(write(naive), timezone="Europe/Copenhagen")
    assert frame.index[0] == pd.Timestamp("2017-03-01 09:00", tz="UTC")
    with pytest.raises(RunError, match="time zone. Received: 'Mars/North'"):
        logs.read_log(write(naive), timezone="Mars/North")
    # offsets that change with the clock
    mixed = [
        "2017-03-26 01:59:00+01:00,1,270,500,5,20,3",
        "2017-03-26 03:00:00+02:00,2,270,500,5,20,3",
    ]
    frame = logs.read_log(write(mixed))
    assert (frame.index[1] - frame.index[0]) == pd.Timedelta("1min")
    # the hour that spring leaves out, and the one that autumn repeats
    spring = ["2017-03-26 02:30:00,1,270,500,5,20,3"]
    with pytest.raises(RunError, match="line 2 .*does not exist or comes twice"):
        logs.read_log(write(spring), timezone="Europe/Copenhagen")
    autumn = [f"2017-10-29 {t},1,270,500,5,20,3" for t in ("01:30", "02:30", "02:30", "03:30")]
    frame = logs.read_log(write(autumn), timezone="Europe/Copenhagen")
    assert list(frame.index.strftime("%H:%M")) == ["23:30", "00:30", "01:30", "02:30"]
    with pytest.raises(RunError, match="comes twice in"):
        logs.read_log(write(autumn[1:2]), timezone="Europe/Copenhagen")


def test_other_time_formats(write):
    rows = [row.replace("2017-03-01 ", "1.3.2017 ").replace(":00+00:00", "") for row in ROWS]
    with pytest.raises(RunError, match="line 2 .*time cannot be read.*time_format"):
        logs.read_log(write(rows), timezone="UTC")
    frame = logs.read_log(write(rows), timezone="UTC", time_format="%d.%m.%Y %H:%M")
    assert frame.index[0] == pd.Timestamp("2017-03-01 10:00", tz="UTC")
    seconds = [f"{1488362400 + 60 * k},{row.split(',', 1)[1]}" for k, row in enumerate(ROWS)]
    with pytest.raises(RunError, match='time_format="unix"'):
        logs.read_log(write(seconds))
    np.testing.assert_array_equal(
        logs.read_log(write(seconds), time_format="unix").index, frame.index
    )
    millis = [row.replace(",", "000,", 1) for row in seconds]
    with pytest.raises(RunError, match="line 2 .*seconds since 1970, up to 2100"):
        logs.read_log(write(millis), time_format="unix")


@pytest.mark.parametrize(
    "name, unit, convert",
    [
        ("I", "mA", lambda x: 1000 * x),
        ("V", "mV", lambda x: 1000 * x),
        ("G", "kW/m^2", lambda x: x / 1000),
        ("TExt", "K", lambda x: x + 273.15),
        ("TMod", "K", lambda x: x + 273.15),
        ("TMod", "degF", lambda x: 1.8 * x + 80),  # as of a hot day
    ],
)
def test_unit_mistakes(write, name, unit, convert):
    rows = [row.replace(":00+", f":{k:02}+") for k in range(5) for row in ROWS]
    frame = logs.read_log(write(sorted(rows)))
    wrong = frame.assign(**{name: convert(frame[name])})
    if unit == "degF":
        wrong[name] += 60
    path = write().with_name("units.csv")
    wrong.assign(**{name: wrong[name].where(np.arange(len(wrong)) > 0)}).to_csv(path)
    with pytest.raises(RunError, match=f"give the unit {name}:"):  # whatever is missing
        logs.read_log(path, allow_missing=True)
    wrong.to_csv(path)
    for on_error in ("raise", "drop"):  # a column cannot be dropped row by row
        with pytest.raises(RunError, match=rf"expected {name} .*give the unit {name}:"):
            logs.read_log(path, on_error=on_error)
    for units in (f"{name}:{unit}", {name: unit}):
        right = logs.read_log(path, units=units)
        if unit != "degF":
            np.testing.assert_allclose(right[name], frame[name])
        else:
            np.testing.assert_allclose(right[name], (wrong[name] - 32) / 1.8)
    with pytest.raises(RunError, match="expected units of"):
        logs.read_log(path, units=f"{name}:furlong")


def day(write, irradiance, power=540.0, length=40):
    """A log of one minute a row, with G as given, I and V of `power`."""
    times = pd.date_range("2017-06-01 10:00", periods=length, freq="1min", tz="UTC")
    rows = [
        f"{time},{power / (270 + k / 10):.4f},{270 + k / 10},{irradiance(k)},20,30,{k / 9}"
        for k, time in enumerate(times)
    ]
    return write(rows)


@pytest.mark.parametrize(
    ("irradiance", "message"),
    [
        (lambda k: 0, "expected G in W/m.2. Received: at most 0 while the plant gives power"),
        (lambda k: 0.7, "give the unit G:kW/m.2"),
        (lambda k: 700 if k < 20 else 0, "line 22 .*power without light"),
        (lambda k: 700 if k < 20 else -4, "line 22 .*power without light"),
        (lambda k: -999 if k == 20 else 700, "line 22 .*G is out of range"),
    ],
    ids=["dead all day", "kW/m^2", "dead from noon", "small offset", "error code"],
)
def test_an_irradiance_sensor_that_fails_is_not_night(write, irradiance, message):
    path = day(write, irradiance)
    for read in (logs.read_log, lambda path, **_: list(logs.iter_log(path, 7))):
        with pytest.raises(RunError, match=message):
            read(path, stuck={"G": 0})


def test_dusk_of_a_large_plant_is_night(write):
    """150 kW at 1000 W/m^2 give 3 kW at 20 W/m^2, which is below `daylight` nevertheless."""
    times = pd.date_range("2017-06-01 18:00", periods=40, freq="1min", tz="UTC")
    rows = []
    for k, time in enumerate(times):
        light = 400 - 10 * k
        rows.append(f"{time},{150 * light / 700:.4f},{700 + k / 9:.3f},{light},20,30,{k / 9}")
    report = logs.Report()
    assert len(logs.read_log(write(rows), report=report)) == 36
    assert report.dropped == {"night, G below 50 W/m^2": 4}
    assert sum(map(len, logs.iter_log(write(rows), 5))) == 36


def test_an_outage_is_no_stuck_sensor(write):
    path = day(write, lambda k: 600 + 3 * k, power=0.0, length=100)
    assert (logs.read_log(path)["I"] == 0).sum() == 100
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]

    def with_voltage(voltage, current):
        path = write([",".join([row[0], current, voltage, *row[3:]]) for row in rows])
        return logs.read_log(path)

    assert (with_voltage("0", "0")["V"] == 0).sum() == 100
    with pytest.raises(RunError, match="V is stuck"):
        with_voltage("400", "0")
    with pytest.raises(RunError, match="I is stuck"):
        with_voltage("0", "1.5")


def test_rows_without_a_measurement_are_kept_on_demand(write):
    path = write(changed(2, "I", ""))
    with pytest.raises(RunError, match="I is missing"):
        logs.read_log(path)
    frame = logs.read_log(path, allow_missing=True)
    assert frame["I"].isna().tolist() == [False, False, True, False]


def test_limits_and_lengths_from_text(write):
    assert len(logs.read_log(write(), limits="I=0:1.75", stuck="W=0", on_error="drop")) == 3
    for option in ({"limits": "I=5"}, {"limits": "X=0:1"}, {"stuck": "I=many"}, {"stuck": "I=1:2"}):
        name = next(iter(option))
        with pytest.raises(RunError, match=f"expected {name} such as"):
            logs.read_log(write(), **option)


CONVERTED = [  # what stands in a file, and what it is in A, V, W/m^2, degC and m/s
    ("I", "A", 1.5, 1.5),
    ("I", "mA", 1500, 1.5),
    ("V", "V", 270, 270),
    ("V", "mV", 270_000, 270),
    ("V", "kV", 0.27, 270),
    ("G", "W/m^2", 500, 500),
    ("G", "kW/m^2", 0.5, 500),
    ("W", "m/s", 5, 5),
    ("W", "km/h", 36, 10),
    ("W", "mph", 100, 44.704),
    ("W", "kn", 36, 18.52),  # 1852 m in an hour
    *((name, "degC", 21.5, 21.5) for name in ("TExt", "TMod")),
    *((name, "K", 273.15, 0.0) for name in ("TExt", "TMod")),
    *((name, "degF", -40, -40) for name in ("TExt", "TMod")),
    *((name, "degF", 104, 40) for name in ("TExt", "TMod")),
]


@pytest.mark.parametrize("name, unit, written, expected", CONVERTED)
def test_units_are_converted(write, name, unit, written, expected):
    frame = logs.read_log(write(changed(2, name, f"{written}")[2:3]), units={name: unit})
    assert frame[name].iloc[0] == pytest.approx(expected, rel=1e-5, abs=1e-9)
    others = [other for other in simulate.COLUMNS if other != name]
    assert frame[others].iloc[0].tolist() == logs.read_log(write())[others].iloc[2].tolist()


def test_every_unit_has_a_converted_value():
    known = {(name, unit) for name, units in logs.CONVERSIONS.items() for unit in units}
    assert {(name, unit) for name, unit, _, _ in CONVERTED} == known
    assert all(logs.UNITS[name] in units for name, units in logs.CONVERSIONS.items())


def test_stuck_sensor(write):
    def rows(n, stuck_from):
        times = pd.date_range("2017-06-01 10:00", periods=n, freq="1min", tz="UTC")
        rng = np.random.default_rng(0)
        for k, time in enumerate(times):
            g = 700.0 if k >= stuck_from else 600 + rng.normal()
            yield f"{time},{2 + rng.normal() / 9:.4f},{270 + rng.normal():.4f},{g},20,{k / 9},0"

    path = write(rows(200, 150))
    assert len(logs.read_log(path)) == 200  # 50 are no proof; calm air and coarse degrees are none
    path = write(rows(200, 100))
    with pytest.raises(RunError, match=r"line 102 .*G is stuck. Expected fewer than 60 equal"):
        logs.read_log(path)
    report = logs.Report()
    assert len(logs.read_log(path, on_error="drop", report=report)) == 100
    assert report.dropped == {"G is stuck": 100}
    assert len(logs.read_log(path, stuck={"G": 0})) == 200
    with pytest.raises(RunError, match="G is stuck"):  # across chunks
        list(logs.iter_log(path, 40))


def test_labels(write):
    labels = ["N", "", "PS50", "NaN"]
    rows = [f"{row},{label}" for row, label in zip(ROWS, labels)]
    frame = logs.read_log(write(rows, HEADER + ",condition"))
    assert frame.condition.isna().tolist() == [False, True, False, True]
    assert tuple(frame.condition.cat.categories) == simulate.CONDITIONS
    assert list(frame.condition[::2]) == ["N", "PS50"]
    numbered = write([f"{row},{k}.0" for k, row in enumerate(ROWS)], HEADER + ",Fault")
    assert "condition" not in logs.read_log(numbered)
    with pytest.raises(RunError, match=r"line 2 .*label is unknown. Expected one of PS7.*'0.0'"):
        logs.read_log(numbered, label_column="Fault")
    frame = logs.read_log(
        numbered, label_column="Fault", labels="0.0=N,1.0=IV,2.0=C", on_error="drop"
    )
    assert list(frame.condition) == ["N", "IV", "C"]
    own = logs.read_log(numbered, label_column="Fault", conditions=("0.0", "1.0", "2.0", "3.0"))
    assert own.condition.cat.codes.tolist() == [0, 1, 2, 3]
    with pytest.raises(RunError, match="labels to name conditions"):
        logs.read_log(numbered, label_column="Fault", labels="0.0=sound")


def test_european_csv(write):
    rows = [row.replace(",", ";").replace(".", ",") for row in ROWS]
    path = write(rows, HEADER.replace(",", ";"))
    pd.testing.assert_frame_equal(
        logs.read_log(path, separator=";", decimal=","), logs.read_log(write(name="plain.csv"))
    )
    rows[1] = rows[1].replace(";510;", ";1.012;")  # a thousand and twelve, as Excel has it
    path = write(rows, HEADER.replace(",", ";"))
    with pytest.raises(RunError, match="line 3 .*G is not a number.*'1.012'"):
        logs.read_log(path, separator=";", decimal=",")


def test_parquet_with_times_of_its_own(tmp_path):
    times = pd.date_range("2017-03-01 10:00", periods=3, freq="1min")
    frame = pd.DataFrame({"I": [1, 2, 3], "V": [270.0, 271.0, np.nan], "t": times})
    path = tmp_path / "log.parquet"
    frame.to_parquet(path, index=False)
    with pytest.raises(RunError, match=r"row 3 .*V is missing"):
        logs.read_log(path, time_column="t", timezone="UTC")
    read = logs.read_log(path, time_column="t", timezone="Europe/Copenhagen", on_error="drop")
    assert read.index[0] == pd.Timestamp("2017-03-01 09:00", tz="UTC") and len(read) == 2


def test_files_that_are_none(write, tmp_path):
    broken = tmp_path / "broken.parquet"
    broken.write_text("no parquet")
    half = tmp_path / "half.csv.gz"
    half.write_bytes(gzip.compress("\n".join([HEADER, *ROWS * 50]).encode())[:-30])
    damaged = tmp_path / "damaged.csv.gz"
    content = bytearray(gzip.compress("\n".join([HEADER, *ROWS * 50]).encode()))
    content[20:60] = b"\xff" * 40
    damaged.write_bytes(content)
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    latin = tmp_path / "latin.csv"
    latin.write_bytes(f"{HEADER}\n{changed(0, 'V', 'gestört')[0]}\n".encode("latin-1"))
    for path, message in (
        (tmp_path / "none.csv", "which is not there"),
        (write(name="log.txt"), "expected a .csv"),
        (broken, "cannot be read"),
        (half, "cannot be read"),
        (damaged, "cannot be read"),
        (empty, "cannot be read"),
        (latin, "cannot be read"),
        (write([], name="names.csv"), "expected rows"),
        (write([*ROWS, ROWS[0] + ",9,9"], name="long.csv"), "cannot be read.*line 6"),
        (write([row + ",9" for row in ROWS], name="wide.csv"), "as many cells in a row as names"),
    ):
        with pytest.raises(RunError, match=message) as error:
            logs.read_log(path)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="Received: typo"):
        logs.read_log(write(), typo=1)
    with pytest.raises(ValueError, match="on_error"):
        logs.read_log(write(), on_error="ignore")
    with pytest.raises(ValueError, match="chunk_rows"):
        logs.iter_log(write(), 0)


@pytest.fixture
def real(data_dir):
    folder = data_dir / "pv"
    if not folder.is_dir():
        pytest.skip(f"no real photovoltaic logs in {folder}; TFHVAE_DATA names their parent")
    return folder


def test_real_plant(real):
    path = real / "la_reunion_5min_test_split.csv"
    names = "I=Ia,V=Va,G=GTI,TExt=TA,TMod=TPV"
    report = logs.Report()
    frame = logs.read_log(path, names, label_column="Fault", labels="0.0=N,3.1=PS50", report=report)
    assert (report.rows, report.kept, report.dropped) == (2975, 2975, {})
    assert list(frame.columns) == ["I", "V", "G", "TExt", "TMod", "condition"]
    assert frame.condition.value_counts()[["N", "PS50"]].tolist() == [2902, 73]
    assert frame.index[0] == pd.Timestamp("2022-04-29 03:00", tz="UTC")
    assert np.corrcoef(frame.I, frame.G)[0, 1] > 0.9
    parts = list(logs.iter_log(path, 1000, names, label_column="Fault", conditions=("0.0", "3.1")))
    assert [len(part) for part in parts] == [1000, 1000, 975]
    with pytest.raises(RunError, match="expected columns wind"):
        logs.read_log(path, names + ",W=wind")


def test_course_plant(real):
    folder = real / "solar_academy_simulated"
    report = logs.Report()
    frame = logs.read_log(
        folder / "student_1_actuals.csv", "I=i_dc,V=v_dc,G=g_poa,TMod=t_mod", report=report
    )
    assert report.rows == 13_177 and report.kept == len(frame) == 5543
    assert frame.index.is_unique and str(frame.index.tz) == "UTC"  # the clock changed three times
    with pytest.raises(RunError, match=r"line 6815 \(2021-04-10 21:00:00\+02:00\): I is missing"):
        logs.read_log(folder / "student_1_inv_dataset.csv", "I=i_dc,V=v_dc")
    report = logs.Report()
    logs.read_log(
        folder / "student_1_inv_dataset.csv", "I=i_dc,V=v_dc", on_error="drop", report=report
    )
    assert report.dropped == {"night, I zero and V zero or empty": 6391, "I is missing": 505}


@pytest.mark.parametrize("chunk_rows", [30, 61, 90, 125, 150])
def test_the_hour_that_comes_twice_is_settled_in_chunks_of_any_size(write, chunk_rows):
    utc = pd.date_range("2017-10-28 23:00", periods=120, freq="2min", tz="UTC")
    rows = [
        f"{time.tz_convert('Europe/Copenhagen'):%Y-%m-%d %H:%M},{8 + 0.01 * i:.2f},{270 + i % 7},{800 + i % 5},10,{30 + i % 3},2"
        for i, time in enumerate(utc)
    ]
    path = write(rows, "time,I,V,G,TExt,TMod,W")
    frames = list(logs.iter_log(path, chunk_rows, timezone="Europe/Copenhagen"))
    whole = logs.read_log(path, timezone="Europe/Copenhagen")
    pd.testing.assert_frame_equal(pd.concat(frames), whole)
    assert list(whole.index) == list(utc)


def test_a_column_that_stands_twice_is_refused(write):
    rows = ["2017-03-01 10:00Z,1,2,3,4", "2017-03-01 10:01Z,1,2,3,5"]
    with pytest.raises(RunError, match="expected one column V. Received: several"):
        logs.read_log(write(rows, "time,I,V,status,V"))
    frame = logs.read_log(write(rows, "time,I,V,status,status"))  # it is not read
    assert list(frame.columns) == ["I", "V"]
    frame = logs.read_log(write([row + "," for row in rows], ",I,V,status,more,"))
    assert list(frame.columns) == ["I", "V"]  # the first and the last column have no name


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_other_encodings_have_to_be_named(tmp_path, encoding):
    path = tmp_path / "log.csv"
    text = "time,I,V,Störung\n2017-03-01 10:00Z,8,270,N\n2017-03-01 10:01Z,8.1,271,N\n"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(RunError, match="cannot be read: .* encoding=cp1252 or utf-16"):
        logs.read_log(path, label_column="Störung")
    frame = logs.read_log(path, label_column="Störung", encoding=encoding)
    assert list(frame.condition) == ["N", "N"]
    with pytest.raises(RunError, match="name of an encoding, such as cp1252. Received: 'utf-7x'"):
        logs.read_log(path, encoding="utf-7x")
