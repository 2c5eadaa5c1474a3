"""Read every file of a store and compare it with its manifest; each difference is a finding with what to do about it.

A file is read once, however many artifacts share it; a few are read at the same time, one block of each in memory.
Where it is damaged, all artifacts that share it are, whether the caller named them or not: as long as one of them keeps
its manifest, its bytes are reused. What looks damaged is read again, since an artifact may be removed or made again
while its files are read.
"""

import itertools
import os
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from errno import EIO
from hashlib import file_digest, sha256

from zscir.lineage.deletions import DONE, SPARED, DeletionLog
from zscir.lineage.lookup import MIN_PREFIX_CHARS
from zscir.lineage.run_history import RunHistory, read_run_history
from zscir.maintenance.delete import remove_manifest
from zscir.runtime.errors import DamageError, RequestError
from zscir.runtime.progress import log_info, track
from zscir.runtime.settings import Settings
from zscir.store.artifacts import MANIFEST, FileEntry
from zscir.store.inventory import (
    StoredArtifact,
    StoredManifest,
    list_stored_artifacts,
    read_stored_manifest,
    read_stored_manifests,
)
from zscir.store.key_lock import hold_key
from zscir.store.storage_errors import translate_storage_errors
from zscir.store.store import Store

READ_BLOCK_BYTES = 1 << 23  # 8 MiB, and FILE_READERS of them: at most 128 MiB in memory
MAX_LISTED_FINDINGS = 20  # of an error message; the table above it has all
FILE_READERS = 16  # of a store on S3, where most of the time is waiting
DAMAGED, MISSING = "damaged", "missing"
NO_MANIFEST, UNKNOWN = "no manifest", "unknown file"
DAMAGE_STATES = (DAMAGED, MISSING)
ArtifactId = tuple[str, str]  # stage, key
FileLocation = tuple[str, int, str]  # where bytes lie in the store, how many, their SHA-256
FileLocations = dict[FileLocation, list[tuple[ArtifactId, FileEntry]]]
FileProblem = tuple[str, str]  # state and detail of a finding


@dataclass(frozen=True)
class Finding:
    """One difference between a store and its manifests: where, what it is, and the command that makes it again."""

    stage: str
    key: str
    file: str
    state: str
    detail: str
    again: str = ""


@dataclass(frozen=True)
class VerifyResult:
    """The manifests, files and bytes that were read, and the findings."""

    manifests: dict[ArtifactId, StoredManifest]
    files: int
    bytes: int
    findings: list[Finding]

    @property
    def artifacts(self) -> int:
        """The number of artifacts that were read."""
        return len(self.manifests)

    @property
    def damaged(self) -> dict[ArtifactId, list[Finding]]:
        """The damaged artifacts; files that no manifest lists are not damage."""
        found: dict[ArtifactId, list[Finding]] = defaultdict(list)
        for finding in self.findings:
            if finding.state in DAMAGE_STATES:
                found[finding.stage, finding.key].append(finding)
        return found


def verify_artifacts(store: Store, refs: Iterable[str] = ()) -> VerifyResult:
    """Read all files of all artifacts, or of those that ``refs`` name: a stage, a run, a key or its beginning.

    RequestError when one of them names nothing; StageError when the store cannot be read.
    """
    history = read_run_history(store)
    everything = list(list_stored_artifacts(store))
    artifacts = select_stored_artifacts(store, everything, list(refs), history)
    manifests = read_stored_manifests(store, artifacts)
    places = _file_locations(manifests)
    damaged = _damaged_files(store, places)
    sharing = _artifacts_sharing(store, everything, manifests, set(damaged))
    shared = {place: holders for place, holders in _file_locations(sharing).items() if place[0] in damaged}
    manifests |= sharing
    found = [*_manifest_findings(artifacts, manifests), *_unknown_files(artifacts, manifests)]
    also = _damaged_files(store, shared) if shared else {}
    found += itertools.chain(*damaged.values(), *also.values())
    again = _remake_commands(history)
    confirmed = [finding for finding in found if _still_holds(store, finding, manifests)]
    confirmed.sort(key=lambda finding: (finding.stage, finding.key, finding.file))
    findings = [
        replace(finding, again=again.get(finding.key, "")) if finding.state in DAMAGE_STATES else finding
        for finding in confirmed
    ]
    sizes = [entries[0][1].size for entries in places.values()]
    return VerifyResult(manifests, len(places), sum(sizes), findings)


def select_stored_artifacts(
    store: Store, artifacts: list[StoredArtifact], refs: list[str], history: RunHistory
) -> list[StoredArtifact]:
    """Those of ``artifacts`` that ``refs`` name; all of them where there are no refs."""
    if not refs:
        return artifacts
    chosen = itertools.chain.from_iterable(_artifacts_of_ref(store, ref, artifacts, history) for ref in refs)
    return list({(stored.stage, stored.key): stored for stored in chosen}.values())


