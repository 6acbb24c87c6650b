"""Configuration of a run, composed of the sections of its system, data set, modality and objectives.

Each section is a dataclass defined next to what it configures.
"""

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, ClassVar, Literal

from omegaconf import OmegaConf

from relgrounding._moved import rename_settings, rename_word
from relgrounding._names import check_name
from relgrounding._settings import (
    ConfigError,
    as_word,
    check_values,
    find_config,
    merge_settings,
    number,
    parse_word,
    with_bases,
)
from relgrounding._urls import masked
from relgrounding.datasets import DATASETS, DataConfig, Dataset, data_root, find_file
from relgrounding.modalities import MODALITIES, Modality
from relgrounding.models import MODELS, RELATIONS, ModelConfig, Plan, System, shared_graph_options
from relgrounding.objectives import OBJECTIVES, Objective
from relgrounding.ops import check_backend

__all__ = [
    "Config",
    "ConfigError",
    "DataConfig",
    "EvalConfig",
    "ModelConfig",
    "TrainConfig",
    "config_to_yaml",
    "data_root",
    "find_file",
    "load_config",
    "make_config",
    "model_name",
    "number",
    "with_settings",
]

NAMING = (("model", "name"), ("data", "dataset"), ("train", "objectives"))
"""Settings that determine the classes of the sections."""


@dataclass
class TrainConfig:
    """Optimisation and model selection."""

    objectives: list[str] = field(default_factory=lambda: ["mil"])
    """Objectives of the first stage, by name or package.module:Name; their losses are added."""
    epochs: int = number(10, least=1)
    """Maximum number of epochs of the first stage."""
    learning_rate: float = number(1e-3, above=0)
    """Maximum learning rate."""
    schedule: Literal["cosine", "inverse_sqrt", "halving"] = "cosine"
    """Learning rate at step n = 0, 1, ... of the N steps of a stage, as a share of the maximum. It rises as (n + 1) / w
    in the first w = `warmup_steps` steps; then cosine: (1 + cos(pi (n - w) / (N - w))) / 2, to 0; inverse_sqrt:
    sqrt(max(w, 1) / (n + 1)). halving: 2^-floor(n / `halve_every`), times min(1, (n + 1) / w)."""
    warmup_steps: int = number(100, least=0)
    """Steps over which the learning rate rises linearly from 0."""
    halve_every: int = number(8000, least=1)
    """Steps between two halvings of the learning rate, with schedule=halving."""
    betas: list[float] = number([0.9, 0.999], repeats=True, least=0, below=1)
    """Decay rates of Adam's running means of the gradient and of its square."""
    weight_decay: float = number(0.0, least=0)
    """Adam's L2 penalty: this times the weights is added to the gradient, after it was clipped."""
    clip_norm: float = number(5.0, above=0)
    """Maximum norm of the gradient; larger gradients are scaled down."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Type in which a step computes. tf32: float32, in which CUDA multiplies matrices with ten bits of mantissa; on any
    other device the same as float32. bfloat16: linear maps and what follows from them, by PyTorch's autocast; weights,
    optimizer, scores, losses and all evaluation remain in float32."""
    compile: bool = False
    """Compile the model's part of a step with torch.compile: a minute or more at the start of each stage."""
    ema: float = number(0.0, least=0, below=1)
    """Decay per step of an exponential moving average of the weights, such as 0.999. What is validated, kept in best.pt
    and handed on to the next stage is then the average. 0: none."""
    patience: int = number(3, least=1)
    """Stop after this many epochs without a better validation metric."""
    select_metric: str = ""
    """Metric of the validation split that selects the epoch; empty: R@1,IoU=0.5 or Acc@0.5; last: no metric, the last
    epoch is the best. On few held-out queries an early epoch is selected by chance."""
    log_every: int = number(50, least=1)
    """Steps between lines of log.jsonl."""
    save_every: int = number(0, least=0)
    """Steps between writes of last.pt; it is also written at the end of an epoch. 0: only then."""
    save_minutes: float = number(0.0, least=0)
    """Minutes between writes of last.pt, likewise; 0: only at the end of an epoch."""
    accumulate: int = number(1, least=1, most=100_000)
    """Pieces of a batch that a process works on one after another before the weights are updated. P processes x
    accumulate pieces make up a batch (`data.batch_size` is the whole batch), each with two queries or more. Negatives
    come from the piece; dropout, negatives and memory banks depend on P. A piece may have up to a quarter more or fewer
    queries than others to keep a block (`data.block_by`) or a group of queries in one piece; the loss is the mean over
    pieces, weighted by their queries. Of a last batch with fewer than 2 P queries, some pieces are empty."""
    gather_negatives: bool = False
    """Take negatives from the pieces of all processes: the gradients are then those of one process with the whole batch
    (with accumulate, of one with the same). For mil, and for arn and cotrain, which need no negatives."""
    timeout: float = number(30.0, above=0, most=100_000)
    """Minutes that one of several processes (torchrun) waits for the others before it ends with an error."""

    def __post_init__(self) -> None:
        """Require both decay rates."""
        if len(self.betas) != 2:
            raise ConfigError(f"train.betas is {str(self.betas)[:80]}; it needs two numbers, such as [0.9, 0.999]")


