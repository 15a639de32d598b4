"""Images of a network by seed, in one call."""

import torch

from sida.sampling import Drawer, read_sampler


def generate(
    net, seeds, sampler="one_step", batch_size=128, class_labels="uniform", dataset=None, gnet=None, **attributes
):
    """``Drawer.draw`` of a new drawer, which decodes nothing unless ``decode`` is among its attributes."""
    drawer = Drawer(read_sampler(sampler), net, gnet, lambda: dataset)
    for name, value in {"decode": None, **attributes}.items():
        setattr(drawer, name, value)
    return drawer.draw(seeds, batch_size, class_labels)


def collect(net, seeds, *arguments, **options):
    """Images and classes of :func:`generate`, which are those of the seeds in order."""
    batches = list(generate(net, seeds, *arguments, **options))
    assert [seed for batch in batches for seed in batch.seeds] == [*seeds]
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.classes for batch in batches])
