"""The cost model's arithmetic on machines that are made up, and what must hold on any machine."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptool.models.base import FlatLayout, Model, ParamSpec
from bptool.models.mlp import MLP, MLPConfig
from bptool.models.presets import GPT2, GPT2Config
from bptool.ops.logit_terms import LogitTerms
from bptool.optim.adamw import AdamW
from bptool.optim.muon import Muon
from bptool.training import cost
from bptool.training.cost import (
    KernelRate,
    Overhead,
    PassRate,
    Rates,
    StepLayout,
    TensorRuleRate,
    Work,
)

KINDS: tuple[type[Model], ...] = (GPT2, MLP)
ADAMW = AdamW(AdamW.Config())
GPT2_SIZE: dict[str, Any] = {"n_layer": 2, "n_head": 2, "n_embd": 16, "context": 8}
TERMS = LogitTerms(0.1, 1e-4)
NOTHING = PassRate(((1.0, 0.0),))


def kernels_of(kind: type[Model]) -> set[str]:
    """Every kernel of the models that are timed."""
    return {
        operation.kernel
        for reference in kind.references()
        for operation in reference.model.operations(reference.n_sequences, reference.model.context)
    }


def machine(rate: KernelRate, passes: PassRate = NOTHING, **values: Any) -> Rates:
    """One on which every kernel has the same rates."""
    kernels = {name: rate for kind in KINDS for name in kernels_of(kind)}
    plain = dict.fromkeys(("batch", "inside"), Overhead(1.0, 0.0))
    others = {
        "token_seconds": 0.0,
        "token_weight_seconds": 0.0,
        "checkpoint_seconds": 0.0,
        "checkpoint_byte_seconds": 0.0,
        "overheads": plain,
    }
    return Rates(kernels, passes, passes, passes, **(others | values))


FLOPS_ONLY = machine(KernelRate(1.0, 0.0, 0.0))


def layout(rows: int = 4, n_time: int = 8, **values: Any) -> StepLayout:
    chosen = {"micro_rows": rows, "n_workers": 1, "split": "batch"} | values
    return StepLayout(rows, n_time=n_time, **chosen)


def step(rates: Rates, model: Model, cut: StepLayout) -> float:
    return math.fsum(cost.step_seconds(rates, NOTHING, model, ADAMW, cut).values())


rates_of_kernels = st.builds(
    KernelRate, *[st.floats(1e-12, 1e-8) for _ in range(3)], st.floats(0, 1e-4)
)


@given(rates_of_kernels, st.lists(st.tuples(*[st.floats(1e3, 1e9)] * 3), min_size=8, max_size=12))
def test_rates_are_found_again_from_what_they_make(
    rate: KernelRate, amounts: list[tuple[float, float, float]]
) -> None:
    works = [Work(*each) for each in amounts]
    samples = [(work, rate.seconds(work) + rate.per_call) for work in works]
    found = cost.fit_kernel(samples)
    for work, seconds in samples:
        assert found.seconds(work) + found.per_call == pytest.approx(seconds, rel=1e-6)


def test_no_rate_is_below_zero_where_more_work_took_less_time() -> None:
    samples = [(Work(1e6, 1e3, 0.0), 2e-3), (Work(2e6, 1e3, 0.0), 1e-3), (Work(4e6, 1e3, 0), 5e-4)]
    found = cost.fit_kernel(samples)
    assert min(found.per_flop, found.per_byte, found.per_element, found.per_call) >= 0
    assert max(found.per_flop, found.per_byte, found.per_call) > 0


def test_a_call_through_python_is_no_part_of_a_step() -> None:
    work = Work(100.0, 10.0, 1.0)
    assert KernelRate(1.0, 2.0, 3.0, 4.0).seconds(work) == 100 + 20 + 3


def test_passes_take_what_was_measured_and_change_between() -> None:
    rate = PassRate(((100.0, 1e-9), (10_000.0, 4e-9)))
    assert rate.seconds(200, 2) == pytest.approx(200e-9)
    assert rate.seconds(20_000, 2) == pytest.approx(80_000e-9)
    assert rate.seconds(2_000, 2) == pytest.approx(2_000 * 2.5e-9)  # half-way in the logarithm
    assert rate.seconds(50, 2) == pytest.approx(50e-9)
    assert rate.seconds(2e9, 2) == pytest.approx(8.0)
    assert rate.seconds(0, 2) == 0


def test_a_step_of_products_alone_is_its_flops() -> None:
    model = GPT2(GPT2Config(**GPT2_SIZE, bias=False, tie_embeddings=False), 19)
    looked_up_or_gains = 19 * 16 + 5 * 16
    masked = 12 * 2 * 16 * 8 * (8 - 1) / (2 * 8)
    expected = (model.flops_per_token(8) - 6 * looked_up_or_gains - masked) * 4 * 8
    assert step(FLOPS_ONLY, model, layout()) == pytest.approx(expected)


def test_what_a_mask_hides_takes_no_time() -> None:
    long = GPT2(GPT2Config(**GPT2_SIZE | {"context": 1024}), 19)
    operations = {o.name: o for o in long.operations(1, 1024)}
    for name in ("attention", "attention, backward"):
        assert operations[name].done_flops == pytest.approx(1025 / 2048 * operations[name].flops)
        assert operations[name].elements == 2 * 1024 * 1025 / 2


@pytest.mark.parametrize("kind", ["gpt2", "mlp"])
def test_micro_batches_and_members_divide_the_work(kind: str) -> None:
    gpt2, mlp = GPT2(GPT2Config(**GPT2_SIZE), 19), MLP(MLPConfig(context=8), 19)
    model: Model = gpt2 if kind == "gpt2" else mlp
    whole = step(FLOPS_ONLY, model, layout(8))
    assert step(FLOPS_ONLY, model, layout(8, micro_rows=2)) == pytest.approx(whole)
    for split in ("batch", "inside"):
        cut = layout(8, n_workers=4, split=split)
        assert step(FLOPS_ONLY, model, cut) == pytest.approx(whole / 4)
    uneven = layout(8, n_workers=3, split="batch")  # the slowest worker has three of eight
    assert step(FLOPS_ONLY, model, uneven) == pytest.approx(whole * 3 / 8)


def test_passes_are_over_the_buffers_that_a_split_has() -> None:
    rates, model = machine(KernelRate(0, 0, 0), PassRate(((1.0, 1.0),))), MLP(MLPConfig(), 19)
    size, layout_ = model.layout.size, model.layout
    cleared = sum(span.stop - span.start for span in layout_.spans_without(model.stored))
    assert 0 < cleared < size

    def parts(split: str) -> dict[str, float]:
        cut = layout(8, 64, n_workers=4, split=split)
        found = cost.step_seconds(rates, PassRate(((1.0, 5.0),)), model, ADAMW, cut)
        return {name: seconds for name, seconds in found.items() if seconds}

    once = {"gradient norm": size, "optimizer": 5 * size}
    assert parts("inside") == once | {"gradients to zero": cleared}
    many = {"gradients to zero": 4 * cleared, "gradients added": 3 * size}
    assert parts("batch") == once | many


def test_the_worker_with_most_to_do_decides_a_whole_tensor_update() -> None:
    matrix = ParamSpec("a", "a", (64, 32), 1.0, decay=True)
    table = ParamSpec("t", "t", (512, 32), 1.0, decay=True, table=True)
    tensors, rule = FlatLayout((matrix, table)), Muon(Muon.Config())
    costs = {64 * 32 * (1 + 5 * 32 / 8): 64 * 32, 512 * 32: 512 * 32}
    rate = TensorRuleRate(per_cost=2.0, per_weight=3.0)
    each = [2.0 * c + 3.0 * n for c, n in costs.items()]
    assert cost.update_seconds(rate, rule, tensors, 2) == pytest.approx(max(each))
    assert cost.update_seconds(rate, rule, tensors, 1) == pytest.approx(sum(each))


def test_overheads_are_those_of_the_split() -> None:
    overheads = {"batch": Overhead(1.5, 7.0), "inside": Overhead(2.0, 9.0)}
    rates, model = replace(FLOPS_ONLY, overheads=overheads), MLP(MLPConfig(context=8), 19)
    plain = step(FLOPS_ONLY, model, layout())
    assert step(rates, model, layout()) == pytest.approx(1.5 * plain + 7.0)
    assert step(rates, model, layout(split="inside")) == pytest.approx(2.0 * plain + 9.0)


def test_an_evaluation_is_the_forward() -> None:
    model = GPT2(GPT2Config(**GPT2_SIZE, bias=False, dropout=0.2), 19)
    a_third = step(FLOPS_ONLY, model, layout(4)) / 3
    assert cost.evaluation_seconds(FLOPS_ONLY, model, layout(4), 8) == pytest.approx(2 * a_third)
    assert cost.evaluation_seconds(FLOPS_ONLY, model, layout(4), 9) == pytest.approx(3 * a_third)


def test_samples_and_checkpoints_go_with_their_size() -> None:
    model = MLP(MLPConfig(), 19)
    values = {"token_seconds": 3.0, "token_weight_seconds": 0.5, "checkpoint_seconds": 2.0}
    rates = replace(FLOPS_ONLY, **values, checkpoint_byte_seconds=0.25)
    assert cost.sample_seconds(rates, model, 10) == 10 * (3.0 + 0.5 * model.n_parameters)
    assert cost.sample_seconds(rates, model, 0) == 0
    assert cost.checkpoint_seconds(rates, 1000) == 2.0 + 250.0


@given(
    rates_of_kernels,
    st.sampled_from(["n_layer", "n_embd", "context", "n_vocab", "rows"]),
    st.sampled_from(["batch", "inside"]),
    st.integers(1, 4),
)
def test_more_of_anything_takes_longer(
    rate: KernelRate, grown: str, split: str, n_workers: int
) -> None:
    rates = machine(rate, PassRate(((1.0, 1e-10), (1e6, 1e-9))))

    def seconds(**larger: int) -> float:
        values = {**GPT2_SIZE, "n_vocab": 19, "rows": 4} | larger
        n_vocab, rows = values.pop("n_vocab"), values.pop("rows")
        model = GPT2(GPT2Config(**values), n_vocab)
        return step(rates, model, layout(rows, model.context, n_workers=n_workers, split=split))

    before = GPT2_SIZE.get(grown, 19 if grown == "n_vocab" else 4)
    assert seconds(**{grown: 3 * before}) > seconds()


SITES = ("embedding", "attention", "residual", "hidden")
gpt2_configs = st.builds(
    GPT2Config,
    n_layer=st.integers(1, 3),
    n_head=st.just(2),
    n_embd=st.sampled_from([8, 24]),
    context=st.sampled_from([4, 80]),
    bias=st.booleans(),
    activation=st.sampled_from(["gelu", "gelu_tanh", "relu"]),
    tie_embeddings=st.booleans(),
    dropout=st.one_of(
        st.sampled_from([0.0, 0.1]),
        st.fixed_dictionaries(
            {s: st.sampled_from([0.0, 0.1]) for s in SITES},
        ),
    ),
    stochastic_depth=st.sampled_from([0.0, 0.1]),
)
mlp_configs = st.builds(
    MLPConfig,
    n_layer=st.integers(1, 3),
    activation=st.sampled_from(["tanh", "sigmoid", "relu", "gelu"]),
    dropout=st.sampled_from([0.0, 0.1]),
)


@given(st.one_of(gpt2_configs, mlp_configs))
def test_every_kernel_that_settings_can_give_is_timed_in_two_sizes(config: Any) -> None:
    kind = GPT2 if isinstance(config, GPT2Config) else MLP
    timed: dict[str, set[Work]] = {}
    for reference in kind.references():
        model = reference.model
        for operation in model.operations(reference.n_sequences, model.context, TERMS):
            timed.setdefault(operation.kernel, set()).add(cost.work_of(operation, 1))
    for operation in kind(config, 19).operations(2, config.context, TERMS):
        assert len(timed.get(operation.kernel, set())) >= 2, operation.kernel


@pytest.mark.parametrize("kind", KINDS)
def test_references_are_small_and_some_are_timed_whole(kind: type[Model]) -> None:
    references = kind.references()
    assert max(reference.model.n_parameters for reference in references) < 5e6
    assert sum(reference.whole for reference in references) >= 3


def test_rates_are_the_same_after_json() -> None:
    rates = machine(KernelRate(1e-11, 2e-10, 3e-9, 4e-6), PassRate(((4.0, 1e-9), (8.0, 2e-9))))
    assert Rates.from_json(json.loads(json.dumps(rates.to_json()))) == rates
