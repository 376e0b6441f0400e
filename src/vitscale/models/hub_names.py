"""Others' names for the tensors of our models: those of transformers, timm and torchvision."""

import re

import torch
from torch import Tensor

from vitscale.models.resnet import ResNet18Config, resnet18

# A ViT's tensors under our names and theirs. `*` is weight and bias, `N` a block's number; where they have
# several tensors for one of ours, ours is theirs in turn.
TRANSFORMERS_VIT = {
    "backbone.class_token": "vit.embeddings.cls_token",
    "backbone.positions": "vit.embeddings.position_embeddings",
    "backbone.patch_embedding.*": "vit.embeddings.patch_embeddings.projection.*",
    "backbone.blocks.N.norm1.*": "vit.layers.N.layernorm_before.*",
    "backbone.blocks.N.attention.qkv.*": " ".join(f"vit.layers.N.attention.{part}_proj.*" for part in "qkv"),
    "backbone.blocks.N.attention.out.*": "vit.layers.N.attention.o_proj.*",
    "backbone.blocks.N.norm2.*": "vit.layers.N.layernorm_after.*",
    "backbone.blocks.N.mlp.0.*": "vit.layers.N.mlp.fc1.*",
    "backbone.blocks.N.mlp.2.*": "vit.layers.N.mlp.fc2.*",
    "backbone.norm.*": "vit.layernorm.*",
    "head.*": "classifier.*",
}
TORCHVISION_VIT = {
    "backbone.class_token": "class_token",
    "backbone.positions": "encoder.pos_embedding",
    "backbone.patch_embedding.*": "conv_proj.*",
    "backbone.blocks.N.norm1.*": "encoder.layers.encoder_layer_N.ln_1.*",
    "backbone.blocks.N.attention.qkv.*": "encoder.layers.encoder_layer_N.self_attention.in_proj_*",
    "backbone.blocks.N.attention.out.*": "encoder.layers.encoder_layer_N.self_attention.out_proj.*",
    "backbone.blocks.N.norm2.*": "encoder.layers.encoder_layer_N.ln_2.*",
    "backbone.blocks.N.mlp.0.*": "encoder.layers.encoder_layer_N.mlp.0.*",
    "backbone.blocks.N.mlp.2.*": "encoder.layers.encoder_layer_N.mlp.3.*",
    "backbone.norm.*": "encoder.ln.*",
    "head.*": "heads.head.*",
}
TIMM_VIT = {
    "backbone.class_token": "cls_token",
    "backbone.positions": "pos_embed",
    "backbone.patch_embedding.*": "patch_embed.proj.*",
    "backbone.blocks.N.norm1.*": "blocks.N.norm1.*",
    "backbone.blocks.N.attention.qkv.*": "blocks.N.attn.qkv.*",
    "backbone.blocks.N.attention.out.*": "blocks.N.attn.proj.*",
    "backbone.blocks.N.norm2.*": "blocks.N.norm2.*",
    "backbone.blocks.N.mlp.0.*": "blocks.N.mlp.fc1.*",
    "backbone.blocks.N.mlp.2.*": "blocks.N.mlp.fc2.*",
    "backbone.norm.*": "norm.*",
    "head.*": "head.*",
}
# A second token and its head, which `_completed` puts to the first.
TOKEN, HEAD = "distillation_token", "distillation_head."
DISTILLED = {
    "transformers": {TOKEN: "vit.embeddings.distillation_token", HEAD + "*": "distillation_classifier.*"},
    "timm": {TOKEN: "dist_token", HEAD + "*": "head_dist.*"},
}
OPTIONAL = ("backbone.class_token", TOKEN, "head.*", HEAD + "*")  # which there are says config.json

