"""What the three kinds of master have in common: intake, comparison, combination.

A master is made in two passes. The first reads every frame once, measures its overscan
and keeps a sample of boxes for statistics. Frames that do not fit the group are
rejected and named. The second combines the others in bands of rows, amplifier by
amplifier.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from skymill.frame import MaskBit, Master, has_bits
from skymill.kernels.combine import Combined, Scatter, Terms, combine
from skymill.kernels.combine_bands import linearise as linearise_rows
from skymill.steps.masters_compare import pair_noise, reject_odd_levels, shortest_half
from skymill.steps.masters_intake import (
    Intake,
    LoadedFrame,
    MasterFailed,
    RawInput,
    check_master,
    sample_plane,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from skymill.errors import Outcome
    from skymill.readout import Amplifier

__all__ = [
    "Intake",
    "LoadedFrame",
    "MasterFailed",
    "MasterProduct",
    "RawInput",
    "amplifier_cards",
    "amplifier_figure",
    "base_header",
    "base_mask",
    "check_master",
    "combine_frames",
    "good_median",
    "pair_noise",
    "permanent",
    "reject_odd_levels",
    "sample_plane",
    "shortest_half",
    "stack_terms",
    "with_changes",
]

#: Rejected fraction above which a frame is named; the noise model expects below 0.0005.
CLIPPED_MUCH = 0.02
#: Mask bits of masters that a corrected frame inherits.
PERMANENT = MaskBit.HOT | MaskBit.COLD | MaskBit.DEAD | MaskBit.LOW_FLAT | MaskBit.NONLINEAR


@dataclass(frozen=True, eq=False)
class MasterProduct:
    """A master, and what became of the frames that were meant for it.

    Parameters
    ----------
    master : Master
        The combined frame.
    outcomes : list of Outcome
        One per input, in the order of the inputs.
    numbers : dict
        Figures of the master.
    """

    master: Master
    outcomes: list[Outcome]
    numbers: dict[str, Any] = field(default_factory=dict)


def stack_terms(
    frames: Sequence[LoadedFrame], amp: int, quiet: float | None = None, gain: float | None = None
) -> Terms:
    """Levels and noise of one amplifier of the frames.

    Parameters
    ----------
    frames : sequence of LoadedFrame
        The group.
    amp : int
        Number of the amplifier.
    quiet, gain : float, optional
        Variance without light (ADU^2) and gain (electron/ADU) in place of the declared
        figures.
    """
    declared = [frame.readout.amplifiers[amp] for frame in frames]
    noise = [
        (one.dark_variance_adu2 if quiet is None else quiet)
        + float(frame.levels[amp].variance.mean())
        for one, frame in zip(declared, frames, strict=True)
    ]
    return Terms(
        level=np.stack([frame.row_level(amp) for frame in frames]),
        noise=np.array(noise),
        gain=np.array([one.gain_e_adu if gain is None else gain for one in declared]),
        saturation=np.array([frame.saturation(amp) for frame in frames]),
    )


def with_changes(terms: Terms, **changes: Any) -> Terms:
    """Return terms with some entries replaced."""
    return replace(terms, **changes)


def combine_frames(
    intake: Intake,
    terms: Callable[[Sequence[LoadedFrame], int], Terms],
    minimum: int,
    name: str,
    *,
    base: NDArray[np.float32] | None = None,
    extra: NDArray[np.float32] | None = None,
    linearise: bool = False,
    **options: Any,
) -> Combined:
    """Second pass: combine what is left of a group, amplifier by amplifier.

    Parameters
    ----------
    intake : Intake
        The group.
    terms : callable
        ``terms(frames, amplifier)`` returns levels and noise of that amplifier.
    minimum, name
        For the failure if too few frames are left.
    base, extra : ndarray of float32, shape (ny, nx), optional
        Planes of the assembled frame, see `skymill.kernels.combine.combine`.
    linearise : bool
        Linearise the pixels of amplifiers with a linearity correction, after their level
        and ``base`` were subtracted and before ``extra`` is. The noise in the terms must
        then be that of linear pixels: multiplied by the square of the slope.
    **options
        Further arguments of `skymill.kernels.combine.combine`.

    Returns
    -------
    Combined
        Of the assembled frame.
    """
    intake.require(minimum, name)
    frames = list(intake.loaded)
    pieces = []
    for amp, one in enumerate(intake.amplifiers):
        at = one.place.slices
        below, above = (None if plane is None else plane[at] for plane in (base, extra))
        own = terms(frames, amp)
        readers: list[Any] = [frame.parts[amp].rows for frame in frames]
        if linearise and one.linearity is not None:
            readers = [_linear_reader(i, amp, frames[i], own, below) for i in range(len(frames))]
            zero = np.zeros(len(frames))
            own = replace(own, level=0 * own.level, base=zero, saturation=zero + np.inf)
            below = None
        pieces.append(combine(readers, one.place.shape, own, base=below, extra=above, **options))
    combined = _pasted(pieces, intake)
    for frame, fraction in zip(frames, combined.rejected, strict=True):
        frame.numbers["rejected_fraction"] = float(fraction)
        if options.get("method", "clipped") in ("clipped", "weighted") and fraction > CLIPPED_MUCH:
            text = (
                f"{100 * fraction:.1f} % of the pixels were rejected against the noise "
                "model; look at this frame."
            )
            frame.flags.append(("CLIPPED_MUCH", text))
    return combined


def _linear_reader(
    i: int, amp: int, frame: LoadedFrame, terms: Terms, base: NDArray[np.float32] | None
) -> Callable[[int, int], NDArray[np.float32]]:
    """Reader of rows without level and base, linearised; infinite where saturated."""
    rule = frame.readout.amplifiers[amp].linearity
    assert rule is not None
    level, factor, top = terms.level[i], float(terms.base[i]), float(terms.saturation[i])

    def read(y0: int, y1: int) -> NDArray[np.float32]:
        raw = np.array(frame.parts[amp].rows(y0, y1), order="C")
        out = np.empty(raw.shape, np.float32)
        plane = np.zeros(raw.shape, np.float32)
        if base is not None and factor != 0:
            plane[...] = base[y0:y1]
        linearise_rows(raw, out, level[y0:y1], plane, factor, rule.values, rule.step_adu, top)
        return out

    return read


def _pasted(pieces: Sequence[Combined], intake: Intake) -> Combined:
    """Put the amplifiers on their places; one that is alone is returned as it is."""
    if len(pieces) == 1:
        return pieces[0]
    first = pieces[0]
    planes = {
        name: np.empty(intake.shape, getattr(first, name).dtype)
        for name in ("value", "err", "n_used", "conflict")
    }
    for one, piece in zip(intake.amplifiers, pieces, strict=True):
        for name, plane in planes.items():
            plane[one.place.slices] = getattr(piece, name)
    counts = np.sum([piece.counts for piece in pieces], axis=0)
    return Combined(**planes, counts=counts, scatter=_pasted_scatter(pieces, intake))


def _pasted_scatter(pieces: Sequence[Combined], intake: Intake) -> Scatter | None:
    first = pieces[0].scatter
    if first is None:
        return None
    n_in, n_out = np.empty((2, *intake.shape), np.uint16)
    out = Scatter(np.empty(intake.shape, np.float32), n_in, n_out, first.excess)
    for one, piece in zip(intake.amplifiers, pieces, strict=True):
        for name in ("chi2", "n_in", "n_out"):
            getattr(out, name)[one.place.slices] = getattr(piece.scatter, name)
    return out


def base_header(
    kind: str, name: str, intake: Intake, combined: Combined, method: str
) -> fits.Header:
    """Cards common to all masters."""
    first = intake.loaded[0]
    header = fits.Header()
    header["IMAGETYP"] = (f"MASTER {kind.upper()}", "kind of frame")
    if name:
        header["MASTERID"] = (name, "name of this master")
    header["NCOMBINE"] = (len(intake.loaded), "frames combined")
    header["COMBINE"] = (method, "estimator")
    header["GAIN"] = (first.readout.gain_e_adu, "[electron/adu] declared gain")
    header["RDNOISE"] = (first.readout.read_noise_e, "[electron] declared read noise")
    header["OVSCAN"] = (first.overscan.method, "overscan: statistic and fit")
    if len(intake.amplifiers) == 1:
        header["TRIMSEC"] = (str(intake.amplifiers[0].data), "section of the raw image")
    if first.source.row.get("area"):
        header["CCDSEC"] = (str(first.source.row["area"]), "part of the detector")
    header["MAXREJ"] = (float(combined.rejected.max()), "largest rejected fraction of a frame")
    return header


def amplifier_cards(
    amplifiers: Sequence[Amplifier],
    *,
    gain: Sequence[float] | None = None,
    gain_err: Sequence[float] | None = None,
    noise_adu: Sequence[float] | None = None,
    dark_e_s: Sequence[float] | None = None,
) -> fits.Header:
    """Cards of the single amplifiers, declared and measured.

    Parameters
    ----------
    amplifiers : sequence of Amplifier
        In the order of the instrument file.
    gain, gain_err, noise_adu, dark_e_s : sequence of float, optional
        Measured figures by amplifier; those that are not positive and finite are left out.

    Returns
    -------
    astropy.io.fits.Header
        For one amplifier ``GAINMEAS``, ``GAINERR``, ``RNADU`` and ``DARKCUR``. For
        several, numbered from 1, ``AMPn`` (name), ``AMPSECn`` (place), ``GAINn``,
        ``RDNn`` (declared), ``GAINMn``, ``GAINEn``, ``RNADUn`` and ``DARKCn`` (measured).
        `amplifier_figure` reads them.
    """
    header = fits.Header()
    several = len(amplifiers) > 1
    for n, one in enumerate(amplifiers, 1):
        if several:
            header[f"AMP{n}"] = (one.name, f"name of amplifier {n}")
            header[f"AMPSEC{n}"] = (str(one.place), "its place on this frame")
            header[f"GAIN{n}"] = (one.gain_e_adu, "[electron/adu] its declared gain")
            header[f"RDN{n}"] = (one.read_noise_e, "[electron] its declared read noise")
        for (single, many, comment), values in zip(
            _MEASURED, (gain, gain_err, noise_adu, dark_e_s), strict=True
        ):
            value = np.nan if values is None else float(values[n - 1])
            if value > 0 and np.isfinite(value):
                header[f"{many}{n}" if several else single] = (value, comment)
    return header


_MEASURED = (
    ("GAINMEAS", "GAINM", "[electron/adu] gain between flats"),
    ("GAINERR", "GAINE", "[electron/adu] its standard error"),
    ("RNADU", "RNADU", "[adu] read noise between frames"),
    ("DARKCUR", "DARKC", "[electron/s] dark current"),
)


def amplifier_figure(header: Mapping[str, Any], keyword: str, amp: int, count: int) -> float | None:
    """Return a measured figure of an amplifier from the header of a master.

    Parameters
    ----------
    header : mapping
        Header of the master.
    keyword : str
        ``GAINMEAS``, ``GAINERR``, ``RNADU`` or ``DARKCUR``.
    amp, count : int
        Number of the amplifier, from 0, and how many there are.

    Returns
    -------
    float or None
        None if the master does not know it.
    """
    name = keyword
    if count > 1:
        name = {single: many for single, many, _ in _MEASURED}[keyword] + str(amp + 1)
    value = header.get(name)
    return None if value is None else float(value)


def base_mask(combined: Combined) -> NDArray[np.uint16]:
    """Mask of the combination: no value, or values in conflict."""
    mask = np.zeros(combined.value.shape, np.uint16)
    mask[~np.isfinite(combined.value)] |= np.uint16(MaskBit.NO_DATA)
    mask[combined.conflict] |= np.uint16(MaskBit.COSMIC)
    return mask


def permanent(master: Master | None, shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Bits of a master that everything corrected with it inherits."""
    if master is None:
        return np.zeros(shape, np.uint16)
    return master.mask & np.uint16(PERMANENT)


def good_median(plane: NDArray[np.float32], mask: NDArray[np.uint16]) -> float:
    """Median of the finite pixels without a disqualifying bit; NaN if there is none.

    Of a large plane every k-th pixel of every k-th row counts: a million pixels are
    enough.
    """
    step = max(1, int((plane.size / 1_000_000) ** 0.5))
    plane, mask = plane[::step, ::step], mask[::step, ::step]
    good = np.isfinite(plane) & ~has_bits(mask, MaskBit.bad())
    return float(np.median(plane[good])) if good.any() else np.nan
