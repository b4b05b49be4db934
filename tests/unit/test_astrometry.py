"""Where the pixels lie: the ladder from catalogue to header to the reference's own pixels."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS

from skymill.affine import Affine
from skymill.catalogs import RefCatalog
from skymill.errors import StepFailed
from skymill.steps.astrometry import astrometry
from skymill.steps.sources import SourceFlag
from skymill.wcsmath import (
    Distortion,
    compose,
    linear_wcs,
    orientation,
    pixel_scale,
    pixel_to_sky,
    sane,
    sky_to_pixel,
    wcs_from_text,
    wcs_to_text,
)

SHAPE = (900, 1000)
GRID = np.array([[x, y] for x in (0.0, 500.0, 999.0) for y in (0.0, 450.0, 899.0)])
NOISE = 0.05


def _wcs(ra=150.0, dec=2.0, scale=0.5, rotation=10.0, mirrored=False):
    t = np.radians(rotation)
    matrix = np.array([[-np.cos(t), np.sin(t)], [np.sin(t), np.cos(t)]]) * scale / 3600
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [500.5, 450.5]
    wcs.wcs.cd = matrix @ np.diag([-1.0, 1.0]) if mirrored else matrix
    wcs.wcs.set()
    return wcs


def _moved(wcs, dx=0.0, dy=0.0, angle=0.0, scale=1.0):
    """World coordinates that are wrong by a shift, a rotation and a scale."""
    t = np.radians(angle)
    matrix = scale * np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    middle = np.array([499.5, 449.5])
    return compose(wcs, Affine(matrix, middle - matrix @ middle + [dx, dy]), SHAPE)


def _table(xy, flux, noise=NOISE):
    order = np.argsort(-flux, kind="stable")
    err = np.full(len(xy), noise)
    return Table(
        {
            "x": xy[order, 0],
            "y": xy[order, 1],
            "x_err": err,
            "y_err": err,
            "flux": flux[order],
            "flags": np.zeros(len(xy), int),
        }
    )


def _sky(rng, truth, n):
    """Stars on the frame and around it."""
    xy = rng.uniform([-200, -200], [1200, 1100], (n, 2))
    sky = pixel_to_sky(truth, xy)
    mag = 10 + 6 * rng.power(2.5, n)
    return RefCatalog(
        "stars.csv",
        sky[:, 0] % 360,
        sky[:, 1],
        np.arange(n).astype(str),
        {"V": mag},
        {"V": np.full(n, 0.01)},
    )


def _see(rng, catalog, truth, *, noise=NOISE, spurious=0.2):
    xy = sky_to_pixel(truth, catalog.ra, catalog.dec)
    on = np.isfinite(xy).all(axis=1) & (xy > 0).all(axis=1) & (xy < [999, 899]).all(axis=1)
    xy = xy[on] + rng.normal(0, noise, (on.sum(), 2))
    flux = 10 ** (-0.4 * (catalog.mags["V"][on] - 25)) * rng.lognormal(0, 0.02, on.sum())
    k = int(spurious * len(xy))
    xy = np.concatenate([xy, rng.uniform(0, [999, 899], (k, 2))])
    return _table(xy, np.concatenate([flux, 10 ** rng.uniform(3.6, 5.5, k)]))


def _row(name="a", **more):
    return {"frame_id": name, "filter": "V", "mjd_mid": 60000.0, **more}


def _reference(table, name="ref"):
    out = table.copy()
    out["frame_id"] = [name] * len(out)
    out["best"] = True
    return out


def _off(result, truth):
    """Largest distance of a solution from the truth on the frame, in pixels."""
    solved = wcs_from_text(result.value["wcs"])
    back = sky_to_pixel(truth, *pixel_to_sky(solved, GRID).T)
    return float(np.hypot(*(back - GRID).T).max())


@pytest.mark.parametrize(
    "place", [(150.0, 2.0), (0.01, -5.0), (359.99, 40.0), (20.0, 89.95), (80.0, -89.9)]
)
def test_a_header_off_by_30_px_is_solved_by_the_catalogue_anywhere_on_the_sky(place):
    rng = np.random.default_rng(1)
    truth = _wcs(*place)
    catalog = _sky(rng, truth, 60)
    header = _moved(truth, 25.0, -18.0, angle=0.3)
    result = astrometry(_see(rng, catalog, truth), _row(), header, SHAPE, None, None, catalog)
    assert result.value["solution"] == "absolute"
    assert result.value["reference"] == "stars.csv"
    assert result.flags == ()
    assert result.numbers["shift_px"] == pytest.approx(np.hypot(25, 18), abs=0.1)
    # 0.05 px per star, 30 stars, affine: 5 sigma at the corners.
    assert _off(result, truth) < 5 * NOISE * np.sqrt(6 / 30) * 2


def test_three_catalogue_stars_solve_a_frame_of_a_hundred_detections():
    rng = np.random.default_rng(2)
    truth = _wcs(rotation=0.0)
    catalog = _sky(rng, truth, 40).near(150.0, 2.0, 0.08)
    bright = catalog.take(np.argsort(catalog.mags["V"])[:3])
    header = _moved(truth, -22.0, 20.0)
    frame = _see(rng, catalog, truth, spurious=2.0)
    result = astrometry(frame, _row(), header, SHAPE, None, None, bright)
    assert result.value["solution"] == "absolute"
    assert result.value["n_match"] == 3
    assert result.numbers["expected_false"] < 1e-3
    assert _off(result, truth) < 4 * NOISE  # a shift from three stars: 4 sigma


def test_a_wrong_catalogue_is_refused_and_the_header_is_not_claimed_to_be_checked():
    rng = np.random.default_rng(3)
    truth = _wcs()
    frame, other = _see(rng, _sky(rng, truth, 60), truth), _sky(rng, truth, 50)
    result = astrometry(frame, _row(), truth, SHAPE, None, None, other)
    assert result.value["solution"] == "header"
    assert [code for code, _ in result.flags] == ["NO_MATCH", "WCS_UNVERIFIED"]


def test_a_catalogue_without_stars_near_the_frame_says_so():
    truth = _wcs()
    rng = np.random.default_rng(4)
    far = _sky(rng, _wcs(ra=20.0), 50)
    result = astrometry(
        _see(rng, _sky(rng, truth, 60), truth), _row(), truth, SHAPE, None, None, far
    )
    assert [code for code, _ in result.flags] == ["NO_REFERENCE", "WCS_UNVERIFIED"]
    assert "0 stars of stars.csv are near the frame" in result.flags[0][1]


def test_magnitudes_that_do_not_fit_refuse_a_match():
    rng = np.random.default_rng(5)
    truth = _wcs()
    catalog = _sky(rng, truth, 60)
    frame = _see(rng, catalog, truth)
    frame["flux"] = rng.permutation(10 ** rng.uniform(2, 7, len(frame)))
    result = astrometry(frame, _row(), truth, SHAPE, None, None, catalog, max_mag_scatter=0.5)
    assert result.flags[0][0] == "NO_MATCH"
    assert "scatter" in result.flags[0][1]


def test_proper_motion_is_taken_to_the_epoch_of_the_frame():
    rng = np.random.default_rng(6)
    truth = _wcs()
    now = _sky(rng, truth, 60)
    years = (60000.0 - 51544.5) / 365.25
    shift = 3.0 / 3600  # degrees to the north since 2000
    then = RefCatalog(
        now.label,
        now.ra,
        now.dec - shift,
        now.name,
        now.mags,
        now.errs,
        pmra=np.zeros(60),
        pmdec=np.full(60, 3000.0 / years),
    )
    result = astrometry(_see(rng, now, truth), _row(), truth, SHAPE, None, None, then)
    assert _off(result, truth) < 0.3  # without: 6 px


@pytest.mark.parametrize("angle", [90.0, 180.0, -33.0])
def test_a_frame_turned_against_its_header_is_solved(angle):
    rng = np.random.default_rng(7)
    truth = _wcs()
    catalog = _sky(rng, truth, 60)
    result = astrometry(
        _see(rng, catalog, truth), _row(), _moved(truth, angle=angle), SHAPE, None, None, catalog
    )
    assert result.value["solution"] == "absolute"
    assert _off(result, truth) < 0.3


def test_a_mirrored_frame_is_solved_unless_that_is_switched_off():
    rng = np.random.default_rng(8)
    truth, header = _wcs(mirrored=True), _wcs()
    catalog = _sky(rng, truth, 60)
    frame = _see(rng, catalog, truth)
    result = astrometry(frame, _row(), header, SHAPE, None, None, catalog)
    assert (result.value["solution"], result.value["parity"]) == ("absolute", 1)
    assert _off(result, truth) < 0.3
    off = astrometry(frame, _row(), header, SHAPE, None, None, catalog, mirrored=False)
    assert off.value["solution"] == "header"


def test_a_pointing_and_a_pixel_scale_replace_a_missing_header():
    rng = np.random.default_rng(9)
    truth = _wcs(rotation=140.0)
    catalog = _sky(rng, truth, 60)
    row = _row(ra_deg=150.01, dec_deg=1.99)
    frame = _see(rng, catalog, truth)
    result = astrometry(frame, row, None, SHAPE, None, None, catalog, pixel_scale_arcsec=0.51)
    assert result.value["solution"] == "absolute"
    assert _off(result, truth) < 0.3
    without = astrometry(frame, row, None, SHAPE, None, None, catalog)
    assert [code for code, _ in without.flags] == ["NO_WCS", "WCS_RELATIVE"]


def test_a_distortion_is_fitted_where_the_stars_call_for_it():
    rng = np.random.default_rng(10)
    cubic = np.zeros((7, 2))
    cubic[3], cubic[6] = [3.0, 0.5], [-0.5, 2.5]
    bent = Distortion(3, np.array([499.5, 449.5]), 500.0, cubic)
    straight = _wcs()
    truth = compose(straight, Affine(np.eye(2), np.zeros(2)), SHAPE, bent)
    catalog = _sky(rng, truth, 400)
    frame = _see(rng, catalog, truth)
    result = astrometry(
        frame,
        _row(),
        _moved(straight, 5.0, 3.0),
        SHAPE,
        None,
        None,
        catalog,
        tolerance_px=4.0,
        catalog_error_arcsec=0.02,
    )
    assert result.value["method"] == "catalogue+sip3"
    assert result.value["rms_px"] < 1.3 * NOISE
    flat = _sky(rng, straight, 400)
    plain = astrometry(_see(rng, flat, straight), _row(), straight, SHAPE, None, None, flat)
    assert plain.numbers["sip_order"] == 0


def test_frames_are_aligned_to_the_reference_and_keep_their_own_distortion():
    rng = np.random.default_rng(11)
    truth = _wcs()
    catalog = _sky(rng, truth, 80)
    wrong = _moved(truth, 7.0, 4.0)
    first = astrometry(_see(rng, catalog, truth), _row("ref"), wrong, SHAPE, None, None, None)
    assert (first.value["solution"], first.value["method"]) == ("header", "header")
    reference = _reference(_see(rng, catalog, truth))
    dithered = _moved(truth, 60.0, -35.0)
    header = _moved(dithered, 7.5, 3.0, angle=0.05)
    result = astrometry(
        _see(rng, catalog, dithered), _row(), header, SHAPE, reference, first.value, None
    )
    assert (result.value["solution"], result.value["method"]) == ("header", "header+stars")
    assert [code for code, _ in result.flags] == ["WCS_UNVERIFIED"]
    # Relative to the reference frame, whose header is wrong by (7, 4) px.
    solved = wcs_from_text(result.value["wcs"])
    assert _off(result, _moved(dithered, 7.0, 4.0)) < 0.15
    assert solved.has_celestial


def test_a_header_that_points_elsewhere_is_overruled_by_the_stars():
    rng = np.random.default_rng(12)
    truth = _wcs()
    catalog = _sky(rng, truth, 80)
    first = astrometry(_see(rng, catalog, truth), _row("ref"), truth, SHAPE, None, None, None)
    reference = _reference(_see(rng, catalog, truth))
    result = astrometry(
        _see(rng, catalog, _moved(truth, 20.0, 9.0)),
        _row(),
        _wcs(ra=120.0),
        SHAPE,
        reference,
        first.value,
        None,
    )
    assert [code for code, _ in result.flags] == ["WCS_OUTLIER", "WCS_UNVERIFIED"]
    assert _off(result, _moved(truth, 20.0, 9.0)) < 0.15


@pytest.mark.parametrize("flip", [False, True], ids=["straight", "meridian flip"])
def test_without_any_sky_the_pixels_of_the_reference_are_the_coordinates(flip):
    rng = np.random.default_rng(13)
    stars = rng.uniform([0, 0], [999, 899], (40, 2))
    flux = 10 ** rng.uniform(3, 5, 40)
    first = astrometry(_table(stars, flux), _row("ref"), None, SHAPE, None, None, None)
    own = wcs_from_text(first.value["wcs"])
    assert first.value["solution"] == "relative"
    assert own.all_pix2world(GRID, 0) == pytest.approx(GRID)
    moved = stars - [12.3, -4.7]
    moved = np.array([999.0, 899.0]) - moved if flip else moved
    seen = moved + rng.normal(0, NOISE, moved.shape)
    result = astrometry(
        _table(seen, flux), _row(), None, SHAPE, _reference(_table(stars, flux)), first.value, None
    )
    solved = wcs_from_text(result.value["wcs"])
    assert (result.value["solution"], result.value["method"]) == ("relative", "stars")
    assert not solved.has_celestial
    assert [code for code, _ in result.flags] == ["WCS_RELATIVE"]
    off = np.hypot(*(solved.all_pix2world(moved, 0) - stars).T)
    assert off.max() < 5 * NOISE * np.sqrt(6 / 40)
    assert abs(abs(result.value["rotation_deg"]) - (180.0 if flip else 0.0)) < 0.1


def test_few_catalogue_stars_fix_the_reference_and_all_stars_align_the_rest():
    rng = np.random.default_rng(14)
    truth = _wcs()
    everything = _sky(rng, truth, 120)
    catalog = everything.take(np.argsort(everything.mags["V"])[:10])
    first = astrometry(_see(rng, everything, truth), _row("ref"), truth, SHAPE, None, None, catalog)
    assert first.value["solution"] == "absolute"
    reference = _reference(_see(rng, everything, truth))
    dithered = _moved(truth, 30.0, 10.0)
    result = astrometry(
        _see(rng, everything, dithered), _row(), dithered, SHAPE, reference, first.value, catalog
    )
    assert (result.value["solution"], result.value["method"]) == ("absolute", "aligned+reference")
    assert result.value["reference"] == "ref"
    assert result.value["n_match"] > 20
    many = astrometry(
        _see(rng, everything, dithered), _row(), dithered, SHAPE, reference, first.value, everything
    )
    assert many.value["method"] == "catalogue"


def test_the_reference_frame_gets_its_own_solution_back():
    rng = np.random.default_rng(15)
    truth = _wcs()
    frame = _see(rng, _sky(rng, truth, 50), truth)
    first = astrometry(frame, _row("ref"), truth, SHAPE, None, None, None)
    again = astrometry(frame, _row("ref"), truth, SHAPE, _reference(frame), first.value, None)
    assert again.value["wcs"] == first.value["wcs"]


def test_hot_pixels_that_stand_still_do_not_align_a_frame():
    """The detector's own pattern matches at zero shift; the two real stars moved."""
    hot = np.array([[542.9, 419.0], [199.0, 411.0], [54.0, 169.0], [221.0, 266.0], [423.0, 246.0]])
    weak = np.array([1300.0, 1200.0, 1100.0, 700.0, 500.0])
    stars, strong = np.array([[323.5, 247.9], [337.8, 240.0]]), np.array([9.9e5, 7.0e5])
    lists = [
        _table(np.concatenate([at, hot]), np.concatenate([strong, weak]))
        for at in (stars, stars + [-30.0, 60.0])
    ]
    first = astrometry(lists[0], _row("ref"), None, SHAPE, None, None, None)
    given = (lists[1], _row(), None, SHAPE, _reference(lists[0]), first.value, None)
    with pytest.raises(StepFailed) as failure:
        astrometry(*given, few_stars=False)
    assert failure.value.code == "REGISTRATION"
    assert "belong to the detector" in failure.value.message
    assert "reference by pattern: REGISTRATION" in failure.value.numbers["ladder"]
    # Two bright stars that moved together say more than five faint ones that did not.
    moved = astrometry(*given)
    assert moved.value["method"] == "few stars"
    assert moved.value["shift_px"] == pytest.approx(np.hypot(30, 60), abs=0.01)
    assert "FEW_STARS" in [code for code, _ in moved.flags]


