"""What all diagnostics share: figures without windows, files without times."""

from __future__ import annotations

import io as memory
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skymill import io
from skymill.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["COLOURS", "Diagnostic", "grey_limits", "new_figure", "save_figure", "show_image"]

#: Colours of lines, told apart by people with any kind of colour vision (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31")
#: Cards of a file that would tell when it was written.
_NO_TIMES: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    ".svg": {"Date": None, "Creator": None},
}


class Diagnostic(NamedTuple):
    """A figure and the numbers that it shows.

    Attributes
    ----------
    figure : matplotlib.figure.Figure
        Belongs to no window; a notebook shows it.
    numbers : dict
        Numbers by name, with the unit at the end of the name.
    """

    figure: Figure
    numbers: dict[str, Any]


def new_figure(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (6.4, 4.2)
) -> tuple[Figure, NDArray[Any]]:
    """Return a figure and its axes, shape (rows, columns)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 150) -> Path:
    """Write a figure as PNG, PDF or SVG; the same figure gives the same bytes.

    Raises
    ------
    ConfigError
        For another suffix.
    """
    import matplotlib as mpl

    path = Path(path)
    kind = path.suffix.lower()
    if kind not in _NO_TIMES:
        raise ConfigError(f"figure: {path.name} must end in {', '.join(_NO_TIMES)}")
    stream = memory.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "skymill"}):
        figure.savefig(stream, format=kind[1:], dpi=dpi, metadata=_NO_TIMES[kind])
    io.write_bytes(path, stream.getvalue())
    return path


def grey_limits(image: NDArray[Any]) -> tuple[float, float]:
    """Return black and white of a picture of stars: the sky is dark grey, faint stars show."""
    good = image[np.isfinite(image)]
    if not good.size:
        return 0.0, 1.0
    middle = float(np.median(good))
    sigma = 1.4826 * float(np.median(np.abs(good - middle)))
    high = float(np.percentile(good, 99.7))
    low = middle - 2 * sigma
    return low, max(min(high, middle + 30 * sigma), low + 1e-6 + abs(low) * 1e-6)


def show_image(ax: Axes, image: NDArray[Any]) -> None:
    """Draw an image in grey with 0-based pixels, the first row below."""
    low, high = grey_limits(image)
    ax.imshow(image, origin="lower", cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    ax.set_xlabel("x (px)")
    ax.set_ylabel("y (px)")
