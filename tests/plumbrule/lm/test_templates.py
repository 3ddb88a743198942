"""Chat templates: what they refuse is said, they end where they should, and they come to an end."""

import json
import threading
import time

import pytest
from worlds import tiny_models

from plumbrule.config import ModelConfig, SamplingConfig
from plumbrule.data.records import Message, Prompt
from plumbrule.errors import ConfigError, DataError
from plumbrule.lm import templates
from plumbrule.lm.chat import encode_chat, render_chat, train_tokenizer, turn_end
from plumbrule.lm.generation import generate
from plumbrule.lm.loading import load_policy, make_policy, save_policy
from plumbrule.lm.templates import arrange, check_chats

USER, SYSTEM = Message("user", "Who wrote it?"), Message("system", "Be brief.")
ANSWER = Message("assistant", "Mara Lind.")
STRICT = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ '<start>' + m['role'] + '\n' + m['content'] + '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start>assistant\n' }}{% endif %}"
)


def tokenizer(template=STRICT):
    made = train_tokenizer(tiny_models.TEXTS, 318)
    made.add_special_tokens({"additional_special_tokens": ["<start>", "<end>"]})
    made.chat_template = template
    return made


@pytest.mark.parametrize(
    ("chat", "said"),
    [
        ([SYSTEM, USER], r"roles=system, user\).*System role not supported.*system_turns=fold"),
        ([USER, USER], r"roles=user, user\).*says: Conversation roles must alternate; change"),
    ],
)
def test_what_a_template_refuses_is_said_in_its_words(chat, said):
    for show in (render_chat, encode_chat):
        with pytest.raises(DataError, match=said):
            show(tokenizer(), chat)


def test_the_first_refused_record_is_named_without_a_model():
    chats = [("a", [USER]), ("b", [SYSTEM, USER]), ("c", [USER, ANSWER, USER]), ("d", [USER, USER])]
    with pytest.raises(DataError, match=r"^2 of 4 records, the first is 'b': .*roles=system, user"):
        check_chats(tokenizer(), chats)
    with pytest.raises(DataError, match=r"^1 of 4 records, the first is 'd': .*must alternate"):
        check_chats(tokenizer(), chats, "fold")
    with pytest.raises(DataError, match=r"the first is 'b'.*system_turns=refuse"):
        check_chats(tokenizer(), chats[:3], "refuse")
    check_chats(tokenizer(), chats[2:3])
    check_chats(tiny_models.tokenizer(), chats)  # ours takes them all
    with pytest.raises(DataError, match="system_turns=refuse"):
        check_chats(tiny_models.tokenizer(), chats, "refuse")


def test_system_turns_are_kept_folded_or_refused():
    chat = [SYSTEM, USER, ANSWER, Message("system", "In French."), Message("user", "And when?")]
    assert arrange(chat, "keep") is chat
    assert arrange(chat, "fold") == [
        Message("user", "Be brief.\n\nWho wrote it?"),
        ANSWER,
        Message("user", "In French.\n\nAnd when?"),
    ]
    with pytest.raises(DataError, match="must hold no system turn"):
        arrange(chat, "refuse")
    with pytest.raises(DataError, match="a user turn behind each system turn"):
        arrange([USER, SYSTEM], "fold")
    with pytest.raises(
        ConfigError, match=r"model\.system_turns \(=drop\) must be one of fold, keep"
    ):
        ModelConfig(system_turns="drop")


def test_folding_travels_with_the_policy(tmp_path):
    policy = make_policy(tiny_models.model(), tokenizer())
    with pytest.raises(DataError, match="System role"):
        policy.encode([SYSTEM, USER])
    object.__setattr__(policy.spec, "system_turns", "fold")
    save_policy(policy, tmp_path)
    loaded = load_policy(tmp_path)
    ids = loaded.encode([SYSTEM, USER], ["It is old."])
    assert "user\nIt is old.\nBe brief.\n\nWho wrote it?<end>" in loaded.tokenizer.decode(ids)


