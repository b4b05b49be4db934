"""A first look at the pixels of a raw frame: a few numbers that tell what is wrong with it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.ingest.values import Notes

__all__ = ["DEAD_FLAG", "judge_pixels", "pixel_facts"]

#: Fraction of dead cells from which a frame is flagged: five of the 256.
DEAD_FLAG = 0.02
_CELLS = 16
_SAMPLE = 40_000

Facts = dict[str, Any]


def pixel_facts(array: NDArray[Any], *, signed16: bool) -> Facts:
    """Return figures of an image that fit into JSON.

    Parameters
    ----------
    array : ndarray of uint16 or float32, shape (ny, nx)
        Raw pixels. Not modified.
    signed16 : bool
        True if the file holds 16-bit integers without an offset.

    Returns
    -------
    dict
        ``digest`` of the values; ``total`` and ``invalid`` pixels; ``low``, ``high``, ``median``
        and ``scatter`` (1.4826 MAD) of a regular sample of at most about 40 000 pixels, extremes
        of all; ``dead`` fraction of the 256 cells without any structure; ``step`` common
        factor of the values; ``wrapped`` pairs of neighbours that look like an overflow;
        ``very_low`` fraction below -1000 of signed integers.
    """
    flat = np.ascontiguousarray(array)
    facts: Facts = {
        "digest": hashlib.sha256(flat.data).hexdigest()[:32],
        "total": int(array.size),
        "invalid": 0,
        "very_low": 0.0,
        "integers": array.dtype.kind == "u",
    }
    values = array
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        facts["invalid"] = int(array.size - np.count_nonzero(finite))
        if facts["invalid"] == array.size:
            return facts
        if facts["invalid"]:
            values = np.where(finite, array, np.float32(np.nanmedian(array[finite])))
        if signed16:
            facts["very_low"] = float(np.count_nonzero(values < -1000) / values.size)
            facts["integers"] = True
    stride = max(1, int(np.sqrt(values.size / _SAMPLE)))
    sample = values[::stride, ::stride].astype(np.float64).ravel()
    median = float(np.median(sample))
    facts["low"], facts["high"] = float(values.min()), float(values.max())
    facts["median"] = median
    facts["scatter"] = float(1.4826 * np.median(np.abs(sample - median)))
    facts["dead"] = _dead_fraction(values)
    facts["step"] = _common_factor(sample) if facts["integers"] else 1
    facts["wrapped"] = _wrapped(array, median, facts["scatter"]) if array.dtype.kind == "u" else 0
    return facts


def _dead_fraction(values: NDArray[Any]) -> float:
    """Fraction of the cells of a 16 x 16 grid in which all pixels are equal."""
    ny, nx = (n // _CELLS for n in values.shape)
    if ny * nx < 16:
        return 0.0
    cells = values[: ny * _CELLS, : nx * _CELLS].reshape(_CELLS, ny, _CELLS, nx)
    same = cells.max(axis=(1, 3)) == cells.min(axis=(1, 3))
    return float(np.count_nonzero(same) / same.size)


def _common_factor(sample: NDArray[np.float64]) -> int:
    if not np.abs(sample).max() < 2.0**53:
        return 1  # a scale made them no counts any more
    whole = np.unique(sample).astype(np.int64)
    return int(np.gcd.reduce(whole[whole != 0])) if np.any(whole != 0) else 1


def _wrapped(array: NDArray[np.uint16], median: float, scatter: float) -> int:
    """Count neighbours of which one is near 65535 and the other far below the level of the sky."""
    floor = min(8000.0, median - 10 * scatter - 500)
    if floor <= 0:
        return 0
    low = array < floor
    if not low.any():
        return 0
    high = (array > 57000) & (array < 65535)
    pairs = (low[:, 1:] & high[:, :-1]).astype(np.int64) + (low[:, :-1] & high[:, 1:])
    # A defective column beside a bright one makes pairs all along it; a star makes a few.
    return int(np.minimum(pairs.sum(axis=0), 4).sum())


def judge_pixels(facts: Facts, notes: Notes, *, kind: str, dead_area_reject: float) -> None:
    """Turn figures into rejections, flags and fixes.

    Parameters
    ----------
    facts : dict
        Of `pixel_facts`.
    notes : Notes
        Where the findings go.
    kind : str
        Kind of frame; only light frames are searched for overflow.
    dead_area_reject : float
        Frames with a larger dead fraction are rejected.
    """
    total, invalid = facts["total"], facts["invalid"]
    if invalid == total:
        notes.reject("ALL_NAN", f"None of the {total} pixels has a value.")
        return
    if facts["low"] == facts["high"]:
        notes.reject("CONSTANT", f"All {total - invalid} pixels have the value {facts['low']:g}.")
        return
    if facts["very_low"] > 0.01:
        notes.reject(
            "SUSPECT_BZERO",
            f"{100 * facts['very_low']:.1f} % of the 16-bit pixels lie below -1000: they look like "
            "unsigned integers whose BZERO = 32768 is missing. Restore the card in the file.",
        )
    if invalid and not facts.get("blank"):
        notes.fix("NO_DATA", f"{invalid} of {total} pixels have no value and are masked.")
    if facts["dead"] > dead_area_reject:
        notes.reject("DEAD_AREA", _dead(facts, f"more than {dead_area_reject:.0%}"))
    elif facts["dead"] > DEAD_FLAG:
        notes.flag("DEAD_AREA", _dead(facts, f"more than {DEAD_FLAG:.0%}"))
    step = facts["step"]
    if step >= 4 and step & (step - 1) == 0:
        notes.flag(
            "SHIFTED_BITS",
            f"All values are multiples of {step}: fewer bits were shifted up; gain and saturation "
            "must be those of the shifted values.",
        )
    if kind == "light" and facts["wrapped"] >= 10:
        notes.flag(
            "WRAP",
            f"{facts['wrapped']} pixels near 65535 have neighbours far below the sky: the integers "
            "seem to have wrapped around.",
        )


def _dead(facts: Facts, limit: str) -> str:
    return f"{facts['dead']:.0%} of the area has no structure at all ({limit})."
