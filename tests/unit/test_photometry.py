"""Forced photometry: a row for every position, true errors, flags instead of gaps."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from skymill.errors import StepFailed
from skymill.frame import Background, Frame, MaskBit
from skymill.steps.photometry import PhotFlag, photometry

SKY, READ_NOISE, SIGMA = 150.0, 4.0, 1.5
SETTINGS = {"apertures_fwhm": (0.75, 1.25, 2.0), "annulus_fwhm": (3.0, 6.0)}


def linear(dx=0.0, dy=0.0):
    wcs = WCS(naxis=2)
    wcs.wcs.crpix = [1, 1]
    wcs.wcs.crval = [dx, dy]
    wcs.wcs.set()
    return wcs


def sky_wcs(crpix):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [0.0, 60.0]
    wcs.wcs.crpix = crpix
    wcs.wcs.cdelt = [-2e-4, 2e-4]
    wcs.wcs.set()
    return wcs


def positions(x, y):
    table = Table()
    table["source"] = np.arange(1, len(x) + 1)
    table["x"], table["y"] = np.asarray(x, float), np.asarray(y, float)
    return table


def observed(shape, x=(), y=(), flux=(), *, seed=1, slope=0.0, mask=None):
    rng = np.random.default_rng(seed)
    gy, gx = np.mgrid[: shape[0], : shape[1]]
    truth = SKY + slope * gx
    for xs, ys, f in zip(x, y, flux, strict=True):
        shape_of = np.exp(-((gx - xs) ** 2 + (gy - ys) ** 2) / 2 / SIGMA**2)
        truth = truth + f * shape_of / (2 * np.pi * SIGMA**2)
    data = rng.poisson(truth) + rng.normal(0, READ_NOISE, shape)
    mask = np.zeros(shape, np.uint16) if mask is None else mask
    frame = Frame(data, np.sqrt(truth + READ_NOISE**2), mask, fits.Header())
    cells = tuple(-(-n // 64) for n in shape)
    noise = np.sqrt(SKY + READ_NOISE**2)
    return frame, Background(np.full(cells, SKY), np.full(cells, noise), shape, 64, 0.05)


def measure(frame, sky, table, *, wcs=None, grid=None, **settings):
    return photometry(
        frame, sky, wcs or linear(), table, grid or linear(), {"frame_id": "f-1"},
        fwhm_px=2.3548 * SIGMA, **(SETTINGS | settings),
    )  # fmt: skip


def test_empty_positions_have_mean_zero_and_width_one():
    # Apertures of 4.4 px, annuli to 21 px: the annuli of a lattice of 12 px overlap, which
    # correlates 5 % of the variance between neighbours; apertures do not.
    shape = (1500, 1500)
    y, x = np.mgrid[30:1470:12, 30:1470:12]
    rng = np.random.default_rng(4)
    x = (x + rng.uniform(-0.5, 0.5, x.shape)).ravel()
    y = (y + rng.uniform(-0.5, 0.5, y.shape)).ravel()
    tables = [measure(*observed(shape, seed=s), positions(x, y)).value for s in (3, 4, 5)]
    pull = np.concatenate([np.asarray(table["flux"] / table["flux_err"]) for table in tables])
    assert pull.size == 43200
    # Standard errors 0.0034 (width) and 0.0048 (mean): 0.02 is more than 4 of them. A clip
    # of the annulus at 3 sigma instead of 4 gives a mean of 0.026.
    assert abs(pull.std() - 1) < 0.02
    assert abs(pull.mean()) < 0.02
    # Counts are skewed: a little more than half lies below the mean.
    assert (pull < 0).mean() == pytest.approx(0.5, abs=4 * 0.0024)
    assert all((np.asarray(table["flags"]) == 0).all() for table in tables)


def test_stars_are_measured_through_the_coordinates_of_both_images():
    x, y, flux = [60.2, 120.7, 90.0], [60.4, 70.9, 130.0], [2e4, 5e4, 1e5]
    frame, sky = observed((200, 200), x, y, flux)
    where, grid = sky_wcs([100.0, 100.0]), sky_wcs([140.5, 88.25])
    gx, gy = grid.all_world2pix(*where.all_pix2world(x, y, 0), 0)
    table = measure(frame, sky, positions(gx, gy), wcs=where, grid=grid).value
    np.testing.assert_allclose(table["x"], x, atol=1e-6)
    np.testing.assert_allclose(table["y"], y, atol=1e-6)
    for i, factor in enumerate(SETTINGS["apertures_fwhm"]):
        inside = 1 - np.exp(-((factor * 2.3548) ** 2) / 2)
        off = (np.asarray(table[f"flux_{i}"]) - inside * np.array(flux)) / table[f"flux_{i}_err"]
        assert np.abs(off).max() < 4.5
    np.testing.assert_array_equal(table["flux"], table["flux_1"])
    assert table["flux"].unit == "electron" and table["flux"].description


def test_a_tilted_sky_is_followed_by_the_annulus_only():
    frame, sky = observed((200, 200), slope=0.5)
    table = positions([150.0], [100.0])
    local = measure(frame, sky, table).value
    mesh = measure(frame, sky, table, background="mesh").value
    assert local["sky"][0] == pytest.approx(SKY + 75, abs=2)
    assert abs(local["flux"][0]) < 5 * local["flux_err"][0]
    assert mesh["flux"][0] > 20 * mesh["flux_err"][0]


def test_every_position_has_a_row_and_its_flags():
    mask = np.zeros((200, 200), np.uint16)
    mask[50, 50] = int(MaskBit.SATURATED)
    mask[50, 101] = int(MaskBit.COSMIC)
    mask[120:180, 20:80] = int(MaskBit.NO_DATA)
    frame, sky = observed((200, 200), mask=mask)
    x = [50.0, 100.0, -40.0, 1.0, 50.0, 150.0, np.nan]
    y = [50.0, 50.0, 50.0, 100.0, 150.0, 150.0, 10.0]
    table = measure(frame, sky, positions(x, y)).value
    assert len(table) == 7 and (table["frame_id"] == "f-1").all()
    flags = [PhotFlag(int(value)) for value in table["flags"]]
    assert flags[0] & PhotFlag.SATURATED and flags[0] & PhotFlag.NO_FLUX
    assert flags[1] == PhotFlag.MASKED
    assert flags[2] & PhotFlag.OUTSIDE and flags[2] & PhotFlag.NO_FLUX
    assert flags[3] & PhotFlag.EDGE and not flags[3] & PhotFlag.OUTSIDE
    assert flags[4] & PhotFlag.NO_FLUX and flags[4] & PhotFlag.MASKED
    assert flags[5] == PhotFlag(0)
    assert flags[6] & PhotFlag.OUTSIDE
    np.testing.assert_array_equal(
        np.isfinite(table["flux"]), [not flag & PhotFlag.NO_FLUX for flag in flags]
    )
    np.testing.assert_array_equal(np.isfinite(table["flux"]), np.isfinite(table["flux_err"]))
    assert table["mask_or"][1] == int(MaskBit.COSMIC)


def test_no_positions_give_no_rows():
    frame, sky = observed((100, 100))
    result = measure(frame, sky, positions([], []))
    assert len(result.value) == 0 and result.numbers["n_positions"] == 0


def test_unknown_seeing_and_mixed_coordinates_are_refused():
    frame, sky = observed((100, 100))
    with pytest.raises(StepFailed, match="WCS_RELATIVE"):
        measure(frame, sky, positions([1], [1]), wcs=sky_wcs([1, 1]))
    with pytest.raises(StepFailed, match="NO_STARS"):
        photometry(frame, sky, linear(), positions([1], [1]), linear(), {"frame_id": "f"},
                   fwhm_px=float("nan"))  # fmt: skip
