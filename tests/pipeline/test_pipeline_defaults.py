"""``[defaults.STAGE]``: a file with defaults is the same pipeline as one whose steps are written out."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.toy_pipelines import SOURCE, run_toy, write_toy, zscir
from tests.support.toys import store_at
from zscir.pipeline.pipeline_file import Pipeline, load_pipeline
from zscir.pipeline.plan import make_plan
from zscir.pipeline.plan_token import plan_record, plan_token_of
from zscir.runtime.errors import RequestError
from zscir.runtime.settings import data_specs

SHIPPED = sorted((data_specs() / "pipelines").glob("*.toml"))
TABLES = ("spec", "inputs", "gates", "limits")
WITH_DEFAULTS = """
name = "toy"
source = "source.toml"
[defaults.ingest]
spec = { source = "toy", text_column = "caption", columns = ["url", "caption"] }
inputs = { urls = "tabletop" }
gates = { counts = [], kept_share = { warn_drop = 0.1, fail_drop = 0.4 } }
limits = { max_hours = 2 }
[[steps]]
stage = "tabletop"
[[steps]]
name = "plain"
stage = "ingest"
spec = {}
[[steps]]
name = "short"
stage = "ingest"
spec = { source = "short", max_text_chars = 40, columns = ["url"] }
gates = { kept_share = { fail_below = 0.5 } }
limits = { max_hours = 1 }
[[steps]]
name = "elsewhere"
stage = "ingest"
spec = { limit = 5 }
inputs = { urls = "file:list.csv" }
"""
WRITTEN_OUT = """
name = "toy"
source = "source.toml"
[[steps]]
stage = "tabletop"
[[steps]]
name = "plain"
stage = "ingest"
spec = { source = "toy", text_column = "caption", columns = ["url", "caption"] }
inputs = { urls = "tabletop" }
gates = { counts = [], kept_share = { warn_drop = 0.1, fail_drop = 0.4 } }
limits = { max_hours = 2 }
[[steps]]
name = "short"
stage = "ingest"
spec = { source = "short", text_column = "caption", max_text_chars = 40, columns = ["url"] }
inputs = { urls = "tabletop" }
gates = { counts = [], kept_share = { fail_below = 0.5 } }
limits = { max_hours = 1 }
[[steps]]
name = "elsewhere"
stage = "ingest"
spec = { source = "toy", text_column = "caption", columns = ["url", "caption"], limit = 5 }
inputs = { urls = "file:list.csv" }
gates = { counts = [], kept_share = { warn_drop = 0.1, fail_drop = 0.4 } }
limits = { max_hours = 2 }
"""


def loaded(folder: Path, text: str, *changes: str, source: str = SOURCE) -> Pipeline:
    (folder / "list.csv").write_text("url,caption\n")
    return load_pipeline(write_toy(folder, text, source), list(changes))


def toml(value: Any) -> str:
    """``value`` as inline TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml(field)}" for name, field in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return json.dumps(value)


def toml_file(values: dict[str, Any]) -> str:
    return "".join(f"{name} = {toml(value)}\n" for name, value in values.items())


