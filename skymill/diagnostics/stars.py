"""Stars of one image: growth curves, profiles, signal to noise, apertures drawn over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.diagnostics.figures import COLOURS, Diagnostic, new_figure, show_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = ["plot_apertures", "plot_growth_curves", "plot_psf", "plot_snr"]

_SIGMA = 1 / np.sqrt(8 * np.log(2))
#: Profiles are drawn so far from the centre, in FWHM.
_REACH_FWHM = 3.0


def plot_growth_curves(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    mask: NDArray[np.uint16] | None,
    x: ArrayLike,
    y: ArrayLike,
    *,
    fwhm_px: float,
    labels: Sequence[object] | None = None,
    title: str = "",
) -> Diagnostic:
    """Draw the light within a radius over the radius, in per cent of the largest value.

    Parameters
    ----------
    sci, err, mask
        Background-subtracted image, its error and its mask, shape (ny, nx).
    x, y : array_like, shape (n,)
        0-based positions of the sources that are drawn.
    fwhm_px : float
        FWHM of the stars; radii go from 0.25 to 4.25 of it (ten Gaussian sigma).
    labels : sequence, optional
        What the sources are called.
    title : str
        Title.

    Returns
    -------
    Diagnostic
        Numbers: ``radii_px`` (m,), ``percent`` (n, m), ``flux_e`` (n, m), and ``half_px`` (n,),
        the radius of half the light; NaN where a source cannot be measured.
    """
    from skymill.measure import mask_sources, measure_apertures

    px, py = (np.atleast_1d(np.asarray(v, np.float64)) for v in (x, y))
    names = list(range(1, px.size + 1)) if labels is None else list(labels)
    radii = fwhm_px * np.linspace(0.25, 4.25, 25)
    bits = np.zeros(np.shape(sci), np.uint16) if mask is None else mask
    small = measure_apertures(sci, err, bits, px, py, [1.25 * fwhm_px])
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = np.asarray(small["flux_0"] / small["flux_err_0"])
    found = measure_apertures(
        sci, err, bits, px, py, radii,
        annulus=(4.5 * fwhm_px, 7.5 * fwhm_px), masked="flag",
        sky_mask=mask_sources(bits, px, py, snr, fwhm_px),
    )  # fmt: skip
    flux = np.stack([np.asarray(found[f"flux_{k}"], np.float64) for k in range(radii.size)], axis=1)
    known = np.isfinite(flux).any(axis=1)
    top = np.full(px.size, np.nan)
    top[known] = np.nanmax(flux[known], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        percent = np.where(top[:, None] > 0, 100 * flux / top[:, None], np.nan)
    half = np.array([_crossing(radii, line, 50.0) for line in percent])
    figure, axes = new_figure(size=(6.8, 4.6))
    ax = axes[0, 0]
    for k, line in enumerate(percent):
        ax.plot(radii, line, color=COLOURS[k % len(COLOURS)], lw=1.2, label=str(names[k]))
    ax.axhline(100, color="0.7", lw=0.8)
    ax.set_ylim(0, 108)
    ax.set_xlabel("radius (px)")
    ax.set_ylabel("flux (% of the largest)")
    upper = ax.secondary_xaxis("top", functions=(lambda r: r / fwhm_px, lambda f: f * fwhm_px))
    upper.set_xlabel("radius (FWHM)")
    if 0 < px.size <= 16:
        ax.legend(fontsize="small", ncols=2, title="source")
    ax.set_title(title)
    numbers = {"radii_px": radii, "percent": percent, "flux_e": flux, "half_px": half}
    return Diagnostic(figure, numbers)


def _crossing(radii: Floats, line: Floats, level: float) -> float:
    """Radius at which a curve first reaches a level."""
    above = np.flatnonzero(line >= level)
    if not above.size or above[0] == 0 or not np.isfinite(line[above[0] - 1]):
        return float("nan")
    k = int(above[0])
    part = (level - line[k - 1]) / (line[k] - line[k - 1])
    return float(radii[k - 1] + part * (radii[k] - radii[k - 1]))


def plot_psf(
    sci: NDArray[np.float32],
    x: ArrayLike,
    y: ArrayLike,
    *,
    fwhm_px: float,
    labels: Sequence[object] | None = None,
    title: str = "",
) -> Diagnostic:
    """Draw contours and projected profiles of stars with Gaussian fits.

    Parameters
    ----------
    sci : ndarray of float32, shape (ny, nx)
        Background-subtracted image.
    x, y : array_like, shape (n,)
        0-based positions.
    fwhm_px : float
        FWHM to begin with.
    labels : sequence, optional
        What the sources are called.
    title : str
        Title.

    Returns
    -------
    Diagnostic
        Numbers: ``fwhm_x_px`` and ``fwhm_y_px`` (n,) of the Gaussians that fit the sums along y
        and along x; NaN where none fits or the star is cut by an edge. Where ``n`` is 0 the
        figure is empty.
    """
    px, py = (np.atleast_1d(np.asarray(v, np.float64)) for v in (x, y))
    names = list(range(1, px.size + 1)) if labels is None else list(labels)
    half = int(np.ceil(_REACH_FWHM * fwhm_px))
    figure, axes = new_figure(max(px.size, 1), 3, size=(9.6, 2.8 * max(px.size, 1) + 0.4))
    fwhm = np.full((2, px.size), np.nan)
    for k in range(px.size):
        stamp = _stamp(sci, px[k], py[k], half)
        if stamp is None:
            axes[k, 0].set_title(f"{names[k]}: at an edge", fontsize="small")
            continue
        image, fx, fy = stamp
        offsets = np.arange(-half, half + 1, dtype=float)
        axes[k, 0].contour(offsets - fx, offsets - fy, image, levels=_levels(image), linewidths=0.8)
        axes[k, 0].set_aspect("equal")
        axes[k, 0].set_title(str(names[k]), fontsize="small")
        for axis, (shift, name) in enumerate(((fx, "x"), (fy, "y"))):
            profile = image.sum(axis=axis)
            ax = axes[k, 1 + axis]
            ax.step(offsets - shift, profile, where="mid", color="0.4", lw=1.0)
            fit = _gaussian(offsets - shift, profile, fwhm_px)
            if fit is not None:
                fine = np.linspace(-half, half, 200)
                ax.plot(fine, _profile(fine, *fit), color=COLOURS[1], lw=1.2)
                fwhm[axis, k] = abs(fit[2]) / _SIGMA
            ax.set_title(f"sum over {'yx'[axis]}: FWHM {fwhm[axis, k]:.2f} px", fontsize="small")
            ax.set_xlabel(f"{name} (px)", fontsize="small")
    figure.suptitle(title)
    return Diagnostic(figure, {"fwhm_x_px": fwhm[0], "fwhm_y_px": fwhm[1]})


def _stamp(sci: NDArray[Any], x: float, y: float, half: int) -> tuple[Floats, float, float] | None:
    """Square about the pixel of a position, and the position relative to that pixel."""
    if not (np.isfinite(x) and np.isfinite(y)):
        return None
    i, j = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    ny, nx = sci.shape
    if min(i, j, nx - 1 - i, ny - 1 - j) < half:
        return None
    image = np.asarray(sci[j - half : j + half + 1, i - half : i + half + 1], np.float64)
    return (image, x - i, y - j) if np.isfinite(image).all() else None


def _levels(image: Floats) -> Floats:
    """Contours at fractions of the peak, increasing and above nothing."""
    top = float(image.max())
    return np.asarray(max(top, 1e-6) * np.array([0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.95]))


def _profile(x: Floats, height: float, centre: float, sigma: float, level: float) -> Floats:
    return np.asarray(height * np.exp(-0.5 * ((x - centre) / sigma) ** 2) + level)


def _gaussian(x: Floats, profile: Floats, fwhm_px: float) -> Floats | None:
    from scipy.optimize import curve_fit

    start = (float(profile.max()), 0.0, fwhm_px * _SIGMA, 0.0)
    try:
        fit, _ = curve_fit(_profile, x, profile, p0=start, maxfev=400)
    except (RuntimeError, ValueError):
        return None
    plausible = fit[0] > 0 and 0.2 < abs(fit[2]) / start[2] < 5
    return np.asarray(fit) if plausible else None


def plot_snr(
    flux: ArrayLike,
    flux_err: ArrayLike,
    *,
    labels: Sequence[object] | None = None,
    title: str = "",
) -> Diagnostic:
    """Draw the signal to noise of sources, the highest first.

    Parameters
    ----------
    flux, flux_err : array_like, shape (n,)
        Fluxes and their one-sigma errors: all noise is in the errors, in electron.
    labels : sequence, optional
        What the sources are called.
    title : str
        Title.

    Returns
    -------
    Diagnostic
        Numbers: ``snr`` (n,) in the order of the input.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = np.asarray(flux, np.float64) / np.asarray(flux_err, np.float64)
    names = list(range(1, snr.size + 1)) if labels is None else list(labels)
    known = np.flatnonzero(np.isfinite(snr))
    order = known[np.argsort(-snr[known], kind="stable")]
    figure, axes = new_figure(size=(max(5.0, min(0.32 * order.size, 16.0)), 4.0))
    ax = axes[0, 0]
    ax.bar(np.arange(order.size), np.maximum(snr[order], 0.1), color=COLOURS[0])
    ax.set_yscale("log")
    if order.size <= 48:
        ax.set_xticks(np.arange(order.size), [str(names[k]) for k in order], rotation=90)
    ax.set_xlabel("source")
    ax.set_ylabel("signal to noise")
    ax.set_title(title)
    return Diagnostic(figure, {"snr": snr})


