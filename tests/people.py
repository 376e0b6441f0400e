"""People with homes of their own, and remotes to share through."""

import os
import shutil
import socket
from pathlib import Path

import boto3
from botocore.config import Config

from tiny import outputs, run

MODEL = "models/finetuned/vit-digits"
BUCKET = "tiny"
KEYS = {"access_key_id": "someone", "secret_access_key": "secret"}


class Person:
    """A checkout, and commands that see nothing of anybody else's."""

    def __init__(self, home: Path):
        self.home, self.folder = home, home / "repo"
        self.env = os.environ | {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "DVC_SITE_CACHE_DIR": str(home / "site"),
            "VITSCALE_CHECKPOINTS": str(home / "checkpoints"),
            "AWS_MAX_ATTEMPTS": "1",
        }  # a server that is gone: seconds, not a minute

    def __call__(self, *command, check=True, cwd=None):
        return run(*command, cwd=cwd or self.folder, check=check, env=self.env)

    def use(self, settings):
        """What a person keeps out of git: .dvc/config.local, which goes before the committed .dvc/config."""
        lines = [f"    {key} = {value}" for key, value in settings.items()]
        (self.folder / ".dvc/config.local").write_text("\n".join(["['remote \"storage\"']", *lines]) + "\n")
        return self


def clone(origin, home, settings):
    home.mkdir()
    run("git", "clone", "-q", str(origin), "repo", cwd=home)
    return Person(home).use(settings)


def duplicate(person, home, settings):
    """Return somebody with the same checkout and cache, for a test to spoil."""
    shutil.copytree(person.folder, home / "repo", symlinks=True)
    return Person(home).use(settings)


class Folder:
    def __init__(self, path):
        self.path, self.settings = path, {"url": path}

    def place(self, name):
        return self.path / name

    def names(self):
        return {path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file()}

    def read(self, name):
        return self.place(name).read_bytes()

    def write(self, name, content):
        self.place(name).unlink(missing_ok=True)  # DVC's objects are read-only
        if content is not None:
            self.place(name).write_bytes(content)


class S3:
    def __init__(self, port, prefix):
        endpoint = f"http://127.0.0.1:{port}"
        self.prefix = prefix + "/"
        self.settings = {"url": f"s3://{BUCKET}/{prefix}", "endpointurl": endpoint, **KEYS}
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 1}),
            **{f"aws_{name}": value for name, value in KEYS.items()},
        )

    def names(self):
        listing = self.client.list_objects_v2(Bucket=BUCKET, Prefix=self.prefix).get("Contents", [])
        return {entry["Key"].removeprefix(self.prefix) for entry in listing}

    def read(self, name):
        return self.client.get_object(Bucket=BUCKET, Key=self.prefix + name)["Body"].read()

    def write(self, name, content):
        if content is None:
            self.client.delete_object(Bucket=BUCKET, Key=self.prefix + name)
        else:
            self.client.put_object(Bucket=BUCKET, Key=self.prefix + name, Body=content)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def is_exact(person, author):
    return outputs(person.folder) == outputs(author.folder)
