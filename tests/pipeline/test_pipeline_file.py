import pytest

from tests.support.toy_pipelines import ORDER, SOURCE, STEPS, load_toy, write_toy
from zscir.pipeline.input_references import external_input
from zscir.pipeline.pipeline_file import load_pipeline, parse_change
from zscir.runtime.errors import RequestError

CIRCLE = """
name = "circle"
[[steps]]
name = "a"
stage = "tabulate"
inputs = { scores = ["b"] }
[[steps]]
name = "b"
stage = "tabulate"
inputs = { scores = ["c", "a"] }
[[steps]]
name = "c"
stage = "tabletop"
"""


def refusal(tmp_path, steps, *changes, source=SOURCE):
    path = write_toy(tmp_path, steps, source)
    with pytest.raises(RequestError) as caught:
        load_pipeline(path, list(changes))
    return str(caught.value)


def test_steps_come_after_their_inputs_whatever_their_order_in_the_file(tmp_path):
    assert [step.name for step in load_toy(tmp_path).steps] == ORDER


def test_a_step_without_a_spec_takes_the_section_of_the_source_that_is_named_after_its_stage(tmp_path):
    steps = {step.name: step for step in load_toy(tmp_path).steps}
    assert steps["tabletop"].spec.scenes == 40
    assert steps["ingest"].spec.source == "toy"
    assert steps["short"].spec.source == "short"


def test_a_spec_may_stand_in_a_file_of_its_own(tmp_path):
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "web.toml").write_text("scenes = 7\n")
    pipeline = load_toy(tmp_path, steps='name = "x"\n[[steps]]\nstage = "tabletop"\nspec = "specs/web.toml"\n')
    assert pipeline.steps[0].spec.scenes == 7


def test_the_pipeline_of_the_package_loads():
    from zscir.runtime.settings import data_specs

    for path in sorted((data_specs() / "pipelines").glob("*.toml")):
        text = path.read_text()
        specs = [line.split('"')[1] for line in text.splitlines() if line.startswith('spec = "')]
        if all((path.parent / spec).exists() for spec in specs):
            assert load_pipeline(path).steps


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('stage = "tabletop"', 'stage = "table"', ["step 'table'", "no stage 'table'", "ingest"]),
        ('urls = "tabletop"', 'list = "tabletop"', ["step 'short'", "no input 'list'", "['urls']"]),
        ('inputs = { urls = "tabletop" }', "", ["step 'short'", "needs the input 'urls'"]),
        ('urls = "tabletop"', 'urls = "tabeltop"', ["'short' reads 'tabeltop', which is no step"]),
        ('urls = "tabletop"', 'urls = ["tabletop"]', ["input 'urls' takes one of steps"]),
        ('name = "short"', 'name = "ingest"', ["two steps are named 'ingest'"]),
        (
            'stage = "tabletop"',
            'stage = "tabletop"\nspecs = {}',
            ["unknown key 'steps.1.specs'", "allowed: gates, inputs"],
        ),
        ('name = "toy"', "", ["'name' is missing"]),
        (
            'name = "toy"',
            'name = "toy"\nretries = 3',
            ["unknown key 'retries'", "allowed: about, defaults, dispatch, limits"],
        ),
        ("max_text_chars = 40", "max_text_char = 40", ["step 'short'", "unknown key 'max_text_char'"]),
        ("max_text_chars = 40", 'max_text_chars = "40"', ["step 'short'", "'max_text_chars' = '40'"]),
        ("max_text_chars = 40", "max_text_chars = nan", ["step 'short'", "max_text_chars"]),
        ('source = "source.toml"', 'source = "nowhere.toml"', ["nowhere.toml: cannot read"]),
        ('spec = { source = "short"', 'spec = { source = 3, limit = "x"', ["'source' = 3", "'limit' = 'x'"]),
        ('name = "toy"', "name = toy", ["not valid TOML"]),
    ],
)
def test_a_wrong_pipeline_is_reported_with_file_step_and_field(tmp_path, before, after, words):
    assert before in STEPS
    message = refusal(tmp_path, STEPS.replace(before, after, 1))
    assert str(tmp_path) in message
    for word in words:
        assert word in message
    assert len(message.splitlines()) <= 5


