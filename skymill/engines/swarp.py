"""SWarp as an engine: its resampled values with exact variance and masks.

SWarp's own weight map takes the largest variance of the footprint (astromatic/swarp#30),
and its flags one nearest pixel. So only the values are taken from it. Its kernel is the
normalised Lanczos that our engine computes too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skymill.engines.external import ExternalWarp, cleaned
from skymill.engines.native import NativeWarp
from skymill.engines.profiles import local_scale, typical_scale
from skymill.engines.swarp_program import (
    find_swarp,
    run_swarp,
    swarp_cards,
    write_head,
    write_image,
)

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skymill.engines.base import FrameRows
    from skymill.resample import PixelMap

__all__ = ["SwarpWarp"]

#: SWarp leaves out pixels whose kernel leaves the frame by less than a pixel: it is given
#: a border of zeros, and our mask says where the frame ends.
_BORDER = 8


class SwarpWarp(ExternalWarp):
    """One frame on its way to a grid; see `skymill.engines.open_warp`.

    Parameters
    ----------
    kernel : str
        Lanczos2, 3, 4, bilinear or nearest.
    frame : FrameRows
        Pixels of the frame.
    mapping : PixelMap
        Positions of the grid's pixels in the frame.
    scale : tuple
        Flux scale and convention.
    wcs : tuple of astropy.wcs.WCS
        Of the frame and of the grid.
    scratch : str or Path, optional
        Where a private folder is made, which `close` removes.

    Raises
    ------
    ProgramError
        TOOL_MISSING if SWarp is not installed.
    """

    def __init__(
        self,
        kernel: str,
        frame: FrameRows,
        mapping: PixelMap,
        scale: tuple[float, str],
        wcs: tuple[WCS, WCS],
        scratch: str | Path | None,
    ) -> None:
        self._program = find_swarp()
        # SWarp averages samples of the kernel where output pixels are larger.
        self._samples = max(1, int(typical_scale(local_scale(mapping)) + 0.5))
        own = NativeWarp(kernel, frame, mapping, scale, oversample=self._samples)
        super().__init__(kernel, own, frame)
        self._wcs = wcs
        self._scratch = scratch
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._plane: NDArray[np.float32] | None = None

    def values(self, row0: int, rows: int) -> NDArray[np.float32]:
        """Return the resampled surface brightness of some output rows, shape (rows, nx)."""
        if self._plane is None:
            self._plane = self._run()
        return np.array(self._plane[row0 : row0 + rows], np.float32)

    def _run(self) -> NDArray[np.float32]:
        """Resample the whole frame once into a file that is mapped."""
        from skymill.io_raw import read_raw

        if self._scratch is not None:
            Path(self._scratch).mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="swarp-", dir=self._scratch)
        folder = Path(self._folder.name)
        my, mx = self.frame.shape
        image = np.pad(cleaned(self.frame.rows(0, my)), _BORDER)
        cards = swarp_cards(self._wcs[0], (my, mx))
        for key in ("CRPIX1", "CRPIX2"):
            cards[key] += _BORDER
        write_image(folder / "frame.fits", image, cards)
        del image
        shape = self.mapping.shape
        write_head(folder / "out.head", self._wcs[1], shape)
        options = {
            "COMBINE": "N",
            "IMAGEOUT_NAME": "out.fits",
            "WEIGHTOUT_NAME": "out.weight.fits",
            "RESAMPLING_TYPE": self.kernel.upper(),
            "OVERSAMPLING": self._samples,
            "DELETE_TMPFILES": "N",
        }
        run_swarp(self._program, folder, ["frame.fits"], options, ["frame.resamp.fits"])
        part, header = read_raw(folder / "frame.resamp.fits", 0)
        grid = swarp_cards(self._wcs[1], shape)
        x0, y0 = (round(grid[key] - header[key]) for key in ("CRPIX1", "CRPIX2"))
        plane = np.memmap(folder / "plane.f4", np.float32, "w+", shape=shape)
        plane[:] = np.nan
        ny, nx = part.shape
        top, left = max(y0, 0), max(x0, 0)
        bottom, right = min(y0 + ny, shape[0]), min(x0 + nx, shape[1])
        if top < bottom and left < right:
            plane[top:bottom, left:right] = part[top - y0 : bottom - y0, left - x0 : right - x0]
        for name in ("frame.fits", "frame.resamp.fits", "frame.resamp.weight.fits"):
            (folder / name).unlink(missing_ok=True)
        return plane

    def close(self) -> None:
        """Remove the private folder."""
        super().close()
        self._plane = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
