"""What files of tasks may hold: no code, however it is spelt."""

from __future__ import annotations

import datetime

import pytest
from jinja2 import Environment, StrictUndefined
from jinja2.exceptions import SecurityError

from eval.benchmarks.harness.task_files import (
    check_task_files,
    require_known_metrics,
    sandbox_like,
)
from plumbrule.errors import ConfigError

CODE = {
    "a function": "x: !function u.f",
    "with an escape": "x: !%66unction u.f",
    "behind a handle": "%TAG !f! !func\n---\nx: !f!tion u.f",
    "in full": "x: !<!funct%69on> u.f",
    "at depth": "x: {y: [1, {z: !function u.f}]}",
    "as a key": "? !function u.f\n: 1",
    "of an alias": "x: &a [!function u.f]\ny: *a",
    "Python's": "x: !!python/name:os.system",
    "trusted": "dataset_kwargs: {trust_remote_code: true}",
    "trusted, escaped": 'dataset_kwargs: {"trust_remote\\x5fcode": true}',
    "trusted, behind an alias": "x: &a trust_remote_code\ny: {*a : true}",
    "a script of metrics": "metric_list: [{metric: m, hf_evaluate: true}]",
    "a prompt's file": 'use_prompt: "p.yaml:q"',
}


def written(folder, text, name="own.yaml"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.mark.parametrize("text", CODE.values(), ids=list(CODE))
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_file_that_names_code_is_refused(text, encoding, tmp_path):
    written(tmp_path, text.encode(encoding))
    with pytest.raises(ConfigError, match=r"must name no code, and own.yaml holds"):
        check_task_files(tmp_path)


@pytest.mark.parametrize("name", ["_base", "deep/base.txt"])
def test_what_a_file_includes_is_read_by_the_same_rule(name, tmp_path):
    written(tmp_path, f"task: own\ninclude: [{name}]\n")
    with pytest.raises(ConfigError, match=f"own.yaml includes {name}; put that file into"):
        check_task_files(tmp_path)
    back = "../own.yaml" if "/" in name else "own.yaml"  # a circle
    written(tmp_path, f"include: {back}\nmetric_list: [{{metric: acc}}]", name)
    assert check_task_files(tmp_path) == {"acc"}
    written(tmp_path, "doc_to_text: !%66unction u.f", name)
    with pytest.raises(ConfigError, match="must name no code"):
        check_task_files(tmp_path)


@pytest.mark.parametrize("absolute", [True, False])
def test_a_file_outside_of_the_folder_is_not_included(absolute, tmp_path):
    written(tmp_path, "doc_to_text: plain", "base.yaml")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "link.yaml").symlink_to(tmp_path / "base.yaml")
    assert check_task_files(tmp_path / "tasks") == set()
    name = str(tmp_path / "base.yaml") if absolute else "../base.yaml"
    written(tmp_path / "tasks", f"include: {name}")
    with pytest.raises(ConfigError, match="must hold what its files include"):
        check_task_files(tmp_path / "tasks")


def test_words_that_name_no_code_may_stand_in_a_file(tmp_path):
    text = """\
    # trust_remote_code and !function in a comment, and in a text
    task: own
    description: "!function and trust_remote_code: words"
    made: 2026-01-01
    also: [1, 2.5, true, null, !!str 5, !!set {a}, {<<: {b: 1}}]
    metric_list:
      - {metric: acc, aggregation: mean}
      - metric: bleu
    """
    assert check_task_files(written(tmp_path, text)) == {"acc", "bleu"}
    written(tmp_path, "", "empty.yaml")
    check_task_files(tmp_path)


@pytest.mark.parametrize("text", ["a: [", "a: 1\n---\nb: 2", "a: *none", "[" * 5000, b"\xff\xfea"])
def test_a_file_that_is_no_yaml_is_refused(text, tmp_path):
    with pytest.raises(ConfigError, match="must hold YAML that can be read, and own"):
        check_task_files(written(tmp_path, text))


def test_a_metric_that_the_library_does_not_have_is_refused(tmp_path):
    require_known_metrics(tmp_path, {"acc"}, ["acc", "bleu"])
    with pytest.raises(ConfigError, match=r"has the metric ./m.py, which lm-eval"):
        require_known_metrics(tmp_path, {"acc", "./m.py"}, ["acc", "bleu"])


class Image:
    """Stands for what a data set may hold that is no plain value."""

    size = 3

    def save(self, path):
        raise AssertionError("a template wrote a file")


DOC = {"name": " Ann ", "choices": ["a", "b"], "of": {"x": 1}, "day": datetime.date(2026, 1, 2)}


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.getcwd() }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'].__mro__ }}",
        "{{ (''|attr('__class__')).__mro__ }}",
        "{{ (''|attr('__cl' ~ 'ass__')).__mro__ }}",
        "{{ ([''] | map(attribute='__class__') | list)[0].__mro__ }}",
        "{{ '{0.__class__}'.format('') }}",
        "{{ ('{0.__class__}'|attr('format'))('') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ image.save('x') }}",
        "{{ image['save']('x') }}",
    ],
)
def test_templates_reach_no_code(template):
    sandbox = sandbox_like(Environment(undefined=StrictUndefined))
    with pytest.raises(SecurityError):
        sandbox.from_string(template).render(**DOC, image=Image())


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ name.strip() }}", "Ann"),
        ("{{ of.x }} {{ of['x'] }} {{ of.keys()|list }}", "1 1 ['x']"),
        (
            "{{ choices.index('b') }}{% for c in choices %}{{ loop.index }}{{ c }}{% endfor %}",
            "11a2b",
        ),
        ("{{ '{} {:.1f}'.format(choices[0], 0.25) }}", "a 0.2"),
        ("{{ name|mended|trim }}\n", "Bnn\n"),
        ("{{ day.year }} {{ choices|join(', ')|upper }}", "2026 A, B"),
        ("{% set n = namespace(i=1) %}{% set n.i = 2 %}{{ n.i }}", "2"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(of.x) }}", "<1>"),
    ],
)
def test_templates_of_plain_values_are_as_they_were(template, text):
    plain = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    plain.filters["mended"] = lambda value: value.replace("A", "B")
    for environment in (plain, sandbox_like(plain)):
        assert environment.from_string(template).render(**DOC) == text
