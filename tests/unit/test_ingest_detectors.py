"""Amplifiers, mosaics, colours, cubes and windows: from files to rows that assemble exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from skymill.assembly import assemble
from skymill.errors import ConfigError
from skymill.ingest import ingest, read_overrides
from skymill.io_raw import read_frame
from skymill.sections import parse_place
from skymill.sheet import read_sheet, write_sheet

KINDS = """
kinds:
  - {kind: bias, when: {IMAGETYP: bias}}
  - {kind: dark, when: {IMAGETYP: dark}}
  - {kind: flat, when: {IMAGETYP: flat}}
  - {kind: light, when: {IMAGETYP: light*}}
saturation: {constant: 60000}
site: {longitude: {constant: -70}, latitude: {constant: -30}, height: {constant: 2000}}
"""
NX, NY, OVER = 96, 64, 8


def _truth(nx: int = NX, ny: int = NY) -> np.ndarray:
    """Every pixel has a number of its own."""
    return (1000 + np.arange(nx * ny, dtype=np.uint16)).reshape(ny, nx)


def _cards(**cards: Any) -> fits.Header:
    header = fits.Header()
    base = {
        "IMAGETYP": "Light Frame", "OBJECT": "field", "FILTER": "R", "EXPTIME": 30.0,
        "DATE-OBS": "2024-01-02T03:04:05", "GAIN": 1.5, "RDNOISE": 5.0, "RA": 150.0, "DEC": 2.0,
    }  # fmt: skip
    for key, value in {**base, **{k.replace("__", "-"): v for k, v in cards.items()}}.items():
        if value is not None:
            header[key] = value
    return header


def _amplifier(place: str, truth: np.ndarray, *, left: bool = False) -> np.ndarray:
    """What one amplifier stores: its part of the detector, mirrored as told, and overscan."""
    section, flip_x, flip_y = parse_place(place)
    part = truth[section.slices]
    part = part[:, ::-1] if flip_x else part
    part = part[::-1] if flip_y else part
    strip = np.full((part.shape[0], OVER), 500, np.uint16)
    strip[::2] += 2
    return np.hstack([strip, part] if left else [part, strip])


def _mef(path: Path, images: list[tuple[np.ndarray, dict[str, Any]]], **cards: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    hdus: list[Any] = [fits.PrimaryHDU(header=_cards(**cards))]
    for data, own in images:
        image = fits.ImageHDU(data)
        for key, value in own.items():
            image.header[key] = value
        hdus.append(image)
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def _image(path: Path, data: np.ndarray, **cards: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(data, _cards(**cards)).writeto(path, overwrite=True)
    return path


def _rows(tmp_path: Path, instrument: str, overrides: str = "") -> list[dict[str, Any]]:
    (tmp_path / "mine.yaml").write_text("name: mine\n" + instrument + KINDS)
    (tmp_path / "overrides.yaml").write_text(overrides)
    rows = ingest(
        tmp_path / "raw",
        instrument=str(tmp_path / "mine.yaml"),
        overrides=read_overrides(tmp_path / "overrides.yaml"),
    ).rows
    write_sheet(tmp_path / "frames.csv", rows)
    assert read_sheet(tmp_path / "frames.csv") == rows
    return rows


def _assembled(tmp_path: Path, row: dict[str, Any]) -> np.ndarray:
    images, _ = read_frame(tmp_path / "raw" / row["path"], row)
    return np.asarray(assemble(images, row).pixels)


# --- amplifiers in HDUs of their own ----------------------------------------------

PLACES = ["[1:48,1:32]", "[96:49,1:32]", "[1:48,64:33]", "[96:49,64:33]"]
FOUR = """
hdu: amplifiers
gain: {keywords: [GAIN]}
read_noise: {keywords: [RDNOISE]}
amplifiers:
""" + "".join(
    f"""  - name: {name}
    hdu: {name}
    data: {{keywords: [DATASEC]}}
    bias: {{keywords: [BIASSEC]}}
    place: {{keywords: [DETSEC]}}
