"""Principal components of features, fitted in one pass that keeps sums only."""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from relgrounding._files import replacing
from relgrounding.io._errors import BadFeatures
from relgrounding.io._hdf5 import damage
from relgrounding.io._npy import read_member
from relgrounding.io._regular import check_regular, existing

ROWS = 4096


class Components(NamedTuple):
    """A linear map to fewer numbers.

    Args:
        mean: (dim,) of the features.
        matrix: (dim, kept) orthonormal columns, the direction of largest variance first.
        share: of the variance that is kept.
    """

    mean: np.ndarray
    matrix: np.ndarray
    share: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return (rows, kept) float32."""
        return (features.astype(np.float32) - self.mean) @ self.matrix


def fit_components(blocks: Iterable[np.ndarray], dim: int, kept: int) -> Components:
    """Fit on all rows of all blocks; the sums are taken in float64, about the first block's mean.

    Args:
        blocks: (rows, dim) each.
        dim: width of a feature.
        kept: components to keep, at most dim.

    Raises:
        BadFeatures: no rows, or fewer dimensions than components.
    """
    if kept > dim:
        raise BadFeatures(f"--pca {kept}: the features have {dim} numbers; keep at most that many")
    # Sums of squares of numbers far from zero would lose digits: they are taken about a point within the data.
    centre: np.ndarray | None = None
    count, total, square = 0, np.zeros(dim), np.zeros((dim, dim))
    for block in _join(blocks):
        if centre is None:
            centre = block.mean(0)
        moved = block - centre
        count += len(moved)
        total += moved.sum(0)
        square += moved.T @ moved
    if centre is None:
        raise BadFeatures("--pca: there are no features to fit on")
    offset = total / count
    values, vectors = np.linalg.eigh(square / count - np.outer(offset, offset))
    order = np.argsort(values)[::-1][:kept]
    matrix = vectors[:, order]
    # Eigenvectors have no sign of their own: the largest entry is made positive.
    matrix = matrix * np.sign(matrix[np.abs(matrix).argmax(0), np.arange(kept)])
    variance = np.clip(values, 0, None)
    share = float(variance[order].sum() / variance.sum()) if variance.sum() > 0 else 1.0
    return Components((centre + offset).astype(np.float32), matrix.astype(np.float32), share)


def _join(blocks: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    """Yield float64 rows in pieces that make a matrix product worth its call."""
    kept: list[np.ndarray] = []
    for block in blocks:
        kept.append(block.astype(np.float64))
        if sum(map(len, kept)) >= ROWS:
            yield np.concatenate(kept)
            kept = []
    if kept:
        yield np.concatenate(kept)


def save_components(path: Path, components: Components, fingerprint: str) -> None:
    """Write them beside the features, whole or not at all."""
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez(
            file,
            mean=components.mean,
            matrix=components.matrix,
            share=np.float64(components.share),
            fingerprint=np.array(fingerprint),
        )


def load_components(path: Path) -> tuple[Components, str]:
    """Return what `save_components` wrote, and its fingerprint.

    Raises:
        MissingFile: no such file.
        BadFeatures: it is another or a damaged file.
    """
    check_regular(existing(path, "--pca takes a number, or the .pca.npz beside a file made with one"))
    with damage(str(path), "a file of components"), zipfile.ZipFile(path) as archive:
        mean, matrix, share, text = (
            read_member(archive, key, str(path), kinds="fU") for key in ("mean", "matrix", "share", "fingerprint")
        )
        found, fingerprint = Components(mean, matrix, float(share)), str(text)
    shape = found.matrix.shape
    if len(shape) != 2 or found.mean.shape != shape[:1] or found.matrix.dtype != np.float32:
        raise BadFeatures(f"{path} holds no mean and matrix that fit; make it again with --pca")
    return found, fingerprint
