"""Depth of a frame from random empty apertures."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skymill.aperture_correction import total_over_main
from skymill.kernels.circles import aperture_sums
from skymill.kernels.empty import clear_places

if TYPE_CHECKING:
    from astropy.table import Table
    from numpy.typing import NDArray

    from skymill.frame import Background, Frame

__all__ = [
    "Depth",
    "EmptyApertures",
    "empty_apertures",
    "empty_positions",
    "measure_depth",
    "seed_of",
]

#: Fewer apertures do not tell a scatter.
_FEWEST = 20

#: Rounds of random positions before the frame is called full.
_ROUNDS = 20


@dataclass(frozen=True)
class EmptyApertures:
    """What random empty apertures say of the noise.

    Parameters
    ----------
    sigma_e : float
        Robust scatter of their sums in electron; NaN if there was no room for them.
    median_e : float
        Median of their sums: what is left of the background.
    analytic_e : float
        Median of the errors that the noise model gives for them.
    number : int
        How many were used.
    """

    sigma_e: float
    median_e: float
    analytic_e: float
    number: int


@dataclass(frozen=True)
class Depth:
    """The faintest flux that is significant.

    Parameters
    ----------
    flux_e : float
        Total flux in electron of a source of ``n_sigma``; NaN if it is not known.
    correction : float
        Ratio of total flux to flux in the aperture.
    empty : EmptyApertures
        What it was measured from.
    """

    flux_e: float
    correction: float
    empty: EmptyApertures


def measure_depth(
    sources: Table,
    frame: Frame,
    background: Background,
    *,
    frame_id: str,
    radius_px: float,
    source_radius_px: float,
    number: int,
    n_sigma: float = 5.0,
) -> Depth:
    """Measure the depth of a frame: ``n_sigma`` scatters of empty apertures, as a total flux.

    Parameters
    ----------
    sources : astropy.table.Table
        Its sources: x, y, flux, flux_err, flux_total, flux_total_err, flags; npix is
        used if there.
    frame, background : Frame, Background
        Calibrated frame in electron with its final mask, and its background.
    frame_id : str
        Seeds the positions.
    radius_px : float
        Radius of the main aperture.
    source_radius_px : float
        Radius around a source that is not empty (NaN: three times ``radius_px``).
    number : int
        Apertures that are wanted.
    n_sigma : float
        Significance.
    """
    xy = np.stack([np.asarray(sources[name], dtype=float) for name in ("x", "y")], axis=1)
    size = np.full(len(xy), source_radius_px if source_radius_px > 0 else 3 * radius_px)
    if "npix" in sources.colnames:
        size = np.maximum(size, 1.5 * np.sqrt(np.asarray(sources["npix"], float) / np.pi))
    empty = empty_apertures(
        frame,
        background,
        xy,
        size,
        radius_px=radius_px,
        number=number,
        seed=seed_of(frame_id),
    )
    correction, _, _ = total_over_main(sources, source_radius_px)
    return Depth(n_sigma * empty.sigma_e * correction, correction, empty)


def seed_of(frame_id: str) -> int:
    """Return a seed that depends on the id of a frame alone."""
    return int.from_bytes(hashlib.sha256(frame_id.encode()).digest()[:8], "big")


def empty_apertures(
    frame: Frame,
    background: Background,
    sources: NDArray[np.float64],
    source_radius: NDArray[np.float64],
    *,
    radius_px: float,
    number: int,
    seed: int,
) -> EmptyApertures:
    """Sum random apertures that hold no source and no bad pixel.

    Overlapping apertures are not independent, so at most ``free area / (2 pi r^2)`` are
    drawn. The relative error of the scatter is ``1.17 / sqrt(number)``.

    Parameters
    ----------
    frame : Frame
        Calibrated frame in electron with its final mask.
    background : Background
        Its background, subtracted here.
    sources : ndarray of float64, shape (n, 2)
        Positions (x, y) of detected sources.
    source_radius : ndarray of float64, shape (n,)
        Radius around each that is not empty, in pixels.
    radius_px : float
        Radius of the apertures.
    number : int
        Apertures that are wanted.
    seed : int
        Seed of the positions.

    Returns
    -------
    EmptyApertures
    """
    x, y = empty_positions(
        frame, sources, source_radius, radius_px=radius_px, number=number, seed=seed
    )
    if len(x) < _FEWEST:
        nan = float("nan")
        return EmptyApertures(nan, nan, nan, len(x))
    level = background.level_map()
    sums = aperture_sums(frame.sci - level, frame.err, frame.mask, x, y, [radius_px])
    good = np.isfinite(sums.flux[:, 0])
    flux, error = sums.flux[good, 0], sums.flux_err[good, 0]
    middle = float(np.median(flux))
    return EmptyApertures(
        1.4826 * float(np.median(np.abs(flux - middle))),
        middle,
        float(np.median(error[np.isfinite(error)])),
        int(good.sum()),
    )


def empty_positions(
    frame: Frame,
    sources: NDArray[np.float64],
    source_radius: NDArray[np.float64],
    *,
    radius_px: float,
    number: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return random positions (x, y) with nothing within a radius of them.

    Parameters are those of `empty_apertures`.
    """
    return _positions(frame.sci, frame.mask, sources, source_radius, radius_px, number, seed)


def _positions(
    sci: NDArray[np.float32],
    mask: NDArray[np.uint16],
    sources: NDArray[np.float64],
    source_radius: NDArray[np.float64],
    radius: float,
    number: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw positions whose aperture is empty, as many as are independent."""
    ny, nx = sci.shape
    rng = np.random.default_rng(seed)
    reach = int(np.ceil(radius + 1))
    if min(nx, ny) <= 2 * reach + 1:
        return np.zeros(0), np.zeros(0)
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.hypot(dx, dy) <= radius + 0.7
    dx, dy = dx[disc], dy[disc]
    good = np.flatnonzero(np.isfinite(sources).all(axis=1) & np.isfinite(source_radius))
    good = good[np.argsort(sources[good, 0], kind="stable")]
    near = (*np.ascontiguousarray(sources[good].T), source_radius[good] + radius)
    found: list[NDArray[np.float64]] = []
    n_found = n_drawn = 0
    for _ in range(_ROUNDS):
        xy = rng.uniform([reach, reach], [nx - 1 - reach, ny - 1 - reach], (2 * number, 2))
        x, y = (np.ascontiguousarray(xy[:, axis]) for axis in (0, 1))
        clear = clear_places(x, y, sci, mask, dx, dy, *near)
        found.append(xy[clear])
        n_found, n_drawn = n_found + int(clear.sum()), n_drawn + len(xy)
        # The free area follows from the fraction of hits.
        most = int(n_found / n_drawn * nx * ny / (2 * np.pi * radius**2))
        if n_found >= min(number, most):
            break
    positions = np.concatenate(found)[: min(number, most)]
    return positions[:, 0], positions[:, 1]
