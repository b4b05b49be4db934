"""What `skymill.open` shows and measures of a frame on disk. Ids: reference systems table."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

import skymill
from skymill import error_maps, io, provenance
from skymill.errors import Outcome, SkymillError
from skymill.frame import MaskBit, Master
from skymill.products import ProductMap, ProductMask
from skymill.sheet import COLUMNS, empty_row, write_sheet
from skymill.steps.background import background
from skymill.steps.calibrate import Masters, calibrate

NY, NX = 200, 240
GAIN, NOISE_E, SKY_E, EXPOSURE, DARK_S = 1.6, 6.0, 400.0, 120.0, 300.0
NAME, BLOCK = "light-0001-abcd1234", "2024-01-02-sim-m1-V-00000000-000"
STARS = [(60.0, 70.0, 40_000.0), (150.0, 120.0, 9_000.0), (201.0, 33.0, 4_000.0)]
SITE = (-70.4, -24.6, 2600.0)
MJD_START = 60311.1


def a_wcs() -> WCS:
    """0.8 arcsec along x and 0.9 along y, turned by 20 degrees, far from the equator."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [83.8, -35.4]
    wcs.wcs.crpix = [100.0, 90.0]
    turn = np.radians(20)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    wcs.wcs.cd = rotation @ np.diag([-0.8 / 3600, 0.82 / 3600])
    return wcs


def star_light() -> np.ndarray:
    y, x = np.mgrid[:NY, :NX]
    out = np.zeros((NY, NX))
    for cx, cy, flux in STARS:
        out += flux / (2 * np.pi * 4) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 8)
    return out


def write_master(folder: Path, name: str, sci, err, unit: str, exposure: float = 0.0) -> Master:
    header = fits.Header()
    header["MASTERID"] = name
    header["EXPTIME"] = exposure
    zero, many = np.zeros((NY, NX), np.uint16), np.full((NY, NX), 9, np.uint16)
    plane = np.full((NY, NX), err, np.float32)
    master = Master(sci.astype(np.float32), plane, zero, header, None, unit, many)
    io.write_master(folder / f"{name}.fits", master, {})
    return io.read_master(folder / f"{name}.fits")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A project with one calibrated frame, its mask and background, and its masters."""
    project = tmp_path_factory.mktemp("products")
    results = project / "results"
    rng = np.random.default_rng(5)
    bias = 20 + 2 * rng.standard_normal((NY, NX))
    dark = bias + 30 / GAIN
    flat = np.linspace(0.6, 1.2, NX)[None, :] * rng.normal(1, 0.01, (NY, NX))
    flat /= np.median(flat)
    masters = Masters(
        write_master(results / "masters", "bias-1", bias, 1.2, "adu"),
        write_master(results / "masters", "dark-1", dark, 1.5, "adu", DARK_S),
        write_master(results / "masters", "flat-1", flat, 0.003, ""),
    )
    tau = EXPOSURE / DARK_S
    charge = rng.poisson((SKY_E + star_light()) * flat + 30 * tau)
    raw = 1000 + bias + charge / GAIN + rng.normal(0, NOISE_E / GAIN, (NY, NX))
    raw[5, 5] = 65535
    strip = 1000 + rng.normal(0, NOISE_E / GAIN, (NY, 30))
    row = {
        "instrument": "sim", "night": "2024-01-02", "filter": "V", "exptime_s": EXPOSURE,
        "datasec": f"[1:{NX},1:{NY}]", "biassec": f"[{NX + 1}:{NX + 30},1:{NY}]",
        "gain_e_adu": GAIN, "read_noise_e": NOISE_E, "saturation_adu": 65000.0,
    }  # fmt: skip
    header = fits.Header()
    header["FRAMEID"], header["FILTER"], header["OBJECT"] = NAME, "V", "NGC 1"
    header["EXPTIME"], header["MJD-OBS"] = EXPOSURE, MJD_START
    header["MJD-AVG"] = MJD_START + EXPOSURE / 172800
    header["TELESCOP"] = "Sim 1m"
    image = np.hstack([raw, strip]).astype(np.float32)
    frame = calibrate(image, row, masters, header=header).value.replace(wcs=a_wcs())
    files = {f: results / f / BLOCK / f"{NAME}.fits" for f in ("calibrated", "mask", "background")}
    io.write_frame(files["calibrated"], frame, {})
    origin = {f"calibrated/{NAME}": io.data_digest(files["calibrated"])}
    made = provenance.cards("mask", code="c", settings={}, inputs=origin)
    bits = frame.mask.copy()
    bits[10, 20] |= np.uint16(MaskBit.COSMIC)
    io.write_mask(files["mask"], bits, frame, made)
    sky = background(frame.replace(mask=bits)).value
    io.write_background(files["background"], sky, made)
    write_tables(results)
    cells = empty_row(
        frame_id=NAME, path="a.fits", hdu=0, sha256="0" * 64, size_bytes=1, verdict="ok",
        kind="light", instrument="sim", object="NGC 1", target="ngc1", filter="V",
        exptime_s=EXPOSURE, night="2024-01-02", binning="2x1", nx=NX, ny=NY, ra_deg=83.9,
        dec_deg=-35.5, mjd_start=MJD_START, mjd_mid=MJD_START + EXPOSURE / 172800,
        date_start="2024-01-02T02:24:00", gain_e_adu=GAIN, read_noise_e=NOISE_E,
        saturation_adu=65000.0, temperature_c=-20.0, site=";".join(map(str, SITE)),
        datasec=row["datasec"], biassec=row["biassec"],
    )  # fmt: skip
    assert set(cells) == set(COLUMNS)
    write_sheet(project / "config" / "frames.csv", [cells])
    return project


def write_tables(results: Path) -> None:
    for step in ("calibrate", "mask", "background"):
        path = results / "outcomes" / step / f"{BLOCK}.csv"
        io.write_outcomes(path, [Outcome(NAME, step, "ok", "", "", {})])
    table = Table({
        "frame_id": [NAME], "zp": [24.5], "zp_err": [0.01], "zp_scatter": [0.05],
        "depth_mag": [20.1], "fwhm_arcsec": [3.9], "fwhm_px": [4.7],
    })  # fmt: skip
    io.write_table(results / "photcal" / f"{BLOCK}.parquet", table, {})


@pytest.fixture
def project(built, tmp_path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "project"))


@pytest.fixture
def frame(project):
    return skymill.open(project / "results" / "calibrated" / BLOCK / f"{NAME}.fits")


def digests(folder: Path) -> dict[Path, str]:
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- opening --------------------------------------------------------------------------


def test_an_unknown_file_is_an_error_and_asks_nothing(tmp_path, monkeypatch):
    """E1: no question on the terminal, nothing written."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked a question"))
    with pytest.raises(SkymillError, match="does not exist"):
        skymill.open(tmp_path / "none.fits")
    (tmp_path / "a.txt").write_text("no frame")
    with pytest.raises(SkymillError, match="not a frame"):
        skymill.open(tmp_path / "a.txt")
    fits.PrimaryHDU(np.ones((9, 9), np.float32)).writeto(tmp_path / "b.fits")
    with pytest.raises(SkymillError, match="gain="):
        skymill.open(tmp_path / "b.fits").load()
    (tmp_path / "c.fits").write_bytes(b"")
    with pytest.raises(SkymillError, match="cannot be read"):
        skymill.open(tmp_path / "c.fits").load()
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "b.fits", "c.fits"}


