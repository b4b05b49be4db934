"""Simulated exposures for stacks: stars, noise and world coordinates of their own.

Nothing here is shared with the reduction. Stars are circular profiles integrated over
the pixels, noise is Poisson and Gaussian, world coordinates are TAN or TAN-SIP of astropy.
Only the classes that a stack is given (`StackInput` and what it holds) are skymill's.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from skymill.frame import Background, Frame
from skymill.grid import Grid
from skymill.steps.stack import StackFrame, StackInput, stack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from skymill.steps.stack import StackProduct

    Plane = NDArray[np.float64]

READ_NOISE_E = 5.0
SCALE_ARCSEC = 0.5
CENTRE_DEG = (150.0, 20.0)
BOX_PX = 64
SIGMA_PER_FWHM = 1 / (2 * math.sqrt(2 * math.log(2)))


def sky_wcs(
    shape: tuple[int, int],
    *,
    rotation_deg: float = 0.0,
    shift_px: tuple[float, float] = (0.0, 0.0),
    scale: float = SCALE_ARCSEC,
    sip_px: float = 0.0,
    parity: int = -1,
) -> WCS:
    """Return a TAN or TAN-SIP projection about the centre of the field.

    Parameters
    ----------
    shape : tuple of int
        Shape (ny, nx); the centre of the field falls on the middle, moved by ``shift_px``.
    rotation_deg, scale : float
        Position angle, scale in arcsec per px.
    sip_px : float
        Distortion at the corners in px: a quadratic and a cubic term; 0 for none.
    parity : int
        -1: east to the left; 1: a mirrored frame.
    """
    ny, nx = shape
    c, s = math.cos(math.radians(rotation_deg)), math.sin(math.radians(rotation_deg))
    matrix = np.array([[parity * c, s], [-parity * s, c]]) * scale / 3600
    header = fits.Header()
    header["WCSAXES"] = 2
    for axis, kind in enumerate(("RA---TAN", "DEC--TAN")):
        header[f"CTYPE{axis + 1}"] = kind + ("-SIP" if sip_px else "")
        header[f"CUNIT{axis + 1}"] = "deg"
        header[f"CRVAL{axis + 1}"] = CENTRE_DEG[axis]
        header[f"CRPIX{axis + 1}"] = ((nx, ny)[axis] + 1) / 2 + shift_px[axis]
        for other in range(2):
            header[f"CD{axis + 1}_{other + 1}"] = matrix[axis, other]
    if sip_px:
        half = max(nx, ny) / 2
        for name, u2, v2, u3 in (("A", 0.5, 0.2, 0.3), ("B", -0.3, 0.4, -0.2)):
            header[f"{name}_ORDER"] = 3
            header[f"{name}_2_0"] = u2 * sip_px / half**2
            header[f"{name}_0_2"] = v2 * sip_px / half**2
            header[f"{name}_{'3_0' if name == 'A' else '0_3'}"] = u3 * sip_px / half**3
    wcs = WCS(header)
    wcs.array_shape = shape
    return wcs


def sky_grid(wcs: WCS, shape: tuple[int, int], names: Sequence[str]) -> Grid:
    """Return a grid with given world coordinates."""
    wcs.array_shape = shape
    return Grid(wcs, shape, tuple(sorted(names)))


def pixel_area(wcs: WCS, x: Plane, y: Plane) -> Plane:
    """Return the area of pixels in arcsec^2 on the sky, by differences of 1 px."""
    corners = [wcs.all_pix2world(x + dx, y + dy, 0) for dx, dy in
               ((-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))]  # fmt: skip
    cos = np.cos(np.radians(corners[0][1]))
    ex, ey = (corners[1][0] - corners[0][0]) * cos, corners[1][1] - corners[0][1]
    nx, ny = (corners[3][0] - corners[2][0]) * cos, corners[3][1] - corners[2][1]
    return np.abs(ex * ny - ey * nx) * 3600.0**2


@dataclass(frozen=True)
class Stars:
    """Positions on the sky in degrees, and electrons per second at throughput 1."""

    ra: Plane
    dec: Plane
    rate: Plane


@dataclass(frozen=True)
class Exposure:
    """How a frame was taken.

    Parameters
    ----------
    rotation_deg, shift_px, sip_px
        See `sky_wcs`.
    throughput, exptime_s : float
        Scale of the stars.
    sky_e, fwhm_px : float
        Sky in electron per px, seeing.
    beta : float or None
        Exponent of a Moffat profile; None: a Gaussian.
    """

    rotation_deg: float = 0.0
    shift_px: tuple[float, float] = (0.0, 0.0)
    sip_px: float = 0.0
    throughput: float = 1.0
    exptime_s: float = 60.0
    sky_e: float = 200.0
    fwhm_px: float = 3.5
    beta: float | None = None
    scale: float = SCALE_ARCSEC

    def wcs(self, shape: tuple[int, int]) -> WCS:
        """Return its world coordinates."""
        return sky_wcs(
            shape, rotation_deg=self.rotation_deg, shift_px=self.shift_px, scale=self.scale,
            sip_px=self.sip_px,
        )  # fmt: skip

    @property
    def flux_scale(self) -> float:
        """What makes a frame one of 60 s at throughput 1."""
        return 60.0 / self.exptime_s / self.throughput

    @property
    def sky_variance(self) -> float:
        """Variance of an empty pixel in electron^2."""
        return self.sky_e + READ_NOISE_E**2


def lattice(wcs: WCS, shape: tuple[int, int], spacing: float, margin: float, rng: Any) -> Stars:
    """Return positions about ``spacing`` px apart at random phases of the pixels; rate 0."""
    ny, nx = shape
    gx, gy = np.meshgrid(
        np.arange(margin, nx - margin, spacing), np.arange(margin, ny - margin, spacing)
    )
    x, y = (g.ravel() + rng.uniform(-0.5, 0.5, g.size) for g in (gx, gy))
    ra, dec = wcs.all_pix2world(x, y, 0)
    return Stars(np.asarray(ra), np.asarray(dec), np.zeros(x.size))


def render(
    shape: tuple[int, int], x: Plane, y: Plane, flux: Plane, fwhm: float, beta: float | None
) -> Plane:
    """Return stars integrated over the pixels, of sum ``flux`` each where they fit."""
    ny, nx = shape
    image = np.zeros(shape)
    reach = math.ceil(7 * SIGMA_PER_FWHM * fwhm) if beta is None else math.ceil(10 * fwhm)
    for cx, cy, f in zip(x, y, flux, strict=True):
        if not (-reach < cx < nx + reach and -reach < cy < ny + reach) or f == 0:
            continue
        i, j = round(cx), round(cy)
        stamp = f * _profile(cx - i, cy - j, fwhm, reach, beta)
        y0, y1 = max(j - reach, 0), min(j + reach + 1, ny)
        x0, x1 = max(i - reach, 0), min(i + reach + 1, nx)
        if y0 < y1 and x0 < x1:
            image[y0:y1, x0:x1] += stamp[
                y0 - j + reach : y1 - j + reach, x0 - i + reach : x1 - i + reach
            ]
    return image


def _profile(dx: float, dy: float, fwhm: float, reach: int, beta: float | None) -> Plane:
    if beta is None:
        from scipy.special import erf

        edges = (np.arange(-reach, reach + 2) - 0.5) / (math.sqrt(2) * SIGMA_PER_FWHM * fwhm)
        width = math.sqrt(2) * SIGMA_PER_FWHM * fwhm
        along_x, along_y = (0.5 * np.diff(erf(edges - d / width)) for d in (dx, dy))
        return np.outer(along_y, along_x)
    alpha = fwhm / (2 * math.sqrt(2 ** (1 / beta) - 1))
    nodes, weights = np.polynomial.legendre.leggauss(4)
    sub = (np.arange(-reach, reach + 1)[:, None] + nodes / 2).ravel()
    r2 = (sub - dy)[:, None] ** 2 + (sub - dx)[None, :] ** 2
    light = (beta - 1) / (np.pi * alpha**2) * (1 + r2 / alpha**2) ** -beta
    side = 2 * reach + 1
    parts = light.reshape(side, 4, side, 4)
    return np.asarray(np.einsum("aibj,i,j->ab", parts, weights / 2, weights / 2))


def mean_image(shape: tuple[int, int], stars: Stars | None, how: Exposure) -> Plane:
    """Return the expected electrons of an exposure, sky included."""
    image = np.full(shape, how.sky_e)
    if stars is not None and stars.rate.any():
        x, y = how.wcs(shape).all_world2pix(stars.ra, stars.dec, 0)
        flux = stars.rate * how.throughput * how.exptime_s
        image += render(shape, x, y, flux, how.fwhm_px, how.beta)
    return image


def stack_input(
    name: str,
    how: Exposure,
    mean: Plane,
    rng: Any = None,
    *,
    extra: Plane | None = None,
    mask: NDArray[np.uint16] | None = None,
    flat: Plane | None = None,
    flat_err: float = 0.0,
) -> StackInput:
    """Return a frame as the stack is given it; without generator it is noiseless.

    The error plane is made as a calibration makes it: from the pixel's own electrons.
    ``extra`` is added after the noise, and the error plane knows nothing of it. The frame
    is multiplied by ``flat``, the wrong flat over the true one, whose relative error
    ``flat_err`` counts in the error plane and in the scatter of the background.
    """
    shape = mean.shape
    data = mean if rng is None else rng.poisson(mean) + rng.normal(0, READ_NOISE_E, shape)
    err = np.sqrt(np.maximum(data, 0) + READ_NOISE_E**2)
    err = np.hypot(err, flat_err * data)
    if flat is not None:
        data = data * flat
    if extra is not None:
        data = data + extra
    rms = math.hypot(math.sqrt(how.sky_variance), flat_err * how.sky_e)
    cells = tuple(-(-n // BOX_PX) for n in shape)
    background = Background(
        np.full(cells, how.sky_e, np.float32),
        np.full(cells, rms, np.float32),
        shape, BOX_PX, 0.0,
    )  # fmt: skip
    bits = np.zeros(shape, np.uint16) if mask is None else mask
    frame = Frame(data, err, bits, fits.Header(), how.wcs(shape))
    pixels = StackFrame(frame, background)
    known = {"throughput": how.throughput, "fwhm_px": how.fwhm_px}
    row = {"exptime_s": how.exptime_s, "mjd_mid": 60000.0}
    return StackInput(name, row, frame.wcs, shape, known, lambda: pixels)


def names(n: int) -> list[str]:
    """Return identifiers of frames; the first one gives the flux scale."""
    return [f"f{i:04d}" for i in range(n)]


def dithered(n: int, rng: Any, *, turn_deg: float = 4.0, dither_px: float = 6.0) -> list[Exposure]:
    """Return exposures of unequal noise, dithered and rotated; the first is the reference."""
    return [
        Exposure(
            rotation_deg=float(rng.uniform(-turn_deg, turn_deg)),
            shift_px=tuple(rng.uniform(-dither_px, dither_px, 2)),
            throughput=1.0 if i == 0 else float(rng.uniform(0.6, 1.1)),
            exptime_s=60.0 if i == 0 else float(rng.choice([30.0, 60.0, 90.0])),
            sky_e=float(rng.choice([120.0, 200.0, 450.0, 900.0])),
            fwhm_px=3.0,
        )
        for i in range(n)
    ]


def undithered(exposures: Sequence[Exposure]) -> list[Exposure]:
    """Return the same exposures without turn or shift."""
    return [replace(e, rotation_deg=0.0, shift_px=(0.0, 0.0), sip_px=0.0) for e in exposures]


def combine(
    inputs: Sequence[StackInput], grid: Grid, engine: str, kernel: str | None = None,
    **settings: Any,
) -> StackProduct:  # fmt: skip
    """Stack with one engine; the flux scale is that of the first frame."""
    if kernel is not None:
        settings["kernel"] = kernel
    settings.setdefault("reference", inputs[0].frame_id)
    return stack(inputs, grid, engine=engine, **settings).value  # type: ignore[arg-type]


@cache
def engine_kernels() -> dict[str, tuple[str, ...]]:
    """Return the engines that can be used here, with their kernels."""
    from skymill.engines import ENGINES

    here = {name: tuple(kernels) for name, kernels in ENGINES.items()}
    if not (shutil.which("SWarp") or shutil.which("swarp")):
        here.pop("swarp", None)
    return here


def circle_sums(
    sci: NDArray[Any], err: NDArray[Any] | None, x: Plane, y: Plane, radius: float
) -> tuple[Plane, Plane]:
    """Return sums in circles and the sums of ``w^2 V``; NaN where a pixel has no value.

    Weights are the exact overlap of circle and pixel, by photutils. Positions beyond the
    image, or too near its edge, give NaN.
    """
    from photutils.geometry import circular_overlap_grid

    half = math.ceil(radius) + 1
    i, j = np.rint(x).astype(int), np.rint(y).astype(int)
    ny, nx = sci.shape
    out = np.full((2, len(x)), np.nan)
    for n in range(len(x)):
        if not (half <= i[n] < nx - half and half <= j[n] < ny - half):
            continue
        dx, dy = i[n] - x[n], j[n] - y[n]
        reach = half + 0.5
        weight = circular_overlap_grid(
            dx - reach, dx + reach, dy - reach, dy + reach, 2 * half + 1, 2 * half + 1, radius, 1, 1
        )
        box = np.s_[j[n] - half : j[n] + half + 1, i[n] - half : i[n] + half + 1]
        used = weight > 0  # a weight of zero does not ask for a value
        out[0, n] = (weight[used] * sci[box][used].astype(np.float64)).sum()
        if err is not None:
            out[1, n] = ((weight[used] * err[box][used].astype(np.float64)) ** 2).sum()
    return out[0], out[1]
