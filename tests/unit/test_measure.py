"""Measurements on arrays: agreement with other tools, conventions, policies, positions."""

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS

from skymill.errors import ConfigError
from skymill.frame import MaskBit
from skymill.kernels.apertures import aperture_sum
from skymill.kernels.circles import aperture_sums
from skymill.kernels.ellipses import ellipse_overlap, kron_radii
from skymill.measure import (
    ForcedFrame,
    PhotFlag,
    Positions,
    PSFModel,
    forced,
    growth_curve,
    measure_apertures,
    measure_ellipses,
    measure_isophotal,
    measure_kron,
    measure_optimal,
    measure_psf,
    read_positions,
    scintillation,
)

RADII = [6.0, 1.5, 3.0, 0.4]


def noise(seed=1, shape=(120, 150)):
    rng = np.random.default_rng(seed)
    sci = rng.normal(0, 10, shape).astype(np.float32)
    err = rng.uniform(5, 15, shape).astype(np.float32)
    return sci, err, np.zeros(shape, np.uint16)


def places(n=40, seed=2, shape=(120, 150)):
    rng = np.random.default_rng(seed)
    return rng.uniform(20, shape[1] - 20, n), rng.uniform(20, shape[0] - 20, n)


def gaussians(shape, x, y, flux, a, b, theta, over=5):
    """Elliptical Gaussians integrated over the pixels, and nothing else."""
    sub = (np.arange(over) - (over - 1) / 2) / over
    out = np.zeros(shape)
    gy, gx = np.mgrid[: shape[0], : shape[1]]
    for xs, ys, f in zip(x, y, flux, strict=True):
        for dy in sub:
            for dx in sub:
                u = (gx + dx - xs) * np.cos(theta) + (gy + dy - ys) * np.sin(theta)
                v = -(gx + dx - xs) * np.sin(theta) + (gy + dy - ys) * np.cos(theta)
                out += f * np.exp(-0.5 * ((u / a) ** 2 + (v / b) ** 2))
    return out / (2 * np.pi * a * b * over**2)


def test_s16_all_radii_at_once_are_those_one_by_one_also_with_masked_pixels():
    sci, err, mask = noise()
    rng = np.random.default_rng(3)
    mask[rng.random(mask.shape) < 0.03] = int(MaskBit.HOT)
    x, y = places()
    x[:3], y[:3] = [1.2, -4.0, np.nan], [50.0, 60.0, 5.0]
    together = aperture_sums(sci, err, mask, x, y, RADII)
    for k, r in enumerate(RADII):
        single = aperture_sum(sci, err, mask, x, y, r)
        for name in single._fields:
            expected = getattr(single, name)
            if name == "masked_area":
                expected = np.where(np.isfinite(x), expected, 0)
            got = getattr(together, name)[:, k]
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_a31_several_radii_agree_with_sep_and_photutils():
    sep = pytest.importorskip("sep")
    from photutils.aperture import CircularAperture

    sci, err, mask = noise()
    x, y = places()
    table = measure_apertures(sci, err, mask, x, y, RADII)
    for k, r in enumerate(RADII):
        flux, _, _ = sep.sum_circle(sci, x, y, r, subpix=0)
        np.testing.assert_allclose(table[f"flux_{k}"], flux, rtol=1e-5, atol=1e-3)
        peer = CircularAperture(np.stack([x, y], 1), r)
        np.testing.assert_allclose(
            table[f"flux_{k}"], peer.do_photometry(sci.astype(float), method="exact")[0], rtol=1e-6,
            atol=1e-6,
        )  # fmt: skip
        # Errors square the weights, which neither of them does.
        variance = [
            float(((m.to_image(sci.shape) ** 2) * err.astype(float) ** 2).sum())
            for m in peer.to_mask(method="exact")
        ]
        np.testing.assert_allclose(table[f"flux_err_{k}"], np.sqrt(variance), rtol=1e-6)


