"""A model hub in miniature on this machine: a hub that answers questions and redirects, and a CDN that sends bytes.

Speaks what clients of huggingface.co use: HEAD and GET of /REPO/resolve/REVISION/PATH (and /datasets/REPO/...) with
ETag, X-Repo-Commit, X-Linked-Size and X-Linked-Etag, redirects of large files to another host, Range requests, error
codes in X-Error-Code, and /api/models/REPO/revision/REVISION. Faults can be asked for.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGE = 1000  # bytes from which a file is stored as a large one


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]

    @property
    def start(self) -> int:
        """First byte that is asked for."""
        return int(self.headers["range"].removeprefix("bytes=").split("-")[0]) if "range" in self.headers else 0


@dataclass
class Hub:
    """Content and faults.

    Attributes:
        files: (repository with "datasets/" before it for data sets, commit) -> path -> content.
        branches: repository -> commit of "main".
        direct: path on the CDN host -> content, for addresses outside of any repository.
        sent: content that the CDN sends in place of the true one, by sha256.
        cuts: numbers of bytes after which the next GETs of large files lose their connection.
        ranges: whether Range requests are honoured.
    """

    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    direct: dict[str, bytes] = field(default_factory=dict)
    sent: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    cdn: str = ""

    def add(self, repo: str, commit: str, files: dict[str, bytes]) -> None:
        self.files[repo, commit] = files
        self.branches[repo] = commit

    def gets(self, name: str) -> list[Request]:
        """Requests for the bytes of what ends with `name`."""
        return [r for r in self.requests if r.method == "GET" and r.path.endswith(name)]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """`hub` on two ports of 127.0.0.1 while the context lasts."""
    servers = [_Server(hub, handler) for handler in (_HubHandler, _CdnHandler)]
    hub.url, hub.cdn = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub, handler: type[BaseHTTPRequestHandler]):
        super().__init__(("127.0.0.1", 0), handler)
        self.hub = hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def do_HEAD(self) -> None:
        self.request_seen = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
        self.hub.requests.append(self.request_seen)
        self.answer()

    do_GET = do_HEAD

    def answer(self) -> None:
        raise NotImplementedError

    def log_message(self, *_: object) -> None:
        pass

    def send(self, status: int, headers: dict[str, str], body: bytes = b"", cuttable: bool = False) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cuttable and self.hub.cuts:
            body = body[: self.hub.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(body)

    def send_content(self, content: bytes | None) -> None:
        """Of an ordinary web server, from the byte that is asked for."""
        start = self.request_seen.start if self.hub.ranges else 0
        if content is None:
            self.send(404, {})
        elif start >= len(content):
            self.send(416, {"Content-Range": f"bytes */{len(content)}"})
        elif start:
            extent = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send(206, {"Content-Range": extent}, content[start:], cuttable=True)
        else:
            self.send(200, {"ETag": '"cdn"'}, content, cuttable=True)


class _CdnHandler(_Handler):
    def answer(self) -> None:
        if self.path in self.hub.direct:
            return self.send_content(self.hub.direct[self.path])
        sha256 = self.path.removeprefix("/blobs/")
        stored = [content for files in self.hub.files.values() for content in files.values()]
        content = next((c for c in stored if hashlib.sha256(c).hexdigest() == sha256), None)
        return self.send_content(self.hub.sent.get(sha256, content))


class _HubHandler(_Handler):
    def answer(self) -> None:
        if self.path.startswith("/api/"):
            self._api()
        elif "/resolve/" in self.path:
            self._resolve()
        else:
            self.send_content(self.hub.direct.get(self.path))

    def _api(self) -> None:
        kind, _, rest = self.path.removeprefix("/api/").partition("/")
        repo, _, revision = rest.partition("/revision/")
        commit = self._commit(repo if kind == "models" else f"datasets/{repo}", revision or "main")
        if commit:
            self.send(200, {"Content-Type": "application/json"}, json.dumps({"id": repo, "sha": commit}).encode())

    def _resolve(self) -> None:
        repo, _, rest = self.path[1:].partition("/resolve/")
        revision, _, path = rest.partition("/")
        commit = self._commit(repo, revision)
        if commit is None:
            return
        content = self.hub.files[repo, commit].get(path)
        if content is None:
            self.send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        elif len(content) < LARGE:
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self.send(200, {"ETag": f'"{git}"', "X-Repo-Commit": commit}, content)
        else:
            sha256 = hashlib.sha256(content).hexdigest()
            linked = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{sha256}"'}
            self.send(302, {"Location": f"{self.hub.cdn}/blobs/{sha256}", "X-Repo-Commit": commit, **linked})

    def _commit(self, repo: str, revision: str) -> str | None:
        """The commit that is meant; None after an answer that there is none."""
        commit = self.hub.branches.get(repo, "") if revision == "main" else revision
        if repo not in self.hub.branches:
            self.send(401, {"X-Error-Code": "RepoNotFound"})
        elif (repo, commit) not in self.hub.files:
            self.send(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            return commit
        return None
