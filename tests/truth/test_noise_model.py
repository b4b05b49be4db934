"""The noise model of an aperture against the scatter of simulated frames."""

import numpy as np
import pytest
from scipy.special import erf

from skymill.diagnostics import NoiseModel, plot_noise
from skymill.measure import measure_apertures

FWHM, RADIUS, RING = 3.0, 4.5, (12.0, 21.0)
FLUXES = np.array([400.0, 2e3, 1e4, 6e4, 4e5])
SKY, DARK, READ, GAIN = 80.0, 6.0, 5.0, 1.6
BIAS_ERR, FLAT_ERR, FLICKER = 1.5, 0.01, 0.003
CELL, PER_LEVEL, FRAMES = 48, 4, 800


def scene():
    """Light of one star of each flux per cell, without noise, and positions."""
    sigma = FWHM / np.sqrt(8 * np.log(2))
    ny, nx = CELL * len(FLUXES), CELL * PER_LEVEL
    light = np.zeros((ny, nx))
    places = []
    for j, flux in enumerate(FLUXES):
        for i in range(PER_LEVEL):
            x, y = CELL * (i + 0.5) + 0.25, CELL * (j + 0.5) - 0.25
            edges = [
                erf((np.arange(n + 1) - 0.5 - c) / (np.sqrt(2) * sigma))
                for n, c in ((nx, x), (ny, y))
            ]
            light += flux / 4 * np.outer(np.diff(edges[1]), np.diff(edges[0]))
            places.append((x, y))
    return light, np.array(places).reshape(len(FLUXES), PER_LEVEL, 2)


@pytest.mark.parametrize("fixed", [True, False], ids=["stars stay", "all terms"])
def test_o19_the_model_equals_the_measured_scatter_of_each_brightness(fixed):
    """O19: sky, shot, dark, read, bias, flat and scintillation; sky and read noise count once."""
    random = np.random.default_rng([19, fixed])
    light, places = scene()
    x, y = places[..., 0].ravel(), places[..., 1].ravel()
    flux = np.empty((FRAMES, x.size))
    shape = light.shape
    for k in range(FRAMES):
        # Each star flickers by itself: its cell of the frame gets one factor.
        flicker = 1 + FLICKER * random.standard_normal((len(FLUXES), PER_LEVEL))
        scaled = light * np.kron(flicker, np.ones((CELL, CELL)))
        response = 1 if fixed else 1 + FLAT_ERR * random.standard_normal(shape)
        electron = random.poisson((scaled + SKY) * response + DARK) + READ * random.standard_normal(
            shape
        )
        if not fixed:
            electron += BIAS_ERR * random.standard_normal(shape)
        value = GAIN * np.round(electron / GAIN) - SKY - DARK
        found = measure_apertures(
            value.astype(np.float32), np.ones(shape, np.float32), None, x, y, [RADIUS],
            annulus=RING,
        )  # fmt: skip
        flux[k] = found["flux_0"]
    scatter = 1.0857 * flux.std(axis=0, ddof=1) / flux.mean(axis=0)
    model = NoiseModel.circle(
        RADIUS, FWHM, SKY, annulus=RING, dark_e=DARK, read_noise_e=READ, gain_e_adu=GAIN,
        bias_err_e=0 if fixed else BIAS_ERR, flat_err=0 if fixed else FLAT_ERR,
        scintillation=FLICKER,
    )  # fmt: skip
    ratio = (scatter / model.sigma_mag(flux.mean(axis=0))).reshape(len(FLUXES), PER_LEVEL)
    # 3200 values a level: one standard error is 1.25 per cent.
    assert np.abs(np.sqrt((ratio**2).mean(axis=1)) - 1).max() < 0.05
    assert abs(np.sqrt((ratio**2).mean()) - 1) < 0.025


def test_o19_errors_that_stay_on_the_pixels_do_not_scatter():
    """O19: bias and flat are left out of the scatter between frames, not of the error."""
    model = NoiseModel.circle(4.0, 3.0, 50.0, bias_err_e=3.0, flat_err=0.02)
    flux = np.array([1e5])
    parts = model.variances(flux)
    whole, between = model.sigma_mag(flux), model.sigma_mag(flux, repeated=True)
    lost = (whole**2 - between**2) * (flux / 1.0857362) ** 2
    assert lost[0] == pytest.approx(parts["bias"][0] + parts["flat"][0], rel=1e-6)


def test_f13_scintillation_rules_the_brightest_stars():
    """O19: the plot has all terms, and bright stars end at the scintillation."""
    model = NoiseModel.circle(4.0, 3.0, 50.0, read_noise_e=5.0, scintillation=0.002)
    flux = np.geomspace(1e3, 1e9, 30)
    drawn = plot_noise(model, flux, model.sigma_mag(flux))
    assert drawn.numbers["error_over_model"] == pytest.approx(1.0)
    assert model.sigma_mag(flux)[-1] == pytest.approx(1.0857362 * 0.002, rel=0.01)
    labels = {t.get_text() for t in drawn.figure.axes[0].get_legend().get_texts()}
    assert {"shot", "sky", "read", "scintillation", "total"} <= labels
