"""Residual stream: y = x + branch, a branch being what a part of the model adds.

Shapes: all (N, C). Backward: the gradient of y is that of x, which stays where it is, and of the
branch, which gets a copy to be changed on its way.
Source: He et al. 2015, arXiv:1512.03385, equation 1.
"""

from __future__ import annotations

from bptool.ops.jit import kernel


@kernel
def residual_forward(y, x, branch):  # type: ignore[no-untyped-def]
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] = x[i, j] + branch[i, j]


@kernel
def residual_backward(d_branch, dy):  # type: ignore[no-untyped-def]
    for i in range(dy.shape[0]):
        for j in range(dy.shape[1]):
            d_branch[i, j] = dy[i, j]
