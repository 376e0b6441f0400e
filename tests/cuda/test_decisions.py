"""What is chosen on machines that aren't here: device, precision, resident or streamed, how many images at a time."""

import pytest
import torch

from decisions import A100, CODE, MACHINES, RTX3090, T4, V100, decided, machine, table
from gpus import ROOT, SPLIT, a_training, model_of
from vitscale.base.errors import UserError
from vitscale.runtime import device
from vitscale.runtime.device import Compute, choice

# device, precision, GiB of a data set that stays there, images scored at a time (32 px, 224 px), whether torch has code
WANTED = {
    "P100, 16 GiB": ["cuda:0", "float32", "8 GiB", "1024", "64", "no"],
    "V100, 16 GiB": ["cuda:0", "float16", "8 GiB", "1024", "64", "no"],
    "T4, 16 GiB": ["cuda:0", "float16", "8 GiB", "1024", "64", "yes"],
    "RTX 2080, 8 GiB": ["cuda:0", "float16", "4 GiB", "1024", "32", "yes"],
    "RTX 3090, 24 GiB": ["cuda:0", "bfloat16", "12 GiB", "1024", "64", "yes"],
    "A100, 40 GiB": ["cuda:0", "bfloat16", "20 GiB", "1024", "128", "yes"],
    "H100, 80 GiB": ["cuda:0", "bfloat16", "40 GiB", "1024", "256", "yes"],
    "two A100": ["cuda:0", "bfloat16", "20 GiB", "1024", "128", "yes"],
    "two A100, the first busy with 30 GiB": ["cuda:1", "bfloat16", "20 GiB", "1024", "128", "yes"],
    "two A100, `VITSCALE_DEVICE=cuda:1`": ["cuda:1", "bfloat16", "20 GiB", "1024", "128", "yes"],
    "A100, `VITSCALE_DEVICE=cpu`": ["cpu", "bfloat16", "—", "500", "11", "—"],
    "no GPU, a CPU with bfloat16": ["cpu", "bfloat16", "—", "500", "11", "—"],
    "Apple silicon, `VITSCALE_DEVICE=mps`": ["mps", "float32", "—", "500", "11", "—"],
}


@pytest.mark.parametrize("name", MACHINES)
def test_what_is_chosen(name):
    """A machine's best GPU idles, or is asked for a precision that it emulates, or for more than its memory holds."""
    assert decided(*MACHINES[name]) == WANTED[name]


def test_the_page_has_the_table():
    """docs/hardware.md says of a machine what the code doesn't do."""
    page = (ROOT / "docs/hardware.md").read_text()
    _, _, after = page.partition("<!-- decisions: python -m decisions -->\n")
    assert after.partition("\n<!-- /decisions -->")[0] == table()


@pytest.mark.skipif(not torch.cuda.get_arch_list(), reason="this torch has no code for CUDA")
def test_the_code_that_torch_has():
    """Another torch has code for other GPUs than the page says."""
    assert torch.cuda.get_arch_list() == CODE


@pytest.mark.parametrize(
    ("free", "stays"), [(0, False), (2 * SPLIT.images.nbytes, False), (2 * SPLIT.images.nbytes + 2, True)]
)
def test_a_training_keeps_its_images(free, stays, monkeypatch):
    """A training takes another decision than the table's: it keeps images that leave no room, or streams the others."""
    with machine([A100], ""):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda which: (free, 40 * 2**30))
        training = a_training(model_of("vit-class-learned"), Compute(torch.device("cuda:0")))
        assert (training.batches.resident is not None) == stays


@pytest.mark.parametrize(
    ("cards", "named", "ranks"),
    [
        ([T4, V100], "", ["cuda:0", "cuda:1"]),
        ([A100] * 4, "cuda", ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ([], "", ["cpu"] * 3),
    ],
    ids=["two", "four", "none"],
)
def test_processes_of_torchrun(cards, named, ranks):
    """Of several processes two share a GPU, or one of them takes the CPU."""
    assert [choice(named, len(cards), len(ranks), rank) for rank in range(len(ranks))] == ranks


@pytest.mark.parametrize(
    ("gpus", "named"), [(2, "cuda:1"), (2, "cuda:0"), (1, ""), (1, "cuda"), (0, "cuda"), (0, "mps")]
)
def test_processes_that_would_share_a_gpu(gpus, named):
    """Two processes of torchrun on one GPU wait for each other for ever, instead of ending in a line."""
    with pytest.raises(UserError, match="process"):
        choice(named, gpus, 2, 0)


@pytest.mark.parametrize("named", ["xpu", "meta", "nonsense"])
def test_a_device_that_isnt_there(named):
    """A name of no device of the machine ends in a traceback, or in a training on another one."""
    with machine([RTX3090], named), pytest.raises(UserError, match=f"VITSCALE_DEVICE={named}"):
        device._device()


@pytest.mark.parametrize(
    ("card", "code", "way_out"),
    [(V100, CODE, "a torch built for CUDA 12 (see docs/hardware.md)"), (A100, ["sm_70"], "a newer torch")],
    ids=["an old one", "a new one"],
)
def test_a_gpu_without_code(card, code, way_out):
    """A GPU that torch has no code for ends the stage at its first kernel, hours into the queue, in a traceback."""
    with machine([card], "", code), pytest.raises(UserError) as caught:
        device._device()
    [said] = str(caught.value).splitlines()
    assert f"cuda:0 is a {card.name}" in said and way_out in said and "VITSCALE_DEVICE" in said


def test_a_gpu_whose_kernels_fail(monkeypatch):
    """A GPU that is there but runs nothing (a driver that is too old, another's alone) ends in a traceback later."""

    def fail(*_, **__):
        raise RuntimeError("CUDA error: no kernel image is available\nand more")

    with machine([A100], "cuda"):
        monkeypatch.setattr(torch.Tensor, "item", fail)
        with pytest.raises(UserError, match="can't be used .CUDA error: no kernel image is available.;"):
            device._device()
