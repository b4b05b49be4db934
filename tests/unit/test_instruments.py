"""Instrument files are strict, found in order, and chosen by header."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from skymill.cards import Card, RawHeader
from skymill.errors import ConfigError
from skymill.instruments import (
    all_instruments,
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


TWO = "name: x\namplifiers:\n  - {name: A}\n"
MANY = "name: x\nhdu: amplifiers\namplifiers: [{name: A, hdu: 1}, {name: B, hdu: 2}]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\ngian: {constant: 2}\n", r"gian: Extra inputs"),
        ("name: x\ngain: {constant: two}\n", r"gain\.constant"),
        ("name: X Y\n", "name: String should match"),
        ("name: x\nkinds: [{kind: lamp, when: {A: 1}}]\n", r"kinds\.0\.kind"),
        ("name: x\nkinds: [{kind: bias}]\n", "needs `when` or `file`"),
        (
            TWO + "  - {name: B, data: {constant: '[1:2,3]'}}\n",
            r"amplifiers\.1\.data\.constant: .*x1:x2",
        ),
        (TWO + "  - {name: A}\n", "amplifiers: the name A is used twice"),
        (TWO + "  - {name: B, hdu: 2}\n", r"amplifiers\.B\.hdu: needed with `hdu: amplifiers`"),
        (TWO + "hdu: amplifiers\n", r"amplifiers\.A\.hdu: needed"),
        (TWO + "crosstalk: {A: {B: 1.0e-4}}\n", r"crosstalk\.A: B is not an amplifier"),
        (TWO + "crosstalk: {A: {A: 1.0e-4}}\n", r"crosstalk\.A: .*with itself"),
        (TWO + "detectors: [{name: N, amplifiers: [A]}]\n", "detectors: only with"),
        (MANY + "detectors: [{name: N, amplifiers: [A, C]}]\n", r"detectors\.N: C is not an ampl"),
        (MANY + "detectors: [{name: N, amplifiers: [A]}]\n", r"detectors: the amplifiers \['B'\]"),
        (
            MANY + "detectors: [{name: N, amplifiers: [A]}, {name: M, amplifiers: [A, B]}]\n",
            r"detectors\.M: A belongs to N already",
        ),
        (
            MANY + "detectors: [{name: N, amplifiers: [A]}, {name: N, amplifiers: [B]}]\n",
            "detectors: the name N is used twice",
        ),
        ("name: x\nhdu: amplifiers\n", "`amplifiers` is empty"),
        ("name: x\nhdu: -1\n", r"hdu"),
        ("name: x\nlinearity: {polynomial: [-1.0e-4]}\n", "linearity: .*does not grow above"),
        ("name: x\nlinearity: {table: [[1, 2], [2, 1]]}\n", "linearity: .*must grow"),
        ("name: x\nlinearity: {}\n", "linearity: give either"),
        ("name: x\ngain: {by_mode: {a b: 1, A-B: 2}}\n", r"gain\.by_mode: two of the modes"),
        ("name: x\nchannels: {R: '[0::2]'}\n", r"channels: R: .*expected \[y0::step"),
        ("name: x\nchannels: {R: '[2::2,0::2]'}\n", "channels: R"),
        ("name: x\nchannels: {../R: '[0::2,0::2]'}\n", "no name for a channel"),
        ("name: x\nsubframe: [X0]\n", "subframe: two keywords"),
        ("name: x\narea: {origin: [X0]}\n", r"area\.origin: two keywords"),
        ("name: x\ndatasec: {constant: {xmin: 4, xmax: 2, ymin: 0, ymax: 1}}\n", "0 <= min < max"),
        ("- 1\n", "expected keys and values"),
        ("name: [\n", "not valid YAML"),
    ],
)
def test_a_wrong_file_says_which_key(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_instrument(path)


def test_areas_in_either_notation_and_one_or_several_overscans(tmp_path: Path) -> None:
    """A2, A7: areas counted from 0 without the upper bound, or FITS sections."""
    path = tmp_path / "x.yaml"
    path.write_text(
        "name: x\ndatasec: {constant: {xmin: 0, xmax: 4096, ymin: 20, ymax: 4116}}\n"
        "biassec: [{constant: {xmin: 0, xmax: 4096, ymin: 0, ymax: 10}}, {keywords: [BIASSEC]}]\n"
    )
    one = load_instrument(path)
    assert one.datasec.constant == "[1:4096,21:4116]"
    assert [rule.constant for rule in one.biassec] == ["[1:4096,1:10]", None]
    path.write_text("name: x\nbiassec: {constant: '[1:4,1:9]'}\nchannels: pattern\n")
    one = load_instrument(path)
    assert [rule.constant for rule in one.biassec] == ["[1:4,1:9]"]
    assert one.channels == {}


def test_electronics_are_plain_data(tmp_path: Path) -> None:
    import json

    path = tmp_path / "x.yaml"
    path.write_text(
        "name: x\nlinearity: {table: [[100, 101], [50000, 52000]]}\namplifiers:\n"
        "  - {name: A, linearity: {polynomial: [1.0e-7, 2.0e-13]}}\n  - {name: B}\n"
        "crosstalk: {B: {A: 1.2e-4}}\n"
    )
    told = load_instrument(path).electronics()
    assert json.loads(json.dumps(told)) == told
    assert told == {
        "linearity": {
            "": {"table": [[100.0, 101.0], [50000.0, 52000.0]]},
            "A": {"polynomial": [1e-7, 2e-13]},
        },
        "crosstalk": {"B": {"A": 1.2e-4}},
    }
    assert load_instrument("generic").electronics() == {"linearity": {}, "crosstalk": {}}


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
    assert find_instrument(header, "2024/west", all_instruments([tmp_path])).name == "west"
    assert find_instrument(header, "2024/east", all_instruments([tmp_path])).name == "east"


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
    from pydantic import BaseModel

    from skymill import instruments

    models = [one for one in vars(instruments).values() if isinstance(one, type)]
    names = {
        name for one in models if issubclass(one, BaseModel) for name in one.model_fields
    } | set(Instrument.model_fields)
    missing = [n for n in sorted(names) if f"`{n}" not in text and f" {n}: " not in text]
    assert not missing


def test_every_field_has_its_meaning_beside_it() -> None:
    import ast
    import inspect

    from skymill.instruments import amplifiers, model, rules

    for module in (amplifiers, model, rules):
        for node in ast.parse(inspect.getsource(module)).body:
            if not isinstance(node, ast.ClassDef):
                continue
            for field, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign):
                    said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                    assert said, f"{node.name}.{ast.unparse(field.target)}"


def test_documented_examples_are_valid(repository: Path, tmp_path: Path) -> None:
    import re

    from skymill.ingest import read_overrides

    blocks = re.findall(
        r"```yaml\n(.*?)```", (repository / "docs" / "instruments.md").read_text(), re.S
    )
    names = []
    for block in blocks:
        if block.startswith("name:"):
            (tmp_path / "mine.yaml").write_text(block)
            names.append(load_instrument(tmp_path / "mine.yaml").name)
        elif block.startswith("- files:"):
            (tmp_path / "overrides.yaml").write_text(block)
            assert read_overrides(tmp_path / "overrides.yaml").entries
    assert {"mycamera", "fouramps"} <= set(names)
