"""The simulator must be what it says: its files are the truth that everything is held to."""

import math
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from pydantic import ValidationError

from skymill.errors import ConfigError
from skymill.simulate import (
    MovingObject,
    NightConfig,
    Transit,
    Truth,
    TruthBit,
    Variable,
    demo_config,
    simulate_night,
    simulate_series,
)
from skymill.simulate.bad import bad_table
from skymill.simulate.config import field_table
from skymill.simulate.detector import _measured, bleed
from skymill.simulate.pointing import airmass, sexagesimal
from skymill.simulate.psf import Profile, add_sources
from skymill.simulate.stars import make_stars

CONFIG = NightConfig(
    seed=11,
    shape=(256, 240),
    filters=("V", "R"),
    n_bias=4,
    n_dark=4,
    n_flat=4,
    n_light=3,
    cadence_s=900.0,
    gain_e_adu=1.7,
    read_noise_e=7.0,
    overscan_px=64,
    prescan_px=5,
    dark_e_s=0.4,
    hot_fraction=2e-3,
    dead_fraction=5e-4,
    cosmic_rate_mpx_s=1.0,
    n_stars=60,
    mag_bright=11.0,
    distortion_px=2.0,
    extinction_mag={"V": 0.2, "R": 0.1},
    clouds=(1.0, 0.5),
    variables=(Variable(amplitude_mag=0.3, period_h=1.0),),
    transit=Transit(depth=0.1, mid_h=0.258, duration_h=0.3, ingress_h=0.05),
    moving=(MovingObject(mag=14.0, rate_arcsec_h=120.0, angle_deg=60.0, start_px=(-30.0, 10.0)),),
    trails=(2,),
    mag_faint=18.0,
)
G, RN = CONFIG.gain_e_adu, CONFIG.read_noise_e


@pytest.fixture(scope="module")
def night(tmp_path_factory) -> Truth:
    return simulate_night(tmp_path_factory.mktemp("night"), CONFIG)


def raw(truth: Truth, name: str) -> np.ndarray:
    path = truth.raw / truth.frame(name)["path"]
    return fits.getdata(path).astype(np.float64)


def minus_overscan(truth: Truth, name: str) -> np.ndarray:
    """Image area without a straight line through the overscan's row means, in ADU."""
    data, config = raw(truth, name), truth.config
    left, nx = config.prescan_px, config.shape[1]
    rows = np.arange(len(data))
    line = np.polynomial.Polynomial.fit(rows, data[:, left + nx :].mean(axis=1), 1)
    return data[:, left : left + nx] - line(rows)[:, None]


def electrons(truth: Truth, name: str, band: str) -> np.ndarray:
    """A perfect calibration: with the true bias, dark, flat and gain."""
    exptime = truth.frame(name)["exptime_s"]
    signal = (minus_overscan(truth, name) - truth.bias()) * G - truth.dark() * exptime
    with np.errstate(divide="ignore", invalid="ignore"):
        return signal / truth.flat(band)


# ------------------------------------------------------------------ detector


def test_read_noise_is_as_stated(night):
    a, b = (minus_overscan(night, f"bias_00{k}") for k in (1, 2))
    variance = np.var(a - b) / 2.0
    expected = (RN / G) ** 2 + 1.0 / 12.0
    assert abs(variance / expected - 1.0) < 4.0 * math.sqrt(2.0 / a.size)


def test_bias_is_the_truth_plus_read_noise(night):
    stack = np.mean([minus_overscan(night, f"bias_00{k}") for k in (1, 2, 3, 4)], axis=0)
    residual = stack - night.bias()
    expected = ((RN / G) ** 2 + 1.0 / 12.0) / 4.0
    tolerance = 4.0 * math.sqrt(2.0 / residual.size)
    assert abs(np.var(residual) / expected - 1.0) < tolerance
    # The pattern is there: without it the same test fails.
    assert np.var(stack) / expected - 1.0 > 5 * tolerance


def test_overscan_level_drifts_between_frames(night):
    levels = [raw(night, f"bias_00{k}")[:, -60:].mean() for k in (1, 2, 3, 4)]
    assert np.ptp(levels) > 0.5
    light = night.lights[0]
    error = (RN / G) / math.sqrt(256 * 64)
    assert abs(raw(night, light["frame"])[:, -64:].mean() - light["overscan_adu"]) < 5 * error


def test_gain_by_photon_transfer_is_as_stated(night):
    good = ~night.dead("V") & ~night.hot()
    a, b = ((minus_overscan(night, f"flat_V_00{k}") - night.bias())[good] for k in (1, 2))
    ratio = a.sum() / b.sum()
    variance = np.var(a - ratio * b)
    read = (1 + ratio**2) * ((RN / G) ** 2 + 1.0 / 12.0)
    gain = (a.mean() + ratio**2 * b.mean()) / (variance - read)
    assert abs(gain / G - 1.0) < 5.0 * math.sqrt(2.0 / a.size)


