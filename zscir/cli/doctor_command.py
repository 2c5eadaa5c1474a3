"""zscir doctor: check the installation and say how to mend what is wrong."""

import typer

from zscir.cli.options import JsonOption, StoreOption
from zscir.cli.output import print_rows
from zscir.runtime.settings import Settings


def doctor_command(store_uri: StoreOption = None, as_json: JsonOption = False) -> None:
    """Check the installation, the store, Prefect, the GPU and credentials; say how to mend each.

    Example: zscir doctor
    """
    from zscir.maintenance.doctor import doctor_checks

    checks = doctor_checks(Settings.from_env(store_uri).store)
    print_rows([vars(check) for check in checks], as_json)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(2)  # as for any wrong request or set-up; a warning alone is no failure
