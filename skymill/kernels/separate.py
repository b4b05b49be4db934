"""Groups of stars that touch, divided by the detection library and by nothing else of it.

The library filters with a kernel of two dimensions, which is most of its time. It is given
only the surroundings of the groups that a level might divide, pasted side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skymill.kernels.groups import Runs, boxes, label

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["EDGE", "OBJECT", "separate"]

#: Bits of ``flag``: divided from a neighbour, and touching the edge of the frame.
_DIVIDED, EDGE = 1, 2
#: A pixel of this noise has no weight, and its variance is still a number.
_NO_WEIGHT = 1e15
#: What is told of an object; names and meaning are those of `sep.extract`.
OBJECT = np.dtype(
    [(name, np.float64) for name in ("x", "y", "a", "b", "theta", "errx2", "erry2")]
    + [(name, np.float64) for name in ("cflux", "peak")]
    + [(name, np.int64) for name in ("npix", "xpeak", "ypeak", "flag")]
)


class _Sheet(NamedTuple):
    """Groups, and where their boxes lie on a sheet that the library gets.

    Beside a group the filter must see all that it sees in the frame, or groups might join:
    the margin is one pixel more than the filter reaches.
    """

    groups: NDArray[np.int64]
    boxes: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    shape: tuple[int, int]
    margin: int


def separate(
    objects: NDArray[Any],
    runs: Runs,
    groups: NDArray[np.int64],
    segments: NDArray[np.int32],
    planes: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]],
    kernel: NDArray[np.float32],
    threshold_sigma: float,
    minimum_area_px: int,
    contrast: float,
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Replace groups by the parts into which the library divides them.

    Parameters
    ----------
    objects : structured ndarray of `OBJECT`
        One for each group.
    runs : Runs
        The pixels of all groups.
    groups : ndarray of int64
        Which of them may be divided.
    segments : ndarray of int32, shape (ny, nx)
        Index + 1 of the group of each pixel. Modified.
    planes : tuple of ndarray
        Image, noise, and mask of what is left out.
    kernel : ndarray of float32
        Filter.
    threshold_sigma, minimum_area_px, contrast : float, int, float
        As for `skymill.kernels.detect.detect`.

    Returns
    -------
    objects, segments : ndarray
        As `skymill.kernels.detect.detect` returns them.
    """
    keep = np.ones(len(objects), bool)
    parents, parts, owns = [], [objects], []
    for sheet in _sheets(boxes(runs), groups, kernel.shape[0] // 2 + 1, segments.shape):
        found, pixels = _extract(
            _paste(sheet, planes), kernel, threshold_sigma, minimum_area_px, contrast
        )
        for group, (y0, y1, x0, x1), row, column in zip(
            sheet.groups, sheet.boxes, sheet.rows, sheet.columns, strict=True
        ):
            here = pixels[row : row + y1 - y0, column : column + x1 - x0]
            own = np.where(segments[y0:y1, x0:x1] == group + 1, here, 0)
            numbers = np.unique(own)
            numbers = numbers[numbers > 0]
            if len(numbers) < 2:
                continue
            keep[group] = False
            parents.append(np.full(len(numbers), group))
            parts.append(_moved(found[numbers - 1], x0 - column, y0 - row))
            owns.append((y0, y1, x0, x1, np.searchsorted(numbers, own), own > 0))
    return _merge(keep, parents, parts, owns, runs, segments)


def _merge(
    keep: NDArray[np.bool_],
    parents: list[NDArray[np.int64]],
    parts: list[NDArray[Any]],
    owns: list[tuple[Any, ...]],
    runs: Runs,
    segments: NDArray[np.int32],
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Put the parts where their groups were, and number all anew."""
    whole = np.flatnonzero(keep)
    order = np.argsort(np.concatenate([whole, *parents]), kind="stable")
    objects = np.concatenate([parts[0][whole], *parts[1:]])[order]
    number = np.empty(len(order), np.int32)
    number[order] = np.arange(1, len(order) + 1)
    numbers = np.zeros(len(keep), np.int32)
    numbers[whole] = number[: len(whole)]
    label(runs, numbers, segments)
    first = len(whole)
    for (y0, y1, x0, x1, own, there), parent in zip(owns, parents, strict=True):
        segments[y0:y1, x0:x1][there] = number[first + own[there]]
        first += len(parent)
    return objects, segments


def _moved(found: NDArray[Any], x: int, y: int) -> NDArray[Any]:
    out = np.zeros(len(found), OBJECT)
    for name in OBJECT.names or ():
        out[name] = found[name]
    for name, shift in (("x", x), ("xpeak", x), ("y", y), ("ypeak", y)):
        out[name] += shift
    # A sheet has the edges of the frame where a group touches them, and no other is touched.
    out["flag"] &= _DIVIDED | EDGE
    return out


def _sheets(
    box: NDArray[np.int64], groups: NDArray[np.int64], margin: int, shape: tuple[int, ...]
) -> list[_Sheet]:
    """Distribute the groups: those inside the frame side by side, each at its edge alone.

    Beyond the edge of the frame there are no pixels; on a sheet there would be some.
    """
    ny, nx = shape
    chosen = box[groups]
    outer = (chosen[:, [0, 2]] == 0).any(axis=1) | (chosen[:, [1, 3]] == [ny, nx]).any(axis=1)
    sheets = []
    if not outer.all():
        rows, columns, size = _places(chosen[~outer], margin)
        sheets.append(_Sheet(groups[~outer], chosen[~outer], rows, columns, size, margin))
    for k in np.flatnonzero(outer):
        one = slice(k, k + 1)
        y0, y1, x0, x1 = chosen[k]
        low, left = max(y0 - margin, 0), max(x0 - margin, 0)
        size = (int(min(y1 + margin, ny) - low), int(min(x1 + margin, nx) - left))
        sheets.append(
            _Sheet(groups[one], chosen[one], chosen[one, 0] - low, chosen[one, 2] - left,
                   size, margin)
        )  # fmt: skip
    if sum(sheet.shape[0] * sheet.shape[1] for sheet in sheets) < ny * nx:
        return sheets
    # Where cutting saves nothing the whole frame is the sheet.
    return [_Sheet(groups, chosen, chosen[:, 0], chosen[:, 2], (ny, nx), margin)]


def _places(
    box: NDArray[np.int64], margin: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[int, int]]:
    """Places of the groups side by side in shelves, with their margins; shape of it all.

    The last rows of the groups of a shelf are level, so that the library meets the groups
    in the order that they have in the frame.
    """
    high, wide = box[:, 1] - box[:, 0] + 2 * margin, box[:, 3] - box[:, 2] + 2 * margin
    width = int(max(wide.max(), np.ceil(np.sqrt(float((high * wide).sum())))))
    rows, columns = np.zeros(len(box), np.int64), np.zeros(len(box), np.int64)
    top, left, first = 0, 0, 0
    for k in range(len(box) + 1):
        if k == len(box) or left + wide[k] > width:
            bottom = top + int(high[first:k].max())
            rows[first:k] = bottom - high[first:k] + margin
            top, left, first = bottom, 0, k
        if k < len(box):
            columns[k] = left + margin
            left += int(wide[k])
    return rows, columns, (top, width)


def _paste(
    sheet: _Sheet, planes: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Copy the surroundings of the groups; what is left out has no light and no weight."""
    data, noise, mask = planes
    light, error = np.zeros(sheet.shape, np.float32), np.full(sheet.shape, _NO_WEIGHT, np.float32)
    if sheet.shape == data.shape:
        np.copyto(light, data, where=~mask)
        np.copyto(error, noise, where=~mask)
        return light, error
    margin = sheet.margin
    for (y0, y1, x0, x1), row, column in zip(sheet.boxes, sheet.rows, sheet.columns, strict=True):
        low, high = max(y0 - margin, 0), min(y1 + margin, data.shape[0])
        left, right = max(x0 - margin, 0), min(x1 + margin, data.shape[1])
        here = slice(low, high), slice(left, right)
        down, along = row - y0, column - x0
        to = slice(low + down, high + down), slice(left + along, right + along)
        seen = ~mask[here]
        np.copyto(light[to], data[here], where=seen)
        np.copyto(error[to], noise[here], where=seen)
    return light, error


def _extract(
    pasted: tuple[NDArray[np.float32], NDArray[np.float32]],
    kernel: NDArray[np.float32],
    threshold_sigma: float,
    minimum_area_px: int,
    contrast: float,
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """One careful way to call the detection library."""
    import sep

    data, noise = pasted
    options: dict[str, Any] = {
        "err": noise,
        "minarea": minimum_area_px,
        "filter_kernel": kernel,
        "filter_type": "matched",
        "clean": False,  # it drops isolated stars near the limit
        "segmentation_map": True,
    }
    # The buffers of the library are of fixed size; a full one is an exception.
    pixels = max(10_000, data.size // 4)
    children = 1024
    while True:
        sep.set_extract_pixstack(pixels)
        sep.set_sub_object_limit(children)
        try:
            objects, segments = sep.extract(data, threshold_sigma, deblend_cont=contrast, **options)
        except Exception as error:  # the library raises plain Exception
            text = str(error)
            if "pixel buffer" in text and pixels < data.size:
                pixels = min(4 * pixels, data.size)
            elif "deblending" in text and children < 16_384:
                children *= 4
            elif "deblending" in text and contrast < 1.0:
                contrast = 1.0
            else:
                raise
            continue
        return objects, np.ascontiguousarray(segments, np.int32)
