"""skymill.Calibrator: calibrating single files from Python (rows A1-A20 of the table)."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from astropy.io import fits

import skymill
from skymill import io
from skymill.calibrator import AreaError, GainError, MasterError, OutputError, ParameterError
from skymill.errors import FrameRejected
from skymill.frame import MaskBit, Master

NX, NY, STRIP = 64, 72, 20
OVERSCAN = {"xmin": 0, "xmax": NX, "ymin": 0, "ymax": STRIP}
IMAGE = {"xmin": 0, "xmax": NX, "ymin": STRIP, "ymax": STRIP + NY}


def pixels(seed: int = 1, signal: float = 800.0) -> np.ndarray:
    """A small frame whose first rows are overscan, as 4096 x 4116 detectors have it."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(1000, 4, (NY + STRIP, NX))
    raw[STRIP:] += signal
    return raw.round().astype(np.uint16)


def write_raw(path, array, **cards):
    header = fits.Header({"EXPTIME": 60.0, "FILTER": "R/c", "FNUM": 17, **cards})
    fits.PrimaryHDU(array, header=header).writeto(path)
    return path


def master(value, err, unit, **cards):
    shape = (NY, NX)
    return Master(
        np.full(shape, value, np.float32), np.full(shape, err, np.float32),
        np.zeros(shape, np.uint16), fits.Header(cards), unit=unit,
        nused=np.full(shape, 9, np.uint16),
    )  # fmt: skip


@pytest.fixture
def night(tmp_path):
    io.write_master(tmp_path / "bias.fits", master(10, 0.5, "adu", MASTERID="bias-1"), {})
    io.write_master(tmp_path / "dark.fits", master(40, 0.8, "adu", EXPTIME=120.0), {})
    io.write_master(tmp_path / "flat.fits", master(0.5, 0.005, "", MASTERID="flat-1"), {})
    write_raw(tmp_path / "a.fits", pixels(1))
    write_raw(tmp_path / "b.fits", pixels(2))
    return tmp_path


@pytest.fixture
def calibrator(night):
    return skymill.Calibrator(
        overscans=[OVERSCAN], overscan_method="median", image_area=IMAGE, gain=16.0,
        read_noise=64.0, saturation=60_000.0, master_bias=night / "bias.fits",
    )  # fmt: skip


def test_the_whole_workflow_of_a_session(calibrator, night):
    """A12: bias at construction, dark later, gain 16 and then 8 for the second file."""
    calibrator.set_masters(bias=night / "bias.fits", dark=night / "dark.fits")
    first = calibrator(raw=night / "a.fits", calibrated=night / "out" / "a.fits")
    second = calibrator(raw=night / "b.fits", calibrated=night / "out" / "b.fits", gain=8.0)
    tau = 0.5
    for result, gain, name in ((first, 16.0, "a"), (second, 8.0, "b")):
        frame = io.read_frame(night / "out" / f"{name}.fits")
        raw = fits.getdata(night / f"{name}.fits").astype(float)
        level = np.median(raw[:STRIP])
        expected = gain * (raw[STRIP:] - level - (1 - tau) * 10 - tau * 40)
        np.testing.assert_allclose(frame.sci, expected, rtol=2e-6, atol=1e-3)
        assert frame.header["GAIN"] == gain
        assert frame.header["DARKTAU"] == tau
        assert result.value == night / "out" / f"{name}.fits"
        assert result.flags == ()


def test_an_override_holds_for_one_call_only(calibrator, night):
    """A1, A6."""
    calibrator(night / "a.fits", night / "one.fits", gain=8.0, master_bias=None)
    assert calibrator.gain == 16.0
    assert calibrator.master_bias == night / "bias.fits"
    calibrator(night / "a.fits", night / "two.fits")
    one, two = (io.read_frame(night / f"{name}.fits") for name in ("one", "two"))
    assert (one.header["GAIN"], two.header["GAIN"]) == (8.0, 16.0)
    assert (one.header["BIASID"], two.header["BIASID"]) == ("", "bias-1")


