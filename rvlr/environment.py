"""What a stage takes from its environment: nothing that changes results.

Launchers such as `torchrun`, `mpirun` and `accelerate launch` leave variables behind that PyTorch and accelerate read:
a stray `WORLD_SIZE` hangs a training, `ACCELERATE_GRADIENT_ACCUMULATION_STEPS` changes its weights. So do switches of
numerical libraries. All these variables are removed before those libraries are loaded. The place of a process among
others comes from our own launcher only, see `rvlr.launch`.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

MOST_THREADS = 8
_PLACE = "RVLR_PROCESS"
_ONLY_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_FOREIGN = frozenset(
    (
        # where a process stands among others
        *("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "MACHINE_RANK", "FORK_LAUNCHED"),
        *("MASTER_ADDR", "MASTER_PORT", "USE_TORCH_XLA"),
        # how sums are split among threads; which instructions compute them stays, as a processor may need such a switch
        *("OMP_DYNAMIC", "OMP_SCHEDULE", "OMP_THREAD_LIMIT", "OMP_NESTED", "OMP_MAX_ACTIVE_LEVELS"),
        *("OMP_TEAMS_THREAD_LIMIT", "OMP_NUM_TEAMS"),
        *("MKL_DYNAMIC", "MKL_DOMAIN_NUM_THREADS", "MKL_THREADING_LAYER", "TORCH_MKLDNN_MATMUL_MIN_DIM"),
        # in which precision
        *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    )
)
_FOREIGN_PREFIXES = (
    *("GROUP_", "ROLE_", "PMI_", "PMIX_", "OMPI_", "MV2_COMM_WORLD_", "TORCHELASTIC_"),
    *("ACCELERATE_", "FSDP_", "DEEPSPEED_", "MEGATRON_", "PARALLELISM_CONFIG_"),
    "TIMM_",
)
_removed: set[str] = set()


@dataclass(frozen=True)
class Place:
    """The place of this process, `rank`, among the `count` processes of a stage. `folder` is the folder that they share
    while they run; `lifeline` is a descriptor that reads as ended once their launcher is gone."""

    rank: int
    count: int
    folder: Path
    lifeline: int

    def variables(self) -> dict[str, str]:
        """The environment variables of the process at this place; called in the launcher."""
        return {_PLACE: f"{os.getpid()}:{self.rank}:{self.count}:{self.lifeline}:{self.folder}"}

    def first_to_fail(self) -> bool:
        """Whether this is the first process to fail; true once. The first process reports its fault; the others end
        because of that fault and report nothing."""
        try:
            os.close(os.open(self.folder / "failed", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except OSError:  # the file exists, or the launcher has removed the folder
            return False
        return True

    def failed(self) -> bool:
        """Whether any of the processes has failed."""
        return (self.folder / "failed").exists()


def prepare() -> None:
    """Remove the variables that must not reach a stage, and set those that libraries read when they are loaded, such as
    the number of threads."""
    found = [name for name in os.environ if name in _FOREIGN or name.startswith(_FOREIGN_PREFIXES)]
    for name in found:
        del os.environ[name]
    _removed.update(found)
    os.environ.update(dict.fromkeys(_ONLY_THREADS, str(threads())))
    # threads that wait must sleep: spinning, two stages that share cores slow each other down tenfold
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # without it, loading from the cache contacts the hub
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def removed() -> list[str]:
    """The variables that `prepare` has removed."""
    return sorted(_removed)


def threads() -> int:
    """The number of threads of this process: its share of the cores that the stage may use, of eight at most. Results
    on a CPU depend on the number of threads, so it depends on the machine alone and not on OMP_NUM_THREADS."""
    here = place()
    return max(1, min(MOST_THREADS, cores()) // (here.count if here else 1))


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def place() -> Place | None:
    """The place of this process among those that our launcher started, or None if our launcher did not start it.

    A variable that is left over from another stage is ignored. A process whose launcher is already gone exits.
    """
    given = os.environ.get(_PLACE, "").split(":", 4)
    if len(given) < 5 or not all(part.isdigit() for part in given[:4]):
        return None
    launcher, rank, count, lifeline = map(int, given[:4])
    folder = Path(given[4])
    if not folder.is_dir():
        return None
    if launcher != os.getppid():
        sys.exit(f"error: process {rank} of {count}: the process that started it is gone; run the stage again")
    return Place(rank, count, folder, lifeline)
