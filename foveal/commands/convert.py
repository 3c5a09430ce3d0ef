"""`foveal convert`: weights under other names, in other formats, as a file or a folder of ours."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class ConvertConfig:
    """Convert weights to safetensors under foveal's names.

    Reads safetensors, torch files of plain tensors and JAX's .npz, under foveal's own names or those of the original
    authors.
    """

    source: str = ''
    """file of weights"""
    output: str = ''
    """file ending in .safetensors, or a folder that gets config.json and a model card too"""
    to: str = ''
    """name of the model that the weights are of, such as resnet50 or resnet50.tv_in1k"""
    num_classes: int | None = None
    """classes of the weights, where they are not those of the published model"""
    in_chans: int | None = None
    """channels of the images likewise"""
    img_size: int | None = None
    """size of the images likewise"""


def run(config: ConvertConfig) -> int:
    """Convert, and say which layout the weights were in; returns the exit status.

    Raises:
        ValueError, OSError: something is missing, cannot be read, does not fit the model, or cannot be written.
    """
    from safetensors.torch import save_file

    from foveal.convert import layout_of
    from foveal.factory import create_model
    from foveal.files import check_writable, replacing
    from foveal.save import save_pretrained
    from foveal.weights import read_weights

    for name in ('source', 'output', 'to'):
        if not getattr(config, name):
            raise ValueError(f'{name} is missing: foveal convert SOURCE OUTPUT --to MODEL')
    if Path(config.source).resolve() == Path(config.output).resolve():
        raise ValueError(f'source and output are one file, {config.source}')
    one_file = config.output.endswith('.safetensors')
    if one_file:
        check_writable(config.output)
    options = {name: getattr(config, name) for name in ('num_classes', 'in_chans', 'img_size')}
    model = create_model(config.to, checkpoint_path=config.source, **options)
    layout = layout_of(read_weights(config.source), model)
    if one_file:
        with replacing(config.output) as temporary:
            save_file({name: value.contiguous() for name, value in model.state_dict().items()}, temporary)
    else:
        save_pretrained(model, config.output)
    print(f'{config.source} ({layout.name if layout else "our names"}) -> {config.output} ({config.to})')
    return 0
