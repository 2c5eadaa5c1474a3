"""tabulate: the scores of several evaluations become one table, as Parquet, Markdown and CSV."""

import csv
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from zscir.benchmarks.comparability import comparison_group_of, split_protocol
from zscir.evaluation.score_tables import (
    build_score_grid,
    control_kind,
    missing_controls,
    score_tables_markdown,
    wide_rows,
)
from zscir.evaluation.significance import (
    HeadlineValues,
    collect_headline_values,
    paired_test_rows,
    paired_tests_markdown,
)
from zscir.pipeline.stage import stage
from zscir.runtime.schemas import INTERVALS_SCHEMA, PER_QUERY_SCHEMA, SCORES_SCHEMA, read_rows, schema_of, write_table
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts

SCORE_TABLE_SCHEMA = schema_of(
    evaluation="i64", method="str", backbone="str", benchmark="str", split="str", ranking="str", texts="str",
    preprocessing="str", metric="str", value="f64", n="i64", hits="i64?", low="f64?", high="f64?", control="str?",
    allow_missing="i64?",
)  # fmt: skip
PAIRED_TESTS_SCHEMA = schema_of(
    first="i64",
    second="i64",
    benchmark="str",
    split="str",
    ranking="str",
    metric="str",
    difference="f64",
    won="i64",
    lost="i64",
    n="i64",
    p_value="f64",
)


class TabulateSpec(Spec):
    """The table's title; methods stand in the order of the input ``scores``."""

    title: Annotated[str, Field(min_length=1, max_length=200)] = "Scores"


@stage(version=2)
def tabulate(spec: TabulateSpec, scores: list[Artifact], out: Path) -> Facts:
    """Write ``table.parquet`` (a row per number), ``table.md`` (overview, then a table per benchmark and protocol),
    ``table.csv`` (a row per evaluation) and ``pairs.parquet`` (paired tests of the headline metrics, evaluations by
    their place in ``scores``; ``difference`` is second minus first). Two protocols never share a column, and a table
    says which controls (image only, text only, sum of the same backbone) it lacks; the fact counts them.
    """
    evaluations = [_rows(evaluation) for evaluation in scores]
    rows = [_row(number, row) for number, own in enumerate(evaluations) for row in own]
    write_table(out / "table.parquet", SCORE_TABLE_SCHEMA, rows)
    grid = build_score_grid(evaluations)
    inputs = [_paired_test_input(artifact, own) for artifact, own in zip(scores, evaluations, strict=True)]
    pairs = list(paired_test_rows(inputs))
    write_table(out / "pairs.parquet", PAIRED_TESTS_SCHEMA, pairs)
    (out / "table.md").write_text(
        score_tables_markdown(grid, spec.title) + paired_tests_markdown(grid, pairs), encoding="utf-8"
    )
    (out / "table.csv").write_text(_csv(wide_rows(grid)), encoding="utf-8", newline="")
    missing = len(missing_controls(grid, grid.groups()))
    return {"rows": len(rows), "evaluations": len(scores), **({"controls_missing": missing} if missing else {})}


def _rows(evaluation: Artifact) -> list[dict[str, Any]]:
    # Scores alone make a table too: an artifact of another stage may hold no more.
    if "intervals.parquet" in evaluation.entries:
        return read_rows(evaluation.path("intervals.parquet"), INTERVALS_SCHEMA)
    return read_rows(evaluation.path("scores.parquet"), SCORES_SCHEMA)


def _paired_test_input(evaluation: Artifact, rows: list[dict[str, Any]]) -> HeadlineValues:
    """What paired tests need to know of an evaluation."""
    there = "per_query.parquet" in evaluation.entries
    values = read_rows(evaluation.path("per_query.parquet"), PER_QUERY_SCHEMA) if there else []
    return collect_headline_values(values, {(row["benchmark"], row["split"]): comparison_group_of(row) for row in rows})


def _row(number: int, row: dict[str, Any]) -> dict[str, Any]:
    ranking, texts, preprocessing = split_protocol(row["protocol"])
    kept = {name: value for name, value in row.items() if name != "protocol"} | {"control": control_kind(row)}
    return {"evaluation": number, "ranking": ranking, "texts": texts, "preprocessing": preprocessing, **kept}


def _csv(rows: list[list[str]]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    # a cell that a spreadsheet would run as a formula gets a leading apostrophe
    writer.writerows([[f"'{cell}" if cell[:1] in "=+@" and cell else cell for cell in row] for row in rows])
    return text.getvalue()
