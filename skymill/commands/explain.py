"""Tell the story of one file: what it is, what happened to it in each step, and why.

FILE is a raw file, a product, or the name of a frame, master, block or stack.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill.commands.project import Project, add_directory, shown
from skymill.commands.status import state
from skymill.errors import CODES, ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from skymill.commands.status import State
    from skymill.plan import Block, Choice, Plan
    from skymill.report.funnel import GroupOutcome

__all__ = ["HELP", "add_arguments", "main", "story"]

HELP = "the story of one file, frame, master or stack"

#: Products of one frame and of its whole block.
_FRAME_PRODUCTS = ("calibrated", "mask", "background")
_BLOCK_PRODUCTS = ("sources", "astrometry", "photcal", "photometry")
_INDENT = " " * 19


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="FILE", help="raw file, product or name of a frame")
    add_directory(parser)


def main(args: argparse.Namespace) -> int:
    """Print the story."""
    print("\n".join(story(Project.find(args.directory), args.file)))
    return 0


def story(project: Project, name: str) -> list[str]:
    """Return the lines of the story of a file.

    Parameters
    ----------
    project : Project
        The project.
    name : str
        Raw path, product path, or name of a frame, master, block or stack.

    Raises
    ------
    ConfigError
        If nothing bears the name; the message suggests what does.
    """
    rows = project.rows()
    now = state(project)
    plan, outcomes = now.plan, now.outcomes
    found = _frames(project, rows, name)
    if found:
        stories = [_frame(project, now, row) for row in found]
        return [line for i, one in enumerate(stories) for line in ([""] if i else []) + one]
    stem = Path(name).stem if "/" in name or name.endswith((".fits", ".parquet")) else name
    if stem in plan.masters:
        return _master(project, plan, stem, outcomes)
    if stem in plan.stacks:
        return _stack(project, plan, stem, outcomes)
    if stem in plan.blocks:
        return _block(plan, plan.blocks[stem])
    names = [row["frame_id"] for row in rows] + [row["path"] for row in rows]
    names += [*plan.masters, *plan.stacks, *plan.blocks]
    near = difflib.get_close_matches(name, names, 3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else f"see {shown(project.sheet)}"
    raise ConfigError(
        f"explain: no file, frame, master, block or stack is called {name!r}; {hint}\n"
        "A file that is newer than the sheet appears in it after `skymill ingest --update`."
    )


def _frames(project: Project, rows: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Rows that a name means: by id, by path, by path on disk, by product, by bare name."""
    stem = Path(name).name.removesuffix(".fits")
    path = Path(name).resolve()
    raw = (project.folder / project.settings.raw).resolve()
    relative = path.relative_to(raw).as_posix() if path.is_relative_to(raw) else None
    for match in (
        lambda row: row["frame_id"] in (name, stem),
        lambda row: row["path"] in (name, relative),
        lambda row: Path(row["path"]).name == name,
    ):
        if found := [row for row in rows if match(row)]:
            return found
    return []


def _frame(project: Project, now: State, row: Mapping[str, Any]) -> list[str]:
    frame = row["frame_id"]
    block = next((b for b in now.plan.blocks.values() if frame in b.frames), None)
    lines = [f"{row['path']}" + (f", HDU {row['hdu']}" if row["hdu"] else "")]
    lines += [f"  {word:<16} {text}" for word, text in _facts(row) if text]
    lines += ["", f"  {'ingest':<16} {_status(row['verdict'], row['code'], row['message'])}"]
    for outcome in now.outcomes:
        if outcome.frame_id != frame:
            continue
        lines.append(
            f"  {outcome.step:<16} {_status(outcome.status, outcome.code, outcome.message)}"
        )
        lines += _numbers(outcome.numbers)
        if outcome.step.startswith("master_"):
            lines.append(f"{_INDENT}for {outcome.group}")
    lines += [*_plan_lines(block), _end(now, frame)]
    return lines + _listed("products", _products(project, now.plan, frame, block))


def _facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    def number(key: str, unit: str, digits: int = 2) -> str:
        return "" if row[key] is None else f"{row[key]:.{digits}f}".rstrip("0").rstrip(".") + unit

    size = "" if row["nx"] is None else f"{row['nx']} x {row['ny']} px"
    binned = f", binned {row['binning']}" if row["binning"] not in ("", "1x1") else ""
    detector = ", ".join(
        part
        for part in (
            number("gain_e_adu", " electron/ADU", 3),
            number("read_noise_e", " electron read noise"),
            number("saturation_adu", " ADU saturation", 0),
            number("temperature_c", " C"),
        )
        if part
    )
    return [
        ("frame", row["frame_id"]),
        ("kind", row["kind"] or "unknown"),
        ("object", row["object"] or row["target"]),
        ("filter", row["filter"]),
        ("exposure", number("exptime_s", " s", 3)),
        ("start", f"{row['date_start']} UTC, night {row['night']}" if row["date_start"] else ""),
        ("instrument", " ".join(part for part in (row["instrument"], row["detector"]) if part)),
        ("size", size + binned),
        ("detector", detector),
        ("repaired", row["fixes"]),
    ]


