"""How a detector was read: amplifiers, their sections, gain, noise and place on the frame."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from skymill.errors import FrameRejected
from skymill.linearity import TOP_ADU, Linearity
from skymill.sections import Section, parse_place, parse_section, parse_sections, union

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Amplifier", "Images", "Readout", "amplifier_entries", "as_images"]

#: Variance that rounding to integers adds (ADU^2).
ROUNDING = 1 / 12
#: Read-out corners: lower or upper, left or right.
CORNERS = ("ll", "lr", "ul", "ur")
#: Raw images of a frame by the number of their HDU.
Images = Mapping[int, "NDArray[Any]"]

_WHERE = "Set it in the instrument file or by an override."


def as_images(raw: NDArray[Any] | Images, row: Mapping[str, Any]) -> Images:
    """Return raw images by HDU; a single array is that of the row's own HDU."""
    return raw if isinstance(raw, Mapping) else {int(row.get("hdu") or 0): raw}


def amplifier_entries(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the column ``amplifiers`` of a row says; empty for a single amplifier.

    Raises
    ------
    FrameRejected
        ``BAD_SECTION`` if it is not a list of amplifiers with name, HDU, data section and
        place.
    """
    text = row.get("amplifiers") or ""
    if not text:
        return []
    try:
        entries = json.loads(str(text))
        for entry in entries:
            str(entry["name"]), int(entry["hdu"]), str(entry["data"]), str(entry["place"])
    except (ValueError, TypeError, KeyError) as error:
        raise FrameRejected(
            "BAD_SECTION", f"the column amplifiers cannot be read ({error!r}). {_WHERE}"
        ) from None
    return [dict(entry) for entry in entries]


@dataclass(frozen=True)
class Amplifier:
    """One amplifier of a detector.

    Parameters
    ----------
    name : str
        Name in the instrument file; empty for the only one.
    hdu : int
        Number of the HDU that holds its pixels.
    data : Section
        The pixels that saw light, in the raw image of that HDU.
    overscans : tuple of Section
        The pixels that hold its electronic level, in the same raw image.
    place : Section
        Where the data section lies on the assembled frame.
    flip_x, flip_y : bool
        The columns (rows) of the raw image run against those of the assembled frame.
    gain_e_adu : float
        Gain, electron/ADU.
    read_noise_e : float
        Read noise, electron.
    saturation_adu : float
        Raw values at or above it are saturated (ADU); infinite if not known.
    linear_max_adu : float
        Raw values above it are not linear (ADU); infinite if not known.
    saturation_known : bool
        False if the saturation level was taken from the data type.
    corner : str
        Corner of the assembled frame's part that is read first: ``ll``, ``lr``, ``ul`` or
        ``ur`` (lower, upper; left, right). Crosstalk joins pixels read at the same time.
    linearity : Linearity or None
        None if the amplifier is taken for linear.
    """

    name: str
    hdu: int
    data: Section
    overscans: tuple[Section, ...]
    place: Section
    flip_x: bool = False
    flip_y: bool = False
    gain_e_adu: float = np.nan
    read_noise_e: float = np.nan
    saturation_adu: float = np.inf
    linear_max_adu: float = np.inf
    saturation_known: bool = True
    corner: str = "ll"
    linearity: Linearity | None = None

    @property
    def read_noise_adu(self) -> float:
        """Read noise in ADU."""
        return self.read_noise_e / self.gain_e_adu

    @property
    def dark_variance_adu2(self) -> float:
        """Variance of a pixel without light (ADU^2).

        Read noise, and rounding where the read noise is below 0.5 ADU; above, it was
        measured from integers and holds the rounding already.
        """
        rounding = ROUNDING if self.read_noise_adu < 0.5 else 0.0
        return self.read_noise_adu**2 + rounding

    @property
    def label(self) -> str:
        """Name for messages."""
        return f"amplifier {self.name}" if self.name else "the amplifier"

    def cut(self, raw: NDArray[Any]) -> NDArray[Any]:
        """Return a view of the data section in the orientation of the assembled frame."""
        view: NDArray[Any] = raw[self.data.slices]
        if self.flip_y:
            view = view[::-1]
        return view[:, ::-1] if self.flip_x else view


@dataclass(frozen=True)
class Readout:
    """How one frame was read.

    Parameters
    ----------
    shape : tuple of int
        Shape (ny, nx) of the assembled frame.
    amplifiers : tuple of Amplifier
        In the order of the instrument file; together they cover the frame.
    crosstalk : dict
        ``{victim: {source: coefficient}}`` by name of the amplifiers.
    """

    shape: tuple[int, int]
    amplifiers: tuple[Amplifier, ...]
    crosstalk: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def from_row(
        cls,
        row: Mapping[str, Any],
        raw: NDArray[Any] | Images,
        electronics: Mapping[str, Any] | None = None,
    ) -> Self:
        """Take the description from a row of the sheet and check it against the pixels.

        Parameters
        ----------
        row : mapping
            Row of the sheet.
        raw : ndarray of shape (ny, nx), or mapping of int to such arrays
            The raw image, or the images by HDU.
        electronics : mapping, optional
            ``linearity`` (amplifier to rule, see `Linearity.from_rule`; the only
            amplifier is ``""``) and ``crosstalk``, of the instrument file.

        Raises
        ------
        FrameRejected
            ``BAD_SHAPE``, ``WRONG_SIZE``, ``BAD_SECTION``, ``NO_GAIN`` or
            ``NO_READ_NOISE``.
        """
        images = as_images(raw, row)
        for image in images.values():
            if image.ndim != 2:
                raise FrameRejected("BAD_SHAPE", f"the image has {image.ndim} axes, expected 2.")
        rules = dict((electronics or {}).get("linearity") or {})
        crosstalk = dict((electronics or {}).get("crosstalk") or {})
        entries = amplifier_entries(row)
        if not entries:
            only = _single(row, images, rules)
            return cls(only.place.shape, (only,), {})
        amplifiers = tuple(_one_of(entry, row, images, rules) for entry in entries)
        shape = (int(row["ny"]), int(row["nx"]))
        _check_places(amplifiers, shape)
        return cls(shape, amplifiers, crosstalk)

    @property
    def gain_e_adu(self) -> float:
        """Mean gain of the amplifiers, electron/ADU."""
        return float(np.mean([one.gain_e_adu for one in self.amplifiers]))

    @property
    def read_noise_e(self) -> float:
        """Root mean square read noise of the amplifiers, electron."""
        return float(np.sqrt(np.mean([one.read_noise_e**2 for one in self.amplifiers])))

    @property
    def linear(self) -> bool:
        """True if no amplifier has a linearity correction."""
        return all(one.linearity is None for one in self.amplifiers)


def _positive(value: Any, name: str, code: str, least: float, who: str) -> float:
    if value is None or isinstance(value, str) or not least <= float(value) < np.inf:
        raise FrameRejected(code, f"{name} of {who} is {value}. {_WHERE}")
    return float(value)


def _single(row: Mapping[str, Any], images: Images, rules: Mapping[str, Any]) -> Amplifier:
    """The amplifier that the plain columns of the sheet describe."""
    hdu = int(row.get("hdu") or 0)
    if hdu not in images:
        raise FrameRejected("NO_IMAGE", f"the file has no image in HDU {hdu}.")
    raw = images[hdu]
    ny, nx = raw.shape
    told = (row.get("ny") or ny, row.get("nx") or nx)
    if told != (ny, nx):
        raise FrameRejected(
            "WRONG_SIZE",
            f"the image is {nx} x {ny} px, the sheet says {told[1]} x {told[0]}. "
            "Run `skymill ingest --update`.",
        )
    image, overscan = row.get("datasec") or "", row.get("biassec") or ""
    area = parse_section(image, raw.shape, name="datasec") if image else Section(0, nx, 0, ny)
    strips = parse_sections(overscan, raw.shape, name="biassec")
    return _amplifier(
        row, raw, rules, name="", hdu=hdu, data=area, overscans=strips,
        place=Section(0, area.shape[1], 0, area.shape[0]),
        gain=row.get("gain_e_adu"), noise=row.get("read_noise_e"),
        saturation=row.get("saturation_adu"), linear_max=row.get("linear_max_adu"),
    )  # fmt: skip


def _one_of(
    entry: Mapping[str, Any], row: Mapping[str, Any], images: Images, rules: Mapping[str, Any]
) -> Amplifier:
    """One of several amplifiers, from its entry in the column ``amplifiers``."""
    name, hdu = str(entry["name"]), int(entry["hdu"])
    if hdu not in images:
        raise FrameRejected("NO_IMAGE", f"amplifier {name}: the file has no image in HDU {hdu}.")
    raw = images[hdu]
    data = parse_section(entry["data"], raw.shape, name=f"data section of amplifier {name}")
    strips = tuple(
        parse_section(text, raw.shape, name=f"overscan of amplifier {name}")
        for text in entry.get("bias") or ()
    )
    place, flip_x, flip_y = parse_place(entry["place"], name=f"place of amplifier {name}")
    if place.shape != data.shape:
        raise FrameRejected(
            "BAD_SECTION",
            f"amplifier {name} has {data.shape} px (y, x) of data, its place {place.shape}. "
            f"{_WHERE}",
        )
    corner = str(entry.get("corner") or ("u" if flip_y else "l") + ("r" if flip_x else "l"))
    if corner not in CORNERS:
        raise FrameRejected(
            "BAD_SECTION", f"the read-out corner of amplifier {name} is {corner!r}. {_WHERE}"
        )
    return _amplifier(
        row, raw, rules, name=name, hdu=hdu, data=data, overscans=strips, place=place,
        flip_x=flip_x, flip_y=flip_y, corner=corner,
        gain=entry.get("gain"), noise=entry.get("noise"),
        saturation=entry.get("saturation"), linear_max=entry.get("linear_max"),
    )  # fmt: skip


def _amplifier(
    row: Mapping[str, Any], raw: NDArray[Any], rules: Mapping[str, Any], *, name: str,
    data: Section, overscans: tuple[Section, ...], gain: Any, noise: Any, saturation: Any,
    linear_max: Any, **more: Any,
) -> Amplifier:  # fmt: skip
    who = f"amplifier {name}" if name else str(row.get("instrument") or "the frame")
    for strip in overscans:
        if strip.overlaps(data):
            raise FrameRejected(
                "BAD_SECTION", f"overscan {strip} and data section {data} share pixels. {_WHERE}"
            )
    guess = float(np.iinfo(raw.dtype).max) if raw.dtype.kind in "ui" else np.inf
    top = guess if saturation is None else float(saturation)
    return Amplifier(
        name=name, data=data, overscans=overscans,
        gain_e_adu=_positive(gain, "the gain (electron/ADU)", "NO_GAIN", 1e-9, who),
        read_noise_e=_positive(noise, "the read noise (electron)", "NO_READ_NOISE", 0.0, who),
        saturation_adu=top, linearity=_linearity(rules, name, saturation),
        linear_max_adu=float(linear_max or np.inf), saturation_known=saturation is not None,
        **more,
    )  # fmt: skip


def _linearity(rules: Mapping[str, Any], name: str, saturation: Any) -> Linearity | None:
    rule = rules.get(name)
    if not rule:
        return None
    # what lies above saturation is masked: a polynomial need not make sense there
    top = TOP_ADU if saturation is None or np.isinf(saturation) else float(saturation)
    return Linearity.from_rule(rule, name=f"linearity of {name or 'the amplifier'}", top_adu=top)


def _check_places(amplifiers: Sequence[Amplifier], shape: tuple[int, int]) -> None:
    """The places must cover the assembled frame exactly once, and no overscan hold light."""
    for one, other in permutations(amplifiers, 2):
        if one.hdu == other.hdu and any(strip.overlaps(other.data) for strip in one.overscans):
            raise FrameRejected(
                "BAD_SECTION",
                f"an overscan of amplifier {one.name} and the data section of {other.name} share "
                f"pixels. {_WHERE}",
            )
    for one in amplifiers:
        place = one.place
        if place.x1 > shape[1] or place.y1 > shape[0]:
            raise FrameRejected(
                "BAD_SECTION",
                f"amplifier {one.name} lies at {place} on a frame of {shape[1]} x {shape[0]} px. "
                f"{_WHERE}",
            )
    places = [one.place for one in amplifiers]
    counted, covered = (sum(p.shape[0] * p.shape[1] for p in ps) for ps in (places, union(places)))
    whole = shape[0] * shape[1]
    if not covered == whole == counted:
        raise FrameRejected(
            "BAD_SECTION",
            f"the amplifiers leave {whole - covered} pixels of the frame open and cover "
            f"{counted - covered} more than once. {_WHERE}",
        )
