"""Which pixels not to trust: saturated stars and what bled from them, hits, gaps.

The mask of a calibrated frame comes with what the detector and its masters told. This
step adds what only the exposure itself shows. Saturation is judged where the raw counts
are, in ``calibrate``; here its bits are grown and followed along the columns. Hits are
found by L.A.Cosmic (van Dokkum 2001) against the frame's own variance; the cores of
sharp stars, which fast versions of that algorithm mistake for hits, are acquitted by
the exact form of its test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skymill.errors import Result, StepFailed
from skymill.frame import Frame, MaskBit, has_bits
from skymill.kernels.cosmics import contrast_at, fill_bad

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["mask"]

#: Smaller groups of saturated pixels are hot pixels or hits: nothing bleeds from them.
_MINIMUM_CORE_PX = 4
#: A saturated group narrower and longer than this is a bad column, not a star.
_COLUMN_WIDTH_PX, _COLUMN_LENGTH_PX = 3, 20
#: A trail outshines the star's own profile at the same distance by this factor.
_TRAIL_CONTRAST = 2.0
_TRAIL_SIGMA = 5.0
#: Structure of this relative size in bright light (defocus, flat, seeing) is no hit.
_STRUCTURE = np.float32(0.02)
#: Only pixels this bright, relative to the peak of their group, can prove it a hit: the
#: wings of a star have no fine structure. The strict values hold for undersampled frames.
_WITNESS, _STRICT_WITNESS = 0.1, 0.35
_STRICT_OBJLIM = 1.6
_UNDERSAMPLED_FRACTION = 0.5


class _Cosmics(NamedTuple):
    hits: NDArray[np.bool_]
    acquitted: int


def mask(
    frame: Frame,
    *,
    cosmics: bool = True,
    engine: str = "astroscrappy",
    sigclip: float = 5.0,
    sigfrac: float = 0.3,
    objlim: float = 6.0,
    niter: int = 4,
    grow_saturated_px: int = 1,
    bleed: bool = True,
    max_bad_fraction: float = 0.5,
) -> Result[NDArray[np.uint16]]:
    """Return the final mask of a calibrated frame.

    Parameters
    ----------
    frame : Frame
        Calibrated frame in electron. Not modified.
    cosmics : bool
        Search hits; if not, the frame is flagged COSMIC_OFF.
    engine : str
        ``"astroscrappy"``.
    sigclip, sigfrac, objlim : float
        Thresholds of L.A.Cosmic: Laplacian in sigma, fraction of it for neighbours,
        contrast between Laplacian and fine structure.
    niter : int
        Iterations.
    grow_saturated_px : int
        Growth of saturated regions in px.
    bleed : bool
        Follow charge that bled along columns.
    max_bad_fraction : float
        More bad pixels than this flag the frame DEAD_AREA.

    Returns
    -------
    Result of ndarray of uint16, shape (ny, nx)
        ``frame.mask`` with NO_DATA, SATURATED, BLEED and COSMIC added. Numbers:
        ``n_cosmic_px``, ``n_cosmics``, ``n_stars_acquitted`` (groups that the engine
        took for hits and the exact test did not), ``n_saturated_px``, ``n_bleed_px``,
        ``n_bad_px``, ``masked_fraction``.

    Raises
    ------
    StepFailed
        ALL_MASKED if no pixel is good.
    """
    if engine != "astroscrappy":
        raise ValueError(f"engine must be 'astroscrappy', got {engine!r}")
    bits = frame.mask.copy()
    valid = np.isfinite(frame.sci) & np.isfinite(frame.err) & (frame.err > 0)
    bits[~valid] |= np.uint16(MaskBit.NO_DATA)
    if not (~has_bits(bits, MaskBit.bad())).any():
        raise StepFailed(
            "ALL_MASKED", f"mask: none of {bits.size} pixels is good.", n_bad_px=int(bits.size)
        )
    _mark_saturated(frame, bits, grow_saturated_px, bleed)
    found = _Cosmics(np.zeros(frame.shape, bool), 0)
    if cosmics:
        found = _find_cosmics(frame, bits, sigclip, sigfrac, objlim, niter)
        bits[found.hits] |= np.uint16(MaskBit.COSMIC)
    return _result(bits, found, cosmics, max_bad_fraction)


def _mark_saturated(frame: Frame, bits: NDArray[np.uint16], grow_px: int, bleed: bool) -> None:
    """Add BLEED and grow SATURATED, in place."""
    from scipy import ndimage

    cores = has_bits(bits, MaskBit.SATURATED)
    if not cores.any():
        return
    if bleed:
        bits[_bleed(frame, cores)] |= np.uint16(MaskBit.BLEED)
    if grow_px > 0:
        reach = np.arange(-grow_px, grow_px + 1)
        disk = reach[:, None] ** 2 + reach[None, :] ** 2 <= (grow_px + 0.5) ** 2
        bits[ndimage.binary_dilation(cores, structure=disk)] |= np.uint16(MaskBit.SATURATED)


def _bleed(frame: Frame, cores: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Trails of charge along the columns of saturated cores.

    Charge spills up and down its column. What of a saturated group reaches further along
    the column than the group is wide is a trail; beyond its ends the trail goes on as
    long as a pixel outshines what the star shows at the same distance along the row (a
    star is round, and the spikes of a telescope are a cross; only bleeding is one-sided).
    """
    from scipy import ndimage

    labels, _ = ndimage.label(cores, structure=np.ones((3, 3)))
    out = np.zeros_like(cores)
    sky = float(np.median(frame.sci[frame.good])) if frame.good.any() else 0.0
    signal = np.where(np.isfinite(frame.sci), frame.sci, np.float32(0)) - np.float32(sky)
    noise = float(np.median(frame.err[frame.good])) if frame.good.any() else np.inf
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        group = labels[box] == index
        widths = group.sum(axis=1)
        width = int(widths.max())
        column = width < _COLUMN_WIDTH_PX and group.shape[0] > _COLUMN_LENGTH_PX
        if column or group.sum() < _MINIMUM_CORE_PX:
            continue
        # Middle of the widest rows: the centre of the star.
        rows = np.flatnonzero(widths == width)
        row = int(rows[len(rows) // 2])
        y0 = row + box[0].start
        columns = np.flatnonzero(group[row])
        x0 = int(columns[0] + columns[-1]) // 2 + box[1].start
        y, x = np.nonzero(group)
        far = np.abs(y - row) > width
        out[y[far] + box[0].start, x[far] + box[1].start] = True
        for i in np.flatnonzero(group.any(axis=0)):
            rows = np.flatnonzero(group[:, i])
            for start, step in ((rows[0], -1), (rows[-1], 1)):
                _follow(
                    signal, out, (int(start) + box[0].start, int(i) + box[1].start),
                    step, (y0, x0), _TRAIL_SIGMA * noise,
                )  # fmt: skip
    return out


def _follow(
    signal: NDArray[np.float32],
    out: NDArray[np.bool_],
    start: tuple[int, int],
    step: int,
    centre: tuple[int, int],
    floor: float,
) -> None:
    """Mark pixels from a core along its column while they outshine the star's profile."""
    ny, nx = signal.shape
    y, x = start[0] + step, start[1]
    while 0 <= y < ny:
        distance = abs(y - centre[0])
        sides = [
            signal[centre[0], side]
            for side in (centre[1] - distance, centre[1] + distance)
            if 0 <= side < nx
        ]
        profile = max(sides) if sides else np.float32(0)
        if not signal[y, x] > max(_TRAIL_CONTRAST * max(float(profile), 0.0), floor):
            return
        out[y, x] = True
        y += step


def _find_cosmics(
    frame: Frame,
    bits: NDArray[np.uint16],
    sigclip: float,
    sigfrac: float,
    objlim: float,
    niter: int,
) -> _Cosmics:
    from astroscrappy import detect_cosmics
    from scipy import ndimage

    bad = has_bits(bits, MaskBit.bad())
    level = np.float32(np.median(frame.sci[~bad]))
    # Saturated cores keep their height: a hole in a star would look like a ring of hits.
    bright = has_bits(bits, MaskBit.SATURATED | MaskBit.BLEED | MaskBit.NONLINEAR)
    holes = (bad & ~bright) | ~np.isfinite(frame.sci)
    image = fill_bad(frame.sci, holes, float(level))
    unknown = ~(np.isfinite(frame.err) & (frame.err > 0))
    err = fill_bad(frame.err, holes | unknown, float(np.median(frame.err[~bad])))
    variance = err * err + (_STRUCTURE * np.maximum(image - level, np.float32(0))) ** 2
    hits, _ = detect_cosmics(
        image,
        inmask=bad,
        invar=variance,
        sigclip=sigclip,
        sigfrac=sigfrac,
        objlim=objlim,
        gain=1.0,
        readnoise=0.0,
        satlevel=np.inf,
        niter=niter,
        sepmed=True,
    )
    hits = np.asarray(hits, bool) & ~holes
    labels, count = ndimage.label(hits, structure=np.ones((3, 3)))
    if count == 0:
        return _Cosmics(hits, 0)
    kept = _prove(image, variance, hits, labels, count, level, objlim)
    return _Cosmics(np.asarray(kept[labels]), int(count - kept[1:].sum()))


def _prove(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    hits: NDArray[np.bool_],
    labels: NDArray[np.integer],
    count: int,
    level: np.float32,
    objlim: float,
) -> NDArray[np.bool_]:
    """Which groups the exact test confirms, indexed by label (0 is no group).

    In an undersampled frame most groups are stars. There only pixels near the peak of a
    group may testify, against a higher limit.
    """
    from scipy import ndimage

    index = np.arange(1, count + 1)
    contrast = contrast_at(image, variance, hits)
    height = image - level
    peak = np.concatenate(([np.inf], ndimage.maximum(height, labels, index)))[labels]

    def proved(witness: float, limit: float) -> NDArray[np.bool_]:
        testimony = np.where(height >= witness * peak, contrast, np.float32(0))
        best = ndimage.maximum(testimony, labels, index)
        return np.concatenate(([False], np.asarray(best) > limit))

    strict = proved(_STRICT_WITNESS, _STRICT_OBJLIM * objlim)
    if strict[1:].mean() < 1 - _UNDERSAMPLED_FRACTION:
        return strict
    return proved(_WITNESS, objlim)


def _result(
    bits: NDArray[np.uint16], found: _Cosmics, cosmics: bool, max_bad_fraction: float
) -> Result[NDArray[np.uint16]]:
    from scipy import ndimage

    n_bad = int(has_bits(bits, MaskBit.bad()).sum())
    fraction = n_bad / bits.size
    if n_bad == bits.size:
        raise StepFailed("ALL_MASKED", f"mask: none of {bits.size} pixels is good.", n_bad_px=n_bad)
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
            "n_cosmic_px": int(found.hits.sum()),
            "n_cosmics": int(ndimage.label(found.hits, structure=np.ones((3, 3)))[1]),
            "n_stars_acquitted": found.acquitted,
            "n_saturated_px": int(has_bits(bits, MaskBit.SATURATED).sum()),
            "n_bleed_px": int(has_bits(bits, MaskBit.BLEED).sum()),
            "n_bad_px": n_bad,
            "masked_fraction": fraction,
        },
    )
