"""Temperature maps: a grey image says where samples are calm and where they are lively."""
import numpy as np

from hcflow_arch import InputError
from hcflow_model.images.arrays import check_array, planes


def temperature_map(name: str, image: np.ndarray, size: tuple[int, int], scale: int) -> np.ndarray:
    """The temperature of each pixel of an LR image.

    Args:
        name: How messages call the map.
        image: Grey, of the size of the LR image, or `scale` times it, which is averaged; less than `scale` pixels may
            be missing at the end. uint8 and uint16: black is 0, white is 1; floats are the temperatures themselves.
            Equal colours count as grey; alpha is left out.
        size: (h, w) of the LR image.
        scale: Of the network.

    Returns:
        (h, w), float32.

    Raises:
        InputError: Colours, another size, or temperatures that are not allowed.
    """
    array = check_array(name, image)
    colours = array[..., planes(array)[0].channels]
    height, width = size
    missing = [scale * length - of for length, of in zip(size, array.shape[:2], strict=True)]
    if array.shape[:2] == (height, width):
        missing = [0, 0]
    elif not all(0 <= length < scale for length in missing):
        raise InputError(f'{name} is {array.shape[0]}x{array.shape[1]}; for this image it must be {height}x{width}, or '
                         f'{scale} times that.')
    values = colours / (np.iinfo(array.dtype).max if array.dtype.kind == 'u' else 1)
    if not ((values >= 0) & (values < 100)).all():
        raise InputError(f'{name} has values from {values.min():g} to {values.max():g}; they must be numbers from 0 '
                         '(no noise); usual values are 0 to 1.')
    if not (values == values[..., :1]).all():
        raise InputError(f'{name} has colours; a map of temperatures is grey: black is 0, white is 1.')
    values = np.pad(values[..., 0], [(0, length) for length in missing], 'edge')
    blocks = values.reshape(height, values.shape[0] // height, width, values.shape[1] // width)
    return blocks.mean((1, 3), np.float64).astype(np.float32)  # exact where all are equal