def test_the_token_that_ends_a_turn_stops_a_response_beside_eos():
    made = tokenizer()
    end = made.convert_tokens_to_ids("<end>")
    assert turn_end(made) == end
    policy = make_policy(tiny_models.model(), made)
    assert policy.spec.stop_token_ids == (made.eos_token_id, end)
    [note] = policy.notes
    assert "ends a turn with '<end>', the tokenizer's eos is '<|eos|>'" in note
    sampling = SamplingConfig(max_new_tokens=60)
    keys = list(range(60))
    samples = generate(policy, [[5, 6, 7]] * 60, sampling=sampling, keys=keys)
    assert {sample.tokens[-1] for sample in samples if sample.finished} == {end, made.eos_token_id}
    assert policy.decode([40, end]) == policy.decode([40])
    for template in ("{{ messages[-1]['content'] }}", "{{ 'nothing' }}"):
        assert turn_end(tokenizer(template)) is None
    assert turn_end(tiny_models.tokenizer()) == 2
    assert make_policy(tiny_models.model(), tiny_models.tokenizer()).notes == ()


LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DEEP = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (LOOP, "not done after 1 seconds"),
        (DEEP, "not done after 1 seconds"),
        ("{% set x = 'a' * 10**10 %}{{ x | length }}", "takes too much memory"),
        ("{% set x = 9 ** (9 ** 9) %}", "not done after 1 seconds"),
        ("{{ 'a' * 5000000 }}", "makes 5000000 characters"),
    ],
)
def test_a_template_without_an_end_is_refused_before_it_is_used(template, said, monkeypatch):
    monkeypatch.setattr(templates, "SECONDS", 1)
    with pytest.raises(ConfigError, match=f"chat template must come to an end, but .*{said}"):
        encode_chat(tokenizer(template), [USER])


def test_one_that_runs_away_on_some_messages_only_is_stopped(monkeypatch):
    monkeypatch.setattr(templates, "SECONDS", 0.5)
    made = tokenizer("{% if 'wrote' in messages[0]['content'] %}" + LOOP + "{% endif %}x")
    assert render_chat(made, [Message("user", "Hello")]) == "x"
    begin = time.monotonic()
    with pytest.raises(ConfigError, match="takes too much time or memory"):
        render_chat(made, [USER])
    assert time.monotonic() - begin < 20
    seen = []
    thread = threading.Thread(
        target=lambda: seen.append(render_chat(made, [Message("user", "Hi")]))
    )
    thread.start()
    thread.join()
    assert seen == ["x"]  # elsewhere than in the main thread there is no alarm
    made = tokenizer("{{ messages[0]['content'] * 3000000 }}")
    with pytest.raises(ConfigError, match="characters"):
        render_chat(made, [USER])


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ self.__init__.__globals__ }}",
        "{{ lipsum.__globals__['os'].system('true') }}",
        "{{ ('%s' | format('x')).format.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    ],
)
def test_a_template_stays_in_its_sandbox(template):
    try:
        text = render_chat(tokenizer(template), [USER])
    except (ConfigError, DataError):
        return
    assert not any(leak in text for leak in ("root:", "class", "uid=", "built-in"))


def test_instruction_templates_with_generation_blocks_and_tools_work():
    made = tokenizer(
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}{{ m.content | tojson }}{% endif %}"
        "{% if loop.last %}{% break %}{% endif %}{% endfor %}{{ bos_token }}"
    )
    assert (
        render_chat(made, [USER, ANSWER]) == json.dumps(USER.content) + ANSWER.content + "<|bos|>"
    )


def test_a_policy_names_the_record_that_its_template_refuses():
    policy = make_policy(tiny_models.model(), tokenizer())
    records = [Prompt("a", (USER,)), Prompt("b", (SYSTEM, USER))]
    policy.check_chats(records[:1])
    with pytest.raises(DataError, match=r"^1 of 2 records, the first is 'b': .*System role"):
        policy.check_chats(records)
