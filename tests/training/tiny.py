"""Runs on generated scenes that are over in a second."""

from relgrounding.config import Config, load_config

TINY = [
    "data.demo_pairs=24",
    "data.batch_size=8",
    "data.validation=0.2",
    "model.hidden=8",
    "model.word_dim=8",
    "model.attention_dim=8",
    "model.fusion_dim=8",
    "model.relation_dim=8",
    "model.position_dim=4",
    "model.top_r=2",
    "train.epochs=3",
    "train.patience=3",
    "train.warmup_steps=3",
    "train.log_every=2",
]


def tiny_config(*words: str) -> Config:
    return load_config(None, [*TINY, *words])