def test_planes_are_native_float32_and_cannot_be_changed(frame):
    """E5, E44, E56: data and header, native byte order."""
    assert frame.load() is frame
    assert frame.data.dtype == np.float32
    assert frame.data.dtype.isnative
    assert (frame.naxis1, frame.naxis2) == (NX, NY)
    for plane in (frame.data, frame.error, frame.mask):
        with pytest.raises(ValueError, match="read-only"):
            plane[0, 0] = 1
    frame.header["OBJECT"] = "changed"
    assert frame.header["OBJECT"] == "NGC 1"


def test_state_is_told_and_memory_can_be_dropped(frame):
    """E10, E54: booleans, clear."""
    assert not frame.is_data_loaded
    assert frame.is_exists
    assert frame.is_saved
    frame.load()
    assert frame.is_data_loaded
    assert frame.is_header_loaded
    frame.clear()
    assert not frame.is_data_loaded
    assert np.isfinite(frame.data).any()


# --- facts ----------------------------------------------------------------------------


def test_geometry_follows_the_world_coordinates(frame):
    """E42, E51, E58, E61: centre 0-based, scale of both axes, field without rounding."""
    scale_x, scale_y = frame.pixelscale
    assert scale_x == pytest.approx(0.8, rel=1e-5)
    assert scale_y == pytest.approx(0.82, rel=1e-5)
    assert frame.fovx == pytest.approx(0.8 * NX / 3600, rel=1e-5)
    assert frame.fovy == pytest.approx(0.82 * NY / 3600, rel=1e-5)
    assert (frame.center["x"], frame.center["y"]) == ((NX - 1) / 2, (NY - 1) / 2)
    ra, dec = a_wcs().all_pix2world([[119.5, 99.5]], 0)[0]
    assert frame.center["ra"] == pytest.approx(ra, abs=1e-9)
    assert frame.center["dec"] == pytest.approx(dec, abs=1e-9)
    assert frame.wcs.has_celestial


def test_times_state_start_and_middle(frame):
    """E49, E55: exposure; start and mid are kept apart."""
    middle = MJD_START + EXPOSURE / 172800
    assert frame.exptime == frame.exptime_total == EXPOSURE
    assert frame.mjd_start == pytest.approx(MJD_START, abs=1e-9)
    assert frame.mjd == pytest.approx(middle, abs=1e-9)
    assert frame.jd == pytest.approx(middle + 2400000.5, abs=1e-8)
    assert frame.obsdate_start == "2024-01-02T02:24:00.000"
    assert frame.obsdate == "2024-01-02T02:25:00.000"


def test_altitude_is_computed_from_site_time_and_position(frame):
    """E34: agrees with the airmass that is computed independently, to its own formula."""
    from skymill.times import Site, airmass

    value = float(airmass(frame.mjd, frame.center["ra"], frame.center["dec"], Site(*SITE)))
    bent = frame.altitude + 244 / (165 + 47 * frame.altitude**1.1)
    assert value == pytest.approx(1 / np.sin(np.radians(bent)), rel=1e-4)
    assert 0 <= frame.azimuth < 360
    # a star south of the zenith from here, east or west of the meridian by its hour angle
    assert 90 < frame.azimuth < 270


