"""A U-Net of diffusers as its own class, with the scheduler of its training and a pipeline that draws in one step."""

import shutil
from pathlib import Path

from sida.config.samplers import Sampler
from sida.errors import UserError
from sida.files.atomic import write_json
from sida.plugins.diffusers.unet import DiffusersPrecond, make_scheduler, make_unet

_USE = """\
Needs diffusers. `unet/` is a `UNet2DModel`, `scheduler/` the schedule of its teacher's training, \
and `pipeline.py` draws in one step: read it before you trust it.

```python
import torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)
images = pipe(batch_size=16, seed=0).images
```

With sida-repro: `sida.load("FOLDER").sample(16, seed=0)` gives the same images but for rounding."""


def write_unet(folder: Path, network: Path, net: DiffusersPrecond, sampler: Sampler) -> str:
    """Writes the parts of a pipeline; returns the card's text on their use.

    Args:
        folder: Folder to write into.
        network: File of the network.
        net: The network.
        sampler: Its steps.

    Raises:
        UserError: The generator has several steps, which the pipeline does not take.
    """
    if sampler.steps > 1:
        raise UserError(network, f"has {sampler.steps} steps", "the pipeline of a U-Net of diffusers takes one step")
    unet = make_unet(net)
    unet.load_state_dict(net.unet.state_dict())
    unet.save_pretrained(folder / "unet")
    make_scheduler(net).save_pretrained(folder / "scheduler")
    shutil.copyfile(Path(__file__).with_name("unet_pipeline.py"), folder / "pipeline.py")
    parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    settings = {"init_sigma": sampler.init_sigma, "num_classes": net.label_dim, "_diffusers_version": "0.27.0"}
    write_json(folder / "model_index.json", {"_class_name": ["pipeline", "OneStepUNetPipeline"], **parts, **settings})
    return _USE
