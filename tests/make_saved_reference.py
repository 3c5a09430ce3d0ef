"""Writes tests/reference/saved: a small model as timm saves it, and its outputs. Run it where timm is installed.

The folder is what `timm.models.save_for_hf` makes, with weights in both of its formats. Measured on timm 1.0.31.
"""

import json
from pathlib import Path

import timm
import torch
from timm.models import save_for_hf

FOLDER = Path(__file__).parent / 'reference' / 'saved'

if __name__ == '__main__':
    torch.manual_seed(0)
    model = timm.create_model(
        'vit_tiny_patch16_224',
        img_size=(32, 48),
        patch_size=8,
        embed_dim=12,
        depth=2,
        num_heads=2,
        reg_tokens=1,
        global_pool='avg',
        num_classes=3,
    ).eval()
    labels = {'label_names': ['cat', 'dog', 'owl'], 'label_descriptions': {'owl': 'a bird of the night'}}
    save_for_hf(model, str(FOLDER), model_config=labels, safe_serialization='both')
    with torch.inference_mode():
        logits = model(torch.linspace(-2, 2, 3 * 32 * 48).reshape(1, 3, 32, 48))
    (FOLDER / 'logits.json').write_text(json.dumps(logits.tolist()) + '\n')
