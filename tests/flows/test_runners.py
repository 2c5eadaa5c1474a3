"""Where pieces are made is a setting: threads, processes, a local Ray or Dask cluster, all with the same bytes."""

import pytest

from tests.core.toy_pipelines import digests, json_of, walk_toy, write_toy, zscir
from tests.core.toys import store_at
from tests.services import prefect_api
from zscir.errors import RequestError
from zscir.lineage.query import rows
from zscir.settings import Workers

SOURCE = """
name = "toy"
[tabletop]
scenes = 60
size_px = 32
[ingest]
source = "toy"
text_column = "caption"
[download]
chunk_rows = 12
deadline_s = 20.0
retries = 0
"""
STEPS = """
name = "toy"
source = "source.toml"
[[steps]]
stage = "tabletop"
[[steps]]
stage = "ingest"
inputs = { urls = "tabletop" }
[[steps]]
stage = "download"
inputs = { pairs = "ingest" }
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a walk in one process without Prefect gives."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run = walk_toy(store_at(folder / "store", folder / "cache"), write_toy(folder, STEPS, SOURCE))
    return digests(run.made)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["threads", "processes", "ray", "dask"])
def test_the_same_chunks_are_made_on_whatever_the_setting_names(tmp_path, undisturbed, kind):
    if kind in ("ray", "dask"):
        pytest.importorskip(f"prefect_{kind}", reason=f"the extra '{kind}' is not installed")
    store = store_at(tmp_path / "store", tmp_path / "cache")
    environment = {
        "ZSCIR_STORE": store.uri, "PREFECT_API_URL": prefect_api(), "ZSCIR_RUNNER": kind, "ZSCIR_WORKERS": "2",
        "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    done = zscir(tmp_path, "run", str(write_toy(tmp_path, STEPS, SOURCE)), "--json", **environment)
    assert done.returncode == 0, done.stderr
    keys = {row["step"]: row["key"] for row in json_of(done)}
    for step, key in keys.items():
        assert store.get(step, key).digest == undisturbed[step]
    pieces = rows(store, "SELECT * FROM pieces ORDER BY piece")
    assert len(pieces) == store.get("download", keys["download"]).facts["chunks"] >= 5
    assert {piece["outcome"] for piece in pieces} == {"made"}
    workers = {piece["worker"] for piece in pieces}
    walker = {row["worker"] for row in rows(store, "SELECT worker FROM stages")}
    # Usually both; on a busy machine one worker may have done all before the other has started.
    assert workers == walker if kind == "threads" else 1 <= len(workers - walker) == len(workers) <= 2


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ZSCIR_RUNNER", "slurm", "the runners are threads, processes, ray, dask"),
        ("ZSCIR_WORKERS", "0", "a whole number from 1 on"),
        ("ZSCIR_WORKERS", "many", "a whole number from 1 on"),
    ],
)
def test_a_setting_that_makes_no_sense_is_told(monkeypatch, name, value, words):
    monkeypatch.setenv(name, value)
    with pytest.raises(RequestError, match=f"{name}={value}.*{words}"):
        Workers.from_env()
