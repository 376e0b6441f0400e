"""Downloads that are killed, shared by processes, or have no room; certificates; a network that isn't there."""

import hashlib
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import numpy as np
import pytest

from servers import content_of, self_signed, serving
from tiny import ROOT
from vitscale.base.errors import UserError
from vitscale.base.fetch import fetch

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
SCRIPT = f"""
import sys
sys.path.insert(0, {str(ROOT / "src")!r})
from vitscale.base.fetch import fetch
print(fetch("file.bin", [sys.argv[1]], size={len(CONTENT)}, md5={MD5!r}))
"""


def started(url: str, before: str = "") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", before + SCRIPT, url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def refused(*urls: str) -> str:
    with pytest.raises(UserError) as caught:
        fetch("file.bin", urls, size=len(CONTENT), md5=MD5)
    return str(caught.value)


def wait_for(size: int, path) -> None:
    limit = time.monotonic() + 20
    while not path.exists() or path.stat().st_size < size:
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_a_killed_download_is_gone_on_from(downloads, kill):
    """What had arrived is lost with the process, or what is there is no beginning of the file."""
    with serving(content_of(CONTENT, rate=100_000), content_of(CONTENT)) as server:
        process = started(server.url)
        wait_for(50_000, downloads / "file.bin.part")
        process.send_signal(kill)
        process.communicate()
        had = (downloads / "file.bin.part").stat().st_size
        assert fetch("file.bin", [server.url], size=len(CONTENT), md5=MD5).read_bytes() == CONTENT
    assert 50_000 <= had < len(CONTENT) and server.asked == [None, f"bytes={had}-"]


def test_killed_after_the_last_byte(downloads):
    """A part that is whole is asked for beyond its end."""
    downloads.mkdir()
    (downloads / "file.bin.part").write_bytes(CONTENT)
    (downloads / "file.bin.part.json").write_text(json.dumps({"url": "x", "version": None, "total": 300_000}))
    assert fetch("file.bin", ["http://127.0.0.1:1"], size=len(CONTENT), md5=MD5).read_bytes() == CONTENT
    assert {path.name for path in downloads.iterdir()} == {"file.bin", "file.bin.lock"}


@pytest.mark.parametrize("promised", [None, -1])
def test_a_part_that_is_too_long_is_cut(downloads, promised):
    """A whole file is fetched twice, since more was there than it has."""
    downloads.mkdir()
    (downloads / "file.bin.part").write_bytes(CONTENT + b"more")
    (downloads / "file.bin.part.json").write_text("")
    with serving(content_of(CONTENT, promised=promised)) as server:
        assert fetch("file.bin", [server.url], size=None, md5=MD5).read_bytes() == CONTENT
    assert server.asked == [None]


def test_a_part_of_somebody_elses_stays(downloads, pauses):
    """A browser's unfinished download of that name is written over, where the folder of downloads is its too."""
    downloads.mkdir()
    (downloads / "file.bin.part").write_bytes(b"mine")
    with serving(content_of(CONTENT)) as server:
        assert "file.bin.part is no part of a download of ours" in refused(server.url)
    assert (downloads / "file.bin.part").read_bytes() == b"mine"


@pytest.mark.parametrize("origin", ["", "[]", '{"url": 3}', '{"total": 7}'])
def test_a_part_of_unknown_origin_is_compared(downloads, pauses, origin):
    """Foreign bytes, or a record that a crash cut, end every later try or get into the file."""
    downloads.mkdir()
    (downloads / "file.bin.part").write_bytes(CONTENT[:1000] + b"x" * 1000)
    (downloads / "file.bin.part.json").write_text(origin)
    with serving(content_of(CONTENT)) as server:
        assert fetch("file.bin", [server.url], size=len(CONTENT), md5=MD5).read_bytes() == CONTENT


def test_two_processes_fetch_once(downloads):
    """Both write into one part, or each asks the server."""
    with serving(content_of(CONTENT, rate=300_000)) as server:
        first = started(server.url)
        wait_for(1, downloads / "file.bin.part")
        second = started(server.url)
        outs = [process.communicate() for process in (first, second)]
    assert [out.splitlines()[-1] for out, _ in outs] == [str(downloads / "file.bin")] * 2
    assert server.asked == [None] and "another process is at the same work" in outs[1][1]
    assert (downloads / "file.bin").read_bytes() == CONTENT


