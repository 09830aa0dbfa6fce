"""The tokenizer: the model's own, another one by URI, OpenAI's files of GPT-2, or one made from the training rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmops.api.model import ModelSpec
from lmops_trainer.data.configs import ModelConfig, files_of, model_config, too_many_tokens
from lmops_trainer.failures import Refusal
from lmops_trainer.uris import folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "encoder.json", "vocab.bpe", "tokenizer.model", "sentencepiece.bpe.model",
    "spiece.model", "chat_template.jinja",
)  # fmt: skip
VOCABULARY = ("tokenizer.json", "vocab.*", "encoder.json", "*.model", "*.spm", "*.bpe", "*.tiktoken")
"""Of these a tokenizer has at least one."""
END = "<|endoftext|>"
BERT_KIN = frozenset((
    "bert", "convbert", "distilbert", "electra", "ernie", "funnel", "layoutlm", "lxmert", "megatron-bert", "mobilebert",
    "mpnet", "nezha", "roformer", "splinter", "squeezebert", "tapas",
))  # fmt: skip
BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def tokenizer(
    model: ModelSpec, train_texts: Iterable[str], config: ModelConfig | None = None
) -> PreTrainedTokenizerFast:
    """The tokenizer of the model, checked against it. `train_texts` are read, twice, where one is to be trained."""
    config = config or model_config(model)
    wanted = model.tokenizer
    if wanted is not None and wanted.train is not None:
        made = _trained(wanted.train.vocabulary_size, config.kind, model.task, train_texts)
    else:
        made = _loaded(source(model), model.trust_remote_code)
    return _fit(made, model, config)


def source(model: ModelSpec) -> str:
    """The URI that the tokenizer is loaded from."""
    uri = model.tokenizer.uri if model.tokenizer is not None else model.from_.uri
    if uri is None:
        raise Refusal(
            "Settings",
            "TokenizerMissing",
            "A model from an architecture has no tokenizer of its own.",
            "Set spec.model.tokenizer to a uri, or to train.",
        )
    return uri


def tokenizer_files(model: ModelSpec) -> list[Path]:
    """The files that decide what the tokenizer does; none where it is made from the training rows."""
    if model.tokenizer is not None and model.tokenizer.train is not None:
        return []
    return files_of(folder(source(model), FILES), FILES)


def saved(place: Path, uri: str = "", trust_remote_code: bool = False) -> PreTrainedTokenizerFast:
    """The tokenizer that was saved in a folder. Of an empty one transformers would make one that knows no word."""
    if not any(any(place.glob(name)) for name in VOCABULARY):
        raise _missing(uri or str(place), "Copy the model's tokenizer.json, or its vocab.txt, into the folder.")
    try:
        found: PreTrainedTokenizerFast = _class(place).from_pretrained(place, trust_remote_code=trust_remote_code)
    except Exception as error:  # broken files raise whatever the Python or the Rust half makes of them
        raise _unreadable(uri or str(place), error) from error
    return found


def end_token(made: PreTrainedTokenizerFast) -> int | None:
    """The token that ends a text in a block."""
    found = made.eos_token_id if made.eos_token_id is not None else made.sep_token_id
    return None if found is None else int(found)


def _loaded(uri: str, trust_remote_code: bool) -> PreTrainedTokenizerFast:
    place = folder(uri, FILES)
    if (place / "encoder.json").is_file() and (place / "vocab.bpe").is_file():
        return _openai(place, uri)
    if not files_of(place, FILES):
        forms = "tokenizer.json, vocab.txt, or encoder.json and vocab.bpe"
        raise _missing(uri, f"Set spec.model.tokenizer.uri to a folder with {forms}.")
    found = saved(place, uri, trust_remote_code)
    if not found.is_fast:
        raise Refusal(
            "Model",
            "TokenizerSlow",
            f"The tokenizer of {uri} has no fast form ({type(found).__name__}).",
            "Save it once with `use_fast=True`, so that its folder holds a tokenizer.json.",
        )
    return found


def _class(place: Path) -> Any:
    """The tokenizer's class by its name; only where it is not told is the model's configuration, and torch with it,
    loaded to find it."""
    import transformers

    file = place / "tokenizer_config.json"
    try:
        name = json.loads(file.read_text("utf-8")).get("tokenizer_class") if file.is_file() else None
    except ValueError:
        name = None
    known = getattr(transformers, str(name), None) if name and (place / "tokenizer.json").is_file() else None
    return known if isinstance(known, type) else transformers.AutoTokenizer


def _openai(place: Path, uri: str) -> PreTrainedTokenizerFast:
    """GPT-2's byte-level BPE, from the two files that OpenAI published."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE

    try:
        backend = Tokenizer(BPE.from_file(str(place / "encoder.json"), str(place / "vocab.bpe")))
    except Exception as error:  # the Rust half raises Exception itself
        raise _unreadable(uri, error) from error
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return _fast(backend, bos_token=END, eos_token=END, unk_token=END)


def _missing(uri: str, remedy: str) -> Refusal:
    return Refusal("Model", "TokenizerMissing", f"{uri} holds no tokenizer.", remedy)


