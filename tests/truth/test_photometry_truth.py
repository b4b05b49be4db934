"""Fluxes against injected truth: pulls of every method in every bin, and total fluxes.

The simulator is of this file: Gaussian stars as differences of error functions, Poisson and
read noise. A width from N pulls is known to 1/sqrt(2N): with N = 20 000 four standard
errors are 0.02. The error map follows the data, as in a calibrated frame; means are compared
with the true variance where the two are correlated.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from skymill.measure import (
    PSFModel,
    measure_apertures,
    measure_ellipses,
    measure_kron,
    measure_optimal,
    measure_psf,
)

SKY, READ_NOISE, SIGMA = 100.0, 5.0, 1.3
CELL, SIDE = 21, 142
FWHM = 2.3548 * SIGMA
#: S/N about 3, 17, 100 and 280.
FLUXES = (150.0, 1e3, 1.2e4, 8e4)


def profile(offset):
    """Light of a Gaussian in the pixels of a cell along one axis, for each offset."""
    edges = np.arange(CELL + 1) - CELL / 2
    steps = erf((edges[None, :] - np.ravel(offset)[:, None]) / (SIGMA * np.sqrt(2)))
    return np.diff(steps, axis=1) / 2


def field(flux, seed):
    """A grid of cells with one star each; background-subtracted image, errors, truth."""
    rng = np.random.default_rng(seed)
    dx, dy = rng.uniform(-0.5, 0.5, (2, SIDE * SIDE))
    light = np.broadcast_to(flux, SIDE * SIDE)[:, None, None] * (
        profile(dy)[:, :, None] * profile(dx)[:, None, :]
    )
    mean = SKY + light.reshape(SIDE, SIDE, CELL, CELL).swapaxes(1, 2).reshape((SIDE * CELL,) * 2)
    raw = rng.poisson(mean) + rng.normal(0, READ_NOISE, mean.shape)
    y, x = (v.ravel() * CELL + (CELL - 1) / 2 for v in np.mgrid[:SIDE, :SIDE])
    sci = (raw - SKY).astype(np.float32)
    data_err = np.sqrt(np.maximum(raw, 0) + READ_NOISE**2).astype(np.float32)
    true_err = np.sqrt(mean + READ_NOISE**2).astype(np.float32)
    return sci, data_err, true_err, (mean - SKY).astype(np.float32), x + dx, y + dy


def check(pulls, label, *, mean=0.0):
    pulls = np.asarray(pulls, float)
    pulls = pulls[np.isfinite(pulls)]
    n = pulls.size
    assert n > 19000, label
    assert np.std(pulls, ddof=1) == pytest.approx(1, abs=4 / np.sqrt(2 * n)), label
    assert np.mean(pulls) == pytest.approx(mean, abs=4 / np.sqrt(n)), label


@pytest.mark.parametrize("flux", FLUXES)
def test_e70_e71_o37_pulls_of_every_method_are_one(flux):
    sci, data_err, true_err, mean, x, y = field(flux, seed=int(flux))
    model = PSFModel.from_profile(FWHM, sci.shape, beta=None, radius_px=2.4 * FWHM)
    found = measure_apertures(sci, data_err, None, x, y, [2.0, 4.0])
    truth = measure_apertures(mean, true_err, None, x, y, [2.0, 4.0])
    optimal = measure_optimal(sci, true_err, None, x, y, model)
    photons = measure_optimal(sci, true_err, None, x, y, model, weights="photons")
    fit = measure_psf(sci, true_err, None, x, y, model, positions="fixed", passes=2).table
    for k in (0, 1):
        off = np.asarray(found[f"flux_{k}"] - truth[f"flux_{k}"])
        check(off / truth[f"flux_err_{k}"], f"aperture {k}, true variance")
        width = np.std(off / found[f"flux_err_{k}"], ddof=1)
        assert width == pytest.approx(1, abs=0.02), f"aperture {k}, variance of the data"
    check((optimal["flux_opt"] - flux) / optimal["flux_err_opt"], "optimal")
    check((photons["flux_opt"] - flux) / photons["flux_err_opt"], "optimal, photons")
    check((fit["flux_psf"] - flux) / fit["flux_err_psf"], "psf")
    # Weights matter: the optimal error beats an aperture's, that of photons is smaller still.
    if flux < 5e3:
        assert np.median(optimal["flux_err_opt"]) < np.median(truth["flux_err_1"])
    assert np.median(photons["flux_err_opt"]) <= np.median(optimal["flux_err_opt"]) * 1.0001


@pytest.mark.parametrize("flux", FLUXES[2:])
def test_e69_pulls_of_kron_fluxes_are_one_in_the_ellipse_that_was_chosen(flux):
    sci, _, true_err, mean, x, y = field(flux, seed=int(flux) + 1)
    found = measure_kron(sci, true_err, None, x, y, SIGMA, SIGMA, 0.0)
    size = SIGMA * np.asarray(found["kron_radius"])
    truth = measure_ellipses(mean, true_err, None, x, y, size, size, 0.0)
    pulls = np.asarray((found["flux_kron"] - truth["flux_0"]) / found["flux_err_kron"])
    assert np.std(pulls, ddof=1) == pytest.approx(1, abs=0.02)


def test_o37_free_positions_have_true_errors():
    sci, _, true_err, _, x, y = field(1e3, seed=5)
    model = PSFModel.from_profile(FWHM, sci.shape, beta=None, radius_px=2.4 * FWHM)
    fit = measure_psf(sci, true_err, None, x, y, model, passes=2).table
    settled = np.isfinite(fit["x_err"]) & (np.asarray(fit["flags"]) == 0)
    assert settled.mean() > 0.98
    for name, truth in (("x", x), ("y", y)):
        pulls = np.asarray((fit[name] - truth) / fit[f"{name}_err"])[settled]
        # Least squares is linear to first order only: a few per cent at S/N 17.
        assert np.std(pulls) == pytest.approx(1, abs=0.04)
        assert np.mean(pulls) == pytest.approx(0, abs=4 / np.sqrt(pulls.size))
    off = np.asarray((fit["flux_psf"] - 1e3) / fit["flux_err_psf"])[settled]
    assert np.std(off) == pytest.approx(1, abs=0.025)


def test_empty_positions_have_mean_zero_and_width_one_with_every_method():
    sci, data_err, true_err, _, x, y = field(0.0, seed=6)
    model = PSFModel.from_profile(FWHM, sci.shape, beta=None, radius_px=2.4 * FWHM)
    rows = {
        "aperture": measure_apertures(sci, data_err, None, x, y, [4.0]),
        "optimal": measure_optimal(sci, data_err, None, x, y, model),
        "psf": measure_psf(sci, data_err, None, x, y, model, positions="fixed", passes=1).table,
    }
    names = {"aperture": "0", "optimal": "opt", "psf": "psf"}
    for method, table in rows.items():
        pulls = np.asarray(table[f"flux_{names[method]}"] / table[f"flux_err_{names[method]}"])
        assert np.std(pulls) == pytest.approx(1, abs=0.02), method
    # With the true variance, for the error of the data follows the pixel and shifts the mean.
    table = measure_optimal(sci, true_err, None, x, y, model)
    check(table["flux_opt"] / table["flux_err_opt"], "optimal")


def test_weights_from_the_pixels_themselves_would_be_seen():
    flux = 300.0
    sci, data_err, _, _, x, y = field(flux, seed=7)
    model = PSFModel.from_profile(FWHM, sci.shape, beta=None, radius_px=2.4 * FWHM)
    ours = measure_optimal(sci, data_err, None, x, y, model)
    assert abs(np.mean((ours["flux_opt"] - flux) / ours["flux_err_opt"])) < 0.1
    # What a fit with 1/err**2 of the data gives: low by about half a sigma.
    picked, low = range(4000), []
    for k in picked:
        ci, cj = int(np.floor(x[k] + 0.5)), int(np.floor(y[k] + 0.5))
        stamp = model.stamp(x[k], y[k], 8)
        here = (slice(cj - 8, cj + 9), slice(ci - 8, ci + 9))
        if stamp.shape != sci[here].shape:
            continue
        weight = 1 / data_err[here].astype(float) ** 2
        value = (stamp * weight * sci[here]).sum() / (stamp**2 * weight).sum()
        low.append((value - flux) * np.sqrt((stamp**2 * weight).sum()))
    assert np.mean(low) < -0.2


def test_total_fluxes_of_a_measured_psf_are_right_to_a_millimagnitude():
    """E71, O37: PSF built from the frame itself; its own error is stated and holds."""
    rng = np.random.default_rng(8)
    flux = 10 ** rng.uniform(4.3, 5.0, SIDE * SIDE)
    sci, _, true_err, _, x, y = field(flux, seed=9)
    cut = slice(0, 40 * CELL), slice(0, 40 * CELL)
    inside = (x < 39.5 * CELL) & (y < 39.5 * CELL) & (x > CELL) & (y > CELL)
    x, y, flux = x[inside], y[inside], flux[inside]
    planes = sci[cut], true_err[cut], None
    model = PSFModel.fit(
        *planes, x, y, fwhm_px=1.05 * FWHM, stars=np.arange(0, x.size, 7), degree=0,
        radius_px=3.2 * FWHM,
    )  # fmt: skip
    assert model.n_stars > 150 and model.scale_err < 1e-3
    for table, name in (
        (measure_psf(*planes, x, y, model, positions="fixed").table, "psf"),
        (measure_optimal(*planes, x, y, model), "opt"),
    ):
        error = np.asarray(table[f"flux_err_{name}"])
        weight = (flux / error) ** 2
        bias = float((weight * (table[f"flux_{name}"] / flux - 1)).sum() / weight.sum())
        stated = float(np.hypot(model.scale_err, 1 / np.sqrt(weight.sum())))
        assert abs(1085.7 * bias) < 1.0, name
        assert abs(bias) < 4 * stated, name
        off = np.asarray((table[f"flux_{name}"] - flux) / error)
        assert np.std(off) == pytest.approx(1, abs=4 / np.sqrt(2 * off.size) + 0.05), name
