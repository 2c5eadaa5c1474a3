"""Leases: among all machines that want one key of a store on S3, one holds it for as long as it renews its lease.

A lease is a small object, ``.leases/STAGE/KEY.json``, written by conditional writes only. Its holder renews it
regularly; one that was not renewed for its whole term may be taken over. Two rules keep clocks out of it. A waiting
process measures by its own monotonic clock for how long it has read the very same lease, and compares no two machines'
times. A holder proves by a conditional write that the lease is still its own before it commits an artifact, however
long it was suspended.
"""

import os
import platform
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from secrets import token_hex

from pydantic import ValidationError

from zscir.runtime.errors import StageError
from zscir.runtime.progress import log_info
from zscir.runtime.specs import Spec, canonical_json
from zscir.store.conditional_writes import (
    ConditionsUnsupported,
    ObjectVersion,
    PreconditionFailed,
    read_object,
    remove_object,
    supports_conditions,
    write_object,
)
from zscir.store.retrying_fs import RetryingFileSystem
from zscir.store.storage_errors import translate_storage_errors

LEASE_FOLDER = ".leases"
RENEWALS_PER_TERM = 3  # in one term: two may fail, and the lease is still good
TRUSTED_SHARE_OF_TERM = 0.5  # share of a term for which the holder trusts its last renewal without another
FIRST_LEASE_POLL_S = 0.2  # a chunk may be made within a second
MAX_LEASE_POLL_S = 5.0  # a training takes hours: each poll is a request that costs money


class LeaseLost(StageError):
    """Another process took the key over while this one was away; what this one made must not be committed."""


class LeaseHolder(Spec):
    """The holder of a key. The times are for people to read; nothing is decided by them."""

    token: str
    host: str
    pid: int
    since: str
    until: str
    term_s: float
    attempt: int = 1
    # Makes each renewal other bytes and so another ETag: ``until`` is the same for renewals within one second.
    beat: int = 0
    lock: str = ""

    def describe(self) -> str:
        """Host, process and start, for a message."""
        return f"{self.host} (process {self.pid}, since {self.since})"


def boottime_s() -> float:
    """Seconds on a clock that is never set and, where the system has one, runs on while the machine is suspended."""
    # On Linux CLOCK_MONOTONIC stands still in suspension: a holder that slept would trust a lease that is over.
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


class Lease:
    """A key that this process holds; a thread renews it until ``release``."""

    def __init__(self, fs: RetryingFileSystem, path: str, holder: LeaseHolder, etag: str, renewed_at_s: float) -> None:
        self.fs = fs
        self.path = path
        self.holder = holder
        self.etag = etag
        self._renewed_at_s = renewed_at_s  # taken before the request went out: nobody can have waited for longer
        self._lost = ""
        self._renew_lock = threading.Lock()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_released, daemon=True, name="zscir-lease")
        self._thread.start()

    def age_s(self) -> float:
        """Seconds since the last renewal was sent."""
        return boottime_s() - self._renewed_at_s

    def check(self) -> None:
        """LeaseLost unless the key is still ours; renews it if the last renewal is older than half a term."""
        if self._lost or self.age_s() > self.holder.term_s * TRUSTED_SHARE_OF_TERM:
            self.confirm()

    def confirm(self) -> None:
        """Renew now. LeaseLost when another process has the key; StageError when the store does not answer."""
        with self._renew_lock:
            if not self._lost:
                self._renew()
            if self._lost:
                raise LeaseLost(self._lost)

    def release(self) -> None:
        """Give the key back at once; a lease that cannot be removed ends by itself."""
        # Set before the lock is taken: a renewal after the removal would find no object and take the lease for lost.
        self._released.set()
        with self._renew_lock:
            if not self._lost:
                with suppress(PreconditionFailed, StageError), translate_storage_errors(self.path):
                    remove_object(self.fs, self.path, self.etag)
        # Outside the lock, which the thread may be waiting for.
        self._thread.join()

    def _renew_until_released(self) -> None:
        logged = False
        while not self._released.wait(self.holder.term_s / RENEWALS_PER_TERM) and not self._lost:
            with self._renew_lock:
                if self._released.is_set() or self._lost:
                    return
                try:
                    self._renew()
                    logged = False
                except StageError as error:
                    if not logged:
                        log_info(
                            f"{self.path}: cannot renew the lease now ({error}); it is checked again before a commit"
                        )
                    logged = True

    def _renew(self) -> None:
        began_s = boottime_s()
        term = timedelta(seconds=self.holder.term_s)
        holder = self.holder.model_copy(update={"beat": self.holder.beat + 1, "until": _utc_text(term)})
        with translate_storage_errors(self.path):
            try:
                etag = write_object(self.fs, self.path, _holder_bytes(holder), self.etag)
            except PreconditionFailed:
                current = read_object(self.fs, self.path)
                if current is None or _parse_holder(current, self.holder.term_s).token != holder.token:
                    self._lost = self._explain(current)
                    return
                etag = current.etag  # our own renewal, whose answer was lost on the way
        self.holder, self.etag, self._renewed_at_s = holder, etag, began_s

    def _explain(self, current: ObjectVersion | None) -> str:
        other = "another process" if current is None else _parse_holder(current, self.holder.term_s).describe()
        ago = f"{self.age_s():.0f} s after our last renewal"
        return f"{self.path}: taken over by {other}, {ago}; what was made here is not committed"


