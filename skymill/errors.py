"""Exceptions, reason codes and outcomes: how a failure is said.

A failure of science is data: a step raises `FrameRejected` or `StepFailed` for one
frame, the block runner turns it into an `Outcome`, and the run goes on. Everything
else that is raised is a defect or an infrastructure failure and ends the job.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

__all__ = [
    "CODES",
    "ConfigError",
    "FrameRejected",
    "Outcome",
    "Result",
    "ScienceFailure",
    "SkymillError",
    "StepFailed",
]

T = TypeVar("T")

#: Closed list of reason codes and what each one means, in plain words.
CODES: dict[str, str] = {}


def _codes(text: str) -> None:
    for line in text.strip().splitlines():
        code, _, meaning = line.partition(" ")
        if code in CODES:
            raise ValueError(f"reason code {code} is declared twice")
        CODES[code] = meaning.strip()


# File structure
_codes("""
EMPTY the file has zero bytes
HEADER_TRUNCATED the file ends inside its header
NO_END the header has no END card
TRUNCATED the file holds fewer pixels than its header declares
PADDING the last block is not padded to 2880 bytes
TRAILING bytes follow the last data block
NOT_FITS the file does not begin like a FITS file
NOT_STANDARD the header says SIMPLE = F
ZERO_SIZE an axis has length zero
BAD_STRUCTURE the header describes an impossible image
NO_IMAGE the file holds no image
AMBIGUOUS_HDU several images and no rule that chooses one
INHERIT cards were taken from the primary header
SQUEEZED a third axis of length one was dropped
RGB_CUBE a colour cube, not a detector frame
CUBE a cube of planes that the instrument file does not split
BAD_SHAPE the image is not a usable two-dimensional frame
COMPRESSED the file is compressed although its name does not say so
NAME_MISMATCH the name says compressed, the content is plain
TRUNCATED_GZ the compressed file is cut
DOUBLE_COMPRESSED the file was compressed twice
ARCHIVE an archive, not an image
QUANTISED lossy compressed floating-point pixels
CHECKSUM the checksum does not match the content
TOO_LARGE larger than the declared limit
HEADER_LARGE the header has an extreme number of cards
GROWING the file was still being written
UNSUPPORTED a format that is not read
""")
# Header values and times
_codes("""
SUSPECT_BZERO the pixels look like unsigned integers read without BZERO
BLANK_FIXED blank integers were turned into masked pixels
BAD_BLANK BLANK has no meaning for floating-point pixels
DUPLICATE_KEY a keyword occurs twice with different values
BAD_CARD a card cannot be read
DECIMAL_COMMA a comma was read as a decimal point
STRING_NUMBER a number was written as text
NON_ASCII a card holds bytes outside ASCII
BAD_EXPTIME the exposure time is impossible
MISSING_EXPTIME the exposure time is missing
MISSING_TIME the time of observation is missing
MISSING_FILTER the filter is missing
UNIT the unit in the comment contradicts the value
BIAS_EXPOSURE a bias frame with a long exposure
DARK_EXPOSURE no dark of a usable exposure, or a dark with none
CONFLICT two cards disagree
DUPLICATE_TIME another frame has the same time
DATE_PLUS_TIME date and time were joined from two cards
DATE_FORMAT the date is in an old or foreign form
NO_TIME no time of observation
BAD_TIME the time of observation cannot be read
TIME_ROLLOVER sixty seconds were carried over
CLOCK the time is outside the plausible range
NO_SITE the place of the telescope is not known
CLOCK_SKEW the modification time is implausible
""")
# World coordinates
_codes("""
WCS_MIXED several conventions for scale and rotation disagree
SIP_CTYPE SIP coefficients without -SIP in CTYPE
PV_ON_TAN distortion terms under the plain TAN projection
PV_DROPPED PV terms are ignored beside SIP
NO_WCS no usable world coordinates in the header
SEXAGESIMAL a reference value was written in sexagesimal form
WCS_POINTING world coordinates and pointing cards disagree
WCS_SCALE the pixel scale is implausible
FRAME the coordinate frame was converted
WCS_STRINGS world coordinates were written as text
WCS_OUTLIER world coordinates far from those of the field
WCS_UNVERIFIED the sky positions are the header's, checked against no catalogue
""")
# Kind and instrument
_codes("""
KIND_UNKNOWN nothing tells what kind of frame this is
KIND_SUSPECT the pixels contradict the kind of frame
NOT_SCIENCE a frame for focus, comparison lamps or tests
IS_MASTER a combined calibration frame among the raw ones
ALREADY_CALIBRATED the frame has been calibrated before
NO_PROFILE no instrument file fits
FILTER_INDEX the filter is only the number of a wheel position
GAIN_SUSPECT the gain is implausible or contradicts the frames
READ_NOISE_SUSPECT the read noise contradicts the frames
NO_GAIN the gain is not known
NO_READ_NOISE the read noise is not known
TEMP_UNSTABLE the detector temperature was not stable
BINNING_CONFLICT the binning contradicts the size
BAD_SECTION a section cannot be read or lies outside the image
MOSAIC_CFA a colour mosaic that the instrument file does not split
SHIFTED_BITS all values share a common factor
""")
# Pixels
_codes("""
ALL_NAN no pixel has a value
CONSTANT all pixels have the same value
NO_DATA some pixels have no value
WRAP the integer values wrapped around
SATURATION_GUESSED the saturation level is not known and was taken from the data type
DEAD_AREA a large part of the frame is dead
NO_SKY the shutter seems to have been closed
FLAT_SATURATED the flat is saturated or non-linear
FLAT_FAINT the flat is too faint
FLAT_GRADIENT the flat has a steep gradient
FLAT_PEDESTAL the flat cannot be freed from its bias
FLAT_CLOUDY the light of the flat is not that of a clear sky
FLAT_COLOCATED flats that point to one place show their stars on the same pixels
FLAT_LEVEL the flat belongs to the group of levels that is not wanted
BIAS_JUMP the bias level jumped
BANDING rows or columns carry a pattern
TRAILED the stars are trailed
NO_STARS no star was found
FEW_STARS too few stars were found
CLOUDY much light is missing compared with the field's best frame
SKY_BRIGHT a bright or steep sky
ALL_MASKED no good pixel is left
BAD_LEVEL the level or scatter does not fit the other frames of its group
COSMIC_OFF cosmic rays could not be searched
MODEL_NOISE the frames scatter more or less than gain and read noise tell
""")
# Identity, files and environment
_codes("""
DUPLICATE the same content as another file
DUPLICATE_PIXELS the same pixels as another frame, under another header
TOO_MANY_GROUPS more groups than the limit
TOO_MANY_PAIRS more pairs of detections than can be followed
UNREADABLE the file cannot be read
UNREADABLE_DIR a folder cannot be read
BAD_LINK a link that leads nowhere, in a circle, or out of the tree
NOT_A_FILE a pipe, socket, device or folder with an image's name
BAD_NAME the file name cannot be represented
VANISHED the file is gone since it was listed
CHANGED the file changed since it was listed
TOOL_MISSING an external program is missing
TOOL_FAILED an external program failed
CATALOG_UNREACHABLE the server of the reference catalogue could not be reached
CATALOG_EMPTY the reference catalogue has no star in this field
BUG_OUTPUT a step made an impossible product
EXCLUDED excluded by the overrides
OVERRIDE_UNUSED an override matches no file
""")
# Calibration and run-time science
_codes("""
NO_BIAS no matching bias
NO_DARK no matching dark
NO_FLAT no matching flat
TOO_FEW fewer frames than the minimum
WRONG_SIZE the size, binning or mode fits no light frame
DARK_TEMP the dark was taken at another temperature
DARK_SCALED_UP the dark is shorter than the exposure
MASTER_FAILED a calibration master that is needed could not be made
FLATS_REJECTED every flat was rejected
UNUSED_CALIBRATION no light frame needs this calibration frame
MASTER_CHANGED the master differs from the one before it by more than its error
GAIN_DRIFT the measured gain differs from that of earlier masters
NOISE_DRIFT the measured read noise differs from that of earlier masters
HOT_PIXELS far more hot pixels than in earlier masters
NO_FRAMES no frame was left
FILTER_MISMATCH the stars do not look as in the filter of the header
NO_OVERLAP the frames have no area in common
REGISTRATION the frame could not be aligned
REGISTRATION_POOR the alignment is not good enough
NO_REFERENCE no reference frame or catalogue
NO_MATCH too few stars match the reference
WCS_RELATIVE positions are relative to the reference frame, not to the sky
NO_ZP no zero point
ZP_RELATIVE the flux scale is relative to the reference frame
BKG_POOR the background is poorly determined
BKG_ENGINE the background program failed or returned no map
NOISE_RATIO the sky does not scatter as its error plane says
CLIPPED_MUCH far more pixels were clipped than the noise allows
FEW_FRAMES so few frames that outliers cannot be told from good values
POOR_SEEING worse seeing than the limit
SHALLOW shallower than the limit
ELONGATED the stars are more elongated than the limit
NOT_BEST not among the best frames that were asked for
UNKNOWN_QUALITY a figure that a limit of quality needs is not known
NO_BJD barycentric times could not be computed
NO_TARGET a star that was asked for is not among the sources of the field
OVERSCAN_METHOD the overscan method of the user failed
UPSTREAM_BLOCKED an earlier step stopped this frame
OFF the step was not asked for
""")


class SkymillError(Exception):
    """Base of all errors that skymill raises on purpose."""


class ConfigError(SkymillError):
    """The configuration, the sheet or the command line is wrong."""


class ScienceFailure(SkymillError):
    """One frame or product cannot be made, for a reason in the data.

    Parameters
    ----------
    code : str
        One of `CODES`.
    message : str
        One sentence: where, what was observed, what was expected, what to do.
    **numbers
        Figures that belong to the outcome.

    Raises
    ------
    KeyError
        If the code is not in the closed list.
    """

    status = "failed"

    def __init__(self, code: str, message: str, **numbers: Any) -> None:
        if code not in CODES:
            raise KeyError(f"{code!r} is not a reason code; add it to skymill.errors.CODES")
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.numbers = numbers


class FrameRejected(ScienceFailure):
    """The input is bad."""

    status = "rejected"


class StepFailed(ScienceFailure):
    """The input is sound but the step could not do its work."""

    status = "failed"


@dataclass(frozen=True)
class Result(Generic[T]):
    """What a step returns: its product, what should be known of it, and figures.

    Parameters
    ----------
    value : object
        The product.
    flags : tuple of (code, message)
        Reasons why the product is degraded; empty if all is well.
    numbers : dict
        Figures for the outcome: plain int, float, str or None.
    """

    value: T
    flags: tuple[tuple[str, str], ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for code, _ in self.flags:
            if code not in CODES:
                raise KeyError(f"{code!r} is not a reason code; add it to skymill.errors.CODES")


@dataclass(frozen=True)
class Outcome:
    """What became of one frame in one step.

    Parameters
    ----------
    frame_id, step : str
        The frame and the step.
    status : str
        ``ok``, ``degraded``, ``rejected``, ``failed``, ``blocked`` or ``off``.
    code : str
        Reason codes joined by ``;``, empty if ``ok``.
    message : str
        Plain sentences joined by a blank.
    numbers : dict
        Figures of the step.
    """

    frame_id: str
    step: str
    status: str
    code: str = ""
    message: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)

    STATUSES = ("ok", "degraded", "rejected", "failed", "blocked", "off")

    def __post_init__(self) -> None:
        if self.status not in self.STATUSES:
            raise ValueError(f"status must be one of {self.STATUSES}, got {self.status!r}")

    @property
    def usable(self) -> bool:
        """True if later steps may use the frame."""
        return self.status in ("ok", "degraded", "off")

    @classmethod
    def from_result(cls, frame_id: str, step: str, result: Result[Any]) -> Outcome:
        """Outcome of a step that returned."""
        return cls(
            frame_id,
            step,
            "degraded" if result.flags else "ok",
            ";".join(dict.fromkeys(code for code, _ in result.flags)),
            " ".join(dict.fromkeys(message for _, message in result.flags)),
            dict(result.numbers),
        )

    @classmethod
    def from_failure(cls, frame_id: str, step: str, failure: ScienceFailure) -> Outcome:
        """Outcome of a step that raised."""
        return cls(
            frame_id, step, failure.status, failure.code, failure.message, dict(failure.numbers)
        )
