"""Images on which measurements are compared with those of other programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import erf

NOISE = 5.0


@dataclass(frozen=True, eq=False)
class Field:
    """An image and what sep detects in it; positions are 0-based, angles in radians."""

    sci: np.ndarray
    err: np.ndarray
    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    b: np.ndarray
    theta: np.ndarray
    flux_iso: np.ndarray
    npix: np.ndarray
    segments: np.ndarray


def scene(seed, *, side=560, step=46):
    """Return an image of isolated Gaussian and elongated sources on white noise, and its noise."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, NOISE, (side, side))
    grid = np.arange(step / 2, side - step / 3, step)
    gy, gx = np.mgrid[-20:21, -20:21]
    for cy in grid:
        for cx in grid:
            x, y = cx + rng.uniform(-4, 4), cy + rng.uniform(-4, 4)
            i, j = int(np.rint(x)), int(np.rint(y))
            flux = 10 ** rng.uniform(3.0, 5.2)
            j0, j1, i0, i1 = j - 20, j + 21, i - 20, i + 21
            if min(j0, i0) < 0 or max(j1, i1) > side:
                continue
            if rng.random() < 0.5:
                light = _gauss(x - i, 2.2, gx[0]) * _gauss(y - j, 2.2, gy[:, 0])[:, None]
            else:
                turn = rng.uniform(-1.5, 1.5)
                u = (gx - x + i) * np.cos(turn) + (gy - y + j) * np.sin(turn)
                v = -(gx - x + i) * np.sin(turn) + (gy - y + j) * np.cos(turn)
                light = np.exp(-0.5 * ((u / 4.0) ** 2 + (v / 2.0) ** 2)) / (2 * np.pi * 8.0)
            image[j0:j1, i0:i1] += flux * light
    sci = image.astype(np.float32)
    return sci, np.full(sci.shape, NOISE, np.float32)


def _gauss(offset, sigma, grid):
    edges = np.append(grid - 0.5, grid[-1] + 0.5)
    return np.diff(erf((edges - offset) / (sigma * np.sqrt(2)))) / 2


def detected(sci, err):
    """Return the sources that sep finds."""
    import sep

    found, segments = sep.extract(
        sci, 3.0, err=err, minarea=5, filter_kernel=None, clean=False, segmentation_map=True
    )
    objects: Any = found
    return Field(
        sci, err, *(np.asarray(objects[name], float) for name in ("x", "y", "a", "b", "theta")),
        np.asarray(objects["flux"], float), np.asarray(objects["npix"], int),
        np.asarray(segments, np.int32),
    )  # fmt: skip
