"""Errors of bias, dark and flat that the frames of a stack share.

A master is wrong by the same amount in every frame that it calibrated. Where the same
detector pixel falls on the output pixel in several frames that error does not average
down. `ERR` of a frame counts it once; here is what is added for the pairs of frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from skymill.frame import Background
    from skymill.resample import PixelMap

__all__ = ["Calibration", "MasterCells", "SharedFrame", "SharedPlanes", "shared_planes"]

#: Lags of a stored noise correlation.
_LAGS = 11


@dataclass(frozen=True)
class Calibration:
    """Masters that calibrated a frame.

    Parameters
    ----------
    bias, dark, flat : str
        What identifies each master (its checksum or name); empty if none was applied.
    gain_e_adu : float
        Electron/ADU.
    tau : float
        Exposure over that of the dark; 0 without a dark.
    """

    bias: str = ""
    dark: str = ""
    flat: str = ""
    gain_e_adu: float = 1.0
    tau: float = 0.0


@dataclass(frozen=True)
class MasterCells:
    """Mean error of a master in cells of the detector.

    Parameters
    ----------
    variance : ndarray of float64, shape (my, mx)
        Mean squared standard error: ADU^2 of bias and dark, square of the relative error
        of a flat.
    value : ndarray of float64, shape (my, mx)
        Mean value of a flat; of no meaning for the others.
    cell_px : int
        Side of a cell.
    """

    variance: NDArray[np.float64]
    value: NDArray[np.float64]
    cell_px: int

    @classmethod
    def of(
        cls,
        value: NDArray[np.float32],
        err: NDArray[np.float32],
        mask: NDArray[np.uint16],
        *,
        flat: bool,
        cell_px: int = 64,
    ) -> MasterCells:
        """Average the planes of a master; masked pixels do not count."""
        good = (mask == 0) & np.isfinite(value) & np.isfinite(err)
        if flat:
            good &= value > 0
        safe = np.where(good, value, 1).astype(np.float64)
        square = np.where(good, err, 0).astype(np.float64) ** 2
        if flat:
            square /= safe**2
        count = _cell_sums(good.astype(np.float64), cell_px)
        variance = _cell_sums(np.where(good, square, 0.0), cell_px)
        level = _cell_sums(np.where(good, safe, 0.0), cell_px)
        known = count > 0
        out = []
        for total in (variance, level):
            typical = float(total.sum() / count.sum()) if known.any() else 0.0
            out.append(np.where(known, total / np.maximum(count, 1), typical))
        return cls(out[0], out[1], cell_px)


def _cell_sums(plane: NDArray[np.float64], cell: int) -> NDArray[np.float64]:
    """Sums over cells; the last ones may be cut."""
    rows = np.arange(0, plane.shape[0], cell)
    columns = np.arange(0, plane.shape[1], cell)
    out = np.add.reduceat(np.add.reduceat(plane, rows, axis=0), columns, axis=1)
    return np.asarray(out, np.float64)


@dataclass(frozen=True)
class SharedFrame:
    """What the shared terms need of one frame of the stack.

    Parameters
    ----------
    calibration : Calibration or None
        Its masters; None if they are not known.
    background : Background
        Sky level: the error of the flat goes with the value before it is subtracted.
    mapping : PixelMap
        Positions of the pixels of the grid in the frame.
    scale_nodes : ndarray of float64
        Flux scale at the nodes of the mapping.
    weight_nodes : ndarray of float64
        Weight at the nodes.
    correlation : ndarray of float64, shape (11, 11)
        Noise correlation of the resampled frame by lag.
    shape : tuple of int
        Shape of the frame.
    """

    calibration: Calibration | None
    background: Background
    mapping: PixelMap
    scale_nodes: NDArray[np.float64]
    weight_nodes: NDArray[np.float64]
    correlation: NDArray[np.float64]
    shape: tuple[int, int]


@dataclass(frozen=True)
class SharedPlanes:
    """Variance that pairs of frames add, ``sky + S slope + S^2 square`` for a signal S.

    Each of shape (cells_y, cells_x) at the centres of cells; electron^2, electron, 1.
    """

    sky: NDArray[np.float64]
    slope: NDArray[np.float64]
    square: NDArray[np.float64]
    cell_px: int

    @property
    def any(self) -> bool:
        """True if there is something to add."""
        return bool((self.sky != 0).any() or (self.square != 0).any())

    def add_to(self, sci: NDArray[np.float32], err: NDArray[np.float32], factor: float) -> None:
        """Add the terms to an error plane in place.

        Parameters
        ----------
        sci, err : ndarray of float32, shape (ny, nx)
            The stack; its errors are raised.
        factor : float
            Factor of the stack's values over the mean (for sums).
        """
        from skymill.kernels.mesh import mesh_spline
        from skymill.kernels.stack_rows import expand_rows

        splines = [
            tuple(mesh_spline(plane, sci.shape, self.cell_px, extrapolate=False))
            for plane in (self.sky, self.slope, self.square)
        ]
        for y0 in range(0, sci.shape[0], self.cell_px):
            y1 = min(y0 + self.cell_px, sci.shape[0])
            a, b, c = (expand_rows(spline, y0, y1, sci.shape[1]) for spline in splines)
            signal = np.maximum(sci[y0:y1], 0) / np.float32(factor)
            extra = np.maximum(a + b * signal + c * signal**2, 0) * np.float32(factor**2)
            err[y0:y1] = np.sqrt(err[y0:y1] ** 2 + extra)


def shared_planes(
    frames: Sequence[SharedFrame],
    masters: Mapping[str, MasterCells],
    grid_shape: tuple[int, int],
    *,
    cell_px: int = 64,
) -> SharedPlanes:
    """Return the variance that shared calibration errors add to a weighted mean.

    ``sum_(i != j) w_i w_j a_i a_j v kappa_ij / W^2`` over pairs of frames with the same
    master: ``v`` its variance, ``a`` the signed coefficients ``-g (1 - tau) / F`` (bias),
    ``-g tau / F`` (dark), ``-I / F`` (flat, ``I`` before sky subtraction), each times the
    flux scale, and ``kappa`` the overlap of both kernels on the detector.

    Parameters
    ----------
    frames : sequence of SharedFrame
        Frames of the stack.
    masters : mapping
        What `Calibration` calls them to their cells.
    grid_shape : tuple of int
        Shape (ny, nx) of the grid.
    cell_px : int
        Side of the cells of the result.

    Returns
    -------
    SharedPlanes
    """
    from skymill.kernels.shared import shared_cells

    ny, nx = grid_shape
    rows = np.minimum(np.arange(-(-ny // cell_px)) * cell_px + cell_px // 2, ny - 1)
    columns = np.minimum(np.arange(-(-nx // cell_px)) * cell_px + cell_px // 2, nx - 1)
    gy, gx = (item.ravel().astype(np.int64) for item in np.meshgrid(rows, columns, indexing="ij"))
    shape = (len(rows), len(columns))
    n, cells = len(frames), gy.size
    kinds = ("bias", "dark", "flat")
    names = sorted(name for name in masters if name)
    group = np.full((3, n), -1, np.int64)
    place = np.full((2, n, cells), np.nan)
    weight = np.zeros((n, cells))
    # Coefficient of each term, of the flat: of the sky and of one electron of signal.
    terms = np.zeros((4, n, cells))
    lags = np.zeros((n, 2, _LAGS))
    for i, frame in enumerate(frames):
        told = frame.calibration
        if told is None:
            continue
        for k, kind in enumerate(kinds):
            name = getattr(told, kind)
            group[k, i] = names.index(name) if name in names else -1
        if (group[:, i] < 0).all():
            continue
        x, y, a, w = _at(frame, gx, gy)
        inside = (x > -0.5) & (y > -0.5) & (x < frame.shape[1] - 0.5) & (y < frame.shape[0] - 0.5)
        inside &= np.isfinite(a) & np.isfinite(w)
        place[0, i], place[1, i] = np.where(inside, x, np.nan), np.where(inside, y, np.nan)
        weight[i] = np.where(inside, w, 0.0)
        terms[:, i] = _coefficients(frame, told, masters, (x, y, a), inside)
        lags[i] = _axes(frame.correlation)
    out = np.zeros((3, cells))
    if (group >= 0).any():
        shared_cells(group, place, weight, terms, lags, out)
    sky, mixed, light = (plane.reshape(shape) for plane in out)
    return SharedPlanes(sky, mixed, light, cell_px)


def _at(
    frame: SharedFrame, gx: NDArray[np.int64], gy: NDArray[np.int64]
) -> tuple[NDArray[np.float64], ...]:
    """Position, flux scale and weight of a frame at pixels of the grid."""
    from skymill.kernels.resample import node_positions

    mapping = frame.mapping
    nodes = (mapping.x, mapping.y, frame.scale_nodes, frame.weight_nodes)
    return tuple(node_positions(item, mapping.step, gy, gx) for item in nodes)


def _coefficients(
    frame: SharedFrame,
    told: Calibration,
    masters: Mapping[str, MasterCells],
    where: tuple[NDArray[np.float64], ...],
    inside: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Square root of the variance of each term, with the sign of its coefficient."""
    x, y, a = (np.where(inside, item, 0.0) for item in where)
    flat = masters.get(told.flat)
    value = _cell_values(flat.value, flat.cell_px, x, y) if flat else np.ones(x.size)
    value = np.where(value > 0, value, 1.0)
    out = np.zeros((4, x.size))
    tau = told.tau if told.dark else 0.0
    for k, (name, factor) in enumerate(((told.bias, tau - 1.0), (told.dark, -tau))):
        if name in masters:
            cells = masters[name]
            sigma = np.sqrt(_cell_values(cells.variance, cells.cell_px, x, y))
            out[k] = factor * told.gain_e_adu * a * sigma / value
    if flat:
        sigma = np.sqrt(_cell_values(flat.variance, flat.cell_px, x, y))
        background = frame.background
        sky = _cell_values(background.level.astype(np.float64), background.box_size_px, x, y)
        out[2] = -a * sky * sigma
        out[3] = -sigma
    out[:, ~inside] = 0.0
    return out


def _cell_values(
    cells: NDArray[np.float64], size: int, x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    my, mx = cells.shape
    j = np.clip((y + 0.5) // size, 0, my - 1).astype(np.int64)
    i = np.clip((x + 0.5) // size, 0, mx - 1).astype(np.int64)
    return np.asarray(cells[j, i], np.float64)


def _axes(correlation: NDArray[Any]) -> NDArray[np.float64]:
    """Covariance of resampled unit noise along both axes: what kernels have in common.

    The kernel sums to one, so that the covariances of all lags do.
    """
    rho = np.asarray(correlation, np.float64)
    half = rho.shape[0] // 2
    total = float(rho.sum())
    unit = 1 / np.sqrt(total) if total > 0 else 1.0
    return np.stack([rho[half] * unit, rho[:, half] * unit])
