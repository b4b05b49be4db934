"""Films of aligned frames: stars stand still, circles tell what was found, bytes repeat."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skymill.affine import Affine
from skymill.animations import _FOUND, _LOST, Scene, animate, sample, write_film
from skymill.errors import ConfigError
from skymill.programs import ProgramError

SHAPE = (90, 120)


def _image(stars: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = rng.normal(100.0, 1.0, SHAPE)
    for sx, sy in stars:
        image += 400 * np.exp(-((x - sx) ** 2 + (y - sy) ** 2) / (2 * 1.5**2))
    return image


STARS = np.array([[30.0, 20.0], [90.0, 70.0], [60.0, 45.0]])


def _scene(dx: float, dy: float, seed: int, *, hidden: int | None = None) -> Scene:
    """A frame shifted by (dx, dy); its transform is from reference to image pixels."""
    shifted = STARS + (dx, dy)
    seen = shifted if hidden is None else np.delete(shifted, hidden, axis=0)
    return Scene(_image(seen, seed), Affine(np.eye(2), np.array([dx, dy])), seen, f"{seed}/3", "V")


SCENES = (_scene(0, 0, 1), _scene(5, -3, 2), _scene(-7, 4, 3, hidden=2))


@pytest.mark.parametrize("step", [1, 2, 3])
def test_stars_stand_still_in_every_frame_at_every_size(step):
    """O20: the alignment film; a star lies on the same pixel whatever the shift of its frame."""
    for scene in SCENES[:2]:
        values = sample(scene.image, scene.transform, SHAPE, step)
        for x, y in STARS:
            row, column = round(y / step), round(x / step)
            patch = values[row - 2 : row + 3, column - 2 : column + 3]
            weight = np.clip(patch - 110, 0, None)
            centre = (weight * np.arange(-2, 3)).sum() / weight.sum() + column
            # Centre of the light in reference pixels; blocks blur, so within a block.
            assert centre * step + (step - 1) / 2 == pytest.approx(x, abs=0.2 * step)


def test_pixels_outside_the_image_are_blank_not_zero():
    values = sample(SCENES[1].image, SCENES[1].transform, SHAPE, 1)
    assert np.isnan(values[:, -4:]).all()
    assert np.isnan(values[:2]).all()
    assert np.isfinite(values[10:80, 10:100]).all()


def test_a_star_that_a_frame_does_not_show_is_circled_in_another_colour():
    pictures = animate(SCENES, SHAPE, STARS, size=128)
    counts = [
        [int((np.asarray(picture) == colour).sum()) for colour in (_FOUND, _LOST)]
        for picture in pictures
    ]
    assert counts[0][0] > 0 and counts[0][1] == 0
    assert counts[1][0] > 0 and counts[1][1] == 0
    assert counts[2][1] > 0 and counts[2][0] < counts[0][0]


def test_o20_gif_has_all_frames_and_the_same_bytes_each_time(tmp_path: Path):
    """O20: one picture per frame, without time or place of writing."""
    for name in ("a.gif", "b.gif"):
        write_film(tmp_path / name, animate(SCENES, SHAPE, STARS, size=128), seconds=0.3)
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 3
        assert film.info["duration"] == 300
        assert film.size == (120, 90 + 18)
        film.seek(1)
        shown = np.asarray(film.convert("L"))
    # The star at (90, 70) is bright at its place on the reference, rows count from the top.
    assert shown[89 - 70, 90] > 200
    assert shown[89 - 10, 10] < 100


def test_small_frames_are_enlarged_by_whole_factors():
    (picture,) = animate(SCENES[:1], SHAPE, STARS, size=500)
    assert picture.size == (4 * 120, 4 * 90 + 18)


def test_nothing_to_show_and_other_suffixes_are_told(tmp_path: Path):
    with pytest.raises(ConfigError, match="nothing to show"):
        animate([], SHAPE, STARS)
    with pytest.raises(ConfigError, match=r"must end in \.gif or \.mp4"):
        write_film(tmp_path / "a.avi", animate(SCENES, SHAPE, STARS, size=128))


def _stub(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    script = folder / "ffmpeg"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin{os.pathsep}/usr/bin")


def test_mp4_is_made_of_all_frames_by_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    body = 'test "$1" = -version && { echo "ffmpeg version 6.1.1"; exit 0; }\nls *.png > film.mp4'
    _stub(tmp_path / "bin", body, monkeypatch)
    write_film(tmp_path / "a.mp4", animate(SCENES, SHAPE, STARS, size=128))
    assert (tmp_path / "a.mp4").read_text().split() == ["000000.png", "000001.png", "000002.png"]


def test_mp4_without_ffmpeg_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(ProgramError, match=r"TOOL_MISSING.*skymill\[mp4\].*or write a GIF"):
        write_film(tmp_path / "a.mp4", animate(SCENES, SHAPE, STARS, size=128))
    assert not (tmp_path / "a.mp4").exists()
