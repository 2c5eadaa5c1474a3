from flows.maintenance_flows import reap_flow
from tests.support.toy_pipelines import walk_toy, write_toy
from tests.support.toys import store_at


def test_the_reaper_flow_works_on_the_store_of_its_environment(tmp_path, monkeypatch):
    store = store_at(tmp_path / "store", tmp_path / "cache")
    walk_toy(store, write_toy(tmp_path / "specs"))
    monkeypatch.setenv("ZSCIR_STORE", store.uri)
    assert reap_flow.fn() == []
