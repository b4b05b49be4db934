"""World coordinates: sanity, text form, and composition with plane transformations.

A solved WCS is the header's own (projection and distortion kept) after a plane
transformation of the pixel positions. For TAN, TPV and other projections without SIP
this is exact in CD and CRPIX; SIP polynomials are transformed along.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io.fits import Header

from skymill.affine import Affine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astropy.wcs import WCS
    from numpy.typing import NDArray

    Points = NDArray[np.float64]

__all__ = [
    "Distortion",
    "compose",
    "fit_monomials",
    "kind_of",
    "linear_wcs",
    "monomials",
    "orientation",
    "pixel_scale",
    "pixel_to_sky",
    "sane",
    "sky_to_pixel",
    "wcs_from_header",
    "wcs_from_text",
    "wcs_header",
    "wcs_to_text",
    "write_sip",
]

#: Plausible pixel scales (arcsec) and largest deviation from square pixels.
_SCALE_RANGE = (0.01, 120.0)
_MAX_STRETCH = 0.05

_TIME_CARDS = ("DATE-OBS", "MJD-OBS", "DATEREF", "MJDREF", "MJDREFI", "MJDREFF", "TIMESYS")


def wcs_to_text(wcs: WCS) -> str:
    """Return a WCS as FITS cards joined by newlines, without cards of time."""
    if wcs.sip is None and not _has_tables(wcs):
        raw = _raw_cards(wcs)
        unwanted = ("", "COMMENT", *_TIME_CARDS)
        cards = [card for card in raw if card[:8].rstrip() not in unwanted]
        return "\n".join([*(card.rstrip() for card in cards), "END"])
    header = wcs_header(wcs)
    return "\n".join(card.rstrip() for card in header.tostring(sep="\n").split("\n"))


def _raw_cards(wcs: WCS) -> list[str]:
    """Return the cards that wcslib writes, as `WCS.to_header` asks it to."""
    from astropy.wcs import WCSHDO_P14, WCSHDO_all

    text = wcs.wcs.to_header(WCSHDO_P14 | WCSHDO_all)
    return [text[at : at + 80] for at in range(0, len(text), 80)]


def _has_tables(wcs: WCS) -> bool:
    """Whether astropy, not wcslib, corrects positions by look-up tables."""
    return any(table is not None for table in (wcs.cpdis1, wcs.cpdis2, wcs.det2im1, wcs.det2im2))


def wcs_from_text(text: str) -> WCS:
    """Return the WCS written by `wcs_to_text`."""
    plain = _plain_wcs([line for line in text.split("\n") if line.strip()])
    return wcs_from_header(Header.fromstring(text, sep="\n")) if plain is None else plain


def _plain_wcs(cards: Sequence[str]) -> WCS | None:
    """Return the WCS of cards that wcslib alone understands; None for others.

    Through a header, which is taken apart and joined again several times, astropy needs
    twenty times as long for this, and a series has as many as frames.
    """
    from astropy.wcs import WCS, Wcsprm

    known = {card[:8].rstrip(): card for card in cards}
    types = [known.get(f"CTYPE{axis}", "") for axis in (1, 2)]
    if not all(_wcslib_alone(key) for key in known) or any("-TAB" in kind for kind in types):
        return None
    if any("-TAN" in kind for kind in types) and any(key[:2] == "PV" for key in known):
        return None  # TPV by its name before 2012, which astropy mends
    if not any(key.startswith(("CTYPE", "CRPIX", "CRVAL", "PC", "CD")) for key in known):
        return None
    raw = "".join(card.ljust(80) for key, card in known.items() if key != "END")
    wcs = WCS(naxis=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wcs.wcs = Wcsprm(header=raw.encode("ascii"), key=" ", relax=True)
        wcs.wcs.set()
    return wcs if wcs.wcs.naxis == 2 else None


def _wcslib_alone(key: str) -> bool:
    """Whether a card is none of those that astropy reads itself: SIP and look-up tables."""
    if key[:2] in ("A_", "B_", "DP", "DQ", "AX") or key[:3] in ("AP_", "BP_", "D2I"):
        return False
    return not key.startswith(("CPDIS", "CQDIS", "CPERR", "CQERR", "SIP"))


def wcs_header(wcs: WCS) -> Header:
    """Return the cards of a WCS, without those of time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = wcs.to_header(relax=True)
    for key in _TIME_CARDS:
        header.remove(key, ignore_missing=True)
    return header


def kind_of(wcs: WCS) -> str:
    """Return ``tan``, ``sip``, ``tpv`` or ``other``; ``linear`` if not celestial.

    The name is taken from the cards that would be written: once set up, wcslib reports
    TPV as TAN.
    """
    if not wcs.has_celestial:
        return "linear"
    if wcs.sip is not None:
        return "sip"
    written = next(card for card in _raw_cards(wcs) if card.startswith("CTYPE1")).split("'")[1]
    return {"-TAN": "tan", "-TPV": "tpv"}.get(written[4:8], "other")


