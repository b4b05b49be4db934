"""`skymill instrument`: draft, check, list, show; and the finding of overscans by pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from astropy.io import fits

from skymill.cli import main
from skymill.ingest import ingest
from skymill.instruments import load_instrument
from skymill.instruments.measure import measure
from skymill.instruments.strips import find_layout
from skymill.instruments.survey import guess_kind, look

if TYPE_CHECKING:
    from pathlib import Path

GAIN, NOISE, BIAS = 1.7, 9.0, 1000.0
#: Image columns 1:200, overscan 201:232; deferred charge in the first columns of it.
SHAPE, IMAGE = (160, 232), 200


def _frame(rng: np.random.Generator, level: float, seed: int = 0) -> np.ndarray:
    """A raw frame: light with its photon noise, deferred charge, read noise, drifting level."""
    pattern = 1 + 0.02 * np.random.default_rng(7).normal(size=(SHAPE[0], IMAGE))
    out = np.full(SHAPE, BIAS + 3.0 * seed)
    out[:, :IMAGE] += rng.poisson(level * GAIN * pattern) / GAIN
    out[:, IMAGE:] += level * 0.05 * np.exp(-np.arange(SHAPE[1] - IMAGE) / 1.5)
    out += rng.normal(0, NOISE / GAIN, SHAPE)
    return np.clip(out.round(), 0, 65535).astype(np.uint16)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six bias frames, six flats and three lights of a camera whose cards say little."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(5)
    number = 0
    for kind, count, level in (("zero", 6, 0.0), ("dflat", 6, 20000.0), ("object", 3, 800.0)):
        for k in range(count):
            seconds = {"zero": 0.0, "dflat": 3.0, "object": 60.0}[kind]
            cards: dict[str, Any] = {
                "OBSTYPE": kind, "CAMERA": "ACME 4k", "TELESCOP": "half metre", "EXPTIME": seconds,
                "DATE-OBS": f"2024-03-05T0{number // 6}:{number % 6}0:00",
                "DATE-END": f"2024-03-05T0{number // 6}:{number % 6}{int(seconds) // 60}:"
                f"{int(seconds) % 60 + 5:02d}",
                "GAIN": 2, "FILTNAM": "V", "TEMPDET": 173.0, "CCDSUM": "1 1",
                "OBJECT": "M 1" if kind == "object" else kind,
            }  # fmt: skip
            pixels = _frame(rng, level * (1 + 0.1 * k), seed=k)
            if kind == "object":
                pixels[20:30, 40:50] = 65535  # a star that saturates
            path = folder / f"f{number:03d}.fits"
            fits.PrimaryHDU(pixels, fits.Header(cards)).writeto(path)
            number += 1
    return folder


def test_overscan_is_found_without_its_deferred_charge() -> None:
    rng = np.random.default_rng(3)
    dark = [_frame(rng, 0.0).astype(np.float32) for _ in range(3)]
    lit = [_frame(rng, 20000.0, seed=k).astype(np.float32) for k in range(3)]
    layout = find_layout(dark, lit)
    assert layout is not None
    assert str(layout.data) == "[1:200,1:160]"
    (strip,) = layout.overscans
    # 1000 exp(-x / 1.5) ADU fall below the limit of 2 ADU after 9.3 columns.
    assert 206 <= strip.x0 <= 212
    assert (strip.x1, strip.y0, strip.y1) == (232, 0, 160)


def test_frames_without_overscan_have_none() -> None:
    rng = np.random.default_rng(3)
    fall = np.linspace(1.0, 0.15, IMAGE)  # strong vignetting is no overscan
    dark = [rng.normal(1000, 5, (160, IMAGE)).astype(np.float32) for _ in range(3)]
    lit = [(rng.normal(1000, 5, (160, IMAGE)) + 20000 * fall).astype(np.float32) for _ in range(3)]
    layout = find_layout(dark, lit)
    assert layout is not None
    assert (str(layout.data), layout.overscans) == ("[1:200,1:160]", ())
    assert find_layout(dark, dark) is None
    assert find_layout([], lit) is None


def test_gain_and_noise_are_measured_to_their_errors(night: Path) -> None:
    survey = look([night])
    from skymill.sections import Section

    data, strip = Section(0, 200, 0, 160), Section(212, 232, 0, 160)
    (found,) = measure(
        survey.of("bias"), survey.of("flat"), lambda s: [(s, data, [strip])], 65535, lambda s: ""
    )
    assert abs(found.gain - GAIN) < 4 * found.gain_error < 0.15 * GAIN
    # 5 frames of 12 boxes of 1600 px: error of a scatter from four pairs below 0.6 %.
    assert found.noise_adu == pytest.approx((NOISE**2 / GAIN**2 + 1 / 12) ** 0.5, rel=0.03)


@pytest.mark.parametrize(
    ("path", "cards", "kind"),
    [
        ("a.fits", {"IMAGETYP": "Dark Frame", "EXPTIME": 0.0}, "bias"),
        ("a.fits", {"IMAGETYP": "Dark Frame", "EXPTIME": 30.0}, "dark"),
        ("a.fits", {"OBSTYPE": "OBJECT", "OBJECT": "sky flat"}, "flat"),
        ("a.fits", {"OBSTYPE": "OBJECT", "OBJECT": "M 1"}, "light"),
        ("bias_001.fits", {}, "bias"),
        ("night/SkyFlat-V.fits", {}, "flat"),
        ("alpind_b1.fit", {}, ""),
    ],
)
def test_guesses_of_the_kind(path: str, cards: dict[str, Any], kind: str) -> None:
    from skymill.cards import Card, RawHeader

    header = RawHeader([Card(key, value) for key, value in cards.items()])
    assert guess_kind(path, header).kind == kind


def test_draft_loads_checks_and_says_what_it_guessed(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "acme.yaml"
    assert main(["instrument", "draft", str(night), "-o", str(output)]) == 0
    text = output.read_text()
    one = load_instrument(output)
    assert one.name == "acme"
    assert one.match == ({"TELESCOP": "half metre", "CAMERA": "ACME 4k"},)
    assert [rule.kind for rule in one.kinds] == ["bias", "flat", "light"]
    assert "6 frames" in text
    assert "# not known: site" in text
    # GAIN = 2 is not what the flats give: it stays a setting.
    assert one.gain.constant == pytest.approx(GAIN, rel=0.05)
    assert [s.keyword for s in one.gain_setting.keywords] == ["GAIN"]
    assert one.read_noise.constant == pytest.approx(NOISE, rel=0.05)
    assert one.saturation.constant == 65535
    assert one.temperature.unit == "K"
    assert one.time.refers_to == "start"
    rows = ingest(night, instrument=str(output)).rows
    assert {row["verdict"] for row in rows} == {"ok", "degraded"}
    assert {row["code"] for row in rows} == {"", "NO_SITE"}
    assert {row["datasec"] for row in rows} == {"[1:200,1:160]"}
    assert {row["temperature_c"] for row in rows} == {-100.15}
    capsys.readouterr()
    assert main(["instrument", "check", str(output), str(night)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("acme: 0 errors")


def test_draft_does_not_overwrite(night: Path, tmp_path: Path) -> None:
    output = tmp_path / "acme.yaml"
    output.write_text("mine")
    assert main(["instrument", "draft", str(night), "-o", str(output)]) == 2
    assert output.read_text() == "mine"


def test_draft_takes_kinds_by_name_of_the_files(night: Path, tmp_path: Path) -> None:
    output = tmp_path / "acme.yaml"
    words = ["instrument", "draft", str(night), "-o", str(output), "--kind", "dark=f00[0-2]*"]
    assert main(words) == 0
    kinds = yaml.safe_load(output.read_text())["kinds"]
    assert {"kind": "dark", "file": "f00[0-2]*"} in kinds
    words[-1] = "lamp=f*"
    assert main([*words[:-3], str(tmp_path / "b.yaml"), *words[-2:]]) == 2


@pytest.mark.parametrize(
    ("change", "level", "subject"),
    [
        ({"match": [{"CAMERA": "other"}]}, "error", "match"),
        ({"kinds": [{"kind": "bias", "when": {"OBSTYPE": "zero"}}]}, "error", "KIND_UNKNOWN"),
        ({"exposure": {"keywords": ["SECONDS"]}}, "error", "MISSING_EXPTIME"),
        ({"biassec": {"constant": "[230:240,1:160]"}}, "error", "BAD_SECTION"),
        ({"datasec": {"constant": "[1:180,1:160]"}, "biassec": {"constant": "[181:200,1:160]"}},
         "error", "biassec"),
        ({"datasec": {"constant": "[1:232,1:160]"}, "biassec": {}}, "error", "datasec"),
        ({"biassec": {}}, "warning", "biassec"),
        ({"gain": {"constant": 3.0}}, "warning", "gain"),
        ({"read_noise": {"constant": 4.0}}, "warning", "read_noise"),
        ({"gain": {}}, "error", "NO_GAIN"),
        ({"gain": {"keywords": ["GAIN"], "range": [5, 50]}}, "error", "GAIN_SUSPECT"),
        ({"set_temperature": {"keywords": ["SETPOINT"]}}, "warning", "set_temperature"),
        ({"time": {"date": ["DATE-OBS"], "valid": ["2000-01-01", "2001-01-01"]}},
         "warning", "CLOCK"),
        ({"kinds": [{"kind": "light", "when": {"OBSTYPE": ["object", "dflat"]}},
                    {"kind": "bias", "when": {"OBSTYPE": "zero"}}]}, "warning", "kinds"),
    ],
)  # fmt: skip
def test_check_says_what_does_not_fit(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    change: dict[str, Any], level: str, subject: str,
) -> None:  # fmt: skip
    """O1: errors and warnings per file."""
    good: dict[str, Any] = {
        "name": "acme",
        "match": [{"CAMERA": "ACME*"}],
        "kinds": [
            {"kind": "bias", "when": {"OBSTYPE": "zero"}},
            {"kind": "flat", "when": {"OBSTYPE": "dflat"}},
            {"kind": "light", "when": {"OBSTYPE": "object"}},
        ],
        "filter": {"keywords": ["FILTNAM"]},
        "datasec": {"constant": "[1:200,1:160]"},
        "biassec": {"constant": "[213:232,1:160]"},
        "gain": {"constant": GAIN},
        "read_noise": {"constant": NOISE},
        "saturation": {"constant": 65535},
        "site": {"longitude": {"constant": 150.0}, "latitude": {"constant": -30.0}},
        "dark": "not_needed",
    }
    path = tmp_path / "acme.yaml"
    path.write_text(yaml.safe_dump({**good, **change}))
    code = main(["instrument", "check", str(path), str(night)])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == [level, subject] for line in lines), "\n".join(lines)
    assert code == (1 if any(line.split()[:1] == ["error"] for line in lines) else 0)
    if level == "error":
        assert code == 1


def test_check_takes_files_and_lets_the_headers_choose(
    night: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(path) for path in sorted(night.glob("*.fits"))[:3]]
    assert main(["instrument", "check", *files]) == 0
    assert capsys.readouterr().out.startswith("generic: 0 errors")


def test_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["instrument", "list"]) == 0
    said = capsys.readouterr().out
    assert "decam" in said
    assert main(["instrument", "show", "nickel"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["name"] == "nickel"
    assert main(["instrument", "show", "nothing"]) == 2


def test_wrong_words_are_errors(tmp_path: Path) -> None:
    assert main(["instrument", "check", "nickel", str(tmp_path / "absent")]) == 2
    assert main(["instrument", "draft", str(tmp_path / "absent")]) == 2
    assert main(["instrument", "check", "mine.yaml"]) == 2
