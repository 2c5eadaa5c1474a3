import json
from pathlib import Path

import pytest

from tests.support.toys import CopySpec, ShardsSpec, copies, gated, shards
from zscir.pipeline.stage import flatten_inputs, materialize, stage, stage_key, stage_named, stage_names
from zscir.runtime.errors import GateError, RequestError, StageError
from zscir.runtime.specs import Spec, json_digest
from zscir.store.artifacts import Artifact, Facts


def folder_of(path, **files):
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / f"{name}.bin").write_text(text)
    return Artifact.of_folder(path)


def test_a_stage_is_called_bare(tmp_path):
    assert shards(ShardsSpec(shards=2, blocks=1), out=tmp_path) == {"rows": 2, "blocks": 1}
    assert (tmp_path / "00001.bin").read_bytes() == b"\0\1\0" * 1000


def test_the_roles_of_a_stage_are_its_parameters():
    assert [(role.name, role.is_optional, role.is_list) for role in copies.roles] == [
        ("first", False, False),
        ("others", False, True),
        ("extra", True, False),
    ]
    assert (copies.name, copies.version, copies.spec_type) == ("copies", 1, CopySpec)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"others": []}, "needs the input 'first'"),
        ({"first": 1, "others": [], "second": 1}, r"no input 'second'; it has \['extra', 'first', 'others'\]"),
        ({"first": [1], "others": []}, "input 'first' takes one of steps"),
        ({"first": 1, "others": 1}, "input 'others' takes a list of steps"),
    ],
)
def test_wrong_inputs_are_reported_by_role(given, words):
    with pytest.raises(RequestError, match=f"^here: .*{words}"):
        copies.check_inputs(given, "here")


def test_an_optional_input_may_be_left_out():
    copies.check_inputs({"first": 1, "others": [1, 2]}, "here")
    copies.check_inputs({"first": 1, "others": [], "extra": 1}, "here")


def test_a_function_that_is_no_stage_is_refused_when_declared():
    def odd(out: Path, spec: Spec) -> Facts:
        return {}

    with pytest.raises(TypeError, match="a stage takes"):
        stage(version=1)(odd)


def test_every_stage_of_the_package_has_the_name_of_its_file_and_function():
    for name in stage_names():
        found = stage_named(name)
        assert found.name == name
        assert found.version >= 1


def test_an_unknown_stage_is_refused_with_the_known_ones():
    with pytest.raises(RequestError, match=r"no stage 'nothing'; the stages are .*tabletop"):
        stage_named("nothing")
    with pytest.raises(RequestError):
        stage_named("../errors")


def test_the_key_is_worked_from_name_version_literals_and_input_digests(tmp_path):
    one, two, three = (folder_of(tmp_path / name, a=name) for name in ("one", "two", "three"))
    inputs = {"first": one, "others": [two, three]}
    assert list(flatten_inputs(inputs)) == ["first", "others.0", "others.1"]
    by_hand = [
        "copies", 1, {"times": 3}, {"first": one.digest, "others.0": two.digest, "others.1": three.digest},
    ]  # fmt: skip
    assert stage_key(copies, CopySpec(times=3), inputs) == json_digest(by_hand)


def test_the_order_of_many_inputs_is_part_of_the_identity(tmp_path):
    one, two = folder_of(tmp_path / "one", a="1"), folder_of(tmp_path / "two", a="2")
    there = stage_key(copies, CopySpec(), {"first": one, "others": [one, two]})
    assert there != stage_key(copies, CopySpec(), {"first": one, "others": [two, one]})


