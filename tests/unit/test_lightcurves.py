"""Light curves: identification, times, flags, and what cannot be made."""

import numpy as np
import pytest
from astropy.table import Table, vstack

from skymill.errors import StepFailed
from skymill.steps.lightcurves import NO_BJD, NO_ENSEMBLE, field_sources, lightcurves
from skymill.steps.photometry import PhotFlag
from skymill.times import Site, bjd_tdb

SITE = "-115.46;31.04;2790"


def catalog(x, y, *, first=1, ra=None, mag=None):
    table = Table()
    table["source"] = np.arange(first, first + len(x))
    table["x"], table["y"] = np.asarray(x, float), np.asarray(y, float)
    table["ra"] = np.full(len(x), np.nan) if ra is None else ra
    table["dec"] = np.full(len(x), np.nan) if ra is None else np.full(len(x), 20.0)
    table["mag"] = np.full(len(x), np.nan) if mag is None else mag
    return table


def night(n_stars=12, n_frames=8, *, seed=1, exptime=None, transparency=None, snr=200.0, first=1):
    """Forced photometry of constant stars: table, rows, true rates."""
    rng = np.random.default_rng(seed)
    rates = np.linspace(100.0, 300.0, n_stars)
    times = np.full(n_frames, 60.0) if exptime is None else np.asarray(exptime, float)
    clear = np.ones(n_frames) if transparency is None else np.asarray(transparency, float)
    tables, rows = [], {}
    for j in range(n_frames):
        name = f"f{j:02d}"
        truth = rates * clear[j] * times[j]
        table = Table()
        table["frame_id"] = np.full(n_stars, name)
        table["source"] = np.arange(first, first + n_stars)
        table["x"] = table["y"] = np.arange(n_stars, dtype=float)
        table["flux"] = truth * (1 + rng.normal(0, 1 / snr, n_stars))
        table["flux_err"] = truth / snr
        table["sky"] = 100.0
        table["flags"] = np.zeros(n_stars, np.int32)
        tables.append(table)
        rows[name] = {"exptime_s": times[j], "mjd_mid": 60000.0 + 0.01 * j, "site": SITE}
    return vstack(tables), rows, rates


def run(table, rows, stars, photcal=None, **settings):
    return lightcurves({"V": table}, {"V": stars}, rows, photcal or {}, **settings)


