"""Configuration of a run: validated dataclasses, filled from YAML and from key=value words."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from relgrounding._names import check_name
from relgrounding._settings import ConfigError, check_values, merge_settings, number, parse_word, with_bases

VIDEO_DATASETS = ("charades_sta", "activitynet_captions")
WIDEST = 65_536
"""Of a layer; a slip of the keyboard beyond it would take all memory."""


@dataclass
class DataConfig:
    """Annotations, features and batches."""

    dataset: Literal[
        "demo", "charades_sta", "activitynet_captions", "refcoco", "refcoco+", "refcocog", "flickr30k", "own"
    ] = "demo"
    root: str = ""
    """Folder of charades_sta/, activitynet_captions/, refcoco/, flickr30k_entities/, word_vectors/; empty: the variable
    RELGROUNDING_DATA."""
    queries: str = ""
    """Own data only: JSON lines file of the queries, as given or below `root`; `{split}` in it stands for the split."""
    split_by: Literal["", "unc", "google", "umd"] = ""
    """RefCOCO family only: who made the splits; empty: unc for RefCOCO and RefCOCO+, umd for RefCOCOg."""
    on_error: Literal["stop", "skip"] = "stop"
    """Queries that cannot be used, or whose features cannot: stop at the first, or leave them out, counted and
    logged."""
    features: str = ""
    """HDF5 file of features, as given or below `root`."""
    word_vectors: str = ""
    """Vectors in GloVe's text format, as given or below `root`; empty: word vectors are trained from scratch."""
    protocol: Literal["official", "reduced"] = "official"
    """Charades-STA only: all queries, or those that end within the video."""
    test_splits: list[str] = field(default_factory=lambda: ["test"])
    """Splits of the final table, read once, after model selection."""
    validation: float = number(0.06, above=0, below=1)
    """Share of the training videos or images held out for model selection."""
    train_queries: int = number(0, least=0)
    """Use so many training queries only, drawn from the seed; 0: all."""
    max_words: int = number(20, least=1, most=10_000)
    max_clips: int = number(128, least=1, most=100_000)
    """Longer videos are averaged down to so many clips."""
    widths: list[int] = number([4, 8, 12, 16, 20, 24, 28, 32], least=1, most=100_000)
    """Widths of the candidate windows, in clips."""
    stride: float = number(1.0, above=0, most=100_000)
    """Step between windows of one width: in clips when 1 or more, else as a share of the width."""
    batch_size: int = number(64, least=2, most=1_000_000)
    """Queries a batch; negatives need two or more."""
    workers: int = number(0, least=0, most=1024)
    """Processes that load batches; 0: the main one."""
    demo_pairs: int = number(6000, least=1, most=10_000_000)
    """Embedded default: minimal pairs of generated scenes to train on (a tenth of them to test on)."""
    demo_noise: float = number(0.3, least=0)
    """Embedded default: standard deviation of the noise on its features."""


@dataclass
class ModelConfig:
    """Sizes of VGN and IGN; the defaults are the source's."""

    name: Literal["vgn", "ign"] = "ign"
    relation: Literal["graph", "none"] = "graph"
    """graph: the relation module; none: without it, everything else the same."""
    word_dim: int = number(300, least=1, most=WIDEST)
    """Width of word vectors trained from scratch; pretrained ones bring their own."""
    hidden: int = number(128, least=1, most=WIDEST)
    """Bi-GRU units a direction."""
    clip_encoder: Literal["bigru", "linear"] = "bigru"
    """VGN: what encodes a clip: a Bi-GRU over the video, or a linear map of the clip alone."""
    pooling: Literal["max", "mean"] = "max"
    """VGN: from the clips of a window to the feature of its proposal."""
    contrast: float = number(0.0, least=0, most=1)
    """VGN, with pooling mean: the mean of the clips around a window, times so much, is taken off the mean of those
    inside; from 0 to 1."""
    context: float = number(0.5, above=0, most=1000)
    """VGN: share of a window's width that is around it, on each side; for `contrast`."""
    attention_dim: int = number(256, least=1, most=WIDEST)
    """Width of the additive proposal-to-word attention."""
    fusion_dim: int = number(256, least=1, most=WIDEST)
    """IGN: width of W_l."""
    fusion: Literal["linear", "product"] = "linear"
    """IGN: what W_l takes: region and words, or their product as well."""
    relation_dim: int = number(256, least=1, most=WIDEST)
    relation_layers: int = number(2, least=1, most=1000)
    heads: int = number(4, least=1, most=WIDEST)
    """VGN: attention heads."""
    iou_threshold: float = number(0.3, least=0, most=1)
    """VGN: moments that overlap by more are neighbours."""
    position_dim: int = number(128, least=1, most=WIDEST)
    """IGN: width of W_p."""
    gate_init: float = number(-2.0)
    """IGN: first value of the logits of the edge gates; lower where a region has many neighbours."""
    top_r: int = number(12, least=1)
    """Proposals whose scores make the alignment."""
    dropout: float = number(0.0, least=0, below=1)


