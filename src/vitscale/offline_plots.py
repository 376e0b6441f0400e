"""Make the page of `dvc plots show` and `dvc plots diff` work without a network: `python -m vitscale.offline_plots`, once.

DVC's page loads Vega's scripts from a CDN. This writes .dvc/tmp/offline.html, the committed page template with those
scripts in it, and makes it the template of each of this checkout's pipelines; there
`dvc config --local --unset plots.html_template` takes it back.
"""

import subprocess
from pathlib import Path

import vl_convert

from vitscale.files import write_bytes

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    scripts = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed", vl_version="5.8")  # nearest to DVC's own, 5.2
    page = (ROOT / ".dvc/plots/page.html").read_text(encoding="utf-8").replace("{scripts}", f"<script>{scripts}</script>")
    for dvc in [ROOT / ".dvc", *ROOT.glob("examples/*/.dvc")]:
        write_bytes(dvc / "tmp/offline.html", page.encode())
        subprocess.run(["dvc", "config", "--local", "plots.html_template", "tmp/offline.html"], cwd=dvc.parent, check=True)
    print("pages of `dvc plots show` and `dvc plots diff` now need no network")


if __name__ == "__main__":
    main()
