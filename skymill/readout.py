"""How a detector was read: image and overscan sections, gain, noise, overscan level.

The overscan is the only part of a frame that knows the electronic level of that very
exposure. On detectors whose level drifts between frames it must be subtracted frame by
frame; a level fitted row by row only helps if the drift within a frame is larger than
the noise of a row's mean, and otherwise prints stripes into the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from skymill.errors import FrameRejected
from skymill.robust import clipped_mean_std, tail_factor
from skymill.sections import Section, parse_section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["OverscanLevel", "Readout", "fit_overscan"]

#: Variance that rounding to integers adds (ADU^2).
ROUNDING = 1 / 12


@dataclass(frozen=True)
class Readout:
    """One amplifier's view of a raw frame.

    Parameters
    ----------
    shape : tuple of int
        Shape (ny, nx) of the raw image.
    image : Section
        The part that saw light (the trim section).
    overscan : Section or None
        The part that holds the electronic level; None if there is none.
    gain_e_adu : float
        Gain, electron/ADU.
    read_noise_e : float
        Read noise, electron.
    saturation_adu : float
        Raw values at or above it are saturated (ADU); infinite if not known.
    linear_max_adu : float
        Raw values above it are not linear (ADU); infinite if not known.
    saturation_known : bool
        False if the saturation level was taken from the data type.
    """

    shape: tuple[int, int]
    image: Section
    overscan: Section | None
    gain_e_adu: float
    read_noise_e: float
    saturation_adu: float = np.inf
    linear_max_adu: float = np.inf
    saturation_known: bool = True

    @classmethod
    def from_row(cls, row: Mapping[str, Any], raw: NDArray[Any]) -> Self:
        """Take the description from a row of the sheet and check it against the pixels.

        Parameters
        ----------
        row : mapping
            Row of the sheet.
        raw : ndarray, shape (ny, nx)
            The raw image.

        Returns
        -------
        Readout

        Raises
        ------
        FrameRejected
            ``BAD_SHAPE``, ``WRONG_SIZE``, ``BAD_SECTION``, ``NO_GAIN`` or
            ``NO_READ_NOISE``.
        """
        if raw.ndim != 2:
            raise FrameRejected("BAD_SHAPE", f"the image has {raw.ndim} axes, expected 2.")
        ny, nx = raw.shape
        told = (row.get("ny") or ny, row.get("nx") or nx)
        if told != (ny, nx):
            raise FrameRejected(
                "WRONG_SIZE",
                f"the image is {nx} x {ny} px, the sheet says {told[1]} x {told[0]}. "
                "Run `skymill ingest --update`.",
            )
        gain, noise = row.get("gain_e_adu"), row.get("read_noise_e")
        where = "Set it in the instrument file or by an override."
        if gain is None or not 0 < gain < np.inf:
            raise FrameRejected("NO_GAIN", f"gain_e_adu is {gain}, expected electron/ADU. {where}")
        if noise is None or not 0 <= noise < np.inf:
            raise FrameRejected("NO_READ_NOISE", f"read_noise_e is {noise}. {where}")
        image, overscan = row.get("datasec") or "", row.get("biassec") or ""
        whole = Section(0, nx, 0, ny)
        area = parse_section(image, (ny, nx), name="datasec") if image else whole
        strip = parse_section(overscan, (ny, nx), name="biassec") if overscan else None
        if strip is not None and strip.overlaps(area):
            raise FrameRejected(
                "BAD_SECTION", f"biassec {strip} and datasec {area} share pixels. {where}"
            )
        limit = row.get("saturation_adu")
        guess = float(np.iinfo(raw.dtype).max) if raw.dtype.kind in "ui" else np.inf
        return cls(
            shape=(ny, nx),
            image=area,
            overscan=strip,
            gain_e_adu=float(gain),
            read_noise_e=float(noise),
            saturation_adu=guess if limit is None else float(limit),
            linear_max_adu=float(row.get("linear_max_adu") or np.inf),
            saturation_known=limit is not None,
        )

    @property
    def read_noise_adu(self) -> float:
        """Read noise in ADU."""
        return self.read_noise_e / self.gain_e_adu

    @property
    def dark_variance_adu2(self) -> float:
        """Variance of a pixel without light (ADU^2).

        Read noise, and rounding where the read noise is below 0.5 ADU; above, it was
        measured from integers and holds the rounding already.
        """
        rounding = ROUNDING if self.read_noise_adu < 0.5 else 0.0
        return self.read_noise_adu**2 + rounding

    def trim(self, raw: NDArray[Any]) -> NDArray[Any]:
        """Return a view of the image section, shape (ny, nx)."""
        view: NDArray[Any] = raw[self.image.slices]
        return view


@dataclass(frozen=True, eq=False)
class OverscanLevel:
    """The overscan of one frame.

    Parameters
    ----------
    level, variance : ndarray of float64, shape (ny,)
        Level to subtract from each row of the image section (ADU) and its variance
        (ADU^2). The error is common to a row, or to the frame for ``fit="frame"``.
    noise_adu : float
        Measured scatter of an overscan pixel (ADU); NaN without an overscan.
    drift_adu : float
        Range of the level along the rows, in eight steps (ADU).
    method : str
        What was done, for the header.
    """

    level: NDArray[np.float64]
    variance: NDArray[np.float64]
    noise_adu: float
    drift_adu: float
    method: str

    @property
    def mean_adu(self) -> float:
        """Mean level (ADU)."""
        return float(self.level.mean())


def fit_overscan(
    raw: NDArray[Any],
    readout: Readout,
    *,
    method: str = "clipped",
    fit: str = "frame",
    order: int = 1,
    sigma_clip: float = 4.0,
    iterations: int = 2,
) -> OverscanLevel:
    """Measure the overscan level of each row of the image.

    Parameters
    ----------
    raw : ndarray, shape (ny, nx)
        Raw image (ADU).
    readout : Readout
        Sections of the image.
    method : str
        Statistic of the pixels of a row: ``mean``, ``median``, or ``clipped``, the mean
        of pixels within ``sigma_clip`` of the row's median.
    fit : str
        ``frame``: one level. ``row``: the rows as they are. ``polynomial`` of degree
        ``order`` or ``spline3``, a cubic spline of ``order`` equal pieces, through the
        rows. Rows further than ``sigma_clip`` from a fit are left out, in
        ``iterations`` rounds; so are they in ``frame`` with ``clipped``.
    order : int
        Degree of the polynomial, or number of spline pieces.
    sigma_clip : float
        Threshold in standard deviations.
    iterations : int
        Rejection rounds.

    Returns
    -------
    OverscanLevel
        Zero level and variance if the frame has no overscan.

    Raises
    ------
    FrameRejected
        ``BAD_SECTION`` if a fit along the rows needs rows that the overscan has not;
        ``NO_DATA`` if the overscan holds no finite value.

    Notes
    -----
    The variance follows the scatter of the row means about the fit where that exceeds
    the pixel scatter / sqrt(columns): rows of real detectors scatter up to 1.8 times more.
    Formulas for mean, median and polynomial as usual for least squares; that of the
    median ``(pi/2)(1 - 1.3/n) s^2/n``.
    """
    ny = readout.image.shape[0]
    if readout.overscan is None:
        return OverscanLevel(np.zeros(ny), np.zeros(ny), np.nan, 0.0, "none")
    strip, image = readout.overscan, readout.image
    covers = strip.y0 <= image.y0 and strip.y1 >= image.y1
    if fit != "frame" and not covers:
        raise FrameRejected(
            "BAD_SECTION",
            f"overscan fit {fit!r} needs biassec to cover rows {image.y0 + 1}:{image.y1}, but it "
            f"is {strip}. Use `fit: frame` or correct biassec.",
        )
    pixels = raw[strip.slices].astype(np.float64)
    if not np.isfinite(pixels).any():
        raise FrameRejected("NO_DATA", f"the overscan {strip} holds no finite value.")
    floor = np.sqrt(ROUNDING) if raw.dtype.kind in "ui" else 0.0
    rows, number, noise = _row_levels(pixels, method, sigma_clip, floor)
    drift = _drift(rows)
    inflation = _median_factor(float(np.median(number))) if method == "median" else 1.0
    white = noise**2 / np.maximum(number, 1) * inflation
    label = f"{method} {fit}"
    if fit == "frame":
        level, variance = _frame_level(pixels, rows, number, noise, method, sigma_clip, iterations)
        return OverscanLevel(np.full(ny, level), np.full(ny, variance), noise, drift, label)
    first = image.y0 - strip.y0
    part = slice(first, first + ny)
    if fit == "row":
        missing = ~np.isfinite(rows)
        rows = np.where(missing, np.nanmedian(rows), rows)
        return OverscanLevel(rows[part].copy(), white[part].copy(), noise, drift, label)
    curve, variance_of_rows = _fit_rows(rows, white, fit, order, sigma_clip, iterations)
    return OverscanLevel(curve[part], variance_of_rows[part], noise, drift, f"{label} {order}")


def _median_factor(n: float) -> float:
    return np.pi / 2 * (1 - 1.3 / n) if n > 2 else 1.0


def _row_levels(
    pixels: NDArray[np.float64], method: str, sigma: float, floor: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Level of each row, pixels behind it, and scatter of a pixel about its row."""
    finite = np.isfinite(pixels)
    columns = pixels.shape[1]
    # NaN-free median: unusable pixels take the median of the whole overscan
    filled = pixels if finite.all() else np.where(finite, pixels, np.median(pixels[finite]))
    centre = np.median(filled, axis=1, keepdims=True)
    # The median of n pixels takes part in the residual: (n - 1)/n of the variance is left
    # for a mean; for a median of columns the clipped mean is put in place below.
    _, rough = clipped_mean_std((filled - centre)[finite], 4.0, 5, floor)
    near = finite & (np.abs(filled - centre) <= 4.0 * max(rough, floor) + 0.5)
    count = near.sum(axis=1)
    mean = np.where(count > 0, (filled * near).sum(axis=1) / np.maximum(count, 1), np.nan)
    residual = (filled - mean[:, None])[near & (count > 1)[:, None]]
    noise = clipped_mean_std(residual, 4.0, 3, floor)[1] if residual.size else np.nan
    noise *= np.sqrt(columns / (columns - 1)) if columns > 1 else 1.0
    if method == "median":
        return centre[:, 0], finite.sum(axis=1).astype(np.float64), float(noise)
    use = finite
    if method == "clipped":
        use = finite & (np.abs(filled - centre) <= sigma * max(noise, floor) + 0.5)
    elif method != "mean":
        raise ValueError(f"overscan method must be mean, median or clipped, got {method!r}")
    count = use.sum(axis=1)
    total = np.where(use, filled, 0.0).sum(axis=1)
    return (
        np.where(count > 0, total / np.maximum(count, 1), np.nan),
        count.astype(float),
        float(noise),
    )


