"""What a stack says of its noise beyond the error of a pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from skymill.steps.shared_errors import MasterCells, SharedPlanes
    from skymill.steps.stack_bands import Totals
    from skymill.steps.stack_inputs import Member

__all__ = ["exposure_maps", "median_correlation", "noise_correlation", "shared_terms"]


def noise_correlation(
    members: Sequence[Member], totals: Totals, *, median: bool
) -> NDArray[np.float32]:
    """Return the mean noise correlation of the stack by lag, centre 1.

    That of each frame counts with its share of the stack's variance; in a median, which
    counts signs, with its share of the values.
    """
    share = totals.used.astype(np.float64) if median else totals.squares
    share = share / max(float(share.sum()), 1e-300)
    covered = totals.planes.coverage[totals.planes.coverage > 0]
    n = int(np.median(covered))
    total = np.zeros_like(np.asarray(members[0].warp.correlation, np.float64))  # type: ignore[union-attr]
    for part, member in zip(share, members, strict=True):
        rho = member.warp.correlation  # type: ignore[union-attr]
        total += part * (median_correlation(rho, n) if median else rho)
    return total.astype(np.float32)


def median_correlation(rho: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Return the correlation of medians of n values from that of their means.

    ``(2 / pi) arcsin(rho)`` for large n, the mean's own for one and two. Between them both
    are mixed so that small correlations fall by ``c_n``: the part of a median that is linear
    in the values is their mean, and has that share of its variance.
    """
    from skymill.kernels.stack_median import median_efficiency

    many = 2 / np.pi * np.arcsin(np.clip(rho, -1, 1))
    share = (1 / float(median_efficiency(n)) - 2 / np.pi) / (1 - 2 / np.pi)
    return np.asarray(many + share * (rho - many))


def exposure_maps(
    members: Sequence[Member],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return exposure (s) and FWHM in pixels of the grid of each frame."""
    times = np.array([member.source.number("exptime_s") for member in members])
    sizes = []
    for member in members:
        area = member.mapping.area if member.mapping is not None else np.ones(1)
        # Pixels of the frame that one pixel of the grid is long.
        sizes.append(member.source.number("fwhm_px") / float(np.sqrt(np.nanmedian(area))))
    return times, np.array(sizes)


def shared_terms(
    members: Sequence[Member],
    masters: Mapping[str, MasterCells] | None,
    grid_shape: tuple[int, int],
    *,
    equal: bool,
) -> SharedPlanes | None:
    """Return the terms that frames share, None if the masters are not known."""
    from skymill.steps.shared_errors import SharedFrame, shared_planes

    if masters is None or all(m.source.calibration is None for m in members):
        return None
    frames = []
    for member in members:
        assert member.mapping is not None
        assert member.pixels is not None
        assert member.scale_nodes is not None
        assert member.noise_nodes is not None
        assert member.warp is not None
        scale = member.scale_nodes
        weight = member.weight / (scale**2 * member.noise_nodes)
        frames.append(
            SharedFrame(
                member.source.calibration,
                member.pixels.background,
                member.mapping,
                scale,
                np.ones_like(scale) if equal else weight,
                member.warp.correlation,
                member.pixels.shape,
            )
        )
    return shared_planes(frames, masters, grid_shape)
