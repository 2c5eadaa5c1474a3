"""zscir: a list of image URLs and captions becomes a table of zero-shot composed image retrieval scores."""

from __future__ import annotations

import os

from zscir.runtime import torchvision_guard

__version__ = "0.1.0"

# Third-party packages ask these before they call home. Set here because every process of the pipeline imports zscir
# first; setdefault, so that a user who wants any of it back only has to export the variable.
QUIET_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",  # prefect's client, and whoever else honours it
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",  # albumentations otherwise asks for its newest version at import, about 1 s
    "WANDB_MODE": "disabled",  # img2dataset always imports wandb
    "WANDB_ERROR_REPORTING": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYDANTIC_DISABLE_PLUGINS": "__all__",  # one would see every value; logfire's sends them
}

# Idle OpenMP threads that spin make torch four to eight times slower when another process needs the same cores.
THREAD_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}

for _name, _value in {**QUIET_ENVIRONMENT, **THREAD_ENVIRONMENT}.items():
    os.environ.setdefault(_name, _value)

torchvision_guard.install_torchvision_guard()
