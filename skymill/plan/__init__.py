"""From the sheet to masters, blocks, stacks and fields.

A pure function of the sheet and the settings: the same rows give the same plan in any
order. Another night leaves the identifiers of the others alone, unless its frames serve
them. No heavy imports, because every cluster job reads the plan again.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill.errors import Outcome
from skymill.plan.fields import plan_blocks
from skymill.plan.masters import KINDS, Masters
from skymill.plan.model import Block, Choice, Field, MasterPlan, Plan, Stack, in_time
from skymill.plan.stacks import plan_stacks, plan_tiles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skymill.plan.model import Row
    from skymill.settings import Settings

#: Mode and area to a light frame of them and the filters of all.
_Modes = dict[Any, "tuple[Row, set[str]]"]

__all__ = ["Block", "Choice", "Field", "MasterPlan", "Plan", "Stack", "make_plan"]


def make_plan(rows: Sequence[Row], settings: Settings, folder: Path | None = None) -> Plan:
    """Group and match the frames of a sheet.

    Parameters
    ----------
    rows : sequence of dict
        Rows of the sheet, see `skymill.sheet`.
    settings : Settings
        Uses ``plan`` and the minimum numbers of the master steps.
    folder : Path, optional
        Project folder, in which the files named in ``use_bias``, ``use_dark`` and
        ``use_flat`` must lie; by default the current folder.

    Returns
    -------
    Plan

    Raises
    ------
    ConfigError
        If there are more blocks than ``plan.max_groups``, or the sheet names a master
        that does not exist.
    """
    usable = sorted((row for row in rows if row["verdict"] != "rejected"), key=in_time)
    by_kind: dict[str, list[Row]] = defaultdict(list)
    for row in usable:
        by_kind[row["kind"]].append(row)
    masters = Masters(settings, Path() if folder is None else folder)
    masters.plan(by_kind)
    blocks = plan_blocks(by_kind["light"], masters, settings.plan)
    stacks, fields = plan_stacks(blocks, settings.plan)
    if settings.plan.tiles.enabled:
        stacks |= plan_tiles(blocks, {row["frame_id"]: row for row in usable}, settings.plan)
    wanted = _wanted(by_kind["light"], masters, blocks, settings)
    outcomes = _unused(by_kind, masters, wanted)
    made = {name: masters.by_id[name] for name in sorted(wanted)}
    return Plan(made, blocks, stacks, fields, outcomes, {row["frame_id"]: row for row in usable})


def _wanted(
    lights: Sequence[Row], masters: Masters, blocks: Mapping[str, Block], settings: Settings
) -> set[str]:
    """Return the masters to make: those in use, and others that could be of use."""
    chosen = {m for block in blocks.values() for m in (block.bias, block.dark, block.flat)}
    names = {name for name in chosen if name in masters.by_id}
    if settings.plan.masters == "all":
        modes = _modes(lights, masters)
        instruments = {row["instrument"] for row in lights}
        for master in masters.by_id.values():
            if master.key["instrument"] not in instruments or _served(master.key, modes, masters):
                names.add(master.id)
    return names | {parent for name in names for parent in masters.parents(name)}


def _modes(lights: Sequence[Row], masters: Masters) -> _Modes:
    """Return a light frame of each read-out mode and area, and the filters of all."""
    modes: _Modes = {}
    for light in lights:
        key = (masters.matcher.key(light), light["area"])
        modes.setdefault(key, (light, set()))[1].add(light["filter"])
    return modes


def _served(row: Row, modes: _Modes, masters: Masters) -> set[str]:
    """Return the filters of the light frames whose mode a calibration frame fits."""
    fit = (used for light, used in modes.values() if masters.matcher.fits(row, light))
    return {name for used in fit for name in used}


def _unused(
    by_kind: Mapping[str, Sequence[Row]], masters: Masters, wanted: set[str]
) -> tuple[Outcome, ...]:
    """Return an outcome for every calibration frame that goes into no master in use."""
    taken = {frame for name in wanted for frame in masters.by_id[name].frames}
    modes = _modes(by_kind.get("light", ()), masters)
    served: dict[Any, set[str]] = {}
    out = []
    for kind in KINDS:
        for row in by_kind.get(kind, ()):
            if row["frame_id"] in taken:
                continue
            mode = (masters.matcher.key(row), row["area"])
            if mode not in served:
                served[mode] = _served(row, modes, masters)
            code, message = _why_unused(kind, row, served[mode], modes, masters)
            status = "off" if code == "UNUSED_CALIBRATION" else "rejected"
            out.append(Outcome(row["frame_id"], "plan", status, code, message))
    return tuple(sorted(out, key=lambda outcome: outcome.frame_id))


def _why_unused(
    kind: str, row: Row, filters: set[str], modes: _Modes, masters: Masters
) -> tuple[str, str]:
    if not filters:
        here = (row["instrument"], row["detector"])
        others = [o for o, _ in modes.values() if (o["instrument"], o["detector"]) == here]
        if others:
            sizes = sorted({f"{o['nx']}x{o['ny']} px {o['binning']}" for o in others})
            return "WRONG_SIZE", (
                f"{kind} of {row['nx']}x{row['ny']} px {row['binning']}, but the light frames "
                f"are {', '.join(sizes)}; size, binning, section, mode, gain and offset must "
                "be equal (settings: plan.match)"
            )
    useful = bool(filters) and (kind != "flat" or row["filter"] in filters)
    if useful and row["frame_id"] in masters.too_few:
        return "TOO_FEW", masters.too_few[row["frame_id"]]
    what = f" in filter {row['filter']}" if kind == "flat" else ""
    return "UNUSED_CALIBRATION", f"no light frame needs this {kind}{what}"
