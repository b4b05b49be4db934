"""Hazards of words: how programs and observatories spell kinds, exposures, filters, places."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from skymill.instruments import load_instrument

KINDS = [
    ("H115", {"IMAGETYP": "Light Frame"}, "light"),
    ("H115", {"IMAGETYP": "Bias Frame", "EXPTIME": 0.0}, "bias"),
    ("H115", {"IMAGETYP": "Dark Frame"}, "dark"),
    ("H115", {"IMAGETYP": "Flat Field"}, "flat"),
    ("H115", {"IMAGETYP": "Tricolor Image"}, "light"),
    ("H116", {"IMAGETYP": "LIGHT"}, "light"),
    ("H116", {"IMAGETYP": "BIAS", "EXPTIME": 0.0}, "bias"),
    ("H116", {"IMAGETYP": "DARK"}, "dark"),
    ("H116", {"IMAGETYP": "FLAT"}, "flat"),
    ("H116", {"IMAGETYP": "DARKFLAT"}, "flat_dark"),
    ("H116", {"IMAGETYP": "FLATDARK"}, "flat_dark"),
    ("H116", {"IMAGETYP": None, "FRAME": "Dark"}, "dark"),
    ("H117", {"IMAGETYP": "object"}, "light"),
    ("H117", {"IMAGETYP": "zero", "EXPTIME": 0.0}, "bias"),
    ("H117", {"IMAGETYP": "dflat"}, "flat"),
    ("H117", {"IMAGETYP": "dome flat"}, "flat"),
    ("H117", {"IMAGETYP": "sky flat"}, "flat"),
    ("H117", {"IMAGETYP": None, "OBSTYPE": "object"}, "light"),
    ("H118", {"IMAGETYP": None, "HIERARCH ESO DPR TYPE": "OBJECT"}, "light"),
    ("H118", {"IMAGETYP": None, "HIERARCH ESO DPR TYPE": "FLAT,SKY"}, "flat"),
    ("H118", {"IMAGETYP": None, "HIERARCH ESO DPR TYPE": "FLAT,DOME"}, "flat"),
    ("H118", {"IMAGETYP": None, "HIERARCH ESO DPR TYPE": "BIAS", "EXPTIME": 0.0}, "bias"),
    ("H118", {"IMAGETYP": None, "HIERARCH ESO DPR TYPE": "STD"}, "light"),
    ("H119", {"IMAGETYP": None, "OBSTYPE": "EXPOSE"}, "light"),
    ("H119", {"IMAGETYP": None, "OBSTYPE": "STANDARD"}, "light"),
    ("H119", {"IMAGETYP": None, "OBSTYPE": "SKYFLAT"}, "flat"),
    ("H119", {"IMAGETYP": None, "OBSTYPE": "OBJECT"}, "light"),
]


def _ids(cases: list[Any]) -> list[str]:
    return [f"{case[0]}-{number}" for number, case in enumerate(cases)]


def _sound(row: dict[str, Any], *but: str) -> None:
    """The frame can be used; nothing but the codes given may be said of it."""
    told = f"{row['verdict']} {row['code']} | {row['message']}"
    assert set(str(row["code"]).split(";")) - {""} <= set(but), told
    assert row["verdict"] != "rejected", told


@pytest.mark.parametrize(("hazard", "cards", "kind"), KINDS, ids=_ids(KINDS))
def test_kind_is_understood_in_every_vocabulary(
    hazard: str, cards: dict[str, Any], kind: str, maker: Any, rows_of: Any
) -> None:
    maker.base(**cards)
    (row,) = rows_of(maker)
    _sound(row)
    assert row["kind"] == kind


@pytest.mark.parametrize("word", ["BPM", "EXPERIMENTAL", "comp", "focus"])
def test_h117_h119_other_kinds_are_no_science(word: str, maker: Any, rows_of: Any) -> None:
    maker.base(IMAGETYP=None, OBSTYPE=word)
    (row,) = rows_of(maker)
    assert (row["verdict"], row["code"]) == ("rejected", "NOT_SCIENCE")


def test_h120_bias_data_with_light_in_the_header_are_flagged(maker: Any, rows_of: Any) -> None:
    for number in range(3):
        maker.base(
            maker.pixels(300, 4),
            path=maker.folder / f"b{number}.fits",
            IMAGETYP="Bias Frame",
            EXPTIME=0.0,
        )
    maker.base(maker.pixels(300, 4), path=maker.folder / "light.fits", EXPTIME=0.001)
    codes = {row["path"]: row["code"] for row in rows_of(maker)}
    assert "KIND_SUSPECT" in codes["light.fits"].split(";")


def test_h123_folder_tells_the_kind_through_the_overrides(maker: Any, rows_of: Any) -> None:
    from skymill.ingest import Overrides
    from skymill.ingest.overrides import Entry

    maker.base(path=maker.folder / "flats" / "a.fits", IMAGETYP=None)
    rules = Overrides((Entry(files=("flats/*",), set={"kind": "flat"}),))
    (row,) = rows_of(maker, overrides=rules)
    _sound(row)
    assert row["kind"] == "flat"


EXPOSURES = ["EXPTIME", "EXPOSURE", "EXP", "EXP_TIME", "ITIME", "ELAPTIME", "DARKTIME"]


@pytest.mark.parametrize("keyword", EXPOSURES)
def test_h124_exposure_is_found_under_every_name(keyword: str, maker: Any, rows_of: Any) -> None:
    maker.base(**{"EXPTIME": None, keyword: 30.0})
    (row,) = rows_of(maker)
    _sound(row)
    assert row["exptime_s"] == 30.0


def test_h125_unit_of_the_exposure_belongs_to_the_instrument(
    maker: Any, rows_of: Any, tmp_path: Any
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "name: mine\n"
        "kinds: [{kind: light, when: {IMAGETYP: 'light*'}}]\n"
        "exposure: {keywords: [EXPTIME], unit: ms}\n"
    )
    maker.base(EXPTIME=30000.0)
    (row,) = rows_of(maker, instrument=str(mine))
    assert row["exptime_s"] == 30.0


FILTERS = [
    ("H127", {"FILTER": "r"}, "r"),
    ("H127", {"FILTER": "R"}, "R"),
    ("H127", {"FILTER": "r'"}, "rp"),
    ("H127", {"FILTER": "rp"}, "rp"),
    ("H127", {"FILTER": "Sloan r"}, "rp"),
    ("H127", {"FILTER": "SDSS-R"}, "rp"),
    ("H127", {"FILTER": "R_Bessell"}, "R"),
    ("H127", {"FILTER": "Lum"}, "L"),
    ("H127", {"FILTER": "CLEAR"}, "Clear"),
    ("H126", {"FILTER": None, "FILTNAM": "R"}, "R"),
    ("H126", {"FILTER": None, "FILTERID": "R"}, "R"),
    ("H126", {"FILTER": None, "INSFLNAM": "R"}, "R"),
    ("H126", {"FILTER": None, "FILTER1": "R"}, "R"),
]


@pytest.mark.parametrize(("hazard", "cards", "name"), FILTERS, ids=_ids(FILTERS))
def test_filter_is_found_and_its_case_is_kept(
    hazard: str, cards: dict[str, Any], name: str, maker: Any, rows_of: Any
) -> None:
    maker.base(**cards)
    (row,) = rows_of(maker)
    _sound(row)
    assert row["filter"] == name


def test_h126_clear_positions_of_a_second_wheel_are_passed_over(
    maker: Any, rows_of: Any, tmp_path: Any
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "name: mine\n"
        "kinds: [{kind: light, when: {IMAGETYP: 'light*'}}]\n"
        "filter: {keywords: [FILTER1, FILTER2], combine: true, clear: [clear, open]}\n"
    )
    maker.base(FILTER=None, FILTER1="CLEAR", FILTER2="r")
    (row,) = rows_of(maker, instrument=str(mine))
    assert row["filter"] == "r"


def test_h066_one_file_with_another_type_does_not_change_the_others(
    maker: Any, rows_of: Any
) -> None:
    for number, value in enumerate(["R", 3, "R"]):
        maker.base(
            maker.pixels(),
            path=maker.folder / f"{number}.fits",
            FILTER=value,
            DATE__OBS=f"2024-01-02T03:0{number}:05",
        )
    rows = rows_of(maker)
    assert [row["filter"] for row in rows] == ["R", "3", "R"]
    assert [row["code"] for row in rows] == ["", "FILTER_INDEX", ""]


def test_h130_gain_of_a_read_out_mode_comes_from_the_instrument(
    maker: Any, rows_of: Any, tmp_path: Any
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "name: mine\n"
        "kinds: [{kind: light, when: {IMAGETYP: 'light*'}}]\n"
        "mode: [{keywords: [READOUTM]}]\n"
        "gain: {by_mode: {fast: 1.8, slow: 1.1}, unit: electron/adu}\n"
    )
    for number, mode in enumerate(["Fast", "Slow"]):
        maker.base(
            maker.pixels(),
            path=maker.folder / f"{number}.fits",
            READOUTM=mode,
            GAIN=None,
            DATE__OBS=f"2024-01-02T03:0{number}:05",
        )
    assert [row["gain_e_adu"] for row in rows_of(maker, instrument=str(mine))] == [1.8, 1.1]


@pytest.mark.parametrize(
    ("keyword", "value"), [("OFFSET", 30), ("BLKLEVEL", 10), ("PEDESTAL", -100)]
)
def test_h131_added_levels_keep_frames_apart(
    keyword: str, value: int, maker: Any, rows_of: Any
) -> None:
    """A pedestal is a property of the group: only frames with the same one calibrate each other."""
    maker.base(**{keyword: value})
    (row,) = rows_of(maker)
    _sound(row)
    assert row["offset_setting"] == value


@pytest.mark.parametrize("keyword", ["READMODE", "READOUTM", "SPEED"])
def test_h132_read_out_mode_is_part_of_the_key(keyword: str, maker: Any, rows_of: Any) -> None:
    maker.base(**{keyword: "1 MHz"})
    (row,) = rows_of(maker)
    assert row["mode"] == "1_MHz"


TEMPERATURES = [
    ({"CCD-TEMP": -9.7, "SET-TEMP": -10}, -10.0),
    ({"CCD-TEMP": "-9.7"}, -9.7),
    ({"CCD-TEMP": 263.15}, -10.0),
]


@pytest.mark.parametrize(("cards", "celsius"), TEMPERATURES)
def test_h133_temperatures_group_by_the_set_point(
    cards: dict[str, Any], celsius: float, maker: Any, rows_of: Any
) -> None:
    maker.base(**cards)
    (row,) = rows_of(maker)
    _sound(row)
    assert row["temperature_c"] == pytest.approx(celsius)


BINNINGS = [
    {"XBINNING": 2, "YBINNING": 2},
    {"CCDSUM": "2 2"},
    {"BINNING": "2x2"},
    {"XBIN": 2, "YBIN": 2},
]


@pytest.mark.parametrize("cards", BINNINGS)
def test_h134_binning_is_read_in_every_form(
    cards: dict[str, Any], maker: Any, rows_of: Any
) -> None:
    maker.base(**cards)
    (row,) = rows_of(maker)
    _sound(row)
    assert row["binning"] == "2x2"


def test_h139_spellings_of_a_target_are_joined_by_the_alias_table(
    maker: Any, rows_of: Any, tmp_path: Any
) -> None:
    for number, name in enumerate(["M31", "M 31", ""]):
        maker.base(
            maker.pixels(),
            path=maker.folder / f"{number}.fits",
            OBJECT=name,
            DATE__OBS=f"2024-01-02T03:0{number}:05",
        )
    assert [row["target"] for row in rows_of(maker)] == ["M31", "M_31", "unnamed"]
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "name: mine\n"
        "kinds: [{kind: light, when: {IMAGETYP: 'light*'}}]\n"
        "object: {keywords: [OBJECT], aliases: {M 31: M31}}\n"
    )
    rows = rows_of(maker, instrument=str(mine))
    assert [row["target"] for row in rows] == ["M31", "M31", "unnamed"]


def test_h140_unknown_camera_is_read_by_common_keywords(maker: Any, rows_of: Any) -> None:
    maker.base(INSTRUME="never seen")
    (row,) = rows_of(maker)
    assert (row["instrument"], row["detector"]) == ("generic", "never_seen")


PLACES = [
    ({"OBJCTRA": "10 00 00", "OBJCTDEC": "+02 00 00"}, 150.0, 2.0),
    ({"RA": "10:00:00", "DEC": "-02:30:00"}, 150.0, -2.5),
    ({"RA": 150.0, "DEC": 2.0}, 150.0, 2.0),
    ({"RA": "150.0", "DEC": "2.0"}, 150.0, 2.0),
]


@pytest.mark.parametrize(("cards", "ra", "dec"), PLACES)
def test_h141_pointing_is_read_by_form(
    cards: dict[str, Any], ra: float, dec: float, maker: Any, rows_of: Any
) -> None:
    maker.base(**cards)
    (row,) = rows_of(maker)
    assert (row["ra_deg"], row["dec_deg"]) == (pytest.approx(ra), pytest.approx(dec))


@pytest.mark.parametrize(("text", "east"), [("115 W", -115.0), ("-115:00:00", -115.0)])
def test_h084_side_of_the_longitude_is_understood(
    text: str, east: float, maker: Any, rows_of: Any
) -> None:
    maker.base(SITELONG=text)
    (row,) = rows_of(maker)
    assert float(str(row["site"]).split(";")[0]) == east


@pytest.mark.parametrize(("refers_to", "shift"), [("start", 0.0), ("mid", -15.0), ("end", -30.0)])
def test_h078_time_convention_is_that_of_the_instrument(
    refers_to: str, shift: float, maker: Any, rows_of: Any, tmp_path: Any
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "name: mine\n"
        "kinds: [{kind: light, when: {IMAGETYP: 'light*'}}]\n"
        f"time: {{date: [DATE-OBS], refers_to: {refers_to}}}\n"
    )
    maker.base()
    (row,) = rows_of(maker, instrument=str(mine))
    start = 60311 + (3 * 3600 + 4 * 60 + 5 + shift) / 86400
    assert row["mjd_start"] == pytest.approx(start, abs=1e-9)
    assert row["mjd_mid"] - row["mjd_start"] == pytest.approx(15 / 86400, abs=1e-9)


def test_h077_local_time_is_moved_by_the_offset_of_the_instrument(
    maker: Any, rows_of: Any, tmp_path: Any
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "name: mine\n"
        "kinds: [{kind: light, when: {IMAGETYP: 'light*'}}]\n"
        "time: {date: [DATE-OBS], utc_offset_h: -7}\n"
    )
    maker.base(DATE__OBS="2024-01-01T20:04:05")
    (row,) = rows_of(maker, instrument=str(mine))
    assert row["date_start"] == "2024-01-02T03:04:05.000"


def test_h081_dynamical_time_becomes_utc(maker: Any, rows_of: Any) -> None:
    maker.base(TIMESYS="TDB")
    (row,) = rows_of(maker)
    assert row["date_start"] == "2024-01-02T03:02:55.816"  # TDB - UTC = 69.184 s in 2024


def test_h083_equal_times_stay_two_frames_with_hashes_of_their_own(
    maker: Any, rows_of: Any
) -> None:
    for name in ("one", "two"):
        maker.base(maker.pixels(), path=maker.folder / name / "x.fits")
    one, two = rows_of(maker)
    assert one["frame_id"] != two["frame_id"]
    assert one["sha256"] != two["sha256"]
    assert (one["code"], two["code"]) == ("", "DUPLICATE_TIME")


def test_h135_sub_frame_is_told_from_a_full_frame(maker: Any, rows_of: Any) -> None:
    maker.base(path=maker.folder / "full.fits")
    maker.base(
        maker.pixels(shape=(50, 50)),
        path=maker.folder / "part.fits",
        XORGSUBF=10,
        YORGSUBF=20,
        DATE__OBS="2024-01-02T03:09:05",
    )
    full, part = rows_of(maker)
    assert (full["mode"], part["mode"]) != ("", "") or full["area"] != part["area"]
    _sound(part)
    assert (part["nx"], part["ny"]) == (50, 50)


def test_h059_long_keywords_are_read_and_never_written(maker: Any) -> None:
    from skymill.headers import clean_header
    from skymill.io_raw import read_raw

    maker.base(**{"HIERARCH ESO DET NAME": "ccd one"})
    _, header = read_raw(maker.path, 0)
    kept = clean_header(header)
    assert all(re.fullmatch(r"[A-Z0-9_-]{1,8}", key) for key in kept)


def test_h032_h033_lossy_pixels_name_their_method_and_writer(maker: Any, rows_of: Any) -> None:
    image = fits.CompImageHDU(
        maker.pixels().astype(np.float32),
        maker.header(CREATOR="cfitsio 3.1"),
        compression_type="RICE_1",
        quantize_level=4,
    )
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(maker.path)
    (row,) = rows_of(maker)
    assert row["code"] == "QUANTISED"
    assert "cfitsio 3.1" in row["message"]
    assert "DITHER" in row["message"]


def test_generic_instrument_is_what_these_tests_are_about() -> None:
    assert load_instrument("generic").name == "generic"
