# %% [markdown]
# # A tour in Python
# Trains a small teacher on real 8×8 digits, distils it by SiD and by SiDA, draws, scores and plots: some two minutes on
# two CPU cores, with fixed seeds. The teacher is trained for seconds on purpose: SiD only imitates it; SiDA sees real
# images, too, draws digits that are recognised, and ends with the lower Fréchet distance. So short a training has a
# price: the images of a class are nearly equal (recall 0.00). `make demo` trains longer, and there SiDA is better than
# SiD in every metric. The cells open as a notebook in most editors.

# %%
import matplotlib.pyplot as plt
import pandas as pd

import eval
import sida
from eval.results.training_logs import read_log

# %% [markdown]
# ## Train
# Settings are those of `sida train-teacher --spec` and `sida distill --spec`. A run that was interrupted resumes.

# %%
digits = {"name": "digits", "kind": "digits"}
unet = {"model_type": "SongUNet", "img_resolution": 8, "img_channels": 1, "label_dim": 10, "model_channels": 16}
unet |= {"channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": []}
teacher = sida.train_teacher(
    {
        "name": "tour",
        "dataset": digits,
        "network": {"class": "EDMPrecond", "kwargs": unet},
        "total_kimg": 10,
        "batch_size": 128,
        "lr": 3e-3,
        "lr_decay_start": 0.5,
        "lr_final": 0.0,
        "betas": [0.9, 0.99],
        "ema_half_life_kimg": 20,
        "ema_rampup_ratio": 0.1,
        "tick_kimg": 1,
        "threads": 1,
    },
    "out/teacher",
)
both = {
    "name": "tour",
    "teacher": str(teacher),
    "dataset": digits,
    "total_kimg": 15,
    "batch_size": 32,
    "lr": 5e-4,
    "lr_decay_start": 0.5,
    "lr_final": 0.1,
    "ema_half_life_kimg": 2,
    "ema_rampup_ratio": 0.5,
    "dropout": 0,
    "lambda_sid": 100,
    "warmup_kimg": 0,
    "tick_kimg": 1,
    "threads": 1,
}
adversarial = {"lambda_adv": 10, "lambda_d": 5, "warmup_kimg": 0.5, "adversarial_kimg": 0.5, "grad_clip_value": 1}
students = {
    "SiD": sida.distill({**both, "method": "sid"}, "out/sid"),
    "SiDA": sida.distill({**both, "method": "sida", **adversarial}, "out/sida"),
}

# %% [markdown]
# ## Draw
# Image i has the seed `seed + i` and is the same as that of `sida sample`. One row for each class.

# %%
generators = {name: sida.load(path, device="cpu") for name, path in students.items()}
print({key: generators["SiDA"].info[key] for key in ("method", "nimg", "parameters")})
for name, generator in generators.items():
    images = generator.sample(100, seed=0, classes=[row for row in range(10) for _ in range(10)])
    grid = images.reshape(10, 10, 8, 8).transpose(0, 2, 1, 3).reshape(80, 80)
    plt.figure(figsize=(3, 3))
    plt.title(name)
    plt.imshow(grid, cmap="gray")
    plt.axis("off")
plt.show()

# %% [markdown]
# ## Score
# The protocol `digits` with two of its ten trials.

# %%
scores = {name: eval.score(generator, "digits", trials=2, name=name) for name, generator in generators.items()}
print(pd.concat({name: score.frame()[["mean", "std", "trials"]] for name, score in scores.items()}).round(3))
print(scores["SiDA"].latex(plain=True))

# %% [markdown]
# ## Curves
# The numbers of `train.jsonl` of the run above.

# %%
log = pd.json_normalize(read_log(students["SiDA"].parent / "train.jsonl"))
log.plot(x="nimg", y=["losses.denoising", "losses.discriminator"], subplots=True, figsize=(5, 3), xlabel="images seen")
plt.show()

# %%
fd = {name: score.frame().loc["fd", "mean"] for name, score in scores.items()}
print(f"FD of SiD {fd['SiD']:.1f}, of SiDA {fd['SiDA']:.1f}")
