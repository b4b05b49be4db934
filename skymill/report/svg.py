"""A light writer of SVG: text in, text out, the same bytes for the same input.

Colours come from classes of the page's style sheet, so that a drawing follows the light
or dark scheme of the reader.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Scale", "Svg", "num", "span_of", "ticks"]


def num(value: float) -> str:
    """Return a coordinate with at most one decimal, as short as possible."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round values between two limits, in increasing order."""
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [0.0 if k == 0 else k * step for k in range(first, last + 1)]


def tick_text(value: float, step: float) -> str:
    """Return a tick's number with as many decimals as the step needs."""
    if abs(value) >= 10000 and step >= 1000:
        return f"{value / 1000:g}k"
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return f"{value:.{digits}f}".replace("-", "−")


def span_of(values: Iterable[float]) -> tuple[float, float]:
    """Return the limits of an axis: all values, unless a few lie far out.

    The central 96 percent are always inside; further ones are if they do not stretch
    the axis to more than three times that range.
    """
    good = sorted(v for v in values if math.isfinite(v))
    if not good:
        return 0.0, 1.0
    core_low = good[int(0.02 * (len(good) - 1))]
    core_high = good[math.ceil(0.98 * (len(good) - 1))]
    low, high = good[0], good[-1]
    core = core_high - core_low
    if core > 0 and high - low > 3 * core:
        low, high = max(low, core_low - core), min(high, core_high + core)
    if not high > low:
        half = 0.05 * abs(low) or 0.5
        return low - half, high + half
    pad = 0.07 * (high - low)
    return low - pad, high + pad


@dataclass(frozen=True)
class Scale:
    """Straight map of values to coordinates; values beyond the limits are held there."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value."""
        unit = (value - self.low) / (self.high - self.low)
        return self.start + min(max(unit, 0.0), 1.0) * (self.end - self.start)


@dataclass
class Svg:
    """A drawing of fixed coordinates that the page scales.

    Parameters
    ----------
    width, height : float
        Size of the coordinate system.
    label : str
        What is to be seen, for those who do not see it.
    css : str
        Class of the drawing.
    fit : str
        How the drawing fills its place, as in SVG's ``preserveAspectRatio``.
    data : dict
        ``data-*`` attributes for the script of the page.
    """

    width: float
    height: float
    label: str
    css: str = "plot"
    fit: str = ""
    data: dict[str, str] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """Add a straight line."""
        self.parts.append(f'<path class="{css}" d="M{num(x1)} {num(y1)}L{num(x2)} {num(y2)}"/>')

    def rect(
        self, x: float, y: float, width: float, height: float, css: str, radius: float = 0
    ) -> None:
        """Add a rectangle."""
        rounded = f' rx="{num(radius)}"' if radius else ""
        self.parts.append(
            f'<rect class="{css}" x="{num(x)}" y="{num(y)}" width="{num(width)}" '
            f'height="{num(height)}"{rounded}/>'
        )

    def text(self, x: float, y: float, text: str, css: str = "", anchor: str = "") -> None:
        """Add text; it is escaped."""
        where = f' text-anchor="{anchor}"' if anchor else ""
        named = f' class="{css}"' if css else ""
        self.parts.append(f'<text{named} x="{num(x)}" y="{num(y)}"{where}>{escape(text)}</text>')

    def path(self, d: str, css: str, title: str = "") -> None:
        """Add a path, with a title that browsers show when it is pointed at."""
        if title:
            self.parts.append(f'<path class="{css}" d="{d}"><title>{escape(title)}</title></path>')
        else:
            self.parts.append(f'<path class="{css}" d="{d}"/>')

    def points(self, where: Sequence[tuple[float, float]], index: Sequence[int], css: str) -> None:
        """Add dots as one path of zero-length strokes; ``index`` names what they stand for."""
        if not where:
            return
        d = "".join(f"M{num(x)} {num(y)}h0" for x, y in where)
        which = " ".join(str(i) for i in index)
        self.parts.append(f'<path class="pts {css}" d="{d}" data-i="{which}"/>')

    def render(self) -> Markup:
        """Return the drawing."""
        data = "".join(f' data-{key}="{escape(value)}"' for key, value in self.data.items())
        fit = f' preserveAspectRatio="{self.fit}"' if self.fit else ""
        return Markup(  # noqa: S704 - every text and attribute was escaped above
            f'<svg class="{self.css}" viewBox="0 0 {num(self.width)} {num(self.height)}"{fit} '
            f'role="img" aria-label="{escape(self.label)}"{data}>{"".join(self.parts)}</svg>'
        )
