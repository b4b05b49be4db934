"""L.A.Cosmic (van Dokkum 2001), evaluated only where a pixel can be a cosmic ray.

The classic form filters the whole image with medians of 9, 25 and 49 pixels in every
iteration. With ``S = L / (2 N)``, the Laplacian over the noise, ``S' = S - med5(S)`` and
``S >= 0``, a hit needs ``S > sigclip``; and the median of the variance is not below its
minimum. So

``L^2 > 4 sigclip^2 max(min5(V), 1e-5)``

is necessary, costs one Laplacian and one separable minimum, and leaves a fraction of a
per cent of the pixels for the exact test. In later iterations only pixels within 4 px of
a changed one can change their verdict.

The definition is that of ``astroscrappy.detect_cosmics`` with full medians, the masked
mean as replacement and the median fine structure, borders included: medians copy their
input within their half-width of the edge, the Laplacian takes pixels outside as zero,
and replacement spares the outer two pixels. Hence no hit is found in the outer two
pixels. All arithmetic is in float32 in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from skymill.kernels.lacosmic_search import STRETCH, near, replace_near, screen, search
from skymill.kernels.order_statistics import box_median

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Cosmics", "lacosmic"]

_ZERO = np.float32(0)


@dataclass(frozen=True, eq=False)
class Cosmics:
    """Result of `lacosmic`.

    Parameters
    ----------
    mask : ndarray of bool, shape (ny, nx)
        Hits.
    clean : ndarray of float32, shape (ny, nx)
        The image with the hits replaced.
    candidates : int
        Pixels that passed the bound in the first iteration.
    iterations : int
        Iterations that found new hits.
    """

    mask: NDArray[np.bool_]
    clean: NDArray[np.float32]
    candidates: int
    iterations: int


def lacosmic(
    image: NDArray[np.float32],
    *,
    variance: NDArray[np.float32] | None = None,
    mask: NDArray[np.bool_] | None = None,
    background: NDArray[np.float32] | None = None,
    read_noise: float = 0.0,
    sigclip: float = 4.5,
    sigfrac: float = 0.3,
    objlim: float = 5.0,
    niter: int = 4,
    satlevel: float = np.inf,
    overwrite: bool = False,
    fallback: tuple[float, float] | None = None,
) -> Cosmics:
    """Find cosmic rays.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Image in electron, sky inside unless ``variance`` is given; finite. Not modified.
    variance : ndarray of float32, shape (ny, nx), optional
        Variance (electron^2); its 5 x 5 median is what a pixel's noise would be without a
        hit. By default ``image + read_noise^2``.
    mask : ndarray of bool, shape (ny, nx), optional
        Bad pixels: never hits, nor used for replacement; grown by one pixel.
    background : ndarray of float32, shape (ny, nx), optional
        Taken off before the search; its photons stay in the variance, unfiltered.
    read_noise : float
        Electron; used without ``variance``.
    sigclip, sigfrac, objlim : float
        Threshold of ``S'``, its fraction for neighbours of hits, and threshold of ``S'/F``.
    niter : int
        Largest number of iterations.
    satlevel : float
        Pixels at or above it in surroundings above a tenth of it join the mask, grown by
        four pixels.
    overwrite : bool
        Work in ``image`` and ``variance`` if they are contiguous float32; they are then
        cleaned.
    fallback : tuple of float, optional
        Value and variance that replace a hit without a good pixel around it. By default
        the medians of the good pixels of the frame, which take longer than all the rest.

    Returns
    -------
    Cosmics

    Raises
    ------
    ValueError
        If shapes differ, the image is smaller than 5 x 5 px, or a value is not finite.
    """
    clean, spread, extra = _planes(image, variance, background, read_noise, not overwrite)
    skip = _grown(mask, clean.shape)
    if satlevel < np.inf:
        _add_saturated(clean, skip, np.float32(satlevel))
    if background is not None:
        clean -= extra
    found = np.zeros(clean.shape, np.uint8)
    strict = np.float32(sigclip)
    # as a product of two float32 numbers, like everything else here
    relaxed = np.float32(np.float32(sigfrac) * strict)
    first = screen(clean, spread, extra, skip, strict)
    thresholds = np.array([strict, relaxed, np.float32(objlim)], np.float32)
    instead = np.array((np.nan, np.nan) if fallback is None else fallback, np.float32)
    state = np.zeros(clean.shape, np.uint8)
    candidates, iterations = first, 0
    saved: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
    for _ in range(niter):
        fresh = search(clean, spread, extra, skip, found, state, candidates, thresholds)
        if fresh.size == 0:
            break
        iterations += 1
        saved.append((fresh, clean.ravel()[fresh], spread.ravel()[fresh]))
        changed, known = replace_near(clean, spread, skip, found, state, fresh, instead)
        if not known:
            # Some hit has no good pixel around it: it takes the median of the frame.
            instead[:] = _frame_medians(clean, spread, skip, saved)
            changed, _ = replace_near(clean, spread, skip, found, state, fresh, instead)
        candidates = near(clean, spread, extra, skip, state, changed, strict)
    if background is not None:
        clean += extra
    return Cosmics(found.view(np.bool_), clean, int(first.size), int(iterations))


def _planes(
    image: NDArray[Any],
    variance: NDArray[Any] | None,
    background: NDArray[Any] | None,
    read_noise: float,
    copy: bool,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Image and variance, and the background or a plane of one pixel."""
    clean = np.array(image, np.float32, order="C", copy=copy or None)
    if clean.ndim != 2 or min(clean.shape) < 5:
        raise ValueError(f"an image needs at least 5 x 5 px, got {clean.shape}")
    for name, plane in (("variance", variance), ("background", background)):
        if plane is not None and plane.shape != clean.shape:
            raise ValueError(f"{name} must have shape {clean.shape}, got {plane.shape}")
    extra = np.zeros((1, 1), np.float32)
    if background is not None:
        extra = np.array(background, np.float32, order="C")
    if variance is None:
        noise = np.float32(np.float32(read_noise) * np.float32(read_noise))
        spread = clean - extra + noise if background is not None else clean + noise
    else:
        spread = np.array(variance, np.float32, order="C", copy=copy or None)
        if background is not None:
            spread -= extra
    if not (_finite(clean) and _finite(spread)):
        raise ValueError("image and variance must be finite; fill bad pixels first")
    return clean, spread, extra