def _drift(rows: NDArray[np.float64]) -> float:
    """Range of the medians of eight strips of rows."""
    good = rows[np.isfinite(rows)]
    if good.size < 16:
        return 0.0
    strips = [float(np.median(part)) for part in np.array_split(good, 8)]
    return max(strips) - min(strips)


def _frame_level(
    pixels: NDArray[np.float64], rows: NDArray[np.float64], number: NDArray[np.float64],
    noise: float, method: str, sigma: float, iterations: int,
) -> tuple[float, float]:  # fmt: skip
    """One level for all rows, and its variance."""
    good = np.isfinite(rows) & (number > 0)
    if method == "clipped":
        for _ in range(max(iterations, 1)):
            centre, spread = clipped_mean_std(rows[good], sigma, 1)
            # rows of equal integers scatter by less than their mean's own error
            limit = max(spread, noise / np.sqrt(pixels.shape[1]))
            near = np.isfinite(rows) & (number > 0) & (np.abs(rows - centre) <= sigma * limit)
            if not near.any() or (near == good).all():
                break
            good = near
    total = number[good].sum()
    scatter = float(rows[good].var(ddof=1)) / good.sum() if good.sum() > 1 else 0.0
    variance = max(noise**2 / total if np.isfinite(noise) else 0.0, scatter)
    if method == "median":
        finite = pixels[np.isfinite(pixels)]
        scatter = clipped_mean_std(rows[good], sigma)[1] ** 2 / good.sum() if good.any() else 0.0
        # the rows are medians, so their scatter already holds the factor
        return float(np.median(finite)), max(noise**2 / total * _median_factor(total), scatter)
    return float((rows[good] * number[good]).sum() / total), variance


