"""Every operation, activation, loss and penalty as a function that can be checked alone.

``CASES`` lists them, one entry for each backward kernel and way to call it; ``covers`` names the
kernels that an entry runs backward. ``tests/test_gradcheck_operations.py`` finds every
``*_backward`` kernel of ``ops`` and ``objectives``, and fails for one that no entry covers.

Operations that a team cuts are called for each of two members in turn, so that a part that is left
out or done twice is found too.

Outputs that a backward overwrites are handed to it full of NaN, and those it adds to hold numbers
already: both halves of an operation's contract are part of the check.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptool.gradient_check.cases import Addend, Case, overwritten
from bptool.gradient_check.check import Effort, check
from bptool.gradient_check.differentiable import Array, Composed, Differentiable
from bptool.gradient_check.objectives import objective_cases
from bptool.gradient_check.report import Report
from bptool.models.head_loss import head_logprobs, head_logprobs_backward, head_loss_and_gradient
from bptool.objectives.next_token import next_token_backward, next_token_forward
from bptool.ops.activations import ACTIVATIONS, activation_backward, activation_forward
from bptool.ops.attention import BLOCK, attention_backward, attention_forward
from bptool.ops.documents import ONE_DOCUMENT
from bptool.ops.dropout import MaskKey, dropout
from bptool.ops.embedding import embedding_backward, embedding_forward
from bptool.ops.layernorm import layernorm_backward_share, layernorm_forward
from bptool.ops.linear import linear_backward, linear_forward
from bptool.ops.logit_terms import (
    NO_TERMS,
    LogitTerms,
    logit_terms_backward,
    logit_terms_forward,
)
from bptool.ops.low_rank import low_rank_backward, low_rank_forward
from bptool.ops.matmul import blas_engine
from bptool.ops.residual import residual_backward, residual_forward
from bptool.ops.score import score_backward, score_forward
from bptool.ops.stochastic_depth import stochastic_depth
from bptool.ops.team import ALONE, make_team, share
from bptool.ops.token_logprob import token_logprob_backward, token_logprob_forward
from bptool.ops.window import window_backward, window_forward
from bptool.registry import regularizers
from bptool.regularizers.base import Penalty

Starts = NDArray[np.int32]
KEY = MaskKey(seed=7, step=3, sequence0=5)
"""Holds every dropout mask: the checked function must not change between evaluations."""
SITE = 2
DROPOUT = 0.3
ATTENTION = {
    "attention": (0.0, (3, 2, 5, 8), ()),
    "attention with dropout": (DROPOUT, (3, 2, 5, 8), ()),
    "attention over blocks": (DROPOUT, (1, 2, 2 * BLOCK + 3, 6), ()),
    "attention in documents": (DROPOUT, (1, 2, 2 * BLOCK + 3, 6), (5, BLOCK + 9, BLOCK + 20)),
}
"""Probability of dropout, B, H, T, C, and where later documents begin; the last two go past the
rows taken at a time."""
TERMS = {
    "label smoothing": LogitTerms(0.2, 0.0),
    "z-loss": LogitTerms(0.0, 0.03),
    "both": LogitTerms(0.2, 0.03),
}
TWO = np.array([[0, 0, 2, 2, 2], [0, 1, 1, 1, 4]], np.int32)
"""Where the documents of two rows begin."""
TEAM = make_team(2)
"""Shapes are such that each has something to do; parts are cut at 16 columns or 8 rows."""
EFFORT = Effort(n_elements=12, n_directions=3)


def cases() -> Iterator[Case]:
    """Every case, in the order of the files; registered penalties last."""
    yield Case("dropout", ("dropout",), _dropout)
    yield Case("stochastic depth", ("stochastic_depth",), _stochastic_depth)
    yield Case("residual", ("residual_backward",), _residual)
    for suffix, starts in (("", ONE_DOCUMENT), (" of documents", TWO)):
        name = f"embedding{suffix}"
        yield Case(name, ("embedding_backward",), partial(_embedding, name=name, starts=starts))
        name = f"window{suffix}"
        yield Case(name, ("window_backward",), partial(_window, name=name, starts=starts))
    linear_kernels = ("linear_backward", "linear_backward_parameters")
    yield Case("linear", linear_kernels, partial(_linear, bias=True))
    yield Case("linear without bias", linear_kernels, partial(_linear, bias=False))
    yield Case("low rank", ("low_rank_backward",), _low_rank)
    for bias in (True, False):
        name = "layernorm" if bias else "layernorm without bias"
        layernorm_kernels = ("layernorm_backward", "layernorm_backward_share")
        yield Case(name, layernorm_kernels, partial(_layernorm, bias=bias))
    for kind in ACTIVATIONS:
        yield Case(kind, ("activation_backward",), partial(_activation, kind=kind))
    for name, (p, shape, documents) in ATTENTION.items():
        attention_kernels = ("attention_backward", "softmax_backward_row")
        make = partial(_attention, name=name, p=p, shape=shape, documents=documents)
        yield Case(name, attention_kernels, make)
    yield Case("token_logprob", ("token_logprob_backward",), _token_logprob)
    for name, terms in TERMS.items():
        logits = partial(_logit_terms, name=name, terms=terms)
        yield Case(f"logits with {name}", ("logit_terms_backward",), logits)
    yield Case("head over tiles", ("head_logprobs_backward", "head_backward"), _head_logprobs)
    for name, terms in (("head loss", NO_TERMS), ("head with terms", TERMS["both"])):
        both = ("head_loss_and_gradient", "head_backward", "logit_terms_backward")
        yield Case(name, both, partial(_head_loss, name=name, terms=terms))
    yield Case("score", ("score_backward",), _score)
    yield Case("next_token", ("next_token_backward",), _next_token)
    yield from objective_cases()
    for name in regularizers.names():
        if issubclass(regularizers.get(name), Penalty):
            yield Case(f"regularizer {name}", (name,), partial(_penalty, name=name))


def _dropout(rng: np.random.Generator) -> Differentiable:
    x = rng.normal(size=(4, 19))

    def masked(values: Array) -> Array:
        y = values.copy()
        dropout(y, DROPOUT, KEY, SITE, 11)
        return y

    return Composed("dropout", {"x": x}, lambda: {"y": masked(x)}, lambda d: {"x": masked(d["y"])})


def _residual(rng: np.random.Generator) -> Differentiable:
    """The stream's own gradient is dy, which nothing touches."""
    x, branch = rng.normal(size=(3, 5)), rng.normal(size=(3, 5))
    y, d_branch = overwritten(x.shape), overwritten(x.shape)

    def forward() -> dict[str, Array]:
        residual_forward(y, x, branch)
        return {"y": y}

    def backward(d: dict[str, Array]) -> dict[str, Array]:
        residual_backward(d_branch, d["y"])
        return {"x": d["y"], "branch": d_branch}

    return Composed("residual", {"x": x, "branch": branch}, forward, backward)


