"""What a viewer's session reads and writes: the list of edits beside the run, and downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from gradiseg_ns.editing.arrangement import arrange
from gradiseg_ns.editing.checking import EditError
from gradiseg_ns.editing.edit_list import FILE_NAME, EditList
from gradiseg_ns.formats.export import Format, export_bytes
from gradiseg_ns.viewer.live_scene import LiveScene, SessionError

_AGAIN = "Nothing was saved. Load takes what is there; a second Save replaces it."


class SceneFiles:
    """Saves, loads and exports what is shown of a scene. It changes no selection."""

    def __init__(self, scene: LiveScene, folder: Path | None = None) -> None:
        """
        Args:
            scene: whose edits these are.
            folder: of the run, where edits are saved.
        """
        self._scene, self.folder = scene, folder
        self._was_there = folder is not None and (folder / FILE_NAME).is_file()
        self._refused: tuple[float | None] | None = None
        """When the file was changed for which `save` was refused; of a missing one None."""

    @property
    def path(self) -> Path:
        """Where edits are saved.

        Raises:
            SessionError: the scene belongs to no run.
        """
        if self.folder is None:
            raise SessionError("this scene belongs to no run, so there is no folder to save edits in.")
        return self.folder / FILE_NAME

    def save(self) -> tuple[Path, list[str]]:
        """Write the list of edits beside the run's config.yml. What another program has added there since is taken in.

        Returns:
            the file, and the labels of the steps that were taken in.

        Raises:
            SessionError: another program changed the file otherwise. Nothing is written; the second time it is replaced.
            WriteError: it cannot be written.
        """
        path = self.path
        try:
            found = path.stat().st_mtime if path.is_file() else None
        except OSError:
            found = None
        replace = self._refused == (found,)
        with self._scene.editing.changing():
            edits = self._scene.edits
            if edits.on_disk is None or edits.on_disk[0] != path.resolve():
                if found is not None and self._was_there and not replace:
                    self._refused = (found,)
                    raise SessionError(f"{path} holds edits that are not shown here. {_AGAIN}")
                edits.on_disk = (path.resolve(), ())
            try:
                added = edits.save(path, replace=replace)
            except EditError as error:
                self._refused = (found,)
                raise SessionError(f"{error} {_AGAIN}") from error
        self._refused = None
        return path, [step.label for step in added]

    def load(self, data: Any = None, origin: str = "") -> int:
        """Replace the edits by those saved, or by parsed JSON. What was there is gone.

        Returns:
            the number of steps.

        Raises:
            EditError: the list cannot be used; the edits stay as they were.
        """
        loaded = (
            EditList.load(self.path) if data is None else EditList.from_json(data, origin, folder=self.folder)
        )
        with self._scene.reading() as model:
            arrange(model._labels(), model.means, model.objects, loaded.steps, loaded.files)
        with self._scene.editing.changing():
            edits = self._scene.edits
            edits.steps[:], edits.files = loaded.steps, loaded.files
            edits.on_disk = loaded.on_disk or edits.on_disk
            edits.undone.clear()
            edits.version += 1
        return len(loaded.steps)

    def export(
        self,
        what: Literal["selection", "everything"],
        *,
        separate: bool = False,
        format: Format = "ply",
        stem: str = "scene",
    ) -> tuple[str, bytes, int]:
        """What is shown, as edited, as a file to download.

        Returns:
            its name, its bytes, and how many Gaussians are in it.

        Raises:
            SessionError: nothing is selected, or there is nothing to export.
        """
        selection = self._scene.selection
        if what == "selection" and not selection:
            raise SessionError("nothing is selected: pick an object first.")
        with self._scene.reading() as model:
            arrangement = model.arrangement().without_hidden()
            if what == "selection":
                arrangement = arrangement.rows(selection.rows(arrangement, model.means))
            if not len(arrangement.source):
                raise SessionError("there is nothing to export: everything is hidden or removed.")
            splat = model.edited_splat(arrangement)
        table = arrangement.objects
        names = dict(zip(table.ids, table.names, strict=True))
        present = set(splat.labels.unique().tolist()) if splat.labels is not None else set()
        colors = {i: tuple(c) for i, c in zip(table.ids, table.colors.tolist(), strict=True) if i in present}
        name, data = export_bytes(
            splat,
            {i: n for i, n in names.items() if i in present},
            colors=colors,
            parents=table.parents,
            format=format,
            separate=separate,
            stem=stem,
        )
        return name, data, len(splat)
