"""How masters change with time: patterns, levels, gain, read noise and hot pixels.

Masters of one kind, read-out mode, filter, exposure and temperature are a series. Each
is compared with the one before it, pixel by pixel in units of the combined error, and
its figures with the median of all earlier ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.frame import MaskBit, has_bits
from skymill.robust import robust_sigma
from skymill.sections import parse_section
from skymill.steps.masters_common import amplifier_figure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from skymill.sections import Section

__all__ = ["COLUMNS", "MasterSample", "Seen", "master_history", "series"]

STEP = "master_history"
#: A pixel that differs by more than this is counted: Gaussian noise leaves 6e-7.
FAR_SIGMA = 5.0
#: A gain must differ by this many standard errors to have drifted.
GAIN_SIGMA = 4.0
#: Fewer common good pixels than this say nothing about a pattern.
FEWEST_PIXELS = 100

#: Columns of the table: type, unit, meaning.
COLUMNS: dict[str, tuple[str, str | None, str]] = {
    "series": ("U", None, "masters that are compared with each other"),
    "master": ("U", None, "master"),
    "kind": ("U", None, "bias, dark, flat_dark or flat"),
    "night": ("U", None, "night of its frames, the first of several"),
    "amplifier": ("U", None, "amplifier, empty if there is one"),
    "previous": ("U", None, "master that it is compared with, empty for the first"),
    "n_frames": ("i8", None, "frames combined"),
    "n_hot": ("i8", None, "hot pixels of the whole master, -1 where they are not searched"),
    "level": ("f8", None, "median of the good pixels: adu, for flats relative"),
    "level_change": ("f8", None, "level less that of the previous master"),
    "pattern_sigma": ("f8", None, "robust scatter of the difference in units of its error"),
    "pattern_excess": ("f8", None, "scatter of the difference that its error does not explain"),
    "changed_fraction": ("f8", None, "fraction of pixels that differ by more than 5 sigma"),
    "gain_e_adu": ("f8", "electron / adu", "gain measured from the frames"),
    "gain_err_e_adu": ("f8", "electron / adu", "its standard error"),
    "gain_declared_e_adu": ("f8", "electron / adu", "gain of the instrument file"),
    "gain_ratio": ("f8", None, "measured over declared gain"),
    "read_noise_e": ("f8", "electron", "read noise measured between the frames"),
    "read_noise_declared_e": ("f8", "electron", "read noise of the instrument file"),
    "read_noise_ratio": ("f8", None, "measured over declared read noise"),
    "flags": ("U", None, "reason codes joined by ;"),
}


@dataclass(frozen=True, eq=False)
class MasterSample:
    """Some rows of a master.

    Parameters
    ----------
    name : str
        The master.
    facts : mapping
        ``kind``, ``night`` and what else the plan knows of it.
    sci, err : ndarray of float, shape (n, nx)
        Rows of value and error, in ADU or, for flats, relative.
    mask : ndarray of uint16, shape (n, nx)
        Rows of the mask.
    where : ndarray of int, shape (n,)
        Which rows they are.
    shape : tuple of int
        Shape (ny, nx) of the master.
    header : mapping
        Its header.
    n_hot : int or None
        Hot pixels of the whole master; None if they are not searched in this kind.
    """

    name: str
    facts: Mapping[str, Any]
    sci: NDArray[Any]
    err: NDArray[Any]
    mask: NDArray[np.uint16]
    where: NDArray[np.int64]
    shape: tuple[int, int]
    header: Mapping[str, Any]
    n_hot: int | None = None


@dataclass
class Seen:
    """What was found out about the masters of all series.

    Parameters
    ----------
    records : list of dict
        One per master and amplifier, see `COLUMNS`.
    flags : dict
        Master to its flags: code and sentence.
    numbers : dict
        Master to the figures of its outcome.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    flags: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)


