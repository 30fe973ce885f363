"""Run benchmarks and write their records.

python benchmarks/run.py
python benchmarks/run.py infonce data
python benchmarks/run.py infonce --threads 1
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import time

from harness import REPEATS, Result, Settings, write_record
from table import format_figure

ALL = (
    "startup",
    "ranking",
    "captions",
    "rows",
    "presence",
    "data",
    "video",
    "clip_step",
    "matrix_rate",
    "infonce",
    "look_m",
    "tokenizing",
    "masked_step",
    "decoding",
    "searching",
    "indexing",
    "serving",
)
APART = ("late_fusion",)  # in an environment of its own: `make bench-autogluon`


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}; all if none"
    )
    parser.add_argument("--threads", type=int, default=2, help="of each process that computes")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    asked = parser.parse_args()
    for name in asked.names:
        if name not in (*ALL, *APART):
            known = ", ".join((*ALL, *APART))
            parser.error(f"there is no benchmark '{name}'; expected some of {known}")
    settings = Settings(asked.threads, asked.repeats)
    # Before torch is imported, here and in the processes that are started from here.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(settings.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    names = asked.names or ALL
    if len(names) == 1:
        run(names[0], settings)
        return
    # What one benchmark leaves in memory should not meet the next.
    options = ["--threads", str(settings.threads), "--repeats", str(settings.repeats)]
    failed = [
        name
        for name in names
        if subprocess.run([sys.executable, __file__, name, *options], check=False).returncode
    ]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def run(name: str, settings: Settings) -> None:
    """One benchmark."""
    module = importlib.import_module(name)
    title = module.__doc__.splitlines()[0]
    print(f"\n{name}: {title}", flush=True)
    begin = time.perf_counter()
    result: Result = module.measure(settings)
    write_record(name, title, result, settings, time.perf_counter() - begin)
    for figure in result.figures:
        print("  " + format_figure(figure.record()), flush=True)
    for reason in result.skipped:
        print(f"  skipped: {reason}", flush=True)


if __name__ == "__main__":
    main()
