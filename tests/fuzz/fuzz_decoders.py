"""Coverage-guided fuzzing of the front doors: `python tests/fuzz/fuzz_decoders.py [LIBFUZZER OPTIONS]`.

    python tests/fuzz/fuzz_decoders.py -max_total_time=600 /tmp/new tests/fuzz/corpus
    python tests/fuzz/fuzz_decoders.py -merge=1 /tmp/smallest /tmp/new tests/fuzz/corpus

What it finds is worth a file in the corpus, which `make test` replays.
"""

import logging
import sys
import warnings
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))

WATCHED = ["sensorium.modalities", "sensorium.data", "sensorium.types", "sensorium.training.files"]
WATCHED += ["PIL", "tarfile", "yaml", "safetensors"]

# Imported before anything is watched: it would take minutes to prepare them.
import pyarrow.compute  # noqa: F401
import torch
import transformers  # noqa: F401

with atheris.instrument_imports(include=WATCHED, enable_loader_override=False):
    import PIL.Image

    PIL.Image.init()
    import doors


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable()
    program = f"{sys.executable} {__file__}"  # which a merge starts again, through the shell
    atheris.Setup([program, *sys.argv[1:]], doors.enter)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
