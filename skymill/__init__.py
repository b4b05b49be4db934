"""Raw CCD and CMOS frames to calibrated sky, with errors that are true.

The package holds the work of each rule of the Snakemake workflow. Start with
:func:`skymill.open`, which assembles everything that is known of one frame.
"""

__version__ = "0.1.0"

__all__ = ["__version__", "open"]


def __getattr__(name: str) -> object:
    # Deferred, so that `import skymill` costs nothing in the Snakefile and the command line.
    if name == "open":
        from skymill.products import open_frame

        return open_frame
    raise AttributeError(f"module 'skymill' has no attribute {name!r}")
