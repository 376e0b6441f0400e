"""What the demo shows, without a browser."""

import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from playground import CLASSES, HERE, SCORED, answers, labels, playground, write_images
from tiny import ROOT, run
from vitscale.base.config import read_yaml
from vitscale.base.errors import UserError
from vitscale.commands.answers import Answer, ask, heat
from vitscale.commands.charts import Charts
from vitscale.commands.ports import free_port
from vitscale.commands.views import Views
from vitscale.models.finished import Finished
from vitscale.results.study import Study
from vitscale.results.tables import figures_in

EXAMPLE = ROOT / "examples/digits"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return playground(tmp_path_factory.mktemp("views") / "pipeline")


@pytest.fixture(scope="module")
def views(pipeline):
    return Views(pipeline)


def row(looks, probabilities=(0.2, 0.7, 0.1)):
    """Return a row that always answers so; `looks` (c, h, w)."""

    def forward(images):
        return np.log([probabilities]), np.array([looks], dtype=np.float32), np.stack(images)

    return Finished("row", ["a", "b", "c"], 4, 4, "released", forward)


def test_an_answer_shows_the_map_of_the_class_that_was_chosen():
    """Catches Grad-CAM of another class than the one that is named."""
    looks = np.stack([np.full((2, 2), 9.0), np.array([[0, 1], [2, 4]]), np.zeros((2, 2))])
    answer = ask(row(looks), np.zeros((4, 4, 3), dtype=np.uint8))
    assert answer.chosen == "b" and answer.best == [1, 0, 2] and answer.is_of_class
    assert answer.look.tolist() == [[0, 0.25], [0.5, 1]]
    alike = ask(row(np.full((1, 2, 2), 3.0)), np.zeros((4, 4, 3), dtype=np.uint8))
    assert alike.look is None and not alike.is_of_class  # no place stands out: none is made to


def test_heat_rises():
    """Catches colours of which a brighter one means less."""
    colours = heat(np.linspace(0, 1, 101)[None])[0] @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(colours) > -1).all() and colours[0] < 5 and colours[-1] > 240


def test_five_classes_at_most():
    """Catches a page of a thousand classes."""
    answer = Answer(row(np.ones((1, 1, 1))), np.arange(1000), None, False, np.zeros((1, 1, 3)), 0.0)
    assert answer.best == [999, 998, 997, 996, 995]


def shown(html):
    """Return the first row's picture of what it got."""
    address = re.search(r'<img src="data:image/png;base64,([^"]+)"', html)[1]
    return np.array(Image.open(io.BytesIO(base64.b64decode(address))))


def numbers(html):
    return [int(number) for number in re.findall(r'data-number="(\d+)"', html)]


def test_a_test_image_is_the_split_s(views):
    """Catches a button that answers for another image, and a class that isn't the image's."""
    for number in numbers(views.examples(1)):
        html = views.test_image(number)
        assert (shown(html) == views.split.images[number]).all()
        assert f"<h2>Test image {number}: " in html
    assert set(numbers(views.examples(1))) != set(numbers(views.examples(2)))


def test_class_names_stand_as_they_are(views):
    """Catches a class name that a browser takes for markup."""
    for html in (views.test_image(0), views.examples(0), views.disagreements("vit", "resnet18").buttons):
        assert "<b>x" not in html
    assert "&lt;b&gt;x&lt;/b&gt;" in views.test_image(0)


@pytest.mark.parametrize("here", [HERE, SCORED], ids=["sample", "all"])
def test_disagreements_are_those_of_the_predictions(pipeline, tmp_path, here):
    """Catches counts of a sample given for those of all test images, or images that aren't disagreements."""
    folder = shutil.copytree(pipeline, tmp_path / "pipeline")
    if here == SCORED:
        write_images(folder / "data/raw/things/test", SCORED)
    views, said = Views(folder), answers()
    places = np.flatnonzero((said["vit"] == labels()) & (said["resnet18"] != labels()))
    found = views.disagreements("vit", "resnet18")
    assert numbers(found.buttons) == [place for place in places if place < here]
    assert f"wrong on {len(places)} of {SCORED} test images." in found.words
    assert ("are among the 40 test images that are here" in found.words) == (here == HERE)
    of_class = {name: int((labels()[places] == i).sum()) for i, name in enumerate(CLASSES)}
    assert found.classes == [
        (f"all: {len(places)}", ""),
        *((f"{name}: {count}", name) for name, count in of_class.items()),
    ]
    one = views.disagreements("vit", "resnet18", "dog")
    assert numbers(one.buttons) == [place for place in places if place < here and labels()[place] == 1]
    assert f"wrong on {of_class['dog']} of {(labels() == 1).sum()} test images of dog." in one.words


