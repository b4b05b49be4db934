"""How sharp the stars of one frame are: their width, profile and elongation.

Part of the step ``sources``. The seeing decides the detection filter, the window of the
centres and the radii of the apertures, so it is measured twice: on a first, shallow
detection and on the final one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skymill.frame import has_bits
from skymill.kernels.apertures import aperture_sum
from skymill.kernels.detect import detect, gaussian_kernel
from skymill.kernels.shapes import WindowedShapes, fit_moffat, windowed_shapes
from skymill.kernels.sky_noise import positive_median
from skymill.steps._scene import BRIGHT, Scene

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "SIGMA_TO_FWHM",
    "Seeing",
    "axes",
    "first_look",
    "is_crowded",
    "measure_seeing",
]

SIGMA_TO_FWHM = 2.3548200450309493
#: The seeing is measured on at most this many of the brightest suitable stars.
_SEEING_STARS = 200
_SEEING_SNR = (50.0, 20.0, 8.0)
#: Narrower windows follow the grid of the pixels instead of an undersampled star: centres
#: at FWHM 1.5 px would be three times worse than their errors.
_SMALLEST_WINDOW_PX = 1.2
#: First detection, for the seeing only: filter, threshold and range of fluxes.
_FIRST_FWHM_PX, _FIRST_SIGMA, _FIRST_RANGE = 2.5, 10.0, 0.003
#: Groups of more than so many px per FWHM^2 that cover this part of the frame are a crowd.
_CROWD_PX, _CROWDED_FRACTION = 300.0, 0.1


class Seeing(NamedTuple):
    """The profile of the stars.

    Attributes
    ----------
    fwhm : float
        Full width at half maximum in px, pixel included; a guess if ``n`` is 0.
    ellipticity, beta : float or None
        Median ellipticity and Moffat exponent of the stars; None without stars.
    n : int
        Stars it was measured on.
    factor : float
        ``fwhm`` over that of the Gaussian with the same windowed moments.
    """

    fwhm: float
    ellipticity: float | None
    beta: float | None
    n: int
    factor: float


def is_crowded(objects: NDArray[Any], fwhm: float, n_pixels: int) -> bool:
    """Whether groups far larger than a star cover much of the frame."""
    large = objects["npix"] > _CROWD_PX * fwhm**2
    return bool(objects["npix"][large].sum() > _CROWDED_FRACTION * n_pixels)


def first_look(scene: Scene) -> Seeing:
    """Guess the seeing from how far above the threshold bright groups rise.

    A Gaussian of peak p covers ``2 pi sigma**2 ln(p / t)`` px above the threshold t.
    """
    kernel = gaussian_kernel(_FIRST_FWHM_PX)
    gain = float(np.sum(kernel, dtype=float) / np.sqrt(np.sum(kernel**2, dtype=float)))
    noise = positive_median(scene.noise, scene.hidden)
    for sigma in (_FIRST_SIGMA, 0.5 * _FIRST_SIGMA):
        objects, segments = detect(
            scene.sci,
            scene.noise,
            scene.hidden,
            threshold_sigma=sigma,
            minimum_area_px=5,
            fwhm_px=_FIRST_FWHM_PX,
        )
        if is_crowded(objects, _FIRST_FWHM_PX, scene.sci.size):
            return _crowded_look(scene, sigma)
        # The library's own threshold of a group is spoilt by any masked pixel in it.
        rise = objects["peak"] / (sigma * noise / gain)
        saturated = has_bits(scene.mask[objects["ypeak"], objects["xpeak"]], BRIGHT)
        use = (rise > 2) & ~saturated & ((objects["flag"] & 2) == 0)
        if not use.any():
            continue
        # Beside a bright star, what is much fainter is noise in its halo or a hit.
        use &= objects["cflux"] > _FIRST_RANGE * objects["cflux"][use].max()
        width = np.sqrt(objects["npix"][use] / (2 * np.pi * np.log(rise[use]))) * SIGMA_TO_FWHM
        bright = np.argsort(-objects["cflux"][use], kind="stable")[:_SEEING_STARS]
        guess = float(np.clip(np.median(width[bright]), 1.2, 60.0))
        owners = np.flatnonzero(use) + 1
        seeing, _ = measure_seeing(scene, objects[use], segments, owners, guess)
        return seeing
    return Seeing(_FIRST_FWHM_PX, None, None, 0, 1.0)


def _crowded_look(scene: Scene, sigma: float) -> Seeing:
    """Guess the seeing where stars merge: their cores stand above the local light."""
    objects, segments = detect(
        scene.sci,
        scene.noise,
        scene.hidden,
        threshold_sigma=sigma,
        minimum_area_px=4,
        fwhm_px=_FIRST_FWHM_PX,
        crowded=True,
    )
    if len(objects) == 0:
        return Seeing(_FIRST_FWHM_PX, None, None, 0, 1.0)
    owners = np.arange(1, len(objects) + 1)
    seeing, _ = measure_seeing(scene, objects, segments, owners, _FIRST_FWHM_PX)
    return seeing


def measure_seeing(
    scene: Scene,
    objects: NDArray[Any],
    segments: NDArray[np.int32],
    owners: NDArray[Any],
    guess: float,
) -> tuple[Seeing, WindowedShapes]:
    """Measure centres and shapes, and the profile of the stars, with a window that fits."""
    fwhm = guess
    seeing = Seeing(guess, None, None, 0, 1.0)
    for _ in range(4):
        shapes = windowed_shapes(
            scene.sci, scene.err, scene.hidden, segments, owners, objects["x"], objects["y"],
            max(fwhm / SIGMA_TO_FWHM, _SMALLEST_WINDOW_PX), max_shift_px=max(2.0, fwhm),
        )  # fmt: skip
        stars = _choose_stars(scene, objects, shapes, fwhm)
        if not stars.any():
            return Seeing(fwhm, None, None, 0, 1.0), shapes
        seeing = _fit_stars(scene, segments, owners, shapes, stars, fwhm)
        if abs(seeing.fwhm - fwhm) < 0.02 * fwhm:
            break
        fwhm = seeing.fwhm
    return seeing, shapes


def _choose_stars(
    scene: Scene, objects: NDArray[Any], shapes: WindowedShapes, fwhm: float
) -> NDArray[np.bool_]:
    """Bright, isolated, unsaturated, complete, and shaped like most of the others."""
    radius = 1.5 * fwhm
    sums = aperture_sum(scene.sci, scene.err, scene.mask, shapes.x, shapes.y, radius)
    snr = sums.flux / sums.flux_err
    clean = shapes.converged & np.isfinite(shapes.xx) & (sums.masked_area == 0)
    clean &= np.isfinite(snr) & ((objects["flag"] & 3) == 0)
    apart = _isolation(objects, shapes)
    for distance in (3.0, 1.5, 0.0):
        alone = clean & (apart > distance * fwhm)
        if (alone & (snr > _SEEING_SNR[0])).sum() >= 5:
            break
    clean = alone if alone.any() else clean
    size = np.maximum(shapes.xx * shapes.yy - shapes.xy**2, 0) ** 0.25
    for limit in _SEEING_SNR:
        stars = clean & (snr > limit)
        if stars.sum() >= 10 or limit == _SEEING_SNR[-1]:
            break
    for _ in range(3):
        if stars.sum() < 4:
            break
        middle = float(np.median(size[stars]))
        spread = 1.4826 * float(np.median(np.abs(size[stars] - middle)))
        stars &= np.abs(size - middle) <= max(3 * spread, 0.05 * middle)
    order = np.flatnonzero(stars)
    order = order[np.argsort(-snr[order], kind="stable")][:_SEEING_STARS]
    chosen = np.zeros(len(objects), bool)
    chosen[order] = True
    return chosen


def _isolation(objects: NDArray[Any], shapes: WindowedShapes) -> NDArray[np.float64]:
    """Distance to the nearest other source in px, infinite if there is none."""
    from scipy.spatial import cKDTree

    x = np.where(shapes.converged, shapes.x, objects["x"])
    y = np.where(shapes.converged, shapes.y, objects["y"])
    if len(x) < 2:
        return np.full(len(x), np.inf)
    points = np.column_stack([x, y])
    distance, _ = cKDTree(points).query(points, k=2)
    return np.asarray(distance, np.float64)[:, 1]


def _fit_stars(
    scene: Scene,
    segments: NDArray[np.int32],
    owners: NDArray[Any],
    shapes: WindowedShapes,
    stars: NDArray[np.bool_],
    fwhm: float,
) -> Seeing:
    """Median profile of the chosen stars."""
    moments = (shapes.xx[stars], shapes.yy[stars], shapes.xy[stars])
    x, y = shapes.x[stars], shapes.y[stars]
    fits = fit_moffat(scene.sci, scene.bad, segments, owners[stars], x, y, moments, fwhm)
    gaussian = SIGMA_TO_FWHM * (moments[0] * moments[1] - moments[2] ** 2) ** 0.25
    a, b, _ = axes(*moments)
    ellipticity = float(np.median(1 - b / a))
    good = np.isfinite(fits.fwhm)
    n = int(stars.sum())
    if not good.any():
        return Seeing(float(np.median(gaussian)), ellipticity, None, n, 1.0)
    factor = float(np.median(fits.fwhm[good] / gaussian[good]))
    return Seeing(
        float(np.median(fits.fwhm[good])), ellipticity, float(np.median(fits.beta[good])), n, factor
    )


def axes(
    xx: NDArray[np.float64], yy: NDArray[np.float64], xy: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Semi-axes and angle of the ellipse of second moments."""
    mean, half = 0.5 * (xx + yy), 0.5 * (xx - yy)
    root = np.hypot(half, xy)
    a = np.sqrt(np.maximum(mean + root, 0))
    b = np.sqrt(np.maximum(mean - root, 0))
    return a, b, 0.5 * np.arctan2(xy, half)
