"""Compiled helpers of tables against plain implementations of the same definitions."""

import numpy as np
import pytest
from astropy.io.fits import Header
from astropy.table import Table
from astropy.wcs import WCS
from scipy.optimize import brentq
from scipy.spatial import cKDTree

from skymill.affine import GAIN, Affine, fit_best, identity, mirror
from skymill.jobs.tables import chosen, joined
from skymill.kernels import hypotheses
from skymill.kernels.empty import clear_places
from skymill.kernels.growth import clipped_means
from skymill.kernels.offsets import core_scatter, likely_scatter
from skymill.patterns import Search, _Judge, _numbers, mutual_pairs
from skymill.wcsmath import (
    compose,
    kind_of,
    wcs_from_header,
    wcs_from_text,
    wcs_header,
    wcs_to_text,
)

SHAPE = (500, 600)


def lists(seed, base):
    rng = np.random.default_rng(seed)
    reference = rng.uniform(-50, 600, (70, 2))
    angle = np.radians(0.6)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    map_ = Affine(turn * 1.004, np.array([12.0, -7.0])).after(base)
    there = map_.inverse()(reference[:45]) + rng.normal(0, 0.1, (45, 2))
    there = there[((there > 0) & (there < (600, 500))).all(axis=1)]
    source = np.concatenate([there, rng.uniform(0, 500, (15, 2))])[rng.permutation(len(there) + 15)]
    return source, reference, map_, rng


@pytest.mark.parametrize("base", [identity(), mirror(SHAPE)])
def test_hypotheses_are_refined_as_by_nearest_neighbours_and_least_squares(base):
    source, reference, true, rng = lists(1, base)
    tol, seeds = 2.0, 1
    search = Search("test", base, 60.0, 5.0, 0.02)
    judge = _Judge(source, reference, SHAPE, search, tol)
    starts = [Affine(np.eye(2), rng.normal(0, 4, 2) + (12, -7)) for _ in range(25)]
    starts += [Affine(np.eye(2), rng.uniform(-80, 80, 2)) for _ in range(60)]
    number = 0
    for start in starts:
        found = judge.examine([start], seeds)
        map_ = start.after(base)
        pairs = mutual_pairs(map_(source), reference, 1.5 * tol)
        kind = "shift"
        for _ in range(6):
            if len(pairs[0]) <= seeds:
                break
            s, r = source[pairs[0]], reference[pairs[1]]
            fit = fit_best(s, r, np.full(len(s), 0.3 * tol), base=base, most="similarity")
            map_, kind = fit.transform, fit.kind
            again = mutual_pairs(map_(source), reference, tol)
            same = all(np.array_equal(a, b) for a, b in zip(again, pairs, strict=True))
            pairs = again
            if same:
                break
        step = map_.after(base.inverse())
        moved = step(judge.middle) - judge.middle
        allowed = (
            np.hypot(*moved[0]) <= 64.0
            and abs(step.rotation_deg) <= 5.5
            and abs(np.log(step.scale)) <= np.log1p(0.02) + 0.005
        )
        if len(pairs[0]) <= seeds or not allowed:
            assert found == []
            continue
        (item,) = found
        number += 1
        assert item.kind == kind
        assert item.source.tolist() == pairs[0].tolist()
        assert item.reference.tolist() == pairs[1].tolist()
        assert np.abs(item.transform(source) - map_(source)).max() < 1e-8
    assert number > 10


def test_the_same_map_is_taken_once_and_the_best_comes_first():
    source, reference, true, rng = lists(2, identity())
    judge = _Judge(source, reference, SHAPE, Search("t", identity(), 60.0, 5.0, 0.02), 2.0)
    starts = [Affine(np.eye(2), np.array([12.0, -7.0]) + rng.normal(0, 1, 2)) for _ in range(6)]
    starts.insert(0, Affine(np.eye(2), np.array([-30.0, 20.0])))
    found = judge.examine(starts, 1)
    best = found[0]
    assert np.abs(best.transform(source) - true(source)).max() < 0.5
    assert [c.tail for c in found] == sorted(c.tail for c in found)
    assert sum(np.abs(c.transform(source) - true(source)).max() < 1 for c in found) == 1