# What transformers calls its tensors today, for what stands in files. No classifier reads the UNREAD.
TODAY = (
    (r"^(resnet\.|)(?=(embedder|encoder\.stages)\.)", "resnet."),
    (r"^(vit\.|deit\.|)(?=(embeddings|encoder|layers|layernorm|pooler)\.)", "vit."),
    (r"^cls_classifier\.", "classifier."),
    (r"\.encoder\.layer\.", ".layers."),
    (r"\.attention\.attention\.(query|key|value)\.", lambda match: f".attention.{match[1][0]}_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)
UNREAD = ("vit.pooler.", "vit.embeddings.mask_token")

# What a tensor of theirs belongs to that ours doesn't have.
WITHOUT = {
    r"\.ls[12]\.|\.gamma_?[12]$|layer_scale|lambda1$": "LayerScale",
    r"reg_token|register_tokens": "register tokens",
    r"[qk]_norm": "normalised queries and keys",
    r"mlp\.(w12|w3|fc1_[gx])|mlp\.(gate|up)_proj": "a gated MLP (SwiGLU)",
    r"norm_pre": "a norm before the blocks",
    r"fc_norm": "a norm after the mean over patches",
    r"attn_pool": "attention pooling",
    r"rel_pos|relative_position": "relative positions",
    r"patch_embed\.backbone": "a convolutional stem",
    r"attn\.norm\.|mlp\.norm\.": "norms inside of attention or MLP",
    r"^conv1\.\d": "a deep stem (ResNet-D)",
    r"\.se\.": "squeeze-and-excitation",
    r"\.conv3\.|layer\.2\.convolution": "bottleneck blocks (ResNet-50 and larger)",
}


def vit_names(table: dict[str, str], depth: int) -> dict[str, list[str]]:
    """Return one of the tables above, written out for a ViT of `depth` blocks.

    Their names for each of ours.
    """
    return {
        ours.replace("N", str(block)).replace("*", kind): theirs.replace("N", str(block))
        .replace("*", kind)
        .split()
        for ours, theirs in table.items()
        for block in (range(depth) if "N" in ours else [0])
        for kind in (("weight", "bias") if "*" in ours else [""])
    }


def resnet_name(name: str) -> str:
    """Return transformers' name for a tensor of our ResNet-18."""
    name = name.replace("head.", "classifier.1.")
    name = re.sub(r"backbone\.conv1\.", "resnet.embedder.embedder.convolution.", name)
    name = re.sub(r"backbone\.bn1\.", "resnet.embedder.embedder.normalization.", name)
    name = re.sub(
        r"backbone\.layer(\d)\.(\d)\.",
        lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.",
        name,
    )
    name = re.sub(
        r"\.(conv|bn)(\d)\.",
        lambda m: f".layer.{int(m[2]) - 1}.{'convolution' if m[1] == 'conv' else 'normalization'}.",
        name,
    )
    return name.replace("downsample.0", "shortcut.convolution").replace(
        "downsample.1", "shortcut.normalization"
    )


def _joined(theirs: dict[str, Tensor], names: dict[str, list[str]]) -> dict[str, Tensor]:
    """Return the tensors under our names. Raises ValueError where one is missing or left over."""
    wanted = {each for parts in names.values() for each in parts}
    if odd := sorted(wanted ^ set(theirs)):
        left = sorted(set(theirs) - wanted)
        for pattern, feature in WITHOUT.items():
            if found := [name for name in left if re.search(pattern, name)]:
                raise ValueError(
                    f"has {feature}, which our models don't have ({found[0]}); take other weights"
                )
        raise ValueError(
            f"has other tensors than a model of ours; missing or left over: {', '.join(odd[:3])}"
        )
    return {
        name: theirs[parts[0]] if len(parts) == 1 else torch.cat([theirs[each] for each in parts])
        for name, parts in names.items()
    }


def vit_state(
    theirs: dict[str, Tensor], table: dict[str, str], library: str, qkv_bias: bool = True
) -> dict[str, Tensor]:
    """Return a ViT's tensors under our names and in our shapes; on the meta device they stay there.

    Raises ValueError where one is missing or left over.
    """
    if library == "transformers":
        theirs = _today(theirs)
    table = table | DISTILLED.get(library, {})
    table = {
        ours: other
        for ours, other in table.items()
        if ours not in OPTIONAL or any(other.replace("*", kind) in theirs for kind in ("weight", "bias"))
    }
    numbers = re.compile(r"^(?:vit\.layers|encoder\.layers|blocks)\.(?:encoder_layer_)?(\d+)\.")
    depth = len({match[1] for name in theirs if (match := numbers.match(name))})
    names = vit_names(table, depth)
    if not qkv_bias:
        names = {name: parts for name, parts in names.items() if not name.endswith("qkv.bias")}
    ours = _joined(theirs, names)
    # Theirs is (dim, channel, row, column), ours (dim, row * column * channel).
    kernel = "backbone.patch_embedding.weight"
    ours[kernel] = ours[kernel].permute(0, 2, 3, 1).flatten(1)
    return _completed(ours, depth)


def _completed(ours: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Return our ViT's tensors, with a second token and its head in those of the first, and all biases."""
    for block in range(depth):  # none is the same as zeros
        name = f"backbone.blocks.{block}.attention.qkv."
        ours.setdefault(name + "bias", ours[name + "weight"].new_zeros(len(ours[name + "weight"])))
    if TOKEN not in ours:
        return ours
    ours["backbone.class_token"] = torch.cat([ours["backbone.class_token"], ours.pop(TOKEN)], 1)
    if "head.weight" in ours:
        first = ours["head.weight"]
        if HEAD + "weight" in ours:  # the mean of two heads' logits
            ours["head.weight"] = torch.cat([first, ours.pop(HEAD + "weight")], 1) / 2
            ours["head.bias"] = (ours["head.bias"] + ours.pop(HEAD + "bias")) / 2
        else:  # transformers' DeiTForImageClassification reads the class token alone
            ours["head.weight"] = torch.cat([first, torch.zeros_like(first)], 1)
    return ours


def resnet_state(theirs: dict[str, Tensor], library: str) -> dict[str, Tensor]:
    """Return a ResNet-18's tensors under our names. Raises ValueError where one is missing or left over."""
    if library == "transformers":
        theirs = _today(theirs)
    with torch.device("meta"):
        stored = resnet18(ResNet18Config(image_size=224, stem="imagenet")).state_dict()
    ours = [f"backbone.{name}" for name in stored] + ["head.weight", "head.bias"]
    names = {
        name: resnet_name(name)
        if library == "transformers"
        else name.removeprefix("backbone.").replace("head.", "fc.")
        for name in ours
    }
    if not {names["head.weight"], names["head.bias"]} & set(theirs):
        del names["head.weight"], names["head.bias"]
    device = next((each.device for each in theirs.values()), torch.device("cpu"))
    counters = {  # of training alone, and older files lack them
        other: torch.zeros((), dtype=torch.int64, device=device)
        for other in names.values()
        if other.endswith("num_batches_tracked")
    }
    return _joined(counters | theirs, {name: [other] for name, other in names.items()})


def _today(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under transformers' names of today, without those that no classifier reads."""
    renamed = {}
    for name, tensor in theirs.items():
        for pattern, today in TODAY:
            name = re.sub(pattern, today, name)
        if name in renamed:
            raise ValueError(f"has {name} under two names")
        renamed[name] = tensor
    return {name: tensor for name, tensor in renamed.items() if not name.startswith(UNREAD)}
