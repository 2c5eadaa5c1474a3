"""Record the golden rows: ``python -m tests.golden.record``.

A row whose output changed without a new version is refused; ``--anyway`` records it all the same, for a stage of which
nobody has artifacts yet.
"""

import json
import sys
import tempfile
from pathlib import Path

from tests.golden.cases import ROWS, complaint, run_all


def main() -> int:
    """Write tests/golden/rows.json; 1 when a row is refused."""
    with tempfile.TemporaryDirectory() as folder:
        now = run_all(Path(folder))
    recorded = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    refused = [text for name in now if "still version" in (text := complaint(name, recorded.get(name), now[name]))]
    if refused and "--anyway" not in sys.argv:
        sys.stderr.write("\n".join(refused) + "\nnothing was recorded\n")
        return 1
    ROWS.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    sys.stdout.write(f"{len(now)} rows in {ROWS}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
