from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.small_run import RecordedRun, new_store, shared_store
from zscir.benchmarks.comparability import ComparisonGroup
from zscir.benchmarks.leaderboard import HitCounts, LeaderboardEntry, measured_entries, published_entries
from zscir.lineage.sql_views import REAL_SCORES_SQL, query_store_rows
from zscir.pipeline.stage import stage
from zscir.report.leaderboard_page import (
    LeaderboardTable,
    leaderboard_tables,
    run_leaderboards,
    sorting_style,
    write_leaderboard_page,
)
from zscir.report.run_data import read_record
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import INTERVALS_SCHEMA, SCORES_SCHEMA, write_table
from zscir.runtime.settings import data_specs
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Facts

CIRR = ComparisonGroup("cirr", "test1", "official")


def entry(
    method: str, ours: bool = False, backbone: str = "B", control: str | None = None, **values: float
) -> LeaderboardEntry:
    named = {name.replace("R", "R@"): value for name, value in values.items()}
    counts = (
        {metric: HitCounts(400, round(4 * value), value - 5, value + 5) for metric, value in named.items()}
        if ours
        else {}
    )
    return LeaderboardEntry(CIRR, method, backbone, named, f"by {method}", ours=ours, control=control, counts=counts)


def in_order(board: LeaderboardTable, name: str) -> list[str]:
    """The methods as the heading ``name`` orders them."""
    (heading,) = [found for column in board.columns for found in column.headings if found.name == name]
    return [row.entry.method for row in sorted(board.rows, key=lambda row: row.places[heading.number])]


def test_each_heading_has_an_order_of_its_own() -> None:
    entries = [entry("b", R1=1.0, R5=9.0), entry("C", backbone="A", R1=3.0), entry("a", R1=2.0, R5=5.0)]
    (board,) = leaderboard_tables(entries)
    assert in_order(board, "R@1") == ["C", "a", "b"]
    assert in_order(board, "R@5") == ["b", "a", "C"]  # without a number: last
    assert in_order(board, "method") == in_order(board, "source") == ["a", "b", "C"]
    assert in_order(board, "backbone")[0] == "C"
    assert [row.entry.method for row in board.rows] == ["C", "a", "b"]  # without a style sheet: by the first metric


@given(st.lists(st.tuples(st.text(max_size=3), st.none() | st.floats(0, 100)), min_size=1, max_size=12))
def test_every_row_has_a_place_of_its_own_and_numbers_fall(drawn: list[tuple[str, float | None]]) -> None:
    named = [entry(name, R1=1.0, **({} if value is None else {"R5": value})) for name, value in drawn]
    (board,) = leaderboard_tables(named)
    for number in range(len(board.columns) + 1):
        assert sorted(row.places[number] for row in board.rows) == list(range(len(named)))
    if any(value is not None for _, value in drawn):
        rows = sorted(board.rows, key=lambda row: row.places[3])
        values = [row.entry.values.get("R@5", -1.0) for row in rows]
        assert values == sorted(values, reverse=True)


def test_hits_n_and_interval_stand_beside_ours_and_a_mark_beside_second_hand_ones() -> None:
    quoted = LeaderboardEntry(CIRR, "theirs", "B", {"R@1": 20.5}, "a survey", "a note", second_hand=True)
    (board,) = leaderboard_tables([entry("mine", ours=True, R1=30.0, R5=50.0), quoted])
    mine, theirs = board.rows
    assert [(cell.text, cell.of, cell.interval) for cell in mine.cells] == [
        ("30.00", "120/400", "25.0 to 35.0"), ("50.00", "200/400", "45.0 to 55.0"),
    ]  # fmt: skip
    assert [(cell.text, cell.of, cell.interval) for cell in theirs.cells] == [("20.5†", "", ""), ("-", "", "")]
    assert board.mixed


def test_protocols_have_boards_of_their_own() -> None:
    easier = LeaderboardEntry(ComparisonGroup("circo", "test", "official", "shared_concept"), "m", "B", {"mAP@5": 30.0})
    usual = LeaderboardEntry(ComparisonGroup("circo", "test", "official"), "m", "B", {"mAP@5": 10.0})
    other = LeaderboardEntry(ComparisonGroup("circo", "test", "reference_excluded"), "m", "B", {"mAP@5": 12.0})
    boards = leaderboard_tables([easier, usual, other])
    abouts = ["test, official", "test, official, shared_concept", "test, reference_excluded"]
    assert sorted(board.about for board in boards) == abouts
    assert all(len(board.rows) == 1 for board in boards)
    shipped = leaderboard_tables(published_entries(data_specs() / "published"))
    assert len({(board.title, board.about) for board in shipped}) == len(shipped)
    assert all(len({row.entry.group for row in board.rows}) == 1 for board in shipped)


