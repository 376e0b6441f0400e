"""evaluate@<row>: the one stage that scores on the test split."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code of this very checkout

from vitscale.base.endings import begin

begin(goes_on=True)

import numpy as np

from vitscale.base.errors import UserError
from vitscale.base.files import write_metrics
from vitscale.data.arrays import load_split
from vitscale.models.store import count_macs, count_parameters, load_model, trained_models
from vitscale.pipeline.stage import Stage, run
from vitscale.results.metrics import confusion, mean_scores, per_class, scores
from vitscale.results.tables import by_class, write_csv
from vitscale.runtime.device import setup
from vitscale.runtime.watch import watched
from vitscale.training.inference import predict


def main(stage: Stage) -> None:
    compute, row, target = setup(stage.param("precision"), aloud=True), stage.key, stage.param("target")
    split = load_split(stage.dep(f"data/raw/{target}/test"))
    folder = stage.dep(f"models/finetuned/{row}")
    answers: list[np.ndarray] = []
    for each in trained_models(folder):
        model = load_model(each)
        if model.config.classes != split.classes:
            raise UserError(f"{each} tells other classes apart than {target} has; run finetune@{row}")
        answers.append(predict(model, split.images, compute).numpy())
    predicted, classes = np.stack([logits.argmax(1) for logits in answers]), split.classes
    counts = np.sum([confusion(split.labels, each, len(classes)) for each in predicted], axis=0)
    write_metrics(
        stage.out(f"metrics/rows/{row}.json"),
        mean_scores([scores(logits, split.labels) for logits in answers], predicted == split.labels)
        | {
            "parameters": count_parameters(model),
            "macs": count_macs(model.config),
            **per_class(counts),
            **by_class(split.labels, predicted if len(answers) > 1 else predicted[0], classes),
        },
    )
    write_csv(
        stage.out(f"metrics/confusion/{row}.csv"),
        ["actual", "predicted", "count"],
        [[a, p, counts[i, j]] for i, a in enumerate(classes) for j, p in enumerate(classes)],
    )


if __name__ == "__main__":
    with watched():
        run(main, __file__)
