"""Share every run with colleagues through the DVC remote, of values changed since too.

Push here, fetch elsewhere.

`dvc push --run-cache` (DVC 3.67) sends the record of each run, but of the outputs only those that the
workspace has now, and none that git keeps; so a colleague's `dvc repro` would run a value again. This sends
and brings all of them.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from vitscale.base.errors import UserError
from vitscale.commands.main import add_pipeline


def share(way: str, remote: str | None) -> tuple[int, int]:
    """Push or fetch the run cache of the DVC project in this folder.

    Return how many runs and how many files are moved.

    A run whose outputs are no longer in the cache is left out. Raises DvcException where the remote can't be
    used.
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
            # Before the records, which then never lead to nothing.
            moved = repo.cloud.push(objects(cache, runs), remote=remote)
            cache.push(remote)
    return len(runs), len(moved.transferred)


def objects(cache: Any, runs: list[tuple[str, str]]) -> set:
    """Return what the cache has of the runs' outputs."""
    return set().union(*cache.get_used_objs(runs, force=True).values())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("way", choices=["push", "fetch"])
    add_pipeline(parser)
    parser.add_argument("--remote", metavar="NAME", help="default: DVC's default remote")


def main(arguments: argparse.Namespace) -> None:
    """Run the command. Raises UserError where the remote can't be used."""
    from dvc.exceptions import DvcException

    os.chdir(arguments.pipeline)
    try:
        runs, files = share(arguments.way, arguments.remote)
    except DvcException as error:
        raise UserError(" ".join(str(error).split())) from error
    print(f"{arguments.way}: {runs} runs, {files} files that were not there yet")
