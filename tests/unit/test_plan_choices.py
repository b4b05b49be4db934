"""What was chosen reaches the table of choices, the headers and the outcomes (E26, E31)."""

import csv

from skymill import io
from skymill.errors import Outcome
from skymill.jobs.choices import choice_cards, choice_flags, waived
from skymill.jobs.masters import load_master
from skymill.jobs.plan import plan_outcomes
from skymill.plan import Choice
from skymill.settings import validate_settings

from .test_plan import night, only, plan, row


def jobs(**choices):
    return {kind: choice.for_job() for kind, choice in choices.items()}


def test_h221_age_and_rule_are_header_cards():
    """E26, E36."""
    cards = choice_cards(jobs(bias=Choice("b", -2, "nearest"), dark=Choice("d", 0, "longer")))
    values = {key: value for key, (value, _) in cards.items()}
    assert values == {"BIASRULE": "nearest", "BIASAGE": -2, "DARKRULE": "longer", "DARKAGE": 0}
    assert all(len(key) <= 8 for key in choice_cards(jobs(flat=Choice("f", 1, "assigned"))))


def test_h219_only_a_master_that_nobody_wants_is_waived():
    choices = jobs(
        bias=Choice(rule="none"), dark=Choice(rule="bias_only"), flat=Choice(missing="no flat")
    )
    assert waived(choices) == {"missing_bias": "skip", "missing_dark": "skip"}


def test_h220_a_dark_of_another_temperature_flags_the_frames():
    choices = jobs(dark=Choice("d", 0, "exact", flag=("DARK_TEMP", "10 K away.")))
    assert choice_flags(choices) == (("DARK_TEMP", "10 K away."),)


def test_h216_the_table_of_choices_tells_alternatives_and_what_lies_beyond(tmp_path):
    rows = [*night(), *night("2026-01-12"), row("light"), row("light", filter="V")]
    rows += [row("flat", filter="V", night="2026-01-28") for _ in range(3)]
    plan_outcomes(
        rows=rows,
        settings=validate_settings({"raw": "raw"}),
        choices=tmp_path / "choices.csv",
        outcomes=tmp_path / "plan.csv",
    )
    todo = plan(rows)
    with (tmp_path / "choices.csv").open() as stream:
        found = {(r["for"], r["kind"]): r for r in csv.DictReader(stream)}
    for block in todo.blocks.values():
        bias = found[block.id, "bias"]
        assert (bias["master"], bias["age_nights"], bias["rule"]) == (block.bias, "0", "nearest")
        assert "2026-01-12" in bias["alternatives"]
    (lost,) = (b for b in todo.blocks.values() if b.filter == "V")
    assert "only in ['R']" in found[lost.id, "flat"]["message"]
    assert "the nearest flat is 18 nights away" in found[lost.id, "flat"]["message"]


def test_h226_a_master_that_failed_is_not_used(tmp_path):
    failed = Outcome("bias-x", "master_bias", "failed", "TOO_FEW", "one frame is left")
    io.write_placeholder(tmp_path / "bias-x.fits", {}, failed)
    io.write_outcomes(tmp_path / "bias-x.csv", [failed])
    inputs = {"bias": tmp_path / "bias-x.fits", "bias_outcomes": tmp_path / "bias-x.csv"}
    assert load_master(inputs, "bias") is None


def test_the_choice_of_a_job_does_not_know_what_else_would_have_fitted():
    one = only(plan([*night(), row("light")]).blocks)
    two = only(plan([*night(), *night("2026-01-11"), row("light")]).blocks)
    assert two.choices["bias"].alternatives
    for kind in ("bias", "dark", "flat"):
        mine, other = one.choices[kind].for_job(), two.choices[kind].for_job()
        assert mine == other
