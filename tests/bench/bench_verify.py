"""How fast verify reads a store, beside ``sha256sum`` over the same bytes; and how long a gc looks at artifacts."""

import subprocess
import time
from pathlib import Path

from tests.bench.conftest import Figure
from tests.support.stored_histories import Attic
from tests.support.toys import store_at
from zscir.maintenance.retention import RetentionPolicy, mark_store
from zscir.maintenance.verify import verify_artifacts
from zscir.pipeline.stage import materialize, stage
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Facts

FILES, FILE_BYTES = 32, 24_000_000
ARTIFACTS = 1_000


class BigSpec(Spec):
    """Nothing to ask."""


@stage(version=1)
def big(spec: BigSpec, out: Path) -> Facts:
    """As many bytes as a few shards have."""
    for number in range(FILES):
        (out / f"{number:05d}.tar").write_bytes(number.to_bytes() * FILE_BYTES)
    return {}


def test_verify_beside_sha256sum(tmp_path: Path, figure: Figure) -> None:
    store = store_at(tmp_path / "store", tmp_path / "cache")
    made = materialize(store, big, BigSpec(), {}).artifact
    paths = [str(made.path(name)) for name in made.files()]
    for _ in range(2):  # the second time from memory
        begin = time.perf_counter()
        found = verify_artifacts(store)
        ours_s = time.perf_counter() - begin
        begin = time.perf_counter()
        subprocess.run(["sha256sum", *paths], check=True, capture_output=True)
        theirs_s = time.perf_counter() - begin
    assert found.findings == []
    ours, theirs = (found.bytes / 1e6 / seconds for seconds in (ours_s, theirs_s))
    note = f"verify {ours:.0f} MB/s, sha256sum {theirs:.0f} MB/s, both from memory"
    figure("verify_vs_sha256sum", ours / theirs, ">=", 1.0, "x", note=note)


def test_a_look_at_many_artifacts(tmp_path: Path, figure: Figure) -> None:
    attic = Attic(store_at(tmp_path / "store", tmp_path / "cache"))
    for number in range(ARTIFACTS):
        attic.put(40, inputs=[number - 1] if number % 10 else [])
    attic.run([ARTIFACTS - 1], 39)
    begin = time.perf_counter()
    marked = mark_store(attic.store, RetentionPolicy(1))
    figure("gc_mark", (time.perf_counter() - begin) / ARTIFACTS * 1e3, "<=", 5.0, "ms/artifact", ARTIFACTS)
    assert len(marked.unreferenced()) == ARTIFACTS - 10
