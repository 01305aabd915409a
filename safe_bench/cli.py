"""``safe-bench``: list the protocols, run them, report on them."""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from safe_bench.protocols import PROTOCOLS, Method, Protocol, protocols_called, run_config
from safe_bench.runs import RunError, finished_summaries

DEFAULT_OUT = "runs"
PROTOCOL_HELP = "a name from `safe-bench list`, or what several begin with, such as safe-transfer/point: one by one"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status (0: all well, 1: something failed, 2: bad arguments, 130: interrupted)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    console = Console()
    try:
        return int(options.command(options, console))
    except (ValueError, RunError, OSError) as error:
        print(f"safe-bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("safe-bench: interrupted; the same command goes on from each run's last checkpoint", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="safe-bench", description="The papers' experiments as resumable commands.")
    parser.add_argument("--version", action="version", version=f"sb3-safe {importlib.metadata.version('sb3-safe')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="what there is to run")
    listing.set_defaults(command=_list)

    run = commands.add_parser("run", help="run a protocol, or go on with it")
    run.add_argument("protocol", help=PROTOCOL_HELP)
    run.add_argument(
        "--preset", default="quick", help="how much: quick, paper, or another of the protocol's (default: quick)"
    )
    run.add_argument(
        "--methods", nargs="+", metavar="METHOD", help="default: the paper's comparison; `all` adds ablations"
    )
    run.add_argument("--seeds", nargs="+", type=int, metavar="N", help="default: the preset's")
    run.add_argument("--jobs", type=int, default=1, metavar="N", help="runs side by side, one core each (default: 1)")
    run.add_argument("--out", default=DEFAULT_OUT, help=f"folder for the results (default: {DEFAULT_OUT})")
    run.set_defaults(command=_run)

    record = commands.add_parser("record", help="the data that a protocol's agents learn from, without the agents")
    record.add_argument("protocol", help=PROTOCOL_HELP)
    record.add_argument("--preset", default="quick", help="how much (default: quick)")
    record.add_argument("--seeds", nargs="+", type=int, metavar="N", help="default: the preset's")
    record.add_argument("--jobs", type=int, default=1, metavar="N", help="recordings side by side (default: 1)")
    record.add_argument("--out", default=DEFAULT_OUT, help=f"where `run` will look for them (default: {DEFAULT_OUT})")
    record.add_argument("--minari", metavar="PREFIX", help="store as Minari data sets, PREFIX/seed0-train-0-v0 ...")
    record.set_defaults(command=_record)

    report = commands.add_parser("report", help="tables, plots and a page from finished runs")
    report.add_argument("protocol", help=PROTOCOL_HELP)
    report.add_argument("--out", default=DEFAULT_OUT, help=f"folder that `run` wrote to (default: {DEFAULT_OUT})")
    report.add_argument("--to", help="folder for the report (default: inside --out)")
    report.set_defaults(command=_report)
    return parser


def _list(options: argparse.Namespace, console: Console) -> int:
    for protocol in PROTOCOLS.values():
        of_group = {
            group: ", ".join(_described(key, each) for key, each in protocol.methods.items() if each.group == group)
            for group in ("comparison", "ablation")
        }
        table = Table(title=f"[bold]{protocol.name}[/bold]", title_justify="left", show_header=False, box=None)
        table.add_row("paper", protocol.paper)
        table.add_row("claim", protocol.claim)
        for group, methods in of_group.items():
            if methods:
                table.add_row(f"{group}s" if group == "ablation" else "methods", methods)
        for name, budget in protocol.presets.items():
            table.add_row(f"--preset {name}", f"{budget.amount} of training, seeds: {len(budget.seeds)}")
        console.print(table, "")
    return 0


def _described(name: str, method: Method) -> str:
    """A method with the class that it is, as in ``lr (SACLag)``."""
    penalty = " with CostPenalty" if method.reward_penalty else ""
    return f"{name} ({method.algorithm or 'a controller'}{penalty})"


def _run(options: argparse.Namespace, console: Console) -> int:
    todo = _methods(protocols_called(options.protocol), options.methods)
    for protocol, _ in todo:  # a mistyped preset shows before the first run
        protocol.budget(options.preset)
    for protocol, methods in todo:
        status = _run_protocol(protocol, methods, options, console)
        if status:
            return status
    return 0


def _run_protocol(protocol: Protocol, methods: tuple[str, ...], options: argparse.Namespace, console: Console) -> int:
    budget, seeds = protocol.budget(options.preset), _seeds(protocol, options)

    from safe_bench.recordings import recordings  # what is not needed for `list` or a mistyped name
    from safe_bench.runner import Job

    # Seed by seed, so that an interrupted protocol has whole comparisons rather than whole methods.
    jobs = [Job(protocol.name, options.preset, method, seed, options.out) for seed in seeds for method in methods]
    for job in jobs:
        job.folder.check(run_config(protocol, job.preset, job.method, job.seed))
    todo = [job for job in jobs if not job.folder.finished]
    console.print(
        f"{protocol.title}: {len(todo)} of {len(jobs)} runs to do (preset {options.preset}, into {options.out})"
    )
    learning = {job.seed for job in todo if protocol.method(job.method).offline}
    needed = [each for seed in learning for each in recordings(budget, seed, options.out).values() if each.missing]
    data = list({each.file: each for each in needed}.values())
    return _execute(data, options, console) or _execute(todo, options, console)  # all runs learn from the data


def _seeds(protocol: Protocol, options: argparse.Namespace) -> list[int]:
    seeds = protocol.budget(options.preset).seeds if options.seeds is None else options.seeds
    if options.jobs < 1 or min(seeds) < 0:
        raise ValueError(f"--jobs must be >= 1 and --seeds >= 0, got {options.jobs} and {list(seeds)}")
    return list(dict.fromkeys(seeds))


def _execute(jobs: Sequence[Any], options: argparse.Namespace, console: Console) -> int:
    """Run jobs side by side; returns 1 if one failed, after saying why."""
    from safe_bench.pool import run_jobs

    outcomes = run_jobs(jobs, options.jobs, console) if jobs else []
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in failed:
        print(f"safe-bench: {outcome.job.label} failed: {outcome.error}", file=sys.stderr)
    if traced := [f"{outcome.job.label}:\n{outcome.trace}\n" for outcome in failed if outcome.trace]:
        log = Path(options.out) / "failures.log"
        with log.open("a") as file:
            file.writelines(traced)
        print(f"safe-bench: where, is in {log}", file=sys.stderr)
    return 1 if failed else 0


def _record(options: argparse.Namespace, console: Console) -> int:
    protocols = [each for each in protocols_called(options.protocol) if each.budget(options.preset).transfer]
    if not protocols:
        raise ValueError(f"no agent of {options.protocol} learns from recorded data: `run` is all that there is to do")

    from safe_bench.recordings import recordings
    from safe_envs import to_minari

    for protocol in protocols:
        budget, seeds = protocol.budget(options.preset), _seeds(protocol, options)
        found = {
            f"seed{seed}-{name}": each for seed in seeds for name, each in recordings(budget, seed, options.out).items()
        }
        missing = list({each.file: each for each in found.values() if each.missing}.values())
        if status := _execute(missing, options, console):
            return status
        table = Table(title=f"{protocol.title} (preset {options.preset})", title_justify="left")
        for column in ("data", "environment", "transitions", "violations"):
            table.add_column(column)
        for name, each in found.items():
            data = each.load()
            task = ", ".join(f"{key}={value}" for key, value in each.task.items())
            task = re.sub(r"\d+\.\d{4,}", lambda number: f"{float(number[0]):.3f}", task)
            table.add_row(name, task, f"{len(data):,}", f"{data.n_violations:,}")
            if options.minari:
                to_minari(data, f"{options.minari}/{name}-v0", algorithm=each.source, env_kwargs=each.env_kwargs)
        console.print(table)
    return 0


def _methods(protocols: Sequence[Protocol], names: Sequence[str] | None) -> list[tuple[Protocol, tuple[str, ...]]]:
    """What to run of each protocol of a group; a method that only some of them have is run there."""
    if names is None:
        return [(protocol, protocol.default_methods) for protocol in protocols]
    if "all" in names:
        return [(protocol, tuple(protocol.methods)) for protocol in protocols]
    for name in names:
        if not any(name in protocol.methods for protocol in protocols):
            protocols[-1].method(name)
    chosen = [tuple(name for name in dict.fromkeys(names) if name in protocol.methods) for protocol in protocols]
    return [(protocol, methods) for protocol, methods in zip(protocols, chosen, strict=True) if methods]


def _report(options: argparse.Namespace, console: Console) -> int:
    protocols = protocols_called(options.protocol)

    from safe_bench.report import summary_table, write_report

    with_runs = [protocol for protocol in protocols if finished_summaries(options.out, protocol.name)]
    for protocol in with_runs or protocols:
        to = None if options.to is None else Path(options.to, protocol.name if len(protocols) > 1 else "")
        folder = write_report(options.out, protocol.name, to)
        console.print(summary_table(options.out, protocol.name))
        console.print(f"report: {folder / 'report.html'} and {folder / 'report.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
