"""Element-wise activations y = f(x): tanh, sigmoid, relu, gelu (exact), gelu_tanh,
silu.

Shapes: x, y, slope, dy, dx (N, F). Training's forward saves the slope f'(x), which shares its
exponential with f, so that the backward is one product:

    y = f(x),  slope = f'(x);      backward: dx = dy slope, overwritten
    tanh       f' = 1 - y^2                  sigmoid  f' = y (1 - y)
    relu       f' = 1 for x > 0, else 0 (0 at the kink, as in PyTorch)
    gelu       f = x Phi(x),  f' = Phi(x) + x phi(x)       Hendrycks, Gimpel 2016, arXiv:1606.08415
    gelu_tanh  f = x (1 + tanh u) / 2,  u = sqrt(2/pi) (x + 0.044715 x^3)    GPT-2's approximation
               f' = (1 + tanh u) / 2 + x (1 - tanh^2 u) / 2 sqrt(2/pi) (1 + 3 * 0.044715 x^2)
    silu       f = x s,  s = 1 / (1 + exp(-x)),  f' = s (1 + x (1 - s))    the same paper, section 2

dx may be dy itself, but then the loop does not vectorise; y and slope must not be x. A new
activation is a function of one number that returns (f, f'), and a number in ``ACTIVATIONS``.
"""

from __future__ import annotations

import math

from bptool.ops.jit import kernel
from bptool.ops.vector_math import exp, normal_cdf, normal_density, tanh

TANH, SIGMOID, RELU, GELU, GELU_TANH, SILU = range(6)
ACTIVATIONS = {
    "tanh": TANH,
    "sigmoid": SIGMOID,
    "relu": RELU,
    "gelu": GELU,
    "gelu_tanh": GELU_TANH,
    "silu": SILU,
}
_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
_CUBIC = 0.044715


@kernel
def tanh_and_slope(y, slope, x):  # type: ignore[no-untyped-def]
    one = x.dtype.type(1.0)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            t = tanh(x[i, j])
            y[i, j] = t
            slope[i, j] = one - t * t


@kernel
def sigmoid_and_slope(y, slope, x):  # type: ignore[no-untyped-def]
    one = x.dtype.type(1.0)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            s = one / (one + exp(-x[i, j]))
            y[i, j] = s
            slope[i, j] = s * (one - s)


@kernel
def relu_and_slope(y, slope, x):  # type: ignore[no-untyped-def]
    zero, one = x.dtype.type(0.0), x.dtype.type(1.0)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            y[i, j] = zero if x[i, j] <= zero else x[i, j]
            slope[i, j] = zero if x[i, j] <= zero else one


@kernel
def gelu_and_slope(y, slope, x):  # type: ignore[no-untyped-def]
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            v = x[i, j]
            phi = normal_cdf(v)
            y[i, j] = v * phi
            slope[i, j] = phi + v * normal_density(v)


@kernel
def gelu_tanh_and_slope(y, slope, x):  # type: ignore[no-untyped-def]
    real = x.dtype.type
    half, one, three = real(0.5), real(1.0), real(3.0)
    cubic, scale = real(_CUBIC), real(_SQRT_2_OVER_PI)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            v = x[i, j]
            t = tanh(scale * (v + cubic * v * v * v))
            du = scale * (one + three * cubic * v * v)
            y[i, j] = half * v * (one + t)
            slope[i, j] = half * (one + t + v * (one - t * t) * du)


@kernel
def silu_and_slope(y, slope, x):  # type: ignore[no-untyped-def]
    one = x.dtype.type(1.0)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            v = x[i, j]
            s = one / (one + exp(-v))
            y[i, j] = v * s
            slope[i, j] = s * (one + v * (one - s))


@kernel
def activation_forward(kind, y, slope, x):  # type: ignore[no-untyped-def]
    """y = f(x) and slope = f'(x) for ``kind``, a value of ``ACTIVATIONS``."""
    if kind == TANH:
        tanh_and_slope(y, slope, x)
    elif kind == SIGMOID:
        sigmoid_and_slope(y, slope, x)
    elif kind == RELU:
        relu_and_slope(y, slope, x)
    elif kind == GELU:
        gelu_and_slope(y, slope, x)
    elif kind == GELU_TANH:
        gelu_tanh_and_slope(y, slope, x)
    else:
        silu_and_slope(y, slope, x)


@kernel
def activation_backward(dx, dy, slope):  # type: ignore[no-untyped-def]
    for i in range(dy.shape[0]):
        for j in range(dy.shape[1]):
            dx[i, j] = dy[i, j] * slope[i, j]
