"""The one optimizer class: what an algorithm needs besides its formula is here, once for all of them.

An algorithm is a subclass: its arguments are annotated fields, class attributes and hooks say what it needs, and
`update(p, g, s, h)` gives what the engine then subtracts from the parameter. docs/optimizers.md tells what these four
are, what `update` may do with them, and when it is compiled.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY
from itertools import chain
from operator import attrgetter, is_
from typing import Any, ClassVar

import torch
from torch import Tensor

from foveal.optim.batch import Batch
from foveal.optim.bucket import Bucket, buckets
from foveal.optim.fields import Fields, check
from foveal.optim.program import Formula, Traits, largest, mean, norm
from foveal.replay import can_record
from foveal.traced import can_compile

__all__ = ['Optimizer', 'Traits', 'largest', 'mean', 'norm']

COMPILE_FROM = 1_000_000  # elements: below, a step is too short to pay for a compilation
TINY = 64  # elements of a tensor or a stack
NOT_HANDED = {'step', 'lookahead_slow_buff'}  # of a parameter's state, the engine's and Lookahead's


class Optimizer(Fields, torch.optim.Optimizer):
    """Base of every algorithm, with the options of all.

    Raises:
        TypeError: Unknown option.
        ValueError: A value outside its range; complex parameters; `capturable` where it cannot be.
    """

    params: Any  # parameters, (name, parameter) pairs, or groups
    _: KW_ONLY
    caution: bool = False  # mask the steps that go against the gradient (arXiv:2411.16085)
    corrected_weight_decay: bool = False  # decoupled decay by lr^2 / peak lr instead of lr (arXiv:2506.02285)
    maximize: bool = False  # go up the gradient
    foreach: bool | None = None  # False handles tensors one by one; True or None join the small ones
    compile: bool | None = None  # None decides by size
    capturable: bool = False  # keep the step counters on the device, for CUDA graphs
    state_dtype: str | torch.dtype | None = None  # such as 'float32' or 'bfloat16'; None keeps the parameter's
    stochastic_rounding: bool = False  # round bfloat16 parameters at random in proportion, so that small steps add up

    zeros: ClassVar[tuple[str, ...]] = ()  # states that begin as zeros of the parameter's shape
    zeros_if: ClassVar[dict[str, str]] = {}  # likewise, where an option is set: option -> state
    aside: ClassVar[tuple[str, ...]] = ()  # states that `update` does not take
    constants: ClassVar[dict[str, Any]] = {}  # what `update` gets besides the options
    # 'coupled' (g + wd p), 'decoupled' (p - lr wd p), 'fixed' (p - wd p), 'added' (by `update` where it sees fit);
    # of the first and the last, decoupled_decay and corrected_weight_decay make the second. 'own': `update` does it all
    decay: ClassVar[str] = 'coupled'
    traits: ClassVar[dict[str, Traits]] = {'': Traits()}  # of each kind of parameter
    second_order: ClassVar[bool] = False  # needs loss.backward(create_graph=True)
    branches_on_step: ClassVar[bool] = False  # other constants for other steps: no CUDA graph (capturable)
    masks: ClassVar[bool] = False  # `update` applies the cautious mask itself, by h.caution

    def start(self, params: Any, **values: Any) -> None:  # type: ignore[override]
        self._plans: dict[int, tuple[list[Tensor], list[Batch]]] = {}
        self._states: list[int] = []  # identities of the states that plans hold
        self._formulas: dict[Formula, Formula] = {}
        self.complete(values)
        torch.optim.Optimizer.__init__(self, params, values)

    # what an algorithm says

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """State of a parameter, given as a tensor of the state's dtype."""
        names = (*self.zeros, *(name for option, name in self.zeros_if.items() if group[option]))
        return {name: torch.zeros_like(p) for name in names}

    update: ClassVar[Callable[..., Tensor]]  # static, see above

    @staticmethod
    def finish(p: Tensor, d: Tensor, h: Any) -> Tensor:
        """The final step from `d`, which `update` gave and caution has masked (LAMB's trust ratio)."""
        return d

    def kind(self, p: Tensor, group: dict[str, Any]) -> str:
        """Which of several formulas a parameter takes: a key of `traits`, and further words for `update`."""
        return ''

    def decays(self, group: dict[str, Any]) -> str:
        """What `decay` comes to in a group."""
        names = ('decoupled', 'decoupled_decay', 'decoupled_weight_decay', 'corrected_weight_decay')
        asked = any(group.get(name) for name in names)
        return 'decoupled' if asked and self.decay in ('coupled', 'added') else self.decay

    def complete(self, values: dict[str, Any]) -> None:
        """Checks the arguments against each other, and adds what follows from them to the groups' defaults."""

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        """Numbers, or constants in few variants, by group, step (from 1; a tensor where capturable) and kind alone.

        They take the place of options: an `lr` or `weight_decay` among them is also what decoupled decay goes by.
        """
        return {}

    def begin(self) -> None:
        """Called before all groups of a step (a global norm)."""

    def prepare(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Called before a group's step with its parameters that have gradients, state made and steps counted.

        For what the group shares: keep it in the group, where it is saved, and hand it on by `scalars`.
        """

    # what it gets for that

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Updates the parameters that have a gradient, by those that `closure` computes anew where it is given.

        Returns:
            What the closure returned.

        Raises:
            RuntimeError: Sparse gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [[p for p in group['params'] if p.grad is not None and p.numel()] for group in self.param_groups]
        if any(map(attrgetter('grad.is_sparse'), chain(*moving))):
            raise RuntimeError(f'{type(self).__name__} does not take sparse gradients')
        if [*map(id, self.state.values())] != self._states:  # someone put others in their place
            self._plans.clear()
        self.begin()
        for index, (group, params) in enumerate(zip(self.param_groups, moving, strict=True)):
            if params:
                self._count(params, group)
                self.prepare(group, params)
                self._run(index, group, params)
        self._states = [*map(id, self.state.values())]
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
        for batch in self._plan(index, group, params):
            batch.run(*self._formula(group, batch.first))

    def _formula(self, group: dict[str, Any], bucket: Bucket) -> tuple[Formula, list[Any]]:
        """What a bucket runs, and the numbers of this step in the formula's order."""
        step = bucket.states[0]['step']
        values = {name: group[name] for name in self.fields if name not in Optimizer.fields}
        for i, beta in enumerate(values.pop('betas', None) or (), 1):
            values |= {f'beta{i}': beta, f'correction{i}': 1 - beta**step}
        values |= {**self.constants, **self.scalars(group, step, bucket.kind)}
        decays = self.decays(group)
        values['decay'] = values.pop('weight_decay') * (values['lr'] if decays == 'decoupled' else 1.0)
        if group['corrected_weight_decay']:
            values['decay'] = values['decay'] * group['lr'] / group['max_lr']
        values |= {'adds': decays == 'added', 'kind': bucket.kind, 'caution': group['caution']}
        floats = {name: value for name, value in values.items() if isinstance(value, float | Tensor)}
        constants = tuple(item for item in values.items() if item[0] not in floats)
        flags = group['caution'] and not self.masks, group['maximize'], group['stochastic_rounding']
        decays = 'decoupled' if decays == 'fixed' else decays
        formula = Formula(type(self), bucket.names, tuple(floats), constants, decays, *flags)
        return self._formulas.setdefault(formula, formula), list(floats.values())

    def _plan(self, index: int, group: dict[str, Any], params: list[Tensor]) -> list[Batch]:
        """The group's buckets, together where formula and numbers are the same; made anew for other tensors."""
        past, plan = self._plans.get(index, ([], []))
        same = len(past) == len(params) and all(map(is_, past, params))
        if same and all(batch.current() for batch in plan):
            return plan
        size = sum(p.numel() for g in self.param_groups for p in g['params'])
        rows, unseen = [], NOT_HANDED.union(self.aside)
        for p in params:
            kind, state = self.kind(p, group), self.state[p]
            rows.append((p, state, tuple(name for name in state if name not in unseen), kind))
        traits = {kind: self._traits(kind, group) for kind in {row[3] for row in rows}}
        batches: dict[Any, list[Bucket]] = {}
        for bucket in buckets([(*row, traits[row[3]]) for row in rows], group['foreach'] is not False):
            trait, device = traits[bucket.kind], bucket.device
            wish = size >= COMPILE_FROM if group['compile'] is None else group['compile']
            able = trait.compile and not bucket.loose and bucket.p.numel() < 2**31 and can_compile(device.type)
            # on a CPU, what takes no time is not worth a compilation, nor are stacks with structure, which are small
            stacked = bucket.sees == 'tensors' and len(bucket.params) > 1
            worth = device.type == 'cuda' or (bucket.p.numel() > TINY and not stacked)
            bucket.compiles = bool(wish and able and worth)
            pays = bucket.small and group['foreach'] is not False and can_record(device)
            bucket.records = pays and (bucket.compiles or trait.record)
            key = bucket.kind, bucket.names, float(bucket.states[0]['step']), device, bucket.compiles
            batches.setdefault(key, []).append(bucket)
        self._plans[index] = params, [*map(Batch, batches.values())]
        return self._plans[index][1]

    def _traits(self, kind: str, group: dict[str, Any]) -> Traits:
        traits = self.traits[kind.partition(' ')[0]]
        # the mask is scaled by its mean over the tensor
        return traits._replace(sees='rows') if group['caution'] and traits.sees == 'elements' else traits

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's, and refuses what the algorithm cannot do."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for name in self.defaults:
            group[name] = plain(group[name])
            if isinstance(self.defaults[name], float) and isinstance(group[name], int):
                group[name] = float(group[name])
        check(type(self), group)
        dtype = torch.float32 if group['state_dtype'] is None else getattr(torch, str(group['state_dtype']), None)
        if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ValueError(f'state_dtype is {group["state_dtype"]!r}; it must be a floating one, such as bfloat16')
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
            group.update({name: plain(group.get(name, value)) for name, value in self.defaults.items()})
        self._plans, self._states, self._formulas = {}, [], {}


def plain(value: Any) -> Any:
    """A group's value as files hold it, apart from tensors: dtypes by name, sequences as tuples."""
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    return str(value).removeprefix('torch.') if isinstance(value, torch.dtype) else value
