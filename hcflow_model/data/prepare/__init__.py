"""Training data from a folder of images: modcropped HR, bicubic LR, sub-images, LMDBs (`hcflow prepare`)."""
from .preparation import Prepared, prepare
from .settings import Settings

__all__ = ['Prepared', 'Settings', 'prepare']
