"""The walls of the house, and that every step has all its rooms."""

import ast
import re
from pathlib import Path

import pytest

from skymill.settings import STEPS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "skymill"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "_workflow" not in path.parts)


def relative(path):
    return path.relative_to(ROOT).as_posix()


def imports(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def calls(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield ast.unparse(node.func)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_only_io_opens_image_files(path):
    if path.stem in ("io", "io_raw") or "simulate" in path.parts:
        return
    opening = {"fits.open", "fits.getdata", "fits.getheader", "fits.writeto"}
    found = [call for call in calls(path) if call in opening or call.endswith(".writeto")]
    assert not found, f"{relative(path)} opens image files: {found}; use skymill.io"


@pytest.mark.parametrize("path", sorted((PACKAGE / "kernels").glob("*.py")), ids=relative)
def test_kernels_import_nothing_of_skymill_but_kernels(path):
    found = {n for n in imports(path) if n.startswith("skymill") and "kernels" not in n}
    assert not found


@pytest.mark.parametrize("path", sorted((PACKAGE / "steps").glob("*.py")), ids=relative)
def test_steps_open_no_files_and_do_not_see_the_workflow(path):
    walls = ("skymill.io", "skymill.io_raw", "skymill.settings", "skymill.block", "skymill.plan")
    found = {n for n in imports(path) if n in walls or n.startswith("skymill.jobs")}
    assert not found
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])open\(|\.read_text\(|\.write_text\(", text)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_only_scripts_see_the_name_snakemake(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert "snakemake" not in names
    assert not {n for n in imports(path) if n.split(".")[0] == "snakemake"}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_the_simulator_and_the_reduction_share_no_code(path):
    found = {n for n in imports(path) if n.startswith("skymill.")}
    if "simulate" in path.parts:
        allowed = ("skymill.simulate", "skymill.errors")
        assert not {n for n in found if not n.startswith(allowed)}
    elif not {"commands", "cli.py"} & set(path.parts):
        assert not {n for n in found if n.startswith("skymill.simulate")}


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=relative)
def test_scripts_are_wiring_only(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    logic = (ast.If, ast.For, ast.While, ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.Try)
    assert not [node for node in ast.walk(tree) if isinstance(node, logic)]
    assert ast.get_docstring(tree)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_has_all_its_rooms(step):
    rules = "\n".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    needed = {
        f"scripts/{step}.py": (ROOT / "scripts" / f"{step}.py").is_file(),
        f"rule {step}": bool(re.search(rf"^\s*(rule|checkpoint) {step}:", rules, re.MULTILINE)),
        f"docs/{step}.md": (ROOT / "docs" / f"{step}.md").is_file(),
        f"tests of {step}": bool(list((ROOT / "tests").rglob(f"test_{step}*.py"))),
        f"a module {step}": any(
            (PACKAGE / place).exists()
            for place in (
                f"steps/{step}.py",
                f"{step}.py",
                f"{step}/__init__.py",
                f"jobs/{step}.py",
            )
        ),
        f"logs/{step}/": f'"logs/{step}/' in rules,
        f"benchmarks/{step}/": f'"benchmarks/{step}/' in rules,
    }
    missing = [name for name, there in needed.items() if not there]
    assert not missing


def test_the_repository_names_no_machine_and_no_index():
    bad = re.compile(r"/(wor[k]|hom[e])/|files\.pythonhoste[d]|pypi\.or[g]/simple|/roo[t]/")
    skip = {".git", ".venv", "build", ".snakemake", "__pycache__", ".mypy_cache", ".ruff_cache"}
    for path in ROOT.rglob("*"):
        if path.is_file() and not skip & set(path.relative_to(ROOT).parts):
            text = path.read_bytes().decode("utf-8", "ignore")
            assert not bad.search(text), f"{relative(path)}: {bad.search(text)}"


def test_conda_and_pip_pins_agree():
    import yaml

    conda = yaml.safe_load((ROOT / "envs" / "skymill.yaml").read_text())["dependencies"]
    lock = (ROOT / "envs" / "requirements.txt").read_text()
    # A name has several pins where newer interpreters get newer versions.
    pins: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)==([^ \\;]+)", lock, re.MULTILINE):
        pins.setdefault(name, set()).add(version)
    for entry in conda:
        name, version = entry.split("=")
        name = name.removesuffix("-minimal")
        if name != "python":
            assert version in pins[name], f"{name}: conda {version}, pip {pins.get(name)}"
