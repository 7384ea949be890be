"""What each pooling does, measured: in a small network for handwritten digits, and on photographs.

    tools/quality                     every pooling, ten seeds: the tables, and out/quality/quality.json
    tools/quality --seeds 2           seeds 0 and 1 alone
    tools/quality --docs              and writes docs/which-pooling.json, its pictures, and the tables of the page

Every network that is trained is written at once, as a line of out/quality/networks-DATA-EPOCHS.jsonl, and not trained
again by the next call: a run that was stopped goes on, and --from 5 may run in a second process. ``--fresh`` forgets
them. What is measured: tools/quality_network.py and tools/quality_pictures.py. Further methods are a line in
``POOLINGS`` there.
"""

import argparse
import datetime
import json
import platform
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

import quality_network as network

OUT = Path("out/quality")

Runs = dict[tuple[str, int], dict[str, float]]
"""What was measured, by row and seed."""


def known(path: Path) -> Runs:
    """The whole lines of a file: what a killed run left, too."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    found = [json.loads(line) for line in lines]
    return {(one["row"], one["seed"]): one["found"] for one in found}


def train_all(rows: list[str], seeds: range, epochs: int, data: str, path: Path) -> Runs:
    """Each row for the first seed, then for the next: what has no line in ``path`` yet is trained and written there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = [(row, seed) for seed in seeds for row in rows]
    columns = (*Progress.get_default_columns()[:3], MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("training", total=len(wanted))
        for row, seed in wanted:
            progress.update(task, description=f"{row}, seed {seed}")
            if (row, seed) not in known(path):  # read anew: a second process may have written it
                found = network.run(row, network.digits(seed, data), seed, epochs)
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"row": row, "seed": seed, "found": found}) + "\n")
            progress.advance(task)
    done = known(path)
    return {place: done[place] for place in wanted}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = [*network.POOLINGS, *list(network.HEADS)[1:]]
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="how many (10)")
    parser.add_argument("--from", type=int, default=0, metavar="SEED", dest="first", help="the first of them (0)")
    parser.add_argument("--epochs", type=int, default=8, metavar="N", help="of 1000 digits (8)")
    parser.add_argument("--data", choices=("mnist", "digits"), default="mnist", help="5000 of MNIST, or scikit-learn's")
    parser.add_argument("--only", nargs="*", default=rows, choices=rows, metavar="ROW", help="of the table")
    parser.add_argument("--fresh", action="store_true", help="forget networks that were trained before")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = OUT / f"networks-{given.data}-{given.epochs}.jsonl"
    if given.fresh:
        path.unlink(missing_ok=True)
    train_all(given.only, range(given.first, given.first + given.seeds), given.epochs, given.data, path)


if __name__ == "__main__":
    main()
