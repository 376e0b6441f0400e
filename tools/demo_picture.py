"""Make docs/demo*.png anew, the demo's three views in Chromium: `python -m tools.demo_picture`.

It wants finished rows, Chromium and playwright.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from vitscale.base.endings import begin, in_words
from vitscale.base.errors import UserError
from vitscale.commands.main import add_pipeline
from vitscale.commands.page import serving

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 1280, 870


def main(pipeline: Path, number: int | None) -> None:
    """Write the pictures. Raises UserError where there is no Chromium, or nothing to show."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        raise UserError("neither chromium nor google-chrome is in PATH; install one")
    with (
        serving(pipeline, "127.0.0.1", None) as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(f"{address}?__theme=light")
        page.wait_for_selector(".answers article")
        if number is not None:
            page.locator(f".few button[data-number='{number}']").click()
            page.locator(".answers h2", has_text=f"Test image {number}:").wait_for()
        for view, name in (("Image", ""), ("Disagreements", "-disagreements"), ("Results", "-results")):
            page.get_by_role("tab", name=view).click()
            page.mouse.move(0, 0)
            page.wait_for_timeout(2000)  # charts are drawn after the view has opened
            path = ROOT / f"docs/demo{name}.png"
            page.screenshot(path=path)
            print(f"{path}: {path.stat().st_size} bytes")
        browser.close()


if __name__ == "__main__":
    begin()
    with in_words():
        parser = argparse.ArgumentParser(prog="python -m tools.demo_picture", description=__doc__)
        parser.add_argument("--image", type=int, help="one of the page's first test images, by number")
        add_pipeline(parser)
        arguments = parser.parse_args()
        main(arguments.pipeline, arguments.image)
