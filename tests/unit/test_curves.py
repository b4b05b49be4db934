"""The analysis of light curves: O44 select, bin, fold, periods, spectra, correlation; O43."""

import numpy as np
import pytest

from skymill.curves import LightCurves, Series, Transit
from skymill.curves.fit import clipped_fit
from skymill.curves.frequencies import power_spectrum
from skymill.curves.magnitude_fit import fit_magnitudes
from skymill.curves.noise import rms_by_bin
from skymill.curves.terms import design, parse_terms, written
from skymill.curves.tfa import choose_templates, tfa
from skymill.kernels.linear import least_squares


def sine(n=400, *, period=0.31, amplitude=0.02, noise=0.005, seed=1, span=3.0):
    rng = np.random.default_rng(seed)
    time = np.sort(2460000 + rng.uniform(0, span, n))
    err = np.full(n, noise) * rng.uniform(0.5, 1.5, n)
    value = 1 + amplitude * np.sin(2 * np.pi * (time - 2460000) / period) + rng.normal(0, err)
    return Series.of(time, value, err)


# --- terms and fits ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("O2{x,y}", "1 x y x^2 x*y y^2"),
        ("{x,y}", "1 x y"),
        ("O1{x}*O1{m}", "1 m x m*x"),
        ("O2{a} + b", "1 a b a^2"),
        ("O0{x}", "1"),
    ],
)
def test_a36_terms_are_read(text, expected):
    """A36: all products of total order, products of sets, sums of sets."""
    assert " ".join(written(term) for term in parse_terms(text)) == expected


def test_a36_order_three_of_three_variables_has_twenty_terms():
    """A36 and A32: the default of the magnitude fit."""
    assert len(parse_terms("O3{mag,x,y}")) == 20


@pytest.mark.parametrize("text", ["O2{x,", "x**y", "O{x}", "", "O2{1/z}"])
def test_a36_what_cannot_be_read_is_said(text):
    """A36: mistakes are errors that quote the text."""
    with pytest.raises(ValueError, match="terms"):
        parse_terms(text)
    with pytest.raises(ValueError, match="no variable 'z'"):
        parse_terms("O1{z}", known=("x", "y"))


def test_least_squares_agrees_with_lapack_and_gives_the_leverage():
    rng = np.random.default_rng(4)
    a = rng.normal(size=(50, 5))
    y, w = rng.normal(size=50), rng.uniform(0.5, 2, 50)
    w[:7] = 0
    coefficients, predicted, variance, rank = least_squares(a, y, w)
    root = np.sqrt(w)[:, None]
    truth = np.linalg.lstsq(a * root, y * root[:, 0], rcond=None)[0]
    np.testing.assert_allclose(coefficients, truth, rtol=1e-10)
    np.testing.assert_allclose(predicted, a @ truth, rtol=1e-9)
    inverse = np.linalg.inv(a.T @ (a * w[:, None]))
    np.testing.assert_allclose(variance, np.einsum("ij,jk,ik->i", a, inverse, a), rtol=1e-9)
    assert rank == 5 and (w * variance).sum() == pytest.approx(5)


def test_terms_that_say_the_same_are_dropped():
    x = np.linspace(-1, 1, 20)
    a = np.column_stack([np.ones(20), x, 2 * x + 3, x**2])
    coefficients, predicted, _, rank = least_squares(a, 1 + x + x**2, np.ones(20))
    assert rank == 3 and coefficients[2] == 0
    np.testing.assert_allclose(predicted, 1 + x + x**2, atol=1e-12)


def test_outliers_are_left_out_of_a_fit():
    rng = np.random.default_rng(5)
    x = np.linspace(0, 1, 100)
    y = 2 + 3 * x + rng.normal(0, 0.01, 100)
    y[::10] += 1
    matrix = design(parse_terms("O1{x}"), {"x": x})
    fit = clipped_fit(matrix, y, np.full(100, 0.01), np.ones(100, bool))
    assert not fit.used[::10].any() and fit.used.sum() == 90
    assert np.abs(fit.predicted - (2 + 3 * x)).max() < 0.01


