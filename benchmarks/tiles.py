"""How near tiles are to the whole image, by their margin: python -m benchmarks.tiles --weights W [--image LR.png]."""
import argparse
from pathlib import Path

import cv2
import numpy as np

from hcflow_model import HCFlowUpscaler
from hcflow_model.images.files import read_image, write_image

IMAGE = Path(__file__).parents[1] / 'tests' / 'data' / 'val_lq_x4' / 'cat.png'


def main() -> None:
    """Print PSNR and largest difference to the whole image for some margins; draw the differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--weights', required=True, help='checkpoint or folder of an experiment')
    parser.add_argument('--image', default=IMAGE, help='LR image (default: a bundled one)')
    parser.add_argument('--tile', type=int, default=16, help='side of the tiles in LR pixels')
    parser.add_argument('--temperature', type=float, default=0.8)
    parser.add_argument('--overlaps', type=int, nargs='+', default=[0, 2, 4, 8, 16, 32])
    parser.add_argument('--picture', help='PNG to draw to: the whole image, then differences times 20 by margin')
    args = parser.parse_args()
    image = read_image(args.image).astype(np.float32) / 255
    net = HCFlowUpscaler(args.weights).net
    whole = HCFlowUpscaler(net, tile=max(image.shape) + 16)(image, args.temperature)
    print(f'image: {image.shape[0]}x{image.shape[1]}')
    pictures = [whole]
    for overlap in args.overlaps:
        tiled = HCFlowUpscaler(net, tile=args.tile, overlap=overlap)(image, args.temperature)
        difference = np.abs(tiled.astype(np.float64) - whole)
        error = (difference**2).mean()
        print(f'margin {overlap:3}: {"equal" if error == 0 else f"{-10 * np.log10(error):.1f} dB"}, largest difference '
              f'{255 * difference.max():.4f} of 255')
        pictures.append(np.minimum(1, 20 * difference).astype(np.float32))
    if args.picture:
        write_image(args.picture, cv2.hconcat(pictures))


if __name__ == '__main__':
    main()
