"""Fixed tiles of the whole sky, on which archives are stacked.

Rings of constant declination, one tile at each pole, every tile a TAN image of the same
size with north up. Which tile a position belongs to follows from the scheme alone, never
from the data: identifiers mean the same for ever, in every project. See docs/grids.md.

No heavy imports at the top: the plan uses this module.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from skymill.sphere import (
    Polygon,
    area_sr,
    bounding_cap,
    dot,
    overlap_sr,
    tangent_axes,
    to_degrees,
    unit_vector,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astropy.wcs import WCS

    from skymill.sphere import Vector

__all__ = ["Tile", "TileScheme", "parse_tile", "tile_of", "tile_wcs", "tiles_touching"]

#: Part of the height of a tile, its overlap taken off, that the core of a ring has: the
#: rest takes up how circles of declination bow across a tile near a pole. Part of the
#: scheme: never change it.
_CORE = 0.9375
#: Larger tiles would be bent too much by the projection for `_CORE` to hold.
_MAX_DEG = 5.0
_NAME = re.compile(r"s(\d{3,7})n(\d{2,6})v(\d{1,5})-r(\d{3,6})-(\d{4,8})")


@dataclass(frozen=True)
class Tile:
    """One tile.

    Parameters
    ----------
    id : str
        Identifier, which holds the scheme: ``s0500n4096v0128-r091-0123`` is tile 123 of
        ring 91 of the scheme of 500 milliarcsec, 4096 px and 128 px of overlap.
    ring, index : int
        Ring, from the south pole; number within it, from RA = 0 h to the east.
    ra, dec : float
        Centre, degree.
    """

    id: str
    ring: int
    index: int
    ra: float
    dec: float


@dataclass(frozen=True)
class TileScheme:
    """A division of the sky into tiles.

    Parameters
    ----------
    scale_mas : int
        Pixel scale in milliarcsec.
    size_px : int
        Side of a tile in pixels.
    overlap_px : int
        Least overlap of neighbouring tiles in pixels.

    Raises
    ------
    ValueError
        If a tile would be larger than 5 degree, or has no core beside its overlap.
    """

    scale_mas: int
    size_px: int
    overlap_px: int

    def __post_init__(self) -> None:
        if not 1 <= self.scale_mas < 10**7 or not 16 <= self.size_px < 10**6:
            raise ValueError("a tile needs a scale of at least 0.001 arcsec and 16 px")
        if not 0 <= self.overlap_px <= self.size_px // 2:
            raise ValueError("the overlap of tiles is at most half their size")
        if self.side_deg > _MAX_DEG:
            raise ValueError(
                f"tiles of {self.size_px} px of {self.scale_mas / 1000:g} arcsec are "
                f"{self.side_deg:.3g} degree wide, at most {_MAX_DEG:g} are allowed"
            )

    @classmethod
    def of(cls, scale_arcsec: float, size_px: int, overlap_px: int) -> TileScheme:
        """Return the scheme of a pixel scale in arcsec, a multiple of 0.001.

        Raises
        ------
        ValueError
            See the class, or if the scale has more than three decimals.
        """
        scale = round(scale_arcsec * 1000)
        if abs(scale - scale_arcsec * 1000) > 1e-6:
            raise ValueError(f"the scale of tiles has three decimals, not {scale_arcsec!r}")
        return cls(scale, size_px, overlap_px)

    @property
    def name(self) -> str:
        """What identifiers of the scheme begin with."""
        return f"s{self.scale_mas:04d}n{self.size_px:04d}v{self.overlap_px:04d}"

    @property
    def side_deg(self) -> float:
        """Side of a tile on its tangent plane, degree."""
        return self.size_px * self.scale_mas / 3.6e6

    @property
    def n_rings(self) -> int:
        """Rings, the two poles included."""
        core = _CORE * (self.size_px - self.overlap_px) * self.scale_mas / 3.6e6
        return math.ceil(180.0 / core - 1e-9) + 1

    @property
    def height_deg(self) -> float:
        """Declinations from one ring to the next, degree."""
        return 180.0 / (self.n_rings - 1)

    def count(self, ring: int) -> int:
        """Tiles of a ring: cores are nowhere wider than high."""
        if ring in (0, self.n_rings - 1):
            return 1
        height = self.height_deg
        lowest = max(abs(self.dec_of(ring)) - height / 2, 0.0)
        return math.ceil(360.0 * math.cos(math.radians(lowest)) / height - 1e-9)

    def dec_of(self, ring: int) -> float:
        """Declination of the centres of a ring, degree."""
        if not 0 <= ring < self.n_rings:
            raise ValueError(f"{self.name} has no ring {ring}, the last is {self.n_rings - 1}")
        return -90.0 + 180.0 * ring / (self.n_rings - 1)

    def tile(self, ring: int, index: int) -> Tile:
        """Return a tile by ring and number.

        Raises
        ------
        ValueError
            If there is none.
        """
        n = self.count(ring) if 0 <= ring < self.n_rings else 0
        if not 0 <= index < n:
            raise ValueError(f"{self.name} has no tile {index} in ring {ring}")
        name = f"{self.name}-r{ring:03d}-{index:04d}"
        return Tile(name, ring, index, *self._place(ring, index))

    def tile_of(self, ra: float, dec: float) -> Tile:
        """Return the one tile whose core holds a position.

        Parameters
        ----------
        ra, dec : float
            Degree; any right ascension, a declination of -90 to 90.

        Raises
        ------
        ValueError
            For a declination that is none.
        """
        if not -90.0 <= dec <= 90.0 or not math.isfinite(ra):
            raise ValueError(f"no position on the sky: {ra!r}, {dec!r}")
        last = self.n_rings - 1
        ring = min(max(math.floor((dec + 90.0) / self.height_deg + 0.5), 0), last)
        n = self.count(ring)
        return self.tile(ring, min(math.floor((ra % 360.0) / 360.0 * n), n - 1))

    def outline(self, tile: Tile, margin_deg: float = 0.0) -> Polygon:
        """Return the border of the pixels of a tile, widened by a margin."""
        return _outline(tile.ra, tile.dec, self.side_deg / 2 + margin_deg)

    def touching(self, polygon: Sequence[Vector], margin_deg: float = 0.0) -> list[Tile]:
        """Return the tiles whose pixels a polygon on the sky touches, south to north.

        Parameters
        ----------
        polygon : sequence of Vector
            See `skymill.sphere`.
        margin_deg : float
            Tiles are taken to be wider by this on each side.
        """
        near = self.near(*bounding_cap(polygon), margin_deg)
        return [tile for tile in near if self.reaches(tile, polygon, margin_deg)]

    def near(self, centre: Vector, radius: float, margin_deg: float = 0.0) -> list[Tile]:
        """Return the tiles that a circle may touch, south to north: few too many, none missing.

        Parameters
        ----------
        centre : Vector
            Middle of the circle.
        radius : float
            Its radius, radian.
        margin_deg : float
            See `touching`.
        """
        half = math.radians(self.side_deg / 2 + margin_deg)
        reach = radius + math.atan(math.sqrt(2) * half)
        ra, dec = to_degrees(centre)
        out = []
        low = math.floor((dec + 90 - math.degrees(reach)) / self.height_deg)
        high = math.ceil((dec + 90 + math.degrees(reach)) / self.height_deg)
        for ring in range(max(low, 0), min(high, self.n_rings - 1) + 1):
            for index in self._indices(ring, ra, dec, reach):
                middle, east, north = _axes(*self._place(ring, index))
                depth = dot(centre, middle)
                if depth <= 0.5:  # 60 degree away: only a huge polygon reaches that far
                    if radius > 0.5:
                        out.append(self.tile(ring, index))
                    continue
                x, y = abs(dot(centre, east)) / depth, abs(dot(centre, north)) / depth
                # How far the circle reaches on the tangent plane of the tile.
                rho = math.atan(math.hypot(x, y))
                if rho + radius < 1.5:
                    wide = half + math.tan(rho + radius) - math.tan(rho)
                    if x > wide or y > wide:
                        continue
                out.append(self.tile(ring, index))
        return out

    def reaches(self, tile: Tile, polygon: Sequence[Vector], margin_deg: float = 0.0) -> bool:
        """Return True if a polygon and the pixels of a tile have an area in common."""
        outline = self.outline(tile, margin_deg)
        return overlap_sr(polygon, outline) > 1e-9 * area_sr(polygon)

    def _place(self, ring: int, index: int) -> tuple[float, float]:
        n = self.count(ring)
        return (0.0 if n == 1 else (index + 0.5) * 360.0 / n), self.dec_of(ring)

    def _indices(self, ring: int, ra: float, dec: float, reach: float) -> list[int]:
        """Tiles of a ring whose centres may lie within a circle around a position."""
        n = self.count(ring)
        cos = math.cos(math.radians(dec))
        if n == 1 or math.sin(min(reach, math.pi / 2)) >= cos:
            return list(range(n))
        width = math.degrees(math.asin(math.sin(reach) / cos))
        first = math.floor((ra - width) / 360.0 * n - 0.5)
        final = math.ceil((ra + width) / 360.0 * n - 0.5)
        return sorted({k % n for k in range(first, min(final, first + n) + 1)})


@lru_cache(maxsize=4096)
def _axes(ra: float, dec: float) -> tuple[Vector, Vector, Vector]:
    """Return the directions to the centre of a tile, and to east and north there."""
    centre = unit_vector(ra, dec)
    if abs(dec) == 90.0:  # exactly the pole, for the axes of `tangent_axes`
        centre = (0.0, 0.0, math.copysign(1.0, dec))
    return (centre, *tangent_axes(centre))


@lru_cache(maxsize=4096)
def _outline(ra: float, dec: float, half_deg: float) -> Polygon:
    centre, east, north = _axes(ra, dec)
    half = math.radians(half_deg)
    corners = []
    for x, y in ((half, -half), (half, half), (-half, half), (-half, -half)):
        p = tuple(centre[k] + x * east[k] + y * north[k] for k in range(3))
        length = math.sqrt(p[0] ** 2 + p[1] ** 2 + p[2] ** 2)
        corners.append((p[0] / length, p[1] / length, p[2] / length))
    return tuple(corners)


def parse_tile(name: str) -> tuple[TileScheme, Tile]:
    """Return scheme and tile of an identifier.

    Raises
    ------
    ValueError
        If it is none.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no tile; expected such as s0500n4096v0128-r091-0123")
    scale, size, overlap, ring, index = (int(group) for group in match.groups())
    scheme = TileScheme(scale, size, overlap)
    return scheme, scheme.tile(ring, index)


