"""Rules of whole tensors: equal to plain pseudo-code, however cut, resumed, scaled or padded."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bptool.errors import ConfigError
from bptool.models.base import FlatLayout, ParamSpec
from bptool.optim.tensor_rule import TensorRule
from bptool.registry import optimizers
from bptool.training.machine import choose_engine
from bptool.training.update import OptimizerState, WeightUpdate, elements_held

Array = NDArray[Any]
Tensors = dict[str, Array]
NAMES = [name for name in optimizers.names() if issubclass(optimizers.get(name), TensorRule)]
N_STEPS = 20
LAYOUT = FlatLayout(
    (
        ParamSpec("wte", "wte.weight", (11, 6), 1.0, decay=True, table=True),
        ParamSpec("fc", "h.{}.fc.weight", (2, 9, 6), 1.0, decay=True),
        ParamSpec("ln", "h.{}.ln.weight", (2, 6), 1.0),
        ParamSpec("proj", "proj.weight", (5, 13), 1.0, decay=True),
        ParamSpec("bias", "bias", (7,), 1.0),
    )
)

SQUARE = FlatLayout(
    (
        ParamSpec("wte", "wte.weight", (6, 6), 1.0, decay=True, table=True),
        ParamSpec("fc", "h.{}.fc.weight", (2, 7, 7), 1.0, decay=True),
        ParamSpec("ln", "h.{}.ln.weight", (2, 6), 1.0),
    )
)


def recorded(dtype: Any, layout: FlatLayout = LAYOUT) -> tuple[Array, list[Array]]:
    """Weights, and gradients of very different sizes, the same in each type; zero in padding."""
    rng = np.random.default_rng(5)

    def fill(scale: Callable[[tuple[int, ...]], Any]) -> Array:
        buffer = layout.allocate(dtype)
        for view in layout.named(buffer).values():
            view[...] = (scale(view.shape) * rng.normal(size=view.shape)).astype(np.float32)
        return buffer

    w = fill(lambda shape: 1.0)
    spread = 0.0 if layout is SQUARE else 3.0
    sizes = {p.shape: 10.0 ** rng.uniform(-spread, 1, size=p.shape) for p in layout.places()}
    return w, [fill(sizes.__getitem__) for _ in range(N_STEPS)]


def make(name: str, **options: Any) -> TensorRule:
    cls = optimizers.get(name)
    rule: TensorRule = cls(cls.Config(**options))
    return rule


class Runner:
    """A rule on the flat buffers of a layout, one worker after the other."""

    def __init__(
        self, rule: Any, w: Array, layout: FlatLayout = LAYOUT, n_workers: int = 1
    ) -> None:
        self.rule, self.w, self.n_workers = rule, w, n_workers
        self.update = WeightUpdate(rule, layout, n_workers, choose_engine("tiled"), w.dtype)
        self.step = 0

    def run(self, gradients: list[Array], scale: float = 1.0, rate: float | None = None) -> Array:
        rate = self.rule.config.learning_rate if rate is None else rate
        for g in gradients:
            self.step += 1
            self.update.begin(rate, self.step)
            for worker in reversed(range(self.n_workers)):
                part = (
                    worker * 32,
                    self.w.size if worker == self.n_workers - 1 else worker * 32 + 32,
                )
                self.update(worker, part, self.w, g, rate, scale, self.step)
        return self.w


every_rule = pytest.mark.parametrize("name", NAMES)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])

# References, on one tensor, in plain numpy and float64.


def lamb(w: Array, gradients: list[Array], c: dict[str, Any], decay: float, table: bool) -> Array:
    """You et al. 2020, algorithm 2."""
    m, v, b1, b2 = np.zeros_like(w), np.zeros_like(w), c["beta1"], c["beta2"]
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        r = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + c["eps"])
        u = r + decay * w
        ratio = np.linalg.norm(w) / np.linalg.norm(u) if w.ndim > 1 else 1.0
        w = w - c["learning_rate"] * ratio * u
    return w


def adamw(w: Array, gradients: list[Array], rate: float, c: dict[str, Any], decay: float) -> Array:
    m, v, b1, b2 = np.zeros_like(w), np.zeros_like(w), c["beta1"], c["beta2"]
    for t, g in enumerate(gradients, start=1):
        w = w * (1 - rate * decay)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        w = w - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + c["adamw_eps"])
    return w


def muon(w: Array, gradients: list[Array], c: dict[str, Any], decay: float, table: bool) -> Array:
    """Jordan et al. 2024: momentum, five quintic iterations, and a length by the shape."""
    if w.ndim < 2 or table:
        return adamw(w, gradients, c["learning_rate"] * c["adamw_factor"], c, decay)
    rows, columns = w.shape
    buffer = np.zeros_like(w)
    for g in gradients:
        buffer = c["momentum"] * buffer + (1 - c["momentum"]) * g
        look = (1 - c["momentum"]) * g + c["momentum"] * buffer if c["nesterov"] else buffer
        x = look.T if rows > columns else look
        x = x / max(np.linalg.norm(x), c["eps"])
        for _ in range(c["ns_steps"]):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        x = x.T if rows > columns else x
        length = {
            "original": math.sqrt(max(1, rows / columns)),
            "match_rms_adamw": 0.2 * math.sqrt(max(rows, columns)),
        }[c["adjust"]]
        w = w * (1 - c["learning_rate"] * decay) - c["learning_rate"] * length * x
    return w


def soap(w: Array, gradients: list[Array], c: dict[str, Any], decay: float, table: bool) -> Array:
    """Vyas et al. 2025, algorithm 3, with momentum kept unprojected and explicit identities."""
    b1, b2 = c["beta1"], c["beta2"]
    b3 = b2 if c["shampoo_beta"] is None else c["shampoo_beta"]
    shape = w.shape
    matrix = w.ndim == 2
    w = w.reshape(-1, w.shape[-1])
    both = [matrix and size <= c["max_precondition_dim"] for size in w.shape]
    bases = [np.eye(size) for size in w.shape]
    factors = [np.zeros((size, size)) for size in w.shape]
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, gradient in enumerate(gradients):
        g = gradient.reshape(w.shape)
        if t > 0:
            m = b1 * m + (1 - b1) * g
            projected = bases[0].T @ g @ bases[1]
            v = b2 * v + (1 - b2) * projected**2
            mean = bases[0].T @ m @ bases[1]
            n = mean / (np.sqrt(v) + c["eps"]) * math.sqrt(1 - b2**t) / (1 - b1**t)
            w = w - c["learning_rate"] * bases[0] @ n @ bases[1].T
            w = w - c["learning_rate"] * decay * w
        for axis, product in enumerate((g @ g.T, g.T @ g)):
            if not both[axis]:
                continue
            factors[axis] = b3 * factors[axis] + (1 - b3) * product
            basis, factor = bases[axis], factors[axis]
            if t == 0:
                bases[axis] = np.linalg.eigh(factor)[1][:, ::-1]
            elif t % c["precondition_frequency"] == 0:
                order = np.argsort(-np.diag(basis.T @ factor @ basis), kind="stable")
                v = v[order] if axis == 0 else v[:, order]
                bases[axis] = np.linalg.qr(factor @ basis[:, order])[0]
    return w.reshape(shape)


def adafactor(
    w: Array, gradients: list[Array], c: dict[str, Any], decay: float, table: bool
) -> Array:
    torch = pytest.importorskip("torch", reason="torch is not installed; see CONTRIBUTING.md")
    parameter = torch.nn.Parameter(torch.tensor(w.copy()))
    reference = torch.optim.Adafactor(
        [parameter],
        lr=c["learning_rate"],
        beta2_decay=c["beta2_decay"],
        eps=(c["eps1"], c["eps2"]),
        d=c["clip"],
        weight_decay=decay,
    )
    for g in gradients:
        parameter.grad = torch.tensor(g.copy())
        reference.step()
    found: Array = parameter.detach().numpy()
    return found


REFERENCES = {"lamb": lamb, "muon": muon, "soap": soap, "adafactor": adafactor}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("lamb", {}),
    ("lamb", {"beta1": 0.8, "beta2": 0.9, "eps": 1e-4, "weight_decay": 0.3}),
    ("muon", {}),
    ("muon", {"nesterov": False, "adjust": "original", "adamw_factor": 0.1, "ns_steps": 3}),
    ("soap", {"precondition_frequency": 3}),
    ("soap", {"max_precondition_dim": 6, "shampoo_beta": 0.8, "precondition_frequency": 1}),
    ("soap", {"max_precondition_dim": 1, "weight_decay": 0.0}),
    ("adafactor", {}),
    ("adafactor", {"beta2_decay": -0.5, "weight_decay": 0.1, "clip": 2.0, "learning_rate": 0.3}),
]


def test_every_rule_has_a_reference() -> None:
    known = {name for name in NAMES if optimizers.get(name).__module__[:7] == "bptool."}
    assert known == set(REFERENCES) == {name for name, _ in CASES}


# In float32 the eigenvectors of nearly equal eigenvalues are any rotation of each other.
TYPED = [(*case, dtype) for case in CASES for dtype in (np.float64, np.float32)]
TYPED = [case for case in TYPED if case[0] != "soap" or case[2] is np.float64]


@pytest.mark.parametrize(("name", "options", "dtype"), TYPED, ids=str)
def test_equals_its_reference(name: str, options: dict[str, Any], dtype: Any) -> None:
    rule = make(name, **options)
    # Both sides of a matrix have a full set of eigenvalues only where it is square.
    both_sides = name == "soap" and "max_precondition_dim" not in options
    layout = SQUARE if both_sides else LAYOUT
    w, gradients = recorded(dtype, layout)
    start = layout.named(w.copy())
    each = [layout.named(g) for g in gradients]
    Runner(rule, w, layout).run(gradients)
    settings = rule.config.model_dump()
    if name == "adafactor":
        settings["eps1"] = float(np.finfo(dtype).eps)
    for place in layout.places():
        mine = [g[place.name].astype(np.float64) for g in each]
        decay = rule.weight_decay if place.decay else 0.0
        first = start[place.name].astype(np.float64)
        want = REFERENCES[name](first, mine, settings, decay, place.table)
        found = layout.named(w)[place.name]
        tolerance = 1e-12 if dtype is np.float64 else 1e-6
        error = np.abs(found - want).max() / np.abs(want).max()
        assert error <= tolerance, f"{place.name}: {error:.2e}"
        assert not np.array_equal(found, start[place.name])


@every_rule
@every_dtype
def test_one_worker_is_three(name: str, dtype: Any) -> None:
    w, gradients = recorded(dtype)
    cut = w.copy()
    one = Runner(make(name), w)
    three = Runner(make(name), cut, n_workers=3)
    assert np.array_equal(one.run(gradients), three.run(gradients))
    for key, value in one.update.state.named().items():
        assert np.array_equal(value, three.update.state.named()[key]), key


@every_rule
@every_dtype
def test_resumes_exactly_from_the_named_state(name: str, dtype: Any) -> None:
    w, gradients = recorded(dtype)
    unbroken = Runner(make(name), w.copy()).run(gradients)
    first = Runner(make(name), w)
    first.run(gradients[:13])
    second = Runner(make(name), w.copy(), n_workers=2)
    second.step = first.step
    mine = second.update.state.named()
    for key, value in first.update.state.named().items():
        mine[key][...] = value
    assert np.array_equal(second.run(gradients[13:]), unbroken)


@every_rule
@every_dtype
def test_grad_scale_padding_and_gradient(name: str, dtype: Any) -> None:
    """A power of two scales without rounding; what is no tensor's stays zero; g is left alone."""
    w, gradients = recorded(dtype)
    kept = [g.copy() for g in gradients]
    scaled = Runner(make(name), w.copy())
    plain = Runner(make(name), w.copy())
    scaled.run(gradients, scale=0.25)
    plain.run([g * dtype(0.25) for g in gradients])
    assert np.array_equal(scaled.w, plain.w)
    assert all(np.array_equal(g, k) for g, k in zip(gradients, kept, strict=True))
    inside = np.zeros(LAYOUT.size, bool)
    for place in LAYOUT.places():
        inside[place.start : place.stop] = True
    assert not inside.all()
    assert not scaled.w[~inside].any()
    assert np.isfinite(scaled.w).all()


