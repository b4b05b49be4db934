"""Truth that every resampling engine is measured against."""

import shutil

import numpy as np
import pytest
from astropy.wcs import WCS, Sip

from skymill.engines import ENGINES, ArrayRows, empty_planes, open_warp
from skymill.frame import MaskBit

SCALE_DEG = 0.5 / 3600
SECOND = int(MaskBit.INTERPOLATED)
INTERPOLATING = ("lanczos2", "lanczos3", "lanczos4", "bilinear", "bicubic")

needs_swarp = pytest.mark.skipif(
    not (shutil.which("SWarp") or shutil.which("swarp")),
    reason="SWarp is not installed (Debian and Ubuntu: package swarp)",
)


def all_kernels(engines):
    """Parameters (engine, kernel); those of SWarp skip without it."""
    marks = {"swarp": (needs_swarp,)}
    return [
        pytest.param(engine, kernel, id=f"{engine}-{kernel}", marks=marks.get(engine, ()))
        for engine in engines
        for kernel in ENGINES[engine]
    ]


def tan(shape, *, dx=0.0, dy=0.0, angle=0.0, scale=1.0, distortion=0.0):
    """A grid about one centre: shifted by (dx, dy) of its pixels, turned, scaled."""
    ny, nx = shape
    turn, size = np.radians(angle), SCALE_DEG * scale
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 20.0]
    wcs.wcs.crpix = [nx / 2 + 0.5 + dx, ny / 2 + 0.5 + dy]
    wcs.wcs.cd = [
        [-size * np.cos(turn), size * np.sin(turn)],
        [size * np.sin(turn), size * np.cos(turn)],
    ]
    if distortion:
        a, b = np.zeros((4, 4)), np.zeros((4, 4))
        a[2, 0], a[0, 2], b[1, 1], a[3, 0] = distortion, -distortion / 2, distortion, 1e-7
        wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
        wcs.sip = Sip(a, b, np.zeros((4, 4)), np.zeros((4, 4)), wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def linear(dx=0.0, dy=0.0):
    wcs = WCS(naxis=2)
    wcs.wcs.crpix = [1, 1]
    wcs.wcs.crval = [dx, dy]
    wcs.wcs.set()
    return wcs


def warp(engine, kernel, image, target, shape, *, source=None, mask=None, err=1.0, **options):
    image = np.asarray(image, np.float32)
    mask = np.zeros(image.shape, np.uint16) if mask is None else mask
    frame = ArrayRows(image, np.broadcast_to(np.float32(err), image.shape), mask)
    return open_warp(engine, kernel, frame, source or tan(image.shape), target, shape, **options)


def run(*args, **options):
    """Return the planes of a whole grid."""
    opened = warp(*args, **options)
    planes = empty_planes(*opened.mapping.shape)
    opened.fill(0, planes)
    opened.close()
    return planes


def first_class(planes):
    return (planes.k2 > 0) & ((planes.mask & SECOND) == 0)


def star(shape, fwhm=3.5, flux=1e5, at=(0.0, 0.0)):
    """A Gaussian near the centre, integrated by fine sampling of the pixels."""
    sigma = fwhm / 2.3548
    out = np.zeros(shape)
    y, x = np.indices(shape, dtype=float)
    y -= (shape[0] - 1) / 2 + at[1]
    x -= (shape[1] - 1) / 2 + at[0]
    for u in (-0.375, -0.125, 0.125, 0.375):
        for v in (-0.375, -0.125, 0.125, 0.375):
            out += np.exp(-((x + u) ** 2 + (y + v) ** 2) / (2 * sigma**2))
    return (flux / out.sum() * out).astype(np.float32)


def check_identity(engine, kernel):
    """Item 1 of the acceptance list: the identity returns the input."""
    rng = np.random.default_rng(3)
    shape = (70, 90)
    image = rng.normal(0, 10, shape).astype(np.float32)
    mask = np.zeros(shape, np.uint16)
    mask[30, 40] = int(MaskBit.HOT)
    planes = run(engine, kernel, image, tan(shape), shape, mask=mask)
    inner = (slice(9, -9), slice(9, -9))
    touched = planes.mask[inner] != 0
    if kernel == "adaptive":  # smooths by design
        return
    assert touched.sum() == 1 and planes.mask[30, 40] == int(MaskBit.HOT)
    assert planes.k2[30, 40] == 0 and np.isnan(planes.value[30, 40])
    good = ~touched
    # float32 of values of 40 has steps of 4e-6; the spline of reproject is filtered twice.
    limit = 2e-5 if kernel == "bicubic" else 5e-6
    np.testing.assert_allclose(planes.value[inner][good], image[inner][good], atol=limit)
    np.testing.assert_allclose(
        planes.variance[inner][good], 1, atol=1e-6 + 0.1 * (kernel == "exact")
    )


#: How much the sum over a star of 3.5 px FWHM may change with its place. The weights of an
#: output pixel sum to 1, those of an input pixel only nearly.
FLUX_LIMIT_MAG = {
    "nearest": 5e-2,
    "adaptive": 2e-3,
    "bilinear": 2e-3,
    "area": 2e-3,
    "lanczos2": 2e-3,
}


def check_flux(engine, kernel, target, shape, *, limit_mag=None, **options):
    """Flux of a star after the warp, in the convention that keeps it."""
    limit_mag = limit_mag or FLUX_LIMIT_MAG.get(kernel, 1e-3)
    image = star((64, 64), at=(0.31, -0.17))
    planes = run(engine, kernel, image, target, shape, **options)
    value = np.where(first_class(planes), planes.value, 0).astype(float)
    change = 2.5 * np.log10(value.sum() / image.astype(float).sum())
    assert abs(change) < limit_mag, f"flux changes by {1000 * change:.3f} mmag"
    return planes


def check_sigma(engine, kernel, shift, n=6, shape=(120, 120)):
    """Item 3: the claimed sigma is the scatter of white noise, and so is its correlation."""
    total = np.zeros(shape)
    lag = np.zeros(3)
    claimed = good = rho = None
    for seed in range(n):
        white = np.random.default_rng((17, seed)).normal(0, 5, shape)
        opened = warp(engine, kernel, white, tan(shape, dx=shift, dy=shift), shape, err=5.0)
        planes = empty_planes(*shape)
        opened.fill(0, planes)
        rho = opened.correlation if seed == 0 else rho
        opened.close()
        good = first_class(planes)
        claimed = planes.variance
        value = np.where(good, planes.value, 0).astype(float)
        total += value**2
        for i in (1, 2, 3):
            both = good[:, i:] & good[:, :-i]
            lag[i - 1] += (value[:, i:] * value[:, :-i])[both].mean() / n
    measured = total[good].sum() / n / good.sum()
    assert good.sum() > 3000
    # A quarter of 2 x 10^4 pixels is independent at least: 4 standard errors are 3 %.
    assert np.sqrt(measured / claimed[good].mean()) == pytest.approx(1, abs=0.03)
    for i in (1, 2, 3):
        assert rho[5, 5 + i] == pytest.approx(lag[i - 1] / measured, abs=0.03)


def check_masks(engine, kernel):
    """Items 2 and 7: no bad value leaks, every touched pixel carries the bit."""
    shape = (60, 60)
    rng = np.random.default_rng(5)
    image = rng.normal(0, 1, shape).astype(np.float32)
    mask = np.zeros(shape, np.uint16)
    spoiled = image.copy()
    for k, value in enumerate((np.nan, np.inf, 1e30, -1e9, 65535.0)):
        spoiled[20 + 4 * k, 30] = value
        mask[20 + 4 * k, 30] = int(MaskBit.SATURATED if k > 1 else 0)
    # The methods whose variance is measured take long.
    for shift in (0.25,) if kernel in ("exact", "adaptive") else (0.5, 0.25, 0.0):
        target = tan(shape, dx=shift, dy=shift)
        clean = run(engine, kernel, image, target, shape)
        planes = run(engine, kernel, spoiled, target, shape, mask=mask)
        valid = planes.k2 > 0
        assert np.isfinite(planes.value[valid]).all() and np.isfinite(planes.variance[valid]).all()
        assert np.isnan(planes.value[~valid]).all()
        assert np.abs(planes.value[valid]).max() < 8
        same = first_class(planes)
        limit = 1e-3 if kernel == "bicubic" else 2e-5
        np.testing.assert_allclose(planes.value[same], clean.value[same], atol=limit)
        # Each bad pixel leaves its bit, also where a flag of the nearest pixel would be lost.
        for k in range(5):
            bit = int(MaskBit.SATURATED if k > 1 else MaskBit.NO_DATA)
            near = planes.mask[20 + 4 * k : 22 + 4 * k, 30:32]
            assert (near & bit).any()
