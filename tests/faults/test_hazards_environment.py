"""Hazards of the place where ingest runs: files, links, limits, locale, interruption."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
from pathlib import Path
from skymill.ingest import ingest
from skymill.sheet import write_sheet
raw, sheet, cache = (Path(p) for p in sys.argv[1:4])
found = ingest(raw, cache=cache)
write_sheet(sheet, found.rows)
print(len(found.rows), found.n_read)
"""


def _filled(maker: Any, count: int) -> None:
    for number in range(count):
        maker.base(
            maker.pixels(),
            path=maker.folder / f"{number:03d}.fits",
            DATE__OBS=f"2024-01-02T03:{number // 60:02d}:{number % 60:02d}",
        )


def _command(maker: Any, place: Path, *options: str) -> list[str]:
    paths = (maker.folder, place / "frames.csv", place / "cache.json")
    return [sys.executable, *options, "-c", SCRIPT, *map(str, paths)]


def _run(command: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, text=True, capture_output=True, check=False, timeout=120, **more
    )


def test_h191_file_that_cannot_be_opened_is_rejected_and_read_again(
    maker: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from skymill.ingest import ingest

    _filled(maker, 2)
    real = Path.open

    def closed(self: Path, *args: Any, **more: Any) -> Any:
        if self.name == "001.fits":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, *args, **more)

    cache = tmp_path / "cache.json"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", closed)
        first = ingest(maker.folder, cache=cache)
    assert [row["code"] for row in first.rows] == ["", "UNREADABLE"]
    second = ingest(maker.folder, cache=cache)
    assert [row["code"] for row in second.rows] == ["", ""]
    assert second.n_read == 1


def test_h197_modification_time_decides_nothing(maker: Any, rows_of: Any) -> None:
    from skymill.ingest import ingest

    maker.base()
    before = rows_of(maker)
    for moment in (0, 4e9):
        os.utime(maker.path, (moment, moment))
        found = ingest(maker.folder)
        assert found.rows == before
        assert any("CLOCK_SKEW" in note for note in found.notes)


def test_h038_growing_file_is_read_again_when_it_is_whole(maker: Any, tmp_path: Path) -> None:
    from skymill.ingest import ingest

    maker.base()
    content = maker.path.read_bytes()
    maker.path.write_bytes(content[:9000])
    cache = tmp_path / "cache.json"
    (row,) = ingest(maker.folder, cache=cache, settle_s=3600.0).rows
    assert (row["verdict"], row["code"]) == ("rejected", "GROWING")
    moment = maker.path.stat().st_mtime_ns
    maker.path.write_bytes(content)
    os.utime(maker.path, ns=(moment, moment))
    (row,) = ingest(maker.folder, cache=cache, settle_s=3600.0).rows
    assert row["verdict"] == "ok"


def test_h206_temporary_files_of_a_dead_run_are_no_data(maker: Any, rows_of: Any) -> None:
    maker.base()
    (maker.folder / ".x.fits.tmp123").write_bytes(maker.path.read_bytes())
    assert [row["path"] for row in rows_of(maker)] == ["x.fits"]