@pytest.mark.parametrize("theta", [0.0, np.radians(40), -1.2])
def test_o36_elliptical_sums_agree_with_photutils(theta):
    from photutils.aperture import EllipticalAperture

    sci, err, mask = noise()
    x, y = places()
    table = measure_ellipses(sci, err, mask, x, y, 4.0, 2.0, theta, scales=(1.0, 2.5))
    for k, scale in enumerate((1.0, 2.5)):
        peer = EllipticalAperture(np.stack([x, y], 1), 4.0 * scale, 2.0 * scale, theta=theta)
        np.testing.assert_allclose(
            table[f"flux_{k}"], peer.do_photometry(sci.astype(float), method="exact")[0],
            rtol=1e-6, atol=1e-6,
        )  # fmt: skip
        np.testing.assert_allclose(table[f"area_{k}"], np.pi * 8 * scale**2, rtol=1e-9)


def test_ellipse_of_equal_axes_is_a_circle():
    sci, err, mask = noise()
    mask[::7, ::5] = int(MaskBit.HOT)
    x, y = places()
    circle = measure_apertures(sci, err, mask, x, y, [3.3])
    ellipse = measure_ellipses(sci, err, mask, x, y, 3.3, 3.3, 0.7)
    for name in ("flux_0", "flux_err_0", "area_0", "masked_0", "flags", "mask_or"):
        np.testing.assert_allclose(ellipse[name], circle[name], rtol=1e-9, atol=1e-9)
    assert ellipse_overlap(0.0, 0.0, 5.0, 3.0, 0.2) == 1.0


def test_o25_orientation_runs_from_columns_to_rows_in_radians():
    """O25: e = 0.5 at 40 degrees; an aperture turned the wrong way loses light."""
    theta = np.radians(40)
    image = gaussians((81, 81), [40.3], [39.8], [1e5], 4.0, 2.0, theta)
    planes = image.astype(np.float32), np.ones((81, 81), np.float32), None

    def light(angle):
        table = measure_ellipses(*planes, 40.3, 39.8, 8.0, 4.0, angle)
        return float(table["flux_0"][0])

    # An ellipse of two sigma holds 1 - exp(-2) of a Gaussian; pixels blur it a little.
    assert light(theta) == pytest.approx(1e5 * (1 - np.exp(-2)), rel=0.012)
    for wrong in (-theta, theta + np.pi / 2, 40.0):
        assert light(wrong) < 0.97 * light(theta)


