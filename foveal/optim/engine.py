"""The one optimizer class: what an algorithm needs besides its formula is here, once for all of them.

An algorithm is a subclass in a file of its own. It gives the state of one tensor and the update of one tensor:

    class Momentum(Optimizer):
        zeros = ('buffer',)

        def __init__(self, params, lr=0.1, momentum=0.9, weight_decay=0.0, **options: Unpack[Options]):
            super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay), options)

        @staticmethod
        def update(p, g, buffer, lr, momentum):
            buffer.mul_(momentum).add_(g)
            return lr * buffer

`update` returns what the engine then subtracts from the parameter. It may change its state tensors in place (not
replace them) and must leave `p` and `g` alone. Its arguments are matched **by name**:

- `p`, `g`: the parameter and its gradient, of the same shape, in float32 or wider whatever they are stored in. The
  gradient is already negated under `maximize` and has coupled decay added; the parameter is already decayed where decay
  is decoupled.
- names of the state (give the argument the default None where a state may be absent);
- `lr`, `weight_decay` and every other key of the group; `betas` comes as `beta1`, `beta2`, ...; `step` (from 1);
- `decay`: `weight_decay`, times lr / peak lr where corrected, and times lr where the engine decouples it;
- what `scalars(group, step)` returns: numbers that depend on the step alone, such as bias corrections;
- `kind`: what `kind(p, group)` said of this parameter.

Floats may come as 0-dimensional tensors (compiled, or with `lr` a tensor): use them in arithmetic only, never in `if`,
`math.*` or `alpha=`/`value=` (`v.lerp_(g * g, 1 - beta2)`, not `addcmul_`). What decides the course of the code has to
be a bool, int, str or None, which is compiled in: `scalars` may return these too, in few variants.

Class attributes and hooks, all optional but `update`:

- `zeros`: names of the states that begin as zeros of the parameter's shape; `init(p, group)` makes any others.
- `traits`: kind -> `Traits`. `sees` is what `p` holds: `'elements'`, a run of numbers in one dimension, many tensors
  joined: for purely elementwise formulas (every state has the parameter's shape). `'rows'`, (k, n): k tensors of n
  elements, for formulas with reductions over the whole tensor; `norm(x)` and `mean(x)` reduce each. `'tensors'`,
  (k, *shape): k tensors of the same shape, for formulas with structure (count dimensions from the end, or from 1). For
  the latter two a state of another shape comes as (k, *its shape), a 0-dimensional one as (k, 1, ...).
- `kind(p, group) -> str`: which formula a parameter takes, where an algorithm has several. '' by default. Only its
  first word is looked up in `traits`; what follows may tell `update` more, such as dimensions.
- `decays(group)`: 'coupled' (g + wd p), 'decoupled' (p - lr wd p, corrected by lr / peak lr on request), 'fixed'
  (p - wd p), or 'own': `update` does it.
- `scalars(group, step) -> dict`: see above.
- `finish(p, d, ...)`: static as `update`: the final step from `d` after the cautious mask (LAMB's trust ratio).
- `begin()`: before all groups (a global norm). `prepare(group, params)`: before a group, states made and steps counted,
  for state that the group shares; keep it in the group, where it is saved and handed to `update` by name.
- `second_order`: needs `loss.backward(create_graph=True)`.
- `branches_on_step`: True where `scalars` gives other constants for other steps, so that a step cannot be captured into
  a CUDA graph (`capturable=True`: `step` is a tensor).
- `masks`: True where `update` applies the cautious mask itself (`caution` is then one of its arguments).

Speed: the elementwise passes of a formula cost memory traffic, so `torch.compile` makes one kernel of them. It is asked
for when the optimizer holds more than `COMPILE_FROM` elements and the machine has a compiler; the first step then takes
about 20 s on a machine that has never compiled anything, and 1 to 5 s a formula later, or when the kernels lie in
torch's cache. Small tensors are joined or stacked first, since what a tensor costs is mostly the call.
"""

import operator
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, ClassVar, TypedDict, overload

import torch
from torch import Tensor

