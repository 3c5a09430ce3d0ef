"""PSGD with Kronecker-factored preconditioners (arXiv:1512.04202, arXiv:2402.04553)."""

import random
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer, Traits

BALANCE = 0.01  # how often the factors are scaled to one size, lest one over- and another underflows
RMS = 1.1  # a preconditioned gradient has entries of about one; more is cut
SEED = 1337


def update_probability(step: int) -> float:
    """How often the preconditioner is updated: always for 500 steps, then ever less often down to 3 %."""
    return min(1.0, max(0.03, 2.718281828459045 ** (-0.001 * (step - 500))))


def along(x: Tensor, q: Tensor, dim: int) -> Tensor:
    """A tensor with a factor, a matrix or its diagonal, applied to one dimension."""
    x = x.movedim(dim, -1)
    return (x * q if q.ndim < 2 else x @ q.mT).movedim(-1, dim)


def divided(x: Tensor, q: Tensor, dim: int) -> Tensor:
    """A tensor multiplied by the inverse of a factor from the right along one dimension."""
    x = x.movedim(dim, -1)
    if q.ndim < 2:
        return (x / q).movedim(-1, dim)
    rows = torch.linalg.solve_triangular(q, x.reshape(-1, q.shape[0]), upper=True, left=False)
    return rows.view(x.shape).movedim(-1, dim)


def gram(x: Tensor, q: Tensor, dim: int) -> Tensor:
    """Sum of products over all dimensions but one, or its diagonal where the factor is one."""
    rows = x.movedim(dim, 0).flatten(1) if x.ndim > 1 else x[:, None]
    return rows.square().sum(1) if q.ndim < 2 else rows @ rows.mT


def lower_bound(x: Tensor) -> Tensor:
    """A cheap lower bound of the spectral norm of a symmetric matrix, close to it in practice."""
    largest = x.abs().max()
    x = x / largest.clamp(min=torch.finfo(x.dtype).tiny)
    v = x @ x[x.square().sum(1).argmax()]  # a step of the power iteration from the longest row
    return largest * (x @ v).norm() / v.norm().clamp(min=torch.finfo(x.dtype).tiny)


def improve(factors: list[Tensor], g: Tensor, v: Tensor, rate: float) -> None:
    """A step of the factors, in place, towards a preconditioner that whitens the gradient (or momentum) g.

    They are upper triangular matrices, or diagonals; v are standard normal numbers of g's shape.
    """
    a, b = g, v
    for dim, q in enumerate(factors):
        a, b = along(a, q, dim), divided(b, q, dim)
    tiny = torch.finfo(g.dtype).tiny
    for dim, q in enumerate(factors):
        more, less = gram(a, q, dim), gram(b, q, dim)
        if q.ndim < 2:
            q.sub_(rate / (more + less).abs().max().clamp(min=tiny) * (more - less) * q)
        else:
            q.sub_(rate / lower_bound(more + less).clamp(min=tiny) * (more - less).triu() @ q)


def balance(factors: list[Tensor]) -> None:
    """Scales factors, in place, to the same largest entry."""
    sizes = torch.stack([q.abs().max() for q in factors])
    for q, ratio in zip(factors, sizes.log().mean().exp() / sizes, strict=True):
        q.mul_(ratio)