def plot_apertures(
    sci: NDArray[np.float32],
    x: ArrayLike,
    y: ArrayLike,
    *,
    a_px: float,
    b_px: float | None = None,
    theta_deg: float = 0.0,
    annulus: Sequence[float] | None = None,
    labels: Sequence[object] | None = None,
    title: str = "",
) -> Diagnostic:
    """Draw the aperture, and the annulus if there is one, over each source.

    Parameters
    ----------
    sci : ndarray of float32, shape (ny, nx)
        The image.
    x, y : array_like, shape (n,)
        0-based positions.
    a_px, b_px : float
        Semi-axes of the aperture; a circle by default.
    theta_deg : float
        Angle of the long axis from the x axis to the y axis, in degree.
    annulus : (float, float), optional
        Inner and outer radius of the ring, along the long axis.
    labels : sequence, optional
        What the sources are called.
    title : str
        Title.

    Returns
    -------
    Diagnostic
        Numbers: ``a_px``, ``b_px``, ``theta_deg``, ``n_drawn``, and ``outlines_px`` (n, 2, 73),
        x and y of each aperture's outline.
    """
    px, py = (np.atleast_1d(np.asarray(v, np.float64)) for v in (x, y))
    names = list(range(1, px.size + 1)) if labels is None else list(labels)
    b = a_px if b_px is None else b_px
    reach = 1.3 * (annulus[1] if annulus else 2.5 * a_px)
    columns = min(max(px.size, 1), 5)
    rows = -(-max(px.size, 1) // columns)
    figure, axes = new_figure(rows, columns, size=(2.6 * columns, 2.7 * rows + 0.4))
    outlines = np.full((px.size, 2, 73), np.nan)
    drawn = 0
    for k, ax in enumerate(axes.ravel()):
        if k >= px.size or not np.isfinite(px[k] + py[k]):
            ax.set_axis_off()
            continue
        show_image(ax, sci)
        outlines[k] = _ellipse(px[k], py[k], a_px, b, theta_deg)
        ax.plot(*outlines[k], color=COLOURS[4], lw=1.4)
        for radius in annulus or ():
            ring = _ellipse(px[k], py[k], radius, radius * b / a_px, theta_deg)
            ax.plot(*ring, color=COLOURS[5], lw=1.0, ls="--")
        ax.set_xlim(px[k] - reach, px[k] + reach)
        ax.set_ylim(py[k] - reach, py[k] + reach)
        ax.set_title(str(names[k]), fontsize="small")
        drawn += 1
    figure.suptitle(title)
    numbers = {
        "a_px": float(a_px), "b_px": float(b), "theta_deg": float(theta_deg), "n_drawn": drawn,
        "outlines_px": outlines,
    }  # fmt: skip
    return Diagnostic(figure, numbers)


def _ellipse(x: float, y: float, a: float, b: float, theta_deg: float) -> Floats:
    """Outline of an ellipse, shape (2, 73)."""
    angle, turn = np.linspace(0, 2 * np.pi, 73), np.deg2rad(theta_deg)
    u, v = a * np.cos(angle), b * np.sin(angle)
    cos, sin = np.cos(turn), np.sin(turn)
    return np.stack([x + u * cos - v * sin, y + u * sin + v * cos])
