"""SoftPool's and adaPool's likeness to the original, and the detail that DPID and DPP keep, on photographs.

Parts of 120x120 of scikit-learn's two photographs, in colour. Likeness is SSIM (Wang et al. 2004: gaussian windows of
11x11, grey) between the part and its pooled picture, which is made large again by repeating values or by bicubic
interpolation; or between the pooled picture and every second pixel. Detail is the size of slopes at the strongest 5 %
of edges of the part, after it was made smaller by 4, in units of those that means of 4x4 have. A star is one bright
pixel on black: how much of it is left, least of all 16 places that it may have in its window.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from claims_data import Claim, Interval, Measured, crops
from PIL import Image
from scipy.ndimage import gaussian_filter

from onnxpool import nn

GROUP = "pictures"
SIDE = 120
SMALLER = 4

Pool = Callable[[torch.Tensor], torch.Tensor]


def poolings(k: int) -> dict[str, Pool]:
    """Of windows of k x k; pictures are in 0 to 1. SoftPool sees 0 to 255 in its second row, as pictures have it."""
    soft = nn.SoftPool2d(k)
    return {
        "average": nn.AvgPool2d(k),
        "max": nn.MaxPool2d(k),
        "power, p = 2": nn.PowerAvgPool2d(k, p=2.0, norm="mean"),
        "stochastic": nn.StochasticPool2d(k).eval(),
        "SoftPool": soft,
        "SoftPool of 0 to 255": lambda x: soft(x * 255) / 255,
        "adaPool": nn.AdaPool2d(k),
    }


def similarity(one: torch.Tensor, other: torch.Tensor) -> float:
    """SSIM of two grey pictures ``(H, W)`` in 0 to 1."""

    def mean(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, radius=5)[5:-5, 5:-5]

    a, b = one.double().numpy(), other.double().numpy()
    ma, mb = mean(a), mean(b)
    va, vb, both = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return float(((2 * ma * mb + c1) * (2 * both + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))).mean())


def likeness(count: int) -> Measured:
    """SSIM, by pooling, window and way; of all parts, in their order."""
    parts, found = crops(count, SIDE), {}
    with torch.no_grad():
        for k in (2, 3, 5):
            for name, pool in poolings(k).items():
                small = pool(parts).clamp(0, 1)
                ways = {
                    "repeated": small.repeat_interleave(k, 2).repeat_interleave(k, 3),
                    "bicubic": torch.nn.functional.interpolate(small, scale_factor=k, mode="bicubic").clamp(0, 1),
                }
                pairs = {way: (parts, large) for way, large in ways.items()}
                pairs["small"] = (parts[..., ::k, ::k], small)
                for way, (right, given) in pairs.items():
                    found[f"{name} {k} {way}"] = [
                        similarity(a.mean(0), b.mean(0)) for a, b in zip(right, given, strict=True)
                    ]
    return found


# --- detail


def downscalers() -> dict[str, Pool]:
    """By 4."""

    def by_pillow(way: Image.Resampling) -> Pool:
        def made(x: torch.Tensor) -> torch.Tensor:
            height, width = x.shape[2] // SMALLER, x.shape[3] // SMALLER
            planes = [Image.fromarray(plane.numpy()).resize((width, height), way) for plane in x.flatten(0, 1)]
            return torch.tensor(np.stack([np.asarray(plane) for plane in planes])).unflatten(0, x.shape[:2])

        return made

    def by_twos(reward: str, alpha: float) -> Pool:
        pool = nn.DetailPreservingPool2d(3, 2, reward=reward).eval()  # type: ignore[arg-type]
        torch.nn.init.constant_(pool.a, math.log(alpha))
        return lambda x: pool(pool(x))

    return {
        "mean": nn.AvgPool2d(SMALLER),
        "bicubic": by_pillow(Image.Resampling.BICUBIC),
        "Lanczos": by_pillow(Image.Resampling.LANCZOS),
        "DPID 0.5": nn.DetailPreservingDownscale2d(scale_factor=1 / SMALLER, lambda_=0.5),
        "DPID 1": nn.DetailPreservingDownscale2d(scale_factor=1 / SMALLER),
        "DPP untrained": by_twos("symmetric", 1.0),
        "DPP symmetric": by_twos("symmetric", 0.01),
        "DPP asymmetric": by_twos("asymmetric", 0.01),
        "every 4th pixel": lambda x: x[..., ::SMALLER, ::SMALLER],
    }


def slopes(x: torch.Tensor) -> torch.Tensor:
    """How much neighbours differ, the mean of all channels: ``(N, C, H, W) -> (N, H - 1, W - 1)``."""
    grey = x.mean(1)
    return torch.hypot(grey[:, 1:, :-1] - grey[:, :-1, :-1], grey[:, :-1, 1:] - grey[:, :-1, :-1])


def star_left(scaler: Pool) -> float:
    """Of a star's brightness, in the brightest pixel, in per cent: least of all 16 places in its window."""
    places = torch.zeros(SMALLER**2, 3, 24, 24)
    for i in range(SMALLER**2):
        places[i, :, 8 + i // SMALLER, 8 + i % SMALLER] = 1
    with torch.no_grad():
        return 100 * scaler(places).mean(1).amax((1, 2)).min().item()


def detail(count: int) -> Measured:
    """Slopes at edges by scaler and part, in units of the mean's; and what is left of a star."""
    parts, found = crops(count, SIDE), {}
    edges = torch.nn.functional.max_pool2d(slopes(parts)[:, None], SMALLER, ceil_mode=True)[:, 0, :-1, :-1]
    strong = edges >= edges.flatten(1).quantile(0.95, dim=1)[:, None, None]
    sizes = {}
    with torch.no_grad():
        for name, scaler in downscalers().items():
            after = slopes(scaler(parts))
            sizes[name] = ((after * strong).flatten(1).sum(1) / strong.flatten(1).sum(1)).tolist()
            found[f"{name} star"] = [star_left(scaler)]
    for name, values in sizes.items():
        found[f"{name} edges"] = [value / mean for value, mean in zip(values, sizes["mean"], strict=True)]
    return found


def parts() -> dict[str, Callable[[int], Measured]]:
    """Six parts of photographs in place of each seed."""
    return {"likeness": lambda seeds: likeness(6 * seeds), "detail": lambda seeds: detail(6 * seeds)}


# --- what follows

WAYS = {"repeated": "repeated", "bicubic": "bicubic", "small": "against every second pixel"}


def soft(found: Measured) -> Claim:
    """Stergiou, Poppe, Kalliatakis."""
    return _alike(
        found,
        "SoftPool",
        "SoftPool",
        "Stergiou, Poppe, Kalliatakis, ICCV 2021",
        "table 1, DIV2K, k = 2",
        "SSIM 0.729, average 0.714, max 0.685 †",
        0.015,
    )


def ada(found: Measured) -> Claim:
    """Stergiou, Poppe."""
    return _alike(
        found,
        "AdaPool",
        "adaPool",
        "Stergiou, Poppe, IEEE TIP 2023",
        "table of SSIM, DIV2K",
        "above SoftPool, which is above average and max; its figures were not at hand",
        None,
    )


def _alike(found: Measured, title: str, name: str, paper: str, where: str, theirs: str, gain: float | None) -> Claim:
    others = ("average", "max")
    against = {
        (way, other): Interval.between(found[f"{name} 2 {way}"], found[f"{other} 2 {way}"])
        for way in WAYS
        for other in others
    }
    ahead = [way for way in WAYS if all(against[way, other].above_zero for other in others)]
    told = "; ".join(
        f"{text}: {Interval.of(found[f'{name} 2 {way}']).text(3)}, average "
        f"{Interval.of(found[f'average 2 {way}']).text(3)}, max {Interval.of(found[f'max 2 {way}']).text(3)}"
        for way, text in WAYS.items()
    )
    least = "; ".join(f"{text} {against[way, 'average'].signed(4)}" for way, text in WAYS.items())
    beats_max = all(against[way, "max"].above_zero for way in WAYS)
    return Claim(
        name=title,
        paper=paper,
        where=where,
        says=f"pictures pooled by {name} are more like the original than those of average and max",
        theirs=theirs,
        ours=told,
        distance=f"against average: {least}" + (f"; paper +{gain}" if gain else ""),
        verdict="in kind, not in size" if len(ahead) == len(WAYS) else "not reproduced",
        why="other pictures; how the paper makes sizes equal was not at hand"
        if len(ahead) == len(WAYS)
        else ("above max in all three ways" if beats_max else "not above max in all three ways")
        + f", above average in {len(ahead)} of 3; how the paper makes sizes equal was not at hand",
    )


def downscaled(found: Measured) -> Claim:
    """Weber et al."""
    return _keeps(
        found,
        "DPID",
        ("DPID 0.5", "DPID 1"),
        "Weber et al., SIGGRAPH Asia 2016",
        "figure 1, and a study with people",
        "downscaling keeps stars, thin lines and edges that bicubic, Lanczos and means lose",
    )


def preserving(found: Measured) -> Claim:
    """Saeedan et al."""
    return _keeps(
        found,
        "Detail-preserving pooling",
        ("DPP symmetric", "DPP asymmetric"),
        "Saeedan et al., CVPR 2018",
        "section 3 and its figures",
        "detail-preserving pooling of 2x2, twice, keeps detail that average pooling loses (alpha 0.01; untrained, 1)",
    )


def _keeps(found: Measured, title: str, names: tuple[str, ...], paper: str, where: str, says: str) -> Claim:
    usual = ("mean", "bicubic", "Lanczos") if "DPID 1" in names else ("mean",)
    beside = ("DPP untrained",) if "DPP symmetric" in names else ()
    edges = {name: Interval.of(found[f"{name} edges"]) for name in (*names, *usual, *beside)}
    stars = {name: found[f"{name} star"][0] for name in (*names, *usual, *beside)}
    sharper = all(
        Interval.between(found[f"{name} edges"], found[f"{other} edges"]).above_zero
        for name in names
        for other in usual
    )
    brighter = min(stars[name] for name in names) > max(stars[name] for name in usual)
    failing = [text for text, held in (("edges", sharper), ("stars", brighter)) if not held]
    return Claim(
        name=title,
        paper=paper,
        where=where,
        says=says,
        theirs="pictures to look at; no figure of detail",
        ours="slopes at edges: "
        + ", ".join(f"{name} {value.text(2)}" for name, value in edges.items())
        + "; left of a star: "
        + ", ".join(f"{name} {value:.0f} %" for name, value in stars.items()),
        distance="no figure to compare with",
        verdict="not reproduced" if failing else "reproduced",
        why=f"no more of {' and '.join(failing)} than {', '.join(usual)}"
        if failing
        else f"more of edges and of stars than {', '.join(usual)}",
    )


CLAIMS = (soft, ada, downscaled, preserving)
