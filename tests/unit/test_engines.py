"""Resampling engines: values, exact variance, masks, flux and noise correlation."""

from math import erf

import numpy as np
import pytest

from skymill.engines import ENGINES, ArrayRows, empty_planes, open_warp
from skymill.engines.profiles import Profile, local_scale, mean_correlation
from skymill.engines.scaled import scaled_table
from skymill.frame import MaskBit
from skymill.kernels.taps import coefficients, tap_weights
from skymill.resample import aperture_factor, pixel_map, pixel_to_pixel
from tests.external import cases
from tests.external.cases import all_kernels, check_flux, first_class, linear, run, tan, warp

OURS = ("skymill", "reproject")
EVERY = all_kernels(OURS)
SHAPE = (80, 80)


def exact_taps(fraction, order):
    offsets = np.arange(1 - order, order + 1)
    distance = fraction[:, None] - offsets
    taps = np.sinc(distance) * np.sinc(distance / order)
    return taps / taps.sum(axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def few_images_of_noise(request, monkeypatch):
    """Only the tests of the variance need it precise, to half a percent."""
    images = 3 if "variance" in request.node.name else 1
    monkeypatch.setattr("skymill.engines.package._IMAGES", images)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_tap_weights_are_the_normalised_kernel_to_the_rounding_of_float32(order):
    fraction = np.linspace(0, 1, 4001).astype(np.float32)
    weights = np.empty((2 * order, fraction.size), np.float32)
    squares, total = np.empty_like(weights), np.empty_like(fraction)
    tap_weights(fraction, fraction.size, coefficients(f"lanczos{order}"), weights, squares, total)
    expected = exact_taps(fraction.astype(float), order).T
    np.testing.assert_allclose(weights, expected, atol=2e-7)
    np.testing.assert_allclose(weights.astype(float).sum(axis=0), 1, atol=3e-7)
    np.testing.assert_allclose(total, (expected**2).sum(axis=0), atol=1e-6)
    # Whole shifts touch one pixel, without rounding.
    for k, at in ((0, order - 1), (-1, order)):
        np.testing.assert_array_equal(weights[:, k], np.arange(2 * order) == at)


@pytest.mark.parametrize(("engine", "kernel"), EVERY)
def test_the_identity_returns_the_input(engine, kernel):
    cases.check_identity(engine, kernel)


@pytest.mark.parametrize(("engine", "kernel"), EVERY)
def test_no_bad_pixel_leaks_and_no_flag_is_lost(engine, kernel):
    """Row S11: a flag of the nearest pixel is lost at a shift of half a pixel."""
    cases.check_masks(engine, kernel)


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5])
@pytest.mark.parametrize(("engine", "kernel"), all_kernels(("skymill",)))
def test_claimed_sigma_and_correlation_are_those_of_white_noise(engine, kernel, shift):
    if kernel == "nearest" and shift == 0.5:
        pytest.skip("at exactly half a pixel rounding decides which pixel is the nearest")
    cases.check_sigma(engine, kernel, shift)


@pytest.mark.parametrize(
    ("kernel", "shift"),
    [("bilinear", 0.5), ("bicubic", 0.25), ("bicubic", 0.5), ("adaptive", 0.25), ("exact", 0.5)],
)
def test_reproject_gets_the_variance_that_it_does_not_give(kernel, shift):
    cases.check_sigma("reproject", kernel, shift, n=2, shape=(160, 160))


@pytest.mark.parametrize(
    "geometry",
    [{"dx": 0.37, "dy": -0.61}, {"angle": 12.0, "dx": 0.3}, {"angle": 180.0, "dy": 0.2}],
    ids=["shift", "rotation", "flip"],
)
@pytest.mark.parametrize(("engine", "kernel"), EVERY)
def test_flux_of_a_star_is_kept_by_shift_and_rotation(engine, kernel, geometry):
    limit = 5e-4 if engine == "skymill" and kernel.startswith("lanczos") else None
    check_flux(engine, kernel, tan((80, 80), **geometry), (80, 80), limit_mag=limit)


SCALES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1.005, 1.02, 1.05, 1.1, 1.3, 2.0)


