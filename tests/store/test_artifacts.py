import json
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.runtime.errors import RequestError, StageError
from zscir.runtime.specs import Spec, canonical_json, json_digest
from zscir.store.artifacts import (
    Artifact,
    DamagedManifest,
    FileEntry,
    Manifest,
    atomic_path,
    check_file_types,
    digest_of_files,
    make_key,
    manifest_text,
    parse_manifest,
    remove_scratch_files,
    scan_folder,
)  # fmt: skip

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
ABC_SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


class NoSpec(Spec):
    steps: int = 1


def a_manifest(**changes):
    files = (FileEntry(path="a.bin", size=3, sha256=ABC_SHA256),)
    parts = {
        "stage": "toy",
        "stage_version": 1,
        "key": make_key("toy", 1, NoSpec(), {}),
        "digest": digest_of_files(list(files)),
        "spec": NoSpec().literals(),
        "inputs": {},
        "files": files,
        "facts": {"rows": 1},
    }
    return Manifest(**(parts | changes))


def test_a_scan_lists_names_sizes_and_digests_in_order(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.bin").write_bytes(b"")
    (tmp_path / "a.bin").write_bytes(b"abc")
    found = [(entry.path, entry.size, entry.sha256) for entry in scan_folder(tmp_path)]
    assert found == [("a.bin", 3, ABC_SHA256), ("deep/b.bin", 0, EMPTY_SHA256)]


def test_a_scan_leaves_out_half_written_and_hidden_files(tmp_path):
    (tmp_path / ".hidden").mkdir()
    for name in ("a.bin", "b.bin.part", ".dot", ".hidden/c.bin"):
        (tmp_path / name).write_bytes(b"abc")
    assert [entry.path for entry in scan_folder(tmp_path)] == ["a.bin"]


def test_the_content_digest_is_over_sorted_names_sizes_and_digests():
    entries = [FileEntry(path="b", size=0, sha256=EMPTY_SHA256), FileEntry(path="a", size=3, sha256=ABC_SHA256)]
    by_hand = [["a", 3, ABC_SHA256], ["b", 0, EMPTY_SHA256]]
    assert digest_of_files(entries) == json_digest(by_hand)
    assert digest_of_files(entries) == digest_of_files(entries[::-1])


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../up", "a/../../b", "..", ".", "", "a\\b", "./a", "a//b", "a/./b", "a/", "a\0b"]
)
def test_a_file_name_that_could_leave_its_artifact_is_refused(name):
    with pytest.raises(ValueError, match="inside its artifact"):
        FileEntry(path=name, size=0, sha256=EMPTY_SHA256)


@given(st.text(min_size=1, max_size=20))
def test_an_accepted_file_name_always_stays_inside(name):
    try:
        entry = FileEntry(path=name, size=0, sha256=EMPTY_SHA256)
    except ValueError:
        return
    inside = os.path.normpath(os.path.join("/store/stage/key", entry.path))
    assert inside == f"/store/stage/key/{name}"


def test_a_manifest_says_the_same_in_the_same_bytes():
    text = manifest_text(a_manifest())
    assert text.endswith("\n")
    assert canonical_json(json.loads(text)) + "\n" == text
    assert manifest_text(parse_manifest(text, "here")) == text


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"stage": "toy"}', '"format"', "\ufffd\ufffd"])
def test_a_file_that_is_no_manifest_is_damaged(text):
    with pytest.raises(DamagedManifest, match="here: manifest damaged"):
        parse_manifest(text, "here")


def test_a_manifest_truncated_anywhere_is_damaged():
    text = manifest_text(a_manifest()).rstrip("\n")
    for end in range(0, len(text), 7):
        with pytest.raises(DamagedManifest):
            parse_manifest(text[:end], "here")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"spec": {"steps": 2}}, "do not give its key"),
        ({"stage_version": 2}, "do not give its key"),
        ({"key": "0" * 64}, "do not give its key"),
        ({"files": ()}, "do not give its digest"),
        ({"digest": "0" * 64}, "do not give its digest"),
    ],
)
def test_a_manifest_whose_parts_do_not_belong_together_is_damaged(change, reason):
    with pytest.raises(DamagedManifest, match=reason):
        parse_manifest(manifest_text(a_manifest(**change)), "here")


