"""Values, times, kinds, overrides and the way from a tree to rows."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from astropy.io import fits

from skymill.cards import Card, RawHeader
from skymill.errors import ConfigError
from skymill.ingest import Overrides, ingest, read_overrides, summary
from skymill.ingest.classify import kind_of
from skymill.ingest.overrides import matches
from skymill.ingest.pixels import pixel_facts
from skymill.ingest.times import (
    BadTimeError,
    iso_utc,
    night_of,
    parse_date,
    sun_altitude_deg,
)
from skymill.ingest.values import CardReader, Notes, clean_text, parse_angle, parse_number
from skymill.instruments import NumberRule, TextRule, load_instrument
from skymill.sheet import read_sheet, write_sheet

if TYPE_CHECKING:
    from collections.abc import Callable


def _header(**cards: Any) -> RawHeader:
    return RawHeader([Card(key.replace("__", "-"), value) for key, value in cards.items()])


def _write(path: Path, seed: int = 1, **cards: Any) -> Path:
    header = fits.Header()
    base = {
        "IMAGETYP": "Light Frame", "INSTRUME": "cam", "OBJECT": "field", "FILTER": "R",
        "EXPTIME": 30.0,
        "DATE-OBS": f"2024-01-02T03:{seed:02d}:05", "GAIN": 1.5, "RDNOISE": 5.0, "SATURATE": 60000,
        "SITELAT": 30.0, "SITELONG": -110.0, "SITEELEV": 2000.0,
    }  # fmt: skip
    for key, value in {**base, **{k.replace("__", "-"): v for k, v in cards.items()}}.items():
        if value is not None:
            header[key] = value
    data = np.random.default_rng(seed).normal(1000, 10, (64, 64)).round().astype(np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(data, header).writeto(path, overwrite=True)
    return path


# --- values -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (30, "s", (30.0, "")),
        ("30.0", "s", (30.0, "STRING_NUMBER")),
        ("30s", "s", (30.0, "STRING_NUMBER")),
        ("30 ms", "s", (0.03, "STRING_NUMBER")),
        (30000, "ms", (30.0, "")),
        (2.5e6, "us", (2.5, "")),
        ("30,5 s", "s", (30.5, "DECIMAL_COMMA")),
        (263.15, "K", (-10.0, "")),
        ("-10 C", "C", (-10.0, "STRING_NUMBER")),
        (True, "s", (None, "")),
        ("30 parsec", "s", (None, "")),
        (-999, "", (None, "")),
        ("", "", (None, "")),
        (None, "", (None, "")),
        ("1,234,5", "", (None, "")),
    ],
)
def test_numbers(value: Any, unit: str, expected: tuple[float | None, str]) -> None:
    number, code, _ = parse_number(value, unit)
    assert (None if number is None else round(number, 9), code) == expected


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        ("10:00:00", "auto", 150.0),
        ("10 00 00.0", "auto", 150.0),
        ("10h00m00s", "auto", 150.0),
        (10.0, "auto", 10.0),
        (10.0, "hourangle", 150.0),
        ("149.5", "auto", 149.5),
        ("-00:30:00", "deg", -0.5),
        ("+34d12m00s", "deg", 34.2),
        ("-8:49:28.5", "deg", -8.824583333),
        ("115 W", "deg", -115.0),
        ("115 30 00 W", "deg", -115.5),
        ("115:30 E", "deg", 115.5),
        ("10:61:00", "deg", None),
        ("east", "deg", None),
        (None, "deg", None),
    ],
)
def test_angles(value: Any, unit: str, expected: float | None) -> None:
    angle = parse_angle(value, unit)
    assert angle == (None if expected is None else pytest.approx(expected, abs=1e-8))


def test_texts_lose_what_cannot_be_seen() -> None:
    assert clean_text(' "M  31"\t') == "M 31"
    assert clean_text("a\u202eb\u200b") == "ab"
    assert clean_text("N/A", {"n/a"}) == ""
    assert clean_text(3) == "3"


def test_two_filter_wheels_are_combined_without_clear_positions() -> None:
    rule = TextRule(keywords=["FILTER1", "FILTER2"], combine=True, aliases={"r": "rp"})
    for cards, name in (
        ({"FILTER1": "CLEAR", "FILTER2": "r"}, "rp"),
        ({"FILTER1": "Ha", "FILTER2": "ND4"}, "Ha+ND4"),
        ({"FILTER1": "open", "FILTER2": "clear"}, ""),
    ):
        assert CardReader(_header(**cards), (), Notes()).text(rule) == name


def test_first_keyword_counts_and_fallbacks_are_never_compared() -> None:
    rule = NumberRule(keywords=["EXPTIME", "EXPOSURE"], fallback=["DARKTIME"], unit="s")
    notes = Notes()
    reader = CardReader(_header(EXPTIME=30.0, EXPOSURE=30.1, DARKTIME=33.0), (), notes)
    assert reader.number(rule, "exposure", compare=True) == (30.0, "EXPTIME")
    assert notes.flags == []
    assert CardReader(_header(DARKTIME=33.0), (), notes).number(rule, "exposure")[0] == 33.0


# --- times ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2024-01-02T03:04:05.678", "2024-01-02T03:04:05.678"),
        ("2024-01-02 03:04:05Z", "2024-01-02T03:04:05.000"),
        ("2024-1-2T3:4", "2024-01-02T03:04:00.000"),
        ("2024-01-02T03:04:05+02:00", "2024-01-02T01:04:05.000"),
        ("2024-01-01T23:30:00-02:00", "2024-01-02T01:30:00.000"),
        ("20240102T030405.5", "2024-01-02T03:04:05.500"),
        ("31/12/99 23:59:59", "1999-12-31T23:59:59.000"),
        ("2024-01-02T23:59:59.9999", "2024-01-03T00:00:00.000"),
        ("2024-01-02T23:59:60", "2024-01-03T00:00:00.000"),
        ("2024-02-29T00:00:00", "2024-02-29T00:00:00.000"),
    ],
)
def test_dates(text: str, iso: str) -> None:
    assert iso_utc(parse_date(text)) == iso


@pytest.mark.parametrize(
    "text",
    ["", "noon", "2023-02-29T00:00:00", "2024-13-01", "2024-01-02T25:00:00", "2024-01-02T03:60:00",
     "2024-01-02T03:04:61", "01/02/2024", "2024-01-02T03", "2024-01-02T3h"],
)  # fmt: skip
def test_impossible_dates_are_refused(text: str) -> None:
    with pytest.raises(BadTimeError):
        parse_date(text)


def test_mjd_is_that_of_astropy() -> None:
    from astropy.time import Time

    for text in ("1975-11-17T00:00:00", "2000-01-01T12:00:00", "2019-03-26T02:27:31.13"):
        # 1e-10 d is 9 microseconds, the step of a float64 near 60 000 is 0.6.
        assert parse_date(text).mjd == pytest.approx(Time(text, scale="utc").mjd, abs=1e-10)


def test_night_runs_from_local_noon_to_local_noon() -> None:
    def mjd(text: str) -> float:
        return parse_date(text).mjd

    assert night_of(mjd("2024-01-02T23:50:00"), -70.0, None) == "2024-01-02"
    assert night_of(mjd("2024-01-03T00:10:00"), -70.0, None) == "2024-01-02"
    assert night_of(mjd("2024-01-03T16:39:00"), -70.0, None) == "2024-01-02"
    assert night_of(mjd("2024-01-03T16:41:00"), -70.0, None) == "2024-01-03"
    assert night_of(mjd("2024-01-03T12:00:00"), 149.0, None) == "2024-01-03"
    assert night_of(mjd("2024-01-03T11:59:00"), None, None) == "2024-01-02"
    assert night_of(mjd("2024-01-03T02:30:00"), None, 10.0) == "2024-01-03"


def test_sun_stands_where_astropy_puts_it() -> None:
    from astropy import units as u
    from astropy.coordinates import AltAz, EarthLocation, get_sun
    from astropy.time import Time

    from skymill.offline import no_downloads

    no_downloads()
    place = EarthLocation.from_geodetic(-70.7 * u.deg, -30.2 * u.deg)
    for text in ("2024-01-02T04:00:00", "2024-06-20T15:00:00", "2019-09-23T23:00:00"):
        time = Time(text, scale="utc")
        there = get_sun(time).transform_to(AltAz(obstime=time, location=place)).alt.deg
        assert sun_altitude_deg(time.mjd, -70.7, -30.2) == pytest.approx(there, abs=0.1)


@pytest.mark.parametrize(("convention", "shift"), [("start", 0.0), ("mid", 15.0), ("end", 30.0)])
def test_time_convention_moves_the_start(convention: str, shift: float, tmp_path: Path) -> None:
    text = "name: mine\ntime: {date: [DATE-OBS], refers_to: " + convention + "}\nkinds: "
    (tmp_path / "mine.yaml").write_text(text + "[{kind: light, when: {IMAGETYP: light*}}]\n")
    _write(tmp_path / "raw" / "x.fits")
    (row,) = ingest(tmp_path / "raw", instrument=str(tmp_path / "mine.yaml")).rows
    stamp = parse_date("2024-01-02T03:01:05").mjd
    assert (stamp - row["mjd_start"]) * 86400 == pytest.approx(shift, abs=1e-4)
    assert (row["mjd_mid"] - row["mjd_start"]) * 86400 == pytest.approx(15.0, abs=1e-4)


def test_tdb_and_local_times_become_utc(tmp_path: Path) -> None:
    _write(tmp_path / "a.fits", TIMESYS="TDB")
    (row,) = ingest(tmp_path).rows
    # TDB - UTC was 69.184 s in 2024 (37 leap seconds + 32.184 s; periodic terms below 2 ms).
    assert (parse_date("2024-01-02T03:01:05").mjd - row["mjd_start"]) * 86400 == pytest.approx(
        69.184, abs=3e-3
    )


# --- kinds ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cards", "kind"),
    [
        ({"IMAGETYP": "Light Frame"}, "light"),
        ({"IMAGETYP": "LIGHT"}, "light"),
        ({"IMAGETYP": "object"}, "light"),
        ({"OBSTYPE": "EXPOSE"}, "light"),
        ({"OBSTYPE": "STANDARD"}, "light"),
        ({"FRAME": "Light"}, "light"),
        ({"IMAGETYP": "Bias Frame"}, "bias"),
        ({"IMAGETYP": "zero"}, "bias"),
        ({"IMAGETYP": "Dark Frame"}, "dark"),
        ({"IMAGETYP": "Flat Field"}, "flat"),
        ({"IMAGETYP": "FLAT"}, "flat"),
        ({"OBSTYPE": "SKYFLAT"}, "flat"),
        ({"OBSTYPE": "dome flat"}, "flat"),
        ({"IMAGETYP": "DARKFLAT"}, "flat_dark"),
        ({"IMAGETYP": "FLATDARK"}, "flat_dark"),
        ({"ESO DPR TYPE": "FLAT,SKY"}, "flat"),
        ({"ESO DPR TYPE": "STD"}, "light"),
        ({"ESO DPR TYPE": "BIAS"}, "bias"),
        ({"OBJECT": "zero"}, "bias"),
    ],
)
def test_every_vocabulary_is_understood(cards: dict[str, str], kind: str) -> None:
    header = RawHeader([Card(key, value) for key, value in cards.items()])
    notes = Notes()
    assert kind_of("x.fits", header, load_instrument("generic"), notes) == kind
    assert not notes.rejections


def test_nickel_tells_bias_and_flats_from_two_cards() -> None:
    nickel = load_instrument("nickel")
    for cards, kind in (
        ({"OBSTYPE": "DARK", "EXPTIME": 0, "OBJECT": "bias"}, "bias"),
        ({"OBSTYPE": "DARK", "EXPTIME": 300, "OBJECT": "dark"}, "dark"),
        ({"OBSTYPE": "OBJECT", "EXPTIME": 4, "OBJECT": "sky flat"}, "flat"),
        ({"OBSTYPE": "OBJECT", "EXPTIME": 60, "OBJECT": "NGC_4147"}, "light"),
    ):
        assert kind_of("x.fits", _header(**cards), nickel, Notes()) == kind


def test_settings_of_camera_programs_are_no_gain(tmp_path: Path) -> None:
    """E48."""
    _write(tmp_path / "a.fits", 1, GAIN=26, SWCREATE="N.I.N.A. 3.1")
    _write(tmp_path / "b.fits", 2, GAIN=100, EGAIN=0.8)
    _write(tmp_path / "c.fits", 3, GAIN=1.5)
    a, b, c = ingest(tmp_path, instrument="generic").rows
    assert (a["gain_e_adu"], a["gain_setting"], a["code"]) == (None, 26.0, "NO_GAIN")
    assert (b["gain_e_adu"], b["gain_setting"]) == (0.8, 100.0)
    assert (c["gain_e_adu"], c["gain_setting"]) == (1.5, None)


def test_set_point_groups_and_kelvin_is_converted(tmp_path: Path) -> None:
    _write(tmp_path / "a.fits", 1, **{"CCD-TEMP": -9.7, "SET-TEMP": -10})
    _write(tmp_path / "b.fits", 2, **{"CCD-TEMP": 263.15})
    a, b = ingest(tmp_path).rows
    assert (a["temperature_c"], b["temperature_c"]) == (-10.0, -10.0)


@pytest.mark.parametrize(
    ("cards", "binning"),
    [({"CCDSUM": "2 2"}, "2x2"), ({"XBINNING": 3, "YBINNING": 1}, "3x1"),
     ({"BINNING": "2x2"}, "2x2"), ({"BINNING": 4}, "4x4"), ({}, "1x1")],
)  # fmt: skip
def test_binning_in_every_form(cards: dict[str, Any], binning: str, tmp_path: Path) -> None:
    _write(tmp_path / "a.fits", **cards)
    assert ingest(tmp_path).rows[0]["binning"] == binning


def test_bare_hours_are_recognised_by_the_world_coordinates(tmp_path: Path) -> None:
    wcs = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 32.0,
        "CRPIX2": 32.0, "CDELT1": -3e-4, "CDELT2": 3e-4,
    }  # fmt: skip
    _write(tmp_path / "a.fits", RA=10.0, DEC=2.0, **wcs)
    (row,) = ingest(tmp_path).rows
    assert (row["ra_deg"], row["wcs"], row["verdict"]) == (150.0, "ok", "ok")
    assert row["fixes"].startswith("UNIT")


def test_missing_airmass_is_computed_at_mid_exposure(tmp_path: Path) -> None:
    from skymill.times import Site, airmass

    _write(tmp_path / "a.fits", RA="05:00:00", DEC="+20:00:00")
    (row,) = ingest(tmp_path).rows
    there = float(airmass(row["mjd_mid"], 75.0, 20.0, Site(-110.0, 30.0, 2000.0)))
    assert row["airmass"] == pytest.approx(there, abs=1e-5)


def test_each_image_of_a_mosaic_is_a_frame_if_the_instrument_says_so(tmp_path: Path) -> None:
    """O2."""
    text = "name: mosaic\nhdu: each\ndetector: {keywords: [INSTRUME]}\nkinds: "
    (tmp_path / "mosaic.yaml").write_text(text + "[{kind: light, when: {IMAGETYP: light*}}]\n")
    raw = tmp_path / "raw"
    _write(raw / "x.fits")
    with fits.open(raw / "x.fits") as hdus:
        header = hdus[0].header
        images = [
            fits.ImageHDU(
                np.random.default_rng(i).integers(900, 1100, (64, 64), np.uint16), name=f"CCD{i}"
            )
            for i in (1, 2)
        ]
    fits.HDUList([fits.PrimaryHDU(header=header), *images]).writeto(raw / "x.fits", overwrite=True)
    rows = ingest(raw, instrument=str(tmp_path / "mosaic.yaml")).rows
    assert [(r["hdu"], r["detector"], r["kind"]) for r in rows] == [
        (1, "cam_CCD1", "light"),
        (2, "cam_CCD2", "light"),
    ]
    assert len({r["frame_id"] for r in rows}) == 2


# --- overrides --------------------------------------------------------------------


def _overrides(tmp_path: Path, text: str) -> Overrides:
    path = tmp_path / "overrides.yaml"
    path.write_text(text)
    return read_overrides(path)


def test_overrides_act_in_order_on_header_and_columns(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for number, name in enumerate(
        ("bias1.fits", "std_b1.fits", "std_b2.fits", "sub/decoy.fits"), 1
    ):
        _write(raw / name, number, IMAGETYP=None, OBJECT=None, EXPTIME=0.5)
    overrides = _overrides(
        tmp_path,
        """
