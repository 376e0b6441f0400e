"""Image files."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

import oddities
from fuzzing import accepted, damaged, damages, fuzz
from vitscale.data.decode import square

FILES = [content for content, _ in oddities.twins().values()] + list(oddities.not_taken().values())
SEEDS = [oddities.png(depth, kind, oddities.SHADES) for depth in (1, 2, 4, 8, 16) for kind in (0, 2, 3, 4, 6)]


@fuzz(st.builds(damaged, st.sampled_from(FILES), damages()), 1000, SEEDS)
def test_images(content):
    """A damaged image ends in another error than the one that says so, or isn't the array that all others are."""
    image = accepted(lambda: square(content, 16), Path("/nowhere"), of=ValueError)
    assert image is None or (image.dtype == np.uint8 and image.shape == (16, 16, 3))
