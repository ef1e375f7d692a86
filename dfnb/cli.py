"""The command `dfnb`. Commands import what they need, so that `dfnb --help` answers at once."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Detect deepfakes with CLIP: run the study's notebooks and build the report.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    rich_markup_mode=None)
Profile = Annotated[str, typer.Option("--profile", "-P", help="Name of a file in params/.")]
Workers = Annotated[int | None, typer.Option(
    min=1, help="Parallel processes; by default one per core as memory allows, on a GPU one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads per run: cores / workers.")]
Force = Annotated[bool, typer.Option("--force", help="Repeat what is done, one by one.")]


@app.command()
def demo(
    dest: Annotated[Path, typer.Argument(help="Folder to write, laid out as FaceForensics++.")],
    seed: Annotated[int, typer.Option(help="Seed of the world.")] = 2026,
    identities: Annotated[int, typer.Option(help="Even number of people; each has a real.")] = 100,
    frames: Annotated[int, typer.Option(help="Frames per video.")] = 24,
    workers: Workers = None,
) -> None:
    """Write a corpus of the embedded demo world: mp4 files of people who do not exist."""
    from dfnb import UserError
    from dfnb.demo import corpus

    try:
        typer.echo(corpus.make(dest, seed=seed, identities=identities, frames=frames,
                               workers=workers))
    except ValueError as error:  # the demo does not know UserError
        raise UserError(str(error)) from None


@app.command()
def study(
    profile: Profile = "demo",
    only: Annotated[list[str] | None, typer.Option(help="A chapter; repeatable.")] = None,
    force: Force = False, workers: Workers = None, threads: Threads = None,
) -> None:
    """Run the chapters that are not done, and what they read, and build the book."""
    from dfnb.runs import study, sweep

    def before(chapters: list[str]) -> list[str]:
        return sweep.run_chapters(profile, chapters, typer.echo, force=force, workers=workers,
                                  threads=threads)

    cores = workers and workers * (threads or 1)
    page = study.run(profile, only, force, progress=typer.echo, before=before, threads=threads,
                     cores=cores)
    if page:
        typer.echo(f"the book is built: {page}")


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(help="Name or number of a chapter, such as 03.")],
    profile: Profile = "demo",
    given: Annotated[list[str] | None, typer.Option(
        "-p", metavar="NAME VALUE", help="A parameter; repeatable.")] = None,
    force: Force = False,
) -> None:
    """Run one notebook with given parameters and print the folder of the run."""
    from dfnb import config
    from dfnb.runs import notebooks, study
    from dfnb.runs.parameters import parse

    path, settings = notebooks.find(notebook), config.load(profile)
    parameters = parse(path, given or [])
    typer.echo(study.execute(path, settings, parameters, force=force, progress=typer.echo))


@app.command()
def sweep(
    profile: Profile = "demo",
    only: Annotated[list[str] | None, typer.Option(help="A sweep or notebook; repeatable.")] = None,
    workers: Workers = None, threads: Threads = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Repeat failures.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would run.")] = False,
) -> None:
    """Run what is not done of a profile's sweeps, which can be interrupted and resumed."""
    from dfnb.runs import grid, sweep

    if dry_run:
        rows = grid.table(profile, only)
        for row in rows:
            typer.echo(_line(row, grid.action(row["state"], retry_failed)))
        typer.echo(grid.counts(rows))
        return
    rows = sweep.run(profile, only, workers=workers, threads=threads, scheduler=scheduler,
                     retry_failed=retry_failed, progress=typer.echo)
    typer.echo(grid.counts(rows))
    sweep.check_done(rows)


@app.command()
def status(profile: Profile = "demo") -> None:
    """Show the state of each chapter and sweep, and why one is not done."""
    from dfnb.runs import grid, study

    for row in study.status(profile):
        seconds = row["seconds"] and f"{row['seconds']} s"
        typer.echo(f"{row['notebook']:<24}{row['state']:<13}{seconds:>8}  {row['why']}".rstrip())
    for name, rows in grid.by_name(profile).items():
        typer.echo(f"sweep {name:<18}{grid.counts(rows)}")
        for row in rows:
            if row["state"] not in ("done", "missing"):
                typer.echo("  " + _line(row))