def test_flats_give_the_true_flat_and_scatter_by_photon_noise(night):
    good = ~night.dead("R") & ~night.hot()
    flat = night.flat("R")
    assert np.median(flat) == pytest.approx(1.0, abs=1e-6)
    assert np.ptp(flat[good]) > 0.15
    frame = (minus_overscan(night, "flat_R_001") - night.bias()) * G
    level = np.sum(frame[good]) / np.sum(flat[good])
    assert CONFIG.flat_level_adu[0] * G < level < CONFIG.flat_level_adu[1] * G
    sigma = np.sqrt(level * flat + RN**2 + G**2 / 12)
    pull = ((frame - level * flat) / sigma)[good]
    # A cosmic ray would be one pixel of many; the width is taken robustly.
    width = 1.4826 * np.median(np.abs(pull))
    assert abs(width - 1.0) < 4.0 * 1.17 / math.sqrt(pull.size)


def test_flats_of_two_filters_differ_but_share_pixels_and_dust(night):
    v, r = night.flat("V"), night.flat("R")
    assert np.std(v / r) > 0.002
    high_v, high_r = v - np.roll(v, 1, axis=1), r - np.roll(r, 1, axis=1)
    assert np.corrcoef(high_v[:, 1:].ravel(), high_r[:, 1:].ravel())[0, 1] > 0.8


def test_dark_current_and_hot_pixels_are_as_stated(night):
    t = CONFIG.dark_exptime_s
    frames = np.array([minus_overscan(night, f"dark_00{k}") for k in (1, 2, 3, 4)])
    rate = (np.median(frames, axis=0) - night.bias()) * G / t
    normal, truth = ~night.hot(), night.dark()
    noise = math.sqrt(np.pi / 2 * (RN**2 + t * CONFIG.dark_e_s) / 4) / t
    # The median of skewed counts is low by up to 1/6 electron; two levels are fitted.
    tolerance = 5 * noise / math.sqrt(normal.sum()) + (0.2 + G * RN / G / 128) / t
    assert abs(np.mean((rate - truth)[normal])) < tolerance
    assert night.hot().sum() == pytest.approx(2e-3 * normal.size, abs=4 * math.sqrt(2e-3 * 61440))
    hot = night.hot()
    sigma = np.sqrt(np.pi / 2 * (truth[hot] * t + RN**2) / 4) / t
    unsaturated = truth[hot] * t < 0.9 * CONFIG.full_well_e
    assert np.all(np.abs(rate[hot] - truth[hot])[unsaturated] < 6 * sigma[unsaturated] + 0.01)


def test_nonlinearity_is_the_inverse_of_its_definition():
    linear = np.array([-50.0, 0.0, 10.0, 3e4, 6e4])
    measured = _measured(linear, -2e-6)
    assert np.allclose(measured * (1 - 2e-6 * measured), linear, rtol=1e-12)
    assert measured[-1] > 6e4 * 1.1
    assert _measured(linear, 0.0) is linear


def test_bleeding_keeps_the_charge_and_fills_both_ways():
    image = np.zeros((41, 3))
    image[:, 1] = 10.0
    image[19:22, 1] = (150.0, 1000.0, 150.0)
    full, bled = bleed(image, 100.0)
    assert full.sum() == pytest.approx(image.sum())
    assert full.max() == 100.0
    # 1000 electrons too many: 500 each way into pixels with room for 90.
    assert np.array_equal(np.flatnonzero(bled[:, 1]), [*range(13, 19), *range(22, 28)])
    assert not bled[:, [0, 2]].any()
    assert full[14, 1] == 100.0
    assert full[13, 1] == pytest.approx(10 + 500 - 5 * 90)


def test_bled_charge_is_lost_at_the_border():
    image = np.full((5, 1), 90.0)
    image[1] = 1100.0
    full, _ = bleed(image, 100.0)
    assert np.all(full[:, 0] == 100.0)


def test_saturation_is_marked_and_reaches_the_card(tmp_path):
    config = NightConfig(shape=(96, 96), n_bias=0, n_dark=0, n_flat=0, n_light=1, n_stars=0)
    catalog = Table({"ra": [config.ra_deg], "dec": [config.dec_deg], "mag": [7.0]})
    truth = simulate_night(tmp_path, config, catalog)
    mask, data = truth.mask("light_V_001"), raw(truth, "light_V_001")[:, :96]
    full = (mask & TruthBit.SATURATED) > 0
    bled = (mask & TruthBit.BLEED) > 0
    assert full.sum() > 9
    assert data[full].min() > config.saturate_adu
    columns = np.flatnonzero(full.any(axis=0))
    assert bled.any() and set(np.flatnonzero(bled.any(axis=0))) <= set(columns)
    only = config.model_copy(update={"full_well_e": None, "seed": 2})
    truth = simulate_night(tmp_path / "adc", only, catalog)
    mask, data = truth.mask("light_V_001"), raw(truth, "light_V_001")[:, :96]
    assert np.array_equal((mask & TruthBit.SATURATED) > 0, data == 65535)
    assert not np.any(mask & TruthBit.BLEED)