def test_sources_flagged_as_hits_are_not_stars():
    rng = np.random.default_rng(16)
    stars, flux = rng.uniform(50, 850, (12, 2)), 10 ** rng.uniform(4, 5, 12)
    hot, weak = rng.uniform(50, 850, (60, 2)), 10 ** rng.uniform(4, 6, 60)
    lists = []
    for shift in (0.0, 30.0):
        table = _table(np.concatenate([stars + shift, hot]), np.concatenate([flux, weak]))
        sharp = np.isin(np.asarray(table["flux"]), weak)
        table["flags"][sharp] = int(SourceFlag.SHARP)
        lists.append(table)
    first = astrometry(lists[0], _row("ref"), None, SHAPE, None, None, None)
    result = astrometry(lists[1], _row(), None, SHAPE, _reference(lists[0]), first.value, None)
    assert result.value["shift_px"] == pytest.approx(30 * np.sqrt(2), abs=0.05)


def test_failures_have_codes_and_say_what_was_found():
    rng = np.random.default_rng(17)
    stars, flux = rng.uniform(0, 890, (30, 2)), 10 ** rng.uniform(3, 5, 30)
    reference = _table(stars, flux)
    first = astrometry(reference, _row("ref"), None, SHAPE, None, None, None).value
    lists = _reference(reference)

    def code(table, **settings):
        with pytest.raises(StepFailed) as failure:
            astrometry(table, _row(), None, SHAPE, lists, first, None, **settings)
        return failure.value.code, failure.value.message

    assert code(reference[:0])[0] == "NO_STARS"
    assert code(reference[:2])[0] == "FEW_STARS"
    other = _table(rng.uniform(0, 890, (30, 2)), flux)
    assert code(other)[0] == "REGISTRATION"
    assert "cannot be aligned to ref" in code(other)[1]
    rough = _table(stars + rng.normal(0, 0.7, stars.shape), flux, noise=0.7)
    assert code(rough, max_rms_px=0.3)[0] == "REGISTRATION_POOR"