def test_a_manifest_that_names_a_file_outside_is_damaged():
    values = json.loads(manifest_text(a_manifest()))
    values["files"][0]["path"] = "../../../etc/passwd"
    with pytest.raises(DamagedManifest, match="inside its artifact"):
        parse_manifest(canonical_json(values), "here")


def test_a_manifest_of_a_newer_zscir_is_not_taken_for_a_damaged_one():
    values = json.loads(manifest_text(a_manifest())) | {"format": 2, "novelty": True}
    with pytest.raises(RequestError, match="upgrade") as caught:
        parse_manifest(canonical_json(values), "here")
    assert not isinstance(caught.value, DamagedManifest)


def test_a_finished_file_appears_whole_under_its_name(tmp_path):
    with atomic_path(tmp_path / "deep" / "a.bin") as part:
        part.write_bytes(b"abc")
        assert not (tmp_path / "deep" / "a.bin").exists()
    assert (tmp_path / "deep" / "a.bin").read_bytes() == b"abc"
    assert os.listdir(tmp_path / "deep") == ["a.bin"]


def test_a_file_that_fails_leaves_the_old_one_and_no_part(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"old")

    def half():
        with atomic_path(tmp_path / "a.bin") as part:
            part.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_sweep_takes_leftovers_and_leaves_finished_files(tmp_path):
    (tmp_path / "deep" / ".hidden" / "deeper").mkdir(parents=True)
    (tmp_path / "folder.part").mkdir()
    names = ["a.bin", "b.bin.part", "deep/c.bin", "deep/d.part", "deep/.e", "deep/.hidden/deeper/f", "folder.part/g"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".link").symlink_to("/etc")
    remove_scratch_files(tmp_path)
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["a.bin", "deep/c.bin"]
    assert os.path.isdir("/etc")


def test_a_stage_may_leave_neither_links_nor_a_manifest(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"abc")
    check_file_types(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "a.bin")
    with pytest.raises(StageError, match="symbolic link"):
        check_file_types(tmp_path)
    (tmp_path / "link").unlink()
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(StageError, match=r"manifest\.json"):
        check_file_types(tmp_path)


def test_a_folder_from_outside_is_an_artifact_known_by_its_contents(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.bin").write_bytes(b"abc")
    os.utime(tmp_path / "two" / "a.bin", (0, 0))
    os.chmod(tmp_path / "two" / "a.bin", stat.S_IRUSR)
    one, two = Artifact.of_folder(tmp_path / "one"), Artifact.of_folder(tmp_path / "two")
    assert one.digest == two.digest
    assert one.files() == ["a.bin"]
    assert one.path("a.bin").read_bytes() == b"abc"
    (tmp_path / "two" / "b.bin").write_bytes(b"")
    assert Artifact.of_folder(tmp_path / "two").digest != one.digest


def test_a_single_file_from_outside_is_an_artifact_too(tmp_path):
    (tmp_path / "urls.csv").write_bytes(b"abc")
    (tmp_path / "other.csv").write_bytes(b"")
    artifact = Artifact.of_folder(tmp_path / "urls.csv")
    assert artifact.files() == ["urls.csv"]
    assert artifact.files(".tsv") == []


def test_a_link_to_a_file_from_outside_counts_as_the_file(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "real.bin").write_bytes(b"abc")
    (tmp_path / "data" / "a.bin").symlink_to(tmp_path / "real.bin")
    assert [(entry.path, entry.sha256) for entry in scan_folder(tmp_path / "data")] == [("a.bin", ABC_SHA256)]


@pytest.mark.parametrize("target", ["nowhere", "folder"])
def test_a_link_from_outside_that_is_no_file_is_refused_and_not_passed_over(tmp_path, target):
    (tmp_path / "data").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "data" / "a").symlink_to(tmp_path / target)
    with pytest.raises(RequestError, match="does not lead to a file"):
        Artifact.of_folder(tmp_path / "data")


def test_what_is_not_there_is_no_artifact(tmp_path):
    with pytest.raises(RequestError, match="no such file or folder"):
        Artifact.of_folder(tmp_path / "no")


def test_a_file_that_an_artifact_does_not_have_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"abc")
    with pytest.raises(RequestError, match=r"no file 'b\.bin'; it has \['a\.bin'\]"):
        Artifact.of_folder(tmp_path).path("b.bin")
