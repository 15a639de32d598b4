"""Denoising U-Nets and their preconditioning, with the option and parameter names of the official networks."""

from sida.networks.build import architecture, build_network, family_of
from sida.networks.dhariwal_unet import DhariwalUNet
from sida.networks.edm2_precond import EDM2Precond, copied_weight_norm, official_weight_norm
from sida.networks.edm2_unet import EDM2UNet
from sida.networks.precond import EDMPrecond, GDDPrecond, Precond, VEPrecond, VPPrecond
from sida.networks.song_unet import SongUNet

__all__ = [
    "DhariwalUNet",
    "EDM2Precond",
    "EDM2UNet",
    "EDMPrecond",
    "GDDPrecond",
    "Precond",
    "SongUNet",
    "VEPrecond",
    "VPPrecond",
    "architecture",
    "build_network",
    "copied_weight_norm",
    "family_of",
    "official_weight_norm",
]
