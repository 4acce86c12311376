"""Who uses autograd in the same process finds it as it was."""

import contextvars
import subprocess
import sys

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from autograd.extend import defvjp, primitive
from autograd.numpy.numpy_boxes import ArrayBox
from autograd.tracer import Box

import minidiff

SCRIPT = """
import warnings
import autograd, autograd.builtins, autograd.core, autograd.misc.flatten, autograd.tracer
import autograd.numpy as np
import numpy
from autograd import elementwise_grad, grad, hessian, hessian_vector_product, holomorphic_grad
from autograd import jacobian, make_jvp, make_vjp
from autograd.test_util import check_grads, check_vjp

numpy.set_printoptions(precision=14)
x, z = numpy.array([0.3, -1.2, 2.0]), numpy.array([1 + 1j, 0.5])
A = numpy.arange(9.0).reshape(3, 3) + numpy.eye(3)
f = lambda x: np.sum(np.sin(x) ** 2 * np.exp(-x)) / (1 + np.dot(x, x))

def show(name, thunk):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = thunk()
        except Exception as error:
            result = type(error).__name__, str(error)
    print(name, repr(result), [(w.category.__name__, str(w.message)) for w in caught])

show("grad", lambda: grad(f)(x))
show("elementwise_grad", lambda: elementwise_grad(np.tanh)(x))
show("jacobian", lambda: jacobian(lambda x: np.outer(x, np.cos(x)))(x))
show("hessian", lambda: hessian(f)(x))
show("hessian_vector_product", lambda: hessian_vector_product(f)(x, x))
show("make_jvp", lambda: make_jvp(f)(x)(x))
show("make_vjp", lambda: make_vjp(f)(x)[0](1.0))
show("holomorphic_grad", lambda: holomorphic_grad(lambda z: z**3)(1.0 + 2j))
show("complex", lambda: grad(lambda z: np.real(np.sum(z * np.conj(z) * z)))(z))
show("linalg", lambda: grad(lambda A: np.linalg.slogdet(A)[1] + np.sum(np.linalg.inv(A)))(A))
show("eigh", lambda: grad(lambda A: np.sum(np.linalg.eigh(A + A.T)[0] ** 2))(A))
show("fft", lambda: grad(lambda x: np.sum(np.abs(np.fft.fft(x)) ** 3))(x))
show("containers", lambda: grad(lambda d: np.sum(d["a"] * d["b"][0]))({"a": x, "b": (x + 1, [2.0])}))
show("float32", lambda: grad(f)(x.astype("float32")).dtype)
show("argnums", lambda: grad(lambda a, b: np.sum(a * b), (0, 1))(x, x + 1))
show("independent", lambda: grad(lambda x: 1.0)(2.0))
show("indices", lambda: grad(lambda x: np.sum(x[[0, 0, 1]] * x[::-1]) + x[x > 0].sum())(x))
lists = lambda x: np.concatenate([x, x * 2]) * np.stack([x, x]).ravel() + np.array([x[0], 1.0, x[1]] * 2)
show("lists", lambda: grad(lambda x: np.sum(lists(x)))(x))
show("nested", lambda: grad(lambda a: a * grad(lambda b: a + b)(1.0))(3.0))
show("third", lambda: grad(grad(grad(lambda t: np.sin(2 * t) * t)))(0.7))
show("assignment", lambda: grad(lambda x: x.__setitem__(0, 1))(x))
show("plain numpy ufunc", lambda: grad(lambda x: numpy.sum(numpy.exp(x)))(x))
show("plain numpy concatenate", lambda: type(grad(lambda x: numpy.sum(numpy.concatenate([x, x])))(x)))
show("plain numpy linalg", lambda: grad(lambda x: numpy.linalg.norm(x))(x))
show("float", lambda: grad(lambda x: float(x))(2.0))
show("check", lambda: check_grads(f, modes=["fwd", "rev"], order=2)(x))

def watch(x):
    y = x * 2
    boxes = [x, y, np.sin(y), numpy.sin(y), y[0], y.T, 1 + y, y > 0, y.sum()]
    for b in boxes + [np.concatenate([y, y]), np.linalg.inv(A * y)]:
        print(type(b), getattr(b, "_trace", None), type(getattr(b, "_node", None)))
    print(repr(y).split(" at ")[0], str(y)[:20], hash(y) == id(y), y.shape, y.dtype, len(y))
    print(autograd.tracer.trace_stack.top)
    print(sorted(name for name in dir(y) if not name.startswith("__")))
    print([hasattr(y, n) for n in ("dot", "item", "__array_function__", "__array__", "__iter__", "tolist")])
    return np.sum(y)

show("boxes", lambda: grad(watch)(x))
show("boxes of floats", lambda: grad(lambda t: (print(type(t), type(t * 2), type(t._value)), t * t)[1])(2.0))
print(autograd.tracer.trace_stack.top, type(autograd.tracer.trace_stack).__mro__[-2].__name__)

@autograd.extend.primitive
def cube(x):
    return x**3

autograd.extend.defvjp(cube, lambda ans, x: lambda g: g * 3 * x**2)
autograd.extend.defjvp(cube, lambda g, ans, x: g * 3 * x**2)
show("own primitive", lambda: (grad(cube)(2.0), grad(grad(cube))(2.0), make_jvp(cube)(2.0)(1.0)))
show("flatten", lambda: autograd.misc.flatten.flatten({"a": x, "b": 1.0})[0])
show("vspace", lambda: (autograd.core.vspace(x), autograd.core.vspace(1.0), autograd.core.vspace([x, 1j])))
show("notrace", lambda: grad(lambda x: np.sum(x) * np.shape(x)[0] * np.argmax(x))(x))
show("keywords", lambda: grad(lambda x: np.sum(x, axis=0, keepdims=True)[0] + x.mean(axis=0) + np.max(x))(x))
for name in ("grad", "exp", "sum", "concatenate"):
    print(name, sorted(vars(getattr(autograd, name, None) or getattr(np, name))))
known = lambda types: sorted(map(str, (t for t in types if not t.__module__.startswith("minidiff"))))
print(known(autograd.tracer.Box.types), known(autograd.core.VSpace.mappings))
for rules in (autograd.core.primitive_vjps, autograd.core.primitive_jvps):
    print(sum(not str(getattr(f.fun, "__module__", "")).startswith("minidiff") for f in rules))
"""


