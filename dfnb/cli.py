"""The command `dfnb`. Rooms are imported inside the commands, so that `dfnb --help` answers at once."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Deepfake detection with CLIP: the study's notebooks, their runs, and the report.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)
ProfileName = Annotated[str, typer.Option("--profile", "-P", help="Name of a file in params/, such as demo.")]
WORKERS = "Runs at a time; by default one a core as memory allows, on a GPU one."
THREADS = "Threads a run; by default cores / workers."


@app.command()
def demo(
    dest: Annotated[Path, typer.Argument(help="Folder to write, in the layout of FaceForensics++.")],
    seed: Annotated[int, typer.Option(help="Seed of the world.")] = 2026,
    identities: Annotated[int, typer.Option(help="People, an even number: one real video each.")] = 100,
    frames: Annotated[int, typer.Option(help="Frames a video.")] = 24,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one a core as memory allows.")] = None,
) -> None:
    """Write a corpus of the embedded demo world: real mp4 files, no person exists."""
    from dfnb import UserError
    from dfnb.demo import corpus

    try:
        typer.echo(corpus.make(dest, seed=seed, identities=identities, frames=frames, workers=workers))
    except ValueError as error:  # the demo knows nothing of the study, nor of its errors
        raise UserError(str(error)) from None


@app.command()
def study(
    profile: ProfileName = "demo",
    only: Annotated[list[str] | None, typer.Option(help="Chapter, by name or number; repeatable.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Repeat chapters that are done, one after the other.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help=WORKERS)] = None,
    threads: Annotated[int | None, typer.Option(min=1, help=THREADS)] = None,
) -> None:
    """Run the chapters that are not done, each after the sweeps and chapters that it reads, and build the book."""
    from dfnb.runs import study, sweep

    def before(chapters: list[str]) -> list[str]:
        return sweep.run_chapters(profile, chapters, typer.echo, force=force, workers=workers, threads=threads)

    cores = workers and workers * (threads or 1)
    page = study.run(profile, only, force, progress=typer.echo, before=before, threads=threads, cores=cores)
    if page:
        typer.echo(f"the book is built: {page}")


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(help="A chapter's name or number, such as 03.")],
    profile: ProfileName = "demo",
    given: Annotated[list[str] | None, typer.Option("-p", metavar="NAME VALUE", help="Repeatable.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Repeat it when it is done.")] = False,
) -> None:
    """Run one notebook with parameters of its own; prints the folder of the run."""
    from dfnb import config
    from dfnb.runs import notebooks, study
    from dfnb.runs.parameters import parse

    path, settings = notebooks.find(notebook), config.load(profile)
    typer.echo(study.execute(path, settings, parse(path, given or []), force=force, progress=typer.echo))


@app.command()
def sweep(
    profile: ProfileName = "demo",
    only: Annotated[list[str] | None, typer.Option(help="A sweep's or a notebook's name; repeatable.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help=WORKERS)] = None,
    threads: Annotated[int | None, typer.Option(min=1, help=THREADS)] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a running Dask scheduler.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Repeat what failed before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run, and why.")] = False,
) -> None:
    """Run what is not done of a profile's sweeps: many runs of one notebook, resumable."""
    from dfnb.runs import grid, sweep

    if dry_run:
        rows = grid.table(profile, only)
        for row in rows:
            typer.echo(_line(row, grid.action(row["state"], retry_failed)))
        typer.echo(grid.counts(rows))
        return
    where = {"workers": workers, "threads": threads, "scheduler": scheduler}
    rows = sweep.run(profile, only, **where, retry_failed=retry_failed, progress=typer.echo)
    typer.echo(grid.counts(rows))
    sweep.check_done(rows)


@app.command()
def status(profile: ProfileName = "demo") -> None:
    """Show which chapters and sweeps are missing, running, interrupted, failed, stale or done, and why."""
    from dfnb.runs import grid, study

    for row in study.status(profile):
        seconds = row["seconds"] and f"{row['seconds']} s"
        typer.echo(f"{row['notebook']:<24}{row['state']:<13}{seconds:>8}  {row['why']}".rstrip())
    for name, rows in grid.by_name(profile).items():
        typer.echo(f"sweep {name:<18}{grid.counts(rows)}")
        for row in rows:
            if row["state"] not in ("done", "missing"):
                typer.echo("  " + _line(row))


def _line(row: dict, fate: str = "") -> str:
    """One run of a sweep."""
    return f"{row['run']:<44} {row['state']:<12} {fate:<6}{row['why']}".rstrip()