# ------------------------------------------------------------------ light frames


@pytest.mark.parametrize("kind", ["moffat", "gauss"])
@pytest.mark.parametrize("fwhm", [2.0, 3.0, 6.0])
def test_sources_have_their_flux_and_place(kind, fwhm):
    x, y, flux = np.array([70.31]), np.array([64.87]), np.array([2e5])
    image = np.zeros((141, 141))
    profile = Profile(kind, fwhm, 3.5, ellipticity=0.2, angle_deg=25.0)
    add_sources(image, x, y, flux, profile)
    assert image.sum() == pytest.approx(2e5, rel=4e-5)
    rows, columns = np.mgrid[:141, :141]
    # Sharper stars are undersampled: their moments depend on the place in the pixel.
    assert (image * columns).sum() / image.sum() == pytest.approx(70.31, abs=2e-4)
    assert (image * rows).sum() / image.sum() == pytest.approx(64.87, abs=2e-4)


@pytest.mark.parametrize("kind", ["moffat", "gauss"])
def test_pixels_integrate_the_profile(kind):
    profile = Profile(kind, 1.5, 3.0, ellipticity=0.1, angle_deg=70.0)
    image = np.zeros((15, 15))
    add_sources(image, np.array([7.4]), np.array([6.8]), np.array([1.0]), profile)
    n = 128
    fine = (np.arange(15 * n) + 0.5) / n - 0.5
    u, v = fine[None, :] - 7.4, fine[:, None] - 6.8
    xx, xy, yy = profile.form()
    brute = profile(xx * u * u + 2 * xy * u * v + yy * v * v)
    brute = brute.reshape(15, n, 15, n).mean(axis=(1, 3))
    # The midpoint rule itself: h^2/24 times the curvature of 2.5/px^2, 1e-5.
    assert np.abs(image - brute).max() < 1.5e-5 * brute.max()


def test_fwhm_is_the_full_width_at_half_maximum():
    for kind in ("moffat", "gauss"):
        profile = Profile(kind, 4.0, 2.5)
        ratio = profile(np.array([4.0]))[0] / profile(np.array([0.0]))[0]
        assert ratio == pytest.approx(0.5, rel=1e-12)


def test_sources_at_the_border_are_cut_not_wrapped():
    image = np.zeros((20, 20))
    places = np.array([-0.5, 30.0, np.nan])
    add_sources(image, places, np.full(3, 10.0), np.full(3, 1000.0), Profile("moffat", 2.5))
    assert 480 < image.sum() < 510
    assert image[:, 15:].sum() < 2


@pytest.mark.parametrize(("band", "name"), [("V", "light_V_001"), ("R", "light_R_002")])
def test_a_perfect_calibration_gives_the_truth_image(night, band, name):
    """The whole chain: flat before Poisson, dark before Poisson, gain after."""
    got, image = electrons(night, name, band), night.image(name).astype(float)
    flat = night.flat(band)
    good = (night.mask(name) == 0) & (night.cosmic_e(name) == 0) & ~night.dead(band)
    expected = image * flat + night.dark() * CONFIG.exptime_s
    sigma = np.sqrt(expected + RN**2 + G**2 / 12) / flat
    pull = ((got - image) / sigma)[good]
    assert pull.size > 60_000
    assert abs(np.std(pull) - 1.0) < 4.0 / math.sqrt(2 * pull.size)
    # The overscan fit leaves (RN/g)/sqrt(64 * 256) ADU of sigma ~ 11 ADU.
    assert abs(np.mean(pull)) < 4.0 / math.sqrt(pull.size) + 4 * RN / G / 128 / 11