def test_no_room(downloads):
    """A full disk is taken for a broken connection, ends in a traceback, or what arrived is thrown away."""
    limit = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    )
    with serving(content_of(CONTENT)) as server:
        _, err = started(server.url, limit).communicate()
        part = downloads / "file.bin.part"
        assert err.splitlines()[-1] == (
            f"vitscale.base.errors.UserError: {part} can't be written (File too large); make room, or name another "
            "folder with VITSCALE_DOWNLOADS, and try again: what arrived is kept"
        )
        assert 0 < part.stat().st_size <= 100_000
        assert fetch("file.bin", [server.url], size=len(CONTENT), md5=MD5).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "days, trusted, reason",
    [(5, False, "self-signed certificate"), (-5, True, "certificate has expired"), (5, True, None)],
    ids=["self-signed", "expired", "good"],
)
def test_certificates_are_checked(days, trusted, reason, tmp_path, downloads, monkeypatch, pauses):
    """A server that can't prove who it is is believed, asked again, or hides the next source."""
    certificate = self_signed(tmp_path / "server.pem", days)
    if trusted:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with (
        serving(content_of(CONTENT), certificate=certificate) as first,
        serving(content_of(CONTENT)) as second,
    ):
        if reason:
            assert refused(first.url).splitlines()[1] == (
                f"  {first.url}: its certificate can't be verified ({reason}); that check is never dropped: the way "
                "out is another source or VITSCALE_MIRROR"
            )
        assert fetch("file.bin", [first.url, second.url], size=len(CONTENT), md5=MD5).read_bytes() == CONTENT
    assert len(first.asked) == (0 if reason else 1) and len(second.asked) == (1 if reason else 0)
    assert pauses == []


def test_without_a_network_the_message_comes_at_once(downloads, pauses):
    """Someone who is offline waits for a quarter of a minute a source."""
    lines = refused("http://127.0.0.1:1/file", "file:///etc/passwd").splitlines()
    assert lines[1] == "  http://127.0.0.1:1/file: can't be reached ([Errno 111] Connection refused)"
    assert lines[2].startswith("  file:///etc/passwd: No connection adapters were found")
    assert pauses == []


def test_a_network_that_swallows_all_is_asked_once(downloads, monkeypatch, pauses):
    """On a node without a way out each source is waited for five times."""
    monkeypatch.setattr("vitscale.base.fetch.CONNECT", 0.2)
    with socket.socket() as full, ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # nobody takes them, so there is no place for one more
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/file"
        assert refused(url).splitlines()[1] == f"  {url}: can't be reached (no answer)"
    assert pauses == []


def test_a_proxy_that_refuses_is_named(downloads, monkeypatch, pauses):
    """The server is blamed for what this network's own proxy says, or HTTPS_PROXY isn't used."""
    with serving(content_of(CONTENT)) as proxy:  # it knows no CONNECT
        monkeypatch.setenv("https_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "")
        line = refused("https://example.invalid/file").splitlines()[1]
    assert line == (
        "  https://example.invalid/file: can't be reached through the proxy (501 Unsupported method ('CONNECT'))"
    )
    assert pauses == []


def test_a_network_that_went_away_meanwhile_is_waited_for(downloads, monkeypatch):
    """A laptop's network is gone for a minute in a download of an hour, and that ends."""
    with serving(content_of(CONTENT, until=100_000)) as server:
        url = server.url
        again = []

        def back_after_two(_):
            again.append(None)
            if len(again) == 1:
                server.shutdown()
                server.socket.close()
            elif len(again) == 3:
                later.__enter__()

        monkeypatch.setattr("vitscale.base.fetch.pause", back_after_two)
        later = serving(content_of(CONTENT), port=server.server_port)
        try:
            assert fetch("file.bin", [url], size=len(CONTENT), md5=MD5).read_bytes() == CONTENT
        finally:
            later.__exit__(None, None, None)
    assert len(again) == 3
