"""What a pretraining or a row asks for, put together from parameters and handed to the training loop."""

from dataclasses import asdict
from pathlib import Path

from vitscale.base.entries import Entry, Row
from vitscale.base.errors import UserError
from vitscale.base.files import AGAIN, read_json, write_json, write_metrics
from vitscale.data.arrays import load_split
from vitscale.data.augment import Policy
from vitscale.models.store import load_model, save_model
from vitscale.models.vit import VitConfig
from vitscale.pipeline.stage import Stage
from vitscale.runtime.compiler import can_compile
from vitscale.runtime.device import setup
from vitscale.runtime.distributed import require_same
from vitscale.training.batches import Plan
from vitscale.training.checkpoint import checkpoint_for
from vitscale.training.curves import curves_for
from vitscale.training.loop import Training, fit
from vitscale.training.optimizers import Recipe


def plan_for(stage: Stage, entry: Entry, seed: int) -> Plan:
    """Return what an entry asks for with one of its seeds, and the recipe and the policy that it names."""
    return Plan(
        recipe=Recipe(**stage.param(f"recipes.{entry.recipe}")),
        policy=Policy(**stage.param(f"augment.{entry.augment}")),
        fraction=entry.fraction,
        sizes=entry.sizes,
        epochs=entry.epochs,
        lr=stage.param("lr") * entry.lr_scale,
        seed=stage.param("seed") + seed,
        frozen_backbone=isinstance(entry, Row) and entry.is_probe,
    )


def train_entry(stage: Stage, entry: Entry, *, start: str, data: str, out: str) -> None:
    """Put a new head on a start and train it as an entry of `pretrain` or `rows` says, once for each seed.

    Write the models and their metrics. An entry with a list of seeds has a folder for each, `seed-<seed>/`.
    """
    if not isinstance(entry.seed, list):
        chosen, epochs = _train(stage, entry, entry.seed, start, data, stage.out(out))
        metrics = chosen | {"epochs": epochs}
    else:
        trainings, epochs = [], []
        for seed in entry.seed:
            chosen, its = _train(stage, entry, seed, start, data, stage.out(out) / f"seed-{seed}")
            trainings.append({"seed": seed} | chosen)
            epochs += [{"seed": seed} | epoch for epoch in its]
        accuracy = sum(each["validation_accuracy"] for each in trainings) / len(trainings)
        metrics = chosen | {"validation_accuracy": accuracy, "trainings": trainings, "epochs": epochs}
        del metrics["best_epoch"]  # of one of them
    history = f"metrics/history/{stage.name}/{stage.key}.json"
    write_metrics(stage.out(history), metrics)
    stage.keep_states_until(history)


def _train(
    stage: Stage, entry: Entry, seed: int, start: str, data: str, out: Path
) -> tuple[dict, list[dict]]:
    """Train once and write the model; return what chose the best epoch, and each epoch's figures.

    The model's folder keeps the first too (`training.json`); where others trained the start's weights, that
    says which files those came from. A start without `mean` and `std` takes those of the data; one that was
    trained keeps its own.
    """
    compute, plan = setup(stage.param("precision"), aloud=True), plan_for(stage, entry, seed)
    folder, origin = stage.dep(data), stage.dep(start) / "origin.json"
    train, validation = load_split(folder / "train"), load_split(folder / "validation")
    model = load_model(stage.dep(start), classes=train.classes, statistics=folder)
    patch_size = (
        model.config.architecture.patch_size if isinstance(model.config.architecture, VitConfig) else 1
    )
    if misfits := [size for size in plan.sizes if size % patch_size]:
        raise UserError(
            f"{stage.label}: the patch_size {patch_size} of {start} doesn't divide the size {misfits[0]}"
        )
    # A probe on stored features trains the head alone; the backbone that they came from joins it again below.
    trained = model.head_alone() if train.images.ndim == 2 else model
    require_same(stage.digest(), "code, parameters or inputs")
    decides = stage.digest(
        *compute.identity(), plan.recipe.compile and can_compile(compute.device), plan.seed
    )
    # Each of several has a curve, and a name at the terminal, of its own.
    of_several = isinstance(entry.seed, list)
    run, title = (f"{stage.label}/seed-{seed}", f"seed {seed}, ") if of_several else (stage.label, "")
    with (
        checkpoint_for(stage.label, decides) as checkpoint,
        curves_for(run, model.config.preprocessing) as curves,
    ):
        training = Training(trained, train, plan, compute)
        result = fit(training, validation, checkpoint, curves, title)
    save_model(out, model.config, model.state_dict() | result.state)
    chosen: dict = {
        "validation_accuracy": result.validation_accuracy,
        "best_epoch": result.best_epoch,
        "train_images": len(training.batches.indices),
    }
    if origin.exists():
        known = read_json(origin, dict, AGAIN)
        if not isinstance(known.get("sha256"), str):
            raise UserError(f"{origin} is damaged (it has no sha256); {AGAIN}")
        chosen["weights_sha256"] = [known["sha256"]]
    write_json(out / "training.json", chosen)
    stage.trained(checkpoint.path)
    return chosen, [asdict(epoch) for epoch in result.history]