def _stochastic_depth(rng: np.random.Generator) -> Differentiable:
    """Seven sequences of three rows, the first and the last cut off; some are left out."""
    x = rng.normal(size=(18, 4))

    def masked(values: Array) -> Array:
        y = values.copy()
        stochastic_depth(y, DROPOUT, KEY, SITE, 34, 3)
        return y

    return Composed(
        *("stochastic depth", {"x": x}),
        *(lambda: {"y": masked(x)}, lambda d: {"x": masked(d["y"])}),
    )


def _embedding(rng: np.random.Generator, name: str, starts: Starts) -> Differentiable:
    tokens = np.array([[3, 1, 3, 0, 2], [6, 3, 6, 6, 1]], np.int32)
    e, p = rng.normal(size=(7, 18)), rng.normal(size=(6, 18))
    x = overwritten((10, 18))
    de, dp = Addend(rng, e.shape), Addend(rng, p.shape)

    def forward() -> dict[str, Array]:
        for member in TEAM:
            embedding_forward(x, tokens, starts, e, p, member)
        return {"x": x}

    def backward(d: dict[str, Array]) -> dict[str, Array]:
        parts = de.reset(), dp.reset()
        for member in TEAM:
            embedding_backward(*parts, d["x"], tokens, starts, member)
        return {"E": de.added, "P": dp.added}

    return Composed(name, {"E": e, "P": p}, forward, backward)


