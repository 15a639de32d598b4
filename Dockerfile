# The suite with the packages of requirements/main.lock.
#
#   docker build -t sida .                     torch with CUDA, all files checked by their hashes (6 GB)
#   docker build -t sida --build-arg TORCH_INDEX=ADDRESS .
#                                              torch's CPU build, from the index of PyTorch's own wheels; equal versions
#   docker run --rm -v "$PWD/results:/suite/results" sida make demo
#   docker run --rm --gpus all -v "$PWD/results:/suite/results" sida sida run gpu
FROM python:3.11-slim AS tools
RUN apt-get update \
    && apt-get install -y --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /suite
ENV PATH=/suite/.venv/bin:$PATH

FROM tools AS suite
ARG TORCH_INDEX=""
COPY . .
# Torch without its needs, which the other index has in other versions.
RUN if [ -z "$TORCH_INDEX" ]; then make setup; else \
      python -m venv .venv \
      && sed -n 's/^\([a-z0-9.-]*==[^ ;]*\).*/\1/p' requirements/main.lock > .venv/versions.txt \
      && .venv/bin/pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" --constraint .venv/versions.txt \
        torch torchvision \
      && .venv/bin/pip install --no-cache-dir --constraint .venv/versions.txt \
        --editable ".[clean,crate,gdd,latent,workflow]" \
      && touch .venv/.installed; fi
CMD ["make", "help"]
