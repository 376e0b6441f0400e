"""What a model of transformers says of itself, held against what ours does.

Each key of its config.json and preprocessor_config.json is honoured, refused unless it has a value that ours
stands for, or has no part in the answer; a key that stands in none of the tables is refused. The files are
read as they are, and a key that they leave out has transformers' own default.
"""

from typing import Any

from vitscale.models.vit import VitConfig

# Their key, ours. `id2label` gives the classes.
VIT_HONOURED = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "hidden_size": "dim",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_dim",
    "layer_norm_eps": "layer_norm_eps",
    "qkv_bias": "qkv_bias",  # without: zeros, the same
    "id2label": "classes",
}
COMMON_WANTED: dict[str, tuple[Any, ...]] = {
    "num_channels": (3,),
    "return_dict": (True,),  # without it theirs gives no answer at all
    "problem_type": (None, "single_label_classification"),  # others don't end in a softmax
}
RESNET_WANTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("relu",),
    "layer_type": ("basic",),
    "depths": ([2, 2, 2, 2],),
    "hidden_sizes": ([64, 128, 256, 512],),
    "embedding_size": (64,),
    "downsample_in_first_stage": (False,),
}
WANTED = {
    "vit": COMMON_WANTED | {"hidden_act": ("gelu",)},
    "deit": COMMON_WANTED | {"hidden_act": ("gelu",)},
    "resnet": COMMON_WANTED | RESNET_WANTED,
}
COMMON_NO_PART = {
    # of how an answer is handed over, or of memory; weights of another type become float32
    "output_hidden_states", "output_attentions", "chunk_size_feed_forward", "dtype", "torch_dtype",
    # of text
    "is_encoder_decoder",
    # said twice: names and their number come from id2label, the class from the tensors
    "label2id", "num_labels", "_num_labels", "architectures",
    # notes
    "transformers_version", "_name_or_path", "name_or_path", "_commit_hash", "finetuning_task",
}  # fmt: skip
VIT_NO_PART = COMMON_NO_PART | {
    # of training alone; a start's is that of the recipe and the model that we train
    "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range",
    # of other heads than the classifier
    "encoder_stride", "pooler_act", "pooler_output_size",
}  # fmt: skip
NO_PART = {
    "vit": VIT_NO_PART,
    "deit": VIT_NO_PART,
    # of backbones for detection, and of bottleneck blocks
    "resnet": COMMON_NO_PART
    | {
        "stage_names",
        "out_features",
        "out_indices",
        "_out_features",
        "_out_indices",
        "downsample_in_bottleneck",
    },
}
HONOURED = {"vit": VIT_HONOURED, "deit": VIT_HONOURED, "resnet": {"id2label": "classes"}}
KEYS = {
    kind: {"model_type"} | HONOURED[kind].keys() | WANTED[kind].keys() | NO_PART[kind] for kind in HONOURED
}
VIT_DEFAULTS = {
    "image_size": 224,
    "patch_size": 16,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "qkv_bias": True,
}
# Of keys that may be left out and whose default isn't the first value that is wanted.
DEFAULTS: dict[str, dict[str, Any]] = {
    "vit": VIT_DEFAULTS,
    "deit": VIT_DEFAULTS,
    "resnet": {"layer_type": "bottleneck", "depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048]},
}

# Transformers' own, and the smallest in use. It counts where a token's variance is as small; with far smaller
# ones a token of one value everywhere would become its rounding errors, or in float32 no number at all.
LEAST_EPSILON = 1e-12
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}
PROCESSOR_HONOURED = {"resample": "interpolation", "image_mean": "mean", "image_std": "std"}
PROCESSOR_WANTED: dict[str, tuple[Any, ...]] = {
    "do_resize": (True,),
    "do_rescale": (True,),
    "rescale_factor": (1 / 255,),
    "do_normalize": (True,),
    "do_pad": (False, None),
    "input_data_format": (None,),
}
PROCESSOR_NO_PART = {
    # of steps that are refused
    "pad_size",
    # how much is cut off before: ours takes all of the square
    "crop_pct",
    # of other images than ours, which have three channels
    "do_convert_rgb",
    # of how pixels are handed over; and transformers' own models want channels first
    "data_format", "device", "return_tensors", "disable_grouping", "image_seq_length",
    # notes
    "processor_class", "_processor_class", "_valid_kwargs_names",
}  # fmt: skip
# Which class it is, and what side its steps end in.
PROCESSOR_SIDE = {
    "image_processor_type", "feature_extractor_type",
    "size", "crop_size", "do_center_crop", "default_to_square",
}  # fmt: skip
PROCESSOR_KEYS = PROCESSOR_SIDE | PROCESSOR_HONOURED.keys() | PROCESSOR_WANTED.keys() | PROCESSOR_NO_PART
# Their classes: what each does where its file leaves it out.
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViTImageProcessor": {"resample": 2, "size": 224},
    "DeiTImageProcessor": {"resample": 3, "size": 256, "do_center_crop": True, "crop_size": 224},
    "ConvNextImageProcessor": {"resample": 3, "size": {"shortest_edge": 384}},
}
OF_MODEL = {"vit": "ViTImageProcessor", "deit": "DeiTImageProcessor", "resnet": "ConvNextImageProcessor"}