@pytest.fixture(scope="module")
def star_field():
    """Stars of FWHM 2.5 and 4 px, in turn, at 25 places within a pixel, integrated exactly."""
    rng, pitch = np.random.default_rng(15), 34
    image, places = np.zeros((5 * pitch, 5 * pitch)), []
    for n, (i, j) in enumerate(np.ndindex(5, 5)):
        sigma = (2.5, 4.0)[n % 2] / 2.3548
        y, x = pitch * np.array([i, j]) + pitch // 2 + rng.uniform(-0.5, 0.5, 2)
        edges = np.arange(pitch + 1) - 0.5
        along = [
            np.diff([0.5 * erf((e + pitch * k - at) / sigma / np.sqrt(2)) for e in edges])
            for k, at in ((i, y), (j, x))
        ]
        image[pitch * i : pitch * (i + 1), pitch * j : pitch * (j + 1)] = 1e5 * np.outer(*along)
        places.append((x, y))
    # Beside the edge of the frame values are bilinear.
    return np.pad(image, 12).astype(np.float32), np.array(places) + 12


def flux_errors(star_field, kernel, scale, angle, distortion):
    """Flux of each star after the warp over its true flux, in mmag."""
    image, places = star_field
    source = tan(image.shape, distortion=distortion)
    n = int(np.ceil(image.shape[0] * (1.3 if angle else 1.05) / scale))
    target = tan((n, n), scale=scale, angle=angle, dx=0.2, dy=-0.1)
    planes = run("skymill", kernel, image, target, (n, n), source=source)
    value = np.where(planes.k2 > 0, planes.value, 0).astype(float)
    x, y = pixel_to_pixel(source, *places.T, target)
    rows, columns = np.indices(value.shape)
    sums = [value[np.hypot(columns - a, rows - b) < 15.5 / scale].sum() for a, b in zip(x, y)]
    return 2500 * np.log10(np.array(sums) / 1e5)


@pytest.mark.parametrize(("angle", "distortion"), [(0.0, 0.0), (12.0, 3e-5)])
@pytest.mark.parametrize(
    ("kernel", "limit_mmag"),
    [("lanczos2", 0.5), ("lanczos3", 0.5), ("lanczos4", 0.5), ("bilinear", 6.0), ("area", 6.0)],
)
def test_flux_of_stars_is_kept_at_any_scale(star_field, kernel, limit_mmag, angle, distortion):
    """Without care for the lattice of the output pixels stars change by up to 30 mmag."""
    # The slow kernels keep flux along the axes as well as the others do.
    scales = SCALES if kernel.startswith("lanczos") else (0.8, 0.98, 1.05, 1.3)
    limit = 0.5 if not angle else limit_mmag
    for scale in scales:
        errors = flux_errors(star_field, kernel, scale, angle, distortion)
        assert np.abs(errors).max() < limit, f"scale {scale}: {np.abs(errors).max():.3f} mmag"


def test_the_conventions_differ_by_the_pixel_area(star_field):
    image, _ = star_field
    target = tan((120, 120), scale=1.3, angle=3.0)
    flux, level = (
        run("skymill", "lanczos3", image, target, (120, 120), convention=convention).value
        for convention in ("flux", "surface_brightness")
    )
    lit = np.abs(level) > 1
    assert lit.sum() > 500
    np.testing.assert_allclose(flux[lit] / level[lit], 1.3**2, rtol=2e-4)


@pytest.mark.parametrize("scale", [0.7, 0.99, 1.05, 1.6])
def test_kernel_of_another_scale_is_the_mean_over_the_pixel_without_its_broadening(scale):
    """The definition of docs/engines.md, by quadrature, against the tables."""
    box, stretch = min(scale, 1.0) if scale > 1.1 else scale, max(scale, 1.0)
    stretch = stretch if scale > 1.1 else 1.0

    def lanczos(u):
        return np.where(np.abs(u) < 3, np.sinc(u) * np.sinc(u / 3), 0)

    def kernel(u):
        u = np.asarray(u) / stretch
        low = np.floor(u)
        return lanczos(u) / sum(lanczos(u - low - j) for j in range(-3, 4))

    table = scaled_table(3, scale, scale > 1.1, 8)
    fraction = np.arange(0, 513, 64) / 512
    u = fraction[:, None] - (np.arange(16) - 7)[None, :]
    inner = (np.arange(400) + 0.5) / 400 - 0.5
    mean = np.mean([kernel(u + box * v) for v in inner], axis=0)
    h = 1e-4
    bend = sum(
        side * (kernel(u + side * box / 2 + h) - kernel(u + side * box / 2 - h)) / (2 * h * box)
        for side in (1, -1)
    )
    expected = mean - box**2 / 24 * bend
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(table[::64], expected, atol=2e-4)
    # Second moment: stars do not become wider by the mean over the pixel.
    moments = [(w * u**2).sum(axis=1).mean() for w in (table[::64], kernel(u) / stretch)]
    assert moments[0] == pytest.approx(moments[1], abs=0.02)


