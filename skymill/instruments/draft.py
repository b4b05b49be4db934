"""A first instrument file from a folder of frames, with everything marked that was guessed."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Any

import yaml

from skymill.errors import ConfigError
from skymill.instruments.draft_detector import detector_entries
from skymill.instruments.draft_time import time_entries
from skymill.instruments.draft_words import Entry, count, found_keywords, where
from skymill.instruments.find import load_instrument
from skymill.instruments.model import Instrument
from skymill.instruments.survey import plain_value

if TYPE_CHECKING:
    from skymill.instruments.survey import Shot, Survey

__all__ = ["draft"]

_WIDTH = 98
_NAMES = ("INSTRUME", "TELESCOP", "DETECTOR", "CAMERA", "CAMERAID")
_NO_NAME = ("", "unknown", "none", "n/a", "na", "unknown telescope", "unknown instrument")


def draft(survey: Survey, name: str) -> str:
    """Return the text of an instrument file for the frames of a survey.

    Parameters
    ----------
    survey : Survey
        What was seen.
    name : str
        Name of the instrument.

    Returns
    -------
    str
        YAML that loads; comments say what was guessed, and from how many frames.

    Raises
    ------
    ConfigError
        If the name is not valid.
    """
    entries = [
        Entry("name", name),
        Entry("description", _description(survey) or name),
        _match(survey),
        *_hdu(survey),
        *_kinds(survey),
        *_texts(survey),
        *time_entries(survey),
        *detector_entries(survey),
        *_rest(survey),
    ]
    text = f"# First draft of an instrument file, made from {count(survey.shots)}.\n"
    text += "# Check what is marked as guessed, then run `skymill instrument check`.\n"
    text += "".join(_lines(entry) for entry in entries)
    try:
        Instrument.model_validate(yaml.safe_load(text))
    except ValueError as error:
        raise ConfigError(f"instrument draft: the file would not be valid: {error}") from None
    return text


def _lines(entry: Entry) -> str:
    out = ""
    if entry.said:
        mark = "# guessed: " if entry.key else "# "
        for line in textwrap.wrap(entry.said, _WIDTH - len(mark), break_long_words=False):
            out += f"{mark}{line}\n"
            mark = "#   "
    if not entry.key:
        return out
    if not entry.items:
        return out + f"{entry.key}: {_inline(entry.value)}\n"
    out += f"{entry.key}:\n"
    for value, said in entry.items:
        out += f"  - {_inline(value)}" + (f"  # guessed: {said}" if said else "") + "\n"
    return out


def _inline(value: Any) -> str:
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True
    )
    return text.removesuffix("...\n").strip()


def _description(survey: Survey) -> str:
    parts = [_constant(survey, key) for key in ("TELESCOP", "INSTRUME")]
    return ", ".join(str(p) for p in parts if p)


def _constant(survey: Survey, keyword: str) -> str:
    """Value that a keyword has in all frames, '' if there is none that means anything."""
    values = survey.values(keyword)
    if len(values) != 1 or len(survey.having(keyword)) < len(survey.shots):
        return ""
    value = next(iter(values))
    return "" if value.casefold() in _NO_NAME else value


def _match(survey: Survey) -> Entry:
    conditions: dict[str, Any] = {}
    for keyword in _NAMES:
        value = _constant(survey, keyword)
        if value and len(conditions) < 2:
            conditions[keyword] = plain_value(value)
    if not conditions:
        program = _constant(survey, "SWCREATE") or _constant(survey, "CREATOR")
        key = "SWCREATE" if _constant(survey, "SWCREATE") else "CREATOR"
        word = re.match(r"[^\d]*[A-Za-z.]", program)
        if word:
            conditions[key] = f"{plain_value(word[0].strip())}*"
    if not conditions:
        return Entry(
            "match", [],
            "no card tells this camera from others; name the instrument with `skymill init "
            "--instrument`",
        )  # fmt: skip
    said = f"these cards are the same in all {count(survey.shots)}"
    return Entry("match", items=((conditions, ""),), said=said)


def _hdu(survey: Survey) -> list[Entry]:
    several = [shot for shot in survey.shots if shot.images > 1]
    if not several:
        return []
    number = len({shot.path for shot in several})
    if not all(shot.text("DETSEC") or shot.text("CCDSEC") for shot in several):
        said = f"{number} files hold several images; each is taken as a frame of its own"
        return [Entry("hdu", "each", said)]
    said = (
        f"{number} files hold several images with DETSEC or CCDSEC: they are put together to one "
        "frame. If they are different detectors, use `hdu: each` without amplifiers"
    )
    return [Entry("hdu", "amplifiers", said)]


def _kinds(survey: Survey) -> list[Entry]:
    """Rules for the kind of frame: those with more conditions first."""
    groups: dict[tuple[Any, ...], list[Shot]] = {}
    for shot in survey.shots:
        guess = shot.guess
        if guess.kind:
            # Values of the first card are collected; further conditions are kept apart.
            pairs: list[tuple[str, Any]] = list(guess.when.items()) or [("", "")]
            first, more = pairs[0], pairs[1:]
            key = (guess.kind, guess.file, first[0], tuple(more), guess.reason)
            groups.setdefault(key, []).append(shot)
    items = []
    for key in sorted(groups, key=lambda k: (-len(k[3]), bool(k[1]), str(k))):
        kind, file, keyword, others, reason = key
        rule: dict[str, Any] = {"kind": kind}
        if keyword:
            values = sorted({s.guess.when[keyword] for s in groups[key]}, key=str)
            rule["when"] = {keyword: values[0] if len(values) == 1 else values, **dict(others)}
        if file:
            rule["file"] = file
        items.append((rule, f"{count(groups[key])}" + (f"; {reason}" if reason else "")))
    entries = [Entry("kinds", items=tuple(items))] if items else [Entry("kinds", [])]
    unknown = survey.of("")
    if unknown:
        names = ", ".join(shot.path for shot in unknown[:4])
        entries.append(
            Entry("", said=f"not known: the kind of {count(unknown)} ({names}, ...). Tell it with "
                  "`--kind KIND=PATTERN` of file names, by rules above, or by overrides.")
        )  # fmt: skip
    return entries


def _texts(survey: Survey) -> list[Entry]:
    entries = []
    found = found_keywords(survey, "object")
    if found:
        entries.append(Entry("object", {"keywords": [k for k, _ in found]}, where(found, survey)))
    entries += _filter(survey)
    found = [f for f in found_keywords(survey, "mode") if len(survey.values(f[0])) > 0]
    if found:
        said = f"{where(found, survey)}; frames of different modes never calibrate each other"
        entries.append(Entry("mode", [{"keywords": [key]} for key, _ in found], said))
    origin = ["XORGSUBF", "YORGSUBF"]
    if all(survey.having(key) for key in origin):
        entries.append(Entry("subframe", origin, "the origin of sub-frames"))
    several = [k for k in _NAMES if len(survey.values(k)) > 1]
    if several:
        said = f"{several[0]} has {len(survey.values(several[0]))} values"
        entries.append(Entry("detector", {"keywords": several[:1]}, said))
    return entries


def _filter(survey: Survey) -> list[Entry]:
    # The keyword that most frames have; the order of trust decides between equals.
    found = sorted(found_keywords(survey, "filter"), key=lambda f: -f[1])
    if not found:
        return [Entry("", said="not known: filter; no card names it")]
    lit = survey.of("light", "flat") or survey.shots
    names = Counter(shot.text(found[0][0]) for shot in lit)
    shown = ", ".join(f"{name or 'none'} ({n})" for name, n in names.most_common(8))
    wheels = [key for key, _ in found if re.fullmatch(r"FILTER[12]", key)]
    if found[0][0] in wheels and len(wheels) == 2:
        value: dict[str, Any] = {"keywords": wheels, "combine": True}
        return [Entry("filter", value, f"two wheels; {where(found, survey)}")]
    said = f"{where(found, survey)}; {found[0][0]} is {shown}"
    # More than one keyword is only of use where the first is missing.
    keys = [k for k, _ in found] if found[0][1] < len(survey.shots) else [found[0][0]]
    known = load_instrument("generic").filter.aliases
    value = {"keywords": keys}
    aliases = {name: known[name] for name in names if name in known}
    if aliases:
        value["aliases"] = aliases
    return [Entry("filter", value, said)]


def _rest(survey: Survey) -> list[Entry]:
    entries = []
    if found_keywords(survey, "bayer"):
        found = found_keywords(survey, "bayer")
        entries.append(Entry("bayer", {"keywords": [k for k, _ in found]}, where(found, survey)))
    number = len(survey.of("dark"))
    value = "needed" if number else "optional"
    said = f"there are {number} dark frames" + ("" if number else "; `needed` if darks matter")
    entries.append(Entry("dark", value, said))
    return entries
