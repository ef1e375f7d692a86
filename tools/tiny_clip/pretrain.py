"""Pre-train the embedded tiny CLIP on people outside the demo corpus.

Render portraits, train a CLIPModel on them and their captions, measure it on people it has not
seen, write the folder. `--minutes` fits the number of steps to the time; `--steps` repeats a
training exactly.
"""

import argparse
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from tools.tiny_clip import evaluate_clip, portraits, tiny_clip, views, vocabulary

HERE = Path(__file__).parent
HELD_OUT = 100_000  # first id of the people kept for the evaluation
# weights of the losses; found in a trial, see the model card
CONTRASTIVE, NAMED, MEASURED = 0.5, 2.0, 8.0
SAVED_EVERY = 180  # seconds between two states on disk


@dataclass(frozen=True)
class Schedule:
    """Steps and rate: `steps`, or as many as fit into `minutes` at the pace of the warm-up."""

    minutes: float = 32.0
    steps: int | None = None
    batch: int = 128
    lr: float = 1.5e-3
    warmup: int = 100
    weight_decay: float = 0.05
    seed: int = 0

    def rate(self, step: int, steps: int | None) -> float:
        """Return the learning rate of a step: a linear warm-up, then a cosine to 0 at `steps`."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, steps - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))


class Training:
    """A model on its way: network, heads, optimiser, and the number of steps and seconds so far.

    Each batch is drawn from (seed, step) alone: a training that was stopped goes on as if it had
    not been.
    """

    def __init__(self, schedule: Schedule, kept: portraits.Portraits,
                 words: PreTrainedTokenizerFast):
        torch.manual_seed(schedule.seed)
        self.schedule, self.kept, self.words = schedule, kept, words
        self.step, self.seconds, self.steps, self.losses = 0, 0.0, schedule.steps, []
        self.model = tiny_clip.build(
            len(words), dict(bos=words.bos_token_id, eos=words.eos_token_id, pad=words.pad_token_id)
        )
        tiny_clip.start(self.model,
                        views.show(kept, np.arange(min(512, len(kept))), self._rng(-1))[0])
        counts = {name: len(choices) for name, choices in vocabulary.FIELDS.items()}
        self.heads = tiny_clip.Heads(self.model.config.vision_config.hidden_size, counts,
                                     views.MEASURES)
        trained = [*self.model.parameters(), *self.heads.parameters()]
        decayed, free = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
        groups = [
            {"params": decayed, "weight_decay": schedule.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
        self.people = np.unique(kept.ids, return_index=True, return_counts=True)[1:]

    def _rng(self, step: int) -> np.random.Generator:
        return np.random.default_rng([self.schedule.seed, step + 1])

    def advance(self) -> dict[str, float]:
        """Return one step on one frame each of `batch` different people; returns the losses."""
        rng, schedule = self._rng(self.step), self.schedule
        first, count = self.people
        chosen = rng.choice(len(first), schedule.batch, replace=len(first) < schedule.batch)
        images, codes, measures = views.show(self.kept, first[chosen] + rng.integers(count[chosen]),
                                             rng)
        said = vocabulary.choose_said(len(codes), rng)
        tokens = self.words(vocabulary.write(codes, said), padding=True,
                            return_tensors="pt")["input_ids"]
        pooled, image, text = tiny_clip.encode(self.model, tiny_clip.pixels(images), tokens)
        fits = torch.from_numpy(vocabulary.fits(codes, said))
        pairs = tiny_clip.contrastive(image, text, self.model.logit_scale, fits)
        named, measured = self.heads(pooled, torch.from_numpy(codes), torch.from_numpy(measures))
        self._update(CONTRASTIVE * pairs + NAMED * named + MEASURED * measured)
        return {"pairs": pairs.item(), "named": named.item(), "measured": measured.item()}

    def _update(self, loss: torch.Tensor) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate(self.step, self.steps)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(
            [p for group in self.optimiser.param_groups for p in group["params"]], 1.0)
        self.optimiser.step()

    def run(self, state: Path) -> None:
        """Train to the end, saving the state every few minutes.

        A state of this schedule is taken up.
        """
        self._restore(state)
        saved = self.seconds
        with tqdm(total=self.steps, initial=self.step, unit="step", desc="tiny clip",
                  mininterval=5) as bar:
            while self.steps is None or self.step < self.steps:
                begun = time.perf_counter()
                self.losses.append(self.advance())
                self.step += 1
                self.seconds += time.perf_counter() - begun
                if self.steps is None and self.step == self.schedule.warmup:
                    self.steps = bar.total = max(
                        self.step, int(self.step * self.schedule.minutes * 60 / self.seconds))
                if self.seconds - saved > SAVED_EVERY:
                    self._save(state)
                    saved = self.seconds
                bar.set_postfix({k: f"{v:.3f}" for k, v in self.recent().items()}, refresh=False)
                bar.update()

    def recent(self) -> dict[str, float]:
        """Return mean losses of the last 50 steps."""
        last = self.losses[-50:]
        return {name: float(np.mean([each[name] for each in last])) for name in last[0]}

    def _save(self, state: Path) -> None:
        parts = {name: getattr(self, name).state_dict() for name in ("model", "heads", "optimiser")}
        facts = {name: getattr(self, name) for name in ("step", "seconds", "steps", "losses")}
        temporary = state.with_suffix(".part")
        torch.save(
            {"schedule": asdict(self.schedule), "portraits": len(self.kept), **parts, **facts},
            temporary)
        os.replace(temporary, state)

    def _restore(self, state: Path) -> None:
        found = torch.load(state, weights_only=True) if state.exists() else {}
        if found.get("schedule") != asdict(self.schedule) or found.get("portraits") != len(
                self.kept):
            return
        for name in ("model", "heads", "optimiser"):
            getattr(self, name).load_state_dict(found[name])
        for name in ("step", "seconds", "steps", "losses"):
            setattr(self, name, found[name])


def main(arguments: list[str] | None = None) -> None:
    """Render, train, measure, write."""
    options = parse(arguments)
    torch.set_num_threads(options.workers)
    schedule = Schedule(options.minutes, options.steps, options.batch, options.lr,
                        seed=options.seed)
    folder = options.data / portraits.look()
    want = dict(workers=options.workers, folder=folder)
    kept = portraits.portraits(options.world, range(options.people), options.frames, **want)
    unseen = portraits.portraits(options.world, range(HELD_OUT, HELD_OUT + options.unseen), 8,
                                 **want)
    training = Training(schedule, kept, vocabulary.tokenizer())
    state = folder / f"state-{os.path.basename(options.out)}.pt"
    training.run(state)
    facts = {
        "command": again(options, training.steps),
        "world": options.world,
        "people": options.people,
        "frames": options.frames,
        "steps": training.steps,
        "minutes": round(training.seconds / 60, 1),
        "threads": options.workers,
        **training.recent(),
        "schedule": asdict(schedule),
    }
    evaluate_clip.publish(training.model, training.words, unseen, facts, options.out)
    state.unlink(missing_ok=True)


def again(options: argparse.Namespace, steps: int) -> str:
    """Return the command that repeats a training exactly, wherever its files lie."""
    usual = vars(parse([]))
    changed = {name: value for name, value in vars(options).items() if value != usual[name]}
    kept = {
        name: value
        for name, value in changed.items()
        if name not in ("minutes", "steps", "out", "data")
    }
    given = {"steps": steps} | kept
    return " ".join([
        "python -m tools.tiny_clip.pretrain",
        *(f"--{name} {value}" for name, value in given.items())
    ])


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.tiny_clip.pretrain",
                                     description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=32.0, help="time for the training steps")
    parser.add_argument("--steps", type=int, help="train exactly this many steps instead")
    parser.add_argument("--out", type=Path, default=HERE / "tiny-clip", help="folder to write")
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "cache" / "pretrain",
                        help="kept portraits")
    parser.add_argument("--world", type=int, default=7777,
                        help="world seed; the demo corpus must have another")
    parser.add_argument("--people", type=int, default=3500, help="people to train on")
    parser.add_argument("--unseen", type=int, default=300, help="other people to measure on")
    parser.add_argument("--frames", type=int, default=12, help="frames of each person")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2,
                        help="processes that render, threads that train")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
