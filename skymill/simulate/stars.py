"""The sky: stars, variable stars, moving objects and the catalogues that list them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import ConfigError
from skymill.simulate.pointing import mjd, pointing_wcs, wcs_cards
from skymill.simulate.psf import Profile
from skymill.simulate.seeds import Stream, generator

if TYPE_CHECKING:
    from datetime import datetime

    from astropy.table import Table
    from numpy.typing import NDArray

    from skymill.simulate.config import MovingObject, NightConfig, Transit, Variable

__all__ = ["Stars", "make_stars", "moving_places", "reference_rows", "relative_flux"]

#: Nodes over which a changing flux is averaged during an exposure.
_TIME_NODES = 11
#: Places that are tried for one more star before the field counts as full.
_DRAWS = 5000


@dataclass(frozen=True, eq=False)
class Stars:
    """True catalogue, and which of its stars change.

    Parameters
    ----------
    ids : tuple of str
        Names, in the order of the catalogue.
    ra, dec : ndarray of float64, shape (n,)
        ICRS, degrees.
    mags : dict of ndarray of float64, shape (n,)
        Magnitudes per filter.
    variables : tuple of (row, Variable)
    transit : (row, Transit) or None
    """

    ids: tuple[str, ...]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    mags: dict[str, NDArray[np.float64]]
    variables: tuple[tuple[int, Variable], ...] = ()
    transit: tuple[int, Transit] | None = None

    def mag(self, band: str) -> NDArray[np.float64]:
        """Magnitudes in a filter; those of the first filter for a foreign one."""
        return self.mags.get(band, next(iter(self.mags.values())))

    def kinds(self) -> list[str]:
        """``constant``, ``sine`` or ``transit``, for each star."""
        kinds = ["constant"] * len(self.ids)
        for row, _ in self.variables:
            kinds[row] = "sine"
        if self.transit is not None:
            kinds[self.transit[0]] = "transit"
        return kinds


def make_stars(config: NightConfig, catalog: Table | None = None) -> Stars:
    """Make the true catalogue, or take the one that is given.

    Parameters
    ----------
    config : NightConfig
        The night.
    catalog : astropy.table.Table, optional
        Columns ``ra``, ``dec`` (degrees), and ``mag`` or one column per filter; ``id``
        is optional.

    Raises
    ------
    ConfigError
        If columns are missing, a chosen star does not exist, or no star is fit to
        vary.
    """
    stars = _random_stars(config) if catalog is None else _given_stars(config, catalog)
    return _with_variables(config, stars)


def _random_stars(config: NightConfig) -> Stars:
    rng = generator(config.seed, Stream.CATALOG, "places")
    ny, nx = config.shape
    margin = config.dither_px + config.distortion_px + 20.0
    wcs = pointing_wcs(wcs_cards(config, config.ra_deg, config.dec_deg, distorted=False))
    x, y = _places(config, rng, (-margin, nx + margin), (-margin, ny + margin))
    if config.n_stars == 0:
        ra = dec = np.empty(0)
    else:
        ra, dec = wcs.all_pix2world(x, y, 0)

    rng = generator(config.seed, Stream.CATALOG, "magnitudes")
    fraction = rng.random(config.n_stars)
    mag = _power_law(fraction, config.mag_bright, config.mag_faint, config.count_slope)
    colour = rng.normal(*config.colour_mag, config.n_stars)
    order = np.argsort(mag, kind="stable")
    width = max(4, len(str(config.n_stars)))
    return Stars(
        tuple(f"star_{i + 1:0{width}d}" for i in range(config.n_stars)),
        # Rounded as they are written: the files are the truth, to the last digit.
        _rounded(np.asarray(ra)[order], 8),
        _rounded(np.asarray(dec)[order], 8),
        {f: _rounded((mag - k * colour)[order], 5) for k, f in enumerate(config.filters)},
    )


def _rounded(values: Any, decimals: int) -> NDArray[np.float64]:
    return np.asarray(np.round(np.asarray(values, dtype=np.float64), decimals), dtype=np.float64)


def _places(
    config: NightConfig,
    rng: np.random.Generator,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw places, uniform or with a smallest distance (random sequential addition)."""
    n, closest = config.n_stars, config.min_separation_px
    if closest == 0:
        return rng.uniform(*x_range, n), rng.uniform(*y_range, n)
    x, y, found, failed = np.empty(n), np.empty(n), 0, 0
    while found < n and failed < _DRAWS:
        new_x, new_y = rng.uniform(*x_range), rng.uniform(*y_range)
        if np.all((x[:found] - new_x) ** 2 + (y[:found] - new_y) ** 2 >= closest**2):
            x[found], y[found] = new_x, new_y
            found, failed = found + 1, 0
        else:
            failed += 1
    if found < n:
        raise ConfigError(
            f"simulate: only {found} of n_stars = {n} fit with min_separation_px = {closest}; "
            "lower one of them or enlarge shape"
        )
    return x, y