def test_flux_of_a_star_is_kept_by_distortion():
    source = tan((64, 64), distortion=2e-4)
    image = cases.star((64, 64), at=(0.31, -0.17))
    target = tan((90, 90), dx=0.4)
    planes = run("skymill", "lanczos3", image, target, (90, 90), source=source)
    assert abs(2.5 * np.log10(np.nansum(planes.value.astype(float)) / image.sum())) < 5e-4


def test_scale_is_flux_scale_times_area():
    shape = (40, 40)
    image = np.full(shape, 3.0)
    planes = run(
        "skymill", "area", image, tan((16, 16), scale=2), (16, 16), flux_scale=1.5, err=2.0
    )
    np.testing.assert_allclose(planes.value[4:-4, 4:-4], 3 * 1.5 * 4, rtol=1e-4)
    # Four pixels of variance 4 are added, then scaled.
    np.testing.assert_allclose(planes.variance[4:-4, 4:-4], 1.5**2 * 4 * 4, rtol=1e-3)
    np.testing.assert_allclose(planes.k2[4:-4, 4:-4] / 65535, 0.25, rtol=1e-3)


def test_larger_pixels_do_not_alias():
    """White noise on pixels twice as large: the variance falls, whatever the kernel."""
    white = np.random.default_rng(8).normal(0, 1, (160, 160))
    for kernel, expected in (("area", 0.1875), ("lanczos3", 0.2), ("bilinear", 0.1875)):
        target = tan((70, 70), scale=2.0, dx=0.25)
        planes = run("skymill", kernel, white, target, (70, 70), convention="surface_brightness")
        good = first_class(planes)
        assert planes.value[good].var() == pytest.approx(planes.variance[good].mean(), rel=0.12)
        assert planes.variance[good].mean() == pytest.approx(expected, rel=0.2)


def test_variance_is_exact_where_the_error_varies():
    rng = np.random.default_rng(2)
    err = rng.uniform(1, 3, SHAPE).astype(np.float32)
    x, y = 0.3, 0.45
    planes = run(
        "skymill", "lanczos3", np.zeros(SHAPE), linear(-x, -y), SHAPE, source=linear(), err=err
    )
    # Grid pixel (i, j) has the world position (i - x, j - y): a fraction of 1 - x, 1 - y.
    wx, wy = (exact_taps(np.array([1 - f]), 3)[0] for f in (x, y))
    block = err[20 - 1 - 2 : 20 - 1 + 4, 30 - 1 - 2 : 30 - 1 + 4].astype(float) ** 2
    assert planes.variance[20, 30] == pytest.approx(float(wy**2 @ block @ wx**2), rel=1e-5)


def test_second_class_values_fill_what_only_the_wide_kernel_loses():
    image = np.random.default_rng(4).normal(0, 1, SHAPE).astype(np.float32)
    mask = np.zeros(SHAPE, np.uint16)
    mask[40, 40] = int(MaskBit.COSMIC)
    target = linear(-0.5, -0.5)
    planes = run("skymill", "lanczos3", image, target, SHAPE, source=linear(), mask=mask)
    hit = (planes.mask & int(MaskBit.COSMIC)) != 0
    assert hit.sum() == 36
    holes = hit & (planes.k2 == 0)
    assert holes.sum() == 4 and holes[40:42, 40:42].all()
    second = hit & (planes.k2 > 0)
    assert (planes.mask[second] & int(MaskBit.INTERPOLATED)).all()
    bilinear = run("skymill", "bilinear", image, target, SHAPE, source=linear(), mask=mask)
    for one, two in zip(planes[:3], bilinear[:3], strict=True):
        np.testing.assert_allclose(one[second], two[second], rtol=1e-5, atol=1e-6)


def test_the_edge_is_marked_and_excluded():
    planes = run("skymill", "lanczos3", np.ones(SHAPE), linear(-0.5, -0.5), SHAPE, source=linear())
    edge = (planes.mask & int(MaskBit.EDGE)) != 0
    assert (planes.k2[0] == 0).all()
    assert edge[:, :3].all() and not edge[3:-3, 3:-2].any()
    assert not first_class(planes)[edge].any()
    far = run("skymill", "lanczos3", np.ones(SHAPE), linear(40.0, 0.0), SHAPE, source=linear())
    assert (far.k2[:, 45:] == 0).all() and (far.mask[:, 45:] == 0).all()


