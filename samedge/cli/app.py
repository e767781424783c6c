"""The program ``samedge``: its commands, and its errors, each one line without a traceback and a non-zero status."""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from contextlib import suppress
from typing import Annotated, Any, Final

import typer

from samedge.cli.annotate import annotate
from samedge.cli.bench import bench
from samedge.cli.build import build
from samedge.cli.demo import demo
from samedge.cli.engines import engines
from samedge.cli.export import export
from samedge.cli.graphs import import_, inspect
from samedge.cli.info import info
from samedge.cli.predict import predict
from samedge.cli.profile import profile
from samedge.cli.verify import verify
from samedge.errors import SamedgeError, SamedgeWarning, StorageError
from samedge.version import __version__

app = typer.Typer(
    name="samedge",
    help="Segment Anything on the edge: export, prove and run SAM checkpoints.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# typer may vendor its own click: the base class of its usage errors is reached through the one it exports.
_USAGE_ERROR: Final[Any] = typer.BadParameter.__mro__[1]
_INTERRUPTED: Final = 130
_PLAIN_WARNING: Final = warnings.showwarning

for command in (export, build, verify, predict, annotate, bench, profile, info, inspect, demo):
    app.command()(command)
app.command("import")(import_)
app.add_typer(engines, name="engines")


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"samedge {__version__}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Segment Anything on the edge: export, prove and run SAM checkpoints."""
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")
        raise typer.Exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Run the program and exit: 0 for success, 1 for an error, 2 for wrong usage, 130 if interrupted."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # File names may be arbitrary bytes, and a terminal may lack characters: neither may stop the program.
            stream.reconfigure(errors="surrogateescape" if stream.encoding.lower() == "utf-8" else "replace")
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the program and return its status; foreign errors are bugs and keep their traceback."""
    try:
        status = typer.main.get_command(app).main(arguments, prog_name="samedge", standalone_mode=False)
        sys.stdout.flush()
    except SamedgeError as error:
        return _fail(str(error), 1)
    except _USAGE_ERROR as error:
        return _fail(f"{' '.join(error.format_message().split()).rstrip('.')}. See samedge --help", 2)
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EPIPE):
            raise
        _forget_stdout()
        if error.errno == errno.EPIPE:
            return 1  # the reader of a pipe, such as ``head``, has closed it
        full = StorageError(f"cannot write: {error.strerror}", where="stdout", cure="Free some space on the disk")
        return _fail(str(full), 1)
    if status == _INTERRUPTED:  # some versions of typer return it
        return _fail("interrupted", _INTERRUPTED)
    return status if isinstance(status, int) else 0


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Show what was assumed in one line; other warnings as Python does."""
    if issubclass(category, SamedgeWarning):
        sys.stderr.write(f"warning: {message}\n")
    else:
        _PLAIN_WARNING(message, category, *place, **more)


def _forget_stdout() -> None:
    """Discard buffered output: Python would try to write it again at exit, and fail."""
    with suppress(OSError):  # a stream in memory has no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return status