- files: "bias*.fit*"
  set: {kind: bias, filter: ""}
- files: ["std_b*"]
  set: {kind: light, object: "standard stars", header: {EXPTIME: 20.0, FILTER: B}}
- files: std_b2.fits
  set: {filter: Blue, gain_e_adu: 2, night: "2024-01-09"}
- files: sub/*
  exclude: "decoy flat in V"
""",
    )
    rows = {row["path"]: row for row in ingest(raw, overrides=overrides).rows}
    assert (rows["bias1.fits"]["kind"], rows["bias1.fits"]["filter"]) == ("bias", "")
    one, two = rows["std_b1.fits"], rows["std_b2.fits"]
    assert (one["target"], one["filter"], one["exptime_s"]) == ("standard_stars", "B", 20.0)
    assert (two["filter"], two["gain_e_adu"], two["night"]) == ("Blue", 2.0, "2024-01-09")
    decoy = rows["sub/decoy.fits"]
    assert (decoy["verdict"], decoy["code"]) == ("rejected", "EXCLUDED")
    assert "decoy flat in V" in decoy["message"]


def test_columns_set_by_hand_are_not_missed_in_the_header(tmp_path: Path) -> None:
    _write(tmp_path / "raw" / "x.fits", EXPTIME=None, FILTER=None, GAIN=None, DATE__OBS=None)
    overrides = _overrides(
        tmp_path,
        """
- files: "*"
  set: {exptime_s: 5, filter: r, gain_e_adu: 1.1, date_start: "2024-01-02T05:00:00"}
""",
    )
    (row,) = ingest(tmp_path / "raw", overrides=overrides).rows
    assert (row["verdict"], row["code"]) == ("ok", "")
    assert (row["exptime_s"], row["night"]) == (5.0, "2024-01-01")


def test_an_override_that_matches_nothing_is_an_error_by_name(tmp_path: Path) -> None:
    _write(tmp_path / "raw" / "x.fits")
    overrides = _overrides(tmp_path, "- {files: 'bais*', set: {kind: bias}}\n")
    with pytest.raises(ConfigError, match="OVERRIDE_UNUSED: 'bais\\*'"):
        ingest(tmp_path / "raw", overrides=overrides)
    found = ingest(tmp_path / "raw", overrides=overrides, unused_overrides="warn")
    assert found.unmatched_overrides == ["bais*"]
    assert "bais*" in summary(found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {files: x, set: {knid: bias}}", "entry 1: set: .*knid is not a column"),
        ("- {files: x, set: {sha256: abc}}", "sha256 cannot be set by hand"),
        ("- {files: x, set: {kind: lamp}}", "kind must be one of"),
        ("- {files: x, set: {exptime_s: '5s'}}", "exptime_s must be a number"),
        ("- {files: x, set: {filter: no}}", "put it in quotes"),
        ("- {files: x, set: {header: {EXPTIME: [1]}}}", "EXPTIME must be a text"),
        ("- {files: x, set: {date_start: '2024-01-02'}}", "the time is missing"),
        ("- {files: x}", "neither `set` nor `exclude`"),
        ("- {file: x, exclude: bad}", "entry 1"),
        ("files: x", "expected a list"),
        ("- [", "not valid YAML"),
    ],
)
def test_wrong_overrides_are_told(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        _overrides(tmp_path, text)


def test_no_overrides_are_no_error(tmp_path: Path) -> None:
    assert read_overrides(tmp_path / "nothing.yaml").entries == ()
    assert _overrides(tmp_path, "[]\n").entries == ()
    assert _overrides(tmp_path, "# only a comment\n").entries == ()


def test_patterns_hold_for_names_or_for_paths() -> None:
    assert matches("d*.fits", "night/d1.fits")
    assert matches("night/*", "night/d1.fits")
    assert not matches("d1*", "d1/x.fits")
    assert matches("**/m67_*.fits", "m67_1.fits") and matches("**/m67_*.fits", "a/b/m67_1.fits")


