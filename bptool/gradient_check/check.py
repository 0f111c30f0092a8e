"""Checks a claimed gradient against the function itself, tensor by tensor.

Each tensor is probed by central differences along random directions, which see a fault in any
of its elements, and on sampled elements, which say where it is; then by a Taylor test. A probe
agrees when

    |fd - g| <= 1e-6 max(|fd|, |g|) + 1e-8 ||g of the tensor|| + 1e-10 ||all g||

A probe whose difference cannot be had to that accuracy (a kink too near, rounding too large) is
left out, counted, and another is drawn; a tensor where more than a tenth had to be left out
fails. Everything is decided by ``seed``, the name of the function and the name of the tensor.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bptool.gradient_check.differences import Line, Point, derivative, rounding_noise
from bptool.gradient_check.differentiable import Array, Differentiable, Signs
from bptool.gradient_check.report import Probe, Report, Taylor, TensorReport
from bptool.gradient_check.taylor import taylor_test

RELATIVE_TO_VALUE = 1e-6
RELATIVE_TO_TENSOR = 1e-8
RELATIVE_TO_ALL = 1e-10
FIRST_STEP = 0.1
"""Of the root mean square of the tensor, for each element that a probe moves."""
TARGET = 0.05
"""Uncertainty of a difference, as a share of the tolerance, at which no better step is tried."""
MAX_LEFT_OUT = 0.1
MAX_ATTEMPTS = 3
"""Draws for each probe or Taylor test that is wanted."""
MAX_SHORT = 0.2
"""Share of the tensors that may go without a Taylor slope."""
ROUNDING_OF_TENSOR = 1e-11
ROUNDING_OF_ALL = 1e-15
"""Rounding of a gradient that the Taylor test, far finer than agreement asks, lets pass."""


@dataclass(frozen=True)
class Effort:
    """How much to check of each tensor."""

    n_elements: int = 8
    n_directions: int = 3


class _Evaluator:
    """Evaluates the function along lines and puts every input back exactly."""

    def __init__(self, function: Differentiable) -> None:
        self.function = function
        self.n_evaluations = 0
        self.signs: dict[str, Signs] = {}

    def point(self) -> Point:
        self.n_evaluations += 1
        with np.errstate(all="ignore"):
            value = float(self.function.value())
        signs = self.function.kinks()
        crossed = tuple(
            name for name, side in self.signs.items() if not np.array_equal(signs[name], side)
        )
        return Point(value, crossed)

    def remember_signs(self) -> None:
        self.signs = {name: side.copy() for name, side in self.function.kinks().items()}

    def line(self, moves: list[tuple[Array, Array]]) -> Line:
        """The line on which each array moves along its direction, all at once."""
        starts = [x.copy() for x, _ in moves]

        def at(h: float) -> Point:
            try:
                for (x, direction), start in zip(moves, starts, strict=True):
                    x[...] = start + h * direction
                return self.point()
            finally:
                for (x, _), start in zip(moves, starts, strict=True):
                    x[...] = start

        return at

    def element_line(self, x: Array, index: tuple[int, ...]) -> Line:
        """The line on which one element moves by h."""
        start = x[index]

        def at(h: float) -> Point:
            try:
                x[index] = start + h
                return self.point()
            finally:
                x[index] = start

        return at


def check(
    function: Differentiable,
    *,
    seed: int = 0,
    effort: Effort | None = None,
    on_tensor: Callable[[TensorReport], None] | None = None,
) -> Report:
    """Check every input of ``function``; ``on_tensor`` hears of each as it is done."""
    effort = effort or Effort()
    for name, x in function.inputs.items():
        if x.dtype != np.float64:
            raise TypeError(
                f"{function.name}: {name} is {x.dtype}; gradients are checked at float64"
            )
    evaluator = _Evaluator(function)
    value = evaluator.point().value
    evaluator.remember_signs()
    gradients, problems = _claimed_gradients(function)
    if not math.isfinite(value):
        problems.append(f"the value is {value}")
    elif evaluator.point().value != value:
        problems.append("two evaluations at one point differ (is a dropout mask not held?)")
    total_norm = math.sqrt(sum(_norm(g) ** 2 for g in gradients.values()))
    noise = math.inf
    if math.isfinite(value):
        rng = np.random.default_rng([seed, zlib.crc32(function.name.encode())])
        moves = [(x, _typical_size(x) * _signs(rng, x.shape)) for x in function.inputs.values()]
        noise = rounding_noise(evaluator.line(moves), 2.0**-36)
    tensors = []
    for name, x in function.inputs.items():
        if name not in gradients:
            continue
        rng = np.random.default_rng(
            [seed, zlib.crc32(function.name.encode()), zlib.crc32(name.encode())]
        )
        tensor = _TensorCheck(
            evaluator, name, x, gradients[name], value, noise, total_norm, effort, rng
        ).report()
        tensors.append(tensor)
        if on_tensor is not None:
            on_tensor(tensor)
    short = [t.name for t in tensors if t.taylor is not None and t.taylor.verdict == "short"]
    if len(short) > max(1.0, MAX_SHORT * len(tensors)):
        problems.append(f"no Taylor slope could be measured for {', '.join(short)}")
    return Report(function.name, value, noise, evaluator.n_evaluations, tensors, problems)


def _claimed_gradients(function: Differentiable) -> tuple[dict[str, Array], list[str]]:
    """Copies of the gradients under test, and what is wrong with them before any comparison."""
    problems = []
    before = {name: x.copy() for name, x in function.inputs.items()}
    gradients = {name: np.array(g, np.float64) for name, g in function.gradients().items()}
    again = function.gradients()
    for name, x in function.inputs.items():
        if x.tobytes() != before[name].tobytes():
            x[...] = before[name]
            problems.append(f"computing the gradient changed the input {name}")
        if name not in gradients:
            problems.append(f"no gradient for {name}")
        elif gradients[name].shape != x.shape:
            found = gradients.pop(name).shape
            problems.append(f"the gradient of {name} has shape {found} instead of {x.shape}")
        elif _norm(gradients[name] - again[name]) > 1e-12 * _norm(gradients[name]):
            problems.append(f"the gradient of {name} differs when computed a second time")
    return {name: g for name, g in gradients.items() if name in function.inputs}, problems


def _norm(g: Array) -> float:
    return float(np.linalg.norm(g.ravel()))


def _typical_size(x: Array) -> float:
    return float(np.sqrt(np.mean(x * x))) or 1.0


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.choice((-1.0, 1.0), shape)


class _TensorCheck:
    """The probes of one tensor and what they add up to."""

    def __init__(
        self,
        evaluator: _Evaluator,
        name: str,
        x: Array,
        g: Array,
        value: float,
        noise: float,
        total_norm: float,
        effort: Effort,
        rng: np.random.Generator,
    ) -> None:
        self.evaluator = evaluator
        self.name = name
        self.x = x
        self.g = g
        self.value = value
        self.noise = noise
        self.norm = _norm(g)
        self.total_norm = total_norm
        self.effort = effort
        self.rng = rng
        self.size = _typical_size(x)
        self.kinks: Counter[str] = Counter()
        self.n_attempted = 0
        self.n_left_out = 0
        self.step_share = FIRST_STEP
        """Share of the natural step that served the probe before, where the next one begins."""

    def report(self) -> TensorReport:
        if self.x.size == 0 or not math.isfinite(self.norm) or not math.isfinite(self.noise):
            what = "empty" if self.x.size == 0 else "not finite"
            return TensorReport(
                self.name, self.x.shape, self.norm, 0, 0, 0, {}, None, None, None,
                [f"the tensor, its gradient or the value is {what}"],
            )  # fmt: skip
        directions = self._probe_directions()
        elements = self._probe_elements()
        taylor = self._taylor()
        probes = directions + elements
        problems = [
            f"{probe.where}: gradient {probe.gradient:.9g}, finite difference "
            f"{probe.finite_difference:.9g}, {probe.ratio:.3g} times the tolerance"
            for probe in sorted(probes, key=lambda p: -p.ratio)
            if not probe.ratio <= 1.0
        ]
        if self.n_left_out > MAX_LEFT_OUT * self.n_attempted:
            problems.append(
                f"{self.n_left_out} of {self.n_attempted} probes could not be checked"
                + (f" (kinks: {', '.join(sorted(self.kinks))})" if self.kinks else "")
            )
        if taylor.verdict == "fail":
            problems.append(f"Taylor remainder falls with slope {taylor.slope:.3f}, not 2")
        # A gradient under the tolerance's floor can only be told from a large one.
        note = ""
        if all(abs(p.finite_difference) + abs(p.gradient) <= p.tolerance for p in probes):
            note = "zero"
        return TensorReport(
            name=self.name,
            shape=self.x.shape,
            gradient_norm=self.norm,
            n_elements_checked=len(elements),
            n_directions=len(directions),
            n_left_out=self.n_left_out,
            kinks=dict(self.kinks),
            worst=max(probes, key=lambda p: p.ratio, default=None),
            worst_element=max(elements, key=lambda p: p.ratio, default=None),
            taylor=taylor,
            problems=problems,
            note=note,
        )

    def tolerance(self, fd: float, g: float) -> float:
        return (
            RELATIVE_TO_VALUE * max(abs(fd), abs(g))
            + RELATIVE_TO_TENSOR * self.norm
            + RELATIVE_TO_ALL * self.total_norm
        )

    def _probe(self, line: Line, where: str, g: float, natural_step: float) -> Probe | None:
        """Compare one derivative; None when no step tells agreement from disagreement."""
        self.n_attempted += 1
        first_step = natural_step * self.step_share
        found = derivative(line, first_step, self.noise, lambda fd: TARGET * self.tolerance(fd, fd))
        for name in found.crossed:
            self.kinks[name] += 1
        fd = found.value
        tolerance = self.tolerance(fd, g)
        difference = abs(fd - g)
        agrees = found.uncertainty <= tolerance and difference <= tolerance
        disagrees = difference > tolerance + 3 * found.uncertainty
        if not found.found or not (agrees or disagrees):
            self.n_left_out += 1
            return None
        self.step_share = found.step / natural_step
        ratio = difference / tolerance if tolerance > 0 else (math.inf if difference else 0.0)
        return Probe(where, fd, g, tolerance, found.uncertainty, found.step, ratio)

    def _direction(self, attempt: int) -> Array:
        """A random unit direction. Later attempts move fewer elements, to meet fewer kinks."""
        v = _signs(self.rng, self.x.shape) * self.rng.uniform(0.5, 1.5, self.x.shape)
        if attempt > 0:
            n_moved = max(1, self.x.size // 8**attempt)
            kept = self.rng.choice(self.x.size, n_moved, replace=False)
            mask = np.zeros(self.x.size, bool)
            mask[kept] = True
            v *= mask.reshape(self.x.shape)
        return np.asarray(v / np.linalg.norm(v))

    def _natural_step(self, direction: Array) -> float:
        return self.size * math.sqrt(np.count_nonzero(direction))

    def _probe_directions(self) -> list[Probe]:
        probes: list[Probe] = []
        for number in range(1, self.effort.n_directions + 1):
            for attempt in range(MAX_ATTEMPTS):
                v = self._direction(attempt)
                line = self.evaluator.line([(self.x, v)])
                g = float(np.sum(self.g * v))
                probe = self._probe(line, f"direction {number}", g, self._natural_step(v))
                if probe is not None:
                    probes.append(probe)
                    break
        return probes

    def _probe_elements(self) -> list[Probe]:
        """Elements with the largest gradients, the first and last, then random ones."""
        largest = np.argsort(-np.abs(self.g.ravel()), kind="stable")[:2]
        order = [*largest, 0, self.x.size - 1, *self.rng.permutation(self.x.size)]
        candidates = list(dict.fromkeys(int(i) for i in order))
        wanted = min(self.effort.n_elements, self.x.size)
        self.step_share = FIRST_STEP
        probes: list[Probe] = []
        for flat in candidates[: MAX_ATTEMPTS * wanted]:
            if len(probes) == wanted:
                break
            index = tuple(int(i) for i in np.unravel_index(flat, self.x.shape))
            size = max(self.size, abs(float(self.x[index])))
            line = self.evaluator.element_line(self.x, index)
            where = f"[{', '.join(map(str, index))}]"
            probe = self._probe(line, where, float(self.g[index]), size)
            if probe is not None:
                probes.append(probe)
        return probes

    def _taylor(self) -> Taylor:
        """The first verdict that settles it; a failure must be met along two directions."""
        failure: Taylor | None = None
        last: Taylor | None = None
        reach = 1.0
        for attempt in range(2 * MAX_ATTEMPTS):
            density = 0 if last is None or last.n_past_kink == 0 else attempt
            v = self._direction(density)
            g = float(np.sum(self.g * v))
            accepted = ROUNDING_OF_TENSOR * self.norm + ROUNDING_OF_ALL * self.total_norm
            line = self.evaluator.line([(self.x, v)])
            step = self._natural_step(v) * reach
            last = taylor_test(line, self.value, g, step, self.noise, accepted)
            if last.verdict == "fail" and reach > 1.0:
                # Far out, a function that levels off leaves a remainder that is linear.
                last = dataclasses.replace(last, verdict="short")
            if last.verdict in ("ok", "flat"):
                return last
            if last.verdict == "fail":
                if failure is not None:
                    return last
                failure = last
            elif last.n_past_kink == 0:
                reach *= 16
        assert last is not None
        return failure or last
