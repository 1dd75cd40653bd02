"""The trainer: manifest -> packs -> loss -> weights. It knows torch, never Beam and never a tokenizer.

It reads top to bottom: config, architecture, plan; packs, order, mixture, batch, feed; attention, rotary, model,
weights, recompute, parallel; loss, step, optim, schedule, loop; checkpoint, export; validate, metrics, doctor.
"""
