"""Servers that are gone or refuse, and pushes that are killed: what came over is whole, and the rest can be made good."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from people import S3, Folder, clone, duplicate, free_port, is_exact


class Proxy:
    """Passes connections on to a port until it has seen so many PUTs; then it is gone, with all its connections."""

    def __init__(self, target):
        self.target, self.port, self.puts_left, self.sockets = target, free_port(), None, []

    def start(self, puts):
        self.puts_left = puts
        self.sockets = [socket.create_server(("127.0.0.1", self.port))]
        threading.Thread(target=self.accept, args=self.sockets, daemon=True).start()

    def stop(self):
        for each in self.sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                client, server = listener.accept()[0], socket.create_connection(("127.0.0.1", self.target))
                self.sockets += [client, server]
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self.pump, args=ends, daemon=True).start()

    def pump(self, source, sink):
        with contextlib.suppress(OSError):
            while content := source.recv(65536):
                if content.startswith(b"PUT "):
                    self.puts_left -= 1
                    if self.puts_left < 0:
                        return self.stop()
                sink.sendall(content)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def test_server_gone_in_the_middle_of_a_push(server, author, origin, tmp_path):
    """Catches a push that takes objects for sent that are not: the next would leave them out, and B lack them."""
    remote = S3(server, "gone")
    proxy = Proxy(server)
    a = duplicate(author, tmp_path / "a", remote.settings | {"endpointurl": f"http://127.0.0.1:{proxy.port}"})
    proxy.start(puts=5)
    failed = a("dvc", "push", check=False)
    assert failed.returncode != 0 and "ERROR" in failed.stderr and "Traceback" not in failed.stderr
    some = remote.names()
    assert 0 < len(some) <= 5
    proxy.start(puts=1000)
    a("dvc", "push")
    proxy.stop()
    assert some < remote.names()
    b = clone(origin, tmp_path / "b", remote.settings)
    b("dvc", "pull")
    assert is_exact(b, author)


class Refusing(BaseHTTPRequestHandler):
    """S3's answer to an unknown key."""

    def do_GET(self):
        body = b"<Error><Code>InvalidAccessKeyId</Code><Message>The key you provided does not exist.</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_PUT = do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("command", ["push", "pull"])
def test_wrong_credentials(author, origin, tmp_path, command):
    """Catches a refusal that passes for success, or that buries its one line under a traceback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as refusing:
        threading.Thread(target=refusing.serve_forever, daemon=True).start()
        settings = S3(refusing.server_port, "refused").settings
        if command == "push":
            person = duplicate(author, tmp_path / "a", settings)
        else:
            person = clone(origin, tmp_path / "b", settings)
        result = person("dvc", command, check=False)
        refusing.shutdown()
    assert result.returncode != 0 and "Traceback" not in result.stdout + result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
    assert "Forbidden" in errors[0] and len(errors) <= 2, errors  # pull adds which files it is without


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "folder"])
def test_killed_pushes(kind, started, request, author, origin, tmp_path):
    """Catches a push that, killed at any moment, leaves half an object or can't be made good: 10 kills a kind of remote."""
    moments = random.Random(kind)

    def fresh(name):
        if kind == "s3":
            return S3(request.getfixturevalue("server"), f"killed-{name}")
        (tmp_path / f"remote-{name}").mkdir()
        return Folder(tmp_path / f"remote-{name}")

    remote = fresh("measured")
    a = duplicate(author, tmp_path / "a", remote.settings)
    a("dvc", "push")
    whole = remote.names()
    tries = kills = midway = more = 0
    while kills < 10:
        tries += 1
        remote = fresh(tries)
        a.use(remote.settings)
        push = subprocess.Popen(
            ["dvc", "push"],
            cwd=a.folder,
            env=a.env,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        enough = moments.randrange(len(whole))
        while push.poll() is None and len(remote.names()) < enough:
            pass
        time.sleep(moments.uniform(0, 0.02))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(push.pid, signal.SIGKILL)
        if push.wait() != -signal.SIGKILL:
            continue  # it had ended
        kills, some, pushes = kills + 1, len(remote.names()), 1
        while (
            "Everything is up to date" not in a("dvc", "push").stdout
        ):  # one push more can leave objects out, DVC 3.67
            pushes += 1
            assert pushes < 5
        assert remote.names() == whole
        midway, more = midway + (0 < some < len(whole)), more + (pushes > 2)
        b = clone(origin, tmp_path / f"b{kills}", remote.settings)
        b("dvc", "pull")
        assert is_exact(b, author)
    print(
        f"{kind}: {kills} kills, {midway} with some objects sent and some not, "
        f"{more} after which a second push still sent some"
    )
    assert midway
