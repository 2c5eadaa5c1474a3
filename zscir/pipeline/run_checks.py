"""Run the data-quality checks of a step on its artifact, new or reused, record the results, and stop at a failure."""

from collections.abc import Callable

from zscir.lineage.recorder import Recorder
from zscir.pipeline.checks import CheckResult, RowCountCheck, evaluate_check, evaluate_row_count, format_check
from zscir.pipeline.data_statistics import compute_statistics, count_rows, schema_problems
from zscir.pipeline.pipeline_file import Step
from zscir.pipeline.plan import PreviousStep
from zscir.pipeline.stage import Inputs
from zscir.runtime.errors import GateError, RequestError
from zscir.runtime.progress import log_warning
from zscir.store.artifacts import Artifact
from zscir.store.store import Store


def run_data_checks(
    recorder: Recorder, step: Step, artifact: Artifact, inputs: Callable[[], Inputs], previous: PreviousStep | None
) -> None:
    """Check an artifact before any step reads it, and add a row to the record for each check.

    ``inputs`` is called only where rows are counted. GateError when a check fails: metric, value, last good value,
    threshold, and what to type.
    """
    # A step whose stage changed under its name has no last good run: the numbers would mean something else.
    last_good_key = previous.last_good_key if previous is not None and previous.stage == step.stage.name else None
    results = [
        *_schema_results(artifact, last_good_key),
        *_row_count_results(step, artifact, inputs),
        *_threshold_results(recorder.store, step, artifact, last_good_key),
    ]
    # Recorded before anything is raised: report and `gates` table show the check that stopped the run.
    recorder.add_check_results(step.name, artifact.key, [vars(result) for result in results])
    for result in results:
        if result.verdict == "warn":
            log_warning(f"{step.name}: gate warns: {format_check(result)}")
    failed = [result for result in results if result.verdict == "fail"]
    if failed:
        raise GateError(_explain(step, artifact, failed))


def _schema_results(artifact: Artifact, last_good_key: str | None) -> list[CheckResult]:
    """Whether the record tables have their declared schemas; those of the last good run passed this check there."""
    if artifact.key == last_good_key:
        return []
    tables, problems = schema_problems(artifact)
    if not tables:
        return []
    found = "; ".join(problems) or "as declared in zscir/runtime/schemas.py"
    return [CheckResult("schema", float(tables), None, found, "fail" if problems else "pass")]


def _row_count_results(step: Step, artifact: Artifact, inputs: Callable[[], Inputs]) -> list[CheckResult]:
    texts = step.checks.counts or () if step.checks is not None else ()
    return [_row_count_result(text, step, artifact, inputs()) for text in texts]


def _row_count_result(text: str, step: Step, artifact: Artifact, inputs: Inputs) -> CheckResult:
    count = RowCountCheck.parse(text, f"step '{step.name}'")
    given = inputs[count.role]
    counts = [count_rows(source, count.of_table) for source in (given if isinstance(given, list) else [given])]
    known = [rows for rows in counts if rows is not None]
    # One input without the table makes the sum unknown, and the check fails: a smaller sum could pass by mistake.
    input_rows = sum(known) if known and len(known) == len(counts) else None
    return evaluate_row_count(text, count, count_rows(artifact, count.table), input_rows)


def _threshold_results(store: Store, step: Step, artifact: Artifact, last_good_key: str | None) -> list[CheckResult]:
    thresholds = step.checks.thresholds() if step.checks is not None else {}
    if not thresholds:
        return []
    values = compute_statistics(artifact, thresholds)
    same = artifact.key == last_good_key  # then it is compared with itself, at no cost
    references = values if same else _last_good_values(store, step, last_good_key, [*thresholds])
    return [evaluate_check(name, values[name], references.get(name), bounds) for name, bounds in thresholds.items()]


def _last_good_values(store: Store, step: Step, last_good_key: str | None, names: list[str]) -> dict[str, float | None]:
    """The statistics of the last good run's artifact; empty where there was none, or gc has taken it."""
    last_good = store.lookup(step.stage.name, last_good_key).artifact if last_good_key is not None else None
    if last_good is None:
        return {}
    try:
        return compute_statistics(last_good, names)
    except RequestError as error:
        log_warning(f"{step.name}: the last good run cannot be compared with: {error}")
        return {}


def _explain(step: Step, artifact: Artifact, failed: list[CheckResult]) -> str:
    where = f"step '{step.name}' (stage {step.stage.name})"
    lines = [f"{where}: a data gate failed: {format_check(result)}" for result in failed]
    lines.append(f"The artifact is kept, no step that reads it has run; look at it: zscir show {artifact.key[:12]}")
    thresholds = step.checks.thresholds() if step.checks is not None else {}
    first = next((result for result in failed if result.metric in thresholds), None)
    if first is not None:
        name = f"{step.name}.gates.{first.metric}.{first.threshold.split(' ')[0]}"
        lines.append(f"If the data are right, move the bound in the pipeline file, or once: --set {name}=...")
    return "\n".join(lines)
