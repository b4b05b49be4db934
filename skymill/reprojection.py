"""Images on another grid, with the calling conventions of STDPipe and without its traps.

`reproject_swarp` runs the real SWarp, `reproject_lanczos` the same kernel compiled here. Both
take a list of file names or of (image, header or WCS) tuples, and average several of them.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.engines.base import ArrayRows, WarpPlanes, empty_planes
from skymill.errors import FrameRejected, SkymillError
from skymill.frame import MaskBit
from skymill.resample import PixelMap, pixel_map

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.io.fits import Header
    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skymill.engines.native import NativeWarp

    Shape = tuple[int, int]
    Source = str | Path | tuple[Any, Any]
    Frames = list[tuple[NDArray[Any], WCS, Header | None]]

__all__ = ["reproject_lanczos", "reproject_swarp"]

_log = logging.getLogger(__name__)
#: Less than this share of the kernel on known pixels makes a pixel unknown.
_KNOWN = 0.5
_NO_DATA = np.uint16(int(MaskBit.NO_DATA))


def reproject_lanczos(
    input: Sequence[Source] | tuple[Any, Any] | None = None,
    wcs: WCS | None = None,
    shape: Shape | None = None,
    width: int | None = None,
    height: int | None = None,
    header: Header | None = None,
    order: int = 3,
    conserve_flux: bool = True,
    oversamp: int | None = None,
    is_flags: bool | str = False,
    use_nans: bool = True,
    weight_nans: bool = True,
    parallel: bool | int = False,
    return_footprint: bool = False,
    verbose: Any = False,
) -> Any:
    """Bring images to a grid with a normalised Lanczos kernel and average them.

    Parameters
    ----------
    input : list
        File names, or (image, header or WCS) tuples; one tuple is taken as a list of one.
    wcs : astropy.wcs.WCS, optional
        World coordinates of the grid, unless ``header`` has them.
    shape : tuple of int, optional
        Shape (ny, nx) of the grid; or ``height`` and ``width``; or NAXIS of ``header``.
    width, height : int, optional
    header : astropy.io.fits.Header, optional
        Defines the grid.
    order : int
        Order of the kernel, 2 to 8.
    conserve_flux : bool
        Multiply by the local ratio of the pixel areas.
    oversamp : int, optional
        Samples averaged per output axis; by default the ratio of the pixel scales, rounded.
    is_flags : bool or {"all", "any", "both"}
        The images are integer flags. True or "all": bits that all covering frames have;
        "any": bits of any of them; "both": the two planes. Every pixel that the kernel
        touches with a weight above 1e-5 counts, so that no flag is ever lost.
    use_nans : bool
        Pixels without data are NaN, of flags all bits set; else 0.
    weight_nans : bool
        Leave out NaN and renormalise where at least half of the kernel is known. Else
        every pixel whose kernel touches a NaN is NaN.
    parallel : bool or int
        Accepted and not needed.
    return_footprint : bool
        Also return the known share of the kernel, averaged over the frames.
    verbose : bool or callable
        Log what is done, or call this with it.

    Returns
    -------
    ndarray of float64 or of the type of the flags, shape (ny, nx)
        Or a tuple with the footprint. Pixels near a NaN are made of fewer pixels; their
        footprint is below 1.

    Raises
    ------
    SkymillError
        If an image cannot be read or the grid is not defined.
    """
    del parallel
    say = _voice(verbose)
    grid, size = _grid(wcs, shape, width, height, header)
    frames = _frames(input)
    if not 2 <= order <= 8:
        raise SkymillError(f"order must lie between 2 and 8, got {order}")
    if is_flags:
        found = _flags(frames, grid, size, is_flags, use_nans, f"lanczos{order}")
        return found if return_footprint else found[0]
    total, count, share = np.zeros(size), np.zeros(size, np.int64), np.zeros(size)
    for image, own, _ in frames:
        mapping = pixel_map(grid, size, own)
        value, known, inside = _lanczos(image, mapping, order, oversamp, conserve_flux, weight_nans)
        say(f"{int(inside.sum())} of {inside.size} pixels lie in an image of shape {image.shape}")
        good = np.isfinite(value)
        total[good] += value[good]
        count += good
        share += known
    coadd = np.full(size, np.nan if use_nans else 0.0)
    np.divide(total, count, out=coadd, where=count > 0)
    return (coadd, share / max(len(frames), 1)) if return_footprint else coadd


def reproject_swarp(
    input: Sequence[Source] | tuple[Any, Any] | None = None,
    wcs: WCS | None = None,
    shape: Shape | None = None,
    width: int | None = None,
    height: int | None = None,
    header: Header | None = None,
    extra: Mapping[str, Any] | None = None,
    is_flags: bool | str = False,
    use_nans: bool = True,
    get_weights: bool = False,
    _workdir: str | Path | None = None,
    _tmpdir: str | Path | None = None,
    _exe: str | Path | None = None,
    verbose: Any = False,
) -> Any:
    """Bring images to a grid with SWarp and combine them.

    Parameters
    ----------
    input, wcs, shape, width, height, header, verbose
        As for `reproject_lanczos`.
    extra : dict, optional
        Further options of SWarp, for example ``{"COMBINE_TYPE": "AVERAGE"}``. Without
        them: MEDIAN, LANCZOS3, flux conserved, no background subtracted.
    is_flags : bool or {"all", "any", "both"}
        As for `reproject_lanczos`, whose footprint is used: SWarp looks at the nearest
        pixel only and adds 32768 to unsigned integers.
    use_nans : bool
        Pixels of weight 0 are NaN, of flags all bits set; else 0.
    get_weights : bool
        Also return SWarp's weights.
    _workdir, _tmpdir : str or Path, optional
        Keep the intermediate files in this folder; make the temporary one here.
    _exe : str or Path, optional
        The program.

    Returns
    -------
    ndarray of float64 or of the type of the flags, shape (ny, nx)
        Or a tuple with the weights.

    Raises
    ------
    ProgramError
        TOOL_MISSING if there is no SWarp, TOOL_FAILED with its log if it fails.
    SkymillError
        If an image cannot be read or the grid is not defined.
    """
    say = _voice(verbose)
    grid, size = _grid(wcs, shape, width, height, header)
    frames = _frames(input)
    if is_flags:
        found = _flags(frames, grid, size, is_flags, use_nans, "lanczos3")
        return found if get_weights else found[0]
    if _workdir is not None:
        Path(_workdir).mkdir(parents=True, exist_ok=True)
        planes = _swarp(frames, grid, size, extra or {}, Path(_workdir), _exe, say)
    else:
        with tempfile.TemporaryDirectory(prefix="swarp-", dir=_tmpdir) as folder:
            planes = _swarp(frames, grid, size, extra or {}, Path(folder), _exe, say)
    coadd, weights = (plane.astype(np.float64) for plane in planes)
    coadd[~(weights > 0)] = np.nan if use_nans else 0.0
    return (coadd, weights) if get_weights else coadd


def _swarp(
    frames: Frames,
    grid: WCS,
    size: Shape,
    extra: Mapping[str, Any],
    folder: Path,
    program: str | Path | None,
    say: Any,
) -> list[NDArray[Any]]:
    """Run SWarp on images without NaN and with weights; returns coadd and weights."""
    from astropy.io.fits import Header

    from skymill.engines.swarp_program import (
        find_swarp,
        run_swarp,
        swarp_cards,
        write_head,
        write_image,
    )
    from skymill.io_raw import read_raw

    found = find_swarp(program)
    names, weights = [], []
    for n, (image, wcs, header) in enumerate(frames):
        good = np.isfinite(image)
        # SWarp takes NaN for 0 with full weight: the background with weight 0 instead.
        level = float(np.median(image[good])) if good.any() else 0.0
        cards = swarp_cards(wcs, image.shape)
        if header is not None and "FLXSCALE" in header:
            cards["FLXSCALE"] = float(header["FLXSCALE"])
        names.append(f"image{n:04d}.fits")
        weights.append(f"image{n:04d}.weight.fits")
        write_image(folder / names[-1], np.where(good, image, level), cards)
        write_image(folder / weights[-1], good, Header())
    write_head(folder / "coadd.head", grid, size)
    options: dict[str, Any] = {
        "IMAGEOUT_NAME": "coadd.fits",
        "WEIGHTOUT_NAME": "coadd.weight.fits",
        "WEIGHT_TYPE": "MAP_WEIGHT",
        "WEIGHT_IMAGE": ",".join(weights),
        "FSCALASTRO_TYPE": "VARIABLE",
        "BLANK_BADPIXELS": "Y",
        "RESAMPLING_TYPE": "LANCZOS3",
    }
    outputs = ["coadd.fits", "coadd.weight.fits"]
    given = {str(key).upper(): value for key, value in extra.items()}
    say(run_swarp(found, folder, names, {**options, **given}, outputs))
    planes = [read_raw(folder / name, 0)[0] for name in outputs]
    for plane in planes:
        if plane.shape != tuple(size):
            raise SkymillError(f"SWarp made an image of shape {plane.shape}, not {tuple(size)}")
    return planes


def _lanczos(
    image: NDArray[Any],
    mapping: PixelMap,
    order: int,
    oversamp: int | None,
    conserve_flux: bool,
    weight_nans: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Values, known share of the kernel, and which pixels lie in the image."""
    good = np.isfinite(image)
    values = np.where(good, image, 0).astype(np.float32)
    holes = np.where(good, np.uint16(0), _NO_DATA)
    convention = "flux" if conserve_flux else "surface_brightness"
    warp, inside = _padded_warp(values, holes, mapping, f"lanczos{order}", oversamp, convention)
    planes = _filled(warp, mapping.shape)
    value = planes.value.astype(np.float64)
    known = np.where(inside, 1.0, 0.0)
    if not good.all():
        part, _ = _padded_warp(
            good.astype(np.float32), holes, mapping, f"lanczos{order}", oversamp,
            "surface_brightness",
        )  # fmt: skip
        share = _filled(part, mapping.shape).value.astype(np.float64)
        known = np.where(inside, np.clip(share, 0, 1), 0.0)
        touched = (planes.mask & _NO_DATA) != 0
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.where(touched, value / share, value)
        value[touched & (~(share >= _KNOWN) | (not weight_nans))] = np.nan
    value[~inside] = np.nan
    return value, known, inside


