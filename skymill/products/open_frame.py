"""The frame that `skymill.open` returns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from skymill import io, provenance
from skymill.errors import SkymillError
from skymill.products.calculate import CalculatingFrame
from skymill.products.facts import ALIASES
from skymill.products.maps import refuse_workflow_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from astropy.table import Table

__all__ = ["OpenFrame", "open_frame"]


class OpenFrame(CalculatingFrame):
    """A view of one frame or stack. Read-only; everything is read when it is asked for.

    Parameters
    ----------
    path : str or Path
        ``results/calibrated/<block>/<frame>.fits``, the mask or background of the same
        frame, or ``results/stack/<stack>.fits``. Any other file is a frame by itself: one
        that `skymill.Calibrator` wrote, or any image.
    gain : float, optional
        Electron per unit of the file, for an image that is no product.
    read_noise : float, optional
        Electron, likewise; needed to propagate errors.
    saturation : float, optional
        In the unit of the file, likewise.

    Raises
    ------
    SkymillError
        If the file is not there or is no image.
    """

    @property
    def is_exists(self) -> bool:
        """The file is there."""
        return self.path.is_file()

    @property
    def is_data_loaded(self) -> bool:
        """The pixels are in memory."""
        return "_read" in self.__dict__ or "frame" in self.__dict__

    @property
    def is_header_loaded(self) -> bool:
        """The header is in memory; it is read with the pixels."""
        return self.is_data_loaded

    @property
    def is_saved(self) -> bool:
        """The file holds what this object shows; False after `update_header`."""
        return self.is_exists and not self._header_changes

    def load(self) -> Self:
        """Read pixels and header now, and return this object."""
        _ = self.frame
        return self

    def get_referenceframe(
        self,
        candidates: str | Path | Iterable[OpenFrame | str | Path] | None = None,
        **options: Any,
    ) -> tuple[OpenFrame, Table] | None:
        """Return the best reference image for this frame and the table of all, or None.

        Parameters
        ----------
        candidates : folder, or sequence of frames, optional
            Where to look; by default in the project of the frame.
        **options
            min_obsdate, max_obsdate, sort_key, overlap_threshold, return_groups,
            group_overlap_threshold and more: see `skymill.references.get_referenceframe`.
        """
        from skymill.references import get_referenceframe

        return get_referenceframe(self, candidates, **options)

    def write(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write signal, error, final mask, header and world coordinates to a new file.

        Parameters
        ----------
        path : str or Path
            Name outside the products of the workflow.
        overwrite : bool
            Replace a file of that name.

        Returns
        -------
        Path

        Raises
        ------
        SkymillError
            If the file exists or belongs to the workflow.
        """
        path = Path(path)
        refuse_workflow_file(path)
        if path.exists() and (not overwrite or path.samefile(self.path)):
            raise SkymillError(f"{path.name} exists; set overwrite=True, or choose another name")
        cards = provenance.cards(
            "user", code=provenance.fingerprint(__file__), settings={"kind": "frame"},
            inputs={self.id: self.version},
        )  # fmt: skip
        io.write_frame(path, self.frame, cards)
        return path

    def update_header(self, changes: Mapping[str, Any] | None = None, **more: Any) -> Self:
        """Return a copy with changed cards; file and this object stay as they are.

        Parameters
        ----------
        changes : mapping, optional
            Keyword, or another name of the same quantity, to value or (value, comment).
            New ones are added.
        **more
            The same, for keywords that are Python names: ``update_header(ZP=25.0)``.

        Raises
        ------
        SkymillError
            For a keyword that FITS does not allow.
        """
        canonical = {alias: key for key, names in ALIASES.items() for alias in names}
        other = self.copy()
        for name, value in {**(changes or {}), **more}.items():
            key = canonical.get(name.upper(), name.upper())
            letters = key.replace("-", "").replace("_", "")
            if not (letters.isalnum() and key.isascii() and len(key) <= 8):
                raise SkymillError(
                    f"{name!r} is no keyword: FITS allows 8 letters, digits, - and _"
                )
            other._header_changes[key] = value
        other.__dict__.pop("frame", None)
        return other


def open_frame(
    path: str | Path,
    *,
    gain: float | None = None,
    read_noise: float | None = None,
    saturation: float | None = None,
) -> OpenFrame:
    """Open a calibrated frame, a stack or any image with everything that is known of it.

    Parameters
    ----------
    path : str or Path
        ``results/calibrated/<block>/<frame>.fits``, ``results/stack/<stack>.fits``, or any
        other FITS image.
    gain, read_noise, saturation : float, optional
        Of an image that is no product; see `OpenFrame`.

    Returns
    -------
    OpenFrame
    """
    return OpenFrame(path, gain=gain, read_noise=read_noise, saturation=saturation)