def test_attributes_are_replaced_and_misspelt_ones_are_not(calibrator):
    """A1."""
    calibrator.gain = 3
    assert calibrator.gain == 3.0
    with pytest.raises(AttributeError, match="did you mean 'overscans'"):
        calibrator.overscan = []
    with pytest.raises(ParameterError, match="no parameter 'gian'; did you mean 'gain'"):
        skymill.Calibrator(gian=1.0)
    with pytest.raises(AttributeError):
        calibrator.nothing_like_it  # noqa: B018
    assert "gain=3.0" in repr(calibrator)


def test_both_forms_of_areas_are_the_same(night):
    """A2, A7: 0-based half-open boxes and FITS sections; common pixels count once."""
    options = {"gain": 2.0, "read_noise": 8.0, "overscan_method": "mean"}
    boxes = skymill.Calibrator(
        overscans=[OVERSCAN, {**OVERSCAN, "ymin": 10}], image_area=IMAGE, **options
    )
    sections = skymill.Calibrator(overscans="[1:64,1:20]", image_area="[1:64,21:92]", **options)
    boxes(night / "a.fits", night / "boxes.fits")
    sections(night / "a.fits", night / "sections.fits")
    one, two = (io.read_frame(night / f"{name}.fits") for name in ("boxes", "sections"))
    np.testing.assert_array_equal(one.sci, two.sci)
    assert one.header["TRIMSEC"] == "[1:64,21:92]"


def halves(image, overscans):
    """An overscan method: the mean of the first area."""
    box = overscans[0]
    return image - image[box["ymin"] : box["ymax"], box["xmin"] : box["xmax"]].mean()


class Halves:
    """The same as an object that knows its variance."""

    def __call__(self, *, raw_image, overscans, image_area, gain):
        box = overscans[0]
        part = raw_image[box["ymin"] : box["ymax"], box["xmin"] : box["xmax"]]
        return {"correction": part.mean(), "variance": part.var() / part.size}

    def document_in_fits_header(self, header):
        header["OVMINE"] = ("halves", "a method of the user")


def test_user_function_object_and_built_in_method_agree(calibrator, night):
    """A3, A10."""
    for name, method in (("function", halves), ("object", Halves()), ("mean", "mean")):
        calibrator(night / "a.fits", night / f"{name}.fits", overscan_method=method)
    one, two, three = (
        io.read_frame(night / f"{name}.fits") for name in ("function", "object", "mean")
    )
    np.testing.assert_allclose(one.sci, two.sci, atol=2e-3)
    np.testing.assert_allclose(one.sci, three.sci, atol=2e-3)
    assert two.header["OVMINE"] == "halves"


def test_flags_of_every_mask_file_reach_the_output(calibrator, night):
    """A5."""
    for name, (y, x) in (("m1", (3, 4)), ("m2", (5, 6))):
        plane = np.zeros((NY, NX), np.int16)
        plane[y, x] = 1
        fits.PrimaryHDU(plane).writeto(night / f"{name}.fits")
    whole = np.zeros((NY + STRIP, NX), np.uint8)  # of the raw image
    whole[STRIP + 7, 8] = 3
    header = fits.Header({"IMAGETYP": "mask"})
    fits.PrimaryHDU(whole, header=header).writeto(night / "m3.fits")
    calibrator.set_masters(
        bias=night / "bias.fits", masks=[night / f"m{i}.fits" for i in (1, 2, 3)]
    )
    calibrator(night / "a.fits", night / "out.fits")
    mask = io.read_frame(night / "out.fits").mask
    assert mask[3, 4] == mask[5, 6] == MaskBit.USER
    assert mask[7, 8] == MaskBit.USER | MaskBit.HOT
    assert np.count_nonzero(mask) == 3


def test_output_names_are_made_of_header_values_and_stay_in_their_folder(calibrator, night):
    """A8."""
    result = calibrator(night / "a.fits", str(night / "{RAWFNAME}_{FILTER}_{FNUM:04d}.fits"))
    assert result.value.parent == night
    assert result.value.name.startswith("a_R_c")
    assert result.value.name.endswith("_0017.fits")
    write_raw(night / "evil.fits", pixels(4), OBJECT="../../etc/x")
    result = calibrator(night / "evil.fits", str(night / "{OBJECT}.fits"))
    assert result.value.parent == night
    with pytest.raises(OutputError, match="no value 'NOTTHERE'"):
        calibrator(night / "a.fits", str(night / "{NOTTHERE}.fits"))
    with pytest.raises(OutputError, match="is the raw file"):
        calibrator(night / "a.fits", night / "a.fits")


