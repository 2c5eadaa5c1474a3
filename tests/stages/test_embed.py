import io
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.methods import tiny
from zscir.data.images.shards import write_shard
from zscir.methods.build import new_method
from zscir.methods.checkpoint import load_method, save_checkpoint
from zscir.methods.image_squares import decode_to_square
from zscir.methods.specs import ArchitectureSpec, ClipSpec, ModelPixelSpec, TextSpec, VisionSpec
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import IMAGES_SCHEMA, KEEP_SCHEMA, REJECTS_SCHEMA, read_rows, schema_of, write_table
from zscir.stages import embed as module
from zscir.stages.embed import EmbedSpec, embed
from zscir.store.artifacts import Artifact

CAPTIONS = ["a red cube", "a blue ring on sand", "two green stars", "a white cone", "a red ring", "a blue star"]


def jpeg(number: int) -> bytes:
    rng = np.random.default_rng(number)
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (20 + number, 24, 3), dtype=np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    torch.set_num_threads(1)
    spec = ClipSpec(
        pixels=ModelPixelSpec(size_px=16, fit="warp"),
        architecture=ArchitectureSpec(
            embed_dim=8,
            vision=VisionSpec(patch_px=8, width=16, layers=1, head_width=8),
            text=TextSpec(context_length=16, width=16, heads=2, layers=1),
            tokenizer="compact",
        ),
    )
    folder = tmp_path_factory.mktemp("backbone")
    save_checkpoint(new_method(spec, 0, None, None, CAPTIONS), folder)
    return Artifact.of_folder(folder)


