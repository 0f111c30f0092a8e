"""Faults planted in the source of every backward, to see that gradcheck reports each one.

Each fault is an edit of one file of a copy of the package. A process of its own imports that module
anew, and all that import it, compiles them with no cache (patching a compiled function changes
nothing: Numba freezes what it called), saves the gradients and runs the checks that the fault
touches. The script then demands that the gradients differ from those of the unedited copy, that
each of the checks reports something, and that the unedited copy passes. Faults in how a team cuts
an operation are among them; a missing barrier is not, since what it does is a matter of timing.
Run it alone for a table::

    python tests/planted_faults.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = Path(__file__).resolve().parent.parent / "bptool"
WORKER = Path(__file__).with_name("planted_faults_worker.py")
CHANGED = 1e-4
"""Relative change of a gradient from which a fault counts as having had an effect."""


@dataclass(frozen=True)
class Fault:
    """An edit, found exactly once in its file, and the checks that must report it."""

    kernel: str
    kind: str
    """``sign``, ``scale``, ``missing`` term, wrong ``index``, or ``mask``."""
    file: str
    old: str
    new: str
    reported: tuple[str, ...]
    """Names of the operations or models whose check must fail."""

    @property
    def name(self) -> str:
        shown = self.new.strip().partition("\n")[0][:60] or f"without {self.old.strip()[:50]}"
        return f"{self.kernel}: {self.kind}: {shown}"


HEAD = ("head over tiles", "head loss", "head with terms")
PPO = ("objective ppo", "objective mixed")
LINEAR = ("linear", "linear without bias")
ACTIVATIONS = ("tanh", "sigmoid", "relu", "gelu", "gelu_tanh")
LAYERNORM = ("layernorm", "layernorm without bias")
SMOOTHED = ("logits with label smoothing", "logits with both", "head with terms")
WITH_Z_LOSS = ("logits with z-loss", "logits with both", "head with terms")
LOGITS = ("logits with label smoothing", *WITH_Z_LOSS)
ATTENTION = ("attention", "attention with dropout", "attention over blocks")


def _faults(
    file: str, kernel: str, reported: tuple[str, ...], *edits: tuple[str, str, str]
) -> list[Fault]:
    return [Fault(kernel, kind, file, old, new, reported) for kind, old, new in edits]


OPERATION_FAULTS = [
    *_faults(
        "ops/residual.py",
        "residual_backward",
        ("residual",),
        ("sign", "d_branch[i, j] = dy[i, j]", "d_branch[i, j] = -dy[i, j]"),
        ("index", "d_branch[i, j] = dy[i, j]", "d_branch[i, j] = dy[i, j - 1]"),
    ),
    *_faults(
        "ops/embedding.py",
        "embedding_backward",
        ("embedding",),
        ("sign", "de[token, j] += dx[row, j]", "de[token, j] -= dx[row, j]"),
        ("scale", "dp[position, j] += dx[row, j]", "dp[position, j] += 0.5 * dx[row, j]"),
        ("missing", "de[token, j] += dx[row, j]", "de[token, j] = dx[row, j]"),
        ("index", "dp[position, j] += dx[row, j]", "dp[position, j] += dx[t, j]"),
        ("index", "share(dx.shape[1], LINE, team)", "share(dx.shape[1] - 1, LINE, team)"),
    ),
    *_faults(
        "ops/window.py",
        "window_backward",
        ("window",),
        ("sign", "de[token, j] += dx[", "de[token, j] -= dx["),
        ("scale", "de[token, j] += dx[", "de[token, j] += 1.001 * dx["),
        (
            "mask",
            "token = tokens[i, source] if source >= start else de.shape[0] - 1",
            "token = tokens[i, source] if source > start else de.shape[0] - 1",
        ),
        (
            "index",
            "dx[i * n_time + t, w * width + j]",
            "dx[i * n_time + t, (n_window - 1 - w) * width + j]",
        ),
    ),
    *_faults(
        "ops/linear.py",
        "linear_backward",
        (*LINEAR, *HEAD),
        (
            "scale",
            "matmul_share(engine, dx, dy, False, w, False, False, team)",
            "matmul_share(engine, dx, dy, False, w, False, False, team)\n    dx *= 0.5",
        ),
        (
            "missing",
            "matmul_share(engine, dw, dy, True, x, False, adds, team)",
            "matmul_share(engine, dw, dy, True, x, False, False, team)",
        ),
        (
            "index",
            "matmul_share(engine, dw, dy, True, x, False, adds, team)",
            "matmul_share(engine, dw, dy[::-1], True, x, False, adds, team)",
        ),
    ),
    *_faults(
        "ops/linear.py",
        "linear_backward_parameters",
        ("linear", *HEAD),
        ("sign", "db[j] += dy[i, j]", "db[j] -= dy[i, j]"),
    ),
    *_faults(
        "ops/low_rank.py",
        "low_rank_backward",
        ("low rank",),
        ("missing", "matmul_share(engine, dx, du, False, a, False, True, team)", "pass"),
        ("scale", "            du[i, j] *= s\n", "            du[i, j] *= s * s\n"),
        (
            "index",
            "matmul_share(engine, da, du, True, x, False, adds, team)",
            "matmul_share(engine, da, du[::-1], True, x, False, adds, team)",
        ),
        (
            "missing",
            "matmul_share(engine, db, dy, True, u, False, adds, team)",
            "matmul_share(engine, db, dy, True, u, False, False, team)",
        ),
    ),
    *_faults(
        "ops/matmul/share.py",
        "part_of_product",
        LINEAR,
        (
            "index",
            "first, stop = share(m, ROWS, team)",
            "first, stop = share(m - 1, ROWS, team)",
        ),
    ),
    *_faults(
        "ops/layernorm.py",
        "layernorm_backward",
        LAYERNORM,
        ("sign", "- mean_g - xhat * mean_g_xhat)", "- mean_g + xhat * mean_g_xhat)"),
        ("scale", "mean_g = sum_g * inverse_width", "mean_g = sum_g * (inverse_width * 0.5)"),
        ("missing", "- mean_g - xhat * mean_g_xhat)", "- xhat * mean_g_xhat)"),
        ("index", "dw[j] += dy[i, j] * xhat", "dw[j - 1] += dy[i, j] * xhat"),
    ),
    *_faults(
        "ops/activations.py",
        "activation_backward",
        ACTIVATIONS,
        ("sign", "dx[i, j] = dy[i, j] * slope[i, j]", "dx[i, j] = -dy[i, j] * slope[i, j]"),
        ("missing", "dx[i, j] = dy[i, j] * slope[i, j]", "dx[i, j] = dy[i, j]"),
        ("index", "dx[i, j] = dy[i, j] * slope[i, j]", "dx[i, j] = dy[i, j] * slope[i, 0]"),
    ),
    *_faults(
        "ops/activations.py",
        "tanh_and_slope",
        ("tanh",),
        ("sign", "slope[i, j] = one - t * t", "slope[i, j] = one + t * t"),
        ("missing", "slope[i, j] = one - t * t", "slope[i, j] = one - t"),
    ),
    *_faults(
        "ops/activations.py",
        "sigmoid_and_slope",
        ("sigmoid",),
        ("sign", "slope[i, j] = s * (one - s)", "slope[i, j] = s * (one + s)"),
        ("missing", "slope[i, j] = s * (one - s)", "slope[i, j] = s"),
    ),
    *_faults(
        "ops/activations.py",
        "relu_and_slope",
        ("relu",),
        ("sign", "zero if x[i, j] <= zero else one", "one if x[i, j] <= zero else zero"),
        ("scale", "zero if x[i, j] <= zero else one", "zero if x[i, j] <= zero else one + one"),
        ("index", "zero if x[i, j] <= zero else one", "zero if x[i, 0] <= zero else one"),
    ),
    *_faults(
        "ops/activations.py",
        "gelu_and_slope",
        ("gelu",),
        ("sign", "phi + v * normal_density(v)", "phi - v * normal_density(v)"),
        ("missing", "phi + v * normal_density(v)", "phi"),
    ),
    *_faults(
        "ops/activations.py",
        "gelu_tanh_and_slope",
        ("gelu_tanh",),
        ("sign", "v * (one - t * t) * du", "v * (one + t * t) * du"),
        ("scale", "three * cubic * v * v", "cubic * v * v"),
        ("missing", "(one + t + v * (one - t * t) * du)", "(one + t)"),
    ),
    *_faults(
        "ops/causal_softmax.py",
        "softmax_backward_row",
        ATTENTION,
        ("sign", "(d_row[s] - dot)", "(d_row[s] + dot)"),
        ("scale", "d = scale * row[s] * (d", "d = row[s] * (d"),
        ("missing", "d = d_row[s] if s < n else zero", "d = d_row[s] if s < n - 1 else zero"),
    ),
    *_faults(
        "ops/attention.py",
        "attention_backward",
        ATTENTION,
        (
            "index",
            "engine, dk[left:stop], d_weights, True, q[start:stop], False, adds",
            "engine, dk[left:stop], d_weights, True, k[start:stop], False, adds",
        ),
        ("index", "= row_stats[i, h, t, 0], row_", "= row_stats[i, h, start, 0], row_"),
    ),
    *_faults(
        "ops/causal_softmax.py",
        "softmax_again",
        ATTENTION,
        ("scale", "e = exp(scale * (row[s] - largest)) * inverse", "e = row[s] * inverse"),
        ("missing", "row[s] = e if s < n else zero", "row[s] = e"),
    ),
    *_faults(
        "ops/attention.py",
        "attention_backward",
        ATTENTION[1:],
        (
            "mask",
            "dropout_row(d_row, t + 1 - left, p, key, site, first_row + t, mask)",
            "dropout_row(d_row, t + 1 - left, p, key, site, first_row + t + 1, mask)",
        ),
        ("missing", "dv[left:stop], dropped, True,", "dv[left:stop], scores, True,"),
    ),
    *_faults(
        "ops/attention.py",
        "attention_backward",
        ATTENTION[2:],
        (
            "missing",
            "engine, dk[left:stop], d_weights, True, q[start:stop], False, adds",
            "engine, dk[left:stop], d_weights, True, q[start:stop], False, False",
        ),
    ),
    *_faults(
        "ops/attention.py",
        "attention_backward",
        ("attention in documents",),
        ("missing", "if document_start(starts, i, n_time - 1) > 0:", "if False:"),
        ("mask", "d_row[:unseen] = qkv.dtype.type(0.0)", "d_row[:0] = qkv.dtype.type(0.0)"),
    ),
    *_faults(
        "ops/token_logprob.py",
        "token_logprob_backward",
        ("token_logprob", "head over tiles"),
        ("sign", "row[targets[i]] += d", "row[targets[i]] -= d"),
        ("scale", "row[j] = -d * exp(", "row[j] = -0.999 * d * exp("),
        ("missing", "row[targets[i]] += d", "pass"),
        ("index", "row[targets[i]] += d", "row[targets[i] - 1] += d"),
        ("mask", "if targets[i] < 0:\n            for j", "if targets[i] < -1:\n            for j"),
    ),
    *_faults(
        "ops/logit_terms.py",
        "logit_terms_backward",
        LOGITS,
        ("index", "row[targets[i]] += dlogp", "row[targets[i] - 1] += dlogp"),
    ),
    *_faults(
        "ops/logit_terms.py",
        "logit_terms_backward",
        tuple(name for name in LOGITS if name not in HEAD),  # there dlogp is 0 where masked
        ("mask", "if targets[i] < 0:\n            for j", "if targets[i] < -1:\n            for j"),
    ),
    *_faults(
        "ops/logit_terms.py",
        "logit_terms_backward",
        SMOOTHED,
        ("missing", "uniform - scale * exp", "-scale * exp"),
        ("scale", "dlogp[i] * (one - smoothing)", "dlogp[i]"),
    ),
    *_faults(
        "ops/logit_terms.py",
        "logit_terms_backward",
        WITH_Z_LOSS,
        ("sign", "(one + real(2.0) * z_loss", "(one - real(2.0) * z_loss"),
    ),
    *_faults(
        "ops/head.py",
        "head_backward",
        HEAD,
        ("scale", "w, adds, team)", "w, adds, team)\n    dx *= 0.5"),
        (
            "missing",
            "adds = slice(start, start + n_rows), adds or start > 0",
            "adds = slice(start, start + n_rows), False",
        ),
        ("index", "logits[:n_rows], x[tile], w, adds", "logits[:n_rows], x[:n_rows], w, adds"),
    ),
    *_faults(
        "ops/head.py",
        "head_backward",
        HEAD[:2],
        (
            "mask",
            "    token_logprob_backward(logits[in_tile], dlogp[own], log",
            "    token_logprob_backward(logits[in_tile], dlogp[:n_rows], log",
        ),
    ),
    *_faults(
        "ops/head.py",
        "head_backward",
        HEAD[2:],
        (
            "mask",
            "logit_terms_backward(logits[in_tile], dlogp[own], log",
            "logit_terms_backward(logits[in_tile], dlogp[:n_rows], log",
        ),
    ),
    *_faults(
        "models/head_loss.py",
        "head_logprobs_backward",
        HEAD[:1],
        ("missing", "if targets.size > acts.logits.shape[0]:", "if False:"),
        (
            "missing",
            "x, w, b, targets, start, team\n",
            "x, w, b[:0], targets, start, team\n",
        ),
        (
            "index",
            "x, w, b, targets, start, team\n",
            "x, w, b, targets, 0, team\n",
        ),
        ("index", "x, w, targets, NO_TERMS, start, adds", "x, w, targets, NO_TERMS, 0, adds"),
        ("missing", "NO_TERMS, start, adds, team", "NO_TERMS, start, False, team"),
    ),
    *_faults(
        "models/head_loss.py",
        "head_loss_and_gradient",
        HEAD[1:],
        (
            "scale",
            "targets[first:stop], inverse_n_targets)\n        head_backward(",
            "targets[first:stop], 1.0 / targets.size)\n        head_backward(",
        ),
        (
            "mask",
            "next_token_backward(acts.dlogp[first:stop], targets[first:stop]",
            "next_token_backward(acts.dlogp[first:stop], targets[:stop - first]",
        ),
        ("index", "x, w, targets, terms, start, adds", "x, w, targets, terms, 0, adds"),
    ),
    *_faults(
        "models/head_loss.py",
        "head_loss_and_gradient",
        HEAD[2:],
        ("missing", "x, w, targets, terms, start, adds", "x, w, targets, NO_TERMS, start, adds"),
    ),
    *_faults(
        "objectives/next_token.py",
        "next_token_backward",
        ("next_token", "objective next-token", "objective mixed"),
        ("sign", "real(-inverse_n_targets) if", "real(inverse_n_targets) if"),
        ("scale", "real(-inverse_n_targets) if", "real(-1.0 / dlogp.size) if"),
        ("mask", "if targets[i] >= 0 else real(0.0)", "if targets[i] > 0 else real(0.0)"),
        ("index", "if targets[i] >= 0 else real(0.0)", "if targets[i - 1] >= 0 else real(0.0)"),
    ),
    *_faults(
        "ops/score.py",
        "score_backward",
        ("score",),
        ("sign", "dx[i, j] += dscore[i] * w[j]", "dx[i, j] -= dscore[i] * w[j]"),
        ("missing", "db[0] += dscore[i]", "pass"),
        ("index", "share(w.size, LINE, team)", "share(w.size - 1, LINE, team)"),
    ),
    *_faults(
        "objectives/answers.py",
        "answer_sums_backward",
        ("objective dpo", "objective ipo", "objective kto"),
        ("mask", "if owner[i] >= 0 else real(0.0)", "if owner[i] > 0 else real(0.0)"),
        ("index", "real(dsums[owner[i]]) if", "real(dsums[owner[i - 1]]) if"),
    ),
    *_faults(
        "objectives/dpo.py",
        "dpo_backward",
        ("objective dpo",),
        ("sign", "d = smoothing - sigmoid(-h)", "d = smoothing + sigmoid(-h)"),
        ("missing", "d = smoothing - sigmoid(-h)", "d = -sigmoid(-h)"),
        ("scale", "dsums[i] = beta * d / n_pairs", "dsums[i] = d / n_pairs"),
        (
            "scale",
            "dpo_backward(dsums, sums, batch.reference, config.beta, config.label_smoothing)",
            "dpo_backward(dsums, sums, batch.reference, config.label_smoothing, config.beta)",
        ),
        ("index", "dsums[j] = -beta", "dsums[j - 1] = -beta"),
    ),
    *_faults(
        "objectives/ipo.py",
        "ipo_backward",
        ("objective ipo",),
        ("sign", "dsums[j] = -2.0 * off", "dsums[j] = 2.0 * off"),
        ("scale", "dsums[i] = 2.0 * off / n_pairs", "dsums[i] = off / n_pairs"),
    ),
    *_faults(
        "objectives/kto.py",
        "kto_backward",
        ("objective kto",),
        ("sign", "dsums[a] = -labels[a] * weight", "dsums[a] = -weight"),
        ("missing", "sigmoid(h) * sigmoid(-h) / n_judged", "sigmoid(h) / n_judged"),
        ("scale", "sigmoid(-h) / n_judged", "sigmoid(-h) / sums.size"),
    ),
    *_faults(
        "objectives/reward.py",
        "reward_backward",
        ("objective reward",),
        ("sign", "dscores[places[2 * p + 1]] += d", "dscores[places[2 * p + 1]] -= d"),
        ("missing", "dscores[places[2 * p + 1]] += d", "pass"),
        ("scale", "real(sigmoid(-h) / n_pairs)", "real(sigmoid(h) / n_pairs)"),
        ("index", "dscores[places[2 * p]] -= d", "dscores[places[2 * p] - 1] -= d"),
    ),
    *_faults(
        "objectives/clipped.py",
        "clipped_policy_backward",
        (*PPO, "objective grpo"),
        ("sign", "real(-weights[i] * ratio", "real(weights[i] * ratio"),
        ("missing", "real(-weights[i] * ratio * adv", "real(-weights[i] * adv"),
        ("mask", "if ratio * advantages[i] <= kept * advantages[i]:", "if ratio == kept:"),
    ),
    *_faults(
        "objectives/ppo.py",
        "clipped_value_backward",
        PPO,
        ("sign", "real(scale * weights[i] * off)", "real(-scale * weights[i] * off)"),
        ("scale", "real(scale * weights[i] * off)", "real(2.0 * scale * weights[i] * off)"),
    ),
    *_faults(
        "objectives/ppo.py",
        "clipped_value_backward",
        ("objective ppo",),
        ("mask", "if off * off >= kept * kept:", "if off == kept:"),
    ),
    *_faults(
        "objectives/ppo.py",
        "PPO.gradient",
        PPO,
        ("mask", "batch.weights, c.clip\n", "batch.weights, c.value_clip\n"),
        ("mask", "(c.value_clip, c.value_weight)", "(c.clip, c.value_weight)"),
        ("scale", "(c.value_clip, c.value_weight)", "(c.value_clip, c.clip)"),
        ("scale", "(c.value_clip, c.value_weight)", "(c.value_weight, c.value_clip)"),
    ),
    *_faults(
        "objectives/mixed.py",
        "Mixed.gradient",
        ("objective mixed",),
        ("missing", "dlogp += self.weight * of_mix", "pass"),
        ("sign", "dlogp += self.weight * of_mix", "dlogp -= self.weight * of_mix"),
        ("scale", "dlogp += self.weight * of_mix", "dlogp += of_mix"),
        ("missing", "dlogp += self.weight * of_mix", "dlogp[:] = self.weight * of_mix"),
        (
            "missing",
            "        self.objective.gradient(batch.batch, logp, scores, dlogp, dscores)\n",
            "        dlogp[:], dscores[:] = 0, 0\n",
        ),
    ),
    *_faults(
        "objectives/grpo.py",
        "kl_backward",
        ("objective grpo",),
        ("mask", "batch.weights, c.clip\n", "batch.weights, c.kl_weight\n"),
        ("scale", "batch.weights, c.kl_weight)", "batch.weights, c.clip)"),
        ("sign", "weights[i] * (1.0 - ratio))", "weights[i] * (1.0 + ratio))"),
        ("missing", "weights[i] * (1.0 - ratio))", "weights[i])"),
        (
            "index",
            "d = reference[i] - logp[i]\n            ratio",
            "d = reference[0] - logp[i]\n            ratio",
        ),
    ),
    *_faults(
        "regularizers/l1.py",
        "l1_penalty_and_gradient",
        ("regularizer l1",),
        ("sign", "- (up if wi < zero else zero)", "+ (up if wi < zero else zero)"),
        ("missing", " - (up if wi < zero else zero)", ""),
    ),
    *_faults(
        "regularizers/l2.py",
        "l2_penalty_and_gradient",
        ("regularizer l2",),
        ("sign", "g[i] += strength_ * w[i]", "g[i] -= strength_ * w[i]"),
        ("scale", "g[i] += strength_ * w[i]", "g[i] += strength_ * 2.0 * w[i]"),
        ("index", "g[i] += strength_ * w[i]", "g[i - 1] += strength_ * w[i]"),
    ),
]

MODEL_FAULTS = [
    *_faults(
        "models/mlp.py",
        "mlp_backward",
        ("mlp",),
        (
            "index",
            "dpre[own], dhidden[own], acts.slope[layer][own])",
            "dpre[own], dhidden[own], acts.hidden[layer][own])",
        ),
        (
            "mask",
            "dropout(dhidden[own], hyper.dropout.hidden, key, layer + 1, row0)",
            "dropout(dhidden[own], hyper.dropout.hidden, key, layer, row0)",
        ),
        ("missing", "dropout(acts.dx[own], hyper.dropout.embedding, key, 0, row0)", "pass"),
        (
            "mask",
            "dropout(acts.dx[own], hyper.dropout.embedding, key, 0, row0)",
            "dropout(acts.dx[own], hyper.dropout.hidden, key, 0, row0)",
        ),
    ),
    *_faults(
        "models/gpt2.py",
        "gpt2_backward",
        ("gpt2",),
        (
            "sign",
            "residual_backward(branch[own], dx[own])\n"
            "        dropout(branch[own], p.residual, key, 3 * layer + 2, row0)",
            "residual_backward(branch[own], -dx[own])\n"
            "        dropout(branch[own], p.residual, key, 3 * layer + 2, row0)",
        ),
        ("missing", "dropout(dx[own], p.embedding, key, 0, row0)", "pass"),
        (
            "mask",
            "dropout(dx[own], p.embedding, key, 0, row0)",
            "dropout(dx[own], p.residual, key, 0, row0)",
        ),
        (
            "mask",
            "dropout(acts.dact[own], p.hidden, key, 3 * n_layer + 1 + layer, row0)",
            "dropout(acts.dact[own], p.residual, key, 3 * n_layer + 1 + layer, row0)",
        ),
        (
            "index",
            "*(x[i], mean[i], rstd[i], params.ln_2_w[layer], partial, team),",
            "*(x[i], mean[i], rstd[i], params.ln_1_w[layer], partial, team),",
        ),
        (
            "mask",
            "dropout(acts.dact[own], p.hidden, key, 3 * n_layer + 1 + layer, row0)",
            "dropout(acts.dact[own], p.hidden, key, 3 * n_layer + layer, row0)",
        ),
        (
            "mask",
            "stochastic_depth(branch[own], rate, key, 2 * layer, row0, tokens.shape[1])\n"
            "        barrier",
            "stochastic_depth(branch[own], rate, key, 2 * layer + 1, row0, tokens.shape[1])\n"
            "        barrier",
        ),
        (
            "missing",
            "stochastic_depth(branch[own], rate, key, 2 * layer + 1, row0, tokens.shape[1])\n"
            "        barrier",
            "barrier",
        ),
    ),
    *_faults(
        "models/gpt2.py",
        "gpt2_token_pass",
        ("ppo through gpt2",),
        (
            "missing",
            "*(dscore, norm, params.score_w, team),",
            "*(dlogp, norm, params.score_w, team),",
        ),
        (
            "index",
            "*(norm, head, params.ln_f_w[:0], flat, dlogp, adds, team),",
            "*(norm, head, params.ln_f_w[:0], flat, dlogp[::-1].copy(), adds, team),",
        ),
    ),
    *_faults(
        "objectives/mixed.py",
        "Mixed.gradient",
        ("mixed through gpt2",),
        ("missing", "dlogp += self.weight * of_mix", "pass"),
        (
            "missing",
            "        self.objective.gradient(batch.batch, logp, scores, dlogp, dscores)\n",
            "        dlogp[:], dscores[:] = 0, 0\n",
        ),
    ),
]

TRAINING_FAULTS = [
    *_faults(
        "ops/reduction.py",
        "add_into",
        ("training",),
        ("sign", "total[i] += part[i]", "total[i] -= part[i]"),
    ),
    *_faults(
        "ops/layernorm.py",
        "layernorm_backward_share",
        ("training",),
        ("missing", "for k in range(1, team.n):", "for k in range(1, team.n - 1):"),
        ("index", "dw[j] += partial[k, 0, j]", "dw[j] += partial[k, 1, j]"),
    ),
    *_faults(
        "training/step.py",
        "Shards.reduce",
        ("training",),
        ("missing", "self.gradients[1:]", "self.gradients[2:]"),
        ("index", "add_into(total, other[start:stop])", "add_into(total, other[: stop - start])"),
    ),
    *_faults(
        "training/step.py",
        "Shards.loss_and_gradient",
        ("training",),
        ("mask", "1.0 / max(n_targets, 1)", "1.0 / targets.size"),
        ("missing", "                        self.terms,\n", "                        NO_TERMS,\n"),
        (
            "index",
            "first + shard * self.rows_each)\n                    found",
            "first)\n                    found",
        ),
        (
            "missing",
            "                    found = self.model.loss_and_gradient(",
            "                    self.gradients[shard].fill(0)\n"
            "                    found = self.model.loss_and_gradient(",
        ),
        ("missing", "                    adds = True\n", "                    adds = False\n"),
    ),
]

Outputs = tuple[dict[str, list[str]], dict[str, Any]]
"""Problems by name of check, and gradients by name."""


@dataclass(frozen=True)
class Outcome:
    """What became of one fault."""

    fault: Fault
    change: float
    """Largest change of a gradient that it touches, relative to the gradient's norm."""
    silent: tuple[str, ...]
    """Checks that should have reported it and did not."""
    message: str
    """The first problem reported."""

    @property
    def caught(self) -> bool:
        return self.change > CHANGED and not self.silent


