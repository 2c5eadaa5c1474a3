"""Assign steps to work pools, by a pipeline's ``[dispatch]`` table and the machine's ``ZSCIR_DISPATCH``."""

from collections.abc import Collection, Mapping

from zscir.runtime.errors import RequestError

LOCAL_POOL = "here"  # in place of a pool: the run's own process, whatever the machine's setting says


def assign_pools(
    pipeline_table: Mapping[str, str],
    environment_table: Mapping[str, str],
    steps: Mapping[str, str],
    stages: Collection[str],
    where: str,
) -> dict[str, str]:
    """Step -> work pool, for each of ``steps`` (name -> stage) that another machine is to make.

    The pipeline's table goes before the environment's; in each a step's own name goes before its stage's. RequestError
    when a name is that of no step or stage; the environment may name any of ``stages``, since it holds for every
    pipeline that is run there.
    """
    _check_names(pipeline_table, {*steps, *steps.values()}, f"{where}: [dispatch]", steps)
    # A setting for ``train`` must not break the pipelines of this machine that train nothing.
    _check_names(environment_table, {*steps, *stages}, "ZSCIR_DISPATCH", steps)
    chosen = {name: _first((name, stage), (pipeline_table, environment_table)) for name, stage in steps.items()}
    return {name: pool for name, pool in chosen.items() if pool != LOCAL_POOL}


def _first(names: tuple[str, str], tables: tuple[Mapping[str, str], ...]) -> str:
    return next((table[name] for table in tables for name in names if name in table), LOCAL_POOL)


def _check_names(table: Mapping[str, str], known: Collection[str], where: str, steps: Mapping[str, str]) -> None:
    for name in table:
        if name not in known:
            raise RequestError(
                f"{where}: no step or stage '{name}'; give STEP or STAGE = a work pool's name, or '{LOCAL_POOL}'; the "
                f"steps are {sorted(steps)}"
            )
