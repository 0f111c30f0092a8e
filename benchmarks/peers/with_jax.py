"""JAX: one jitted step over donated buffers, attention by ``jax.nn.dot_product_attention``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.protocol import CannotRun, Served
from benchmarks.workloads import (
    BETAS,
    CLIP_NORM,
    EPSILON,
    LEARNING_RATE,
    WEIGHT_DECAY,
    WORKLOADS,
)


def train(workload: str, threads: int, weights: str) -> Served:
    """The training step; float32 products, weights and moments in place."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        import jax
    except ModuleNotFoundError as error:
        raise CannotRun(f"{error.name} is not installed: pip install -e '.[bench]'") from None
    import jax.numpy as jnp
    from safetensors.numpy import load_file

    sizes = WORKLOADS[workload]
    heads, width = sizes.n_head, sizes.n_embd

    def norm(x: Any, gain: Any) -> Any:
        mean = x.mean(-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * gain

    def loss_of(w: Any, tokens: Any, targets: Any) -> Any:
        n_batch, n_time = tokens.shape
        x = w["wte.weight"][tokens] + w["wpe.weight"][:n_time]
        for layer in range(sizes.n_layer):
            h = f"h.{layer}"
            qkv = norm(x, w[f"{h}.ln_1.weight"]) @ w[f"{h}.attn.c_attn.weight"].T
            q, k, v = (
                part.reshape(n_batch, n_time, heads, width // heads)
                for part in jnp.split(qkv, 3, axis=2)
            )
            y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
            x = x + y.reshape(n_batch, n_time, width) @ w[f"{h}.attn.c_proj.weight"].T
            up = norm(x, w[f"{h}.ln_2.weight"]) @ w[f"{h}.mlp.c_fc.weight"].T
            x = x + jax.nn.gelu(up, approximate=False) @ w[f"{h}.mlp.c_proj.weight"].T
        logits = norm(x, w["ln_f.weight"]) @ w["wte.weight"].T
        picked = jnp.take_along_axis(logits, targets[..., None], axis=2)[..., 0]
        return (jax.nn.logsumexp(logits, axis=2) - picked).mean()

    def adamw(w: Any, g: Any, m: Any, v: Any, scale: Any, count: Any) -> tuple[Any, Any, Any]:
        g = g * scale
        m = BETAS[0] * m + (1 - BETAS[0]) * g
        v = BETAS[1] * v + (1 - BETAS[1]) * g * g
        m_hat, v_hat = m / (1 - BETAS[0] ** count), v / (1 - BETAS[1] ** count)
        decay = WEIGHT_DECAY if w.ndim >= 2 else 0.0
        w = w * (1 - LEARNING_RATE * decay)
        return w - LEARNING_RATE * m_hat / (jnp.sqrt(v_hat) + EPSILON), m, v

    def step(state: Any, tokens: Any, targets: Any) -> tuple[Any, Any]:
        w, m, v, count = state
        loss, grads = jax.value_and_grad(loss_of)(w, tokens, targets)
        norm_of_all = jnp.sqrt(sum(jnp.vdot(g, g) for g in grads.values()))
        scale = jnp.minimum(1.0, CLIP_NORM / (norm_of_all + 1e-6))
        count = count + 1.0
        new = {k: adamw(w[k], grads[k], m[k], v[k], scale, count) for k in w}
        w, m, v = ({k: triple[i] for k, triple in new.items()} for i in range(3))
        return (w, m, v, count), loss

    jitted = jax.jit(step, donate_argnums=0)
    first = {k: jnp.asarray(w) for k, w in load_file(weights).items()}
    moments = [{k: jnp.zeros_like(w) for k, w in first.items()} for _ in range(2)]
    state: Any = (first, *moments, jnp.zeros((), jnp.float32))
    tokens, targets = (jnp.asarray(array.astype(np.int32)) for array in sizes.batch())

    def run() -> float:
        nonlocal state
        state, loss = jax.block_until_ready(jitted(state, tokens, targets))
        return float(loss)

    return Served(f"JAX {jax.__version__}, jitted, {_threads_of(threads)}", {"train": run})


def _threads_of(threads: int) -> str:
    """How far the number of threads could be set: XLA has no setting for it but ``NPROC``."""
    try:
        names = [p.read_text().strip() for p in Path("/proc/self/task").glob("*/comm")]
    except OSError:
        return f"NPROC={threads}"
    pool = sum(name.startswith(("tf_XLAEigen", "tf_XLATfrtCpuC")) for name in names)
    return f"NPROC={threads} ({pool} threads in XLA's pools)"
