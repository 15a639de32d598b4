"""Denoising U-Nets and their preconditioning, with the option and parameter names of the official networks."""

from sida.networks.build import build_network
from sida.networks.dhariwal_unet import DhariwalUNet
from sida.networks.precond import EDMPrecond, VEPrecond, VPPrecond
from sida.networks.song_unet import SongUNet

__all__ = ["DhariwalUNet", "EDMPrecond", "SongUNet", "VEPrecond", "VPPrecond", "build_network"]
