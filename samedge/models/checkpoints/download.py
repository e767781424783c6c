"""One file over HTTP: taken up where it was cut off, if the server still has the same one."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, TypeAlias

from samedge.errors import DownloadError
from samedge.storage.files import storage_errors
from samedge.version import __version__

DownloadProgress: TypeAlias = Callable[[int, int | None], None]
"""Called with the bytes that are here and their total, or None where the server does not tell."""

_CHUNK: Final = 1 << 20
_ATTEMPTS: Final = 4
_HTTP_PARTIAL: Final = 206
_HTTP_RANGE_NOT_SATISFIABLE: Final = 416
_WORTH_A_RETRY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class _BrokenOffError(Exception):
    """The transfer ended too early; what has come is in the file."""


@dataclass(frozen=True, slots=True)
class _Origin:
    """Identity of the file that a partial download belongs to: its address, and the server's validator."""

    url: str
    validator: str | None

    @classmethod
    def of(cls, url: str, headers: http.client.HTTPMessage) -> _Origin:
        etag = headers.get("ETag")
        strong = etag if etag and not etag.startswith("W/") else None
        return cls(url, strong or headers.get("Last-Modified"))


def download(
    url: str, part: Path, *, progress: DownloadProgress | None = None, timeout: float = 30.0, pause: float = 1.0
) -> None:
    """Fetch a file completely into ``part``, going on with what is there from an earlier call.

    Args:
        url: Address.
        part: Where the content goes. A small file beside it remembers what it is a part of.
        progress: Called as the bytes come.
        timeout: Seconds without an answer after which the server counts as gone.
        pause: Seconds before the second attempt; doubled for each one after that.

    Raises:
        DownloadError: It could not be fetched. What has come is kept for the next call.
        StorageError: It could not be written.
    """
    memory = part.with_name(f"{part.name}.json")
    failures, most, reason = 0, _size(part), ""
    while failures < _ATTEMPTS:
        if failures:
            time.sleep(pause * 2 ** (failures - 1))
        try:
            _attempt(url, part, memory, progress, timeout)
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            error.close()
            if error.code not in _WORTH_A_RETRY:
                break
        except urllib.error.URLError as error:
            # No such host, no route, refused, no certificate: trying again at once would give the same answer.
            reason = f"the server cannot be reached ({error.reason})"
            if not isinstance(error.reason, TimeoutError):
                break
        except (ValueError, http.client.InvalidURL) as error:
            reason = f"this is no address ({error})"
            break
        except (_BrokenOffError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = f"the connection broke off ({error or type(error).__name__})"
        else:
            with storage_errors(memory):
                memory.unlink(missing_ok=True)
            return
        # Whoever brings something new each time is worth waiting for.
        failures = 1 if _size(part) > most else failures + 1
        most = max(most, _size(part))
    raise DownloadError(
        reason, where=url, cure="Check the connection, and run the same command again", received=_size(part)
    )


def _attempt(url: str, part: Path, memory: Path, progress: DownloadProgress | None, timeout: float) -> None:
    have, known = _size(part), _recall(memory)
    headers = {"User-Agent": f"samedge/{__version__}", "Accept-Encoding": "identity"}
    if have and known is not None and known.url == url and known.validator is not None:
        headers |= {"Range": f"bytes={have}-", "If-Range": known.validator}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  http and https only: checked by the caller
    try:
        response = urllib.request.urlopen(request, timeout=timeout)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code != _HTTP_RANGE_NOT_SATISFIABLE:
            raise
        content_range = error.headers.get("Content-Range") or ""
        error.close()
        if have and content_range.replace(" ", "") == f"bytes*/{have}":
            return  # whole already: an earlier process was stopped after the last byte
        raise _start_over(part, "the part that was here does not fit the file") from error
    with response:
        resumed = response.status == _HTTP_PARTIAL and _starts_at(response.headers.get("Content-Range"), have)
        if response.status == _HTTP_PARTIAL and not resumed:
            raise _start_over(part, "the server sent another part than the one asked for")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        with storage_errors(part), part.open("ab" if resumed else "wb") as file:
            _remember(memory, _Origin.of(url, response.headers))
            _copy(response, file, start, total, progress)


def _start_over(part: Path, why: str) -> _BrokenOffError:
    with storage_errors(part):
        part.unlink(missing_ok=True)
    return _BrokenOffError(why)


def _copy(
    response: http.client.HTTPResponse, file: IO[bytes], done: int, total: int | None, progress: DownloadProgress | None
) -> None:
    while True:
        try:
            chunk = response.read(_CHUNK)
        except http.client.IncompleteRead as error:
            file.write(error.partial)
            raise
        except OSError as error:  # not the disk's: the caller turns those of writing into a StorageError
            raise _BrokenOffError(str(error) or type(error).__name__) from error
        if not chunk:
            break
        file.write(chunk)
        done += len(chunk)
        if progress is not None:
            progress(done, total)
    if total is not None and done < total:
        raise _BrokenOffError(f"{done} of {total} bytes had come")


def _starts_at(content_range: str | None, start: int) -> bool:
    return content_range is not None and content_range.replace("bytes=", "bytes ").startswith(f"bytes {start}-")


def _size(part: Path) -> int:
    with storage_errors(part, "read"):
        return part.stat().st_size if part.is_file() else 0


def _remember(memory: Path, origin: _Origin) -> None:
    memory.write_text(json.dumps({"url": origin.url, "validator": origin.validator}), encoding="utf-8")


def _recall(memory: Path) -> _Origin | None:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        return _Origin(str(known["url"]), known["validator"] and str(known["validator"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
