"""What in an instrument file does not fit a set of frames."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import FrameRejected
from skymill.instruments.conditions import holds
from skymill.instruments.draft_words import keywords_of
from skymill.instruments.measure import layout_of, measure
from skymill.sections import Section, parse_section, parse_sections

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from skymill.instruments.measure import Measured
    from skymill.instruments.model import Instrument
    from skymill.instruments.survey import Shot, Survey
    from skymill.sheet import Row

__all__ = ["Finding", "check"]

#: Rejections that are not the fault of an instrument file.
_NOT_OURS = frozenset({
    "NOT_SCIENCE", "IS_MASTER", "ALREADY_CALIBRATED", "DUPLICATE", "EXCLUDED", "EMPTY", "NOT_FITS",
    "HEADER_TRUNCATED", "TRUNCATED", "TRUNCATED_GZ", "NO_END", "CHECKSUM", "UNSUPPORTED", "ARCHIVE",
    "GROWING", "BAD_LINK", "NOT_A_FILE", "BAD_NAME", "VANISHED", "UNREADABLE", "UNREADABLE_DIR",
    "ALL_NAN", "CONSTANT", "DEAD_AREA", "TOO_LARGE", "DOUBLE_COMPRESSED", "NOT_STANDARD",
    "BAD_STRUCTURE", "ZERO_SIZE",
})  # fmt: skip
#: Flags without which nothing can be calibrated.
_GRAVE = frozenset({"NO_GAIN", "NO_READ_NOISE", "GAIN_SUSPECT", "READ_NOISE_SUSPECT"})
#: Relative differences of measured and declared values that are said.
GAIN_TOLERANCE, NOISE_TOLERANCE = 0.1, 0.2
#: Light in the overscan, as a share of the signal, that is said.
LEAK = 0.01
_USED = ("bias", "dark", "flat", "flat_dark", "light")
_FIELDS = (
    "object", "filter", "detector", "mode", "exposure", "time.date", "time.time", "time.mjd",
    "time.jd", "time.check", "datasec", "biassec", "gain", "read_noise", "saturation",
    "gain_setting", "offset_setting", "temperature", "set_temperature", "ra", "dec", "airmass",
    "site.longitude", "site.latitude", "site.height", "bayer",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that does not fit.

    Parameters
    ----------
    level : str
        ``error``: frames are lost or wrong; ``warning``: to be looked at.
    subject : str
        Field of the instrument file, or code of ingest.
    text : str
        What, in one or two sentences.
    frames : tuple of str
        Paths that it concerns; none if it concerns the file itself.
    """

    level: str
    subject: str
    text: str
    frames: tuple[str, ...] = ()


def check(instrument: Instrument, survey: Survey, rows: Sequence[Row]) -> list[Finding]:
    """Compare an instrument file with frames.

    Parameters
    ----------
    instrument : Instrument
        The file.
    survey : Survey
        The frames as they are.
    rows : sequence of dict
        What ingest makes of them with this instrument.

    Returns
    -------
    list of Finding
        Errors first, then by the number of frames.
    """
    found = [
        *_unmatched(instrument, survey),
        *_codes(rows),
        *_kinds(survey, rows),
        *_absent(instrument, survey),
        *_pixels(survey, rows),
    ]
    return sorted(found, key=lambda f: (f.level != "error", -len(f.frames), f.subject, f.text))


def _unmatched(instrument: Instrument, survey: Survey) -> Iterable[Finding]:
    if not instrument.match:
        if instrument.name != "generic":
            yield Finding(
                "warning", "match", "There is no `match`: headers never choose this file."
            )
        return
    lost = [
        shot
        for shot in survey.shots
        if not any(holds(conditions, shot.header) for conditions in instrument.match)
    ]
    if not lost:
        return
    keys = {
        k.strip() for conditions in instrument.match for key in conditions for k in key.split("|")
    }
    seen = [
        f"{key} is {', '.join(repr(v) for v, _ in values.most_common(3))}"
        if (values := Counter(s.text(key) for s in lost if s.text(key)))
        else f"{key} is missing"
        for key in sorted(keys)
    ]
    yield Finding("error", "match", f"`match` does not fit: {'; '.join(seen)}.", _paths(lost))


