"""Makes a timm network of inverted-residual blocks elastic by distilling it into its subnets.

    python training/distill.py --teacher mobilenetv2_100.safetensors --images FOLDER_OR_TAR ... \
        --out RUN                 # continues if RUN has a checkpoint

Training starts from the teacher's weights. First, the inner channels of each block are sorted, so
that narrow subnets keep the channels that explain most of the block's output, and the projections
of narrow and shortened stages are fitted. Then each step runs the largest subnet, the smallest
subnet and random subnets on the same crops (the sandwich rule; Yu & Huang, Universally Slimmable
Networks, ICCV 2019), and moves their feature maps towards the teacher's.

With --start, an elastic network is trained further. Its teacher is --teacher or, without it, its
own largest subnet. RUN gets supernet.safetensors (float16) and the errors of each step in
errors.csv and curve.png.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from fit import FITTED_ON, start_subnets
from images import CROP, crops, read_images
from safetensors.torch import save as to_safetensors

from autopatch.errors import InputError, one_line
from autopatch.files import new_file, write_bytes_atomically
from autopatch.supernet.elastic_network import RATIOS, ElasticSetting, ElasticTimmNetwork, Section
from autopatch.supernet.weights import load_into, read_weights

_RANDOM_SUBNETS = 2  # per step
_RECIPE = ("teacher", "start", "images", "steps", "batch", "learning_rate", "seed")
_SAVED_EVERY = 180.0  # seconds
_TOLD_EVERY = 30.0


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--teacher", type=Path, help="weights of a timm model, with metadata")
    parser.add_argument("--start", type=Path, help="elastic weights to train further")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders, tar files")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    if options.start is None and options.teacher is None:
        parser.error("give --teacher, --start or both")
    try:
        weights = read_weights(options.start or options.teacher)
        if weights.timm_model is None or weights.mean is None or weights.std is None:
            raise InputError(f"{weights.path}: expected timm_model, mean and std in its metadata")
        network = ElasticTimmNetwork(weights.timm_model, weights.timm_kwargs or {})
        load_into(network if options.start else network.largest, weights)
        images = read_images(options.images)
        teacher = network.get_active_subnet(network.largest_setting)
        if options.teacher is not None:
            of_teacher = read_weights(options.teacher)
            for name in ("timm_model", "timm_kwargs", "mean", "std"):
                if getattr(of_teacher, name) != getattr(weights, name):
                    raise InputError(
                        f"{of_teacher.path}: {name} is {getattr(of_teacher, name)}, expected "
                        f"{getattr(weights, name)} as in {weights.path}"
                    )
            load_into(teacher, of_teacher)
        torch.empty(0, device=options.device)
    except InputError as error:
        parser.error(str(error))
    except (AssertionError, RuntimeError) as error:
        parser.error(f"--device is '{options.device}': {one_line(error)}")
    options.out.mkdir(parents=True, exist_ok=True)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (weights.mean, weights.std))

    def batch(number: int, count: int) -> torch.Tensor:
        """Random crops that depend only on the seed and `number`, so that a run can resume."""
        generator = torch.Generator().manual_seed(options.seed * 10**9 + number)
        made = (crops(images, count, CROP, generator) - mean) / std
        return made.to(options.device, memory_format=torch.channels_last)

    for module in (network, teacher):
        module.to(options.device, memory_format=torch.channels_last)
    checkpoint = options.out / "checkpoint.pt"
    if options.start is None and not checkpoint.exists():
        start_subnets(network, batch(10**9 - 1, FITTED_ON))
    optimizer = torch.optim.Adam(network.parameters(), options.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _learning_rate(step, options.steps)
    )
    first, log = 0, []
    recipe = {name: str(vars(options)[name]) for name in _RECIPE}
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=options.device)
        for name, value in recipe.items():
            if saved["recipe"][name] != value:
                option = f"--{name.replace('_', '-')}"
                parser.error(
                    f"{checkpoint} belongs to another run: {option} is {value}, expected "
                    f"{saved['recipe'][name]}, or another --out"
                )
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        first, log = saved["step"], saved["log"]
        print(f"continues from step {first}", flush=True)

    def save(step: int) -> None:
        state = {
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "step": step,
            "log": log,
            "recipe": recipe,
        }
        with new_file(checkpoint) as unfinished:
            torch.save(state, unfinished)

    started = told = saved_at = time.monotonic()
    for step in range(first, options.steps):
        pixels = batch(step, options.batch)
        with torch.no_grad():
            expected = teacher(pixels)
        settings = sandwich(network.sections, options.seed * 10**9 + step)
        errors = []
        for setting in settings:
            error = map_error(network(pixels, setting), expected)
            (error / len(settings)).backward()
            errors.append(float(error.detach()))
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        log.append(errors)
        now = time.monotonic()
        if now - told > _TOLD_EVERY:
            told = now
            done = (step + 1 - first) / (now - started)
            recent = torch.tensor(log[-100:]).mean(dim=0)
            print(
                f"step {step + 1} of {options.steps}, {done * options.batch:.1f} crops/s, "
                f"{(options.steps - step - 1) / done / 60:.0f} min left; error of the largest "
                f"{recent[0]:.4f}, smallest {recent[1]:.4f}, random {recent[2:].mean():.4f}",
                flush=True,
            )
        if now - saved_at > _SAVED_EVERY:
            saved_at = now
            save(step + 1)
    save(options.steps)
    write_log(log, options.out / "errors.csv")
    if log:
        draw_curve(log, options.out / "curve.png")
    write(network, options.out / "supernet.safetensors", mean=weights.mean, std=weights.std)


def _learning_rate(step: int, steps: int) -> float:
    """Factor of the learning rate: rises during the first hundredth of the steps, then follows a
    cosine down."""
    warm = max(steps // 100, 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def sandwich(sections: Sequence[Section], seed: int) -> list[ElasticSetting]:
    """Settings of the largest subnet, the smallest subnet and random subnets, with all levels."""
    generator = torch.Generator().manual_seed(seed)

    def choose(values: Sequence[int]) -> int:
        return values[int(torch.randint(len(values), (), generator=generator))]

    levels = tuple(section.level.index for section in sections)
    chosen = [
        ([RATIOS[0]] * len(sections), [section.depths[-1] for section in sections]),
        ([RATIOS[-1]] * len(sections), [section.depths[0] for section in sections]),
    ]
    for _ in range(_RANDOM_SUBNETS):
        chosen.append(
            ([choose(RATIOS) for _ in sections], [choose(section.depths) for section in sections])
        )
    return [ElasticSetting(tuple(ratios), tuple(depths), levels) for ratios, depths in chosen]


def map_error(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean squared error of feature maps relative to the variance of the teacher's, averaged over
    levels. Each level has half the weight of the level before it, because deeper levels build on
    shallow ones."""
    errors = [
        (f - e).square().mean() / e.var(dim=(0, 2, 3)).mean()
        for f, e in zip(found, expected, strict=True)
    ]
    weights = 0.5 ** torch.arange(len(errors), device=errors[0].device)
    return torch.stack(errors) @ (weights / weights.sum())


