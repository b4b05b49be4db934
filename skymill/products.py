"""One frame with everything that is known of it: what a notebook works with.

``skymill.open`` assembles again what the steps wrote apart: the calibrated frame, its
final mask, its background, its sources, where it points and how bright it is.
"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill import io
from skymill.errors import Outcome, SkymillError
from skymill.frame import MaskBit, has_bits
from skymill.jobs.tables import by_frame, records

if TYPE_CHECKING:
    import numpy as np
    from astropy.io import fits
    from astropy.table import Table
    from astropy.wcs import WCS
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from skymill.frame import Background, Frame

__all__ = ["OpenFrame", "open_frame"]

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


class OpenFrame:
    """A view of one frame or stack. Read-only; everything is read when it is asked for.

    Parameters
    ----------
    path : str or Path
        ``results/calibrated/<block>/<frame>.fits``, the mask or background of the same
        frame, or ``results/stack/<stack>.fits``.

    Raises
    ------
    SkymillError
        If the file is not a product of skymill or could not be made.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if not path.is_file():
            raise SkymillError(f"{path} does not exist; `skymill status` tells what has been made")
        if path.suffix != ".fits":
            raise SkymillError(f"{path.name} is not a frame; open a .fits product")
        self.is_stack = path.parent.name == "stack"
        self.results = path.parents[1] if self.is_stack else path.parents[2]
        self.id = path.stem
        self.block = "" if self.is_stack else path.parent.name
        self.path = path if self.is_stack else self._file("calibrated")
        if not self.path.is_file():
            raise SkymillError(f"{path} has no calibrated frame beside it in {self.results}")

    def __repr__(self) -> str:
        what = "stack" if self.is_stack else "frame"
        return f"<skymill {what} {self.id}>"

    def _file(self, folder: str) -> Path:
        return self.results / folder / self.block / f"{self.id}.fits"

    @cached_property
    def frame(self) -> Frame:
        """Signal, error and final mask with header and the best WCS that is known."""
        frame = io.read_frame(self.path)
        if self.is_stack:
            return frame
        if self._file("mask").is_file():
            frame = frame.replace(mask=io.read_mask(self._file("mask")))
        solved = self.astrometry.get("wcs")
        return frame.replace(wcs=io.wcs_from_text(solved)) if solved else frame

    @property
    def data(self) -> NDArray[np.float32]:
        """Signal in electron, shape (ny, nx)."""
        return self.frame.sci

    @property
    def error(self) -> NDArray[np.float32]:
        """One-sigma error in electron, shape (ny, nx)."""
        return self.frame.err

    @property
    def mask(self) -> NDArray[np.uint16]:
        """Mask bits, shape (ny, nx); 0 is good. See `skymill.frame.MaskBit`."""
        return self.frame.mask

    @property
    def header(self) -> fits.Header:
        """Primary header of the product."""
        return self.frame.header

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

    @cached_property
    def _background(self) -> Background | None:
        if self.is_stack or not self._file("background").is_file():
            return None
        return io.read_background(self._file("background"))

    @property
    def background(self) -> NDArray[np.float32] | None:
        """Background in electron at every pixel, or None."""
        return None if self._background is None else self._background.level_map()

    @property
    def rms(self) -> NDArray[np.float32] | None:
        """Background scatter in electron at every pixel, or None."""
        return None if self._background is None else self._background.rms_map()

    @cached_property
    def catalog(self) -> Table | None:
        """Sources of the frame or the stack, or None."""
        if self.is_stack:
            path = self.results / "catalog" / f"{self.id}.parquet"
            return io.read_table(path) if path.is_file() else None
        path = self.results / "sources" / f"{self.block}.parquet"
        return by_frame(io.read_table(path)).get(self.id) if path.is_file() else None

    def _record(self, folder: str) -> dict[str, Any]:
        path = self.results / folder / f"{self.block}.parquet"
        if self.is_stack or not path.is_file():
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

    @property
    def zero_point(self) -> float | None:
        """Magnitude of 1 electron/s, or None if the scale is relative."""
        return _number(self.photcal.get("zp"))

    @property
    def depth(self) -> float | None:
        """Magnitude of a 5-sigma source, or None."""
        return _number(self.photcal.get("depth_mag"))

    @property
    def seeing(self) -> float | None:
        """FWHM in arcsec, or None; in pixels it is ``photcal["fwhm_px"]``."""
        return _number(self.photcal.get("fwhm_arcsec"))

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """What became of the frame in each step so far."""
        found = []
        for step in _STEPS:
            path = self.results / "outcomes" / step / f"{self.block}.csv"
            if path.is_file():
                found += [o for o in io.read_outcomes(path) if o.frame_id == self.id]
        return found

    def show(self, *, ax: Axes | None = None, cmap: str = "gray") -> Axes:
        """Draw the frame, masked pixels blank, and return the axes.

        Parameters
        ----------
        ax : matplotlib axes, optional
            Where to draw; a new figure by default.
        cmap : str
            Colour map.
        """
        return self._draw(self.data, (0, 0), ax, cmap)

    def show_position(
        self, x: float, y: float, *, radius_px: float = 50, ax: Axes | None = None
    ) -> Axes:
        """Draw the surroundings of a pixel position with a circle, and return the axes."""
        ny, nx = self.data.shape
        x0, x1 = max(0, int(x - radius_px)), min(nx, int(x + radius_px) + 1)
        y0, y1 = max(0, int(y - radius_px)), min(ny, int(y + radius_px) + 1)
        if x0 >= x1 or y0 >= y1:
            raise SkymillError(f"position x={x:g}, y={y:g} lies outside the {nx}x{ny} px frame")
        ax = self._draw(self.data[y0:y1, x0:x1], (x0, y0), ax, "gray")
        from matplotlib.patches import Circle

        ax.add_patch(Circle((x, y), radius_px / 5, fill=False, color="red"))
        return ax

    def _draw(
        self, data: NDArray[np.float32], corner: tuple[int, int], ax: Axes | None, cmap: str
    ) -> Axes:
        import matplotlib.pyplot as plt
        from astropy.visualization import ZScaleInterval

        if ax is None:
            _, ax = plt.subplots()
        low, high = ZScaleInterval().get_limits(data)
        ny, nx = data.shape
        x0, y0 = corner
        extent = (x0 - 0.5, x0 + nx - 0.5, y0 - 0.5, y0 + ny - 0.5)
        ax.imshow(data, origin="lower", vmin=low, vmax=high, cmap=cmap, extent=extent)
        ax.set(xlabel="x (px)", ylabel="y (px)", title=self.id)
        return ax


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def open_frame(path: str | Path) -> OpenFrame:
    """Open a calibrated frame or a stack with everything that is known of it.

    Parameters
    ----------
    path : str or Path
        ``results/calibrated/<block>/<frame>.fits`` or ``results/stack/<stack>.fits``.

    Returns
    -------
    OpenFrame
    """
    return OpenFrame(path)