def _paths(shots: Iterable[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(s if isinstance(s, str) else s.path for s in shots))


def _codes(rows: Sequence[Row]) -> Iterable[Finding]:
    """What ingest says, one finding per code with the message of the first frame."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        rejected = row["verdict"] == "rejected"
        for code in filter(None, str(row["code"]).split(";")):
            ours = code not in _NOT_OURS if rejected else code in _GRAVE
            groups.setdefault(("error" if ours else "warning", code), []).append(row)
    for (level, code), members in groups.items():
        yield Finding(level, code, _message(members[0]), _paths(str(r["path"]) for r in members))


def _message(row: Row) -> str:
    """The sentences of a row; those of one code cannot be told from others."""
    text = str(row["message"])
    return text if ";" not in str(row["code"]) else f"{text} (of {row['path']})"


def _kinds(survey: Survey, rows: Sequence[Row]) -> Iterable[Finding]:
    """Kinds that the instrument file and common sense see differently."""
    guesses = {(s.path, s.hdu): s.guess for s in survey.shots}
    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        guess = guesses.get((str(row["path"]), int(row["hdu"] or 0)))
        kind = str(row["kind"])
        if guess and kind and guess.kind in _USED and kind != guess.kind:
            groups.setdefault((kind, guess.kind, guess.reason), []).append(str(row["path"]))
    for (kind, other, reason), paths in groups.items():
        text = f"{kind} by the rules of the file, but it looks like {other}"
        yield Finding(
            "warning", "kinds", f"{text}{f' ({reason})' if reason else ''}.", _paths(paths)
        )


def _absent(instrument: Instrument, survey: Survey) -> Iterable[Finding]:
    """Keywords of the file that no frame has."""
    if instrument.name == "generic":
        return
    for field_name in _FIELDS:
        if field_name.split(".")[0] not in instrument.model_fields_set:
            continue
        keys = keywords_of(instrument, field_name)
        missing = [key for key in keys if not survey.having(key)]
        if missing and len(missing) == len(keys):
            text = f"No frame has {' or '.join(keys)}."
            yield Finding("warning", field_name, text)
    missing = [
        entry for entry in instrument.binning
        if not any(survey.having(key.strip()) for key in entry.replace(",", " ").split())
        and "ESO " not in entry
    ]  # fmt: skip
    if "binning" in instrument.model_fields_set and len(missing) == len(instrument.binning) > 0:
        yield Finding("warning", "binning", f"No frame has {' or '.join(missing)}; 1x1 is taken.")
    used = [rule for rule in instrument.kinds if rule.when]
    keys = sorted({k.strip() for rule in used for key in rule.when for k in key.split("|")})
    if keys and not any(survey.having(key) for key in keys):
        yield Finding("warning", "kinds", f"No frame has {' or '.join(keys)}.")


# --- pixels -----------------------------------------------------------------------


def _pixels(survey: Survey, rows: Sequence[Row]) -> Iterable[Finding]:
    """Compare sections, gain and read noise with the pixels, camera by camera."""
    shots = {(s.path, s.hdu): s for s in survey.shots}
    cameras: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["verdict"] != "rejected" and not row.get("channel") and row.get("plane") is None:
            key = tuple(
                row[name] for name in ("detector", "mode", "binning", "nx", "ny", "gain_setting")
            )
            cameras.setdefault(key, []).append(row)
    for members in cameras.values():
        yield from _camera(members, shots)


def _camera(rows: Sequence[Row], shots: dict[tuple[str, int], Shot]) -> Iterable[Finding]:
    by_shot = {(str(r["path"]), int(r["hdu"] or 0)): r for r in rows}
    own = {key: shots[key] for key in by_shot if key in shots}

    def parts(shot: Shot) -> list[tuple[Shot, Section, tuple[Section, ...]]]:
        return _parts(by_shot[shot.path, shot.hdu], shot, shots)

    def of(kind: str) -> list[Shot]:
        return [shot for key, shot in own.items() if by_shot[key]["kind"] == kind]

    bias, flats = of("bias"), of("flat")
    if not bias or not flats:
        return
    try:
        yield from _sections(bias, flats, parts, str(rows[0].get("amplifiers") or ""))
        saturations = [float(r["saturation_adu"]) for r in rows if r["saturation_adu"] is not None]
        top = min(saturations, default=np.inf)
        found = measure(bias, flats, parts, top, lambda s: str(by_shot[s.path, s.hdu]["filter"]))
    except FrameRejected:
        return  # said by ingest
    declared = _declared(by_shot[flats[0].path, flats[0].hdu])
    for (name, gain, noise), one in zip(declared, found, strict=False):
        yield from _compare(name, gain, noise, one, _paths([*bias[:5], *flats[:5]]))


def _parts(
    row: Row, shot: Shot, shots: dict[tuple[str, int], Shot]
) -> list[tuple[Shot, Section, tuple[Section, ...]]]:
    """Image, data section and overscans of the amplifiers of a frame."""
    text = row.get("amplifiers") or ""
    if not text:
        data = parse_section(str(row["datasec"]), shot.shape)
        return [(shot, data, parse_sections(str(row["biassec"]), shot.shape, name="biassec"))]
    out = []
    for entry in json.loads(str(text)):
        image = shots[shot.path, int(entry["hdu"])]
        strips = tuple(parse_section(one, image.shape) for one in entry["bias"])
        out.append((image, parse_section(entry["data"], image.shape), strips))
    return out


def _declared(row: Row) -> list[tuple[str, float, float]]:
    text = row.get("amplifiers") or ""
    entries = (
        [(e["name"], e.get("gain"), e.get("noise")) for e in json.loads(str(text))]
        if text
        else [("", row["gain_e_adu"], row["read_noise_e"])]
    )
    return [(str(name), _number(gain), _number(noise)) for name, gain, noise in entries]


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)


def _sections(
    bias: Sequence[Shot], flats: Sequence[Shot], parts: Any, amplifiers: str
) -> Iterable[Finding]:
    """Overscans that see light, and image sections that do not."""
    lit = max(flats, key=lambda s: s.median)
    names = [entry["name"] for entry in json.loads(amplifiers)] if amplifiers else [""]
    for name, (dark, _, _), (image, data, strips) in zip(
        names, parts(bias[0]), parts(lit), strict=True
    ):
        if not strips:
            continue
        zero, light = dark.pixels(), image.pixels()
        signal = float(np.median(light[data.slices]) - np.median(zero[data.slices]))
        for strip in strips:
            seen = float(np.median(light[strip.slices]) - np.median(zero[strip.slices]))
            if signal > 1000 and seen > LEAK * signal:
                share = f"{100 * seen / signal:.0f} %"
                who = f" of amplifier {name}" if name else ""
                text = f"The overscan {strip}{who} holds {share} of the light of a flat."
                yield Finding("error", "biassec", text, (lit.path,))
    if amplifiers:
        return
    seen_layout = layout_of(bias, flats)
    data = parts(lit)[0][1]
    for strip in seen_layout.overscans if seen_layout else ():
        if strip.overlaps(data):
            text = f"The image section {data} covers pixels that see no light, {strip}."
            yield Finding("error", "datasec", text, (lit.path,))
    if seen_layout and seen_layout.overscans and not parts(lit)[0][2]:
        text = f"There is an overscan that is not used, {seen_layout.overscans[0]}."
        yield Finding("warning", "biassec", text, (lit.path,))


def _compare(
    name: str, gain: float, noise: float, found: Measured, frames: tuple[str, ...]
) -> Iterable[Finding]:
    who = f"Amplifier {name}: the" if name else "The"
    apart = abs(gain - found.gain)
    if np.isfinite(found.gain) and apart > max(GAIN_TOLERANCE * found.gain, 4 * found.gain_error):
        yield Finding(
            "warning", "gain",
            f"{who} gain is declared as {gain:g} electron/ADU; {found.n_flats} flats give "
            f"{found.gain:.3f} +/- {found.gain_error:.3f}.", frames,
        )  # fmt: skip
    measured = found.noise_adu * (found.gain if np.isfinite(found.gain) else gain)
    if np.isfinite(measured) and abs(noise - measured) > NOISE_TOLERANCE * measured:
        yield Finding(
            "warning", "read_noise",
            f"{who} read noise is declared as {noise:g} electron; {found.n_bias} bias frames give "
            f"{measured:.2f} ({found.noise_adu:.2f} ADU).", frames,
        )  # fmt: skip
