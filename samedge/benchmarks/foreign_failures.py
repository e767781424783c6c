"""Whatever a library that is measured raises, as an error of this package: it costs its own row, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from samedge.errors import BenchmarkError, SamedgeError

_SHOWN: Final = 300


@contextmanager
def foreign_failures(name: str) -> Iterator[None]:
    """Turns what is raised inside the block into a `BenchmarkError` with the kind and the first line.

    Args:
        name: Who is measured.
    """
    try:
        yield
    except SamedgeError:
        raise
    except Exception as error:
        # torch.compile alone raises what Triton, gcc and the system raise: there is no list of it.
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "it did not say why")
        raise BenchmarkError(f"{type(error).__name__}: {first[:_SHOWN]}", where=name) from error
