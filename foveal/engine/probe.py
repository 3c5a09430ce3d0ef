"""What frozen features are worth: neighbours and a linear probe."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foveal.data import Loader
from foveal.engine.halving import Halving
from foveal.engine.precision import autocast

QUERIES = 1024  # compared at a time


@dataclass(frozen=True)
class Features:
    """Vectors and classes of a data set.

    Attributes:
        vectors: float32 (images, channels).
        targets: int64 (images,).
    """

    vectors: Tensor
    targets: Tensor


def extract(forward: Halving, loader: Loader, precision: str = 'fp32') -> Features:
    """Runs a model without its classifier over a loader; on the CPU 4 bytes an image and channel are kept.

    Args:
        forward: Gives what the classifier would see.
        loader: Of labelled images; those without a label are left out.
        precision: Of `engine.precision`.

    Raises:
        ValueError: There is no labelled image.
        UnreadableImageError: An image that cannot be decoded.
    """
    forward.eval()
    vectors, targets = [], []
    with torch.inference_mode():
        for images, labels in loader:
            with autocast(loader.device, precision):
                found = forward(images)
            known = labels >= 0
            vectors.append(found.float()[known].cpu())
            targets.append(labels[known].cpu())
    if not targets or not sum(map(len, targets)):
        raise ValueError('there is no labelled image')
    return Features(torch.cat(vectors), torch.cat(targets))


def knn_votes(train: Features, queries: Tensor, num_classes: int, neighbours: int, temperature: float) -> Tensor:
    """Votes of the nearest neighbours (queries, classes), as of DINO (arXiv:2104.14294, appendix F.1).

    Neighbours are the most similar by cosine, each with the weight exp(similarity / temperature).

    Args:
        train: What is voted by.
        queries: float32 (queries, channels).
        num_classes: Classes.
        neighbours: How many vote; all where there are fewer.
        temperature: Above 0; small ones let the nearest decide.
    """
    bank = F.normalize(train.vectors, dim=1)
    votes = []
    for part in queries.split(QUERIES):
        top = (F.normalize(part, dim=1) @ bank.T).topk(min(neighbours, len(bank)))
        weights = (top.values / temperature).exp()
        one_hot = torch.zeros(len(part), num_classes).scatter_add_(1, train.targets[top.indices], weights)
        votes.append(one_hot)
    return torch.cat(votes)


def accuracies(scores: Tensor, targets: Tensor) -> dict[str, float]:
    """Percent of images whose class is first, or among the first five."""
    guesses = scores.topk(min(5, scores.shape[1])).indices
    hits = guesses == targets[:, None]
    return {'top1': 100 * hits[:, 0].float().mean().item(), 'top5': 100 * hits.any(1).float().mean().item()}


def linear_probe(train: Features, test: Features, num_classes: int, strength: float, iterations: int) -> dict[str, Any]:
    """Top-1 and top-5 of logistic regression on standardised features.

    Args:
        train, test: What is learnt from, and what is measured on.
        num_classes: Classes.
        strength: Inverse of the L2 penalty, scikit-learn's C.
        iterations: Most steps of L-BFGS.

    Raises:
        ModuleNotFoundError: scikit-learn is missing.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('a linear probe needs scikit-learn: pip install foveal[metrics]') from error
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=iterations))
    probe.fit(train.vectors.numpy(), train.targets.numpy())
    known = torch.from_numpy(probe.classes_)
    logits = torch.full((len(test.targets), num_classes), -torch.inf, dtype=torch.float64)
    logits[:, known] = torch.from_numpy(probe.predict_log_proba(test.vectors.numpy())).double()
    return accuracies(logits, test.targets)
