"""Masks and backgrounds of each block: figures of all frames, pictures of one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from skymill.errors import SkymillError
from skymill.frame import Background, Frame, MaskBit
from skymill.report.model import BlockView, FrameRow
from skymill.report.pictures import make_overlay, make_picture, shrink

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from skymill.report.funnel import GroupOutcome
    from skymill.report.pictures import Picture

__all__ = ["MASK_COLOURS", "cell_picture", "load_blocks", "mask_picture", "noise_meaning"]

_UNREADABLE = (OSError, KeyError, ValueError, SkymillError)
_FOUND = (MaskBit.COSMIC, MaskBit.TRAIL, MaskBit.BLEED, MaskBit.SATURATED)
#: Layers of a mask, the lowest first: class of the page's style, name, bits, colour.
MASK_COLOURS: tuple[tuple[str, str, MaskBit, str], ...] = (
    ("m-bad", "bad pixel", MaskBit.bad() & ~np.bitwise_or.reduce(_FOUND), "4f7dff"),
    ("m-saturated", "saturated", MaskBit.SATURATED, "ffe23a"),
    ("m-bleed", "bleed", MaskBit.BLEED, "ff8a1f"),
    ("m-trail", "trail", MaskBit.TRAIL, "22d3ee"),
    ("m-cosmic", "cosmic ray", MaskBit.COSMIC, "ff3fb4"),
)
_BOX_COLOUR = "4fd1a5"
_SMALL = 220
_SCORE = ("n_cosmic_px", "n_trail_px", "n_bleed_px", "n_saturated_px")
#: Figures of the mask step that are summed, and their names.
_SUMS = {
    "n_cosmics": "cosmic rays",
    "n_cosmics_confirmed": "confirmed by the next frame",
    "n_cosmics_refuted": "refuted by it",
    "n_trails": "trails",
    "n_bleeds": "bleeds",
}
#: Ratios of measured to propagated noise that nearer to 1 need no remark.
_TRUE, _NEARLY = 0.03, 0.1


def load_blocks(
    results: Path,
    outcomes: Sequence[GroupOutcome],
    frames: Mapping[str, FrameRow],
    max_pictures: int,
    missing: list[str],
) -> tuple[BlockView, ...]:
    """Return one view per block that was masked, with pictures of the first ones.

    Parameters
    ----------
    results : Path
        Folder of the products.
    outcomes : sequence of GroupOutcome
        All outcomes.
    frames : mapping
        Frame id to row.
    max_pictures : int
        Most blocks of which a frame is read.
    missing : list of str
        Sentences about what could not be read are added to it.
    """
    steps: dict[str, dict[str, list[GroupOutcome]]] = {"mask": {}, "background": {}}
    for outcome in outcomes:
        if outcome.step in steps and outcome.group and outcome.usable:
            steps[outcome.step].setdefault(outcome.group, []).append(outcome)
    shown = min(max_pictures, len(steps["mask"]))
    # Large pictures for few blocks, smaller ones for many: the page stays a few MB.
    size = 640 if shown <= 3 else 440 if shown <= 8 else 300
    views: list[BlockView] = []
    for name, masked in sorted(steps["mask"].items()):
        view = _facts(name, masked, steps["background"].get(name, []), frames)
        if len(views) < max_pictures:
            view = _with_pictures(view, results, size, missing)
        views.append(view)
    return tuple(views)


def noise_meaning(ratio: float) -> str:
    """Say in words what a ratio of measured to propagated noise tells."""
    if abs(ratio - 1) <= _TRUE:
        return "the errors are true"
    if abs(ratio - 1) <= _NEARLY:
        return "the errors are nearly true"
    if ratio > 1:
        return (
            "the sky scatters more than its errors: gain too high or read noise too low in the "
            "instrument file, or patterns and faint sources in the sky"
        )
    return (
        "the sky scatters less than its errors: gain too low or read noise too high in the "
        "instrument file, or pixels that were smoothed"
    )


def mask_picture(frame: Frame, size: int, alt: str = "") -> Picture:
    """Return a grey picture of a frame with its mask in the colours of `MASK_COLOURS`.

    Parameters
    ----------
    frame : Frame
        Frame with its final mask.
    size : int
        Longest side of the picture in px. Where several pixels become one, hits, trails,
        bleeds and saturation show if any of them has the bit; bad pixels if a whole row or
        column of them has.
    alt : str
        Text for those who do not see the picture.
    """
    step = -(-max(frame.shape) // size)
    rows, columns = (np.arange(0, n, step) for n in frame.shape)
    some = np.bitwise_or.reduceat(np.bitwise_or.reduceat(frame.mask, rows, axis=0), columns, axis=1)
    layers = []
    for css, _, bits, colour in MASK_COLOURS:
        if css == "m-bad":
            share = shrink(((frame.mask & np.uint16(int(bits))) != 0).astype(np.float32), size)
            where = share > 0.99 / step
        else:
            where = (some & np.uint16(int(bits))) != 0
        layers.append((colour, where))
    return make_overlay(_visible(frame), layers, max_size=size, levels=56, alt=alt)


def cell_picture(frame: Frame, background: Background, size: int, alt: str = "") -> Picture:
    """Return a grey picture of a frame with the borders between the cells of its background.

    Parameters
    ----------
    frame, background : Frame, Background
        Frame with its final mask, and its background.
    size : int
        Longest side of the picture in px.
    alt : str
        Text for those who do not see the picture.
    """
    lines = _cell_borders(background, size)
    return make_overlay(
        _visible(frame), [(_BOX_COLOUR, lines)], stretch="zscale", max_size=size, levels=40, alt=alt
    )


def _visible(frame: Frame) -> NDArray[np.floating]:
    """The image without values that would spoil the stretch."""
    bad = np.uint16(int(MaskBit.NO_DATA | MaskBit.HOT | MaskBit.COLD | MaskBit.DEAD))
    clean = np.where((frame.mask & bad) != 0, np.nan, frame.sci)
    return clean if np.isfinite(clean).any() else frame.sci


def _facts(
    name: str,
    masked: Sequence[GroupOutcome],
    measured: Sequence[GroupOutcome],
    frames: Mapping[str, FrameRow],
) -> BlockView:
    best = max(masked, key=lambda o: sum(_whole(o, key) for key in _SCORE))
    about = frames.get(best.frame_id)
    # where the background is poor, faint sources are taken for noise: that judges no error
    sound = [o for o in measured if "BKG_POOR" not in o.code.split(";")]
    values = [o.numbers.get("err_ratio") for o in sound]
    ratios = sorted(float(v) for v in values if isinstance(v, int | float) and np.isfinite(v))
    sums: dict[str, int] = defaultdict(int)
    for outcome in masked:
        for key, words in _SUMS.items():
            if key in outcome.numbers:
                sums[words] += _whole(outcome, key)
    view = BlockView(
        name, n_masked=len(masked), n_frames=len(ratios), sums=dict(sums), frame_id=best.frame_id
    )
    if ratios:
        view = replace(view, ratios=(ratios[0], float(np.median(ratios)), ratios[-1]))
    if about is None:
        return view
    return replace(
        view, target=about.target, filter=about.filter, night=about.night,
        instrument=about.instrument,
    )  # fmt: skip


def _whole(outcome: GroupOutcome, key: str) -> int:
    value = outcome.numbers.get(key)
    return int(value) if isinstance(value, int | float) and np.isfinite(value) else 0


def _with_pictures(view: BlockView, results: Path, size: int, missing: list[str]) -> BlockView:
    from skymill.io import read_background, read_frame, read_mask

    place = f"{view.name}/{view.frame_id}.fits"
    if not all((results / step / place).is_file() for step in ("calibrated", "mask")):
        return view
    try:
        frame = read_frame(results / "calibrated" / place)
        frame = frame.replace(mask=read_mask(results / "mask" / place))
    except _UNREADABLE as error:
        missing.append(f"The frame {view.frame_id} could not be read: {type(error).__name__}")
        return view
    ny, nx = frame.shape
    counts = [
        (css, name, int(np.count_nonzero(frame.mask & np.uint16(int(bits)))))
        for css, name, bits, _ in reversed(MASK_COLOURS)
    ]
    told = ", ".join(f"{n} {name}" for _, name, n in counts if n) or "nothing masked"
    alt = f"Frame {view.frame_id}, {nx} × {ny} pixels, with its mask in pixels: {told}"
    view = replace(
        view, picture=mask_picture(frame, size, alt), layers=tuple(counts), shape=frame.shape
    )
    path = results / "background" / place
    if not path.is_file():
        return view
    try:
        return _with_background(view, frame, read_background(path))
    except _UNREADABLE as error:
        missing.append(f"The background {view.frame_id} could not be read: {type(error).__name__}")
        return view


def _with_background(view: BlockView, frame: Frame, background: Background) -> BlockView:
    whose = f"the background of {view.frame_id}"
    boxes = cell_picture(
        frame, background, _SMALL, f"Cells of {whose}, {background.box_size_px} px, over the frame"
    )
    level, rms = (
        make_picture(
            plane, stretch="linear", cmap=cmap, max_size=_SMALL, levels=48, alt=f"{name} of {whose}"
        )
        for plane, cmap, name in (
            (background.level_map(), "viridis", "Level"),
            (background.rms_map(), "ember", "Scatter"),
        )
    )
    return replace(
        view, boxes=boxes, level=level, rms=rms, model=background.model,
        box_size_px=background.box_size_px,
    )  # fmt: skip


def _cell_borders(background: Background, size: int) -> NDArray[np.bool_]:
    """Where the borders between cells lie in a picture of at most ``size`` px."""
    step = -(-max(background.shape) // size)
    box = background.box_size_px
    lines = []
    for n in background.shape:
        start = np.arange(0, n, step)
        # a display pixel is on a border if a cell begins in it; not at the rim
        first = -(-start // box) * box
        line = (first < np.minimum(start + step, n)) & (first > 0)
        lines.append(line if box >= 4 * step else np.zeros_like(line))
    return lines[0][:, None] | lines[1][None, :]