def test_fluxes_and_places_of_the_tables_are_in_the_truth_image(tmp_path):
    config = NightConfig(
        shape=(160, 160), n_bias=0, n_dark=0, n_flat=0, n_light=2, sky_gradient=0.0, dither_px=3.0,
        clouds=(1.0, 0.6),
    )  # fmt: skip
    step = 40 / 3600
    across = step / math.cos(math.radians(20))
    ra = [130.0 + across, 130.0 - across, 130.0 + across]
    given = Table({"ra": ra, "dec": [20 + step, 20 + step, 20 - step], "mag": [14.0, 15.0, 16.0]})
    truth = simulate_night(tmp_path, config, given)
    rows, columns = np.mgrid[:160, :160]
    for light in truth.lights:
        places, fluxes = (
            t[t["frame"] == light["frame"]] for t in (truth.positions(), truth.lightcurves())
        )
        stars = truth.image(light["frame"]).astype(float) - light["sky_e"]
        assert stars.sum() == pytest.approx(np.sum(fluxes["flux_e"]), rel=1e-3)
        scale = Profile("moffat", light["fwhm_px"]).scale_px
        enclosed = 1 - (1 + 19.5**2 / scale**2) ** -2.5
        for place, flux in zip(places, fluxes["flux_e"], strict=True):
            disk = np.hypot(columns - place["x"], rows - place["y"]) < 19.5
            # Neighbours 80 px away leave less than 1e-4 of this star here.
            assert stars[disk].sum() / flux == pytest.approx(enclosed, abs=3e-4)
            x, y = ((stars * axis)[disk].sum() / stars[disk].sum() for axis in (columns, rows))
            assert (x, y) == pytest.approx((place["x"], place["y"]), abs=0.01)


def test_written_wcs_gives_the_true_places(night):
    catalog, positions = night.catalog(), night.positions()
    for light in night.lights:
        header = fits.getheader(night.raw / light["path"])
        assert header["CTYPE1"] == "RA---TAN-SIP"
        x, y = WCS(header).all_world2pix(catalog["ra"], catalog["dec"], 0)
        mine = positions[positions["frame"] == light["frame"]][: len(catalog)]
        assert list(mine["id"]) == list(catalog["id"])
        assert np.abs(x - CONFIG.prescan_px - mine["x"]).max() < 1e-3
        assert np.abs(y - mine["y"]).max() < 1e-3
    linear = WCS(header).wcs_world2pix(catalog["ra"], catalog["dec"], 0)[0]
    assert 0.3 < np.abs(linear - x).max() < 8, "the distortion must matter"
    trimmed = WCS(fits.getheader(night.folder / "images" / f"{light['frame']}.fits"))
    assert (
        np.abs(trimmed.all_world2pix(catalog["ra"], catalog["dec"], 0)[0] - mine["x"]).max() < 1e-3
    )


@pytest.mark.parametrize("place", [(0.0, 0.0), (359.999, -70.0), (200.0, 88.5)])
def test_fields_at_awkward_places_of_the_sky_are_whole(tmp_path, place):
    config = NightConfig(
        shape=(96, 96), n_bias=0, n_dark=0, n_flat=0, n_light=2, ra_deg=place[0], dec_deg=place[1],
        mirrored=True, meridian_flip_at=1, n_stars=60,
    )  # fmt: skip
    truth = simulate_night(tmp_path, config)
    catalog, positions = truth.catalog(), truth.positions()
    # 60 stars on (96 + 2 * 27)^2 px: 24.6 in the frame are expected.
    inside = positions["inside"] == 1
    assert 24.6 * 2 - 4 * 5.4 < inside.sum() < 24.6 * 2 + 4 * 5.4
    for light in truth.lights:
        wcs = WCS(fits.getheader(truth.raw / light["path"]))
        assert np.linalg.det(wcs.wcs.cd) > 0, "mirrored"
        x, y = wcs.all_world2pix(catalog["ra"], catalog["dec"], 0)
        mine = positions[positions["frame"] == light["frame"]]
        assert np.hypot(x - mine["x"], y - mine["y"]).max() < 1e-3
    one, two = (positions[positions["frame"] == light["frame"]] for light in truth.lights)
    assert np.corrcoef(one["x"], two["x"])[0, 1] < -0.99, "turned by the meridian flip"


def test_dithers_move_the_sky(night):
    positions = night.positions()
    first, second = (
        positions[positions["frame"] == f"light_V_00{k}"]["x", "y"][:20] for k in (1, 2)
    )
    shift = np.mean(second["x"] - first["x"])
    a, b = (night.frame(f"light_V_00{k}")["dither_px"] for k in (1, 2))
    assert shift == pytest.approx(b[0] - a[0], abs=0.1)
    assert abs(shift) > 0.5


def test_offset_wcs_is_off_and_none_is_absent(tmp_path):
    small = {"shape": (64, 64), "n_bias": 0, "n_dark": 0, "n_flat": 0, "n_light": 2}
    truth = simulate_night(tmp_path / "a", NightConfig(wcs="offset", **small))
    for light in truth.lights:
        header = fits.getheader(truth.raw / light["path"])
        assert header["CTYPE1"] == "RA---TAN"
        east = (header["CRVAL1"] - light["ra_deg"]) * math.cos(math.radians(20)) * 3600
        north = (header["CRVAL2"] - light["dec_deg"]) * 3600
        assert 12 * 0.4 < math.hypot(east, north) < 12 * 1.6
        wrong, true = (math.atan2(h["CD2_1"], h["CD2_2"]) for h in (header, light["wcs"]))
        assert math.degrees(wrong - true) == pytest.approx(0.3, abs=1e-6)
    truth = simulate_night(tmp_path / "b", NightConfig(wcs="none", **small))
    header = fits.getheader(truth.raw / truth.lights[0]["path"])
    assert not {"CTYPE1", "CRVAL1", "CD1_1", "A_ORDER"} & set(header)
    assert header["RA"][:6] in ("08:39:", "08:40:")