def _padded_warp(
    values: NDArray[np.float32],
    bits: NDArray[np.uint16],
    mapping: PixelMap,
    kernel: str,
    oversamp: int | None,
    convention: str,
) -> tuple[NativeWarp, NDArray[np.bool_]]:
    """Return our engine on an image continued beyond its edges, and where that is inside."""
    from skymill.engines.native import NativeWarp
    from skymill.engines.profiles import local_scale, typical_scale
    from skymill.kernels.resample import node_positions

    my, mx = values.shape
    scale = typical_scale(local_scale(mapping))
    samples = max(1, round(scale)) if oversamp is None else max(1, int(oversamp))
    border = int(np.ceil(int(kernel.removeprefix("lanczos")) + scale)) + 3
    rows, columns = (item.ravel() for item in np.indices(mapping.shape))
    x, y = (node_positions(nodes, mapping.step, rows, columns) for nodes in (mapping.x, mapping.y))
    with np.errstate(invalid="ignore"):
        inside = (x >= -0.5) & (x < mx - 0.5) & (y >= -0.5) & (y < my - 0.5)
    moved = replace(mapping, x=mapping.x + border, y=mapping.y + border)
    frame = ArrayRows(
        np.pad(values, border, mode="edge"),
        np.zeros((my + 2 * border, mx + 2 * border), np.float32),
        np.pad(bits, border),
    )
    warp = NativeWarp(kernel, frame, moved, (1.0, convention), oversample=samples, bad=0)
    return warp, inside.reshape(mapping.shape)


