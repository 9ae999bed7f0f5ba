"""A photovoltaic string under ten conditions, simulated from physics.

The measurements of Maaløe et al. 2018 ("Condition monitoring in photovoltaic systems by
semi-supervised machine learning", Table II) were never published. `simulate` makes a data set of
the same plant, columns, sizes and classes. pvlib supplies the physics: solar position, clear sky,
transposition, reflection, temperatures, snow cover and the single-diode cell with its breakdown.
What is added here is the weather of a seed, and the sum of cells, bypass diodes and resistance
along the string. `docs/monitoring-data.md` lists every number with its source.
"""

import contextlib
import dataclasses
import functools
import itertools

import numpy as np

from tfhvae import progress as progress_bars

CONDITIONS = ("PS7", "RS4", "PS50", "RS8", "PSRS", "PS75", "C", "S", "N", "IV")
COLUMNS = ("I", "V", "G", "TExt", "TMod", "W")

# Per cent of the samples: thesis, Table 6.1. Table II of Maaløe et al. 2018 has 10.08 for RS4, with
# which the sum, 99.92, is further from 100 than ten rounded numbers can be.
SHARES = {
    "PS7": 10.68, "RS4": 10.18, "PS50": 10.83, "RS8": 5.11, "PSRS": 10.93,
    "PS75": 10.60, "C": 4.60, "S": 27.64, "N": 4.67, "IV": 4.78,
}  # fmt: skip
SAMPLES_PER_DAY = 15_000 / 61  # "approximately 15,000 data samples", two months

# In this order the experimenter worked: snow is early in the year.
SCHEDULE = ("S", "N", "PS7", "RS4", "PS50", "C", "RS8", "PSRS", "PS75", "IV")

# Aalborg University; the roof's slope and direction are assumptions.
LATITUDE, LONGITUDE, ALTITUDE = 57.01, 9.99, 20.0  # degrees, degrees, m
TILT, AZIMUTH = 35.0, 180.0  # degrees
DAYLIGHT = 50.0  # W/m^2, least measured irradiance of a sample

MODULES, SUBMODULES, CELLS = 8, 4, 18  # of a string, a module, a submodule
# BP Solar MSX120, multicrystalline, in the Sandia module library of pvlib.
DATASHEET = {
    "v_mp": 33.7, "i_mp": 3.56, "v_oc": 42.1, "i_sc": 3.87, "alpha_sc": 0.00065 * 3.87,
    "beta_voc": -0.16, "cells_in_series": 72,
}  # fmt: skip
THERMAL = {"a": -3.537, "b": -0.0721, "deltaT": 3.0}  # the same library: SAPM temperature model
AGEING = 0.9375  # of the light that makes current: eight modules then give 0.9 kWp
CABLE_RESISTANCE = 0.3  # ohm
BYPASS_VOLTAGE = 0.5  # V across a conducting bypass diode
BREAKDOWN = {"breakdown_factor": 2e-3, "breakdown_voltage": -15.0, "breakdown_exp": 3.0}

STRAY = 0.1  # of the light reaches a cell behind an opaque cover
LOWER_SHADE = 0.3  # of the area of every lower cell is covered in PS7

# Standard deviations of the readings: part of the value, and absolute.
NOISE = {
    "I": (0.003, 0.01), "V": (0.002, 0.3), "G": (0.01, 1.5), "TExt": (0.0, 0.2),
    "TMod": (0.0, 0.3), "W": (0.03, 0.1),
}  # fmt: skip
# Odds of a clear, a changing and an overcast day; (0.45, 0.4, 0.15) under a fault.
_WEATHER = {"N": (1, 0, 0), "C": (0, 0, 1), "S": (0, 0.3, 0.7)}
TRACKING_ERROR = 0.004  # relative standard deviation of the voltage about the maximum power point

_FORWARD, _REVERSE, _CURRENTS, _FINE = 200, 60, 300, 160  # grid points
_CHUNK = 512  # samples solved at once


