"""Which sky flats may be combined: twilight, pointings, clouds, and groups of level.

Pure functions of numbers measured before. Twilight flats differ from lamp flats in that
every frame shows stars, has another level, and may show clouds. What removes the stars
is that they fall on other pixels in the other frames; frames that point to the same
place cannot help each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.robust import clipped_mean_std
from skymill.steps.flat_statistics import surface_terms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "Colocated",
    "FlatFacts",
    "colocated_frames",
    "detrended_variance",
    "is_twilight",
    "level_groups",
    "separations",
    "variance_outliers",
]

#: The light of a lamp is steadier than this, that of the twilight is not (relative).
STEADY = 0.1
#: Frames further apart in time are of another twilight (day).
ANOTHER_TWILIGHT = 0.15
#: Largest share of pairs of frames against the trend of a twilight.
DISORDER = 0.1
#: Pointings closer than this are the same, or were never updated (arcsec).
SAME_POINTING = 2.0
#: Fewest frames and smallest ratio of levels for a curve of variance against level.
CURVE_FRAMES, CURVE_RANGE = 6, 1.3
#: Excess of the variance over the curve that means clouds: relative, and in robust sigma.
EXCESS, EXCESS_SIGMA = 0.1, 5.0

SKY_WORDS = ("sky", "twi", "dusk", "dawn", "evening", "morning")
LAMP_WORDS = ("dome", "lamp", "screen", "panel", "internal")


@dataclass(frozen=True)
class FlatFacts:
    """What is known of one flat before it is combined.

    Parameters
    ----------
    frame_id : str
        Name.
    level : float
        Signal above bias and dark (ADU).
    exptime_s : float
        Exposure (s), NaN if unknown.
    mjd : float
        Middle of the exposure (day), NaN if unknown.
    ra_deg, dec_deg : float
        Pointing, NaN if unknown.
    name : str
        What the observer called it.
    """

    frame_id: str
    level: float
    exptime_s: float = np.nan
    mjd: float = np.nan
    ra_deg: float = np.nan
    dec_deg: float = np.nan
    name: str = ""

    @classmethod
    def from_row(cls, frame_id: str, row: Mapping[str, Any], level: float) -> FlatFacts:
        """Take times and pointing from a row of the sheet."""

        def number(*names: str) -> float:
            for name in names:
                if row.get(name) is not None:
                    return float(row[name])
            return np.nan

        return cls(
            frame_id, level, number("exptime_s"), number("mjd_mid", "mjd_start"),
            number("ra_deg"), number("dec_deg"), str(row.get("object") or ""),
        )  # fmt: skip


def is_twilight(facts: Sequence[FlatFacts], mode: str = "auto") -> tuple[bool, str]:
    """Decide whether flats were taken on the twilight sky.

    Parameters
    ----------
    facts : sequence of FlatFacts
        The group.
    mode : str
        ``yes`` and ``no`` decide; ``auto`` asks the names, then the light: the rate of
        a lamp stays the same, that of the twilight falls or grows all the time.

    Returns
    -------
    twilight : bool
    why : str
        The reason, for the record.

    Notes
    -----
    Rates are levels over exposure times (levels alone where no exposure is known), in
    the order of time. They are a ramp if they change by more than 10 % and at most a
    tenth of the pairs of frames within a twilight are out of order.
    """
    if mode != "auto":
        return mode == "yes", "set"
    names = " ".join(fact.name.lower() for fact in facts)
    if any(word in names for word in LAMP_WORDS):
        return False, "name"
    if any(word in names for word in SKY_WORDS):
        return True, "name"
    times = np.array([fact.mjd for fact in facts])
    if len(facts) < 2 or not np.isfinite(times).all():
        return False, "times unknown"
    exposure = np.array([fact.exptime_s for fact in facts])
    rate = np.array([fact.level for fact in facts])
    if np.isfinite(exposure).all() and (exposure > 0).all():
        rate = rate / exposure
    order = np.argsort(times, kind="stable")
    breaks = np.flatnonzero(np.diff(times[order]) > ANOTHER_TWILIGHT) + 1
    against = pairs = 0
    steps = []
    for part in np.split(order, breaks):
        logs = np.log(np.maximum(rate[part], 1e-9))
        steps.append(float(np.ptp(logs)))
        signs = np.sign(logs[None, :] - logs[:, None])[np.triu_indices(len(part), 1)]
        pairs += len(signs)
        against += min(int((signs <= 0).sum()), int((signs >= 0).sum()))
    if max(steps) <= np.log1p(STEADY):
        return False, "steady light"
    if pairs == 0 or against > DISORDER * pairs:
        return False, "no ramp"
    return True, "ramp"


def separations(facts: Sequence[FlatFacts]) -> NDArray[np.float64]:
    """Distances between all pointings (arcsec), shape (n, n); NaN where unknown."""
    ra = np.radians([fact.ra_deg for fact in facts])
    dec = np.radians([fact.dec_deg for fact in facts])
    half = np.sin((dec[:, None] - dec) / 2) ** 2
    half = half + np.cos(dec)[:, None] * np.cos(dec) * np.sin((ra[:, None] - ra) / 2) ** 2
    return np.degrees(2 * np.arcsin(np.sqrt(np.clip(half, 0, 1)))) * 3600


@dataclass(frozen=True)
class Colocated:
    """Frames whose stars fall on the same pixels.

    Parameters
    ----------
    rejected : dict
        Frames to leave out, with the reason.
    warning : str
        Why stars may survive in the master; empty if they cannot.
    clusters : int
        Number of different pointings; 0 if they are not known.
    """

    rejected: dict[str, str]
    warning: str
    clusters: int


def colocated_frames(
    facts: Sequence[FlatFacts], minimum_arcsec: float, policy: str, keep: int
) -> Colocated:
    """Find frames that point so close to others that stars keep their pixels.

    Parameters
    ----------
    facts : sequence of FlatFacts
        The group, at least two.
    minimum_arcsec : float
        Smallest distance of different pointings; 0 switches the check off.
    policy : str
        ``majority`` leaves out the faintest frames of a pointing that holds half of the
        frames or more: there, the median of a pixel would be the star. ``strict``
        leaves one frame of each pointing. ``flag`` leaves out none.
    keep : int
        Fewest frames to keep; if fewer would be left, all stay and a warning says so.

    Returns
    -------
    Colocated

    Notes
    -----
    A pointing is a chain of frames, each closer than the limit to another one. Unknown
    pointings, or one and the same in all headers, prove nothing: all frames stay.
    """
    if minimum_arcsec <= 0 or len(facts) < 2:
        return Colocated({}, "", 0)
    distance = separations(facts)
    advice = "stars are removed only where the telescope moved between the frames."
    if not np.isfinite(distance).all():
        return Colocated({}, f"the pointings are not known; {advice}", 0)
    if distance.max() < SAME_POINTING:
        return Colocated({}, f"all headers give the same pointing; {advice}", 1)
    label = _chains(distance < minimum_arcsec)
    sizes = np.bincount(label)
    clusters = len(sizes)
    left = list(range(len(facts)))
    dropped: list[int] = []
    # the brightest frame of a pointing is the last to go
    by_level = sorted(left, key=lambda i: (facts[i].level, facts[i].frame_id))
    if policy == "strict":
        dropped = [i for i in by_level if _drop(label, sizes, i, 1)]
    elif policy == "majority":
        while sizes.max() > 1 and 2 * sizes.max() >= sizes.sum():
            crowd = int(np.argmax(sizes))
            dropped.append(next(i for i in by_level if label[i] == crowd and i not in dropped))
            sizes[crowd] -= 1
    biggest = int(np.bincount(label).max())
    text = (
        f"{biggest} of {len(facts)} frames point within {minimum_arcsec:g} arcsec of each other; "
        f"{advice}"
    )
    if len(facts) - len(dropped) < keep:
        return Colocated({}, text, clusters)
    reasons = {}
    for i in dropped:
        others = [j for j in left if j not in dropped and label[j] == label[i]]
        near = min(others, key=lambda j: distance[i, j])
        reasons[facts[i].frame_id] = (
            f"it points {distance[i, near]:.0f} arcsec from {facts[near].frame_id}, at least "
            f"{minimum_arcsec:g} arcsec are needed to move the stars to other pixels"
        )
    crowded = policy == "flag" and biggest > 1 and 2 * biggest >= len(facts)
    return Colocated(reasons, text if crowded else "", clusters)


def _drop(label: NDArray[np.int64], sizes: NDArray[np.int64], i: int, most: int) -> bool:
    """Take a frame out of its cluster if that holds more than ``most``."""
    if sizes[label[i]] <= most:
        return False
    sizes[label[i]] -= 1
    return True


def _chains(near: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Label of the connected group of each frame, numbered from 0 in their order."""
    label = np.full(len(near), -1)
    for start in range(len(near)):
        if label[start] >= 0:
            continue
        number, todo = int(label.max()) + 1, [start]
        while todo:
            i = todo.pop()
            if label[i] < 0:
                label[i] = number
                todo += [int(j) for j in np.flatnonzero(near[i]) if label[j] < 0]
    return label


