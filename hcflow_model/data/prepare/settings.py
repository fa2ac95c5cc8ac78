"""What is asked of a preparation, which files follow from it, and their record beside the data."""
import json
import os
from collections.abc import Collection
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
        val_images: Their names. Default: none yet; `val` of them are chosen.
        resize: Factors of the size, above 0 and up to 1, at which training images are taken. Default: (1,).
        min_detail: Sub-images with less detail (see :func:`lost_by_bicubic`), in grey levels, are not written: one
            value, or one for each factor. Default: (0,), all are.
        val_resize: Factor of the size of the images for validation. Default: 1.

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
    resize: tuple[float, ...] = (1,)
    min_detail: tuple[float, ...] = (0,)
    val_resize: float = 1

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
        self._check_resize()

    def _check_resize(self):
        for name in ('val_images', 'resize', 'min_detail'):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists in a file
        object.__setattr__(self, 'val', self.val or len(self.val_images))
        for name, factors in (('resize', self.resize), ('val_resize', (self.val_resize,))):
            for factor in factors:
                if not 0 < factor <= 1:
                    raise InputError(f'--{name} has {factor:g}; factors must be above 0 and up to 1, such as 0.5.')
        if len({f'{factor:g}' for factor in self.resize}) < len(self.resize):
            raise InputError(f'--resize is {as_text(self.resize)}; give each factor once.')
        if self.val_resize != 1 and not self.val:
            raise InputError('--val_resize goes with images for validation; give --val or --val_names too.')
        if len(self.min_detail) not in (1, len(self.resize)):
            raise InputError(f'--min_detail has {len(self.min_detail)} values; give one, or one for each of the '
                             f'{len(self.resize)} factors of --resize.')
        if len(self.min_detail) < len(self.resize):
            object.__setattr__(self, 'min_detail', self.min_detail * len(self.resize))
        if not all(0 <= value <= 255 for value in self.min_detail):
            raise InputError(f'--min_detail is {as_text(self.min_detail)}; allowed are 0 to 255 grey levels.')
        if any(self.min_detail) and self.crop is None:
            raise InputError('--min_detail goes with sub-images; give --crop too.')

    def folders(self, part: str) -> tuple[str, ...]:
        """Names of the folders of a part, 'train' or 'val': HR and, where there is one, LR."""
        sub = '_sub' if part == 'train' and self.crop else ''
        return tuple(f'{part}_{kind}{sub}' for kind in ('HR', f'LR_bicubic_X{self.scale}')[:1 if self.hr_only else 2])

    def part_of(self, name: str) -> str:
        """'train' or 'val'."""
        return 'val' if name in self.val_images else 'train'

    def factors(self, name: str) -> list[tuple[float, float]]:
        """(factor of its size, least detail of a sub-image) of all that is made of an image."""
        if self.part_of(name) == 'val':
            return [(self.val_resize, 0)]
        return list(zip(self.resize, self.min_detail, strict=True))

    def windows(self, name: str, height: int, width: int, factor: float = 1) -> list[tuple[str, int, int, int, int]]:
        """(file name without ending, top, left, height, width) of the HR outputs of a modcropped image at a factor of
        its size; none where it is too small then.

        Sub-images are numbered row by row from 001, as BasicSR's extract_subimages does.
        """
        crop = None if self.part_of(name) == 'val' else self.crop
        height, width = (side_at_factor(side, factor) // self.scale * self.scale for side in (height, width))
        if min(height, width) < (crop or self.scale):
            return []
        if self.part_of(name) == 'train' and self.resize != (1,):  # 1 too: told apart from an image of such a name
            name = f'{name}_x{factor:g}'.replace('.', 'p')
        if crop is None:
            return [(name, 0, 0, height, width)]
        places = [(top, left) for top in self._starts(height) for left in self._starts(width)]
        return [(f'{name}_s{index:03d}', *place, crop, crop) for index, place in enumerate(places, 1)]

    def _starts(self, size):
        starts = list(range(0, size - self.crop + 1, self.step))
        if size - self.crop - starts[-1] > self.thresh:
            starts.append(size - self.crop)
        return starts

    def sizes(self, name: str, height: int, width: int,
              dropped: Collection[int] = ()) -> dict[str, dict[str, tuple[int, int]]]:
        """{folder: {file name without ending: (height, width)}} of what an image gives, less the windows of all
        factors whose numbers, from 0, are in `dropped`."""
        windows = [window for factor, _ in self.factors(name) for window in self.windows(name, height, width, factor)]
        dropped = {*dropped}
        windows = [window for number, window in enumerate(windows) if number not in dropped]
        return {folder: {stem: (h // factor, w // factor) for stem, _, _, h, w in windows}
                for folder, factor in zip(self.folders(self.part_of(name)), (1, self.scale), strict=False)}


def side_at_factor(side: int, factor: float) -> int:
    """A side in pixels at a factor of the size."""
    return round(side * factor)


def as_text(value: object) -> str:
    """A setting as it is given in the command."""
    if isinstance(value, tuple):
        return ' '.join(map(as_text, value)) or 'none'
    return f'{value:g}' if isinstance(value, float) else str(value)


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
    """{image: {name, stamp, size, dropped}} of the images that were finished; the last line of an image counts.

    Earlier versions dropped no sub-images and wrote no `dropped`.
    """
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
            dropped = [*record.get('dropped', ())]
            if all(type(side) is int and 0 < side < MAX_SIDE for side in (height, width)) and \
                    all(type(number) is int for number in dropped):
                finished[record['name']] = {'name': record['name'], 'stamp': record['stamp'], 'size': [height, width],
                                            'dropped': dropped}
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
