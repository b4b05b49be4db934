"""A library edit changes the fingerprints of exactly the rules that it affects."""

from pathlib import Path

import pytest

from skymill import provenance


@pytest.fixture
def house(tmp_path, monkeypatch):
    package = tmp_path / "skymill"
    for folder in ("steps", "kernels"):
        (package / folder).mkdir(parents=True)
        (package / folder / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "frame.py").write_text("X = 1\n")
    (package / "kernels" / "fast.py").write_text("def f(): pass\n")
    (package / "steps" / "one.py").write_text(
        "from skymill.frame import X\ndef one():\n    from skymill.kernels import fast\n"
    )
    (package / "steps" / "two.py").write_text("import skymill.frame\n")
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(f"from skymill.steps.{name} import {name}\n")
    monkeypatch.setattr(provenance, "_PACKAGE", package)
    provenance.fingerprint.cache_clear()
    yield tmp_path
    provenance.fingerprint.cache_clear()


def prints(house):
    provenance.fingerprint.cache_clear()
    return [provenance.fingerprint(str(house / f"{name}.py")) for name in ("one", "two")]


@pytest.mark.parametrize(
    ("edited", "changes"),
    [
        ("skymill/kernels/fast.py", [True, False]),
        ("skymill/frame.py", [True, True]),
        ("skymill/steps/two.py", [False, True]),
        ("one.py", [True, False]),
    ],
)
def test_an_edit_changes_exactly_its_users(house, edited, changes):
    before = prints(house)
    path = house / edited
    path.write_text(path.read_text() + "Y = 2\n")
    assert [a != b for a, b in zip(before, prints(house), strict=True)] == changes


def test_the_place_of_the_checkout_does_not_matter(house, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "one.py"
    elsewhere.write_bytes((house / "one.py").read_bytes())
    provenance.fingerprint.cache_clear()
    assert provenance.fingerprint(str(elsewhere)) == provenance.fingerprint(str(house / "one.py"))


def test_cards_list_inputs_in_order_and_a_digest_of_all():
    cards = provenance.cards(
        "mask", code="c", settings={"a": 1}, inputs={"b": "2" * 64, "a": "1" * 64}
    )
    assert cards["SMI0001"][0] == "a " + "1" * 16
    assert cards["SMNIN"][0] == 2
    other = provenance.cards("mask", code="c", settings={"a": 1}, inputs={"a": "1" * 64})
    assert other["SMINPUT"] != cards["SMINPUT"]


def test_digest_ignores_order_and_sees_values():
    assert provenance.digest({"a": 1, "b": 2}) == provenance.digest({"b": 2, "a": 1})
    assert provenance.digest({"a": 1, "b": 2}) != provenance.digest({"a": 2, "b": 1})


def test_fingerprints_of_the_real_scripts_follow_into_the_kernels(repository: Path):
    provenance.fingerprint.cache_clear()
    names = {
        path.stem: provenance.fingerprint(str(path))
        for path in (repository / "scripts").glob("*.py")
    }
    assert len(set(names.values())) == len(names)


def test_names_outside_ascii_make_valid_cards():
    from astropy.io import fits

    cards = provenance.cards("mask", code="c", settings={}, inputs={"étoile ★": "1" * 64})
    header = fits.Header()
    header["SMI0001"] = cards["SMI0001"]
    header["SMI0001"].encode("ascii")
