"""verify, gc and reap as flows: what their forms may say, and what becomes of it in the store of the environment.

test_deployed has a worker carry out one of them as a server starts it.
"""

from pathlib import Path

import pytest

from flows.maintenance_flows import gc_flow, reap_flow, verify_flow
from tests.support.services import named, prefect_api
from tests.support.stored_histories import Attic
from tests.support.toy_pipelines import run_toy, write_toy
from tests.support.toys import store_at


@pytest.fixture
def attic(tmp_path, monkeypatch):
    """Two artifacts of which one is needed, in the store that the environment names."""
    attic = Attic(store_at(tmp_path / "store", tmp_path / "cache"))
    attic.put(40)
    attic.put(40)
    attic.run([0], 39)
    monkeypatch.setenv("ZSCIR_STORE", attic.store.uri)
    monkeypatch.setenv("ZSCIR_CACHE", str(tmp_path / "cache"))
    with named(prefect_api()):
        yield attic


def test_gc_removes_nothing_until_its_form_says_so_and_verify_fails_with_what_to_type(attic):
    assert gc_flow(keep_runs=1, return_state=True).is_completed()
    assert attic.left() == {0, 1}
    assert verify_flow(return_state=True).is_completed()
    assert gc_flow(keep_runs=1, delete=True, return_state=True).is_completed()
    assert attic.left() == {0}
    refused = gc_flow(older_than="soon", return_state=True)
    assert (refused.is_failed(), "such as 36h" in refused.message) == (True, True)
    file = Path(attic.store.address("shards", attic.keys[0], "own.bin"))
    file.write_bytes(file.read_bytes()[::-1])
    found = verify_flow(take_out=True, return_state=True)
    assert found.is_failed()
    assert found.message.splitlines()[0] == "1 of 1 artifacts are damaged:"
    assert "zscir rerun run-000" in found.message
    assert attic.left() == set()


def test_the_reaper_flow_works_on_the_store_of_its_environment(tmp_path, monkeypatch):
    store = store_at(tmp_path / "store", tmp_path / "cache")
    run_toy(store, write_toy(tmp_path / "specs"))
    monkeypatch.setenv("ZSCIR_STORE", store.uri)
    assert reap_flow.fn() == []
