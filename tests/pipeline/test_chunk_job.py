"""Stages that are split: chunks are artifacts of their own, made wherever the mapper puts them."""

import json
import pickle
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.toys import store_at
from zscir.pipeline.chunk_job import ChunkFailed, chunk_job_for, chunk_result_of, run_chunk_job
from zscir.pipeline.stage import Chunk, ChunkResult, ChunkRounds, Stage, materialize, run_chunk, stage, stage_named
from zscir.runtime.errors import RequestError, StageError
from zscir.runtime.schemas import PAIRS_SCHEMA, write_table
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts
from zscir.store.store import Store

PEN: list[str] = []  # what was really written, in this process


class WordsSpec(Spec):
    words: tuple[str, ...]
    bad: str | None = None


class WordSpec(Spec):
    word: str
    bad: bool


@stage(version=3)
def write_word(spec: WordSpec, out: Path) -> Facts:
    PEN.append(spec.word)
    if spec.bad:
        raise ValueError(f"cannot write {spec.word}")
    (out / "word.txt").write_text(spec.word)
    (out / "length.json").write_text(json.dumps(len(spec.word)))
    return {"letters": len(spec.word)}


def split(spec: WordsSpec) -> ChunkRounds:
    first = yield [Chunk(word, write_word, WordSpec(word=word, bad=word == spec.bad), {}) for word in spec.words]
    [last] = yield [Chunk("sum", write_word, WordSpec(word=str(len(first)), bad=False), {})]
    return [*first, last]


@stage(version=1, split=split, shared_suffix=".txt")
def write_words(spec: WordsSpec, chunks: list[Artifact], out: Path) -> Facts:
    (out / "all.txt").write_text(" ".join(chunk.path("word.txt").read_text() for chunk in chunks))
    return {"letters": sum(json.loads(chunk.path("length.json").read_text()) for chunk in chunks)}


@pytest.fixture(autouse=True)
def fresh_pen() -> None:
    PEN.clear()


def in_any_order(store: Store, chunks: Sequence[Chunk]) -> Iterator[ChunkResult]:
    shuffled = random.Random(0).sample(list(chunks), len(chunks))
    with ThreadPoolExecutor(3) as pool:
        yield from pool.map(lambda chunk: run_chunk(store, chunk), shuffled)


def test_chunks_come_in_the_order_of_the_request_whoever_made_them(store: Store) -> None:
    made = materialize(store, write_words, WordsSpec(words=("b", "a", "cc", "d")), {}, in_any_order).artifact
    assert made.path("all.txt").read_text() == "b a cc d 4"
    assert made.facts == {"letters": 6}


def test_shared_files_are_files_of_the_whole_and_lie_where_the_chunk_is(store: Store) -> None:
    made = materialize(store, write_words, WordsSpec(words=("b", "a")), {}).artifact
    assert made.files() == ["00000.txt", "00001.txt", "00002.txt", "all.txt"]
    assert [made.path(name).read_text() for name in made.files()[:3]] == ["b", "a", "2"]
    entry = made.entries["00000.txt"]
    assert entry.home is not None
    assert entry.home.startswith("write_word/")
    assert not store.fs.exists(store.address("write_words", made.key, "00000.txt"))
    assert store.lookup("write_words", made.key, verify=True).problem == ""


def test_a_whole_whose_chunk_is_gone_or_damaged_is_no_hit_and_is_made_again(store: Store) -> None:
    spec = WordsSpec(words=("b", "a"))
    made = materialize(store, write_words, spec, {}).artifact
    home = str(made.entries["00001.txt"].home)
    store.fs.rm_file(store.address(home))
    assert store.lookup("write_words", made.key).problem == "file missing: 00001.txt"
    PEN.clear()
    again = materialize(store, write_words, spec, {})
    assert (again.outcome, PEN) == ("made", ["a"])
    assert again.artifact.digest == made.digest
    with store.fs.open(store.address(home), "wb") as stream:
        stream.write(b"x")
    assert "digest" in store.lookup("write_words", made.key, verify=True).problem


def test_a_chunk_that_fails_costs_that_chunk(store: Store) -> None:
    with pytest.raises(StageError, match=r"1 of 3 chunks failed.*write_word b: ValueError: cannot write b"):
        materialize(store, write_words, WordsSpec(words=("a", "b", "c"), bad="b"), {})
    assert PEN == ["a", "b", "c"]
    PEN.clear()
    materialize(store, write_words, WordsSpec(words=("a", "b", "c")), {})
    assert PEN == ["b", "3"]


