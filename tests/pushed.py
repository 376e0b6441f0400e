"""A stand-in for the hub that takes pushes too: repositories are made, files arrive in commits, by git-lfs or by xet.

After huggingface_hub 2.4's client: `POST /api/repos/create`, `/api/validate-yaml`, `/api/models/<repo>/preupload/main`
(which files are large), `/<repo>.git/info/lfs/objects/batch` and a PUT for each of those, or a token for xet's own
storage, then one `POST /api/models/<repo>/commit/main`, a line a file.
"""

import base64
import hashlib
import json
import re
import struct
import time
from email.message import Message
from pathlib import Path

import hf_xet
import yaml

from hub import Answer, Hub

WRITES, READS = "hf_writes", "hf_reads"
LARGE = (".onnx", ".safetensors")  # what the hub's own .gitattributes keeps out of git
NO, REFUSED = (
    "You don't have the rights to create a model under the namespace",
    "Invalid credentials in Authorization header",
)


def reply(content: object, status: int = 200, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"Content-Type": "application/json", **named}, json.dumps(content).encode()


class TakingHub(Hub):
    """Has an account, `me`, with a token that writes and one that reads; `broken`: what it does to a path's request."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.private: set[str] = set()
        self.commits: dict[str, list[dict]] = {}
        self.objects: dict[str, bytes] = {}
        self.broken: dict[str, Answer] = {}
        self.storage = folder / ".xet"
        self.asked: list[str] = []

    def answer(self, path: str, headers: Message) -> Answer:
        self.asked.append(path)
        given = headers.get("Authorization", "").removeprefix("Bearer ")
        for part, broken in self.broken.items():
            if part in path:
                return broken
        if path == "/api/whoami-v2":
            if given not in (WRITES, READS):
                return reply({"error": REFUSED}, 401, X_Error_Message=REFUSED)
            role = {WRITES: "write", READS: "read"}[given]
            return reply(
                {"name": "me", "orgs": [], "auth": {"type": "access_token", "accessToken": {"role": role}}}
            )
        if path.startswith("/xet/"):
            return self.xet_token()
        name = re.match(r"(?:/api/models)?/([^/]+/[^/]+)", path)[1]
        if name in self.private and not given:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if "/xet-write-token/" in path:
            return self.xet_token()
        if "/tree/" in path:
            files = sorted(each for each in (self.folder / name).iterdir() if each.is_file())
            return reply(
                [
                    {
                        "type": "file",
                        "path": each.name,
                        "size": each.stat().st_size,
                        "oid": blob(each.read_bytes()),
                    }
                    for each in files
                ]
            )
        status, known, content = super().answer(path, headers)
        if status == 200 and path.startswith("/api/models/"):
            content = json.dumps(json.loads(content) | {"private": name in self.private}).encode()
        return status, known, content

    def commit_of(self, name: str) -> str:
        return hashlib.sha1(str(len(self.commits.get(name, []))).encode()).hexdigest()

    def xet_token(self) -> Answer:
        """A token for xet's storage, which hf_xet keeps in a folder where its address begins with local."""
        return reply(
            {
                "casUrl": f"local://{self.storage}",
                "accessToken": "short-lived",
                "exp": int(time.time()) + 3600,
            }
        )

    def take(self, method: str, path: str, headers: Message, content: bytes) -> Answer:
        self.asked.append(path)
        for part, broken in self.broken.items():
            if part in path:
                return broken
        if method == "PUT":  # a storage of objects, whose addresses are secret and need no token
            self.objects[path.rsplit("/", 1)[-1]] = content
            return 200, {}, b""
        if headers.get("Authorization") != f"Bearer {WRITES}":
            return reply({"error": REFUSED}, 401, X_Error_Message=REFUSED)
        if path == "/api/repos/create":
            return self.create(json.loads(content))
        if path == "/api/validate-yaml":
            try:
                read = yaml.safe_load(json.loads(content)["content"].split("---\n")[1])
                assert isinstance(read["license"], str)
            except Exception as error:
                return reply({"errors": [{"message": f"no metadata: {type(error).__name__}"}]}, 400)
            return reply({"errors": [], "warnings": []})
        name = re.match(r"(?:/api/models)?/([^/]+/[^/]+?)(?:\.git)?/", path)[1]
        if not name.startswith("me/"):
            return reply({"error": NO}, 403, X_Error_Message=NO)
        if not (self.folder / name).is_dir():
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if path.endswith("/preupload/main"):
            return reply({"files": [self.kind(name, each["path"]) for each in json.loads(content)["files"]]})
        if path.endswith("/objects/batch"):
            return reply({"objects": [self.place(each) for each in json.loads(content)["objects"]]})
        assert path.endswith("/commit/main"), path
        return self.commit(name, [json.loads(line) for line in content.splitlines()])

    def create(self, asked: dict) -> Answer:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "me":
            return reply({"error": NO}, 403, X_Error_Message=NO)
        there = (self.folder / name).is_dir()
        if not there:
            (self.folder / name).mkdir(parents=True)
            if asked.get("visibility") == "private":
                self.private.add(name)
        return reply({"url": f"{self.url}/{name}"}, 409 if there else 200)

    def kind(self, name: str, path: str) -> dict:
        file = self.folder / name / path
        known = {}
        if file.exists():
            content = file.read_bytes()
            known = {"oid": hashlib.sha256(content).hexdigest() if path.endswith(LARGE) else blob(content)}
        return {
            "path": path,
            "uploadMode": "lfs" if path.endswith(LARGE) else "regular",
            "shouldIgnore": False,
            **known,
        }

    def place(self, asked: dict) -> dict:
        known = (
            {}
            if asked["oid"] in self.objects
            else {"actions": {"upload": {"href": f"{self.url}/storage/{asked['oid']}"}}}
        )
        return asked | known

    def commit(self, name: str, lines: list[dict]) -> Answer:
        """Put a commit's files in place, all or none."""
        new, gone = {}, []
        for line in lines[1:]:
            path, value = line["value"]["path"], line["value"]
            if line["key"] == "file":
                new[path] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                new[path] = self.objects.get(value["oid"]) or self.from_xet(value["oid"], value["size"])
                assert (
                    len(new[path]) == value["size"] and hashlib.sha256(new[path]).hexdigest() == value["oid"]
                )
            else:
                gone.append(path)
        for path, content in new.items():
            (self.folder / name / path).write_bytes(content)
        for path in gone:
            (self.folder / name / path).unlink()
        self.commits.setdefault(name, []).append(
            {"title": lines[0]["value"]["summary"], "files": sorted(new), "gone": gone}
        )
        url = f"{self.url}/{name}/commit/{self.commit_of(name)}"
        return reply({"commitUrl": url, "commitOid": self.commit_of(name)})

    def from_xet(self, sha256: str, size: int) -> bytes:
        """Return what xet's storage has, by hf_xet itself: whole files can be had by its own digest alone."""
        path = self.folder / ".whole"
        with hf_xet.XetSession().new_file_download_group(token_refresh_url=f"{self.url}/xet/read") as group:
            group.start_download_file(hf_xet.XetFileInfo(self.xet_digest(sha256), size), str(path))
        return path.read_bytes()

    def xet_digest(self, sha256: str) -> str:
        """Return xet's digest of a file, from the listings of what was stored (huggingface.co/docs/xet/shard)."""
        for shard in self.storage.rglob("shards/*.mdb"):
            content, at = shard.read_bytes(), 48
            while content[at : at + 32] != b"\xff" * 32:  # entries of 48 bytes, the first one a file's own
                flags, count = struct.unpack_from("<II", content, at + 32)
                entries = 1 + count * (2 if flags >> 31 else 1)
                if flags >> 30 & 1:
                    if ordered(content[at + 48 * entries :]) == sha256:
                        return ordered(content[at:])
                    entries += 1
                at += 48 * entries
        raise AssertionError(f"{sha256} didn't arrive")


def ordered(content: bytes) -> str:
    """Return a digest as hf_xet writes it: four whole numbers, lowest byte first."""
    return "".join(f"{part:016x}" for part in struct.unpack_from("<4Q", content))


def blob(content: bytes) -> str:
    """Return git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