@dataclasses.dataclass(frozen=True)
class _String:
    """How light falls on the submodules, and what stands in series with them.

    openness: part of the light that reaches the cells of each level `[N, L]`.
    cells: cells of each level in each kind of submodule `[T, L]`.
    counts: submodules of each kind `[N, T]`.
    resistance: ohm, added to that of the cells.
    """

    openness: np.ndarray
    cells: np.ndarray
    counts: np.ndarray
    resistance: float


@functools.cache
def module_parameters():
    """De Soto's parameters of one module at 1000 W/m^2 and 25 degC, fitted to the datasheet.

    Returns:
      dict of `I_L_ref`, `I_o_ref` (A), `R_s`, `R_sh_ref` (ohm), `a_ref` (V), `alpha_sc` (A/K).
    """
    from_datasheet = _pvlib().ivtools.sdm.fit_desoto
    # pvlib's own first guess does not converge for this module
    guess = {"IL_0": 3.88, "Io_0": 2.6e-10, "Rs_0": 0.9, "Rsh_0": 300.0, "a_0": 1.8}
    fitted, _ = from_datasheet(**DATASHEET, init_guess=guess)
    names = ("I_L_ref", "I_o_ref", "R_s", "R_sh_ref", "a_ref", "alpha_sc")
    return {name: float(fitted[name]) for name in names}


def string_resistance():
    """Series resistance of the sound string, cells and cable: ohm."""
    return MODULES * module_parameters()["R_s"] + CABLE_RESISTANCE


def simulate(days=61, seed=0, start="2017-03-01", samples=None, progress=True):
    """Measurements of the plant at minutes of daylight on which a condition was recorded.

    Conditions follow one another in contiguous blocks of days, in the order of `SCHEDULE`, with
    days on which nothing was recorded between them. The last day of a block is recorded in part.
    A fault comes on clear, changing and overcast days as they fall.

    Args:
      days: calendar days that the blocks are spread over.
      seed: integer >= 0, of weather, snow, noise and schedule.
      start: first day, local time of Copenhagen.
      samples: rows; by default 15,000 for 61 days, and proportionally.
      progress: whether to show a bar.

    Returns:
      `pandas.DataFrame` of `samples` rows. Index "time", UTC; float columns I (A), V (V), G
      (W/m^2 in the plane of the modules), TExt, TMod (degC), W (m/s); `condition`, a categorical of
      `CONDITIONS`, in shares `SHARES` to the nearest row.

    Raises:
      ValueError: if so many rows of all conditions do not fit into so many days.
    """
    pd = _pandas()
    for name, value, least in (("days", days, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"expected {name} to be an integer >= {least}. Received: {value!r}")
    samples = round(SAMPLES_PER_DAY * days) if samples is None else samples
    counts = condition_counts(samples)
    first = pd.Timestamp(start)
    if first.tz is not None or first != first.normalize():
        raise ValueError(f'expected start to be a day such as "2017-03-01". Received: {start!r}')

    gaps, day, parts = _gaps(counts, days, first), 0, []
    bar = progress_bars.bar(samples, "Simulating", "sample") if progress else None
    with contextlib.nullcontext() if bar is None else bar:
        for condition, gap in zip(SCHEDULE, gaps):
            missing = counts[condition]
            while missing:
                if day >= days:
                    raise ValueError(
                        f"expected days enough for {samples} samples of ten conditions. Received:"
                        f" days={days}, used up with {missing} samples of {condition} missing"
                    )
                rng = np.random.default_rng([int(seed), day])
                part = _recorded_day(first + pd.Timedelta(days=day), condition, missing, rng)
                day += 1
                if part is None:
                    continue
                parts.append(part)
                missing -= len(part)
                if bar is not None:
                    bar.update(len(part))
            day += gap
    return pd.concat(parts)


def condition_counts(samples):
    """Rows of every condition, by largest remainder: they add up to `samples`."""
    if isinstance(samples, bool) or not isinstance(samples, int | np.integer) or samples < 50:
        raise ValueError(f"expected samples to be an integer >= 50. Received: {samples!r}")
    exact = np.array([SHARES[name] for name in CONDITIONS])
    exact *= samples / exact.sum()
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: samples - counts.sum()]] += 1
    return dict(zip(CONDITIONS, counts.tolist()))


