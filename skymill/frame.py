"""The data model: frames, masters, backgrounds and the names of their mask bits.

Everything here is frozen. A step never changes what it is given; it returns a new
object made with ``replace``.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from enum import IntFlag
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from astropy.io import fits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from astropy.wcs import WCS
    from numpy.typing import NDArray

__all__ = ["BIT_MEANINGS", "Background", "Frame", "Later", "MaskBit", "Master", "has_bits"]


class MaskBit(IntFlag):
    """Why a pixel should not be trusted. Zero is a good pixel.

    The names, values and meanings of this registry are written into the header of
    every mask and into the documentation.
    """

    NO_DATA = 1 << 0
    OUTSIDE = 1 << 1
    SATURATED = 1 << 2
    BLEED = 1 << 3
    NONLINEAR = 1 << 4
    HOT = 1 << 5
    COLD = 1 << 6
    DEAD = 1 << 7
    LOW_FLAT = 1 << 8
    COSMIC = 1 << 9
    TRAIL = 1 << 10
    GHOST = 1 << 11
    INTERPOLATED = 1 << 12
    EDGE = 1 << 13
    SOURCE = 1 << 14
    USER = 1 << 15

    @classmethod
    def bad(cls) -> MaskBit:
        """All bits that disqualify a pixel: every one but SOURCE."""
        return cls(0xFFFF) & ~cls.SOURCE


BIT_MEANINGS: dict[MaskBit, str] = {
    MaskBit.NO_DATA: "no valid value (NaN, blank, no input)",
    MaskBit.OUTSIDE: "outside the data section",
    MaskBit.SATURATED: "at or above the saturation level",
    MaskBit.BLEED: "charge bled from a saturated pixel",
    MaskBit.NONLINEAR: "above the linear range",
    MaskBit.HOT: "too much dark or bias signal",
    MaskBit.COLD: "too little bias or dark signal",
    MaskBit.DEAD: "does not respond to light as it should",
    MaskBit.LOW_FLAT: "flat too low or too uncertain",
    MaskBit.COSMIC: "cosmic ray or other single-frame hit",
    MaskBit.TRAIL: "satellite or aircraft trail",
    MaskBit.GHOST: "crosstalk or optical ghost",
    MaskBit.INTERPOLATED: "value made from its neighbours",
    MaskBit.EDGE: "kernel or detector edge",
    MaskBit.SOURCE: "light of a detected source",
    MaskBit.USER: "masked by the user",
}


def has_bits(mask: NDArray[np.uint16], bits: MaskBit) -> NDArray[np.bool_]:
    """Return True where any of ``bits`` is set.

    Parameters
    ----------
    mask : ndarray of uint16, any shape
        Mask plane, 0 is good.
    bits : MaskBit
        One bit or several combined by ``|``.

    Returns
    -------
    ndarray of bool
        Same shape as ``mask``; True means that one of the bits is set.
    """
    return np.asarray((mask & np.uint16(int(bits))) != 0)


def _frozen(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Return a native, contiguous, read-only array; never the caller's writeable one."""
    out = np.ascontiguousarray(array, dtype=dtype)
    if out is array or out.base is array:
        if not array.flags.writeable:
            return out
        out = out.copy()
    out.flags.writeable = False
    return out


class Later:
    """A header or world coordinates that are made when somebody first looks at them.

    Parameters
    ----------
    make : callable
        Makes the value.
    cards : mapping of str to str, optional
        Keyword to card of the header in a file that it is made of.
    """

    def __init__(self, make: Callable[[], Any], cards: Mapping[str, str] | None = None) -> None:
        self._make: Callable[[], Any] | None = make
        self._value: Any = None
        self.cards = cards

    def value(self) -> Any:
        """Return the value, made once."""
        make = self._make
        if make is not None:
            self._value = make()
            self._make = None
        return self._value


