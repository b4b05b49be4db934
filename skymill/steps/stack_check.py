"""Checks of a stack by noise realisations, and its map of depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.engines import Rows, WarpPlanes, open_warp
from skymill.frame import MaskBit
from skymill.resample import aperture_factor, local_factor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from skymill.grid import Grid
    from skymill.kernels.stack import Cube
    from skymill.steps.stack_inputs import FrameSource, Member

__all__ = ["CHECK_RADII_PX", "NoiseCheck", "depth_map"]

CHECK_RADII_PX = (2, 3, 5, 8)
#: Rows of a frame that one seed makes: the noise of a row is the same in every band.
_SEED_ROWS = 64
_SEED = 20240609
#: Apertures of a realisation, at most.
_APERTURES = 4000


@dataclass
class _NoiseRows:
    """A frame of white noise of the errors of another one."""

    pixels: FrameSource
    seed: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the frame."""
        return self.pixels.shape

    def rows(self, y0: int, y1: int) -> Rows:
        """Return noise for some rows; mask and errors are those of the frame."""
        found = self.pixels.rows(y0, y1)
        nx = self.shape[1]
        first = y0 // _SEED_ROWS
        blocks = [
            np.random.default_rng([*self.seed, block]).standard_normal((_SEED_ROWS, nx), "f4")
            for block in range(first, -(-y1 // _SEED_ROWS))
        ]
        noise = np.concatenate(blocks)[y0 - first * _SEED_ROWS : y1 - first * _SEED_ROWS]
        return Rows(np.ascontiguousarray(noise * found.err), found.err, found.mask)


class NoiseCheck:
    """White noise of each frame's own errors through the path of the stack.

    Mappings, kernels, weights and rejected pixels are those of the stack.

    Parameters
    ----------
    members : sequence of Member
        Open frames.
    grid : Grid
        Grid of the stack.
    realisations : int
        How many.
    engine, kernel, convention : str
        As for the stack.
    equal, median : bool
        All frames have the same weight; take the median.
    """

    def __init__(
        self,
        members: Sequence[Member],
        grid: Grid,
        realisations: int,
        *,
        engine: str,
        kernel: str,
        convention: str,
        equal: bool,
        median: bool,
    ) -> None:
        self.equal, self.median = equal, median
        self.planes = np.full((realisations, *grid.shape), np.nan, np.float32)
        self._warps = [
            [
                open_warp(
                    engine, kernel, _NoiseRows(member.pixels, (_SEED, n, i)),  # type: ignore[arg-type]
                    member.source.wcs, grid.wcs, grid.shape, mapping=member.mapping,
                    flux_scale=member.flux_scale, convention=convention,
                )
                for i, member in enumerate(members)
            ]
            for n in range(realisations)
        ]  # fmt: skip
        self._rows = [member.rows for member in members]

    def band(
        self,
        cube: Cube,
        other: NDArray[np.float32],
        index: Sequence[int],
        base: int,
        rows: tuple[int, int],
    ) -> None:
        """Combine noise for finished rows of a band.

        Parameters
        ----------
        cube : Cube
            The band; its states are final in these rows.
        other : ndarray of float32
            Room for values in the layout of ``cube.value``.
        index : sequence of int
            Frames of the band.
        base : int
            Row of the grid that is row 0 of the band.
        rows : tuple of int
            First row of the band and one past the last.
        """
        from skymill.kernels.stack_median import fixed_rows

        start, end = rows
        nx = cube.nx
        shape = (end - start, nx)
        room = WarpPlanes(
            np.empty(shape, np.float32), np.empty(shape, np.float32),
            np.empty(shape, np.uint16), np.empty(shape, np.uint16),
        )  # fmt: skip
        for n, warps in enumerate(self._warps):
            for slot, i in enumerate(index):
                warps[i].fill(base + start, room)
                place = slot * cube.stride + start * nx
                other[place : place + shape[0] * nx] = room.value.reshape(-1)
            window = self.planes[n, base + start : base + end]
            second = int(MaskBit.INTERPOLATED)
            fixed_rows(cube, other, start, end, self.equal, self.median, second, window)

    def figures(
        self,
        err: NDArray[np.float32],
        correlation: NDArray[Any],
        correlation_map: NDArray[Any],
        factor: float,
    ) -> dict[str, float]:
        """Return the scatter of the noise over the error that the stack claims.

        Parameters
        ----------
        err : ndarray of float32, shape (ny, nx)
            Errors without the terms that frames share.
        correlation, correlation_map : ndarray
            Noise correlation of the stack.
        factor : float
            Factor of all values (for sums).

        Returns
        -------
        dict
            ``check_pixel``, the pull width of pixels, and ``check_r2`` to ``check_r8``,
            that of apertures with the correlation factor; NaN where too few fit in.
        """
        from skymill.kernels.apertures import aperture_sum

        planes = self.planes * np.float32(factor)
        with np.errstate(invalid="ignore"):
            pulls = (planes / err).astype(np.float64)
        pulls = pulls[np.isfinite(pulls)]
        out = {"check_pixel": float(np.sqrt(np.mean(pulls**2))) if pulls.size else float("nan")}
        ny, nx = err.shape
        rng = np.random.default_rng(_SEED)
        holes = np.where(np.isfinite(err), 0, int(MaskBit.NO_DATA)).astype(np.uint16)
        for radius in CHECK_RADII_PX:
            count = min(_APERTURES, int(ny * nx / (2 * radius + 1) ** 2))
            x = rng.uniform(radius, max(nx - 1 - radius, radius + 1), count)
            y = rng.uniform(radius, max(ny - 1 - radius, radius + 1), count)
            found = []
            for plane in planes:
                sums = aperture_sum(plane, err, holes, x, y, float(radius))
                good = (sums.masked_area == 0) & (sums.flux_err > 0)
                c = local_factor(correlation, correlation_map, x, y, radius, cell_px=64)
                found.append((sums.flux / sums.flux_err / c)[good])
            values = np.concatenate(found) if found else np.empty(0)
            width = float(np.sqrt(np.mean(values**2))) if values.size > 20 else float("nan")
            out[f"check_r{radius}"] = width
        return out


def depth_map(
    err: NDArray[np.float32],
    fwhm: NDArray[np.float32] | float,
    correlation: NDArray[Any],
    *,
    zp: float,
    exptime: float,
) -> NDArray[np.float32]:
    """Return the magnitude of a point source of five sigma at each pixel.

    Its flux is ``5 c sqrt(4 pi) s ERR`` for a PSF of Gaussian sigma ``s``: the noise area
    of the best weights, and ``c`` the correlation factor of an aperture of its size.

    Parameters
    ----------
    err : ndarray of float32, shape (ny, nx)
        Error of a pixel (electron).
    fwhm : ndarray or float
        Seeing (px).
    correlation : ndarray
        Noise correlation by lag.
    zp : float
        Magnitude of 1 electron/s.
    exptime : float
        Exposure to which the values refer (s).
    """
    sigma = np.asarray(fwhm, np.float64) / 2.3548
    typical = float(np.nanmedian(sigma)) if np.isfinite(sigma).any() else 1.0
    factor = aperture_factor(correlation, max(1.5 * typical, 1.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        flux = 5 * factor * np.sqrt(4 * np.pi) * sigma * err
        return np.asarray(zp - 2.5 * np.log10(flux / exptime), np.float32)