def test_chances_are_those_of_trees():
    source, reference, true, _ = lists(3, identity())
    tol, (ny, nx), ring = 3.0, SHAPE, (3.0, 25.0)
    inverse = true.inverse()
    rx, ry = np.ascontiguousarray(reference.T)
    by_x = source[np.argsort(source[:, 0])]
    inside, hits, around = hypotheses.chances(
        _numbers(inverse), rx, ry, *np.ascontiguousarray(by_x.T), nx, ny, tol, ring
    )
    at = inverse(reference)
    at = at[((at > -tol) & (at < np.array([nx, ny]) - 1 + tol)).all(axis=1)]
    tree = cKDTree(source)
    gaps = [
        tree.query(at + r * tol * np.array([np.cos(a), np.sin(a)]))[0]
        for r in (6.0, 11.0)
        for a in np.arange(8) * np.pi / 4 + 0.2
    ]
    assert inside == len(at)
    assert hits == pytest.approx((np.array(gaps) < tol).mean(), abs=1e-12)
    assert 0 < hits < 0.2
    number = [len(n) for n in tree.query_ball_point(at, 25 * tol)]
    less = [len(n) for n in tree.query_ball_point(at, 3 * tol)]
    assert around == pytest.approx(np.mean(number) - np.mean(less), abs=1e-12)
    assert (GAIN[1], GAIN[2]) == (6.63, 9.21)  # chi-square of 1 % for one and two parameters


def test_scatters_are_roots_of_their_equations():
    rng = np.random.default_rng(4)
    for n in (5, 12, 41):
        sigma = rng.uniform(0.01, 0.05, n)
        values = rng.normal(0, np.hypot(sigma, 0.08))

        def slope(eps2, values=values, sigma=sigma):
            w = 1 / (sigma**2 + eps2)
            mean = (w * values).sum() / w.sum()
            return (w**2 * (values - mean) ** 2).sum() - w.sum() + (w**2).sum() / w.sum()

        root = np.sqrt(brentq(slope, 0, 1, xtol=1e-15))
        assert likely_scatter(values, sigma) == pytest.approx(root, rel=1e-6)
        off = np.abs(values - np.median(values))
        eps = core_scatter(values, sigma, 0.6745)
        ratio = np.median(off / np.hypot(sigma, eps))
        assert ratio == pytest.approx(0.6745, rel=1e-6) or (eps == 0 and ratio < 0.6745)
    assert likely_scatter(values, sigma + 1) == core_scatter(values, sigma + 1, 0.6745) == 0.0


def test_clear_places_are_far_from_sources_and_bad_pixels():
    rng = np.random.default_rng(5)
    sci = rng.normal(size=(80, 90)).astype(np.float32)
    sci[rng.uniform(size=sci.shape) < 0.002] = np.nan
    mask = (rng.uniform(size=sci.shape) < 0.003).astype(np.uint16) * 64
    x, y = rng.uniform(4, 85, 400), rng.uniform(4, 75, 400)
    sources = rng.uniform(0, 90, (12, 2))
    sources = sources[np.argsort(sources[:, 0])]
    reach = rng.uniform(3, 9, 12)
    dy, dx = (v.ravel() for v in np.mgrid[-3:4, -3:4])
    found = clear_places(x, y, sci, mask, dx, dy, *np.ascontiguousarray(sources.T), reach)
    cx, cy = np.rint(x).astype(int), np.rint(y).astype(int)
    bad = (mask > 0) | ~np.isfinite(sci)
    wanted = ~bad[cy[:, None] + dy, cx[:, None] + dx].any(axis=1)
    gap = np.hypot(x[:, None] - sources[:, 0], y[:, None] - sources[:, 1])
    wanted &= (gap > reach).all(axis=1)
    assert (found == wanted).all()
    assert 50 < found.sum() < 350


def test_mean_curves_leave_out_what_is_far_off():
    rng = np.random.default_rng(6)
    truth = np.linspace(0.1, 1, 6)
    sigma = np.full((30, 6), 0.01) * rng.uniform(0.5, 2, (30, 1))
    curves = truth + sigma * rng.normal(size=(30, 6))
    curves[3] = np.nan
    curves[7] += 0.5
    mean, error = clipped_means(curves, sigma**2, 4.0)
    clean = np.delete(np.arange(30), [3, 7])
    for k in range(5):
        value, var = curves[clean, k], sigma[clean, k] ** 2
        everyone = np.append(value, curves[7, k])
        scatter = 1.4826 * np.median(np.abs(everyone - np.median(everyone)))
        weight = 1 / (var + max(scatter**2 - np.median(var), 0) + 1e-16)
        assert mean[k] == pytest.approx(np.average(value, weights=weight), abs=1e-12)
        assert abs(mean[k] - truth[k]) < 5 * error[k] < 0.05
    assert (mean[5], error[5]) == (1.0, 0.0)


