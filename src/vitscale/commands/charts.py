"""The study's charts as Vega-Lite: the picture of the answer, and those of `dvc plots show`."""

from pathlib import Path
from typing import Any

from dvc_render import VegaRenderer
from dvc_render.vega_templates import TemplateNotFoundError

from vitscale.base.config import read_yaml
from vitscale.base.errors import UserError
from vitscale.results.picture import drawing
from vitscale.results.study import Study
from vitscale.results.tables import parse_csv


class Charts:
    """The charts of a pipeline's figures: a Vega-Lite mapping each, None where there are no figures."""

    def __init__(self, pipeline: Path, study: Study) -> None:
        self.pipeline, self.study = pipeline, study
        stages = read_yaml(pipeline / "dvc.yaml")["stages"]
        plots = [*stages["compare"]["plots"], *stages["evaluate"]["do"]["plots"]]
        self.plots: dict[str, dict] = {path: plot for each in plots for path, plot in each.items()}

    def accuracy(self) -> dict | None:
        """Return accuracy by pretraining data, with intervals."""
        return drawing(self.study) if self.rows() else None

    def curves(self) -> dict | None:
        """Return validation accuracy by epoch, of all trainings."""
        return self._filled("metrics/curves.csv")

    def confusion(self, row: str) -> dict | None:
        """Return what a row took each class for."""
        return self._filled("metrics/confusion/${key}.csv", row)

    def rows(self) -> list[str]:
        """Return the rows that have been scored."""
        return [row for row in self.study.rows if self.study.score(row)]

    def _filled(self, name: str, key: str = "") -> dict | None:
        path = self.pipeline / name.replace("${key}", key)
        if not path.exists():
            return None
        plot: dict[str, Any] = {
            word: text.replace("${key}", key) if isinstance(text, str) else text
            for word, text in self.plots[name].items()
        }
        points = [{**line, "rev": "workspace"} for line in parse_csv(path.read_bytes(), str(path))]
        try:
            folder = str(self.pipeline / ".dvc/plots")
            return VegaRenderer(points, str(path), template_dir=folder, **plot).get_filled_template()
        except TemplateNotFoundError as error:
            raise UserError(f"{folder} lacks a file ({error}); `git checkout .dvc` brings it back") from None
