"""Flows: the only importer of Prefect; they call stages and hold no logic of their own."""

import os

# A busy small machine needs longer than Prefect's 20 s to bring up its ephemeral API.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
