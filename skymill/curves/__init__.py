"""Analysis of light curves: selection, periods, correlation, detrending, export.

`open_lightcurves` reads what the reduction made; everything else works on arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skymill.curves.collection import LightCurves, open_lightcurves
    from skymill.curves.series import Series
    from skymill.curves.transit import Transit

__all__ = ["LightCurves", "Series", "Transit", "open_lightcurves"]


def __getattr__(name: str) -> object:
    # Deferred: a step that detrends does not need the reader of files.
    from importlib import import_module

    places = {
        "LightCurves": "collection",
        "Series": "series",
        "Transit": "transit",
        "open_lightcurves": "collection",
    }
    if name not in places:
        raise AttributeError(f"module 'skymill.curves' has no attribute {name!r}")
    return getattr(import_module(f"skymill.curves.{places[name]}"), name)
