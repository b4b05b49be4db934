"""A mask of one array in one call, with the signature of STDPipe's ``make_mask``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.kernels.cosmics import fill_bad
from skymill.kernels.lacosmic import lacosmic
from skymill.sections import parse_section

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["make_mask", "pile_up"]

_log = logging.getLogger("skymill.masks")

#: The histogram from half the range to the maximum has so many bins; a pile-up has at
#: least so many pixels within three bins (6 per cent of the range at most).
_BINS, _LEAST_PX, _WIDTH = 50, 8, 3
#: It holds this many times what bins further down hold on average, and what lies above it
#: is at most this fraction of it: hot pixels and hits.
_CONTRAST, _ABOVE = 4.0, 0.25


def make_mask(
    image: NDArray[Any],
    header: Mapping[str, Any] | None = None,
    saturation: float | bool | None = None,
    external_mask: NDArray[Any] | None = None,
    mask_cosmics: bool = False,
    gain: float | None = None,
    verbose: bool | Callable[..., Any] = True,
) -> NDArray[np.bool_]:
    """Return which pixels of an image not to use.

    Not finite; outside TRIMSEC or DATASEC; at or above saturation; in the external mask;
    cosmic rays. For named bits and error maps use the chain (`skymill.Calibrator`).

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Image in ADU, any number type and byte order. Not modified.
    header : mapping, optional
        Header with TRIMSEC and DATASEC, ``[x1:x2,y1:y2]``, counted from 1, ends included;
        or one of each per amplifier, numbered from 1.
    saturation : float or bool, optional
        Level in ADU. True: the header's SATURATE, else the level of a pile-up in the
        histogram, see `pile_up`; nothing is masked if there is none.
    external_mask : ndarray, shape (ny, nx), optional
        Pixels that are not zero are masked.
    mask_cosmics : bool
        Search cosmic rays by L.A.Cosmic (`skymill.kernels.lacosmic`) against the rms of
        the sky and, with ``gain``, the photons above it.
    gain : float, optional
        Gain in electron/ADU.
    verbose : bool or callable
        True: log; a callable gets the messages.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
        True is bad.

    Raises
    ------
    FrameRejected
        ``BAD_SECTION`` if a section is malformed or leaves the image.
    ValueError
        If the shapes do not agree.
    """
    tell = verbose if callable(verbose) else _log.info if verbose else _silent
    plane = np.asarray(image)
    if plane.ndim != 2:
        raise ValueError(f"an image has two axes, got shape {plane.shape}")
    mask = ~np.isfinite(plane)
    for keyword in ("TRIMSEC", "DATASEC"):
        texts = _sections(header or {}, keyword)
        if texts:
            outside = np.ones(plane.shape, bool)
            for text in texts:
                shape = (plane.shape[0], plane.shape[1])
                outside[parse_section(text, shape, name=keyword).slices] = False
            tell(f"masking the region outside of {keyword} = {' and '.join(texts)}")
            mask |= outside
    level = _saturation(plane, mask, saturation, header or {})
    if level is not None:
        tell(f"masking pixels at or above {level:.1f} ADU")
        with np.errstate(invalid="ignore"):
            mask |= plane >= level
    elif saturation is True:
        tell("no saturation level: nothing piles up in the histogram")
    if external_mask is not None:
        given = np.asarray(external_mask)
        if given.shape != plane.shape:
            raise ValueError(f"external_mask must have shape {plane.shape}, got {given.shape}")
        mask |= given.astype(bool)
    if mask_cosmics:
        hits = _cosmics(plane, mask, level, gain)
        tell(f"masking {int(hits.sum())} pixels of cosmic rays")
        mask |= hits
    tell(f"{int(mask.sum())} pixels ({mask.mean():.1%}) are masked")
    return mask


def pile_up(image: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> float | None:
    """Return the level at which pixels saturate, or None if none do.

    Saturated pixels pile up at one level (or, after flat-fielding, within a few per
    cent); the peaks of stars do not: of a star, far fewer pixels lie within a few per
    cent of the peak than between half the peak and there.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Image, sky inside.
    mask : ndarray of bool, optional
        Pixels to leave out.

    Returns
    -------
    float or None
        Lower end of the pile.
    """
    values = np.asarray(image)
    good = np.isfinite(values) if mask is None else ~mask & np.isfinite(values)
    known = values[good].astype(np.float64)
    if known.size < 2:
        return None
    sky, top = float(np.median(known)), float(known.max())
    if not top > sky:
        return None
    middle = sky + (top - sky) / 2
    bright = known[known >= middle]
    counts, edges = np.histogram(bright, bins=_BINS, range=(middle, top))
    piles = np.convolve(counts, np.ones(_WIDTH), "same")
    peak = int(np.argmax(piles))
    below = counts[max(0, peak - 20) : max(0, peak - _WIDTH)]
    expected = float(below.mean()) * _WIDTH if below.size else np.inf
    above = int(counts[peak + _WIDTH :].sum())
    if piles[peak] < max(_LEAST_PX, _CONTRAST * expected) or above > _ABOVE * piles[peak]:
        return None
    floor = max(0.05 * float(counts[peak - 1 : peak + 2].max()), 2 * expected / _WIDTH)
    first = peak + 1 if peak + 1 < _BINS and counts[peak + 1] > floor else peak
    while first > 0 and counts[first - 1] > floor:
        first -= 1
    return float(bright[bright >= edges[first]].min())


def _sections(header: Mapping[str, Any], keyword: str) -> list[str]:
    """The section of a keyword, or those of the amplifiers (DATASEC1, DATASEC2, ...)."""
    names = [keyword] if str(header.get(keyword) or "").strip() else []
    for n in range(1, 100) if not names else ():
        if not str(header.get(f"{keyword}{n}") or "").strip():
            break
        names.append(f"{keyword}{n}")
    return [str(header[name]).strip() for name in names]


def _silent(*_: object) -> None:
    """Say nothing."""


def _saturation(
    plane: NDArray[Any],
    mask: NDArray[np.bool_],
    saturation: float | bool | None,
    header: Mapping[str, Any],
) -> float | None:
    if saturation is None or saturation is False:
        return None
    if saturation is not True:
        return float(saturation)
    told = header.get("SATURATE")
    if isinstance(told, (int, float)) and not isinstance(told, bool) and told > 0:
        return float(told)
    return pile_up(plane, mask)


def _cosmics(
    plane: NDArray[Any], mask: NDArray[np.bool_], level: float | None, gain: float | None
) -> NDArray[np.bool_]:
    import sep

    image = np.ascontiguousarray(plane, np.float32)
    if mask.all():
        return np.zeros(mask.shape, bool)
    holes = ~np.isfinite(image)
    sky = sep.Background(np.where(holes, np.float32(0), image), mask=mask)
    variance = sky.rms() ** 2
    if gain:
        with np.errstate(invalid="ignore"):
            variance += np.maximum(image - sky.back(), np.float32(0)) / np.float32(gain)
    if holes.any():
        image = fill_bad(image, holes, float(sky.globalback))
        variance = fill_bad(variance, holes, float(sky.globalrms) ** 2)
    scale = float(gain or 1.0)
    found = lacosmic(
        image * np.float32(scale),
        variance=variance.astype(np.float32) * np.float32(scale * scale),
        mask=mask,
        sigclip=4.5,
        sigfrac=0.3,
        objlim=5.0,
        niter=4,
        satlevel=np.inf if level is None else level * scale,
    )
    return found.mask
