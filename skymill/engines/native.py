"""Our own engine: compiled kernels, exact variance, every touched mask bit."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.engines.base import BAD, FrameRows, WarpPlanes
from skymill.frame import MaskBit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.resample import PixelMap

__all__ = ["NativeWarp"]

#: No tables: the kernel is a polynomial of the fraction.
_NO_TABLES = (
    np.empty((0, 1, 1), np.float32),
    np.empty((0, 1, 1), np.float32),
    np.empty((2, 0, 0), np.float64),
)
#: Half of the most taps that are computed in runs of pixels.
_FAST_REACH = 4
#: Memory for one padded frame; a thread does one at a time.
_OWN = threading.local()


class NativeWarp:
    """One frame on its way to a grid; see `skymill.engines.open_warp`.

    Parameters
    ----------
    kernel : str
        Name of the kernel.
    frame : FrameRows
        Pixels of the frame.
    mapping : PixelMap
        Positions of the grid's pixels in the frame.
    scale : tuple
        Flux scale and convention.
    oversample : int, optional
        Average this many squared samples of the kernel per output pixel instead of
        widening it: what SWarp does.
    bad : int, optional
        Bits that exclude an input pixel.
    """

    def __init__(
        self,
        kernel: str,
        frame: FrameRows,
        mapping: PixelMap,
        scale: tuple[float, str],
        *,
        oversample: int = 0,
        bad: int = BAD,
    ) -> None:
        from skymill.engines.profiles import Profile, local_scale
        from skymill.engines.scaled import WIDEN_ABOVE, ScaledTaps, changes_scale, differs_in_size

        self._given = (kernel, scale, oversample)
        self._bad = bad
        self.kernel = kernel
        self.mapping = mapping
        self.frame = frame
        flux_scale, convention = scale
        area = mapping.area if convention == "flux" else np.where(np.isnan(mapping.area), np.nan, 1)
        self._nodes = tuple(
            np.ascontiguousarray(item, np.float64)
            for item in (mapping.x, mapping.y, flux_scale * area)
        )
        self._jacobian = local_scale(mapping)
        name = kernel
        if kernel == "bilinear" and not oversample:
            # The triangle is the overlap of two equal pixels.
            name = "area" if differs_in_size(mapping, self._jacobian, frame.shape) else kernel
        self.profile = Profile.of(name, oversample)
        self._taps: ScaledTaps | None = None
        order = lanczos_order(kernel)
        if order and not oversample and changes_scale(mapping, self._jacobian, frame.shape):
            self._taps = ScaledTaps.of(order, mapping, self._jacobian, frame.shape)
        self.wide = self._taps is None and self.profile.needs_dense(self._jacobian, WIDEN_ABOVE)
        if self.wide:
            self.reach = self.profile.reach(self._jacobian)
        elif self._taps is not None:
            self._coefs = np.zeros((0, 2, 5), np.float32)
            self.reach = self._taps.pairs
        else:
            from skymill.kernels.taps import coefficients

            self._coefs = coefficients(kernel)
            self.reach = self._coefs.shape[0]

    def on(self, frame: FrameRows) -> NativeWarp:
        """Return the same warp of other pixels of the same shape."""
        kernel, scale, oversample = self._given
        return NativeWarp(kernel, frame, self.mapping, scale, oversample=oversample)

    @cached_property
    def correlation(self) -> NDArray[np.float64]:
        """Mean correlation of resampled white noise by lag, shape (11, 11)."""
        from skymill.engines.profiles import mean_correlation

        return mean_correlation(
            self.profile, self.mapping, widen=self.wide, in_shape=self.frame.shape, taps=self._taps
        )

    def input_rows(self, row0: int, rows: int) -> tuple[int, int]:
        """Return the input rows that these output rows need; (0, 0) for none."""
        from skymill.kernels.footprints import row_span

        my, mx = self.frame.shape
        x, y, _ = self._nodes
        nx = self.mapping.shape[1]
        low, high = row_span(x, y, self.mapping.step, row0, rows, nx, my, mx)
        if low > high:
            return 0, 0
        first = max(int(np.floor(low)) - self.reach - 1, 0)
        last = min(int(np.floor(high)) + self.reach + 3, my)
        return (first, last) if first < last else (0, 0)

    def fill(self, row0: int, planes: WarpPlanes) -> None:
        """Resample as many output rows as the planes have, from ``row0`` on."""
        from skymill.kernels.footprints import footprint_or, pad_rows
        from skymill.kernels.warp import warp_band

        y0, y1 = self.input_rows(row0, planes.value.shape[0])
        if y0 >= y1:
            planes.value.fill(np.nan)
            planes.variance.fill(np.nan)
            planes.k2.fill(0)
            planes.mask.fill(0)
            return
        rows = self.frame.rows(y0, y1)
        my, mx = self.frame.shape
        if rows.value.shape != (y1 - y0, mx):
            raise ValueError(f"rows {y0}:{y1} have shape {rows.value.shape}, not {(y1 - y0, mx)}")
        pad = self.reach + 1
        shape = (y1 - y0 + 2 * pad, mx + 2 * pad)
        own = self._padded(shape)
        edge, no_data = int(MaskBit.EDGE), int(MaskBit.NO_DATA)
        pad_rows(rows.value, rows.err, rows.mask, self._bad, edge, no_data, pad, own)
        used = (self._bad, int(MaskBit.INTERPOLATED))
        step, out = self.mapping.step, tuple(planes)
        if self.wide:
            from skymill.kernels.warp_dense import dense_band

            dense_band(
                own, y0, pad, (my, mx), self._nodes, self._jacobian, step, row0,
                self.profile.table, self.profile.rule, used, out,
            )  # fmt: skip
            return
        footprint = footprint_or(own[2], 2 * self.reach)
        tables = self._taps.tables() if self._taps is not None else _NO_TABLES
        if self.reach > _FAST_REACH:
            from skymill.kernels.warp_scaled import scaled_band

            scaled_band(
                own, footprint, y0, pad, (my, mx), self._nodes, step, row0, tables, used, out,
            )  # fmt: skip
            return
        nearest = self.kernel == "nearest"
        warp_band(
            own, footprint, y0, pad, (my, mx), self._nodes, step, row0, self._coefs, tables,
            nearest, used, out,
        )  # fmt: skip

    def scale_rows(self, row0: int, rows: int) -> NDArray[np.float32]:
        """Return the factor from surface brightness to the common scale, shape (rows, nx)."""
        from skymill.kernels.footprints import linear_rows

        return linear_rows(self._nodes[2], self.mapping.step, row0, rows, self.mapping.shape[1])

    @staticmethod
    def _padded(shape: tuple[int, int]) -> tuple[NDArray[Any], ...]:
        """Planes for the padded input, from memory that all frames of a thread share."""
        size = shape[0] * shape[1]
        found: tuple[NDArray[Any], ...] | None = getattr(_OWN, "planes", None)
        if found is None or found[0].size < size:
            kinds = (np.float32, np.float32, np.uint16)
            found = _OWN.planes = tuple(np.empty(size, kind) for kind in kinds)
        return tuple(item[:size].reshape(shape) for item in found)

    def close(self) -> None:
        """Nothing is held open."""


def lanczos_order(kernel: str) -> int:
    """Order of a Lanczos kernel by name; 0 for other kernels."""
    return int(kernel.removeprefix("lanczos")) if kernel.startswith("lanczos") else 0
