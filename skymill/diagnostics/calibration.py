"""Zero-point residuals in space, colour and magnitude; depth and seeing over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skymill.diagnostics.figures import COLOURS, Diagnostic, new_figure

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = ["plot_depth", "plot_zero_points", "robust_slope"]


def robust_slope(x: ArrayLike, y: ArrayLike) -> tuple[float, float]:
    """Return the median slope of all pairs of points (Theil and Sen) and its error.

    The error is that of the slope of a least-squares line with the robust scatter about the
    median line. NaN with fewer than four points or without a range in x.
    """
    a, b = (np.asarray(v, np.float64) for v in (x, y))
    good = np.isfinite(a) & np.isfinite(b)
    a, b = a[good], b[good]
    # Pairs grow with the square: a fixed subset of the points is enough for a picture.
    step = -(-a.size // 600)
    a, b = a[::step] if step else a, b[::step] if step else b
    if a.size < 4 or not np.ptp(a) > 0:
        return float("nan"), float("nan")
    i, j = np.triu_indices(a.size, 1)
    run = a[j] - a[i]
    slope = float(np.median((b[j] - b[i])[run != 0] / run[run != 0]))
    off = b - slope * a
    sigma = 1.4826 * np.median(np.abs(off - np.median(off)))
    return slope, float(sigma / np.sqrt(((a - a.mean()) ** 2).sum()))


def plot_zero_points(
    residual_mag: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    mag: ArrayLike,
    colour: ArrayLike | None = None,
    *,
    keep: ArrayLike | None = None,
    title: str = "",
) -> Diagnostic:
    """Draw what is left of the zero point of each star over position, colour and magnitude.

    Parameters
    ----------
    residual_mag : array_like, shape (n,)
        Catalogue magnitude minus the calibrated one.
    x, y : array_like, shape (n,)
        0-based positions on the frame.
    mag, colour : array_like, shape (n,)
        Catalogue magnitude and colour.
    keep : array_like of bool, shape (n,), optional
        Stars that the zero point was made of.
    title : str
        Title.

    Returns
    -------
    Diagnostic
        Numbers of the kept stars: ``n``, ``n_rejected``, ``scatter_mag`` (robust), and slopes
        with errors: ``slope_x_mag_per_kpx``, ``slope_y_mag_per_kpx``,
        ``slope_mag_per_mag``, ``slope_colour_mag_per_mag``.
    """
    off, px, py, m = (np.asarray(v, np.float64) for v in (residual_mag, x, y, mag))
    hue = np.full(off.size, np.nan) if colour is None else np.asarray(colour, np.float64)
    used = np.isfinite(off) if keep is None else np.asarray(keep, bool) & np.isfinite(off)
    scatter = float("nan")
    if used.any():
        scatter = float(1.4826 * np.median(np.abs(off[used] - np.median(off[used]))))
    numbers: dict[str, float] = {
        "n": int(used.sum()), "n_rejected": int((~used).sum()), "scatter_mag": scatter,
    }  # fmt: skip
    for name, values in (
        ("x_mag_per_kpx", px / 1e3), ("y_mag_per_kpx", py / 1e3), ("mag_per_mag", m),
        ("colour_mag_per_mag", hue),
    ):  # fmt: skip
        numbers[f"slope_{name}"], numbers[f"slope_{name}_err"] = robust_slope(
            values[used], off[used]
        )
    figure, axes = new_figure(1, 3, size=(13.0, 4.0))
    reach = 3 * scatter if np.isfinite(scatter) and scatter > 0 else 0.1
    drawn = axes[0, 0].scatter(
        px[used], py[used], c=off[used], s=14, cmap="RdBu_r", vmin=-reach, vmax=reach
    )
    figure.colorbar(drawn, ax=axes[0, 0], shrink=0.85, label="residual (mag)")
    axes[0, 0].set_aspect("equal")
    axes[0, 0].set_xlabel("x (px)")
    axes[0, 0].set_ylabel("y (px)")
    for ax, values, name in ((axes[0, 1], hue, "colour (mag)"), (axes[0, 2], m, "magnitude")):
        there = np.isfinite(values)
        ax.plot(values[there & ~used], off[there & ~used], "x", color=COLOURS[1], ms=4)
        ax.plot(values[there & used], off[there & used], ".", color=COLOURS[0], ms=5)
        ax.axhline(0, color="0.5", lw=0.8)
        ax.set_ylim(-3 * reach, 3 * reach)
        ax.set_xlabel(name)
        ax.set_ylabel("residual (mag)")
    figure.suptitle(title)
    return Diagnostic(figure, numbers)


def plot_depth(
    mjd: ArrayLike,
    depth_mag: ArrayLike,
    seeing: ArrayLike | None = None,
    *,
    filters: ArrayLike | None = None,
    seeing_unit: str = "px",
    title: str = "",
) -> Diagnostic:
    """Draw the depth of frames over time, with the seeing below.

    Parameters
    ----------
    mjd : array_like, shape (n,)
        Middle of the exposures.
    depth_mag : array_like, shape (n,)
        5-sigma limit.
    seeing : array_like, shape (n,), optional
        FWHM.
    filters : array_like of str, shape (n,), optional
        Filter of each frame.
    seeing_unit : str
        Unit of the seeing.
    title : str
        Title.

    Returns
    -------
    Diagnostic
        Numbers by filter: ``depth_<filter>_mag`` and ``depth_range_<filter>_mag``, median and
        range of 16 to 84 per cent; ``seeing_<filter>`` if it is given.
    """
    time, depth = (np.asarray(v, np.float64) for v in (mjd, depth_mag))
    blur = np.full(time.size, np.nan) if seeing is None else np.asarray(seeing, np.float64)
    names = np.full(time.size, "all") if filters is None else np.asarray(filters).astype(str)
    known = np.isfinite(time)
    start = float(np.floor(time[known].min())) if known.any() else 0.0
    figure, axes = new_figure(
        1 if seeing is None else 2, 1, size=(8.0, 3.2 * (2 - (seeing is None)))
    )
    numbers: dict[str, float] = {}
    for k, name in enumerate(sorted(set(names.tolist()))):
        mine = known & (names == name)
        colour = COLOURS[k % len(COLOURS)]
        axes[0, 0].plot(time[mine] - start, depth[mine], ".", color=colour, label=name)
        good = depth[mine & np.isfinite(depth)]
        if good.size:
            low, middle, high = (float(v) for v in np.percentile(good, (16, 50, 84)))
            numbers[f"depth_{name}_mag"], numbers[f"depth_range_{name}_mag"] = middle, high - low
        if seeing is not None:
            axes[1, 0].plot(time[mine] - start, blur[mine], ".", color=colour)
            there = blur[mine & np.isfinite(blur)]
            if there.size:
                numbers[f"seeing_{name}"] = float(np.median(there))
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_ylabel("depth, 5 σ (mag)")
    if known.any():
        axes[0, 0].legend(fontsize="small")
    if seeing is not None:
        axes[1, 0].set_ylabel(f"FWHM ({seeing_unit})")
    axes[-1, 0].set_xlabel(f"MJD − {start:.0f} (d)")
    figure.suptitle(title)
    return Diagnostic(figure, numbers)
