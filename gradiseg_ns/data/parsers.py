"""nerfstudio's dataparsers, led past what they stumble over.

They read the files that people have, and everything that comes from files passes here (`lead`): poses and intrinsics are looked
at and put right in double precision before they are mixed (:mod:`gradiseg_ns.data.poses`), COLMAP's model is found where it lies,
its names may have spaces, a split without a list of its own gets one, photos that are too large are resized as they are loaded
instead of a question on the terminal, and points that are no numbers, too few or missing are told.

While a dataparser reads, some functions of its module are exchanged, under a lock; its file stays as it is.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataparserOutputs
from numpy.typing import NDArray

from gradiseg_ns.data.poses import PointError, PoseError, check_meta, check_models, mend_meta
from gradiseg_ns.data.tracks import read_images_text, unit_rotations
from gradiseg_ns.tools.terminal import say, warn

LARGEST_SIDE = 1600
"""nerfstudio loads photos with a longer side at half, a quarter, ... of their size."""
FEWEST_POINTS = 16
"""With fewer sparse points than that, training starts from random ones, as without any."""
MODELS = ("sparse/0", "colmap/sparse/0", "sparse", "colmap/sparse", "colmap", "distorted/sparse/0", ".")
"""Where a COLMAP model lies in a data folder."""
_DEFAULT_MODEL = Path("colmap/sparse/0")
_SPLITS = ("train", "val", "test")
_LOCK = threading.RLock()


def lead(parser: DataParser, *, strict: bool) -> Reading:
    """Let a dataparser read through a :class:`Reading`, which is returned; calling it twice changes nothing.

    Args:
        parser: of a configuration that knows its data.
        strict: whether what makes no sense is an error; otherwise it is told, and reading goes on (a run that was trained on it
            must still open).

    Raises:
        PoseError: there is no COLMAP model where there should be one.
    """
    reading = getattr(parser, "_gradiseg_reading", None)
    if reading is None:
        reading = Reading(parser, strict)
        parser._gradiseg_reading = reading  # type: ignore[attr-defined]
        reading.install()
    return reading


@dataclass
class Reading:
    """How one dataparser reads, and what was found on the way."""

    parser: Any
    strict: bool
    photo_scale: float = 1.0
    """By which photos are resized when they are loaded, since there are no smaller ones on disk."""
    moved_by: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    """[3] what was subtracted from the coordinates of poses and points, in the frame of the file's poses."""
    one_place: bool = False
    source: Path = field(default_factory=Path)
    """The file that the poses are in."""
    _meta: dict[str, Any] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    # Where it takes hold ----------------------------------------------------------------------------

    def install(self) -> None:
        """Take hold of the dataparser's methods, of this instance alone."""
        parser = self.parser
        self.source = Path(parser.config.data)
        generate = parser._generate_dataparser_outputs

        def led(split: str = "train", **kwargs: Any) -> DataparserOutputs:
            with _LOCK, self._exchanged(), self._scaling():
                outputs = generate(split, **kwargs)
            self._finish(outputs)
            return outputs

        parser._generate_dataparser_outputs = led
        if hasattr(parser.config, "colmap_path"):
            self._install_colmap()
        elif hasattr(parser.config, "downscale_factor"):
            self._fall_back_to_full_size()
        if hasattr(parser, "_load_3D_points"):
            load = parser._load_3D_points
            parser._load_3D_points = lambda path, *rest: self._points(load, Path(path), *rest)
        if hasattr(
            parser.config, "load_3D_points"
        ):  # nerfstudio would ask whether to rewrite transforms.json
            parser.prompted_user, parser.create_pc = True, False

    def tell(self, message: str, *, error: type[PoseError] | None = None) -> None:
        """Tell the user once; raise it if it is an error and reading is strict."""
        if error is not None and self.strict:
            raise error(message)
        if message not in self._told:
            self._told.add(message)
            warn(message)

    @contextlib.contextmanager
    def _exchanged(self) -> Iterator[None]:
        """Functions of the dataparser's module exchanged for ours."""
        module: Any = sys.modules[type(self.parser).__module__]
        done: list[tuple[Any, str, Any]] = []

        def exchange(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
            old = getattr(owner, name, None)
            if old is not None:
                done.append((owner, name, old))
                setattr(owner, name, make(old))

        try:
            exchange(module, "load_from_json", lambda old: lambda path: self._read_json(old, Path(path)))
            colmap = getattr(module, "colmap_utils", None)
            if colmap is not None:
                exchange(
                    colmap, "read_images_text", lambda _: lambda path: unit_rotations(read_images_text(path))
                )
                exchange(colmap, "read_images_binary", lambda old: lambda path: unit_rotations(old(path)))
                for name in ("read_points3D_text", "read_points3D_binary"):
                    exchange(colmap, name, lambda old: lambda path: self._moved_points(old(path)))
            yield
        finally:
            for owner, name, old in reversed(done):
                setattr(owner, name, old)

    @contextlib.contextmanager
    def _scaling(self) -> Iterator[None]:
        """Cameras in one place have no spread to scale by: nerfstudio would divide by zero, and is told to leave it."""
        config = self.parser.config
        had = getattr(config, "auto_scale_poses", None)
        try:
            yield
        finally:
            if had is not None:
                config.auto_scale_poses = had

    # Poses ------------------------------------------------------------------------------------------

    def _read_json(self, read: Callable[[Path], Any], path: Path) -> Any:
        meta = read(path)
        if not isinstance(meta, dict) or not isinstance(meta.get("frames"), list) or not meta["frames"]:
            return meta
        self._take(path, meta)
        if type(self.parser).__name__ == "Nerfstudio":
            self._complete(path, meta)
        return meta

    def _take(self, path: Path, meta: dict[str, Any]) -> None:
        """Look at the poses of a file, and put them right."""
        self.source, self._meta = path, meta
        try:
            check_meta(path, meta)
        except PoseError as error:
            if self.strict or "finite" in str(error):
                raise
            self.tell(str(error))
        mended = mend_meta(path, meta)
        self.moved_by, self.one_place = mended.moved_by, mended.one_place
        config = self.parser.config
        if mended.one_place and hasattr(config, "auto_scale_poses"):
            config.auto_scale_poses = False
        elif mended.one_place:  # no scale is made of the cameras there
            mended = mended._replace(notes=[note for note in mended.notes if "one place" not in note])
        for note in mended.notes:
            self.tell(note)

    def _complete(self, path: Path, meta: dict[str, Any]) -> None:
        """What nerfstudio's own dataparser asks for, and other programs leave out."""
        models = {frame["camera_model"] for frame in meta["frames"] if frame.get("camera_model")}
        if len(models) == 1:
            meta.setdefault("camera_model", next(iter(models)))
        names = [str(frame["file_path"]) for frame in meta["frames"]]
        lists = {split: meta[f"{split}_filenames"] for split in _SPLITS if f"{split}_filenames" in meta}
        if lists and len(lists) < len(_SPLITS):
            for split in _SPLITS:
                meta.setdefault(f"{split}_filenames", missing_list(lists, split, names))
        elif len(names) == 1 and not lists:
            meta.update({f"{split}_filenames": names for split in _SPLITS})
        ply = meta.get("ply_file_path")
        if ply is not None and getattr(self.parser.config, "load_3D_points", False):
            if not (path.parent / str(ply)).is_file():
                self.tell(
                    f"{path}: ply_file_path names {ply}, which does not exist ({path.parent / str(ply)}). Correct it, or take it "
                    "out of the file to start from random points.",
                    error=PointError,
                )
                del meta["ply_file_path"]

    # COLMAP -----------------------------------------------------------------------------------------

    def _install_colmap(self) -> None:
        parser = self.parser
        parser.config.colmap_path = find_model(Path(parser.config.data), Path(parser.config.colmap_path))
        read, indices = parser._get_all_images_and_cameras, parser._get_image_indices
        scale = parser._setup_downscale_factor

        def read_model(folder: Path) -> dict[str, Any]:
            try:
                meta = read(folder)
            except ValueError as error:
                raise PoseError(f"{folder}: {error}") from error
            except (NotImplementedError, AssertionError) as error:
                raise PoseError(
                    f"{folder}: {error}. nerfstudio reads SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL, OPENCV, OPENCV_FISHEYE and "
                    "the simple fisheyes, one model for all photos. `colmap image_undistorter` makes PINHOLE of any."
                ) from error
            self._take(Path(folder), meta)
            return meta

        def choose(image_filenames: Sequence[Path], split: str) -> NDArray[np.int32]:
            data = Path(parser.config.data)
            lists = {
                key: (data / f"{name}_list.txt").read_text(encoding="utf-8").splitlines()
                for key, name in (("train", "train"), ("val", "validation"), ("val", "val"), ("test", "test"))
                if (data / f"{name}_list.txt").is_file()
            }
            root = data / parser.config.images_path
            if lists and not (data / f"{split}_list.txt").is_file():
                names = [path.relative_to(root).as_posix() for path in image_filenames]
                wanted = {name.strip() for name in missing_list(lists, split, names)}
                return np.array([i for i, name in enumerate(names) if name in wanted], dtype=np.int32)
            if not lists and len(image_filenames) == 1:
                return np.zeros(1, dtype=np.int32)
            return indices(image_filenames, split)

        def downscale(photos: list[Path], masks: list[Path], depths: list[Path]) -> Any:
            factor = parser._downscale_factor or parser.config.downscale_factor or _automatic(photos)
            folder = parser.config.data / parser.config.images_path
            if parser._downscale_factor is None and factor > 1:
                smaller = folder.parent / f"{folder.name}_{factor}"
                if not all((smaller / photo.relative_to(folder)).is_file() for photo in photos):
                    self._resize_on_loading(factor, smaller)
                    factor = 1
                parser._downscale_factor = factor
            return scale(photos, masks, depths)

        parser._get_all_images_and_cameras = read_model
        parser._get_image_indices = choose
        parser._setup_downscale_factor = downscale

    def _fall_back_to_full_size(self) -> None:
        """A wanted factor without smaller photos on disk: photos are resized as they are loaded."""
        config = self.parser.config
        factor, data = config.downscale_factor, Path(config.data)
        folder = (data.parent if data.suffix == ".json" else data) / f"images_{factor}"
        if (
            factor is not None
            and factor > 1
            and hasattr(self.parser, "downscale_factor")
            and not folder.is_dir()
        ):
            self._resize_on_loading(factor, folder)
            self.parser.downscale_factor = 1

    def _resize_on_loading(self, factor: int, folder: Path) -> None:
        self.photo_scale = 1.0 / factor
        made = "has not all of the photos" if folder.is_dir() else "does not exist"
        text = (
            f"Photos are loaded at 1/{factor} of their size: {folder} {made}, so each is resized when it is loaded, and nothing is "
            "written. For their full size: --downscale-factor 1."
        )
        if text not in self._told:
            self._told.add(text)
            say(text)

    # Points -----------------------------------------------------------------------------------------

    def _moved_points(self, points: dict[int, Any]) -> dict[int, Any]:
        """COLMAP's points, moved with the cameras."""
        if not points:
            raise _NoPoints
        if not self.moved_by.any():
            return points
        moved = self.moved_by
        if getattr(self.parser.config, "assume_colmap_world_coordinate_convention", False):
            moved = np.array(
                [moved[0], -moved[2], moved[1]]
            )  # nerfstudio's (x, z, -y) of the poses taken back
        return {key: point._replace(xyz=point.xyz - moved) for key, point in points.items()}

    def _moved_in_original(self) -> NDArray[np.float64]:
        """`moved_by` in the axes of the points of a COLMAP model, which the poses may have been turned from."""
        applied = np.asarray(self._meta.get("applied_transform", np.eye(3)), np.float64)[:3, :3]
        return np.linalg.solve(applied, self.moved_by)

    def _points(self, load: Callable[..., Any], path: Path, *rest: Any) -> dict[str, Any]:
        """The points of a file or of a COLMAP model; nothing if there are none."""
        if not path.exists():
            self.tell(f"There is no file {path}, which is to hold the sparse points.", error=PointError)
            return {}
        try:
            if path.is_file():
                open3d: Any = importlib.import_module("open3d")
                read = open3d.io.read_point_cloud
                open3d.io.read_point_cloud = lambda *args, **kwargs: self._read_cloud(read, *args, **kwargs)
                try:
                    found = load(path, *rest)
                finally:
                    open3d.io.read_point_cloud = read
            else:
                found = load(path, *rest)
        except _NoPoints:
            found = None
        except ValueError as error:
            if "points3D" not in str(error):
                raise
            self.tell(
                f"{error}. Copy them there, or start from random points: --load-3D-points False.",
                error=PointError,
            )
            return {}
        if not found or not len(found["points3D_xyz"]):
            self.tell(f"{path} holds no sparse points that can be read: training starts from random points.")
            return {}
        return found

    def _read_cloud(self, read: Callable[..., Any], path: str, *args: Any, **kwargs: Any) -> Any:
        """open3d's reader, which leaves the rest of the points as they were in memory where it stumbles."""
        fault = cut_short(Path(path))
        if fault is not None:
            self.tell(
                f"{fault} Write the file again, or start from random points: --load-3D-points False.",
                error=PointError,
            )
            return importlib.import_module("open3d").geometry.PointCloud()
        content = Path(path).read_bytes() if _is_ascii(Path(path)) else b""
        if re.search(rb"\binf", content, re.IGNORECASE):  # it reads NaN, which are left out later
            with tempfile.TemporaryDirectory() as folder:
                path = str(Path(folder) / "points.ply")
                Path(path).write_bytes(re.sub(rb"[-+]?\binf(inity)?\b", b"nan", content, flags=re.IGNORECASE))
                cloud = read(path, *args, **kwargs)
        else:
            cloud = read(path, *args, **kwargs)
        return cloud.translate(-self.moved_by) if self.moved_by.any() and len(cloud.points) else cloud

    def _finish(self, outputs: DataparserOutputs) -> None:
        """What holds for the result of every dataparser."""
        try:
            check_models(outputs.cameras)
        except PoseError as error:
            self.tell(f"{self.source}: {error}", error=PoseError)
        metadata = outputs.metadata
        if self.moved_by.any():
            moved = self._moved_in_original()
            metadata["moved_by"] = moved.tolist()
            matrix = outputs.dataparser_transform.double().clone()
            matrix[:, 3] -= matrix[:, :3] @ torch.from_numpy(moved)
            outputs.dataparser_transform = matrix
            outputs.__class__ = MovedOutputs
        self._points_of_an_old_set(outputs)
        points = metadata.get("points3D_xyz")
        if points is None:
            return
        good = torch.isfinite(points).all(dim=1)
        count, bad = len(points), int((~good).sum())
        if bad:
            self.tell(
                f"{bad} of {count} sparse points of {self.source.parent} are not finite numbers; left out."
            )
            for key in [key for key in metadata if key.startswith("points3D_")]:
                if len(metadata[key]) == count:  # there may be no colours
                    metadata[key] = metadata[key][good]
        if count - bad < FEWEST_POINTS:
            self.tell(
                f"There are only {count - bad} sparse points in {self.source.parent}: training starts from random points, as without any."
            )
            for key in [key for key in metadata if key.startswith("points3D_")]:
                del metadata[key]

    def _points_of_an_old_set(self, outputs: DataparserOutputs) -> None:
        """Sets of an older ns-process-data have no PLY: the points of the COLMAP model beside them, nothing written."""
        config, data = self.parser.config, Path(self.parser.config.data)
        if type(self.parser).__name__ != "Nerfstudio" or not config.load_3D_points:
            return
        if "points3D_xyz" in outputs.metadata or not (data / _DEFAULT_MODEL).is_dir() or self.moved_by.any():
            return
        from nerfstudio.data.utils import colmap_parsing_utils as colmap

        for name, read in (
            ("points3D.bin", colmap.read_points3D_binary),
            ("points3D.txt", colmap.read_points3D_text),
        ):
            path = data / _DEFAULT_MODEL / name
            if path.is_file() and (found := list(read(path).values())):
                xyz = np.stack([point.xyz for point in found])
                matrix = outputs.dataparser_transform.double().numpy()
                moved = outputs.dataparser_scale * (xyz @ matrix[:, :3].T + matrix[:, 3])
                outputs.metadata["points3D_xyz"] = torch.from_numpy(moved.astype(np.float32))
                outputs.metadata["points3D_rgb"] = torch.from_numpy(
                    np.stack([point.rgb for point in found]).astype(np.uint8)
                )
                return


class MovedOutputs(DataparserOutputs):
    """Of a scene that was moved: its transform is of double precision, from where the scene was."""

    def transform_poses_to_original_space(
        self, poses: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """As nerfstudio's, in double precision: float32 does not hold the places."""
        return super().transform_poses_to_original_space(poses.double(), *args, **kwargs)


class _NoPoints(Exception):
    """A COLMAP model without points."""


_PLY_SIZES = {
    "char": 1, "uchar": 1, "int8": 1, "uint8": 1, "short": 2, "ushort": 2, "int16": 2, "uint16": 2, "int": 4, "uint": 4,
    "int32": 4, "uint32": 4, "float": 4, "float32": 4, "double": 8, "float64": 8,
}  # fmt: skip


def _header(path: Path) -> tuple[list[list[str]], int] | None:
    """The lines of a PLY's header, in words, and where its data start; None if it is no PLY."""
    with open(path, "rb") as file:
        start = file.read(1 << 16)
    end = start.find(b"end_header")
    if not start.startswith(b"ply") or end < 0:
        return None
    data = start.find(b"\n", end) + 1
    return [line.split() for line in start[:end].decode("latin-1").splitlines()], data


def _is_ascii(path: Path) -> bool:
    found = _header(path)
    return found is not None and ["format", "ascii", "1.0"] in found[0]


def cut_short(path: Path) -> str | None:
    """Whether a PLY of points holds less than its header says, as a sentence for the user; None if it is whole, or no PLY."""
    found = _header(path) if path.suffix.lower() == ".ply" else None
    if found is None:
        return (
            None
            if path.suffix.lower() != ".ply"
            else f"{path} is no PLY: it does not begin with a PLY's header."
        )
    lines, start = found
    elements = [line for line in lines if line[:1] == ["element"]]
    if not elements or elements[0][1] != "vertex":
        return None
    count, width = int(elements[0][2]), 0
    first = lines.index(elements[0])
    for line in lines[first + 1 :]:
        if line[:1] == ["element"]:
            break
        if line[:1] == ["property"]:
            if line[1] not in _PLY_SIZES:
                return None  # a list: of no fixed size
            width += _PLY_SIZES[line[1]]
    if _is_ascii(path):
        there = sum(1 for row in path.read_bytes()[start:].splitlines() if row.strip())
    else:
        there = (path.stat().st_size - start) // max(width, 1)
    if there < count:
        return f"{path} is cut off: its header announces {count} points, there are {there}."
    return None


def find_model(data: Path, given: Path = _DEFAULT_MODEL) -> Path:
    """Where the COLMAP model of a data folder lies, relative to it.

    Args:
        data: the data folder.
        given: where it is looked for first; nerfstudio's own default stands for no wish.

    Raises:
        PoseError: there is none, or not where the user said.
    """
    if not data.is_dir():
        raise PoseError(f"--data {data}: no such folder.")
    if _is_model(data / given):
        return given
    found = [Path(place) for place in MODELS if _is_model(data / place)]
    if given != _DEFAULT_MODEL or not found:
        have = (
            f" There is one in {', '.join(str(place) for place in found)}: --colmap-path {found[0]}."
            if found
            else ""
        )
        looked = "" if given != _DEFAULT_MODEL else f" Looked in {', '.join(MODELS)}."
        raise PoseError(
            f"{data / given} holds no COLMAP model: expected cameras and images, both .bin or both .txt.{have}{looked}"
        )
    return found[0]


def _is_model(folder: Path) -> bool:
    return any(
        (folder / f"cameras{end}").is_file() and (folder / f"images{end}").is_file()
        for end in (".bin", ".txt")
    )


def missing_list(lists: dict[str, list[str]], split: str, names: Sequence[str]) -> list[str]:
    """The photos of a split that has no list, while others have: an evaluation split is the other one, or what is not trained on.

    Args:
        lists: the lists there are, by split.
        split: train, val or test.
        names: all photos.
    """
    other = {"val": "test", "test": "val"}.get(split)
    if other in lists:
        return lists[other]
    taken = {name.strip() for key, listed in lists.items() if key != split for name in listed}
    return [name for name in names if name not in taken]


def _automatic(photos: Sequence[Path]) -> int:
    """The factor by which nerfstudio makes photos smaller of itself."""
    from PIL import Image

    with Image.open(photos[0]) as image:
        longest, factor = max(image.size), 1
    while longest / factor > LARGEST_SIDE:
        factor *= 2
    return factor
