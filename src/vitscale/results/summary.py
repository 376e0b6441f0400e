"""Tables over all rows: what `compare` leaves."""

from collections.abc import Container
from dataclasses import replace
from pathlib import Path

from vitscale.base.errors import UserError
from vitscale.results.metrics import paired_difference
from vitscale.results.study import Study
from vitscale.results.tables import hits

HEADS = (
    "row", "parameters", "pretrained on", "protocol", "accuracy", "95% interval", "over scratch",
    "over longer scratch", "published",
)  # fmt: skip
NOTE = (
    "*Over scratch*: over the row with the same fine-tuning and no pretraining; *over longer scratch*: over "
    "the one that was fine-tuned for the epochs of the pretraining too. After ± the 95% interval of the "
    "paired difference, over the same test images."
)


def control_of(row: str, study: Study, more_epochs: bool = False) -> str | None:
    """Return the row that differs from this one only in that it was not pretrained, if there is one.

    With `more_epochs` it is the one that was fine-tuned for the epochs of the pretraining too.
    """
    entry = study.rows[row]
    pretraining = study.pretrain.get(entry.start)
    if pretraining is None:
        return None
    scratch = f"{pretraining.model}-scratch"
    inputs, epochs = (
        entry.inputs.replace(entry.start, scratch),
        entry.epochs + more_epochs * pretraining.epochs,
    )
    wanted = replace(entry, start=scratch, inputs=inputs, epochs=epochs)
    return next((name for name, other in study.rows.items() if other == wanted), None)


def gain(row: str, control: str, study: Study) -> tuple[float, float]:
    """Return how much more accurate a row is than its control, and half the paired 95% interval."""
    first, second = study.score(row), study.score(control)
    if not first or not second or first["test_labels_sha256"] != second["test_labels_sha256"]:
        raise UserError(f"{row} and {control} were scored on different test images; run `dvc repro`")
    return paired_difference(hits(first), hits(second))


def _line(row: str, study: Study) -> list[str]:
    """Return a row's cells."""
    known, figures = study.published_for(row), study.score(row)
    published = f"{known.accuracy:.2%}" if known else "—"
    about = [study.pretraining_data(row) or "—", study.rows[row].protocol]
    if figures is None:
        return [row, "—", *about, "not run", "—", "—", "—", published]
    controls = [control_of(row, study, more_epochs) for more_epochs in (False, True)]
    above = [
        "{:+.2%} ± {:.2%}".format(*gain(row, control, study)) if control else "—" for control in controls
    ]
    interval = f"{figures['ci95_low']:.2%} to {figures['ci95_high']:.2%}"
    accuracy, size = f"{figures['accuracy']:.2%}", f"{figures['parameters'] / 1e6:.2f}M"
    return [row, size, *about, accuracy, interval, *above, published]


def summarise(study: Study) -> str:
    """Return the Markdown table of all rows, and of published ones that have no row here."""
    lines = [_line(row, study) for row in study.rows]
    for row, known in study.published.items():
        if row not in study.rows:
            lines.append([row, "—", "—", known.protocol, "not run", "—", "—", "—", f"{known.accuracy:.2%}"])
    table = [
        f"| {' | '.join(HEADS)} |",
        "|---" * len(HEADS) + "|",
        *(f"| {' | '.join(line)} |" for line in lines),
    ]
    title = f"Test accuracy on {study.target}; the best epoch was chosen on validation images."
    return "\n".join([title, "", *table, "", NOTE]) + "\n"


def leftovers(study: Study) -> list[Path]:
    """Return the metrics of rows and pretrainings that params.yaml no longer names; they enter no table."""
    known: dict[Path, Container[str]] = {
        study.scores: study.rows,
        study.history / "pretrain": study.pretrain,
        study.history / "finetune": study.rows,
    }
    found = ((path, names) for folder, names in known.items() for path in sorted(folder.glob("*.json")))
    return [path for path, names in found if path.stem not in names]


def accuracy_table(study: Study) -> list[list]:
    """Return (row, accuracy, ci95_low, ci95_high, published) for every row that has been run."""
    table = []
    for row in study.rows:
        figures, known = study.score(row), study.published_for(row)
        if figures:
            published = known.accuracy if known else ""
            table.append([row, figures["accuracy"], figures["ci95_low"], figures["ci95_high"], published])
    return table


def curves(study: Study) -> list[list]:
    """Return a line for each epoch of every training: its stage, its entry, then the epoch's figures."""
    table: list[list] = []
    for stage, names in (("pretrain", list(study.pretrain)), ("finetune", list(study.rows))):
        for name in names:
            figures = study.training(stage, name)
            if figures:
                table += [[stage, name, *epoch.values()] for epoch in figures["epochs"]]
    return table
