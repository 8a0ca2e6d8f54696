//! The rules of encoding one by one: BOS, EOS, splits, bounds, unusable rows, refused ones.

use asft::data::template_source::Origin;
use asft::data::{
    ChatTemplate, Conversation, EncodeConfig, Encoded, Encoder, Example, Group, Message, Notes, Parts,
    Reason, Role, TemplateText,
};

use crate::fixture::{bare_encoder, config, encoder, folder, tokenizer};

fn text(prompt: &str, chosen: &str, rejected: &str) -> Example {
    let [prompt, chosen, rejected] = [prompt, chosen, rejected].map(str::to_owned);
    Example::Text(Parts::new(prompt, chosen, Some(rejected)))
}

fn conversation(prompt: Vec<Message>, chosen: Vec<Message>, rejected: Vec<Message>) -> Example {
    Example::Conversation(Box::new(Conversation::new(Parts::new(prompt, chosen, Some(rejected)))))
}

fn chat(prompt: &str, chosen: &str, rejected: &str) -> Example {
    let message = |role, content: &str| vec![Message::new(role, content)];
    conversation(message("user", prompt), message("assistant", chosen), message("assistant", rejected))
}

fn tokens(prompt: &[u32], chosen: &[u32], rejected: &[u32]) -> Example {
    Example::Tokens(Parts::new(prompt.to_vec(), chosen.to_vec(), Some(rejected.to_vec())))
}

fn used(encoder: &Encoder, row: Example) -> (Group, Notes) {
    match encoder.encode(5, row).unwrap() {
        Encoded::Group(group, notes) => (group, notes),
        Encoded::Unusable(reason) => panic!("unusable: {reason}"),
    }
}

fn unusable(encoder: &Encoder, row: Example) -> Reason {
    match encoder.encode(0, row).unwrap() {
        Encoded::Group(group, _) => panic!("usable: {group:?}"),
        Encoded::Unusable(reason) => reason,
    }
}

fn answers(group: &Group) -> [&[u32]; 2] {
    [Role::Chosen, Role::Rejected].map(|role| group.answer(role).unwrap().ids.as_slice())
}

fn bounded(max_length: usize) -> EncodeConfig {
    EncodeConfig { max_length: Some(max_length), ..config() }
}

#[test]
fn plain_text_has_one_bos_and_one_eos() {
    let encoder = encoder("llama3", config());
    let id = |token| tokenizer().token_to_id(token).unwrap();
    let (bos, eos) = (id("<|begin_of_text|>"), id("<|eot_id|>"));
    for prompt in ["Hello", "<|begin_of_text|>Hello"] {
        let (group, _) = used(&encoder, text(prompt, " world", " world<|eot_id|>"));
        assert_eq!(group.row, 5);
        assert_eq!(group.prompt, [bos, id("Hello")]);
        let world = tokenizer().encode(" world").unwrap();
        for answer in answers(&group) {
            assert_eq!(answer, [world.as_slice(), &[eos]].concat());
        }
    }
    let (group, _) = used(&encoder, text("", "Hello", "world"));
    assert_eq!(group.prompt, [bos]);
}

#[test]
fn without_a_named_eos_the_models_ends_plain_text() {
    let copy = tempfile::TempDir::new().unwrap();
    std::fs::copy(folder().join("tokenizer.json"), copy.path().join("tokenizer.json")).unwrap();
    let encoder = |eos_ids| Encoder::from_folder(copy.path(), EncodeConfig { eos_ids, ..config() }).unwrap();
    let (group, _) = used(&encoder(vec![414, 415]), text("Hello", "a", "b"));
    for answer in answers(&group) {
        assert_eq!(answer.last(), Some(&414));
    }
    let refused = encoder(vec![]).encode(0, text("Hello", "a", "b")).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the row holds plain text, but neither the tokenizer nor the model names an end token (eos_token)"
    );
}

#[test]
fn a_conversation_gets_nothing_but_its_template() {
    let tokenizer = tokenizer();
    let (group, notes) = used(&encoder("llama3", config()), chat("Hello", " world ", "x"));
    let prompt = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>\
                  <|start_header_id|>assistant<|end_header_id|>\n\n";
    assert_eq!(tokenizer.decode(&group.prompt, false).unwrap(), prompt);
    let [chosen, rejected] = answers(&group).map(|ids| tokenizer.decode(ids, false).unwrap());
    assert_eq!((chosen.as_str(), rejected.as_str()), ("world<|eot_id|>", "x<|eot_id|>"));
    assert_eq!(group.prompt.iter().filter(|id| Some(**id) == tokenizer.bos_id()).count(), 1);
    assert_eq!(notes, Notes::default());
}

