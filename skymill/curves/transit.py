"""A transit that must survive detrending: its window in time and its shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Transit"]


@dataclass(frozen=True)
class Transit:
    """When a transit, an eclipse or a flare happens.

    Parameters
    ----------
    t0 : float
        Middle, in the time scale of the light curve (BJD_TDB).
    duration_h : float
        From first to last contact, in hours.
    period_d : float, optional
        Period in days; without one there is a single event.
    ingress_h : float
        Length of ingress, and of egress, in hours.
    fit : bool
        Fit a trapezoid of this shape together with the trends, in place of leaving the
        window out of the fit.
    """

    t0: float
    duration_h: float
    period_d: float | None = None
    ingress_h: float = 0.0
    fit: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.t0) and self.duration_h > 0):
            raise ValueError("a transit needs a finite t0 and a duration above 0")
        if self.period_d is not None and not self.period_d * 24 > self.duration_h:
            raise ValueError("the period of a transit must be longer than its duration")
        if not 0 <= 2 * self.ingress_h <= self.duration_h:
            raise ValueError("ingress and egress must fit into the duration of a transit")

    def hours(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the hours from the nearest middle."""
        days = times - self.t0
        if self.period_d is not None:
            days = days - self.period_d * np.round(days / self.period_d)
        return days * 24

    def inside(self, times: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which times lie between first and last contact; NaN does not."""
        with np.errstate(invalid="ignore"):
            return np.asarray(np.abs(self.hours(times)) <= 0.5 * self.duration_h)

    def shape(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the trapezoid: 0 outside, 1 at full depth; 0 where the time is NaN."""
        rest = 0.5 * self.duration_h - np.abs(self.hours(times))
        if self.ingress_h > 0:
            out = np.clip(rest / self.ingress_h, 0.0, 1.0)
        else:
            with np.errstate(invalid="ignore"):
                out = np.where(rest >= 0, 1.0, 0.0)
        return np.asarray(np.where(np.isfinite(times), out, 0.0))
