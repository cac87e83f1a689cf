"""Pictures of any size as images of one size: what folders of pictures and Hugging Face's data sets have in common."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Int64
from torch import Tensor

from macer.data.files import reason
from macer.data.pictures import SIZE, Pictures, centre_view, decode, open_picture, unchanged
from macer.data.streaming import StreamedImages
from macer.errors import DataError, needs

with needs("data"):
    from PIL import Image

SPLITS = {"train": ("train",), "test": ("test", "val", "validation", "valid")}
"""What people call the two splits."""
_GREY = ("1", "L", "LA")
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""The tag of EXIF that says how the camera was held, and its values for a picture that lies on its side ..."""
_HOLD_ORIENTATION = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
"""... and what Pillow calls the parts of a file that may hold it."""


def fit(
    name: str, split: str, parts: Mapping[str, Pictures], class_names: Sequence[str], image_size: int | None
) -> StreamedImages:
    """Return one split of a data set of pictures, all in one size and mode, upright and without augmentation.

    The images are grey if all pictures of all splits are grey, else RGB. If `image_size` is given, the shorter side of
    each picture is scaled to it, and the central square is kept. Otherwise, if all pictures of all splits have one
    size, they are used as they are, and if not, the centre of each is scaled to 224 x 224 pixels (`centre_view`).

    Args:
        name: the data set's name.
        split: "train" or "test", a key of `parts`.
        parts: the pictures by split.
        class_names: the classes, in the order of their labels.
        image_size: height and width of the images; None: as above.

    Raises:
        DataError: a picture cannot be read, or a label is not a class.
    """
    exact, mode = _survey(parts.values(), any_size=image_size is not None)
    if exact is not None:
        view, (width, height) = unchanged, exact
    else:
        view = partial(centre_view, size=image_size or SIZE, shorter=image_size)
        width = height = image_size or SIZE
    images = StreamedImages(
        name,
        split,
        parts[split],
        (height, width),
        tuple(class_names),
        view=view,
        decode=partial(decode, mode=mode, size=exact, upright=True),
        channels=1 if mode == "L" else 3,
    )
    if exact is None and image_size is None:
        images.fitted = f"the pictures are of several sizes, and the centre of each is scaled to {SIZE} x {SIZE}"
    return images


def _survey(parts: Iterable[Pictures], *, any_size: bool) -> tuple[tuple[int, int] | None, str]:
    """Return the (width, height) of all pictures, or None if they differ, and "L" if all are grey, else "RGB".

    With `any_size`, sizes do not matter and the first is None. Only the start of each picture is read, and only of as
    many as it takes.
    """
    sizes: set[tuple[int, int]] = set()
    mode = "L"
    for part in parts:
        for index in range(len(part.labels)):
            stream, source = part.open(index)
            with stream:
                picture = open_picture(stream, source)
                sizes.add(_upright_size(picture, source))
            mode = mode if picture.mode in _GREY else "RGB"
            if mode == "RGB" and (any_size or len(sizes) > 1):
                return None, mode
    return (sizes.pop() if len(sizes) == 1 and not any_size else None), mode


def _upright_size(picture: Image.Image, source: str) -> tuple[int, int]:
    """Return (width, height) of a picture after turning it as EXIF says; TIFF's sizes already are so."""
    if not picture.info.keys() & _HOLD_ORIENTATION:  # looking for it in a PNG would decode it
        return picture.size
    try:
        sideways = picture.getexif().get(_ORIENTATION) in _SIDEWAYS
    except Exception as error:  # damaged EXIF fails in many ways
        raise DataError(f"{source}: cannot be decoded: {reason(error)}") from error
    return (picture.height, picture.width) if sideways else picture.size


class ChosenPictures(Pictures):
    """Some of the pictures of another set.

    Args:
        pictures: all of them.
        indices: which of them these are.
    """

    def __init__(self, pictures: Pictures, indices: Int64[Tensor, " chosen"]) -> None:
        self.pictures, self.indices = pictures, indices
        self.labels = pictures.labels[indices]

    def read(self, index: int) -> tuple[bytes, str]:
        return self.pictures.read(int(self.indices[index]))

    def file_name(self, index: int) -> str | None:
        return self.pictures.file_name(int(self.indices[index]))


def shared_out(name: str, pictures: Pictures, test_share: float) -> dict[str, Pictures]:
    """Return the training and the test split of pictures that have none.

    Of each class the test split gets `test_share` of the pictures, at least one, spread evenly over their order.

    Args:
        name: the data set's name.
        pictures: all of them.
        test_share: the fraction of the pictures to hold out for tests, in (0, 1).

    Raises:
        DataError: a class has too few pictures for that.
    """
    held_out = torch.zeros(len(pictures.labels), dtype=torch.bool)
    for label in pictures.labels.unique():
        (of_class,) = torch.where(pictures.labels == label)
        total, count = len(of_class), max(1, round(len(of_class) * test_share))
        if count >= total:
            raise DataError(
                f"{name}: {test_share:g} of the {total} pictures of class {int(label)} for tests leaves none to train"
            )
        held_out[of_class[(torch.arange(count) * total + total // 2) // count]] = True
    return {
        "train": ChosenPictures(pictures, torch.where(~held_out)[0]),
        "test": ChosenPictures(pictures, torch.where(held_out)[0]),
    }