@dataclass
class EvalConfig:
    """Predictions and the table."""

    batch_size: int = number(128, least=1, most=1_000_000)
    """Queries per batch."""
    explain: bool = False
    """Also write into predictions.jsonl how the first answers got their scores: attention over the words, and the
    messages with the highest weights, from which neighbours and opened by which words; figures and report draw them."""


@dataclass
class Config:
    """One run. Every field can be set in YAML or as `section.key=value`.

    The classes of the sections depend on the names in them: `model` is the `Config` of the system `model.name`; `data`
    that of the data set `data.dataset` with the candidates of the modality; `eval` has the selection of the modality;
    and each objective has a section with its name.
    """

    name: str = "demo"
    """Name of the run folder."""
    seed: int = number(0, least=0)
    """Seed of all random draws."""
    device: str = "auto"
    """auto (CUDA where it is available, else the CPU), cpu, cuda, cuda:1, ..."""
    backend: str = "auto"
    """Message-passing backend."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __reduce__(self) -> Any:
        return make_config, ([("", _container(self))],)  # the class is made of what it names, and has no address

    @property
    def system(self) -> type[System]:
        """The model's class."""
        return MODELS.get(self.model.name)

    @property
    def modality(self) -> Modality:
        """Modality of the system."""
        return MODALITIES.get(self.system.modality)()

    @property
    def dataset(self) -> Dataset:
        """The data set."""
        return DATASETS.get(self.data.dataset)(self.data, self.seed, self.modality.item)

    classes: ClassVar[dict[str, type[Objective]]] = {}
    """Objectives with a section, by name."""

    @property
    def objectives(self) -> dict[str, Any]:
        """Settings of each objective by its name."""
        return {name: getattr(self, name) for name in self.classes}

    @property
    def sections(self) -> dict[str, Any]:
        """What objectives read: the settings of each, and the section `eval`."""
        return {**self.objectives, "eval": self.eval}

    @property
    def committee(self) -> Plan:
        """The systems that are trained and answer: the model, and what objectives add to it."""
        for name, kind in self.classes.items():
            plan = kind.committee(self.sections, self.model) if kind.follows and self.objectives[name].epochs else None
            if plan:
                return plan
        return Plan((self.model,))

    @property
    def graph_options(self) -> dict[str, Any]:
        """Keyword arguments with which the modality's collator builds the graph."""
        return shared_graph_options(self.system, self.committee.members)

    def __post_init__(self) -> None:
        """Reject invalid values."""
        check_values(self)
        check_name(self.name, "name")
        for split in self.data.test_splits:
            check_name(split, "data.test_splits")
        if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu)(:\d{1,3})?", self.device):
            raise ConfigError(f"device is {self.device[:40]!r}; it is auto, cpu, cuda, cuda:1, ...")
        try:
            check_backend(self.backend)
        except ValueError as error:
            raise ConfigError(f"backend: {error}") from None
        if self.data.block_by == "category" and not getattr(self.data, "category_columns", 0):
            raise ConfigError(
                "data.block_by=category needs to know the categories of regions (data.category_columns, of images "
                "only); data.block_by=sentence does not"
            )
        self._check_model(self.model)
        if self.train.compile and not self.system.pieces:
            raise ConfigError(
                f"train.compile: {self.system.name} names no pieces that torch.compile can take whole (System.pieces); "
                "set it to false"
            )
        first = [OBJECTIVES.get(name) for name in self.train.objectives]
        for objective in first:
            if objective.follows:
                name = objective.name
                raise ConfigError(f"train.objectives: {name} is a stage of its own after the first; set {name}.epochs")
        for objective in self.classes.values():
            if objective.follows or objective in first:
                objective.check(self.sections, self.model, self.system)
            if objective.needs_blocks(self.objectives[objective.name]) and not self.data.block_by:
                raise ConfigError(
                    f"{objective.name} draws hard negatives from blocks of similar queries; set data.block_by to "
                    "category or sentence"
                )
        for member in self.committee.members[1:]:
            self._check_model(member)
        if self.train.gather_negatives:
            self._check_gathering(first)
        _ = self.graph_options  # raises if the members need different graphs

    def _check_gathering(self, first: list[type[Objective]]) -> None:
        for name, kind in self.classes.items():
            trained = kind in first or (kind.follows and self.objectives[name].epochs)
            if trained and not kind.gathers(self.objectives[name]):
                raise ConfigError(
                    f"train.gather_negatives is not for {name}, whose draws differ between processes; leave it out"
                )

    def _check_model(self, model: Any) -> None:
        if model.relation and model.relation not in self.system.relations:
            if model.relation in RELATIONS.others:
                own = " or ".join(self.system.relations)
                raise ConfigError(f"model.relation is {model.relation}; {self.system.name} takes {own}")
            try:
                RELATIONS.get(model.relation)
            except ConfigError as error:
                raise ConfigError(f"model.relation: {error}") from None
        self.system.check(model)


