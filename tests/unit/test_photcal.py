"""How bright: zero point, throughput and depth, and what is said when one is missing."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from skymill.affine import Affine
from skymill.catalogs import RefCatalog
from skymill.depth import empty_apertures, seed_of
from skymill.frame import Background, Frame, MaskBit
from skymill.steps.photcal import photcal
from skymill.steps.reference_frames import Candidate, reference_frames
from skymill.steps.sources import SourceFlag
from skymill.wcsmath import linear_wcs, pixel_to_sky, wcs_to_text
from skymill.zeropoint import intrinsic_scatter, robust_offset

SHAPE = (600, 700)
ZP = 23.4
TIME = 60.0
GAIN = 1.8


def _wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [359.99, 5.0]
    wcs.wcs.crpix = [350.0, 300.0]
    wcs.wcs.cdelt = [-0.5 / 3600, 0.5 / 3600]
    wcs.wcs.set()
    return wcs


def _solution(wcs=None, name="a"):
    wcs = _wcs() if wcs is None else wcs
    return {
        "frame_id": name,
        "solution": "absolute",
        "wcs": wcs_to_text(wcs),
        "scale_arcsec_px": 0.5,
    }


def _row(name="a", **more):
    return {
        "frame_id": name,
        "filter": "V",
        "exptime_s": TIME,
        "mjd_mid": 60000.0,
        "airmass": 1.2,
        "gain_e_adu": GAIN,
    } | more


MEASURED = {
    "fwhm_px": 3.0,
    "ellipticity": 0.04,
    "sky_e": 200.0,
    "r_main_px": 3.75,
    "r_total_px": 12.0,
}


def _stars(rng, n):
    """Positions on a loose grid, so that no star disturbs another."""
    cells = rng.permutation(
        np.array([[x, y] for x in range(40, 680, 40) for y in range(40, 580, 40)])
    )
    return cells[:n] + rng.uniform(-8, 8, (n, 2))


def _table(xy, mag, *, time=TIME, throughput=1.0, err=0.005, rng=None):
    flux = throughput * time * 10 ** (-0.4 * (mag - ZP))
    noise = err * flux
    seen = flux + (rng.normal(0, 1, len(flux)) * noise if rng is not None else 0)
    table = Table(
        {
            "x": xy[:, 0],
            "y": xy[:, 1],
            "flux": 0.9 * seen,
            "flux_err": 0.9 * noise,
            "flux_total": seen,
            "flux_total_err": noise,
            "fwhm": np.full(len(mag), 3.0),
            "flags": np.zeros(len(mag), int),
            "mask_or": np.zeros(len(mag), int),
        }
    )
    return table[np.argsort(-flux, kind="stable")]


def _catalog(xy, mag, err=0.005, band="V"):
    sky = pixel_to_sky(_wcs(), xy)
    names = np.array([f"star {i}" for i in range(len(mag))])
    errors = np.full(len(mag), err)
    return RefCatalog("c.csv", sky[:, 0] % 360, sky[:, 1], names, {band: mag}, {band: errors})


def _field(rng, n=30):
    return _stars(rng, n), np.sort(rng.uniform(11, 15, n))


def test_the_zero_point_is_that_of_one_electron_per_second():
    xy, mag = _field(np.random.default_rng(0))
    result = photcal(_table(xy, mag), _row(), solution=_solution(), catalog=_catalog(xy, mag))
    value = result.value
    assert value["zp"] == pytest.approx(ZP, abs=1e-6)
    # 1 ADU/s is 1.8 electron/s and so brighter: a smaller number.
    assert value["zp_adu"] == pytest.approx(ZP - 2.5 * np.log10(GAIN), abs=1e-6)
    assert (value["solution"], value["band"], value["zp_floor"]) == ("absolute", "V", 0.01)
    assert (value["n_stars"], value["n_rejected"], result.flags) == (30, 0, ())
    assert value["zp_scatter"] < 1e-3


def test_one_of_four_stars_that_is_wrong_is_named_and_not_absorbed():
    rng = np.random.default_rng(1)
    xy, mag = _stars(rng, 4), np.array([13.481, 13.591, 13.406, 14.003])
    table = _table(xy, mag + np.array([0.03, 0.19, -0.03, 0.0]))
    result = photcal(table, _row(), solution=_solution(), catalog=_catalog(xy, mag, 0.003))
    assert result.value["n_rejected"] == 1
    assert result.numbers["rejected"].startswith("star 1:-0.1")
    assert result.value["zp"] == pytest.approx(ZP, abs=0.02)
    assert 0.01 < result.value["zp_err"] < 0.05


def test_exposure_and_filter_mapping_count():
    xy, mag = _field(np.random.default_rng(2))
    table, catalog = _table(xy, mag, time=300.0), _catalog(xy, mag, band="r")
    row = _row(exptime_s=300.0, filter="Clear")
    result = photcal(table, row, solution=_solution(), catalog=catalog, bands={"Clear": "r"})
    assert (result.value["zp"], result.value["band"]) == (pytest.approx(ZP, abs=1e-6), "r")
    without = photcal(table, row, solution=_solution(), catalog=catalog)
    assert without.value["solution"] == "none"
    assert without.flags[0][0] == "NO_ZP"
    assert "no band 'Clear'" in without.flags[0][1]


def test_unusable_disturbed_and_faint_stars_are_left_out():
    rng = np.random.default_rng(3)
    xy, mag = _field(rng)
    table = _table(xy, mag)
    catalog = _catalog(xy, mag)
    table["flux_total"][:5] *= 3.0
    table["flags"][:5] = int(SourceFlag.SATURATED)
    table["flux_total"][5] *= 1.5
    close = table[5:6].copy()
    close["x"] += 6.0
    close["flux_total"] *= 0.4
    table["flux_total_err"][6] = table["flux_total"][6] / 5
    both = Table({name: np.concatenate([table[name], close[name]]) for name in table.colnames})
    result = photcal(both, _row(), solution=_solution(), catalog=catalog, measured=MEASURED)
    assert result.value["n_stars"] + result.value["n_rejected"] == 30 - 7
    assert result.value["zp"] == pytest.approx(ZP, abs=1e-6)


@pytest.mark.parametrize(
    ("solution", "keep", "why"),
    [
        (None, slice(None), "no sky positions"),
        ("relative", slice(None), "no sky positions"),
        ("absolute", slice(2), "2 usable stars of c.csv are on the frame"),
    ],
)
def test_without_what_it_needs_the_zero_point_is_missing_and_said_so(solution, keep, why):
    xy, mag = _field(np.random.default_rng(4))
    solved = None
    if solution is not None:
        relative = linear_wcs(Affine(np.eye(2), np.zeros(2)))
        solved = _solution(relative if solution == "relative" else None)
    catalog = _catalog(xy, mag).take(np.arange(30)[keep])
    result = photcal(_table(xy, mag), _row(), solution=solved, catalog=catalog)
    assert (result.flags[0][0], result.value["solution"]) == ("NO_ZP", "none")
    assert why in result.flags[0][1]
    assert np.isnan(result.value["zp"])
    assert result.numbers["zp"] is None


def _references(xy, mag):
    candidate = Candidate("ref", _row("ref"), _table(xy, mag), SHAPE, MEASURED, _wcs())
    return reference_frames([candidate]).value


@pytest.mark.parametrize("sky", [True, False], ids=["on the sky", "relative"])
def test_throughput_against_the_reference_frame(sky):
    rng = np.random.default_rng(5)
    xy, mag = _field(rng, 60)
    reference = _references(xy, mag)
    shift = np.array([11.0, -6.0])
    frame = _wcs() if sky else linear_wcs(Affine(np.eye(2), shift))
    if sky:
        frame.wcs.crpix = frame.wcs.crpix - shift
        frame.wcs.set()
    there = _solution(_wcs() if sky else linear_wcs(Affine(np.eye(2), np.zeros(2))), "ref")
    table = _table(xy - shift, mag, time=300.0, throughput=0.55, rng=rng)
    table["flux_total"][:4] *= [1.5, 0.6, 1.4, 2.0]  # variables
    result = photcal(
        table,
        _row(exptime_s=300.0),
        solution=_solution(frame),
        reference=reference,
        reference_solution=there,
    )
    value = result.value
    assert value["solution"] == "relative"
    assert [code for code, _ in result.flags] == ["ZP_RELATIVE", "CLOUDY"]
    assert abs(value["throughput"] - 0.55) < 4 * value["throughput_err"]
    assert value["throughput_err"] < 0.55 * 0.004
    assert "55 % of the light" in result.flags[1][1]


def test_the_reference_frame_itself_has_throughput_one():
    xy, mag = _field(np.random.default_rng(6))
    result = photcal(
        _table(xy, mag),
        _row("ref"),
        solution=_solution(),
        reference=_references(xy, mag),
        reference_solution=_solution(name="ref"),
    )
    assert (result.value["throughput"], result.value["throughput_err"]) == (1.0, 0.0)


def test_without_catalogue_and_reference_there_is_no_scale():
    xy, mag = _field(np.random.default_rng(7))
    result = photcal(_table(xy, mag), _row(), solution=_solution())
    assert (result.flags[0][0], result.value["solution"]) == ("NO_ZP", "none")
    empty = photcal(_table(xy, mag)[:0], _row(), solution=_solution(), catalog=_catalog(xy, mag))
    assert empty.flags[0][0] == "NO_ZP"


def _noise_frame(rng, sigma=12.0):
    sci = rng.normal(0, sigma, SHAPE).astype(np.float32)
    mask = np.zeros(SHAPE, np.uint16)
    cells = tuple(-(-n // 64) for n in SHAPE)
    background = Background(
        np.full(cells, 200, np.float32), np.full(cells, sigma, np.float32), SHAPE, 64, 0.1
    )
    return sci + 200, np.full(SHAPE, sigma, np.float32), mask, background


def test_the_depth_is_five_times_the_scatter_of_empty_apertures():
    rng = np.random.default_rng(8)
    sigma, radius = 12.0, MEASURED["r_main_px"]
    sci, err, mask, background = _noise_frame(rng, sigma)
    xy, mag = _field(rng)
    x, y = np.rint(xy).astype(int).T
    for dx in range(-3, 4):
        for dy in range(-3, 4):
            sci[y + dy, x + dx] += 5000.0  # sources must be avoided
    mask[100:120, :] = int(MaskBit.SATURATED)
    sci[100:120, :] = 60000.0
    frame = Frame(sci, err, mask, fits.Header(), None, "electron")
    result = photcal(
        _table(xy, mag),
        _row(),
        solution=_solution(),
        catalog=_catalog(xy, mag),
        frame=frame,
        background=background,
        measured=MEASURED,
    )
    value, numbers = result.value, result.numbers
    # sum(w^2) of an exact circle is a little below its area: 0.95 to 1 at this radius.
    white = sigma * np.sqrt(np.pi) * radius
    tolerance = 4 * 1.17 / np.sqrt(numbers["depth_apertures"])
    assert numbers["depth_ratio"] == pytest.approx(1.0, abs=tolerance)
    assert numbers["sigma_aperture_e"] == pytest.approx(0.975 * white, rel=tolerance + 0.025)
    assert numbers["aperture_correction"] == pytest.approx(1 / 0.9)
    assert value["depth_flux_e"] == pytest.approx(5 * numbers["sigma_aperture_e"] / 0.9, rel=1e-5)
    expected = ZP - 2.5 * np.log10(value["depth_flux_e"] / TIME)
    assert value["depth_mag"] == pytest.approx(expected, abs=1e-6)
    assert value["fwhm_arcsec"] == pytest.approx(1.5)


def test_apertures_are_limited_to_the_free_area_and_depend_on_the_frame_id_alone():
    sci, err, mask, background = _noise_frame(np.random.default_rng(9))
    mask[:, 200:] = int(MaskBit.DEAD)
    frame = Frame(sci, err, mask, fits.Header(), None, "electron")
    none = np.zeros((0, 2)), np.zeros(0)
    draws = [
        empty_apertures(frame, background, *none, radius_px=6.0, number=5000, seed=seed_of(name))
        for name in ("a", "a", "b")
    ]
    assert draws[0] == draws[1]
    assert draws[0].sigma_e != draws[2].sigma_e
    assert 100 < draws[0].number <= 200 * 600 / (2 * np.pi * 36) * 1.05
    full = Frame(sci, err, np.ones(SHAPE, np.uint16), fits.Header(), None, "electron")
    assert np.isnan(
        empty_apertures(full, background, *none, radius_px=6.0, number=500, seed=1).sigma_e
    )


def test_the_scatter_beyond_the_errors_solves_its_equation():
    rng = np.random.default_rng(10)
    sigma = rng.uniform(0.005, 0.03, 4000)
    values = rng.normal(1.0, np.hypot(sigma, 0.02))
    # Error of a scatter from 4000 values: 1.1 %, more for the part hidden by the errors.
    assert intrinsic_scatter(values, sigma) == pytest.approx(0.02, rel=0.1)
    assert intrinsic_scatter(rng.normal(0, 0.5 * sigma), sigma) == 0.0
    w = 1 / (sigma**2 + intrinsic_scatter(values, sigma) ** 2)
    mean = (w * values).sum() / w.sum()
    left = (w**2 * (values - mean) ** 2).sum() - w.sum() + (w**2).sum() / w.sum()
    assert abs(left) < 1e-6 * w.sum()


def test_a_third_of_wrong_stars_does_not_move_the_zero_point():
    rng = np.random.default_rng(11)
    values = rng.normal(0, 0.02, 45)
    values[:15] += rng.uniform(0.3, 1.0, 15)
    found = robust_offset(values, np.full(45, 0.01))
    assert not found.keep[:15].any()
    assert abs(found.value) < 4 * 0.022 / np.sqrt(30)
    assert np.isnan(robust_offset(np.zeros(0), np.zeros(0)).value)
    one = robust_offset(np.array([2.0]), np.array([0.01]))
    assert (one.value, np.isnan(one.scatter)) == (2.0, True)
    assert one.err > 0.01


def test_stars_that_agree_by_luck_do_not_throw_out_a_good_one():
    values = np.array([0.0, 0.001, 0.002, 0.06])
    assert robust_offset(values, np.full(4, 0.003), expected_scatter=0.03).keep.all()
    assert not robust_offset(values, np.full(4, 0.003), expected_scatter=0.003).keep.all()
