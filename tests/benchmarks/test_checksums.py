from pathlib import Path

import pytest

from zscir.benchmarks.checksums import official_checksums, require_official
from zscir.errors import RequestError

FACTS = Path(__file__).resolve().parents[2] / "data_specs" / "benchmarks"
CLONES = {"fashioniq": "FashionIQ", "cirr": "CIRR", "circo": "CIRCO", "genecis": "GeneCIS"}


@pytest.mark.parametrize("name", sorted(CLONES))
def test_the_real_annotations_have_the_checksums_of_the_specs(shared: Path, name: str) -> None:
    checksums = official_checksums(FACTS / f"{name}.toml")
    root = shared / "annotations" / CLONES[name]
    require_official(root, checksums, "")
    assert any((root / file).is_file() for file in checksums)


def test_an_altered_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "captions/cap.toptee.val.json"
    path.parent.mkdir()
    path.write_text("[]")
    with pytest.raises(RequestError, match=r"captions/cap.toptee.val.json: sha256 4f53cda18c2baa0c.*b4e09f428e6c255c"):
        require_official(tmp_path, official_checksums(FACTS / "fashioniq.toml"), "git clone")


def test_a_folder_that_holds_a_clone_is_searched_and_an_empty_one_is_refused(shared: Path, tmp_path: Path) -> None:
    checksums = official_checksums(FACTS / "circo.toml")
    require_official(shared / "annotations", checksums, "")
    with pytest.raises(RequestError, match=r"none of the official annotation files is there. Get them: git clone"):
        require_official(tmp_path, checksums, "git clone")
    with pytest.raises(RequestError, match="none of the official annotation files"):
        require_official(tmp_path / "nowhere", checksums, "git clone")


@pytest.mark.parametrize("content", ["", "sha256 = 3", "[sha256\n", "[sha256]\na = 1"])
def test_facts_without_checksums_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.toml").write_text(content)
    with pytest.raises(RequestError, match=r"x\.toml"):
        official_checksums(tmp_path / "x.toml")
    with pytest.raises(RequestError, match="cannot be read"):
        official_checksums(tmp_path / "y.toml")
