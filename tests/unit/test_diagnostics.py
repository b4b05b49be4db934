"""Figures come with numbers that are true of the arrays that went in."""

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS

from skymill.diagnostics import (
    fit_power_law,
    plot_apertures,
    plot_background_mesh,
    plot_depth,
    plot_growth_curves,
    plot_noise,
    plot_psf,
    plot_rms,
    plot_snr,
    plot_zero_points,
    save_figure,
    zero_point_residuals,
)
from skymill.diagnostics.noise import NoiseModel
from skymill.errors import ConfigError
from skymill.frame import Background

FWHM = 4.0


def stars(ratio=1.0, angle_deg=0.0, seed=1):
    """Three Gaussian stars on a little noise: image, error, x, y, fluxes."""
    random = np.random.default_rng(seed)
    image = random.normal(0, 1.0, (150, 160))
    x, y, flux = np.array([40.3, 80.0, 120.7]), np.array([70.2, 75.0, 81.6]), [3e4, 6e4, 1e5]
    sx = FWHM / np.sqrt(8 * np.log(2)) / np.sqrt(ratio)
    sy = sx * ratio
    yy, xx = np.mgrid[:150, :160]
    turn = np.deg2rad(angle_deg)
    for a, b, f in zip(x, y, flux, strict=True):
        u = (xx - a) * np.cos(turn) + (yy - b) * np.sin(turn)
        v = (yy - b) * np.cos(turn) - (xx - a) * np.sin(turn)
        image += f / (2 * np.pi * sx * sy) * np.exp(-0.5 * ((u / sx) ** 2 + (v / sy) ** 2))
    return image.astype(np.float32), np.ones((150, 160), np.float32), x, y, flux


def test_o16_growth_curves_are_those_of_the_positions_asked_for():
    """O16: half the light of a Gaussian lies within half a FWHM, for each star by itself."""
    image, err, x, y, flux = stars()
    drawn = plot_growth_curves(image, err, None, x[[2, 0]], y[[2, 0]], fwhm_px=FWHM, labels=[3, 1])
    assert drawn.numbers["half_px"] == pytest.approx([FWHM / 2, FWHM / 2], rel=0.03)
    assert drawn.numbers["flux_e"][:, -1] == pytest.approx([flux[2], flux[0]], rel=0.02)
    labels = [t.get_text() for t in drawn.figure.axes[0].get_legend().get_texts()]
    assert labels == ["3", "1"]


def test_o17_profiles_tell_the_width_along_each_axis():
    """O17: sums over columns and rows, with Gaussian fits; a star at an edge has none."""
    image, _, x, y, _ = stars(ratio=0.6)
    drawn = plot_psf(image, [*x, 2.0], [*y, 2.0], fwhm_px=FWHM)
    wide, narrow = FWHM / np.sqrt(0.6), FWHM * np.sqrt(0.6)
    assert drawn.numbers["fwhm_x_px"][:3] == pytest.approx(wide, rel=0.03)
    assert drawn.numbers["fwhm_y_px"][:3] == pytest.approx(narrow, rel=0.03)
    assert np.isnan(drawn.numbers["fwhm_x_px"][3])


def test_o18_signal_to_noise_keeps_the_order_of_the_input():
    """O18: flux over error in electron, drawn by rank."""
    drawn = plot_snr([10.0, np.nan, 500.0], [5.0, 1.0, 10.0], labels=[7, 8, 9])
    assert drawn.numbers["snr"][[0, 2]] == pytest.approx([2.0, 50.0])
    assert [t.get_text() for t in drawn.figure.axes[0].get_xticklabels()] == ["9", "7"]


def test_o15_mesh_lines_lie_on_the_cells_that_were_measured():
    """O15: borders every box, and a last cell that is cut."""
    level = np.full((3, 4), 100.0, np.float32)
    level[0, 0] = 112.0
    background = Background(level, np.full((3, 4), 10.0, np.float32), (90, 120), 32, 0.4)
    drawn = plot_background_mesh(np.zeros((90, 120), np.float32), background)
    lines = [line.get_xdata()[0] for line in drawn.figure.axes[0].lines[:3]]
    assert lines == [31.5, 63.5, 95.5]
    assert drawn.numbers["n_cells"] == 12
    assert drawn.numbers["rms_e"] == pytest.approx(10.0)


def test_o21_apertures_have_the_orientation_of_the_stars():
    """O21 and O25: the outline of an ellipse at 40 degree lies along the star, not across."""
    image, _, x, y, _ = stars(ratio=0.5, angle_deg=40.0)
    drawn = plot_apertures(image, x, y, a_px=8.0, b_px=4.0, theta_deg=40.0, annulus=(12, 18))
    outline = drawn.numbers["outlines_px"][1]
    far = np.argmax(np.hypot(outline[0] - x[1], outline[1] - y[1]))
    angle = np.rad2deg(np.arctan2(outline[1, far] - y[1], outline[0, far] - x[1])) % 180
    assert angle == pytest.approx(40.0, abs=1e-6)
    from skymill.measure import measure_ellipses

    along, across = (
        measure_ellipses(
            image, np.ones_like(image), None, x, y, 4.0, 2.0, np.deg2rad(turn)
        )["flux_0"]
        for turn in (40.0, 130.0)
    )  # fmt: skip
    assert (np.asarray(along) > 1.1 * np.asarray(across)).all()


