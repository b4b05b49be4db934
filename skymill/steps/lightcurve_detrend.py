"""Magnitude fitting and detrending of the light curves of one filter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from skymill.curves.epd import EPD_VARIABLES, epd, robust_scatter
from skymill.curves.magnitude_fit import fit_magnitudes
from skymill.curves.terms import names_of, parse_terms
from skymill.curves.tfa import choose_templates, tfa

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.curves.epd import Detrended
    from skymill.curves.transit import Transit
    from skymill.steps.lightcurve_matrix import Matrix

__all__ = ["Detrending", "detrend_filter"]

_MAG = 2.5 / np.log(10)


@dataclass(frozen=True)
class Detrending:
    """What the detrending of a filter adds.

    Parameters
    ----------
    columns : dict
        Further columns of the points: mag_fit, mag_fit_err, mag_epd, mag_tfa.
    statistics : dict
        Further columns by source: scatter in mmag after each stage, depth.
    frames : dict
        Further columns by frame: quality of the magnitude fit.
    n_templates : int
        Templates of the trend filter.
    """

    columns: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    statistics: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    frames: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    n_templates: int = 0


def detrend_filter(
    matrix: Matrix,
    curve: dict[str, NDArray[np.float64]],
    *,
    good: NDArray[np.bool_],
    position: tuple[NDArray[np.float64], NDArray[np.float64]],
    colour: NDArray[np.float64] | None,
    targets: NDArray[np.bool_] | None,
    magnitude_fit: bool,
    magnitude_terms: str,
    magnitude_max_error: float,
    detrend: str,
    epd_terms: str,
    tfa_grid: int,
    tfa_neighbour_px: float,
    transit: Transit | None,
) -> Detrending:
    """Correct the magnitudes of one filter, stage after stage.

    Parameters
    ----------
    matrix : Matrix
        Measurements.
    curve : dict
        flux_corr, flux_corr_err, mag, bjd_tdb, airmass, fwhm, mjd_mid by source and frame.
    good : ndarray of bool, shape (n_sources, n_frames)
        Measurements without a flag.
    position : (x, y)
        Positions on the grid, each of shape (n_sources,).
    colour : ndarray of float64, shape (n_sources,), or None
        Colours where they are known.
    targets : ndarray of bool, shape (n_sources,), or None
        Stars that tell nothing about others and own the transit; None: none are named.
    magnitude_fit, magnitude_terms, magnitude_max_error : bool, str, float
        Whether to fit magnitudes to a reference, with which terms and which stars.
    detrend : {"none", "epd", "tfa", "both"}
        Further stages.
    epd_terms, tfa_grid, tfa_neighbour_px
        See `skymill.curves.epd.epd`, `choose_templates` and `tfa`.
    transit : Transit or None
        What must survive.

    Returns
    -------
    Detrending
    """
    mag, err = _magnitudes(curve["flux_corr"], curve["flux_corr_err"], curve["mag"])
    out = Detrending()
    if magnitude_fit:
        mag, err = _fitted(
            matrix, mag, good, colour, targets, (magnitude_terms, magnitude_max_error), out
        )
    # A curve that begins in the middle of a transit still has its window in the right place.
    times = curve["bjd_tdb"]
    n_templates = 0
    if detrend in ("epd", "both"):
        found = epd(
            mag, err, good, _variables(matrix, curve, epd_terms), terms=epd_terms,
            times=times, transit=transit, targets=targets,
        )  # fmt: skip
        mag = _noted("epd", found, out)
    if detrend in ("tfa", "both"):
        x, y = position
        templates = choose_templates(mag, good, x, y, grid=tfa_grid, exclude=targets)
        n_templates = int(templates.size)
        found = tfa(
            mag, err, good, x, y, templates=templates, neighbour_px=tfa_neighbour_px,
            times=times, transit=transit, targets=targets,
        )  # fmt: skip
        mag = _noted("tfa", found, out)
    return Detrending(out.columns, out.statistics, out.frames, n_templates)


def _magnitudes(
    flux: NDArray[np.float64], err: NDArray[np.float64], mag: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Magnitudes with the zero point if it is known, instrumental ones if not."""
    with np.errstate(invalid="ignore", divide="ignore"):
        positive = flux > 3 * err
        plain = np.where(positive, -2.5 * np.log10(np.where(positive, flux, 1.0)), np.nan)
        error = np.where(positive, _MAG * err / flux, np.nan)
    rest = (mag - plain)[np.isfinite(mag) & positive]
    return plain + (float(np.median(rest)) if rest.size else 0.0), error


