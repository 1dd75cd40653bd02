"""Writes the JSON Schemas that are checked in: run by `make format`, held current by test_json_schemas.py."""

import json
from pathlib import Path

from pydantic import BaseModel

from pipeline.config import BuildConfig
from schemas.manifest import Manifest
from train.config import TrainConfig

ROOT = Path(__file__).parents[1]

SCHEMAS: dict[str, type[BaseModel]] = {
    "schemas/json/manifest.schema.json": Manifest,
    "schemas/json/build.schema.json": BuildConfig,
    "schemas/json/train.schema.json": TrainConfig,
}


def schema_text(model: type[BaseModel]) -> str:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    for name, model in SCHEMAS.items():
        (ROOT / name).write_text(schema_text(model))