from foveal.errors import near
from foveal.optim.bucket import Bucket, buckets
from foveal.optim.program import Formula, Traits, can_compile, mean, norm, wanted

__all__ = ['Optimizer', 'Options', 'Traits', 'mean', 'norm']

COMPILE_FROM = 1_000_000  # elements: below, a step is too short to pay for a compilation


class Options(TypedDict, total=False):
    """What every algorithm takes besides its own arguments.

    caution: Mask the steps that go against the gradient (arXiv:2411.16085).
    corrected_weight_decay: Decoupled decay by lr^2 / peak lr instead of lr (arXiv:2506.02285).
    maximize: Go up the gradient.
    foreach: False handles tensors one by one; True or None join the small ones.
    compile: True or False; None decides by size.
    capturable: Keep the step counters on the device, for CUDA graphs.
    state_dtype: Of the state, such as 'float32' or 'bfloat16'; None keeps the parameter's.
    stochastic_rounding: Round bfloat16 parameters up or down at random in proportion, so that small steps add up.
    """

    caution: bool
    corrected_weight_decay: bool
    maximize: bool
    foreach: bool | None
    compile: bool | None
    capturable: bool
    state_dtype: str | torch.dtype | None
    stochastic_rounding: bool


OPTIONS: dict[str, Any] = dict(
    caution=False,
    corrected_weight_decay=False,
    maximize=False,
    foreach=None,
    compile=None,
    capturable=False,
    state_dtype=None,
    stochastic_rounding=False,
)


