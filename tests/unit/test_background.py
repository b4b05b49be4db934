"""Level and scatter of the sky on a mesh."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from scipy.interpolate import CubicSpline

from skymill import io
from skymill.errors import ConfigError, StepFailed
from skymill.frame import Background, Frame, MaskBit, expand_mesh
from skymill.kernels.cells import cell_statistics
from skymill.kernels.mesh import expand_spline, mesh_spline
from skymill.kernels.polynomial import fit_polynomial, polynomial_at, polynomial_map
from skymill.settings import BackgroundSettings
from skymill.steps.background import background


def make_frame(sky, *, sigma=None, seed=1, mask=None):
    rng = np.random.default_rng(seed)
    sigma = np.sqrt(np.maximum(sky, 1)) if sigma is None else np.full(sky.shape, sigma)
    sci = (sky + rng.normal(0, 1, sky.shape) * sigma).astype(np.float32)
    mask = np.zeros(sky.shape, np.uint16) if mask is None else mask
    return Frame(sci, np.asarray(sigma, np.float32), mask, fits.Header())


@pytest.fixture
def flat_sky():
    return np.full((300, 330), 400.0)


def test_constant_sky_is_recovered_within_the_quoted_error(flat_sky):
    result = background(make_frame(flat_sky))
    n = result.value.level.size
    offset = result.value.level_map().mean() - 400
    assert offset == pytest.approx(0, abs=4 * result.value.level_err / np.sqrt(n) + 0.005 * 20)
    assert result.numbers["sky_rms_e"] == pytest.approx(20, rel=0.02)
    assert result.numbers["err_ratio"] == pytest.approx(1, abs=0.02)
    assert result.numbers["box_size_px"] == 64
    assert not result.flags


def test_err_ratio_shows_understated_errors(flat_sky):
    frame = make_frame(flat_sky, sigma=20.0)
    frame = frame.replace(err=frame.err / np.float32(1.25))
    assert background(frame).numbers["err_ratio"] == pytest.approx(1.25, abs=0.03)


def test_tilted_sky_is_followed_up_to_the_edges(flat_sky):
    tilt = np.linspace(-60, 60, 330)[None, :] + np.linspace(-30, 30, 300)[:, None]
    value = background(make_frame(flat_sky + tilt)).value
    rest = value.level_map() - flat_sky - tilt
    # Averaged over the rows, that is over five cells; at the rim the filter has fewer cells.
    assert np.abs(rest.mean(axis=0)).max() < 6 * value.level_err
    assert np.abs(rest.mean(axis=1)).max() < 6 * value.level_err


def test_rms_map_follows_a_gradient_of_the_noise(flat_sky):
    sky = flat_sky * np.linspace(0.5, 1.5, 330)[None, :]
    got = background(make_frame(sky)).value.rms_map() / np.sqrt(sky)
    assert got.mean() == pytest.approx(1, abs=0.02)
    # Per column: five cells of 64 x 64 px, of which the median filter takes three columns.
    assert np.abs(got.mean(axis=0) - 1).max() < 4 / np.sqrt(2 * 5 * 64 * 64) + 0.01


def test_bright_source_does_not_raise_the_level(flat_sky):
    y, x = np.indices(flat_sky.shape)
    star = 3e4 * (1 + ((x - 150) ** 2 + (y - 140) ** 2) / 16.0) ** -2.5
    clean = background(make_frame(flat_sky)).value
    rng_frame = make_frame(flat_sky + star)
    value = background(rng_frame).value
    shift = value.level_map()[100:180, 110:190] - clean.level_map()[100:180, 110:190]
    assert np.abs(shift).mean() < 5 * value.level_err


def test_dead_quarter_is_bridged_from_its_neighbours(flat_sky):
    frame = make_frame(flat_sky)
    mask = np.zeros(flat_sky.shape, np.uint16)
    mask[:150, :150] = MaskBit.DEAD
    sci = frame.sci.copy()
    sci[:150, :150] = np.nan
    result = background(frame.replace(sci=sci, mask=mask))
    assert np.isfinite(result.value.level_map()).all()
    assert result.value.level_map()[:150, :150].mean() == pytest.approx(400, abs=2)
    assert result.numbers["filled_fraction"] > 0


def test_frame_without_a_good_pixel_fails(flat_sky):
    mask = np.full(flat_sky.shape, MaskBit.SATURATED, np.uint16)
    with pytest.raises(StepFailed, match="no pixel is good") as caught:
        background(make_frame(flat_sky, mask=mask))
    assert caught.value.code == "ALL_MASKED"


def test_few_good_pixels_are_flagged_as_poor(flat_sky):
    mask = np.full(flat_sky.shape, MaskBit.DEAD, np.uint16)
    mask[100:170, 100:170] = 0
    result = background(make_frame(flat_sky, mask=mask))
    assert [code for code, _ in result.flags] == ["BKG_POOR"]
    assert result.value.level_map().mean() == pytest.approx(400, abs=4)


def test_steep_sky_is_flagged():
    y, _ = np.indices((300, 300))
    result = background(make_frame(1000 * np.exp(y / 150.0)))
    assert "SKY_BRIGHT" in [code for code, _ in result.flags]


@pytest.mark.parametrize("shape", [(20, 17), (9, 200), (64, 64), (65, 130), (511, 70)])
def test_frames_of_any_shape_have_a_background(shape):
    result = background(make_frame(np.full(shape, 400.0)))
    assert result.value.level_map().shape == shape
    tolerance = 5 * result.value.level_err
    assert np.median(result.value.level) == pytest.approx(400, abs=tolerance)


def test_small_frames_get_smaller_boxes(flat_sky):
    assert background(make_frame(flat_sky[:100, :120])).numbers["box_size_px"] == 25


def test_input_is_untouched_and_the_result_repeats(flat_sky):
    frame = make_frame(flat_sky)
    before = frame.sci.copy()
    one, two = background(frame).value, background(frame).value
    np.testing.assert_array_equal(frame.sci, before)
    np.testing.assert_array_equal(one.level, two.level)
    np.testing.assert_array_equal(one.rms, two.rms)


def test_even_filter_is_refused(flat_sky):
    with pytest.raises(ValueError, match="odd"):
        background(make_frame(flat_sky), filter_size=4)


def test_constant_frame_without_noise_does_not_crash(flat_sky):
    frame = Frame(
        flat_sky, np.ones(flat_sky.shape), np.zeros(flat_sky.shape, np.uint16), fits.Header()
    )
    assert background(frame).value.level_map().mean() == 400


@pytest.mark.parametrize(
    ("mesh_shape", "shape", "box"), [((4, 6), (100, 150), 26), ((1, 3), (7, 24), 8)]
)
@pytest.mark.parametrize("extrapolate", [True, False])
def test_expansion_is_a_natural_spline_with_a_rule_for_the_rim(mesh_shape, shape, box, extrapolate):
    mesh = np.random.default_rng(2).normal(500, 50, mesh_shape)
    got = expand_spline(mesh, shape, box, extrapolate=extrapolate)

    def along(values, n_pixels, axis):
        nodes = (np.arange(values.shape[axis]) + 0.5) * box - 0.5
        x = np.arange(n_pixels)
        if values.shape[axis] == 1:
            return np.repeat(values, n_pixels, axis)
        spline = CubicSpline(nodes, values, axis, bc_type="natural")
        out = spline(np.clip(x, nodes[0], nodes[-1]))
        if extrapolate:
            beyond = [np.minimum(x - nodes[0], 0), np.maximum(x - nodes[-1], 0)]
            for far, end in zip(beyond, (nodes[0], nodes[-1]), strict=True):
                out = out + np.expand_dims(far, 1 - axis) * np.expand_dims(spline(end, 1), axis)
        return out

    expected = along(along(mesh, shape[0], 0), shape[1], 1)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert got.dtype == np.float32


def test_stored_maps_go_on_along_the_slope_and_rms_stays_positive():
    level = np.array([[10.0, 20.0, 30.0]], np.float32)
    value = Background(level, level - 9, (8, 24), 8, 0.1)
    np.testing.assert_allclose(value.level_map()[0], 10 + (np.arange(24) - 3.5) * 1.25, atol=1e-4)
    assert value.rms_map().min() == pytest.approx(0.5)


def test_extrapolation_goes_on_along_the_tangent():
    mesh = np.random.default_rng(3).normal(500, 50, (1, 5))
    got = expand_spline(mesh, (1, 50), 10, extrapolate=True)[0]
    nodes = np.arange(5) * 10 + 4.5
    spline = CubicSpline(nodes, mesh[0], bc_type="natural")
    x = np.arange(50)
    expected = spline(np.clip(x, nodes[0], nodes[-1]))
    expected += np.minimum(x - nodes[0], 0) * spline(nodes[0], 1)
    expected += np.maximum(x - nodes[-1], 0) * spline(nodes[-1], 1)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_two_cells_are_interpolated_linearly():
    got = expand_mesh(np.array([[0.0, 8.0]], np.float32), (3, 16), 8)
    np.testing.assert_allclose(got[1], np.arange(16) - 3.5, atol=1e-6)


def test_cell_statistics_clip_outliers_and_correct_for_the_clip():
    rng = np.random.default_rng(4)
    values = rng.normal(10, 2, (64, 128)).astype(np.float32)
    values[5, 5:25] = 500
    state = np.zeros(values.shape, np.uint8)
    state[:, 64:] = 1
    s = cell_statistics(values, np.full_like(values, 2), state, 64)
    n = s.n[0, 0]
    assert s.mean[0, 0] == pytest.approx(10, abs=4 * 2 / np.sqrt(n))
    assert s.scatter[0, 0] == pytest.approx(2, rel=4 / np.sqrt(2 * n))
    assert s.variance[0, 0] == pytest.approx(4)
    assert np.isnan(s.mean[0, 1])
    assert s.n[0, 1] == 0


def test_cell_statistics_are_those_of_a_plain_clip():
    rng = np.random.default_rng(5)
    values = rng.normal(100, 7, (128, 192)).astype(np.float32)
    values[rng.uniform(size=values.shape) < 0.05] += 60
    state = (rng.uniform(size=values.shape) < 0.2).astype(np.uint8)
    err = rng.uniform(6, 8, values.shape).astype(np.float32)
    level = mesh_spline(rng.normal(0, 3, (2, 3)), values.shape, 64)
    start = np.stack([np.zeros((2, 3)), np.zeros((2, 3))])
    plane = expand_spline(level.nodes, values.shape, 64, extrapolate=True)
    plain = cell_statistics(values - plane, err, state, 64)
    inside = cell_statistics(values, err, state, 64, level=level, start=start)
    for j, i in np.ndindex(2, 3):
        part = np.s_[j * 64 : j * 64 + 64, i * 64 : i * 64 + 64]
        cell = (values - plane)[part][state[part] == 0].astype(float)
        noise = err[part][state[part] == 0].astype(float)
        # The fixed point: values within three of the corrected sigma of their own mean.
        kept = np.abs(cell - plain.mean[j, i]) <= 3 * plain.scatter[j, i]
        assert kept.sum() == plain.n[j, i]
        assert cell[kept].mean() == pytest.approx(plain.mean[j, i], abs=1e-9)
        assert cell[kept].std(ddof=1) / 0.98658 == pytest.approx(plain.scatter[j, i], rel=1e-4)
        assert (noise[kept] ** 2).mean() == pytest.approx(plain.variance[j, i], rel=1e-6)
    np.testing.assert_allclose(inside.mean, plain.mean, atol=1e-4)
    np.testing.assert_array_equal(inside.n, plain.n)


# --- models and engines -----------------------------------------------------------


def test_polynomials_are_recovered_and_do_not_depend_on_the_level():
    rng = np.random.default_rng(6)
    u, v = rng.uniform(-1, 1, (2, 200))
    truth = np.array([4e4, 3.0, -2.0, 1.0, 0.5, -0.25])
    got = fit_polynomial(u, v, polynomial_at(truth, u, v), np.ones(200), 2)
    np.testing.assert_allclose(got, truth, atol=1e-6)
    assert fit_polynomial(u, u, u, np.ones(200), 1) is None
    plane = polynomial_map(np.array([5.0, 1.0, 2.0]), (4, 8))
    assert plane[0, 0] == pytest.approx(5 + (1 / 8 - 1) + 2 * (1 / 4 - 1))


def test_constant_model_is_one_level(flat_sky):
    result = background(make_frame(flat_sky), model="constant")
    level = result.value.level_map()
    assert (level == level[0, 0]).all()
    assert level[0, 0] == pytest.approx(400, abs=4 * result.value.level_err)
    assert result.value.coefficients == (pytest.approx(level[0, 0]),)


def test_polynomial_model_follows_a_bowed_sky_to_the_corners(tmp_path):
    y, x = np.indices((500, 430)) / 430 - 0.5
    sky = 400 + 80 * x - 40 * y + 120 * x**2 + 60 * x * y
    star = 2e4 * (1 + ((x - 0.1) ** 2 + y**2) * 430**2 / 9) ** -2.5
    value = background(make_frame(sky + star), model="polynomial", degree=2).value
    rest = value.level_map() - sky
    assert np.sqrt(np.mean(rest**2)) < 2.5 * value.level_err
    # In a corner the errors of six coefficients add up.
    assert np.abs(rest).max() < 12 * value.level_err
    io.write_background(tmp_path / "b.fits", value, {})
    back = io.read_background(tmp_path / "b.fits")
    np.testing.assert_array_equal(back.level_map(), value.level_map())
    assert back.model == "polynomial"


@pytest.mark.parametrize("engine", ["sep", "photutils"])
def test_other_engines_agree_within_three_hundredths_of_the_noise(flat_sky, engine):
    y, x = np.indices(flat_sky.shape)
    star = 3e4 * (1 + ((x - 150) ** 2 + (y - 140) ** 2) / 16.0) ** -2.5
    tilt = 15 * (x / 330 - 0.5)  # their median filters flatten a steeper one at the rim
    frame = make_frame(flat_sky + tilt + star)
    ours, theirs = background(frame).value, background(frame, engine=engine).value
    difference = (theirs.level_map() - ours.level_map()) / 20
    inside = np.s_[32:-32, 32:-32]  # outside the centres of cells everyone has another rule
    assert np.abs(np.median(difference[inside])) < 0.03
    assert np.abs(difference[inside]).max() < 0.15
    assert np.median(theirs.rms_map() / ours.rms_map()) == pytest.approx(1, abs=0.03)


ENGINES = """
import numpy as np

