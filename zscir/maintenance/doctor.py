"""Check this installation and its environment; each check that is not ok has the command that fixes it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distributions, requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.utils import canonicalize_name

from zscir.maintenance.known_conflicts import CheckStatus, DoctorCheck, check_package_versions
from zscir.runtime.errors import ZscirError
from zscir.runtime.settings import Settings

PROBE_LIMIT_S = 120  # a first import of torch on a cold disk
API_LIMIT_S = 5.0  # a Prefect server on the same machine or network answers within milliseconds
DISK_WARN_GB, DISK_FAIL_GB = 10.0, 1.0

# What only a process that really imports torch and torchvision can say; in a child, because a broken torch may end it.
# zscir before torchvision: its import hook is what lets the CUDA-linked wheel load beside a torch for the CPU.
TORCH_PROBE = """
import json, zscir, torch, torchvision, torchvision.extension
print(json.dumps({
    "cuda_build": torch.version.cuda,
    "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    "compiled_operators": torchvision.extension._has_ops(),
}))
"""


def doctor_checks(store_uri: str | None) -> list[DoctorCheck]:
    """Every check, in the order of a person's repair: Python and packages first, then machine, store, services."""
    return [
        *package_checks(),
        *torch_checks(probe_torch(), has_nvidia_driver(), pip_command(), Settings.from_env(store_uri).ranks),
        store_check(store_uri),
        *disk_checks(Settings.from_env(store_uri)),
        prefect_check(os.environ, Path.home()),
        *credential_checks(os.environ, Path.home(), Settings.from_env(store_uri).store),
    ]


def package_checks() -> list[DoctorCheck]:
    """What is installed beside this Python, against the known conflicts."""
    try:
        # What an extra requires is missing on most machines, and nothing is wrong with that.
        own = [line for line in requires("zscir") or [] if "extra ==" not in line]
    except PackageNotFoundError:
        own = []
    checks = check_package_versions(installed_versions(), sys.version_info[:2], own, pip_command())
    if not own:
        found = "zscir is imported from a folder and not installed, so its own requirements were not checked"
        checks.append(DoctorCheck("zscir", "warn", found, "make venv"))
    return [*checks, shadow_check(Path(sysconfig.get_path("purelib")))]


def installed_versions() -> dict[str, str]:
    """Canonical name -> version of every package this Python finds; the first on the path counts, as for import."""
    found: dict[str, str] = {}
    for package in distributions():
        if package.metadata["Name"]:
            found.setdefault(canonicalize_name(package.metadata["Name"]), package.version)
    return found


def pip_command() -> str:
    """How pip is called for this Python; environments made by uv have no pip of their own."""
    return f"{sys.executable} -m pip" if find_spec("pip") else "uv pip"


def shadow_check(site_packages: Path) -> DoctorCheck:
    """Modules in site-packages named like the standard library's: who puts site-packages first gets the wrong ones."""
    # Prefect starts its ephemeral server with ``uvicorn --app-dir``, which puts site-packages first on the path.
    names = {path.stem if path.suffix == ".py" else path.name: path for path in sorted(site_packages.glob("*"))}
    found = [names[name] for name in sorted(names.keys() & sys.stdlib_module_names)]
    if not found:
        return DoctorCheck("standard library", "ok", "nothing in site-packages has the name of one of its modules")
    detail = (
        f"{', '.join(path.name for path in found)} in site-packages; Prefect's ephemeral API would import it instead"
    )
    return DoctorCheck("standard library", "fail", detail, f"rm -r {' '.join(map(str, found))}")


def probe_torch() -> dict[str, Any] | str:
    """What torch says about itself in a child process, or the last line of how it failed."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", TORCH_PROBE], capture_output=True, text=True, timeout=PROBE_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"importing torch and torchvision took more than {PROBE_LIMIT_S} s"
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    # The last line: an import may have printed something above it.
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def has_nvidia_driver() -> bool:
    """Whether this machine has an NVIDIA driver loaded, whatever torch thinks of it."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def torch_checks(answer: Mapping[str, Any] | str, driver: bool, pip: str, ranks: int | None = 1) -> list[DoctorCheck]:
    """Whether torchvision imports, whether torch sees the GPU that is there, and on how many ranks it would train."""
    # The pair of constraints.txt. Forced, since an installed 2.13.0+cpu satisfies ==2.13.0 and pip would do nothing.
    reinstall = f"{pip} install --force-reinstall torch==2.13.0 torchvision==0.28.0"
    if isinstance(answer, str):
        return [DoctorCheck("torchvision imports", "fail", answer, reinstall)]
    compiled = (
        "with its compiled operators"
        if answer["compiled_operators"]
        else ("without its compiled operators (CPU torch); zscir's guard stands in for them")
    )
    gpus = len(answer["gpus"])
    return [
        DoctorCheck("torchvision imports", "ok", compiled),
        _gpu_check(answer, driver, reinstall),
        _rank_check(gpus, ranks),
    ]


