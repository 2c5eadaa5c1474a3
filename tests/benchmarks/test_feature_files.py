"""Features made elsewhere, complete or not: what is scored, what is refused, and what the table says."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zscir.benchmarks import load_benchmark
from zscir.benchmarks.feature_files import FeatureFiles, FeatureScores, ScoreRequest, score_files
from zscir.runtime.errors import RequestError

IDS = ["d-2", "d-1", "d-0", "d-3", "d-4"]
MEMBERS = ["d-0", "d-1", "d-2", "d-3", "d-4"]
QUERIES = [("d-0", "d-2"), ("d-1", "d-3"), ("d-2", "d-4")]
CIRCO_IDS = [5, 9, 7, 1, 3]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """CIRR with three queries and CIRCO with one, both over five images, and features of them all."""
    for folder in ("captions", "image_splits", "annotations"):
        (tmp_path / folder).mkdir()
    hidden = [
        {"pairid": 10 + n, "reference": reference, "caption": "two", "img_set": {"id": 1, "members": MEMBERS}}
        for n, (reference, _) in enumerate(QUERIES)
    ]
    shown = [{**entry, "target_hard": target} for entry, (_, target) in zip(hidden, QUERIES, strict=True)]
    for split, entries in (("val", shown), ("test1", hidden)):
        write(tmp_path / f"captions/cap.rc2.{split}.json", entries)
        write(tmp_path / f"image_splits/split.rc2.{split}.json", dict.fromkeys(IDS, "x"))
    entry = {"reference_img_id": 5, "relative_caption": "is blue", "shared_concept": "a car", "id": 0}
    answers = {"target_img_id": 7, "gt_img_ids": [7, 3], "semantic_aspects": ["addition"]}
    write(tmp_path / "annotations/test.json", [entry])
    write(tmp_path / "annotations/val.json", [{**entry, **answers}])
    rng = np.random.default_rng(0)
    np.save(tmp_path / "q.npy", rng.standard_normal((3, 4)).astype(np.float32))
    np.save(tmp_path / "q1.npy", rng.standard_normal((1, 4)).astype(np.float32))
    np.save(tmp_path / "g.npy", rng.standard_normal((5, 4)).astype(np.float16))
    return tmp_path


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def cirr(root: Path, split: str = "val", *, out: Path | None = None, fields: Any = None, **files: Any) -> FeatureScores:
    given = FeatureFiles(**{"queries": root / "q.npy", "gallery": root / "g.npy", **files})
    return score_files(ScoreRequest("cirr", root, split, **(fields or {})), given, "searle", "mine", submission_out=out)


def circo(root: Path, split: str = "val", *, out: Path | None = None, **files: Any) -> FeatureScores:
    given = FeatureFiles(**{"queries": root / "q1.npy", "gallery": root / "g.npy", **files})
    return score_files(ScoreRequest("circo", root, split), given, submission_out=out)


def numbers(outcome: FeatureScores) -> dict[str, float]:
    return {row.metric: row.value for row in outcome.scores}


def test_features_in_files_become_rows_with_n_hits_and_interval(root: Path) -> None:
    outcome = cirr(root)
    first = outcome.scores[0]
    assert (first.benchmark, first.split, first.protocol, first.method) == ("cirr", "val", "official/searle", "mine")
    assert (first.metric, first.n) == ("R@1", 3)
    assert outcome.scores[-1].metric == "mean(R@5,Rsub@1)"
    assert list(first.score_row()) == ["benchmark", "split", "protocol", "method", "backbone", "metric", "value", "n"]
    expected = load_benchmark("cirr", root).score_features(np.load(root / "q.npy"), np.load(root / "g.npy"))
    assert {metric: numbers(outcome)[metric] for metric in expected} == expected
    assert (outcome.missing, outcome.missing_ids) == (0, [])


def test_a_split_without_answers_gives_submission_files_only(root: Path) -> None:
    with pytest.raises(RequestError, match="name a folder for the submission files"):
        cirr(root, "test1")
    assert cirr(root, "test1", out=root / "out").scores == []
    found = json.loads((root / "out/cirr_test1_recall.json").read_text())
    assert sorted(found["10"]) == ["d-1", "d-2", "d-3", "d-4"]


@pytest.mark.parametrize("as_lines", [True, False])
def test_rows_in_another_order_score_the_same_when_their_ids_are_given(root: Path, as_lines: bool) -> None:
    order, queries = [3, 0, 4, 2, 1], [2, 0, 1]
    np.save(root / "g2.npy", np.load(root / "g.npy")[order])
    np.save(root / "q2.npy", np.load(root / "q.npy")[queries])
    ids, named = [IDS[i] for i in order], [10 + i for i in queries]
    images = write(root / "ids", "\n".join(ids) + "\n\n" if as_lines else ids)
    rows = write(root / "rows", "\n".join(map(str, named)) if as_lines else named)
    files = {"queries": root / "q2.npy", "gallery": root / "g2.npy", "gallery_ids": images, "query_ids": rows}
    assert cirr(root, **files) == cirr(root)


def test_rows_of_images_that_are_not_ranked_are_left_out(root: Path) -> None:
    gallery = np.load(root / "g.npy")
    np.save(root / "g2.npy", np.concatenate([gallery[:2], np.full((1, 4), np.nan), gallery[2:]]))
    ids = write(root / "ids.json", [*IDS[:2], "another", *IDS[2:]])
    assert cirr(root, gallery=root / "g2.npy", gallery_ids=ids) == cirr(root)


def test_images_without_a_row_are_listed_and_counted(root: Path) -> None:
    np.save(root / "g2.npy", np.load(root / "g.npy")[[1, 2, 4]])
    files = {"gallery": root / "g2.npy", "gallery_ids": write(root / "ids.json", ["d-1", "d-0", "d-4"])}
    words = (
        r"cirr val \(official\): 2 of 5 images are missing .*, none may be missing \(allow_missing\): "
        r"d-2 \(no row\), d-3 \(no row\)\. benchmarks/cirr.toml says where to get them: NLVR2's"
    )
    with pytest.raises(RequestError, match=words.replace("benchmarks/cirr", r"\S*benchmarks/cirr")):
        cirr(root, **files)
    with pytest.raises(RequestError, match=r"2 of 5 images are missing .*, 1 may be missing"):
        cirr(root, **files, allow_missing=1)


def test_a_long_list_of_missing_images_is_cut_at_ten(root: Path) -> None:
    ids = [f"d-{n}" for n in range(30)]
    write(root / "image_splits/split.rc2.val.json", dict.fromkeys(ids, "x"))
    np.save(root / "g.npy", np.ones((5, 4)))
    with pytest.raises(RequestError, match=r"25 of 30 images .*: d-5 \(no row\), .*d-14 \(no row\) and 15 more\. "):
        cirr(root, gallery_ids=write(root / "ids.json", ids[:5]))


def test_what_may_be_missing_shrinks_n_and_stands_in_the_protocol(root: Path) -> None:
    gallery, queries = np.load(root / "g.npy"), np.load(root / "q.npy")
    np.save(root / "g2.npy", gallery[[0, 1, 2, 4]])
    ids = write(root / "ids.json", ["d-2", "d-1", "d-0", "d-4"])
    outcome = cirr(root, gallery=root / "g2.npy", gallery_ids=ids, allow_missing=3)
    assert (outcome.missing, outcome.missing_ids) == (1, ["d-3"])
    assert {row.protocol for row in outcome.scores} == {"official without 1 images/searle"}
    assert {row.n for row in outcome.scores} == {2}  # d-3 is the second query's target
    left = load_benchmark("cirr", root).without_images({"d-3"})
    expected = left.score_features(queries[[0, 2]], gallery[[0, 1, 2, 4]])
    assert {metric: numbers(outcome)[metric] for metric in expected} == expected


def test_allowing_what_is_not_missing_changes_nothing(root: Path) -> None:
    assert cirr(root, allow_missing=4) == cirr(root)


def test_a_query_needs_no_row_when_its_reference_or_target_is_missing(root: Path) -> None:
    np.save(root / "g2.npy", np.load(root / "g.npy")[[0, 1, 2, 4]])
    np.save(root / "q2.npy", np.load(root / "q.npy")[[2, 0]])
    ids = write(root / "ids.json", ["d-2", "d-1", "d-0", "d-4"])
    files = {"gallery": root / "g2.npy", "gallery_ids": ids, "allow_missing": 1}
    some = cirr(root, queries=root / "q2.npy", query_ids=write(root / "rows", "12\n10"), **files)
    assert some == cirr(root, **files)
    with pytest.raises(RequestError, match=r"1 of 2 queries have no row in .*rows: 12\. Make their features"):
        cirr(root, queries=root / "q2.npy", query_ids=write(root / "rows", "11\n10"), **files)


def test_no_query_may_lack_its_row(root: Path) -> None:
    np.save(root / "q2.npy", np.load(root / "q.npy")[:2])
    with pytest.raises(RequestError, match=r"query features have shape \(2, 4\), expected \(3, D\)"):
        cirr(root, queries=root / "q2.npy", allow_missing=5)
    with pytest.raises(RequestError, match=r"1 of 3 queries have no row in .*rows: 12"):
        cirr(root, queries=root / "q2.npy", query_ids=write(root / "rows", "10\n11"))


def test_nothing_may_be_missing_where_a_server_counts(root: Path) -> None:
    np.save(root / "g2.npy", np.load(root / "g.npy")[:4])
    ids = write(root / "ids.json", IDS[:4])
    with pytest.raises(RequestError, match="a server counts every image and query; none of them may be missing"):
        cirr(root, "test1", out=root / "out", gallery=root / "g2.npy", gallery_ids=ids, allow_missing=1)
    with pytest.raises(RequestError, match=r"official without 1 images.*a submission names every query and image"):
        cirr(root, "val", out=root / "out", gallery=root / "g2.npy", gallery_ids=ids, allow_missing=1)
    assert not (root / "out").exists()


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (IDS[:4], r"names 4 rows; the features have shape \(5, 4\)"),
        ([*IDS[:4], "d-2"], "1 ids occur more than once: d-2"),
        ("[1, 2", "not a JSON list"),
        (b"\xff\xfe", "cannot read the ids"),
    ],
)
def test_ids_that_do_not_fit_the_rows_are_refused(root: Path, ids: Any, words: str) -> None:
    path = root / "ids"
    if isinstance(ids, bytes):
        path.write_bytes(ids)
    else:
        write(path, ids)
    for files in ({"gallery_ids": path}, {"query_ids": path}):
        if "shape" not in words or "gallery_ids" in files:
            with pytest.raises(RequestError, match=words if "gallery_ids" in files else "ids"):
                cirr(root, **files)


def test_ids_of_genecis_name_regions_and_not_candidates(tmp_path: Path) -> None:
    item = {"val_image_id": 1}
    entries = [{"condition": "c", "reference": item, "target": {"val_image_id": n}, "gallery": [item]} for n in (2, 3)]
    write(tmp_path / "focus_object.json", entries)
    rng = np.random.default_rng(1)
    queries, regions = rng.standard_normal((2, 3)), rng.standard_normal((3, 3))
    np.save(tmp_path / "q.npy", queries)
    np.save(tmp_path / "r.npy", regions[[2, 0, 1]])
    np.save(tmp_path / "c.npy", np.ones((2, 2, 3)))
    request = ScoreRequest("genecis", tmp_path, task="focus_object")
    ids = write(tmp_path / "ids", "3\n2\n1")
    found = score_files(request, FeatureFiles(tmp_path / "q.npy", tmp_path / "r.npy", gallery_ids=ids))
    expected = load_benchmark("genecis", tmp_path, task="focus_object").score_features(queries, regions)
    assert numbers(found) == expected
    with pytest.raises(RequestError, match=r"names 3 rows; the features have shape \(2, 2, 3\), expected 2-D"):
        score_files(request, FeatureFiles(tmp_path / "q.npy", tmp_path / "c.npy", gallery_ids=ids))
    np.save(tmp_path / "r.npy", regions[:2])
    some = FeatureFiles(tmp_path / "q.npy", tmp_path / "r.npy", gallery_ids=write(ids, "2\n1"), allow_missing=1)
    assert {(row.protocol, row.n) for row in score_files(request, some).scores} == {("official without 1 images", 1)}


@pytest.mark.parametrize("content", ['["000000000005", 9, 7, 1, 3]', "5\n9\n\n7\n1\n3\n"])
def test_ids_are_circos_gallery_where_cocos_list_is_not_at_hand(root: Path, content: str) -> None:
    with pytest.raises(RequestError, match=r"no list of gallery images\. Get it: .*image_info_unlabeled2017.zip"):
        circo(root)
    whole = circo(root, gallery_ids=write(root / "ids.txt", content))
    expected = load_benchmark("circo", root, gallery_ids=CIRCO_IDS)
    assert numbers(whole) == expected.score_features(np.load(root / "q1.npy"), np.load(root / "g.npy"))


def test_ids_are_an_order_of_circos_gallery_where_cocos_list_is_at_hand(root: Path) -> None:
    write(root / "image_info.json", {"images": [{"id": image_id} for image_id in CIRCO_IDS]})
    np.save(root / "g2.npy", np.load(root / "g.npy")[::-1])
    turned = write(root / "ids", "\n".join(f"{image_id:012d}" for image_id in CIRCO_IDS[::-1]))
    assert circo(root, gallery=root / "g2.npy", gallery_ids=turned) == circo(root)
    np.save(root / "g3.npy", np.load(root / "g.npy")[1:])
    with pytest.raises(RequestError, match=r"1 of 5 images are missing .*: 5 \(no row\)"):
        circo(root, gallery=root / "g3.npy", gallery_ids=write(root / "ids", "9\n7\n1\n3"))


def test_images_that_circos_queries_name_are_missed_even_without_cocos_list(root: Path) -> None:
    np.save(root / "g2.npy", np.load(root / "g.npy")[:4])
    ids = write(root / "ids", "5\n9\n7\n1")
    with pytest.raises(RequestError, match=r"1 of 5 images are missing .*: 3 \(no row\)\. "):
        circo(root, gallery=root / "g2.npy", gallery_ids=ids)
    outcome = circo(root, gallery=root / "g2.npy", gallery_ids=ids, allow_missing=1)
    assert {(row.protocol, row.n) for row in outcome.scores} == {("official without 1 images", 1)}
    assert outcome.missing_ids == ["3"]  # a further answer: the query stays


def test_the_real_circo_gallery_has_123403_images(shared: Path, tmp_path: Path, recipes: Any) -> None:
    ids = recipes.circo_small_gallery_ids(1500)
    rng = np.random.default_rng(0)
    np.save(tmp_path / "q.npy", rng.standard_normal((220, 8)))
    np.save(tmp_path / "g.npy", rng.standard_normal((1500, 8)))
    request = ScoreRequest("circo", shared / "annotations/CIRCO")
    files = {"queries": tmp_path / "q.npy", "gallery": tmp_path / "g.npy"}
    files["gallery_ids"] = write(tmp_path / "ids.json", ids)
    words = r"121903 of 123403 images are missing .*: 121903 that no list at hand names\. .*COCO 2017 unlabeled"
    with pytest.raises(RequestError, match=words):
        score_files(request, FeatureFiles(**files))
    outcome = score_files(request, FeatureFiles(**files, allow_missing=121_903))
    assert {row.protocol for row in outcome.scores} == {"official without 121903 images"}
    more = write(tmp_path / "ids.json", [*range(10**7, 10**7 + 123_403), *ids])
    np.save(tmp_path / "g.npy", np.ones((123_403 + 1500, 1)))
    with pytest.raises(
        RequestError, match=r"a gallery of 124,903; the official ones are 220 and 123,403\. Get the orig"
    ):
        score_files(request, FeatureFiles(tmp_path / "q.npy", tmp_path / "g.npy", gallery_ids=more))


def pickled(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: p.unlink(), "q.npy: no such file"),
        (lambda p: p.write_bytes(b"not numpy"), "q.npy: not a .npy file of numbers"),
        (lambda p: p.write_bytes(b""), "q.npy: not a .npy file of numbers"),
        (pickled, "q.npy: not a .npy file of numbers"),
        (lambda p: np.save(p, np.ones((2, 2))), r"query features have shape \(2, 2\), expected \(3, D\)"),
        (lambda p: np.save(p, np.ones(3)), r"\(3,\).*expected 2-D|query features have shape \(3,\)"),
        (lambda p: np.save(p, np.full((3, 4), "a")), "query features are <U1"),
        (
            lambda p: np.save(p, np.ones((3, 4)) * [[1], [np.nan], [0]]),
            r"query features \[1\] holds NaN.*\[2\] holds only",
        ),
    ],
)
def test_a_spoilt_file_is_named(root: Path, spoil: Any, words: str) -> None:
    spoil(root / "q.npy")
    with pytest.raises(RequestError, match=words):
        cirr(root)


def test_gallery_rows_without_direction_are_numbered(root: Path) -> None:
    gallery = np.load(root / "g.npy").astype(np.float32)
    gallery[1], gallery[4, 2] = 0, -np.inf
    np.save(root / "g.npy", gallery)
    with pytest.raises(RequestError, match=r"gallery features \[1\] holds only zeros, \[4\] holds NaN or infinity"):
        cirr(root)


def test_an_archive_of_arrays_is_refused(root: Path) -> None:
    np.savez(root / "q.npz", a=np.ones((3, 4)))
    with pytest.raises(RequestError, match=r"an \.npz archive; give one .npy file"):
        cirr(root, queries=root / "q.npz")


def test_a_benchmark_that_does_not_exist_is_refused_by_name(root: Path) -> None:
    with pytest.raises(RequestError, match="no benchmark 'flickr'; there are fashioniq, cirr"):
        score_files(ScoreRequest("flickr", root), FeatureFiles(root / "q.npy", root / "g.npy"))


def test_files_that_are_not_the_official_ones_are_refused_with_the_option_official(root: Path) -> None:
    with pytest.raises(RequestError, match=r"4 annotation files were altered:\n.*captions/cap.rc2.test1.json: sha256"):
        cirr(root, fields={"official": True})


def zscir(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    code = f"import sys; sys.argv = {['zscir', *map(str, words)]}; from zscir.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def command(root: Path, *more: str | Path) -> list[str | Path]:
    given = ["score", "cirr", "--root", root, "--queries", root / "q.npy", "--gallery", root / "g2.npy"]
    return [*given, "--gallery-ids", root / "ids.json", "--allow-missing", "3", *more]


def test_the_command_prints_what_is_missing_in_table_and_json(root: Path) -> None:
    np.save(root / "g2.npy", np.load(root / "g.npy")[[0, 1, 2, 4]])
    write(root / "ids.json", ["d-2", "d-1", "d-0", "d-4"])
    table = zscir(*command(root))
    assert "1 gallery images are missing (3 may be): d-3" in table.stdout, table.stderr
    assert "official without 1 images" in table.stdout
    rows = json.loads(zscir(*command(root, "--json", "--texts", "searle")).stdout)
    assert {row["protocol"] for row in rows} == {"official without 1 images/searle"}
    assert {(row["allow_missing"], row["missing"], tuple(row["missing_ids"])) for row in rows} == {(3, 1, ("d-3",))}


def test_scoring_on_the_cpu_imports_no_torch(root: Path) -> None:
    np.save(root / "g2.npy", np.load(root / "g.npy"))
    write(root / "ids.json", IDS)
    code = (
        "import sys; from zscir.cli.main import app; app(standalone_mode=False); print(*sys.modules, file=sys.stderr)"
    )
    words = list(map(str, command(root)))
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert "R@50" in done.stdout
    heavy = {"torch", "pyarrow", "pandas", "prefect", "transformers", "open_clip", "scipy"}
    assert not heavy & set(done.stderr.split())
