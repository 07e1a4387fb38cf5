"""Resumes an interrupted run: a receipt whose staged files are gone counts as missing."""

from indexer.errors import DamagedFile
from indexer.indexing.job import Job
from indexer.progress import say
from indexer.storage import commits


def forget_lost(job: Job) -> None:
    """Deletes the receipts of this epoch whose staged files are gone or not whole: their shards are staged again.

    Lance's clean-up, whoever starts it, deletes files that no version holds once they are a week old.
    """
    receipts = job.store.receipts(job.epoch)
    there: dict[str, dict[str, int]] = {}
    lost = 0
    for shard_id in receipts.ids():
        try:
            fragments = receipts.get(shard_id).fragments
        except DamagedFile:
            receipts.forget(shard_id)
            continue
        for name in fragments.keys() - there.keys():
            there[name] = commits.data_sizes(job.settings.index.uri, name)
        if any(commits.missing_files(staged, there[name]) for name, staged in fragments.items()):
            receipts.forget(shard_id)
            lost += 1
    if lost:
        say(f"epoch {job.epoch}: files of {lost} staged shards are gone: staging them again", "WARNING")