def _window(rng: np.random.Generator, name: str, starts: Starts) -> Differentiable:
    tokens = np.array([[3, 1, 3, 0, 2], [6, 3, 6, 6, 1]], np.int32)
    e = rng.normal(size=(8, 17))
    x = overwritten((10, 51))
    de = Addend(rng, e.shape)

    def forward() -> dict[str, Array]:
        for member in TEAM:
            window_forward(x, tokens, starts, e, member)
        return {"x": x}

    def backward(d: dict[str, Array]) -> dict[str, Array]:
        part = de.reset()
        for member in TEAM:
            window_backward(part, d["x"], tokens, starts, member)
        return {"E": de.added}

    return Composed(name, {"E": e}, forward, backward)


def _linear(rng: np.random.Generator, bias: bool) -> Differentiable:
    engine = blas_engine(np.float64)
    inputs = {"x": rng.normal(size=(11, 5)), "W": rng.normal(size=(18, 5))}
    b = rng.normal(size=18 if bias else 0)
    if bias:
        inputs["b"] = b
    x, w = inputs["x"], inputs["W"]
    y = overwritten((11, 18))
    dw, db = Addend(rng, w.shape), Addend(rng, b.shape)

    def forward() -> dict[str, Array]:
        for member in TEAM:
            linear_forward(engine, y, x, w, b, member)
        return {"y": y}

    def backward(d: dict[str, Array]) -> dict[str, Array]:
        dx = overwritten(x.shape)
        parts = dw.reset(), db.reset()
        for member in TEAM:
            linear_backward(engine, dx, *parts, d["y"], x, w, True, member)
        return {"x": dx, "W": dw.added, "b": db.added}

    return Composed("linear" if bias else "linear without bias", inputs, forward, backward)


def _low_rank(rng: np.random.Generator) -> Differentiable:
    """Members wait for each other inside, so there is one; y and dx are added to."""
    engine, scale = blas_engine(np.float64), 0.7
    shapes = {"x": (11, 5), "A": (3, 5), "B": (18, 3), "y before": (11, 18)}
    inputs = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    x, a, b = inputs["x"], inputs["A"], inputs["B"]
    y, u, du = overwritten((11, 18)), overwritten((11, 3)), overwritten((11, 3))
    dx, da, db = (Addend(rng, part.shape) for part in (x, a, b))

    def forward() -> dict[str, Array]:
        y[:] = inputs["y before"]
        low_rank_forward(engine, y, u, x, a, b, scale, ALONE)
        return {"y": y}

    def backward(d: dict[str, Array]) -> dict[str, Array]:
        parts = dx.reset(), da.reset(), db.reset()
        low_rank_backward(engine, *parts, du, d["y"], x, u, a, b, scale, True, ALONE)
        return {"x": dx.added, "A": da.added, "B": db.added, "y before": d["y"]}

    return Composed("low rank", inputs, forward, backward)


def _layernorm(rng: np.random.Generator, bias: bool) -> Differentiable:
    inputs = {"x": 2 * rng.normal(size=(5, 7)) + 0.5, "w": 1 + 0.3 * rng.normal(size=7)}
    b = rng.normal(size=7 if bias else 0)
    if bias:
        inputs["b"] = b
    x, w = inputs["x"], inputs["w"]
    y, mean, rstd = overwritten(x.shape), overwritten((5,)), overwritten((5,))
    dx, dw, db = (Addend(rng, a.shape) for a in (x, w, b))

    def forward() -> dict[str, Array]:
        layernorm_forward(y, mean, rstd, x, w, b)
        return {"y": y}

    def backward(d: dict[str, Array]) -> dict[str, Array]:
        parts = dx.reset(), dw.reset(), db.reset()
        none = np.zeros((0, 2, len(w)))
        layernorm_backward_share(*parts, d["y"], x, mean, rstd, w, none, ALONE)
        return {"x": dx.added, "w": dw.added, "b": db.added}

    return Composed("layernorm" if bias else "layernorm without bias", inputs, forward, backward)


def _activation(rng: np.random.Generator, kind: str) -> Differentiable:
    x = 1.5 * rng.normal(size=(6, 9))
    y, slope = overwritten(x.shape), overwritten(x.shape)

    def forward() -> dict[str, Array]:
        activation_forward(ACTIVATIONS[kind], y, slope, x)
        return {"y": y}

    def backward(d: dict[str, Array]) -> dict[str, Array]:
        dx = overwritten(x.shape)
        activation_backward(dx, d["y"], slope)
        return {"x": dx}

    return Composed(
        kind, {"x": x}, forward, backward, lambda: {"relu at 0": x > 0} if kind == "relu" else {}
    )


