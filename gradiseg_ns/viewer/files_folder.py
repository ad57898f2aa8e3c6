"""The folder "Files" of the panel: edits are saved and loaded, and what is shown is downloaded."""

from __future__ import annotations

from typing import Any

from gradiseg_ns.scene.objects import NO_OBJECT_NAME
from gradiseg_ns.tools.json_files import parse_json
from gradiseg_ns.viewer.actions import Actions
from gradiseg_ns.viewer.live_scene import SessionError
from gradiseg_ns.viewer.session import Session

_MAX_UPLOAD = 64 << 20


class FilesFolder:
    """The folder's widgets."""

    def __init__(self, gui: Any, actions: Actions, session: Session) -> None:
        """
        Args:
            gui: viser's, in the folder.
            actions: of the panel.
            session: whose files these are.
        """
        self._messages, self._session = actions.messages, session
        actions.buttons(gui, "Edits", {"Save": self._save, "Load": self._load})
        upload = gui.add_upload_button("Load edits from a file")
        upload.on_upload(actions.callback(self._uploaded))
        self._what = gui.add_dropdown("Export", ("selection", "everything"))
        self._pieces = gui.add_dropdown("As", ("one file", "a file per object"))
        self._format = gui.add_dropdown("Format", ("ply", "compressed-ply", "spz"))
        actions.button(gui, "Download", self._download)

    def _save(self, event: Any) -> None:
        path, added = self._session.save()
        text = f"{len(self._session.edits.steps)} edits saved: {path}"
        if added:
            text += f". {len(added)} of them another program had added: {', '.join(added[:3])}{', ...' if len(added) > 3 else ''}"
        self._messages.tell(event.client, text)

    def _load(self, event: Any) -> None:
        self._messages.tell(event.client, f"{self._session.load()} edits loaded.")

    def _uploaded(self, event: Any) -> None:
        file = event.target.value
        if len(file.content) > _MAX_UPLOAD:
            raise SessionError(f"the file has {len(file.content)} bytes, expected {_MAX_UPLOAD} at most.")
        try:
            data = parse_json(file.content)
        except ValueError as error:
            raise SessionError(f"the file is not JSON: {error}") from error
        self._messages.tell(event.client, f"{self._session.load(data, 'the file')} edits loaded.")

    def _download(self, event: Any) -> None:
        selected = self._what.value == "selection"
        names = self._session.names()
        stem = (
            "_".join(names.get(i, NO_OBJECT_NAME) for i in self._session.selection.ids[:3])
            if selected
            else "scene"
        )
        name, data, count = self._session.files.export(
            "selection" if selected else "everything",
            separate=self._pieces.value != "one file", format=self._format.value, stem=stem,
        )  # fmt: skip
        event.client.send_file_download(name, data)
        self._messages.tell(event.client, f"{name}: {count:,} Gaussians, {len(data) / 1e6:.1f} MB")