def load_config(path: str | os.PathLike | None = None, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Config:
    """Read a configuration: defaults, then the YAML file, then the overrides.

    >>> load_config("charades_vgn", {"train.epochs": 1}).train.epochs
    1

    Args:
        path: name of a configuration that comes with the package, or a YAML file with any of the keys of `Config`, and
            `base:` for a file beside it whose settings hold where it says nothing; None: the defaults alone.
        overrides: words such as `train.epochs=3` or `data.widths=[2,4]`, or values by key. Where they name another
            system or data set than the file, settings of the file that this one does not have are left out.

    Returns:
        The validated configuration.

    Raises:
        ConfigError: an unknown key (the nearest valid one is named), a value of the wrong type, or values that
            contradict each other.
    """
    files = [] if path is None else [(str(file), found) for file, found in with_bases(find_config(path))]
    if isinstance(overrides, Mapping):
        overrides = [as_word(key, value) for key, value in overrides.items()]
    # The classes of the sections, and so whether a value is text, depend on all names.
    before = _named([found for _, found in files])
    names = _named([*(found for _, found in files), *(_name_word(word) for word in overrides)])
    kind = config_class(*names)
    if names != before:  # of another system or data set than the file is for: what that lacks is left out
        files = [(where, _known(found, kind)) for where, found in files]
    words = ((repr(masked(word)[:80]), parse_word(rename_word(word), kind)) for word in overrides)
    return make_config([*files, *words])


def make_config(settings: Iterable[tuple[str, Any]], old: bool = False) -> Config:
    """Return the configuration of settings, of which later ones override earlier ones; see `load_config`.

    Args:
        settings: nested mappings, each with its source.
        old: whether they are those of a run, possibly of an earlier version.
    """
    settings = [(where, rename_settings(update, where, old)) for where, update in settings]
    kind = config_class(*_named([update for _, update in settings]))
    merged = OmegaConf.structured(kind)
    sections = {f.name: f.type for f in dataclasses.fields(kind) if dataclasses.is_dataclass(f.type)}
    for where, update in settings:
        for name, settings_class in sections.items():
            if isinstance(update, dict) and not isinstance(update.get(name) or {}, Mapping):
                keys = ", ".join(f"{name}.{f.name}" for f in dataclasses.fields(settings_class))
                raise ConfigError(f"{where}: {name} is a section; its settings are {keys or 'none'}")
        if isinstance(update, dict):
            update = {name: value or {} if name in sections else value for name, value in update.items()}
        if old:
            update = _known(update, kind)
        for section, key, owners in _foreign(update, kind):
            shown = ", ".join(owners)
            raise ConfigError(f"{where}: {section}.{key} is a setting of {shown}; this run has none of them")
        merged = merge_settings(merged, update, where)
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config)  # narrows the type for mypy
    return config


