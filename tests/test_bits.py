"""The bits of a step: twenty steps of every optimiser are its formulas as written, to the last bit.

That holds on every machine. A step in half precision is the formulas' in single precision, rounded once.

The formulas are held to `golden/bits.json`: the parameters after these steps, as minidiff 0.1 gave them (but
for half precision, where it rounded at every operation). Sums, products, quotients, roots and maxima of
floats have the same bits everywhere. Complex products and the sum of an array have not: what needs them is
not in that file.
To record the file anew: ``python tests/test_bits.py --record``.
"""

import functools
import hashlib
import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import minidiff.optimise as mo
from minidiff.optimise import ADAM, ClipNorm, ClipValue, ExpDecay, Optimiser, WeightDecay, engine, update

GOLDEN = Path(__file__).parent / "golden" / "bits.json"
ENGINES = ["numpy", "auto", "fused"] if importlib.util.find_spec("numba") else ["numpy"]
FLOATS = ["float16", "float32", "float64"]
DTYPES = [*FLOATS, "complex64", "complex128"]

# A formula may raise a rate to a power, which the C library rounds as it likes: powers of 0.75 are exact.
OPTIMISERS = {
    "Descent": lambda: mo.Descent(0.3),
    "Momentum": lambda: mo.Momentum(0.05, 0.8),
    "Nesterov": lambda: mo.Nesterov(0.05, 0.75),
    "RMSProp": lambda: mo.RMSProp(0.02, 0.7),
    "ADAM": lambda: ADAM(0.02),
    "RADAM": lambda: mo.RADAM(0.02, (0.8, 0.95), epsilon=1e-3),
    "AdaMax": lambda: mo.AdaMax(0.02, (0.8, 0.7)),
    "ADAGrad": lambda: mo.ADAGrad(0.2),
    "ADADelta": lambda: mo.ADADelta(0.8, 1e-3),
    "AMSGrad": lambda: mo.AMSGrad(0.02, (0.8, 0.7)),
    "NADAM": lambda: mo.NADAM(0.02, (0.8, 0.95)),
    "ADAMW": lambda: mo.ADAMW(0.02, (0.8, 0.95), decay=0.3),
    "OADAM": lambda: mo.OADAM(0.02),
    "AdaBelief": lambda: mo.AdaBelief(0.02, (0.8, 0.95)),
    "ExpDecay": lambda: ExpDecay(0.3, 0.7, decay_step=3, clip=0.05, start=4),
    "InvDecay": lambda: mo.InvDecay(0.3),
    "WeightDecay": lambda: WeightDecay(0.01),
    "ClipValue": lambda: ClipValue(0.4),
    "ClipNorm": lambda: ClipNorm(2.0),
    "five": lambda: Optimiser(
        ClipNorm(16.0), ClipValue(0.4), WeightDecay(0.05), ADAM(0.02), ExpDecay(1.0, 0.7, 3, 0.05)
    ),
    "five, the norm third": lambda: Optimiser(
        ClipValue(0.4), WeightDecay(0.05), ClipNorm(1.5), ADAM(0.02), ExpDecay(1.0, 0.7, 3, 0.05)
    ),
}
# Its third stage adds up squares that are not exact.
KEPT = [name for name in OPTIMISERS if name != "five, the norm third"]

BLOCK = 96 * 1024  # bytes: more are computed in blocks
# Large is more than a block, and enough for "auto" to compile.
BYTES = {"strided": 400, "large": 140_000, "large, strided": 110_000}
LAYOUTS = ["0-d", "single", "small", "2-D", *BYTES]


