"""Classes of images on the command line."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from archives import splits
from exported import command
from made import CPU
from vitscale.commands.export import export
from vitscale.data.arrays import load_split
from vitscale.data.decode import square
from vitscale.models.store import load_model
from vitscale.training.inference import predict

pytestmark = pytest.mark.usefixtures("forked")


@pytest.fixture
def pictures(tmp_path, photographs):
    """A folder of images in many modes and sizes, some of which can't be read."""
    folder, flower = tmp_path / "pictures", photographs[1]
    (folder / "deeper").mkdir(parents=True)
    flower.save(folder / "photo.jpg")
    flower.convert("L").save(folder / "deeper/gray.png")
    flower.convert("P").save(folder / "palette.gif")
    flower.convert("RGBA").save(folder / "alpha.PNG")
    flower.convert("CMYK").save(folder / "print.tiff")
    flower.convert("1").save(folder / "bits.bmp")
    Image.fromarray(np.asarray(flower.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    flower.resize((1, 1)).save(folder / "dot.webp")
    exif = Image.Exif()
    exif[0x0112] = 6  # lay it on its side
    flower.save(folder / "turned.jpg", exif=exif)
    (folder / "folder.png").mkdir()
    (folder / "notes.txt").write_text("no image")
    return folder


def test_predict_reads_any_image(finished, pictures):
    """A size or mode isn't taken, a file that is no image is, or the 16 bits of a channel are cut off."""
    done = command("predict", "resnet18", pictures, "--json", "--pipeline", finished)
    assert done.returncode == 0, done.stderr
    answers = {answer["image"].rsplit("/", 1)[-1]: answer for answer in json.loads(done.stdout)}
    assert sorted(answers) == [
        "alpha.PNG",
        "bits.bmp",
        "deep.png",
        "dot.webp",
        "gray.png",
        "palette.gif",
        "photo.jpg",
        "print.tiff",
        "turned.jpg",
    ]
    for answer in answers.values():
        assert len(answer["top5"]) == 4 and sum(
            each["probability"] for each in answer["top5"]
        ) == pytest.approx(1)
        assert answer["top5"][0] == {"class": answer["class"], "probability": answer["probability"]}
        assert [each["probability"] for each in answer["top5"]] == sorted(
            (each["probability"] for each in answer["top5"]), reverse=True
        )
    assert answers["deep.png"]["probability"] == pytest.approx(answers["gray.png"]["probability"], abs=1e-6)
    model = load_model(finished / "models/finetuned/resnet18")
    for name in sorted({*answers} - {"gray.png", "deep.png"}):
        [path] = pictures.rglob(name)
        wanted = predict(model, [square(path.read_bytes(), 32)], CPU).softmax(1)[0]  # of the models' data set
        assert answers[name]["probability"] == pytest.approx(wanted.max().item(), abs=1e-6), name
        assert answers[name]["class"] == model.config.classes[wanted.argmax()]
    # Else turning wouldn't be seen.
    assert abs(answers["turned.jpg"]["probability"] - answers["photo.jpg"]["probability"]) > 1e-5


def test_predict_names_what_it_cant_read_and_goes_on(finished, pictures):
    """An unreadable image stops the others, isn't named, or leaves the exit code at 0."""
    (pictures / "broken.png").write_bytes((pictures / "deeper/gray.png").read_bytes()[:300])
    (pictures / "empty").mkdir()
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(pictures / "float.tiff")
    done = command(
        "predict",
        "vit",
        pictures / "empty",
        pictures / "broken.png",
        pictures / "photo.jpg",
        pictures / "none.jpg",
        pictures / "notes.txt",
        pictures / "float.tiff",
        "--pipeline",
        finished,
    )
    errors = done.stderr.strip().splitlines()
    assert done.returncode == 1 and len(errors) == 5
    assert all(
        name in line
        for name, line in zip(("empty", "broken.png", "none.jpg", "notes.txt", "float.tiff"), errors)
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and re.match(
        r"\S*photo\.jpg +(cat|dog|frog|ship) +\d+\.\d% +\w+ \d+\.\d%, ", lines[1]
    )


def test_predict_says_what_is_missing_in_one_line(finished, tmp_path):
    """A row without a model, or a folder without images, ends in a traceback."""
    for arguments, words in (
        (("nope", tmp_path), "params.yaml has no row nope; "),
        (("vit", tmp_path), "holds no image"),
    ):
        done = command("predict", *arguments, "--pipeline", finished)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and words in done.stderr, (
            done.stderr
        )


def test_predictions_are_those_of_evaluation(from_the_hub, tmp_path):
    """The command sees other classes in the test images than the pipeline's evaluation, in float32 too, does."""
    split = load_split(from_the_hub / "data/raw/digits/test")
    for i, image in enumerate(split.images):
        Image.fromarray(image).save(tmp_path / f"{i:04}.png")
    kept = json.loads((from_the_hub / "metrics/rows/hub.json").read_text())["predicted"]
    of_class = {name: iter(numbers) for name, numbers in kept.items()}
    evaluated = [split.classes[next(of_class[split.classes[label]])] for label in split.labels]
    found = [
        answer["class"]
        for answer in json.loads(
            command("predict", "hub", tmp_path, "--json", "--pipeline", from_the_hub).stdout
        )
    ]
    assert found == evaluated
    assert len(set(found)) == 2


@pytest.mark.parametrize("row", ["vit", "resnet18"])
def test_photographs_go_the_way_of_the_test_images(finished, tmp_path, monkeypatch, row):
    """Of 2:1 photographs the data set takes the centre square and `predict` squashes them: other classes than were scored."""
    draws = np.random.default_rng(3)
    for number in range(24):
        coarse = Image.fromarray(draws.integers(0, 256, (3, 6, 3), dtype=np.uint8))
        for split in ("train", "test"):
            path = tmp_path / f"mirror/wide/{split}/{number % 2}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse.resize((96, 48), Image.Resampling.BICUBIC).save(path)
    monkeypatch.setenv("VITSCALE_MIRROR", str(tmp_path / "mirror"))
    images = splits("wide", {"source": "imagefolder", "image_size": 32}, tmp_path / "out")["test"].images
    model = load_model(finished / "models/finetuned" / row)
    scored = sorted(predict(model, images, CPU).softmax(1).max(1).values.tolist())
    done = command("predict", row, tmp_path / "mirror/wide/test", "--json", "--pipeline", finished)
    assert sorted(answer["probability"] for answer in json.loads(done.stdout)) == pytest.approx(
        scored, abs=1e-6
    )


def test_a_row_that_was_really_run_is_exported(from_the_hub, tmp_path):
    """What the stages leave isn't what the export reads: it refused every row once, since the figures had moved."""
    assert export("hub", tmp_path / "out", from_the_hub)
    figures = json.loads((from_the_hub / "metrics/history/finetune/hub.json").read_text())
    assert f"{figures['train_images']} training images" in (tmp_path / "out/README.md").read_text()


def test_a_name_stays_one_line(finished, pictures):
    """Catches a file's name that breaks the table in two, or colours the terminal of whoever looks at it."""
    (pictures / "photo.jpg").rename(pictures / "a\n\x1b[31m.jpg")
    (pictures / "b\n\x1b[31m.jpg").write_bytes(b"broken")
    done = command("predict", "resnet18", pictures, pictures / "gone\n.jpg", "--pipeline", finished)
    assert "\x1b" not in done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 10 and "/a\\n\\x1b[31m.jpg  " in done.stdout
    assert len(done.stderr.splitlines()) == 2 and "/b\\n\\x1b[31m.jpg can't be read" in done.stderr
