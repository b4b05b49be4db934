"""Where the light of sources is: for backgrounds, stacks and everything that wants empty sky."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skymill.kernels.mesh import mesh_spline
from skymill.kernels.segments import GROWN, SEED, SKY, filter_residual, find_segments, paint
from skymill.steps._growth import filter_profile, growth
from skymill.steps._sky_mesh import states_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.frame import Background, Frame
    from skymill.kernels.mesh import Spline

__all__ = ["source_mask"]

#: A map that is no mesh is looked at through cells of this size for the threshold.
_CELL_PX = 16


def source_mask(
    frame: Frame,
    background: Background | None = None,
    *,
    threshold_sigma: float = 3.0,
    minimum_area_px: int = 5,
    filter_fwhm_px: float = 2.5,
    grow_factor: float = 1.5,
    grow_px: float = 4.0,
    radius_factor: float = 0.0,
    saturated_factor: float = 2.0,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Return True where there is light of a source.

    Groups of connected pixels above the local background are grown. A group of n pixels
    has the radius ``r = sqrt(n / pi)``, which is the larger the brighter the source is; all
    within ``(grow_factor - 1) r + grow_px`` of its pixels is masked. So the mask has the
    form of the isophote, whatever that is; elongated groups reach further along their axis.

    Parameters
    ----------
    frame : Frame
        Calibrated frame with its mask. Not modified. Saturated, bled and non-linear pixels
        help to find sources, other bad pixels are left out.
    background : Background, optional
        Its background; measured if it is not given.
    threshold_sigma : float
        Threshold in sigma of the filtered image.
    minimum_area_px : int
        Fewest connected pixels.
    filter_fwhm_px : float
        FWHM of the Gaussian filter in px.
    grow_factor, grow_px : float
        Growth of the isophote, relative to its radius and in px.
    radius_factor : float
        Disks of this many radii about the centres are masked too; 0: none.
    saturated_factor : float
        Growth of sources with saturated pixels is multiplied by this.
    mask : ndarray of bool, shape (ny, nx), optional
        Sources that are known already, True; they are part of the result.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
        True on the light of sources. Bad pixels are True where they lie inside a source's
        pixels or growth.

    Raises
    ------
    StepFailed
        ALL_MASKED if no background is given and no pixel is good.
    """
    if mask is not None and mask.shape != frame.shape:
        raise ValueError(f"mask of shape {mask.shape} for a frame of {frame.shape}")
    if background is None:
        from skymill.steps.background import background as measure

        background = measure(frame).value
    state, _ = states_of(frame)
    level, noise = _splines(background)
    profile = filter_profile(filter_fwhm_px)
    filtered = filter_residual(frame.sci, state, level, profile)
    narrowed = float(np.sum(profile.astype(np.float64) ** 2))
    threshold = noise._replace(
        nodes=threshold_sigma * narrowed * noise.nodes,
        bend=threshold_sigma * narrowed * noise.bend,
    )
    segments = find_segments(filtered, state, threshold, minimum_area_px)
    reach, ellipses = growth(
        segments,
        factor=grow_factor,
        grow_px=grow_px,
        saturated_factor=saturated_factor,
        radius_factor=radius_factor,
    )
    painted = paint(np.full(frame.shape, SKY, np.uint8), segments, reach, ellipses)
    found = (painted == SEED) | (painted == GROWN)
    return found if mask is None else found | mask


def _splines(background: Background) -> tuple[Spline, Spline]:
    """Level and scatter as splines; maps that are no meshes as splines of many small cells."""
    shape, box = background.shape, background.box_size_px
    if background.model == "mesh" and box > 1:
        level = np.asarray(background.level, np.float64)
        rms = np.asarray(background.rms, np.float64)
        return mesh_spline(level, shape, box), mesh_spline(rms, shape, box, extrapolate=False)
    cells = tuple(-(-n // _CELL_PX) for n in shape)
    rows, columns = (
        np.clip((np.arange(c) * _CELL_PX + _CELL_PX // 2), 0, n - 1)
        for c, n in zip(cells, shape, strict=True)
    )
    out = [
        mesh_spline(np.asarray(m, np.float64)[np.ix_(rows, columns)], shape, _CELL_PX,
                    extrapolate=False)
        for m in (background.level_map(), background.rms_map())
    ]  # fmt: skip
    return out[0], out[1]
