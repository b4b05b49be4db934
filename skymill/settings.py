"""Settings: one frozen model per step, validated once, before any job starts.

This is the only module that sees the configuration tree. Rules receive
``settings.<step>.model_dump(mode="json")``; steps receive plain keyword arguments.
``python -m skymill.settings`` writes ``config/config.yaml``, ``config/schema.json``
and the tables of ``docs/settings.md`` from the models; a test fails when they drift.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from skymill.errors import ConfigError
from skymill.remote_services import check_client
from skymill.tiles import TileScheme
from skymill.user_functions import IMPORT_PATH

__all__ = [
    "STEPS",
    "Settings",
    "check_paths",
    "default_config_text",
    "load_settings",
    "schema_text",
    "settings_tables",
    "validate_settings",
]

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Policy = Literal["require", "degrade", "skip"]
#: Built-in overscan methods, or an import path `package.module:name`.
OVERSCAN_METHOD = (
    r"^(mean|median|clipped|clipped_median"
    r"|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)$"
)

#: Engines of the background, or an import path.
BACKGROUND_ENGINE = rf"^(skymill|sep|photutils|{IMPORT_PATH})$"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Ingest(_Model):
    """Reading the raw tree."""

    max_file_mb: Positive = 4096
    """Larger files are rejected (MB, uncompressed)."""
    follow_links: bool = False
    """Follow symbolic links that lead out of the raw folder."""
    checksum: Literal["reject", "flag"] = "reject"
    """What to do with a file whose CHECKSUM or DATASUM card is wrong."""
    max_cards: Annotated[int, Field(ge=100)] = 10000
    """Headers with more cards are flagged."""
    min_side_px: Annotated[int, Field(ge=2)] = 16
    """Images with a shorter side are rejected (px)."""
    settle_s: NonNegative = 0.0
    """A cut file younger than this is taken for one that is still being written (s)."""
    bias_max_exposure_s: NonNegative = 1.0
    """A bias frame with a longer exposure is rejected (s)."""
    temperature_tolerance_k: Positive = 3.0
    """Detector temperature further from its set point than this is flagged (K)."""
    dead_area_reject: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Frames with a larger dead fraction are rejected; from 2 % they are flagged."""
    unused_overrides: Literal["error", "warn"] = "error"
    """What to do about an override that matches no file."""


class Window(_Model):
    """How far a master may lie from the frames that it serves."""

    bias: NonNegative = 3
    """Nights between a bias and the frames."""
    dark: NonNegative = 7
    """Nights between a dark and the frames; darks are taken rarely and change slowly."""
    flat: NonNegative = 3
    """Nights between a flat and the frames; dust moves."""


class Pool(_Model):
    """Frames of neighbouring nights combined where a night has too few of its own."""

    bias: Annotated[int, Field(ge=0)] = 3
    """Nights whose bias frames are pooled; 0: never."""
    dark: Annotated[int, Field(ge=0)] = 7
    """Nights whose dark frames are pooled; 0: never."""
    flat: Annotated[int, Field(ge=0)] = 3
    """Nights whose flats are pooled; 0: never."""


MatchKey = Literal[
    "instrument",
    "detector",
    "channel",
    "mode",
    "binning",
    "datasec",
    "gain_setting",
    "offset_setting",
]
DarkRule = Literal["exact", "longer", "shorter", "bias_only"]


class Match(_Model):
    """Which masters fit a frame, and which of them is taken."""

    keys: tuple[MatchKey, ...] = (
        "instrument",
        "detector",
        "channel",
        "mode",
        "binning",
        "datasec",
        "gain_setting",
        "offset_setting",
    )
    """Columns of the sheet that must be equal; the size in pixels always must."""
    area: Literal["equal", "contains"] = "contains"
    """A window of the detector takes masters of the same area only, or also such that hold it."""
    window_nights: Window = Window()
    pool_nights: Pool = Pool()
    prefer: Literal["nearest", "before", "after"] = "nearest"
    """The nearest night, or one before (after) the frames where there is one."""
    ties: Literal["earlier", "more_frames"] = "earlier"
    """Of two nights equally near: the earlier one, or the master of more frames."""
    temperature: Literal["require", "degrade", "ignore"] = "require"
    """A dark beyond the tolerance: not used, used with a flag if there is no other, or as good
    as any. Darks of unknown temperature fit."""
    temperature_tolerance_k: Positive = 2.0
    """Largest difference of detector temperature between dark and frame (K)."""
    dark_exposure: tuple[DarkRule, ...] = ("exact", "longer")
    """Darks by exposure, in this order: ``exact`` (1 %), ``longer`` (the shortest such, scaled
    down), ``shorter`` (the longest such, scaled up), ``bias_only`` (no dark, and no complaint)."""


class Tiles(_Model):
    """Stacks on fixed tiles of the sky, beside those of the fields."""

    enabled: bool = False
    """Also stack on fixed tiles of the sky."""
    scale_arcsec: Annotated[float, Field(ge=0.001, le=100)] = 1.0
    """Pixel scale of the tiles (arcsec, three decimals)."""
    size_px: Annotated[int, Field(ge=64, le=100000)] = 4096
    """Side of a tile (px)."""
    overlap_px: Annotated[int, Field(ge=0)] = 128
    """Least overlap of neighbouring tiles (px)."""
    margin_deg: NonNegative = 0.02
    """Frames whose header puts them this near to a tile may touch it (degree)."""
    radius_deg: Positive = 0.3
    """Circle around the pointing of a frame without corners in the sheet (degree)."""

    @model_validator(mode="after")
    def _possible(self) -> Tiles:
        TileScheme.of(self.scale_arcsec, self.size_px, self.overlap_px)
        return self


class Plan(_Model):
    """Grouping and matching."""

    block_max_frames: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Frames of one block, that is of one job. None: 40 of frames of 4 megapixels and more, of
    smaller ones as many as make as many pixels, but no more than 250."""
    block_max_mpix: Positive = 1000
    """Megapixels of one block."""
    masters: Literal["all", "needed"] = "all"
    """Make all masters that the light frames' modes could use, or only those in use."""
    match: Match = Match()
    field_radius_deg: Positive = 0.2
    """Pointings of one target closer than this are one field (degree)."""
    epoch: Literal["all", "night", "window"] = "all"
    """Stacks of all frames of a field and filter, or also one for each night or window."""
    window_days: Annotated[int, Field(ge=1, le=36525)] = 30
    """Nights of a window; windows begin at multiples of this in MJD."""
    tiles: Tiles = Tiles()
    max_groups: Annotated[int, Field(ge=1)] = 20000
    """More blocks than this is taken for a mistake."""


