"""Reproducible balanced vision-language retrieval (RVLR, IEEE TIP 2024).

Importing the package has no effects and loads no PyTorch; each stage of the workflow is a command of `python -m rvlr`.
`from rvlr import RetrievalModel` loads the model's class; from then on transformers' AutoConfig, AutoModel and
AutoTokenizer accept model folders, too. `store_features` writes features for teachers of kind
`stored`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rvlr.data.stored import store as store_features
    from rvlr.models.retrieval import RetrievalModel
    from rvlr.models.settings import RetrievalConfig

__all__ = ["RetrievalConfig", "RetrievalModel", "store_features"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'rvlr' has no attribute {name!r}")
    if name == "store_features":
        from rvlr.data.stored import store

        return store
    from rvlr.models import retrieval

    return getattr(retrieval, name)
