"""A stand-in for the hub on this machine: its API and its files, with a log of what was asked for and sent."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants

from vitscale.base.digests import digest

COMMIT = "1234567890abcdef1234567890abcdef12345678"
Answer = tuple[int, dict[str, str], bytes]


class Hub:
    """Serves `<folder>/<owner>/<name>/` as repositories, each with one commit, under main and under itself."""

    def __init__(self, folder: Path):
        self.folder, self.sent = folder, []
        self.cards: dict[str, dict] = {}
        self.gated: set[str] = set()
        self.url = ""

    def take(self, method: str, path: str, headers: Message, content: bytes) -> Answer:
        """Return the answer to a POST or PUT; this one takes nothing."""
        return 405, {}, b""

    def answer(self, path: str, headers: Message) -> Answer:
        """Return status, headers and content for a path."""
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            name, revision = match[1], match[2] or "main"
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            name, revision = match[1], match[2]
        else:
            return 404, {}, b""
        if not (self.folder / name).is_dir():
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        commit = self.commit_of(name)
        if revision not in ("main", commit):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if path.startswith("/api/"):
            files = [each for each in sorted((self.folder / name).iterdir()) if each.is_file()]
            content = {
                "id": name,
                "sha": commit,
                "siblings": [{"rfilename": each.name, "size": each.stat().st_size} for each in files],
                "cardData": self.cards.get(name),
            }
            return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()
        if name in self.gated:
            return 401, {"X-Error-Code": "GatedRepo"}, b""
        file = self.folder / name / match[3]
        if not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{digest(file)}"'}, file.read_bytes()

    def commit_of(self, name: str) -> str:
        """Return the one commit that a repository has."""
        return COMMIT

    def bytes_of(self, file: str) -> int:
        """Return how many bytes of such a file were sent."""
        return sum(count for path, count in self.sent if path.endswith("/" + file))


def use(monkeypatch, hub: Hub, cache: Path) -> None:
    """Let the hub's client in this process ask the stand-in, and keep what it gets in a folder."""
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.delenv("VITSCALE_MIRROR", raising=False)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve its repositories until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self):
            path = urlsplit(self.path).path
            if self.command in ("GET", "HEAD"):
                status, headers, content = hub.answer(path, self.headers)
            else:
                sent = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers, content = hub.take(self.command, path, self.headers, sent)
            if status == 200 and (asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
                first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
                headers |= {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
                status, content = 206, content[first : last + 1]
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                hub.sent.append((path, len(content)))
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = respond

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