def string_curve(
    condition="N", irradiance=1000.0, cell_temperature=25.0, covered_modules=4,
    snow_transmission=0.2, points=500,
):  # fmt: skip
    """Current and voltage along the combined curve of the string.

    Args:
      condition: one of `CONDITIONS`. "C" and "N" are both the sound string.
      irradiance: that an unshaded cell makes current of, W/m^2, > 0.
      cell_temperature: of all cells, degC.
      covered_modules: modules under snow, used with "S".
      snow_transmission: part of the light that passes the snow, used with "S".
      points: length of the curve.

    Returns:
      Currents (A) from 0 to the short circuit and voltages (V), each `[points]`.
    """
    if condition not in CONDITIONS:
        raise ValueError(f"expected a condition of {', '.join(CONDITIONS)}. Received: {condition}")
    if not irradiance > 0:
        raise ValueError(f"expected irradiance > 0. Received: {irradiance}")
    string = _string(condition, np.array([covered_modules]), np.array([snow_transmission]))
    table = _cell_tables(string.openness, np.array([irradiance]), np.array([cell_temperature]))
    current = _short_circuit(table)[:, None] * np.linspace(0, 1, 4 * points)
    voltage = _voltage(current, table, string)
    end = np.interp(0.0, voltage[0, ::-1], current[0, ::-1])
    current = np.linspace(0, end, points)[None]
    return current[0], _voltage(current, table, string)[0]


def maximum_power(condition, irradiance, cell_temperature, covered_modules=None, snow=None):
    """Current (A) and voltage (V) `[N]` at the global maximum of the combined curve, for arrays
    `[N]` of the arguments of `string_curve`."""
    current, voltage = _curves_about_maximum(
        condition, irradiance, cell_temperature, covered_modules, snow
    )
    best = np.argmax(current * voltage, axis=1)[:, None]
    return np.take_along_axis(current, best, 1)[:, 0], np.take_along_axis(voltage, best, 1)[:, 0]


