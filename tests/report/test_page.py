import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.services import CREDENTIALS, s3_endpoint
from tests.support.small_run import (
    HOSTILE,
    PlainSpec,
    RecordedRun,
    TrainSpec,
    download,
    hostile_page,
    ingest,
    new_store,
    shared_page,
    shared_store,
    train,
)  # fmt: skip
from zscir.report.charts import SERIES_COLOURS
from zscir.report.page import default_report_path, write_report
from zscir.report.templates import TEMPLATES_FOLDER, style_sheet
from zscir.runtime.errors import RequestError
from zscir.stages.mask_triplets import MaskSpec, mask_triplets
from zscir.store.store import Store


class Reader(HTMLParser):
    """What a browser would see: tags with attributes, and the text outside of the style."""

    VOID = ("meta", "img", "br", "wbr", "input")

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open, self.unbalanced = "", [], []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def values(self, attribute: str) -> list[str]:
        return [value or "" for _, attributes in self.tags for name, value in attributes.items() if name == attribute]


@pytest.fixture(scope="module")
def shared() -> Reader:
    return Reader(shared_page())


def test_every_rule_of_the_style_sheet_has_something_to_style() -> None:
    rules = re.sub(r"/\*.*?\*/|\{[^}]*\}", " ", style_sheet(), flags=re.DOTALL)
    sources = [*TEMPLATES_FOLDER.glob("*.j2"), *TEMPLATES_FOLDER.glob("*.py")]
    words = set(re.findall(r"[\w-]+", " ".join(path.read_text() for path in sources)))
    classes = set(re.findall(r"\.([a-z][\w-]*)", rules))
    assert classes - words == {f"c{number}" for number in range(1, len(SERIES_COLOURS) + 1)}  # their numbers are drawn


def test_a_page_has_every_section(shared: Reader) -> None:
    sections = [attributes["id"] for tag, attributes in shared.tags if tag == "section" and "id" in attributes]
    assert sections == [
        "steps", "checks", "scores", "breakdown", "leaderboard", "training", "pictures", "times", "rejects", "versions",
    ]  # fmt: skip
    for words in (
        "ingest",
        "score_tscir",
        "image only",
        "mAP@5",
        "loss 5.04",
        "no_caption",
        "Masked triplets",
        "torch",
    ):
        assert words in shared.text
    assert "cannot be shown" not in shared.text


def test_a_page_needs_nothing_but_itself(shared: Reader) -> None:
    tags = {tag for tag, _ in shared.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "audio", "video", "foreignobject"}
    assert all(value.startswith("data:image/") for value in shared.values("src"))
    assert all(value.startswith("#") for name in ("href", "xlink:href") for value in shared.values(name))
    assert not [name for _, attributes in shared.tags for name in attributes if name.startswith("on")]
    style = re.findall(r"<style>(.*?)</style>", shared_page().read_text(encoding="utf-8"), re.DOTALL)
    assert len(style) == 1
    assert "url(" not in style[0]
    assert "@import" not in style[0]


