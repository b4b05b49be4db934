"""Films of aligned frames: the stars stand still, and what moves or changes is seen at once.

Every frame is sampled on the pixels of the reference frame by its transform; nothing of the
products is touched. Stars of the reference frame are circled: amber where the frame shows a
source there, red where it does not. A GIF needs Pillow only and has the same bytes for the same
products; an MP4 needs ffmpeg.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import ConfigError
from skymill.io import write_bytes
from skymill.programs import Program, ProgramError, find_program, run_program
from skymill.report.pictures import limits, shrink

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from PIL.Image import Image

    from skymill.affine import Affine

__all__ = ["Scene", "animate", "draw_frame", "sample", "write_film"]

_GREYS = 240
#: Colours after the greys: found, not found, text, ground, without a value.
_COLOURS = ("ffb000", "e0483e", "f2f2f2", "101418", "1c2733")
_FOUND, _LOST, _TEXT, _GROUND, _BLANK = range(_GREYS, _GREYS + len(_COLOURS))
_CAPTION = 18


@dataclass(frozen=True, eq=False)
class Scene:
    """One frame of a film.

    Parameters
    ----------
    image : ndarray of float, shape (ny, nx)
        Calibrated frame, in a unit that all frames of a filter share (electron/s).
    transform : Affine
        Reference pixel to pixel of this image.
    sources : ndarray of float, shape (n, 2)
        Positions of its sources (x, y) in its own pixels.
    caption : str
        Text below the picture (number and time).
    group : str
        Frames of a group (filter) share one scale of brightness.
    """

    image: NDArray[Any]
    transform: Affine
    sources: NDArray[np.float64]
    caption: str
    group: str = ""


def sample(
    image: NDArray[Any], transform: Affine, shape: tuple[int, int], step: int
) -> NDArray[np.float64]:
    """Return an image on every ``step``-th pixel of the reference frame.

    Parameters
    ----------
    image : ndarray of float, shape (my, mx)
        The image; NaN where there is no value.
    transform : Affine
        Reference pixel to image pixel.
    shape : tuple of int
        Shape (ny, nx) of the reference frame.
    step : int
        Side of an output pixel in reference pixels.

    Returns
    -------
    ndarray of float64, shape (ceil(ny / step), ceil(nx / step))
        Bilinear between the means of blocks of ``step`` pixels; NaN outside.
    """
    ny, nx = (-(-n // step) for n in shape)
    small = _blocks(image, step)
    half = (step - 1) / 2
    x, y = np.meshgrid(np.arange(nx) * step + half, np.arange(ny) * step + half)
    there = transform(np.stack([x.ravel(), y.ravel()], axis=1))
    there = (there - half) / step
    my, mx = small.shape
    x0 = np.floor(there[:, 0] + 1e-9)
    y0 = np.floor(there[:, 1] + 1e-9)
    inside = (there[:, 0] > -0.5) & (there[:, 0] < mx - 0.5)
    inside &= (there[:, 1] > -0.5) & (there[:, 1] < my - 0.5)
    fx, fy = np.clip(there[:, 0] - x0, 0, 1), np.clip(there[:, 1] - y0, 0, 1)
    total, weight = np.zeros(len(there)), np.zeros(len(there))
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        i = np.clip(y0 + dy, 0, my - 1).astype(int)
        j = np.clip(x0 + dx, 0, mx - 1).astype(int)
        value = small[i, j]
        w = (fx if dx else 1 - fx) * (fy if dy else 1 - fy) * np.isfinite(value)
        total += w * np.nan_to_num(value)
        weight += w
    out = np.where(inside & (weight > 0.25), total / np.maximum(weight, 1e-12), np.nan)
    return out.reshape(ny, nx)


def _blocks(image: NDArray[Any], step: int) -> NDArray[np.float64]:
    """Means of squares of ``step`` pixels."""
    size = [-(-n // step) * step for n in image.shape]
    padded = np.full(size, np.nan)
    padded[: image.shape[0], : image.shape[1]] = image
    return shrink(padded, max(size) // step)


def draw_frame(
    values: NDArray[np.float64],
    span: tuple[float, float],
    circles: NDArray[np.float64],
    found: NDArray[np.bool_],
    caption: str,
    radius: float,
    zoom: int = 1,
) -> Image:
    """Return one picture of a film, in a palette of greys and four colours.

    Parameters
    ----------
    values : ndarray of float64, shape (ny, nx)
        What is shown; row 0 is at the bottom, NaN is blank.
    span : tuple of float
        Values of black and white.
    circles : ndarray of float64, shape (n, 2)
        Middles of the circles in pixels of ``values``.
    found : ndarray of bool, shape (n,)
        Which of them the frame shows.
    caption : str
        Text below.
    radius : float
        Of the circles, in pixels of ``values``.
    zoom : int
        Side of a value in the picture.
    """
    from PIL import Image, ImageDraw, ImageFont

    low, high = span
    unit = (values - low) / (high - low)
    soft = 0.05
    bright = np.arcsinh(np.clip(np.nan_to_num(unit), 0, 1) / soft) / np.arcsinh(1 / soft)
    index = np.rint(bright * (_GREYS - 1)).astype(np.uint8)
    index[~np.isfinite(unit)] = _BLANK
    index = np.repeat(np.repeat(index[::-1], zoom, axis=0), zoom, axis=1)
    height, width = index.shape
    canvas = np.full((height + _CAPTION, width), _GROUND, np.uint8)
    canvas[:height] = index
    picture = Image.frombytes("P", (width, height + _CAPTION), canvas.tobytes())
    picture.putpalette(_palette())
    draw = ImageDraw.Draw(picture)
    r = radius * zoom
    for (x, y), seen in zip(circles, found, strict=True):
        cx, cy = (x + 0.5) * zoom - 0.5, height - 1 - ((y + 0.5) * zoom - 0.5)
        box = [round(cx - r), round(cy - r), round(cx + r), round(cy + r)]
        if box[3] < height:
            draw.ellipse(box, outline=_FOUND if seen else _LOST)
    font = ImageFont.load_default_imagefont()
    draw.text((4, height + 3), caption.encode("ascii", "replace").decode(), fill=_TEXT, font=font)
    return picture


def _palette() -> bytes:
    greys = np.rint(np.linspace(0, 255, _GREYS)).astype(np.uint8)
    colours = b"".join(bytes.fromhex(colour) for colour in _COLOURS)
    return np.repeat(greys, 3).tobytes() + colours + bytes(3 * (256 - _GREYS - len(_COLOURS)))


def animate(
    scenes: Iterable[Scene],
    shape: tuple[int, int],
    stars: NDArray[np.float64],
    *,
    size: int = 512,
    match_px: float = 3.0,
) -> list[Image]:
    """Draw the frames of a film.

    Parameters
    ----------
    scenes : iterable of Scene
        The frames in order of time; one is held at a time.
    shape : tuple of int
        Shape (ny, nx) of the reference frame.
    stars : ndarray of float64, shape (n, 2)
        Stars of the reference frame that are circled (x, y in its pixels).
    size : int
        Longest side of a picture in pixels; a caption comes below. Small frames are enlarged
        by whole factors.
    match_px : float
        A source of a frame this near to a star is that star (px).

    Returns
    -------
    list of PIL.Image.Image
        Pictures in a palette.

    Raises
    ------
    ConfigError
        If there is no frame to show.
    """
    step = max(1, -(-max(shape) // size))
    zoom = max(1, size // -(-max(shape) // step)) if step == 1 else 1
    half = (step - 1) / 2
    circles = (np.asarray(stars, dtype=np.float64).reshape(-1, 2) - half) / step
    radius = max(2.0 * match_px / step, 6.0 / zoom)
    spans: dict[str, tuple[float, float]] = {}
    pictures = []
    for scene in scenes:
        values = sample(scene.image, scene.transform, shape, step)
        finite = values[np.isfinite(values)]
        values = values - (float(np.median(finite)) if finite.size else 0.0)
        # One scale for all frames of a filter: clouds are to be seen.
        span = spans.setdefault(scene.group, limits(values, "asinh"))
        found = _found(stars, scene, match_px)
        there = _shown(values, circles)  # a star outside the frame is not missing
        pictures.append(
            draw_frame(values, span, circles[there], found[there], scene.caption, radius, zoom)
        )
    if not pictures:
        raise ConfigError("animate: no frame of the field is aligned, there is nothing to show")
    return pictures


def _shown(values: NDArray[np.float64], circles: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which circles lie on pixels that have a value."""
    ny, nx = values.shape
    column = np.clip(np.rint(circles[:, 0]).astype(int), 0, nx - 1)
    row = np.clip(np.rint(circles[:, 1]).astype(int), 0, ny - 1)
    return np.asarray(np.isfinite(values[row, column]), dtype=bool)


