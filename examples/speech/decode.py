"""Word error rate: a hybrid DNN-HMM decode of held-out utterances from a system's frame probabilities.

A net's posterior of a phone state over the state's prior is, up to a constant, the likelihood of the frame that
an HMM asks for. The search runs over all words of the training transcripts at once: every pronunciation
is a chain of phone states with a silence behind it that may be skipped, and the end of each leads to the
start of each at the cost of a bigram. Bigrams are counted on training transcripts alone. A word that these
do not contain cannot be found and counts as an error, unless the vocabulary is closed.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import frames
import jiwer
import numpy as np
from numpy.typing import NDArray

STATES = 3
SILENCE = "SIL"
START, END = "<s>", "</s>"
IMPOSSIBLE = np.float32(-1e30)

Scores = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Network:
    """All that is searched: HMM states in chains, one chain a pronunciation; chain 0 is `START`."""

    words: list[str]
    language: Scores
    """[words, words + 1] log probability of the next word; the last column is `END`."""
    classes: Indices
    """[states] the phone state, a class of the acoustic model."""
    starts: Indices
    """[chains] the first state."""
    exits: Indices
    """[chains, 2] the last state of the last phone, and of the silence behind it."""
    word_of: Indices
    """[chains] an index into `words`."""


def word_error_rate(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    path: str = "frames.npz",
    side: str = "test",
    closed_vocabulary: bool = False,
    language_weight: float = 6.0,
    word_penalty: float = 5.0,
    beam: float = 150.0,
) -> dict[str, tuple[list[int], list[int]]]:
    """Errors (words substituted, inserted, left out) a word of the held-out transcripts, as errors and words of each
    utterance, so that the rate has an interval over utterances.

    probabilities: [N, 117] of all frames of one split in order, at temperature 1.
    labels: their classes. The decode does not look at them except to make sure that they are of that split.
    closed_vocabulary: search all words of the lexicon, with the unigram's share for those that training
    never said; named `word_error_rate_closed`, because no error of it is for want of a word.
    The weights and the beam are those that served a single net best on the validation utterances.
    """
    corpus = frames.read_corpus(path)
    chosen = corpus.of(side)
    expected = np.concatenate([corpus.labels[i] for i in chosen])
    classes = len(corpus.phones) * STATES
    if probabilities.shape != (len(expected), classes):
        raise ValueError(
            f"probabilities: found shape {list(probabilities.shape)}, expected [{len(expected)}, {classes}], one row "
            f"for each {side} frame in {path}"
        )
    if not np.array_equal(labels, expected):
        raise ValueError(
            f"labels: found others than those of the {side} frames in {path}; expected every frame of that split "
            "in its order"
        )
    training = corpus.of("train")
    transcripts = [corpus.transcripts[i].split() for i in training]
    spoken_in_training = {word for transcript in transcripts for word in transcript}
    words = sorted(corpus.lexicon if closed_vocabulary else spoken_in_training)
    network = build_network(transcripts, words, corpus.lexicon, corpus.phones)
    stay, leave, prior = count_states([corpus.labels[i] for i in training], classes)

    likelihoods = (np.log(np.maximum(probabilities, 1e-8)) - prior).astype(np.float32)
    ends = np.cumsum([len(corpus.labels[i]) for i in chosen])
    found = [
        viterbi(part, network, stay, leave, language_weight, word_penalty, beam)
        for part in np.split(likelihoods, ends[:-1])
    ]
    compared = [
        jiwer.process_words(corpus.transcripts[i], " ".join(words)) for i, words in zip(chosen, found, strict=True)
    ]
    errors = [each.substitutions + each.deletions + each.insertions for each in compared]
    spoken = [each.hits + each.substitutions + each.deletions for each in compared]
    name = "word_error_rate_closed" if closed_vocabulary else "word_error_rate"
    return {name: (errors, spoken)}


def build_network(
    transcripts: list[list[str]],
    words: list[str],
    lexicon: dict[str, list[list[str]]],
    phones: list[str],
) -> Network:
    """The words in all their pronunciations, and between them the bigrams of the transcripts."""
    words = [START, *words]
    chains = [(0, [SILENCE])]
    for index, word in enumerate(words[1:], start=1):
        # A pronunciation with a phone that no recording has cannot be scored.
        known = [said for said in lexicon[word] if set(said) <= set(phones)]
        chains += [(index, [*said, SILENCE]) for said in known]
    lengths = np.array([len(said) * STATES for _, said in chains])
    ends = np.cumsum(lengths)
    exits = np.stack([ends - 1 - STATES, ends - 1], axis=1)
    exits[0] = ends[0] - 1
    first = np.array([phones.index(phone) * STATES for _, said in chains for phone in said])
    return Network(
        words=words,
        language=bigram(transcripts, words),
        classes=(first[:, None] + np.arange(STATES)).ravel(),
        starts=ends - lengths,
        exits=exits,
        word_of=np.array([word for word, _ in chains]),
    )


def bigram(transcripts: list[list[str]], words: list[str], discount: float = 0.7) -> Scores:
    """[words, words + 1] log P(next word | word), `END` last, by absolute discounting.

    What is taken off the counts of seen pairs goes to the unigram, in which every word was seen
    once more than it was.
    """
    column = {word: index for index, word in enumerate([*words[1:], END], start=1)}
    single = np.ones(len(words) + 1)
    single[0] = 0  # nothing is followed by the start
    pairs = np.zeros((len(words), len(words) + 1))
    for transcript in transcripts:
        for before, after in zip([START, *transcript], [*transcript, END], strict=True):
            row = 0 if before == START else column[before]
            pairs[row, column[after]] += 1
            single[column[after]] += 1
    kept = np.maximum(pairs - discount, 0) / np.maximum(pairs.sum(axis=1, keepdims=True), 1)
    smoothed = kept + (1 - kept.sum(axis=1, keepdims=True)) * single / single.sum()
    with np.errstate(divide="ignore"):
        return np.asarray(np.maximum(np.log(smoothed), IMPOSSIBLE), dtype=np.float32)


def count_states(labels: Iterable[NDArray[np.int64]], classes: int) -> tuple[Scores, Scores, Scores]:
    """[classes] log probabilities of staying in a state, of leaving it, and of the state itself."""
    frames_in: Counter[int] = Counter()
    runs: Counter[int] = Counter()
    for utterance in labels:
        frames_in.update(utterance.tolist())
        runs.update(utterance[np.flatnonzero(np.diff(utterance, prepend=-1))].tolist())
    occupied = np.array([frames_in[state] + 1 for state in range(classes)], dtype=np.float32)
    left = np.array([runs[state] + 0.5 for state in range(classes)], dtype=np.float32)
    return np.log(1 - left / occupied), np.log(left / occupied), np.log(occupied / occupied.sum())


def viterbi(
    likelihoods: Scores,
    network: Network,
    stay: Scores,
    leave: Scores,
    language_weight: float,
    word_penalty: float,
    beam: float,
) -> list[str]:
    """The words of the best path through the network, by token passing.

    Each state holds a score and the number of the record that ended the word before; a record is
    a word and the record before it, so that the words are read off the winner backwards.
    """
    language = network.language * np.float32(language_weight) - np.float32(word_penalty)
    staying, leaving = stay[network.classes], leave[network.classes]
    chains = np.arange(len(network.starts))

    score = np.full(len(network.classes), IMPOSSIBLE)
    record = np.zeros(len(network.classes), dtype=np.int64)
    entering = language[0, network.word_of]
    entering[0] = 0.0
    entering_record = np.zeros(len(chains), dtype=np.int64)
    history: list[tuple[int, int]] = [(0, -1)]

    for frame in likelihoods[:, network.classes]:
        moved = np.roll(score + leaving, 1)
        moved_record = np.roll(record, 1)
        moved[network.starts], moved_record[network.starts] = entering, entering_record
        score = score + staying
        better = moved > score
        score = np.where(better, moved, score) + frame
        record = np.where(better, moved_record, record)
        score[score < score.max() - beam] = IMPOSSIBLE

        done, done_record = leave_words(score + leaving, record, network)
        live = np.flatnonzero(done > IMPOSSIBLE / 2)
        entering = np.full(len(chains), IMPOSSIBLE)
        if len(live):
            onward = done[live, None] + language[live]
            best = onward.argmax(axis=0)[network.word_of]
            entering = onward[best, network.word_of]
            entering_record = len(history) + best
            history += zip(live.tolist(), done_record[live].tolist(), strict=True)

    final = done + language[:, -1]
    winner = int(final.argmax())
    if final[winner] < IMPOSSIBLE / 2:  # within the beam no word was ending
        return []
    return trace(history, winner, int(done_record[winner]), network.words)


def leave_words(score: Scores, record: Indices, network: Network) -> tuple[Scores, Indices]:
    """[words] the best score in which each word ends now, and the record of the word before it."""
    choice = score[network.exits].argmax(axis=1)
    states = network.exits[np.arange(len(choice)), choice]
    ended = score[states]
    done = np.full(len(network.words), IMPOSSIBLE)
    np.maximum.at(done, network.word_of, ended)
    won = ended == done[network.word_of]
    done_record = np.zeros(len(done), dtype=np.int64)
    done_record[network.word_of[won]] = record[states[won]]
    return done, done_record


def trace(history: list[tuple[int, int]], word: int, record: int, words: list[str]) -> list[str]:
    """The words of a chain of records, first to last."""
    found = [words[word]]
    while record > 0:
        word, record = history[record]
        found.append(words[word])
    return [word for word in reversed(found) if word != START]
