"""Inspection: what a step has made, or reuses, is held against its gates and the last good run, and let pass or not."""

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
    recorder: Recorder, step: Step, artifact: Artifact, inputs: Callable[[], Inputs], before: PreviousStep | None
) -> None:
    """Check an artifact at the boundary between its step and those that read it; every verdict becomes a row.

    GateError when one of them is ``fail``: metric, value, last good value, bound, and what to type.
    """
    good = before.good_key if before is not None and before.stage == step.stage.name else None
    verdicts = [
        *_schema_results(artifact, good),
        *_row_count_results(step, artifact, inputs),
        *_threshold_results(recorder.store, step, artifact, good),
    ]
    recorder.add_gates(step.name, artifact.key, [vars(one) for one in verdicts])
    for one in verdicts:
        if one.verdict == "warn":
            log_warning(f"{step.name}: gate warns: {format_check(one)}")
    failed = [one for one in verdicts if one.verdict == "fail"]
    if failed:
        raise GateError(_explain(step, artifact, failed))


def _schema_results(artifact: Artifact, good: str | None) -> list[CheckResult]:
    """The record tables as they are declared; what the last good run had is known to be."""
    if artifact.key == good:
        return []
    tables, wrong = schema_problems(artifact)
    if not tables:
        return []
    said = "; ".join(wrong) or "as declared in zscir/runtime/schemas.py"
    return [CheckResult("schema", float(tables), None, said, "fail" if wrong else "pass")]


def _row_count_results(step: Step, artifact: Artifact, inputs: Callable[[], Inputs]) -> list[CheckResult]:
    texts = step.gates.counts or () if step.gates is not None else ()
    return [_row_count_result(text, step, artifact, inputs()) for text in texts]


def _row_count_result(text: str, step: Step, artifact: Artifact, inputs: Inputs) -> CheckResult:
    count = RowCountCheck.parse(text, f"step '{step.name}'")
    given = inputs[count.role]
    found = [count_rows(one, count.of_table) for one in (given if isinstance(given, list) else [given])]
    known = [one for one in found if one is not None]
    of = sum(known) if known and len(known) == len(found) else None
    return evaluate_row_count(text, count, count_rows(artifact, count.table), of)


def _threshold_results(store: Store, step: Step, artifact: Artifact, good: str | None) -> list[CheckResult]:
    asked = step.gates.bounds() if step.gates is not None else {}
    if not asked:
        return []
    values = compute_statistics(artifact, asked)
    references = values if artifact.key == good else _last_good_values(store, step, good, [*asked])
    return [evaluate_check(name, values[name], references.get(name), bounds) for name, bounds in asked.items()]


def _last_good_values(store: Store, step: Step, good: str | None, names: list[str]) -> dict[str, float | None]:
    """The measures of the last good run's artifact; empty where there was none, or it is no longer whole."""
    found = store.look(step.stage.name, good).artifact if good is not None else None
    if found is None:
        return {}
    try:
        return compute_statistics(found, names)
    except RequestError as error:
        log_warning(f"{step.name}: the last good run cannot be compared with: {error}")
        return {}


def _explain(step: Step, artifact: Artifact, failed: list[CheckResult]) -> str:
    lines = [f"step '{step.name}' (stage {step.stage.name}): a data gate failed: {format_check(one)}" for one in failed]
    lines.append(f"The artifact is kept, no step that reads it has run; look at it: zscir show {artifact.key[:12]}")
    bounds = [one for one in failed if one.metric in (step.gates.bounds() if step.gates is not None else {})]
    if bounds:
        first = bounds[0]
        name = f"{step.name}.gates.{first.metric}.{first.threshold.split(' ')[0]}"
        lines.append(f"If the data are right, move the bound in the pipeline file, or once: --set {name}=...")
    return "\n".join(lines)
