import pyarrow.parquet as pq
import pytest

from tests.support.small_run import BENCHMARKS, EvaluateSpec, RecordedRun, evaluate, new_store, shared_store
from zscir.report.breakdown_tables import Breakdown, breakdowns
from zscir.report.run_data import read_record
from zscir.stages.tabletop_benchmarks import tabletop_benchmarks

METHODS = ["image only", "text only", "sum, lambda 0.4, tuned", "pli", "tscir_map"]


@pytest.fixture(scope="module")
def tables() -> list[Breakdown]:
    return breakdowns(read_record(shared_store(), "latest"))


def queries_of(step: str) -> list[dict[str, object]]:
    record = read_record(shared_store(), "latest")
    (artifact,) = [
        artifact for record_step, artifact in record.steps_with_artifact("evaluate") if record_step.name == step
    ]
    found: list[dict[str, object]] = pq.read_table(artifact.path("queries.parquet")).to_pylist()
    return found


def test_every_method_stands_beside_the_controls_in_every_table(tables: list[Breakdown]) -> None:
    assert [table.title for table in tables] == ["FashionIQ", "CIRR", "CIRCO", "CIRCO"]
    for table in tables:
        assert [line.method for line in table.rows] == METHODS
        assert [line.kind for line in table.rows] == ["control"] * 3 + ["method"] * 2
        assert table.remarks == ()
        assert all(len(line.cells) == len(table.columns) for line in table.rows)
        assert sum(group.columns for group in table.groups) == len(table.columns)


def test_the_bar_says_how_often_the_reference_itself_came_first(tables: list[Breakdown]) -> None:
    cirr = next(table for table in tables if table.title == "CIRR")
    ranks = [row["reference_rank"] for row in queries_of("score_pli") if row["benchmark"] == "cirr"]
    line = next(line for line in cirr.rows if line.method == "pli")
    shares = {share.group: (share.n, share.percent) for share in line.shares}
    assert cirr.bar
    assert shares.get("reference first", (0, 0))[0] == ranks.count(1)
    assert sum(n for n, _ in shares.values()) == len(ranks)
    assert sum(percent for _, percent in shares.values()) == pytest.approx(100)


def test_categories_are_taken_together_and_the_table_says_so(tables: list[Breakdown]) -> None:
    fashioniq = tables[0]
    assert "the queries of all categories together" in fashioniq.about
    assert sum(share.n for share in fashioniq.rows[0].shares) == 3 * BENCHMARKS.fashioniq_queries


def test_circo_has_its_aspects_with_the_metric_of_its_authors(tables: list[Breakdown]) -> None:
    aspects = tables[3]
    assert [group.name for group in aspects.groups] == ["mAP@10 by semantic aspect"]
    assert not aspects.bar
    record = read_record(shared_store(), "latest")
    (artifact,) = [
        artifact for record_step, artifact in record.steps_with_artifact("evaluate") if record_step.name == "score_pli"
    ]
    official = {
        row["metric"].partition("/")[2]: row["value"]
        for row in pq.read_table(artifact.path("scores.parquet")).to_pylist()
        if row["metric"].startswith("semantic")
    }
    line = next(line for line in aspects.rows if line.method == "pli")
    shown = {name: cell.value for name, cell in zip(aspects.columns, line.cells, strict=True) if cell}
    assert shown == pytest.approx(official)


def test_lengths_are_relative_to_the_longest_of_the_table(tables: list[Breakdown]) -> None:
    for table in tables:
        widths = [cell.width for line in table.rows for cell in line.cells if cell]
        assert max(widths) in (0.0, 100.0)
        assert min(widths) >= 0


def test_a_breakdown_without_controls_says_so() -> None:
    run = RecordedRun(new_store("broken-alone"), "20260101-000000-aaaaaa")
    world = run.step("tabletop_benchmarks", tabletop_benchmarks, BENCHMARKS)
    run.step("score", evaluate, EvaluateSpec(method="pli", skill=0.3), benchmarks=world)
    for table in breakdowns(read_record(run.store, "latest")):
        assert [remark.split(":")[0] for remark in table.remarks] == ["CONTROLS MISSING"]


def test_a_run_without_evaluation_has_no_breakdown() -> None:
    run = RecordedRun(new_store("unbroken"), "20260101-000000-aaaaaa")
    assert breakdowns(read_record(run.store, "latest")) == []
