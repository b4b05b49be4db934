"""Which master fits a frame, and which of those that fit is taken.

The policy is that of ``plan.match`` in the settings. Masters are looked up by what must
be equal and by night, so that a plan of many nights takes no longer per frame.
"""

from __future__ import annotations

import bisect
import math
import re
from collections import defaultdict
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from skymill.plan.model import Choice, MasterPlan, ordinal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from skymill.plan.model import Row
    from skymill.settings import Match

__all__ = ["MODE", "Matcher", "mode_of", "same_exposure"]

#: What makes one read-out of a detector differ from another, the area apart.
MODE = (
    "instrument",
    "detector",
    "channel",
    "mode",
    "binning",
    "nx",
    "ny",
    "datasec",
    "gain_setting",
    "offset_setting",
)
mode_of: Callable[[Row], tuple[Any, ...]] = itemgetter(*MODE)
#: Columns that the window of a detector changes.
_WINDOWED = ("nx", "ny", "datasec")

_AREA = re.compile(r"\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]$")
Found = tuple[int, MasterPlan]  # age in nights, master


def same_exposure(one: float | None, two: float | None) -> bool:
    """Return True if two exposures differ by at most 1 %; an unknown one is like no other."""
    if one is None or two is None:
        return one is two
    return math.isclose(one, two, rel_tol=0.01)


class _Shelf:
    """Masters that are equal in what must be equal, by night."""

    def __init__(self) -> None:
        self.by_day: dict[int, list[MasterPlan]] = defaultdict(list)
        self._days: list[int] = []

    def put(self, master: MasterPlan) -> None:
        for night in master.nights:
            self.by_day[ordinal(night)].append(master)

    def near(self, here: int, window: float) -> list[Found]:
        """Return the masters at most ``window`` nights away, each once, with their age."""
        reach = int(window)
        if len(self.by_day) <= 2 * reach + 1:
            days: Iterable[int] = (day for day in self.by_day if abs(day - here) <= reach)
        else:
            days = range(here - reach, here + reach + 1)
        found: dict[str, Found] = {}
        for day in sorted(days, key=lambda day: (abs(day - here), day)):
            for master in self.by_day.get(day, ()):
                found.setdefault(master.id, (here - day, master))
        return list(found.values())

    def nearest(self, here: int) -> int | None:
        """Return the distance to the nearest night that has a master."""
        if len(self._days) != len(self.by_day):
            self._days = sorted(self.by_day)
        at = bisect.bisect(self._days, here)
        return min((abs(day - here) for day in self._days[max(at - 1, 0) : at + 1]), default=None)


