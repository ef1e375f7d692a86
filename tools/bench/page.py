"""The measured figures as a page of the book; every number on it is computed."""

from statistics import median

TARGETS = {"one run": 3.0, "grid": 9.0, "scoring": 0.6, "crops": 4.0, "IoU": 0.9}
PAGE = """# How fast it is

Made by `make bench` in one run; nothing below is typed by hand. CPU figures: {hardware}. The products of two large float32
matrices reach {peak:.0f} GFLOP/s there, measured in the same run: that is what *share of peak* refers to.

## One LoRA run

Ours against the plain recipe: Hugging Face's Trainer, PEFT on the same encoder and blocks, pictures decoded from PNG one by
one, nothing kept. Same steps, same rate, same schedule; both judge validation after each epoch and score the test part at
the end. Medians; imports are not counted.

{one_run}

{one_run_verdict}

## The grid

{grid_words}

{grid_verdict}

## How much of the machine is used

GFLOP/s of the matrix products, as counted by PyTorch, over the whole time of scoring (the whole encoder) or of a training
step (LoRA on the last blocks, whose inputs are kept). Of the last block both compute the class token alone, the one that is
pooled, and project nothing for the other tokens; what is left out is not counted.

{utilisation}

{utilisation_verdict}

## Faces

From mp4 files to crops in one process, against FF++'s recipe: dlib with one upsampling on every kept frame at full size.
*IoU* is the median overlap of the two boxes.

{crops}

{crops_verdict}

## Twice the frames

Crops, kept activations and one epoch of LoRA on the demo world, a fresh process each.

{growth}

{growth_words}

## The start of a run

{start}

## On a GPU

{gpu}
"""


def render(found: dict) -> str:
    """Return the page of all that `__main__` measured."""
    peak, kinds = found["peak"], found["one_run"]
    rows = [{
        "CLIP": run["clip"], "blocks": run["options"]["blocks"], "training crops": run["crops"],
        "steps": run["ours"]["steps"][0], "ours, s": _median(run["ours"]["seconds"]), "plain, s":
        _median(run["plain"]["seconds"]), "ratio": f"{run['ratio']:.1f}",
        "making the prefix once, s": f"{run['prefix_seconds']:.1f}", "loss, ours - plain":
        _gap(run["loss"])
    } for run in kinds]
    uses = [{
        "CLIP": use["clip"], "what": what, "crops at a time": use[what]["batch"], "GFLOP/s":
        f"{use[what]['GFLOP/s']:.0f}", "share of peak": f"{use[what]['GFLOP/s'] / peak:.0%}",
        "crops/s": f"{use[what]['crops/s']:.0f}"
    } for use in found["utilisation"] for what in ("scoring", "training")]
    faces = [{
        "height": one["height"] or "unscaled", "frames": one["frames"], "ours, frames/s":
        f"{one['ours']:.1f}", "FF++ recipe, frames/s": f"{one['plain']:.1f}", "ratio":
        f"{one['ratio']:.1f}", "IoU": f"{one['IoU']:.3f}"
    } for one in found["crops"]]
    return PAGE.format(
        hardware=found["hardware"], peak=peak, one_run=_table(rows),
        one_run_verdict=_runs_verdict(kinds), grid_words=_grid(found["grid"]),
        grid_verdict=_verdict("ratio", found["grid"]["ratio"], TARGETS["grid"], "times",
                              "the sum of the training steps and of what each run draws and saves"),
        utilisation=_table(uses),
        utilisation_verdict=_utilisation_verdict(found["utilisation"], peak), crops=_table(faces),
        crops_verdict="\n".join(_crops_verdict(one) for one in found["crops"]),
        growth=_growth(found["growth"]), growth_words=_growth_words(found["growth"]),
        start=_start(found["start_up"]), gpu=_gpu(found["gpu"], found["hardware"]))


def _table(rows: list[dict]) -> str:
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _median(values: list[float]) -> str:
    return f"{median(values):.1f}"


def _gap(loss: dict) -> str:
    return f"{loss['difference']:+.3f} ± {loss['half']:.3f}"


