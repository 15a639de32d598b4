# The suite with the packages of requirements/main.lock, checked by their hashes.
#
#   docker build -t sida .                     torch with CUDA, as in the lock (6 GB)
#   docker build -t sida --build-arg TORCH_INDEX=ADDRESS .
#                                              torch's CPU build first, from the index of PyTorch's own wheels
#   docker run --rm -v "$PWD/results:/suite/results" sida make demo
#   docker run --rm --gpus all -v "$PWD/results:/suite/results" sida sida run gpu
FROM python:3.11-slim
ARG TORCH_INDEX=""
RUN apt-get update \
    && apt-get install -y --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /suite
ENV PATH=/suite/.venv/bin:$PATH
COPY . .
# Packages of the lock but torch and what only its CUDA build needs, where another index gives torch.
RUN if [ -z "$TORCH_INDEX" ]; then make setup; else \
      python -m venv .venv \
      && .venv/bin/pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision \
      && .venv/bin/pip install --no-cache-dir ".[clean,gdd,latent,workflow]" \
      && touch .venv/.installed; fi
CMD ["make", "help"]