@pytest.mark.parametrize(
    ("parameters", "error", "text"),
    [
        ({"image_area": {**IMAGE, "ymin": 90, "ymax": 20}}, AreaError, "min < max"),
        ({"overscans": [{"xmin": 0, "xmax": 4}]}, AreaError, "ymin"),
        ({"overscans": [17]}, AreaError, "xmin, xmax"),
        ({"gain": 0.0}, GainError, "gain is 0.0"),
        ({"gain": float("nan")}, GainError, "gain is nan"),
        ({"gain": "high"}, GainError, "gain is 'high'"),
        ({"read_noise": -1.0}, GainError, "read_noise is -1.0"),
        ({"master_bias": 7}, MasterError, "master_bias is int"),
        ({"saturation": float("inf")}, ParameterError, "saturation is inf"),
        ({"layout": "round"}, ParameterError, "layout is 'round'"),
        ({"layout": "flat", "compression": "lossless"}, ParameterError, "not compressed"),
        ({"overscan_method": 5}, ParameterError, "overscan_method is int"),
        ({"overscan_method": "medain"}, ParameterError, "overscan_method is 'medain'"),
        ({"overscan_options": {"ordr": 2}}, ParameterError, "has no 'ordr'"),
        ({"image_area": "[64:1,1:64]"}, AreaError, "x1 <= x2"),
        ({"overscans": ["1:4,1:64"]}, AreaError, "overscans is '1:4,1:64'"),
    ],
)
def test_wrong_parameters_are_refused_when_they_are_set(parameters, error, text):
    """A9."""
    with pytest.raises(error, match=text) as caught:
        skymill.Calibrator(**parameters)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"image_area": {**IMAGE, "ymax": 900}}, "BAD_SECTION"),
        ({"overscans": [{**OVERSCAN, "xmax": 900}]}, "BAD_SECTION"),
        ({"image_area": {**IMAGE, "ymin": 10}}, "BAD_SECTION"),  # shares pixels
        ({"image_area": {**IMAGE, "ymin": 30}}, "WRONG_SIZE"),  # of the master
        ({"hdu": 3}, "NO_IMAGE"),
        ({"read_noise": None}, "NO_READ_NOISE"),
        ({"gain": None}, "NO_GAIN"),
    ],
)
def test_parameters_that_do_not_fit_the_frame_are_refused_with_a_code(
    calibrator, night, parameters, code
):
    """A9. Also A7."""
    with pytest.raises(FrameRejected) as caught:
        calibrator(night / "a.fits", night / "out.fits", **parameters)
    assert caught.value.code == code
    assert not (night / "out.fits").exists()


def test_files_that_are_no_masters_are_refused(calibrator, night):
    """A9."""
    with pytest.raises(MasterError, match=r"a\.fits is not a master bias"):
        calibrator(night / "a.fits", night / "out.fits", master_bias=night / "a.fits")
    with pytest.raises(MasterError, match="does not exist"):
        calibrator(night / "a.fits", night / "out.fits", master_bias=night / "none.fits")
    with pytest.raises(MasterError, match="no card EXPTIME"):
        calibrator(night / "a.fits", night / "out.fits", master_dark=night / "bias.fits")


def test_gain_of_the_header_is_used_but_a_camera_setting_is_not(calibrator, night):
    """A6."""
    write_raw(night / "g.fits", pixels(3), GAIN=1.5, RDNOISE=6.0)
    calibrator(night / "g.fits", night / "out.fits", gain=None, read_noise=None)
    header = io.read_frame(night / "out.fits").header
    assert (header["GAIN"], header["RDNOISE"]) == (1.5, 6.0)
    write_raw(night / "s.fits", pixels(3), GAIN=120, SWCREATE="N.I.N.A. 2.1", RDNOISE=6.0)
    with pytest.raises(FrameRejected, match="NO_GAIN"):
        calibrator(night / "s.fits", night / "no.fits", gain=None)
    write_raw(night / "t.fits", pixels(3), GAIN=120, RDNOISE=6.0)
    with pytest.raises(FrameRejected, match="NO_GAIN"):
        calibrator(night / "t.fits", night / "no.fits", gain=None)


