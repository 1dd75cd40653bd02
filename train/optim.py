"""AdamW, its weight decay, and the update of one step."""

from torch import Tensor, nn, zeros_like
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer
from torch.profiler import record_function

from train.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> AdamW:
    """Matrices decay; vectors (the norms' scales and biases) do not."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
    _allocate_state(optimizer)
    return optimizer


def _allocate_state(optimizer: AdamW) -> None:
    """The state as it is before the first step. Otherwise torch would make it for a checkpoint that comes before that,
    by a step that counts."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    for state in optimizer.state.values():
        state["step"].zero_()


@record_function("clip gradients")
def clip_gradients(model: nn.Module, clip_norm: float | None) -> Tensor:
    """The gradients' global norm before clipping, a scalar on their device, the same on every rank; every rank must
    call it. Nothing has waited for the device."""
    norm = _whole(nn.utils.get_total_norm([weight.grad for weight in model.parameters() if weight.grad is not None]))
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(model.parameters(), clip_norm, norm)
    return norm


@record_function("optimizer")
def update(optimizer: Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad()


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
