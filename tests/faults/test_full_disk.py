"""A disk that fills up in the middle of a stage: what the user reads, what is kept, and how it goes on."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.matrix import Measured
from tests.support.toys import store_at
from zscir.pipeline.stage import materialize, stage_named

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
# A file system of 2 MB in a namespace of the child's own: nothing of this machine is touched.
MOUNT = 'mount -t tmpfs -o size=2m none "$1" && shift && exec "$@"'
CHILD = """
import shutil, sys
from pathlib import Path
from tests.support.toys import store_at
from zscir.runtime.errors import ZscirError
from zscir.pipeline.stage import materialize, stage_named
disk, cache, kept = (Path(word) for word in sys.argv[1:4])
store, stage = store_at(disk / "store", cache), stage_named("tabletop")
small = materialize(store, stage, stage.spec_type(scenes=100), {})
try:
    materialize(store, stage, stage.spec_type(scenes=200_000), {})
except (OSError, ZscirError) as error:
    print(type(error).__name__, error)
print(store.lookup("tabletop", small.artifact.key, verify=True).problem == "", len(store.list_keys()))
shutil.copytree(disk, kept)
"""


def can_mount(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh", str(folder), "true"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def test_a_full_disk_is_reported_and_spoils_nothing(tmp_path: Path, measured: Measured) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not can_mount(disk):
        pytest.skip("no file system may be mounted here, not even in a user namespace of one's own")
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh", str(disk)]
    child = [sys.executable, "-c", CHILD, str(disk), str(tmp_path / "cache"), str(tmp_path / "kept")]
    done = subprocess.run([*words, *child], cwd=REPO, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    said, state = done.stdout.splitlines()
    assert "No space left on device" in said
    assert state == "True 1"  # what was there is whole, and nothing else looks like an artifact
    # With room again the same store goes on.
    store = store_at(tmp_path / "kept" / "store", tmp_path / "cache")
    stage = stage_named("tabletop")
    assert materialize(store, stage, stage.spec_type(scenes=100), {}).outcome == "reused"
    assert materialize(store, stage, stage.spec_type(scenes=3000), {}).outcome == "made"
    measured("full disk", "0 of 1 artifacts lost, 0 half-made ones left; with room again it was reused")
