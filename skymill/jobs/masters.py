"""Combining calibration frames: what the three master rules share."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astropy.io import fits

from skymill import io, provenance
from skymill.errors import ConfigError, Outcome, Result, StepFailed
from skymill.io_raw import read_frame
from skymill.steps.masters_common import MasterFailed, MasterProduct, RawInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from skymill.frame import Master

__all__ = ["load_master", "make_master"]

_log = logging.getLogger(__name__)


def make_master(
    step: str,
    combine: Callable[..., Result[MasterProduct]],
    *,
    raw: str | Path,
    rows: Sequence[Mapping[str, Any]],
    inputs: Mapping[str, Any],
    master: str | Path,
    outcomes: str | Path,
    settings: Mapping[str, Any],
    code: str,
    electronics: Mapping[str, Any] | None = None,
) -> None:
    """Combine raw frames to one master and say what became of each.

    Parameters
    ----------
    step : str
        ``master_bias``, ``master_dark`` or ``master_flat``.
    combine : callable
        The step.
    raw : str or Path
        Raw folder.
    rows : sequence of dict
        Sheet rows of the input frames.
    inputs : mapping
        Files of the masters that the frames are corrected with (``bias``, ``dark``) and
        of their outcomes (``bias_outcomes``, ``dark_outcomes``).
    master, outcomes : str or Path
        Where the products go. A master that cannot be made leaves a file without pixels.
    settings : mapping
        Settings of the step.
    code : str
        Fingerprint of the code.
    electronics : mapping, optional
        Linearity and crosstalk of the camera, see `skymill.instruments.Instrument.electronics`.
    """
    name = Path(master).stem
    corrections = {kind: load_master(inputs, kind) for kind in ("bias", "dark") if kind in inputs}
    frames = [
        RawInput(
            str(row["frame_id"]),
            dict(row),
            partial(read_frame, Path(raw) / row["path"], row),
        )
        for row in rows
    ]
    origin = {str(row["frame_id"]): str(row["sha256"]) for row in rows}
    origin |= {
        Path(inputs[kind]).stem: io.data_digest(inputs[kind])
        for kind, value in corrections.items()
        if value is not None
    }
    told = (
        {**settings, "electronics": electronics} if any((electronics or {}).values()) else settings
    )
    cards = provenance.cards(step, code=code, settings=told, inputs=origin)
    Path(master).parent.mkdir(parents=True, exist_ok=True)
    try:
        result = combine(
            frames,
            **corrections,
            electronics=electronics,
            scratch=Path(master).parent,
            **settings,
        )
    except MasterFailed as failure:
        every = failure.outcomes
        whole = Outcome.from_failure(name, step, failure)
        io.write_placeholder(master, cards, whole)
    else:
        header = result.value.master.header.copy()
        header["MASTERID"] = (name, "name of this master")
        used = {one.frame_id for one in result.value.outcomes if one.usable}
        header.update(_common_cards([row for row in rows if row["frame_id"] in used], header))
        if settings.get("method") in ("clipped", "weighted"):
            header["CLIPSIG"] = (settings["clip_sigma"], "threshold of the clipping (sigma)")
        io.write_master(master, result.value.master.replace(header=header), cards)
        every = result.value.outcomes
        whole = Outcome.from_result(name, step, result)
    _log.info("%s %s %s %s", name, whole.status, whole.code, whole.message)
    io.write_outcomes(outcomes, [*sorted(every, key=lambda item: item.frame_id), whole])


#: Columns of the sheet and their cards in a master, where all of its frames agree.
COMMON = (
    ("instrument", "SMINST", "instrument file"),
    ("detector", "DETECTOR", "detector"),
    ("channel", "CHANNEL", "colour channel"),
    ("mode", "READMODE", "read-out mode"),
    ("binning", "BINNING", "binning (x, y)"),
    ("filter", "FILTER", "filter"),
    ("exptime_s", "EXPTIME", "[s] exposure time"),
    ("night", "NIGHT", "date of the evening"),
)


def _common_cards(rows: Sequence[Mapping[str, Any]], header: fits.Header) -> fits.Header:
    """Cards of what all frames of a master have in common, and its mean time.

    Cards that the step has written itself are left as they are.
    """
    cards = fits.Header()
    for column, keyword, comment in COMMON:
        values = {row.get(column) for row in rows}
        value = values.pop() if len(values) == 1 else None
        if value in (None, "") or keyword in header:
            continue
        room = 47
        if isinstance(value, str):
            value = value.encode("ascii", "replace").decode()[:68]
            # what a long text leaves of the card; astropy warns where a comment is cut
            room = max(0, 65 - len(value.replace("'", "''")))
        cards[keyword] = (value, comment[:room])
    times = [row.get("mjd_mid") for row in rows]
    if times and all(isinstance(time, (int, float)) for time in times):
        mean = sum(float(time) for time in times if time is not None) / len(times)
        cards["MJD-AVG"] = (mean, "mean of the middles of the exposures, MJD UTC")
    return cards


def load_master(inputs: Mapping[str, Any], kind: str) -> Master | None:
    """Read a master that a plan assigned, or return None if it could not be made.

    Raises
    ------
    StepFailed
        Never for a failed master: the caller decides by its policy.
    ConfigError
        If a file that the sheet names is no master.
    """
    path = inputs[kind]
    if f"{kind}_outcomes" not in inputs:
        return _own_master(Path(path), kind)
    outcome = io.read_outcomes(inputs[f"{kind}_outcomes"])[-1]
    if outcome.frame_id != Path(path).stem:
        raise StepFailed("BUG_OUTPUT", f"{path}: the last outcome is that of {outcome.frame_id}")
    return io.read_master(path) if outcome.usable else None


def _own_master(path: Path, kind: str) -> Master:
    """Read a master file that the sheet names."""
    try:
        master = io.read_master(path)
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(
            f"sheet: use_{kind} = {path} is not a master of skymill (planes SCI, ERR, MASK and "
            f"NUSED): {error}"
        ) from None
    if kind == "dark" and not isinstance(master.header.get("EXPTIME"), (int, float)):
        raise ConfigError(f"sheet: use_dark = {path} has no card EXPTIME")
    if "MASTERID" in master.header:
        return master
    header = master.header.copy()
    header["MASTERID"] = (path.stem[:68], "name of this master")
    return master.replace(header=header)
