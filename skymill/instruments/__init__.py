"""Instruments: what a camera's headers mean, as YAML files.

Adding an instrument needs no code. A file in the user's own folder hides one of the same
name that comes with the package. Every field is described in docs/instruments.md.
"""

from skymill.instruments.amplifiers import AmplifierRule, DetectorRule, LinearityRule
from skymill.instruments.conditions import Conditions, holds, normal
from skymill.instruments.find import (
    all_instruments,
    find_instrument,
    instrument_directories,
    instrument_names,
    load_instrument,
)
from skymill.instruments.model import Instrument
from skymill.instruments.rules import (
    AreaRule,
    CubeRule,
    KindRule,
    NumberRule,
    SectionRule,
    SiteRule,
    Source,
    TextRule,
    TimeRule,
    WcsRule,
)

__all__ = [
    "AmplifierRule",
    "AreaRule",
    "Conditions",
    "CubeRule",
    "DetectorRule",
    "Instrument",
    "KindRule",
    "LinearityRule",
    "NumberRule",
    "SectionRule",
    "SiteRule",
    "Source",
    "TextRule",
    "TimeRule",
    "WcsRule",
    "all_instruments",
    "find_instrument",
    "holds",
    "instrument_directories",
    "instrument_names",
    "load_instrument",
    "normal",
]
