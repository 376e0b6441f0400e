"""A real Chromium that reaches no network, and the demo served to it."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest

from people import free_port
from tiny import ROOT

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
needs_chromium = pytest.mark.skipif(not os.path.exists(CHROMIUM), reason="needs Chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@contextmanager
def chromium():
    """Give a browser, which finds no host but 127.0.0.1."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def demo(pipeline, temporary, *options):
    """Serve the demo of a pipeline's folder; `temporary` is its folder for temporary files. Gives address and process."""
    temporary.mkdir()
    port = str(free_port())
    process = subprocess.Popen(
        [sys.executable, "-m", "vitscale", "demo", "--pipeline", pipeline, "--port", port, *options],
        cwd=temporary,
        env=os.environ
        | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT / "src"), "VITSCALE_DEVICE": "cpu"}
        | {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"},  # a proxy that is no more
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line == f"open http://127.0.0.1:{port}/ (Ctrl-C ends it)\n", line + process.stdout.read()
        yield f"http://127.0.0.1:{port}/", process
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
