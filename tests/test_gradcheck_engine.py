"""The checker itself: a right gradient is never flagged, a wrong one always is."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bptool.gradient_check.check import Effort, check
from bptool.gradient_check.differences import Point, derivative, rounding_noise
from bptool.gradient_check.differentiable import Array, Composed, Function
from bptool.gradient_check.taylor import taylor_test

ACTIVATIONS = {
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "sin": (np.sin, np.cos),
    "softplus": (lambda z: np.logaddexp(0, z), lambda z: 0.5 * (1 + np.tanh(z / 2))),
    "gauss": (lambda z: np.exp(-z * z), lambda z: -2 * z * np.exp(-z * z)),
    "square": (lambda z: z * z, lambda z: 2 * z),
}


class TwoLayers(Function):
    """``scale * mean(act(x W + b) . u) + offset`` with parameters of chosen sizes.

    ``fault`` edits the true gradients before they are handed out.
    """

    def __init__(
        self,
        seed: int,
        activation: str = "tanh",
        scale: float = 1.0,
        offset: float = 0.0,
        sizes: tuple[float, float, float] = (1.0, 1.0, 1.0),
        fault=None,
    ) -> None:
        rng = np.random.default_rng(seed)
        n, k, m = (int(i) for i in rng.integers(2, 7, 3))
        self.act, self.slope = ACTIVATIONS[activation]
        self.sizes = sizes
        self.scale, self.offset = scale, offset
        inputs = {
            "x": rng.normal(size=(n, k)) * sizes[0],
            "w": rng.normal(size=(k, m)) * sizes[1],
            "b": rng.normal(size=m),
            "u": rng.normal(size=m) * sizes[2],
        }
        self.fault = fault or (lambda g: None)
        super().__init__(f"two-layers-{activation}", inputs, self._forward, self._backward)

    def _hidden(self) -> tuple[Array, Array]:
        # The product is brought to unit size whatever the sizes of x and w.
        z = self.inputs["x"] @ self.inputs["w"] / (self.sizes[0] * self.sizes[1])
        z = z + self.inputs["b"]
        return z, self.act(z)

    def _forward(self) -> float:
        _, a = self._hidden()
        return self.scale * float(np.mean(a @ self.inputs["u"])) + self.offset

    def _backward(self) -> dict[str, Array]:
        z, a = self._hidden()
        da = np.full((len(z), 1), self.scale / len(z)) * self.inputs["u"]
        dz = da * self.slope(z)
        dxw = dz / (self.sizes[0] * self.sizes[1])
        gradients = {
            "x": dxw @ self.inputs["w"].T,
            "w": self.inputs["x"].T @ dxw,
            "b": dz.sum(axis=0),
            "u": self.scale * a.mean(axis=0),
        }
        self.fault(gradients)
        return gradients


powers = st.integers(-6, 6).map(lambda k: 10.0**k)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    scale=powers,
    sizes=st.tuples(powers, powers, powers),
)
def test_a_right_gradient_is_never_flagged(seed, activation, scale, sizes):
    report = check(TwoLayers(seed, activation, scale, 0.0, sizes), seed=seed)
    assert report.ok, report.failures()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), activation=st.sampled_from(sorted(ACTIVATIONS)))
def test_an_offset_that_costs_digits_raises_no_alarm(seed, activation):
    report = check(TwoLayers(seed, activation, 0.1, 50.0), seed=seed)
    assert report.ok, report.failures()


def _sign(g: Array) -> None:
    g *= -1


def _half(g: Array) -> None:
    g *= 0.5


def _slightly_off(g: Array) -> None:
    g *= 1 + 1e-5


def _missing_row(g: Array) -> None:
    g[np.argmax(np.abs(g.reshape(len(g), -1)).sum(axis=1))] = 0


def _rolled(g: Array) -> None:
    g[...] = np.roll(g, 1, axis=0)


def _wrong_element(g: Array) -> None:
    flat = g.reshape(-1)
    flat[int(np.argsort(np.abs(flat))[flat.size // 2])] += 1e-3 * np.linalg.norm(g)


def _constant_added(g: Array) -> None:
    g += 1e-4 * np.linalg.norm(g)


def _doubled_in_place(g: Array) -> None:
    g.reshape(-1)[: max(1, g.size // 2)] *= 2


FAULTS = [
    _sign,
    _half,
    _slightly_off,
    _missing_row,
    _rolled,
    _wrong_element,
    _constant_added,
    _doubled_in_place,
]


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    scale=powers,
    size=powers,
    tensor=st.sampled_from(["x", "w", "b", "u"]),
    fault=st.sampled_from(FAULTS),
)
def test_a_planted_fault_is_always_found_in_its_tensor(
    seed, activation, scale, size, tensor, fault
):
    function = TwoLayers(
        seed, activation, scale, 0.0, (size, 1 / size, 1.0), lambda gs: fault(gs[tensor])
    )
    right = TwoLayers(seed, activation, scale, 0.0, (size, 1 / size, 1.0)).gradients()
    change = np.linalg.norm(function.gradients()[tensor] - right[tensor])
    total = math.sqrt(sum(float(np.sum(g * g)) for g in right.values()))
    if change <= 1e-6 * np.linalg.norm(right[tensor]) or change <= 1e-8 * total:
        return  # rolled or zeroed into itself, or under what agreement means
    report = check(function, seed=seed)
    assert not report.ok
    assert [t.name for t in report.tensors if not t.ok] == [tensor]


def test_one_wrong_element_of_many_is_found():
    rng = np.random.default_rng(3)
    x, c = rng.normal(size=(60, 50)), rng.normal(size=(60, 50))

    def gradients() -> dict[str, Array]:
        g = c * np.cos(x)
        g[17, 31] *= 1.01
        return {"x": g}

    report = check(Function("wide", {"x": x}, lambda: float(np.sum(c * np.sin(x))), gradients))
    assert not report.ok
    assert report.tensors[0].worst is not None
    assert report.tensors[0].worst.where.startswith("direction")


def test_a_transposed_square_matrix_is_found():
    rng = np.random.default_rng(4)
    x, w = rng.normal(size=(3, 5)), rng.normal(size=(5, 5))
    composed = Composed(
        "product",
        {"x": x, "w": w},
        lambda: {"y": x @ w},
        lambda d: {"x": d["y"] @ w, "w": x.T @ d["y"]},
    )
    assert [t.name for t in check(composed).tensors if not t.ok] == ["x"]


def test_linear_operation_gets_a_taylor_slope_of_two():
    rng = np.random.default_rng(5)
    x, w = 1e4 * rng.normal(size=(4, 6)), rng.normal(size=(6, 3))
    composed = Composed(
        "product",
        {"x": x, "w": w},
        lambda: {"y": x @ w},
        lambda d: {"x": d["y"] @ w.T, "w": x.T @ d["y"]},
    )
    report = check(composed)
    assert report.ok, report.failures()
    for tensor in report.tensors:
        assert tensor.taylor is not None
        assert tensor.taylor.verdict == "ok"
        assert tensor.taylor.slope == pytest.approx(2.0, abs=0.1)


def relu_net(n_rows: int, fault: float = 1.0) -> Function:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(n_rows, 8))
    w = rng.normal(size=(8, 32))
    v = rng.normal(size=(32,)) / n_rows
    state = {"z": x @ w}

    def value() -> float:
        state["z"] = x @ w
        return float(np.sum(np.tanh(np.maximum(state["z"], 0) @ v)))

    def gradients() -> dict[str, Array]:
        z = x @ w
        a = np.maximum(z, 0)
        ds = 1 - np.tanh(a @ v) ** 2
        dz = np.outer(ds, v) * (z > 0) * fault
        return {"x": dz @ w.T, "w": x.T @ dz, "v": a.T @ ds}

    return Function(
        "relu net", {"x": x, "w": w, "v": v}, value, gradients, lambda: {"relu": state["z"] > 0}
    )


@pytest.mark.parametrize("n_rows", [2, 16, 128])
def test_kinks_are_stepped_around_named_and_counted(n_rows):
    report = check(relu_net(n_rows))
    assert report.ok, report.failures()
    by_name = {t.name: t for t in report.tensors}
    assert by_name["w"].kinks["relu"] > 0
    assert by_name["v"].kinks == {}


def test_a_fault_beside_kinks_is_found():
    report = check(relu_net(128, fault=1.001))
    assert [t.name for t in report.tensors if not t.ok] == ["x", "w"]


def test_a_tensor_that_sits_on_its_kinks_fails():
    x = np.zeros(6)
    report = check(
        Function(
            "absolute",
            {"x": x},
            lambda: float(np.sum(np.abs(x))),
            lambda: {"x": np.sign(x)},
            lambda: {"sign": x > 0},
        )
    )
    assert not report.ok
    assert report.tensors[0].n_left_out > 0
    assert any("could not be checked (kinks: sign)" in line for line in report.failures())


def test_a_zero_gradient_is_agreed_and_noted():
    """Softmax does not see a constant added to its scores, as a key bias does."""
    rng = np.random.default_rng(7)
    scores, bias, c = rng.normal(size=9), rng.normal(size=1), rng.normal(size=9)

    def softmax() -> Array:
        e = np.exp(scores + bias - np.max(scores + bias))
        return e / e.sum()

    def gradients() -> dict[str, Array]:
        p = softmax()
        d = p * (c - p @ c)
        return {"scores": d, "bias": d.sum(keepdims=True)}

    report = check(
        Function(
            "softmax", {"scores": scores, "bias": bias}, lambda: float(softmax() @ c), gradients
        )
    )
    assert report.ok, report.failures()
    assert [t.note for t in report.tensors] == ["", "zero"]


@pytest.mark.parametrize(
    ("gradients", "problem"),
    [
        (lambda x: {}, "no gradient for x"),
        (lambda x: {"x": 2 * x[:-1]}, "has shape (3,)"),
        (lambda x: {"x": np.full(4, np.nan)}, "not finite"),
        (lambda x: {"x": np.zeros(4)}, "[3]: gradient 0"),
    ],
)
def test_what_is_wrong_before_any_comparison_is_said(gradients, problem):
    x = np.arange(1.0, 5.0)
    report = check(Function("square", {"x": x}, lambda: float(x @ x), lambda: gradients(x)))
    assert not report.ok
    assert any(problem in line for line in report.failures()), report.failures()


def test_a_value_that_moves_by_itself_is_refused():
    x = np.ones(3)
    rng = np.random.default_rng(8)
    report = check(
        Function("noisy", {"x": x}, lambda: float(np.sum(x)) + rng.random(), lambda: {"x": x * 1})
    )
    assert any("two evaluations" in line for line in report.failures())


def test_gradients_that_add_up_over_calls_are_refused():
    x, total = np.ones(3), np.zeros(3)

    def gradients() -> dict[str, Array]:
        total[...] += 2 * x
        return {"x": total}

    report = check(Function("square", {"x": x}, lambda: float(x @ x), gradients))
    assert any("second time" in line for line in report.failures())


def test_inputs_are_put_back_bit_for_bit_and_the_seed_decides_everything():
    function = TwoLayers(11)
    before = {name: x.tobytes() for name, x in function.inputs.items()}
    first, second = check(function, seed=5), check(function, seed=5)
    assert {name: x.tobytes() for name, x in function.inputs.items()} == before
    assert first == second
    assert check(function, seed=6) != first
    assert json.loads(json.dumps(first.to_json()))["ok"] is True


def test_effort_sets_how_much_is_probed():
    x = np.random.default_rng(9).normal(size=40)
    function = Function("sum", {"x": x}, lambda: float(np.sum(np.sin(x))), lambda: {"x": np.cos(x)})
    report = check(function, effort=Effort(n_elements=40, n_directions=5)).tensors[0]
    assert (report.n_elements_checked, report.n_directions) == (40, 5)


def test_float32_inputs_are_refused():
    x = np.ones(3, np.float32)
    with pytest.raises(TypeError, match="float32"):
        check(Function("f", {"x": x}, lambda: 0.0, lambda: {"x": x}))


@pytest.mark.parametrize("point", [1e-4, 1.0, 300.0])
def test_differences_reach_nine_digits(point):
    noise = rounding_noise(lambda h: Point(math.log(point + h)), 1e-12 * point)
    found = derivative(lambda h: Point(math.log(point + h)), 0.1 * point, noise, lambda d: 1e-9 * d)
    assert found.value == pytest.approx(1 / point, rel=2e-9)


def test_measured_noise_is_the_noise():
    rng = np.random.default_rng(10)
    measured = rounding_noise(lambda h: Point(3.0 + h + 1e-9 * rng.normal()), 1e-12)
    assert 2e-10 < measured < 5e-9


def test_taylor_slope_tells_a_small_error_from_none():
    def line(h: float) -> Point:
        return Point(math.exp(h))

    right = taylor_test(line, 1.0, 1.0, 0.5, 1e-16, 0.0)
    wrong = taylor_test(line, 1.0, 1.0 + 1e-4, 0.5, 1e-16, 0.0)
    assert right.verdict == "ok"
    assert right.slope == pytest.approx(2.0, abs=0.05)
    assert right.n_under_floor > 0
    assert wrong.verdict == "fail"
    assert wrong.slope == pytest.approx(1.0, abs=0.05)
