"""Errors that frames share through their masters: they must not average down (S8)."""

import numpy as np
import pytest
from astropy.io import fits

from skymill.frame import Background, Frame
from skymill.grid import field_grid
from skymill.steps.shared_errors import Calibration, MasterCells
from skymill.steps.stack import StackFrame, StackInput, stack
from tests.truth.test_stack_pulls import sky_wcs

SKY, READ_NOISE, FLAT_ERR, FRAMES = 1000.0, 5.0, 0.01, 20


def night(rng, shape, shifts):
    """Frames flat-fielded with one flat of 1 % error, one shift in whole pixels each."""
    wrong = 1 + rng.normal(0, FLAT_ERR, shape)  # used flat over the true one
    cells = tuple(-(-size // 64) for size in shape)
    inputs = []
    for i, (dx, dy) in enumerate(shifts):
        counts = rng.poisson(SKY, shape) + rng.normal(0, READ_NOISE, shape)
        err = np.sqrt(SKY + READ_NOISE**2 + (SKY * FLAT_ERR) ** 2)
        frame = Frame(counts / wrong, np.full(shape, err), np.zeros(shape, "u2"), fits.Header())
        mesh = Background(np.full(cells, SKY), np.full(cells, err), shape, 64, 0.0)
        pixels = StackFrame(frame, mesh)
        inputs.append(
            StackInput(
                f"f{i:02d}", {"exptime_s": 60.0, "mjd_mid": 60000.0},
                sky_wcs(shape, shift=(float(dx), float(dy))), shape,
                {"throughput": 1.0, "fwhm_px": 3.0}, lambda pixels=pixels: pixels,
                calibration=Calibration(flat="flat"),
            )
        )  # fmt: skip
    cells_of_flat = MasterCells.of(
        np.ones(shape, "f4"), np.full(shape, FLAT_ERR, "f4"), np.zeros(shape, "u2"), flat=True
    )
    return inputs, {"flat": cells_of_flat}


def measured(inputs, masters, **settings):
    grid = field_grid([(i.frame_id, i.wcs, i.shape) for i in inputs])
    product = stack(inputs, grid, masters=masters, **settings).value
    full = product.coverage == FRAMES
    return product, float(np.var(product.frame.sci[full], dtype=np.float64)), full


def test_a_noisy_flat_limits_a_stack_without_dithers():
    """20 frames, sky 1000 e, RN 5 e, flat 1 %: 151.3 with the shared term, 51.3 without."""
    inputs, masters = night(np.random.default_rng(1), (256, 256), [(0, 0)] * FRAMES)
    settings = {"clip_sigma": 100.0, "grow_sigma": 100.0}
    product, variance, full = measured(inputs, masters, **settings)
    claimed = float(np.mean(product.frame.err[full].astype(float) ** 2))
    # 65 000 pixels: standard error of a variance 0.55 %.
    assert variance == pytest.approx(151.3, rel=0.025)
    assert claimed == pytest.approx(variance, rel=0.025)
    naive, _, _ = measured(inputs, None, **settings)
    alone = float(np.mean(naive.frame.err[full].astype(float) ** 2))
    assert alone == pytest.approx((SKY + 25 + 100) / FRAMES, rel=1e-3)
    # What is shared stands apart: 10 e x sqrt(19 / 20) on the sky.
    assert np.median(product.shared) == pytest.approx(10 * np.sqrt(19 / 20), rel=1e-3)


def test_dithered_frames_average_the_error_of_the_flat():
    """The same frames, dithered: 56.3."""
    shifts = [(7 * (i % 5), 6 * (i // 5)) for i in range(FRAMES)]
    inputs, masters = night(np.random.default_rng(2), (256, 256), shifts)
    product, variance, full = measured(inputs, masters, clip_sigma=100.0, grow_sigma=100.0)
    claimed = float(np.mean(product.frame.err[full].astype(float) ** 2))
    assert variance == pytest.approx(56.3, rel=0.025)
    assert claimed == pytest.approx(56.3, rel=0.01)
    assert np.abs(product.shared).max() < 0.5
