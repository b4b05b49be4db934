"""High-cadence photometry of a folder of frames, from Python.

`Reducer` makes a project, runs the steps that are needed and not up to date, and reads what
they made. Photometers say what is measured; an object with ``compute`` may be one's own.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skymill.reducer.photometers import (
        AperturePhotometer,
        OptimalPhotometer,
        Photometer,
        PSFPhotometer,
    )
    from skymill.reducer.reducer import Reducer

__all__ = [
    "AperturePhotometer",
    "OptimalPhotometer",
    "PSFPhotometer",
    "Photometer",
    "Reducer",
]


def __getattr__(name: str) -> object:
    # The parts are loaded when they are used.
    if name not in __all__:
        raise AttributeError(f"module 'skymill.reducer' has no attribute {name!r}")
    from importlib import import_module

    place = "reducer" if name == "Reducer" else "photometers"
    return getattr(import_module(f"skymill.reducer.{place}"), name)
