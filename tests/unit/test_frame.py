"""The data model keeps its promises."""

import numpy as np
import pytest
from astropy.io import fits

from skymill.frame import BIT_MEANINGS, Background, Frame, MaskBit, Master, has_bits


def make(shape=(4, 5), **changes):
    planes = {
        "sci": np.ones(shape, np.float32),
        "err": np.ones(shape, np.float32),
        "mask": np.zeros(shape, np.uint16),
        "header": fits.Header(),
    }
    return Frame(**(planes | changes))


def test_planes_cannot_be_written_and_the_callers_array_stays_writeable():
    mine = np.ones((4, 5), np.float32)
    frame = make(sci=mine)
    with pytest.raises(ValueError, match="read-only"):
        frame.sci[0, 0] = 2
    mine[0, 0] = 7
    assert frame.sci[0, 0] == 1


def test_unequal_shapes_are_refused_with_the_shapes():
    with pytest.raises(ValueError, match=r"\(4, 5\).*\(5, 4\)"):
        make(err=np.ones((5, 4), np.float32))


def test_header_is_a_copy():
    header = fits.Header({"OBJECT": "M 31"})
    frame = make(header=header)
    header["OBJECT"] = "other"
    assert frame.header["OBJECT"] == "M 31"


def test_big_endian_input_becomes_native_float32():
    frame = make(sci=np.ones((4, 5), ">f8"))
    assert frame.sci.dtype == np.dtype("float32")
    assert frame.sci.dtype.isnative


def test_good_excludes_every_bit_but_source():
    mask = np.zeros((4, 5), np.uint16)
    mask[0, 0] = MaskBit.SOURCE
    mask[0, 1] = MaskBit.COSMIC
    good = make(mask=mask).good
    assert good[0, 0]
    assert not good[0, 1]


def test_bits_are_distinct_fill_sixteen_bits_and_have_meanings():
    values = [int(bit) for bit in MaskBit]
    assert sorted(values) == [1 << n for n in range(16)]
    assert set(BIT_MEANINGS) == set(MaskBit)


def test_has_bits_finds_any_of_several():
    mask = np.array([[0, 4, 8, 12]], np.uint16)
    found = has_bits(mask, MaskBit.SATURATED | MaskBit.BLEED)
    assert found.tolist() == [[False, True, True, True]]


def test_master_needs_a_count_of_its_shape():
    with pytest.raises(ValueError, match="nused"):
        Master(**{n: getattr(make(), n) for n in ("sci", "err", "mask", "header")})


def test_expanded_mesh_passes_through_the_cell_centres():
    rng = np.random.default_rng(1)
    level = rng.normal(100, 5, (5, 7)).astype(np.float32)
    background = Background(level, np.ones_like(level), (75, 105), 15, 0.1)
    assert np.allclose(background.level_map()[7::15, 7::15], level, rtol=1e-6)


def test_constant_mesh_expands_to_a_constant():
    level = np.full((3, 3), 42, np.float32)
    background = Background(level, level, (70, 80), 30, 0.1)
    assert np.allclose(background.level_map(), 42, rtol=1e-6)


def test_mesh_that_does_not_cover_the_frame_is_refused():
    level = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match="does not cover"):
        Background(level, level, (100, 100), 30, 0.1)
