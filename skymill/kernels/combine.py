"""Banded combination of calibration frames against a noise model.

Rows of all frames are read band by band, so that memory is set by the height of a
band and not by the number of frames. A value that went into the band is

``x_i = (raw_i - level_i(y) - base_i B - extra_i E) scale_i``

and its model variance, with the photon term of a reference value ``m`` (the median of
the pixel when clipping, the result when the standard error is made),

``s_i^2(m) = scale_i^2 [ max(m / scale_i + charge_i E, 0) / gain_i + noise_i ]``.

Clipping judges each value by ``s_i``, never by the scatter of the sample, which an
outlier would inflate. Pixels in which provably nothing is rejected, because the
distance of the extremes from the mean plus the sample scatter (the largest possible
distance between mean and median) stays below the threshold, are not sorted: this gives
the same flags as the sorted path, at a tenth of its cost.

All sums run in float64 in the order of the frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.kernels.combine_bands import flag, grow, mean, ordered, prepare
from skymill.kernels.estimators import NoiseTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Combined", "Terms", "combine"]

RowReader = Callable[[int, int], "NDArray[Any]"]


@dataclass(frozen=True, eq=False)
class Terms:
    """What is done to each frame, and its noise. One entry per frame.

    Parameters
    ----------
    level : ndarray of float64, shape (n, ny)
        Overscan level of each row, subtracted first (ADU).
    noise : ndarray of float64, shape (n,)
        Variance of a pixel without light: read noise, rounding, overscan (ADU^2).
    gain : ndarray of float64, shape (n,)
        Electron per ADU; infinite where there is no photon noise (bias frames).
    scale : ndarray of float64, shape (n,), optional
        Factor applied after the subtractions; 1 by default.
    weight : ndarray of float64, shape (n,), optional
        Weights of the mean; equal by default.
    saturation : ndarray of float64, shape (n,), optional
        Raw values at or above it are left out (ADU); infinite by default.
    base, extra : ndarray of float64, shape (n,), optional
        How often the planes ``base`` and ``extra`` of `combine` are subtracted.
    charge : ndarray of float64, shape (n,), optional
        How much of the plane ``extra`` makes photon noise beside the value itself.
    """

    level: NDArray[np.float64]
    noise: NDArray[np.float64]
    gain: NDArray[np.float64]
    scale: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    weight: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    saturation: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    base: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    extra: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    charge: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        n = len(self.noise)
        defaults = {
            "scale": 1.0, "weight": 1.0, "saturation": np.inf,
            "base": 0.0, "extra": 0.0, "charge": 0.0,
        }  # fmt: skip
        for name in ("noise", "gain", *defaults):
            value = np.ascontiguousarray(getattr(self, name), dtype=np.float64)
            if name in defaults and value.size == 0:
                value = np.full(n, defaults[name])
            if value.shape != (n,):
                raise ValueError(f"{name} must have one entry per frame ({n}), got {value.shape}")
            object.__setattr__(self, name, value)
        if self.level.ndim != 2 or len(self.level) != n:
            raise ValueError(f"level must have shape ({n}, ny), got {self.level.shape}")
        for name in ("scale", "weight", "gain"):
            if not (getattr(self, name) > 0).all():
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Combined:
    """Result of `combine`.

    Parameters
    ----------
    value, err : ndarray of float32, shape (ny, nx)
        Combined value and its model standard error; NaN where no value is valid.
    n_used : ndarray of uint16, shape (ny, nx)
        Number of values that entered.
    conflict : ndarray of bool, shape (ny, nx)
        The values contradict each other and no majority decides: two values that
        differ by more than the threshold, or none near the median. The lower were kept.
    rejected : ndarray of float64, shape (n,)
        Fraction of each frame's valid pixels that was rejected.
    """

    value: NDArray[np.float32]
    err: NDArray[np.float32]
    n_used: NDArray[np.uint16]
    conflict: NDArray[np.bool_]
    rejected: NDArray[np.float64]


def combine(
    readers: Sequence[RowReader],
    shape: tuple[int, int],
    terms: Terms,
    *,
    method: str = "clipped",
    clip_sigma: float = 4.5,
    grow_sigma: float = 0.0,
    structure: float = 0.0,
    n_low: int = 1,
    n_high: int = 1,
    base: NDArray[np.float32] | None = None,
    extra: NDArray[np.float32] | None = None,
    rows: int = 32,
) -> Combined:
    """Combine frames pixel by pixel.

    Parameters
    ----------
    readers : sequence of callable
        ``read(y0, y1)`` returns rows ``y0:y1`` of one frame, shape (y1 - y0, nx),
        uint16, int or float, native byte order. Called with growing rows.
    shape : tuple of int
        Shape (ny, nx) of the frames.
    terms : Terms
        Levels, scales, weights and noise of the frames, in the order of ``readers``.
    method : str
        ``clipped`` (weighted mean of values near the median), ``mean`` (weighted),
        ``median`` or ``minmax`` (plain mean without the extremes).
    clip_sigma : float
        ``clipped``: largest distance from the median, in model sigma.
    grow_sigma : float
        ``clipped``: threshold for the eight neighbours of a rejected value in the same
        frame, where the wings of stars hide; 0 switches it off.
    structure : float
        ``clipped``: allowance for real differences between frames, as a fraction of
        the median, added in quadrature to the model sigma for the test only.
    n_low, n_high : int
        ``minmax``: values dropped at either end. Where some values are invalid the
        numbers shrink in proportion, as in IRAF's imcombine.
    base, extra : ndarray of float32, shape (ny, nx), optional
        Planes subtracted as ``terms`` says. Where one is NaN the result is NaN.
    rows : int
        Height of a band.

    Returns
    -------
    Combined

    Raises
    ------
    ValueError
        If there is no frame, more than 65535, an unknown method, or a wrong shape.

    Notes
    -----
    One value is kept as it is. Two values are compared with each other (threshold
    times the quadratic sum of their sigmas); if they disagree the lower is kept and
    ``conflict`` is set, because cosmic rays and stars only add. The standard error of
    ``median``, ``minmax`` and ``clipped`` includes `skymill.kernels.estimators.estimator_noise`.
    """
    n, (ny, nx) = len(readers), shape
    _check(n, shape, terms, method, base, extra)
    rows = max(1, min(rows, ny))
    halo = 1 if method == "clipped" and grow_sigma > 0 else 0
    cube_store = np.empty(n * (rows + 2 * halo) * nx, np.float32)
    flag_store = np.zeros(cube_store.size, np.uint8)
    value, err = np.empty(shape, np.float32), np.empty(shape, np.float32)
    n_used, n_valid = np.empty(shape, np.uint16), np.empty((rows, nx), np.uint16)
    conflict = np.zeros(shape, np.bool_)
    counts = np.zeros((2, n), np.int64)
    model = _model(terms)
    noise_of = NoiseTable(method, n, clip_sigma, n_low, n_high)
    for y0 in range(0, ny, rows):
        y1 = min(ny, y0 + rows)
        top, bottom = max(0, y0 - halo), min(ny, y1 + halo)
        size = n * (bottom - top) * nx
        cube = cube_store[:size].reshape(n, bottom - top, nx)
        plane = _rows(extra, top, bottom)
        for i, read in enumerate(readers):
            _load(read, cube[i], i, top, terms, _rows(base, top, bottom), plane)
        out = (value[y0:y1], err[y0:y1], n_used[y0:y1])
        if method in ("clipped", "mean"):
            flags = flag_store[:size].reshape(cube.shape)
            if method == "clipped":
                flags[...] = 0
                clash = np.zeros(cube.shape[1:], np.bool_)
                flag(cube, flags, clash, plane, model, clip_sigma, structure)
                if halo:
                    grow(cube, flags, plane, model, grow_sigma, structure)
                conflict[y0:y1] = clash[y0 - top : y1 - top]
            mean(cube, flags, y0 - top, plane, model, terms.weight, *out, counts)
            err[y0:y1] *= noise_of(n_used[y0:y1])
        else:
            valid = n_valid[: y1 - y0]
            median = method == "median"
            ordered(cube, plane, model, median, n_low, n_high, *out, valid, counts)
            err[y0:y1] *= noise_of(valid)
    rejected = counts[1] / np.maximum(counts[0], 1)
    return Combined(value, err, n_used, conflict, rejected)


_NO_PLANE = np.zeros((1, 1), np.float32)


def _rows(plane: NDArray[np.float32] | None, y0: int, y1: int) -> NDArray[np.float32]:
    """Return rows of a plane as an array of our own: kernels then know one type only."""
    return _NO_PLANE if plane is None else np.array(plane[y0:y1], np.float32, order="C")


def _load(
    read: RowReader, out: NDArray[np.float32], i: int, y0: int, terms: Terms,
    base: NDArray[np.float32], extra: NDArray[np.float32],
) -> None:  # fmt: skip
    """Read the rows of frame ``i`` that ``out`` holds, subtract and scale them."""
    y1 = y0 + out.shape[0]
    raw = read(y0, y1)
    if raw.shape != out.shape:
        raise ValueError(f"frame {i}: rows {y0}:{y1} have shape {raw.shape}, not {out.shape}")
    if not (raw.flags.c_contiguous and raw.flags.writeable):
        raw = raw.copy()
    prepare(
        raw, out, terms.level[i, y0:y1],
        base, terms.base[i] if base.shape == out.shape else 0.0,
        extra, terms.extra[i] if extra.shape == out.shape else 0.0,
        terms.scale[i], terms.saturation[i],
    )  # fmt: skip


def _check(
    n: int, shape: tuple[int, int], terms: Terms, method: str, base: Any, extra: Any
) -> None:
    if not 0 < n < 65536:
        raise ValueError(f"cannot combine {n} frames, need 1 to 65535")
    if method not in ("clipped", "mean", "median", "minmax"):
        raise ValueError(f"method must be clipped, mean, median or minmax, got {method!r}")
    if terms.level.shape != (n, shape[0]):
        raise ValueError(f"level must have shape {(n, shape[0])}, got {terms.level.shape}")
    for name, plane in (("base", base), ("extra", extra)):
        if plane is not None and plane.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {plane.shape}")


def _model(terms: Terms) -> NDArray[np.float64]:
    """Rows: scale^2/gain, 1/scale, charge, scale^2 noise; the variance of a value."""
    square = terms.scale**2
    return np.ascontiguousarray(
        np.stack([square / terms.gain, 1 / terms.scale, terms.charge, square * terms.noise])
    )
