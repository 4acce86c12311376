"""Record PyTorch's and optax's steps for the tests, which do without them: python tests/record_rules.py."""

import json
from pathlib import Path

import jax
import numpy as np
import optax
import torch

jax.config.update("jax_enable_x64", True)
torch.set_default_dtype(torch.float64)
torch.Tensor.bfloat16 = lambda self: self  # PyTorch's Muon would round to 8 bits

SHAPES = {"vector": (5,), "tall": (4, 3), "wide": (3, 5)}
STEPS = 12
draw = np.random.default_rng(0).normal
STARTS = {name: draw(size=shape) for name, shape in SHAPES.items()}
SIZES = np.exp(draw(size=STEPS))  # some steps are clipped
GRADIENTS = {name: np.moveaxis(draw(size=(*shape, STEPS)) * SIZES, -1, 0) for name, shape in SHAPES.items()}


def by_torch(make, name):
    x = torch.nn.Parameter(torch.tensor(STARTS[name]))
    opt, path = make([x]), []
    for g in GRADIENTS[name]:
        x.grad = torch.tensor(g)
        opt.step()
        path.append(x.detach().numpy().copy())
    return path


def by_optax(make, name):
    x, opt, path = jax.numpy.array(STARTS[name]), make(), []
    state = opt.init(x)
    for g in GRADIENTS[name]:
        step, state = opt.update(jax.numpy.array(g), state, x)
        x = optax.apply_updates(x, step)
        path.append(np.array(x))
    return path


def schedule_free(name):
    """Give the parameters, then the point of evaluation after each step."""
    x, path = jax.numpy.array(STARTS[name]), []
    opt = optax.contrib.schedule_free_adamw(0.1, b1=0.8, b2=0.95, weight_decay=0.1)
    state = opt.init(x)
    for g in GRADIENTS[name]:
        step, state = opt.update(jax.numpy.array(g), state, x)
        x = optax.apply_updates(x, step)
        path.append(np.stack([x, optax.contrib.schedule_free_eval_params(state, x)]))
    return path


def lookahead(name):
    opt = optax.lookahead(optax.adam(0.1), sync_period=3, slow_step_size=0.4)
    x = optax.LookaheadParams.init_synced(jax.numpy.array(STARTS[name]))
    state, path = opt.init(x), []
    for g in GRADIENTS[name]:
        step, state = opt.update(jax.numpy.array(g), state, x)
        x = optax.apply_updates(x, step)
        path.append(np.array(x.fast))
    return path


# What minidiff is to do the same as, by its own call.
PEERS = {
    "RMSProp(0.1, 0.8, 1e-6, centred=True)": (
        by_torch,
        lambda ps: torch.optim.RMSprop(ps, 0.1, 0.8, 1e-6, centered=True),
    ),
    "Rprop(0.1, (0.4, 1.5), (0.01, 0.5))": (
        by_torch,
        lambda ps: torch.optim.Rprop(ps, 0.1, (0.4, 1.5), (0.01, 0.5)),
    ),
    "Lion(0.1, (0.8, 0.95))": (by_optax, lambda: optax.lion(0.1, 0.8, 0.95, weight_decay=0)),
    "Yogi(0.1, (0.8, 0.95), 1e-3)": (
        by_optax,
        lambda: optax.chain(
            optax.scale_by_yogi(0.8, 0.95, 1e-3, initial_accumulator_value=0.0), optax.scale(-0.1)
        ),
    ),
    # With 0.5 for its second decay, as optax has 1 minus that in places.
    "Adan(0.1, (0.9, 0.5, 0.95), epsilon=1e-6)": (
        by_optax,
        lambda: optax.adan(0.1, 0.9, 0.5, 0.95, eps=1e-6, eps_root=0),
    ),
    "LAMB(0.1, (0.8, 0.95), 0.1)": (by_optax, lambda: optax.lamb(0.1, 0.8, 0.95, weight_decay=0.1)),
    "Adafactor(0.3, 0.7, 1.0, (0, 0.01))": (
        by_torch,
        lambda ps: torch.optim.Adafactor(ps, 0.3, beta2_decay=-0.7, eps=(None, 0.01), d=1.0),
    ),
    "Muon(0.1, 0.9, 0.05)": (by_torch, lambda ps: torch.optim.Muon(ps, 0.1, 0.05, 0.9)),
    "Optimiser(Centralise(), Descent(0.1))": (
        by_optax,
        lambda: optax.chain(optax.centralize(), optax.sgd(0.1)),
    ),
}


def projections():
    points = draw(size=(6, 4)) * 2
    return {
        "points": points.tolist(),
        "simplex": [optax.projections.projection_simplex(p).tolist() for p in points],
        "ball": [optax.projections.projection_l2_ball(p, 1.5).tolist() for p in points],
    }


if __name__ == "__main__":
    paths = {
        call: {
            name: np.array(by(make, name)).tolist()
            for name in SHAPES
            if name != "vector" or not call.startswith("Muon")
        }
        for call, (by, make) in PEERS.items()
    }
    paths["Lookahead(ADAM(0.1), 3, 0.4)"] = {name: np.array(lookahead(name)).tolist() for name in SHAPES}
    averages = {name: np.array(schedule_free(name)).tolist() for name in SHAPES}
    paths["ScheduleFreeADAMW(0.1, (0.8, 0.95), 0.1)"] = {
        name: np.array(path)[:, 0].tolist() for name, path in averages.items()
    }
    recorded = {
        "torch": torch.__version__,
        "optax": optax.__version__,
        "starts": {name: x.tolist() for name, x in STARTS.items()},
        "gradients": {name: g.tolist() for name, g in GRADIENTS.items()},
        "paths": paths,
        "averages": {name: np.array(path)[:, 1].tolist() for name, path in averages.items()},
        "projections": projections(),
    }
    (Path(__file__).parent / "golden" / "peers.json").write_text(json.dumps(recorded))
