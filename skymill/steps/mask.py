"""Which pixels not to trust: saturated stars and what spilt from them, hits, trails, gaps.

The mask of a calibrated frame comes with what the detector and its masters told. This
step adds what only the exposure itself shows. Saturation is judged where the raw counts
are, in ``calibrate``; here its bits are filled, grown and followed along the read-out
direction. Hits are found by L.A.Cosmic (van Dokkum 2001) with full medians against the
frame's own variance, and must be sharper than the stars of the frame are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import Result, StepFailed
from skymill.frame import Frame, MaskBit
from skymill.kernels.bits import count_bits, flagged, with_no_data
from skymill.steps._coarse_sky import CoarseSky, coarse_sky
from skymill.steps._hits import ENGINES, find_hits
from skymill.steps._saturation import mark_saturated
from skymill.steps.trails import find_trails

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["mask"]

#: Smaller frames are not searched for trails.
_TRAIL_SIDE_PX = 128


def mask(
    frame: Frame,
    *,
    user_bits: NDArray[np.uint16] | None = None,
    cosmics: bool = True,
    engine: str = "skymill",
    sigclip: float = 5.0,
    sigfrac: float = 0.3,
    objlim: float | None = None,
    niter: int = 4,
    sharp_sigma: float = 2.5,
    grow_saturated_px: int = 1,
    bleed: bool = True,
    readout: str = "columns",
    trails: bool = True,
    trail_options: dict[str, Any] | None = None,
    edge_px: int = 0,
    max_bad_fraction: float = 0.5,
) -> Result[NDArray[np.uint16]]:
    """Return the final mask of a calibrated frame.

    Parameters
    ----------
    frame : Frame
        Calibrated frame in electron. Not modified.
    user_bits : ndarray of uint16, shape (ny, nx), optional
        Bits to add, from `skymill.masks.apply_user_masks`.
    cosmics : bool
        Search hits; if not, the frame is flagged COSMIC_OFF.
    engine : str
        ``"skymill"``, ``"astroscrappy"`` (separable medians), ``"astroscrappy_exact"``.
    sigclip, sigfrac : float
        Thresholds of L.A.Cosmic: Laplacian in sigma, fraction of it for neighbours.
    objlim : float, optional
        Contrast between Laplacian and fine structure; None: by the sampling of the frame.
    niter : int
        Iterations.
    sharp_sigma : float
        A group of hits must be so many sigma sharper than a star; 0 acquits nothing.
    grow_saturated_px : int
        Growth of saturated regions in px.
    bleed : bool
        Follow charge that bled.
    readout : str
        ``"columns"`` or ``"rows"``: the direction in which charge is moved.
    trails : bool
        Search trails of satellites and aircraft.
    trail_options : dict, optional
        Keyword arguments of `skymill.steps.trails.find_trails`.
    edge_px : int
        Pixels closer than this to the edge get EDGE.
    max_bad_fraction : float
        More bad pixels than this flag the frame DEAD_AREA.

    Returns
    -------
    Result of ndarray of uint16, shape (ny, nx)
        ``frame.mask`` with NO_DATA, EDGE, the user's bits, SATURATED, BLEED, COSMIC and
        TRAIL added. Numbers: ``n_cosmics``, ``n_cosmic_px``, ``n_stars_acquitted`` (groups
        that L.A.Cosmic took for hits though they are no sharper than the stars),
        ``star_fwhm_px`` (as measured for that; 0 with too few stars), ``n_saturated_px``,
        ``n_bleeds``, ``n_bleed_px``, ``n_trails``, ``n_trail_px``, ``n_user_px``,
        ``n_bad_px``, ``masked_fraction``.

    Raises
    ------
    StepFailed
        ALL_MASKED if no pixel is good.
    ValueError
        For an engine or direction that does not exist.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if readout not in ("columns", "rows"):
        raise ValueError(f"readout must be 'columns' or 'rows', got {readout!r}")
    bits = _initial(frame, user_bits, edge_px)
    sky = coarse_sky(frame, bits)
    numbers: dict[str, Any] = {"n_cosmic_px": 0, "n_cosmics": 0, "n_stars_acquitted": 0,
                               "star_fwhm_px": 0.0}  # fmt: skip
    bleeds = mark_saturated(
        frame, bits, sky, grow_px=grow_saturated_px, bleed=bleed, readout=readout
    )
    if cosmics and min(frame.shape) >= 5:
        found = find_hits(
            frame, bits, sky, engine=engine, sigclip=sigclip, sigfrac=sigfrac, objlim=objlim,
            niter=niter, sharp_sigma=sharp_sigma,
        )  # fmt: skip
        _set(bits, found.mask, MaskBit.COSMIC)
        numbers |= {"n_cosmic_px": found.n_px, "n_cosmics": found.n,
                    "n_stars_acquitted": found.acquitted,
                    "star_fwhm_px": 0.0 if np.isnan(found.fwhm_px) else found.fwhm_px}  # fmt: skip
    numbers |= _search_trails(frame, bits, sky, trail_options or {}) if trails else _NO_TRAILS
    numbers |= {"n_bleeds": bleeds, "n_user_px": _count(user_bits)}
    return _result(bits, numbers, cosmics, max_bad_fraction)


