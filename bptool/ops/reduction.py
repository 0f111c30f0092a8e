"""Adding the workers' gradients: total += part, element by element.

Shapes: total, part (n,). Called once a worker in the order of the workers, so the sum does not
depend on timing.
"""

from __future__ import annotations

from bptool.ops.jit import kernel


@kernel
def add_into(total, part):  # type: ignore[no-untyped-def]
    for i in range(total.size):
        total[i] += part[i]
