"""Downloads: whole and right or not at all, whatever servers do; and none arrives twice."""

import gzip
import hashlib
import itertools
import os
import time

import numpy as np
import pytest

from servers import content_of, serving, status
from vitscale.base import answers
from vitscale.base.errors import UserError
from vitscale.base.fetch import fetch

pytestmark = pytest.mark.usefixtures("downloads", "pauses")

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)
MD5, SHA256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()
GOOD = content_of(CONTENT)


def get(*urls: str, size: int | None = len(CONTENT), **pin: str) -> bytes:
    return fetch("file.bin", urls, size=size, **(pin or {"md5": MD5})).read_bytes()


def refused(*urls: str, **given) -> str:
    with pytest.raises(UserError) as caught:
        get(*urls, **given)
    return str(caught.value)


def left(downloads) -> set[str]:
    return {path.name for path in downloads.iterdir()} - {"file.bin.lock"}


# ---- one source ----
@pytest.mark.parametrize("size", [len(CONTENT), None])
@pytest.mark.parametrize("pin", [{"md5": MD5}, {"sha256": SHA256}, {"sha256": SHA256[:8]}], ids=str)
def test_a_file_is_fetched_once(downloads, size, pin):
    """A second call asks again, a part stays behind, or the first digits of a sha256 are no pin."""
    with serving(GOOD) as server:
        assert get(server.url, size=size, **pin) == CONTENT
    assert get(server.url, size=size, **pin) == CONTENT
    assert server.asked == [None] and left(downloads) == {"file.bin"}


def test_no_pin_is_no_download():
    with pytest.raises(ValueError, match="md5 or sha256"):
        fetch("file.bin", ["http://127.0.0.1:1"], size=5)


def test_what_lies_there_is_checked_and_never_overwritten(downloads):
    """A damaged or foreign file of that name is believed, or deleted."""
    downloads.mkdir()
    (downloads / "file.bin").write_bytes(OTHER)
    assert refused("http://127.0.0.1:1") == (
        f"{downloads}/file.bin has the md5 {hashlib.md5(OTHER).hexdigest()}, not {MD5}; delete it to have it fetched again"
    )
    assert (downloads / "file.bin").read_bytes() == OTHER


def test_the_mirror_is_looked_in_first(downloads, mirror):
    """The network is asked for what the mirror has, or another file there is taken."""
    (mirror / "file.bin").write_bytes(CONTENT)
    assert fetch("file.bin", [], size=len(CONTENT), md5=MD5) == mirror / "file.bin"
    (mirror / "file.bin").write_bytes(CONTENT[:-1])
    assert refused() == (
        f"{mirror}/file.bin has 299999 bytes, not 300000; copy it again, or take it out to have it fetched"
    )
    assert not downloads.exists()


@pytest.mark.parametrize("tag", ['"1"', None, 'W/"1"'])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("until", [1, 65_535, 65_536, 150_001, 299_999])
def test_a_broken_connection_is_gone_on_from_at_any_byte(tag, chunked, until, pauses):
    """What has arrived is asked for again, or a byte is lost or doubled where the halves meet."""
    with serving(
        content_of(CONTENT, tag=tag, until=until, chunked=chunked), content_of(CONTENT, tag=tag)
    ) as server:
        assert get(server.url) == CONTENT
    assert server.asked == [None, f"bytes={until}-"] and pauses == [1]
    assert server.conditions == [None, tag if tag == '"1"' else None]


def test_a_connection_that_ends_without_a_word():
    """Where no length was promised, an early end is taken for the file's, and what arrived is thrown away."""
    with serving(content_of(CONTENT, promised=-1, until=150_000), GOOD) as server:
        assert get(server.url) == CONTENT
    assert server.asked == [None, "bytes=150000-"]


def test_many_broken_connections_are_no_failure_while_something_arrives(pauses):
    """A server that cuts off every second megabyte is given up after five of them."""
    with serving(*(content_of(CONTENT, until=20_000 * i) for i in range(1, 15)), GOOD) as server:
        assert get(server.url) == CONTENT
    assert len(server.asked) == 15 and pauses == [1] * 14


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_file_that_changed_is_not_joined_to_half_of_the_old_one(size, pauses):
    """The second half of a new file is glued to the first half of an older one."""
    with serving(content_of(OTHER, tag='"old"', until=150_000), content_of(CONTENT, tag='"new"')) as server:
        assert get(server.url, size=size) == CONTENT
    assert server.conditions == [None, '"old"']


