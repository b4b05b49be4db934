"""Raw CCD and CMOS frames to calibrated sky, with errors that are true.

The package holds the work of each rule of the Snakemake workflow. Start with
:func:`skymill.open`, which assembles everything that is known of one frame.
"""

__version__ = "0.1.0"

__all__ = [
    "Calibrator",
    "Reducer",
    "__version__",
    "circle_mask",
    "invalid_mask",
    "make_mask",
    "open",
    "open_lightcurves",
    "reproject_lanczos",
    "reproject_swarp",
]


def __getattr__(name: str) -> object:
    # Deferred, so that `import skymill` costs nothing in the Snakefile and the command line.
    if name == "open":
        from skymill.products import open_frame

        return open_frame
    if name == "Calibrator":
        from skymill.calibrator import Calibrator

        return Calibrator
    if name == "Reducer":
        from skymill.reducer import Reducer

        return Reducer
    if name in ("circle_mask", "invalid_mask", "make_mask"):
        from skymill import masks

        return getattr(masks, name)
    if name == "open_lightcurves":
        from skymill.curves.collection import open_lightcurves

        return open_lightcurves
    if name in ("reproject_lanczos", "reproject_swarp"):
        from skymill import reprojection

        return getattr(reprojection, name)
    raise AttributeError(f"module 'skymill' has no attribute {name!r}")
