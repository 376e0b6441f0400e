"""The check of params.yaml, whole, whenever any stage runs, and by `vitscale check`.

The schema, and what doesn't fit together.

It only rejects, with one line for each key that is wrong, and is nobody's dependency, like the schema.
"""

import json
from collections.abc import Iterator, Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from vitscale.base.errors import UserError, brief, shown
from vitscale.base.limits import vit_fault
from vitscale.pipeline.schema import Params, Row, Training, Vit

LINES = 100  # of faults that are said at once
KINDS = {
    "download": ["cifar10", "cifar100", "digits", "imagefolder", "tinyimagenet"],
    "weights": ["huggingface", "torchvision"],
    "models": ["vit", "resnet18"],
    "recipes": ["adamw", "muon", "sgd"],
}


def mismatches(params: Params) -> Iterator[str]:
    """Yield a line for everything that is well-formed but doesn't fit the rest."""
    yield from _of_names(params)
    for name in params.prepare:
        yield from _among(f"prepare.{name}", name, "download", params.download)
    yield from _among("target", params.target, "prepare", params.prepare)
    yield from _of_models(params)
    for name, recipe in params.recipes.items():
        if recipe.batch_size % recipe.accumulate:
            misfit = f"{recipe.accumulate} doesn't divide batch_size {recipe.batch_size}"
            yield f"recipes.{name}.accumulate: {misfit}"
    starts: dict[str, str | None] = {f"{model}-scratch": model for model in params.models}
    for name, pretraining in params.pretrain.items():
        if name in starts:
            owner = f"the untrained weights of models.{starts[name]}"
            yield f"pretrain.{name}: the name is taken by {owner}; choose another"
        yield from _among(f"pretrain.{name}.model", pretraining.model, "models", params.models)
        yield from _among(f"pretrain.{name}.data", pretraining.data, "prepare", params.prepare)
        yield from _of_training(f"pretrain.{name}", pretraining.model, pretraining, params)
        starts.setdefault(name, pretraining.model)
    for name in params.weights:
        if name in starts:
            yield f"weights.{name}: the name is taken by another start; choose another"
        starts.setdefault(name, None)
    for name in params.features:
        yield from _among(f"features.{name}", name, "start", starts)
    for name, row in params.rows.items():
        if row.start not in starts:
            yield f"rows.{name}.start: there is no {row.start}; there are {', '.join(starts)}"
        yield from _of_inputs(f"rows.{name}", row, params)
        yield from _of_training(f"rows.{name}", starts.get(row.start), row, params)


def _of_names(params: Params) -> Iterator[str]:
    """Yield a line for each name that is another's but for the case: on macOS both would be one file."""
    named = {section: [*value] for section, value in params if isinstance(value, dict)}
    named["models"] = [f"{name}-scratch" for name in params.models]
    named["models, pretrain and weights"] = [
        n for s in ("models", "pretrain", "weights") for n in named.pop(s)
    ]
    for section, names in named.items():
        spelled: dict[str, str] = {}
        for name in names:
            if spelled.setdefault(name.lower(), name) != name:
                yield f"{section}: {spelled[name.lower()]} and {name} differ in their case alone; rename one"


def _among(key: str, name: str, section: str, choices: Mapping[str, object]) -> Iterator[str]:
    if name not in choices:
        yield f"{key}: there is no {section}.{name}; {section} has {', '.join(choices) or 'no entry'}"


def _of_models(params: Params) -> Iterator[str]:
    for name, model in params.models.items():
        if isinstance(model, Vit):
            if model.image_size % model.patch_size:
                misfit = f"{model.patch_size} doesn't divide image_size {model.image_size}"
                yield f"models.{name}.patch_size: {misfit}"
            if model.dim % model.heads:
                yield f"models.{name}.heads: {model.heads} doesn't divide dim {model.dim}"
            if fault := vit_fault(**model.model_dump()):
                yield f"models.{name}: {fault}"
            if model.positions == "sincos" and model.dim % 4:
                yield f"models.{name}.dim: {model.dim} is no multiple of 4, which sincos positions need"


def _of_training(key: str, model_name: str | None, entry: Training, params: Params) -> Iterator[str]:
    model = params.models.get(model_name) if model_name else None
    on_features = isinstance(entry, Row) and entry.inputs != "prepared"
    if on_features and entry.sizes:
        yield f"{key}.sizes: features have no size; give []"
    if not on_features and not entry.sizes:
        yield f"{key}.sizes: give at least one"
    if len(entry.sizes) > entry.epochs:
        yield f"{key}.sizes: {len(entry.sizes)} sizes need as many epochs, there are {entry.epochs}"
    if isinstance(model, Vit) and model.image_size % model.patch_size == 0:  # else that is said already
        for size in entry.sizes:
            if size % model.patch_size:
                what = f"the patch_size {model.patch_size} of models.{model_name}"
                yield f"{key}.sizes: {what} doesn't divide {size}"
    yield from _among(f"{key}.recipe", entry.recipe, "recipes", params.recipes)
    yield from _among(f"{key}.augment", entry.augment, "augment", params.augment)


def _of_inputs(key: str, row: Row, params: Params) -> Iterator[str]:
    if row.inputs == "prepared":
        return
    if row.protocol != "linear_probe" or row.inputs != f"features/{row.start}":
        allowed = f"prepared, or for a linear_probe features/{row.start}"
        yield f"{key}.inputs: {allowed} (is: {row.inputs!r})"
    elif row.start not in params.features:
        yield f"{key}.inputs: features has no entry {row.start}"
    policy = params.augment.get(row.augment)
    if policy and any(policy.model_dump().values()):
        yield f"{key}.augment: features can't be augmented; name a policy with everything off"


NAMES = "letters, digits, _ and - only, doesn't begin with -, and has at most 100 characters"


def _line(error: ErrorDetails) -> str:
    """Say a pydantic error as `key: what is allowed (is: what stands there)`."""
    key = [shown(str(part))[:100] for part in error["loc"]]
    if len(key) > 2 and key[2] in KINDS.get(
        key[0], []
    ):  # pydantic names the chosen kind of an entry between its name and its field
        del key[2]
    if error["type"] == "invalid_key" or key[-1] == "[key]":  # the fault is in a name
        if isinstance(error["input"], str):
            return f"{'.'.join(key[:-1])}: a name holds {NAMES}"
        where = ".".join(key[: -1 if error["type"] == "invalid_key" else -2])
        name = json.dumps(error["input"], default=str)  # as YAML has it: true, null
        return f"{where or 'its sections'}: a name must be a string; put {name} in quotes"
    match error["type"]:
        case "extra_forbidden":
            return f"{'.'.join(key)}: no such parameter"
        case "missing":
            return f"{'.'.join(key)}: missing; every parameter must be given"
        case "union_tag_invalid" | "union_tag_not_found":
            kind = error["ctx"]["discriminator"].strip("'")
            return f"{'.'.join(key)}.{kind}: must be one of {', '.join(KINDS[key[0]])}"
    return f"{'.'.join(key)}: {error['msg'][0].lower()}{error['msg'][1:]} (is: {brief(error['input'])})"


def check(content: dict) -> None:
    """Raise UserError, one line a fault, unless the mapping is a whole and consistent set of parameters."""
    try:
        faults = list(mismatches(Params.model_validate(content)))
    except ValidationError as error:
        faults = [_line(fault) for fault in error.errors()]
    if len(faults) > LINES:
        faults[LINES:] = [f"and {len(faults) - LINES} more faults"]
    if faults:
        raise UserError("\n".join(f"params.yaml: {fault}" for fault in faults))
