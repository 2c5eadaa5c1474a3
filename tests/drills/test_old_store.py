"""A store that an earlier version wrote reads with every command of this one."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from zscir.lineage.sql_views import ANCESTRY_TABLES, LINEAGE_TABLES, RECORD_FILES, RECORD_SCHEMAS

OLD_STORE = Path(__file__).parents[1] / "golden" / "old_store"
FIRST, SECOND = "20260101-120000-aaaaaa", "20260102-120000-bbbbbb"
ABSENT_TABLES = {"candidates", "hosts", "packed", "responses"}  # no step of the old store's runs writes them


@pytest.fixture
def old_store(tmp_path):
    """A copy of the old store where ``zscir`` looks for one."""
    return shutil.copytree(OLD_STORE, tmp_path / "store")


def rows_on_disk(store, name, schema):
    """The rows of a table in all files of its name; a run lists an artifact that another run lists too."""
    paths = store.glob(f"*/*/{RECORD_FILES.get(name, f'{name}.parquet')}")
    tables = [pq.read_table(path, partitioning=None) for path in paths]
    rows = [tuple(row.values()) for table in tables if table.column_names == schema.names for row in table.to_pylist()]
    return len(set(rows)) if name in ANCESTRY_TABLES else len(rows)


def json_rows(answer):
    code, out, err = answer
    assert code == 0, err
    return json.loads(out)


def test_the_old_store_is_small():
    assert sum(path.stat().st_size for path in OLD_STORE.rglob("*") if path.is_file()) < 300_000


def test_its_runs_are_listed(cli, old_store):
    rows = json_rows(cli("runs", "--json"))
    assert [(row["run_id"], row["status"], row["steps"]) for row in rows] == [
        (FIRST, "succeeded", 13),
        (SECOND, "succeeded", 13),
    ]


def test_a_run_an_artifact_a_triplet_and_an_image_of_it_are_shown(cli, old_store):
    key = pq.read_table(next(old_store.glob("lineage/*/artifacts.parquet"))).column("key")[0].as_py()
    triplet = pq.read_table(next(old_store.glob("mask_triplets/*/triplets.parquet"))).to_pylist()[0]
    for ref, words in {
        SECOND: ["tabletop", "mask_triplets", "reused"],
        key: [key, "read by"],
        triplet["triplet_id"]: [triplet["text"]],
        triplet["reference_key"]: ["http://tabletop.test/3/"],
    }.items():
        code, out, err = cli("show", ref, "--json")
        assert code == 0, err
        assert all(word in out for word in words), ref


def test_every_row_of_every_table_is_found_by_sql(cli, old_store):
    for name, schema in (LINEAGE_TABLES | RECORD_SCHEMAS).items():
        found = json_rows(cli("sql", f"SELECT * FROM {name}", "--json"))  # noqa: S608 - our own names
        assert len(found) == rows_on_disk(old_store, name, schema), name
        assert bool(found) == (name not in ABSENT_TABLES), name


def test_a_page_is_written_of_its_run(cli, old_store):
    code, out, err = cli("report", "latest")
    assert code == 0, err
    page = Path(out.strip()).read_text()
    assert all(word in page for word in ("tscir_map", "image only", "train_pli", "CIRR"))
    assert "This part cannot be shown" not in page


def test_its_scores_are_on_the_leaderboard(cli, old_store):
    code, out, err = cli("leaderboard")
    assert code == 0, err
    assert [line for line in out.splitlines() if line.startswith("| **pli** |") and "evaluation" in line]


def test_gc_keeps_it_and_verify_finds_it_whole(cli, old_store):
    assert cli("gc")[0] == 0
    code, out, err = cli("verify")
    assert code == 0, err
    assert "0 artifacts damaged" in out