def _power_law(
    fraction: NDArray[np.float64], bright: float, faint: float, slope: float
) -> NDArray[np.float64]:
    """Magnitudes whose cumulative counts grow as 10^(slope m) from bright to faint."""
    if abs(slope) < 1e-6:
        return bright + (faint - bright) * fraction
    span = 10.0 ** (slope * (faint - bright)) - 1.0
    return bright + np.log10(1.0 + fraction * span) / slope


def _given_stars(config: NightConfig, catalog: Table) -> Stars:
    names = set(catalog.colnames)
    if not {"ra", "dec"} <= names:
        raise ConfigError(f"simulate: catalog needs columns ra and dec, got {sorted(names)}")
    mags = {}
    for band in config.filters:
        column = band if band in names else "mag"
        if column not in names:
            raise ConfigError(f"simulate: catalog has neither a column {band!r} nor 'mag'")
        mags[band] = _rounded(catalog[column], 5)
    ra = _rounded(catalog["ra"], 8)
    dec = _rounded(catalog["dec"], 8)
    for name, values in {"ra": ra, "dec": dec, **mags}.items():
        if not np.all(np.isfinite(values)):
            raise ConfigError(f"simulate: catalog column {name!r} has values that are not finite")
    if "id" in names:
        ids = tuple(str(name) for name in catalog["id"])
    else:
        ids = tuple(f"star_{i + 1:04d}" for i in range(len(ra)))
    if len(set(ids)) != len(ids):
        raise ConfigError("simulate: catalog column 'id' holds a name twice")
    return Stars(ids, ra, dec, mags)


def _with_variables(config: NightConfig, stars: Stars) -> Stars:
    """Settle which stars vary: the stated rows, or bright isolated stars in their order."""
    asked = [v.star for v in config.variables]
    if config.transit is not None:
        asked.insert(0, config.transit.star)
    taken = {row for row in asked if row is not None}
    if beyond := [row for row in taken if row >= len(stars.ids)]:
        raise ConfigError(f"simulate: no star in row {beyond}; the catalogue has {len(stars.ids)}")
    free = [] if None not in asked else [r for r in _fit_to_vary(config, stars) if r not in taken]
    if (missing := asked.count(None)) > len(free):
        raise ConfigError(
            f"simulate: {missing} stars shall vary but only {len(free)} are bright, unsaturated, "
            "isolated and central; add stars or name their rows"
        )
    queue = iter(free)
    rows = [next(queue) if row is None else row for row in asked]
    transit = None if config.transit is None else (rows.pop(0), config.transit)
    return replace(
        stars, variables=tuple(zip(rows, config.variables, strict=True)), transit=transit
    )


def _fit_to_vary(config: NightConfig, stars: Stars) -> list[int]:
    """Rows of unsaturated, central stars without near neighbours, brightest first."""
    if not stars.ids:
        return []
    ny, nx = config.shape
    wcs = pointing_wcs(wcs_cards(config, config.ra_deg, config.dec_deg, distorted=False))
    x, y = wcs.all_world2pix(stars.ra, stars.dec, 0)
    central = (np.abs(x - nx / 2) < 0.3 * nx) & (np.abs(y - ny / 2) < 0.3 * ny)
    peak = Profile(config.psf, config.fwhm_px, config.moffat_beta).peak * config.exptime_s
    limit = 0.5 * min(
        config.full_well_e or np.inf,
        (config.adc_max_adu - config.bias_level_adu) * config.gain_e_adu,
    )
    for band in config.filters:
        rate = 10.0 ** (-0.4 * (stars.mag(band) - config.per_filter("zero_point_mag", band)))
        central &= peak * rate < limit
    mag = stars.mag(config.filters[0])
    rows = []
    for row in np.flatnonzero(central)[np.argsort(mag[central], kind="stable")]:
        near = np.hypot(x - x[row], y - y[row]) < 6.0 * config.fwhm_px
        if np.count_nonzero(near & (mag < mag[row] + 3.0)) == 1:
            rows.append(int(row))
    return rows