def test_missing_facts_are_none(frame, project):
    """E34 to E62: what is missing is None, never an exception."""
    (project / "config" / "frames.csv").unlink()
    shutil.rmtree(project / "results" / "photcal")
    shutil.rmtree(project / "results" / "masters")
    info = frame.info
    for name in ("altitude", "azimuth", "zero_point", "zperr", "depth", "seeing", "ccdtemp",
                 "binning", "observatory"):  # fmt: skip
        assert info[name] is None, name
    assert frame.biaspath is None
    assert frame.masters["bias"]["name"] == "bias-1"


def test_instrument_facts(frame):
    """E35, E37, E40, E41, E45, E47, E48, E50, E52, E57."""
    assert "nickel" in frame.available_telescope_keys
    assert frame.binning == (2, 1)
    assert frame.telname == "Sim 1m"
    assert frame.ccdtemp == -20.0
    assert (frame.ra, frame.dec) == (83.9, -35.5)
    assert frame.egain == frame.gain == GAIN
    assert frame.read_noise == NOISE_E
    assert (frame.filter, frame.objname, frame.imgtype) == ("V", "NGC 1", "LIGHT")
    assert frame.ncombine == 1
    assert frame.saturation == pytest.approx((65000 - 1000 - 20) * GAIN, rel=1e-3)


def test_photometric_facts_keep_error_and_scatter_apart(frame):
    """E46: ZPERR is the statistical error."""
    assert (frame.zp, frame.zperr, frame.depth, frame.seeing) == (24.5, 0.01, 20.1, 3.9)
    assert frame.photcal["zp_scatter"] == 0.05


def test_masters_are_told_by_name_and_checksum(frame):
    """E36: relative paths, names, checksums."""
    assert frame.biaspath == Path("results/masters/bias-1.fits")
    assert frame.darkpath == Path("results/masters/dark-1.fits")
    assert frame.flatpath == Path("results/masters/flat-1.fits")
    plane = io.read_master(frame.masters["flat"]["path"]).sci.astype(">f4").tobytes()
    assert frame.masters["flat"]["sha256"] == hashlib.sha256(plane).hexdigest()


def test_status_comes_from_recorded_steps_only(frame):
    """E13: a header with CTYPE1 is not an astrometric solution."""
    status = frame.status
    assert status["BIASCOR"] and status["DARKCOR"] and status["FLATCOR"] and status["BKGSUB"]
    assert not status["ASTROMETRY"]
    assert not status["PHOTOMETRY"]
    assert frame.info["status"] == status


def test_info_is_one_record(frame):
    """E53: rebuilt from header, sheet and tables."""
    info = frame.info
    assert info["id"] == NAME
    assert info["egain"] == GAIN
    assert info["obsdate_start"].startswith("2024-01-02")
    assert len(info) > 35


def test_connected_files_are_listed_not_guessed(frame, project):
    """E43, E7, E60: files whose names merely begin alike are not the frame's."""
    other = project / "results" / "mask" / BLOCK / f"{NAME}.fits2.fits"
    other.write_bytes(b"x")
    saved = frame.calculate_bkg(save=True).path
    files = frame.connected_files
    assert set(files) == {"image", "mask", "background", "bkgmap"}
    assert files["bkgmap"] == saved == frame.savepath["bkgmap"]
    assert frame.remove_saved(skip=("bkgmap",)) == {}
    assert frame.remove_saved() == {saved: True}
    assert other.is_file()
    assert frame.path.is_file()


def test_folder_of_saved_products_can_be_set(frame, tmp_path):
    """E59: savedir."""
    frame.savedir = tmp_path / "mine"
    path = frame.calculate_bkgrms(save=True).path
    assert path == tmp_path / "mine" / f"{NAME}.bkgrms.fits"
    assert frame.rms is not None


# --- copies and headers ---------------------------------------------------------------


def test_header_changes_live_in_a_copy(frame):
    """E8, E11, E62: new keys are added, aliases go to the canonical name."""
    before = digests(frame.results)
    other = frame.update_header(ZP=25.0, EXPOSURE=60.0, objname="M 1")
    assert other.header["ZP"] == 25.0
    assert other.exptime == 60.0
    assert other.header["OBJECT"] == "M 1"
    assert "EXPOSURE" not in other.header
    assert not other.is_saved
    assert "ZP" not in frame.header
    assert frame.exptime == EXPOSURE
    assert other.copy().update_header(ZP=26.0).header["ZP"] == 26.0
    assert other.header["ZP"] == 25.0
    with pytest.raises(SkymillError, match="8 letters"):
        frame.update_header(much_too_long_a_name=1)
    assert digests(frame.results) == before


def test_a_frame_is_written_to_a_new_file_only(frame, tmp_path):
    """E6, E9: whole or not at all, never over another file."""
    path = frame.update_header(ZP=25.0).write(tmp_path / "out" / "new.fits")
    again = skymill.open(path)
    np.testing.assert_array_equal(again.data, frame.data)
    np.testing.assert_array_equal(again.mask, frame.mask)
    assert again.header["ZP"] == 25.0
    assert again.center["ra"] == pytest.approx(frame.center["ra"], abs=1e-10)
    with pytest.raises(SkymillError, match="exists"):
        frame.write(path)
    with pytest.raises(SkymillError, match="belong to its steps"):
        frame.write(frame.results / "calibrated" / BLOCK / "mine.fits")
    assert not list(tmp_path.rglob("*.part"))


