"""Choose the best frame of a field, and the best one of each filter.

Frames of a field are aligned to its best frame, and the throughput of the frames of a
filter is measured against the best frame of that filter.

The score of a frame adds, in units of a factor of two against the median of the field,

``score = w_stars log2(n) - w_seeing log2(fwhm) - w_depth log2(limit) - w_shape ellipticity / 0.1``

with ``limit = sky_rms fwhm / exposure``, the faintest flux that stands out of the sky.
The highest score wins; equal scores go to the smaller frame id. A frame with the highest score
that cannot be solved would leave its whole field without a sky: the frames are tried in order
of their scores until one is solved by the catalogue, at most ``tries`` of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import Result, StepFailed
from skymill.steps._reference_tries import choose_best, choose_of_filter
from skymill.steps.sources import SourceFlag
from skymill.wcsmath import sane, wcs_to_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.table import Table
    from astropy.wcs import WCS

    from skymill.steps._reference_tries import Solve

__all__ = ["Candidate", "reference_frames", "star_list"]

#: Columns that are taken from the sources as they are: name, unit, meaning.
_COLUMNS = (
    ("x", "pix", "position along the rows, 0-based"),
    ("y", "pix", "position along the columns, 0-based"),
    ("x_err", "pix", "error of x"),
    ("y_err", "pix", "error of y"),
    ("flux", "electron", "flux in the main aperture"),
    ("flux_err", "electron", "error of flux"),
    ("flux_total", "electron", "total flux"),
    ("flux_total_err", "electron", "error of flux_total"),
    ("fwhm", "pix", "full width at half maximum"),
    ("flags", None, "flags of the measurement"),
    ("mask_or", None, "mask bits in the main aperture"),
)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A frame that could be the reference.

    Parameters
    ----------
    frame_id : str
        Its id.
    row : mapping
        Its row of the sheet (filter, exptime_s, mjd_mid are used).
    sources : astropy.table.Table
        Its sources, the brightest first.
    numbers : mapping
        Figures of the sources step: n_sources, fwhm_px, ellipticity, sky_rms_e,
        r_total_px. A missing one does not count.
    shape : tuple of int
        Shape (ny, nx) of the trimmed frame.
    header_wcs : astropy.wcs.WCS or None
        World coordinates of the header.
    """

    frame_id: str
    row: Mapping[str, Any]
    sources: Table
    shape: tuple[int, int]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    header_wcs: WCS | None = None


def reference_frames(
    candidates: Sequence[Candidate],
    solve: Solve | None = None,
    *,
    has_catalog: bool = False,
    minimum_stars: int = 3,
    max_stars: int = 5000,
    weight_stars: float = 1.0,
    weight_seeing: float = 1.0,
    weight_depth: float = 1.0,
    weight_shape: float = 0.5,
    tries: int = 5,
) -> Result[Table]:
    """Choose the best frame of a field and of each filter.

    Frames with fewer than ``minimum_stars`` are considered only if there are no others;
    frames without world coordinates are not considered if half or more have them.

    Parameters
    ----------
    candidates : sequence of Candidate
        Frames of one field, in any order.
    solve : callable, optional
        Solves a candidate, alone or (with the stars of the best frame and its solution)
        relative to it, as `skymill.steps.astrometry.astrometry` does; without it nothing is
        solved.
    has_catalog : bool
        ``solve`` has a catalogue, so that frames are tried until it solves one.
    minimum_stars : int
        Fewest stars of a reference frame.
    max_stars : int
        The brightest stars kept of each list.
    weight_stars, weight_seeing, weight_depth, weight_shape : float
        Weights of the score.
    tries : int
        Most frames tried for the best of the field, and for that of each filter.

    Returns
    -------
    Result of Table
        Stars of the best frame of each filter, the best frame of the field first:
        frame_id, filter, best, star (1..n), x, y, x_err, y_err, flux, flux_err,
        flux_total, flux_total_err, fwhm, flags, mask_or. ``meta["frames"]`` has for
        each frame id: filter, best, exptime_s, mjd_mid, nx, ny, header_wcs (cards),
        fwhm_px, r_total_px, score; ``meta["solutions"]`` what ``solve`` found for each, and
        ``meta["tried"]`` every frame that was tried, in order, with the answer.

    Raises
    ------
    StepFailed
        NO_STARS if no candidate has a star.
    """
    ordered = sorted(candidates, key=lambda item: item.frame_id)
    usable = [item for item in ordered if _n_stars(item.sources)]
    if not usable:
        raise StepFailed(
            "NO_STARS",
            f"none of the {len(ordered)} frames of the field has a star to align by",
            n_candidates=len(ordered),
        )
    good = [item for item in usable if _n_stars(item.sources) >= minimum_stars] or usable
    weights = (weight_stars, weight_seeing, weight_depth, weight_shape)
    scores = dict(zip((item.frame_id for item in good), _scores(good, weights), strict=True))
    with_wcs = [item for item in good if not sane(item.header_wcs, item.shape)]
    ranked = _ranked(with_wcs if 2 * len(with_wcs) >= len(good) else good, scores)
    first = choose_best(ranked, solve, tries if has_catalog else 1)
    best = first.frame
    chosen, solutions, tried = [best], {best.frame_id: first.solution}, first.tried
    stars = _join([star_list(best, max_stars)], best.frame_id)
    for name in sorted({_filter(item) for item in good} - {_filter(best)}):
        same = _ranked([item for item in good if _filter(item) == name], scores)
        next_ = choose_of_filter(same, solve, stars, first.solution, tries)
        chosen.append(next_.frame)
        solutions[next_.frame.frame_id] = next_.solution
        tried = tried + next_.tried
    table = _join([star_list(item, max_stars) for item in chosen], best.frame_id)
    table.meta["solutions"] = solutions if solve is not None else {}
    table.meta["tried"] = [list(item) for item in tried]
    table.meta["frames"] = {
        item.frame_id: {**_facts(item), "best": item is best, "score": scores[item.frame_id]}
        for item in chosen
    }
    return Result(
        table,
        _flags(best, ordered, usable, minimum_stars) + first.flags,
        {
            "best_frame": best.frame_id,
            "n_candidates": len(ordered),
            "n_filters": len(chosen),
            "n_stars": min(_n_stars(best.sources), max_stars),
            "score": round(scores[best.frame_id], 6),
            "solution": str(first.solution.get("solution", "")),
            "n_tried": len(first.tried),
            "not_solved": "; ".join(f"{n}: {code}" for n, _, code in first.tried if code),
        },
    )


