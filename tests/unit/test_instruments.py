"""Instrument files are strict, found in order, and chosen by header."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from skymill.cards import Card, RawHeader
from skymill.errors import ConfigError
from skymill.instruments import (
    find_instrument,
    holds,
    instrument_directories,
    instrument_names,
    load_instrument,
    normal,
)

if TYPE_CHECKING:
    from pathlib import Path


def _header(**cards: object) -> RawHeader:
    return RawHeader([Card(key.replace("__", "-"), value) for key, value in cards.items()])


def test_every_packaged_file_is_valid_and_bears_its_name() -> None:
    names = instrument_names()
    assert {"nickel", "lowell42", "sbig_st7", "generic"} <= set(names)
    for name in names:
        assert load_instrument(name).name == name


def test_users_files_hide_packaged_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nickel.yaml").write_text("name: nickel\ndescription: mine\n")
    monkeypatch.setenv("SKYMILL_INSTRUMENTS", str(tmp_path))
    assert instrument_directories()[0] == tmp_path
    assert load_instrument("nickel").description == "mine"
    assert load_instrument(tmp_path / "nickel.yaml").description == "mine"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\ngian: {constant: 2}\n", r"gian: Extra inputs"),
        ("name: x\ngain: {constant: two}\n", r"gain\.constant"),
        ("name: X Y\n", "name: String should match"),
        ("name: x\nkinds: [{kind: lamp, when: {A: 1}}]\n", r"kinds\.0\.kind"),
        ("name: x\nkinds: [{kind: bias}]\n", "needs `when` or `file`"),
        ("- 1\n", "expected keys and values"),
        ("name: [\n", "not valid YAML"),
    ],
)
def test_a_wrong_file_says_which_key(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_instrument(path)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"NO_PROFILE.*'nickle'.*nickel"):
        load_instrument("nickle")


def test_instrument_is_told_by_the_header() -> None:
    assert find_instrument(_header(INSTRUME="Nickel Direct Camera  ")).name == "nickel"
    assert find_instrument(_header(LCAMMOD="nasa42", LTELMOD="hall")).name == "lowell42"
    assert find_instrument(_header(INSTRUME="something else")).name == "generic"
    assert find_instrument(RawHeader([])).name == "generic"


def test_a_folder_decides_between_two_that_fit(tmp_path: Path) -> None:
    for name in ("east", "west"):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\nmatch: [{{INSTRUME: twin}}]\n")
    (tmp_path / "generic.yaml").write_text("name: generic\n")
    header = _header(INSTRUME="twin")
    assert find_instrument(header, "2024/west", [tmp_path]).name == "west"
    assert find_instrument(header, "2024/east", [tmp_path]).name == "east"


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"IMAGETYP": "light frame"}, True),
        ({"IMAGETYP": "LIGHT*"}, True),
        ({"IMAGETYP": "dark"}, False),
        ({"NOTHING|IMAGETYP": ["dark", "light-frame"]}, True),
        ({"EMPTY|IMAGETYP": "lightframe"}, True),
        ({"EXPTIME": 0}, True),
        ({"EXPTIME": 1}, False),
        ({"GAIN": {"min": 1, "max": 2}}, True),
        ({"GAIN": {"min": 2}}, False),
        ({"NOTHING": None}, True),
        ({"GAIN": None}, False),
        ({"DONE": True}, True),
        ({"DONE": 1}, False),
        ({"IMAGETYP": "light*", "EXPTIME": 5}, False),
    ],
)
def test_conditions(conditions: dict[str, object], expected: bool) -> None:
    header = _header(IMAGETYP="Light Frame", EMPTY="  ", EXPTIME=0.0, GAIN="1.5", DONE=True)
    assert holds(conditions, header) is expected


def test_comparison_ignores_case_blanks_and_hyphens() -> None:
    assert normal("Sky-Flat ") == normal("SKY_FLAT") == normal("skyflat")


def test_every_field_is_documented(repository: Path) -> None:
    from skymill.instruments import Instrument

    text = (repository / "docs" / "instruments.md").read_text()
    missing = [name for name in Instrument.model_fields if f"`{name}`" not in text]
    assert not missing


def test_documented_examples_are_valid(repository: Path, tmp_path: Path) -> None:
    import re

    from skymill.ingest import read_overrides

    blocks = re.findall(
        r"```yaml\n(.*?)```", (repository / "docs" / "instruments.md").read_text(), re.S
    )
    instrument, overrides = blocks
    (tmp_path / "mycamera.yaml").write_text(instrument)
    (tmp_path / "overrides.yaml").write_text(overrides)
    assert load_instrument(tmp_path / "mycamera.yaml").dark == "needed"
    assert len(read_overrides(tmp_path / "overrides.yaml").entries) == 4
