"""Weights: reading files, fitting tensors to models, loading what is published."""

from foveal.weights.adapt import adapt_input_channels
from foveal.weights.load import load_checkpoint, load_pretrained
from foveal.weights.read import WeightsError, read_weights

__all__ = ['WeightsError', 'adapt_input_channels', 'load_checkpoint', 'load_pretrained', 'read_weights']
