"""The alignment of a field and its film, from the products of a project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io
from skymill.alignment import FieldAlignment, align_field
from skymill.animations import Scene, animate
from skymill.errors import ConfigError
from skymill.jobs.frames import frame_file
from skymill.jobs.tables import by_frame

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from astropy.table import Table
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = ["FieldProducts", "field_alignment", "field_film"]

#: Steps whose outcomes say why a frame is not aligned, in their order.
_STEPS = ("calibrate", "mask", "background", "sources", "astrometry")


@dataclass(frozen=True)
class FieldProducts:
    """Where the products of a field lie.

    Parameters
    ----------
    results : Path
        Folder of the products.
    field : str
        The field.
    blocks : tuple of str
        Its blocks.
    rows : sequence of dict
        Rows of the sheet of its frames.
    """

    results: Path
    field: str
    blocks: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]

    def reference(self) -> Table:
        """Return the stars of the reference frames.

        Raises
        ------
        ConfigError
            If the field has not come so far.
        """
        path = self.results / "reference_frames" / f"{self.field}.parquet"
        if not path.is_file():
            raise ConfigError(f"{self.field} has no reference frame yet: run `skymill run` first")
        return io.read_table(path)


def field_alignment(products: FieldProducts) -> FieldAlignment:
    """Return how the frames of a field lie on its reference frame.

    Parameters
    ----------
    products : FieldProducts
        The field; blocks that are not reduced yet leave their frames unaligned.
    """
    solutions, outcomes = [], []
    for block in products.blocks:
        path = products.results / "astrometry" / f"{block}.parquet"
        if path.is_file():
            solutions.append((block, io.read_table(path)))
        for step in _STEPS:
            table = products.results / "outcomes" / step / f"{block}.csv"
            if table.is_file():
                outcomes += io.read_outcomes(table)
    return align_field(products.field, products.rows, solutions, outcomes, products.reference())


def field_film(
    products: FieldProducts,
    alignment: FieldAlignment,
    *,
    filters: Sequence[str] = (),
    n_stars: int = 40,
    size: int = 512,
) -> list[Image]:
    """Draw the aligned frames of a field in order of time.

    Parameters
    ----------
    products : FieldProducts
        The field.
    alignment : FieldAlignment
        Its alignment.
    filters : sequence of str
        Only frames of these filters; all if empty.
    n_stars : int
        The brightest stars of the reference frame are circled.
    size : int
        Longest side of a picture (px).

    Raises
    ------
    ConfigError
        If there is no frame to show.
    """
    reference = products.reference()
    best = reference[np.asarray(reference["best"], dtype=bool)][:n_stars]
    stars = np.stack([np.asarray(best["x"], float), np.asarray(best["y"], float)], axis=1)
    fwhm = reference.meta.get("frames", {}).get(alignment.reference, {}).get("fwhm_px")
    scenes = _scenes(products, alignment, filters)
    return animate(scenes, alignment.shape, stars, size=size, match_px=max(1.5, float(fwhm or 3.0)))


def _scenes(
    products: FieldProducts, alignment: FieldAlignment, filters: Sequence[str]
) -> Iterator[Scene]:
    chosen = [f for f in alignment.frames if not filters or f.filter in filters]
    sources: dict[str, dict[str, Table]] = {}
    for number, frame in enumerate(chosen, 1):
        if frame.transform is None:
            continue
        if frame.block not in sources:
            path = products.results / "sources" / f"{frame.block}.parquet"
            sources = {frame.block: by_frame(io.read_table(path))}
        path = Path(frame_file(products.results / "calibrated" / frame.block, frame.frame_id))
        planes, _, _ = io.read_planes(path, ["SCI"])
        time = frame.exptime_s if frame.exptime_s > 0 else 1.0
        own = sources[frame.block].get(frame.frame_id)
        yield Scene(
            np.asarray(planes["SCI"], dtype=np.float64) / time,
            frame.transform,
            _positions(own),
            _caption(number, len(chosen), frame.mjd_mid, frame.filter, frame.rms_px),
            frame.filter,
        )


def _positions(sources: Table | None) -> NDArray[np.float64]:
    if sources is None:
        return np.zeros((0, 2))
    return np.stack([np.asarray(sources["x"], float), np.asarray(sources["y"], float)], axis=1)


def _caption(number: int, count: int, mjd: float, filter_: str, rms: float) -> str:
    words = [f"{number}/{count}"]
    if np.isfinite(mjd):
        from astropy.time import Time

        words.append(Time(mjd, format="mjd", scale="utc").isot[:19].replace("T", " "))
    words.append(filter_)
    words.append(f"rms {rms:.2f} px" if np.isfinite(rms) else "reference")
    return "  ".join(word for word in words if word)