def _line(row: dict, action: str = "") -> str:
    """Return one run of a sweep as a line of text."""
    return f"{row['run']:<44} {row['state']:<12} {action:<6}{row['why']}".rstrip()


@app.command()
def book(profile: Profile = "demo") -> None:
    """Build the book of a profile whose chapters are all done."""
    from dfnb.runs import book, study

    typer.echo(book.build(profile, study.status(profile)))


@app.command()
def publish(profile: Profile = "demo") -> None:
    """Write the demo's executed chapters into book/chapters, which git tracks."""
    from dfnb.runs import book, study

    typer.echo("\n".join(map(str, book.publish(profile, study.status(profile)))))


@app.command()
def corpus(
    root: Annotated[Path, typer.Argument(help="Folder of a corpus, or CSV file of a manifest.")],
    layout: Annotated[str | None, typer.Option(
        help="ffpp, ffpp-flat, celeb-df, dfdc or manifest.")] = None,
    compression: Annotated[str | None, typer.Option(help="raw, c23 (default) or c40.")] = None,
    lists: Annotated[Path | None, typer.Option(help="Folder of the official lists.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every header, count frames.")] = False,
) -> None:
    """Print what is in a corpus, what is missing, and which splits it supports."""
    from dfnb.data import inventory

    contents = inventory.take(root, layout, compression=compression, lists=lists, deep=deep)
    typer.echo(inventory.text(contents))


@app.command()
def evaluate(
    scores: Annotated[Path, typer.Argument(help="Table of scores, .csv or .parquet.")],
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("evaluation"),
    other: Annotated[Path | None, typer.Option(help="Scores of a second detector.")] = None,
    score: Annotated[str | None, typer.Option(help="Column with the score of fake.")] = None,
    label: Annotated[str | None, typer.Option(help="Column with the label; 1 is fake.")] = None,
    logits: Annotated[bool, typer.Option("--logits", help="The scores are logits.")] = False,
) -> None:
    """Evaluate any detector's scores: metrics with intervals, and a paired comparison."""
    from dfnb.evaluation import report

    result = report.evaluate(scores, out, other=other, score=score, label=label, logits=logits)
    typer.echo(report.summary(result))


@app.command()
def score(
    videos: Annotated[list[str], typer.Argument(help="Video files, folders or patterns.")],
    run: Annotated[Path, typer.Option(help="Folder of a run with a detector, or of an export.")],
    out: Annotated[Path, typer.Option(help="Folder for tables and pictures.")] = Path("scores"),
    workers: Workers = None,
) -> None:
    """Score your own videos; the exit code is 1 when one of them could not be scored."""
    from dfnb.predict import videos as predict

    files = predict.find(videos)
    detector = predict.load(run)
    verdicts = predict.score(detector, files, workers=workers)
    predict.write(verdicts, detector.metadata, out)
    for verdict in verdicts:
        typer.echo(f"{verdict.path}: " + "\n    ".join(verdict.sentences()))
    typer.echo(f"{predict.caveat(detector.metadata)}\ntables and pictures: {out}")
    if any(verdict.reason for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def export(
    dest: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
    run: Annotated[Path, typer.Option(help="Folder of a finished run that saved its detector.")],
) -> None:
    """Write a detector with a model card; transformers, peft and safetensors can load it."""
    from dfnb.predict.export import export as export_detector

    typer.echo(export_detector(run, dest))


@app.command()
def pair() -> None:
    """Write the .ipynb of every changed script in notebooks/, without outputs."""
    from dfnb.runs import notebooks

    typer.echo("\n".join(notebooks.pair()) or "all pairs are equal")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code: 2 and a sentence for a UserError, 130 for Ctrl-C."""
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
    """Rewrite papermill's `-p rank 16` as `-p rank=16`; typer cannot repeat two-valued options."""
    joined: list[str] = []
    for word in arguments:
        if joined[-2:-1] == ["-p"] and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


if __name__ == "__main__":
    sys.exit(main())