class Overscan(_Model):
    """How the overscan level of a frame is measured."""

    method: Annotated[str, Field(pattern=OVERSCAN_METHOD)] = "clipped"
    """Statistic of the overscan pixels: mean, median, clipped (mean) or clipped_median; or a
    method of one's own as `package.module:name`."""
    fit: Literal["frame", "row", "column", "polynomial", "legendre", "spline3"] = "frame"
    """One level per frame, one per row or column, or a smooth curve along them."""
    axis: Literal["auto", "y", "x", "both"] = "auto"
    """Follow the level along the rows (y), the columns (x), or both; auto: as the areas lie."""
    order: Annotated[int, Field(ge=0, le=50)] = 1
    """Degree of the polynomial or number of spline pieces."""
    sigma_clip: Positive = 4.0
    """Rows (or pixels) further than this from the fit are left out (sigma)."""
    sigma_low: Positive | None = None
    """Threshold below the level, if it is not `sigma_clip` (sigma)."""
    sigma_high: Positive | None = None
    """Threshold above the level, if it is not `sigma_clip` (sigma)."""
    iterations: Annotated[int, Field(ge=0, le=20)] = 2
    """Rejection iterations."""
    min_pixels: Annotated[int, Field(ge=1)] = 1
    """Frames with fewer overscan pixels after rejection are rejected."""

    @model_validator(mode="after")
    def _axis_fits(self) -> Overscan:
        if (self.fit, self.axis) in (("row", "x"), ("column", "y")):
            raise ValueError(f"fit {self.fit} cannot follow the axis {self.axis}")
        return self


class _Combine(_Model):
    method: Literal["clipped", "weighted", "mean", "median", "minmax"] = "clipped"
    """Estimator; ``clipped`` is a mean clipped against the noise model, ``weighted`` the same
    with weights by the noise of each frame."""
    clip_sigma: Positive = 4.5
    """Clipping threshold of ``clipped`` in sigma of the noise model."""
    reject_low: Annotated[int, Field(ge=0)] = 1
    """Lowest values that ``minmax`` drops."""
    reject_high: Annotated[int, Field(ge=0)] = 1
    """Highest values that ``minmax`` drops."""
    minimum: Annotated[int, Field(ge=1)] = 3
    """Fewest usable frames; with fewer no master is made."""
    overscan: Overscan = Overscan()
    memory_mb: Positive = 250
    """Memory for raw pixels (MB); the pixels of larger groups wait in a scratch file."""


class MasterBias(_Combine):
    """Combining bias frames."""

    level_tolerance_sigma: Positive = 8.0
    """A frame further than this from the group's level or scatter is rejected (robust sigma)."""
    read_noise_tolerance: Positive = 0.15
    """Relative difference of measured and declared read noise that raises a warning."""
    model_tolerance: Positive = 0.2
    """Relative difference of the frames' variance and the noise model that raises a warning."""
    hot_sigma: Positive = 8.0
    """Pixels further than this above (below) their surroundings are hot (cold)."""


class MasterDark(_Combine):
    """Combining dark frames."""

    level_tolerance_sigma: Positive = 8.0
    """A frame further than this from the group's level or scatter is rejected (robust sigma)."""
    model_tolerance: Positive = 0.2
    """Relative difference of the frames' variance and the noise model that raises a warning."""
    scale_exposures: bool = False
    """Combine darks of different exposures to one, by a line through the bias for each pixel."""
    hot_sigma: Positive = 8.0
    """Pixels with this much more dark signal than their surroundings are hot (sigma)."""


class MasterFlat(_Combine):
    """Combining flat fields."""

    bias_first: bool = True
    """Subtract the bias from each flat; otherwise from the combined flat, as IRAF users do."""
    missing_bias: Policy = "require"
    """Without a bias: make no flat, make it and say so, or make it silently."""
    scale: Literal["median", "mode", "mean"] = "median"
    """Level that a flat is divided by before combining."""
    saturation_fraction: Fraction = 0.9
    """Flats with a level above this fraction of saturation are rejected."""
    saturated_limit: Fraction = 0.001
    """Flats with a larger saturated part of their central half are rejected."""
    minimum_level_adu: NonNegative = 1000
    """Fainter flats are rejected (ADU above the bias)."""
    twilight: Literal["auto", "yes", "no"] = "auto"
    """Flats of the twilight sky, with stars and clouds; ``auto`` tells by name or falling light."""
    star_sigma: NonNegative = 4.0
    """Threshold for stars in twilight flats, in sums of 3 and 9 pixels (sigma; 0: do not look)."""
    minimum_separation_arcsec: NonNegative = 8
    """Twilight flats that point closer to each other show their stars on the same pixels: some
    times the seeing, for wide-field lenses 150 (arcsec; 0: do not look)."""
    colocated: Literal["majority", "strict", "flag"] = "majority"
    """Of flats that point alike leave out those that give one pointing half of the frames, all
    but one, or none."""
    cloud_limit: Fraction = 0.05
    """Twilight flats whose illumination differs by more from that of the group are rejected."""
    which: Literal["all", "high", "low"] = "all"
    """Use all flats, or only those above or below ``split_level_adu``."""
    split_level_adu: NonNegative = 0
    """Border between high and low flats (ADU; 0: the geometric middle). If set, the high flats
    are the reference of the illumination."""
    common_illumination: bool = False
    """Divide each flat by its large-scale difference from the group before combining."""
    illumination_order: Annotated[int, Field(ge=0, le=5)] = 2
    """Order of the polynomial for large-scale differences."""
    low_limit: Fraction = 0.3
    """Pixels with a lower flat are masked LOW_FLAT."""
    max_relative_error: Positive = 0.03
    """Pixels with a more uncertain flat are masked LOW_FLAT."""
    nonlinear_tolerance: Fraction = 0.03
    """Pixels that differ by more between bright and faint flats are masked NONLINEAR (0: do not
    look)."""
    gain_tolerance: Positive = 0.15
    """Relative difference of measured and declared gain that raises a warning."""


class MasterHistory(_Model):
    """Comparing new masters with earlier ones."""

    pattern_sigma: Positive = 2.0
    """Pixels that differ from the master before by this many times their error, typically,
    are flagged; 1 if nothing changed."""
    changed_fraction: Fraction = 0.01
    """Largest fraction of good pixels that may differ by more than 5 sigma."""
    level_noise: Positive = 1.0
    """Largest change of the level of a bias or dark, in units of the read noise."""
    gain_tolerance: Positive = 0.05
    """Relative change of the measured gain that is flagged, if it is significant (4 sigma)."""
    noise_tolerance: Positive = 0.1
    """Relative change of the measured read noise that is flagged."""
    hot_factor: Annotated[float, Field(gt=1)] = 2.0
    """Growth of the number of hot pixels that is flagged."""
    temperature_tolerance_k: Positive = 2.0
    """Darks of temperatures closer than this are compared with each other (K)."""