class Kron(Optimizer):
    """PSGD Kron: gradients whitened by one factor a dimension.

    `memory_save_mode`: 'one_diag' makes the factor of the longest dimension diagonal, 'smart_one_diag' if it is longer
    than all others, 'all_diag' all; None none.
    """

    lr: float = 1e-3
    momentum: float = 0.9  # decay of the average gradient
    weight_decay: float = 0.0
    preconditioner_update_probability: float | None = None  # at a step; None starts with 1 and goes to 0.03
    max_size_triangular: int = 2048  # longer dimensions have a diagonal factor
    min_ndim_triangular: int = 2  # tensors of fewer dimensions have diagonal factors
    memory_save_mode: Literal['one_diag', 'smart_one_diag', 'all_diag'] | None = None  # see above
    momentum_into_precond_update: bool = True  # update the factors from the average gradient, not from the last
    precond_lr: float = 0.1  # relative size of an update
    precond_init_scale: float = 1.0  # of the factors' product at first
    mu_dtype: str | torch.dtype | None = None  # of the average gradient; None: as the state's
    precond_dtype: str | torch.dtype | None = None  # of the factors, likewise
    decoupled_decay: bool = False  # for its name: decay is decoupled either way, since it is not preconditioned
    flatten: bool = False  # join dimensions `flatten_start_dim` to `flatten_end_dim`, as a kernel's height and width
    flatten_start_dim: int = 2  # the first
    flatten_end_dim: int = -1  # the last
    stochastic_weight_decay: bool = False  # scale the decay of each step by a random number in [0, 2)
    deterministic: bool = False  # updates at regular steps with seeded numbers, the same from run to run
    decay = 'decoupled'
    branches_on_step = True
    traits: ClassVar[dict[str, Traits]] = {'': Traits('tensors', compile=False, stack=0)}

    def complete(self, values: dict[str, Any]) -> None:
        self.random = random.Random(SEED)

    def state_dict(self) -> dict[str, Any]:
        """torch's, with the state of the random numbers."""
        return {**super().state_dict(), 'rng_state': self.random.getstate()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if 'rng_state' in state_dict:
            version, words, gauss = state_dict['rng_state']
            self.random.setstate((version, tuple(words), gauss))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), 'random': self.random}

    @staticmethod
    def shape(p: Tensor, group: dict[str, Any]) -> tuple[int, ...]:
        """The shape that the factors see."""
        start, end = group['flatten_start_dim'], group['flatten_end_dim'] % max(p.ndim, 1)
        if group['flatten'] and start < end:
            return tuple(p.flatten(start, end).shape)
        return tuple(p.shape) or (1,)

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        shape, mode = self.shape(p, group), group['memory_save_mode']
        diagonal = [n == 1 or n > group['max_size_triangular'] for n in shape]
        longest = max(shape)
        if p.ndim < group['min_ndim_triangular'] or mode == 'all_diag':
            diagonal = [True] * len(shape)
        elif mode == 'one_diag' or (mode == 'smart_one_diag' and shape.count(longest) == 1):
            diagonal[len(shape) - 1 - shape[::-1].index(longest)] = True
        scale = group['precond_init_scale'] ** (1 / len(shape))
        given = group['mu_dtype'], group['precond_dtype']
        average, dtype = (getattr(torch, name) if name else p.dtype for name in given)
        state = {'momentum_buffer': torch.zeros_like(p, dtype=average)}
        for dim, n in enumerate(shape):
            factor = torch.ones(n, dtype=dtype, device=p.device)
            state[f'Q{dim}'] = scale * (factor if diagonal[dim] else factor.diag())
        return state

    def prepare(self, group: dict[str, Any], params: list[Tensor]) -> None:
        group['decay_scale'] = 2 * self.random.random() if group['stochastic_weight_decay'] else 1.0
        for p in params:
            assert p.grad is not None
            state = self.state[p]
            g = -p.grad if group['maximize'] else p.grad
            g = g.to(torch.promote_types(g.dtype, torch.float32))
            average = state['momentum_buffer']
            average.lerp_(g.to(average.dtype), 1 - group['momentum'])
            if self.updates(state, group):
                if group['momentum_into_precond_update']:
                    g = average.to(g.dtype) / (1 - group['momentum'] ** state['step'])
                self.precondition(state, g.reshape(self.shape(p, group)), group)

    def updates(self, state: dict[str, Any], group: dict[str, Any]) -> bool:
        """Whether the factors of a parameter are updated now."""
        share = group['preconditioner_update_probability']
        share = update_probability(state['step']) if share is None else share
        if not group['deterministic']:
            return self.random.random() < share
        return int(state['step'] * share) > int((state['step'] - 1) * share)

    def precondition(self, state: dict[str, Any], g: Tensor, group: dict[str, Any]) -> None:
        """Updates the factors of a parameter."""
        balances = self.random.random() < BALANCE
        generator = torch.Generator(g.device).manual_seed(self.random.randint(0, 2**31 - 1))
        v = torch.randn(g.shape, generator=generator, device=g.device, dtype=g.dtype)
        stored = [state[f'Q{dim}'] for dim in range(g.ndim)]
        factors = [q.to(g.dtype) for q in stored]
        if balances and g.ndim > 1:
            balance(factors)
        improve(factors, g, v, group['precond_lr'])
        torch._foreach_copy_(stored, factors)

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        decay = group['weight_decay'] * group['decay_scale']
        return {'correction': 1 - group['momentum'] ** step, 'weight_decay': decay}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        factors = [q[0].to(g.dtype) for name, q in s._asdict().items() if name.startswith('Q')]
        factors = [q.view(-1) if q.numel() == max(q.shape) else q for q in factors]
        d = (s.momentum_buffer / h.correction).reshape([q.shape[0] for q in factors])
        for dim, q in enumerate(factors):
            d = along(along(d, q, dim), q.mT if q.ndim > 1 else q, dim)
        d = d * (RMS / (d.square().mean().sqrt() + 1e-6)).clamp(max=1)
        return h.lr * d.reshape(p.shape)
