from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.methods.tokenizer import ClipTokenizer, CompactTokenizer, bpe_ids
from zscir.runtime.errors import RequestError

COMPACT = CompactTokenizer.of_corpus(["a red ball on the snow"])


def test_clip_ids_are_the_published_ones() -> None:
    # "a photo of a cat" in OpenAI's CLIP.
    assert ClipTokenizer()(["a photo of a cat"], 77)[0].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]


@pytest.mark.parametrize("tokenizer", [ClipTokenizer(), COMPACT])
def test_the_star_is_one_known_token_at_index_four(tokenizer: ClipTokenizer | CompactTokenizer) -> None:
    ids = tokenizer(["a photo of *", "a photo of * that is red", "a photo of * , that is red"], 77)
    assert (ids[:, 4] == tokenizer.star_id).all()
    assert (ids == tokenizer.star_id).sum().item() == 3


@pytest.mark.parametrize("tokenizer", [ClipTokenizer(), COMPACT])
@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_every_row_ends_once_and_the_end_is_its_largest_id(
    tokenizer: ClipTokenizer | CompactTokenizer, texts: list[str]
) -> None:
    ids = tokenizer(texts, 16)
    assert ids.shape[1] <= 16
    assert ((ids == tokenizer.end_id).sum(dim=1) == 1).all()
    assert (ids.argmax(dim=1) == (ids == tokenizer.end_id).int().argmax(dim=1)).all()
    assert ids.max().item() < tokenizer.vocab_size


def test_known_words_keep_their_own_ids_and_others_share_buckets() -> None:
    known = COMPACT(["red snow ball"], 16)[0, 1:-1].tolist()
    assert len(set(known)) == 3
    assert max(known) <= len(COMPACT.known)
    other = COMPACT(["zebra"], 16)[0, 1].item()
    assert other == 1 + len(COMPACT.known) + bpe_ids("zebra")[0] % 64


def test_a_vocabulary_survives_its_file(tmp_path: Path) -> None:
    COMPACT.save(tmp_path / "vocab.json")
    assert CompactTokenizer.load(tmp_path / "vocab.json") == COMPACT


def test_a_damaged_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"known": ["x"]}')
    with pytest.raises(RequestError, match=r"vocab\.json"):
        CompactTokenizer.load(tmp_path / "vocab.json")
