import multiprocessing
import pickle
import threading

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertTokenizer, CLIPTokenizer, GPT2Tokenizer, T5Tokenizer

from sensorium.modalities.base import get_modality
from sensorium.modalities.text import MAX_CHARACTERS, Text, TextView, Tokenizer
from sensorium.types import BadValue, Field, UserError

CAPTIONS = [
    "a red cat left of a blue dog",
    "eine rote Katze neben einem blauen Hund",
    "kucing merah di kiri anjing biru",
    "红色的猫在蓝色的狗左边",
    "two dogs 🐕🐕 and naïve café",
] * 20
FIELD = Field(name="caption", modality="text")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(CAPTIONS, 400)


def test_train_gives_every_byte_and_puts_the_ends(tokenizer):
    ids, mask = tokenizer.encode(["a red cat", "ქართული 🐉 \u0301"], 64)
    assert tokenizer.size <= 400
    assert ids[0, 0] == tokenizer.cls_id
    assert ids[0, int(mask[0].sum()) - 1] == tokenizer.sep_id
    assert (ids[0][~mask[0]] == tokenizer.pad_id).all()
    assert tokenizer.decode(ids[1]) == "ქართული 🐉 \u0301"  # none of it was seen in training
    assert tokenizer.special_ids == (0, 1, 2, 3)
    assert tokenizer.mask_id == 3


def test_train_learns_words(tokenizer):
    ids, _ = tokenizer.encode(["a red cat left of a blue dog"], 64)
    assert ids.shape[1] <= 2 + 2 * 8  # far fewer than the 28 bytes


def test_train_refuses_a_size_without_room_for_bytes():
    with pytest.raises(UserError, match="260"):
        Tokenizer.train(["a"], 100)


def test_training_is_deterministic(tokenizer):
    assert Tokenizer.train(iter(CAPTIONS), 400) == tokenizer


def test_canonically_equal_texts_have_equal_ids(tokenizer):
    ids, _ = tokenizer.encode(["caf\u00e9", "cafe\u0301"], 20)
    assert torch.equal(ids[0], ids[1])


def test_truncation_keeps_the_final_special_token(tokenizer):
    ids, mask = tokenizer.encode(["a red cat " * 50, "a"], 6)
    full, _ = tokenizer.encode(["a red cat " * 50], 1000)
    assert ids.shape == (2, 6)
    assert ids[0].tolist() == [*full[0, :5].tolist(), tokenizer.sep_id]
    assert mask[0].all()
    assert mask[1].sum() == 3


def test_too_few_tokens_for_the_specials(tokenizer):
    with pytest.raises(UserError, match="max_tokens"):
        tokenizer.encode(["a"], 2)


def test_batched_equals_single(tokenizer):
    ids, mask = tokenizer.encode(CAPTIONS[:5], 64)
    for text, row, real in zip(CAPTIONS, ids, mask, strict=False):
        alone, _ = tokenizer.encode([text], 64)
        assert torch.equal(row[real], alone[0])


def test_special_tokens_written_in_a_text_are_plain_characters(tokenizer):
    ids, mask = tokenizer.encode(["a [MASK] b [PAD]"], 64)
    inner = ids[0][mask[0]][1:-1]
    assert not set(inner.tolist()) & set(tokenizer.special_ids)
    assert tokenizer.decode(ids[0]) == "a [MASK] b [PAD]"


def test_offsets_point_at_characters(tokenizer):
    text = "红色的猫 beside a cafe\u0301"
    ids, mask, offsets = tokenizer.encode_with_offsets([text, "a"], 64)
    same_ids, same_mask = tokenizer.encode([text, "a"], 64)
    assert torch.equal(ids, same_ids)
    assert torch.equal(mask, same_mask)
    assert offsets.shape == (*ids.shape, 2)
    assert offsets[0, 0].tolist() == [0, 0]
    assert offsets[1, 3:].eq(0).all()
    start, end = text.index("beside"), text.index("beside") + 6
    covered = [(a, b) for a, b in offsets[0].tolist() if a < end and b > start and b > a]
    assert min(a for a, _ in covered) == start
    assert max(b for _, b in covered) == end
    assert offsets.max() == text.index("\u0301")  # characters of the original; NFC joins the last


def test_no_texts(tokenizer):
    ids, mask = tokenizer.encode([], 8)
    assert ids.shape == mask.shape == (0, 0)


