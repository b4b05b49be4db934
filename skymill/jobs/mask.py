"""Rule mask: the final mask of every frame of a block."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skymill import io, provenance
from skymill.block import latest_outcomes, run_block
from skymill.errors import Result
from skymill.frame import Frame, MaskBit
from skymill.jobs.frames import frame_file, load_frame, origin
from skymill.jobs.neighbours import Window
from skymill.kernels.bits import flagged
from skymill.masks import apply_user_masks
from skymill.steps.cosmic_check import Sight, check_cosmics, link, settle, sight
from skymill.steps.mask import mask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["mask_block"]


def mask_block(
    *,
    rows: Sequence[Mapping[str, Any]],
    calibrated: str | Path,
    upstream: str | Path,
    masks: str | Path,
    outcomes: str | Path,
    settings: Mapping[str, Any],
    code: str,
    threads: int,
) -> None:
    """Mask the frames of a block.

    Parameters
    ----------
    rows : sequence of dict
        Sheet rows of the frames.
    calibrated : str or Path
        Folder of the calibrated frames.
    upstream : str or Path
        Outcomes of ``calibrate``.
    masks, outcomes : str or Path
        Folder of the masks and table of outcomes to write.
    settings : mapping
        Settings of the step; files of user masks are relative to the working folder.
    code : str
        Fingerprint of the code.
    threads : int
        Frames worked on at a time.
    """
    Path(masks).mkdir(parents=True, exist_ok=True)
    options = _options(settings)
    digests = {given["file"]: io.file_digest(given["file"]) for given in settings["user_masks"]}

    before = latest_outcomes([upstream])
    usable = [r for r in rows if (o := before.get(str(r["frame_id"]))) is None or o.usable]
    places = {str(row["frame_id"]): place for place, row in enumerate(usable)}
    compare = settings["check"] == "neighbours" and settings["cosmics"] and len(usable) > 1

    def make(place: int) -> _Masked:
        name = str(usable[place]["frame_id"])
        frame = load_frame(calibrated, None, name)
        given = _user_masks(usable[place], settings)
        bits = apply_user_masks(frame, given, Path()) if given else None
        result = mask(frame, user_bits=bits, **options)
        known = frame.mask if bits is None else frame.mask | bits
        seen = sight(frame, result.value) if compare else None
        inputs = {g["file"]: digests[g["file"]] for g in given}
        spared = flagged(known, np.uint16(int(MaskBit.COSMIC)))
        return _Masked(name, frame, result, spared, inputs, origin(name, calibrated), seen)

    window = Window(make, len(usable))

    def work(row: Mapping[str, Any]) -> Result[bool]:
        place = places[str(row["frame_id"])]
        try:
            own = window.get(place)
            result, used = _checked(own, window.around(place)) if compare else (own.result, [])
        finally:
            window.done(place)
        inputs = own.inputs | own.origin
        for other in used:
            inputs |= other.origin
        cards = provenance.cards("mask", code=code, settings=settings, inputs=inputs)
        io.write_mask(frame_file(masks, own.name), result.value, own.frame, cards)
        return Result(True, result.flags, result.numbers)

    run_block("mask", rows, work, outcomes=outcomes, upstream=[upstream], threads=threads)


class _Masked(NamedTuple):
    """A frame with the mask of its own, before it is compared with others."""

    name: str
    frame: Frame
    result: Result[NDArray[np.uint16]]
    #: COSMIC of masters and users, which no comparison takes back.
    spared: NDArray[np.bool_]
    inputs: dict[str, str]
    origin: dict[str, str]
    seen: Sight | None


def _checked(
    own: _Masked, others: Sequence[_Masked]
) -> tuple[Result[NDArray[np.uint16]], list[_Masked]]:
    """Compare the hits of a frame with its neighbours; return those that could tell too."""
    hits = flagged(own.result.value, np.uint16(int(MaskBit.COSMIC)))
    hits &= ~own.spared
    known = [(o, o.seen, link(own.seen, o.seen)) for o in others if own.seen and o.seen]
    if own.seen is None:
        return own.result, []
    found = check_cosmics(own.seen, hits, [(seen, how) for _, seen, how in known])
    return settle(own.result, hits, found), [other for other, _, how in known if how is not None]


def _options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings as keyword arguments of the step."""
    start = "trail_"
    ours = ("user_masks", "check")
    options = {k: v for k, v in settings.items() if k not in ours and not k.startswith(start)}
    trails = {k.removeprefix(start): v for k, v in settings.items() if k.startswith(start)}
    return options | {"trail_options": trails}


def _user_masks(row: Mapping[str, Any], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the user masks that may hold for a frame, without their targets."""
    names = [str(row.get(key) or "") for key in ("target", "object")]
    chosen = []
    for given in settings["user_masks"]:
        if any(fnmatchcase(name, pattern) for name in names for pattern in given["targets"]):
            spec = {key: value for key, value in given.items() if key != "targets"}
            if isinstance(spec["bits"], dict):  # the keys of JSON are text
                spec["bits"] = {int(key): value for key, value in spec["bits"].items()}
            chosen.append(spec)
    return chosen
