"""Shapes of kernels, their width for a mapping, and the noise correlation they cause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.engines.scaled import ScaledTaps
    from skymill.resample import PixelMap

__all__ = ["MAX_LAG", "Profile", "local_scale", "mean_correlation", "spread_pixels"]

MAX_LAG = 5
_SAMPLES = 400
#: Half of the region that the adaptive method of reproject samples, in output pixels.
ADAPTIVE_SUPPORT = 2.0
_SPLINE_SUPPORT = 8
#: Kernels up to Lanczos4 have fast code.
_FAST_SUPPORT = 4


@dataclass(frozen=True)
class Profile:
    """A separable kernel by distance.

    Parameters
    ----------
    kind : int
        0 nearest pixel, 1 overlap with a box, 2 table.
    support : float
        Half-width in input pixels before widening.
    samples : int
        Samples averaged per output axis; 0 widens the kernel instead.
    table : ndarray of float64, shape (n,)
        Values at distances of 1/2048.
    widened : bool
        Whether the kernel is stretched where output pixels are larger.
    """

    kind: int
    support: float
    samples: int
    table: NDArray[np.float64]
    widened: bool = True

    @classmethod
    def of(cls, kernel: str, oversample: int = 0) -> Profile:
        """Return the profile of a kernel by name; ``oversample`` forbids widening."""
        widen = oversample == 0
        samples = max(oversample, 1)
        none = np.zeros(2)
        if kernel == "nearest":
            return cls(0, 0.5, samples, none, widen)
        if kernel == "area":
            return cls(1, 0.5, samples, none, widen)
        if kernel == "adaptive":
            return cls(1, ADAPTIVE_SUPPORT, samples, none, widen)
        if kernel == "bilinear":
            return cls(2, 1.0, samples, _table(1, _triangle), widen)
        if kernel == "bicubic":
            return cls(2, _SPLINE_SUPPORT, samples, _table(_SPLINE_SUPPORT, _cardinal), False)
        order = int(kernel.removeprefix("lanczos"))
        return cls(
            2, order, samples, _table(order, lambda x: np.sinc(x) * np.sinc(x / order)), widen
        )

    @property
    def rule(self) -> tuple[int, float, int, int]:
        """What the compiled code needs."""
        return self.kind, float(self.support), int(self.widened), self.samples

    def fixed(self) -> Profile:
        """Return the profile without widening."""
        return Profile(self.kind, self.support, self.samples, self.table, False)

    def needs_dense(self, jacobian: NDArray[np.float64], above: float) -> bool:
        """Whether the fast kernel of fixed width does not do."""
        if self.kind == 0 and self.samples == 1:
            return False
        if self.kind == 1 or self.samples > 1 or self.support > _FAST_SUPPORT:
            return True
        return self.widened and typical_scale(jacobian) > above

    def reach(self, jacobian: NDArray[np.float64]) -> int:
        """Largest distance of a touched pixel, in input pixels."""
        sizes = np.concatenate([np.hypot(jacobian[0], jacobian[1]), np.hypot(*jacobian[2:])])
        size = float(np.nanmax(sizes)) if np.isfinite(sizes).any() else 1.0
        stretch = size if self.kind == 1 or self.widened else 1.0
        spread = 0.75 * size if self.samples > 1 else 0.0
        return int(np.ceil(self.support * max(stretch, 1.0) + spread)) + 1


def _table(support: int, shape: object) -> NDArray[np.float64]:
    from skymill.kernels.warp_dense import TABLE_STEPS

    x = np.arange(support * TABLE_STEPS + 2) / TABLE_STEPS
    values = shape(x)  # type: ignore[operator]
    values[x >= support] = 0
    return np.asarray(values, np.float64)


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(1 - x, 0, None)


def _cardinal(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cubic spline through the pixels: B-splines of the filtered coefficients."""
    pole = np.sqrt(3.0) - 2
    total = np.zeros_like(x)
    for k in range(-_SPLINE_SUPPORT - 4, _SPLINE_SUPPORT + 5):
        d = np.abs(x - k)
        near = 2 / 3 - d**2 * (1 - d / 2)
        far = np.clip(2 - d, 0, None) ** 3 / 6
        total += -6 * pole / (1 - pole**2) * pole ** abs(k) * np.where(d < 1, near, far)
    return total


