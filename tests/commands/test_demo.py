"""The demo's page in a real browser."""

import base64
import io
import os
import re
import signal
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from browsers import chromium, demo, needs_chromium
from playground import CLASSES, HERE, MODELS, playground
from vitscale.data.decode import square

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return playground(tmp_path_factory.mktemp("demo") / "pipeline")


@pytest.fixture(scope="module")
def served(pipeline, tmp_path_factory):
    """The page's address, and the server's folder of temporary files."""
    temporary = tmp_path_factory.mktemp("served") / "tmp"
    with demo(pipeline, temporary) as (address, _):
        yield address, temporary


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(served, browser):
    """What opens the page for a person: `opened(theme="dark", width=400)`. At its end nothing was asked of others."""
    contexts, asked, failed = [], [], []

    def open_(theme="light", width=1280):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto(f"{served[0]}?__theme={theme}")
        page.wait_for_selector(".answers article")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith((served[0], "data:", "blob:"))] == []
    assert failed == []


def png(pixels) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def colour(red, green, blue) -> bytes:
    """Return a photograph's worth of one colour, not square."""
    return png(np.full((90, 120, 3), (red, green, blue), dtype=np.uint8))


def give(page, content, name="mine.png"):
    page.set_input_files("input[type=file]", {"name": name, "mimeType": "image/png", "buffer": content})


def seen(page) -> np.ndarray:
    """Return the pixels that the page says the first row got."""
    address = page.locator(".answers figure img").first.get_attribute("src")
    return np.array(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))


def title(page, wanted) -> None:
    page.locator(".answers h2", has_text=re.compile(wanted)).wait_for()


def tab(page, name) -> None:
    page.get_by_role("tab", name=name).click()


def test_it_opens_on_an_answer(opened):
    """Catches an empty page that waits for an upload, and a row that is left out."""
    page = opened()
    title(page, r"^Test image \d+: ")
    assert page.locator("article h3").all_inner_texts() == list(MODELS)  # a ViT beside a ResNet-18
    for card in page.locator("article").all():
        assert sorted(card.locator(".name").all_inner_texts()) == sorted(CLASSES)
        shares = [float(text.rstrip("%")) for text in card.locator(".share").all_inner_texts()]
        assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(100, abs=0.3)
        assert re.fullmatch(r"took \d+ ms", card.locator("footer").inner_text())
        assert card.locator(".right, .wrong").count() == 1 and card.locator("img.look").count() == 1


def test_an_own_image_is_answered(opened):
    """Catches an upload that goes another way than `predict`'s files, or whose answer is another image's."""
    page, content = opened(), colour(200, 30, 30)
    give(page, content)
    title(page, "^Your image$")
    assert (seen(page) == square(content, 32)).all()
    assert page.locator(".right, .wrong").count() == 0  # nobody knows its class


@pytest.mark.parametrize(
    "content, words",
    [
        (colour(1, 2, 3)[:60], "can't be read as an image: "),
        (b"no image at all", "can't be read as an image: it is none of AVIF, BMP"),
        (b"", "can't be read as an image: it is empty"),
        (
            colour(1, 2, 3).replace((120).to_bytes(4), (60_000).to_bytes(4), 1).replace((90).to_bytes(4), (60_000).to_bytes(4), 1),
            "can't be read as an image: ",
        ),
    ],
    ids=["broken", "text", "empty", "bomb"],
)  # fmt: skip
def test_what_is_no_image_is_refused_in_words(opened, content, words):
    """Catches a traceback, a silent page, or an old answer that stays under a broken file."""
    page = opened()
    give(page, content)
    refused = page.locator(".refused")
    refused.wait_for()
    assert words in refused.inner_text() and "Error" not in refused.inner_text()
    assert page.locator("article").count() == 0
    give(page, colour(9, 9, 9))  # the next one is answered again
    title(page, "^Your image$")


def test_a_file_that_is_too_large_is_refused_in_words(opened, tmp_path):
    """Catches a browser that sends gigabytes, or an answer that never comes."""
    page, path = opened(), tmp_path / "large.png"
    with open(path, "wb") as file:
        file.truncate((32 << 20) + 1)
    page.set_input_files("input[type=file]", path)
    page.get_by_text("This file has 33,554,433 bytes; 33,554,432 are taken.").wait_for()


