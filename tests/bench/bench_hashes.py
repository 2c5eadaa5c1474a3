"""How much of the time to read files their remembered digests save, and how fast perceptual hashes are compared."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench.conftest import Figure
from tests.data.images.test_phash import ANY_COLOUR_DISTANCE, planted, prints
from zscir.data.images.phash import near_duplicate_of
from zscir.store.artifacts import Artifact
from zscir.store.file_hashes import MIN_MTIME_AGE_NS


def test_a_folder_of_20_000_files_is_found_unchanged_in_a_fraction_of_the_time(tmp_path: Path, figure: Figure) -> None:
    """Small files flatter the plain way: of a real image the memory saves a hundred times as many bytes."""
    root = tmp_path / "many"
    for number in range(20):
        (root / f"{number:02d}").mkdir(parents=True)
        for image in range(1000):
            (root / f"{number:02d}/{image:06d}.jpg").write_bytes(f"{number} {image}".encode() * 400)
    time.sleep(MIN_MTIME_AGE_NS / 1e9 + 0.1)  # a file this young may still change within its time stamp
    code = """
import sys, time
from pathlib import Path
from zscir.store.file_hashes import hash_files_cached
root, cache = map(Path, sys.argv[1:])
for _ in range(2):
    began = time.process_time()
    digest = hash_files_cached([root], str(root), cache).digest
    print(digest, time.process_time() - began)
"""
    words = [sys.executable, "-c", code, str(root), str(tmp_path / "cache")]
    cold, warm = (
        [line.split() for line in subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()]
        for _ in range(2)
    )
    first, later, same_process = float(cold[0][1]), float(warm[0][1]), float(warm[1][1])
    assert {line[0] for line in [*cold, *warm]} == {Artifact.of_folder(root).digest}
    note = f"CPU of 20,000 files; read {first:.2f} s, found unchanged {later:.2f} s, again {same_process:.2f} s"
    figure("hash_unchanged_folder_vs_read", later / first, "<=", 0.8, "x", note=note)
    figure("hash_same_process_vs_read", same_process / first, "<=", 0.5, "x", note=note)


@pytest.mark.parametrize(("count", "radius"), [(200_000, 4), (50_000, 8)])
def test_many_perceptual_hashes(count: int, radius: int, figure: Figure) -> None:
    hashes, _ = planted(count, 0.1, radius)
    start = time.process_time()
    near_duplicate_of(prints(hashes), radius, ANY_COLOUR_DISTANCE)
    figure(f"phash_{count}_radius_{radius}", time.process_time() - start, "<=", 20, "s", note="CPU")
