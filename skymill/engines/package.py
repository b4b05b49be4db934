"""The reproject package as an engine.

It gives values only (astropy/reproject#183): variance, squared kernel and mask are computed
here from the definition of each method. Interpolation has exact taps: two, four of the cubic
spline after its filter, one. Pixel overlap is exact along the axes, and the adaptive kernel
has no simple form: both are scaled by the variance of white noise that the package itself
resampled on patches of the grid.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skymill.engines.external import ExternalWarp, cleaned
from skymill.engines.native import NativeWarp
from skymill.engines.profiles import MAX_LAG
from skymill.errors import StepFailed

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skymill.engines.base import FrameRows, WarpPlanes
    from skymill.resample import PixelMap

__all__ = ["PackageWarp"]

_ORDERS = {"bilinear": "bilinear", "bicubic": "bicubic", "nearest": "nearest-neighbor"}
#: Patches of white noise: along each axis, pixels of a side, images each.
_PATCHES = 3
_PATCH_PX = 56
_IMAGES = 8


class _Noise(NamedTuple):
    """Variance relative to our own kernel on patches, and the mean covariance."""

    rows: NDArray[np.float64]
    columns: NDArray[np.float64]
    ratio: NDArray[np.float64]
    correlation: NDArray[np.float64]


class PackageWarp(ExternalWarp):
    """One frame on its way to a grid; see `skymill.engines.open_warp`.

    Parameters
    ----------
    kernel : str
        ``bilinear``, ``bicubic``, ``nearest``, ``adaptive`` or ``exact``.
    frame : FrameRows
        Pixels of the frame.
    mapping : PixelMap
        Positions of the grid's pixels in the frame.
    scale : tuple
        Flux scale and convention.
    wcs : tuple of astropy.wcs.WCS
        Of the frame and of the grid.

    Raises
    ------
    StepFailed
        TOOL_FAILED if the method ``exact`` is asked for positions that are not on the sky.
    """

    def __init__(
        self,
        kernel: str,
        frame: FrameRows,
        mapping: PixelMap,
        scale: tuple[float, str],
        wcs: tuple[WCS, WCS],
    ) -> None:
        if kernel in ("exact", "adaptive") and not wcs[0].has_celestial:
            raise StepFailed(
                "TOOL_FAILED",
                f"reproject's method {kernel} needs positions on the sky; choose another kernel",
            )
        self._measured = kernel in ("exact", "adaptive")
        name = "area" if kernel == "exact" else kernel
        own = NativeWarp(name, frame, mapping, scale, oversample=0 if self._measured else 1)
        super().__init__(kernel, own, frame)
        self._wcs = wcs

    @property
    def correlation(self) -> NDArray[np.float64]:
        """Mean correlation of resampled white noise by lag, shape (11, 11)."""
        return self._noise.correlation if self._measured else self.own.correlation

    def values(self, row0: int, rows: int) -> NDArray[np.float32]:
        """Return the resampled surface brightness of some output rows, shape (rows, nx)."""
        y0, y1 = self.input_rows(row0, rows)
        image = cleaned(self.frame.rows(y0, y1))
        window = (slice(row0, row0 + rows), slice(0, self.mapping.shape[1]))
        return self._resample(image, (slice(y0, y1), slice(0, self.frame.shape[1])), window)

    def _resample(
        self, image: NDArray[Any], part: tuple[slice, slice], window: tuple[slice, slice]
    ) -> NDArray[np.float32]:
        """Resample a part of the frame to a window of the grid."""
        import reproject

        source, target = self._wcs[0][part], self._wcs[1][window]
        shape = (window[0].stop - window[0].start, window[1].stop - window[1].start)
        common: dict[str, Any] = {"shape_out": shape, "return_footprint": False}
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            if self.kernel == "exact":
                out = reproject.reproject_exact((image, source), target, **common)
            elif self.kernel == "adaptive":
                out = reproject.reproject_adaptive(
                    (image, source), target, roundtrip_coords=False, conserve_flux=False,
                    boundary_mode="ignore", bad_value_mode="ignore", kernel="gaussian",
                    kernel_width=1.3, sample_region_width=4, **common,
                )  # fmt: skip
            else:
                out = reproject.reproject_interp(
                    (image, source), target, order=_ORDERS[self.kernel], roundtrip_coords=False,
                    **common,
                )  # fmt: skip
        return np.ascontiguousarray(out, np.float32)

    def adjust(self, row0: int, planes: WarpPlanes, first: NDArray[np.bool_]) -> None:
        """Scale variance and squared kernel by what white noise tells."""
        if not self._measured:
            return
        noise = self._noise
        nx = planes.value.shape[1]
        along = np.array([np.interp(np.arange(nx), noise.columns, line) for line in noise.ratio])
        for r in range(planes.value.shape[0]):
            weights = np.array(
                [np.interp(row0 + r, noise.rows, unit) for unit in np.eye(noise.rows.size)]
            )
            ratio = (weights[:, None] * along).sum(axis=0)
            here = first[r]
            planes.variance[r, here] *= ratio[here].astype(np.float32)
            k2 = np.clip(np.rint(planes.k2[r] * ratio), 1, 65535).astype(np.uint16)
            planes.k2[r, here] = k2[here]

    @cached_property
    def _noise(self) -> _Noise:
        """Resample white noise of fixed seeds on patches over the common area."""
        my, mx = self.frame.shape
        size = _PATCH_PX
        x, y, step = self.mapping.x, self.mapping.y, self.mapping.step
        with np.errstate(invalid="ignore"):
            inside = (x > 0) & (x < mx) & (y > 0) & (y < my)
        ny, nx = self.mapping.shape
        ky, kx = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
        low = [max((int(k.min()) - 1) * step, 0) if k.size else 0 for k in (ky, kx)]
        high = [
            min((int(k.max()) - 1) * step + 1, n) if k.size else n for k, n in ((ky, ny), (kx, nx))
        ]
        at = (np.arange(_PATCHES) + 0.5) / _PATCHES
        rows, columns = (a + at * (b - a) for a, b in zip(low, high, strict=True))
        ratio = np.full((_PATCHES, _PATCHES), np.nan)
        total = np.zeros((2 * MAX_LAG + 1, 2 * MAX_LAG + 1))
        for j, row in enumerate(rows):
            for i, column in enumerate(columns):
                spans = []
                for centre, n in ((row, ny), (column, nx)):
                    first = int(np.clip(centre - size / 2, 0, max(n - size, 0)))
                    spans.append(slice(first, min(first + size, n)))
                found = self._patch((spans[0], spans[1]), _PATCHES * j + i)
                if found is not None:
                    ratio[j, i] = found[0]
                    total += found[1]
        known = np.isfinite(ratio)
        mean = float(ratio[known].mean()) if known.any() else 1.0
        ratio[~known] = mean
        if total[MAX_LAG, MAX_LAG] <= 0:
            total[MAX_LAG, MAX_LAG] = 1.0
        return _Noise(rows, columns, ratio, total / total[MAX_LAG, MAX_LAG])

    def _patch(
        self, window: tuple[slice, slice], seed: int
    ) -> tuple[float, NDArray[np.float64]] | None:
        """Variance over that of our kernel, and covariance by lag, of one patch."""
        part, k2 = self._own_patch(window)
        if part is None:
            return None
        shape = (part[0].stop - part[0].start, part[1].stop - part[1].start)
        square, expected = 0.0, 0.0
        lags = np.zeros((2 * MAX_LAG + 1, 2 * MAX_LAG + 1))
        good = k2 > 0
        if good.sum() < 100:
            return None
        for n in range(_IMAGES):
            white = np.random.default_rng((20240609, seed, n)).standard_normal(shape)
            out = self._resample(white, part, window).astype(np.float64)
            use = good & np.isfinite(out)
            square += float((out[use] ** 2).sum())
            expected += float(k2[use].sum())
            lags += _lag_means(np.where(use, out, 0.0), use)
        return square / expected, lags / _IMAGES

    def _own_patch(
        self, window: tuple[slice, slice]
    ) -> tuple[tuple[slice, slice] | None, NDArray[np.float64]]:
        """Part of the frame that a window needs, and the squared sum of our kernel there."""
        from skymill.engines.base import ArrayRows, empty_planes
        from skymill.kernels.resample import node_positions

        span = [np.arange(item.start, item.stop) for item in window]
        rows, columns = (item.ravel() for item in np.meshgrid(*span, indexing="ij"))
        my, mx = self.frame.shape
        part = []
        for nodes, n in ((self.mapping.y, my), (self.mapping.x, mx)):
            at = node_positions(nodes, self.mapping.step, rows, columns)
            if not np.isfinite(at).all():
                return None, np.zeros(0)
            low, high = int(at.min()) - self.own.reach - 3, int(at.max()) + self.own.reach + 4
            part.append(slice(max(low, 0), min(high, n)))
        if part[0].start >= part[0].stop or part[1].start >= part[1].stop:
            return None, np.zeros(0)
        # Only the kernel is wanted: a frame without errors or bad pixels.
        blank = np.zeros((my, 1), np.float32)
        flat = ArrayRows(
            np.broadcast_to(blank, (my, mx)),
            np.broadcast_to(blank, (my, mx)),
            np.broadcast_to(np.zeros((my, 1), np.uint16), (my, mx)),
        )
        probe = self.own.on(flat)
        planes = empty_planes(len(span[0]), self.mapping.shape[1])
        probe.fill(int(span[0][0]), planes)
        second = (planes.mask & np.uint16(0xFFFF)) != 0
        k2 = np.where(second, 0, planes.k2)[:, window[1]] / 65535
        return (part[0], part[1]), k2


def _lag_means(image: NDArray[np.float64], use: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean products of an image with itself by lag (dy, dx)."""
    out = np.zeros((2 * MAX_LAG + 1, 2 * MAX_LAG + 1))
    ny, nx = image.shape
    for dy in range(MAX_LAG + 1):
        for dx in range(-MAX_LAG, MAX_LAG + 1):
            a = (slice(0, ny - dy), slice(max(-dx, 0), nx - max(dx, 0)))
            b = (slice(dy, ny), slice(max(dx, 0), nx + min(dx, 0)))
            count = int((use[a] & use[b]).sum())
            mean = float((image[a] * image[b]).sum()) / max(count, 1)
            out[MAX_LAG + dy, MAX_LAG + dx] = out[MAX_LAG - dy, MAX_LAG - dx] = mean
    return out
