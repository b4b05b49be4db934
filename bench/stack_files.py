"""Frames for stacks on disk: as products of the pipeline, and as files for SWarp.

Also the peers themselves: SWarp with the configuration that its measured behaviour asks for
(explicit grid, absolute weights, no background, large finite gain, zero weight and a harmless
value for bad pixels), and reproject's ``reproject_and_coadd``.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from skymill import io
from skymill.errors import Outcome
from skymill.frame import MaskBit, has_bits
from skymill.jobs.tables import from_records
from skymill.wcsmath import wcs_to_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from skymill.grid import Grid
    from skymill.steps.stack import StackInput

#: Frames of a field in one block, as the plan would name it.
BLOCK = "bench"


@dataclass(frozen=True)
class Peer:
    """A stack that a peer made: image and, if it makes one, weight (1 / sigma^2)."""

    sci: NDArray[np.float32]
    weight: NDArray[np.float32] | None


def write_products(
    folder: Path, inputs: Sequence[StackInput], wcs: Mapping[str, WCS] | None = None
) -> None:
    """Write frames as the steps before the stack leave them.

    Parameters
    ----------
    folder : Path
        Becomes the folder ``results`` of a project: calibrated, mask, background, photcal,
        astrometry, outcomes.
    inputs : sequence of StackInput
        The frames.
    wcs : mapping, optional
        World coordinates to be told instead, by frame.
    """
    for item in inputs:
        pixels = item.load()
        name = f"{BLOCK}/{item.frame_id}.fits"
        header = fits.Header({"FRAMEID": item.frame_id, "EXPTIME": item.row["exptime_s"]})
        frame = pixels.frame.replace(header=header, wcs=None)
        io.write_frame(folder / "calibrated" / name, frame, {})
        io.write_mask(folder / "mask" / name, frame.mask, frame, {})
        io.write_background(folder / "background" / name, pixels.background, {})
    write_tables(folder, inputs, wcs)


def write_tables(
    folder: Path, inputs: Sequence[StackInput], wcs: Mapping[str, WCS] | None = None
) -> None:
    """Write solutions, throughputs and outcomes of frames."""
    from skymill.jobs import astrometry as solver
    from skymill.jobs import photcal as calibrator
    from skymill.settings import Stack

    solutions, fluxes = [], []
    for item in inputs:
        ny, nx = item.shape
        text = wcs_to_text((wcs or {}).get(item.frame_id, item.wcs))
        solutions.append({
            "frame_id": item.frame_id, "solution": "absolute", "wcs": text, "nx": nx, "ny": ny,
            "reference": "catalogue",
        })  # fmt: skip
        known = {"frame_id": item.frame_id, "solution": "relative", **item.photcal, **item.row}
        fluxes.append({key: known[key] for key in known if key in calibrator._COLUMNS})
    solved = from_records(solutions, solver._COLUMNS, {"solution": "none"})
    measured = from_records(fluxes, calibrator._COLUMNS, {"solution": "none"})
    io.write_table(folder / "astrometry" / f"{BLOCK}.parquet", solved, {})
    io.write_table(folder / "photcal" / f"{BLOCK}.parquet", measured, {})
    outcomes = [Outcome(item.frame_id, "photcal", "ok") for item in inputs]
    io.write_outcomes(folder / "outcomes" / "photcal" / f"{BLOCK}.csv", outcomes)
    rows = [{"frame_id": item.frame_id, **item.row} for item in inputs]
    io.write_json(folder / "rows.json", rows)
    settings = Stack().model_dump(mode="json") | {"grid": None}
    io.write_json(folder / "settings.json", settings)


def job_arguments(folder: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """Return what the rule gives `skymill.jobs.stack.stack_frames`; settings may be changed."""
    return {
        "rows": io.read_json(folder / "rows.json"),
        "calibrated": [str(folder / "calibrated" / BLOCK)],
        "masks": [str(folder / "mask" / BLOCK)],
        "backgrounds": [str(folder / "background" / BLOCK)],
        "photcal": [str(folder / "photcal" / f"{BLOCK}.parquet")],
        "astrometry": [str(folder / "astrometry" / f"{BLOCK}.parquet")],
        "upstream": [str(folder / "outcomes" / "photcal" / f"{BLOCK}.csv")],
        "stack_file": out,
        "outcomes": out.with_suffix(".csv"),
        "settings": io.read_json(folder / "settings.json") | settings,
        "code": "bench",
    }


def write_peer_inputs(folder: Path, inputs: Sequence[StackInput]) -> list[Path]:
    """Write background-subtracted images and weights for SWarp; FLXSCALE in the header.

    Bad pixels get weight 0 and the value 0, which is the background.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for item in inputs:
        pixels = item.load()
        good = ~has_bits(pixels.frame.mask, MaskBit.bad())
        sky = pixels.background.level_map()
        noise = pixels.background.rms_map()
        image = np.where(good, pixels.frame.sci - sky, 0).astype(np.float32)
        weight = np.where(good, 1 / noise**2, 0).astype(np.float32)
        header = item.wcs.to_header(relax=True)
        header["FLXSCALE"] = 60.0 / item.row["exptime_s"] / item.photcal["throughput"]
        path = folder / f"{item.frame_id}.fits"
        fits.writeto(path, image, header, overwrite=True)
        fits.writeto(path.with_suffix(".weight.fits"), weight, header, overwrite=True)
        paths.append(path)
    return paths


