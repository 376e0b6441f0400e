"""What the demo shows of an image, as HTML: each row's five best classes, what it got and where it looked.

Pictures stand in the HTML themselves (`data:`), so that no file is written of an image that somebody gave.
"""

import base64
import io
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from vitscale.models.finished import Finished

# Matplotlib's `inferno` at five places: its lightness only rises, from where a model looks least to most.
HEAT = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]])
THUMBNAIL = 96  # px at most: a page of them is sent at once
TOP = 5


@dataclass(frozen=True)
class About:
    """What is known of a row: its `family` (ViT or ResNet-18), and a line for people."""

    family: str
    line: str


@dataclass(frozen=True)
class Answer:
    """What a row said of one image.

    `probabilities` (classes,); `look` (h, w), 0 where it looks least to 1 where most, None where the map is
    the same everywhere; `is_of_class`: that map is of the class it chose alone. `seen` uint8 (side, side, 3).
    """

    row: Finished
    probabilities: np.ndarray
    look: np.ndarray | None
    is_of_class: bool
    seen: np.ndarray
    seconds: float

    @property
    def best(self) -> list[int]:
        """The most probable classes' numbers, five at most."""
        return np.argsort(-self.probabilities, kind="stable")[:TOP].tolist()

    @property
    def chosen(self) -> str:
        """The most probable class."""
        return self.row.classes[self.best[0]]


def ask(row: Finished, image: np.ndarray) -> Answer:
    """Return what a row says of an image, uint8 (h, w, 3), and how long that took."""
    start = time.perf_counter()
    answers = row([image])
    seconds = time.perf_counter() - start
    probabilities, looks = answers.probabilities[0], answers.looks[0]
    look = looks[int(probabilities.argmax()) if len(looks) > 1 else 0]
    least, most = float(look.min()), float(look.max())
    scaled = (look - least) / (most - least) if most > least else None
    return Answer(row, probabilities, scaled, len(looks) > 1, answers.seen[0], seconds)


def picture(pixels: np.ndarray) -> str:
    """Return an image, uint8 (h, w, 3), as an address that holds all of it."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def heat(look: np.ndarray) -> np.ndarray:
    """Return a map (h, w) of 0 to 1 as colours, uint8 (h, w, 3)."""
    places = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(look, places, HEAT[:, i]) for i in range(3)], axis=-1).astype(np.uint8)


def _bars(answer: Answer) -> str:
    lines = []
    for number in answer.best:
        share = float(answer.probabilities[number])
        lines.append(
            f'<li><span class="name">{escape(answer.row.classes[number])}</span>'
            f'<span class="bar"><i style="width:{share:.1%}"></i></span>'
            f'<span class="share">{share:.1%}</span></li>'
        )
    return f"<ol>{''.join(lines)}</ol>"


def _verdict(is_right: bool) -> str:
    word = "right" if is_right else "wrong"
    return f'<span class="{word}">{word}</span>'


def _figure(layers: str, caption: str) -> str:
    return f"<figure><div>{layers}</div><figcaption>{caption}</figcaption></figure>"


def _pictures(answer: Answer) -> str:
    """Return what a row got beside where it looked."""
    name, side = escape(answer.row.row), answer.seen.shape[0]
    seen = f'<img src="{picture(answer.seen)}" alt="the image as {name} got it">'
    if answer.look is None:
        looked = _figure(seen, "where it looks: its map is the same everywhere")
    else:
        where = f"what speaks for {escape(answer.chosen)}" if answer.is_of_class else "where it looks"
        how = "Grad-CAM" if answer.is_of_class else "attention rollout"
        map_ = f'<img class="look" src="{picture(heat(answer.look))}" alt="{where}, {name}">'
        looked = _figure(seen + map_, f"{where} ({how})")
    return f'<div class="pictures">{_figure(seen, f"what it got: {side}×{side} pixels")}{looked}</div>'


def card(answer: Answer, about: About, actual: str | None) -> str:
    """Return a row's answer; `actual` is the image's class, where that is known."""
    verdict = "" if actual is None else _verdict(answer.chosen == actual)
    kind = "resnet" if about.family == "ResNet-18" else "vit"
    return (
        f'<article class="{kind}"><header><h3>{escape(answer.row.row)}</h3>{verdict}'
        f"<p>{escape(about.line)}</p></header>{_pictures(answer)}{_bars(answer)}"
        f"<footer>took {1000 * answer.seconds:.0f} ms</footer></article>"
    )


def answered(title: str, cards: Iterable[str]) -> str:
    """Return rows' answers about an image, beside each other, under a title."""
    return (
        f'<section class="answers" aria-live="polite"><h2>{escape(title)}</h2>'
        f'<div class="cards">{"".join(cards)}</div></section>'
    )


def refused(words: str) -> str:
    """Return why an image has no answer."""
    return f'<p class="refused" role="alert">{escape(words)}</p>'


def thumbnails(images: Sequence[tuple[int, np.ndarray, str]]) -> str:
    """Return buttons with small pictures, of (number, uint8 (h, w, 3), words) each."""
    buttons = []
    for number, pixels, words in images:
        if max(pixels.shape) > THUMBNAIL:
            small = Image.fromarray(pixels)
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            pixels = np.asarray(small)
        buttons.append(
            f'<button type="button" data-number="{number}"><img src="{picture(pixels)}" alt="">'
            f"<span>{escape(words)}</span></button>"
        )
    return f'<div class="thumbnails">{"".join(buttons)}</div>'