def test_nothing_of_the_environment_enters_a_key(tmp_path, monkeypatch):
    before = stage_key(shards, ShardsSpec(), {})
    for name in ("ZSCIR_STORE", "ZSCIR_CACHE", "TOY_PAUSE_S", "AWS_ENDPOINT_URL", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert stage_key(shards, ShardsSpec(), {}) == before


def test_what_is_made_once_is_reused(store, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    made = materialize(store, shards, ShardsSpec(), {})
    again = materialize(store, shards, ShardsSpec(), {})
    assert (made.outcome, again.outcome) == ("made", "reused")
    assert again.artifact == made.artifact
    assert (tmp_path / "log").read_text().count("begin") == 6


def test_a_spec_of_more_knobs_that_are_not_set_finds_the_old_artifact(store):
    made = materialize(store, shards, ShardsSpec(seed=1), {})
    assert materialize(store, shards, ShardsSpec(seed=1, note=None), {}).artifact.key == made.artifact.key
    assert materialize(store, shards, ShardsSpec(seed=1, note="x"), {}).artifact.key != made.artifact.key


def test_a_parent_made_again_to_the_same_bytes_moves_no_child(store):
    """``note`` changes the parent's key and not its bytes: the child is found by what the parent holds."""
    parents = [materialize(store, shards, ShardsSpec(shards=2, note=note), {}).artifact for note in ("a", "b")]
    assert parents[0].key != parents[1].key
    children = [materialize(store, copies, CopySpec(), {"first": parent, "others": []}) for parent in parents]
    assert [child.outcome for child in children] == ["made", "reused"]


def test_a_child_of_other_bytes_is_another(store):
    parents = [materialize(store, shards, ShardsSpec(shards=2, seed=seed), {}).artifact for seed in (1, 2)]
    children = [materialize(store, copies, CopySpec(), {"first": parent, "others": []}) for parent in parents]
    assert [child.outcome for child in children] == ["made", "made"]
    assert children[0].artifact.digest != children[1].artifact.digest


def test_an_artifact_names_what_it_was_made_of(store):
    parent = materialize(store, shards, ShardsSpec(shards=2), {}).artifact
    child = materialize(store, copies, CopySpec(times=1), {"first": parent, "others": [parent]}).artifact
    assert child.manifest is not None
    assert child.manifest.spec == {"times": 1}
    assert {role: entry.key for role, entry in child.manifest.inputs.items()} == {
        "first": parent.key,
        "others.0": parent.key,
    }
    assert child.facts == {"rows": 2 * 2 * 4 * 3000}
    assert child.path("deep/copy.bin").stat().st_size == child.facts["rows"]


def test_no_manifest_says_when_where_or_how_fast(store, tmp_path):
    artifact = materialize(store, shards, ShardsSpec(), {}).artifact
    text = store.read_text("shards", artifact.key, "manifest.json")
    assert sorted(json.loads(text)) == [
        "digest", "facts", "files", "format", "inputs", "key", "spec", "stage", "stage_version",
    ]  # fmt: skip
    assert str(tmp_path) not in text


def test_two_stores_hold_the_same_bytes(tmp_path):
    from tests.support.toys import store_at

    texts = set()
    for name in ("one", "two"):
        store = store_at(tmp_path / name, tmp_path / "cache")
        artifact = materialize(store, shards, ShardsSpec(), {}).artifact
        texts.add(store.read_text("shards", artifact.key, "manifest.json"))
    assert len(texts) == 1


def test_a_stage_that_fails_leaves_no_artifact_and_its_shards_for_the_next_attempt(store, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    attempts = []

    @stage(version=1)
    def shaky(spec: ShardsSpec, out: Path) -> Facts:
        facts = shards(spec, out=out)
        attempts.append(len(attempts))
        if len(attempts) == 1:
            raise StageError("the first attempt fails")
        return facts

    with pytest.raises(StageError, match="the first attempt fails"):
        materialize(store, shaky, ShardsSpec(), {})
    assert store.lookup("shaky", stage_key(shaky, ShardsSpec(), {})).problem == "no artifact"
    assert materialize(store, shaky, ShardsSpec(), {}).outcome == "made"
    assert (tmp_path / "log").read_text().count("begin") == 6


def test_a_gate_keeps_its_own_kind_of_error_and_commits_nothing(store):
    with pytest.raises(GateError, match="at least 100"):
        materialize(store, gated, ShardsSpec(), {})
    assert store.list_keys() == []


@pytest.mark.parametrize("facts", [{"share": float("nan")}, {"path": Path("x")}])
def test_facts_that_are_no_json_commit_nothing(store, facts):
    @stage(version=1)
    def odd(spec: ShardsSpec, out: Path) -> Facts:
        return facts

    with pytest.raises((ValueError, TypeError)):
        materialize(store, odd, ShardsSpec(), {})
    assert store.list_keys() == []


def test_hidden_files_of_a_stage_outlive_a_failure_and_are_no_part_of_the_artifact(store):
    @stage(version=1)
    def notes(spec: ShardsSpec, out: Path) -> Facts:
        if not (out / ".notes" / "seen").exists():
            (out / ".notes").mkdir()
            (out / ".notes" / "seen").write_text("once")
            raise StageError("not yet")
        (out / "done.bin").write_bytes(b"done")
        return {}

    with pytest.raises(StageError, match="not yet"):
        materialize(store, notes, ShardsSpec(), {})
    assert materialize(store, notes, ShardsSpec(), {}).artifact.files() == ["done.bin"]


def test_a_link_left_by_a_stage_is_refused(store):
    @stage(version=1)
    def linking(spec: ShardsSpec, out: Path) -> Facts:
        (out / "link").symlink_to("/etc/passwd")
        return {}

    with pytest.raises(StageError, match="symbolic link"):
        materialize(store, linking, ShardsSpec(), {})
    assert store.list_keys() == []
