"""TensorBoard, Weights & Biases and MLflow behind one interface. Each package is imported when it is asked for."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml
from PIL import Image

from foveal.errors import check_options


@dataclass(frozen=True)
class Start:
    """What a tracker begins with.

    Attributes:
        output: Folder of the run.
        project: Of wandb; experiment of mlflow.
        name: Of the run.
        config: The run's configuration.
        options: Further ones of the tracker.
        id: Of the run, where it goes on.
        update: Updates done, where it goes on.
    """

    output: Path
    project: str
    name: str
    config: dict[str, Any]
    options: dict[str, Any]
    id: str | None
    update: int | None


class Tracker(Protocol):
    """Where a run is told. Its calls come one after the other, from one thread.

    Attributes:
        id: By which a later `Start` goes on with the same run.
    """

    id: str | None

    def log(self, values: Mapping[str, float], update: int) -> None:
        """Takes numbers as of an update."""

    def show(self, path: Path, update: int) -> None:
        """Takes a picture (.png) or a page (.html)."""

    def close(self, state: str) -> None:
        """Ends a run that is finished, stopped or failed."""


class TensorBoard:
    """Event files in the folder `tensorboard` of the run; options are those of `SummaryWriter`."""

    def __init__(self, start: Start) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # what a killed run wrote after the checkpoint that it goes on from is not shown
        purge = None if start.update is None else start.update + 1
        options = {'log_dir': str(start.output / 'tensorboard'), 'purge_step': purge, **start.options}
        self.writer, self.id = SummaryWriter(**options), None
        self.writer.add_text('config', f'```yaml\n{yaml.safe_dump(start.config, sort_keys=False)}```')

    def log(self, values: Mapping[str, float], update: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, update)

    def show(self, path: Path, update: int) -> None:
        if path.suffix == '.png':
            with Image.open(path) as image:
                self.writer.add_image(path.stem, np.asarray(image.convert('RGB')), update, dataformats='HWC')

    def close(self, state: str) -> None:
        del state
        self.writer.close()


class WandB:
    """A run of Weights & Biases; options are those of `wandb.init`, such as mode: offline."""

    def __init__(self, start: Start) -> None:
        import wandb

        self.id: str | None = start.id or uuid.uuid4().hex[:8]
        given = {'project': start.project, 'name': start.name, 'id': self.id, 'dir': str(start.output)}
        self.run = wandb.init(**{**given, 'config': start.config, 'resume': 'allow', **start.options})
        self.id = self.run.id
        # an axis of our own: a run that goes on from an older checkpoint may go back, wandb's may not
        self.run.define_metric('*', step_metric='update')

    def log(self, values: Mapping[str, float], update: int) -> None:
        self.run.log({**values, 'update': update})

    def show(self, path: Path, update: int) -> None:
        import wandb

        shown = wandb.Image(str(path)) if path.suffix == '.png' else wandb.Html(path)
        self.run.log({path.stem: shown, 'update': update})

    def close(self, state: str) -> None:
        self.run.finish(exit_code=int(state == 'failed'))


class MLflow:
    """A run of MLflow; options are tracking_uri (else MLFLOW_TRACKING_URI, else MLflow's own default) and tags."""

    def __init__(self, start: Start) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        check_options('track_options of mlflow', start.options, ('tracking_uri', 'tags'))
        self.client = MlflowClient(start.options.get('tracking_uri'))
        if start.id:
            self.client.update_run(start.id, status='RUNNING')
            self.run: str = start.id
        else:
            experiment = self.client.get_experiment_by_name(start.project)
            place = experiment.experiment_id if experiment else self.client.create_experiment(start.project)
            self.run = self.client.create_run(place, tags=start.options.get('tags'), run_name=start.name).info.run_id
            # MLflow refuses parameters without a value
            params = [Param(key, str(value)) for key, value in start.config.items() if str(value)]
            self.client.log_batch(self.run, params=params)
            self.client.log_dict(self.run, start.config, 'config.yaml')
        self.id: str | None = self.run

    def log(self, values: Mapping[str, float], update: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.run, metrics=[Metric(key, value, now, update) for key, value in values.items()])

    def show(self, path: Path, update: int) -> None:
        del update
        self.client.log_artifact(self.run, str(path))

    def close(self, state: str) -> None:
        statuses = {'finished': 'FINISHED', 'stopped': 'KILLED', 'failed': 'FAILED'}
        self.client.set_terminated(self.run, statuses[state])
