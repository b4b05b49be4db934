"""The parts of the Reducer that need no workflow, and its reading of folders."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from skymill.errors import ConfigError, SkymillError
from skymill.measure import PhotFlag
from skymill.reducer import AperturePhotometer, OptimalPhotometer, PSFPhotometer, Reducer
from skymill.reducer.frames import LoadedFrame, _fill, circular_mean, matched, set_psf_params
from skymill.reducer.photometers import label_of, workflow_settings
from skymill.reducer.workflow import merged


class BrightestPixelPhotometer:
    forced = False

    def compute(self, image, error, mask, coordinates, psf):
        return {}


@pytest.mark.parametrize(
    ("photometer", "label"),
    [
        (AperturePhotometer(), "forced_aperture_annulus"),
        (AperturePhotometer(local_background=None), "forced_aperture"),
        (AperturePhotometer(forced=False), "aperture_annulus"),
        (AperturePhotometer(match_sources=True, local_background=None), "aperture"),
        (OptimalPhotometer(local_background=None), "forced_optimal"),
        (PSFPhotometer(), "forced_psf_annulus"),
        (BrightestPixelPhotometer(), "brightest_pixel"),
    ],
)
def test_o41_labels_say_what_was_measured(photometer, label):
    """O41: snake case without photometer, prefix forced_, suffix _annulus."""
    assert label_of(photometer) == label


def test_o36_o37_circles_optimal_and_psf_are_measured_by_the_workflow():
    """O36, O37: total fluxes by the steps; ellipses and matched detections beside them."""
    settings, column = workflow_settings(AperturePhotometer(radius_fwhm=1.0))
    assert settings["apertures_fwhm"][settings["main_aperture"]] == 1.0
    assert column == "flux"
    assert workflow_settings(OptimalPhotometer())[1] == "flux_opt"
    assert workflow_settings(PSFPhotometer(local_background=None)) == (
        {"background": "mesh", "methods": ["psf"]}, "flux_psf",
    )  # fmt: skip
    for other in (
        AperturePhotometer(elliptical=True), PSFPhotometer(forced=False),
        BrightestPixelPhotometer(),
    ):  # fmt: skip
        assert workflow_settings(other) is None


def test_impossible_photometers_are_refused():
    with pytest.raises(ConfigError, match="local_background"):
        AperturePhotometer(local_background=(5.0, 4.0))
    with pytest.raises(ConfigError, match="semimajor_px"):
        AperturePhotometer(semiminor_px=2.0)


def test_o26_angles_of_axes_have_a_circular_mean():
    """O26: the mean of 89 and -89 degree is 90, not 0."""
    assert abs(circular_mean([89.0, -89.0])) == pytest.approx(90.0)
    assert circular_mean([10.0, 30.0]) == pytest.approx(20.0)
    assert np.isnan(circular_mean([0.0, 90.0]))
    assert np.isnan(circular_mean([]))


def test_o25_orientation_is_in_degree_and_the_apertures_use_it_so():
    """O25, O26: e = 0.5 at 40 degree; the ellipse of the photometer lies along it."""
    n = 9
    catalog = Table({"a": np.full(n, 3.0), "b": np.full(n, 1.5), "flags": np.zeros(n, int)})
    catalog["theta"] = np.deg2rad(40.0 + 180 * (np.arange(n) % 2))
    psf = set_psf_params(np.median, catalog, scale_arcsec=0.5)
    assert psf["orientation"] == pytest.approx(40.0)
    assert psf["semimajor_sigma_arcsec"] == pytest.approx(1.5)
    a, b, angle = AperturePhotometer(elliptical=True, radius_fwhm=1.0).axes(psf)
    assert angle == pytest.approx(40.0)
    assert a / b == pytest.approx(2.0)
    assert a * b == pytest.approx(psf["fwhm_px"] ** 2)
    yy, xx = np.mgrid[:101, :101] - 50.0
    turn = np.deg2rad(40.0)
    u, v = xx * np.cos(turn) + yy * np.sin(turn), yy * np.cos(turn) - xx * np.sin(turn)
    image = (1e4 / (2 * np.pi * 4.5) * np.exp(-0.5 * ((u / 3) ** 2 + (v / 1.5) ** 2))).astype("f4")
    planes = (
        image,
        np.ones_like(image),
        np.zeros(image.shape, np.uint16),
        np.array([[50.0, 50.0]]),
    )
    own = AperturePhotometer(elliptical=True, radius_fwhm=0.5, local_background=None)
    right = own.compute(*planes, psf | {"level_err": 0.0})["flux"][0]
    # An ellipse of the same shape holds 1 - exp(-r**2/2) of a Gaussian, r in sigma; pixels that
    # the outline divides are not flat, which costs 1.4 per cent here. Across it is 0.38.
    assert right == pytest.approx(1e4 * (1 - np.exp(-0.5 * (2.3548 / 2) ** 2)), rel=0.025)


def test_o37_optimal_flux_is_total_not_a_peak():
    """O37: light of a Gaussian of 5000 e, not its amplitude of 221 e."""
    random = np.random.default_rng(2)
    yy, xx = np.mgrid[:160, :160]
    image = random.normal(0, 3, (160, 160))
    places = np.array([[40.2, 40.7], [120.1, 40.0], [40.0, 119.6], [120.4, 120.2]])
    for x, y in places:
        image += 5000 / (2 * np.pi * 3.6) * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 7.2)
    psf = {"fwhm_px": 2.3548 * np.sqrt(3.6), "semimajor_sigma": np.sqrt(3.6),
           "semiminor_sigma": np.sqrt(3.6), "orientation": 0.0, "level_err": 0.0}  # fmt: skip
    planes = image.astype("f4"), np.full(image.shape, 3.0, "f4"), np.zeros(image.shape, np.uint16)
    for photometer in (OptimalPhotometer(), PSFPhotometer()):
        found = photometer.compute(*planes, places, psf)
        error = float(np.mean(found["flux_err"])) / 2
        assert found["flux"].mean() == pytest.approx(5000, abs=4 * error + 50)  # and 1 % of shape
        assert 10 < found["flux_err"].mean() < 40


def test_o39_sources_without_a_detection_are_rows_with_a_flag():
    """O39, O23: matching within the tolerance; none found is no crash."""
    sources = Table({"x": [10.0, 50.0], "y": [10.0, 50.0]})
    frame = LoadedFrame("f", None, None, None, None, None, sources, {})
    psf = {"semimajor_sigma": 1.0, "semiminor_sigma": 1.0}
    x, y = np.array([11.0, 55.0, np.nan]), np.array([10.0, 50.0, 1.0])
    fx, fy = matched(frame, x, y, psf, 3.0)
    assert (fx[0], fy[0]) == (10.0, 10.0)
    assert np.isnan(fx[1:]).all()
    nothing = LoadedFrame("f", None, None, None, None, None, sources[:0], {})
    assert np.isnan(matched(nothing, x, y, psf, 3.0)[0]).all()
    table = Table({"x": x})
    _fill(table, {"flux": [5.0, None, np.nan], "flux_err": [1.0, None, 1.0]}, AperturePhotometer())
    assert (np.asarray(table["flags"]) & int(PhotFlag.NO_FLUX)).tolist() == [
        0, int(PhotFlag.NO_FLUX), int(PhotFlag.NO_FLUX),
    ]  # fmt: skip


def test_a_photometer_without_fluxes_is_named():
    """O22: what compute must return is said when it does not."""
    table = Table({"x": np.zeros(2)})
    with pytest.raises(SkymillError, match=r"BrightestPixelPhotometer.compute must return flux"):
        _fill(table, {}, BrightestPixelPhotometer())
    with pytest.raises(SkymillError, match="shape"):
        _fill(table, {"flux": [1.0], "flux_err": [1.0]}, BrightestPixelPhotometer())


def test_settings_are_merged_and_taken_out():
    tree = {"raw": "r", "astrometry": {"transform": "affine", "max_rotation_deg": 3}}
    change = {"astrometry": {"max_rotation_deg": None}, "catalog": {"max_sources": 5}}
    assert merged(tree, change) == {
        "raw": "r", "astrometry": {"transform": "affine"}, "catalog": {"max_sources": 5},
    }  # fmt: skip


def raw_frame(camera, filter_, second, seed):
    header = fits.Header()
    for key, value in {
        "IMAGETYP": "Light", "OBJECT": "star", "FILTER": filter_, "EXPTIME": 5.0,
        "DATE-OBS": f"2026-03-15T22:00:{second:02d}", "INSTRUME": camera, "GAIN": 1.0,
        "RDNOISE": 5.0, "SATURATE": 60000,
    }.items():  # fmt: skip
        header[key] = value
    data = np.random.default_rng(seed).poisson(500, (64, 72)).astype(np.uint16)
    return data, header


def test_o8_o9_several_cameras_and_filters_are_told_apart(tmp_path):
    """O8, O9: keys are camera:filter, frames in order of time, other files have a reason."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for number, (camera, name) in enumerate([("one", "g"), ("two", "r"), ("two", "i")] * 2):
        data, header = raw_frame(camera, name, 50 - 7 * number, number)
        fits.PrimaryHDU(data, header).writeto(raw / f"{camera}_{name}_{number}.fits")
    (raw / "broken.fits").write_bytes(b"SIMPLE  = nothing")
    reducer = Reducer(raw, tmp_path / "out", verbose=False)
    assert list(reducer.camera_files) == ["one:g", "two:i", "two:r"]
    frames = reducer.camera_files["two:r"]
    assert [reducer.paths[f].name for f in frames] == ["two_r_4.fits", "two_r_1.fits"]
    assert list(reducer.rejected_files) == ["broken.fits"]
    assert reducer.transforms == {}
    assert reducer.catalogs == {}
    with pytest.raises(SkymillError, match="create_catalogs first"):
        reducer.photometry(AperturePhotometer())


