"""Which program reads the frames of a data set, and its version."""

from __future__ import annotations

from mml_lightning.data.records.records import Dataset, rows
from mml_lightning.data.video.decode import decoder_version


def frames_reader(dataset: Dataset, decoder: str) -> dict[str, str]:
    """Name and version of what reads the videos of `dataset`: OpenCV where all are images, else `decoder`."""
    media = (one for records in dataset.splits.values() for row in rows(records) for one in row.media.values())
    first = next(media, "")
    if not isinstance(first, str) and not any(isinstance(other, str) for other in media):
        return {"name": "opencv", "version": opencv_version()}
    return {"name": decoder, "version": decoder_version(decoder)}


def opencv_version() -> str:
    """Of the library that reads and writes images."""
    import cv2

    return cv2.__version__