# --- the whole --------------------------------------------------------------------


def test_only_new_and_changed_files_are_read_again(tmp_path: Path) -> None:
    raw, cache = tmp_path / "raw", tmp_path / ".skymill" / "ingest.json"
    for number in (1, 2, 3):
        _write(raw / f"{number}.fits", number)
    first = ingest(raw, cache=cache)
    again = ingest(raw, cache=cache, previous=first.rows)
    assert (first.n_read, again.n_read) == (3, 0)
    assert again.rows == first.rows
    _write(raw / "2.fits", 22, OBJECT="another")
    (raw / "3.fits").unlink()
    third = ingest(raw, cache=cache, previous=again.rows)
    assert third.n_read == 1
    assert third.gone == ["3.fits"]
    assert [row["target"] for row in third.rows] == ["field", "another"]
    overrides = _overrides(tmp_path, "- {files: 1.fits, set: {filter: B}}\n")
    fourth = ingest(raw, cache=cache, overrides=overrides)
    assert fourth.n_read == 1
    assert fourth.rows[0]["filter"] == "B"


def test_a_file_that_could_not_be_read_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skymill import io_raw

    path = _write(tmp_path / "raw" / "x.fits")
    cache = tmp_path / "ingest.json"
    real = Path.open

    def refuse(self: Path, *args: Any, **more: Any) -> Any:
        if self.name == "x.fits":
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(io_raw.Path, "open", refuse)
        assert ingest(tmp_path / "raw", cache=cache).rows[0]["code"] == "UNREADABLE"
    assert path.exists()
    assert ingest(tmp_path / "raw", cache=cache).rows[0]["code"] == ""


