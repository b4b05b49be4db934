"""How the frames of a field lie on its reference frame, with and without a sky.

A field that knows no sky (small detectors, no world coordinates) still has one coordinate
system: the pixels of its reference frame. For every frame the transform reference pixel to
image pixel is given as a 3 x 3 matrix for columns ``(x, y, 1)``, 0-based; frames that could not
be aligned are listed with the reason. The matrix is fitted to the solution on a grid of points;
``bend_px`` says how far the solution (distortion, curvature of the sky) departs from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io
from skymill.affine import Affine
from skymill.errors import ConfigError
from skymill.wcsmath import pixel_to_sky, sky_to_pixel, wcs_from_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from astropy.table import Table
    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skymill.errors import Outcome

__all__ = [
    "FieldAlignment",
    "FrameAlignment",
    "align_field",
    "read_alignment",
    "transform_between",
    "write_alignment",
]

#: Points per axis at which a solution is compared with its matrix.
_GRID = 7


@dataclass(frozen=True, eq=False)
class FrameAlignment:
    """One frame on the reference frame.

    Parameters
    ----------
    frame_id, filter, block : str
        The frame.
    mjd_mid, exptime_s : float
        Middle of the exposure and its length; NaN if not known.
    transform : Affine or None
        Reference pixel to image pixel; None if the frame is not aligned.
    rms_px : float
        Residual of the matched stars per axis; NaN for the reference frame itself.
    n_match : int
        Stars that match.
    bend_px : float
        Largest departure of the solution from the matrix on the frame.
    method : str
        How the solution was found.
    code, message : str
        Why it is not aligned, or what is to be said of the solution.
    """

    frame_id: str
    filter: str
    block: str
    mjd_mid: float
    exptime_s: float
    transform: Affine | None
    rms_px: float = float("nan")
    n_match: int = 0
    bend_px: float = float("nan")
    method: str = ""
    code: str = ""
    message: str = ""

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The transform as a matrix, shape (3, 3); NaN if there is none."""
        out = np.full((3, 3), np.nan)
        if self.transform is not None:
            out = np.eye(3)
            out[:2, :2], out[:2, 2] = self.transform.matrix, self.transform.offset
        return out


@dataclass(frozen=True, eq=False)
class FieldAlignment:
    """All frames of a field in order of time.

    Parameters
    ----------
    field, reference : str
        The field and its reference frame; no reference if no frame has a solution.
    shape : tuple of int
        Shape (ny, nx) of the reference frame.
    frames : tuple of FrameAlignment
        The frames.
    """

    field: str
    reference: str
    shape: tuple[int, int]
    frames: tuple[FrameAlignment, ...]

    @property
    def transforms(self) -> dict[str, NDArray[np.float64]]:
        """Frame id to matrix, shape (3, 3), of the aligned frames."""
        return {f.frame_id: f.matrix for f in self.frames if f.transform is not None}

    @property
    def unaligned(self) -> dict[str, str]:
        """Frame id to reason of the frames that are not aligned."""
        return {
            f.frame_id: f"{f.code}: {f.message}" if f.code else f.message
            for f in self.frames
            if f.transform is None
        }


