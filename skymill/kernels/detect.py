"""Connected pixels above a threshold: one careful way to call the detection library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["crowded_kernel", "detect", "gaussian_kernel"]

#: Largest half-width of a detection kernel in px; beyond it time grows, not depth.
_KERNEL_REACH = 4


def gaussian_kernel(fwhm_px: float) -> NDArray[np.float32]:
    """Return a Gaussian detection kernel of odd size, at most 9 px wide, peak 1."""
    sigma = max(fwhm_px, 1.0) / 2.3548
    reach = int(np.clip(np.ceil(2.0 * sigma), 1, _KERNEL_REACH))
    offsets = np.arange(-reach, reach + 1)
    profile = np.exp(-0.5 * (offsets / sigma) ** 2)
    return np.ascontiguousarray(np.outer(profile, profile), np.float32)


def crowded_kernel(fwhm_px: float) -> NDArray[np.float32]:
    """Return a Gaussian less its mean: a filter that a plateau of light does not pass."""
    kernel = gaussian_kernel(fwhm_px).astype(np.float64)
    return np.ascontiguousarray(kernel - kernel.mean(), np.float32)


def detect(
    data: NDArray[np.float32],
    noise: NDArray[np.float32],
    mask: NDArray[np.bool_],
    *,
    threshold_sigma: float,
    minimum_area_px: int,
    kernel: NDArray[np.float32],
    deblend_contrast: float = 1.0,
) -> tuple[NDArray[Any], NDArray[np.int32], bool]:
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
    kernel : ndarray of float32
        Filter, odd sizes.
    deblend_contrast : float
        Contrast for separating groups that touch; 1 does not separate.

    Returns
    -------
    objects : structured ndarray
        As `sep.extract`.
    segments : ndarray of int32, shape (ny, nx)
        Index + 1 of the object of each pixel, 0 for none.
    deblended : bool
        False if the separation had to be given up for lack of memory.
    """
    import sep

    data = np.where(mask, np.float32(0), data)
    noise = np.where(mask, np.float32(1), noise)
    options: dict[str, Any] = {
        "err": noise,
        "mask": mask,
        "minarea": minimum_area_px,
        "filter_kernel": kernel,
        "filter_type": "matched",
        "clean": False,  # it drops isolated stars near the limit
        "segmentation_map": True,
    }
    # The buffers of the library are of fixed size; a full one is an exception.
    pixels = max(300_000, data.size // 8)
    children = 1024
    contrast = deblend_contrast
    while True:
        sep.set_extract_pixstack(pixels)
        sep.set_sub_object_limit(children)
        try:
            objects, segments = sep.extract(data, threshold_sigma, deblend_cont=contrast, **options)
        except Exception as error:  # the library raises plain Exception
            text = str(error)
            if "pixel buffer" in text and pixels < data.size:
                pixels = min(4 * pixels, data.size)
            elif "deblending" in text and children < 16_384:
                children *= 4
            elif "deblending" in text and contrast < 1.0:
                contrast = 1.0
            else:
                raise
            continue
        return objects, np.ascontiguousarray(segments, np.int32), contrast == deblend_contrast
