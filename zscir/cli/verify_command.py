"""zscir verify: compare the files of a store with their manifests and list what is damaged, missing or left over."""

from typing import Annotated

import typer

from zscir.cli.engine import open_checked_store, open_store_to_read
from zscir.cli.options import JsonOption, StoreOption
from zscir.cli.output import print_lines, print_rows

RefsArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Stages, runs (id, prefix, latest) or keys (or their beginning); default: all."),
]
QuarantineOption = Annotated[
    bool, typer.Option("--quarantine", help="Take damaged artifacts out, so that the next run makes them again.")
]


def verify_command(
    refs: RefsArgument = None,
    store_uri: StoreOption = None,
    quarantine: QuarantineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read every file of the store and compare it with its manifest; report only, unless --quarantine is given.

    Exit code 4 reports damage and what to type. Left-over files are listed too; `zscir gc` removes them.

    Example: zscir verify latest
    """
    from zscir.maintenance.verify import quarantine_artifacts, raise_if_damaged, verify_artifacts
    from zscir.store.inventory import check_store_exists

    store = open_checked_store(store_uri) if quarantine else open_store_to_read(store_uri)
    check_store_exists(store)
    found = verify_artifacts(store, refs or [])
    rows = [vars(row) if as_json else {**vars(row), "key": row.key[:12]} for row in found.findings]
    if rows or as_json:
        print_rows(
            rows,
            as_json,
            "what is not as it should be",
            None if as_json else ("stage", "key", "file", "state", "detail"),
        )
    if not as_json:
        read = f"{found.artifacts:,} artifacts, {found.files:,} files, {found.bytes:,} bytes read"
        print_lines(f"{read}; {len(found.damaged):,} artifacts damaged")
    # The table first: this raises for damage, quarantined or not, so that a script sees exit code 4.
    raise_if_damaged(store, found, quarantine_artifacts(store, found) if quarantine and found.damaged else [])