def _nowhere() -> None:
    """No world coordinates; a plain default would hide those that come later."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One detector image with its error and mask.

    Parameters
    ----------
    sci : ndarray of float32, shape (ny, nx)
        Signal in ``unit``. NaN only where the mask says NO_DATA (or LOW_FLAT, DEAD).
    err : ndarray of float32, shape (ny, nx)
        One-sigma standard deviation in ``unit``; NaN where unknown, never zero.
    mask : ndarray of uint16, shape (ny, nx)
        Bits of `MaskBit`; 0 is good.
    header : astropy.io.fits.Header
        Cards that describe the frame. Copied.
    wcs : astropy.wcs.WCS or None
        World coordinates of the pixel grid. Linear without celestial axes if the
        solution is relative to another frame.
    unit : str
        Unit of ``sci`` and ``err``: ``"electron"``, ``"adu"`` or ``""``.

    Raises
    ------
    ValueError
        If the planes are not two-dimensional or their shapes differ.

    Notes
    -----
    Arrays are made read-only. A writeable array is copied, a read-only array of the
    right type is kept.
    """

    sci: NDArray[np.float32]
    err: NDArray[np.float32]
    mask: NDArray[np.uint16]
    header: fits.Header
    wcs: WCS | None = field(default_factory=_nowhere)
    unit: str = "electron"

    def __post_init__(self) -> None:
        shapes = {name: np.shape(getattr(self, name)) for name in ("sci", "err", "mask")}
        if len(set(shapes.values())) != 1 or len(shapes["sci"]) != 2:
            raise ValueError(f"planes of a frame must have one 2-D shape (ny, nx), got {shapes}")
        object.__setattr__(self, "sci", _frozen(self.sci, np.float32))
        object.__setattr__(self, "err", _frozen(self.err, np.float32))
        object.__setattr__(self, "mask", _frozen(self.mask, np.uint16))
        for name in ("header", "wcs"):
            given = self.__dict__[name]
            if isinstance(given, Later):
                object.__setattr__(self, f"_{name}", given)
                del self.__dict__[name]  # __getattr__ finds it
            elif name == "header":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", fits.verify.VerifyWarning)
                    object.__setattr__(self, name, given.copy())

    def __getattr__(self, name: str) -> Any:
        """Make a header or world coordinates that nobody has looked at before."""
        later = self.__dict__.get(f"_{name}") if name in ("header", "wcs") else None
        if later is None:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        value = later.value()
        object.__setattr__(self, name, value)
        return value

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (ny, nx)."""
        ny, nx = self.sci.shape
        return ny, nx

    @property
    def good(self) -> NDArray[np.bool_]:
        """True where no disqualifying bit is set and signal and error are finite."""
        return ~has_bits(self.mask, MaskBit.bad()) & np.isfinite(self.sci) & np.isfinite(self.err)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        # What is kept is shared: a frame never changes.
        for name in ("header", "wcs"):
            if name not in changes:
                changes[name] = self._kept(name)
        return replace(self, **changes)

    def stored(self, name: str) -> Mapping[str, str] | None:
        """Return the cards as they stand in a file of a header or world coordinates.

        Parameters
        ----------
        name : str
            ``"header"`` or ``"wcs"``.

        Returns
        -------
        mapping or None
            Keyword to card; None if the frame comes from no file, or if somebody has looked
            at the object itself.
        """
        return None if name in self.__dict__ else self.__dict__[f"_{name}"].cards

    def _kept(self, name: str) -> Later:
        if name not in self.__dict__:
            later: Later = self.__dict__[f"_{name}"]
            return later
        value = self.__dict__[name]
        return Later(lambda: value)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: header and world coordinates themselves."""
        made = {"header": self.header, "wcs": self.wcs}
        return {k: v for k, v in self.__dict__.items() if k not in ("_header", "_wcs")} | made


@dataclass(frozen=True, eq=False)
class Master(Frame):
    """A combined calibration frame.

    Parameters
    ----------
    nused : ndarray of uint16, shape (ny, nx)
        Number of input frames used at each pixel.

    Notes
    -----
    Units: bias ``adu``; dark ``adu`` (overscan-subtracted, bias **not** subtracted,
    exposure in the EXPTIME card, ``err`` without the bias term); flat ``""``
    (median of the good pixels is 1).
    """

    nused: NDArray[np.uint16] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nused is None or self.nused.shape != self.sci.shape:
            got = None if self.nused is None else self.nused.shape
            raise ValueError(f"nused of a master must have shape {self.sci.shape}, got {got}")
        object.__setattr__(self, "nused", _frozen(self.nused, np.uint16))


