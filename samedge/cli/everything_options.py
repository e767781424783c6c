"""Segment everything as it is asked for on the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from samedge.errors import UsageError
from samedge.runtime.everything.parameters import EverythingOptions, run_of


def given_options(**options: object) -> EverythingOptions:
    """Returns the options that were given: those that are not None."""
    return cast("EverythingOptions", {name: value for name, value in options.items() if value is not None})


def check_request(prompts: Mapping[str, Any], options: EverythingOptions, *, multimask: bool) -> None:
    """Finds what does not go together before anything is opened.

    Raises:
        UsageError: Options for everything together with prompts, an option of prompts without any, or a value that
            means nothing.
    """
    if prompts and options:
        raise UsageError(
            "there are prompts, and this is for segmenting everything",
            where=f"--{next(iter(options)).replace('_', '-')}",
            cure="Give one or the other",
        )
    if multimask and not prompts:
        raise UsageError("there is no prompt", where="--multimask", cure="Give --point, --box or --mask as well")
    run_of(options)


@contextmanager
def shown_search(options: EverythingOptions) -> Iterator[EverythingOptions]:
    """Gives the options with what shows progress while the block runs: a bar on a terminal, and nothing elsewhere."""
    from samedge.cli.progress import shown_progress

    with shown_progress(lines=False) as progress:
        progress("Encoding the image", 0.0)
        yield {**options, "progress": progress}
