"""Hazards of names: header text that would become paths, options, formulas or markup."""

from __future__ import annotations

import re
from typing import Any

import pytest

from skymill.errors import ConfigError
from skymill.plan import make_plan
from skymill.settings import Settings
from skymill.sheet import read_sheet, slug, write_sheet

SAFE = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+-]{0,72}$")

TEXTS: list[tuple[str, str]] = [
    ("H178", "../../x"),
    ("H178", "/abs/path"),
    ("H178", "..\\..\\x"),
    ("H179", "C/2014 UN271"),
    ("H179", "NGC 1234"),
    ("H179", "TW Hya"),
    ("H180", "$(rm x)"),
    ("H180", "`id`"),
    ("H180", "; ls | a > b & c"),
    ("H181", "-rf"),
    ("H181", "--config"),
    ("H182", "{wildcard}"),
    ("H182", "{}"),
    ("H182", "%s"),
    ("H182", "%(x)s"),
    ("H182", "$HOME"),
    ("H184", "*" * 60),
    ("H185", ""),
    ("H185", "   "),
    ("H185", "."),
    ("H185", ".."),
    ("H185", "con"),
    ("H185", "nul"),
    ("H186", "=1+1"),
    ("H186", "+1"),
    ("H186", "@x"),
    ("H187", "<script>alert(1)</script>"),
    ("H188", 'a"b'),
    ("H188", "a\\b"),
    ("H189", "no"),
    ("H189", "1e3"),
    ("H189", "null"),
    ("H189", "["),
]


@pytest.mark.parametrize(
    ("hazard", "text"), TEXTS, ids=[f"{name}-{n}" for n, (name, _) in enumerate(TEXTS)]
)
def test_header_text_gives_safe_names_and_survives_the_sheet(
    hazard: str, text: str, maker: Any, rows_of: Any, tmp_path: Any
) -> None:
    maker.base(OBJECT=text, FILTER=text or "R", INSTRUME=text or "x")
    rows = rows_of(maker)
    for name in ("target", "filter", "detector", "frame_id"):
        assert not rows[0][name] or SAFE.match(rows[0][name]), rows[0][name]
    assert rows[0]["target"].lower() not in ("con", "nul", ".", "..", "")
    write_sheet(tmp_path / "frames.csv", rows)
    assert read_sheet(tmp_path / "frames.csv") == rows
    assert rows[0]["object"] == ("" if text == "null" else " ".join(text.split()))
    plan = make_plan(rows, Settings(raw="raw"))
    for name in (*plan.blocks, *plan.stacks, *plan.fields):
        assert SAFE.match(name[:64]), name
        assert len(name) < 160, name


@pytest.mark.parametrize(
    "text",
    ["\u202egnp.exe", "M31\u200b", "\U0001f300", "x" * 300, "\u041c31", "e\u0301toile"],
    ids=["right to left", "zero width", "emoji", "300 bytes", "cyrillic", "accent"],
)
def test_h184_names_of_any_script_are_short_and_plain(text: str) -> None:
    name = slug(text)
    assert SAFE.match(name)
    assert len(name) <= 64
    assert name.isascii()