def test_a_circle_is_reported_step_by_step(tmp_path):
    assert "a -> b -> a depend on each other in a circle" in refusal(tmp_path, CIRCLE)


def test_a_missing_pipeline_is_reported(tmp_path):
    with pytest.raises(RequestError, match="cannot read this spec"):
        load_pipeline(tmp_path / "no.toml")


def test_the_word_source_is_the_url_list_of_the_source_file(tmp_path):
    (tmp_path / "list.csv").write_text("url,caption\n")
    steps = 'name = "x"\nsource = "source.toml"\n[[steps]]\nstage = "ingest"\ninputs = { urls = "source" }\n'
    path = write_toy(tmp_path, steps, SOURCE.replace("[tabletop]", 'urls = "list.csv"\n[tabletop]'))
    assert load_pipeline(path).steps[0].inputs == {"urls": f"file:{tmp_path}/list.csv"}
    assert "the input 'source' needs `urls = ...`" in refusal(tmp_path, steps)


def test_the_word_source_is_the_folder_or_the_tars_where_the_input_takes_these(tmp_path):
    steps = """
    name = "x"
    source = "source.toml"
    steps = [
      { stage = "ingest", inputs = { urls = "source" } },
      { stage = "import_images", inputs = { pairs = "ingest", images = "source" } },
      { stage = "import_shards", inputs = { shards = "source" } },
    ]
    """
    places = 'urls = "list.csv"\nimages = "pictures"\nshards = "tars/*.tar"\nexpected_rows = 7\n'
    sections = '[import_images]\nimage_size = 64\n[import_shards]\nsource = "s"\nexpected_rows = 9\n[tabletop]'
    path = write_toy(tmp_path, steps, SOURCE.replace("[tabletop]", places + sections))
    ingest, images, shards = load_pipeline(path).steps
    assert ingest.inputs == {"urls": f"file:{tmp_path}/list.csv"}
    assert images.inputs == {"pairs": "ingest", "images": f"file:{tmp_path}/pictures"}
    assert shards.inputs == {"shards": f"file:{tmp_path}/tars/*.tar"}
    assert (ingest.spec.expected_rows, images.spec.image_size, shards.spec.expected_rows) == (7, 64, 9)
    write_toy(tmp_path, steps, SOURCE.replace("[tabletop]", 'urls = "list.csv"\nimages = "p"\n[tabletop]'))
    with pytest.raises(RequestError, match=r"'import_shards'.*the input 'source' needs `shards = \.\.\.`"):
        load_pipeline(path)


def test_a_file_input_is_relative_to_the_pipeline_and_not_to_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    steps = 'name = "x"\nsource = "source.toml"\n[[steps]]\nstage = "ingest"\ninputs = { urls = "file:sub/list.csv" }\n'
    step = load_toy(tmp_path, steps=steps).steps[0]
    assert step.inputs == {"urls": f"file:{tmp_path}/sub/list.csv"}
    assert step.parents() == []


def test_a_glob_is_the_sorted_files_that_match(tmp_path):
    for name in ("b.csv", "a.csv", "c.tsv"):
        (tmp_path / name).write_text(name)
    assert external_input(f"file:{tmp_path}/*.csv").files() == ["a.csv", "b.csv"]
    with pytest.raises(RequestError, match="no file matches"):
        external_input(f"file:{tmp_path}/*.json")