def series(
    masters: Iterable[Mapping[str, Any]], temperature_tolerance_k: float
) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Sort masters into series, each in order of time.

    Parameters
    ----------
    masters : iterable of dict
        What the plan knows of each: ``id``, ``kind``, ``night``, read-out mode, ``filter``
        and, for darks, ``exptime_s`` and ``temperature_c``.
    temperature_tolerance_k : float
        Darks of nearer temperatures belong together (K).

    Returns
    -------
    list of (name, members)
    """
    skip = ("id", "night", "nights", "temperature_c", "exptime_s")
    groups: dict[tuple[Any, ...], list[tuple[float | None, list[Mapping[str, Any]]]]] = {}
    for one in sorted(masters, key=lambda m: (str(m["night"]), str(m["id"]))):
        exposure = one.get("exptime_s")
        shared = tuple(sorted((k, repr(v)) for k, v in one.items() if k not in skip))
        key = (shared, "" if exposure is None else f"{exposure:.3g}")
        there = groups.setdefault(key, [])
        warmth = one.get("temperature_c")
        for anchor, members in there:
            if anchor is None or warmth is None:
                same = anchor is warmth
            else:
                same = abs(anchor - warmth) <= temperature_tolerance_k
            if same:
                members.append(one)
                break
        else:
            there.append((warmth, [one]))
    found = [(_name(members[0]), members) for sets in groups.values() for _, members in sets]
    return sorted(found, key=lambda item: (item[0], str(item[1][0]["id"])))


def _name(facts: Mapping[str, Any]) -> str:
    words = [str(facts["kind"]).replace("_", " "), facts.get("instrument")]
    words += [facts.get("detector"), facts.get("channel"), facts.get("mode")]
    words += [facts.get("filter"), f"{facts.get('nx')} x {facts.get('ny')} px"]
    words += [f"binning {b}" if (b := facts.get("binning")) not in (None, "", "1x1") else ""]
    for key, unit in (("gain_setting", "gain"), ("offset_setting", "offset")):
        if facts.get(key) not in (None, ""):
            words.append(f"{unit} {facts[key]:g}")
    if facts.get("exptime_s") is not None:
        words.append(f"{facts['exptime_s']:g} s")
    if facts.get("temperature_c") is not None:
        words.append(f"{facts['temperature_c']:.0f} C")
    return " ".join(str(word) for word in words if word)


def master_history(
    samples: Iterable[tuple[str, MasterSample]],
    *,
    pattern_sigma: float = 2.0,
    changed_fraction: float = 0.01,
    level_noise: float = 1.0,
    gain_tolerance: float = 0.05,
    noise_tolerance: float = 0.1,
    hot_factor: float = 2.0,
) -> Seen:
    """Compare each master with the earlier ones of its series.

    Parameters
    ----------
    samples : iterable of (series, MasterSample)
        Series by series, each in order of time; only one is held at a time.
    pattern_sigma : float
        Robust scatter of the difference in units of its error that is flagged.
    changed_fraction : float
        Fraction of pixels that differ by more than 5 sigma that is flagged.
    level_noise : float
        Change of level of a bias or dark, in units of the declared read noise.
    gain_tolerance, noise_tolerance : float
        Relative change of gain (if it is also significant) and read noise.
    hot_factor : float
        Growth of the number of hot pixels.

    Returns
    -------
    Seen
        Flags ``MASTER_CHANGED``, ``GAIN_DRIFT``, ``NOISE_DRIFT``, ``HOT_PIXELS``.
    """
    seen = Seen()
    last: MasterSample | None = None
    current, earlier = "", _Earlier()
    for name, sample in samples:
        if name != current:
            current, last, earlier = name, None, _Earlier()
        flags = seen.flags.setdefault(sample.name, [])
        rows = []
        for amp, (label, place) in enumerate(_amplifiers(sample)):
            row = _figures(sample, amp, label, place)
            row |= {"series": name, "previous": "" if last is None else last.name}
            if last is not None:
                row |= _compare(last, sample, place)
                flags += _pattern_flags(row, sample, pattern_sigma, changed_fraction)
                flags += _level_flags(row, level_noise)
            flags += earlier.judge(row, gain_tolerance, noise_tolerance)
            rows.append(row)
        flags += earlier.judge_hot(sample.n_hot, hot_factor)
        codes = ";".join(dict.fromkeys(code for code, _ in flags))
        seen.records += [row | {"flags": codes} for row in rows]
        seen.numbers[sample.name] = _numbers(rows)
        last = sample
    return seen


def _amplifiers(sample: MasterSample) -> list[tuple[str, Section | None]]:
    """Return name and place of each amplifier; one without a place is the whole frame."""
    header = sample.header
    out: list[tuple[str, Section | None]] = []
    while f"AMP{len(out) + 1}" in header:
        n = len(out) + 1
        place = parse_section(str(header[f"AMPSEC{n}"]), sample.shape, name=f"AMPSEC{n}")
        out.append((str(header[f"AMP{n}"]), place))
    return out or [("", None)]


def _at(sample: MasterSample, place: Section | None) -> tuple[NDArray[np.bool_], slice]:
    """Return the sampled rows and the columns of an amplifier."""
    if place is None:
        return np.ones(sample.where.size, bool), slice(None)
    return (sample.where >= place.y0) & (sample.where < place.y1), slice(place.x0, place.x1)


def _good(sample: MasterSample) -> NDArray[np.bool_]:
    fine = np.isfinite(sample.sci) & np.isfinite(sample.err)
    return np.asarray(fine & ~has_bits(sample.mask, MaskBit.bad()))


def _figures(sample: MasterSample, amp: int, label: str, place: Section | None) -> dict[str, Any]:
    """Return what a master says of one amplifier."""
    header, count = sample.header, len(_amplifiers(sample))
    rows, columns = _at(sample, place)
    values = sample.sci[rows][:, columns][_good(sample)[rows][:, columns]]
    suffix = str(amp + 1) if count > 1 else ""
    gain = amplifier_figure(header, "GAINMEAS", amp, count)
    declared = header.get(f"GAIN{suffix}")
    noise_adu = amplifier_figure(header, "RNADU", amp, count)
    noise = None if noise_adu is None or declared is None else noise_adu * float(declared)
    noise_declared = header.get(f"RDN{suffix}" if suffix else "RDNOISE")
    return {
        "master": sample.name,
        "kind": sample.facts["kind"],
        "night": sample.facts["night"],
        "amplifier": label,
        "n_frames": header.get("NCOMBINE", 0),
        "n_hot": -1 if sample.n_hot is None else sample.n_hot,
        "level": float(np.median(values)) if values.size else np.nan,
        "gain_e_adu": gain,
        "gain_err_e_adu": amplifier_figure(header, "GAINERR", amp, count),
        "gain_declared_e_adu": declared,
        "gain_ratio": _ratio(gain, declared),
        "read_noise_e": noise,
        "read_noise_declared_e": noise_declared,
        "read_noise_ratio": _ratio(noise, noise_declared),
    }


def _ratio(one: float | None, two: float | None) -> float | None:
    return None if one is None or not two else float(one) / float(two)


def _compare(before: MasterSample, now: MasterSample, place: Section | None) -> dict[str, float]:
    """Return how the pattern of an amplifier changed.

    The difference of two biases or darks, or the ratio of two flats less 1, without its
    median, is compared with its error: ``s^2 = s_1^2 + s_2^2``, for flats of relative
    errors.
    """
    names = ("level_change", "pattern_sigma", "pattern_excess", "changed_fraction")
    nothing = dict.fromkeys(names, np.nan)
    if before.shape != now.shape or not np.array_equal(before.where, now.where):
        return nothing
    rows, columns = _at(now, place)
    good = (_good(before) & _good(now))[rows][:, columns]
    if np.count_nonzero(good) < FEWEST_PIXELS:
        return nothing
    a, b, s, t = (
        plane[rows][:, columns][good].astype(np.float64)
        for plane in (before.sci, now.sci, before.err, now.err)
    )
    change = float(np.median(b) - np.median(a))
    if now.facts["kind"] == "flat":
        difference = b / a / np.median(b / a) - 1
        variance = (s / a) ** 2 + (t / b) ** 2
    else:
        difference = b - a
        difference -= np.median(difference)
        variance = s**2 + t**2
    units = difference / np.sqrt(variance)
    excess = robust_sigma(difference) ** 2 - float(np.median(variance))
    return {
        "level_change": change,
        "pattern_sigma": robust_sigma(units),
        "pattern_excess": float(np.sqrt(max(excess, 0.0))),
        "changed_fraction": float(np.mean(np.abs(units) > FAR_SIGMA)),
    }


def _of(row: Mapping[str, Any]) -> str:
    return f" of amplifier {row['amplifier']}" if row["amplifier"] else ""


def _pattern_flags(
    row: Mapping[str, Any], sample: MasterSample, sigma: float, fraction: float
) -> list[tuple[str, str]]:
    if not (row["pattern_sigma"] > sigma or row["changed_fraction"] > fraction):
        return []
    size, unit = row["pattern_excess"], " ADU"
    if sample.facts["kind"] == "flat":
        size, unit = 100 * size, " %"
    text = (
        f"the pattern{_of(row)} differs from that of {row['previous']} by "
        f"{row['pattern_sigma']:.1f} times its error ({size:.2g}{unit} rms beyond the noise); "
        f"{100 * row['changed_fraction']:.2g} % of the pixels by more than {FAR_SIGMA:g} sigma."
    )
    return [("MASTER_CHANGED", text)]


def _level_flags(row: Mapping[str, Any], level_noise: float) -> list[tuple[str, str]]:
    noise, gain = row["read_noise_declared_e"], row["gain_declared_e_adu"]
    if row["kind"] == "flat" or not noise or not gain:
        return []
    limit = level_noise * float(noise) / float(gain)
    if not abs(row["level_change"]) > limit:
        return []
    text = (
        f"the level{_of(row)} is {row['level_change']:+.2f} ADU from that of {row['previous']}, "
        f"at most {limit:.2f} ADU is usual."
    )
    return [("MASTER_CHANGED", text)]


def _numbers(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of an outcome: the largest of the amplifiers."""

    def largest(name: str) -> float | None:
        known = [abs(row[name]) for row in rows if row.get(name) is not None]
        good = [value for value in known if np.isfinite(value)]
        return max(good, default=None)

    return {name: largest(name) for name in ("pattern_sigma", "changed_fraction", "level_change")}


