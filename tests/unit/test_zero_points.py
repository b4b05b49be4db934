"""Colour and position terms, filter mismatch and saturation limit against planted truth."""

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS

from skymill.catalogs import RefCatalog
from skymill.wcsmath import pixel_to_sky
from skymill.zero_points import Bright, Use, compare, saturation_mag, spatial_terms
from skymill.zeropoint import fit_extinction, robust_fit

ZP, TERM, SHAPE = 24.0, 0.18, (900, 1100)
USE = {
    "bands": {}, "minimum_stars": 3, "clip_sigma": 4.0, "expected_scatter_mag": 0.03,
    "catalog_error_mag": 0.01, "match_radius_arcsec": 2.0, "match_radius_px": 2.0,
}  # fmt: skip


def tangent():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [10.0, -30.0], [550.0, 450.0]
    wcs.wcs.cdelt = [-0.5 / 3600, 0.5 / 3600]
    wcs.wcs.set()
    return wcs


def field(rng, n=60, *, term=TERM, slope=0.0, outliers=0.0, filter_="V", eps=0.01):
    """Stars whose instrumental magnitudes follow colour, position and zero point."""
    cells = np.array([[x, y] for x in range(40, 1080, 60) for y in range(40, 880, 60)], float)
    xy = cells[rng.permutation(len(cells))[:n]] + rng.uniform(-8, 8, (n, 2))
    colour = rng.normal(0.7, 0.35, n)
    v = rng.uniform(12, 16, n)
    err = rng.uniform(0.004, 0.02, n)
    tilt = slope * (2 * (xy[:, 0] + 0.5) / SHAPE[1] - 1)
    mag = v - ZP - term * (colour - 0.7) - tilt + rng.normal(0, np.hypot(err, eps))
    wrong = rng.permutation(n)[: round(outliers * n)]
    mag[wrong] += rng.choice([-1, 1], len(wrong)) * rng.uniform(0.2, 1.0, len(wrong))
    wcs = tangent()
    sky = pixel_to_sky(wcs, xy)
    catalog = RefCatalog(
        label="planted", ra=sky[:, 0], dec=sky[:, 1], name=np.array([f"s{i}" for i in range(n)]),
        mags={"B": v + colour, "V": v, "R": v - 0.55 * colour - 0.1},
        errs={band: np.full(n, 0.002) for band in "BVR"},
    )  # fmt: skip
    return Bright(xy, mag, err, 10 ** (-0.4 * mag)), catalog, wcs, {"filter": filter_}


def fitted(*parts, **options):
    stars, catalog, wcs, row = parts
    found, why = compare(stars, catalog, wcs, 0.5, row, Use(**(USE | options)), SHAPE)
    assert found is not None, why
    return found


def test_s17_e73_colour_term_and_zero_point_with_ten_per_cent_outliers_have_true_errors():
    pulls, offsets = [], []
    for trial in range(200):
        found = fitted(*field(np.random.default_rng([trial, 1]), outliers=0.1))
        # The zero point belongs to colour_0, which is rounded; the truth is at 0.7.
        truth = ZP + TERM * (found.colour_0 - 0.7)
        offsets.append(found.offset.value - truth)
        pulls.append(
            [offsets[-1] / found.offset.err, (found.colour_term - TERM) / found.colour_term_err]
        )
    width = np.std(pulls, axis=0)
    # 200 trials: the width is known to 5 %; errors are widened by 5 % for few stars.
    assert width == pytest.approx(1.0, abs=0.2)
    assert abs(np.mean(offsets)) < 4 * np.std(offsets) / np.sqrt(200)
    assert abs(np.mean(offsets)) < 0.002


def test_without_the_colour_term_the_scatter_shows_it():
    parts = field(np.random.default_rng(2))
    assert fitted(*parts).offset.scatter < 0.02
    assert fitted(*parts, fit_colour=False).offset.scatter > 0.04