def relative_flux(
    config: NightConfig, stars: Stars, start: datetime, exptime_s: float
) -> NDArray[np.float64]:
    """Brightness of each star over one exposure, relative to its catalogue magnitude.

    Returns
    -------
    ndarray of float64, shape (n,)
        Averages over the exposure; 1 for constant stars.
    """
    hours = (mjd(start) - mjd(config.start)) * 24.0
    nodes = hours + (np.arange(_TIME_NODES) + 0.5) / _TIME_NODES * exptime_s / 3600.0
    relative = np.ones(len(stars.ids))
    for row, star in stars.variables:
        relative[row] *= math.fsum(
            10.0
            ** (
                -0.4
                * star.amplitude_mag
                * math.sin(2.0 * math.pi * (t / star.period_h + star.phase))
            )
            for t in nodes.tolist()
        )
        relative[row] /= _TIME_NODES
    if stars.transit is not None:
        row, transit = stars.transit
        lost = math.fsum(_trapezoid(t, transit) for t in nodes.tolist()) / _TIME_NODES
        relative[row] *= 1.0 - lost
    return relative


def _trapezoid(hour: float, transit: Transit) -> float:
    inside = transit.duration_h / 2.0 - abs(hour - transit.mid_h)
    if inside <= 0:
        return 0.0
    if transit.ingress_h == 0:
        return transit.depth
    return transit.depth * min(inside / transit.ingress_h, 1.0)


def moving_places(
    config: NightConfig, moving: MovingObject, start: datetime, exptime_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sky positions (ra, dec) in degrees along the trail of one exposure.

    Equal steps in time at the middles of their intervals; never coarser than a third
    of a pixel. The mean of the first and last is the position at mid-exposure.
    """
    wcs = pointing_wcs(wcs_cards(config, config.ra_deg, config.dec_deg))
    ny, nx = config.shape
    ra0, dec0 = wcs.all_pix2world(
        (nx - 1) / 2.0 + moving.start_px[0], (ny - 1) / 2.0 + moving.start_px[1], 0
    )
    length_px = moving.rate_arcsec_h * exptime_s / 3600.0 / config.pixel_scale_arcsec
    n = max(1, math.ceil(3.0 * length_px))
    begin = (mjd(start) - mjd(config.start)) * 24.0
    hours: NDArray[np.float64] = begin + (np.arange(n) + 0.5) / n * exptime_s / 3600.0
    path: NDArray[np.float64] = moving.rate_arcsec_h / 3600.0 * hours
    angle = math.radians(moving.angle_deg)
    dec = float(dec0) + path * math.cos(angle)
    ra = float(ra0) + path * math.sin(angle) / math.cos(math.radians(float(dec0)))
    return ra, dec


def reference_rows(config: NightConfig, stars: Stars) -> tuple[list[str], list[str]]:
    """Return the header and lines of the reference catalogue: the truth with errors.

    The error of a magnitude grows from ``reference_error_mag`` as photon noise does
    and is drawn as quoted; wrong stars (``reference_outliers``) are off by 0.3 to 1.5
    mag with an innocent error.
    """
    rng = generator(config.seed, Stream.REFERENCE)
    n, sigma = len(stars.ids), config.reference_position_arcsec / 3600.0
    ra = stars.ra + rng.normal(0, 1, n) * sigma / np.cos(np.radians(stars.dec))
    dec = stars.dec + rng.normal(0, 1, n) * sigma
    wrong = rng.random(n) < config.reference_outliers
    offset = rng.uniform(0.3, 1.5, n) * np.where(rng.random(n) < 0.5, -1.0, 1.0)
    columns = []
    for band in config.filters:
        mag = stars.mag(band)
        faint = 0.01 * 10.0 ** (0.2 * (mag - 17.0))
        error = np.sqrt(config.reference_error_mag**2 + faint**2)
        columns += [mag + rng.normal(0, 1, n) * error + wrong * offset, error]
    first = stars.mag(config.filters[0])
    limit = math.inf if config.reference_mag_limit is None else config.reference_mag_limit
    header = ["id", "ra", "dec"]
    for band in config.filters:
        header += [band, f"{band}_err"]
    lines = [
        ",".join(
            [stars.ids[i], f"{ra[i] % 360.0:.7f}", f"{dec[i]:.7f}"]
            + [f"{column[i]:.4f}" for column in columns]
        )
        for i in range(n)
        if first[i] <= limit
    ]
    return header, lines
