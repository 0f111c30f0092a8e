"""Generalised advantage estimation, answer by answer.

    delta[t] = reward[t] + gamma V[t+1] - V[t],  with V behind the last token 0
    A[t]     = delta[t] + gamma lambda A[t+1]
    R[t]     = A[t] + V[t]

Shapes: rewards, values, advantages, returns (M,) of all answers' tokens one after another; answer a
has those from offsets[a] to offsets[a+1], offsets (A+1,).
Papers: Schulman et al. 2016, "High-dimensional continuous control using generalized advantage
estimation", equation 16; Schulman et al. 2017, equations 11 and 12.
"""

from __future__ import annotations

from bptool.ops.jit import kernel


@kernel
def gae(advantages, returns, rewards, values, offsets, gamma, lam):  # type: ignore[no-untyped-def]
    real = advantages.dtype.type
    for a in range(offsets.size - 1):
        advantage, value_after = 0.0, 0.0
        for t in range(offsets[a + 1] - 1, offsets[a] - 1, -1):
            delta = rewards[t] + gamma * value_after - values[t]
            advantage = delta + gamma * lam * advantage
            value_after = values[t]
            advantages[t] = real(advantage)
            returns[t] = real(advantage + values[t])
