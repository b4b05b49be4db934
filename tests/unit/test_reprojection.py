"""Calling conventions of STDPipe: rows S9, S10, S11 and S12."""

import inspect

import numpy as np
import pytest

import skymill
from skymill.errors import SkymillError
from skymill.io import write_atomic
from tests.external.cases import star, tan

SHAPE = (60, 60)


def test_signatures_are_those_of_stdpipe():
    def names(function):
        return list(inspect.signature(function).parameters)

    grid = ["input", "wcs", "shape", "width", "height", "header"]
    assert names(skymill.reproject_swarp) == [
        *grid, "extra", "is_flags", "use_nans", "get_weights", "_workdir", "_tmpdir", "_exe",
        "verbose",
    ]  # fmt: skip
    assert names(skymill.reproject_lanczos) == [
        *grid, "order", "conserve_flux", "oversamp", "is_flags", "use_nans", "weight_nans",
        "parallel", "return_footprint", "verbose",
    ]  # fmt: skip


def lanczos(images, target, shape=SHAPE, **options):
    return skymill.reproject_lanczos(images, wcs=target, shape=shape, **options)


def test_the_identity_and_the_edge():
    """Row S10: beyond [-0.5, n - 0.5) there is nothing, within the edge is continued."""
    image = np.random.default_rng(1).normal(0, 1, SHAPE)
    found, footprint = lanczos((image, tan(SHAPE)), tan(SHAPE), return_footprint=True)
    np.testing.assert_allclose(found, image, atol=1e-6)
    assert (footprint == 1).all()
    # Grid pixels lie 0.4 px to the left of those of the image: all but none are covered.
    found = lanczos((image, tan(SHAPE)), tan(SHAPE, dx=0.4))
    assert np.isfinite(found).all()
    found = lanczos((image, tan(SHAPE)), tan(SHAPE, dx=0.6))
    assert np.isnan(found[:, 0]).all() and np.isfinite(found[:, 1:]).all()


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 3.0])
def test_flux_is_kept_or_the_level(scale):
    """Row S10: samples are averaged where output pixels are larger."""
    n = int(60 / scale) + 6
    target = tan((n, n), scale=scale, dx=0.2)
    found = lanczos((star(SHAPE, fwhm=5.0), tan(SHAPE)), target, (n, n))
    assert np.nansum(found) == pytest.approx(1e5, rel=5e-4)
    flat = lanczos((np.ones(SHAPE), tan(SHAPE)), target, (n, n), conserve_flux=False)
    np.testing.assert_allclose(flat[np.isfinite(flat)], 1, atol=1e-5)


def test_a_nan_is_left_out_and_the_footprint_says_so():
    """Row S12: the footprint is the known share of the kernel."""
    image = np.random.default_rng(2).normal(100, 1, SHAPE)
    whole = lanczos((image, tan(SHAPE)), tan(SHAPE, dx=0.25))
    image[30, 30] = np.nan
    found, footprint = lanczos((image, tan(SHAPE)), tan(SHAPE, dx=0.25), return_footprint=True)
    changed = ~(np.abs(found - whole) < 1e-4)
    assert changed.sum() >= 6
    assert (np.abs(footprint[changed] - 1) > 1e-6).all() or (footprint[changed] < 1).any()
    assert np.isnan(found).sum() == 1
    assert np.nanmax(np.abs(found - whole)) < 5
    strict = lanczos((image, tan(SHAPE)), tan(SHAPE, dx=0.25), weight_nans=False)
    assert np.isnan(strict).sum() == 6
    filled = lanczos((image, tan(SHAPE)), tan(SHAPE, dx=0.25), use_nans=False)
    assert np.isfinite(filled).all()


def test_frames_are_averaged_where_they_are():
    left, right = np.full(SHAPE, 1.0), np.full(SHAPE, 3.0)
    right[:, :30] = np.nan
    frames = [(left, tan(SHAPE)), (right, tan(SHAPE))]
    found, footprint = lanczos(frames, tan(SHAPE), return_footprint=True)
    np.testing.assert_allclose(found[:, :30], 1, atol=1e-6)
    np.testing.assert_allclose(found[:, 30:], 2, atol=1e-6)
    np.testing.assert_allclose(footprint[:, :30], 0.5)