def _found(stars: NDArray[np.float64], scene: Scene, match_px: float) -> NDArray[np.bool_]:
    """Return which stars have a source of the frame beside them."""
    if not len(stars) or not len(scene.sources):
        return np.zeros(len(stars), bool)
    here = scene.transform.inverse()(scene.sources)
    distance2 = ((stars[:, None, :] - here[None, :, :]) ** 2).sum(axis=2)
    return np.asarray(distance2.min(axis=1) <= match_px**2, dtype=bool)


def write_film(path: str | Path, pictures: Sequence[Image], *, seconds: float = 0.4) -> None:
    """Write a film, GIF or MP4 by the suffix.

    Parameters
    ----------
    path : str or Path
        File to write; appears when it is complete.
    pictures : sequence of PIL.Image.Image
        The frames.
    seconds : float
        How long each is shown.

    Raises
    ------
    ConfigError
        If the suffix is another one.
    ProgramError
        TOOL_MISSING or TOOL_FAILED: ffmpeg, for MP4 only.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind == ".gif":
        stream = BytesIO()
        pictures[0].save(
            stream, format="GIF", save_all=True, append_images=list(pictures[1:]),
            duration=max(20, round(seconds * 1000)), loop=0, optimize=False, disposal=1,
        )  # fmt: skip
        write_bytes(path, stream.getvalue())
    elif kind == ".mp4":
        write_bytes(path, _mp4(pictures, seconds))
    else:
        raise ConfigError(f"animate: {path.name} must end in .gif or .mp4")


def _ffmpeg() -> Program:
    """Find ffmpeg on the PATH, or the one that imageio-ffmpeg brings."""
    try:
        return find_program(
            ("ffmpeg",), purpose="an MP4 film", version_args=("-version",), minimum=(4,)
        )
    except ProgramError:
        try:
            from imageio_ffmpeg import get_ffmpeg_exe

            return Program("ffmpeg", str(get_ffmpeg_exe()))
        except (ImportError, RuntimeError):
            raise ProgramError(
                "TOOL_MISSING",
                "an MP4 film needs ffmpeg, which is not on the PATH; install it, or "
                "`pip install 'skymill[mp4]'`, or write a GIF",
            ) from None


def _mp4(pictures: Sequence[Image], seconds: float) -> bytes:
    program = _ffmpeg()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for number, picture in enumerate(pictures):
            picture.convert("RGB").save(folder / f"{number:06d}.png")
        arguments = [
            *("-nostdin", "-loglevel", "error", "-y", "-framerate", f"{1 / seconds:.6g}"),
            *("-i", "%06d.png", "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2,format=yuv420p"),
            # No time of writing and no name of the encoder in the file.
            *("-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact"),
            *("-threads", "1", "film.mp4"),
        ]
        run_program(program, arguments, outputs=["film.mp4"], folder=folder, timeout_s=3600)
        return (folder / "film.mp4").read_bytes()
