"""Every source that is shipped loads, and reads a small file in exactly the format that its publisher gives it."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from zscir.data.images.shards import write_shard
from zscir.pipeline.input_references import external_input
from zscir.pipeline.pipeline_file import Step, load_pipeline
from zscir.pipeline.pipeline_spec import SourceSpec
from zscir.runtime.schemas import IMAGES_SCHEMA, PAIRS_SCHEMA, REJECTS_SCHEMA, read_rows
from zscir.store.artifacts import Artifact

SPECS = Path(__file__).parents[2] / "data_specs"
URL = "http://a.test/1.jpg?size=z&n=2"
BUS = 'a very typical "bus" station &amp; its caf\u00e9'


def lines(*rows: str) -> str:
    return "".join(row + "\n" for row in rows)


def cc3m(path: Path) -> None:
    path.write_text(lines(f"{BUS}\t{URL}", f"another one , \tand a third field\t{URL}", "a dog\thttp://a.test/2.jpg"))


def cc12m(path: Path) -> None:
    path.write_text(lines(f"{URL}\t{BUS}", "not an address\ta cat", "http://a.test/2.jpg\t<PERSON> and a dog"))


def sbu(path: Path) -> None:
    path.write_text(json.dumps({"image_urls": [URL, "http://a.test/2.jpg"], "user_ids": ["1@N01", "2@N02"],
                                "captions": [BUS, "a dog"]}))  # fmt: skip


def sbu_text(folder: Path) -> None:
    folder.mkdir()
    (folder / "SBU_captioned_photo_dataset_urls.txt").write_text(lines(URL, "http://a.test/2.jpg"))
    (folder / "SBU_captioned_photo_dataset_captions.txt").write_text(lines(f"{BUS} ", "a dog"))
    (folder / "download.m").write_text("% Matlab, as in the archive")


def coco_lists(picture: str = "000000000009.jpg") -> dict[str, Any]:
    """The shape of captions_train2017.json, key by key."""
    return {
        "info": {"description": "COCO 2017 Dataset", "url": "http://cocodataset.org", "version": "1.0", "year": 2017},
        "licenses": [{"url": "http://creativecommons.org/licenses/by/2.0/", "id": 4, "name": "Attribution License"}],
        "images": [
            {"license": 4, "file_name": picture, "coco_url": URL, "height": 427, "width": 640,
             "date_captured": "2013-11-14 11:18:45", "flickr_url": "http://farm9.staticflickr.com/1_z.jpg", "id": 9},
        ],
        "annotations": [
            {"image_id": 9, "id": 1, "caption": f"{BUS}\n"}, {"image_id": 9, "id": 2, "caption": "a dog"},
            {"image_id": 10, "id": 3, "caption": "of a picture that is not listed"},
        ],
    }  # fmt: skip


def coco(path: Path) -> None:
    path.write_text(json.dumps(coco_lists()))


def parquet(columns: dict[str, pa.Array]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        pq.write_table(pa.table(columns), path, compression="snappy")

    return write


TWO_URLS, TWO_TEXTS = [URL, "http://a.test/2.jpg"], [BUS, "a big dog"]
LAION = {
    "SAMPLE_ID": pa.array([1.0, 2.0]), "URL": pa.array(TWO_URLS), "TEXT": pa.array(TWO_TEXTS),
    "HEIGHT": pa.array([480.0, 1.0]), "WIDTH": pa.array([640.0, 1.0]), "LICENSE": pa.array(["?", "?"]),
    "NSFW": pa.array(["UNLIKELY", None]), "similarity": pa.array([0.31, 0.4]),
}  # fmt: skip
RELAION = {
    "url": pa.array(TWO_URLS, pa.large_string()), "caption": pa.array(TWO_TEXTS, pa.large_string()),
    "similarity": pa.array([0.3, 0.3]), "hash": pa.array([1, 2]), "punsafe": pa.array([0.0, 0.1], pa.float32()),
    "pwatermark": pa.array([0.0, 0.1], pa.float32()), "key": pa.array([1, 2]), "status": pa.array(["ok", "ok"]),
}  # fmt: skip
DATACOMP = {
    "uid": pa.array(["0" * 32, "1" * 32]), "url": pa.array(TWO_URLS), "text": pa.array(TWO_TEXTS),
    "original_width": pa.array([980, 1]), "original_height": pa.array([405, 1]),
    "clip_b32_similarity_score": pa.array([0.23, 0.2], pa.float32()),
    "clip_l14_similarity_score": pa.array([0.13, 0.2], pa.float32()),
    "face_bboxes": pa.array([[[0.1, 0.2, 0.3, 0.4]], []], pa.list_(pa.list_(pa.float64()))),
    "sha256": pa.array(["a" * 64, "b" * 64]),
}  # fmt: skip


def own(path: Path) -> None:
    path.write_text('url,text\nhttp://a.test/2.jpg,a dog\n"' + URL + '","' + BUS.replace('"', '""') + '"\n')


# Source -> (where its list is put, who writes it, pairs as (url, text, licence), reasons of its rejects).
WEB: dict[str, tuple[str, Callable[[Path], None], set[tuple[str, str, str | None]], list[str]]] = {
    "cc3m": ("lists/Train_GCC-training.tsv", cc3m,
             {(URL, BUS, "owner's"), ("http://a.test/2.jpg", "a dog", "owner's")}, ["malformed"]),
    "cc12m": ("lists/cc12m.tsv", cc12m,
              {(URL, BUS, "owner's"), ("http://a.test/2.jpg", "<PERSON> and a dog", "owner's")}, ["not_http"]),
    "sbu": ("lists/sbu-captions-all.json", sbu,
            {(URL, BUS, "owner's"), ("http://a.test/2.jpg", "a dog", "owner's")}, []),
    "sbu_text": ("lists/sbu/dataset", sbu_text,
                 {(URL, BUS, "owner's"), ("http://a.test/2.jpg", "a dog", "owner's")}, []),
    "coco": ("lists/coco/captions_train2017.json", coco,
             {(URL, BUS, "Attribution License"), (URL, "a dog", "Attribution License")}, ["malformed"]),
    "laion": ("lists/laion/part-00000-abc-c000.snappy.parquet", parquet(LAION),
              {(URL, BUS, None), ("http://a.test/2.jpg", "a big dog", None)}, []),
    "relaion": ("lists/relaion/part-00000-339dc23d-c000.snappy.parquet", parquet(RELAION),
                {(URL, BUS, None), ("http://a.test/2.jpg", "a big dog", None)}, []),
    "datacomp": ("lists/datacomp_small/0035af9f90f581816acf269df5eb37ad.parquet", parquet(DATACOMP),
                 {(URL, BUS, None), ("http://a.test/2.jpg", "a big dog", None)}, []),
    "own": ("lists/own/mine.csv", own, {(URL, BUS, None), ("http://a.test/2.jpg", "a dog", None)}, []),
}  # fmt: skip


def jpeg(shade: int) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (40, 30), (shade, shade, shade)).save(stream, "JPEG")
    return stream.getvalue()


def placed(folder: Path, name: str) -> Path:
    """A copy of a source that is shipped; its lists lie beside it."""
    (folder / f"{name}.toml").write_bytes((SPECS / "sources" / f"{name}.toml").read_bytes())
    return folder / f"{name}.toml"


def steps_of(pipeline: str, source: Path) -> dict[str, Step]:
    return {step.name: step for step in load_pipeline(SPECS / f"pipelines/{pipeline}.toml", [f"source={source}"]).steps}


def ran(step: Step, folder: Path, **made: Artifact) -> tuple[Artifact, dict[str, Any]]:
    """What a step makes in ``folder``; inputs that are no files are given."""
    out = folder / f"made-{step.name}"
    out.mkdir()
    inputs = {role: made[role] if role in made else external_input(str(given)) for role, given in step.inputs.items()}
    facts = step.stage(step.spec, **inputs, out=out)
    return Artifact.of_folder(out), facts


def pairs_in(artifact: Artifact) -> list[dict[str, Any]]:
    return read_rows(artifact.path("pairs.parquet"), PAIRS_SCHEMA)


@pytest.mark.parametrize("name", WEB)
def test_a_list_of_the_web_is_read_in_its_publishers_format(tmp_path: Path, name: str) -> None:
    place, write, pairs, rejects = WEB[name]
    (tmp_path / place).parent.mkdir(parents=True)
    write(tmp_path / place)
    steps = steps_of("own", placed(tmp_path, name))
    made, facts = ran(steps["ingest"], tmp_path)
    assert {(pair["url"], pair["text"], pair["licence"]) for pair in pairs_in(made)} == pairs
    assert [row["reason"] for row in read_rows(made.path("rejects.parquet"), REJECTS_SCHEMA)] == rejects
    expected = SourceSpec.load(tmp_path / f"{name}.toml").expected_rows
    assert facts.get("expected_rows") == expected
    if expected is not None:
        assert facts["rows_off"] == facts["rows"] + facts["rejects"] - expected < 0
    assert steps["download"].spec.literals()["image_size"] == 256


@pytest.mark.parametrize("name", ["relaion", "datacomp"])
def test_files_beside_the_lists_are_not_taken_for_lists(tmp_path: Path, name: str) -> None:
    place, write, pairs, _ = WEB[name]
    (tmp_path / place).parent.mkdir(parents=True)
    write(tmp_path / place)
    for other in (".part-00000.snappy.parquet.crc", "0035.npz", "part-00000.snappy.parquet.crc", "README.md"):
        ((tmp_path / place).parent / other).write_bytes(b"no list")
    made, _ = ran(steps_of("own", placed(tmp_path, name))["ingest"], tmp_path)
    assert len(pairs_in(made)) == len(pairs)


def llava(folder: Path) -> None:
    (folder / "lists/llava_cc3m").mkdir(parents=True)
    rows = [
        {
            "id": "GCC_train_002582585",
            "image": "GCC_train_002582585.jpg",
            "caption": BUS,
            "url": URL,
            "blip_caption": "x",
        },
        {"id": "GCC_train_000000001", "image": "GCC_train_000000001.jpg", "caption": "a dog", "url": URL},
        {"id": "GCC_train_000000002", "image": "GCC_train_000000002.jpg", "caption": "gone", "url": URL},
    ]
    (folder / "lists/llava_cc3m/metadata.json").write_text(json.dumps(rows))
    put(folder / "images/llava_cc3m", "GCC_train_002582585.jpg", "GCC_train_000000001.jpg")


def coco_local(folder: Path) -> None:
    (folder / "lists/coco").mkdir(parents=True)
    (folder / "lists/coco/captions_train2017.json").write_text(json.dumps(coco_lists()))
    put(folder / "images/coco/train2017", "000000000009.jpg")


def own_images(folder: Path) -> None:
    (folder / "lists").mkdir()
    rows = ["file,caption", '1.jpg,"' + BUS.replace('"', '""') + '"', "sub/2.png,a dog", "../3.jpg,up", "3.jpg,gone"]
    (folder / "lists/own_images.csv").write_text(lines(*rows))
    put(folder / "images/own", "1.jpg", "sub/2.png")


def own_images_txt(folder: Path) -> None:
    put(folder / "images/own", "1.jpg", "sub/2.png", "sub/mute.jpg")
    (folder / "images/own/1.txt").write_text(f"{BUS}\n")
    (folder / "images/own/sub/2.txt").write_text("a dog")
    (folder / "images/own/lonely.txt").write_text("no picture")


def put(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(number * 60))


# Source -> (who writes list and pictures, ok pairs, error classes of others, reasons of rows that are no pair).
LOCAL: dict[str, tuple[Callable[[Path], None], list[tuple[str, str]], list[str], list[str]]] = {
    "llava_cc3m": (llava, [("file:GCC_train_002582585.jpg", BUS), ("file:GCC_train_000000001.jpg", "a dog")],
                   ["not_found"], []),
    "coco_local": (coco_local, [("file:000000000009.jpg", BUS), ("file:000000000009.jpg", "a dog")], [], ["malformed"]),
    "own_images": (own_images, [("file:1.jpg", BUS), ("file:sub/2.png", "a dog")], ["not_found"], ["bad_path"]),
    "own_images_txt": (own_images_txt, [("file:1.jpg", BUS), ("file:sub/2.png", "a dog")], [],
                       ["malformed", "no_text"]),
}  # fmt: skip


@pytest.mark.parametrize("name", LOCAL)
def test_pictures_of_this_machine_are_imported_with_their_captions(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZSCIR_IMPORT_PROCESSES", "1")
    write, good, failed, rejects = LOCAL[name]
    write(tmp_path)
    steps = steps_of("own_images", placed(tmp_path, name))
    pairs, _ = ran(steps["ingest"], tmp_path)
    assert [row["reason"] for row in read_rows(pairs.path("rejects.parquet"), REJECTS_SCHEMA)] == rejects
    made, facts = ran(steps["import_images"], tmp_path, pairs=pairs)
    rows = read_rows(made.path("images.parquet"), IMAGES_SCHEMA)
    assert [(row["url"], row["text"]) for row in rows if row["status"] == "ok"] == good
    assert [row["error_class"] for row in rows if row["status"] != "ok"] == failed
    assert facts["ok"] == len(good)


def test_the_dialogues_of_llava_give_the_same_captions(tmp_path: Path) -> None:
    """chat.json in place of metadata.json, as the source's comment says."""
    llava(tmp_path)
    talk = [
        {"from": "human", "value": "Provide a brief description of the given image.\n<image>"},
        {"from": "gpt", "value": BUS},
    ]
    row = {"id": "GCC_train_002582585", "image": "GCC_train_002582585.jpg", "conversations": talk}
    (tmp_path / "lists/llava_cc3m/chat.json").write_text(json.dumps([row]))
    source = placed(tmp_path, "llava_cc3m")
    source.write_text(source.read_text().replace("llava_cc3m/metadata.json", "llava_cc3m/chat.json")
                      .replace('text_column = "caption"', 'text_column = "conversations.1.value"'))  # fmt: skip
    made, _ = ran(steps_of("own_images", source)["ingest"], tmp_path)
    assert [(pair["url"], pair["text"]) for pair in pairs_in(made)] == [("file:GCC_train_002582585.jpg", BUS)]


