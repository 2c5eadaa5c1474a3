"""Turn the errors of storage libraries into a StageError that names the store.

It is a TransientError when the store could not be reached or was too busy.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from zscir.runtime.errors import StageError, TransientError
from zscir.store.retrying_fs import is_store_unreachable


@contextmanager
def translate_storage_errors(uri: str) -> Iterator[None]:
    """Raise a StageError or TransientError for what fsspec and the libraries below it raise in the block."""
    try:
        yield
    except (OSError, TimeoutError) as error:
        raise _as_stage_error(uri, error) from error
    except Exception as error:
        # By name: a store in a folder needs none of these packages, and their import takes time.
        if type(error).__module__.split(".")[0] in {"botocore", "aiobotocore", "aiohttp", "fsspec", "s3fs"}:
            raise _as_stage_error(uri, error) from error
        raise


def _as_stage_error(uri: str, error: Exception) -> StageError:
    kind = TransientError if is_store_unreachable(error) else StageError
    return kind(f"store {uri}: {type(error).__name__}: {error}")
