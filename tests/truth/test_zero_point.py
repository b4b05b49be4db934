"""The zero point and its error against injected truth."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS

from skymill.catalogs import RefCatalog
from skymill.steps.photcal import photcal
from skymill.wcsmath import pixel_to_sky, wcs_to_text
from skymill.zeropoint import robust_offset

ZP = 23.4


def _pulls(n, *, eps, outliers, trials=1500):
    pulls, offsets, scatters, lost = [], [], [], 0
    for trial in range(trials):
        rng = np.random.default_rng([trial, n, int(1e4 * eps), int(100 * outliers)])
        sigma = rng.uniform(0.005, 0.03, n)
        values = rng.normal(0, np.hypot(sigma, eps))
        wrong = round(outliers * n)
        # 10 % outliers, most on the faint side, as light is more often lost than found.
        values[:wrong] += rng.choice([-1, -1, 1], wrong) * rng.uniform(0.2, 1.0, wrong)
        found = robust_offset(values, sigma)
        pulls.append(found.value / found.err)
        offsets.append(found.value)
        scatters.append(found.scatter)
        lost += int((~found.keep[wrong:]).sum())
    return np.array(pulls), np.array(offsets), np.array(scatters), lost / (trials * (n - wrong))


@pytest.mark.parametrize("eps", [0.01, 0.02, 0.05])
def test_fifty_stars_with_ten_per_cent_outliers(eps):
    pulls, offsets, scatters, lost = _pulls(50, eps=eps, outliers=0.1)
    # 1500 trials: the width is known to 0.018, the mean to 0.03 of the error.
    assert pulls.std() == pytest.approx(1.0, abs=0.1)
    assert abs(offsets.mean()) < 0.002
    assert abs(pulls.mean()) < 0.15
    assert scatters.mean() == pytest.approx(eps, rel=0.15)
    assert lost < 0.002


@pytest.mark.parametrize(("n", "low"), [(6, 0.8), (10, 0.9), (20, 0.9), (200, 0.9)])
def test_the_error_of_few_stars_is_wide_enough(n, low):
    pulls, *_ = _pulls(n, eps=0.02, outliers=0.0, trials=1000)
    assert low < pulls.std() < 1.1


def test_leaving_the_scatter_out_would_be_wrong_by_a_factor():
    """The test can fail: with errors alone the pulls are much too wide."""
    wide = []
    for trial in range(500):
        rng = np.random.default_rng([trial, 99])
        sigma = rng.uniform(0.005, 0.01, 50)
        values = rng.normal(0, np.hypot(sigma, 0.02))
        weight = 1 / sigma**2
        wide.append((weight * values).sum() / weight.sum() * np.sqrt(weight.sum()))
    assert np.std(wide) > 2


def test_the_whole_step_gives_unbiased_zero_points_and_throughputs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [0.0, 60.0]
    wcs.wcs.crpix = [500.0, 500.0]
    wcs.wcs.cdelt = [-0.4 / 3600, 0.4 / 3600]
    wcs.wcs.set()
    solution = {
        "frame_id": "a",
        "solution": "absolute",
        "wcs": wcs_to_text(wcs),
        "scale_arcsec_px": 0.4,
    }
    cells = np.array([[x, y] for x in range(50, 950, 60) for y in range(50, 950, 60)], float)
    pulls, offsets = [], []
    for trial in range(150):
        rng = np.random.default_rng([trial, 7])
        xy = rng.permutation(cells)[:50]
        mag = rng.uniform(12, 16, 50)
        sky = pixel_to_sky(wcs, xy)
        catalog = RefCatalog(
            "c",
            sky[:, 0] % 360,
            sky[:, 1],
            np.arange(50).astype(str),
            {"V": mag + rng.normal(0, 0.01, 50)},
            {"V": np.full(50, 0.01)},
        )
        off = rng.normal(0, 0.015, 50)
        off[:5] += rng.uniform(0.2, 0.8, 5)
        flux = 30.0 * 10 ** (-0.4 * (mag + off - ZP))
        err = np.sqrt(flux + 4e4)
        flux = flux + rng.normal(0, 1, 50) * err
        table = Table(
            {
                "x": xy[:, 0],
                "y": xy[:, 1],
                "flux": flux,
                "flux_err": err,
                "flux_total": flux,
                "flux_total_err": err,
                "flags": np.zeros(50, int),
            }
        )
        row = {"frame_id": "a", "filter": "V", "exptime_s": 30.0, "gain_e_adu": 2.0}
        value = photcal(table, row, solution=solution, catalog=catalog).value
        pulls.append((value["zp"] - ZP) / value["zp_err"])
        offsets.append(value["zp"] - ZP)
    assert abs(np.mean(offsets)) < 0.002
    # 150 trials: the width is known to 0.058.
    assert np.std(pulls) == pytest.approx(1.0, abs=0.24)
