"""Data sets in the forms that people have them in: published layouts, and folders, zips and tars of one content."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from archives import FOLDER, encode, write_folder, write_zip, written

FORMS = ("", ".zip", ".tar", ".tar.gz", ".tgz")  # in the order in which a mirror is asked for them
WNIDS = ("n01440764", "n01629819", "n02123045")

Labelled = dict[str, dict[str, list[bytes]]]  # the files of each class of each split


def photo(number: int, size: tuple[int, int] = (64, 64)) -> bytes:
    """Return a JPEG of soft blots, another for each number; `size` is width and height."""
    blots = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return encode(np.asarray(Image.fromarray(blots).resize(size, Image.Resampling.BICUBIC)), "JPEG")


def dot(number: int) -> bytes:
    """Return a small PNG of one colour, another for each number: quickly made, quickly read."""
    colour = (number % 256, number // 256 % 256, number // 65536)
    return encode(np.full((2, 2, 3), colour, np.uint8))


def tiny_imagenet() -> tuple[dict[str, bytes], Labelled]:
    """Tiny-ImageNet as its zip unpacks: boxes beside the images, validation labels in a file, test images without."""
    top, wnids = "tiny-imagenet-200/", WNIDS
    members = {
        top + "wnids.txt": "".join(f"{wnid}\n" for wnid in wnids[::-1]).encode(),
        top + "words.txt": "".join(f"{wnid}\tgoldfish, Carassius auratus\n" for wnid in wnids).encode(),
    }
    labelled: Labelled = {"train": {}, "test": {wnid: [] for wnid in wnids}}
    for label, wnid in enumerate(wnids):
        names = [f"{wnid}_{i}.JPEG" for i in range(4)]
        labelled["train"][wnid] = [photo(10 * label + i) for i in range(4)]
        for name, content in zip(names, labelled["train"][wnid]):
            members[f"{top}train/{wnid}/images/{name}"] = content
        boxes = "".join(f"{name}\t0\t10\t63\t58\n" for name in names)
        members[f"{top}train/{wnid}/{wnid}_boxes.txt"] = boxes.encode()
    lines = []
    for i in range(7):
        wnid, content = wnids[i * 2 % 3], photo(100 + i)
        labelled["test"][wnid].append(content)
        members[f"{top}val/images/val_{i}.JPEG"] = content
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    members[f"{top}val/val_annotations.txt"] = "".join(lines).encode()
    members |= {f"{top}test/images/test_{i}.JPEG": photo(200 + i) for i in range(5)}
    return members, labelled


def imagenet(sort: bool) -> tuple[dict[str, bytes], Labelled]:
    """ImageNet as Kaggle has it: validation images by class (`sort`) or in one folder, test images without a class."""
    data = "ILSVRC/Data/CLS-LOC/"
    members, labelled = {}, {"train": {}, "test": {wnid: [] for wnid in WNIDS}}
    for label, wnid in enumerate(WNIDS):
        labelled["train"][wnid] = [photo(10 * label + i, (80, 60 + i)) for i in range(3)]
        for i, content in enumerate(labelled["train"][wnid]):
            members[f"{data}train/{wnid}/{wnid}_{10026 + i}.JPEG"] = content
            members[f"ILSVRC/Annotations/CLS-LOC/train/{wnid}/{wnid}_{10026 + i}.xml"] = b"<annotation/>\n"
    solution = ["ImageId,PredictionString\n"]
    for i in range(1, 8):
        wnid, name, content = WNIDS[i * 2 % 3], f"ILSVRC2012_val_{i:08}", photo(100 + i, (70, 80))
        labelled["test"][wnid].append(content)
        members[f"{data}val/{wnid + '/' if sort else ''}{name}.JPEG"] = content
        solution.append(f"{name},{wnid} 85 1 499 272 {wnid} 131 0 499 254 \n")
        members[f"ILSVRC/Annotations/CLS-LOC/val/{name}.xml"] = b"<annotation/>\n"
    members |= {f"{data}test/ILSVRC2012_test_{i:08}.JPEG": photo(200 + i) for i in range(1, 4)}
    members["ILSVRC/ImageSets/CLS-LOC/val.txt"] = b"ILSVRC2012_val_00000001 1\n"
    members["LOC_synset_mapping.txt"] = "".join(f"{wnid} tench, Tinca tinca\n" for wnid in WNIDS).encode()
    members["LOC_val_solution.csv"] = "".join([solution[0], *solution[:0:-1]]).encode()
    return members, labelled


def imagenette() -> tuple[dict[str, bytes], Labelled]:
    """Imagenette at 160 px as its tgz unpacks, with its own system file and its list of noisy labels."""
    top, members, labelled = "imagenette2-160/", {}, {"train": {}, "test": {}}
    for label, wnid in enumerate(WNIDS):
        for split, folder, count in (("train", "train", 4), ("test", "val", 2)):
            contents = [photo(100 * count + 10 * label + i, (213, 160)) for i in range(count)]
            labelled[split][wnid] = contents
            for i, content in enumerate(contents):
                members[f"{top}{folder}/{wnid}/ILSVRC2012_val_{1000 * count + 10 * label + i:08}.JPEG"] = (
                    content
                )
    members[f"{top}.DS_Store"] = members[f"{top}train/.DS_Store"] = b"\x00\x00\x00\x01Bud1"
    rows = "path,noisy_labels_0,noisy_labels_1,is_valid\ntrain/n01440764/x.JPEG,n01440764,n02123045,False\n"
    members[f"{top}noisy_imagenette.csv"] = rows.encode()
    return members, labelled


def write_tar(where: Path, members: dict[str, bytes], mode: str = "", prefix: str = "") -> None:
    """Write a tar archive; a name that ends in "/" is a folder."""
    where.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(where, f"w:{mode}", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(prefix + name.rstrip("/"))
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_form(mirror: Path, name: str, form: str, members: dict[str, bytes]) -> Path:
    """Put a data set into a mirror as a folder (""), a zip or a tar; return where it is."""
    where = mirror / f"{name}{form}"
    if form == "":
        write_folder(where, members)
    elif form == ".zip":
        write_zip(where, members, zipfile.ZIP_DEFLATED)
    else:
        write_tar(where, members, "" if form == ".tar" else "gz")
    return where


def imported(name: str, out: Path, **entry) -> tuple[dict[str, str], dict[str, bytes]]:
    """Import an image folder of 32 px, or what `entry` says else; return its fingerprints and files."""
    return written(name, FOLDER | entry, out)


def classes_of(files: dict[str, bytes], split: str = "train") -> dict[str, np.ndarray]:
    """Return {class: uint8 (n, side, side, 3)} of an imported split."""
    images, labels = (np.load(io.BytesIO(files[f"{split}/{part}.npy"])) for part in ("images", "labels"))
    assert len(images) == len(labels)
    names = json.loads(files[f"{split}/classes.json"])
    return {name: images[labels == label] for label, name in enumerate(names)}


def counts(files: dict[str, bytes], split: str = "train") -> dict[str, int]:
    return {name: len(images) for name, images in classes_of(files, split).items()}


def sorted_bytes(images) -> list[bytes]:
    return sorted(np.asarray(image).tobytes() for image in images)


def said(text: str, *words: str) -> bool:
    """Tell whether one line of a text has all these words."""
    return any(all(word in line for word in words) for line in text.splitlines())
