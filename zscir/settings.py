"""Settings: what a machine, not an experiment, decides (store, cache, devices); none of it enters a key."""

import os
from dataclasses import dataclass
from pathlib import Path

DEFAULT_STORE = "./zscir-store"


@dataclass(frozen=True)
class Settings:
    """Values pulled from the environment; ``ZSCIR_STORE`` and ``ZSCIR_CACHE`` are the two that most people set."""

    store: str
    cache: Path

    @classmethod
    def from_env(cls, store: str | None = None) -> "Settings":
        """Settings of this process; ``store`` (the ``--store`` option) wins over ``ZSCIR_STORE``."""
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return cls(
            store=store or os.environ.get("ZSCIR_STORE") or DEFAULT_STORE,
            cache=Path(os.environ.get("ZSCIR_CACHE") or f"{home}/zscir"),
        )


def data_specs() -> Path:
    """The folder of shipped specs: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "data_specs"
    return inside if inside.is_dir() else package.parent / "data_specs"


def spec_path(given: str) -> Path:
    """``given`` as a path; ``data_specs/...`` also finds the shipped specs when nothing of that name is here."""
    path = Path(given)
    if not path.exists() and path.parts[:1] == ("data_specs",):
        shipped = data_specs().joinpath(*path.parts[1:])
        if shipped.exists():
            return shipped
    return path
