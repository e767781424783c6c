"""Options of the one kind of model that were given for the other."""

from __future__ import annotations

from collections.abc import Mapping

from samedge.errors import UsageError


def refuse_foreign(kind: str, given: Mapping[str, bool]) -> None:
    """Refuse options that mean nothing for a kind of model.

    Args:
        kind: "a YOLO" or "a SAM".
        given: Options as they are typed, and whether they were given.

    Raises:
        UsageError: One was.
    """
    for option, wrong in given.items():
        if wrong:
            raise UsageError(f"this means nothing for {kind}", where=option, cure="Leave it out")
