"""Drawings put points where they belong and hold whatever comes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from astropy.table import Table

from skymill.report.curves import field_curves
from skymill.report.model import METRICS, FrameRow
from skymill.report.plots import filter_class, quality, scatter, scatter_over_magnitude, time_axis
from skymill.report.svg import Svg, span_of, ticks
from skymill.report.wording import facts


def frame(
    name: str, mjd: float | None, night: str = "n1", band: str = "V", **metrics: float
) -> FrameRow:
    return FrameRow(
        name, f"{name}.fits", "light", "cam", "m67", "", band, night, "", mjd, 60.0, metrics=metrics
    )


def points_of(svg: str) -> list[tuple[float, float, int]]:
    """All points with the number that they stand for."""
    out = []
    for d, index in re.findall(r'd="([^"]*)" data-i="([^"]*)"', svg):
        where = re.findall(r"M([-\d.]+) ([-\d.]+)h", d)
        assert len(where) == len(index.split())
        out += [
            (float(x), float(y), int(i)) for (x, y), i in zip(where, index.split(), strict=True)
        ]
    return out


@pytest.mark.parametrize("limits", [(0, 1), (-3.2, 7.9), (1e-6, 3e-6), (19.99, 20.01), (0, 65535)])
def test_ticks_lie_inside_and_are_few_and_round(limits):
    values = ticks(*limits)
    assert all(limits[0] - 1e-9 <= v <= limits[1] + 1e-9 for v in values)
    assert 2 <= len(values) <= 11
    steps = np.diff(values)
    assert steps == pytest.approx(steps[0])


def test_axis_holds_everything_unless_a_few_lie_far_out():
    near = list(np.linspace(1, 2, 100))
    low, high = span_of(near)
    assert low < 1
    assert high > 2
    assert span_of([*near, 50.0])[1] < 4
    assert span_of([*near, 2.5])[1] > 2.5
    assert span_of([]) == (0.0, 1.0)
    assert span_of([float("nan"), 3.0])[0] < 3.0 < span_of([3.0])[1]


def test_time_axis_keeps_order_and_closes_the_gaps_between_nights():
    frames = [frame(f"a{n}", 60000.7 + 0.01 * n) for n in range(10)]
    frames += [frame(f"b{n}", 60200.7 + 0.01 * n, "n2") for n in range(10)]
    axis = time_axis([*frames, frame("c", None)])
    where = [axis.where[f.frame_id] for f in frames]
    assert where == sorted(where)
    assert min(where) >= 0
    assert max(where) <= 1
    assert "c" not in axis.where
    assert [name for name, _, _ in axis.nights] == ["n1", "n2"]
    # 200 days without a frame take less room than a night
    assert where[10] - where[9] < where[9] - where[0]


def test_each_frame_is_one_point_and_higher_values_are_higher():
    frames = [frame(f"f{n}", 60000.8 + 0.01 * n, fwhm=2.0 + 0.1 * n) for n in range(12)]
    index = {f.frame_id: n + 100 for n, f in enumerate(frames)}
    svg = str(quality(METRICS[0], "px", frames, {}, time_axis(frames), index))
    ET.fromstring(svg)
    points = sorted(points_of(svg), key=lambda p: p[2])
    assert [p[2] for p in points] == list(range(100, 112))
    assert [p[0] for p in points] == sorted(p[0] for p in points)
    assert [p[1] for p in points] == sorted((p[1] for p in points), reverse=True)


def test_unused_frames_are_rings():
    frames = [frame(f"f{n}", 60000.8 + 0.01 * n, fwhm=2.0 + 0.1 * n) for n in range(4)]
    index = {f.frame_id: n for n, f in enumerate(frames)}
    svg = str(quality(METRICS[0], "px", frames, {"f2": "rejected"}, time_axis(frames), index))
    rings = re.findall(r'class="pts ring[^"]*"[^>]*data-i="([^"]*)"', svg)
    assert rings == ["2"]


def test_text_is_escaped_everywhere():
    evil = '<script>"&'
    svg = Svg(10, 10, evil, data={"x": evil})
    svg.text(0, 0, evil)
    svg.path("M0 0", "a", evil)
    root = ET.fromstring(str(svg.render()))
    assert root.get("aria-label") == evil
    assert root[0].text == evil
    assert "<script>" not in str(svg.render())


def test_known_filters_have_their_colours_and_unknown_ones_differ():
    names = ["R", "odd2", "odd1", "r"]
    assert filter_class("R", names) == filter_class("r", names) == "f-r"
    assert filter_class("odd1", names) != filter_class("odd2", names)
    assert filter_class("<b>", ["<b>"]).startswith("f-x")


def test_scatter_holds_single_and_equal_points():
    svg = str(scatter([(1.0, 2.0, "f-v", "dot", 0)] * 2, label="l", x_name="x", y_name="y"))
    ET.fromstring(svg)
    assert len(points_of(svg)) == 2


def make_curves(n: int, epochs: int, *, calibrated: bool, barycentric: bool) -> tuple[Table, Table]:
    rng = np.random.default_rng(5)
    points: dict[str, list[Any]] = {
        key: []
        for key in (
            "source",
            "filter",
            "mjd_mid",
            "bjd_tdb",
            "rel_flux",
            "rel_flux_err",
            "flux_corr",
            "mag",
            "flags",
        )
    }
    for source in range(n):
        for epoch in range(epochs):
            rel = 1 + 0.01 * rng.normal() + (0.2 * (-1) ** epoch if source == 7 else 0)
            values = (
                source,
                "V",
                60000.0 + epoch,
                2460000.5 + epoch if barycentric else np.nan,
                rel,
                0.01,
                100 * rel,
                20.0 - 2.5 * np.log10(100 * rel) if calibrated else np.nan,
                256,
            )
            for key, value in zip(points, values, strict=True):
                points[key].append(value)
    rms = [200.0 if source == 7 else 10.0 for source in range(n)]
    stats = Table(
        {
            "source": np.arange(n),
            "filter": ["V"] * n,
            "n": [epochs] * n,
            "median_flux": [100.0] * n,
            "rms_mmag": rms,
            "expected_mmag": [10.8] * n,
            "comparison": np.arange(n) % 10 == 0,
        }
    )
    return Table(points), stats


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("barycentric", [True, False])
def test_light_curves_work_without_zero_point_and_without_barycentre(calibrated, barycentric):
    field = field_curves(
        "f", *make_curves(20, 8, calibrated=calibrated, barycentric=barycentric), max_curves=3
    )
    assert field.curves[0].source == "7"
    assert len(field.curves) == 3
    assert field.absolute is calibrated
    assert field.time_name == ("BJD_TDB" if barycentric else "MJD")
    assert field.curves[0].time[0] == (2460000.5 if barycentric else 60000.0)
    # median_flux is 100: magnitude 20 - 5 with a zero point of 20, -5 without
    assert field.points[0].mag == pytest.approx(15.0 if calibrated else -5.0, abs=1e-9)
    # the missing barycentric time (bit 256) does not make a point bad
    assert len(field.curves[0].time) == 8
    ET.fromstring(str(scatter_over_magnitude(field, 0)))


def test_very_many_sources_are_thinned_but_never_the_variable_ones():
    points, stats = make_curves(300, 6, calibrated=True, barycentric=True)
    field = field_curves("f", points, stats, max_curves=2, max_sources=50)
    assert field.total == 300
    assert len(field.points) <= 50
    assert "7" in {p.source for p in field.points}
    assert sum(p.is_comparison for p in field.points) == 30


def test_points_drawn_are_limited():
    tables = make_curves(20, 10, calibrated=True, barycentric=True)
    field = field_curves("f", *tables, max_curves=20, max_points=35)
    assert sum(len(c.time) for c in field.curves) == 30


def test_figures_are_said_with_their_units_the_important_ones_first():
    said = facts(
        {
            "n_used": 9,
            "mjd_avg": 60738.87654,
            "zeta": None,
            "n_hot": 12345,
            "read_noise_declared_e": 9.3,
            "read_noise_e": 4.312,
            "gain_e_adu": 3.67,
            "exptime_total_s": 3360.0,
        }
    )
    assert said == [
        ("read noise", "4.312 e⁻"),
        ("read noise declared", "9.3 e⁻"),
        ("gain", "3.67 e⁻/ADU"),
        ("total exposure", "3\u202f360 s"),
        ("MJD avg", "60738.877"),
        ("hot", "12\u202f345"),
    ]
