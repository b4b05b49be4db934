"""DS9 region files: what is read, what is covered, and what is refused."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

from skymill.errors import SkymillError
from skymill.masks import draw_regions, parse_regions

SHAPE = (200, 260)
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)


def wcs(angle=0.0, mirrored=False, scale=1.0):
    out = WCS(naxis=2)
    out.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    out.wcs.crval = [187.70593, 12.39112]
    out.wcs.crpix = [131.0, 101.0]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    flip = -1.0 if not mirrored else 1.0
    out.wcs.cd = scale / 3600 * np.array([[flip * c, flip * -s], [s, c]])
    out.wcs.radesys = "ICRS"
    out.wcs.set()
    return out


def drawn(text, **options):
    return draw_regions(parse_regions(text), SHAPE, **options)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("circle(51,41,7.5)", (X - 50) ** 2 + (Y - 40) ** 2 <= 7.5**2),
        ("circle 51 41 7.5", (X - 50) ** 2 + (Y - 40) ** 2 <= 7.5**2),
        ("CIRCLE ( 51, 41 , 7.5i )", (X - 50) ** 2 + (Y - 40) ** 2 <= 7.5**2),
        ("ellipse(51,41,12,5,0)", ((X - 50) / 12) ** 2 + ((Y - 40) / 5) ** 2 <= 1),
        ("ellipse(51,41,12,5,90)", ((X - 50) / 5) ** 2 + ((Y - 40) / 12) ** 2 <= 1),
        ("ellipse(51,41,12,5)", ((X - 50) / 12) ** 2 + ((Y - 40) / 5) ** 2 <= 1),
        ("box(51,41,20.5,8.5,0)", (abs(X - 50) <= 10.25) & (abs(Y - 40) <= 4.25)),
        ("box(51,41,20.5,8.5,90)", (abs(X - 50) <= 4.25) & (abs(Y - 40) <= 10.25)),
        ("annulus(51,41,5,9)", abs(np.hypot(X - 50, Y - 40) - 7) <= 2),
        ("annulus(51,41,5,7,9)", abs(np.hypot(X - 50, Y - 40) - 7) <= 2),
        ("box(51,41,4.5,4.5,20.5,8.5,0)",
         (abs(X - 50) <= 10.25) & (abs(Y - 40) <= 4.25)
         & ~((abs(X - 50) <= 2.25) & (abs(Y - 40) <= 2.25))),
        ("polygon(10.5,10.5,40.5,10.5,40.5,30.5,10.5,30.5)",
         (X >= 9.5) & (X <= 39.5) & (Y >= 9.5) & (Y <= 29.5)),
        ("point(30,20)", (X == 29) & (Y == 19)),
        ("point(30,20) # point=cross", (X == 29) & (Y == 19)),
        ("line(10,20,30,20)", (abs(X - 19) <= 10) & (Y == 19)),
        ("# vector(10,20,20,0) vector=1", (abs(X - 19) <= 10) & (Y == 19)),
        ("vector(10,20,20,90)", (X == 9) & (abs(Y - 29) <= 10)),
    ],
)  # fmt: skip
def test_shapes_in_image_coordinates_cover_the_pixels_whose_centres_are_inside(text, expected):
    """E16 and region files: positions count from 1."""
    assert np.array_equal(drawn("image\n" + text), expected)


def test_an_angle_turns_from_x_to_y():
    out = drawn("image; ellipse(131,101,60,4,30)")
    t = np.linspace(-50, 50, 11)
    on = (np.rint(130 + t * np.cos(np.radians(30))), np.rint(100 + t * np.sin(np.radians(30))))
    assert out[on[1].astype(int), on[0].astype(int)].all()
    off = np.rint(100 - t[t > 20] * np.sin(np.radians(30))).astype(int)
    assert not out[off, np.rint(130 + t[t > 20] * np.cos(np.radians(30))).astype(int)].any()


@pytest.mark.parametrize("angle", [0, 37, 200])
@pytest.mark.parametrize("mirrored", [False, True])
def test_sky_shapes_follow_the_sky_however_the_camera_is_turned(angle, mirrored):
    frame = wcs(angle, mirrored)
    text = 'icrs\nellipse(187.70593,12.39112,60",12",20)'
    out = drawn(text, wcs=frame)
    sky = SkyCoord(*frame.all_pix2world(X, Y, 0), unit="deg")
    centre = SkyCoord(187.70593, 12.39112, unit="deg")
    distance, direction = centre.separation(sky).arcsec, centre.position_angle(sky).rad
    # from west to north
    turn = np.radians(20)
    west, north = -distance * np.sin(direction), distance * np.cos(direction)
    along = west * np.cos(turn) + north * np.sin(turn)
    across = north * np.cos(turn) - west * np.sin(turn)
    value = (along / 60) ** 2 + (across / 12) ** 2
    differs = out != (value <= 1)
    assert (abs(value[differs] - 1) < 1e-6).all()


def test_with_north_up_sky_and_image_angles_agree():
    frame = wcs()
    sky = drawn('fk5; box(187.70593,12.39112,40.5",12.5",30)', wcs=frame)
    image = drawn("image; box(131,101,40.5,12.5,30)")
    assert (sky != image).sum() <= 2


@pytest.mark.parametrize(
    "position",
    [
        "187.70593,12.39112", "187.70593d 12.39112d", "12:30:49.4232,+12:23:28.032",
        "12h30m49.4232s,+12d23m28.032s", "3.27608647r,0.21626584r",
    ],
)  # fmt: skip
def test_positions_on_the_sky_are_read_in_every_notation(position):
    region = parse_regions(f'icrs;circle({position},5")')[0]
    assert region.points[0] == pytest.approx((187.70593, 12.39112), abs=2e-6)
    assert region.sizes == (5 / 3600,)


def test_negative_declinations_between_0_and_minus_1_keep_their_sign():
    assert parse_regions('fk5;circle(0:0:0,-00:30:00,1")')[0].points[0][1] == -0.5


def test_galactic_degrees_are_no_hours_and_land_in_the_right_place():
    centre = SkyCoord(187.70593, 12.39112, unit="deg").galactic
    out = drawn(f'galactic\ncircle({centre.l.deg},{centre.b.deg},6")', wcs=wcs())
    assert np.array_equal(out, np.hypot(X - 130, Y - 100) <= 6)


@pytest.mark.parametrize("size", ["0.5'", '30"', "0.00833333333d", "30i"])
def test_lengths_are_read_in_every_unit(size):
    out = drawn(f"icrs;circle(187.70593,12.39112,{size})", wcs=wcs())
    assert out.sum() == pytest.approx(np.pi * 30**2, rel=0.01)


def test_a_radius_in_arcsec_about_a_pixel_is_turned_into_pixels():
    out = drawn('image;circle(131,101,10")', wcs=wcs(scale=0.5))
    assert out.sum() == pytest.approx(np.pi * 20**2, rel=0.01)


def test_a_large_circle_is_right_to_the_thousandth_of_a_pixel():
    frame = wcs(20, scale=20.0)
    out = drawn("icrs;circle(187.3,12.1,0.4)", wcs=frame)
    sky = SkyCoord(*frame.all_pix2world(X, Y, 0), unit="deg")
    distance = sky.separation(SkyCoord(187.3, 12.1, unit="deg")).deg
    differs = out != (distance <= 0.4)
    assert (abs(distance[differs] - 0.4) < 20 / 3600 * 1e-3).all()


def test_vectors_on_the_sky_run_along_it():
    out = drawn('fk5\n# vector(187.70593,12.39112,40",90) vector=1', wcs=wcs())
    assert np.array_equal(out, (X == 130) & (Y >= 100) & (Y <= 140))


def test_physical_coordinates_follow_the_cards_of_the_header():
    header = {"LTV1": -100.0, "LTV2": 10.0, "LTM1_1": 0.5, "LTM2_2": 0.5}
    out = drawn("physical;point(302,20)", header=header)
    assert np.argwhere(out).tolist() == [[19, 50]]
    # and are those of the image without such cards
    assert np.argwhere(drawn("point(51,20)")).tolist() == [[19, 50]]


def test_excluded_regions_are_taken_out_whatever_the_order():
    both = "image\n{}\n{}\n"
    out = drawn(both.format("-circle(50,50,5)", "box(50,50,20,20,0)"))
    assert np.array_equal(out, drawn(both.format("+box(50,50,20,20,0)", "-circle(50,50,5)")))
    assert not out[49, 49]
    assert out[42, 42]
    alone = drawn("image;-circle(50,50,5)")
    assert alone.sum() == alone.size - drawn("image;circle(50,50,5)").sum()


def test_a_file_as_the_viewer_writes_it_is_read():
    text = (
        "# Region file format: DS9 version 4.1\n"
        'global color=green dashlist=8 3 width=1 font="helvetica 10 normal roman" select=1\n'
        "fk5\n"
        '-circle(12:30:49.4232,+12:23:28.032,5.000") # color=red text={M 87; nucleus}\n'
        'circle(187.70593,12.39112,20.000") # text={a # sign}\n'
        "# composite(187.7,12.39,0) || composite=1\n"
        'annulus(187.70593,12.39112,30",35") || # color=blue\n'
        "image;point(3,4);point(5,6)\n"
    )
    regions = parse_regions(text)
    assert [r.kind for r in regions] == ["circle", "circle", "annulus", "point", "point"]
    assert [r.exclude for r in regions] == [True, False, False, False, False]
    assert regions[-1].system == "image"
    assert regions[0].line == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("circle(1,2)", "circle with 2 numbers"),
        ("circle(1,2,3,4)", "circle with 4 numbers"),
        ("circle(1,x,3)", "no pixel position"),
        ("circle(1,2,-3)", "no length"),
        ("circle(1,2,3k)", "no length"),
        ("circle(1,2,nan)", "no length"),
        ("circle(1,2,3", "no pixel position"),
        ("ellipse(1,2,3)", "ellipse with"),
        ("box(1,2,3)", "box with"),
        ("annulus(1,2,9,5)", "do not grow"),
        ('annulus(1,2,3,5")', "in pixels and in degrees"),
        ("polygon(1,2,3,4)", "polygon with 2 points"),
        ("polygon(1,2,3,4,5)", "expected pairs"),
        ("line(1,2,3,4,5,6)", "line with 3 points"),
        ("text(1,2)", "no shape that can be masked"),
        ("wcsa", "no shape|not a region"),
        ("circle(1,2,3) circle(4,5,6)", "not a region|circle|no pixel"),
        ("fk5;circle(12:61:00,0:0:0,3)", "60 or more minutes"),
        ("fk5;circle(12h,3,4)", "no position on the sky"),
    ],
)
def test_what_is_not_understood_is_an_error_with_its_line(line, message):
    with pytest.raises(SkymillError, match=message) as error:
        parse_regions(f"# first\nimage\n{line}\n", "my.reg")
    assert "my.reg, line 3" in str(error.value)


def test_a_region_on_the_sky_needs_celestial_coordinates():
    with pytest.raises(SkymillError, match=r"line 1.*no celestial coordinates"):
        drawn('fk5;circle(1,2,3")')
    with pytest.raises(SkymillError, match="no celestial coordinates"):
        drawn('image;circle(1,2,3")')


def test_regions_outside_the_frame_and_behind_the_sky_mask_nothing():
    assert not drawn("image;circle(-500,20,30)").any()
    assert not drawn("icrs;circle(7.7,-12.4,30)", wcs=wcs()).any()
    assert not drawn("icrs;polygon(7,-12,8,-12,8,-11)", wcs=wcs()).any()


def test_no_regions_mask_nothing():
    assert not drawn("# Region file format: DS9\nimage\n").any()
