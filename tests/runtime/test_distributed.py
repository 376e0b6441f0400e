"""Several processes at one stage, as torchrun starts them: two on this machine's CPU, over gloo."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from same import alone, assert_same_training, history
from tiny import PARAMS, ROOT, outputs, run
from trainings import CPU, LIGHT, OFF, VIT, training_of
from vitscale.base.errors import UserError
from vitscale.runtime import distributed
from vitscale.training import loop

pytestmark = pytest.mark.usefixtures("forked", "environment_of_each")


RECIPE = PARAMS["recipes"]["vit"]


TORCHRUN = ("python", "-m", "torch.distributed.run", "--standalone")


def torchrun(folder: Path, stage: str, key: str, processes: int = 2):
    return run(
        *TORCHRUN,
        f"--nproc-per-node={processes}",
        f"stages/{stage}.py",
        key,
        cwd=folder,
        timeout=600,
    )


@pytest.mark.parametrize(
    ("parts", "precision"),
    [(1, "float32"), (4, "float32"), (2, "float16")],
    ids=["whole", "parts", "float16"],
)
def test_two_processes_pretrain_as_one(copies, tmp_path, monkeypatch, parts, precision):
    """Two processes take other images or steps than one, mix others, or share gradients, losses or averages wrongly."""
    # The policy is `strong`: images are mixed across the processes' parts.
    recipes = {"one": RECIPE | {"ema_decay": 0.5}, "two": RECIPE | {"ema_decay": 0.5, "accumulate": parts}}
    folders = [copies(name, recipes__vit=recipe, precision=precision) for name, recipe in recipes.items()]
    alone(folders[0], "pretrain", "vit-digits")
    monkeypatch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path / "others"))
    said = torchrun(folders[1], "pretrain", "vit-digits").stdout
    assert_same_training(*folders, "pretrain", "models/start", "vit-scratch")
    assert said.count("epoch 1/1") == 1
    assert said.count("computing on cpu") == said.count(", 1 thread, 2 processes") == 1


def test_two_processes_probe_as_one(copies, tmp_path, monkeypatch):
    """A frozen backbone isn't; or the second process writes an output, a line of timings.csv, or leaves something behind."""
    changes = {"rows__vit_digits__protocol": "linear_probe", "rows__vit_digits__lr_scale": 10.0}
    folders = [copies(name, **changes) for name in ("one", "two")]
    before = outputs(folders[1])
    alone(folders[0], "finetune", "vit-digits")
    monkeypatch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path / "others"))
    torchrun(folders[1], "finetune", "vit-digits")
    assert_same_training(*folders, "finetune", "models/finetuned", "vit-digits")
    assert outputs(folders[1]).keys() == before.keys()
    assert len((folders[1] / "timings.csv").read_text().splitlines()) == 1
    assert not list((folders[1] / ".vitscale/partial").iterdir())


def test_one_begins_and_two_go_on(copies, tmp_path):
    """Two processes can't resume what one was killed at, or end elsewhere than one."""
    changes = {
        "recipes__vit": RECIPE | {"optimizer": "muon", "momentum": 0.95},
        "rows__vit_digits__start": "vit-scratch",
        "rows__vit_digits__epochs": 3,
        "rows__vit_digits__sizes": [16, 32],
        "rows__vit_digits__lr_scale": 3.0,
    }
    whole, folder = copies("whole", **changes), copies("repo", **changes)
    killed = run(
        "python",
        str(ROOT / "tests/killer.py"),
        "mid-epoch",
        "stages/finetune.py",
        "vit-digits",
        cwd=folder,
        check=False,
    )
    assert killed.returncode < 0
    assert torchrun(folder, "finetune", "vit-digits").stdout.count("going on after epoch 1 of 3") == 1
    shutil.rmtree(tmp_path / "checkpoints")
    alone(whole, "finetune", "vit-digits")
    assert_same_training(whole, folder, "finetune", "models/finetuned", "vit-scratch")
    assert np.array_equal(history(whole, "finetune")[0], history(folder, "finetune")[0])


SCORING = """
import sys
import numpy as np
import torch
sys.path[:0] = [{src!r}, {tests!r}]
from made import build
from trainings import VIT
from vitscale.base.processes import PROCESSES, RANK
from vitscale.runtime.device import setup
from vitscale.training.inference import predict
compute, asked = setup(), []
torch.manual_seed(0)
model = build(VIT)
model.register_forward_pre_hook(lambda _, inputs: asked.append(len(inputs[0])))
images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
found = []
for count in (1, 2, 7, 9):
    for each in (images[:count], list(images[:count])):
        logits = predict(model, each, compute, batch_size=3)
        found.append((logits, sum(asked)))
        asked.clear()
torch.save(found, f"{folder}/{{PROCESSES}}-{{RANK}}.pt")
"""