class Optimizer(torch.optim.Optimizer):
    """Base of every algorithm; see the module's text for how one is written.

    Args:
        params: Parameters, (name, parameter) pairs, or groups.
        defaults: The algorithm's own arguments.
        options: The caller's `Options`.

    Raises:
        TypeError: Unknown option.
        ValueError: A value outside its range; complex parameters; `capturable` where it cannot be.
    """

    traits: ClassVar[dict[str, Traits]] = {'': Traits()}
    zeros: ClassVar[tuple[str, ...]] = ()
    second_order: ClassVar[bool] = False
    branches_on_step: ClassVar[bool] = False
    masks: ClassVar[bool] = False

    def __init__(self, params: Any, defaults: dict[str, Any], options: Options) -> None:
        for name in options:
            if name not in OPTIONS:
                legal = [*defaults, *OPTIONS]
                raise TypeError(f'{type(self).__name__} has no option {name!r}{near(name, legal)}')
        self._plans: dict[int, tuple[list[Tensor], list[Bucket]]] = {}
        self._formulas: dict[Formula, Formula] = {}
        super().__init__(params, {**defaults, **OPTIONS, **options})

    # what an algorithm says

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """State of a parameter, given as a tensor of the state's dtype."""
        return {name: torch.zeros_like(p) for name in self.zeros}

    update: ClassVar[Callable[..., Tensor]]  # static: what is subtracted from the parameter

    @staticmethod
    def _as_it_is(p: Tensor, d: Tensor) -> Tensor:
        return d

    finish: ClassVar[Callable[..., Tensor]] = _as_it_is  # static: the final step, after the cautious mask

    def kind(self, p: Tensor, group: dict[str, Any]) -> str:
        """The formula that a parameter takes, a key of `traits`."""
        return ''

    def decays(self, group: dict[str, Any]) -> str:
        """'coupled', 'decoupled', 'fixed' or 'own'."""
        return 'decoupled' if group['corrected_weight_decay'] else 'coupled'

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        """Numbers that depend on the group and the step (from 1; a tensor where capturable) alone."""
        return {}

    def begin(self) -> None:
        """Called before all groups of a step."""

    def prepare(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Called before a group's step with its parameters that have gradients."""

    # what it gets for that

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Updates the parameters that have a gradient.

        Args:
            closure: Computes the loss and its gradients anew.

        Returns:
            What the closure returned.

        Raises:
            RuntimeError: Sparse gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for p in (p for group in self.param_groups for p in group['params']):
            if p.grad is not None and p.grad.is_sparse:
                raise RuntimeError(f'{type(self).__name__} does not take sparse gradients')
        self.begin()
        for index, group in enumerate(self.param_groups):
            params = [p for p in group['params'] if p.grad is not None and p.numel()]
            if params:
                self._count(params, group)
                self.prepare(group, params)
                self._run(index, group, params)
        return loss

    def _count(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Makes missing state and adds one to the step of each parameter."""
        counters = []
        for p in params:
            state = self.state[p]
            if 'step' not in state:
                state['step'] = torch.zeros((), device=p.device) if group['capturable'] else 0
                state.update(self.init(self._template(p, group), group))
            if group['capturable']:
                counters.append(state['step'])
            else:
                state['step'] += 1
        if counters:
            torch._foreach_add_(counters, 1)

    @staticmethod
    def _template(p: Tensor, group: dict[str, Any], device: str | None = None) -> Tensor:
        dtype = p.dtype if group['state_dtype'] is None else getattr(torch, group['state_dtype'])
        return p.detach().to(device=device, dtype=dtype)

    def _run(self, index: int, group: dict[str, Any], params: list[Tensor]) -> None:
        batches = self._buckets(index, group, params)
        known: dict[Any, tuple[Formula, list[Any]]] = {}
        packed: dict[Any, Tensor] = {}
        for bucket in batches:
            step = bucket.states[0]['step']
            key = (bucket.kind, bucket.names, step)
            if key not in known:
                known[key] = self._formula(group, bucket, step)
            formula, numbers = known[key]
            if not bucket.compiles:
                bucket.run(formula, numbers)
                continue
            if (key, bucket.device) not in packed:
                packed[key, bucket.device] = pack(numbers, bucket.device)
            bucket.run(formula, packed[key, bucket.device])

    def _formula(self, group: dict[str, Any], bucket: Bucket, step: Any) -> tuple[Formula, list[Any]]:
        """What a bucket runs, and the numbers of this step in the formula's order."""
        values = {name: value for name, value in group.items() if name not in ('params', 'param_names')}
        values |= {f'beta{i}': beta for i, beta in enumerate(values.pop('betas', None) or (), 1)}
        values |= {'step': step if isinstance(step, Tensor) else float(step), 'kind': bucket.kind}
        decays = self.decays(group)
        values['decay'] = group['weight_decay'] * (group['lr'] if decays == 'decoupled' else 1.0)
        if group['corrected_weight_decay']:
            values['decay'] = values['decay'] * group['lr'] / group['max_lr']
        values |= self.scalars(group, step)
        used = {'decay', *self._arguments()} - {*bucket.names}
        floats = {name: value for name, value in values.items() if name in used and isinstance(value, float | Tensor)}
        constants = tuple((name, values[name]) for name in values if name in used and name not in floats)
        formula = Formula(
            type(self),
            bucket.names,
            tuple(floats),
            constants,
            'decoupled' if decays == 'fixed' else decays,
            group['caution'] and not self.masks,
            group['maximize'],
            group['stochastic_rounding'],
        )
        return self._formulas.setdefault(formula, formula), list(floats.values())

    @classmethod
    def _arguments(cls) -> list[str]:
        algorithm: Any = cls
        return [*wanted(algorithm, 'update'), *wanted(algorithm, 'finish')]

    def _buckets(self, index: int, group: dict[str, Any], params: list[Tensor]) -> list[Bucket]:
        """The group's buckets, made anew where parameters, state or gradients are other ones than last time."""
        past, batches = self._plans.get(index, ([], []))
        same = len(past) == len(params) and all(map(operator.is_, past, params))
        if same and all(bucket.current() for bucket in batches):
            return batches
        size = sum(p.numel() for g in self.param_groups for p in g['params'])
        rows = []
        for p in params:
            kind, state = self.kind(p, group), self.state[p]
            names = self._arguments()
            rows.append((p, state, tuple(dict.fromkeys(n for n in names if n in state and n != 'step')), kind))
        traits = {kind: self._traits(kind, group) for kind in {row[3] for row in rows}}
        batches = buckets([(*row, traits[row[3]]) for row in rows], group['foreach'] is not False)
        for bucket in batches:
            wish = size >= COMPILE_FROM if group['compile'] is None else group['compile']
            able = not bucket.loose and traits[bucket.kind].compile and can_compile(bucket.device.type)
            # stacks on a CPU are small: eager is as fast there, and saves a kernel's compilation
            worth = bucket.sees == 'elements' or len(bucket.params) == 1 or bucket.device.type == 'cuda'
            bucket.compiles = bool(wish and able and worth)
        self._plans[index] = params, batches
        return batches

    def _traits(self, kind: str, group: dict[str, Any]) -> Traits:
        traits = self.traits[kind.partition(' ')[0]]
        # the mask is scaled by its mean over the tensor
        return traits._replace(sees='rows') if group['caution'] and traits.sees == 'elements' else traits

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's, and refuses what the algorithm cannot do."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for name, value in group.items():
            if isinstance(self.defaults.get(name), float) and isinstance(value, int):
                group[name] = float(value)
        check(type(self).__name__, group)
        if group['state_dtype'] is not None:
            group['state_dtype'] = str(group['state_dtype']).removeprefix('torch.')
        if group['capturable'] and self.branches_on_step:
            raise ValueError(f'{type(self).__name__} decides by the step count, so capturable cannot be')
        if any(p.is_complex() for p in group['params']):
            raise ValueError(f'{type(self).__name__} does not take complex parameters')
        if group['corrected_weight_decay']:
            group.setdefault('max_lr', group['lr'])
        self._plans.clear()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, and keeps each state in the precision that this optimizer gives it."""
        super().load_state_dict(state_dict)
        saved = chain.from_iterable(group['params'] for group in state_dict['param_groups'])
        pairs = [(group, p) for group in self.param_groups for p in group['params']]
        for key, (group, p) in zip(saved, pairs, strict=True):
            state, given = self.state.get(p, {}), state_dict['state'].get(key, {})
            own = self.init(self._template(p, group, 'meta'), group) if given else {}
            for name, value in given.items():
                if name == 'step':
                    step = float(value)
                    state[name] = torch.tensor(step, device=p.device) if group['capturable'] else int(step)
                elif name in own and isinstance(value, Tensor):
                    like = torch.empty_like(p) if value.shape == p.shape else torch.empty_like(value, device=p.device)
                    state[name] = torch.empty_like(like, dtype=own[name].dtype).copy_(value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        self._plans, self._formulas = {}, {}


def pack(numbers: Iterable[Any], device: torch.device) -> Tensor:
    """Numbers as one tensor: in float64, since 1 - 0.999 in float32 is wrong in the fifth digit."""
    values = list(numbers)
    if not any(isinstance(value, Tensor) for value in values):
        return torch.tensor(values, dtype=torch.float64, device=device)
    filled = [v.to(device, torch.float64) if isinstance(v, Tensor) else full(v, device) for v in values]
    return torch.stack(filled)


def full(value: float, device: torch.device) -> Tensor:
    """A number on a device without a copy from the host, which a CUDA graph could not capture."""
    return torch.full((), value, dtype=torch.float64, device=device)


def check(owner: str, group: dict[str, Any]) -> None:
    """Refuses hyperparameters outside their range.

    Raises:
        ValueError: Names the argument, what came and what is legal.
    """
    for name in ('lr', 'eps', 'weight_decay', 'momentum'):
        value = group.get(name)
        if isinstance(value, float) and not value >= 0:
            raise ValueError(f'{owner}: {name} is {value}; it must be 0 or more')
    for beta in group.get('betas') or ():
        if isinstance(beta, float) and not 0 <= beta < 1:
            raise ValueError(f'{owner}: betas are {group["betas"]}; each must be from 0 to below 1')
    dtype = group['state_dtype']
    known = dtype if dtype is None or isinstance(dtype, torch.dtype) else getattr(torch, str(dtype), None)
    if dtype is not None and not (isinstance(known, torch.dtype) and known.is_floating_point):
        raise ValueError(f'{owner}: state_dtype is {dtype!r}; it must be a floating dtype, such as float32 or bfloat16')