def test_tars_of_somebody_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSCIR_IMPORT_PROCESSES", "1")
    (tmp_path / "shards/own").mkdir(parents=True)
    about = json.dumps({"url": URL, "caption": "x", "key": "000000000", "status": "success"}).encode()
    members = [("000000000.jpg", jpeg(0)), ("000000000.json", about), ("000000000.txt", BUS.encode()),
               ("000000001.jpg", jpeg(60)), ("000000001.txt", b"a dog")]  # fmt: skip
    write_shard(tmp_path / "shards/own/00000.tar", members)
    made, facts = ran(steps_of("own_shards", placed(tmp_path, "own_shards"))["import_shards"], tmp_path)
    rows = read_rows(made.path("images.parquet"), IMAGES_SCHEMA)
    assert [(row["url"], row["text"], row["status"]) for row in rows] == [
        (URL, BUS, "ok"), ("file:00000.tar/000000001.jpg", "a dog", "ok"),
    ]  # fmt: skip
    assert facts["rejects"] == 0


def test_the_pipelines_for_own_data_differ_in_how_they_begin_and_in_nothing_else() -> None:
    later_steps = []
    for name, brings in (("own", "download"), ("own_images", "import_images"), ("own_shards", "import_shards")):
        steps = load_pipeline(SPECS / f"pipelines/{name}.toml").steps
        first = next(number for number, step in enumerate(steps) if step.name == brings)
        later_steps.append([
            (step.name, step.spec.literals(), {r: "X" if name == brings else name for r, name in step.inputs.items()})
            for step in steps[first + 1 :]
        ])  # fmt: skip
    assert later_steps[0] == later_steps[1] == later_steps[2]


def test_every_source_that_is_shipped_is_tested_and_says_what_a_user_must_know() -> None:
    shipped = {path.stem: SourceSpec.load(path) for path in sorted((SPECS / "sources").glob("*.toml"))}
    worlds = {name for name, source in shipped.items() if source.tabletop is not None}
    assert shipped.keys() - worlds == WEB.keys() | LOCAL.keys() | {"own_shards"}
    for name, source in shipped.items():
        assert source.about, name
        assert source.licence, name
        text = (SPECS / "sources" / f"{name}.toml").read_text()
        obtained = "https://" in text or "own" in name or name in worlds
        assert obtained, f"{name} does not say where it is obtained"