def test_a32_magnitudes_of_all_frames_are_brought_to_one_reference():
    """A32: a smooth error of each frame goes, the reference comes from all frames."""
    rng = np.random.default_rng(6)
    n, m = 150, 20
    mag, x0, y0 = rng.uniform(12, 16, n), *rng.uniform(0, 1000, (2, n))
    tilt = rng.normal(0, 0.03, (3, m))
    err = np.full((n, m), 0.004)
    x, y = np.repeat(x0[:, None], m, 1), np.repeat(y0[:, None], m, 1)
    smooth = tilt[0] + tilt[1] * (x - 500) / 500 + tilt[2] * ((y - 500) / 500) ** 2
    value = mag[:, None] + smooth + rng.normal(0, err)
    value[3, 5] += 0.5
    fit = fit_magnitudes(value, err, np.ones((n, m), bool), x, y, terms="O2{x,y}")
    rest = fit.mag - fit.mag.mean(axis=1)[:, None]
    rest[3] = 0
    # Six terms of 150 stars add 2 % to the noise; 3000 values know it to 1.3 %.
    assert rest.std() == pytest.approx(0.004 * np.sqrt(1 - 1 / m) * 1.02, rel=0.06)
    assert (fit.quality.n_terms == 6).all() and fit.quality.n_stars.min() >= 145
    assert np.abs(fit.quality.rms / 0.004 - 1).max() < 0.4
    # A star's own measurement does not enter its correction: the bright flare stays whole.
    assert fit.mag[3, 5] - np.median(fit.mag[3]) == pytest.approx(0.5, abs=0.02)
    assert 2 <= fit.rebuilds <= 5


def test_a32_few_stars_get_fewer_terms():
    """A32: the order falls with the number of stars; without stars there is no correction."""
    rng = np.random.default_rng(8)
    for n, terms in ((60, 10), (25, 4), (6, 1), (2, 0)):
        mag = rng.normal(14, 1, (n, 4))
        position = rng.uniform(0, 100, (2, n, 4))
        fit = fit_magnitudes(mag, np.full((n, 4), 0.01), np.ones((n, 4), bool), *position)
        assert (fit.quality.n_terms == terms).all()
        assert np.isnan(fit.mag).all() == (terms == 0)


def test_a35_templates_leave_the_star_and_its_neighbours_out():
    """A35: a star beside its twin is not explained by the twin; rms before and after."""
    rng = np.random.default_rng(9)
    n, m = 60, 300
    trend = np.sin(np.arange(m) / 20.0)
    x, y = rng.uniform(0, 1000, (2, n))
    x[1], y[1] = x[0] + 3, y[0]
    mag = rng.normal(0, 0.002, (n, m)) + rng.uniform(0.5, 1.5, n)[:, None] * 0.01 * trend
    own = 0.02 * (np.arange(m) % 37 < 4)
    mag[:2] += own
    good = np.ones((n, m), bool)
    templates = choose_templates(mag + np.arange(n)[:, None] * 0.01, good, x, y)
    # 300 frames carry 60 templates at most: seven cells along each side.
    assert 10 < templates.size <= 49
    templates = np.union1d(templates, [0, 1])
    found = tfa(mag, np.full((n, m), 0.002), good, x, y, templates=templates, neighbour_px=20)
    kept = np.polyfit(own - own.mean(), found.mag[0], 1)[0]
    assert kept == pytest.approx(1, abs=0.15)
    assert found.rms_before[5] > 0.004 and found.rms_after[5] < 0.003
    careless = tfa(mag, np.full((n, m), 0.002), good, x, y, templates=templates, neighbour_px=0.1)
    assert np.polyfit(own - own.mean(), careless.mag[0], 1)[0] < 0.5


def test_transits_know_their_windows():
    event = Transit(2460000.5, 2.4, period_d=1.5, ingress_h=0.3)
    times = 2460000.5 + np.array([0, 0.05, 0.051, 1.5, -3.0, 0.7, np.nan])
    np.testing.assert_array_equal(event.inside(times), [1, 1, 0, 1, 1, 0, 0])
    np.testing.assert_allclose(event.shape(times)[[0, 1, 5, 6]], [1, 0, 0, 0], atol=1e-6)
    for wrong in ({"duration_h": 0}, {"duration_h": 50, "period_d": 2},
                  {"duration_h": 1, "ingress_h": 0.6}):  # fmt: skip
        with pytest.raises(ValueError):
            Transit(0.0, **wrong)


# --- one curve ---


def test_o44_bins_carry_their_errors():
    """O44: weighted means, errors by propagation, empty bins stay as NaN."""
    rng = np.random.default_rng(2)
    time = np.concatenate([np.arange(0, 100), np.arange(160, 2000)]) * 1e-3
    err = rng.uniform(0.5, 2, time.size)
    curve = Series.of(time, rng.normal(10, err), err)
    binned = curve.bin(0.02, start=0.0)
    assert len(binned) == 100 and (~binned.good).sum() == 3
    assert np.isnan(binned.value[~binned.good]).all()
    pull = ((binned.value - 10) / binned.err)[binned.good]
    # 97 bins: standard error of the width 0.07.
    assert abs(pull.std() - 1) < 0.29
    first = slice(0, 20)
    w = 1 / err[first] ** 2
    assert binned.err[0] == pytest.approx(w.sum() ** -0.5)
    plain = curve.bin(0.02, start=0.0, weighted=False)
    assert plain.err[0] == pytest.approx(np.sqrt((err[first] ** 2).sum()) / 20)
    with pytest.raises(ValueError):
        curve.bin(0)


