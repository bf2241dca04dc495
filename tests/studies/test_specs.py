"""Specs, baselines and the settings that name a spec in words."""

import math
import shlex
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies import __main__, specs


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset": "mnist"}, r"dataset is 'mnist': choose one of 'digits'\."),
        ({"model": "vgg"}, r"model is 'vgg': choose one of 'mlp', 'cnn', 'resnet', 'strided-resnet'\."),
        ({"batch_size": 0}, r"batch_size is 0: give an integer of at least 1\."),
        ({"seed": -1}, r"seed is -1: give an integer from 0 to 4294967295\."),
        ({"seed": 1.0}, r"seed is 1\.0: give an integer\."),
        ({"width": 0}, r"width is 0: give an integer of at least 1\."),
        ({"epochs": True}, r"epochs is True: give an integer\."),
        ({"steps": 1}, r"steps is 1: give an integer of at least 2\."),
        ({"bits": ()}, r"bits is \(\): give a list of integers, such as \[8, 4\]\."),
        ({"bits": 8}, r"bits is 8: give a list of integers"),
        ({"bits": (8, 1)}, r"bits is 1: give an integer from 2 to 16\."),
        ({"bits": (17,)}, r"bits is 17: give an integer from 2 to 16\."),
        ({"bits": (8, 4.0)}, r"bits is 4\.0: give an integer\."),
        ({"bits": (8, 4, 8)}, r"bits is \[8, 4, 8\]: give each value once\."),
        ({"nodes": (1,)}, r"nodes is 1: give an integer of at least 2\."),
        ({"nodes": (21, 21)}, r"nodes is \[21, 21\]: give each value once\."),
        ({"scheme": "wide"}, r"scheme is 'wide': choose one of 'narrow', 'full'\."),
        ({"granularity": "row"}, r"granularity is 'row': choose one of 'tensor', 'channel'\."),
        ({"share": 0}, r"share is 0: the boundary band would be empty\."),
        ({"share": 1.5}, r"share is 1\.5: give a number from 0 to 1\."),
        ({"share": float("nan")}, r"share is nan: give a number from 0 to 1\."),
    ],
)
def test_a_wrong_spec_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        specs.Levels(**wrong)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["sed=3"], r"There is no parameter 'sed': did you mean 'seed'\?"),
        (["Bits=[8]"], r"There is no parameter 'Bits': did you mean 'bits'\?"),
        (
            ["dataset=digits"],
            r"There is no parameter 'dataset': (choose from model, seed, bits, .*, seeds|did you mean)",
        ),
        (["q=1"], r"There is no parameter 'q': choose from model, seed, bits, width, .*, seeds\."),
        (["seed"], r"'seed' is no setting: write name=value, such as seed=3\."),
        (["seed=1", "seed=1"], r"seed is given twice: give it once\."),
        (["seed=one"], r"seed is 'one': give a value of type int, such as 0\."),
        (["seed="], r"seed is '': give a value of type int"),
        (["seed=1.0"], r"seed is '1\.0': give a value of type int"),
        (["seed=true"], r"seed is 'true': give a value of type int"),
        (["bits=8"], r"bits is '8': give a value of type list, such as \[8,7,6,5,4,3,2\]\."),
        (["bits=[8,"], r"bits is '\[8,': give a value of type list"),
        (['bits=[8,"5"]'], r"bits is '5': give an integer\."),
        (["bits=[8,8]"], r"bits is \[8, 8\]: give each value once\."),
        (["bits=[]"], r"bits is \[\]: give a list of integers"),
        (["share=much"], r"share is 'much': give a value of type float, such as 0\.2\."),
        (["share=NaN"], r"share is nan: give a number from 0 to 1\."),
        (["scheme=1"], r"scheme is '1': give a value of type str, such as narrow\."),
        (["scheme=wide"], r"scheme is 'wide': choose one of"),
        (["seeds=0"], r"seeds is 0: give an integer of at least 1\."),
    ],
)
def test_wrong_settings_are_refused_by_name_before_anything_runs(here, capsys, given, message):
    with pytest.raises(ValueError, match=message):
        specs.parse(given)
    assert __main__.main(["run", "levels", "digits", *given]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("studies run: ") and printed.err.count("\n") == 1 and printed.out == ""
    assert list(here.iterdir()) == []


def test_settings_are_json_or_bare_words():
    given = ["seed=3", "bits=[8, 5]", "share=1", "scheme=full", 'granularity="channel"', "seeds=2"]
    expected = replace(specs.Levels(), seed=3, bits=(8, 5), share=1.0, scheme="full", granularity="channel")
    assert specs.parse(given) == (expected, 2)
    assert specs.parse([]) == (specs.Levels(), 100)
    spec, seeds = specs.parse(["model=cnn", "width=8"], "stopping", "mnist")
    assert (spec, seeds) == (replace(specs.baseline("stopping", "mnist", "cnn"), width=8), 5)


@pytest.mark.parametrize("usual", specs.BASELINES, ids=lambda spec: "-".join((spec.study, spec.dataset, spec.model)))
def test_every_parameter_is_explained_and_can_be_given(usual, capsys):
    listed = specs.parameters(usual)
    assert sorted(name for name, *_ in listed) == sorted([*asdict(usual), "seeds"][1:])
    given = [f"{name}={default}" for name, _, default, _ in listed]
    assert specs.parse(given, usual.study, usual.dataset) == (usual, specs.BASELINES[usual])
    with pytest.raises(SystemExit, match="0"):
        __main__.main(["run", usual.study, usual.dataset, "--help"])
    shown = capsys.readouterr().out
    if usual == specs.baseline(usual.study, usual.dataset):
        assert all(f"{name}={default}" in shown and says in shown for name, _, default, says in listed)


COMMON = dict(
    seed=st.integers(0, 2**32 - 1),
    bits=st.lists(st.integers(2, 16), min_size=1, max_size=5, unique=True).map(tuple),
    width=st.integers(1, 500),
    epochs=st.integers(1, 500),
    nodes=st.lists(st.integers(2, 900), min_size=1, max_size=3, unique=True),
    scheme=st.sampled_from(["narrow", "full"]),
    granularity=st.sampled_from(["tensor", "channel"]),
    share=st.floats(1e-3, 1) | st.just(1),
    batch_size=st.integers(1, 500),
)
SPECS = (
    st.builds(specs.Levels, steps=st.integers(2, 50), **COMMON)
    | st.builds(
        lambda usual, bits, **changed: replace(usual, bits=tuple(sorted(bits, reverse=True)), **changed),
        st.sampled_from([spec for spec in specs.BASELINES if spec.study == "stopping"]),
        sizes=st.lists(st.integers(10, 50_000), min_size=3, max_size=3),
        **COMMON,
    )
    | st.builds(
        lambda usual, bits, **changed: replace(usual, bits=tuple(sorted(bits, reverse=True)), **changed),
        st.sampled_from([spec for spec in specs.BASELINES if spec.study == "rounding"]),
        gaps=st.lists(st.integers(0, 9) | st.floats(0, 1e6), min_size=1, max_size=4, unique=True),
        steps=st.integers(1, 10_000),
        examples=st.integers(32, 10_000),
        **COMMON,
    )
)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"dataset": "svhn"},
            r"dataset is 'svhn': choose one of 'digits', 'mnist', 'fashion-mnist', 'cifar-10', 'full-cifar-10'\.",
        ),
        ({"sizes": (100, 100)}, r"sizes is \[100, 100\]: give three, to train, to calibrate, and held out\."),
        ({"sizes": (100, 9, 100)}, r"sizes is 9: give an integer of at least 10\."),
        ({"bits": (2, 8)}, r"bits is \[2, 8\]: a stopping rule goes down, so give the most first\."),
    ],
)
def test_a_wrong_stopping_spec_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        specs.Stopping(**changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"gaps": ()}, r"gaps is \(\): give a list of numbers, such as \[0, 0\.1\]\."),
        ({"gaps": (0, -1)}, r"gaps is -1: give numbers of at least 0\."),
        ({"gaps": (math.inf,)}, r"gaps is inf: give numbers of at least 0\."),
        ({"gaps": (True,)}, r"gaps is True: give numbers of at least 0\."),
        ({"gaps": (1, 1.0)}, r"gaps is \[1, 1\.0\]: give each value once\."),
        ({"steps": 0}, r"steps is 0: give an integer of at least 1\."),
        ({"examples": 31}, r"examples is 31: give an integer of at least 32\."),
    ],
)
def test_a_wrong_rounding_spec_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        specs.Rounding(**changed)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("stop", "digits"), r"study is 'stop': choose one of 'levels', 'stopping', 'rounding'\."),
        (("levels", "mnist"), r"dataset is 'mnist': choose one of 'digits'\."),
        (("stopping", "mnist", "resnet"), r"model is 'resnet': choose one of 'mlp', 'cnn'\."),
    ],
)
def test_a_baseline_that_is_not_there_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        specs.baseline(*asked)


def test_the_variants_differ_from_the_baseline_in_one_choice_and_share_its_grids():
    for dataset, changes in specs.VARIANTS.items():
        usual, *others = specs.variants(dataset)
        assert [{k for k, v in asdict(o).items() if v != asdict(usual)[k]} for o in others] == [set(c) for c in changes]
        assert all(len(changed) == 1 for changed in changes)
        assert usual.nodes[0] == specs.baseline("stopping", dataset).nodes[0]


@settings(max_examples=60)
@given(SPECS, st.integers(1, 200))
def test_the_command_of_a_spec_gives_that_spec_again(spec, seeds):
    python, _, module, run, study, dataset, *given = shlex.split(spec.command(seeds))
    assert (python, module, run) == ("python", "studies", "run")
    assert specs.parse(given, study, dataset) == (spec, seeds)
    assert specs.load(spec.text()) == spec
