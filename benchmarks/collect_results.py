"""Copies the small files of finished runs, as results/ keeps them: no models, no checkpoints, no GIFs.

    python benchmarks/collect_results.py runs results
    safe-bench report recovery-rl/navigation1 --out results --to /tmp/report     # the report works on them

The data of pictures are kept for the first seed of each method only. Copying results/ back into a folder that
``safe-bench run --out`` is then given makes it go on with what is missing.
"""

import argparse
import shutil
from pathlib import Path

KEEP = (
    "config.json", "diagnostics.csv", "episodes.csv", "evaluation.json", "evaluations.csv", "offline_data.json",
    "stages.json", "origin.json", "summary.json",
)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("results", type=Path)
    args = parser.parse_args()
    finished = sorted(path.parent for path in args.runs.glob("**/seed-*/summary.json"))
    for folder in finished:
        target = args.results / folder.relative_to(args.runs)
        target.mkdir(parents=True, exist_ok=True)
        first = folder == min(folder.parent.glob("seed-*"), key=lambda path: int(path.name.removeprefix("seed-")))
        for name in (*KEEP, *(["figures.json"] if first else [])):
            if (folder / name).exists():
                shutil.copyfile(folder / name, target / name)
    size = sum(path.stat().st_size for path in args.results.glob("**/*") if path.is_file())
    print(f"{len(finished)} finished runs; {args.results} now holds {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