def test_a_header_wcs_that_makes_no_sense_is_not_used():
    good = _wcs()
    assert sane(good, SHAPE) == ""
    assert "no celestial" in sane(None, SHAPE)
    assert "no celestial" in sane(linear_wcs(Affine(np.eye(2), np.zeros(2))), SHAPE)
    assert "implausible" in sane(_wcs(scale=1800.0), SHAPE)
    stretched = _wcs()
    stretched.wcs.cd = stretched.wcs.cd @ np.diag([1.0, 1.2])
    stretched.wcs.set()
    assert "not square" in sane(stretched, SHAPE)


def test_world_coordinates_survive_as_text_and_composition_is_exact():
    wcs = _wcs(0.001, -60.0)
    step = Affine(np.array([[1.01, 0.02], [-0.015, 0.99]]), np.array([12.0, -7.0]))
    bent = Distortion(
        2, np.array([500.0, 450.0]), 500.0, np.array([[1.0, 0.5], [0.2, -1.0], [0.3, 0.4]])
    )
    for solved in (
        compose(wcs, step, SHAPE),
        compose(compose(wcs, step, SHAPE, bent), step, SHAPE, bent),
    ):
        again = wcs_from_text(wcs_to_text(solved))
        assert pixel_to_sky(again, GRID) == pytest.approx(pixel_to_sky(solved, GRID), abs=1e-10)
        assert sky_to_pixel(again, *pixel_to_sky(again, GRID).T) == pytest.approx(GRID, abs=1e-4)
    direct = pixel_to_sky(wcs, step(bent(step(bent(GRID)))))
    assert pixel_to_sky(solved, GRID) == pytest.approx(direct, abs=1e-8)


def test_orientation_and_scale_are_those_of_the_sky():
    assert orientation(_wcs(rotation=0.0), SHAPE) == (pytest.approx(0.0, abs=1e-6), -1)
    assert orientation(_wcs(rotation=0.0, mirrored=True), SHAPE)[1] == 1
    assert pixel_scale(_wcs(scale=0.37), SHAPE) == pytest.approx(0.37, rel=1e-5)
    assert np.isnan(pixel_scale(linear_wcs(Affine(np.eye(2), np.zeros(2))), SHAPE))
    assert np.isnan(sky_to_pixel(_wcs(150.0, 2.0), [330.0], [-2.0])).all()  # behind us


def test_the_order_of_the_sources_does_not_matter():
    rng = np.random.default_rng(18)
    truth = _wcs()
    catalog = _sky(rng, truth, 60)
    frame = _see(rng, catalog, truth)
    shuffled = frame[rng.permutation(len(frame))]
    one, two = (astrometry(t, _row(), truth, SHAPE, None, None, catalog) for t in (frame, shuffled))
    assert one.value["wcs"] == two.value["wcs"]
