"""Frames of a block do not hurt one another."""

import time

import pytest

from skymill.block import run_block
from skymill.errors import FrameRejected, Outcome, Result, StepFailed
from skymill.io import read_outcomes, write_outcomes

ROWS = [{"frame_id": f"f{n}"} for n in range(6)]


def work(row):
    number = int(row["frame_id"][1:])
    time.sleep(0.01 * (6 - number))  # later frames end first when threads work
    if number == 2:
        raise FrameRejected("ALL_NAN", "no pixel has a value", n_good=0)
    if number == 4:
        raise StepFailed("NO_STARS", "no star was found")
    flags = (("FEW_STARS", "2 stars, expected 5"),) if number == 5 else ()
    return Result(number * 10, flags, {"n": number})


@pytest.mark.parametrize("threads", [1, 3])
def test_one_bad_frame_stops_no_other_and_order_is_kept(tmp_path, threads):
    values = run_block("mask", ROWS, work, outcomes=tmp_path / "o.csv", threads=threads)
    assert values == {"f0": 0, "f1": 10, "f3": 30, "f5": 50}
    assert list(values) == ["f0", "f1", "f3", "f5"]
    outcomes = read_outcomes(tmp_path / "o.csv")
    assert [(o.frame_id, o.status, o.code) for o in outcomes] == [
        ("f0", "ok", ""),
        ("f1", "ok", ""),
        ("f2", "rejected", "ALL_NAN"),
        ("f3", "ok", ""),
        ("f4", "failed", "NO_STARS"),
        ("f5", "degraded", "FEW_STARS"),
    ]


def test_a_stopped_frame_is_blocked_and_names_the_first_cause(tmp_path):
    write_outcomes(
        tmp_path / "first.csv", [Outcome("f1", "calibrate", "rejected", "NO_FLAT", "no flat")]
    )
    run_block(
        "mask", ROWS[:2], work, outcomes=tmp_path / "second.csv", upstream=[tmp_path / "first.csv"]
    )
    run_block(
        "sources",
        ROWS[:2],
        work,
        outcomes=tmp_path / "third.csv",
        upstream=[tmp_path / "second.csv"],
    )
    last = read_outcomes(tmp_path / "third.csv")[1]
    assert (last.status, last.code) == ("blocked", "UPSTREAM_BLOCKED")
    assert last.numbers == {"cause_step": "calibrate", "cause_code": "NO_FLAT"}


def test_a_defect_ends_the_job_and_writes_no_outcomes(tmp_path):
    def broken(_row):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_block("mask", ROWS, broken, outcomes=tmp_path / "o.csv")
    assert not (tmp_path / "o.csv").exists()


def test_unknown_codes_are_a_defect():
    with pytest.raises(KeyError, match="NOT_A_CODE"):
        FrameRejected("NOT_A_CODE", "x")
    with pytest.raises(KeyError, match="NOT_A_CODE"):
        Result(1, (("NOT_A_CODE", "x"),))
