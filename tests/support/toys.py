"""Toy stages whose work is slow enough to be killed in, and processes to do it in.

What a stage gets beside its spec (pauses, a log) comes through the environment, which no key knows.
"""

import os
import time
from pathlib import Path

from zscir.pipeline.stage import StageResult, materialize, stage
from zscir.runtime.errors import GateError
from zscir.runtime.schemas import write_table
from zscir.runtime.settings import Settings
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts, atomic_path
from zscir.store.store import Store, open_store


class ShardsSpec(Spec):
    """How many shards of how many blocks."""

    shards: int = 6
    blocks: int = 4
    seed: int = 0
    note: str | None = None


class CopySpec(Spec):
    """How often each input line is repeated."""

    times: int = 2


@stage(version=1)
def shards(spec: ShardsSpec, out: Path) -> Facts:
    """Shards made one after the other, each written in blocks; a finished one is left alone."""
    for number in range(spec.shards):
        name = f"{number:05d}.bin"
        if (out / name).exists():
            continue
        log(f"begin {name}")
        with atomic_path(out / name) as part, part.open("wb") as stream:
            for block in range(spec.blocks):
                stream.write(bytes([spec.seed, number, block]) * 1000)
                stream.flush()
                pause()
        log(f"made {name}")
    rows = [{"stage": "shards", "id": str(number), "reason": "toy", "detail": ""} for number in range(spec.shards)]
    from zscir.runtime.schemas import REJECTS_SCHEMA

    write_table(out / "rejects.parquet", REJECTS_SCHEMA, rows)
    return {"rows": spec.shards, "blocks": spec.blocks}


@stage(version=1)
def copies(
    spec: CopySpec, first: Artifact, others: list[Artifact], extra: Artifact | None = None, *, out: Path
) -> Facts:
    """One file of the names and bytes of all inputs; for the roles: one, many and perhaps none."""
    inputs = [first, *others, *([extra] if extra is not None else [])]
    data = b"".join(given.path(name).read_bytes() for given in inputs for name in given.files(".bin"))
    (out / "deep").mkdir(exist_ok=True)
    (out / "deep" / "copy.bin").write_bytes(data * spec.times)
    return {"rows": len(data) * spec.times}


@stage(version=1)
def gated(spec: ShardsSpec, out: Path) -> Facts:
    """A stage whose data gate never lets anything through."""
    raise GateError(f"{spec.shards} shards, at least 100 are needed")


def pause() -> None:
    """Wait as long as TOY_PAUSE_S says."""
    time.sleep(float(os.environ.get("TOY_PAUSE_S", "0")))


def log(line: str) -> None:
    """Append a line to the file that TOY_LOG names, at once and whole."""
    if path := os.environ.get("TOY_LOG"):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, f"{line}\n".encode())
        os.close(handle)


def store_at(uri: str | Path, cache: Path) -> Store:
    """A store as the command line opens it."""
    return open_store(Settings(str(uri), cache))


def make_shards(uri: str, cache: Path, environment: dict[str, str], spec: ShardsSpec) -> StageResult:
    """What a process under test does: materialize the toy shards."""
    os.environ.update(environment)
    return materialize(store_at(uri, cache), shards, spec, {})
