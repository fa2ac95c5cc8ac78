import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
ONNX = ['onnx', 'onnxruntime', 'onnxscript']
VERSION = re.search(r"__version__ = '([^']+)'", (ROOT / 'hcflow_arch' / '__init__.py').read_text()).group(1)

setup(
    name='hcflow',
    version=VERSION,
    description='HCFlow for BasicSR: super-resolution and rescaling with one hierarchical conditional flow',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=[*find_packages(include=['hcflow_arch*', 'hcflow_model*']), 'hcflow_model.recipes',
              'hcflow_model.pictures'],
    package_dir={'hcflow_model.recipes': 'options', 'hcflow_model.pictures': 'tests/data/val_gt'},
    package_data={'hcflow_model.recipes': ['*.yml'], 'hcflow_model.pictures': ['*.png'],
                  'hcflow_model': ['weights_data/*']},
    python_requires='>=3.10',
    install_requires=[
        'basicsr==1.4.2; python_version < "3.13"',
        'my-basicsr==1.4.2; python_version >= "3.13"',  # the same code as a wheel, where BasicSR's cannot be built
        'torch>=2.6',  # from 2.6 on torch.load refuses pickled code by default, in BasicSR's own loaders too
        'opencv-python>=4.13',  # from 4.13 on it hands on EXIF and colour profiles
        'filelock',
        'lmdb',
        'lpips',
        'pyyaml',
        'safetensors',  # the form of the networks in hcflow_model/weights_data
        'numpy', 'pillow', 'torchvision', 'tqdm',  # imported directly; BasicSR needs them anyway
        'setuptools',  # BasicSR imports distutils, which Python 3.12 keeps only here
    ],
    extras_require={
        'onnx': ONNX,
        'page': ['gradio>=6.31'],
        'spandrel': ['spandrel'],
        'test': [*ONNX, 'pytest', 'pytest-xdist', 'ruff', 'spandrel'],
    },
    entry_points={
        'console_scripts': ['basicsr = hcflow_model.cli:main', 'hcflow = hcflow_model.commands:main'],
        'basicsr.plugins': ['hcflow = hcflow_model'],
    },
)
