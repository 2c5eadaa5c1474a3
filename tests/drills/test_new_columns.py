"""Drill: a nullable column added to a table loses no row of an old store, and reads as null there."""

import json
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.drills.test_old_store import OLD_STORE, SECOND, json_rows
from tests.golden.cases import CASES, ROWS, TOYS, contents_of
from tests.support.toys import store_at
from zscir.lineage import tables
from zscir.lineage.previous_runs import PreviousRuns
from zscir.lineage.recorder import Recorder, RunInfo
from zscir.lineage.sql_views import LINEAGE_TABLES, RECORD_SCHEMAS, query_store, query_store_rows
from zscir.pipeline.stage import materialize, stage, stage_named
from zscir.report.artifact_reader import has_columns, read_first_rows
from zscir.runtime import schemas
from zscir.runtime.errors import RequestError
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, remove_scratch_files

TABLES = LINEAGE_TABLES | RECORD_SCHEMAS
NEW = "added_later"
SCORE = {"benchmark": "cirr", "split": "val", "protocol": "official/pli/clip", "method": "newer", "backbone": "toy",
         "metric": "R@1", "value": 50.0, "n": 4, NEW: 7}  # fmt: skip


@pytest.fixture
def store(tmp_path):
    """A copy of the old store."""
    shutil.copytree(OLD_STORE, tmp_path / "store")
    return store_at(tmp_path / "store", tmp_path / "cache")


def add_column(monkeypatch, name):
    """The schema of a table, with one more column that may be null, wherever a module of the product holds it."""
    old = TABLES[name]
    new = old.append(pa.field(NEW, pa.int64(), nullable=True))
    for module in [module for title, module in sys.modules.items() if title.startswith("zscir.")]:
        for attribute, value in list(vars(module).items()):
            if value is old:
                monkeypatch.setattr(module, attribute, new)
            elif isinstance(value, dict):
                for key in [key for key, schema in value.items() if schema is old]:
                    monkeypatch.setitem(value, key, new)


@stage(version=1)
def evaluate(spec: Spec, out: Path) -> dict[str, int]:
    """One score, written by the version that knows the new column."""
    schemas.write_table(out / "scores.parquet", schemas.SCORES_SCHEMA, [SCORE])
    return {"rows": 1}


def run_newer(store, run_id="20260201-120000-cccccc"):
    """A run of a version that knows the new columns, on top of what the store has."""
    info = RunInfo(run_id, "toy", "0" * 64, "cli", json.dumps({"pipeline": None, "set": []}))
    recorder = Recorder(store, info, PreviousRuns(store).artifact)
    with recorder.step("newer", "evaluate") as row:
        made = materialize(store, evaluate, Spec(), {})
        row.update(
            key=made.artifact.key, outcome=made.outcome, **({NEW: 7} if NEW in tables.STAGES_SCHEMA.names else {})
        )
    recorder.add_artifact(made.artifact)
    recorder.finish("succeeded")
    return made.artifact


@pytest.mark.parametrize("name", sorted(TABLES))
def test_no_row_of_a_view_is_lost_and_the_column_is_null(store, monkeypatch, name):
    before = query_store_rows(store, f"SELECT * FROM {name} ORDER BY ALL")  # noqa: S608 - our own names
    add_column(monkeypatch, name)
    after = query_store_rows(store, f"SELECT * FROM {name} ORDER BY ALL")  # noqa: S608 - our own names
    assert [row.pop(NEW) for row in after] == [None] * len(before)
    assert after == before
    kinds = query_store_rows(store, f"SELECT column_type AS kind FROM (DESCRIBE SELECT {NEW} FROM {name})")  # noqa: S608 - our own names
    assert kinds == [{"kind": "BIGINT"}]


def test_every_command_prints_of_an_old_store_what_it_printed_before(cli, store, monkeypatch):
    image = query_store_rows(store, "SELECT image_key FROM images WHERE status = 'ok' LIMIT 1")[0]["image_key"]
    key = query_store_rows(store, "SELECT key FROM artifacts WHERE stage = 'evaluate' ORDER BY key LIMIT 1")[0]["key"]

    def answers():
        page = cli("report", SECOND)
        html = Path(page[1].strip()).read_text()
        refs = [json_rows(cli("show", ref, "--json")) for ref in (SECOND, key, image)]
        text = json.dumps([json_rows(cli("runs", "--json")), refs, cli("leaderboard"), cli("verify"), cli("gc")])
        return text.replace(f', "{NEW}": null', ""), html.count("This part cannot be shown"), len(html)

    before = answers()
    for name in TABLES:
        add_column(monkeypatch, name)
    assert answers() == before
    assert before[1] == 0


