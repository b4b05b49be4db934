"""A look at a folder of frames: cards, pixels and kinds, to draft and check instrument files."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import ConfigError, FrameRejected
from skymill.ingest.overrides import matches
from skymill.ingest.scan import list_tree
from skymill.ingest.values import clean_text, parse_number
from skymill.instruments.conditions import holds
from skymill.instruments.find import load_instrument
from skymill.io_raw import Limits, decode_pixels, open_raw, squeezed_shape, whole_header

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from skymill.cards import RawHeader, Value

__all__ = ["KindGuess", "Shot", "Survey", "guess_kind", "look"]

#: Pixels at the highest value that count as a pile-up.
PILE_UP = 20
_WORD = re.compile(
    r"(?<![a-z])(bias|zero|offset|flat[ _-]?dark|dark[ _-]?flat|dark|(?:sky|dome)?flat|light)",
    re.IGNORECASE,
)
_OBJECT_WORD = re.compile(r"\b(bias|zero|dark|(?:sky|dome)?flats?|twilight)\b", re.IGNORECASE)
_KINDS = {"zero": "bias", "offset": "bias", "skyflat": "flat", "domeflat": "flat", "flats": "flat",
          "flatdark": "flat_dark", "darkflat": "flat_dark", "twilight": "flat"}  # fmt: skip
_EXPOSURES = ("EXPTIME", "EXPOSURE", "EXP_TIME", "ITIME")


@dataclass(frozen=True)
class KindGuess:
    """What kind of frame it seems to be, and the rule that says so.

    Parameters
    ----------
    kind : str
        As in an instrument file; '' if nothing tells.
    when : dict
        Conditions of the rule.
    file : str
        File pattern of the rule.
    reason : str
        Why, for people; empty if the header says it plainly.
    """

    kind: str
    when: dict[str, Any] = field(default_factory=dict)
    file: str = ""
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Shot:
    """One image of a file.

    Parameters
    ----------
    path : str
        Path relative to what was given.
    full : Path
        Where the file lies.
    hdu : int
        Number of the image in it.
    header : RawHeader
        Cards with those inherited from the primary.
    shape : tuple of int
        Shape (ny, nx).
    images : int
        Images in the file.
    median, high : float
        Median and highest value (ADU).
    piled : int
        Pixels that have the highest value.
    guess : KindGuess
        Kind of frame.
    """

    path: str
    full: Path
    hdu: int
    header: RawHeader
    shape: tuple[int, int]
    images: int
    median: float
    high: float
    piled: int
    guess: KindGuess

    def pixels(self, limits: Limits | None = None) -> NDArray[np.float32]:
        """Read the pixels again, float32 of shape (ny, nx)."""
        raw = open_raw(self.full, limits)
        unit = raw.structure.hdus[self.hdu]
        return np.asarray(decode_pixels(raw, unit), np.float32).reshape(self.shape)

    def text(self, keyword: str) -> str:
        """Return a card as clean text, '' if it is missing."""
        return clean_text(self.header.get(keyword))

    def number(self, keyword: str) -> float | None:
        """Return a card as a number."""
        return parse_number(self.header.get(keyword))[0]


@dataclass
class Survey:
    """Everything that was seen.

    Parameters
    ----------
    shots : list of Shot
        In order of path and HDU.
    unreadable : list of (path, code)
        Files that could not be read.
    """

    shots: list[Shot] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def of(self, *kinds: str) -> list[Shot]:
        """Return the shots of some kinds."""
        return [shot for shot in self.shots if shot.guess.kind in kinds]

    def having(self, keyword: str) -> list[Shot]:
        """Return the shots in which a keyword has a value."""
        return [shot for shot in self.shots if shot.text(keyword)]

    def values(self, keyword: str) -> Counter[str]:
        """Count the values of a keyword."""
        return Counter(shot.text(keyword) for shot in self.shots if shot.text(keyword))

    def main_shape(self) -> tuple[int, int]:
        """Return the most frequent shape."""
        return Counter(shot.shape for shot in self.shots).most_common(1)[0][0]


def look(
    raw: Sequence[Path],
    *,
    given: Mapping[str, Sequence[str]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """Read all images of some files and folders.

    Parameters
    ----------
    raw : sequence of Path
        Files or folders.
    given : mapping, optional
        Kind to patterns of file names that have it; they come before the headers.
    progress : callable, optional
        Called with (files done, files found).

    Raises
    ------
    ConfigError
        If nothing that is named exists, or no file can be read.
    """
    files = _files(raw)
    survey = Survey()
    for number, (path, full) in enumerate(files):
        try:
            survey.shots += _images(path, full, given or {})
        except FrameRejected as rejected:
            survey.unreadable.append((path, rejected.code))
        if progress is not None:
            progress(number + 1, len(files))
    if not survey.shots:
        raise ConfigError(f"no image could be read: {len(files)} files were looked at")
    return survey


def _files(raw: Sequence[Path]) -> list[tuple[str, Path]]:
    found: list[tuple[str, Path]] = []
    for item in raw:
        if item.is_dir():
            entries = [e for e in list_tree(item, follow_links=True).entries if not e.code]
            found += [(entry.path, Path(entry.full)) for entry in entries]
        elif item.is_file():
            found.append((item.name, item))
        else:
            raise ConfigError(f"{item} is neither a file nor a folder")
    return found


def _images(path: str, full: Path, given: Mapping[str, Sequence[str]]) -> list[Shot]:
    raw = open_raw(full)
    units = [unit for unit in raw.structure.hdus if unit.is_image]
    shots = []
    for unit in units:
        try:
            shape = squeezed_shape(unit)
        except FrameRejected:
            continue
        pixels = decode_pixels(raw, unit).reshape(shape)
        stride = max(1, int((pixels.size / 40_000) ** 0.5))
        high = float(np.nanmax(pixels))
        header = whole_header(raw.structure, unit)
        shots.append(
            Shot(
                path, full, unit.number, header, shape, len(units),
                float(np.nanmedian(pixels[::stride, ::stride])), high,
                int(np.count_nonzero(pixels == high)), guess_kind(path, header, given),
            )
        )  # fmt: skip
    return shots


def guess_kind(
    path: str, header: RawHeader, given: Mapping[str, Sequence[str]] | None = None
) -> KindGuess:
    """Return the kind that a frame seems to have.

    What the user gave comes first, then the words that headers commonly use, corrected by
    exposure and object where these contradict, then the name of the file.

    Parameters
    ----------
    path : str
        Relative path.
    header : RawHeader
        The cards.
    given : mapping, optional
        Kind to file patterns.
    """
    for kind, patterns in (given or {}).items():
        for pattern in patterns:
            if matches(pattern, path):
                return KindGuess(kind, file=pattern)
    for rule in load_instrument("generic").kinds:
        if holds(rule.when, header):
            return _refined(rule.kind, rule.when, header)
    word = _WORD.search(path.rsplit("/", 1)[-1])
    if word:
        start = path.rsplit("/", 1)[-1][: word.end()]
        return KindGuess(_kind_of_word(word[1]), file=f"{start}*", reason="the name of the file")
    return KindGuess("")


def _kind_of_word(word: str) -> str:
    plain = re.sub(r"[ _-]", "", word.lower())
    return _KINDS.get(plain, plain)


def _refined(kind: str, when: dict[str, Any], header: RawHeader) -> KindGuess:
    """Write the rule with the keyword and value of this header, and look for contradictions."""
    own: dict[str, Any] = {}
    for key in when:
        name = next((k.strip() for k in key.split("|") if clean_text(header.get(k.strip()))), "")
        if name:
            own[name] = plain_value(header.get(name))
    exposure = next((k for k in _EXPOSURES if parse_number(header.get(k))[0] == 0), "")
    if kind == "dark" and exposure:
        return KindGuess("bias", {**own, exposure: 0}, reason="tagged dark, but not exposed")
    word = _OBJECT_WORD.search(clean_text(header.get("OBJECT")).replace("_", " "))
    if kind == "light" and word and "OBJECT" not in own:
        told = _kind_of_word(word[1])
        return KindGuess(told, {**own, "OBJECT": f"*{word[1].lower()}*"}, reason="OBJECT says so")
    return KindGuess(kind, own)


def plain_value(value: Value) -> Any:
    """Return a header value as it can stand in a condition; pattern characters are escaped."""
    if isinstance(value, str):
        return re.sub(r"([*?\[])", r"[\1]", clean_text(value))
    return value
