"""Light curves: identification, times, flags, and what cannot be made."""

import numpy as np
import pytest
from astropy.table import Table, vstack

from skymill.errors import StepFailed
from skymill.steps.lightcurve_sources import find_sources
from skymill.steps.lightcurves import (
    NO_BJD,
    NO_COMPARISON,
    NO_ENSEMBLE,
    empty_lightcurves,
    field_sources,
    lightcurves,
)
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
    """E76 and O43: one number for a star in all filters and cameras."""
    first = catalog([10, 50, 90], [10, 50, 90], first=5)
    second = catalog([50.5, 10.3, 200, 90, 91], [50, 10, 200, 93, 89], first=1)
    sources = field_sources({"B": first, "V": second}, match_radius_px=2.0)
    # V is longer and comes first; B's third star matches V's fifth.
    np.testing.assert_array_equal(sources["id_V"], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(sources["id_B"], [6, 5, 0, 0, 7])
    np.testing.assert_array_equal(sources["source"], np.arange(1, 6))


def test_a_source_is_never_claimed_twice():
    """E76: mutual nearest neighbours, whichever catalogue comes first."""
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
    """O42 and A33: BJD_TDB in the direction of each source."""
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
    """O33: nothing is dropped; O43: flagged epochs."""
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


def test_a_frame_that_could_not_be_measured_is_a_row_for_every_source():
    """O33 and O34: frames of the sheet that photometry lost keep their place in the grid."""
    table, rows, _ = night()
    rows = {name: row | {"filter": "V"} for name, row in rows.items()}
    table = table[table["frame_id"] != "f04"]
    points = run(table, rows, catalog(np.arange(12) * 30, np.arange(12) * 30)).value.points
    assert len(points) == 96
    flags = np.asarray(points["flags"]).reshape(12, 8)
    assert (flags[:, 4] & int(PhotFlag.NO_FLUX)).all()
    assert not (np.delete(flags, 4, axis=1) & int(PhotFlag.NO_FLUX)).any()
    np.testing.assert_array_equal(points["mjd_mid"][:8], 60000.0 + 0.01 * np.arange(8))


def test_all_fluxes_of_photometry_are_handed_on():
    """Apertures, optimal and PSF fluxes: per second, with flags of their own if there are any."""
    table, rows, rates = night(exptime=[10, 20, 40, 80, 160, 60, 60, 60])
    for name in ("0", "1", "opt", "psf"):
        table[f"flux_{name}"] = 0.5 * table["flux"]
        table[f"flux_{name}_err"] = 0.5 * table["flux_err"]
    table["flags_psf"] = np.full(len(table), 128, np.int32)
    points = run(table, rows, catalog(np.arange(12) * 30, np.arange(12) * 30)).value.points
    for name in ("flux_0", "flux_opt_err", "flux_psf"):
        truth = 0.5 * np.asarray(points["flux_err" if "err" in name else "flux"])
        np.testing.assert_allclose(points[name], truth, rtol=1e-6)
        assert points[name].unit == "electron / s" and points[name].description
    assert (points["flags_psf"] == 128).all()


def test_o43_flux_against_chosen_comparisons():
    """O43: F14 on common frames; a lost comparison star is told, the target stays out."""
    table, rows, _ = night(n_stars=14)
    lost = (table["frame_id"] == "f03") & (table["source"] == 9)
    table["flags"][lost] = int(PhotFlag.SATURATED)
    stars = catalog(np.arange(14) * 30, np.arange(14) * 30, ra=30 + np.arange(14) * 0.01)
    result = run(table, rows, stars, targets=["5"], comparisons=["8", "30.08,20.0", "10"])
    points, sources = result.value.points, result.value.sources
    assert not result.flags
    assert sources["role"].tolist()[4:10] == ["target", "", "", *["comparison"] * 3]
    assert not result.value.statistics["comparison"][4]
    flux, err = (np.asarray(points[n]).reshape(14, 8) for n in ("flux", "flux_err"))
    ratio, ratio_err = (
        np.asarray(points[n]).reshape(14, 8) for n in ("diff_flux", "diff_flux_err")
    )
    good = np.arange(8) != 3
    total = flux[7:10].sum(axis=0)
    np.testing.assert_allclose(ratio[4, good], (flux[4] / total)[good], rtol=1e-12)
    part = np.sqrt((err[7:10] ** 2).sum(axis=0)) / total
    truth = ratio[4] * np.hypot(err[4] / flux[4], part)
    np.testing.assert_allclose(ratio_err[4, good], truth[good], rtol=1e-12)
    flags = np.asarray(points["flags"]).reshape(14, 8)
    assert np.isnan(ratio[4, 3]) and flags[4, 3] & NO_COMPARISON
    # A comparison star is compared with the others, so the lost one itself has a ratio.
    np.testing.assert_allclose(ratio[7, 0], flux[7, 0] / (flux[8, 0] + flux[9, 0]), rtol=1e-12)


def test_stars_that_are_not_there_are_named():
    table, rows, _ = night()
    stars = catalog(np.arange(12) * 30, np.arange(12) * 30, ra=30 + np.arange(12) * 0.01)
    result = run(table, rows, stars, targets=["77", "AB Aur", "30.05,20.0"])
    assert "77, AB Aur" in dict(result.flags)["NO_TARGET"]
    # A position far away belongs to another field.
    index, missing = find_sources(result.value.sources, ["150.0,-20.0"])
    assert not index.size and not missing
    stars["name"] = ["" if i else "AB Aur" for i in range(12)]
    named = run(table, rows, stars, targets=["ab aur"])
    assert not named.flags and named.value.sources["role"][0] == "target"


def test_detrended_magnitudes_are_further_columns():
    """A32, A34 and A35 in the table of points, quality by source and by frame."""
    table, rows, _ = night(n_stars=40, n_frames=30, snr=500.0)
    stars = catalog(np.arange(40) * 30, np.arange(40) * 17 % 300, ra=30 + np.arange(40) * 0.01)
    curves = run(table, rows, stars, magnitude_fit=True, detrend="both", epd_terms="O1{time}").value
    for name in ("mag_fit", "mag_fit_err", "mag_epd", "mag_tfa"):
        assert np.isfinite(curves.points[name]).all() and curves.points[name].unit == "mag"
    assert (curves.frames["magfit_stars"] >= 38).all()
    assert np.median(curves.statistics["rms_fit_mmag"]) == pytest.approx(2.17, rel=0.3)
    assert (curves.statistics["n_terms_epd"] == 2).all()
    assert curves.statistics["rms_tfa_mmag"].description


def test_no_sources_leave_all_columns():
    empty = empty_lightcurves()
    table, rows, _ = night()
    full = run(table, rows, catalog(np.arange(12) * 30, np.arange(12) * 30)).value
    for name in ("points", "statistics", "frames"):
        assert getattr(empty, name).colnames == getattr(full, name).colnames
        assert len(getattr(empty, name)) == 0
