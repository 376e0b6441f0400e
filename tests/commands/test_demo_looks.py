"""The demo's page in a real browser: by keyboard, on a narrow screen, in the dark, and for this machine alone."""

import re
from pathlib import Path

import pytest

from browsers import chromium, demo, needs_chromium
from playground import playground

pytestmark = needs_chromium
VIEWS = ["Image", "Disagreements", "Results"]
# Each text that can be seen, with its contrast to what is behind it (WCAG 2.2, 1.4.3).
CONTRASTS = """() => {
  const numbers = colour => { const n = colour.match(/[\\d.]+/g).map(Number);
    const scale = colour.startsWith('color') ? 1 : 255;
    return [...n.slice(0, 3).map(each => each / scale), n[3] ?? 1]; };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const behind = element => element ? over(numbers(getComputedStyle(element).backgroundColor),
    behind(element.parentElement)) : [1, 1, 1, 1];
  const light = rgb => [0, 1, 2].map(i => rgb[i] <= 0.04045 ? rgb[i] / 12.92 : ((rgb[i] + 0.055) / 1.055) ** 2.4)
    .reduce((sum, each, i) => sum + each * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  for (const element of document.querySelectorAll('.gradio-container *')) {
    const has = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!has || !element.checkVisibility() || element.closest('[disabled], style, script')) continue;
    if (element.closest('.role-mark')) continue;  // what stands on a chart's own coloured fields
    const style = getComputedStyle(element), below = behind(element);
    const ink = over(numbers(element instanceof SVGElement ? style.fill : style.color), below);
    const [a, b] = [light(ink), light(below)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), element.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("looks")
    with demo(playground(folder / "pipeline"), folder / "tmp") as (address, _):
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(served, browser, request):
    width, theme = getattr(request, "param", (1280, "light"))
    context = browser.new_context(viewport={"width": width, "height": 800})
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.goto(f"{served}?__theme={theme}")
    page.wait_for_selector(".answers article")
    yield page
    context.close()


def tab(page, name):
    page.get_by_role("tab", name=name).click()
    if name == "Results":
        page.locator(".altair svg").nth(2).wait_for()


@pytest.mark.parametrize("page", [(400, "light"), (1280, "light")], indirect=True, ids=["narrow", "wide"])
@pytest.mark.parametrize("name", VIEWS)
def test_no_page_is_wider_than_the_screen(page, name):
    """Catches a page that has to be scrolled sideways, or text that is cut off, on a phone."""
    tab(page, name)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    cut = page.evaluate(
        """() => [...document.querySelectorAll('.gradio-container :is(h1, h2, h3, p, label, button, figcaption)')]
        .filter(each => each.checkVisibility() && each.getBoundingClientRect().right > innerWidth
            && !each.closest('.few, .altair')).map(each => each.outerHTML.slice(0, 80))"""
    )
    assert cut == []


@pytest.mark.parametrize("page", [(1280, "light"), (1280, "dark")], indirect=True, ids=["light", "dark"])
@pytest.mark.parametrize("name", VIEWS)
def test_text_stands_out(page, name):
    """Catches text that can't be read on a dark or a light page: a chart's black, a grey that is too weak."""
    is_dark = page.evaluate("document.body.classList.contains('dark')")
    assert is_dark == ("dark" in page.url)
    tab(page, name)
    found = page.evaluate(CONTRASTS)
    assert len(found) > 15 and [each for each in found if each[0] < 4.5] == []


def focused(page):
    """Return what has the focus, in a word or two."""
    return page.evaluate(
        """() => { const e = document.activeElement;
        const role = e.getAttribute('role');
        return e.dataset.number ? 'picture' : role === 'tab' ? e.innerText : role || e.type || e.tagName; }"""
    )


def go_to(page, wanted, key="Tab"):
    """Press Tab until what is wanted has the focus."""
    for _ in range(60):
        if focused(page) == wanted:
            return
        page.keyboard.press(key)
    raise AssertionError(f"60 times {key} don't lead to {wanted}")


def test_a_keyboard_is_enough(page):
    """Catches a control that only a mouse reaches or works."""
    asked = []
    page.on("filechooser", lambda chooser: asked.append(chooser))
    go_to(page, "file")
    page.wait_for_timeout(300)  # playwright takes a while to take over the dialog
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    assert len(asked) == 1
    before = page.locator(".answers h2").inner_text()
    go_to(page, "picture")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_function("before => document.querySelector('.answers h2').innerText !== before", arg=before)
    assert focused(page) == "picture"  # one can go on from there
    go_to(page, "range")
    page.keyboard.press("Home")
    page.wait_for_function("getComputedStyle(document.querySelector('img.look')).opacity === '0'")
    go_to(page, "Disagreements", "Shift+Tab")
    page.keyboard.press("Enter")
    page.get_by_role("tab", name="Disagreements", selected=True).wait_for()
    go_to(page, "radio")
    page.keyboard.press("Tab")  # Gradio gives each choice a stop of its own
    page.keyboard.press("Space")
    page.get_by_text(re.compile("^vit is right and resnet18 is wrong on .* test images of cat")).wait_for()
    go_to(page, "picture")
    page.keyboard.press("Enter")
    page.get_by_role("tab", name="Image", selected=True).wait_for()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's table of connections")
def test_it_listens_to_this_machine_alone(served):
    """Catches a page that the whole network can open, unasked."""
    port = int(served.rsplit(":")[-1].strip("/"))
    listening = [
        line.split()[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        if Path(table).exists()
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].rsplit(":")[1], 16) == port
    ]
    assert listening == [f"0100007F:{port:04X}"]
