"""Known conflicts between versions of installed packages, each with a fix.

Each of these installs without a warning, and ``pip check`` accepts it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

InstalledVersions = Mapping[str, str]  # canonical package name -> version
CheckStatus = Literal["ok", "warn", "fail"]
OLDEST_PYTHON = (3, 11)  # hashlib.file_digest and datetime.UTC came with it
NEWEST_PYTHON = (3, 14)


@dataclass(frozen=True)
class DoctorCheck:
    """One thing that was looked at; ``cure`` holds a command wherever the status is not ok."""

    name: str
    status: CheckStatus
    found: str
    cure: str = ""


@dataclass(frozen=True)
class KnownConflict:
    """``package`` works with ``partner`` only within ``allowed``; outside, ``symptom`` is what one sees."""

    package: str
    partner: str
    allowed: str
    symptom: str
    status: CheckStatus = "fail"
    partner_from: str = ""


KNOWN_CONFLICTS = (
    # The bound that Prefect 3.9.1 sets itself; 0.150.0 works, 0.165.0 does not, and none in between was tested.
    KnownConflict("fastapi", "prefect", "<0.151",
         "no Prefect server and no ephemeral API: TypeError: Body() got an unexpected keyword argument 'min_items'"),
    KnownConflict("sqlalchemy", "prefect", ">=2.0,<2.1",
         "the Prefect scheduler never creates a run; only the server's log says Can't evaluate bulk DML statement"),
    # The kubernetes package, 37.0.2 for one, brings 4.0.0 along.
    KnownConflict("python-dateutil", "prefect", "<3", "prefect and botocore do not import"),
    # open_clip's extra ``training`` has the same bound.
    KnownConflict("webdataset", "open-clip-torch", "<0.2.87",
         "open_clip's own training script stops with KeyError: 'fname'; zscir itself works", status="warn"),
    KnownConflict("click", "huggingface-hub", ">=8.4.2",
         "huggingface_hub and with it transformers do not import; skypilot, for one, takes click below 8.2",
         partner_from="2"),
)  # fmt: skip


def check_package_versions(
    versions: InstalledVersions, python: tuple[int, int], requirements: Sequence[str] = (), pip: str = "pip"
) -> list[DoctorCheck]:
    """All package checks for these installed versions; ``requirements`` are zscir's own, ``pip`` its command."""
    own = [_check_requirements(versions, requirements, pip)] if requirements else []
    pairs = [_check_conflict(rule, versions, pip) for rule in KNOWN_CONFLICTS if _applies(rule, versions)]
    imghdr = [_check_imghdr(versions, pip)] if python >= (3, 13) else []
    return [
        _check_python(python),
        *own,
        _check_torch_pair(versions, pip),
        _check_backport(versions, pip),
        *imghdr,
        *pairs,
    ]


def _check_python(python: tuple[int, int]) -> DoctorCheck:
    found = "Python " + ".".join(map(str, python))
    if OLDEST_PYTHON <= python <= NEWEST_PYTHON:
        return DoctorCheck("python", "ok", found)
    cure = "make clean && make venv PYTHON=python3.11"
    supported = " to ".join(".".join(map(str, version)) for version in (OLDEST_PYTHON, NEWEST_PYTHON))
    return DoctorCheck("python", "fail", f"{found}; zscir needs {supported}", cure)


def _check_requirements(versions: InstalledVersions, requirements: Sequence[str], pip: str) -> DoctorCheck:
    """Whether everything that zscir requires is installed, in a version it allows."""
    missing, wrong, wanted = [], [], []
    for line in requirements:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = versions.get(canonicalize_name(requirement.name))
        if version is None:
            missing.append(requirement.name)
        # By default no range contains a pre-release, and somebody may have installed one on purpose.
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} (wanted {requirement.specifier})")
        else:
            continue
        wanted.append(f'"{requirement.name}{requirement.specifier}"')
    if not wanted:
        return DoctorCheck("packages", "ok", "everything zscir asks for is installed")
    parts = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"not allowed: {', '.join(wrong)}"] * bool(wrong)
    return DoctorCheck("packages", "fail", "; ".join(parts), f"{pip} install {' '.join(sorted(wanted))}")


def _check_torch_pair(versions: InstalledVersions, pip: str) -> DoctorCheck:
    """torchvision 0.N is made for torch 2.(N-15) and no other."""
    torch, torchvision = versions.get("torch"), versions.get("torchvision")
    found = f"torch {torch}, torchvision {torchvision}"
    cure = f"{pip} install torch==2.13.0 torchvision==0.28.0"
    if torch is None or torchvision is None:
        return DoctorCheck("torchvision/torch", "fail", f"{found}; open_clip imports both", cure)
    # Compared by minor version only: a local part such as +cpu says for what it was built, not for which partner.
    if Version(torch).major == 2 and Version(torch).minor + 15 == Version(torchvision).minor:
        return DoctorCheck("torchvision/torch", "ok", found)
    return DoctorCheck(
        "torchvision/torch", "fail", f"{found}: not made for each other; torchvision does not import", cure
    )


def _check_backport(versions: InstalledVersions, pip: str) -> DoctorCheck:
    version = versions.get("dataclasses")
    if version is None:
        return DoctorCheck("dataclasses", "ok", "no backport in the way of the standard library")
    found = (
        f"the Python 3.6 backport {version} is installed (img2dataset asks for it); Prefect's ephemeral API imports it "
        "instead of the standard library's and times out: dataclass() got an unexpected keyword argument 'slots'"
    )
    return DoctorCheck("dataclasses", "fail", found, f"{pip} uninstall -y dataclasses")


def _check_imghdr(versions: InstalledVersions, pip: str) -> DoctorCheck:
    if "standard-imghdr" in versions or "img2dataset" not in versions:
        return DoctorCheck("imghdr", "ok", "img2dataset finds the module that Python lacks from 3.13 on")
    found = (
        "Python 3.13 and later lack the module imghdr, which img2dataset imports; no download starts: "
        "ModuleNotFoundError: No module named 'imghdr'"
    )
    return DoctorCheck("imghdr", "fail", found, f'{pip} install "standard-imghdr>=3.13"')


def _applies(rule: KnownConflict, versions: InstalledVersions) -> bool:
    partner = versions.get(rule.partner)
    if rule.package not in versions or partner is None:
        return False
    return not rule.partner_from or Version(partner) >= Version(rule.partner_from)


def _check_conflict(rule: KnownConflict, versions: InstalledVersions, pip: str) -> DoctorCheck:
    name = f"{rule.package}/{rule.partner}"
    found = f"{rule.package} {versions[rule.package]}, {rule.partner} {versions[rule.partner]}"
    if SpecifierSet(rule.allowed).contains(versions[rule.package], prereleases=True):
        return DoctorCheck(name, "ok", found)
    return DoctorCheck(name, rule.status, f"{found}: {rule.symptom}", f'{pip} install "{rule.package}{rule.allowed}"')
