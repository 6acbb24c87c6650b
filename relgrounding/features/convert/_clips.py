"""Clip features as they circulate: one file per video, or HDF5 with one dataset or group per video."""

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import torch

from relgrounding.features._stores import stated_duration
from relgrounding.features.convert._hdf5 import Hdf5Source, Numbers
from relgrounding.features.convert._sources import (
    FEATURE_KEYS,
    Entry,
    Item,
    Source,
    check_finite,
    check_shape,
    folder_files,
    number_type,
    one_of,
    stem_id,
)
from relgrounding.io._errors import BadFeatures
from relgrounding.io._hdf5 import damage, member, names
from relgrounding.io._npy import Header, check_bytes, member_header, npy_header, read_member, read_npy


class NpyClips(Source):
    """`VIDEO.npy` each, (clips, dim) or (clips, 1, 1, dim): I3D features of Charades-STA."""

    suffix: ClassVar[str] = ".npy"
    kind: ClassVar[str] = "a NumPy file"

    def index(self) -> Iterator[Entry]:
        """Yield the videos by the names of their files; only the headers are read."""
        self._files = folder_files(self.path, [self.suffix], self.options.follow_links)
        for path in self._files:
            with self.problems:
                with damage(str(path), self.kind):
                    header = self._header(path)
                rows, dim = check_shape(header.shape, str(path), self.options.max_bytes)
                yield Entry(stem_id(path), rows, dim, number_type(header.dtype, str(path)), path)

    def read(self, entry: Entry) -> Item:
        """Return a video's features."""
        with damage(str(entry.at), self.kind):
            features = self._load(entry.at).reshape(entry.rows, entry.dim)
        return Item(check_finite(features, str(entry.at)))

    def files(self) -> list[Path]:
        """Return the file of every video."""
        return self._files

    def _header(self, path: Path) -> Header:
        return npy_header(path)

    def _load(self, path: Path) -> np.ndarray:
        return read_npy(path, self.options.max_bytes)


class NpzClips(NpyClips):
    """`VIDEO.npz` each, with `features` or a single array: moment_detr's and lighthouse's."""

    suffix = ".npz"
    kind = "a NumPy archive"

    def _header(self, path: Path) -> Header:
        with zipfile.ZipFile(path) as archive:
            return member_header(archive, _clip_key(archive, path), str(path))

    def _load(self, path: Path) -> np.ndarray:
        with zipfile.ZipFile(path) as archive:
            return read_member(archive, _clip_key(archive, path), str(path), self.options.max_bytes)


def _clip_key(archive: zipfile.ZipFile, path: Path) -> str:
    held = [name.removesuffix(".npy") for name in archive.namelist()]
    return held[0] if len(held) == 1 else one_of(held, FEATURE_KEYS, str(path))


class PtClips(NpyClips):
    """`VIDEO.pt` each: a tensor, or a dict with one under `features`; nothing that a pickle could run is loaded."""

    suffix = ".pt"
    kind = "a file of torch.save"

    def _header(self, path: Path) -> Header:
        tensor = self._tensor(path)
        return Header(tuple(tensor.shape), _numpy_type(tensor, path))

    def _load(self, path: Path) -> np.ndarray:
        tensor = self._tensor(path)
        check_bytes(tuple(tensor.shape), np.dtype(np.float32), str(path), self.options.max_bytes)
        return tensor.to(torch.float32).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()

    def _tensor(self, path: Path) -> torch.Tensor:
        # Files of before PyTorch 1.6 are pickles that say themselves how much memory to take.
        if not zipfile.is_zipfile(path):
            raise BadFeatures(f"{path} is not a file of torch.save since PyTorch 1.6; save the tensor again")
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > max(path.stat().st_size, self.options.max_bytes):
                raise BadFeatures(f"{path} unpacks to more than {self.options.max_bytes} bytes; save the tensor again")
        try:
            found: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError:
            raise BadFeatures(
                f"{path} holds more than tensors; save the tensor alone: torch.save(features, path)"
            ) from None
        if isinstance(found, dict):
            found = next((found[key] for key in FEATURE_KEYS if key in found), None)
        if not isinstance(found, torch.Tensor) or found.layout != torch.strided:
            raise BadFeatures(f"{path} holds no tensor (clips, dim), nor one under 'features'; save it alone")
        return found.detach()


def _numpy_type(tensor: torch.Tensor, path: Path) -> np.dtype:
    if not tensor.dtype.is_floating_point:
        raise BadFeatures(f"{path} holds {tensor.dtype}, expected features; save them as float32")
    return np.dtype(np.float16 if tensor.dtype == torch.float16 else np.float32)


class Hdf5Clips(Hdf5Source):
    """One dataset per video, or one group per video with a single dataset in it, such as `VIDEO/c3d_features`."""

    def _entries(self) -> Iterator[Entry]:
        videos = names(self._file, str(self.path))
        if not videos:
            raise BadFeatures(f"{self.path} is empty; expected one dataset (clips, dim) per video")
        for name in videos:
            where = f"{name!r} in {self.path}"
            with self.problems, damage(where):
                group, key, dataset = self._dataset(name, where)
                rows, dim = check_shape(dataset.shape or (), where, self.options.max_bytes)
                kind = number_type(dataset.dtype, where)
                yield Entry(name, rows, dim, kind, Numbers(group, key, (), dataset), duration=_seconds(dataset, where))

    def read(self, entry: Entry) -> Item:
        """Return a video's features."""
        where = f"{entry.name!r} in {self.path}"
        features = self.numbers(entry.at, entry.rows, where).reshape(entry.rows, entry.dim)
        return Item(check_finite(features, where))

    def _dataset(self, name: str, where: str) -> tuple[str | None, str, h5py.Dataset]:
        """Return the dataset of a video, its name, and the group that holds it."""
        found, group, key = member(self._file, name, str(self.path)), None, name
        if isinstance(found, h5py.Group):
            inner = names(found, where)
            if len(inner) != 1:
                raise BadFeatures(f"{where} is a group of {len(inner)} members; expected one dataset in it")
            group, key = name, inner[0]
            found = member(found, key, where)
        if not isinstance(found, h5py.Dataset):
            raise BadFeatures(f"{where} is not a dataset (clips, dim); make the file again")
        return group, key, found


def _seconds(dataset: h5py.Dataset, where: str) -> float | None:
    try:
        return stated_duration(dataset, where)
    except BadFeatures:  # an attribute of this name that means something else
        return None
