"""Record PyTorch's numbers for the tests, which do without it: python tests/record_torch.py."""

import json
import random
import re
from contextlib import suppress
from pathlib import Path

import torch
from torch.nn import functional
from torch.optim import lr_scheduler as lr
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

torch.set_default_dtype(torch.float64)
draw = torch.Generator().manual_seed(0)


def sgd():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)


def rates(call, n=45):
    """Give the rates of a scheduler that is written as in the cheat sheet."""
    opt, out = sgd(), []
    scheduler = eval(call, vars(lr) | {"opt": opt, "f": lambda epoch: 0.95**epoch})
    for _ in range(n):
        out.append(opt.param_groups[0]["lr"])
        opt.step()
        with suppress(ValueError):  # one cycle is over
            scheduler.step()
    return out


def schedules():
    sheet = (Path(__file__).parents[1] / "tutorials" / "cheatsheet.md").read_text()
    table = sheet[sheet.index("| PyTorch |") : sheet.index("| Keras |")]
    calls = re.findall(r"^\| `(\w+\(.*?\))` \|", table, re.MULTILINE)
    return {call: rates(call) for call in calls if "…" not in call}


def plateaus():
    random.seed(1)
    losses = [10, 9, 8, 8, 8, 8, 8, 7, 7, 7, 7, 7, 7, 7, 7.0]
    losses += [7 * 0.97**i * (1 + 0.1 * random.random()) for i in range(60)]
    losses += [float("nan"), 0.1, 0.1, 0.1] + [0.1] * 30
    for settings in (
        {"factor": 0.1, "patience": 2, "threshold": 0},
        {},
        {"factor": 0.5, "patience": 3, "cooldown": 2, "min_lr": 1e-3},
        {"factor": 0.5, "patience": 0, "cooldown": 1},
        {"factor": 0.01, "patience": 0, "threshold": 0.1},
    ):
        for mode, scores in (("min", losses), ("max", [20 - score for score in losses])):
            opt, out = sgd(), []
            scheduler = lr.ReduceLROnPlateau(opt, mode=mode, **settings)
            for score in scores:
                scheduler.step(score)
                out.append(opt.param_groups[0]["lr"])
            shown = [None if score != score else score for score in scores]
            yield {"settings": settings, "mode": mode, "scores": shown, "rates": out}


def clip():
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,))]
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=draw)
    gradients = [p.grad.tolist() for p in parameters]
    norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
    clipped = [p.grad.tolist() for p in parameters]
    return {"gradients": gradients, "norm": float(norm), "clipped": clipped}


def averages():
    model, values = torch.nn.Linear(1, 1, bias=False), torch.randn(6, generator=draw).tolist()
    out = {"values": values}
    for name, options in (("ema", {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}), ("swa", {})):
        averaged, out[name] = AveragedModel(model, **options), []
        for value in values:
            with torch.no_grad():
                model.weight.fill_(value)
            averaged.update_parameters(model)
            out[name].append(float(averaged.module.weight))
    return out


def cross_entropies():
    scores, labels = torch.randn(5, 4, generator=draw), torch.tensor([0, 3, -100, 1, 3])
    weights, cases = torch.tensor([0.5, 1.0, 2.0, 3.0]), {}
    for name, options in {
        "plain": {},
        "weights": {"weight": weights},
        "smoothing": {"label_smoothing": 0.2},
        "both": {"weight": weights, "label_smoothing": 0.2},
    }.items():
        for reduction in ("mean", "sum", "none"):
            x = scores.clone().requires_grad_()
            loss = functional.cross_entropy(x, labels, reduction=reduction, ignore_index=-100, **options)
            loss.sum().backward()
            cases[f"{name} {reduction}"] = {"loss": loss.tolist(), "gradient": x.grad.tolist()}
    return {
        "scores": scores.tolist(),
        "labels": labels.tolist(),
        "weights": weights.tolist(),
        "cases": cases,
    }


if __name__ == "__main__":
    recorded = {
        "torch": torch.__version__,
        "schedules": schedules(),
        "plateau": list(plateaus()),
        "clip": clip(),
        "average": averages(),
        "cross_entropy": cross_entropies(),
    }
    (Path(__file__).parent / "golden" / "torch.json").write_text(json.dumps(recorded))
