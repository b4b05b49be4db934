"""What the page shows, as plain data: filled by `skymill.report.load`, drawn by `page`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skymill.report.diagnostics import Residuals
    from skymill.report.funnel import Funnel, GroupOutcome
    from skymill.report.history import MasterSeries
    from skymill.report.movers import Mover
    from skymill.report.pictures import Picture

__all__ = [
    "METRICS",
    "BlockView",
    "Field",
    "FrameRow",
    "Histogram",
    "LightCurve",
    "MasterView",
    "Metric",
    "ReportData",
    "StackView",
]


@dataclass(frozen=True)
class Metric:
    """A figure of each light frame that is drawn over time.

    Parameters
    ----------
    key : str
        Name in ``FrameRow.metrics``.
    title, unit : str
        How it is named to people.
    digits : int
        Decimals shown.
    help : str
        What it tells, in one line.
    """

    key: str
    title: str
    unit: str
    digits: int
    help: str


METRICS: tuple[Metric, ...] = (
    Metric("fwhm", "Seeing", "", 2, "full width at half maximum of the stars"),
    Metric("sky", "Sky", "e⁻/px", 0, "background level per pixel"),
    Metric("throughput", "Throughput", "", 3, "light of the stars relative to the reference frame"),
    Metric("zp", "Zero point", "mag", 3, "magnitude of one electron per second"),
    Metric("depth", "Depth 5σ", "mag", 2, "magnitude of a star of 5 sigma"),
    Metric("ellipticity", "Ellipticity", "", 3, "1 − b/a of the stars; tracking and focus"),
    Metric("astrometry", "Astrometric rms", "", 3, "scatter of the matched stars"),
    Metric("n_sources", "Sources", "", 0, "number of detected sources"),
    Metric("err_ratio", "Noise / model", "", 3, "measured scatter of the sky over its error plane"),
    Metric("airmass", "Airmass", "", 2, "air mass at mid exposure"),
)


@dataclass(frozen=True)
class FrameRow:
    """One row of the sheet with its measured figures.

    ``metrics`` has the figures of `METRICS` and of the flux calibration that are known;
    ``facts`` how positions (``wcs``) and fluxes (``flux``) were tied.
    """

    frame_id: str
    path: str
    kind: str
    instrument: str
    target: str
    object: str
    filter: str
    night: str
    date_start: str
    mjd_start: float | None
    exptime_s: float | None
    verdict: str = "ok"
    code: str = ""
    message: str = ""
    fixes: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Histogram:
    """Counts of values in equal bins from ``low`` to ``high``."""

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class MasterView:
    """One master: figures always, pictures if it was read.

    Parameters
    ----------
    name, kind, status, code, message : str
        The master and its outcome.
    n_used, n_inputs : int
        Frames taken, and frames offered.
    numbers : dict
        Figures of its outcome.
    unit : str
        Unit of the picture's limits.
    picture, bad_pixels : Picture or None
        The signal, and the fraction of bad pixels.
    histogram : Histogram or None
        Good pixels.
    mask : tuple of (bit name, meaning, number of pixels)
        Bits that occur.
    shape : tuple of int or None
        Shape (ny, nx).
    """

    name: str
    kind: str
    status: str
    code: str
    message: str
    n_used: int
    n_inputs: int
    numbers: dict[str, Any]
    unit: str = ""
    picture: Picture | None = None
    bad_pixels: Picture | None = None
    histogram: Histogram | None = None
    mask: tuple[tuple[str, str, int], ...] = ()
    shape: tuple[int, int] | None = None


@dataclass(frozen=True)
class StackView:
    """One stack: figures always, pictures if it was read; see `MasterView`."""

    name: str
    status: str
    code: str
    message: str
    n_used: int
    n_inputs: int
    numbers: dict[str, Any]
    filter: str = ""
    target: str = ""
    picture: Picture | None = None
    coverage: Picture | None = None
    magnitudes: Histogram | None = None
    n_catalog: int | None = None
    shape: tuple[int, int] | None = None
    celestial: bool = False


@dataclass(frozen=True)
class BlockView:
    """The masks and backgrounds of one block: figures always, pictures of one frame.

    Parameters
    ----------
    name, target, filter, night, instrument : str
        The block and what it shows.
    n_masked, n_frames : int
        Frames with a mask, and those whose noise was measured.
    ratios : tuple of float
        Measured over propagated noise of the sky of each: lowest, median, highest.
    sums : dict
        Figures of the mask step, summed over the frames.
    frame_id : str
        The frame of the pictures: that with most pixels masked by what only it shows.
    picture : Picture or None
        The frame with its mask in colours.
    layers : tuple of (css class, name, number of pixels)
        What the colours mean; several bits of one pixel count each.
    shape : tuple of int or None
        Shape (ny, nx) of the frame.
    boxes, level, rms : Picture or None
        The cells of the background over the frame, its level and its scatter.
    model : str
        Model of the background.
    box_size_px : int
        Side of a cell; 0 if it is not known.
    """

    name: str
    target: str = ""
    filter: str = ""
    night: str = ""
    instrument: str = ""
    n_masked: int = 0
    n_frames: int = 0
    ratios: tuple[float, float, float] | None = None
    sums: dict[str, int] = field(default_factory=dict)
    frame_id: str = ""
    picture: Picture | None = None
    layers: tuple[tuple[str, str, int], ...] = ()
    shape: tuple[int, int] | None = None
    boxes: Picture | None = None
    level: Picture | None = None
    rms: Picture | None = None
    model: str = ""
    box_size_px: int = 0


@dataclass(frozen=True)
class LightCurve:
    """Light curve of one source in one filter, times in days.

    Parameters
    ----------
    source : str
        Its name.
    filter : str
        Filter.
    mag : float
        Median magnitude.
    rms, expected : float
        Robust scatter and the scatter that its errors predict, in mag.
    is_comparison : bool
        True for a star of the ensemble.
    time, value, error : tuple of float
        Points: days, magnitude relative to the median, its error.
    """

    source: str
    filter: str
    mag: float
    rms: float
    expected: float
    is_comparison: bool
    time: tuple[float, ...] = ()
    value: tuple[float, ...] = ()
    error: tuple[float, ...] = ()

    @property
    def excess(self) -> float:
        """Scatter over expected scatter."""
        return self.rms / self.expected if self.expected > 0 else float("nan")


@dataclass(frozen=True)
class Field:
    """The light curves of one field.

    ``curves`` are those drawn; ``points`` serve the plot of scatter over magnitude and
    have no times; ``total`` counts all light curves, those of very many that are not
    shown included.
    """

    name: str
    time_name: str
    absolute: bool
    points: tuple[LightCurve, ...]
    curves: tuple[LightCurve, ...]
    total: int = 0


@dataclass(frozen=True)
class ReportData:
    """Everything that the page shows.

    Parameters
    ----------
    frames : tuple of FrameRow
        In the order of the sheet.
    funnel : Funnel
        Their fates, in the same order.
    outcomes : tuple of GroupOutcome
        All outcomes.
    masters, blocks, stacks, fields : tuple
        Products.
    sky : tuple of (x, y, brightness)
        Stars of the best frame, all 0 to 1, for the head of the page.
    missing : tuple of str
        Sentences about products that could not be read.
    history : tuple of MasterSeries
        How the masters changed with time.
    units : dict
        Unit of the figures whose unit depends on the night: arcsec or px.
    residuals : tuple of Residuals
        What is left of the zero points at the catalogue's stars.
    movers : tuple of Mover
        Moving objects.
    """

    frames: tuple[FrameRow, ...]
    funnel: Funnel
    outcomes: tuple[GroupOutcome, ...]
    masters: tuple[MasterView, ...] = ()
    blocks: tuple[BlockView, ...] = ()
    stacks: tuple[StackView, ...] = ()
    fields: tuple[Field, ...] = ()
    sky: tuple[tuple[float, float, float], ...] = ()
    missing: tuple[str, ...] = ()
    history: tuple[MasterSeries, ...] = ()
    units: dict[str, str] = field(default_factory=dict)
    residuals: tuple[Residuals, ...] = ()
    movers: tuple[Mover, ...] = ()