class Calibrate(_Model):
    """From raw ADU to electrons with errors and mask."""

    overscan: Overscan = Overscan()
    missing_bias: Policy = "require"
    """Without a matching bias: reject the frame, go on and say so, or go on silently."""
    missing_dark: Policy = "degrade"
    """Without a matching dark (instruments that need none are not affected)."""
    missing_flat: Policy = "require"
    """Without a matching flat of the same filter."""
    dark_scale_up: bool = False
    """Also scale darks to longer exposures, and their noise with them; else such a dark counts
    as missing."""
    dark_temperature_k: Positive = 2.0
    """Largest difference of detector temperature between a frame and its dark (K); beyond it
    ``missing_dark`` decides: reject, use it and say so, or use it silently."""
    use_measured_gain: bool = False
    """Take the gain that the flats measure. The electron scale changes with it."""
    use_measured_noise: bool = False
    """Take the read noise that the bias frames measure."""
    noise_tolerance: Positive = 0.15
    """Relative difference between measured and declared gain or read noise that is flagged."""
    nonlinear_fraction: Fraction = 1.0
    """Raw values above this fraction of saturation get NONLINEAR (1: none)."""
    leak_directions: tuple[tuple[int, int], ...] = ()
    """Neighbours (dx, dy) of a saturated pixel that its charge spills into; they get BLEED."""
    compression: Literal["none", "lossless", "quantised"] = "none"
    """Store SCI and ERR as they are, compressed without loss, or rounded and compressed."""
    quantise_q: Annotated[float, Field(ge=1, le=1000)] = 16
    """Steps per median error of ``quantised``: rounding adds 1/(3.5 q) of the error."""


class UserMask(_Model):
    """A mask of the user's, for some or all frames."""

    file: str
    """FITS mask, or DS9 region file (`.reg`) in sky or pixel coordinates; relative to the
    project folder."""
    frames: tuple[str, ...] = ("*",)
    """Patterns of the frame ids that it holds for."""
    targets: tuple[str, ...] = ("*",)
    """Patterns of the names of targets that it holds for."""
    bits: str | dict[int, str | None] | None = None
    """Names of bits joined by `|`, a convention, or bit values and their names; null: as the
    header of the file tells, else USER. A value whose name is null means nothing bad."""
    hdu: int | str | None = None
    """Number or name of the extension of a FITS mask."""


class Mask(_Model):
    """Pixels not to trust."""

    cosmics: bool = True
    """Search cosmic rays."""
    engine: Literal["skymill", "astroscrappy", "astroscrappy_exact"] = "skymill"
    """Implementation of L.A.Cosmic; `astroscrappy` is faster than `astroscrappy_exact` by
    separable medians, which take sharp stars for cosmic rays; `skymill` is exact and faster."""
    sigclip: Positive = 5.0
    """Laplacian threshold for cosmic rays (sigma)."""
    sigfrac: Fraction = 0.3
    """Fraction of the threshold for neighbours of a cosmic ray."""
    objlim: Positive | None = None
    """Contrast between Laplacian and fine structure that a cosmic ray must exceed; null: by the
    sampling of the frame, 1.5 up to FWHM 1.6 px, 1 from 2.5 px on."""
    niter: Annotated[int, Field(ge=1, le=10)] = 4
    """Iterations."""
    sharp_sigma: NonNegative = 2.5
    """A cosmic ray must be so many sigma sharper than the stars of the frame; 0: L.A.Cosmic
    alone."""
    check: Literal["neighbours", "off"] = "neighbours"
    """Compare cosmic rays with the exposures before and after: what is there again is none."""
    grow_saturated_px: Annotated[int, Field(ge=0, le=50)] = 1
    """Growth of saturated regions (px)."""
    bleed: bool = True
    """Follow charge that spilt from saturated stars."""
    readout: Literal["columns", "rows"] = "columns"
    """Direction in which charge is moved, and spills."""
    trails: bool = True
    """Search trails of satellites and aircraft."""
    trail_sensitivity: Positive = 8.0
    """Excess of points on a line over its surroundings that makes it a candidate (sigma)."""
    trail_minimum_length_px: Positive = 150.0
    """Shortest trail (px)."""
    trail_minimum_length_fraction: Fraction = 0.15
    """Shortest trail, as a fraction of the diagonal of the frame."""
    trail_mask_sigma: Positive = 0.25
    """A trail is masked out to where the mean signal of its pixels falls below this (sigma)."""
    trail_maximum: Annotated[int, Field(ge=1, le=1000)] = 20
    """Largest number of trails in a frame."""
    edge_px: Annotated[int, Field(ge=0)] = 0
    """Pixels closer than this to the edge of the frame get EDGE."""
    user_masks: tuple[UserMask, ...] = ()
    """Masks and region files of the user's."""
    max_bad_fraction: Fraction = 0.5
    """More bad pixels than this flag the frame DEAD_AREA."""


