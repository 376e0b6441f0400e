"""Tables over all rows: what `compare` leaves."""

import json
from pathlib import Path

from vitscale.files import UserError
from vitscale.metrics import hits, paired_difference

FINE_TUNING = ("protocol", "fraction", "seed", "recipe", "augment", "sizes", "lr_scale")


def read_metrics(path: Path) -> dict | None:
    """Return a metrics file's figures, or None where it has not been run."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def control_of(row: str, rows: dict, pretrain: dict, more_epochs: bool = False) -> str | None:
    """Return the row that differs from this one only in that its weights were not pretrained, if there is one.

    With `more_epochs` it is the one that was fine-tuned for the epochs of the pretraining too.
    """
    entry = rows[row]
    start = pretrain.get(entry["start"])
    if start is None:
        return None
    scratch = f"{start['model']}-scratch"
    wanted = {"start": scratch, "inputs": entry["inputs"].replace(entry["start"], scratch),
              "epochs": entry["epochs"] + more_epochs * start["epochs"]} | {name: entry[name] for name in FINE_TUNING}
    return next((name for name, other in rows.items() if other == wanted), None)


def gain(row: str, control: str, scores: Path) -> tuple[float, float]:
    """Return how much more accurate a row is than its control on the same test images, and half the 95% interval."""
    first, second = (read_metrics(scores / f"{name}.json") for name in (row, control))
    if first["test_labels_sha256"] != second["test_labels_sha256"]:
        raise UserError(f"{row} and {control} were scored on different test images; run `dvc repro`")
    return paired_difference(hits(first), hits(second))


def summarise(rows: dict, pretrain: dict, weights: dict, published: dict, target: str, scores: Path) -> str:
    """Return the Markdown table of all rows, and of published ones that have no row here."""
    lines = [f"Test accuracy on {target}; the best epoch was chosen on validation images.", "",
             "| row | parameters | pretrained on | protocol | accuracy | 95% interval | over scratch | over longer scratch | published |",
             "|---|---|---|---|---|---|---|---|---|"]
    for row in [*rows, *(name for name in published if name not in rows)]:
        figures = read_metrics(scores / f"{row}.json") if row in rows else None
        known = published.get(row)
        protocol = rows[row]["protocol"] if row in rows else known["protocol"]
        start = rows[row]["start"] if row in rows else None
        data = (pretrain | weights)[start]["data"] if start in pretrain | weights else "—"
        compared = f"{known['accuracy']:.2%}" if known and known["protocol"] == protocol else "—"
        if figures is None:
            lines.append(f"| {row} | — | {data} | {protocol} | not run | — | — | — | {compared} |")
            continue
        controls = [control_of(row, rows, pretrain, more_epochs) for more_epochs in (False, True)]
        above = " | ".join("{:+.2%} ± {:.2%}".format(*gain(row, control, scores)) if control else "—" for control in controls)
        lines.append(f"| {row} | {figures['parameters'] / 1e6:.2f}M | {data} | {protocol} | {figures['accuracy']:.2%} | "
                     f"{figures['ci95_low']:.2%} to {figures['ci95_high']:.2%} | {above} | {compared} |")
    lines += ["", "*Over scratch*: over the row with the same fine-tuning and no pretraining; *over longer scratch*: over the one that "
              "was fine-tuned for the epochs of the pretraining too. After ± the 95% interval of the paired difference, over the "
              "same test images."]
    return "\n".join(lines) + "\n"


def leftovers(rows: dict, pretrain: dict, scores: Path, history: Path) -> list[Path]:
    """Return the metrics of rows and pretrainings that params.yaml no longer names; they enter no table."""
    known = {scores: rows, history / "pretrain": pretrain, history / "finetune": rows}
    return [path for folder, names in known.items() for path in sorted(folder.glob("*.json")) if path.stem not in names]


def accuracy_table(rows: dict, published: dict, scores: Path) -> list[list]:
    """Return (row, accuracy, ci95_low, ci95_high, published) for every row that has been run."""
    table = []
    for row, entry in rows.items():
        figures = read_metrics(scores / f"{row}.json")
        if figures:
            known = published.get(row)
            same = known and known["protocol"] == entry["protocol"]
            table.append([row, figures["accuracy"], figures["ci95_low"], figures["ci95_high"], known["accuracy"] if same else ""])
    return table


def curves(rows: dict, pretrain: dict, history: Path) -> list[list]:
    """Return (stage, entry, epoch, lr, train_loss, validation_loss, validation_accuracy) of every training."""
    table = []
    for stage, entries in (("pretrain", pretrain), ("finetune", rows)):
        for name in entries:
            figures = read_metrics(history / stage / f"{name}.json")
            if figures:
                table += [[stage, name, *epoch.values()] for epoch in figures["epochs"]]
    return table
