"""Search for a reference image of a frame: same sky, earlier, as sharp and as deep.

See docs/references.md. Overlaps are areas on the sphere (`skymill.sphere`), never boxes
in right ascension and declination.
"""

from __future__ import annotations

import math
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill.errors import SkymillError
from skymill.products import OpenFrame
from skymill.reference_candidates import Candidate, candidate_of, project_candidates
from skymill.sphere import bounding_cap, overlap_fraction, separation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from astropy.table import Table
    from astropy.time import Time

__all__ = ["RELAX", "get_referenceframe", "group_candidates"]

#: How much worse (seeing in arcsec, depth in mag) a reference may be than the target,
#: step by step, until one is found.
RELAX: tuple[tuple[float, float], ...] = ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (2.0, 2.0))

#: What may be sorted by, and whether more is better.
_KEYS = {"fraction": True, "depth": True, "seeing": False, "obsdate": True}
#: Fractions that differ by less are equal to the sorting: depth then decides.
_FRACTION_STEP = 0.01


def get_referenceframe(
    frame: OpenFrame | str | Path,
    candidates: str | Path | Iterable[OpenFrame | Candidate | str | Path] | None = None,
    *,
    min_obsdate: str | float | date | Time | None = None,
    max_obsdate: str | float | date | Time | None = None,
    sort_key: Sequence[str] = ("fraction", "depth"),
    overlap_threshold: float = 0.5,
    return_groups: bool = True,
    group_overlap_threshold: float = 0.8,
    relax: Sequence[tuple[float, float]] = RELAX,
    same_instrument: bool = True,
) -> tuple[OpenFrame, Table] | None:
    """Return the best reference image for a frame, and all that would do.

    Parameters
    ----------
    frame : OpenFrame, str or Path
        The target.
    candidates : folder, or sequence of frames, optional
        A project folder (its calibrated frames and stacks), or opened frames or files;
        by default the project of the target.
    min_obsdate, max_obsdate : str, float, date or Time, optional
        Limits of the exposures: ISO date (UTC), MJD, or a time. By default all must have
        ended before the target's begins.
    sort_key : sequence of str
        Of ``fraction`` and ``depth`` (larger first), ``seeing`` (smaller first),
        ``obsdate`` (later first). Fractions count in steps of 0.01.
    overlap_threshold : float
        Least part of the target's area that a reference covers.
    return_groups : bool
        Number groups of references that cover each other.
    group_overlap_threshold : float
        Part of each member of a group that every other one covers, at least.
    relax : sequence of (seeing, depth)
        A reference may be worse than the target by so many arcsec and magnitudes; the
        first step that leaves any reference counts. Where a figure of the candidate is
        not known it fails, except in the last step; one of the target that is not known
        asks for nothing.
    same_instrument : bool
        Only references of the target's instrument, detector and binning (as far as known).

    Returns
    -------
    (OpenFrame, Table) or None
        The first of the table, opened, and the table: id, kind, path, fraction,
        seeing_arcsec, depth_mag, mjd_begin, mjd_end, relaxed_seeing_arcsec,
        relaxed_depth_mag (how much worse was allowed), contains_target, and group.
        Its metadata count what each condition left. None if nothing is left.

    Raises
    ------
    SkymillError
        If the target has no positions on the sky, or a sort key is not known.
    """
    if wrong := [key for key in sort_key if key not in _KEYS]:
        raise SkymillError(f"sort_key {wrong} is not one of {', '.join(_KEYS)}")
    opened = frame if isinstance(frame, OpenFrame) else OpenFrame(frame)
    pool = _pool(opened, candidates)
    # The tables of a project know more of a stack than its header.
    kind = "stack" if opened.is_stack else "frame"
    known = (c for c in pool if (c.kind, c.id) == (kind, opened.id) and c.path == opened.path)
    target = next(known, None) or candidate_of(opened)
    latest = _start(target) if max_obsdate is None else _mjd(max_obsdate)
    limits = -math.inf if min_obsdate is None else _mjd(min_obsdate), latest
    left, counts = _suitable(target, pool, limits, same_instrument)
    fractions = _fractions(target, left)
    left = [item for item in left if fractions[item.path] >= overlap_threshold]
    counts["overlap"] = len(left)
    step, left = _relaxed(target, left, relax)
    counts["seeing and depth"] = len(left)
    if not left:
        return None
    left.sort(key=lambda item: (*_order(item, fractions, sort_key), item.kind, item.id))
    groups = group_candidates(left, group_overlap_threshold) if return_groups else None
    return OpenFrame(left[0].path), _table(target, left, fractions, step, groups, counts)


def _pool(
    frame: OpenFrame,
    candidates: str | Path | Iterable[OpenFrame | Candidate | str | Path] | None,
) -> list[Candidate]:
    if candidates is None:
        candidates = frame.results.parent
    if isinstance(candidates, (str, Path)):
        return project_candidates(candidates)
    pool = []
    for item in candidates:
        if isinstance(item, Candidate):
            pool.append(item)
        else:
            pool.append(candidate_of(item if isinstance(item, OpenFrame) else OpenFrame(item)))
    return pool


def _mjd(value: Any) -> float:
    """Return a date as MJD UTC."""
    if isinstance(value, (int, float)):
        return float(value)
    from astropy.time import Time

    try:
        if isinstance(value, date) and not isinstance(value, datetime):
            value = value.isoformat()
        time = value if isinstance(value, Time) else Time(value, scale="utc")
        return float(time.utc.mjd)
    except (ValueError, TypeError) as error:
        raise SkymillError(f"{value!r} is no date: {error}") from None


