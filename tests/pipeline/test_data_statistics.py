"""Measures against plain Python over the same rows."""

import re
from math import ceil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zscir.pipeline.data_statistics import STATISTICS, compute_statistics, count_rows, schema_problems
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import (
    IMAGES_SCHEMA,
    KEEP_SCHEMA,
    PAIRS_SCHEMA,
    REJECTS_SCHEMA,
    RESPONSES_SCHEMA,
    write_table,
)
from zscir.store.artifacts import Artifact


def image(number, text, status, size, sha):
    row = {"image_key": f"k{number}", "pair_id": str(number), "url": f"u{number}", "text": text, "attempts": 1}
    known = {"original_width": size[0], "original_height": size[1], "sha256": sha} if status == "ok" else {}
    return row | {"status": status} | known


ROWS = st.lists(
    st.tuples(
        st.text(max_size=5), st.sampled_from(["ok", "failed"]), st.tuples(st.integers(1, 9), st.integers(1, 9)),
        st.sampled_from("abcdef"),
    ),
    max_size=30,
)  # fmt: skip


def rejects(number):
    return [{"stage": "x", "id": str(row), "reason": "r", "detail": ""} for row in range(number)]


def quantile(values, share):
    ranked = sorted(values)
    return ranked[max(0, ceil(share * len(ranked) - 1e-9) - 1)] if ranked else None


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_images_are_measured_as_plain_python_does(tmp_path, rows):
    images = [image(number, *row) for number, row in enumerate(rows)]
    write_table(tmp_path / "images.parquet", IMAGES_SCHEMA, images)
    ok = [row for row in images if row["status"] == "ok"]
    texts = [len(row["text"]) for row in images]
    expected = {
        "success_rate": len(ok) / len(images) if images else None,
        "width_px": quantile([row["original_width"] for row in ok], 0.5),
        "height_px": quantile([row["original_height"] for row in ok], 0.5),
        "side_px_p10": quantile([min(row["original_width"], row["original_height"]) for row in ok], 0.1),
        "text_chars": quantile(texts, 0.5),
        "text_chars_p10": quantile(texts, 0.1),
        "text_chars_p90": quantile(texts, 0.9),
        "duplicate_share": 1 - len({row["sha256"] for row in ok}) / len(ok) if ok else None,
        "duplicate_text_share": 1 - len({row["text"] for row in images}) / len(images) if images else None,
        "kept_share": None,
        "answered_share": None,
    }
    assert expected.keys() == STATISTICS.keys()
    found = compute_statistics(Artifact.of_folder(tmp_path), STATISTICS)
    assert found == {name: pytest.approx(value) if value is not None else None for name, value in expected.items()}


def test_what_a_filter_keeps_is_a_share_of_what_it_looked_at(tmp_path):
    write_table(tmp_path / "keep.parquet", KEEP_SCHEMA, [{"image_key": str(image)} for image in range(3)])
    assert compute_statistics(Artifact.of_folder(tmp_path), ["kept_share"]) == {"kept_share": 1.0}
    write_table(tmp_path / "rejects.parquet", REJECTS_SCHEMA, rejects(9))
    assert compute_statistics(Artifact.of_folder(tmp_path), ["kept_share"]) == {"kept_share": 0.25}


def test_answers_lie_in_several_files(tmp_path):
    for number, answers in enumerate((["a", None], ["b"], [None])):
        rows = [
            {"response_id": f"{number}{one}", "prompt_digest": "p", "model": "m", "request": "{}", "attempts": 1,
             "response": answer}
            for one, answer in enumerate(answers)
        ]  # fmt: skip
        write_table(tmp_path / f"responses-{number:05d}.parquet", RESPONSES_SCHEMA, rows)
    artifact = Artifact.of_folder(tmp_path)
    assert compute_statistics(artifact, ["answered_share"]) == {"answered_share": 0.5}
    assert count_rows(artifact, "responses") == 4
    assert count_rows(artifact, "images") is None


def test_tables_as_declared_are_well_shaped(tmp_path):
    write_table(tmp_path / "images.parquet", IMAGES_SCHEMA, [image(1, "t", "ok", (1, 1), "a")])
    write_table(tmp_path / "rejects.parquet", REJECTS_SCHEMA, rejects(2))
    pq.write_table(pa.table({"first": [1], "second": [2]}), tmp_path / "pairs.parquet")  # not the pairs of URLs
    pq.write_table(pa.table({"anything": [1]}), tmp_path / "hosts.parquet")
    assert schema_problems(Artifact.of_folder(tmp_path)) == (2, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["url"]), r"columns missing \['url'\]"),
        (lambda table: table.append_column("more", pa.array([1])), r"not allowed \['more'\]"),
        (lambda table: table.set_column(5, "source_row", pa.array(["1"])), "'source_row' is string, expected int64"),
        (lambda table: table.set_column(2, "text", pa.array([None], pa.string())), "column 'text' holds 1 nulls"),
    ],
)
def test_a_table_of_another_shape_is_reported(tmp_path, change, message):
    row = {"pair_id": "1", "url": "u", "text": "t", "source": "s", "source_row": 1}
    write_table(tmp_path / "pairs.parquet", PAIRS_SCHEMA, [row])
    pq.write_table(change(pq.read_table(tmp_path / "pairs.parquet")), tmp_path / "pairs.parquet")
    tables, [wrong] = schema_problems(Artifact.of_folder(tmp_path))
    assert tables == 1
    assert re.search(message, wrong)


def test_a_file_that_is_no_parquet_is_reported(tmp_path):
    (tmp_path / "pairs.parquet").write_bytes(b"nothing")
    _, [wrong] = schema_problems(Artifact.of_folder(tmp_path))
    assert wrong.startswith("pairs.parquet: not readable: ")
    with pytest.raises(RequestError, match="text_chars cannot be measured"):
        compute_statistics(Artifact.of_folder(tmp_path), ["text_chars"])
