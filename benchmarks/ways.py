"""The ways to train that `benchmarks.throughput` compares.

Ours, the usual one, and Hugging Face's Trainer.
"""

import tempfile
import time
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from vitscale.data.arrays import Split
from vitscale.data.augment import Policy
from vitscale.models.store import ModelConfig, build
from vitscale.runtime.device import Compute
from vitscale.training.batches import Plan
from vitscale.training.loop import Training
from vitscale.training.optimizers import Recipe, make_optimizers

CLASSES = 10


@dataclass(frozen=True)
class Setting:
    """A model with the recipe and the policy of its row, and what it is computed on."""

    config: ModelConfig
    recipe: Recipe
    policy: Policy
    compute: Compute


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class SdpaAttention(nn.Module):
    """Our attention's twin on scaled_dot_product_attention."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, tokens):
        batch, n, dim = tokens.shape
        q, k, v = self.qkv(tokens).view(batch, n, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(
            nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, n, dim)
        )


class PilImages(torch.utils.data.Dataset):
    """What ImageFolder gives: a PIL image an item, transformed in the worker."""

    def __init__(self, split: Split, transform):
        self.images, self.labels = [Image.fromarray(image) for image in split.images], split.labels
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(self.images[index]), self.labels[index]


def usual_transform(policy: Policy, config: ModelConfig):
    steps = []
    if policy.crop_padding:
        steps.append(v2.RandomCrop(config.architecture.image_size, padding=policy.crop_padding))
    if policy.flip:
        steps.append(v2.RandomHorizontalFlip())
    if policy.trivial_augment:
        steps.append(v2.TrivialAugmentWide())
    steps += [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(config.mean, config.std)]
    if policy.erasing:
        steps.append(v2.RandomErasing(policy.erasing))
    return v2.Compose(steps)


def usual_mix(policy: Policy):
    mixes = [v2.MixUp(alpha=policy.mixup, num_classes=CLASSES)] if policy.mixup else []
    mixes += [v2.CutMix(alpha=policy.cutmix, num_classes=CLASSES)] if policy.cutmix else []
    return v2.RandomChoice(mixes) if mixes else lambda images, labels: (images, labels)


class Ours:
    """Our loop as the stages run it.

    `measure` returns images per second and the share of time spent on input.
    """

    def __init__(self, setting: Setting, split: Split):
        size = setting.config.architecture.image_size
        plan = Plan(
            recipe=setting.recipe,
            policy=setting.policy,
            fraction=1.0,
            sizes=[size],
            epochs=1000,
            lr=1e-4,
            seed=0,
        )
        self.training = Training(build(setting.config), split, plan, setting.compute)
        self.batch_size, self.done = self.training.batches.batch_size, 0

    def measure(self, steps: int) -> tuple[float, float]:
        training, device = self.training, self.training.compute.device
        training.train_mode()
        batches, on_input = training.batches, 0.0
        order = batches.epoch_order(0)
        synchronise(device)
        begin = time.perf_counter()
        for i in range(steps):
            at = i % batches.steps_per_epoch * self.batch_size
            before = time.perf_counter()
            batch = batches.batch(order[at : at + self.batch_size], self.done)
            on_input += time.perf_counter() - before
            training.step(*batch, self.done)
            self.done += 1
        synchronise(device)
        seconds = time.perf_counter() - begin
        return steps * self.batch_size / seconds, on_input / seconds


class Usual:
    """The usual way, at one batch size."""

    def __init__(self, setting: Setting, split: Split, batch_size: int):
        config, recipe, policy, device = (
            setting.config,
            setting.recipe,
            setting.policy,
            setting.compute.device,
        )
        self.model = build(config).to(device)
        for block in getattr(self.model.backbone, "blocks", []):
            block.attention = SdpaAttention(config.architecture.dim, config.architecture.heads).to(device)
            block.mlp = nn.Sequential(
                nn.Linear(config.architecture.dim, config.architecture.mlp_dim),
                nn.GELU(),
                nn.Linear(config.architecture.mlp_dim, config.architecture.dim),
            ).to(device)
        if recipe.optimizer == "muon":
            recipe = replace(recipe, optimizer="adamw")
        self.optimizers, self.compute = make_optimizers(self.model, recipe), setting.compute
        self.loss, self.mix, self.clip = (
            nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing),
            usual_mix(policy),
            recipe.clip_norm,
        )
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 1e-4
        self.loader = torch.utils.data.DataLoader(
            PilImages(split, usual_transform(policy, config)),
            batch_size,
            shuffle=True,
            num_workers=2,
            persistent_workers=True,
            drop_last=True,
        )
        self.batch_size, self.batches = batch_size, self.endless()
        self.measure(1)  # starts the workers

    def endless(self):
        while True:
            yield from self.loader

    def measure(self, steps: int) -> tuple[float, float]:
        self.model.train()
        count, on_input = 0, 0.0
        synchronise(self.compute.device)
        begin = time.perf_counter()
        for _ in range(steps):
            before = time.perf_counter()
            images, labels = self.mix(*next(self.batches))
            device = self.compute.device
            images, labels = images.to(device), labels.to(device)
            on_input += time.perf_counter() - before
            with self.compute.autocast():
                loss = self.loss(self.model(images).float(), labels)
            self.model.zero_grad(set_to_none=True)
            loss.backward()
            if self.clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            for optimizer in self.optimizers:
                optimizer.step()
            count += len(images)
        synchronise(self.compute.device)
        seconds = time.perf_counter() - begin
        return count / seconds, on_input / seconds


class HuggingFace:
    """Hugging Face's Trainer as its examples use it, at one batch size."""

    def __init__(self, setting: Setting, split: Split, batch_size: int):
        config, recipe, policy, device = (
            setting.config,
            setting.recipe,
            setting.policy,
            setting.compute.device,
        )
        from transformers import TrainingArguments, ViTConfig

        self.shape = ViTConfig(
            hidden_size=config.architecture.dim,
            num_hidden_layers=config.architecture.depth,
            num_attention_heads=config.architecture.heads,
            intermediate_size=config.architecture.mlp_dim,
            image_size=config.architecture.image_size,
            patch_size=config.architecture.patch_size,
            num_labels=CLASSES,
        )
        self.images = PilImages(split, usual_transform(policy, config))
        self.device, self.batch_size, self.folder = device, batch_size, tempfile.TemporaryDirectory()
        self.arguments = lambda steps: TrainingArguments(
            self.folder.name,
            per_device_train_batch_size=batch_size,
            max_steps=steps,
            bf16=setting.compute.precision == "bfloat16",
            use_cpu=device.type == "cpu",
            dataloader_num_workers=2,
            dataloader_persistent_workers=True,
            dataloader_drop_last=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            label_smoothing_factor=recipe.label_smoothing,
            max_grad_norm=recipe.clip_norm,
            weight_decay=recipe.weight_decay,
        )

    def measure(self, steps: int) -> tuple[float, None]:
        """Return images per second; the share of input can't be seen from outside the Trainer."""
        from transformers import PrinterCallback, Trainer, TrainerCallback, ViTForImageClassification

        ends, device = [], self.device

        class Clock(TrainerCallback):
            def on_step_end(self, arguments, state, control, **_):
                if state.global_step in (2, steps + 2):  # the first two start the workers
                    synchronise(device)
                    ends.append(time.perf_counter())

        self.model = ViTForImageClassification(self.shape)
        trainer = Trainer(
            self.model,
            self.arguments(steps + 2),
            train_dataset=self.images,
            callbacks=[Clock()],
            data_collator=lambda items: {
                "pixel_values": torch.stack([image for image, _ in items]),
                "labels": torch.tensor([int(label) for _, label in items]),
            },
        )
        trainer.remove_callback(PrinterCallback)  # its lines would stand among our figures
        trainer.train()
        return steps * self.batch_size / (ends[1] - ends[0]), None
