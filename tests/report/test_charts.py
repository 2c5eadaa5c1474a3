import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.report import charts
from zscir.report.charts import Series, curve_panel, read_curve, smoothed, weight_panel
from zscir.runtime.schemas import CURVE_SCHEMA, write_table
from zscir.store.artifacts import Artifact


def curve(folder: Path, rows: list[tuple[int, str, float]]) -> Artifact:
    named = [{"step": step, "name": name, "value": value} for step, name, value in rows]
    write_table(folder / "curve.parquet", CURVE_SCHEMA, named)
    return Artifact.of_folder(folder)


def test_a_short_curve_is_shown_as_it_is(tmp_path: Path) -> None:
    rows = [(step, name, step + offset) for step in range(5) for name, offset in (("loss", 0.5), ("lr", 10.0))]
    loss, lr = read_curve(curve(tmp_path, rows))
    assert loss == Series("loss", [0, 1, 2, 3, 4], [0.5, 1.5, 2.5, 3.5, 4.5])
    assert lr.y == [10, 11, 12, 13, 14]


def test_a_long_curve_is_averaged_over_equal_stretches(tmp_path: Path) -> None:
    (loss,) = read_curve(curve(tmp_path, [(step, "loss", float(step % 2)) for step in range(2400)]))
    assert len(loss.x) == charts.MAX_POINTS
    assert loss.x[:2] == [4.5, 14.5]
    assert set(loss.y) == {0.5}


def test_no_more_names_are_drawn_than_a_page_holds(tmp_path: Path) -> None:
    found = read_curve(curve(tmp_path, [(0, f"part {number}", 1.0) for number in range(100)]))
    assert len(found) == charts.MAX_NAMES


def test_an_empty_curve_is_no_curve(tmp_path: Path) -> None:
    assert read_curve(curve(tmp_path, [])) == []


@given(st.lists(st.floats(-100, 100), min_size=1), st.integers(1, 9))
def test_smoothing_is_the_mean_of_the_neighbours(values: list[float], window: int) -> None:
    half = window // 2
    for place, value in enumerate(smoothed(values, window)):
        near = values[max(0, place - half) : place + half + 1]
        assert value == pytest.approx(sum(near) / len(near), abs=1e-9)


def test_a_chart_is_the_same_every_time_and_names_no_date() -> None:
    series = Series("loss", [0, 1, 2], [3, 2, 1])
    svg = curve_panel(series, 0, "train: loss")
    assert svg == curve_panel(series, 0, "train: loss")
    assert "metadata" not in svg
    assert "date" not in svg.lower()


def test_a_name_is_text_and_never_markup_or_mathematics() -> None:
    hostile = 'a<script>"$x^2$&漢字'
    for svg in (
        curve_panel(Series(hostile, [0, 1], [1, 2]), 0, hostile),
        weight_panel([(Series(hostile, [0, 1], [1, 2]), 1, None)], hostile),
    ):
        assert "<script" not in svg
        root = ET.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1))  # noqa: S314
        assert root.attrib["aria-label"] == hostile


def test_two_charts_on_one_page_share_no_id() -> None:
    series = Series("loss", [0, 1], [1, 2])
    ids = [
        set(charts.re.findall(r'\bid="([^"]+)"', curve_panel(series, 0, title))) for title in ("one: loss", "two: loss")
    ]
    assert len(ids[0]) > 5
    assert not ids[0] & ids[1]


def test_colours_come_from_the_style_of_the_page() -> None:
    svg = curve_panel(Series("loss", [0, 1], [1, 2]), 1, "t")
    assert "var(--c2)" in svg
    assert "var(--line)" in svg
    assert not [colour for colour in (charts.INK_COLOUR, charts.LINE_COLOUR, *charts.SERIES_COLOURS) if colour in svg]


def test_the_chosen_weight_is_ringed_on_its_line_and_nowhere_else() -> None:
    line = Series("sum", [0.0, 0.5, 1.0], [10.0, 20.0, 15.0])
    rings = {
        chosen: weight_panel([(line, 2, chosen)], "t").count("<use") for chosen in (None, 0.5, 0.7)
    }  # three points each, and a ring where the weight is one of the grid
    assert rings[0.5] == rings[None] + 1
    assert rings[0.7] == rings[None]
    assert "var(--c2)" in weight_panel([(line, 2, 0.5)], "t")