#[test]
fn a_split_inside_a_token_moves_back_for_both_answers() {
    // "Assistant: " ends with a space, which merges with "the" but not with "12".
    let tokenizer = tokenizer();
    let (group, notes) = used(&encoder("merging", config()), chat("Hello", "the dog", "12"));
    assert!(notes.moved_split);
    let text = |ids: &[u32]| tokenizer.decode(ids, false).unwrap();
    assert_eq!(text(&group.prompt), "<|begin_of_text|>User: Hello\nAssistant:");
    let [chosen, rejected] = answers(&group);
    assert_eq!((text(chosen), text(rejected)), (" the dog<|eot_id|>".into(), " 12<|eot_id|>".into()));
    assert_eq!(chosen[0], tokenizer.encode(" the").unwrap()[0]);
    // Where neither answer merges, nothing moves.
    let (group, notes) = used(&encoder("merging", config()), chat("Hello", "12", "3"));
    assert!(!notes.moved_split);
    assert_eq!(text(&group.prompt), "<|begin_of_text|>User: Hello\nAssistant: ");
}

#[test]
fn texts_are_kept_on_request() {
    let row = || chat("Hello", "The quick brown fox", "x");
    let (whole, _) = used(&encoder("llama3", config()), row());
    assert!(whole.answers.iter().all(|answer| answer.text.is_none()));
    let keep = EncodeConfig { keep_text: true, ..bounded(whole.prompt.len() + 2) };
    let (group, notes) = used(&encoder("llama3", keep), row());
    assert_eq!(notes.truncated, 1, "the text is kept whole where the tokens are cut");
    let texts: Vec<_> = group.answers.iter().map(|answer| answer.text.as_deref().unwrap()).collect();
    assert_eq!(texts, ["The quick brown fox<|eot_id|>", "x<|eot_id|>"]);
}

#[test]
fn token_ids_are_used_as_they_are() {
    let row = || tokens(&[3, 9, 3], &[1], &[4, 419, 4]);
    for encoder in [bare_encoder(config()), encoder("llama3", config())] {
        let (group, notes) = used(&encoder, row());
        assert_eq!(group.prompt, [3, 9, 3]);
        assert_eq!(answers(&group), [&[1][..], &[4, 419, 4]]);
        assert_eq!(notes, Notes::default());
    }
    let (_, notes) = used(&bare_encoder(config()), tokens(&[1], &[2, 3], &[2, 3]));
    assert!(notes.identical);
}

#[test]
fn ids_beyond_the_vocabulary_are_refused() {
    let refused = |row| bare_encoder(config()).encode(0, row).unwrap_err().to_string();
    assert_eq!(
        refused(tokens(&[1], &[1, 2, 420], &[1])),
        "column \"chosen\" has token id 420 at position 2, \
         but the model's vocabulary has 420 tokens (0 to 419)"
    );
    assert_eq!(
        refused(tokens(&[1], &[1], &[u32::MAX])),
        "column \"rejected\" has token id 4294967295 at position 0, \
         but the model's vocabulary has 420 tokens (0 to 419)"
    );
    // A tokenizer larger than the model is the same mistake.
    let small = EncodeConfig { vocab_size: 413, ..config() };
    let error = encoder("llama3", small).encode(0, text("Hello", "a", "b")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "column \"prompt\" has token id 413 at position 0, but the model's vocabulary has 413 tokens (0 to 412)"
    );
}

#[test]
fn max_length_bounds_prompt_and_each_answer() {
    let end = EncodeConfig { eos_ids: vec![2], ..bounded(6) };
    let encoder = bare_encoder(end);
    // Nothing to cut: exactly six.
    let (_, notes) = used(&encoder, tokens(&[1, 5, 6], &[7, 8, 2], &[7]));
    assert_eq!((notes.truncated, notes.lost_end), (0, 0));
    // Both cut from the end; only the chosen one had an end token in what was cut.
    let (group, notes) = used(&encoder, tokens(&[1, 5, 6], &[7, 8, 9, 2], &[7, 2, 9, 9]));
    assert_eq!(answers(&group), [&[7, 8, 9][..], &[7, 2, 9]]);
    assert_eq!((notes.truncated, notes.lost_end), (2, 1));
    // What follows the last end token is no loss: `<|im_end|>\n` cut to `<|im_end|>`.
    let (group, notes) = used(&encoder, tokens(&[1, 5, 6], &[7, 8, 2, 10], &[7]));
    assert_eq!(answers(&group)[0], [7, 8, 2]);
    assert_eq!((notes.truncated, notes.lost_end), (1, 0));
    assert_eq!(unusable(&encoder, tokens(&[1; 6], &[7], &[7])), Reason::PromptTooLong);
    let (group, _) = used(&encoder, tokens(&[1; 5], &[7, 2], &[8, 2]));
    assert_eq!(answers(&group), [&[7][..], &[8]]);
}

