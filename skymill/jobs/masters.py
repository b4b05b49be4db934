"""Combining calibration frames: what the three master rules share."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skymill import io, provenance
from skymill.errors import Outcome, Result, StepFailed
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
        io.write_master(master, result.value.master.replace(header=header), cards)
        every = result.value.outcomes
        whole = Outcome.from_result(name, step, result)
    _log.info("%s %s %s %s", name, whole.status, whole.code, whole.message)
    io.write_outcomes(outcomes, [*sorted(every, key=lambda item: item.frame_id), whole])


def load_master(inputs: Mapping[str, Any], kind: str) -> Master | None:
    """Read a master that a plan assigned, or return None if it could not be made.

    Raises
    ------
    StepFailed
        Never for a failed master: the caller decides by its policy.
    """
    path = inputs[kind]
    if f"{kind}_outcomes" not in inputs:
        return io.read_master(path)  # a file that the sheet names
    outcome = io.read_outcomes(inputs[f"{kind}_outcomes"])[-1]
    if outcome.frame_id != Path(path).stem:
        raise StepFailed("BUG_OUTPUT", f"{path}: the last outcome is that of {outcome.frame_id}")
    return io.read_master(path) if outcome.usable else None
