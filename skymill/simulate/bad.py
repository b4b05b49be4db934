"""Bad frames on request: each adds one file to the night and spoils none of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skymill.errors import ConfigError

# The recipes enter themselves into the registry.
from skymill.simulate import bad_cards, bad_files, bad_pixels  # noqa: F401
from skymill.simulate.bad_kit import REGISTRY, BadFrame, Kit

if TYPE_CHECKING:
    from pathlib import Path

    from skymill.simulate.simulator import Simulator
    from skymill.simulate.truth import TruthWriter

__all__ = ["BAD_FRAMES", "BadFrame", "bad_table", "find_bad", "write_bad"]

#: All bad frames by name, in the order of the list of hazards.
BAD_FRAMES: dict[str, BadFrame] = dict(
    sorted(REGISTRY.items(), key=lambda item: (item[1].hazard, item[0]))
)


def find_bad(name: str) -> BadFrame:
    """Return a bad frame by its name, or by its hazard number if only one has it.

    Raises
    ------
    ConfigError
        If there is none, or several.
    """
    if name in BAD_FRAMES:
        return BAD_FRAMES[name]
    found = [bad for bad in BAD_FRAMES.values() if bad.hazard == name]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(bad.name for bad in found)
        raise ConfigError(f"simulate: several bad frames show {name}; name one of {names}")
    raise ConfigError(f"simulate: no bad frame {name!r}; there are {', '.join(BAD_FRAMES)}")


def write_bad(
    bad: BadFrame, number: int, simulator: Simulator, night: Path, truth: TruthWriter
) -> None:
    """Write a bad frame and note it in the truth.

    Parameters
    ----------
    bad : BadFrame
        What to write.
    number : int
        Its place in ``NightConfig.bad``, which gives its time.
    simulator : Simulator
        Makes the frame that is damaged.
    night : Path
        Where to write.
    truth : TruthWriter
        A frame that must be reduced all the same is also noted as a good frame.
    """
    kit = Kit(bad, number, simulator, night)
    path = bad.make(kit)
    if bad.good and kit.truth is not None:
        truth.light(kit.truth, path)
    truth.odd(
        {
            "name": bad.name,
            "hazard": bad.hazard,
            "why": bad.why,
            "good": bad.good,
            "expected": {"statuses": list(bad.statuses), "codes": list(bad.codes)},
        },
        path,
    )


def bad_table() -> str:
    """Return all bad frames as a Markdown table for docs/simulate.md."""
    lines = ["| name | hazard | what is wrong | used | codes, any of |", "|---|---|---|---|---|"]
    for bad in BAD_FRAMES.values():
        used = "yes" if bad.good else "no" if bad.statuses == ("rejected",) else "may be"
        codes = " ".join(bad.codes) or "none needed"
        lines.append(f"| `{bad.name}` | {bad.hazard} | {bad.why} | {used} | {codes} |")
    return "\n".join(lines)
