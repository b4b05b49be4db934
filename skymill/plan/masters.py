"""Which calibration frames are combined, and what each master is corrected with."""

from __future__ import annotations

import difflib
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skymill.errors import ConfigError
from skymill.plan.match import MODE, Matcher, mode_of, same_exposure
from skymill.plan.model import Choice, MasterPlan, identifier, in_time, ordinal, rounded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from skymill.plan.model import Row
    from skymill.settings import Settings

__all__ = ["KINDS", "Masters", "assigned", "runs"]

#: Kinds of calibration frames in the order in which their masters are planned: each is
#: corrected with masters of earlier kinds only, so none with one made from itself.
KINDS = ("bias", "dark", "flat_dark", "flat")
_CORRECTIONS = {"bias": (), "dark": ("bias",), "flat_dark": ("bias",), "flat": ("bias", "dark")}


@dataclass(frozen=True)
class _Part:
    """Frames of one night that can be combined."""

    night: str
    rows: tuple[Row, ...]
    exposure: float | None
    temperature: float | None


class Masters:
    """The masters of a plan, and the choice of the right one.

    Parameters
    ----------
    settings : Settings
        Uses ``plan.match`` and the minimum numbers of the master steps.
    folder : Path
        Project folder, which the files named in the sheet are relative to.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.policy = settings.plan.match
        self.folder = folder
        self.minimum = {
            "bias": settings.master_bias.minimum,
            "dark": settings.master_dark.minimum,
            "flat_dark": settings.master_dark.minimum,
            "flat": settings.master_flat.minimum,
        }
        self.matcher = Matcher(self.policy)
        self.by_id: dict[str, MasterPlan] = {}
        self.too_few: dict[str, str] = {}
        self._files: dict[str, bool] = {}

    # --- what is combined ---

    def plan(self, by_kind: Mapping[str, Sequence[Row]]) -> None:
        """Plan all masters.

        Parameters
        ----------
        by_kind : mapping
            Kind to rows in order of time.
        """
        for kind in KINDS:
            groups: dict[tuple[Any, ...], dict[str, list[Row]]] = defaultdict(
                lambda: defaultdict(list)
            )
            for row in by_kind.get(kind, ()):
                what = row["filter"] if kind == "flat" else ""
                uses = assigned(row, _CORRECTIONS[kind])
                key = (self.matcher.key(row), row["area"], what, uses)
                groups[key][row["night"]].append(row)
            for _, nights in sorted(groups.items(), key=lambda item: repr(item[0])):
                parts = {night: self._parts(kind, rows) for night, rows in sorted(nights.items())}
                self._add_group(kind, parts)

    def _add_group(self, kind: str, parts: Mapping[str, Sequence[_Part]]) -> None:
        short = []
        for part in (part for found in parts.values() for part in found):
            if len(part.rows) >= self.minimum[kind]:
                self._add(kind, [part])
            else:
                short.append(part)
        by_day = {ordinal(night): found for night, found in parts.items()}
        taken: set[str] = set()
        for part in short:
            pooled = self._pool(kind, part, by_day)
            if pooled:
                self._add(kind, pooled)
                taken |= {row["frame_id"] for one in pooled for row in one.rows}
        for part in short:
            for row in part.rows:
                if row["frame_id"] not in taken:
                    self.too_few[row["frame_id"]] = self._why_too_few(kind, part)

    def _parts(self, kind: str, rows: Sequence[Row]) -> list[_Part]:
        """Return the darks of a night by exposure and temperature, others as they are."""
        if "dark" not in kind:
            return [_part(rows)]

        def near(low: float, high: float) -> bool:
            return high - low <= self.policy.temperature_tolerance_k

        out = []
        for exposures in runs(rows, "exptime_s", lambda low, high: high <= low * 1.01):
            alike = [exposures]
            if self.policy.temperature != "ignore":
                alike = runs(exposures, "temperature_c", near)
            out += [_part(rows) for rows in alike]
        return out

    def _pool(
        self, kind: str, part: _Part, by_day: Mapping[int, Sequence[_Part]]
    ) -> list[_Part] | None:
        """Return the parts to combine with one that is too small: the nearest nights' first.

        None if they are too few together, or if one of the nights has enough by itself:
        its master is taken instead.
        """
        reach = getattr(self.policy.pool_nights, "dark" if "dark" in kind else kind)
        here = ordinal(part.night)
        nights = (here + side * n for n in range(1, reach + 1) for side in (-1, 1))
        others = [
            other
            for day in nights
            for other in by_day.get(day, ())
            if "dark" not in kind or self._alike(part, other)
        ]
        if any(len(other.rows) >= self.minimum[kind] for other in others):
            return None
        pooled = [part]
        while sum(len(one.rows) for one in pooled) < self.minimum[kind]:
            if not others:
                return None
            pooled.append(others.pop(0))
        return pooled

    def _alike(self, one: _Part, two: _Part) -> bool:
        if not same_exposure(one.exposure, two.exposure):
            return False
        if self.policy.temperature == "ignore":
            return True
        if one.temperature is None or two.temperature is None:
            return one.temperature is two.temperature
        return abs(one.temperature - two.temperature) <= self.policy.temperature_tolerance_k

    def _why_too_few(self, kind: str, part: _Part) -> str:
        first, section = part.rows[0], "dark" if "dark" in kind else kind
        reach = getattr(self.policy.pool_nights, section)
        pool = f", and too few in {reach} nights around" if reach else ""
        return (
            f"{len(part.rows)} {kind} frames of {_describe(first, kind)} on {part.night}{pool}, at "
            f"least {self.minimum[kind]} are needed (settings: master_{section}.minimum, "
            f"plan.match.pool_nights.{section})"
        )

    def _add(self, kind: str, parts: Sequence[_Part]) -> None:
        rows = sorted((row for part in parts for row in part.rows), key=in_time)
        nights = tuple(sorted({part.night for part in parts}))
        first, what = rows[0], rows[0]["filter"] if kind == "flat" else ""
        facts = {name: first[name] for name in (*MODE, "area")}
        facts |= {"night": nights[0], "filter": what}
        extra: tuple[Any, ...] = assigned(first, _CORRECTIONS[kind])
        if "dark" in kind:
            facts["exptime_s"] = min(row["exptime_s"] or 0.0 for row in rows)
            facts["temperature_c"] = _median([row["temperature_c"] for row in rows])
            lowest = min(
                (t for row in rows if (t := row["temperature_c"]) is not None), default=None
            )
            extra = (rounded(facts["exptime_s"]), rounded(lowest), *extra)
        # The name holds what makes the master what it is, not the settings that led to it:
        # a change of these leaves masters alone that come out the same.
        key = (kind, mode_of(first), first["area"], nights, what, *extra)
        parts_of_name = [kind.replace("_", ""), first["instrument"], nights[0]]
        parts_of_name += [f"{len(nights)}nights"] if len(nights) > 1 else []
        parts_of_name += [what] if what else []
        name = identifier(parts_of_name, key)
        if name in self.by_id:
            return  # two nights pool the same frames
        choices = self._corrections(kind, rows)
        master = MasterPlan(
            name, kind, tuple(row["frame_id"] for row in rows), facts,
            bias=choices["bias"].master if "bias" in choices else "",
            dark=choices["dark"].master if "dark" in choices else "",
            nights=nights, choices=choices,
        )  # fmt: skip
        self.by_id[name] = master
        self.matcher.add(master)

    # --- what is corrected with what ---

    def _corrections(self, kind: str, rows: Sequence[Row]) -> dict[str, Choice]:
        """Return the choices of the masters that the frames of a master are corrected with."""
        wanted = _CORRECTIONS[kind]
        middle = rows[len(rows) // 2]
        choices = {"bias": self.choose("bias", middle)} if "bias" in wanted else {}
        if "dark" in wanted:
            # By the longest flat: the darks of the others are scaled down, not up.
            longest = max(rows, key=lambda row: (row["exptime_s"] or 0.0, row["frame_id"]))
            choices["dark"] = self._dark_of_flats(longest)
        return choices

    def _dark_of_flats(self, row: Row) -> Choice:
        """Return the best flat-dark, else the best dark."""
        if row["use_dark"] or row["dark"] == "not_needed":
            return self.choose("dark", row)
        own = self.matcher.choose("flat_dark", row)
        return own if own.master else self.choose("dark", row)

    def choose(self, kind: str, row: Row, *, crop: bool = False) -> Choice:
        """Return the master for a frame: the sheet's, else the best by policy.

        Parameters
        ----------
        kind : str
            ``bias``, ``dark`` or ``flat``.
        row : dict
            Row of the frame.
        crop : bool
            Whether a master of a larger area may be taken.

        Raises
        ------
        ConfigError
            If the sheet names a master that is not planned and no file.
        """
        use = row[f"use_{kind}"]
        if use == "none":
            return Choice(rule="none", missing=f"the sheet asks for none (use_{kind})")
        if use:
            return self._assigned(kind, use, row)
        if kind == "dark" and row["dark"] == "not_needed":
            return Choice(rule="none", missing="this instrument needs no dark")
        return self.matcher.choose(kind, row, crop=crop)

    def _assigned(self, kind: str, use: str, row: Row) -> Choice:
        master = self.by_id.get(use)
        if master is not None and master.kind.endswith(kind):
            here = ordinal(row["night"])
            ages = (here - ordinal(night) for night in master.nights)
            return Choice(use, min(ages, key=lambda age: (abs(age), -age)), "assigned")
        if use not in self._files:
            self._files[use] = (self.folder / use).is_file()
        if self._files[use]:
            return Choice(use, None, "assigned")
        known = [name for name, m in self.by_id.items() if m.kind.endswith(kind)]
        near = difflib.get_close_matches(use, known, 1)
        hint = f"did you mean {near[0]}?" if near else "see `skymill status` for its masters"
        raise ConfigError(
            f"sheet: {row['frame_id']} ({row['path']}): use_{kind} = {use!r} is neither 'none', "
            f"nor a master {kind} of the plan, nor a file in the project folder; {hint}"
        )

    def parents(self, name: str) -> set[str]:
        """Return the planned masters that a master needs, and those that these need."""
        master = self.by_id[name]
        direct = {parent for parent in (master.bias, master.dark) if parent in self.by_id}
        return direct | {up for parent in direct for up in self.parents(parent)}


def assigned(row: Row, kinds: Sequence[str]) -> tuple[str, ...]:
    """Return the masters that the sheet assigns to a frame; empty if it assigns none."""
    uses = tuple(row[f"use_{kind}"] for kind in kinds)
    return uses if any(uses) else ()


def _part(rows: Sequence[Row]) -> _Part:
    """Return rows of one night in order of time, with their exposure and temperature."""
    exposures = [row["exptime_s"] for row in rows if row["exptime_s"] is not None]
    ordered = tuple(sorted(rows, key=in_time))
    temperature = _median([row["temperature_c"] for row in rows])
    return _Part(rows[0]["night"], ordered, min(exposures, default=None), temperature)


def _describe(row: Row, kind: str) -> str:
    text = f"{row['instrument']} {row['nx']}x{row['ny']} px, binning {row['binning']}"
    if row["mode"]:
        text += f", mode {row['mode']}"
    if kind == "flat":
        text += f", filter {row['filter'] or '(none)'}"
    if "dark" in kind:
        text += f", {row['exptime_s']} s"
    return text


def runs(rows: Sequence[Row], name: str, same: Callable[[float, float], bool]) -> list[list[Row]]:
    """Return groups of rows whose values are the same as the lowest of the group.

    Parameters
    ----------
    rows : sequence of dict
        Rows.
    name : str
        Column of the values; rows without a value are a group of their own.
    same : callable
        Called with the lowest value of a group and a larger one.
    """
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
