"""The upkeep flows: a store is verified, or cleared of what no run needs any more, on a schedule or when asked."""

from prefect import flow

from flows.outcome import Made, answer
from zscir import __version__
from zscir.lineage.reaper import reap
from zscir.maintenance.gc import clear, in_words, look, table
from zscir.maintenance.retention import Policy
from zscir.maintenance.verify import check_whole, quarantine, verify
from zscir.runtime.progress import note
from zscir.runtime.settings import Settings
from zscir.store.store import Store, open_store


@flow(name="verify", version=__version__, persist_result=False)
def verify_store(refs: list[str] = [], take_out: bool = False) -> Made:  # noqa: B006
    """Read every file of ZSCIR_STORE and compare it with its manifest; damage is a failed flow run with what to do.

    Args:
        refs: stages, runs or keys (or how they begin) to read; none: all
        take_out: take damaged artifacts out, so that the next run makes them again; otherwise they are only reported
    """

    def told(store: Store) -> dict[str, str]:
        found = verify(store, refs)
        check_whole(store, found, quarantine(store, found) if take_out else [])
        return {f"{one.stage}/{one.key}/{one.file}": one.state for one in found.findings}

    return answer(told)


@flow(name="gc", version=__version__, persist_result=False)
def clear_store(keep_runs: int = 3, older_than: str = "14d", delete: bool = False) -> Made:
    """Say what no run of ZSCIR_STORE needs any more, and with ``delete`` remove it, while runs may be at work.

    Args:
        keep_runs: of each pipeline (and partition), keep what its last runs that succeeded used, so many
        older_than: keep all that is younger, and what lately stopped runs used (36h, 14d, 8w)
        delete: remove it; otherwise it is only listed in the flow run's log
    """

    def told(store: Store) -> dict[str, str]:
        seen = look(store, Policy.parse(keep_runs, older_than))
        rows = table(seen)
        done = clear(store, seen) if delete else None
        note(in_words(rows, done))
        return {row["stage"]: str(row["reclaimable_bytes"]) for row in rows}

    return answer(told)


@flow(name="reap", version=__version__, persist_result=False)
def reap_runs() -> list[str]:
    """The ids of the runs of ZSCIR_STORE that had died and are now marked as failed."""
    return reap(open_store(Settings.from_env()))
