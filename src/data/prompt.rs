//! The prompt of a pair that is given without one: what its two answers begin with.
//!
//! TRL's `extract_prompt` takes the longest common prefix. Two differences, both because a prompt is what is answered:
//! it never takes the last message of either conversation, and it never ends inside a word.
//!
//! Boundary: where the prompt ends; nothing is rendered or encoded here.

use super::message::Message;

/// How many leading messages two conversations share, the last message of either never among them.
pub fn shared_messages(chosen: &[Message], rejected: &[Message]) -> usize {
    let most = chosen.len().min(rejected.len()).saturating_sub(1);
    chosen.iter().zip(rejected).take(most).take_while(|(chosen, rejected)| chosen == rejected).count()
}

/// The byte at which the prompt of two texts ends: the last white space in front of which they are equal, so that both
/// answers begin with white space, as a word in the middle of a text does. 0 where there is none.
pub fn shared_text(chosen: &str, rejected: &str) -> usize {
    let mut border = 0;
    for ((at, ours), theirs) in chosen.char_indices().zip(rejected.chars()) {
        if ours.is_whitespace() && theirs.is_whitespace() {
            border = at;
        }
        if ours != theirs {
            break;
        }
    }
    border
}

/// How many leading messages of a conversation are the prompt of its first answer: all before the assistant's first turn.
/// What the assistant says before anybody has spoken answers nobody, so it belongs to the prompt.
pub fn before_first_answer(messages: &[Message]) -> usize {
    let greeting = messages.iter().take_while(|message| message.is_answer()).count();
    let rest = &messages[greeting..];
    greeting + rest.iter().take_while(|message| !message.is_answer()).count()
}