def _filled(warp: NativeWarp, shape: Shape) -> WarpPlanes:
    planes = empty_planes(*shape)
    warp.fill(0, planes)
    return planes


def _flags(
    frames: Frames, grid: WCS, size: Shape, mode: bool | str, use_nans: bool, kernel: str
) -> tuple[Any, NDArray[np.float64]]:
    """Bits of every touched pixel, over all covering frames and over any of them."""
    if mode not in (True, "all", "any", "both"):
        raise SkymillError(f"is_flags must be True, 'all', 'any' or 'both', got {mode!r}")
    kinds = {image.dtype for image, _, _ in frames}
    for kind in kinds:
        if kind.kind not in "uib" or kind.itemsize > 4:
            raise SkymillError(f"flags must be integers of up to 32 bits, got {kind}")
    kind = np.result_type(*kinds)
    kind = np.dtype(np.uint8) if kind.kind == "b" else kind
    every, some = np.full(size, 0xFFFFFFFF, np.uint32), np.zeros(size, np.uint32)
    covered = np.zeros(size)
    for image, own, _ in frames:
        bits = image.astype(np.int64).astype(np.uint32)
        mapping = pixel_map(grid, size, own)
        found = np.zeros(size, np.uint32)
        nothing = np.zeros(image.shape, np.float32)
        for shift in (0, 16) if kind.itemsize > 2 else (0,):
            half = ((bits >> np.uint32(shift)) & np.uint32(0xFFFF)).astype(np.uint16)
            warp, inside = _padded_warp(nothing, half, mapping, kernel, None, "surface_brightness")
            found |= _filled(warp, size).mask.astype(np.uint32) << np.uint32(shift)
        every[inside] &= found[inside]
        some[inside] |= found[inside]
        covered += inside
    empty = covered == 0
    for plane in (every, some):
        plane[empty] = np.uint32(0xFFFFFFFF if use_nans else 0)
    planes = {"all": every.astype(kind), "any": some.astype(kind)}
    share = covered / max(len(frames), 1)
    if mode == "both":
        return (planes["all"], planes["any"]), share
    return planes["any" if mode == "any" else "all"], share