def test_the_policy_forbids_scripts_and_every_address(shared: Reader) -> None:
    (policy,) = [
        attributes["content"]
        for tag, attributes in shared.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def test_every_picture_has_words_and_every_id_is_its_own(shared: Reader) -> None:
    assert all(attributes.get("alt") for tag, attributes in shared.tags if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in shared.tags if tag == "svg")
    ids = shared.values("id")
    assert len(ids) == len(set(ids))


def test_the_markup_is_balanced(shared: Reader) -> None:
    assert shared.unbalanced == []
    assert shared.open == []
    assert Reader(hostile_page()).unbalanced == []


def test_words_from_outside_stay_words() -> None:
    page = Reader(hostile_page())
    shown = " ".join(page.text.split())
    assert [words for words in HOSTILE if words not in shown] == []
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert [value for value in page.values("src") if not value.startswith("data:image/")] == []
    assert any(HOSTILE[1] in value for value in page.values("alt"))


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    again = write_report(shared_store(), "latest", tmp_path / "again.html")
    assert again.read_bytes() == shared_page().read_bytes()


def test_a_failed_run_begins_with_what_went_wrong() -> None:
    page = Reader(hostile_page())
    text = page.text
    assert "The run failed at 'embed'" in text
    assert "zscir rerun 20260101-130000-bbbbbb" in text
    assert text.index("The run failed") < text.index("Steps of the run")
    assert any(attributes.get("role") == "alert" for _, attributes in page.tags)


def test_a_run_without_benchmarks_says_what_is_missing() -> None:
    run = RecordedRun(new_store("own-data"), "20260101-000000-aaaaaa", parent="20251231-000000-ffffff")
    pairs = run.step("ingest", ingest, PlainSpec())
    images = run.step("download", download, PlainSpec(), pairs=pairs)
    run.step("mask_triplets", mask_triplets, MaskSpec(), images=images)
    run.recorder.finish("succeeded")
    text = Reader(write_report(run.store, "latest", None)).text
    assert "No scores: this run has no evaluation" in text
    assert "No training curves" in text
    assert "No training of this run has read them yet; on the grid of a ViT-B/32" in text
    assert "20251231-000000-ffffff" in text


def test_a_run_that_has_only_begun_has_a_page() -> None:
    run = RecordedRun(new_store("begun"), "20260101-000000-aaaaaa")
    text = Reader(write_report(run.store, "latest", None)).text
    assert "Still running" in text
    assert "No step has started yet." in text


def test_a_damaged_table_costs_its_own_part_only() -> None:
    run = RecordedRun(new_store("damaged"), "20260101-000000-aaaaaa")
    pairs = run.step("ingest", ingest, PlainSpec())
    images = run.step("download", download, PlainSpec(), pairs=pairs)
    checkpoint = run.step("train", train, TrainSpec(method="pli"), data=images)
    run.recorder.finish("succeeded")
    for artifact, name in ((checkpoint, "curve.parquet"), (images, "rejects.parquet")):
        path = artifact.path(name)
        path.write_bytes(os.urandom(path.stat().st_size))
    text = Reader(write_report(run.store, "latest", None)).text
    assert "curve.parquet: not a readable Parquet file" in text
    assert "rejects.parquet: not a readable Parquet file" in text
    assert "a picture of" in text
    assert "duplicate" in text


def test_pictures_that_were_taken_away_leave_the_page_standing() -> None:
    run = RecordedRun(new_store("taken"), "20260101-000000-aaaaaa")
    pairs = run.step("ingest", ingest, PlainSpec())
    images = run.step("download", download, PlainSpec(), pairs=pairs)
    run.step("mask_triplets", mask_triplets, MaskSpec(), images=images)
    run.recorder.finish("succeeded")
    shard = images.path("00000.tar")
    shard.write_bytes(b"\0" * shard.stat().st_size)
    page = Reader(write_report(run.store, "latest", None))
    assert page.values("src") == []
    assert "not_image" in page.text


def test_the_page_is_written_to_the_given_path(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "page.html"
    assert write_report(shared_store(), "latest", path) == path
    assert path.read_bytes() == shared_page().read_bytes()
    assert shared_page() == Path(shared_store().root) / "reports" / "20260101-120000-aaaaaa.html"


def test_a_folder_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="this is a folder"):
        write_report(shared_store(), "latest", tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot write the report there"):
        write_report(shared_store(), "latest", tmp_path / "file" / "page.html")


def test_a_run_on_s3_has_the_same_page_and_brings_no_shard_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": s3_endpoint()}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem().mkdir("reports")
    store = Store("s3://reports/store", tmp_path / "cache")
    run = RecordedRun(store, "20260101-000000-aaaaaa")
    pairs = run.step("ingest", ingest, PlainSpec())
    run.step("download", download, PlainSpec(), pairs=pairs)
    run.recorder.finish("succeeded")
    monkeypatch.chdir(tmp_path)
    other = Store("s3://reports/store", tmp_path / "other-cache")
    assert default_report_path(other, "R") == Path("zscir-report-R.html")
    page = Reader(write_report(other, "latest", None))
    assert len(page.values("src")) == 18
    assert not list((tmp_path / "other-cache").rglob("*.tar"))
