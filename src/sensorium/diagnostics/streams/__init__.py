"""How the streams that a language model reads meet inside it: how far apart, by which way, how deep."""