def worlds():
    tan = WCS(naxis=2)
    tan.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    tan.wcs.crval = [359.99876543210987, -61.2345678901234]
    tan.wcs.crpix = [260.25, 240.75]
    tan.wcs.cd = [[-2.7e-4, 1.1e-5], [1.2e-5, 2.7e-4]]
    tan.wcs.mjdobs = 60000.5
    tan.wcs.set()
    sip = wcs_header(tan)
    sip["CTYPE1"], sip["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    sip["A_ORDER"], sip["B_ORDER"], sip["A_2_0"], sip["B_1_1"] = 2, 2, 1e-6, -2e-6
    tpv = wcs_header(tan)
    tpv["CTYPE1"], tpv["CTYPE2"] = "RA---TPV", "DEC--TPV"
    tpv["PV1_1"], tpv["PV2_1"], tpv["PV1_4"] = 1.0, 1.0, 0.05
    linear = WCS(naxis=2)
    linear.wcs.crpix, linear.wcs.crval, linear.wcs.pc = [1, 1], [3, -4], [[1, 0.01], [-0.01, 1]]
    linear.wcs.set()
    made = {"tan": tan, "linear": linear}
    return made | {"sip": WCS(sip, fix=False), "tpv": WCS(tpv, fix=False)}


@pytest.mark.parametrize("kind", ["tan", "linear", "sip", "tpv"])
def test_text_of_world_coordinates_is_read_as_astropy_reads_it(kind):
    wcs = worlds()[kind]
    text = wcs_to_text(wcs)
    header = wcs_header(wcs)
    plain = "\n".join(card.rstrip() for card in header.tostring(sep="\n").split("\n"))
    assert text.rstrip() == plain.rstrip()
    assert kind_of(wcs) == kind_of(wcs_from_text(text)) == kind
    xy = np.random.default_rng(7).uniform(-100, 600, (50, 2))
    theirs = WCS(Header.fromstring(text, sep="\n"), fix=False)
    assert np.array_equal(wcs_from_text(text).all_pix2world(xy, 0), theirs.all_pix2world(xy, 0))
    assert wcs_to_text(wcs_from_text(text)) == text
    header["NAXIS1"], header["NAXIS2"] = 600, 500
    assert wcs_from_header(header).array_shape == WCS(header, fix=False).array_shape == SHAPE


def test_moved_pixels_keep_their_place_on_the_sky():
    wcs = worlds()["tan"]
    step = Affine(np.array([[1.001, 0.02], [-0.021, 0.999]]), np.array([5.5, -3.25]))
    found = compose(wcs, step, SHAPE)
    xy = np.random.default_rng(8).uniform(0, 500, (50, 2))
    back = wcs.all_world2pix(found.all_pix2world(xy, 0), 0)
    assert np.abs(back - step(xy)).max() < 1e-9
    again = wcs_from_text(wcs_to_text(found))
    assert np.abs(again.all_world2pix(found.all_pix2world(xy, 0), 0) - xy).max() < 1e-8
    assert not found.wcs.has_cd() and wcs.wcs.has_cd()


def test_columns_of_frames_are_joined_in_order():
    empty = Table({"frame_id": np.zeros(0, "U1"), "flux": np.zeros(0)})
    empty["flux"].unit, empty["flux"].description = "electron", "light"
    parts = {n: {"flux": np.arange(k) * 1.0, "frame_id": np.full(k, n), "more": 1}
             for n, k in (("a", 2), ("longer", 3))}  # fmt: skip
    table = joined(parts, empty)
    assert table["frame_id"].tolist() == ["a"] * 2 + ["longer"] * 3
    assert table["flux"].tolist() == [0, 1, 0, 1, 2]
    assert (str(table["flux"].unit), table["flux"].description) == ("electron", "light")
    assert len(joined({}, empty)) == 0
    assert chosen(table, ("flux", "none")).colnames == ["frame_id", "flux"]
