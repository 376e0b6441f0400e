"""A finished pipeline with all that its stages read, one byte of it flipped or its end cut off, and what came of it."""

import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from tiny import run
from vitscale.base.config import read_yaml
from vitscale.pipeline.graph import declared, pipeline_in

WRONG = ("traceback", "hang", "no word", "other outputs")
EDITED = ("params.yaml", "dvc.yaml", "root.yaml")  # git shows what changed in them: an edit like any other
OUTPUTS = ("data/", "models/", "metrics/", "plots/")
BY_DVC = ("data", "models", "plots")  # what DVC keeps, and git doesn't
SECONDS = 120  # a training takes less than one


@dataclass(frozen=True)
class Trial:
    """A damage, and what is run then: `stage` by hand, or where it is empty `dvc repro`."""

    kind: str
    file: str  # below the world
    place: float  # of the file's length
    flip: int  # of the byte there, 0: the file ends there
    stage: str
    gone: tuple[str, ...] = ()  # what DVC must bring back first

    def damage(self, world: Path) -> bytes:
        """Damage the file; return what it holds then."""
        path = world / self.file
        content, mode = bytearray(path.read_bytes()), path.stat().st_mode
        at = int(self.place * len(content))
        if self.flip:
            content[at] ^= self.flip
        else:
            del content[at:]
        path.chmod(0o644)  # DVC's objects are read-only, and stay so
        path.write_bytes(content)
        path.chmod(mode)
        for name in self.gone:
            place = world / "repo" / name
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        return bytes(content)


def by_hand(label: str) -> list[str]:
    stage, _, key = label.partition("@")
    return ["python", f"stages/{stage}.py", *filter(None, [key])]


def environment(world: Path) -> dict[str, str]:
    places = {"VITSCALE_MIRROR": "mirror", "VITSCALE_CHECKPOINTS": "states", "DVC_SITE_CACHE_DIR": "site"}
    return os.environ | {name: str(world / place) for name, place in places.items()}


def make_base(repo: Path, mirror: Path, base: Path) -> Path:
    """Put a pipeline, its mirror and the states of its trainings into a folder, each stage run by hand once."""
    shutil.copytree(repo, base / "repo", symlinks=True)
    shutil.copytree(mirror, base / "mirror")
    params = read_yaml(base / "repo/params.yaml")
    del params["models"]["resnet18"]  # nothing reads its 45 MB, which every copy would have
    (base / "repo/params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    shutil.rmtree(base / "repo/models/start/resnet18-scratch")
    labels = list(declared(*pipeline_in(base / "repo")))
    commands = [
        ["dvc", "repro"],
        ["python", "-m", "vitscale", "prune"],
        ["dvc", "gc", "--workspace", "--force"],
        # again the first one's training: a later stage deletes its state
        *map(by_hand, [*labels, "finetune@vit-digits"]),
    ]
    for command in commands:
        run(*command, cwd=base / "repo", env=environment(base))
    shutil.rmtree(base / "site")
    return base


class World:
    """A copy of such a folder, which is put back after each trial: only what has changed."""

    def __init__(self, base: Path, folder: Path):
        self.base, self.folder = base, folder
        shutil.copytree(base, folder, symlinks=True)
        self.had = self._files()
        done = self._run("")  # DVC's database of known files is filled, as it is where someone works
        assert "up to date" in done.stdout, done.stdout + done.stderr
        self._put_back()

    def _files(self) -> dict[str, tuple]:
        """Return what tells whether a file was touched, without git's and DVC's database."""
        found = {}
        for place, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if name not in (".git", "site", "__pycache__")]
            for name in names:
                path = os.path.join(place, name)
                stat = os.lstat(path)
                found[os.path.relpath(path, self.folder)] = (
                    stat.st_ino,
                    stat.st_mtime_ns,
                    stat.st_size,
                    stat.st_mode,
                )
        return found

    def _changed(self) -> set[str]:
        """Return the files whose bytes are others than the base's."""
        has = self._files()
        touched = {name for name in {**self.had, **has} if self.had.get(name) != has.get(name)}
        return {
            name
            for name in touched
            if name not in has
            or name not in self.had
            or (self.base / name).read_bytes() != (self.folder / name).read_bytes()
        }

    def _put_back(self) -> None:
        has = self._files()
        for name in {**self.had, **has}:
            path = self.folder / name
            if name in has and self.had.get(name) != has[name]:
                path.unlink()
            if name in self.had and self.had[name] != has.get(name):
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.base / name, path)
        for place, _, _ in os.walk(self.folder / "repo", topdown=False):
            name = os.path.relpath(place, self.folder)
            if not os.listdir(place) and not (self.base / name).exists():
                os.rmdir(place)
        self.had = self._files()

    def _run(self, stage: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            by_hand(stage) if stage else ["dvc", "repro"],
            cwd=self.folder / "repo",
            env=environment(self.folder),
            text=True,
            errors="replace",
            capture_output=True,
            timeout=SECONDS,
        )

    def outcome(self, trial: Trial) -> str:
        """Damage this world, run what the trial says, and return in a word or two what came of it."""
        content = trial.damage(self.folder)
        said = ""
        try:
            done = self._run(trial.stage)
            found = self._judge(trial, content, done)
            said = f"{done.returncode}\n{done.stdout[-300:]}\n{done.stderr[-700:]}"
        except subprocess.TimeoutExpired:
            found = "hang"
        if found in WRONG:
            print(found, trial, said, sep="\n", flush=True)
        self._put_back()
        return found

    def _judge(self, trial: Trial, content: bytes, done: subprocess.CompletedProcess) -> str:
        file, changed = trial.file.removeprefix("repo/"), self._changed()
        there = {name for name in changed if (self.folder / name).exists()}
        other = {
            name.removeprefix("repo/")
            for name in (there if done.returncode else changed)
            if name.removeprefix("repo/").startswith(OUTPUTS) and not name.endswith(".gitignore")
        }
        if "Traceback" in done.stdout + done.stderr:
            return "traceback"
        if done.returncode:
            lines = done.stderr.splitlines()
            if not any(line.lower().startswith("error: ") or line.endswith(" is invalid.") for line in lines):
                return "no word"
            left = {name for name in other if (self.folder / "repo" / name).read_bytes() != content}
            return "other outputs" if left - {file} and file not in EDITED else "told"
        if other and trial.kind == "DVC's cache":
            return self._told_by_hand(other)
        if other:
            return "edit" if file in EDITED else "other outputs"
        return "no matter" if trial.file in changed else "healed"

    def _told_by_hand(self, other: set[str]) -> str:
        """Whether a script by hand refuses what DVC brought back from its cache: DVC believes read-only objects."""
        found = {label for name in other for label in readers(self.folder / "repo").get(f"repo/{name}", [])}
        if not found:
            return "brought back, read by none"
        done = self._run(sorted(found)[0])
        is_told = done.returncode == 1 and done.stderr.startswith("error: ")
        return "brought back, told by hand" if is_told else "other outputs"


