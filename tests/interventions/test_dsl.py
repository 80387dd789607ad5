"""What an intervention is taken to mean: tokens of its values, draws, tokens of towers and stimuli, layers, sources."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import modalnet as mn
from modalnet.activations import donors as read_donors
from modalnet.execution.likelihood import Request
from modalnet.interventions.read_values import ReadValues

TEXTS = ["The dog sleeps on the mat.", "A child drinks tea with her friend.", "Rain falls."]


@pytest.fixture(scope="module")
def tiny():
    return mn.load("tiny")


@pytest.fixture(scope="module")
def picture():
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    from PIL import Image

    return mn.Stimulus(image=Image.fromarray(pixels))


def units(model, layers=(3, 5), towers=("decoder",)):
    shapes = {name: tower.shape for name, tower in model.towers.items()}
    return mn.Units.from_indices(
        shapes, [(name, layer, dim) for name in towers for layer in layers for dim in (1, 7, 40)]
    )


def every(model, text, **options):
    """[layer, token, dim] of the decoder."""
    return model.run(text, *options.pop("edits", []), read="decoder", tokens="all").activations["decoder"][0]


# -- values know their tokens ----------------------------------------------------------------------------------------


def test_means_of_other_tokens_are_refused(tiny):
    some = units(tiny)
    everywhere, last = tiny.means(TEXTS), tiny.means(TEXTS, tokens="last")
    with pytest.raises(mn.InputError, match=r"means are taken over all tokens of decoder.*dict\(over\)"):
        tiny.run(TEXTS[0], mn.mean(some, everywhere).at("last"))
    with pytest.raises(mn.InputError, match="taken over last tokens"):
        tiny.run(TEXTS[0], mn.mean(some, last))
    with pytest.raises(mn.InputError, match="taken over all tokens"):
        tiny.generate(TEXTS[0], mn.mean(some, everywhere).at("all", spare_first=1), max_new_tokens=1)
    with pytest.raises(mn.InputError, match="first 2 spared"):
        tiny.score(TEXTS[:1], [" It"], mn.mean(some, tiny.means(TEXTS, spare_first=2)))


@pytest.mark.parametrize(("tokens", "spare_first"), [("all", 0), ("last", 0), ("all", 2), ([-1, -2], 0), ("mean", 1)])
def test_means_at_their_tokens_equal_those_of_the_stimuli(tiny, tokens, spare_first):
    some = units(tiny)
    means = tiny.means(TEXTS, tokens=tokens, spare_first=spare_first)
    read, run = (
        every(tiny, TEXTS[0], edits=[mn.mean(some, over).at(tokens, spare_first=spare_first)])
        for over in (means, TEXTS)
    )
    assert torch.allclose(read, run, atol=1e-5)
    assert isinstance(pickle.loads(pickle.dumps(means)), ReadValues)
    assert pickle.loads(pickle.dumps(means)).taken_at == copy.deepcopy(means).taken_at == means.taken_at


def test_plain_means_and_donors_are_taken_as_they_are(tiny):
    some = units(tiny)
    means, donors = tiny.means(TEXTS), read_donors(tiny, TEXTS)
    found = every(tiny, TEXTS[0], edits=[mn.mean(some, dict(means)).at("last")])
    assert np.allclose(found[3, -1, [1, 7, 40]], means["decoder"][3, [1, 7, 40]], atol=1e-5)
    with pytest.raises(mn.InputError, match="donors are all tokens"):
        tiny.run(TEXTS[0], mn.resample(some, donors).at("last"))
    tiny.run(TEXTS[0], mn.resample(some, dict(donors)).at("last"))
    spared = read_donors(tiny, TEXTS, spare_first=1, n_tokens=400, spare_sinks=False)
    starts = every(tiny, TEXTS[0])[:, 0].numpy()
    assert not any(np.allclose(donor, starts, atol=1e-5) for donor in spared["decoder"])
    tiny.run(TEXTS[0], mn.resample(some, spared).at("all", spare_first=1))


def test_means_of_a_view_are_those_under_its_interventions(tiny):
    some = units(tiny)
    view = tiny.with_(mn.set_to(some, 3.0))
    means = view.means(TEXTS)["decoder"]
    assert np.allclose(means[3, [1, 7, 40]], 3.0)
    rows = [every(view, text) for text in TEXTS]
    expected = torch.stack([row.double().mean(1) for row in rows]).mean(0)
    assert np.allclose(view.means(TEXTS, spare_sinks=False)["decoder"], expected, atol=1e-5)
    assert not np.allclose(means[6], tiny.means(TEXTS)["decoder"][6], atol=1e-3)


def test_means_and_donors_are_for_sites_and_directions_too(tiny):
    means, donors = tiny.means(TEXTS), read_donors(tiny, TEXTS, seed=1)
    row = every(tiny, TEXTS[0], edits=[mn.mean(mn.site("decoder", [-1, 2]), means)])
    assert np.allclose(row[[2, 7]], means["decoder"][[2, 7], None], atol=1e-5)
    rng = np.random.default_rng(0)
    axis = mn.direction("decoder", 4, rng.normal(size=192))
    row = every(tiny, TEXTS[0], edits=[mn.mean(axis, means)])
    assert np.allclose(row[4].numpy() @ axis.vector, means["decoder"][4] @ axis.vector, atol=1e-4)
    drawn = every(tiny, TEXTS[0], edits=[mn.resample(mn.site("decoder", 4), donors, seed=2)])[4].numpy()
    assert all(np.isclose(donors["decoder"][:, 4], token, atol=1e-4).all(1).any() for token in drawn)
    with pytest.raises(mn.InputError, match="must have means of decoder, got vision"):
        mn.mean(mn.site("decoder", 4), {"vision": means["decoder"]})
    with pytest.raises(mn.InputError, match=r"Layer 9 does not exist: decoder has layers 0\.\.7"):
        mn.mean(mn.site("decoder", 9), means)


# -- draws go by content ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["stimuli", "donors"])
def test_a_resampled_stimulus_gets_the_same_donors_wherever_it_stands(tiny, given):
    some = units(tiny)
    pool = [f"{one} {two}." for one in ("A dog", "The cat", "My aunt") for two in ("sleeps", "eats fish", "is here")]
    over = pool if given == "stimuli" else read_donors(tiny, pool, seed=4)
    backwards = pool[::-1] if given == "stimuli" else read_donors(tiny, pool[::-1], seed=4)
    alone = every(tiny, TEXTS[1], edits=[mn.resample(some, over, seed=4)])
    for listed, donors in ((TEXTS, over), (TEXTS[::-1], over), ([TEXTS[1], TEXTS[0]], backwards)):
        run = tiny.run(listed, mn.resample(some, donors, seed=4), read="decoder", tokens="all", batch_size=2)
        assert torch.allclose(run.activations["decoder"][listed.index(TEXTS[1])], alone, atol=1e-4)
    assert not torch.allclose(every(tiny, TEXTS[1], edits=[mn.resample(some, over, seed=5)]), alone, atol=1e-3)


def test_draws_of_a_score_and_of_what_is_generated_go_by_the_stimulus(tiny):
    lesion = mn.resample(units(tiny), TEXTS, seed=1)
    both = tiny.score(TEXTS[:2], [[" It", " He"], [" It"]], lesion)
    one = tiny.score(TEXTS[1:2], [[" It"]], lesion)
    assert np.allclose(both.logprob[1], one.logprob[0], atol=1e-4)
    assert tiny.generate(TEXTS[:2], lesion, max_new_tokens=4)[1] == tiny.generate(TEXTS[1], lesion, max_new_tokens=4)
    # Texts that are scored from their beginning have nothing else to go by.
    requests = [Request(None, text) for text in TEXTS]
    whole = tiny._executor.likelihoods(requests, lesion)
    last = tiny._executor.likelihoods(requests[2:], lesion)
    assert np.isclose(whole[2].logprob, last[0].logprob, atol=1e-4)


# -- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", ["last", "all"])
def test_layers_come_in_the_order_in_which_they_were_asked_for(tiny, tokens):
    whole = tiny.run(TEXTS, read="decoder", tokens=tokens).activations["decoder"]
    for asked in ([-1, 0], [5, 2, 5], np.array([3, 1]), range(6, 2, -2), slice(None, None, -3), torch.tensor([4, 0])):
        run = tiny.run(TEXTS, read={"decoder": asked}, tokens=tokens)
        order = list(range(8))[asked] if isinstance(asked, slice) else [int(layer) % 8 for layer in asked]
        assert run.layers["decoder"] == tuple(order)
        for found, all_layers in zip(run.activations["decoder"], whole, strict=True):
            assert torch.equal(found, all_layers[order])
    mask = np.arange(8) % 3 == 1
    assert tiny.run(TEXTS[0], read={"decoder": mask}).layers["decoder"] == (1, 4, 7)
    assert tiny.run(TEXTS[0], read={"decoder": 2}).layers["decoder"] == (2,)
    for wrong in ([8], "5", [True, False], 1.5, slice(9, 12)):
        with pytest.raises(mn.InputError, match="ayer"):
            tiny.run(TEXTS[0], read={"decoder": wrong})


def test_the_default_tokens_of_a_run_are_those_of_a_localization(tiny, picture):
    default, read = tiny.run(picture), {"vision": "mean", "decoder": "image"}
    expected = tiny.run(picture, tokens=read)
    assert default.tokens == read
    for name in read:
        assert torch.equal(default.activations[name], expected.activations[name])
    asked = mn.Stimulus("What is this?", image=picture.image)
    assert tiny.run(asked).tokens == {"vision": "mean", "decoder": "last"}
    assert tiny.run(TEXTS).tokens == {"decoder": "last"}


# -- where along the tokens ------------------------------------------------------------------------------------------


def test_the_last_token_of_a_network_in_both_towers_is_named_per_tower(tiny, picture):
    both, asked = units(tiny, towers=("vision", "decoder")), mn.Stimulus("What is this?", image=picture.image)
    with pytest.raises(mn.InputError, match=r'vision tower as well.*\{"decoder": "last", "vision": "all"\}'):
        mn.zero(both).at("last")
    lesion = mn.zero(both).at({"decoder": "last", "vision": [0, 2]})
    run = tiny.run(asked, lesion, tokens="all").activations
    plain = tiny.run(asked, tokens="all").activations
    zero = {name: (row[0][3][:, [1, 7, 40]] == 0).all(1).nonzero().flatten().tolist() for name, row in run.items()}
    assert zero == {"vision": [0, 2], "decoder": [run["decoder"][0].shape[1] - 1]}
    assert torch.equal(run["vision"][0][3][1], plain["vision"][0][3][1])
    for wrong in ({"decoder": "last"}, {"decoder": "last", "vision": "all", "audio": "all"}, {}):
        with pytest.raises(mn.InputError, match="an entry for each of vision, decoder"):
            mn.zero(both).at(wrong)
    only = mn.zero(mn.site("decoder", 3)).at({"decoder": -1})
    assert torch.equal(
        every(tiny, "Rain.", edits=[only]), every(tiny, "Rain.", edits=[mn.zero(mn.site("decoder", 3)).at(-1)])
    )


def test_first_tokens_that_leave_nothing_are_refused(tiny):
    lesion = mn.zero(units(tiny))
    with pytest.raises(mn.InputError, match=r"no effect on stimulus 'A child .*spare_first"):
        tiny.run(TEXTS, lesion.at([0, 1], spare_first=2))
    with pytest.raises(mn.InputError, match="no effect"):
        tiny.run(TEXTS, lesion.at("all", spare_first=50))
    # What is generated comes after any number of first tokens.
    spared = lesion.at("all", spare_first=50)
    assert tiny.generate("Rain", spared, max_new_tokens=3) != ""
    assert tiny.score(["Rain"], [" falls" * 60], spared).logprob[0] < 0


def test_tokens_of_each_stimulus(tiny):
    places = [[1, 2], [-1], slice(0, 2)]
    for given in (places, tuple(places), [np.array([1, 2]), torch.tensor([-1]), range(2)]):
        lesion = mn.zero(mn.site("decoder", 3)).at(given)
        run = tiny.run(TEXTS, lesion, read="decoder", tokens="all", batch_size=3)
        for index, (text, own) in enumerate(zip(TEXTS, ([1, 2], [-1], [0, 1]), strict=True)):
            alone = every(tiny, text, edits=[mn.zero(mn.site("decoder", 3)).at(own)])
            assert torch.allclose(run.activations["decoder"][index], alone, atol=1e-5)
        read = tiny.run(TEXTS, read="decoder", tokens=given).activations["decoder"]
        expected = [every(tiny, text)[:, own].mean(1) for text, own in zip(TEXTS, ([1, 2], [-1], [0, 1]), strict=True)]
        assert torch.allclose(read, torch.stack(expected), atol=1e-5)
    assert len({mn.zero(units(tiny)).at(given).digest for given in ([[1], [2]], [[2], [1]], [1, 2])}) == 3
    with pytest.raises(mn.InputError, match="given for 3 stimuli, but 2 run"):
        tiny.run(TEXTS[:2], mn.zero(units(tiny)).at(places))
    with pytest.raises(mn.InputError, match="list of 3 choices for decoder, but 2 stimuli"):
        tiny.run(TEXTS[:2], tokens=places)
    with pytest.raises(mn.InputError, match="selects token 99"):
        tiny.run(TEXTS, mn.zero(units(tiny)).at([[1], [99], [0]]))
    with pytest.raises(mn.InputError, match="which tokens of its reference"):
        tiny.run(TEXTS, mn.mean(units(tiny), TEXTS).at(places))
    tiny.run(TEXTS, mn.mean(units(tiny), dict(tiny.means(TEXTS))).at(places))
    scores = tiny.score(TEXTS, [[" It", " He is"]] * 3, lesion)
    one = tiny.score(TEXTS[1:2], [[" It", " He is"]], mn.zero(mn.site("decoder", 3)).at(-1))
    assert np.allclose(scores.logprob[1], one.logprob[0], atol=1e-4)


# -- sites and directions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "meant"),
    [
        ([2, 5], [2, 5]),
        (range(1, 4), [1, 2, 3]),
        (slice(-2, None), [6, 7]),
        (np.array([-1, 0]), [7, 0]),
        (np.arange(8) == 4, [4]),
        (np.int64(3), [3]),
        (torch.tensor([6, 1]), [6, 1]),
    ],
)
def test_a_site_of_several_layers_is_those_layers(tiny, layers, meant):
    values = np.random.default_rng(0).normal(size=(len(meant), 192)).astype(np.float32)
    site = mn.site("decoder", layers)
    assert hash(site) == hash(mn.site("decoder", layers))
    apart = [mn.add(mn.site("decoder", layer), row) for layer, row in zip(meant, values, strict=True)]
    together = mn.add(site, values if not site.is_one else values[0])
    assert torch.allclose(every(tiny, TEXTS[0], edits=[together]), every(tiny, TEXTS[0], edits=apart), atol=1e-5)
    zeroed = every(tiny, TEXTS[0], edits=[mn.zero(site)])
    assert (zeroed[meant] == 0).all()
    patched = tiny.run(TEXTS[0], mn.patch(site, "The cat sleeps on the mat."), read={"decoder": meant}, tokens="all")
    source = every(tiny, "The cat sleeps on the mat.")
    assert torch.allclose(patched.activations["decoder"][0], source[meant], atol=1e-5)


def test_layers_that_are_none_are_refused(tiny):
    for wrong in ("5", 1.5, [], [1.5], None, {"a": 1}, [True, 2.0]):
        with pytest.raises(mn.InputError, match="`layer` must be"):
            mn.site("decoder", wrong)
    for wrong in (8, [0, -9], slice(8, 9), [True] * 3):
        with pytest.raises(mn.InputError, match="layer"):
            tiny.run(TEXTS[0], mn.zero(mn.site("decoder", wrong)))
    with pytest.raises(mn.InputError, match="is on 2 layers, got values of shape"):
        tiny.run(TEXTS[0], mn.add(mn.site("decoder", [1, 2]), np.zeros((3, 192))))


def test_a_subspace_is_what_its_directions_span(tiny):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(3, 192)).astype(np.float32)
    axes = mn.direction("decoder", 4, rows)
    assert np.allclose(axes.vector @ axes.vector.T, np.eye(3), atol=1e-5)
    projector = rows.T @ np.linalg.solve(rows @ rows.T, rows)
    before = every(tiny, TEXTS[0])[4].numpy()
    after = every(tiny, TEXTS[0], edits=[mn.zero(axes)])[4].numpy()
    assert np.allclose(after, before - before @ projector, atol=1e-4)
    source = every(tiny, "The cat sleeps on the mat.")[4].numpy()
    patched = every(tiny, TEXTS[0], edits=[mn.patch(axes, "The cat sleeps on the mat.")])[4].numpy()
    assert np.allclose(patched, before + (source - before) @ projector, atol=1e-4)
    one, same = mn.direction("decoder", 4, rows[0]), mn.direction("decoder", 4, rows[:1])
    for kind in (mn.zero, lambda target: mn.scale(target, 2.0), lambda target: mn.add(target, [1.5])):
        assert torch.allclose(
            every(tiny, TEXTS[0], edits=[kind(one)]), every(tiny, TEXTS[0], edits=[kind(same)]), atol=1e-5
        )
    upright = mn.direction("decoder", 4, 3.0 * np.eye(192)[[5, 9]])
    moved = every(tiny, TEXTS[0], edits=[mn.add(upright, [1.0, -2.0])])[4].numpy() - before
    assert np.allclose(moved[:, [5, 9]], [1.0, -2.0], atol=1e-5)
    assert np.allclose(np.delete(moved, [5, 9], axis=1), 0, atol=1e-6)
    with pytest.raises(mn.InputError, match="right angles"):
        mn.add(axes, [1.0, 2.0, 3.0])
    with pytest.raises(mn.InputError, match="2 finite numbers"):
        mn.set_to(upright, [1.0])
    with pytest.raises(mn.InputError, match="linearly independent, but span 1"):
        mn.direction("decoder", 4, [rows[0], 2 * rows[0]])
    with pytest.raises(mn.InputError, match=r"\[k, dim\]"):
        mn.direction("decoder", 4, np.zeros((2, 192)))


# -- sources of patches ----------------------------------------------------------------------------------------------

CAT = "The cat sleeps on the mat."


def test_a_patch_takes_a_run(tiny):
    site, some = mn.site("decoder", 3), units(tiny)
    run = tiny.run([CAT, TEXTS[1]], tokens="all")
    for target in (site, some, mn.direction("decoder", 3, np.ones(192)), mn.site("decoder", slice(2, 6))):
        for at in ("all", "last", [1, -2], slice(1, 4)):
            given = mn.patch(target, run).at(at)
            expected = mn.patch(target, [CAT, TEXTS[1]]).at(at)
            found, wanted = (
                tiny.run(TEXTS[:2], one, read="decoder", tokens="all", logits="last") for one in (given, expected)
            )
            assert torch.allclose(found.logits, wanted.logits, atol=1e-4)
    last = tiny.run(CAT, tokens="last")
    assert torch.allclose(
        every(tiny, TEXTS[0], edits=[mn.patch(site, last).at("last")]),
        every(tiny, TEXTS[0], edits=[mn.patch(site, CAT).at("last")]),
        atol=1e-5,
    )
    put = every(tiny, TEXTS[0], edits=[mn.patch(site, last, source_at="last").at([0, 2])])[3]
    assert torch.allclose(put[[0, 2]], last.activations["decoder"][0, 3].expand(2, -1), atol=1e-5)
    for wrong, message in (
        (mn.patch(site, last), "read at last tokens of decoder"),
        (mn.patch(site, tiny.run(CAT, read={"decoder": [2]}, tokens="all")), "layer 3 of decoder was not read"),
        (mn.patch(site, run), "one source for all stimuli"),
    ):
        with pytest.raises(mn.InputError, match=message):
            tiny.run(TEXTS[:3], wrong)
    with pytest.raises(mn.InputError, match="without activations"):
        mn.patch(site, tiny.run(CAT, read=[], logits="last"))


def test_a_patch_takes_image_tokens_of_a_run(tiny, picture):
    other = mn.Stimulus(image=picture.image.rotate(90))
    run, site = tiny.run(other, tokens="all"), mn.site("decoder", 2)
    found, wanted = (
        tiny.run(picture, mn.patch(site, source).at("image"), read="decoder", tokens="all").activations["decoder"][0]
        for source in (run, other)
    )
    assert torch.allclose(found, wanted, atol=1e-5)


def test_a_run_that_is_patched_names_its_tokens_only_where_kinds_of_them_are_asked_for(tiny):
    run = tiny.run(TEXTS[0], tokens="all")
    patch = mn.patch(mn.site("decoder", 2), run)
    tiny.run(TEXTS[0], patch)
    assert "token_rows" not in vars(run)
    again = pickle.loads(pickle.dumps(patch))
    assert again.digest == patch.digest
    assert torch.equal(every(tiny, TEXTS[0], edits=[again.at("text")]), every(tiny, TEXTS[0]))


def test_a_patch_takes_arrays(tiny):
    row = every(tiny, CAT)
    expected = every(tiny, TEXTS[0], edits=[mn.patch(mn.site("decoder", 3), CAT)])
    for source in (row[3], row[3].numpy(), [row[3]]):
        assert torch.allclose(
            every(tiny, TEXTS[0], edits=[mn.patch(mn.site("decoder", 3), source)]), expected, atol=1e-5
        )
    one = every(tiny, TEXTS[0], edits=[mn.patch(mn.site("decoder", 3), row[3, 2]).at([1, 4])])[3]
    assert torch.allclose(one[[1, 4]], row[3, 2].expand(2, -1), atol=1e-5)
    some = units(tiny)
    for source in ({"decoder": row}, [{"decoder": row.numpy()}]):
        found = every(tiny, TEXTS[0], edits=[mn.patch(some, source)])
        assert torch.allclose(found, every(tiny, TEXTS[0], edits=[mn.patch(some, CAT)]), atol=1e-5)
    picked = every(tiny, TEXTS[0], edits=[mn.patch(mn.site("decoder", 3), row[3], source_at=[2]).at("last")])[3]
    assert torch.allclose(picked[-1], row[3, 2], atol=1e-5)
    apart = [np.arange(some.count), -np.arange(some.count, dtype=float)]
    run = tiny.run(TEXTS[:2], mn.patch(some, apart), read="decoder", tokens="all").activations["decoder"]
    for values, source in zip(run, apart, strict=True):
        assert np.allclose(values[[3, 5]][..., [1, 7, 40]].numpy(), source.reshape(2, 1, 3), atol=1e-5)
    with pytest.raises(mn.InputError, match=r"\[dim\] or \[token, dim\]"):
        mn.patch(mn.site("decoder", 3), np.full(192, np.nan))
    with pytest.raises(mn.InputError, match="must be stimuli, a run"):
        mn.patch(some, row[3])
    with pytest.raises(mn.InputError, match="its source has 3"):
        tiny.run(TEXTS[0], mn.patch(mn.site("decoder", 3), row[3, :3]))
    with pytest.raises(mn.InputError, match="191 units"):
        tiny.run(TEXTS[0], mn.patch(mn.site("decoder", 3), row[3, 0, :191]))


def test_a_patch_takes_a_view_and_another_checkpoint(tiny):
    lesion, site = mn.zero(mn.site("decoder", 1)), mn.site("decoder", 5)
    view = tiny.with_(lesion)
    patched = tiny.run(TEXTS[0], mn.patch(site, view.on(TEXTS[0])), logits="last").logits
    assert torch.allclose(patched, view.run(TEXTS[0], logits="last").logits, atol=1e-4)
    other = mn.load("tiny", untrained=3)
    patched = tiny.run(TEXTS[0], mn.patch(site, other.on(CAT)), read={"decoder": 5}, tokens="all")
    assert torch.allclose(patched.activations["decoder"][0][0], every(other, CAT)[5], atol=1e-5)
    one, two = mn.patch(site, view.on(CAT)), mn.patch(site, tiny.on(CAT))
    assert len({one.digest, two.digest, mn.patch(site, other.on(CAT)).digest, mn.patch(site, CAT).digest}) == 4
    assert torch.allclose(
        every(tiny, TEXTS[0], edits=[two]), every(tiny, TEXTS[0], edits=[mn.patch(site, CAT)]), atol=1e-5
    )


def test_a_patch_takes_another_layer_and_other_tokens(tiny):
    source = every(tiny, TEXTS[1])
    patch = mn.patch(mn.site("decoder", 2), TEXTS[1], source_layer=-1, source_at=[3, 4]).at([0, -1])
    found = every(tiny, TEXTS[0], edits=[patch])[2]
    assert torch.allclose(found[[0, -1]], source[7, [3, 4]], atol=1e-5)
    run = tiny.run(TEXTS[1], tokens="all")
    again = every(
        tiny, TEXTS[0], edits=[mn.patch(mn.site("decoder", 2), run, source_layer=7, source_at=[3, 4]).at([0, -1])]
    )
    assert torch.allclose(again[2], found, atol=1e-5)
    own = mn.patch(mn.site("decoder", 2), TEXTS[:2], source_at=[[1], [2]]).at("last")
    both = tiny.run(TEXTS[:2], own, read={"decoder": 2}, tokens="last").activations["decoder"][:, 0]
    assert torch.allclose(both, torch.stack([every(tiny, TEXTS[0])[2, 1], source[2, 2]]), atol=1e-5)
    for wrong in (units(tiny), mn.site("decoder", [1, 2])):
        with pytest.raises(mn.InputError, match="source_layer"):
            mn.patch(wrong, CAT, source_layer=3)
    with pytest.raises(mn.InputError, match="ayer 8"):
        tiny.run(TEXTS[0], mn.patch(mn.site("decoder", 2), TEXTS[0], source_layer=8))


# -- what a run holds ------------------------------------------------------------------------------------------------


def test_a_run_names_its_tokens(tiny, picture):
    asked = mn.Stimulus("What is this?", image=picture.image)
    run = tiny.run([asked, asked], tokens="all", logits="all")
    ids = tiny._executor.encoder.encode(tiny._executor.prepare([asked])[0]).inputs["input_ids"][0]
    names = run.token_names["decoder"][0]
    assert len(names) == run.activations["decoder"][0].shape[1] == len(run.logits[0]) == len(ids)
    image = run.token_rows[0]["decoder"].image
    written = [tiny.tokenizer.decode([int(one)]) for one, placed in zip(ids, image, strict=True) if not placed]
    assert [name for name, placed in zip(names, image, strict=True) if not placed] == written
    assert len(run.token_names["vision"][1]) == run.activations["vision"][1].shape[1]
    again = pickle.loads(pickle.dumps(run))
    assert again.token_names == run.token_names
    assert copy.copy(run).token_names == run.token_names


def test_a_run_is_labelled_arrays(tiny):
    run = tiny.run(TEXTS, read={"decoder": [5, 2]}, tokens="all", logits="all")
    data = run.to_xarray()
    assert data["decoder"].dims == ("stimulus", "decoder_layer", "decoder_token", "decoder_unit")
    assert data["decoder_layer"].values.tolist() == [5, 2]
    for index, row in enumerate(run.activations["decoder"]):
        n_tokens = row.shape[1]
        values = data["decoder"].sel(decoder_layer=2)[index].values
        assert np.array_equal(values[:n_tokens], row[1].numpy())
        assert np.isnan(values[n_tokens:]).all()
        assert data["decoder_token_name"][index].values.tolist()[:n_tokens] == list(run.token_names["decoder"][index])
        assert np.array_equal(data["logits"][index, :n_tokens].values, run.logits[index].numpy())
    pooled = tiny.run(TEXTS, logits="last").to_xarray()
    assert pooled["decoder"].dims == ("stimulus", "decoder_layer", "decoder_unit")
    assert pooled["logits"].dims == ("stimulus", "vocab")
    assert list(tiny.run(TEXTS, read=[], logits="last").to_xarray()) == ["logits"]


def test_an_unknown_operation_is_named(tiny):
    with pytest.raises(mn.InputError, match=r"`kind` must be one of 'zero'.*got 'zeros'. Did you mean 'zero'"):
        mn.Intervention("zeros", mn.site("decoder", 1))
    with pytest.raises(mn.InputError, match=r"operations.*'zeroo'"):
        mn.lesion_study(tiny, {"some": units(tiny)}, mn.tasks.default()[:1], operations=["zeroo"])


# -- hooks of the user -----------------------------------------------------------------------------------------------


def plain_rows(tiny, text):
    ids = tiny.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        out = tiny.module(input_ids=ids, output_hidden_states=True)
    return torch.stack(out.hidden_states[1:-1])[:, 0], out.logits[0, -1]


def half(module, args, output):
    return (output[0] * 0.5, *output[1:]) if isinstance(output, tuple) else output * 0.5


def plus_one(module, args, kwargs, output):
    return (output[0] + 1, *output[1:]) if isinstance(output, tuple) else output + 1


def test_a_hook_on_a_block_is_in_what_is_read(tiny):
    block = tiny.module.model.language_model.layers[3]
    clean = every(tiny, TEXTS[0])
    handles = [block.register_forward_hook(half), block.register_forward_hook(plus_one, with_kwargs=True)]
    try:
        rows, logits = plain_rows(tiny, TEXTS[0])
        run = tiny.run(TEXTS[0], tokens="all", logits="last")
        assert torch.allclose(run.activations["decoder"][0][:-1], rows, atol=1e-4)
        assert torch.allclose(run.logits[0], logits, atol=1e-4)
        assert torch.allclose(rows[3], clean[3] * 0.5 + 1, atol=1e-4)
        zeroed = tiny.run(TEXTS[0], mn.zero(mn.site("decoder", 3)), tokens="all").activations["decoder"][0]
        assert (zeroed[3] == 0).all()
        states = tiny._executor.states([mn.Stimulus(TEXTS[0])])
        assert torch.allclose(states[0].activations["decoder"][:-1], rows, atol=1e-4)
        assert {half, plus_one} <= set(block._forward_hooks.values())
    finally:
        for handle in handles:
            handle.remove()
    assert not {half, plus_one} & set(block._forward_hooks.values())
    assert torch.allclose(every(tiny, TEXTS[0]), clean, atol=1e-5)


def test_a_global_hook_is_in_what_is_read(tiny):
    layers = tiny.module.model.language_model.layers
    clean, calls = every(tiny, TEXTS[0]), []

    def everywhere(module, args, output):
        calls.append(module)
        return plus_one(module, args, {}, output) if module in (layers[2], layers[5]) else None

    own = layers[5].register_forward_hook(half)
    handle = torch.nn.modules.module.register_module_forward_hook(everywhere)
    try:
        run = tiny.run(TEXTS[0], tokens="all", logits="last")
        counted = calls.count(layers[2]), calls.count(layers[5].mlp)
        seen = []
        watching = [
            layer.register_forward_hook(lambda _, __, o: seen.append(o[0] if isinstance(o, tuple) else o))
            for layer in layers
        ]
        ids = tiny.tokenizer(TEXTS[0], return_tensors="pt").input_ids
        with torch.no_grad():
            logits = tiny.module(input_ids=ids).logits[0, -1]
        for each in watching:
            each.remove()
    finally:
        handle.remove()
        own.remove()
    rows = torch.stack([row.reshape(-1, 192) for row in seen])
    assert torch.allclose(run.activations["decoder"][0], rows, atol=1e-4)
    assert torch.allclose(run.logits[0], logits, atol=1e-4)
    assert torch.allclose(rows[2], clean[2] + 1, atol=1e-4)
    assert counted == (1, 1)
    assert torch.allclose(every(tiny, TEXTS[0]), clean, atol=1e-5)


def test_a_hook_that_fails_is_still_there(tiny):
    block = tiny.module.model.language_model.layers[3]

    def fails(module, args, output):
        raise RuntimeError("mine")

    handle = block.register_forward_hook(fails)
    everywhere = torch.nn.modules.module.register_module_forward_hook(lambda module, args, output: None)
    registered = dict(torch.nn.modules.module._global_forward_hooks)
    try:
        with pytest.raises(RuntimeError, match="mine"):
            tiny.run(TEXTS[0])
        assert fails in block._forward_hooks.values()
        assert dict(torch.nn.modules.module._global_forward_hooks) == registered
    finally:
        handle.remove()
        everywhere.remove()
    assert tiny.run(TEXTS[0]).activations["decoder"].shape == (1, 8, 192)
