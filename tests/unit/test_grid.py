"""The grid of a field: covers its frames, whatever their order, and nothing else."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from skymill.errors import StepFailed
from skymill.grid import field_grid, make_grid
from skymill.tiles import TileScheme

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


# --- given grids ----------------------------------------------------------------------


def given(**changes):
    return {
        "center_deg": [150.0, 20.0],
        "size_px": [300, 200],
        "scale_arcsec": 0.4,
        "rotation_deg": 0.0,
        "file": None,
    } | changes


def test_given_centre_scale_and_size_make_the_grid():
    grid = make_grid(dithers(150.0, 20.0), given())
    assert grid.shape == (200, 300) and grid.rejected == ()
    assert grid.frames == tuple(f"f{i}" for i in range(6))
    # The middle of the image, between the central pixels, lies on the centre.
    x, y = grid.wcs.all_world2pix(150.0, 20.0, 0)
    assert (float(x), float(y)) == pytest.approx((149.5, 99.5), abs=1e-9)
    north = grid.wcs.all_world2pix(150.0, 20.0 + 0.4 * 50 / 3600, 0)
    assert north == pytest.approx((149.5, 149.5), abs=1e-4)
    east = grid.wcs.all_world2pix(150.0 + 0.4 * 50 / 3600 / np.cos(np.radians(20)), 20.0, 0)
    assert east == pytest.approx((99.5, 99.5), abs=2e-3)


def test_rotation_turns_the_upward_axis_to_the_east():
    grid = make_grid(dithers(150.0, 20.0), given(rotation_deg=30.0))
    up = grid.wcs.all_pix2world([[149.5, 99.5], [149.5, 199.5]], 0)
    east = (up[1, 0] - up[0, 0]) * np.cos(np.radians(20.0))
    assert np.degrees(np.arctan2(east, up[1, 1] - up[0, 1])) == pytest.approx(30.0, abs=0.01)


def test_given_grid_without_scale_takes_that_of_the_settings_or_the_frames():
    frames = dithers(150.0, 20.0)
    for asked, expected in ((None, 0.5), (0.8, 0.8)):
        grid = make_grid(frames, given(scale_arcsec=None), pixel_scale_arcsec=asked)
        scale = np.sqrt(abs(np.linalg.det(grid.wcs.pixel_scale_matrix))) * 3600
        assert scale == pytest.approx(expected, rel=1e-6)


def test_given_grid_does_not_change_with_the_frames():
    one = make_grid(dithers(150.0, 20.0, n=2), given())
    other = make_grid(dithers(150.0, 20.0, n=5), given())
    assert one.wcs.to_header_string() == other.wcs.to_header_string()


def test_frames_beside_a_given_grid_are_named_with_their_distance():
    frames = [*dithers(150.0, 20.0), ("beside", sky(150.0, 20.5), SHAPE)]
    frames += [("relative", shifted(0, 0), SHAPE), ("scale", sky(150, 20, scale=5), SHAPE)]
    grid = make_grid(frames, given())
    told = {name: (code, text) for name, code, text in grid.rejected}
    assert {name: code for name, (code, _) in told.items()} == {
        "beside": "NO_OVERLAP",
        "relative": "WCS_RELATIVE",
        "scale": "WCS_OUTLIER",
    }
    assert "degree away" in told["beside"][1]


def test_overlap_with_a_given_grid_is_that_of_the_outlines_not_of_circles():
    # Circumscribed circles meet at the corner, the images do not.
    size = 0.4 * np.array([300, 200]) / 3600
    ra = 150.0 + (size[0] / 2 + 0.013) / np.cos(np.radians(20))
    frames = [*dithers(150.0, 20.0), ("corner", sky(ra, 20.0 + size[1] / 2 + 0.009), SHAPE)]
    assert [(n, c) for n, c, _ in make_grid(frames, given()).rejected] == [("corner", "NO_OVERLAP")]


def test_given_grid_that_no_frame_touches_is_a_clear_outcome():
    with pytest.raises(StepFailed, match="none of 6 frames touches the given grid") as error:
        make_grid(dithers(150.0, 20.0), given(center_deg=[150.0, -20.0]))
    assert error.value.code == "NO_OVERLAP"
    with pytest.raises(StepFailed) as error:
        make_grid([("r", shifted(0, 0), SHAPE)], given())
    assert error.value.code == "NO_FRAMES"


def test_given_grid_is_refused_if_it_is_too_large():
    with pytest.raises(StepFailed, match="TOO_LARGE"):
        make_grid(dithers(150.0, 20.0), given(size_px=[30000, 20000]))


@pytest.mark.parametrize("form", ["fits", "lines", "cards80", "head"])
def test_grid_of_a_file_is_taken_as_it_is(tmp_path, form):
    wcs = sky(150.0, 20.0, scale=0.7, rotation=25.0, shape=(240, 320))
    header = wcs.to_header()
    if form != "head":
        header["NAXIS"], header["NAXIS1"], header["NAXIS2"] = 2, 320, 240
    path = tmp_path / f"grid.{form}"
    if form == "fits":
        fits.PrimaryHDU(np.zeros((240, 320), np.uint8), wcs.to_header()).writeto(path)
    elif form == "cards80":
        path.write_text(header.tostring(sep="", padding=False))
    else:
        path.write_text(header.tostring(sep="\n", padding=False))
    wanted = {"file": str(path), "size_px": [320, 240] if form == "head" else None}
    grid = make_grid(dithers(150.0, 20.0), wanted)
    assert grid.shape == (240, 320)
    points = np.array([[0.0, 0.0], [319.0, 239.0], [10.0, 200.0]])
    np.testing.assert_allclose(
        grid.wcs.all_pix2world(points, 0), wcs.all_pix2world(points, 0), atol=1e-10
    )


def test_file_without_a_usable_grid_is_a_clear_outcome(tmp_path):
    path = tmp_path / "grid.txt"
    for text in ("no header at all", "CRVAL1  = 12.0\n", sky(1, 2).to_header_string()):
        path.write_text(text)
        with pytest.raises(StepFailed, match=r"grid\.txt") as error:
            make_grid(dithers(150.0, 20.0), {"file": str(path)})
        assert error.value.code == "NO_WCS"


def test_tile_is_a_grid_of_its_own():
    scheme = TileScheme.of(0.5, 1024, 64)
    tile = scheme.tile_of(150.0, 20.0)
    frames = [("f", sky(tile.ra, tile.dec), SHAPE), ("far", sky(tile.ra, tile.dec + 1), SHAPE)]
    grid = make_grid(frames, {"tile": tile.id})
    assert grid.shape == (1024, 1024) and grid.frames == ("f",)
    assert [(n, c) for n, c, _ in grid.rejected] == [("far", "NO_OVERLAP")]
    assert tile.id in grid.rejected[0][2]
    # Frames of another scale belong to the tile too.
    mixed = [*frames[:1], *((f"b{i}", sky(tile.ra, tile.dec, scale=2), SHAPE) for i in range(3))]
    assert len(make_grid(mixed, {"tile": tile.id}).frames) == 4
