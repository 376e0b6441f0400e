"""The demo's page: its controls, by Gradio, around what `views` shows."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from secrets import randbelow
from typing import Any

import gradio as gr
from gradio.components.plot import PlotData

from vitscale.base.errors import UserError
from vitscale.commands.answers import refused
from vitscale.commands.ports import free_port
from vitscale.commands.views import ALL, MOST_BYTES, Views

STYLE = Path(__file__).with_name("page.css")
# An image travels inside of an event, as text: Gradio's own upload writes a file.
CHOOSE = """<label class="choose"><input type="file" accept="image/*"><span><b>Choose an image</b>,
or drop or paste one here</span></label>"""
SEND = f"""
const send = file => {{
  if (!file) return;
  const reader = new FileReader();
  reader.onload = () => trigger('upload', {{address: reader.result, size: file.size}});
  reader.readAsDataURL(file.size > {MOST_BYTES} ? new Blob() : file);
}};
const input = element.querySelector('input');
input.addEventListener('change', () => {{ send(input.files[0]); input.value = ''; }});
element.addEventListener('dragover', event => event.preventDefault());
element.addEventListener('drop', event => {{ event.preventDefault(); send(event.dataTransfer.files[0]); }});
document.addEventListener('paste', event => send(event.clipboardData.files[0]));
"""
SELECT = """
element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (button) trigger('select', {number: Number(button.dataset.number)});
});
"""
OPACITY = "percent => document.documentElement.style.setProperty('--look', percent / 100)"
TO_ANSWER = "() => document.querySelector('.answers, .refused')?.scrollIntoView({block: 'nearest'})"
SLIDER = "How much to show of where it looks, in %: dark is least, bright is most"
SETTINGS: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
MODELS: dict[str, Any] = {
    **SETTINGS,
    "concurrency_id": "models",
    "concurrency_limit": 1,
}  # one at a time: each is timed


def chart(figure: dict | None) -> PlotData | None:
    """Return a Vega-Lite chart as Gradio's page draws it, None where there is none."""
    if figure is None:
        return None
    drawn = {"usermeta": {"embedOptions": {"renderer": "svg", "actions": False}}, "background": "transparent"}
    return PlotData(type="altair", plot=json.dumps(figure | drawn))


def _image(views: Views) -> gr.HTML:
    """Lay out the first view; return where answers stand."""
    with gr.Row(elem_classes="image"):
        with gr.Column(scale=2, min_width=280):
            upload = gr.HTML(html_template=CHOOSE, js_on_load=SEND, apply_default_css=False)
            gr.Markdown("**Test images**, which no training has seen")
            examples = gr.HTML(
                views.examples(0), js_on_load=SELECT, apply_default_css=False, elem_classes="few"
            )
            others = gr.Button("Show others")
        with gr.Column(scale=5, min_width=280):
            opacity = gr.Slider(0, 100, 60, step=1, label=SLIDER)
            answer = gr.HTML(views.test_image(views.drawn(0)[0]), apply_default_css=False)

    def own(event: gr.EventData) -> str:
        if event.size > MOST_BYTES:
            return refused(f"This file has {event.size:,} bytes; {MOST_BYTES:,} are taken.")
        return views.own_image(event.address)

    def test_image(event: gr.EventData) -> str:
        return views.test_image(event.number)

    opacity.input(None, opacity, None, js=OPACITY)
    others.click(lambda: views.examples(randbelow(2**32)), None, examples, **SETTINGS)
    upload.upload(own, None, answer, **MODELS).then(None, js=TO_ANSWER)
    examples.select(test_image, None, answer, **MODELS).then(None, js=TO_ANSWER)
    return answer