def _fit_rows(
    rows: NDArray[np.float64], white: NDArray[np.float64], fit: str, order: int,
    sigma: float, iterations: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
    """Least-squares curve through the rows with rejection, and its variance."""
    basis = _basis(len(rows), fit, order)
    free = basis.shape[1]
    good = np.isfinite(rows)
    for step in range(iterations + 1):
        if good.sum() <= free:
            raise FrameRejected(
                "BAD_SECTION",
                f"{int(good.sum())} rows of overscan cannot carry a {fit} of order {order}. "
                "Lower `overscan.order` or use `fit: frame`.",
            )
        used = basis[good]
        normal = np.einsum("yi,yj->ij", used, used)
        curve = basis * np.linalg.solve(normal, np.einsum("yi,y->i", used, rows[good]))
        curve = curve.sum(axis=1)
        residual = rows - curve
        rms = float(np.sqrt(np.mean(residual[good] ** 2)))
        if step == iterations:
            break
        near = good & (np.abs(residual) <= sigma * rms)
        if (near == good).all():
            break
        good = near
    scatter = float((residual[good] ** 2).sum()) / (good.sum() - free)
    variance = max(scatter / tail_factor(sigma) ** 2, float(white[good].mean()))
    spread = np.einsum("yi,ij,yj->y", basis, np.linalg.inv(normal), basis)
    return curve, spread * variance


def _basis(n: int, fit: str, order: int) -> NDArray[np.float64]:
    """Basis functions at the rows, shape (n, parameters)."""
    if fit == "polynomial":
        at = np.linspace(-1, 1, n) if n > 1 else np.zeros(1)
        return np.asarray(np.polynomial.legendre.legvander(at, order), np.float64)
    if fit != "spline3":
        raise ValueError(f"overscan fit must be frame, row, polynomial or spline3, got {fit!r}")
    from scipy.interpolate import BSpline

    pieces = max(order, 1)
    knots = np.linspace(0, n - 1, pieces + 1)
    full = np.concatenate([np.full(3, knots[0]), knots, np.full(3, knots[-1])])
    at = np.clip(np.arange(n, dtype=float), knots[0], knots[-1])
    return np.asarray(BSpline.design_matrix(at, full, 3).toarray())
