"""Feature networks: uint8 images in, float32 features (and class logits where they exist) out.

>>> extractor = get_extractor("digits")
>>> features = extractor(images)                        # images uint8 (N, 1, 8, 8) -> float32 (N, 256)
>>> features, logits = extractor.features_and_logits(images)

Variants that give other numbers (clean-fid's resize, DINOv2 with Pillow's resize) have names of their own, and are
never compared with the published networks.
"""

from sida.eval.features.base import Extractor
from sida.eval.features.registry import EXTRACTORS, extractor_entry, get_extractor

__all__ = ["EXTRACTORS", "Extractor", "extractor_entry", "get_extractor"]
