"""Share every run, of values changed since too: `python -m vitscale.runs push`, and `python -m vitscale.runs fetch` elsewhere.

`dvc push --run-cache` (DVC 3.67) sends the record of each run, but of the outputs only those that the workspace has now, and
none that git keeps; so a colleague's `dvc repro` would run a value again. This sends and brings all of them.
"""

import argparse
import os
import sys
from pathlib import Path


def share(way: str, remote: str | None) -> tuple[int, int]:
    """Push or fetch the run cache of the DVC project in this folder; return how many runs and how many files are moved.

    A run whose outputs are no longer in the cache is left out. Raises DvcException where the remote can't be used.
    """
    from dvc.repo import Repo  # takes a second to import

    with Repo(os.curdir) as repo, repo.lock:
        cache = repo.stage_cache
        if way == "fetch":
            runs = cache.pull(remote)
            moved = repo.cloud.pull(objects(cache, runs), remote=remote)
        else:
            runs = [(path.parent.name, path.name) for path in Path(cache.cache_dir).glob("*/*/*")]
            runs = [run for run in runs if cache._create_stage(cache._load_cache(*run)).outs_cached()]
            moved = repo.cloud.push(objects(cache, runs), remote=remote)  # before the records, which then never lead to nothing
            cache.push(remote)
    return len(runs), len(moved.transferred)


def objects(cache, runs: list[tuple[str, str]]) -> set:
    return set().union(*cache.get_used_objs(runs, force=True).values())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vitscale.runs", description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=["push", "fetch"])
    parser.add_argument("--pipeline", default=".", type=Path, metavar="FOLDER", help="folder of its dvc.yaml; default: this one")
    parser.add_argument("--remote", metavar="NAME", help="default: DVC's default remote")
    arguments = parser.parse_args()
    from dvc.exceptions import DvcException

    try:
        os.chdir(arguments.pipeline)
        runs, files = share(arguments.way, arguments.remote)
    except (DvcException, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    print(f"{arguments.way}: {runs} runs, {files} files that were not there yet")


if __name__ == "__main__":
    main()