@every_rule
def test_its_state_is_counted_and_starts_at_zero(name: str) -> None:
    rule = make(name)
    state = OptimizerState(rule, LAYOUT)
    named = sum(view.size for view in state.named().values())
    held = sum(buffer.size for buffer in state.buffers.values())
    assert not any(buffer.any() for buffer in state.buffers.values())
    assert named <= held <= elements_held(rule, LAYOUT, 2)
    for place in LAYOUT.places():
        for view in state.of_tensor(place.name).values():
            assert view.ctypes.data % 64 == 0


def test_muon_leaves_tables_and_vectors_to_adamw() -> None:
    state = OptimizerState(make("muon"), LAYOUT).named()
    assert {key.split("/")[0] for key in state if "fc" in key or "proj" in key} == {"momentum"}
    assert {key.split("/")[0] for key in state if "wte" in key or "ln" in key} == {"m", "v"}


def test_adafactor_keeps_a_number_a_row_and_a_column() -> None:
    state = OptimizerState(make("adafactor"), LAYOUT).named()
    assert state["rows/h.1.fc.weight"].shape == (9,)
    assert state["columns/h.1.fc.weight"].shape == (6,)


MATRIX = FlatLayout((ParamSpec("w", "w", (2, 2), 1.0, decay=True),))


