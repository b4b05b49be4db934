"""Frames on their way into a stack: lost frames, levels, few stars, checks, memory."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

from skymill import io
from skymill.errors import FrameRejected
from skymill.frame import Frame
from skymill.steps.stack_background import solve_levels
from skymill.steps.stack_inputs import StackRows, steady_throughputs
from tests.unit.test_stack import SHAPE, SIGMA, codes, linear, member, noise, run


def lost(item, code, after=0):
    calls = []

    def read(y0, y1):
        calls.append(y0)
        if len(calls) > after:
            raise FrameRejected(code, "broken")
        frame = item.load().frame
        return StackRows(frame.sci[y0:y1], frame.err[y0:y1], frame.mask[y0:y1])

    return replace(item, read=read, background=lambda: item.load().background)


@pytest.mark.parametrize("after", [0, 1])
def test_corrupt_blank_and_far_frames_are_named_and_do_no_harm(after):
    good = [member(f"g{i}", noise(i)) for i in range(4)]
    corrupt = lost(member("corrupt", noise(8)), "CHECKSUM", after)
    blank = member("blank", np.zeros(SHAPE), err=0.0)
    blank = replace(blank, load=lambda: replace_err(member("blank", np.zeros(SHAPE)).load()))
    far = member("far", noise(9), wcs=linear(1e6, 0))
    result = run([*good, corrupt, blank, far], memory_mb=0.3)
    found = codes(result)
    assert found["corrupt"] == "CHECKSUM" and found["blank"] == "CONSTANT"
    assert found["far"] == "WCS_OUTLIER"
    alone = run(good)
    np.testing.assert_array_equal(result.value.frame.sci, alone.value.frame.sci)
    np.testing.assert_array_equal(result.value.frame.err, alone.value.frame.err)


def replace_err(pixels):
    background = replace(pixels.background, rms=np.zeros_like(pixels.background.rms))
    return replace(pixels, background=background)


def test_reader_gives_rows_and_notices_a_flipped_bit(tmp_path):
    rng = np.random.default_rng(1)
    mask = (rng.random(SHAPE) < 0.05).astype(np.uint16) * 512
    frame = Frame(rng.normal(0, 1, SHAPE), np.full(SHAPE, 2.0), mask, fits.Header(), linear())
    path, own = tmp_path / "f.fits", tmp_path / "m.fits"
    io.write_frame(path, frame, {})
    io.write_mask(own, mask, frame, {})
    reader = io.RowReader(path, own)
    for y0, y1 in ((0, 7), (33, 70), (0, 70)):
        sci, err, bits = reader.rows(y0, y1)
        np.testing.assert_array_equal(sci, frame.sci[y0:y1])
        np.testing.assert_array_equal(err, frame.err[y0:y1])
        np.testing.assert_array_equal(bits, mask[y0:y1])
    content = bytearray(path.read_bytes())
    with fits.open(path) as hdus:
        content[hdus["SCI"].fileinfo()["datLoc"] + 5000] ^= 16
    path.write_bytes(content)
    for span in ((0, 70), (3, 9)):
        with pytest.raises(FrameRejected, match="checksum") as error:
            io.RowReader(path, own).rows(*span)
        assert error.value.code == "CHECKSUM"
    path.write_bytes(content[:20000])
    with pytest.raises(FrameRejected) as error:
        io.RowReader(path, own).rows(0, 70)
    assert error.value.code == "UNREADABLE"


@pytest.mark.parametrize("compression", ["lossless", "quantised"])
def test_reader_takes_compressed_frames(tmp_path, compression):
    rng = np.random.default_rng(1)
    header = fits.Header([("FRAMEID", "a")])
    frame = Frame(rng.normal(0, 1, SHAPE), np.full(SHAPE, 2.0), np.zeros(SHAPE, "u2"), header)
    io.write_frame(tmp_path / "f.fits", frame, {}, compression=compression)
    whole = io.read_frame(tmp_path / "f.fits")
    sci, err, _ = io.RowReader(tmp_path / "f.fits").rows(20, 51)
    np.testing.assert_array_equal(sci, whole.sci[20:51])
    np.testing.assert_array_equal(err, whole.err[20:51])


def test_throughput_of_few_stars_gives_way_to_the_others():
    items = [
        member(f"f{i}", noise(i), throughput=t, throughput_err=0.01, n_reference=40)
        for i, t in enumerate((0.95, 1.0, 1.02))
    ]
    wrong = member("x", noise(8), throughput=0.4, throughput_err=0.01, n_reference=1)
    right = member("y", noise(9), throughput=1.03, throughput_err=0.01, n_reference=2)
    found = steady_throughputs([*items, wrong, right])
    assert found["x"][0] == 1.0 and "contradicts" in found["x"][1]
    assert found["y"][0] == 1.03 and set(found) == {"x", "y"}
    result = run([*items, wrong, right])
    assert codes(result)["x"] == "FEW_STARS"
    scale = {o.frame_id: o.numbers for o in result.value.outcomes}["x"]["flux_scale"]
    assert scale == pytest.approx(1.0)


@pytest.mark.parametrize("order", ["offset", "plane"])
def test_levels_are_found_whatever_light_lies_there(order):
    rng = np.random.default_rng(5)
    u, v = (item.ravel() for item in np.meshgrid(np.linspace(-1, 1, 12), np.linspace(-1, 1, 12)))
    light = 500 * np.exp(-(u**2 + v**2) / 0.3)  # a large object, the same in all frames
    levels = rng.normal(0, 5, (6, 3))
    levels[:, 1:] *= order == "plane"
    levels -= levels.mean(axis=0)
    errors = np.full((6, u.size), 0.2)
    medians = light + levels @ np.stack([np.ones_like(u), u, v]) + rng.normal(0, 0.2, errors.shape)
    medians[0, u > 0.2] = np.nan
    medians[3, v < -0.5] = np.nan
    medians[2, 7] += 300  # an artefact
    found, before, after = solve_levels(medians, errors, u, v, order)
    # Levels are relative; some 100 cells each: standard error 0.02 to 0.06.
    shift = (found - levels).mean(axis=0)
    np.testing.assert_allclose(found - levels - shift, 0, atol=0.25)
    assert after < 0.3 < before


def test_matched_levels_leave_no_step():
    offsets = [0.0, 30.0, -20.0]
    inputs = [
        member(f"f{i}", noise(i, (130, 150)) + offset, wcs=linear(20.0 * i, 10.0 * i))
        for i, offset in enumerate(offsets)
    ]
    result = run(inputs, match_background="offset")
    found = {o.frame_id: o.numbers["level_e"] for o in result.value.outcomes}
    values = np.array([found[f"f{i}"] for i in range(3)])
    # Medians of hundreds of pixels a cell, a dozen cells: 0.3 e.
    np.testing.assert_allclose(np.diff(values), np.diff(offsets), atol=1.5)


def test_combinations_agree_on_the_header_and_the_scale():
    """E66, F7: gain N g of a mean, g of a sum, N g / c_N of a median; exposure of a sum."""
    row = {"exptime_s": 60.0, "mjd_mid": 60000.5, "read_noise_e": 5.0, "saturation_e": 50000.0}
    inputs = [replace(member(f"f{i}", noise(i) + 100), row=row) for i in range(4)]
    means = {}
    for combine in ("clipped", "weighted", "mean", "sum", "median"):
        result = run(inputs, combine=combine)
        header = result.value.frame.header
        means[combine] = float(np.mean(result.value.frame.sci))
        several = 4 if combine == "sum" else 1
        loss = 0.5 * np.pi * (1 - 1.3 / 4 + 1.3 / 16) if combine == "median" else 1.0
        assert header["GAIN"] == pytest.approx(4 / several / loss)
        assert header["RDNOISE"] == pytest.approx(10.0 / np.sqrt(loss))
        assert header["SATURATE"] == pytest.approx(50000.0 * several)
        assert header["EXPTIME"] == 60.0 * several and header["EXPTOTAL"] == 240.0
        claimed = float(np.median(result.value.frame.err))
        assert float(np.std(result.value.frame.sci)) == pytest.approx(claimed, rel=0.05)
    assert means["sum"] == pytest.approx(4 * means["mean"], rel=1e-6)
    assert means["clipped"] == pytest.approx(means["weighted"], abs=0.01)


@pytest.mark.parametrize("combine", ["clipped", "median"])
def test_noise_realisations_confirm_the_errors(combine):
    shape = (300, 300)
    inputs = [member(f"f{i}", noise(i, shape), wcs=linear(0.37 * i, 0.21 * i)) for i in range(5)]
    result = run(inputs, combine=combine, noise_check=2)
    numbers = result.numbers
    # 180 000 correlated pixels; apertures: 2 x 3600 at r = 2, 2 x 311 at r = 8 (2.8 %).
    assert numbers["check_pixel"] == pytest.approx(1, abs=0.02)
    for radius, limit in ((2, 0.05), (3, 0.05), (5, 0.08), (8, 0.12)):
        assert numbers[f"check_r{radius}"] == pytest.approx(1, abs=limit)
    assert result.value.frame.header["NCHKR5"] == pytest.approx(numbers["check_r5"])


def test_maps_tell_exposure_depth_and_seeing():
    inputs = [member(f"f{i}", noise(i), zp=25.0, fwhm_px=3.0 + i, n_stars=30) for i in range(3)]
    product = run(inputs, maps=("exposure", "depth", "seeing"), weights="depth").value
    middle = (35, 45)
    assert product.maps["exposure"][middle] == 180.0
    assert product.maps["seeing"][middle] == pytest.approx(4.0, rel=1e-5)
    sigma = 4.0 / 2.3548
    flux = 5 * np.sqrt(4 * np.pi) * sigma * SIGMA / np.sqrt(3)
    assert product.maps["depth"][middle] == pytest.approx(25 - 2.5 * np.log10(flux / 60), abs=1e-3)
