"""Entries of feature networks that the papers of the core do not use; no entry imports torch.

Operations of timm's transformers: 2 for each parameter and token; ConvNeXt's from its authors' table (15.4
multiply-adds at 224).
"""

from dataclasses import dataclass
from typing import Any

from sida.config.feature_entries import BackboneEntry, ExtractorEntry, FeatureNetwork

_HERE = "sida.plugins.judges"


@dataclass(frozen=True)
class TimmEntry(ExtractorEntry):
    """Features of a network of timm, by a class that several entries share.

    Attributes:
        attributes: Attributes of the extractor's class: its name, the network and the side of its pictures.
    """

    attributes: tuple[tuple[str, Any], ...] = ()

    def load(self) -> Any:
        """Derives a class with :attr:`attributes`."""
        cls = super().load()
        return type(cls.__name__, (cls,), {"__doc__": cls.__doc__, **dict(self.attributes)})


def timm_entry(name: str, asset: str, model: str, side: int, gflop: float, **attributes: Any) -> TimmEntry:
    """A judge as in FDr6: features of timm's network ``model`` for pictures of ``side`` × ``side``."""
    attributes |= {"name": name, "model": model, "side": side}
    return TimmEntry(f"{_HERE}.judges:TimmExtractor", (asset,), gflop=gflop, attributes=(*attributes.items(),))


CLOTHES = FeatureNetwork(labels="clothes")
COLOUR = FeatureNetwork(labels="colour")

#: ConvNeXt-v2-B, spatial mean of the last map.
CONVNEXT_FDR = timm_entry(
    "convnext_fdr", "judge-convnextv2-base", "convnextv2_base.fcmae_ft_in22k_in1k", 224, gflop=31, kwargs={}
)
#: DINOv2 ViT-L/14, class token, at 256 padded to 266.
DINOV2_FDR = timm_entry("dinov2_fdr", "judge-dinov2-vitl14", "vit_large_patch14_dinov2.lvd142m", 256, gflop=220)
#: MAE ViT-L/16, class token.
MAE_FDR = timm_entry("mae_fdr", "judge-mae-vitl16", "vit_large_patch16_224.mae", 224, gflop=120)
#: SigLIP2 SO400M/16, attention pool, at 224 and not at its 256.
SIGLIP2_FDR = timm_entry(
    "siglip2_fdr", "judge-siglip2-so400m", "vit_so400m_patch16_siglip_256.v2_webli", 224, gflop=162
)
#: CLIP ViT-L/14, class token after the norm.
CLIP_FDR = timm_entry("clip_fdr", "judge-clip-vitl14", "vit_large_patch14_clip_224.openai", 256, gflop=219)
CLIP_CMMD = ExtractorEntry(f"{_HERE}.judges:ClipCMMD", ("judge-clip-vitl14-336",))
LITE0 = ExtractorEntry(f"{_HERE}.lite:Lite0Extractor", classes=1000, gflop=0.8)
PLAIN_EXTRACTOR = ExtractorEntry(f"{_HERE}.clothes:PlainExtractor", classes=10)
COLOUR_EXTRACTOR = ExtractorEntry(f"{_HERE}.clothes:ColourExtractor", classes=10)
RESIDUAL_EXTRACTOR = ExtractorEntry(f"{_HERE}.clothes:ResidualExtractor", classes=10)

CLOTHES_BACKBONE = BackboneEntry(f"{_HERE}.clothes:ClothesBackbone", "clothes", gflop=0.19)
#: The weights of the extractor's package instead of a download; grey and colour pictures.
LITE0_BACKBONE = BackboneEntry(f"{_HERE}.lite0:Lite0Backbone", "efficientnet_lite0", gflop=20.7)
