"""The best frame of a field: what makes it best, and what is kept of it."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS

from skymill.errors import Result, StepFailed
from skymill.steps.reference_frames import Candidate, reference_frames
from skymill.steps.sources import SourceFlag

SHAPE = (200, 300)


def _sources(n, seed=0):
    rng = np.random.default_rng(seed)
    flux = np.sort(rng.uniform(100, 1e5, n))[::-1]
    names = ("x_err", "y_err", "flux_err", "flux_total_err", "fwhm")
    return Table(
        {
            "x": rng.uniform(0, 299, n),
            "y": rng.uniform(0, 199, n),
            "flux": flux,
            "flux_total": 1.1 * flux,
            **{name: np.full(n, 0.5) for name in names},
            "flags": np.zeros(n, int),
            "mask_or": np.zeros(n, int),
        }
    )


def _wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [10.0, 20.0]
    wcs.wcs.crpix = [150.0, 100.0]
    wcs.wcs.cdelt = [-1 / 3600, 1 / 3600]
    return wcs


def _candidate(frame_id, n=50, *, fwhm=3.0, band="V", rms=10.0, time=60.0, shape=0.05, wcs=None):
    row = {"frame_id": frame_id, "filter": band, "exptime_s": time, "mjd_mid": 60000.0}
    numbers = {"fwhm_px": fwhm, "sky_rms_e": rms, "ellipticity": shape, "r_total_px": 12.0}
    return Candidate(frame_id, row, _sources(n), SHAPE, numbers, wcs)


@pytest.mark.parametrize(
    "better",
    [{"n": 120}, {"fwhm": 2.0}, {"rms": 5.0}, {"time": 240.0}, {"shape": 0.0}],
    ids=lambda better: next(iter(better)),
)
def test_each_virtue_alone_makes_a_frame_the_best(better):
    frames = [_candidate("a"), _candidate("b"), _candidate("c", **better), _candidate("d")]
    assert reference_frames(frames).numbers["best_frame"] == "c"


def test_equal_frames_are_decided_by_their_id_in_any_order():
    frames = [_candidate(name) for name in ("c", "a", "b")]
    for order in (frames, frames[::-1]):
        result = reference_frames(order)
        assert result.numbers["best_frame"] == "a"
        assert result.flags == ()


def test_the_best_of_each_filter_is_kept_and_one_is_the_best_of_all():
    frames = [
        _candidate("v1", fwhm=4.0),
        _candidate("v2", fwhm=3.0),
        _candidate("b1", n=20, band="B"),
        _candidate("b2", n=25, band="B"),
    ]
    table = reference_frames(frames).value
    assert set(np.unique(table["frame_id"])) == {"v2", "b2"}
    assert set(table["frame_id"][table["best"]]) == {"v2"}
    assert table.meta["frames"]["v2"]["best"]
    assert not table.meta["frames"]["b2"]["best"]
    assert table.meta["frames"]["b2"]["exptime_s"] == 60.0
    assert table["x"].unit == "pix"
    assert table["flux_total"].description


def test_the_brightest_stars_are_kept_in_order():
    table = reference_frames([_candidate("a", n=80)], max_stars=30).value
    assert len(table) == 30
    assert (np.diff(table["flux"]) <= 0).all()
    assert list(table["star"]) == list(range(1, 31))


def test_frames_with_world_coordinates_are_preferred_if_half_have_them():
    frames = [_candidate("a", n=200), _candidate("b", wcs=_wcs()), _candidate("c", wcs=_wcs())]
    result = reference_frames(frames)
    assert result.numbers["best_frame"] == "b"
    assert "RA---TAN" in result.value.meta["frames"]["b"]["header_wcs"]
    few = [_candidate("a", n=200), _candidate("b"), _candidate("c", wcs=_wcs())]
    assert reference_frames(few).numbers["best_frame"] == "a"


def test_hits_and_hot_pixels_do_not_count_as_stars():
    hot = _candidate("a", n=300)
    hot.sources["flags"][20:] = int(SourceFlag.SHARP)
    assert reference_frames([hot, _candidate("b", n=60)]).numbers["best_frame"] == "b"


def test_few_stars_and_few_frames_are_flagged():
    result = reference_frames([_candidate("a", n=2), *(_candidate(k, n=0) for k in "bcd")])
    assert [code for code, _ in result.flags] == ["FEW_STARS", "TOO_FEW"]
    assert "only 1 of 4 frames" in result.flags[1][1]


def test_no_star_at_all_is_a_failure_of_science():
    with pytest.raises(StepFailed) as failure:
        reference_frames([_candidate("a", n=0), _candidate("b", n=0)])
    assert failure.value.code == "NO_STARS"
    assert failure.value.numbers == {"n_candidates": 2}


def test_unknown_figures_count_as_the_median_and_inputs_stay_as_they_were():
    bare = Candidate("a", {"frame_id": "a", "filter": "V", "exptime_s": None}, _sources(50), SHAPE)
    before = bare.sources.copy()
    result = reference_frames([bare, _candidate("b"), _candidate("c", fwhm=5.0)])
    assert result.numbers["best_frame"] in ("a", "b")
    assert np.isfinite(result.numbers["score"])
    assert all((before[name] == bare.sources[name]).all() for name in before.colnames)


# --- frames that cannot be solved ---


def _absolute(frame_id):
    return Result({"frame_id": frame_id, "solution": "absolute", "method": "catalogue"})


def _header(frame_id, code="NO_MATCH"):
    value = {"frame_id": frame_id, "solution": "header", "method": "header"}
    return Result(value, ((code, f"{frame_id}: not solved"), ("WCS_UNVERIFIED", "header")))


class _Solver:
    """Solves alone what is in ``solvable``, relative to the best what is in ``tied``."""

    def __init__(self, solvable=(), tied=(), fails=()):
        self.solvable, self.tied, self.fails, self.calls = solvable, tied, fails, []

    def __call__(self, candidate, stars, reference):
        name = candidate.frame_id
        self.calls.append((name, reference["frame_id"] if reference else None))
        if name in self.fails:
            raise StepFailed("REGISTRATION", f"{name}: no common pattern")
        if reference is None:
            return _absolute(name) if name in self.solvable else _header(name)
        assert set(stars["frame_id"]) == {reference["frame_id"]}
        if name not in self.tied:
            raise StepFailed("REGISTRATION", f"{name}: no common pattern")
        return _absolute(name)


def _by_rank(names, band="V"):
    """Frames whose seeing gets worse in this order."""
    return [_candidate(name, fwhm=3.0 + 0.2 * i, band=band) for i, name in enumerate(names)]


def test_the_next_frame_is_tried_when_the_best_cannot_be_solved():
    """A planted best frame that no catalogue matches does not cost the field its sky."""
    solver = _Solver(solvable=("c",))
    result = reference_frames(_by_rank("abcd"), solver, has_catalog=True)
    assert [name for name, _ in solver.calls] == ["a", "b", "c"]
    assert result.numbers["best_frame"] == "c"
    assert result.numbers["n_tried"] == 3
    assert result.numbers["not_solved"] == "a: NO_MATCH; b: NO_MATCH"
    assert result.flags == ()
    meta = result.value.meta
    assert meta["solutions"]["c"]["solution"] == "absolute"
    assert [item[0] for item in meta["tried"]] == ["a", "b", "c"]
    assert set(result.value["frame_id"][result.value["best"]]) == {"c"}


def test_tries_are_bounded_and_the_best_frame_serves_as_before_if_none_is_solved():
    solver = _Solver()
    result = reference_frames(_by_rank("abcdefgh"), solver, has_catalog=True, tries=4)
    assert [name for name, _ in solver.calls] == list("abcd")
    assert result.numbers["best_frame"] == "a"
    assert result.numbers["solution"] == "header"
    assert [code for code, _ in result.flags] == ["NO_MATCH", "WCS_UNVERIFIED"]


def test_without_a_catalogue_the_best_frame_is_taken_at_once():
    solver = _Solver()
    result = reference_frames(_by_rank("abc"), solver)
    assert [name for name, _ in solver.calls] == ["a"]
    assert result.numbers["best_frame"] == "a"


def test_a_frame_with_no_solution_at_all_yields_to_one_with_its_header():
    solver = _Solver(fails=("a",))
    result = reference_frames(_by_rank("ab"), solver, has_catalog=True)
    assert result.numbers["best_frame"] == "b"
    assert result.numbers["not_solved"] == "a: REGISTRATION; b: NO_MATCH"


def test_the_next_frame_of_a_filter_is_tried_when_its_best_cannot_be_tied():
    frames = [*_by_rank("ab"), *_by_rank("xyz", band="R")]
    for frame in frames[2:]:
        frame.numbers["fwhm_px"] += 2.0
    solver = _Solver(solvable=("a",), tied=("y",))
    result = reference_frames(frames, solver, has_catalog=True)
    assert solver.calls == [("a", None), ("x", "a"), ("y", "a")]
    assert set(result.value.meta["frames"]) == {"a", "y"}
    assert result.value.meta["solutions"]["y"]["solution"] == "absolute"


def test_a_filter_that_cannot_be_tied_keeps_its_best_frame_without_solution():
    frames = [*_by_rank("ab"), *_by_rank("xyz", band="R")]
    for frame in frames[2:]:
        frame.numbers["fwhm_px"] += 2.0
    result = reference_frames(frames, _Solver(solvable=("a",)), has_catalog=True, tries=2)
    assert result.value.meta["solutions"]["x"] == {
        "solution": "none", "code": "REGISTRATION", "message": "x: no common pattern",
    }  # fmt: skip


def test_an_unsolvable_best_frame_of_a_real_pattern_is_passed_over():
    """The solver of the workflow, with a best frame whose stars are of another field."""
    from skymill.catalogs import RefCatalog
    from skymill.steps.astrometry import astrometry
    from skymill.wcsmath import pixel_to_sky

    wcs = _wcs()
    good, wrong = _candidate("b", fwhm=4.0, wcs=wcs), _candidate("a", fwhm=2.0, wcs=wcs)
    wrong.sources["x"][:] = np.random.default_rng(9).uniform(0, 299, len(wrong.sources))
    xy = np.stack([good.sources["x"], good.sources["y"]], axis=1)
    sky = pixel_to_sky(wcs, xy)
    catalog = RefCatalog("c", sky[:, 0], sky[:, 1], np.arange(len(xy)).astype(str))

    def solve(candidate, stars, reference):
        return astrometry(
            candidate.sources, candidate.row, candidate.header_wcs, candidate.shape, stars,
            reference, catalog, blind="never",
        )  # fmt: skip

    result = reference_frames([wrong, good], solve, has_catalog=True)
    assert result.numbers["best_frame"] == "b"
    assert result.numbers["solution"] == "absolute"
    assert result.value.meta["tried"][0][0] == "a"
