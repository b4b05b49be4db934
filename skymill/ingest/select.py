"""Which images of a file make which frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skymill.errors import FrameRejected
from skymill.instruments import holds
from skymill.io_raw import whole_header

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skymill.cards import Value
    from skymill.fits_structure import Hdu, Structure
    from skymill.instruments import AmplifierRule, Instrument

__all__ = ["Part", "choose_parts"]


@dataclass(frozen=True)
class Part:
    """The images that make one frame.

    Parameters
    ----------
    unit : Hdu
        The image that gives the header; the first amplifier's.
    detector : str
        Name of the detector, if the file holds several.
    amplifiers : tuple of (AmplifierRule, Hdu)
        Several amplifiers and where their pixels are; empty if the columns for one serve.
    problem : FrameRejected or None
        Why the frame cannot be made, although others of the file can.
    """

    unit: Hdu
    detector: str = ""
    amplifiers: tuple[tuple[AmplifierRule, Hdu], ...] = ()
    problem: FrameRejected | None = None

    @property
    def units(self) -> list[Hdu]:
        """The images to read, each once."""
        found = {unit.number: unit for _, unit in self.amplifiers} or {self.unit.number: self.unit}
        return list(found.values())


def choose_parts(
    structure: Structure, instrument: Instrument, values: Mapping[str, Value]
) -> list[Part]:
    """Return the frames of a file.

    Parameters
    ----------
    structure : Structure
        Units of the file.
    instrument : Instrument
        Its ``hdu``, ``amplifiers`` and ``detectors``.
    values : mapping
        Header values set by hand.

    Raises
    ------
    FrameRejected
        NO_IMAGE or AMBIGUOUS_HDU.
    """
    images = [unit for unit in structure.hdus if unit.is_image]
    if not images:
        raise FrameRejected("NO_IMAGE", f"None of the {len(structure.hdus)} HDUs holds an image.")
    if instrument.hdu == "amplifiers" and not _is_product(structure):
        return _assembled(structure, images, instrument, values)
    units = _chosen(structure, images, instrument)
    names = _detector_names(units) if instrument.hdu == "each" else [""] * len(units)
    parts = []
    for unit, name in zip(units, names, strict=True):
        header = whole_header(structure, unit).with_values(dict(values))
        rules = [one for one in instrument.amplifiers if one.hdu is None]
        used = tuple((one, unit) for one in rules if holds(one.when, header))
        parts.append(Part(unit, name, used))
    return parts


def _is_product(structure: Structure) -> bool:
    """A file with error or mask planes is a product; one row says so."""
    return {"SCI", "ERR"} <= {unit.name.upper() for unit in structure.hdus}


def _chosen(structure: Structure, images: list[Hdu], instrument: Instrument) -> list[Hdu]:
    if isinstance(instrument.hdu, int):
        found = [unit for unit in images if unit.number == instrument.hdu]
        if not found:
            raise FrameRejected("NO_IMAGE", f"HDU {instrument.hdu} holds no image.")
        return found
    if len(images) == 1 or _is_product(structure):
        return images[:1]
    if instrument.hdu == "each":
        return images
    raise FrameRejected(
        "AMBIGUOUS_HDU",
        f"{_listed(images)}; the instrument {instrument.name} does not say which is the frame "
        "(hdu: a number, each, or amplifiers).",
    )


def _listed(images: Sequence[Hdu]) -> str:
    names = ", ".join(f"{u.number} {u.name}".strip() for u in images[:8])
    return f"{len(images)} images in the file (HDU {names})"


def _detector_names(units: Sequence[Hdu]) -> list[str]:
    """Return a name for each image: EXTNAME, with EXTVER or number where it is not enough."""
    every = [unit.name for unit in units]
    names = []
    for unit in units:
        name = unit.name
        if len(units) > 1 and not name:
            name = f"hdu{unit.number}"
        elif every.count(name) > 1:
            version = unit.header.get("EXTVER")
            versions = [u.header.get("EXTVER") for u in units if u.name == name]
            unique = len({repr(v) for v in versions}) == len(versions)
            name = f"{name}-{version if unique and version is not None else unit.number}"
        names.append(name)
    return names


def _assembled(
    structure: Structure,
    images: list[Hdu],
    instrument: Instrument,
    values: Mapping[str, Value],
) -> list[Part]:
    """Return the frames that amplifiers in HDUs of their own make up."""
    found: dict[str, tuple[AmplifierRule, Hdu]] = {}
    missing: dict[str, AmplifierRule] = {}
    for rule in instrument.amplifiers:
        unit = _named(images, rule.hdu)
        header = whole_header(structure, unit or structure.hdus[0]).with_values(dict(values))
        if not holds(rule.when, header):
            continue
        if unit is None:
            missing[rule.name] = rule
        else:
            found[rule.name] = (rule, unit)
    if not found and not missing:
        if len(images) == 1:
            return [Part(images[0])]
        raise FrameRejected(
            "AMBIGUOUS_HDU",
            f"{_listed(images)}; the conditions of no amplifier of the instrument "
            f"{instrument.name} hold.",
        )
    groups = {one.name: one.amplifiers for one in instrument.detectors}
    if not groups:
        groups = {"": tuple(one.name for one in instrument.amplifiers)}
    parts = []
    for name, members in groups.items():
        used = tuple(found[member] for member in members if member in found)
        lost = [missing[member] for member in members if member in missing]
        problem = None
        if lost:
            problem = FrameRejected(
                "NO_IMAGE", f"Amplifier {lost[0].name}: the file has no image {lost[0].hdu!r}."
            )
        if used or lost:
            parts.append(Part(used[0][1] if used else images[0], name, used, problem))
    return parts


def _named(images: Sequence[Hdu], wanted: int | str | None) -> Hdu | None:
    """Return the image of a number, ``EXTNAME`` or ``EXTNAME,EXTVER``."""
    if isinstance(wanted, int):
        return next((unit for unit in images if unit.number == wanted), None)
    name, comma, version = str(wanted).rpartition(",")
    if not comma or not version.strip().isdigit():
        name, version = str(wanted), ""
    for unit in images:
        if unit.name.casefold() != name.strip().casefold():
            continue
        own = unit.header.get("EXTVER")
        if not version or (1 if own is None else own) == int(version):
            return unit
    return None
