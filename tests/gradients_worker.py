"""Run by the launcher in test_training: the gradients of a student's global batch, spread over the processes."""

import sys

import torch

from rvlr import config
from rvlr.distributed import processes
from rvlr.models.retrieval import RetrievalModel
from rvlr.training.tasks import StudentTask

model_folder, batch_file, output, count = sys.argv[1:]
with processes(int(count)) as group:
    accelerator = group.accelerator
    torch.manual_seed(0)
    model = RetrievalModel.student_from(model_folder, teacher_widths=[16, 16], fusion_weight=0.3)
    section = config.parse({"teacher": "t", "weights": {"itm": 0}}, "test", config.Student)
    task = accelerator.prepare(StudentTask(model, section))
    task.train()
    batch = torch.load(batch_file, weights_only=True)
    share = len(batch["image"]) // accelerator.num_processes
    mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    terms = task({name: value[mine] for name, value in batch.items()})
    accelerator.backward(terms["loss"])
    if accelerator.is_main_process:
        gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        torch.save({"gradients": gradients, "terms": {name: value.detach() for name, value in terms.items()}}, output)
