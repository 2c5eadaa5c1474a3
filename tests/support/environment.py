"""The environment of every test and of every process that a test starts: a scratch folder and no credentials."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

SCRATCH = Path(tempfile.mkdtemp(prefix="zscir-tests-"))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)

# What speaks to the tests themselves.
KEPT = ("ZSCIR_SHARED", "ZSCIR_TEST_KILLS", "ZSCIR_TEST_AWAY_S", "ZSCIR_TEST_MEASURED", "ZSCIR_BENCH_SNAKEMAKE")
# Settings of the person who runs the tests, and credentials that a test must never meet.
for name in list(os.environ):
    if name.startswith(("ZSCIR_", "PREFECT_", "AWS_", "OPENAI_", "WANDB_")) and name not in KEPT:
        del os.environ[name]
# The many processes that tests start would each compile our modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Set before any import of the libraries that read them, and inherited by every process that a test starts.
os.environ |= {
    "AWS_EC2_METADATA_DISABLED": "true",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": str(SCRATCH / "matplotlib"),
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # tiny models: more threads only wait for each other
    "PREFECT_HOME": str(SCRATCH / "prefect"),
    "ZSCIR_CACHE": str(SCRATCH / "cache"),
}