def transform_between(
    reference: WCS, shape: tuple[int, int], frame: WCS
) -> tuple[Affine, float] | None:
    """Return the matrix from reference to image pixels, and how well it describes the solution.

    Parameters
    ----------
    reference, frame : astropy.wcs.WCS
        Solutions of the two frames, on the sky or both in pixels of the reference frame.
    shape : tuple of int
        Shape (ny, nx) of the reference frame.

    Returns
    -------
    (Affine, float) or None
        The transform, and the largest departure on the reference frame (px). None if the two
        have no common coordinates.
    """
    if bool(reference.has_celestial) != bool(frame.has_celestial):
        return None
    ny, nx = shape
    x, y = np.meshgrid(np.linspace(0, nx - 1, _GRID), np.linspace(0, ny - 1, _GRID))
    here = np.stack([x.ravel(), y.ravel()], axis=1)
    world = pixel_to_sky(reference, here)
    there = np.asarray(sky_to_pixel(frame, world[:, 0], world[:, 1]), dtype=np.float64)
    good = np.isfinite(there).all(axis=1)
    if good.sum() < 3:
        return None
    # Centred and scaled, so that the normal equations keep all digits.
    middle = np.array([(nx - 1) / 2, (ny - 1) / 2])
    size = max(nx, ny) / 2
    u = (here[good] - middle) / size
    design = np.stack([np.ones(len(u)), u[:, 0], u[:, 1]], axis=1)
    terms, *_ = np.linalg.lstsq(design, there[good], rcond=None)
    matrix = np.ascontiguousarray(terms[1:].T) / size
    transform = Affine(matrix, terms[0] - matrix @ middle)
    bend = there[good] - transform(here[good])
    return transform, float(np.sqrt((bend**2).sum(axis=1)).max())


def align_field(
    field: str,
    rows: Sequence[Mapping[str, Any]],
    solutions: Iterable[tuple[str, Table]],
    outcomes: Iterable[Outcome],
    reference: Table,
) -> FieldAlignment:
    """Join the solutions of all blocks of a field to its alignment.

    Parameters
    ----------
    field : str
        The field.
    rows : sequence of dict
        Rows of the sheet of its frames; every one of them is in the result.
    solutions : iterable of (str, Table)
        Block and its table of the step astrometry.
    outcomes : iterable of Outcome
        What became of the frames in astrometry and the steps before, in that order.
    reference : Table
        Reference frames of the field.

    Raises
    ------
    ConfigError
        If a frame has two solutions: the tables are not of one reduction.
    """
    frames = reference.meta.get("frames", {})
    best = next((name for name, item in frames.items() if item["best"]), "")
    solved = reference.meta.get("solutions", {}).get(best, {"solution": "none"})
    shape = (int(frames[best]["ny"]), int(frames[best]["nx"])) if best else (0, 0)
    wcs = wcs_from_text(str(solved["wcs"])) if solved["solution"] != "none" else None
    found: dict[str, tuple[str, Any]] = {}
    for block, table in solutions:
        for row in table:
            name = str(row["frame_id"])
            if name in found:
                raise ConfigError(f"alignment: {name} has two solutions, in {found[name][0]} too")
            found[name] = (block, row)
    said = {outcome.frame_id: outcome for outcome in outcomes}
    ordered = sorted(rows, key=lambda r: (r.get("mjd_mid") or math.inf, str(r["frame_id"])))
    aligned = [
        _aligned(row, found.get(str(row["frame_id"])), said.get(str(row["frame_id"])), wcs, shape)
        for row in ordered
    ]
    return FieldAlignment(field, best if wcs is not None else "", shape, tuple(aligned))


def _aligned(
    row: Mapping[str, Any],
    found: tuple[str, Any] | None,
    outcome: Outcome | None,
    reference: WCS | None,
    shape: tuple[int, int],
) -> FrameAlignment:
    block, solution = found if found is not None else ("", None)
    code, message = (outcome.code, outcome.message) if outcome is not None else ("", "")
    about: dict[str, Any] = {
        "frame_id": str(row["frame_id"]),
        "filter": str(row.get("filter") or ""),
        "block": block,
        "mjd_mid": _number(row.get("mjd_mid")),
        "exptime_s": _number(row.get("exptime_s")),
    }
    if solution is None or str(solution["solution"]) == "none":
        why = message or "the frame did not reach the alignment"
        return FrameAlignment(**about, transform=None, code=code, message=why)
    between = None
    if reference is not None:
        between = transform_between(reference, shape, wcs_from_text(str(solution["wcs"])))
    if between is None:
        why = "its solution and that of the reference frame have no common coordinates"
        return FrameAlignment(**about, transform=None, code="NO_REFERENCE", message=why)
    return FrameAlignment(
        **about,
        transform=between[0],
        rms_px=_number(solution["rms_px"]),
        n_match=int(solution["n_match"]),
        bend_px=between[1],
        method=str(solution["method"]),
        code=code,
        message=message,
    )


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


