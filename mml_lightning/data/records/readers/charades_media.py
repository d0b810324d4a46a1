"""Where the files of a Charades video lie: one video file, or a folder of numbered images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mml_lightning.data.records.readers.files import below, layout_of, numbered_images
from mml_lightning.data.video.media import Media
from mml_lightning.utils.errors import UserError

NUMBER = re.compile(r"\{number(:[^{}]*)?\}")


@dataclass(frozen=True)
class MediaFolder:
    """The files of one source.

    Args:
        folder: holds the files of all videos.
        file: path below it: "{id}.mp4" is a video, "{id}/{id}-{number:06d}.jpg" numbered images, and with {axis} the
            x and y images of flow.
        source: "frames" or "flow".
        fps: items per second of images; videos know theirs.

    Raises:
        UserError: the pattern names no video, or images come without a frame rate.
    """

    folder: Path
    file: str
    source: str = "frames"
    fps: float | None = None

    def __post_init__(self) -> None:
        if "{id}" not in self.file:
            raise UserError(f"file pattern {self.file!r} must hold {{id}}, such as '{{id}}.mp4'")
        if not self.images:
            if self.fps is not None:
                raise UserError(f"{self.file!r} is a video with its own frame rate: set fps to null")
            return
        if NUMBER.search(Path(self.file).parent.as_posix()):
            raise UserError(f"file pattern {self.file!r}: {{number}} must stand in the file's name, not in a folder's")
        if not self.fps or self.fps <= 0:
            raise UserError(f"images {self.file!r} need their frame rate: fps: 24 for the published ones")

    @property
    def images(self) -> bool:
        return NUMBER.search(self.file) is not None

    def locate(self, video: str) -> Media | str:
        """The files of `video`, or what is wrong with them. Images are counted: none may be missing in between."""
        path = below(self.folder, self.file.replace("{id}", video), f"video {video!r}")
        if not self.images:
            return path if path.is_file() else f"{path} is missing"
        template = NUMBER.sub(lambda match: f"{{{match[1] or ''}}}", path.name)
        assert self.fps is not None, "checked when made"
        try:
            images = numbered_images(path.parent, template, float(self.fps), layout_of(template, self.source))
        except UserError as error:
            return str(error)
        return images if images.count else f"{images.paths(0)[0]} is missing"
