"""`foveal train`."""

from foveal.engine.config import TrainConfig


def run(config: TrainConfig) -> int:
    """Trains; returns 0, or 130 where a signal ended the run early."""
    from foveal.engine.train import train

    finished = train(config)
    return 0 if config.show_groups or finished.epoch >= finished.total_epochs else 130
