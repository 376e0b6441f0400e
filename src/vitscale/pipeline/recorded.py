"""What dvc.lock records of the runs, held against what dvc.yaml and params.yaml ask for now.

Nobody's dependency.
"""

from collections.abc import Callable

from vitscale.pipeline.graph import declared, find


def not_run(
    pipeline: dict, params: dict, lock: dict[str, dict], md5: Callable[[str], str | None]
) -> list[str]:
    """Return a line for each stage never run, and for each parameter or file that a run did not have.

    `lock` has the stages of dvc.lock; `md5` gives a file's hash by its path from the pipeline's folder, None
    where git doesn't keep it.
    """
    lines = []
    for label, stage in declared(pipeline, params).items():
        if label not in lock:
            lines.append(f"{label} was never run")
            continue
        ran = lock[label]
        had = ran.get("params", {}).get("params.yaml", {})
        for name in stage["params"]:
            lines += differences(label, name, had.get(name), find(params, name))
        for kind, verb in (("deps", "had"), ("outs", "left")):
            known = {entry["path"]: entry.get("md5") for entry in ran.get(kind, [])}
            for path in stage[kind]:
                if (now := md5(path)) and now != known.get(path):
                    lines.append(f"{label}: {path} is not what its run {verb}")
    return lines


def differences(label: str, name: str, had: object, has: object) -> list[str]:
    """Return a line for each value in which a parameter differs from what the run had."""
    if isinstance(had, dict) and isinstance(has, dict):
        return [
            line
            for key in {**had, **has}
            for line in differences(label, f"{name}.{key}", had.get(key), has.get(key))
        ]
    return [] if had == has else [f"{label}: {name} is {has}, its run had {had}"]


def leftovers(pipeline: dict, params: dict, lock: dict[str, dict]) -> dict[str, list[dict]]:
    """Return the outputs, as dvc.lock has them, of each stage there that no entry asks for any more."""
    stages = declared(pipeline, params)
    wanted = {path for stage in stages.values() for path in stage["outs"]}
    return {
        label: [out for out in ran.get("outs", []) if out["path"] not in wanted]
        for label, ran in lock.items()
        if label not in stages
    }
