"""Kernels for a grid whose pixels are larger, smaller or turned: flux is kept there too.

A star keeps its flux if the weights of each input pixel, over all output pixels, have one
sum. The output pixels lie on a lattice of pitch ``p`` (in input pixels), so the spectrum of the
kernel must be zero at all multiples of ``1 / p``; it must be zero at all integers for a flat sky to
stay flat. A normalised kernel ``k`` has the second set of zeros only. Its mean over a box has
both:

* ``p`` up to 1.1: ``k`` averaged over a box of the length ``l = p``, the output pixel;
* larger: ``k`` stretched by ``L = p`` against aliasing, averaged over the input pixel, ``l = 1``.

The box would widen stars by ``l^2 / 12`` in each axis. The term ``-(l^2 / 24) k''`` takes this back
and leaves the zeros where they are, for the spectrum becomes
``K(f) sinc(l f) (1 + (2 pi f l)^2 / 24)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.resample import PixelMap

__all__ = [
    "WIDEN_ABOVE",
    "ScaledTaps",
    "changes_scale",
    "differs_in_size",
    "lattice_pitch",
    "scaled_table",
]

#: Output pixels that are larger than this (in input pixels) need a wider kernel.
WIDEN_ABOVE = 1.1
#: Pitches that differ less from 1 count as equal: 0.15 mmag with Lanczos3.
TOLERANCE = 5e-4
#: The same for the triangle, whose spectrum is zero twice there: 0.4 mmag.
_TRIANGLE_TOLERANCE = 0.01
#: Entries of a table per pixel, and steps of the pitch per unit.
STEPS, PITCHES = 512, 1024
_MOST_TABLES = 64
#: Samples of the kernel per pixel from which tables are made.
_FINE = 2048


def lattice_pitch(jacobian: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of the lines of output pixels along each input axis.

    Parameters
    ----------
    jacobian : ndarray of float64, shape (4, ky, kx)
        Derivatives of x by the output column and row, then of y.

    Returns
    -------
    ndarray of float64, shape (2, ky, kx)
        Along x and y: one over the largest component of the two base vectors of the
        reciprocal lattice. It is the pixel scale over the cosine of the angle between the axes.
    """
    xu, xv, yu, yv = jacobian
    area = np.abs(xu * yv - xv * yu)
    with np.errstate(invalid="ignore", divide="ignore"):
        along_x = area / np.maximum(np.abs(yu), np.abs(yv))
        along_y = area / np.maximum(np.abs(xu), np.abs(xv))
    return np.asarray([along_x, along_y], np.float64)


