"""Every byte of a store against its manifests: what is damaged, missing or left over, and how it is made again."""

import shutil

import pytest

from tests.pipeline.test_chunk_job import WordsSpec, write_words
from tests.support.stored_histories import Attic
from tests.support.toy_pipelines import direct, run_toy, write_toy
from tests.support.toys import ShardsSpec, shards, store_at
from tests.support.url_lists import write_list
from zscir.maintenance import verify as verify_module
from zscir.maintenance.verify import quarantine_artifacts, raise_if_damaged, verify_artifacts
from zscir.pipeline.execute import execute_run, rerun_request
from zscir.pipeline.stage import materialize
from zscir.runtime.errors import DamageError, RequestError
from zscir.store.artifacts import MANIFEST, digest_of_files, manifest_text, parse_manifest
from zscir.store.list_files import sha256_of

FAULT = "a bit that flips in the store"
SPEC = ShardsSpec(shards=3, blocks=1)


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory):
    """A store with a download of two chunks, and after it a run that reused it."""
    folder = tmp_path_factory.mktemp("downloaded")
    store, path = store_at(folder / "store", folder / "cache"), write_list(folder, scenes=40, chunk_rows=20)
    for _ in range(2):
        run_toy(store, path)
    return folder / "store"


def flip(store, path):
    """One bit of a file, as a bad disk does: the size stays."""
    data = bytearray(store.fs.cat_file(path))
    data[len(data) // 2] ^= 1
    store.fs.pipe_file(path, bytes(data))


def states(verified):
    return [(finding.stage, finding.file, finding.state) for finding in verified.findings]


def test_a_whole_store_is_well_and_its_bytes_are_counted(store):
    made = materialize(store, shards, SPEC, {}).artifact
    found = verify_artifacts(store)
    assert (found.artifacts, found.files, found.findings) == (1, 4, [])
    assert found.bytes == sum(entry.size for entry in made.entries.values())
    raise_if_damaged(store, found)


def test_a_flipped_bit_is_found_quarantined_and_made_again(store, measured):
    made = materialize(store, shards, SPEC, {}).artifact
    flip(store, store.address("shards", made.key, "00001.bin"))
    assert store.lookup("shards", made.key).artifact is not None  # a run would reuse it
    found = verify_artifacts(store)
    assert states(found) == [("shards", "00001.bin", "damaged")]
    assert quarantine_artifacts(store, found) == [("shards", made.key)]
    assert states(verify_artifacts(store)) == [("shards", "", "no manifest")]
    again = materialize(store, shards, SPEC, {})
    assert (again.outcome, again.artifact.digest) == ("made", made.digest)
    assert verify_artifacts(store).findings == []
    measured(FAULT, "1 bit of 1 artifact: 1 found, closed and made again, with the same digest")


def test_a_bit_of_a_shared_file_is_read_once_and_quarantines_all_that_share_it(store, monkeypatch):
    whole = materialize(store, write_words, WordsSpec(words=("b", "a")), {}).artifact
    read = []
    name = "_read_remote" if store.remote else "_read_local"
    real = getattr(verify_module, name)
    monkeypatch.setattr(verify_module, name, lambda *words: (read.append(words[-1]), real(*words))[1])
    assert verify_artifacts(store).findings == []
    assert len(read) == len(set(read)) == 7
    flip(store, store.address(whole.entries["00001.txt"].home))
    found = verify_artifacts(store)
    assert states(found) == [("write_word", "word.txt", "damaged"), ("write_words", "00001.txt", "damaged")]
    quarantine_artifacts(store, found)
    assert materialize(store, write_words, WordsSpec(words=("b", "a")), {}).artifact.digest == whole.digest
    assert verify_artifacts(store).findings == []


@pytest.mark.parametrize("named", ["write_words", "write_word"])
def test_a_bit_of_a_shared_file_quarantines_all_that_share_it_whichever_of_them_is_named(store, named, measured):
    spec = WordsSpec(words=("b", "a"))
    whole = materialize(store, write_words, spec, {}).artifact
    other = materialize(store, write_words, WordsSpec(words=("a", "c")), {}).artifact
    sound = materialize(store, write_words, WordsSpec(words=("d",)), {}).artifact
    lender = whole.entries["00001.txt"].home
    flip(store, store.address(lender))
    found = verify_artifacts(store, [whole.key if named == "write_words" else lender.split("/")[1]])
    assert {key for _, key in found.damaged} == {whole.key, other.key, lender.split("/")[1]}
    quarantine_artifacts(store, found)
    assert store.lookup("write_words", sound.key).artifact is not None
    assert materialize(store, write_words, spec, {}).artifact.digest == whole.digest
    assert verify_artifacts(store, [whole.key]).findings == []
    measured(
        FAULT, f"1 bit of a shared file: {len(found.damaged)} artifacts closed, its own and those of 2 that hold it"
    )


def test_a_lender_whose_file_was_made_anew_is_not_called_damaged_with_its_borrower(tmp_path):
    attic = Attic(store_at(tmp_path / "store", tmp_path / "cache"))
    attic.put()
    attic.put(shared=[0])
    anew = attic.artifact(0).path("own.bin")
    anew.write_bytes(anew.read_bytes()[::-1])
    lender = attic.store.read_text("shards", attic.keys[0], MANIFEST)
    old = parse_manifest(lender, "here")
    files = tuple(finding.model_copy(update={"sha256": sha256_of(str(anew))}) for finding in old.files)
    mended = old.model_copy(update={"files": files, "digest": digest_of_files(list(files))})
    attic.store.fs.pipe_file(attic.store.address("shards", attic.keys[0], MANIFEST), manifest_text(mended).encode())
    assert list(verify_artifacts(attic.store, [attic.keys[1]]).damaged) == [("shards", attic.keys[1])]


@pytest.mark.parametrize("named", ["the whole", "the piece", "latest"])
def test_the_commands_of_the_message_mend_a_shard_that_a_chunk_shares_with_its_download(tmp_path, downloaded, named):
    shutil.copytree(downloaded, tmp_path / "store")
    store = store_at(tmp_path / "store", tmp_path / "cache")
    [(_, whole)] = store.list_keys("download")
    lent = next(entry for entry in store.get("download", whole).entries.values() if entry.home)
    flip(store, store.address(lent.home))
    name = {"the whole": whole[:12], "the piece": lent.home.split("/")[1][:12], "latest": "latest"}[named]
    with pytest.raises(DamageError) as damage:
        raise_if_damaged(store, verify_artifacts(store, [name]))
    lines = [
        line.split(" --store ")[0].split() for line in str(damage.value).splitlines() if line.startswith("  zscir ")
    ]
    (_, _, *refs, _), (_, _, run_id) = lines
    assert len(quarantine_artifacts(store, verify_artifacts(store, refs))) == 2
    execute_run(store, rerun_request(store, run_id, None, None, []), direct)
    assert verify_artifacts(store).findings == []


def test_what_is_missing_too_short_unknown_or_without_a_manifest_is_reported(store):
    made = materialize(store, shards, SPEC, {}).artifact
    other = materialize(store, shards, ShardsSpec(shards=1, seed=1), {}).artifact
    folder = store.address("shards", made.key)
    store.fs.rm_file(f"{folder}/00000.bin")
    store.fs.pipe_file(f"{folder}/00001.bin", b"short")
    store.fs.pipe_file(f"{folder}/stray.bin", b"stray")
    store.fs.rm_file(store.address("shards", other.key, MANIFEST))
    found = verify_artifacts(store)
    assert sorted(states(found)) == sorted([
        ("shards", "00000.bin", "missing"), ("shards", "00001.bin", "damaged"), ("shards", "stray.bin", "unknown file"),
        ("shards", "", "no manifest"),
    ])  # fmt: skip
    assert list(found.damaged) == [("shards", made.key)]
    store.fs.pipe_file(f"{folder}/{MANIFEST}", b"{")
    assert ("shards", MANIFEST, "damaged") in states(verify_artifacts(store))


def test_a_part_of_the_store_is_named_by_stage_run_or_key(store, tmp_path):
    run = run_toy(store, write_toy(tmp_path / "specs"))
    alone = materialize(store, shards, SPEC, {}).artifact
    assert verify_artifacts(store).artifacts == 4
    assert verify_artifacts(store, ["latest"]).artifacts == verify_artifacts(store, [run.run_id[:12]]).artifacts == 3
    assert verify_artifacts(store, ["ingest"]).artifacts == 2
    assert verify_artifacts(store, [alone.key[:6], "tabletop", alone.key]).artifacts == 2
    for wrong in ("nothing", "", alone.key[:5], "0" * 64):
        with pytest.raises(RequestError, match=r"is no run with artifacts.*the stages are: ingest, shards, tabletop"):
            verify_artifacts(store, [wrong])


def test_damage_is_reported_with_the_command_that_quarantines_it_and_the_run_that_makes_it_again(store, tmp_path):
    run = run_toy(store, write_toy(tmp_path / "specs"))
    flip(store, store.address("ingest", run.artifacts["short"].key, "pairs.parquet"))
    found = verify_artifacts(store)
    with pytest.raises(DamageError) as damage:
        raise_if_damaged(store, found)
    lines = str(damage.value).splitlines()
    assert lines[0] == "1 of 3 artifacts are damaged:"
    assert lines[-1] == f"  zscir rerun {run.run_id} --store {store.uri}"
    assert f"  zscir verify {run.artifacts['short'].key[:12]} --quarantine --store {store.uri}" in lines
    with pytest.raises(DamageError) as damage:
        raise_if_damaged(store, found, quarantine_artifacts(store, found))
    assert "--quarantine" not in str(damage.value)


def test_an_artifact_that_is_made_again_while_it_is_read_is_not_called_damaged(store, monkeypatch):
    made = materialize(store, shards, SPEC, {}).artifact
    path = store.address("shards", made.key, "00001.bin")
    flip(store, path)
    real = verify_module._check_locations

    def mended_meanwhile(*words):
        yield from real(*words)
        flip(store, path)

    monkeypatch.setattr(verify_module, "_check_locations", mended_meanwhile)
    assert verify_artifacts(store).findings == []


def test_a_file_of_several_blocks_is_read_whole_from_s3(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(verify_module, "READ_BLOCK_BYTES", 1000)
    store = store_at(s3, tmp_path / "cache")
    made = materialize(store, shards, SPEC, {}).artifact
    assert verify_artifacts(store).findings == []
    flip(store, store.address("shards", made.key, "00002.bin"))
    assert states(verify_artifacts(store)) == [("shards", "00002.bin", "damaged")]
