from pathlib import Path
from typing import Any

import pytest

from tests.stages.albums import OUTPUTS, download_of, keep_list_of, kept, rejected
from zscir.runtime.errors import RequestError
from zscir.stages.filter_text import FilterTextSpec, filter_text

ENGLISH = [
    "a dog runs across the grass", "red car in front of a house", "woman with an umbrella on the beach at sunset",
    "black dress with long sleeves", "a kitchen with white cupboards", "wooden table with two chairs",
    "a small yellow striped cone on a tiled floor", "has longer sleeves and is more colourful", "red car",
]  # fmt: skip
OTHERS = [
    "ein Hund läuft über die Wiese", "rotes Auto vor dem Haus", "Frau mit Regenschirm am Strand bei Sonnenuntergang",
    "Küche mit weißen Schränken", "un chien court dans le jardin", "voiture rouge devant la maison",
    "une femme assise sur la plage au coucher du soleil", "robe noire à manches longues",
    "un perro corre por el parque", "coche rojo delante de la casa", "vestido negro de manga larga para mujer",
    "mesa de madera con dos sillas", "собака бежит по траве", "красная машина перед домом",
    "一只狗在草地上奔跑", "红色的汽车停在房子前面", "犬が草の上を走っている",
    "un cane corre sul prato", "macchina rossa davanti alla casa", "tavolo in legno con due sedie",
    "een hond rent over het gras", "rode auto voor het huis", "um cachorro correndo na grama",
    "carro vermelho em frente à casa", "pies biegnie po trawie", "czerwony samochód przed domem",
]  # fmt: skip


def run(tmp_path: Path, texts: list[str | list[str]], chosen: list[int] | None = None, **spec: Any) -> dict[str, Any]:
    listed = [[text] if isinstance(text, str) else text for text in texts]
    images = download_of(tmp_path / "images", [b"x"] * len(texts), lambda number: listed[number])
    keep = keep_list_of(tmp_path / "keep", chosen) if chosen is not None else None
    (tmp_path / "out").mkdir()
    facts = filter_text(FilterTextSpec.parse(spec, "t"), images=images, keep=keep, out=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == OUTPUTS
    return facts


def reasons(tmp_path: Path) -> dict[int, str]:
    return {number: reason for number, (reason, _) in rejected(tmp_path / "out").items()}


def test_by_default_captions_of_any_language_stay_and_what_is_no_caption_goes(tmp_path: Path) -> None:
    texts: list[str | list[str]] = [
        *ENGLISH, *OTHERS, "ok", "x" * 1001, "word " * 151, "12345 678-90", "IMG_1234.JPG", "https://a.test/b.jpg?c=d",
        "नीली साड़ी", "BMW X5 2019", "picture at www.a.test and https://a.test/x",
        "many more of these nice pictures at www.a.test",
    ]  # fmt: skip
    facts = run(tmp_path, texts)
    first = len(ENGLISH) + len(OTHERS)
    assert reasons(tmp_path) == {
        first: "short_text", first + 1: "long_text", first + 2: "many_words", first + 3: "few_letters",
        first + 4: "url_like", first + 5: "url_like", first + 8: "url_like",
    }  # fmt: skip
    assert facts["rows"] == len(texts) - 7
    assert rejected(tmp_path / "out")[first] == ("short_text", "2 chars, at least 3: ok")


@pytest.mark.parametrize(
    ("spec", "text", "reason"),
    [
        ({"min_chars": 5}, "four", "short_text"),
        ({"max_chars": 5}, "sixsix", "long_text"),
        ({"min_words": 3}, "two words", "few_words"),
        ({"max_words": 2}, "these are three", "many_words"),
        ({"min_letter_share": 0.6}, "ab 12", "few_letters"),
        ({"max_non_ascii_share": 0.3}, "œufs ñ é", "non_ascii"),
        ({"max_url_share": 0.2}, "a nice picture from photos.example.com", "url_like"),
    ],
)
def test_a_bound_takes_what_is_beyond_it(tmp_path: Path, spec: dict[str, Any], text: str, reason: str) -> None:
    run(tmp_path, [text], **spec)
    assert reasons(tmp_path) == {0: reason}


@pytest.mark.parametrize(
    "text", ["photo by A. Smith", "end of a sentence.Another one", "a 3.5 mm jack", "mr.smith at home", "e.g. a dog"]
)
def test_a_dot_makes_no_address(tmp_path: Path, text: str) -> None:
    run(tmp_path, [text], max_url_share=0.0)
    assert reasons(tmp_path) == {}


def test_an_image_goes_when_one_of_its_captions_does(tmp_path: Path) -> None:
    run(tmp_path, [["a red cube", "x"], ["a blue cube", "a cube in blue"], ["IMG_1.jpg", "x"]])
    assert kept(tmp_path / "out") == [1]
    assert reasons(tmp_path) == {0: "short_text", 2: "url_like"}  # the first caption that fails says why


def test_a_text_of_many_images_says_nothing_about_any(tmp_path: Path) -> None:
    texts: list[str | list[str]] = ["Image not found", "a dog", "image  NOT found", "image not found", "a dog", "a cat"]
    run(tmp_path, texts, max_images_per_text=2)
    assert kept(tmp_path / "out") == [1, 4, 5]
    assert rejected(tmp_path / "out")[2] == ("repeated_text", "on 3 images, at most 2: image  NOT found")


def test_repeats_are_counted_among_the_images_that_earlier_filters_kept(tmp_path: Path) -> None:
    facts = run(tmp_path, ["a dog"] * 4 + ["a cat"], chosen=[0, 1, 4], max_images_per_text=2)
    assert (facts["images"], kept(tmp_path / "out")) == (3, [0, 1, 4])


def test_texts_in_other_languages_go_when_languages_are_named(tmp_path: Path) -> None:
    run(tmp_path, [*ENGLISH, *OTHERS], languages=["en"])
    assert kept(tmp_path / "out") == list(range(len(ENGLISH)))
    assert set(reasons(tmp_path).values()) == {"other_language"}
    _, detail = rejected(tmp_path / "out")[len(ENGLISH)]
    assert detail == "en: 0.0000, rather de: ein Hund läuft über die Wiese"


def test_several_languages_may_be_named(tmp_path: Path) -> None:
    run(tmp_path, [ENGLISH[0], OTHERS[0], OTHERS[4], OTHERS[14]], languages=["en", "de"])
    assert kept(tmp_path / "out") == [0, 1]


def test_an_unknown_language_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"languages \['english'\] are not known; there are \['ace', 'af'"):
        run(tmp_path, ["a dog"], languages=["english"])


@pytest.mark.parametrize("spec", [{"min_words": 5, "max_words": 4}, {"languages": []}, {"min_letter_share": 1.1}])
def test_bounds_that_make_no_sense_are_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        FilterTextSpec.parse(spec, "t")