def test_sources_of_two_filters_are_identified_by_position():
    first = catalog([10, 50, 90], [10, 50, 90], first=5)
    second = catalog([50.5, 10.3, 200, 90, 91], [50, 10, 200, 93, 89], first=1)
    sources = field_sources({"B": first, "V": second}, match_radius_px=2.0)
    # V is longer and comes first; B's third star matches V's fifth.
    np.testing.assert_array_equal(sources["id_V"], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(sources["id_B"], [6, 5, 0, 0, 7])
    np.testing.assert_array_equal(sources["source"], np.arange(1, 6))


def test_a_source_is_never_claimed_twice():
    sources = field_sources({"B": catalog([10.0, 10.6], [10, 10]), "V": catalog([10.1], [10])})
    assert len(sources) == 2
    assert sorted(sources["id_V"]) == [0, 1]
    assert sources["id_B"][list(sources["id_V"]).index(1)] == 1


def test_points_are_in_order_of_time_for_every_source():
    table, rows, _ = night()
    shuffled = table[np.random.default_rng(2).permutation(len(table))]
    stars = catalog(np.arange(12) * 30, np.arange(12) * 30)
    one, other = run(table, rows, stars).value, run(shuffled, rows, stars).value
    points = one.points
    assert len(points) == 96
    np.testing.assert_array_equal(points["source"], np.repeat(np.arange(1, 13), 8))
    assert (np.diff(np.asarray(points["mjd_mid"]).reshape(12, 8), axis=1) > 0).all()
    for name in points.colnames:
        np.testing.assert_array_equal(points[name], other.points[name], err_msg=name)


def test_times_are_barycentric_for_each_source():
    table, rows, _ = night()
    ra = np.linspace(0, 330, 12)
    stars = catalog(np.arange(12) * 30, np.arange(12) * 30, ra=ra)
    points = run(table, rows, stars).value.points
    site = Site(-115.46, 31.04, 2790)
    truth = bjd_tdb(np.asarray(points["mjd_mid"]), ra[np.asarray(points["source"]) - 1], 20.0, site)
    np.testing.assert_array_equal(points["bjd_tdb"], truth)
    assert not (np.asarray(points["flags"]) & NO_BJD).any()
    assert np.isfinite(points["airmass"]).any()


@pytest.mark.parametrize("missing", ["site", "sky", "time"])
def test_unknown_place_or_time_leaves_nan_and_a_flag(missing):
    table, rows, _ = night()
    if missing == "site":
        rows = {name: row | {"site": ""} for name, row in rows.items()}
    if missing == "time":
        rows = {name: row | {"mjd_mid": None} for name, row in rows.items()}
    ra = None if missing == "sky" else np.linspace(0, 330, 12)
    result = run(table, rows, catalog(np.arange(12) * 30, np.arange(12) * 30, ra=ra))
    points = result.value.points
    assert np.isnan(points["bjd_tdb"]).all()
    assert (np.asarray(points["flags"]) & NO_BJD).all()
    assert "NO_BJD" in dict(result.flags)
    assert np.isfinite(points["rel_flux"]).all()


def test_different_exposure_times_are_taken_out():
    table, rows, rates = night(exptime=[10, 20, 40, 80, 160, 60, 60, 60])
    points = run(table, rows, catalog(np.arange(12) * 30, np.arange(12) * 30)).value.points
    ratio = np.asarray(points["flux"]) / rates[np.asarray(points["source"]) - 1]
    # S/N 200 each: 96 values within 5 sigma.
    assert np.abs(ratio - 1).max() < 5 / 200
    assert points["flux"].unit == "electron / s"


def test_known_throughput_sets_the_scale_and_the_catalogue_the_magnitudes():
    clear = np.array([1.0, 0.9, 0.5, 0.7, 1.0, 0.8, 0.6, 0.95])
    table, rows, rates = night(transparency=clear, snr=1000.0)
    photcal = {f"f{j:02d}": {"throughput": t, "fwhm_px": 3.0} for j, t in enumerate(clear)}
    mags = 20 - 2.5 * np.log10(rates)
    stars = catalog(np.arange(12) * 30, np.arange(12) * 30, mag=mags)
    curves = run(table, rows, stars, photcal).value
    np.testing.assert_allclose(curves.frames["transparency"], clear, rtol=2e-3)
    points = curves.points
    truth = mags[np.asarray(points["source"]) - 1]
    assert np.abs(points["mag"] - truth).max() < 6e-3
    assert (np.asarray(points["fwhm"]) == 3.0).all()


def test_a_lost_measurement_is_a_row_with_flags():
    table, rows, _ = night()
    lost = (table["frame_id"] == "f03") & (table["source"] == 4)
    table["flux"][lost] = np.nan
    table["flags"][lost] = int(PhotFlag.OUTSIDE | PhotFlag.NO_FLUX)
    table = table[~((table["frame_id"] == "f05") & (table["source"] == 2))]
    points = run(table, rows, catalog(np.arange(12) * 30, np.arange(12) * 30)).value.points
    assert len(points) == 96
    flags = np.asarray(points["flags"]).reshape(12, 8)
    assert flags[3, 3] & int(PhotFlag.OUTSIDE) and flags[1, 5] & int(PhotFlag.NO_FLUX)
    assert (flags != NO_BJD).sum() == 2
    assert np.isnan(points["rel_flux"]).sum() == 2


def test_saturated_stars_are_no_comparison_stars():
    table, rows, _ = night()
    table["flags"][table["source"] == 12] = int(PhotFlag.SATURATED)
    statistics = run(table, rows, catalog(np.arange(12) * 30, np.arange(12) * 30)).value.statistics
    np.testing.assert_array_equal(statistics["comparison"], np.arange(1, 13) != 12)
    assert statistics["n"][11] == 0 and np.isnan(statistics["chi2"][11])


def test_a_lonely_star_has_no_comparison():
    table, rows, _ = night(n_stars=1)
    result = run(table, rows, catalog([10], [10]))
    points = result.value.points
    assert (np.asarray(points["flags"]) & NO_ENSEMBLE).all()
    assert np.isnan(points["rel_flux"]).all() and np.isfinite(points["flux"]).all()
    assert "FEW_STARS" in dict(result.flags)


def test_too_few_frames_make_no_light_curve():
    table, rows, _ = night(n_frames=2)
    with pytest.raises(StepFailed, match="NO_FRAMES"):
        run(table, rows, catalog(np.arange(12) * 30, np.arange(12) * 30))


def test_every_column_is_described():
    table, rows, _ = night()
    curves = run(table, rows, catalog(np.arange(12) * 30, np.arange(12) * 30)).value
    for part in (curves.points, curves.statistics, curves.sources, curves.frames):
        assert all(part[name].description for name in part.colnames)