def test_save_and_load_and_pickle_are_equal(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    loaded = Tokenizer.load(tmp_path / "tokenizer")
    copied = pickle.loads(pickle.dumps(tokenizer))
    texts = ["a red [SEP] cat", "红色"]
    for other in (loaded, copied):
        assert other == tokenizer
        assert hash(other) == hash(tokenizer)
        assert other.special_ids == tokenizer.special_ids
        assert torch.equal(other.encode(texts, 20)[0], tokenizer.encode(texts, 20)[0])
    assert loaded != Tokenizer.train(["a"], 300)


def test_using_it_does_not_change_it(tokenizer):
    before = pickle.dumps(tokenizer)
    tokenizer.encode(["a red cat"] * 3, 7)
    assert pickle.dumps(tokenizer) == before


@pytest.mark.parametrize("damage", ["missing", "tokenizer.json", "tokenizer_config.json"])
def test_load_names_what_is_damaged(tokenizer, tmp_path, damage):
    if damage != "missing":
        tokenizer.save(tmp_path)
        (tmp_path / damage).write_text("{")
    with pytest.raises(UserError, match=r"tokenizer in .* cannot be read"):
        Tokenizer.load(tmp_path)


def test_threads_with_different_limits_do_not_cut_each_other(tokenizer):
    text = "a red cat left of a blue dog " * 4
    lengths: dict[int, set[int]] = {limit: set() for limit in (5, 12, 30)}

    def work(limit):
        for _ in range(200):
            lengths[limit].add(tokenizer.encode([text], limit)[0].shape[1])

    threads = [threading.Thread(target=work, args=(limit,)) for limit in lengths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == {5: {5}, 12: {12}, 30: {30}}


def _encode_in_worker(tokenizer, texts):
    return tokenizer.encode(texts, 16)[0].numpy()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_works_in_a_forked_worker_without_a_word(tokenizer, capfd):
    here = tokenizer.encode(CAPTIONS[:5], 16)[0].numpy()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        there = pool.apply(_encode_in_worker, (tokenizer, CAPTIONS[:5]))
    assert np.array_equal(here, there)
    assert capfd.readouterr().err == ""


BYTES = [chr(code) for code in range(33, 127)]
BPE = {token: i for i, token in enumerate([*BYTES, *(f"{c}</w>" for c in BYTES), "ca", "cat</w>"])}


def _published(kind, folder):
    if kind == "clip":
        vocabulary = {**BPE, "<|startoftext|>": len(BPE), "<|endoftext|>": len(BPE) + 1}
        found = CLIPTokenizer(vocab=vocabulary, merges=[("c", "a"), ("ca", "t</w>")])
    elif kind == "bert":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cat", "##s", "猫", "!"]
        found = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    elif kind == "gpt2":
        vocabulary = {**{c: i for i, c in enumerate([*BYTES, "Ġ"])}, "<|endoftext|>": 95, "ca": 96}
        found = GPT2Tokenizer(vocab=vocabulary, merges=[("c", "a")])
    else:
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁cat", -1.0)]
        found = T5Tokenizer(vocab=[*pieces, *((c, -3.0) for c in BYTES)], extra_ids=0)
    found.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["clip", "bert", "gpt2", "t5"])
def test_published_tokenizers_give_their_own_ids(kind, tmp_path):
    theirs = _published(kind, tmp_path)
    ours = Tokenizer.from_hub(tmp_path)
    texts = ["a red cat!", "Cats 猫 [MASK] <|endoftext|> </s> a", "x " * 40]
    for limit in (64, 9):
        ids, mask = ours.encode(texts, limit)
        expected = theirs(texts, truncation=True, max_length=limit)["input_ids"]
        assert [row[real].tolist() for row, real in zip(ids, mask, strict=True)] == expected
    assert ours.size >= max(theirs.get_vocab().values()) + 1
    assert Tokenizer.from_hub(str(tmp_path)) == pickle.loads(pickle.dumps(ours))
    begins = {"clip": theirs.bos_token_id, "bert": theirs.cls_token_id, "gpt2": theirs.bos_token_id}
    assert ours.cls_id == begins.get(kind, ours.cls_id)
    assert ours.sep_id == (theirs.sep_token_id if kind == "bert" else theirs.eos_token_id)
    assert ours.mask_id == (theirs.mask_token_id if kind == "bert" else None)
    assert set(theirs.all_special_ids) <= set(ours.special_ids)


def test_a_published_tokenizer_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        Tokenizer.from_hub(tmp_path / "nowhere")


def test_transformers_reads_a_saved_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("a red cat")["input_ids"] == tokenizer.encode(["a red cat"], 64)[0][0].tolist()
    assert theirs.mask_token_id == tokenizer.mask_id


def test_decode_values(tmp_path):
    text, view = Text(), TextView()
    assert text.decode("ab\0c", FIELD, view) == "ab c"
    assert text.decode("half \ud800 pair\0", FIELD, view) == "half ? pair "
    assert text.decode("é".encode(), FIELD, view) == "é"
    assert text.decode(3, FIELD, view) == "3"
    assert text.decode(np.float64(2.5), FIELD, view) == "2.5"
    assert len(text.decode("x" * (MAX_CHARACTERS + 5), FIELD, view)) == MAX_CHARACTERS
    path = tmp_path / "note.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "Grüße".encode())
    assert text.decode(path, FIELD, view) == "Grüße"


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "cannot be read"), (b"", "empty"), (b"\xff\xfe\x00", "UTF-8")]
)
def test_bad_text_files(tmp_path, content, reason):
    path = tmp_path / "note.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadValue, match=rf"caption.*note\.txt.*{reason}"):
        Text().decode(path, FIELD, TextView())


@pytest.mark.parametrize("raw", [b"\xff\xff", {"a": 1}, ["a"]])
def test_bad_text_values(raw):
    with pytest.raises(BadValue, match="caption"):
        Text().decode(raw, FIELD, TextView())


def test_entries_and_collate(tokenizer):
    text = get_modality("text")
    assert text.entries(["a", "", None, "b"], FIELD) == ["a", "b"]
    assert text.entries("  ", FIELD) == []
    values = [text.decode(raw, FIELD, TextView()) for raw in ("half \ud800", "a\0red cat")]
    ids, mask = text.collate(values, FIELD, TextView(tokenizer=tokenizer, max_tokens=10))
    assert ids.dtype == torch.int64
    assert mask.dtype == torch.bool
    assert ids.shape == mask.shape
    with pytest.raises(ValueError, match="no tokenizer"):
        text.collate(values, FIELD, TextView())
