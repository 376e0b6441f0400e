"""Servers on 127.0.0.1 that behave as the network's worst do."""

import datetime
import ipaddress
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Gives its answers in turn, the last one from then on; `asked` has each request's Range, `conditions` its If-Range."""

    daemon_threads = True

    def __init__(self, port: int):
        super().__init__(("127.0.0.1", port), Handler)
        self.answers: list[Answer] = []
        self.asked: list[str | None] = []
        self.conditions: list[str | None] = []
        self.turn = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/file"

    def handle_error(self, *_):
        """A client that goes away is what is tested here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.close_connection = True
        with self.server.turn:
            self.server.asked.append(self.headers["Range"])
            self.server.conditions.append(self.headers["If-Range"])
            left = self.server.answers
            answer = left.pop(0) if len(left) > 1 else left[0]
        answer(self)

    def log_message(self, *_):
        pass


def content_of(
    content: bytes,
    *,
    tag: str | None = '"1"',
    ranges: bool = True,
    shift: int = 0,
    until: int | None = None,
    promised: int | None = None,
    chunked: bool = False,
    rate: int | None = None,
    kind: str = "application/octet-stream",
    extra: bytes | Iterator[bytes] = (),
) -> Answer:
    """An answer with a file's content, or from the byte on that Range names where the tag is that of If-Range.

    It ends before byte `until`, promises `promised` bytes (-1: doesn't say), gives `rate` bytes a second, sends
    `extra` after the end, and what begins `shift` bytes off when it is asked for a range.
    """

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start, asked, condition = 0, handler.headers["Range"], handler.headers["If-Range"]
        if asked and ranges and condition in (None, tag):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) + shift
            if start >= len(content):
                handler.send_response(416)
                handler.end_headers()
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Type", kind)
        if tag:
            handler.send_header("ETag", tag)
        if chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        elif promised != -1:
            handler.send_header("Content-Length", str(promised or len(content) - start))
        handler.end_headers()
        body = content[start:until]
        step = 10_000 if rate is None else max(1, rate // 50)
        for i in range(0, len(body), step):
            piece = body[i : i + step]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            if rate:
                time.sleep(len(piece) / rate)
        for piece in extra:
            handler.wfile.write(piece)
        if chunked and until is None:
            handler.wfile.write(b"0\r\n\r\n")

    return answer


def status(code: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return answer


@contextmanager
def serving(*answers: Answer, certificate: Path | None = None, port: int = 0) -> Iterator[Server]:
    """A running server; with a certificate it talks TLS."""
    server = Server(port)
    server.answers = list(answers)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.url = server.url.replace("http:", "https:")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def self_signed(path: Path, days: int) -> Path:
    """Write a key and its certificate for 127.0.0.1, which ends after so many days (before today, if below 0)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path
