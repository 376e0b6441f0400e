"""Where the report is written: over an earlier one, and over nothing of somebody's own."""

import argparse
from pathlib import Path

import pytest

from vitscale.base.errors import UserError
from vitscale.commands import report as report_command


@pytest.mark.parametrize("name", ["report.md", "curves.png"])
def test_somebody_elses_report_stays(tmp_path, name):
    """`--out` names a folder with a report.md or curves.png of somebody's own, which is written over or deleted."""
    (tmp_path / name).write_text("# Mine")
    with pytest.raises(UserError, match="not of this command"):
        report_command.main(argparse.Namespace(out=tmp_path, base="main", head=None, pipeline=Path()))
    assert (tmp_path / name).read_text() == "# Mine"
