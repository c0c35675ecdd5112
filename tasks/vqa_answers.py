"""
Answers to questions about images: their normal form, their accuracy if people disagree, and the vocabulary of a
classifier. Normal form and accuracy follow the facts of VQA's public evaluation code
(https://github.com/GT-Vision-Lab/VQA, PythonEvaluationTools).
"""

import functools
import re
from collections import Counter
from collections.abc import Iterable


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
    return re.sub(r"\.(?!\d)", "", stripped)


@functools.lru_cache(maxsize=2**16)
def normalize_answer(answer: str) -> str:
    """Return an answer in lower case, without punctuation and articles, with digits up to ten and apostrophes."""
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    words = [NUMBERS.get(word, word) for word in strip_punctuation(answer).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


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


def answer_accuracies(answers: list[str]) -> dict[str, float]:
    """
    Return the accuracy of each of the people's answers as a prediction; that of any other is 0.

    The evaluation code takes the answers of ten people as they are if all agree, else without punctuation: VQA's are
    otherwise in normal form. Answers of fewer people are brought into normal form.
    """
    if len(answers) < OFFICIAL_ANSWERS:
        answers = [normalize_answer(answer) for answer in answers]
    elif len(set(answers)) > 1:
        answers = [strip_punctuation(answer) for answer in answers]
    return {answer: leave_one_out_score(count, len(answers)) for answer, count in Counter(answers).items()}


def majority_answer(answers: list[str]) -> str:
    """Return the normal form of the most frequent answer, the first of several in the list."""
    return normalize_answer(Counter(answers).most_common(1)[0][0])


def answer_vocabulary(answer_lists: Iterable[list[str]], min_count: int) -> list[str]:
    """Return the answers that are the most frequent one of at least `min_count` questions, most frequent first."""
    counts = Counter(map(majority_answer, answer_lists))
    return sorted((answer for answer, count in counts.items() if count >= min_count), key=lambda a: (-counts[a], a))
