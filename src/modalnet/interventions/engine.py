"""Runs a plan in one nnsight trace. This is the only file of modalnet in which a trace is opened.

The trace asks for the plan's sites in the order in which the forward pass reaches them, pools each one where it is (on
the model's device, in float32) and stops after the last, so that neither later blocks nor the LM head run unless
something needs them. Inside the trace there are only envoys, tensors and plain Python: what nnsight can send to a
server unchanged.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError, ModalnetError
from modalnet.interventions.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from jaxtyping import Bool, Float

    from modalnet.interventions.plan import Pool, Write


# Logits that are taken to float32 at once: on a CPU as many as its caches hold, which is several times faster.
CPU_LOGITS, GPU_LOGITS = 1 << 21, 1 << 24
# Towers that a forward pass leaves before it reaches the language tower.
BEFORE_TEXT = ("vision", "audio")


def edited(flat: Float[torch.Tensor, "position dim"], edits: Sequence[tuple[Any, ...]]) -> Any:
    """A block's output with edits applied in their order; the values are computed in float32."""
    flat = flat.clone()
    for where, dims, vector, a, b in edits:
        if vector is None:
            flat[where, dims] = (a * flat[where, dims].float() + b).to(flat.dtype)
        else:
            old = flat[where[:, 0]].float()
            change = (a - 1) * (old @ vector)[:, None] + b
            flat[where[:, 0]] = (old + change * vector).to(flat.dtype)
    return flat


class LayoutError(ModalnetError):
    """A tower holds another number of positions than the plan's indices were made for."""


