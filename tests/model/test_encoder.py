import torch
from torch import nn

from saccade.attention import DenseAttention
from saccade.config_parts import EncoderConfig
from saccade.model.encoder import EncoderLayer
from saccade.structures import Tokens

WIDTH, HEADS, HIDDEN = 32, 4, 48


def layers(pre_norm: bool) -> tuple[EncoderLayer, nn.TransformerEncoderLayer]:
    """Ours and torch's, with the same random weights."""
    config = EncoderConfig(
        attention="dense", num_heads=HEADS, ffn_width=HIDDEN, dropout=0.0, pre_norm=pre_norm
    )
    ours = EncoderLayer(config, WIDTH, DenseAttention(WIDTH, HEADS, 0.0))
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, HIDDEN, dropout=0.0, batch_first=True, norm_first=pre_norm
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) / 4)
    attention = ours.attention.attention
    parts = [attention.query_projection, attention.key_projection, attention.value_projection]
    for index, part in enumerate(parts):
        rows = slice(index * WIDTH, (index + 1) * WIDTH)
        part.weight = nn.Parameter(theirs.self_attn.in_proj_weight[rows].clone())
        part.bias = nn.Parameter(theirs.self_attn.in_proj_bias[rows].clone())
    attention.output_projection.load_state_dict(theirs.self_attn.out_proj.state_dict())
    ours.norm.load_state_dict(theirs.norm1.state_dict())
    ours.ffn.expand.load_state_dict(theirs.linear1.state_dict())
    ours.ffn.contract.load_state_dict(theirs.linear2.state_dict())
    ours.ffn.norm.load_state_dict(theirs.norm2.state_dict())
    return ours, theirs


def test_a_layer_is_torchs_with_the_norms_behind_or_in_front() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 6, WIDTH)
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[0, 4:] = True
    tokens = Tokens(features, torch.zeros_like(features), mask, ((1, 6),), torch.ones(2, 1, 2))
    outputs = []
    for pre_norm in (False, True):
        ours, theirs = layers(pre_norm)
        outputs.append(ours(tokens, torch.zeros(2, 6, 2)).features)
        expected = theirs(features, src_key_padding_mask=mask)
        torch.testing.assert_close(outputs[-1], expected, atol=1e-5, rtol=1e-5)