def test_two_processes_score_as_one(tmp_path):
    """Each process scores all images, or one twice; or the logits come in another order, or to one process alone."""
    script = tmp_path / "scoring.py"
    script.write_text(SCORING.format(src=str(ROOT / "src"), tests=str(ROOT / "tests"), folder=tmp_path))
    run("python", str(script), cwd=tmp_path)
    run(*TORCHRUN, "--nproc-per-node=2", str(script), cwd=tmp_path, timeout=600)
    alone, *two = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    for wanted, (first, its), (second, others) in zip(alone, *two, strict=True):
        assert torch.allclose(first, wanted[0], atol=1e-5) and first.dtype == torch.float32
        assert torch.equal(first, second)
        assert its == others == math.ceil(wanted[1] / 2)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 9])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_shares_are_joined_in_order(monkeypatch, count, processes):
    """A row falls to no process, or stands elsewhere, where processes can't have equal shares or there are fewer rows."""
    monkeypatch.setattr(distributed, "PROCESSES", processes)
    rows, shares = (
        torch.arange(3.0 * count).view(count, 3),
        [distributed.share_of(count, i) for i in range(processes)],
    )
    assert {len(share) for share in shares} == {math.ceil(count / processes)}
    monkeypatch.setattr(
        torch.distributed,
        "all_gather_into_tensor",
        lambda sent, values: sent.copy_(torch.cat([rows[share.start : share.stop] for share in shares])),
    )
    for share in shares:
        assert torch.equal(distributed.joined(rows[share.start : share.stop], count, CPU.device), rows)


def test_a_batch_that_cannot_be_parted_is_refused(split, monkeypatch):
    monkeypatch.setattr(distributed, "PROCESSES", 3)
    with pytest.raises(
        UserError, match="3 processes can't have equal parts of a batch of 16; change the recipe's batch_size"
    ):
        training_of(split)


def test_batch_norm_on_cpus_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "PROCESSES", 2)
    with pytest.raises(UserError, match="without torchrun"):
        distributed.share_statistics(torch.nn.Sequential(torch.nn.BatchNorm2d(3)), CPU.device)
    distributed.share_statistics(torch.nn.Sequential(torch.nn.LayerNorm(3)), CPU.device)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_parts_are_the_batch(split, monkeypatch, processes):
    """An image of a batch falls to two processes or to none, or is augmented otherwise than for one."""
    policy = LIGHT | {"mixup": 0.5}
    images, targets = training_of(split, policy=policy).batches.batch(np.arange(16), 3)
    parts = []
    for rank in range(processes):
        training = training_of(split, policy=policy)
        with monkeypatch.context() as patch:
            patch.setattr(distributed, "PROCESSES", processes)
            patch.setattr(distributed, "RANK", rank)
            training.batches.part = distributed.part_of(training.batches.batch_size)
        parts.append(training.batches.batch(np.arange(16), 3))
    assert torch.equal(torch.cat([part[0] for part in parts]), images) and torch.equal(
        torch.cat([part[1] for part in parts]), targets
    )
    assert {len(part[0]) for part in parts} == {16 // processes}


def test_no_two_processes_drop_the_same(split, monkeypatch):
    """Dropout takes the same values away in every process, whose images differ; or process 0 draws other ones than a single one."""
    drawn = []
    for rank in (0, 0, 1):
        monkeypatch.setattr(loop, "RANK", rank)
        training = training_of(split, VIT | {"dropout": 0.5}, policy=OFF)
        monkeypatch.setattr(
            training.batches, "batch", lambda *_: (torch.ones(2, 3, 32, 32), torch.ones(2, 4) / 4)
        )
        training.epoch(0)
        drawn.append(torch.get_rng_state())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_share_batch_norm(copies, tmp_path, monkeypatch):
    """On GPUs the batch norms' statistics are those of each part, or the processes share one device."""
    monkeypatch.delenv("VITSCALE_DEVICE")
    resnet = {"architecture": "resnet18", "image_size": 32, "stem": "imagenet", "seed": 0}
    folders = [copies(name, models__vit=resnet) for name in ("one", "two")]
    for folder in folders:
        alone(folder, "init", "vit")
    alone(folders[0], "pretrain", "vit-digits")
    monkeypatch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path / "others"))
    torchrun(folders[1], "pretrain", "vit-digits")
    assert np.allclose(*(history(folder, "pretrain") for folder in folders), rtol=2e-2, atol=1e-3)
