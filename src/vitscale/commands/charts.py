"""The study's charts as Vega-Lite: the picture of the answer, and those of `dvc plots show`."""

import json
from pathlib import Path

from vitscale.base.config import read_yaml
from vitscale.base.files import read_json
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
        plot = self.plots[name]
        filled = {
            word: plot[word].replace("${key}", key) for word in ("x", "y", "x_label", "y_label", "title")
        }
        template = self.pipeline / f".dvc/plots/{plot['template']}.json"
        text = json.dumps(read_json(template, dict, "`git checkout .dvc` brings it back"))
        for word, value in filled.items():
            text = text.replace(f"<DVC_METRIC_{word.upper()}>", json.dumps(value)[1:-1])
        points = [{**line, "rev": "workspace"} for line in parse_csv(path.read_bytes(), str(path))]
        return json.loads(text.replace('"<DVC_METRIC_DATA>"', json.dumps(points)))