def local_scale(mapping: PixelMap) -> NDArray[np.float64]:
    """Return the derivatives of x by the output column and row, then of y, at the nodes."""
    from skymill.resample import node_slopes

    parts = [
        node_slopes(item, mapping.step, axis) for item in (mapping.x, mapping.y) for axis in (1, 0)
    ]
    return np.ascontiguousarray(parts, np.float64)


def typical_scale(jacobian: NDArray[np.float64]) -> float:
    """Return the larger of the median sizes of an output pixel along the input axes."""
    sizes = [np.hypot(jacobian[0], jacobian[1]), np.hypot(jacobian[2], jacobian[3])]
    known = [size[np.isfinite(size)] for size in sizes]
    return max((float(np.median(size)) for size in known if size.size), default=1.0)


def spread_pixels(mapping: PixelMap, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return output pixels (rows, columns) spread evenly and without a period."""
    ny, nx = mapping.shape
    n = np.arange(1, count + 1)
    # Powers of the plastic number: the additive sequence of lowest discrepancy in 2-D.
    rows = np.floor((0.5 + 0.7548776662466927 * n) % 1 * ny).astype(np.int64)
    columns = np.floor((0.5 + 0.5698402909980532 * n) % 1 * nx).astype(np.int64)
    return rows, columns


def mean_correlation(
    profile: Profile,
    mapping: PixelMap,
    *,
    widen: bool,
    in_shape: tuple[int, int] | None = None,
    taps: ScaledTaps | None = None,
) -> NDArray[np.float64]:
    """Return the correlation of resampled white noise between output pixels.

    ``cov(p, q) = sum_j k_pj k_qj``, averaged over pixels p of the grid (so over the phases
    that occur), divided by the average variance.

    Parameters
    ----------
    profile : Profile
        The kernel.
    mapping : PixelMap
        Positions of the output pixels in the frame.
    widen : bool
        Whether the kernel is widened by the local scale.
    in_shape : tuple of int, optional
        Only pixels within a frame of this shape are used.
    taps : ScaledTaps, optional
        Tabulated weights that are used instead of the profile.

    Returns
    -------
    ndarray of float64, shape (11, 11)
        Correlation at lags (dy, dx) of -5 to 5, centre 1.
    """
    from skymill.kernels.resample import node_positions
    from skymill.kernels.warp_dense import lag_products

    jacobian = local_scale(mapping)
    size = 2 * profile.reach(jacobian) + 6
    rows, columns = spread_pixels(mapping, _SAMPLES if size < 16 else _SAMPLES // 4)
    at = [node_positions(nodes, mapping.step, rows, columns) for nodes in (mapping.x, mapping.y)]
    around = np.array([node_positions(nodes, mapping.step, rows, columns) for nodes in jacobian])
    good = np.isfinite(at[0]) & np.isfinite(at[1]) & np.isfinite(around).all(axis=0)
    if in_shape is not None:
        good &= (at[0] > -0.5) & (at[0] < in_shape[1] - 0.5)
        good &= (at[1] > -0.5) & (at[1] < in_shape[0] - 0.5)
    out = np.zeros((2 * MAX_LAG + 1, 2 * MAX_LAG + 1))
    out[MAX_LAG, MAX_LAG] = 1.0
    if not good.any():
        return out
    around = np.ascontiguousarray(around[:, good])
    if taps is not None:
        from skymill.kernels.taps import table_number
        from skymill.kernels.warp_scaled import table_lags

        *tables, index = taps.tables()
        places = list(zip(rows[good], columns[good], strict=True))
        numbers = [[table_number(one, mapping.step, r, c) for r, c in places] for one in index]
        found = table_lags(
            at[0][good], at[1][good], around, tuple(tables), np.array(numbers, np.int64), MAX_LAG
        )
        return np.asarray(found / found[MAX_LAG, MAX_LAG])
    rule = (profile if widen else profile.fixed()).rule
    found = lag_products(at[0][good], at[1][good], around, profile.table, rule, MAX_LAG, size)
    return np.asarray(found / found[MAX_LAG, MAX_LAG])
