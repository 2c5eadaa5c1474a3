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

from zscir.lineage.deletions import DONE, SPARED, Removals
from zscir.lineage.lookup import SHORTEST
from zscir.lineage.run_history import History, read_history
from zscir.maintenance.delete import remove_manifest
from zscir.runtime.errors import DamageError, RequestError
from zscir.runtime.progress import note, track
from zscir.runtime.settings import Settings
from zscir.store.artifacts import MANIFEST, FileEntry
from zscir.store.inventory import Heap, Read, heaps, read_all, read_one
from zscir.store.key_lock import held
from zscir.store.storage_errors import problems
from zscir.store.store import Store

BLOCK_BYTES = 1 << 23
MANY = 20
READERS = 16  # of a store on S3, where most of the time is waiting
DAMAGED, MISSING = "damaged", "missing"
NO_MANIFEST, UNKNOWN = "no manifest", "unknown file"
BAD = (DAMAGED, MISSING)
Name = tuple[str, str]  # stage, key
Place = tuple[str, int, str]  # where bytes lie in the store, how many, their SHA-256
Places = dict[Place, list[tuple[Name, FileEntry]]]
Problem = tuple[str, str]  # state and detail of a finding


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
class Verified:
    """What was read, and what was found."""

    read: dict[Name, Read]
    files: int
    bytes: int
    findings: list[Finding]

    @property
    def artifacts(self) -> int:
        """How many."""
        return len(self.read)

    @property
    def bad(self) -> dict[Name, list[Finding]]:
        """The artifacts that are damaged; files that merely lie about are not damage."""
        found: dict[Name, list[Finding]] = defaultdict(list)
        for one in self.findings:
            if one.state in BAD:
                found[one.stage, one.key].append(one)
        return found


def verify(store: Store, refs: Iterable[str] = ()) -> Verified:
    """Read all files of all artifacts, or of those that ``refs`` name: a stage, a run, a key or its beginning.

    RequestError when a word names nothing; StageError when the store cannot be read.
    """
    history = read_history(store)
    everything = list(heaps(store))
    lying = chosen(store, everything, list(refs), history)
    read = read_all(store, lying)
    places = _places(read)
    damaged = _damaged(store, places)
    sharing = _sharing(store, everything, read, set(damaged))
    shared = {place: holders for place, holders in _places(sharing).items() if place[0] in damaged}
    read |= sharing
    found = [*_manifests(lying, read), *_strays(lying, read)]
    also = _damaged(store, shared) if shared else {}
    found += [one for findings in [*damaged.values(), *also.values()] for one in findings]
    again = _again(history)
    confirmed = sorted(
        (one for one in found if _still(store, one, read)), key=lambda one: (one.stage, one.key, one.file)
    )
    told = [replace(one, again=again.get(one.key, "")) if one.state in BAD else one for one in confirmed]
    sizes = [entries[0][1].size for entries in places.values()]
    return Verified(read, len(places), sum(sizes), told)


def chosen(store: Store, lying: list[Heap], refs: list[str], history: History) -> list[Heap]:
    """Of what lies there that under the keys that the words name; all of it where there are none."""
    if not refs:
        return lying
    return list({(one.stage, one.key): one for ref in refs for one in _named(store, ref, lying, history)}.values())


def _named(store: Store, ref: str, lying: list[Heap], history: History) -> list[Heap]:
    runs = [run.run_id for run in history.runs]
    named = runs[-1:] if ref == "latest" else [run for run in runs if ref and run.startswith(ref)]
    if len(named) > 1:
        raise RequestError(f"store {store.uri}: {len(named)} runs begin with '{ref}': {', '.join(named[:5])}")
    used = history.used.get(named[0], set()) if named else set()
    long = len(ref) >= SHORTEST
    found = [one for one in lying if one.stage == ref or one.key in used or (long and one.key.startswith(ref))]
    if not found:
        stages = sorted({one.stage for one in lying})
        raise RequestError(
            f"store {store.uri}: '{ref}' is no run with artifacts, and no key (or its first {SHORTEST} characters or "
            f"more) or stage that has any; the stages are: {', '.join(stages) or 'none yet'}"
        )
    return found


def _manifests(lying: list[Heap], read: dict[Name, Read]) -> Iterator[Finding]:
    for heap in lying:
        one = read.get((heap.stage, heap.key))
        if heap.dated is None:
            yield Finding(heap.stage, heap.key, "", NO_MANIFEST, f"{len(heap.files)} files, {heap.size:,} bytes")
        elif one is not None and one.manifest is None:
            yield Finding(heap.stage, heap.key, MANIFEST, DAMAGED, one.problem)


def _strays(lying: list[Heap], read: dict[Name, Read]) -> Iterator[Finding]:
    for heap in lying:
        one = read.get((heap.stage, heap.key))
        if one is not None and one.manifest is not None:
            known = {MANIFEST, *(entry.path for entry in one.manifest.files if entry.home is None)}
            for name in sorted(heap.files.keys() - known):
                yield Finding(
                    heap.stage, heap.key, name, UNKNOWN, f"{heap.files[name].size:,} bytes, not in the manifest"
                )