def test_a_known_colour_term_is_applied_and_not_fitted():
    parts = field(np.random.default_rng(3), n=5)
    found = fitted(*parts, colour_terms={"V": TERM})
    assert (found.colour_term, found.colour_term_err) == (TERM, 0.0)
    truth = ZP + TERM * (found.colour_0 - 0.7)
    assert abs(found.offset.value - truth) < 5 * found.offset.err


def test_five_stars_fit_no_colour_term():
    found = fitted(*field(np.random.default_rng(4), n=5))
    assert found.fit is None
    assert np.isnan(found.colour_term)


def test_a_slope_across_the_frame_is_found_and_the_zero_point_is_its_mean():
    found = fitted(*field(np.random.default_rng(5), n=120, slope=0.05), spatial_order=1)
    slopes, errors = found.fit.coefficients[1:], found.fit.errors[1:]
    assert np.all(np.abs(slopes - [0.05, 0.0]) < 5 * errors)
    assert errors.max() < 0.01
    assert abs(found.offset.value - ZP - TERM * (found.colour_0 - 0.7)) < 5 * found.offset.err


def test_spatial_terms_have_mean_zero_and_are_orthogonal_over_the_frame():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    terms = spatial_terms(np.column_stack([x.ravel(), y.ravel()]).astype(float), SHAPE, 2)
    assert terms.shape[1] == 5
    assert np.abs(terms.mean(axis=0)).max() < 1e-5
    products = terms.T @ terms / len(terms)
    assert np.abs(products - np.diag(np.diag(products))).max() < 1e-5


def test_light_of_another_filter_is_noticed():
    stars, catalog, wcs, _ = field(np.random.default_rng(6), term=0.0)
    # The header says B, the light came through V.
    found = fitted(stars, catalog, wcs, {"filter": "B"}, fit_colour=False)
    assert found.better_band == "V"
    assert fitted(stars, catalog, wcs, {"filter": "V"}).better_band == ""


def test_rejected_stars_are_those_that_were_planted():
    rng = np.random.default_rng(7)
    stars, catalog, wcs, row = field(rng)
    stars.mag[3] += 0.5
    found = fitted(stars, catalog, wcs, row)
    assert found.names[~found.offset.keep].tolist() == ["s3"]
    assert found.residuals[~found.offset.keep] == pytest.approx([-0.5], abs=0.1)


def test_saturation_limit_is_the_star_whose_peak_is_full():
    sources = Table(
        {"flux_total": [1e5, 2e5, 1e3], "flux_total_err": [300.0, 400.0, 50.0],
         "peak": [5e3, 1e4, 20.0], "flags": [0, 0, 0]}
    )  # fmt: skip
    # total / peak = 20: 59 000 electron of room are 1.18e6 electron, 11 800 electron/s
    found = saturation_mag(sources, 60_000.0, 1_000.0, 25.0, 100.0)
    assert found == pytest.approx(25 - 2.5 * np.log10(11_800))
    assert np.isnan(saturation_mag(sources, float("nan"), 1_000.0, 25.0, 100.0))
    assert np.isnan(saturation_mag(sources[2:], 60_000.0, 1_000.0, 25.0, 100.0))


def test_extinction_of_a_night_in_spite_of_clouds():
    rng = np.random.default_rng(8)
    pulls = []
    for _ in range(200):
        airmass = np.linspace(1.0, 2.2, 25)
        err = np.full(25, 0.005)
        zp = 24.0 - 0.16 * airmass + rng.normal(0, err)
        zp[[4, 11, 12]] -= rng.uniform(0.1, 0.8, 3)
        fit = fit_extinction(zp, err, airmass)
        pulls.append((fit.coefficients[0] - 0.16) / fit.errors[0])
    assert np.std(pulls) == pytest.approx(1.0, abs=0.22)
    assert abs(np.mean(pulls)) < 0.4
    assert fit_extinction(zp[:4], err[:4], airmass[:4]) is None
    assert fit_extinction(zp, err, np.full(25, 1.1)) is None


def test_too_few_measurements_for_the_terms_are_refused():
    with pytest.raises(ValueError, match="cannot tell"):
        robust_fit(np.zeros(4), np.ones(4), np.zeros((4, 2)))
