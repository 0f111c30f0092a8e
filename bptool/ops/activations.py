"""Element-wise activations y = f(x): tanh, sigmoid, relu, gelu (exact), gelu_tanh.

Shapes: x, y, dy, dx (N, F). Backward: dx = dy f'(x), overwritten; dx may be
dy itself, but then the loop does not vectorise.
    tanh       f' = 1 - y^2                  sigmoid  f' = y (1 - y)
    relu       f' = 1 for x > 0, else 0 (0 at the kink, as in PyTorch)
    gelu       f = x Phi(x),  f' = Phi(x) + x phi(x)       Hendrycks, Gimpel 2016, arXiv:1606.08415
    gelu_tanh  f = x (1 + tanh u) / 2,  u = sqrt(2/pi) (x + 0.044715 x^3)    GPT-2's approximation
               f' = (1 + tanh u) / 2 + x (1 - tanh^2 u) / 2 sqrt(2/pi) (1 + 3 * 0.044715 x^2)

Each is computed from x alone, so nothing but x is saved. A new one is a pair of functions and a
number in ``ACTIVATIONS``.
"""

from __future__ import annotations

import math

from bptool.ops.jit import kernel
from bptool.ops.vector_math import exp, normal_cdf, normal_density, tanh

TANH, SIGMOID, RELU, GELU, GELU_TANH = range(5)
ACTIVATIONS = {
    "tanh": TANH,
    "sigmoid": SIGMOID,
    "relu": RELU,
    "gelu": GELU,
    "gelu_tanh": GELU_TANH,
}
_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
_CUBIC = 0.044715


@kernel
def tanh_forward(y, x):  # type: ignore[no-untyped-def]
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            y[i, j] = tanh(x[i, j])


@kernel
def tanh_backward(dx, dy, x):  # type: ignore[no-untyped-def]
    one = x.dtype.type(1.0)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            t = tanh(x[i, j])
            dx[i, j] = dy[i, j] * (one - t * t)


@kernel
def sigmoid_forward(y, x):  # type: ignore[no-untyped-def]
    one = x.dtype.type(1.0)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            y[i, j] = one / (one + exp(-x[i, j]))


@kernel
def sigmoid_backward(dx, dy, x):  # type: ignore[no-untyped-def]
    one = x.dtype.type(1.0)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            s = one / (one + exp(-x[i, j]))
            dx[i, j] = dy[i, j] * s * (one - s)


@kernel
def relu_forward(y, x):  # type: ignore[no-untyped-def]
    zero = x.dtype.type(0.0)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            y[i, j] = zero if x[i, j] <= zero else x[i, j]


@kernel
def relu_backward(dx, dy, x):  # type: ignore[no-untyped-def]
    zero = x.dtype.type(0.0)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            dx[i, j] = zero if x[i, j] <= zero else dy[i, j]


@kernel
def gelu_forward(y, x):  # type: ignore[no-untyped-def]
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            y[i, j] = x[i, j] * normal_cdf(x[i, j])


@kernel
def gelu_backward(dx, dy, x):  # type: ignore[no-untyped-def]
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            v = x[i, j]
            dx[i, j] = dy[i, j] * (normal_cdf(v) + v * normal_density(v))


@kernel
def gelu_tanh_forward(y, x):  # type: ignore[no-untyped-def]
    real = x.dtype.type
    half, one, cubic, scale = real(0.5), real(1.0), real(_CUBIC), real(_SQRT_2_OVER_PI)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            v = x[i, j]
            y[i, j] = half * v * (one + tanh(scale * (v + cubic * v * v * v)))


@kernel
def gelu_tanh_backward(dx, dy, x):  # type: ignore[no-untyped-def]
    real = x.dtype.type
    half, one, cubic, scale = real(0.5), real(1.0), real(_CUBIC), real(_SQRT_2_OVER_PI)
    three = real(3.0)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            v = x[i, j]
            t = tanh(scale * (v + cubic * v * v * v))
            slope = scale * (one + three * cubic * v * v)
            dx[i, j] = dy[i, j] * half * (one + t + v * (one - t * t) * slope)


@kernel
def activation_forward(kind, y, x):  # type: ignore[no-untyped-def]
    """y = f(x) for ``kind``, a value of ``ACTIVATIONS``."""
    if kind == TANH:
        tanh_forward(y, x)
    elif kind == SIGMOID:
        sigmoid_forward(y, x)
    elif kind == RELU:
        relu_forward(y, x)
    elif kind == GELU:
        gelu_forward(y, x)
    else:
        gelu_tanh_forward(y, x)


@kernel
def activation_backward(kind, dx, dy, x):  # type: ignore[no-untyped-def]
    """dx = dy f'(x) for ``kind``, a value of ``ACTIVATIONS``."""
    if kind == TANH:
        tanh_backward(dx, dy, x)
    elif kind == SIGMOID:
        sigmoid_backward(dx, dy, x)
    elif kind == RELU:
        relu_backward(dx, dy, x)
    elif kind == GELU:
        gelu_backward(dx, dy, x)
    else:
        gelu_tanh_backward(dx, dy, x)
