"""Each way to share models equals the plain form: separate models under the same training."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import MistralConfig, MistralForCausalLM
from worlds import ppo as world
from worlds.ppo import add_gradients, make_actors, make_learner
from worlds.trackers import Stopped, StopsAfter

from plumbrule.cli import verbs
from plumbrule.cli.merged_model import merge
from plumbrule.errors import ConfigError
from plumbrule.lm.adapters import probe, with_adapter
from plumbrule.lm.config import AdapterConfig
from plumbrule.lm.generation import generate
from plumbrule.lm.loading import load_policy, make_policy
from plumbrule.lm.logprobs import trunk
from plumbrule.store.artifacts import Artifact
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker, NullTracker
from rlhf.ppo import models as ppo_models
from rlhf.ppo import shared_trunk
from rlhf.ppo import stage as ppo
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.losses import policy_loss, value_loss
from rlhf.ppo.measures.memory import Estimate
from rlhf.ppo.optimisation.learner import trainable
from rlhf.ppo.rollout.evaluation import action_logprobs, state_values
from rlhf.ppo.rollout.trajectory import rows_for_model
from rlhf.ppo.shared_trunk import Actors, ReferencePolicy
from rlhf.ppo.value_model import value_on

ADAPTER = AdapterConfig(rank=2, targets=["q_proj", "v_proj", "down_proj"])


def short(**changes: object) -> PPOConfig:
    """A PPO of three updates, a dozen steps of the optimizer: a difference adds up in these."""
    return world.config(**{"total_episodes": 48, "num_samples": 0, **changes})


def train(
    folder: Path, config: PPOConfig, tied: bool = True, stop: int | None = None
) -> dict[str, torch.Tensor]:
    """Run the stage on a policy of three layers; return the published policy's weights."""
    torch.set_num_threads(1)
    inputs = built(folder, tied)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    tracker = FileTracker(out) if stop is None else StopsAfter(out, stop)
    ppo.run(config, inputs, world.runtime(), out, tracker)
    return dict(load_policy(out / "model").model.state_dict())