def _gpu_check(answer: Mapping[str, Any], driver: bool, reinstall: str) -> DoctorCheck:
    if answer["gpus"]:
        return DoctorCheck("gpu", "ok", ", ".join(answer["gpus"]))
    if not driver:
        return DoctorCheck("gpu", "ok", "none on this machine; everything runs on the CPU")
    if answer["cuda_build"] is None:
        return DoctorCheck("gpu", "warn", "there is an NVIDIA driver, but this torch is built for the CPU", reinstall)
    detail = (
        f"there is an NVIDIA driver, but torch (CUDA {answer['cuda_build']}) sees no GPU: driver too old, or hidden"
    )
    return DoctorCheck("gpu", "warn", detail, "nvidia-smi && unset CUDA_VISIBLE_DEVICES")


def _rank_check(gpus: int, setting: int | None) -> DoctorCheck:
    ranks = setting or max(1, gpus)
    if gpus and ranks > gpus:
        found = f"ZSCIR_RANKS = {ranks}, but there are {gpus} GPUs"
        return DoctorCheck("training ranks", "fail", found, "export ZSCIR_RANKS=auto")
    found = f"{ranks} (ZSCIR_RANKS), each {'with a GPU of its own' if gpus else 'a process on the CPU'}"
    return DoctorCheck("training ranks", "ok", found)


def store_check(store_uri: str | None) -> DoctorCheck:
    """Whether the store answers and takes a probe object, which is removed again; a missing folder is not made."""
    settings = Settings.from_env(store_uri)
    where = strip_url_credentials(settings.store)
    try:
        from zscir.store.storage_errors import translate_storage_errors
        from zscir.store.store import open_store
    except ImportError as error:
        return DoctorCheck("store", "fail", f"{where}: not looked at: {error}", "make venv")
    remote = "://" in settings.store
    try:
        store = open_store(settings)
        store.check()
        if not remote and not Path(store.root).is_dir():
            return DoctorCheck("store", "ok", f"{where} (not there yet; the first run makes it)")
        # A name of its own, so that two doctors at once do not remove each other's probe.
        probe = store.address(f".doctor-{uuid.uuid4().hex}")
        with translate_storage_errors(store.uri):
            store.fs.pipe_file(probe, b"zscir doctor")
            store.fs.rm_file(probe)
    except ZscirError as error:
        return DoctorCheck("store", "fail", strip_url_credentials(str(error)), _store_cure(where, str(error)))
    return DoctorCheck("store", "ok", f"{where}: read and written")


def _store_cure(where: str, error: str) -> str:
    if where.startswith("s3://"):
        bucket = "/".join(where.split("/")[:3])
        return f"aws s3 mb {bucket}" if "FileNotFound" in error or "NoSuchBucket" in error else f"aws s3 ls {bucket}"
    if "://" in where or Path(where).is_file():
        return "export ZSCIR_STORE=./zscir-store"
    return f"mkdir -p {where} && chmod u+rwx {where}"


def disk_checks(settings: Settings) -> list[DoctorCheck]:
    """Free space under a local store, the cache and the folder for temporary files; one check per file system."""
    places = {"cache": settings.cache, "temporary files": Path(tempfile.gettempdir())}
    if "://" not in settings.store:
        places = {"store": Path(settings.store), **places}
    cures = {
        "store": "export ZSCIR_STORE=/a/larger/disk/zscir-store",
        "cache": "export ZSCIR_CACHE=/a/larger/disk/zscir-cache",
        "temporary files": "export TMPDIR=/a/larger/disk",
    }
    by_disk: dict[int, DoctorCheck] = {}
    for name, place in places.items():
        folder = next(path for path in [place.absolute(), *place.absolute().parents] if path.exists())
        free_gb = shutil.disk_usage(folder).free / 1e9
        # Places on one disk share its space: one line for them, under the first name.
        by_disk.setdefault(folder.stat().st_dev, disk_check(name, folder, free_gb, cures[name]))
    return list(by_disk.values())


