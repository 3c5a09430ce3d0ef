"""A model larger than one device: each process holds its share of every weight (FSDP, arXiv:2304.11277).

A block's weights are whole only while it computes. torch's `fully_shard` does it; here is what is shared out, in which
precision, and how first weights come to where they belong without a device ever holding all of them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.modules.batchnorm import _NormBase

from foveal.data import Loader
from foveal.data.loader import Batch
from foveal.engine.config import TrainConfig
from foveal.engine.distributed import Process, local, total
from foveal.engine.ema import Ema
from foveal.engine.precision import AUTOCAST
from foveal.layers.blocks import Blocks
from foveal.models.backbone import outermost_blocks
from foveal.optim import get_optimizer_info, list_optimizers

# optimizers whose formulas want a tensor whole, or the graph of its gradient
WHOLE = ('AdamP', 'SGDP', 'Adahessian', 'Kron', 'SOAP', 'Sophia')


def check_shard(config: TrainConfig) -> None:
    """Refuses what does not go with shards.

    Raises:
        ValueError: Names the option, and what works.
    """
    if not config.shard:
        return
    if config.batch_size == 'auto':
        raise ValueError('batch_size auto tries in each process by itself, which shards cannot; give a number')
    if config.precision.startswith('pure'):
        raise ValueError(f'precision {config.precision} does not go with shard: bf16 and fp16 do, with float32 weights')
    if not shardable(config.opt):
        works = ', '.join(name for name in list_optimizers() if shardable(name))
        raise ValueError(f'opt {config.opt!r} wants whole tensors, so it does not go with shard; these do: {works}')
    if config.teacher is not None and config.distill == 'feature':
        raise ValueError('distill feature does not go with shard, by which a model is computed as a whole; logit does')
    for name in ('device', 'dtype'):
        if name in config.ema_options:
            raise ValueError(f'ema_options {name!r} does not go with shard: the running mean lies as the weights do')


def shardable(opt: str) -> bool:
    """Whether an optimizer's step on shards is its step on the whole (tests/test_sharding.py)."""
    if opt.startswith('lookahead_'):
        return False
    cls = get_optimizer_info(opt).opt_class
    # of other packages nothing is known
    return isinstance(cls, type) and cls.__name__ not in WHOLE


def sums(config: TrainConfig) -> bool:
    """Whether an optimizer's formula sums over a weight, beside what it does to each element."""
    info = get_optimizer_info(config.opt)
    formulas = getattr(info.opt_class, 'traits', {}).values()  # torch's have none, and go by elements
    is_cautious = {**info.defaults, **config.opt_options}.get('caution', False)
    return is_cautious or any(traits.sees != 'elements' for traits in formulas)


def step_options(opt: str) -> dict[str, bool]:
    """Options with which an optimizer can step on shards: torch has no rule for SGD's fused kernel there."""
    return {'fused': False} if get_optimizer_info(opt).opt_class is torch.optim.SGD else {}


@dataclass(frozen=True)
class Shards:
    """How the processes of a run share its tensors out.

    Attributes:
        process: This one.
        mesh: All of them.
        config: What is asked of the run.
        writers: The same processes once more, for what goes on beside the training.
    """

    process: Process
    mesh: DeviceMesh
    config: TrainConfig
    writers: dist.ProcessGroup

    @staticmethod
    def of(config: TrainConfig, process: Process) -> 'Shards | None':
        """The shards that a run asks for; None where it does not, or is alone."""
        if not config.shard or process.world_size == 1:
            return None
        mesh = init_device_mesh(process.device.type, (process.world_size,))
        writers = dist.new_group(backend='gloo')
        assert isinstance(writers, dist.ProcessGroup)
        return Shards(process, mesh, config, writers)

    @torch.no_grad()
    def shard(self, model: nn.Module, build_ema: Callable[[nn.Module], Ema | None]) -> Ema | None:
        """Shares a model out, in place, and its running mean.

        Args:
            model: On the CPU of the first process, with the weights that it gets; on the meta device elsewhere.
            build_ema: Makes the running mean of a model, if any.

        Returns:
            The running mean.

        Raises:
            ValueError: The optimizer cannot step on a weight as it is cut.
        """
        own = dict(tensors(model)) if self.process.is_main else {}
        model.to('meta')
        # copied while it is empty: what is shared out cannot be copied
        ema = build_ema(model)
        self.split(model)
        self.fill(model, own)
        if ema:
            self.split(ema.model)
            ema.model.to_empty(device=self.process.device)
            for (_, mine), (_, its) in zip(tensors(ema.model), tensors(model), strict=True):
                local(mine).copy_(local(its))
        return ema

    def split(self, model: nn.Module) -> None:
        """Cuts the weights, those of each block as one group; compiles the blocks where that is asked."""
        policy = self.policy(model)
        for block in blocks(model):
            if self.config.compile:
                block.compile(mode=self.config.compile)
            fully_shard(block, mesh=self.mesh, mp_policy=policy, shard_placement_fn=self.place)
        fully_shard(model, mesh=self.mesh, mp_policy=policy, shard_placement_fn=self.place)
        for name, weight in model.named_parameters():
            if isinstance(weight, DTensor) and weight.shape[self.place(weight).dim] == 1 and sums(self.config):
                raise ValueError(
                    f'{name} {tuple(weight.shape)} cannot be cut evenly over {self.process.world_size} processes, and '
                    f'opt {self.config.opt} sums over a weight; take one that does not, such as adamw, sgd or lion'
                )

    def place(self, parameter: nn.Parameter) -> Shard:
        """Along which dimension a weight is cut: the first, but for tokens and positions, whose first is 1."""
        even = [i for i, size in enumerate(parameter.shape) if size > 1 and size % self.process.world_size == 0]
        return Shard(0) if parameter.shape[0] > 1 or not even else Shard(even[-1])

    def policy(self, model: nn.Module) -> MixedPrecisionPolicy:
        """Weights cross processes in the precision that products are computed in, gradients in float32.

        Batch norms mix no types, so models with them have their weights cross in float32.
        """
        low = AUTOCAST.get(self.config.precision)
        if low is None or any(isinstance(module, _NormBase) for module in model.modules()):
            return MixedPrecisionPolicy()
        return MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32, cast_forward_inputs=False)

    @torch.no_grad()
    def fill(self, model: nn.Module, own: dict[str, Tensor]) -> None:
        """Gives a model the tensors that the first process has, one after the other."""
        device = self.process.device
        model.to_empty(device=device)
        for name, tensor in tensors(model):
            shape, dtype = tensor.shape, tensor.dtype
            whole = own.pop(name).to(device, dtype) if own else torch.empty(shape, dtype=dtype, device=device)
            if isinstance(tensor, DTensor):
                tensor.copy_(distribute_tensor(whole.contiguous(), self.mesh, tensor.placements))
            else:
                dist.broadcast(whole, 0)
                tensor.copy_(whole)

    def whole(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors put together on the first process, one after the other; nothing on the others."""
        result = {}
        for name, tensor in state.items():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.process.is_main:
                result[name] = full.cpu()
        return result


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights and buffers by name, those that no checkpoint holds among them."""
    return ((name, t.detach()) for name, t in chain(model.named_parameters(), model.named_buffers()))


def blocks(model: nn.Module) -> Iterable[nn.Module]:
    """The units that are shared out, as one group each, of a model: what its outermost `Blocks` hold."""
    groups: Iterable[Blocks] = (group for _, group in outermost_blocks(model))
    return (block for group in groups for block in group.children() if next(block.parameters(), None) is not None)


def in_step(model: nn.Module, loader: Loader) -> Iterator[tuple[Batch, bool]]:
    """Batches to judge, each with whether it is this process's own.

    The processes compute a sharded model together. One whose batches are over repeats its last while others have more.

    Raises:
        ValueError: Fewer images than processes.
    """
    if not isinstance(model, FSDPModule):
        yield from ((batch, True) for batch in loader)
        return
    device, last = loader.device, None
    batches = iter(loader)
    while True:
        batch = next(batches, None)
        have = total(torch.tensor([batch is not None, (batch or last) is None], dtype=torch.float32, device=device))
        going, without = have.tolist()
        if not going:
            return
        if without:
            raise ValueError('there are fewer images to evaluate on than processes; shard wants one for each')
        last = batch or last
        assert last is not None
        yield last, batch is not None
