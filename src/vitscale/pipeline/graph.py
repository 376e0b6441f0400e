"""What dvc.yaml says of each stage, its `${…}` filled in as DVC does."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitscale.base.config import read_yaml
from vitscale.base.errors import UserError


def find(content: Any, dotted: str) -> Any:
    """Return the value at a dotted path such as `rows.vit-scratch.epochs`."""
    for part in dotted.split("."):
        content = content[part]
    return content


def read_pipeline(read: Callable[[str], dict]) -> tuple[dict, dict]:
    """Return dvc.yaml, with the files of values at hand that its `vars` name, and params.yaml.

    `read` gives the mapping in a file of the pipeline's folder.
    """
    params, pipeline = read("params.yaml"), read("dvc.yaml")
    variables = [read(each) if isinstance(each, str) else each for each in pipeline.get("vars", [])]
    return pipeline | {"vars": variables}, params


def pipeline_in(folder: Path) -> tuple[dict, dict]:
    """Return a folder's dvc.yaml and params.yaml, as above. Raises UserError where a file can't be read."""
    return read_pipeline(lambda name: read_yaml(folder / name))


def declared(pipeline: dict, parameters: dict) -> dict[str, dict[str, list[str]]]:
    """Return a pipeline's stages by label (`finetune@vit-scratch`), the `${…}` filled in as DVC does.

    Each has the lists `params`, `deps` and `outs` (metrics and plots among them). Raises UserError where
    dvc.yaml isn't made so.
    """
    try:
        return _declared(pipeline, parameters)
    except (LookupError, TypeError, AttributeError, StopIteration) as error:
        fault = f"{type(error).__name__}: {error}"
        raise UserError(
            f"dvc.yaml is none of ours ({fault}); `git checkout dvc.yaml` brings it back"
        ) from None


def recorded_stages(lock: dict, name: str) -> dict[str, dict]:
    """Return the stages of a dvc.lock's mapping by label. Raises UserError where it isn't made so.

    Each dependency and output has a `path`, but perhaps no `md5`: to DVC it has then changed.
    """
    stages = lock.get("stages", {})
    if not (_named(stages) and all(map(_is_recorded, stages.values()))):
        raise UserError(f"{name} is damaged; `git checkout dvc.lock` brings it back")
    return stages


def _named(content: Any) -> bool:
    """Tell whether this is a mapping whose keys are all texts."""
    return isinstance(content, dict) and all(isinstance(key, str) for key in content)


def _is_recorded(stage: Any) -> bool:
    """Tell whether a stage of a dvc.lock has its parameters, inputs and outputs in DVC's form."""
    if not _named(stage) or not _named(params := stage.get("params", {})):
        return False
    lists = stage.get("deps", []), stage.get("outs", [])
    if not all(map(_named, params.values())) or not all(isinstance(entries, list) for entries in lists):
        return False
    return all(
        _named(each) and isinstance(each.get("path"), str) and isinstance(each.get("md5", ""), str)
        for entries in lists
        for each in entries
    )


def _declared(pipeline: dict, parameters: dict) -> dict[str, dict[str, list[str]]]:
    context = parameters | {name: value for each in pipeline["vars"] for name, value in each.items()}

    def filled(body: dict, context: dict) -> dict[str, list[str]]:
        def fill(entry: str | dict) -> str:
            text = entry if isinstance(entry, str) else next(iter(entry))
            return re.sub(r"\$\{([^}]+)\}", lambda match: str(find(context, match[1])), text)

        outs = [*body.get("outs", []), *body.get("metrics", []), *body.get("plots", [])]
        lists = {"params": body.get("params", []), "deps": body["deps"], "outs": outs}
        return {kind: [fill(entry) for entry in entries] for kind, entries in lists.items()}

    stages = {}
    for name, body in pipeline.get("stages", {}).items():
        if "foreach" not in body:
            stages[name] = filled(body, context)
            continue
        for key, item in find(context, body["foreach"].strip("${}")).items():
            stages[f"{name}@{key}"] = filled(body["do"], context | {"key": key, "item": item})
    return stages
