"""The smallest whole distillation: a 12-layer BERT into 3 layers, on tokens drawn at random.

It shows the calls, not a result: there is nothing to learn in random tokens.
"""

import torch
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

import textbrewer
from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

torch.manual_seed(0)

# Models. With real ones: teacher = AutoModelForSequenceClassification.from_pretrained("...").
sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256, "vocab_size": 1000}
teacher = BertForSequenceClassification(BertConfig(num_hidden_layers=12, output_hidden_states=True, **sizes))
student = BertForSequenceClassification(BertConfig(num_hidden_layers=3, output_hidden_states=True, **sizes))
for name, model in {"teacher": teacher, "student": student}.items():
    print(name, textbrewer.utils.display_parameters(model, max_level=2)[0], sep="\n")

# Data: 64 rows of 32 tokens.
rows = [
    {"input_ids": torch.randint(1, 1000, (32,)), "attention_mask": torch.ones(32).long(), "labels": torch.tensor(i % 2)}
    for i in range(64)
]
loader = DataLoader(rows, batch_size=8, shuffle=True)


# An adaptor says what a model's outputs mean. Transformers models need none: leave both out of the distiller.
def adaptor(batch, model_outputs):
    return {"logits": model_outputs.logits, "hidden": model_outputs.hidden_states, "losses": model_outputs.loss}


distill_config = DistillationConfig(
    temperature=8,
    hard_label_weight=1,
    intermediate_matches=[
        {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1},
        {"layer_T": 8, "layer_S": 2, "feature": "hidden", "loss": "hidden_mse", "weight": 1},
        {"layer_T": [0, 0], "layer_S": [0, 0], "feature": "hidden", "loss": "gram", "weight": 0.1},
    ],
)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
distiller = GeneralDistiller(
    TrainingConfig(output_dir="runs/random_tokens"), distill_config, teacher, student, adaptor, adaptor
)
with distiller:
    distiller.train(
        optimizer,
        loader,
        num_epochs=1,
        scheduler_class=torch.optim.lr_scheduler.LinearLR,
        scheduler_args={"start_factor": 1.0, "end_factor": 0.0, "total_iters": len(loader)},
        callback=lambda model, step: print(f"step {step}: saved; an evaluation would go here"),
    )
