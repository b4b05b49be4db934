"""Diagnostics of a reduction: arrays in, a figure and its numbers out, one call each.

Every function returns a `Diagnostic`: a matplotlib figure that belongs to no window, and the
numbers that it shows. The same arrays give the same figure; `save_figure` writes the same bytes.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skymill.diagnostics.background import plot_background_mesh
    from skymill.diagnostics.calibration import plot_depth, plot_zero_points
    from skymill.diagnostics.figures import Diagnostic, save_figure
    from skymill.diagnostics.noise import NoiseModel, plot_noise
    from skymill.diagnostics.residuals import zero_point_residuals
    from skymill.diagnostics.scatter import PowerLaw, fit_power_law, plot_rms
    from skymill.diagnostics.stars import (
        plot_apertures,
        plot_growth_curves,
        plot_psf,
        plot_snr,
    )

_PLACES = {
    "Diagnostic": "figures",
    "NoiseModel": "noise",
    "PowerLaw": "scatter",
    "fit_power_law": "scatter",
    "plot_apertures": "stars",
    "plot_background_mesh": "background",
    "plot_depth": "calibration",
    "plot_growth_curves": "stars",
    "plot_noise": "noise",
    "plot_psf": "stars",
    "plot_rms": "scatter",
    "plot_snr": "stars",
    "plot_zero_points": "calibration",
    "save_figure": "figures",
    "zero_point_residuals": "residuals",
}

__all__ = [
    "Diagnostic",
    "NoiseModel",
    "PowerLaw",
    "fit_power_law",
    "plot_apertures",
    "plot_background_mesh",
    "plot_depth",
    "plot_growth_curves",
    "plot_noise",
    "plot_psf",
    "plot_rms",
    "plot_snr",
    "plot_zero_points",
    "save_figure",
    "zero_point_residuals",
]


def __getattr__(name: str) -> object:
    # matplotlib and the kernels are loaded when something is drawn.
    if name not in _PLACES:
        raise AttributeError(f"module 'skymill.diagnostics' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"skymill.diagnostics.{_PLACES[name]}"), name)
    globals()[name] = value
    return value
