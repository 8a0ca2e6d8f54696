//! A chat template and the messages it renders. Up to the first zero byte the input is a JSON list of
//! `[role, content]`; what follows, if anything, is a template of its own.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use asft::data::template_source::Origin;
use asft::data::{BuiltIn, ChatTemplate, Message, TemplateText, Tokenizer};
use libfuzzer_sys::fuzz_target;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart"));
    let found = Tokenizer::from_folder(folder).expect("the quickstart's tokenizer can be read");
    found.expect("the quickstart has a tokenizer")
});

fn compiled(source: &str) -> Option<ChatTemplate> {
    let text = TemplateText { source: source.to_owned(), origin: Origin::File("chat_template.jinja".into()) };
    ChatTemplate::new(text, &TOKENIZER, None).ok()
}

/// Those that come with the program, and one that looks back, refuses, and calls methods.
static KNOWN: LazyLock<Vec<ChatTemplate>> = LazyLock::new(|| {
    let strict = "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
                  {{ raise_exception('roles must alternate') }}{% endif %}{{ message['content'].strip().split('</think>')[-1] \
                  | tojson }}{{ eos_token }}{% endfor %}";
    let sources = BuiltIn::ALL.map(BuiltIn::source).into_iter().chain([strict]);
    sources.map(|source| compiled(source).expect("a good template")).collect()
});

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |&byte| byte == 0);
    // A conversation that a row could hold: nothing reaches a template that rows refuse.
    let turns = parts.next().and_then(|json| serde_json::from_slice::<Vec<[String; 2]>>(json).ok());
    let Some(turns) = turns else { return };
    let messages: Vec<Message> = turns.iter().map(|[role, content]| Message::new(role, content)).collect();
    let messages: Vec<&Message> = messages.iter().collect();
    let own = parts.next().and_then(|source| std::str::from_utf8(source).ok()).and_then(compiled);
    for template in KNOWN.iter().chain(&own) {
        for answering in [false, true] {
            let (first, again) = (template.render(&messages, answering), template.render(&messages, answering));
            assert_eq!(first, again, "a template has no memory");
        }
    }
});