def test_where_nothing_can_be_shown_it_says_what_to_do(pipeline, tmp_path):
    """Catches a traceback or an empty page in a fresh clone."""
    folder = shutil.copytree(pipeline, tmp_path / "pipeline")
    shutil.rmtree(folder / "models/released")
    with pytest.raises(
        UserError, match=r"neither .*things/test nor .*test-images is there; `dvc repro` makes"
    ):
        Views(folder)
    shutil.rmtree(folder / "models/finetuned")
    with pytest.raises(UserError, match="has no finished row; `dvc repro` trains some$"):  # an example
        Views(folder)
    (folder / "models/released/.dvc").mkdir(parents=True)
    with pytest.raises(
        UserError,
        match="has no finished row; `dvc repro` trains some, `dvc --cd models/released pull` brings",
    ):
        Views(folder)


def test_damaged_test_images_name_their_own_way_back(pipeline, tmp_path):
    """Catches `dvc checkout`, which knows nothing of models/released."""
    folder = shutil.copytree(pipeline, tmp_path / "pipeline")
    for name in ("labels.npy", "classes.json"):
        (folder / "models/released/test-images" / name).write_bytes(b"x")
        with pytest.raises(
            UserError, match="^[^;]*test-images[^;]*; `dvc [^;]* pull --force` brings it back$"
        ):
            Views(folder)


def test_rows_that_were_never_scored_are_no_error(pipeline, tmp_path):
    """Catches a page that can't be opened before all is scored."""
    folder = shutil.copytree(pipeline, tmp_path / "pipeline")
    shutil.rmtree(folder / "metrics")
    views = Views(folder)
    assert views.first_pair() is None and views.charts.rows() == [] and views.charts.curves() is None
    assert "right on" not in views.test_image(0)


def test_the_charts_are_those_of_dvc(tmp_path, forked):
    """Catches a chart that is filled in otherwise than `dvc plots show` does: a wrong axis, title or file."""
    folder = tmp_path / "repo"
    shutil.copytree(EXAMPLE / "metrics", folder / "metrics")
    for name in ("params.yaml", "dvc.yaml", "dvc.lock"):
        shutil.copy(EXAMPLE / name, folder)
    shutil.copy(ROOT / "root.yaml", folder)
    run("git", "init", "-q", "-b", "main", cwd=folder)
    run("dvc", "init", "-q", cwd=folder)
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
    data = json.loads(run("dvc", "plots", "show", "dvc.yaml::", "--json", cwd=folder).stdout)["data"]
    study = Study.read(read_yaml(folder / "params.yaml").__getitem__, figures_in(folder / "metrics"))
    charts = Charts(folder, study)
    ours = {"metrics/curves.csv": charts.curves()}
    ours |= {f"metrics/confusion/{name}.csv": charts.confusion(name) for name in charts.rows()}
    assert len(ours) == 6
    for name, chart in ours.items():
        [entry] = data[name]
        points = chart["data"]["values"]
        known = [{key: line[key] for key in points[0]} for line in entry["content"]["data"]["values"]]
        assert chart == entry["content"] | {"data": {"values": known}}  # DVC adds the file's name to each


def test_a_lost_template_is_named(pipeline, tmp_path):
    """Catches a traceback of DVC's where a file of .dvc/plots is gone."""
    folder = shutil.copytree(pipeline, tmp_path / "pipeline")
    (folder / ".dvc/plots/curves.json").unlink()
    with pytest.raises(
        UserError, match=r"\.dvc/plots/curves.json can.t be read .*; `git checkout .dvc` brings it back"
    ):
        Charts(folder, Views(folder).study).curves()


@pytest.mark.parametrize(
    "host, port, words",
    [
        ("127.0.0.1", 99999, "port 99999 of 127.0.0.1 can't be listened at (ports go from 1 to 65535)"),
        ("127.0.0.1", 0, "port 0 of 127.0.0.1 can't be listened at (ports go from 1 to 65535)"),
        ("203.0.113.7", None, "the ports 7860 to 7959 of 203.0.113.7 can't be listened at ("),
        ("no such host", 7860, "port 7860 of no such host can't be listened at ("),
    ],
    ids=["port", "zero", "address", "name"],
)
def test_an_address_that_cannot_be_had_is_named(host, port, words):
    """Catches a traceback, or minutes of tries, for a wrong --host or --port."""
    with pytest.raises(UserError, match=re.escape(words)) as error:
        free_port(host, port)
    assert str(error.value).endswith("; give another --host or --port")


def test_a_port_that_is_taken_is_refused_or_passed_over():
    """Catches a second demo that can't be opened beside a first one."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="in use"):
        free_port("127.0.0.1", taken.getsockname()[1])
    assert 7860 <= free_port("127.0.0.1", None) < 7960


def test_it_is_served_without_torch():
    """Catches an import of torch, which whoever only looks at released rows doesn't have."""
    code = "import sys, vitscale.commands.page; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    assert done.stdout == "False\n", done.stderr
