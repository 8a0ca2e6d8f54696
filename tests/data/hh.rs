//! HH-RLHF transcripts: where turns begin, and that nothing is lost between text and turns.

use asft::data::{Example, Message, hh};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{fixture::read, skip};

fn turns(text: &str) -> Option<Vec<(String, String)>> {
    let turn = |message: &Message| (message.role().to_owned(), message.content().into_owned());
    hh::parse(text).map(|messages| messages.iter().map(turn).collect())
}

fn expected(turns: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
    Some(turns.iter().map(|(role, words)| ((*role).to_owned(), (*words).to_owned())).collect())
}

#[test]
fn turns_begin_at_lines_after_a_blank_one() {
    assert_eq!(
        turns("\n\nHuman: hi\n\nAssistant: Hello!"),
        expected(&[("user", "hi"), ("assistant", "Hello!")])
    );
    // The words elsewhere are what somebody said.
    assert_eq!(
        turns("\n\nHuman: Is it Human: or\nAssistant: here?\n\nassistant: no\n\nAssistant:Yes\n\n"),
        expected(&[("user", "Is it Human: or\nAssistant: here?\n\nassistant: no"), ("assistant", "Yes")])
    );
    // A blank line alone separates nothing; a third line break belongs to nobody.
    assert_eq!(
        turns("\n\nHuman:  a\n\nb \n\n\nAssistant:\n\nc"),
        expected(&[("user", "a\n\nb"), ("assistant", "c")])
    );
}

#[test]
fn turns_of_one_role_are_joined() {
    assert_eq!(
        turns("\n\nHuman: a\n\nHuman: b\n\nAssistant:\n\nAssistant: c\n\nAssistant: "),
        expected(&[("user", "a\n\nb"), ("assistant", "c")])
    );
    assert_eq!(turns("\n\nAssistant: a\n\nHuman:"), expected(&[("assistant", "a"), ("user", "")]));
}

/// Found by fuzzing: behind a blank line, words that begin like a turn would be one when the transcript is written again.
#[test]
fn joined_words_begin_no_turn() {
    let text = "\n\nHuman: a\n\nHuman:\nHuman: b\n\nAssistant: c\n\nAssistant:Assistant: d";
    let expected = expected(&[("user", "a\nHuman: b"), ("assistant", "c\nAssistant: d")]);
    assert_eq!(turns(text), expected);
    let messages = hh::parse(text).unwrap();
    assert_eq!(turns(&hh::render(&messages.iter().collect::<Vec<_>>(), false)), expected);
}

#[test]
fn other_texts_are_no_transcripts() {
    for text in ["", "Human: a", "\nHuman: a", "x\n\nHuman: a\n\nAssistant: b", "\n\nhuman: a", "\n\nHuman a"]
    {
        assert_eq!(turns(text), None, "{text:?}");
    }
}

/// What somebody may say: no white space at its ends, no turn in it.
fn words() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[ -~é漢]{1,6}",
        Just("Human:".to_owned()),
        Just("\nAssistant:".to_owned()),
        Just("\n\n".to_owned()),
    ];
    let text = proptest::collection::vec(piece, 1..5).prop_map(|pieces| pieces.concat().trim().to_owned());
    text.prop_filter("no turn", |text| {
        !text.is_empty() && !text.contains("\n\nHuman:") && !text.contains("\n\nAssistant:")
    })
}

proptest! {
    #[test]
    fn a_transcript_has_the_turns_it_was_written_from(all in proptest::collection::vec(words(), 1..6), first in 0..2usize) {
        let roles = ["user", "assistant"];
        let messages: Vec<Message> =
            all.iter().enumerate().map(|(place, words)| Message::new(roles[(place + first) % 2], words)).collect();
        let borrowed: Vec<&Message> = messages.iter().collect();
        let text = hh::render(&borrowed, false);
        prop_assert_eq!(hh::parse(&text), Some(messages.clone()));
        // A prefix of the conversation is a prefix of its text, with the generation prompt too.
        for end in 0..messages.len() {
            prop_assert!(text.starts_with(&hh::render(&borrowed[..end], false)));
            if messages[end].is_answer() {
                prop_assert!(text.starts_with(&hh::render(&borrowed[..end], true)));
            }
        }
    }

    #[test]
    fn any_text_is_turns_or_none(text in "((\n{0,3}(Human|Assistant|human):? ?)|[ -~\n\u{a0}é🦙]{0,5}){0,8}") {
        if let Some(messages) = hh::parse(&text) {
            prop_assert!(!messages.is_empty());
            prop_assert!(messages.windows(2).all(|pair| pair[0].role() != pair[1].role()), "roles alternate");
            prop_assert!(messages.iter().all(|message| message.content() == message.content().trim()));
        } else {
            prop_assert!(!hh::is_transcript(&text));
        }
    }
}

/// TRL 1.16's `extract_prompt` of two strings: the characters of the prompt.
fn trl_prompt(chosen: &str, rejected: &str) -> usize {
    let (chosen, rejected): (Vec<char>, Vec<char>) = (chosen.chars().collect(), rejected.chars().collect());
    let shorter = chosen.len().min(rejected.len());
    let parted = (0..shorter).find(|at| chosen[*at] != rejected[*at]);
    match parted {
        Some(at) if at > 0 && chosen[at - 1] == ' ' => at - 1,
        Some(at) => at,
        None => shorter - 1,
    }
}

/// On Anthropic's rows, where they are found beside the repository: the prompt is whole messages, whereas the characters
/// that both texts begin with often run into the answers.
#[test]
fn real_transcripts_are_split_at_messages() {
    let Some(folder) = skip::outside("real_transcripts_are_split_at_messages", "ASFT_HH_DATA", "data") else {
        return;
    };
    let (mut rows, mut into_the_answer, mut parted_early) = (0, 0, 0);
    for name in ["hh-harmless.train.jsonl", "hh-harmless.test.jsonl"] {
        for line in std::fs::read_to_string(folder.join(name)).unwrap().lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let [chosen, rejected] = ["chosen", "rejected"].map(|name| row[name].as_str().unwrap());
            rows += 1;
            let example = read(&json!({"chosen": chosen, "rejected": rejected})).unwrap();
            let Example::Conversation(conversation) = example else { continue };
            let parts = &conversation.parts;
            let early = parts.answers.iter().any(|answer| answer.content.len() > 1);
            parted_early += usize::from(early);
            // Where the answer's own words begin, in the text as it is.
            let answer = chosen.rfind("\n\nAssistant:").unwrap() + "\n\nAssistant: ".len();
            let answer = chosen[..answer.min(chosen.len())].chars().count();
            into_the_answer += usize::from(!early && trl_prompt(chosen, rejected) > answer);
        }
    }
    println!(
        "{rows} rows: a character prefix ends inside the answer in {into_the_answer}; {parted_early} part early"
    );
    assert_eq!((rows, into_the_answer, parted_early), (2200, 421, 0));
}
