"""World coordinates from the cards of a raw header, believed only where they make sense.

Headers carry world coordinates written as text, distortion under the wrong projection,
singular matrices and reference values in hours; libraries accept most of that in
silence. Here the cards of the primary description are collected, converted, checked,
moved to the trimmed frame and tried at the corners of the image. What fails leaves the
frame without world coordinates and with a reason, to be solved later.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skymill.errors import FrameRejected
from skymill.pixel_map import PixelMap, trimmed_shape
from skymill.wcs_cards import Cards, NoWcsError, WcsCards, collect_cards, is_wcs_keyword, move_cards

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from astropy.wcs import WCS

__all__ = [
    "WcsVerdict",
    "celestial_wcs",
    "examine_wcs",
    "frame_wcs",
    "is_wcs_keyword",
    "separation_deg",
]

SCALE_RANGE_ARCSEC = (0.01, 120.0)
MAX_ASPECT = 1.05
POINTING_LIMIT_DEG = 10.0

_FIXES = ("WCS_STRINGS", "SEXAGESIMAL", "PV_ON_TAN", "FRAME")


@dataclass
class WcsVerdict:
    """What became of the world coordinates of a header.

    Parameters
    ----------
    wcs : astropy.wcs.WCS or None
        ICRS world coordinates of the trimmed frame, None if there are none to believe.
    notes : list of (code, message)
        What was repaired, doubted or refused.
    numbers : dict
        ``scale_arcsec_px`` and ``parity`` (sign of the determinant: -1 is east to the left
        of north, as on the sky).
    """

    wcs: WCS | None = None
    notes: list[tuple[str, str]] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def fixes(self) -> list[tuple[str, str]]:
        """Notes on what was repaired."""
        return [note for note in self.notes if note[0] in _FIXES]

    @property
    def flags(self) -> list[tuple[str, str]]:
        """Notes that lower the trust in the frame."""
        return [note for note in self.notes if note[0] not in _FIXES]


def celestial_wcs(
    header: Cards,
    *,
    policy: str = "header",
    shift_x: float = 0.0,
    shift_y: float = 0.0,
    flip: tuple[bool, bool] = (False, False),
    step: tuple[int, int] = (1, 1),
    phase: tuple[int, int] = (0, 0),
    binning: tuple[int, int] = (1, 1),
    shape: tuple[int, int] | None = None,
    pointing: tuple[float, float] | None = None,
) -> tuple[WCS | None, str, str]:
    """Return the celestial world coordinates of the trimmed frame, if they make sense.

    `frame_wcs` does it for a row of the sheet.

    Parameters
    ----------
    header : astropy.io.fits.Header or RawHeader
        Cards of the raw image (not those of `clean_header`, which leaves them out).
    policy : str
        ``header``: the cards describe the raw image. ``unbinned``: they describe the
        unbinned detector. ``ignore``: they are not used.
    shift_x, shift_y : float
        Columns and rows that trimming removes at the left and at the bottom; CRPIX is
        lowered by them.
    flip : tuple of bool
        Columns, rows of the frame run against those of the raw image; needs ``shape``.
    step, phase : tuple of int
        Every ``step``-th column and row from ``phase`` belongs to the frame (a colour
        channel); ``shift_x`` and ``shift_y`` then count pixels of the channel.
    binning : tuple of int
        Binning (x, y), for policy ``unbinned``.
    shape : tuple of int, optional
        Shape (ny, nx) of the trimmed frame, whose corners are tried.
    pointing : tuple of float, optional
        Right ascension and declination in degrees that the telescope reports.

    Returns
    -------
    wcs : astropy.wcs.WCS or None
        Two celestial axes, ICRS; None if there are none to believe.
    code : str
        Reason codes joined by ``;``; empty if nothing is to be said.
    message : str
        Plain sentences.
    """
    if any(flip) and shape is None:
        raise ValueError("a mirrored frame needs its shape")
    size = (0, 0) if shape is None else (shape[1], shape[0])
    pixels = PixelMap.of(shift=(shift_x, shift_y), flip=flip, size=size, step=step, phase=phase)
    verdict = examine_wcs(
        header, policy=policy, pixels=pixels, binning=binning, shape=shape, pointing=pointing
    )
    codes = ";".join(dict.fromkeys(code for code, _ in verdict.notes))
    return verdict.wcs, codes, " ".join(message for _, message in verdict.notes)


def frame_wcs(header: Cards, row: Mapping[str, Any], *, policy: str = "header") -> WcsVerdict:
    """Judge the world coordinates of a raw header for the frame of a row of the sheet.

    Trim, mirrored amplifiers and their places, colour channels and binning are taken into
    account: the result holds for the assembled, trimmed frame.

    Parameters
    ----------
    header : astropy.io.fits.Header or RawHeader
        Cards of the HDU that the row names (with those it inherits).
    row : mapping
        Row of the sheet: hdu, nx, ny, datasec, amplifiers, channel, binning, ra_deg,
        dec_deg.
    policy : str
        See `celestial_wcs`.

    Returns
    -------
    WcsVerdict
        Without coordinates if the sections of the row cannot be read; never raises for
        what a header or a row may hold.
    """
    binning = [int(n) for n in str(row.get("binning") or "1x1").split("x")]
    ra, dec = row.get("ra_deg"), row.get("dec_deg")
    try:
        pixels, shape = PixelMap.of_row(row), trimmed_shape(row)
    except FrameRejected as rejected:
        return WcsVerdict(notes=[("NO_WCS", f"the frame has no place: {rejected.message}")])
    return examine_wcs(
        header,
        policy=policy,
        pixels=pixels,
        binning=(binning[0], binning[1]),
        shape=shape,
        pointing=None if ra is None or dec is None else (float(ra), float(dec)),
    )


def examine_wcs(
    header: Cards,
    *,
    policy: str = "header",
    pixels: PixelMap | None = None,
    binning: tuple[int, int] = (1, 1),
    shape: tuple[int, int] | None = None,
    pointing: tuple[float, float] | None = None,
) -> WcsVerdict:
    """Judge the world coordinates of a header; see `celestial_wcs`.

    ``pixels`` is the way from the raw image to the frame, the same by default.
    """
    verdict = WcsVerdict()
    if policy == "ignore":
        return verdict
    try:
        cards = collect_cards(header, verdict.notes)
        if cards is None:
            return verdict
        move_cards(cards, pixels or PixelMap(), binning if policy == "unbinned" else (1, 1))
        wcs = _construct(cards)
        _try_out(wcs, cards, shape, verdict)
        wcs = _to_icrs(wcs, cards, shape, verdict)
        _check_pointing(wcs, pointing)
    except NoWcsError as error:
        # What was repaired or doubted on the way does not matter any more.
        verdict.notes = [(error.code, str(error))]
        return verdict
    verdict.wcs = wcs
    return verdict


def _construct(cards: WcsCards) -> WCS:
    from astropy.io import fits
    from astropy.wcs import WCS

    header = fits.Header()
    header["WCSAXES"] = 2
    for keyword, value in cards.items():
        header[keyword] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wcs = WCS(header, naxis=2)
            wcs.wcs.set()
        except Exception as error:  # wcslib raises several types
            text = str(error).strip().splitlines()
            raise NoWcsError(
                "NO_WCS", f"the world coordinates are not valid: {text[-1] if text else error}"
            ) from None
    if not wcs.has_celestial:
        raise NoWcsError("NO_WCS", "the axes are not celestial.")
    return wcs


def _try_out(wcs: WCS, cards: WcsCards, shape: tuple[int, int] | None, verdict: WcsVerdict) -> None:
    """Evaluate centre and corners and check the scale they give."""
    import numpy as np
    from astropy.wcs.utils import proj_plane_pixel_scales

    scales = [float(s) * 3600.0 for s in proj_plane_pixel_scales(wcs)]
    low, high = SCALE_RANGE_ARCSEC
    if not all(low <= s <= high for s in scales) or max(scales) > MAX_ASPECT * min(scales):
        raise NoWcsError(
            "WCS_SCALE",
            f"the pixel scale is {scales[0]:.4g} x {scales[1]:.4g} arcsec; expected square ones of "
            f"{low} to {high} arcsec.",
        )
    ny, nx = shape or (100, 100)
    x = np.array([0.0, nx - 1.0, 0.0, nx - 1.0, (nx - 1) / 2])
    y = np.array([0.0, 0.0, ny - 1.0, ny - 1.0, (ny - 1) / 2])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            world = np.array(wcs.all_pix2world(x, y, 0), dtype=float)
    except Exception as error:
        raise NoWcsError("NO_WCS", f"positions cannot be computed: {error}") from None
    if not np.isfinite(world).all():
        raise NoWcsError("NO_WCS", "positions at the corners of the image are not finite.")
    lon, lat = wcs.wcs.lng, wcs.wcs.lat
    diagonal = math.hypot(nx, ny) * max(scales) / 3600.0
    ends = separation_deg(world[lon][0], world[lat][0], world[lon][3], world[lat][3])
    if (
        shape is not None
        and not 0.5 * diagonal < ends + 1e-9 < 2.0 * diagonal + 1e-9
        and diagonal < 60
    ):
        raise NoWcsError(
            "NO_WCS",
            f"the corners lie {ends:.4g} deg apart, the pixel scale says {diagonal:.4g} deg.",
        )
    verdict.numbers["scale_arcsec_px"] = math.sqrt(scales[0] * scales[1])
    determinant = float(cards["CD1_1"]) * float(cards["CD2_2"]) - float(cards["CD1_2"]) * float(
        cards["CD2_1"]
    )
    verdict.numbers["parity"] = math.copysign(1.0, determinant if lon == 0 else -determinant)


def _to_icrs(wcs: WCS, cards: WcsCards, shape: tuple[int, int] | None, verdict: WcsVerdict) -> WCS:
    """Return right ascension and declination in ICRS, whatever the axes were.

    Other frames are converted by fitting a tangential projection with SIP terms to the
    converted positions of a grid of pixels. FK5 at equinox 2000 differs from ICRS by
    0.02 arcsec and keeps its solution.
    """
    equatorial = str(cards["CTYPE1"])[:4] in ("RA--", "DEC-")
    system, equinox = str(cards["RADESYS"]), float(cards.get("EQUINOX", 2000.0))
    if equatorial and (system == "ICRS" or (system == "FK5" and abs(equinox - 2000.0) < 0.01)):
        wcs.wcs.radesys = "ICRS"
        wcs.wcs.equinox = math.nan
        return wcs
    import numpy as np
    from astropy.wcs.utils import fit_wcs_from_points, pixel_to_skycoord

    from skymill.offline import no_downloads

    no_downloads()
    ny, nx = shape or (1000, 1000)
    grid = np.meshgrid(np.linspace(0, nx - 1, 12), np.linspace(0, ny - 1, 12))
    x, y = grid[0].ravel(), grid[1].ravel()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sky = pixel_to_skycoord(x, y, wcs, origin=0).icrs
            fitted = fit_wcs_from_points((x, y), sky, projection="TAN", sip_degree=3)
            back = np.array(fitted.all_world2pix(sky.ra.deg, sky.dec.deg, 0))
    except Exception as error:
        raise NoWcsError("NO_WCS", f"the frame {system} cannot be converted: {error}") from None
    worst = float(np.hypot(back[0] - x, back[1] - y).max())
    if not worst < 0.1:
        raise NoWcsError("NO_WCS", f"conversion to ICRS leaves {worst:.2g} px.")
    fitted.wcs.radesys = "ICRS"
    name = f"{system} {equinox:g}" if equatorial else str(cards["CTYPE1"])[:4]
    verdict.notes.append(("FRAME", f"world coordinates in {name} were converted to ICRS."))
    return fitted


def _check_pointing(wcs: WCS, pointing: tuple[float, float] | None) -> None:
    if pointing is None:
        return
    lon, lat = float(wcs.wcs.crval[wcs.wcs.lng]), float(wcs.wcs.crval[wcs.wcs.lat])
    apart = separation_deg(lon, lat, *pointing)
    if apart > POINTING_LIMIT_DEG:
        raise NoWcsError(
            "WCS_POINTING",
            f"the world coordinates ({lon:.3f}, {lat:.3f}) lie {apart:.1f} deg from the pointing "
            f"({pointing[0]:.3f}, {pointing[1]:.3f}); expected below {POINTING_LIMIT_DEG:g} deg.",
        )


def separation_deg(lon1: float, lat1: float, lon2: float, lat2: float) -> float:
    """Return the angle between two directions in degrees, exact for small and large angles."""
    a, b = math.radians(lat1), math.radians(lat2)
    d = math.radians(lon2 - lon1)
    y = math.hypot(
        math.cos(b) * math.sin(d),
        math.cos(a) * math.sin(b) - math.sin(a) * math.cos(b) * math.cos(d),
    )
    x = math.sin(a) * math.sin(b) + math.cos(a) * math.cos(b) * math.cos(d)
    return math.degrees(math.atan2(y, x))
