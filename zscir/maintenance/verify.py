"""Verifying: every file of a store is read; what is not as its manifest says becomes a row with what to do about it.

A file is read once, however many artifacts it is lent to; a few are read at the same time, a block of each at once.
Where it is damaged, all artifacts that hold it are, asked for or not: while one of them is open, its bytes are reused.
What looks damaged is looked at again, since an artifact may be removed or made again while its files are read.
"""

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

READ_BLOCK_BYTES = 1 << 23
MAX_LISTED_FINDINGS = 20
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
    """Something that is not as it should be: which artifact, which file, what is the matter, what makes it again."""

    stage: str
    key: str
    file: str
    state: str
    detail: str
    again: str = ""


@dataclass(frozen=True)
class VerifyResult:
    """What was read, and what was found."""

    read: dict[ArtifactId, StoredManifest]
    files: int
    bytes: int
    findings: list[Finding]

    @property
    def artifacts(self) -> int:
        """How many."""
        return len(self.read)

    @property
    def bad(self) -> dict[ArtifactId, list[Finding]]:
        """The artifacts that are damaged; files that merely lie about are not damage."""
        found: dict[ArtifactId, list[Finding]] = defaultdict(list)
        for one in self.findings:
            if one.state in DAMAGE_STATES:
                found[one.stage, one.key].append(one)
        return found


def verify_artifacts(store: Store, refs: Iterable[str] = ()) -> VerifyResult:
    """Read all files of all artifacts, or of those that ``refs`` name: a stage, a run, a key or its beginning.

    RequestError when a word names nothing; StageError when the store cannot be read.
    """
    history = read_run_history(store)
    everything = list(list_stored_artifacts(store))
    lying = select_stored_artifacts(store, everything, list(refs), history)
    read = read_stored_manifests(store, lying)
    places = _file_locations(read)
    damaged = _damaged_files(store, places)
    sharing = _artifacts_sharing(store, everything, read, set(damaged))
    shared = {place: holders for place, holders in _file_locations(sharing).items() if place[0] in damaged}
    read |= sharing
    found = [*_manifest_findings(lying, read), *_unknown_files(lying, read)]
    also = _damaged_files(store, shared) if shared else {}
    found += [one for findings in [*damaged.values(), *also.values()] for one in findings]
    again = _remake_commands(history)
    confirmed = sorted(
        (one for one in found if _still_holds(store, one, read)), key=lambda one: (one.stage, one.key, one.file)
    )
    told = [replace(one, again=again.get(one.key, "")) if one.state in DAMAGE_STATES else one for one in confirmed]
    sizes = [entries[0][1].size for entries in places.values()]
    return VerifyResult(read, len(places), sum(sizes), told)


def select_stored_artifacts(
    store: Store, lying: list[StoredArtifact], refs: list[str], history: RunHistory
) -> list[StoredArtifact]:
    """Of what lies there that under the keys that the words name; all of it where there are none."""
    if not refs:
        return lying
    return list(
        {(one.stage, one.key): one for ref in refs for one in _artifacts_of_ref(store, ref, lying, history)}.values()
    )


def _artifacts_of_ref(store: Store, ref: str, lying: list[StoredArtifact], history: RunHistory) -> list[StoredArtifact]:
    runs = [run.run_id for run in history.runs]
    named = runs[-1:] if ref == "latest" else [run for run in runs if ref and run.startswith(ref)]
    if len(named) > 1:
        raise RequestError(f"store {store.uri}: {len(named)} runs begin with '{ref}': {', '.join(named[:5])}")
    used = history.used.get(named[0], set()) if named else set()
    long = len(ref) >= MIN_PREFIX_CHARS
    found = [one for one in lying if one.stage == ref or one.key in used or (long and one.key.startswith(ref))]
    if not found:
        stages = sorted({one.stage for one in lying})
        raise RequestError(
            f"store {store.uri}: '{ref}' is no run with artifacts, and no key (or its first {MIN_PREFIX_CHARS} "
            f"characters or more) or stage that has any; the stages are: {', '.join(stages) or 'none yet'}"
        )
    return found


def _manifest_findings(lying: list[StoredArtifact], read: dict[ArtifactId, StoredManifest]) -> Iterator[Finding]:
    for heap in lying:
        one = read.get((heap.stage, heap.key))
        if heap.dated is None:
            yield Finding(heap.stage, heap.key, "", NO_MANIFEST, f"{len(heap.files)} files, {heap.size:,} bytes")
        elif one is not None and one.manifest is None:
            yield Finding(heap.stage, heap.key, MANIFEST, DAMAGED, one.problem)


def _unknown_files(lying: list[StoredArtifact], read: dict[ArtifactId, StoredManifest]) -> Iterator[Finding]:
    for heap in lying:
        one = read.get((heap.stage, heap.key))
        if one is not None and one.manifest is not None:
            known = {MANIFEST, *(entry.path for entry in one.manifest.files if entry.home is None)}
            for name in sorted(heap.files.keys() - known):
                yield Finding(
                    heap.stage, heap.key, name, UNKNOWN, f"{heap.files[name].size:,} bytes, not in the manifest"
                )


def _file_locations(read: dict[ArtifactId, StoredManifest]) -> FileLocations:
    """Every place -> the artifacts that its bytes belong to, and under which name."""
    found: FileLocations = defaultdict(list)
    for name, one in read.items():
        for entry in _entries(one):
            found[_address(name, entry), entry.size, entry.sha256].append((name, entry))
    return dict(found)


def _address(name: ArtifactId, entry: FileEntry) -> str:
    return entry.home or "/".join([*name, entry.path])