@pytest.mark.parametrize("function", [skymill.reproject_lanczos, skymill.reproject_swarp])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.uint32])
def test_flags_of_any_type_make_the_round_trip(function, kind):
    """Rows S9 and S11: no 32768 is added to unsigned integers."""
    flags = np.zeros(SHAPE, kind)
    flags[30, 30] = 5
    flags[10, 12] = np.iinfo(kind).max
    found = function([(flags, tan(SHAPE))], wcs=tan(SHAPE), shape=SHAPE, is_flags=True)
    assert found.dtype == kind
    np.testing.assert_array_equal(found, flags)


@pytest.mark.parametrize("shift", [0.5, 0.25])
def test_a_flag_marks_the_whole_footprint(shift):
    """Row S11: at exactly half a pixel the nearest pixel loses a flag."""
    flags = np.zeros(SHAPE, np.uint16)
    flags[30, 30] = 4
    found = lanczos([(flags, tan(SHAPE))], tan(SHAPE, dx=shift, dy=shift), is_flags=True)
    assert (found == 4).sum() == 36
    coarse = tan((34, 34), scale=2.0)
    assert (lanczos([(flags, tan(SHAPE))], coarse, (34, 34), is_flags=True) & 4).any()


def test_flags_of_any_frame_and_of_all_frames():
    """Row S11: AND drops a flag where one clean frame covers; both planes are to be had."""
    one, two = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    one[20, 20], one[40, 40], two[40, 40] = 1, 3, 2
    frames = [(one, tan(SHAPE)), (two, tan(SHAPE))]
    every, some = lanczos(frames, tan(SHAPE, dx=-5.0), is_flags="both")
    assert every[20, 15] == 0 and some[20, 15] == 1
    assert every[40, 35] == 2 and some[40, 35] == 3
    assert (every[:, -5:] == 255).all()
    np.testing.assert_array_equal(lanczos(frames, tan(SHAPE, dx=-5.0), is_flags=True), every)
    zeros = lanczos(frames, tan(SHAPE, dx=-5.0), is_flags="any", use_nans=False)
    assert (zeros[:, -5:] == 0).all()


def test_files_and_headers_are_taken(tmp_path):
    from skymill.fits_bytes import image_unit

    image = np.random.default_rng(3).normal(0, 1, SHAPE).astype(np.float32)
    header = tan(SHAPE).to_header()
    path = tmp_path / "image.fits"
    write_atomic(path, image_unit(image, header, "", primary=True).chunks())
    target = tan(SHAPE).to_header()
    target["NAXIS1"], target["NAXIS2"] = 60, 60
    said = []
    found = skymill.reproject_lanczos([str(path)], header=target, verbose=said.append)
    np.testing.assert_allclose(found, image, atol=1e-6)
    assert said
    both = skymill.reproject_lanczos([path, (image, header)], wcs=tan(SHAPE), width=60, height=60)
    np.testing.assert_allclose(both, image, atol=1e-6)


def test_what_cannot_be_done_is_said(tmp_path):
    image = np.zeros(SHAPE)
    for images, options, words in (
        ([], {}, "no image"),
        ([(image, tan(SHAPE))], {"order": 1}, "order"),
        ([(np.zeros(3), tan(SHAPE))], {}, "two axes"),
        ([(image, tan(SHAPE))], {"is_flags": True}, "integers"),
        ([str(tmp_path / "none.fits")], {}, "none.fits"),
    ):
        with pytest.raises(SkymillError, match=words):
            lanczos(images, tan(SHAPE), **options)
    with pytest.raises(SkymillError, match="grid"):
        skymill.reproject_lanczos([(image, tan(SHAPE))], wcs=tan(SHAPE))