@app.command()
def book(profile: ProfileName = "demo") -> None:
    """Build the book of a profile whose chapters are all done."""
    from dfnb.runs import book, study

    typer.echo(book.build(profile, study.status(profile)))


@app.command()
def publish(profile: ProfileName = "demo") -> None:
    """Write the demo's executed chapters into book/chapters, which git tracks."""
    from dfnb.runs import book, study

    typer.echo("\n".join(map(str, book.publish(profile, study.status(profile)))))


@app.command()
def corpus(
    root: Annotated[Path, typer.Argument(help="Folder of a corpus, or the CSV file of a manifest.")],
    layout: Annotated[str | None, typer.Option(help="ffpp, ffpp-flat, celeb-df, dfdc or manifest.")] = None,
    compression: Annotated[str | None, typer.Option(help="Look at raw, c23 or c40; by default c23.")] = None,
    lists: Annotated[Path | None, typer.Option(help="Folder of train.json, val.json and test.json.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read the header of every video, count frames.")] = False,
) -> None:
    """Say what is in a corpus, what is missing, and which splits it can take."""
    from dfnb.data import inventory

    typer.echo(inventory.text(inventory.take(root, layout, compression=compression, lists=lists, deep=deep)))


@app.command()
def evaluate(
    scores: Annotated[Path, typer.Argument(help="Table of scores, .csv or .parquet.")],
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("evaluation"),
    other: Annotated[Path | None, typer.Option(help="A second detector's scores, same videos.")] = None,
    score: Annotated[str | None, typer.Option(help="Name of the column with the score of fake.")] = None,
    label: Annotated[str | None, typer.Option(help="Name of the column with the label, 1 is fake.")] = None,
    logits: Annotated[bool, typer.Option("--logits", help="The scores are logits.")] = False,
) -> None:
    """Evaluate scores that any detector wrote: metrics with intervals, and a paired comparison."""
    from dfnb.evaluation import report

    found = report.evaluate(scores, out, other=other, score=score, label=label, logits=logits)
    typer.echo(report.summary(found))


@app.command()
def score(
    videos: Annotated[list[str], typer.Argument(help="Video files, folders, or patterns such as 'clips/*.mp4'.")],
    run: Annotated[Path, typer.Option(help="Folder of a run that saved its detector, or an exported detector.")],
    out: Annotated[Path, typer.Option(help="Folder for scores.csv, scores.json and the pictures.")] = Path("scores"),
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that look for faces.")] = None,
) -> None:
    """Score videos of your own; exit code 1 when one of them could not be scored."""
    from dfnb.predict import videos as predict

    files = predict.find(videos)
    detector = predict.load(run)
    verdicts = predict.score(detector, files, workers=workers)
    predict.write(verdicts, detector.card, out)
    for verdict in verdicts:
        typer.echo(f"{verdict.path}: " + "\n    ".join(verdict.sentences()))
    typer.echo(f"{predict.caveat(detector.card)}\ntables and pictures: {out}")
    if any(verdict.reason for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def export(
    dest: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
    run: Annotated[Path, typer.Option(help="Folder of a finished run that saved its detector.")],
) -> None:
    """Write a run's detector with a model card: it loads with transformers, peft and safetensors alone."""
    from dfnb.predict.export import export as export_detector

    typer.echo(export_detector(run, dest))


@app.command()
def pair() -> None:
    """Make the .ipynb of every changed script in notebooks/ anew, without outputs."""
    from dfnb.runs import notebooks

    typer.echo("\n".join(notebooks.pair()) or "all pairs are equal")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code: 2 and a sentence for what the user can fix, 130 for Ctrl-C."""
    from dfnb import UserError

    try:
        app(_joined(sys.argv[1:] if arguments is None else arguments), prog_name="dfnb")
    except UserError as error:
        typer.echo(f"dfnb: {error}", err=True)
        return getattr(error, "exit_code", 2)
    except SystemExit as end:
        if end.code == 130:
            typer.echo("interrupted; run the same command again to go on", err=True)
        return end.code or 0
    return 0


def _joined(arguments: list[str]) -> list[str]:
    """Write papermill's `-p rank 16` as `-p rank=16`: typer knows no option with two values that repeats."""
    joined: list[str] = []
    for word in arguments:
        if joined[-2:-1] == ["-p"] and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


if __name__ == "__main__":
    sys.exit(main())
