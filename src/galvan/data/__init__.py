"""From what people bring to what a model sees: read, clean, cut, split, audit. `prepare.prepare` is the story. No torch."""
