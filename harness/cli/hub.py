"""The border to huggingface_hub: what a file is, and its bytes. Nothing else in the tool talks to a network.

The library's own cache and its transfer by chunks (Xet) are not used: its downloads start anew after an interruption
of the process, ours go on. No token is read or sent, and requests name no libraries.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote, urlsplit

from ...base.errors import MissingError, RunError
from ..inputs.downloads import Item

SHA256 = re.compile(r"[0-9a-f]{64}")
DENIED = (401, 403, 404, 410)
AGAIN = "What is here already is kept: run the same command again to go on."


@dataclass(frozen=True)
class Remote:
    """A file as a server offers it.

    Attributes:
        url: where its bytes are had.
        bytes, sha256: as the list or the server says, None when neither does.
        revision: commit of the repository, "" for a direct address.
        tag: names a partial download, so that one of other content is never continued.
    """

    url: str
    bytes: int | None
    sha256: str | None
    revision: str
    tag: str


def find(item: Item, revision: str, mirror: str | None) -> Remote:
    """Ask the servers for an item, without its content.

    Args:
        revision: commit or branch, for items of repositories.
        mirror: another hub endpoint; direct addresses are looked for below it as MIRROR/HOST/PATH first.

    Raises:
        MissingError: no server has it (wrong revision or name), or it needs permission.
        RunError: no connection, or an answer that is not one of a hub.
    """
    refused = ""
    for url in addresses(item, revision, mirror):
        remote, refused = _head(url, item, revision)
        if remote is not None:
            return remote
    raise MissingError(refused)


def addresses(item: Item, revision: str, mirror: str | None) -> Iterator[str]:
    """Where an item may be, best first."""
    if item.kind == "url":
        parts = urlsplit(item.url)
        if mirror:
            yield f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}"
        yield item.url
        return
    from huggingface_hub import hf_hub_url

    endpoint = mirror.rstrip("/") if mirror else None
    for path in item.paths:
        yield hf_hub_url(item.repo, path, repo_type=item.kind, revision=revision, endpoint=endpoint)


def _head(url: str, item: Item, revision: str) -> tuple[Remote | None, str]:
    """The file at an address; None and the reason when the server refuses it."""
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # pyright: ignore[reportPrivateImportUsage]

    try:
        found = get_hf_file_metadata(url, token=False, headers=_headers())
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status not in DENIED:
            raise RunError(f"The server answered {status} for {url}. {AGAIN}") from error
        return None, _refusal(url, item, revision, status)
    except (HTTPError, OSError) as error:
        raise RunError(
            f"No answer for {url} ({_cause(error)}). Check the network, or name another hub with --mirror. {AGAIN}"
        ) from error
    if item.kind != "url" and not found.commit_hash:
        raise RunError(f"{url} was not answered by a hub. Check the proxy or --mirror.")
    stated = found.etag if item.kind != "url" and SHA256.fullmatch(found.etag or "") else None
    size = found.size if item.kind != "url" or item.bytes is None else item.bytes
    sha256 = stated or item.sha256
    tag = sha256 or hashlib.sha256(f"{url} {size} {found.etag}".encode()).hexdigest()
    commit = (found.commit_hash or "") if item.kind != "url" else ""
    return Remote(_at(url, revision, commit), size, sha256, commit, tag[:12]), ""


def _at(url: str, revision: str, commit: str) -> str:
    """The address at a commit in place of a branch, which may move on before the bytes are got."""
    return url.replace(f"/resolve/{quote(revision, safe='')}/", f"/resolve/{commit}/", 1) if commit else url


def _refusal(url: str, item: Item, revision: str, status: int) -> str:
    if status in (401, 403):
        return f"{url} needs permission (answer {status}). Get {item.target} by hand and put it there."
    if item.kind == "url":
        return f"There is no file at {url} (answer {status}). Get {item.target} by hand, or name a --mirror."
    return (
        f"{item.repo} has no {' or '.join(item.paths)} in revision {revision} (answer {status} for {url}). "
        "Check the revision in the list of downloads or in weights.lock.json, or get the file by hand."
    )


def transfer(remote: Remote, part: Path, tell: Callable[[int], None]) -> None:
    """Get what is lacking of a file. A broken connection is taken up again; what was got stays in `part` in any case.

    Args:
        part: partial file, continued where it ends.
        tell: called with the number of bytes that are there.

    Raises:
        RunError: the connection broke for good, the server sent another number of bytes, or the disk is full.
    """
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]
    from huggingface_hub.file_download import http_get

    try:
        with part.open("ab") as stream:
            done = stream.tell()
            if remote.bytes is None or done > remote.bytes:  # cannot be continued
                stream.truncate(0)
                done = 0
            tell(done)
            http_get(
                remote.url,
                stream,
                resume_size=done,
                headers=_headers(),
                expected_size=remote.bytes,
                tqdm_class=_bar(done, tell),  # pyright: ignore[reportArgumentType]
            )
    except (HTTPError, OSError) as error:
        raise RunError(_broken(remote, part, error)) from error


def _broken(remote: Remote, part: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"The disk is full while writing {part.parent}. Free some or choose another --out. {AGAIN}"
    return f"The download of {remote.url} was interrupted ({_cause(error)}). {AGAIN}"


def _bar(done: int, tell: Callable[[int], None]) -> type:
    """What huggingface_hub takes for a progress bar: it counts the bytes of this transfer."""

    class Bar:
        def __init__(self, **_: object):
            self._there = done

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def update(self, count: float = 1) -> None:
            self._there += int(count)
            tell(self._there)

    return Bar


def _headers() -> dict[str, str]:
    return {"user-agent": f"mdtbench/{version('mdtbench')}", "accept-encoding": "identity"}


def _cause(error: Exception) -> str:
    """First line of an error's text, or its kind."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
