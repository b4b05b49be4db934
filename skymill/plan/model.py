"""What a plan consists of: masters, blocks, stacks and fields, by identifier."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as default
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skymill.errors import Outcome

__all__ = ["Block", "Choice", "Field", "MasterPlan", "Plan", "Row", "Stack"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """Which master was chosen for some frames, and why, or why there is none.

    Parameters
    ----------
    master : str
        Identifier or file of the master; empty if there is none.
    age : int or None
        Nights from the nearest night of the master to that of the frames, negative if the
        master is later; None for a file or without a master.
    rule : str
        ``nearest``; ``exact``, ``longer`` or ``shorter`` for a dark by its exposure;
        ``cropped`` for the master of a larger area; ``assigned`` by the sheet. Without a
        master ``none`` if it was not wanted, ``bias_only`` if the policy says so, else
        empty: it is missing.
    alternatives : tuple of str
        Other masters that fit, best first.
    missing : str
        Why there is none: depends on the masters within the window only, so that a
        far night changes nothing.
    note : str
        What lies beyond the window.
    flag : tuple of str
        Reason code and sentence of what is not as it should be; empty if all is well.
    """

    master: str = ""
    age: int | None = None
    rule: str = ""
    alternatives: tuple[str, ...] = ()
    missing: str = ""
    note: str = ""
    flag: tuple[str, ...] = ()

    def for_job(self) -> dict[str, Any]:
        """Return what a product tells of the choice, as plain values.

        Alternatives are left out: another night would change them, but not the product.
        """
        return {
            "master": self.master,
            "age": self.age,
            "rule": self.rule,
            "flag": list(self.flag),
        }


@dataclass(frozen=True)
class MasterPlan:
    """One master to make.

    Parameters
    ----------
    id, kind : str
        Identifier; ``bias``, ``dark``, ``flat_dark`` or ``flat``.
    frames : tuple of str
        Frame ids of the inputs, in order of time.
    bias, dark : str
        Masters (identifiers or files) that its own frames are corrected with; empty if
        there is none.
    key : dict
        What the inputs have in common.
    nights : tuple of str
        Nights of the inputs; several if nights were pooled.
    choices : dict
        Kind to `Choice` of the masters that it needs.
    """

    id: str
    kind: str
    frames: tuple[str, ...]
    key: dict[str, Any]
    bias: str = ""
    dark: str = ""
    nights: tuple[str, ...] = ()
    choices: dict[str, Choice] = default(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """The light frames that one job processes.

    ``missing`` says in plain words why a calibration was not found: kind to sentence;
    ``choices`` tells why each master was taken.
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
    choices: dict[str, Choice] = default(default_factory=dict)


@dataclass(frozen=True)
class Stack:
    """One field, or tile of the sky, and one filter and epoch on one pixel grid.

    Parameters
    ----------
    id, field, filter : str
        Identifier; field, empty for a tile; filter.
    epoch : str
        ``all``, a night, or a window as ``<first night>+<nights>d``.
    blocks : tuple of str
        Blocks whose frames go into it; of a tile, those that may touch it.
    tile : str
        Identifier of the tile, see `skymill.tiles`; empty for a field.
    """

    id: str
    field: str
    filter: str
    epoch: str
    blocks: tuple[str, ...]
    tile: str = ""


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


def identifier(parts: Sequence[Any], key: object) -> str:
    """Return readable parts, and a hash of everything that makes the thing what it is."""
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:8]
    words = [str(part)[:24] for part in parts if part]
    # A name must not look like a hidden file or an option, whatever a target is called.
    return "-".join([*words, digest]).lstrip(".-")


@lru_cache(maxsize=100_000)
def ordinal(night: str) -> int:
    """Return the number of a night, such that the next one has the next number."""
    return date.fromisoformat(night).toordinal()


def in_time(row: Row) -> tuple[float, str]:
    """Return what rows are sorted by."""
    return (row["mjd_start"] or 0.0, row["frame_id"])


def rounded(value: float | None) -> float | None:
    """Return three digits: exposures that differ by less than a per mille are the same."""
    return None if value is None else float(f"{value:.3g}")