@dataclass
class TrainConfig:
    """Optimisation and model selection."""

    epochs: int = number(10, least=1)
    learning_rate: float = number(1e-3, above=0)
    warmup_steps: int = number(100, least=0)
    """Steps in which the learning rate rises linearly from 0."""
    clip_norm: float = number(5.0, above=0)
    """Largest norm of the gradient; larger ones are scaled down."""
    loss: Literal["hinge", "contrastive"] = "hinge"
    """MIL: the source's hinge against each negative, or cross-entropy of the right pair among all of them."""
    margin: float = number(0.2, least=0)
    """MIL: the hinge's margin, in units of the alignment score (0 to 1)."""
    temperature: float = number(1.0, above=0)
    """MIL: of the cross-entropy."""
    negatives: int = number(1, least=1, most=100_000)
    """MIL: other items of the batch that each query (and item) is contrasted with."""
    message_dropout: float = number(0.0, least=0, below=1)
    """Share of the steps in which a relation layer passes no messages, drawn for each layer by itself. What a
    proposal's own feature says, and what its neighbours tell it at first hand, then stays with it: otherwise every
    proposal learns the evidence of all others, and the best one is any of them."""
    patience: int = number(3, least=1)
    """Stop after so many epochs without a better validation metric."""
    select_metric: str = ""
    """Metric of the validation split that chooses the epoch; empty: R@1,IoU=0.5 or Acc@0.5."""
    log_every: int = number(50, least=1)
    """Steps between lines of log.jsonl."""


@dataclass
class CCLConfig:
    """Counterfactual contrastive learning: stage 2, after MIL. Margins, weights and sizes were never published."""

    epochs: int = number(0, least=0)
    """Epochs of stage 2; 0: MIL alone."""
    start_from: str = ""
    """Folder of a run whose best.pt stage 2 starts from; empty: stage 1 is trained first, for `train.epochs`."""
    learning_rate: float = number(5e-4, above=0)
    mil_weight: float = number(1.0, least=0)
    """Weight of the MIL loss in stage 2; 0: without it."""
    feature_weight: float = number(2.0, least=0)
    """Weight of the feature level: h replaced by another sample's; 0: without it, here and in the next two."""
    interaction_weight: float = number(2.0, least=0)
    """Weight of the interaction level: the language feature c replaced by another sample's."""
    relation_weight: float = number(2.0, least=0)
    """Weight of the relation level: edges destroyed."""
    ranking_weight: float = number(1.0, least=0)
    """Weight of the ranking loss within each level."""
    consistency_weight: float = number(0.1, least=0)
    """Weight of the consistency loss within each level."""
    margin: float = number(0.5, least=0)
    """Of the ranking loss, in units of the alignment score (0 to 1)."""
    bound: Literal["uniform", "complement", "none"] = "uniform"
    """What keeps the consistency loss from falling without end, see `objectives.consistency_loss`."""
    draws: int = number(1, least=1, most=1000)
    """J: transformed copies of each kind and level."""
    selection: Literal["gradient", "gradient_input", "score"] = "gradient"
    """What tells critical proposals from inessential ones: the norm of the gradient of the alignment, that gradient
    times the feature, or the score."""
    critical: float = number(0.2, above=0, most=1)
    """Share of the proposals of an item that the destructive transformation changes."""
    inessential: float = number(0.5, least=0, most=1)
    """Share that the robust transformation changes, of those that are not critical."""
    edges: Literal["removed", "rewired", "retyped"] = "removed"
    """Relation level: what becomes of the edges of the chosen proposals."""
    bank_size: int = number(4096, least=2, most=10_000_000)
    """Rows of each memory bank."""
    bank_push: int = number(8, least=1, most=100_000)
    """Proposals of each item that enter the banks at a step."""

    @property
    def levels(self) -> dict[str, float]:
        """Weight of each level that takes part."""
        weights = {
            "feature": self.feature_weight,
            "interaction": self.interaction_weight,
            "relation": self.relation_weight,
        }
        return {level: weight for level, weight in weights.items() if weight}


@dataclass
class EvalConfig:
    """Predictions and the table."""

    batch_size: int = number(128, least=1, most=1_000_000)
    nms: float = number(0.55, least=0, most=1)
    """Video: a moment that overlaps a better one by more is dropped."""
    select: list[str] = field(default_factory=lambda: ["score", "vote"])
    """Video: ways of choosing; the last one's metric selects the epoch."""
    vote_temperature: float = number(2.0, least=0)
    """Video: votes are weighted by softmax(temperature * standardised score)."""
    vote_prior: float = number(0.0, least=0, most=1)
    """Video: so much of the votes that a moment would get if all voted alike is taken off, from 0 to 1: long moments
    get more of them than short ones, whatever the scores."""
    vote_by: Literal["score", "odds"] = "score"
    """Video: what is standardised: scores, or their log-odds, which still differ where scores are all close to 1."""


