"""Where the parts of a frame lie, and reading them when they are asked for."""

from __future__ import annotations

import hashlib
import math
import warnings
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from skymill import io
from skymill.error_maps import weight_from_error
from skymill.errors import Outcome, SkymillError
from skymill.frame import MaskBit, has_bits
from skymill.jobs.tables import by_frame, records
from skymill.products.external import Assumed, read_image
from skymill.products.maps import KINDS, read_product

if TYPE_CHECKING:
    import numpy as np
    from astropy.io import fits
    from astropy.table import Table
    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skymill.frame import Background, Frame
    from skymill.sheet import Row

__all__ = ["LoadedFrame", "number"]

#: Steps of a frame in order, for its story.
_STEPS = (
    "calibrate",
    "mask",
    "background",
    "sources",
    "astrometry",
    "photcal",
    "photometry",
)
#: Folders of the results whose files belong to one frame.
_FOLDERS = ("calibrated", "mask", "background")


class LoadedFrame:
    """A frame and what the steps added to it. Nothing here is ever changed on the disk."""

    def __init__(
        self,
        path: str | Path,
        *,
        gain: float | None = None,
        read_noise: float | None = None,
        saturation: float | None = None,
    ) -> None:
        path = Path(path)
        if not path.is_file():
            raise SkymillError(f"{path} does not exist; `skymill status` tells what has been made")
        if not path.name.endswith((".fits", ".fit", ".fts", ".fits.gz", ".fits.fz")):
            raise SkymillError(f"{path.name} is not a frame; open a .fits product")
        self._assumed = Assumed(gain, read_noise, saturation)
        self._header_changes: dict[str, Any] = {}
        self.is_stack = path.parent.name == "stack"
        self.id = path.name[: path.name.rindex(".fit" if ".fit" in path.name else ".fts")]
        self._alone = not self.is_stack and path.absolute().parents[1].name not in _FOLDERS
        if self._alone:
            self.results, self.block, self.path = path.parent, "", path
        else:
            self.results = path.parents[1] if self.is_stack else path.parents[2]
            self.block = "" if self.is_stack else path.parent.name
            self.path = path if self.is_stack else self._file("calibrated")
        if not self.path.is_file():
            raise SkymillError(f"{path} has no calibrated frame beside it in {self.results}")
        self._savedir = self.results / "user" / self.block

    def __repr__(self) -> str:
        what = "stack" if self.is_stack else "frame"
        return f"<skymill {what} {self.id}>"

    def _file(self, folder: str) -> Path:
        return self.results / folder / self.block / f"{self.id}.fits"

    # --- the planes -------------------------------------------------------------------

    @cached_property
    def _read(self) -> tuple[Frame, tuple[str, ...]]:
        return read_image(self.path, self._assumed)

    @cached_property
    def frame(self) -> Frame:
        """Signal, error and final mask with header and the best WCS that is known."""
        frame = self._read[0]
        if self._header_changes:
            header = frame.header.copy()
            for key, value in self._header_changes.items():
                header[key] = value
            frame = frame.replace(header=header)
        if self.is_stack or self._alone:
            return frame
        if self._file("mask").is_file() and self._current("mask", "MASK"):
            frame = frame.replace(mask=io.read_mask(self._file("mask")))
        solved = self.astrometry.get("wcs")
        return frame.replace(wcs=io.wcs_from_text(solved)) if solved else frame

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What had to be assumed of an image that is not a product; empty otherwise."""
        return self._read[1]

    @property
    def data(self) -> NDArray[np.float32]:
        """Signal in electron, shape (ny, nx). Native byte order, read-only."""
        return self.frame.sci

    @property
    def mask(self) -> NDArray[np.uint16]:
        """Mask bits, shape (ny, nx); 0 is good. See `skymill.frame.MaskBit`."""
        return self.frame.mask

    @property
    def header(self) -> fits.Header:
        """Primary header of the product. A copy: changing it changes nothing."""
        return self.frame.header.copy()

    @property
    def wcs(self) -> WCS | None:
        """World coordinates: solved if possible, else those of the header."""
        return self.frame.wcs

    def masked(self, *names: str) -> NDArray[np.bool_]:
        """Return True where one of the named bits is set, for example ``"COSMIC"``."""
        bits = MaskBit(0)
        for name in names:
            bits |= MaskBit[name.upper()]
        return has_bits(self.mask, bits)

    # --- what was measured of it ------------------------------------------------------

    @cached_property
    def version(self) -> str:
        """Checksum of the pixels, errors and mask: what products must have been made from."""
        total = hashlib.sha256()
        for plane in (self.frame.sci, self.frame.err, self.frame.mask):
            total.update(plane.data)
        return total.hexdigest()[:16]

    def _current(self, folder: str, plane: str) -> bool:
        """Whether a product of the workflow was made from the calibrated file as it is."""
        primary = io.read_planes(self._file(folder), (plane,))[1]
        made_from = f"calibrated/{self.id} "
        for key in primary:
            if key.startswith("SMI0") and str(primary[key]).startswith(made_from):
                if str(primary[key]) == made_from + io.data_digest(self.path)[:16]:
                    return True
                self._stale(folder)
                return False
        return True

    def _stale(self, what: str) -> None:
        warnings.warn(
            f"{self.id}: its {what} was made from another version of the frame and is left out; "
            "run `skymill run`, or make it again",
            stacklevel=4,
        )

    def _saved(self, kind: str) -> NDArray[Any] | None:
        """A product that was saved for this frame, if it belongs to it as it is now."""
        path = self.savepath[kind]
        if not path.is_file():
            return None
        plane, primary = read_product(path, kind)
        if primary.get("FRAMEVER") == self.version and plane.shape == self.frame.shape:
            return plane
        self._stale(kind)
        return None

    @cached_property
    def _background(self) -> Background | None:
        if self.is_stack or self._alone or not self._file("background").is_file():
            return None
        current = self._current("background", "BKG")
        return io.read_background(self._file("background")) if current else None

    @property
    def invalid_mask(self) -> NDArray[np.bool_]:
        """Pixels without a value: as saved, else those with NO_DATA or OUTSIDE."""
        saved = self._saved("invalidmask")
        return self.masked("NO_DATA", "OUTSIDE") if saved is None else saved

    @property
    def source_mask(self) -> NDArray[np.bool_] | None:
        """Light of sources: as saved, else the bit SOURCE of the mask, else None."""
        saved = self._saved("srcmask")
        if saved is not None:
            return saved
        marked = self.masked("SOURCE")
        return marked if marked.any() else None

    @property
    def background(self) -> NDArray[np.float32] | None:
        """Background in electron at every pixel: as saved, else of the step, or None."""
        saved = self._saved("bkgmap")
        if saved is not None:
            return saved
        return None if self._background is None else self._background.level_map()

    @property
    def rms(self) -> NDArray[np.float32] | None:
        """Background scatter in electron at every pixel: as saved, of the step, or None."""
        saved = self._saved("bkgrms")
        if saved is not None:
            return saved
        return None if self._background is None else self._background.rms_map()

    @property
    def error(self) -> NDArray[np.float32]:
        """One-sigma error in electron: as saved, else the error plane of the frame."""
        saved = self._saved("srcrms")
        return self.frame.err if saved is None else saved

    @property
    def weight(self) -> NDArray[np.float32]:
        """Weight ``1 / error^2``; 0 where a pixel is bad or its error is not known."""
        return weight_from_error(self.error, self.mask)

    @cached_property
    def catalog(self) -> Table | None:
        """Sources of the frame or the stack, or None."""
        if self.is_stack:
            path = self.results / "catalog" / f"{self.id}.parquet"
            return io.read_table(path) if path.is_file() else None
        path = self.results / "sources" / f"{self.block}.parquet"
        if self._alone:
            return None
        return by_frame(io.read_table(path)).get(self.id) if path.is_file() else None

    # --- tables -----------------------------------------------------------------------

    def _record(self, folder: str) -> dict[str, Any]:
        path = self.results / folder / f"{self.block}.parquet"
        if self.is_stack or self._alone or not path.is_file():
            return {}
        return records(io.read_table(path)).get(self.id, {})

    @cached_property
    def astrometry(self) -> dict[str, Any]:
        """The row of the astrometry table; empty if there is none."""
        return self._record("astrometry")

    @cached_property
    def photcal(self) -> dict[str, Any]:
        """The row of the photcal table; empty if there is none."""
        return self._record("photcal")

    @cached_property
    def row(self) -> Row:
        """The row of the sheet; empty outside a project."""
        sheet = self.results.parent / "config" / "frames.csv"
        if self._alone or self.is_stack or not sheet.is_file():
            return {}
        from skymill.errors import ConfigError
        from skymill.sheet import read_sheet

        try:
            rows = read_sheet(sheet)
        except ConfigError:  # the sheet of another version tells nothing
            return {}
        return next((row for row in rows if row["frame_id"] == self.id), {})

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """What became of the frame in each step so far."""
        found: list[Outcome] = []
        for step in () if self._alone else _STEPS:
            path = self.results / "outcomes" / step / f"{self.block}.csv"
            if path.is_file():
                found += [o for o in io.read_outcomes(path) if o.frame_id == self.id]
        return found

    # --- files ------------------------------------------------------------------------

    @property
    def savedir(self) -> Path:
        """Folder of what is saved for this frame; another one may be set."""
        return self._savedir

    @savedir.setter
    def savedir(self, folder: str | Path) -> None:
        self._savedir = Path(folder)

    @property
    def savepath(self) -> dict[str, Path]:
        """File of each kind of product that can be saved."""
        return {kind: self.savedir / f"{self.id}.{kind}.fits" for kind in KINDS}

    @property
    def connected_files(self) -> dict[str, Path]:
        """Files of this frame that exist, by what they are; listed, not guessed from names."""
        files = {"image": self.path, **self.savepath}
        if not (self._alone or self.is_stack):
            files |= {folder: self._file(folder) for folder in ("mask", "background")}
        return {name: path for name, path in files.items() if path.is_file()}

    def remove_saved(self, skip: tuple[str, ...] = ()) -> dict[Path, bool]:
        """Delete what was saved for this frame, and nothing else.

        Parameters
        ----------
        skip : tuple of str
            Kinds that stay.

        Returns
        -------
        dict of Path to bool
            Files, and whether each is gone.
        """
        done = {}
        for kind, path in self.savepath.items():
            if kind not in skip and path.is_file():
                path.unlink()
                done[path] = not path.exists()
        return done

    def clear(self) -> None:
        """Drop everything that was read; it is read again when it is asked for."""
        for name in [
            k for k in self.__dict__ if isinstance(_member(type(self), k), cached_property)
        ]:
            del self.__dict__[name]

    def copy(self) -> Self:
        """Return an independent view of the same frame; pixels are shared, being read-only."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._header_changes = dict(self._header_changes)
        return other


def _member(owner: type, name: str) -> Any:
    return next((vars(base)[name] for base in owner.__mro__ if name in vars(base)), None)


def number(value: Any) -> float | None:
    """Return a float, or None for what is missing or no number."""
    try:
        out = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(out) else out
