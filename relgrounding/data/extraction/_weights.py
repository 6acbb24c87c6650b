"""A torchvision model with the weights that were asked for."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from relgrounding.data.extraction._errors import ExtractionError, require


def build(
    model: str, weights: str, seed: int, make: Callable[..., torch.nn.Module], drop: tuple[str, ...] = ()
) -> tuple[torch.nn.Module, str]:
    """Make a model and say which weights it has.

    Args:
        model: torchvision's name of it.
        weights: "random", torchvision's name of weights, or a file of a state_dict.
        seed: of random weights.
        make: makes the model from the entries of a state_dict, or from None for the standard number of classes.
        drop: prefixes of entries that do not matter.

    Raises:
        ExtractionError: no such weights, or they do not fit the model.
    """
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return make(None).eval(), f"random, seed {seed}"
    path = Path(weights)
    if path.is_file():
        state, name = _read(path), f"{path.name}, sha256 {_sha256(path)}"
    else:
        state, name = _named(model, weights)
    state = {key: value for key, value in state.items() if not key.startswith(drop)} if drop else state
    built = make(state)
    try:
        missing, unexpected = built.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ExtractionError(f"{weights} does not fit {model}: {str(error).splitlines()[-1].strip()}") from None
    missing = [key for key in missing if not (drop and key.startswith(drop))]
    if missing or unexpected:
        problem = f"lacks {missing[0]}" if missing else f"has {unexpected[0]}, which the model has not"
        raise ExtractionError(f"{weights} does not fit {model}: it {problem}")
    return built.eval(), name


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExtractionError(f"{path} is no file of a state_dict that can be read safely: {reason}") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ExtractionError(f"{path} holds no state_dict; save model.state_dict()")
    return state


def _named(model: str, weights: str) -> tuple[dict[str, torch.Tensor], str]:
    known = {entry.name: entry for entry in require("torchvision.models").get_model_weights(model)}
    chosen: Any = known.get(weights)
    if chosen is None:
        raise ExtractionError(
            f"weights {weights!r} are no file and no weights of {model}; torchvision has {', '.join(known)}"
        )
    try:
        return chosen.get_state_dict(progress=False, check_hash=True), weights
    except (OSError, RuntimeError) as error:
        raise ExtractionError(
            f"weights {weights} could not be fetched ({error}); download {chosen.url} and give the file as --weights"
        ) from None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