def swarp_binary() -> str | None:
    """Return the name of the program; Debian calls it SWarp."""
    return shutil.which("SWarp") or shutil.which("swarp")


def head_text(wcs: WCS, shape: tuple[int, int]) -> str:
    """Return the grid as SWarp wants it told: all cards with the full matrix."""
    ny, nx = shape
    matrix = wcs.pixel_scale_matrix
    cards: dict[str, Any] = {"NAXIS": 2, "NAXIS1": nx, "NAXIS2": ny, "EQUINOX": 2000.0}
    cards["RADESYS"] = "ICRS"
    for axis in range(2):
        cards[f"CTYPE{axis + 1}"] = str(wcs.wcs.ctype[axis])
        cards[f"CUNIT{axis + 1}"] = "deg"
        cards[f"CRVAL{axis + 1}"] = float(wcs.wcs.crval[axis])
        cards[f"CRPIX{axis + 1}"] = float(wcs.wcs.crpix[axis])
        for other in range(2):
            cards[f"CD{axis + 1}_{other + 1}"] = float(matrix[axis, other])
    header = fits.Header(cards.items())
    return "".join(f"{card.image}\n" for card in header.cards) + "END     \n"


def swarp_command(
    folder: Path, paths: Sequence[Path], grid: Grid, *, combine: str = "CLIPPED",
    kernel: str = "LANCZOS3",
) -> list[str]:  # fmt: skip
    """Prepare a run of SWarp and return its argument list; the stack is ``coadd.fits``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "empty.swarp").write_text("", encoding="ascii")
    (folder / "coadd.head").write_text(head_text(grid.wcs, grid.shape), encoding="ascii")
    (folder / "list.txt").write_text("".join(f"{path}\n" for path in paths), encoding="ascii")
    weights = [str(path.with_suffix(".weight.fits")) for path in paths]
    (folder / "weights.txt").write_text("".join(f"{w}\n" for w in weights), encoding="ascii")
    options = {
        "IMAGEOUT_NAME": folder / "coadd.fits",
        "WEIGHTOUT_NAME": folder / "coadd.weight.fits",
        "WEIGHT_TYPE": "MAP_WEIGHT",
        "WEIGHT_IMAGE": f"@{folder / 'weights.txt'}",
        "RESCALE_WEIGHTS": "N",
        "SUBTRACT_BACK": "N",
        "COMBINE_TYPE": combine,
        "GAIN_DEFAULT": "1e6",
        "GAIN_KEYWORD": "NONE",
        "FSCALASTRO_TYPE": "VARIABLE",
        "RESAMPLING_TYPE": kernel,
        "BLANK_BADPIXELS": "Y",
        "RESAMPLE_DIR": folder,
        "VMEM_DIR": folder,
        "DELETE_TMPFILES": "Y",
        "WRITE_XML": "N",
        "VERBOSE_TYPE": "QUIET",
        "NTHREADS": "1",
    }
    binary = swarp_binary()
    assert binary is not None
    command = [binary, f"@{folder / 'list.txt'}", "-c", str(folder / "empty.swarp")]
    for key, value in options.items():
        command += [f"-{key}", str(value)]
    return command


def read_swarp(folder: Path) -> Peer:
    """Read the stack of `swarp_command`; NaN where it has no weight."""
    sci = np.asarray(fits.getdata(folder / "coadd.fits"), np.float32)
    weight = np.asarray(fits.getdata(folder / "coadd.weight.fits"), np.float32)
    return Peer(np.where(weight > 0, sci, np.float32(np.nan)), weight)


def swarp_stack(
    folder: Path, inputs: Sequence[StackInput], grid: Grid, *, combine: str = "WEIGHTED"
) -> Peer:
    """Stack frames with SWarp alone."""
    paths = write_peer_inputs(folder / "in", inputs)
    command = swarp_command(folder / "out", paths, grid, combine=combine)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"SWarp: {done.returncode}\n{done.stderr[-2000:]}")
    return read_swarp(folder / "out")


def reproject_stack(paths: Sequence[Path], grid: Grid) -> NDArray[np.float32]:
    """Stack files with ``reproject_and_coadd``: bicubic, weighted mean, no rejection."""
    from reproject import reproject_interp
    from reproject.mosaicking import reproject_and_coadd

    images, weights = [], []
    for path in paths:
        with fits.open(path) as hdus:
            data = hdus[0].data.astype(np.float32) * np.float32(hdus[0].header["FLXSCALE"])
            scale = hdus[0].header["FLXSCALE"]
            images.append((data, WCS(hdus[0].header)))
        with fits.open(path.with_suffix(".weight.fits")) as hdus:
            weights.append(hdus[0].data.astype(np.float32) / np.float32(scale**2))
    made, _ = reproject_and_coadd(
        images, grid.wcs, shape_out=grid.shape, input_weights=weights, order="bicubic",
        reproject_function=reproject_interp, combine_function="mean", roundtrip_coords=False,
        blank_pixel_value=np.nan,
    )  # fmt: skip
    return np.asarray(made, np.float32)


def stack_table(path: Path) -> Table:
    """Return the outcomes beside a stack as a table."""
    return Table(rows=[(o.frame_id, o.status, o.code) for o in io.read_outcomes(path)],
                 names=("frame_id", "status", "code"))  # fmt: skip
