"""Banded combination of calibration frames against a noise model.

Rows of all frames are read band by band, so that memory is set by the height of a
band and not by the number of frames. A value that went into the band is

``x_i = (raw_i - level_i(y) - base_i B - extra_i E) scale_i``

and its model variance, with the photon term of a reference value ``m`` (the median of
the pixel when clipping, the result when the standard error is made),

``s_i^2(m) = scale_i^2 [ max(m / scale_i + charge_i E, 0) / gain_i + noise_i ]``.

Clipping judges each value by ``s_i``, never by the scatter of the sample, which an
outlier would inflate. Pixels in which provably nothing is rejected are not sorted, see
`skymill.kernels.combine_fused`: this gives the same result at a tenth of the cost.

All sums run in float64 in the order of the frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.kernels.combine_bands import flag, grow, mean, prepare, scatter_about
from skymill.kernels.combine_fused import clipped_mean
from skymill.kernels.combine_ordered import network, ordered
from skymill.kernels.estimators import NoiseTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Combined", "Scatter", "Terms", "combine"]

METHODS = ("clipped", "weighted", "mean", "median", "minmax")

#: Size of a band of all frames: it should stay in the cache of the processor.
BAND_BYTES = 4_000_000

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
        Weights of the mean. By default equal, or for ``weighted`` the inverse variance
        of a pixel without light. They must not follow the values themselves: weights
        that do so favour low ones.
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
class Scatter:
    """Scatter of the values of each pixel about their combination.

    Parameters
    ----------
    chi2 : ndarray of float32, shape (ny, nx)
        Sum of squared distances in units of the model variance, of the values within
        the threshold.
    n_in, n_out : ndarray of uint16, shape (ny, nx)
        Values within and beyond the threshold.
    excess : float
        Expected ``chi2 / (n - 1)`` of a pixel: 1 about a mean, more about an estimator
        that is noisier than the mean.
    """

    chi2: NDArray[np.float32]
    n_in: NDArray[np.uint16]
    n_out: NDArray[np.uint16]
    excess: float = 1.0


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
    counts : ndarray of int64, shape (2, n)
        Valid and rejected pixels of each frame.
    scatter : Scatter or None
        How the values of a pixel scatter, if asked for.
    """

    value: NDArray[np.float32]
    err: NDArray[np.float32]
    n_used: NDArray[np.uint16]
    conflict: NDArray[np.bool_]
    counts: NDArray[np.int64]
    scatter: Scatter | None = None

    @property
    def rejected(self) -> NDArray[np.float64]:
        """Fraction of each frame's valid pixels that was rejected, shape (n,)."""
        return np.asarray(self.counts[1] / np.maximum(self.counts[0], 1))


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
    with_scatter: bool = False,
    rows: int | None = None,
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
        ``clipped`` (mean of the values near the median), ``weighted`` (the same, by
        default with weights from the noise model), ``mean``, ``median`` or ``minmax``
        (plain mean without the extremes). The first three use ``terms.weight``.
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
    with_scatter : bool
        Also return the scatter of the values about the result.
    rows : int, optional
        Height of a band; by default so that a band stays small. The result does not
        depend on it.

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
    clips = method in ("clipped", "weighted")
    halo = 1 if clips and grow_sigma > 0 else 0
    if rows is None:
        rows = int(np.clip(BAND_BYTES // (5 * n * nx), 1, 64))
    rows = max(1, min(rows, ny))
    cube_store = np.empty(n * (rows + 2 * halo) * nx, np.float32)
    flag_store = np.zeros(cube_store.size if halo or method == "mean" else 0, np.uint8)
    out = _Planes(shape, with_scatter)
    counts = np.zeros((2, n), np.int64)
    model, weight = _model(terms), _weights(terms, method)
    pairs = network(n) if method in ("median", "minmax") else np.empty((0, 2), np.int64)
    noise_of = NoiseTable(method, n, clip_sigma, n_low, n_high)
    for y0 in range(0, ny, rows):
        y1 = min(ny, y0 + rows)
        top, bottom = max(0, y0 - halo), min(ny, y1 + halo)
        size = n * (bottom - top) * nx
        cube = cube_store[:size].reshape(n, bottom - top, nx)
        plane = _rows(extra, top, bottom)
        for i, read in enumerate(readers):
            _load(read, cube[i], i, top, terms, _rows(base, top, bottom), plane)
        band = _Band(cube, plane, y0, y1, top)
        if clips and not halo:
            _clip(band, out, model, weight, clip_sigma, structure, counts)
            valid = out.n_used[y0:y1]
        elif clips or method == "mean":
            flags = flag_store[:size].reshape(cube.shape)
            thresholds = (clip_sigma, grow_sigma, structure) if clips else None
            _flag_and_mean(band, out, flags, model, weight, thresholds, counts)
            valid = out.n_used[y0:y1]
        else:
            valid = np.empty((y1 - y0, nx), np.uint16)
            limits = (method == "median", n_low, n_high)
            planes = (out.value[y0:y1], out.err[y0:y1], out.n_used[y0:y1], valid)
            ordered(cube, pairs, plane, model, *limits, *planes, counts)
        if with_scatter and not (clips and not halo):
            _scatter(band, out, model, clip_sigma, None if clips else valid)
        noise_of.apply(out.err[y0:y1], valid)
    return out.combined(counts, noise_of.excess())


class _Planes:
    """Planes of the result."""

    def __init__(self, shape: tuple[int, int], with_scatter: bool) -> None:
        self.value, self.err = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self.n_used, self.conflict = np.empty(shape, np.uint16), np.zeros(shape, np.bool_)
        self.with_scatter = with_scatter
        part = shape if with_scatter else (0, shape[1])
        self.chi2, self.n_out = np.empty(part, np.float32), np.empty(part, np.uint16)
        self.n_in: NDArray[np.uint16] | None = None

    def combined(self, counts: NDArray[np.int64], excess: float) -> Combined:
        """Return the result; values that entered it are those within the threshold."""
        scatter = None
        if self.with_scatter:
            n_in = self.n_used if self.n_in is None else self.n_in
            scatter = Scatter(self.chi2, n_in, self.n_out, excess)
        return Combined(self.value, self.err, self.n_used, self.conflict, counts, scatter)


@dataclass(frozen=True, eq=False)
class _Band:
    """Prepared rows of all frames, with a halo of rows around ``y0:y1``."""

    cube: NDArray[np.float32]
    extra: NDArray[np.float32]
    y0: int
    y1: int
    top: int

    @property
    def inner(self) -> slice:
        """Rows of the band without the halo."""
        return slice(self.y0 - self.top, self.y1 - self.top)


def _clip(
    band: _Band, out: _Planes, model: NDArray[np.float64], weight: NDArray[np.float64],
    sigma: float, structure: float, counts: NDArray[np.int64],
) -> None:  # fmt: skip
    at = slice(band.y0, band.y1)
    clipped_mean(
        band.cube, band.extra, model, weight, sigma, structure, out.value[at], out.err[at],
        out.n_used[at], out.conflict[at], out.chi2[at], out.n_out[at], counts,
    )  # fmt: skip


def _flag_and_mean(
    band: _Band, out: _Planes, flags: NDArray[np.uint8], model: NDArray[np.float64],
    weight: NDArray[np.float64], thresholds: tuple[float, float, float] | None,
    counts: NDArray[np.int64],
) -> None:  # fmt: skip
    """Clip with growth, or not at all, and average."""
    flags[...] = 0
    if thresholds is not None:
        sigma, grow_sigma, structure = thresholds
        clash = np.zeros(band.cube.shape[1:], np.bool_)
        flag(band.cube, flags, clash, band.extra, model, sigma, structure)
        grow(band.cube, flags, band.extra, model, grow_sigma, structure)
        out.conflict[band.y0 : band.y1] = clash[band.inner]
    at = slice(band.y0, band.y1)
    planes = (out.value[at], out.err[at], out.n_used[at])
    mean(band.cube, flags, band.inner.start, band.extra, model, weight, *planes, counts)


def _scatter(
    band: _Band, out: _Planes, model: NDArray[np.float64], sigma: float,
    valid: NDArray[np.uint16] | None,
) -> None:  # fmt: skip
    at = slice(band.y0, band.y1)
    if out.n_in is None:
        out.n_in = np.empty(out.n_used.shape, np.uint16)
    cube = band.cube if band.y1 - band.y0 == band.cube.shape[1] else band.cube[:, band.inner].copy()
    extra = band.extra if band.extra.shape == (1, 1) else band.extra[band.inner]
    if valid is None:
        valid = (~np.isnan(cube)).sum(axis=0).astype(np.uint16)
    scatter_about(cube, out.value[at], valid, extra, model, sigma, out.chi2[at], out.n_out[at])
    out.n_in[at] = valid - out.n_out[at]


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
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
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


def _weights(terms: Terms, method: str) -> NDArray[np.float64]:
    """Weights of the mean; see `Terms`."""
    weight = terms.weight
    if method == "weighted" and (weight == weight[0]).all():
        return np.asarray(1 / (terms.scale**2 * terms.noise))
    return weight
