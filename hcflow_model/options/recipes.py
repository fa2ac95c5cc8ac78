"""Recipes: the option files that come with the package, as they are or for other data."""
import difflib
import re
from pathlib import Path

import yaml

from hcflow_arch.errors import InputError

# setup.py installs the folder `options` of a checkout as hcflow_model/recipes
FOLDERS = Path(__file__).parents[1] / 'recipes', Path(__file__).parents[2] / 'options'


def recipe_files() -> dict[str, Path]:
    """{name: file} of all recipes, sorted."""
    folder = next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[0])
    return {path.stem: path for path in sorted(folder.glob('*.yml'))}


def read_recipe(name: str) -> str:
    """The text of a recipe.

    Raises:
        InputError: There is none of this name.
    """
    files, name = recipe_files(), name.removesuffix('.yml')
    if name not in files:
        close = difflib.get_close_matches(name, files, 1)
        raise InputError(f"There is no recipe '{name}'{f' (did you mean {close[0]}?)' if close else ''}; hcflow recipe "
                         'lists them.')
    return files[name].read_text(encoding='utf-8')


def about(name: str) -> str:
    """What a recipe is for: the first sentence of its file."""
    comment = ' '.join(line.removeprefix('#').strip() for line in read_recipe(name).partition('\n\n')[0].splitlines())
    return re.split(r'(?<=[^.][.:]) |, but ', comment)[0].rstrip('.:')


def training_recipe(name: str, scale: int, hr_only: bool) -> dict:
    """The options of a recipe that trains, held against the data that is to be prepared for it.

    Args:
        name: Of the recipe.
        scale: Of the data.
        hr_only: Whether the data has no LR images.

    Raises:
        InputError: There is none of this name, or it is for testing, another scale, or needs LR images.
    """
    opt = yaml.safe_load(read_recipe(name))
    if 'train' not in opt:
        raise InputError(f'Recipe {name} is for testing; hcflow recipe lists those for training (train_…).')
    if opt['scale'] != scale:
        raise InputError(f'Recipe {name} is for scale {opt["scale"]}, --scale is {scale}; give the same, or another '
                         'recipe (hcflow recipe lists them).')
    if hr_only and opt['network_g']['task'] == 'sr' and opt['datasets']['train']['type'] == 'PairedImageDataset':
        raise InputError(f'Recipe {name} is for super-resolution and needs LR images; leave out --hr_only.')
    return opt


def recipe_for_data(recipe: str, name: str, datasets: dict) -> str:
    """The text of a recipe with another name and other data; the rest and its comments stay.

    Args:
        recipe: Its name.
        name: What the run is called: its folder in `experiments/`.
        datasets: The block of this name.
    """
    before, _, after = read_recipe(recipe).partition('datasets:\n')
    after = re.search(r'^\S.*', after, re.MULTILINE | re.DOTALL)[0]  # from the next line that is not indented
    before = re.sub(r'^name: .*\n', lambda line: yaml.safe_dump({'name': name}, allow_unicode=True), before,
                    flags=re.MULTILINE)
    after = re.sub(r'(?<=  input_size: )\d+', str(datasets['train']['gt_size']), after)  # of the discriminator
    block = yaml.safe_dump({'datasets': datasets}, sort_keys=False, allow_unicode=True)
    return f'# Made by hcflow prepare from the recipe {recipe}.\n{before}{block}\n{after}'