_NO_TRAILS = {"n_trails": 0, "n_trail_px": 0}


def _initial(
    frame: Frame, user_bits: NDArray[np.uint16] | None, edge_px: int
) -> NDArray[np.uint16]:
    """What is known before anything is searched."""
    bits = np.asarray(with_no_data(frame.sci, frame.err, frame.mask, _bit(MaskBit.NO_DATA)))
    if user_bits is not None:
        bits |= user_bits
    if edge_px > 0:
        edge = np.uint16(int(MaskBit.EDGE))
        for part in (np.s_[:edge_px], np.s_[-edge_px:], np.s_[:, :edge_px], np.s_[:, -edge_px:]):
            bits[part] |= edge
    _refuse_all_masked(bits, _count(bits, MaskBit.bad()))
    return bits


def _set(bits: NDArray[np.uint16], where: NDArray[np.bool_], bit: MaskBit) -> None:
    """Set a bit where something is true, in place and without a plane in between."""
    np.bitwise_or(bits, np.uint16(int(bit)), out=bits, where=where)


def _search_trails(
    frame: Frame, bits: NDArray[np.uint16], sky: CoarseSky, options: dict[str, Any]
) -> dict[str, int]:
    """Add TRAIL, in place; return the numbers."""
    if min(frame.shape) < _TRAIL_SIDE_PX:
        return _NO_TRAILS
    level, rms = sky.maps(frame.shape)
    bad = flagged(bits, _bit(MaskBit.bad()))
    found, trails = find_trails(frame.sci, level, rms, bad, **options)
    if trails:
        _set(bits, found, MaskBit.TRAIL)
    return {"n_trails": len(trails), "n_trail_px": int(np.count_nonzero(found)) if trails else 0}


def _count(bits: NDArray[np.uint16] | None, which: MaskBit | None = None) -> int:
    if bits is None:
        return 0
    return int(count_bits(bits, _bit(MaskBit(0xFFFF) if which is None else which)))


def _bit(which: MaskBit) -> np.uint16:
    return np.uint16(int(which))


def _refuse_all_masked(bits: NDArray[np.uint16], n_bad: int) -> None:
    if n_bad == bits.size:
        raise StepFailed("ALL_MASKED", f"mask: none of {bits.size} pixels is good.", n_bad_px=n_bad)


def _result(
    bits: NDArray[np.uint16], numbers: dict[str, Any], cosmics: bool, max_bad_fraction: float
) -> Result[NDArray[np.uint16]]:
    n_bad = _count(bits, MaskBit.bad())
    fraction = n_bad / bits.size
    _refuse_all_masked(bits, n_bad)
    flags: list[tuple[str, str]] = []
    if fraction > max_bad_fraction:
        flags.append(
            (
                "DEAD_AREA",
                f"mask: {fraction:.1%} of the pixels are bad, more than {max_bad_fraction:.1%} "
                "(settings: mask.max_bad_fraction).",
            )
        )
    if not cosmics:
        flags.append(
            ("COSMIC_OFF", "mask: cosmic rays were not searched (settings: mask.cosmics).")
        )
    bits.flags.writeable = False
    return Result(
        bits,
        tuple(flags),
        {
            **numbers,
            "n_saturated_px": _count(bits, MaskBit.SATURATED),
            "n_bleed_px": _count(bits, MaskBit.BLEED),
            "n_bad_px": n_bad,
            "masked_fraction": fraction,
        },
    )