def _grown(mask: NDArray[np.bool_] | None, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if mask is None:
        return np.zeros(shape, np.uint8)
    if mask.shape != shape:
        raise ValueError(f"mask must have shape {shape}, got {mask.shape}")
    given = np.ascontiguousarray(mask, np.bool_).view(np.uint8)
    return np.asarray(_dilate(given))


def _frame_medians(
    clean: NDArray[np.float32],
    spread: NDArray[np.float32],
    skip: NDArray[np.uint8],
    saved: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]],
) -> tuple[np.float32, np.float32]:
    """Medians of the good pixels of image and variance as they were before any replacement."""
    bad = skip.ravel() != 0
    found = []
    for k, plane in enumerate((clean, spread), start=1):
        values = plane.flatten()
        for old in saved:
            values[old[0]] = old[k]
        found.append(_lower_median(values, bad))
    return found[0], found[1]


def _lower_median(values: NDArray[np.float32], bad: NDArray[np.bool_]) -> np.float32:
    """Median of good values, which are reordered; of an even number the lower middle one."""
    n = values.size - int(np.count_nonzero(bad))
    if n == 0:
        return _ZERO
    values[bad] = np.inf
    values.partition((n - 1) // 2)
    return np.float32(values[(n - 1) // 2])


@njit(cache=True, nogil=True)
def _finite(plane: Any) -> Any:
    for y in range(plane.shape[0]):
        row, odd = plane[y], np.uint32(0)
        for x in range(row.size):
            odd += np.uint32(row[x] - row[x] != 0)  # x - x is 0 for finite numbers only
        if odd:
            return False
    return True


@njit(cache=True, nogil=True)
def _dilate(mask: Any) -> Any:
    """Grow by one pixel in all eight directions; the outermost pixels stay as they are."""
    ny, nx = mask.shape
    out = mask.copy()
    for y in range(ny):
        for start in range(0, nx, STRETCH):
            stop = min(start + STRETCH, nx)
            part, some = mask[y, start:stop], np.uint8(0)
            for x in range(part.size):
                some |= part[x]
            if some == 0:
                continue
            for x in range(start, stop):
                if mask[y, x] == 0:
                    continue
                for j in range(max(y - 1, 1), min(y + 2, ny - 1)):
                    for i in range(max(x - 1, 1), min(x + 2, nx - 1)):
                        out[j, i] = 1
    return out


@njit(cache=True, nogil=True)
def _add_saturated(image: Any, skip: Any, level: Any) -> Any:
    """Add the cores of saturated stars, grown twice by a 5 x 5 box without corners."""
    ny, nx = image.shape
    work = np.empty(25, np.float32)
    cores = np.zeros(image.shape, np.uint8)
    some = False
    for y in range(ny):
        for x in range(nx):
            if image[y, x] >= level:
                around = image[y, x]
                if 2 <= y < ny - 2 and 2 <= x < nx - 2:
                    around = box_median(image, y, x, 2, work)
                if around > level / np.float32(10):
                    cores[y, x] = 1
                    some = True
    if not some:
        return
    for _ in range(2):
        grown = cores.copy()
        for y in range(ny):
            for x in range(nx):
                if cores[y, x] == 0:
                    continue
                for j in range(max(y - 2, 2), min(y + 3, ny - 2)):
                    for i in range(max(x - 2, 2), min(x + 3, nx - 2)):
                        if abs(j - y) + abs(i - x) < 4:
                            grown[j, i] = 1
        cores = grown
    for y in range(ny):
        for x in range(nx):
            if cores[y, x]:
                skip[y, x] = 1
