"""detectron2's configuration, read and judged: what is to be built, typed."""

from .model_config import ModelConfig, config_from_mapping, load_config

__all__ = ["ModelConfig", "config_from_mapping", "load_config"]
