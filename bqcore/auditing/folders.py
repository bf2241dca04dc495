"""Folders of images by class as batches. No file of them can run code."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from .._checks import line_of, needed

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
# Pillow goes by content, not by name: a .png that holds PostScript would be handed to Ghostscript, which runs it.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
# Folders that programs and file systems leave; hidden ones begin with a dot.
_NO_CLASS = ("__pycache__", "__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information")
_AT_ONCE = 256  # images


def class_folders(folder: Path) -> tuple[list[str], list[str]]:
    """Return the folders of a folder that hold images of a class, and those that hold no class, by their names."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    held = [name for name in names if not _is_no_class(name) and _images(folder / name)]
    return held, [name for name in names if name not in held]


def _images(folder: Path) -> list[Path]:
    """Return the images below a folder, in order, without what programs and file systems leave there."""
    found = (file for file in sorted(folder.rglob("*")) if file.suffix.lower() in IMAGES and file.is_file())
    return [file for file in found if not any(map(_is_no_class, file.relative_to(folder).parts))]


def _is_no_class(name: str) -> bool:
    return name.startswith(".") or name.lower() in _NO_CLASS


def image_batches(folder: Path, names: list[str] | None = None, *, size=None, mean=None, std=None) -> Callable:
    """
    Return a function that goes through a folder of images: float32 (N, channels, height, width), scaled to [0, 1].

    One channel if every image is gray, else three. Its attribute ``ids`` has the names of the files, and ``note``, if
    there is one, says what in the folder was left out. *names* are the classes in the order of their numbers.
    """
    pillow = needed("PIL.Image", "A folder of images")
    held, left = class_folders(folder)
    number = {name: label for label, name in enumerate(names or held)}
    places = [(folder / name, number[name]) for name in held] or [(folder, None)]
    files = [(file, label) for place, label in places for file in _images(place)]
    if not files:
        raise ValueError(f"{folder} holds no images ({', '.join(IMAGES)}): put them into one folder for each class.")

    def of(file: Path, use: Callable):
        """Return what *use* makes of an image, or name the file."""
        try:
            with pillow.open(file, formats=_FORMATS) as image:
                if image.mode[0] in "IF":  # converted, all above 255 would be 255
                    raise ValueError(f"its values have over 8 bits (mode {image.mode}): save 8-bit images or an .npz")
                return use(image)
        except Exception as error:  # whatever a damaged file makes of a decoder
            raise ValueError(f"{file} is no image that can be read: {line_of(error)}.") from None

    def prepared(image) -> np.ndarray:
        image = image.convert(mode)
        if size is not None:
            image = image.resize(size[::-1], pillow.Resampling.BILINEAR)
        pixels = np.moveaxis(np.atleast_3d(np.asarray(image, dtype=np.float32) / 255), -1, 0)
        for values, apply in ((mean, np.subtract), (std, np.divide)):
            if values is not None:
                pixels = apply(pixels, np.asarray(values, dtype=np.float32)[:, None, None])
        return pixels

    gray = all(of(file, lambda image: image.mode in ("L", "1")) for file, _ in files)  # by its header
    mode, channels = ("L", 1) if gray else ("RGB", 3)
    for name, values in (("Mean", mean), ("Deviation", std)):
        if values is not None and len(values) not in (1, channels):
            numbers = f"{len(values)} numbers and the images {channels} channels"
            raise ValueError(f"{name} has {numbers}: give one a channel.")

    def batches():
        shape = None
        for start in range(0, len(files), _AT_ONCE):
            part = files[start : start + _AT_ONCE]
            images = [of(file, prepared) for file, _ in part]
            shape = shape or images[0].shape
            for image, (file, _) in zip(images, part):
                if image.shape != shape:
                    raise ValueError(
                        f"{file} is {image.shape[1]} × {image.shape[2]} and {files[0][0].name} {shape[1]} × "
                        f"{shape[2]}: give a size that all are brought to (--size)."
                    )
            labels = [label for _, label in part]
            yield np.stack(images) if labels[0] is None else (np.stack(images), np.array(labels))

    vars(batches)["ids"] = [_shown(file.relative_to(folder).as_posix()) for file, _ in files]
    classes, beside = ", ".join(map(_shown, held)), sum(path.parent == folder for path in _images(folder))
    if held and left:
        says = f"has folders that hold no class and are left out: {', '.join(map(_shown, left))}"
        vars(batches)["note"] = f"{_shown(str(folder))} {says}. {len(held)} classes: {classes}."
    elif held and beside:
        says = f"has {beside} images beside the folders of its {len(held)} classes ({classes}), which are left out"
        vars(batches)["note"] = f"{_shown(str(folder))} {says}."
    return batches


def _shown(name: str) -> str:
    """Return the name of a file as text that every file can hold, where the terminal knows ASCII alone."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
