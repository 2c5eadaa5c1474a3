import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from zscir.llm.backend_protocol import LlmRequest
from zscir.llm.models import TransformersModel
from zscir.llm.open_backend import open_backend
from zscir.llm.prompt import load_prompt
from zscir.llm.retry_invalid import answer_all
from zscir.runtime.errors import RequestError
from zscir.runtime.settings import data_specs

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two small layers with a tokenizer trained on the prompt: it can only write garbage."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    text = (data_specs() / "triplets" / "prompts" / "pair.md").read_text()
    marks = ["<pad>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=500, special_tokens=marks, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, pad_token_id=0, eos_token_id=2, bos_token_id=None,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("llama")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def requests(count: int, long: str = "") -> list[LlmRequest]:
    prompt = load_prompt(data_specs() / "triplets" / "prompts" / "pair.md")
    made = []
    for number in range(count):
        messages = prompt.messages("a red cube", f"a blue cube {number}", None, 0)
        made.append(
            LlmRequest(
                f"id{number}",
                "a red cube",
                "a blue cube",
                None,
                (*messages[:-1], messages[-1] | {"content": messages[-1]["content"] + long}),
                0,
            )
        )
    return made


def model(**fields: object) -> TransformersModel:
    return TransformersModel.parse(
        {"backend": "transformers", "name": "tiny", "max_tokens": 12, "batch_size": 2} | fields, "test"
    )


def test_garbage_is_recorded_as_a_failure_of_each_row(folder: Path) -> None:
    replies = answer_all(open_backend(model(), folder), requests(3), resamples=1)
    assert [reply.request_id for reply in replies] == ["id0", "id1", "id2"]
    for reply in replies:
        assert reply.error is not None
        assert reply.error.partition(":")[0] in {"truncated", "invalid_answer"}
        assert reply.text is not None
        assert reply.attempts == 2
        assert reply.tokens_in is not None
        assert reply.tokens_in > 1000


def test_greedy_and_seeded_answers_repeat_and_another_seed_differs(folder: Path) -> None:
    greedy = [[reply.text for reply in open_backend(model(), folder).answer(requests(2))] for _ in range(2)]
    assert greedy[0] == greedy[1]
    before = torch.get_rng_state()
    backend = open_backend(model(temperature=1.5), folder)
    drawn = [[reply.text for reply in backend.answer(requests(2))] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert torch.equal(before, torch.get_rng_state())
    other = [LlmRequest(r.request_id, "", "", None, r.messages, 1) for r in requests(2)]
    assert [reply.text for reply in backend.answer(other)] != drawn[0]


def test_a_batch_gives_what_single_requests_give(folder: Path) -> None:
    together = list(open_backend(model(batch_size=3), folder).answer(requests(3)))
    alone = list(open_backend(model(batch_size=1), folder).answer(requests(3)))
    assert [reply.text for reply in together] == [reply.text for reply in alone]


def test_a_prompt_beyond_the_model_is_a_failure_of_that_row_alone(folder: Path) -> None:
    long, short = requests(1, long=" word" * 4000)[0], requests(2)[1]
    replies = list(open_backend(model(), folder).answer([long, short]))
    assert {reply.request_id: (reply.error or "").partition(":")[0] for reply in replies}["id0"] == "prompt_too_long"
    assert next(reply for reply in replies if reply.request_id == "id1").text is not None


def test_the_chat_template_is_used_with_and_without_a_system_role(folder: Path, tmp_path: Path) -> None:
    backend = open_backend(model(), folder)
    messages = [{"role": "system", "content": "rules"}, {"role": "user", "content": "ask"}]
    whole = backend.prompt(messages)
    assert whole == "<|im_start|>system\nrules<|im_end|>\n<|im_start|>user\nask<|im_end|>\n<|im_start|>assistant\n"
    backend.tokenizer.chat_template = NO_SYSTEM
    assert backend.prompt(messages) == "<|im_start|>user\nrules\n\nask<|im_end|>\n<|im_start|>assistant\n"
    backend.tokenizer.chat_template = None
    assert backend.prompt(messages) == "System: rules\n\nUser: ask\n\nAssistant:"


def test_a_folder_without_a_model_is_a_request_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not a causal language model"):
        open_backend(model(), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8}))
    with pytest.raises(RequestError, match="not a causal language model"):
        open_backend(model(), tmp_path)
    with pytest.raises(RequestError, match="needs the input 'weights'"):
        open_backend(model(), None)