@dataclass
class Reading:
    """What one forward pass gave.

    Attributes
    ----------
    residual
        Per tower, float32 on the CPU: ``[stimulus, layer, dim]`` where the plan pools, otherwise
        ``[layer, position, dim]`` with every flat position.
    shapes
        Per tower, the shape of a block's output in this batch.
    logits
        ``[position, vocab]`` at the plan's logit rows, float32 on the CPU; None where not asked for.
    logprob, likeliest
        ``[position]`` at the plan's logit rows: of its targets, the natural-log probability, and whether no token is
        likelier; None where the plan has no targets.
    """

    residual: dict[str, Float[torch.Tensor, "_ _ dim"]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    logits: Float[torch.Tensor, "position vocab"] | None = None
    logprob: Float[torch.Tensor, " position"] | None = None
    likeliest: Bool[torch.Tensor, " position"] | None = None


class Engine:
    """Runs plans on one model.

    Parameters
    ----------
    module
        A torch module.
    envoy
        An nnsight model around it, if the user has one; its stored edits then apply.
    """

    def __init__(self, module: Any, envoy: Any = None) -> None:
        import nnsight

        # A TransformersModel would pad and collate the inputs again; the inputs here are final, so a plain wrapper
        # of the same module runs them as they are.
        if envoy is not None and getattr(envoy, "_edits", None):
            if type(envoy) is not nnsight.NNsight:
                raise InputError(
                    f"this {type(envoy).__name__} carries edits, which modalnet cannot run in the same trace. Wrap the "
                    "module in nnsight.NNsight and make the edits there, or clear them with clear_edits()."
                )
            self.envoy = envoy
        else:
            self.envoy = nnsight.NNsight(module)
        self.module = module

    def run(self, inputs: dict[str, Any], plan: Plan) -> Reading:
        """One forward pass.

        Parameters
        ----------
        inputs
            Model inputs, on any device.
        plan
            What to read.

        Raises
        ------
        InputError
            If these inputs make the model leave out a block that the plan reads.
        LayoutError
            If a tower holds another number of positions than the plan expects.
        """
        from nnsight.intervention.interleaver import OutOfOrderError

        try:
            return self._trace(inputs, plan)
        except OutOfOrderError as error:
            path = str(error).split("'")[1] if "'" in str(error) else str(error)
            raise InputError(
                f"{type(self.module).__name__} does not run {path} on these inputs ({', '.join(inputs)}): some models "
                "leave blocks out on text without an image. Read other layers, or give stimuli with an image."
            ) from error

    def _trace(self, inputs: dict[str, Any], plan: Plan) -> Reading:  # noqa: PLR0912, PLR0915  # a trace is one body
        import nnsight
        import torch

        indices = {sites.tower.name: self._index(pool) for sites, pool in plan.reads}
        steps = []  # one entry per block: (envoy, tower, expected positions, edits, whether to read, index, lengths)
        for tower, layer, writes, pool in plan.steps():
            edits = [self._edit(write) for write in writes]
            kept = pool is not None and pool.index is not None
            expected = writes[0].n_positions if writes else pool.n_positions if pool and kept else None
            lengths = None if pool is None or pool.lengths is None else pool.lengths.tolist()
            index = None if pool is None else indices[tower.name]
            block = self.envoy.get(tower.paths[layer])
            steps.append((block, tower.name, expected, edits, pool is not None, index, lengths))
        skipped, start = self._skipped(plan)
        first = next((place for place, step in enumerate(steps) if step[1] not in BEFORE_TEXT), len(steps))
        rows: Any = plan.logit_rows
        size = self._rows_at_once()
        n_text = plan.n_text_positions
        targets: Any = plan.targets
        head: Any = self.head() if rows is not None else None
        root = self.envoy.get(plan.root) if plan.root else self.envoy
        moved = {name: self._place(value) for name, value in inputs.items()}
        if self._caches and not plan.root:
            moved["use_cache"] = False
        with torch.no_grad(), root.trace(**moved) as tracer:
            vectors = nnsight.save([])
            shapes = nnsight.save([])
            values = nnsight.save([])
            wrong = nnsight.save([])
            likeliest = nnsight.save([])
            for place, (block, name, expected, edits, read, index, lengths) in enumerate(steps):
                if place == first:
                    for early in skipped:
                        early.skip(start)
                output = block.output
                hidden = output[0] if isinstance(output, tuple | list) else output
                flat = hidden.reshape(-1, hidden.shape[-1])
                if expected is not None and flat.shape[0] != expected:
                    wrong.append((name, flat.shape[0], expected))
                    tracer.stop()  # the indices were made for another layout: they would pick the wrong tokens
                if edits:
                    flat = edited(flat, edits)
                    hidden = flat.reshape(hidden.shape)
                    block.output = (hidden, *output[1:]) if isinstance(output, tuple | list) else hidden
                if not read:
                    continue
                shapes.append(tuple(hidden.shape))
                if index is None or lengths is None:
                    vectors.append(flat.float())
                    continue
                if len(index):
                    flat = flat[index.to(flat.device)]
                if min(lengths) == max(lengths):
                    grouped = flat.reshape(len(lengths), lengths[0], flat.shape[-1])
                    vectors.append(grouped.mean(1, dtype=torch.float32))
                else:
                    parts = [part.mean(0, dtype=torch.float32) for part in flat.split(lengths)]
                    vectors.append(torch.stack(parts))
            if len(steps) == first:
                for early in skipped:
                    early.skip(start)
            if head is None or rows is None:
                tracer.stop()
            # The head runs on the wanted positions alone: with a large vocabulary it is most of the work.
            before = head.input
            if before.shape[:-1].numel() != n_text:
                tracer.stop()
            head.input = before.reshape(1, -1, before.shape[-1])[:, rows.to(before.device)]
            result = root.output
            logits = result.logits if hasattr(result, "logits") else result[0]
            if targets is None:
                values.append(logits[0].float())
            else:
                # A few rows at a time: in float32 a large vocabulary takes a megabyte a row.
                for part, wanted in zip(logits[0].split(size), targets.to(logits.device).split(size)):  # noqa: B905
                    logp = part.float().log_softmax(1)
                    values.append(logp.gather(1, wanted[:, None])[:, 0])
                    likeliest.append(values[-1] == logp.amax(1))
        for name, found, expected in wrong:
            raise LayoutError(f"the {name} tower holds {found} positions, {expected} were expected")
        reading = self._gather(plan, vectors, shapes)
        if plan.logit_rows is not None:
            if not values:
                raise LayoutError("the LM head does not see one vector per text token")
            if plan.targets is None:
                reading.logits = values[0].cpu()
            else:
                reading.logprob, reading.likeliest = torch.cat(list(values)).cpu(), torch.cat(list(likeliest)).cpu()
        return reading

    def _rows_at_once(self) -> int:
        """How many rows of logits are taken to float32 at once."""
        head = self.module.get_output_embeddings() if hasattr(self.module, "get_output_embeddings") else None
        vocabulary = head.weight.shape[0] if head is not None and hasattr(head, "weight") else 1 << 18
        return max(1, (CPU_LOGITS if self._device.type == "cpu" else GPU_LOGITS) // vocabulary)

    def _skipped(self, plan: Plan) -> tuple[list[Any], Any]:
        """The blocks that a plan skips, and what stands in for the output of the last of them."""
        if plan.prefix is None:
            return [], None
        blocks = [self.envoy.get(path) for path in plan.prefix.tower.paths[: plan.prefix.layer]]
        weight = next(self.module.get_submodule(plan.prefix.tower.paths[plan.prefix.layer]).parameters())
        return blocks, plan.prefix.hidden.to(weight.device, weight.dtype)

    def generate(
        self, inputs: dict[str, Any], writes: Sequence[Write], later: Sequence[Write], **settings: Any
    ) -> list[int]:
        """Let the model write on, with edits at every step; gives the tokens that it wrote.

        Parameters
        ----------
        inputs
            Model inputs of one stimulus.
        writes
            Edits of the pass over the prompt.
        later
            Edits of each pass over one new token: their ``b`` is ``[dims]``, or ``[step, dims]`` with a row per pass.
        **settings
            For transformers' ``generate``; ``max_new_tokens`` is needed.

        Raises
        ------
        LayoutError
            If a tower holds another number of positions than the edits expect.
        """
        import nnsight
        import torch

        prompt = [
            (b, w[0].tower.name, w[0].n_positions, [self._edit(one) for one in w]) for b, w in self._blocks(writes)
        ]
        after = [(block, [self._edit(one) for one in found]) for block, found in self._blocks(later)]
        moved = {name: self._place(value) for name, value in inputs.items()}
        # The whole model is no place to look at: some hand their decoder embeddings and let that one generate.
        embedding = self._at(self.module.get_input_embeddings())
        # A token is seen when it is fed to the next pass, so one pass more tells the last one; this is exact however
        # transformers chooses tokens.
        settings["max_new_tokens"] += 1
        with torch.no_grad(), warnings.catch_warnings():
            # An open loop ends with the generation, and nnsight says so.
            warnings.filterwarnings("ignore", message=".*was never reached: the loop asked for a step")
            with self.envoy.trace(fn="generate", **moved, **settings) as tracer:
                fed = nnsight.save([])
                wrong = nnsight.save([])
                for step in tracer.iter[:]:
                    if step == 0:
                        for block, name, expected, edits in prompt:
                            output = block.output
                            hidden = output[0] if isinstance(output, tuple | list) else output
                            flat = hidden.reshape(-1, hidden.shape[-1])
                            if flat.shape[0] != expected:
                                wrong.append((name, flat.shape[0], expected))
                                tracer.stop()
                            hidden = edited(flat, edits).reshape(hidden.shape)
                            block.output = (hidden, *output[1:]) if isinstance(output, tuple | list) else hidden
                    else:
                        fed.append(embedding.input)
                        for block, edits in after:
                            output = block.output
                            hidden = output[0] if isinstance(output, tuple | list) else output
                            flat = hidden.reshape(-1, hidden.shape[-1])
                            now = [(w, d, v, a, b[step - 1] if b.ndim == 2 else b) for w, d, v, a, b in edits]
                            hidden = edited(flat, now).reshape(hidden.shape)
                            block.output = (hidden, *output[1:]) if isinstance(output, tuple | list) else hidden
        for name, found, expected in wrong:
            raise LayoutError(f"the {name} tower holds {found} positions, {expected} were expected")
        return [int(ids[0, -1]) for ids in fed]

    def _blocks(self, writes: Sequence[Write]) -> list[tuple[Any, list[Write]]]:
        """The envoys of the blocks that are written to, in forward order, with their writes."""
        steps = Plan((), writes=tuple(writes)).steps()
        return [(self.envoy.get(tower.paths[layer]), list(here)) for tower, layer, here, _ in steps]

    def _index(self, pool: Pool) -> Any:
        """A pool's positions where the model is, moved once for all blocks; empty for every position in order."""
        import torch

        if pool.index is None:
            return None
        everything = torch.equal(pool.index, torch.arange(pool.n_positions))
        return self._place(pool.index[:0] if everything else pool.index)

    def _edit(self, write: Write) -> tuple[Any, ...]:
        """A write as tensors where the model is; values in float32, whatever the model computes in."""
        device = self._device
        dims = None if write.dims is None else write.dims.to(device)[None, :]
        vector = None if write.vector is None else write.vector.to(device)
        return write.rows.to(device)[:, None], dims, vector, write.a, write.b.to(device)

    def _gather(self, plan: Plan, vectors: list[Any], shapes: list[Any]) -> Reading:
        """Bring what a trace saved to the CPU, one transfer per tower."""
        import torch

        reading = Reading()
        done = 0
        for sites, pool in plan.reads:
            name, count = sites.tower.name, len(sites.layers)
            found = shapes[done : done + count]
            for shape in found:
                if shape[-1] != sites.tower.width:
                    raise ModalnetError(
                        f"a block of the {name} tower puts out width {shape[-1]}, but its units were counted with "
                        f"width {sites.tower.width}. Please report this model."
                    )
            read = vectors[done : done + count]
            device = read[0].device
            stacked = torch.stack([vector.to(device) for vector in read]).cpu()
            reading.residual[name] = stacked if pool.index is None else stacked.transpose(0, 1).contiguous()
            reading.shapes[name] = found[0]
            done += count
        return reading

    def head(self) -> Any:
        """The envoy of the LM head; an InputError where the model has none."""
        head = self.module.get_output_embeddings() if hasattr(self.module, "get_output_embeddings") else None
        if head is None:
            raise InputError(
                f"{type(self.module).__name__} has no LM head, so it gives no logits. Load the model with its head "
                "(a ...ForCausalLM or ...ForConditionalGeneration class)."
            )
        return self._at(head)

    def _at(self, module: Any) -> Any:
        """The envoy of a module."""
        return self.envoy.get(next(path for path, sub in self.module.named_modules() if sub is module))

    @property
    def _caches(self) -> bool:
        """Whether the model would fill a key-value cache, which one forward pass has no use for."""
        config: Any = getattr(self.module, "config", None)
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        takes = inspect.signature(self.module.forward).parameters
        return bool(getattr(text, "use_cache", False)) and "use_cache" in takes

    @property
    def _device(self) -> Any:
        return next(p.device for p in self.module.parameters() if p.device.type != "meta")

    def _place(self, value: Any) -> Any:
        """Put an input where the model is, in the precision that the model computes in."""
        import torch

        if not isinstance(value, torch.Tensor):
            return value
        parameter = next((p for p in self.module.parameters() if p.device.type != "meta"), None)
        device = parameter.device if parameter is not None else value.device
        floating = value.is_floating_point()
        dtype = next((p.dtype for p in self.module.parameters() if p.is_floating_point()), value.dtype)
        return value.to(device=device, dtype=dtype if floating else value.dtype)
