"""How a Vision Transformer compares with ResNet-18 as pretraining data grows.

Rooms, from the ground up: `base`, `runtime`, `data` and `models`, `training` and `results`, `pipeline`,
`commands`. Each imports from lower floors and from itself only; tests/test_house.py says so.
"""

import os

# OpenMP's threads spin while they wait for each other, by default so long that two trainings on the same
# cores keep each other from working; shorter than this, they sleep and wake within a step (docs/speed.md).
# It is read when torch is imported: this file comes before all others.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
