"""What a model of timm says of itself in its config.json on the hub, held against what ours does.

timm's architectures are names, and what a name stands for is timm's code. So those that ours can express
stand here by name, with what no tensor shows: the number of heads, the pooling, whether there are qkv biases.
A key that stands in none of the tables is refused.
"""

import re
from typing import Any

from vitscale.models.hub_config import hold_keys, hold_values, refuse, vit_content

# A pattern of names, and the number of heads. All have LayerNorm's 1e-6 and GELU, but ResNet-18.
ARCHITECTURES = {
    r"(vit|deit)_tiny(_distilled)?_patch\d+_\d+": 3,
    r"(vit|deit)_small(_distilled)?_patch\d+_\d+": 6,
    r"(vit|deit)_base(_distilled)?_patch\d+_\d+": 12,
    r"vit_base_patch16_224_miil": 12,
    r"vit_(large|huge|giant|gigantic)_patch\d+_\d+": 16,
    r"vit_(base|huge|giant)_patch\d+_gap_\d+": 16,
    r"resnet18": None,
}
KEYS = {
    "architecture", "num_classes", "global_pool", "model_args", "pretrained_cfg", "label_names",
    "num_features", "label_descriptions",
}  # fmt: skip
ARGS_NO_PART = {
    # seen in the tensors' shapes
    "img_size", "patch_size", "embed_dim", "depth", "mlp_ratio", "num_classes", "in_chans",
    # of training alone
    "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate",
    "weight_init", "fix_init",
}  # fmt: skip
ARGS_KEYS = ARGS_NO_PART | {"num_heads", "global_pool"}
INPUT_NO_PART = {
    # how much is cut off before, and what else is scored at: ours takes all of the square, at `input_size`
    "crop_pct", "crop_mode", "test_crop_pct", "test_input_size", "test_pool_size", "min_input_size",
    # of another size or number of classes than the file's
    "fixed_input_size", "pool_size", "first_conv", "classifier",
    # said twice
    "architecture", "num_classes", "custom_load", "label_names", "label_descriptions",
    # notes
    "tag", "url", "file", "hf_hub_id", "hf_hub_filename", "source", "license", "description", "origin_url",
    "paper_name", "paper_ids", "notes",
}  # fmt: skip
INPUT_KEYS = INPUT_NO_PART | {"input_size", "interpolation", "mean", "std", "label_offset"}


def is_timm(config: dict[str, Any]) -> bool:
    """Return whether a config.json is one of timm's."""
    return "pretrained_cfg" in config and "model_type" not in config


def our_config(config: dict[str, Any], shapes: dict[str, list[int]]) -> tuple[dict[str, Any], bool]:
    """Return what our config.json says for timm's, but for the classes, and whether qkv has biases.

    `shapes` are those of its tensors, by timm's names: they show the sizes. Raises ValueError where ours
    wouldn't give its answers.
    """
    name, args, taken = config.get("architecture"), config.get("model_args") or {}, config["pretrained_cfg"]
    if not isinstance(args, dict) or not isinstance(taken, dict):
        raise ValueError("has a model_args or a pretrained_cfg that is no object; take other weights")
    known = [heads for each, heads in ARCHITECTURES.items() if re.fullmatch(each, str(name))]
    if not known:
        wanted = "vit_* or deit_* of the plain kind (vit_tiny_patch16_224, say), resnet18"
        raise refuse("architecture", name, wanted)
    hold_keys("config.json", config, KEYS)
    hold_keys("model_args", args, ARGS_KEYS)
    hold_keys("pretrained_cfg", taken, INPUT_KEYS)
    hold_values(taken, {"label_offset": (0, None), "interpolation": ("bicubic", "bilinear")})
    average = name == "resnet18" or "_gap_" in str(name)
    for each in (config, args):
        hold_values(each, {"global_pool": ("avg",) if average else ("token",)})
    size = taken.get("input_size")
    if not isinstance(size, list) or len(size) != 3 or size[0] != 3 or size[1] != size[2]:
        raise refuse("input_size", size, "three channels of a square")
    ours = {
        "image_size": size[1],
        "interpolation": taken.get("interpolation", "bicubic"),
        "mean": taken.get("mean"),
        "std": taken.get("std"),
    }
    if name == "resnet18":
        return ours | {"architecture": "resnet18", "stem": "imagenet"}, True
    ours |= vit_content() | _sizes(shapes) | {"heads": args.get("num_heads", known[0])}
    if average:
        ours["pool"] = "mean"
    if "_distilled" in str(name):
        ours["distilled"] = True
    return ours, "_miil" not in str(name)


def _sizes(shapes: dict[str, list[int]]) -> dict[str, int]:
    """Return a ViT's sizes as its tensors show them. Raises ValueError where they don't."""
    try:
        dim, _, patch_size, _ = shapes["patch_embed.proj.weight"]
        depth = len({each.split(".")[1] for each in shapes if each.startswith("blocks.")})
        mlp_dim = shapes["blocks.0.mlp.fc1.weight"][0]
    except (LookupError, ValueError):
        raise ValueError("has no tensors of a ViT under timm's names; take other weights") from None
    return {"dim": dim, "patch_size": patch_size, "depth": depth, "mlp_dim": mlp_dim}


def class_names(config: dict[str, Any], count: int) -> list[str]:
    """Return the names of a head's classes where timm's file has them, else their numbers from 0 on.

    Raises ValueError for others than `count`.
    """
    names = config.get("label_names") or config["pretrained_cfg"].get("label_names")
    if names is None:
        return [str(i) for i in range(count)]
    if isinstance(names, dict):
        names = [names.get(str(i)) for i in range(len(names))]
    if not isinstance(names, list) or len(names) != count:
        raise ValueError(
            f"has label_names that don't name the {count} classes of its head; take other weights"
        )
    return names