def test_o44_gaps_are_pauses_of_more_than_one_and_a_half_steps():
    """O44: gaps and the segments between them."""
    time = np.concatenate([np.arange(10), np.arange(12, 20), [20.4, 21.4]]).astype(float)
    curve = Series.of(time, np.ones(20), np.ones(20))
    assert curve.gaps() == [(9.0, 12.0)]
    assert [len(part) for part in curve.segments()] == [10, 10]


def test_o44_phase_and_period():
    """O44: Lomb-Scargle finds the period, folding on it shows the amplitude."""
    curve = sine()
    found = curve.periodogram()
    assert found.period == pytest.approx(0.31, rel=0.01)
    assert found.false_alarm < 1e-6
    folded = curve.phase_fold(0.31, t0=2460000.0, bins=20)
    assert len(folded) == 20 and folded.count.sum() == 400
    model = 1 + 0.02 * np.sinc(1 / 20) * np.sin(2 * np.pi * folded.time)
    pull = (folded.value - model) / folded.err
    assert abs(pull.std() - 1) < 4 / np.sqrt(40)
    assert folded.time.min() >= -0.5 and folded.time.max() < 0.5


def test_o44_power_spectrum_integrates_to_the_variance():
    """O44: averaged over segments; noise at the level of the errors; gaps are not bridged."""
    rng = np.random.default_rng(7)
    n = 4096
    time = np.arange(n) * 10 / 86400
    keep = (np.arange(n) < 2000) | (np.arange(n) > 2100)
    err = np.full(n, 2.0)
    curve = Series.of(time[keep], 100 + rng.normal(0, err)[keep], err[keep])
    spectrum = power_spectrum(curve, segment=128 * 10 / 86400)
    assert spectrum.n_segments == 15 + 15
    area = spectrum.power.sum() * spectrum.frequency[0]
    # 3840 points: the variance is known to 2.3 %.
    assert area == pytest.approx(0.02**2, rel=0.10)
    assert np.mean(spectrum.power) == pytest.approx(spectrum.noise, rel=0.10)
    wide = spectrum.rebin(1.5)
    assert len(wide.frequency) < 12
    assert wide.err[-1] / wide.power[-1] < spectrum.err[-1] / spectrum.power[-1]
    with pytest.raises(ValueError, match="no stretch"):
        power_spectrum(curve, segment=1.0)


def test_o44_cross_correlation_finds_the_lag():
    """O44: two filters exposed at different times, one follows the other."""
    rng = np.random.default_rng(10)

    def light(t):
        return np.sin(2 * np.pi * t / 0.11) + np.sin(2 * np.pi * t / 0.047 + 1)

    one = np.sort(rng.uniform(0, 1, 500))
    other = np.sort(rng.uniform(0, 1, 450))
    a = Series.of(one, light(one) + rng.normal(0, 0.5, 500), np.full(500, 0.5))
    b = Series.of(other, light(other - 0.012) + rng.normal(0, 0.5, 450), np.full(450, 0.5))
    found = a.cross_correlation(b, max_lag=0.04, step=0.003)
    assert found.peak == pytest.approx(0.012, abs=0.002)
    # The noise is taken off the variances: the peak is near one.
    assert np.nanmax(found.value) == pytest.approx(1, abs=0.15)
    assert b.cross_correlation(a, max_lag=0.04, step=0.003).peak == pytest.approx(-0.012, abs=0.002)


def test_scatter_of_white_noise_falls_with_the_root_of_the_bin():
    rng = np.random.default_rng(12)
    found = rms_by_bin(rng.normal(0, 1, (200, 640)))
    assert found.sizes.tolist() == [1, 2, 4, 8, 16, 32, 64, 128]
    np.testing.assert_allclose(
        np.sqrt((found.rms**2).mean(axis=0)) * np.sqrt(found.sizes), 1, rtol=0.15
    )


def test_a_curve_becomes_a_timeseries_of_astropy_and_a_plot():
    """O44: thin over astropy: nothing is lost on the way."""
    curve = sine(n=30)
    table = curve.timeseries()
    assert table.time.scale == "tdb"
    np.testing.assert_allclose(table.time.jd, curve.time, atol=1e-9)
    np.testing.assert_array_equal(table["value"].value, curve.value)
    assert curve.plot().get_xlabel() == "BJD (TDB) - 2460000"
    import matplotlib.pyplot as plt

    plt.close("all")


