"""A tokenizer as GPT-2's, of bytes, without a padding or a mask token, in pretraining and finetuning."""

import json

import pytest
from conftest import TINY_VIT
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task
from renaissance_cli.main import main


END = "<|endoftext|>"
TINY_GPT2 = '{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "n_inner": 64}'


@pytest.fixture
def gpt2_tokenizer(tmp_path):
    """A folder with one, which has learned a few words; texts have neither a start nor an end."""
    texts = ["a red circle left of a blue square", "one image shows a green star"] * 20
    learned = ByteLevelBPETokenizer()
    learned.train_from_iterator(texts, vocab_size=300, special_tokens=[END], show_progress=False)
    made = PreTrainedTokenizerFast(
        tokenizer_object=learned._tokenizer, bos_token=END, eos_token=END, unk_token=END, model_max_length=64
    )
    assert made.pad_token is made.mask_token is None
    made.save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


@pytest.mark.slow
def test_it_pretrains_finetunes_and_answers(gpt2_tokenizer, shapes, options, tmp_path, capsys):
    new = ["--text_encoder", "gpt2", "--random_init_text", "--text_overrides", TINY_GPT2, "--vision_encoder", "vit"]
    new += ["--random_init_vision", "--vision_overrides", TINY_VIT, "--cross_modal_hidden_size", "32"]
    new += ["--cross_modal_layers", "1", "--cross_modal_heads", "2", *options, "--tokenizer", str(gpt2_tokenizer)]
    captions = ["--train_datasets", str(shapes / "captions"), "--do_train", "--do_eval", "--max_steps", "3"]
    # Nothing can be masked.
    with pytest.raises(SystemExit) as stopped:
        run_task(Pretraining, "", [*new, *captions])
    assert stopped.value.code == 2
    assert "has no mask token, which masked language modelling needs" in capsys.readouterr().err
    metrics = run_task(Pretraining, "", [*new, *captions, "--objectives", "itm"])
    assert 0 < metrics["eval_loss"] < 10
    config = json.loads((tmp_path / "run" / "tokenizer_config.json").read_text())
    assert config["pad_token"] == END
    tuned = ["--model_name_or_path", str(tmp_path / "run"), *options[2:-2], "--output_dir", str(tmp_path / "tuned")]
    tuned += ["--dataset", str(shapes / "nlvr2"), "--do_train", "--do_eval", "--do_predict", "--max_steps", "3"]
    metrics = run_task(NLVR2, "", tuned)
    assert metrics["test_rows"] == 10 and 0 < metrics["test_loss"] < 10
    main(["predict", str(tmp_path / "tuned"), "--file", str(next((shapes / "nlvr2").glob("test-*")))])
    assert len(capsys.readouterr().out.strip().splitlines()[-10:]) == 10