def test_o45_power_law_of_photons_and_variable_sources():
    """O45: rms over flux with a power law; variable sources do not bend it."""
    random = np.random.default_rng(3)
    mag = np.linspace(10, 16, 200)
    rms = 3.0 * 10 ** (0.2 * (mag - 13)) * np.exp(0.05 * random.standard_normal(200))
    rms[::20] *= 12
    law = fit_power_law(mag, rms)
    assert law.exponent == pytest.approx(-0.5, abs=4 * 2.5 * law.slope_err)
    assert law.slope_err < 0.002
    drawn = plot_rms(mag, rms, 3.0 * 10 ** (0.2 * (mag - 13)))
    assert drawn.numbers["variable"] == 10
    assert drawn.numbers["rms_over_expected"] == pytest.approx(1.0, abs=0.03)
    assert fit_power_law([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]) is None


def test_slopes_of_zero_points_are_found_among_outliers():
    """A gradient along x and a colour term show; outliers and unused stars do not change them."""
    random = np.random.default_rng(5)
    n = 300
    x, y = random.uniform(0, 1000, (2, n))
    colour, mag = random.uniform(0, 1.5, n), random.uniform(12, 17, n)
    off = 0.04 * (x - 500) / 1000 + 0.02 * (colour - 0.7) + 0.005 * random.standard_normal(n)
    off[:20] += 0.5
    keep = np.arange(n) >= 20
    drawn = plot_zero_points(off, x, y, mag, colour, keep=keep)
    numbers = drawn.numbers
    error = numbers["slope_x_mag_per_kpx_err"]
    assert error < 0.003
    assert numbers["slope_x_mag_per_kpx"] == pytest.approx(0.04, abs=4 * error)
    error = numbers["slope_colour_mag_per_mag_err"]
    assert numbers["slope_colour_mag_per_mag"] == pytest.approx(0.02, abs=4 * error)
    assert numbers["n_rejected"] == 20


def catalogue():
    from skymill.catalogs import RefCatalog

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [130.0, 20.0], [100.5, 100.5], [-3e-4, 3e-4]
    random = np.random.default_rng(8)
    xy = random.uniform(10, 190, (40, 2))
    sky = wcs.all_pix2world(xy, 0)
    v, r = random.uniform(12, 15, 40), random.uniform(11, 14, 40)
    errors = np.full(40, 0.01)
    fields = RefCatalog.__dataclass_fields__
    values = {
        "ra": sky[:, 0], "dec": sky[:, 1], "mags": {"V": v, "R": r},
        "errs": {"V": errors, "R": errors}, "name": np.array([f"s{k}" for k in range(40)]),
        "label": "test",
    }  # fmt: skip
    return RefCatalog(**{k: w for k, w in values.items() if k in fields}), wcs, xy, v, r


def test_residuals_have_the_sign_of_the_catalogue_and_the_colour_of_the_zero_point():
    """Catalogue minus calibrated, with the colour term that the frame was given."""
    catalog, wcs, xy, v, r = catalogue()
    exptime, zp, term = 30.0, 22.0, 0.05
    extra = np.where(np.arange(40) == 7, 0.3, 0.0)  # one star is 0.3 mag too bright
    instrumental = v - zp - term * (v - r - 1.0) - extra
    flux = exptime * 10 ** (-0.4 * instrumental)
    sources = Table({"x": xy[:, 0], "y": xy[:, 1], "flux_total": flux})
    sources["flux_total_err"], sources["flags"] = flux / 500, np.zeros(40, int)
    row = {"zp": zp, "exptime_s": exptime, "band": "V", "colour": "V-R", "colour_0": 1.0,
           "colour_term": term}  # fmt: skip
    found = zero_point_residuals(sources, catalog, wcs, row)
    assert len(found) == 40
    star = int(np.argmin(np.abs(found["x"] - xy[7, 0])))
    assert found["residual"][star] == pytest.approx(0.3, abs=1e-6)
    assert not found["keep"][star]
    assert np.delete(np.asarray(found["residual"]), star) == pytest.approx(0.0, abs=1e-6)
    assert zero_point_residuals(sources, catalog, wcs, {**row, "band": "B"}) is None


def test_depth_is_told_by_filter():
    drawn = plot_depth(
        61000 + np.arange(6) / 100, [20, 20.2, 20.4, 19, 19.1, np.nan], [3, 3, 3, 4, 4, 4],
        filters=["V"] * 3 + ["R"] * 3,
    )  # fmt: skip
    assert drawn.numbers["depth_V_mag"] == pytest.approx(20.2)
    assert drawn.numbers["depth_R_mag"] == pytest.approx(19.05)
    assert drawn.numbers["seeing_R"] == 4


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_a_figure_gives_the_same_bytes_each_time(tmp_path, suffix):
    """Files hold no time and no name of a program's version."""
    model = NoiseModel.circle(4.0, 3.0, 50.0, read_noise_e=5.0)
    flux = np.geomspace(1e3, 1e5, 10)
    files = []
    for k in range(2):
        drawn = plot_noise(model, flux, model.sigma_mag(flux))
        files.append(save_figure(drawn.figure, tmp_path / f"{k}{suffix}").read_bytes())
    assert files[0] == files[1]
    with pytest.raises(ConfigError, match="must end in"):
        save_figure(drawn.figure, tmp_path / "figure.gif")


def test_nothing_to_draw_is_no_error():
    """No source, or none that can be measured: an empty figure and NaN."""
    image, err, *_ = stars()
    assert plot_growth_curves(image, err, None, [], [], fwhm_px=FWHM).numbers["half_px"].size == 0
    lost = plot_growth_curves(image, err, None, [np.nan], [5.0], fwhm_px=FWHM)
    assert np.isnan(lost.numbers["half_px"]).all()
    assert plot_psf(image, [], [], fwhm_px=FWHM).numbers["fwhm_x_px"].size == 0
    assert plot_rms([], []).numbers["n_sources"] == 0
    assert plot_zero_points([], [], [], []).numbers["n"] == 0
    assert plot_depth([], []).numbers == {}
    assert plot_snr([], []).numbers["snr"].size == 0
