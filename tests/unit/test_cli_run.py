"""skymill run: its command, its environment, its progress, its ways to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from skymill.cli import main
from skymill.commands import run, snakemake_run
from skymill.commands.init import make_project
from skymill.commands.project import Project
from skymill.commands.snakemake_run import command, environment, explanation, follow, has_flag
from skymill.errors import SkymillError
from skymill.sheet import empty_row, frame_id, write_sheet
from skymill.workflow_files import workflow_root


@pytest.fixture
def project(tmp_path):
    (tmp_path / "raw").mkdir()
    return Project(make_project(tmp_path / "p", tmp_path / "raw"))


@pytest.fixture
def with_sheet(project):
    row = empty_row(
        frame_id=frame_id("a.fits", 0), path="a.fits", hdu=0, verdict="rejected", code="EMPTY"
    )
    write_sheet(project.sheet, [row])
    return project


def after(words, flag):
    return words[words.index(flag) + 1]


# --- the command ---


def test_the_command_is_snakemake_of_this_python_on_this_project(project):
    words = command(project, 3, [])
    root = workflow_root()
    assert words[:3] == [sys.executable, "-m", "snakemake"]
    assert after(words, "-s") == str(root / "Snakefile")
    assert after(words, "-d") == str(project.folder)
    assert after(words, "--cores") == "3"
    assert after(words, "--scheduler") == "greedy"
    assert after(words, "--workflow-profile") == str(root / "workflow" / "profiles" / "default")
    assert "--rerun-incomplete" in words


@pytest.mark.parametrize(
    ("flags", "absent"),
    [
        (["--scheduler", "ilp"], "greedy"),
        (["--scheduler=ilp"], "greedy"),
        (["-j", "7"], "--cores"),
        (["-j7"], "--cores"),
        (["--jobs=7"], "--cores"),
        (["--workflow-profile", "mine"], "--cores"),
        (["--profile", "mine"], "--workflow-profile"),
    ],
)
def test_flags_of_the_user_win(project, flags, absent):
    words = command(project, 3, flags)
    assert words[-len(flags) :] == flags
    assert absent not in words


def test_unknown_flags_and_targets_pass_through_in_order(project, monkeypatch, with_sheet):
    seen = []

    def follow(project, words, env, cores):
        seen.extend(words)
        raise SkymillError("stop here")

    monkeypatch.setattr(snakemake_run, "follow", follow)
    flags = ["results/x.fits", "--forcerun", "mask", "stack", "--rerun-triggers", "mtime", "-k"]
    assert main(["run", "-d", str(project.folder), "-c", "2", *flags]) == 1
    assert seen[-len(flags) :] == flags
    assert after(seen, "--cores") == "2"


def test_the_profiles_of_the_workflow_have_short_names(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = str(workflow_root() / "workflow" / "profiles" / "slurm")
    assert command(project, 1, ["--profile", "slurm"])[-1] == own
    assert command(project, 1, ["--profile=slurm"])[-1] == f"--profile={own}"
    (tmp_path / "slurm").mkdir()
    assert command(project, 1, ["--profile", "slurm"])[-1] == "slurm"


@pytest.mark.parametrize("flags", [["-n"], ["-np"], ["-pn"], ["-nq"], ["--dry-run"], ["--dryrun"]])
def test_a_dry_run_is_recognised(flags):
    assert has_flag(flags, *run.DRY)


@pytest.mark.parametrize("flags", [["--nocolor"], ["-p"], ["--notemp"], ["results/n.fits"], ["-k"]])
def test_other_flags_are_no_dry_run(flags):
    assert not has_flag(flags, *run.DRY)


def test_threads_are_pinned(project, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    env = environment()
    assert {env[name] for name in snakemake_run.PINNED} == {"1"}
    assert env["PATH"] == os.environ["PATH"]


# --- before any job ---


def test_a_misspelt_setting_stops_before_anything_runs(with_sheet, capsys, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(subprocess, "run", None)
    with with_sheet.config.open("a") as stream:
        stream.write("mask:\n  sigklip: 4\n")
    assert main(["run", "-d", str(with_sheet.folder)]) == 2
    told = capsys.readouterr().err
    assert "mask.sigklip is not a setting, did you mean 'sigclip'?" in told
    assert len(told.splitlines()) == 1
    assert not with_sheet.results.exists()


def test_results_that_cannot_be_written_stop_before_anything_runs(with_sheet, capsys, monkeypatch):
    # A file where the folder should be fails for every user, also for root.
    monkeypatch.setattr(subprocess, "Popen", None)
    with_sheet.results.write_text("")
    assert main(["run", "-d", str(with_sheet.folder)]) == 1
    told = capsys.readouterr().err
    assert "cannot write into" in told
    assert "results" in told


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_results_folder_stops_before_anything_runs(with_sheet):
    with_sheet.results.mkdir(mode=0o500)
    with pytest.raises(SkymillError, match="cannot write into"):
        run.check_writable(with_sheet)


def test_a_missing_raw_folder_is_told_with_the_place_looked_at(project, capsys):
    project.raw.rmdir()
    assert main(["run", "-d", str(project.folder)]) == 2
    assert "raw = '../raw' is not a folder (looked at" in capsys.readouterr().err


def test_questions_need_a_sheet_and_write_nothing(project, capsys):
    assert main(["run", "-d", str(project.folder), "--summary"]) == 2
    assert "no sheet yet" in capsys.readouterr().err
    assert sorted(path.name for path in project.folder.iterdir()) == [".gitignore", "config"]


# --- while it runs; a script of a few lines plays Snakemake ---


def player(code):
    return [sys.executable, "-c", textwrap.dedent(code)]


def test_everything_said_goes_to_the_log_and_progress_to_stderr(with_sheet, capfd):
    words = player("""
        import sys
        print("Job stats:\\nmask 1\\ntotal 1\\n", flush=True)
        print("rule mask:\\n    jobid: 1\\nFinished jobid: 1 (Rule: mask)", file=sys.stderr)
        print("1 of 1 steps (100%) done")
    """)
    ended = follow(with_sheet, words, dict(os.environ), 1)
    assert (ended.code, ended.interrupted) == (0, False)
    log = (with_sheet.folder / "logs" / "snakemake.log").read_text()
    assert "1 of 1 steps" in log
    assert "Finished jobid: 1" in log
    assert ended.tracker.status(0.0).jobs_done == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "mask" in err
    assert "Job stats" not in err


def test_a_failed_job_is_told_with_rule_log_and_hint(with_sheet):
    log = with_sheet.folder / "logs" / "mask" / "b.log"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {i}\n" for i in range(40)) + "OSError: No space left on device\n")
    words = player("""
        print("Error in rule mask:\\n    message: None\\n    jobid: 3")
        print("    log: logs/mask/b.log (check log file(s) for error details)")
        print("    wildcards: block=b\\nShutting down, this might take some time.")
        raise SystemExit(1)
    """)
    ended = follow(with_sheet, words, dict(os.environ), 1)
    told = explanation(with_sheet, ended)
    assert "the run stopped: mask failed (block=b)" in told
    assert "| OSError: No space left on device" in told
    assert "line 39" in told
    assert "line 5\n" not in told
    assert "hint: the disk is full" in told
    assert "snakemake.log" in told


def test_a_failure_without_a_job_shows_the_last_words(with_sheet):
    words = player('print("MissingInputException: no such thing"); raise SystemExit(1)')
    told = explanation(with_sheet, follow(with_sheet, words, dict(os.environ), 1))
    assert "Snakemake ended with code 1" in told
    assert "| MissingInputException: no such thing" in told


def test_a_stale_lock_is_explained_with_the_command_that_removes_it(with_sheet):
    words = player(
        'print("LockException:\\nError: Directory cannot be locked. Please"); raise SystemExit(1)'
    )
    told = explanation(with_sheet, follow(with_sheet, words, dict(os.environ), 1))
    assert "is locked" in told
    assert "--unlock" in told


#: Plays Snakemake with one job: notes how often it is interrupted and how the job ended.
CHILD = """
import pathlib, subprocess, sys, time
job = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"],
                       stderr=subprocess.DEVNULL)