def _status(status: str, codes: str, message: str) -> str:
    text = status
    if codes:
        text += f"  {codes}"
    if message:
        text += f": {message}" if codes else f"  {message}"
    elif codes:
        text += ": " + "; ".join(CODES.get(code, "unknown reason") for code in codes.split(";"))
    return text


def _numbers(numbers: Mapping[str, Any]) -> list[str]:
    """Figures as ``name = value``, a few per line."""

    def plain(value: Any) -> str:
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    words = [f"{key} = {plain(value)}" for key, value in sorted(numbers.items())]
    return [_INDENT + ", ".join(words[i : i + 4]) for i in range(0, len(words), 4)]


def _plan_lines(block: Block | None) -> list[str]:
    if block is None:
        return []
    masters = [name for name in (block.bias, block.dark, block.flat) if name]
    lines = ["", f"  {'block':<16} {block.id}", f"  {'masters':<16} {', '.join(masters) or 'none'}"]
    return lines + [f"{_INDENT}{_chosen(kind, one)}" for kind, one in block.choices.items()]


def _chosen(kind: str, choice: Choice) -> str:
    """Say why a master was taken, or why there is none."""
    if not choice.master:
        return f"no {kind}: {'; '.join(word for word in (choice.missing, choice.note) if word)}"
    words = [f"{kind}: {choice.rule}"]
    if choice.age is not None:
        later = "later" if choice.age < 0 else "earlier"
        words.append(f"{abs(choice.age)} nights {later}" if choice.age else "of the same night")
    if choice.alternatives:
        words.append(f"also fit: {', '.join(choice.alternatives)}")
    return ", ".join(words)


def _end(now: State, frame: str) -> str:
    from skymill.report.funnel import FATE_WORDS

    fate = next((fate for fate in now.funnel.fates if fate.frame_id == frame), None)
    text = f"{FATE_WORDS[fate.fate]} ({fate.step})" if fate else "not there yet: it waits"
    return f"  {'end':<16} {text}"


def _products(project: Project, plan: Plan, frame: str, block: Block | None) -> list[str]:
    if block is None:
        return []
    paths = [f"{kind}/{block.id}/{frame}.fits" for kind in _FRAME_PRODUCTS]
    paths += [f"{kind}/{block.id}.parquet" for kind in _BLOCK_PRODUCTS]
    paths += [f"stack/{s.id}.fits" for s in plan.stacks.values() if block.id in s.blocks]
    paths.append(f"lightcurves/{block.field}.parquet")
    return _existing(project, paths)


def _existing(project: Project, paths: Sequence[str]) -> list[str]:
    found = [project.results / path for path in paths]
    return [path.relative_to(project.folder).as_posix() for path in found if path.exists()]


def _listed(title: str, words: Sequence[str]) -> list[str]:
    return ["", f"  {title}", *(f"    {word}" for word in words)] if words else []


def _group(name: str, steps: Sequence[str], outcomes: Sequence[GroupOutcome]) -> list[str]:
    """Outcome of a master or stack, then those of its inputs."""
    mine = [o for o in outcomes if o.group == name and o.step in steps]
    lines = []
    for outcome in mine:
        if outcome.frame_id == name:
            text = _status(outcome.status, outcome.code, outcome.message)
            lines += [f"  {outcome.step:<16} {text}", *_numbers(outcome.numbers)]
    inputs = [
        f"{outcome.frame_id}  {_status(outcome.status, outcome.code, outcome.message)}"
        for outcome in mine
        if outcome.frame_id != name
    ]
    return (lines or ["  not made yet"]) + _listed("inputs", inputs)


def _master(project: Project, plan: Plan, name: str, outcomes: Sequence[GroupOutcome]) -> list[str]:
    master = plan.masters[name]
    lines = [name, f"  {'kind':<16} master {master.kind} of {len(master.frames)} frames"]
    lines += [f"  {key:<16} {value}" for key, value in sorted(master.key.items()) if value]
    steps = ("master_bias", "master_dark", "master_flat")
    lines += ["", *_group(name, steps, outcomes)]
    users = [b.id for b in plan.blocks.values() if name in (b.bias, b.dark, b.flat)]
    users += [m.id for m in plan.masters.values() if name in (m.bias, m.dark)]
    lines += _listed("used by", users)
    return lines + _listed("product", _existing(project, [f"masters/{name}.fits"]))


def _stack(project: Project, plan: Plan, name: str, outcomes: Sequence[GroupOutcome]) -> list[str]:
    stack = plan.stacks[name]
    place = f"tile {stack.tile}" if stack.tile else f"field {stack.field}"
    lines = [name, f"  {'stack':<16} {place}, filter {stack.filter}, {stack.epoch}"]
    lines += ["", *_group(name, ("stack", "catalog"), outcomes)]
    paths = [f"stack/{name}.fits", f"catalog/{name}.parquet"]
    return lines + _listed("products", _existing(project, paths))


def _block(plan: Plan, block: Block) -> list[str]:
    lines = [block.id, f"  {'block':<16} {block.target}, filter {block.filter}, {block.night}"]
    lines += _plan_lines(block)[2:]
    return lines + _listed("frames", [f"{f}  {plan.rows[f]['path']}" for f in block.frames])