@dataclass(frozen=True, eq=False)
class Background:
    """Low-resolution background of a frame and the rule that expands it.

    Parameters
    ----------
    level : ndarray of float32, shape (my, mx)
        Background at the centre of each mesh cell, in electron.
    rms : ndarray of float32, shape (my, mx)
        One-sigma pixel scatter of the background in each cell, in electron.
    shape : tuple of int
        Shape (ny, nx) of the frame.
    box_size_px : int
        Cell ``(j, i)`` covers the pixels ``[j*box : (j+1)*box, i*box : (i+1)*box]``;
        its centre is ``(j + 0.5)*box - 0.5``, also for a last cell that is cut. 1: the
        meshes are the maps themselves.
    level_err : float
        One-sigma error of the level of one cell, in electron, common to its pixels.
    model : str
        ``"mesh"``: the level is the spline through the cells. ``"constant"`` and
        ``"polynomial"``: it is the polynomial of the coefficients, and ``level`` its
        values at the centres of the cells.
    coefficients : tuple of float
        Of the products of Legendre polynomials 1, x, y, x^2, xy, y^2, ... in electron, with
        x, y running from -1 to 1 over the frame; see `skymill.kernels.polynomial`.
    """

    level: NDArray[np.float32]
    rms: NDArray[np.float32]
    shape: tuple[int, int]
    box_size_px: int
    level_err: float
    model: str = "mesh"
    coefficients: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.level.shape != self.rms.shape:
            raise ValueError(
                f"meshes differ in shape: level {self.level.shape}, rms {self.rms.shape}"
            )
        need = tuple(-(-n // self.box_size_px) for n in self.shape)
        if self.level.shape != need:
            raise ValueError(
                f"mesh of {self.level.shape} cells does not cover a frame of {self.shape} px "
                f"with boxes of {self.box_size_px} px, expected {need}"
            )
        if self.model not in ("mesh", "constant", "polynomial"):
            raise ValueError(f"background model {self.model!r} is not mesh, constant, polynomial")
        if (self.model == "mesh") != (not self.coefficients):
            raise ValueError(
                f"a background of model {self.model} has {len(self.coefficients)} coefficients"
            )
        object.__setattr__(self, "level", _frozen(self.level, np.float32))
        object.__setattr__(self, "rms", _frozen(self.rms, np.float32))
        object.__setattr__(self, "coefficients", tuple(float(c) for c in self.coefficients))

    def level_map(self) -> NDArray[np.float32]:
        """Return the background in electron at every pixel, shape (ny, nx)."""
        if self.model == "mesh":
            return expand_mesh(self.level, self.shape, self.box_size_px)
        from skymill.kernels.polynomial import polynomial_map

        return polynomial_map(np.array(self.coefficients), self.shape)

    def rms_map(self) -> NDArray[np.float32]:
        """Return the background scatter in electron at every pixel, shape (ny, nx).

        Never below half the smallest value of the mesh, where the slope of the outer
        cells would lead there.
        """
        out = expand_mesh(self.rms, self.shape, self.box_size_px)
        return np.maximum(out, np.float32(0.5) * self.rms.min(), out=out)


def expand_mesh(
    mesh: NDArray[np.float32], shape: tuple[int, int], box_size_px: int
) -> NDArray[np.float32]:
    """Interpolate cell-centre values to every pixel.

    Natural cubic spline through the cell centres, first along y, then along x. Beyond the
    outermost centres it goes on along the slope that it has there, so that a tilted sky is
    right up to the edges. Two cells along an axis are interpolated linearly; one is constant.

    Parameters
    ----------
    mesh : ndarray of float32, shape (my, mx)
        Values at the cell centres ``(index + 0.5) * box_size_px - 0.5``.
    shape : tuple of int
        Shape (ny, nx) of the result.
    box_size_px : int
        Side of a cell in pixels.

    Returns
    -------
    ndarray of float32, shape (ny, nx)
    """
    from skymill.kernels.mesh import expand_spline

    return expand_spline(np.asarray(mesh, np.float64), shape, box_size_px, extrapolate=True)
