"""Numbers as people read them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["count", "facts", "figure", "median", "percent"]


def figure(value: Any, digits: int | None = None) -> str:
    """A number for people; an unknown one is a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int) and digits is None:
        return count(value)
    if digits is not None:
        text = f"{value:.{digits}f}"
    elif 1e3 <= abs(value) < 1e7:
        return count(round(value)).replace("-", "−")
    else:
        text = f"{value:.4g}"
    return text.replace("-", "−")


#: Endings of the names of figures and the units that they stand for.
_UNITS = (
    ("_e_adu", "e⁻/ADU"),
    ("_e_s", "e⁻/s"),
    ("_arcsec_px", "″/px"),
    ("_arcsec", "″"),
    ("_adu", "ADU"),
    ("_mag", "mag"),
    ("_deg", "°"),
    ("_px", "px"),
    ("_e", "e⁻"),
    ("_s", "s"),
    ("_c", "°C"),
)
_SHORT_NAMES = {
    "zp": "zero point",
    "zp_err": "zero point error",
    "fwhm": "seeing",
    "fwhm_frames": "seeing of the frames",
    "exptime": "exposure",
    "exptime_total": "total exposure",
}
#: Figures that come first, and those that the page says elsewhere.
_FIRST = (
    "level_adu",
    "read_noise_e",
    "read_noise_declared_e",
    "gain_e_adu",
    "gain_declared_e_adu",
    "level_min_adu",
    "level_max_adu",
    "depth_mag",
    "fwhm_px",
    "fwhm_frames_px",
    "exptime_total_s",
    "zp",
    "zp_err",
    "coverage_median",
)
_ELSEWHERE = ("n_used", "n_frames", "n_inputs")


def facts(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the figures of an outcome for people: name and value with its unit."""
    out = []
    rank = {key: number for number, key in enumerate(_FIRST)}
    for key in sorted(numbers, key=lambda k: (rank.get(k, len(rank)), k)):
        value = numbers[key]
        if value is None or isinstance(value, list | dict) or key in _ELSEWHERE:
            continue
        if "mjd" in key:
            out.append((key.replace("_", " ").replace("mjd", "MJD"), figure(value, 3)))
            continue
        name, unit = key, ""
        for ending, symbol in _UNITS:
            if key.endswith(ending):
                name, unit = key.removesuffix(ending), symbol
                break
        name = name.removeprefix("n_") if name.startswith("n_") else name
        name = _SHORT_NAMES.get(name, name).replace("_", " ")
        out.append((name, f"{figure(value)} {unit}".strip()))
    return out


def count(value: int) -> str:
    """Return a whole number with its thousands set apart."""
    return f"{value:,}".replace(",", "\u202f")  # narrow no-break space


def percent(part: float, whole: float) -> str:
    """Return a share of a whole."""
    if not whole:
        return "–"
    share = 100 * part / whole
    return f"{share:.3g} %" if share < 99.95 else "100 %"


def median(values: Iterable[float]) -> float | None:
    """Return the median, None of nothing."""
    good = sorted(values)
    if not good:
        return None
    half = len(good) // 2
    return good[half] if len(good) % 2 else (good[half - 1] + good[half]) / 2