def edited(source: str, fault: Fault) -> str:
    """``source`` with the fault planted; refuses an edit that does not fit exactly once."""
    if source.count(fault.old) != 1:
        raise ValueError(
            f"{fault.file}: found {source.count(fault.old)} times, should be once: {fault.old!r}"
        )
    return source.replace(fault.old, fault.new)


def rounds(faults: Sequence[Fault]) -> list[list[Fault]]:
    """Faults that no check sees two of are compiled together."""
    packed: list[list[Fault]] = []
    for fault in faults:
        for group in packed:
            if not any(set(fault.reported) & set(other.reported) for other in group):
                group.append(fault)
                break
        else:
            packed.append([fault])
    return packed


def run_in_copy(folder: Path, check: str, series: Sequence[Sequence[Fault]]) -> list[Outputs]:
    """Run ``check`` in one copy of the package, once with each group of faults in turn.

    Only what the faults touch is checked, so that only that is compiled; all of it without faults.
    """
    folder.mkdir(parents=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, folder / "bptool", ignore=ignored)
    turns = []
    for number, faults in enumerate(series):
        files = {fault.file for fault in faults}
        sources = {file: (PACKAGE / file).read_text(encoding="utf-8") for file in files}
        for fault in faults:
            sources[fault.file] = edited(sources[fault.file], fault)
        names = sorted({name for fault in faults for name in fault.reported})
        turns.append({"out": str(folder / f"out{number}"), "sources": sources, "names": names})
    (folder / "turns.json").write_text(json.dumps(turns), encoding="utf-8")
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(folder / "kernels"),
        "NUMBA_OPT": "0",  # compiles twice as fast; the mathematics is the same
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "BPTOOL_CACHE_DIR": str(folder / "data"),
        "XDG_CACHE_HOME": str(folder / "data"),
    }
    command = [sys.executable, str(WORKER), str(folder), check]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, encoding="utf-8"
    )
    if done.returncode != 0:
        raise RuntimeError(f"{check}:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    results = []
    for turn in turns:
        out = Path(turn["out"])
        problems = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
        with np.load(out.with_suffix(".npz")) as arrays:
            results.append((problems, dict(arrays)))
    return results


def judge(fault: Fault, clean: Outputs, faulty: Outputs) -> Outcome:
    """Whether the gradients that ``fault`` touches changed, and the checks reported it."""
    problems, gradients = faulty
    by_operation = any("/" in name for name in gradients)
    touched = [n for n in gradients if not by_operation or n.partition("/")[0] in fault.reported]
    change = 0.0
    for name in touched:
        right, wrong = clean[1][name], gradients[name]
        size = float(np.linalg.norm(right))
        if size > 0:
            found = float(np.linalg.norm(wrong - right)) / size
            change = max(change, found if np.isfinite(found) else np.inf)
    silent = tuple(name for name in fault.reported if not problems[name])
    reported = [line for name in fault.reported for line in problems[name]]
    return Outcome(fault, change, silent, reported[0] if reported else "nothing reported")


FAULTS = {"models": MODEL_FAULTS, "operations": OPERATION_FAULTS, "training": TRAINING_FAULTS}
"""The faults that each check must report."""


def run(folder: Path, check: str) -> tuple[list[Outcome], list[str]]:
    """Run one check with every fault; returns the outcomes, and what failed without a fault."""
    groups = rounds(FAULTS[check])
    clean, *faulty = run_in_copy(folder / check, check, [[], *groups])
    alarms = [line for lines in clean[0].values() for line in lines]
    outcomes = [
        judge(fault, clean, outputs)
        for group, outputs in zip(groups, faulty, strict=True)
        for fault in group
    ]
    return outcomes, alarms


def main() -> int:
    """Print a line for each fault; 1 if any went unseen."""
    with tempfile.TemporaryDirectory() as folder:
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(partial(run, Path(folder)), sys.argv[1:] or FAULTS))
    outcomes = [outcome for some, _ in found for outcome in some]
    alarms = [line for _, some in found for line in some]
    for outcome in outcomes:
        verdict = "caught" if outcome.caught else "MISSED"
        sys.stdout.write(f"{verdict}  {outcome.fault.name}\n        {outcome.message}\n")
    caught = sum(outcome.caught for outcome in outcomes)
    sys.stdout.write(f"{caught} of {len(outcomes)} faults caught, {len(alarms)} false alarms\n")
    for line in alarms:
        sys.stdout.write(f"false alarm: {line}\n")
    return 0 if caught == len(outcomes) and not alarms else 1


if __name__ == "__main__":
    sys.exit(main())