class BackgroundSettings(_Model):
    """Level and scatter of the sky."""

    engine: Annotated[str, Field(pattern=BACKGROUND_ENGINE)] = "skymill"
    """Who estimates the level between the masked sources: skymill, sep, photutils, or a function
    `package.module:name`."""
    model: Literal["mesh", "constant", "polynomial"] = "mesh"
    """Mesh with a spline through it, one level, or a polynomial (engine skymill)."""
    degree: Annotated[int, Field(ge=0, le=5)] = 2
    """Total degree of the polynomial."""
    box_size_px: Annotated[int, Field(ge=8, le=4096)] = 64
    """Side of a mesh cell (px); smaller for frames of few cells."""
    filter_size: Annotated[int, Field(ge=1, le=15)] = 3
    """Side of the median filter of the mesh (cells, odd)."""
    protect_scale_px: NonNegative | None = None
    """Objects up to this width are not subtracted, however many cells they fill (px); null: half
    the shorter side of the frame; 0: whatever is larger than a cell is subtracted."""
    source_sigma: Annotated[float, Field(ge=1.5)] = 3.0
    """Groups of pixels above this many sigma (smoothed) are masked as sources; at 2 so many
    noise peaks are masked that the sky comes out 0.03 sigma too low."""
    grow_px: Annotated[int, Field(ge=0, le=100)] = 4
    """Growth of the source mask (px)."""
    grow_factor: Annotated[float, Field(ge=1, le=10)] = 1.5
    """Growth of the source mask relative to the size of the source."""
    iterations: Annotated[int, Field(ge=1, le=10)] = 2
    """Rounds of source masking."""
    correct_global_offset: bool = False
    """Add the median of what is left on the sky; for other engines: our level is a mean, and a
    median of few electrons lies below it."""
    minimum_cell_fraction: Fraction = 0.15
    """A cell with a smaller fraction of sky pixels is filled from its neighbours."""
    banding_limit: Positive = 0.3
    """A stronger pattern of rows or columns, in units of the sky noise, is flagged BANDING."""
    poor_fraction: Fraction = 0.5
    """More filled cells than this fraction flag the frame BKG_POOR."""
    noise_ratio_limit: Positive = 0.15
    """A measured scatter of the sky that differs by a larger part from its error plane flags the
    frame NOISE_RATIO."""

    @model_validator(mode="after")
    def _one_way(self) -> BackgroundSettings:
        if self.filter_size % 2 == 0:
            raise ValueError(f"filter_size must be odd, got {self.filter_size}")
        if self.engine != "skymill" and self.model != "mesh":
            raise ValueError(
                f"model {self.model} is made by the engine skymill; with engine {self.engine} "
                "leave model at mesh"
            )
        return self


class Sources(_Model):
    """Detection and measurement on single frames."""

    threshold_sigma: Positive = 4.5
    """Detection threshold (sigma of the filtered image); at 4.5 ten megapixels of noise show
    about one source."""
    minimum_area_px: Annotated[int, Field(ge=1)] = 4
    """Fewest connected pixels of a source."""
    deblend_contrast: Fraction = 0.005
    """Contrast for separating touching sources."""
    aperture_fwhm: Positive = 1.25
    """Radius of the main aperture in FWHM of the frame."""
    total_aperture_fwhm: Positive = 4.0
    """Radius of the aperture for total fluxes in FWHM of the frame."""
    minimum_stars: Annotated[int, Field(ge=0)] = 5
    """Fewer sources flag the frame FEW_STARS."""
    max_sources: Annotated[int, Field(ge=1)] = 50000
    """The brightest sources kept per frame."""
    trailed_ellipticity: Fraction = 0.4
    """A larger median ellipticity of the stars flags the frame TRAILED."""


class ReferenceFrames(_Model):
    """The best frame of each field."""

    minimum_stars: Annotated[int, Field(ge=1)] = 3
    """Fewest stars of a reference frame."""
    max_stars: Annotated[int, Field(ge=3)] = 5000
    """The brightest stars kept."""
    weight_stars: NonNegative = 1.0
    """Weight of the number of stars in the score (per factor of two)."""
    weight_seeing: NonNegative = 1.0
    """Weight of the seeing (per factor of two)."""
    weight_depth: NonNegative = 1.0
    """Weight of the faintest flux that stands out of the sky (per factor of two)."""
    weight_shape: NonNegative = 0.5
    """Weight of the ellipticity (per 0.1)."""
    tries: Annotated[int, Field(ge=1, le=100)] = 5
    """The best frames are tried in turn until the catalogue solves one, at most so many."""


class Astrometry(_Model):
    """Where the pixels are."""

    mode: Literal["auto", "align_only"] = "auto"
    """auto: the sky if it can be had; align_only: pixels of the reference frame, headers and
    catalogue are not looked at (docs/alignment.md)."""
    search_radius_px: Positive = 100
    """Largest offset between header position and stars that is searched (px)."""
    tolerance_px: Positive = 2.0
    """Distance within which two stars are the same (px)."""
    minimum_matches: Annotated[int, Field(ge=2)] = 3
    """Fewest matched stars."""
    max_rms_px: Positive = 1.0
    """A solution with larger residuals is refused (px)."""
    max_sip_order: Annotated[int, Field(ge=1, le=5)] = 3
    """Highest order of the fitted distortion; 1 is none."""
    projection: Literal["auto", "tan", "sip", "tpv"] = "auto"
    """Projection of solutions by the catalogue; auto keeps that of the header."""
    max_scale_error: Annotated[float, Field(ge=0, le=0.3)] = 0.05
    """Largest relative error of the header's pixel scale."""
    max_false_matches: Annotated[float, Field(gt=0, le=0.1)] = 1e-3
    """A match as good as chance gives this many times is refused."""
    mirrored: bool = True
    """Try mirror images, too."""
    catalog_error_arcsec: Positive = 0.2
    """Position error of catalogue stars per axis (arcsec)."""
    max_mag_scatter: Positive = 1.0
    """A match whose magnitudes scatter more is refused (mag)."""
    independent_matches: Annotated[int, Field(ge=2)] = 20
    """With fewer catalogue stars a frame is aligned to its reference frame instead."""
    pixel_scale_arcsec: Positive | None = None
    """Pixel scale of frames without world coordinates, to start from their pointing (arcsec)."""
    blind: str = "auto"
    """Blind solver of astrometry.net: auto (if solve-field is installed), never, or its path."""
    blind_time_limit_s: Positive = 60
    """CPU time of a blind solution (s)."""
    transform: Literal["affine", "translation"] = "affine"
    """What may lie between a frame and its reference frame."""
    max_rotation_deg: Annotated[float, Field(ge=0, le=180)] | None = None
    """Largest rotation against the reference frame, to either side (degree); none by default."""
    max_scale_ratio: Annotated[float, Field(ge=1)] | None = None
    """The scale against the reference frame lies between 1/this and this; no limit by default."""
    max_translation_px: NonNegative | tuple[NonNegative, NonNegative] | None = None
    """Largest shift of the middle against the reference frame: one number, or x and y (px)."""
    few_stars: bool = True
    """Align frames of one to three stars by a shift."""
    max_false_few: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Such a shift is refused if chance gives this many as good."""


class Photcal(_Model):
    """How bright."""

    bands: dict[str, str] = Field(default_factory=dict)
    """Filter to catalogue band, where the names differ: ``{Clear: r}``."""
    minimum_stars: Annotated[int, Field(ge=1)] = 3
    """Fewest stars of a zero point."""
    clip_sigma: Positive = 4.0
    """Stars further than this from the zero point are rejected."""
    floor_mag: NonNegative = 0.01
    """Systematic floor of the zero point, quoted apart (mag)."""
    catalog_error_mag: NonNegative = 0.01
    """Error of catalogue stars that come without one (mag)."""
    cloudy_throughput: Fraction = 0.7
    """Frames with less throughput than this are flagged CLOUDY."""
    depth_apertures: Annotated[int, Field(ge=50)] = 1000
    """Random empty apertures for the depth."""
    expected_scatter_mag: NonNegative = 0.03
    """Scatter expected of good stars beyond their errors; counts as four more stars (mag)."""
    minimum_snr: Positive = 20.0
    """Fainter stars are not compared."""
    match_radius_arcsec: Positive = 2.0
    """Distance within which a star is that of the catalogue (arcsec)."""
    match_radius_px: Positive = 2.0
    """Distance within which a star is that of the reference frame (px)."""
    injections: Annotated[int, Field(ge=0)] = 0
    """Stars planted into each frame to see how many are found again; 0: none. 500 tell the limit
    to 0.05 mag and cost as much as the detection."""
    fit_colour: bool = True
    """Fit a colour term where the catalogue has two bands and the stars can tell one."""
    colours: dict[str, tuple[str, str]] = Field(default_factory=dict)
    """Filter to the two bands of its colour, where they are not the usual ones: ``{V: [B, V]}``."""
    colour_terms: dict[str, float] = Field(default_factory=dict)
    """Filter to a known colour term (mag per mag), which is then not fitted."""
    spatial_order: Annotated[int, Field(ge=0, le=4)] = 0
    """Order of the polynomial of the zero point in position; 0: none."""
    contamination: Fraction = 0.02
    """Stars with a brighter neighbour (fraction of their flux) within the large aperture are
    not compared."""


class GivenGrid(_Model):
    """A pixel grid that is given; automatic if nothing is."""

    center_deg: tuple[float, float] | None = None
    """Right ascension and declination of the middle of the grid (degree)."""
    size_px: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Columns and rows of the grid."""
    scale_arcsec: Positive | None = None
    """Pixel scale; by default `pixel_scale_arcsec`, or the median of the frames."""
    rotation_deg: Annotated[float, Field(ge=-360, le=360)] = 0.0
    """Position angle of the y axis, from north to the east (degree)."""
    file: str | None = None
    """FITS file or text file of header cards whose grid is taken, in the project folder."""

    @model_validator(mode="after")
    def _complete(self) -> GivenGrid:
        free = (self.center_deg, self.scale_arcsec, self.rotation_deg or None)
        if self.file is not None:
            if free != (None, None, None):
                raise ValueError("a grid is given by a file, or by centre, size and scale")
        elif self.center_deg is not None:
            if self.size_px is None:
                raise ValueError("a grid with a centre needs its size_px")
            if not -90 <= self.center_deg[1] <= 90:
                raise ValueError("center_deg is (right ascension, declination) in degree")
        elif (self.size_px, *free) != (None, None, None, None):
            raise ValueError("a given grid needs center_deg or file")
        return self

    @property
    def given(self) -> dict[str, Any] | None:
        """The grid as plain values; None if it is automatic."""
        if self.file is None and self.center_deg is None:
            return None
        keys = ("center_deg", "size_px", "scale_arcsec", "rotation_deg", "file")
        return self.model_dump(mode="json", include=set(keys))


