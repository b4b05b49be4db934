"""Images of point sources: exact sub-pixel places, light integrated over each pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Profile", "add_sources"]

#: Work array of one batch of stars: small enough to stay in the cache.
_BATCH_PIXELS = 60_000
#: Largest half size of a stamp.
_MAX_RADIUS_PX = 64
#: Gauss-Legendre rules on [-1, 1]: places and weights. Written out, because a computed
#: rule depends on the machine's linear algebra in its last digits.
_RULES: dict[int, tuple[tuple[float, float], ...]] = {
    2: ((-0.5773502691896257, 1.0), (0.5773502691896257, 1.0)),
    3: (
        (-0.7745966692414834, 0.5555555555555556),
        (0.0, 0.8888888888888888),
        (0.7745966692414834, 0.5555555555555556),
    ),
    6: (
        (-0.9324695142031521, 0.1713244923791704),
        (-0.6612093864662645, 0.3607615730481386),
        (-0.2386191860831969, 0.4679139345726910),
        (0.2386191860831969, 0.4679139345726910),
        (0.6612093864662645, 0.3607615730481386),
        (0.9324695142031521, 0.1713244923791704),
    ),
}


@dataclass(frozen=True)
class Profile:
    """Elliptical Moffat or Gaussian profile of unit flux.

    The Moffat profile is ``(beta - 1)/(pi alpha^2) (1 + r^2/alpha^2)^-beta`` with
    ``alpha = fwhm / (2 sqrt(2^(1/beta) - 1))``; ``r^2`` is a quadratic form of unit
    determinant, so that an ellipse has the flux of the circle. Exponents are
    multiples of one half, computed by products and a square root: operations that
    round alike on every machine, as powers and exponentials do not.

    Parameters
    ----------
    kind : str
        ``"moffat"`` or ``"gauss"``.
    fwhm_px : float
        Full width at half maximum, the geometric mean of both axes.
    beta : float
        Moffat exponent.
    ellipticity : float
        ``1 - b/a``.
    angle_deg : float
        Angle of the long axis from the x axis, counter-clockwise.
    """

    kind: str
    fwhm_px: float
    beta: float = 3.5
    ellipticity: float = 0.0
    angle_deg: float = 0.0

    @property
    def scale_px(self) -> float:
        """Moffat alpha, or Gaussian sigma."""
        if self.kind == "gauss":
            return self.fwhm_px / (2.0 * math.sqrt(2.0 * math.log(2.0)))
        return self.fwhm_px / (2.0 * math.sqrt(2.0 ** (1.0 / self.beta) - 1.0))

    @property
    def peak(self) -> float:
        """Brightness at the centre per unit flux and square pixel."""
        if self.kind == "gauss":
            return 1.0 / (2.0 * math.pi * self.scale_px**2)
        return (self.beta - 1.0) / (math.pi * self.scale_px**2)

    def form(self) -> tuple[float, float, float]:
        """Coefficients (xx, xy, yy) of r^2 = xx x^2 + 2 xy x y + yy y^2, determinant 1."""
        ratio = 1.0 - self.ellipticity
        cos, sin = math.cos(math.radians(self.angle_deg)), math.sin(math.radians(self.angle_deg))
        return (
            ratio * cos * cos + sin * sin / ratio,
            (ratio - 1.0 / ratio) * cos * sin,
            ratio * sin * sin + cos * cos / ratio,
        )

    def __call__(self, r2: NDArray[np.float64]) -> NDArray[np.float64]:
        """Brightness per unit flux at squared distances ``r2``, px^2."""
        scale2 = self.scale_px**2
        if self.kind == "gauss":
            return np.asarray(self.peak * np.exp(r2 / (-2.0 * scale2)))
        base = 1.0 + r2 * (1.0 / scale2)
        power = np.sqrt(base) if self.beta % 1.0 else np.ones_like(base)
        for _ in range(int(self.beta)):
            power *= base
        return np.asarray(self.peak / power)

    def radius(self, flux_e: float) -> int:
        """Half size of a stamp that loses less than 1e-5 of the flux or 0.02 electron."""
        lost = max(1e-5, 0.02 / max(flux_e, 0.02))
        if self.kind == "gauss":
            reach = self.scale_px * math.sqrt(-2.0 * math.log(min(lost, 0.5)))
        else:
            reach = self.scale_px * math.sqrt(max(lost ** (1.0 / (1.0 - self.beta)) - 1.0, 1.0))
        stretched = reach / math.sqrt(1.0 - self.ellipticity) + 1.0
        return int(min(max(4 * math.ceil(stretched / 4), 8), _MAX_RADIUS_PX))


def add_sources(
    image: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux_e: NDArray[np.float64],
    profile: Profile,
) -> None:
    """Add point sources to an image, in place.

    Parameters
    ----------
    image : ndarray of float64, shape (ny, nx)
        Electrons; changed.
    x, y : ndarray of float64, shape (n,)
        Places, 0-based pixel centres; may lie outside the image.
    flux_e : ndarray of float64, shape (n,)
        Total fluxes in electron.
    profile : Profile
        Profile of all sources.

    Notes
    -----
    Pixels are integrated by Gauss-Legendre rules of 6 x 6 nodes in the core, 3 x 3
    around it and 2 x 2 in the wings; the sum of a stamp is right to some 1e-5.
    """
    ny, nx = image.shape
    radii = np.array([profile.radius(float(f)) for f in flux_e], dtype=int)
    near = (x > -radii - 1) & (x < nx + radii) & (y > -radii - 1) & (y < ny + radii)
    for radius in sorted(set(radii[near].tolist())):
        chosen = np.flatnonzero(near & (radii == radius))
        step = max(1, _BATCH_PIXELS // (2 * radius + 1) ** 2)
        for first in range(0, len(chosen), step):
            batch = chosen[first : first + step]
            centre_x = np.floor(x[batch] + 0.5).astype(int)
            centre_y = np.floor(y[batch] + 0.5).astype(int)
            stamps = _stamps(x[batch] - centre_x, y[batch] - centre_y, radius, profile)
            for k, star in enumerate(batch):
                _paste(image, stamps[k] * flux_e[star], centre_x[k] - radius, centre_y[k] - radius)


def _stamps(
    dx: NDArray[np.float64], dy: NDArray[np.float64], radius: int, profile: Profile
) -> NDArray[np.float64]:
    """Unit-flux stamps, shape (n, 2 radius + 1, 2 radius + 1), for sub-pixel offsets."""
    core = max(4, math.ceil(2.0 * profile.scale_px))
    middle = max(8, math.ceil(4.0 * profile.scale_px))
    out = np.empty((0, 0, 0))
    for half, nodes in ((radius, 2), (min(middle, radius), 3), (min(core, radius), 6)):
        block = _integrate(dx, dy, half, nodes, profile)
        if half == radius:
            out = block
        else:
            inner = slice(radius - half, radius + half + 1)
            out[:, inner, inner] = block
    return out


def _integrate(
    dx: NDArray[np.float64], dy: NDArray[np.float64], half: int, nodes: int, profile: Profile
) -> NDArray[np.float64]:
    """Pixel integrals on a square of half size ``half`` with ``nodes``^2 nodes each."""
    xx, xy, yy = profile.form()
    grid = np.arange(-half, half + 1, dtype=np.float64)
    out = np.zeros((len(dx), len(grid), len(grid)))
    for place_y, weight_y in _RULES[nodes]:
        v = (grid[None, :] + 0.5 * place_y - dy[:, None])[:, :, None]
        for place_x, weight_x in _RULES[nodes]:
            u = (grid[None, :] + 0.5 * place_x - dx[:, None])[:, None, :]
            r2 = xx * (u * u) + yy * (v * v)
            if xy:
                r2 += (2.0 * xy) * (u * v)
            out += (0.25 * weight_y * weight_x) * profile(r2)
    return out


def _paste(image: NDArray[np.float64], stamp: NDArray[np.float64], left: int, low: int) -> None:
    """Add a stamp whose first pixel is (low, left), cut at the image's borders."""
    ny, nx = image.shape
    y0, y1 = max(low, 0), min(low + stamp.shape[0], ny)
    x0, x1 = max(left, 0), min(left + stamp.shape[1], nx)
    if y0 < y1 and x0 < x1:
        image[y0:y1, x0:x1] += stamp[y0 - low : y1 - low, x0 - left : x1 - left]
