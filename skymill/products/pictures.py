"""Looking at a frame."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import SkymillError
from skymill.products.drawing import draw_plane, save
from skymill.products.facts import DescribedFrame
from skymill.wcsmath import pixel_to_sky, sky_to_pixel

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["PicturedFrame"]


class PicturedFrame(DescribedFrame):
    """A frame that can be drawn. No method opens a window; ``ax.figure`` is the figure."""

    def show(
        self, coord_type: str = "coord", cmap: str = "gray", scale: str = "zscale",
        downsample: int = 4, figsize: tuple[float, float] = (8, 6), title: str | None = None,
        save_path: str | Path | None = None, *, ax: Axes | None = None, close_fig: bool = False,
    ) -> Axes:  # fmt: skip
        """Draw the frame, pixels without a value blank, and return the axes.

        Parameters
        ----------
        coord_type : str
            ``coord``: axes in right ascension and declination, where the frame has world
            coordinates; ``pixel``: pixels.
        cmap : str
            Colour map.
        scale : str
            ``zscale`` or ``minmax``.
        downsample : int
            Squares of so many pixels are averaged; positions stay those of the frame.
        figsize : tuple of float
            Inches.
        title : str, optional
            Default: the name of the frame.
        save_path : str or Path, optional
            File to write, at 300 dpi.
        ax : matplotlib axes, optional
            Where to draw; a new figure by default.
        close_fig : bool
            Drop the figure after it was written.
        """
        ax = draw_plane(
            self.data, ax=ax, wcs=self._axes_wcs(coord_type), cmap=cmap, scale=scale,
            downsample=downsample, figsize=figsize, save_path=save_path,
            title=self.id if title is None else title, label=self.frame.unit,
        )  # fmt: skip
        if close_fig:
            ax.figure.clear()
        return ax

    def show_position(
        self, x: float, y: float, coord_type: str = "pixel",
        radius_arcsec: float | None = None, a_arcsec: float | None = None,
        b_arcsec: float | None = None, theta_deg: float = 0.0, aperture_linewidth: float = 1,
        aperture_color: str = "red", aperture_label: str = "detected", downsample: int = 1,
        zoom_radius_pixel: float = 100, cmap: str = "gray", scale: str = "zscale",
        figsize: tuple[float, float] = (6, 6), title: str | None = None,
        title_fontsize: float = 18, ax: Axes | None = None,
        save_path: str | Path | None = None, *, radius_px: float | None = None,
    ) -> Axes:  # fmt: skip
        """Draw the surroundings of a position with a circle or an ellipse.

        Parameters
        ----------
        x, y : float
            0-based pixel, or right ascension and declination in degree.
        coord_type : str
            ``pixel`` or ``coord``: what the position is.
        radius_arcsec : float, optional
            Radius of the circle on the sky.
        a_arcsec, b_arcsec, theta_deg : float, optional
            Semi-axes and position angle (from north through east) of an ellipse instead.
            Without any of them a circle of a fifth of the cut-out is drawn.
        aperture_linewidth, aperture_color, aperture_label
            How it is drawn.
        downsample, cmap, scale, figsize, title, ax, save_path
            As in `show`.
        zoom_radius_pixel : float
            Half the side of the cut-out (px); ``radius_px`` is the same.
        title_fontsize : float
            In points.

        Raises
        ------
        SkymillError
            If the position lies outside the frame, or the sky is asked for without world
            coordinates.
        """
        px, py = self._pixel(x, y, coord_type)
        reach = zoom_radius_pixel if radius_px is None else radius_px
        ny, nx = self.data.shape
        x0, x1 = max(0, int(px - reach)), min(nx, int(px + reach) + 1)
        y0, y1 = max(0, int(py - reach)), min(ny, int(py + reach) + 1)
        if x0 >= x1 or y0 >= y1:
            raise SkymillError(f"position x={px:g}, y={py:g} lies outside the {nx}x{ny} px frame")
        ax = draw_plane(
            self.data[y0:y1, x0:x1], corner=(x0, y0), ax=ax, cmap=cmap, scale=scale,
            downsample=downsample, figsize=figsize,
        )  # fmt: skip
        ax.set_title(self.id if title is None else title, fontsize=title_fontsize)
        outline = self._outline(px, py, radius_arcsec, a_arcsec, b_arcsec, theta_deg, reach / 5)
        # the outline must not widen the picture
        limits = ax.get_xlim(), ax.get_ylim()
        ax.plot(
            outline[:, 0], outline[:, 1], color=aperture_color, linewidth=aperture_linewidth,
            label=aperture_label,
        )  # fmt: skip
        ax.set(xlim=limits[0], ylim=limits[1])
        if aperture_label:
            ax.legend(loc="upper right")
        save(ax, save_path)
        return ax

    def plot_background_mesh(
        self, *, ax: Axes | None = None, save: bool | str | Path = False, downsample: int = 4
    ) -> Axes:
        """Draw the cells of the background mesh over the frame.

        Parameters
        ----------
        ax : matplotlib axes, optional
            Where to draw.
        save : bool, str or Path
            True writes ``<frame>.mesh.png`` into `savedir`; or a file.
        downsample : int
            As in `show`.
        """
        if self._background is None:
            raise SkymillError(f"{self.id} has no background; `skymill run` measures it")
        box = self._background.box_size_px
        ax = draw_plane(self.data, ax=ax, downsample=downsample, title=f"{self.id} {box} px mesh")
        for edge in range(0, self.naxis1 + box, box):
            ax.axvline(min(edge, self.naxis1) - 0.5, color="tab:orange", linewidth=0.5)
        for edge in range(0, self.naxis2 + box, box):
            ax.axhline(min(edge, self.naxis2) - 0.5, color="tab:orange", linewidth=0.5)
        if save:
            target = self.savedir / f"{self.id}.mesh.png" if save is True else save
            _save(ax, target)
        return ax

    def run_ds9(self) -> Any:
        """Start DS9 on the file and return its process; the session goes on.

        Raises
        ------
        SkymillError
            If DS9 is not installed.
        """
        program = shutil.which("ds9")
        if program is None:
            raise SkymillError("DS9 is not installed (no program `ds9` on the path); use show()")
        return subprocess.Popen(
            [program, str(self.path)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    # --- parts ------------------------------------------------------------------------

    def _axes_wcs(self, coord_type: str) -> Any:
        if coord_type not in ("coord", "pixel"):
            raise SkymillError(f"coord_type is coord or pixel, not {coord_type!r}")
        wcs = self.wcs
        return wcs if coord_type == "coord" and wcs is not None and wcs.has_celestial else None

    def _pixel(self, x: float, y: float, coord_type: str) -> tuple[float, float]:
        if coord_type == "pixel":
            return float(x), float(y)
        wcs = self._axes_wcs(coord_type)
        if wcs is None:
            raise SkymillError(f"{self.id} has no world coordinates; give a pixel position")
        px, py = sky_to_pixel(wcs, x, y)[0]
        if not (np.isfinite(px) and np.isfinite(py)):
            raise SkymillError(f"position RA {x:g}, Dec {y:g} lies far outside the frame")
        return float(px), float(py)

    def _outline(
        self, px: float, py: float, radius: float | None, a: float | None, b: float | None,
        theta_deg: float, fallback_px: float,
    ) -> NDArray[np.float64]:  # fmt: skip
        """Points (n, 2) of the aperture in pixels, through the world coordinates."""
        turn = np.linspace(0, 2 * np.pi, 73)
        if radius is None and a is None:
            return np.stack([px + fallback_px * np.cos(turn), py + fallback_px * np.sin(turn)], 1)
        wcs = self._axes_wcs("coord")
        if wcs is None:
            raise SkymillError(f"{self.id} has no world coordinates; sizes in arcsec mean nothing")
        a = radius if a is None else a
        b = a if b is None else b
        # along the major axis, and across it towards the east
        along, across = a * np.cos(turn), b * np.sin(turn)  # type: ignore[operator]
        angle = np.radians(theta_deg)
        north = along * np.cos(angle) - across * np.sin(angle)
        east = along * np.sin(angle) + across * np.cos(angle)
        ra0, dec0 = np.radians(pixel_to_sky(wcs, np.array([[px, py]]))[0])
        ra, dec = _offset(ra0, dec0, np.hypot(north, east) / 206264.80624709636,
                          np.arctan2(east, north))  # fmt: skip
        return sky_to_pixel(wcs, np.degrees(ra), np.degrees(dec))


_save = save


def _offset(ra: Any, dec: Any, distance: Any, angle: Any) -> tuple[Any, Any]:
    """Point at a distance and position angle on the sphere, all in radians."""
    sine = np.sin(dec) * np.cos(distance) + np.cos(dec) * np.sin(distance) * np.cos(angle)
    new = np.arcsin(np.clip(sine, -1, 1))
    y = np.sin(angle) * np.sin(distance) * np.cos(dec)
    x = np.cos(distance) - np.sin(dec) * sine
    return ra + np.arctan2(y, x), new
