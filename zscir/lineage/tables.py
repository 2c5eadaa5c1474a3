"""The four lineage tables and their columns; times are UTC."""

from zscir.records import schema_of

RUN = schema_of(
    run_id="str", pipeline="str", spec_digest="str", status="str", started_at="time", finished_at="time?",
    parent_run_id="str?", flow_run_id="str?", trigger="str", git_commit="str?", git_dirty="bool?", zscir_version="str",
    python_version="str", platform="str", packages="str", user_config="str",
)  # fmt: skip
STAGES = schema_of(
    run_id="str", step="str", stage="str", key="str?", outcome="str", reason="str?", started_at="time",
    finished_at="time?", wall_s="f64?", cpu_s="f64?", peak_rss_bytes="i64?", attempts="i32", worker="str", error="str?",
)  # fmt: skip
ARTIFACTS = schema_of(
    key="str", stage="str", stage_version="i32", digest="str", uri="str", bytes="i64", files="i64", rows="i64?",
    facts="str", created_at="time", created_by_run="str",
)  # fmt: skip
EDGES = schema_of(child_key="str", role="str", parent_key="str")
TABLES = {"run": RUN, "stages": STAGES, "artifacts": ARTIFACTS, "edges": EDGES}
