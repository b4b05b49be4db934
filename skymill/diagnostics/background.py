"""The cells of the background over the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skymill.diagnostics.figures import COLOURS, Diagnostic, new_figure, show_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.frame import Background

__all__ = ["plot_background_mesh"]


def plot_background_mesh(
    sci: NDArray[np.float32], background: Background, *, title: str = ""
) -> Diagnostic:
    """Draw the cells in which the background was measured, its level and its scatter.

    Parameters
    ----------
    sci : ndarray of float32, shape (ny, nx)
        The image of which the background was measured.
    background : Background
        What the step background measured.
    title : str
        Title.

    Returns
    -------
    Diagnostic
        Numbers: ``level_e``, ``level_range_e`` (highest minus lowest), ``rms_e``,
        ``level_err_e``, ``box_px``, ``n_cells``.
    """
    level, rms = background.level_map(), background.rms_map()
    ny, nx = sci.shape
    rows, columns = background.level.shape
    figure, axes = new_figure(1, 3, size=(13.0, 4.2))
    show_image(axes[0, 0], sci)
    box = background.box_size_px
    if box > 1:  # 1: the meshes are the maps themselves, there are no borders to draw
        for k in range(box, nx, box):
            axes[0, 0].axvline(k - 0.5, color=COLOURS[5], lw=0.6)
        for k in range(box, ny, box):
            axes[0, 0].axhline(k - 0.5, color=COLOURS[5], lw=0.6)
    axes[0, 0].set_title(f"{columns} × {rows} cells")
    for ax, plane, name in (
        (axes[0, 1], level, "level (e⁻/px)"), (axes[0, 2], rms, "scatter (e⁻/px)"),
    ):  # fmt: skip
        shown = ax.imshow(plane, origin="lower", cmap="viridis", interpolation="nearest")
        figure.colorbar(shown, ax=ax, shrink=0.85)
        ax.set_title(name)
        ax.set_xlabel("x (px)")
    figure.suptitle(title)
    numbers = {
        "level_e": float(np.median(level)),
        "level_range_e": float(level.max() - level.min()),
        "rms_e": float(np.median(rms)),
        "level_err_e": float(background.level_err),
        "box_px": int(box),
        "n_cells": int(rows * columns),
    }
    return Diagnostic(figure, numbers)