def _near(mapping: PixelMap, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Nodes in the frame or beside it."""
    my, mx = shape
    with np.errstate(invalid="ignore"):
        reach = 0.75 * mapping.step * np.sqrt(np.where(mapping.area > 0, mapping.area, 0))
        near = (mapping.x > -reach) & (mapping.x < mx + reach)
        return np.asarray(near & (mapping.y > -reach) & (mapping.y < my + reach))


def changes_scale(mapping: PixelMap, jacobian: NDArray[np.float64], shape: tuple[int, int]) -> bool:
    """Whether a tenth of the frame has pixels of another pitch than the grid."""
    return _departs(lattice_pitch(jacobian)[:, _near(mapping, shape)], TOLERANCE)


def differs_in_size(
    mapping: PixelMap, jacobian: NDArray[np.float64], shape: tuple[int, int]
) -> bool:
    """Whether a tenth of the frame has pixels of another size than the grid."""
    return _departs(_sizes(jacobian)[:, _near(mapping, shape)], _TRIANGLE_TOLERANCE)


def _sizes(jacobian: NDArray[np.float64]) -> NDArray[np.float64]:
    """Size of an output pixel along the input axes, shape (2, ky, kx)."""
    return np.array([np.hypot(jacobian[0], jacobian[1]), np.hypot(jacobian[2], jacobian[3])])


def _departs(scales: NDArray[np.float64], tolerance: float) -> bool:
    away = np.abs(scales - 1).max(axis=0)
    away = away[np.isfinite(away)]
    return bool(away.size and np.quantile(away, 0.9) > tolerance)


@dataclass(frozen=True)
class ScaledTaps:
    """Weights of one frame by pitch and by fraction of the position.

    Parameters
    ----------
    order : int
        Order of the Lanczos kernel.
    wide : tuple of bool
        Along x and y: whether the kernel is stretched.
    index : ndarray of float64, shape (2, ky, kx)
        Number of the table at the nodes of the mapping.
    pitches : tuple of tuple of float
        Pitch of each table, along x and y.
    pairs : int
        Half the number of taps.
    """

    order: int
    wide: tuple[bool, bool]
    index: NDArray[np.float64]
    pitches: tuple[tuple[float, ...], tuple[float, ...]]
    pairs: int

    @classmethod
    def of(
        cls, order: int, mapping: PixelMap, jacobian: NDArray[np.float64], shape: tuple[int, int]
    ) -> ScaledTaps:
        """Return the taps of a Lanczos kernel for a frame of some shape."""
        near = _near(mapping, shape)
        pitch = lattice_pitch(jacobian)
        sizes = _sizes(jacobian)
        wide, index, pitches = [], [], []
        for axis in range(2):
            known = near & np.isfinite(pitch[axis])
            if not known.any():
                known = np.isfinite(pitch[axis])
            stretched = bool(known.any() and np.median(sizes[axis][known]) > WIDEN_ABOVE)
            here = pitch[axis]
            if stretched:  # of frames turned by much the kernel is not stretched to the diagonal
                here = np.minimum(here, WIDEN_ABOVE * sizes[axis])
            low, high = (
                (float(here[known].min()), float(here[known].max())) if known.any() else (1.0, 1.0)
            )
            step = 1.0
            while (high - low) * PITCHES / step > _MOST_TABLES - 2:
                step *= 2
            first, last = (int(np.floor(v * PITCHES / step + 0.5)) for v in (low, high))
            first, last = max(first, 1), max(last, 1)
            number = np.where(np.isfinite(here), here, low) * PITCHES / step - first
            index.append(np.clip(np.floor(number + 0.5), 0, last - first))
            pitches.append(tuple(k * step / PITCHES for k in range(first, last + 1)))
            wide.append(stretched)
        pairs = max(
            int(np.ceil(order * max(p, 1.0) + 0.5)) if w else int(np.ceil(order + p / 2))
            for values, w in zip(pitches, wide, strict=True)
            for p in (values[-1],)
        )
        pairs += -pairs % 4  # the compiled code takes eight taps at a time
        both = (pitches[0], pitches[1])
        return cls(order, (wide[0], wide[1]), np.ascontiguousarray(index), both, pairs)

    def tables(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
        """Return the weights along x and y, shape (n, STEPS + 1, taps), and the index."""
        x, y = (
            np.stack([scaled_table(self.order, p, w, self.pairs) for p in values])
            for values, w in zip(self.pitches, self.wide, strict=True)
        )
        return x, y, self.index


@lru_cache(maxsize=8)
def _fine(order: int) -> tuple[NDArray[np.float64], ...]:
    """Positions, integral and slope of the Lanczos kernel of sum 1 at every place."""

    def raw(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(np.abs(x) < order, np.sinc(x) * np.sinc(x / order), 0.0)

    u = np.arange(-order * _FINE, order * _FINE + 1) / _FINE
    part = u - np.floor(u)
    kernel = raw(u) / sum(raw(part - j) for j in range(-order, order + 1))
    steps = 0.5 * (kernel[1:] + kernel[:-1]) / _FINE
    integral = np.concatenate([[0.0], np.cumsum(steps)])
    slope = np.gradient(kernel, 1 / _FINE)
    slope[0] = slope[-1] = 0.0
    return u, integral, slope


@lru_cache(maxsize=512)
def scaled_table(order: int, pitch: float, wide: bool, pairs: int) -> NDArray[np.float32]:
    """Return the weights of all taps by the fraction of the position.

    Parameters
    ----------
    order : int
        Order of the Lanczos kernel.
    pitch : float
        Distance of the lines of output pixels, in input pixels.
    wide : bool
        Stretch the kernel by it, and average over the input pixel.
    pairs : int
        Half the number of taps.

    Returns
    -------
    ndarray of float32, shape (STEPS + 1, 2 pairs)
        Each row has the sum 1.
    """
    stretch = max(pitch, 1.0) if wide else 1.0
    box = min(pitch, 1.0) if wide else pitch
    at, integral, slope = _fine(order)
    fraction = np.arange(STEPS + 1) / STEPS
    u = fraction[:, None] - (np.arange(2 * pairs) - (pairs - 1))[None, :]
    ends = [(u + side * box / 2) / stretch for side in (1, -1)]
    high, low = (np.interp(end, at, integral) * stretch for end in ends)
    mean = (high - low) / box
    up, down = (np.interp(end, at, slope, left=0, right=0) / stretch for end in ends)
    weights = mean - box / 24 * (up - down)
    weights /= weights.sum(axis=1, keepdims=True)
    out = weights.astype(np.float32)
    out.flags.writeable = False
    return out
