"""evaluate@<row>: the one stage that scores on the test split."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code of this very checkout

from vitscale import compute
from vitscale.arrays import load_split
from vitscale.files import UserError, write_csv, write_metrics
from vitscale.inference import predict
from vitscale.metrics import by_class, confusion, per_class, scores
from vitscale.models import count_macs, count_parameters, load_model
from vitscale.stage import Stage, run


def main(stage: Stage) -> None:
    device = compute.setup()
    row, target = stage.key, stage.param("target")
    split = load_split(stage.dep(f"data/raw/{target}/test"))
    folder = stage.dep(f"models/finetuned/{row}")
    model, config = load_model(folder)
    if config["classes"] != split.classes:
        raise UserError(f"{folder} tells other classes apart than {target} has; run finetune@{row}")
    logits = predict(model.to(device), config, split, stage.param("precision"), device).numpy()
    predicted, classes = logits.argmax(1), split.classes
    counts = confusion(split.labels, predicted, len(classes))
    write_metrics(stage.out(f"metrics/rows/{row}.json"), scores(logits, split.labels) | {
        "parameters": count_parameters(model), "macs": count_macs(config), **per_class(counts),
        **by_class(split.labels, predicted, classes)})
    write_csv(stage.out(f"metrics/confusion/{row}.csv"), ["actual", "predicted", "count"],
              [[a, p, counts[i, j]] for i, a in enumerate(classes) for j, p in enumerate(classes)])


if __name__ == "__main__":
    run(main, __file__)
