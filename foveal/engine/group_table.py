"""What `foveal train --show-groups` prints."""

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from foveal.wrapped import unwrap, without_wrappers


def describe_groups(optimizer: torch.optim.Optimizer, model: nn.Module) -> str:
    """A table, as text, of an optimizer's groups: sizes, rates, decay, first and last name in the model."""
    names = {parameter: without_wrappers(name) for name, parameter in unwrap(model).named_parameters()}
    table = Table(box=None, pad_edge=False, header_style='bold')
    for title in ('parameters', 'tensors', 'lr', 'weight decay', '', 'first', 'last'):
        table.add_column(title, justify='left' if title in ('', 'first', 'last') else 'right', no_wrap=True)
    for group in optimizer.param_groups:
        first, *_, last = [names.get(parameter, '?') for parameter in group['params'] * 2] or ['', '']
        sizes = sum(parameter.numel() for parameter in group['params']), len(group['params'])
        rates = f'{float(group.get("initial_lr", group["lr"])):.3g}', f'{group.get("weight_decay", 0.0):g}'
        fallback = 'fallback' if group.get('use_fallback') else ''
        table.add_row(*(f'{size:,}' for size in sizes), *rates, fallback, first, last)
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    frozen = sum(parameter.numel() for parameter in names if not parameter.requires_grad)
    lines = [*capture.get().splitlines(), f'{len(optimizer.param_groups)} groups; {frozen:,} parameters are frozen']
    return '\n'.join(line.rstrip() for line in lines)
