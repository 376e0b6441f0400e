"""The demo as a Hugging Face Space: of the pipeline whose files stand here, with src/ beside them."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "src"))

from vitscale.base.endings import begin

begin()

from vitscale.commands.demo import serve

serve(HERE, "0.0.0.0", int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