_COLUMNS = (
    *("frame_id", "filter", "block", "mjd_mid", "exptime_s", "aligned", "n_match", "rms_px"),
    *("dx_px", "dy_px", "rotation_deg", "scale", "mirrored", "bend_px"),
    *("m00", "m01", "m02", "m10", "m11", "m12", "method", "code", "message"),
)


def alignment_rows(alignment: FieldAlignment) -> list[dict[str, Any]]:
    """Return one row per frame: what `write_alignment` writes as CSV.

    ``dx_px, dy_px`` are the shift of the middle of the reference frame, ``rotation_deg`` and
    ``scale`` those of the matrix, ``m00`` to ``m12`` its first two rows.
    """
    ny, nx = alignment.shape
    middle = np.array([[(nx - 1) / 2, (ny - 1) / 2]])
    rows = []
    for frame in alignment.frames:
        row: dict[str, Any] = {
            "frame_id": frame.frame_id, "filter": frame.filter, "block": frame.block,
            "mjd_mid": frame.mjd_mid, "exptime_s": frame.exptime_s,
            "aligned": frame.transform is not None, "n_match": frame.n_match,
            "rms_px": frame.rms_px, "bend_px": frame.bend_px, "method": frame.method,
            "code": frame.code, "message": frame.message,
        }  # fmt: skip
        if frame.transform is not None:
            t = frame.transform
            row["dx_px"], row["dy_px"] = (t(middle) - middle)[0]
            row |= {"rotation_deg": t.rotation_deg, "scale": t.scale, "mirrored": t.determinant < 0}
            row |= {f"m{i}{j}": frame.matrix[i, j] for i in range(2) for j in range(3)}
        rows.append({key: _tidy(row.get(key)) for key in _COLUMNS})
    return rows


def _tidy(value: Any) -> Any:
    """Return a JSON type; numbers with ten decimals, the last digits of a fit are noise."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return round(float(value), 10) + 0.0 if np.isfinite(value) else None
    return value


def write_alignment(path: str | Path, alignment: FieldAlignment) -> None:
    """Write an alignment as CSV (a row per frame) or JSON, by the suffix.

    The JSON has ``reference``, ``shape``, ``transforms`` (frame id to 3 x 3 matrix, reference to
    image pixels), ``rms_px``, and ``unaligned`` (frame id to reason).

    Raises
    ------
    ConfigError
        If the suffix is another one.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        io.write_text(path, _csv(alignment_rows(alignment)))
    elif path.suffix.lower() == ".json":
        rms = {f.frame_id: _tidy(f.rms_px) for f in alignment.frames if f.transform is not None}
        transforms = {
            name: [[_tidy(float(v)) for v in line] for line in matrix]
            for name, matrix in alignment.transforms.items()
        }
        tree = {
            "field": alignment.field, "reference": alignment.reference,
            "shape": list(alignment.shape), "transforms": transforms, "rms_px": rms,
            "unaligned": alignment.unaligned,
        }  # fmt: skip
        io.write_json(path, tree)
    else:
        raise ConfigError(f"alignment: {path.name} must end in .csv or .json")


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    import csv
    from io import StringIO

    stream = StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
    return stream.getvalue()


def read_alignment(
    path: str | Path,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, str]]:
    """Read a JSON alignment back: matrices by frame id, and reasons by frame id.

    What was not aligned is a mapping by frame id, so that it can be compared with the sheet.
    """
    tree = io.read_json(path)
    matrices = {name: np.array(value, dtype=float) for name, value in tree["transforms"].items()}
    return matrices, dict(tree["unaligned"])