def detrended_variance(
    sample: NDArray[np.float64], at: NDArray[np.float64], order: int = 2
) -> tuple[float, float]:
    """Mean and variance of the central half of a flat about a smooth surface.

    Parameters
    ----------
    sample : ndarray of float64, shape (boxes, side, side)
        Corrected boxes (ADU), NaN where not usable.
    at : ndarray of float64, shape (boxes, 2)
        Centres (y, x) of the boxes, -1 to 1 over the frame.
    order : int
        Order of the surface through the box medians.

    Returns
    -------
    mean, variance : float
        ADU and ADU^2, clipped at 4 sigma; NaN where the boxes do not suffice.
    """
    inner = (np.abs(at) <= 0.5).all(axis=1)
    inner &= np.isfinite(sample).reshape(len(sample), -1).any(axis=1)
    terms = surface_terms(at[inner, 0], at[inner, 1], order)
    if inner.sum() < 1.5 * len(terms):
        return np.nan, np.nan
    part = sample[inner].reshape(int(inner.sum()), -1)
    level = np.nanmedian(part, axis=1)
    normal = np.einsum("in,jn->ij", terms, terms)
    found = np.linalg.solve(normal, np.einsum("in,n->i", terms, level))
    surface = np.einsum("in,i->n", terms, found)
    _, spread = clipped_mean_std(part - surface[:, None], 4.0, 5, 0.4)
    return float(np.median(level)), spread**2