@pytest.mark.parametrize(
    "geometry", [{"dx": 0.3}, {"angle": 12.0}, {"angle": 90.0}, {"angle": 180.05}, {"scale": 1.7}]
)
@pytest.mark.parametrize("kernel", ["lanczos3", "area"])
def test_bands_of_any_height_give_the_same_bytes_and_read_only_their_rows(kernel, geometry):
    rng = np.random.default_rng(6)
    image = rng.normal(0, 1, (150, 130)).astype(np.float32)
    mask = np.where(rng.random(image.shape) < 0.01, np.uint16(int(MaskBit.HOT)), np.uint16(0))
    read = []

    class Spy(ArrayRows):
        def rows(self, y0, y1):
            read.append(y1 - y0)
            return super().rows(y0, y1)

    frame = Spy(image, np.ones_like(image), mask)
    opened = open_warp(
        "skymill", kernel, frame, tan(image.shape), tan((140, 120), **geometry), (140, 120)
    )
    whole = empty_planes(140, 120)
    opened.fill(0, whole)
    parts = empty_planes(140, 120)
    read.clear()
    for row0 in range(0, 140, 35):
        band = type(parts)(*(plane[row0 : row0 + 35] for plane in parts))
        opened.fill(row0, band)
    for one, two in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, two)
    if geometry == {"dx": 0.3}:
        assert max(read) <= 35 + 14


def test_rows_that_reach_nothing_are_empty():
    opened = warp("skymill", "lanczos3", np.ones(SHAPE), tan((300, 60), dy=100.0), (300, 60))
    assert opened.input_rows(0, 20) == (0, 0)
    planes = empty_planes(20, 60)
    opened.fill(0, planes)
    assert np.isnan(planes.value).all() and not planes.k2.any() and not planes.mask.any()


def test_values_agree_with_the_kernel_summed_directly():
    """Lanczos3 at exact positions against the compiled code through the grid of nodes."""
    image = np.random.default_rng(9).normal(0, 10, SHAPE).astype(np.float32)
    source, target = tan(SHAPE), tan(SHAPE, angle=1.5, dx=0.3)
    planes = run("skymill", "lanczos3", image, target, SHAPE, source=source)
    rows, columns = np.nonzero(first_class(planes))
    x, y = pixel_to_pixel(target, columns.astype(float), rows.astype(float), source)
    ix, iy = np.floor(x).astype(int), np.floor(y).astype(int)
    wx, wy = exact_taps(x - ix, 3), exact_taps(y - iy, 3)
    expected = np.zeros(x.size)
    for j in range(6):
        for i in range(6):
            expected += wy[:, j] * wx[:, i] * image[iy + j - 2, ix + i - 2]
    got = run(
        "skymill", "lanczos3", image, target, SHAPE, source=source, convention="surface_brightness"
    ).value[rows, columns]
    assert rows.size > 3000
    np.testing.assert_allclose(got, expected, atol=2e-3)


@pytest.mark.parametrize("kernel", ["bilinear", "nearest"])
def test_our_engine_agrees_with_reproject(kernel):
    image = np.random.default_rng(10).normal(0, 10, SHAPE).astype(np.float32)
    target = tan(SHAPE, angle=5.0, dx=0.3)
    ours, theirs = (run(e, kernel, image, target, SHAPE) for e in ("skymill", "reproject"))
    np.testing.assert_array_equal(ours.k2, theirs.k2)
    good = ours.k2 > 0
    np.testing.assert_allclose(ours.value[good], theirs.value[good], atol=1e-4)
    np.testing.assert_allclose(ours.variance[good], theirs.variance[good], rtol=1e-5)


def test_area_is_the_exact_overlap_along_the_axes():
    image = np.random.default_rng(11).normal(0, 10, SHAPE).astype(np.float32)
    target = tan((50, 50), scale=1.4, dx=0.3)
    ours = run("skymill", "area", image, target, (50, 50))
    theirs = run("reproject", "exact", image, target, (50, 50))
    good = (ours.k2 > 0) & (theirs.k2 > 0)
    np.testing.assert_allclose(ours.value[good], theirs.value[good], atol=1e-3)


# Numbers of the autocovariance of each kernel: variance ratio per axis and correlation.
KNOWN = [
    ("lanczos2", 0.25, 0.816, (0.154, -0.043, 0.002)),
    ("lanczos2", 0.5, 0.641, (0.384, -0.110, 0.006)),
    ("lanczos3", 0.25, 0.894, (0.112, -0.076, 0.027)),
    ("lanczos3", 0.5, 0.786, (0.256, -0.173, 0.062)),
    ("lanczos4", 0.25, 0.914, (0.086, -0.070, 0.047)),
    ("lanczos4", 0.5, 0.829, (0.188, -0.154, 0.104)),
    ("bilinear", 0.25, 0.625, (0.300, 0.0, 0.0)),
    ("bilinear", 0.5, 0.500, (0.500, 0.0, 0.0)),
    ("bicubic", 0.5, 0.756, (0.262, -0.145, 0.060)),
]