def with_settings(config: Config, words: Sequence[str]) -> Config:
    """Return a configuration with some settings changed, such as `data.root=/data`.

    If the data set changes, settings that the new one lacks are dropped.

    Raises:
        ConfigError: as `load_config`.
    """
    before = _container(config)
    kind = config_class(*_named([before, *(_name_word(word) for word in words)]))
    changes = ((repr(masked(word)[:80]), parse_word(rename_word(word), kind)) for word in words)
    return make_config([("", _known(before, kind)), *changes])


def model_name(config: Config) -> str:
    """Return the name of the model of a configuration in tables."""
    labels = [kind.label for name, kind in config.classes.items() if kind.tells(config.objectives[name])]
    last = config.committee.members[-1]  # of a committee, the member that sees everything
    relation = {"": "", "graph": "", "none": ", no relation"}.get(last.relation, f", {last.relation}")
    silent = last.relation not in ("", "none") and not config.system.reads_graph(last)
    return " + ".join([config.model.name, *labels]) + relation + (" without edges" if silent else "")


def config_to_yaml(config: Config) -> str:
    """Return a configuration as YAML, with all keys, and without the credentials of URLs."""
    return masked(OmegaConf.to_yaml(OmegaConf.structured(config)))


def config_class(model: str, dataset: str, objectives: tuple[str, ...]) -> type[Config]:
    """Return `Config` with the sections of a system, a data set and objectives.

    Raises:
        ConfigError: a name is unknown, or the system does not fit the data.
    """
    system, data = MODELS.get(model), DATASETS.get(dataset)
    if data.modality not in (None, system.modality):
        right = ", ".join(name for name in MODELS if MODELS.get(name).modality == data.modality)
        raise ConfigError(f"model.name is {model}, but {dataset} needs {right}")
    modality = MODALITIES.get(system.modality)
    kinds = [OBJECTIVES.get(name) for name in objectives]
    kinds += [OBJECTIVES.get(name) for name in OBJECTIVES if OBJECTIVES.get(name).follows]
    kinds += [OBJECTIVES.get(name) for kind in kinds for name in kind.requires]
    classes: dict[str, type[Objective]] = {}
    for kind in kinds:
        if not kind.name.isidentifier() or hasattr(Config, kind.name) or kind.name in Config.__dataclass_fields__:
            raise ConfigError(f"an objective cannot be called {kind.name!r}: its settings are a section of that name")
        if classes.setdefault(kind.name, kind) is not kind:
            raise ConfigError(f"two objectives are called {kind.name!r}; give one of them another name")
        if not dataclasses.is_dataclass(getattr(kind, "Config", None)):
            raise ConfigError(f"objective {kind.name!r} needs a dataclass of its settings as its attribute Config")
    parts = system.Config, data.Config, modality.DataConfig, modality.EvalConfig
    return _composed(model, dataset, parts, tuple(classes.values()))


