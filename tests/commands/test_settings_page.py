"""configs/README.md says what the settings say."""

from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from indexer.commands import settings

ROOT = Path(__file__).parents[2]


def test_the_page_is_that_of_the_settings() -> None:
    written = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
    assert written == settings.page(), "stale: run make settings"


def test_the_page_has_every_setting_with_a_meaning() -> None:
    page = settings.page()
    for job in settings.JOBS.values():
        for name, field in job.model_fields.items():
            assert f"### `[{name}]`" in page
            for kind in [field.annotation, *get_args(field.annotation)]:
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    assert all(f"\n| `{key}` | " in page for key in kind.model_fields)
                    assert all(each.description for each in kind.model_fields.values())
