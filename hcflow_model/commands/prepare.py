"""`hcflow prepare`: training data from a folder of images."""
import argparse
import os
import sys
from pathlib import Path

from hcflow_arch import InputError

HELP = 'Prepare training data: HR and bicubic LR images, sub-images, LMDBs.'
EXAMPLES = """
hcflow prepare -i photos -o datasets/photos --scale 4 --crop 480 --step 240 --lmdb --val 10
hcflow prepare -i photos -o datasets/photos --crop 480 --lmdb --recipe train_HCFlow_x4_fast --options my_x4.yml
hcflow prepare -i photos -o datasets/photos_hr --scale 4 --crop 480 --hr_only
hcflow prepare -i photos -o datasets/photos --crop 128 --step 104 --resize 1 0.5 --min_detail 7 4 --val_names cat dog
hcflow prepare -i DF2K-tr.pklv4 -o datasets/DF2K --scale 4 --lmdb
"""
SHOWN = 20  # images that were left out, on the terminal; the file lists all
LEFT_OUT_FILE = 'left_out.txt'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument('-i', '--input', required=True, metavar='HR_DIR',
                        help='folder of HR images (subfolders too), or a .pklv4 file of SRFlow')
    parser.add_argument('-o', '--output', required=True, metavar='DIR', help='folder of the data set: datasets/NAME')
    parser.add_argument('-s', '--scale', type=int, default=4, help='2, 4, 8 or 16 (default: 4)')
    parser.add_argument('--crop', type=int, help='side of HR sub-images (default: whole images)')
    parser.add_argument('--step', type=int, help='distance of sub-images; overlapping if below --crop (default: half)')
    parser.add_argument('--thresh', type=int, default=0,
                        help='add a last sub-image at the border where more pixels than this are left (default: 0)')
    parser.add_argument('--resize', type=float, nargs='+', default=[1], metavar='FACTOR',
                        help='factors of the size at which training images are taken, such as 1 0.75 0.5 (default: 1)')
    parser.add_argument('--min_detail', type=float, nargs='+', default=[0], metavar='LEVELS',
                        help='do not write sub-images of which bicubic upscaling loses less than this, RMS in grey '
                             'levels: one value, or one for each factor of --resize (default: 0)')
    parser.add_argument('--hr_only', action='store_true', help='no LR images: for rescaling')
    val = parser.add_mutually_exclusive_group()
    val.add_argument('--val', type=int, default=0, metavar='N', help='keep N images, whole, for validation')
    val.add_argument('--val_names', nargs='+', default=[], metavar='NAME',
                     help='keep these images, whole, for validation')
    parser.add_argument('--val_resize', type=float, default=1, metavar='FACTOR',
                        help='factor of the size of the images for validation (default: 1)')
    parser.add_argument('--lmdb', action='store_true', help='also pack the training images into LMDBs')
    parser.add_argument('--recipe', metavar='NAME', help='with --options: the recipe to take; hcflow recipe lists them')
    parser.add_argument('--options', metavar='FILE',
                        help='write a whole option file: the recipe for this data, named as the file')
    parser.add_argument('--workers', type=int, metavar='N', help='processes (default: one per CPU core)')
    parser.add_argument('--overwrite', action='store_true', help='make everything again')


