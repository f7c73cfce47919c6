import copy

import torch
from torch import nn

from saccade.training.sharding import divided_optimizer_state


def test_a_loaded_state_lies_in_memory_as_its_parameter_does() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last))
    optimizers = [torch.optim.AdamW([weight], fused=True) for _ in range(2)]
    weight.grad = torch.randn_like(weight)
    optimizers[0].step()
    state = copy.deepcopy(optimizers[0].state_dict())
    saved = state["state"][0]
    state["state"][0] = saved | {
        name: saved[name].contiguous(memory_format=torch.contiguous_format)
        for name in ("exp_avg", "exp_avg_sq")
    }
    optimizers[1].load_state_dict(divided_optimizer_state(state, optimizers[1]))
    loaded = optimizers[1].state[weight]
    assert loaded["exp_avg"].stride() == weight.stride()
    # Both take the same step from here.
    start, results = weight.detach().clone(), []
    for optimizer in optimizers:
        with torch.no_grad():
            weight.copy_(start)
        optimizer.step()
        results.append(weight.detach().clone())
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