def _disagreements(views: Views, tabs: gr.Tabs, answer: gr.HTML) -> None:
    """Lay out the second view; a click there answers in the first."""
    pair = views.first_pair()
    if pair is None:
        gr.Markdown("Two rows must have been scored: `dvc repro` does it.")
        return
    first = views.disagreements(*pair)
    with gr.Row(equal_height=True):
        right = gr.Dropdown(views.trainings(), value=pair[0], label="Right", min_width=200)
        wrong = gr.Dropdown(views.trainings(), value=pair[1], label="Wrong", min_width=200)
        swap = gr.Button("Swap", scale=0, min_width=100)
    classes = gr.Radio(first.classes, value=ALL, label="Class")
    words = gr.HTML(first.words)
    buttons = gr.HTML(first.buttons, js_on_load=SELECT, apply_default_css=False, elem_classes="many")

    def of_pair(right: str, wrong: str) -> tuple:
        found = views.disagreements(right, wrong)
        return gr.Radio(found.classes, value=ALL), found.words, found.buttons

    def of_class(right: str, wrong: str, class_name: str) -> tuple[str, str]:
        found = views.disagreements(right, wrong, class_name)
        return found.words, found.buttons

    def test_image(event: gr.EventData) -> tuple:
        return views.test_image(event.number), gr.Tabs(selected="image")

    for control in (right, wrong):
        control.input(of_pair, [right, wrong], [classes, words, buttons], **SETTINGS)
    swap.click(lambda right, wrong: (wrong, right), [right, wrong], [right, wrong], **SETTINGS).then(
        of_pair, [right, wrong], [classes, words, buttons], **SETTINGS
    )
    classes.input(of_class, [right, wrong, classes], [words, buttons], **SETTINGS)
    buttons.select(test_image, None, [answer, tabs], **MODELS).then(None, js=TO_ANSWER)


def _results(views: Views) -> None:
    """Lay out the third view."""
    rows = views.charts.rows()
    if not rows:
        gr.Markdown("No row has been scored: `dvc repro` does it.")
        return
    gr.Plot(chart(views.charts.accuracy()), show_label=False, elem_classes="wide")
    gr.Plot(chart(views.charts.curves()), show_label=False, elem_classes="wide")

    def of_row(row: str) -> PlotData | None:
        try:
            return chart(views.charts.confusion(row))
        except UserError as error:  # a file was damaged since
            raise gr.Error(str(error)) from None

    row = gr.Dropdown(rows, value=rows[0], label="Which classes does a row mix up?")
    confusion = gr.Plot(chart(views.charts.confusion(rows[0])), show_label=False)
    row.input(of_row, row, confusion, **SETTINGS)


def build(views: Views) -> gr.Blocks:
    """Return the page of some views."""
    classes = views.split.classes
    named = ", ".join(classes) if len(classes) <= 12 else f"{len(classes)} classes"
    with gr.Blocks(title="vitscale", analytics_enabled=False) as page:
        gr.HTML(
            "<h1>Where a Vision Transformer looks, and where ResNet-18 does</h1>"
            f"<p>Each was trained to tell these apart, and knows nothing else: {escape(named)}.</p>"
        )
        with gr.Tabs() as tabs:
            with gr.Tab("Image", id="image"):
                answer = _image(views)
            with gr.Tab("Disagreements", id="disagreements"):
                _disagreements(views, tabs, answer)
            with gr.Tab("Results", id="results"):
                _results(views)
    return page


def theme() -> gr.themes.Base:
    """Return the page's colours, and the fonts of the reader's system."""
    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gr.themes.Default(primary_hue="blue", **fonts).set(
        link_text_color="*primary_700", link_text_color_dark="*primary_300"
    )


@contextmanager
def serving(pipeline: Path, host: str, port: int | None) -> Iterator[str]:
    """Serve the page of a pipeline from threads of this process; give its address.

    Raises UserError where there is nothing to show.
    """
    page = build(Views(pipeline))
    _, address, _ = page.launch(
        server_name=f"[{host}]" if ":" in host else host,
        server_port=free_port(host, port),  # of two demos that start together each gets its own
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        footer_links=[],
        run_history=False,  # it keeps images in the browser
        max_file_size=1,  # bytes: nothing here is sent as a file
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css_paths=STYLE,
    )
    try:
        yield address
    finally:
        page.close(verbose=False)
