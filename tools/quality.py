"""What each pooling does, measured: in a small network for handwritten digits, and on photographs.

    tools/quality                     every pooling, ten seeds: the tables, and out/quality/quality.json
    tools/quality --seeds 2           seeds 0 and 1 alone
    tools/quality --docs              and writes docs/which-pooling.json, its pictures, and the tables of the page

Every network that is trained is written at once, as a line of out/quality/networks-DATA-EPOCHS.jsonl, and not trained
again by the next call: a run that was stopped goes on, and --from 5 may run in a second process. ``--fresh`` forgets
them, and the photographs. What is measured: tools/quality_network.py and tools/quality_pictures.py; a further method is
a line in ``POOLINGS`` there.
"""

import argparse
import datetime
import json
import platform
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import quality_network as network
import quality_page as report
import quality_pictures as pictures
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

OUT = Path("out/quality")
PAGE = Path("docs/which-pooling.md")
FACTS = PAGE.with_suffix(".json")
PICTURES = PAGE.with_suffix("")

Runs = dict[tuple[str, int], dict[str, float]]
"""What was measured, by row and seed."""


def whole_lines(path: Path) -> list[str]:
    """Without the last, if its end is missing."""
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []


def known(path: Path) -> Runs:
    """What a file holds."""
    found = [json.loads(line) for line in whole_lines(path)]
    return {(one["row"], one["seed"]): one["found"] for one in found}


def train_all(rows: list[str], seeds: range, epochs: int, data: str, path: Path) -> Runs:
    """Each row for the first seed, then for the next: what has no line in ``path`` yet is trained and written there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in whole_lines(path)), encoding="utf-8")  # a killed run may leave half
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
    return {(row, seed): done[row, seed] for row, seed in done if row in rows}


def photographs_measured(path: Path) -> dict[str, dict[str, list[float]]]:
    """What was measured before, if it was."""
    if not path.exists():
        path.write_text(json.dumps(pictures.photographs_measured()), encoding="utf-8")
    found: dict[str, dict[str, list[float]]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def collected(done: Runs, rows: list[str], epochs: int, data: str) -> dict[str, Any]:
    """All that the page tells: networks of the seeds of which every row is there, and photographs."""
    seeds = sorted({seed for _, seed in done if all((row, seed) in done for row in rows)})
    if not seeds:
        sys.exit("no seed has all rows yet: run tools/quality to its end")
    values = {
        row: {name: [round(done[row, seed][name], 3) for seed in seeds] for name in network.MEASURES} for row in rows
    }
    photographs = {
        row: {name: [round(value, 3) for value in found[name]] for name in pictures.MEASURES}
        for row, found in photographs_measured(OUT / "photographs.json").items()
    }
    times = {row: [done[row, seed]["seconds"] for seed in seeds] for row in rows}
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "data": data,
        "epochs": epochs,
        "seeds": seeds,
        "total": round(sum(done[row, seed]["in_all"] for row in rows for seed in seeds)),
        "parameters": {row: network.parameters(row) for row in rows},
        "seconds": {row: round(float(np.median(times[row])), 2) for row in rows},
        "networks": values,
        "photographs": photographs,
    }


def as_json(facts: dict[str, Any]) -> str:
    """With each list of values in a line of its own."""
    text = json.dumps(facts, indent=1)
    return re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found.group().split()), text) + "\n"


def written(page: str, parts: dict[str, str]) -> str:
    """The page with these parts between their marks."""
    for name, text in parts.items():
        mark = f"<!-- tools/quality {name} -->"
        before, found, rest = page.partition(mark)
        if not found:
            sys.exit(f"{PAGE} has no mark {mark}")
        page = f"{before}{mark}\n\n{text}\n\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return page


def write_docs(facts: dict[str, Any]) -> None:
    """The page's numbers, tables and pictures."""
    FACTS.write_text(as_json(facts), encoding="utf-8")
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), report.tables(facts)), encoding="utf-8")
    PICTURES.mkdir(exist_ok=True)
    for name, text in report.drawings(facts).items():
        (PICTURES / name).write_text(text, encoding="utf-8")
    pictures.picture().save(PICTURES / "photograph.png", optimize=True)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = [*network.POOLINGS, *list(network.HEADS)[1:]]
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="how many (10)")
    parser.add_argument("--from", type=int, default=0, metavar="SEED", dest="first", help="the first of them (0)")
    parser.add_argument("--epochs", type=int, default=8, metavar="N", help="of 1000 digits (8)")
    parser.add_argument("--data", choices=("mnist", "digits"), default="mnist", help="5000 of MNIST, or scikit-learn's")
    parser.add_argument("--only", nargs="*", default=rows, choices=rows, metavar="ROW", help="of the table")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--docs", action="store_true", help=f"write {FACTS}, {PAGE} and its pictures")
    given = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [row for row in rows if row in given.only or row == report.NETWORK]  # others are held against it
    path = OUT / f"networks-{given.data}-{given.epochs}.jsonl"
    if given.fresh:
        path.unlink(missing_ok=True)
        (OUT / "photographs.json").unlink(missing_ok=True)
    done = train_all(chosen, range(given.first, given.first + given.seeds), given.epochs, given.data, path)
    facts = collected(done, chosen, given.epochs, given.data)
    (OUT / "quality.json").write_text(as_json(facts), encoding="utf-8")
    print("\n\n".join(report.tables(facts).values()))
    if given.docs:
        write_docs(facts)


if __name__ == "__main__":
    main()
