"""The reaper flow: runs that died without a word are marked as failed, on a schedule or when asked."""

from prefect import flow

from zscir import __version__
from zscir.lineage.reaper import reap
from zscir.settings import Settings
from zscir.store import open_store


@flow(name="reap", version=__version__, persist_result=False)
def reap_runs() -> list[str]:
    """The ids of the runs of ZSCIR_STORE that had died and are now marked as failed."""
    return reap(open_store(Settings.from_env()))