def shape_of(layout, dtype):
    if layout in BYTES:
        return (BYTES[layout] // np.dtype(dtype).itemsize,)
    return {"0-d": (), "single": (1, 1), "small": (7,), "2-D": (6, 9)}[layout]


@functools.cache
def given(layout, dtype):
    """Return a parameter's first values, and twenty gradients: numbers that every dtype has exactly.

    The squares of a gradient add up exactly, too, in whatever order.
    """
    rng, shape = np.random.default_rng(len(layout)), shape_of(layout, dtype)

    def numbers(largest, *exponents):
        return np.ldexp(rng.integers(-largest, largest + 1, shape), rng.integers(*exponents, shape))

    def numbers_of_the_dtype(*ranges):
        z = numbers(*ranges) + 1j * numbers(*ranges)
        return np.asarray(z if np.dtype(dtype).kind == "c" else z.real).astype(dtype)

    x, pool = numbers_of_the_dtype(1000, -8, -6), [numbers_of_the_dtype(3, -3, 1) for _ in range(5)]
    if shape:
        for g in pool:
            g[-1] = 0  # an element that never gets a gradient
    powers = rng.integers(-8, 3, 20).tolist()
    return x, [np.asarray(g * 2.0**power) for g, power in zip(pool * 4, powers, strict=True)]


def laid_out(layout, x):
    """Return a copy of the parameter's first values, laid out as the name says."""
    home = np.zeros((*x.shape, 2), x.dtype)[..., 0] if "strided" in layout else np.zeros_like(x)
    home[...] = x
    return home


def twenty_steps(make, layout, dtype):
    """Return the parameter after twenty steps, and what the optimiser keeps for it."""
    x, gs = given(layout, dtype)
    x, opt = laid_out(layout, x), make()
    for g in gs:
        update(opt, x, g)
    return [x, *(rule.state[x][name] for rule in opt.stages() for name in rule.keeps)]


def by_the_formulas(make, layout, dtype):
    """Return the same, from the formulas as they are written, called with whole arrays.

    Those of float16 are widened to float32 for the formulas, and the parameter is rounded once a step.
    """
    x, gs = given(layout, dtype)
    home, rules = laid_out(layout, x), make().stages()
    clocks = [rule.clock for rule in rules]
    kept = [[first(rule, name, widened(x)) for name in rule.keeps] for rule in rules]
    for step in map(widened, gs):
        x = widened(home)
        with np.errstate(all="ignore"):
            for i, rule in enumerate(rules):
                clocks[i] = rule.tick(*clocks[i])
                if isinstance(rule, ClipNorm):
                    norm = norm_of(step)
                    step = step * (rule.thresh / norm if norm > rule.thresh else 1.0)
                    continue
                result = rule.formula(x, step, *kept[i], *rule.coefficients(*clocks[i]))
                step, *kept[i] = result if rule.keeps else (result,)
            home[...] = x - step
        for rule, clock in zip(rules, clocks, strict=True):
            rule.stepped(*clock)
    return [home, *(a for arrays in kept for a in arrays)]


def widened(a):
    return a.astype("float32") if a.dtype == "float16" else a


def first(rule, name, x):
    """Return what a rule keeps before its first step."""
    return np.full(x.shape, rule.initial(name), x.real.dtype if name in rule.real else x.dtype)


def norm_of(Δ):
    """Return the norm of the norms of blocks."""
    size = BLOCK // Δ.itemsize
    blocks = [Δ.reshape(-1)[low : low + size] for low in range(0, Δ.size, size)]
    return math.hypot(*[math.sqrt(np.vdot(block, block).real) for block in blocks])


def bits(arrays):
    return [(a.dtype, a.shape, a.tobytes()) for a in map(np.asarray, arrays)]


def hashed(x):
    return hashlib.blake2b(x.tobytes(), digest_size=8).hexdigest()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_steps_have_the_bits_of_the_formulas_as_written(name, dtype):
    for layout in LAYOUTS:
        expected = by_the_formulas(OPTIMISERS[name], layout, dtype)
        assert all(np.isfinite(a).all() for a in expected)
        for how in ENGINES:
            with engine(how):
                got = twenty_steps(OPTIMISERS[name], layout, dtype)
            if name == "AdaMax" and dtype.startswith("complex") and how != "numpy":
                # NumPy and Numba have a |z| of their own each.
                for a, b in zip(got, expected, strict=True):
                    np.testing.assert_allclose(a, b, 8 * np.finfo(dtype).eps, 1e-30)
            else:
                assert bits(got) == bits(expected), f"{how}, {layout}"


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", KEPT)
def test_formulas_as_written_have_the_bits_of_the_first_version(name, dtype):
    golden = json.loads(GOLDEN.read_text())[dtype][name]
    xs = {layout: by_the_formulas(OPTIMISERS[name], layout, dtype)[0] for layout in golden}
    assert {layout: hashed(x) for layout, x in xs.items()} == golden


def record():
    """Write the golden file, one line for each optimiser."""
    sections = []
    for dtype in FLOATS:
        lines = []
        for name in KEPT:
            with engine("numpy"):
                xs = {layout: twenty_steps(OPTIMISERS[name], layout, dtype)[0] for layout in LAYOUTS}
            hashes = {layout: hashed(x) for layout, x in xs.items()}
            lines.append(f"    {json.dumps(name)}: {json.dumps(hashes)}")
        sections.append(f"  {json.dumps(dtype)}: {{\n" + ",\n".join(lines) + "\n  }")
    GOLDEN.write_text("{\n" + ",\n".join(sections) + "\n}\n")


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        sys.exit("usage: python tests/test_bits.py --record")
    record()
