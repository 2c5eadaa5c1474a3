"""Maintenance flows of a store, on a schedule or by hand: verify it, collect garbage, mark dead runs as failed."""

from prefect import flow

from flows.outcome import FlowResult, as_flow_result
from zscir import __version__
from zscir.lineage.reaper import reap_dead_runs
from zscir.maintenance.gc import format_gc_log, gc_table, plan_gc, run_gc
from zscir.maintenance.retention import RetentionPolicy
from zscir.maintenance.verify import quarantine_artifacts, raise_if_damaged, verify_artifacts
from zscir.runtime.progress import log_info
from zscir.runtime.settings import Settings
from zscir.store.store import Store, open_store


@flow(name="verify", version=__version__, persist_result=False)
def verify_flow(refs: list[str] = [], take_out: bool = False) -> FlowResult:  # noqa: B006 - Prefect reads the default
    """Read every file of ZSCIR_STORE and compare it with its manifest; damage is a failed flow run with what to do.

    Args:
        refs: stages, runs or keys (or how they begin) to read; none: all
        take_out: take damaged artifacts out, so that the next run makes them again; otherwise they are only reported
    """

    def verify(store: Store) -> dict[str, str]:
        found = verify_artifacts(store, refs)
        raise_if_damaged(store, found, quarantine_artifacts(store, found) if take_out else [])
        return {f"{finding.stage}/{finding.key}/{finding.file}": finding.state for finding in found.findings}

    return as_flow_result(verify)


@flow(name="gc", version=__version__, persist_result=False)
def gc_flow(keep_runs: int = 3, older_than: str = "14d", delete: bool = False) -> FlowResult:
    """List what no run of ZSCIR_STORE needs any more, and with ``delete`` remove it, also while runs are at work.

    Args:
        keep_runs: the number of last succeeded runs, of each pipeline (and partition), whose artifacts are kept
        older_than: keep what is younger, and what recently stopped runs used (36h, 14d, 8w)
        delete: remove it; otherwise it is only listed in the flow run's log
    """

    def collect(store: Store) -> dict[str, str]:
        plan = plan_gc(store, RetentionPolicy.parse(keep_runs, older_than))
        rows = gc_table(plan)
        done = run_gc(store, plan) if delete else None
        log_info(format_gc_log(rows, done))
        return {row["stage"]: str(row["reclaimable_bytes"]) for row in rows}

    return as_flow_result(collect)


@flow(name="reap", version=__version__, persist_result=False)
def reap_flow() -> list[str]:
    """The ids of the runs of ZSCIR_STORE that had died and are now marked as failed."""
    return reap_dead_runs(open_store(Settings.from_env()))
