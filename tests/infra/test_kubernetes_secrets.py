"""How a server's password travels into a job: Prefect's worker submits one to a listener that stands for a cluster."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

kubernetes = pytest.importorskip("prefect_kubernetes.worker", reason="the extra 'kubernetes' is not installed")

from kubernetes_asyncio.client import ApiClient, Configuration  # noqa: E402 - after the skip
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_CLIENT_CUSTOM_HEADERS, temporary_settings  # noqa: E402

from tests.infra.test_kubernetes import INFRA, TEMPLATE, check, filled_in  # noqa: E402

PASSWORD, TICKET = "admin:very-secret-words", "very-secret-ticket"
AS_SECRET = "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_STORE_ENV_AS_SECRET"
Asked = list[tuple[str, str, dict[str, Any]]]


@pytest.fixture
def cluster() -> Iterator[tuple[str, Asked]]:
    """The address of what takes all that it is asked for, and what it was asked: method, kind, body."""
    requests: Asked = []

    class Cluster(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(
                (self.command, self.path.split("?")[0].split("/")[-1 if self.command == "POST" else -2], body)
            )
            words = json.dumps({"metadata": {"name": "made", "uid": "1", **body["metadata"]}}).encode()
            self.send_response(201)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(words)))
            self.end_headers()
            self.wfile.write(words)

        do_POST = do_PATCH = answer

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
            pass

    server = HTTPServer(("127.0.0.1", 0), Cluster)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    thread.join()
    server.server_close()


def submit(address: str) -> None:
    """Have Prefect's worker, which knows the server's password, submit the job of a dispatched step."""

    async def asking() -> None:
        async with ApiClient(Configuration(host=address)) as client:
            await kubernetes.KubernetesWorker(work_pool_name="gpu")._create_job(job, client)

    with temporary_settings({PREFECT_API_AUTH_STRING: PASSWORD, PREFECT_CLIENT_CUSTOM_HEADERS: {"X-Ticket": TICKET}}):
        job = filled_in(TEMPLATE)
    asyncio.run(asking())


def test_left_to_itself_prefect_writes_the_password_into_the_job(cluster: tuple[str, Asked]) -> None:
    """Which is why docs/workers.md has the setting of the next test; should this fail, Prefect has mended it."""
    address, requests = cluster
    submit(address)
    ((_, kind, job),) = requests
    assert kind == "jobs"
    assert PASSWORD in json.dumps(job)
    assert TICKET in json.dumps(job)


def test_as_the_page_of_workers_starts_the_worker_password_and_headers_stand_in_a_secret_and_in_no_job(
    cluster: tuple[str, Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"{AS_SECRET}=true" in (INFRA.parent / "docs" / "workers.md").read_text()
    monkeypatch.setenv(AS_SECRET, "true")
    address, requests = cluster
    submit(address)
    assert [(method, kind) for method, kind, _ in requests] == [
        ("POST", "secrets"),
        ("POST", "jobs"),
        ("PATCH", "secrets"),
    ]
    (_, _, secret), (_, _, job), (_, _, owned) = requests
    assert secret["stringData"]["PREFECT_API_AUTH_STRING"] == PASSWORD
    assert TICKET in secret["stringData"]["PREFECT_CLIENT_CUSTOM_HEADERS"]
    assert "very-secret" not in json.dumps(job)
    check("V1Job", job, "job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert [one["secretRef"]["name"] for one in container["envFrom"]] == ["zscir-s3", secret["metadata"]["name"]]
    assert secret["stringData"]["ZSCIR_CACHE"] == "/cache"  # all that the job is told goes that way
    assert owned["metadata"]["ownerReferences"][0]["kind"] == "Job"  # the secret goes with the job
