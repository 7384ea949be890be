"""Stochastic, mixed and gated pooling against maximum and average: errors in training and test.

Zeiler's network in small: three times a convolution of 5x5, ReLU, pooling of 3x3 with stride 2; then one linear layer.
Digits of 14x14, 200 to train on, other ones for each seed, and 1000 to test on. Only the pooling differs. The error in
training is counted twice: while poolings draw, as a network sees its pictures in training, and in evaluation.

The number of epochs was chosen by the error in training alone, of two seeds that are not measured (100 and 101): after
40 maximum pooling had none and average pooling 4.5 and 6.5 per cent, after 80 average pooling had none either.
"""

from collections.abc import Callable

import torch
from claims_data import Claim, Digits, Interval, Measured, Verdict, mnist, train, wrong

from onnxpool import nn

GROUP = "training"
WIDTH = 12
SEEN = 200
EPOCHS = 80

POOLINGS: dict[str, Callable[[], torch.nn.Module]] = {
    "max": lambda: nn.MaxPool2d(3, 2, 1),
    "average": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "stochastic": lambda: nn.StochasticPool2d(3, 2, 1),
    "mixed at random": lambda: nn.MixedPool2d(3, 2, 1),
    "learned mix": lambda: nn.LearnedMixedPool2d(3, 2, 1),
    "gated": lambda: nn.GatedPool2d(3, 2, 1),
}


def network(pooling: str, side: int, seed: int) -> torch.nn.Sequential:
    """``(N, 1, side, side) -> (N, 10)``; the convolutions of a seed are the same for all poolings."""
    torch.manual_seed(seed)
    convolutions = [torch.nn.Conv2d(channels, WIDTH, 5, padding=2) for channels in (1, WIDTH, WIDTH)]
    for _ in convolutions:
        side = (side + 1) // 2
    last = torch.nn.Linear(WIDTH * side * side, 10)
    layers = [layer for conv in convolutions for layer in (conv, torch.nn.ReLU(), POOLINGS[pooling]())]
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), last)


def errors(pooling: str, data: Digits, seed: int, epochs: int) -> dict[str, float]:
    """In per cent: in training while drawing, in training, in test."""
    trained = network(pooling, data.images.shape[-1], seed)
    train(trained, data, seed, epochs, batch=25, most=8e-3)
    seen, test = wrong(trained, data.images, data.labels), wrong(trained, data.test_images, data.test_labels)
    return {"drawing": wrong(trained.train(), data.images, data.labels), "train": seen, "test": test}


def _measured(pooling: str, seeds: int) -> Measured:
    found: Measured = {}
    for seed in range(seeds):
        for name, value in errors(pooling, mnist(14).drawn(seed, SEEN), seed, EPOCHS).items():
            found.setdefault(f"{pooling} {name}", []).append(value)
    return found


def parts() -> dict[str, Callable[[int], Measured]]:
    """One for each pooling."""
    return {pooling: lambda seeds, pooling=pooling: _measured(pooling, seeds) for pooling in POOLINGS}


# --- what follows


def stochastic(found: Measured) -> Claim:
    """Zeiler and Fergus."""
    drawing, most = (Interval.of(found[name]) for name in ("stochastic drawing", "max train"))
    better = Interval.between(found["stochastic test"], found["max test"])
    average = Interval.of(found["average train"])
    stays = drawing.above_zero and most.mean < drawing.mean / 10
    verdict: Verdict = "not reproduced"
    why = "the error in training falls as with the maximum" + (", though the test gains" if better.below_zero else "")
    if stays and better.below_zero:
        verdict, why = "in kind, not in size", "other pictures and a smaller network, so that figures cannot be equal"
    elif stays:
        why = "the error in training stays, but the test does not gain"
    return Claim(
        name="Stochastic pooling",
        paper="Zeiler, Fergus, ICLR 2013",
        where="table 1, CIFAR-10",
        says="stochastic pooling keeps an error in training where the maximum has none, and is better in test",
        theirs="training: 3.40 %, max 0.0 %, average 1.92 %; test: 15.13 %, max 19.40 %, average 19.24 % †",
        ours=f"training, while it draws: {drawing.text(2)} %, max {most.text(2)} %, average {average.text(2)} %; "
        f"in evaluation {Interval.of(found['stochastic train']).text(2)} %; "
        + _tests(found, ("stochastic", "max", "average")),
        distance=f"test, against max: {better.signed()} points, paper −4.3",
        verdict=verdict,
        why=why,
    )


def generalized(found: Measured) -> Claim:
    """Lee, Gallagher, Tu; and Yu's mixed pooling."""
    gaps = {}
    for name, kind in (("max", "train"), ("mixed at random", "drawing"), ("learned mix", "train"), ("gated", "train")):
        gaps[name] = [test - seen for test, seen in zip(found[f"{name} test"], found[f"{name} {kind}"], strict=True)]
    closes = {name: Interval.between(gaps[name], gaps["max"]) for name in gaps if name != "max"}
    better = {name: Interval.between(found[f"{name} test"], found["max test"]) for name in closes}
    held = [name for name in closes if closes[name].below_zero and better[name].below_zero]
    verdict: Verdict = "in kind, not in size" if len(held) == len(closes) else "not reproduced"
    others = ", ".join(name for name in closes if name not in held)
    return Claim(
        name="Mixed and gated pooling",
        paper="Lee, Gallagher, Tu, AISTATS 2016; Yu et al., RSKT 2014",
        where="table 1, CIFAR-10",
        says="mixed and gated pooling generalise better than the maximum",
        theirs="test: gated 7.90 %, mixed 8.09 %, max 9.10 % †",
        ours=_tests(found, ("max", *closes))
        + "; test less training, max: "
        + Interval.of(gaps["max"]).text()
        + ", against it: "
        + ", ".join(f"{name} {value.signed()}" for name, value in closes.items()),
        distance=f"test, gated against max: {better['gated'].signed()} points, paper −1.2",
        verdict=verdict,
        why="other pictures and a smaller network" if not others else f"no gain that the interval shows: {others}",
    )


def _tests(found: Measured, names: tuple[str, ...]) -> str:
    return "test: " + ", ".join(f"{name} {Interval.of(found[f'{name} test']).text()} %" for name in names)


CLAIMS = (stochastic, generalized)