def variance_outliers(
    mean: NDArray[np.float64], variance: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Frames with more structure than their level explains.

    Read noise, photons and the pattern of the flat make the variance a quadratic
    function of the level. Clouds and trailed stars add to it.

    Parameters
    ----------
    mean, variance : ndarray of float64, shape (frames,)
        Of `detrended_variance`.

    Returns
    -------
    excess : ndarray of float64, shape (frames,)
        ``variance / curve - 1``; 0 where no curve can be drawn (fewer than six frames,
        or levels within 30 %).
    cloudy : ndarray of bool, shape (frames,)
        Excess above 10 % and five robust sigma of the frames on the curve.
    """
    n = len(mean)
    none = np.zeros(n), np.zeros(n, bool)
    good = np.isfinite(mean) & np.isfinite(variance) & (mean > 0) & (variance > 0)
    if good.sum() < CURVE_FRAMES or mean[good].max() < CURVE_RANGE * mean[good].min():
        return none
    unit = float(mean[good].max())
    powers = np.stack([np.ones(n), mean / unit, (mean / unit) ** 2])
    used = good.copy()
    most_dropped = good.sum() // 3
    while True:
        # relative weights: the error of a variance is proportional to it
        scaled = powers[:, used] / variance[used]
        normal = np.einsum("in,jn->ij", scaled, scaled)
        normal += 1e-12 * np.trace(normal) * np.eye(3)
        curve = np.einsum("in,i->n", powers, np.linalg.solve(normal, scaled.sum(axis=1)))
        with np.errstate(divide="ignore", invalid="ignore"):
            excess = np.where(good & (curve > 0), variance / curve - 1, 0.0)
        spread = 1.4826 * float(np.median(np.abs(excess[used])))
        cloudy = good & (excess > max(EXCESS, EXCESS_SIGMA * spread))
        worst = int(np.argmax(np.where(used, excess, -np.inf)))
        if not cloudy[worst] or (good & ~used).sum() >= most_dropped:
            return excess, cloudy
        used[worst] = False


def level_groups(levels: NDArray[np.float64], split: float) -> tuple[list[int], list[int]]:
    """Return the positions of high and of low flats.

    Parameters
    ----------
    levels : ndarray of float64, shape (frames,)
        Levels (ADU).
    split : float
        Border between them (ADU); 0: the geometric middle of lowest and highest.

    Returns
    -------
    high, low : list of int
    """
    border = split if split > 0 else float(np.sqrt(levels.min() * levels.max()))
    high = [int(i) for i in np.flatnonzero(levels >= border)]
    low = [int(i) for i in np.flatnonzero(levels < border)]
    return high, low
