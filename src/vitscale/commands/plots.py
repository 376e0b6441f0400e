"""Make the pages of `dvc plots show` and `dvc plots diff` work without a network; once is enough.

DVC's page loads Vega's scripts from a CDN. This writes .dvc/tmp/offline.html, the committed page template
with those scripts in it, and makes it the template of each of this checkout's pipelines; there `dvc config
--local --unset plots.html_template` takes it back.
"""

import argparse
import subprocess
from pathlib import Path

from vitscale.base.endings import require_drawing
from vitscale.base.errors import UserError
from vitscale.base.files import write_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments; it has none."""


def main(arguments: argparse.Namespace) -> None:
    """Run the command. Raises UserError outside a checkout."""
    import vl_convert  # takes a while to start

    require_drawing()

    found = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True)
    root = Path(found.stdout.strip())
    if found.returncode or not (root / ".dvc/plots/page.html").exists():
        raise UserError("there is no .dvc/plots/page.html; run this in a checkout of the repository")
    # 5.8 is the nearest to DVC's own, 5.2.
    scripts = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed", vl_version="5.8")
    page = (
        (root / ".dvc/plots/page.html")
        .read_text(encoding="utf-8")
        .replace("{scripts}", f"<script>{scripts}</script>")
    )
    for dvc in [root / ".dvc", *root.glob("examples/*/.dvc")]:
        write_bytes(dvc / "tmp/offline.html", page.encode())
        subprocess.run(
            ["dvc", "config", "--local", "plots.html_template", "tmp/offline.html"],
            cwd=dvc.parent,
            check=True,
        )
    print("pages of `dvc plots show` and `dvc plots diff` now need no network")