def test_cosmic_rays_are_added_charge_and_nothing_else_changes(tmp_path):
    base = NightConfig(
        shape=(128, 128),
        n_bias=0,
        n_dark=0,
        n_flat=0,
        n_light=1,
        cosmic_rate_mpx_s=0.0,
        full_well_e=None,
    )
    clean = simulate_night(tmp_path / "a", base)
    hit = simulate_night(tmp_path / "b", base.model_copy(update={"cosmic_rate_mpx_s": 20.0}))
    name = "light_V_001"
    added = (raw(hit, name) - raw(clean, name))[:, :128]
    cosmic = hit.cosmic_e(name)
    unclipped = raw(hit, name)[:, :128] < 65535
    assert np.abs(added - cosmic / base.gain_e_adu)[unclipped].max() < 1.01
    assert 5 < np.count_nonzero(hit.mask(name) & TruthBit.COSMIC) < 2000
    assert np.all(cosmic[(hit.mask(name) & TruthBit.COSMIC) > 0] > 0)
    assert not clean.cosmic_e(name).any()


def test_trail_is_where_the_truth_says(night):
    name = "light_V_003"
    trail, mask = night.frame(name)["trail"], night.mask(name)
    marked = (mask & TruthBit.TRAIL) > 0
    y, x = np.nonzero(marked)
    angle = math.radians(trail["angle_deg"])
    distance = (y - trail["y"]) * math.cos(angle) - (x - trail["x"]) * math.sin(angle)
    assert len(x) > 400
    assert np.abs(distance).max() < 4 * trail["fwhm_px"]
    excess = electrons(night, name, "V") - night.image(name)
    clean = (mask & ~np.uint8(TruthBit.TRAIL)) == 0
    centre = marked & clean & ~night.dead("V")
    core = np.zeros_like(marked)
    core[y, x] = np.abs(distance) < 0.5
    got = np.median(excess[core & centre])
    # Within half a pixel of the ridge the profile lies above 0.8 of its peak.
    assert 0.8 * trail["peak_e"] < got < 1.05 * trail["peak_e"]
    assert not np.any(night.mask("light_V_002") & TruthBit.TRAIL)


def test_clouds_and_extinction_dim_the_stars(night):
    curves = night.lightcurves()
    star = curves[curves["id"] == "star_0001"]
    first, second = (star[star["frame"] == f"light_V_00{k}"]["flux_e"][0] for k in (1, 2))
    a, b = (night.frame(f"light_V_00{k}") for k in (1, 2))
    assert (a["clouds"], b["clouds"]) == (1.0, 0.5)
    assert second / first == pytest.approx(b["throughput"] / a["throughput"], rel=1e-5)
    assert b["throughput"] == pytest.approx(0.5 * 10 ** (-0.08 * b["airmass"]), rel=1e-6)
    mag = night.catalog()["V"][0]
    flux = 60.0 * 10 ** (-0.4 * (mag - a["zero_point_mag"]))
    assert first == pytest.approx(flux, rel=1e-5)
    # The sky keeps its brightness.
    assert b["sky_e"] == pytest.approx(a["sky_e"], rel=0.3)


def test_variable_and_transit_follow_their_truth(night):
    catalog, curves = night.catalog(), night.lightcurves()
    assert sorted(set(catalog["variable"])) == ["constant", "sine", "transit"]
    constant = catalog["id"][catalog["variable"] == "constant"]
    assert np.all(curves["relative_flux"][np.isin(curves["id"], constant)] == 1.0)
    start = min(light["mjd_mid"] for light in night.lights) - 30 / 86400
    (sine,) = catalog["id"][catalog["variable"] == "sine"]
    for row in curves[curves["id"] == sine]:
        hours = (row["mjd_mid"] - start) * 24
        # The average over 60 s differs from the middle by less than 1e-3.
        expected = 10 ** (-0.4 * 0.3 * math.sin(2 * math.pi * hours))
        assert row["relative_flux"] == pytest.approx(expected, abs=1e-3)
    (star,) = catalog["id"][catalog["variable"] == "transit"]
    transit = curves[curves["id"] == star]
    by_frame = dict(zip(transit["frame"], transit["relative_flux"], strict=True))
    assert by_frame["light_R_001"] == pytest.approx(0.9, abs=1e-8)
    assert by_frame["light_V_003"] == 1.0


