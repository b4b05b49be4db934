"""Forced photometry from Python: any positions on any frames, a row for each pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.measure.apertures import measure_apertures
from skymill.measure.positions import Positions
from skymill.measure.rings import mask_sources

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from astropy.table import Table
    from astropy.wcs import WCS
    from numpy.typing import NDArray

__all__ = ["ForcedFrame", "forced"]


@dataclass(frozen=True, eq=False)
class ForcedFrame:
    """A frame to measure on.

    Parameters
    ----------
    name : str
        Its name.
    sci, err : ndarray of float32, shape (ny, nx)
        Background-subtracted image and its one-sigma error.
    mask : ndarray of uint16, shape (ny, nx), or None
        0 is good.
    wcs : astropy.wcs.WCS or None
        World coordinates; None for positions in pixels.
    mjd_mid : float or None
        Middle of the exposure (UTC); needed for what moves.
    fwhm_px : float
        FWHM of its stars.
    """

    name: str
    sci: NDArray[np.float32]
    err: NDArray[np.float32]
    mask: NDArray[np.uint16] | None
    wcs: WCS | None
    mjd_mid: float | None
    fwhm_px: float


def forced(
    frames: Iterable[ForcedFrame],
    positions: Positions | Table,
    *,
    radii_fwhm: Sequence[float] = (0.75, 1.5, 2.5),
    annulus_fwhm: Sequence[float] | None = (4.0, 7.0),
    **options: Any,
) -> Table:
    """Measure positions, moving or not, on frames as they were taken.

    Parameters
    ----------
    frames : iterable of ForcedFrame
        Read one after the other.
    positions : Positions or Table
        Where; a table as for `Positions.from_table`. Pixels are those of each frame.
    radii_fwhm : sequence of float
        Radii in FWHM of each frame.
    annulus_fwhm : (float, float), optional
        Ring of the local sky in FWHM; None: none is subtracted.
    **options
        Further arguments of `measure_apertures`.

    Returns
    -------
    Table
        A row for every frame and object, in this order: frame, object, mjd_mid, ra, dec, x,
        y, fwhm, and the columns of `measure_apertures`. Where an object is not on a frame,
        or not known at its time, fluxes are NaN and flags hold OUTSIDE.

    Raises
    ------
    ConfigError
        For positions that cannot be read, or on the sky without coordinates.
    """
    from astropy.table import Table, vstack

    where = positions if isinstance(positions, Positions) else Positions.from_table(positions)
    parts = []
    for frame in frames:
        wcs = frame.wcs
        if wcs is None:
            from astropy.wcs import WCS

            wcs = WCS(naxis=2)
        x, y, ra, dec = where.pixels(wcs, frame.mjd_mid)
        fwhm = frame.fwhm_px
        bits = np.zeros(frame.sci.shape, np.uint16) if frame.mask is None else frame.mask
        ring = None if annulus_fwhm is None else tuple(float(f) * fwhm for f in annulus_fwhm)
        small = measure_apertures(frame.sci, frame.err, bits, x, y, [1.25 * fwhm])
        with np.errstate(invalid="ignore", divide="ignore"):
            snr = np.asarray(small["flux_0"] / small["flux_err_0"])
        found = measure_apertures(
            frame.sci, frame.err, bits, x, y, [float(f) * fwhm for f in radii_fwhm],
            annulus=ring, sky_mask=mask_sources(bits, x, y, snr, fwhm), **options,
        )  # fmt: skip
        found.meta.clear()
        n = len(where)
        head = Table(
            {
                "frame": np.full(n, frame.name),
                "object": np.array(where.names, dtype=str),
                "mjd_mid": np.full(n, np.nan if frame.mjd_mid is None else frame.mjd_mid),
                "ra": ra,
                "dec": dec,
                "fwhm": np.full(n, fwhm),
            }
        )
        for name in found.colnames:
            head[name] = found[name]
        parts.append(head)
    if not parts:
        raise ValueError("no frame was given")
    return vstack(parts) if len(parts) > 1 else parts[0]