class _Earlier:
    """Figures of the earlier masters of a series, by amplifier."""

    def __init__(self) -> None:
        self.gain: dict[str, list[tuple[float, float]]] = {}
        self.noise: dict[str, list[float]] = {}
        self.hot: list[int] = []

    def judge(
        self, row: Mapping[str, Any], gain_tolerance: float, noise_tolerance: float
    ) -> list[tuple[str, str]]:
        """Return flags of gain and noise, and remember them."""
        flags = []
        label, gain = row["amplifier"], row["gain_e_adu"]
        if gain is not None:
            before = self.gain.setdefault(label, [])
            error = row["gain_err_e_adu"] or 0.0
            if before:
                usual = float(np.median([value for value, _ in before]))
                spread = float(np.median([e for _, e in before])) / np.sqrt(len(before))
                far = max(GAIN_SIGMA * float(np.hypot(error, spread)), gain_tolerance * usual)
                if abs(gain - usual) > far:
                    text = (
                        f"the gain{_of(row)} is {gain:.3f} +- {error:.3f} electron/ADU, that of "
                        f"{len(before)} earlier masters {usual:.3f}."
                    )
                    flags.append(("GAIN_DRIFT", text))
            before.append((gain, error))
        noise = row["read_noise_e"]
        if noise is not None:
            known = self.noise.setdefault(label, [])
            usual = float(np.median(known)) if known else noise
            if abs(noise - usual) > noise_tolerance * usual:
                text = (
                    f"the read noise{_of(row)} is {noise:.2f} electron, that of {len(known)} "
                    f"earlier masters {usual:.2f}."
                )
                flags.append(("NOISE_DRIFT", text))
            known.append(noise)
        return flags

    def judge_hot(self, count: int | None, factor: float) -> list[tuple[str, str]]:
        """Return a flag if there are far more hot pixels, and remember their number."""
        if count is None:
            return []
        usual = float(np.median(self.hot)) if self.hot else float(count)
        self.hot.append(count)
        # The number scatters by its root; a few more of a few say nothing.
        if count <= factor * usual + 5 * np.sqrt(usual + 1):
            return []
        return [("HOT_PIXELS", f"{count} hot pixels, earlier masters have {usual:.0f}.")]