def _unreadable(uri: str, error: Exception) -> Refusal:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return Refusal(
        "Model",
        "TokenizerUnreadable",
        f"The tokenizer of {uri} could not be loaded: {first[:500]}",
        "Copy its files again, or set spec.model.tokenizer.uri to another one.",
    )


def _trained(size: int, kind: str, task: str, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    if kind in BERT_KIN or task == "BertPreTraining":
        return _wordpiece(size, texts)
    return _bytelevel(size, texts, bidirectional=task == "MaskedLM" or "roberta" in kind)


def _wordpiece(size: int, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """BERT's: lower case, accents off, a Chinese character a token.

    The trainer numbers the pieces within words in the random order of a hash map; they are named to it beforehand, so
    that equal texts give equal tokenizers, and the vocabulary is then taken over without these marks."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece
    from tokenizers.trainers import WordPieceTrainer
    from transformers import BertTokenizer

    normalizer = normalizers.BertNormalizer(lowercase=True, handle_chinese_chars=True)
    words = pre_tokenizers.BertPreTokenizer()
    counts = Counter(character for text in texts for character in normalizer.normalize_str(text))
    ranked = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    inner = {c for c in ranked if len(words.pre_tokenize_str(normalizer.normalize_str(f"a{c}"))) == 1}
    alphabet = list(_within(ranked, inner, (size - len(BERT_TOKENS)) * 3 // 4))
    pieces = sorted(f"##{c}" for c in alphabet if c in inner)

    trained = Tokenizer(WordPiece(unk_token="[UNK]"))
    trained.normalizer, trained.pre_tokenizer = normalizer, words
    trainer = WordPieceTrainer(
        vocab_size=size,
        special_tokens=BERT_TOKENS + pieces,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)

    backend = Tokenizer(WordPiece(trained.get_vocab(), unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer, backend.decoder = normalizer, words, decoders.WordPiece()
    backend.add_special_tokens(BERT_TOKENS)
    sep, cls = BERT_TOKENS.index("[SEP]"), BERT_TOKENS.index("[CLS]")
    backend.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    return BertTokenizer(tokenizer_object=backend, do_lower_case=True)


def _within(ranked: Sequence[str], inner: Set[str], room: int) -> Iterator[str]:
    """The most frequent characters that fit: one that stands within words too costs two tokens."""
    for character in ranked:
        room -= 1 + (character in inner)
        if room < 0:
            return
        yield character


def _bytelevel(size: int, texts: Iterable[str], bidirectional: bool) -> PreTrainedTokenizerFast:
    """GPT-2's way with any bytes; with RoBERTa's tokens around a text where the model reads in both directions."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=ROBERTA_TOKENS if bidirectional else [END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    if not bidirectional:
        backend.post_processor = processors.ByteLevel(trim_offsets=False)
        return _fast(backend, bos_token=END, eos_token=END, unk_token=END)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    return _fast(
        backend,
        bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        unk_token="<unk>", pad_token="<pad>", mask_token="<mask>",
    )  # fmt: skip


def _fast(backend: Tokenizer, **tokens: str) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)  # type: ignore[no-untyped-call]


def _fit(made: PreTrainedTokenizerFast, model: ModelSpec, config: ModelConfig) -> PreTrainedTokenizerFast:
    """Refuses a tokenizer that the model cannot work with, and gives it the tokens that it lacks and can have."""
    size = max(made.get_vocab().values(), default=-1) + 1
    if config.vocabulary is not None and size > config.vocabulary:
        raise too_many_tokens(size, config.vocabulary)
    if model.task in ("MaskedLM", "BertPreTraining") and made.mask_token is None:
        raise _mismatch(f"The tokenizer has no mask token, which {model.task} needs.", "Use one of a BERT-like model.")
    if model.task == "BertPreTraining" and (made.cls_token is None or made.sep_token is None):
        raise _mismatch("The tokenizer has no [CLS] or [SEP], which BertPreTraining needs.", "Use one of BERT.")
    if model.task == "CausalLM" and end_token(made) is None:
        raise _mismatch("The tokenizer has no end-of-text token, which CausalLM needs.", "Use one of a GPT-like model.")
    if made.pad_token is None:
        if (end := made.eos_token or made.sep_token or made.unk_token) is None:
            raise _mismatch("The tokenizer has no token to pad with.", "Use one with a pad or end-of-text token.")
        made.pad_token = end
    _open_ended(made.backend_tokenizer, made.eos_token)
    return made


def _open_ended(backend: Tokenizer, end: str | None) -> None:
    """Frees the tokenizer of the length it was saved with, and sets the end of text between two texts where it would
    put nothing."""
    from tokenizers.processors import TemplateProcessing

    backend.no_truncation()
    backend.no_padding()
    if end is not None and backend.num_special_tokens_to_add(True) == 0:
        backend.post_processor = TemplateProcessing(
            single="$A", pair=f"$A {end} $B", special_tokens=[(end, backend.token_to_id(end))]
        )


def _mismatch(message: str, remedy: str) -> Refusal:
    return Refusal("Model", "TokenizerMismatch", message, remedy)
