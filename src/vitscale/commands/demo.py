"""A page to play with: what finished rows make of an image, where they disagree, the results.

An image that somebody gives goes from the browser into memory and is forgotten with the answer. The page
needs no network.

--host 127.0.0.1, the default, is for browsers on this machine alone. 0.0.0.0 lets in whoever can reach this
machine, and there is no password.
"""

import argparse
import os
import tempfile
import threading
from pathlib import Path

from vitscale.base.errors import UserError
from vitscale.commands.main import add_pipeline
from vitscale.commands.ports import free_port


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    add_pipeline(parser)


def main(arguments: argparse.Namespace) -> None:
    """Run the command until Ctrl-C. Raises UserError where there is nothing to show, or no such address."""
    serve(arguments.pipeline, arguments.host, arguments.port)


def serve(pipeline: Path, host: str, port: int | None) -> None:
    """Serve the page until Ctrl-C. Raises UserError as `main` does."""
    free_port(host, port)  # before what takes seconds
    for name in ("NO_PROXY", "no_proxy"):  # Gradio asks its own server at its start
        os.environ[name] = f"{os.environ.get(name, '')},127.0.0.1,localhost,{host}".lstrip(",")
    with tempfile.TemporaryDirectory(prefix="vitscale-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # before the import; by default one that all users share
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        try:
            from vitscale.commands.page import serving  # takes seconds
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            install = "`pip install -e '.[demo]'` in the repository's root brings it"
            raise UserError(f"gradio is not installed; {install}") from None
        with serving(pipeline, host, port) as address:
            try:
                print(f"open {address} (Ctrl-C ends it)", flush=True)
                threading.Event().wait()
            except KeyboardInterrupt:
                print()
