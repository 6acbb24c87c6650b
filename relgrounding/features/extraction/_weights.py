"""A torchvision model with the requested weights."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from relgrounding._files import sha256
from relgrounding.features.extraction._errors import ExtractionError, require

COUNTER = ".num_batches_tracked"


def build(
    model: str, weights: str, seed: int, make: Callable[..., torch.nn.Module], drop: tuple[str, ...] = ()
) -> tuple[torch.nn.Module, str]:
    """Make a model and say which weights it has.

    Args:
        model: torchvision's name of it.
        weights: "random", torchvision's name of weights, or a file of a state_dict.
        seed: of random weights.
        make: makes the model from torchvision's weights, or from None and the entries of a state_dict or None.
        drop: prefixes of entries that do not matter.

    Raises:
        ExtractionError: no such weights, or they do not fit the model.
    """
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return make(None, None).eval(), f"random, seed {seed}"
    path = Path(weights)
    if not path.is_file():
        return _named(model, weights, make).eval(), weights
    state = {key: value for key, value in _read(path).items() if not (drop and key.startswith(drop))}
    built = make(None, state)
    try:
        missing, unexpected = built.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ExtractionError(f"{weights} does not fit {model}: {str(error).splitlines()[-1].strip()}") from None
    # Models that were trained with frozen normalisation have no such counters, and nothing here reads them.
    missing = [key for key in missing if not (drop and key.startswith(drop)) and not key.endswith(COUNTER)]
    if missing or unexpected:
        problem = f"lacks {missing[0]}" if missing else f"has {unexpected[0]}, which the model lacks"
        raise ExtractionError(f"{weights} does not fit {model}: it {problem}")
    return built.eval(), f"{path.name}, sha256 {sha256(path)}"


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExtractionError(f"{path} is not a state_dict that can be read safely: {reason}") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ExtractionError(f"{path} holds no state_dict; save model.state_dict()")
    return state


def _named(model: str, weights: str, make: Callable[..., torch.nn.Module]) -> torch.nn.Module:
    """Let torchvision load its own weights: some of them change more of a model than its state."""
    known = {entry.name: entry for entry in require("torchvision.models").get_model_weights(model)}
    chosen: Any = known.get(weights)
    if chosen is None:
        raise ExtractionError(
            f"weights {weights!r} are neither a file nor weights of {model}; torchvision has {', '.join(known)}"
        )
    try:
        return make(chosen, None)
    except OSError as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ExtractionError(
            f"weights {weights} could not be fetched ({error}); download {chosen.url} to {folder}"
        ) from None
