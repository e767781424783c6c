"""Families, encoders and backends from outside this package: records that a module of yours has, named to be found.

    SAMEDGE_PLUGINS=my_models:FAMILY,my_models:ENCODER samedge export my.pt

An environment variable, because it reaches every process that samedge starts: builds of engines, benchmarks.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, Final, TypeVar

from samedge.errors import UsageError

PLUGINS: Final = "SAMEDGE_PLUGINS"
"""Environment variable with the records to add to the tables: "module:NAME", separated by commas."""

_Record = TypeVar("_Record")


def resolve(target: str) -> Any:
    """Import the module of a "module:name" and return what has that name there."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def plugged(kind: type[_Record]) -> tuple[_Record, ...]:
    """Return the records of a kind that `PLUGINS` names.

    Args:
        kind: The class of a table's lines.

    Raises:
        UsageError: A name leads nowhere.
    """
    return tuple(record for record in map(_record, _names()) if isinstance(record, kind))


def _names() -> list[str]:
    return [name.strip() for name in os.environ.get(PLUGINS, "").split(",") if name.strip()]


def _record(name: str) -> object:
    try:
        return resolve(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"there is no plug-in {name!r}: {error}",
            where=PLUGINS,
            cure="Give module:NAME of a record, and put its module on PYTHONPATH",
        ) from error
