"""Variational inference of a density with two modes, with an auxiliary variable and without."""

import json
import math

import numpy as np
import pytest
import scipy.integrate

from tfhvae import bounds, potential
from tfhvae.data.generated import two_mode_potential
from tfhvae.errors import RunError


def test_log_normalizer():
    """Against adaptive quadrature."""

    def density(y, x):
        return math.exp(-float(two_mode_potential(np.array([x, y]))))

    # Two equal modes: twice the upper half. Smooth, so that a coarse tolerance is met exactly.
    half, _ = scipy.integrate.dblquad(density, -4.0, 4.0, 0.0, 4.0, epsabs=1e-3, epsrel=1e-3)
    assert potential.log_normalizer() == pytest.approx(math.log(2 * half), abs=2e-3)


@pytest.mark.parametrize("dim", [0, 4])
def test_every_bound_is_below_log_z(dim):
    """Before any training; with more importance samples it is tighter."""
    posterior = potential.AuxiliaryPosterior(dim, seed=1)
    trace = posterior.trace(20_000, [1, 2])
    assert list(trace.sites) == (["a", "z"] if dim else ["z"])
    loose, tight = (float(bounds.importance_weighted(trace, k)[0]) for k in (1, 1000))
    assert loose < tight < potential.log_normalizer() + 0.1


def test_weights_average_to_z():
    """E_q[w] = Z whatever q is, here a Gaussian that covers both modes: within five standard errors
    of the mean of 20,000 weights."""
    posterior = potential.AuxiliaryPosterior(0)
    *_, kernel, bias = posterior.q_z.trainable_variables
    kernel.assign(0.0 * kernel)
    bias.assign([0.0, 0.0, 6.0, 6.0])  # variances of softplus(6)
    weights = np.exp(bounds.log_weights(posterior.trace(20_000, [1, 2])).numpy()[:, 0])
    error = weights.std(ddof=1) / math.sqrt(len(weights))
    z = math.exp(potential.log_normalizer())
    assert abs(weights.mean() - z) < 5 * error and error < 0.1 * z


def test_the_auxiliary_variable_fits_both_modes(tmp_path):
    """One start in which it does, and one Gaussian, which cannot: log 2 apart and more."""
    both, z = potential.measure(potential.fit(4, 2500, seed=1))
    one, _ = potential.measure(potential.fit(0, 1000, seed=1))
    assert 0.3 < both["upper_mode"] < 0.7 and abs(one["upper_mode"] - 0.5) > 0.4
    assert one["bound"] + 0.4 < both["bound"] < both["log_z"]
    assert both["total_variation"] < 0.35 < one["total_variation"]
    assert z.shape == (20_000, 2)


def test_a_run_writes_what_it_returns(tmp_path):
    first, again = (potential.run(str(tmp_path / name), 3, 20, 1) for name in "ab")
    assert first["command"] == "python -m tfhvae.potential --seed=3 --steps=20 --restarts=1"
    assert first == again  # the same seed, the same numbers
    assert json.loads((tmp_path / "a" / "summary.json").read_text()) == first
    for name in ("auxiliary", "one_gaussian"):
        assert (tmp_path / "a" / f"{name}.png").stat().st_size > 1000
    with pytest.raises(RunError, match="at least one step"):
        potential.run(str(tmp_path), steps=0)
    with pytest.raises(ValueError, match="Received: -1"):
        potential.AuxiliaryPosterior(-1)
