"""`foveal clean`: a checkpoint cut down to what others need of it."""

from dataclasses import dataclass


@dataclass
class CleanConfig:
    """Write the weights of a checkpoint as one plain safetensors file, named for its content."""

    source: str
    """A checkpoint or folder of a run, or a weights file: .safetensors, .pth, .bin, .npz."""
    output: str = ''
    """File to write. Absent: the source's name with -clean."""
    hash: bool = True
    """Put the first 8 digits of the weights' SHA-256 into the file's name."""
    half: bool = False
    """Store float32 weights as float16."""
    plain: bool = False
    """Leave out what the file says of its model."""


def run(config: CleanConfig) -> int:
    """Reads, cuts down and writes.

    Raises:
        ValueError, OSError: A file that cannot be read or written.
    """
    from pathlib import Path

    import torch

    from foveal.engine.average import Weights, fingerprint, read, write
    from foveal.files import check_writable

    source = Path(config.source)
    target = Path(config.output) if config.output else source.parent / f'{source.name.split(".")[0]}-clean.safetensors'
    if target.suffix != '.safetensors':
        raise ValueError(f'output must end in .safetensors, got {target}')
    check_writable(target)
    tensors, header = read(source)
    if config.half:
        tensors = {name: t.half() if t.dtype == torch.float32 else t for name, t in tensors.items()}
    digest = fingerprint(tensors)
    if config.hash:
        target = target.with_name(f'{target.stem}-{digest[:8]}.safetensors')
    write(target, Weights(tensors, None if config.plain else header))
    print(f'{len(tensors)} tensors, {target.stat().st_size / 1e6:.1f} MB, sha256 {digest[:8]}: {target}')
    return 0