def _artifacts_of_ref(
    store: Store, ref: str, artifacts: list[StoredArtifact], history: RunHistory
) -> list[StoredArtifact]:
    runs = [run.run_id for run in history.runs]
    named = runs[-1:] if ref == "latest" else [run for run in runs if ref and run.startswith(ref)]
    if len(named) > 1:
        raise RequestError(f"store {store.uri}: {len(named)} runs begin with '{ref}': {', '.join(named[:5])}")
    used = history.used.get(named[0], set()) if named else set()
    long = len(ref) >= MIN_PREFIX_CHARS
    found = [
        stored
        for stored in artifacts
        if stored.stage == ref or stored.key in used or (long and stored.key.startswith(ref))
    ]
    if not found:
        stages = sorted({stored.stage for stored in artifacts})
        raise RequestError(
            f"store {store.uri}: '{ref}' is no run with artifacts, and no key (or its first {MIN_PREFIX_CHARS} "
            f"characters or more) or stage that has any; the stages are: {', '.join(stages) or 'none yet'}"
        )
    return found


def _manifest_findings(
    artifacts: list[StoredArtifact], manifests: dict[ArtifactId, StoredManifest]
) -> Iterator[Finding]:
    for stored in artifacts:
        stage, key = stored.stage, stored.key
        manifest = manifests.get((stage, key))
        if stored.manifest_date is None:
            yield Finding(stage, key, "", NO_MANIFEST, f"{len(stored.files)} files, {stored.size:,} bytes")
        elif manifest is not None and manifest.manifest is None:
            yield Finding(stage, key, MANIFEST, DAMAGED, manifest.problem)


def _unknown_files(artifacts: list[StoredArtifact], manifests: dict[ArtifactId, StoredManifest]) -> Iterator[Finding]:
    for stored in artifacts:
        read = manifests.get((stored.stage, stored.key))
        if read is not None and read.manifest is not None:
            known = {MANIFEST, *(entry.path for entry in read.manifest.files if entry.home is None)}
            for name in sorted(stored.files.keys() - known):
                detail = f"{stored.files[name].size:,} bytes, not in the manifest"
                yield Finding(stored.stage, stored.key, name, UNKNOWN, detail)


def _file_locations(manifests: dict[ArtifactId, StoredManifest]) -> FileLocations:
    """Location of bytes -> the artifacts that have them, and under which name."""
    found: FileLocations = defaultdict(list)
    for name, manifest in manifests.items():
        for entry in _entries(manifest):
            found[_address(name, entry), entry.size, entry.sha256].append((name, entry))
    return dict(found)


def _address(name: ArtifactId, entry: FileEntry) -> str:
    return entry.home or "/".join([*name, entry.path])


def _damaged_files(store: Store, places: FileLocations) -> dict[str, list[Finding]]:
    """Address of damaged bytes -> a finding for each artifact that has them."""
    found: dict[str, list[Finding]] = defaultdict(list)
    for place, problem in track(_check_locations(store, places), len(places), "verify"):
        found[place[0]] += [Finding(*name, entry.path, *problem) for name, entry in places[place] if problem]
    return {address: findings for address, findings in found.items() if findings}


def _artifacts_sharing(
    store: Store, artifacts: list[StoredArtifact], manifests: dict[ArtifactId, StoredManifest], damaged: set[str]
) -> dict[ArtifactId, StoredManifest]:
    """Further artifacts, not among ``manifests``, that share damaged bytes."""
    if not damaged:
        return {}
    rest = [stored for stored in artifacts if (stored.stage, stored.key) not in manifests]
    return {
        name: manifest
        for name, manifest in read_stored_manifests(store, rest).items()
        if any(_address(name, entry) in damaged for entry in _entries(manifest))
    }


def _check_locations(store: Store, places: Iterable[FileLocation]) -> Iterator[tuple[FileLocation, FileProblem | None]]:
    # Threads are enough: hashlib lets others run while it hashes a block.
    pool = ThreadPoolExecutor(FILE_READERS if store.remote else min(8, os.cpu_count() or 1))
    try:
        yield from pool.map(lambda place: (place, file_problem(store, *place)), places)
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C the rest of the store is not read


def file_problem(store: Store, place: str, size: int, digest: str) -> FileProblem | None:
    """What is wrong with one file; None where nothing is. StageError when the store cannot be read."""
    path = store.address(place)
    with translate_storage_errors(store.uri):
        try:
            there, got = _read_remote(store, path) if store.remote else _read_local(path)
        except FileNotFoundError:
            return MISSING, "the file is not there"
        except OSError as error:
            # Only EIO is about the bytes; EACCES, say, is about who reads them, and nothing to quarantine.
            if error.errno != EIO:
                raise
            return DAMAGED, "the disk cannot read it (input/output error)"
    if there != size:
        return DAMAGED, f"{there:,} bytes, the manifest says {size:,}"
    return None if got == digest else (DAMAGED, "the bytes do not have the digest in the manifest")


