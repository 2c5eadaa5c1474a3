from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from zscir.report.graph_layout import BOX_HEIGHT, BOX_WIDTH, GAP_X, layers, layout_graph

EIGHT = [f"s{number}" for number in range(8)]


@st.composite
def pipelines(pick: st.DrawFn) -> dict[str, list[str]]:
    """Steps that read some of the steps before them."""
    count = pick(st.integers(1, 8))
    return {
        name: pick(st.lists(st.sampled_from(EIGHT[:at] or [name]), unique=True)) if at else []
        for at, name in enumerate(EIGHT[:count])
    }


@given(pipelines())
def test_boxes_never_touch_and_stand_inside_the_picture(parents: dict[str, list[str]]) -> None:
    drawing = layout_graph(parents)
    assert sorted(box.name for box in drawing.boxes) == sorted(parents)
    for one, other in combinations(drawing.boxes, 2):
        apart = abs(one.x - other.x) >= BOX_WIDTH + GAP_X - 0.2 or abs(one.y - other.y) >= BOX_HEIGHT
        assert apart, (one, other)
    for box in drawing.boxes:
        assert 0 <= box.x <= drawing.width - BOX_WIDTH + 0.2
        assert 0 <= box.y <= drawing.height - BOX_HEIGHT


@given(pipelines())
def test_a_step_stands_below_everything_it_reads(parents: dict[str, list[str]]) -> None:
    at = {box.name: box.y for box in layout_graph(parents).boxes}
    assert all(at[parent] < at[name] for name, above in parents.items() for parent in above)


@given(pipelines())
def test_every_reading_is_drawn(parents: dict[str, list[str]]) -> None:
    arrivals = sum(wire.reaches_box for wire in layout_graph(parents).edges)
    assert arrivals == sum(len(above) for above in parents.values())


def test_the_same_steps_give_the_same_picture() -> None:
    parents = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c", "a"]}
    assert layout_graph(parents) == layout_graph(dict(parents))


def test_a_source_stands_just_above_its_first_reader() -> None:
    assert layers({"a": [], "b": ["a"], "world": [], "c": ["b", "world"]}) == {"a": 0, "b": 1, "world": 1, "c": 2}


def test_no_steps_make_an_empty_picture() -> None:
    assert layout_graph({}).boxes == ()


def test_a_chain_is_a_straight_line() -> None:
    boxes = layout_graph({"a": [], "b": ["a"], "c": ["b"]}).boxes
    assert len({box.x for box in boxes}) == 1


def test_two_children_stand_beside_each_other_under_the_middle_of_their_parent() -> None:
    at = {box.name: box.x for box in layout_graph({"a": [], "b": ["a"], "c": ["a"]}).boxes}
    assert at["a"] == (at["b"] + at["c"]) / 2