class StackGrid(GivenGrid):
    """The grid of stacks: automatic, or given for all fields or for some."""

    fields: dict[str, GivenGrid] = {}
    """Grids of single fields: name of the field or of its target to grid; an empty one is
    automatic."""

    def of(self, *names: str) -> dict[str, Any] | None:
        """Return the grid of a field by any of its names, the first one first."""
        for name in names:
            if name in self.fields:
                return self.fields[name].given
        return self.given

    @property
    def files(self) -> list[str]:
        """Files that are named."""
        grids = (self, *self.fields.values())
        return sorted({grid.file for grid in grids if grid.file is not None})


class StackSelection(_Model):
    """Which frames of a field and filter are good enough to be stacked."""

    max_fwhm_px: Positive | None = None
    """Frames with a larger FWHM are left out (px)."""
    max_fwhm_arcsec: Positive | None = None
    """Likewise in arcsec."""
    minimum_depth_mag: float | None = None
    """Frames with a brighter 5-sigma limit are left out (mag)."""
    max_depth_loss_mag: Positive | None = None
    """Frames that much shallower than the median frame are left out (mag)."""
    max_sky_e_s: Positive | None = None
    """Frames with a brighter background are left out (electron/s)."""
    max_sky_ratio: Positive | None = None
    """Frames with a background above this multiple of the median are left out."""
    max_ellipticity: Annotated[float, Field(gt=0, le=1)] | None = None
    """Frames with more elongated stars (1 - b/a) are left out."""
    best_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the best of the frames that pass the limits, by the score of docs/grids.md."""
    unknown: Literal["keep", "reject"] = "keep"
    """What to do with a frame of which a figure that a limit needs is not known."""


class Stack(_Model):
    """All frames of a field and filter on one grid."""

    grid: StackGrid = StackGrid()
    select: StackSelection = StackSelection()

    enabled: bool = True
    """Make stacks."""
    engine: Literal["skymill", "reproject", "swarp"] = "skymill"
    """Resampling engine."""
    kernel: str = "lanczos3"
    """Resampling kernel, see docs/engines.md; empty for the first one of the engine."""
    convention: Literal["flux", "surface_brightness"] = "flux"
    """What resampling keeps when the pixel area changes."""
    combine: Literal["clipped", "weighted", "median", "mean", "sum"] = "clipped"
    """Clipped weighted mean, weighted mean, median, plain mean, or sum."""
    clip_sigma: Positive = 4.5
    """Rejection threshold in sigma of the noise model."""
    structure_tolerance: NonNegative = 0.03
    """Tolerance beside the noise, as a fraction of the local structure."""
    seeing_tolerance: NonNegative = 0.3
    """More of it for a frame whose stars are sharper or wider than usual, times the relative
    change of their peak; unknown seeing counts as a change of one."""
    grow_sigma: Positive = 2.5
    """Rejection threshold beside a rejected pixel (sigma)."""
    weights: Literal["depth", "depth_seeing"] = "depth_seeing"
    """Weights: inverse variance, or also by seeing."""
    seeing_exponent: NonNegative = 1.0
    """Weights are multiplied by FWHM to the minus this power."""
    match_background: Literal["off", "offset", "plane"] = "off"
    """Match the levels of overlapping frames: one offset, or a plane, per frame."""
    maps: tuple[Literal["exposure", "depth", "seeing"], ...] = ()
    """Further planes of the stack."""
    noise_check: Annotated[int, Field(ge=0, le=20)] = 0
    """Realisations of white noise that check the errors of the stack; 0 for none."""
    pixel_scale_arcsec: Positive | None = None
    """Pixel scale of the grid; by default that of the frames."""
    orientation: Literal["frame", "north"] = "frame"
    """Axes of the grid along those of the reference frame, or north up."""
    max_mpix: Positive = 400
    """Largest grid (megapixels)."""
    max_fwhm_ratio: Positive = 3.0
    """Frames with a FWHM above this multiple of the median are left out."""
    minimum_throughput: Fraction = 0.1
    """Frames with less throughput are left out."""
    max_clipped_fraction: Fraction = 0.01
    """Frames of which more pixels are clipped are flagged CLIPPED_MUCH."""
    memory_mb: Positive = 1000
    """Memory for resampled frames (MB)."""

    @model_validator(mode="after")
    def _known_kernel(self) -> Stack:
        from skymill.engines import ENGINES

        if self.kernel and self.kernel not in ENGINES[self.engine]:
            raise ValueError(
                f"stack.kernel = {self.kernel}, engine {self.engine} has "
                f"{', '.join(ENGINES[self.engine])}"
            )
        return self


class Catalog(_Model):
    """Sources of a stack."""

    threshold_sigma: Positive = 5.0
    """Detection threshold (true sigma)."""
    minimum_area_px: Annotated[int, Field(ge=1)] = 4
    """Fewest connected pixels of a source."""
    deblend_contrast: Fraction = 0.005
    """Contrast for separating touching sources."""
    max_sources: Annotated[int, Field(ge=1)] = 100000
    """The brightest sources kept."""
    aperture_fwhm: Positive = 1.25
    """Radius of the main aperture in FWHM of the stack."""
    total_aperture_fwhm: Positive = 4.0
    """Radius of the aperture for total fluxes in FWHM of the stack."""
    box_size_px: Annotated[int, Field(ge=8, le=4096)] = 64
    """Mesh of the residual background (px)."""
    source_sigma: Positive = 3.0
    """Pixels above this many true sigma are masked as sources in the background."""


class Photometry(_Model):
    """Forced photometry on the frames, which are not resampled."""

    apertures_fwhm: tuple[Positive, ...] = (0.75, 1.5, 2.5)
    """Radii in FWHM of the frame; the main one is chosen by ``main_aperture``."""
    main_aperture: Annotated[int, Field(ge=0)] = 1
    """Index of the main aperture."""
    annulus_fwhm: tuple[Positive, Positive] = (4.0, 7.0)
    """Inner and outer radius of the background annulus in FWHM."""
    background: Literal["annulus", "mesh"] = "annulus"
    """Local or mesh background."""
    sky_estimator: Literal["mean", "median", "mode"] = "mean"
    """Level of the annulus, of its clipped pixels."""
    masked: Literal["replace", "exclude", "flag"] = "replace"
    """Masked pixels: replaced by those opposite the centre, left out, or used; always flagged."""
    methods: tuple[Literal["aperture", "optimal", "psf"], ...] = ("aperture",)
    """Fluxes besides those of the apertures: optimal weights, PSF fit (total fluxes)."""
    psf_degree: Annotated[int, Field(ge=0, le=2)] | None = None
    """Degree of the polynomial of the PSF over the frame; by default what the stars allow."""
    positions: str | None = None
    """Table of further positions: `ra`, `dec` or `x`, `y` (px of the grid), `mjd` if it moves."""
    telescope_diameter_m: Positive | None = None
    """Adds scintillation to the errors, with the height of the site (m)."""

    @model_validator(mode="after")
    def _ordered(self) -> Photometry:
        if self.main_aperture >= len(self.apertures_fwhm):
            raise ValueError(
                f"main_aperture = {self.main_aperture} but there are only "
                f"{len(self.apertures_fwhm)} apertures (the first is 0)"
            )
        if self.annulus_fwhm[0] >= self.annulus_fwhm[1]:
            raise ValueError("annulus_fwhm must be (inner, outer) with inner < outer")
        return self


class Transit(_Model):
    """A transit, an eclipse or a flare."""

    t0: float
    """Middle (BJD_TDB)."""
    duration_h: Positive
    """From first to last contact (h)."""
    period_d: Positive | None = None
    """Period (d); without one a single event."""
    ingress_h: NonNegative = 0.0
    """Length of ingress and of egress (h)."""
    fit: bool = False
    """Fit a trapezoid together with the trends, in place of leaving the window out."""

    @model_validator(mode="after")
    def _possible(self) -> Transit:
        from skymill.curves.transit import Transit as Event

        Event(**self.model_dump())
        return self


class Lightcurves(_Model):
    """Light curves of a field."""

    minimum_snr: Positive = 30
    """Comparison stars are at least this bright on the median frame."""
    max_comparisons: Annotated[int, Field(ge=1)] = 300
    """Most comparison stars."""
    minimum_epochs: Annotated[int, Field(ge=1)] = 3
    """Fewer frames make no light curve."""
    reject_chi2: Positive = 4.0
    """Comparison stars with a larger reduced chi-square are dropped."""
    match_radius_px: Positive = 2.0
    """Sources of two filters closer than this are one (px of the grid)."""
    targets: tuple[str, ...] = ()
    """Stars under study, by name, number or ``"ra,dec"`` in degrees: never comparison stars."""
    comparisons: tuple[str, ...] = ()
    """Chosen comparison stars; with them ``diff_flux`` is given beside the ensemble."""
    magnitude_fit: bool = False
    """Fit the magnitudes of every frame to a reference made of all frames (``mag_fit``)."""
    magnitude_terms: str = "O3{mag,x,y}"
    """Terms of the magnitude fit, in mag, x, y, colour."""
    magnitude_max_error: Positive = 0.02
    """Fainter measurements (mag) are corrected, but tell nothing: neighbours and seeing shift
    them by more than their errors."""
    detrend: Literal["none", "epd", "tfa", "both"] = "none"
    """Decorrelation from external parameters (``mag_epd``), trend filter (``mag_tfa``)."""
    epd_terms: str = "O3{airmass}"
    """Terms of the decorrelation, in airmass, fwhm, sky, time, x, y, sin_x, cos_x, sin_y, cos_y."""
    tfa_grid: Annotated[int, Field(ge=1)] = 8
    """Templates along each side of the field; fewer where there are few frames."""
    tfa_neighbour_px: NonNegative = 20.0
    """Templates closer to a star than this are left out of its own (px of the grid)."""
    transit: Transit | None = None
    """A transit of the targets (or of all) that detrending must spare: ``t0`` (BJD_TDB),
    ``duration_h``, ``period_d``, ``ingress_h``, ``fit`` (a trapezoid along with the trends)."""

    @model_validator(mode="after")
    def _readable(self) -> Lightcurves:
        from skymill.curves.epd import EPD_VARIABLES
        from skymill.curves.magnitude_fit import VARIABLES
        from skymill.curves.terms import parse_terms

        parse_terms(self.magnitude_terms, known=VARIABLES)
        parse_terms(self.epd_terms, known=EPD_VARIABLES)
        return self


class Movers(_Model):
    """Objects that move across a field."""

    enabled: bool = True
    """Look for moving objects."""
    max_rate_px_h: Positive = 150.0
    """Fastest motion (px per hour on the grid of the field)."""
    tolerance_px: Positive = 1.2
    """Largest distance of a detection from the motion (px)."""
    minimum_motion_px: Positive = 4.0
    """Motion from the first to the last detection that tells an object from a star (px)."""
    minimum_detections: Annotated[int, Field(ge=4)] = 5
    """Fewest detections of an object."""
    minimum_fraction: Fraction = 0.4
    """Fewest detections as a fraction of the frames that show the place."""
    max_false: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Objects that chance makes more often than this are not believed."""