def written_out(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A pipeline file's tables with the defaults copied into every step, as a person would do it by hand."""
    steps = []
    source = tomllib.loads((folder / values["source"]).read_text()) if "source" in values else {}
    for step in values["steps"]:
        defaults = values.get("defaults", {}).get(step["stage"], {})
        full = dict(step)
        for table in TABLES:
            own, default = step.get(table, {}), defaults.get(table, {})
            if table == "spec" and defaults.get("spec") is not None:
                own = step.get("spec", source.get(step["stage"], {}))
                own = tomllib.loads((folder / own).read_text()) if isinstance(own, str) else own
                default = tomllib.loads((folder / default).read_text()) if isinstance(default, str) else default
            if default:
                full[table] = default | own
        steps.append(full)
    return {name: value for name, value in values.items() if name not in ("defaults", "steps")} | {"steps": steps}


def test_a_file_with_defaults_is_the_pipeline_whose_steps_are_written_out(tmp_path):
    short, long = loaded(tmp_path, WITH_DEFAULTS), loaded(tmp_path, WRITTEN_OUT)
    assert short.steps == long.steps
    assert short.digest() == long.digest()
    steps = {step.name: step for step in short.steps}
    assert steps["short"].spec.columns == ("url",)  # a list is replaced, not added to
    assert steps["short"].checks.kept_share.literals() == {"fail_below": 0.5}  # so is a table
    assert (steps["plain"].limits.max_hours, steps["short"].limits.max_hours) == (2, 1)


def test_keys_plans_and_tokens_know_nothing_of_defaults(tmp_path):
    store = store_at(tmp_path / "store", tmp_path / "cache")
    (tmp_path / "specs").mkdir()
    made = run_toy(store, write_short_and_long(tmp_path, "WITH")).artifacts
    plan = make_plan(store, load_pipeline(write_short_and_long(tmp_path, "OUT")))
    assert {planned.step.name: planned.key for planned in plan} == {name: made[name].key for name in made}
    assert {planned.action for planned in plan} == {"reuse"}
    assert made["short"].manifest.spec["text_column"] == "caption"  # and what the artifact says of itself
    record = plan_record(plan)
    assert record == plan_record(make_plan(store, load_pipeline(write_short_and_long(tmp_path, "WITH"))))
    assert record["short"]["spec"]["text_column"] == "caption"  # what a plan says of a step is its effective spec
    edited = plan_record(make_plan(store, load_pipeline(write_short_and_long(tmp_path, "EDITED"))))
    assert plan_token_of(edited) != plan_token_of(record)


def write_short_and_long(folder: Path, which: str) -> Path:
    texts = {"WITH": WITH_DEFAULTS, "OUT": WRITTEN_OUT, "EDITED": WITH_DEFAULTS.replace("caption", "text", 1)}
    (folder / "specs" / "list.csv").write_text("url,caption\nhttp://a.example/1.jpg,a red square\n")
    without_gates = [line for line in texts[which].splitlines() if not line.startswith("gates")]
    path = write_toy(folder / "specs", "\n".join(without_gates).replace('columns = ["url"]', "quoted = true"))
    path.write_text(path.read_text().replace('columns = ["url", "caption"]', "quoted = true"))
    return path


SPEC_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "source": st.sampled_from(["a", "b"]),
        "text_column": st.sampled_from(["caption", "title"]),
        "max_text_chars": st.integers(10, 99),
        "columns": st.lists(st.sampled_from(["url", "caption"]), max_size=2),
        "lines": st.dictionaries(st.sampled_from(["x", "y"]), st.just("x.txt"), max_size=2),
    },
)
GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "spec": SPEC_FIELDS | st.just("spec.toml"),
        "inputs": st.sampled_from([{"urls": "tabletop"}, {"urls": "file:list.csv"}, {}]),
        "gates": st.sampled_from([{"kept_share": {"warn_drop": 0.1}}, {"text_chars": {"warn_shift": 0.3}}, {}]),
        "limits": st.sampled_from([{"max_hours": 1}, {"max_hours": 2}, {}]),
    },
)


def outcome(folder: Path, values: dict[str, Any], source: str) -> Any:
    """The steps, or what is wrong with them."""
    try:
        return loaded(folder, toml_file(values), source=source).steps
    except RequestError as error:
        return str(error).replace(" with [defaults.ingest]", "")


@settings(max_examples=200, deadline=None)
@given(defaults=GIVEN, steps=st.lists(GIVEN, min_size=1, max_size=3), section=st.booleans(), file=SPEC_FIELDS)
def test_defaults_are_what_copying_them_by_hand_gives(tmp_path_factory, defaults, steps, section, file):
    folder = tmp_path_factory.getbasetemp() / "defaults"
    folder.mkdir(exist_ok=True)
    (folder / "spec.toml").write_text(toml_file(file))
    source = SOURCE if section else SOURCE[: SOURCE.index("[ingest]")]
    (folder / "source.toml").write_text(source)
    named = [{"name": f"step{number}", "stage": "ingest", **step} for number, step in enumerate(steps)]
    values = {"name": "toy", "source": "source.toml", "defaults": {"ingest": defaults}}
    values["steps"] = [{"stage": "tabletop"}, *named]
    assert outcome(folder, values, source) == outcome(folder, written_out(values, folder), source)


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_a_shipped_pipeline_is_what_it_is_with_its_defaults_written_out(tmp_path, path):
    values = tomllib.loads(path.read_text())
    folder = tmp_path / "pipelines"
    folder.mkdir()
    for name in ("sources", "triplets", "methods", "benchmarks", "backbones"):
        (tmp_path / name).symlink_to(data_specs() / name)
    (folder / path.name).write_text(toml_file(written_out(values, path.parent)))
    assert "defaults" not in tomllib.loads((folder / path.name).read_text())
    short, long = load_pipeline(path), load_pipeline(folder / path.name)
    assert short.steps == long.steps
    assert short.digest() == long.digest()


