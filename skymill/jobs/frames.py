"""Reading a frame of a block with what earlier steps added to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill import io

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skymill.frame import Background, Frame

__all__ = ["frame_file", "frame_folders", "load_background", "load_frame", "origin"]


def frame_file(folder: str | Path, frame_id: Any) -> Path:
    """Return the file of a frame in the folder of a block."""
    return Path(folder) / f"{frame_id}.fits"


def frame_folders(*kinds: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return for each frame the folders of its block, one of each kind.

    Parameters
    ----------
    *kinds : sequence of str
        Folders of the blocks, in one order; those of the first kind name the frames.
    """
    return {
        path.stem: folders
        for folders in zip(*kinds, strict=True)
        for path in sorted(Path(folders[0]).glob("*.fits"))
    }


def load_frame(calibrated: str | Path, masks: str | Path | None, frame_id: Any) -> Frame:
    """Read a calibrated frame, with its final mask if there is one."""
    mask = None if masks is None else frame_file(masks, frame_id)
    return io.read_frame(frame_file(calibrated, frame_id), mask)


def load_background(backgrounds: str | Path, frame_id: Any) -> Background:
    """Read the background meshes of a frame."""
    return io.read_background(frame_file(backgrounds, frame_id))


def origin(frame_id: Any, *folders: str | Path) -> dict[str, str]:
    """Return the inputs of a product: name of each plane's folder to its checksum."""
    return {
        f"{Path(folder).parent.name}/{frame_id}": io.data_digest(frame_file(folder, frame_id))
        for folder in folders
    }