def _attention(
    rng: np.random.Generator,
    name: str,
    p: float,
    shape: tuple[int, int, int, int],
    documents: tuple[int, ...],
) -> Differentiable:
    engine = blas_engine(np.float64)
    n_batch, n_head, n_time, width = shape
    qkv = rng.normal(size=(n_batch * n_time, 3 * width))
    y = overwritten((n_batch * n_time, width))
    row_stats = overwritten((n_batch, n_head, n_time, 2))
    scratch = overwritten((2, BLOCK, n_time))
    shares = [share(n_batch * n_head, 1, member) for member in TEAM]
    starts = ONE_DOCUMENT
    if documents:
        starts = np.zeros((n_batch, n_time), np.int32)
        for place in documents:
            starts[:, place:] = place
    held = starts, p, KEY, SITE

    def forward() -> dict[str, Array]:
        for jobs in shares:
            attention_forward(engine, y, row_stats, scratch, qkv, *held, *jobs)
        return {"y": y}

    def backward(d: dict[str, Array]) -> dict[str, Array]:
        dqkv = overwritten(qkv.shape)
        scratch[:] = np.nan  # nothing is left in it from the forward
        for jobs in shares:
            attention_backward(engine, dqkv, d["y"], row_stats, scratch, qkv, *held, *jobs)
        return {n: dqkv[:, i * width : (i + 1) * width] for i, n in enumerate("qkv")}

    inputs = {n: qkv[:, i * width : (i + 1) * width] for i, n in enumerate("qkv")}
    return Composed(name, inputs, forward, backward)


def _token_logprob(rng: np.random.Generator) -> Differentiable:
    logits = 2 * rng.normal(size=(6, 9))
    targets = np.array([0, 8, -1, 3, 3, -1], np.int32)
    logp, log_sum = overwritten((6,)), overwritten((6,))

    def forward() -> dict[str, Array]:
        token_logprob_forward(logp, log_sum, logits, targets)
        return {"logp": logp}

    def backward(d: dict[str, Array]) -> dict[str, Array]:
        dlogits = logits.copy()
        token_logprob_backward(dlogits, d["logp"], log_sum, targets)
        return {"logits": dlogits}

    return Composed("token_logprob", {"logits": logits}, forward, backward)


def _logit_terms(rng: np.random.Generator, name: str, terms: LogitTerms) -> Differentiable:
    """-logp + added of each row, whose weights are minus dlogp."""
    logits = 2 * rng.normal(size=(6, 9)) + 1.0
    targets = np.array([0, 8, -1, 3, 3, -1], np.int32)
    logp, log_sum, added = overwritten((6,)), overwritten((6,)), overwritten((6,))

    def forward() -> dict[str, Array]:
        token_logprob_forward(logp, log_sum, logits, targets)
        logit_terms_forward(added, log_sum, logits, targets, terms)
        return {"loss": added - logp}

    def backward(d: dict[str, Array]) -> dict[str, Array]:
        dlogits = logits.copy()
        logit_terms_backward(dlogits, -d["loss"], log_sum, targets, terms)
        return {"logits": dlogits}

    return Composed(f"logits with {name}", {"logits": logits}, forward, backward)


class _HeadActs(NamedTuple):
    """What the head of a model leaves in its activations."""

    logits: Array
    logp: Array
    dlogp: Array
    log_sum: Array
    added: Array


