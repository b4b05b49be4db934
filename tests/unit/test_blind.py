"""The blind solver is optional, run safely, and never believed without the catalogue."""

from __future__ import annotations

import stat
import sys
import textwrap

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS

from skymill.blind import arguments, find_solver, solve_blind
from skymill.catalogs import RefCatalog
from skymill.star_lists import Refusal, Stars
from skymill.steps.astrometry import astrometry
from skymill.wcsmath import pixel_to_sky, wcs_from_text

SHAPE = (900, 1000)


def _program(folder, body):
    """Stand-in for the solver: a script with the given body, as an installed program."""
    path = folder / "solve-field"
    path.write_text(f"#!{sys.executable}\nimport sys\n{textwrap.dedent(body)}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def _truth(ra=150.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [ra, 2.0], [500.5, 450.5]
    wcs.wcs.cdelt = [-0.5 / 3600, 0.5 / 3600]
    wcs.wcs.set()
    return wcs


def _answer(wcs):
    cards = {k: v for k, v in wcs.to_header().items() if not k.startswith(("DATE", "MJD"))}
    return f"""
    from astropy.io import fits
    out = sys.argv[sys.argv.index("--wcs") + 1]
    header = fits.Header({cards!r}.items())
    open(out, "wb").write(header.tostring().encode())
    """


def _field(n=40):
    rng = np.random.default_rng(3)
    xy = rng.uniform([0, 0], [999, 899], (n, 2))
    mag = 12 + 5 * rng.power(2.5, n)
    sky = pixel_to_sky(_truth(), xy)
    catalog = RefCatalog(
        "c", sky[:, 0], sky[:, 1], np.arange(n).astype(str), {"r": mag}, {"r": np.full(n, 0.01)}
    )
    flux = 10 ** (-0.4 * (mag - 25))
    order = np.argsort(-flux)
    return catalog, Table({"x": xy[order, 0], "y": xy[order, 1], "flux": flux[order]})


def _stars(n=30):
    rng = np.random.default_rng(2)
    return Stars(rng.uniform(0, 900, (n, 2)), np.full(n, 0.1), np.linspace(1e5, 1e3, n))


def test_e68_a_blind_answer_counts_only_if_the_catalogue_confirms_it(tmp_path):
    """E68: astrometry.net as a rung; the answer is verified by our own match."""
    catalog, sources = _field()
    row = {"frame_id": "a", "filter": "r"}
    given = (sources, row, None, SHAPE, None, None, catalog)
    right = _program(tmp_path, _answer(_truth()))
    value = astrometry(*given, blind=right).value
    assert (value["solution"], value["method"]) == ("absolute", "blind+catalogue")
    assert value["ladder"].splitlines()[1].startswith("catalogue: NO_WCS")
    assert value["ladder"].splitlines()[2].startswith("blind: solved (40 stars")
    middle = np.array([[499.5, 449.5]])
    assert pixel_to_sky(wcs_from_text(value["wcs"]), middle) == pytest.approx(
        pixel_to_sky(_truth(), middle), abs=1e-6
    )
    wrong = _program(tmp_path, _answer(_truth(210.0)))
    refused = astrometry(*given, blind=wrong)
    assert refused.value["solution"] == "relative"
    assert "is not confirmed" in refused.value["ladder"]


@pytest.mark.parametrize(
    ("body", "code", "why"),
    [
        ("print('Field 1 did not solve.')", "NO_MATCH", "found no position"),
        ("print('Total CPU time limit reached!')", "NO_MATCH", "ran out of time"),
        (
            "print('You must list at least one index in the config file'); sys.exit(255)",
            "TOOL_FAILED",
            "no index files",
        ),
        (
            "print('boom', file=sys.stderr); sys.exit(3)",
            "TOOL_FAILED",
            "ended with 3, saying: boom",
        ),
        (
            "open(sys.argv[sys.argv.index('--wcs') + 1], 'wb').write(b'x' * 100)",
            "TOOL_FAILED",
            "solve-field",
        ),
    ],
    ids=["nothing found", "cpu limit", "no index", "broken", "garbage"],
)
def test_what_went_wrong_is_told_apart(tmp_path, body, code, why):
    found = solve_blind(_stars(), SHAPE, program=_program(tmp_path, body), time_limit_s=5)
    assert isinstance(found, Refusal)
    assert found.code == code
    assert why in found.why
    assert str(tmp_path) not in found.why


def test_a_solver_that_hangs_is_ended_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr("skymill.blind._GRACE_S", 0.5)
    body = """
    import subprocess, time
    subprocess.Popen(["sleep", "60"])
    time.sleep(60)
    """
    found = solve_blind(_stars(), SHAPE, program=_program(tmp_path, body), time_limit_s=0.5)
    assert isinstance(found, Refusal)
    assert "did not end within 1 s" in found.why


def test_the_command_is_a_list_with_the_limits_of_the_frame(tmp_path):
    command = arguments(
        "sf", tmp_path / "s.xyls", SHAPE, scale_arcsec=0.5, scale_error=0.1, time_limit_s=30
    )
    pairs = dict(zip(command, command[1:], strict=False))
    assert (pairs["--width"], pairs["--height"], pairs["--cpulimit"]) == ("1000", "900", "30")
    assert (pairs["--scale-low"], pairs["--scale-high"]) == ("0.45", "0.55")
    free = arguments(
        "sf", tmp_path / "s.xyls", SHAPE, scale_arcsec=None, scale_error=0.1, time_limit_s=30
    )
    assert "--scale-low" not in free


def test_positions_are_handed_over_1_based_and_in_a_private_folder(tmp_path):
    body = f"""
    from astropy.table import Table
    import os
    t = Table.read(sys.argv[-1])
    open({str(tmp_path / "seen")!r}, "w").write(f"{{t['X'][0]}} {{os.path.dirname(sys.argv[-1])}}")
    """
    stars = _stars()
    solve_blind(stars, SHAPE, program=_program(tmp_path, body), time_limit_s=5)
    x, folder = (tmp_path / "seen").read_text().split()
    assert float(x) == pytest.approx(stars.xy[0, 0] + 1)
    assert not __import__("pathlib").Path(folder).exists()


def test_never_and_a_missing_program_are_said(tmp_path):
    assert find_solver("never") is None
    assert find_solver(str(tmp_path / "none")) is None
    catalog, sources = _field()
    given = (sources, {"frame_id": "a"}, None, SHAPE, None, None, catalog)
    never = astrometry(*given, blind="never").value["ladder"]
    assert "blind" not in never
    missing = astrometry(*given, blind=str(tmp_path / "none")).value["ladder"]
    assert "blind: not tried" in missing
    assert "is not installed" in missing
