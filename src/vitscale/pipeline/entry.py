"""What a pretraining or a row asks for, put together from parameters and handed to the training loop."""

from dataclasses import asdict

from vitscale.base.entries import Entry, Row
from vitscale.base.errors import UserError
from vitscale.base.files import write_json, write_metrics
from vitscale.data.arrays import load_split
from vitscale.data.augment import Policy
from vitscale.models.store import load_model, save_model
from vitscale.models.vit import VitConfig
from vitscale.pipeline.stage import Stage
from vitscale.runtime.device import can_compile, setup
from vitscale.training.checkpoint import checkpoint_for
from vitscale.training.loop import Plan, Training, fit
from vitscale.training.optimizers import Recipe


def plan_for(stage: Stage, entry: Entry) -> Plan:
    """Return what an entry asks for, with the recipe and the policy that it names."""
    return Plan(
        recipe=Recipe(**stage.param(f"recipes.{entry.recipe}")),
        policy=Policy(**stage.param(f"augment.{entry.augment}")),
        fraction=entry.fraction,
        sizes=entry.sizes,
        epochs=entry.epochs,
        lr=stage.param("lr") * entry.lr_scale,
        seed=stage.param("seed") + entry.seed,
        frozen_backbone=isinstance(entry, Row) and entry.is_probe,
    )


def train_entry(stage: Stage, entry: Entry, *, start: str, data: str, out: str) -> None:
    """Put a new head on a start and train it as an entry of `pretrain` or `rows` says.

    Write the model and its metrics.

    Those have what the choice of the best epoch was made on, which the model's folder keeps too
    (`training.json`), and each epoch's figures. A start without `mean` and `std` takes those of the data; one
    that was trained keeps its own.
    """
    compute, plan = setup(stage.param("precision")), plan_for(stage, entry)
    folder = stage.dep(data)
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
    decides = stage.digest(*compute.identity(), plan.recipe.compile and can_compile())
    with checkpoint_for(stage.label, decides) as checkpoint:
        training = Training(trained, train, plan, compute)
        result = fit(training, validation, checkpoint)
    save_model(stage.out(out), model.config, model.state_dict() | result.state)
    history = f"metrics/history/{stage.name}/{stage.key}.json"
    chosen = {
        "validation_accuracy": result.validation_accuracy,
        "best_epoch": result.best_epoch,
        "train_images": len(training.indices),
    }
    write_json(stage.out(out) / "training.json", chosen)
    write_metrics(stage.out(history), chosen | {"epochs": [asdict(epoch) for epoch in result.history]})
    stage.trained(checkpoint.path, history)