def test_two_people_at_once_get_their_own(opened):
    """Catches an answer that lands on somebody else's page."""
    pages = {(200, 0, 0): opened(), (0, 0, 200): opened()}
    for _ in range(3):
        for rgb, page in pages.items():
            give(page, colour(*rgb))
        for rgb, page in pages.items():
            title(page, "^Your image$")
            page.wait_for_timeout(300)
            assert (seen(page) == rgb).all()


def test_nothing_of_an_upload_is_kept(opened, served, pipeline):
    """Catches a file of somebody's image, in the server's temporary folder or anywhere else that it writes."""
    before = set(pipeline.rglob("*"))
    page = opened()
    give(page, colour(20, 200, 20))
    title(page, "^Your image$")
    kept = [path for path in served[1].rglob("*") if path.is_file()]
    assert kept == [] and set(pipeline.rglob("*")) == before
    stored = page.evaluate("async () => [localStorage.length, (await indexedDB.databases()).length]")
    assert stored == [0, 0]


def test_files_sent_past_the_page_are_refused(served):
    """Catches Gradio's own upload, which writes what anybody sends into a file."""
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + colour(1, 1, 1)
    request = urllib.request.Request(
        f"{served[0]}gradio_api/upload",
        data=body + b"\r\n--x--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=10)
    error.value.close()
    assert error.value.code == 413
    assert [path for path in served[1].rglob("*") if path.is_file()] == []


def test_what_the_server_tells_names_no_place(served, pipeline):
    """Catches a path of this machine in the page, its settings or its description of itself."""
    for path in ("", "config", "gradio_api/info"):
        text = urllib.request.urlopen(served[0] + path, timeout=10).read().decode()
        for place in (str(pipeline), str(served[1]), str(Path.home()) + "/", "vitscale-demo-"):
            assert place not in text, (path, place)
    assert '"named_endpoints":{}' in text.replace(" ", "")  # there is no API for programs


def test_disagreements(opened):
    """Catches images of another pair or class than chosen, and a click that shows another one."""
    page = opened()
    tab(page, "Disagreements")
    words = page.get_by_text(re.compile(r"^vit is right and resnet18 is wrong on \d+ of 60 test images\."))
    words.wait_for()
    count, here = map(
        int, re.findall(r"wrong on (\d+) of .* (\d+) of them are among the 40 ", words.inner_text())[0]
    )
    buttons = page.locator(".many button")
    assert 0 < here < count and buttons.count() == here
    page.get_by_role("button", name="Swap").click()
    page.get_by_text(re.compile("^resnet18 is right and vit is wrong on ")).wait_for()
    page.get_by_role("radio", name=f"{CLASSES[1]}: ").check()
    page.get_by_text(
        re.compile(rf"^resnet18 is right and vit is wrong on .* test images of {CLASSES[1]}\. ")
    ).wait_for()
    shown = buttons.all_inner_texts()
    assert shown and all(text.startswith(f"{CLASSES[1]} → ") for text in shown)
    number = int(buttons.first.get_attribute("data-number"))
    buttons.first.click()
    title(page, f"^Test image {number}: {CLASSES[1]}$")
    assert number < HERE and page.locator(".answers").is_visible()


def test_results(opened):
    """Catches a chart that isn't drawn, or a row's confusion matrix that stays another's."""
    page = opened()
    tab(page, "Results")
    for words in (
        "Accuracy on things by what the model was pretrained on",
        "Training",
        "Confusion matrix: vit",
    ):
        page.locator(".altair svg text", has_text=re.compile(f"^{words}$")).wait_for()
    page.get_by_label("Which classes does a row mix up?").click()
    page.get_by_role("option", name="resnet18").click()
    page.locator(".altair svg text", has_text="Confusion matrix: resnet18").wait_for()


def test_the_map_is_as_strong_as_the_slider_says(opened):
    """Catches a slider that moves nothing."""
    page = opened()
    strength = "getComputedStyle(document.querySelector('img.look')).opacity"
    assert page.evaluate(strength) == "0.6"
    slider = page.locator("input[type=range]")
    slider.fill("0")
    page.wait_for_function(f"{strength} === '0'")
    slider.press("End")
    page.wait_for_function(f"{strength} === '1'")


def test_the_server_ends_cleanly(pipeline, tmp_path):
    """Catches a traceback at Ctrl-C, or temporary files that stay."""
    with demo(pipeline, tmp_path / "tmp") as (_, process):
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=20) == 0
        assert process.stdout.read().strip() == ""
    assert list((tmp_path / "tmp").iterdir()) == []