def test_a_flat_is_calibrated_without_a_flat(calibrator, night):
    """A4: None is not applied, and nothing complains."""
    result = calibrator(night / "a.fits", night / "out.fits", master_flat=None)
    assert result.flags == ()
    header = io.read_frame(night / "out.fits").header
    assert header["FLATID"] == ""
    assert "FLATSHA" not in header
    assert header["CALSTAT"] == "OB"


def test_header_tells_masters_with_checksums_and_all_parameters(calibrator, night):
    """A4, A18, E31: names and SHA-256 of the masters, no folder of this computer."""
    calibrator.set_masters(*(night / f"{k}.fits" for k in ("bias", "dark", "flat")))
    calibrator(night / "a.fits", night / "out.fits")
    header = io.read_frame(night / "out.fits").header
    assert (header["BIASID"], header["DARKID"], header["FLATID"]) == ("bias-1", "dark", "flat-1")
    for kind in ("bias", "dark", "flat"):
        plane = fits.getdata(night / f"{kind}.fits", "SCI")
        digest = hashlib.sha256(plane.astype(">f4").tobytes()).hexdigest()
        assert header[f"{kind.upper()}SHA"] == digest
    assert header["RAWFNAME"] == "a.fits"
    assert header["CALSTAT"] == "OBDF"
    text = header.tostring()
    assert str(night) not in text
    history = "\n".join(header["HISTORY"])
    assert "image_area = [1:64,21:92]" in history
    assert "gain = 16.0" in history


def test_the_product_opens_as_a_frame(calibrator, night):
    calibrator(night / "a.fits", night / "out.fits")
    seen = skymill.open(night / "out.fits")
    assert seen.data.shape == (NY, NX)
    assert seen.catalog is None
    assert seen.background is None
    assert seen.outcomes == []
    with fits.open(night / "out.fits", checksum=True) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI", "ERR", "MASK"]


def test_flat_layout_has_image_error_and_mask_and_only_finite_numbers(calibrator, night):
    """A11, A16."""
    raw = pixels(5)
    raw[STRIP + 2, 3] = 65_535
    write_raw(night / "c.fits", raw)
    flat = master(0.5, 0.005, "")
    value = flat.sci.copy()
    value[4, 4] = 0  # a dead flat pixel masks, it does not stop the frame
    calibrator(
        night / "c.fits", night / "flat_out.fits", layout="flat",
        master_flat=flat.replace(sci=value),
    )  # fmt: skip
    with fits.open(night / "flat_out.fits", checksum=True) as hdus:
        image, error, mask = hdus
        assert image.data.dtype == error.data.dtype == np.dtype(">f4")
        assert mask.data.dtype == np.uint8
        assert (error.header["IMAGETYP"], mask.header["IMAGETYP"]) == ("error", "mask")
        for plane in (image, error):
            assert np.isfinite(plane.data).all()
        assert (error.data > 0).all()
        assert mask.data[2, 3] == 16
        assert mask.data[4, 4] == 1
        assert np.count_nonzero(mask.data) == 2


def test_products_are_not_calibrated_again(calibrator, night):
    """E31: a second pass is refused."""
    calibrator(night / "a.fits", night / "out.fits")
    with pytest.raises(FrameRejected, match="ALREADY_CALIBRATED"):
        calibrator(night / "out.fits", night / "again.fits", hdu=1, image_area=None, overscans=())
    write_raw(night / "other.fits", pixels(6), CALSTAT="BDF")
    with pytest.raises(FrameRejected, match="CALSTAT = 'BDF'"):
        calibrator(night / "other.fits", night / "again.fits")


def test_same_call_gives_the_same_bytes(calibrator, night):
    for name in ("one", "two"):
        calibrator(night / "a.fits", night / f"{name}.fits")
    assert (night / "one.fits").read_bytes() == (night / "two.fits").read_bytes()


def test_a_changed_master_file_is_read_again(calibrator, night):
    calibrator(night / "a.fits", night / "one.fits")
    io.write_master(night / "bias.fits", master(30, 0.5, "adu", MASTERID="bias-2"), {})
    calibrator(night / "a.fits", night / "two.fits")
    one, two = (io.read_frame(night / f"{name}.fits") for name in ("one", "two"))
    np.testing.assert_allclose(one.sci - two.sci, 16 * 20, rtol=1e-4)
