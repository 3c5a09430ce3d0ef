"""BEiT as in microsoft/unilm. Fine-tuned weights have our names; pre-training has one table of biases and a decoder."""

from typing import Any

from foveal.convert.layout import Layout, Weights

SHARED = 'rel_pos_bias.relative_position_bias_table'


def spread(weights: Weights, model: Any) -> Weights:
    """The table that all blocks share as the table of every block, where the model has those."""
    own = [name for name in model.state_dict() if name.endswith('.attn.relative_position_bias_table')]
    if SHARED in weights and own and model.rel_pos_bias is None:
        table = weights.pop(SHARED)
        weights |= dict.fromkeys(own, table)
    return weights


LAYOUTS = (
    Layout(
        'microsoft, pre-training',
        mark=r'^mask_token$',
        drop=r'^(mask_token$|lm_head\.|cls_pt_layers\.)|\.relative_position_index$',
        change=spread,
    ),
)
