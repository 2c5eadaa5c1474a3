"""The template of a Kubernetes pool, filled in by Prefect's own worker for a dispatched step: a job that the API takes.

There is no cluster here. What it would be asked for is held against the models of Kubernetes' own client, strictly.
"""

import asyncio
import copy
import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

kubernetes = pytest.importorskip("prefect_kubernetes.worker", reason="the extra 'kubernetes' is not installed")

from kubernetes_asyncio.client import models  # noqa: E402 - after the skip
from prefect.client.orchestration import PrefectClient  # noqa: E402
from prefect.client.schemas.actions import WorkPoolCreate  # noqa: E402
from prefect.client.schemas.objects import FlowRun  # noqa: E402

from zscir import __version__  # noqa: E402

INFRA = Path(__file__).resolve().parents[2] / "infra"
TEMPLATE: dict[str, Any] = json.loads((INFRA / "kubernetes" / "gpu-pool.json").read_text())
# What flows/work_pools.py gives a deployment, and what somebody may set for it on Prefect's page.
OURS = {"env": {"PREFECT_LOGGING_EXTRA_LOGGERS": "zscir"}}
SET = {"image": "registry.example/zscir:1", "gpus": 2, "node_selector": {"gpu": "h100"}, "deadline_s": 86400}
PLAIN = {"str": str, "int": int, "bool": bool, "object": object}


def filled_in(template: dict[str, Any], **variables: Any) -> Any:
    """The job that a worker would ask a cluster for."""
    of = kubernetes.KubernetesWorkerJobConfiguration
    nobody = PrefectClient("http://127.0.0.1:9/api")  # would be asked for blocks, and the template names none
    made = asyncio.run(of.from_template_and_values(copy.deepcopy(template), {**OURS, **variables}, client=nobody))
    made.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="train_pli-0123456789ab"))
    return made


def check(kind: str, value: Any, where: str) -> None:
    """AssertionError unless ``value`` is what Kubernetes calls a ``kind``: no unknown field, each of its type."""
    if inner := re.fullmatch(r"list\[(.+)\]", kind):
        assert isinstance(value, list), where
        for number, entry in enumerate(value):
            check(inner[1], entry, f"{where}[{number}]")
    elif inner := re.fullmatch(r"dict\(str, (.+)\)", kind):
        assert isinstance(value, dict), where
        for name, entry in value.items():
            check(inner[1], entry, f"{where}.{name}")
    elif kind in PLAIN:
        quantity = re.search(r"\.(limits|requests)\.", where) is not None
        assert isinstance(value, (str, int) if quantity else PLAIN[kind]), f"{where} = {value!r} is no {kind}"
    else:
        check_model(getattr(models, kind), value, where)


def check_model(model: Any, value: Any, where: str) -> None:
    assert isinstance(value, dict), where
    names = {json_name: name for name, json_name in model.attribute_map.items()}
    assert set(value) <= set(names), f"{where}: unknown {set(value) - set(names)}"
    model(**{names[name]: entry for name, entry in value.items()})  # refuses what is required and missing
    for name, entry in value.items():
        check(model.openapi_types[names[name]], entry, f"{where}.{name}")


def test_prefect_takes_the_template_and_every_variable_is_used() -> None:
    WorkPoolCreate(name="gpu", type="kubernetes", base_job_template=TEMPLATE)
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(TEMPLATE["job_configuration"])))
    assert used == set(TEMPLATE["variables"]["properties"])
    known = kubernetes.KubernetesWorkerJobConfiguration.model_fields
    assert set(TEMPLATE["job_configuration"]) <= set(known)


@pytest.mark.parametrize("variables", [{}, SET], ids=["defaults", "set"])
def test_the_job_of_a_dispatched_step_is_one_that_kubernetes_knows(variables: dict[str, Any]) -> None:
    check("V1Job", filled_in(TEMPLATE, **variables).job_manifest, "job")


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        (("spec",), "backoffLimt", 0),
        (("spec", "template", "spec"), "parallelism", 1),  # as in Prefect's own template
        (("spec", "template", "spec", "containers", 0), "imagePullPolicy", 5),
        (("spec", "template", "spec", "securityContext"), "runAsNonRoot", "yes"),
        (("spec", "template", "spec", "volumes", 0, "emptyDir"), "size", "8Gi"),
    ],
)
def test_a_field_that_kubernetes_does_not_know_would_be_found(path: tuple[Any, ...], name: str, value: Any) -> None:
    wrong = copy.deepcopy(TEMPLATE)
    place = wrong["job_configuration"]["job_manifest"]
    for part in path:
        place = place[part]
    place[name] = value
    with pytest.raises(AssertionError, match=name):
        check("V1Job", filled_in(wrong).job_manifest, "job")


def test_a_job_is_one_container_without_rights_that_is_tried_once_and_cleared_away() -> None:
    made = filled_in(TEMPLATE)
    spec = made.job_manifest["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert (spec["backoffLimit"], spec["ttlSecondsAfterFinished"]) == (0, 3600)
    assert spec["activeDeadlineSeconds"] == 2 * 24 * 3600  # nobody pays for longer unless asked
    assert (pod["restartPolicy"], pod["automountServiceAccountToken"]) == ("Never", False)
    assert pod["terminationGracePeriodSeconds"] > 30  # Prefect gives a flow that long to end
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 10001)
    assert "USER 10001" in (INFRA / "Dockerfile").read_text()
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"] == {"memory": "32Gi", "nvidia.com/gpu": 1}
    (scratch,) = [entry["emptyDir"] for entry in pod["volumes"] if entry["name"] == "cache"]
    assert container["resources"]["requests"]["ephemeral-storage"] == scratch["sizeLimit"] == "200Gi"
    assert container["image"] == f"zscir:{__version__}"
    assert {entry["mountPath"]: entry["name"] for entry in container["volumeMounts"]}["/dev/shm"] == "shared-memory"
    assert made.pod_watch_timeout_seconds == 1800


def test_what_is_set_for_a_pool_reaches_the_job() -> None:
    made = filled_in(TEMPLATE, **SET).job_manifest["spec"]
    (container,) = made["template"]["spec"]["containers"]
    assert made["activeDeadlineSeconds"] == 86400
    assert made["template"]["spec"]["nodeSelector"] == {"gpu": "h100"}
    assert (container["image"], container["resources"]["limits"]["nvidia.com/gpu"]) == ("registry.example/zscir:1", 2)
    job_environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert (job_environment["PREFECT_LOGGING_EXTRA_LOGGERS"], job_environment["ZSCIR_CACHE"]) == ("zscir", "/cache")
    assert job_environment["PREFECT__FLOW_RUN_ID"]


def test_credentials_come_from_a_secret_of_the_cluster_and_stand_in_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "very-secret-words")
    made = filled_in(TEMPLATE).job_manifest
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "zscir-s3", "optional": True}}]
    assert "very-secret-words" not in json.dumps(made)
    secret = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|AUTH")
    assert [entry["name"] for entry in container["env"] if secret.search(entry["name"])] == []
