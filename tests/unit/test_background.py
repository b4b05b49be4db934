"""Level and scatter of the sky on a mesh."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from scipy.interpolate import CubicSpline

from skymill.errors import StepFailed
from skymill.frame import Frame, MaskBit, expand_mesh
from skymill.kernels.mesh import cell_statistics, expand_spline
from skymill.steps.background import background


def make_frame(sky, *, sigma=None, seed=1, mask=None):
    rng = np.random.default_rng(seed)
    sigma = np.sqrt(np.maximum(sky, 1)) if sigma is None else np.full(sky.shape, sigma)
    sci = (sky + rng.normal(0, 1, sky.shape) * sigma).astype(np.float32)
    mask = np.zeros(sky.shape, np.uint16) if mask is None else mask
    return Frame(sci, np.asarray(sigma, np.float32), mask, fits.Header())


@pytest.fixture
def flat_sky():
    return np.full((300, 330), 400.0)


def test_constant_sky_is_recovered_within_the_quoted_error(flat_sky):
    result = background(make_frame(flat_sky))
    n = result.value.level.size
    offset = result.value.level_map().mean() - 400
    assert offset == pytest.approx(0, abs=4 * result.value.level_err / np.sqrt(n) + 0.005 * 20)
    assert result.numbers["sky_rms_e"] == pytest.approx(20, rel=0.02)
    assert result.numbers["err_ratio"] == pytest.approx(1, abs=0.02)
    assert result.numbers["box_size_px"] == 64
    assert not result.flags


def test_err_ratio_shows_understated_errors(flat_sky):
    frame = make_frame(flat_sky, sigma=20.0)
    frame = frame.replace(err=frame.err / np.float32(1.25))
    assert background(frame).numbers["err_ratio"] == pytest.approx(1.25, abs=0.03)


def test_tilted_sky_is_followed_inside_and_held_at_the_rim(flat_sky):
    tilt = np.linspace(-60, 60, 330)[None, :]
    value = background(make_frame(flat_sky + tilt)).value
    inside = (value.level_map() - flat_sky - tilt)[:, 32:288]
    # Averaged over the rows, that is over five cells; at the rim the filter has fewer cells.
    assert np.abs(inside.mean(axis=0)).max() < 4 * value.level_err
    # A frame of 330 px ends 54 px before the last centre's cell does: the rim is held.
    assert (value.level_map()[:, 0] == value.level_map()[:, 31]).all()


def test_bright_source_does_not_raise_the_level(flat_sky):
    y, x = np.indices(flat_sky.shape)
    star = 3e4 * (1 + ((x - 150) ** 2 + (y - 140) ** 2) / 16.0) ** -2.5
    clean = background(make_frame(flat_sky)).value
    rng_frame = make_frame(flat_sky + star)
    value = background(rng_frame).value
    shift = value.level_map()[100:180, 110:190] - clean.level_map()[100:180, 110:190]
    assert np.abs(shift).mean() < 5 * value.level_err


def test_dead_quarter_is_bridged_from_its_neighbours(flat_sky):
    frame = make_frame(flat_sky)
    mask = np.zeros(flat_sky.shape, np.uint16)
    mask[:150, :150] = MaskBit.DEAD
    sci = frame.sci.copy()
    sci[:150, :150] = np.nan
    result = background(frame.replace(sci=sci, mask=mask))
    assert np.isfinite(result.value.level_map()).all()
    assert result.value.level_map()[:150, :150].mean() == pytest.approx(400, abs=2)
    assert result.numbers["filled_fraction"] > 0


def test_frame_without_a_good_pixel_fails(flat_sky):
    mask = np.full(flat_sky.shape, MaskBit.SATURATED, np.uint16)
    with pytest.raises(StepFailed, match="no pixel is good") as caught:
        background(make_frame(flat_sky, mask=mask))
    assert caught.value.code == "ALL_MASKED"


def test_few_good_pixels_are_flagged_as_poor(flat_sky):
    mask = np.full(flat_sky.shape, MaskBit.DEAD, np.uint16)
    mask[100:170, 100:170] = 0
    result = background(make_frame(flat_sky, mask=mask))
    assert [code for code, _ in result.flags] == ["BKG_POOR"]
    assert result.value.level_map().mean() == pytest.approx(400, abs=4)


def test_steep_sky_is_flagged():
    y, _ = np.indices((300, 300))
    result = background(make_frame(1000 * np.exp(y / 150.0)))
    assert "SKY_BRIGHT" in [code for code, _ in result.flags]


@pytest.mark.parametrize("shape", [(20, 17), (9, 200), (64, 64), (65, 130), (511, 70)])
def test_frames_of_any_shape_have_a_background(shape):
    result = background(make_frame(np.full(shape, 400.0)))
    assert result.value.level_map().shape == shape
    tolerance = 5 * result.value.level_err
    assert np.median(result.value.level) == pytest.approx(400, abs=tolerance)


def test_small_frames_get_smaller_boxes(flat_sky):
    assert background(make_frame(flat_sky[:100, :120])).numbers["box_size_px"] == 25


def test_input_is_untouched_and_the_result_repeats(flat_sky):
    frame = make_frame(flat_sky)
    before = frame.sci.copy()
    one, two = background(frame).value, background(frame).value
    np.testing.assert_array_equal(frame.sci, before)
    np.testing.assert_array_equal(one.level, two.level)
    np.testing.assert_array_equal(one.rms, two.rms)


def test_even_filter_is_refused(flat_sky):
    with pytest.raises(ValueError, match="odd"):
        background(make_frame(flat_sky), filter_size=4)


def test_constant_frame_without_noise_does_not_crash(flat_sky):
    frame = Frame(
        flat_sky, np.ones(flat_sky.shape), np.zeros(flat_sky.shape, np.uint16), fits.Header()
    )
    assert background(frame).value.level_map().mean() == 400


@pytest.mark.parametrize(
    ("mesh_shape", "shape", "box"), [((4, 6), (100, 150), 26), ((1, 3), (7, 24), 8)]
)
def test_expansion_is_a_natural_spline_held_beyond_the_outer_centres(mesh_shape, shape, box):
    mesh = np.random.default_rng(2).normal(500, 50, mesh_shape).astype(np.float32)
    got = expand_mesh(mesh, shape, box)

    def along(values, n_pixels, axis):
        nodes = (np.arange(values.shape[axis]) + 0.5) * box - 0.5
        where = np.clip(np.arange(n_pixels), nodes[0], nodes[-1])
        if values.shape[axis] == 1:
            return np.repeat(values, n_pixels, axis)
        return CubicSpline(nodes, values, axis, bc_type="natural")(where)

    expected = along(along(mesh.astype(float), shape[0], 0), shape[1], 1)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert got.dtype == np.float32


def test_extrapolation_goes_on_along_the_tangent():
    mesh = np.random.default_rng(3).normal(500, 50, (1, 5))
    got = expand_spline(mesh, (1, 50), 10, extrapolate=True)[0]
    nodes = np.arange(5) * 10 + 4.5
    spline = CubicSpline(nodes, mesh[0], bc_type="natural")
    x = np.arange(50)
    expected = spline(np.clip(x, nodes[0], nodes[-1]))
    expected += np.minimum(x - nodes[0], 0) * spline(nodes[0], 1)
    expected += np.maximum(x - nodes[-1], 0) * spline(nodes[-1], 1)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_two_cells_are_interpolated_linearly():
    got = expand_mesh(np.array([[0.0, 8.0]], np.float32), (3, 16), 8)
    np.testing.assert_allclose(got[1], np.clip((np.arange(16) - 3.5), 0, 8), atol=1e-6)


def test_cell_statistics_clip_outliers_and_correct_for_the_clip():
    rng = np.random.default_rng(4)
    values = rng.normal(10, 2, (64, 128)).astype(np.float32)
    values[5, 5:25] = 500
    good = np.ones(values.shape, bool)
    good[:, 64:] = False
    s = cell_statistics(values, np.full_like(values, 2), good, 64)
    n = s.n[0, 0]
    assert s.mean[0, 0] == pytest.approx(10, abs=4 * 2 / np.sqrt(n))
    assert s.scatter[0, 0] == pytest.approx(2, rel=4 / np.sqrt(2 * n))
    assert s.variance[0, 0] == pytest.approx(4)
    assert np.isnan(s.mean[0, 1])
    assert s.n[0, 1] == 0