def level_only(image, mask, box_size, filter_size):
    return np.full(image.shape, np.median(image[~mask]), np.float32)

def with_rms(image, mask, box_size, filter_size):
    image[:] = 0  # its own copy
    y, x = np.indices(image.shape)
    return 400 + 5 * np.sin(x), np.full(image.shape, 20.0)

class Found:
    def __init__(self, image, mask, box_size, filter_size):
        self.background = np.full(image.shape, image[~mask].mean())
        self.background_rms = np.full(image.shape, image[~mask].std())

def wrong_shape(image, mask, box_size, filter_size):
    return image[:-1]

def not_finite(image, mask, box_size, filter_size):
    return np.full(image.shape, np.nan)

def raises(image, mask, box_size, filter_size):
    raise RuntimeError("no sky today")

number = 5
"""


@pytest.fixture
def engines(tmp_path, monkeypatch):
    (tmp_path / "my_sky_engines.py").write_text(ENGINES)
    monkeypatch.syspath_prepend(tmp_path)
    return "my_sky_engines"


@pytest.mark.parametrize("name", ["level_only", "Found"])
def test_o10_functions_and_classes_of_the_user_estimate_the_level(flat_sky, engines, name):
    result = background(make_frame(flat_sky), engine=f"{engines}:{name}")
    assert result.value.level_map().mean() == pytest.approx(400, abs=0.6)
    assert result.value.rms_map().mean() == pytest.approx(20, rel=0.03)
    # A constant is a mesh of few cells, not a map.
    assert result.value.box_size_px == 64


def test_map_that_no_mesh_follows_is_kept_as_it_is(flat_sky, engines, tmp_path):
    frame = make_frame(flat_sky)
    value = background(frame, engine=f"{engines}:with_rms").value
    expected = 400 + 5 * np.sin(np.arange(330))
    np.testing.assert_allclose(value.level_map()[17], expected, rtol=1e-6)
    assert value.box_size_px == 1
    assert frame.sci.mean() > 390  # the function had a copy
    io.write_background(tmp_path / "b.fits", value, {})
    np.testing.assert_array_equal(
        io.read_background(tmp_path / "b.fits").level_map(), value.level_map()
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong_shape", "shape"),
        ("not_finite", "not finite"),
        ("raises", "RuntimeError: no sky today"),
    ],
)
def test_engine_that_fails_fails_the_frame(flat_sky, engines, name, message):
    with pytest.raises(StepFailed, match=message) as caught:
        background(make_frame(flat_sky), engine=f"{engines}:{name}")
    assert caught.value.code == "BKG_ENGINE"


@pytest.mark.parametrize("path", ["my_sky_engines:absent", "no_such_module:f"])
def test_engine_that_does_not_exist_is_an_error_of_the_configuration(flat_sky, engines, path):
    with pytest.raises(ConfigError, match="cannot be loaded"):
        background(make_frame(flat_sky), engine=path)
    with pytest.raises(ConfigError, match="not callable"):
        background(make_frame(flat_sky), engine=f"{engines}:number")


@pytest.mark.parametrize("engine", ["os.system", "../x:f", "sep ", "a:b;c", "SEP"])
def test_settings_refuse_what_is_no_engine(engine):
    with pytest.raises(ValueError, match="engine"):
        BackgroundSettings(engine=engine)
    assert BackgroundSettings(engine="pkg.mod:f").engine == "pkg.mod:f"


def test_settings_refuse_a_model_of_another_engine_and_an_even_filter():
    with pytest.raises(ValueError, match="leave model at mesh"):
        BackgroundSettings(engine="sep", model="constant")
    with pytest.raises(ValueError, match="odd"):
        BackgroundSettings(filter_size=2)


def test_e20_global_offset_is_a_median_and_lifts_a_level_that_is_too_low(flat_sky, engines):
    y, x = np.indices(flat_sky.shape)
    glow = np.where(np.hypot(x - 80, y - 80) < 40, 1.5, 0)  # too faint for the mask
    frame = make_frame(flat_sky + glow, sigma=20.0)
    off = background(frame, engine=f"{engines}:with_rms")
    on = background(frame, engine=f"{engines}:with_rms", correct_global_offset=True)
    assert off.numbers["offset_e"] == 0
    rest = frame.sci - off.value.level_map()
    assert on.numbers["offset_e"] == pytest.approx(np.median(rest), abs=0.1)
    shift = on.value.level_map() - off.value.level_map()
    np.testing.assert_allclose(shift, on.numbers["offset_e"], atol=1e-3)


# --- extended objects -------------------------------------------------------------


def galaxy(shape, r_e, at_edge, *, centre=(0.52, 0.46)):
    """Exponential disc of this level at its half-light radius."""
    ny, nx = shape
    r = np.hypot(np.arange(ny)[:, None] - centre[1] * ny, np.arange(nx)[None, :] - centre[0] * nx)
    return at_edge * np.exp(-1.678 * (r / r_e - 1))


@pytest.mark.parametrize("boxes", [1, 2, 4])
def test_galaxy_of_several_boxes_is_not_subtracted(boxes):
    shape, box = (1024, 1024), 32
    disc = galaxy(shape, boxes * box, 30.0 if boxes < 4 else 20.0)
    tilt = 40 * (np.arange(1024) / 1024 - 0.5)[None, :]
    frame = make_frame(400 + tilt + disc, sigma=20.0)
    result = background(frame, box_size_px=box)
    rest = result.value.level_map() - 400 - tilt
    assert np.abs(rest.mean()) < 0.02 * 20
    # Where the galaxy is, the sky comes from outside.
    assert np.abs(rest[disc > 10].mean()) < 0.1 * 20
    assert result.numbers["extended_fraction"] > 0
    plain = background(frame, box_size_px=box, protect_scale_px=0).value.level_map() - 400 - tilt
    assert plain[disc > 10].mean() > rest[disc > 10].mean()


def test_protected_width_is_the_setting():
    """Hills 200 px wide are light if that width is protected, and sky if it is not."""
    shape = (768, 768)
    y, x = np.indices(shape)
    wave = 15 * np.maximum(np.cos(2 * np.pi * x / 384) * np.cos(2 * np.pi * y / 384), 0) ** 4
    frame = make_frame(400 + wave, sigma=10.0)
    options = {"box_size_px": 24, "filter_size": 1, "source_sigma": 30.0}
    kept = background(frame, protect_scale_px=250, **options)
    gone = background(frame, protect_scale_px=0, **options)
    top = wave > 12
    assert (kept.value.level_map() - 400)[top].mean() < 3
    assert (gone.value.level_map() - 400)[top].mean() > 11


def test_smooth_sky_has_no_extended_objects():
    y, x = np.indices((700, 800)) / 800 - 0.5
    sky = 400 + 100 * x + 150 * (x**2 - 0.5 * y**2)
    for seed in range(3):
        result = background(make_frame(sky, seed=seed), box_size_px=32)
        assert result.numbers["extended_fraction"] < 0.01


# --- noise ratio ------------------------------------------------------------------


@pytest.mark.parametrize(("gain_error", "flagged"), [(1.0, False), (1.6, True), (0.6, True)])
def test_noise_ratio_tells_a_wrong_gain(gain_error, flagged):
    """Counts of a sky of 400 electron, made electron by a gain that is off."""
    rng = np.random.default_rng(8)
    gain, noise = 1.5, 5.0
    adu = (rng.poisson(400, (512, 512)) + rng.normal(0, noise, (512, 512))) / gain
    electron = adu * gain * gain_error
    err = np.sqrt(np.maximum(electron, 0) + noise**2)
    result = background(Frame(electron, err, np.zeros(adu.shape, np.uint16), fits.Header()))
    truth = gain_error * np.sqrt((400 + 25) / (400 * gain_error + 25))
    assert result.numbers["err_ratio"] == pytest.approx(truth, abs=0.02)
    assert ("NOISE_RATIO" in [code for code, _ in result.flags]) == flagged


def test_noise_ratio_tells_a_wrong_read_noise():
    rng = np.random.default_rng(9)
    sci = rng.poisson(20, (512, 512)) + rng.normal(0, 12.0, (512, 512))
    err = np.sqrt(np.maximum(sci, 0) + 6.0**2)
    frame = Frame(sci, err, np.zeros(sci.shape, np.uint16), fits.Header())
    result = background(frame)
    assert result.numbers["err_ratio"] > 1.4
    assert "NOISE_RATIO" in [code for code, _ in result.flags]
    assert "gain or read noise" in dict(result.flags)["NOISE_RATIO"]
    assert not background(frame, noise_ratio_limit=1.0).flags


# --- frames that are hardly any ---------------------------------------------------


def test_negative_sky_is_a_sky():
    result = background(make_frame(np.full((300, 300), -30.0), sigma=5.0))
    assert result.value.level_map().mean() == pytest.approx(-30, abs=0.1)
    assert result.numbers["source_fraction"] < 0.02


def test_source_free_frame_loses_next_to_nothing(flat_sky):
    result = background(make_frame(flat_sky))
    assert result.numbers["source_fraction"] < 0.02
    assert result.numbers["extended_fraction"] == 0


def test_frame_saturated_everywhere_fails_in_words(flat_sky):
    mask = np.full(flat_sky.shape, MaskBit.SATURATED | MaskBit.NONLINEAR, np.uint16)
    with pytest.raises(StepFailed, match="no sky to measure") as caught:
        background(make_frame(flat_sky + 6e4, mask=mask))
    assert caught.value.code == "ALL_MASKED"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_left_out_even_if_unmasked(flat_sky, value):
    frame = make_frame(flat_sky)
    sci, err = frame.sci.copy(), frame.err.copy()
    sci[10:60, 20:90] = value
    err[200:220, 200:220] = value
    result = background(frame.replace(sci=sci, err=err))
    assert np.isfinite(result.value.level_map()).all()
    assert result.value.level_map().mean() == pytest.approx(400, abs=1)
    assert result.numbers["err_ratio"] == pytest.approx(1, abs=0.02)


def test_one_good_cell_is_enough(flat_sky):
    mask = np.full(flat_sky.shape, MaskBit.DEAD, np.uint16)
    mask[64:128, 64:128] = 0
    result = background(make_frame(flat_sky, mask=mask))
    assert "BKG_POOR" in [code for code, _ in result.flags]
    assert np.abs(result.value.level_map() - 400).max() < 2
    for model in ("constant", "polynomial"):
        smooth = background(make_frame(flat_sky, mask=mask), model=model).value
        assert np.abs(smooth.level_map() - 400).max() < 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 3), (8, 8)])
def test_tiny_frames_have_an_outcome(shape):
    try:
        result = background(make_frame(np.full(shape, 400.0)))
    except StepFailed as failure:
        assert failure.code == "ALL_MASKED"
    else:
        assert result.value.level_map().shape == shape
        assert np.isfinite(result.value.level_map()).all()


@pytest.mark.parametrize("engine", ["skymill", "sep", "photutils"])
def test_constant_frame_has_its_level(flat_sky, engine):
    frame = Frame(
        flat_sky, np.ones(flat_sky.shape), np.zeros(flat_sky.shape, np.uint16), fits.Header()
    )
    assert background(frame, engine=engine).value.level_map().mean() == pytest.approx(400)
