r"""VILA1.5's conversations as chat templates (Jinja), equal to what its own code joins together.

Both start with a fixed system text. They differ in the token that ends a message and in the header of an answer:

- ``llama_3``: from August 2024 on, so the one of ``Llama-3-VILA1.5-8b-Fix``. Messages end in ``<|eot_id|>``.
- ``llama_3_may_2024``: of the first release. Messages end in ``<|end_of_text|>`` and answers, too, have the header
  ``system``. `Llama-3-VILA1.5-8b` was probably trained under it.

In a message's content an image is ``<image>`` and a newline; texts follow as they are, with nothing between.
"""

from __future__ import annotations

SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
IMAGE = "<image>"
SEPARATORS = ("<|eot_id|>", "<|end_of_text|>")
"""What an answer may end in: inner messages were trained to end in the first, the last one in the second."""


def _template(separator: str, answers: str) -> str:
    def header(role: str) -> str:
        return f"{{{{ '<|start_header_id|>{role}<|end_header_id|>\\n\\n' }}}}"

    return (
        f"{{{{ '<|begin_of_text|>' }}}}{header('system')}{{{{ '{SYSTEM}{separator}' }}}}"
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}" + header("user") + "{% elif message['role'] == 'assistant' %}"
        f"{header(answers)}{{% else %}}{{{{ raise_exception('VILA has one system text, its own') }}}}{{% endif %}}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}{{ '" + IMAGE + "\\n' }}{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}"
        f"{{{{ '{separator}' }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{header(answers)}{{% endif %}}"
    )


TEMPLATES = {
    "llama_3": _template("<|eot_id|>", "assistant"),
    "llama_3_may_2024": _template("<|end_of_text|>", "system"),
}
