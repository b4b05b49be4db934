"""Headers as programs and observatories write them, through ingest to rows of the sheet.

One row per spelling of H115 to H134 and H139 to H142, and for each packaged instrument a
set of frames with the cards that its program really writes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from astropy.io import fits

from skymill.ingest import ingest
from skymill.instruments import find_instrument, instrument_names, load_instrument

if TYPE_CHECKING:
    from pathlib import Path

    from skymill.sheet import Row

LEVELS = {"bias": 1000, "dark": 1010, "flat_dark": 1003, "flat": 21000, "light": 1400}


def _pixels(seed: int, level: float, shape: tuple[int, int] = (64, 96)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(level, max(4.0, 0.7 * level**0.5), shape).round().astype(np.uint16)


def _header(cards: dict[str, Any]) -> fits.Header:
    header = fits.Header()
    for key, value in cards.items():
        if value is not None:
            header[f"HIERARCH {key}" if " " in key else key] = value
    return header


def _write(path: Path, cards: dict[str, Any], seed: int = 1, level: float = 1400) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(_pixels(seed, level), _header(cards)).writeto(path)


def _row(tmp_path: Path, cards: dict[str, Any], name: str = "a.fits", **options: Any) -> Row:
    """Return the row of one file with these cards."""
    _write(tmp_path / name, cards, level=options.pop("level", 1400))
    (row,) = ingest(tmp_path, **options).rows
    return row


GENERIC: dict[str, Any] = {
    "IMAGETYP": "Light Frame", "INSTRUME": "cam", "OBJECT": "field", "FILTER": "R", "EXPTIME": 30.0,
    "DATE-OBS": "2024-01-02T03:04:05", "GAIN": 1.5, "RDNOISE": 5.0, "SATURATE": 60000,
    "SITELAT": 30.0, "SITELONG": -110.0, "SITEELEV": 2000.0,
}  # fmt: skip


def _generic(**cards: Any) -> dict[str, Any]:
    return {**GENERIC, **{key.replace("__", "-"): value for key, value in cards.items()}}


# --- spellings that any camera may use ------------------------------------------------

KINDS = [
    *[("H115", "IMAGETYP", text, kind) for text, kind in [
        ("Light Frame", "light"), ("Bias Frame", "bias"), ("Dark Frame", "dark"),
        ("Flat Field", "flat"), ("Flat Frame", "flat"), ("Tricolor Image", "light"),
        ("LIGHT FRAME", "light")]],
    *[("H116", key, text, kind) for key in ("IMAGETYP", "FRAME") for text, kind in [
        ("LIGHT", "light"), ("BIAS", "bias"), ("DARK", "dark"), ("FLAT", "flat"),
        ("DARKFLAT", "flat_dark"), ("FLATDARK", "flat_dark"), ("Dark Flat", "flat_dark"),
        ("Light", "light")]],
    *[("H117", key, text, kind) for key in ("IMAGETYP", "OBSTYPE") for text, kind in [
        ("object", "light"), ("zero", "bias"), ("dark", "dark"), ("dflat", "flat"),
        ("dome flat", "flat"), ("sky flat", "flat"), ("twilight", "flat"), ("flat", "flat"),
        ("comp", "NOT_SCIENCE"), ("focus", "NOT_SCIENCE")]],
    *[("H118", "ESO DPR TYPE", text, kind) for text, kind in [
        ("OBJECT", "light"), ("FLAT,SKY", "flat"), ("FLAT,DOME", "flat"), ("FLAT,LAMP", "flat"),
        ("BIAS", "bias"), ("STD", "light"), ("DARK", "dark"), ("FOCUS", "NOT_SCIENCE")]],
    *[("H119", "OBSTYPE", text, kind) for text, kind in [
        ("EXPOSE", "light"), ("STANDARD", "light"), ("SKYFLAT", "flat"), ("BIAS", "bias"),
        ("DARK", "dark"), ("BPM", "NOT_SCIENCE"), ("EXPERIMENTAL", "NOT_SCIENCE"),
        ("LAMPFLAT ARC", "NOT_SCIENCE"), ("OBJECT", "light")]],
    *[("H121", "IMAGETYP", text, "IS_MASTER") for text in [
        "Master Bias", "masterDark", "MASTER FLAT", "Super Bias", "master_light"]],
]  # fmt: skip


@pytest.mark.parametrize(("row", "key", "text", "kind"), KINDS)
def test_h115_to_h121_kinds(tmp_path: Path, row: str, key: str, text: str, kind: str) -> None:
    seconds = {"bias": 0.0}.get(kind, 20.0)
    got = _row(tmp_path, {**_generic(IMAGETYP=None, EXPTIME=seconds), key: text})
    if kind.isupper():
        assert (got["verdict"], got["code"]) == ("rejected", kind), row
    else:
        assert (got["kind"], got["verdict"]) == (kind, "ok"), (row, got["message"])


def test_h119_gemini_names_the_kind_by_type_and_object(tmp_path: Path) -> None:
    cards = _generic(IMAGETYP=None, OBSTYPE="CAL", OBJECT="Twilight")
    assert _row(tmp_path, cards)["kind"] == "flat"


def test_h120_light_written_for_every_kind_is_told_by_the_pixels(tmp_path: Path) -> None:
    for n in range(5):
        name = f"b{n}.fits"
        cards = _generic(IMAGETYP="Bias Frame", EXPTIME=0.0, DATE__OBS=f"2024-01-02T03:0{n}:00")
        _write(tmp_path / name, cards, seed=n, level=1000)
    cards = _generic(EXPTIME=0.5, DATE__OBS="2024-01-02T03:30:00")
    _write(tmp_path / "light.fits", cards, seed=9, level=1000)
    rows = {row["path"]: row for row in ingest(tmp_path).rows}
    assert rows["light.fits"]["code"] == "KIND_SUSPECT"


@pytest.mark.parametrize(
    "cards",
    [{"CALSTAT": "BDF"}, {"CALSTAT": "D"}, {"BIASCOR": True}, {"FLATCOR": "done"},
     {"ZEROCOR": "May  5 zero"}, {"CCDPROC": "May  5 CCD processing"}, {"L1STATBI": 1},
     {"RLEVEL": 91}, {"FLATCORR": "COMPLETE"}],
)  # fmt: skip
def test_h122_marks_of_an_earlier_calibration(tmp_path: Path, cards: dict[str, Any]) -> None:
    assert _row(tmp_path, _generic(**cards))["code"] == "ALREADY_CALIBRATED"


def test_h122_a_program_that_only_touched_the_file_did_not_calibrate_it(tmp_path: Path) -> None:
    assert _row(tmp_path, _generic(SWMODIFY="PinPoint 5.1"))["verdict"] == "ok"


@pytest.mark.parametrize(
    "key",
    [
        "EXPTIME",
        "EXPOSURE",
        "EXP",
        "EXP_TIME",
        "EXP-TIME",
        "EXPOSED",
        "ITIME",
        "ELAPTIME",
        "DARKTIME",
    ],
)
def test_h124_names_of_the_exposure(tmp_path: Path, key: str) -> None:
    assert _row(tmp_path, {**_generic(EXPTIME=None), key: 42.5})["exptime_s"] == 42.5


def _profile(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\nkinds: [{{kind: light, when: {{IMAGETYP: 'Light*'}}}}]\n{text}")
    return str(path)


@pytest.mark.parametrize(
    ("unit", "value"), [("ms", 30000), ("us", 3e7), ("s", "30000 ms"), ("s", "30 s"), ("min", 0.5)]
)
def test_h125_units_of_the_exposure(tmp_path: Path, unit: str, value: Any) -> None:
    profile = _profile(tmp_path, f"exposure: {{keywords: [EXPTIME], unit: {unit}}}\n")
    got = _row(tmp_path / "raw", _generic(EXPTIME=value), instrument=profile)
    assert got["exptime_s"] == 30.0


@pytest.mark.parametrize("comment", ["exposure [ms]", "in us", "(millisec)"])
def test_h125_a_comment_that_contradicts_the_unit_is_flagged(tmp_path: Path, comment: str) -> None:
    assert _row(tmp_path, _generic(EXPTIME=(300, comment)))["code"] == "UNIT"


@pytest.mark.parametrize(
    "key",
    ["FILTER", "FILTNAM", "FILTNAME", "FILTERID", "FILTER1", "INSFLNAM", "ESO INS FILT1 NAME"],
)
def test_h126_names_of_the_filter(tmp_path: Path, key: str) -> None:
    assert _row(tmp_path, {**_generic(FILTER=None), key: "V"})["filter"] == "V"


@pytest.mark.parametrize(
    ("one", "two", "name"),
    [("CLEAR", "r", "r"), ("R", "open", "R"), ("R", None, "R"), (None, "B", "B"),
     ("clear", "Clear", "Clear"), ("V", "ND3", "")],
)  # fmt: skip
def test_h126_two_wheels_of_an_unknown_camera(
    tmp_path: Path, one: str | None, two: str | None, name: str
) -> None:
    got = _row(tmp_path, _generic(FILTER=None, FILTER1=one, FILTER2=two))
    assert got["filter"] == name
    # Two filters at once are not guessed.
    assert ("MISSING_FILTER" in str(got["code"])) == (name == "")


def test_h126_two_wheels_are_joined_by_a_profile(tmp_path: Path) -> None:
    rule = "filter: {keywords: [FILTER1, FILTER2], combine: true}\n"
    cards = _generic(FILTER=None, FILTER1="V", FILTER2="ND3")
    assert _row(tmp_path / "a", cards, instrument=_profile(tmp_path, rule))["filter"] == "V+ND3"
    cards = _generic(FILTER=None, FILTER1="CLEAR", FILTER2="r")
    assert _row(tmp_path / "b", cards, instrument=_profile(tmp_path, rule))["filter"] == "r"


@pytest.mark.parametrize(
    ("text", "name"),
    [("r", "r"), ("R", "R"), ("r'", "rp"), ("rp", "rp"), ("Sloan r", "rp"), ("Sloan r'", "rp"),
     ("SDSS-R", "rp"), ("SDSS r", "rp"), ("R_Bessell", "R"), ("Bessell R", "R"), ("Cousins R", "R"),
     ("Clear", "Clear"), ("CLEAR", "Clear"), ("L", "L"), ("Lum", "L"), ("Luminance", "L"),
     (" V ", "V"), ("H-alpha", "H-alpha")],
)  # fmt: skip
def test_h127_spellings_of_filters(tmp_path: Path, text: str, name: str) -> None:
    assert _row(tmp_path, _generic(FILTER=text))["filter"] == name


def test_h127_no_filter_is_a_group_of_its_own(tmp_path: Path) -> None:
    got = _row(tmp_path, _generic(FILTER="None"))
    assert (got["filter"], got["verdict"], got["code"]) == ("", "degraded", "MISSING_FILTER")


@pytest.mark.parametrize("value", [3, "3", 3.0])
def test_h128_a_wheel_index_is_no_name(tmp_path: Path, value: Any) -> None:
    assert _row(tmp_path, _generic(FILTER=value))["code"] == "FILTER_INDEX"


def test_h128_an_index_that_the_profile_names_is_good(tmp_path: Path) -> None:
    profile = _profile(tmp_path, 'filter: {keywords: [FILTER], aliases: {"3": V}}\n')
    got = _row(tmp_path / "raw", _generic(FILTER=3), instrument=profile)
    assert (got["filter"], "FILTER_INDEX" in str(got["code"])) == ("V", False)


@pytest.mark.parametrize(
    ("cards", "gain", "setting", "code"),
    [
        ({"GAIN": 1.5}, 1.5, None, ""),
        ({"GAIN": 120, "EGAIN": 0.8}, 0.8, 120, ""),
        ({"GAIN": 120}, None, 120, "GAIN_SUSPECT"),
        ({"GAIN": 0, "EGAIN": 3.6}, 3.6, 0, ""),
        (
            {"GAIN": 120, "SWCREATE": "Astro Photography Tool - APT v.3.5", "EGAIN": 1.0},
            1.0,
            120,
            "",
        ),
        ({"GAIN": 30, "SWCREATE": "APT 4"}, None, 30, "NO_GAIN"),
        ({"GAIN": None, "CCDGAIN": 2.1}, 2.1, None, ""),
        ({"GAIN": None, "GAIN1": 2.1}, 2.1, None, ""),
        ({"GAIN": None, "ESO DET OUT1 CONAD": 2.1}, 2.1, None, ""),
    ],
)
def test_h129_gain_in_electrons_or_a_setting(
    tmp_path: Path, cards: dict[str, Any], gain: float | None, setting: float | None, code: str
) -> None:
    """E47, E48."""
    got = _row(tmp_path, {**GENERIC, **cards})
    assert (got["gain_e_adu"], got["gain_setting"]) == (gain, setting)
    assert code in str(got["code"])


@pytest.mark.parametrize(("mode", "gain"), [("fast", 1.8), ("Slow", 1.1), ("odd", 2.0)])
def test_h130_gain_by_readout_mode(tmp_path: Path, mode: str, gain: float) -> None:
    rules = (
        "mode: [{keywords: [READOUTM]}]\ngain: {by_mode: {FAST: 1.8, slow: 1.1}, constant: 2.0}\n"
    )
    got = _row(tmp_path / "raw", _generic(READOUTM=mode), instrument=_profile(tmp_path, rules))
    assert got["gain_e_adu"] == gain


@pytest.mark.parametrize("key", ["OFFSET", "BLKLEVEL", "BRIGHTNE"])
def test_h131_offset_settings_keep_frames_apart(tmp_path: Path, key: str) -> None:
    assert _row(tmp_path, _generic(**{key: 30}))["offset_setting"] == 30.0


@pytest.mark.parametrize("program", ["MaxIm DL Version 6.20", "SBIG Win CCDOPS Version 5.53"])
def test_h131_pedestal_is_recorded_and_not_taken_off(tmp_path: Path, program: str) -> None:
    got = _row(tmp_path, _generic(SWCREATE=program, PEDESTAL=-100, EGAIN=2.0))
    assert got["offset_setting"] == -100.0


@pytest.mark.parametrize("key", ["READOUTM", "READMODE", "CONFMODE", "RDMODE", "SPEED"])
def test_h132_readout_modes(tmp_path: Path, key: str) -> None:
    assert _row(tmp_path, _generic(**{key: "2.0 MHz"}))["mode"] == "2.0_MHz"


@pytest.mark.parametrize(
    ("cards", "celsius", "code"),
    [
        ({"CCD-TEMP": -9.7, "SET-TEMP": -10}, -10.0, ""),
        ({"CCD-TEMP": -9.7}, -9.7, ""),
        ({"SET-TEMP": -10.0}, -10.0, ""),
        ({"CCD-TEMP": "-9.7 C", "SET-TEMP": "-10"}, -10.0, ""),
        ({"CCD-TEMP": 263.15}, -10.0, ""),
        ({"DETTEMP": 173.15}, -100.0, ""),
        ({"CCDTEMP": -30}, -30.0, ""),
        ({"TEMPERAT": -15.5}, -15.5, ""),
        ({"CCD-TEMP": -2.0, "SET-TEMP": -10}, -2.0, "TEMP_UNSTABLE"),
    ],
)
def test_h133_temperatures(
    tmp_path: Path, cards: dict[str, Any], celsius: float, code: str
) -> None:
    got = _row(tmp_path, {**GENERIC, **cards})
    assert (got["temperature_c"], got["code"]) == (celsius, code)


@pytest.mark.parametrize(
    "cards",
    [{"XBINNING": 2, "YBINNING": 3}, {"CCDSUM": "2 3"}, {"BINNING": "2x3"}, {"BINNING": "2,3"},
     {"XBIN": 2, "YBIN": 3}, {"CCDXBIN": 2, "CCDYBIN": 3}, {"BINX": 2, "BINY": 3},
     {"HBIN": 2, "VBIN": 3}, {"CCDSUM": "2x3"}, {"XBINNING": "2", "YBINNING": "3"}],
)  # fmt: skip
def test_h134_spellings_of_the_binning(tmp_path: Path, cards: dict[str, Any]) -> None:
    assert _row(tmp_path, {**GENERIC, **cards})["binning"] == "2x3"


def test_h134_a_binning_that_the_size_contradicts_is_flagged(tmp_path: Path) -> None:
    for n, shape in enumerate([(64, 96), (32, 48)]):
        path = tmp_path / f"{n}.fits"
        cards = _generic(DATE__OBS=f"2024-01-02T03:0{n}:00", XBINNING=1, YBINNING=1)
        fits.PrimaryHDU(_pixels(n, 1400, shape), _header(cards)).writeto(path)
    assert [row["code"] for row in ingest(tmp_path).rows] == ["", "BINNING_CONFLICT"]


def test_h139_names_of_objects(tmp_path: Path) -> None:
    for n, text in enumerate(["M31", "M 31", "  M31 ", ""]):
        cards = _generic(OBJECT=text, DATE__OBS=f"2024-01-02T03:0{n}:00")
        _write(tmp_path / f"{n}.fits", cards, seed=n)
    got = [(row["object"], row["target"]) for row in ingest(tmp_path).rows]
    assert got == [("M31", "M31"), ("M 31", "M_31"), ("M31", "M31"), ("", "unnamed")]


@pytest.mark.parametrize("text", ["flat", "sky flat 3", "Bias_001", "dark 300s"])
def test_h139_a_light_that_calls_itself_a_calibration(tmp_path: Path, text: str) -> None:
    assert _row(tmp_path, _generic(OBJECT=text))["code"] == "KIND_SUSPECT"


def test_h140_a_missing_or_changed_instrument_name_falls_back_to_generic(tmp_path: Path) -> None:
    got = _row(tmp_path, _generic(INSTRUME=None))
    assert (got["instrument"], got["verdict"], got["detector"]) == ("generic", "ok", "")


@pytest.mark.parametrize(
    ("ra", "dec"),
    [("10 00 00", "+02 30 00"), ("10:00:00.0", "02:30:00"), ("10h00m00s", "+02d30m00s"),
     (150.0, 2.5), ("150.0", "2.5")],
)  # fmt: skip
@pytest.mark.parametrize("keys", [("RA", "DEC"), ("OBJCTRA", "OBJCTDEC"), ("TELRA", "TELDEC")])
def test_h141_forms_of_the_pointing(
    tmp_path: Path, keys: tuple[str, str], ra: Any, dec: Any
) -> None:
    got = _row(tmp_path, _generic(**{keys[0]: ra, keys[1]: dec}))
    assert (got["ra_deg"], got["dec_deg"]) == (150.0, 2.5)


def test_h141_hours_as_a_plain_number_by_profile(tmp_path: Path) -> None:
    rules = "ra: {keywords: [RA], unit: hourangle}\ndec: {keywords: [DEC]}\n"
    got = _row(tmp_path / "raw", _generic(RA=10.0, DEC=2.5), instrument=_profile(tmp_path, rules))
    assert (got["ra_deg"], got["dec_deg"]) == (150.0, 2.5)


@pytest.mark.parametrize(("step", "top"), [(16, 65520.0), (4, 65532.0)])
def test_h142_bits_shifted_up(tmp_path: Path, step: int, top: float) -> None:
    pixels = (_pixels(3, 600) * step).astype(np.uint16)
    fits.PrimaryHDU(pixels, _header(_generic(SATURATE=None))).writeto(tmp_path / "a.fits")
    (row,) = ingest(tmp_path).rows
    assert "SHIFTED_BITS" in str(row["code"])
    assert row["saturation_adu"] == top


# --- programs, one image per file ------------------------------------------------------

Frames = dict[str, dict[str, Any]]


def _night(tmp_path: Path, common: dict[str, Any], frames: Frames) -> dict[str, Row]:
    """Write frames that share some cards, ingest them, and return their rows by name."""
    for n, (name, cards) in enumerate(frames.items()):
        level = LEVELS.get(name.rstrip("0123456789"), 1400)
        own = {key: value for key, value in {**common, **cards}.items() if value is not None}
        own.setdefault("DATE-OBS", f"2024-03-05T0{n}:11:12.345")
        _write(tmp_path / f"{name}.fits", own, seed=n, level=level)
    rows = ingest(tmp_path).rows
    return {str(row["path"]).removesuffix(".fits"): row for row in rows}


def _agree(row: Row, **expected: Any) -> None:
    got = {key: row[key] for key in expected}
    assert got == {k: pytest.approx(v) if isinstance(v, float) else v for k, v in expected.items()}


def test_maxim_with_acp(tmp_path: Path) -> None:
    common = {
        "SWCREATE": "MaxIm DL Version 5.24 140126 0KJR5", "SBSTDVER": "SBFITSEXT Version 1.0",
        "INSTRUME": "Apogee USB/Net", "TELESCOP": "ACP->Paramount", "XBINNING": 2, "YBINNING": 2,
        "XORGSUBF": 0, "YORGSUBF": 0, "READOUTM": "Monochrome", "SET-TEMP": -35.0,
        "CCD-TEMP": -34.99, "EGAIN": 1.4, "PEDESTAL": -100, "TIMESYS": "UTC", "CBLACK": 59,
    }  # fmt: skip
    light = {
        "IMAGETYP": "Light Frame", "EXPTIME": 300.0, "EXPOSURE": 300.0, "FILTER": "SII",
        "OBJECT": "m17", "OBJCTRA": "18 20 48.12", "OBJCTDEC": "-16 10 58.8", "RA": "18 20 48.12",
        "DEC": "-16 10 58.8", "LAT-OBS": -31.2736, "LONG-OBS": 149.0644, "ALT-OBS": 1165.0,
        "SITELAT": "-31 16 24", "SITELONG": "149 03 52", "AIRMASS": 1.04, "JD": 2460374.71,
        "DATE-OBS": "2024-03-05T14:03:03",
    }  # fmt: skip
    rows = _night(tmp_path, common, {
        "light": light,
        "bias": {"IMAGETYP": "Bias Frame", "EXPTIME": 0.0},
        "dark": {"IMAGETYP": "Dark Frame", "EXPTIME": 300.0},
        "flat": {"IMAGETYP": "Flat Field", "EXPTIME": 5.0, "FILTER": "SII"},
        "master": {"IMAGETYP": "Master Dark", "EXPTIME": 300.0},
        "stack": {**light, "SNAPSHOT": 5, "DATE-OBS": "2024-03-05T15:03:03"},
        "done": {**light, "CALSTAT": "BDF", "DATE-OBS": "2024-03-05T16:03:03"},
    })  # fmt: skip
    assert {row["instrument"] for row in rows.values()} == {"maxim"}
    _agree(
        rows["light"], kind="light", filter="SII", exptime_s=300.0, gain_e_adu=1.4,
        gain_setting=None, offset_setting=-100.0, temperature_c=-35.0, binning="2x2",
        mode="Monochrome", date_start="2024-03-05T14:03:03.000",
        site="149.0644;-31.2736;1165", ra_deg=275.2005, dec_deg=-16.183, airmass=1.04,
    )  # fmt: skip
    for kind in ("bias", "dark", "flat"):
        _agree(rows[kind], kind=kind, offset_setting=-100.0)
        assert rows[kind]["code"] in ("", "SATURATION_GUESSED")
    assert [rows[n]["code"] for n in ("master", "stack", "done")] == [
        "IS_MASTER", "IS_MASTER", "ALREADY_CALIBRATED",
    ]  # fmt: skip


def test_ccdsoft_writes_its_own_gain_and_date_in_two_cards(tmp_path: Path) -> None:
    cards = {
        "SWCREATE": "CCDSoft Version 5.00.218", "INSTRUME": "SBIG STL-6303 3 CCD Camera",
        "IMAGETYP": "Light Frame", "E-GAIN": 2.36, "EXPTIME": 300.0, "EXPOSURE": 300.0,
        "CCDXBIN": 3, "CCDYBIN": 3, "TEMPERAT": -20.4, "SET-TEMP": -20.0, "FILTER": "R",
        "DATAMAX": 65535, "OBJECT": "NGC 5774", "OBJCTRA": "14 49 09.474",
        "OBJCTDEC": "+40 42 04.35",
        "SITELAT": "+53:14:24.90", "SITELONG": "-006:32:11.02", "DATE-OBS": "2020-04-18",
        "TIME-OBS": "00:56:58.604", "RDNOISE": 13.5,
    }  # fmt: skip
    row = _row(tmp_path, cards)
    _agree(
        row, instrument="maxim", verdict="ok", gain_e_adu=2.36, binning="3x3",
        saturation_adu=65535.0,
        date_start="2020-04-18T00:56:58.604", temperature_c=-20.0, ra_deg=222.289475,
    )  # fmt: skip
    lon, lat, _ = map(float, str(row["site"]).split(";"))
    assert (lon, lat) == (pytest.approx(-6.53639, abs=1e-5), pytest.approx(53.24025, abs=1e-5))


def test_nina(tmp_path: Path) -> None:
    common = {
        "SWCREATE": "N.I.N.A. 3.1.2.9001 (x64)", "INSTRUME": "ZWO ASI2600MM Pro", "XBINNING": 1,
        "YBINNING": 1, "GAIN": 100, "OFFSET": 50, "EGAIN": 0.25, "SET-TEMP": -10.0,
        "CCD-TEMP": -9.8,
        "READOUTM": "High Conversion Gain", "ROWORDER": "TOP-DOWN", "SITELAT": 51.05,
        "SITELONG": 3.7167,
        "SITEELEV": 10.0, "FWHEEL": "ZWO EFW",
    }  # fmt: skip
    light = {
        "IMAGETYP": "LIGHT", "EXPOSURE": 120.0, "EXPTIME": 120.0, "FILTER": "Lum", "OBJECT": "M 45",
        "OBJCTRA": "03 47 00", "OBJCTDEC": "+24 07 00", "RA": 56.75, "DEC": 24.1167,
        "DATE-LOC": "2024-03-05T21:19:00.455", "DATE-OBS": "2024-03-05T20:19:00.455",
        "DATE-AVG": "2024-03-05T20:20:00.455", "MJD-OBS": 60374.846533,
    }  # fmt: skip
    rows = _night(tmp_path, common, {
        "light": light,
        "bias": {"IMAGETYP": "BIAS", "EXPTIME": 0.001},
        "dark": {"IMAGETYP": "DARK", "EXPTIME": 120.0},
        "flat": {"IMAGETYP": "FLAT", "EXPTIME": 2.5, "FILTER": "Lum"},
        "flat_dark": {"IMAGETYP": "DARKFLAT", "EXPTIME": 2.5},
        "snap": {**light, "IMAGETYP": "SNAPSHOT"},
    })  # fmt: skip
    assert {row["instrument"] for row in rows.values()} == {"nina"}
    _agree(
        rows["light"], kind="light", filter="L", exptime_s=120.0, gain_e_adu=0.25,
        gain_setting=100.0,
        offset_setting=50.0, temperature_c=-10.0, mode="High_Conversion_Gain", ra_deg=56.75,
        date_start="2024-03-05T20:19:00.455", site="3.7167;51.05;10", target="M_45",
    )  # fmt: skip
    for kind in ("bias", "dark", "flat", "flat_dark"):
        assert rows[kind]["kind"] == kind
        assert rows[kind]["code"] in ("", "SATURATION_GUESSED")
    assert rows["snap"]["code"] == "NOT_SCIENCE"


def test_nina_target_that_was_not_set_is_no_pointing(tmp_path: Path) -> None:
    cards = _generic(SWCREATE="N.I.N.A. 1.10", OBJCTRA="00 00 00", OBJCTDEC="+00 00 00", EGAIN=1.0)
    _agree(_row(tmp_path, cards), instrument="nina", ra_deg=None, dec_deg=None)


def test_sharpcap(tmp_path: Path) -> None:
    common = {
        "SWCREATE": "SharpCap v4.1.12946.0, 64 bit", "INSTRUME": "ZWO ASI183MM Pro", "GAIN": 300,
        "OFFSET": 8, "BLKLEVEL": 8, "EGAIN": 0.1226, "EGAINSAV": 0.00766, "ADCBITS": 12,
        "RDNOISE": 1.7, "XBINNING": 1, "YBINNING": 1, "SET-TEMP": 0, "CCD-TEMP": -0.5,
        "SUBEXP": None,
        "ROWORDER": "TOP-DOWN", "COLORSPC": "MONO16",
    }  # fmt: skip
    light = {
        "IMAGETYP": "Light", "EXPTIME": 35, "OBJECT": "M 87", "RA": 187.3498863705,
        "DEC": 12.8925716, "OBJCTRA": "12 29 23.000", "OBJCTDEC": "+12 53 33.000", "FILTER": "L",
        "DATE-OBS": ("2025-03-19T22:51:59.3846323", "System Clock:Est. Frame Start"),
        "DATE-AVG": "2025-03-19T22:52:17", "JD_UTC": 2460754.4568,
    }  # fmt: skip
    rows = _night(tmp_path, common, {
        "light": light,
        "bias": {"IMAGETYP": "Bias", "EXPTIME": 3.2e-05},
        "Darks/x": {"EXPTIME": 35},
        "live": {**light, "SUBEXP": 8, "EXPTIME": 280},
    })  # fmt: skip
    assert {row["instrument"] for row in rows.values()} == {"sharpcap"}
    _agree(
        rows["light"], kind="light", exptime_s=35.0, gain_e_adu=0.00766, gain_setting=300.0,
        read_noise_e=1.7, offset_setting=8.0, date_start="2025-03-19T22:51:59.385",
        ra_deg=187.3498864,
        mode="MONO16",
    )  # fmt: skip
    assert rows["bias"]["kind"] == "bias"
    assert rows["Darks/x"]["kind"] == "dark"  # H123: the folder is the only hint
    assert rows["live"]["code"] == "IS_MASTER"


def test_sharpcap_without_any_hint_asks_for_the_kind(tmp_path: Path) -> None:
    assert _row(tmp_path, _generic(IMAGETYP=None, SWCREATE="SharpCap"))["code"] == "KIND_UNKNOWN"


def test_indi_and_ekos(tmp_path: Path) -> None:
    common = {
        "ROWORDER": "TOP-DOWN", "INSTRUME": "ZWO CCD ASI1600MM-Cool", "TELESCOP": "EQMod Mount",
        "PIXSIZE1": 3.8, "PIXSIZE2": 3.8, "XBINNING": 1, "YBINNING": 1, "XPIXSZ": 3.8,
        "GAIN": 139.0,
        "OFFSET": 21.0, "CCD-TEMP": -20.0, "SITELAT": 47.2, "SITELONG": 348.7, "EQUINOX": 2000,
    }  # fmt: skip
    rows = _night(tmp_path, common, {
        "light": {"FRAME": "Light", "IMAGETYP": "Light Frame", "EXPTIME": 60.0, "FILTER": "H_Alpha",
                  "OBJECT": "NGC 7000", "OBJCTRA": "20 58 47.00", "OBJCTDEC": "44 19 48.00",
                  "RA": 314.7, "DEC": 44.33, "AIRMASS": 1.3},
        "bias": {"FRAME": "Bias", "IMAGETYP": "Bias Frame", "EXPTIME": 0.0},
        "dark": {"FRAME": "Dark", "EXPTIME": 60.0, "DARKTIME": 60.0},
        "flat": {"FRAME": "Flat", "IMAGETYP": "Flat Frame", "EXPTIME": 1.0, "FILTER": "H_Alpha"},
    })  # fmt: skip
    assert {row["instrument"] for row in rows.values()} == {"indi"}
    _agree(
        rows["light"], kind="light", filter="H_Alpha", gain_e_adu=None, gain_setting=139.0,
        offset_setting=21.0, temperature_c=-20.0, ra_deg=314.7, site="-11.3;47.2;0",
    )  # fmt: skip
    assert "NO_GAIN" in str(rows["light"]["code"])
    assert [rows[k]["kind"] for k in ("bias", "dark", "flat")] == ["bias", "dark", "flat"]


def test_sbig_ccdops(tmp_path: Path) -> None:
    cards = {
        "SWCREATE": "SBIG Win CCDOPS Version 5.53 Build 28-NT", "INSTRUME": "SBIG ST-10XME",
        "SBSTDVER": "SBFITSEXT Version 1.0", "IMAGETYP": "Light Frame", "EXPTIME": 12.0,
        "DATE-OBS": "2018-11-07T04:58:56.000", "DATE": "2018-11-07", "CCD-TEMP": -27.29,
        "XBINNING": 1,
        "YBINNING": 1, "XORGSUBF": 0, "YORGSUBF": 0, "EGAIN": 1.3, "PEDESTAL": -100,
        "DATAMAX": 65535,
        "FILTER": "Green", "SNAPSHOT": 1, "NOTE": "Local time:11/7/2018 at 1:58:56", "OBJECT": "x",
    }  # fmt: skip
    _agree(
        _row(tmp_path, cards), instrument="sbig_ccdops", kind="light", gain_e_adu=1.3,
        saturation_adu=65535.0, offset_setting=-100.0, date_start="2018-11-07T04:58:56.000",
    )  # fmt: skip


def test_lco_cameras_with_one_image(tmp_path: Path) -> None:
    common = {
        "ORIGIN": "LCOGT", "INSTRUME": "kb92", "TELESCOP": "0m4-10", "CONFMODE": "default",
        "CCDSUM": "2 2", "GAIN": 1.4, "RDNOISE": 14.5, "SATURATE": 0.0, "MAXLIN": 60000.0,
        "BIASSEC": "[81:96,1:64]", "TRIMSEC": "[1:80,1:64]", "CCDATEMP": -20.1, "CCDSTEMP": -20.0,
        "LATITUDE": -30.1673833, "LONGITUD": -70.8047889, "HEIGHT": 2198.0, "OBJECT": "N/A",
    }  # fmt: skip
    light = {
        "OBSTYPE": "EXPOSE", "EXPTIME": 60.0, "FILTER": "rp", "OBJECT": "Didymos",
        "RA": "05:30:00.0",
        "DEC": "-20:00:00.0", "AIRMASS": 1.1, "DATE-OBS": "2022-10-01T07:00:00.000",
        "MJD-OBS": 59853.2916667, "UTSTART": "07:00:00.000",
    }  # fmt: skip
    rows = _night(tmp_path, common, {
        "light": light, "std": {**light, "OBSTYPE": "STANDARD", "DATE-OBS": "2022-10-01T08:00:00",
                                "MJD-OBS": None},
        "bias": {"OBSTYPE": "BIAS", "EXPTIME": 0.0}, "dark": {"OBSTYPE": "DARK", "EXPTIME": 300.0},
        "flat": {"OBSTYPE": "SKYFLAT", "EXPTIME": 7.0, "FILTER": "Bessell-V"},
        "bpm": {"OBSTYPE": "BPM", "EXPTIME": 0.0}, "exp": {**light, "OBSTYPE": "EXPERIMENTAL"},
    })  # fmt: skip
    assert {row["instrument"] for row in rows.values()} == {"lco_single"}
    _agree(
        rows["light"], kind="light", verdict="ok", filter="rp", binning="2x2", mode="default",
        saturation_adu=60000.0, datasec="[1:80,1:64]", biassec="[81:96,1:64]", ra_deg=82.5,
        site="-70.8047889;-30.1673833;2198", temperature_c=-20.0, detector="kb92",
    )  # fmt: skip
    assert [rows[k]["kind"] for k in ("std", "bias", "dark", "flat")] == [
        "light", "bias", "dark", "flat",
    ]  # fmt: skip
    assert rows["flat"]["filter"] == "V"
    assert [rows[k]["code"] for k in ("bpm", "exp")] == ["NOT_SCIENCE", "NOT_SCIENCE"]


def test_eso_hierarchical_keywords(tmp_path: Path) -> None:
    common = {
        "INSTRUME": "FORS2", "TELESCOP": "ESO-VLT-U1", "ESO DET OUT1 CONAD": 2.18,
        "ESO DET OUT1 GAIN": 0.46, "ESO DET OUT1 RON": 2.8, "ESO DET WIN1 BINX": 2,
        "ESO DET WIN1 BINY": 2, "ESO DET READ CLOCK": "100Kps/2ports/high_gain",
        "ESO DET CHIP1 ID": "CCID20-14-5-3", "ESO TEL GEOLON": -70.4032, "ESO TEL GEOLAT": -24.6276,
        "ESO TEL GEOELEV": 2648.0, "ESO DPR TECH": "IMAGE", "ESO DPR CATG": "CALIB",
        "ESO DET WIN1 STRX": 1, "ESO DET WIN1 STRY": 1,
    }  # fmt: skip
    light = {
        "ESO DPR TYPE": "OBJECT", "ESO DPR CATG": "SCIENCE", "ESO INS FILT1 NAME": "R_SPECIAL",
        "ESO INS FILT2 NAME": "FREE", "EXPTIME": 90.0, "RA": 150.1, "DEC": -30.5,
        "ESO OBS TARG NAME": "LP 234-5", "OBJECT": "OBJECT", "ESO TEL AIRM START": 1.2,
    }  # fmt: skip
    rows = _night(tmp_path, common, {
        "light": light, "std": {**light, "ESO DPR TYPE": "STD"},
        "bias": {"ESO DPR TYPE": "BIAS", "EXPTIME": 0.013},
        "dark": {"ESO DPR TYPE": "DARK", "EXPTIME": 600.0},
        "flat": {"ESO DPR TYPE": "FLAT,SKY", "EXPTIME": 2.0, "ESO INS FILT1 NAME": "V_BESS"},
        "lamp": {"ESO DPR TYPE": "FLAT,LAMP", "ESO DPR TECH": "SPECTRUM", "EXPTIME": 2.0},
        "acq": {**light, "ESO DPR CATG": "ACQUISITION"},
    })  # fmt: skip
    assert {row["instrument"] for row in rows.values()} == {"eso"}
    _agree(
        rows["light"], kind="light", filter="R_SPECIAL", gain_e_adu=2.18, read_noise_e=2.8,
        binning="2x2", object="LP 234-5", site="-70.4032;-24.6276;2648", airmass=1.2, ra_deg=150.1,
    )  # fmt: skip
    assert [rows[k]["kind"] for k in ("std", "bias", "dark", "flat")] == [
        "light", "bias", "dark", "flat",
    ]  # fmt: skip
    assert rows["flat"]["filter"] == "V"
    assert [rows[k]["code"] for k in ("lamp", "acq")] == ["NOT_SCIENCE", "NOT_SCIENCE"]


@pytest.mark.parametrize(
    ("cards", "data", "bias"),
    [
        ({"PRSCX": 10, "OVSCX": 6, "PRSCY": 0, "OVSCY": 4, "X": 1, "Y": 1},
         "[11:90,1:60]", "[91:96,1:64]"),
        ({"PRSCX": 10, "OVSCX": 6, "X": 80, "Y": 60, "OVSCY": 4}, "[7:86,5:64]", "[1:6,1:64]"),
        ({"PRSCX": 10, "OVSCX": 0}, "[11:96,1:64]", ""),
        ({}, "[1:96,1:64]", ""),
    ],
)  # fmt: skip
def test_eso_prescan_and_overscan_are_numbers_of_lines(
    tmp_path: Path, cards: dict[str, Any], data: str, bias: str
) -> None:
    common = {"ESO DPR TYPE": "OBJECT", "ESO DPR CATG": "SCIENCE", "EXPTIME": 5.0}
    common |= {f"ESO DET OUT1 {key}": value for key, value in cards.items()}
    row = _row(tmp_path, {**common, "DATE-OBS": "2009-01-27T21:00:47.752"})
    _agree(row, instrument="eso", kind="light", datasec=data, biassec=bias)


# --- several amplifiers ---------------------------------------------------------------------


def _extensions(path: Path, primary: dict[str, Any], images: list[dict[str, Any]], *,
                compressed: bool = False, level: float = 1400, shape: tuple[int, int] = (64, 96),
                ) -> None:  # fmt: skip
    units: list[Any] = [fits.PrimaryHDU(header=_header(primary))]
    for n, cards in enumerate(images):
        pixels = _pixels(n, level, shape)
        kind = fits.CompImageHDU if compressed else fits.ImageHDU
        name = cards.pop("EXTNAME", None)
        units.append(kind(pixels, _header(cards), name=name))
        cards["EXTNAME"] = name
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList(units).writeto(path)


def _amplifiers(row: Row) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in json.loads(str(row["amplifiers"]))}


def test_lco_sinistro_quadrants_make_one_frame(tmp_path: Path) -> None:
    primary = {
        "ORIGIN": "LCOGT", "INSTRUME": "fa03", "OBSTYPE": "EXPOSE", "EXPTIME": 30.0, "FILTER": "zs",
        "OBJECT": "T", "DATE-OBS": "2022-10-01T07:00:00.000", "CCDSUM": "1 1",
        "CONFMODE": "full_frame",
        "CCDATEMP": -100.0, "LATITUDE": -30.17, "LONGITUD": -70.8, "HEIGHT": 2198.0,
        "RA": "05:30:00",
        "DEC": "-20:00:00", "AIRMASS": 1.2,
    }  # fmt: skip
    places = ["[1:80,1:64]", "[160:81,1:64]", "[160:81,128:65]", "[1:80,128:65]"]
    quadrants = [
        {"EXTNAME": "SCI", "GAIN": 2.0 + n / 10, "RDNOISE": 8.0 + n, "SATURATE": 60000.0,
         "DATASEC": "[1:80,1:64]", "BIASSEC": "[83:96,1:64]", "DETSEC": place}
        for n, place in enumerate(places)
    ]  # fmt: skip
    _extensions(tmp_path / "a-e00.fits.fz", primary, quadrants, compressed=True)
    (row,) = ingest(tmp_path).rows
    _agree(row, instrument="lco", kind="light", verdict="ok", nx=160, ny=128, hdu=1, filter="zs",
           datasec="[1:160,1:128]", gain_e_adu=2.15, mode="full_frame")  # fmt: skip
    found = _amplifiers(row)
    assert [found[f"Q{n}"]["place"] for n in range(1, 5)] == places
    assert [found[f"Q{n}"]["gain"] for n in range(1, 5)] == pytest.approx([2.0, 2.1, 2.2, 2.3])
    assert found["Q3"]["bias"] == ["[83:96,1:64]"]


NOAO = {
    "OBSERVAT": "KPNO", "OBSTYPE": "object", "EXPTIME": 10.0, "DARKTIME": 10.698,
    "DATE-OBS": "2001-09-29T05:57:44.0", "TIMESYS": "UTC approximate", "FILTER": "Halpha",
    "OBJECT": "M27", "RA": "19:59:36.0", "DEC": "22:43:00.0", "AIRMASS": 1.2, "CCDSUM": "1 1",
}  # fmt: skip


@pytest.mark.parametrize("binning", [1, 2])
def test_noao_one_detector_with_two_amplifiers(tmp_path: Path, binning: int) -> None:
    primary = {**NOAO, "NCCDS": 1, "NAMPS": 2, "NEXTEND": 2, "CCDSUM": f"{binning} {binning}"}
    places = [f"[1:{80 * binning},1:{64 * binning}]",
              f"[{160 * binning}:{80 * binning + 1},1:{64 * binning}]"]  # fmt: skip
    images = [
        {"EXTNAME": f"im{n + 1}", "GAIN": 2.5, "RDNOISE": 6.0, "SATURATE": 60000, "DETSEC": place,
         "DATASEC": "[1:80,1:64]", "TRIMSEC": "[1:80,1:64]", "BIASSEC": "[85:96,1:64]"}
        for n, place in enumerate(places)
    ]  # fmt: skip
    _extensions(tmp_path / "n.fits", primary, images)
    (row,) = ingest(tmp_path).rows
    _agree(row, instrument="noao", kind="light", nx=160, ny=64, binning=f"{binning}x{binning}",
           filter="Halpha", date_start="2001-09-29T05:57:44.000", exptime_s=10.0)  # fmt: skip
    assert "CONFLICT" not in str(row["code"])
    assert [one["place"] for one in _amplifiers(row).values()] == ["[1:80,1:64]", "[160:81,1:64]"]


@pytest.mark.parametrize(
    ("obstype", "kind"),
    [("zero", "bias"), ("dark", "dark"), ("dflat", "flat"), ("dome flat", "flat"),
     ("sky flat", "flat"), ("comp", ""), ("focus", "")],
)  # fmt: skip
def test_noao_mosaic_extensions_are_frames(tmp_path: Path, obstype: str, kind: str) -> None:
    seconds = 0.0 if kind == "bias" else 10.0
    primary = {**NOAO, "NCCDS": 8, "NAMPS": 8, "OBSTYPE": obstype, "EXPTIME": seconds}
    images = [
        {"EXTNAME": f"im{n + 1}", "GAIN": 2.5, "RDNOISE": 6.0, "SATURATE": 60000,
         "DETSEC": f"[{80 * n + 1}:{80 * n + 80},1:64]", "CCDSEC": "[1:80,1:64]",
         "DATASEC": "[1:80,1:64]", "BIASSEC": "[85:96,1:64]"}
        for n in range(2)
    ]  # fmt: skip
    level = 21000 if kind == "flat" else 1000
    _extensions(tmp_path / "n.fits", primary, images, level=level)
    rows = ingest(tmp_path).rows
    assert [row["instrument"] for row in rows] == ["noao_mosaic"] * 2
    if not kind:
        assert {row["code"] for row in rows} == {"NOT_SCIENCE"}
        return
    assert [(r["kind"], r["detector"], r["verdict"]) for r in rows] == [
        (kind, "IM1", "ok"), (kind, "IM2", "ok"),
    ]  # fmt: skip
    assert {row["biassec"] for row in rows} == {"[85:96,1:64]"}


@pytest.mark.parametrize("section", [True, False])
def test_noao_two_amplifiers_in_one_image(tmp_path: Path, section: bool) -> None:
    cards = {
        **NOAO, "FILTER": None, "FILTER1": "open", "FILTER2": "R", "DSECA": "[1:40,1:64]",
        "TSECA": "[1:40,1:64]", "BSECA": "[81:88,1:64]", "GAINA": 1.5, "RDNOISEA": 5.0,
        "DSECB": "[41:80,1:64]", "TSECB": "[41:80,1:64]", "BSECB": "[89:96,1:64]", "GAINB": 1.6,
        "RDNOISEB": 6.0, "SATURATE": 60000,
    }  # fmt: skip
    if section:
        cards |= {"CSECA": "[1:40,1:64]", "CSECB": "[41:80,1:64]"}
    row = _row(tmp_path, cards)
    _agree(row, instrument="noao_dual", kind="light", nx=80, ny=64, filter="R", gain_e_adu=1.55)
    found = list(_amplifiers(row).values())
    assert [(a["data"], a["bias"], a["place"], a["gain"], a["noise"]) for a in found] == [
        ("[1:40,1:64]", ["[81:88,1:64]"], "[1:40,1:64]", 1.5, 5.0),
        ("[41:80,1:64]", ["[89:96,1:64]"], "[41:80,1:64]", 1.6, 6.0),
    ]


def test_noao_four_amplifiers_in_one_image(tmp_path: Path) -> None:
    cards: dict[str, Any] = {**NOAO, "SATURATE": 60000, "AMPLIST": "11 21 12 22"}
    # Overscan columns lie in the middle of the image, as the controller writes it.
    for name, x, strip, y, place in [
        ("11", "1:40", "41:48", "1:32", "[1:40,1:32]"), ("21", "57:96", "49:56", "1:32",
        "[41:80,1:32]"),
        ("12", "1:40", "41:48", "33:64", "[1:40,33:64]"),
        ("22", "57:96", "49:56", "33:64", "[41:80,33:64]"),
    ]:  # fmt: skip
        cards |= {f"DSEC{name}": f"[{x},{y}]", f"BSEC{name}": f"[{strip},{y}]",
        f"CSEC{name}": place,
                  f"GTGAIN{name}": 1.4, f"GTRON{name}": 3.5}  # fmt: skip
    row = _row(tmp_path, cards)
    _agree(
        row, instrument="noao_quad", kind="light", nx=80, ny=64, gain_e_adu=1.4, read_noise_e=3.5
    )
    assert _amplifiers(row)["22"]["place"] == "[41:80,33:64]"


def test_decam_two_amplifiers_per_detector(tmp_path: Path) -> None:
    primary = {
        "INSTRUME": "DECam", "TELESCOP": "CTIO 4.0-m telescope", "OBS-LONG": 70.81489,
        "OBS-LAT": -30.16606, "OBS-ELEV": 2215.0, "EXPREQ": 30.0, "EXPTIME": 30.0,
        "DARKTIME": 31.13,
        "DATE-OBS": "2013-02-13T09:01:40.966998", "TIME-OBS": "09:01:40.966998",
        "MJD-OBS": 56336.3761686, "TIMESYS": "UTC", "OBJECT": "Trifid and Lagoon",
        "OBSTYPE": "object",
        "FILTER": "g DECam SDSS c0001 4720.0 1520.0", "RA": "18:02:33.333", "DEC": "-23:46:59.999",
        "TELRA": "18:02:42.907", "TELDEC": "-23:46:59.898", "AIRMASS": 1.77, "PROCTYPE": "RAW",
    }  # fmt: skip
    sections = {
        "DATASECA": "[49:80,5:64]", "BIASSECA": "[81:92,5:64]", "CCDSECA": "[33:64,1:60]",
        "DETSECA": "[13313:13344,1:60]", "DATASECB": "[17:48,5:64]", "BIASSECB": "[5:16,5:64]",
        "CCDSECB": "[1:32,1:60]", "DETSECB": "[12289:12320,1:60]", "CCDSEC": "[1:64,1:60]",
        "GAINA": 4.59, "RDNOISEA": 7.18, "SATURATA": 43266.0, "GAINB": 4.40, "RDNOISEB": 7.02,
        "SATURATB": 44935.0, "CCDBIN1": 1, "CCDBIN2": 1, "INHERIT": True,
    }  # fmt: skip
    images = [{**sections, "EXTNAME": name} for name in ("S1", "N4", "FS1")]
    _extensions(tmp_path / "dec050441.fits.fz", primary, images, compressed=True)
    rows = ingest(tmp_path).rows
    assert [row["instrument"] for row in rows] == ["decam"] * 3
    assert [row["detector"] for row in rows[:2]] == ["S1", "N4"]
    assert rows[2]["code"] == "NOT_SCIENCE"
    _agree(
        rows[0], kind="light", verdict="ok", filter="gp", nx=64, ny=60, saturation_adu=43266.0,
        site="-70.81489;-30.16606;2215", date_start="2013-02-13T09:01:40.967", ra_deg=270.6787792,
    )  # fmt: skip
    found = _amplifiers(rows[0])
    assert found["A"]["place"] == "[33:64,1:60]"
    assert (found["B"]["gain"], found["B"]["saturation"]) == (4.40, 44935.0)


# --- which one is chosen ----------------------------------------------------------------


def test_no_packaged_match_fits_the_cards_of_an_unknown_camera() -> None:
    from skymill.cards import Card, RawHeader

    header = RawHeader([Card(key, value) for key, value in GENERIC.items()])
    assert find_instrument(header).name == "generic"


@pytest.mark.parametrize(
    ("cards", "name"),
    [
        ({"SWCREATE": "SBIG Win CCDOPS Version 5", "INSTRUME": "SBIG ST-7", "NAXIS1": 795,
          "NAXIS2": 540}, "sbig_st7"),
        ({"SWCREATE": "SBIG Win CCDOPS Version 5", "INSTRUME": "SBIG ST-7", "NAXIS1": 765,
          "NAXIS2": 510}, "sbig_ccdops"),
        ({"SWCREATE": "MaxIm DL Version 6", "INSTRUME": "SBIG ST-8"}, "maxim"),
        ({"SWCREATE": "TheSkyX Build 1", "INSTRUME": "SBIG ST-8"}, "maxim"),
        ({"FRAME": "Light", "PIXSIZE1": 3.8}, "indi"),
        ({"FRAME": "Light"}, "generic"),
        ({"ORIGIN": "LCOGT", "INSTRUME": "fa15"}, "lco"),
        ({"ORIGIN": "LCO/OCIW", "INSTRUME": "sq30"}, "lco_single"),
        ({"INSTRUME": "DECam"}, "generic"),
        ({"ESO DPR TYPE": "BIAS", "ESO DPR CATG": "CALIB"}, "eso"),
    ],
)  # fmt: skip
def test_h140_instruments_are_told_by_several_keywords(cards: dict[str, Any], name: str) -> None:
    from skymill.cards import Card, RawHeader

    header = RawHeader([Card(key, value) for key, value in cards.items()])
    assert find_instrument(header).name == name


def test_no_two_packaged_instruments_have_the_same_conditions() -> None:
    seen: dict[str, str] = {}
    for name in instrument_names():
        for conditions in load_instrument(name).match:
            text = json.dumps(conditions, sort_keys=True).casefold()
            assert text not in seen, f"{name} and {seen[text]} match {conditions}"
            seen[text] = name