def test_one_word_more_costs_one_chunk_and_the_join(store: Store) -> None:
    materialize(store, write_words, WordsSpec(words=("a", "b")), {})
    PEN.clear()
    materialize(store, write_words, WordsSpec(words=("new", "a", "b")), {})
    assert PEN == ["new", "3"]


def test_a_finished_whole_looks_at_no_chunk(store: Store) -> None:
    materialize(store, write_words, WordsSpec(words=("a", "b")), {})
    PEN.clear()
    assert materialize(store, write_words, WordsSpec(words=("a", "b")), {}).outcome == "reused"
    assert PEN == []


def test_the_version_of_a_stage_that_is_split_moves_with_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    download = stage_named("download")
    chunk = stage_named("fetch_chunk")
    before = download.version
    newer = Stage(chunk.name, chunk.declared_version + 1, chunk.function, chunk.spec_type, chunk.roles)
    monkeypatch.setattr("zscir.stages.fetch_chunk.fetch_chunk", newer)
    assert download.version == before + 1


def test_chunks_are_no_role_that_a_pipeline_could_fill() -> None:
    assert [role.name for role in stage_named("download").roles] == ["pairs"]


def test_one_file_of_an_artifact_has_a_digest_of_its_own(tmp_path: Path) -> None:
    for folder, neighbour in (("a", "1"), ("b", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{neighbour}.txt").write_text("same")
        (tmp_path / folder / "other.txt").write_text(neighbour)
    views = [
        Artifact.of_folder(tmp_path / name).single_file(f"{n}.txt", "word.txt") for name, n in (("a", "1"), ("b", "2"))
    ]
    assert views[0].digest == views[1].digest
    assert views[0].path("word.txt").read_text() == "same"
    with pytest.raises(RequestError, match=r"has no file .word\.txt."):
        Artifact.of_folder(tmp_path / "a").single_file("word.txt", "x")


def plan_of(store: Store, folder: Path, rows: int) -> Artifact:
    folder.mkdir()
    pairs = [
        {"pair_id": str(n), "url": f"u{n}", "text": "t", "source": "s", "source_row": n} for n in range(rows)
    ]  # fmt: skip
    write_table(folder / "pairs.parquet", PAIRS_SCHEMA, pairs)
    plan = stage_named("plan_download")
    return materialize(
        store, plan, plan.spec_type.parse({"chunk_rows": 10}, "test"), {"pairs": Artifact.of_folder(folder)}
    ).artifact


def test_a_job_is_json_and_makes_the_same_key_in_another_process(store: Store, tmp_path: Path) -> None:
    plan = plan_of(store, tmp_path / "pairs", 40)
    again = stage_named("list_failed")
    listing = Chunk("p", again, again.spec_type.parse({"chunk_rows": 5}, "test"), {"chunks": []})
    done = run_chunk_job(json.loads(json.dumps(chunk_job_for(store, listing))))
    assert done.key == run_chunk(store, listing).key
    assert (done.outcome, done.name, done.stage) == ("made", "p", "list_failed")
    chunk = stage_named("fetch_chunk")
    fetching = Chunk(
        "c", chunk, chunk.spec_type.parse({}, "t"), {"urls": plan.single_file(plan.files()[0], "urls.parquet")}
    )
    address = json.loads(json.dumps(chunk_job_for(store, fetching)))["inputs"]["urls"]
    assert address == {"stage": "plan_download", "key": plan.key, "only": "00000.parquet", "path": "urls.parquet"}


def test_a_failure_keeps_what_is_known_of_it_on_its_way_between_processes(store: Store, tmp_path: Path) -> None:
    outside = Chunk("x", write_word, WordSpec(word="x", bad=True), {})
    failed = ChunkFailed(run_chunk(store, outside))
    carried = pickle.loads(pickle.dumps(failed))  # noqa: S301 - as a process pool does
    assert chunk_result_of(outside, carried) == failed.result
    lost = chunk_result_of(outside, MemoryError("killed"))
    assert (lost.key, lost.outcome, lost.error) == (None, "failed", "MemoryError: killed")


def test_files_outside_the_store_get_no_job(tmp_path: Path) -> None:
    store = store_at(tmp_path / "store", tmp_path / "cache")
    (tmp_path / "file.txt").write_text("x")
    chunk = Chunk("x", write_word, WordSpec(word="x", bad=False), {"first": Artifact.of_folder(tmp_path / "file.txt")})
    with pytest.raises(StageError, match="outside the store"):
        chunk_job_for(store, chunk)
