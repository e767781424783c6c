"""Training of sam_demo: `python -m tools.train_sam_demo.train --out FOLDER --steps 20000`; run it again to continue.

Every random draw is a function of the seed and the step number, so an interrupted run continues as if uninterrupted.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from samedge.models.sam.encoders.vit_family import fit_relative_positions
from samedge.models.sam.load import load_model
from samedge.models.sam.sam import Sam
from tools.train_sam_demo.batches import Batch, SceneBatches
from tools.train_sam_demo.network import SAM_DEMO, build
from tools.train_sam_demo.optimisation import Optimisers, RunningMean, rate
from tools.train_sam_demo.rounds import Guide, Plan, encoder_backward, step_backward
from tools.train_sam_demo.scenes import scene
from tools.train_sam_demo.scoring import mean_ious, score

CHECKPOINT = "checkpoint.pt"


@dataclass(slots=True)
class Settings:
    """The command line of a run."""

    out: Path
    steps: int
    seed: int
    scenes: int
    targets: int
    lr: float
    weight_decay: float
    warm_up: int
    decay_share: float
    muon: bool
    ema: float
    clip: float
    workers: int
    threads: int
    precision: str
    compile: bool
    eval_every: int
    eval_scenes: int
    save_minutes: float
    log_every: int
    overfit: int
    start: Path | None = None
    encoder_only: bool = False


class Trainer:
    """A run: the model, the optimisers, the moving average and the next step."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings = settings
        self.device = device
        self.sam = build(SAM_DEMO, settings.seed).to(device)
        self.guide = Guide(SAM_DEMO.decoder_dim).to(device)
        self.both = nn.ModuleDict({"sam": self.sam, "guide": self.guide})
        self.optimisers = Optimisers(self.both, settings.lr, settings.weight_decay, muon=settings.muon)
        self.mean = RunningMean(self.sam, settings.ema)
        self.plan = Plan(bfloat16=settings.precision == "bf16", compiled=settings.compile)
        self.step = 0
        self.seconds = 0.0
        self.stopped = False

    def stop(self, *_: object) -> None:
        """End the run, and save its state, after the current step; a signal handler."""
        self.stopped = True

    def save(self) -> None:
        """Write the state of the run; if the process dies meanwhile, the last state remains."""
        path = self.settings.out / CHECKPOINT
        state = {
            "model": self.both.state_dict(),
            "ema": self.mean.values,
            "optimisers": self.optimisers.state(),
            "step": self.step,
            "seconds": self.seconds,
            "settings": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self.settings).items()},
        }
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def resume(self) -> bool:
        """Load the state of the folder's run, if there is one; return True if there was."""
        path = self.settings.out / CHECKPOINT
        if not path.exists():
            return False
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        self.both.load_state_dict(state["model"])
        self.mean.values = state["ema"]
        self.optimisers.restore(state["optimisers"])
        self.step, self.seconds = state["step"], state["seconds"]
        return True

    def start_from(self, weights: Path) -> None:
        """Start with the weights of a packed file, or of another run's state, but with new optimisers and steps.

        The weights may be those of another input size: positions are interpolated.
        """
        module: nn.Module = self.sam
        if weights.name == CHECKPOINT:
            module, state = self.both, torch.load(weights, map_location=self.device, weights_only=True)["model"]
        else:
            state = load_model(weights).model.state_dict()
        module.load_state_dict(with_positions_of(state, module.state_dict()))
        self.mean = RunningMean(self.sam, self.settings.ema)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """Make one step; return its means."""
        s = self.settings
        generator = torch.Generator().manual_seed(s.seed * 1_000_003 + self.step)
        # The guide is strong at first, and fades out towards the end.
        weight = self.plan.guide_weight * max(0.0, 1 - self.step / (0.8 * s.steps))
        batch = batch.to(self.device)
        if s.encoder_only:
            means = encoder_backward(self.sam, self.guide, batch, self.plan)
        else:
            means = step_backward(self.sam, self.guide, batch, self.plan, generator, weight)
        means["grad"] = float(nn.utils.clip_grad_norm_(self.both.parameters(), s.clip))
        factor = rate(self.step, s.steps, warm_up=s.warm_up, decay_share=s.decay_share)
        self.optimisers.step(factor)
        self.step += 1
        self.mean.update(self.sam, self.step)
        return {**means, "lr": s.lr * factor}

    def averaged(self) -> Sam:
        """Return a model with the averaged weights."""
        sam = build(SAM_DEMO, self.settings.seed).to(self.device)
        sam.load_state_dict(self.mean.values)
        return sam.eval()

    def evaluate(self) -> dict[str, float]:
        """Return the mean IoUs of the averaged model on the first held-out scenes."""
        scenes = (scene(i, "held_out", SAM_DEMO.image_size) for i in range(self.settings.eval_scenes))
        return mean_ious(score(self.averaged(), scenes))


