"""The model card: the README.md that the hub shows for a saved model."""

from collections.abc import Mapping
from typing import Any

import yaml

from foveal.errors import near

WORDS = ('license', 'description', 'datasets', 'paper', 'metrics')
EXAMPLE = """\
```python
import torch
import foveal

model = foveal.create_model('{place}', pretrained=True).eval()
transform = foveal.data.create_transform(**foveal.data.resolve_data_config(model=model))
with torch.inference_mode():
    logits = model(transform(image).unsqueeze(0))  # image: a PIL image
```
"""


def write_card(config: Mapping[str, Any], card: Mapping[str, Any], place: str = 'local-dir:FOLDER') -> str:
    """A model card in Markdown, with the header that the hub reads.

    Args:
        config: the model's `config.json`.
        card: `license`, `description`, `datasets` (names), `paper` (an address), `metrics` (name -> value).
        place: the name that the example gives to `create_model`.

    Raises:
        ValueError: another word in `card`.
    """
    for word in card:
        if word not in WORDS:
            raise ValueError(f'card has no {word!r}{near(word, WORDS)}')
    record = config['pretrained_cfg']
    licence = card.get('license') or record.get('license')
    header: dict[str, Any] = {'tags': ['image-classification', 'foveal'], 'library_name': 'timm'}
    header |= {'license': licence} if licence else {}
    header |= {'datasets': list(card['datasets'])} if card.get('datasets') else {}
    channels, height, width = record['input_size']
    facts = {
        'architecture': config['architecture'],
        'classes': config['num_classes'] or 'none: it gives features',
        'input': f'{channels} channels, {height} x {width}',
        'options': ', '.join(f'{name}={value!r}' for name, value in config['model_args'].items()),
        'paper': card.get('paper') or record.get('paper_name') or record.get('paper_ids'),
        'origin': record.get('origin_url'),
        **card.get('metrics', {}),
    }
    rows = ''.join(f'| {name} | {value} |\n' for name, value in facts.items() if value is not None)
    parts = (
        f'---\n{yaml.safe_dump(header, sort_keys=False)}---\n# {config["architecture"]}\n',
        f'{card["description"]}\n' if card.get('description') else '',
        f'| | |\n|---|---|\n{rows}',
        EXAMPLE.format(place=place),
    )
    return '\n'.join(part for part in parts if part)
