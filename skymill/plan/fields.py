"""Light frames to blocks, and the field of each."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from skymill.errors import ConfigError
from skymill.plan.masters import assigned, runs
from skymill.plan.match import mode_of
from skymill.plan.model import Block, identifier, in_time, rounded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skymill.plan.masters import Masters
    from skymill.plan.model import Row
    from skymill.settings import Plan

__all__ = ["plan_blocks"]

_LIGHT_MASTERS = ("bias", "dark", "flat")
#: Megapixels of a block that is worth its start; fewest and most frames of such a block.
_BLOCK_MPIX, _FEWEST, _MOST = 168, 40, 250


def plan_blocks(lights: Sequence[Row], masters: Masters, settings: Plan) -> dict[str, Block]:
    """Group light frames that one job can process with the same masters.

    Parameters
    ----------
    lights : sequence of dict
        Rows in order of time.
    masters : Masters
        The masters of the plan.
    settings : Plan
        ``plan`` of the settings.

    Returns
    -------
    dict
        Identifier to Block.

    Raises
    ------
    ConfigError
        If there are more blocks than ``plan.max_groups``.
    """
    fields = _field_of(lights, settings.field_radius_deg)
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in lights:
        key = (
            row["night"],
            mode_of(row),
            row["area"],
            fields[row["frame_id"]],
            row["filter"],
            rounded(row["exptime_s"]),
            *assigned(row, _LIGHT_MASTERS),
        )
        groups[key].append(row)
    blocks: dict[str, Block] = {}
    for key, members in sorted(groups.items(), key=lambda item: repr(item[0])):
        for number, part in enumerate(_by_temperature(members, settings)):
            whole = (*key, number) if number else key
            for block in _blocks(part, whole, fields, masters, settings):
                blocks[block.id] = block
    if len(blocks) > settings.max_groups:
        raise ConfigError(
            f"plan: TOO_MANY_GROUPS: {len(blocks)} blocks, at most {settings.max_groups} "
            "are allowed (settings: plan.max_groups). Are target or filter names unique to "
            "each frame?"
        )
    return blocks


def _by_temperature(rows: list[Row], settings: Plan) -> list[list[Row]]:
    """Return frames that one dark can serve, coldest first."""
    if settings.match.temperature == "ignore" or rows[0]["dark"] == "not_needed":
        return [rows]
    known = [row["temperature_c"] for row in rows if row["temperature_c"] is not None]
    tolerance = settings.match.temperature_tolerance_k
    # A frame whose temperature is not known goes with the others: it fits any dark.
    if not known or max(known) - min(known) <= tolerance:
        return [rows]
    lowest = min(known)
    cold = [row if row["temperature_c"] is not None else row | {"temperature_c": lowest}
            for row in map(dict, rows)]  # fmt: skip
    by_id = {row["frame_id"]: row for row in rows}
    return [
        sorted((by_id[row["frame_id"]] for row in part), key=in_time)
        for part in runs(cold, "temperature_c", lambda low, high: high - low <= tolerance)
    ]


def _frames(mpix: float) -> int:
    """Return the usual number of frames of a block.

    A job costs a second or two before it does anything. Forty frames of 4 megapixels are half a
    minute of work; of small frames it takes more to make the start worth its while. No more than
    250, so that a series keeps several cores busy.
    """
    return int(min(max(_BLOCK_MPIX / mpix, _FEWEST), _MOST))


def _blocks(
    rows: Sequence[Row],
    key: tuple[Any, ...],
    fields: Mapping[str, str],
    masters: Masters,
    settings: Plan,
) -> list[Block]:
    """Cut frames that share their masters into blocks of limited size."""
    first = rows[0]
    typical = sorted(rows, key=lambda row: (row["temperature_c"] or 0.0, row["frame_id"]))
    middle = typical[len(typical) // 2]
    choices = {kind: masters.choose(kind, middle, crop=True) for kind in _LIGHT_MASTERS}
    mpix = (first["nx"] or 1) * (first["ny"] or 1) / 1e6
    most = settings.block_max_frames or _frames(mpix)
    size = max(1, min(most, int(settings.block_max_mpix / mpix)))
    parts = [first["night"], first["instrument"], first["target"], first["filter"]]
    name = identifier(parts, key)
    return [
        Block(
            f"{name}-{number // size:03d}",
            fields[first["frame_id"]],
            str(first["night"]),
            str(first["instrument"]),
            str(first["target"]),
            str(first["filter"]),
            tuple(row["frame_id"] for row in rows[number : number + size]),
            **{kind: choice.master for kind, choice in choices.items()},
            missing={kind: c.missing for kind, c in choices.items() if not c.master},
            choices=choices,
        )
        for number in range(0, len(rows), size)
    ]


# --- fields ---


def _detector(row: Row) -> tuple[Any, ...]:
    """Return what frames of a field share; the colours of a mosaic see the same sky."""
    mode = mode_of(row)
    return (*mode[:2], *mode[3:], row["area"])


def _field_of(lights: Sequence[Row], radius_deg: float) -> dict[str, str]:
    """Return the field of each light frame: one target, one patch of sky, one detector."""
    out: dict[str, str] = {}
    names: dict[Any, str] = {}
    lost: list[tuple[Row, tuple[Any, ...]]] = []
    anchors: dict[tuple[Any, ...], list[Any]] = defaultdict(list)

    def name(row: Row, key: tuple[Any, ...], anchor: Any) -> str:
        if (key, anchor) not in names:
            names[key, anchor] = _field_id(row, key, anchor, radius_deg)
        return names[key, anchor]

    for row in lights:
        key = (row["target"], *_detector(row))
        where = (row["ra_deg"], row["dec_deg"])
        if None in where:
            lost.append((row, key))  # it goes where the others of its target are
            continue
        known = anchors[key]
        anchor = next((a for a in known if _separation_deg(a, where) <= radius_deg), None)
        if anchor is None:
            known.append(where)
            anchor = where
        out[row["frame_id"]] = name(row, key, anchor)
    for row, key in lost:
        out[row["frame_id"]] = name(row, key, next(iter(anchors[key]), None))
    return out


def _field_id(row: Row, key: tuple[Any, ...], anchor: Any, radius_deg: float) -> str:
    """Name a field by a coarse cell of the sky, not by the order of the nights."""
    cell = None
    if anchor is not None:
        size = radius_deg / 1.5  # anchors of two fields never share one
        ra, dec = anchor
        cell = (round(dec / size), round(ra * math.cos(math.radians(dec)) / size))
    return identifier([row["target"], row["instrument"]], (*key, cell))


def _separation_deg(one: tuple[Any, Any], two: tuple[Any, Any]) -> float:
    """Return the angle between two positions in degree."""
    ra1, dec1, ra2, dec2 = (math.radians(float(v)) for v in (*one, *two))
    a = math.sin((dec2 - dec1) / 2) ** 2
    a += math.cos(dec1) * math.cos(dec2) * math.sin((ra2 - ra1) / 2) ** 2
    return math.degrees(2 * math.asin(min(1.0, math.sqrt(a))))