"""
    for name in "ABCD"
)


def _four(path: Path, places: list[str] = PLACES, **cards: Any) -> Path:
    images = []
    for number, (name, place) in enumerate(zip("ABCD", places, strict=True)):
        data = _amplifier(place, _truth(), left=number % 2 == 1)
        first = OVER + 1 if number % 2 else 1
        own = {
            "EXTNAME": name,
            "DATASEC": f"[{first}:{first + 47},1:32]",
            "BIASSEC": f"[1:{OVER},1:32]" if number % 2 else "[49:56,1:32]",
            "DETSEC": place,
            "GAIN": 1.5 + 0.1 * number,
            "RDNOISE": 4.0 + number,
        }
        images.append((data, own))
    return _mef(path, images, **cards)


def test_h018_h137_four_mirrored_amplifiers_assemble_exactly(tmp_path: Path) -> None:
    """Index image; A2: overscans of each amplifier. DETSEC runs backwards as NOAO writes it."""
    _four(tmp_path / "raw" / "x.fits")
    (row,) = _rows(tmp_path, FOUR)
    assert (row["verdict"], row["code"], row["hdu"]) == ("ok", "", 1)
    assert (row["nx"], row["ny"], row["datasec"], row["biassec"]) == (96, 64, "[1:96,1:64]", "")
    assert row["area"] == "[1:96,1:64]"
    np.testing.assert_array_equal(_assembled(tmp_path, row), _truth())
    entries = json.loads(row["amplifiers"])
    assert [e["place"] for e in entries] == PLACES
    assert entries[1]["bias"] == ["[1:8,1:32]"]
    # H130: gain and read noise of each amplifier; the columns hold mean and rms
    assert [e["gain"] for e in entries] == [1.5, 1.6, 1.7, 1.8]
    assert row["gain_e_adu"] == pytest.approx(1.65)
    assert row["read_noise_e"] == pytest.approx(np.sqrt(np.mean([16, 25, 36, 49])), abs=1e-5)


@pytest.mark.parametrize("turn", range(4))
def test_h137_every_pair_of_flips(turn: int, tmp_path: Path) -> None:
    """A2."""

    def side(low: int, high: int, flip: bool) -> str:
        return f"{high}:{low}" if flip else f"{low}:{high}"

    flips = [(bool((turn + i) & 1), bool((turn + i) & 2)) for i in range(4)]
    corners = [(1, 1), (49, 1), (1, 33), (49, 33)]
    places = [
        f"[{side(x, x + 47, fx)},{side(y, y + 31, fy)}]"
        for (x, y), (fx, fy) in zip(corners, flips, strict=True)
    ]
    _four(tmp_path / "raw" / "x.fits", places)
    (row,) = _rows(tmp_path, FOUR)
    np.testing.assert_array_equal(_assembled(tmp_path, row), _truth())


def test_places_are_shifted_to_the_frame_and_name_its_area(tmp_path: Path) -> None:
    """A detector of a mosaic has DETSEC far from 1, 1; binned two by two it counts twice."""
    images = []
    for name, place, unbinned in (
        ("A", "[1:48,1:64]", "[2049:2144,4097:4224]"),
        ("B", "[96:49,1:64]", "[2240:2145,4097:4224]"),
    ):
        data = _amplifier(place, _truth())
        images.append((data, {"EXTNAME": name, "DATASEC": "[1:48,1:64]", "DETSEC": unbinned}))
    _mef(tmp_path / "raw" / "x.fits", images, CCDSUM="2 2")
    text = "hdu: amplifiers\nbinning: [CCDSUM]\ngain: {constant: 2}\nread_noise: {constant: 3}\n"
    text += "amplifiers:\n" + "".join(
        f"  - {{name: {name}, hdu: {name}, data: {{keywords: [DATASEC]}}, "
        "place: {keywords: [DETSEC]}, place_binned: false}\n"
        for name in "AB"
    )
    (row,) = _rows(tmp_path, text)
    assert (row["verdict"], row["area"]) == ("ok", "[1025:1120,2049:2112]")
    np.testing.assert_array_equal(_assembled(tmp_path, row), _truth())


@pytest.mark.parametrize(
    ("places", "said"),
    [
        (["[1:48,1:32]", "[1:48,1:32]", *PLACES[2:]], "BAD_SECTION"),
        (["[1:48,1:32]", "[200:153,1:32]", *PLACES[2:]], "BAD_SECTION"),
        (["[1:48,1:32]", "[97:49,1:32]", *PLACES[2:]], "BAD_SECTION"),
        (["[0:47,1:32]", *PLACES[1:]], "BAD_SECTION"),
        (["[1:48,1:32]", "[99999999999:99999999952,1:32]", *PLACES[2:]], "BAD_SECTION"),
        (["nonsense", *PLACES[1:]], "BAD_SECTION"),
    ],
)
def test_amplifiers_that_do_not_fit_together_are_rejected(
    places: list[str], said: str, tmp_path: Path
) -> None:
    path = _four(tmp_path / "raw" / "x.fits")
    with fits.open(path, mode="update") as hdus:
        for number, place in enumerate(places, 1):
            hdus[number].header["DETSEC"] = place
    (row,) = _rows(tmp_path, FOUR)
    assert (row["verdict"], row["code"]) == ("rejected", said)


def test_a_missing_amplifier_and_a_missing_card_are_told_by_name(tmp_path: Path) -> None:
    path = _four(tmp_path / "raw" / "x.fits")
    with fits.open(path, mode="update") as hdus:
        del hdus[3].header["DETSEC"]
    assert "amplifier C" in _rows(tmp_path, FOUR)[0]["message"]
    with fits.open(path, mode="update") as hdus:
        hdus[4].header["EXTNAME"] = "Z"
    (row,) = _rows(tmp_path, FOUR)
    assert (row["code"], "'D'" in row["message"]) == ("NO_IMAGE", True)


def test_conditions_choose_the_amplifiers_that_were_read(tmp_path: Path) -> None:
    text = "gain: {constant: 2}\nread_noise: {constant: 3}\nlinearity: {polynomial: [1.0e-7]}\n"
    text += """amplifiers:
  - {name: L, when: {NUMAMP: 2}, data: {constant: "[1:48,1:64]"}, place: {constant: "[1:48,1:64]"}}
  - name: R
    when: {NUMAMP: 2}
    data: {constant: {xmin: 64, xmax: 112, ymin: 0, ymax: 64}}
    bias: [{constant: "[49:56,1:64]"}, {constant: "[57:64,1:64]"}]
    place: {constant: "[49:96,1:64]"}
    gain: {by_mode: {fast: 2.5, slow: 1.1}}
