"""Classify movie reviews with the stock Trainer: `torchrun train.py --model DIR --reviews FILE ...`."""

from argparse import ArgumentParser

from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

parser = ArgumentParser()
for flag in ("--model", "--reviews", "--checkpoints", "--output"):
    parser.add_argument(flag, required=True)
parser.add_argument("--steps", type=int, required=True)
options = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(options.model)
columns = ["id", "rating", "text"]
rows = load_dataset("csv", data_files=options.reviews, delimiter="\t", column_names=columns, quoting=3, split="train")
rows = rows.filter(lambda row: row["text"] is not None and row["rating"] is not None)
rows = rows.map(lambda row: {**tokenizer(row["text"], truncation=True), "label": int(row["rating"] > 0)})

trainer = Trainer(
    model=AutoModelForSequenceClassification.from_pretrained(options.model),
    args=TrainingArguments(
        output_dir=options.checkpoints,
        max_steps=options.steps,
        per_device_train_batch_size=32,
        learning_rate=1e-4,
        logging_steps=5,
        save_steps=50,
        save_total_limit=2,
    ),
    train_dataset=rows.select_columns(["input_ids", "attention_mask", "label"]),
    data_collator=DataCollatorWithPadding(tokenizer),
    processing_class=tokenizer,
)
trainer.train(resume_from_checkpoint=get_last_checkpoint(options.checkpoints))
trainer.save_model(options.output)
