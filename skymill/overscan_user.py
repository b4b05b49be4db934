"""Overscan methods of the user, named by their import path ``package.module:name``.

What the name stands for may have one of two forms.

* A *function* ``method(image, overscans) -> corrected``: the raw image as float64 and a
  list of areas ``dict(xmin, xmax, ymin, ymax)``, 0-based and half-open; it returns the
  image without its level, of the shape of the raw image or of the data section.
* An *object* with ``__call__``, or a class that is called without arguments to make one:
  called with the keywords ``raw_image``, ``overscans``, ``image_area`` (an area too) and
  ``gain`` (electron/ADU), it returns ``dict(correction=..., variance=...)``: the level of
  the data section (ADU) and its variance (ADU^2), each a number or of shape (ny, 1),
  (1, nx) or (ny, nx). If it has a method ``document_in_fits_header(header)``, the cards
  that this sets go into the header of the product.

Modules are looked up where Python finds them, then in the working directory, which is
the folder of the project during a run.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from astropy.io import fits

from skymill.errors import ConfigError, ScienceFailure, StepFailed
from skymill.user_functions import code_of, load_function

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from skymill.readout import Amplifier
    from skymill.sections import Section

__all__ = ["UserLevel", "load_method", "user_level"]

#: Differences along an axis that are taken for rounding of a corrected image (ADU).
SAME_ADU = 0.01


class UserLevel(NamedTuple):
    """Level (ADU) and variance (ADU^2), same shape (ny or 1, nx or 1), as stored; cards."""

    level: NDArray[np.float64]
    variance: NDArray[np.float64]
    cards: tuple[tuple[str, Any, str], ...]


def load_method(path: str) -> Any:
    """Return what an import path stands for; a new object if it is a class.

    Parameters
    ----------
    path : str
        ``package.module:name``; the name may have dots.

    Raises
    ------
    ConfigError
        If there is no such module or name, it cannot be imported, or is not callable.
    """
    found = load_function(path, "overscan method")
    if inspect.isclass(found):
        raise ConfigError(
            f"overscan method {path!r} cannot be loaded: the class must be made without arguments"
        )
    return found


def user_level(
    path: str,
    raw: NDArray[Any],
    amplifier: Amplifier,
    areas: Sequence[Section],
    noise_adu: float,
) -> UserLevel:
    """Call a method of the user.

    Parameters
    ----------
    path : str
        Its import path.
    raw : ndarray, shape (ny, nx)
        Raw image (ADU).
    amplifier : Amplifier
        Its data section and gain.
    areas : sequence of Section
        Overscans without common pixels, for the variance.
    noise_adu : float
        Scatter of an overscan pixel (ADU).

    Returns
    -------
    UserLevel
        Where the method gives no variance, that of a mean of the overscan pixels that a
        value of the level can rest on: of all of them for one level, of the pixels of a
        row (column) if it changes from row to row (column to column).

    Raises
    ------
    ConfigError
        Those of `load_method`.
    StepFailed
        ``OVERSCAN_METHOD`` if the method raises, or returns what is not a finite level
        of the expected shape.
    """
    method = load_method(path)
    image = raw.astype(np.float64)
    listed = [_area(one) for one in amplifier.overscans]
    data = amplifier.data
    try:
        if inspect.isroutine(method):
            result = method(image, listed)
        else:
            result = method(
                raw_image=image, overscans=listed, image_area=_area(data),
                gain=amplifier.gain_e_adu,
            )  # fmt: skip
        cards = _documented(method)
    except ScienceFailure:
        raise
    except Exception as error:  # code of the user raises anything
        raise _failed(path, f"raised {type(error).__name__}: {error}") from error
    if isinstance(result, Mapping):
        if "correction" not in result:
            raise _failed(path, "returned no `correction`")
        level = _plane(path, result["correction"], data.shape, "correction")
        told = result.get("variance")
    else:
        level, told = _level_of_image(path, result, raw, data), None
    if told is None:
        variance = _variance(level, areas, noise_adu)
    else:
        variance = _plane(path, told, data.shape, "variance")
        if (variance < 0).any():
            raise _failed(path, "returned a negative variance")
    shape = np.broadcast_shapes(level.shape, variance.shape)
    source = (("OVCODE", code_of(path), "SHA-256 of the method's module (begin)"),)
    return UserLevel(
        np.broadcast_to(level, shape), np.broadcast_to(variance, shape), source + cards
    )


def _failed(path: str, what: str) -> StepFailed:
    return StepFailed("OVERSCAN_METHOD", f"the overscan method {path} {what}. Correct the method.")


def _area(section: Section) -> dict[str, int]:
    return {"xmin": section.x0, "xmax": section.x1, "ymin": section.y0, "ymax": section.y1}


def _plane(path: str, value: Any, shape: tuple[int, int], what: str) -> NDArray[np.float64]:
    """Return a number or array as a plane; axes along which nothing changes have length one."""
    try:
        plane = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise _failed(path, f"returned a {what} that is not numbers") from None
    if plane.ndim == 0:
        plane = plane.reshape(1, 1)
    fits_in = plane.ndim == 2 and all(
        have in (1, want) for have, want in zip(plane.shape, shape, strict=True)
    )
    if not fits_in:
        raise _failed(
            path,
            f"returned a {what} of shape {plane.shape}; expected a number, ({shape[0]}, 1), "
            f"(1, {shape[1]}) or {shape}",
        )
    if not np.isfinite(plane).all():
        raise _failed(path, f"returned a {what} that is not finite")
    return _shrunk(plane, 0.0)


def _shrunk(plane: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Give an axis length one if nothing changes along it."""
    for axis in (0, 1):
        if plane.shape[axis] > 1 and float(np.ptp(plane, axis=axis).max()) <= tolerance:
            first = plane.take([0], axis=axis)
            plane = first if tolerance == 0 else plane.mean(axis=axis, keepdims=True)
    return plane


