"""A finished pipeline with all that its stages read, one byte of it flipped or its end cut off, and what came of it."""

import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tiny import outputs, run
from vitscale.pipeline.graph import declared, pipeline_in

WRONG = ("traceback", "hang", "no word", "other outputs")
EDITED = ("params.yaml", "dvc.yaml", "root.yaml")  # git shows what changed in them: an edit like any other
SECONDS = 120  # a training takes less than one


def make_world(repo: Path, mirror: Path, world: Path) -> Path:
    """Put a pipeline, its mirror and the states of its trainings into a folder, each stage run by hand once."""
    shutil.copytree(repo, world / "repo", symlinks=True)
    shutil.copytree(mirror, world / "mirror")
    labels = list(declared(*pipeline_in(world / "repo")))
    for label in [*labels, "finetune@vit-digits"]:  # a later stage deletes the state of an earlier training
        run(*by_hand(label), cwd=world / "repo", env=environment(world))
    shutil.rmtree(world / "site", ignore_errors=True)
    return world


def environment(world: Path) -> dict[str, str]:
    places = {"VITSCALE_MIRROR": "mirror", "VITSCALE_CHECKPOINTS": "states", "DVC_SITE_CACHE_DIR": "site"}
    return os.environ | {name: str(world / place) for name, place in places.items()}


def by_hand(label: str) -> list[str]:
    stage, _, key = label.partition("@")
    return ["python", f"stages/{stage}.py", *filter(None, [key])]


@dataclass(frozen=True)
class Trial:
    """A damage: `stage` is run by hand, or where it is empty `dvc repro` is; `gone`: what DVC must bring back first."""

    kind: str
    file: str  # below the world
    place: float  # of the file's length
    flip: int  # of the byte there, 0: the file ends there
    stage: str = ""
    gone: tuple[str, ...] = ()

    def damage(self, world: Path) -> None:
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

    def run(self, base: Path, world: Path) -> str:
        """Damage a copy of the world, run it there, and return in a word or two what came of it."""
        shutil.rmtree(world, ignore_errors=True)
        shutil.copytree(base, world, symlinks=True)
        for note in (world / "repo/.vitscale/trained").iterdir():  # else the base's state is deleted
            note.write_text(note.read_text().replace(str(base), str(world)))
        self.damage(world)
        command = by_hand(self.stage) if self.stage else ["dvc", "repro"]
        try:
            done = subprocess.run(
                command,
                cwd=world / "repo",
                env=environment(world),
                text=True,
                errors="replace",
                capture_output=True,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            return "hang"
        outcome = self.judge(base, world, done)
        if outcome in WRONG:
            print(outcome, self, done.returncode, done.stdout[-300:], done.stderr[-700:], sep="\n")
        return outcome

    def told_by_hand(self, world: Path, damaged: set[str]) -> str:
        """Whether a script by hand refuses what DVC brought back from its cache: DVC believes read-only objects."""
        found = {label for name in damaged for label in readers(world / "repo").get(f"repo/{name}", [])}
        if not found:
            return "brought back, read by none"
        command = by_hand(sorted(found)[0])
        done = run(*command, cwd=world / "repo", env=environment(world), check=False)
        is_told = done.returncode == 1 and done.stderr.startswith("error: ")
        return "brought back, told by hand" if is_told else "other outputs"

    def judge(self, base: Path, world: Path, done: subprocess.CompletedProcess) -> str:
        had, has = outputs(base / "repo"), outputs(world / "repo")
        file = self.file.removeprefix("repo/")
        changed = {name for name in {**had, **has} if had.get(name) != has.get(name)} - {file}
        if "Traceback" in done.stdout + done.stderr:
            return "traceback"
        if done.returncode:
            if not any(
                line.lower().startswith("error: ") or line.endswith(" is invalid.")
                for line in done.stderr.splitlines()
            ):
                return "no word"
            return "other outputs" if changed & set(has) and file not in EDITED else "told"
        if changed and self.kind == "DVC's cache":
            return self.told_by_hand(world, changed)
        if changed:
            return "edit" if file in EDITED else "other outputs"
        if (world / self.file).exists() and (base / self.file).read_bytes() == (
            world / self.file
        ).read_bytes():
            return "healed"
        return "no matter"


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


def trials(base: Path, flips: int, cuts: int) -> Iterator[Trial]:
    """Yield such trials, drawn from everything that a stage reads, each kind of it as often as any other."""
    draws, repo = random.Random(0), base / "repo"
    stages, read_by = declared(*pipeline_in(repo)), readers(repo)
    inputs = sorted(read_by)
    by_dvc = ("data", "models", "plots")
    kinds: dict[str, list[str]] = {
        kind: [file for file in inputs if file.startswith(f"repo/{kind}")]
        for kind in ("data/raw", "data/prepared", "data/features", "models", "metrics")
    }
    kinds |= {name: [f"repo/{name}"] for name in ("dvc.lock", "dvc.yaml", "params.yaml", "root.yaml")}
    kinds |= {
        "notes": files_in(repo / ".vitscale", base),
        "DVC's cache": files_in(repo / ".dvc/cache/files", base),
        "DVC's run cache": files_in(repo / ".dvc/cache/runs", base),
        "mirror": files_in(base / "mirror", base),
        "states": [file for file in files_in(base / "states", base) if file.endswith(".pt")],
    }
    for number in range(flips + cuts):
        kind = sorted(kinds)[number % len(kinds)]
        file = draws.choice(kinds[kind])
        stage = draws.choice(read_by.get(file, sorted(stages))) if draws.random() < 0.5 else ""
        gone: tuple[str, ...] = ()
        if kind == "mirror":  # DVC doesn't know it
            stage = "weights@hub" if "someone" in file else "download@photos"
        elif kind == "states":
            stage = Path(file).name.rsplit("-", 1)[0]
        elif kind.startswith("DVC's"):
            stage, gone = "", (*by_dvc, "dvc.lock") if "run" in kind else by_dvc
        flip = draws.randrange(1, 256) if number % (flips + cuts) < flips else 0
        yield Trial(kind, file, draws.random(), flip, stage, gone)


def table(found: list[tuple[Trial, str]]) -> str:
    """Return the counts by kind and outcome."""
    outcomes = sorted({outcome for _, outcome in found})
    counts = Counter((trial.kind, outcome) for trial, outcome in found)
    lines = [["what", *outcomes]]
    for kind in sorted({trial.kind for trial, _ in found}):
        lines.append([kind, *(str(counts[kind, outcome]) for outcome in outcomes)])
    lines.append(
        [
            "all",
            *(str(sum(counts[kind, outcome] for kind in {t.kind for t, _ in found})) for outcome in outcomes),
        ]
    )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
