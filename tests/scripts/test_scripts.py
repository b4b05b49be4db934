"""Each script hands its job just what the job takes, and its rule has just that to give."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
RULES = "\n".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))


def job_call(path: Path) -> tuple[ast.Call, object]:
    """Return the call of the job in a script, and the function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("skymill"):
            module = importlib.import_module(node.module)
            found |= {alias.name: getattr(module, alias.name) for alias in node.names}
    (work,) = [node for node in tree.body if isinstance(node, ast.With)]
    call = work.body[-1].value
    return call, found[call.func.id]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_job_takes_what_the_script_hands_over(path):
    call, function = job_call(path)
    keywords = {word.arg: None for word in call.keywords}
    inspect.signature(function).bind(*call.args, **keywords)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_rule_has_what_the_script_asks_for(path):
    rule = re.split(rf"(?:rule|checkpoint) {path.stem}:", RULES)[1]
    rule = re.split(r"\n(?:rule|checkpoint) |\n\n\n", rule)[0]
    text = path.read_text(encoding="utf-8")
    for kind, name in re.findall(r"snakemake\.(input|output|params)\.(\w+)", text):
        if name not in ("items", "get"):
            assert re.search(rf"^\s+{name}=", rule, re.MULTILINE), f"{kind}.{name}"
    for name in re.findall(r'snakemake\.input\.get\("(\w+)"\)', text):
        assert f'"{name}"' in RULES  # an input that there may or may not be, by a function


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_rule_reruns_when_its_code_changes(path):
    if path.stem == "ingest":
        return  # the sheet is a lock file: it is renewed when the user asks for it
    rule = re.split(rf"(?:rule|checkpoint) {path.stem}:", RULES)[1].split("\nrule ")[0]
    assert f'code=code("{path.stem}")' in rule
