"""From whatever names or holds a model to a module and the objects that turn stimuli into its inputs.

A source is a hub id or a local folder, a transformers module, an nnsight model, or a TransformerLens bridge. All of
them end as one :class:`Loaded`: a torch module, and a tokenizer, processor and image processor where there are any.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modalnet._validation import refusal
from modalnet._warnings import warn
from modalnet.errors import InputError
from modalnet.models.roots import takes_sounds

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

# The model that comes with the package; `./tiny` is a folder of that name.
BUNDLED = Path(__file__).parents[1] / "bundled" / "tiny"


@dataclass
class Loaded:
    """A model and what turns stimuli into its inputs.

    Attributes
    ----------
    module
        The transformers model, in the mode that its owner set; its passes run in evaluation mode.
    tokenizer, processor, image_processor, feature_extractor
        What transformers loads beside the weights; None where the model has none. A processor writes texts and what
        stands beside them into one prompt; sounds by themselves go through the feature extractor.
    name
        A readable name: the hub id, the folder's name or the class name.
    missing
        Why there is no tokenizer or processor, for the error that encoding raises.
    envoy
        The user's own nnsight model when that was the source.
    served
        How a server names the model, ``(nnsight's key, what it sets up before a job)``; None where it runs here.
    """

    module: Any
    tokenizer: Any = None
    processor: Any = None
    image_processor: Any = None
    feature_extractor: Any = None
    name: str = ""
    missing: str = ""
    envoy: Any = None
    served: tuple[str, dict[str, Any]] | None = None


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Without the cyclic garbage collector, which costs a fifth of the time that the bundled model takes to load.

    On first use transformers imports hundreds of its modules. Their objects stay, and each pass goes over all of them.
    Weights do not wait for the collector: what no longer has a reference is freed at once.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_collector_paused()
def load_source(
    source: Any,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    served: bool = False,
    weights: bool = True,
    **kwargs: Any,
) -> Loaded:
    """Load ``source``; see :func:`modalnet.load` for the parameters and errors.

    With ``served``, the result says how a server names the model; without ``weights``, it is built without them.
    """
    import torch

    task = kwargs.pop("task", None) if served else None
    if isinstance(source, str | os.PathLike):
        loaded = _from_pretrained(os.fspath(source), (tokenizer, processor), device, dtype, kwargs, weights=weights)
        if served:
            loaded.served = _served(os.fspath(source), loaded.module, task, kwargs)
    elif served and not weights and hasattr(source, "to_model_key"):
        # The user's own nnsight model, which may never have had weights here.
        if getattr(source, "_edits", None):
            raise InputError(
                f"This {type(source).__name__} carries edits, which hold in this process alone. Load it without "
                "remote=, or clear them with clear_edits()."
            )
        loaded = _from_object(source, dispatch=False)
        loaded.served = (source.to_model_key(), source._remoteable_get_env())
        loaded.envoy = None
    elif served:
        loaded = _from_object(source)
        loaded.served = served_as(loaded, task)
    else:
        if kwargs:
            raise InputError(
                f"load() got {', '.join(sorted(kwargs))} with a {type(source).__name__}. These options go to "
                "from_pretrained(), so they need a hub id or a folder as the source."
            )
        loaded = _from_object(source)
        if dtype is not None:
            loaded.module.to(_dtype(dtype))
        _move(loaded.module, device)
    if not isinstance(loaded.module, torch.nn.Module):
        raise InputError(
            f"An object of type {type(source).__name__} cannot be loaded as a model. Expected a hub id, a folder, a "
            "transformers module, an nnsight model or a TransformerLens TransformerBridge."
        )
    _adopt(loaded, tokenizer, processor)
    return loaded


def served_as(loaded: Loaded, task: str | None = None) -> tuple[str, dict[str, Any]]:
    """How a server names a model that is here already; an InputError where nothing says which one it is."""
    if any(hasattr(each, "original_component") for each in loaded.module.modules()):
        raise InputError(
            "A server runs transformers modules, but this model is wrapped by a TransformerLens bridge. Load its hub "
            "id, or a folder that the server has too."
        )
    where = getattr(getattr(loaded.module, "config", None), "_name_or_path", "")
    if not where:
        raise InputError(
            f"A server cannot identify this {type(loaded.module).__name__}. Load a hub id, a folder that the server "
            "has too, or an nnsight model."
        )
    return _served(where, loaded.module, task, {})


def _served(source: str, module: Any, task: str | None, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """How a server names a checkpoint, as nnsight's TransformersModel would, without asking for what is known here."""
    path = BUNDLED if source == BUNDLED.name else Path(source).expanduser()
    repo = str(path.resolve()) if path.is_dir() else _canonical(source)
    key = {"repo_id": repo, "revision": options.get("revision")}
    if options.get("trust_remote_code"):
        key["trust_remote_code"] = True
    key["task"] = task or _task(repo, module)
    env = {"attn_implementation": getattr(getattr(module, "config", None), "_attn_implementation", None)}
    return f"nnsight.modeling.transformers.TransformersModel:{json.dumps(key)}", env


def _canonical(repo: str) -> str:
    """A hub id as the hub spells it; as it is where the hub is not asked."""
    import huggingface_hub

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return repo
    try:
        return str(huggingface_hub.HfApi().model_info(repo, timeout=10).id)
    except Exception:  # the server says it better, if there is no such model
        return repo


def _task(repo: str, module: Any) -> str:
    """The pipeline task that a server loads a checkpoint for: what the hub says, else what the class is for."""
    import huggingface_hub
    import transformers

    if not Path(repo).is_dir() and not huggingface_hub.constants.HF_HUB_OFFLINE:
        from transformers.pipelines import get_task

        with contextlib.suppress(Exception):  # as above
            return str(get_task(repo))
    sees = type(module.config) in transformers.AutoModelForImageTextToText._model_mapping
    return "image-text-to-text" if sees else "text-generation"


def _from_object(source: Any, *, dispatch: bool = True) -> Loaded:
    """A model that the user already holds."""
    import nnsight

    _refuse_by_name(source)
    if isinstance(source, nnsight.Envoy):
        if dispatch and getattr(source, "dispatched", True) is False:
            source.dispatch()
        loaded = Loaded(source._module, name=type(source._module).__name__, envoy=source)
        for part in ("tokenizer", "processor", "image_processor", "feature_extractor"):
            # Plain nnsight models hand on the attributes of the module, which has none of these.
            setattr(loaded, part, source.__dict__.get(part))
        return loaded
    if hasattr(source, "original_model") and hasattr(source, "adapter"):
        module = source.original_model
        return Loaded(
            module, getattr(source, "tokenizer", None), getattr(source, "processor", None), name=type(module).__name__
        )
    return Loaded(source, name=_module_name(source))


def _refuse_by_name(source: Any) -> None:
    """Refuse what holds a model, or is one of another library, and say what to load instead."""
    kinds = type(source).__mro__
    libraries = {kind.__module__.partition(".")[0] for kind in kinds}
    name = type(source).__name__
    if any(kind.__module__.startswith("torch.nn.parallel") for kind in kinds) and hasattr(source, "module"):
        raise InputError(f"A {name} holds the model that it spreads over devices. Load model.module.")
    if any(kind.__module__.startswith("transformers.pipelines") for kind in kinds):
        raise InputError(f"A {name} is a pipeline. Load pipe.model with tokenizer=pipe.tokenizer.")
    for library in ("timm", "torchvision", "open_clip"):
        if library in libraries:
            raise InputError(
                f"{name} is a model of {library}, which modalnet does not read. Load the transformers version of the "
                'model, such as "facebook/dinov2-small" or "openai/clip-vit-base-patch32".'
            )


def _module_name(module: Any) -> str:
    where = getattr(getattr(module, "config", None), "_name_or_path", "")
    return Path(where).name if where and Path(where).exists() else where or type(module).__name__


def _adopt(loaded: Loaded, tokenizer: Any, processor: Any) -> None:
    """Sort what the user passed into tokenizer, processor and image processor; what is passed wins."""
    from transformers import AutoProcessor, AutoTokenizer

    tokenizer = _part(tokenizer, "tokenizer", AutoTokenizer)
    processor = _part(processor, "processor", AutoProcessor)
    loaded.tokenizer = tokenizer if tokenizer is not None else loaded.tokenizer
    candidate = processor if processor is not None else loaded.processor
    if candidate is not None:
        loaded.processor = loaded.image_processor = loaded.feature_extractor = None
        sounds = next((part for part in map(candidate.__dict__.get, _OF_SOUNDS) if part is not None), None)
        if hasattr(candidate, "image_processor"):
            loaded.processor, loaded.image_processor = candidate, candidate.image_processor
            loaded.feature_extractor = sounds
        elif hasattr(candidate, "pad") and hasattr(candidate, "encode"):
            loaded.tokenizer = loaded.tokenizer or candidate
        elif sounds is not None:
            loaded.feature_extractor = sounds
            # Others, such as Whisper's, make training targets of a text; nothing of it stands beside the sound.
            loaded.processor = candidate if _places_sounds(candidate) else None
        elif hasattr(candidate, "sampling_rate"):
            loaded.feature_extractor = candidate
        else:
            loaded.image_processor = candidate
        if loaded.tokenizer is None:
            loaded.tokenizer = getattr(candidate, "tokenizer", None)


#: What processors call their feature extractor.
_OF_SOUNDS = ("feature_extractor", "audio_processor")


def _places_sounds(processor: Any) -> bool:
    """Whether a processor makes room for sounds in a text, so that it writes prompts."""
    return any(getattr(processor, name, None) is not None for name in ("audio_token", "audio_token_id"))


def _part(part: Any, name: str, auto: Any) -> Any:
    """A tokenizer or processor that the user passed, loaded where it is a hub id or a folder."""
    if isinstance(part, str | os.PathLike):
        try:
            return auto.from_pretrained(part)
        except Exception as error:  # the auto classes raise OSError, ValueError, KeyError, ImportError, ...
            raise InputError(f"{name}={str(part)!r} cannot be loaded: {_first_line(error)}") from error
    if part is not None and not callable(part):
        raise InputError(f"{name}= is a {type(part).__name__}. Give a {name} from transformers, a hub id or a folder.")
    return part


def _from_pretrained(  # as load_source takes them
    source: str, given: tuple[Any, Any], device: Any, dtype: Any, kwargs: dict[str, Any], *, weights: bool = True
) -> Loaded:
    """A hub id or a local folder; without ``weights`` only how the model is built."""
    import torch

    path = BUNDLED if source == BUNDLED.name else Path(source).expanduser()
    if path.is_dir():
        source = str(path)
        if not (path / "config.json").exists():
            raise InputError(
                f"{source} holds no config.json, so it is not a transformers checkpoint. Expected a folder that "
                "model.save_pretrained() wrote."
            )
    elif path.exists() or source.startswith((".", "/", "~")):
        raise InputError(f"{source} is not a folder. Expected a hub id or a folder that save_pretrained() wrote.")
    trust = bool(kwargs.pop("trust_remote_code", False))
    hub_options = ("revision", "token", "cache_dir", "local_files_only")
    shared: dict[str, Any] = {name: kwargs[name] for name in hub_options if name in kwargs}
    config = kwargs.pop("config", None) or _config(source, trust, shared)
    if not weights:
        module = _structure(source, config, trust, kwargs)
    else:
        if "device_map" not in kwargs and device is None and torch.cuda.is_available():
            device = "cuda"
        module = _weights(source, config, trust, _dtype(dtype) if dtype is not None else "auto", kwargs)
        if "device_map" not in kwargs:
            _move(module, device)
    loaded = Loaded(module, name=path.name if path.is_dir() else source)
    if given[1] is None:
        _load_preprocessors(loaded, source, trust, shared)
        if given[0] is not None and loaded.processor is not None:
            loaded.processor.tokenizer = given[0]
    return loaded


def _config(source: str, trust: bool, shared: dict[str, Any]) -> Any:
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(source, trust_remote_code=trust, **shared)
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise InputError(
                f"{source} comes with its own Python code, which modalnet does not run by default. Review it, then "
                "pass trust_remote_code=True to load()."
            ) from error
        raise InputError(f"{source} cannot be loaded: {error}") from error
    except OSError as error:
        raise InputError(
            f"{source} is neither a local folder nor a model that the hub gives access to: {_first_line(error)}"
        ) from error


def _structure(source: str, config: Any, trust: bool, options: dict[str, Any]) -> Any:
    """A model on the meta device: its modules and shapes, and not one weight."""
    from nnsight.modeling.mixins.meta import MetaDevice

    auto = _auto_class(config, trust)
    build = auto._from_config if hasattr(auto, "_from_config") else auto.from_config
    chosen = {name: options[name] for name in ("attn_implementation",) if name in options}
    if hasattr(auto, "from_config") and trust:
        chosen["trust_remote_code"] = True
    try:
        with MetaDevice():
            return build(config, **chosen).eval()
    except Exception as error:  # whatever a model's own constructor raises
        raise InputError(
            f"{source} cannot be built without its weights as {auto.__name__}: {type(error).__name__}: "
            f"{_first_line(error)}"
        ) from error


def _weights(source: str, config: Any, trust: bool, dtype: Any, options: dict[str, Any]) -> Any:
    import torch

    auto = _auto_class(config, trust)
    try:
        module, report = auto.from_pretrained(
            source, config=config, dtype=dtype, trust_remote_code=trust, output_loading_info=True, **options
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # What a damaged or mismatched checkpoint raises depends on which part of transformers met it first.
        raise InputError(
            f"the weights of {source} cannot be loaded as {auto.__name__}: {type(error).__name__}: {_first_line(error)}"
        ) from error
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        warn(
            f"{len(missing)} weights are missing from {source} and are random numbers now: {', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}. What such a model does means nothing."
        )
    return module


def _move(module: Any, device: Any) -> None:
    if device is None:
        return
    try:
        module.to(device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises an AssertionError
        raise InputError(f"the model cannot be put on device={device!r}: {_first_line(error)}") from error


def _auto_class(config: Any, trust: bool) -> Any:
    """The class that the checkpoint was saved from, or the auto class that knows its config."""
    import transformers

    remote = getattr(config, "auto_map", None) if trust else None
    for name in getattr(config, "architectures", None) or ():
        if not remote and hasattr(transformers, name):
            return getattr(transformers, name)
    for auto in (transformers.AutoModelForImageTextToText, transformers.AutoModelForCausalLM):
        if type(config) in auto._model_mapping or (remote and auto.__name__ in remote):
            return auto
    return transformers.AutoModel


def _load_preprocessors(loaded: Loaded, source: str, trust: bool, shared: dict[str, Any]) -> None:
    """Load what the folder holds; a model without any still shows its towers, so nothing here is fatal."""
    import transformers

    reasons = []
    autos = [
        (transformers.AutoProcessor, "processor"),
        (transformers.AutoTokenizer, "tokenizer"),
        (transformers.AutoImageProcessor, "image_processor"),
    ]
    if takes_sounds(loaded.module):
        autos[2:] = [(transformers.AutoFeatureExtractor, "feature_extractor")]
    for auto, attribute in autos:
        if getattr(loaded, attribute) is not None:
            continue
        try:
            part = auto.from_pretrained(source, trust_remote_code=trust, **shared)
        except Exception as error:
            # Any failure is kept for the message: the classes raise OSError, ValueError, ImportError, KeyError, ...
            reasons.append(f"{auto.__name__}: {_first_line(error)}")
            continue
        if not getattr(part, "vocab_size", 1):  # transformers makes an empty tokenizer where there is none
            reasons.append(f"{auto.__name__}: the folder holds no vocabulary")
            continue
        _adopt(loaded, None, part)
        if loaded.processor is not None:
            break
    loaded.missing = "; ".join(reasons)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _dtype(dtype: Any) -> Any:
    import torch

    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    known = getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(known, torch.dtype):
        raise refusal("dtype", "a torch dtype, its name (such as 'float32', 'bfloat16', 'float16') or 'auto'", dtype)
    return known
