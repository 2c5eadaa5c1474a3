"""The lineage tables of a run and the table of removals: their columns; times are UTC."""

from zscir.runtime.schemas import schema_of

RUN_SCHEMA = schema_of(
    run_id="str", pipeline="str", spec_digest="str", status="str", started_at="time", finished_at="time?",
    parent_run_id="str?", flow_run_id="str?", trigger="str", git_commit="str?", git_dirty="bool?", zscir_version="str",
    python_version="str", platform="str", packages="str", user_config="str",
)  # fmt: skip
STAGES_SCHEMA = schema_of(
    run_id="str", step="str", stage="str", key="str?", outcome="str", reason="str?", started_at="time",
    finished_at="time?", wall_s="f64?", cpu_s="f64?", peak_rss_bytes="i64?", attempts="i32", worker="str", error="str?",
)  # fmt: skip
ARTIFACTS_SCHEMA = schema_of(
    key="str",
    stage="str",
    stage_version="i32",
    digest="str",
    uri="str",
    bytes="i64",
    files="i64",
    rows="i64?",
    facts="str",
    created_at="time",
    created_by_run="str",
)
EDGES_SCHEMA = schema_of(child_key="str", role="str", parent_key="str")
# Only in runs with a stage that is made in chunks: one row for each chunk, as it ended.
PIECES_SCHEMA = schema_of(
    run_id="str",
    step="str",
    piece="str",
    stage="str",
    key="str?",
    outcome="str",
    started_at="time",
    wall_s="f64",
    attempts="i32",
    worker="str",
    error="str?",
)
# One row for each thing that was checked at the end of a step; ``reference`` is the last good run's value.
GATES_SCHEMA = schema_of(
    run_id="str", step="str", key="str", metric="str", value="f64?", reference="f64?", threshold="str", verdict="str"
)
# What was removed from the store, by `zscir gc` or `zscir verify --quarantine`; the manifest says what it was.
REMOVED_SCHEMA = schema_of(
    key="str",
    stage="str",
    bytes="i64",
    files="i64",
    why="str",
    outcome="str",
    removed_at="time",
    removed_by="str",
    manifest="str?",
)
# Table names, and columns such as ``piece``, are in users' stores and queries: new ones may come, none may change.
LINEAGE_SCHEMAS = {
    "run": RUN_SCHEMA,
    "stages": STAGES_SCHEMA,
    "artifacts": ARTIFACTS_SCHEMA,
    "edges": EDGES_SCHEMA,
    "pieces": PIECES_SCHEMA,
    "gates": GATES_SCHEMA,
}
