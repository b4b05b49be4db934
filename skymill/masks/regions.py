"""DS9 region files: a strict reader and the pixels that regions cover.

Shapes: circle, ellipse, box, annulus (also elliptical and box), polygon, line, vector,
point. Coordinates: image, physical, fk5, fk4, icrs, galactic, ecliptic. What is not
understood is an error with its line number, never skipped: a region that is dropped
silently is a star in the result.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skymill.errors import SkymillError
from skymill.masks._draw import draw_regions

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Region", "draw_regions", "parse_regions"]

_PIXEL_SYSTEMS = ("image", "physical")
_SKY_SYSTEMS = {
    "fk5": "fk5", "j2000": "fk5", "fk4": "fk4", "b1950": "fk4", "icrs": "icrs",
    "galactic": "galactic", "ecliptic": "barycentrictrueecliptic",
}  # fmt: skip
#: Number of lengths that a shape may have, and whether an angle follows.
_SHAPES = {
    "circle": ((1,), False), "annulus": (range(2, 100), False), "point": ((0,), False),
    "ellipse": (range(2, 100, 2), True), "box": (range(2, 100, 2), True),
    "vector": ((1,), True),
}  # fmt: skip
_STATEMENT = re.compile(r"([+-]?)\s*([A-Za-z][A-Za-z0-9]*)\s*(?:\((.*?)\)|(.*?))\s*(?:\|\|)?\s*$")
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_SIZE = re.compile(rf"({_NUMBER})(['\"dripi]?)$")
_ANGLE = re.compile(rf"({_NUMBER})(d?)$")
_DEGREES = re.compile(rf"({_NUMBER})([dr]?)$")
_COLONS = re.compile(r"([+-]?)(\d+):(\d+):(\d+\.?\d*)$")
_LETTERS = re.compile(r"([+-]?)(\d+)([hd])(\d+)m(\d+\.?\d*)s$")


@dataclass(frozen=True)
class Region:
    """One region.

    Parameters
    ----------
    kind : str
        ``circle``, ``ellipse``, ``box``, ``annulus``, ``polygon``, ``line``, ``vector``
        or ``point``.
    system : str
        ``image`` or ``physical`` (pixels, the centre of the first is 1), or a frame of
        the sky: ``icrs``, ``fk5``, ``fk4``, ``galactic``, ``barycentrictrueecliptic``.
    points : tuple of (float, float)
        Centre, ends or vertices; degree on the sky.
    sizes : tuple of float
        Radii, semi-axes, widths and heights, or length.
    angle_deg : float
        From the first axis towards the second; on the sky from west to north, which is
        the same in an image with north up and east to the left.
    in_degrees : bool or None
        True if the sizes are degrees, False if pixels; None is what the system says.
    exclude : bool
        Its pixels are taken out.
    line : int
        Line of the file, 0 if none.
    """

    kind: str
    system: str
    points: tuple[tuple[float, float], ...]
    sizes: tuple[float, ...] = ()
    angle_deg: float = 0.0
    in_degrees: bool | None = None
    exclude: bool = False
    line: int = 0

    @property
    def on_sky(self) -> bool:
        """True if the points are on the sky."""
        return self.system not in _PIXEL_SYSTEMS

    @property
    def sizes_on_sky(self) -> bool:
        """True if the sizes are degrees."""
        return self.on_sky if self.in_degrees is None else self.in_degrees


def parse_regions(text: str, name: str = "region file") -> list[Region]:
    """Read the regions of a DS9 region file.

    Parameters
    ----------
    text : str
        Content of the file.
    name : str
        Name for messages.

    Returns
    -------
    list of Region

    Raises
    ------
    SkymillError
        With the number of the line that cannot be understood.

    Examples
    --------
    >>> parse_regions("image; circle(10, 20, 3)")[0].points
    ((10.0, 20.0),)
    """
    # without a word about it, coordinates are physical
    system = "physical"
    out = []
    for number, statement in _statements(text):
        word = statement.lower()
        if word in _PIXEL_SYSTEMS or word in _SKY_SYSTEMS:
            system = _SKY_SYSTEMS.get(word, word)
            continue
        try:
            out.append(_region(statement, system, number))
        except ValueError as error:
            raise SkymillError(f"{name}, line {number}: {error}") from None
    return out


def _statements(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), start=1):
        code, _, comment = line.partition("#")
        if code.strip().lower().startswith("global"):
            continue
        if not code.strip() and comment.strip().startswith("vector("):
            # vectors are written behind a comment sign
            code = comment.partition(")")[0] + ")"
        for statement in code.split(";"):
            if statement.strip():
                yield number, statement.strip()


def _region(statement: str, system: str, line: int) -> Region:
    match = _STATEMENT.match(statement)
    if match is None:
        raise ValueError(f"{statement!r} is not a region")
    sign, kind, inside, bare = match.groups()
    kind = kind.lower()
    values = [v for v in re.split(r"[\s,]+", (inside if inside is not None else bare).strip()) if v]
    if kind in ("polygon", "line"):
        points = _points(values, system)
        if (kind == "line" and len(points) != 2) or len(points) < 2 + (kind == "polygon"):
            raise ValueError(f"{kind} with {len(points)} points")
        return Region(kind, system, points, exclude=sign == "-", line=line)
    if kind not in _SHAPES:
        raise ValueError(f"{kind!r} is no shape that can be masked; {statement!r}")
    counts, turned = _SHAPES[kind]
    points, rest = _points(values[:2], system), values[2:]
    angle = 0.0
    # the angle may be left out
    if turned and rest and (kind == "vector" or len(rest) % 2):
        found = _ANGLE.match(rest.pop())
        if found is None:
            raise ValueError(f"the angle of {statement!r} is no number")
        angle = float(found[1])
    if len(points) != 1 or len(rest) not in counts:
        raise ValueError(f"{kind} with {len(values)} numbers; {statement!r}")
    sizes, in_degrees = _sizes(rest, system)
    if kind == "annulus" and list(sizes) != sorted(sizes):
        raise ValueError(f"the radii of {statement!r} do not grow")
    return Region(kind, system, points, sizes, angle, in_degrees, sign == "-", line)


def _points(values: list[str], system: str) -> tuple[tuple[float, float], ...]:
    if len(values) % 2 or not values:
        raise ValueError(f"{len(values)} coordinates, expected pairs")
    pairs = zip(values[::2], values[1::2], strict=True)
    return tuple((_position(a, system, 0), _position(b, system, 1)) for a, b in pairs)


def _position(text: str, system: str, axis: int) -> float:
    if system in _PIXEL_SYSTEMS:
        if not re.fullmatch(_NUMBER, text):
            raise ValueError(f"{text!r} is no pixel position ({system})")
        return float(text)
    plain = _DEGREES.match(text)
    if plain:
        value = float(plain[1])
        return math.degrees(value) if plain[2] == "r" else value
    colons, letters = _COLONS.match(text), _LETTERS.match(text)
    if colons:
        sign, first, minutes, seconds = colons.groups()
        hours = axis == 0 and system in ("fk5", "fk4", "icrs")
    elif letters:
        sign, first, unit, minutes, seconds = letters.groups()
        hours = unit == "h"
    else:
        raise ValueError(f"{text!r} is no position on the sky ({system})")
    if float(minutes) >= 60 or float(seconds) >= 60:
        raise ValueError(f"{text!r} has 60 or more minutes or seconds")
    value = (int(first) + int(minutes) / 60 + float(seconds) / 3600) * (15 if hours else 1)
    return -value if sign == "-" else value


def _sizes(values: list[str], system: str) -> tuple[tuple[float, ...], bool | None]:
    """Lengths in pixels or degrees, and which of both."""
    sizes, units = [], set()
    default = system not in _PIXEL_SYSTEMS
    for text in values:
        match = _SIZE.match(text)
        if match is None or float(match[1]) < 0:
            raise ValueError(f"{text!r} is no length")
        value, unit = float(match[1]), match[2]
        if unit in ("i", "p"):
            sky, scale = False, 1.0
        elif unit == "":
            sky, scale = default, 1.0
        else:
            sky, scale = True, {"'": 1 / 60, '"': 1 / 3600, "d": 1.0, "r": math.degrees(1)}[unit]
        units.add(sky)
        sizes.append(value * scale)
    if len(units) > 1:
        raise ValueError("lengths in pixels and in degrees in one region")
    return tuple(sizes), units.pop() if units else None
