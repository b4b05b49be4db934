"""Rules of the stack: who enters, what is rejected, what a hole looks like."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from skymill.errors import StepFailed
from skymill.frame import Background, Frame, MaskBit
from skymill.grid import field_grid
from skymill.resample import aperture_factor, kernel_factor, pixel_map, resampled_correlation
from skymill.steps.stack import StackFrame, StackInput, stack

SHAPE = (70, 90)
SIGMA = 10.0


def linear(dx=0.0, dy=0.0):
    """World = 0-based pixels of a reference frame."""
    wcs = WCS(naxis=2)
    wcs.wcs.crpix = [1, 1]
    wcs.wcs.crval = [dx, dy]
    wcs.wcs.set()
    return wcs


def member(name, sci, *, wcs=None, mask=None, err=SIGMA, level=0.0, exptime=60.0, **known):
    mask = np.zeros(sci.shape, np.uint16) if mask is None else mask
    frame = Frame(sci + level, np.full(sci.shape, err), mask, fits.Header())
    cells = tuple(-(-n // 64) for n in sci.shape)
    mesh = Background(np.full(cells, level), np.full(cells, err), sci.shape, 64, 0.1)
    pixels = StackFrame(frame, mesh)
    row = {"exptime_s": exptime, "mjd_mid": 60000.5, "filter": "V", "object": "m 1"}
    known = {"throughput": 1.0, "fwhm_px": 3.0} | known
    return StackInput(name, row, wcs or linear(), sci.shape, known, lambda: pixels)


def noise(seed, shape=SHAPE):
    return np.random.default_rng(seed).normal(0, SIGMA, shape)


def run(inputs, **settings):
    grid = field_grid([(item.frame_id, item.wcs, item.shape) for item in inputs])
    return stack(inputs, grid, **settings)


def codes(result):
    return {item.frame_id: item.code for item in result.value.outcomes}


def test_whole_shifts_average_exactly():
    """Row E66: the error follows the number of valid values of the pixel."""
    images = [noise(i) for i in range(4)]
    shifts = [(0, 0), (5, 2), (1, 7), (3, 3)]
    inputs = [
        member(f"f{i}", image, wcs=linear(*shift), level=100.0 * i)
        for i, (image, shift) in enumerate(zip(images, shifts, strict=True))
    ]
    product = run(inputs, clip_sigma=1e6, grow_sigma=1e6).value
    total, count = np.zeros((77, 95)), np.zeros((77, 95))
    for image, (dx, dy) in zip(images, shifts, strict=True):
        total[dy : dy + 70, dx : dx + 90] += image
        count[dy : dy + 70, dx : dx + 90] += 1
    assert product.frame.shape == (77, 95)
    np.testing.assert_array_equal(product.coverage, count)
    covered = count > 0
    # float32 of values near 300: 3e-5.
    np.testing.assert_allclose(
        product.frame.sci[covered], (total[covered] / count[covered]), atol=2e-4
    )
    np.testing.assert_allclose(
        product.frame.err[covered], SIGMA / np.sqrt(count[covered]), rtol=1e-6
    )
    np.testing.assert_allclose(product.noise_correlation[5, 4:7], [0, 1, 0], atol=1e-6)


def test_holes_are_nan_and_say_why():
    mask = np.zeros(SHAPE, np.uint16)
    mask[20:23, 30] = int(MaskBit.SATURATED)
    mask[40, 50] = int(MaskBit.HOT)
    inputs = [member(f"f{i}", noise(i), mask=mask, wcs=linear(dy=9.0 * i)) for i in range(1)]
    inputs += [member("g", noise(7), mask=mask)]
    frame = run(inputs).value.frame
    for y, x, bit in ((21, 30, MaskBit.SATURATED), (40, 50, MaskBit.HOT)):
        assert np.isnan(frame.sci[y, x]) and np.isnan(frame.err[y, x])
        assert frame.mask[y, x] == int(bit | MaskBit.NO_DATA)
    assert np.isfinite(frame.sci[frame.mask == 0]).all()


def test_a_bad_pixel_in_one_frame_leaves_the_others():
    mask = np.zeros(SHAPE, np.uint16)
    mask[40, 50] = int(MaskBit.COSMIC)
    hit = noise(1)
    hit[40, 50] = 1e6
    product = run([member("a", hit, mask=mask), member("b", noise(2)), member("c", noise(3))]).value
    assert product.coverage[40, 50] == 2
    assert product.frame.mask[40, 50] == 0
    assert abs(product.frame.sci[40, 50]) < 60


def test_every_touched_bad_pixel_excludes():
    mask = np.zeros(SHAPE, np.uint16)
    mask[40, 50] = int(MaskBit.HOT)
    inputs = [member("a", noise(1)), member("b", noise(2), mask=mask, wcs=linear(0.25, 0.5))]
    product = run(inputs, kernel="bilinear")
    coverage = product.value.coverage
    # Frame pixel (50, 40) lies at (50.25, 40.5) of the grid, between four grid pixels.
    np.testing.assert_array_equal(coverage[40:42, 50:52], 1)
    np.testing.assert_array_equal(coverage[40:42, [49, 52]], 2)


def test_half_saturated_cores_are_flagged():
    mask = np.zeros(SHAPE, np.uint16)
    mask[30, 30] = int(MaskBit.SATURATED)
    clean = [member(f"c{i}", noise(i)) for i in range(3)]
    bad = [member(f"s{i}", noise(9 + i), mask=mask) for i in range(3)]
    assert run(clean + bad).value.frame.mask[30, 30] == int(MaskBit.SATURATED)
    assert run(clean + bad[:1]).value.frame.mask[30, 30] == 0


def test_two_frames_that_contradict_keep_the_lower_and_say_so():
    hit = noise(1)
    hit[40, 50] += 50 * SIGMA
    first, second = member("a", hit), member("b", noise(2))
    product = run([first, second]).value
    assert product.coverage[40, 50] == 1
    assert product.frame.mask[40, 50] == int(MaskBit.COSMIC)
    assert product.frame.sci[40, 50] == pytest.approx(noise(2)[40, 50], abs=1e-3)
    # Never the minimum everywhere: that would lie 0.56 sigma low.
    mean = product.frame.sci[product.coverage == 2].mean()
    assert abs(mean) < 4 * SIGMA / np.sqrt(2 * 6000)
    assert (product.frame.mask != 0).sum() <= 3


def test_one_frame_is_passed_on():
    hit = noise(1)
    hit[40, 50] += 1000 * SIGMA
    product = run([member("a", hit)]).value
    np.testing.assert_allclose(product.frame.sci, hit, rtol=1e-5, atol=1e-3)
    assert (product.coverage == 1).all()


def test_neighbours_of_a_hit_have_a_lower_threshold():
    hit = noise(1)
    hit[40, 50] += 100 * SIGMA
    hit[40, 51] += 6 * SIGMA
    quiet = [member(f"q{i}", noise(10 + i)) for i in range(4)]
    hits = member("hit", hit)
    grown = run([hits, *quiet], clip_sigma=9.0, grow_sigma=2.5).value
    assert grown.coverage[40, 50] == 4 and grown.coverage[40, 51] == 4
    alone = run([hits, *quiet], clip_sigma=9.0, grow_sigma=9.0).value
    assert alone.coverage[40, 51] == 5


@pytest.mark.parametrize("how", [{"memory_mb": 0.1}, {"threads": 3}])
def test_bands_order_and_threads_do_not_change_a_bit(how):
    inputs = [member(f"f{i}", noise(i), wcs=linear(0.3 * i, -0.4 * i)) for i in range(5)]
    whole = run(inputs).value
    banded = run(inputs[::-1], **how).value
    for one, other in (
        (whole.frame.sci, banded.frame.sci),
        (whole.frame.err, banded.frame.err),
        (whole.frame.mask, banded.frame.mask),
        (whole.coverage, banded.coverage),
    ):
        np.testing.assert_array_equal(one, other)
    assert whole.frame.header.tostring() == banded.frame.header.tostring()


def test_flux_scale_brings_frames_to_the_reference():
    """Row E64: scaled by throughput and exposure, and the effective gain with them."""
    signal = np.zeros(SHAPE)
    signal[30:40, 30:40] = 6000.0
    inputs = [
        member("ref", signal, zp=25.0, zp_err=0.02),
        member("thin", 0.5 * signal, throughput=0.5, zp=25 + 2.5 * np.log10(0.5), zp_err=0.02),
        member("long", 2 * signal, exptime=120.0, zp=25.0, zp_err=0.02),
    ]
    result = run(inputs, reference="ref")
    frame = result.value.frame
    np.testing.assert_allclose(frame.sci[32:38, 32:38], 6000.0, rtol=1e-5)
    assert frame.header["EXPTIME"] == 60.0 and frame.header["EXPTOTAL"] == 240.0
    assert frame.header["ZP"] == pytest.approx(25.0, abs=1e-9)
    assert frame.header["ZPERR"] == pytest.approx(0.02)
    assert frame.header["NCOMBINE"] == 3 and frame.header["MJD-AVG"] == 60000.5
    assert frame.header["FILTER"] == "V"
    # Weights 1/a^2 = 1, 1/4, 4: the long frame dominates; gain 1 / sum(w^2 a).
    w = np.array([1.0, 0.25, 4.0]) / 5.25
    assert frame.header["GAIN"] == pytest.approx(1 / (w**2 * [1, 2, 0.5]).sum(), rel=1e-6)


def test_frames_that_must_not_enter_are_named():
    good = [member(f"g{i}", noise(i)) for i in range(3)]
    others = [
        member("cloud", noise(5), throughput=0.05),
        member("seeing", noise(6), fwhm_px=20.0),
        member("scale", noise(7), throughput=float("nan")),
        member("far", noise(8), wcs=linear(1e6, 0)),
        replace(member("time", noise(9)), row={"mjd_mid": 60000.0}),
    ]
    result = run(good + others)
    assert codes(result) == {
        "g0": "", "g1": "", "g2": "",
        "cloud": "CLOUDY", "seeing": "POOR_SEEING", "scale": "NO_ZP",
        "far": "WCS_OUTLIER", "time": "MISSING_EXPTIME",
    }  # fmt: skip
    assert result.value.frame.header["NCOMBINE"] == 3
    assert all(item.usable == (item.code == "") for item in result.value.outcomes)


def test_no_usable_frame_fails_with_the_reason():
    with pytest.raises(StepFailed, match="throughput 0.010") as error:
        grid = field_grid([("a", linear(), SHAPE)])
        stack([member("a", noise(1), throughput=0.01)], grid)
    assert error.value.code == "NO_FRAMES"
    with pytest.raises(StepFailed) as error:
        run([member("a", noise(1), mask=np.full(SHAPE, 1, np.uint16))])
    assert error.value.code == "ALL_MASKED"


def test_without_any_throughput_all_count_as_equal_and_say_so():
    result = run([member(f"f{i}", noise(i), throughput=None) for i in range(3)])
    assert set(codes(result).values()) == {"ZP_RELATIVE"}
    assert ("ZP_RELATIVE" in dict(result.flags)) and ("WCS_RELATIVE" in dict(result.flags))


def test_nan_in_a_frame_does_not_spread():
    """Row E66: a mosaic may have holes."""
    broken = noise(1)
    broken[30, 40] = np.nan
    inputs = [member("a", broken, wcs=linear(0.5, 0.5)), member("b", noise(2))]
    product = run(inputs, kernel="bilinear").value
    assert np.isfinite(product.frame.sci[product.coverage > 0]).all()
    np.testing.assert_array_equal(product.coverage[30:32, 40:42], 1)
    assert product.coverage[29, 40] == 2


@pytest.mark.parametrize(
    ("phase", "rho", "factors"),
    [(0.25, 0.300, {2: 1.485, 5: 1.558, 8: 1.574}), (0.5, 0.500, {2: 1.810, 5: 1.932, 8: 1.972})],
)
def test_correlation_is_that_of_the_bilinear_kernel(phase, rho, factors):
    grid = field_grid([("a", linear(), (200, 200))])
    mapping = pixel_map(grid.wcs, grid.shape, linear(phase, phase))
    assert mapping.error_px < 1e-9
    np.testing.assert_allclose(mapping.area, 1.0, rtol=1e-9)
    correlation = resampled_correlation(mapping)
    assert correlation[5, 6] == pytest.approx(rho, abs=1e-6)
    assert correlation[5, 7] == pytest.approx(0, abs=1e-9)
    # At r = 2 the factor depends on the phase of the centre by about one per cent.
    for radius, factor in factors.items():
        assert aperture_factor(correlation, radius) == pytest.approx(factor, rel=8e-3)
    delta = np.zeros((3, 3))
    delta[1, 1] = 1
    assert kernel_factor(correlation, delta) == pytest.approx(1.0)


def test_shape_that_contradicts_the_entry_is_a_defect():
    wrong = replace(member("a", noise(1)), shape=(50, 50))
    with pytest.raises(ValueError, match="its entry says"):
        stack([wrong], field_grid([("a", linear(), SHAPE)]))


def distorted():
    """TAN-SIP with four pixels of distortion in the corners of 2048 x 2048 px."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    wcs.wcs.crval = [359.9, -30.0]
    wcs.wcs.crpix = [1024.5, 1024.5]
    wcs.wcs.cd = np.array([[-0.96, 0.28], [0.28, 0.96]]) * 3e-4
    a, b = np.zeros((4, 4)), np.zeros((4, 4))
    a[2, 0], a[0, 3], b[1, 1], b[3, 0] = 1e-6, 2e-9, -1.5e-6, 1e-9
    from astropy.wcs import Sip

    wcs.sip = Sip(a, b, None, None, [1024.5, 1024.5])
    wcs.wcs.set()
    return wcs


def test_positions_are_exact_under_distortion():
    from skymill.kernels.resample import node_positions

    frame = distorted()
    grid = field_grid([("a", frame, (2048, 2048))])
    mapping = pixel_map(grid.wcs, grid.shape, frame)
    rng = np.random.default_rng(5)
    x, y = rng.integers(0, grid.shape[1], 500), rng.integers(0, grid.shape[0], 500)
    sky = grid.wcs.all_pix2world(x.astype(float), y.astype(float), 0)
    exact = frame.all_world2pix(*sky, 0, tolerance=1e-6, quiet=True)
    for nodes, truth in zip((mapping.x, mapping.y), exact, strict=True):
        inside = (truth > 0) & (truth < 2047)
        error = node_positions(nodes, mapping.step, y, x) - truth
        assert np.abs(error[inside]).max() < 1e-3
    assert mapping.error_px < 1e-3
    # To first order the area is 1 + (2 a20 + b11) u, u uniform over 2048 px (cubic terms: 10 %).
    assert np.nanstd(mapping.area) == pytest.approx(0.5e-6 * 2048 / np.sqrt(12), rel=0.2)
