"""The learning rate, a function of the step alone."""

import math

from train.config import TrainConfig


def learning_rate_at(step: int, steps: int, config: TrainConfig) -> float:
    """The rate of step 0 <= step < steps.

    Warm-up is linear, and its last step has the full rate. Then the rate is constant, or falls: over all that is left
    (linear, cosine) or over the last `decay_steps` (wsd: warm-up, stable, decay; linear). It would reach
    `final_learning_rate` one step after the last.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    start = max(config.warmup_steps, steps - config.decay_steps) if config.schedule == "wsd" else config.warmup_steps
    if step < start:
        return config.learning_rate
    progress = (step - start) / (steps - start)
    share = 0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1 - progress
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * share
