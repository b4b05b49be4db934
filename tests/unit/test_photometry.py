"""Forced photometry: a row for every position, true errors, flags instead of gaps."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from skymill.errors import StepFailed
from skymill.frame import Background, Frame, MaskBit
from skymill.measure import Positions
from skymill.steps.photometry import PhotFlag, empty_photometry, photometry

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
        off = (np.asarray(table[f"flux_{i}"]) - inside * np.array(flux)) / table[f"flux_err_{i}"]
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


def grid_of_stars(n_side=5, step=80):
    rng = np.random.default_rng(12)
    y, x = np.mgrid[60 : 60 + step * n_side : step, 60 : 60 + step * n_side : step].astype(float)
    x, y = (v.ravel() + rng.uniform(-0.5, 0.5, v.size) for v in (x, y))
    return (120 + step * (n_side - 1),) * 2, x, y, 10 ** rng.uniform(4.3, 4.9, x.size)


def test_e70_e71_o37_methods_give_total_fluxes_and_corrections_with_errors():
    shape, x, y, flux = grid_of_stars()
    frame, sky = observed(shape, x, y, flux)
    result = measure(frame, sky, positions(x, y), methods=("aperture", "optimal", "psf"))
    table, numbers = result.value, result.numbers
    corrected = table["flux"] * table["apcor"]
    assert (np.asarray(table["apcor_err"]) > 0).all() and numbers["n_growth_stars"] > 10
    assert numbers["psf_stars"] > 10 and numbers["psf_scale_err"] < 2e-3
    for values, errors, common in (
        (corrected, table["flux_err"], table["apcor_err"][0]),
        (table["flux_opt"], table["flux_err_opt"], numbers["psf_scale_err"]),
        (table["flux_psf"], table["flux_err_psf"], numbers["psf_scale_err"]),
    ):
        error = np.hypot(np.asarray(errors), common * flux)
        # The centre of a profile sampled at pixel centres differs a little from one integrated.
        assert np.abs((np.asarray(values) - flux) / error).max() < 5
    names = set(empty_photometry(3, ("aperture", "optimal", "psf")).colnames)
    assert names == set(table.colnames)
    for name in ("flux_err_0", "fwhm", "sky", "sky_err", "ra", "dec", "object"):
        assert name in names


def test_without_stars_the_profile_is_that_of_the_seeing_and_said_so():
    frame, sky = observed((150, 150), [70.0], [75.0], [500.0])
    result = measure(frame, sky, positions([70.0], [75.0]), methods=("psf",))
    assert [code for code, _ in result.flags] == ["FEW_STARS"]
    assert np.isfinite(result.value["flux_psf"][0]) and np.isnan(result.value["apcor"][0])


def test_listed_positions_have_rows_of_their_own_moving_ones_follow_the_time():
    wcs = sky_wcs([100.0, 100.0])
    frame, sky = observed((200, 200), [60.2, 120.0], [60.4, 90.0], [2e4, 3e4])
    ra, dec = wcs.all_pix2world([110.0, 130.0], [90.0, 90.0], 0)
    path = Table({"object": ["m", "m"], "mjd": [10.0, 11.0], "ra": ra, "dec": dec})
    listed = Positions.from_table(path)

    def row(mjd):
        return {"frame_id": "f-1", "mjd_mid": mjd}

    found = [
        photometry(frame, sky, wcs, positions([60.2], [60.4]), wcs, row(mjd),
                   fwhm_px=2.3548 * SIGMA, listed=listed, **SETTINGS).value
        for mjd in (10.5, 12.0)
    ]  # fmt: skip
    assert list(found[0]["source"]) == [1, -1] and list(found[0]["object"]) == ["", "m"]
    assert found[0]["x"][1] == pytest.approx(120.0, abs=1e-3)
    assert found[0]["flux_2"][1] == pytest.approx(3e4, rel=0.05)
    assert found[0]["ra"][1] == pytest.approx(ra.mean(), abs=1e-4)
    assert found[1]["flags"][1] & PhotFlag.OUTSIDE and np.isnan(found[1]["flux"][1])
    assert np.isfinite(found[1]["flux"][0])
    with pytest.raises(StepFailed, match="WCS_RELATIVE"):
        measure(frame, sky, positions([1], [1]), listed=listed)


def test_scintillation_is_added_for_a_telescope():
    frame, sky = observed((120, 120), [60.0], [60.0], [1e5])
    where, settings = positions([60.0], [60.0]), {"telescope_diameter_m": 0.3}
    options = {"fwhm_px": 2.3548 * SIGMA, **SETTINGS}
    row = {"frame_id": "f", "exptime_s": 1.0, "site": "10;45;2000"}
    plain = photometry(frame, sky, linear(), where, linear(), row, **options)
    noisy = photometry(frame, sky, linear(), where, linear(), row, **options, **settings)
    added = np.sqrt(noisy.value["flux_err"][0] ** 2 - plain.value["flux_err"][0] ** 2)
    expected = np.sqrt(1e-5 * 2.25 * 0.3 ** (-4 / 3) * np.exp(-0.5))
    assert added / plain.value["flux"][0] == pytest.approx(expected, rel=1e-6)
    assert noisy.numbers["scintillation"] == pytest.approx(expected)
