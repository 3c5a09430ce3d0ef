"""Learning rates as pure functions of progress: `create_scheduler` by name, or the classes themselves."""

from foveal.scheduler.base import Scheduler
from foveal.scheduler.cyclic import CosineLRScheduler, CyclicLRScheduler, PolyLRScheduler, TanhLRScheduler
from foveal.scheduler.factory import SCHEDULES, create_scheduler
from foveal.scheduler.plateau import PlateauLRScheduler
from foveal.scheduler.steps import MultiStepLRScheduler, StepLRScheduler
from foveal.scheduler.wsd import WSDLRScheduler

__all__ = [
    'SCHEDULES',
    'CosineLRScheduler',
    'CyclicLRScheduler',
    'MultiStepLRScheduler',
    'PlateauLRScheduler',
    'PolyLRScheduler',
    'Scheduler',
    'StepLRScheduler',
    'TanhLRScheduler',
    'WSDLRScheduler',
    'create_scheduler',
]
