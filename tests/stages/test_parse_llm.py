import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import (
    CANDIDATES_SCHEMA,
    REJECTS_SCHEMA,
    RESPONSES_SCHEMA,
    TRIPLETS_SCHEMA,
    read_rows,
    schema_of,
    write_table,
)
from zscir.runtime.settings import data_specs
from zscir.stages.mask_triplets import MaskSpec
from zscir.stages.mine_pairs import MineSpec
from zscir.stages.parse_llm import ParseSpec, parse_llm
from zscir.store.artifacts import Artifact

THREE = ["make it red now", "the same in red", "red this time please"]


def answer(**fields: Any) -> str:
    whole = {
        "valid": True, "reason": "", "preserved": [], "changed": [], "edit_type": "other", "instructions": THREE,
        "target_caption": "red",
    }  # fmt: skip
    return json.dumps(whole | fields)


def wrapped(text: str) -> str:
    return json.dumps({"text": text, "finish_reason": "stop"})


def inputs(folder: Path, replies: list[tuple[str | None, str | None]], model: str = "llama") -> dict[str, Artifact]:
    """Candidate n with keys r<n>, t<n> and the n-th (response, error)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "candidates").mkdir()
    (folder / "responses").mkdir()
    pairs, rows = [], []
    for number, (response, error) in enumerate(replies):
        pairs.append(
            {"candidate_id": f"c{number}", "reference_key": f"r{number}", "target_key": f"t{number}",
             "reference_caption": "a cube", "target_caption": "a red cube", "image_similarity": 0.85}
        )  # fmt: skip
        rows.append(
            {"response_id": f"c{number}:abc", "prompt_digest": "d", "model": model, "request": "{}",
             "response": response, "error": error, "attempts": 1}
        )  # fmt: skip
    write_table(folder / "candidates" / "candidates.parquet", CANDIDATES_SCHEMA, pairs)
    write_table(folder / "responses" / "responses-00000.parquet", RESPONSES_SCHEMA, rows[: len(rows) // 2])
    write_table(folder / "responses" / "responses-00001.parquet", RESPONSES_SCHEMA, rows[len(rows) // 2 :])
    return {name: Artifact.of_folder(folder / name) for name in ("candidates", "responses")}


def parsed(
    folder: Path, given: dict[str, Artifact], **spec: Any
) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    facts = parse_llm(ParseSpec.parse(spec, "t"), **given, out=out)
    return (
        facts,
        read_rows(out / "triplets.parquet", TRIPLETS_SCHEMA),
        read_rows(out / "rejects.parquet", REJECTS_SCHEMA),
    )


def test_a_good_answer_becomes_triplets_with_all_their_origins(tmp_path: Path) -> None:
    given = inputs(
        tmp_path, [(wrapped(answer()), None), (wrapped(answer(instructions=["a b c", "d e f", "g h i"])), None)]
    )
    facts, triplets, rejects = parsed(tmp_path, given, per_pair=2)
    assert [row["text"] for row in triplets] == [*THREE[:2], "a b c", "d e f"]
    assert triplets[0] == {
        "triplet_id": triplets[0]["triplet_id"], "source": "llm", "reference_key": "r0", "target_key": "t0",
        "text": "make it red now", "mask_seed": None, "mask_ratio": None, "response_id": "c0:abc",
        "reference_caption": "a cube", "target_caption": "a red cube",
    }  # fmt: skip
    assert len({row["triplet_id"] for row in triplets}) == 4
    assert rejects == []
    assert (facts["rows"], facts["responses"], facts["distinct_texts"]) == (4, 2, 4)


def test_triplets_of_rules_say_so(tmp_path: Path) -> None:
    _, triplets, _ = parsed(tmp_path, inputs(tmp_path, [(wrapped(answer()), None)], model="template"))
    assert triplets[0]["source"] == "template"


REASONS = [
    ((None, "http_500: down"), "http_500"),
    ((wrapped("garbage"), "invalid_answer: not_json: no JSON object"), "invalid_answer"),
    ((wrapped("garbage"), None), "not_json"),
    (("not an envelope", None), "not_json"),
    (("[" * 50_000, None), "not_json"),
    ((None, None), "not_json"),
    ((wrapped(answer(extra=1)), None), "schema"),
    ((wrapped(answer(edit_type="magic")), None), "schema"),
    ((wrapped("x" * 30_000), None), "too_long"),
    ((wrapped(answer(valid=False, reason="nothing shared", instructions=[])), None), "refusal"),
    ((wrapped(answer(instructions=["Make it red", "make it  red", "other words here"])), None), "same_instructions"),
]


@pytest.mark.parametrize(("reply", "reason"), REASONS)
def test_a_response_of_no_use_is_one_reject_with_a_reason(
    tmp_path: Path, reply: tuple[str | None, str | None], reason: str
) -> None:
    facts, triplets, rejects = parsed(tmp_path, inputs(tmp_path, [reply]))
    assert triplets == []
    assert [(row["stage"], row["id"], row["reason"]) for row in rejects] == [("parse_llm", "c0:abc", reason)]
    assert facts["rejects_by_reason"] == {reason: 1}


def test_bad_instructions_are_rejected_one_by_one_and_the_next_good_one_is_taken(tmp_path: Path) -> None:
    mixed = ["red", "Viewpoint. From above please", "make it red"]
    facts, triplets, rejects = parsed(tmp_path, inputs(tmp_path, [(wrapped(answer(instructions=mixed)), None)]))
    assert [row["text"] for row in triplets] == ["make it red"]
    assert [(row["id"], row["reason"]) for row in rejects] == [("c0:abc#0", "length"), ("c0:abc#1", "aspect_name")]
    assert facts["rejects"] == 2


def test_a_text_is_used_at_most_so_many_times(tmp_path: Path) -> None:
    facts, triplets, _ = parsed(tmp_path, inputs(tmp_path, [(wrapped(answer()), None)] * 7), max_uses=2)
    assert [row["text"] for row in triplets] == [text for text in THREE for _ in range(2)]
    # The third and later pairs use the next instruction; the last pair has none left.
    assert facts["rejects_by_reason"] == {"text_used_too_often": 2 * 1 + 2 * 2 + 3}


def test_no_kind_of_edit_drowns_the_others(tmp_path: Path) -> None:
    replies: list[tuple[str | None, str | None]] = [
        (wrapped(answer(edit_type="addition" if n % 10 == 0 else "other")), None) for n in range(1000)
    ]
    given = inputs(tmp_path, replies)
    facts, _, _ = parsed(tmp_path, given, max_type_share=0.6, max_uses=1000)
    kinds = facts["edit_types"]
    assert kinds["addition"] == 100
    assert 0.59 < kinds["other"] / facts["rows"] <= 0.61
    assert facts["rejects_by_reason"] == {"edit_type_too_common": 900 - kinds["other"]}


def test_refusals_are_counted_by_similarity(tmp_path: Path) -> None:
    refused = wrapped(answer(valid=False, instructions=[]))
    facts, _, _ = parsed(tmp_path, inputs(tmp_path, [(refused, None), (wrapped(answer()), None), (refused, None)]))
    assert facts["refused_of_asked"] == {"0.8": [2, 3]}


def test_pairs_whose_images_move_otherwise_than_their_captions_are_rejected(tmp_path: Path) -> None:
    given = inputs(tmp_path, [(wrapped(answer()), None)] * 3)
    (tmp_path / "embed").mkdir()
    keys = ["r0", "t0", "r1", "t1"]
    write_table(tmp_path / "embed" / "keys.parquet", schema_of(image_key="str"), [{"image_key": key} for key in keys])
    np.save(tmp_path / "embed" / "text.npy", np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32))
    np.save(tmp_path / "embed" / "image.npy", np.array([[1, 0], [0, 1], [0, 1], [1, 0]], np.float32))
    given["embed"] = Artifact.of_folder(tmp_path / "embed")
    _, triplets, rejects = parsed(tmp_path, given, min_direction=0.05)
    assert [row["reference_key"] for row in triplets] == ["r0"]
    assert [row["detail"] for row in rejects] == ["cosine -1.000", "not embedded"]
    with pytest.raises(RequestError, match="needs the input 'embed'"):
        parsed(tmp_path, {name: given[name] for name in ("candidates", "responses")}, min_direction=0.05)


def test_two_parses_give_the_same_bytes(tmp_path: Path) -> None:
    replies = [reply for reply, _ in REASONS] + [(wrapped(answer()), None)] * 4
    files = []
    for name in ("a", "b"):
        parsed(tmp_path / name, inputs(tmp_path / name, replies))
        files.append({path.name: path.read_bytes() for path in (tmp_path / name / "out").iterdir()})
    assert files[0] == files[1]
    assert set(files[0]) == {"triplets.parquet", "rejects.parquet"}


def test_responses_to_other_candidates_are_refused(tmp_path: Path) -> None:
    one, two = inputs(tmp_path / "one", [(None, "x: y")]), inputs(tmp_path / "two", [(None, "x: y")] * 3)
    with pytest.raises(RequestError, match="do not belong together"):
        parsed(tmp_path, {"candidates": one["candidates"], "responses": two["responses"]})


_any_text = st.text(st.characters(codec="utf-8"), max_size=80)
_ANY = st.one_of(
    _any_text.map(wrapped),
    _any_text,
    st.fixed_dictionaries({"instructions": st.lists(_any_text, min_size=3, max_size=3)}).map(
        lambda d: wrapped(answer(**d))
    ),
    st.dictionaries(st.sampled_from(["valid", "reason", "edit_type", "x"]), st.none() | st.booleans() | _any_text).map(
        lambda d: wrapped(answer(**d))
    ),
    st.none(),
)


@settings(max_examples=30)
@given(st.lists(_ANY, min_size=1, max_size=6))
def test_no_answer_makes_the_parser_fail_and_each_is_a_triplet_or_a_reject(
    tmp_path_factory: Any, replies: list[str | None]
) -> None:
    folder = tmp_path_factory.mktemp("parse")
    facts, triplets, rejects = parsed(folder, inputs(folder, [(reply, None) for reply in replies]), per_pair=3)
    touched = {row["response_id"] for row in triplets} | {row["id"].partition("#")[0] for row in rejects}
    assert touched == {f"c{number}:abc" for number in range(len(replies))}
    assert (facts["rows"], facts["rejects"]) == (len(triplets), len(rejects))


def test_the_shipped_specs_load() -> None:
    folder = data_specs() / "triplets"
    assert ParseSpec.load(folder / "parse.toml").max_words == 20
    assert MineSpec.load(folder / "pairs.toml") == MineSpec()
    assert MaskSpec.load(folder / "masks.toml") == MaskSpec()
