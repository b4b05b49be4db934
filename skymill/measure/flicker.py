"""Scintillation: how much the air makes a star flicker during an exposure."""

from __future__ import annotations

import math

__all__ = ["scintillation"]

#: Scale height of the air, m.
_HEIGHT_M = 8000.0


def scintillation(
    diameter_m: float,
    exptime_s: float,
    airmass: float = 1.0,
    altitude_m: float = 0.0,
    *,
    coefficient: float = 1.5,
) -> float:
    """Return the relative one-sigma scintillation of a flux.

    ``sigma**2 = 1e-5 C**2 D**(-4/3) t**-1 X**3 exp(-2 h / 8000 m)``: Young's relation with
    the coefficient of Osborn et al. (2015).

    Parameters
    ----------
    diameter_m : float
        Diameter of the telescope in m.
    exptime_s : float
        Exposure in s.
    airmass : float
        Airmass X.
    altitude_m : float
        Altitude h of the site in m.
    coefficient : float
        C, about 1.5; depends on the site.

    Returns
    -------
    float
        Add ``(sigma F)**2`` to the variance of a flux F. NaN if something is not known.

    Raises
    ------
    ValueError
        If diameter, exposure or airmass are not positive.
    """
    if min(diameter_m, exptime_s, airmass) <= 0:
        raise ValueError(
            f"diameter, exposure and airmass must be positive, got {diameter_m} m, "
            f"{exptime_s} s, {airmass}"
        )
    variance = 1e-5 * coefficient**2 * diameter_m ** (-4 / 3) / exptime_s
    return math.sqrt(variance * airmass**3 * math.exp(-2 * altitude_m / _HEIGHT_M))