def run(args: argparse.Namespace) -> int:
    """Prepare, report to the error output, print the block for an option file or write one. 1 where images were left
    out."""
    source, out = Path(args.input), Path(args.output)
    _check_places(source, out)
    workers = _num_cores() if args.workers is None else args.workers
    if workers < 1:
        raise InputError(f'--workers is {workers}; it must be 1 or more.')

    import yaml

    from hcflow_model.data.prepare import Settings, prepare
    from hcflow_model.data.prepare.dataset_block import PAPER, dataset_block
    from hcflow_model.data.prepare.settings import write_whole
    from hcflow_model.data.prepare.sources import find_images
    from hcflow_model.images.files import silent_opencv
    from hcflow_model.options.recipes import recipe_for_data
    settings = Settings(args.scale, args.crop, args.step, args.thresh, args.hr_only, args.val, args.val_names,
                        args.resize, args.min_detail, args.val_resize)
    recipe = _recipe(args)
    with silent_opencv():  # a broken image is named once, in the report
        prepared = prepare(find_images(source), out, settings, args.lmdb, workers, args.overwrite)
    left_out = _report(prepared, out)
    write_whole(out / LEFT_OUT_FILE, left_out.encode('utf-8', 'surrogateescape'))
    block = dataset_block(out, prepared.settings, prepared.sizes, prepared.lmdb, recipe)
    gt_size, wanted = block['datasets']['train']['gt_size'], (recipe or PAPER)['gt_size']
    if gt_size < wanted:
        sys.stderr.write(f'gt_size is {gt_size}, not {wanted}: the smallest training image allows no more'
                         f'{"; --crop would leave out what is smaller" if args.crop is None else ""}\n')
    if recipe:
        file = Path(args.options)
        _write_new(file, recipe_for_data(args.recipe, file.stem, block['datasets']))
        sys.stderr.write(f'option file: {file} (basicsr train -opt {file})\n')
    else:
        sys.stderr.write('for the option file, in place of its datasets:\n')
        sys.stderr.flush()
        sys.stdout.write(yaml.safe_dump(block, sort_keys=False, allow_unicode=True))
    return 1 if prepared.left_out else 0


def _recipe(args):
    """`datasets.train` of --recipe, after looking at what can be known before the work. None: it was not given."""
    if args.options is None and args.recipe is None:
        return None
    if args.options is None or args.recipe is None:
        raise InputError('--recipe NAME and --options FILE go together: the recipe to take, and the file to write.')
    from hcflow_model.options.recipes import training_recipe
    from hcflow_model.options.rules import check_file_name
    check_file_name('--options', Path(args.options).stem)
    recipe = training_recipe(args.recipe, args.scale, args.hr_only)['datasets']['train']
    if recipe['type'] == 'RealESRGANDataset' and not args.lmdb:
        raise InputError(f'Recipe {args.recipe} reads images by RealESRGANDataset, which does not look into folders; '
                         'give --lmdb.')
    return recipe


def _write_new(file, text):
    """Never over a file that somebody may have changed since."""
    from hcflow_model.utils.files import open_regular, write_bytes
    try:
        with open_regular(file) as there:
            same = there.read() == text.encode()
    except FileNotFoundError:
        write_bytes(file, text.encode())
        return
    except OSError as error:
        raise InputError(f'--options {file} cannot be read: {error.strerror}.') from error
    if not same:
        raise InputError(f'--options {file} is there and holds something else, so it is left as it is; the data is '
                         'prepared. Give another name.')


def _num_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _check_places(source, out):
    """Neither may lie within the other: outputs would become inputs of the next run."""
    from hcflow_model.utils.files import real_path
    inner, outer = real_path(source), real_path(out)
    if inner == outer or inner in outer.parents or outer in inner.parents:
        raise InputError(f'-o {out} and -i {source} lie within each other; give an output folder of its own, such as '
                         'datasets/NAME.')


def _report(prepared, out):
    for folder, files in prepared.sizes.items():
        sys.stderr.write(f'{out / folder}: {len(files)} images\n')
    if any(prepared.settings.min_detail):
        sys.stderr.write(f'{prepared.dropped} sub-images with less detail than --min_detail were not written\n')
    sys.stderr.write(f'{prepared.done} images done, {prepared.skipped} were done before, '
                     f'{len(prepared.left_out)} left out{":" if prepared.left_out else ""}\n')
    lines = [f'{item} {reason}\n' for item, reason in sorted(prepared.left_out.items())]
    for line in lines[:SHOWN]:
        sys.stderr.write(f'  {line}')
    if len(lines) > SHOWN:
        sys.stderr.write(f'  ... all in {out / LEFT_OUT_FILE}\n')
    return ''.join(lines)