def write_log(log: Sequence[Sequence[float]], path: Path) -> None:
    """Writes the errors of each step as CSV."""
    names = ["step", "largest", "smallest", *(f"random {n + 1}" for n in range(_RANDOM_SUBNETS))]
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(names)
        rows.writerows([step, *(f"{e:.4f}" for e in errors)] for step, errors in enumerate(log))


def draw_curve(log: Sequence[Sequence[float]], path: Path) -> None:
    """Plots the errors by step, as moving averages over a hundred steps."""
    errors = torch.tensor(log)
    width = min(100, len(errors))
    means = errors.unfold(0, width, 1).mean(dim=2)
    steps = torch.arange(len(means)) + width // 2
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, values in (
        ("largest", means[:, 0]),
        ("random (two)", means[:, 2:].mean(dim=1)),
        ("smallest", means[:, 1]),
    ):
        axes.plot(steps, values, label=name)
    axes.set(xlabel="step", ylabel="error of the maps, relative to their variance", ylim=(0, None))
    figure.legend(title="subnet", loc="outside right")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def write(
    network: ElasticTimmNetwork, path: Path, *, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Writes the weights in float16, with the metadata for loading them."""
    metadata = {
        "timm_model": network.timm_model,
        "timm_kwargs": json.dumps(network.timm_kwargs),
        "mean": json.dumps(mean),
        "std": json.dumps(std),
    }
    state = {
        name: value.half().cpu().contiguous() if value.is_floating_point() else value.cpu()
        for name, value in network.state_dict().items()
    }
    write_bytes_atomically(path, to_safetensors(state, metadata=metadata))


if __name__ == "__main__":
    main()