def _damaged_files(store: Store, places: FileLocations) -> dict[str, list[Finding]]:
    """Address of damaged bytes -> a finding for each artifact that they belong to."""
    found: dict[str, list[Finding]] = defaultdict(list)
    for place, problem in track(_check_locations(store, places), len(places), "verify"):
        found[place[0]] += [Finding(*name, entry.path, *problem) for name, entry in places[place] if problem]
    return {address: findings for address, findings in found.items() if findings}


def _artifacts_sharing(
    store: Store, lying: list[StoredArtifact], read: dict[ArtifactId, StoredManifest], damaged: set[str]
) -> dict[ArtifactId, StoredManifest]:
    """The artifacts beyond those that were read to which damaged bytes belong, too."""
    if not damaged:
        return {}
    others = read_stored_manifests(store, [one for one in lying if (one.stage, one.key) not in read])
    return {
        name: one for name, one in others.items() if any(_address(name, entry) in damaged for entry in _entries(one))
    }


def _check_locations(store: Store, places: Iterable[FileLocation]) -> Iterator[tuple[FileLocation, FileProblem | None]]:
    pool = ThreadPoolExecutor(FILE_READERS if store.remote else min(8, os.cpu_count() or 1))
    try:
        yield from pool.map(lambda place: (place, file_problem(store, *place)), places)
    finally:
        pool.shutdown(cancel_futures=True)  # who stops it does not wait for the rest of the store


def file_problem(store: Store, place: str, size: int, digest: str) -> FileProblem | None:
    """What is the matter with one file, if anything is."""
    path = store.address(place)
    with translate_storage_errors(store.uri):
        try:
            there, got = _read_remote(store, path) if store.remote else _read_local(path)
        except FileNotFoundError:
            return MISSING, "the file is not there"
        except OSError as error:
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
        total.update(store.fs.cat_file(path, start=start, end=min(start + READ_BLOCK_BYTES, size)))
    return size, total.hexdigest()


def _still_holds(store: Store, one: Finding, read: dict[ArtifactId, StoredManifest]) -> bool:
    """Whether it is so at a second look, of the very same artifact."""
    before, now = read.get((one.stage, one.key)), read_stored_manifest(store, one.stage, one.key)
    if (before and before.text) != (now and now.text):
        return False
    entry = next((entry for entry in _entries(now) if entry.path == one.file), None)
    if one.state not in DAMAGE_STATES or entry is None:
        return True
    return file_problem(store, _address((one.stage, one.key), entry), entry.size, entry.sha256) is not None


def _entries(read: StoredManifest | None) -> tuple[FileEntry, ...]:
    return read.manifest.files if read is not None and read.manifest is not None else ()


def _remake_commands(history: RunHistory) -> dict[str, str]:
    """Key -> the command that makes it again: the newest run that used it, or what it is a piece of, once more."""
    found: dict[str, str] = {}
    for run in history.runs:
        for key in history.used.get(run.run_id, ()):
            found |= dict.fromkeys([key, *history.pieces.get(key, ())], f"zscir rerun {run.run_id}")
    return found


def quarantine_artifacts(store: Store, verified: VerifyResult) -> list[ArtifactId]:
    """Take the manifests of damaged artifacts away, so that the next run makes them again; give those that it closed.

    Their files stay for whoever wants to look, until they are made again or `zscir gc` takes them.
    """
    removals, closed = DeletionLog(store, "verify"), []
    for (stage, key), found in verified.bad.items():
        why = f"{found[0].state}: {found[0].file}: {found[0].detail}"
        size = sum(entry.size for entry in _entries(verified.read[stage, key]))
        removals.plan(stage, key, size, len(found), why, verified.read[stage, key].text)
    with removals.written():
        for stage, key in verified.bad:
            with hold_key(store.scratch, store.leases, stage, key):
                now = read_stored_manifest(store, stage, key)
                same = now is not None and now.text == verified.read[stage, key].text
                if same:
                    remove_manifest(store, stage, key)
                    closed.append((stage, key))
                removals.note(stage, key, DONE if same else SPARED)
    log_info(f"{len(closed)} damaged artifacts are closed; the next run makes them again")
    return closed


def raise_if_damaged(store: Store, verified: VerifyResult, closed: Sequence[ArtifactId] = ()) -> None:
    """DamageError that lists what is damaged and says what to type, unless nothing is."""
    bad = verified.bad
    if not bad:
        return
    where = "" if store.uri == Settings.from_env().store.rstrip("/") else f" --store {shlex.quote(store.uri)}"
    lines = [f"{len(bad)} of {verified.artifacts} artifacts are damaged:"]
    for (stage, key), found in list(bad.items())[:MAX_LISTED_FINDINGS]:
        lines.append(f"  {stage}/{key[:12]}: {found[0].file}: {found[0].state}: {found[0].detail}")
    lines += [f"  ... and {len(bad) - MAX_LISTED_FINDINGS} more"] if len(bad) > MAX_LISTED_FINDINGS else []
    if len(closed) < len(bad):
        keys = " ".join(key[:12] for _, key in bad) if len(bad) <= MAX_LISTED_FINDINGS else ""
        lines += ["Take them out, so that no run reuses them:", f"  zscir verify {keys} --quarantine{where}"]
    again = dict.fromkeys(one.again for found in bad.values() for one in found if one.again)
    lines += (
        ["Then make them again:", *(f"  {one}{where}" for one in list(again)[:MAX_LISTED_FINDINGS])] if again else []
    )
    lines += [] if again else ["No run lists them; run the pipeline that made them again."]
    raise DamageError("\n".join(lines))
