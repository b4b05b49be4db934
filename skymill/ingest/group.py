"""Checks that need all frames: duplicates, equal times, closed shutters, wrong binning."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skymill.sheet import Row

__all__ = ["check_groups"]

Facts = dict[str, Any]
_SAME_FRAME = ("kind", "object", "filter", "exptime_s", "date_start", "detector", "channel")
_CAMERA = ("instrument", "detector", "channel", "mode", "binning", "nx", "ny", "area")


def check_groups(rows: list[Row], facts: dict[str, Facts]) -> list[Row]:
    """Return the rows with the findings that only a comparison of frames gives.

    Parameters
    ----------
    rows : list of dict
        Rows with verdicts, sorted by path and HDU.
    facts : dict
        Frame id to figures: ``digest`` of the pixels, ``content`` hash of the file after
        decompression, ``median``, ``scatter``.

    Returns
    -------
    list of dict
        New rows in the same order.
    """
    out = [dict(row) for row in rows]
    _duplicates(out, facts)
    usable = [row for row in out if row["verdict"] != "rejected"]
    _same_times(usable)
    _closed_shutter(usable, facts)
    _binning(usable, facts)
    return out


def _flag(row: Row, code: str, message: str) -> None:
    row["verdict"] = "degraded"
    codes = [c for c in str(row["code"]).split(";") if c]
    row["code"] = ";".join(dict.fromkeys([*codes, code]))
    row["message"] = f"{row['message']} {message}".strip()


def _seconds(row: Row) -> float:
    return float(row["exptime_s"] or 0.0)


def _duplicates(rows: list[Row], facts: dict[str, Facts]) -> None:
    """Keep the first of equal contents; flag equal pixels under different headers."""
    by_content: dict[tuple[Any, ...], Row] = {}
    by_pixels: dict[str, Row] = {}
    for row in rows:
        known = facts.get(str(row["frame_id"]), {})
        # Only a frame that can be used is an original; a rejected one keeps its own reason.
        if row["verdict"] == "rejected" or not known.get("digest"):
            continue
        content = (known.get("content"), row["hdu"], row["channel"], row["plane"])
        first = by_content.setdefault(content, row) if content[0] else row
        twin = by_pixels.setdefault(f"{known['digest']} {row['nx']} {row['ny']}", row)
        if first is row and twin is not row:
            if all(row[name] == twin[name] for name in _SAME_FRAME):
                first = twin
            else:
                _flag(
                    row,
                    "DUPLICATE_PIXELS",
                    f"The pixels are those of {twin['path']}, the header is another.",
                )
        if first is not row:
            row["verdict"], row["code"] = "rejected", "DUPLICATE"
            row["message"] = f"The same content as {first['path']}, which is used."


def _same_times(rows: Iterable[Row]) -> None:
    """Flag exposures of a second or more of one detector that began at the same moment."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["date_start"] and _seconds(row) >= 1.0:
            names = ("instrument", "detector", "channel", "date_start")
            groups[tuple(row[name] for name in names)].append(row)
    for members in groups.values():
        for row in members[1:]:
            _flag(
                row,
                "DUPLICATE_TIME",
                f"It began at {row['date_start']} like {members[0]['path']}, with other pixels.",
            )


def _closed_shutter(rows: Iterable[Row], facts: dict[str, Facts]) -> None:
    """Flag light frames that look like the bias frames of their night.

    A sky or a star adds level and photon noise; the level of a bias frame drifts by a few
    ADU, so both level and scatter must agree.
    """
    bias: dict[tuple[Any, ...], list[Facts]] = defaultdict(list)
    lights: list[Row] = []
    for row in rows:
        known = facts.get(str(row["frame_id"]), {})
        if row["kind"] == "bias" and "median" in known:
            bias[*(row[n] for n in _CAMERA), row["night"]].append(known)
        elif row["kind"] == "light" and "median" in known:
            lights.append(row)
    for row in lights:
        known = facts[str(row["frame_id"])]
        group = bias.get((*(row[n] for n in _CAMERA), row["night"]), [])
        if len(group) < 3:
            continue
        level = statistics.median(f["median"] for f in group)
        scatter = max(statistics.median(f["scatter"] for f in group), 0.5)
        if abs(known["median"] - level) <= scatter and known["scatter"] <= 1.2 * scatter:
            code = "NO_SKY" if _seconds(row) >= 1.0 else "KIND_SUSPECT"
            _flag(
                row,
                code,
                f"Level {known['median']:g} and scatter {known['scatter']:.3g} ADU are those of "
                f"the bias frames ({level:g}, {scatter:.3g}): was the shutter closed?",
            )


def _binning(rows: Iterable[Row], facts: dict[str, Facts]) -> None:
    """Flag frames whose size is a whole fraction of others of the same stated binning.

    Windows are left out, and frames whose header gives their part of the detector in
    unbinned pixels: its size confirms the binning.
    """
    sizes: dict[tuple[Any, ...], dict[tuple[int, int], list[Row]]] = defaultdict(dict)
    for row in rows:
        if "sub-" in str(row["mode"]) or facts.get(str(row["frame_id"]), {}).get("window"):
            continue
        camera = (row["instrument"], row["detector"], row["channel"], row["binning"])
        size = (int(row["nx"] or 0), int(row["ny"] or 0))
        sizes[camera].setdefault(size, []).append(row)
    for group in sizes.values():
        if len(group) < 2:
            continue
        (nx, ny) = max(group)
        for (mx, my), members in group.items():
            factor = round(nx / mx) if mx else 0
            fits = factor > 1 and abs(nx - factor * mx) < factor and abs(ny - factor * my) < factor
            if not fits:
                continue
            for row in members:
                _flag(
                    row,
                    "BINNING_CONFLICT",
                    f"The header says binning {row['binning']}, but {mx} x {my} px are 1/{factor} "
                    f"of the {nx} x {ny} of other frames of that binning.",
                )
