import pytest

from tests.support.toys import ShardsSpec, shards
from zscir.lineage.lookup import describe_ref
from zscir.pipeline.stage import materialize, stage
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import IMAGES_SCHEMA, RESPONSES_SCHEMA, TRIPLETS_SCHEMA, write_table
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts

REFERENCE, TARGET = "a" * 63 + "1", "a" * 63 + "2"
TRIPLET = "b" * 32


class NoSpec(Spec):
    pass


@stage(version=1)
def images(spec: NoSpec, out) -> Facts:
    rows = [
        {"image_key": key, "pair_id": f"{number:032x}", "url": f"http://a.test/{number}", "text": f"scene {number}",
         "status": "ok", "attempts": 1}
        for number, key in enumerate((REFERENCE, TARGET))
    ]  # fmt: skip
    return {"rows": write_table(out / "images.parquet", IMAGES_SCHEMA, rows)}


@stage(version=1)
def triplets(spec: NoSpec, images: Artifact, out) -> Facts:
    row = {
        "triplet_id": TRIPLET, "source": "llm", "reference_key": REFERENCE, "target_key": TARGET, "text": "make it red",
        "response_id": "r:1",
    }  # fmt: skip
    answer = {
        "response_id": "r:1",
        "prompt_digest": "d",
        "model": "m",
        "request": "{}",
        "response": "{}",
        "attempts": 1,
    }
    write_table(out / "responses-00000.parquet", RESPONSES_SCHEMA, [answer])
    return {"rows": write_table(out / "triplets.parquet", TRIPLETS_SCHEMA, [row])}


@pytest.fixture
def made(store):
    first = materialize(store, images, NoSpec(), {}).artifact
    return first, materialize(store, triplets, NoSpec(), {"images": first}).artifact


def test_latest_an_id_and_a_prefix_show_a_run_with_its_steps(store, toy_run):
    for ref in ("latest", toy_run.run_id, toy_run.run_id[:-2], toy_run.run_id[:8]):
        title, values, tables = describe_ref(store, ref)
        assert title == f"run {toy_run.run_id}"
        assert values["status"] == "succeeded"
        assert [row["step"] for row in tables["steps"]] == ["tabletop", "short", "ingest"]


def test_a_key_and_a_prefix_show_an_artifact_with_its_inputs_files_and_readers(store, toy_run):
    parent, child = toy_run.artifacts["tabletop"], toy_run.artifacts["short"]
    for ref in (child.key, child.key[:6], child.key[:12]):
        title, values, tables = describe_ref(store, ref)
        assert title == f"ingest/{child.key}".join(["artifact ", ""])
        assert (values["state"], values["facts"], values["rows"]) == ("whole", child.facts, child.facts["rows"])
        assert values["spec"]["max_text_chars"] == 40
        assert tables["inputs"] == [{"role": "urls", "stage": "tabletop", "key": parent.key}]
        assert [row["file"] for row in tables["files"]] == child.files()
        assert tables["runs"] == [{"run_id": toy_run.run_id, "step": "short", "outcome": "made"}]
    readers = describe_ref(store, parent.key)[2]["read by"]
    assert {row["key"] for row in readers} == {child.key, toy_run.artifacts["ingest"].key}


def test_an_artifact_that_no_run_made_is_shown_too(store):
    made = materialize(store, shards, ShardsSpec(), {}).artifact
    title, values, _ = describe_ref(store, made.key[:10])
    assert title == f"artifact shards/{made.key}"
    assert values["digest"] == made.digest


def test_a_damaged_artifact_is_shown_with_what_is_wrong(store, toy_run):
    child = toy_run.artifacts["short"]
    store.fs.rm_file(store.address("ingest", child.key, "pairs.parquet"))
    assert describe_ref(store, child.key)[1]["state"] == "file missing: pairs.parquet"
    store.fs.rm(store.address("ingest"), recursive=True)
    assert describe_ref(store, child.key)[1]["state"] == "no artifact"


def test_a_triplet_is_shown_with_its_images_and_the_answer_it_came_from(store, made):
    for ref in (TRIPLET, TRIPLET[:6]):
        title, values, tables = describe_ref(store, ref)
        assert title == f"triplet {TRIPLET}"
        assert values["text"] == "make it red"
        assert [(row["role"], row["url"]) for row in tables["images"]] == [
            ("reference", "http://a.test/0"), ("target", "http://a.test/1"),
        ]  # fmt: skip
        assert [row["model"] for row in tables["response"]] == ["m"]
        assert tables["artifacts"] == [{"key": made[1].key}]


def test_an_image_is_shown_with_its_pairs_and_triplets(store, made):
    title, values, tables = describe_ref(store, TARGET)
    assert title == f"image {TARGET}"
    assert (values["url"], values["status"]) == ("http://a.test/1", "ok")
    assert [row["text"] for row in tables["pairs"]] == ["scene 1"]
    assert [(row["triplet_id"], row["reference"], row["target"]) for row in tables["triplets"]] == [
        (TRIPLET, False, True)
    ]


def test_a_prefix_of_several_things_is_reported_with_the_candidates(store, made):
    with pytest.raises(RequestError, match="may be any of these") as caught:
        describe_ref(store, "a" * 10)
    assert f"image {REFERENCE}" in str(caught.value)
    assert f"image {TARGET}" in str(caught.value)


@pytest.mark.parametrize("ref", ["nothing", "zzzzzzz", "0123456789ab", "'; DROP TABLE run; --", "%", ""])
def test_an_unknown_word_is_reported(store, toy_run, ref):
    with pytest.raises(RequestError, match=r"is called|no runs|may be any"):
        describe_ref(store, ref)


def test_a_short_prefix_of_a_key_is_too_little(store, toy_run):
    with pytest.raises(RequestError, match="give at least 6 characters"):
        describe_ref(store, toy_run.artifacts["short"].key[:4])


def test_latest_in_an_empty_store_is_reported(store):
    with pytest.raises(RequestError, match="no runs yet"):
        describe_ref(store, "latest")
