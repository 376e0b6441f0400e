"""How a Vision Transformer compares with ResNet-18 as pretraining data grows.

Rooms, from the ground up: `base`, `runtime`, `data` and `models`, `training` and `results`, `pipeline`,
`commands`. Each imports from lower floors and from itself only; tests/test_house.py says so.
"""