def test_e69_kron_radii_and_fluxes_are_those_of_sep():
    sep = pytest.importorskip("sep")
    rng = np.random.default_rng(4)
    x, y = np.array([40.2, 110.6, 75.0]), np.array([40.0, 60.7, 90.4])
    image = gaussians((130, 150), x, y, [2e4, 5e4, 1e4], 3.0, 1.8, 0.5)
    sci = (image + rng.normal(0, 1, image.shape)).astype(np.float32)
    err = np.ones_like(sci)
    shape = (3.0, 1.8, 0.5)
    ours = kron_radii(sci, np.zeros(sci.shape, np.uint16), x, y, *shape)
    theirs, _ = sep.kron_radius(sci, x, y, *shape, 6.0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    table = measure_kron(sci, err, None, x, y, *shape, minimum=1.0)
    flux, _, _ = sep.sum_ellipse(sci, x, y, *shape, 2.5 * theirs, subpix=0)
    np.testing.assert_allclose(table["flux_kron"], flux, rtol=1e-5)
    np.testing.assert_allclose(table["kron_radius"], 2.5 * theirs, rtol=1e-5)
    large = measure_kron(sci, err, None, x, y, *shape, minimum=9.0)
    np.testing.assert_array_equal(large["kron_radius"], 9.0)
    dark = measure_kron(-np.abs(sci), err, None, x, y, *shape)
    np.testing.assert_array_equal(dark["kron_radius"], 3.5)


def test_isophotal_fluxes_are_sums_over_segments():
    sci, err, mask = noise()
    segments = np.zeros(sci.shape, np.int32)
    segments[10:14, 20:25], segments[50:52, 60:63] = 1, 7
    mask[11, 21] = int(MaskBit.COSMIC)
    table = measure_isophotal(sci, err, mask, segments, [7, 1, 3], level_err=0.5)
    part = (segments == 1) & (mask == 0)
    assert table["flux_iso"][1] == pytest.approx(sci[part].sum(dtype=float))
    expected = np.sqrt((err[part].astype(float) ** 2).sum() + (19 * 0.5) ** 2)
    assert table["flux_err_iso"][1] == pytest.approx(expected)
    assert list(table["area_iso"]) == [6, 19, 0] and list(table["lost_iso"]) == [0, 1, 0]
    assert table["mask_or"][1] == int(MaskBit.COSMIC) and np.isnan(table["flux_iso"][2])


def test_policies_on_masked_pixels_differ_and_all_flag():
    image = gaussians((61, 61), [30.0], [30.0], [1e4], 2.0, 2.0, 0.0)
    sci, err = image.astype(np.float32), np.ones((61, 61), np.float32)
    mask = np.zeros(sci.shape, np.uint16)
    whole = measure_apertures(sci, err, mask, 30.0, 30.0, [5.0])["flux_0"][0]
    mask[30, 32] = int(MaskBit.HOT)
    sci[30, 32] += 500
    found = {
        policy: measure_apertures(sci, err, mask, 30.0, 30.0, [5.0], masked=policy)
        for policy in ("replace", "exclude", "flag")
    }
    flux = {policy: float(table["flux_0"][0]) for policy, table in found.items()}
    assert flux["replace"] == pytest.approx(whole, rel=1e-6)
    assert flux["exclude"] == pytest.approx(whole - image[30, 32], rel=1e-6)
    assert flux["flag"] == pytest.approx(whole + 500, rel=1e-6)
    assert all(int(table["flags"][0]) == int(PhotFlag.MASKED) for table in found.values())
    with pytest.raises(ValueError, match="replace, exclude, flag"):
        measure_apertures(sci, err, mask, 30.0, 30.0, [5.0], masked="ignore")


@pytest.mark.parametrize("estimator", ["mean", "median", "mode"])
def test_o40_local_sky_and_its_error_reach_the_flux(estimator):
    sci, _, mask = noise(5, (400, 400))
    err = np.full(sci.shape, 10, np.float32)
    y, x = (v.ravel() for v in np.mgrid[25:375:25, 25:375:25].astype(float))
    table = measure_apertures(sci + 7, err, mask, x, y, [4.0], annulus=(7, 11), sky=estimator)
    plain = measure_apertures(sci, err, mask, x, y, [4.0])
    assert np.mean(table["sky"]) == pytest.approx(7, abs=4 * 10 / np.sqrt(226 * 196) * 2.2)
    added = table["flux_err_0"] ** 2 - plain["flux_err_0"] ** 2
    factor = {"mean": 1.0, "median": np.pi / 2, "mode": 25 * np.pi / 8 - 21 / 4}[estimator]
    expected = (np.pi * 16) ** 2 * factor * 100 / 224
    assert np.median(added) == pytest.approx(expected, rel=0.1)
    pull = (table["flux_0"]) / table["flux_err_0"]
    assert np.std(pull) == pytest.approx(1, abs=4 / np.sqrt(2 * 196))


def test_errors_grow_with_correlated_noise_and_scintillation():
    sci, err, mask = noise()
    correlation = np.zeros((11, 11))
    correlation[5, 5] = 1
    correlation[5, [4, 6]] = correlation[[4, 6], 5] = 0.25
    x, y = places()
    plain = measure_apertures(sci, err, mask, x, y, [5.0])
    wide = measure_apertures(sci, err, mask, x, y, [5.0], noise_correlation=correlation)
    ratio = np.asarray(wide["flux_err_0"] / plain["flux_err_0"])
    assert (ratio > 1.3).all() and (ratio < np.sqrt(2)).all()
    flicker = measure_apertures(sci, err, mask, x, y, [5.0], scintillation=0.5)
    np.testing.assert_allclose(
        flicker["flux_err_0"] ** 2, plain["flux_err_0"] ** 2 + 0.25 * plain["flux_0"] ** 2
    )


def test_scintillation_has_the_published_values():
    assert scintillation(1.0, 1.0) == pytest.approx(0.0047, abs=5e-5)
    assert scintillation(0.5, 30.0, 1.5, 2000.0) == pytest.approx(0.0020, abs=5e-5)
    assert scintillation(2.0, 60.0, 1.2, 2800.0) == pytest.approx(0.00036, abs=5e-6)
    with pytest.raises(ValueError, match="positive"):
        scintillation(0.0, 1.0)


def test_profile_of_a_gaussian_is_its_integral_over_pixels():
    from scipy.special import erf

    sigma = 2.5 / 2.3548
    model = PSFModel.from_profile(2.5, (50, 60), beta=None)
    for dx, dy in ((0.0, 0.0), (0.3, -0.45), (-0.5, 0.2)):
        edges = np.arange(-8, 10) - 0.5
        along_x, along_y = (np.diff(erf((edges - d) / sigma / np.sqrt(2))) / 2 for d in (dx, dy))
        stamp = model.stamp(20 + dx, 30 + dy, 8)
        np.testing.assert_allclose(stamp, np.outer(along_y, along_x), atol=1e-4)
        assert stamp.sum() == pytest.approx(1, abs=1e-4)


def crowd(seed=6):
    rng = np.random.default_rng(seed)
    shape = (160, 160)
    x, y = np.array([40.2, 43.5, 100.0, 120.3]), np.array([50.1, 51.8, 90.6, 30.2])
    flux = np.array([3e4, 2e4, 5e4, 1e4])
    sigma = 3.0 / 2.3548
    mean = 100 + gaussians(shape, x, y, flux, sigma, sigma, 0.0)
    sci = (rng.poisson(mean) - 100).astype(np.float32)
    return sci, np.sqrt(mean).astype(np.float32), np.zeros(shape, np.uint16), x, y, flux


def test_e71_blended_stars_are_fitted_together_and_leave_no_residual():
    sci, err, mask, x, y, flux = crowd()
    model = PSFModel.from_profile(3.0, sci.shape, beta=None)
    table, rest = measure_psf(sci, err, mask, x + 0.4, y - 0.3, model)
    pull = (np.asarray(table["flux_psf"]) - flux) / table["flux_err_psf"]
    assert np.abs(pull).max() < 4.5
    assert np.abs((np.asarray(table["x"]) - x) / table["x_err"]).max() < 4.5
    assert list(table["group_size"]) == [2, 2, 1, 1]
    blended = np.asarray(table["flags"]) & int(PhotFlag.NEIGHBOUR)
    assert list(blended > 0) == [True, True, False, False]
    assert np.std(rest / err) == pytest.approx(1, abs=4 / np.sqrt(2 * rest.size) + 0.01)
    assert np.nanmax(table["chi2"]) < 1.8


def test_psf_fluxes_agree_with_photutils_where_definitions_do():
    from photutils.psf import CircularGaussianPRF, PSFPhotometry

    sci, err, mask, x, y, _ = crowd()
    model = PSFModel.from_profile(3.0, sci.shape, beta=None)
    ours = measure_psf(sci, np.ones_like(err), mask, x, y, model).table
    peer = PSFPhotometry(
        CircularGaussianPRF(fwhm=3.0), (9, 9), finder=None, aperture_radius=4.0,
        local_bkg_estimator=None,
    )  # fmt: skip
    theirs = peer(sci.astype(float), init_params=Table({"x": x[2:], "y": y[2:]}))
    np.testing.assert_allclose(ours["flux_psf"][2:], theirs["flux_fit"], rtol=3e-3)
    np.testing.assert_allclose(ours["x"][2:], theirs["x_fit"], atol=5e-3)


def test_masked_pixels_are_left_out_of_fits_and_flagged():
    sci, err, mask, x, y, flux = crowd()
    model = PSFModel.from_profile(3.0, sci.shape, beta=None)
    mask[91, 100] = int(MaskBit.COSMIC)
    sci[91, 100] += 1e5
    for found, name in (
        (measure_psf(sci, err, mask, x, y, model).table, "psf"),
        (measure_optimal(sci, err, mask, x, y, model), "opt"),
    ):
        assert abs(found[f"flux_{name}"][2] - flux[2]) < 4.5 * found[f"flux_err_{name}"][2]
        assert found["flags"][2] & int(PhotFlag.MASKED)


def test_positions_off_the_frame_have_rows_and_flags():
    sci, err, mask, x, y, _ = crowd()
    model = PSFModel.from_profile(3.0, sci.shape, beta=None)
    px, py = np.append(x, [-50.0, np.nan]), np.append(y, [20.0, 3.0])
    for table, name in (
        (measure_psf(sci, err, mask, px, py, model).table, "flux_psf"),
        (measure_optimal(sci, err, mask, px, py, model), "flux_opt"),
        (measure_apertures(sci, err, mask, px, py, [3.0]), "flux_0"),
    ):
        assert len(table) == 6
        assert np.isnan(table[name][4:]).all() and np.isfinite(table[name][:4]).all()
        bits = int(PhotFlag.OUTSIDE | PhotFlag.NO_FLUX)
        assert all(int(value) & bits == bits for value in table["flags"][4:])


def test_growth_curve_of_a_gaussian_is_known_and_its_correction_has_an_error():
    rng = np.random.default_rng(8)
    y, x = (v.ravel() + rng.uniform(-0.5, 0.5, v.size) for v in np.mgrid[40:380:42, 40:380:42])
    sigma = 1.5
    mean = 50 + gaussians((420, 420), x, y, np.full(x.size, 5e4), sigma, sigma, 0.0, over=3)
    sci = (rng.poisson(mean) - 50).astype(np.float32)
    curve = growth_curve(sci, np.sqrt(mean).astype(np.float32), None, x, y, fwhm_px=2.3548 * sigma)
    assert curve is not None and len(curve.stars) > 50
    assert curve.curves.shape == (len(curve.stars), len(curve.radii))
    for r in (2.0, 3.0, 5.0):
        factor, error = curve.correction(r)
        light = measure_apertures((mean - 50).astype(np.float32), sci * 0 + 1, None, x, y, [r])
        truth = np.median(5e4 / light["flux_0"])
        assert 0 < error < 5e-3
        assert abs(factor - truth) < 4 * error
    assert abs(curve.wing_fraction) < 0.01
    with pytest.raises(ValueError, match="goes from"):
        curve.correction(100.0)
    assert growth_curve(sci * 0, np.ones_like(sci), None, x, y, fwhm_px=3.0) is None


def test_a30_psf_follows_its_change_over_the_frame():
    rng = np.random.default_rng(9)
    y, x = (v.ravel() + rng.uniform(-0.5, 0.5, v.size) for v in np.mgrid[30:480:45, 30:480:45])
    flux = 10 ** rng.uniform(4.0, 5.0, x.size)
    mean = np.full((510, 510), 50.0)
    for xs, ys, f in zip(x, y, flux, strict=True):
        i, j = round(xs), round(ys)
        width = 1.3 + 0.4 * xs / 510
        stamp = gaussians((41, 41), [xs - i + 20], [ys - j + 20], [f], width, 1.3, 0.0, over=3)
        mean[j - 20 : j + 21, i - 20 : i + 21] += stamp
    sci = (rng.poisson(mean) - 50).astype(np.float32)
    err = np.sqrt(mean).astype(np.float32)
    scatter = {}
    for degree in (0, 1):
        model = PSFModel.fit(sci, err, None, x, y, fwhm_px=3.3, degree=degree)
        table = measure_psf(sci, err, None, x, y, model).table
        scatter[degree] = np.std((np.asarray(table["flux_psf"]) - flux) / table["flux_err_psf"])
        left, right = (model.stamp(v, 250.0) for v in (20.0, 490.0))
    assert scatter[0] > 2.5 and scatter[1] < 1.35
    # Wider to the right: less light in the central pixel, by the ratio of the widths.
    assert left.max() / right.max() == pytest.approx(1.7 / 1.3, abs=0.08)
    assert model.photutils().grid_xypos.shape == (16, 2)


def tan(crpix=(100.0, 100.0)):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [30.0, 20.0], crpix, [-2e-4, 2e-4]
    wcs.wcs.set()
    return wcs


def test_moving_positions_are_interpolated_to_the_middle_of_each_frame():
    table = Table({"object": ["a", "a", "b", "b", "b"], "mjd": [1.0, 3.0, 1.0, 2.0, 4.0]})
    table["ra"], table["dec"] = [359.9, 0.1, 10.0, 10.0, 10.0], [0.0, 0.0, 5.0, 6.0, 8.0]
    where = Positions.from_table(table)
    ra, dec = where.at(2.0)
    np.testing.assert_allclose(ra, [0.0, 10.0], atol=1e-9)
    np.testing.assert_allclose(dec, [0.0, 6.0], atol=1e-9)
    assert where.at(2.0)[0].size == 2 and where.at(3.0)[1][1] == pytest.approx(7.0, abs=1e-4)
    assert np.isnan(where.at(3.5)[0][0]) and np.isnan(where.at(None)[0]).all()
    times = np.linspace(0, 1, 9)
    curved = Positions.from_table(
        Table({"mjd": times, "ra": 20 + times**2, "dec": 3 + np.sin(times)})
    )
    ra, dec = curved.at(0.41)
    assert ra[0] == pytest.approx(20 + 0.41**2, abs=1e-5)
    assert dec[0] == pytest.approx(3 + np.sin(0.41), abs=1e-5)


def test_forced_measurements_follow_a_moving_object_with_a_row_for_every_frame():
    wcs = tan()
    rng = np.random.default_rng(10)
    frames, sigma = [], 1.5
    for k in range(4):
        x = 60.0 + 20 * k
        image = gaussians((200, 200), [x], [80.0], [2e4], sigma, sigma, 0.0, over=3)
        sci = (image + rng.normal(0, 5, image.shape)).astype(np.float32)
        err = np.sqrt(image + 25).astype(np.float32)
        frames.append(ForcedFrame(f"f{k}", sci, err, None, wcs, 100.0 + k, 2.3548 * sigma))
    ends = wcs.all_pix2world([60.0, 100.0], [80.0, 80.0], 0)
    path = Table({"mjd": [100.0, 102.0], "ra": ends[0], "dec": ends[1]})
    table = forced(frames, path, radii_fwhm=(1.0, 3.0))
    assert list(table["frame"]) == ["f0", "f1", "f2", "f3"]
    np.testing.assert_allclose(table["x"][:3], [60, 80, 100], atol=1e-3)
    pull = (np.asarray(table["flux_1"][:3]) - 2e4) / np.asarray(table["flux_err_1"][:3])
    assert np.abs(pull).max() < 4.5
    assert np.isnan(table["flux_1"][3]) and table["flags"][3] & int(PhotFlag.OUTSIDE)


def test_lists_of_positions_are_read_and_wrong_ones_named(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("name,ra,dec\none,10:00:00,-05:30:00\ntwo,150.5,1.25\n")
    where = read_positions(path)
    np.testing.assert_allclose(where.at(None)[0], [150.0, 150.5])
    np.testing.assert_allclose(where.at(None)[1], [-5.5, 1.25])
    assert where.names == ("one", "two")
    Table({"x": [1.0], "y": [2.0]}).write(tmp_path / "list.fits")
    pixels = read_positions(tmp_path / "list.fits")
    assert not pixels.celestial and pixels.pixels(tan(), None)[0][0] == 1.0
    with pytest.raises(ConfigError, match="on the sky"):
        where.pixels(WCS(naxis=2), None)
    path.write_text("alpha,delta\n1,2\n")
    with pytest.raises(ConfigError, match="columns ra, dec or x, y"):
        read_positions(path)
    path.write_text("ra,dec\n1,nothing\n")
    with pytest.raises(ConfigError, match="row 1"):
        read_positions(path)
    with pytest.raises(ConfigError, match="repeat"):
        Positions.from_table(Table({"mjd": [1.0, 1.0], "ra": [1.0, 2.0], "dec": [1.0, 2.0]}))
