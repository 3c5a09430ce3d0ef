"""Predictions as rows of CSV and Parquet, and as JSON objects."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from foveal.engine.predict import Prediction


@dataclass(frozen=True)
class Record:
    """What is written of a prediction.

    Attributes:
        topk: Guesses.
        score: probability or logit.
        include_index: Whether guesses have the indices of their classes.
        classes, channels: Lengths of the vectors of all scores and of the embedding; 0 where they are not asked for.
        errors: Whether there may be images that could not be read.
        numbers: Names of the numbers that are given instead of guesses.
    """

    topk: int
    score: str
    include_index: bool
    classes: int
    channels: int
    errors: bool
    numbers: tuple[str, ...] = ()

    @property
    def guess_parts(self) -> tuple[str, ...]:
        """The columns of a guess."""
        return ('label', 'index', self.score) if self.include_index else ('label', self.score)

    @property
    def header(self) -> list[str]:
        """Columns of CSV: file, label1, probability1, label2, ... or the numbers, and a column for each of a vector."""
        guesses = [f'{part}{i + 1}' for i in range(self.topk) for part in self.guess_parts]
        vectors = [f'score{i}' for i in range(self.classes)] + [f'embedding{i}' for i in range(self.channels)]
        return ['file', *self.numbers, *guesses, *vectors, *(['error'] if self.errors else [])]

    def values(self, prediction: Prediction) -> dict[str, float]:
        """The numbers of an image, with the digits that float32 has."""
        return {guess.label: float(f'{guess.score:.7g}') for guess in prediction.guesses} if self.numbers else {}

    def guesses(self, prediction: Prediction) -> list[dict[str, Any]]:
        """A prediction's guesses with their parts."""
        return [
            {'label': guess.label, **({'index': guess.index} if self.include_index else {}), self.score: guess.score}
            for guess in prediction.guesses
        ]

    def cells(self, prediction: Prediction) -> list[Any]:
        """A row of CSV, empty where there is nothing."""
        if self.numbers:
            values = self.values(prediction)
            cells: list[Any] = [prediction.file, *(values.get(name, '') for name in self.numbers)]
            return cells + self.rest(prediction)
        cells = [prediction.file]
        for guess in self.guesses(prediction):
            cells += [f'{value:.6f}' if isinstance(value, float) else value for value in guess.values()]
        cells += [''] * (1 + self.topk * len(self.guess_parts) - len(cells))
        return cells + self.rest(prediction)

    def rest(self, prediction: Prediction) -> list[Any]:
        """The cells behind the guesses or numbers."""
        cells: list[Any] = []
        for vector, length in ((prediction.scores, self.classes), (prediction.embedding, self.channels)):
            if length:
                cells += [''] * length if vector is None else [f'{x:.7g}' for x in vector.tolist()]
        return cells + ([prediction.error or ''] if self.errors else [])

    def document(self, prediction: Prediction) -> dict[str, Any]:
        """A JSON object: file, predictions: [{label, probability}] or numbers: {name: value}, scores, embedding."""
        if prediction.error is not None:
            return {'file': prediction.file, 'error': prediction.error}
        found: dict[str, Any] = {'file': prediction.file}
        if self.numbers:
            found['numbers'] = self.values(prediction)
        if self.topk:
            found['predictions'] = [
                {key: round(value, 6) if isinstance(value, float) else value for key, value in guess.items()}
                for guess in self.guesses(prediction)
            ]
        for name, vector in (('scores', prediction.scores), ('embedding', prediction.embedding)):
            if vector is not None:
                found[name] = [float(f'{x:.7g}') for x in vector.tolist()]
        return found

    def row(self, prediction: Prediction) -> dict[str, Any]:
        """A row of Parquet: as of CSV, but vectors whole."""
        row: dict[str, Any] = {'file': prediction.file, **self.values(prediction)}
        for number, guess in enumerate(() if self.numbers else self.guesses(prediction), 1):
            row |= {f'{part}{number}': value for part, value in guess.items()}
        for name, vector in (('scores', prediction.scores), ('embedding', prediction.embedding)):
            if vector is not None:
                row[name] = np.asarray(vector, np.float32)
        return row | ({'error': prediction.error} if self.errors else {})
