"""Stages started anew whose decoded images are counted, and which may be killed at one of them."""

import os
import subprocess
import sys
from pathlib import Path

from tiny import ROOT
from works import Work


def counted(
    work: Work, killed_at: int = 0, stage: str = "download", **environment: str
) -> tuple[int, subprocess.CompletedProcess]:
    """Run a stage in a process group of its own; return how many images it opened, and its end."""
    log = work.top / "opened"
    log.unlink(missing_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VITSCALE_")}
    own = {
        "VITSCALE_MIRROR": str(work.mirror),
        "PYTHONPATH": str(Path(__file__).parent / "counting"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENED": str(log),
        "KILLED_AT": str(killed_at),
    }
    result = subprocess.run(
        [sys.executable, ROOT / "stages" / f"{stage}.py", "things"],
        cwd=work.folder,
        env=kept | own | environment,
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return log.stat().st_size if log.exists() else 0, result


def outputs(work: Work) -> dict[str, bytes]:
    folder = work.folder / "data/raw/things"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def forget_outputs(work: Work) -> None:
    """Take the stage's outputs away, as DVC does before it runs a stage whose parameters have changed."""
    for path in sorted((work.folder / "data/raw/things").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def spoil(where: Path) -> None:
    """Damage every file below a folder, or one archive, with length and time of change kept."""
    for path in [where] if where.is_file() else where.rglob("*"):
        if path.is_file():
            status = path.stat()
            path.write_bytes(bytes(status.st_size))
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
