"""The tiny CLIP's vocabulary: fields with values, captions in full or in part, a tokenizer."""

import itertools

import numpy as np
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from dfnb.demo import people
from tools.tiny_clip.tiny_clip import WORDS

FIELDS: dict[str, tuple] = {
    **people.ATTRIBUTES,
    "expression": ("neutral", "smiling", "talking"),
    "gaze": ("ahead", "left", "right"),
    "quality": ("sharp", "blurry", "noisy", "compressed"),
}
OWNED = {"glasses": "glasses", "beard": "a beard"}  # fields that are True or False
SPECIALS = ("<|pad|>", "<|unknown|>", "<|startoftext|>", "<|endoftext|>")


def describe(values: dict) -> str:
    """Return a caption of the given values of FIELDS alone, in the words of `people.caption`.

    A field that is absent is not mentioned; False is said in words ("no glasses").
    """
    photo = f"a {values['quality']} photo" if "quality" in values else "a photo"
    noun = " ".join(filter(None, [values.get("age"), values.get("gender", "person")]))
    article = "an" if noun[0] in "aeiou" else "a"
    hair = [values[name] for name in ("hair_length", "hair_colour") if name in values]
    things = [" ".join([*hair, "hair"])] if hair else []
    for name in ("beard", "glasses"):
        if name in values:
            things.append(OWNED[name] if values[name] else f"no {name}")
    listed = " and ".join(filter(None, [", ".join(things[:-1]), *things[-1:]]))
    ends = [
        _mood(values.get("expression")), f"looking {values['gaze']}" if "gaze" in values else ""
    ]
    head = f"{photo} of {article} {noun}" + (f" with {listed}" if listed else "")
    return ", ".join(filter(None, [head, *ends, values.get("place")]))


def _mood(expression: str | None) -> str | None:
    return "with a neutral face" if expression == "neutral" else expression


def values(codes: np.ndarray, said: np.ndarray | None = None) -> dict:
    """Return the fields of one row of codes (one index per FIELDS entry).

    Only those marked in `said`, if given.
    """
    named = {
        name: choices[code]
        for (name, choices), code in zip(FIELDS.items(), codes, strict=True)
    }
    return (
        named
        if said is None
        else {name: named[name] for name, true in zip(FIELDS, said, strict=True) if true}
    )


def write(codes: np.ndarray, said: np.ndarray) -> list[str]:
    """Return captions of codes (n, fields), each saying the fields marked in `said` (n, fields).

    A caption that says everything but perhaps the quality is a full one: like `people.caption`, it
    passes over the glasses and the beard that are not there.
    """
    full = said[:, :-1].all(axis=1)
    mentioned = [values(row, mask) for row, mask in zip(codes, said, strict=True)]
    return [
        describe({k: v for k, v in each.items() if v is not False} if whole else each)
        for each, whole in zip(mentioned, full, strict=True)
    ]


def choose_said(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return which fields n captions mention, bool (n, fields): half all, half about three of ten.

    Captions in part let the text encoder learn one word at a time; full ones alone left it deaf to
    glasses and beard for most of a training. The quality is said in half of all captions.
    """
    said = rng.random((n, len(FIELDS))) < 0.25
    said[rng.random(n) < 0.5, :-1] = True
    said[:, -1] = rng.random(n) < 0.5
    silent = ~said.any(axis=1)
    said[silent, rng.integers(len(FIELDS) - 1, size=silent.sum())] = True
    return said


def fits(codes: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Return bool (n, n): does caption j, which says `said[j]` of `codes[j]`, hold for image i?"""
    equal = codes[:, None] == codes[None]  # (image, caption, field)
    return (equal | ~said[None]).all(axis=-1)


def prompts(field: str) -> list[str]:
    """Return one zero-shot prompt per value of a field: "a photo of a person with red hair"."""
    return [describe({field: value}) for value in FIELDS[field]]


def sentences() -> list[str]:
    """Return captions for the tokenizer that use each pair of values once."""
    pairs = itertools.combinations(FIELDS.items(), 2)
    both = [{a: x, b: y} for (a, first), (b, second) in pairs for x in first for y in second]
    return [describe(each) for each in both]


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-pair tokenizer trained on the captions.

    Any lower-case English text can be spelt with it.

    Text is lower-cased and stripped of accents; ids 0-3 are pad, unknown, start and end. Every word
    of the captions becomes one token, and letters and digits remain for words it has not met.
    """
    core = Tokenizer(models.BPE(unk_token=SPECIALS[1], end_of_word_suffix="</w>"))
    core.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    core.decoder = decoders.BPEDecoder(suffix="</w>")
    marks = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"()-/&"
    letters = [" ".join(marks),
               " ".join(f"{mark}{mark}" for mark in marks)]  # alone and inside a word
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        min_frequency=1,
        special_tokens=list(SPECIALS),
        initial_alphabet=list(marks),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    core.train_from_iterator([*sentences(), *letters], trainer)
    first, last = core.token_to_id(SPECIALS[2]), core.token_to_id(SPECIALS[3])
    core.post_processor = processors.TemplateProcessing(
        single=f"{SPECIALS[2]} $A {SPECIALS[3]}", special_tokens=[(SPECIALS[2], first),
                                                                  (SPECIALS[3], last)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=SPECIALS[0],
        unk_token=SPECIALS[1],
        bos_token=SPECIALS[2],
        eos_token=SPECIALS[3],
        model_max_length=WORDS,
        clean_up_tokenization_spaces=False,
    )
