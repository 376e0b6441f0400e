"""The one kind of error that is meant for people, how file names stand in it, and how memory is short."""

import re

SHORT = re.compile(
    r"(CUDA[\w \]:]*|HIP|MPS backend) out of memory|Cuda failure.*out of memory"
    r"|CU(BLAS|DNN)_STATUS_\w*ALLOC(ATION)?_FAILED"
)

# Controls, halves of letters (what a name that is no UTF-8 is read as), separators of lines and paragraphs.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


class UserError(Exception):
    """Something that the person at the keyboard can mend; printed as one line, without a traceback."""


def shown(text: str) -> str:
    """Return a text with file names in it as one line: what a terminal can't print is escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def one_line(error: Exception) -> str:
    """Return an error's text as a line of at most 500 characters, however long the names in it are."""
    text = shown(" ".join(str(error).split()))
    return text if len(text) <= 500 else text[:499] + "…"


def brief(value: object) -> str:
    """Return a value as it stands in Python, in one line of at most 80 characters."""
    try:
        text = shown(repr(value))
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else text[:79] + "…"


def device_memory(error: BaseException) -> str:
    """Return the line in which an error says that a GPU's memory was short; "" where it says something else.

    By torch's words, since light stages don't import torch: beside its own class its allocator, the CUDA
    runtime, cuBLAS, cuDNN, NCCL and Apple's Metal each have others. torch.compile puts some around them.
    """
    lines = str(error).splitlines() or [""]
    if type(error).__name__ == "OutOfMemoryError":
        return lines[0]
    return next((line.strip() for line in lines if SHORT.search(line)), "")