def printed(first_line):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", first_line + SCRIPT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_autograd_prints_the_same_with_and_without_minidiff():
    without, after, before = (
        printed(""),
        printed("import minidiff"),
        printed("import autograd.numpy, autograd.test_util; import minidiff"),
    )
    assert len(without) > 40
    assert after == without
    assert before == without


def test_autograd_prints_the_same_after_gradients_of_ours():
    used = (
        "import minidiff, numpy; p = minidiff.param([1.0, 2.0])\n"
        "minidiff.gradient(lambda: numpy.sum(numpy.exp(p)), minidiff.params(p))"
    )
    assert printed(used) == printed("")


def known_to_autograd(rule):
    function = primitive(lambda x: 2 * x)
    defvjp(function, lambda ans, x: rule)
    return function


def refused(g):
    raise NotImplementedError("there is none")


@pytest.mark.parametrize(
    "take", [minidiff.gradient, minidiff.hessian, minidiff.jacobian, minidiff.withgradient]
)
@pytest.mark.parametrize("rule", [lambda g: 2 * g, refused])
def test_a_rule_of_autograds_leaves_the_context_as_it_was(take, rule):
    f, before = known_to_autograd(rule), dict(contextvars.copy_context())
    try:
        take(lambda x: np.sum(f(x) ** 2), np.ones(12))
    except NotImplementedError:
        assert rule is refused
    after = dict(contextvars.copy_context())
    assert {var.name for var in after if after[var] is not before.get(var)} == set()


def test_autograds_boxes_stay_registered_and_its_own():
    import autograd.builtins as builtins

    assert {ArrayBox, builtins.SequenceBox, builtins.DictBox} <= Box.types
    seen = []
    autograd.grad(lambda x: seen.extend([x, x * 2, np.sin(x), x[0], anp.dot(x, x)]) or anp.sum(x))(np.ones(2))
    autograd.grad(lambda t: seen.extend([t, 2 * t, anp.array([t, t])]) or t)(2.0)
    assert {type(box) for box in seen} == {ArrayBox}


def test_autograds_trace_of_a_parameter_is_of_its_array():
    p = minidiff.param([1.0, 2.0])
    g = autograd.grad(lambda x: anp.sum(anp.sin(x) ** 2))
    assert type(g(p)) is np.ndarray
    np.testing.assert_array_equal(g(p), g(p.value))
    np.testing.assert_array_equal(autograd.grad(lambda x: anp.sum(x * p))(np.ones(2)), p.value)
    np.testing.assert_array_equal(autograd.jacobian(lambda x: x * p)(np.ones(2)), np.diag(p.value))
    assert isinstance(anp.exp(p), np.ndarray)
    assert autograd.make_jvp(lambda x: anp.sum(x**2))(p)(np.ones(2)) == (5.0, 6.0)


@pytest.mark.parametrize("order", ["autograd in ours", "ours in autograd"])
def test_both_mix_in_one_loss(order):
    p, v = minidiff.param([1.0, 2.0]), np.array([0.5, -0.5])

    def cubes(x):
        return anp.sum(x**3)

    if order == "autograd in ours":
        g = minidiff.gradient(
            lambda: np.sum(autograd.grad(cubes)(p) * v) + anp.sum(anp.exp(p)), minidiff.params(p)
        )[p]
    else:
        g = autograd.grad(lambda x: anp.sum(minidiff.gradient(cubes, x)[0] * v) + anp.sum(anp.exp(x)))(
            p.value
        )
    np.testing.assert_allclose(g, 6 * p.value * v + np.exp(p.value), rtol=1e-14)
