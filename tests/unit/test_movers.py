"""The movers step: detections of dithered, rotated frames become objects on the sky."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astropy.wcs import WCS

from skymill.errors import StepFailed
from skymill.steps.movers import MoverFrame, movers, track_positions

SHAPE = (600, 800)
START = SkyCoord(150.0 * u.deg, 40.0 * u.deg)
RATE = 45.0 * u.arcsec / u.hour
ANGLE = 130.0 * u.deg
MJD = 60000.0


def tangent(rotation=0.0, shift=(0.0, 0.0), parity=-1):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 40.0]
    wcs.wcs.crpix = [400 + shift[0], 300 + shift[1]]
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    wcs.wcs.cd = np.array([[parity * c, -parity * s], [s, c]]) * 0.8 / 3600
    wcs.wcs.set()
    return wcs


def table(x, y, flux):
    return Table({"source": np.arange(len(x)) + 1, "x": x, "y": y, "flux_total": flux})


def night(rng, n=12, mover_flux=800.0, zp=np.nan):
    grid = tangent()
    stars = rng.uniform((0, 0), (800, 600), (150, 2))
    light = 10 ** rng.uniform(3, 5, 150)
    frames = []
    for k in range(n):
        wcs = tangent(rotation=rng.uniform(0, 360), shift=rng.normal(0, 8, 2))
        mjd = MJD + k / 24 / 8
        at = START.directional_offset_by(ANGLE, RATE * (mjd - MJD) * u.day)
        sky = np.concatenate([grid.all_pix2world(stars, 0), [[at.ra.deg, at.dec.deg]]])
        x, y = wcs.all_world2pix(sky, 0).T + rng.normal(0, 0.05, (2, len(sky)))
        flux = np.append(light, mover_flux)
        junk = rng.uniform((0, 0), (800, 600), (30, 2)).T
        x, y = np.append(x, junk[0]), np.append(y, junk[1])
        flux = np.append(flux, np.full(30, 500.0))
        on = (x > 0) & (y > 0) & (x < 799) & (y < 599)
        frames.append(
            MoverFrame(f"f{k:02d}", mjd, table(x[on], y[on], flux[on]), wcs, SHAPE, zp, 60.0)
        )
    return frames, grid, Table({"x": stars[:, 0], "y": stars[:, 1], "flux_total": light})


def test_a_planted_object_is_found_with_its_motion_on_the_sky():
    frames, grid, stars = night(np.random.default_rng(1), zp=25.0)
    result = movers(frames, grid, stars)
    (row,) = result.value.tracks
    # error of a rate: 0.05 px * 0.8 arcsec / sqrt(sum dt^2) = 0.027 arcsec/h
    assert abs(row["rate"] - 45.0) < 0.15
    assert abs(row["position_angle"] - 130.0) < 0.2
    assert row["rate_err"] == pytest.approx(0.05 * 0.8 / 1.495, rel=0.6)
    when = (row["mjd"] - MJD) * u.day
    truth = START.directional_offset_by(ANGLE, RATE * when)
    assert SkyCoord(row["ra"] * u.deg, row["dec"] * u.deg).separation(truth).arcsec < 0.1
    assert row["mag"] == pytest.approx(25 - 2.5 * np.log10(800 / 60), abs=1e-6)
    assert result.numbers["n_movers"] == 1
    assert set(result.value.detections["frame_id"]) <= {f.frame_id for f in frames}
    places = track_positions(result.value.tracks, MJD)
    assert np.hypot(places["x"][0] - 399, places["y"][0] - 299) < 0.2


def test_stars_and_chance_are_no_objects():
    frames, grid, stars = night(np.random.default_rng(2), mover_flux=500.0)
    still = [
        MoverFrame(f.frame_id, f.mjd_mid, f.sources[np.asarray(f.sources["flux_total"]) != 500.0],
                   f.wcs, f.shape)
        for f in frames
    ]  # fmt: skip
    assert len(movers(still, grid, stars).value.tracks) == 0


def test_without_a_list_of_stars_those_that_stay_are_left_out():
    frames, grid, _ = night(np.random.default_rng(3))
    assert len(movers(frames, grid, None).value.tracks) == 1


def test_frames_without_sky_coordinates_give_motions_in_pixels():
    rng = np.random.default_rng(4)
    frames = []
    for k in range(8):
        wcs = WCS(naxis=2)
        wcs.wcs.crval = [3.0 * k, -2.0 * k]  # the frame drifts
        wcs.wcs.crpix = [1.0, 1.0]
        wcs.wcs.set()
        x = np.array([100 + 5 * k, 400]) - 3.0 * k + rng.normal(0, 0.05, 2)
        y = np.array([200 - 3 * k, 300]) + 2.0 * k + rng.normal(0, 0.05, 2)
        frames.append(MoverFrame(f"f{k}", MJD + k / 240, table(x, y, [900.0, 900.0]), wcs, SHAPE))
    grid = WCS(naxis=2)
    grid.wcs.set()
    (row,) = movers(frames, grid, None).value.tracks
    assert (row["rate_x"], row["rate_y"]) == pytest.approx((50, -30), abs=0.5)
    assert np.isnan(row["ra"])
    assert np.isnan(row["rate"])


def test_an_object_that_crosses_a_faint_star_keeps_its_detection():
    frames, grid, _ = night(np.random.default_rng(5))
    everywhere = np.stack(np.meshgrid(np.arange(0, 800, 2), np.arange(0, 600, 2)), -1).reshape(
        -1, 2
    )
    faint = Table(
        {
            "x": everywhere[:, 0],
            "y": everywhere[:, 1],
            "flux_total": np.full(len(everywhere), 100.0),
        }
    )
    (row,) = movers(frames, grid, faint).value.tracks
    assert row["n_detections"] >= 11


def test_too_few_frames_are_said():
    frames, grid, stars = night(np.random.default_rng(6), n=4)
    with pytest.raises(StepFailed, match="4 frames") as caught:
        movers(frames, grid, stars)
    assert caught.value.code == "NO_FRAMES"


def test_frames_without_a_time_are_left_out():
    frames, grid, stars = night(np.random.default_rng(7))
    frames[3] = MoverFrame("f03", float("nan"), frames[3].sources, frames[3].wcs, SHAPE)
    result = movers(frames, grid, stars)
    assert result.numbers["n_frames"] == 11
    assert len(result.value.tracks) == 1