def disk_check(name: str, folder: Path, free_gb: float, cure: str) -> DoctorCheck:
    """One place's verdict."""
    status: CheckStatus = "fail" if free_gb < DISK_FAIL_GB else "warn" if free_gb < DISK_WARN_GB else "ok"
    return DoctorCheck(f"disk: {name}", status, f"{free_gb:.1f} GB free at {folder}", "" if status == "ok" else cure)


def prefect_check(environment: Mapping[str, str], home: Path) -> DoctorCheck:
    """Whether the Prefect API that flows would use answers; where none is named, each command starts its own."""
    url = environment.get("PREFECT_API_URL") or _profile_url(environment, home)
    if not url:
        return DoctorCheck("prefect api", "ok", "none named; each command starts its own for as long as it runs")
    where = strip_url_credentials(url)
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=API_LIMIT_S) as answer:  # noqa: S310 - the URL is the user's own setting
            return DoctorCheck("prefect api", "ok", f"{where} answers {answer.status}")
    # Before OSError, of which it is a subclass: a server that refuses is up, and wants another cure.
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection; Python 3.14 warns where that is left to the collector
        found = f"{where} answers {error.code} {error.reason}"
        return DoctorCheck("prefect api", "fail", found, "prefect config set PREFECT_API_AUTH_STRING=USER:PASSWORD")
    except (OSError, ValueError) as error:
        return DoctorCheck("prefect api", "fail", f"{where}: {error}", "prefect server start --background")


def _profile_url(environment: Mapping[str, str], home: Path) -> str:
    """The API that the active profile of `prefect config` names."""
    # Read here, not through Prefect: it may be the very package that does not import.
    folder = Path(environment.get("PREFECT_HOME") or home / ".prefect")
    path = Path(environment.get("PREFECT_PROFILES_PATH") or folder / "profiles.toml")
    try:
        profiles = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return ""
    name = environment.get("PREFECT_PROFILE") or profiles.get("active", "")
    return str(profiles.get("profiles", {}).get(name, {}).get("PREFECT_API_URL", ""))


def credential_checks(environment: Mapping[str, str], home: Path, store: str) -> list[DoctorCheck]:
    """Which credentials are found, and where; no message holds their values."""
    aws = _first(
        environment,
        ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
        (home / ".aws/credentials",),
    )
    hub = _first(environment, ("HF_TOKEN",), (home / ".cache/huggingface/token",))
    return [
        _credential_check("s3", aws, store.startswith("s3://"), "aws configure"),
        _credential_check("hugging face hub", hub, False, ""),
        _credential_check("openai-compatible LLM", _first(environment, ("OPENAI_API_KEY",), ()), False, ""),
        _credential_check(
            "prefect", _first(environment, ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"), ()), False, ""
        ),
    ]


def _first(environment: Mapping[str, str], names: Sequence[str], files: Sequence[Path]) -> str:
    places = [name for name in names if environment.get(name)] + [str(path) for path in files if path.is_file()]
    return places[0] if places else ""


def _credential_check(name: str, place: str, needed: bool, cure: str) -> DoctorCheck:
    if place:
        return DoctorCheck(f"credentials: {name}", "ok", f"found in {place} (not shown)")
    if needed:
        found = "none found, and the store is on S3; only a machine with a role of its own does without"
        return DoctorCheck(f"credentials: {name}", "warn", found, cure)
    return DoctorCheck(f"credentials: {name}", "ok", "none found; not needed so far")


def strip_url_credentials(text: str) -> str:
    """``text`` without what stands before an @ in any URL."""
    return " ".join(_plain_url(word) if "://" in word and "@" in word else word for word in text.split(" "))


def _plain_url(word: str) -> str:
    parts = urlsplit(word)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def print_doctor_checks() -> None:
    """``python -m zscir.maintenance.doctor [STORE]``: the checks as plain lines, where not even the CLI starts."""
    for check in doctor_checks(sys.argv[1] if len(sys.argv) > 1 else None):
        sys.stdout.write(f"{check.status:<5}{check.name}: {check.found}\n")
        if check.cure:
            sys.stdout.write(f"     mend with: {check.cure}\n")


if __name__ == "__main__":
    print_doctor_checks()
