"""Programs of others: missing, of another name or version, failing silently."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from skymill.programs import Program, ProgramError, find_program, run_program


def _script(folder: Path, name: str, body: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


def test_h210_missing_program_is_told_with_its_names_and_purpose(monkeypatch, tmp_path):
    """H210: empty PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramError, match="TOOL_MISSING: stacking needs .* SWarp or swarp"):
        find_program(("SWarp", "swarp"), purpose="stacking")


def test_h210_other_name_is_found_and_the_version_recorded(place: Path):
    """H210: SWarp / swarp; the version is known before the work begins."""
    _script(place, "stacker", 'echo "SWarp 2.41.5 (2022-06-02)"')
    names = ("Stacker", "stacker")  # as SWarp and swarp
    found = find_program(names, purpose="stacking", version_args=("-v",))
    assert (found.name, found.version) == ("stacker", "2.41.5")


def test_h210_program_that_is_too_old_is_refused(place: Path):
    _script(place, "stacker", 'echo "SWarp 2.19.1"')
    with pytest.raises(ProgramError, match=r"TOOL_MISSING.*2\.38 or newer; found 2\.19\.1"):
        find_program(("stacker",), purpose="stacking", minimum=(2, 38))
    assert find_program(("stacker",), purpose="stacking", minimum=(2, 19)).version == "2.19.1"


def test_program_that_does_not_tell_its_version_is_still_found(place: Path):
    _script(place, "silent", "exit 3")
    assert find_program(("silent",), purpose="a test").version == ""


CASES = {
    "returns 0 with no output": ("echo all fine", "did not write out.fits.*all fine"),
    "returns 0 with an empty output": (": > out.fits", "out.fits is empty"),
    "ends with an error": ("echo no memory >&2; exit 4", "ended with code 4.*no memory"),
    "crashes": ("kill -SEGV $$", "ended by signal 11"),
    "hangs": ("echo half; exec sleep 30", "stopped after 0.5 s"),
}


@pytest.mark.parametrize("case", CASES)
def test_h211_failure_of_a_program_is_seen_whatever_it_returns(place, tmp_path, case):
    """H211: stub scripts."""
    body, words = CASES[case]
    path = _script(place, "stub", body)
    old = tmp_path / "out.fits"
    old.write_text("of an earlier run")
    with pytest.raises(ProgramError, match=words) as failure:
        run_program(Program("stub", str(path)), [], outputs=["out.fits"], folder=tmp_path,
                    timeout_s=0.5 if case == "hangs" else 30)  # fmt: skip
    assert failure.value.code == "TOOL_FAILED"


def test_h211_success_needs_the_output(place: Path, tmp_path: Path):
    path = _script(place, "stub", 'echo "$1" > out.fits; echo said')
    said = run_program(Program("stub", str(path)), ["x"], outputs=["out.fits"], folder=tmp_path)
    assert said.strip() == "said"
    assert (tmp_path / "out.fits").read_text().strip() == "x"


def test_only_the_last_lines_of_a_long_story_are_told(place: Path):
    path = _script(
        place, "stub", f"{sys.executable} -c 'print(\"\\n\".join(map(str, range(99))))'; exit 1"
    )
    with pytest.raises(ProgramError) as failure:
        run_program(Program("stub", str(path)), [])
    assert "98" in str(failure.value)
    assert "42" not in str(failure.value)


def test_a_program_that_vanished_is_missing(tmp_path: Path):
    with pytest.raises(ProgramError, match="TOOL_MISSING"):
        run_program(Program("gone", str(tmp_path / "gone")), [])
