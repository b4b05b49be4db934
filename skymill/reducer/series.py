"""The sequences of a folder: frames of one camera and filter, by ``camera:filter``."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skymill.plan import Plan

__all__ = ["Sequence", "camera_of", "find_sequences"]


@dataclass(frozen=True)
class Sequence:
    """Frames of one camera, filter and field.

    Parameters
    ----------
    key : str
        ``camera:filter``; with the target added where a camera saw several fields.
    camera, filter : str
        Camera and filter.
    field, stack : str
        Field and stack of the plan; the stack is empty if none is planned.
    blocks : tuple of str
        Blocks of the plan.
    frames : tuple of str
        Frame ids in order of time.
    """

    key: str
    camera: str
    filter: str
    field: str
    stack: str
    blocks: tuple[str, ...]
    frames: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """The key as part of the name of a file."""
        return self.key.replace(":", "_").replace("/", "_").replace(" ", "_")


def camera_of(row: Mapping[str, Any]) -> str:
    """Return the camera of a frame: its detector if headers tell one, else its instrument."""
    detector, channel = str(row.get("detector") or ""), str(row.get("channel") or "")
    camera = (detector or str(row.get("instrument") or "camera")).strip()
    # A colon divides camera and filter.
    camera = camera.replace(":", "_")
    colour = channel.partition("[")[0]
    return f"{camera}/{colour}" if colour and not row.get("filter") else camera


def find_sequences(plan: Plan) -> dict[str, Sequence]:
    """Return the sequences of a plan, sorted by key."""
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    targets: dict[str, str] = {name: item.target for name, item in plan.fields.items()}
    for name in sorted(plan.blocks):
        block = plan.blocks[name]
        row = plan.rows[block.frames[0]]
        groups[camera_of(row), block.filter, block.field].append(name)
    many = Counter((camera, filter_) for camera, filter_, _ in groups)
    same = Counter((camera, filter_, targets.get(f, "")) for camera, filter_, f in groups)
    stacks = {
        (stack.field, stack.filter): stack.id
        for stack in plan.stacks.values()
        if stack.epoch == "all" and not stack.tile
    }
    out = {}
    for (camera, filter_, field), blocks in groups.items():
        key = f"{camera}:{filter_}"
        if many[camera, filter_] > 1:
            unique = same[camera, filter_, targets.get(field, "")] == 1
            key += f":{targets.get(field, field) if unique else field}"
        frames = [frame for block in blocks for frame in plan.blocks[block].frames]
        frames.sort(key=lambda name: (plan.rows[name]["mjd_start"] or 0.0, name))
        out[key] = Sequence(
            key, camera, filter_, field, stacks.get((field, filter_), ""), tuple(blocks),
            tuple(frames),
        )  # fmt: skip
    return dict(sorted(out.items()))
