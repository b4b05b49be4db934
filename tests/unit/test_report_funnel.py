"""Every row of the sheet has exactly one fate, and the fates add up."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from skymill.report import FunnelError, GroupOutcome, funnel
from skymill.report.funnel import FATES
from skymill.report.page import verdict

if TYPE_CHECKING:
    from skymill.errors import Outcome


def row(name: str, kind: str = "light", verdict: str = "ok", code: str = "") -> dict[str, Any]:
    message = f"{code} said" if code else ""
    return {
        "frame_id": name,
        "path": f"{name}.fits",
        "kind": kind,
        "verdict": verdict,
        "code": code,
        "message": message,
    }


def way(name: str, *steps: str, group: str = "b1", **other: tuple[str, str]) -> list[Outcome]:
    """Outcomes ``ok`` of some steps, others as step=(status, code)."""
    out: list[Outcome] = [GroupOutcome(name, step, "ok", group=group) for step in steps]
    for step, (status, code) in other.items():
        out.append(GroupOutcome(name, step, status, code, f"{code} in {step}", group=group))
    return out


FRAME_STEPS = ("calibrate", "mask", "background", "sources", "astrometry", "photcal")


def fate_of(rows: list[dict[str, Any]], outcomes: list[Outcome], name: str = "a") -> Any:
    return next(f for f in funnel(rows, outcomes).fates if f.frame_id == name)


def test_light_frame_of_the_stack_is_used():
    fate = fate_of([row("a")], way("a", *FRAME_STEPS, "stack"))
    assert (fate.fate, fate.step, fate.code) == ("used", "stack", "")


def test_degraded_step_or_sheet_makes_a_used_frame_degraded_with_all_codes():
    rows = [row("a", verdict="degraded", code="NO_SITE")]
    outcomes = way(
        "a", *FRAME_STEPS[:4], "photcal", "stack", astrometry=("degraded", "WCS_RELATIVE")
    )
    fate = fate_of(rows, outcomes)
    assert fate.fate == "degraded"
    assert fate.code == "NO_SITE;WCS_RELATIVE"
    assert fate.message == "NO_SITE said WCS_RELATIVE in astrometry"


def test_step_that_fails_without_stopping_degrades():
    outcomes = way("a", "calibrate", "stack", photcal=("failed", "NO_ZP"))
    assert fate_of([row("a")], outcomes).fate == "degraded"


def test_sheet_rejection_comes_before_everything():
    fate = fate_of(
        [row("a", "", "rejected", "NOT_FITS")], way("a", ingest=("rejected", "NOT_FITS"))
    )
    assert (fate.fate, fate.step, fate.code) == ("rejected", "ingest", "NOT_FITS")


def test_first_stopping_step_tells_the_fate_not_the_blocked_ones_behind():
    outcomes = way(
        "a",
        "calibrate",
        stack=("blocked", "UPSTREAM_BLOCKED"),
        photcal=("blocked", "UPSTREAM_BLOCKED"),
        sources=("failed", "NO_STARS"),
        mask=("ok", ""),
    )
    other = way("b", *FRAME_STEPS, "stack")
    for seed in range(5):
        mixed = outcomes + other
        random.Random(seed).shuffle(mixed)
        fate = fate_of([row("a"), row("b")], mixed)
        assert (fate.fate, fate.step, fate.code) == ("failed", "sources", "NO_STARS")


def test_without_a_stack_the_last_step_that_ran_decides():
    rows = [row("a"), row("b")]
    outcomes = way("a", "calibrate", "mask") + way(
        "b", "calibrate", mask=("rejected", "ALL_MASKED")
    )
    result = funnel(rows, outcomes)
    assert [f.fate for f in result.fates] == ["used", "rejected"]
    off = way("a", stack=("off", "OFF")) + way("b", stack=("off", "OFF"))
    assert [f.fate for f in funnel(rows, outcomes + off).fates] == ["used", "rejected"]


def test_frame_of_one_of_two_stacks_is_used():
    outcomes = way("a", *FRAME_STEPS, "stack", group="all")
    outcomes += way("a", stack=("rejected", "POOR_SEEING"), group="night")
    assert fate_of([row("a")], outcomes).is_used


def test_frames_of_a_stack_that_could_not_be_made_are_blocked():
    outcomes = way("a", *FRAME_STEPS, "stack", group="s1")
    outcomes.append(GroupOutcome("s1", "stack", "failed", "NO_OVERLAP", "apart", group="s1"))
    fate = fate_of([row("a")], outcomes)
    assert (fate.fate, fate.code) == ("blocked", "NO_OVERLAP")


def test_calibration_frame_is_used_if_its_master_was_made():
    rows = [row("a", "bias"), row("b", "bias")]
    outcomes = way("a", "master_bias", group="m1")
    outcomes += way("b", master_bias=("rejected", "BAD_LEVEL"), group="m1")
    outcomes.append(GroupOutcome("m1", "master_bias", "ok", group="m1"))
    assert [f.fate for f in funnel(rows, outcomes).fates] == ["used", "rejected"]


def test_calibration_frames_of_a_failed_master_are_blocked_with_its_reason():
    outcomes = way("a", "master_flat", group="m1")
    outcomes.append(GroupOutcome("m1", "master_flat", "failed", "TOO_FEW", "2 of 3", group="m1"))
    fate = fate_of([row("a", "flat")], outcomes)
    assert (fate.fate, fate.code, fate.message) == ("blocked", "TOO_FEW", "2 of 3")


def test_calibration_frame_in_two_masters_is_used_if_one_was_made():
    outcomes = way("a", "master_dark", group="m1") + way("a", "master_dark", group="m2")
    outcomes.append(GroupOutcome("m1", "master_dark", "failed", "TOO_FEW", "x", group="m1"))
    assert fate_of([row("a", "dark")], outcomes).is_used


def test_unneeded_calibration_is_a_fate_of_its_own():
    fate = fate_of([row("a", "flat")], way("a", plan=("off", "UNUSED_CALIBRATION")))
    assert (fate.fate, fate.step) == ("not_needed", "plan")


def test_frame_that_was_switched_off_is_off():
    assert fate_of([row("a")], way("a", plan=("off", "OFF"))).fate == "off"


def test_lost_frame_is_a_defect():
    with pytest.raises(FunnelError, match="frame a .light. was neither used nor stopped"):
        funnel([row("a"), row("b")], way("a", "calibrate") + way("b", *FRAME_STEPS, "stack"))
    with pytest.raises(FunnelError, match="neither used nor stopped"):
        funnel([row("a", "bias")], [])


def test_repeated_frame_id_is_a_defect():
    with pytest.raises(FunnelError, match="twice in the sheet: a"):
        funnel([row("a"), row("a")], way("a", "stack"))


def random_night(seed: int) -> tuple[list[dict[str, Any]], list[Outcome]]:
    """A night in which every frame ends somewhere."""
    dice = random.Random(seed)
    rows, outcomes = [], []
    for n in range(60):
        name, kind = f"f{n}", dice.choice(["light", "light", "bias", "flat", ""])
        if kind == "" or dice.random() < 0.1:
            rows.append(row(name, kind, "rejected", dice.choice(["NOT_FITS", "TRUNCATED"])))
        elif kind == "light":
            rows.append(row(name))
            stop = dice.choice([None, None, *FRAME_STEPS, "stack"])
            for step in (*FRAME_STEPS, "stack"):
                if stop == step:
                    status = dice.choice(["rejected", "failed", "blocked"])
                    outcomes += way(name, **{step: (status, "CLOUDY")})
                    break
                outcomes += way(name, step)
        else:
            rows.append(row(name, kind))
            status = dice.choice(["ok", "degraded", "rejected"])
            outcomes += way(
                name, **{f"master_{kind}": (status, "" if status == "ok" else "BAD_LEVEL")}
            )
    outcomes += way("z", *FRAME_STEPS, "stack")
    rows.append(row("z"))
    return rows, outcomes


@pytest.mark.parametrize("seed", range(20))
def test_counts_reasons_and_used_add_up_in_any_order(seed):
    rows, outcomes = random_night(seed)
    result = funnel(rows, outcomes)
    assert list(result.counts) == list(FATES)
    assert sum(result.counts.values()) == len(rows) == result.total
    assert result.used + sum(reason.count for reason in result.reasons) == len(rows)
    named = [f.frame_id for reason in result.reasons for f in reason.fates]
    named += [f.frame_id for f in result.fates if f.is_used]
    assert sorted(named) == sorted(r["frame_id"] for r in rows)
    random.Random(seed).shuffle(outcomes)
    again = funnel(rows, outcomes)
    assert again.counts == result.counts
    assert [(r.fate, r.step, r.code, r.count) for r in again.reasons] == [
        (r.fate, r.step, r.code, r.count) for r in result.reasons
    ]


def test_light_steps_never_grow_and_end_with_the_used_ones():
    for seed in range(10):
        result = funnel(*random_night(seed))
        left = [count for _, count in result.light_steps]
        assert left == sorted(left, reverse=True)
        assert left[-1] == sum(f.is_used for f in result.fates if f.kind == "light")
        assert left[0] <= sum(f.kind == "light" for f in result.fates)


def test_verdict_names_the_commonest_reasons():
    rows = [row(f"x{n}", "", "rejected", "NOT_FITS") for n in range(3)]
    rows += [row("y", "", "rejected", "EMPTY"), row("a")]
    text = verdict(funnel(rows, way("a", "stack")))
    assert text == "1 of 5 frames used; 4 rejected (NOT_FITS, EMPTY)."


def test_reasons_carry_meaning_and_advice():
    reason = funnel([row("a", "", "rejected", "EMPTY")], []).reasons[0]
    assert reason.meaning == "the file has zero bytes"
    assert "Copy the file again" in reason.advice
