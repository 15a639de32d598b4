"""Trains a U-Net of diffusers by the library's own classes, as a teacher: ``python studies/other-teachers/unet.py``.

Loss, optimizer, warm-up, average and their settings are those of huggingface/diffusers:
examples/unconditional_image_generation/train_unconditional.py, except for classes, the rate (1e-3), the length, and
pictures that are not mirrored. ``sida convert`` makes a network file of the folder that the script writes. An
interrupted training starts anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.nn import functional as F

from sida.config.datasets import dataset_spec
from sida.data import load_dataset

SEED, EPOCHS, BATCH = 32, 6, 64
PARTS = {
    "sample_size": 28,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (16, 32, 48),
    "norm_num_groups": 8,
    "num_class_embeds": 10,
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
}


def main() -> None:
    """Trains, with a line for every hundred steps, and writes the folder of the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/unet"), help="folder to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    data = load_dataset(dataset_spec("fashion", "studies"))
    images, classes = data.network_input(data.images(torch.arange(len(data)))), data.class_indices
    net, schedule = UNet2DModel(**PARTS), DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    whole_batches = len(images) // BATCH
    steps = EPOCHS * whole_batches
    average = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rates = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=steps)
    order = torch.cat([torch.randperm(len(images))[: whole_batches * BATCH] for _ in range(EPOCHS)])
    for step, batch in enumerate(order.split(BATCH), 1):
        noise, times = torch.randn_like(images[batch]), torch.randint(0, 1000, (BATCH,))
        noisy = schedule.add_noise(images[batch], noise, times)
        loss = F.mse_loss(net(noisy, times, class_labels=classes[batch]).sample, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        average.step(net.parameters())
        if step % 100 == 0:
            print(f"{step}/{steps}  loss {loss.item():.4f}", flush=True)
    average.copy_to(net.parameters())
    DDPMPipeline(unet=net.eval(), scheduler=schedule).save_pretrained(args.out)


if __name__ == "__main__":
    main()
