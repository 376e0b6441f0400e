"""Tables over all rows: what `compare` leaves."""

from collections.abc import Container
from pathlib import Path
from statistics import fmean

from vitscale.results.configurations import Configuration, configurations, controls_of, gain, model_of
from vitscale.results.study import Study

HEADS = (
    "row", "parameters", "pretrained on", "protocol", "accuracy", "95% interval", "ECE", "over",
    "over scratch", "over longer scratch", "published",
)  # fmt: skip
NOTHING = ["—"] * 5  # from the interval on, where a row hasn't been run
NOTE = (
    "A line stands for all rows that differ in their seeds alone, under the first one's name; *over* says "
    "what its interval covers. *ECE*: how far confidence lies from accuracy on average (expected calibration "
    "error, 15 bins of equal width, Guo et al. 2017); over trainings the mean. *Over scratch*: over the row "
    "with the same fine-tuning and no pretraining; *over longer scratch*: over the one that was fine-tuned "
    "for the epochs of the pretraining too; after ± half the 95% interval of the paired difference. What is "
    "over test images only says nothing of another training with another seed."
)


def _above(found: Configuration, control: Configuration | None) -> str:
    """Return how much more accurate a configuration is than its control, as a cell."""
    if control is None:
        return "—"
    value, half = gain(found, control)
    known = found.spread is not None and control.spread is not None
    return f"{value:+.2%} ± {half:.2%}{'' if known else ', test images only'}"


def _line(row: str, study: Study, of_row: dict[str, Configuration]) -> list[str]:
    """Return the cells of a row that hasn't been run, or of the configuration whose first row it is."""
    known, found = study.published_for(row), of_row.get(row)
    published = f"{known.accuracy:.2%}" if known else "—"
    about = [study.pretraining_data(row) or "—", study.rows[row].protocol]
    if found is None:
        return [row, "—", *about, "not run", *NOTHING, published]
    above = []
    for more_epochs in (False, True):
        controls = [of_row[each] for each in controls_of(row, study, more_epochs) if each in of_row]
        above.append(_above(found, controls[0] if controls else None))
    low, high = found.interval
    accuracy = f"{found.accuracy:.2%}{'' if not other_weights(row, study) else ' †'}"
    size = f"{(study.score(row) or {})['parameters'] / 1e6:.2f}M"
    # A row's own is the mean over its seeds.
    ece = fmean((study.score(each) or {})["ece"] for each in found.rows for _ in study.rows[each].seeds)
    interval = f"{low:.2%} to {high:.2%}"
    return [row, size, *about, accuracy, interval, f"{ece:.1%}", found.covers, *above, published]


def other_weights(row: str, study: Study) -> str | None:
    """Return a sentence where a row's weights aren't those of the committed figures, or it can't be told.

    Those are the files that `weights.<start>.sha256` names.
    """
    start = study.rows[row].start
    training, entry = study.training("finetune", row), study.weights.get(start)
    if entry is None or training is None:
        return None
    if "weights_sha256" not in training:
        return f"{row}: which files its weights came from was not recorded when it ran."
    [found] = training["weights_sha256"]
    if entry.sha256 and found.startswith(entry.sha256):
        return None
    wanted = f"the committed figures came from {entry.sha256}" if entry.sha256 else "params.yaml names none"
    return f"{row}: its weights came from files with the sha256 {found}; {wanted}."


def summarise(study: Study) -> str:
    """Return the Markdown table of all configurations, and of published ones that have no row here."""
    of_row = {row: each for each in configurations(study) for row in each.rows}
    lines = [
        _line(row, study, of_row) for row in study.rows if row not in of_row or of_row[row].rows[0] == row
    ]
    for row, known in study.published.items():
        if row not in study.rows:
            lines.append([row, "—", "—", known.protocol, "not run", *NOTHING, f"{known.accuracy:.2%}"])
    table = [
        f"| {' | '.join(HEADS)} |",
        "|---" * len(HEADS) + "|",
        *(f"| {' | '.join(line)} |" for line in lines),
    ]
    title = f"Test accuracy on {study.target}; the best epoch was chosen on validation images."
    marks = [f"† {said}" for row in of_row if (said := other_weights(row, study))]
    return "\n".join([title, "", *table, "", NOTE, *(["", *marks] if marks else [])]) + "\n"


def leftovers(study: Study, metrics: Path) -> list[Path]:
    """Return the metrics of rows and pretrainings that params.yaml no longer names; they enter no table."""
    known: dict[Path, Container[str]] = {
        metrics / "rows": study.rows,
        metrics / "history/pretrain": study.pretrain,
        metrics / "history/finetune": study.rows,
    }
    found = ((path, names) for folder, names in known.items() for path in sorted(folder.glob("*.json")))
    return [path for path, names in found if path.stem not in names]


def accuracy_table(study: Study) -> list[list]:
    """Return (first row, accuracy, ci95_low, ci95_high, published) for every configuration."""
    table = []
    for each in configurations(study):
        known = study.published_for(each.rows[0])
        table.append([each.rows[0], each.accuracy, *each.interval, known.accuracy if known else ""])
    return table


def curves(study: Study) -> list[list]:
    """Return a line for each epoch of every training: its stage, its entry, then the epoch's figures."""
    table: list[list] = []
    for stage, names in (("pretrain", list(study.pretrain)), ("finetune", list(study.rows))):
        for name in names:
            figures = study.training(stage, name)
            for epoch in figures["epochs"] if figures else []:
                seed = epoch.pop("seed", None)
                table.append([stage, name if seed is None else f"{name} seed {seed}", *epoch.values()])
    return table


def headline(study: Study) -> dict[str, dict[str, float] | float]:
    """Return the accuracies by which experiments are compared.

    By model the mean validation accuracy of its rows, then each row's on validation and on test images. What
    is of a row has a `/` in its name: `dvc exp show --drop .+/` leaves out all such columns.
    """
    trained = {row: found for row in study.rows if (found := study.training("finetune", row))}
    validation = {row: found["validation_accuracy"] for row, found in trained.items()}
    of_model: dict[str, list[float]] = {}
    for row, accuracy in validation.items():
        of_model.setdefault(model_of(study.rows[row], study), []).append(accuracy)
    return {
        "validation": {model: fmean(each) for model, each in of_model.items()},
        **{f"validation/{row}": accuracy for row, accuracy in validation.items()},
        **{f"test/{row}": found["accuracy"] for row in study.rows if (found := study.score(row))},
    }
