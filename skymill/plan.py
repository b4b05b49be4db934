"""From the sheet to masters, blocks, stacks and fields.

A pure function of the sheet and the settings: the same rows give the same plan in any
order, and adding a night leaves the identifiers of other nights alone. No heavy
imports, because every cluster job reads the plan again.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as default
from datetime import date
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from skymill.errors import ConfigError, Outcome

if TYPE_CHECKING:
    from skymill.settings import Settings

__all__ = ["Block", "Field", "MasterPlan", "Plan", "Stack", "make_plan"]

Row = Mapping[str, Any]

#: What must be equal for a calibration frame to fit a light frame. Matching by other
#: criteria (filter, exposure, temperature, night) comes on top.
_MODE = (
    "instrument",
    "detector",
    "mode",
    "binning",
    "nx",
    "ny",
    "datasec",
    "gain_setting",
    "offset_setting",
)
_mode_values = itemgetter(*_MODE)


@dataclass(frozen=True)
class MasterPlan:
    """One master to make.

    Parameters
    ----------
    id, kind : str
        Identifier; ``bias``, ``dark`` or ``flat``.
    frames : tuple of str
        Frame ids of the inputs, in order of time.
    bias, dark : str
        Masters that its own frames are corrected with; empty if none.
    key : dict
        What the inputs have in common.
    """

    id: str
    kind: str
    frames: tuple[str, ...]
    key: dict[str, Any]
    bias: str = ""
    dark: str = ""


@dataclass(frozen=True)
class Block:
    """The light frames that one job processes.

    ``missing`` says in plain words why a calibration was not found: kind to sentence.
    """

    id: str
    field: str
    night: str
    instrument: str
    target: str
    filter: str
    frames: tuple[str, ...]
    bias: str = ""
    dark: str = ""
    flat: str = ""
    missing: dict[str, str] = default(default_factory=dict)


@dataclass(frozen=True)
class Stack:
    """One field, filter and epoch on one pixel grid."""

    id: str
    field: str
    filter: str
    epoch: str
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class Field:
    """A patch of sky that frames of one detector share."""

    id: str
    target: str
    instrument: str
    blocks: tuple[str, ...]
    stacks: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that is to be made, by identifier, and what could not be planned."""

    masters: dict[str, MasterPlan]
    blocks: dict[str, Block]
    stacks: dict[str, Stack]
    fields: dict[str, Field]
    outcomes: tuple[Outcome, ...]
    rows: dict[str, Row]

    def rows_of(self, frames: Iterable[str]) -> list[dict[str, Any]]:
        """Return the sheet rows of some frames as plain dictionaries."""
        return [dict(self.rows[frame]) for frame in frames]


def make_plan(rows: Sequence[Row], settings: Settings) -> Plan:
    """Group and match the frames of a sheet.

    Parameters
    ----------
    rows : sequence of dict
        Rows of the sheet, see `skymill.sheet`.
    settings : Settings
        Uses ``plan`` and the minimum numbers of the master steps.

    Returns
    -------
    Plan

    Raises
    ------
    ConfigError
        If there are more blocks than ``plan.max_groups``.
    """
    usable = sorted(
        (row for row in rows if row["verdict"] != "rejected"),
        key=_in_time,
    )
    by_kind: dict[str, list[Row]] = defaultdict(list)
    for row in usable:
        by_kind[row["kind"]].append(row)
    planner = _Planner(settings)
    planner.plan_masters(by_kind)
    blocks = planner.plan_blocks(by_kind["light"])
    stacks, fields = planner.plan_stacks(blocks)
    outcomes = planner.unused(by_kind, blocks)
    masters = {name: planner.masters[name] for name in sorted(planner.wanted(by_kind, blocks))}
    return Plan(masters, blocks, stacks, fields, outcomes, {row["frame_id"]: row for row in usable})


