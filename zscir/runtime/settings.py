"""Settings of a machine, not of an experiment (store, cache, devices), from the environment; none enters a key."""

import os
from dataclasses import dataclass
from pathlib import Path

from zscir.runtime.errors import RequestError

DEFAULT_STORE = "./zscir-store"
STORE_RETRY_S = 120.0  # for how long calls to an unreachable store on S3 are retried
MAX_RANKS = 1024
LEASE_S = 60.0  # after how long without a renewal another machine may take a key over


@dataclass(frozen=True)
class Settings:
    """Values from the environment; ``ZSCIR_STORE`` and ``ZSCIR_CACHE`` are the two that most people set."""

    store: str
    cache: Path
    store_retry_s: float = STORE_RETRY_S
    lease_s: float = LEASE_S
    # One by default: the update of several equals it up to rounding only, so equal bytes need equal numbers.
    ranks: int | None = 1  # processes that train together; None: one per CUDA device

    @classmethod
    def from_env(cls, store: str | None = None) -> "Settings":
        """Settings of this process; ``store`` (the ``--store`` option) wins over ``ZSCIR_STORE``."""
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return cls(
            store=store or os.environ.get("ZSCIR_STORE") or DEFAULT_STORE,
            cache=Path(os.environ.get("ZSCIR_CACHE") or f"{home}/zscir"),
            store_retry_s=_seconds("ZSCIR_PATIENCE_S", STORE_RETRY_S, 0),
            lease_s=_seconds("ZSCIR_LEASE_S", LEASE_S, 1),
            ranks=_ranks(),
        )


def logs_as_json() -> bool:
    """Whether ``ZSCIR_LOG`` asks for JSON lines; RequestError for an unknown style."""
    style = os.environ.get("ZSCIR_LOG") or "plain"
    if style not in ("plain", "json"):
        raise RequestError(f"ZSCIR_LOG={style}: logs are 'plain' or 'json'")
    return style == "json"


def _ranks() -> int | None:
    given = os.environ.get("ZSCIR_RANKS") or "1"
    if given == "auto":
        return None
    if not (given.isascii() and given.isdecimal() and 1 <= int(given) <= MAX_RANKS):
        raise RequestError(f"ZSCIR_RANKS = {given!r}: a number from 1 to {MAX_RANKS}, or 'auto' (one per CUDA device)")
    return int(given)


def _seconds(name: str, default: float, least: float) -> float:
    given = os.environ.get(name)
    try:
        seconds = float(given) if given else default
    except ValueError:
        seconds = -1.0
    # NaN fails every comparison, so it is refused here as well.
    if not least <= seconds < float("inf"):
        raise RequestError(f"{name} = {given!r}: a number of seconds from {least:g} up is needed")
    return seconds


@dataclass(frozen=True)
class Prices:
    """US dollars for an hour of this machine and for a million LLM tokens; None where the environment names none."""

    usd_per_hour: float | None = None
    usd_per_mtok_in: float | None = None
    usd_per_mtok_out: float | None = None

    @classmethod
    def from_env(cls) -> "Prices":
        """``ZSCIR_USD_PER_HOUR``, ``ZSCIR_USD_PER_MTOK_IN`` and ``ZSCIR_USD_PER_MTOK_OUT``."""
        return cls(_price("ZSCIR_USD_PER_HOUR"), _price("ZSCIR_USD_PER_MTOK_IN"), _price("ZSCIR_USD_PER_MTOK_OUT"))

    @property
    def any_known(self) -> bool:
        """Whether there is any price."""
        return self != Prices()


def _price(name: str) -> float | None:
    given = os.environ.get(name)
    try:
        price = float(given) if given else 0.0
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise RequestError(f"{name} = {given!r}: a number of US dollars from 0 up is needed")
    # 0 is a price, of a machine that costs nothing; a variable that is not set is none.
    return price if given else None


WORKER_KINDS = ("threads", "processes", "ray", "dask")


@dataclass(frozen=True)
class WorkerSettings:
    """Where the chunks of a stage are made: ``ZSCIR_RUNNER``, ``ZSCIR_WORKERS`` and ``ZSCIR_CLUSTER``."""

    kind: str
    count: int
    address: str | None

    @classmethod
    def from_env(cls) -> "WorkerSettings":
        """Threads, one per core, unless the environment says otherwise; RequestError when it makes no sense."""
        kind, count = os.environ.get("ZSCIR_RUNNER") or "threads", os.environ.get("ZSCIR_WORKERS") or ""
        if kind not in WORKER_KINDS:
            raise RequestError(f"ZSCIR_RUNNER={kind}: the runners are {', '.join(WORKER_KINDS)}")
        if count and not (count.isdecimal() and int(count)):
            raise RequestError(f"ZSCIR_WORKERS={count}: give a whole number from 1 on")
        return cls(kind, int(count or os.cpu_count() or 1), os.environ.get("ZSCIR_CLUSTER") or None)


def count_from_env(name: str, default: int) -> int:
    """The whole number from 1 on that an environment variable holds; ``default`` where it holds anything else."""
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() and int(value) else default


def pools_from_env() -> dict[str, str]:
    """Stage or step -> work pool, from ``ZSCIR_DISPATCH`` (``train=gpu,embed=gpu``); RequestError when malformed."""
    pools = {}
    for part in filter(None, (os.environ.get("ZSCIR_DISPATCH") or "").split(",")):
        name, _, pool = (word.strip() for word in part.partition("="))
        if not (name and pool):
            raise RequestError(f"ZSCIR_DISPATCH: '{part}': write it as STAGE=POOL,STAGE=POOL")
        pools[name] = pool
    return pools


def data_specs() -> Path:
    """The folder of shipped specs: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "data_specs"
    return inside if inside.is_dir() else package.parent / "data_specs"


def is_shipped_spec(path: Path) -> bool:
    """Whether ``path`` lies among the shipped specs, which every machine with zscir has."""
    return path.resolve().is_relative_to(data_specs().resolve())


def spec_path(given: str) -> Path:
    """``given`` as a path; ``data_specs/...`` also finds the shipped specs when nothing of that name is here."""
    path = Path(given)
    if not path.exists() and path.parts[:1] == ("data_specs",):
        shipped = data_specs().joinpath(*path.parts[1:])
        if shipped.exists():
            return shipped
    return path