# (path of the lease, what to write, for which key) -> see _wait_and_acquire
AcquireFn = Callable[[str, LeaseHolder, str], tuple[LeaseHolder, str, float]]


class LeaseManager:
    """The keys of one store on S3 that this process holds."""

    def __init__(self, uri: str, fs: RetryingFileSystem, root: str, term_s: float) -> None:
        self._uri = uri
        self._fs = fs
        self._root = root
        self._term_s = term_s
        self._held: dict[tuple[str, str], Lease] = {}
        self._works: bool | None = None

    @contextmanager
    def hold(self, stage: str, key: str, lock: str) -> Iterator[None]:
        """Hold a key; wait while another machine does.

        ``lock`` is the id of this machine's file lock, which the caller holds: a process that left a lease with the
        same lock is gone.
        """
        with self._held_as(stage, key, lock, self._wait_and_acquire):
            yield

    @contextmanager
    def hold_if_free(self, stage: str, key: str, lock: str) -> Iterator[bool]:
        """Hold a key if it is free now; yields whether it is held."""
        with ExitStack() as stack:
            free = True
            try:
                # Only this is inside the try: a PreconditionFailed of the caller's block is an error of the caller's.
                stack.enter_context(self._held_as(stage, key, lock, self._try_acquire))
            except PreconditionFailed:
                free = False
            yield free

    @contextmanager
    def _held_as(self, stage: str, key: str, lock: str, get: AcquireFn) -> Iterator[None]:
        lease = None if self._works is False else self._acquire(stage, key, lock, get)
        if lease is None:
            yield
            return
        self._held[stage, key] = lease
        try:
            yield
        finally:
            del self._held[stage, key]
            lease.release()

    def held(self, stage: str, key: str) -> Lease | None:
        """The lease on a key that this process holds; None where the endpoint has no conditional writes."""
        return self._held.get((stage, key))

    def _acquire(self, stage: str, key: str, lock: str, get: AcquireFn) -> Lease | None:
        path = f"{self._root}/{LEASE_FOLDER}/{stage}/{key}.json"
        now = _utc_text()
        mine = LeaseHolder(
            token=token_hex(8),
            host=platform.node(),
            pid=os.getpid(),
            since=now,
            until=_utc_text(timedelta(seconds=self._term_s)),
            term_s=self._term_s,
            lock=lock,
        )
        with translate_storage_errors(self._uri):
            try:
                holder, etag, began_s = get(path, mine, f"{stage} {key[:12]}")
                # Probed once, on a lease that is ours by then, so that it disturbs nobody.
                if self._works is None:
                    self._works = supports_conditions(self._fs, path, etag, _holder_bytes(holder))
            except ConditionsUnsupported:
                self._works = False
        if self._works:
            return Lease(self._fs, path, holder, etag, began_s)
        log_info(
            f"store {self._uri}: the endpoint has no conditional writes, so two machines that want the same at the "
            "same time may both make it; the bytes are equal, the work is done twice"
        )
        with suppress(FileNotFoundError), translate_storage_errors(self._uri):
            self._fs.rm_file(path)
        return None

    def _try_acquire(self, path: str, mine: LeaseHolder, what: str) -> tuple[LeaseHolder, str, float]:
        """As ``_wait_and_acquire``, without waiting; PreconditionFailed when another process holds the key."""
        sent_s = boottime_s()
        try:
            return mine, write_object(self._fs, path, _holder_bytes(mine), None), sent_s
        except PreconditionFailed:
            current = read_object(self._fs, path)
            if current is None:
                raise
            holder = _parse_holder(current, mine.term_s)
            if holder.token == mine.token:
                return mine, current.etag, sent_s  # our own writing, whose answer was lost on the way
            if not holder.lock == mine.lock != "":
                raise
            # Left by a process of this machine that was killed.
            return mine, write_object(self._fs, path, _holder_bytes(mine), current.etag), sent_s

    def _wait_and_acquire(self, path: str, mine: LeaseHolder, what: str) -> tuple[LeaseHolder, str, float]:
        """Wait until the key is ours: (what was written, its ETag, when the request was sent)."""
        last_read: ObjectVersion | None = None
        since_s = sent_s = 0.0
        logged, poll_s = False, FIRST_LEASE_POLL_S
        while True:
            began_s = boottime_s()
            current = read_object(self._fs, path) if sent_s else None  # reading first would be one request too many
            if current is None:
                sent_s = boottime_s()
                with suppress(PreconditionFailed):
                    return mine, write_object(self._fs, path, _holder_bytes(mine), None), sent_s
                continue
            # Counted from after the first reading to before the latest, so the silence is never overestimated.
            if last_read is None or last_read.etag != current.etag:
                last_read, since_s = current, boottime_s()
            holder = _parse_holder(current, mine.term_s)
            if holder.token == mine.token:
                return holder, current.etag, sent_s  # our own writing, whose answer was lost on the way
            gone = holder.lock == mine.lock != ""
            # The holder's own term, which its lease states: the machines may have different settings.
            if gone or began_s - since_s >= holder.term_s:
                if not gone:
                    log_info(f"{what}: {holder.describe()} gave no sign for {holder.term_s:.0f} s; taking it over")
                successor = mine.model_copy(update={"attempt": holder.attempt + 1})
                sent_s = boottime_s()
                with suppress(PreconditionFailed):
                    return successor, write_object(self._fs, path, _holder_bytes(successor), current.etag), sent_s
                continue
            if not logged:
                log_info(f"{what}: {holder.describe()} is making this; waiting")
                logged = True
            time.sleep(poll_s * random.uniform(0.5, 1.5))
            # About four looks per term, even of a short one.
            poll_s = min(1.5 * poll_s, MAX_LEASE_POLL_S, holder.term_s / 4)


def lease_term_s(lease: ObjectVersion) -> float:
    """The term of a lease that was read; 0 when it cannot be read."""
    return _parse_holder(lease, 0.0).term_s


def _parse_holder(lease: ObjectVersion, term_s: float) -> LeaseHolder:
    """The holder in a lease; an unknown one, with our own term, when it cannot be parsed."""
    try:
        return LeaseHolder.model_validate_json(lease.text)
    except ValidationError:
        return LeaseHolder(token="", host="somebody unknown", pid=0, since="?", until="?", term_s=term_s)


def _holder_bytes(holder: LeaseHolder) -> bytes:
    return canonical_json(holder.literals()).encode()


def _utc_text(ahead: timedelta = timedelta(0)) -> str:
    return (datetime.now(UTC) + ahead).isoformat(timespec="seconds")
