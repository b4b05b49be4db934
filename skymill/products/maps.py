"""Masks and maps that were computed for an open frame."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io, provenance
from skymill.error_maps import error_from_weight, weight_from_error
from skymill.errors import SkymillError
from skymill.frame import Frame, MaskBit, has_bits

if TYPE_CHECKING:
    from astropy.io import fits
    from astropy.wcs import WCS
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["KINDS", "Kind", "ProductMap", "ProductMask", "read_product", "refuse_workflow_file"]


@dataclass(frozen=True)
class Kind:
    """How one kind of product is stored: name of its plane, and bit if it is a mask."""

    plane: str
    bit: MaskBit | None = None
    meaning: str = ""


#: Kinds by the ending of their files, ``<frame>.<kind>.fits``.
KINDS: dict[str, Kind] = {
    "invalidmask": Kind("MASK", MaskBit.NO_DATA, "pixels without a value"),
    "srcmask": Kind("MASK", MaskBit.SOURCE, "light of sources"),
    "circmask": Kind("MASK", MaskBit.USER, "circles set by the user"),
    "bkgmap": Kind("BKG", meaning="level of the sky"),
    "bkgrms": Kind("RMS", meaning="noise of the sky"),
    "srcrms": Kind("ERR", meaning="noise of sky and sources"),
    "bkgweight": Kind("WEIGHT", meaning="1 / noise^2 of the sky"),
    "srcweight": Kind("WEIGHT", meaning="1 / noise^2 of sky and sources"),
}
_WEIGHTS = {"bkgrms": "bkgweight", "srcrms": "srcweight"}


@dataclass(frozen=True, eq=False, repr=False)
class _Product:
    """What masks and maps share.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
        Read-only.
    header : astropy.io.fits.Header
        How it was made.
    kind : str
        A key of `KINDS`.
    wcs : astropy.wcs.WCS or None
        World coordinates of the frame.
    path : Path or None
        Where it was saved.
    figure : matplotlib Figure or None
        Its picture, if one was asked for.
    notes : tuple of str
        What was assumed, in plain words.
    """

    data: NDArray[Any]
    header: fits.Header
    kind: str
    wcs: WCS | None = None
    path: Path | None = None
    figure: Figure | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no kind of product; there are {', '.join(KINDS)}")
        data = np.array(self.data, dtype=self._dtype())  # never the caller's array
        data.flags.writeable = False
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "header", self.header.copy())

    def __repr__(self) -> str:
        return f"<skymill {self.kind} of {self.header.get('FRAMEID', '?')} {self.data.shape}>"

    def _dtype(self) -> Any:
        return np.float32

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (ny, nx)."""
        ny, nx = self.data.shape
        return ny, nx

    def show(
        self, *, ax: Axes | None = None, cmap: str = "viridis", save_path: str | Path | None = None
    ) -> Axes:
        """Draw it and return the axes; nothing is opened.

        Parameters
        ----------
        ax : matplotlib axes, optional
            Where to draw; a new figure without a window by default.
        cmap : str
            Colour map.
        save_path : str or Path, optional
            Also write the picture there.
        """
        from skymill.products.drawing import draw_plane

        title = f"{self.header.get('FRAMEID', '')} {self.kind}".strip()
        return draw_plane(
            self.data, ax=ax, cmap=cmap, title=title, label=self._label(), save_path=save_path
        )

    def _label(self) -> str:
        return KINDS[self.kind].meaning

    def _plane(self) -> NDArray[Any]:
        raise NotImplementedError

    def _unit(self) -> str:
        return ""

    def write(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a FITS file, whole or not at all.

        Parameters
        ----------
        path : str or Path
            Its name; folders are made.
        overwrite : bool
            Replace a file of that name.

        Returns
        -------
        Path

        Raises
        ------
        SkymillError
            If the file exists, or the name lies among the products of the workflow.
        """
        path = Path(path)
        refuse_workflow_file(path)
        if path.exists() and not overwrite:
            raise SkymillError(f"{path.name} exists; set overwrite=True to replace it")
        blank = np.zeros(self.shape, np.float32)
        blank.flags.writeable = False
        like = Frame(
            blank, blank, np.zeros(self.shape, np.uint16), self.header, self.wcs, self._unit()
        )
        unit = {"BUNIT": (self._unit(), "unit of the pixels")} if self._unit() else {}
        name = KINDS[self.kind].plane
        made = {"frame": str(self.header.get("FRAMEVER", "")), "kind": self.kind}
        cards = provenance.cards(
            "user", code=provenance.fingerprint(__file__), settings=made,
            inputs={str(self.header.get("FRAMEID", "frame")): made["frame"]},
        )  # fmt: skip
        io.write_planes(path, {name: self._plane()}, like, cards, {name: unit})
        return path


@dataclass(frozen=True, eq=False, repr=False)
class ProductMask(_Product):
    """A mask: ``data`` is bool of shape (ny, nx), True is masked."""

    def _dtype(self) -> Any:
        return np.bool_

    @property
    def bit(self) -> MaskBit:
        """The bit under which it is stored."""
        return KINDS[self.kind].bit or MaskBit.USER

    @property
    def fraction(self) -> float:
        """Masked part of the frame."""
        return float(self.data.mean())

    def _plane(self) -> NDArray[Any]:
        return np.where(self.data, np.uint16(self.bit), np.uint16(0)).astype(np.uint16)


@dataclass(frozen=True, eq=False, repr=False)
class ProductMap(_Product):
    """A map: ``data`` is float32 of shape (ny, nx), in ``unit``, NaN where not known."""

    unit: str = field(default="electron")

    def _plane(self) -> NDArray[Any]:
        return self.data

    def _unit(self) -> str:
        return self.unit

    def _label(self) -> str:
        return f"{KINDS[self.kind].meaning} ({self.unit})"

    def to_weight(self) -> ProductMap:
        """Return the weight map ``1 / sigma^2`` of an error map; NaN becomes 0."""
        if self.kind not in _WEIGHTS:
            raise SkymillError(f"a {self.kind} is no error map")
        weight = weight_from_error(self.data)
        return self._as(_WEIGHTS[self.kind], weight, f"{self.unit}-2")

    def to_error(self) -> ProductMap:
        """Return the error map of a weight map; 0 becomes NaN."""
        back = {weight: kind for kind, weight in _WEIGHTS.items()}
        if self.kind not in back:
            raise SkymillError(f"a {self.kind} is no weight map")
        return self._as(back[self.kind], error_from_weight(self.data)[0], self.unit[:-2])

    def _as(self, kind: str, data: NDArray[np.float32], unit: str) -> ProductMap:
        header = self.header.copy()
        header["EMAPTYPE"] = (kind, KINDS[kind].meaning)
        return replace(self, data=data, kind=kind, unit=unit, header=header, path=None, figure=None)


def read_product(path: Path, kind: str) -> tuple[NDArray[Any], fits.Header]:
    """Read the plane and the primary header of a product of the user."""
    stored = KINDS[kind]
    planes, primary, _ = io.read_planes(path, (stored.plane,))
    plane = planes[stored.plane]
    return (has_bits(plane.astype(np.uint16), stored.bit) if stored.bit else plane), primary


def refuse_workflow_file(path: Path) -> None:
    """Refuse a name among the products of a workflow: they belong to its steps.

    Raises
    ------
    SkymillError
        Unless it lies in the folder ``user``.
    """
    whole = path.absolute()
    for folder in whole.parents:
        below = whole.relative_to(folder).parts[0]
        if (folder / "outcomes").is_dir() and (folder / "calibrated").is_dir() and below != "user":
            raise SkymillError(
                f"{path.name} would lie among the products of the workflow, which belong to its "
                "steps; choose a name in the folder `user` or outside the results"
            )