class Matcher:
    """All masters planned so far, and the policy.

    Parameters
    ----------
    policy : Match
        ``plan.match`` of the settings.
    """

    def __init__(self, policy: Match) -> None:
        self.policy = policy
        columns = tuple(name for name in MODE if name in (*policy.keys, "nx", "ny"))
        self.columns = columns
        self.key: Callable[[Row], tuple[Any, ...]] = itemgetter(*columns)
        loose = tuple(name for name in columns if name not in _WINDOWED)
        # The kind stands in for a second column: itemgetter of one name gives no tuple.
        self._loose = lambda row: tuple(row[name] for name in loose)
        self._shelves: dict[tuple[Any, ...], _Shelf] = defaultdict(_Shelf)
        self._wide: dict[tuple[Any, ...], _Shelf] = defaultdict(_Shelf)
        self._modes: dict[str, dict[int, set[tuple[Any, ...]]]] = {}

    def window(self, kind: str) -> float:
        """Return how many nights away a master of this kind may be."""
        return float(getattr(self.policy.window_nights, _family(kind)))

    def add(self, master: MasterPlan) -> None:
        """Make a master known; its ``key`` has the columns of a row."""
        row, of = master.key, master.key["filter"]
        self._shelves[master.kind, of, self.key(row)].put(master)
        if row["area"] and self.policy.area == "contains":
            self._wide[master.kind, of, self._loose(row)].put(master)
        days = self._modes.setdefault(master.kind, {})
        for night in master.nights:
            days.setdefault(ordinal(night), set()).add((self.key(row), row["area"], of))

    def fits(self, calibration: Row, light: Row) -> bool:
        """Return True if a calibration frame is of a mode that a light frame could use."""
        if self.key(calibration) == self.key(light):
            return same_area(calibration["area"], light["area"])
        return (
            self.policy.area == "contains"
            and self._loose(calibration) == self._loose(light)
            and holds(calibration["area"], light["area"])
        )

    def choose(self, kind: str, row: Row, *, crop: bool = False) -> Choice:
        """Return the best master for a frame.

        Parameters
        ----------
        kind : str
            ``bias``, ``dark``, ``flat_dark`` or ``flat``.
        row : dict
            Row of the frame.
        crop : bool
            Whether a master of a larger area may be taken.
        """
        near, rule = self._near(kind, row), "nearest"
        if not near and crop:
            near, rule = self._wider(kind, row), "cropped"
        if not near:
            return Choice(missing=self._why_none(kind, row), note=self._beyond(kind, row))
        flag: tuple[str, ...] = ()
        if _family(kind) == "dark":
            near, flag, missing = self._by_temperature(near, row)
            if missing:
                return Choice(missing=missing, note=self._beyond(kind, row))
            near, exposure = self._by_exposure(near, row)
            if not near:
                what = exposure if exposure == "bias_only" else ""
                missing = self._why_no_exposure(kind, row)
                return Choice(rule=what, missing=missing)
            # the job must know that the dark is to be scaled up, also where it is cropped
            rule = exposure if rule == "nearest" or exposure == "shorter" else rule
        here = ordinal(row["night"])
        near.sort(key=lambda found: self._rank(found, here))
        age, best = near[0]
        others = tuple(dict.fromkeys(master.id for _, master in near[1:]))
        return Choice(best.id, age, rule, others, flag=flag)

    def _rank(self, found: Found, here: int) -> tuple[Any, ...]:
        """Return what the best is first by."""
        age, master = found
        # Of pooled masters that share a night the one that reaches less far is its own.
        farthest = max(abs(here - ordinal(night)) for night in master.nights)
        side = {"nearest": False, "before": age < 0, "after": age > 0}[self.policy.prefer]
        many = -len(master.frames) if self.policy.ties == "more_frames" else 0
        return (side, abs(age), farthest, many, age < 0, master.id)

    def _near(self, kind: str, row: Row) -> list[Found]:
        shelf = self._shelves.get((kind, _filter(kind, row), self.key(row)))
        if shelf is None:
            return []
        near = shelf.near(ordinal(row["night"]), self.window(kind))
        return [found for found in near if same_area(found[1].key["area"], row["area"])]

    def _wider(self, kind: str, row: Row) -> list[Found]:
        shelf = self._wide.get((kind, _filter(kind, row), self._loose(row)))
        if shelf is None or not row["area"]:
            return []
        near = shelf.near(ordinal(row["night"]), self.window(kind))
        return [found for found in near if holds(found[1].key["area"], row["area"])]

    # --- darks ---

    def _by_temperature(
        self, near: list[Found], row: Row
    ) -> tuple[list[Found], tuple[str, ...], str]:
        """Return the darks that are cold enough, a flag, or why there are none."""
        rule, tolerance = self.policy.temperature, self.policy.temperature_tolerance_k
        here = row["temperature_c"]
        if rule == "ignore" or here is None:
            return near, (), ""

        def off(found: Found) -> float:
            there = found[1].key["temperature_c"]
            return 0.0 if there is None else abs(there - here)

        fit = [found for found in near if off(found) <= tolerance]
        if fit:
            return fit, (), ""
        closest = min(off(found) for found in near)
        if rule == "degrade":
            text = (
                f"the dark was taken {closest:.3g} K away from the frame, at most {tolerance:g} K "
                "are right; hot pixels remain or are over-corrected."
            )
            # Darks of nearly the same temperature compete by night, as others do.
            fit = [found for found in near if off(found) <= closest + tolerance / 2]
            return fit, ("DARK_TEMP", text), ""
        have = sorted({round(found[1].key["temperature_c"], 1) for found in near})
        return (
            [],
            (),
            (
                f"no dark within {tolerance:g} K of {here:g} C, only at {have} "
                "(settings: plan.match.temperature_tolerance_k)"
            ),
        )

    def _by_exposure(self, near: list[Found], row: Row) -> tuple[list[Found], str]:
        """Return the darks that the first rule finds, and the rule."""
        exposure = row["exptime_s"] or 0.0
        times = sorted({found[1].key["exptime_s"] or 0.0 for found in near})
        for rule in self.policy.dark_exposure:
            if rule == "bias_only":
                return [], rule
            if rule == "exact":
                wanted = [t for t in times if same_exposure(t, exposure)]
            elif rule == "longer":
                wanted = [t for t in times if t > exposure][:1]
            else:
                wanted = [t for t in times if 0 < t < exposure][-1:]
            fit = [found for found in near if (found[1].key["exptime_s"] or 0.0) in wanted]
            if fit:
                return fit, rule
        return [], ""

    def _why_no_exposure(self, kind: str, row: Row) -> str:
        time = f"{row['exptime_s'] or 0.0:g} s"
        words = {
            "exact": f"of {time}",
            "longer": f"longer than {time}",
            "shorter": f"shorter than {time}",
        }
        rules = [words[rule] for rule in self.policy.dark_exposure if rule in words]
        near, _, _ = self._by_temperature(self._near(kind, row), row)
        have = sorted({found[1].key["exptime_s"] or 0.0 for found in near})
        return (
            f"no dark {' or '.join(rules)}, only of {have} s (settings: plan.match.dark_exposure)"
        )

    # --- none found ---

    def _why_none(self, kind: str, row: Row) -> str:
        """Say which criterion no master within the window fulfils, and what there is."""
        here, window = ordinal(row["night"]), self.window(kind)
        reach = int(window)
        days = self._modes.get(kind, {})
        seen: set[tuple[Any, ...]] = set()
        for day in range(here - reach, here + reach + 1):
            seen |= days.get(day, set())
        name = kind.replace("_", " ")
        setting = f"plan.match.window_nights.{_family(kind)}"
        span = f"within {window:g} nights" if window else "of the same night"
        if not seen:
            return f"no {name} {span} (settings: {setting})"
        key, area = self.key(row), row["area"]
        same = [s for s in seen if s[0] == key and same_area(s[1], area)]
        if same:  # only flats: other kinds know no filter
            have = sorted(str(s[2] or "(none)") for s in same)
            return f"no flat in filter {row['filter'] or '(none)'} {span}, only in {have}"
        closest = min((self._differences(s[0], s[1], row) for s in seen), key=_few)
        return f"no {name} {span} of this read-out: what there is differs in {', '.join(closest)}"

    def _differences(self, key: tuple[Any, ...], area: str, row: Row) -> list[str]:
        found = [
            f"{name} ({there or 'none'}, not {row[name] or 'none'})"
            for name, there in zip(self.columns, key, strict=True)
            if there != row[name]
        ]
        if not same_area(area, row["area"]):
            found.append(f"area ({area}, not {row['area']})")
        return found

    def _beyond(self, kind: str, row: Row) -> str:
        shelf = self._shelves.get((kind, _filter(kind, row), self.key(row)))
        nights = shelf.nearest(ordinal(row["night"])) if shelf is not None else None
        if nights is None or nights <= self.window(kind):
            return ""
        return (
            f"the nearest {kind} is {nights} nights away, at most {self.window(kind):g} are allowed"
        )


def _family(kind: str) -> str:
    """Return the kind whose settings count: darks of flats are darks."""
    return "dark" if kind == "flat_dark" else kind


def _filter(kind: str, row: Row) -> str:
    return str(row["filter"]) if kind == "flat" else ""


def _few(words: Sequence[str]) -> tuple[int, Sequence[str]]:
    return len(words), words


def same_area(one: str, two: str) -> bool:
    """Return True if two areas of equal size are the same; an unknown one is like any."""
    return one == two or not one or not two


def holds(outer: str, inner: str) -> bool:
    """Return True if an area of the detector holds another one."""
    out, inside = _corners(outer), _corners(inner)
    if out is None or inside is None:
        return False
    return (
        out[0] <= inside[0] and inside[1] <= out[1] and out[2] <= inside[2] and inside[3] <= out[3]
    )


@lru_cache(maxsize=10_000)
def _corners(text: str) -> tuple[int, int, int, int] | None:
    match = _AREA.match(text.strip())
    if match is None:
        return None
    x1, x2, y1, y2 = (int(group) for group in match.groups())
    return min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
