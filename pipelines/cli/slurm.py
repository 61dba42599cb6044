"""``vadx slurm-script``."""

from __future__ import annotations

import sys

import rich_click as click


@click.command("slurm-script", context_settings={"show_default": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option("--parts", type=click.IntRange(1, 10_000), default=1, help="Tasks of a job array, each with its part.")
@click.option("--time", default="24:00:00", help="Of a task. What is not done then is requeued.")
@click.option("--gpus", type=click.IntRange(min=0), default=1, help="Of a task.")
@click.option("--cpus", type=click.IntRange(min=1), default=8, help="Of a task: all but one decode.")
@click.option("--memory", help="Of a task, as sbatch takes it: 32G.")
@click.option("--partition", "-p", help="SLURM's.")
@click.option("--account", "-A", help="SLURM's.")
@click.option("--name", default="vadx", help="Of the job, and of its log.")
@click.option("--directive", "directives", multiple=True, help="Another option of sbatch, as --directive=--nice=100.")
def slurm_script(
    words: tuple[str, ...],
    parts: int,
    time: str,
    gpus: int,
    cpus: int,
    memory: str | None,
    partition: str | None,
    account: str | None,
    name: str,
    directives: tuple[str, ...],
) -> int:
    """Print a batch script for SLURM, which requeues itself until everything is done.

    \b
    vadx slurm-script --parts 16 --time 4:00:00 -- extract --backbone i3d videos/ > i3d.sbatch
    sbatch i3d.sbatch
    """
    from ..slurm_script import SlurmJob
    from ..slurm_script import slurm_script as make

    job = SlurmJob(
        name=name,
        parts=parts,
        time=time,
        gpus=gpus,
        cpus=cpus,
        memory=memory,
        partition=partition,
        account=account,
        directives=directives,
    )
    click.echo(make([sys.executable, "-m", "vadx"], words, job), nl=False)
    return 0
