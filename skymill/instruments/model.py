"""An instrument: everything that the headers of one camera mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, field_validator, model_validator

from skymill.instruments.amplifiers import (  # noqa: TC001 - pydantic needs them
    AmplifierRule,
    DetectorRule,
    LinearityRule,
)
from skymill.instruments.conditions import Conditions  # noqa: TC001 - pydantic needs it
from skymill.instruments.rules import (
    AreaRule,
    CubeRule,
    KindRule,
    NumberRule,
    SectionRule,
    SectionRules,
    SiteRule,
    Source,
    TextRule,
    TimeRule,
    WcsRule,
)

__all__ = ["Instrument"]

_CHANNEL = re.compile(r"\[(\d)::(\d),(\d)::(\d)\]$")


def _channels(value: Any) -> Any:
    """Take ``pattern`` (the default) as no channels of the file's own."""
    return {} if value in (None, "pattern") else value


class Instrument(BaseModel, frozen=True, extra="forbid"):
    """What the headers of one camera mean."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,31}$")]
    """Name, as in the sheet; also the name of the file."""
    description: str = ""
    """One line for people."""
    match: tuple[Conditions, ...] = ()
    """The instrument fits a header if one of these sets of conditions holds."""
    hdu: Literal["first", "each", "amplifiers"] | Annotated[int, Field(ge=0)] = "first"
    """Image to use: the only one, each of several as a frame of its own, a number, or a frame put
    together from the HDUs that its amplifiers name."""
    kinds: tuple[KindRule, ...] = ()
    """Rules for the kind of frame, in order."""
    object: TextRule = TextRule(keywords=(Source(keyword="OBJECT"),))
    """Target."""
    filter: TextRule = TextRule(keywords=(Source(keyword="FILTER"),))
    """Filter."""
    detector: TextRule = TextRule()
    """Detector, if the instrument has several."""
    mode: tuple[TextRule, ...] = ()
    """Read-out modes; their values are joined."""
    subframe: tuple[str, ...] = ()
    """Two keywords with the origin of a sub-frame (x, y). They give the area; where that is not
    known, an origin other than 0 or 1 becomes part of the mode."""
    area: AreaRule = AreaRule()
    """Part of the detector that the frame covers, by which masters are cut for windowed frames."""
    exposure: NumberRule = NumberRule(keywords=(Source(keyword="EXPTIME"),), unit="s")
    """Exposure time."""
    time: TimeRule = TimeRule(date=(Source(keyword="DATE-OBS"),))
    """Time of the exposure."""
    binning: tuple[str, ...] = ("XBINNING YBINNING", "CCDSUM", "BINNING")
    """Keywords: one with both numbers, or two names separated by a blank (or by a comma, where the
    keywords hold blanks)."""
    datasec: SectionRule = SectionRule()
    """Part of the raw image that saw light; all of it if empty."""
    biassec: SectionRules = ()
    """Overscan to use, one area or several."""
    gain: NumberRule = NumberRule(unit="electron/adu", range=(0.01, 50.0))
    """Gain in electron/ADU."""
    read_noise: NumberRule = NumberRule(unit="electron", range=(0.05, 500.0))
    """Read noise in electron."""
    saturation: NumberRule = NumberRule(unit="adu", range=(200.0, 5e9))
    """Level from which a pixel counts as saturated, ADU of the raw image."""
    linear_max_adu: float | None = None
    """End of the linear range, ADU of the raw image; not known if empty."""
    linearity: LinearityRule | None = None
    """Linearity of the only amplifier; linear if empty."""
    amplifiers: tuple[AmplifierRule, ...] = ()
    """Amplifiers, if there are several; those whose conditions hold make up the frame. Without any,
    `datasec`, `biassec`, `gain` ... describe the only one."""
    detectors: tuple[DetectorRule, ...] = ()
    """Detectors, if one file holds several that amplifiers make up."""
    crosstalk: dict[str, dict[str, float]] = {}
    """Share of an amplifier's signal that appears in another: ``{victim: {source: share}}``."""
    gain_setting: NumberRule = NumberRule()
    """Gain setting of the camera, an index and not electron/ADU."""
    offset_setting: NumberRule = NumberRule()
    """Offset setting of the camera."""
    temperature: NumberRule = NumberRule(unit="C")
    """Measured temperature of the detector."""
    set_temperature: NumberRule = NumberRule(unit="C")
    """Set point of the cooler."""
    ra: NumberRule = NumberRule(unit="auto")
    """Pointing, right ascension; auto: text is hours, a number is degrees."""
    dec: NumberRule = NumberRule(unit="deg")
    """Pointing, declination."""
    airmass: NumberRule = NumberRule(keywords=(Source(keyword="AIRMASS"),), range=(0.99, 40.0))
    """Airmass; computed from site, time and pointing if missing."""
    site: SiteRule = SiteRule()
    """Place of the telescope."""
    wcs: WcsRule = WcsRule()
    """World coordinates."""
    bayer: TextRule = TextRule(keywords=(Source(keyword="BAYERPAT"), Source(keyword="COLORTYP")))
    """Colour pattern of the 2 x 2 pixels at the top left."""
    channels: Annotated[dict[str, str], BeforeValidator(_channels)] = {}
    """Colour channels and their pixels, ``{R: "[0::2,0::2]"}``: first row and step, first column
    and step, from 0. They hold for every frame of the camera. Empty: made from the pattern."""
    split_channels: bool = True
    """Make each colour a frame of its own; otherwise such frames are rejected."""
    cube: CubeRule = CubeRule()
    """Cubes of exposures."""
    calibrated: tuple[Conditions, ...] = ()
    """A frame is already calibrated if one of these sets of conditions holds."""
    dark: Literal["needed", "optional", "not_needed"] = "needed"
    """Whether dark current matters for this detector."""
    detector_size: tuple[int, int] | None = None
    """Unbinned pixels (x, y) of the detector with overscan, to check the binning."""
    remove: tuple[str, ...] = ()
    """Header cards that are wrong and must not get into products."""
    sentinels: tuple[str, ...] = (
        "",
        "n/a",
        "na",
        "unknown",
        "none",
        "null",
        "nan",
        "undefined",
        "-",
    )
    """Texts that mean that nothing is known."""
    notes: str = ""
    """For people."""

    @field_validator("subframe")
    @classmethod
    def _pair(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) not in (0, 2):
            raise ValueError("two keywords are needed, for x and for y")
        return value

    @field_validator("channels")
    @classmethod
    def _steps(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            match = _CHANNEL.match(text.replace(" ", ""))
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,15}", name):
                raise ValueError(f"{name!r} is no name for a channel: letters and digits")
            if not match or not all(int(match[i]) < int(match[i + 1]) for i in (1, 3)):
                raise ValueError(
                    f"{name}: {text!r}; expected [y0::step,x0::step] with 0 <= y0, x0 < step"
                )
        return {name: text.replace(" ", "") for name, text in value.items()}

    @model_validator(mode="after")
    def _names(self) -> Self:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        """Yield what does not fit together."""
        names = [one.name for one in self.amplifiers]
        for key, listed in (("amplifiers", names), ("detectors", [d.name for d in self.detectors])):
            twice = sorted({name for name in listed if listed.count(name) > 1})
            if twice:
                yield f"{key}: the name {twice[0]} is used twice"
        for one in self.amplifiers:
            if (one.hdu is None) == (self.hdu == "amplifiers"):
                yield (f"amplifiers.{one.name}.hdu: needed with `hdu: amplifiers`, and only there")
        if self.hdu == "amplifiers" and not self.amplifiers:
            yield "hdu: amplifiers, but `amplifiers` is empty"
        yield from self._detector_problems(names)
        for victim, sources in self.crosstalk.items():
            for name in (victim, *sources):
                if name not in names:
                    yield f"crosstalk.{victim}: {name} is not an amplifier; known: {names}"
            if victim in sources:
                yield f"crosstalk.{victim}: an amplifier has no crosstalk with itself"

    def _detector_problems(self, names: list[str]) -> Iterator[str]:
        if self.detectors and self.hdu != "amplifiers":
            yield "detectors: only with `hdu: amplifiers`; `hdu: each` needs none"
        owner: dict[str, str] = {}
        for detector in self.detectors:
            for name in detector.amplifiers:
                if name not in names:
                    yield f"detectors.{detector.name}: {name} is not an amplifier; known: {names}"
                if name in owner:
                    yield f"detectors.{detector.name}: {name} belongs to {owner[name]} already"
                owner[name] = detector.name
        free = [name for name in names if name not in owner]
        if self.detectors and free:
            yield f"detectors: the amplifiers {free} belong to none"

    def electronics(self) -> dict[str, Any]:
        """Return what corrections of the pixels need beyond the sheet, as plain data.

        Returns
        -------
        dict
            ``linearity``: name of an amplifier (``""`` for the only one) to its rule, see
            `skymill.linearity.Linearity.from_rule`; ``crosstalk``: victim to source to share.
        """
        rules = {"": self.linearity, **{one.name: one.linearity for one in self.amplifiers}}
        return {
            "linearity": {name: rule.plain() for name, rule in rules.items() if rule is not None},
            "crosstalk": {name: dict(sources) for name, sources in self.crosstalk.items()},
        }
