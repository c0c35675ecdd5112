#!/usr/bin/env python
"""
Finetunes, evaluates and predicts on texts with an image each, by classes of your own: one for each row, or any number.

    python run_scripts/run_image_text_classification.py --model_name_or_path outputs/pretrained --output_dir outputs/memes \\
        --train_file memes.csv --held_out 0.1 --do_train --do_eval --image_column picture --label_column kind

A recipe may come first, and every option of it can be given on the command line, which takes precedence.
"""

from renaissance.tasks.image_text_classification import ImageTextClassification
from renaissance.tasks.runner import run_task


if __name__ == "__main__":
    run_task(ImageTextClassification, __doc__)
