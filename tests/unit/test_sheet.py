"""The sheet keeps what it is given, in order, typed, and safe in a spreadsheet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from skymill.errors import ConfigError
from skymill.sheet import COLUMNS, empty_row, frame_id, read_sheet, slug, write_sheet

if TYPE_CHECKING:
    from pathlib import Path


def _row(path: str = "a/x.fits", **cells: object) -> dict[str, object]:
    return empty_row(
        **{
            "frame_id": frame_id(path, 0),
            "path": path,
            "hdu": 0,
            "verdict": "ok",
            "kind": "light",
            "instrument": "cam",
            "target": "field",
            "night": "2019-03-25",
            "mjd_start": 58567.5,
            "exptime_s": 30.0,
            "nx": 100,
            "ny": 80,
            **cells,
        }
    )


def test_rows_come_back_typed_and_exact(tmp_path: Path) -> None:
    rows = [
        _row(
            exptime_s=0.12,
            mjd_start=58568.1024436343,
            nx=1432,
            temperature_c=-27.5,
            object="no",
            filter="1e3",
            night="2019-03-25",
        ),
        _row("b/y.fits", message='a "quoted", text; with é'),
    ]
    write_sheet(tmp_path / "frames.csv", rows)
    assert read_sheet(tmp_path / "frames.csv") == rows


def test_unknown_numbers_are_none_and_unknown_texts_empty(tmp_path: Path) -> None:
    write_sheet(tmp_path / "frames.csv", [_row()])
    (row,) = read_sheet(tmp_path / "frames.csv")
    assert row["gain_e_adu"] is None
    assert row["plane"] is None
    assert row["filter"] == ""


def test_rows_are_sorted_by_path_and_hdu(tmp_path: Path) -> None:
    rows = [_row("b.fits"), _row("a.fits")]
    rows.append({**_row("a.fits"), "hdu": 2, "frame_id": frame_id("a.fits", 2)})
    write_sheet(tmp_path / "s.csv", rows)
    first = (tmp_path / "s.csv").read_bytes()
    write_sheet(tmp_path / "s.csv", rows[::-1])
    assert (tmp_path / "s.csv").read_bytes() == first
    assert [(r["path"], r["hdu"]) for r in read_sheet(tmp_path / "s.csv")] == [
        ("a.fits", 0),
        ("a.fits", 2),
        ("b.fits", 0),
    ]


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@a", "'quoted'", "'", "plain"])
def test_formulas_are_disarmed_and_read_back(text: str, tmp_path: Path) -> None:
    write_sheet(tmp_path / "s.csv", [_row(object=text)])
    assert read_sheet(tmp_path / "s.csv")[0]["object"] == text
    line = (tmp_path / "s.csv").read_text().splitlines()[1]
    assert not any(cell[:1] in "=+@" and cell for cell in line.split(","))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.replace("exptime_s", "exposure"), r"missing: \['exptime_s'\].*'exposure'"),
        (lambda t: t.replace(",ok,", ",fine,"), "verdict 'fine'"),
        (lambda t: t + t.splitlines()[1] + "\n", "stands for"),
        (lambda t: t.rstrip("\n") + ",\n", "number of cells"),
        (lambda t: t.replace(",2019-03-25,", ",,"), "line 2, column night: ''"),
        (lambda t: t.replace(",2019-03-25,", ",25.3.2019,"), "column night: .*YYYY-MM-DD"),
        (lambda t: t.replace(",2019-03-25,", ",2019-02-30,"), "column night"),
        (lambda t: t.replace(",30,", ",,"), "column exptime_s: None; expected the exposure"),
        (lambda t: t.replace(",30,", ",nan,"), "column exptime_s: 'nan' is not a number"),
        (lambda t: t.replace(",58567.5,", ",,"), "column mjd_start"),
        (lambda t: t.replace(",light,", ",lihgt,"), "column kind: 'lihgt'"),
        (lambda t: t.replace(",light,", ",,"), "column kind"),
        (lambda t: t.replace(",field,", ",,"), "column target: ''"),
        (lambda t: t.replace(",field,", ",../../x,"), "column target: '../../x'"),
        (lambda t: t.replace(",100,80,", ",0,80,"), "column nx: 0"),
        (lambda t: t.replace("x-", "../x-"), "column frame_id"),
    ],
)
def test_a_spoilt_sheet_is_told_by_line_and_column(change, said: str, tmp_path: Path) -> None:
    path = tmp_path / "frames.csv"
    write_sheet(path, [_row()])
    path.write_text(change(path.read_text()))
    with pytest.raises(ConfigError, match=said):
        read_sheet(path)


def test_a_rejected_row_needs_nothing(tmp_path: Path) -> None:
    row = empty_row(frame_id="x-00000000", path="x.fits", hdu=0, verdict="rejected")
    write_sheet(tmp_path / "s.csv", [row])
    assert read_sheet(tmp_path / "s.csv") == [row]


def test_a_bias_needs_no_exposure_and_a_sheet_of_it_can_be_planned(tmp_path: Path) -> None:
    rows = [_row(kind="bias", exptime_s=None, target="")]
    write_sheet(tmp_path / "s.csv", rows)
    assert read_sheet(tmp_path / "s.csv") == rows


def test_amplifiers_must_be_a_list_as_json(tmp_path: Path) -> None:
    for text in ("[", "{}", "[1]", "[" * 100_000):
        write_sheet(tmp_path / "s.csv", [_row(amplifiers=text)])
        with pytest.raises(ConfigError, match="column amplifiers"):
            read_sheet(tmp_path / "s.csv")


def test_text_in_a_number_names_the_column(tmp_path: Path) -> None:
    path = tmp_path / "frames.csv"
    write_sheet(path, [_row(exptime_s=12.5)])
    path.write_text(path.read_text().replace("12.5", "12,5x").replace(",5x", "x"))
    with pytest.raises(ConfigError, match="line 2, column exptime_s"):
        read_sheet(path)


def test_missing_sheet_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="skymill ingest"):
        read_sheet(tmp_path / "frames.csv")


def test_unknown_column_is_refused() -> None:
    with pytest.raises(KeyError, match="exposure"):
        empty_row(exposure=3)
    assert set(empty_row()) == set(COLUMNS)


def test_slugs_keep_plain_names_and_tell_lossy_ones_apart() -> None:
    assert slug("NGC 4147") == "NGC_4147"
    assert slug(" Blue ") == "Blue"
    assert slug("Pléiades") == "Pleiades"
    assert len({slug(t) for t in ("r", "r'", "r*", "R")}) == 4
    assert slug("C/2014 UN271").startswith("C_2014_UN271-")
    assert slug("..") != slug(".") and slug("").startswith("unnamed")
    assert len(slug("x" * 300)) <= 64
    assert slug("é") == slug("é")


def test_frame_ids_are_readable_and_unique() -> None:
    assert frame_id("night/d1001.fits.gz", 0).startswith("d1001-")
    names = {frame_id(p, h) for p in ("a/x.fits", "b/x.fits", "a/x.fits.gz") for h in (0, 1)}
    assert len(names) == 6
    parts = [{"channel": "G1"}, {"channel": "G2"}, {"plane": 0}, {"plane": 1}, {}]
    assert len({frame_id("x.fits", 0, **part) for part in parts}) == 5
    assert frame_id("x.fits", 0, channel="G1").startswith("x-G1-")
    assert frame_id("café.fits", 0) == frame_id("café.fits", 0)


@pytest.mark.parametrize("corners", ["10 5", "10 5;11 5;x 6", "-1 5;11 5;11 6", "10,5;11,5;11,6"])
def test_corners_that_are_no_positions_are_refused(tmp_path, corners):
    row = empty_row(
        frame_id="f-00000000", path="f.fits", hdu=0, verdict="ok", kind="light", instrument="cam",
        target="T", filter="R", exptime_s=60.0, mjd_start=60000.0, night="2023-02-24", nx=8, ny=8,
    )  # fmt: skip
    good = row | {"corners": "10.5 -5;11.5 -5;11.5 6;10.5 6"}
    write_sheet(tmp_path / "frames.csv", [good])
    assert read_sheet(tmp_path / "frames.csv")[0]["corners"] == good["corners"]
    write_sheet(tmp_path / "frames.csv", [row | {"corners": corners}])
    with pytest.raises(ConfigError, match="corners"):
        read_sheet(tmp_path / "frames.csv")