def test_moving_object_moves_at_its_rate(night):
    positions, curves = night.positions(), night.lightcurves()
    rows = [(p["frame"], p["x"], p["y"]) for p in positions[positions["id"] == "moving_1"]]
    times = {c["frame"]: c["mjd_mid"] for c in curves[curves["id"] == "moving_1"]}
    sky = []
    for name, x, y in rows:
        header = fits.getheader(night.folder / "images" / f"{name}.fits")
        ra, dec = WCS(header).all_pix2world(x, y, 0)
        sky.append((times[name] * 24, float(ra), float(dec)))
    (t0, ra0, dec0), (t1, ra1, dec1) = min(sky), max(sky)
    east = (ra1 - ra0) * math.cos(math.radians(dec0)) * 3600 / (t1 - t0)
    north = (dec1 - dec0) * 3600 / (t1 - t0)
    assert math.hypot(east, north) == pytest.approx(120.0, rel=1e-3)
    assert math.degrees(math.atan2(east, north)) == pytest.approx(60.0, abs=0.1)


def test_raw_headers_hold_what_a_camera_writes(night):
    path = night.raw / night.lights[0]["path"]
    header = fits.getheader(path)
    assert header["BITPIX"] == 16
    assert header["BZERO"] == 32768
    assert header["IMAGETYP"] == "Light Frame"
    assert header["INSTRUME"] == "skymill-sim"
    assert (header["NAXIS2"], header["NAXIS1"]) == (256, 5 + 240 + 64)
    assert header["TRIMSEC"] == "[6:245,1:256]"
    assert header["BIASSEC"] == "[246:309,1:256]"
    assert header["DATE-OBS"] == "2026-03-15T22:00:00.000"
    assert header["AIRMASS"] == pytest.approx(night.lights[0]["airmass"], abs=1e-5)
    needed = {"GAIN", "RDNOISE", "SATURATE", "XBINNING", "CCD-TEMP", "RA", "DEC", "OBJECT"}
    assert needed | {"FILTER", "SITELAT", "SITELONG", "SITEELEV", "EXPTIME"} <= set(header)
    assert path.parent.name == "20260315"
    kinds = {fits.getheader(night.raw / f["path"])["IMAGETYP"]: f["kind"] for f in night.frames}
    assert kinds == {
        "Bias Frame": "bias", "Dark Frame": "dark", "Flat Field": "flat", "Light Frame": "light",
    }  # fmt: skip


def test_no_two_frames_have_the_same_time(tmp_path):
    config = demo_config().model_copy(update={"shape": (64, 64), "n_stars": 0, "variables": (),
                                              "transit": None, "truth_images": False})  # fmt: skip
    truth = simulate_night(tmp_path, config)
    names = [f["path"] for f in truth.frames]
    names += [b["path"] for b in truth.bad if b["name"] in ("bias_level", "no_stars")]
    times = [fits.getheader(truth.raw / name)["DATE-OBS"] for name in set(names)]
    assert len(set(times)) == len(times) > 35


def test_airmass_agrees_with_astropy():
    from datetime import datetime

    from astropy import units as u
    from astropy.coordinates import AltAz, EarthLocation, SkyCoord
    from astropy.time import Time
    from astropy.utils import iers

    config = NightConfig()
    when = datetime(2026, 3, 16, 1, 30)
    site = EarthLocation.from_geodetic(config.site_lon_deg, config.site_lat_deg, 2350 * u.m)
    with iers.conf.set_temp("auto_download", False), iers.conf.set_temp("auto_max_age", None):
        place = SkyCoord(130, 20, unit="deg").transform_to(
            AltAz(obstime=Time(when, scale="utc"), location=site)
        )
    # Precession and nutation are left out: 0.3 degrees.
    assert airmass(config, when) == pytest.approx(float(place.secz), rel=0.01)


def test_sexagesimal_forms():
    assert sexagesimal(130.0, hours=True) == "08:40:00.00"
    assert sexagesimal(359.99999999, hours=True) == "00:00:00.00"
    assert sexagesimal(-0.5, hours=False) == "-00:30:00.0"


# ------------------------------------------------------------------ catalogues


