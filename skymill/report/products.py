"""Read masters and stacks and make their pictures."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import SkymillError
from skymill.frame import BIT_MEANINGS, MaskBit, has_bits
from skymill.report.model import FrameRow, Histogram, MasterView, StackView
from skymill.report.pictures import make_picture, shrink

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from astropy.table import Table
    from numpy.typing import NDArray

    from skymill.report.funnel import GroupOutcome

__all__ = ["load_masters", "load_sky", "load_stacks"]

_UNREADABLE = (OSError, KeyError, ValueError, SkymillError)
_MASTER_SIZE = 360


def load_masters(
    results: Path,
    outcomes: Sequence[GroupOutcome],
    steps: Sequence[str],
    max_pictures: int,
    missing: list[str],
) -> tuple[MasterView, ...]:
    """Return one view per master, with pictures of the first ``max_pictures``.

    Parameters
    ----------
    results : Path
        Folder of the products.
    outcomes : sequence of GroupOutcome
        All outcomes.
    steps : sequence of str
        The steps that make masters, in order.
    max_pictures : int
        Most masters that are read.
    missing : list of str
        Sentences about what could not be read are added to it.
    """
    views: list[MasterView] = []
    for step in steps:
        for name, rows in sorted(_groups(outcomes, step).items()):
            own = next((o for o in rows if o.frame_id == name), None)
            inputs = [o for o in rows if o.frame_id != name]
            kind = step.removeprefix("master_")
            view = _facts(MasterView, name, own, inputs, kind=kind)
            path = results / "masters" / f"{name}.fits"
            made = view.status in ("ok", "degraded") and path.is_file()
            if made and sum(v.picture is not None for v in views) < max_pictures:
                view = _with_master(view, path, missing)
            views.append(view)
    return tuple(views)


def load_stacks(
    results: Path,
    outcomes: Sequence[GroupOutcome],
    frames: Mapping[str, FrameRow],
    max_pictures: int,
    missing: list[str],
) -> tuple[StackView, ...]:
    """Return one view per stack, with pictures of the first ones; see `load_masters`."""
    groups = _groups(outcomes, "stack")
    depths = {o.group: o for o in outcomes if o.step == "catalog" and o.frame_id == o.group}
    shown = min(max_pictures, len(groups))
    # Large pictures for few stacks, smaller ones for many: the page stays a few MB.
    size = 1100 if shown <= 3 else 640 if shown <= 8 else 420
    views: list[StackView] = []
    for name, rows in sorted(groups.items()):
        own = next((o for o in rows if o.frame_id == name), None)
        inputs = [o for o in rows if o.frame_id != name]
        first = next((frames[o.frame_id] for o in inputs if o.frame_id in frames), None)
        about = {"filter": first.filter, "target": first.target} if first else {}
        view = _facts(StackView, name, own, inputs, **about)
        path = results / "stack" / f"{name}.fits"
        made = view.status in ("ok", "degraded") and path.is_file()
        if made and sum(v.picture is not None for v in views) < max_pictures:
            view = _with_stack(view, path, size, missing)
        if name in depths:
            view = replace(view, numbers={**depths[name].numbers, **view.numbers})
        views.append(_with_catalog(view, results / "catalog" / f"{name}.parquet", missing))
    return tuple(views)


def _groups(outcomes: Iterable[GroupOutcome], step: str) -> dict[str, list[GroupOutcome]]:
    groups: dict[str, list[GroupOutcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.step == step and outcome.group and outcome.status != "off":
            groups[outcome.group].append(outcome)
    return groups


def _facts(
    view: type[Any],
    name: str,
    own: GroupOutcome | None,
    inputs: Sequence[GroupOutcome],
    **about: Any,
) -> Any:
    used = sum(o.status in ("ok", "degraded") for o in inputs)
    if own is None:
        return view(
            name=name, status="ok" if used else "failed", code="", message="",
            n_used=used, n_inputs=len(inputs), numbers={}, **about,
        )  # fmt: skip
    return view(
        name=name, status=own.status, code=own.code, message=own.message,
        n_used=used, n_inputs=len(inputs), numbers=dict(own.numbers), **about,
    )  # fmt: skip


def _with_master(view: MasterView, path: Path, missing: list[str]) -> MasterView:
    from skymill.io import read_master

    try:
        master = read_master(path)
    except _UNREADABLE as error:
        missing.append(f"The master {view.name} could not be read: {type(error).__name__}")
        return view
    bad = has_bits(master.mask, MaskBit.bad())
    signal = np.where(bad, np.nan, master.sci)
    if not np.isfinite(signal).any():
        signal = master.sci
    bad_picture = None
    if bad.any():
        # The square root lets a single pixel of a block be seen beside a whole column.
        share = np.sqrt(shrink(bad.astype(np.float32), _MASTER_SIZE))
        block = -(-max(bad.shape) // _MASTER_SIZE)
        bad_picture = make_picture(
            share,
            stretch="linear",
            cmap="ember",
            max_size=_MASTER_SIZE,
            levels=32,
            span=(0.0, block**-0.5),
            alt=f"Where the bad pixels of {view.name} lie",
        )
    ny, nx = master.shape
    return replace(
        view,
        unit={"adu": "ADU", "electron": "e⁻"}.get(master.unit, master.unit),
        picture=make_picture(
            signal,
            stretch="zscale",
            max_size=_MASTER_SIZE,
            levels=96,
            alt=f"Master {view.kind} {view.name}, {nx} × {ny} pixels",
        ),
        bad_pixels=bad_picture,
        histogram=_histogram(signal),
        mask=_mask_counts(master.mask),
        shape=(ny, nx),
    )


def _with_stack(view: StackView, path: Path, size: int, missing: list[str]) -> StackView:
    from skymill.io import read_frame, read_planes

    try:
        frame = read_frame(path)
    except _UNREADABLE as error:
        missing.append(f"The stack {view.name} could not be read: {type(error).__name__}")
        return view
    ny, nx = frame.shape
    where = f"{view.target} in {view.filter}" if view.filter else view.target
    picture = make_picture(
        np.where(has_bits(frame.mask, MaskBit.NO_DATA), np.nan, frame.sci),
        cmap="night",
        max_size=size,
        levels=96,
        alt=f"Stack of {view.n_used} frames of {where}, {nx} × {ny} pixels",
    )
    try:
        plane = read_planes(path, ("COVERAGE",))[0]["COVERAGE"].astype(np.float32)
        top = float(np.nanmax(plane)) if np.isfinite(plane).any() else 1.0
        coverage = make_picture(
            plane,
            stretch="linear",
            cmap="tide",
            max_size=300,
            levels=64,
            span=(0.0, top or 1.0),
            alt=f"Coverage of the stack: 0 to {top:g} frames",
        )
    except _UNREADABLE:
        coverage = None
    celestial = bool(frame.wcs is not None and frame.wcs.has_celestial)
    return replace(view, picture=picture, coverage=coverage, shape=(ny, nx), celestial=celestial)


def _with_catalog(view: StackView, path: Path, missing: list[str]) -> StackView:
    from skymill.io import read_table

    if not path.is_file():
        return view
    try:
        table = read_table(path)
    except _UNREADABLE as error:
        missing.append(f"The catalogue of {view.name} could not be read: {type(error).__name__}")
        return view
    name = _pick(table, ("mag", "mag_total", "mag_auto", "mag_main"))
    histogram = _histogram(np.asarray(table[name], float), bins=40) if name else None
    return replace(view, n_catalog=len(table), magnitudes=histogram)


def _histogram(values: NDArray[Any], bins: int = 60) -> Histogram | None:
    good = values[np.isfinite(values)]
    if good.size < 2:
        return None
    low, high = (float(v) for v in np.percentile(good, (0.2, 99.8)))
    if not high > low:
        return None
    counts, _ = np.histogram(good, bins=bins, range=(low, high))
    return Histogram(low, high, tuple(int(n) for n in counts))


def _mask_counts(mask: NDArray[np.uint16]) -> tuple[tuple[str, str, int], ...]:
    tally = np.bincount(mask.ravel(), minlength=1 << 16)
    values = np.arange(1 << 16)
    out = []
    for bit, text in BIT_MEANINGS.items():
        count = int(tally[(values & int(bit)) != 0].sum())
        if count:
            out.append((str(bit.name), text, count))
    return tuple(out)


def _pick(table: Table, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in table.colnames), None)


def load_sky(
    results: Path, planned: Collection[str] | None = None, most: int = 700
) -> tuple[tuple[float, float, float], ...]:
    """Return the brightest stars of the first field's best frame, all values 0 to 1."""
    from skymill.io import read_table

    for path in sorted((results / "reference_frames").glob("*.parquet")):
        if planned is not None and path.name.removesuffix(".parquet") not in planned:
            continue
        try:
            table = read_table(path)
            if "best" in table.colnames:
                table = table[np.asarray(table["best"]).astype(bool)]
            x, y, flux = (np.asarray(table[name], float) for name in ("x", "y", "flux"))
        except _UNREADABLE:
            continue
        good = np.isfinite(x) & np.isfinite(y) & (flux > 0)
        x, y, light = x[good], y[good], np.log(flux[good])
        if len(x) < 20:
            continue
        first = np.argsort(-light, kind="stable")[:most]
        x, y, light = x[first], y[first], light[first]
        reach = max(float(np.ptp(x)), float(np.ptp(y))) or 1.0
        faint, top = np.percentile(light, (20, 98))
        bright = np.clip((light - faint) / (top - faint if top > faint else 1.0), 0, 1)
        stars = zip((x - x.min()) / reach, (y - y.min()) / reach, bright, strict=True)
        return tuple((float(a), float(b), float(c)) for a, b, c in stars)
    return ()