#[test]
fn a_cut_answer_loses_the_templates_end_of_turn() {
    // The tokenizer's EOS is <|eot_id|>, ChatML's end of turn another special token.
    let row = || chat("Hello", "The quick brown fox", "The quick brown fox");
    let (whole, _) = used(&encoder("chatml", config()), row());
    let length = whole.prompt.len() + whole.answers[0].ids.len();
    let (_, notes) = used(&encoder("chatml", bounded(length - 1)), row());
    assert_eq!((notes.truncated, notes.lost_end), (2, 0), "only the newline after <|im_end|> is cut");
    let (_, notes) = used(&encoder("chatml", bounded(length - 2)), row());
    assert_eq!((notes.truncated, notes.lost_end), (2, 2));
    // A cut plain-text answer gets no EOS back.
    let (group, notes) = used(&encoder("llama3", bounded(4)), text("Hello", " The quick brown fox", "a"));
    assert_eq!((group.prompt.len(), answers(&group)[0].len()), (2, 2));
    assert_ne!(answers(&group)[0].last(), Some(&tokenizer().eos_id().unwrap()));
    assert_eq!((notes.truncated, notes.lost_end), (1, 1));
}

#[test]
fn unusable_rows_say_why() {
    let encoder = encoder("llama3", config());
    let said = |row| unusable(&encoder, row).to_string();
    assert_eq!(said(text("p", "", "r")), "empty chosen");
    assert_eq!(said(text("p", "c", "")), "empty rejected");
    assert_eq!(said(chat("p", "", "r")), "empty chosen");
    assert_eq!(said(chat("p", "c", "")), "empty rejected");
    assert_eq!(said(tokens(&[1], &[], &[1])), "empty chosen");
    assert_eq!(said(tokens(&[], &[1], &[1])), "empty prompt");
    let message = vec![Message::new("assistant", "x")];
    assert_eq!(said(conversation(vec![], message.clone(), message)), "empty prompt");
    let turns = |roles: &[&str]| roles.iter().map(|role| Message::new(role, "x")).collect::<Vec<_>>();
    let open = conversation(turns(&["user"]), turns(&["assistant"]), turns(&["assistant", "user"]));
    assert_eq!(said(open), "not a conversation: the last turn of rejected is not the assistant's");
}

#[test]
fn a_template_that_hides_the_answer_leaves_no_response() {
    let tokenizer = tokenizer();
    let source =
        "{{ messages[0].content }}{% if messages[1] and messages[1].content == 'shown' %}!{% endif %}";
    let text = TemplateText { source: source.to_owned(), origin: Origin::File("x.jinja".into()) };
    let template = ChatTemplate::new(text, &tokenizer, None).unwrap();
    let encoder = Encoder::new(Some(tokenizer), Some(template), config());
    assert_eq!(unusable(&encoder, chat("Hello", "hidden", "shown")), Reason::NoResponseToken(Role::Chosen));
    assert_eq!(unusable(&encoder, chat("Hello", "shown", "hidden")), Reason::NoResponseToken(Role::Rejected));
    assert_eq!(Reason::NoResponseToken(Role::Chosen).to_string(), "no response token left in chosen");
}

#[test]
fn rows_that_need_what_the_folder_lacks_are_refused() {
    let refused = |encoder: &Encoder, row| encoder.encode(0, row).unwrap_err().to_string();
    assert_eq!(
        refused(&bare_encoder(config()), text("p", "c", "r")),
        "the row holds text, but the model folder has no tokenizer.json (rows of *_input_ids need none)"
    );
    let no_template = Encoder::new(Some(tokenizer()), None, config());
    assert_eq!(
        refused(&no_template, chat("p", "c", "r")),
        "the row holds a conversation, but the model folder has no chat template \
         (chat_template.jinja, or chat_template in tokenizer_config.json); \
         give one with --chat-template: llama3, chatml or a file"
    );
    let user = Message::new("user", "a");
    let answer = vec![Message::new("assistant", "b")];
    let twice = conversation(vec![user.clone(), user], answer.clone(), answer);
    assert_eq!(
        refused(&encoder("instruct", config()), twice),
        "the chat template refuses column \"prompt\": Conversation roles must alternate user/assistant/user/assistant/... \
         (line 4 of the template)"
    );
}
