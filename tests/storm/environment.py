"""What the environment brings: variables of other launchers and libraries, GPUs; and how many processes are wanted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from storm import Case, World

GPU = "GPU-57000000-0000-0000-0000-0000000{}"  # of no machine
LISTED = "".join(f"GPU {number}: Storm (UUID: {GPU.format(f'0000{number}')})\n" for number in range(2))
MIG = LISTED + "  MIG 1g.5gb     Device  0: (UUID: MIG-57000000-0000-0000-0000-000000000000)\n"
Arrange = Callable[[World, Path], list[str]]


def _stage(command: str, program: str | None = None, **training: Any) -> Arrange:
    """A stage with these settings; `program` is an nvidia-smi on PATH, where PATH is that of `_path`."""

    def arrange(world: World, folder: Path) -> list[str]:
        section = yaml.safe_load((world.sections / "teacher.yaml").read_text())
        section["training"] |= training
        (folder / "section.yaml").write_text(yaml.safe_dump(section))
        if program is not None:
            (folder / "bin").mkdir()
            (folder / "bin/nvidia-smi").write_text(program)
            (folder / "bin/nvidia-smi").chmod(0o755)
        if command == "extract":
            split = ["--split", str(world.data / "splits/train.jsonl"), "--model", str(world.model)]
            return [command, "--config", "section.yaml", *split, "--output", "features"]
        given = ["--start-model", str(world.model), "--splits", str(world.data / "splits"), "--seed", "0"]
        return [command, "--config", "section.yaml", *given, "--resume", "resume", "--output", "run"]

    return arrange


def _check(**sections: Any) -> Arrange:
    """A look at a configuration with these sections."""

    def arrange(world: World, folder: Path) -> list[str]:
        small = {"dataset": "shapes", "models": {"m": {}}, "teachers": {"t": {}}, "students": {"s": {"teacher": "t"}}}
        (folder / "c.yaml").write_text(yaml.safe_dump({**small, **sections}))
        return ["config", "check", "c.yaml"]

    return arrange


def _ignored(name: str, *named: str, **variables: str) -> Case:
    """A stage that does its work whatever these variables say, and names those that it ignores."""
    says = (rf"ignored, because results must not depend on it: {', '.join(named)} ",) if named else ()
    says = (*says, r"features of 24 images and 48 captions")
    return Case(name, _stage("extract"), says, status=0, environment=variables, changes=True)


def _gpu(name: str, listed: str, *says: str, visible: str | None = None, **training: Any) -> Case:
    """A machine on which nvidia-smi lists these GPUs, and PyTorch finds none of them."""
    variables = {"PATH": "bin:/usr/bin:/bin"} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    program = listed if listed.startswith("not") else f"#!/bin/sh\ncat <<'END'\n{listed}END\n"
    return Case(name, _stage("extract", program, **training), says, environment=variables)


def _processes(name: str, *says: str, **training: Any) -> Case:
    return Case(name, _check(training=training), (r"c\.yaml", *says))


CASES = [
    _ignored("a leftover WORLD_SIZE", "WORLD_SIZE", WORLD_SIZE="2"),
    _ignored("a rank that is no number", "LOCAL_RANK", "RANK", RANK="first", LOCAL_RANK="-7"),
    _ignored("a rendezvous nowhere", "MASTER_ADDR", "MASTER_PORT", MASTER_ADDR="no.such.host", MASTER_PORT="99999999"),
    _ignored(
        "inside torchrun",
        "LOCAL_RANK",
        "RANK",
        "TORCHELASTIC_RUN_ID",
        RANK="1",
        LOCAL_RANK="1",
        TORCHELASTIC_RUN_ID="x",
    ),
    _ignored(
        "inside mpirun",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        OMPI_COMM_WORLD_RANK="1",
        OMPI_COMM_WORLD_SIZE="2",
    ),
    _ignored("inside srun with PMI", "PMI_RANK", "PMI_SIZE", PMI_RANK="1", PMI_SIZE="4"),
    _ignored("inside a Slurm step", SLURM_PROCID="3", SLURM_NTASKS="4", SLURM_JOB_ID="12", SLURM_LOCALID="x"),
    _ignored(
        "accelerate: a precision it does not know", "ACCELERATE_MIXED_PRECISION", ACCELERATE_MIXED_PRECISION="fp7"
    ),
    _ignored(
        "accelerate: gradients accumulated",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
        ACCELERATE_GRADIENT_ACCUMULATION_STEPS="many",
    ),
    _ignored("accelerate: FSDP", "ACCELERATE_USE_FSDP", "FSDP_VERSION", ACCELERATE_USE_FSDP="true", FSDP_VERSION="9"),
    _ignored("accelerate: DeepSpeed, not installed", "ACCELERATE_USE_DEEPSPEED", ACCELERATE_USE_DEEPSPEED="true"),
    _ignored("accelerate: another device", "ACCELERATE_TORCH_DEVICE", ACCELERATE_TORCH_DEVICE="cuda:7"),
    _ignored("accelerate: a compiler nobody knows", "ACCELERATE_DYNAMO_BACKEND", ACCELERATE_DYNAMO_BACKEND="GCC"),
    _ignored("accelerate: a flag that is no flag", "FORK_LAUNCHED", FORK_LAUNCHED="perhaps"),
    _ignored("threads: a word", OMP_NUM_THREADS="abc", MKL_NUM_THREADS="abc"),
    _ignored("threads: none", OMP_NUM_THREADS="0"),
    _ignored("threads: fewer than none", OMP_NUM_THREADS="-1"),
    _ignored("threads: a limit of none", "OMP_THREAD_LIMIT", OMP_THREAD_LIMIT="0"),
    _ignored("timm: attention as it likes", "TIMM_FUSED_ATTN", TIMM_FUSED_ATTN="maybe"),
    _ignored("a place left over from a stage that has ended", RVLR_PROCESS="1:1:2:3:/no/such/folder"),
    _ignored("a place that is none", RVLR_PROCESS="yes"),
    _ignored("the CPU on purpose", CUDA_VISIBLE_DEVICES="", CUDA_DEVICE_ORDER="RANDOM"),
    Case(
        "threads: a word, in the relevance stage",
        lambda world, folder: ["relevance", "--captions", str(world.data / "splits/test.jsonl"), "--output", "r.npy"],
        (),
        status=0,
        environment={"OMP_NUM_THREADS": "two"},
        changes=True,
    ),
    Case(
        "a process whose launcher is gone",
        _stage("extract"),
        (r"process 1 of 2: the process that started it is gone; run the stage again",),
        environment={"RVLR_PROCESS": "1:1:2:3:/"},
    ),
    Case(
        "a GPU that is not there",
        _stage("extract"),
        (r"CUDA_VISIBLE_DEVICES: 'GPU-57' is none of this machine's GPUs", r"set CUDA_VISIBLE_DEVICES to nothing"),
        environment={"CUDA_VISIBLE_DEVICES": "GPU-57"},
    ),
    _gpu(
        "a GPU that PyTorch cannot use",
        LISTED,
        r"GPU-57\S+: PyTorch 2\S+ is built for",
        r"with .*driver",
        r"on purpose",
    ),
    _gpu("more processes than GPUs", LISTED, r"processes: 4 need as many GPUs, 2 are", processes=4, itm_pool=2),
    _gpu(
        "fewer GPUs visible than processes",
        LISTED,
        r"2 need as many GPUs, 1 are visible",
        visible="1",
        processes=2,
        itm_pool=2,
    ),
    _gpu("two processes on a part of a GPU", MIG, r"need whole GPUs, but", processes=2, itm_pool=2),
    _gpu(
        "a GPU named twice",
        LISTED,
        r"CUDA_VISIBLE_DEVICES: .* names GPU-57\S* twice",
        visible="0,GPU-57000000-0000-0000-0000-000000000000",
    ),
    _gpu("an nvidia-smi that is no program", "not a program\n\0", r"bin/nvidia-smi", r"Exec format error"),
    Case(
        "more processes than cores, without a GPU",
        _stage("extract", processes=64, batch_size=128, itm_pool=2),
        (r"processes: 64 need as many GPUs, or cores",),
        environment={"CUDA_VISIBLE_DEVICES": ""},
    ),
    Case(
        "half precision on the CPU",
        _stage("train-teacher", mixed_precision="fp16"),
        (r"training\.mixed_precision: fp16 needs a GPU",),
        environment={"CUDA_VISIBLE_DEVICES": ""},
    ),
    Case(
        "a frozen section without a pool",
        _stage("train-teacher", processes=2),
        (r"section\.yaml", r"itm_pool: missing"),
    ),
    _processes("processes: none", r"training\.processes: .*0", processes=0),
    _processes("processes: a part", r"training\.processes: .*2\.5", processes=2.5),
    _processes("processes: a word", r"training\.processes: .*'two'", processes="two"),
    _processes("processes: more than captions of a batch", r"processes the same number of captions", processes=64),
    _processes("pool: missing with two processes", r"itm_pool: missing; .* one of 2, 3, 6, 9, 18", processes=2),
    _processes("pool: of one pair", r"training\.itm_pool: .*1", itm_pool=1),
    _processes("pool: larger than the batch", r"itm_pool: 72 does not divide the 36 captions", itm_pool=72),
    _processes(
        "pool: does not divide", r"itm_pool: 7 does not divide .* use one of 2, 3, 4, 6, 9, 12, 18, 36", itm_pool=7
    ),
    _processes(
        "pool: larger than the share of one of 4", r"18 does not divide the 9 captions", processes=4, itm_pool=18
    ),
    _processes("pool: a word", r"training\.itm_pool: .*'all'", itm_pool="all"),
    _processes("pool: misspelt", r"training\.itm_pol: .*itm_pool", itm_pol=18),
    Case(
        "pool: a batch of its own does not fit",
        _check(training={"itm_pool": 18}, students={"s": {"teacher": "t", "training": {"batch_size": 40}}}),
        (r"students\.s", r"18 does not divide the 40"),
    ),
]
