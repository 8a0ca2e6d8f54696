//! A chat template and the messages it renders. Up to the first zero byte the input is JSON; what follows, if anything,
//! is a template of its own.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use asft::data::{ChatTemplate, PreferenceRow, Tokenizer};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart"));
    let found = Tokenizer::from_folder(folder).expect("the quickstart's tokenizer can be read");
    found.expect("the quickstart has a tokenizer")
});

fn compiled(source: &str) -> Option<ChatTemplate> {
    ChatTemplate::new(source.to_owned(), Path::new("chat_template.jinja"), &TOKENIZER).ok()
}

/// The shapes of published templates: headers per message, and a loop that looks back and refuses.
static KNOWN: LazyLock<[ChatTemplate; 2]> = LazyLock::new(|| {
    let chatml = "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content | trim }}\
                  {{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let strict = "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
                  {{ raise_exception('roles must alternate') }}{% endif %}{{ message['content'].strip().split('</think>')[-1] \
                  | tojson }}{{ eos_token }}{% endfor %}";
    [chatml, strict].map(|source| compiled(source).expect("a good template"))
});

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |&byte| byte == 0);
    let Some(messages) = parts.next().and_then(|json| serde_json::from_slice::<Value>(json).ok()) else { return };
    // The rows' own path to messages: nothing reaches a template that it refuses.
    let row = json!({ "prompt": messages, "chosen": messages, "rejected": messages });
    let Some(Ok(PreferenceRow::Conversation { prompt, .. })) = row.as_object().map(PreferenceRow::from_columns) else {
        return;
    };
    let messages: Vec<_> = prompt.iter().collect();
    let own = parts.next().and_then(|source| std::str::from_utf8(source).ok()).and_then(compiled);
    for template in KNOWN.iter().chain(&own) {
        for answering in [false, true] {
            let (first, again) = (template.render(&messages, answering), template.render(&messages, answering));
            assert_eq!(first, again, "a template has no memory");
        }
    }
});