def test_a_spoilt_cache_is_ignored(tmp_path: Path) -> None:
    _write(tmp_path / "raw" / "x.fits")
    cache = tmp_path / "ingest.json"
    for text in (
        "{",
        "[]",
        '{"format": 99, "files": {}}',
        '{"format": 1, "files": {"x.fits": {}}}',
    ):
        cache.write_text(text)
        assert ingest(tmp_path / "raw", cache=cache).n_read == 1


def test_rows_do_not_depend_on_place_or_time_of_files(tmp_path: Path) -> None:
    import os
    import shutil

    _write(tmp_path / "one" / "n" / "x.fits")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    os.utime(tmp_path / "two" / "n" / "x.fits", (1e9, 1e9))
    assert ingest(tmp_path / "one").rows == ingest(tmp_path / "two").rows


def test_sheet_of_an_ingest_reads_back_as_it_was(tmp_path: Path) -> None:
    for number in (1, 2):
        _write(tmp_path / "raw" / f"{number}.fits", number)
    (tmp_path / "raw" / "bad.fits").write_text("<html>")
    rows = ingest(tmp_path / "raw").rows
    write_sheet(tmp_path / "frames.csv", rows)
    assert read_sheet(tmp_path / "frames.csv") == rows


def test_summary_counts_add_up_and_name_reasons(tmp_path: Path) -> None:
    _write(tmp_path / "a.fits", 1)
    _write(tmp_path / "b.fits", 2, EXPTIME="30s")
    _write(tmp_path / "c.fits", 3, FILTER=None)
    (tmp_path / "d.fits").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not an image")
    text = summary(ingest(tmp_path))
    assert "4 found = 1 accepted + 1 with fixes + 1 degraded + 1 rejected" in text
    assert "EMPTY" in text and "d.fits" in text and "MISSING_FILTER" in text
    assert "notes.txt" not in text
    assert "No file found" in summary(ingest(_empty(tmp_path)))


