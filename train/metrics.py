METRICS = "metrics.jsonl"
import json


class MetricsLog:
    def __init__(self, output, log_every, steps, start):
        output.mkdir(parents=True, exist_ok=True)
        self.path = output / METRICS

    def add(self, m):
        open(self.path, "a").write(json.dumps(m) + "\n")
        print(m)

    def validated(self, step, losses):
        print("validation", step, losses)