class Report(_Model):
    """The HTML report."""

    title: str = "skymill reduction"
    """Title of the page."""
    max_lightcurves: Annotated[int, Field(ge=0)] = 60
    """Most light curves drawn."""


class ReferenceCatalog(_Model):
    """The reference catalogue: a local file, or one that is fetched when asked for."""

    file: str | None = None
    """Local file: CSV, ECSV, FITS, VOTable or Parquet."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column by meaning, where names are not recognised: ra, ra_hours, dec, name, pmra (with
    cos(dec)), pmra_coordinate (without), pmdec, epoch, a band or its error (e_V)."""
    catalog: Literal["gaia", "ps1", "sdss", "2mass", "apass", "tycho2", "refcat2"] | None = None
    """Catalogue to fetch, in place of a file."""
    faintest_mag: float | None = None
    """Stars fainter than this in the main band of the catalogue are not asked for (mag)."""
    max_stars: Annotated[int, Field(ge=100)] = 50000
    """The brightest stars of a field that are kept of a fetched catalogue."""
    radius_deg: Annotated[float, Field(gt=0, le=10)] = 0.5
    """Radius around the pointing where the size of the frames on the sky is not known (deg)."""
    margin: Annotated[float, Field(ge=0, le=5)] = 0.25
    """Wider than the frames by this part of their radius, for wrong pointings."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """A server that cannot be reached is asked so often."""
    timeout_s: Positive = 120
    """Longest wait for an answer (s)."""
    policy: Literal["require", "degrade"] = "require"
    """A server that cannot be reached stops the job, or the field goes on without catalogue."""

    @model_validator(mode="after")
    def _one(self) -> ReferenceCatalog:
        if (self.file is None) == (self.catalog is None):
            raise ValueError("expected either file (a local catalogue) or catalog (one to fetch)")
        if self.catalog is not None and self.columns:
            raise ValueError("columns belong to a local file; those of fetched ones are known")
        return self


def _reference(value: Any) -> Any:
    """Let a bare path stand for the local file."""
    return {"file": value} if isinstance(value, str) else value


class Settings(_Model):
    """All settings of a reduction."""

    raw: str
    """Folder of the raw files, relative to the project folder or absolute. Read only."""
    instrument: str | None = None
    """Instrument file by name or path; by default chosen for each file by its header."""
    reference: Annotated[
        ReferenceCatalog | None,
        BeforeValidator(_reference, json_schema_input_type=str | ReferenceCatalog | None),
    ] = None
    """Reference catalogue with positions and magnitudes: path of a local file, or a mapping
    with its column map or with the catalogue to fetch (docs/catalogs.md)."""

    ingest: Ingest = Ingest()
    plan: Plan = Plan()
    master_bias: MasterBias = MasterBias()
    master_dark: MasterDark = MasterDark()
    master_flat: MasterFlat = MasterFlat()
    master_history: MasterHistory = MasterHistory()
    calibrate: Calibrate = Calibrate()
    mask: Mask = Mask()
    background: BackgroundSettings = BackgroundSettings()
    sources: Sources = Sources()
    reference_frames: ReferenceFrames = ReferenceFrames()
    astrometry: Astrometry = Astrometry()
    photcal: Photcal = Photcal()
    stack: Stack = Stack()
    catalog: Catalog = Catalog()
    photometry: Photometry = Photometry()
    lightcurves: Lightcurves = Lightcurves()
    movers: Movers = Movers()
    report: Report = Report()

    def reduction(self) -> dict[str, Any]:
        """Return what the products depend on: all but where the inputs lie."""
        return self.model_dump(mode="json", exclude={"raw", "reference"})


#: Order of the steps, and the one word each has everywhere.
STEPS: tuple[str, ...] = tuple(
    name for name in Settings.model_fields if name not in ("raw", "instrument", "reference")
)


def validate_settings(tree: Mapping[str, Any]) -> Settings:
    """Check a configuration tree.

    Parameters
    ----------
    tree : mapping
        The parsed configuration.

    Returns
    -------
    Settings

    Raises
    ------
    ConfigError
        One line per mistake: the key, what was found, what is allowed, the nearest
        known key for a misspelt one.
    """
    try:
        return Settings.model_validate(dict(tree))
    except ValidationError as error:
        lines = [_explain(dict(item)) for item in error.errors()]
        raise ConfigError("config: " + "; ".join(lines)) from None


def check_paths(settings: Settings, folder: Path) -> None:
    """Check that the files the settings name are there.

    Parameters
    ----------
    settings : Settings
        The settings.
    folder : Path
        The project folder, which relative paths start from.

    Raises
    ------
    ConfigError
        If the reference catalogue, a user's mask or the raw folder is missing. A raw file
        that is gone is an outcome; a folder that is gone is a disk that is not mounted.
    """
    if not (folder / settings.raw).is_dir():
        raise ConfigError(
            f"config: raw = {settings.raw!r} is not a folder (looked at {folder / settings.raw}); "
            "correct it, or mount the disk"
        )
    chosen = settings.reference
    if chosen is not None and chosen.file and not (folder / chosen.file).is_file():
        raise ConfigError(
            f"config: reference = {chosen.file!r} is not a file; correct it, or set it to "
            "null for positions and fluxes relative to the best frame"
        )
    if chosen is not None and chosen.catalog:
        check_client(chosen.catalog, folder)
    listed = settings.photometry.positions
    if listed is not None and not (folder / listed).is_file():
        raise ConfigError(
            f"config: photometry.positions = {listed!r} is no file; correct it, or set it to null"
        )
    for file in settings.stack.grid.files:
        if not (folder / file).is_file():
            raise ConfigError(
                f"config: stack.grid names {file!r}, which is not a file (looked at "
                f"{folder / file})"
            )
    for given in settings.mask.user_masks:
        if not (folder / given.file).is_file():
            raise ConfigError(
                f"config: mask.user_masks names {given.file!r}, which is not a file (looked at "
                f"{folder / given.file})"
            )


def _explain(error: dict[str, Any]) -> str:
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        model: Any = Settings
        for part in path[:-1]:
            model = _model_at(model, part)
        near = difflib.get_close_matches(path[-1], model.model_fields, 1)
        known = ", ".join(model.model_fields)
        hint = f", did you mean {near[0]!r}?" if near else f", known: {known}"
        return f"{key} is not a setting{hint}"
    if error["type"] == "missing":
        return f"{key} is missing (see config/README.md)"
    return f"{key} = {error['input']!r}: {error['msg']}"


def _model_at(model: Any, part: str) -> Any:
    """Return the model of a key; of an entry of a mapping or list that of its values."""
    fields = getattr(model, "model_fields", {})
    if part not in fields:
        return model
    kinds = [fields[part].annotation]
    while kinds:
        kind = kinds.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        kinds += get_args(kind)
    return model


def load_settings(path: str | Path) -> Settings:
    """Read and check a YAML configuration file.

    Raises
    ------
    ConfigError
        If the file is missing, is not YAML or does not validate.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        _check_duplicates(yaml.compose(text), "")
        tree = yaml.safe_load(text)
    except FileNotFoundError:
        raise ConfigError(
            f"config: {path} does not exist; `skymill init DIR --raw PATH` makes a project folder"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config: {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, Mapping):
        found = type(tree).__name__
        raise ConfigError(f"config: {path} must hold `key: value` lines, found {found}")
    return validate_settings(tree)


def _check_duplicates(node: Any, where: str) -> None:
    """Refuse a key that is written twice: YAML would drop the first without a word."""
    seen: set[str] = set()
    for key, value in node.value if hasattr(node, "flow_style") and node.id == "mapping" else ():
        name = f"{where}{key.value}"
        if name in seen:
            line = key.start_mark.line + 1
            raise ConfigError(f"config: {name} is written twice (again in line {line}); join them")
        seen.add(name)
        _check_duplicates(value, f"{name}.")


_CONFIG_HEAD = """\
# yaml-language-server: $schema=schema.json
# Settings of this reduction. Everything that is not written here has the default of
# docs/settings.md; a misspelt key is an error before any job starts.

# Folder of the raw files (never written to).
raw: {raw}
# Instrument file by name or path; null: chosen for each file by its header.
instrument: {instrument}
# Local reference catalogue (CSV, ECSV, FITS, Parquet), or a mapping such as catalog: gaia to
# fetch one; null: positions and fluxes are relative to the best frame of each field.
reference: {reference}

# Examples of what can be set, with the defaults:
"""

#: Settings shown in the short default file, as (step, field).
_SHOWN = (
    ("calibrate", "missing_dark"),
    ("calibrate", "missing_flat"),
    ("mask", "sigclip"),
    ("background", "box_size_px"),
    ("sources", "threshold_sigma"),
    ("photcal", "bands"),
    ("stack", "clip_sigma"),
    ("photometry", "apertures_fwhm"),
)


def default_config_text(
    raw: str = "raw", instrument: str | None = None, reference: str | None = None
) -> str:
    """Return the commented configuration file of a new project."""
    text = _CONFIG_HEAD.format(
        raw=json.dumps(raw), instrument=json.dumps(instrument), reference=json.dumps(reference)
    )
    step = ""
    for name, key in _SHOWN:
        model: Any = Settings.model_fields[name].annotation
        info = model.model_fields[key]
        if name != step:
            text += f"# {name}:\n"
            step = name
        default = getattr(model(), key)
        value = json.dumps(list(default) if isinstance(default, tuple) else default)
        text += f"#   {key}: {value}  # {' '.join((info.description or '').split())}\n"
    return text


def schema_text() -> str:
    """Return the JSON schema of the configuration file."""
    return json.dumps(Settings.model_json_schema(), indent=2, sort_keys=True) + "\n"


def settings_tables() -> str:
    """Return docs/settings.md: every setting, its default and its meaning."""
    lines = [
        "# Settings",
        "",
        "Generated from `skymill/settings.py` by `python -m skymill.settings`; do not edit.",
    ]
    for name in STEPS:
        model: Any = Settings.model_fields[name].annotation
        lines += ["", f"## {name}", "", (model.__doc__ or "").strip().splitlines()[0], ""]
        lines += settings_table(name)
    return "\n".join(lines) + "\n"


def settings_table(step: str) -> list[str]:
    """Return the settings of one step as the lines of a Markdown table."""
    model: Any = Settings.model_fields[step].annotation
    return ["| key | default | meaning |", "|---|---|---|", *_rows(model, "")]


def with_table(page: str, step: str) -> str:
    """Return a page of documentation with the table of a step between its two marks."""
    begin, end = f"<!-- settings: {step} -->", "<!-- end of settings -->"
    before, found, after = page.partition(begin)
    if not found:
        return page
    after = after.partition(end)[2] if end in after else after
    table = "\n".join(settings_table(step))
    return f"{before}{begin}\n\n{table}\n\n{end}\n\n{after.lstrip()}".rstrip() + "\n"


def _rows(model: type[BaseModel], prefix: str) -> list[str]:
    rows = []
    for key, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            rows += _rows(kind, f"{prefix}{key}.")
            continue
        default = info.get_default(call_default_factory=True)  # type: ignore[call-arg]
        value = json.dumps(list(default) if isinstance(default, tuple) else default)
        meaning = " ".join((info.description or "").split())
        rows.append(f"| `{prefix}{key}` | `{value}` | {meaning} |")
    return rows


def generated_files(root: Path) -> dict[str, str]:
    """Return what is generated from the models: path in the repository to content."""
    files = {
        "config/config.yaml": default_config_text(),
        "config/schema.json": schema_text(),
        "docs/settings.md": settings_tables(),
    }
    for step in STEPS:
        page = root / "docs" / f"{step}.md"
        if page.is_file():
            files[f"docs/{step}.md"] = with_table(page.read_text(encoding="utf-8"), step)
    return files


if __name__ == "__main__":
    for where, content in generated_files(Path()).items():
        Path(where).write_text(content, encoding="utf-8")
