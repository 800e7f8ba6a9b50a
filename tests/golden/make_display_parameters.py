"""Writes display_parameters.json with TextBrewer 0.2.1.

Run it in an environment of its own, from the root of the checkout:

    pip install --no-deps textbrewer==0.2.1.post1 && pip install torch numpy tqdm tensorboard
    python tests/golden/make_display_parameters.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from display_models import LEVELS, MODELS

from textbrewer.utils import display_parameters

if __name__ == "__main__":
    texts = {
        name: {str(level): display_parameters(build(), level)[0] for level in LEVELS} for name, build in MODELS.items()
    }
    Path(__file__).with_name("display_parameters.json").write_text(json.dumps(texts, indent=1) + "\n")