def with_positions_of(state: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with its positions interpolated to the sizes in another one."""
    out = dict(state)
    for name, value in state.items():
        shape = other[name].shape
        if value.shape != shape and name.endswith("image_encoder.pos_embed"):
            grid = functional.interpolate(value.permute(0, 3, 1, 2), shape[1:3], mode="bicubic")
            out[name] = grid.permute(0, 2, 3, 1).contiguous()
        elif value.shape != shape and name.endswith(("rel_pos_h", "rel_pos_w")):
            out[name] = fit_relative_positions(value, shape[0])
    return out


def log(settings: Settings, kind: str, step: int, values: dict[str, float]) -> None:
    """Append a line to log.jsonl and print it."""
    rounded = {name: float(f"{value:.4g}") for name, value in values.items()}
    with (settings.out / "log.jsonl").open("a") as file:
        file.write(json.dumps({"kind": kind, "step": step, **rounded}) + "\n")
    print(f"{time.strftime('%H:%M:%S')} {kind} {step} " + " ".join(f"{k}={v}" for k, v in rounded.items()), flush=True)


def run(settings: Settings) -> None:
    """Train until the planned number of steps is reached, or until SIGTERM; save in either case."""
    settings.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(settings.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = Trainer(settings, device)
    resumed = trainer.resume()
    if settings.start is not None and not resumed:
        trainer.start_from(settings.start)
    print(f"{'resumed' if resumed else 'started'} at step {trainer.step} of {settings.steps} on {device}", flush=True)
    before = signal.signal(signal.SIGTERM, trainer.stop)
    try:
        loop(trainer, settings)
    finally:
        signal.signal(signal.SIGTERM, before)
    trainer.save()
    if trainer.stopped:
        print(f"stopped after step {trainer.step}", flush=True)
    else:
        log(settings, "eval", trainer.step, trainer.evaluate())


def loop(trainer: Trainer, settings: Settings) -> None:
    """Make the remaining steps, until the run is stopped."""
    data = SceneBatches(settings.seed, settings.scenes, settings.targets, SAM_DEMO.image_size, settings.overfit)
    loader = DataLoader(
        data,
        batch_size=None,
        sampler=range(trainer.step, settings.steps),
        num_workers=settings.workers,
        prefetch_factor=4 if settings.workers else None,
        worker_init_fn=_leave_signals_alone,
    )
    sums: dict[str, float] = {}
    since_log, saved = 0, time.monotonic()
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        disable=not sys.stdout.isatty(),
    )  # fmt: skip
    with bar:
        task = bar.add_task("training", total=settings.steps, completed=trainer.step)
        for batch in loader:
            began = time.monotonic()
            for name, value in trainer.train_step(batch).items():
                sums[name] = sums.get(name, 0.0) + value
            trainer.seconds += time.monotonic() - began
            since_log += 1
            bar.update(task, advance=1, description=f"guide {sums['guide'] / since_log:.3f}")
            if trainer.step % settings.log_every == 0:
                means = {name: value / since_log for name, value in sums.items()}
                log(settings, "train", trainer.step, {**means, "hours": trainer.seconds / 3600})
                sums, since_log = {}, 0
            if trainer.stopped:
                return
            if time.monotonic() - saved > settings.save_minutes * 60:
                trainer.save()
                saved = time.monotonic()
            if settings.eval_every and trainer.step % settings.eval_every == 0:
                log(settings, "eval", trainer.step, trainer.evaluate())


def _leave_signals_alone(_: int) -> None:
    # A SIGTERM to the whole group must not kill the workers before the current step ends.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def default_precision() -> str:
    """Return bf16 if it speeds up matrix products: on CUDA, and on CPUs with support for it."""
    if torch.cuda.is_available():
        return "bf16"
    return "bf16" if torch.cpu.get_capabilities().get("avx512_bf16") else "fp32"


def parse(arguments: list[str] | None = None) -> Settings:
    """Return the settings of a command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoint.pt and log.jsonl")
    p.add_argument("--steps", type=int, default=20000, help="planned steps; may be changed when a run continues")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--scenes", type=int, default=8, help="scenes per step")
    p.add_argument("--targets", type=int, default=8, help="targets per scene")
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--weight-decay", type=float, default=0.05)
    p.add_argument("--warm-up", type=int, default=250, help="steps")
    p.add_argument(
        "--decay-share", type=float, default=1.0, help="fraction of the steps in which the learning rate decays"
    )
    p.add_argument("--muon", action=argparse.BooleanOptionalAction, default=True, help="Muon for matrices")
    p.add_argument("--ema", type=float, default=0.999)
    p.add_argument("--clip", type=float, default=1.0, help="maximum norm of the gradient")
    p.add_argument("--workers", type=int, default=1, help="processes that draw scenes")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--precision", choices=("fp32", "bf16"), default=default_precision())
    p.add_argument("--compile", action="store_true", help="compile the encoder; needs a C++ compiler")
    p.add_argument("--eval-every", type=int, default=500, help="steps; 0 for never")
    p.add_argument("--eval-scenes", type=int, default=24)
    p.add_argument("--save-minutes", type=float, default=5.0)
    p.add_argument("--log-every", type=int, default=25)
    p.add_argument("--overfit", type=int, default=0, help="repeat only this many batches")
    p.add_argument("--start", type=Path, help="initial weights of a new run: packed ones, or a checkpoint.pt")
    p.add_argument("--encoder-only", action="store_true", help="train the encoder by the guide, without prompts")
    return Settings(**vars(p.parse_args(arguments)))


if __name__ == "__main__":
    run(parse())