def tile_of(ra: float, dec: float, scheme: TileScheme) -> str:
    """Return the identifier of the one tile whose core holds a position (degree)."""
    return scheme.tile_of(ra, dec).id


def tiles_touching(
    polygon: Sequence[tuple[float, float]], scheme: TileScheme, *, margin_deg: float = 0.0
) -> list[str]:
    """Return the identifiers of the tiles that a polygon of (ra, dec) in degree touches."""
    from skymill.sphere import from_degrees

    return [tile.id for tile in scheme.touching(from_degrees(polygon), margin_deg)]


def tile_wcs(name: str) -> tuple[WCS, tuple[int, int]]:
    """Return world coordinates (TAN, ICRS, north up, east left) and shape of a tile.

    Parameters
    ----------
    name : str
        Identifier.

    Raises
    ------
    ValueError
        If it is none.
    """
    from astropy.wcs import WCS

    scheme, tile = parse_tile(name)
    shape = (scheme.size_px, scheme.size_px)
    wcs = WCS(naxis=2)
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [round(tile.ra, 9), round(tile.dec, 9)]
    wcs.wcs.crpix = [(scheme.size_px + 1) / 2] * 2
    step = round(scheme.scale_mas / 3.6e6, 15)
    wcs.wcs.cd = [[-step, 0.0], [0.0, step]]
    # Without it FITS turns the tile at the north pole by half a turn.
    wcs.wcs.lonpole = 180.0
    wcs.wcs.set()
    wcs.array_shape = shape
    return wcs, shape
