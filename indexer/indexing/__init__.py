"""The nightly job: compares the corpus with the published epoch, embeds what changed, records the intent."""
