"""What a simulated night contains: every number, with its unit and its default."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "MovingObject",
    "NightConfig",
    "Transit",
    "Variable",
    "demo_config",
    "field_table",
]

PerFilter = float | dict[str, float]
FilterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_+-]{1,16}$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Variable(_Model):
    """A star whose magnitude follows a sine."""

    star: int | None = Field(
        default=None,
        ge=0,
        description="Row in the catalogue; none: a bright, isolated star is chosen.",
    )
    amplitude_mag: float = Field(default=0.25, ge=0, description="Half of the full range.")
    period_h: float = Field(default=2.5, gt=0, description="Period.")
    phase: float = Field(default=0.0, description="Phase at the start of the night, in periods.")


class Transit(_Model):
    """A star that is dimmed for a while, with straight ingress and egress."""

    star: int | None = Field(
        default=None,
        ge=0,
        description="Row in the catalogue; none: a bright, isolated star is chosen.",
    )
    depth: float = Field(default=0.02, gt=0, lt=1, description="Fraction of light that is lost.")
    mid_h: float = Field(default=1.2, description="Middle, in hours after the start of the night.")
    duration_h: float = Field(default=1.2, gt=0, description="From first to last contact.")
    ingress_h: float = Field(default=0.2, ge=0, description="Duration of ingress and of egress.")

    @model_validator(mode="after")
    def _ingress_fits(self) -> Self:
        if 2 * self.ingress_h > self.duration_h:
            raise ValueError(
                f"ingress_h {self.ingress_h} is more than half of duration_h {self.duration_h}"
            )
        return self


class MovingObject(_Model):
    """A point source that moves along a straight line, trailed during the exposure."""

    mag: float = Field(default=16.5, description="Magnitude in every filter.")
    rate_arcsec_h: float = Field(default=30.0, ge=0, description="Apparent motion.")
    angle_deg: float = Field(
        default=110.0, description="Direction of motion, from north through east."
    )
    start_px: tuple[float, float] = Field(
        default=(0.0, 0.0),
        description="Place at the start of the night: (x, y) from the centre, px.",
    )


class NightConfig(_Model):
    """A simulated night.

    Angles are ICRS, times UTC. The frame is ``prescan_px`` columns, the image of
    ``shape`` (ny, nx), and ``overscan_px`` columns, in this order.
    """

    # The observation
    seed: int = Field(default=1, ge=0, lt=2**32, description="The only source of randomness.")
    night_index: int = Field(
        default=0,
        ge=0,
        description="Number of the night in a series: other noise, same sky and detector.",
    )
    start_utc: datetime = Field(
        default=datetime(2026, 3, 15, 22, tzinfo=UTC), description="Start of the first light frame."
    )
    instrument: str = Field(default="skymill-sim", description="INSTRUME card.")
    telescope: str = Field(default="skymill-sim 0.5 m", description="TELESCOP card.")
    target: str = Field(default="Sim Field 1", description="OBJECT card of the light frames.")
    site_lon_deg: float = Field(
        default=-17.88, ge=-180, le=360, description="Longitude, east positive."
    )
    site_lat_deg: float = Field(default=28.76, ge=-90, le=90, description="Latitude.")
    site_height_m: float = Field(default=2350.0, description="Height.")

    # Frames
    shape: tuple[int, int] = Field(
        default=(512, 512), description="(ny, nx) of the image area, px."
    )
    filters: tuple[FilterName, ...] = Field(default=("V",), min_length=1, description="Filters.")
    n_bias: int = Field(default=7, ge=0, description="Bias frames.")
    n_dark: int = Field(default=5, ge=0, description="Dark frames.")
    n_flat: int = Field(default=5, ge=0, description="Flat frames per filter.")
    n_light: int = Field(default=6, ge=0, description="Light frames per filter; filters alternate.")
    exptime_s: float = Field(default=60.0, gt=0, description="Exposure of the light frames.")
    dark_exptime_s: float = Field(default=120.0, gt=0, description="Exposure of the dark frames.")
    flat_exptime_s: float = Field(default=4.0, gt=0, description="Exposure of the flat frames.")
    cadence_s: float | None = Field(
        default=None, gt=0, description="From light frame to light frame; none: exposure plus 10 s."
    )
    flat_level_adu: tuple[float, float] = Field(
        default=(17000.0, 30000.0), description="Flats get levels above bias from this range."
    )
    flat_stars: int = Field(default=0, ge=0, description="Stars in each (dithered twilight) flat.")

    # Detector
    gain_e_adu: float = Field(default=1.6, gt=0, description="True gain.")
    header_gain_e_adu: float | None = Field(
        default=None, gt=0, description="GAIN card, if it shall not tell the truth."
    )
    read_noise_e: float = Field(default=6.0, ge=0, description="Read noise.")
    bias_level_adu: float = Field(default=1000.0, ge=0, description="Level of the overscan.")
    bias_structure_adu: float = Field(
        default=6.0, ge=0, description="Peak-to-peak of the fixed pattern of the image area."
    )
    overscan_px: int = Field(default=24, ge=0, description="Overscan columns on the right.")
    prescan_px: int = Field(default=0, ge=0, description="Prescan columns on the left.")
    overscan_drift_adu: float = Field(
        default=3.0, ge=0, description="Scatter of the level from frame to frame."
    )
    overscan_slope_adu: float = Field(
        default=1.0, ge=0, description="Scatter of a slope along the columns from frame to frame."
    )
    dark_e_s: float = Field(default=0.03, ge=0, description="Dark current of a normal pixel.")
    hot_fraction: float = Field(default=5e-4, ge=0, le=0.2, description="Fraction of hot pixels.")
    hot_rate_e_s: tuple[float, float] = Field(
        default=(1.0, 150.0), description="Hot pixels: dark current, uniform in its logarithm."
    )
    dead_fraction: float = Field(
        default=1e-4, ge=0, le=0.2, description="Fraction of pixels with response below 0.3."
    )
    vignetting: float = Field(default=0.15, ge=0, lt=1, description="Loss of light in the corners.")
    n_dust: int = Field(default=5, ge=0, description="Dust rings.")
    dust_depth: float = Field(default=0.06, ge=0, lt=1, description="Loss of light in a dust ring.")
    prnu: float = Field(default=0.01, ge=0, lt=0.2, description="Scatter of the pixel response.")
    nonlinearity_per_adu: float = Field(
        default=0.0, description="c2 of linear = measured (1 + c2 measured), above bias."
    )
    adc_max_adu: int = Field(
        default=65535, gt=0, le=65535, description="Largest number of the ADC."
    )
    full_well_e: float | None = Field(
        default=90000.0,
        gt=0,
        description="Charge that a pixel holds; none: only the ADC saturates.",
    )
    bleeding: bool = Field(
        default=True, description="Charge above the full well bleeds along columns."
    )
    temperature_c: float = Field(default=-20.0, description="Detector temperature.")
    cosmic_rate_mpx_s: float = Field(
        default=0.15, ge=0, description="Cosmic rays per megapixel and second."
    )

    # Sky and optics
    ra_deg: float = Field(default=130.0, ge=0, lt=360, description="Centre of the field.")
    dec_deg: float = Field(default=20.0, ge=-89.5, le=89.5, description="Centre of the field.")
    pixel_scale_arcsec: float = Field(default=1.0, gt=0, description="Pixel scale.")
    rotation_deg: float = Field(default=2.0, description="Position angle of the detector's y axis.")
    mirrored: bool = Field(default=False, description="East on the right when north is up.")
    distortion_px: float = Field(
        default=1.0, ge=0, description="Distortion at the corners of the frame (SIP, third order)."
    )
    dither_px: float = Field(default=6.0, ge=0, description="Pointings are uniform within +- this.")
    meridian_flip_at: int | None = Field(
        default=None,
        ge=0,
        description="From this light frame of each filter on, turned by 180 degrees.",
    )
    wcs: Literal["true", "offset", "none"] = Field(
        default="true",
        description="World coordinates in the headers: true, slightly wrong, or none.",
    )
    wcs_offset_arcsec: float = Field(
        default=12.0, ge=0, description="Pointing error with wcs: offset."
    )
    wcs_rotation_deg: float = Field(default=0.3, description="Rotation error with wcs: offset.")
    psf: Literal["moffat", "gauss"] = Field(default="moffat", description="Profile of the stars.")
    moffat_beta: float = Field(
        default=3.5, ge=2.0, le=10, multiple_of=0.5, description="Exponent of the Moffat profile."
    )
    fwhm_px: float = Field(default=3.0, ge=1.0, le=30, description="Median seeing.")
    fwhm_scatter: float = Field(
        default=0.06,
        ge=0,
        le=0.5,
        description="Relative scatter of the seeing from frame to frame.",
    )
    ellipticity: float = Field(default=0.03, ge=0, lt=0.8, description="1 - b/a of the stars.")
    ellipse_angle_deg: float = Field(
        default=30.0, description="Angle of the long axis from the x axis."
    )
    sky_e_s: PerFilter = Field(
        default=4.0, description="Sky per pixel; a number or one per filter."
    )
    sky_scatter: float = Field(
        default=0.03, ge=0, le=0.5, description="Relative scatter of the sky."
    )
    sky_gradient: float = Field(
        default=0.02, ge=0, lt=1, description="Relative change of the sky across the frame."
    )
    zero_point_mag: PerFilter = Field(
        default=22.0, description="Magnitude of 1 electron/s above the atmosphere."
    )
    extinction_mag: PerFilter = Field(default=0.15, description="Extinction per airmass.")
    clouds: tuple[Annotated[float, Field(ge=0, le=1.5)], ...] = Field(
        default=(), description="Throughput of the 1st, 2nd ... light frame of each filter; then 1."
    )

    # Sources
    n_stars: int = Field(
        default=300, ge=0, description="Stars in the frame and a margin around it."
    )
    mag_bright: float = Field(default=12.0, description="Brightest star.")
    mag_faint: float = Field(default=19.5, description="Faintest star.")
    count_slope: float = Field(
        default=0.3, description="log10 of star counts grows by this per magnitude."
    )
    colour_mag: tuple[float, float] = Field(
        default=(0.6, 0.3), description="Mean and scatter of the step from one filter to the next."
    )
    min_separation_px: float = Field(
        default=0.0, ge=0, description="Smallest distance between stars."
    )
    variables: tuple[Variable, ...] = Field(default=(), description="Variable stars.")
    transit: Transit | None = Field(default=None, description="A transit.")
    moving: tuple[MovingObject, ...] = Field(default=(), description="Moving objects.")
    trails: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(), description="Light frames (0-based, first filter) with a satellite trail."
    )
    trail_peak_e: float = Field(default=400.0, gt=0, description="Height of the trail, electron.")

    # Reference catalogue and bad frames
    reference_mag_limit: float | None = Field(
        default=None, description="Faintest star of the reference catalogue; none: all."
    )
    reference_position_arcsec: float = Field(
        default=0.03, ge=0, description="Position error of the reference catalogue, per axis."
    )
    reference_error_mag: float = Field(
        default=0.01, ge=0, description="Error of bright stars in the reference catalogue."
    )
    reference_outliers: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Fraction of its stars that are wrong by 0.3 to 1.5 mag.",
    )
    bad: tuple[str, ...] = Field(
        default=(),
        description="Bad frames by name or hazard number; see skymill.simulate.BAD_FRAMES.",
    )
    truth_images: bool = Field(default=True, description="Write a noiseless image per light frame.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if min(self.shape) < 32:
            raise ValueError(f"shape must be at least 32 px on a side, got {self.shape}")
        if self.start_utc.tzinfo is not None and self.start_utc.utcoffset() != timedelta(0):
            raise ValueError(f"start_utc must be UTC, got {self.start_utc.isoformat()}")
        if len(set(self.filters)) != len(self.filters):
            raise ValueError(f"a filter occurs twice in {self.filters}")
        for name in ("flat_level_adu", "hot_rate_e_s"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be a range 0 < low <= high, got {(low, high)}")
        if self.mag_bright > self.mag_faint:
            raise ValueError(
                f"mag_bright {self.mag_bright} is fainter than mag_faint {self.mag_faint}"
            )
        for name in ("sky_e_s", "zero_point_mag", "extinction_mag"):
            value = getattr(self, name)
            if isinstance(value, dict) and (missing := set(self.filters) - set(value)):
                raise ValueError(f"{name} has no value for filter {', '.join(sorted(missing))}")
        if self.cadence_s is not None and self.cadence_s < self.exptime_s:
            raise ValueError(
                f"cadence_s {self.cadence_s} is shorter than exptime_s {self.exptime_s}"
            )
        if (beyond := [i for i in self.trails if i >= self.n_light]) and self.n_light:
            raise ValueError(f"trails names light frames {beyond}, but there are {self.n_light}")
        return self

    def per_filter(self, name: str, band: str) -> float:
        """Return the value of ``sky_e_s``, ``zero_point_mag`` or ``extinction_mag``.

        A band without a value of its own (an odd frame in a foreign filter) has that
        of the first filter.
        """
        value = getattr(self, name)
        if isinstance(value, dict):
            value = value[band if band in value else self.filters[0]]
        return float(value)

    @property
    def start(self) -> datetime:
        """Start of the first light frame, as a naive UTC time."""
        return self.start_utc.replace(tzinfo=None)

    @property
    def cadence(self) -> float:
        """Seconds from light frame to light frame."""
        return self.exptime_s + 10.0 if self.cadence_s is None else self.cadence_s

    @property
    def night(self) -> str:
        """Date of the evening, YYYYMMDD: local noon to local noon."""
        local = self.start + timedelta(hours=self.site_lon_deg / 15.0 - 12.0)
        return local.strftime("%Y%m%d")

    @property
    def saturate_adu(self) -> int:
        """The SATURATE card: a little below the plateau of full pixels."""
        if self.full_well_e is None:
            return self.adc_max_adu
        full = self.bias_level_adu + 0.97 * self.full_well_e / self.gain_e_adu
        return min(self.adc_max_adu, int(full))


def demo_config(seed: int = 20260315) -> NightConfig:
    """Return the night of ``skymill demo``: small, and with everything in it.

    Two filters, clouds, a variable star, a transit, a moving object, a satellite
    trail, a slightly wrong pointing and a handful of bad files.
    """
    return NightConfig(
        seed=seed,
        shape=(480, 480),
        filters=("V", "R"),
        n_bias=5,
        n_dark=5,
        n_flat=5,
        n_light=8,
        cadence_s=600.0,
        flat_stars=2,
        sky_e_s={"V": 3.5, "R": 6.0},
        zero_point_mag={"V": 22.0, "R": 22.2},
        extinction_mag={"V": 0.15, "R": 0.10},
        clouds=(1.0, 1.0, 0.97, 0.80, 0.45, 0.70, 1.0, 1.0),
        wcs="offset",
        n_stars=260,
        variables=(Variable(amplitude_mag=0.3, period_h=2.2),),
        transit=Transit(depth=0.05, mid_h=1.35, duration_h=1.4, ingress_h=0.25),
        moving=(MovingObject(mag=16.0, rate_arcsec_h=30.0, start_px=(-40.0, 60.0)),),
        trails=(2,),
        reference_outliers=0.03,
        bad=(
            "empty",
            "truncated",
            "text",
            "missing_exptime",
            "duplicate",
            "saturated_flat",
            "wrong_size_flat",
            "bias_level",
            "no_stars",
            "hostile",
            "decimal_comma",
        ),
    )


def field_table(model: type[BaseModel]) -> str:
    """Return the fields of a model as a Markdown table: name, default, meaning.

    The tables of docs/simulate.md are made by this function and compared by a test.
    """
    lines = ["| field | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        value = field.default
        shown = value.isoformat() if isinstance(value, datetime) else repr(value)
        lines.append(f"| `{name}` | `{shown}` | {field.description} |")
    return "\n".join(lines)
