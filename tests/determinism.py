"""torch's own list of operators that raise under deterministic algorithms, by the names that ATen has for them."""

import re
from collections.abc import Iterable

import torch

UPSAMPLING = [
    f"{name}_backward"
    for name in (
        "upsample_linear1d", "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_bicubic2d",
        "_upsample_bicubic2d_aa", "upsample_trilinear3d", "_upsample_lanczos2d_aa",
    )
]  # fmt: skip
# What the list says, in its words: the operators that `symbolic.named` names.
CUDA = {
    "AvgPool3d when attempting to differentiate a CUDA tensor": ["avg_pool3d_backward"],
    "AdaptiveAvgPool2d when attempting to differentiate a CUDA tensor": ["_adaptive_avg_pool2d_backward"],
    "AdaptiveAvgPool3d when attempting to differentiate a CUDA tensor": ["_adaptive_avg_pool3d_backward"],
    "AdaptiveMaxPool2d when attempting to differentiate a CUDA tensor": ["adaptive_max_pool2d_backward"],
    "FractionalMaxPool2d when attempting to differentiate a CUDA tensor": ["fractional_max_pool2d_backward"],
    "FractionalMaxPool3d when attempting to differentiate a CUDA tensor": ["fractional_max_pool3d_backward"],
    "MaxUnpool1d": ["max_unpool2d"],
    "MaxUnpool2d": ["max_unpool2d"],
    "MaxUnpool3d": ["max_unpool3d"],
    "interpolate when attempting to differentiate a CUDA tensor and one of the following modes is used: - linear "
    "- bilinear - bicubic - trilinear": UPSAMPLING,
    "ReflectionPad1d when attempting to differentiate a CUDA tensor": ["reflection_pad1d_backward"],
    "ReflectionPad2d when attempting to differentiate a CUDA tensor": ["reflection_pad2d_backward"],
    "ReflectionPad3d when attempting to differentiate a CUDA tensor": ["reflection_pad3d_backward"],
    "NLLLoss when called on a CUDA tensor": ["nll_loss_forward", "nll_loss2d_forward"],
    "CTCLoss when attempting to differentiate a CUDA tensor": ["_ctc_loss_backward", "_cudnn_ctc_loss"],
    "EmbeddingBag when attempting to differentiate a CUDA tensor when mode='max'": ["_embedding_bag_dense_backward"],
    "put_ when accumulate=False": ["put_", "put"],
    "put_ when accumulate=True and called on a CUDA tensor": ["put_ with accumulate", "put with accumulate"],
    "histc when called on a CUDA tensor": ["histc"],
    "bincount when called on a CUDA tensor and weights tensor is given": ["bincount with weights"],
    "median with indices output when called on a CUDA tensor": ["median.dim"],
    "grid_sample when attempting to differentiate a CUDA tensor": ["grid_sampler_2d_backward", "grid_sampler_3d_backward"],
    "scatter_reduce when called on CUDA or MPS tensor": ["scatter_reduce", "scatter_reduce_"],
    "resize_ when called with a quantized tensor": [],
}  # fmt: skip
MPS = {
    "scatter_reduce when called on CUDA or MPS tensor": ["scatter_reduce", "scatter_reduce_"],
    "index_put with accumulate=True when called on an MPS tensor with floating or complex dtype": [
        "index_put with accumulate", "index_put_ with accumulate", "_index_put_impl_ with accumulate",
    ],
    "index_reduce with reduce='prod'\\'mean' when called on an MPS tensor with floating or complex dtype": [
        "index_reduce", "index_reduce_",
    ],
    "kthvalue when called on an MPS tensor": ["kthvalue"],
    "Embedding when attempting to differentiate an MPS tensor": ["embedding_dense_backward"],
    "EmbeddingBag when attempting to differentiate an MPS tensor": ["_embedding_bag_dense_backward"],
    "grid_sample when attempting to differentiate an MPS tensor": ["grid_sampler_2d_backward", "grid_sampler_3d_backward"],
    "MaxPool2d, MaxPool3d, and AvgPool3d when attempting to differentiate an MPS tensor": [
        "max_pool2d_with_indices_backward", "max_pool2d_backward", "max_pool3d_with_indices_backward", "avg_pool3d_backward",
    ],
    "interpolate when attempting to differentiate an MPS tensor in some cases": UPSAMPLING,
}  # fmt: skip


def listed() -> list[str]:
    """Return the entries of the installed torch's list, each in one line without markup."""
    doc = " ".join(str(torch.use_deterministic_algorithms.__doc__).split())
    _, _, after = doc.partition("will throw a :class:`RuntimeError` when ``mode=True``:")
    text, _, _ = after.partition("In addition, several operations")
    plain = re.sub(r":\w+:`(?:[\w.]+\.)?(\w+)`|``([^`]*)``", r"\1\2", text)
    return [entry.strip() for entry in plain.split(" * ")[1:]]


def raising(seen: Iterable[str], entries: dict[str, list[str]] = CUDA) -> set[str]:
    """Return which of some operators raise."""
    return set(seen) & {name for names in entries.values() for name in names}