def descend(rule: Any, start: Array, gradient: Callable[[Array], Array], n_steps: int) -> Array:
    buffer = MATRIX.allocate(np.float64)
    w = MATRIX.named(buffer)["w"]
    w[...] = start
    runner, g = Runner(rule, buffer, MATRIX), MATRIX.allocate(np.float64)
    for step in range(n_steps):
        MATRIX.named(g)["w"][...] = gradient(w)
        runner.run([g], rate=rule.config.learning_rate * (1 - step / n_steps))
    return w


def best(name: str, start: Array, loss: Any, gradient: Any, n_steps: int) -> float:
    """Lowest final loss over a ladder of learning rates; divergence counts as infinite."""
    losses = [math.inf]
    for rate in (1.0, 0.1, 0.03, 0.01, 0.003):
        with np.errstate(all="ignore"):
            try:
                w = descend(
                    make(name, learning_rate=rate, weight_decay=0.0), start, gradient, n_steps
                )
            except np.linalg.LinAlgError:
                continue
        losses.append(float(loss(w)) if np.isfinite(w).all() else math.inf)
    return min(losses)


@every_rule
def test_converges_on_a_parabola(name: str) -> None:
    curvature, target = np.array([[1.0, 10.0], [0.5, 3.0]]), np.array([[0.3, -2.0], [1.0, 0.5]])
    found = best(
        name,
        np.array([[2.0, 2.0], [-1.0, 1.0]]),
        lambda w: (curvature * (w - target) ** 2).sum() / 2,
        lambda w: curvature * (w - target),
        800,
    )
    assert found < 1e-3


