"""Catalogue of a stack: true thresholds and errors in correlated noise, names, magnitudes."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from skymill.frame import Frame
from skymill.resample import aperture_factor
from skymill.steps.catalog import catalog, empty_catalog, source_names

SIGMA, STAR = 10.0, 1.6


def tan():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [10.0, -5.0]
    wcs.wcs.crpix = [200.5, 200.5]
    wcs.wcs.cdelt = [-1e-4, 1e-4]
    wcs.wcs.set()
    return wcs


def correlated(shape, seed, *, stars=None, wcs=None, **cards):
    """Noise after a bilinear shift of half a pixel: rho = 1/2 per axis, known exactly."""
    rng = np.random.default_rng(seed)
    white = rng.normal(0, 2 * SIGMA, (shape[0] + 1, shape[1] + 1))
    sci = (white[1:, 1:] + white[:-1, 1:] + white[1:, :-1] + white[:-1, :-1]) / 4
    for x, y, flux in stars or ():
        gy, gx = np.mgrid[: shape[0], : shape[1]]
        sci += flux * np.exp(-((gx - x) ** 2 + (gy - y) ** 2) / 2 / STAR**2) / (2 * np.pi * STAR**2)
    header = fits.Header({"FWHM": 2.3548 * STAR, "EXPTIME": 60.0} | cards)
    tri = np.array([0, 0, 0, 0, 0.5, 1, 0.5, 0, 0, 0, 0])
    frame = Frame(sci, np.full(shape, SIGMA), np.zeros(shape, np.uint16), header, wcs)
    return frame, np.outer(tri, tri).astype(np.float32)


def test_noise_makes_hardly_a_source_although_it_is_correlated():
    frame, correlation = correlated((500, 500), 1)
    found = catalog(frame, None, correlation, threshold_sigma=4.5).value
    # 250 000 px hold about 8000 independent positions: 0.03 peaks above 4.5 sigma.
    assert len(found) <= 2
    white = np.zeros((11, 11), np.float32)
    white[5, 5] = 1
    assert len(catalog(frame, None, white, threshold_sigma=4.5).value) > 50


def test_flux_errors_are_true():
    pulls, naive = [], []
    for seed in range(4):
        grid = np.arange(40.0, 560.0, 40.0)
        rng = np.random.default_rng([seed, 1])
        stars = [
            (x + rng.uniform(-0.5, 0.5), y + rng.uniform(-0.5, 0.5), 4000.0)
            for x in grid for y in grid
        ]  # fmt: skip
        shape = (600, 600)
        frame, correlation = correlated(shape, [seed, 2], wcs=None)
        sci = np.array(frame.sci, float)
        for x, y, flux in stars:
            i, j = np.arange(int(x) - 12, int(x) + 14), np.arange(int(y) - 12, int(y) + 14)
            gx = np.exp(-((i - x) ** 2) / 2 / STAR**2)
            gy = np.exp(-((j - y) ** 2) / 2 / STAR**2)
            sci[np.ix_(j, i)] += flux * np.outer(gy, gx) / (2 * np.pi * STAR**2)
        result = catalog(frame.replace(sci=sci), None, correlation)
        found, radius = result.value, result.numbers["r_main_px"]
        truth = 4000.0 * (1 - np.exp(-(radius**2) / 2 / STAR**2))
        clean = np.asarray(found["flags"]) == 0
        pull = (np.asarray(found["flux"]) - truth) / np.asarray(found["flux_err"])
        clean &= np.abs(pull) < 10
        pulls.append(pull[clean])
        naive.append(pull[clean] * aperture_factor(correlation, radius))
    pulls, naive = np.concatenate(pulls), np.concatenate(naive)
    assert pulls.size > 500
    # Standard errors at 500: width 0.032, mean 0.045. Centroids and background add a little.
    assert abs(pulls.std() - 1) < 0.14
    assert abs(pulls.mean()) < 0.25
    assert naive.std() > 1.5


def test_magnitudes_use_zero_point_exposure_and_aperture_correction():
    stars = [(60.0 * i + 50, 60.0 * j + 50, 3e5) for i in range(6) for j in range(6)]
    frame, correlation = correlated((400, 400), 3, stars=stars, wcs=tan(), ZP=25.0)
    result = catalog(frame, np.full((400, 400), 7, np.uint16), correlation)
    found = result.value
    assert len(found) == 36
    truth = 25.0 - 2.5 * np.log10(3e5 / 60.0)
    assert np.median(found["mag"]) == pytest.approx(truth, abs=0.005)
    assert (np.asarray(found["coverage"]) == 7).all()
    ra, dec = tan().all_pix2world(found["x"], found["y"], 0)
    np.testing.assert_allclose(found["ra"], ra)
    np.testing.assert_allclose(found["dec"], dec)
    assert found["name"][0].startswith("SM J00") and "-0" in found["name"][0]
    assert result.numbers["aperture_correction"] > 1


def test_without_zero_point_and_sky_the_fluxes_stay():
    stars = [(60.0 * i + 50, 60.0 * j + 50, 3e4) for i in range(3) for j in range(3)]
    frame, correlation = correlated((220, 220), 4, stars=stars)
    found = catalog(frame, None, correlation).value
    assert len(found) == 9
    assert np.isnan(found["mag"]).all() and np.isnan(found["ra"]).all()
    assert (np.asarray(found["name"]) == "").all() and (np.asarray(found["flux"]) > 0).all()


def test_names_cut_off_and_never_carry():
    names = source_names(
        np.array([0.0, 359.9999999, 15.0, 12.3 * 15, np.nan]),
        np.array([0.0, -0.00001, 89.99999999, -45.5, 1.0]),
    )
    assert list(names) == [
        "SM J000000.00+000000.0",
        "SM J235959.99-000000.0",
        "SM J010000.00+895959.9",
        "SM J121800.00-453000.0",
        "",
    ]


def test_an_empty_catalogue_has_every_column():
    frame, correlation = correlated((220, 220), 4, stars=[(100.0, 100.0, 1e5)])
    found, empty = catalog(frame, None, correlation).value, empty_catalog()
    assert len(empty) == 0
    assert empty.colnames == found.colnames
    for name in empty.colnames:
        assert empty[name].dtype.kind == found[name].dtype.kind, name
        assert empty[name].unit == found[name].unit and empty[name].description


def test_e69_kron_pixels_belong_to_the_nearest_source():
    from skymill.kernels.ellipses import nearest_owners

    own = nearest_owners(
        (30, 40), np.array([10.0, 18.0, np.nan]), np.array([15.0, 15.0, 1.0]),
        np.array([2.0, 2.0, 1.0]), np.array([2.0, 1.0, 1.0]), np.zeros(3),
    )  # fmt: skip
    assert own[15, 10] == 1 and own[15, 18] == 2 and own[15, 13] == 1 and own[15, 15] == 2
    assert own[20, 10] == 1 and own[20, 18] == 0 and own[0, 0] == 0 and own.max() == 2
