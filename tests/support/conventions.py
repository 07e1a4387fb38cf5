"""Random-weight checkpoints of several conventions, laid out as sentence-transformers saves them."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from indexer.testing import corpora
from indexer.testing.checkpoints import minilm_path, qwen3_checkpoint
from indexer.testing.random_weights import Shape, write_json
from tests.support.checkpoints import FEW_TOKENS

TINY = Shape(hidden=64, heads=2, kv_heads=1, head_dim=32, intermediate=128, layers=2, ordinary_tokens=FEW_TOKENS)

QWEN3_PROMPTS = {
    "query": "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
    "document": "",
}

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}

Make = Callable[[Path], str]


def qwen3(path: Path, prompts: dict[str, str]) -> str:
    """A Qwen3 with prompts of its own."""
    qwen3_checkpoint(path, TINY, dtype="float32")
    write_json(path / "config_sentence_transformers.json", {"prompts": prompts, "similarity_fn_name": "cosine"})
    return str(path)


def bert(path: Path, pooling: str, prompts: dict[str, str] | None = None, dense: int | None = None) -> str:
    """A BERT with MiniLM's tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    path.mkdir(parents=True, exist_ok=True)
    BertModel(BertConfig(**SIZES, initializer_range=0.2)).save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(Path(minilm_path()) / name, path)
    return sentence_transformer(path, pooling, prompts, dense)


def colbert(path: Path, **metadata: Any) -> str:
    """A ColBERT: BERT with MiniLM's tokenizer and a projection of every token to 32 components, as Stanford saves it.

    Args:
        path: Directory, made when missing.
        metadata: Entries of ``artifact.metadata`` in place of ours.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    path.mkdir(parents=True, exist_ok=True)
    config = BertConfig(**SIZES, initializer_range=0.2)
    weights = {f"bert.{name}": weight for name, weight in BertModel(config).state_dict().items()}
    weights["linear.weight"] = torch.nn.Linear(64, 32, bias=False).weight.data
    save_file({name: one.contiguous() for name, one in weights.items()}, path / "model.safetensors", {"format": "pt"})
    write_json(path / "config.json", config.to_dict() | {"architectures": ["HF_ColBERT"], "dtype": "float32"})
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(Path(minilm_path()) / name, path)
    own = {"query_maxlen": 16, "doc_maxlen": 48, "query_token_id": "[unused0]", "doc_token_id": "[unused1]"}
    write_json(path / "artifact.metadata", own | {"mask_punctuation": True, "attend_to_mask_tokens": False} | metadata)
    return str(path)


def xlm_roberta(path: Path) -> str:
    """An XLM-R with a Unigram tokenizer trained on random texts."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import XLMRobertaConfig, XLMRobertaModel

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=special, show_progress=False, unk_token="<unk>")  # noqa: S106
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    _save_tokenizer(
        path, tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    )
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        **SIZES, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=514, type_vocab_size=1, pad_token_id=1,
        initializer_range=0.2,
    )  # fmt: skip
    XLMRobertaModel(config).save_pretrained(path)
    return sentence_transformer(path, "mean_tokens", {"query": "query: ", "document": "passage: "})


def modern_bert(path: Path) -> str:
    """A ModernBERT with a byte-level tokenizer trained on random texts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import ModernBertConfig, ModernBertModel

    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    _save_tokenizer(path, tokenizer, {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"})
    torch.manual_seed(0)
    config = ModernBertConfig(
        **SIZES, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=512, pad_token_id=3, bos_token_id=1,
        eos_token_id=2, cls_token_id=1, sep_token_id=2, initializer_range=0.2, local_attention=16,
        global_attn_every_n_layers=2,
    )  # fmt: skip
    ModernBertModel(config).save_pretrained(path)
    return sentence_transformer(path, "mean_tokens", {"query": "search_query: ", "document": "search_document: "})


def sentence_transformer(
    path: Path, pooling: str, prompts: dict[str, str] | None = None, dense: int | None = None
) -> str:
    """Writes the files of sentence-transformers around a transformer with a hidden size of 64."""
    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), "Normalize"]
    modules = [
        {
            "idx": at,
            "name": str(at),
            "path": f"{at}_{kind}" if at else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for at, kind in enumerate(kinds)
    ]
    write_json(path / "modules.json", modules)
    (path / "1_Pooling").mkdir(exist_ok=True)
    write_json(path / "1_Pooling" / "config.json", {"word_embedding_dimension": 64, f"pooling_mode_{pooling}": True})
    if dense:
        _write_dense(path / "2_Dense", dense)
    if prompts is not None:
        write_json(path / "config_sentence_transformers.json", {"prompts": prompts, "similarity_fn_name": "cosine"})
    return str(path)


def _write_dense(folder: Path, width: int) -> None:
    """Writes a Dense layer with random weights."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    config: dict[str, Any] = {"in_features": 64, "out_features": width, "bias": True}
    write_json(folder / "config.json", config | {"activation_function": "torch.nn.modules.activation.Tanh"})
    torch.manual_seed(1)
    layer = torch.nn.Linear(64, width)
    save_file({"linear.weight": layer.weight.data, "linear.bias": layer.bias.data}, str(folder / "model.safetensors"))


def _save_tokenizer(path: Path, tokenizer: Any, special: dict[str, str]) -> None:
    """Writes a tokenizer and its configuration."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **special}
    (path / "tokenizer_config.json").write_text(json.dumps(config))


def _texts() -> Iterator[str]:
    """Texts to train tokenizers on."""
    yield from corpora.random_texts(300)
    yield "query: passage: search_query: search_document: def return SELECT WHERE 0123456789 the of and"


MADE: dict[str, Make] = {
    "Qwen3 with its own prompts": lambda path: qwen3(path, QWEN3_PROMPTS),
    "Qwen3 with other prompts": lambda path: qwen3(path, {"query": "search_query: ", "document": "search_document: "}),
    "Qwen3 with another task": lambda path: qwen3(path, {"query": "Instruct: Find the code\nQuery:", "document": ""}),
    "BERT, first token": lambda path: bert(path, "cls_token"),
    "BERT, mean, prompts": lambda path: bert(path, "mean_tokens", {"query": "query: ", "document": "passage: "}),
    "BERT, Dense, document prompt": lambda path: bert(
        path, "mean_tokens", {"query": "", "document": "title: none | text: "}, dense=48
    ),
    "XLM-R, mean, prompts": xlm_roberta,
    "ModernBERT, mean, prompts": modern_bert,
}
"""Makes a checkpoint of each convention."""