def test_h202_few_open_files_are_enough(maker: Any, tmp_path: Path) -> None:
    _filled(maker, 80)
    limited = [sys.executable, "-c", "import resource, subprocess, sys; "
               "resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)); "
               "sys.exit(subprocess.call(sys.argv[1:]))"]  # fmt: skip
    done = _run([*limited, *_command(maker, tmp_path)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["80", "80"]


PLACES = [
    ("H213", {"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"}, ()),
    ("H213", {"TZ": "Pacific/Auckland"}, ()),
    ("H213", {"LC_ALL": "C", "PYTHONUTF8": "0"}, ()),
    ("H214", {}, ("-W", "error")),
    ("H215", {"HOME": "/nonexistent", "XDG_CONFIG_HOME": "/nonexistent"}, ()),
]


@pytest.mark.parametrize(
    ("hazard", "environment", "options"),
    PLACES,
    ids=[f"{case[0]}-{number}" for number, case in enumerate(PLACES)],
)
def test_surroundings_change_no_byte_of_the_sheet(
    hazard: str, environment: dict[str, str], options: Any, maker: Any, tmp_path: Path
) -> None:
    maker.base(path=maker.folder / "a.fits", OBJECT="it's odd", EXPTIME="30,5", TIMESYS="TDB")
    maker.base(maker.pixels(), path=maker.folder / "b.fits", RADECSYS="FK4", EQUINOX=1950.0)
    (tmp_path / "plain").mkdir()
    (tmp_path / "odd").mkdir()
    plain = _run(_command(maker, tmp_path / "plain"))
    assert plain.returncode == 0, plain.stderr
    odd = _run(_command(maker, tmp_path / "odd", *options), env={**os.environ, **environment})
    assert odd.returncode == 0, odd.stderr
    sheets = [(tmp_path / name / "frames.csv").read_bytes() for name in ("plain", "odd")]
    assert sheets[0] == sheets[1]


def test_h204_killed_at_any_moment_leaves_nothing_half_written(maker: Any, tmp_path: Path) -> None:
    """The sheet is absent or whole after a kill, and the next run gives the same bytes."""
    _filled(maker, 60)
    whole, place = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    place.mkdir()
    began = time.monotonic()
    assert _run(_command(maker, whole)).returncode == 0
    took = time.monotonic() - began
    right = (whole / "frames.csv").read_bytes()
    sheet = place / "frames.csv"
    moments = random.Random(204)
    for _ in range(6):
        process = subprocess.Popen(_command(maker, place), cwd=ROOT, stdout=subprocess.DEVNULL)
        time.sleep(took * moments.uniform(0.3, 1.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not sheet.exists() or sheet.read_bytes() == right
    assert _run(_command(maker, place)).returncode == 0
    assert sheet.read_bytes() == right


def test_h205_sheet_is_on_the_disk_before_it_has_its_name(
    maker: Any, rows_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skymill.sheet import write_sheet

    maker.base()
    rows = rows_of(maker)
    calls: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), sync(fd))[1])
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (calls.append("rename"), replace(self, to))[1]
    )
    write_sheet(tmp_path / "frames.csv", rows)
    assert calls[:2] == ["fsync", "rename"]


def test_h201_full_disk_leaves_the_earlier_sheet(
    maker: Any, rows_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skymill.sheet import write_sheet

    maker.base()
    rows = rows_of(maker)
    sheet = tmp_path / "frames.csv"
    write_sheet(sheet, rows)
    before = sheet.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_sheet(sheet, [])
    assert sheet.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["frames.csv"]


def test_h207_two_scans_at_once_agree(maker: Any, tmp_path: Path) -> None:
    _filled(maker, 30)
    running = [
        subprocess.Popen(_command(maker, tmp_path), cwd=ROOT, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    before = (tmp_path / "frames.csv").read_bytes()
    assert _run(_command(maker, tmp_path)).stdout.split() == ["30", "0"]
    assert (tmp_path / "frames.csv").read_bytes() == before


def test_h203_memory_of_a_job_grows_with_each_attempt() -> None:
    rules = (ROOT / "workflow" / "rules" / "common.smk").read_text(encoding="utf-8")
    assert "mb * attempt" in rules


def test_h208_slow_file_systems_are_waited_for() -> None:
    profile = (ROOT / "workflow" / "profiles" / "slurm" / "config.yaml").read_text("utf-8")
    assert "latency-wait:" in profile


# --- servers of catalogues ---


def _service_at(port: int) -> Any:
    """Asks a server on this machine as the clients of catalogues do, over HTTP."""
    from urllib.request import urlopen

    def ask(_query: Any, timeout_s: float) -> Any:
        from astropy.table import Table

        with urlopen(f"http://127.0.0.1:{port}/", timeout=timeout_s) as answer:
            return Table.read(answer, format="votable")

    return ask


def _listening() -> Any:
    import socket

    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    return server


def test_h209_closed_port_is_unreachable_and_no_empty_sky(tmp_path: Path) -> None:
    from skymill.catalog_tables import Region
    from skymill.remote_catalogs import Unreachable, fetch

    with _listening() as server:  # bound but not listening: connections are refused
        port = server.getsockname()[1]
        waits: list[float] = []
        got = fetch("gaia", Region(10.0, 20.0, 0.1), tmp_path, attempts=2, timeout_s=5.0,
                    transport=_service_at(port), wait=waits.append)  # fmt: skip
    assert isinstance(got, Unreachable)
    assert got.attempts == 2
    assert "refused" in got.why
    assert len(waits) == 1
    assert not list(tmp_path.iterdir())


def test_h209_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    from skymill.catalog_tables import Region
    from skymill.remote_catalogs import Unreachable, fetch

    with _listening() as server:
        server.listen(1)  # connects, and then says nothing
        port = server.getsockname()[1]
        start = time.monotonic()
        got = fetch("gaia", Region(10.0, 20.0, 0.1), tmp_path, attempts=2, timeout_s=0.3,
                    transport=_service_at(port), wait=lambda _: None)  # fmt: skip
        assert time.monotonic() - start < 10
    assert isinstance(got, Unreachable)
    assert "timed out" in got.why
