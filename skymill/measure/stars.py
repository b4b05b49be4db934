"""Choosing the stars that tell profiles and growth curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["choose_stars"]


def choose_stars(
    shape: tuple[int, int],
    x: ArrayLike,
    y: ArrayLike,
    flux: ArrayLike,
    flux_err: ArrayLike,
    *,
    separation_px: float,
    margin_px: float,
    usable: ArrayLike | None = None,
    minimum_snr: float = 50.0,
    neighbour_fraction: float = 0.01,
    maximum: int = 200,
) -> NDArray[np.int64]:
    """Return the indices of bright stars without bright neighbours, the brightest first.

    Parameters
    ----------
    shape : (int, int)
        Shape (ny, nx) of the frame.
    x, y : array_like of float, shape (n,)
        Positions of all sources.
    flux, flux_err : array_like of float, shape (n,)
        Their fluxes in a small aperture.
    separation_px : float
        No source brighter than `neighbour_fraction` of the star may be closer.
    margin_px : float
        Stars this close to an edge are left out.
    usable : array_like of bool, shape (n,), optional
        Sources that may be chosen: not saturated, masked or extended.
    minimum_snr : float
        Fewest flux over error.
    neighbour_fraction : float
        See `separation_px`.
    maximum : int
        Most stars.
    """
    from scipy.spatial import cKDTree

    px, py, light, error = (np.asarray(v, np.float64) for v in (x, y, flux, flux_err))
    ny, nx = shape
    there = np.isfinite(px) & np.isfinite(py)
    with np.errstate(invalid="ignore", divide="ignore"):
        chosen = there & (light / error >= minimum_snr)
        chosen &= (px >= margin_px) & (py >= margin_px)
        chosen &= (px <= nx - 1 - margin_px) & (py <= ny - 1 - margin_px)
    if usable is not None:
        chosen &= np.asarray(usable, bool)
    candidates = np.flatnonzero(chosen)
    if not candidates.size:
        return candidates.astype(np.int64)
    known = np.flatnonzero(there & np.isfinite(light))
    tree = cKDTree(np.column_stack([px[known], py[known]]))
    order = candidates[np.lexsort((candidates, -light[candidates]))]
    kept: list[int] = []
    for star in order:
        near = known[tree.query_ball_point([px[star], py[star]], separation_px)]
        near = near[near != star]
        if not near.size or light[near].max() < neighbour_fraction * light[star]:
            kept.append(int(star))
        if len(kept) == maximum:
            break
    return np.array(kept, np.int64)