def _start(target: Candidate) -> float:
    if math.isnan(target.mjd_begin):
        raise SkymillError(
            f"the time of {target.id} is not known; give max_obsdate for the latest reference"
        )
    return target.mjd_begin


def _suitable(
    target: Candidate, pool: Sequence[Candidate], limits: tuple[float, float], same: bool
) -> tuple[list[Candidate], dict[str, int]]:
    """Return the candidates of the right kind and date that are near, and how many when."""
    counts = {"candidates": len(pool)}
    left = [c for c in pool if c.path != target.path and c.filter == target.filter]
    if same:
        left = [c for c in left if _alike(c.instrument, target.instrument)]
    counts["filter and instrument"] = len(left)
    left = [c for c in left if limits[0] <= c.mjd_begin and c.mjd_end <= limits[1]]
    counts["date"] = len(left)
    return left, counts


def _alike(one: Sequence[str], other: Sequence[str]) -> bool:
    """Return True if instrument, detector and binning agree where both are known."""
    return all(a == b or not a or not b for a, b in zip(one, other, strict=True))


def _fractions(target: Candidate, items: Sequence[Candidate]) -> dict[Path, float]:
    """Part of the target's area that each candidate covers."""
    return {item.path: overlap_fraction(target.outline, item.outline) for item in items}


def _relaxed(
    target: Candidate, items: list[Candidate], relax: Sequence[tuple[float, float]]
) -> tuple[tuple[float, float], list[Candidate]]:
    """Return the first step that leaves any candidate, and what it leaves."""
    step = (0.0, 0.0)
    for number, step in enumerate(relax):
        last = number == len(relax) - 1
        seeing, depth = target.seeing_arcsec + step[0], target.depth_mag - step[1]
        left = [
            item
            for item in items
            if _passes(item.seeing_arcsec, seeing, -1, last)
            and _passes(item.depth_mag, depth, 1, last)
        ]
        if left:
            return step, left
    return step, []


def _passes(value: float, limit: float, sign: int, last: bool) -> bool:
    if math.isnan(limit):
        return True
    return last if math.isnan(value) else sign * (value - limit) >= 0


def _order(
    item: Candidate, fractions: dict[Path, float], keys: Sequence[str]
) -> tuple[tuple[bool, float], ...]:
    values = {
        "fraction": round(fractions[item.path] / _FRACTION_STEP),
        "depth": item.depth_mag,
        "seeing": item.seeing_arcsec,
        "obsdate": item.mjd_end,
    }
    out = []
    for key in keys:
        value = float(values[key])
        unknown = math.isnan(value)  # sorts last
        out.append((unknown, 0.0 if unknown else (-value if _KEYS[key] else value)))
    return tuple(out)


def group_candidates(items: Sequence[Candidate], threshold: float = 0.8) -> list[int]:
    """Return the group of each candidate: all members of a group cover each other.

    Parameters
    ----------
    items : sequence of Candidate
        Best first: each joins the first group all of whose members it covers, and that
        cover it, by at least `threshold`; otherwise it founds a group.

    Returns
    -------
    list of int
        From 0, in the order of the founders.
    """
    groups: list[list[Candidate]] = []
    out = []
    caps = {id(item): bounding_cap(item.outline) for item in items}

    def mutual(one: Candidate, other: Candidate) -> bool:
        (centre_1, radius_1), (centre_2, radius_2) = caps[id(one)], caps[id(other)]
        if separation(centre_1, centre_2) > radius_1 + radius_2:
            return False
        return all(
            overlap_fraction(a.outline, b.outline) >= threshold
            for a, b in ((one, other), (other, one))
        )

    for item in items:
        for number, members in enumerate(groups):
            if all(mutual(item, member) for member in members):
                members.append(item)
                out.append(number)
                break
        else:
            groups.append([item])
            out.append(len(groups) - 1)
    return out


def _table(
    target: Candidate,
    items: Sequence[Candidate],
    fractions: dict[Path, float],
    step: tuple[float, float],
    groups: list[int] | None,
    counts: dict[str, int],
) -> Table:
    from astropy.table import Column, Table

    columns: list[tuple[str, str | None, str, list[Any]]] = [
        ("id", None, "reference", [c.id for c in items]),
        ("kind", None, "frame or stack", [c.kind for c in items]),
        ("path", None, "file", [str(c.path) for c in items]),
        ("fraction", None, "part of the target covered", [fractions[c.path] for c in items]),
        ("seeing_arcsec", "arcsec", "FWHM", [c.seeing_arcsec for c in items]),
        ("depth_mag", "mag", "5-sigma depth", [c.depth_mag for c in items]),
        ("mjd_begin", "d", "start of the first exposure, MJD UTC", [c.mjd_begin for c in items]),
        ("mjd_end", "d", "end of the last exposure, MJD UTC", [c.mjd_end for c in items]),
        ("relaxed_seeing_arcsec", "arcsec", "allowed above the target's", [step[0]] * len(items)),
        ("relaxed_depth_mag", "mag", "allowed below the target's", [step[1]] * len(items)),
        ("contains_target", None, "holds the target's own light",
         [bool(c.frames & target.frames) for c in items]),
    ]  # fmt: skip
    if groups is not None:
        columns.append(("group", None, "references that cover each other", groups))
    out = Table([Column(v, name=n, unit=u, description=d) for n, u, d, v in columns])
    out.meta = {"target": target.id, "left": dict(counts)}
    return out
