"""tabletop: a seed becomes a web list of picture URLs, captions and licences, bad rows included.

The pictures themselves are served by ``zscir.tabletop.server``; this stage writes only the list.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from zscir.pipeline.stage import stage
from zscir.runtime.schemas import checked_table, table_writer
from zscir.store.artifacts import Facts
from zscir.tabletop.scenes import derive_rng
from zscir.tabletop.spec import TabletopSpec
from zscir.tabletop.web import TABLETOP_ORIGIN, is_sibling, url_fault, url_of, web_caption

URL_LIST_SCHEMA = pa.schema(
    [pa.field("url", pa.string()), pa.field("caption", pa.string()), pa.field("licence", pa.string())]
)
_LICENCES = ("CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", None)
_ROWS_PER_GROUP = 50_000


@stage(version=1)
def tabletop(spec: TabletopSpec, out: Path) -> Facts:
    """Write ``urls.parquet``; facts count its rows, its bad rows by sort and its siblings."""
    counts = dict.fromkeys(("rows", "duplicate", "blank", "malformed", "broken", "siblings"), 0)
    with table_writer(out / "urls.parquet", URL_LIST_SCHEMA) as writer:
        for start in range(0, spec.scenes, _ROWS_PER_GROUP):
            rows: list[dict[str, Any]] = []
            for index in range(start, min(start + _ROWS_PER_GROUP, spec.scenes)):
                rows += _rows_of(spec, index, counts)
            writer.write_table(checked_table(rows, URL_LIST_SCHEMA))
            counts["rows"] += len(rows)
    return {"scenes": spec.scenes, **counts}


def _rows_of(spec: TabletopSpec, index: int, counts: dict[str, int]) -> Iterator[dict[str, Any]]:
    """The row of scene ``index``, spoilt or doubled by chance as the rows of real lists are."""
    # A generator for each row: a longer list begins with the same rows.
    rng = derive_rng(spec.seed, "web row", index)
    row = {"url": url_of(spec, index), "caption": web_caption(spec, index), "licence": rng.choice(_LICENCES)}
    counts["siblings"] += is_sibling(spec, index)
    # One draw for all sorts of faults: a row is bad in one way, and the shares add up.
    chance = rng.random()
    if chance < spec.blank_share:
        counts["blank"] += 1
        row["caption"] = rng.choice(("", "   ", None))
    elif chance < spec.blank_share + spec.malformed_share:
        counts["malformed"] += 1
        row["url"] = rng.choice(
            (f"{TABLETOP_ORIGIN[5:]}/{index}.jpg", f"http:/{index}.jpg", f"file:///{index}.jpg", "", None)
        )
    else:
        counts["broken"] += url_fault(spec, index) != "ok"
    yield row
    if rng.random() < spec.duplicate_share:
        counts["duplicate"] += 1
        yield dict(row)