times = 0
for wait in (30, 0.5):
    try:
        if wait == 30:
            print("rule mask:\\n    jobid: 1", flush=True)
        time.sleep(wait)
    except KeyboardInterrupt:
        times += 1
pathlib.Path(sys.argv[1]).write_text(f"{times} {job.wait(timeout=5) != 0}")
sys.exit(1)
"""

#: Where tests run in the background SIGINT may be ignored, and children inherit that.
HOST = """
import os, pathlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from skymill.commands.project import Project
from skymill.commands.snakemake_run import explanation, follow
project = Project(pathlib.Path(sys.argv[1]))
ended = follow(project, [sys.executable, *sys.argv[2:]], dict(os.environ), 1)
print(explanation(project, ended))
sys.exit(130 if ended.interrupted else 0)
"""


def test_ctrl_c_reaches_snakemake_once_and_its_jobs_and_says_how_to_resume(with_sheet, tmp_path):
    """A real signal to a real process; what plays Snakemake writes down what it got."""
    notes, child, host = tmp_path / "notes", tmp_path / "child.py", tmp_path / "host.py"
    child.write_text(CHILD)
    host.write_text(HOST)
    arguments = [str(with_sheet.folder), str(child), str(notes)]
    process = subprocess.Popen(
        [sys.executable, str(host), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = with_sheet.folder / "logs" / "snakemake.log"
    deadline = time.monotonic() + 120
    while not (log.is_file() and "jobid" in log.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert notes.read_text() == "1 True"
    assert "stopping" in err
    assert f"To resume: `skymill run -d {with_sheet.folder}`" in out


def test_the_jobs_of_a_run_are_counted_by_fresh_outcomes_only(tmp_path):
    folder = tmp_path / "mask"
    folder.mkdir()
    old, new = folder / "old.csv", folder / "new.csv"
    for path in (old, new):
        path.write_text("frame_id,step\na,mask\nb,mask\n" + f"{path.stem},mask\n")
    os.utime(old, (1, 1))
    counter = snakemake_run._Counter(tmp_path, time.time() - 5)
    assert counter("mask") == 2
    assert counter("mask") == 2
    assert counter("stack") is None


def test_newer_overrides_are_told(tmp_path):
    from skymill.commands.run import _is_newer

    one, other = tmp_path / "overrides.yaml", tmp_path / "frames.csv"
    other.write_text("")
    assert not _is_newer(one, other)
    one.write_text("")
    os.utime(one, (2e9, 2e9))
    assert _is_newer(one, other)