def test_extensions_are_frames_of_their_own_cameras(tmp_path):
    """O2, O9: every extension is a frame; single files may be given instead of a folder."""
    instrument = tmp_path / "twin.yaml"
    instrument.write_text(
        "name: twin\nhdu: each\n"
        "gain: {keywords: [GAIN], unit: electron/adu}\n"
        "read_noise: {keywords: [RDNOISE], unit: electron}\n"
        "saturation: {keywords: [SATURATE], unit: adu}\n"
        "kinds: [{kind: light, when: {IMAGETYP: Light}}]\n"
        "object: {keywords: [OBJECT]}\nfilter: {keywords: [FILTER]}\n"
        "exposure: {keywords: [EXPTIME], unit: s}\n"
        "time: {date: [DATE-OBS], scale: {constant: UTC}}\ndark: not_needed\n"
    )
    files = []
    for k in range(2):
        parts = [fits.PrimaryHDU(header=raw_frame("twin", "g", 10 * k, k)[1])]
        for name in ("EAST", "WEST"):
            data, header = raw_frame("twin", "g", 10 * k, 10 + k)
            parts.append(fits.ImageHDU(data, header, name=name))
        files.append(tmp_path / f"twin_{k}.fits")
        fits.HDUList(parts).writeto(files[-1])
    reducer = Reducer(files, tmp_path / "out", str(instrument), verbose=False)
    assert list(reducer.camera_files) == ["EAST:g", "WEST:g"]
    assert len(reducer.camera_files["EAST:g"]) == 2


def test_o11_other_parameters_change_settings_and_other_files_are_refused(tmp_path):
    """O11: a later run with other parameters is no error; another folder of files is."""
    raw = tmp_path / "raw"
    raw.mkdir()
    data, header = raw_frame("one", "g", 0, 1)
    fits.PrimaryHDU(data, header).writeto(raw / "a.fits")
    Reducer(raw, tmp_path / "out", verbose=False)
    again = Reducer(raw, tmp_path / "out", threshold=7.0, align_only=True, verbose=False)
    assert again.workflow.project.settings.sources.threshold_sigma == 7.0
    assert again.workflow.project.settings.astrometry.mode == "align_only"
    with pytest.raises(ConfigError, match="max_rotation"):
        again.workflow.change({"astrometry": {"max_rotation_deg": 300}})
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ConfigError, match="another folder"):
        Reducer(other, tmp_path / "out", verbose=False)
    with pytest.raises(ConfigError, match="is no light frame"):
        again.update_unaligned_files(["nothing.fits"])
    again.update_unaligned_files(["a.fits"], "clouds")
    later = Reducer(raw, tmp_path / "out", verbose=False)
    assert list(later.unaligned_files.values()) == ["clouds"]