mode: [{keywords: [READMODE]}]
"""
    truth, gap = _truth(), np.full((NY, 16), 700, np.uint16)
    both = np.hstack([truth[:, :48], gap, truth[:, 48:]])
    _image(tmp_path / "raw" / "both.fits", both, NUMAMP=2, READMODE="Slow ")
    _image(tmp_path / "raw" / "one.fits", both + 1, NUMAMP=1, READMODE="Slow")
    both_row, one_row = _rows(tmp_path, text)
    np.testing.assert_array_equal(_assembled(tmp_path, both_row), truth)
    left, right = json.loads(both_row["amplifiers"])
    assert (left["gain"], right["gain"]) == (2.0, 1.1)
    assert right["bias"] == ["[49:56,1:64]", "[57:64,1:64]"]
    assert right["data"] == "[65:112,1:64]"
    assert (one_row["amplifiers"], one_row["nx"], one_row["gain_e_adu"]) == ("", 112, 2.0)


def test_h130_a_mode_without_a_gain_is_said(tmp_path: Path) -> None:
    text = "gain: {by_mode: {fast: 2.5}}\nread_noise: {constant: 3}\nmode: [{keywords: [MODE]}]\n"
    _image(tmp_path / "raw" / "a.fits", _truth(), MODE="FAST")
    _image(tmp_path / "raw" / "b.fits", _truth() + 1, MODE="slow", DATE__OBS="2024-01-02T03:05:05")
    fast, slow = _rows(tmp_path, text)
    assert (fast["gain_e_adu"], slow["gain_e_adu"]) == (2.5, None)
    assert slow["code"] == "NO_GAIN" and "slow" in slow["message"]


def test_overrides_patch_single_amplifiers(tmp_path: Path) -> None:
    _four(tmp_path / "raw" / "x.fits")
    overrides = """
