"""Connected pixels above a threshold of the matched-filtered image, and their separation.

Filtering, groups and their measures are ours; a group that a level might divide goes to the
detection library, which sees nothing of the rest of the frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.kernels.groups import connect, divisible, label, measure
from skymill.kernels.matched_filter import matched_filter, smooth_runs
from skymill.kernels.separate import EDGE, OBJECT, separate

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["crowded_kernel", "detect", "gaussian_kernel"]

#: Largest half-width of a detection kernel in px; beyond it time grows, not depth.
_KERNEL_REACH = 4


def gaussian_kernel(fwhm_px: float) -> NDArray[np.float32]:
    """Return a Gaussian detection kernel of odd size, at most 9 px wide, peak 1."""
    profile = _profile(fwhm_px)
    return np.ascontiguousarray(np.outer(profile, profile), np.float32)


def crowded_kernel(fwhm_px: float) -> NDArray[np.float32]:
    """Return a Gaussian less its mean: a filter that a plateau of light does not pass."""
    kernel = gaussian_kernel(fwhm_px).astype(np.float64)
    return np.ascontiguousarray(kernel - kernel.mean(), np.float32)


def _profile(fwhm_px: float) -> NDArray[np.float64]:
    sigma = max(fwhm_px, 1.0) / 2.3548
    reach = int(np.clip(np.ceil(2.0 * sigma), 1, _KERNEL_REACH))
    offsets = np.arange(-reach, reach + 1)
    return np.asarray(np.exp(-0.5 * (offsets / sigma) ** 2))


def detect(
    data: NDArray[np.float32],
    noise: NDArray[np.float32],
    mask: NDArray[np.bool_],
    *,
    threshold_sigma: float,
    minimum_area_px: int,
    fwhm_px: float,
    crowded: bool = False,
    deblend_contrast: float = 1.0,
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Find groups of connected pixels in the matched-filtered image.

    Parameters
    ----------
    data, noise : ndarray of float32, shape (ny, nx)
        Background-subtracted image and one-sigma noise; finite where ``mask`` is False.
    mask : ndarray of bool, shape (ny, nx)
        True is left out of the detection.
    threshold_sigma : float
        Threshold in sigma of the filtered image.
    minimum_area_px : int
        Fewest pixels of a group.
    fwhm_px : float
        The filter is `gaussian_kernel` of this width.
    crowded : bool
        The filter is `crowded_kernel` of this width.
    deblend_contrast : float
        Contrast for separating groups that touch; 1 does not separate.

    Returns
    -------
    objects : structured ndarray
        x, y, a, b, theta, errx2, erry2, cflux, peak, npix, xpeak, ypeak and flag, as
        `sep.extract` defines them for a matched filter without cleaning.
    segments : ndarray of int32, shape (ny, nx)
        Index + 1 of the object of each pixel, 0 for none.
    """
    profile = _profile(fwhm_px)
    offset = float(np.outer(profile, profile).mean()) if crowded else 0.0
    snr = matched_filter(data, noise, mask, profile, offset)
    runs = connect(snr, threshold_sigma, minimum_area_px)
    smooth = smooth_runs(data, mask, (runs.y, runs.x0, runs.x1), profile, offset)
    count = len(runs.start) - 1
    segments = np.zeros(data.shape, np.int32)
    values = measure(runs, data, noise, mask, smooth)
    objects = _objects(values)
    numbers = np.arange(1, count + 1, dtype=np.int32)
    label(runs, numbers, segments)
    if deblend_contrast < 1.0:
        # A masked pixel makes the levels at which the library divides a group infinite.
        whole = np.flatnonzero(values[13] == 0)
        groups = whole[divisible(runs, whole, smooth, deblend_contrast)]
        if len(groups):
            kernel = crowded_kernel(fwhm_px) if crowded else gaussian_kernel(fwhm_px)
            return separate(
                objects, runs, groups, segments, (data, noise, mask), kernel,
                threshold_sigma, minimum_area_px, deblend_contrast,
            )  # fmt: skip
    return objects, segments


def _objects(values: NDArray[np.float64]) -> NDArray[Any]:
    objects = np.zeros(values.shape[1], OBJECT)
    names = ("npix", "x", "y", "a", "b", "theta", "errx2", "erry2", "cflux", "peak",
             "xpeak", "ypeak")  # fmt: skip
    for name, column in zip(names, values, strict=False):
        objects[name] = column
    objects["flag"] = np.where(values[12] > 0, EDGE, 0)
    return objects
