"""Each rung of the ladder is recorded, limits hold, projections are those asked for."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS

from skymill.affine import Affine
from skymill.catalogs import RefCatalog
from skymill.errors import StepFailed
from skymill.solution_errors import position_error
from skymill.steps.astrometry import astrometry
from skymill.wcsmath import Distortion, compose, kind_of, pixel_to_sky, sky_to_pixel, wcs_from_text

SHAPE = (900, 1000)
MIDDLE = np.array([499.5, 449.5])


def _map(angle=0.0, scale=1.0, shift=(0.0, 0.0)):
    t = np.radians(angle)
    matrix = scale * np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    return Affine(matrix, MIDDLE - matrix @ MIDDLE + np.array(shift))


def _table(rng, xy, flux, noise=0.05):
    order = np.argsort(-flux, kind="stable")
    seen = xy[order] + rng.normal(0, noise, xy.shape)
    err = np.full(len(xy), noise)
    return Table(
        {"x": seen[:, 0], "y": seen[:, 1], "x_err": err, "y_err": err, "flux": flux[order]}
    )


def _pair(move, n=40, seed=1):
    """A reference list, its solution, and a frame whose pixels ``move`` takes there."""
    rng = np.random.default_rng(seed)
    xy, flux = rng.uniform([100, 100], [900, 800], (n, 2)), 10 ** rng.uniform(3, 5, n)
    reference = _table(rng, xy, flux)
    first = astrometry(reference, {"frame_id": "r"}, None, SHAPE, None, None, None).value
    reference["frame_id"], reference["best"] = ["r"] * n, True
    return _table(rng, move.inverse()(xy), flux), reference, first


def _align(move, **settings):
    frame, reference, first = _pair(move)
    return astrometry(frame, {"frame_id": "a"}, None, SHAPE, reference, first, None, **settings)


@pytest.mark.parametrize("sign", [-1, 1])
def test_o14_rotation_is_limited_in_degrees_to_either_side(sign):
    """O14: a limit of 0.5 deg rejects 1 deg (not radians), and lets 0.3 deg pass."""
    with pytest.raises(StepFailed, match=r"a rotation of -?1\.0. deg") as failure:
        _align(_map(angle=sign * 1.0), max_rotation_deg=0.5)
    assert "reference by pattern: REGISTRATION" in failure.value.numbers["ladder"]
    assert _align(_map(angle=sign * 0.3), max_rotation_deg=0.5).value["n_match"] > 30
    assert _align(_map(angle=sign * 1.0)).value["n_match"] > 30


@pytest.mark.parametrize("scale", [1.02, 1 / 1.02])
def test_o14_scale_is_limited_to_either_side(scale):
    """O14: a limit of 1.01 accepts [1/1.01, 1.01]."""
    with pytest.raises(StepFailed, match="a scale ratio of"):
        _align(_map(scale=scale), max_scale_ratio=1.01)
    assert _align(_map(scale=scale), max_scale_ratio=1.03).value["n_match"] > 30
    assert _align(_map(scale=scale**0.45), max_scale_ratio=1.01).value["n_match"] > 30


def test_o14_translation_is_limited_per_axis():
    """O14, O12: one number or two."""
    move = _map(shift=(30.0, -8.0))
    with pytest.raises(StepFailed, match=r"a translation of \(30"):
        _align(move, max_translation_px=20)
    with pytest.raises(StepFailed, match="a translation of"):
        _align(move, max_translation_px=[40, 5])
    assert _align(move, max_translation_px=[40, 10]).value["n_match"] > 30


def test_o12_translation_fits_a_shift_only_and_records_the_residual():
    """O12, O13: the transform type holds, the residual rms of each frame is recorded."""
    value = _align(_map(shift=(12.0, 7.0)), transform="translation").value
    back = wcs_from_text(value["wcs"]).all_pix2world([[0.0, 0.0], [999.0, 899.0]], 0)
    assert back[1] - back[0] == pytest.approx([999.0, 899.0], abs=1e-9)
    assert back[0] == pytest.approx([12.0, 7.0], abs=0.06)
    assert value["rms_px"] == pytest.approx(0.05 * np.sqrt(2), rel=0.3)
    assert value["rotation_err_deg"] == 0.0
    turned = _align(_map(angle=180.0), transform="translation").value
    assert abs(turned["rotation_deg"]) == pytest.approx(180.0)


def test_o13_one_star_aligns_a_frame_and_says_how_likely_that_is_wrong():
    """O13: few-star fields; a shift with its expected number of false ones, flagged."""
    reference = Table({"x": [300.0, 120.0], "y": [200.0, 700.0], "flux": [1e7, 2e3]})
    first = astrometry(reference, {"frame_id": "r"}, None, SHAPE, None, None, None).value
    reference["frame_id"], reference["best"] = ["r", "r"], True
    frame = Table({"x": [330.0], "y": [180.0], "flux": [9e6]})
    given = (frame, {"frame_id": "a"}, None, SHAPE, reference, first, None)
    result = astrometry(*given)
    assert (result.value["method"], result.value["n_match"]) == ("few stars", 1)
    assert 0 < result.value["expected_false"] < 0.05
    assert [code for code, _ in result.flags] == ["FEW_STARS", "WCS_RELATIVE"]
    assert "few stars: solved" in result.value["ladder"]
    for refused in ({"few_stars": False}, {"max_false_few": 1e-4}):
        with pytest.raises(StepFailed) as failure:
            astrometry(*given, **refused)
        assert failure.value.code == "FEW_STARS"


def _sky(truth, rng, n=300):
    xy = rng.uniform([0, 0], [999, 899], (n, 2))
    sky = pixel_to_sky(truth, xy)
    mag = 12 + 5 * rng.power(2.5, n)
    catalog = RefCatalog(
        "stars", sky[:, 0], sky[:, 1], np.arange(n).astype(str), {"r": mag}, {"r": mag * 0 + 0.01}
    )
    return catalog, _table(rng, xy, 10 ** (-0.4 * (mag - 25)))


def _plane():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 2.0], [500.5, 450.5]
    wcs.wcs.cdelt = [-0.5 / 3600, 0.5 / 3600]
    wcs.wcs.set()
    return wcs


def _bent():
    terms = np.zeros((7, 2))
    terms[3], terms[6] = [3.0, 0.5], [-0.5, 2.5]
    return compose(
        _plane(), Affine(np.eye(2), np.zeros(2)), SHAPE, Distortion(3, MIDDLE, 500, terms)
    )


@pytest.mark.parametrize(
    ("projection", "kind", "method"),
    [
        ("auto", "sip", "catalogue+sip3"),
        ("sip", "sip", "catalogue+sip3"),
        ("tpv", "tpv", "catalogue+tpv3"),
        ("tan", "tan", "catalogue"),
    ],
)
def test_the_projection_is_the_one_that_was_asked_for(projection, kind, method):
    truth = _bent()
    catalog, frame = _sky(truth, np.random.default_rng(5))
    value = astrometry(
        frame, {"frame_id": "a", "filter": "r"}, _plane(), SHAPE, None, None, catalog,
        projection=projection, catalog_error_arcsec=0.01,
    ).value  # fmt: skip
    assert (value["projection"], value["method"]) == (kind, method)
    solved = wcs_from_text(value["wcs"])
    assert kind_of(solved) == kind
    grid = np.array([[x, y] for x in (0.0, 500.0, 999.0) for y in (0.0, 450.0, 899.0)])
    off = sky_to_pixel(truth, *pixel_to_sky(solved, grid).T) - grid
    if kind == "tan":
        assert np.abs(off).max() > 1.0  # a plane cannot follow 5 px
        return
    errors = np.stack(position_error(value, *grid.T), axis=1)
    assert (np.abs(off) < 5 * errors + 1e-3).all()
    assert value["holdout_rms_px"] == pytest.approx(0.05, rel=0.25)


def test_a_distortion_on_top_of_a_tpv_header_is_fitted_as_tpv():
    """A TPV header is no TAN header: wcslib names both TAN once they are set up."""
    from skymill.tpv import convert

    header, _ = convert(_bent(), SHAPE, "tpv")
    more = np.zeros((7, 2))
    more[4] = [2.0, -1.5]
    truth, _ = convert(
        compose(_bent(), Affine(np.eye(2), np.zeros(2)), SHAPE, Distortion(3, MIDDLE, 500, more)),
        SHAPE, "tpv",
    )  # fmt: skip
    catalog, frame = _sky(truth, np.random.default_rng(6))
    value = astrometry(
        frame, {"frame_id": "a"}, header, SHAPE, None, None, catalog, catalog_error_arcsec=0.01
    ).value
    assert (value["projection"], value["order"]) == ("tpv", 3)
    corner = np.array([[0.0, 0.0], [999.0, 899.0]])
    off = sky_to_pixel(truth, *pixel_to_sky(wcs_from_text(value["wcs"]), corner).T) - corner
    assert np.abs(off).max() < 0.1


def test_s15_each_rung_is_recorded_with_why_it_failed():
    """S15, A29: the ladder is text that says what was tried, the row has its figures."""
    catalog, frame = _sky(_plane(), np.random.default_rng(7), 60)
    solved = astrometry(frame, {"frame_id": "a"}, _plane(), SHAPE, None, None, catalog).value
    assert solved["ladder"].splitlines()[0] == "header: sane"
    assert solved["ladder"].splitlines()[1].startswith("catalogue: solved (60 stars, 0.0")
    assert 0.04 < solved["rms_x_px"] < 0.06
    assert solved["n_rejected"] == 0
    other, _ = _sky(_plane(), np.random.default_rng(8), 60)
    given = (frame, {"frame_id": "a"}, _plane(), SHAPE, None, None)
    kept = astrometry(*given, other, blind="never").value["ladder"].splitlines()
    assert kept[1].startswith("catalogue: NO_MATCH (60 stars of stars near: the best is")
    assert kept[2] == "header: taken (checked against nothing)"
    nothing = astrometry(frame, {"frame_id": "a"}, None, SHAPE, None, None, None).value
    assert nothing["ladder"].splitlines()[0].startswith("header: refused (the header has no")
    assert nothing["ladder"].splitlines()[-1] == "pixels: taken (checked against nothing)"