@pytest.mark.parametrize("tag", ['"1"', None])
def test_a_file_that_changed_without_saying_so_is_fetched_anew(tag):
    """Without an honest tag a wrong file results, or every further try goes on from the same wrong half."""
    with serving(content_of(OTHER, tag=tag, until=150_000), content_of(CONTENT, tag=tag)) as server:
        assert get(server.url) == CONTENT
    assert server.asked == [None, "bytes=150000-", None]


@pytest.mark.parametrize("shift", [7, -7])
def test_a_server_that_sends_another_range(shift, capsys):
    """What begins elsewhere is taken for what was asked."""
    with serving(content_of(CONTENT, until=150_000), content_of(CONTENT, shift=shift)) as server:
        assert get(server.url) == CONTENT
    assert server.asked == [None, "bytes=150000-", None]
    assert "sends another part than was asked for; 0.1 MB are here" in capsys.readouterr().out


def test_a_server_that_sends_all_takes_nothing_away():
    """All is appended to the half that is there, or what it sends less than that takes the rest away."""
    all_ = {"ranges": False, "until": 100_000}
    with (
        serving(content_of(CONTENT, until=150_000), content_of(CONTENT, **all_)) as first,
        serving(GOOD) as second,
    ):
        assert get(first.url, second.url) == CONTENT
    assert first.asked == [None] + ["bytes=150000-"] * 4 and second.asked == ["bytes=150000-"]


def test_a_changed_file_that_breaks_off_leaves_nothing_of_the_old_one():
    """The new beginning is written over the old one, and the old end stays behind it."""
    new = content_of(CONTENT, tag='"new"', until=100_000), content_of(CONTENT, tag='"new"')
    with serving(content_of(OTHER, tag='"old"', until=150_000), *new) as server:
        assert get(server.url) == CONTENT
    assert server.asked == [None, "bytes=150000-", "bytes=100000-"]


def test_an_archive_stays_packed():
    """A server calls a .gz file an encoding, or would pack it once more on its way: the bytes are others then."""
    packed = gzip.compress(CONTENT[:1000])

    def answer(handler):
        content = gzip.compress(packed) if "gzip" in handler.headers["Accept-Encoding"] else packed
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    with serving(answer) as server:
        assert get(server.url, size=len(packed), md5=hashlib.md5(packed).hexdigest()) == packed


@pytest.mark.parametrize("size", [len(CONTENT), None])
@pytest.mark.parametrize(
    "lie",
    [
        {"promised": 200_000},
        {"promised": 400_000},
        {"promised": -1, "extra": itertools.repeat(b"x" * 10_000)},
        {"chunked": True, "extra": itertools.repeat(b"2710\r\n" + b"x" * 10_000 + b"\r\n")},
        {"chunked": True, "until": 200_000},
    ],
    ids=["too small", "too large", "endless", "endless in chunks", "cut in chunks"],
)
def test_lies_about_lengths_end_and_give_no_file(lie, size, downloads, monkeypatch):
    """A server that promises too much or too little, or never ends, gives a wrong file, fills the disk, or holds us for ever."""
    monkeypatch.setattr("vitscale.base.fetch.LARGEST", 400_000)
    endless = "extra" in lie and size is not None  # then what was wanted has come before the rest
    with serving(content_of(CONTENT, tag=None, ranges=False, **lie)) as server:
        if endless:
            assert get(server.url, size=size) == CONTENT
            return
        message = refused(server.url, size=size)
    assert message.startswith(f"file.bin can't be fetched:\n  {server.url}: ")
    assert not (downloads / "file.bin").exists()
    assert sum(path.stat().st_size for path in downloads.iterdir()) < (1000 if "extra" in lie else 301_000)


def test_a_file_beyond_all_bounds_is_not_begun(downloads, monkeypatch):
    monkeypatch.setattr("vitscale.base.fetch.LARGEST", 200_000)
    with serving(GOOD) as server:
        assert f"{server.url}: offers 300000 bytes, which is more than" in refused(server.url, size=None)
    assert left(downloads) == set()


def test_an_honest_server_that_says_no_length():
    with serving(content_of(CONTENT, promised=-1)) as server:
        assert get(server.url, size=None) == CONTENT


# ---- answers without a file ----
def test_a_server_that_is_busy_is_asked_again_when_it_says(pauses):
    with serving(
        status(429, Retry_After="7"), status(503), status(503, Retry_After="nonsense"), GOOD
    ) as server:
        assert get(server.url) == CONTENT
    assert pauses == [7, 2, 4]


