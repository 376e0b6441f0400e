"""What a device's memory holds, and what a process on a CPU does with memory that it has freed."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names and numbers (malloc.h)


def keep_freed() -> None:
    """Have glibc keep freed memory for what comes next; other C libraries have no such switch.

    By default it gives a large tensor's memory back to the system, and each step fetches it again page by
    page, zeroed: docs/speed.md has what that costs.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, 2**30)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def holds(nbytes: int, free: int) -> bool:
    """Tell whether a data set may stay in a GPU's memory, by the bytes of both: half is the training's."""
    return nbytes < free // 2


def scoring_batch(side: int, total: int | None) -> int:
    """Return how many images of `side` pixels a side to score at a time, on a GPU of `total` bytes of memory.

    None is a CPU, whose caches are small. A GPU is slow with few images. A pixel takes about 1 KiB (ResNet-18
    with CIFAR's stem; ViTs and ImageNet's stem take less), and a quarter of the memory is enough. Free memory
    has no say, and the number is a power of two, so that it is the same each time: another one can change an
    answer's last digits.
    """
    pixels = side**2
    if total is None:
        return max(1, min(500, 600_000 // pixels))
    most = max(1, min(1024, total // 4 // 1024 // pixels))
    return 1 << most.bit_length() - 1