# --- a field ---


@pytest.fixture(scope="module")
def field():
    from bench.truth_curves import night, reduce_night

    sky = night(2, n_stars=20, n_frames=30, n_targets=2)
    made = reduce_night(sky).value
    made.sources["name"] = [f"star {i}" for i in range(1, 21)]
    return LightCurves(made.points, made.statistics, made.sources, made.frames, "m67"), sky


def test_o44_curves_are_selected_by_number_name_and_position(field):
    """O44: every way leads to the same star; flags and times select points."""
    curves, sky = field
    assert len(curves) == 600 and curves.filters == ("V",)
    same = [5, "5", "star 5", "Star 5", (sky.ra[4], sky.dec[4]), f"{sky.ra[4]},{sky.dec[4]}"]
    assert {curves.source(which) for which in same} == {5}
    for wrong in ("star 99", 21, (10.0, 10.0)):
        with pytest.raises(KeyError):
            curves.source(wrong)
    part = curves.select([5, "star 7"], filter="V", time=(sky.mjd[10], sky.mjd[19] + 1e-6))
    assert len(part) == 20
    curve = curves.select(5).series(column="flux_corr")
    assert curve.unit == "electron / s" and curve.scale == "tdb" and len(curve) == 30
    with pytest.raises(ValueError, match="several sources"):
        curves.series()
    with pytest.raises(KeyError, match="no column"):
        curves.series(5, column="glow")


def test_o33_o34_all_sources_share_one_grid(field):
    """O33 and O34: sources by frames, no row dropped where something was flagged."""
    curves, _ = field
    flagged = curves.points.copy()
    flagged["flags"][7] = 16
    flagged["flux"][7] = np.nan
    again = LightCurves(flagged, curves.statistics, curves.sources, curves.frames)
    number, flux = again.matrix("flux")
    assert flux.shape == (20, 30) and number.tolist() == list(range(1, 21))
    assert np.isnan(flux).sum() == 1
    assert len(again.series(1)) == 30 and again.series(1).good.sum() == 29
    with pytest.raises(ValueError, match="no common grid"):
        again.select(good=True).matrix("flux")


def test_o43_differential_flux_and_its_error_follow_the_formula(field):
    """O43: target over the sum of comparisons; diagnostics of comparison against comparison."""
    curves, sky = field
    found = curves.differential(3, [5, 6, 8])
    f, s = sky.flux, sky.err
    total = f[[4, 5, 7]].sum(axis=0)
    ratio = f[2] / total
    np.testing.assert_allclose(found.value, ratio, rtol=1e-12)
    relative = np.hypot(s[2] / f[2], np.sqrt((s[[4, 5, 7]] ** 2).sum(axis=0)) / total)
    np.testing.assert_allclose(found.err, ratio * relative, rtol=1e-12)
    check = curves.comparison_check([5, 6, 8, 9])
    assert check["source"].tolist() == [5, 6, 8, 9]
    # 29 degrees of freedom: chi2 within 4 sigma of one.
    assert np.abs(check["chi2"] - 1).max() < 4 * np.sqrt(2 / 29)
    with pytest.raises(ValueError, match="comparison star"):
        curves.differential(3, [3])


def test_o44_methods_of_the_field_are_those_of_the_curve(field):
    """O44: bin, fold, periods, spectra and plots from a selection."""
    import matplotlib.pyplot as plt

    curves, _ = field
    one = curves.select(4)
    np.testing.assert_array_equal(one.bin(0.005).value, one.series().bin(0.005).value)
    assert len(one.phase_fold(0.01)) == 30
    assert one.periodogram().power.max() < 1
    assert one.power_spectrum().n_segments == 1
    assert len(one.to_pandas()) == 30
    assert one.plot() is not None
    with pytest.raises(ValueError, match="at most 20"):
        LightCurves(
            _doubled(curves.points), curves.statistics, curves.sources, curves.frames
        ).plot()
    plt.close("all")


def _doubled(points):
    from astropy.table import vstack

    other = points.copy()
    other["filter"] = "R"
    return vstack([points, other])


def test_correlation_needs_times_of_one_kind():
    a = Series.of(np.arange(9.0), np.ones(9), np.ones(9))
    b = Series.of(np.arange(9.0), np.ones(9), np.ones(9), scale="utc")
    with pytest.raises(ValueError, match="different kinds"):
        a.cross_correlation(b)