def test_pauses_have_a_bound(pauses, monkeypatch):
    """A server holds us for an hour, a second at a time or at once."""
    with serving(status(429, Retry_After="3600")) as server:
        assert f"{server.url}: answers 429 Too Many Requests, and asks to wait 3600 s\n" in refused(
            server.url
        )
    with serving(*(content_of(CONTENT, until=100 * i) for i in range(1, 2000))) as server:
        refused(server.url)
    assert sum(pauses) <= 300
    monkeypatch.setattr("vitscale.base.fetch.MEGABYTE", 1000)  # each new one is worth as many again
    with serving(*(content_of(CONTENT, until=32_000 + 200 * i) for i in range(1, 1000)), GOOD) as server:
        assert get(server.url) == CONTENT


@pytest.mark.parametrize("code, tries", [(403, 1), (404, 1), (429, 5), (503, 5)])
def test_each_source_is_named_with_what_it_answered(code, tries, downloads):
    """The next source isn't tried, a refusal is asked for again, or the message hides a source or the way out."""
    with (
        serving(status(code)) as first,
        serving(content_of(b"<html>", kind="text/html; charset=utf-8")) as second,
    ):
        message = refused(first.url, second.url)
    assert len(first.asked) == tries and len(second.asked) == 1
    reason = {403: "Forbidden", 404: "Not Found", 429: "Too Many Requests", 503: "Service Unavailable"}[code]
    assert message.splitlines() == [
        "file.bin can't be fetched:",
        f"  {first.url}: answers {code} {reason}",
        f"  {second.url}: answers with a web page",
        "try again later; or set VITSCALE_MIRROR to a folder that has file.bin",
    ]


def test_a_wrong_file_is_left_for_the_next_source(downloads):
    with serving(content_of(OTHER)) as first, serving(GOOD) as second:
        assert get(first.url, second.url) == CONTENT
        (downloads / "file.bin").unlink()
        message = refused(first.url)
    assert f"{first.url}: its file has the md5 {hashlib.md5(OTHER).hexdigest()}, not {MD5}\n" in message
    assert left(downloads) == set()


def test_the_next_source_goes_on_where_the_first_one_broke_off():
    """An hour's download is thrown away because its source died."""
    with (
        serving(content_of(CONTENT, until=250_000), status(404)) as first,
        serving(content_of(CONTENT, tag='"b"')) as second,
    ):
        assert get(first.url, second.url) == CONTENT
    assert second.asked == ["bytes=250000-"] and second.conditions == [None]


def test_a_slow_source_is_left_for_a_fast_one_and_taken_where_there_is_none(monkeypatch):
    """A throttled server holds us for an hour while a copy is there, or is given up where it's the only one."""
    monkeypatch.setattr(answers, "WINDOW", 0.05)
    monkeypatch.setattr(answers, "SLOW", 5_000_000)
    slow = content_of(CONTENT, rate=1_000_000)
    with serving(slow) as first, serving(GOOD) as second:
        assert get(first.url, second.url) == CONTENT
    assert len(first.asked) == 1 and int(second.asked[0][6:-1]) > 10_000
    monkeypatch.setenv("VITSCALE_DOWNLOADS", os.environ["VITSCALE_DOWNLOADS"] + "2")
    with (
        serving(content_of(CONTENT, rate=200_000), content_of(CONTENT, rate=2_000_000)) as first,
        serving(status(403)) as second,
    ):
        assert get(first.url, second.url) == CONTENT
    assert len(first.asked) == 2 and first.asked[1] != "bytes=0-"


def test_a_server_that_falls_silent_is_asked_again(monkeypatch):
    monkeypatch.setattr("vitscale.base.fetch.SILENCE", 0.2)

    def silent(handler):
        content_of(CONTENT, until=100_000)(handler)
        handler.wfile.flush()
        time.sleep(1)

    with serving(silent, GOOD) as server:
        assert get(server.url) == CONTENT
    assert server.asked == [None, "bytes=100000-"]


def test_redirects_are_followed_and_a_circle_is_left():
    with serving(GOOD) as goal, serving(status(302, Location=goal.url)) as first:
        assert get(first.url) == CONTENT
    with serving(status(302, Location="/file")) as server:
        assert "redirects" in refused(server.url, sha256="0")
