"""The trainer: manifest -> packs -> loss -> weights. It knows torch, never Beam and never a tokenizer.

It reads top to bottom: config, order, data, batch, attention, model, parallel, loss, step, optim, metrics,
checkpoint, loop.
"""
