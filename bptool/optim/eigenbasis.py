"""Into and out of the eigenbases of a matrix's two sides, and the bases themselves.

    enter: P^T X Q,   leave: P X Q^T;   X (M, N), P (M, M), Q (N, N); a side without one is left

Products of each step are the engine's. Eigenvectors and orthogonal factors are LAPACK's, by numpy:
they are seldom found, and their stability is the library's business.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bptool.ops.matmul import MatmulEngine, matmul
from bptool.optim.base import Array

SIDES = ("left", "right")


class Basis:
    """The sides of a tensor that have one, with what they are made from.

    Args:
        state: the tensor's state: ``left`` and ``right``, each beside its ``_basis``.
        engine: multiplies. room: an array of the tensor's shape to work in.
    """

    def __init__(self, state: Mapping[str, Array], engine: MatmulEngine, room: Array) -> None:
        self.state, self.engine, self.room = state, engine, room
        self.left = state.get("left_basis")
        self.right = state.get("right_basis")

    def enter(self, out: Array, x: Array) -> None:
        """out = P^T x Q."""
        self._multiply(out, x, True)

    def leave(self, out: Array, x: Array) -> None:
        """out = P x Q^T."""
        self._multiply(out, x, False)

    def measure(self, g: Array, beta: float) -> None:
        """Bring the preconditioners, running means of g g^T and g^T g, up to date."""
        for side in SIDES:
            if side in self.state:
                mean, left = self.state[side], side == "left"
                product = np.empty_like(mean)
                matmul(self.engine, product, g, not left, g, left, False)
                mean[...] = beta * mean + (1.0 - beta) * product

    def begin(self) -> None:
        """The first bases: the eigenvectors."""
        for side in SIDES:
            if side in self.state:
                self.state[f"{side}_basis"][...] = eigenvectors(self.state[side])

    def turn(self, m: Array, v: Array, room: Array) -> None:
        """New bases; ``m`` is carried into them, and ``v`` reordered with their columns."""
        self.leave(room, m)
        for axis, side in enumerate(SIDES):
            if side in self.state:
                own = self.state[f"{side}_basis"]
                own[...], order = power_step(self.state[side], own)
                v[...] = np.take(v, order, axis)
        self.enter(m, room)

    def _multiply(self, out: Array, x: Array, enters: bool) -> None:
        if self.left is not None:
            target = out if self.right is None else self.room
            matmul(self.engine, target, self.left, enters, x, False, False)
            x = target
        if self.right is not None:
            matmul(self.engine, out, x, False, self.right, not enters, False)
        elif x is not out:
            out[...] = x


def eigenvectors(matrix: Array) -> Array:
    """Of a symmetric matrix, as columns, of falling eigenvalue; found in float64."""
    tiny = 1e-30 * np.eye(len(matrix))
    return np.linalg.eigh(matrix.astype(np.float64) + tiny)[1][:, ::-1].astype(matrix.dtype)


def power_step(matrix: Array, basis: Array) -> tuple[Array, Array]:
    """Eigenvectors a step nearer, by the power method, and the order that they were put in.

    The columns are sorted by falling estimated eigenvalue first (Vyas et al., algorithm 4).
    """
    eigenvalues = (basis * (matrix @ basis)).sum(axis=0)
    order = np.argsort(-eigenvalues, kind="stable")
    return np.linalg.qr(matrix @ basis[:, order])[0], order
