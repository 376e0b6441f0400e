"""`dvc repro` of the tiny pipeline killed at random moments: the same bytes in the end, and no hand but the FAQ's."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tiny import outputs, run, tiny

KILLS, WORKERS = 200, 2
EACH = 10  # of one pipeline, which then ends in peace and is compared
KINDS = ["dvc alone", "the stage alone", "the whole group"]
# docs/faq.md#after-kill--9-dvc-refuses-everything: what DVC says then, and what helps (dvc.lock is not in git here).
WAYS_OUT = {
    "'./dvc.lock' validation failed": "rm dvc.lock",
    "'./dvc.lock' is invalid": "rm dvc.lock",
    "Unable to read RWLock-file '.dvc/tmp/rwlock'": "rm .dvc/tmp/rwlock",
    "join() argument must be str": 'find "$(dvc cache dir)/runs" -type d -empty -delete',
}


def stage_of(dvc: subprocess.Popen) -> psutil.Process | None:
    """Return the stage script that runs under a `dvc`, not the shell between."""
    try:
        below = psutil.Process(dvc.pid).children(recursive=True)
        return next((each for each in below if "stages/" in " ".join(each.cmdline()[1:2])), None)
    except psutil.Error:
        return None


def kill(dvc: subprocess.Popen, kind: str, rng: random.Random) -> bool:
    """Kill at a random moment; return False where all had ended before."""
    if kind == "the stage alone":
        while dvc.poll() is None and not stage_of(dvc):
            time.sleep(0.01)
    end = time.monotonic() + rng.uniform(0, 8 if kind != "the stage alone" else 4)
    while dvc.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    try:
        if kind == "the stage alone":
            stage = stage_of(dvc)
            if not stage:
                return False
            stage.kill()
        elif dvc.poll() is None:
            (os.killpg if kind == "the whole group" else os.kill)(dvc.pid, signal.SIGKILL)
        else:
            return False
    except (psutil.Error, ProcessLookupError):
        return False
    return True


class Runs:
    """Pipelines run from nothing, one after the other, each under kills; what these needed and left."""

    def __init__(self, fresh: Path, wanted: dict[str, str], folder: Path, seed: int):
        self.fresh, self.wanted, self.folder = fresh, wanted, folder
        self.rng, self.runs = random.Random(seed), 0
        self.kills: Counter = Counter()
        self.by_hand: Counter = Counter()
        self.wrong: list[str] = []

    def until(self, kills: int) -> "Runs":
        while self.kills.total() < kills and not self.wrong:
            self.runs += 1
            self.once(self.folder / f"{self.runs}", min(kills, self.kills.total() + EACH))
            print(f"{self.kills.total()} kills, {self.runs} pipelines, {self.wrong}", flush=True)
        return self

    def once(self, home: Path, kills: int) -> None:
        repo = shutil.copytree(self.fresh, home / "repo", symlinks=True)
        names = {"VITSCALE_CHECKPOINTS": "checkpoints", "DVC_SITE_CACHE_DIR": "site"}
        env = os.environ | {name: str(home / path) for name, path in names.items()} | {"OMP_NUM_THREADS": "1"}
        killed = ""  # in which way, the last time
        while True:
            with open(home / "log", "w+") as log:
                dvc = subprocess.Popen(
                    ["dvc", "repro"], cwd=repo, env=env, stdout=log, stderr=log, start_new_session=True
                )
                kind = self.rng.choice(KINDS)
                now = self.kills.total() < kills and kill(dvc, kind, self.rng)
                code = dvc.wait()
                log.seek(0)
                said = log.read()
            if now:
                self.kills[kind], killed = self.kills[kind] + 1, kind
            elif code == 0:
                break
            elif way := next((way for words, way in WAYS_OUT.items() if words in said), None):
                self.by_hand[way, killed] += 1
                subprocess.run(way, shell=True, cwd=repo, env=env, check=True)
            else:
                self.wrong.append(f"after a kill of {killed}: {said[-2000:]}")
                return
        found = outputs(repo)
        names = [name for name in {**found, **self.wanted} if found.get(name) != self.wanted.get(name)]
        self.wrong += [f"{name} differs" for name in names]
        left = [*repo.glob(".vitscale/partial/*"), *repo.rglob("*.part"), *home.glob("checkpoints/*/*.pt*")]
        self.wrong += [f"{path} is left" for path in left]
        shutil.rmtree(home)


@pytest.mark.slow
def test_random_kills(tmp_path):
    """A kill loses or changes an output, leaves something half done, or has DVC refuse in a way that the FAQ lacks."""
    fresh = tiny(tmp_path / "fresh", rows__vit_digits__epochs=30)
    whole = shutil.copytree(fresh, tmp_path / "whole", symlinks=True)
    run("dvc", "repro", "-q", cwd=whole, env=os.environ | {"OMP_NUM_THREADS": "1"})
    workers = [Runs(fresh, outputs(whole), tmp_path / f"{seed}", seed) for seed in range(WORKERS)]
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda each: each.until(KILLS // WORKERS), workers))
    kills, by_hand = (
        sum((getattr(each, name) for each in workers), Counter()) for name in ("kills", "by_hand")
    )
    print(f"{sum(each.runs for each in workers)} runs; kills: {dict(kills)}; by hand: {dict(by_hand)}")
    assert not [line for each in workers for line in each.wrong]
    assert kills.total() == KILLS and set(kills) == set(KINDS)