@pytest.mark.parametrize(("kernel", "shift", "square", "rho"), KNOWN)
def test_correlation_of_shifts_is_that_of_the_table(kernel, shift, square, rho):
    engine = "reproject" if kernel == "bicubic" else "skymill"
    target = linear(-shift, -shift)
    opened = warp(engine, kernel, np.zeros(SHAPE), target, SHAPE, source=linear())
    found = opened.correlation
    np.testing.assert_allclose(found[5, 6:9], rho, atol=1.5e-3)
    np.testing.assert_allclose(found, found[::-1, ::-1])
    planes = empty_planes(*SHAPE)
    opened.fill(0, planes)
    np.testing.assert_allclose(planes.k2[first_class(planes)] / 65535, square**2, atol=2e-3)


@pytest.mark.parametrize(
    ("kernel", "geometry"),
    [
        ("lanczos3", {"angle": 12.0, "dx": 0.3}),
        ("lanczos3", {"scale": 1.3}),
        ("lanczos2", {"scale": 0.6}),
        ("lanczos3", {"scale": 1.02}),
        ("bilinear", {"angle": 12.0, "dx": 0.3}),
        ("area", {"scale": 1.3}),
    ],
)
def test_correlation_of_rotation_and_scale_is_that_of_white_noise(kernel, geometry):
    shape = (200, 200)
    opened = warp("skymill", kernel, np.zeros(shape), tan(shape, **geometry), shape)
    lags, power = np.zeros((3, 3)), 0.0
    for seed in range(4):
        white = np.random.default_rng((31, seed)).normal(0, 1, shape)
        planes = run("skymill", kernel, white, tan(shape, **geometry), shape)
        good = first_class(planes)
        value = np.where(good, planes.value, 0).astype(float)
        power += (value**2).sum() / good.sum() / 4
        for dy in range(3):
            for dx in range(3):
                a, b = value[dy:, dx:], value[: 200 - dy, : 200 - dx]
                both = good[dy:, dx:] & good[: 200 - dy, : 200 - dx]
                lags[dy, dx] += (a * b)[both].mean() / 4
    # About 1e5 independent pixels: 0.004 each.
    np.testing.assert_allclose(opened.correlation[5:8, 5:8], lags / power, atol=0.02)


def test_large_apertures_see_the_noise_of_the_input():
    mapping = pixel_map(linear(-0.5, -0.5), SHAPE, linear())
    found = mean_correlation(Profile.of("lanczos3"), mapping, widen=False)
    assert aperture_factor(found, 8.0) == pytest.approx(1.272, abs=0.004)
    assert aperture_factor(found, 4.0) == pytest.approx(1.270, abs=0.004)


def test_local_scale_is_the_jacobian():
    mapping = pixel_map(tan(SHAPE, angle=30.0, scale=1.5), SHAPE, tan(SHAPE))
    inner = local_scale(mapping)[:, 1:-1, 1:-1]
    turn = np.radians(30.0)
    for part, size in zip(
        inner, (np.cos(turn), np.sin(turn), np.sin(turn), np.cos(turn)), strict=True
    ):
        np.testing.assert_allclose(np.abs(part), 1.5 * size, rtol=1e-3)


@pytest.mark.parametrize(
    ("engine", "kernel", "convention", "word"),
    [
        ("drizzle", "lanczos3", "flux", "engine"),
        ("skymill", "bicubic", "flux", "kernel"),
        ("skymill", "lanczos3", "counts", "convention"),
    ],
)
def test_unknown_choices_are_named(engine, kernel, convention, word):
    frame = ArrayRows(*(np.zeros(SHAPE, kind) for kind in (np.float32, np.float32, np.uint16)))
    with pytest.raises(ValueError, match=word):
        open_warp(engine, kernel, frame, linear(), linear(), SHAPE, convention=convention)


def test_every_engine_has_a_default_kernel():
    assert {name: kernels[0] for name, kernels in ENGINES.items()} == {
        "skymill": "lanczos3",
        "reproject": "bilinear",
        "swarp": "lanczos3",
    }


def test_swarp_that_is_missing_is_said(monkeypatch, tmp_path):
    """Row H210: a missing program is named with what to install."""
    from skymill.programs import ProgramError

    monkeypatch.setenv("PATH", str(tmp_path))
    frame = ArrayRows(*(np.zeros(SHAPE, kind) for kind in (np.float32, np.float32, np.uint16)))
    with pytest.raises(ProgramError, match=r"TOOL_MISSING.*swarp"):
        open_warp("swarp", "lanczos3", frame, tan(SHAPE), tan(SHAPE), SHAPE)
