"""The stack in bands of rows: resample, test, average, with bounded memory.

Every row of the grid is resampled once for each frame that reaches it. Three stages run
behind each other over the rows: the means, the rejection (which looks three rows further)
and the growth (one more); what the later stages still need is carried to the next band.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from skymill.engines import WarpPlanes
from skymill.frame import MaskBit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from skymill.kernels.stack import Cube
    from skymill.steps.stack_check import NoiseCheck
    from skymill.steps.stack_inputs import Member

__all__ = ["CELL_PX", "Bands", "How", "Totals"]

T = TypeVar("T")
R = TypeVar("R")

CELL_PX = 64
#: Rows that the rejection, and the growth after it, look beyond their own.
_TEST, _GROW = 3, 4
#: Rows of the statistics: every thirteenth, and the first of each cell.
_SAMPLE = 13
_MAJORITY = MaskBit.SATURATED | MaskBit.BLEED | MaskBit.NONLINEAR
#: Bytes that a pixel of a frame takes in a band; those of an open frame, and the planes of
#: nodes that it holds (positions, scales, noise and their slopes).
_PIXEL_BYTES, _FRAME_BYTES, _NODE_PLANES = 14, 60_000, 9
#: Bytes of a pixel of a frame that is being read; two are at a time.
_READ_BYTES = 120
_FEWEST_ROWS = 16


@dataclass(frozen=True)
class How:
    """How values are combined; see `skymill.steps.stack.stack`."""

    combine: Literal["clipped", "weighted", "median", "mean", "sum"] = "clipped"
    clip_sigma: float = 4.5
    grow_sigma: float = 2.5
    structure_tolerance: float = 0.03
    seeing_tolerance: float = 0.3
    memory_mb: float = 1000.0
    threads: int = 1

    @property
    def equal(self) -> bool:
        """True if all frames have the same weight."""
        return self.combine in ("median", "mean", "sum")


def structure_tolerances(
    fwhm_px: Sequence[float], base: float, seeing: float
) -> NDArray[np.float64]:
    """Return by what part of the local structure each frame may differ from the others.

    ``q_i = base + seeing |(median FWHM / FWHM_i)^2 - 1|``: the peak of a star goes with the
    inverse square of its width. One tolerance for all, wide enough for the worst frame,
    would let pass every hit on a star. A frame of unknown seeing gets ``base + seeing``.

    Parameters
    ----------
    fwhm_px : sequence of float, length n
        Seeing of the frames; NaN where unknown.
    base, seeing : float
        Tolerance of equal frames, and that of a change of the peak by its own height.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    fwhm = np.asarray(fwhm_px, np.float64)
    known = np.isfinite(fwhm) & (fwhm > 0)
    out = np.full(fwhm.size, base + seeing)
    if known.any():
        typical = float(np.median(fwhm[known]))
        out[known] = base + seeing * np.abs((typical / fwhm[known]) ** 2 - 1)
    return out