class _Planner:
    """Working memory of `make_plan`."""

    def __init__(self, settings: Settings) -> None:
        self.plan = settings.plan
        self.minimum = {
            "bias": settings.master_bias.minimum,
            "dark": settings.master_dark.minimum,
            "flat_dark": settings.master_dark.minimum,
            "flat": settings.master_flat.minimum,
        }
        self.masters: dict[str, MasterPlan] = {}
        self.kinds: set[str] = set()
        self.field_names: dict[Any, str] = {}
        self.by_night: dict[tuple[str, tuple[Any, ...]], dict[int, list[MasterPlan]]] = {}
        self.too_few: dict[str, str] = {}

    # --- masters ---

    def plan_masters(self, by_kind: Mapping[str, list[Row]]) -> None:
        for kind in ("bias", "dark", "flat_dark", "flat"):
            groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
            for row in by_kind.get(kind, []):
                what = row["filter"] if kind == "flat" else ""
                groups[kind, _mode(row), row["night"], what].append(row)
            for key, members in sorted(groups.items(), key=lambda item: repr(item[0])):
                for extra, part in self._parts(kind, members):
                    self._add_master(kind, (*key, *extra), part)

    def _parts(self, kind: str, members: list[Row]) -> list[tuple[tuple[Any, ...], list[Row]]]:
        """Return the darks of a night by exposure and temperature, others as they are."""
        if kind not in ("dark", "flat_dark"):
            return [((), members)]

        def near(low: float, high: float) -> bool:
            return high - low <= self.plan.temperature_tolerance_k

        parts = []
        for exposures in _runs(members, "exptime_s", lambda low, high: high <= low * 1.01):
            alike = (
                _runs(exposures, "temperature_c", near)
                if self.plan.match_temperature
                else [exposures]
            )
            for part in alike:
                first = part[0]
                key = (_round(first["exptime_s"]), _round(first["temperature_c"]))
                parts.append((key, sorted(part, key=_in_time)))
        return parts

    def _add_master(self, kind: str, key: tuple[Any, ...], members: list[Row]) -> None:
        if len(members) < self.minimum[kind]:
            for row in members:
                self.too_few[row["frame_id"]] = (
                    f"{len(members)} {kind} frames of {_describe(row, kind)} on {row['night']}, "
                    f"at least {self.minimum[kind]} are needed "
                    f"(settings: master_{'dark' if 'dark' in kind else kind}.minimum)"
                )
            return
        first = members[0]
        facts = {name: first[name] for name in _MODE}
        facts |= {"night": first["night"], "filter": first["filter"] if kind == "flat" else ""}
        if "dark" in kind:
            facts["exptime_s"] = first["exptime_s"]
            facts["temperature_c"] = _median([row["temperature_c"] for row in members])
        parts = [kind.replace("_", ""), first["instrument"], first["night"]]
        parts += [first["filter"]] if kind == "flat" else []
        name = _identifier(parts, key)
        bias = dark = ""
        if kind in ("dark", "flat_dark", "flat"):
            bias = self.match("bias", first)[0]
        if kind == "flat":
            # By the longest flat: the darks of the others are scaled down, not up.
            longest = max(members, key=lambda row: (row["exptime_s"] or 0.0, row["frame_id"]))
            dark = self.match("flat_dark", longest)[0] or self.match("dark", longest)[0]
        frames = tuple(row["frame_id"] for row in members)
        master = MasterPlan(name, kind, frames, facts, bias, dark)
        self.masters[name] = master
        self.kinds.add(kind)
        nights = self.by_night.setdefault((kind, _mode(first)), {})
        nights.setdefault(_ordinal(first["night"]), []).append(master)

    def match(self, kind: str, row: Row) -> tuple[str, str]:
        """Return the best master for a frame, or an empty string and the reason."""
        near = self._near(kind, row)
        if kind == "flat":
            near = [m for m in near if m.key["filter"] == row["filter"]]
        if not near:
            return "", self._none_near(kind, row)
        if kind in ("dark", "flat_dark"):
            near, reason = self._match_dark(near, row)
            if not near:
                return "", reason
        # Nearest night first, earlier before later, then a name that decides.
        best = min(
            near,
            key=lambda m: (
                _days(m.key["night"], row["night"]),
                str(m.key["night"]) > str(row["night"]),
                m.id,
            ),
        )
        return best.id, ""

    def _near(self, kind: str, row: Row) -> list[MasterPlan]:
        """Return the masters of a frame's mode within the window, by looking up its nights."""
        nights = self.by_night.get((kind, _mode(row)), {})
        here, window = _ordinal(row["night"]), self.plan.master_window_days
        if len(nights) <= 2 * window + 1:
            days = [day for day in nights if abs(day - here) <= window]
        else:
            days = list(range(here - int(window), here + int(window) + 1))
        return [master for day in days for master in nights.get(day, ())]

    def _none_near(self, kind: str, row: Row) -> str:
        """Say which criterion no master fulfils, and what there is."""
        nights = self.by_night.get((kind, _mode(row)), {})
        candidates = [master for found in nights.values() for master in found]
        if not candidates:
            there = "only of other modes or sizes" if kind in self.kinds else "there are none"
            return f"no {kind} for {_describe(row, 'light')}: {there}"
        if kind == "flat":
            filters = sorted({str(m.key["filter"]) for m in candidates})
            candidates = [m for m in candidates if m.key["filter"] == row["filter"]]
            if not candidates:
                return f"no flat in filter {row['filter'] or '(none)'}, only in {filters}"
        age = min(_days(m.key["night"], row["night"]) for m in candidates)
        return (
            f"the nearest {kind} is {age} nights away, at most "
            f"{self.plan.master_window_days:g} are allowed (settings: plan.master_window_days)"
        )

    def _match_dark(self, candidates: list[MasterPlan], row: Row) -> tuple[list[MasterPlan], str]:
        tolerance = self.plan.temperature_tolerance_k

        def fits(master: MasterPlan) -> bool:
            there, here = master.key["temperature_c"], row["temperature_c"]
            if not self.plan.match_temperature or there is None or here is None:
                return True
            return bool(abs(there - here) <= tolerance)

        warm = [m for m in candidates if fits(m)]
        if not warm:
            have = sorted({m.key["temperature_c"] for m in candidates})
            return [], (
                f"no dark within {tolerance:g} K of {row['temperature_c']:g} C, only at {have} "
                "(settings: plan.temperature_tolerance_k)"
            )
        exposure = row["exptime_s"] or 0.0
        exact = [m for m in warm if math.isclose(m.key["exptime_s"], exposure, rel_tol=0.01)]
        if exact:
            return exact, ""
        longer = sorted({m.key["exptime_s"] for m in warm if m.key["exptime_s"] > exposure})
        if longer:
            return [m for m in warm if m.key["exptime_s"] == longer[0]], ""
        have = sorted({m.key["exptime_s"] for m in warm})
        return [], f"no dark of {exposure:g} s or longer, only of {have} s"

    def parents(self, name: str) -> set[str]:
        """Return the masters that a master needs, and those that these need."""
        master = self.masters[name]
        direct = {parent for parent in (master.bias, master.dark) if parent}
        return direct | {up for parent in direct for up in self.parents(parent)}

    # --- blocks ---

    def plan_blocks(self, lights: list[Row]) -> dict[str, Block]:
        fields = self._field_of(lights)
        groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
        for row in lights:
            key = (
                row["night"],
                _mode(row),
                fields[row["frame_id"]],
                row["filter"],
                _round(row["exptime_s"]),
            )
            groups[key].append(row)
        blocks: dict[str, Block] = {}
        for key, members in sorted(groups.items(), key=lambda item: repr(item[0])):
            first = members[0]
            masters, missing = self._calibrations(first)
            mpix = (first["nx"] or 1) * (first["ny"] or 1) / 1e6
            size = max(1, min(self.plan.block_max_frames, int(self.plan.block_max_mpix / mpix)))
            parts = [first["night"], first["instrument"], first["target"], first["filter"]]
            for number in range(0, len(members), size):
                chunk = members[number : number + size]
                name = _identifier(parts, key) + f"-{number // size:03d}"
                blocks[name] = Block(
                    name,
                    fields[first["frame_id"]],
                    str(first["night"]),
                    str(first["instrument"]),
                    str(first["target"]),
                    str(first["filter"]),
                    tuple(row["frame_id"] for row in chunk),
                    **masters,
                    missing=missing,
                )
        if len(blocks) > self.plan.max_groups:
            raise ConfigError(
                f"plan: TOO_MANY_GROUPS: {len(blocks)} blocks, at most {self.plan.max_groups} "
                "are allowed (settings: plan.max_groups). Are target or filter names unique to "
                "each frame?"
            )
        return blocks

    def _calibrations(self, row: Row) -> tuple[dict[str, str], dict[str, str]]:
        masters: dict[str, str] = {}
        missing: dict[str, str] = {}
        for kind in ("bias", "dark", "flat"):
            if kind == "dark" and row.get("dark") == "not_needed":
                masters[kind], reason = "", "this instrument needs no dark"
            else:
                masters[kind], reason = self.match(kind, row)
            if not masters[kind]:
                missing[kind] = reason
        return masters, missing

    def _field_of(self, lights: list[Row]) -> dict[str, str]:
        """Return the field of each light frame: one target, one patch of sky, one detector."""
        out: dict[str, str] = {}
        lost: list[Row] = []
        anchors: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
        for row in lights:
            key = (row["target"], *_mode(row))
            where = (row["ra_deg"], row["dec_deg"])
            known = anchors[key]
            if None in where:
                lost.append(row)  # it goes where the others of its target are
                continue
            near = (a for a in known if _separation_deg(a, where) <= self.plan.field_radius_deg)
            anchor = next(near, None)
            if anchor is None:
                known.append(where)
                anchor = where
            out[row["frame_id"]] = self._field_id(row, key, anchor)
        for row in lost:
            key = (row["target"], *_mode(row))
            out[row["frame_id"]] = self._field_id(row, key, next(iter(anchors[key]), None))
        return out

    def _field_id(self, row: Row, key: tuple[Any, ...], anchor: Any) -> str:
        """Name a field by a coarse cell of the sky, not by the order of the nights."""
        if (key, anchor) in self.field_names:
            return self.field_names[key, anchor]
        cell = None
        if anchor is not None:
            size = self.plan.field_radius_deg / 1.5  # anchors of two fields never share one
            ra, dec = anchor
            cell = (round(dec / size), round(ra * math.cos(math.radians(dec)) / size))
        name = _identifier([row["target"], row["instrument"]], (*key, cell))
        self.field_names[key, anchor] = name
        return name

    # --- stacks and fields ---

    def plan_stacks(self, blocks: dict[str, Block]) -> tuple[dict[str, Stack], dict[str, Field]]:
        by_field: dict[str, list[Block]] = defaultdict(list)
        for block in blocks.values():
            by_field[block.field].append(block)
        stacks: dict[str, Stack] = {}
        fields: dict[str, Field] = {}
        for name, members in sorted(by_field.items()):
            groups: dict[tuple[str, str], list[str]] = defaultdict(list)
            for block in members:
                # The stack of everything is always made: light curves of all nights need
                # one list of positions.
                groups[block.filter, "all"].append(block.id)
                if self.plan.epoch == "night":
                    groups[block.filter, block.night].append(block.id)
            mine = []
            for (filter_, epoch), ids in sorted(groups.items()):
                stack = _identifier([members[0].target, filter_, epoch], (name, filter_, epoch))
                stacks[stack] = Stack(stack, name, filter_, epoch, tuple(sorted(ids)))
                mine.append(stack)
            fields[name] = Field(
                name,
                members[0].target,
                members[0].instrument,
                tuple(sorted(block.id for block in members)),
                tuple(mine),
            )
        return stacks, fields

    # --- what is left ---

    def wanted(self, by_kind: Mapping[str, list[Row]], blocks: dict[str, Block]) -> set[str]:
        """Return the masters to make: those in use, and others that could be of use."""
        names = {m for block in blocks.values() for m in (block.bias, block.dark, block.flat) if m}
        if self.plan.masters == "all":
            lights = by_kind.get("light", [])
            modes = {_mode(row) for row in lights}
            instruments = {row["instrument"] for row in lights}
            for master in self.masters.values():
                mode = tuple(master.key[name] for name in _MODE)
                if mode in modes or master.key["instrument"] not in instruments:
                    names.add(master.id)
        return names | {parent for name in names for parent in self.parents(name)}

    def unused(
        self, by_kind: Mapping[str, list[Row]], blocks: dict[str, Block]
    ) -> tuple[Outcome, ...]:
        """Return an outcome for every calibration frame that goes into no master in use."""
        wanted = self.wanted(by_kind, blocks)
        taken = {frame for name in wanted for frame in self.masters[name].frames}
        by_mode: dict[Any, list[Row]] = defaultdict(list)
        for light in by_kind.get("light", []):
            by_mode[_mode(light)].append(light)
        out = []
        for kind in ("bias", "dark", "flat_dark", "flat"):
            for row in by_kind.get(kind, []):
                if row["frame_id"] not in taken:
                    code, message = self._why_unused(kind, row, by_mode)
                    status = "off" if code == "UNUSED_CALIBRATION" else "rejected"
                    out.append(Outcome(row["frame_id"], "plan", status, code, message))
        return tuple(sorted(out, key=lambda outcome: outcome.frame_id))

    def _why_unused(self, kind: str, row: Row, by_mode: Mapping[Any, list[Row]]) -> tuple[str, str]:
        same = by_mode.get(_mode(row), [])
        if not same:
            here = (row["instrument"], row["detector"])
            others = [
                found[0]
                for found in by_mode.values()
                if (found[0]["instrument"], found[0]["detector"]) == here
            ]
            if others:
                sizes = sorted({f"{o['nx']}x{o['ny']} px {o['binning']}" for o in others})
                return "WRONG_SIZE", (
                    f"{kind} of {row['nx']}x{row['ny']} px {row['binning']}, but the light frames "
                    f"are {', '.join(sizes)}; size, binning, section, mode, gain and offset must "
                    "be equal"
                )
        useful = bool(same) and (
            kind != "flat" or any(light["filter"] == row["filter"] for light in same)
        )
        if useful and row["frame_id"] in self.too_few:
            return "TOO_FEW", self.too_few[row["frame_id"]]
        what = f" in filter {row['filter']}" if kind == "flat" else ""
        return "UNUSED_CALIBRATION", f"no light frame needs this {kind}{what}"


