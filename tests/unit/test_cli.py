"""The command line: arguments, errors, exit codes, making a project."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from skymill import __version__
from skymill.cli import main
from skymill.commands import COMMANDS, load
from skymill.commands.init import make_project
from skymill.commands.project import Project
from skymill.errors import ConfigError, SkymillError
from skymill.settings import load_settings
from skymill.workflow_files import workflow_root

HEAVY = ("numpy", "astropy", "pydantic", "yaml", "numba", "snakemake", "matplotlib")


def test_help_imports_nothing_heavy_and_names_every_command():
    code = (
        "import sys\nfrom skymill.cli import build_parser\n"
        "text = build_parser().format_help()\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\nprint(text)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, _, text = done.stdout.partition("\n")
    assert heavy == "[]"
    for name in COMMANDS:
        assert f"\n    {name} " in text
    assert "10   finished; some frames were rejected" in text


def test_module_and_version():
    done = subprocess.run(
        [sys.executable, "-m", "skymill", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"skymill {__version__}\n"


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == 2
    assert "skymill run" not in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert name in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["rnu"], "no command 'rnu', did you mean 'run'?"),
        (["xyzzy"], "there are demo, init, ingest, run, status"),
        (["status", "--jsno"], "no option '--jsno', did you mean '--json'?"),
        (["init", "x"], "required: --raw"),
        (["run", "--cores", "many"], "expected a number of cores or 'all', got 'many'"),
        (["run", "-c", "0"], "expected a number of cores or 'all', got '0'"),
    ],
)
def test_a_wrong_command_line_is_code_2_and_names_the_right_word(argv, hint, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("config: mask.sigklip is not a setting"), 2, "skymill: config: mask.sigklip"),
        (SkymillError("cannot write into results"), 1, "skymill: cannot write into results"),
        (OSError(28, "No space left on device", "a.fits"), 1, "No space left on device: a.fits"),
        (ZeroDivisionError("x"), 1, "internal error: ZeroDivisionError: x"),
        (KeyboardInterrupt(), 130, "skymill: interrupted"),
    ],
)
def test_an_error_is_a_sentence_and_a_code(error, code, said, capsys, monkeypatch):
    monkeypatch.setattr("skymill.cli.load", lambda name: _with_main(name, error))
    assert main(["status"]) == code
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
    assert len(told.strip().splitlines()) <= 2


@pytest.mark.parametrize("argv", [["--debug", "status"], ["status", "--debug"]])
def test_debug_shows_the_traceback(argv, monkeypatch):
    monkeypatch.setattr("skymill.cli.load", lambda name: _with_main(name, ConfigError("x")))
    with pytest.raises(ConfigError):
        main(argv)


def _with_main(name, error):
    """The real arguments of a command with a main that fails."""
    command = load(name)

    class Broken:
        HELP = command.HELP
        __doc__ = command.__doc__
        add_arguments = staticmethod(command.add_arguments)

        @staticmethod
        def main(args):
            raise error

    return Broken


def test_the_workflow_is_found_beside_the_package(repository):
    assert workflow_root() == repository


def test_the_workflow_is_found_inside_an_installed_package(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "skymill"
    (package / "_workflow" / "workflow" / "rules").mkdir(parents=True)
    (package / "_workflow" / "Snakefile").touch()
    monkeypatch.setattr("skymill.workflow_files.__file__", str(package / "workflow_files.py"))
    assert workflow_root() == package / "_workflow"


def test_a_damaged_installation_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("skymill.workflow_files.__file__", str(tmp_path / "workflow_files.py"))
    with pytest.raises(SkymillError, match="installation is not complete"):
        workflow_root()


# --- init ---


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def test_init_makes_a_project_whose_settings_are_valid(tmp_path, raw, capsys):
    project = tmp_path / "m67"
    assert main(["init", str(project), "--raw", str(raw)]) == 0
    settings = load_settings(project / "config" / "config.yaml")
    assert settings.raw == "../raw"
    assert settings.instrument is None
    assert Project.find(project).raw.resolve() == raw
    assert yaml.safe_load((project / "config" / "overrides.yaml").read_text()) == []
    ignored = (project / ".gitignore").read_text().split()
    assert {"results/", "logs/", "benchmarks/", ".snakemake/", ".skymill/"} <= set(ignored)
    assert "skymill run -d" in capsys.readouterr().out


def test_the_example_in_the_overrides_can_be_used(tmp_path, raw):
    from skymill.ingest import read_overrides

    project = make_project(tmp_path / "p", raw)
    path = project / "config" / "overrides.yaml"
    assert not read_overrides(path).entries
    text = path.read_text()
    example = "\n".join(
        line.removeprefix("# ") for line in text.splitlines() if line.startswith(("# -", "#  "))
    )
    path.write_text(example)
    assert len(read_overrides(path).entries) == 3


def test_a_raw_folder_far_away_is_stored_absolutely(tmp_path):
    raw = tmp_path / "a" / "raw"
    raw.mkdir(parents=True)
    project = make_project(tmp_path / "b" / "c" / "p", raw)
    assert load_settings(project / "config" / "config.yaml").raw == str(raw)


def test_a_raw_folder_inside_the_project_is_stored_relatively(tmp_path):
    raw = tmp_path / "p" / "nights" / "raw"
    raw.mkdir(parents=True)
    project = make_project(tmp_path / "p", raw)
    assert load_settings(project / "config" / "config.yaml").raw == "nights/raw"


def test_odd_characters_in_the_raw_folder_survive(tmp_path):
    raw = tmp_path / 'nuit "é" #1: a'
    raw.mkdir()
    project = make_project(tmp_path / "p", raw)
    assert Project.find(project).raw.resolve() == raw


def test_init_overwrites_nothing(tmp_path, raw):
    project = make_project(tmp_path / "p", raw)
    path = project / "config" / "config.yaml"
    path.write_text("raw: mine\n")
    with pytest.raises(ConfigError, match=r"config\.yaml exists and is not overwritten"):
        make_project(project, raw)
    assert path.read_text() == "raw: mine\n"


def test_init_keeps_a_gitignore(tmp_path, raw):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / ".gitignore").write_text("mine\n")
    make_project(tmp_path / "p", raw)
    assert (tmp_path / "p" / ".gitignore").read_text() == "mine\n"


def test_init_refuses_what_does_not_exist(tmp_path, raw):
    with pytest.raises(ConfigError, match="--raw .*nowhere does not exist"):
        make_project(tmp_path / "p", tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--raw .*file is a file"):
        make_project(tmp_path / "p", tmp_path / "file")
    with pytest.raises(ConfigError, match="exists and is not a folder"):
        make_project(tmp_path / "file", raw)
    with pytest.raises(ConfigError, match="--reference .*no.csv does not exist"):
        make_project(tmp_path / "p", raw, reference=str(tmp_path / "no.csv"))
    with pytest.raises(ConfigError, match="--instrument .*no.yaml does not exist"):
        make_project(tmp_path / "p", raw, instrument=str(tmp_path / "no.yaml"))
    assert not (tmp_path / "p").exists()


def test_an_unknown_instrument_is_told_with_the_known_ones(tmp_path, raw):
    with pytest.raises(ConfigError, match=r"no instrument 'nickle'; known: .*nickel") as told:
        make_project(tmp_path / "p", raw, instrument="nickle")
    assert "Did you mean 'nickel'?" in str(told.value)
    assert not (tmp_path / "p").exists()


def test_an_instrument_is_known_by_name_or_by_file(tmp_path, raw):
    project = make_project(tmp_path / "p", raw, instrument="nickel")
    assert load_settings(project / "config" / "config.yaml").instrument == "nickel"
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: mine\n")
    project = make_project(tmp_path / "q", raw, instrument=str(mine))
    assert load_settings(project / "config" / "config.yaml").instrument == "../mine.yaml"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: wrong\ngian: 3\n")
    with pytest.raises(ConfigError, match="gian"):
        make_project(tmp_path / "r", raw, instrument=str(wrong))


def test_a_reference_catalogue_is_read_before_it_is_trusted(tmp_path, raw):
    good = tmp_path / "stars.csv"
    good.write_text("ra,dec,V\n130.0,20.0,14.0\n130.1,20.1,15.0\n")
    project = make_project(tmp_path / "p", raw, reference=str(good))
    assert load_settings(project / "config" / "config.yaml").reference.file == "../stars.csv"
    bad = tmp_path / "bad.csv"
    bad.write_text("hello,world\n1,2\n")
    with pytest.raises(ConfigError):
        make_project(tmp_path / "q", raw, reference=str(bad))


def test_where_there_is_no_project_the_way_to_one_is_told(tmp_path, capsys):
    for command in (["status"], ["run"], ["ingest"], ["report"], ["explain", "x"]):
        assert main([*command, "-d", str(tmp_path)]) == 2
        assert "skymill init DIR --raw PATH" in capsys.readouterr().err


# --- documentation ---


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name, repository, capsys):
    page = (repository / "docs" / "command_line.md").read_text()
    section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert section, f"docs/command_line.md has no section {name}"
    with pytest.raises(SystemExit):
        main([name, "--help"])
    options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    everywhere = {"--help", "--debug", "--directory", "--output"}
    if name == "run":
        everywhere |= {"--forcerun", "--profile"}
    short = {"--cores": "-c"}
    for option in options - everywhere:
        assert option in section or short.get(option, option) in section, option


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/command_line.md",
        "docs/first_night.md",
        "docs/index.md",
    ],
)
def test_links_lead_somewhere(page, repository):
    text = (repository / page).read_text()
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert (repository / page).parent.joinpath(link).exists(), link


@pytest.mark.parametrize("enabled", [True, False])
def test_what_is_switched_off_is_not_missed(tmp_path, enabled):
    from types import SimpleNamespace

    from skymill.commands.status import _missing
    from skymill.settings import Settings

    settings = Settings(raw="raw", movers={"enabled": enabled})
    project = SimpleNamespace(settings=settings, results=tmp_path)
    plan = SimpleNamespace(masters={}, blocks={}, stacks={}, fields={"one": None})
    assert ("movers" in _missing(project, plan)) is enabled