def test_files_with_and_without_the_column_are_read_together(cli, store, monkeypatch):
    rows = query_store(store, "SELECT count(*) FROM scores")[1][0][0]
    steps = query_store(store, "SELECT count(*) FROM stages")[1][0][0]
    for name in ("scores", "stages"):
        add_column(monkeypatch, name)
    made = run_newer(store)
    count = "SELECT added_later, count(*) FROM {} GROUP BY ALL ORDER BY ALL"
    assert query_store(store, count.format("scores"))[1] == [(7, 1), (None, rows)]
    assert query_store(store, count.format("stages"))[1] == [(7, 1), (None, steps)]
    assert len(json_rows(cli("runs", "--json"))) == 3
    assert "**newer**" in cli("leaderboard")[1]
    assert read_first_rows(made, "scores.parquet", 5) == [SCORE]
    old = store.get("evaluate", query_store_rows(store, "SELECT artifact_key AS key FROM scores WHERE n = 4")[0]["key"])
    assert has_columns(old, "scores.parquet", [NEW])
    assert all(row[NEW] is None for row in read_first_rows(old, "scores.parquet", 5))


def test_columns_that_only_a_newer_version_knows_are_ignored(cli, store, monkeypatch):
    with monkeypatch.context() as newer:
        for name in ("scores", "stages", "artifacts", "run"):
            add_column(newer, name)
        made = run_newer(store)
    names, found = query_store(store, "SELECT * FROM scores WHERE method = 'newer'")
    assert names == [*schemas.SCORES_SCHEMA.names, "artifact_key"]
    assert len(found) == 1
    assert read_first_rows(made, "scores.parquet", 5) == [{name: SCORE[name] for name in schemas.SCORES_SCHEMA.names}]
    assert len(json_rows(cli("runs", "--json"))) == 3
    assert cli("report", "latest")[0] == 0
    # A later run copies the row about an artifact that it reuses into a table of its own.
    monkeypatch.setitem(SCORE, NEW, None)
    assert run_newer(store, "20260202-120000-dddddd").key == made.key
    assert len(query_store_rows(store, "SELECT * FROM artifacts WHERE key = $1", [made.key])) == 1


@pytest.mark.parametrize(("pattern", "column", "query"), [
    ("evaluate/*/scores.parquet", "metric", "SELECT * FROM scores"),
    (f"lineage/{SECOND}/stages.parquet", "outcome", "SELECT * FROM stages"),
])  # fmt: skip
def test_a_missing_column_that_may_not_be_null_is_an_error_with_file_and_column(store, pattern, column, query):
    path = min(Path(store.root).glob(pattern))
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns([column]), path)
    where = path.relative_to(store.root).as_posix()
    with pytest.raises(RequestError, match=rf"{store.root}/{where}: columns missing \['{column}'\]"):
        query_store(store, query)


def drop_empty_columns(folder):
    """Write the record tables of a folder as a version wrote them that had no columns but those with values."""
    dropped = 0
    for path in folder.glob("*.parquet"):
        table = pq.read_table(path, partitioning=None)
        schema = next((known for known in RECORD_SCHEMAS.values() if known.names == table.column_names), None)
        if schema is not None:
            empty = [field.name for field in schema if field.nullable and table[field.name].null_count == len(table)]
            schemas.write_table(path, pa.schema([field for field in schema if field.name not in empty]),
                                table.drop_columns(empty))  # fmt: skip
            dropped += len(empty)
    return dropped


def test_stages_make_the_same_of_tables_that_lack_columns(tmp_path):
    recorded = json.loads(ROWS.read_text())
    made, dropped = {}, 0

    def age(name):
        nonlocal dropped
        dropped += drop_empty_columns(tmp_path / name)
        made[name] = Artifact.of_folder(tmp_path / name)

    for name, write in TOYS.items():
        (tmp_path / name).mkdir()
        write(tmp_path / name)
        age(name)
    for case in CASES:
        out = tmp_path / case.name
        out.mkdir()
        inputs = {role: [made[name] for name in given] if isinstance(given, list) else made[given]
                  for role, given in case.inputs.items()}  # fmt: skip
        spec = stage_named(case.stage).spec_type.parse(case.spec, case.name)
        stage_named(case.stage)(spec, **inputs, out=out)
        remove_scratch_files(out)
        assert contents_of(Artifact.of_folder(out)) == recorded[case.name]["files"], case.name
        age(case.name)
    assert dropped > 20