class _Head:
    """A head over eight rows in tiles of three, of which the last is short; alone, since members
    of a team would wait for one another."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.engine = blas_engine(np.float64)
        shapes = {"x": (8, 5), "W": (10, 5), "b": (10,)}
        self.inputs = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        self.dw, self.db = Addend(rng, shapes["W"]), Addend(rng, shapes["b"])
        self.targets = np.array([0, 9, -1, 3, -1, 3, -1, 7], np.int32)
        rows = (overwritten((8,)) for _ in range(4))
        self.acts = _HeadActs(overwritten((3, 10)), *rows)

    def outputs(self) -> tuple[Array, Array, Array]:
        """Fresh ones of a backward: by x, W and b."""
        return overwritten((8, 5)), self.dw.reset(), self.db.reset()


def _head_logprobs(rng: np.random.Generator) -> Differentiable:
    head = _Head(rng)
    operands = *head.inputs.values(), head.targets

    def forward() -> dict[str, Array]:
        head_logprobs(head.engine, head.acts, *operands, ALONE)
        return {"logp": head.acts.logp}

    def backward(d: dict[str, Array]) -> dict[str, Array]:
        dx, dw, db = head.outputs()
        head_logprobs_backward(
            head.engine, head.acts, dx, dw, db, *operands, d["logp"], True, ALONE
        )
        return {"x": dx, "W": head.dw.added, "b": head.db.added}

    return Composed("head over tiles", head.inputs, forward, backward)


def _head_loss(rng: np.random.Generator, name: str, terms: LogitTerms) -> Differentiable:
    head, inverse = _Head(rng), 1 / 6
    operands = *head.inputs.values(), head.targets, inverse, terms

    def run(with_backward: bool) -> tuple[Array, float]:
        dx, dw, db = head.outputs()
        losses = head_loss_and_gradient(
            head.engine, head.acts, dx, dw, db, *operands, True, with_backward, ALONE
        )
        return dx, sum(losses)

    def backward(d: dict[str, Array]) -> dict[str, Array]:
        dx, _ = run(True)
        found = {"x": dx, "W": head.dw.added, "b": head.db.added}
        return {name: array * d["loss"] for name, array in found.items()}

    return Composed(name, head.inputs, lambda: {"loss": np.array([run(False)[1]])}, backward)


def _score(rng: np.random.Generator) -> Differentiable:
    x, w, b = rng.normal(size=(5, 18)), rng.normal(size=18), rng.normal(size=1)
    score = overwritten((5,))
    dx, dw, db = (Addend(rng, a.shape) for a in (x, w, b))

    def forward() -> dict[str, Array]:
        score_forward(score, x, w, b)
        return {"score": score}

    def backward(d: dict[str, Array]) -> dict[str, Array]:
        parts = dx.reset(), dw.reset(), db.reset()
        for member in TEAM:
            score_backward(*parts, d["score"], x, w, member)
        return {"x": dx.added, "w": dw.added, "b": db.added}

    return Composed("score", {"x": x, "w": w, "b": b}, forward, backward)


def _next_token(rng: np.random.Generator) -> Differentiable:
    logp = -rng.uniform(0.5, 4.0, size=9)
    targets = np.array([1, -1, 0, 4, 4, -1, 2, 7, -1], np.int32)
    inverse = 1 / 6

    def forward() -> dict[str, Array]:
        return {"loss": np.array([next_token_forward(logp, targets, inverse)])}

    def backward(d: dict[str, Array]) -> dict[str, Array]:
        dlogp = overwritten(logp.shape)
        next_token_backward(dlogp, targets, inverse)
        return {"logp": dlogp * d["loss"]}

    return Composed("next_token", {"logp": logp}, forward, backward)


def checked_penalty(name: str) -> Penalty:
    """The registered penalty with the settings it is checked with."""
    penalty_class = regularizers.get(name)
    penalty: Penalty = penalty_class(penalty_class.Config(strength=0.3))
    return penalty


def _penalty(rng: np.random.Generator, name: str) -> Differentiable:
    penalty = checked_penalty(name)
    w = rng.choice((-1.0, 1.0), 24) * rng.uniform(0.05, 1.5, 24)
    dw = Addend(rng, w.shape)

    def forward() -> dict[str, Array]:
        return {"penalty": np.array([penalty.penalty_and_gradient(w, dw.reset())])}

    def backward(d: dict[str, Array]) -> dict[str, Array]:
        penalty.penalty_and_gradient(w, dw.reset())
        return {"w": dw.added * d["penalty"]}

    return Composed(
        f"regularizer {name}", {"w": w}, forward, backward, lambda: {"weight at 0": w > 0}
    )


def check_operations(
    *, seed: int = 0, on_report: Callable[[Report], None] | None = None
) -> list[Report]:
    """Check every case; ``on_report`` hears of each as it is done."""
    reports = []
    for case in cases():
        rng = np.random.default_rng([seed, zlib.crc32(case.name.encode())])
        reports.append(check(case.make(rng), seed=seed, effort=EFFORT))
        if on_report is not None:
            on_report(reports[-1])
    return reports