def _level_of_image(
    path: str, result: Any, raw: NDArray[Any], data: Section
) -> NDArray[np.float64]:
    """Return the level that a corrected image lacks."""
    try:
        corrected = np.asarray(result, np.float64)
    except (TypeError, ValueError):
        raise _failed(path, "returned what is not an image") from None
    if corrected.shape == raw.shape:
        corrected = corrected[data.slices]
    if corrected.shape != data.shape:
        raise _failed(
            path,
            f"returned an image of shape {corrected.shape}; expected {data.shape} or {raw.shape}",
        )
    before = raw[data.slices].astype(np.float64)
    blank = ~np.isfinite(before)
    level = before - corrected
    if blank.any():
        # pixels without a value show no level: they take the mean of the others
        level[blank] = level[~blank].mean() if not blank.all() else 0.0
    if not np.isfinite(level).all():
        raise _failed(path, "returned an image with values that are not finite")
    return _shrunk(level, SAME_ADU)


def _variance(
    level: NDArray[np.float64], areas: Sequence[Section], noise: float
) -> NDArray[np.float64]:
    """Variance of a mean of the pixels that a value of the level can rest on (ADU^2)."""
    total = sum(one.shape[0] * one.shape[1] for one in areas)
    rows = max(one.y1 for one in areas) - min(one.y0 for one in areas)
    columns = max(one.x1 for one in areas) - min(one.x0 for one in areas)
    number = total / (rows if level.shape[0] > 1 else columns if level.shape[1] > 1 else 1)
    return np.full((1, 1), noise**2 / number)


def _documented(method: Any) -> tuple[tuple[str, Any, str], ...]:
    """Cards that an object writes about its last call."""
    document = getattr(method, "document_in_fits_header", None)
    if document is None:
        return ()
    header = fits.Header()
    document(header)
    return tuple((card.keyword, card.value, card.comment) for card in header.cards)
