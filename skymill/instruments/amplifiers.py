"""Amplifiers and detectors in an instrument file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from skymill.errors import ConfigError
from skymill.instruments.conditions import Conditions  # noqa: TC001 - pydantic needs it
from skymill.instruments.rules import NumberRule, SectionRule, SectionRules

__all__ = ["AmplifierRule", "DetectorRule", "LinearityRule"]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,31}$")]


class LinearityRule(BaseModel, frozen=True, extra="forbid"):
    """Linear signal as a function of the measured one, both in ADU above the bias."""

    polynomial: tuple[float, ...] = ()
    """Coefficients ``c2, c3, ...`` of ``f = m (1 + c2 m + c3 m^2 + ...)``."""
    table: tuple[tuple[float, float], ...] = ()
    """Pairs ``[measured, linear]``, growing; the origin is implied."""

    @model_validator(mode="after")
    def _grows(self) -> LinearityRule:
        if bool(self.polynomial) == bool(self.table):
            raise ValueError("give either `polynomial` or `table`")
        from skymill.linearity import Linearity

        try:
            Linearity.from_rule(self.plain(), name="linearity")
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def plain(self) -> dict[str, Any]:
        """Return the rule as plain lists, see `skymill.linearity.Linearity.from_rule`."""
        if self.polynomial:
            return {"polynomial": list(self.polynomial)}
        return {"table": [list(pair) for pair in self.table]}


class AmplifierRule(BaseModel, frozen=True, extra="forbid"):
    """One amplifier of a detector."""

    name: Name
    """Name, unique in the file."""
    when: Conditions = {}
    """The amplifier is used only if these hold: the same camera may be read in several ways."""
    hdu: int | str | None = None
    """HDU with its pixels: a number, ``EXTNAME`` or ``EXTNAME,EXTVER``; empty for the image of the
    frame itself, if several amplifiers lie in one image."""
    data: SectionRule = SectionRule()
    """Pixels of that image that saw light; all of it if empty."""
    bias: SectionRules = ()
    """Its overscans in the same image."""
    place: SectionRule = SectionRule()
    """Where the data lie on the detector (DETSEC, CCDSEC). It may run backwards: the amplifier is
    stored mirrored. All places are shifted so that the frame begins at 1, 1. Empty: at 1, 1."""
    place_binned: bool = True
    """False if the place counts unbinned pixels (DETSEC usually does)."""
    gain: NumberRule | None = None
    """Gain, electron/ADU; by default the rule of the instrument, read in this HDU's header."""
    read_noise: NumberRule | None = None
    """Read noise, electron; likewise."""
    saturation: NumberRule | None = None
    """Level from which a pixel counts as saturated, ADU of the raw image; likewise."""
    linear_max_adu: float | None = None
    """End of the linear range, ADU of the raw image; by default that of the instrument."""
    corner: Literal["ll", "lr", "ul", "ur"] | None = None
    """Corner of its place that is read first (lower, upper; left, right), for crosstalk; by default
    the corner where its stored image begins."""
    linearity: LinearityRule | None = None
    """Linearity; linear if empty."""


class DetectorRule(BaseModel, frozen=True, extra="forbid"):
    """One of several detectors in a file; each is a frame of its own."""

    name: Name
    """Name, the column ``detector`` of the sheet."""
    amplifiers: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of its amplifiers."""