def _verdict(what: str, value: float, target: float, unit: str, bound: str) -> str:
    """Return met, or by how much not and what bounds it."""
    if value >= target:
        return f"- {what}: {value:.2f} {unit}, the target of {target:g} is met."
    return (
        f"- {what}: {value:.2f} {unit}, **{(target - value) / target:.0%} below the target** of {target:g}; "
        f"what bounds it, in our reading: {bound}.")


def _runs_verdict(runs: list[dict]) -> str:
    lines = []
    for run in runs:
        name = f"{run['clip']}, {run['options']['blocks']} blocks"
        lines.append(
            _verdict(
                name, run["ratio"], TARGETS["one run"], "times as fast",
                "the adapted blocks' own forward and backward pass, which both recipes compute"))
        same = abs(run["loss"]["difference"]) <= run["loss"]["half"]
        lines.append(f"- {name}: the last epoch's loss is " + (
            "the same within the noise of the seeds." if same else
            "**not the same** within the noise of the seeds: the two recipes do not learn alike."))
    return "\n".join(lines)


def _grid(grid: dict) -> str:
    settings = ", ".join(
        f"{name.replace('_', ' ')} {value:g}" for name, value in grid["options"].items())
    one, count, runs = median(grid["plain"]), grid["cells"], len(grid["plain"])
    return (
        f"`dfnb sweep --only grid`: {count} runs in {grid['ours']:.0f} s, with kernels, kept activations made once, "
        f"figures and saved pages. A plain run in a fresh process takes {one:.1f} s (median of {runs} measured, "
        f"with its base: {settings}); **scaled, not measured**, {count} of them take {one * count:.0f} s."
    )


def _utilisation_verdict(uses: list[dict], peak: float) -> str:
    shares = {
        use["clip"]: use["scoring"]["GFLOP/s"] / peak
        for use in uses
        if "ViT-B/32" in use["clip"]
    }
    bound = "what is no matrix product: norms, activations, softmax, and products too small for the peak"
    return "\n".join(_verdict(f"scoring, {clip}", share, TARGETS["scoring"], "of the peak", bound)
                     for clip, share in shares.items())


def _crops_verdict(one: dict) -> str:
    name = f"pictures of {one['height']} rows" if one["height"] else "the demo world's pictures"
    return "\n".join([
        _verdict(
            f"{name}, speed", one["ratio"], TARGETS["crops"], "times",
            "small pictures are searched whole by both; what is saved is one upsampling"
            if not one["height"] else "decoding, which both do alike"),
        _verdict(
            f"{name}, median IoU of {one['compared']} boxes", one["IoU"], TARGETS["IoU"], "",
            "the steps of the detector's pyramid: it answers in boxes of few sizes, and ours are smoothed over time"
        )
    ])


def _growth(rows: list[dict]) -> str:
    return _table([{
        "frames a video": row["frames"], "crops": row["crops"], "crops, s":
        f"{row['crop_seconds']:.1f}", "prefix and one epoch, s": f"{row['train_seconds']:.1f}",
        "largest memory, MB": f"{row['memory']:.0f}"
    } for row in rows])


def _growth_words(rows: list[dict]) -> str:
    first, last = rows[0], rows[-1]
    time = [row["crop_seconds"] + row["train_seconds"] for row in (first, last)]
    return (
        f"With {last['crops'] / first['crops']:.1f} times the crops it takes {time[1] / time[0]:.1f} times as long and "
        f"{last['memory'] / first['memory']:.2f} times the memory.")


def _start(start: dict) -> str:
    fresh, forked = (median(start[name]) for name in ("fresh", "forked"))
    return (
        f"A notebook that only does chapter 3's imports takes {fresh:.1f} s with a fresh kernel and "
        f"{forked:.1f} s with one forked from a process that has done them (medians of {len(start['fresh'])}): "
        f"{fresh / forked:.1f} times as fast. Sweeps fork.")


def _gpu(rows: list[dict], hardware: str) -> str:
    if not rows:
        return "No GPU at hand: nothing was measured on one."
    return f"{hardware}, bfloat16.\n\n" + _table([
        {"CLIP": row["clip"], "scoring, images/s": f"{row['scoring']['crops/s']:.0f}",
         "training, images/s": f"{row['training']['crops/s']:.0f}"} for row in rows])