def test_reference_catalogue_scatters_as_it_quotes(tmp_path):
    config = NightConfig(
        shape=(64, 64), n_bias=0, n_dark=0, n_flat=0, n_light=0, n_stars=6000,
        reference_outliers=0.1, reference_mag_limit=19.0,
    )  # fmt: skip
    truth = simulate_night(tmp_path, config)
    catalog, reference = truth.catalog(), truth.reference()
    assert reference.colnames == ["id", "ra", "dec", "V", "V_err"]
    catalog = catalog[catalog["V"] <= 19.0]
    assert list(reference["id"]) == list(catalog["id"])
    pull = np.asarray((reference["V"] - catalog["V"]) / reference["V_err"])
    wrong = np.abs(reference["V"] - catalog["V"]) > 0.2
    n = len(pull)
    assert wrong.sum() == pytest.approx(0.1 * n, abs=4 * math.sqrt(0.09 * n))
    assert np.std(pull[~wrong]) == pytest.approx(1.0, abs=4 / math.sqrt(2 * n))
    north = (reference["dec"] - catalog["dec"]) * 3600
    assert np.std(north) == pytest.approx(0.03, rel=4 / math.sqrt(2 * n))


def test_star_counts_grow_as_stated():
    stars = make_stars(NightConfig(n_stars=20_000, count_slope=0.4))
    mag = stars.mag("V")
    # Of all stars to magnitude 19.5 those to 18.5 are 10^-0.4 (bright end negligible).
    assert np.mean(mag < 18.5) == pytest.approx(10**-0.4, abs=4 * 0.49 / math.sqrt(20_000))
    assert np.all(np.diff(mag) >= 0)


def test_given_catalogue_is_used(tmp_path):
    config = NightConfig(
        shape=(64, 64), filters=("V", "R"), n_bias=0, n_dark=0, n_flat=0, n_light=1,
    )  # fmt: skip
    given = Table({"id": ["a", "far"], "ra": [130.001, 310.0], "dec": [20.001, -20.0],
                   "V": [15.0, 9.0], "R": [14.0, 9.0]})  # fmt: skip
    truth = simulate_night(tmp_path, config, given)
    assert list(truth.catalog()["R"]) == [14.0, 9.0]
    positions = truth.positions()
    assert np.all(np.isnan(positions[positions["id"] == "far"]["x"]))
    x, y = (positions[positions["id"] == "a"][axis][0] for axis in ("x", "y"))
    near = truth.image("light_V_001")[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2]
    assert near.min() > 1.5 * np.median(truth.image("light_V_001"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"ra": [1.0]}, "needs columns ra and dec"),
        ({"ra": [1.0], "dec": [2.0]}, "neither a column 'V' nor 'mag'"),
        ({"ra": [np.nan], "dec": [2.0], "mag": [9.0]}, "not finite"),
        ({"id": ["a", "a"], "ra": [1.0, 2.0], "dec": [2.0, 2.0], "mag": [9.0, 9.0]}, "twice"),
    ],
)
def test_bad_given_catalogue_is_refused(columns, message):
    with pytest.raises(ConfigError, match=message):
        make_stars(NightConfig(), Table(columns))


def test_smallest_separation_is_kept_or_refused():
    config = NightConfig(shape=(128, 128), n_stars=50, min_separation_px=12.0)
    stars = make_stars(config)
    x, y = (stars.ra - 130) * math.cos(math.radians(20)) * 3600, (stars.dec - 20) * 3600
    distance = np.hypot(x[:, None] - x, y[:, None] - y) + 1e9 * np.eye(50)
    assert distance.min() > 11.9
    with pytest.raises(ConfigError, match="min_separation_px"):
        make_stars(config.model_copy(update={"n_stars": 5000}))


def test_stars_that_vary_must_exist():
    with pytest.raises(ConfigError, match="no star in row"):
        make_stars(NightConfig(n_stars=5, variables=(Variable(star=7),)))
    with pytest.raises(ConfigError, match="name their rows"):
        make_stars(NightConfig(n_stars=0, transit=Transit()))
    stars = make_stars(NightConfig(variables=(Variable(star=7), Variable()), transit=Transit()))
    rows = [row for row, _ in stars.variables] + [stars.transit[0]]
    assert rows[0] == 7
    assert len(set(rows)) == 3


# ------------------------------------------------------------------ nights


