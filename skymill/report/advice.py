"""What to do about each reason code, in one sentence."""

from __future__ import annotations

__all__ = ["ADVICE", "SERIOUS", "advice"]

#: What to do, by reason code.
ADVICE: dict[str, str] = {}

_ELSE = "Run `skymill explain FILE` for the whole story of a frame."


def advice(codes: str) -> str:
    """Return what to do about one reason code or several joined by ``;``."""
    known = dict.fromkeys(ADVICE[code] for code in codes.split(";") if code in ADVICE)
    return " ".join(known) or _ELSE


def _advise(text: str) -> None:
    # A line that begins with blanks continues the one before.
    for line in text.strip().replace("\n  ", " ").splitlines():
        codes, _, sentence = line.partition(": ")
        for code in codes.split():
            ADVICE[code] = sentence.strip()


# File structure
_advise("""
EMPTY HEADER_TRUNCATED NO_END TRUNCATED TRUNCATED_GZ: Copy the file again from the camera or the
  archive; if the original is damaged too, exclude it.
PADDING TRAILING: Nothing needs doing; the image itself is complete.
NOT_FITS NOT_STANDARD ARCHIVE UNSUPPORTED: Convert or unpack the file to FITS, or leave it out
  of the raw folder.
ZERO_SIZE BAD_STRUCTURE NO_IMAGE BAD_SHAPE: Look at the file with the program that wrote it;
  exclude it if it holds no exposure.
AMBIGUOUS_HDU: Say in the instrument file which extension holds the image.
INHERIT SQUEEZED COMPRESSED NAME_MISMATCH: Nothing needs doing; it was understood and is noted
  in the sheet.
RGB_CUBE: Use the raw exposure of the camera, not a developed picture.
CUBE MOSAIC_CFA: Describe in the instrument file how the planes or colours are to be split.
QUANTISED: Use the uncompressed original if faint light matters; lossy compression adds noise.
CHECKSUM: Compare with the archive; if the file is the one you want, set `ingest.checksum:
  flag`.
DOUBLE_COMPRESSED: Unpack the file once and put it back.
TOO_LARGE: Raise `ingest.max_file_mb` if the file is a real frame.
HEADER_LARGE: Check whether a program has appended its log to the header.
GROWING CLOCK_SKEW: Wait until the camera has finished writing, then ingest again.
""")
# Header values and times
_advise("""
SUSPECT_BZERO WRAP: Write the file again with BZERO = 32768, or use the camera's original.
BLANK_FIXED BAD_BLANK DATE_PLUS_TIME DATE_FORMAT TIME_ROLLOVER DECIMAL_COMMA STRING_NUMBER
  NON_ASCII BAD_CARD: Nothing needs doing if the value in the sheet is right; else correct it in
  `config/overrides.yaml`.
DUPLICATE_KEY CONFLICT UNIT: Check the value in the sheet; correct it in `config/overrides.yaml`
  if the wrong one was taken.
BAD_EXPTIME MISSING_EXPTIME: Give the exposure time in `config/overrides.yaml`.
MISSING_FILTER FILTER_INDEX: Give the filter in `config/overrides.yaml` or the list of the wheel
  in the instrument file.
MISSING_TIME NO_TIME BAD_TIME CLOCK: Give the time of observation in `config/overrides.yaml`;
  without it there is no light curve.
BIAS_EXPOSURE DARK_EXPOSURE: Correct the kind of the frame in `config/overrides.yaml`, or take
  darks of the exposure of the light frames.
DUPLICATE_TIME: Check whether one of the two is a copy, and exclude it.
NO_SITE NO_BJD: Give the place of the telescope in the instrument file.
""")
# World coordinates
_advise("""
WCS_MIXED SIP_CTYPE PV_ON_TAN PV_DROPPED SEXAGESIMAL WCS_STRINGS FRAME: Nothing needs doing if
  the frame was solved; compare a star with a chart if in doubt.
NO_WCS WCS_RELATIVE: Give a reference catalogue (`reference:`) to tie positions to the sky.
WCS_UNVERIFIED: Give a reference catalogue (`reference:`), or compare a star with a chart: the
  position is that of the header.
WCS_POINTING WCS_SCALE WCS_OUTLIER: Check the pixel scale and the pointing in the instrument
  file; the cards of the header are wrong.
""")
# Kind and instrument
_advise("""
KIND_UNKNOWN NOT_SCIENCE: Say what the frame is in `config/overrides.yaml`, or leave it out.
KIND_SUSPECT: Look at the frame with `skymill show`; correct its kind in `config/overrides.yaml`
  or exclude it.
IS_MASTER ALREADY_CALIBRATED: Use the raw frames; products of other programs do not belong in
  the raw folder.
NO_PROFILE: Write an instrument file, or name one with `instrument:`.
GAIN_SUSPECT NO_GAIN: Put the measured gain into the instrument file; until then errors and zero
  points in electrons are wrong by the same factor.
READ_NOISE_SUSPECT NO_READ_NOISE: Put the measured read noise into the instrument file; until
  then errors of faint sources are wrong.
TEMP_UNSTABLE DARK_TEMP: Take darks at the temperature of the light frames, or widen
  `plan.match.temperature_tolerance_k`.
BINNING_CONFLICT BAD_SECTION: Correct the sections or the binning in the instrument file.
SHIFTED_BITS: Check the camera driver; values are multiplied, and the gain may be too.
""")
# Pixels
_advise("""
ALL_NAN CONSTANT ALL_MASKED DEAD_AREA NO_DATA: Look at the frame with `skymill show`; exclude it
  if the camera or the read-out failed.
SATURATION_GUESSED: Give the saturation level in the instrument file.
NO_SKY: Check shutter and dome; exclude the frame.
FLAT_SATURATED: Take flats with half the light; correct the saturation level if it is wrong.
FLAT_FAINT: Take brighter flats; lower `master_flat.minimum_level_adu` only if there are no
  others.
FLAT_CLOUDY: Take flats of a clear sky; raise `master_flat.cloud_limit` if the illumination
  really changes between flats.
FLAT_COLOCATED: Move the telescope by some arcminutes between twilight flats, so that stars fall
  on other pixels.
FLAT_LEVEL: Nothing needs doing; see `master_flat.which`.
FLAT_GRADIENT FLAT_PEDESTAL: Compare with flats of another night; check for stray light and for
  a missing bias.
BIAS_JUMP BANDING BAD_LEVEL: Look at the frame beside its neighbours; the electronics or the
  light may have changed.
TRAILED POOR_SEEING: Check tracking and focus; nothing can bring the sharpness back. Widen the
  limit if the frame is still useful.
SHALLOW ELONGATED NOT_BEST: Widen the limits of `stack.select` if the frame is still useful.
UNKNOWN_QUALITY: Look why the figure is not known (a zero point, stars to measure the seeing);
  `stack.select.unknown` says whether such frames are stacked.
NO_TARGET: Give a position in degrees (`"ra,dec"`) in `lightcurves.targets` and
  `lightcurves.comparisons`, or the number of the source in `results/lightcurves/sources/`.
NO_STARS FEW_STARS: Look at the frame: clouds, a closed dome, or a threshold
  (`sources.threshold_sigma`) too high.
CLOUDY SKY_BRIGHT: Nothing can bring the light back; relax the limit if depth matters more than
  uniformity.
MODEL_NOISE: Check gain and read noise in the instrument file against the figures of the masters;
  errors follow the measured scatter where frames allow.
COSMIC_OFF: Check the noise of the frame; cosmic rays remain in it and are removed only by the
  stack.
""")
# Identity, files and environment
_advise("""
DUPLICATE DUPLICATE_PIXELS: Nothing needs doing; the other copy is used. Remove the one that is
  not wanted.
TOO_MANY_GROUPS: Check the headers for a value that changes with every frame, or raise
  `plan.max_groups`.
FILTER_MISMATCH: Check the filter of the header (overrides can set it) and `photcal.bands`.
TOO_MANY_PAIRS: Lower `movers.max_rate_px_h`, or raise `sources.threshold_sigma`.
UNREADABLE UNREADABLE_DIR BAD_LINK NOT_A_FILE BAD_NAME: Check permissions, links and names in
  the raw folder.
VANISHED CHANGED: Put the file back as it was, or run `skymill ingest --update`.
TOOL_MISSING TOOL_FAILED: Look into the log of the job; install the program or choose another
  engine.
CATALOG_UNREACHABLE: Run `skymill catalog fetch` on a machine with a network, then run the step
  `reference_frames` again.
CATALOG_EMPTY: Check the pointing, and whether the catalogue covers this part of the sky and
  these magnitudes; another one can be named in `reference:`.
BUG_OUTPUT: This is a defect of skymill: please report it with the log of the job.
EXCLUDED: Remove the rule from `config/overrides.yaml` if the frame is wanted after all.
OVERRIDE_UNUSED: Correct the pattern in `config/overrides.yaml`, or delete it.
""")
# Calibration and run-time science
_advise("""
NO_BIAS NO_DARK NO_FLAT: Add matching calibration frames, widen `plan.match.window_nights`, or
  set the policy in `calibrate` to `degrade`.
TOO_FEW: Take more frames, or lower the minimum of the step.
WRONG_SIZE: Take calibration frames in the read-out mode of the light frames.
DARK_SCALED_UP: Take darks at least as long as the exposure.
MASTER_FAILED FLATS_REJECTED: Look at the reasons of its calibration frames in this page;
  replace them and run again.
UNUSED_CALIBRATION: Nothing needs doing; it is used as soon as a light frame needs it.
MASTER_CHANGED: Compare the two masters; do not use one for the nights of the other
  (`plan.match.window_nights`).
GAIN_DRIFT NOISE_DRIFT: Check gain setting, temperature and electronics; give the instrument file
  the figures of each period.
HOT_PIXELS: Check the detector temperature; take new darks more often.
NO_FRAMES: Look at the reasons of the single frames in this page.
NO_OVERLAP: Check the pointing; the frame may belong to another field.
REGISTRATION REGISTRATION_POOR NO_MATCH: Check that the frame shows this field; raise
  `astrometry.search_radius_px` if the pointing jumped.
NO_REFERENCE: Give a reference catalogue (`reference:`), or check why no frame of the field was
  good enough.
NO_ZP ZP_RELATIVE: Give a catalogue with magnitudes (`reference:`) and name the band in
  `photcal.bands`.
BKG_ENGINE: Correct the function of `background.engine`, or use `skymill`.
NOISE_RATIO: Compare gain and read noise of the instrument file with those that the flats and
  bias frames show (`skymill report`, masters); exclude frames that were smoothed or resampled.
BKG_POOR: Use a smaller or larger `background.box_size_px`, or check for nebulae that fill the
  frame.
FEW_FRAMES: Take at least five frames, better ten; hits of cosmic rays stay in such a master.
CLIPPED_MUCH: Check the alignment, a changing source, or a gain and read noise that are too
  small.
OVERSCAN_METHOD: Correct the function or object that `overscan.method` names, or choose one of
  the methods of skymill.
UPSTREAM_BLOCKED: Look at the step that stopped the frame first.
OFF: Switch the step on in `config/config.yaml` if it is wanted.
""")

#: Codes of a degraded frame that touch every number behind them: shown first.
SERIOUS: tuple[str, ...] = (
    "BUG_OUTPUT",
    "GAIN_SUSPECT",
    "NO_GAIN",
    "READ_NOISE_SUSPECT",
    "NO_READ_NOISE",
    "MASTER_FAILED",
    "FLATS_REJECTED",
    "SUSPECT_BZERO",
    "WRAP",
    "NO_BIAS",
    "NO_FLAT",
    "NO_DARK",
    "TOO_FEW",
    "MISSING_TIME",
    "NO_TIME",
    "BAD_TIME",
    "CLOCK",
    "CONFLICT",
    "CHECKSUM",
    "BIAS_JUMP",
    "FLAT_PEDESTAL",
    "SATURATION_GUESSED",
    "CLIPPED_MUCH",
    "NO_OVERLAP",
    "TOOL_MISSING",
    "TOOL_FAILED",
    "TOO_MANY_GROUPS",
)
