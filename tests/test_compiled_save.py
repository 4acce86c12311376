"""Saved programs: modules of NumPy alone, with the bits of the program, written whole or not at all."""

import builtins
import importlib.util
import inspect
import keyword
import os
import pickle
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_compiled import CASES, bits, projected

import minidiff.losses as ml
import minidiff.optimise as mo
from minidiff import compiled, files, gradient, param, params, withgradient
from minidiff.program import lines


def imported(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


W, V = param(np.linspace(-1, 1, 10).reshape(2, 5)), param(np.arange(3.0))
LARGE, STRIDED = np.sin(np.arange(60.0)).reshape(5, 12), np.arange(24.0)[::-2]
SMALL = np.array([[0.1, -0.0, np.nan], [np.inf, 1e-300, 3]], "f4", order="F")


def model(x, y, scale):
    h = np.tanh(W @ x) @ LARGE[:, :6].T
    return (
        np.sum(h**2) * scale + np.sum(STRIDED[:3] * V) + ml.mse(y, V) + np.sum(np.where(V > 9, SMALL[0], 0.0))
    )


def arguments(seed=0):
    rng = np.random.default_rng(seed)
    return np.asfortranarray(rng.normal(size=(5, 6))), rng.normal(size=3), float(rng.normal())


OUTSIDE = """
import pickle, sys
assert not any("minidiff" in path for path in sys.path)
sys.path.insert(0, ".")
import carried
inputs = pickle.load(open("inputs", "rb"))
pickle.dump([carried.loss_and_gradient(*some) for some in inputs], open("outputs", "wb"))
assert not {"minidiff", "autograd", "scipy"} & set(sys.modules)
print(carried.__doc__, carried.loss_and_gradient.__doc__)
"""


def test_a_saved_program_has_the_same_bits_where_minidiff_is_not(tmp_path):
    f = compiled(model, params(W, V))
    f(*arguments())
    f.save(tmp_path / "carried.py")
    assert len(list(tmp_path.glob("carried-*.npz"))) == 1
    inputs = [(W.value * (i + 1), V.value + i, *arguments(i)) for i in range(3)]
    (tmp_path / "inputs").write_bytes(pickle.dumps(inputs))
    (tmp_path / "run.py").write_text(OUTSIDE)
    packages = Path(np.__file__).parent.parent
    (tmp_path / "packages").mkdir()
    for found in packages.glob("numpy*"):  # NumPy, and nothing else
        (tmp_path / "packages" / found.name).symlink_to(found)
    run = [sys.executable, "-S", "-c", "import sys; sys.path.append('packages'); exec(open('run.py').read())"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    said = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "y: float64 (3,)" in said.stdout
    assert "value, dW, dV" in said.stdout
    outputs = pickle.loads((tmp_path / "outputs").read_bytes())
    for (w, v, *others), output in zip(inputs, outputs, strict=True):
        W[...], V[...] = w, v
        val, grads = f(*others)
        assert bits(output) == bits((val, grads[W], grads[V]))


PRINTED = """
import numpy as np
from minidiff import compiled, param, params
W, ones, same, rest = param(np.ones(3)), np.ones(3), np.ones(3), np.arange(3.0)
first = second = third = rest
f = compiled(lambda: np.sum(W * third * ones * first * second * same), params(W))
f()
print(f.source)
"""


@pytest.mark.parametrize(("size", "files"), [(1, 0), (16, 0), (17, 1)])
def test_a_small_array_stands_in_the_source_and_a_large_one_in_a_file_beside_it(size, files, tmp_path):
    held = np.linspace(0, 1, size)
    f = compiled(lambda x: np.sum(x * held))
    f(np.ones(size))
    f.save(tmp_path / "carried.py")
    assert len(list(tmp_path.glob("carried-*.npz"))) == files


def test_a_program_is_the_same_in_every_process():
    sources = set()
    for seed in range(6):  # the order of sets goes by it
        run = [sys.executable, "-c", PRINTED]
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        sources.add(subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(sources) == 1


@pytest.mark.parametrize(("name", "call", "x"), CASES[::7])
def test_so_has_that_of_every_function(name, call, x, tmp_path):
    f = compiled(lambda x: projected(call(np, x)))
    with np.errstate(all="ignore"):
        try:
            val, (g,) = f(x)
        except TypeError:
            return
        if name in ("linalg.svd", "linalg.eigh", "linalg.eig"):  # whose derivatives look at values
            with pytest.raises(TypeError, match="NumPy alone has not"):
                f.save(tmp_path / "saved.py")
            return
        f.save(tmp_path / "saved.py")
        saved = imported(tmp_path / "saved.py").loss_and_gradient(np.asarray(x)[()])
    assert bits(saved) == bits((val, g))


@pytest.mark.parametrize("orders", ["CF", "FC"])
def test_an_array_laid_out_otherwise_is_added_up_in_the_order_in_which_the_recorded_one_was(orders, tmp_path):
    numbers = np.random.default_rng(1).normal(size=(40, 30)) * np.logspace(0, 9, 30)
    recorded, other = (np.array(numbers, order=order) for order in orders)
    f = compiled(lambda x: np.sum(x))
    val, (g,) = f(recorded)
    f.save(tmp_path / "saved.py")
    assert bits(imported(tmp_path / "saved.py").loss_and_gradient(other)) == bits((val, g))


@pytest.mark.parametrize("x", [2.0, np.float64(2), np.float32(2), np.array(2.0)])
def test_so_has_a_slope_that_is_a_constant(x, tmp_path):
    f = compiled(lambda x: x * 3)
    val, (g,) = f(x)
    f.save(tmp_path / "saved.py")
    assert bits(imported(tmp_path / "saved.py").loss_and_gradient(x)) == bits((val, g))


@pytest.mark.parametrize("f", [np.prod, lambda x: np.sum(np.linalg.det(x))])
@pytest.mark.parametrize("x", [np.eye(3) + 0.5, np.zeros((3, 3)), np.diag([1.0, 2.0, 0.0])])
def test_so_has_a_derivative_that_looks_at_values(f, x, tmp_path):
    compiled_f = compiled(f)
    compiled_f(np.eye(3) * 2.0)
    compiled_f.save(tmp_path / "saved.py")
    val, (g,) = withgradient(f, x)
    assert bits(imported(tmp_path / "saved.py").loss_and_gradient(x)) == bits((val, g))


RUNNING = {
    "cumprod": np.cumprod,
    "along an axis": lambda x: np.cumprod(x, axis=1),
    "cumulative_prod": lambda x: np.cumulative_prod(x, axis=0) if hasattr(np, "cumulative_prod") else x,
    "nancumprod": np.nancumprod,
    "accumulate": np.multiply.accumulate,
    "logaddexp": np.logaddexp.accumulate,
    "hypot": np.hypot.accumulate,
}


@pytest.mark.parametrize("x", [np.eye(3) + 0.5, np.zeros((3, 3))])
@pytest.mark.parametrize("name", RUNNING)
def test_so_has_a_derivative_that_is_made_of_another_with_a_derivative(name, x, tmp_path):
    f = compiled(lambda x: np.sum(RUNNING[name](x) ** 2))
    f(np.eye(3) * 2.0)
    f.save(tmp_path / "saved.py")
    with np.errstate(invalid="ignore"):
        val, (g,) = withgradient(lambda x: np.sum(RUNNING[name](x) ** 2), x)
        assert bits(imported(tmp_path / "saved.py").loss_and_gradient(x)) == bits((val, g))


def test_large_arrays_have_a_workspace_there_too(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LARGE", 1)
    f = compiled(model, params(W, V))
    val, grads = f(*arguments())
    f.save(tmp_path / "spacious.py")
    module = imported(tmp_path / "spacious.py")
    assert "workspace = Workspace(" in (tmp_path / "spacious.py").read_text()
    for _ in range(2):
        assert bits(module.loss_and_gradient(W.value, V.value, *arguments())) == bits(
            (val, grads[W], grads[V])
        )


def test_programs_of_several_signatures_and_a_step(tmp_path):
    A, b = param(np.ones((2, 3))), param(np.zeros(2))
    opt = mo.ADAM(0.1)
    step = compiled(lambda x, y: np.sum((A @ x + b - y) ** 2), params(A, b), opt)
    step(np.ones(3), np.ones(2))
    step(np.ones((3, 2)), np.ones(2))
    step.save(tmp_path / "several.py")
    module = imported(tmp_path / "several.py")
    values, x, y = [A.value.copy(), b.value.copy()], np.linspace(0, 1, 3), np.ones(2)
    value, dA, db = module.loss_and_gradient(*values, x, y)
    assert module.loss_and_gradient_2(*values, np.ones((3, 2)), y)[1].shape == (2, 3)
    state = opt.state[A]
    kept = [np.concatenate([opt.state[p][name].ravel() for p in (A, b)]) for name in ("m", "v")]
    numbers = opt.coefficients(*opt.tick(*state["clock"]))
    new = module.step(*values, dA, db, *kept, *numbers)
    assert step(x, y) == value
    after = [
        A.value,
        b.value,
        *[np.concatenate([opt.state[p][n].ravel() for p in (A, b)]) for n in ("m", "v")],
    ]
    assert bits(list(new)) == bits(after)


@pytest.mark.parametrize("opt", [
    mo.RADAM(0.1), mo.InvDecay(0.1), mo.NADAM(0.1), mo.Optimiser(mo.InvDecay(), mo.RADAM(0.1)),
    mo.Optimiser(mo.ClipValue(1.0), mo.Lookahead(mo.Descent(0.1), 3)),
], ids=repr)  # fmt: skip
def test_a_saved_step_takes_the_numbers_of_its_rules(opt, tmp_path):
    v = param(np.arange(3.0))
    step = compiled(lambda: np.sum(np.cos(v)), params(v), opt)
    step()
    step.save(tmp_path / "a.py")
    run = runpy.run_path(str(tmp_path / "a.py"))
    for _ in range(8):  # RADAM begins to rectify within them, Lookahead is due
        stages, kept, numbers = opt.stages(), [], []
        for rule in stages:
            kept += [rule.state[v][name].copy() for name in rule.keeps]
            numbers += rule.coefficients(*rule.tick(*rule.state[v]["clock"]))
        _, dv = run["loss_and_gradient"](v.value)
        new = run["step"](v.value, dv, *kept, *numbers)
        step()
        after = [rule.state[v][name] for rule in stages for name in rule.keeps]
        assert bits(list(new)) == bits([v.value, *after])


def test_what_a_saved_program_was_not_made_for_it_refuses(tmp_path):
    f = compiled(model, params(W, V))
    f(*arguments())
    f.save(tmp_path / "strict.py")
    run = imported(tmp_path / "strict.py").loss_and_gradient
    x, y, scale = arguments()
    given = W.value, V.value, x, y, scale
    assert bits(run(W.value, V.value, np.ascontiguousarray(x), y, scale)) == bits(run(*given))
    for i, wrong, why in [
        (0, W.value[:1], r"W must be an array of <f8 and shape \(2, 5\), not float64 \(1, 5\)"),
        (2, x.astype("f4"), "x must be an array"),
        (3, [1.0, 2.0, 3.0], "y must be an array"),
        (3, np.ma.masked_array(y, y > 0), "y must be an array"),
        (4, 2, "scale must be a float, not 2"),
    ]:
        with pytest.raises(TypeError, match=why):
            run(*given[:i], wrong, *given[i + 1 :])


def test_what_cannot_be_saved_says_why(tmp_path):
    f = compiled(model, params(W, V))
    with pytest.raises(ValueError, match="nothing has been recorded yet"):
        f.save(tmp_path / "a.py")
    f(*arguments())
    for name in ("a", "a.txt", "1.py", "class.py", "a-b.py"):
        with pytest.raises(ValueError, match="named as a module is"):
            f.save(tmp_path / name)
    step = compiled(lambda: np.sum(V**2), params(V), mo.ClipNorm(1.0))
    step()
    with pytest.raises(TypeError, match="ClipNorm has an apply of its own"):
        step.save(tmp_path / "a.py")
    special = pytest.importorskip("scipy.special")
    data = compiled(lambda x: np.sum(V * special.entr(x)), params(V))
    data(np.ones(3))
    with pytest.raises(TypeError, match="calls entr, which NumPy alone has not"):
        data.save(tmp_path / "a.py")
    assert list(tmp_path.iterdir()) == []


def test_only_what_save_has_written_is_replaced(tmp_path):
    f, path = compiled(model, params(W, V)), tmp_path / "mine.py"
    f(*arguments())
    path.write_text("precious = 1\n")
    with pytest.raises(FileExistsError, match="has not written it"):
        f.save(path)
    assert path.read_text() == "precious = 1\n"
    assert [p.name for p in tmp_path.iterdir()] == ["mine.py"]
    path.unlink()
    f.save(path)
    first = {p.name for p in tmp_path.iterdir()}
    f.save(str(path))
    assert {p.name for p in tmp_path.iterdir()} == first
    LARGE[0, 0] += 1
    f.save(path)
    LARGE[0, 0] -= 1
    after = {p.name for p in tmp_path.iterdir()}
    assert len(after) == 2
    assert after != first


@pytest.mark.parametrize("fails", [0, 1])
def test_nothing_is_left_half_written(fails, tmp_path, monkeypatch):
    f, path = compiled(model, params(W, V)), tmp_path / "whole.py"
    f(*arguments())
    f.save(path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    replace, count = os.replace, iter(range(9))

    def failing(*names):
        if next(count) == fails:
            raise OSError(28, "No space left on device")
        replace(*names)

    monkeypatch.setattr(files.os, "replace", failing)
    LARGE[0, 0] += 1
    with pytest.raises(OSError, match="No space left"):
        f.save(path)
    LARGE[0, 0] -= 1
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("loss", [model, lambda x, y, scale: np.sum(V * y) * scale], ids=["arrays", "none"])
def test_what_cannot_be_saved_once_more_is_as_it_was(loss, tmp_path, monkeypatch):
    f = compiled(loss, params(W, V))
    f(*arguments())
    f.save(tmp_path / "again.py")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert len(before) == (2 if loss is model else 1)
    replace = os.replace

    def failing(source, target):
        if str(target).endswith(".py"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", failing)
    with pytest.raises(OSError, match="No space left"):
        f.save(tmp_path / "again.py")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ml.__all__)
@pytest.mark.parametrize(("target", "options"), [
    ("shares", {}), ("shares", {"smoothing": 0.1}), ("shares", {"weights": np.array([0.5, 1.0, 2.0, 3.0])}),
    ("classes", {}), ("classes", {"ignore": 2}), ("signs", {}),
])  # fmt: skip
def test_a_saved_loss_has_the_same_bits_and_checks_its_targets(name, target, options, tmp_path):
    shares, classes = np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 0])
    y = {"shares": shares, "classes": classes, "signs": 2 * shares - 1}[target]
    P = param(ml.softmax(np.sin(np.arange(12.0)).reshape(4, 3)))
    f = compiled(lambda y: getattr(ml, name)(P, y, **options), params(P))
    try:
        gradient(lambda: getattr(ml, name)(P, y, **options), params(P))
    except (TypeError, ValueError):  # it takes no such targets, or no such option
        return
    val, grads = f(y)
    f.save(tmp_path / "a.py")
    assert "minidiff." not in (tmp_path / "a.py").read_text()
    run = runpy.run_path(str(tmp_path / "a.py"))["loss_and_gradient"]
    assert bits(run(P.value, y)) == bits((val, grads[P]))
    if name not in ("mse", "mae", "huber_loss"):  # of any number
        with pytest.raises(ValueError, match="must be"):
            run(P.value, -3 * np.abs(y) - 3)


WORDS = [word for word in (*keyword.kwlist, *dir(builtins)) if word[0] == "d"]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("of", ["an argument", "a parameter"])
def test_no_gradient_is_named_as_a_word_of_pythons(word, of, tmp_path):
    name, x = word[1:], np.array([1.0, 3.0])
    if of == "an argument":
        f = compiled(eval(f"lambda {name}: np.sum({name} ** 2)"))
        f(x)
    else:
        p = param(x)
        f = compiled(eval(f"lambda: np.sum({name} ** 2)", {"np": np, name: p}), params(p))
        f()
    f.save(tmp_path / "saved.py")
    run = imported(tmp_path / "saved.py").loss_and_gradient
    assert list(inspect.signature(run).parameters) == [name]
    assert bits(run(2 * x)) == bits((np.sum((2 * x) ** 2), 4 * x))


def test_an_argument_may_be_named_as_a_function_that_a_saved_module_calls(tmp_path):
    f, x = compiled(lambda add_at: np.sum(add_at[[0, 1, 1]] ** 2)), np.array([1.0, 3.0])
    val, (g,) = f(x)
    f.save(tmp_path / "saved.py")
    assert bits(imported(tmp_path / "saved.py").loss_and_gradient(x)) == bits((val, g))


NOT_OF_NUMPY = {
    "eigvalsh": lambda x: np.sum(np.linalg.eigvalsh(x)),
    "eigh": lambda x: np.sum(np.linalg.eigh(x)[0]),
    "eigvals": lambda x: np.sum(np.real(np.linalg.eigvals(x))),
    "svd": lambda x: np.sum(np.linalg.svd(x, compute_uv=False)),
    "cond": lambda x: np.linalg.cond(x),
    "norm": lambda x: np.linalg.norm(x, "nuc"),
    "i0": lambda x: np.sum(np.i0(x)),
    "gradient": lambda x: np.sum(gradient(lambda y: np.sum(np.linalg.eigvalsh(y)), x)[0]),
}


@pytest.mark.parametrize("name", NOT_OF_NUMPY)
def test_what_has_a_derivative_beyond_numpy_is_told_with_its_line(name, tmp_path):
    if name == "i0":
        pytest.importorskip("scipy")
    f = compiled(NOT_OF_NUMPY[name])
    f(np.array([[2.0, 0.5], [0.5, 3.0]]))
    with pytest.raises(TypeError, match=rf'save: test_compiled_save\.py, line \d+ \("{name}": .*') as caught:
        f.save(tmp_path / "a.py")
    assert "its derivative takes what NumPy alone has not" in str(caught.value)
    assert "derivative_of" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


Workspace, file = np.ones(20_000), np.full(20_000, 0.5)


def test_an_array_may_be_named_as_what_a_saved_module_defines(tmp_path):
    f, x = compiled(lambda x: np.sum(np.exp(Workspace * x) * np.sin(file * x))), np.ones(20_000)
    f(x)
    f.save(tmp_path / "a.py")
    run = runpy.run_path(str(tmp_path / "a.py"))["loss_and_gradient"]
    assert run(2 * x)[0] == f(2 * x).val


is_basic = np.array([1.0, 2.0, 3.0])


def test_an_array_named_as_a_function_that_a_saved_module_calls_is_refused(tmp_path):
    f, x = compiled(lambda x: np.sum(is_basic * x[[0, 0, 1]] ** 2)), np.ones(2)
    f(x)
    with pytest.raises(TypeError, match="a constant is named is_basic, as a function is that"):
        f.save(tmp_path / "a.py")
    assert list(tmp_path.iterdir()) == []


def test_an_array_that_lies_otherwise_is_laid_out(tmp_path):
    f, x = compiled(lambda x: np.sum(x**2)), np.arange(6.0).reshape(2, 3)
    f(x)
    f.save(tmp_path / "a.py")
    run = runpy.run_path(str(tmp_path / "a.py"))["loss_and_gradient"]
    assert run(np.asfortranarray(x))[0] == f(x).val


@pytest.mark.parametrize("view", [np.s_[:, ::2], np.s_[:, ::-1], np.s_[1::-1, 4::-2]])
def test_an_array_gets_the_gaps_of_the_recordings(view, tmp_path):
    whole = np.random.default_rng(0).normal(size=(2, 6))
    f, x = compiled(lambda x: np.sum(x**2)), whole[view]
    f(x)
    f.save(tmp_path / "a.py")
    run = runpy.run_path(str(tmp_path / "a.py"))["loss_and_gradient"]
    for y in (x, x.copy(), np.asfortranarray(x)):
        for got, expected in zip(run(y), [f(x).val, *f(x).grad], strict=True):
            np.testing.assert_array_equal(got, expected)


def test_an_array_of_one_row_repeated_must_be_that(tmp_path):
    f, row = compiled(lambda x: np.sum(x**2)), np.arange(3.0)
    f(np.broadcast_to(row, (2, 3)))
    f.save(tmp_path / "a.py")
    run = runpy.run_path(str(tmp_path / "a.py"))["loss_and_gradient"]
    assert run(np.array([row, row]))[0] == 10
    with pytest.raises(TypeError, match=r"x must be laid out .* strides \(0, 8\), not \(24, 8\)"):
        run(np.array([row, row + 1]))


def test_a_file_that_is_no_text_is_left(tmp_path):
    f, path = compiled(lambda x: np.sum(x)), tmp_path / "a.py"
    path.write_bytes(b"\xff\xfe\x00")
    f(np.ones(2))
    with pytest.raises(FileExistsError):
        f.save(path)
    assert path.read_bytes() == b"\xff\xfe\x00"


def test_what_was_recorded_of_other_data_is_not_saved(tmp_path):
    W, V = param([1.0, 2.0]), np.array([1.0, 2.0])

    def loss(x):
        return np.sum(W * V * x) * (2.0 if V.max() > 1.5 else 3.0)

    f = compiled(loss, params(W))
    f(2.0)
    V[...] = 1
    with pytest.raises(
        ValueError, match="data that loss reads have changed since it was recorded for x: float"
    ):
        f.save(tmp_path / "a.py")
    assert list(tmp_path.iterdir()) == []
    expected = f(2.0)
    f.save(tmp_path / "a.py")
    run = runpy.run_path(str(tmp_path / "a.py"))["loss_and_gradient"]
    assert run(W.value, 2.0)[0] == expected.val


def test_a_saved_program_says_where_a_result_is_of_another_kind(tmp_path):
    W = param([1.0, 2.0])
    f = compiled(lambda a: np.sum(np.abs(W * a**0.5)), params(W))
    f(4.0)
    f.save(tmp_path / "a.py")
    run = runpy.run_path(str(tmp_path / "a.py"))["loss_and_gradient"]
    assert run(W.value, 9.0)[0] == 9.0
    with pytest.raises(Exception, match="a result has another shape or type than when this was recorded"):
        run(W.value, -9.0)


def test_a_saved_step_takes_what_it_has_given(tmp_path):
    s, W = param(0.5), param([1.0, 2.0])
    step = compiled(lambda x: (s * x - 1) ** 2 + np.sum(W**2), params(s, W), mo.Momentum(0.1, 0.5))
    now, v = [s.value.copy(), W.value.copy()], np.zeros(3)
    step(2.0)
    step.save(tmp_path / "a.py")
    module = runpy.run_path(str(tmp_path / "a.py"))
    for _ in range(3):
        _, *grads = module["loss_and_gradient"](*now, 2.0)
        *now, v = module["step"](*now, *grads, v, *mo.Momentum(0.1, 0.5).coefficients(1))
        np.testing.assert_array_equal(now[0], s.value)
        np.testing.assert_array_equal(now[1], W.value)
        step(2.0)