@lru_cache  # by classes, not by names: in a notebook a class may be written anew
def _composed(
    model: str, dataset: str, parts: tuple[type, type, type, type], objectives: tuple[type[Objective], ...]
) -> type[Config]:
    system, data, candidates, selection = parts
    sections: list[tuple[str, type, dict[str, Any]]] = [
        ("data", _joined(data, candidates), {"dataset": dataset}),
        ("model", system, {"name": model}),
        ("eval", _joined(EvalConfig, selection), {}),
        *((kind.name, kind.Config, {}) for kind in objectives),
    ]
    fields = [(name, kind, field(default_factory=partial(kind, **given))) for name, kind, given in sections]
    namespace = {"__module__": __name__, "classes": {kind.name: kind for kind in objectives}}
    return dataclasses.make_dataclass("Config", fields, bases=(Config,), namespace=namespace)


@lru_cache
def _joined(first: type, second: type) -> type:
    if not dataclasses.fields(second):
        return first
    # Fields are listed from the last base to the first.
    return dataclasses.make_dataclass(first.__name__, [], bases=(second, first), namespace={"__module__": __name__})


def _named(settings: Iterable[Mapping[str, Any]]) -> tuple[str, str, tuple[str, ...]]:
    """Return the last system, data set and objectives named in settings."""
    found: dict[str, Any] = {"model": "ign", "data": "demo", "train": ["mil"]}
    for update in settings:
        for section, key in NAMING:
            given = update.get(section) if isinstance(update, Mapping) else None
            if isinstance(given, Mapping) and key in given:
                found[section] = given[key]
    objectives = found["train"] if isinstance(found["train"], list) else [found["train"]]
    return str(found["model"]), str(found["data"]), tuple(map(str, objectives))


def _name_word(word: str) -> dict[str, Any]:
    key = word.partition("=")[0]
    return parse_word(word, Config) if key in {".".join(names) for names in NAMING} else {}


def _container(config: Config) -> dict[str, Any]:
    found = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _owners(section: str) -> dict[str, list[str]]:
    """Return the systems, data sets or modalities that define each key of a section."""
    registry: Any = {"model": MODELS, "data": DATASETS}.get(section)
    kinds = {name: registry.get(name).Config for name in registry} if registry else {}
    if section in ("data", "eval"):
        kinds |= {name: getattr(MODALITIES.get(name), f"{section.title()}Config") for name in MODALITIES}
    owners: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        for key in dataclasses.fields(kind):
            owners.setdefault(key.name, []).append(name)
    return owners


def _foreign(update: Any, kind: type[Config]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield section, key and owners of settings that a configuration lacks but other systems or data sets define."""
    types = {f.name: f.type for f in dataclasses.fields(kind)}
    for section in ("data", "model", "eval"):
        given = update.get(section) if isinstance(update, Mapping) else None
        if isinstance(given, Mapping):
            own = {f.name for f in dataclasses.fields(types[section])}  # type: ignore[arg-type]
            owners = _owners(section)
            yield from ((section, key, owners[key]) for key in given if key not in own and key in owners)


def _known(update: dict[str, Any], kind: type[Config]) -> dict[str, Any]:
    """Return settings without those that only other systems, data sets, modalities or objectives define."""
    foreign = {(section, key) for section, key, _ in _foreign(update, kind)}
    fields = {f.name for f in dataclasses.fields(kind)}
    return {
        section: {k: v for k, v in given.items() if (section, k) not in foreign} if isinstance(given, dict) else given
        for section, given in update.items()
        if section in fields or section not in OBJECTIVES
    }
