"""Errors of a solution: the covariance is that of the scatter, the figures what they say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from skymill.affine import fit_affine, identity
from skymill.matching import Match, Search
from skymill.solution_errors import measure, position_error
from skymill.wcsmath import monomials

SHAPE = (900, 1000)
MIDDLE, HALF = np.array([499.5, 449.5]), 500.0
FAR = np.array([[0.0, 0.0], [999.0, 899.0], [499.5, 449.5]])


def _solve(rng, kind, n=40, sigma=0.1, order=0):
    xy = rng.uniform([0, 0], [999, 899], (n, 2))
    there = xy + rng.normal(0, sigma, (n, 2))
    err = np.full(n, sigma / np.sqrt(2))
    if order:
        design = monomials((xy - MIDDLE) / HALF, 0, order)
        terms, *_ = np.linalg.lstsq(design, there - xy, rcond=None)

        def model(p):
            return p + monomials((p - MIDDLE) / HALF, 0, order) @ terms

        step = identity()
    else:
        step = model = fit_affine(xy, there, kind)
    search = Search("near", identity(), 100.0, 2.0, 0.02)
    index = np.arange(n)
    match = Match(step, index, index, there - model(xy), kind, search, 0.0)
    return measure(xy, err, there, err, match, model, step, order, SHAPE, 2.0), model


@pytest.mark.parametrize(
    ("kind", "order"),
    [("shift", 0), ("rigid", 0), ("similarity", 0), ("affine", 0), ("affine", 3)],
)
def test_the_position_error_is_the_scatter_of_the_solutions(kind, order):
    """300 fits: their scatter is known to 4 % per point and axis, 5 sigma is 20 %."""
    off, told = [], []
    for trial in range(300):
        rng = np.random.default_rng([trial, order, len(kind)])
        quality, model = _solve(rng, kind, order=order)
        off.append(model(FAR) - FAR)
        told.append(np.stack(position_error({"covariance": quality.covariance}, *FAR.T), axis=1))
    scatter = np.sqrt((np.array(off) ** 2).mean(axis=0))
    assert np.sqrt((np.array(told) ** 2).mean(axis=0)) == pytest.approx(scatter, rel=0.2)


def test_scale_and_rotation_errors_are_those_of_the_fits():
    turns, scales, told = [], [], []
    for trial in range(300):
        quality, step = _solve(np.random.default_rng([8, trial]), "similarity")
        turns.append(step.rotation_deg)
        scales.append(step.scale - 1)
        told.append((quality.rotation_err_deg, quality.scale_err, quality.middle_err_px))
    mean = np.sqrt((np.array(told) ** 2).mean(axis=0))
    assert mean[0] == pytest.approx(np.std(turns), rel=0.2)
    assert mean[1] == pytest.approx(np.std(scales), rel=0.2)
    assert mean[2] == pytest.approx(0.1 / np.sqrt(40), rel=0.2)
    shift, _ = _solve(np.random.default_rng(1), "shift")
    assert (shift.rotation_err_deg, shift.scale_err) == (0.0, 0.0)


def test_a29_left_out_stars_tell_more_than_residuals():
    """A29, S15: hold-out residuals; a cubic through 40 stars fits its own noise."""
    inside, outside = [], []
    for trial in range(60):
        quality, _ = _solve(np.random.default_rng([9, trial]), "affine", order=3)
        inside.append(np.hypot(quality.rms_x_px, quality.rms_y_px) / np.sqrt(2))
        outside.append(quality.holdout_rms_px)
        assert quality.variance_ratio == pytest.approx(1.0, abs=0.7)
    # sqrt(1 - 10/40) and about sqrt(1 + 10/40) of the error, each known to 1.5 %.
    assert np.mean(inside) == pytest.approx(0.0866, rel=0.06)
    assert np.mean(outside) > 0.105


def test_rejected_pairs_are_counted_and_too_few_stars_have_no_hold_out():
    rng = np.random.default_rng(4)
    xy = rng.uniform([0, 0], [999, 899], (12, 2))
    there = xy.copy()
    there[5] += 1.5  # within the tolerance of 2 px, left out of the fit
    keep = np.delete(np.arange(12), 5)
    search = Search("near", identity(), 100.0, 2.0, 0.02)
    match = Match(identity(), keep, keep, np.zeros((11, 2)), "affine", search, 0.0)
    err = np.full(12, 0.05)
    whole = measure(xy, err, there, err, match, identity(), identity(), 0, SHAPE, 2.2)
    assert whole.n_rejected == 1
    assert json.loads(whole.covariance)["order"] == 1
    two = Match(identity(), keep[:1], keep[:1], np.zeros((1, 2)), "shift", search, 0.0)
    few = measure(xy[:1], err[:1], xy[:1], err[:1], two, identity(), identity(), 0, SHAPE, 2.0)
    assert np.isnan(few.holdout_rms_px)
    assert few.middle_err_px == pytest.approx(np.hypot(0.05, 0.05))


def test_a_frame_without_a_fit_has_no_position_error():
    assert np.isnan(position_error({"covariance": ""}, 1.0, [2.0, 3.0])).all()