# --- pictures -------------------------------------------------------------------------


@pytest.mark.parametrize("downsample", [1, 4, 7])
def test_a_star_lies_where_it_is_however_small_the_picture(frame, downsample):
    """E2: the brightest square of the picture holds the star; world coordinates too."""
    ax = frame.show(downsample=downsample)
    picture = ax.images[0]
    values = np.ma.filled(picture.get_array(), np.nan)
    values[5 // downsample, 5 // downsample] = np.nan  # the saturated pixel
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    x0, _, y0, _ = picture.get_extent()
    x = x0 + (column + 0.5) * downsample
    y = y0 + (row + 0.5) * downsample
    assert abs(x - STARS[0][0]) <= downsample / 2 + 1
    assert abs(y - STARS[0][1]) <= downsample / 2 + 1
    sky = a_wcs().all_pix2world([[STARS[0][0], STARS[0][1]]], 0)
    seen = ax.wcs.all_world2pix(sky, 0)[0]
    np.testing.assert_allclose(seen, STARS[0][:2], atol=1e-6)


def test_pictures_leave_blank_pixels_blank_and_open_no_window(frame, tmp_path, monkeypatch):
    """E2: Agg only; NaN is blank, not 0; both scales; 300 dpi file."""
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda *a, **k: pytest.fail("opened a window"))
    before = plt.get_fignums()
    blank = frame.data.copy()
    blank[50:60, 50:60] = np.nan
    from skymill.products.drawing import draw_plane

    drawn = np.ma.masked_invalid(draw_plane(blank).images[0].get_array())
    assert drawn.mask[50:60, 50:60].all()
    ax = frame.show("pixel", "viridis", "minmax", 2, (4, 3), "title", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert (ax.get_xlabel(), ax.get_title()) == ("x (px)", "title")
    figure = ax.figure
    assert frame.show(ax=ax, close_fig=True) is ax
    assert figure.axes == []
    assert plt.get_fignums() == before
    with pytest.raises(SkymillError, match="coord or pixel"):
        frame.show(coord_type="sky")


def outline(ax) -> np.ndarray:
    return np.stack(ax.lines[-1].get_data(), axis=1)


@pytest.mark.parametrize("downsample", [1, 3])
def test_an_aperture_is_drawn_in_arcsec_about_its_position(frame, downsample):
    """E4: radius by the local pixel scale, no shift by down-sampling, sky or pixel."""
    x, y, _ = STARS[0]
    sky = a_wcs().all_pix2world([[x, y]], 0)[0]
    for position in ((x, y, "pixel"), (*sky, "coord")):
        ax = frame.show_position(
            *position, radius_arcsec=7.2, zoom_radius_pixel=30, downsample=downsample
        )
        points = outline(ax)
        np.testing.assert_allclose((points.max(0) + points.min(0)) / 2, (x, y), atol=0.01)
        # pixels are 0.8 by 0.82 arcsec along x and y
        np.testing.assert_allclose(np.ptp(points, axis=0) / 2, (9.0, 7.2 / 0.82), rtol=1e-3)


def test_an_ellipse_follows_its_position_angle(frame):
    """E4: position angle from north through east."""
    x, y, _ = STARS[0]
    ax = frame.show_position(x, y, a_arcsec=20.0, b_arcsec=5.0, theta_deg=30.0)
    ra, dec = a_wcs().all_pix2world(outline(ax), 0).T
    ra0, dec0 = a_wcs().all_pix2world([[x, y]], 0)[0]
    east = (ra - ra0) * np.cos(np.radians(dec0)) * 3600
    north = (dec - dec0) * 3600
    far = np.argmax(np.hypot(east, north))
    assert np.hypot(east, north)[far] == pytest.approx(20, rel=1e-3)
    assert np.hypot(east, north).min() == pytest.approx(5, rel=2e-2)
    assert np.degrees(np.arctan2(east[far], north[far])) % 180 == pytest.approx(30, abs=0.5)


def test_positions_off_the_frame_are_refused(frame):
    with pytest.raises(SkymillError, match="outside"):
        frame.show_position(5000, 10)
    with pytest.raises(SkymillError, match="outside"):
        frame.show_position(263.8, 35.4, "coord")


def test_ds9_is_optional(frame, monkeypatch, tmp_path):
    """E3: a message where it is absent; else it runs beside the session."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SkymillError, match="not installed"):
        frame.run_ds9()
    fake = tmp_path / "ds9"
    fake.write_text(f"#!{sys.executable}\nimport sys; sys.exit(len(sys.argv))\n")
    fake.chmod(0o755)
    assert frame.run_ds9().wait(timeout=20) == 2


def test_mesh_of_the_background_is_drawn_over_the_frame(frame, tmp_path):
    """O15: one line per edge of the cells."""
    box = frame._background.box_size_px
    ax = frame.plot_background_mesh(save=tmp_path / "mesh.png")
    assert len(ax.lines) == -(-NX // box) + 1 + -(-NY // box) + 1
    assert (tmp_path / "mesh.png").is_file()


# --- masks ----------------------------------------------------------------------------


def test_invalid_pixels_are_masked_whatever_the_cause(frame, tmp_path):
    """E14: NaN, infinite, and connected zeros above the limit, also at the edge."""
    image = np.random.default_rng(1).normal(100, 3, (120, 130)).astype(np.float32)
    image[3, 4], image[60, 70] = np.nan, np.inf
    image[100:, 100:] = 0  # 600 px, touching the rim
    image[20, 20:23] = 0
    fits.PrimaryHDU(image).writeto(tmp_path / "a.fits")
    alone = skymill.open(tmp_path / "a.fits", gain=1.0)
    got = alone.calculate_invalidmask(threshold_invalid_connection=500).data
    assert got[3, 4] and got[60, 70] and got[110, 115]
    assert not got[20, 21]
    assert not alone.calculate_invalidmask(threshold_invalid_connection=700).data[110, 115]
    assert not frame.calculate_invalidmask().data.any()


def test_sources_are_masked_and_given_ones_added(frame):
    """E15: all stars, light outside small, an input mask is part of the result."""
    given = np.zeros((NY, NX), bool)
    given[:5, 100:110] = True
    got = frame.calculate_sourcemask(given)
    for x, y, _ in STARS:
        assert got.data[int(y), int(x)]
    assert got.data[:5, 100:110].all()
    assert star_light()[~got.data].max() < 3 * np.sqrt(SKY_E)
    assert got.fraction < 0.25
    wider = frame.calculate_sourcemask(mask_radius_factor=5.0)
    assert wider.fraction > frame.calculate_sourcemask(mask_radius_factor=2.0).fraction
    bright = frame.calculate_sourcemask(saturation_level=300.0)
    assert bright.fraction > frame.calculate_sourcemask().fraction


def test_disks_are_masked_on_the_sky_and_in_pixels(frame):
    """E16: the radius is in arcsec also at a pixel position."""
    x, y, _ = STARS[1]
    sky = a_wcs().all_pix2world([[x, y]], 0)[0]
    on_sky = frame.calculate_circularmask(*sky, 9.0).data
    at_pixel = frame.calculate_circularmask(x, y, 9.0, unit="pixel").data
    area = np.pi * 9**2 / (0.8 * 0.82)
    for mask in (on_sky, at_pixel):
        assert mask.sum() == pytest.approx(area, rel=0.03)
    assert (on_sky != at_pixel).sum() < 0.02 * area
    disk = frame.calculate_circularmask(x, y, unit="pixel", radius_px=10.0, target_mask=at_pixel)
    assert disk.data[int(y), int(x) + 10]
    assert disk.data[at_pixel].all()
    with pytest.raises(SkymillError, match="either"):
        frame.calculate_circularmask(x, y)


# --- sky ------------------------------------------------------------------------------


def test_background_is_measured_without_touching_anything(frame):
    """E20: the input and the files are as before; NaN only where there is no value."""
    before = digests(frame.results)
    planes = [plane.copy() for plane in (frame.data, frame.error, frame.mask)]
    given = np.zeros((NY, NX), bool)
    given[:20, :20] = True
    kept = given.copy()
    product = frame.calculate_bkg(target_srcmask=given, target_ivpmask=given)
    for made in (
        frame.calculate_bkgrms(given), frame.calculate_errormap(given),
        frame.calculate_bkgrms_from_propagation(), frame.calculate_errormap_from_propagation(),
        frame.calculate_sourcemask(given),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="read-only"):
            made.data[0, 0] = 1
    for plane, old in zip((frame.data, frame.error, frame.mask), planes, strict=True):
        np.testing.assert_array_equal(plane, old)
    np.testing.assert_array_equal(given, kept)
    assert digests(frame.results) == before
    np.testing.assert_array_equal(np.isnan(product.data), given)


@pytest.mark.parametrize("sizes", [{"box_size": 0}, {"filter_size": 2}, {"filter_size": 0}])
def test_cells_that_cannot_be_are_refused_with_a_sentence(frame, sizes):
    with pytest.raises(SkymillError, match=f"{next(iter(sizes))} is"):
        frame.calculate_bkg(**sizes)


def test_background_knows_how_it_was_made(frame):
    """E20, E39: cards of the map; one level if asked for."""
    product = frame.calculate_bkg(is_2D_bkg=False, box_size=50, filter_size=1)
    assert np.ptp(product.data) == 0
    header = product.header
    assert (header["BKGIS2D"], header["BKGFILT"], header["BKGTYPE"]) == (False, 1, "bkgmap")
    assert header["BKGVALU"] == pytest.approx(SKY_E, abs=3)
    plane = frame.calculate_bkg(box_size=50)
    assert plane.header["BKGBOX"] == 50
    assert plane.header["BKGIS2D"]
    # 48 000 px of 22 electron: 0.1; the mesh varies by its own error
    assert float(plane.data.mean()) == pytest.approx(SKY_E, abs=1.0)
    assert plane.unit == "electron"


def test_masks_are_used_together(frame):
    """E20: source and invalid mask both leave their pixels out."""
    left = np.zeros((NY, NX), bool)
    left[:, :60] = True
    right = np.zeros((NY, NX), bool)
    right[:, 180:] = True
    both = frame.calculate_bkg(left, right, is_2D_bkg=False).data[100, 100]
    image = frame.data[:, 60:180]
    middle = np.median(image[star_light()[:, 60:180] < 0.1])
    assert both == pytest.approx(middle, abs=1.0)


# --- error maps -----------------------------------------------------------------------


def true_error(frame, *, stars: bool) -> np.ndarray:
    """Theory, written out from the constants of the simulation, electron."""
    flat = io.read_master(frame.masters["flat"]["path"]).sci.astype(float)
    tau = EXPOSURE / DARK_S
    light = SKY_E + (star_light() if stars else 0)
    shared = ((1 - tau) * 1.2 * GAIN) ** 2 + (tau * 1.5 * GAIN) ** 2
    overscan = NOISE_E**2 / 30
    charge = light * flat + 30 * tau
    variance = (charge + NOISE_E**2 + shared + overscan) / flat**2
    return np.sqrt(variance + light**2 * 0.003**2 / flat**2)


def test_propagated_noise_of_the_sky_is_that_of_theory(frame):
    """E23: the photons of stars are not in it, powers of the flat are right."""
    got = frame.calculate_bkgrms_from_propagation(target_bkg=SKY_E)
    # the level of the overscan: one for the frame or one per row, both far below the rest
    np.testing.assert_allclose(got.data, true_error(frame, stars=False), rtol=5e-3)
    assert got.notes == ()
    measured = frame.calculate_bkgrms_from_propagation()
    np.testing.assert_allclose(measured.data, got.data, rtol=0.03)


def test_propagated_total_noise_is_the_error_plane_of_calibration(frame):
    """E24: the route from masters finds again what calibration propagated."""
    got = frame.calculate_errormap_from_propagation().data
    np.testing.assert_allclose(got, frame.frame.err, rtol=2e-4)


def test_without_its_masters_the_error_plane_is_used(frame, project):
    """E23, E24: from the frame alone, and it is said."""
    whole = frame.calculate_bkgrms_from_propagation(target_bkg=SKY_E)
    shutil.rmtree(project / "results" / "masters")
    alone = frame.calculate_bkgrms_from_propagation(target_bkg=SKY_E)
    assert "not at hand" in alone.notes[0]
    assert "not at hand" in str(alone.header["COMMENT"])
    middle = slice(100, 140)  # where the flat is near 1
    ratio = np.median(alone.data[:, middle] / whole.data[:, middle])
    assert ratio == pytest.approx(1, abs=0.03)
    total = frame.calculate_errormap_from_propagation()
    np.testing.assert_array_equal(total.data, frame.frame.err)


def test_masters_that_are_given_replace_those_of_the_header(frame, project):
    """E23: mflaterr is used as it is given; files, masters."""
    flat = project / "results" / "masters" / "flat-1.fits"
    base = frame.calculate_errormap_from_propagation(mflat=flat)
    more = frame.calculate_errormap_from_propagation(mflat=io.read_master(flat), mflaterr=0.05)
    f = io.read_master(flat).sci.astype(float)
    # the expectation follows the pixel itself: variance difference I^2 (0.05^2 - 0.003^2) / F^2
    added = more.data.astype(float) ** 2 - base.data.astype(float) ** 2
    np.testing.assert_allclose(added, frame.data**2 * (0.05**2 - 0.003**2) / f**2, rtol=1e-3)
    with pytest.raises(SkymillError, match="no master bias|not a master bias"):
        frame.calculate_errormap_from_propagation(mbias=frame.path)


def test_a_master_that_was_made_again_is_not_taken_for_the_old_one(frame, project):
    """E31, E36: identity is the checksum of the pixels."""
    path = project / "results" / "masters" / "flat-1.fits"
    old = io.read_master(path)
    io.write_master(path, old.replace(sci=old.sci * np.float32(1.01)), {})
    with pytest.raises(SkymillError, match="made again"):
        frame.calculate_errormap_from_propagation()
    assert frame.calculate_errormap_from_propagation(mflat=path).data.shape == (NY, NX)


def test_measured_noise_is_that_of_theory(frame):
    """E21, E22: scatter of the sky, and with the photons of a bright star."""
    theory = true_error(frame, stars=False)
    got = frame.calculate_bkgrms().data
    # 48 000 px over 12 cells: each cell to 0.014, interpolation of a slope besides
    assert np.median(got / theory) == pytest.approx(1, abs=0.02)
    total = frame.calculate_errormap().data
    core = star_light() > 500
    assert core.sum() > 15
    with_star = true_error(frame, stars=True)
    assert np.median(total[core] / with_star[core]) == pytest.approx(1, abs=0.03)
    assert np.median(total[core]) > 1.4 * np.median(got)
    quiet = star_light() < 1e-3
    assert np.median((total / got)[quiet]) == pytest.approx(1, abs=1e-4)
    assert np.mean((frame.calculate_errormap(every_pixel=True).data / got)[quiet]) > 1.005


def test_noise_ratio_of_a_true_instrument_file_is_one(frame):
    """E21, E23: 48 000 px fix it to 0.3 %; the cells' median to 2 %."""
    assert frame.noise_ratio() == pytest.approx(1, abs=0.03)


def test_weights_and_errors_turn_into_each_other(frame):
    """E25: no error is weight 0, weight 0 is no error."""
    rms = frame.calculate_bkgrms(target_ivpmask=np.eye(NY, NX, dtype=bool))
    weight = rms.to_weight()
    assert (weight.kind, weight.unit) == ("bkgweight", "electron-2")
    assert (weight.data[np.eye(NY, NX, dtype=bool)] == 0).all()
    np.testing.assert_allclose(weight.to_error().data, rms.data, rtol=1e-6)
    with pytest.raises(SkymillError, match="no weight map"):
        rms.to_error()
    plane = frame.weight
    assert (plane[frame.mask != 0] == 0).all()
    assert np.isfinite(plane).all()


# --- saving ---------------------------------------------------------------------------


def test_saved_products_are_found_again_and_belong_to_the_frame(frame, project):
    """E38: lazy products; None when there is none."""
    step = frame.background
    before = digests(project / "results")
    saved = {
        "invalid_mask": frame.calculate_invalidmask(save=True),
        "source_mask": frame.calculate_sourcemask(save=True),
        "background": frame.calculate_bkg(is_2D_bkg=False, save=True),
        "rms": frame.calculate_bkgrms(box_size=50, save=True),
        "error": frame.calculate_errormap(save=True),
    }
    other = skymill.open(frame.path)
    for name, product in saved.items():
        np.testing.assert_array_equal(getattr(other, name), product.data)
        assert product.path.parent == project / "results" / "user" / BLOCK
    assert not np.array_equal(other.background, step)
    after = digests(project / "results")
    assert {path: after[path] for path in before} == before
    assert not list((project / "results").rglob("*.part"))


def test_products_of_another_version_of_the_frame_are_left_out(frame, project):
    """E38: the check is by checksum, not by name or time."""
    frame.calculate_bkg(save=True)
    calibrated = io.read_frame(frame.path)
    sci = calibrated.sci.copy()
    sci[100, 100] += 1
    io.write_frame(frame.path, calibrated.replace(sci=sci), {})
    other = skymill.open(frame.path)
    with pytest.warns(UserWarning, match="another version"):
        assert other.background is None
    with pytest.warns(UserWarning, match="another version"):
        assert not skymill.open(frame.path).masked("COSMIC").any()


def test_products_are_saved_and_drawn_where_they_are_asked_for(frame, tmp_path):
    """E6, E19: a file of its own, named bits, never over another file."""
    path = tmp_path / "deep" / "mask.fits"
    product = frame.calculate_sourcemask(save=path, save_fig=tmp_path / "mask.png", visualize=True)
    assert product.path == path
    assert isinstance(product, ProductMask)
    assert product.figure is not None
    assert (tmp_path / "mask.png").is_file()
    with fits.open(path) as hdus:
        assert hdus["MASK"].header["MBIT14"] == "SOURCE"
        assert hdus[0].header["MASKTYPE"] == "srcmask"
        assert hdus[0].header["FRAMEID"] == NAME
        np.testing.assert_array_equal(hdus["MASK"].data != 0, product.data)
        assert "DATE" not in hdus[0].header
    first = path.read_bytes()
    with pytest.raises(SkymillError, match="exists"):
        product.write(path)
    product.write(path, overwrite=True)
    assert path.read_bytes() == first
    with pytest.raises(SkymillError, match="belong to its steps"):
        product.write(frame.results / "mask" / BLOCK / "other.fits")
    figure = frame.calculate_bkg(visualize=True).figure
    assert figure.axes
    assert isinstance(frame.calculate_bkg(), ProductMap)


def test_a_mask_of_another_size_is_refused(frame):
    with pytest.raises(SkymillError, match="target_srcmask has"):
        frame.calculate_bkg(np.zeros((5, 5), bool))
    with pytest.raises(SkymillError, match="target_bkg has"):
        frame.calculate_bkgrms_from_propagation(np.zeros((5, 5)))


# --- other files ----------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path) -> Path:
    rng = np.random.default_rng(8)
    image = rng.poisson(SKY_E + star_light()) + rng.normal(0, NOISE_E, (NY, NX))
    header = a_wcs().to_header()
    header["GAIN"] = 120  # a setting of the camera
    header["EXPTIME"] = 30.0
    header["DATE-OBS"] = "2024-01-02T02:24:00"
    fits.PrimaryHDU((image / GAIN).astype(np.float32), header).writeto(tmp_path / "bare.fits")
    return tmp_path / "bare.fits"


def test_an_image_alone_gets_its_error_from_its_scatter(bare):
    """E1, E22, E48: electron by the gain that is given, a card GAIN is not believed."""
    with pytest.raises(SkymillError, match="setting of the camera"):
        skymill.open(bare).load()
    one = skymill.open(bare, gain=GAIN, read_noise=NOISE_E, saturation=60_000.0)
    truth = np.sqrt(SKY_E + star_light() + NOISE_E**2)
    quiet = star_light() < 1e-3
    assert np.median(one.error[quiet] / truth[quiet]) == pytest.approx(1, abs=0.02)
    core = star_light() > 500
    assert np.median(one.error[core] / truth[core]) == pytest.approx(1, abs=0.03)
    assert one.gain == GAIN
    assert any("measured scatter" in text for text in one.assumptions)
    assert one.pixelscale == pytest.approx((0.8, 0.82), rel=1e-4)
    assert one.mjd == pytest.approx(MJD_START + 15 / 86400, abs=1e-8)
    assert one.noise_ratio() == pytest.approx(1, abs=0.03)
    total = one.calculate_errormap_from_propagation().data
    assert np.median(total / truth) == pytest.approx(1, abs=0.01)


def test_propagation_needs_the_read_noise(bare):
    with pytest.raises(SkymillError, match="read_noise="):
        skymill.open(bare, gain=GAIN).calculate_errormap_from_propagation()


def test_saved_products_of_an_image_alone_lie_beside_it(bare):
    one = skymill.open(bare, gain=GAIN)
    path = one.calculate_bkg(save=True).path
    assert path == bare.parent / "user" / "bare.bkgmap.fits"
    assert skymill.open(bare, gain=GAIN).background is not None


@pytest.mark.parametrize("pixels", ["constant", "blank", "saturated", "negative"])
def test_images_without_sky_are_opened_without_a_crash(tmp_path, pixels):
    rng = np.random.default_rng(2)
    image = {
        "constant": np.full((64, 80), 7.0),
        "blank": np.full((64, 80), np.nan),
        "saturated": np.full((64, 80), 65535.0),
        "negative": rng.normal(-300, 5, (64, 80)),
    }[pixels].astype(np.float32)
    fits.PrimaryHDU(image).writeto(tmp_path / "a.fits")
    one = skymill.open(tmp_path / "a.fits", gain=1.0, saturation=60_000.0)
    assert one.data.shape == (64, 80)
    if pixels == "negative":
        assert np.median(one.error) == pytest.approx(5, rel=0.1)
        assert np.median(one.calculate_bkg().data) == pytest.approx(-300, abs=1)
    else:
        assert not np.isfinite(one.error).any()
        assert (one.weight == 0).all()
        with pytest.raises(SkymillError, match="sky cannot be measured"):
            one.calculate_bkg()


@pytest.mark.parametrize("layout", ["planes", "flat"])
def test_files_of_the_calibrator_open_in_both_layouts(tmp_path, layout):
    """E1: a calibrated file outside a project."""
    rng = np.random.default_rng(4)
    raw = (1000 + rng.normal(100, 5, (100, 130))).astype(np.float32)
    raw[:, 110:] -= 100
    raw[3, 3] = 65535
    fits.PrimaryHDU(raw, fits.Header([("EXPTIME", 10.0)])).writeto(tmp_path / "raw.fits")
    calibrator = skymill.Calibrator(
        overscans="[111:130,1:100]", image_area="[1:110,1:100]", gain=1.5, read_noise=5.0,
        saturation=60_000.0, layout=layout,
    )  # fmt: skip
    calibrator(tmp_path / "raw.fits", tmp_path / "out.fits")
    one = skymill.open(tmp_path / "out.fits")
    assert one.data.shape == (100, 110)
    assert one.masked("SATURATED")[3, 3]
    assert one.assumptions == ()
    assert np.median(one.data) == pytest.approx(150, rel=0.05)
    truth = np.sqrt(150 + 25)
    assert np.median(one.error) == pytest.approx(truth, rel=0.03)
    assert one.calculate_bkg().unit == "electron"


def test_the_propagation_of_several_amplifiers_takes_each_ones_figures():
    """E24: gain and read noise by the amplifier's place."""
    from skymill.products.measure import electronics_of

    header = fits.Header()
    for n, (gain, noise) in enumerate(((1.5, 5.0), (3.0, 9.0)), 1):
        header[f"AMP{n}"], header[f"AMPSEC{n}"] = f"A{n}", f"[{n * 10 - 9}:{n * 10},1:8]"
        header[f"GAIN{n}"], header[f"RDN{n}"], header[f"OVERR{n}"] = gain, noise, 0.5
    header["GAIN"], header["RDNOISE"] = (2.0, ""), (7.0, "[electron] read noise, declared")
    found = electronics_of(header, (8, 20))
    sky = np.full((8, 20), 100.0, np.float32)
    error = error_maps.error_map_from_propagation(sky, found)
    np.testing.assert_allclose(error[:, :10] ** 2, 100 + 25 + (0.5 * 1.5) ** 2, rtol=1e-5)
    np.testing.assert_allclose(error[:, 10:] ** 2, 100 + 81 + (0.5 * 3) ** 2, rtol=1e-5)


def test_disks_and_areas_at_their_limits(bare):
    """E14, E16: several disks, off the frame, without world coordinates; corners do not connect."""
    from skymill.masks import invalid_mask
    from skymill.products.areas import disks

    several = disks((50, 60), [10, 40, 500], [10, 30, 500], [3, 4, 5], wcs=None, unit="pixel",
                    in_pixels=True)  # fmt: skip
    y, x = np.mgrid[:50, :60]
    expected = (np.hypot(x - 10, y - 10) <= 3) | (np.hypot(x - 40, y - 30) <= 4)
    np.testing.assert_array_equal(several, expected)
    with pytest.raises(SkymillError, match="without world coordinates"):
        disks((50, 60), 10, 10, 3, wcs=None, unit="pixel", in_pixels=False)
    with pytest.raises(SkymillError, match="positive"):
        disks((50, 60), 10, 10, -3, wcs=None, unit="pixel", in_pixels=True)
    away = skymill.open(bare, gain=GAIN).calculate_circularmask(263.8, 35.4, 9.0)
    assert not away.data.any()
    image = np.ones((40, 40), np.float32)
    image[:10, :10] = image[10:20, 10:20] = 0  # they touch at a corner
    assert not invalid_mask(image, 150).any()
    assert invalid_mask(image, 99).sum() == 200