def shown(value: object) -> str:
    """Return a value of a file for a line of an error."""
    text = " ".join(str(value).split())
    return text if len(text) < 80 else text[:80] + "…"


def refuse(name: str, value: object, wanted: str) -> ValueError:
    """Return the error that a value of a file is not what ours stands for."""
    return ValueError(f"has {name} {shown(value)}; our models want {wanted}, so take other weights")


def hold_keys(file: str, content: dict[str, Any], known: set[str]) -> None:
    """Raise ValueError with the first key of a file that stands in no table."""
    if odd := sorted(content.keys() - known):
        raise ValueError(
            f"has {shown(odd[0])} in its {file}, of which we don't know whether it changes the answer; take "
            "other weights, or where it changes nothing a copy without it in VITSCALE_MIRROR"
        )


def hold_values(content: dict[str, Any], wanted: dict[str, tuple[Any, ...]]) -> None:
    """Raise ValueError with the first key whose value isn't among the wanted; one that is left out is."""
    for name, allowed in wanted.items():
        value = content.get(name, allowed[0])
        if not any(type(value) is type(each) and value == each for each in allowed):
            raise refuse(name, value, " or ".join(str(each) for each in allowed))


def model_config(config: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return what our config.json says of the architecture for transformers' one, and whether qkv has biases.

    A ResNet's has no `image_size`, which its images' processor says. Raises ValueError where ours wouldn't
    give their answers.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in KEYS:
        raise refuse("model_type", kind, f"{' or '.join(KEYS)}, or a ViT or ResNet-18 of timm")
    hold_keys("config.json", config, KEYS[kind])
    config = DEFAULTS[kind] | config
    hold_values(config, WANTED[kind])
    if kind == "resnet":
        return {"architecture": "resnet18", "stem": "imagenet"}, True
    if type(config["qkv_bias"]) is not bool:
        raise refuse("qkv_bias", config["qkv_bias"], "True or False")
    ours = vit_content() | {
        name: config[each]
        for each, name in VIT_HONOURED.items()
        if each not in ("id2label", "layer_norm_eps", "qkv_bias")
    }
    eps = config["layer_norm_eps"]
    if type(eps) is float and 0 < eps < LEAST_EPSILON:
        raise refuse("layer_norm_eps", eps, f"at least {LEAST_EPSILON}")
    if eps != VitConfig.layer_norm_eps:
        ours["layer_norm_eps"] = eps
    if kind == "deit":
        ours["distilled"] = True
    return ours, config["qkv_bias"]


def vit_content() -> dict[str, Any]:
    """Return what our config.json says of every ViT of others, but for its sizes."""
    return {
        "architecture": "vit",
        "pool": "class",
        "positions": "learned",
        "dropout": 0.0,
        "stochastic_depth": 0.0,
    }


def class_names(config: dict[str, Any], count: int) -> list[str]:
    """Return the names of a head's classes, as transformers has them.

    Raises ValueError for others than `count`.
    """
    names = config.get("id2label")
    if names is None:
        return [f"LABEL_{i}" for i in range(count)]
    if not isinstance(names, dict) or set(names) != {str(i) for i in range(count)}:
        raise ValueError(
            f"has an id2label that doesn't name the {count} classes of its head; take other weights"
        )
    return [names[str(i)] for i in range(count)]


def _square(size: Any, key: str | None) -> Any:
    """Return the side that a size stands for, or the size itself where it is no square.

    `key` is another word for the side.
    """
    if isinstance(size, dict) and set(size) in ({"height", "width"}, {key}):
        first, *others = size.values()
        return first if others in ([], [first]) else size
    return size


def processor_config(processor: dict[str, Any], model_type: str) -> dict[str, Any]:
    """Return what our config.json says of its input for transformers' preprocessor_config.json.

    `image_size` is the side of what it hands to the model. Raises ValueError where ours takes other steps.
    """
    hold_keys("preprocessor_config.json", processor, PROCESSOR_KEYS)
    kind = processor.get("image_processor_type") or processor.get("feature_extractor_type")
    kind = (
        str(kind or OF_MODEL[model_type]).removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")
    )
    if kind not in PROCESSORS:
        raise refuse("image_processor_type", kind, " or ".join(PROCESSORS))
    crops = kind == "DeiTImageProcessor"
    hold_values(processor, PROCESSOR_WANTED | ({} if crops else {"do_center_crop": (False, None)}))
    steps = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} | PROCESSORS[kind] | processor
    size = steps["crop_size"] if crops and steps["do_center_crop"] else steps["size"]
    side = _square(size, "shortest_edge" if kind == "ConvNextImageProcessor" else None)
    if type(side) is not int or (
        kind == "ViTImageProcessor" and side is size and steps.get("default_to_square") is False
    ):
        raise refuse("size", size, "a square")
    if type(steps["resample"]) is not int or steps["resample"] not in INTERPOLATIONS:
        raise refuse("resample", steps["resample"], "2 (bilinear) or 3 (bicubic)")
    return {
        "image_size": side,
        "interpolation": INTERPOLATIONS[steps["resample"]],
        "mean": steps["image_mean"],
        "std": steps["image_std"],
    }
