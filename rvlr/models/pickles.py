"""Why a file of weights was refused, in words that help a user."""

from pathlib import Path

from torch.serialization import get_unsafe_globals_in_checkpoint


def refusal(path: Path, error: Exception) -> str:
    """What is wrong with a file whose loading failed with `error`, under `weights_only` for pickles, and how to mend
    it. PyTorch's own message advises to turn that protection off."""
    if path.suffix == ".safetensors":
        return str(error)
    try:
        found = get_unsafe_globals_in_checkpoint(path)
    except Exception:  # it fails in many ways on bytes that are anything
        return "it is damaged, or not of the format that torch.save writes since PyTorch 1.6; fetch it or save it anew"
    if not found:
        return (str(error) or type(error).__name__).splitlines()[0]
    return (
        f"it holds Python objects ({', '.join(sorted(found))}), and loading those could run code of whoever made the "
        "file; if you trust it, write its weights alone to a new file: "
        "torch.save({'model': torch.load(OLD, weights_only=False)['model']}, NEW)"
    )