def _frames(input: Any) -> Frames:
    """Return images with their WCS; unreadable ones raise."""
    from astropy.io.fits import Header
    from astropy.wcs import WCS

    if input is None or len(input) == 0:
        raise SkymillError("there is no image to reproject")
    if isinstance(input, (str, Path)) or (isinstance(input, tuple) and np.ndim(input[0]) == 2):
        input = [input]
    out = []
    for item in input:
        image, known = _read(Path(item)) if isinstance(item, (str, Path)) else item
        header = known if isinstance(known, Header) else None
        image = np.asarray(image)
        if image.ndim != 2:
            raise SkymillError(f"an image must have two axes, got shape {image.shape}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wcs = known if isinstance(known, WCS) else WCS(known)
        out.append((image, wcs, header))
    return out


def _read(path: Path) -> tuple[NDArray[Any], Header]:
    from skymill.io_raw import read_raw, scan_file

    try:
        units = [unit for unit in scan_file(path) if unit.is_image]
        if not units:
            raise SkymillError(f"{path.name} holds no image")
        return read_raw(path, units[0].number)
    except FrameRejected as failure:
        raise SkymillError(f"{path.name} cannot be read: {failure.message}") from None


def _grid(
    wcs: WCS | None,
    shape: Shape | None,
    width: int | None,
    height: int | None,
    header: Header | None,
) -> tuple[WCS, Shape]:
    from astropy.wcs import WCS

    if header is not None:
        width = header.get("NAXIS1") if width is None else width
        height = header.get("NAXIS2") if height is None else height
        if wcs is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wcs = WCS(header)
    if shape is not None:
        height, width = shape
    if wcs is None or not width or not height:
        raise SkymillError("the grid needs a WCS and a shape, or a header with both")
    return wcs, (int(height), int(width))


def _voice(verbose: Any) -> Any:
    if callable(verbose):
        return verbose
    return _log.info if verbose else _log.debug
