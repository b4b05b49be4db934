"""Photometric measurements on arrays: apertures, ellipses, PSF, growth curves, any position.

Every function takes an image, its one-sigma error and its mask, and positions in 0-based
pixels; nothing is read or written. Errors are ``sum(w**2 V)`` with the error of the local
sky and, if asked, of correlated noise and scintillation.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skymill.measure.apertures import measure_apertures
    from skymill.measure.ellipses import measure_ellipses, measure_isophotal, measure_kron
    from skymill.measure.flags import PhotFlag
    from skymill.measure.flicker import scintillation
    from skymill.measure.forced_frames import ForcedFrame, forced
    from skymill.measure.growth import GrowthCurve, growth_curve
    from skymill.measure.positions import Positions, read_positions
    from skymill.measure.psf import PSFModel
    from skymill.measure.psf_fit import measure_optimal, measure_psf
    from skymill.measure.rings import local_sky, mask_sources
    from skymill.measure.stars import choose_stars

_PLACES = {
    "ForcedFrame": "forced_frames",
    "GrowthCurve": "growth",
    "PSFModel": "psf",
    "PhotFlag": "flags",
    "Positions": "positions",
    "choose_stars": "stars",
    "forced": "forced_frames",
    "growth_curve": "growth",
    "local_sky": "rings",
    "mask_sources": "rings",
    "measure_apertures": "apertures",
    "measure_ellipses": "ellipses",
    "measure_isophotal": "ellipses",
    "measure_kron": "ellipses",
    "measure_optimal": "psf_fit",
    "measure_psf": "psf_fit",
    "read_positions": "positions",
    "scintillation": "flicker",
}

__all__ = [
    "ForcedFrame",
    "GrowthCurve",
    "PSFModel",
    "PhotFlag",
    "Positions",
    "choose_stars",
    "forced",
    "growth_curve",
    "local_sky",
    "mask_sources",
    "measure_apertures",
    "measure_ellipses",
    "measure_isophotal",
    "measure_kron",
    "measure_optimal",
    "measure_psf",
    "read_positions",
    "scintillation",
]


def __getattr__(name: str) -> object:
    # Compiled kernels are loaded when a function is used, not when the package is.
    if name not in _PLACES:
        raise AttributeError(f"module 'skymill.measure' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"skymill.measure.{_PLACES[name]}"), name)
    globals()[name] = value
    return value
