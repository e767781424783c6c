"""Images and streams at network addresses."""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import PurePosixPath
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

from samedge.errors import ImageError

_ADDRESS: Final = re.compile(r"(https?|rtsps?|rtmps?|tcp|udp):/{1,2}(?=[^/])", re.IGNORECASE)
_PAGES: Final = ("youtube.com", "youtu.be", "vimeo.com", "twitch.tv")
_MOST_BYTES: Final = 1 << 28
_PATIENCE_S: Final = 10
_WHOLE_S: Final = 120
"""Time for a whole image."""


def address_of(source: object) -> str | None:
    """Return a network address with both slashes, one of which pathlib drops; None for anything else.

    Raises:
        ImageError: It is the page of a video, not the video.
    """
    text = os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""
    found = _ADDRESS.match(text) if isinstance(text, str) else None
    if found is None:
        return None
    address = f"{found[1].lower()}://{text[found.end() :]}"
    host = (urlsplit(address).hostname or "").removeprefix("www.").removeprefix("m.")
    if host in _PAGES:
        cure = "Download the video with a tool such as yt-dlp, and give its file"
        raise ImageError("this is the page of a video, not the video", where=address, cure=cure)
    return address


def without_login(address: str) -> str:
    """Return an address without a name and a password in it, for messages and records."""
    return re.sub(r"//[^/?#]*@", "//", address, count=1)


def address_suffix(address: str) -> str:
    """Return the suffix of the file that an address names, in lower case."""
    return PurePosixPath(urlsplit(address).path).suffix.lower()


def fetch_image(address: str) -> bytes | None:
    """Return the file at an HTTP address; None if the server sends a stream, such as a camera's.

    Only http and https are followed, for at most 256 MB and two minutes; nothing is kept on disk.

    Raises:
        ImageError: It cannot be had, is too large, or is neither an image nor a stream.
    """
    if not address.startswith("http"):
        return None
    request = urllib.request.Request(address, headers={"User-Agent": "samedge", "Accept": "image/*, */*;q=0.5"})  # noqa: S310 - http and https
    where = without_login(address)
    until, parts, size = monotonic() + _WHOLE_S, list[bytes](), 0
    try:
        with _opener().open(request, timeout=_PATIENCE_S) as response:
            kind = response.headers.get_content_type() if "Content-Type" in response.headers else "unknown"
            if kind.startswith("video/") or kind == "multipart/x-mixed-replace" or "mpegurl" in kind:
                return None
            if kind.startswith("text/"):
                cure = "Give the address of the image itself"
                raise ImageError(f"neither an image nor a stream, but {kind}", where=where, cure=cure)
            while part := response.read(1 << 16):
                parts.append(part)
                size += len(part)
                if size > _MOST_BYTES or monotonic() > until:
                    limit = f"{_MOST_BYTES >> 20} MB" if size > _MOST_BYTES else f"{_WHOLE_S} s"
                    raise ImageError(f"the image takes more than {limit}", where=where, cure="Download it first")
    except urllib.error.HTTPError as error:
        error.close()
        raise ImageError(f"the server answered {error.code} {error.reason}", where=where, cure=_CHECK) from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ImageError(f"the address cannot be read: {reason}", where=where, cure=_CHECK) from error
    return b"".join(parts)


_CHECK: Final = "Check the address and the network"


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener of http and https alone: by default redirections may lead to ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, urllib.request.UnknownHandler, urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPRedirectHandler, urllib.request.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener
