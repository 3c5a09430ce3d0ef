"""Models inside what compiles, distributes, averages or checkpoints them."""

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

# what wrappers around a part of a model put into its names: torch.compile, activation checkpointing
WRAPPERS = {'_orig_mod', '_checkpoint_wrapped_module', '_fsdp_wrapped_module'}


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DDP, DataParallel, AveragedModel and torch.compile."""
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel | AveragedModel):
            model = model.module
        elif isinstance(compiled := getattr(model, '_orig_mod', None), nn.Module):
            model = compiled
        else:
            return model


def without_wrappers(name: str) -> str:
    """A parameter's name as it is in the model before parts of it were wrapped."""
    return '.'.join(part for part in name.split('.') if part not in WRAPPERS)
