"""Parameters that are good, and what the schema says of a change to them."""

import copy

import yaml

from tiny import ROOT
from vitscale.base.config import read_yaml
from vitscale.base.errors import UserError
from vitscale.pipeline.consistency import check

MAIN, EXAMPLE = read_yaml(ROOT / "params.yaml"), read_yaml(ROOT / "examples/digits/params.yaml")
DELETE = object()
BASE = yaml.safe_load("""
lr: 0.001
seed: 0
split_seed: 0
precision: auto
target: cifar10
download:
  cifar10: {source: cifar10, sha256: {train: null, test: null}}
  cifar100: {source: cifar100, sha256: {train: null, test: null}}
prepare: {cifar10: {validation: 0.05}, cifar100: {validation: 0.05}}
augment:
  light: {crop_padding: 4, flip: true, trivial_augment: false, erasing: 0.0, mixup: 0.0, cutmix: 0.0}
  strong: {crop_padding: 4, flip: true, trivial_augment: true, erasing: 0.25, mixup: 0.2, cutmix: 1.0}
models:
  vit: {architecture: vit, image_size: 32, patch_size: 4, dim: 128, depth: 6, heads: 4, mlp_dim: 512, pool: mean,
        positions: learned, dropout: 0.0, stochastic_depth: 0.0, seed: 0}
  resnet18: {architecture: resnet18, image_size: 32, stem: cifar, seed: 0}
recipes:
  vit: {optimizer: adamw, beta2: 0.99, batch_size: 64, weight_decay: 0.05, warmup_epochs: 1, label_smoothing: 0.1,
        clip_norm: 1.0, ema_decay: 0.0, compile: false}
  resnet18: {optimizer: sgd, momentum: 0.9, batch_size: 128, weight_decay: 0.0005, warmup_epochs: 0.3,
             label_smoothing: 0.1, clip_norm: 0.0, ema_decay: 0.0, compile: false}
pretrain:
  vit-cifar100: {model: vit, data: cifar100, fraction: 1.0, seed: 0, recipe: vit, augment: light, sizes: [16, 32], epochs: 9, lr_scale: 1.0}
  resnet18-cifar100: {model: resnet18, data: cifar100, fraction: 1.0, seed: 0, recipe: resnet18, augment: light, sizes: [16, 32], epochs: 2, lr_scale: 9.0}
weights: {}
features: {}
rows:
  vit-cifar100: {start: vit-cifar100, protocol: full, inputs: prepared, fraction: 1.0, seed: 0, recipe: vit, augment: light, sizes: [16, 32], epochs: 4, lr_scale: 1.0}
  resnet18-cifar100: {start: resnet18-cifar100, protocol: full, inputs: prepared, fraction: 1.0, seed: 0, recipe: resnet18, augment: light, sizes: [16, 32], epochs: 2, lr_scale: 9.0}
  resnet18-cifar100-probe: {start: resnet18-cifar100, protocol: linear_probe, inputs: prepared, fraction: 1.0, seed: 0, recipe: resnet18, augment: light, sizes: [32], epochs: 1,
                            lr_scale: 9.0}
  vit-scratch: {start: vit-scratch, protocol: full, inputs: prepared, fraction: 1.0, seed: 0, recipe: vit, augment: light, sizes: [16, 32], epochs: 4, lr_scale: 1.0}
  resnet18-scratch: {start: resnet18-scratch, protocol: full, inputs: prepared, fraction: 1.0, seed: 0, recipe: resnet18, augment: light, sizes: [16, 32], epochs: 2, lr_scale: 9.0}
published:
  vit-cifar100: {accuracy: 0.65, protocol: full, images: 50000}
scaling: {}
""")  # not the study's own, which may change without a test having to


def parent_of(content: dict, path: tuple) -> dict | list:
    for part in path[:-1]:
        content = content[part]
    return content


def changed(path: str | tuple, value, content: dict = BASE) -> dict:
    """Return a copy of the parameters with one value set (or taken out); the path's parts are joined by dots."""
    content = copy.deepcopy(content)
    path = tuple(path.split(".")) if isinstance(path, str) else path
    parent = parent_of(content, path)
    if value is DELETE:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return content


def faults(content: dict) -> list[str]:
    """Return what `check` says, line by line; nothing where it lets the parameters through."""
    before = copy.deepcopy(content)
    try:
        check(content)
    except UserError as error:
        return str(error).splitlines()
    finally:
        assert content == before, "check changed the parameters"
    return []


def the_fault(content: dict) -> str:
    """Return the one line that `check` says, less its beginning."""
    found = faults(content)
    assert len(found) == 1, found
    assert found[0].startswith("params.yaml: ")
    return found[0].removeprefix("params.yaml: ")


def leaves(content: dict, above: tuple = ()):
    """Yield the path of every value that is no mapping."""
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*above, name))
        else:
            yield (*above, name)
