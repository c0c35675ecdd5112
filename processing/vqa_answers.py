"""
Answers to questions about images: their normal form, their accuracy if people disagree, and the vocabulary of a
classifier. Normal form and accuracy follow the facts of VQA's public evaluation code, as it is since March 2021
(https://github.com/GT-Vision-Lab/VQA, PythonEvaluationTools).
"""

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np


PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = {"a", "an", "the"}
NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
NUMBERS |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}
#: Contractions of the evaluation code, which repairs them if one apostrophe is missing.
CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's how'd
how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't
'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're
they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll
who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
you've
"""
CONTRACTIONS = {
    word[: mark.start()] + word[mark.end() :]: word for word in CONTRACTED.split() for mark in re.finditer("'", word)
}
# An exception in the evaluation code.
CONTRACTIONS["somebody'd"] = "somebodyd"

#: Number of people who answer a question of VQA, and of others who must agree with an answer for full accuracy.
OFFICIAL_ANSWERS = 10
AGREEMENT = 3
#: The evaluation code deletes no more periods of an answer than this: it passes a flag of that value as the count.
MOST_PERIODS = 32


def clean(answer: str) -> str:
    """Return an answer on one line, without white space around it: the form in which a unanimous answer is compared."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def strip_punctuation(answer: str) -> str:
    """
    Return an answer without punctuation. A mark is deleted if it stands beside a space anywhere in the answer, or if a
    comma stands between digits; else it becomes a space. Periods are deleted unless a digit follows.
    """
    number = re.search(r"\d,\d", answer)
    stripped = answer
    for mark in PUNCTUATION:
        traceless = number or f"{mark} " in answer or f" {mark}" in answer
        stripped = stripped.replace(mark, "" if traceless else " ")
    return re.sub(r"\.(?!\d)", "", stripped, count=MOST_PERIODS)


@functools.lru_cache(maxsize=2**16)
def normalize_answer(answer: str) -> str:
    """Return an answer in lower case, without punctuation and articles, with digits up to ten and apostrophes."""
    words = [NUMBERS.get(word, word) for word in strip_punctuation(clean(answer)).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def comparison_form(answers: Sequence[str]) -> Callable[[str], str]:
    """
    Return the function whose results are compared, of people's answers to a question and of a prediction. The
    evaluation code compares the answers of ten people who all agree as they are written, others in normal form.
    Answers of fewer people, which it does not know, are compared in normal form.
    """
    unanimous = len(answers) >= OFFICIAL_ANSWERS and len(set(map(clean, answers))) == 1
    return clean if unanimous else normalize_answer


def leave_one_out_score(count: int, total: int) -> float:
    """
    Return the accuracy of an answer that `count` of `total` people gave (Antol et al. 2015, in the form of the
    evaluation code): min(matches / 3, 1) with the others, averaged over leaving each person out. For ten people: 0,
    0.3, 0.6, 0.9, and 1 from four on. With fewer than four people it must agree with all the others, with one person
    with that one.
    """
    if total == 1:
        return float(count)
    needed = min(AGREEMENT, total - 1)
    with_one_less, with_all = min((count - 1) / needed, 1), min(count / needed, 1)
    return (count * with_one_less + (total - count) * with_all) / total if count else 0.0


def count_score(count: int, total: int) -> float:
    """Return the same without leaving anyone out, min(count / 3, 1); with fewer than three people, count / total."""
    return min(count / min(AGREEMENT, total), 1.0)


#: The soft targets of training, by their names in the option.
ANSWER_SCORES = {"leave_one_out": leave_one_out_score, "count": count_score}


def answer_accuracies(answers: Sequence[str], score: Callable[[int, int], float] = leave_one_out_score) -> dict:
    """
    Return the accuracy of each of the people's answers, in the form of `comparison_form`, as a prediction; that of any
    other is 0. `score` is one of `ANSWER_SCORES`.
    """
    counts = Counter(map(comparison_form(answers), answers))
    return {answer: score(count, len(answers)) for answer, count in counts.items()}


def answer_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return the accuracy of a prediction, given people's answers to the question."""
    return answer_accuracies(answers).get(comparison_form(answers)(prediction), 0.0)


def best_constant_accuracy(answer_lists: Sequence[Sequence[str]]) -> float:
    """Return the highest mean accuracy over questions that one answer to all of them has."""
    totals = {clean: Counter(), normalize_answer: Counter()}
    for answers in answer_lists:
        totals[comparison_form(answers)].update(answer_accuracies(answers))
    # An answer earns where it is compared as written, and where its normal form is compared.
    written, normal = totals[clean], totals[normalize_answer]
    candidates = written.keys() | normal.keys()
    return max(written[each] + normal[normalize_answer(each)] for each in candidates) / len(answer_lists)


def majority_answer(answers: Sequence[str]) -> str:
    """Return the most frequent answer, the first of several, in the form of `comparison_form`."""
    return Counter(map(comparison_form(answers), answers)).most_common(1)[0][0]


def answer_vocabulary(answer_lists: Iterable[Sequence[str]], min_count: int) -> list[str]:
    """
    Return the answers that are the most frequent one of at least `min_count` questions, most frequent first, counted in
    normal form. Each is written as most unanimous answers to a question are, which are compared as written.
    """
    counts, spellings = Counter(), defaultdict(Counter)
    for answers in answer_lists:
        majority = majority_answer(answers)
        counts[normalize_answer(majority)] += 1
        if comparison_form(answers) is clean:
            spellings[normalize_answer(majority)][majority] += 1
    names = [answer for answer, count in counts.items() if count >= min_count]
    names.sort(key=lambda answer: (-counts[answer], answer))
    return [spellings[name].most_common(1)[0][0] if spellings[name] else name for name in names]


class AnswerTargets:
    """
    How right each answer of a vocabulary is as the answer to a question.

    Args:
        names: The vocabulary.
        score: The name of the accuracy, one of `ANSWER_SCORES`.
    """

    def __init__(self, names: Sequence[str], score: str = "leave_one_out"):
        self.size = len(names)
        self.score = score
        #: The numbers of the names, by the forms in which they may be compared.
        self._numbers: dict[Callable, dict[str, list[int]]] = {clean: {}, normalize_answer: {}}
        for form, numbers in self._numbers.items():
            for number, name in enumerate(names):
                numbers.setdefault(form(name), []).append(number)

    def __call__(self, answers: Sequence[str]) -> np.ndarray:
        """Return the accuracy of each answer of the vocabulary (size,), float32, given people's answers; all may be 0."""
        numbers, targets = self._numbers[comparison_form(answers)], np.zeros(self.size, dtype=np.float32)
        for answer, accuracy in answer_accuracies(answers, ANSWER_SCORES[self.score]).items():
            targets[numbers.get(answer, [])] = accuracy
        return targets

    def knows(self, answers: Sequence[str]) -> bool:
        """Return whether the vocabulary has one of people's answers."""
        form = comparison_form(answers)
        return not self._numbers[form].keys().isdisjoint(map(form, answers))