def images(folder: Path, count: int = 6, damaged: tuple[int, ...] = (), failed: tuple[int, ...] = (),
           repeated: tuple[int, ...] = ()) -> Artifact:  # fmt: skip
    """A download of ``count`` images in two shards; damaged ones are no JPEG, repeated ones have a second caption."""
    folder.mkdir()
    keys = [sha256(f"http://a.test/{number}".encode()).hexdigest() for number in range(count)]
    placed: dict[int, dict[str, Any]] = {}
    for shard, numbers in (("00000.tar", range(count // 2)), ("00001.tar", range(count // 2, count))):
        data = [b"no image at all" if n in damaged else jpeg(n) for n in numbers]
        spans = write_shard(folder / shard, [(f"{keys[n]}.jpg", one) for n, one in zip(numbers, data, strict=True)])
        placed |= {n: {"shard": shard, "offset": s.offset, "size": s.size} for n, s in zip(numbers, spans, strict=True)}
    rows = []
    for n in [*range(count), *repeated]:
        row = {"image_key": keys[n], "pair_id": f"{len(rows):032d}", "url": f"http://a.test/{n}", "attempts": 1,
               "text": CAPTIONS[n] if len(rows) < count else "another caption"}  # fmt: skip
        rows.append(row | ({"status": "failed"} if n in failed else {"status": "ok", **placed[n]}))
    write_table(folder / "images.parquet", IMAGES_SCHEMA, rows)
    return Artifact.of_folder(folder)


def embedded(out: Path, given: Artifact, backbone: Artifact, **spec: Any) -> tuple[Any, list[str], Any, Any]:
    out.mkdir(exist_ok=True)
    facts = embed(EmbedSpec.parse(spec, "t"), images=given, backbone=backbone, out=out)
    keys = [row["image_key"] for row in read_rows(out / "keys.parquet", schema_of(image_key="str"))]
    return facts, keys, np.load(out / "image.npy"), np.load(out / "text.npy")


def test_vectors_are_the_backbone_s_own_in_the_order_of_the_pairs(tmp_path: Path, backbone: Artifact) -> None:
    given = images(tmp_path / "images")
    facts, keys, image, text = embedded(tmp_path / "out", given, backbone, batch_size=4)
    method = load_method(backbone)
    assert keys == [sha256(f"http://a.test/{n}".encode()).hexdigest() for n in range(6)]
    assert image.dtype == text.dtype == np.float32
    assert np.allclose(np.linalg.norm(image, axis=1), 1, atol=1e-6)
    for n in range(6):
        pixels = torch.from_numpy(decode_to_square(jpeg(n), method.pixels, "test"))[None]
        assert np.allclose(image[n], method.gallery(pixels)[0].numpy(), atol=1e-5)
    assert np.allclose(text, method.embed_texts(CAPTIONS).numpy(), atol=1e-5)  # type: ignore[union-attr]
    assert facts == {"rows": 6, "rejects": 0, "width": 8}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "image.npy", "keys.parquet", "rejects.parquet", "text.npy",
    ]  # fmt: skip


def test_damaged_images_are_rejects_and_missing_ones_are_left_out(tmp_path: Path, backbone: Artifact) -> None:
    given = images(tmp_path / "images", damaged=(1, 4), failed=(2,), repeated=(0,))
    facts, keys, image, text = embedded(tmp_path / "out", given, backbone, shard_rows=2)
    assert keys == [sha256(f"http://a.test/{n}".encode()).hexdigest() for n in (0, 3, 5)]
    assert image.shape == text.shape == (3, 8)
    rejects = read_rows(tmp_path / "out" / "rejects.parquet", REJECTS_SCHEMA)
    assert [row["reason"] for row in rejects] == ["not_image", "not_image"]
    assert rejects[0]["id"] == sha256(b"http://a.test/1").hexdigest()
    assert facts == {"rows": 3, "rejects": 2, "width": 8}


def test_a_crashed_run_goes_on_after_its_last_whole_shard(
    tmp_path: Path, backbone: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = images(tmp_path / "images")
    embedded(tmp_path / "whole", given, backbone, shard_rows=2)
    saved: list[str] = []
    original = module._Encoder.save

    def dying(self: Any, path: Path, rows: Any) -> None:
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(path.name)
        original(self, path, rows)

    monkeypatch.setattr(module._Encoder, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        embedded(tmp_path / "crashed", given, backbone, shard_rows=2)
    saved.clear()
    embedded(tmp_path / "crashed", given, backbone, shard_rows=2)
    assert saved == ["vectors-00002.npz"]
    for name in ("image.npy", "text.npy", "keys.parquet", "rejects.parquet"):
        assert (tmp_path / "crashed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_only_the_images_that_a_filter_kept_are_embedded(tmp_path: Path, backbone: Artifact) -> None:
    given = images(tmp_path / "images", failed=(2,))
    _, _, image, text = embedded(tmp_path / "all", given, backbone)
    chosen = [sha256(f"http://a.test/{n}".encode()).hexdigest() for n in (1, 4)]
    (tmp_path / "keep").mkdir()
    write_table(tmp_path / "keep" / "keep.parquet", KEEP_SCHEMA, [{"image_key": key} for key in chosen])
    (tmp_path / "out").mkdir()
    keep = Artifact.of_folder(tmp_path / "keep")
    facts = embed(EmbedSpec(), images=given, backbone=backbone, keep=keep, out=tmp_path / "out")
    assert facts == {"rows": 2, "rejects": 0, "width": 8}
    assert read_rows(tmp_path / "out" / "keys.parquet", KEEP_SCHEMA) == [{"image_key": key} for key in chosen]
    assert np.allclose(np.load(tmp_path / "out" / "image.npy"), image[[1, 3]], atol=1e-6)
    assert np.allclose(np.load(tmp_path / "out" / "text.npy"), text[[1, 3]], atol=1e-6)


def test_no_images_give_empty_vectors(tmp_path: Path, backbone: Artifact) -> None:
    facts, keys, image, _ = embedded(tmp_path / "out", images(tmp_path / "images", failed=tuple(range(6))), backbone)
    assert (facts["rows"], keys, image.shape) == (0, [], (0, 8))


def test_a_folder_that_is_no_checkpoint_is_a_request_error(tmp_path: Path) -> None:
    given = images(tmp_path / "images")
    with pytest.raises(RequestError):
        embedded(tmp_path / "out", given, given)


def test_a_batch_that_does_not_fit_is_embedded_in_halves(tmp_path: Path, backbone: Artifact) -> None:
    given = images(tmp_path / "images")
    _, keys, image, text = embedded(tmp_path / "at-once", given, backbone)
    with tiny.little_memory(2) as refused:
        _, found, *vectors = embedded(tmp_path / "in-halves", given, backbone)
    assert refused == {torch.nn.Conv2d, torch.nn.Embedding}
    assert found == keys
    np.testing.assert_allclose(vectors, [image, text], atol=1e-6)