def test_the_demo_lists_its_benchmarks_once():
    path = data_specs() / "pipelines" / "tabletop.toml"
    steps = [step for step in load_pipeline(path).steps if step.stage.name == "evaluate"]
    assert len(steps) == 8
    for step in steps:
        assert [benchmark.name for benchmark in step.spec.benchmarks] == ["fashioniq", "cirr", "circo", "genecis"]
    assert path.read_text().count('"fashioniq"') == 1


def test_set_changes_a_field_of_one_step_whether_a_default_gives_it_or_not(tmp_path):
    before = {step.name: step.spec.literals() for step in loaded(tmp_path, WITH_DEFAULTS).steps}
    changes = [
        "plain.text_column=title",
        "short.limit=3",
        "plain.limits.max_hours=7",
        "plain.gates.kept_share.warn_drop=1",
    ]
    steps = {step.name: step for step in loaded(tmp_path, WITH_DEFAULTS, *changes).steps}
    assert steps["plain"].spec.literals() == before["plain"] | {"text_column": "title"}
    assert steps["short"].spec.literals() == before["short"] | {"limit": 3}
    assert steps["elsewhere"].spec.literals() == before["elsewhere"]
    assert (steps["plain"].limits.max_hours, steps["elsewhere"].limits.max_hours) == (7, 2)
    assert steps["plain"].checks.kept_share.literals() == {"warn_drop": 1.0, "fail_drop": 0.4}
    assert steps["elsewhere"].checks.kept_share.literals() == {"warn_drop": 0.1, "fail_drop": 0.4}
    pools = {step.name: step.pool for step in loaded(tmp_path, WITH_DEFAULTS, "dispatch.ingest=gpu").steps}
    assert pools == {"tabletop": None, "plain": "gpu", "short": "gpu", "elsewhere": "gpu"}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("[defaults.ingest]", "[defaults.ingst]", ["[defaults.ingst]: no stage 'ingst'", "did you mean 'ingest'?"]),
        ("[defaults.ingest]", "[defaults.pack]", ["[defaults.pack]: no step of this stage", "ingest, tabletop"]),
        ("[defaults.ingest]", "[defaults.short]", ["[defaults.short]: no stage 'short'"]),
        ("inputs = {", "input = {", ["unknown key 'defaults.ingest.input'", "did you mean 'inputs'?"]),
        ("limits = {", 'stage = "x"\nlimits = {', ["'defaults.ingest.stage'; allowed: gates, inputs, limits, spec"]),
        (
            "text_column",
            "text_colum",
            ["[defaults.ingest]: unknown key 'spec.text_colum'", "did you mean 'text_column'?"],
        ),
        ("urls =", "url =", ["[defaults.ingest]: no input 'url'; allowed: urls; did you mean 'urls'?"]),
        ("kept_share", "kept_shar", ["unknown key 'defaults.ingest.gates.kept_shar'", "did you mean 'kept_share'?"]),
        (
            "max_hours = 2",
            "max_hour = 2",
            ["unknown key 'defaults.ingest.limits.max_hour'", "did you mean 'max_hours'?"],
        ),
        ('text_column = "caption"', "text_column = 3", ["step 'plain' with [defaults.ingest]", "'text_column' = 3"]),
        ('urls = "tabletop"', 'urls = ["tabletop"]', ["step 'plain' with [defaults.ingest]", "takes one of steps"]),
        ("[defaults.ingest]", "[default.ingest]", ["unknown key 'default'", "did you mean 'defaults'?"]),
    ],
)
def test_wrong_defaults_are_named_by_file_and_key(tmp_path, before, after, words):
    assert before in WITH_DEFAULTS
    with pytest.raises(RequestError) as caught:
        loaded(tmp_path, WITH_DEFAULTS.replace(before, after, 1))
    assert str(tmp_path / "toy.toml") in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_wrong_defaults_end_the_command_with_code_2_before_anything_runs(tmp_path):
    write_toy(tmp_path, WITH_DEFAULTS.replace("[defaults.ingest]", "[defaults.ingst]"))
    done = zscir(tmp_path, "run", "toy.toml", "--store", "store")
    assert done.returncode == 2
    assert "toy.toml: [defaults.ingst]: no stage 'ingst'" in done.stderr
    assert not (tmp_path / "store").exists()
