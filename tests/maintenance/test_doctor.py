"""The doctor finds each known breakage, from made-up versions and in processes where it is really built."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from zscir.maintenance.doctor import (
    credential_checks,
    disk_check,
    prefect_check,
    shadow_check,
    store_check,
    strip_url_credentials,
    torch_checks,
)
from zscir.maintenance.known_conflicts import DoctorCheck, check_package_versions

REPO = Path(__file__).resolve().parents[2]
GOOD = {
    "torch": "2.13.0+cpu",
    "torchvision": "0.28.0",
    "prefect": "3.8.8",
    "fastapi": "0.150.0",
    "sqlalchemy": "2.0.58",
    "python-dateutil": "2.9.0.post0",
    "webdataset": "0.2.86",
    "open-clip-torch": "3.3.0",
    "click": "8.5.1",
    "huggingface-hub": "2.4.0",
}
PAIR = "pip install torch==2.13.0 torchvision==0.28.0"
SUPPORTED = [(3, 11), (3, 12), (3, 13), (3, 14)]
OWN = ["prefect<4,>=3.8.8", "open_clip_torch<4,>=3.3", "tomli>=2; python_version < '3'"]


def bad(checks: list[DoctorCheck]) -> dict[str, DoctorCheck]:
    return {check.name: check for check in checks if check.status != "ok"}


def test_the_versions_that_were_tested_together_have_no_breakage() -> None:
    pins = dict(
        line.split("#")[0].strip().split("==")
        for line in (REPO / "constraints.txt").read_text().splitlines()
        if "==" in line.split("#")[0]
    )
    del pins["dataclasses"]  # pinned for pip, removed again by the set-up
    for python in SUPPORTED:
        assert bad(check_package_versions(pins, python, OWN)) == {}
        assert bad(check_package_versions(GOOD, python, OWN)) == {}


@pytest.mark.parametrize(
    ("change", "name", "status", "cure", "symptom"),
    [
        ({"fastapi": "0.165.0"}, "fastapi/prefect", "fail", 'pip install "fastapi<0.151"', "min_items"),
        ({"sqlalchemy": "2.1.9"}, "sqlalchemy/prefect", "fail", 'pip install "sqlalchemy>=2.0,<2.1"', "scheduler"),
        ({"python-dateutil": "4.0"}, "python-dateutil/prefect", "fail", 'pip install "python-dateutil<3"', "botocore"),
        ({"webdataset": "0.2.111"}, "webdataset/open-clip-torch", "warn", 'pip install "webdataset<0.2.87"', "fname"),
        ({"click": "8.1.8"}, "click/huggingface-hub", "fail", 'pip install "click>=8.4.2"', "skypilot"),
        ({"dataclasses": "0.6"}, "dataclasses", "fail", "pip uninstall -y dataclasses", "slots"),
        ({"torchvision": "0.29.1"}, "torchvision/torch", "fail", PAIR, "0.29.1"),
        ({"torch": "2.14.0"}, "torchvision/torch", "fail", PAIR, "2.14.0"),
    ],
)  # fmt: skip
def test_each_known_breakage_is_named_with_its_cure(
    change: dict[str, str], name: str, status: str, cure: str, symptom: str
) -> None:
    found = bad(check_package_versions(GOOD | change, (3, 11)))
    assert list(found) == [name]
    assert (found[name].status, found[name].cure) == (status, cure)
    assert symptom in found[name].found


@pytest.mark.parametrize("python", [(3, 10), (3, 15)])
def test_a_python_outside_the_range_is_a_failure(python: tuple[int, int]) -> None:
    check = bad(check_package_versions(GOOD, python))["python"]
    assert check.found == f"Python 3.{python[1]}; zscir needs 3.11 to 3.14"
    assert check.cure == "make clean && make venv PYTHON=python3.11"


@pytest.mark.parametrize("python", SUPPORTED)
def test_the_module_that_newer_pythons_lack_is_missed_only_there(python: tuple[int, int]) -> None:
    versions = GOOD | {"img2dataset": "1.47.0"}
    found = bad(check_package_versions(versions, python, pip="python -m pip"))
    assert list(found) == (["imghdr"] if python >= (3, 13) else [])
    for check in found.values():
        assert (check.status, check.cure) == ("fail", 'python -m pip install "standard-imghdr>=3.13"')
        assert "No module named 'imghdr'" in check.found
    assert bad(check_package_versions(versions | {"standard-imghdr": "3.13.0"}, python)) == {}


def test_missing_and_forbidden_packages_are_named_together_with_one_command() -> None:
    versions = GOOD | {"open-clip-torch": "2.32.0"}
    del versions["prefect"]
    check = bad(check_package_versions(versions, (3, 11), OWN))["packages"]
    assert "missing: prefect" in check.found
    assert "open_clip_torch 2.32.0" in check.found
    assert check.cure == 'pip install "open_clip_torch<4,>=3.3" "prefect<4,>=3.8.8"'


VERSION = st.sampled_from(["0.1", "0.165.0", "2.0.58", "2.13.0+cpu", "3.0.0a1", "8.1", "40.0.post1"])


@given(st.dictionaries(st.sampled_from([*GOOD, "dataclasses"]), VERSION), st.tuples(st.just(3), st.integers(8, 15)))
def test_whatever_is_not_ok_has_a_cure(versions: dict[str, str], python: tuple[int, int]) -> None:
    checks = check_package_versions(versions, python, OWN)
    assert all(check.cure for check in checks if check.status != "ok")
    assert len({check.name for check in checks}) == len(checks)


def in_child(folder: Path, code: str) -> str:
    """``code`` in a process that finds ``folder`` last on its path, as it finds site-packages."""
    whole = f"import sys; sys.path.append({str(folder)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", whole], cwd=REPO, capture_output=True, text=True, check=True)
    return done.stdout


def install_fake(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / f"{name}.py").write_text("def dataclass(cls=None, *, frozen=False): return cls\n")


def test_a_backport_that_is_really_installed_is_found_and_gone_after_its_removal(tmp_path: Path) -> None:
    install_fake(tmp_path, "dataclasses", "0.6")
    code = (
        "from zscir.maintenance.doctor import package_checks\n"
        "for one in package_checks(): print(one.name, one.status, one.cure, sep='|')"
    )
    lines = in_child(tmp_path, code).splitlines()
    assert f"dataclasses|fail|{sys.executable} -m pip uninstall -y dataclasses" in lines
    # The breakage itself, as Prefect's ephemeral server builds it: site-packages before the standard library.
    broken = subprocess.run(
        [sys.executable, "-c", "import dataclasses; dataclasses.dataclass(slots=True)"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "unexpected keyword argument 'slots'" in broken.stderr
    for path in [tmp_path / "dataclasses.py", *tmp_path.glob("*.dist-info/METADATA")]:
        path.unlink()
    next(tmp_path.glob("*.dist-info")).rmdir()
    assert "dataclasses|ok|" in in_child(tmp_path, code).splitlines()


def test_a_module_that_takes_a_standard_name_is_found_without_any_record_of_it(tmp_path: Path) -> None:
    (tmp_path / "numpy").mkdir()
    (tmp_path / "zoo.py").touch()
    assert shadow_check(tmp_path).status == "ok"
    (tmp_path / "typing.py").touch()
    (tmp_path / "enum").mkdir()
    check = shadow_check(tmp_path)
    assert (check.status, check.cure) == ("fail", f"rm -r {tmp_path / 'enum'} {tmp_path / 'typing.py'}")


def test_a_torch_that_does_not_import_is_reported_by_its_own_message() -> None:
    (check,) = torch_checks("RuntimeError: operator torchvision::nms does not exist", False, "pip")
    assert (check.status, check.found) == ("fail", "RuntimeError: operator torchvision::nms does not exist")
    assert check.cure == "pip install --force-reinstall torch==2.13.0 torchvision==0.28.0"


@pytest.mark.parametrize(
    ("gpus", "cuda", "driver", "status", "word"),
    [
        (["NVIDIA A10G"], "13.0", True, "ok", "A10G"),
        ([], None, False, "ok", "CPU"),
        ([], None, True, "warn", "built for the CPU"),
        ([], "13.0", True, "warn", "sees no GPU"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_a_warning(
    gpus: list[str], cuda: str | None, driver: bool, status: str, word: str
) -> None:
    answer = {"gpus": gpus, "cuda_build": cuda, "compiled_operators": cuda is not None}
    gpu = torch_checks(answer, driver, "pip")[1]
    assert gpu.status == status
    assert word in gpu.found
    assert bool(gpu.cure) == (status != "ok")


@pytest.mark.parametrize(
    ("gpus", "setting", "status", "found"),
    [
        (0, 1, "ok", "1 (ZSCIR_RANKS), each a process on the CPU"),
        (0, None, "ok", "1 (ZSCIR_RANKS), each a process on the CPU"),
        (4, None, "ok", "4 (ZSCIR_RANKS), each with a GPU of its own"),
        (2, 3, "fail", "ZSCIR_RANKS = 3, but there are 2 GPUs"),
    ],
)
def test_it_says_on_how_many_ranks_a_training_would_run(
    gpus: int, setting: int | None, status: str, found: str
) -> None:
    answer = {"cuda_build": "13.0", "gpus": ["a GPU"] * gpus, "compiled_operators": True}
    ranks = torch_checks(answer, bool(gpus), "pip", setting)[2]
    assert (ranks.name, ranks.status, ranks.found) == ("training ranks", status, found)


def test_a_local_store_is_written_and_left_clean(tmp_path: Path) -> None:
    assert store_check(str(tmp_path)).found == f"{tmp_path}: read and written"
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_not_there_yet_is_fine_and_stays_away(tmp_path: Path) -> None:
    assert store_check(str(tmp_path / "new")).status == "ok"
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_place_of_the_store_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    check = store_check(str(tmp_path / "store"))
    assert check.status == "fail"
    assert "not a folder" in check.found


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-of-the-store")
    yield f"http://{host}:{port}"
    server.stop()


def test_a_store_on_s3_is_written_and_left_clean_and_a_missing_bucket_is_reported(s3: str) -> None:
    assert (store_check("s3://nobody/there").status, store_check("s3://nobody/there").cure) == (
        "fail",
        "aws s3 mb s3://nobody",
    )
    client = boto3.client("s3", endpoint_url=s3, region_name="us-east-1")
    client.create_bucket(Bucket="somebody")
    assert store_check("s3://somebody/store").found == "s3://somebody/store: read and written"
    assert client.list_objects_v2(Bucket="somebody")["KeyCount"] == 0


@pytest.mark.parametrize(
    ("free_gb", "status"), [(0.5, "fail"), (1.0, "warn"), (9.9, "warn"), (10.0, "ok"), (500.0, "ok")]
)
def test_little_disk_space_warns_and_hardly_any_fails(free_gb: float, status: str) -> None:
    check = disk_check("store", Path("/disk"), free_gb, "export ZSCIR_STORE=/elsewhere")
    assert check.status == status
    assert bool(check.cure) == (status != "ok")


@pytest.fixture
def api() -> Iterator[Callable[[int], str]]:
    """A Prefect API on loopback that answers its health check with a given status."""
    servers = []

    def start(status: int) -> str:
        class Health(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/api/health" else 404)
                self.end_headers()

            def log_message(self, *words: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Health)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/api"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_no_prefect_api_named_means_an_ephemeral_one(tmp_path: Path) -> None:
    assert "starts its own" in prefect_check({}, tmp_path).found


def test_a_prefect_api_that_answers_is_ok(tmp_path: Path, api: Callable[[int], str]) -> None:
    assert prefect_check({"PREFECT_API_URL": api(200)}, tmp_path).status == "ok"


def test_a_prefect_api_that_wants_a_password_says_how_to_give_one(tmp_path: Path, api: Callable[[int], str]) -> None:
    check = prefect_check({"PREFECT_API_URL": api(401)}, tmp_path)
    assert check.status == "fail"
    assert "PREFECT_API_AUTH_STRING" in check.cure


def test_a_prefect_api_in_the_profile_that_is_down_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / ".prefect").mkdir()
    profile = 'active = "lab"\n[profiles.lab]\nPREFECT_API_URL = "http://me:hunter2@127.0.0.1:9/api"\n'
    (tmp_path / ".prefect/profiles.toml").write_text(profile)
    check = prefect_check({}, tmp_path)
    assert check.status == "fail"
    assert check.found.startswith("http://127.0.0.1:9/api: ")
    assert "hunter2" not in f"{check}"


def test_credentials_are_found_and_never_shown(tmp_path: Path) -> None:
    secrets = {
        name: f"hunter2-{name}" for name in ("AWS_ACCESS_KEY_ID", "HF_TOKEN", "OPENAI_API_KEY", "PREFECT_API_KEY")
    }
    checks = credential_checks(secrets, tmp_path, "s3://bucket/store")
    assert [check.found for check in checks] == [f"found in {name} (not shown)" for name in secrets]
    assert "hunter2" not in f"{checks}"


def test_a_credentials_file_counts(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text("[default]\naws_secret_access_key = hunter2\n")
    check = credential_checks({}, tmp_path, "s3://bucket/store")[0]
    assert (check.status, "hunter2" in check.found) == ("ok", False)


def test_an_s3_store_without_credentials_is_a_warning(tmp_path: Path) -> None:
    assert credential_checks({}, tmp_path, "s3://bucket/store")[0].cure == "aws configure"
    assert credential_checks({}, tmp_path, "./zscir-store")[0].status == "ok"


def test_what_stands_before_an_at_sign_in_a_url_is_taken_out() -> None:
    with_passwords = "store s3://key:secret@bucket/x: no; see https://u:p@host:8080/y and a@b"
    assert strip_url_credentials(with_passwords) == "store s3://bucket/x: no; see https://host:8080/y and a@b"


def test_the_command_line_gives_every_check_and_fails_when_one_does(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    words = ["zscir", "doctor", "--json", "--store", str(tmp_path / "store")]
    code = f"import sys; sys.argv = {words}; from zscir.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert [name for name, check in checks.items() if check["status"] == "fail"] == ["store"]
    assert checks["torchvision imports"]["status"] == "ok"
    assert done.returncode == 2


def test_the_doctor_answers_where_the_command_line_cannot_start(tmp_path: Path) -> None:
    """Without typer, pydantic and torch: ``python -m zscir.maintenance.doctor`` still says what is missing."""
    for name in ("typer", "pydantic", "torch"):
        (tmp_path / f"{name}.py").write_text("raise ModuleNotFoundError(f'No module named {__name__!r}')")
    done = subprocess.run(
        [sys.executable, "-m", "zscir.maintenance.doctor", str(tmp_path)], cwd=REPO, capture_output=True, text=True,
        check=False, env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fail store: " in done.stdout
    assert "No module named 'pydantic'" in done.stdout
    assert "fail torchvision imports: ModuleNotFoundError: No module named 'torch'" in done.stdout