def _empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_missing_folder_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a folder"):
        ingest(tmp_path / "nowhere")


def test_nan_and_fixed_pixels_are_counted() -> None:
    data = np.random.default_rng(3).normal(100, 5, (64, 64)).astype(np.float32)
    data[0, :10] = np.nan
    data[1, 0] = np.inf
    before = data.copy()
    facts = pixel_facts(data, signed16=False)
    np.testing.assert_array_equal(data, before)
    assert facts["invalid"] == 11
    # Median and MAD of 4096 normal values: standard errors 0.1 and 0.09.
    assert facts["median"] == pytest.approx(100, abs=0.5)
    assert facts["scatter"] == pytest.approx(5, abs=0.4)


# --- real nights ------------------------------------------------------------------


def _count(rows: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        key = (row["kind"], row["filter"])
        counts[key] = counts.get(key, 0) + 1
    return counts


def test_real_nickel(shared_data: Callable[[str], Path]) -> None:
    rows = ingest(shared_data("nickel")).rows
    assert _count(rows) == {("bias", ""): 10, ("flat", "V"): 3, ("light", "V"): 6}
    assert {row["verdict"] for row in rows} == {"ok"}
    for row in rows:
        assert (row["instrument"], row["night"]) == ("nickel", "2024-05-12")
        assert (row["gain_e_adu"], row["read_noise_e"], row["gain_setting"]) == (1.8, 10.7, 1.0)
        assert (row["datasec"], row["biassec"]) == ("[1:1020,1:1024]", "[1040:1056,1:1024]")
        assert (row["binning"], row["dark"]) == ("2x2", "not_needed")
    light = next(row for row in rows if row["path"] == "d1047.fits.gz")
    assert light["date_start"] == "2024-05-13T04:32:47.120"
    assert light["airmass"] == pytest.approx(1.594, abs=1e-3)
    assert light["wcs"] == "ok"
    assert light["ra_deg"] == pytest.approx(201.415, abs=1e-3)


def test_real_lowell42(shared_data: Callable[[str], Path]) -> None:
    from skymill.headers import celestial_wcs
    from skymill.io_raw import read_raw
    from skymill.sections import parse_section

    folder = shared_data("lowell42")
    rows = ingest(folder).rows
    assert _count(rows) == {
        ("bias", ""): 10,
        ("flat", "V"): 1,
        ("flat", "VR"): 7,
        ("light", "VR"): 24,
    }
    assert {row["verdict"] for row in rows} == {"ok"}
    assert {row["night"] for row in rows} == {"2019-03-25"}
    for row in rows:
        if row["kind"] != "light":
            continue
        assert row["wcs"] == "ok"
        data, header = read_raw(folder / row["path"], 0, row["sha256"])
        # MIDTIMJD is a Julian date of mid-exposure, UTC: 1e-8 d is 1 ms.
        assert row["mjd_mid"] + 2400000.5 == pytest.approx(header["MIDTIMJD"], abs=1e-8)
    section = parse_section(rows[-1]["datasec"], data.shape)
    wcs, code, _ = celestial_wcs(
        header, shift_x=section.x0, shift_y=section.y0, shape=section.shape
    )
    assert set(code.split(";")) == {"PV_ON_TAN", "WCS_STRINGS"}
    assert wcs is not None and wcs.wcs.crpix[0] == pytest.approx(716 - 17)


def test_real_sbig_with_the_documented_overrides(
    shared_data: Callable[[str], Path], repository: Path, tmp_path: Path
) -> None:
    from skymill.headers import clean_header
    from skymill.io_raw import read_raw

    folder = shared_data("sbig")
    parts = (repository / "docs" / "instruments.md").read_text().split("```yaml\n")
    documented = next(part for part in parts if part.startswith('- files: "bias*'))
    overrides = _overrides(tmp_path, documented.split("```")[0])
    rows = ingest(folder, instrument="sbig_st7", overrides=overrides).rows
    assert _count(rows) == {
        ("bias", ""): 10,
        ("flat", "Blue"): 5,
        ("flat", "Green"): 6,
        ("flat", "Red"): 6,
        ("light", "Blue"): 19,
        ("light", "Green"): 20,
    }
    assert {row["night"] for row in rows} == {"2018-11-06"}
    assert {row["target"] for row in rows} == {"", "alpha_Ind", "standards"}
    for row in rows:
        assert (row["datasec"], row["biassec"]) == ("[1:767,1:511]", "[768:795,1:511]")
        assert (row["gain_e_adu"], row["read_noise_e"]) == (2.66, 20.0)
        assert "OBSERVER" in row["fixes"]
        assert row["code"] == ("NO_SITE" if row["kind"] == "light" else "")
    data, header = read_raw(folder / "b3.fit.gz", 0)
    assert data.dtype == np.uint16 and data.shape == (540, 795)
    clean = clean_header(header)
    assert clean["OBSERVER"] == "Observer's Name"
    assert "PEDESTAL" not in clean
    assert dt.datetime.fromisoformat(clean["DATE-OBS"]).year == 2018


def _mixed(raw: Path) -> None:
    for number in range(6):
        _write(raw / f"{number}.fits", number)
    (raw / "cut.fits").write_bytes((raw / "0.fits").read_bytes()[:4000])


def test_processes_find_what_one_finds(tmp_path: Path) -> None:
    _mixed(tmp_path / "raw")
    alone = ingest(tmp_path / "raw", workers=1)
    assert len(alone.rows) == 7
    assert ingest(tmp_path / "raw", workers=3) == alone


def test_few_files_or_huge_ones_are_read_by_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from skymill.ingest import workers

    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert workers._workers([10**7] * 99) == 1
    assert workers._workers([10**7] * 100) == 8
    assert workers._workers([10**7] * 99 + [15 * 10**7]) == 2
    assert workers._workers([10**7] * 99 + [10**9]) == 1
    assert workers._workers([0] * 100) == 8


def test_a_process_that_dies_loses_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures.process import BrokenProcessPool

    from skymill.ingest import workers

    class Dying(workers.ProcessPoolExecutor):
        def map(self, work: Any, entries: Any, **_: Any) -> Any:
            yield from map(work, entries[:3])
            raise BrokenProcessPool("killed")

    _mixed(tmp_path / "raw")
    alone = ingest(tmp_path / "raw", workers=1)
    monkeypatch.setattr(workers, "ProcessPoolExecutor", Dying)
    assert ingest(tmp_path / "raw", workers=3) == alone
