"""Does it copy: what generated text shares with the training text, word for word, beside what people's text shares with it (METHODS 5)."""