@every_rule
def test_converges_on_two_rosenbrocks(name: str) -> None:
    """One in each row of the matrix."""

    def gradient(w: Array) -> Array:
        x, y = w[:, 0], w[:, 1]
        return np.stack([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)], axis=1)

    found = best(
        name,
        np.array([[-1.0, 1.5], [0.5, 0.0]]),
        lambda w: ((1 - w[:, 0]) ** 2 + 100 * (w[:, 1] - w[:, 0] ** 2) ** 2).sum(),
        gradient,
        6_000,
    )
    assert found < 1e-2


GROUPS = [
    {"match": "wte.*", "learning_rate_factor": 0.0},
    {"match": "h.1.*", "learning_rate_factor": 0.5, "weight_decay": 0.3},
]


@pytest.mark.parametrize("name", ["adamw", "muon", "lion"])
def test_groups_are_other_rates_and_decays_of_the_tensors_they_match(name: str) -> None:
    """Equal to a run of all tensors with the group's settings, tensor by tensor."""
    w, gradients = recorded(np.float64)
    rate, decay = 0.01, 0.1
    settings = {"learning_rate": rate, "weight_decay": decay}
    found = Runner(make(name, **settings, groups=GROUPS), w.copy(), n_workers=3).run(gradients)
    plain = Runner(make(name, **settings), w.copy()).run(gradients)
    everywhere = [{"match": "*", "weight_decay": 0.3}]
    other = {"learning_rate": rate / 2, "weight_decay": decay, "groups": everywhere}
    matched = Runner(make(name, **other), w.copy()).run(gradients)
    for tensor, view in LAYOUT.named(found).items():
        want = matched if tensor.startswith("h.1.") else w if tensor.startswith("wte") else plain
        assert np.allclose(view, LAYOUT.named(want)[tensor], rtol=1e-13, atol=0), tensor


def test_a_group_that_matches_nothing_is_refused_with_the_nearest_name() -> None:
    rule = make("adamw", groups=[{"match": "*"}, {"match": "wte.wieght"}])
    with pytest.raises(ConfigError, match=r"groups\.1\.match: 'wte.wieght'.*'wte\.weight'"):
        WeightUpdate(rule, LAYOUT, 1, choose_engine("tiled"))
