"""`foveal lr-find`: which learning rate a training can begin with."""

from dataclasses import dataclass

from foveal.engine.config import TrainConfig


@dataclass
class LrFindConfig(TrainConfig):
    """Raise the learning rate from update to update until the loss diverges (arXiv:1506.01186), and suggest one.

    Takes the options and YAML files of `foveal train`. Nothing is kept of the training.
    """

    lowest: float = 1e-7
    """Learning rate of the first update."""
    highest: float = 10.0
    """Learning rate of the last update."""
    updates: int = 200
    """Updates, if the loss does not diverge before."""
    diverged: float = 4.0
    """Stop where the smoothed loss is so many times its lowest value."""
    plot: str = 'lr_find.png'
    """Picture of the loss over the rate (.png, .pdf, .svg)."""


def run(config: LrFindConfig) -> int:
    """Measures, prints and draws.

    Returns:
        0; 1 where the loss never fell, so that there is nothing to suggest.

    Raises:
        ValueError, OSError: Something asked cannot be done.
    """
    from dataclasses import fields

    from foveal.engine.lr_find import draw, range_test
    from foveal.files import check_writable, replacing

    check_writable(config.plot)
    asked = TrainConfig(**{field.name: getattr(config, field.name) for field in fields(TrainConfig)})
    found = range_test(asked, config.lowest, config.highest, config.updates, config.diverged)
    with replacing(config.plot) as temporary:
        draw(found).savefig(temporary, dpi=120)
    end = 'the loss diverged' if found.diverged else 'the end of the range'
    print(f'{len(found.rates)} updates, from {found.rates[0]:.2g} to {found.rates[-1]:.2g}: {end}; {config.plot}')
    print(f'lowest smoothed loss {found.smooth[found.lowest]:.4f} at {found.rates[found.lowest]:.2g}')
    if found.suggestion is None:
        print('the loss never fell: nothing to suggest')
        return 1
    print(f'suggestion: --lr {found.suggestion:.2g} (where the smoothed loss falls fastest over the logarithm of lr)')
    return 0
