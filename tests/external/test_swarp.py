"""The real SWarp as an engine and behind `skymill.reproject_swarp`.

Rows S9 and E63; the cases are those of our own engine.
"""

import numpy as np
import pytest

import skymill
from skymill.programs import ProgramError
from tests.external import cases
from tests.external.cases import all_kernels, check_flux, first_class, linear, needs_swarp, run, tan

pytestmark = [pytest.mark.external, needs_swarp]

KERNELS = all_kernels(("swarp",))


@pytest.mark.parametrize(("engine", "kernel"), KERNELS)
def test_the_identity_returns_the_input(engine, kernel):
    cases.check_identity(engine, kernel)


@pytest.mark.parametrize(("engine", "kernel"), KERNELS)
def test_no_bad_pixel_leaks_and_no_flag_is_lost(engine, kernel):
    """SWarp takes NaN for zero with full weight; here nothing of a bad pixel remains."""
    cases.check_masks(engine, kernel)


@pytest.mark.parametrize("shift", [0.25, 0.5])
def test_claimed_sigma_is_the_scatter_not_the_largest_of_the_footprint(shift):
    cases.check_sigma("swarp", "lanczos3", shift, n=8)


@pytest.mark.parametrize(
    "geometry", [{"dx": 0.37, "dy": -0.61}, {"angle": 12.0}, {"scale": 0.5}, {"scale": 2.0}]
)
def test_flux_of_a_star_is_kept(geometry):
    n = int(80 / min(geometry.get("scale", 1), 1))
    check_flux("swarp", "lanczos3", tan((n, n), **geometry), (n, n))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (tan((120, 120)), tan((120, 120), angle=12.0, dx=0.3)),
        (tan((120, 120), distortion=2e-4), tan((120, 120), dx=2.4, angle=180.0)),
        (linear(3.3, 4.4), linear()),
        (tan((120, 120)), tan((120, 120), scale=2.0, dx=0.3, angle=2.0)),
    ],
    ids=["rotation", "distortion", "linear", "scale"],
)
def test_values_agree_with_our_engine(source, target):
    """To 5e-5 of the scatter; SWarp inverts a distortion by a polynomial, to 1e-4 px."""
    shape = (120, 120)
    image = np.random.default_rng(21).normal(0, 1, shape).astype(np.float32)
    opened = cases.warp("swarp", "lanczos3", image, target, shape, source=source)
    theirs, ours = cases.empty_planes(*shape), cases.empty_planes(*shape)
    opened.fill(0, theirs)
    opened.own.fill(0, ours)
    opened.close()
    good = first_class(theirs)
    assert good.sum() > 2000
    np.testing.assert_array_equal(good, first_class(ours))
    assert opened.mapping.error_px < 1e-4
    limit = 5e-5 if source.sip is None else 5e-4
    np.testing.assert_allclose(theirs.value[good], ours.value[good], atol=limit)


def test_bands_are_served_from_one_run_and_nothing_is_left(tmp_path):
    shape = (60, 60)
    image = np.random.default_rng(22).normal(0, 1, shape).astype(np.float32)
    target = tan(shape, dx=0.3)
    whole = run("swarp", "lanczos3", image, target, shape)
    opened = cases.warp("swarp", "lanczos3", image, target, shape, scratch=tmp_path)
    part = cases.empty_planes(20, 60)
    opened.fill(20, part)
    assert list(tmp_path.iterdir())
    opened.close()
    assert not list(tmp_path.iterdir())
    for one, two in zip(part, whole, strict=True):
        np.testing.assert_array_equal(one, two[20:40])


def test_reproject_swarp_agrees_with_reproject_lanczos():
    shape = (80, 80)
    image = np.random.default_rng(23).normal(0, 1, shape)
    target = tan(shape, angle=5.0, dx=0.3)
    common = {"wcs": target, "shape": shape}
    theirs, weights = skymill.reproject_swarp([(image, tan(shape))], get_weights=True, **common)
    ours = skymill.reproject_lanczos([(image, tan(shape))], **common)
    inner = (slice(12, -12), slice(12, -12))
    np.testing.assert_allclose(theirs[inner], ours[inner], atol=1e-4)
    assert (weights[inner] > 0.9).all()


def test_reproject_swarp_leaves_no_dark_spot_at_a_nan_and_keeps_the_sky():
    shape = (80, 80)
    image = np.full(shape, 100.0)
    image[40, 40] = np.nan
    found = skymill.reproject_swarp([(image, tan(shape))], wcs=tan(shape, dx=0.5), shape=shape)
    assert np.isnan(found[40, 40])
    inner = found[10:-10, 10:-10]
    np.testing.assert_allclose(inner[np.isfinite(inner)], 100, rtol=1e-4)


def test_reproject_swarp_raises_with_the_log(tmp_path):
    """Row S9: a failure raises; nothing comes back silently."""
    shape = (40, 40)
    with pytest.raises(ProgramError, match="TOOL_FAILED"):
        skymill.reproject_swarp(
            [(np.ones(shape), tan(shape))], wcs=tan(shape), shape=shape,
            extra={"RESAMPLING_TYPE": "NONSENSE"},
        )  # fmt: skip
    with pytest.raises(ProgramError, match="TOOL_MISSING"):
        skymill.reproject_swarp(
            [(np.ones(shape), tan(shape))], wcs=tan(shape), shape=shape, _exe="/nowhere/SWarp"
        )


def test_reproject_swarp_keeps_its_files_where_it_is_told(tmp_path):
    shape = (40, 40)
    skymill.reproject_swarp(
        [(np.ones(shape), tan(shape))] * 2, wcs=tan(shape), shape=shape, _workdir=tmp_path / "w"
    )
    names = {path.name for path in (tmp_path / "w").iterdir()}
    assert {"image0000.fits", "image0001.weight.fits", "coadd.fits", "coadd.head"} <= names


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32])
def test_flags_make_the_round_trip(kind):
    shape = (40, 40)
    flags = np.zeros(shape, kind)
    flags[20, 20] = 5
    found = skymill.reproject_swarp(
        [(flags, tan(shape))], wcs=tan(shape), shape=shape, is_flags=True
    )
    assert found.dtype == kind
    np.testing.assert_array_equal(found, flags)
