from pathlib import Path
from urllib.parse import urlsplit

from zscir.runtime.schemas import read_rows
from zscir.stages.tabletop import URL_LIST_SCHEMA, tabletop
from zscir.tabletop.spec import TabletopSpec
from zscir.tabletop.web import is_sibling, url_fault, web_caption

SPEC = TabletopSpec(scenes=1500, duplicate_share=0.02, blank_share=0.02, malformed_share=0.02)


def rows_of(folder: Path) -> list[dict]:
    return read_rows(folder / "urls.parquet", URL_LIST_SCHEMA)


def test_the_list_holds_every_scene_and_its_bad_rows_are_counted(tmp_path):
    facts = tabletop(SPEC, out=tmp_path)
    rows = rows_of(tmp_path)
    assert facts["rows"] == len(rows) == 1500 + facts["duplicate"]
    blank = [row for row in rows if not (row["caption"] or "").strip()]
    malformed = [row for row in rows if urlsplit(row["url"] or "").scheme != "http" or not urlsplit(row["url"]).netloc]
    twice = len(rows) - len({(row["url"], row["caption"]) for row in rows if row not in malformed}) - len(malformed)
    assert 15 < len(malformed) < 50
    assert 15 < len(blank) < 50
    assert 15 < twice < 50
    assert facts["siblings"] == sum(is_sibling(SPEC, n) for n in range(1500))


def test_good_rows_are_those_of_the_web(tmp_path):
    tabletop(SPEC, out=tmp_path)
    good = {row["url"]: row["caption"] for row in rows_of(tmp_path) if (row["caption"] or "").strip()}
    for index in range(40):
        caption = good.get(f"http://tabletop.test/0/{index}.jpg")
        assert caption in (None, web_caption(SPEC, index))
    assert sum(f"http://tabletop.test/0/{index}.jpg" in good for index in range(40)) > 30


def test_licences_are_given_for_most_rows(tmp_path):
    tabletop(SPEC, out=tmp_path)
    licences = {row["licence"] for row in rows_of(tmp_path)}
    assert licences == {"CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", None}


def test_equal_specs_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tabletop(SPEC, out=tmp_path / name)
    assert (tmp_path / "a/urls.parquet").read_bytes() == (tmp_path / "b/urls.parquet").read_bytes()


def test_a_longer_list_begins_as_the_shorter_one(tmp_path):
    lists = []
    for scenes in (100, 200):
        folder = tmp_path / str(scenes)
        folder.mkdir()
        tabletop(TabletopSpec(scenes=scenes), out=folder)
        lists.append(rows_of(folder))
    assert lists[1][: len(lists[0])] == lists[0]


def test_broken_rows_are_counted(tmp_path):
    spec = TabletopSpec(scenes=300, missing_share=0.5, blank_share=0.0, malformed_share=0.0)
    facts = tabletop(spec, out=tmp_path)
    assert facts["broken"] == sum(url_fault(spec, index) != "ok" for index in range(300))