def _read_local(path: str) -> tuple[int, str]:
    with open(path, "rb") as stream:
        digest = file_digest(stream, "sha256").hexdigest()
        return stream.tell(), digest


def _read_remote(store: Store, path: str) -> tuple[int, str]:
    size, total = int(store.fs.info(path)["size"]), sha256()
    for start in range(0, size, READ_BLOCK_BYTES):
        # Block by block: each such call is retried while the store is away, a read of an open stream is not.
        total.update(store.fs.cat_file(path, start=start, end=min(start + READ_BLOCK_BYTES, size)))
    return size, total.hexdigest()


def _still_holds(store: Store, finding: Finding, manifests: dict[ArtifactId, StoredManifest]) -> bool:
    """Whether a second reading of the very same artifact finds it too."""
    name = (finding.stage, finding.key)
    before, now = manifests.get(name), read_stored_manifest(store, *name)
    if (before and before.text) != (now and now.text):
        return False
    entry = next((entry for entry in _entries(now) if entry.path == finding.file), None)
    if finding.state not in DAMAGE_STATES or entry is None:
        return True
    return file_problem(store, _address(name, entry), entry.size, entry.sha256) is not None


def _entries(read: StoredManifest | None) -> tuple[FileEntry, ...]:
    return read.manifest.files if read is not None and read.manifest is not None else ()


def _remake_commands(history: RunHistory) -> dict[str, str]:
    """Key -> the command that makes it again: the newest run that used it, or the artifact that it is a chunk of."""
    found: dict[str, str] = {}
    for run in history.runs:
        for key in history.used.get(run.run_id, ()):
            found |= dict.fromkeys([key, *history.chunks.get(key, ())], f"zscir rerun {run.run_id}")
    return found


def quarantine_artifacts(store: Store, verified: VerifyResult) -> list[ArtifactId]:
    """Remove the manifests of damaged artifacts, so that the next run makes them again; return their ids.

    Their files stay for inspection until they are made again or `zscir gc` removes them.
    """
    deletions, quarantined = DeletionLog(store, "verify"), []
    for (stage, key), found in verified.damaged.items():
        why = f"{found[0].state}: {found[0].file}: {found[0].detail}"
        size = sum(entry.size for entry in _entries(verified.manifests[stage, key]))
        deletions.record_planned(stage, key, size, len(found), why, verified.manifests[stage, key].text)
    with deletions.written():
        for stage, key in verified.damaged:
            with hold_key(store.scratch, store.leases, stage, key):
                now = read_stored_manifest(store, stage, key)
                # Compared under the key: a run may have made it again since it was read, and a whole one must stay.
                same = now is not None and now.text == verified.manifests[stage, key].text
                if same:
                    remove_manifest(store, stage, key)
                    quarantined.append((stage, key))
                deletions.record_outcome(stage, key, DONE if same else SPARED)
    log_info(f"{len(quarantined)} damaged artifacts are quarantined; the next run makes them again")
    return quarantined


def raise_if_damaged(store: Store, verified: VerifyResult, quarantined: Sequence[ArtifactId] = ()) -> None:
    """DamageError that lists the damaged artifacts and says what to type; nothing where there are none."""
    damaged = verified.damaged
    if not damaged:
        return
    where = "" if store.uri == Settings.from_env().store.rstrip("/") else f" --store {shlex.quote(store.uri)}"
    lines = [f"{len(damaged)} of {verified.artifacts} artifacts are damaged:"]
    for (stage, key), found in list(damaged.items())[:MAX_LISTED_FINDINGS]:
        lines.append(f"  {stage}/{key[:12]}: {found[0].file}: {found[0].state}: {found[0].detail}")
    lines += [f"  ... and {len(damaged) - MAX_LISTED_FINDINGS} more"] if len(damaged) > MAX_LISTED_FINDINGS else []
    if len(quarantined) < len(damaged):
        keys = " ".join(key[:12] for _, key in damaged) if len(damaged) <= MAX_LISTED_FINDINGS else ""
        lines += ["Take them out, so that no run reuses them:", f"  zscir verify {keys} --quarantine{where}"]
    commands = [finding.again for finding in itertools.chain(*damaged.values()) if finding.again]
    again = [f"  {command}{where}" for command in list(dict.fromkeys(commands))[:MAX_LISTED_FINDINGS]]
    lines += (
        ["Then make them again:", *again] if again else ["No run lists them; run the pipeline that made them again."]
    )
    raise DamageError("\n".join(lines))
