"""The zip archive of one model, from which only the files that are needed to load the model are unpacked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import StoreError
from kepler_core.models.power_model import METADATA_FILE, MODEL_FILE, ModelFile, max_bytes_to_load
from kepler_core.store.layout import zip_bytes
from kepler_core.store.safe_zip import file_names, read_zip


class ModelArchive(Mapping[str, bytes]):
    """The files in the zip archive of a model, by file name without folder.

    In an archive, the files may be at the top level or in a folder. Each file is unpacked when it is
    accessed, and is not kept. So files that are not accessed take no memory, however large they are.
    """

    def __init__(self, content: bytes, where: str) -> None:
        """Check the archive without unpacking its files. `where` names the archive in errors.

        Raises `StoreError` if the archive is damaged or unsafe, or if it has no metadata.
        """
        self.content = content
        self._where = where
        self._names = sorted({name.rpartition("/")[2] for name in file_names(content, where)})
        if METADATA_FILE not in self._names:
            raise StoreError(f"{where}: no {METADATA_FILE} in the archive")

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names:
            raise KeyError(name)
        limit = max_bytes_to_load(name)
        files = read_zip(self.content, self._where, only={name}, max_file_bytes=limit, max_total_bytes=limit)
        return files[max(files, key=len)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def without_other_files(self) -> ModelArchive:
        """Return an archive with only the files that are needed to load the model: documents and components."""
        names = {METADATA_FILE, MODEL_FILE} & set(self._names)
        if MODEL_FILE in names:
            try:
                parts = decode_json(self[MODEL_FILE], ModelFile).components.values()
                names |= {part.file for part in parts if part.file is not None} & set(self._names)
            except DocumentError:
                pass  # `load_model` will report that `model.json` is malformed
        return ModelArchive(zip_bytes({name: self[name] for name in names}), self._where)