def wcs_from_header(header: Header) -> WCS:
    """Return the WCS of cards that `wcs_header` made; of none, the pixel grid itself."""
    from astropy.wcs import WCS

    if len(header):
        plain = _plain_wcs([card.image for card in header.cards])
        if plain is not None:
            size = header.get("NAXIS1"), header.get("NAXIS2")
            plain.pixel_shape = None if None in size else size
            return plain
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return WCS(header, fix=False) if len(header) else WCS(naxis=2)


def sky_to_pixel(wcs: WCS, lon: Any, lat: Any) -> Points:
    """Return 0-based pixel positions, shape (n, 2); NaN where there is none.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial or linear, two axes.
    lon, lat : array of float, shape (n,)
        RA and Dec in degree, or the two linear coordinates.
    """
    lon, lat = np.atleast_1d(lon).astype(float), np.atleast_1d(lat).astype(float)
    world = [lon, lat]
    if wcs.has_celestial and wcs.wcs.lng == 1:
        world = [lat, lon]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x, y = wcs.all_world2pix(*world, 0, quiet=True, maxiter=50)
    out = np.stack([np.asarray(x, float), np.asarray(y, float)], axis=1)
    if wcs.has_celestial:
        # A gnomonic projection also has a solution for the opposite half of the sky.
        back = wcs.all_pix2world(out, 0)
        back = back[:, ::-1] if wcs.wcs.lng == 1 else back
        out[~(_separation_deg(back[:, 0], back[:, 1], lon, lat) < 1 / 60)] = np.nan
    return out


def pixel_to_sky(wcs: WCS, xy: Points) -> Points:
    """Return (lon, lat) in degree, or linear coordinates, for 0-based pixels (n, 2)."""
    out = np.asarray(wcs.all_pix2world(xy, 0), dtype=float).reshape(-1, 2)
    return out[:, ::-1] if wcs.has_celestial and wcs.wcs.lng == 1 else out


def _separation_deg(lon1: Any, lat1: Any, lon2: Any, lat2: Any) -> NDArray[np.float64]:
    """Angular distance by the haversine, exact for small angles and at RA 0 h."""
    a, b, c, d = (np.radians(np.asarray(v, float)) for v in (lon1, lat1, lon2, lat2))
    h = np.sin((d - b) / 2) ** 2 + np.cos(b) * np.cos(d) * np.sin((c - a) / 2) ** 2
    return np.asarray(np.degrees(2 * np.arcsin(np.sqrt(np.clip(h, 0, 1)))))


