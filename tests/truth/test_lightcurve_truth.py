"""Ensemble light curves of planted stars under clouds: pulls, variables, outliers."""

import numpy as np
import pytest

from skymill.steps.ensemble import corrected, fit_ensemble

SETTINGS = {"minimum_snr": 30.0, "max_comparisons": 300, "reject_chi2": 4.0}


def sky(seed, n_stars=60, n_frames=80, *, faintest=30.0, background=400.0):
    """Rates, transparency, measured fluxes and their errors; Gaussian of photon width."""
    rng = np.random.default_rng(seed)
    rates = faintest * 10 ** rng.uniform(0, 2.5, n_stars) * 100
    clouds = np.clip(1 + 0.4 * np.sin(np.arange(n_frames) / 6.0) - 0.35, 0.25, 1.0)
    clouds *= rng.uniform(0.9, 1.0, n_frames)
    truth = rates[:, None] * clouds
    err = np.sqrt(truth + background)
    flux = truth + rng.normal(0, 1, truth.shape) * err
    return rates, clouds, truth, flux, err


def solve(flux, err, **settings):
    ensemble = fit_ensemble(flux, err, np.isfinite(flux), **(SETTINGS | settings))
    return ensemble, *corrected(flux, err, ensemble)


def pulls(rates, value, noise, good):
    """Pulls about the true rate, the common factor of the ensemble taken out."""
    factor = np.median((value / rates[:, None])[good])
    return ((value - factor * rates[:, None]) / noise)[good]


def test_clouds_are_removed_and_errors_are_true():
    rates, clouds, _, flux, err = sky(1)
    ensemble, value, noise = solve(flux, err)
    assert ensemble.members.sum() > 50
    assert ensemble.floor < 1e-3
    ratio = ensemble.transparency / clouds
    assert (ratio / np.median(ratio)).std() < 1.5 * np.median(ensemble.transparency_err / clouds)
    pull = pulls(rates, value, noise, np.isfinite(value))
    # 4800 pulls: standard error of the width 0.010; the levels take up one in 80.
    assert abs(pull.std() - 1) < 0.045
    assert abs(pull.mean()) < 0.06
    # Uncorrected the clouds are all there is.
    bright = np.argmax(rates)
    assert flux[bright].std() / flux[bright].mean() > 0.2
    assert value[bright].std() / value[bright].mean() < 0.02


def test_an_injected_variable_is_recovered_and_not_used():
    rates, clouds, _, flux, err = sky(2)
    phase = 2 * np.pi * np.arange(80) / 23.0
    target = int(np.argsort(rates)[-5])
    signal = 1 + 0.1 * np.sin(phase)
    flux[target] *= signal
    ensemble, value, noise = solve(flux, err)
    assert not ensemble.members[target]
    assert ensemble.members.sum() > 50
    curve = value[target] / np.median(value[target])
    basis = np.stack([np.sin(phase), np.cos(phase), np.ones(80)])
    amplitude, other, _ = np.linalg.lstsq(basis.T, curve, rcond=None)[0]
    error = np.median(noise[target] / value[target]) * np.sqrt(2 / 80)
    assert abs(amplitude - 0.1) < 4 * error + 0.002
    assert abs(other) < 4 * error + 0.002
    constant = np.arange(60) != target
    pull = pulls(rates[constant], value[constant], noise[constant], np.isfinite(value[constant]))
    assert abs(pull.std() - 1) < 0.045


def test_several_bright_variables_do_not_drag_the_ensemble():
    rates, clouds, _, flux, err = sky(3)
    rng = np.random.default_rng(33)
    variables = np.argsort(rates)[-6:]
    for i in variables:
        period, depth = rng.uniform(10, 60), rng.uniform(0.1, 0.4)
        flux[i] *= 1 + depth * np.sin(2 * np.pi * np.arange(80) / period + rng.uniform(0, 6))
    ensemble, value, _ = solve(flux, err)
    assert not ensemble.members[variables].any()
    ratio = ensemble.transparency / clouds
    assert (ratio / np.median(ratio)).std() < 2 * np.median(ensemble.transparency_err / clouds)


def test_single_hits_do_not_reach_the_transparency():
    rates, clouds, _, flux, err = sky(4)
    rng = np.random.default_rng(44)
    hit = rng.uniform(size=flux.shape) < 0.01
    flux[hit] *= 3
    ensemble, value, noise = solve(flux, err)
    assert not ensemble.used[hit].any()
    assert ensemble.members.sum() > 45
    pull = pulls(rates, value, noise, np.isfinite(value) & ~hit)
    assert abs(pull.std() - 1) < 0.045


def test_a_star_is_not_its_own_comparison():
    # One star with 90 % of the light: with itself in the ensemble its errors would cancel.
    rates, clouds, truth, _, _ = sky(5, n_stars=8, faintest=100.0)
    rates[:] = 1e4
    rates[0] = 1e6
    rng = np.random.default_rng(55)
    truth = rates[:, None] * clouds
    err = np.sqrt(truth + 400)
    flux = truth + rng.normal(0, 1, truth.shape) * err
    _, value, noise = solve(flux, err)
    pull = pulls(rates[:1], value[:1], noise[:1], np.isfinite(value[:1]))
    # 80 pulls: standard error 0.079.
    assert abs(pull.std() - 1) < 0.32


def test_scatter_beyond_the_errors_is_measured():
    rates, clouds, truth, flux, err = sky(6)
    rng = np.random.default_rng(66)
    flux = flux + truth * rng.normal(0, 0.01, truth.shape)
    ensemble, _, _ = solve(flux, err, reject_chi2=6.0)
    # From 60 stars of 80 frames: each tells 0.01**2 to 16 % of its total variance.
    assert ensemble.floor == pytest.approx(0.01, rel=0.15)
