# syntax=docker/dockerfile:1
# The image for NVIDIA GPUs: docker build -f configs/docker/cuda.Dockerfile -t qwen3-indexer:cuda .
# CUDA's libraries come with the wheels; the machine brings the driver, version 580 or later.
FROM python:3.11-slim-bookworm AS build
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt,sharing=locked \
    apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
WORKDIR /opt/indexer
COPY requirements-cuda.lock ./
COPY .ci/install.sh .ci/
RUN --mount=type=cache,target=/root/.cache/pip .ci/install.sh cuda
COPY pyproject.toml README.md LICENSE ./
COPY indexer indexer
RUN --mount=type=cache,target=/root/.cache/pip .venv/bin/python -m pip install --no-deps .

FROM python:3.11-slim-bookworm
# Triton compiles at run time, against Python.h, which this image has. KubeRay's probes use wget, its graceful stop pkill.
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt,sharing=locked \
    apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev libgomp1 libnuma1 procps tini wget
RUN groupadd --gid 1000 indexer && useradd --uid 1000 --gid 1000 --create-home indexer
COPY --from=build /opt/indexer/.venv /opt/indexer/.venv
ENV PATH=/opt/indexer/.venv/bin:$PATH PYTHONUNBUFFERED=1 HF_HOME=/home/indexer/models \
    VLLM_CACHE_ROOT=/home/indexer/models/vllm CC=gcc
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /home/indexer
ENTRYPOINT ["tini", "--"]
CMD ["qwen3-index", "--help"]
