"""An author, who has run the tiny pipeline, and the remotes that it was pushed to."""

import shutil
import socket
import subprocess
import sys
import time

import pytest

from people import BUCKET, S3, Folder, Person, free_port


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The port of moto's S3, a process of its own."""
    port = free_port()
    with (tmp_path_factory.mktemp("moto") / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log
        )
        try:
            end = time.monotonic() + 600
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert process.poll() is None and time.monotonic() < end, "moto doesn't start"
                time.sleep(0.1)
            S3(port, "").client.create_bucket(Bucket=BUCKET)
            yield port
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def author(done, forked, tmp_path_factory):
    """A, who has run and committed the tiny pipeline, and pushed to git only (`home/origin.git`)."""
    home = tmp_path_factory.mktemp("author")
    person = Person(home)
    shutil.copytree(done, person.folder, symlinks=True)
    path = person.folder / "root.yaml"  # has the artifacts' names
    path.write_text(path.read_text().replace("cifar100", "digits"))
    person("dvc", "remote", "add", "-q", "-d", "storage", f"s3://{BUCKET}/nowhere")
    person("dvc", "remote", "modify", "storage", "verify", "true")
    person("git", "init", "-q", "--bare", "-b", "main", str(home / "origin.git"))
    person("git", "remote", "add", "origin", str(home / "origin.git"))
    person("git", "add", "-A")
    person("git", "commit", "-qm", "run")
    person("git", "push", "-q", "origin", "main")
    return person


@pytest.fixture
def origin(author):
    return author.home / "origin.git"


@pytest.fixture(scope="module", params=["s3", "folder"])
def remote(request, tmp_path_factory, author):
    """A remote that A's run was pushed to. Tests leave it as it was."""
    if request.param == "s3":
        remote = S3(request.getfixturevalue("server"), "shared")
    else:
        remote = Folder(tmp_path_factory.mktemp("storage"))
    author.use(remote.settings)("dvc", "push")
    return remote
