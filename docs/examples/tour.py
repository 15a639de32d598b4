# %% [markdown]
# # A tour in Python
# Trains a small teacher on real 8×8 digits, distils it by SiDA, draws, scores and plots: minutes on two CPU cores.
# The trainings are far too short for good images; the numbers below speak about them alone. `make tour` runs all
# cells again and writes this page; [python.md](python.md) explains the calls.

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
        "total_kimg": 6,
        "batch_size": 64,
        "lr": 2e-3,
        "tick_kimg": 1,
    },
    "out/teacher",
)
student = sida.distill(
    {
        "name": "tour",
        "method": "sida",
        "teacher": str(teacher),
        "dataset": digits,
        "total_kimg": 1.5,
        "batch_size": 64,
        "lr": 2e-4,
        "warmup_kimg": 0,
        "tick_kimg": 0.25,
    },
    "out/student",
)

# %% [markdown]
# ## Draw
# Image i has the seed `seed + i` and is the same as that of `sida sample`. One row for each class.

# %%
g = sida.load(student, device="cpu")
print({key: g.info[key] for key in ("method", "nimg", "parameters")})
images = g.sample(100, seed=0, classes=[row for row in range(10) for _ in range(10)])
grid = images.reshape(10, 10, 8, 8).transpose(0, 2, 1, 3).reshape(80, 80)
plt.figure(figsize=(3, 3))
plt.imshow(grid, cmap="gray")
plt.axis("off")
plt.show()

# %% [markdown]
# ## Score
# The protocol `digits` with fewer images, for speed: not comparable with the tables. The teacher draws in 35
# evaluations, the student in one.

# %%
scores = {
    "teacher": eval.score(sida.load(teacher, "heun:18", device="cpu"), "digits", num_samples=300, trials=2),
    "student": eval.score(g, "digits", num_samples=300, trials=2),
}
pd.concat({name: score.frame()[["mean", "std", "trials"]] for name, score in scores.items()}).round(3)

# %%
print(scores["student"].latex())

# %% [markdown]
# ## Curves
# The numbers of `train.jsonl` of the run above.

# %%
log = pd.json_normalize(read_log(student.parent / "train.jsonl"))
log.plot(x="nimg", y=["losses.denoising", "losses.discriminator"], subplots=True, figsize=(5, 3), xlabel="images seen")
plt.show()