def test_ours_without_controls_have_a_remark() -> None:
    (board,) = leaderboard_tables([entry("mine", ours=True, R1=30.0), entry("theirs", R1=20.0)])
    assert board.remarks == ("CONTROLS MISSING: no image only, no text only, no sum of B among ours.",)
    controls = [entry(kind, ours=True, control=kind, R1=1.0) for kind in ("image", "text", "sum")]
    (board,) = leaderboard_tables([entry("mine", ours=True, R1=30.0), *controls])
    assert board.remarks == ()


def test_toy_scores_never_stand_beside_published_ones() -> None:
    toys, theirs = run_leaderboards(read_record(shared_store(), "latest"))
    assert "tabletop world" in toys.title
    assert all(row.entry.ours for board in toys.tables for row in board.rows)
    assert not any(row.entry.ours for board in theirs.tables for row in board.rows)
    assert theirs.folded
    assert [board.title for board in toys.tables] == ["FashionIQ", "CIRR", "CIRCO", "GeneCIS"]


def test_there_is_a_rule_for_every_heading() -> None:
    groups = run_leaderboards(read_record(shared_store(), "latest"))
    style = sorting_style(groups)
    numbers = {
        heading.number
        for group in groups
        for board in group.tables
        for column in board.columns
        for heading in column.headings
    }
    assert all(f".by-{number}:checked) .entry {{ order: var(--o{number}); }}" in style for number in numbers)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_of_a_leaderboard_holds_no_script_and_names_stay_text(tmp_path: Path) -> None:
    hostile = LeaderboardEntry(
        CIRR, "<script>alert(1)</script>", '"><img src=x>', {"R@1": 3.0, "</style>": 1.0}, "'--o0:9", "{{ 7*7 }}"
    )
    path = write_leaderboard_page([hostile, entry("mine", ours=True, R1=30.0)], tmp_path / "deep" / "board.html")
    page = Tags()
    page.feed(path.read_text(encoding="utf-8"))
    assert page.open == []
    tags = {tag for tag, _ in page.seen}
    assert not tags & {"script", "img", "link", "form"}
    assert "49" not in path.read_text(encoding="utf-8").split("<body>")[1]
    radios = [attributes for tag, attributes in page.seen if tag == "input"]
    assert all(radio["type"] == "radio" and (radio["aria-label"] or "").startswith("sort by ") for radio in radios)
    assert sum("checked" in radio for radio in radios) == len({radio["name"] for radio in radios}) == 1


def test_a_leaderboard_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="this is a folder"):
        write_leaderboard_page([entry("mine", R1=1.0)], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot write the leaderboard there"):
        write_leaderboard_page([entry("mine", R1=1.0)], tmp_path / "file" / "board.html")


class NumbersSpec(Spec):
    """One evaluation of CIRR."""

    method: str
    value: float
    control: str | None = None
    seed: int = 0


@stage(version=1)
def evaluate(spec: NumbersSpec, out: Path) -> Facts:
    """Scores and what stands beside them."""
    who = {"benchmark": "fashioniq/mean", "split": "val", "protocol": "original/pli/clip", "method": spec.method}
    row = {**who, "backbone": "B", "metric": "R@10", "value": spec.value, "n": 200}
    beside = {"hits": 50, "low": spec.value - 1, "high": spec.value + 1, "control": spec.control, "allow_missing": None}
    write_table(out / "scores.parquet", SCORES_SCHEMA, [row])
    write_table(out / "intervals.parquet", INTERVALS_SCHEMA, [row | beside])
    return {"rows": 1}


def test_real_scores_stand_beside_published_ones_with_all_that_belongs_to_them() -> None:
    run = RecordedRun(new_store("real"), "20260101-000000-aaaaaa")
    run.step("one", evaluate, NumbersSpec(method="mine", value=25.0))
    run.step("again", evaluate, NumbersSpec(method="mine", value=24.0, seed=1))
    run.step("control", evaluate, NumbersSpec(method="my sum", value=20.0, control="sum"))
    run.recorder.finish("succeeded")
    (group,) = run_leaderboards(read_record(run.store, "latest"))
    entries = measured_entries(query_store_rows(run.store, REAL_SCORES_SQL))
    for board in (group.tables[0], leaderboard_tables([*published_entries(data_specs() / "published"), *entries])[0]):
        assert (board.title, board.about, board.mixed) == ("FashionIQ", "val, original", True)
        ours = [row for row in board.rows if row.entry.ours]
        assert [(row.entry.method, row.entry.control, row.cells[0].text) for row in ours] == [
            ("mine", None, "25.00"), ("mine", None, "24.00"), ("my sum", "sum", "20.00"),
        ]  # fmt: skip
        assert (ours[0].cells[0].of, ours[0].cells[0].interval) == ("50/200", "24.0 to 26.0")
        assert board.remarks == ("CONTROLS MISSING: no image only, no text only of B among ours.",)
    assert not group.folded
    toys = measured_entries(query_store_rows(shared_store(), REAL_SCORES_SQL))
    assert toys == []