def test_h183_h186_sheet_has_no_formula_and_one_line_per_row(
    maker: Any, rows_of: Any, tmp_path: Any
) -> None:
    maker.base()
    maker.card(b"OBJECT  = '=cmd\nERROR \x1b[31m'")
    rows = rows_of(maker)
    write_sheet(tmp_path / "frames.csv", rows)
    lines = (tmp_path / "frames.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert "\x1b" not in lines[1]
    assert ",=" not in lines[1]


def test_h174_names_that_differ_in_case_only_make_different_files(maker: Any, rows_of: Any) -> None:
    """Names of products carry a hash: no file system confuses them."""
    for number, name in enumerate(["M31", "m31"]):
        maker.base(
            maker.pixels(),
            path=maker.folder / f"{number}.fits",
            OBJECT=name,
            DATE__OBS=f"2024-01-02T03:0{number}:05",
        )
    plan = make_plan(rows_of(maker), Settings(raw="raw"))
    for names in (plan.blocks, plan.stacks, plan.fields):
        assert len({name.lower() for name in names}) == 2


def test_h175_composed_and_decomposed_letters_are_one_name() -> None:
    assert slug("caf\u00e9") == slug("cafe\u0301")


def test_h173_products_in_the_raw_tree_are_not_used_again(maker: Any, rows_of: Any) -> None:
    data = maker.pixels()
    maker.base(data, path=maker.folder / "raw" / "a.fits")
    maker.base(data, path=maker.folder / "Copy" / "a.fits")
    maker.base(data.astype("f4") - 300, path=maker.folder / "Calibrated" / "a.fits", CALSTAT="BDF")
    codes = {row["path"]: row["code"] for row in rows_of(maker)}
    assert codes["Calibrated/a.fits"] == "ALREADY_CALIBRATED"
    assert sorted([codes["Copy/a.fits"], codes["raw/a.fits"]]) == ["", "DUPLICATE"]


def test_h177_another_header_is_another_content(maker: Any, rows_of: Any) -> None:
    maker.base(path=maker.folder / "a.fits")
    (before,) = rows_of(maker)
    maker.path = maker.folder / "a.fits"
    maker.card("OBJECT  = 'field two'")
    (after,) = rows_of(maker)
    assert before["frame_id"] == after["frame_id"]
    assert before["sha256"] != after["sha256"]


def test_h190_a_group_for_each_frame_is_refused_with_a_hint(maker: Any, rows_of: Any) -> None:
    for number in range(12):
        maker.base(
            maker.pixels(),
            path=maker.folder / f"{number}.fits",
            OBJECT=f"image {number}",
            DATE__OBS=f"2024-01-02T03:{number:02d}:05",
        )
    rows = rows_of(maker)
    settings = Settings(raw="raw")
    few = settings.model_copy(update={"plan": settings.plan.model_copy(update={"max_groups": 5})})
    with pytest.raises(ConfigError, match="max_groups"):
        make_plan(rows, few)


def _night(maker: Any, rows_of: Any) -> list[dict[str, Any]]:
    """Three bias, dark and flat frames and two lights of each of two targets."""
    kinds = [("Bias Frame", 300, 0.0), ("Dark Frame", 310, 30.0), ("Flat Field", 20000, 5.0)]
    number = 0
    for kind, level, seconds in kinds:
        for _ in range(5):
            number += 1
            maker.base(
                maker.pixels(level),
                path=maker.folder / f"{number:02d}.fits",
                IMAGETYP=kind,
                EXPTIME=seconds,
                DATE__OBS=f"2024-01-02T02:{number:02d}:05",
            )
    for target in ("one", "two"):
        for _ in range(2):
            number += 1
            maker.base(
                maker.pixels(1000),
                path=maker.folder / f"{number:02d}.fits",
                OBJECT=target,
                DATE__OBS=f"2024-01-02T03:{number:02d}:05",
            )
    return list(rows_of(maker))


def test_h225_no_calibration_frame_corrects_itself(maker: Any, rows_of: Any) -> None:
    plan = make_plan(_night(maker, rows_of), Settings(raw="raw"))
    assert {master.kind for master in plan.masters.values()} == {"bias", "dark", "flat"}
    for master in plan.masters.values():
        for parent in (master.bias, master.dark):
            assert not parent or not set(plan.masters[parent].frames) & set(master.frames)


def test_h227_a_target_without_frames_takes_nothing_from_the_others(
    maker: Any, rows_of: Any
) -> None:
    rows = [
        {**row, "verdict": "rejected", "code": "TRUNCATED"} if row["target"] == "two" else row
        for row in _night(maker, rows_of)
    ]
    plan = make_plan(rows, Settings(raw="raw"))
    assert {block.target for block in plan.blocks.values()} == {"one"}
    assert {field.target for field in plan.fields.values()} == {"one"}


def test_h242_folders_without_lights_or_without_anything_are_told(maker: Any, rows_of: Any) -> None:
    from skymill.ingest import ingest, summary

    found = ingest(maker.folder)
    assert found.rows == []
    assert "No file found" in summary(found)
    maker.base(IMAGETYP="Bias Frame", EXPTIME=0.0)
    assert make_plan(rows_of(maker), Settings(raw="raw")).blocks == {}
