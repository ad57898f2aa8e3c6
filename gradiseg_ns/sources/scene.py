"""Names of before: see `gradiseg_ns.sources.capture`."""

from gradiseg_ns.sources.capture import Capture as Scene
from gradiseg_ns.sources.capture import SourceError as SourceError
from gradiseg_ns.sources.capture import Views as Views
from gradiseg_ns.sources.capture import capture_of as scene_of
from gradiseg_ns.sources.capture import load_capture as load_scene
from gradiseg_ns.sources.capture import photo_names as photo_names
from gradiseg_ns.sources.capture import smaller as smaller

__all__ = ["Scene", "SourceError", "Views", "load_scene", "photo_names", "scene_of", "smaller"]
