"""Alignment of the frames of a field: transforms, lists of what is not aligned, films."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS

from skymill import io
from skymill.affine import Affine
from skymill.alignment import align_field, read_alignment, transform_between, write_alignment
from skymill.errors import ConfigError, Outcome
from skymill.wcsmath import linear_wcs, wcs_to_text

SHAPE = (80, 100)


def _moved(angle_deg: float, dx: float, dy: float) -> Affine:
    """Image pixel to reference pixel: turned about the middle, then shifted."""
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    matrix = np.array([[c, -s], [s, c]])
    middle = np.array([(SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2])
    return Affine(matrix, middle - matrix @ middle + (dx, dy))


def _row(name: str, mjd: float) -> dict[str, object]:
    return {"frame_id": name, "filter": "V", "mjd_mid": mjd, "exptime_s": 60.0}


def _solution(name: str, to_reference: Affine | None, rms: float = 0.1) -> dict[str, object]:
    if to_reference is None:
        return {"frame_id": name, "solution": "none", "wcs": "", "rms_px": np.nan, "n_match": 0,
                "method": ""}  # fmt: skip
    text = wcs_to_text(linear_wcs(to_reference))
    return {"frame_id": name, "solution": "relative", "wcs": text, "rms_px": rms, "n_match": 12,
            "method": "stars"}  # fmt: skip


def _reference() -> Table:
    table = Table({"x": [10.0, 70.0], "y": [20.0, 60.0], "best": [True, True]})
    table.meta["frames"] = {"a": {"best": True, "ny": SHAPE[0], "nx": SHAPE[1], "fwhm_px": 3.0}}
    table.meta["solutions"] = {"a": _solution("a", _moved(0, 0, 0)) | {"rms_px": None}}
    return table


def _field() -> object:
    first = Table([_solution("a", _moved(0, 0, 0)), _solution("b", _moved(180.0, 4.0, -2.5))])
    second = Table([_solution("c", None)])
    said = [Outcome("c", "astrometry", "failed", "REGISTRATION", "c: no common pattern")]
    rows = [_row("c", 3.0), _row("a", 1.0), _row("b", 2.0), _row("d", 4.0)]
    return align_field("f", rows, [("one", first), ("two", second)], said, _reference())


def test_o12_transforms_are_matrices_from_reference_to_image_pixels():
    """O12: 3 x 3, reference to image pixels; a turn by 180 degree (meridian flip) is one."""
    found = _field()
    to_reference = _moved(180.0, 4.0, -2.5)
    points = np.array([[0.0, 0.0], [99.0, 0.0], [30.0, 70.0]])
    matrix = found.transforms["b"]
    assert matrix.shape == (3, 3)
    there = (matrix @ np.column_stack([points, np.ones(3)]).T).T[:, :2]
    assert np.allclose(to_reference(there), points, atol=1e-9)
    assert np.allclose(found.transforms["a"], np.eye(3), atol=1e-12)


def test_o27_blocks_are_merged_and_every_frame_of_the_sheet_is_in_the_result_once():
    """O27: transforms of all batches together, frames without transform among the unaligned."""
    found = _field()
    assert [f.frame_id for f in found.frames] == ["a", "b", "c", "d"]  # in order of time
    assert set(found.transforms) == {"a", "b"}
    assert set(found.unaligned) == {"c", "d"}
    twice = Table([_solution("a", _moved(0, 0, 0))])
    with pytest.raises(ConfigError, match="a has two solutions"):
        align_field("f", [_row("a", 1.0)], [("one", twice), ("two", twice)], [], _reference())


def test_o30_o24_unaligned_frames_have_a_reason_that_survives_writing(tmp_path: Path):
    """O30: reason per file. O24: a list that is read back still matches the frames."""
    found = _field()
    assert found.unaligned["c"] == "REGISTRATION: c: no common pattern"
    assert "did not reach" in found.unaligned["d"]
    write_alignment(tmp_path / "a.json", found)
    matrices, unaligned = read_alignment(tmp_path / "a.json")
    assert unaligned == found.unaligned
    assert [row.frame_id for row in found.frames if row.frame_id in unaligned] == ["c", "d"]
    assert np.allclose(matrices["b"], found.transforms["b"], atol=1e-9)
    assert json.loads((tmp_path / "a.json").read_text())["reference"] == "a"


def test_table_of_alignments_has_a_row_per_frame_and_blanks_where_unknown(tmp_path: Path):
    write_alignment(tmp_path / "a.csv", _field())
    rows = Table.read(tmp_path / "a.csv", format="ascii.csv")
    assert list(rows["frame_id"]) == ["a", "b", "c", "d"]
    assert [str(v) for v in rows["aligned"]] == ["True", "True", "False", "False"]
    assert abs(abs(rows["rotation_deg"][1]) - 180) < 1e-6
    # The turn is about the middle, which then moves by minus the shift turned back.
    assert rows["dx_px"][1] == pytest.approx(4.0, abs=1e-6)
    assert rows["dy_px"][1] == pytest.approx(-2.5, abs=1e-6)
    assert np.ma.is_masked(rows["m00"][2])
    with pytest.raises(ConfigError, match=r"must end in \.csv or \.json"):
        write_alignment(tmp_path / "a.txt", _field())


def _sky(crval: tuple[float, float], angle_deg: float = 0.0) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = crval
    wcs.wcs.crpix = [50.0, 40.0]
    scale, turned = 1 / 3600, np.radians(angle_deg)
    wcs.wcs.cd = scale * np.array(
        [[-np.cos(turned), np.sin(turned)], [np.sin(turned), np.cos(turned)]]
    )
    return wcs


def test_sky_solutions_give_the_same_matrix_as_the_sky_itself():
    one, two = _sky((10.0, 60.0)), _sky((10.004, 60.002), 3.0)
    transform, bend = transform_between(one, SHAPE, two)
    points = np.array([[0.0, 0.0], [99.0, 79.0], [20.0, 50.0]])
    wanted = two.all_world2pix(one.all_pix2world(points, 0), 0)
    # Two tangent planes 10 arcsec apart differ from a matrix by far less than 1e-4 px here.
    assert np.abs(transform(points) - wanted).max() < 1e-4
    assert bend < 1e-4
    assert transform_between(one, SHAPE, linear_wcs(_moved(0, 0, 0))) is None


def test_distortion_that_a_matrix_cannot_hold_is_told():
    bent = _sky((10.0, 60.0))
    bent.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    from astropy.wcs import Sip

    a = np.zeros((3, 3))
    a[2, 0] = 1e-3  # 1e-3 * 50^2 = 2.5 px at the edge
    bent.sip = Sip(a, np.zeros((3, 3)), None, None, [50.0, 40.0])
    _, bend = transform_between(_sky((10.0, 60.0)), SHAPE, bent)
    assert 0.5 < bend < 2.5


def test_no_reference_leaves_every_frame_unaligned():
    reference = _reference()
    reference.meta["solutions"]["a"] = {"solution": "none"}
    found = align_field(
        "f", [_row("b", 1.0)], [("one", Table([_solution("b", _moved(0, 1, 1))]))], [], reference
    )
    assert found.reference == ""
    assert "no common coordinates" in found.unaligned["b"]


def test_products_of_a_field_become_its_alignment(tmp_path: Path):
    from skymill.field_alignment import FieldProducts, field_alignment

    with pytest.raises(ConfigError, match="no reference frame yet"):
        field_alignment(FieldProducts(tmp_path, "f", ("one",), [_row("a", 1.0)]))
    io.write_table(tmp_path / "reference_frames" / "f.parquet", _reference(), {})
    solved = Table([_solution("a", _moved(0, 0, 0)), _solution("b", None)])
    io.write_table(tmp_path / "astrometry" / "one.parquet", solved, {})
    outcomes = tmp_path / "outcomes" / "sources" / "one.csv"
    io.write_outcomes(outcomes, [Outcome("b", "sources", "failed", "NO_STARS", "b: no star")])
    rows = [_row("a", 1.0), _row("b", 2.0)]
    found = field_alignment(FieldProducts(tmp_path, "f", ("one", "later"), rows))
    assert found.unaligned == {"b": "NO_STARS: b: no star"}
