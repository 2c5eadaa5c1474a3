"""verify and gc as a Prefect server starts them: in a flow run of their deployment, with its form's parameters."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.attics import Attic
from tests.core.toy_pipelines import clean_environment
from tests.core.toys import store_at
from tests.flows.test_deployed import LIMIT_S, ended, start
from tests.services import prefect_api

POOL = "upkeep"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * LIMIT_S)]


@pytest.fixture
def attic(tmp_path):
    """Two artifacts of which one is needed, with a worker that serves the deployments of upkeep on their store."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.deploy import definitions, deploy

    attic = Attic(store_at(tmp_path / "store", tmp_path / "cache"))
    attic.put(40)
    attic.put(40)
    attic.run([0], 39)
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: prefect_api()}):
        patch.setenv("PREFECT_API_URL", prefect_api())
        deploy([one for one in definitions() if one.name in ("verify", "gc")], POOL)
    environment = {
        "PREFECT_API_URL": prefect_api(), "PREFECT_WORKER_QUERY_SECONDS": "1", "ZSCIR_STORE": attic.store.uri,
        "ZSCIR_CACHE": str(tmp_path / "cache"), "PREFECT_HOME": str(tmp_path / "home"),
    }  # fmt: skip
    words = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(words, env=clean_environment(environment), stdout=log, stderr=log, cwd=tmp_path)
    yield attic
    worker.terminate()
    worker.wait(60)


def test_gc_removes_nothing_until_its_form_says_so_and_verify_fails_with_what_to_type(attic):
    assert ended(start("gc/gc", parameters={"keep_runs": 1}))["state_type"] == "COMPLETED"
    assert attic.left() == {0, 1}
    assert ended(start("verify/verify"))["state_type"] == "COMPLETED"
    assert ended(start("gc/gc", parameters={"keep_runs": 1, "delete": True}))["state_type"] == "COMPLETED"
    assert attic.left() == {0}
    refused = ended(start("gc/gc", parameters={"older_than": "soon"}))
    assert (refused["state_type"], "such as 36h" in refused["state"]["message"]) == ("FAILED", True)
    file = Path(attic.store.address("shards", attic.keys[0], "own.bin"))
    file.write_bytes(file.read_bytes()[::-1])
    found = ended(start("verify/verify", parameters={"take_out": True}))
    assert found["state_type"] == "FAILED"
    assert found["state"]["message"].splitlines()[0] == "1 of 1 artifacts are damaged:"
    assert "zscir rerun run-000" in found["state"]["message"]
    assert attic.left() == set()
