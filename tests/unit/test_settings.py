"""The settings are strict, and what is generated from them does not drift."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from skymill.errors import ConfigError
from skymill.settings import (
    STEPS,
    Settings,
    check_paths,
    generated_files,
    load_settings,
    validate_settings,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", sorted(generated_files(ROOT)))
def test_generated_files_do_not_drift(path, repository):
    there = (repository / path).read_text(encoding="utf-8")
    assert there == generated_files(ROOT)[path], f"run `make generate`: {path} is out of date"


def test_default_config_loads_to_the_defaults(repository):
    assert load_settings(repository / "config" / "config.yaml") == Settings(raw="raw")


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (
            {"raw": "x", "mask": {"sigclp": 5}},
            "mask.sigclp is not a setting, did you mean 'sigclip'",
        ),
        ({"raw": "x", "maks": {}}, "maks is not a setting, did you mean 'mask'"),
        ({"raw": "x", "mask": {"sigclip": -1}}, "mask.sigclip = -1: .*greater than 0"),
        ({"mask": {}}, "raw is missing"),
        ({"raw": "x", "photometry": {"main_aperture": 9}}, "only 3 apertures"),
    ],
)
def test_mistakes_are_said_in_one_line(tree, said):
    with pytest.raises(ConfigError, match=said) as caught:
        validate_settings(tree)
    assert "\n" not in str(caught.value)


def test_missing_file_says_how_to_begin(tmp_path):
    with pytest.raises(ConfigError, match="skymill init"):
        load_settings(tmp_path / "none.yaml")


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Settings(raw="x").mask.sigclip = 3


def _fields(model, prefix=""):
    for name, info in model.model_fields.items():
        kind = info.annotation
        if hasattr(kind, "model_fields"):
            yield from _fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info


def test_every_setting_is_described():
    missing = [name for name, info in _fields(Settings) if not info.description]
    assert not missing


def test_steps_are_in_the_order_of_the_chain():
    assert (
        STEPS.index("calibrate")
        < STEPS.index("mask")
        < STEPS.index("stack")
        < STEPS.index("report")
    )


def test_a_key_written_twice_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("raw: x\nmask:\n  sigclip: 6\nmask:\n  sigclip: 7\n")
    with pytest.raises(ConfigError, match="mask is written twice .again in line 4"):
        load_settings(path)


def test_a_missing_reference_catalogue_is_told(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(ConfigError, match="reference = 'no.csv' is not a file"):
        check_paths(validate_settings({"raw": "x", "reference": "no.csv"}), tmp_path)


def test_a_raw_folder_that_is_gone_stops_the_run(tmp_path):
    with pytest.raises(ConfigError, match="raw = 'x' is not a folder"):
        check_paths(validate_settings({"raw": "x"}), tmp_path)
