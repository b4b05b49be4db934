"""Writes whole nights: the raw tree and, beside it, the truth."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from skymill.simulate.bad import find_bad, write_bad
from skymill.simulate.simulator import Simulator
from skymill.simulate.truth import Truth, TruthWriter

if TYPE_CHECKING:
    from astropy.table import Table

    from skymill.simulate.config import NightConfig
    from skymill.simulate.frames import RawFrame

__all__ = ["simulate_night", "simulate_series"]

logger = logging.getLogger(__name__)


def simulate_night(
    folder: str | Path,
    config: NightConfig,
    catalog: Table | None = None,
    *,
    truth_name: str = "truth",
    overwrite: bool = False,
) -> Truth:
    """Write a raw night and its truth.

    Parameters
    ----------
    folder : str or Path
        Gets ``raw/<YYYYMMDD>/*.fits`` and ``truth/``.
    config : NightConfig
        What to write.
    catalog : astropy.table.Table, optional
        Stars to use instead of random ones: columns ``ra``, ``dec`` (ICRS, degrees)
        and ``mag``, or a column per filter; ``id`` is optional.
    truth_name : str
        Folder of the truth, relative to ``folder``.
    overwrite : bool
        Write over files of the same names in a night folder that is there already.
        Nothing is ever removed.

    Returns
    -------
    Truth
        Also read again with ``Truth.load``.

    Raises
    ------
    skymill.errors.ConfigError
        If a bad frame is not known, or stars that shall vary cannot be found.
    FileExistsError
        If the night folder has files and ``overwrite`` is False.
    """
    root = Path(folder)
    chosen = [find_bad(name) for name in config.bad]
    simulator = Simulator(config, catalog)
    night = root / "raw" / config.night
    if night.exists() and any(night.iterdir()) and not overwrite:
        raise FileExistsError(
            f"simulate: {night} has files already; choose another folder or allow overwriting"
        )
    night.mkdir(parents=True, exist_ok=True)
    truth = TruthWriter(root / truth_name, root / "raw", config, simulator.stars)
    truth.detector(simulator.detector)

    for i in range(config.n_bias):
        name = f"bias_{i + 1:03d}"
        truth.calibration(name, "bias", "", _save(night, simulator.bias(name, "bias", i)))
    for i in range(config.n_dark):
        name = f"dark_{i + 1:03d}"
        truth.calibration(name, "dark", "", _save(night, simulator.dark(name, "dark", i)))
    for band in config.filters:
        for i in range(config.n_flat):
            name = f"flat_{band}_{i + 1:03d}"
            frame = simulator.flat(name, band, f"flat {band}", i)
            truth.calibration(name, "flat", band, _save(night, frame))
    for band in config.filters:
        for i in range(config.n_light):
            frame, light = simulator.light(simulator.regular(band, i))
            truth.light(light, _save(night, frame))
    for number, bad in enumerate(chosen):
        write_bad(bad, number, simulator, night, truth)
    result = truth.finish()
    logger.info(
        "simulate: night=%s frames=%d bad=%d stars=%d",
        config.night,
        len(result.frames),
        len(result.bad),
        len(simulator.stars.ids),
    )
    return result


def simulate_series(
    folder: str | Path,
    config: NightConfig,
    n_nights: int,
    catalog: Table | None = None,
    *,
    overwrite: bool = False,
) -> tuple[Truth, ...]:
    """Write several nights of the same sky and detector, a day apart, into one raw tree.

    The truth of each night is in ``truth/<YYYYMMDD>``. Times of variable stars,
    transits and moving objects count from the start of each night.
    """
    truths = []
    for number in range(n_nights):
        one = config.model_copy(
            update={
                "start_utc": config.start_utc + timedelta(days=number),
                "night_index": config.night_index + number,
            }
        )
        name = f"truth/{one.night}"
        truths.append(simulate_night(folder, one, catalog, truth_name=name, overwrite=overwrite))
    return tuple(truths)


def _save(night: Path, frame: RawFrame) -> Path:
    path = night / f"{frame.name}.fits"
    frame.hdu().writeto(path, overwrite=True)
    return path
