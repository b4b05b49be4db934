"""Measuring masks, backgrounds and error maps of an open frame anew.

Every method returns a new object and changes nothing: not the frame, not the arrays
that it is given, not a file of the workflow.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from astropy.io import fits

from skymill import error_maps
from skymill.errors import SkymillError
from skymill.frame import MaskBit
from skymill.masks import invalid_mask
from skymill.products import measure
from skymill.products.areas import disks
from skymill.products.drawing import save as save_figure
from skymill.products.maps import KINDS, ProductMap, ProductMask
from skymill.products.pictures import PicturedFrame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.frame import Background

__all__ = ["CalculatingFrame"]

log = logging.getLogger("skymill")
P = TypeVar("P", ProductMap, ProductMask)
#: True: the usual place. A path: there.
Saving = bool | str | Path


class CalculatingFrame(PicturedFrame):
    """A frame that masks, backgrounds and error maps can be made of.

    Parameters that all methods share: ``save`` writes the product (True: into `savedir`,
    whence the property of that name takes it; or a path); ``verbose`` logs what was made;
    ``visualize`` adds a picture as ``.figure``; ``save_fig`` also writes it (True: beside
    the saved product; or a path). Masks may be products, arrays or files; True is masked.
    """

    # --- masks ------------------------------------------------------------------------

    def calculate_invalidmask(
        self, threshold_invalid_connection: int = 100_000, *, save: Saving = False,
        verbose: bool = True, visualize: bool = False, save_fig: Saving = False,
    ) -> ProductMask:  # fmt: skip
        """Mask pixels without a value: NaN, infinite, or in a large area of exact zeros.

        Parameters
        ----------
        threshold_invalid_connection : int
            Zeros that touch form an area; one of more pixels than this is masked.
        """
        limit = threshold_invalid_connection
        mask = invalid_mask(self.frame.sci, limit)
        mask |= self.masked("NO_DATA", "OUTSIDE")
        cards = {"IVPTHRES": (limit, "[px] larger areas of zeros")}
        return self._finish(self._mask("invalidmask", mask, cards), save, verbose, visualize,
                            save_fig)  # fmt: skip

    def calculate_sourcemask(
        self, target_srcmask: Any = None, sigma: float = 5.0, mask_radius_factor: float = 3.0,
        saturation_level: float | None = None, *, save: Saving = False, verbose: bool = True,
        visualize: bool = False, save_fig: Saving = False,
    ) -> ProductMask:  # fmt: skip
        """Mask the light of sources.

        Parameters
        ----------
        target_srcmask : mask, optional
            Added to what is found.
        sigma : float
            Threshold in sigma of the filtered image.
        mask_radius_factor : float
            A source of n pixels is masked in a disk of this factor times sqrt(n / pi), and
            along its isophote.
        saturation_level : float, optional
            Sources that reach it (electron) are masked twice as far, as those with
            saturated pixels are in any case.
        """
        frame, sky = self.frame, self._sky()
        if saturation_level is not None:
            bits = frame.mask.copy()
            bits[frame.sci >= saturation_level] |= np.uint16(MaskBit.SATURATED)
            frame = frame.replace(mask=bits)
        mask = measure.source_pixels(
            frame, sky, threshold_sigma=sigma, radius_factor=mask_radius_factor,
            mask=measure.as_mask(target_srcmask, frame.shape, "target_srcmask"),
        )  # fmt: skip
        cards = {
            "SRCSIGMA": (sigma, "[sigma] threshold"),
            "SRCGROW": (mask_radius_factor, "masked radius / isophotal radius"),
        }
        return self._finish(self._mask("srcmask", mask, cards), save, verbose, visualize, save_fig)

    def calculate_circularmask(
        self, x: Any, y: Any, radius_arcsec: Any = None, unit: str = "coord", *,
        radius_px: Any = None, target_mask: Any = None, save: Saving = False,
        verbose: bool = True, visualize: bool = False, save_fig: Saving = False,
    ) -> ProductMask:  # fmt: skip
        """Mask disks.

        Parameters
        ----------
        x, y : float or sequence of float
            Right ascension and declination in degree (``unit="coord"``), or 0-based pixels
            (``unit="pixel"``).
        radius_arcsec : float or sequence of float, optional
            Radius on the sky, in both units of the position.
        unit : str
            ``coord`` or ``pixel``.
        radius_px : float or sequence of float, optional
            Radius in pixels instead, for frames without world coordinates.
        target_mask : mask, optional
            Added.
        """
        if (radius_arcsec is None) == (radius_px is None):
            raise SkymillError("give either radius_arcsec or radius_px")
        frame = self.frame
        mask = disks(
            frame.shape, x, y, radius_arcsec if radius_px is None else radius_px,
            wcs=frame.wcs, unit=unit, in_pixels=radius_px is not None,
        )  # fmt: skip
        given = measure.as_mask(target_mask, frame.shape, "target_mask")
        if given is not None:
            mask = mask | given
        cards = {"CIRCLES": (int(np.size(x)), "disks that were masked")}
        return self._finish(self._mask("circmask", mask, cards), save, verbose, visualize,
                            save_fig)  # fmt: skip

    # --- sky --------------------------------------------------------------------------

    def calculate_bkg(
        self, target_srcmask: Any = None, target_ivpmask: Any = None, is_2D_bkg: bool = True,
        box_size: int = 64, filter_size: int = 3, correct_global_offset: bool = True, *,
        save: Saving = False, verbose: bool = True, visualize: bool = False,
        save_fig: Saving = False,
    ) -> ProductMap:  # fmt: skip
        """Measure the level of the sky; see the step `background`.

        Parameters
        ----------
        target_srcmask, target_ivpmask : mask, optional
            Left out together with the bad pixels of the frame; sources are searched and
            left out besides. The map is NaN in the second.
        is_2D_bkg : bool
            False: one level for the frame.
        box_size, filter_size : int
            Cells of the mesh (px), and its median filter (cells).
        correct_global_offset : bool
            Add the median of what is left on the sky.
        """
        sky, invalid = self._new_sky(
            target_srcmask, target_ivpmask, box_size, filter_size,
            model="mesh" if is_2D_bkg else "constant",
            correct_global_offset=correct_global_offset,
        )  # fmt: skip
        cards = _sky_cards(sky, filter_size, is_2D_bkg)
        data = np.where(invalid, np.float32(np.nan), sky.level_map())
        return self._finish(self._map("bkgmap", data, cards), save, verbose, visualize, save_fig)

    def calculate_bkgrms(
        self, target_srcmask: Any = None, target_ivpmask: Any = None, box_size: int = 64,
        filter_size: int = 3, *, save: Saving = False, verbose: bool = True,
        visualize: bool = False, save_fig: Saving = False,
    ) -> ProductMap:  # fmt: skip
        """Measure the scatter of the sky. Parameters as in `calculate_bkg`."""
        sky, invalid = self._new_sky(target_srcmask, target_ivpmask, box_size, filter_size)
        cards = _sky_cards(sky, filter_size, True) | _method("measured")
        data = np.where(invalid, np.float32(np.nan), sky.rms_map())
        return self._finish(self._map("bkgrms", data, cards), save, verbose, visualize, save_fig)

    def calculate_errormap(
        self, target_srcmask: Any = None, target_ivpmask: Any = None, box_size: int = 64,
        filter_size: int = 3, *, mflat: Any = None, every_pixel: bool = False,
        save: Saving = False, verbose: bool = True, visualize: bool = False,
        save_fig: Saving = False,
    ) -> ProductMap:  # fmt: skip
        """Measured scatter of the sky plus the photons of the sources.

        Parameters
        ----------
        target_srcmask, target_ivpmask, box_size, filter_size
            As in `calculate_bkg`.
        mflat : Master or file, optional
            Flat by which the frame was divided; default: the one that the header names.
        every_pixel : bool
            Add the photons of every pixel above the sky, not only of those of sources:
            the upward noise of the sky then counts twice.
        """
        frame = self.frame
        sky, invalid = self._new_sky(target_srcmask, target_ivpmask, box_size, filter_size)
        flat = self._masters({"flat": mflat})[0].flat
        notes = [] if flat is not None else ["the flat is taken for 1 and exact"]
        sources = None
        if not every_pixel:
            given = measure.as_mask(target_srcmask, frame.shape, "target_srcmask")
            sources = measure.source_pixels(frame, sky) if given is None else given
        data = error_maps.error_map(
            frame.sci, sky.level_map(), sky.rms_map(), sources=sources,
            flat=1.0 if flat is None else flat.sci, flat_err=0.0 if flat is None else flat.err,
        )  # fmt: skip
        data[invalid] = np.nan
        cards = _sky_cards(sky, filter_size, True) | _method("measured, photons of sources")
        product = self._map("srcrms", data, cards, notes)
        return self._finish(product, save, verbose, visualize, save_fig)

    # --- propagation ------------------------------------------------------------------

    def calculate_bkgrms_from_propagation(
        self, target_bkg: Any = None, mbias: Any = None, mdark: Any = None, mflat: Any = None,
        mflaterr: Any = None, *, save: Saving = False, verbose: bool = True,
        visualize: bool = False, save_fig: Saving = False,
    ) -> ProductMap:  # fmt: skip
        """Noise of the sky from gain, read noise and masters, without photons of sources.

        Parameters
        ----------
        target_bkg : ProductMap, ndarray or float, optional
            Level of the sky (electron); default: `background`, measured if there is none.
        mbias, mdark, mflat : Master or file, optional
            Default: those that the header names. If one of them is not at hand, the error
            plane of the frame is used instead: it holds them.
        mflaterr : ndarray or float, optional
            Error of the flat; default: that of the master.
        """
        frame = self.frame
        level = measure.as_plane(target_bkg, frame.shape, "target_bkg")
        if level is None:
            level = self.background if self.background is not None else self._sky().level_map()
        terms, notes = self._terms(mbias, mdark, mflat, mflaterr)
        if terms is None:
            data = error_maps.background_only_error(frame.err, frame.sci, level)
        else:
            e = measure.electronics_of(frame.header, frame.shape)
            data = error_maps.background_rms_from_propagation(level, e, terms, shape=frame.shape)
            data[~np.isfinite(frame.sci)] = np.nan
        product = self._map("bkgrms", data, _method("propagated"), notes)
        return self._finish(product, save, verbose, visualize, save_fig)

    def calculate_errormap_from_propagation(
        self, mbias: Any = None, mdark: Any = None, mflat: Any = None, mflaterr: Any = None, *,
        save: Saving = False, verbose: bool = True, visualize: bool = False,
        save_fig: Saving = False,
    ) -> ProductMap:  # fmt: skip
        """Total noise from gain, read noise and masters. Parameters as above."""
        frame = self.frame
        terms, notes = self._terms(mbias, mdark, mflat, mflaterr)
        if terms is None:
            data = frame.err.copy()
        else:
            e = measure.electronics_of(frame.header, frame.shape)
            data = error_maps.error_map_from_propagation(frame.sci, e, terms)
        product = self._map("srcrms", data, _method("propagated, photons of sources"), notes)
        return self._finish(product, save, verbose, visualize, save_fig)

    def noise_ratio(self) -> float:
        """Measured over propagated noise of the sky: 1 if gain and read noise are right."""
        frame, sky = self.frame, self._sky()
        model = self.calculate_bkgrms_from_propagation(target_bkg=sky.level_map(), verbose=False)
        free = frame.good & ~measure.source_pixels(frame, sky)
        return error_maps.noise_ratio(sky.rms_map(), model.data, free)

    # --- parts ------------------------------------------------------------------------

    def _sky(self) -> Background:
        """Background of the step, else measured now."""
        return self._background or measure.measured_sky(self.frame)

    def _new_sky(
        self, srcmask: Any, ivpmask: Any, box_size: int, filter_size: int, **options: Any
    ) -> tuple[Background, NDArray[np.bool_]]:
        if box_size < 1:
            raise SkymillError(f"box_size is {box_size}, expected 1 or more pixels")
        if filter_size < 1 or filter_size % 2 == 0:
            raise SkymillError(f"filter_size is {filter_size}, expected an odd number of cells")
        shape = self.frame.shape
        sources = measure.as_mask(srcmask, shape, "target_srcmask")
        invalid = measure.as_mask(ivpmask, shape, "target_ivpmask")
        frame = measure.without(self.frame, sources, invalid)
        sky = measure.measured_sky(frame, box_size_px=box_size, filter_size=filter_size, **options)
        unknown = ~np.isfinite(self.frame.sci)
        return sky, unknown if invalid is None else unknown | invalid

    def _masters(self, given: dict[str, Any]) -> tuple[Any, list[str]]:
        frame = self.frame
        return measure.load_masters(given, self.masters, frame.header, frame.shape)

    def _terms(
        self, mbias: Any, mdark: Any, mflat: Any, mflaterr: Any
    ) -> tuple[error_maps.MasterTerms | None, list[str]]:
        """What masters add; None if one that was applied is not at hand."""
        if self.is_stack:
            raise SkymillError("a stack carries its own error; propagate those of its frames")
        given = {"bias": mbias, "dark": mdark, "flat": mflat}
        masters, missing = self._masters(given)
        if missing:
            plural = "are" if len(missing) > 1 else "is"
            return None, [f"{', '.join(missing)} {plural} not at hand: the error plane is used"]
        header = self.frame.header
        notes = [] if masters.flat is not None else ["no flat was applied: it is taken for 1"]
        if header.get("LINEAR") is False:
            notes.append("the frame was linearised; read noise and masters are taken as they are")
        error = measure.as_plane(mflaterr, self.frame.shape, "mflaterr")
        return measure.master_terms(masters, header, error), notes

    def _cards(self, kind: str, cards: dict[str, Any]) -> fits.Header:
        header = fits.Header()
        for key in ("OBJECT", "FILTER", "EXPTIME", "MJD-AVG"):
            if key in self.frame.header:
                header[key] = (self.frame.header[key], self.frame.header.comments[key])
        header["FRAMEID"] = (self.id[:68], "")
        header["FRAMEVER"] = (self.version, "checksum of the frame it belongs to")
        for key, value in cards.items():
            header[key] = value
        family = "MASKTYPE" if KINDS[kind].bit else "BKGTYPE" if kind == "bkgmap" else "EMAPTYPE"
        header[family] = (kind, KINDS[kind].meaning)
        return header

    def _mask(self, kind: str, data: NDArray[np.bool_], cards: dict[str, Any]) -> ProductMask:
        return ProductMask(data, self._cards(kind, cards), kind, self.frame.wcs)

    def _map(
        self, kind: str, data: NDArray[Any], cards: dict[str, Any], notes: Any = ()
    ) -> ProductMap:
        header = self._cards(kind, cards)
        for note in notes:
            header.add_comment(note)
        unit = self.frame.unit
        return ProductMap(data, header, kind, self.frame.wcs, notes=tuple(notes), unit=unit)

    def _finish(
        self, product: P, save: Saving, verbose: bool, visualize: bool, save_fig: Saving
    ) -> P:
        """Save and draw as asked for."""
        if save:
            usual = save is True
            path = self.savepath[product.kind] if usual else Path(save)  # type: ignore[arg-type]
            product = replace(product, path=product.write(path, overwrite=usual))
        if visualize or save_fig:
            ax = product.show()
            figure: Any = ax.figure
            product = replace(product, figure=figure)
            if save_fig:
                usual_figure = self.savedir / f"{self.id}.{product.kind}.png"
                target = usual_figure if save_fig is True else Path(save_fig)
                save_figure(ax, target)
        if verbose:
            log.info("%s: %s%s", self.id, product.kind, f", {product.path}" if save else "")
        return product


def _sky_cards(sky: Background, filter_size: int, is_2d: bool) -> dict[str, Any]:
    return {
        "BKGVALU": (float(np.mean(sky.level)), "[electron] mean level"),
        "BKGSIG": (float(np.median(sky.rms)), "[electron] scatter of the sky"),
        "BKGBOX": (sky.box_size_px, "[px] side of a cell"),
        "BKGFILT": (filter_size, "[cells] median filter"),
        "BKGIS2D": (is_2d, "False: one level for the frame"),
    }


def _method(text: str) -> dict[str, Any]:
    return {"EMAPMETH": (text, "how the noise was found")}
