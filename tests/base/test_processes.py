"""Which process this is, by torchrun's own variables."""

import pytest

from vitscale.base.processes import numbered

SECOND = {
    "TORCHELASTIC_RUN_ID": "none",
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29400",
    "WORLD_SIZE": "4",
    "RANK": "3",
    "LOCAL_WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
}


def test_torchrun_numbers_its_processes():
    assert numbered(SECOND) == (4, 3, 2, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"TORCHELASTIC_RUN_ID": None},
        {"TORCHELASTIC_RUN_ID": None, "RANK": None, "LOCAL_RANK": None, "LOCAL_WORLD_SIZE": None},
        {"RANK": None},
        {"MASTER_ADDR": None},
        {"MASTER_PORT": ""},
        {"LOCAL_WORLD_SIZE": None},
        {"WORLD_SIZE": "four"},
        {"WORLD_SIZE": ""},
        {"WORLD_SIZE": "-4"},
        {"WORLD_SIZE": "²"},
        {"RANK": "4"},
        {"RANK": "3.0"},
        {"LOCAL_RANK": "2"},
        {"LOCAL_WORLD_SIZE": "5"},
        {"WORLD_SIZE": "0", "RANK": "0", "LOCAL_WORLD_SIZE": "0", "LOCAL_RANK": "0"},
        dict.fromkeys(SECOND),
    ],
    ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items()),
)
def test_stray_variables_are_a_single_process(changes):
    """A cluster's or a notebook's WORLD_SIZE or RANK ends in a traceback, or in a wait for processes that never come."""
    environment = {name: value for name, value in (SECOND | changes).items() if value is not None}
    assert numbered(environment) == (1, 0, 1, 0)