@dataclass
class Config:
    """One run. Every field can be set in YAML or as `section.key=value`."""

    name: str = "demo"
    seed: int = number(0, least=0)
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    backend: Literal["auto", "naive", "dgl", "cpp", "dense", "csr", "triton"] = "auto"
    """Message-passing kernels."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    ccl: CCLConfig = field(default_factory=CCLConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        check_values(self)
        check_name(self.name, "name")
        for split in self.data.test_splits:
            check_name(split, "data.test_splits")
        if not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d{1,3})?", self.device):
            raise ConfigError(f"device is {self.device[:40]!r}; it is cpu, cuda, cuda:1, ...")
        if self.model.contrast and self.model.pooling != "mean":
            raise ConfigError(
                f"model.contrast is {self.model.contrast} with model.pooling={self.model.pooling}; it needs mean"
            )
        video = self.data.dataset in VIDEO_DATASETS
        if self.data.dataset != "own" and video != (self.model.name == "vgn"):
            right = "vgn" if video else "ign"
            raise ConfigError(f"model.name is {self.model.name}, but {self.data.dataset} needs {right}")
        if set(self.eval.select) - {"score", "vote"}:
            raise ConfigError(f"eval.select is {self.eval.select}; it is a list of 'score' and 'vote'")
        if self.model.relation_dim % self.model.heads:
            raise ConfigError(
                f"model.relation_dim ({self.model.relation_dim}) must be a multiple of model.heads ({self.model.heads})"
            )
        self._check_ccl()

    def _check_ccl(self) -> None:
        ccl = self.ccl
        if not ccl.epochs:
            return
        if not ccl.levels and not ccl.mil_weight:
            raise ConfigError("ccl: every weight is 0; give ccl.mil_weight or a level's weight a value")
        if ccl.relation_weight and self.model.relation == "none":
            raise ConfigError("ccl.relation_weight needs a relation module; set it to 0 where model.relation=none")
        if ccl.relation_weight and ccl.edges == "retyped" and self.model.name == "vgn":
            raise ConfigError("ccl.edges=retyped needs edges of several types, those of ign; vgn has one type")


def load_config(path: str | os.PathLike | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration: defaults, then the YAML file, then `section.key=value` words.

    Args:
        path: YAML file with any of the keys of `Config`, and `base:` for a file beside it whose settings hold where it
            says nothing; None: the defaults alone.
        overrides: words such as `train.epochs=3` or `data.widths=[2,4]`.

    Returns:
        The validated configuration.

    Raises:
        ConfigError: an unknown key (the nearest valid one is named), a value of the wrong type, or values that
            contradict each other.
    """
    settings = [] if path is None else [(str(file), found) for file, found in with_bases(Path(path))]
    return make_config([*settings, *((repr(word[:80]), parse_word(word, Config)) for word in overrides)])


def make_config(settings: Iterable[tuple[str, Any]]) -> Config:
    """Return the configuration that settings come to, each laid over those before it; see `load_config`.

    Args:
        settings: nested mappings, and where each comes from.
    """
    merged = OmegaConf.structured(Config)
    for where, update in settings:
        merged = merge_settings(merged, update, where)
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config)  # narrows the type for mypy
    return config


def with_settings(config: Config, words: Sequence[str]) -> Config:
    """Return a configuration with some settings changed, such as `data.root=/data`.

    Raises:
        ConfigError: as `load_config`.
    """
    return make_config([("", OmegaConf.structured(config)), *((repr(w[:80]), parse_word(w, Config)) for w in words)])


def model_name(config: Config) -> str:
    """Return how tables call what a configuration trains."""
    stage2 = " + CCL" if config.ccl.epochs and config.ccl.levels else ""
    return config.model.name + stage2 + ("" if config.model.relation == "graph" else ", no relation")


def config_to_yaml(config: Config) -> str:
    """Return a configuration as YAML, every key written out."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def data_root(config: DataConfig) -> Path:
    """Return the folder of the annotations.

    Raises:
        ConfigError: neither `data.root` nor the variable RELGROUNDING_DATA is set, or the folder is missing.
    """
    root = config.root or os.environ.get("RELGROUNDING_DATA", "")
    if not root:
        raise ConfigError(
            f"data.root is empty and RELGROUNDING_DATA is not set: name the folder that holds the annotations of "
            f"{config.dataset}, for example data.root=/data"
        )
    path = Path(root)
    if not os.path.isdir(path):  # which, unlike Path's, does not mind a name that is too long
        raise ConfigError(f"data.root: {path} is not a directory")
    return path


def find_file(config: DataConfig, name: str, key: str, remedy: str) -> Path:
    """Return a file that is given as a path of its own or below the root.

    Raises:
        ConfigError: it is in neither place; the message names both and `remedy`.
    """
    if not name:
        raise ConfigError(f"{key} is empty; {remedy}")
    own = Path(name)
    if _is_named(own):
        return own
    below = data_root(config) / name
    if _is_named(below):
        return below
    raise ConfigError(f"{key}: neither {own} nor {below} exists; {remedy}")


def _is_named(path: Path) -> bool:
    """Whether there is something that its reader takes, or refuses for what it is: a FIFO is there, too."""
    return os.path.exists(path) and not os.path.isdir(path)
