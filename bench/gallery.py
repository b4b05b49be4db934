"""Draw the pictures of docs/gallery.md from a simulated night: the same bytes every time.

``python -m bench.gallery`` simulates a small night with a satellite trail, cosmic rays and
a star that bleeds, reduces it, and draws its third frame at every stage.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from scipy import ndimage

from bench.runs import BUILD, ROOT, project, skymill
from skymill import io
from skymill.frame import Frame, MaskBit, has_bits
from skymill.report.blocks import cell_picture, mask_picture
from skymill.report.pictures import make_picture
from skymill.simulate import NightConfig, simulate_night

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

GALLERY = ROOT / "docs" / "gallery"
SIZE, LEVELS = 320, 40
#: Side of a cut-out (px), and how often each of its pixels is repeated.
CUT_PX, ENLARGED = 60, 4
#: All pictures together stay below this.
MOST_BYTES = 400_000
#: The frame with the trail.
SHOWN = 2

CONFIG = NightConfig(
    seed=20260401, shape=(600, 600), n_bias=5, n_dark=3, n_flat=5, n_light=4, n_stars=260,
    mag_bright=8.5, mag_faint=18.5, count_slope=0.15, full_well_e=80_000.0,
    trails=(SHOWN,), trail_peak_e=250.0, cosmic_rate_mpx_s=3.0, wcs="offset",
)  # fmt: skip


def main() -> None:
    """Simulate, reduce and draw."""
    place = BUILD / "gallery"
    shutil.rmtree(place, ignore_errors=True)
    simulate_night(place / "night", CONFIG)
    work = project(place / "project", place / "night" / "raw",
                   reference=place / "night" / "truth" / "reference.csv")  # fmt: skip
    skymill("run", "-d", work, "--cores", 1)
    draw(place / "night" / "raw", work / "results", GALLERY)


def draw(raw: Path, results: Path, folder: Path) -> None:
    """Write the pictures.

    Parameters
    ----------
    raw : Path
        Folder of the raw night.
    results : Path
        Products of its reduction.
    folder : Path
        Where the pictures go; others there are removed.

    Raises
    ------
    ValueError
        If the pictures are too large together.
    """
    name = sorted((results / "calibrated").glob("*/*.fits"))[SHOWN]
    place = f"{name.parent.name}/{name.name}"
    frame = io.read_frame(name)
    frame = frame.replace(mask=io.read_mask(results / "mask" / place))
    background = io.read_background(results / "background" / place)
    stem = name.stem.rsplit("-", 1)[0]
    (path,) = raw.rglob(f"{stem}.fits*")
    pictures = {
        "raw": _grey(np.asarray(fits.getdata(path), np.float32)),
        "calibrated": _grey(frame.sci),
        "mask": mask_picture(frame, SIZE).png,
        "cosmic_ray": _cut(frame, _largest(frame, MaskBit.COSMIC)),
        "trail": _cut(frame, _middle(frame, MaskBit.TRAIL)),
        "bleed": _cut(frame, _largest(frame, MaskBit.BLEED)),
        "cells": cell_picture(frame, background, SIZE).png,
        "background": _map(background.level_map(), "viridis"),
        "rms": _map(background.rms_map(), "ember"),
    }
    total = sum(map(len, pictures.values()))
    if total > MOST_BYTES:
        raise ValueError(f"the pictures hold {total} bytes, more than {MOST_BYTES}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for key, png in pictures.items():
        (folder / f"{key}.png").write_bytes(png)
    print(f"{len(pictures)} pictures, {total / 1000:.0f} kB")


def _grey(image: NDArray[np.floating[Any]]) -> bytes:
    return make_picture(image, max_size=SIZE, levels=LEVELS).png


def _map(plane: NDArray[np.float32], cmap: str) -> bytes:
    return make_picture(plane, stretch="linear", cmap=cmap, max_size=SIZE // 2, levels=48).png


def _largest(frame: Frame, bit: MaskBit) -> tuple[int, int]:
    """Centre of the largest group with a bit."""
    labels, n = ndimage.label(has_bits(frame.mask, bit), np.ones((3, 3)))
    if n == 0:
        raise ValueError(f"no pixel of the frame has {bit.name}")
    sizes = ndimage.sum_labels(np.ones_like(labels), labels, np.arange(1, n + 1))
    y, x = ndimage.center_of_mass(labels == 1 + int(np.argmax(sizes)))
    return round(y), round(x)


def _middle(frame: Frame, bit: MaskBit) -> tuple[int, int]:
    """Pixel with a bit that is nearest to the middle of the frame."""
    at = np.argwhere(has_bits(frame.mask, bit))
    if at.size == 0:
        raise ValueError(f"no pixel of the frame has {bit.name}")
    off = np.hypot(*(at - np.array(frame.shape) / 2).T)
    y, x = at[int(np.argmin(off))]
    return int(y), int(x)


def _cut(frame: Frame, centre: tuple[int, int]) -> bytes:
    """A piece of the frame, twice side by side: as it is, and with its mask."""
    y, x = (int(np.clip(c - CUT_PX // 2, 0, n - CUT_PX)) for c, n in zip(centre, frame.shape,
                                                                        strict=True))  # fmt: skip
    part = np.s_[y : y + CUT_PX, x : x + CUT_PX]
    twice = [np.concatenate([p[part], p[part]], axis=1) for p in (frame.sci, frame.err)]
    bits = np.concatenate([np.zeros((CUT_PX, CUT_PX), np.uint16), frame.mask[part]], axis=1)
    sci, err, mask = (p.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1) for p in (*twice, bits))
    return mask_picture(Frame(sci, err, mask, fits.Header()), 2 * CUT_PX * ENLARGED).png


if __name__ == "__main__":
    main()
