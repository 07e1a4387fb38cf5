# syntax=docker/dockerfile:1
# The image for machines without a GPU: docker build -f configs/docker/cpu.Dockerfile -t qwen3-indexer:cpu .
# torch for CPUs is not on PyPI: TORCH_INDEX_URL is the index that has it.
FROM python:3.11-slim-bookworm AS build
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /opt/indexer
COPY requirements-cpu.lock ./
COPY .ci/install.sh .ci/
RUN --mount=type=cache,target=/root/.cache/pip .ci/install.sh cpu
COPY pyproject.toml README.md LICENSE ./
COPY indexer indexer
RUN --mount=type=cache,target=/root/.cache/pip .venv/bin/python -m pip install --no-deps .

FROM python:3.11-slim-bookworm
# KubeRay's probes use wget, its graceful stop pkill and pgrep; OpenMP's library is not in the slim image.
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt,sharing=locked \
    apt-get update && apt-get install --yes --no-install-recommends libgomp1 libnuma1 procps tini wget
RUN groupadd --gid 1000 indexer && useradd --uid 1000 --gid 1000 --create-home indexer
COPY --from=build /opt/indexer/.venv /opt/indexer/.venv
ENV PATH=/opt/indexer/.venv/bin:$PATH PYTHONUNBUFFERED=1 HF_HOME=/home/indexer/models \
    VLLM_CACHE_ROOT=/home/indexer/models/vllm
USER 1000:1000
WORKDIR /home/indexer
ENTRYPOINT ["tini", "--"]
CMD ["qwen3-index", "--help"]
