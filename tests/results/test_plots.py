"""The page of `dvc plots show`, from the example's committed metrics."""

import json
import os
import re
import shutil

import pytest
import vl_convert

from tiny import ROOT, checkout, run
from vitscale.base.config import read_yaml

EXAMPLE = ROOT / "examples/digits"


@pytest.fixture(scope="module")
def folder(forked, tmp_path_factory):
    """What git has of the example, as a repository of its own: no data, weights or previews."""
    folder = checkout(tmp_path_factory.mktemp("plots") / "repo")
    shutil.copytree(EXAMPLE / "metrics", folder / "metrics")
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
    for path in (EXAMPLE / "params.yaml", EXAMPLE / "dvc.lock"):
        shutil.copy(path, folder)
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    return folder


@pytest.fixture(scope="module")
def plots(folder):
    """Every plot of the page by its name: the Vega-Lite specification with its data."""
    data = json.loads(run("dvc", "plots", "show", "dvc.yaml::", "--json", cwd=folder).stdout)["data"]
    return {name: entry[0]["content"] for name, entry in data.items() if entry and entry[0]["type"] == "vega"}


def drawn(plot) -> str:
    return vl_convert.vegalite_to_svg(plot, vl_version="5.8")


def texts(plot) -> list[str]:
    """Return every text of a drawn plot, an axis's name among them."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawn(plot))


def test_page_has_these_plots_in_this_order(plots):
    """A plot that got lost, or a second one of the same figures (a history beside the overlay), or matrices first."""
    rows = list(read_yaml(EXAMPLE / "params.yaml")["rows"])
    assert list(plots) == [
        "metrics/accuracy.csv",
        "metrics/curves.csv",
        *(f"metrics/confusion/{row}.csv" for row in rows),
    ]


def test_accuracy_shows_interval_and_published_figure(plots):
    """An interval or published figure that is drawn from a column which the data don't have."""
    plot = json.loads(json.dumps(plots["metrics/accuracy.csv"]))
    for line in plot["data"]["values"]:
        assert (
            float(line["ci95_low"]) < float(line["accuracy"]) < float(line["ci95_high"])
            and line["published"] == ""
        )
    lengths = re.findall(r'aria-roledescription="rule mark"[^>]* x2="([0-9.]+)"', drawn(plot))
    assert len(lengths) == 5 and all(float(length) > 1 for length in lengths)
    dots = drawn(plot).count('aria-roledescription="point"')
    plot["data"]["values"][0]["published"] = "0.5"
    assert dots == 5 and drawn(plot).count('aria-roledescription="point"') == 6


@pytest.mark.parametrize(
    "name, named",
    [
        ("metrics/accuracy.csv", ["Test accuracy", "test accuracy", "row", "100%", "vit-scratch"]),
        (
            "metrics/curves.csv",
            ["Training", "pretraining", "fine-tuning", "epoch", "validation accuracy", "100%", "vit-scratch"],
        ),
        (
            "metrics/confusion/vit-scratch.csv",
            ["Confusion matrix: vit-scratch", "predicted class", "actual class"],
        ),
    ],
)
def test_titles_and_axes_are_named(plots, name, named):
    """A template whose anchor DVC doesn't fill, or that Vega-Lite can't draw: the page would have a hole there."""
    assert "<DVC_METRIC" not in json.dumps(plots[name])
    assert set(named) <= set(texts(plots[name]))


def test_confusion_is_in_percent_of_the_actual_class(plots):
    """Shares of the wrong axis: a class's recall must stand on the diagonal."""
    recalls = {
        f"{100 * recall:.0f}"
        for recall in json.loads((EXAMPLE / "metrics/rows/vit-scratch.json").read_text())["recall"]
    }
    assert len(recalls) > 2 and recalls <= set(texts(plots["metrics/confusion/vit-scratch.csv"]))


def test_page_without_a_network(folder):
    """An offline page that still asks a CDN for its scripts, or has none."""
    run(
        "python",
        "-m",
        "vitscale",
        "plots",
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder / "src")},
    )
    run("dvc", "plots", "show", "dvc.yaml::", cwd=folder)
    page = (folder / "dvc_plots/index.html").read_text()
    assert (
        not re.search(r"<(script|link)[^>]*(src|href)", page)
        and len(page) > 500_000
        and page.count("vegaEmbed('#") == 7
    )
    assert "offline" not in run("git", "status", "--short", "-uall", cwd=folder).stdout


def test_the_legend_of_the_curves_shows_every_colour_and_dash(plots):
    """Catches trainings told apart by colour alone, or a dash that the legend draws as a dot."""
    kinds = {"line": set(), "symbol": set()}
    for path in re.findall(r"<path[^>]*>", drawn(plots["metrics/curves.csv"])):
        look = dict(re.findall(r'(stroke|stroke-dasharray)="([^"]*)"', path))
        if len(look) == 2:
            kinds["line" if 'aria-roledescription="line mark"' in path else "symbol"].add(
                (*look.values(), "A" in path)  # an arc: a dashed circle shows no dash
            )
    rows = read_yaml(EXAMPLE / "params.yaml")["rows"]
    assert len(kinds["line"]) == len(rows) and kinds["line"] <= kinds["symbol"]