- files: "*"
  set: {read_noise_e: 6, amplifiers: {A: {gain: 2.1}, B: {saturation: 50000}}}
- files: x.fits
  set: {amplifiers: {A: {linear_max: 40000}}}
"""
    (row,) = _rows(tmp_path, FOUR, overrides)
    a, b, c, _ = json.loads(row["amplifiers"])
    assert (a["gain"], a["linear_max"], a["noise"]) == (2.1, 40000, 6.0)
    assert (b["saturation"], c["saturation"], c["gain"]) == (50000, 60000, 1.7)
    assert row["read_noise_e"] == 6.0
    with pytest.raises(ConfigError, match=r"E is no amplifier.*A, B, C, D"):
        _rows(tmp_path, FOUR, "- {files: '*', set: {amplifiers: {E: {gain: 2}}}}\n")
    (row,) = _rows(tmp_path, FOUR, "- {files: '*', set: {biassec: '[1:8,1:32]'}}\n")
    assert row["code"] == "BAD_SECTION"


# --- several detectors in a file --------------------------------------------------


def test_h176_detectors_of_one_file_are_frames_of_their_own(tmp_path: Path) -> None:
    """E27: frames of different detectors exposed at one time keep names of their own."""
    images = []
    for number, detector in enumerate(("N1", "N2")):
        truth = _truth() + np.uint16(7000 * number)
        for amplifier, place in (("A", "[1:48,1:64]"), ("B", "[96:49,1:64]")):
            images.append((_amplifier(place, truth), {"EXTNAME": detector + amplifier}))
    path = _mef(tmp_path / "raw" / "x.fits", images)
    text = "hdu: amplifiers\ngain: {constant: 2}\nread_noise: {constant: 3}\namplifiers:\n"
    for name in ("N1A", "N1B", "N2A", "N2B"):
        place = "[1:48,1:64]" if name.endswith("A") else "[96:49,1:64]"
        text += (
            f"  - {{name: {name}, hdu: {name}, data: {{constant: '[1:48,1:64]'}}, "
            f"place: {{constant: '{place}'}}}}\n"
        )
    text += "detectors:\n  - {name: N1, amplifiers: [N1A, N1B]}\n"
    text += "  - {name: N2, amplifiers: [N2A, N2B]}\n"
    one, two = _rows(tmp_path, text)
    assert [(r["detector"], r["hdu"], r["verdict"]) for r in (one, two)] == [
        ("N1", 1, "ok"),
        ("N2", 3, "ok"),
    ]
    assert one["frame_id"] != two["frame_id"]
    np.testing.assert_array_equal(_assembled(tmp_path, two), _truth() + 7000)
    # one dead detector does not cost the other
    with fits.open(path, mode="update") as hdus:
        hdus[4].header["EXTNAME"] = "GONE"
    one, two = sorted(_rows(tmp_path, text), key=lambda row: row["detector"])
    assert (one["verdict"], two["verdict"], two["code"]) == ("ok", "rejected", "NO_IMAGE")


def test_h176_images_of_a_mosaic_without_names_are_told_apart(tmp_path: Path) -> None:
    images = [(_truth() + np.uint16(n), {"EXTNAME": "SCI", "EXTVER": n}) for n in (1, 2)]
    images.append((_truth() + np.uint16(9), {}))
    _mef(tmp_path / "raw" / "x.fits", images)
    rows = _rows(tmp_path, "hdu: each\ngain: {constant: 2}\nread_noise: {constant: 3}\n")
    assert [row["detector"] for row in rows] == ["SCI-1", "SCI-2", "hdu3"]
    assert {row["verdict"] for row in rows} == {"ok"}


# --- colours ----------------------------------------------------------------------

MONO = "gain: {constant: 2}\nread_noise: {constant: 3}\n"


def _mosaic(pattern: str, nx: int = NX, ny: int = NY) -> np.ndarray:
    """A sensor whose colours have levels of their own; the pattern begins at the top row."""
    rng = np.random.default_rng(4)
    levels = {"R": 1000, "G": 2000, "B": 4000}
    out = rng.normal(0, 10, (ny, nx))
    for y in (0, 1):
        for x in (0, 1):
            out[y::2, x::2] += levels[pattern[2 * y + x]]
    return out.round().astype(np.uint16)


def _colours(rows: list[dict[str, Any]], tmp_path: Path) -> dict[str, tuple[str, int]]:
    """Filter and level, in thousands, of each channel as the jobs will read it."""
    found = {}
    for row in rows:
        images, _ = read_frame(tmp_path / "raw" / row["path"], row)
        (pixels,) = images.values()
        assert pixels.shape == (row["ny"], row["nx"])
        name = row["channel"].split("[")[0]
        found[name] = (row["filter"], round(float(np.median(pixels)) / 1000))
    return found


TRUE_COLOURS = {"R": ("R", 1), "G1": ("G", 2), "G2": ("G", 2), "B": ("B", 4)}


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
@pytest.mark.parametrize("order", ["", "TOP-DOWN", "BOTTOM-UP"])
@pytest.mark.parametrize("ny", [64, 63])
def test_h138_colours_are_frames_of_their_own(
    pattern: str, order: str, ny: int, tmp_path: Path
) -> None:
    """A19. BOTTOM-UP: the first stored row is the lowest, so the pattern is upside down."""
    sensor = _mosaic(pattern, ny=ny)
    data = sensor[::-1] if order == "BOTTOM-UP" else sensor
    cards = {"ROWORDER": order or None, "BAYERPAT": pattern, "FILTER": None}
    _image(tmp_path / "raw" / "x.fits", data, **cards)
    rows = _rows(tmp_path, MONO)
    assert _colours(rows, tmp_path) == TRUE_COLOURS
    assert {row["verdict"] for row in rows} == {"ok"}
    assert len({row["frame_id"] for row in rows}) == 4
    # G1 shares its rows with R whatever the first pixel is
    start = {row["channel"].split("[")[0]: row["channel"].split("[")[1][0] for row in rows}
    assert start["G1"] == start["R"] and start["G2"] == start["B"]


@pytest.mark.parametrize(("x", "y"), [(1, 0), (0, 1), (1, 1)])
def test_h138_offsets_of_the_pattern(x: int, y: int, tmp_path: Path) -> None:
    sensor = _mosaic("RGGB")
    cards = {"BAYERPAT": "RGGB", "XBAYROFF": x, "YBAYROFF": y, "FILTER": "none"}
    _image(tmp_path / "raw" / "x.fits", np.ascontiguousarray(sensor[y:, x:]), **cards)
    assert _colours(_rows(tmp_path, MONO), tmp_path) == TRUE_COLOURS


def test_h138_channels_of_the_instrument_hold_for_every_frame(tmp_path: Path) -> None:
    """Bias frames of the same camera often lack BAYERPAT and must be split all the same."""
    _image(tmp_path / "raw" / "b.fits", _mosaic("RGGB"), IMAGETYP="bias", EXPTIME=0.0)
    text = MONO + 'channels: {R: "[0::2,0::2]", G1: "[0::2,1::2]", G2: "[1::2,0::2]", '
    rows = _rows(tmp_path, text + 'B: "[1::2,1::2]"}\n')
    assert [(r["kind"], r["filter"]) for r in rows] == [("bias", "")] * 4
    assert {name: level for name, (_, level) in _colours(rows, tmp_path).items()} == {
        "R": 1, "G1": 2, "G2": 2, "B": 4,
    }  # fmt: skip


def test_h138_a_filter_before_the_sensor_keeps_frames_apart(tmp_path: Path) -> None:
    _image(tmp_path / "raw" / "x.fits", _mosaic("RGGB"), BAYERPAT="RGGB", FILTER="Ha")
    assert {row["filter"] for row in _rows(tmp_path, MONO)} == {"R+Ha", "G+Ha", "B+Ha"}


def test_h138_what_cannot_be_split_is_rejected(tmp_path: Path) -> None:
    _image(tmp_path / "raw" / "x.fits", _mosaic("RGGB"), BAYERPAT="GGRGGBGGBGGRBRGRBG")
    (row,) = _rows(tmp_path, MONO)
    assert (row["verdict"], row["code"]) == ("rejected", "MOSAIC_CFA")
    _image(tmp_path / "raw" / "x.fits", _mosaic("RGGB"), BAYERPAT="RGGB")
    (row,) = _rows(tmp_path, MONO + "split_channels: false\n")
    assert (row["verdict"], row["code"]) == ("rejected", "MOSAIC_CFA")
    for mono in ("MONO", "GRAY", "0", "TRUE", "RRRR"):
        _image(tmp_path / "raw" / "x.fits", _truth(), COLORTYP=mono)
        assert len(_rows(tmp_path, MONO)) == 1


def test_sections_of_the_raw_image_are_those_of_its_channels(tmp_path: Path) -> None:
    _image(tmp_path / "raw" / "x.fits", _mosaic("RGGB"), BAYERPAT="RGGB", FILTER=None)
    text = MONO + 'datasec: {constant: "[4:96,1:64]"}\nbiassec: {constant: "[1:3,1:64]"}\n'
    rows = {row["channel"].split("[")[0]: row for row in _rows(tmp_path, text)}
    # Columns 4 to 96 hold raw columns 3, 4, ... from 0: R has 4, 6, ..., G1 has 3, 5, ...
    assert (rows["R"]["datasec"], rows["R"]["biassec"]) == ("[3:48,1:32]", "[1:2,1:32]")
    assert (rows["G1"]["datasec"], rows["G1"]["biassec"]) == ("[2:48,1:32]", "[1:1,1:32]")


# --- cubes ------------------------------------------------------------------------


def _cube(n: int = 5) -> np.ndarray:
    return np.random.default_rng(5).normal(1000, 10, (n, 32, 40)).round().astype(np.uint16)


def test_h023_planes_of_a_cube_have_times_of_their_own(tmp_path: Path) -> None:
    cube = _cube()
    _image(tmp_path / "raw" / "x.fits", cube, EXPTIME=2.0, KINCYC=2.5)
    assert _rows(tmp_path, MONO)[0]["code"] == "CUBE"
    rows = _rows(tmp_path, MONO + "cube: {split: true, cycle: {keywords: [KINCYC]}}\n")
    assert [row["plane"] for row in rows] == [0, 1, 2, 3, 4]
    assert {row["verdict"] for row in rows} == {"ok"}
    starts = np.array([row["mjd_start"] for row in rows])
    # 1e-10 d, the last digit of the sheet, is 9 microseconds
    np.testing.assert_allclose((starts - starts[0]) * 86400, 2.5 * np.arange(5), atol=2e-5)
    assert rows[3]["date_start"] == "2024-01-02T03:04:12.500"
    assert {row["exptime_s"] for row in rows} == {2.0}
    for row in rows:
        images, _ = read_frame(tmp_path / "raw" / "x.fits", row)
        np.testing.assert_array_equal(images[0], cube[row["plane"]])


@pytest.mark.parametrize(("convention", "back"), [("start", 0), ("mid", 5), ("end", 10)])
def test_h078_the_time_of_a_cube_is_that_of_the_whole(
    convention: str, back: float, tmp_path: Path
) -> None:
    _image(tmp_path / "raw" / "x.fits", _cube(), EXPTIME=2.0)
    text = MONO + f"cube: {{split: true}}\ntime: {{date: [DATE-OBS], refers_to: {convention}}}\n"
    rows = _rows(tmp_path, text)
    seconds = float(rows[0]["date_start"][-6:])
    assert (5 - seconds) % 60 == pytest.approx(back, abs=1e-3)


def test_h023_a_repeated_plane_is_told(tmp_path: Path) -> None:
    cube = _cube()
    cube[3] = cube[2]
    _image(tmp_path / "raw" / "x.fits", cube, EXPTIME=2.0, KINCYC=1.0)
    rows = _rows(tmp_path, MONO + "cube: {split: true, cycle: {keywords: [KINCYC]}}\n")
    assert "DUPLICATE_PIXELS" in rows[3]["code"]
    assert all("CONFLICT" in row["code"] for row in rows)  # a cycle shorter than the exposure


# --- windows ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "cards", "area"),
    [
        ("area: {keywords: [CCDSEC]}", {"CCDSEC": "[101:196,201:264]"}, "[101:196,201:264]"),
        (
            "area: {keywords: [CCDSEC]}\nbinning: [CCDSUM]",
            {"CCDSEC": "[201:392,401:528]", "CCDSUM": "2 2"},
            "[101:196,201:264]",
        ),
        ("area: {keywords: [CCDSEC], binned: true}", {"CCDSEC": "[2:97,1:64]"}, "[2:97,1:64]"),
        ("subframe: [XORGSUBF, YORGSUBF]", {"XORGSUBF": 10, "YORGSUBF": 0}, "[11:106,1:64]"),
        ("area: {origin: [X0, Y0], origin_base: 1}", {"X0": 11, "Y0": 1}, "[11:106,1:64]"),
        (
            "area: {origin: [X0, Y0], origin_binned: false}\nbinning: [CCDSUM]",
            {"X0": 20, "Y0": 8, "CCDSUM": "2 2"},
            "[11:106,5:68]",
        ),
        # the section of the raw image, of which the trim keeps a part
        (
            'area: {keywords: [CCDSEC]}\ndatasec: {constant: "[3:96,1:64]"}',
            {"CCDSEC": "[101:196,1:64]"},
            "[103:196,1:64]",
        ),
        ("area: {keywords: [CCDSEC]}", {"CCDSEC": "[1:4096,1:4096]"}, ""),
        ("area: {keywords: [CCDSEC]}", {"CCDSEC": "rubbish"}, ""),
        ("subframe: [XORGSUBF, YORGSUBF]", {"XORGSUBF": -5, "YORGSUBF": 0}, ""),
        ("subframe: [XORGSUBF, YORGSUBF]", {"XORGSUBF": 1e300, "YORGSUBF": 0}, ""),
        ("subframe: [XORGSUBF, YORGSUBF]", {}, ""),
    ],
)
def test_h135_the_part_of_the_detector_is_known(
    rule: str, cards: dict[str, Any], area: str, tmp_path: Path
) -> None:
    _image(tmp_path / "raw" / "x.fits", _truth(), **cards)
    (row,) = _rows(tmp_path, MONO + rule + "\n")
    assert (row["verdict"], row["area"]) == ("ok", area)
    # where the area is known, the mode need not tell sub-frames apart
    unknown = not area and bool(cards.get("XORGSUBF"))
    assert ("sub-" in row["mode"]) is unknown


def test_h135_channels_of_windows_count_their_own_pixels(tmp_path: Path) -> None:
    cards = {"BAYERPAT": "RGGB", "XBAYROFF": 1, "XORGSUBF": 11, "YORGSUBF": 0, "FILTER": None}
    _image(tmp_path / "raw" / "x.fits", _mosaic("RGGB"), **cards)
    rows = _rows(tmp_path, MONO + "subframe: [XORGSUBF, YORGSUBF]\n")
    areas = {row["channel"].split("[")[0]: row["area"] for row in rows}
    # Raw column 0 is detector column 11, a green one: pixel 5 of its channel, from 0.
    assert areas["G1"] == "[6:53,1:32]" and areas["R"] == "[7:54,1:32]"


def test_h134_a_window_is_no_wrong_binning(tmp_path: Path) -> None:
    _image(tmp_path / "raw" / "a.fits", _truth(), CCDSEC="[1:96,1:64]")
    half = np.ascontiguousarray(_truth()[:32, :48])
    time = "2024-01-02T04:04:05"
    _image(tmp_path / "raw" / "b.fits", half, CCDSEC="[1:48,1:32]", DATE__OBS=time)
    rows = _rows(tmp_path, MONO + "area: {keywords: [CCDSEC]}\n")
    assert [row["verdict"] for row in rows] == ["ok", "ok"]
    _image(tmp_path / "raw" / "b.fits", half, DATE__OBS=time)
    assert _rows(tmp_path, MONO)[1]["code"] == "BINNING_CONFLICT"


# --- values by hand ---------------------------------------------------------------


def test_h041_bzero_set_by_hand_reaches_the_pixels(tmp_path: Path) -> None:
    data = np.random.default_rng(1).normal(30000, 4000, (64, 64)).round().astype(np.uint16)
    path = _image(tmp_path / "raw" / "x.fits", data)
    path.write_bytes(path.read_bytes().replace(b"BZERO   ", b"BZEROX  "))
    assert _rows(tmp_path, MONO)[0]["code"] == "SUSPECT_BZERO"
    (row,) = _rows(tmp_path, MONO, "- {files: '*', set: {header: {BZERO: 32768}}}\n")
    assert (row["verdict"], row["bzero"]) == ("ok", 32768.0)
    images, _ = read_frame(path, row)
    assert images[0].dtype == np.uint16
    np.testing.assert_array_equal(images[0], data)
    # the same as in the file: nothing to say
    _image(tmp_path / "raw" / "x.fits", data)
    (row,) = _rows(tmp_path, MONO, "- {files: '*', set: {header: {BZERO: 32768}}}\n")
    assert row["bzero"] is None


def test_masters_can_be_named_by_hand(tmp_path: Path) -> None:
    """A4: a master or none; H216 otherwise."""
    _image(tmp_path / "raw" / "x.fits", _truth())
    text = "- {files: '*', set: {use_bias: none, use_dark: '', use_flat: masters/f.fits}}\n"
    (row,) = _rows(tmp_path, MONO, text)
    assert (row["use_bias"], row["use_dark"], row["use_flat"]) == ("none", "", "masters/f.fits")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("use_flat: /data/f.fits", "relative to the project folder"),
        ("amplifiers: [A]", "expected names with their values"),
        ("amplifiers: {A: {gian: 2}}", "gian cannot be set"),
        ("amplifiers: {A: {gain: two}}", "must be a number"),
        ("amplifiers: {A: {place: '[0:3,1:2]'}}", "whole numbers from 1"),
        ("amplifiers: {A: {bias: '[1:3,1:2]'}}", "list of sections"),
        ("amplifiers: {A: {corner: top}}", "one of ll"),
        ("header: {BZERO: x}", "BZERO must be a number"),
        ("binning: two", "binning must be XxY"),
        ("area: all", "area is 'all'"),
    ],
)
def test_wrong_values_by_hand_are_told(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "overrides.yaml"
    path.write_text(f"- {{files: x, set: {{{text}}}}}\n")
    with pytest.raises(ConfigError, match=said):
        read_overrides(path)


# --- world coordinates ------------------------------------------------------------


def test_h113_coordinates_of_a_mirrored_amplifier_are_those_of_the_frame(tmp_path: Path) -> None:
    from astropy.wcs import WCS

    from skymill.header_wcs import frame_wcs

    wcs = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0,
        "CRPIX1": 30.0, "CRPIX2": 20.0, "CD1_1": -2e-4, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 2e-4,
    }  # fmt: skip
    path = _four(tmp_path / "raw" / "x.fits", [PLACES[3], PLACES[2], PLACES[1], PLACES[0]])
    with fits.open(path, mode="update") as hdus:
        hdus[1].header.update(wcs)
    (row,) = _rows(tmp_path, FOUR)
    assert row["wcs"] == "ok"
    _, header = read_frame(path, row)
    frame = frame_wcs(header, row).wcs
    raw = WCS(fits.Header(wcs))
    truth, stored = _truth(), _amplifier(PLACES[3], _truth())
    for y, x in ((0, 0), (31, 47), (10, 33)):
        there = np.argwhere(truth == stored[y, x])[0]
        np.testing.assert_allclose(
            frame.all_pix2world(there[1], there[0], 0), raw.all_pix2world(x, y, 0), atol=1e-9
        )
