"""What a process for engines imports. A server imports it once, and each process is a fork of that server."""

import os

# vLLM runs on one thread where this is not set.
os.environ["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))

from indexer.inference.start import _prepare_process

_prepare_process()

import vllm.model_executor.models.bert  # noqa: E402
import vllm.model_executor.models.qwen3  # noqa: E402
import vllm.v1.engine.llm_engine  # noqa: E402
import vllm.v1.worker.cpu_worker  # noqa: E402, F401
