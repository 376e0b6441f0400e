"""What a ViT of the hub says of itself, held against what ours does.

Each key of its config.json and preprocessor_config.json is honoured, refused unless it has a value that ours
stands for, or has no part in the answer; a key that stands in none of the tables is refused.
"""

from typing import Any

from vitscale.base.errors import UserError
from vitscale.models.vit import VitConfig

# Their key, ours. `id2label` gives the classes.
CONFIG_HONOURED = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "hidden_size": "dim",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_dim",
    "layer_norm_eps": "layer_norm_eps",
    "id2label": "classes",
}
CONFIG_WANTED: dict[str, tuple[Any, ...]] = {
    "model_type": ("vit",),
    "hidden_act": ("gelu",),
    "num_channels": (3,),
    "qkv_bias": (True,),
    "return_dict": (True,),  # without it theirs gives no answer at all
    "problem_type": (None, "single_label_classification"),  # others don't end in a softmax
}
CONFIG_NO_PART = {
    # of training alone; a start's is that of the recipe and the model that we train
    "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range",
    # of other heads than the classifier
    "encoder_stride", "pooler_act", "pooler_output_size",
    # of how an answer is handed over, or of memory; weights of another type become float32
    "output_hidden_states", "output_attentions", "chunk_size_feed_forward",
    "dtype", "torch_dtype",
    # of text
    "is_encoder_decoder",
    # said twice: names and their number come from id2label, shapes from the fields above, the class from here
    "label2id", "num_labels", "_num_labels", "architectures",
    # notes
    "transformers_version", "_name_or_path", "name_or_path", "_commit_hash", "finetuning_task",
}  # fmt: skip

INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}
PROCESSOR_HONOURED = {"resample": "interpolation", "image_mean": "mean", "image_std": "std"}
PROCESSOR_WANTED: dict[str, tuple[Any, ...]] = {
    "image_processor_type": ("ViTImageProcessor",),  # another class may have other steps
    "do_resize": (True,),
    "do_rescale": (True,),
    "rescale_factor": (1 / 255,),
    "do_normalize": (True,),
    "do_center_crop": (None, False),
    "do_pad": (None, False),
    "input_data_format": (None,),
}
PROCESSOR_NO_PART = {
    # of steps that are refused
    "crop_size", "pad_size",
    # settled in `size`, which must be the model's
    "default_to_square",
    # of other images than ours, which have three channels
    "do_convert_rgb",
    # of how pixels are handed over; and transformers' own ViT wants channels first
    "data_format", "device", "return_tensors", "disable_grouping", "image_seq_length",
    # notes, or other words for image_processor_type
    "feature_extractor_type", "processor_class", "_processor_class", "_valid_kwargs_names",
}  # fmt: skip
PROCESSOR_KEYS = {"size"} | PROCESSOR_HONOURED.keys() | PROCESSOR_WANTED.keys() | PROCESSOR_NO_PART
CONFIG_KEYS = CONFIG_HONOURED.keys() | CONFIG_WANTED.keys() | CONFIG_NO_PART


def our_config(config: Any, processor: Any, keys: dict[str, set[str]], what: str) -> dict[str, Any]:
    """Return what config.json of our ViT says for transformers' config and image processor.

    `keys` are those that stand in their files, by the files' names; `what` is whose they are, for the error.
    Raises UserError where ours wouldn't give their answers.
    """

    def refuse(name: str, value: object, wanted: str) -> UserError:
        return UserError(f"{what} has {name} {value}; our ViT wants {wanted}, so take other weights")

    for file, known in (("config.json", CONFIG_KEYS), ("preprocessor_config.json", PROCESSOR_KEYS)):
        if odd := sorted(keys[file] - known):
            raise UserError(
                f"{what} has {odd[0]} in its {file}, of which we don't know whether it changes the answer; "
                "take other weights, or where it changes nothing a copy without it in VITSCALE_MIRROR"
            )
    kind = type(processor).__name__.removesuffix("Fast").removesuffix("Pil")
    steps = {name: getattr(processor, name, None) for name in PROCESSOR_WANTED} | {
        "image_processor_type": kind
    }
    theirs = {name: getattr(config, name, None) for name in CONFIG_WANTED}
    for values, table in ((theirs, CONFIG_WANTED), (steps, PROCESSOR_WANTED)):
        for name, value in values.items():
            if value not in table[name]:
                raise refuse(name, value, " or ".join(str(each) for each in table[name]))
    size = {name: value for name, value in vars(processor.size).items() if value is not None}
    side = config.image_size
    if size != {"height": side, "width": side}:
        raise refuse("size", size, f"the height and width of its image_size, {side}")
    if int(processor.resample) not in INTERPOLATIONS:
        raise refuse("resample", int(processor.resample), "2 (bilinear) or 3 (bicubic)")
    ours = {
        name: getattr(config, each)
        for each, name in CONFIG_HONOURED.items()
        if each not in ("id2label", "layer_norm_eps")
    }
    # A smaller one than ours does no more than ours: it counts where a token's variance is as small. Of
    # DeiT-tiny, which has 1e-12, ours moves features by 3e-5 of their spread: far below bfloat16's steps.
    if config.layer_norm_eps > VitConfig.layer_norm_eps:
        ours["layer_norm_eps"] = config.layer_norm_eps
    return ours | {
        "classes": [config.id2label[i] for i in range(len(config.id2label))],
        "interpolation": INTERPOLATIONS[int(processor.resample)],
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
    }
