"""Engines that bring a frame to a grid: our own, the reproject package, SWarp.

All give the same planes (see `skymill.engines.base.WarpPlanes`): signal, exact variance,
sum of the squared kernel, and the bits of every touched input pixel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skymill.engines.base import (
    ArrayRows,
    FrameRows,
    Rows,
    Warp,
    WarpPlanes,
    empty_planes,
)

if TYPE_CHECKING:
    from pathlib import Path

    from astropy.wcs import WCS

    from skymill.resample import PixelMap

__all__ = [
    "ENGINES",
    "ArrayRows",
    "FrameRows",
    "Rows",
    "Warp",
    "WarpPlanes",
    "empty_planes",
    "open_warp",
]

#: Kernels of each engine; the first is its default.
ENGINES: dict[str, tuple[str, ...]] = {
    "skymill": ("lanczos3", "lanczos2", "lanczos4", "bilinear", "nearest", "area"),
    "reproject": ("bilinear", "bicubic", "nearest", "adaptive", "exact"),
    "swarp": ("lanczos3", "lanczos2", "lanczos4", "bilinear", "nearest"),
}


def open_warp(
    engine: str,
    kernel: str,
    frame: FrameRows,
    frame_wcs: WCS,
    grid_wcs: WCS,
    grid_shape: tuple[int, int],
    *,
    mapping: PixelMap | None = None,
    flux_scale: float = 1.0,
    convention: str = "flux",
    scratch: str | Path | None = None,
) -> Warp:
    """Prepare the resampling of one frame to a grid.

    Parameters
    ----------
    engine, kernel : str
        A key and one of the values of `ENGINES`; an empty kernel is the first one.
    frame : FrameRows
        Pixels of the frame.
    frame_wcs, grid_wcs : astropy.wcs.WCS
        World coordinates of the frame and of the grid, both on the sky or both linear.
    grid_shape : tuple of int
        Shape (ny, nx) of the grid.
    mapping : PixelMap, optional
        Result of `skymill.resample.pixel_map`, if it is there already.
    flux_scale : float
        Factor from the unit of the frame to the common scale.
    convention : {"flux", "surface_brightness"}
        ``flux``: values are also multiplied by the ratio of the pixel areas.
    scratch : str or Path, optional
        Folder of temporary files (only SWarp needs one); by default the system's.

    Returns
    -------
    Warp

    Raises
    ------
    ValueError
        If the engine, the kernel or the convention does not exist.
    StepFailed
        TOOL_MISSING or TOOL_FAILED, from the engine ``swarp``.
    """
    from skymill.resample import pixel_map

    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    kernel = kernel or ENGINES[engine][0]
    if kernel not in ENGINES[engine]:
        names = ", ".join(ENGINES[engine])
        raise ValueError(f"kernel of engine {engine} must be one of {names}, got {kernel!r}")
    if convention not in ("flux", "surface_brightness"):
        raise ValueError(f"convention must be flux or surface_brightness, got {convention!r}")
    if mapping is None:
        mapping = pixel_map(grid_wcs, grid_shape, frame_wcs)
    scale = (flux_scale, convention)
    if engine == "skymill":
        from skymill.engines.native import NativeWarp

        return NativeWarp(kernel, frame, mapping, scale)
    if engine == "reproject":
        from skymill.engines.package import PackageWarp

        return PackageWarp(kernel, frame, mapping, scale, (frame_wcs, grid_wcs))
    from skymill.engines.swarp import SwarpWarp

    return SwarpWarp(kernel, frame, mapping, scale, (frame_wcs, grid_wcs), scratch)
