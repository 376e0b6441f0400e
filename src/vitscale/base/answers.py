"""What servers answer: the bytes of a file as they arrive, and in a few words why there are none."""

import ssl
import time
from collections.abc import Iterator

import requests
import urllib3

CONNECT, SILENCE = 10, 60  # seconds: to connect, and without a byte
WINDOW, SLOW = 30, 250_000  # so many seconds below so many bytes a second: another source may be faster
PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that another try may not get


class Failed(Exception):
    """A source gives nothing; `again`: it may later, after the seconds that it asks for."""

    def __init__(self, reason: str, again: bool = False, after: float = 0):
        super().__init__(reason)
        self.again, self.after = again, after


class Slow(Failed):
    """A source gives what it has, but slowly."""


def chunks_of(answer: requests.Response, patient: bool) -> Iterator[bytes]:
    """Yield what arrives, as it arrives; raise Slow where that is too little for one who isn't patient."""
    began, count = time.monotonic(), 0
    while chunk := answer.raw.read1(1 << 16, decode_content=False):
        yield chunk
        count += len(chunk)
        spent = time.monotonic() - began
        if spent >= WINDOW:
            if not patient and count < SLOW * spent:
                raise Slow(f"gives {count / spent / 1000:.0f} kB a second")
            began, count = time.monotonic(), 0


def asked_pause(answer: requests.Response) -> float:
    """Return for how many seconds a server asks in Retry-After, 0 where it doesn't."""
    try:
        return urllib3.Retry().parse_retry_after(answer.headers["Retry-After"])
    except (KeyError, urllib3.exceptions.InvalidHeader):
        return 0


def reason_of(error: Exception, again: bool) -> Failed:
    """Return in a few words what requests or urllib3 raised.

    A server that isn't reached at all is tried `again` only where something has come from the network.
    """
    causes: list[BaseException] = [error]
    for cause in causes:  # each wraps the next in its arguments or as its reason
        inner = [*cause.args, getattr(cause, "reason", None)]
        causes += [each for each in inner if isinstance(each, BaseException) and each not in causes]
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Failed(
                f"its certificate can't be verified ({cause.verify_message}); that check is never dropped: "
                "the way out is another source or VITSCALE_MIRROR"
            )
    last = " ".join(str(causes[-1]).split()).rsplit(": ", 1)[-1]
    if isinstance(error, requests.exceptions.ProxyError):
        return Failed(f"can't be reached through the proxy ({last})", again)
    if isinstance(error, requests.ConnectTimeout):
        return Failed("can't be reached (no answer)", again)
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return Failed("is silent", again=True)
    if any(isinstance(cause, urllib3.exceptions.NewConnectionError) for cause in causes):
        return Failed(f"can't be reached ({last})", again)
    if isinstance(error, requests.ConnectionError | urllib3.exceptions.HTTPError):
        return Failed(f"the connection broke off ({last})", again=True)
    return Failed(last)
