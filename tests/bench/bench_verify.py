"""How fast verify reads a store, beside ``sha256sum`` over the same bytes; and how long a gc looks at artifacts."""

import subprocess
import sys
import time
from pathlib import Path

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


def tell(line: str) -> None:
    sys.stdout.write(f"\n{line}")


def test_verify_beside_sha256sum(tmp_path: Path) -> None:
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
    rates = [found.bytes / 1e6 / one for one in (ours_s, theirs_s)]
    tell(f"verify {rates[0]:6.0f} MB/s   sha256sum {rates[1]:6.0f} MB/s   ratio {rates[0] / rates[1]:.2f}")


def test_a_look_at_many_artifacts(tmp_path: Path) -> None:
    attic = Attic(store_at(tmp_path / "store", tmp_path / "cache"))
    for number in range(ARTIFACTS):
        attic.put(40, inputs=[number - 1] if number % 10 else [])
    attic.run([ARTIFACTS - 1], 39)
    begin = time.perf_counter()
    marked = mark_store(attic.store, RetentionPolicy(1))
    tell(f"gc looks at {ARTIFACTS} artifacts in {time.perf_counter() - begin:.2f} s")
    assert len(marked.garbage()) == ARTIFACTS - 10
