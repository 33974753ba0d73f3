"""Where libraries keep what they download: on a volume that all apparatuses share, so that it is downloaded once."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FOLDERS", "MOUNT", "VOLUME", "cache_variables"]

VOLUME = "mini-cache"
"""Name of the `modal.Volume`."""
MOUNT = "/mini/cache"
"""Where containers see it."""
FOLDERS = {
    "HF_HOME": "huggingface",
    "KAGGLEHUB_CACHE": "kagglehub",
    "KERAS_HOME": "keras",
    "NLTK_DATA": "nltk",
    "SCIKIT_LEARN_DATA": "scikit-learn",
    "SENTENCE_TRANSFORMERS_HOME": "sentence-transformers",
    "TFHUB_CACHE_DIR": "tfhub",
    "TORCH_HOME": "torch",
}
"""Folders of the volume, by the variables that libraries ask. Not those of compilers: what they keep is many small
files that several containers would write at once, and fits one kind of machine."""


def cache_variables(given: Mapping[str, str]) -> dict[str, str]:
    """Variables for containers that point at the volume, but for those that the user has `given`."""
    return {name: f"{MOUNT}/{folder}" for name, folder in FOLDERS.items() if name not in given}
