"""Workers that train one model together: Ray Train's TorchTrainer joins them in a process group of PyTorch."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray.train
from ray.exceptions import RayError
from ray.train import RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchTrainer

from indexer.cluster.stopping import asked_to_stop
from indexer.errors import IndexerError, first_line
from indexer.progress import say

POLL_SECONDS = 1.0
"""How often the driver looks at what the workers have left."""

Train = Callable[[Any, int, int], None]
"""Trains in one worker: gets the argument, the worker's number from 0, and the number of workers."""


def run_together(
    train: Train, argument: Any, resources: Mapping[str, float], workers: int, folder: str, restarts: int
) -> Iterator[bool]:
    """Runs a function in several workers at the same time, and again in new ones if a worker dies.

    Args:
        train: Top-level function; what it has done before is to be found in files.
        argument: Its first argument.
        resources: Those of each worker.
        workers: Number of workers.
        folder: Directory in which Ray Train may write.
        restarts: How often all workers are started again.

    Yields:
        Every second until the workers have ended: whether a signal asked to stop.

    Raises:
        IndexerError: What the function raised, or workers died too often.
    """
    for left in range(restarts, -1, -1):
        ended: list[Exception | None] = []
        trainer = _trainer(train, argument, resources, workers, folder)
        with asked_to_stop() as asked:
            thread = threading.Thread(target=_fit, args=(trainer, ended), name="ray-train", daemon=True)
            thread.start()
            while thread.is_alive():
                thread.join(POLL_SECONDS)
                yield asked.is_set()
        failure = ended[0]
        if failure is None:
            return
        if isinstance(failure, IndexerError):
            raise failure
        if not left:
            raise IndexerError(str(failure))
        say(f"{failure}; its workers start again", "WARNING")


def _trainer(train: Train, argument: Any, resources: Mapping[str, float], workers: int, folder: str) -> TorchTrainer:
    # Relative paths of the settings are the driver's.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    gpus = "GPU" in resources
    return TorchTrainer(
        _work,
        train_loop_config={"train": train, "argument": argument},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus, resources_per_worker=dict(resources)),
        run_config=RunConfig(name="together", storage_path=folder),
    )


def _work(config: dict[str, Any]) -> None:
    """Runs in each worker."""
    context = ray.train.get_context()
    config["train"](config["argument"], context.get_world_rank(), context.get_world_size())


def _fit(trainer: TorchTrainer, ended: list[Exception | None]) -> None:
    """Runs the trainer; leaves what ended it, or nothing, as the only item."""
    try:
        trainer.fit()
    except WorkerGroupError as error:
        # Ray Train wraps what a worker raised; a worker that waits for one that failed raises something else.
        failures = [getattr(one, "_base_exc", one) for one in error.worker_failures.values()]
        ours = (one for one in failures if isinstance(one, IndexerError))
        ended.append(next(ours, _Failed(f"a worker failed while it trained: {first_line(failures[0])}")))
    except (TrainingFailedError, RayError) as error:
        ended.append(_Failed(f"the workers cannot train together: {first_line(error)}"))
    except BaseException as error:  # noqa: BLE001  # the driver waits for an item
        ended.append(_Failed(f"{type(error).__name__}: {first_line(error)}"))
    else:
        ended.append(None)


class _Failed(Exception):
    """What other workers may do better."""