def draw_curves(irradiance=800.0, cell_temperature=25.0):
    """Combined curves and power of the ten conditions, their maxima marked: a Matplotlib figure."""
    from matplotlib.figure import Figure

    from tfhvae import plotting

    figure = Figure(figsize=(9.6, 4.2), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    figure.suptitle(f"String at {irradiance:g} W/m² and {cell_temperature:g} °C", fontsize=11)
    drawn = [name for name in CONDITIONS if name != "C"]
    styles = itertools.cycle(("-", "--"))
    for condition, colour, style in zip(drawn, plotting.COLOURS, styles):
        current, voltage = string_curve(condition, irradiance, cell_temperature)
        power = current * voltage
        best = np.argmax(power)
        label = "N, C" if condition == "N" else condition
        left.plot(voltage, current, color=colour, linestyle=style, linewidth=1.3, label=label)
        left.plot(voltage[best], current[best], "o", color=colour, markersize=4)
        right.plot(voltage, power, color=colour, linestyle=style, linewidth=1.3)
        right.plot(voltage[best], power[best], "o", color=colour, markersize=4)
    for ax, name in ((left, "current (A)"), (right, "power (W)")):
        ax.set_xlabel("voltage (V)", fontsize=8.5)
        ax.set_ylabel(name, fontsize=8.5)
        ax.set_xlim(0, None)
        ax.set_ylim(0, None)
        ax.tick_params(labelsize=8)
        ax.grid(True, color="0.9", linewidth=0.7)
        ax.spines[["top", "right"]].set_visible(False)
    left.legend(fontsize=7.5, ncols=2, loc="lower left")
    return figure


def _string(condition, covered_modules, snow_transmission):
    """The `_String` of a condition; arguments `[N]`, of meaning for snow only."""
    n = len(covered_modules)
    total = MODULES * SUBMODULES
    partly = STRAY + (1 - STRAY) * (1 - np.array([LOWER_SHADE, 0.5, 0.75]))
    half = CELLS // 2
    if condition == "PS7":  # 6 of the 72 cells of a module are lower ones: 1, 2, 1 and 2
        openness, cells = [1.0, partly[0]], [[CELLS - 1, 1], [CELLS - 2, 2]]
        counts = [total // 2, total // 2]
    elif condition in ("PS50", "PSRS"):
        openness, cells, counts = [1.0, STRAY], [[CELLS, 0], [half, half]], [total - 1, 1]
    elif condition == "PS75":  # a quarter of 18 cells: four and a half
        openness = [1.0, STRAY, partly[1]]
        cells = [[CELLS, 0, 0], [half, half, 0], [CELLS - 5, 4, 1]]
        counts = [total - 2, 1, 1]
    elif condition == "IV":
        openness, cells, counts = [1.0, partly[2]], [[CELLS, 0], [0, CELLS]], [total - 6, 6]
    elif condition == "S":
        covered = SUBMODULES * np.asarray(covered_modules)
        return _String(
            np.stack([np.ones(n), snow_transmission], 1), np.array([[CELLS, 0], [0, CELLS]]),
            np.stack([total - covered, covered], 1), CABLE_RESISTANCE,
        )  # fmt: skip
    else:
        openness, cells, counts = [1.0], [[CELLS]], [total]
    added = {"RS4": 0.5, "PSRS": 0.5, "RS8": 1.0}.get(condition, 0.0) * string_resistance()
    return _String(
        np.tile(openness, (n, 1)), np.array(cells), np.tile(counts, (n, 1)),
        CABLE_RESISTANCE + added,
    )  # fmt: skip


def _cell_parameters(irradiance, temperature):
    """Keyword arguments of `bishop88` for one cell; the arguments broadcast."""
    module = module_parameters()
    il, io, rs, rsh, nvth = _pvlib().pvsystem.calcparams_desoto(
        AGEING * irradiance, temperature, module["alpha_sc"], module["a_ref"], module["I_L_ref"],
        module["I_o_ref"], module["R_sh_ref"], module["R_s"],
    )  # fmt: skip
    number = DATASHEET["cells_in_series"]
    return {
        "photocurrent": il, "saturation_current": io, "resistance_series": rs / number,
        "resistance_shunt": rsh / number, "nNsVth": nvth / number, **BREAKDOWN,
    }  # fmt: skip


def _cell_tables(openness, irradiance, temperature):
    """Curves of single cells, current falling: currents and voltages `[N, L, points]`."""
    singlediode = _pvlib().singlediode
    cell = _cell_parameters(openness * irradiance[:, None], temperature[:, None])  # [N, L]
    cell = {key: value[..., None] if np.ndim(value) else value for key, value in cell.items()}
    open_circuit = singlediode.estimate_voc(
        cell["photocurrent"], cell["saturation_current"], cell["nNsVth"]
    )
    # The other cells of a submodule and its diode cannot push a cell beyond this.
    lowest = -(CELLS * np.max(open_circuit) + BYPASS_VOLTAGE)
    reverse = lowest * np.linspace(1, 0, _REVERSE, endpoint=False) ** 2
    forward = open_circuit * (1 - np.linspace(1, 0, _FORWARD) ** 2)
    reverse = np.broadcast_to(reverse, [*forward.shape[:-1], _REVERSE])
    current, voltage, _ = singlediode.bishop88(np.concatenate([reverse, forward], -1), **cell)
    return current, voltage


def _short_circuit(table):
    """Short-circuit current `[N]` of the cell with the most light."""
    current = table[0][..., _REVERSE]  # at diode voltage 0; the resistance of a cell adds nothing
    return np.max(current, axis=1)


def _voltage(current, table, string):
    """Voltage of the string `[N, K]` at currents `[N, K]` (A)."""
    currents, voltages = (values[..., ::-1] for values in table)
    n, levels, _ = currents.shape
    cell = np.empty([n, levels, current.shape[1]])
    for row, level in itertools.product(range(n), range(levels)):
        cell[row, level] = np.interp(current[row], currents[row, level], voltages[row, level])
    submodule = np.maximum(np.einsum("tl,nlk->ntk", string.cells, cell), -BYPASS_VOLTAGE)
    return np.einsum("nt,ntk->nk", string.counts, submodule) - string.resistance * current


def _curves_about_maximum(condition, irradiance, temperature, covered_modules, snow):
    """A fine piece of the combined curve about its global maximum: currents and voltages
    `[N, K]`."""
    n = len(irradiance)
    covered_modules = np.zeros(n, int) if covered_modules is None else covered_modules
    snow = np.ones(n) if snow is None else snow
    parts = []
    for begin in range(0, n, _CHUNK):
        rows = slice(begin, begin + _CHUNK)
        string = _string(condition, covered_modules[rows], snow[rows])
        table = _cell_tables(string.openness, irradiance[rows], temperature[rows])
        limit = _short_circuit(table)[:, None]
        coarse = limit * np.linspace(0, 1, _CURRENTS)
        best = np.argmax(coarse * _voltage(coarse, table, string), axis=1)[:, None]
        step = limit / (_CURRENTS - 1)
        fine = np.clip(step * (best + np.linspace(-8, 8, _FINE)), 0, limit)
        parts.append((fine, _voltage(fine, table, string)))
    return tuple(np.concatenate(part) for part in zip(*parts))


def _operating_point(condition, irradiance, temperature, covered_modules, snow, rng):
    """Current and voltage `[N]` where the inverter holds the string, near the maximum."""
    current, voltage = _curves_about_maximum(
        condition, irradiance, temperature, covered_modules, snow
    )
    best = np.argmax(current * voltage, axis=1)[:, None]
    target = np.take_along_axis(voltage, best, 1)[:, 0]
    target = target * (1 + TRACKING_ERROR * rng.standard_normal(len(target)))
    target = np.clip(target, voltage.min(1), voltage.max(1))
    held = [np.interp(v, y[::-1], x[::-1]) for v, x, y in zip(target, current, voltage)]
    return np.array(held), target


def _gaps(counts, days, first):
    """Days without a recording after each block: what is left of `days`, spread evenly."""
    middle = _clear_sky(first + _pandas().Timedelta(days=days // 2), 3.0)
    daylight = max(0.85 * np.sum(middle["poa"] > DAYLIGHT), 1.0)  # clouds take some of it
    blocks = sum(int(np.ceil(counts[name] / daylight)) for name in SCHEDULE)
    spare = max(days - blocks - 1, 0)
    return [spare * (k + 1) // len(SCHEDULE) - spare * k // len(SCHEDULE) for k in range(10)]


def _recorded_day(date, condition, most, rng):
    """At most `most` rows of one day, a stretch of its daylight; None of a day without any."""
    pd = _pandas()
    odds = _WEATHER.get(condition, (0.45, 0.4, 0.15))
    kind = rng.choice(["clear", "changing", "overcast"], p=odds)
    weather = _weather(date, kind, condition == "S", rng)
    lit = np.flatnonzero(weather["G"] > DAYLIGHT)
    if not len(lit):
        return None
    first = rng.integers(max(len(lit) - most, 0) + 1)
    rows = weather.iloc[lit[first : first + most]]
    current, voltage = _operating_point(
        condition, rows["effective"].to_numpy(), rows["cell"].to_numpy(),
        rows["covered"].to_numpy(), rows["transmission"].to_numpy(), rng,
    )  # fmt: skip
    frame = rows[["G", "TExt", "TMod", "W"]].assign(I=current, V=voltage)[list(COLUMNS)]
    for name, (relative, absolute) in NOISE.items():
        # the weather has the noise of G already, which decides what is daylight
        if name != "G":
            frame[name] += _error(frame[name].to_numpy(), relative, absolute, rng)
    for name in ("I", "V", "W"):
        frame[name] = frame[name].clip(lower=0.0)
    frame["condition"] = pd.Categorical([condition] * len(frame), categories=CONDITIONS)
    return frame.rename_axis("time")


def _weather(date, kind, snowy, rng):
    """Irradiance, temperatures, wind and snow of every minute of one day."""
    pd, pvlib = _pandas(), _pvlib()
    albedo = pvlib.albedo.SURFACE_ALBEDOS["snow" if snowy else "grass"]
    sky = _clear_sky(date, rng.uniform(2.3, 3.6))
    ghi = sky["ghi"] * _cloudiness(kind, len(sky), rng)
    split = pvlib.irradiance.erbs_driesse(ghi, sky["zenith"], sky.index)
    poa = pvlib.irradiance.get_total_irradiance(
        TILT, AZIMUTH, sky["zenith"], sky["azimuth"], split["dni"], ghi, split["dhi"],
        dni_extra=pvlib.irradiance.get_extra_radiation(sky.index), albedo=albedo, model="haydavies",
    ).fillna(0.0)  # fmt: skip
    diffuse = _diffuse_reflection()
    effective = (
        poa["poa_direct"] * pvlib.iam.physical(sky["aoi"])
        + poa["poa_sky_diffuse"] * diffuse["sky"]
        + poa["poa_ground_diffuse"] * diffuse["ground"]
    ).clip(lower=0.1)

    hours = np.arange(len(sky)) / 60
    # Monthly means of Aalborg are about 0 degC in late January and 16 degC in late July.
    mean = 8.0 - 8.5 * np.cos(2 * np.pi * (date.dayofyear - 25) / 365.25) + rng.normal(0, 2.0)
    if snowy:
        mean = min(mean, -0.5) + rng.normal(0, 0.7)
    swing = {"clear": 4.0, "changing": 3.0, "overcast": 1.2}[kind]
    outside = mean + swing * np.cos(2 * np.pi * (hours - 14.5) / 24)
    outside = outside + _wander(len(sky), 90.0, 0.5, rng)
    wind = rng.lognormal(np.log(3.3), 0.4) * np.exp(_wander(len(sky), 60.0, 0.25, rng))
    wind = wind * np.exp(_wander(len(sky), 2.0, 0.25, rng))

    covered, transmission = np.zeros(len(sky), int), np.ones(len(sky))
    absorbed = poa["poa_global"]
    if snowy:
        covered, transmission = _snow(poa["poa_global"], pd.Series(outside, sky.index), rng)
        absorbed = absorbed * (1 - covered / MODULES * (1 - transmission))
    model = pvlib.temperature.sapm_cell(absorbed, outside, wind, **THERMAL)
    cell = pvlib.temperature.prilliman(model, pd.Series(wind, sky.index)).fillna(model)
    measured = poa["poa_global"].to_numpy()
    measured = measured + _error(measured, *NOISE["G"], rng)
    return pd.DataFrame(
        {
            "G": measured, "effective": effective, "cell": cell,
            "TMod": cell - THERMAL["deltaT"] * absorbed / 1000, "TExt": outside, "W": wind,
            "covered": covered, "transmission": transmission,
        },
        index=sky.index,
    )  # fmt: skip


@functools.cache
def _diffuse_reflection():
    """Parts of the light of the sky and of the ground that pass the glass."""
    return _pvlib().iam.marion_diffuse("physical", TILT)


def _clear_sky(date, turbidity):
    """Every minute of a local day: solar angles, clear-sky GHI and, roughly, the plane's."""
    pd, pvlib = _pandas(), _pvlib()
    midnight = date.tz_localize("Europe/Copenhagen")
    times = pd.date_range(
        midnight, (date + pd.Timedelta(days=1)).tz_localize("Europe/Copenhagen"), freq="1min",
        inclusive="left",
    ).tz_convert("UTC").as_unit("us")  # fmt: skip
    place = pvlib.location.Location(LATITUDE, LONGITUDE, altitude=ALTITUDE)
    sun = place.get_solarposition(times, method="ephemeris")
    clear = place.get_clearsky(times, solar_position=sun, linke_turbidity=turbidity)
    zenith, azimuth = sun["apparent_zenith"], sun["azimuth"]
    poa = pvlib.irradiance.get_total_irradiance(
        TILT, AZIMUTH, zenith, azimuth, clear["dni"], clear["ghi"], clear["dhi"]
    )
    return pd.DataFrame(
        {
            "zenith": zenith, "azimuth": azimuth, "ghi": clear["ghi"], "poa": poa["poa_global"],
            "aoi": pvlib.irradiance.aoi(TILT, AZIMUTH, zenith, azimuth),
        }
    )  # fmt: skip


def _cloudiness(kind, n, rng):
    """Part of the clear-sky irradiance that reaches the ground, per minute `[n]`."""
    if kind == "clear":
        return 0.99 * np.exp(_wander(n, 60.0, 0.01, rng))
    if kind == "overcast":
        return np.clip(rng.uniform(0.2, 0.4) * np.exp(_wander(n, 45.0, 0.3, rng)), 0.05, 0.8)
    index, minute = np.empty(n), 0
    while minute < n:  # gaps and clouds take turns; light that clouds scatter adds to the gaps
        gap, cloud = 1 + rng.geometric(1 / 12), 1 + rng.geometric(1 / 8)
        index[minute : minute + gap] = rng.uniform(0.97, 1.08)
        index[minute + gap : minute + gap + cloud] = rng.uniform(0.25, 0.75)
        minute += gap + cloud
    edges = np.pad(index, 1, mode="edge")
    return (edges[:-2] + edges[1:-1] + edges[2:]) / 3 * np.exp(_wander(n, 5.0, 0.03, rng))


def _snow(poa, outside, rng):
    """Modules under snow and the light that passes it, per minute `[n]` each.

    The sheet slides as in pvlib's model, from every module at a pace of its own, and the last
    module is never cleared. Light falls exponentially with depth; the depth shrinks by day.
    """
    pd, pvlib = _pandas(), _pvlib()
    fall = pd.Series(0.0, poa.index)  # cm per minute
    if rng.random() < 0.5:
        begin = rng.integers(8 * 60, 14 * 60)
        fall.iloc[begin : begin + 60] = rng.uniform(1.5, 3.0) / 60
    sheet = pvlib.snow.coverage_nrel(fall, poa, outside, TILT, initial_coverage=1.0)
    slid = 1 - sheet.to_numpy()[:, None] * np.ones(MODULES)
    pace = rng.uniform(0.5, 2.0, MODULES)
    covered = np.maximum(np.sum(slid * pace < 1, axis=1), 1)
    melted = np.cumsum(poa.to_numpy()) / 60 / 1500  # Wh/m^2 that halve the layer
    depth = rng.uniform(1.5, 5.0) * 0.5**melted + fall.cumsum().to_numpy()
    return covered, np.exp(-0.6 * depth)


def _wander(n, minutes, deviation, rng):
    """A stationary Gaussian AR(1) path `[n]` of mean 0 with the correlation time given."""
    from scipy.signal import lfilter

    keep = np.exp(-1 / minutes)
    steps = rng.normal(0, deviation * np.sqrt(1 - keep**2), n)
    steps[0] = rng.normal(0, deviation)
    return lfilter([1.0], [1.0, -keep], steps)


def _error(values, relative, absolute, rng):
    return rng.standard_normal(len(values)) * np.hypot(relative * values, absolute)


def _pandas():
    return _required("pandas")


def _pvlib():
    return _required("pvlib")


def _required(name):
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"expected the package {error.name}, which plant monitoring needs: pip install tfhvae[pv]"
        ) from error
