"""The check of params.yaml, whole, whenever any stage runs, and by `vitscale check`: the schema, and what doesn't fit together.

It only rejects, with one line for each key that is wrong, and is nobody's dependency, like the schema.
"""

from collections.abc import Container, Iterator

from pydantic import ValidationError

from vitscale.base.errors import UserError
from vitscale.pipeline.schema import Params, Row, Training, Vit

KINDS = {"download": ["cifar10", "cifar100", "digits", "imagefolder"], "weights": ["huggingface", "torchvision"],
         "models": ["vit", "resnet18"], "recipes": ["adamw", "muon", "sgd"]}


def mismatches(params: Params) -> Iterator[str]:
    """Yield a line for everything that is well-formed but doesn't fit the rest."""

    def names(key: str, name: str, section: str, choices):
        if name not in choices:
            yield f"{key}: there is no {section}.{name}; {section} has {', '.join(choices) or 'no entry'}"

    def fits(key: str, name: str | None, entry: Training):
        model = params.models.get(name)
        on_features = isinstance(entry, Row) and entry.inputs != "prepared"
        if on_features and entry.sizes:
            yield f"{key}.sizes: features have no size; give []"
        if not on_features and not entry.sizes:
            yield f"{key}.sizes: give at least one"
        if len(entry.sizes) > entry.epochs:
            yield f"{key}.sizes: {len(entry.sizes)} sizes need as many epochs, there are {entry.epochs}"
        if model and model.architecture == "vit" and model.image_size % model.patch_size == 0:  # else that is said already
            for size in entry.sizes:
                if size % model.patch_size:
                    yield f"{key}.sizes: the patch_size {model.patch_size} of models.{name} doesn't divide {size}"

    for name, entry in params.prepare.items():
        yield from names(f"prepare.{name}", name, "download", params.download)
    yield from names("target", params.target, "prepare", params.prepare)
    for name, model in params.models.items():
        if model.architecture == "vit":
            if model.image_size % model.patch_size:
                yield f"models.{name}.patch_size: {model.patch_size} doesn't divide image_size {model.image_size}"
            if model.dim % model.heads:
                yield f"models.{name}.heads: {model.heads} doesn't divide dim {model.dim}"
            if model.positions == "sincos" and model.dim % 4:
                yield f"models.{name}.dim: {model.dim} is no multiple of 4, which sincos positions need"
    starts = {f"{model}-scratch": model for model in params.models}
    for name, entry in params.pretrain.items():
        if name in starts:
            yield f"pretrain.{name}: the name is taken by the untrained weights of models.{starts[name]}; choose another"
        yield from names(f"pretrain.{name}.model", entry.model, "models", params.models)
        yield from names(f"pretrain.{name}.data", entry.data, "prepare", params.prepare)
        yield from fits(f"pretrain.{name}", entry.model, entry)
        starts.setdefault(name, entry.model)
    for name in params.weights:
        if name in starts:
            yield f"weights.{name}: the name is taken by another start; choose another"
        starts.setdefault(name, None)
    for name in params.features:
        yield from names(f"features.{name}", name, "start", starts)
    for name, entry in params.rows.items():
        if entry.start not in starts:
            yield f"rows.{name}.start: there is no {entry.start}; there are {', '.join(starts)}"
        if entry.inputs != "prepared":
            if entry.protocol != "linear_probe" or entry.inputs != f"features/{entry.start}":
                yield f"rows.{name}.inputs: prepared, or for a linear_probe features/{entry.start} (is: {entry.inputs!r})"
            elif entry.start not in params.features:
                yield f"rows.{name}.inputs: features has no entry {entry.start}"
            policy = params.augment.get(entry.augment)
            if policy and any(policy.model_dump().values()):
                yield f"rows.{name}.augment: features can't be augmented; name a policy with everything off"
        yield from fits(f"rows.{name}", starts.get(entry.start), entry)
    for section, entries in (("pretrain", params.pretrain), ("rows", params.rows)):
        for name, entry in entries.items():
            yield from names(f"{section}.{name}.recipe", entry.recipe, "recipes", params.recipes)
            yield from names(f"{section}.{name}.augment", entry.augment, "augment", params.augment)


def _line(error: dict) -> str:
    """Say a pydantic error as `key: what is allowed (is: what stands there)`."""
    key = [str(part) for part in error["loc"]]
    if len(key) > 2 and key[2] in KINDS.get(key[0], []):  # pydantic names the chosen kind of an entry between its name and its field
        del key[2]
    match error["type"]:
        case "extra_forbidden":
            return f"{'.'.join(key)}: no such parameter"
        case "missing":
            return f"{'.'.join(key)}: missing; every parameter must be given"
        case "string_pattern_mismatch" if "[key]" in key:
            return f"{'.'.join(key[:-1])}: a name may hold letters, digits, _ and - only"
        case "union_tag_invalid" | "union_tag_not_found":
            kind = error["ctx"]["discriminator"].strip("'")
            return f"{'.'.join(key)}.{kind}: must be one of {', '.join(KINDS[key[0]])}"
    return f"{'.'.join(key)}: {error['msg'][0].lower()}{error['msg'][1:]} (is: {error['input']!r})"


def check(content: dict) -> None:
    """Raise UserError, one line a fault, unless the mapping is a whole and consistent set of parameters."""
    try:
        faults = list(mismatches(Params.model_validate(content)))
    except ValidationError as error:
        faults = [_line(fault) for fault in error.errors()]
    if faults:
        raise UserError("\n".join(f"params.yaml: {fault}" for fault in faults))
