"""Teachers whose code lies beside them: never run, unless the recipe says so."""

from __future__ import annotations

import json
import sys

import pytest

from tests.pipeline.small import base_model, recipe_of
from textbrewer import distill
from textbrewer.errors import ConfigError
from textbrewer.pipeline.models import config_of

SHORT = ["teacher.training.num_steps=2", "training.num_steps=2"]
CONFIG = """
from pathlib import Path

from transformers import BertConfig

Path({marker!r}).touch()


class OwnConfig(BertConfig):
    model_type = "own-bert"
"""
MODEL = """
from transformers import BertForSequenceClassification

from .configuration_own import OwnConfig


class OwnForSequenceClassification(BertForSequenceClassification):
    config_class = OwnConfig
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A base model of a class of its own, whose code leaves a file when it is run."""
    import transformers
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "modules")])
    folder = base_model(tmp_path / "own")
    (folder / "configuration_own.py").write_text(CONFIG.format(marker=str(tmp_path / "ran")))
    (folder / "modeling_own.py").write_text(MODEL)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own-bert", "architectures": ["OwnModel"]}
    config["auto_map"] = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModelForSequenceClassification": "modeling_own.OwnForSequenceClassification",
    }
    (folder / "config.json").write_text(json.dumps(config))
    yield folder
    transformers.CONFIG_MAPPING._extra_content.pop("own-bert", None)
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def test_code_beside_a_model_is_not_run(own, material, tmp_path):
    with pytest.raises(ConfigError, match=r"custom code.*; teacher\.trust_remote_code: true runs it"):
        distill(recipe_of(material, teacher=str(own), output_dir=str(tmp_path / "run")))
    with pytest.raises(ConfigError, match="custom code"):
        config_of(own)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "run").exists()


def test_code_that_is_trusted_is_run_which_is_said(own, material, tmp_path, caplog):
    recipe = recipe_of(material, output_dir=str(tmp_path / "run"))
    recipe["teacher"] |= {"model": str(own), "trust_remote_code": True}
    result = distill(recipe, SHORT)
    assert f"the code of {own} is run" in caplog.text and (tmp_path / "ran").exists()
    config = json.loads((result.output_dir / "teacher" / "config.json").read_text())
    assert config["architectures"] == ["OwnForSequenceClassification"]
    caplog.clear()
    caplog.set_level("INFO", "textbrewer.pipeline")
    again = distill(recipe, SHORT)
    assert caplog.text.count("already there") == 2 and again.scores == result.scores
