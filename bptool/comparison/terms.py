"""On what terms a study compares, and how its report is to be read, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bptool.comparison.inference import POWER
from bptool.comparison.plan import Plan, schedule_of
from bptool.config.dump import inline
from bptool.config.study_section import RECOMMENDED_SEEDS, RangeConfig, Space


def rules(plan: Plan) -> Iterator[str]:
    """On what terms the optimizers were compared."""
    study = plan.study
    if plan.is_tuned:
        yield (
            f"Ruleset tuned: {study.n_candidates} settings tried of each optimizer on each "
            f"workload, with {_counted(study.tuning.seeds, 'seed')} from "
            f"{study.tuning.first_seed} on; the best one ran again with the final seeds."
        )
    else:
        yield (
            "Ruleset defaults: each optimizer with fixed settings, which this study does not "
            "search. A verdict is one at the learning rates shown beside it; at others it may be "
            "another one."
        )
    last = study.final.first_seed + study.final.seeds - 1
    yield (
        f"{_counted(study.final.seeds, 'final seed')} ({study.final.first_seed} to {last}): within "
        "a seed the same initial weights, batches and dropout for every optimizer."
    )
    if study.final.seeds < RECOMMENDED_SEEDS:
        yield f"Fewer than {RECOMMENDED_SEEDS} final seeds: only large differences can show."
    for workload in plan.workloads:
        training = workload.config.training
        yield (
            f"{workload.name}: {training.steps:,} steps of {training.batch_size} sequences, "
            f"schedule {workload.config.schedule.name} of that length."
        )
    yield from _own_schedules(plan)


def _own_schedules(plan: Plan) -> Iterator[str]:
    """Which optimizers have another schedule than their workload."""
    for name in plan.study.optimizers:
        found = {}
        for workload in plan.workloads:
            choice = schedule_of(plan.study, workload, name)
            if choice != workload.config.schedule:
                said = {key: value for key, value in choice.dump().items() if key != "name"}
                found[workload.name] = f"{choice.name} {inline(said)}"
        if not found:
            continue
        why = ", since it averages its weights in place of a decay"
        why = "" if name in plan.study.schedules else why
        if len(set(found.values())) == 1:
            yield f"{name} has a schedule of its own: {next(iter(found.values()))}{why}."
        else:
            each = ", ".join(f"{said} on {workload}" for workload, said in found.items())
            yield f"{name} has schedules of its own: {each}{why}."


def explanations(plan: Plan) -> Iterator[str]:
    """How the columns and plots are to be read."""
    study = plan.study
    share, level = 100 * study.equivalence_margin, 100 * (1 - study.alpha)
    m = len(study.optimizers) - 1
    yield (
        f"final loss: validation loss in nats per token after the last step, mean over the final "
        f"seeds with its own {level:g} % t interval. A run that diverged stands as 'n of N', "
        "replaces the interval, and ranks last."
    )
    yield (
        f"difference: from {study.reference}, paired by seed. Intervals hold together for the "
        f"{_counted(m, 'comparison')} of a table with {level:g} % confidence, and p is corrected "
        f"for them (single-step Sidak; {study.test})."
    )
    yield (
        "verdict: tie where the interval includes 0; 'equivalent' where all of it lies within the "
        f"equivalence margin, {share:g} % of the reference's mean loss, so that the difference, "
        "real or not, is too small to matter; identical where every seed gives the same loss."
    )
    yield (
        "at rate: the learning rate that the verdict holds at, and where it comes from. tuned: "
        "this study searched it. given: the study's settings or --learning-rate name it; this "
        "report does not know how it was chosen. configuration: the workload's own file has it. "
        "default: bptool's table, a fair start for small models that nobody searched for this one."
    )
    yield (
        "detectable: the smallest true difference that the study would have found with "
        f"probability {POWER:g}, given the spread it met. A tie says nothing about smaller ones."
    )
    yield (
        "steps, tokens and seconds: until the target, which is the loss "
        f"{'given, or that ' if any(w.target for w in plan.workloads) else 'that '}"
        f"{study.reference} reaches with every final seed. Steps are those of the first evaluation "
        "at or below it, the median over the seeds; a run that misses it counts as infinite. "
        "Seconds are steps times a step's time, measured with nothing else of the study running."
    )
    if plan.is_tuned:
        yield (
            "sensitivity: how much a candidate loses to the best one on average, in nats per "
            "token: the mean of min(loss, initial loss) - least loss (Wortsman et al. 2023). "
            "best of k: the loss to expect from the best of k of the candidates (the unbiased "
            "U-statistic of Tang et al. 2020)."
        )
        yield (
            "tuning: settings are chosen by the validation text that the final runs are judged by, "
            "so that losses of all optimizers are a little optimistic. A best setting in the "
            "outer tenth of its range, along its scale, lies at the edge: better ones may lie "
            "beyond. Where there are such, widened.yaml in the study's folder is the same study "
            "over wider spaces."
        )
    if len(plan.workloads) > 1:
        yield (
            "performance profile: on how many workloads an optimizer needs at most tau times the "
            "fewest median steps of any (Dolan and Moré 2002)."
        )


def space(where: Space) -> str:
    """A search space on one line: ``learning_rate 0.01 to 3, nesterov true or false``."""
    return ", ".join(f"{key} {drawn_from(one)}" for key, one in where.items())


def drawn_from(where: RangeConfig | Sequence[object]) -> str:
    """Where one setting is drawn from."""
    if isinstance(where, RangeConfig):
        scale = "" if where.scale == "log" else f" ({where.scale})"
        return f"{where.low:g} to {where.high:g}{scale}"
    return " or ".join(map(inline, where))


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