def built(folder: Path, tied: bool = True) -> dict[str, Artifact]:
    folder.mkdir(exist_ok=True)
    if (folder / "sft").exists():
        return world.inputs_in(folder)
    return world.build(folder, spread=0.2, layers=3, tied=tied)


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Float32 sums in another order: rounding of some 1e-7 in each of a dozen steps."""
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.allclose(found[name], expected[name], atol=2e-6), name


def frozen_by_hand(policy, load, **_):
    """Separate models, of which the policy learns in its top layer, norm and untied head only."""
    model = policy.model.requires_grad_(False)
    for module in (model.model.layers[2], model.model.norm):
        module.requires_grad_(True)
    if model.lm_head.weight is not model.model.embed_tokens.weight:
        model.lm_head.requires_grad_(True)
    reference = load()
    return Actors(policy, policy, ReferencePolicy(reference, reference))


@pytest.mark.detail(43)
@pytest.mark.parametrize("tied", [True, False])
def test_a_stem_trains_as_frozen_layers_do(tmp_path, monkeypatch, tied) -> None:
    shared = train(tmp_path / "shared", short(unfrozen_layers=1), tied)
    before = load_policy(tmp_path / "shared" / "sft" / "model").model.state_dict()
    monkeypatch.setattr(ppo_models, "make_actors", frozen_by_hand)
    plain = train(tmp_path / "plain", short(), tied)
    close(shared, plain)
    moved = {name for name in before if not torch.equal(before[name], shared[name])}
    expected = {n for n in before if n.startswith("model.layers.2.") or n == "model.norm.weight"}
    assert moved == expected | (set() if tied else {"lm_head.weight"})
    rows = [read_metrics(tmp_path / which / "out") for which in ("shared", "plain")]
    for mine, theirs in zip(*rows, strict=True):
        for name in ("objective/kl", "objective/entropy", "loss/policy_avg", "loss/value_avg"):
            assert mine[name] == pytest.approx(theirs[name], abs=2e-6), name


def test_a_value_branch_trains_as_a_whole_value_model_with_frozen_layers(
    tmp_path, monkeypatch
) -> None:
    config = short(unfrozen_layers=1, value_trunk="branch")
    shared = train(tmp_path / "shared", config)

    def frozen_value(config, actors, inputs):
        model = value_on(trunk(world_policy(inputs).model), actors.policy)
        model.trunk.requires_grad_(False)
        model.trunk.layers[2].requires_grad_(True)
        model.trunk.norm.requires_grad_(True)
        return model

    def world_policy(inputs):
        return load_policy(inputs["policy"].path / "model")

    monkeypatch.setattr(ppo, "make_value_model", frozen_value)
    monkeypatch.setattr(ppo_models, "make_actors", frozen_by_hand)
    close(shared, train(tmp_path / "plain", short()))
    whole, branch = (
        load_file(tmp_path / which / "out" / "value" / "model.safetensors")
        for which in ("plain", "shared")
    )
    assert not any("embed" in name for name in branch)
    for name in branch:
        other = name.replace("trunk.layers.0.", "trunk.layers.2.")
        assert torch.allclose(branch[name], whole[other], atol=2e-6), name


def test_frozen_layers_are_computed_once_per_rollout(tmp_path, monkeypatch) -> None:
    calls: Counter[str] = Counter()
    plain = shared_trunk.FrozenLayers.read
    monkeypatch.setattr(
        shared_trunk.FrozenLayers, "read", lambda *a, **k: calls.update(["read"]) or plain(*a, **k)
    )
    made = []
    actors = ppo_models.make_actors
    monkeypatch.setattr(
        ppo_models, "make_actors", lambda *a, **k: made.append(actors(*a, **k)) or made[0]
    )
    built(tmp_path)
    (tmp_path / "out").mkdir()
    widths: Counter[str] = Counter()

    def count(module, arguments, output):
        hidden = arguments[0]
        widths["sampled" if torch.is_inference_mode_enabled() else "read"] += hidden.shape[1]

    config = world.config(unfrozen_layers=1, value_trunk="branch", total_episodes=32)
    hooked: list[object] = []
    resume = ppo.resume

    def hook(*arguments):
        hooked.append(made[0].policy.model.model.layers[0].register_forward_hook(count))
        return resume(*arguments)

    monkeypatch.setattr(ppo, "resume", hook)
    monkeypatch.setattr(ppo, "estimate_memory", lambda *_, **__: Estimate(0, 0, 0.0))
    ppo.run(config, world.inputs_in(tmp_path), world.runtime(), tmp_path / "out", NullTracker())
    assert calls["read"] == 1 + config.num_updates  # the first one is the check of the split
    tokens = sum(
        len(q) + len(r)
        for update in (1, 2)
        for q, r in zip(*rows_of(tmp_path / "out", update), strict=True)
    )
    assert tokens <= widths["read"] <= 1.1 * tokens


def rows_of(out: Path, update: int):
    kept = ppo.parquet.read(ppo.parquet.path_of(out / "rollouts", update)).trajectory
    return kept.queries, kept.responses


@pytest.mark.detail(43)
def test_adapters_train_as_with_a_reference_of_its_own(tmp_path, monkeypatch) -> None:
    config = short(adapter=ADAPTER)
    shared = train(tmp_path / "shared", config)

    def separate(policy, load, *, adapter, seed, **_):
        policy = with_adapter(policy, adapter, seed, "ppo.adapter")
        reference = load()
        return Actors(policy, policy, ReferencePolicy(reference, reference))

    monkeypatch.setattr(ppo_models, "make_actors", separate)
    close(shared, train(tmp_path / "plain", config))
    moved = [n for n in shared if "lora_B" in n and shared[n].abs().max() > 0]
    assert len(moved) == 9  # three layers of three


def test_a_fresh_adapter_changes_nothing_and_a_trained_one_is_published(tmp_path) -> None:
    inputs = built(tmp_path)
    (tmp_path / "out").mkdir()
    ppo.run(short(adapter=ADAPTER), inputs, world.runtime(), tmp_path / "out", NullTracker())
    plain = load_policy(inputs["policy"].path / "model")
    fresh = with_adapter(load_policy(inputs["policy"].path / "model"), ADAPTER, 0, "ppo.adapter")
    trained = load_policy(tmp_path / "out" / "model")
    config = dataclasses.replace(world.config().sampling, temperature=1.0)
    prompts = [[4, 5, 6], [7, 8]]
    samples = [
        generate(policy, prompts, sampling=config, keys=[1, 2])
        for policy in (plain, fresh, trained)
    ]
    for mine, theirs in zip(samples[0], samples[1], strict=True):
        assert mine.tokens == theirs.tokens
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
    assert [s.logprobs for s in samples[0]] != [
        pytest.approx(s.logprobs, abs=1e-3) for s in samples[2]
    ]
    names = {f.name for f in (tmp_path / "out" / "model").iterdir()}
    assert "adapter_model.safetensors" in names
    assert "model.safetensors" not in names


def test_a_value_head_on_the_policy_adds_its_gradient_to_the_policys() -> None:
    config = world.config(value_trunk="policy", vf_coef=0.7)
    policy = world.learner_of(world.config()).policy
    value_model = value_on(None, policy)
    nn.init.normal_(value_model.head.weight, std=0.3)
    learner = make_learner(policy, value_model, config)
    rollout = world.recorded(learner)
    rows = list(range(16))
    add_gradients(learner, rollout, rows, config, 4)
    found = [p.grad.clone() for p in [*trainable(policy.model), *trainable(value_model)]]

    inputs = rows_for_model(rollout.trajectory, rows, policy.pad_id)
    hidden = trunk(policy.model)(
        input_ids=inputs.tokens, attention_mask=inputs.real_mask
    ).last_hidden_state
    new = action_logprobs(policy.model, inputs, 1.0, hidden)
    pg = policy_loss(new, rollout.logprobs, rollout.advantages, inputs.action_mask, 0.2, None)
    values = state_values(value_model, inputs, hidden)
    vf = value_loss(values, rollout.values, rollout.returns, inputs.step_mask, 0.2)
    number = inputs.action_mask.sum()
    loss = pg.loss.sum() / number + 0.7 * vf.loss.sum() / number
    parameters = [*trainable(policy.model), *trainable(value_model)]
    expected = torch.autograd.grad(loss, parameters, allow_unused=True)
    for mine, theirs in zip(found, expected, strict=True):
        assert theirs is not None
        assert torch.allclose(mine, theirs, atol=1e-12)


def test_during_warm_up_a_value_head_on_the_policy_leaves_the_policy_alone(tmp_path) -> None:
    config = world.config(value_trunk="policy", value_warmup_updates=1, total_episodes=32)
    before = load_policy(built(tmp_path)["policy"].path / "model").model.state_dict()
    (tmp_path / "out").mkdir()
    weights = {}

    class Looks(NullTracker):
        def log(self, metrics, update):
            weights[update] = {n: p.clone() for n, p in actors[0].policy.model.state_dict().items()}

    actors = []
    make = ppo_models.make_actors
    ppo_models.make_actors = lambda *a, **k: actors.append(make(*a, **k)) or actors[0]
    try:
        ppo.run(config, world.inputs_in(tmp_path), world.runtime(), tmp_path / "out", Looks())
    finally:
        ppo_models.make_actors = make
    assert all(torch.equal(before[n], weights[1][n]) for n in before)
    assert not all(torch.equal(before[n], weights[2][n]) for n in before)


@pytest.mark.parametrize(
    "changes",
    [
        {"unfrozen_layers": 1, "value_trunk": "branch"},
        {"adapter": ADAPTER},
        pytest.param(
            {"unfrozen_layers": 2, "value_trunk": "policy", "ema_decay": 0.9},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_stopped_run_ends_with_the_same_bytes(tmp_path, changes) -> None:
    config = short(save_every=1, **changes)
    whole = train(tmp_path / "whole", config)
    with pytest.raises(Stopped):
        train(tmp_path / "stopped", config, stop=2)
    again = train(tmp_path / "stopped", config)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    checkpoint = max((tmp_path / "whole" / "out" / "checkpoints").glob("*/policy.safetensors"))
    assert not any(".layers.0." in n and "lora" not in n for n in load_file(checkpoint))


@pytest.mark.detail(42)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adapter": ADAPTER},
        pytest.param({"unfrozen_layers": 2, "value_trunk": "branch"}, marks=pytest.mark.slow),
        pytest.param({"unfrozen_layers": 2, "value_trunk": "policy"}, marks=pytest.mark.slow),
    ],
)
def test_gradient_checkpointing_saves_memory_and_changes_no_number(tmp_path, changes) -> None:
    """Counted is what autograd keeps for the backward pass of an update."""
    torch.set_num_threads(1)
    kept, weights = [], []
    for number, on in enumerate((False, True)):
        folder = tmp_path / str(number)
        inputs = built(folder)
        (folder / "out").mkdir()
        size = 0

        def count(tensor):
            nonlocal size
            size += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            runtime = world.runtime(gradient_checkpointing=on)
            ppo.run(short(**changes), inputs, runtime, folder / "out", NullTracker())
        kept.append(size)
        weights.append(load_policy(folder / "out" / "model").model.state_dict())
    close(weights[1], weights[0])
    assert kept[1] < 0.3 * kept[0]  # policy and value model alike: either alone leaves half


def test_what_can_not_be_shared_is_refused(tmp_path) -> None:
    policy = world.tiny_policy(layers=3)

    def load():
        raise AssertionError("nothing to load")

    with pytest.raises(ConfigError, match=r"unfrozen_layers \(=3\) must be fewer than .* 3 layers"):
        make_actors(policy, world.config(unfrozen_layers=3), load)
    gpt2 = world.learner_of(world.config()).policy
    with pytest.raises(ConfigError, match="GPT2LMHeadModel, which has no `layers`"):
        make_actors(gpt2, world.config(unfrozen_layers=1), load)
    shape = MistralConfig(
        vocab_size=len(world.TOKENS),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=4,
        eos_token_id=1,
        pad_token_id=0,
    )
    sliding = make_policy(MistralForCausalLM(shape), world.tokenizer())
    with pytest.raises(ConfigError, match="not all of its layers attend to all earlier tokens"):
        make_actors(sliding, world.config(unfrozen_layers=1), load)
    for targets in (["nowhere"], ["q_proj", "v_porj"], ["all-linear", "q_proj"]):
        lost = world.config(adapter=AdapterConfig(rank=2, targets=targets))
        with pytest.raises(ConfigError, match=r"must name layers .* it has down_proj, gate_proj,"):
            make_actors(policy, lost, load)
    adapted = with_adapter(world.tiny_policy(layers=3), ADAPTER, 0, "ppo.adapter")
    with pytest.raises(ConfigError, match="merge it first: plumbrule merge"):
        make_actors(adapted, world.config(adapter=ADAPTER), load)


def test_a_model_whose_halves_do_not_add_up_is_refused(monkeypatch) -> None:
    """Such as one that adds positions to whatever it is given as embeddings."""
    policy = world.tiny_policy(layers=3, spread=0.3)
    plain = type(policy.model.model).forward

    def shifted(self, *arguments, inputs_embeds=None, **named):
        if inputs_embeds is not None:
            inputs_embeds = 1.5 * inputs_embeds
        return plain(self, *arguments, inputs_embeds=inputs_embeds, **named)

    monkeypatch.setattr(type(policy.model.model), "forward", shifted)
    with pytest.raises(ConfigError, match="run apart, do not compute what it does"):
        make_actors(policy, world.config(unfrozen_layers=1), lambda: policy)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"unfrozen_layers": 1, "adapter": ADAPTER}, "be left out with ppo.adapter.rank"),
        ({"value_trunk": "branch"}, "without ppo.unfrozen_layers"),
        ({"value_trunk": "policy", "value_init": "rm"}, "be policy with ppo.value_trunk=policy"),
        ({"value_trunk": "mine"}, "one of branch, own, policy"),
        ({"value_warmup_updates": 1, "advantage": "rloo", "samples_per_prompt": 2}, "need values"),
        ({"unfrozen_layers": 0}, "unfrozen_layers"),
    ],
)
def test_settings_that_exclude_each_other(changes, rule) -> None:
    with pytest.raises(ConfigError, match=rule):
        world.config(**changes)


def on_an_adapter(folder: Path, adapted) -> dict[str, Artifact]:
    """Return the inputs in `folder`, their policy an adapter."""
    inputs = built(folder)
    start = adapted(inputs["policy"].file("model"), folder / "start" / "model")
    return {**inputs, "policy": Artifact.of(start.parent, "dpo")}


def test_a_policy_with_an_adapter_is_trained_on_against_itself(tmp_path, adapted) -> None:
    inputs = on_an_adapter(tmp_path / "a", adapted)
    start = inputs["policy"].file("model")
    actors = make_actors(load_policy(start), world.config(), lambda: load_policy(start))
    before = probe(actors.policy.model)
    for name, weight in actors.policy.model.named_parameters():
        assert weight.requires_grad == ("lora_" in name)
        if weight.requires_grad:
            weight.data.mul_(2)
    assert torch.equal(probe(actors.reference.policy.model), before)
    assert not torch.equal(probe(actors.policy.model), before)

    config = world.config(total_episodes=16, num_ppo_epochs=1, num_samples=0)
    ppo.run(config, inputs, world.runtime(), tmp_path / "a" / "out", NullTracker())
    old, new = (load_policy(f) for f in (start, tmp_path / "a" / "out" / "model"))
    weights = dict(old.model.named_parameters())
    moved = {n for n, w in new.model.named_parameters() if not torch.equal(weights[n], w)}
    assert moved == {name for name in weights if "lora_" in name}
    value = load_file(tmp_path / "a" / "out" / "value" / "model.safetensors")
    assert not [name for name in value if "lora" in name or "base_layer" in name]


@pytest.mark.parametrize(
    "changes",
    [
        {"unfrozen_layers": 1},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"rank": 2}, marks=pytest.mark.slow),
    ],
)
def test_merging_first_is_training_the_merged_model(tmp_path, adapted, changes) -> None:
    """Also below a fresh adapter, and where only the top layer learns."""
    inputs = on_an_adapter(tmp_path, adapted)
    merge(inputs["policy"].file("model"), tmp_path / "whole" / "model")
    rank, layers = changes.get("rank", 0), changes.get("unfrozen_layers")
    found = []
    for name, inherited in (("start", "merge"), ("whole", "continue")):
        config = world.config(
            adapter=AdapterConfig(rank=rank, inherited=inherited),
            unfrozen_layers=layers,
            total_episodes=16,
            num_ppo_epochs=1,
            num_samples=0,
        )
        inputs["policy"] = Artifact.of(tmp_path / name, "dpo")
        ppo.run(config, inputs, world.runtime(), tmp_path / f"out-{name}", NullTracker())
        found.append(dict(load_policy(tmp_path / f"out-{name}" / "model").model.state_dict()))
    close(*found)


def test_frozen_layers_of_an_adapter_are_refused_with_a_command_that_works(
    tmp_path, adapted, monkeypatch
) -> None:
    start = on_an_adapter(tmp_path, adapted)["policy"].file("model")
    config = world.config(unfrozen_layers=1)
    with pytest.raises(
        ConfigError, match=r"for a policy that is an adapter.*merge it first"
    ) as error:
        make_actors(load_policy(start), config, lambda: load_policy(start))
    monkeypatch.chdir(tmp_path)
    found = re.search(r"plumbrule (merge \S+ --to [\w-]+)", str(error.value))
    assert verbs.main(found[1].split()) == 0
    make_actors(load_policy("merged-policy"), config, lambda: load_policy("merged-policy"))
