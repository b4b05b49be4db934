"""The grid of a field: covers its frames, whatever their order, and nothing else."""

import numpy as np
import pytest
from astropy.wcs import WCS

from skymill.errors import StepFailed
from skymill.grid import field_grid

SHAPE = (120, 160)


def sky(ra, dec, *, scale=0.5, rotation=0.0, flip=True, shape=SHAPE):
    """TAN coordinates; ``ra, dec`` is the sky position of the frame's centre."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    sign = -1 if flip else 1
    wcs.wcs.cd = np.array([[sign * c, -sign * s], [s, c]]) * scale / 3600
    wcs.wcs.set()
    return wcs


def shifted(dx, dy, *, rotation=0.0):
    """Linear coordinates in the pixels of a reference frame."""
    wcs = WCS(naxis=2)
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    wcs.wcs.crpix = [1, 1]
    wcs.wcs.crval = [dx, dy]
    wcs.wcs.pc = [[c, -s], [s, c]]
    wcs.wcs.set()
    return wcs


def corners(shape):
    ny, nx = shape
    return np.array([0, nx - 1, 0, nx - 1.0]), np.array([0, 0, ny - 1, ny - 1.0])


def assert_covers(grid, wcs, shape=SHAPE):
    x, y = grid.wcs.all_world2pix(*wcs.all_pix2world(*corners(shape), 0), 0)
    ny, nx = grid.shape
    assert x.min() > -1 and y.min() > -1 and x.max() < nx and y.max() < ny
    return x, y


def dithers(ra, dec, n=6, step=0.004):
    rng = np.random.default_rng(4)
    offsets = rng.uniform(-step, step, (n, 2))
    return [
        (f"f{i}", sky((ra + a / np.cos(np.radians(dec))) % 360, dec + b, rotation=3 * i), SHAPE)
        for i, (a, b) in enumerate(offsets)
    ]


@pytest.mark.parametrize(("ra", "dec"), [(150.0, 20.0), (0.0005, -35.0), (359.999, 70.0)])
def test_grid_covers_every_frame_and_is_not_much_larger(ra, dec):
    frames = dithers(ra, dec)
    grid = field_grid(frames)
    for _, wcs, _ in frames:
        assert_covers(grid, wcs)
    # Frames of 120 x 160 px, 15 degrees of rotation, dithers of +-29 px.
    assert grid.shape[0] < 290 and grid.shape[1] < 290


@pytest.mark.parametrize("dec", [89.9999, -89.9999])
def test_grid_holds_over_a_pole(dec):
    # Tangent points on both sides of the pole: right ascensions are all different.
    frames = [(f"f{i}", sky(72.0 * i, dec, rotation=0), SHAPE) for i in range(5)]
    grid = field_grid(frames)
    for _, wcs, _ in frames:
        assert_covers(grid, wcs)
    assert max(grid.shape) < 2 * max(SHAPE)


def test_grid_does_not_depend_on_the_order():
    frames = dithers(10.0, 45.0)
    one, other = field_grid(frames), field_grid(frames[::-1])
    assert one.shape == other.shape
    assert one.wcs.to_header(relax=True).tostring() == other.wcs.to_header(relax=True).tostring()


def test_scale_is_the_median_or_what_was_asked_for():
    frames = [(f"f{i}", sky(10, 5, scale=s), SHAPE) for i, s in enumerate((0.49, 0.50, 0.52))]
    scale = np.sqrt(abs(np.linalg.det(field_grid(frames).wcs.pixel_scale_matrix))) * 3600
    assert scale == pytest.approx(0.50, rel=1e-6)
    asked = field_grid(frames, pixel_scale_arcsec=1.0)
    assert np.sqrt(abs(np.linalg.det(asked.wcs.pixel_scale_matrix))) * 3600 == pytest.approx(1.0)
    assert asked.shape[0] == pytest.approx(SHAPE[0] * 0.52, abs=2)


@pytest.mark.parametrize("flip", [True, False])
def test_grid_takes_the_orientation_and_phase_of_its_reference(flip):
    frames = [(f"f{i}", sky(10, 5 + 0.001 * i, rotation=31.0, flip=flip), SHAPE) for i in range(3)]
    grid = field_grid(frames, reference="f1")
    x, y = assert_covers(grid, frames[1][1])
    assert x[1] - x[0] == pytest.approx(SHAPE[1] - 1, abs=1e-3)
    assert y[2] - y[0] == pytest.approx(SHAPE[0] - 1, abs=1e-3)
    # Whole pixels: a frame of this orientation is not smoothed.
    assert np.abs(x - np.round(x)).max() < 1e-3 and np.abs(y - np.round(y)).max() < 1e-3


def test_north_can_be_up():
    grid = field_grid([("a", sky(10, 5, rotation=31.0, flip=False), SHAPE)], orientation="north")
    np.testing.assert_allclose(grid.wcs.wcs.cd * 3600, [[-0.5, 0], [0, 0.5]], rtol=1e-9)


def test_frame_with_a_wrong_position_does_not_blow_up_the_canvas():
    frames = dithers(150.0, 20.0)
    good = field_grid(frames)
    bad = field_grid([*frames, ("wrong", sky(180.0, 20.0), SHAPE)], max_mpix=1.0)
    assert bad.shape == good.shape
    assert [(name, code) for name, code, _ in bad.rejected] == [("wrong", "WCS_OUTLIER")]
    assert "diagonals" in bad.rejected[0][2]


def test_frame_beside_the_field_has_no_overlap():
    frames = [*dithers(150.0, 20.0), ("beside", sky(150.0, 20.1), SHAPE)]
    assert [(n, c) for n, c, _ in field_grid(frames).rejected] == [("beside", "NO_OVERLAP")]


def test_frame_of_a_wrong_scale_is_an_outlier():
    frames = [*dithers(150.0, 20.0), ("scale", sky(150.0, 20.0, scale=50.0), SHAPE)]
    assert [(n, c) for n, c, _ in field_grid(frames).rejected] == [("scale", "WCS_OUTLIER")]


def test_frame_without_finite_coordinates_is_named():
    broken = shifted(np.nan, 0)
    grid = field_grid([("a", shifted(0, 0), SHAPE), ("b", broken, SHAPE)])
    assert [(n, c) for n, c, _ in grid.rejected] == [("b", "NO_WCS")]
    with pytest.raises(StepFailed, match="NO_FRAMES"):
        field_grid([("b", broken, SHAPE)])


def test_too_large_a_grid_is_refused_before_it_is_made():
    # A chain of overlapping frames that no outlier test can break.
    frames = [(f"f{i:02d}", sky(10, 5 + 0.01 * i), SHAPE) for i in range(40)]
    with pytest.raises(StepFailed, match="stack.max_mpix = 0.1") as error:
        field_grid(frames, max_mpix=0.1)
    assert error.value.code == "TOO_LARGE"


def test_relative_grid_is_the_union_on_the_reference_pixels():
    frames = [("ref", shifted(0, 0), SHAPE), ("b", shifted(-7.3, 4.6), SHAPE)]
    grid = field_grid(frames)
    assert not grid.celestial
    x0, y0 = grid.wcs.all_pix2world(0, 0, 0)
    assert (float(x0), float(y0)) == (-7.0, 0.0)
    assert grid.shape == (124, 167)
    x, y = grid.wcs.all_world2pix(*frames[0][1].all_pix2world(*corners(SHAPE), 0), 0)
    np.testing.assert_allclose(x, corners(SHAPE)[0] + 7, atol=1e-9)
    np.testing.assert_allclose(y, corners(SHAPE)[1], atol=1e-9)


def test_the_minority_of_another_kind_is_left_out():
    grid = field_grid([*dithers(10.0, 5.0, n=2), ("rel", shifted(0, 0), SHAPE)])
    assert grid.celestial
    assert [(n, c) for n, c, _ in grid.rejected] == [("rel", "WCS_RELATIVE")]
