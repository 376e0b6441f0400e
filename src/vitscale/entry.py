"""What a pretraining or a row asks for, put together and handed to the training loop."""

from torch import nn

from vitscale import compute
from vitscale.arrays import load_split, stratified
from vitscale.checkpoint import checkpoint_for
from vitscale.files import UserError, write_json, write_metrics
from vitscale.models import Classifier, load_model, save_model, with_statistics
from vitscale.stage import Stage
from vitscale.train import HISTORY, Training, fit


def train_entry(stage: Stage, entry: dict, *, start: str, data: str, out: str) -> None:
    """Put a new head on a start and train it as an entry of `pretrain` or `rows` says; write the model and its metrics.

    Those have what the choice of the best epoch was made on, which the model's folder keeps too (`training.json`), and each
    epoch's figures. A start without `mean` and `std` takes those of the data; one that was trained keeps its own.
    """
    device = compute.setup()
    recipe, policy = stage.param(f"recipes.{entry['recipe']}"), stage.param(f"augment.{entry['augment']}")
    lr, seed, precision = stage.param("lr"), stage.param("seed") + entry["seed"], stage.param("precision")
    folder = stage.dep(data)
    train, validation = load_split(folder / "train"), load_split(folder / "validation")
    model, config = load_model(stage.dep(start), classes=train.classes)
    config = with_statistics(config, folder)
    misfits = [size for size in entry["sizes"] if size % config.get("patch_size", 1)]
    if misfits:
        raise UserError(f"{stage.label}: the patch_size {config['patch_size']} of {start} doesn't divide the size {misfits[0]}")
    # A probe on stored features trains the head alone; the backbone that they came from joins it again below.
    on_features = train.images.ndim == 2
    trained = Classifier(nn.Identity(), model.head.in_features, len(train.classes)) if on_features else model
    indices = stratified(train.labels, entry["fraction"], seed)
    with checkpoint_for(stage.label, stage.digest(*compute.identity(device), recipe["compile"] and compute.can_compile())) as checkpoint:
        training = Training(trained, config, train, indices, recipe=recipe, policy=policy, epochs=entry["epochs"],
                            lr=lr * entry["lr_scale"], sizes=entry["sizes"], seed=seed, precision=precision, device=device,
                            frozen_backbone=entry.get("protocol") == "linear_probe")
        result = fit(training, validation, checkpoint)
    save_model(stage.out(out), config, model.state_dict() | result.state)
    history = f"metrics/history/{stage.name}/{stage.key}.json"
    chosen = {"validation_accuracy": result.validation_accuracy, "best_epoch": result.best_epoch, "train_images": len(indices)}
    write_json(stage.out(out) / "training.json", chosen)
    epochs = [dict(zip(HISTORY, line, strict=True)) for line in result.history]
    write_metrics(stage.out(history), chosen | {"epochs": epochs})
    stage.trained(checkpoint.path, history)