def test_a_name_with_brackets_that_exists_is_no_glob(tmp_path):
    (tmp_path / "list[1].csv").write_text("x")
    assert external_input(f"file:{tmp_path}/list[1].csv").files() == ["list[1].csv"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=3", (["a", "b"], 3)),
        ("a.b=3.5", (["a", "b"], 3.5)),
        ("a.b=true", (["a", "b"], True)),
        ('a.b="3"', (["a", "b"], "3")),
        ("a.b=words without quotes", (["a", "b"], "words without quotes")),
        ("a.b=[1, 2]", (["a", "b"], [1, 2])),
        ("a.b.c=x=y", (["a", "b", "c"], "x=y")),
        ("source=my/list.toml", (["source"], "my/list.toml")),
        ("a.b=", (["a", "b"], "")),
    ],
)
def test_a_change_is_read_as_a_toml_value_or_as_text(text, expected):
    assert parse_change(text) == expected


@pytest.mark.parametrize("text", ["a.b", "=3", ""])
def test_a_malformed_change_is_refused_with_how_to_write_it(text):
    with pytest.raises(RequestError, match=r"write it as STEP\.field=value"):
        parse_change(text)


def test_set_changes_one_field_of_one_step(tmp_path):
    before, after = load_toy(tmp_path), load_toy(tmp_path, "short.max_text_chars=30", "tabletop.seed=7")
    changed = {step.name: step.spec.literals() for step in after.steps}
    unchanged = {step.name: step.spec.literals() for step in before.steps}
    assert changed["short"] == unchanged["short"] | {"max_text_chars": 30}
    assert changed["tabletop"] == unchanged["tabletop"] | {"seed": 7}
    assert changed["ingest"] == unchanged["ingest"]
    assert before.digest() != after.digest()


def test_set_on_one_of_two_steps_that_share_a_section_leaves_the_other(tmp_path):
    steps = 'name = "x"\nsource = "source.toml"\n' + "".join(
        f'[[steps]]\nname = "{name}"\nstage = "tabletop"\n' for name in ("one", "two")
    )
    pipeline = load_toy(tmp_path, "two.seed=1", steps=steps)
    assert [step.spec.seed for step in pipeline.steps] == [0, 1]


def test_set_source_takes_another_source_file_from_where_one_stands(tmp_path, monkeypatch):
    write_toy(tmp_path / "pipeline")
    (tmp_path / "mine.toml").write_text(SOURCE.replace("scenes = 40", "scenes = 5"))
    monkeypatch.chdir(tmp_path)
    pipeline = load_pipeline(tmp_path / "pipeline" / "toy.toml", ["source=mine.toml"])
    assert pipeline.steps[0].spec.scenes == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("nostep.field=3", ["no step 'nostep'", "ingest", "short", "tabletop"]),
        ("short.nofield=3", ["step 'short'", "unknown key 'nofield'"]),
        ("short.max_text_chars=many", ["step 'short'", "'max_text_chars' = 'many'"]),
        ("short.max_text_chars.deeper=3", ["'max_text_chars' is 40 and has no fields"]),
        ("steps=3", ["give source=FILE or STEP.field=value"]),
        ("source=3", ["cannot read this spec"]),
    ],
)
def test_a_wrong_change_is_reported_by_step_and_field(tmp_path, change, words):
    message = refusal(tmp_path, STEPS, change)
    for word in words:
        assert word in message


def test_a_word_selects_a_step_or_all_steps_of_a_stage(tmp_path):
    pipeline = load_toy(tmp_path)
    assert pipeline.steps_matching("short") == ["short"]
    assert pipeline.steps_matching("ingest") == ["short", "ingest"]
    assert pipeline.descendants(["tabletop"]) == ORDER
    assert pipeline.descendants(["ingest"]) == ["ingest"]
    with pytest.raises(
        RequestError, match=r"no step or stage 'nothing'; the steps are \['tabletop', 'short', 'ingest'\]"
    ):
        pipeline.steps_matching("nothing")


def test_the_digest_of_a_pipeline_depends_on_its_steps_and_not_on_where_the_file_lies(tmp_path):
    assert load_toy(tmp_path / "here").digest() == load_toy(tmp_path / "there").digest()
    assert load_toy(tmp_path, steps=STEPS.replace("= 40", "= 41")).digest() != load_toy(tmp_path).digest()
