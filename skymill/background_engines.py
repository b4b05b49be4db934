"""Other programs, and functions of the user, that estimate the level of the sky.

All are called with the image, the mask (bad pixels and sources, True = leave out), the size
of a cell and that of the median filter. What they return is checked and brought into the
form of our own product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skymill.errors import ScienceFailure, StepFailed
from skymill.frame import Background
from skymill.kernels.mesh import expand_spline
from skymill.user_functions import load_function

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Maps", "as_background", "estimate"]

#: A spline through the cells that differs from the map by less than this part of the
#: scatter of a pixel stands for the map; else the map itself is kept.
_SAME_SIGMA = 0.01


class Maps(NamedTuple):
    """Level and scatter at every pixel; no scatter if the program tells none."""

    level: NDArray[np.float32]
    rms: NDArray[np.float32] | None


def estimate(
    engine: str,
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    box_size_px: int,
    filter_size: int,
) -> Maps:
    """Estimate the level with another program.

    Parameters
    ----------
    engine : str
        ``sep``, ``photutils`` or the import path of a function.
    image : ndarray of float32, shape (ny, nx)
        Image in electron, finite; the function gets a copy.
    mask : ndarray of bool, shape (ny, nx)
        True is left out.
    box_size_px, filter_size : int
        Side of a cell in px, of the median filter in cells.

    Raises
    ------
    ConfigError
        If the function cannot be loaded.
    StepFailed
        BKG_ENGINE if the program raises, or returns what is not a finite map.
    """
    functions = {"sep": _sep, "photutils": _photutils}
    function = functions.get(engine) or load_function(engine, "background engine")
    try:
        result = function(image.copy(), mask.copy(), box_size_px, filter_size)
    except ScienceFailure:
        raise
    except Exception as error:  # code of others raises anything
        raise _failed(engine, f"raised {type(error).__name__}: {error}") from error
    if hasattr(result, "background"):
        level, rms = result.background, getattr(result, "background_rms", None)
    elif isinstance(result, tuple | list) and len(result) == 2:
        level, rms = result
    else:
        level, rms = result, None
    out = _map(engine, level, image.shape, "level")
    if rms is None:
        return Maps(out, None)
    scatter = _map(engine, rms, image.shape, "rms")
    if (scatter < 0).any():
        raise _failed(engine, "returned a negative rms")
    return Maps(out, scatter)


def _failed(engine: str, what: str) -> StepFailed:
    return StepFailed("BKG_ENGINE", f"background: the engine {engine} {what}.")


def _sep(image: NDArray[Any], mask: NDArray[Any], box: int, size: int) -> Any:
    import sep

    found = sep.Background(image, mask=mask, bw=box, bh=box, fw=size, fh=size)
    return found.back(), found.rms()


def _photutils(image: NDArray[Any], mask: NDArray[Any], box: int, size: int) -> Any:
    from photutils.background import Background2D, MeanBackground

    # The mean, because photometry sums pixels; what is masked makes it safe.
    return Background2D(
        image, box, mask=mask, filter_size=size, bkg_estimator=MeanBackground(),
        exclude_percentile=85.0,
    )  # fmt: skip


def _map(engine: str, value: Any, shape: tuple[int, ...], what: str) -> NDArray[np.float32]:
    try:
        plane = np.asarray(getattr(value, "value", value), np.float32)
    except (TypeError, ValueError):
        raise _failed(engine, f"returned a {what} that is not numbers") from None
    if plane.ndim == 0:
        plane = np.full(shape, plane, np.float32)
    if plane.shape != shape:
        raise _failed(engine, f"returned a {what} of shape {plane.shape}; expected {shape}")
    if not np.isfinite(plane).all():
        raise _failed(engine, f"returned a {what} that is not finite")
    return plane


def as_background(
    maps: Maps, rms: NDArray[np.float64], box_size_px: int, level_err: float
) -> Background:
    """Return maps as a background: a mesh if its spline is the map, else the map itself.

    Parameters
    ----------
    maps : Maps
        What the engine returned.
    rms : ndarray of float64, shape (my, mx)
        Our own scatter of the cells, for an engine that tells none.
    box_size_px : int
        Side of a cell.
    level_err : float
        Error of the level of a cell.
    """
    ny, nx = maps.level.shape
    shape = (ny, nx)
    scatter = rms if maps.rms is None else _at_centres(maps.rms, rms.shape, box_size_px)
    level = _at_centres(maps.level, rms.shape, box_size_px)
    expanded = expand_spline(level, shape, box_size_px, extrapolate=True)
    limit = _SAME_SIGMA * float(np.median(scatter))
    if float(np.abs(expanded - maps.level).max()) <= limit:
        mesh, noise = level.astype(np.float32), np.maximum(scatter, 0).astype(np.float32)
        return Background(mesh, noise, shape, box_size_px, level_err)
    full = expand_spline(rms, shape, box_size_px) if maps.rms is None else maps.rms
    return Background(maps.level, full, shape, 1, level_err)


def _at_centres(
    plane: NDArray[np.float32], cells: tuple[int, ...], box: int
) -> NDArray[np.float64]:
    """Values at the centres of the cells, linear between pixels and beyond the edges."""
    out = plane.astype(np.float64)
    for axis, n in enumerate(cells):
        size = out.shape[axis]
        where = (np.arange(n) + 0.5) * box - 0.5
        lower = np.clip(np.floor(where).astype(int), 0, max(size - 2, 0))
        upper = np.minimum(lower + 1, size - 1)
        part = (where - lower).reshape((-1, 1) if axis == 0 else (1, -1))
        out = out.take(lower, axis) * (1 - part) + out.take(upper, axis) * part
    return out
