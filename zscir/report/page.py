"""Write the report of a run: one HTML file that needs no network, no script and no other file.

Everything that comes from outside (captions, addresses, answers, errors) passes through Jinja's escaping.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from zscir.lineage.environment import redact
from zscir.report import formatting, graph_layout
from zscir.report.breakdown_tables import breakdowns
from zscir.report.checks_table import check_table_rows
from zscir.report.lambda_curves import lambda_charts
from zscir.report.leaderboard_page import run_leaderboards, sorting_style
from zscir.report.masked_examples import masked_sheets
from zscir.report.rejects import reject_examples
from zscir.report.retrieval_examples import retrieval_sheets
from zscir.report.run_data import RunRecord, read_record
from zscir.report.scores import page_score_tables
from zscir.report.significance_table import comparisons
from zscir.report.steps_table import OUTCOMES, draw_graph, step_table_rows
from zscir.report.summary import alarm_of, bars_of, run_duration_s, tiles_of
from zscir.report.templates import environment, style_sheet
from zscir.report.training_curves import training_curves
from zscir.report.triplet_examples import pair_sheets, triplet_sheets
from zscir.runtime.errors import RequestError, ZscirError
from zscir.store.artifacts import Artifact, atomic_path
from zscir.store.store import Store

# A damaged or foreign table costs its own part of the page, not the page.
PART_ERRORS = (ZscirError, OSError, ValueError, KeyError, TypeError)
PAGE_TABLES: dict[str, Callable[[RunRecord], list[Any]]] = {
    "score_tables": page_score_tables,
    "comparisons": comparisons,
    "breakdowns": breakdowns,
    "lambdas": lambda_charts,
    "curves": training_curves,
    "leaderboard_groups": run_leaderboards,
    "checks": check_table_rows,
}
SHEETS = (pair_sheets, masked_sheets, triplet_sheets, retrieval_sheets)
PACKAGES = (
    "torch",
    "open_clip_torch",
    "transformers",
    "numpy",
    "pillow",
    "pyarrow",
    "duckdb",
    "webdataset",
    "img2dataset",
    "prefect",
)
MAX_FILES = 40  # listed of each artifact; a download has thousands of shards
_T = TypeVar("_T")


def write_report(store: Store, run_id: str, out: Path | None) -> Path:
    """Write the page of a run (id, unique prefix or ``latest``) and return its path.

    Default: ``STORE/reports/RUN_ID.html``, or ``./zscir-report-RUN_ID.html`` when the store is on S3.
    """
    record = read_record(store, run_id)
    path = out or default_report_path(store, record.run_id)
    if path.is_dir():
        raise RequestError(f"--out {path}: this is a folder; give the name of the HTML file")
    html = render(record)
    try:
        with atomic_path(path) as part:
            part.write_text(html, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{path}: cannot write the report there ({error.strerror})") from None
    return path


def default_report_path(store: Store, run_id: str) -> Path:
    """The default path of a run's page."""
    return Path(f"zscir-report-{run_id}.html") if store.remote else Path(store.root) / "reports" / f"{run_id}.html"


def render(record: RunRecord) -> str:
    """The HTML text of a run; equal records give equal text."""
    parts = _parts(record)
    packages = json.loads(record.row["packages"])
    return environment().get_template("page.html.j2").render(
        style=style_sheet(sorting_style(parts["leaderboard_groups"])),
        run=record.row, duration_s=run_duration_s(record), where=redact(record.store.uri), alarm=alarm_of(record),
        bars=bars_of(record),
        workers=sorted({step.worker.rsplit(":", 2)[0] for step in record.steps if step.worker}),
        reused=sum(step.outcome == "reused" for step in record.steps), rejects=reject_examples(record),
        packages=packages, main_packages={name: packages[name] for name in PACKAGES if name in packages},
        run_config=json.dumps(record.config, indent=2, ensure_ascii=False),
        step_details=[step_details(step.name, step.artifact) for step in record.steps if step.artifact is not None],
        **_steps_context(record), **parts,
    )  # fmt: skip


def _steps_context(record: RunRecord) -> dict[str, Any]:
    steps = step_table_rows(record)
    drawing, boxes = draw_graph(steps)
    present = {row.step.outcome for row in steps}
    return {
        "steps": steps,
        "tiles": tiles_of(steps),
        "drawing": drawing,
        "boxes": boxes,
        "box_width": graph_layout.BOX_WIDTH,
        "box_height": graph_layout.BOX_HEIGHT,
        "outcomes": {name: OUTCOMES[name] for name in OUTCOMES if name in present},
    }


def _parts(record: RunRecord) -> dict[str, Any]:
    """Tables, charts and contact sheets, and for each why it cannot be shown (empty when it can)."""
    found = {name: _built_or_problem(make, record) for name, make in PAGE_TABLES.items()}
    # Sheets share a section of the page, so their problems stand together above it.
    sheets = [_built_or_problem(make, record) for make in SHEETS]
    return {
        **{name: rows for name, (rows, _) in found.items()},
        "problems": {name: problem for name, (_, problem) in found.items()},
        "contact_sheets": [sheet for made, _ in sheets for sheet in made],
        "sheet_problems": [problem for _, problem in sheets if problem],
    }


def _built_or_problem(make: Callable[[RunRecord], list[_T]], record: RunRecord) -> tuple[list[_T], str]:
    try:
        return make(record), ""
    except PART_ERRORS as error:
        return [], f"{type(error).__name__}: {formatting.shorten_text(str(error), 300)}"


def step_details(name: str, artifact: Artifact) -> dict[str, Any]:
    """A step's spec, key and facts, what it read and what it wrote."""
    files = [f"{file}  {formatting.format_size(artifact.entries[file].size)}" for file in artifact.files()]
    more = [f"... and {len(files) - MAX_FILES} more"] if len(files) > MAX_FILES else []
    manifest = artifact.manifest
    inputs = manifest.inputs if manifest is not None else {}
    spec = manifest.spec if manifest is not None else {}
    return {
        "name": name,
        "stage": artifact.stage,
        "version": manifest.stage_version if manifest is not None else "",
        "key": artifact.key,
        "digest": artifact.digest,
        "files": "\n".join([*files[:MAX_FILES], *more]),
        "facts": json.dumps(artifact.facts, indent=2, ensure_ascii=False, sort_keys=True),
        "spec": json.dumps(spec, indent=2, ensure_ascii=False, sort_keys=True),
        "inputs": "\n".join(f"{role}: {entry.stage} {entry.key[:12]}" for role, entry in inputs.items()) or "none",
    }