class Totals:
    """Planes of the stack and counters of the frames.

    Parameters
    ----------
    shape : tuple of int
        Shape (ny, nx) of the grid.
    n : int
        Number of frames.
    maps : bool
        Also make the maps of exposure and seeing.
    """

    def __init__(self, shape: tuple[int, int], n: int, *, maps: bool = False) -> None:
        from skymill.kernels.stack import empty_planes

        self.planes = empty_planes(shape)
        self.planes.mask.fill(int(MaskBit.NO_DATA))
        self.clipped = np.zeros(n, np.int64)
        self.used = np.zeros(n, np.int64)
        self.squares = np.zeros(n, np.float64)
        cells = tuple(-(-size // CELL_PX) for size in shape)
        self.white = np.zeros(cells, np.float64)
        self.variance = np.zeros(cells, np.float64)
        self.exposure = np.zeros(shape, np.float32) if maps else None
        self.seeing = np.full(shape, np.nan, np.float32) if maps else None


class Bands:
    """Fills the planes of a stack.

    Parameters
    ----------
    members : sequence of Member
        Open frames, in the order of their sums.
    shape : tuple of int
        Shape (ny, nx) of the grid.
    how : How
        How values are combined.
    maps : tuple of ndarray, optional
        Exposure (s) and FWHM (px of the grid) of the frames, for maps of both.
    check : NoiseCheck, optional
        Gets the finished rows of each band.
    """

    def __init__(
        self,
        members: Sequence[Member],
        shape: tuple[int, int],
        how: How,
        *,
        maps: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
        check: NoiseCheck | None = None,
    ) -> None:
        self.members = members
        self.shape = shape
        self.how = how
        self.maps = maps
        self.check = check
        self.totals = Totals(shape, len(members), maps=maps is not None)
        self._pools: dict[str, NDArray[Any]] = {}
        self._base = self._filled = self._tested = self._done = 0
        self._index: list[int] = []
        self._lines: dict[str, NDArray[Any]] = {}
        self._cube: Cube | None = None
        self._tolerance = structure_tolerances(
            [m.source.number("fwhm_px") for m in members],
            how.structure_tolerance,
            how.seeing_tolerance,
        )

    def run(self) -> Totals:
        """Do all bands.

        Raises
        ------
        FrameLost
            If the pixels of a frame cannot be read; the planes are then worthless.
        """
        ny = self.shape[0]
        while self._done < ny:
            base = max(self._done - _TEST, 0)
            top = self._top(base)
            self._open_band(base, top)
            if self._index:
                self._fill(top)
                self._combine(top)
            self._filled = top
            self._tested = top if top == ny else top - _TEST
            self._done = top if top == ny else top - _GROW
        return self.totals

    def _touching(self, first: int, last: int) -> list[int]:
        return [i for i, m in enumerate(self.members) if m.rows[0] < last and m.rows[1] > first]

    def _top(self, base: int) -> int:
        """Last row (exclusive) of a band: as many as the memory holds."""
        ny, nx = self.shape
        nodes = sum(m.scale_nodes.nbytes for m in self.members if m.scale_nodes is not None)
        left = self.how.memory_mb * 1e6 - _FRAME_BYTES * len(self.members) - _NODE_PLANES * nodes
        size = _PIXEL_BYTES + (4 if self.check else 0)
        low, high = _FEWEST_ROWS, max(ny - base, _FEWEST_ROWS)
        while low < high:  # the most rows that fit: more rows may mean more frames
            height = (low + high + 1) // 2
            n = max(len(self._touching(base, base + height)), 1)
            # What is carried on is there twice for a moment.
            fit = int(left / (nx * (size * n + _READ_BYTES))) - _TEST - _GROW
            low, high = (height, high) if fit >= height else (low, height - 1)
        height = low
        # Bands of equal height cost fewer halos than many full ones and a thin one.
        count = -(-(ny - base) // height)
        return min(base + max(-(-(ny - base) // count), _FEWEST_ROWS), ny)

    def _pool(self, name: str, size: int, dtype: Any) -> NDArray[Any]:
        found = self._pools.get(name)
        if found is None or found.size < size:
            self._pools.pop(name, None)
            del found
            self._pools[name] = np.empty(size, dtype)
        return self._pools[name][:size]

    def _open_band(self, base: int, top: int) -> None:
        """Lay out the planes of a band and move what is carried on into them."""
        from skymill.kernels.stack import GROUP, Cube

        nx, index = self.shape[1], self._touching(base, top)
        carried = max(self._filled - base, 0)
        kept = self._carry(base, carried)
        n, height = len(index), top - base
        stride = height * nx
        stride += -stride % 16 + 48  # frames of a pixel in different sets of the cache
        kinds = {"value": "f4", "variance": "f4", "k2": "u2", "mask": "u2", "state": "u1"}
        pools = {name: self._pool(name, n * stride, kind) for name, kind in kinds.items()}
        groups = -(-nx // GROUP)
        shape = (n, height, groups)
        smooth = [
            self._pool(name, n * height * groups, "f4").reshape(shape)
            for name in ("scale", "noise")
        ]
        members = [self.members[i] for i in index]
        reach = [(max(m.rows[0] - base, 0), min(max(m.rows[1] - base, 0), height)) for m in members]
        self._cube = Cube(
            pools["value"], pools["variance"], pools["k2"], pools["mask"], pools["state"],
            smooth[0], smooth[1], np.array([m.weight for m in members]),
            np.array([m.tolerance for m in members]),
            np.array(reach, np.int64).reshape(n, 2), stride, nx,
        )  # fmt: skip
        fresh: dict[str, NDArray[Any]] = {"centre": np.full((height, nx), np.nan)}
        fresh |= {name: np.zeros((height, nx), np.uint8) for name in ("todo", "near")}
        for name, plane in fresh.items():
            if carried and name in self._lines:
                plane[:carried] = self._lines[name][base - self._base :][:carried]
        for slot, i in enumerate(index):
            self._restore(slot, kept.get(i), carried, height)
        self._lines, self._index, self._base = fresh, index, base

    def _carry(self, base: int, carried: int) -> dict[int, list[NDArray[Any]]]:
        """Copies of the last rows of each frame, by frame."""
        if not carried or self._cube is None:
            return {}
        cube, nx, first = self._cube, self.shape[1], base - self._base
        out = {}
        for slot, i in enumerate(self._index):
            part = slice(slot * cube.stride + first * nx, 0)
            part = slice(part.start, part.start + carried * nx)
            rows = slice(first, first + carried)
            out[i] = [plane[part].copy() for plane in cube[:5]]
            out[i] += [plane[slot, rows].copy() for plane in cube[5:7]]
        return out

    def _restore(
        self, slot: int, kept: list[NDArray[Any]] | None, carried: int, height: int
    ) -> None:
        """Put carried rows of a frame in place; nothing is rejected in the others yet."""
        assert self._cube is not None
        cube, nx = self._cube, self.shape[1]
        start = slot * cube.stride
        cube.state[start + carried * nx : start + height * nx] = 0
        if kept is None:
            # The frame did not reach the carried rows.
            cube.k2[start : start + carried * nx] = 0
            cube.mask[start : start + carried * nx] = 0
            cube.state[start : start + carried * nx] = 0
            cube.scale[slot, :carried] = cube.noise[slot, :carried] = 1.0
            return
        flat: tuple[NDArray[Any], ...] = (
            cube.value, cube.variance, cube.k2, cube.mask, cube.state,
        )  # fmt: skip
        for number, plane in enumerate(flat):
            plane[start : start + carried * nx] = kept[number]
        cube.scale[slot, :carried], cube.noise[slot, :carried] = kept[5], kept[6]

    def _window(self, slot: int, first: int, last: int) -> WarpPlanes:
        """Rows of the grid of one frame, as planes to be filled."""
        assert self._cube is not None
        cube, nx = self._cube, self.shape[1]
        start = slot * cube.stride + (first - self._base) * nx
        part = slice(start, start + (last - first) * nx)
        shape = (last - first, nx)
        return WarpPlanes(
            cube.value[part].reshape(shape), cube.variance[part].reshape(shape),
            cube.k2[part].reshape(shape), cube.mask[part].reshape(shape),
        )  # fmt: skip

    def _fill(self, top: int) -> None:
        """Resample the new rows of all frames, each into its own part of the planes."""
        slots, threads = range(len(self._index)), self.how.threads
        _run(threads, lambda slot: self._fill_frame(slot, top), slots)

    def _fill_frame(self, slot: int, top: int) -> None:
        from skymill.kernels.stack_rows import smooth_rows

        assert self._cube is not None
        cube, nx = self._cube, self.shape[1]
        first, member = self._filled, self.members[self._index[slot]]
        whole = self._window(slot, first, top)
        low, high = max(member.rows[0], first), min(member.rows[1], top)
        if low >= high:
            low = high = first
        for rows in (slice(0, low - first), slice(high - first, top - first)):
            whole.k2[rows] = 0
            whole.mask[rows] = 0
        if low < high:
            part = slice(low - first, high - first)
            planes = WarpPlanes(
                whole.value[part], whole.variance[part], whole.k2[part], whole.mask[part]
            )
            member.warp.fill(low, planes)  # type: ignore[union-attr]
            _subtract_level(planes, member.level, low, self.shape)
        step = member.mapping.step  # type: ignore[union-attr]
        rows = slice(first - self._base, top - self._base)
        for nodes, out in ((member.scale_nodes, cube.scale), (member.noise_nodes, cube.noise)):
            smooth_rows(nodes, step, first, top - first, nx, out[slot, rows])

    def _combine(self, top: int) -> None:
        """Means of the new rows, rejection and growth of those whose neighbours are there."""
        from skymill.kernels.stack import first_pass
        from skymill.kernels.stack_clip import centre_rows, finish_rows, reject_rows
        from skymill.kernels.stack_median import median_rows

        assert self._cube is not None
        cube, how, out, base = self._cube, self.how, self.totals, self._base
        centre, todo, near = (self._lines[name] for name in ("centre", "todo", "near"))
        second, hole = int(MaskBit.INTERPOLATED), int(MaskBit.NO_DATA)
        clip = how.clip_sigma if how.combine == "clipped" else 0.0
        last = top == self.shape[0]
        start, new = self._tested - base, self._filled - base
        used, clipped = (np.zeros(len(self._index), np.int64) for _ in range(2))
        bits = (second, int(_MAJORITY), hole)

        def first(rows: tuple[int, int]) -> NDArray[np.int64]:
            counts = np.zeros(len(self._index), np.int64)
            args = (clip, how.equal, bits, out.planes, centre, todo, counts)
            first_pass(cube, base, *rows, *args)
            if how.combine == "clipped":
                centre_rows(cube, *rows, second, centre, todo)
            return counts

        # Rows do not know of each other yet.
        edges = np.linspace(new, top - base, how.threads + 1).astype(int).tolist()
        used = sum(_run(how.threads, first, itertools.pairwise(edges)), used)
        if how.combine == "clipped":
            end = top - base if last else top - base - _TEST
            q = self._tolerance[self._index]
            reject_rows(cube, start, end, clip, q, second, centre, todo, near)
        elif how.combine == "median":
            median_rows(cube, base, new, top - base, second, out.planes, todo)
        end = top - base if last else top - base - _GROW
        done, bits2 = self._done - base, (second, int(MaskBit.COSMIC))
        if how.combine != "median":
            finish_rows(
                cube, base, done, end, how.grow_sigma, self._tolerance[self._index], how.equal,
                bits2, out.planes, centre, todo, near, used, clipped,
            )  # fmt: skip
        out.used[self._index] += used
        out.clipped[self._index] += clipped
        self._statistics(done, end)
        self._extras(done, end)

    def _statistics(self, start: int, end: int) -> None:
        from skymill.kernels.stack import row_statistics

        out, squares = self.totals, np.zeros(len(self._index))
        for r in range(start, end):
            row = self._base + r
            if row % _SAMPLE and row % CELL_PX:
                continue
            squares[:] = 0
            row_statistics(
                self._cube, r, row, self.how.equal, int(MaskBit.INTERPOLATED), CELL_PX,
                squares, out.white, out.variance,
            )  # fmt: skip
            out.squares[self._index] += squares

    def _extras(self, start: int, end: int) -> None:
        """Maps and noise realisations of finished rows."""
        from skymill.kernels.stack_median import map_rows

        out, second = self.totals, int(MaskBit.INTERPOLATED)
        window = slice(self._base + start, self._base + end)
        if self.maps is not None and out.exposure is not None and out.seeing is not None:
            times, sizes = (values[self._index] for values in self.maps)
            map_rows(
                self._cube, start, end, self.how.equal, second, times, sizes,
                out.exposure[window], out.seeing[window],
            )  # fmt: skip
        if self.check is not None:
            assert self._cube is not None
            other = self._pool("other", self._cube.value.size, "f4")
            self.check.band(self._cube, other, self._index, self._base, (start, end))


def _run(threads: int, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Do the work on every item; results in their order."""
    if threads == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


def _subtract_level(
    planes: WarpPlanes, level: tuple[float, float, float], row0: int, shape: tuple[int, int]
) -> None:
    """Subtract a plane from resampled values: level, and slopes over half the grid."""
    if not any(level):
        return
    ny, nx = shape
    rows = row0 + np.arange(planes.value.shape[0])
    v = (2 * rows + 1.0) / ny - 1
    u = (2 * np.arange(nx) + 1.0) / nx - 1
    planes.value[...] -= (level[0] + level[1] * u[None, :] + level[2] * v[:, None]).astype(
        np.float32
    )
