"""Blocks to stacks: of a field, and of a fixed tile of the sky."""

from __future__ import annotations

from collections import defaultdict
from datetime import date
from typing import TYPE_CHECKING

from skymill.plan.model import Field, Stack, identifier, ordinal
from skymill.sphere import bounding_cap, circle, from_degrees
from skymill.tiles import TileScheme

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skymill.plan.model import Block, Row
    from skymill.settings import Plan
    from skymill.sphere import Polygon

__all__ = ["epochs", "plan_stacks", "plan_tiles", "window_of"]

#: Ordinal of the date whose midnight is MJD 0.
_MJD0 = date(1858, 11, 17).toordinal()


def window_of(night: str, days: int) -> str:
    """Return the window of nights that a night belongs to.

    Windows begin where the MJD of the evening's date is a multiple of their length: they
    are the same whatever nights there are.

    Parameters
    ----------
    night : str
        Date of the evening.
    days : int
        Nights of a window.

    Examples
    --------
    >>> window_of("2026-01-12", 7)
    '2026-01-08+7d'
    """
    first = (ordinal(night) - _MJD0) // days * days
    return f"{date.fromordinal(first + _MJD0).isoformat()}+{days}d"


def epochs(night: str, settings: Plan) -> tuple[str, ...]:
    """Return the epochs whose stacks the frames of a night go into.

    The stack of everything is always made: light curves of all nights need one list of
    positions.
    """
    if settings.epoch == "night":
        return ("all", night)
    if settings.epoch == "window":
        return ("all", window_of(night, settings.window_days))
    return ("all",)


def plan_stacks(
    blocks: Mapping[str, Block], settings: Plan
) -> tuple[dict[str, Stack], dict[str, Field]]:
    """Group blocks to fields, and the blocks of a field to stacks.

    Parameters
    ----------
    blocks : mapping
        Identifier to block.
    settings : Plan
        Uses ``epoch`` and ``window_days``.
    """
    by_field: dict[str, list[Block]] = defaultdict(list)
    for block in blocks.values():
        by_field[block.field].append(block)
    stacks: dict[str, Stack] = {}
    fields: dict[str, Field] = {}
    for name, members in sorted(by_field.items()):
        groups: dict[tuple[str, str], list[str]] = defaultdict(list)
        for block in members:
            for when in epochs(block.night, settings):
                groups[block.filter, when].append(block.id)
        mine = []
        for (filter_, when), ids in sorted(groups.items()):
            stack = identifier([members[0].target, filter_, when], (name, filter_, when))
            stacks[stack] = Stack(stack, name, filter_, when, tuple(sorted(ids)))
            mine.append(stack)
        fields[name] = Field(
            name,
            members[0].target,
            members[0].instrument,
            tuple(sorted(block.id for block in members)),
            tuple(mine),
        )
    return stacks, fields


# --- tiles of the sky ---


def plan_tiles(
    blocks: Mapping[str, Block], rows: Mapping[str, Row], settings: Plan
) -> dict[str, Stack]:
    """Group blocks of all fields to stacks of the tiles that their frames may touch.

    Frames of different instruments are different stacks. A frame without a position in
    the sheet is in no tile; its field's stack holds it all the same.

    Parameters
    ----------
    blocks : mapping
        Identifier to block.
    rows : mapping
        Frame id to row of the sheet; uses corners, ra_deg and dec_deg.
    settings : Plan
        Uses ``tiles``, ``epoch`` and ``window_days``.
    """
    tiles = settings.tiles
    scheme = TileScheme.of(tiles.scale_arcsec, tiles.size_px, tiles.overlap_px)
    groups: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)

    for block in blocks.values():
        outlines = [_outline(rows[frame], tiles.radius_deg) for frame in block.frames]
        near = _touched(scheme, [one for one in outlines if one], tiles.margin_deg)
        for tile in near:
            for when in epochs(block.night, settings):
                groups[tile, block.instrument, block.filter, when].append(block.id)
    stacks = {}
    for key, ids in sorted(groups.items()):
        tile, _, filter_, when = key
        short = tile.partition("-")[2]
        name = identifier([short, filter_, when], ("tile", *key))
        stacks[name] = Stack(name, "", filter_, when, tuple(sorted(ids)), tile)
    return stacks


def _touched(scheme: TileScheme, outlines: Sequence[Polygon], margin_deg: float) -> set[str]:
    """Return the tiles that any of the frames of a block touches.

    The frames of a block lie close together: mostly the first one touches every tile
    that any could.
    """
    if not outlines:
        return set()
    everything = [point for outline in outlines for point in outline]
    left = scheme.near(*bounding_cap(everything), margin_deg)
    found: set[str] = set()
    for outline in outlines:
        here = [tile for tile in left if scheme.reaches(tile, outline, margin_deg)]
        if here:
            found |= {tile.id for tile in here}
            left = [tile for tile in left if tile.id not in found]
        if not left:
            break
    return found


def _outline(row: Row, radius_deg: float) -> Polygon | None:
    """Return the outline of a frame by the sheet; None if nothing is known.

    The pointing does not count where the corners are known.
    """
    pairs = [pair.split() for pair in str(row.get("corners") or "").split(";") if pair]
    if pairs:
        return from_degrees((float(pair[0]), float(pair[1])) for pair in pairs)
    ra, dec = row["ra_deg"], row["dec_deg"]
    return None if ra is None or dec is None else circle(ra, dec, radius_deg, sides=8)
