"""Where the demo listens: beside another one that starts too, and at an address of IPv6."""

import socket
import urllib.request

import pytest

from playground import playground
from vitscale.base.errors import UserError
from vitscale.commands import page
from vitscale.commands.page import serving


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return playground(tmp_path_factory.mktemp("address") / "pipeline")


def test_two_demos_that_start_together_both_open(pipeline, monkeypatch):
    """Catches a port that is chosen seconds before it is taken: the second demo ended in words of Gradio's."""
    with socket.socket() as other:
        views = page.Views

        def meanwhile(folder):
            other.bind(("127.0.0.1", page.free_port("127.0.0.1", None)))
            other.listen()
            return views(folder)

        monkeypatch.setattr(page, "Views", meanwhile)
        with serving(pipeline, "127.0.0.1", None) as address:
            assert address != f"http://127.0.0.1:{other.getsockname()[1]}/"
        with pytest.raises(UserError, match="in use.*; give another --host or --port$"):
            monkeypatch.setattr(page, "Views", views)
            serving(pipeline, "127.0.0.1", other.getsockname()[1]).__enter__()


def test_it_listens_at_an_address_of_ipv6(pipeline):
    """Catches a traceback about the port `:1:7860`."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("needs IPv6")
    with serving(pipeline, "::1", None) as address:
        assert address.startswith("http://[::1]:")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert b"vitscale" in opener.open(address).read()
