"""Barycentric times and airmass against astropy's own, slower ways."""

import numpy as np
import pytest

from skymill.offline import no_downloads
from skymill.times import Site, airmass, bjd_tdb, parse_site

SITE = Site(-115.463611, 31.044167, 2790.0)


@pytest.fixture(scope="module")
def sample():
    no_downloads()
    rng = np.random.default_rng(11)
    return (
        rng.uniform(50000.0, 61500.0, 40),
        rng.uniform(0.0, 360.0, 40),
        np.degrees(np.arcsin(rng.uniform(-1.0, 1.0, 40))),
    )


def _location():
    from astropy.coordinates import EarthLocation

    return EarthLocation.from_geodetic(SITE.lon_deg, SITE.lat_deg, SITE.height_m)


def test_bjd_agrees_with_astropy_within_a_millisecond(sample):
    """O42: light time and clock."""
    from astropy.coordinates import SkyCoord
    from astropy.time import Time

    mjd, ra, dec = sample
    times = Time(mjd, format="mjd", scale="utc", location=_location())
    light = times.light_travel_time(SkyCoord(ra, dec, unit="deg"), ephemeris="builtin")
    truth = times.tdb + light
    ours = bjd_tdb(mjd, ra, dec, SITE)
    # A double holds a Julian date to 40 microseconds; the requirement is 0.01 s.
    assert np.abs((ours - truth.jd) * 86400).max() < 1e-3


def test_direction_and_clock_both_matter(sample):
    mjd, ra, dec = sample
    plain = bjd_tdb(mjd, ra, dec, SITE)
    opposite = bjd_tdb(mjd, (ra + 180) % 360, -dec, SITE)
    # Light times to opposite directions cancel; what is left is TDB - UTC, 61 to 70 s here.
    offset = (0.5 * (plain + opposite) - 2400000.5 - mjd) * 86400
    assert np.all((offset > 60) & (offset < 70))
    assert np.abs(plain - opposite).max() * 86400 > 300


def test_times_broadcast_against_many_sources():
    mjd = np.array([[60000.1], [60000.2], [np.nan]])
    ra, dec = np.array([10.0, 200.0, np.nan]), np.array([-20.0, 45.0, 0.0])
    table = bjd_tdb(mjd, ra, dec, SITE)
    assert table.shape == (3, 3)
    assert table[1, 0] == bjd_tdb(60000.2, 10.0, -20.0, SITE)
    assert np.isnan(table[2]).all() and np.isnan(table[:, 2]).all()
    assert np.isfinite(table[:2, :2]).all()


def test_airmass_agrees_with_the_altitude_of_astropy(sample):
    import astropy.units as u
    from astropy.coordinates import AltAz, SkyCoord
    from astropy.time import Time

    mjd, ra, dec = sample
    frame = AltAz(obstime=Time(mjd, format="mjd", scale="utc"), location=_location())
    altitude = SkyCoord(ra, dec, unit="deg").transform_to(frame).alt.to_value(u.deg)
    ours = airmass(mjd, ra, dec, SITE)
    high = altitude > 20
    assert high.sum() >= 8
    bent = np.radians(altitude + 244 / (165 + 47 * np.abs(altitude) ** 1.1))
    # Aberration is left out: 20 arcsec, so at most 6e-4 in airmass at 20 degrees.
    assert np.abs(ours - 1 / np.sin(bent))[high].max() < 1e-3
    assert np.isnan(ours[altitude < -1]).all()


def test_site_is_read_from_the_sheet():
    assert parse_site("-115.5;31.0;2790") == Site(-115.5, 31.0, 2790.0)
    assert parse_site("10;20") == Site(10.0, 20.0, 0.0)
    for text in ("", None, "a;b;c", "1;2;3;4", "nan;1;2", "10;95;0"):
        assert parse_site(text) is None
