"""What a Reducer knows of its frames: read from the sheet and the products, nothing else."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io
from skymill.reducer.frames import set_psf_params
from skymill.reducer.series import Sequence, find_sequences
from skymill.resample import pixel_to_pixel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from astropy.table import QTable, Table
    from numpy.typing import NDArray

    from skymill.alignment import FieldAlignment
    from skymill.reducer.workflow import Workflow

__all__ = ["State"]


class State:
    """Frames, alignments and catalogues of a reduction, see `skymill.Reducer`."""

    out_directory: Path
    data_directory: Path
    workflow: Workflow
    aperture_selector: Callable[[Any], Any]
    _excluded: dict[str, str]

    # --- what there is ----------------------------------------------------------------

    @cached_property
    def sequences(self) -> dict[str, Sequence]:
        """Sequences of frames by ``camera:filter``."""
        return find_sequences(self.workflow.plan)

    @property
    def camera_files(self) -> dict[str, list[str]]:
        """Frames of each key in order of time."""
        return {key: list(item.frames) for key, item in self.sequences.items()}

    @property
    def paths(self) -> dict[str, Path]:
        """Raw file of each light frame."""
        rows = self.workflow.plan.rows
        return {
            frame: self.data_directory / str(rows[frame]["path"])
            for item in self.sequences.values()
            for frame in item.frames
        }

    @property
    def rejected_files(self) -> dict[str, str]:
        """Files of the folder that are no frame of a sequence, with the reason of each."""
        used = {frame for item in self.sequences.values() for frame in item.frames}
        return {
            str(row["path"]): f"{row['code']}: {row['message']}"
            for row in self.workflow.project.rows()
            if row["verdict"] == "rejected" and row["frame_id"] not in used
        }

    @property
    def messages(self) -> list[tuple[str, str]]:
        """What the steps had to say, as (level, text): warning for degraded frames, error else."""
        levels = {"degraded": "warning", "rejected": "error", "failed": "error"}
        return [
            (levels[o.status], f"{o.step} {o.frame_id}: {o.code} {o.message}")
            for o in self.workflow.project.outcomes(self.workflow.plan)
            if o.status in levels
        ]

    @property
    def reference_files(self) -> dict[str, str]:
        """Reference frame of each key: that of its camera, to which all frames are aligned."""
        return {
            key: self._alignments[item.field].reference
            for key, item in self.sequences.items()
            if item.field in self._alignments
        }

    @property
    def transforms(self) -> dict[str, NDArray[np.float64]]:
        """Matrix of each aligned frame, shape (3, 3): reference to image pixels, 0-based."""
        return {
            frame: matrix
            for alignment in self._alignments.values()
            for frame, matrix in sorted(alignment.transforms.items())
        }

    @property
    def unaligned_files(self) -> dict[str, str]:
        """Frames that are not aligned, or were excluded, with the reason of each."""
        found = {
            frame: reason
            for alignment in self._alignments.values()
            for frame, reason in sorted(alignment.unaligned.items())
        }
        return found | self._excluded

    @cached_property
    def catalogs(self) -> dict[str, QTable]:
        """Catalogue of each key; empty before `create_catalogs`.

        Columns: ``label`` (one number in all filters of a camera), ``xcentroid``, ``ycentroid``
        (px of the reference frame, as ``transforms`` want them), ``x_stack``, ``y_stack``,
        ``sky_centroid`` where the sky is known, ``semimajor_sigma``, ``semiminor_sigma``,
        ``orientation`` (degree), ``flux``, ``flux_err``, ``kron_flux``, ``kron_flux_err``,
        ``flags`` and more.
        """
        out = {}
        for key, item in self.sequences.items():
            path = self._catalog_file(item)
            if path.is_file():
                out[key] = self._named_catalog(item, io.read_table(path))
        return out

    @cached_property
    def psf_params(self) -> dict[str, dict[str, float]]:
        """PSF of each key from its catalogue, see `skymill.reducer.frames.set_psf_params`."""
        out = {}
        for key, item in self.sequences.items():
            path = self._catalog_file(item)
            if path.is_file():
                scale = self._pixel_scale(item)
                out[key] = set_psf_params(
                    self.aperture_selector, io.read_table(path), scale_arcsec=scale
                )
        return out

    # --- inside -----------------------------------------------------------------------

    @cached_property
    def _alignments(self) -> dict[str, FieldAlignment]:
        """Alignment of each field that has come so far."""
        from skymill.field_alignment import field_alignment

        out = {}
        for field in sorted({item.field for item in self.sequences.values()}):
            products = self._products(field)
            if (products.results / "reference_frames" / f"{field}.parquet").is_file():
                out[field] = field_alignment(products)
        return out

    def _products(self, field: str) -> Any:
        from skymill.field_alignment import FieldProducts

        plan = self.workflow.plan
        item = plan.fields[field]
        frames = [frame for block in item.blocks for frame in plan.blocks[block].frames]
        return FieldProducts(self.workflow.results, field, item.blocks, plan.rows_of(frames))

    def _catalog_file(self, item: Sequence) -> Path:
        return self.workflow.results / "catalog" / f"{item.stack or 'none'}.parquet"

    @cached_property
    def _field_numbers(self) -> dict[str, Table]:
        """Sources of each field with their numbers in the catalogue of each filter."""
        from skymill.steps.lightcurve_sources import field_sources

        groups: dict[str, dict[str, Table]] = defaultdict(dict)
        for item in self.sequences.values():
            if self._catalog_file(item).is_file():
                groups[item.field][item.filter] = io.read_table(self._catalog_file(item))
        match = self.workflow.project.settings.lightcurves.match_radius_px
        return {f: field_sources(lists, match_radius_px=match) for f, lists in groups.items()}

    def _named_catalog(self, item: Sequence, table: Table) -> QTable:
        """Return a catalogue with opticam's columns, in pixels of the reference frame."""
        from astropy import units
        from astropy.coordinates import SkyCoord
        from astropy.table import QTable

        known = self._field_numbers[item.field]
        numbers = dict(
            zip(np.asarray(known[f"id_{item.filter}"]).tolist(), known["source"], strict=True)
        )
        out = QTable()
        out["label"] = [int(numbers[n]) for n in np.asarray(table["source"]).tolist()]
        x, y = self._on_reference(item, table)
        px = units.pix
        out["xcentroid"], out["ycentroid"] = x * px, y * px
        out["x_stack"], out["y_stack"] = (np.asarray(table[k], float) * px for k in "xy")
        ra, dec = (np.asarray(table[k], float) for k in ("ra", "dec"))
        if np.isfinite(ra).all() and len(ra):
            out["sky_centroid"] = SkyCoord(ra * units.deg, dec * units.deg)
        out["area"] = np.asarray(table["npix"])
        out["semimajor_sigma"], out["semiminor_sigma"] = (
            np.asarray(table[k], float) * px for k in "ab"
        )
        out["orientation"] = np.rad2deg(np.asarray(table["theta"], float)) * units.deg
        out["ellipticity"] = np.asarray(table["ellipticity"], float)
        e = units.electron
        for name, column in (
            ("peak", "peak"), ("flux", "flux"), ("flux_err", "flux_err"),
            ("kron_flux", "flux_kron"), ("kron_flux_err", "flux_err_kron"),
        ):  # fmt: skip
            out[name] = np.asarray(table[column], float) * e
        out["flags"] = np.asarray(table["flags"])
        out["stack_source"] = np.asarray(table["source"])
        order = np.argsort(np.asarray(out["label"]), kind="stable")
        return out[order]

    def _on_reference(
        self, item: Sequence, table: Table
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positions of the stack's sources in pixels of the reference frame."""
        reference = self._products(item.field).reference()
        best = self._alignments[item.field].reference
        there = reference.meta.get("solutions", {}).get(best)
        x, y = (np.asarray(table[k], np.float64) for k in "xy")
        if not there or not table.meta.get("wcs"):
            return np.full(x.size, np.nan), np.full(x.size, np.nan)
        grid, wcs = io.wcs_from_text(table.meta["wcs"]), io.wcs_from_text(str(there["wcs"]))
        return pixel_to_pixel(grid, x, y, wcs)

    def _pixel_scale(self, item: Sequence) -> float | None:
        for block in item.blocks:
            path = self.workflow.results / "astrometry" / f"{block}.parquet"
            if path.is_file():
                scale = np.asarray(io.read_table(path)["scale_arcsec_px"], float)
                if np.isfinite(scale).any():
                    return float(np.nanmedian(scale))
        return None

    def _forget(self) -> None:
        """Read everything again: the workflow has run."""
        for name in (
            "sequences", "catalogs", "psf_params", "_alignments", "_field_numbers",
        ):  # fmt: skip
            self.__dict__.pop(name, None)

    @property
    def _excluded_file(self) -> Path:
        return self.out_directory / "misc" / "excluded_files.json"

    def _read_excluded(self) -> dict[str, str]:
        return dict(io.read_json(self._excluded_file)) if self._excluded_file.is_file() else {}
