"""What is asked of a preparation, which files follow from it, and their record beside the data."""
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from hcflow_arch import InputError
from hcflow_arch.hcflow_arch import SCALES
from hcflow_model.utils.files import open_regular, whole_file

SETTINGS_FILE = 'prepare.json'
FINISHED_FILE = 'finished.jsonl'  # a line per finished image; a line that a kill left half is not one
MAX_SIDE = 2**20  # pixels: OpenCV reads no larger images


@dataclass(frozen=True)
class Settings:
    """What decides what the files hold.

    Args:
        scale: 2, 4, 8 or 16: HR sizes are cropped to multiples of it.
        crop: Side of the HR sub-images, a multiple of the scale. Default: None, whole images.
        step: Distance of their starts, a multiple of the scale. Default: half of crop.
        thresh: A last sub-image is added at the border where more pixels than this are left. Default: 0.
        hr_only: No LR images (rescaling). Default: False.
        val: Number of images that are kept for validation, whole. Default: 0.
        val_images: Their names. Default: none yet.

    Raises:
        InputError: A value out of what is allowed.
    """
    scale: int
    crop: int | None = None
    step: int | None = None
    thresh: int = 0
    hr_only: bool = False
    val: int = 0
    val_images: tuple[str, ...] = ()

    def __post_init__(self):
        if self.scale not in SCALES:
            raise InputError(f'--scale is {self.scale}; allowed are {", ".join(map(str, SCALES))}.')
        if self.crop is None and (self.step is not None or self.thresh):
            raise InputError('--step and --thresh go with sub-images; give --crop too.')
        if self.crop is not None and self.step is None:
            object.__setattr__(self, 'step', max(self.crop // 2 // self.scale, 1) * self.scale)
        for name in ('crop', 'step'):
            value = getattr(self, name)
            if value is not None and (value < 1 or value % self.scale):
                raise InputError(f'--{name} is {value}; it must be a multiple of the scale {self.scale}, such as '
                                 f'{max(round(value / self.scale), 1) * self.scale}.')
        for name in ('thresh', 'val'):
            if getattr(self, name) < 0:
                raise InputError(f'--{name} is {getattr(self, name)}; it must be 0 or more.')

    def folders(self, part: str) -> tuple[str, ...]:
        """Names of the folders of a part, 'train' or 'val': HR and, where there is one, LR."""
        sub = '_sub' if part == 'train' and self.crop else ''
        return tuple(f'{part}_{kind}{sub}' for kind in ('HR', f'LR_bicubic_X{self.scale}')[:1 if self.hr_only else 2])

    def part_of(self, name: str) -> str:
        """'train' or 'val'."""
        return 'val' if name in self.val_images else 'train'

    def windows(self, name: str, height: int, width: int) -> list[tuple[str, int, int, int, int]]:
        """(file name without ending, top, left, height, width) of the HR outputs of a modcropped image.

        Sub-images are numbered row by row from 001, as BasicSR's extract_subimages does.
        """
        if self.part_of(name) == 'val' or self.crop is None:
            return [(name, 0, 0, height, width)]
        places = [(top, left) for top in self._starts(height) for left in self._starts(width)]
        return [(f'{name}_s{index:03d}', *place, self.crop, self.crop) for index, place in enumerate(places, 1)]

    def _starts(self, size):
        starts = list(range(0, size - self.crop + 1, self.step))
        if size - self.crop - starts[-1] > self.thresh:
            starts.append(size - self.crop)
        return starts

    def sizes(self, name: str, height: int, width: int) -> dict[str, dict[str, tuple[int, int]]]:
        """{folder: {file name without ending: (height, width)}} of what an image gives."""
        windows = self.windows(name, height, width)
        return {folder: {stem: (h // factor, w // factor) for stem, _, _, h, w in windows}
                for folder, factor in zip(self.folders(self.part_of(name)), (1, self.scale), strict=False)}


def read_settings(out: Path) -> Settings | None:
    """The settings of what is in a folder; None where there is nothing.

    Raises:
        InputError: The folder holds something else.
    """
    file = out / SETTINGS_FILE
    try:
        if os.path.isfile(file):
            content = json.loads(file.read_text(encoding='utf-8'))
            return Settings(**{**content, 'val_images': tuple(content['val_images'])})
        foreign = os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f'{file} cannot be read: {error}. Give another output folder, or remove {out}.') from error
    if foreign:
        raise InputError(f'-o {out} holds something that hcflow prepare did not make; give a new or empty folder.')
    return None


def write_settings(out: Path, settings: Settings) -> None:
    """Store the settings beside the data."""
    write_whole(out / SETTINGS_FILE, json.dumps(asdict(settings), indent=1).encode())


def read_finished(out: Path) -> dict[str, dict]:
    """{image: {name, stamp, size}} of the images that were finished; the last line of an image counts."""
    finished = {}
    try:
        with open_regular(out / FINISHED_FILE) as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return finished
    except OSError as error:
        raise InputError(f'{out / FINISHED_FILE} cannot be read: {error.strerror}. Make it readable, give another '
                         'output folder, or --overwrite.') from error
    for line in lines:
        try:
            record = json.loads(line)
            height, width = record['size']
            if all(type(side) is int and 0 < side < MAX_SIDE for side in (height, width)):
                finished[record['name']] = {'name': record['name'], 'stamp': record['stamp'], 'size': [height, width]}
        except (ValueError, TypeError, KeyError, RecursionError):  # half a line: that image is done again
            continue
    return finished


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its final name, then rename: whatever stands under a final name is whole.

    Raises:
        InputError: It cannot be written, such as for want of space.
    """
    try:
        with whole_file(path, sync=False) as file:  # of thousands: after a power cut the images are looked at again
            file.write(content)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path | str, error: Exception) -> InputError:
    """The error for every failure to write."""
    return InputError(f'Cannot write {path}: {getattr(error, "strerror", None) or error}. Free some space or make the '
                      'folder writable, then run the same command again: it goes on from there.')