def _places(read: dict[Name, Read]) -> Places:
    """Every place -> the artifacts that its bytes belong to, and under which name."""
    found: Places = defaultdict(list)
    for name, one in read.items():
        for entry in _entries(one):
            found[_address(name, entry), entry.size, entry.sha256].append((name, entry))
    return dict(found)


def _address(name: Name, entry: FileEntry) -> str:
    return entry.home or "/".join([*name, entry.path])


def _damaged(store: Store, places: Places) -> dict[str, list[Finding]]:
    """Address of damaged bytes -> a finding for each artifact that they belong to."""
    found: dict[str, list[Finding]] = defaultdict(list)
    for place, problem in track(_digests(store, places), len(places), "verify"):
        found[place[0]] += [Finding(*name, entry.path, *problem) for name, entry in places[place] if problem]
    return {address: findings for address, findings in found.items() if findings}


def _sharing(store: Store, lying: list[Heap], read: dict[Name, Read], damaged: set[str]) -> dict[Name, Read]:
    """The artifacts beyond those that were read to which damaged bytes belong, too."""
    if not damaged:
        return {}
    others = read_all(store, [one for one in lying if (one.stage, one.key) not in read])
    return {
        name: one for name, one in others.items() if any(_address(name, entry) in damaged for entry in _entries(one))
    }


def _digests(store: Store, places: Iterable[Place]) -> Iterator[tuple[Place, Problem | None]]:
    pool = ThreadPoolExecutor(READERS if store.remote else min(8, os.cpu_count() or 1))
    try:
        yield from pool.map(lambda place: (place, problem_of(store, *place)), places)
    finally:
        pool.shutdown(cancel_futures=True)  # who stops it does not wait for the rest of the store


def problem_of(store: Store, place: str, size: int, digest: str) -> Problem | None:
    """What is the matter with one file, if anything is."""
    path = store.address(place)
    with problems(store.uri):
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
    for start in range(0, size, BLOCK_BYTES):
        total.update(store.fs.cat_file(path, start=start, end=min(start + BLOCK_BYTES, size)))
    return size, total.hexdigest()


def _still(store: Store, one: Finding, read: dict[Name, Read]) -> bool:
    """Whether it is so at a second look, of the very same artifact."""
    before, now = read.get((one.stage, one.key)), read_one(store, one.stage, one.key)
    if (before and before.text) != (now and now.text):
        return False
    entry = next((entry for entry in _entries(now) if entry.path == one.file), None)
    if one.state not in BAD or entry is None:
        return True
    return problem_of(store, _address((one.stage, one.key), entry), entry.size, entry.sha256) is not None


def _entries(read: Read | None) -> tuple[FileEntry, ...]:
    return read.manifest.files if read is not None and read.manifest is not None else ()


def _again(history: History) -> dict[str, str]:
    """Key -> the command that makes it again: the newest run that used it, or what it is a piece of, once more."""
    found: dict[str, str] = {}
    for run in history.runs:
        for key in history.used.get(run.run_id, ()):
            found |= dict.fromkeys([key, *history.pieces.get(key, ())], f"zscir rerun {run.run_id}")
    return found


def quarantine(store: Store, verified: Verified) -> list[Name]:
    """Take the manifests of damaged artifacts away, so that the next run makes them again; give those that it closed.

    Their files stay for whoever wants to look, until they are made again or `zscir gc` takes them.
    """
    removals, closed = Removals(store, "verify"), []
    for (stage, key), found in verified.bad.items():
        why = f"{found[0].state}: {found[0].file}: {found[0].detail}"
        size = sum(entry.size for entry in _entries(verified.read[stage, key]))
        removals.plan(stage, key, size, len(found), why, verified.read[stage, key].text)
    with removals.written():
        for stage, key in verified.bad:
            with held(store.scratch, store.leases, stage, key):
                now = read_one(store, stage, key)
                same = now is not None and now.text == verified.read[stage, key].text
                if same:
                    remove_manifest(store, stage, key)
                    closed.append((stage, key))
                removals.note(stage, key, DONE if same else SPARED)
    note(f"{len(closed)} damaged artifacts are closed; the next run makes them again")
    return closed


def check_whole(store: Store, verified: Verified, closed: Sequence[Name] = ()) -> None:
    """DamageError that lists what is damaged and says what to type, unless nothing is."""
    bad = verified.bad
    if not bad:
        return
    where = "" if store.uri == Settings.from_env().store.rstrip("/") else f" --store {shlex.quote(store.uri)}"
    lines = [f"{len(bad)} of {verified.artifacts} artifacts are damaged:"]
    for (stage, key), found in list(bad.items())[:MANY]:
        lines.append(f"  {stage}/{key[:12]}: {found[0].file}: {found[0].state}: {found[0].detail}")
    lines += [f"  ... and {len(bad) - MANY} more"] if len(bad) > MANY else []
    if len(closed) < len(bad):
        keys = " ".join(key[:12] for _, key in bad) if len(bad) <= MANY else ""
        lines += ["Take them out, so that no run reuses them:", f"  zscir verify {keys} --quarantine{where}"]
    again = dict.fromkeys(one.again for found in bad.values() for one in found if one.again)
    lines += ["Then make them again:", *(f"  {one}{where}" for one in list(again)[:MANY])] if again else []
    lines += [] if again else ["No run lists them; run the pipeline that made them again."]
    raise DamageError("\n".join(lines))
