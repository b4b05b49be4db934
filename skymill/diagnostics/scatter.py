"""Scatter of light curves over brightness."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skymill.diagnostics.figures import COLOURS, Diagnostic, new_figure

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = ["PowerLaw", "fit_power_law", "plot_rms"]

#: Sources further than this from the law, in robust sigma, are left out; rounds of it.
_CLIP, _ROUNDS = 3.0, 5


class PowerLaw(NamedTuple):
    """``rms = scale * 10**(slope (m - middle) )``, that is ``rms ~ flux**(-2.5 slope)``.

    Attributes
    ----------
    slope, slope_err : float
        Per magnitude: 0.2 where the photons of the stars rule, 0.4 where the sky does,
        0 where a floor is reached.
    scale : float
        Scatter at the middle, in the unit of the scatters.
    middle : float
        Median magnitude of the sources.
    scatter_dex : float
        Robust scatter of the sources about the law, log10.
    n : int
        Sources that were kept.
    """

    slope: float
    slope_err: float
    scale: float
    middle: float
    scatter_dex: float
    n: int

    @property
    def exponent(self) -> float:
        """Exponent of the flux: -0.5 for photons of the stars, -1 for those of the sky."""
        return -2.5 * self.slope

    def __call__(self, mag: ArrayLike) -> Floats:
        """Return the law at magnitudes."""
        return np.asarray(self.scale * 10 ** (self.slope * (np.asarray(mag) - self.middle)))


def fit_power_law(mag: ArrayLike, rms: ArrayLike) -> PowerLaw | None:
    """Fit a straight line to log rms over magnitude, without the variable sources.

    Parameters
    ----------
    mag, rms : array_like, shape (n,)
        Magnitudes, and scatters in any unit. Values that are not finite, and scatters that are
        not positive, are left out.

    Returns
    -------
    PowerLaw or None
        None with fewer than four sources or without a range of magnitudes.
    """
    x, y = (np.asarray(v, np.float64) for v in (mag, rms))
    good = np.isfinite(x) & np.isfinite(y) & (y > 0)
    x, y = x[good], np.log10(y[good])
    if x.size < 4 or not np.ptp(x) > 0:
        return None
    middle = float(np.median(x))
    x = x - middle
    keep = np.ones(x.size, bool)
    slope = level = sigma = 0.0
    for _ in range(_ROUNDS):
        n = int(keep.sum())
        mean_x, mean_y = x[keep].sum() / n, y[keep].sum() / n
        spread = ((x[keep] - mean_x) ** 2).sum()
        if not spread > 0:
            return None
        slope = float(((x[keep] - mean_x) * (y[keep] - mean_y)).sum() / spread)
        level = float(mean_y - slope * mean_x)
        off = y - level - slope * x
        centre = np.median(off[keep])
        sigma = float(1.4826 * np.median(np.abs(off[keep] - centre)))
        now = np.abs(off - centre) <= _CLIP * max(sigma, 1e-6)
        if now.sum() < 4 or np.array_equal(now, keep):
            break
        keep = now
    error = sigma / np.sqrt(((x[keep] - x[keep].mean()) ** 2).sum())
    return PowerLaw(slope, float(error), float(10**level), middle, sigma, int(keep.sum()))


def plot_rms(
    mag: ArrayLike,
    rms_mmag: ArrayLike,
    expected_mmag: ArrayLike | None = None,
    *,
    comparison: ArrayLike | None = None,
    absolute: bool = False,
    title: str = "",
) -> Diagnostic:
    """Draw the scatter of light curves over magnitude with a power law and the expectation.

    Parameters
    ----------
    mag : array_like, shape (n,)
        Magnitudes, or -2.5 log10 of median fluxes.
    rms_mmag, expected_mmag : array_like, shape (n,)
        Measured scatter, and that which the errors predict.
    comparison : array_like of bool, shape (n,), optional
        Comparison stars.
    absolute : bool
        Whether the magnitudes have a zero point.
    title : str
        Title.

    Returns
    -------
    Diagnostic
        Numbers: ``slope_per_mag``, ``exponent``, ``rms_at_middle_mmag``, ``middle_mag``,
        ``floor_mmag`` (median of the brightest tenth, at least three), and with an expectation
        ``rms_over_expected`` and ``variable`` (sources above three times the expectation).
    """
    x, y = (np.asarray(v, np.float64) for v in (mag, rms_mmag))
    good = np.isfinite(x) & np.isfinite(y) & (y > 0)
    figure, axes = new_figure(size=(7.2, 4.6))
    ax = axes[0, 0]
    star = np.zeros(x.size, bool) if comparison is None else np.asarray(comparison, bool)
    for chosen, colour, name in (
        (good & ~star, "0.5", "sources"), (good & star, COLOURS[2], "comparison stars"),
    ):  # fmt: skip
        if chosen.any():
            ax.plot(x[chosen], y[chosen], ".", color=colour, ms=5, label=name)
    numbers: dict[str, float] = {"n_sources": int(good.sum())}
    law = fit_power_law(x[good], y[good])
    if law is not None:
        ends = np.array([x[good].min(), x[good].max()])
        text = f"power law: rms ∝ flux^{law.exponent:.2f}".replace("-", "−")
        ax.plot(ends, law(ends), "--", color=COLOURS[1], lw=1.2, label=text)
        numbers |= {
            "slope_per_mag": law.slope, "slope_err_per_mag": law.slope_err,
            "exponent": law.exponent, "rms_at_middle_mmag": law.scale, "middle_mag": law.middle,
        }  # fmt: skip
    if good.any():
        brightest = np.argsort(x[good], kind="stable")[: max(3, int(good.sum()) // 10)]
        numbers["floor_mmag"] = float(np.median(y[good][brightest]))
    if expected_mmag is not None:
        should = np.asarray(expected_mmag, np.float64)
        known = good & np.isfinite(should) & (should > 0)
        order = np.flatnonzero(known)[np.argsort(x[known], kind="stable")]
        ax.plot(x[order], should[order], color="black", lw=1.5, label="expected from the errors")
        ratio = y[known] / should[known]
        numbers["rms_over_expected"] = float(np.median(ratio)) if ratio.size else float("nan")
        numbers["variable"] = int((ratio > 3).sum())
    ax.set_yscale("log")
    ax.set_xlabel("magnitude" if absolute else "instrumental magnitude (−2.5 log electron)")
    ax.set_ylabel("scatter (mmag)")
    ax.set_title(title)
    if good.any():
        ax.legend(fontsize="small")
    return Diagnostic(figure, numbers)
