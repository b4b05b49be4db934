"""Pictures of planes, without windows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["draw_plane", "new_axes", "save", "shrink"]

#: Resolution of saved pictures.
DPI = 300


def new_axes(figsize: tuple[float, float] = (8, 6), wcs: WCS | None = None) -> Axes:
    """Return axes of a new figure; no window belongs to it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, layout="constrained" if wcs is None else None)
    FigureCanvasAgg(figure)
    return figure.add_subplot(projection=wcs)


def draw_plane(
    data: NDArray[Any],
    *,
    corner: tuple[int, int] = (0, 0),
    ax: Axes | None = None,
    wcs: WCS | None = None,
    cmap: str = "gray",
    scale: str = "zscale",
    downsample: int = 1,
    figsize: tuple[float, float] = (8, 6),
    title: str = "",
    label: str = "",
    save_path: str | Path | None = None,
) -> Axes:
    """Draw an image or a mask in the pixel coordinates of the whole frame.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
        Values; NaN is left blank.
    corner : tuple of int
        Column and row of the first pixel.
    ax : matplotlib axes, optional
        Where to draw.
    wcs : astropy.wcs.WCS, optional
        World coordinates of the frame: axes in right ascension and declination.
    cmap, title, label : str
        Colour map, title, and text of the colour bar (none if empty).
    scale : str
        ``zscale`` or ``minmax``.
    downsample : int
        Squares of so many pixels are averaged. The picture keeps the coordinates of the
        frame, so a position lies where it did.
    figsize : tuple of float
        Size of a new figure in inches.
    save_path : str or Path, optional
        File to write.

    Returns
    -------
    matplotlib Axes
        Its figure is ``ax.figure``.
    """
    if scale not in ("zscale", "minmax"):
        raise ValueError(f"scale must be zscale or minmax, got {scale!r}")
    ax = new_axes(figsize, wcs) if ax is None else ax
    n = max(1, int(downsample))
    small = shrink(np.asarray(data, np.float64), n)
    (ny, nx), (x0, y0) = small.shape, corner
    extent = (x0 - 0.5, x0 + nx * n - 0.5, y0 - 0.5, y0 + ny * n - 0.5)
    low, high = (0.0, 1.0) if data.dtype == bool else _limits(small, scale)
    drawn = ax.imshow(
        small, origin="lower", vmin=low, vmax=high, cmap=cmap, extent=extent,
        interpolation="nearest",
    )  # fmt: skip
    ax.set_title(title)
    if not hasattr(ax, "wcs"):
        ax.set(xlabel="x (px)", ylabel="y (px)")
    if label:
        ax.figure.colorbar(drawn, ax=ax, label=label)
    save(ax, save_path)
    return ax


def save(ax: Axes, path: str | Path | None) -> None:
    """Write the figure of the axes."""
    if path is not None:
        from skymill.products.maps import refuse_workflow_file

        target = Path(path)
        refuse_workflow_file(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        figure: Any = ax.figure
        figure.savefig(target, dpi=DPI)


def shrink(data: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Mean of the finite values of squares of n pixels; NaN where there is none.

    The last squares may reach beyond the frame; they are the mean of what they hold.
    """
    if n == 1:
        return data
    ny, nx = data.shape
    padded = np.pad(data, ((0, -ny % n), (0, -nx % n)), constant_values=np.nan)
    cells = padded.reshape(padded.shape[0] // n, n, padded.shape[1] // n, n)
    known = np.isfinite(cells)
    total = np.where(known, cells, 0.0).sum(axis=(1, 3))
    count = known.sum(axis=(1, 3))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _limits(data: NDArray[np.float64], scale: str) -> tuple[float, float]:
    from astropy.visualization import ZScaleInterval

    values = data[np.isfinite(data)]
    if not values.size:
        return 0.0, 1.0
    if scale == "zscale":
        low, high = ZScaleInterval().get_limits(values)
        return float(low), float(high)
    return float(values.min()), float(values.max())