def _flags(
    best: Candidate, ordered: Sequence[Candidate], usable: Sequence[Candidate], minimum: int
) -> tuple[tuple[str, str], ...]:
    flags = []
    if _n_stars(best.sources) < minimum:
        text = (
            f"{best.frame_id}: the best frame has {_n_stars(best.sources)} stars, "
            f"reference_frames.minimum_stars is {minimum}"
        )
        flags.append(("FEW_STARS", text))
    if 2 * len(usable) < len(ordered):
        text = f"only {len(usable)} of {len(ordered)} frames of the field have stars"
        flags.append(("TOO_FEW", text))
    return tuple(flags)


def _n_stars(sources: Table) -> int:
    """Return the number of sources that are not hits or bad pixels."""
    if "flags" not in sources.colnames:
        return len(sources)
    sharp = np.asarray(sources["flags"], dtype=int) & int(
        SourceFlag.SHARP | SourceFlag.CENTRE_MASKED | SourceFlag.BAD_CENTRE
    )
    return int((sharp == 0).sum())


def _scores(
    candidates: Sequence[Candidate], weights: tuple[float, float, float, float]
) -> list[float]:
    """Score of each candidate; a figure that is not known counts as the median."""
    stars, seeing, limit, shape = [], [], [], []
    for item in candidates:
        fwhm = _positive(item.numbers.get("fwhm_px"))
        noise = _positive(item.numbers.get("sky_rms_e"))
        time = _positive(item.row.get("exptime_s"))
        ellipticity = item.numbers.get("ellipticity")
        stars.append(math.log2(max(_n_stars(item.sources), 1)))
        seeing.append(math.log2(fwhm))
        limit.append(math.log2(noise * fwhm / time))
        shape.append(float("nan") if ellipticity is None else float(ellipticity) / 0.1)
    total = np.zeros(len(candidates))
    for weight, sign, values in zip(
        weights, (1, -1, -1, -1), (stars, seeing, limit, shape), strict=True
    ):
        column = np.array(values)
        known = column[np.isfinite(column)]
        middle = float(np.median(known)) if len(known) else 0.0
        total += sign * weight * np.where(np.isfinite(column), column - middle, 0.0)
    return [float(value) for value in total]


def _positive(value: Any) -> float:
    """Return a number above zero, else NaN."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return float("nan")
    return number if number > 0 and math.isfinite(number) else float("nan")


def _ranked(candidates: Sequence[Candidate], scores: Mapping[str, float]) -> list[Candidate]:
    # Rounded, so that the last bit of a sum does not decide between equal frames.
    return sorted(candidates, key=lambda item: (-round(scores[item.frame_id], 9), item.frame_id))


def _filter(item: Candidate) -> str:
    return str(item.row.get("filter") or "")


def _facts(item: Candidate) -> dict[str, Any]:
    """What later steps must know of a reference frame; JSON types."""
    wcs = item.header_wcs

    def number(value: Any) -> float | None:
        known = _positive(value)
        return None if math.isnan(known) else known

    return {
        "filter": _filter(item),
        "exptime_s": number(item.row.get("exptime_s")),
        "mjd_mid": number(item.row.get("mjd_mid")),
        "ra_deg": item.row.get("ra_deg"),
        "dec_deg": item.row.get("dec_deg"),
        "nx": int(item.shape[1]),
        "ny": int(item.shape[0]),
        "header_wcs": "" if wcs is None or sane(wcs, item.shape) else wcs_to_text(wcs),
        "fwhm_px": number(item.numbers.get("fwhm_px")),
        "r_total_px": number(item.numbers.get("r_total_px")),
    }


def star_list(candidate: Candidate, max_stars: int) -> Table:
    """Return the brightest stars of a frame in the columns of the reference list."""
    from astropy.table import Column, Table

    sources = candidate.sources
    flux = np.nan_to_num(np.asarray(sources["flux"], dtype=float), nan=-np.inf)
    order = np.argsort(-flux, kind="stable")[:max_stars]
    out = Table()
    n = len(order)
    out["frame_id"] = Column([candidate.frame_id] * n, description="frame of the star", dtype=str)
    out["filter"] = Column(
        [str(candidate.row.get("filter") or "")] * n, description="filter of the frame", dtype=str
    )
    out["best"] = Column(np.zeros(n, bool), description="frame is the best of the field")
    out["star"] = Column(np.arange(1, n + 1), description="number in order of brightness")
    for name, unit, meaning in _COLUMNS:
        if name in sources.colnames:
            values = np.asarray(sources[name])[order]
        else:
            values = np.zeros(n, int) if unit is None else np.full(n, np.nan)
        out[name] = Column(values, unit=unit, description=meaning)
    return out


def _join(lists: Sequence[Table], best: str) -> Table:
    from astropy.table import vstack

    for stars in lists:
        stars["best"][:] = np.asarray(stars["frame_id"]) == best
    return vstack(list(lists), metadata_conflicts="silent", join_type="exact")