def files_in(folder: Path, base: Path) -> list[str]:
    found = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != ".gitignore")
    return [file.relative_to(base).as_posix() for file in found if file.stat().st_size]


def readers(repo: Path) -> dict[str, list[str]]:
    """Return the stages that read each file, by its path below the world; code isn't among the files."""
    found: dict[str, list[str]] = {}
    for label, stage in declared(*pipeline_in(repo)).items():
        for dep in stage["deps"]:
            if not dep.endswith(".py"):
                whole = (repo / dep).is_dir()
                for file in files_in(repo / dep, repo.parent) if whole else [f"repo/{dep}"]:
                    found.setdefault(file, []).append(label)
    return found


def trials(base: Path, by_dvc: int, count: int, seed: int) -> Iterator[Trial]:
    """Yield so many trials, the first `by_dvc` under `dvc repro`, each kind as often as any other; of six one is a cut."""
    draws, repo = random.Random(seed), base / "repo"
    stages, read_by = declared(*pipeline_in(repo)), readers(repo)
    kinds: dict[str, list[str]] = {
        kind: [file for file in sorted(read_by) if file.startswith(f"repo/{kind}")]
        for kind in ("data/raw", "data/prepared", "data/features", "models", "metrics")
    }
    kinds |= {name: [f"repo/{name}"] for name in ("dvc.lock", *EDITED)}
    kinds["notes"] = files_in(repo / ".vitscale", base)
    dvcs_own = {
        "DVC's cache": files_in(repo / ".dvc/cache/files", base),
        "DVC's run cache": files_in(repo / ".dvc/cache/runs", base),
    }
    others = {  # DVC knows nothing of them
        "mirror": files_in(base / "mirror", base),
        "states": [file for file in files_in(base / "states", base) if file.endswith(".pt")],
    }
    for number in range(count):
        of = kinds | (dvcs_own if number < by_dvc else others)
        kind = draws.choice(sorted(of))
        file = draws.choice(of[kind])
        stage = "" if number < by_dvc else draws.choice(read_by.get(file, sorted(stages)))
        gone: tuple[str, ...] = ()
        if kind == "mirror":
            stage = "weights@hub" if "someone" in file else "download@photos"
        elif kind == "states":
            stage = Path(file).name.rsplit("-", 1)[0]
        elif kind in dvcs_own:
            gone = (*BY_DVC, "dvc.lock") if "run" in kind else BY_DVC
        flip = 0 if number % 6 == 5 else draws.randrange(1, 256)
        yield Trial(kind, file, draws.random(), flip, stage, gone)


def table(found: Counter) -> str:
    """Return the counts by kind and outcome; `found` counts pairs of both."""
    kinds, outcomes = (sorted({pair[number] for pair in found}) for number in (0, 1))
    lines = [["what", *outcomes, "all"], ["---"] * (len(outcomes) + 2)]
    for kind in kinds:
        counts = [found[kind, outcome] for outcome in outcomes]
        lines.append([kind, *map(str, [*counts, sum(counts)])])
    sums = [sum(found[kind, outcome] for kind in kinds) for outcome in outcomes]
    lines.append(["all", *map(str, [*sums, sum(sums)])])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
