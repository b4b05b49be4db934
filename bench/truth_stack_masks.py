"""What must not reach a stack: bad pixels, shared errors taken for noise, broken frames."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.runs import Figure
from bench.stack_files import job_arguments, stack_table, swarp_binary, swarp_stack, write_products
from bench.stack_scene import (
    Exposure,
    circle_sums,
    combine,
    dithered,
    lattice,
    mean_image,
    names,
    sky_grid,
    sky_wcs,
    stack_input,
)
from skymill.frame import MaskBit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Plane = NDArray[np.float64]

#: Values of bad pixels: a hit, a dead pixel, not a number.
BAD_VALUES = (1e5, -1e4, float("nan"))


def pollution(
    engine: str, exposures: Sequence[Exposure], seed: int = 2, *, side: int = 200,
    kernel: str | None = None, **settings: Any,
) -> tuple[int, float, int]:  # fmt: skip
    """Return what bad pixels do to a stack.

    Noiseless frames of a smooth scene are stacked with flagged pixels of absurd values and
    without them. The scene is so smooth that all frames agree, so that a pixel that lost a
    frame keeps its value.

    Returns
    -------
    polluted : int
        Pixels without a flag whose value changed by more than a twentieth of their error.
    worst : float
        Largest change of such a pixel over its error.
    touched : int
        Pixels that bear a flag, lost a frame or have no value because of the bad ones.
    """
    rng = np.random.default_rng(seed)
    shape = (side, side)
    grid = sky_grid(sky_wcs(shape), shape, names(len(exposures)))
    stars = lattice(grid.wcs, shape, 40.0, 30.0, rng)
    stars = replace(stars, rate=np.full(stars.ra.size, 60.0))
    clean, bad = [], []
    for name, how in zip(names(len(exposures)), exposures, strict=True):
        smooth = replace(how, fwhm_px=9.0)
        mean = mean_image(shape, stars, smooth)
        mask, spoilt = np.zeros(shape, np.uint16), np.zeros(shape)
        for value in BAD_VALUES:
            at = tuple(rng.integers(0, side, (2, 60)))
            bit = MaskBit.NO_DATA if math.isnan(value) else MaskBit.COSMIC
            mask[at] |= np.uint16(int(bit))
            spoilt[at] = value
        clean.append(stack_input(name, smooth, mean))
        bad.append(stack_input(name, smooth, mean, extra=spoilt, mask=mask))
    reference, made = (combine(some, grid, engine, kernel, **settings) for some in (clean, bad))
    covered = reference.coverage > 0
    change = np.abs(made.frame.sci - reference.frame.sci) / reference.frame.err
    silent = covered & (made.frame.mask == 0)
    assert np.isfinite(made.frame.sci[silent]).all()
    wrong = silent & ~(change < 0.05)
    marked = covered & ((made.frame.mask != 0) | (made.coverage < reference.coverage))
    worst = float(change[silent].max()) if silent.any() else math.nan
    return int(wrong.sum()), worst, int(marked.sum())


def pollution_figure(engines: Sequence[str]) -> Figure:
    """Return the polluted pixels without a flag, of one frame alone and of three."""
    rng = np.random.default_rng(12)
    half = Exposure(shift_px=(0.5, 0.5))
    cases = {"one, half a pixel off": [half], "three dithered": dithered(3, rng)}
    found = {
        f"{engine}, {text}": pollution(engine, case)
        for engine in engines
        for text, case in cases.items()
    }
    worst = max(found, key=lambda case: found[case][1])
    return Figure(
        "stack_polluted_unflagged", float(sum(v[0] for v in found.values())), "0", "px",
        sum(v[2] for v in found.values()),
        "pixels that flagged inputs of 1e5, -1e4 and NaN changed by more than 0.05 sigma and that "
        f"bear no flag; n = pixels marked or without that frame; worst {found[worst][1]:.4f} sigma "
        f"({worst})",
    )  # fmt: skip


def mosaic(engine: str, seed: int = 3, *, side: int = 400, **settings: Any) -> dict[str, float]:
    """Return level, pull width and coverage where two of four frames overlap, and where four do.

    Two frames lie half a frame beside the others; all are 90 e above where their background
    says, of one star-free scene, so that a wrong division by the number of frames shows.
    """
    rng = np.random.default_rng(seed)
    shape = (side, side)
    out = (side, side + side // 2)
    exposures = [
        replace(how, shift_px=(how.shift_px[0] + (side // 4) * sign, how.shift_px[1]))
        for how, sign in zip(dithered(4, rng, turn_deg=0.5), (1, 1, -1, -1), strict=True)
    ]
    grid = sky_grid(sky_wcs(out), out, names(4))
    inputs = []
    for name, how in zip(names(4), exposures, strict=True):
        mean = np.full(shape, how.sky_e)
        lifted = np.full(shape, 90.0 / how.flux_scale)
        inputs.append(stack_input(name, how, mean, rng, extra=lifted))
    made = combine(inputs, grid, engine, **settings)
    found = {}
    for n in (2, 4):
        here = made.coverage == n
        sci, err = made.frame.sci[here].astype(float), made.frame.err[here].astype(float)
        found[f"level_{n}"] = float(sci.mean() / 90.0)
        found[f"width_{n}"] = float(((sci - 90.0) / err).std())
        found[f"share_{n}"] = float(here.mean())
    return found


def mosaic_figure(engines: Sequence[str]) -> Figure:
    """Return the pull width per pixel that is farthest from 1 in a mosaic."""
    found = {engine: mosaic(engine) for engine in engines}
    widths = {
        f"{engine}, {n} frames": v[f"width_{n}"] for engine, v in found.items() for n in (2, 4)
    }
    worst = max(widths, key=lambda case: abs(widths[case] - 1))
    level = max((v[f"level_{n}"] for v in found.values() for n in (2, 4)), key=lambda v: abs(v - 1))
    return Figure(
        "stack_mosaic_pull_width", widths[worst], "1.00 +- 0.02", "", len(widths),
        "pixels of a mosaic where 2 and where all 4 frames lie, over ERR; worst: "
        f"{worst}; level over truth at most {level:.5f}",
    )  # fmt: skip


def shared_flat(
    engine: str, dither_px: float, seed: int = 14, *, depth: int = 20, side: int = 300,
    sky: float = 1000.0, flat_err: float = 0.01,
) -> tuple[float, float]:  # fmt: skip
    """Return measured and told variance of a stack of frames with one noisy flat.

    The flat is wrong by the same amount in every frame: without dither that does not average
    down (150.6 electron^2 measured for 20 frames of 1000 electron and a flat good to 1 %,
    where 51.3 would be told by 1/N).
    """
    from skymill.steps.shared_errors import Calibration, MasterCells

    rng = np.random.default_rng(seed)
    shape = (side, side)
    grid = sky_grid(sky_wcs(shape), shape, names(depth))
    flat = np.ones(shape) + rng.normal(0, flat_err, shape)
    master = MasterCells.of(
        np.ones(shape, np.float32), np.full(shape, flat_err, np.float32),
        np.zeros(shape, np.uint16), flat=True,
    )  # fmt: skip
    inputs = []
    for name in names(depth):
        shift = rng.uniform(-dither_px, dither_px, 2)
        how = Exposure(shift_px=(float(shift[0]), float(shift[1])), sky_e=sky, fwhm_px=3.0)
        item = stack_input(name, how, np.full(shape, sky), rng, flat=flat, flat_err=flat_err)
        inputs.append(replace(item, calibration=Calibration(flat="flat")))
    made = combine(inputs, grid, engine, masters={"flat": master})
    inner = np.s_[60:-60, 60:-60]
    told = float((made.frame.err[inner].astype(float) ** 2).mean())
    return float(made.frame.sci[inner].astype(float).var()), told


def shared_flat_figure(engine: str) -> Figure:
    """Return measured over told variance, of undithered frames and of dithered ones."""
    found = {"undithered": shared_flat(engine, 0.0), "dithered by 25 px": shared_flat(engine, 25.0)}
    ratios = {name: measured / told for name, (measured, told) in found.items()}
    worst = max(ratios, key=lambda name: abs(ratios[name] - 1))
    text = "; ".join(f"{name}: {a:.1f}, told {b:.1f}" for name, (a, b) in found.items())
    return Figure(
        "stack_shared_flat_variance", ratios[worst], "1.00 +- 0.05", "", 2 * 180 * 180,
        f"pixel variance of 20 frames of 1000 e with one flat good to 1 %, over ERR^2: {text}; "
        "1/N alone would tell 51.3 undithered",
    )  # fmt: skip


def swarp_parity_figure(engines: Sequence[str]) -> list[Figure]:
    """Compare fluxes and errors with a stack that SWarp made on its own, read back."""
    if swarp_binary() is None:
        return []
    rng = np.random.default_rng(21)
    shape = (420, 420)
    exposures = dithered(4, rng)
    grid = sky_grid(sky_wcs(shape), shape, names(4))
    stars = lattice(grid.wcs, shape, 30.0, 40.0, rng)
    stars = replace(stars, rate=np.full(stars.ra.size, 3000.0))
    inputs = [
        stack_input(name, how, mean_image(shape, stars, how), rng)
        for name, how in zip(names(4), exposures, strict=True)
    ]
    with TemporaryDirectory() as folder:
        peer = swarp_stack(Path(folder), inputs, grid)
    x, y = grid.wcs.all_world2pix(stars.ra, stars.dec, 0)
    theirs, _ = circle_sums(peer.sci, None, x, y, 8.0)
    text, worst = [], 0.0
    for name in engines:
        made = combine(inputs, grid, name)
        total, square = circle_sums(made.frame.sci, made.frame.err, x, y, 8.0)
        apart = (total - theirs) / np.sqrt(square)
        inner = np.s_[60:-60, 60:-60]
        pixels = made.frame.sci[inner] - peer.sci[inner]
        rms = float(np.nanstd(pixels / made.frame.err[inner]))
        worst = max(worst, float(np.nanstd(apart)))
        level = 2500 / math.log(10) * float(np.nanmean(total / theirs) - 1)
        text.append(f"{name} {np.nanstd(apart):.3f}, mean {level:+.2f} mmag, pixels {rms:.3f}")
    return [
        Figure("stack_parity_swarp_sigma", worst, "< 0.2", "sigma", len(x),
               "scatter of star fluxes (r = 8 px) against the stack of SWarp itself (LANCZOS3, "
               "MAP_WEIGHT, WEIGHTED) of the same frames: " + "; ".join(text)),
    ]  # fmt: skip


def bad_inputs(folder: Path, side: int = 260, **settings: Any) -> dict[str, Any]:
    """Stack five sound frames with and without three broken ones, by the rule's function.

    One product is cut short on the disk, one is blank, one lies 3 degrees away.

    Returns
    -------
    dict
        ``said``: frame to (status, code); ``change``: largest difference of the stacks over
        the error; ``lost``: pixels that only one of them has.
    """
    from skymill import io
    from skymill.jobs.stack import stack_frames

    rng = np.random.default_rng(17)
    shape = (side, side)
    exposures = dithered(8, rng)
    stars = lattice(sky_wcs(shape), shape, 30.0, 20.0, rng)
    stars = replace(stars, rate=10 ** rng.uniform(1, 3, stars.ra.size))
    inputs = []
    for i, (name, how) in enumerate(zip(names(8), exposures, strict=True)):
        mean = mean_image(shape, stars, how)
        extra = -mean if i == 6 else None
        mask = np.full(shape, int(MaskBit.NO_DATA), np.uint16) if i == 6 else None
        inputs.append(stack_input(name, how, mean, rng, extra=extra, mask=mask))
    away = sky_wcs(shape)
    away.wcs.crval = [153.0, 21.0]
    away.wcs.set()
    sound, broken = folder / "sound", folder / "broken"
    for place in (sound, broken):
        write_products(place, inputs, {"f0007": away})
    cut = broken / "calibrated" / "bench" / "f0005.fits"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    made = []
    for place in (sound, broken):
        arguments = job_arguments(place, place / "stack" / "field.fits", **settings)
        if place == sound:  # the grid is that of all solutions, in both
            arguments["rows"] = arguments["rows"][:5]
        stack_frames(**arguments)
        made.append(place / "stack" / "field.fits")
    said = {
        row["frame_id"]: (row["status"], row["code"])
        for row in stack_table(made[1].with_suffix(".csv"))
    }
    one, other = (io.read_frame(path) for path in made)
    if one.shape != other.shape:
        return {"said": said, "change": math.inf, "lost": one.sci.size}
    lost = int((np.isfinite(one.sci) != np.isfinite(other.sci)).sum())
    return {"said": said, "change": float(np.nanmax(np.abs(one.sci - other.sci) / one.err)),
            "lost": lost}  # fmt: skip


def bad_inputs_figures(engine: str) -> list[Figure]:
    """Return how many broken frames are named, and what they did to the stack."""
    with TemporaryDirectory() as folder:
        found = bad_inputs(Path(folder), engine=engine)
    said = found["said"]
    broken = {"f0005": "cut short", "f0006": "blank", "f0007": "3 degrees away"}
    left = [f"f000{i}" for i in range(5)]
    named = sum(said.get(name, ("", ""))[1] != "" for name in broken)
    lost = sum(said.get(name, ("", ""))[0] not in ("ok", "degraded") for name in left)
    text = ", ".join(f"{what}: {'/'.join(said.get(name, ('-',)))}" for name, what in broken.items())
    return [
        Figure("stack_bad_inputs_named", float(named), "3", "", 3,
               f"{text}; sound ones lost: {lost}"),
        Figure("stack_bad_inputs_change", found["change"], "0", "sigma", 5,
               "largest change of a pixel by them; "
               f"{found['lost']} pixels have a value in one stack only"),
    ]  # fmt: skip


def figures(engines: Sequence[str], best: str) -> list[Figure]:
    """Return the figures of this module."""
    return [
        pollution_figure(engines),
        mosaic_figure(engines),
        shared_flat_figure(best),
        *swarp_parity_figure(engines),
        *bad_inputs_figures(best),
    ]