def _fitted(
    matrix: Matrix,
    ensemble: NDArray[np.float64],
    good: NDArray[np.bool_],
    colour: NDArray[np.float64] | None,
    targets: NDArray[np.bool_] | None,
    recipe: tuple[str, float],
    out: Detrending,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit the magnitudes before any correction to a reference, on the ensemble's scale."""
    terms, max_error = recipe
    raw, raw_err = _magnitudes(
        matrix.columns["flux"], matrix.columns["flux_err"], np.full(ensemble.shape, np.nan)
    )
    if colour is None and "colour" in names_of(parse_terms(terms)):
        # No star has a colour: a term that is the same for all is dropped by the fit.
        colour = np.zeros(raw.shape[0])
    fit = fit_magnitudes(
        raw, raw_err, good, matrix.columns["x"], matrix.columns["y"],
        colour=colour, exclude=targets, terms=terms, max_error=max_error,
    )  # fmt: skip
    usable = good & np.isfinite(fit.mag) & np.isfinite(ensemble) & (fit.err < 0.1)
    offset = float(np.median((ensemble - fit.mag)[usable])) if usable.any() else 0.0
    mag = fit.mag + offset
    out.columns["mag_fit"], out.columns["mag_fit_err"] = mag, fit.err
    out.statistics["rms_fit_mmag"] = 1e3 * _rms(mag, good)
    quality = fit.quality
    out.frames["magfit_stars"] = quality.n_stars.astype(np.float64)
    out.frames["magfit_terms"] = quality.n_terms.astype(np.float64)
    out.frames["magfit_rms_mmag"] = 1e3 * quality.rms
    out.frames["magfit_chi2"] = quality.chi2
    return mag, fit.err


def _rms(mag: NDArray[np.float64], good: NDArray[np.bool_]) -> NDArray[np.float64]:
    middle, width, n = robust_scatter(mag, good)
    with np.errstate(invalid="ignore", divide="ignore"):
        rest = mag - middle[:, None]
        near = good & (np.abs(rest) <= 10 * width[:, None])
        square = np.where(near, rest**2, 0.0).sum(axis=1)
        return np.asarray(np.where(n > 1, np.sqrt(square / (near.sum(axis=1) - 1)), np.nan))


def _noted(stage: str, found: Detrended, out: Detrending) -> NDArray[np.float64]:
    out.columns[f"mag_{stage}"] = found.mag
    out.statistics[f"rms_before_{stage}_mmag"] = 1e3 * found.rms_before
    out.statistics[f"rms_{stage}_mmag"] = 1e3 * found.rms_after
    out.statistics[f"n_terms_{stage}"] = found.n_terms.astype(np.float64)
    if np.isfinite(found.depth).any():
        out.statistics["depth_mmag"] = 1e3 * found.depth
        out.statistics["depth_err_mmag"] = 1e3 * found.depth_err
    return found.mag


def _variables(
    matrix: Matrix, curve: dict[str, NDArray[np.float64]], terms: str
) -> dict[str, NDArray[np.float64]]:
    """External quantities by name; unknown ones are 0, so that their terms drop out."""
    x, y = matrix.columns["x"], matrix.columns["y"]
    every = {
        "airmass": curve["airmass"], "fwhm": curve["fwhm"], "sky": matrix.columns["sky"],
        "time": curve["mjd_mid"], "x": x, "y": y,
        "sin_x": np.sin(2 * np.pi * x), "cos_x": np.cos(2 * np.pi * x),
        "sin_y": np.sin(2 * np.pi * y), "cos_y": np.cos(2 * np.pi * y),
    }  # fmt: skip
    used = names_of(parse_terms(terms, known=EPD_VARIABLES))
    out = {name: np.asarray(values, np.float64) for name, values in every.items()}
    for name in used:
        if not np.isfinite(out[name]).any():
            out[name] = np.zeros(matrix.flags.shape)
    return out