def _mode(row: Row) -> tuple[Any, ...]:
    values: tuple[Any, ...] = _mode_values(row)
    return values


def _describe(row: Row, kind: str) -> str:
    text = f"{row['instrument']} {row['nx']}x{row['ny']} px, binning {row['binning']}"
    if row["mode"]:
        text += f", mode {row['mode']}"
    if kind == "flat":
        text += f", filter {row['filter'] or '(none)'}"
    if "dark" in kind:
        text += f", {row['exptime_s']} s"
    return text


def _round(value: float | None) -> float | None:
    """Exposures that differ by less than a per mille are the same."""
    return None if value is None else float(f"{value:.3g}")


def _identifier(parts: Sequence[Any], key: object) -> str:
    """Return readable parts, and a hash of everything that makes the thing what it is."""
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:8]
    words = [str(part)[:24] for part in parts if part]
    # A name must not look like a hidden file or an option, whatever a target is called.
    return "-".join([*words, digest]).lstrip(".-")


def _days(night: str, other: str) -> int:
    return abs(_ordinal(night) - _ordinal(other))


@lru_cache(maxsize=100_000)
def _ordinal(night: str) -> int:
    return date.fromisoformat(night).toordinal()


def _in_time(row: Row) -> tuple[float, str]:
    return (row["mjd_start"] or 0.0, row["frame_id"])


def _runs(rows: Sequence[Row], name: str, same: Callable[[float, float], bool]) -> list[list[Row]]:
    """Return groups of rows whose values are the same as the lowest of the group."""
    ordered = sorted(rows, key=lambda row: (row[name] is None, row[name] or 0.0, row["frame_id"]))
    groups: list[list[Row]] = []
    for row in ordered:
        first, value = (groups[-1][0][name] if groups else None), row[name]
        if first is None or value is None:
            joins = bool(groups) and first is value
        else:
            joins = same(first, value)
        if joins:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _median(values: Sequence[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None


def _separation_deg(one: tuple[Any, Any], two: tuple[Any, Any]) -> float:
    """Return the angle between two positions in degree."""
    ra1, dec1, ra2, dec2 = (math.radians(float(v)) for v in (*one, *two))
    a = math.sin((dec2 - dec1) / 2) ** 2
    a += math.cos(dec1) * math.cos(dec2) * math.sin((ra2 - ra1) / 2) ** 2
    return math.degrees(2 * math.asin(min(1.0, math.sqrt(a))))