def _bytes(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


TINY = NightConfig(
    shape=(64, 64), n_bias=2, n_dark=1, n_flat=2, n_light=2, n_stars=15, cosmic_rate_mpx_s=5.0
)


def test_same_seed_gives_same_bytes_and_another_seed_other_bytes(tmp_path):
    config = TINY.model_copy(update={"bad": ("tiles", "checksum", "zip", "hidden_gzip")})
    simulate_night(tmp_path / "a", config)
    simulate_night(tmp_path / "deeper" / "b", config)
    first, second = _bytes(tmp_path / "a"), _bytes(tmp_path / "deeper" / "b")
    assert first == second
    assert len(first) > 15
    simulate_night(tmp_path / "c", config.model_copy(update={"seed": 2}))
    third = _bytes(tmp_path / "c")
    assert first.keys() == third.keys()
    assert all(first[k] != third[k] for k in first)


def test_more_frames_leave_the_others_as_they_are(tmp_path):
    more = TINY.model_copy(
        update={"n_bias": 3, "n_dark": 2, "n_flat": 3, "n_light": 3, "trails": (2,),
                "bad": ("truncated", "hostile", "saturated_flat", "bias_level")}
    )  # fmt: skip
    simulate_night(tmp_path / "a", TINY)
    simulate_night(tmp_path / "b", more)
    few, many = _bytes(tmp_path / "a" / "raw"), _bytes(tmp_path / "b" / "raw")
    assert len(few) == 7
    assert len(many) == 15
    assert {k: many[k] for k in few} == few
    image = "images/light_V_002.fits"
    assert _bytes(tmp_path / "a/truth")[image] == _bytes(tmp_path / "b/truth")[image]


def test_more_filters_leave_calibration_frames_and_sky_as_they_are(tmp_path):
    simulate_night(tmp_path / "a", TINY)
    simulate_night(tmp_path / "b", TINY.model_copy(update={"filters": ("V", "R")}))
    few, many = _bytes(tmp_path / "a"), _bytes(tmp_path / "b")
    same = [k for k in few if "light" not in k and k.endswith("fits")]
    assert len(same) == 5 + 3
    assert all(few[k] == many[k] for k in same)


def test_series_of_nights_shares_sky_and_detector_not_noise(tmp_path):
    first, second = simulate_series(tmp_path, TINY, 2)
    assert [t.folder.name for t in (first, second)] == ["20260315", "20260316"]
    assert first.raw.resolve() == second.raw.resolve() == (tmp_path / "raw").resolve()
    assert np.array_equal(first.bias(), second.bias())
    assert (first.folder / "catalog.csv").read_bytes() == (
        second.folder / "catalog.csv"
    ).read_bytes()
    assert not np.array_equal(raw(first, "light_V_001"), raw(second, "light_V_001"))
    assert Truth.load(second.folder).frame("bias_001")["path"] == "20260316/bias_001.fits"


def test_truth_is_read_back_as_it_was_written(night):
    again = Truth.load(night.folder)
    assert again.config == night.config == CONFIG
    assert again.raw.resolve() == night.raw.resolve()
    assert list(again.frames) == list(night.frames)
    assert len(again.lights) == 6
    with pytest.raises(KeyError, match="no good frame 'x'"):
        again.frame("x")


def test_a_night_is_not_written_over_by_accident(tmp_path):
    simulate_night(tmp_path, TINY)
    with pytest.raises(FileExistsError, match="has files already"):
        simulate_night(tmp_path, TINY)
    simulate_night(tmp_path, TINY, overwrite=True)


def test_night_is_from_local_noon_to_noon():
    assert NightConfig(start_utc="2026-03-16T03:00:00Z").night == "20260315"
    assert NightConfig(start_utc="2026-03-16T03:00:00Z", site_lon_deg=150).night == "20260316"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (8, 64)}, "at least 32 px"),
        ({"filters": ("V", "V")}, "twice"),
        ({"filters": ("../V",)}, "pattern"),
        ({"flat_level_adu": (5.0, 1.0)}, "low <= high"),
        ({"mag_bright": 25.0}, "fainter than"),
        ({"sky_e_s": {"R": 1.0}}, "no value for filter V"),
        ({"cadence_s": 5.0}, "shorter than exptime_s"),
        ({"trails": (9,)}, "there are 6"),
        ({"moffat_beta": 2.7}, "multiple of 0.5"),
        ({"gian_e_adu": 2.0}, "Extra inputs"),
        ({"start_utc": "2026-03-15T22:00:00+02:00"}, "must be UTC"),
        ({"transit": {"duration_h": 1.0, "ingress_h": 0.8}}, "more than half"),
    ],
)
def test_impossible_nights_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        NightConfig(**change)


def test_demo_has_everything_in_it():
    config = demo_config()
    assert len(config.filters) == 2
    assert config.transit and config.variables and config.moving and config.trails
    assert min(config.clouds) < 0.5
    assert len(config.bad) >= 8
    stars = make_stars(config)
    row, _ = stars.transit
    hours = config.cadence * len(config.filters) * config.n_light / 3600
    assert config.transit.mid_h + config.transit.duration_h / 2 < hours
    peak = Profile("moffat", config.fwhm_px).peak * config.exptime_s
    assert peak * 10 ** (-0.4 * (stars.mag("V")[row] - 22.0)) < 0.6 * config.full_well_e


def test_documentation_has_the_fields_and_bad_frames_as_they_are():
    page = Path(__file__).parents[2] / "docs" / "simulate.md"
    text = page.read_text(encoding="utf-8")
    for table in (*map(field_table, (NightConfig, Variable, Transit, MovingObject)), bad_table()):
        assert table in text, f"docs/simulate.md is out of date; it needs\n{table}"