def _local_frame(wcs: WCS, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Derivative (east, north in arcsec) of the position at the middle of the frame."""
    x, y = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    h = 0.5
    points = np.array([[x, y], [x + h, y], [x - h, y], [x, y + h], [x, y - h]])
    world = pixel_to_sky(wcs, points)
    if not wcs.has_celestial:
        return np.stack([world[1] - world[2], world[3] - world[4]], axis=1)
    lon, lat = np.radians(world[:, 0]), np.radians(world[:, 1])
    vector = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    east = np.array([-np.sin(lon[0]), np.cos(lon[0]), 0.0])
    north = np.array(
        [-np.sin(lat[0]) * np.cos(lon[0]), -np.sin(lat[0]) * np.sin(lon[0]), np.cos(lat[0])]
    )
    step = np.stack([vector[1] - vector[2], vector[3] - vector[4]], axis=1)
    return np.degrees(np.stack([east @ step, north @ step])) * 3600


def pixel_scale(wcs: WCS, shape: tuple[int, int]) -> float:
    """Return the pixel scale in arcsec at the middle of the frame; NaN if not celestial."""
    if not wcs.has_celestial:
        return float("nan")
    return float(np.sqrt(abs(np.linalg.det(_local_frame(wcs, shape)))))


def orientation(wcs: WCS, shape: tuple[int, int]) -> tuple[float, int]:
    """Return the position angle of the y axis (degree, north to east) and the parity.

    The parity is the sign of the determinant of (east, north) against (x, y): -1 as on
    the sky, where east lies left when north is up, +1 if mirrored. For a linear WCS the
    angle is the rotation to the reference, and the parity is +1 if nothing is mirrored.
    """
    m = _local_frame(wcs, shape)
    sign = float(np.sign(m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]))
    angle = float(np.degrees(np.arctan2(m[0, 1], m[1, 1])))
    return angle, int(sign)


def sane(wcs: WCS | None, shape: tuple[int, int]) -> str:
    """Say what is wrong with a header's WCS; an empty string if it can be used.

    Parameters
    ----------
    wcs : astropy.wcs.WCS or None
        World coordinates of the frame's pixels.
    shape : tuple of int
        Shape (ny, nx) of the frame.

    Returns
    -------
    str
        Reason in plain words.
    """
    if wcs is None or not wcs.has_celestial:
        return "the header has no celestial world coordinates"
    ny, nx = shape
    border = np.array([[x, y] for x in (0, nx - 1) for y in (0, ny - 1)], float)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            world = pixel_to_sky(wcs, border)
            frame = _local_frame(wcs, shape)
    # wcslib raises many types for impossible coordinates; all mean the same here.
    except Exception as error:
        return f"the header's world coordinates cannot be evaluated ({type(error).__name__})"
    if not (np.isfinite(world).all() and np.isfinite(frame).all()):
        return "the header's world coordinates are not finite on the frame"
    size = np.linalg.svd(frame, compute_uv=False)
    if not (_SCALE_RANGE[0] <= size[1] and size[0] <= _SCALE_RANGE[1]):
        return f"a pixel of {size[1]:.3g} x {size[0]:.3g} arcsec is implausible"
    if size[0] / size[1] - 1 > _MAX_STRETCH:
        return f"pixels of {size[1]:.3g} x {size[0]:.3g} arcsec are not square"
    return ""


def linear_wcs(transform: Affine) -> WCS:
    """Return a linear WCS whose world coordinates are ``transform(0-based pixel)``."""
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.crpix = [1.0, 1.0]
    wcs.wcs.crval = [float(v) for v in transform.offset]
    wcs.wcs.pc = transform.matrix
    wcs.wcs.cdelt = [1.0, 1.0]
    wcs.wcs.set()
    return wcs


@dataclass(frozen=True, eq=False)
class Distortion:
    """A polynomial correction of pixel positions.

    ``p -> p + sum c_ij u^i v^j`` with ``(u, v) = (p - middle)/half`` and 2 <= i + j <= order.

    Parameters
    ----------
    order : int
        Highest total degree.
    middle : ndarray of float64, shape (2,)
        Middle of the frame in pixels.
    half : float
        Half of the frame's larger side in pixels.
    coefficients : ndarray of float64, shape (n_terms, 2)
        In the order of `terms`, in pixels.
    """

    order: int
    middle: NDArray[np.float64]
    half: float
    coefficients: NDArray[np.float64]

    def __call__(self, xy: Points) -> Points:
        """Return the positions ``xy``, shape (n, 2), corrected."""
        u = (xy - self.middle) / self.half
        return xy + monomials(u, 2, self.order) @ self.coefficients


def monomials(u: Points, lowest: int, order: int) -> NDArray[np.float64]:
    """Return ``u^i v^j`` for all ``lowest <= i + j <= order``, shape (n, n_terms)."""
    powers = [(i, n - i) for n in range(lowest, order + 1) for i in range(n, -1, -1)]
    return np.stack([u[:, 0] ** i * u[:, 1] ** j for i, j in powers], axis=1)


def compose(
    wcs: WCS,
    transform: Affine,
    shape: tuple[int, int],
    distortion: Distortion | None = None,
) -> WCS:
    """Return the WCS of a frame whose pixels are moved before the given one is applied.

    ``world(p) = wcs(transform(distortion(p)))``

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        World coordinates in the plane that ``transform`` leads to.
    transform : Affine
        From the frame's pixels to the pixels of ``wcs``.
    shape : tuple of int
        Shape (ny, nx) of the frame.
    distortion : Distortion, optional
        Applied first; only for a TAN projection, and written as SIP.

    Returns
    -------
    astropy.wcs.WCS

    Raises
    ------
    ValueError
        If a distortion cannot be written in this projection.
    """
    if not wcs.has_celestial:
        inner = Affine(
            np.asarray(wcs.pixel_scale_matrix),
            np.asarray(wcs.all_pix2world([[0.0, 0.0]], 0))[0],
        )
        return linear_wcs(inner.after(transform))
    matrix = np.asarray(wcs.pixel_scale_matrix) @ transform.matrix
    crpix = np.asarray(wcs.wcs.crpix, float)
    moved = transform.inverse()((crpix - 1)[None, :])[0] + 1
    if wcs.sip is None and distortion is None and not _has_tables(wcs) and kind_of(wcs) == "tan":
        return _replaced(wcs, moved, matrix)
    header = wcs_header(wcs)
    for key in [key for key in header if key[:2] in ("PC", "CD") and "_" in key]:
        del header[key]
    for i in (1, 2):
        header[f"CDELT{i}"] = 1.0
        header[f"CRPIX{i}"] = float(moved[i - 1])
        for j in (1, 2):
            header[f"PC{i}_{j}"] = float(matrix[i - 1, j - 1])
    if wcs.sip is None and distortion is None:
        return wcs_from_header(header)
    if wcs.sip is None and kind_of(wcs) != "tan":
        raise ValueError(f"SIP cannot be written beside {header['CTYPE1']}")
    return _with_sip(header, wcs, transform, shape, distortion, crpix, moved)


def _replaced(wcs: WCS, crpix: NDArray[np.float64], matrix: NDArray[np.float64]) -> WCS:
    """Return a plane projection with other pixels, without a way through header cards."""
    out = wcs.deepcopy()
    if out.wcs.has_cd():
        del out.wcs.cd
    if out.wcs.has_crota():
        del out.wcs.crota
    out.wcs.cdelt = [1.0, 1.0]
    out.wcs.pc = matrix
    out.wcs.crpix = crpix
    out.wcs.set()
    out.pixel_shape = None
    return out


def _with_sip(
    header: Header,
    wcs: WCS,
    transform: Affine,
    shape: tuple[int, int],
    distortion: Distortion | None,
    crpix: NDArray[np.float64],
    moved: NDArray[np.float64],
) -> WCS:
    """Fit SIP polynomials to the whole map; polynomials of its order represent it exactly."""
    ny, nx = shape
    grid = np.stack(
        [v.ravel() for v in np.meshgrid(np.linspace(0, nx - 1, 24), np.linspace(0, ny - 1, 24))],
        axis=1,
    )
    old = 0 if wcs.sip is None else max(wcs.sip.a_order, wcs.sip.b_order)
    order = max(old, 2 if distortion is None else distortion.order)
    if old and distortion is not None:
        order = min(old + distortion.order, 7)
    target = transform(grid if distortion is None else distortion(grid))
    if wcs.sip is not None:
        target = np.asarray(wcs.sip.pix2foc(target, 0)) + 0.0
        # pix2foc is relative to CRPIX in some versions and absolute in others.
        target += _focal_offset(wcs, crpix)
    focal = target - (crpix - 1)
    back = np.linalg.inv(transform.matrix)
    v = grid + 1 - moved
    a = fit_monomials(v, focal @ back.T - v, order)
    for key in [key for key in header if key[:2] in ("A_", "B_", "AP", "BP")]:
        del header[key]
    write_sip(header, v, focal @ back.T, a, order)
    return wcs_from_header(header)


def write_sip(header: Header, v: Points, focal: Points, forward: Points, order: int) -> None:
    """Write SIP terms, and the polynomials of the inverse fitted to the same points.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Cards of a TAN projection; changed.
    v, focal : ndarray of float64, shape (n, 2)
        Distances from CRPIX in pixels before and after the distortion.
    forward : ndarray of float64, shape (n_terms, 2)
        Polynomial of ``v`` that is added to it, all degrees from 0, at most of ``order``.
    order : int
        Order that is written; missing terms are zero.
    """
    missing = (order + 1) * (order + 2) // 2 - len(forward)
    forward = np.concatenate([forward, np.zeros((missing, 2))])
    inverse = fit_monomials(focal, v - focal, min(order + 1, 8))
    for name in ("CTYPE1", "CTYPE2"):
        if not str(header[name]).endswith("-SIP"):
            header[name] = str(header[name]) + "-SIP"
    for axis, (one, two) in enumerate((("A", "AP"), ("B", "BP"))):
        _write(header, one, order, forward[:, axis])
        _write(header, two, min(order + 1, 8), inverse[:, axis])


def _focal_offset(wcs: WCS, crpix: NDArray[np.float64]) -> NDArray[np.float64]:
    """What must be added to ``sip.pix2foc(., 0)`` to get 0-based pixels plus the correction."""
    at_crpix = np.asarray(wcs.sip.pix2foc((crpix - 1)[None, :], 0))[0]
    constant = np.array([wcs.sip.a[0, 0], wcs.sip.b[0, 0]])
    return (crpix - 1) + constant - at_crpix


def fit_monomials(v: Points, value: Points, order: int) -> NDArray[np.float64]:
    """Fit ``value`` by all monomials of ``v`` up to an order; see `monomials` for their order."""
    scale = float(np.abs(v).max())
    design = monomials(v / scale, 0, order)
    solution, *_ = np.linalg.lstsq(design, value, rcond=1e-14)
    degree = np.array([n for n in range(order + 1) for _ in range(n + 1)])
    return np.asarray(solution / scale ** degree[:, None])


def _write(header: Header, name: str, order: int, values: NDArray[np.float64]) -> None:
    header[f"{name}_ORDER"] = order
    powers = [(i, n - i) for n in range(order + 1) for i in range(n, -1, -1)]
    for (i, j), value in zip(powers, values, strict=True):
        header[f"{name}_{i}_{j}"] = float(value)
