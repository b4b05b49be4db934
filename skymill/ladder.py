"""A frame on its way up the ladder, and the rungs that lead to the sky."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from skymill.blind import PROGRAM, solve_blind
from skymill.solve import Limits, Refusal, Solution, Stars, solve
from skymill.wcsmath import kind_of, pixel_scale

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from skymill.catalogs import RefCatalog

__all__ = ["Frame", "by_blind_solver", "by_catalog", "catalog_method", "tell"]


@dataclass
class Frame:
    """What is known of the frame that is solved, and what was tried."""

    frame_id: str
    stars: Stars
    broad: Stars
    shape: tuple[int, int]
    band: str = ""
    few: bool = True
    solver: str | None = None
    blind: str = "auto"
    blind_time_limit_s: float = 60.0
    scale_arcsec: float | None = None
    header: WCS | None = None
    start: WCS | None = None
    rungs: list[str] = field(default_factory=list)

    def note(self, rung: str, result: str, why: str = "") -> None:
        """Record what came of a rung."""
        self.rungs.append(f"{rung}: {result}" + (f" ({why})" if why else ""))

    @property
    def ladder(self) -> str:
        """The rungs, one per line."""
        return "\n".join(self.rungs)


def tell(frame: Frame, rung: str, found: Solution | Refusal) -> None:
    """Record what a way to a solution gave."""
    if isinstance(found, Refusal):
        frame.note(rung, found.code, found.why)
        return
    match = found.match
    frame.note(
        rung,
        "solved",
        f"{len(match.source)} stars, {match.rms:.3f} px, {match.search.name}, "
        f"{match.expected_false:.2g} expected by chance",
    )


def by_catalog(
    frame: Frame, catalog: RefCatalog | None, limits: Limits
) -> Solution | Refusal | None:
    """Solve against the catalogue; None if there is none."""
    if catalog is None:
        frame.note("catalogue", "none")
        return None
    found: Solution | Refusal
    if frame.start is None:
        text = "neither world coordinates nor a pointing with pixel_scale_arcsec to start from"
        found = Refusal("NO_WCS", text)
    else:
        found = solve(frame.stars, catalog, frame.start, frame.shape, limits, band=frame.band)
    tell(frame, "catalogue", found)
    return found


def by_blind_solver(
    frame: Frame, catalog: RefCatalog | None, limits: Limits
) -> Solution | Refusal | None:
    """Ask the solver where to start, and solve against the catalogue from there.

    None if there is no catalogue that could confirm it, or no solver that was asked for.
    """
    if catalog is None or frame.blind == "never":
        return None
    if frame.solver is None:
        wanted = PROGRAM if frame.blind == "auto" else frame.blind
        frame.note("blind", "not tried", f"{wanted} is not installed")
        return None
    scale = frame.scale_arcsec
    if scale is None and frame.start is not None:
        scale = pixel_scale(frame.start, frame.shape)
    guess = solve_blind(
        frame.stars,
        frame.shape,
        program=frame.solver,
        time_limit_s=frame.blind_time_limit_s,
        scale_arcsec=scale,
        scale_error=2 * limits.max_scale_error,
    )
    if isinstance(guess, Refusal):
        tell(frame, "blind", guess)
        return guess
    found = solve(frame.stars, catalog, guess, frame.shape, limits, band=frame.band)
    if isinstance(found, Refusal):
        found = replace(found, why=f"the position of {PROGRAM} is not confirmed: {found.why}")
    tell(frame, "blind", found)
    return found


def catalog_method(found: Solution, start: str = "catalogue") -> str:
    """Return the word for a solution by the catalogue."""
    if not found.sip_order:
        return start
    name = "tpv" if kind_of(found.wcs) == "tpv" else "sip"
    return f"{start}+{name}{found.sip_order}"
