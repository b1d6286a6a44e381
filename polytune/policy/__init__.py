"""Policies: tiny presets, checkpoint loading, text <-> token ids, and the generators that sample them."""

from polytune.policy.generator import Branch, Generator, Sample, SampleKey, sample_uniform
from polytune.policy.generators import GeneratorsInTurn, build_generator
from polytune.policy.loading import CheckpointError, load_policy
from polytune.policy.renderers import build_renderer
from polytune.policy.rendering import Renderer
from polytune.policy.tiny import PRESETS, build_tiny
from polytune.policy.transformers_generator import TransformersGenerator

__all__ = [
    "PRESETS",
    "Branch",
    "CheckpointError",
    "Generator",
    "GeneratorsInTurn",
    "Renderer",
    "Sample",
    "SampleKey",
    "TransformersGenerator",
    "build_generator",
    "build_renderer",
    "build_tiny",
    "load_policy",
    "sample_uniform",
]
